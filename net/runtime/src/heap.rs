//! Asks the allocator to give memory back to the kernel that nobody uses.
//!
//! It does so by itself, a second after the last block of a page was freed, but only while its threads go on allocating: what a crowd
//! left stays when the crowd has gone. A program with another allocator is not affected.

// The library is linked for its one function below.
use libmimalloc_sys as _;

unsafe extern "C" {
    fn mi_collect(force: bool);
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
    fn memory_can_be_given_back_at_any_time() {
        let kept = vec![7_u8; 1 << 20];
        drop(vec![1_u8; 8 << 20]);
        super::give_back();
        super::give_back();
        assert!(kept.iter().all(|byte| *byte == 7));
    }
}
