//! What a core's ring has done since it started, for metrics and tests.

/// Counters of one core. Plain numbers, copied out by [`crate::Ring::stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStats {
    /// Turns of the ring's loop.
    pub turns: u64,
    /// Turns that ran longer than [`crate::limits::LONG_TURN`] between two waits.
    pub long_turns: u64,
    /// The longest turn, in microseconds.
    pub turn_micros_max: u64,
    /// Calls of io_uring_enter.
    pub enters: u64,
    /// Waits for the kernel, a part of `enters`.
    pub sleeps: u64,
    /// Completions reaped.
    pub completions: u64,
    /// Turns handed to the executor so that woken tasks run.
    pub yields: u64,
    /// Tasks that ran because they were woken, or began.
    pub tasks_run: u64,
    /// The most of them at once.
    pub tasks_run_max: u64,
    /// Ring timeouts that fired.
    pub ticks: u64,
    /// Wakes by other threads.
    pub doorbells: u64,
    /// Connections accepted.
    pub accepts: u64,
    /// Accepts that failed, for want of descriptors or memory mostly.
    pub accept_errors: u64,
    /// Bytes received into the ring's buffers.
    pub received_len: u64,
    /// Receives that found no free buffer and were armed again.
    pub receive_starved: u64,
    /// Sends composed in the turn buffer, without a completion.
    pub turn_sends: u64,
    /// Of these, sends that the socket did not take whole and that went on from memory of their own.
    pub resumed_sends: u64,
    /// Sends from owned memory.
    pub owned_sends: u64,
    /// Gather sends, each of one head and some pieces of a body.
    pub gather_sends: u64,
}

impl RingStats {
    /// The executor runs so many tasks now.
    pub(crate) fn yielded(&mut self, tasks: u64) {
        self.yields += 1;
        self.tasks_run += tasks;
        self.tasks_run_max = self.tasks_run_max.max(tasks);
    }
}

/// What a core's ring keeps in memory at this moment, copied out by [`crate::Ring::heap`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingHeap {
    /// The table of sockets, and what idle ones keep.
    pub sockets: u64,
    /// Sends that outlived their turn, or will: queued bytes, heads, lists of pieces. What they point into is not part of it.
    pub sends: u64,
    /// The futures of live tasks, and what the executor keeps for each.
    pub tasks: u64,
    /// Buffers that answers are composed in.
    pub turn: u64,
}
