//! Decides whether who stored something for a core must ring for it, or the core will look by itself.
//!
//! Fed by the senders of the mailbox and by the core's turn. Invariant: nothing is slept over, because both sides store first, then
//! fence, then look:
//!
//! ```text
//!   sender                              core, about to sleep
//!   queue.push(message)                 asleep = true
//!   fence(SeqCst)                       fence(SeqCst)
//!   if asleep.swap(false) { ring }      if queue is not empty { asleep = false; stay awake }
//! ```
//!
//! The fences are totally ordered: either the sender's comes second and it sees `asleep`, or the core's comes second
//! and it sees the message. Tests: `no_post_is_slept_over`, and `tests/loom.rs`, which tries every order.

use crate::atomics::{AtomicBool, Ordering, fence};

/// Whether a core sleeps.
#[derive(Debug)]
pub(crate) struct Sleep {
    asleep: AtomicBool,
}

impl Sleep {
    pub(crate) fn new() -> Sleep {
        Sleep { asleep: AtomicBool::new(false) }
    }

    /// Whether the core sleeps and the caller is the one who has to wake it. What it is to find is stored before the call.
    pub(crate) fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel)
    }

    /// Raises the flag; the core looks for mail after it and before it sleeps.
    pub(crate) fn fall_asleep(&self) {
        // A swap, though a store would do: the model checker orders changes for certain only if each has read the one before.
        self.asleep.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Lowers the flag.
    pub(crate) fn wake_up(&self) {
        // Most turns did not sleep, and then need not take the line from the senders.
        if self.asleep.load(Ordering::Relaxed) {
            self.asleep.swap(false, Ordering::Relaxed);
        }
    }
}
