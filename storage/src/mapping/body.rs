//! The bytes of one response: written once from front to back by one writer, read from any core meanwhile and afterwards.
//!
//! The owner's fill makes a [`BodyWriter`], receives straight into a [`Tail`] or appends, and says how it ended. Readers hold
//! the `Arc<Body>` and ask for the longest piece at their position. Nobody waits here: who wakes readers is the shard's business.
//!
//! ```text
//! Filling ── complete ──> Complete      a declared length that does not match makes it Failed
//!    ├────── hand_over ──> Continued     the rest reaches readers on another way
//!    └────── fail, drop ─> Failed
//! ```
//!
//! Invariants: published bytes never change; the published length never falls; a state other than Filling is final and comes
//! after the last publication; blocks are filled without gaps, so only the last one is partly used, and completion gives its
//! unused units back.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use super::arena::{Arena, Block};
use super::memory::Memory;
use super::prefetch::prefetch;
use crate::atomics::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::buddy::{Fit, Span};
use crate::budget::{Charge, Purpose};
use crate::limits::{
    BLOCK_LEN_MAX, BLOCK_LEN_MIN, BODY_BLOCKS_CHUNK_FIRST, BODY_BLOCKS_INLINE, BODY_BLOCKS_MAX,
    BODY_CHUNK_COUNT, FILL_BLOCK_LEN_FIRST,
};

/// How far a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BodyState {
    /// More may come.
    Filling = 0,
    /// All is there.
    Complete = 1,
    /// Nothing more comes, and what is there is not the whole.
    Failed = 2,
    /// Nothing more comes here, and what is there is not the whole: the rest goes to readers on another way.
    Continued = 3,
}

/// A state and a length that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How far the body is.
    pub state: BodyState,
    /// Bytes that can be read; final unless the state is `Filling`.
    pub len: u64,
}

/// An append-only body, shared by its writer and any number of readers on any core.
#[derive(Debug)]
pub struct Body {
    memory: Arc<Memory>,
    /// The length that was declared before the first byte came.
    declared: Option<u64>,
    /// Bytes that readers may read. Stored with Release after they and their slots were written.
    published: AtomicU64,
    state: AtomicU8,
    /// Set while a tail is out, so that there is one at most.
    lent: AtomicBool,
    slot_count: AtomicU32,
    /// Under which number its slices are on disk; 0 if none is.
    write_id: AtomicU64,
    /// Bytes of the first unit that are before the body's first: none but where it was made of a block that was read into.
    lead: u32,
    first: [Slot; BODY_BLOCKS_INLINE],
    /// The slots that do not fit in `first`.
    more: OnceLock<Box<Directory>>,
}

/// One block of a body. Atomics because readers look while the writer adds; the order comes from `published`.
#[derive(Debug, Default)]
struct Slot {
    /// The block's first unit in the arena.
    unit: AtomicU32,
    /// How many units of the body end with this block.
    end: AtomicU32,
}

/// Slots beyond the first few, in chunks that double and never move, so that readers need no lock while it grows.
#[derive(Debug, Default)]
struct Directory {
    chunks: [OnceLock<Chunk>; BODY_CHUNK_COUNT],
}

#[derive(Debug)]
struct Chunk {
    slots: Box<[Slot]>,
    _charge: Charge,
}

impl Body {
    /// Makes an empty body and its only writer; `length` is the declared length, if there is one.
    ///
    /// The length decides how blocks are chosen, and a body of another length does not complete.
    pub fn writer(arena: &Arena, length: Option<u64>) -> BodyWriter {
        let body = Arc::new(Body {
            memory: Arc::clone(arena.memory()),
            declared: length,
            published: AtomicU64::new(0),
            state: AtomicU8::new(BodyState::Filling as u8),
            lent: AtomicBool::new(false),
            slot_count: AtomicU32::new(0),
            write_id: AtomicU64::new(0),
            lead: 0,
            first: Default::default(),
            more: OnceLock::new(),
        });
        BodyWriter { body, arena: arena.clone(), current: 0 }
    }

    /// Makes a complete body of the bytes of a block in `range`, without a copy; the units that hold none of them are given back.
    ///
    /// # Panics
    /// If the block is another arena's, or `range` is empty or goes on behind it.
    pub fn of_block(arena: &Arena, block: Block, range: Range<usize>) -> Arc<Body> {
        let span = arena.cut(block, &range);
        let len = range.len() as u64;
        let first: [Slot; BODY_BLOCKS_INLINE] = Default::default();
        first[0].unit.store(span.unit, Ordering::Relaxed);
        first[0].end.store(span.units, Ordering::Relaxed);
        Arc::new(Body {
            memory: Arc::clone(arena.memory()),
            declared: Some(len),
            published: AtomicU64::new(len),
            state: AtomicU8::new(BodyState::Complete as u8),
            lent: AtomicBool::new(false),
            slot_count: AtomicU32::new(1),
            write_id: AtomicU64::new(0),
            lead: (range.start % BLOCK_LEN_MIN) as u32,
            first,
            more: OnceLock::new(),
        })
    }

    /// Returns the longest run of published bytes that lie side by side from byte `at`; empty at the end of what is there.
    pub fn piece(&self, at: u64) -> &[u8] {
        // Acquire: pairs with the writer's Release, so all below, bytes, slots and their count, is seen as written.
        let published = self.published.load(Ordering::Acquire);
        if at >= published {
            return &[];
        }
        // From here on counted from the beginning of the first unit.
        let (at, published) = (at + u64::from(self.lead), published + u64::from(self.lead));
        let (slot, start) = self.slot_at(at);
        let end = u64::from(slot.end.load(Ordering::Relaxed)) * BLOCK_LEN_MIN as u64;
        let len = (end.min(published) - at) as usize;
        let offset = (at - start) as usize;
        let unit = slot.unit.load(Ordering::Relaxed);
        self.memory.watch_read(self.memory.pointer(unit).wrapping_add(offset), len);
        // JUSTIFICATION: readers on many cores and the writer share the mapping; a copy per reader is what a fill must not cost.
        // SAFETY: the slice covers bytes `at .. at + len` of the body, all below `published`.
        // - Alive: the body owns the span until its drop, and the slice borrows the body.
        // - In bounds: the block holds the body's bytes `start .. end`, and `at + len <= end`.
        // - Unaliased: published bytes are written by nobody: tails and appends begin at `published`, which never falls.
        // Test: `readers_see_every_byte_while_the_writer_appends`.
        unsafe { std::slice::from_raw_parts(self.memory.pointer(unit).add(offset), len) }
    }

    /// Asks the processor for the beginning of the body.
    #[inline]
    pub fn prefetch(&self) {
        // A slot that nobody wrote yet names the arena's first unit: a hint in vain.
        prefetch(self.memory.pointer(self.first[0].unit.load(Ordering::Relaxed)));
    }

    /// Returns how many bytes can be read now.
    pub fn published(&self) -> u64 {
        self.published.load(Ordering::Acquire)
    }

    /// Returns the state and the length that belongs to it: a final state comes with the final length.
    pub fn progress(&self) -> Progress {
        // The state first: the writer stores it after the last publication.
        let state = match self.state.load(Ordering::Acquire) {
            0 => BodyState::Filling,
            1 => BodyState::Complete,
            3 => BodyState::Continued,
            _ => BodyState::Failed,
        };
        Progress { state, len: self.published() }
    }

    /// Returns how long the whole is: as declared, or as it came once it is complete; `None` while nobody knows.
    ///
    /// Of a body that failed or is continued elsewhere this is the length that was declared, not that of what is there.
    pub fn length(&self) -> Option<u64> {
        self.declared.or_else(|| {
            let Progress { state, len } = self.progress();
            (state == BodyState::Complete).then_some(len)
        })
    }

    /// Returns under which number the body's slices were written to disk; `None` if none were. Heads that are made anew over the same body
    /// lead to the same slices.
    pub fn write_id(&self) -> Option<u64> {
        Some(self.write_id.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// Notes under which number the body's slices are on disk.
    pub fn set_write_id(&self, write_id: u64) {
        self.write_id.store(write_id, Ordering::Relaxed);
    }

    /// Returns how many bytes of the arena the body holds, used or not.
    pub fn charged_len(&self) -> u64 {
        match self.slot_count.load(Ordering::Acquire) {
            0 => 0,
            count => {
                u64::from(self.slot(count as usize - 1).end.load(Ordering::Relaxed)) * BLOCK_LEN_MIN as u64
            }
        }
    }

    /// Returns how many blocks hold the body: as many pieces a send gathers.
    pub fn block_count(&self) -> usize {
        self.slot_count.load(Ordering::Acquire) as usize
    }

    /// Finds the slot that holds byte `at`, which is published, and the byte at which that slot begins; both count the lead.
    ///
    /// Slots behind the last published byte may be changed by the writer meanwhile. They only ever end behind `at`, so the
    /// search, which takes the first slot that does, is right whichever of their values it sees.
    fn slot_at(&self, at: u64) -> (&Slot, u64) {
        let unit = (at / BLOCK_LEN_MIN as u64) as u32;
        // Acquire: of a slot that was added behind `at` its end must be seen too, lest the search walks past the right one.
        let (mut low, mut high) = (0, self.slot_count.load(Ordering::Acquire) as usize);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.slot(middle).end.load(Ordering::Relaxed) > unit {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let start = if low == 0 { 0 } else { self.slot(low - 1).end.load(Ordering::Relaxed) };
        (self.slot(low), u64::from(start) * BLOCK_LEN_MIN as u64)
    }

    fn slot(&self, index: usize) -> &Slot {
        if index < BODY_BLOCKS_INLINE {
            return &self.first[index];
        }
        let (chunk, offset) = chunk_of(index);
        let directory = self.more.get().expect("a slot's directory is set before its number is counted");
        &directory.chunks[chunk].get().expect("a slot's chunk is set before its number is counted").slots
            [offset]
    }

    /// Returns the span of slot `index`; for the writer, or for whoever has the body alone.
    fn span(&self, index: usize) -> Span {
        let start = if index == 0 { 0 } else { self.slot(index - 1).end.load(Ordering::Relaxed) };
        let slot = self.slot(index);
        Span { unit: slot.unit.load(Ordering::Relaxed), units: slot.end.load(Ordering::Relaxed) - start }
    }
}

/// Returns the chunk that holds slot `index` and the slot's place in it.
fn chunk_of(index: usize) -> (usize, usize) {
    let beyond = index - BODY_BLOCKS_INLINE;
    let chunk = (beyond / BODY_BLOCKS_CHUNK_FIRST + 1).ilog2() as usize;
    (chunk, beyond - BODY_BLOCKS_CHUNK_FIRST * ((1 << chunk) - 1))
}

/// Returns the bytes that a chunk takes, the first one with the directory itself.
fn chunk_len(chunk: usize) -> usize {
    let table_len = if chunk == 0 { size_of::<Directory>() } else { 0 };
    (BODY_BLOCKS_CHUNK_FIRST << chunk) * size_of::<Slot>() + table_len
}

impl Drop for Body {
    fn drop(&mut self) {
        let spans = (0..self.slot_count.load(Ordering::Relaxed) as usize).map(|index| self.span(index));
        // SAFETY: this is the last handle, so no reader borrows a piece, no tail is out (a tail holds the body) and no writer
        // is left; each span is in one slot, and slots are not looked at again.
        // Tests: `a_dropped_body_gives_every_block_back`, `an_abandoned_tail_keeps_its_memory`.
        unsafe { self.memory.give_back(spans) };
    }
}

/// The one that fills a body; dropping it unfinished fails the body.
#[derive(Debug)]
pub struct BodyWriter {
    body: Arc<Body>,
    arena: Arena,
    /// The slot in which the first unpublished byte lies, once there is room.
    current: usize,
}

impl BodyWriter {
    /// Returns the body, for readers to share.
    pub fn body(&self) -> &Arc<Body> {
        &self.body
    }

    /// Returns how many bytes were published.
    pub fn published(&self) -> u64 {
        // Relaxed: only this writer stores it.
        self.body.published.load(Ordering::Relaxed)
    }

    /// Makes sure of room for `more` bytes in blocks, largest first; `false` if there is less, and what there was is kept.
    #[must_use]
    pub fn reserve(&mut self, more: u64) -> bool {
        let goal = self.published() + more;
        while self.body.charged_len() < goal {
            if !self.add_block((goal - self.body.charged_len()).min(BLOCK_LEN_MAX as u64) as usize) {
                return false;
            }
        }
        true
    }

    /// Returns how long the block would be that the next [`BodyWriter::tail`] has to add; 0 while there is room.
    pub fn missing_room(&self, len_max: usize) -> u64 {
        if self.published() < self.body.charged_len() { 0 } else { self.next_block_len(len_max) as u64 }
    }

    /// Returns the most bytes of the budget that listing one more block may take.
    pub fn directory_len_max(&self) -> u64 {
        let index = self.body.block_count();
        if index < BODY_BLOCKS_INLINE { 0 } else { chunk_len(chunk_of(index).0) as u64 }
    }

    /// Lends unpublished room of 1 to `len_max` bytes, or `None` when there is no memory or a tail is out already.
    ///
    /// The tail owns its share: the kernel may go on writing into it though writer and body were dropped.
    pub fn tail(&mut self, len_max: usize) -> Option<Tail> {
        let (start, len) = self.room(len_max)?;
        // Relaxed: `room` saw it unset with Acquire, and only this writer sets it.
        self.body.lent.store(true, Ordering::Relaxed);
        Some(Tail { body: Arc::clone(&self.body), start, len })
    }

    /// Publishes the first `filled` bytes of a tail and takes the tail back.
    ///
    /// # Panics
    /// If the tail is another body's or shorter than `filled`: going on would serve bytes that nobody wrote.
    pub fn publish(&mut self, tail: Tail, filled: usize) {
        assert!(
            Arc::ptr_eq(&tail.body, &self.body) && filled <= tail.len,
            "a tail is published by the writer that lent it"
        );
        drop(tail);
        self.advance(filled);
    }

    /// Copies bytes to the end and publishes them; returns how many there was room for, 0 without memory or with a tail out.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while let Some((start, len)) = self.room(rest.len()) {
            let (now, later) = rest.split_at(len);
            self.body.memory.watch_write(start.as_ptr(), len);
            // SAFETY: `room` gave `len` bytes from `start` inside the body's own block, behind what is published, so no reader
            // borrows them; no tail is out, so nobody else writes them; `now` is a borrow of other memory, since shared borrows
            // of the arena only cover published bytes. Test: `readers_see_every_byte_while_the_writer_appends`.
            unsafe { std::ptr::copy_nonoverlapping(now.as_ptr(), start.as_ptr(), len) };
            self.advance(len);
            rest = later;
        }
        bytes.len() - rest.len()
    }

    /// Appends the bytes of a block in `range` and publishes them, without a copy; the units that hold none of them are given back. `Err`, and the
    /// block is as it was, where they cannot follow what is there: while there is room behind that or a tail is out, or unless they begin a unit.
    pub fn adopt(&mut self, block: Block, range: Range<usize>) -> Result<(), Block> {
        let held = self.body.charged_len();
        let follows = self.published() == held && !self.body.lent.load(Ordering::Acquire);
        let begins = range.start < range.end && range.start.is_multiple_of(BLOCK_LEN_MIN);
        let end = held / BLOCK_LEN_MIN as u64 + range.len().div_ceil(BLOCK_LEN_MIN) as u64;
        let index = self.body.slot_count.load(Ordering::Relaxed) as usize;
        let is_possible = follows && begins && self.arena.lent(&block) && index < BODY_BLOCKS_MAX;
        let Some(end) = u32::try_from(end).ok().filter(|_| is_possible && self.make_slot(index)) else {
            return Err(block);
        };
        let span = self.arena.cut(block, &range);
        let slot = self.body.slot(index);
        slot.unit.store(span.unit, Ordering::Relaxed);
        slot.end.store(end, Ordering::Relaxed);
        self.body.slot_count.store(index as u32 + 1, Ordering::Release);
        self.arena.note_filling(span.len() as u64);
        self.current = index;
        self.advance(range.len());
        Ok(())
    }

    /// Ends the body as complete, or as failed when its declared length is not what came, and returns which.
    pub fn complete(mut self) -> BodyState {
        let as_declared = self.body.declared.is_none_or(|length| length == self.published());
        let state = if as_declared { BodyState::Complete } else { BodyState::Failed };
        self.finish(state);
        state
    }

    /// Ends the body as failed; readers keep what was published.
    pub fn fail(mut self) {
        self.finish(BodyState::Failed);
    }

    /// Ends the body where it is, because it is too large or memory is short: readers keep what was published and get the rest on
    /// another way, which is the shard's business.
    pub fn hand_over(mut self) {
        self.finish(BodyState::Continued);
    }

    /// Finds room behind the published bytes, adding a block if need be: where it begins and how long it is.
    fn room(&mut self, len_max: usize) -> Option<(NonNull<u8>, usize)> {
        // Acquire: pairs with the Release of the last tail's drop, whose writes come before ours.
        if len_max == 0 || self.body.lent.load(Ordering::Acquire) {
            return None;
        }
        let published = self.published();
        if published == self.body.charged_len() && !self.add_block(self.next_block_len(len_max)) {
            return None;
        }
        // Room beyond the current block was reserved, or added just now.
        if published == self.end_of(self.current) {
            self.current += 1;
        }
        let end = self.end_of(self.current);
        let span = self.body.span(self.current);
        let offset = span.len() - (end - published) as usize;
        // SAFETY: `offset` is inside the block, because the block ends at byte `end` of the body, has `span.len()` bytes and
        // begins at or before `published`. Test: `a_body_of_any_cut_reads_back`.
        let start = unsafe { self.body.memory.pointer(span.unit).add(offset) };
        let start = NonNull::new(start).expect("a mapping does not begin at address zero");
        Some((start, len_max.min((end - published) as usize)))
    }

    fn end_of(&self, slot: usize) -> u64 {
        u64::from(self.body.slot(slot).end.load(Ordering::Relaxed)) * BLOCK_LEN_MIN as u64
    }

    /// Chooses the next block's length: what is missing of a declared length, else as much again as is there.
    fn next_block_len(&self, wanted: usize) -> usize {
        let held = self.body.charged_len();
        let missing = self.body.declared.map_or(0, |length| length.saturating_sub(held));
        if missing > 0 {
            return missing.min(BLOCK_LEN_MAX as u64) as usize;
        }
        wanted.max(held.min(BLOCK_LEN_MAX as u64) as usize).clamp(FILL_BLOCK_LEN_FIRST, BLOCK_LEN_MAX)
    }

    /// Adds a block of `len` bytes, or a smaller one if the arena has no such block; `false` when it has none at all.
    fn add_block(&mut self, len: usize) -> bool {
        let index = self.body.slot_count.load(Ordering::Relaxed) as usize;
        if index == BODY_BLOCKS_MAX || !self.make_slot(index) {
            return false;
        }
        let held = self.body.charged_len() / BLOCK_LEN_MIN as u64;
        let Some(span) = self.arena.take(len, Fit::Part) else { return false };
        let Ok(end) = u32::try_from(held + u64::from(span.units)) else {
            self.arena.free(span);
            return false;
        };
        let slot = self.body.slot(index);
        slot.unit.store(span.unit, Ordering::Relaxed);
        slot.end.store(end, Ordering::Relaxed);
        self.body.slot_count.store(index as u32 + 1, Ordering::Release);
        self.arena.note_filling(span.len() as u64);
        true
    }

    /// Sees that slot `index`, the next one, exists; `false` if the budget has no room for its chunk.
    fn make_slot(&self, index: usize) -> bool {
        if index < BODY_BLOCKS_INLINE {
            return true;
        }
        let (number, _) = chunk_of(index);
        if let Some(directory) = self.body.more.get()
            && directory.chunks[number].get().is_some()
        {
            return true;
        }
        let len = chunk_len(number) as u64;
        let Some(charge) = self.arena.budget().reserve(Purpose::Heads, len) else { return false };
        let slots = (0..BODY_BLOCKS_CHUNK_FIRST << number).map(|_| Slot::default()).collect();
        let directory = self.body.more.get_or_init(Box::default);
        directory.chunks[number].set(Chunk { slots, _charge: charge }).is_ok()
    }

    fn advance(&mut self, len: usize) {
        // Release: the bytes and their slots come before the length that lets readers at them.
        self.body.published.store(self.published() + len as u64, Ordering::Release);
    }

    fn finish(&mut self, state: BodyState) {
        self.arena.note_filled(self.body.charged_len());
        // With a tail out the kernel may still write behind the published bytes: then nothing is given back before the drop.
        if !self.body.lent.load(Ordering::Acquire) {
            self.trim();
        }
        self.body.state.store(state as u8, Ordering::Release);
    }

    /// Gives back all units behind the last published byte. Readers never look there; no tail may be out.
    fn trim(&mut self) {
        let used = self.published().div_ceil(BLOCK_LEN_MIN as u64) as u32;
        let mut count = self.body.slot_count.load(Ordering::Relaxed) as usize;
        while count > 0 {
            let span = self.body.span(count - 1);
            let slot = self.body.slot(count - 1);
            let end = slot.end.load(Ordering::Relaxed);
            let unused = end.saturating_sub(used).min(span.units);
            let kept = span.units - unused;
            if unused > 0 {
                self.arena.free(Span { unit: span.unit + kept, units: unused });
            }
            if kept > 0 {
                slot.end.store(end - unused, Ordering::Relaxed);
                break;
            }
            count -= 1;
        }
        self.body.slot_count.store(count as u32, Ordering::Release);
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if self.body.state.load(Ordering::Relaxed) == BodyState::Filling as u8 {
            self.finish(BodyState::Failed);
        }
    }
}

/// Unpublished room at a body's end, for one receive. It keeps the memory by itself, so it may be given to the kernel and
/// abandoned there; dropping it gives the room back to the writer.
///
/// What it holds at first is whatever was in the arena before: only bytes that were written may be published.
#[derive(Debug)]
pub struct Tail {
    body: Arc<Body>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the pointer is to memory that `body`, which is Send and Sync, keeps, and that nobody else reaches while the tail lives
// (rule 3 of the module). Nothing about it belongs to a thread. Test: `an_abandoned_tail_keeps_its_memory`.
unsafe impl Send for Tail {}

impl AsMut<[u8]> for Tail {
    fn as_mut(&mut self) -> &mut [u8] {
        self.body.memory.watch_write(self.start.as_ptr(), self.len);
        // JUSTIFICATION: the room lies in a mapping that readers borrow at the same time, elsewhere.
        // SAFETY: `room` gave `len` mapped, initialised bytes from `start`.
        // - Alive: `body` owns the span, and `trim` gives nothing back while `lent` is set, which it is until this tail's drop.
        // - Unaliased: the bytes are unpublished, so no reader borrows them; `lent` keeps the writer from appending and from
        //   lending a second tail; `&mut self` makes this the only borrow.
        // Tests: `one_tail_is_out_at_most`, `an_abandoned_tail_keeps_its_memory`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for Tail {
    fn as_ref(&self) -> &[u8] {
        self.body.memory.watch_read(self.start.as_ptr(), self.len);
        // SAFETY: as for `as_mut`; `&self` forbids writing through this tail meanwhile.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // Release: what was written through the tail comes before the writer's next use of the room.
        self.body.lent.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
