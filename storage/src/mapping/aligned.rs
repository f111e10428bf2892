//! Memory that the kernel may read from and write into without a copy of its own: whole pages, at a page's boundary.
//!
//! The disk tier's index, its write buffers and the buffers of its reads are such memory. An [`AlignedPool`] keeps a few buffers of one
//! length at hand for one core. Invariants: every byte is charged to the budget before the kernel is asked for it; memory that was not
//! used before is zero, and the kernel gives its pages when they are first written; no two buffers have a byte in common.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::budget::{Budget, Charge, Purpose};

/// The unit of direct I/O in place, length and memory.
const PAGE_LEN: usize = 4096;

/// A page of the kernel's that stands for 512 of those: one look-up and one run of memory for the device, however much of it is read into.
const HUGE_PAGE_LEN: usize = 2 * 1024 * 1024;

/// A buffer at a page's boundary, a whole number of pages long.
#[derive(Debug)]
pub struct AlignedBuf {
    start: NonNull<u8>,
    len: usize,
    /// Keeps the bytes mapped.
    _slab: Arc<Slab>,
}

/// The memory of one buffer, or of several.
#[derive(Debug)]
struct Slab {
    _map: MmapRaw,
    _charge: Charge,
}

// SAFETY: the bytes between `start` and `start + len` are this buffer's alone, `_slab`, which is Send and Sync, keeps them, and they
// belong to no thread; they are changed through `&mut self` only. Test: `buffers_of_one_mapping_do_not_overlap`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; what several threads may share is `&self`, through which nothing is written.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// Makes a buffer of zeros of at least `len` bytes; `None` when budget or kernel refuse.
    pub fn new(len: usize, budget: &Arc<Budget>) -> Option<AlignedBuf> {
        let len = rounded(len)?;
        let charge = budget.reserve(Purpose::Disk, len as u64)?;
        let map = MmapRaw::from(MmapOptions::new().len(len).map_anon().ok()?);
        AlignedBuf::cut(map, charge, 0, &[len]).pop()
    }

    /// Makes buffers of zeros of at least these lengths, all or none, side by side in one mapping and on huge pages as far as they fill them.
    ///
    /// A direct read of 64 KiB into them costs the kernel a third less than one into 16 pages. What is dropped first is given back with the last.
    pub fn several(lens: impl IntoIterator<Item = usize>, budget: &Arc<Budget>) -> Option<Vec<AlignedBuf>> {
        let lens = lens.into_iter().map(rounded).collect::<Option<Vec<usize>>>()?;
        let len = lens.iter().try_fold(0, |sum: usize, len| sum.checked_add(*len))?;
        let charge = budget.reserve(Purpose::Disk, len as u64)?;
        // More addresses than asked for, so that the first buffer can begin at a huge page's border; no memory is behind them.
        let mapped = len.checked_add(HUGE_PAGE_LEN)?;
        let map = MmapRaw::from(MmapOptions::new().len(mapped).no_reserve_swap().map_anon().ok()?);
        let base = map.as_mut_ptr().align_offset(HUGE_PAGE_LEN);
        if base > HUGE_PAGE_LEN {
            return None;
        }
        // Not beyond what is charged. A wish: a kernel without such pages costs speed.
        let huge = len / HUGE_PAGE_LEN * HUGE_PAGE_LEN;
        if huge > 0 {
            let _ = map.advise_range(Advice::HugePage, base, huge);
        }
        Some(AlignedBuf::cut(map, charge, base, &lens))
    }

    /// Cuts the bytes of a mapping from `base` on into buffers of these lengths.
    fn cut(map: MmapRaw, charge: Charge, base: usize, lens: &[usize]) -> Vec<AlignedBuf> {
        let (first, mapped) = (NonNull::new(map.as_mut_ptr()), map.len());
        let first = first.expect("a mapping does not begin at address zero");
        let slab = Arc::new(Slab { _map: map, _charge: charge });
        let mut at = base;
        let cut = |len: &usize| {
            assert!(at + len <= mapped, "a buffer lies inside its mapping");
            // SAFETY: the buffer's first byte and its end are inside the mapping, as was just checked.
            let start = unsafe { first.add(at) };
            at += len;
            AlignedBuf { start, len: *len, _slab: Arc::clone(&slab) }
        };
        lens.iter().map(cut).collect()
    }

    /// Returns how many bytes the buffer has.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }
}

/// Returns the bytes of the whole pages that hold `len`; `None` if there are no so many.
fn rounded(len: usize) -> Option<usize> {
    len.max(1).checked_next_multiple_of(PAGE_LEN)
}

impl AsRef<[u8]> for AlignedBuf {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        // JUSTIFICATION: buffers of several owners lie in one mapping, so that they can share a huge page; no safe borrow of it can be split
        // between owners that come and go.
        // SAFETY: `len` bytes from `start` are mapped, initialised (anonymous memory begins as zeros) and this buffer's alone.
        // - Alive: `_slab` keeps the mapping.
        // - In bounds and unaliased: `cut` gave each byte to one buffer, inside the mapping; `&self` forbids `as_mut` meanwhile.
        // Test: `buffers_of_one_mapping_do_not_overlap`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl AsMut<[u8]> for AlignedBuf {
    #[inline]
    fn as_mut(&mut self) -> &mut [u8] {
        // JUSTIFICATION and SAFETY: as for `as_ref`; `&mut self` makes this the only borrow of the only owner.
        // Test: `buffers_of_one_mapping_do_not_overlap`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// A buffer that its holders only read, so that it can be written to a file and read by others meanwhile; of one core.
#[derive(Clone, Debug)]
pub struct SharedBuf(Rc<AlignedBuf>);

impl SharedBuf {
    /// Makes the first holder.
    pub fn new(buffer: AlignedBuf) -> SharedBuf {
        SharedBuf(Rc::new(buffer))
    }

    /// Returns the bytes to change while there is no other holder.
    pub fn get_mut(&mut self) -> Option<&mut [u8]> {
        Rc::get_mut(&mut self.0).map(AsMut::as_mut)
    }

    /// Returns the buffer if this was the last holder.
    pub fn into_inner(self) -> Option<AlignedBuf> {
        Rc::into_inner(self.0)
    }
}

impl AsRef<[u8]> for SharedBuf {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// Buffers of one length, for one core; clones share them.
#[derive(Clone, Debug)]
pub struct AlignedPool {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    budget: Arc<Budget>,
    buffer_len: usize,
    /// How many buffers may be out and at hand together.
    count_max: usize,
    /// How many of them are kept when nobody uses them.
    kept_max: usize,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<AlignedBuf>,
    out: usize,
}

impl AlignedPool {
    /// Makes a pool of at most `count_max` buffers of `buffer_len` bytes, of which `kept_max` stay at hand; none is made yet.
    pub fn new(buffer_len: usize, count_max: usize, kept_max: usize, budget: Arc<Budget>) -> AlignedPool {
        let state = RefCell::new(State { free: Vec::with_capacity(kept_max), out: 0 });
        AlignedPool { shared: Rc::new(Shared { budget, buffer_len, count_max, kept_max, state }) }
    }

    /// Returns how long each buffer is, at least.
    pub fn buffer_len(&self) -> usize {
        self.shared.buffer_len
    }

    /// Returns how many buffers are out.
    pub fn out_count(&self) -> usize {
        self.shared.state.borrow().out
    }

    /// Takes a buffer, whose bytes are whatever its last user left; `None` when all are out or there is no memory.
    pub fn take(&self) -> Option<AlignedBuf> {
        let mut state = self.shared.state.borrow_mut();
        if state.out >= self.shared.count_max {
            return None;
        }
        let buffer = match state.free.pop() {
            Some(buffer) => buffer,
            None => AlignedBuf::new(self.shared.buffer_len, &self.shared.budget)?,
        };
        state.out += 1;
        Some(buffer)
    }

    /// Takes back a buffer that [`AlignedPool::take`] gave.
    pub fn put(&self, buffer: AlignedBuf) {
        let mut state = self.shared.state.borrow_mut();
        debug_assert!(state.out > 0 && buffer.len() >= self.shared.buffer_len, "a buffer of another pool");
        state.out = state.out.saturating_sub(1);
        if state.free.len() < self.shared.kept_max {
            state.free.push(buffer);
        }
    }

    /// Gives up to `count_max` of the buffers at hand back to the kernel, but not the last `kept`: it takes some time for each.
    pub fn trim(&self, kept: usize, count_max: usize) {
        let mut state = self.shared.state.borrow_mut();
        let len = state.free.len();
        state.free.truncate(kept.max(len.saturating_sub(count_max)).min(len));
    }

    /// Notes that a buffer which was taken will not come back: whoever had it dropped it.
    pub fn lost(&self) {
        let mut state = self.shared.state.borrow_mut();
        state.out = state.out.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_whole_zero_pages_and_is_charged() {
        let budget = Budget::new(64 * 1024);
        let mut buffer = AlignedBuf::new(5000, &budget).unwrap();
        assert_eq!((buffer.len(), budget.used(Purpose::Disk)), (8192, 8192));
        assert_eq!(buffer.as_ref().as_ptr().align_offset(PAGE_LEN), 0);
        assert!(buffer.as_ref().iter().all(|byte| *byte == 0));
        buffer.as_mut()[8191] = 7;
        assert!(AlignedBuf::new(60_000, &budget).is_none(), "the budget is asked first");
        assert!(AlignedBuf::new(usize::MAX, &budget).is_none());
        drop(buffer);
        assert_eq!(budget.used_total(), 0);
    }

    #[test]
    fn buffers_of_one_mapping_do_not_overlap() {
        let budget = Budget::new(8 << 20);
        let lens = [1, HUGE_PAGE_LEN, 5000, 3 * PAGE_LEN];
        let mut buffers = AlignedBuf::several(lens, &budget).unwrap();
        let charged: usize = buffers.iter().map(AlignedBuf::len).sum();
        assert_eq!(budget.used_total(), charged as u64);
        assert_eq!(buffers[0].as_ref().as_ptr().align_offset(HUGE_PAGE_LEN), 0);
        for (number, buffer) in buffers.iter_mut().enumerate() {
            assert_eq!(buffer.len(), lens[number].next_multiple_of(PAGE_LEN));
            assert_eq!(buffer.as_ref().as_ptr().align_offset(PAGE_LEN), 0);
            assert!(buffer.as_ref().iter().all(|byte| *byte == 0), "{number}");
            buffer.as_mut().fill(number as u8 + 1);
        }
        for (number, buffer) in buffers.iter().enumerate() {
            assert!(buffer.as_ref().iter().all(|byte| *byte == number as u8 + 1), "{number}");
        }
        let last = buffers.pop().unwrap();
        drop(buffers);
        let first = std::thread::scope(|scope| scope.spawn(move || last.as_ref()[0]).join());
        assert_eq!(first.unwrap(), 4, "one outlives the others, on any thread");
        assert_eq!(budget.used_total(), 0);
        assert!(AlignedBuf::several([1 << 20, 8 << 20], &budget).is_none(), "all or none");
        assert!(AlignedBuf::several([usize::MAX / 2, usize::MAX / 2], &budget).is_none());
        assert_eq!(budget.used_total(), 0);
    }

    #[test]
    fn a_shared_buffer_is_changed_by_its_only_holder() {
        let budget = Budget::new(1 << 20);
        let mut shared = SharedBuf::new(AlignedBuf::new(1, &budget).unwrap());
        shared.get_mut().unwrap()[0] = 7;
        let other = shared.clone();
        assert!(shared.get_mut().is_none() && other.as_ref()[0] == 7);
        assert!(shared.into_inner().is_none());
        assert!(other.into_inner().is_some_and(|buffer| buffer.as_ref()[0] == 7));
        assert_eq!(budget.used_total(), 0);
    }

    #[test]
    fn a_pool_gives_back_what_is_at_hand_a_little_at_a_time() {
        let budget = Budget::new(1 << 20);
        let pool = AlignedPool::new(4096, 6, 6, Arc::clone(&budget));
        let taken: Vec<AlignedBuf> = (0..6).map(|_| pool.take().unwrap()).collect();
        pool.trim(1, 2);
        taken.into_iter().for_each(|buffer| pool.put(buffer));
        let pages = |pool: &AlignedPool| {
            pool.trim(1, 2);
            budget.used_total() / 4096
        };
        assert_eq!([pages(&pool), pages(&pool), pages(&pool), pages(&pool)], [4, 2, 1, 1]);
    }

    #[test]
    fn a_pool_has_so_many_and_keeps_few() {
        let budget = Budget::new(1 << 20);
        let pool = AlignedPool::new(4096, 3, 1, Arc::clone(&budget));
        let taken: Vec<AlignedBuf> = (0..3).map(|_| pool.take().unwrap()).collect();
        assert!(pool.take().is_none() && pool.out_count() == 3);
        taken.into_iter().for_each(|buffer| pool.put(buffer));
        assert_eq!((pool.out_count(), budget.used_total()), (0, 4096), "one is kept");
        let again = pool.take().unwrap();
        assert_eq!(budget.used_total(), 4096);
        drop(again);
        pool.lost();
        assert_eq!((pool.out_count(), budget.used_total()), (0, 0));
    }
}
