//! One core's memory for bodies: blocks of 512 B to 2 MiB out of one anonymous mapping with huge pages.
//!
//! The core's owner allocates; anybody drops. A dropped block goes on the lock-free stack of `memory.rs`, so dropping never allocates, waits
//! or touches the owner's tables; the owner takes the stack back when it allocates or is idle. Until then the bytes are charged as limbo.
//!
//! Invariants: every byte that the kernel may have given is charged to the budget: to `payload` while a block lives, to `limbo` until
//! it is taken back, and to `arena_free` until another block uses it or it is given up (`residence.rs`); a block's bytes are reached by
//! its owner only; the mapping lives as long as the last block.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::memory::{Link, Memory};
use super::residence::Residence;
use crate::atomics::Ordering;
use crate::buddy::{Buddy, Fit, Span};
use crate::budget::{Budget, Charge, Purpose};
use crate::limits::{
    ARENA_LEN_MAX, BLOCK_LEN_MAX, BLOCK_LEN_MIN, DRAIN_COUNT_PER_ALLOCATION, DRAIN_COUNT_UNDER_PRESSURE,
    GIVE_UP_LEN_MIN,
};

/// The owner's handle of an arena; clones stay on the owner's thread.
#[derive(Clone, Debug)]
pub struct Arena {
    pub(super) owner: Rc<Owner>,
}

/// What only the owner's thread touches.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) buddy: RefCell<Buddy>,
    /// Which of the opened units the kernel has back.
    pub(super) residence: RefCell<Residence>,
    /// Returned spans that were taken from the stack but not freed yet.
    pending: Cell<Link>,
    /// Bytes of bodies whose writer has not ended them.
    filling: Cell<u64>,
    pub(super) memory: Arc<Memory>,
    _tables: Charge,
}

impl Drop for Owner {
    fn drop(&mut self) {
        let free = self.buddy.get_mut().free_units() * BLOCK_LEN_MIN as u64;
        self.memory.budget.give(Purpose::ArenaFree, free);
    }
}

impl Arena {
    /// Maps `capacity` bytes, rounded up to whole 2 MiB regions; the kernel gives pages when they are first touched.
    ///
    /// The tables of the regions, 0.06 % of the capacity, are charged at once, the rest as the kernel gives it. Fails when the kernel or
    /// the budget refuses.
    pub fn new(capacity: usize, budget: Arc<Budget>) -> io::Result<Arena> {
        if capacity == 0 || capacity > ARENA_LEN_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an arena is 1 byte to 2 TiB"));
        }
        let region_count = capacity.div_ceil(BLOCK_LEN_MAX);
        let tables =
            budget.reserve(Purpose::Index, Buddy::table_len(region_count) as u64).ok_or_else(|| {
                io::Error::new(io::ErrorKind::OutOfMemory, "the limit is too small for the arena's tables")
            })?;
        let memory = Memory::map(region_count * BLOCK_LEN_MAX, budget)?;
        Ok(Arena {
            owner: Rc::new(Owner {
                buddy: RefCell::new(Buddy::new(region_count)),
                residence: RefCell::default(),
                pending: Cell::new(Link::NONE),
                filling: Cell::new(0),
                memory: Arc::new(memory),
                _tables: tables,
            }),
        })
    }

    /// Returns a block of at least `len` bytes side by side, 1 B to 2 MiB, or `None` when budget or arena have no room.
    pub fn allocate(&self, len: usize) -> Option<Block> {
        let span = self.take(len, Fit::Whole)?;
        Some(Block { memory: Arc::clone(&self.owner.memory), span })
    }

    /// Takes back at most `count_max` blocks that were dropped and returns how many bytes that freed.
    pub fn drain(&self, count_max: usize) -> u64 {
        let owner = &*self.owner;
        let mut link = owner.pending.get();
        if link.is_none() {
            link = owner.memory.take_returned();
        }
        let mut freed = 0;
        let mut buddy = owner.buddy.borrow_mut();
        for _ in 0..count_max {
            let Some((span, next)) = owner.memory.read_returned(link) else { break };
            buddy.free(span);
            freed += span.len() as u64;
            link = next;
        }
        owner.pending.set(link);
        if freed > 0 {
            owner.memory.limbo.fetch_sub(freed, Ordering::Relaxed);
            self.budget().convert(Purpose::Limbo, Purpose::ArenaFree, freed);
        }
        freed
    }

    /// Returns how many bytes could be taken by blocks, were the budget without end.
    pub fn free_len(&self) -> u64 {
        self.capacity() - self.out_len()
    }

    /// Returns how many bytes could be taken by blocks as the budget is now.
    pub fn obtainable_len(&self) -> u64 {
        self.reachable_len() - self.out_len()
    }

    /// Returns how many bytes blocks could hold altogether as the budget is now.
    pub fn reachable_len(&self) -> u64 {
        let more = self.budget().available_for_content() & !(GIVE_UP_LEN_MIN as u64 - 1);
        (self.resident_len() + more).min(self.capacity())
    }

    /// Returns how many bytes the kernel may have given, at most: those of blocks, of limbo, and free ones.
    pub fn resident_len(&self) -> u64 {
        let opened = self.owner.buddy.borrow().opened_units();
        (opened - self.owner.residence.borrow().away_units()) * BLOCK_LEN_MIN as u64
    }

    /// Returns how many bytes the kernel gave that no block uses.
    pub fn resident_free_len(&self) -> u64 {
        self.owner.buddy.borrow().free_units() * BLOCK_LEN_MIN as u64
    }

    /// Returns how many bytes are not free: those of blocks and of limbo.
    fn out_len(&self) -> u64 {
        self.resident_len() - self.resident_free_len()
    }

    /// Returns the size of the mapping.
    pub fn capacity(&self) -> u64 {
        self.owner.memory.len as u64
    }

    /// Returns how many bytes were dropped and not yet taken back.
    pub fn limbo_len(&self) -> u64 {
        self.owner.memory.limbo.load(Ordering::Relaxed)
    }

    /// Returns how many bytes are held by bodies that are still being filled.
    pub fn filling_len(&self) -> u64 {
        self.owner.filling.get()
    }

    /// Returns how many bytes are held by anybody: blocks and bodies, filling or not, but not what was dropped.
    pub fn held_len(&self) -> u64 {
        // What is dropped just now is counted as limbo before it is on the stack, so the difference is never too large.
        self.out_len().saturating_sub(self.limbo_len())
    }

    /// Returns the budget that blocks are charged to.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.owner.memory.budget
    }

    /// Takes a charged span of `len` bytes rounded up to units; after draining if there is no room otherwise.
    pub(super) fn take(&self, len: usize, fit: Fit) -> Option<Span> {
        if len == 0 || len > BLOCK_LEN_MAX {
            return None;
        }
        let units = len.div_ceil(BLOCK_LEN_MIN) as u32;
        self.drain(DRAIN_COUNT_PER_ALLOCATION);
        if let Some(span) = self.take_charged(units, fit) {
            return Some(span);
        }
        if self.drain(DRAIN_COUNT_UNDER_PRESSURE) == 0 {
            return None;
        }
        self.take_charged(units, fit)
    }

    /// Takes from what is resident and free, else has more of it; a part is as large as arena and budget allow.
    fn take_charged(&self, units: u32, fit: Fit) -> Option<Span> {
        let mut buddy = self.owner.buddy.borrow_mut();
        let span = match buddy.take(units, Fit::Whole) {
            Some(span) => span,
            None => {
                self.bring(&mut buddy, units);
                buddy.take(units, fit)?
            }
        };
        self.budget().convert(Purpose::ArenaFree, Purpose::Payload, span.len() as u64);
        Some(span)
    }

    /// Frees a span, or a part of one, that nobody else can reach; on the owner's thread there is no need for the stack.
    pub(super) fn free(&self, span: Span) {
        self.owner.buddy.borrow_mut().free(span);
        self.budget().convert(Purpose::Payload, Purpose::ArenaFree, span.len() as u64);
    }

    /// Takes the units that hold `range` out of a block and frees its others.
    ///
    /// # Panics
    /// If the block is another arena's or `range` is none of its: the units would be somebody else's.
    pub(super) fn cut(&self, mut block: Block, range: &Range<usize>) -> Span {
        let is_inside = range.start < range.end && range.end <= block.span.len();
        assert!(is_inside && self.lent(&block), "a block is cut by its own arena");
        // What is left of it owns nothing.
        let whole = std::mem::replace(&mut block.span, Span { unit: 0, units: 0 });
        let first = (range.start / BLOCK_LEN_MIN) as u32;
        let end = range.end.div_ceil(BLOCK_LEN_MIN) as u32;
        let others = [(whole.unit, first), (whole.unit + end, whole.units - end)];
        for (unit, units) in others.into_iter().filter(|(_, units)| *units > 0) {
            self.free(Span { unit, units });
        }
        Span { unit: whole.unit + first, units: end - first }
    }

    /// Tells whether a block is of this arena.
    pub(super) fn lent(&self, block: &Block) -> bool {
        Arc::ptr_eq(&block.memory, &self.owner.memory)
    }

    /// Counts a block that a body's writer took.
    pub(super) fn note_filling(&self, len: u64) {
        self.owner.filling.set(self.owner.filling.get() + len);
    }

    /// Counts the blocks of a body whose writer ended it.
    pub(super) fn note_filled(&self, len: u64) {
        self.owner.filling.set(self.owner.filling.get() - len);
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.owner.memory
    }
}

/// Bytes of an arena with one owner; dropping it on any thread gives them back.
#[derive(Debug)]
pub struct Block {
    memory: Arc<Memory>,
    span: Span,
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.memory.watch_read(self.memory.pointer(self.span.unit), self.span.len());
        // JUSTIFICATION: blocks of many owners lie in one mapping, so no safe borrow of it can be split between them.
        // SAFETY: the span's bytes are mapped, initialised (anonymous memory begins as zeros) and this block's alone.
        // - Alive: `memory` keeps the mapping; the span is given back only by this block's drop.
        // - Unaliased: the buddy gives a unit to one span at a time, and `&self` forbids `as_mut` meanwhile.
        // Test: `blocks_do_not_overlap`.
        unsafe { std::slice::from_raw_parts(self.memory.pointer(self.span.unit), self.span.len()) }
    }
}

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        self.memory.watch_write(self.memory.pointer(self.span.unit), self.span.len());
        // JUSTIFICATION and SAFETY: as for `as_ref`; `&mut self` makes this the only borrow of the only owner.
        // Test: `blocks_do_not_overlap`.
        unsafe { std::slice::from_raw_parts_mut(self.memory.pointer(self.span.unit), self.span.len()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // A body took the units over.
        if self.span.units == 0 {
            return;
        }
        // SAFETY: the span is this block's alone, no borrow of it outlives the block, and it is not used again.
        // Test: `blocks_dropped_on_many_threads_all_come_back`.
        unsafe { self.memory.give_back(std::iter::once(self.span)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn arena(capacity: usize) -> (Arena, Arc<Budget>) {
        let budget = Budget::new(64 * MIB as u64);
        (Arena::new(capacity, Arc::clone(&budget)).unwrap(), budget)
    }

    #[test]
    fn blocks_do_not_overlap() {
        let (arena, budget) = arena(4 * MIB);
        let mut blocks: Vec<Block> = Vec::new();
        for (number, len) in [1, 512, 513, 100_000, BLOCK_LEN_MAX, 4096, 700_000].into_iter().enumerate() {
            let mut block = arena.allocate(len).unwrap();
            assert_eq!(block.as_ref().len(), len.next_multiple_of(BLOCK_LEN_MIN));
            assert!(block.as_ref().iter().all(|byte| *byte == 0), "fresh memory is zero");
            block.as_mut().fill(number as u8 + 1);
            blocks.push(block);
        }
        for (number, block) in blocks.iter().enumerate() {
            assert!(block.as_ref().iter().all(|byte| *byte == number as u8 + 1));
        }
        let out: u64 = blocks.iter().map(|block| block.as_ref().len() as u64).sum();
        assert_eq!(budget.used(Purpose::Payload), out);
        assert_eq!(arena.free_len(), arena.capacity() - out);
        assert_eq!(budget.used(Purpose::ArenaFree), arena.resident_len() - out);
    }

    #[test]
    fn blocks_are_aligned_to_their_size_up_to_a_huge_page() {
        let (arena, _budget) = arena(4 * MIB);
        let held: Vec<Block> =
            [600, 5000, BLOCK_LEN_MAX].into_iter().map(|len| arena.allocate(len).unwrap()).collect();
        for block in &held {
            assert_eq!(block.as_ref().as_ptr() as usize % block.as_ref().len().next_power_of_two(), 0);
        }
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        let (arena, _budget) = arena(4 * MIB);
        assert!(arena.allocate(0).is_none());
        assert!(arena.allocate(BLOCK_LEN_MAX + 1).is_none());
        assert!(Arena::new(0, Budget::new(1)).is_err());
        assert!(Arena::new(ARENA_LEN_MAX + 1, Budget::new(u64::MAX)).is_err());
        assert_eq!(Arena::new(MIB, Budget::new(10)).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }

    #[test]
    fn a_dropped_block_is_limbo_until_the_owner_takes_it_back() {
        let (arena, budget) = arena(2 * MIB);
        let tables = budget.used_total();
        let block = arena.allocate(1000).unwrap();
        assert_eq!((budget.used(Purpose::Payload), budget.used(Purpose::Limbo)), (1024, 0));
        let taken = budget.used_total();
        assert_eq!(taken, tables + 2 * MIB as u64, "the kernel gives a huge page at once");
        drop(block);
        assert_eq!((budget.used(Purpose::Payload), budget.used(Purpose::Limbo)), (0, 1024));
        assert_eq!((arena.limbo_len(), budget.used_total()), (1024, taken));
        assert_eq!(arena.drain(10), 1024);
        assert_eq!((arena.limbo_len(), budget.used_total()), (0, taken));
        assert_eq!(arena.free_len(), arena.capacity());
        assert_eq!(budget.used(Purpose::ArenaFree), 2 * MIB as u64);
    }

    #[test]
    fn draining_stops_at_its_bound_and_goes_on_later() {
        let (arena, budget) = arena(2 * MIB);
        let blocks: Vec<Block> = (0..10).map(|_| arena.allocate(512).unwrap()).collect();
        drop(blocks);
        assert_eq!(arena.drain(4), 4 * 512);
        assert_eq!(budget.used(Purpose::Limbo), 6 * 512);
        assert_eq!(arena.drain(100), 6 * 512);
        assert_eq!(arena.drain(100), 0);
    }

    #[test]
    fn allocation_takes_back_more_than_usual_before_it_fails() {
        let (arena, _budget) = arena(2 * MIB);
        let blocks: Vec<Block> = (0..4096).map(|_| arena.allocate(512).unwrap()).collect();
        assert!(arena.allocate(512).is_none());
        drop(blocks);
        assert!(arena.allocate(BLOCK_LEN_MAX).is_some());
    }

    #[test]
    fn the_budget_stops_an_arena_that_still_has_room() {
        let budget = Budget::new(Buddy::table_len(1) as u64 + 4096);
        let arena = Arena::new(2 * MIB, Arc::clone(&budget)).unwrap();
        let held = arena.allocate(4096).unwrap();
        assert!(arena.allocate(1).is_none());
        assert_eq!(arena.free_len(), arena.capacity() - 4096);
        drop(held);
        assert!(arena.allocate(1).is_some());
    }

    #[test]
    fn blocks_outlive_their_arena() {
        let (arena, budget) = arena(2 * MIB);
        let mut block = arena.allocate(1000).unwrap();
        let returned = arena.allocate(1000).unwrap();
        drop(returned);
        drop(arena);
        block.as_mut().fill(7);
        assert!(block.as_ref().iter().all(|byte| *byte == 7));
        drop(block);
        assert_eq!(budget.used_total(), 0);
    }

    #[test]
    fn blocks_dropped_on_many_threads_all_come_back() {
        let (arena, budget) = arena(8 * MIB);
        let tables = budget.used_total();
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..3).map(|_| std::sync::mpsc::sync_channel::<Block>(64)).unzip();
        std::thread::scope(|scope| {
            for receiver in receivers {
                scope.spawn(move || {
                    for block in receiver {
                        let mark = block.as_ref()[0];
                        assert!(
                            block.as_ref().iter().all(|byte| *byte == mark),
                            "a block was reused too early"
                        );
                    }
                });
            }
            for step in 0..20_000usize {
                let len = 1 + (step * 7919) % 9_000;
                let mut block = loop {
                    if let Some(block) = arena.allocate(len) {
                        break block;
                    }
                    std::thread::yield_now();
                };
                block.as_mut().fill(step as u8);
                senders[step % 3].send(block).unwrap();
            }
            drop(senders);
        });
        while arena.drain(100) > 0 {}
        let free = budget.used(Purpose::ArenaFree);
        assert_eq!((budget.used_total() - free, arena.limbo_len()), (tables, 0));
        assert_eq!(arena.free_len(), arena.capacity());
        assert!(arena.allocate(BLOCK_LEN_MAX).is_some(), "all merged back");
    }
}
