//! An allocator that counts: on the thread that asks, and on all threads that did not step aside.
//!
//! The tests of the hot hit path make it their global allocator by naming this module. Invariant: counting itself neither allocates nor
//! unwinds, so it can be done anywhere.
#![allow(
    unsafe_code,
    reason = "a global allocator cannot be written without; bench's counting allocator is the place for it"
)]
#![allow(dead_code, reason = "each test asks for one of the counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    static HERE: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
    static ASIDE: Cell<bool> = const { Cell::new(false) };
}

static ELSEWHERE: AtomicU64 = AtomicU64::new(0);

struct Counting;

// JUSTIFICATION: only a global allocator sees every allocation of the code under test.
// SAFETY: both calls are passed on unchanged to the system's allocator, which keeps the trait's promises; the counters are thread-local
// cells without a destructor and an atomic, so counting neither allocates nor unwinds. Test: `a_hot_hit_allocates_nothing`, which also
// counts a `Vec`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HERE.with(|count| count.set(count.get() + 1));
        BYTES.with(|bytes| bytes.set(bytes.get() + layout.size() as i64));
        if !ASIDE.with(Cell::get) {
            ELSEWHERE.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.with(|bytes| bytes.set(bytes.get() - layout.size() as i64));
        // SAFETY: `pointer` came from `alloc` above, that is from the system's allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How many allocations this thread has made.
pub(crate) fn here() -> u64 {
    HERE.with(Cell::get)
}

/// How many bytes this thread has allocated and not freed; less than none if it freed what others allocated.
pub(crate) fn bytes_here() -> i64 {
    BYTES.with(Cell::get)
}

/// How many allocations were made by threads that had not stepped aside.
pub(crate) fn elsewhere() -> u64 {
    ELSEWHERE.load(Ordering::Relaxed)
}

/// What this thread allocates from now on is no concern of [`elsewhere`].
pub(crate) fn step_aside() {
    ASIDE.with(|aside| aside.set(true));
}
