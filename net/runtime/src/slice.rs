//! How soon a core that wakes gets the processor from something else that runs there.
//!
//! A core runs for microseconds and then sleeps; the control thread, a writer of logs or whatever else shares its processor runs for longer. From
//! Linux 6.12 on a thread may ask for a slice of its own, and from 6.13 on who wakes and has the shorter one goes before who runs, as far as its share
//! of the processor reaches. The share stays as it is, so nobody starves. Fed by `executor.rs` once for each core.

use std::mem::zeroed;

/// Below what the kernel gives others (0.7 to 2.8 ms), and long enough that a busy core which shares its processor is not switched all the time.
const SLICE_NANOS: u64 = 500_000;

/// Asks for a short slice for the calling thread. A kernel that knows none ignores it, as do we where a sandbox forbids it: a core that
/// waits longer serves all the same. A scheduling policy that the operator chose stays.
pub(crate) fn ask_for_short() {
    // SAFETY: a `sched_attr` is plain numbers.
    let mut attributes: libc::sched_attr = unsafe { zeroed() };
    let len = size_of::<libc::sched_attr>();
    // JUSTIFICATION: libc has no function for either call.
    // SAFETY: `attributes` is valid for writes of the length that is told, and 0 is the calling thread.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, len, 0) } == 0;
    if known && attributes.sched_policy == libc::SCHED_OTHER as u32 {
        attributes.sched_runtime = SLICE_NANOS;
        // SAFETY: `attributes` is valid for reads of the length that is in it, and 0 is the calling thread.
        let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_its_policy_and_niceness() {
        let read = || {
            // SAFETY: plain numbers; valid for writes of the length that is told.
            let mut attributes: libc::sched_attr = unsafe { zeroed() };
            let len = size_of::<libc::sched_attr>();
            // SAFETY: as above; 0 is the calling thread.
            let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, len, 0) };
            assert_eq!(read, 0);
            attributes
        };
        let before = read();
        ask_for_short();
        let after = read();
        assert_eq!((after.sched_policy, after.sched_nice), (before.sched_policy, before.sched_nice));
        // Kernels from before slices tell 0.
        assert!([0, SLICE_NANOS].contains(&after.sched_runtime), "{}", after.sched_runtime);
    }
}
