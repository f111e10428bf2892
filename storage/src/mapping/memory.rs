//! The mapping that an arena's blocks lie in, and the stack on which those that were dropped come back.
//!
//! Shared by the owner of the arena and by all that hold bytes of it: blocks, bodies, tails. A dropped span goes on a lock-free stack whose links
//! lie in the dropped spans themselves; the owner takes the whole stack. Invariants: the mapping lives as long as the last who holds bytes; bytes
//! on the stack are charged as limbo.

use std::io;
use std::sync::Arc;

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};

use super::watch::Watch;
use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::buddy::Span;
use crate::budget::{Budget, Purpose};
use crate::limits::{BLOCK_LEN_MAX, BLOCK_LEN_MIN};

/// The mapping and its return stack, shared by the owner and all that hold bytes.
#[derive(Debug)]
pub(super) struct Memory {
    map: MmapRaw,
    /// Where the first region begins: at the first huge page's border inside the mapping.
    base: usize,
    pub(super) len: usize,
    /// The span that was returned last.
    returned: AtomicU32,
    /// Bytes on the stack and on the owner's pending list.
    pub(super) limbo: AtomicU64,
    pub(super) budget: Arc<Budget>,
    watch: Watch,
}

/// The number of a returned span's first unit plus one; zero ends a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link(u32);

impl Link {
    pub(super) const NONE: Link = Link(0);

    fn to(span: Span) -> Link {
        Link(span.unit + 1)
    }

    pub(super) fn is_none(self) -> bool {
        self == Link::NONE
    }
}

/// What a returned span's first bytes hold.
#[derive(Clone, Copy)]
#[repr(C)]
struct Returned {
    next: u32,
    units: u32,
}

impl Memory {
    pub(super) fn map(len: usize, budget: Arc<Budget>) -> io::Result<Memory> {
        // One region more than asked for, so that the first can begin at a huge page's border.
        let map = MmapRaw::from(MmapOptions::new().len(len + BLOCK_LEN_MAX).no_reserve_swap().map_anon()?);
        // Both are wishes: a kernel without them costs speed or a larger core dump, not answers.
        // The model checker makes an arena for each of its many runs, and a huge page costs it more than all else.
        if cfg!(not(loom)) {
            let _ = map.advise(Advice::HugePage);
        }
        let _ = map.advise(Advice::DontDump);
        let base = map.as_mut_ptr().align_offset(BLOCK_LEN_MAX);
        if base > BLOCK_LEN_MAX {
            return Err(io::Error::other("the mapping cannot be aligned"));
        }
        Ok(Memory {
            map,
            base,
            len,
            returned: AtomicU32::new(0),
            limbo: AtomicU64::new(0),
            budget,
            watch: Watch::new(),
        })
    }

    /// Returns where a unit begins.
    pub(super) fn pointer(&self, unit: u32) -> *mut u8 {
        let offset = unit as usize * BLOCK_LEN_MIN;
        assert!(offset < self.len, "a unit lies inside its arena");
        // SAFETY: `base + offset` is inside the mapping: `offset < len` was just checked, and the mapping holds
        // `len + BLOCK_LEN_MAX` bytes of which `base` skips at most `BLOCK_LEN_MAX`. Test: `blocks_do_not_overlap`.
        unsafe { self.map.as_mut_ptr().add(self.base + offset) }
    }

    /// Notes, for the model checker, that `len` bytes of the arena are about to be read.
    #[inline(always)]
    #[cfg_attr(loom, track_caller)]
    pub(super) fn watch_read(&self, start: *const u8, len: usize) {
        self.watch.read(start.addr() - self.map.as_ptr().addr() - self.base, len);
    }

    /// Notes, for the model checker, that `len` bytes of the arena are about to be written.
    #[inline(always)]
    #[cfg_attr(loom, track_caller)]
    pub(super) fn watch_write(&self, start: *const u8, len: usize) {
        self.watch.write(start.addr() - self.map.as_ptr().addr() - self.base, len);
    }

    /// Puts spans on the return stack, all in one step, from any thread.
    ///
    /// # Safety
    /// Each span was given by this arena, is charged as payload, and is the caller's alone: no borrow of its bytes exists, no
    /// kernel operation writes there, and the caller does not use it again.
    pub(super) unsafe fn give_back(&self, spans: impl Iterator<Item = Span>) {
        let mut first = Link::NONE;
        let mut last = None;
        let mut len = 0;
        for span in spans {
            // SAFETY: the caller owns the span, which is at least 512 B and aligned to 512 B.
            unsafe { self.write_returned(span, first) };
            last = last.or(Some(span));
            first = Link::to(span);
            len += span.len() as u64;
        }
        let Some(last) = last else { return };
        // Before the push: the owner may take the spans back, and subtract, as soon as they are on the stack.
        self.limbo.fetch_add(len, Ordering::Relaxed);
        self.budget.convert(Purpose::Payload, Purpose::Limbo, len);
        let mut head = self.returned.load(Ordering::Relaxed);
        loop {
            // SAFETY: until the exchange below succeeds the chain is still the caller's alone.
            unsafe { self.write_returned(last, Link(head)) };
            // Release: the links, and all that was done with the bytes before, happen before the owner's reuse. There is no
            // ABA: the owner takes the whole stack, never one element.
            match self.returned.compare_exchange_weak(head, first.0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Writes the link into a returned span.
    ///
    /// # Safety
    /// The span is the caller's alone.
    unsafe fn write_returned(&self, span: Span, next: Link) {
        let returned = Returned { next: next.0, units: span.units };
        self.watch_write(self.pointer(span.unit), span.len());
        // JUSTIFICATION: a list beside the blocks would need an allocation in `drop`, or a table for every unit.
        // SAFETY: the caller owns the span; a unit is 512 B, larger than `Returned`, and aligned to 512 B in a mapping whose
        // base is aligned to 2 MiB. Test: `blocks_dropped_on_many_threads_all_come_back`.
        unsafe { self.pointer(span.unit).cast::<Returned>().write(returned) };
    }

    /// Takes the whole stack. Only the owner calls this, and reads what it got.
    pub(super) fn take_returned(&self) -> Link {
        if self.returned.load(Ordering::Relaxed) == 0 {
            return Link::NONE;
        }
        // Acquire: pairs with the Release of every push in the chain, since each is a read-modify-write of this word.
        Link(self.returned.swap(0, Ordering::Acquire))
    }

    /// Reads a span that `take_returned` gave, and what follows it.
    pub(super) fn read_returned(&self, link: Link) -> Option<(Span, Link)> {
        let unit = link.0.checked_sub(1)?;
        self.watch_read(self.pointer(unit), size_of::<Returned>());
        // SAFETY: a link is only made by `give_back`, which wrote a `Returned` at this unit before the push that the owner's
        // acquiring swap saw; nobody else reaches the span until the owner frees it.
        // Test: `blocks_dropped_on_many_threads_all_come_back`.
        let returned = unsafe { self.pointer(unit).cast::<Returned>().read() };
        Some((Span { unit, units: returned.units }, Link(returned.next)))
    }

    /// Wishes for huge pages in a region, or for none: a kernel that does not grant it costs speed, or the exactness of the account.
    pub(super) fn wish_huge(&self, region: usize, wish: Advice) {
        if cfg!(not(loom)) {
            let _ = self.map.advise_range(wish, self.base + region * BLOCK_LEN_MAX, BLOCK_LEN_MAX);
        }
    }

    /// Gives the memory of free units back to the kernel; they read as zeros when they are used again. False if the kernel refuses.
    pub(super) fn give_to_kernel(&self, span: Span) -> bool {
        let offset = span.unit as usize * BLOCK_LEN_MIN;
        assert!(offset + span.len() <= self.len, "a span lies inside its arena");
        if cfg!(loom) {
            return true;
        }
        // JUSTIFICATION: the only way to shrink what is resident without unmapping what others point into.
        // SAFETY: the bytes of the span become zeros. The caller took it from the buddy, so no block, body or tail has it and nobody
        // borrows it (rule 1 of the module); it is inside the mapping, as was just checked.
        // Test: `what_is_given_up_is_zero_when_it_comes_back`.
        let given = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, self.base + offset, span.len())
        };
        given.is_ok()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Blocks that came back after their owner was gone; the mapping goes with them.
        self.budget.give(Purpose::Limbo, self.limbo.load(Ordering::Relaxed));
    }
}
