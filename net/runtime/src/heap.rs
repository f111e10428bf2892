//! Asks the allocator to give memory back to the kernel that nobody uses.
//!
//! It does so by itself a while after the last block of a page was freed, but only while its threads go on allocating: what a crowd left
//! stays when the crowd has gone. A program with another allocator is not affected.

use std::ffi::{c_int, c_long};

// The library is linked for its functions below.
use libmimalloc_sys as _;

unsafe extern "C" {
    fn mi_collect(force: bool);
    fn mi_option_get(option: c_int) -> c_long;
    fn mi_option_set(option: c_int, value: c_long);
}

/// `mi_option_purge_delay` of the allocator's header: how many milliseconds it keeps what was freed.
const PURGE_DELAY: c_int = 15;

/// What that is by default: long enough for a crowd's memory and the next one's to be resident together.
const PURGE_DELAY_DEFAULT: c_long = 1000;

/// What it is with us: long enough for a buffer that is freed to be used again.
const PURGE_DELAY_OURS: c_long = 100;

/// Has the allocator keep what was freed for a shorter time, unless the operator said how long.
pub fn keep_little() {
    // JUSTIFICATION: the allocator has no safe interface for it.
    // SAFETY: options are plain numbers that are read and written at any time; one of another number than expected is left alone, so that
    // another version of the library, with other options, is not disturbed. Test: `the_option_is_the_one_that_is_meant`.
    unsafe {
        if mi_option_get(PURGE_DELAY) == PURGE_DELAY_DEFAULT {
            mi_option_set(PURGE_DELAY, PURGE_DELAY_OURS);
        }
    }
}

/// Gives back what this thread freed, and what all threads freed as far as no thread keeps it. Costs a system call for each such piece.
pub fn give_back() {
    // JUSTIFICATION: the allocator has no safe interface for it.
    // SAFETY: `mi_collect` may be called from any thread at any time: it frees nothing that is in use and has no conditions.
    unsafe { mi_collect(true) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: a plain read.
        let value = || unsafe { super::mi_option_get(super::PURGE_DELAY) };
        assert_eq!(
            value(),
            super::PURGE_DELAY_DEFAULT,
            "another version of the allocator may number its options otherwise"
        );
        super::keep_little();
        assert_eq!(value(), super::PURGE_DELAY_OURS);
        super::keep_little();
        assert_eq!(value(), super::PURGE_DELAY_OURS);
    }

    #[test]
    fn memory_can_be_given_back_at_any_time() {
        let kept = vec![7_u8; 1 << 20];
        drop(vec![1_u8; 8 << 20]);
        super::give_back();
        super::give_back();
        assert!(kept.iter().all(|byte| *byte == 7));
    }
}
