//! The kernel's two queues: operations in, completions out. Nothing else touches the io_uring, but for
//! the probe, which tries one before there is a core.
//!
//! Fed by `ring.rs` (operations) and by the turn, which submits and collects. The crate's unit tests replace this file by
//! `kernel/fake.rs`, a kernel that does the worst that the interface allows; so its functions are few and decide nothing.

use std::io;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};

use crate::batch::Wait;
use crate::limits::BATCH_PATIENCE;

/// `IORING_ENTER_GETEVENTS`: completions that the kernel deferred are posted within the call.
const GET_EVENTS: u32 = 1;

/// One core's submission and completion queue.
pub(crate) struct Kernel {
    uring: IoUring,
    /// The kernel knows [`Wait::Several`] (Linux 6.12).
    waits_for_several: bool,
}

impl Kernel {
    /// Makes a submission queue of `entries`, a power of two, and a completion queue of four times as many.
    pub(crate) fn new(entries: u32) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(entries * 4)
            .build(entries)?;
        let waits_for_several = uring.params().is_feature_min_timeout();
        Ok(Kernel { uring, waits_for_several })
    }

    /// Tells the kernel about a ring of receive buffers.
    ///
    /// # Safety
    /// `address` is page-aligned and holds `count` entries until after the ring is dropped.
    pub(crate) unsafe fn register_buffers(&mut self, address: u64, count: u16, group: u16) -> io::Result<()> {
        // SAFETY: the caller's promise is the interface's condition.
        unsafe { self.uring.submitter().register_buf_ring_with_flags(address, count, group, 0) }
    }

    /// Queues an operation; false if there is no room before the next `enter`.
    ///
    /// # Safety
    /// What the entry names stays where it is until the entry's completion was taken.
    #[inline]
    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller's promise is the interface's condition.
        unsafe { self.uring.submission().push(entry) }.is_ok()
    }

    /// Returns how many operations are queued and not submitted.
    #[inline]
    pub(crate) fn queued_count(&mut self) -> u32 {
        self.uring.submission().len() as u32
    }

    /// Submits `submit` operations, lets deferred work run, and waits. A time that ran out is an error, ETIME, if nothing was submitted.
    #[inline]
    pub(crate) fn enter(&mut self, submit: u32, wait: Wait) -> io::Result<usize> {
        // With arguments all that is queued is submitted.
        let want = match wait {
            Wait::Nothing => 0,
            Wait::Several(count) if self.waits_for_several => {
                let args = SubmitArgs::new().min_wait_usec(BATCH_PATIENCE.as_micros() as u32);
                return self.uring.submitter().submit_with_args(count as usize, &args);
            }
            Wait::OneWithin(limit) => {
                let limit = Timespec::from(limit);
                return self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&limit));
            }
            Wait::One | Wait::Several(_) => 1,
        };
        // JUSTIFICATION: the safe calls ask for completions only if they wait; deferred work must run each turn.
        // SAFETY: no argument structure is passed, and what the queued entries name is owned as `push` says.
        unsafe { self.uring.submitter().enter::<libc::sigset_t>(submit, want, GET_EVENTS, None) }
    }

    /// Moves the completions that are there to `completions`.
    #[inline]
    pub(crate) fn collect(&mut self, completions: &mut Vec<cqueue::Entry>) {
        completions.extend(self.uring.completion());
    }

    /// Whether the kernel holds completions that found no room in the queue; the next `enter` brings them.
    #[inline]
    pub(crate) fn has_overflowed(&mut self) -> bool {
        self.uring.submission().cq_overflow()
    }
}
