//! How long a viewer may take: for a head, between two requests, and for what is queued to it.
//!
//! `viewer/hot.rs` says what a connection waits for next, the shard's sweep looks whose time is up, and tasks that send
//! wait here for room. Invariants: every connection without a task has a deadline; a viewer that takes bytes, however
//! slowly, is not cut; a connection closes in order only after everything queued to it has left.

use std::rc::Rc;

use aspis_runtime::{Close, SocketId};
use aspis_telemetry::Counter;

use crate::limits::LINGER;
use crate::shard::Shard;
use crate::viewer::{Deadline, Viewer, ViewerState};

/// Queued bytes will not arrive: the viewer went away, or took nothing for `--send-timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotTaken;

impl Shard {
    /// Sets the deadline of a connection that has no task.
    pub(crate) fn wait_for_viewer(&self, viewer: &Viewer) {
        let now = self.ring.now_millis();
        if !viewer.inbox.borrow().is_empty() {
            // More bytes of the same head do not give it more time.
            if viewer.deadline.get() != Deadline::Head {
                viewer.expect(Deadline::Head, now + self.settings.head_timeout.as_millis() as u64);
            }
        } else if self.ring.queued_len(viewer.socket) > 0 {
            self.expect_sending(viewer, now);
        } else {
            viewer.expect(Deadline::Idle, now + self.idle_timeout());
        }
    }

    /// Answers no further request before everything queued has left.
    pub(crate) fn stall(&self, viewer: &Viewer) {
        viewer.state.set(ViewerState::Stalled);
        if !viewer.paused.replace(true) {
            self.ring.pause_receive(viewer.socket);
        }
        self.expect_sending(viewer, self.ring.now_millis());
        self.ring.notify_sent(viewer.socket);
    }

    /// Ends the connection behind what is queued. Nothing that still comes is looked at.
    pub(crate) fn leave(&self, viewer: &Viewer) {
        viewer.state.set(ViewerState::Leaving);
        viewer.inbox.take();
        self.expect_sending(viewer, self.ring.now_millis());
        self.ring.notify_sent(viewer.socket);
    }

    fn expect_sending(&self, viewer: &Viewer, now: u64) {
        viewer.taken_before.set(None);
        viewer.expect(Deadline::Send, now + self.first_look_after());
    }

    /// When to look for the first time whether a queue moves. Mostly it is empty by then, and the connection idle.
    fn first_look_after(&self) -> u64 {
        self.send_timeout().min(self.idle_timeout())
    }

    /// Ends connections whose deadline has passed.
    pub(crate) fn end_late(&self, viewer: &Rc<Viewer>, now: u64) {
        match viewer.deadline.get() {
            Deadline::None => {}
            Deadline::Idle => {
                self.counters.add(Counter::ViewerTimeoutIdle, 1);
                self.close_viewer(viewer, Close::Linger(LINGER));
            }
            Deadline::Head => self.refuse_late_head(viewer),
            Deadline::Send if self.ring.queued_len(viewer.socket) == 0 => {
                // Seen full before, it became empty at a time that nobody noted; else it left with its turn, as hits do.
                let idle_since = match viewer.taken_before.get() {
                    Some(_) => now,
                    None => viewer.deadline_at.get() - self.first_look_after(),
                };
                viewer.expect(Deadline::Idle, idle_since + self.idle_timeout());
            }
            Deadline::Send => {
                let taken = self.taken(viewer.socket);
                // The first look only notes how far the viewer is: a hit does not pay for that.
                if viewer.taken_before.replace(Some(taken)).is_none_or(|before| taken > before) {
                    viewer.expect(Deadline::Send, now + self.send_timeout());
                } else {
                    self.counters.add(Counter::ViewerTimeoutSend, 1);
                    self.close_viewer(viewer, Close::Reset);
                }
            }
        }
    }

    /// Waits until everything queued has left, for as long as the viewer takes some of it every `--send-timeout`.
    pub(crate) async fn flush(&self, viewer: &Viewer) -> Result<(), NotTaken> {
        let mut before = self.taken(viewer.socket);
        loop {
            let flushed = self.ring.flush(viewer.socket);
            match self.ring.timeout(self.settings.send_timeout, flushed).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(_)) => {
                    self.count_abort(viewer);
                    return Err(NotTaken);
                }
                Err(_) => {
                    let taken = self.taken(viewer.socket);
                    if taken <= before {
                        self.counters.add(Counter::ViewerTimeoutSend, 1);
                        return Err(NotTaken);
                    }
                    before = taken;
                }
            }
        }
    }

    /// A number that grows when the viewer takes bytes, and falls when more are queued.
    fn taken(&self, socket: SocketId) -> i64 {
        self.ring.acknowledged_len(socket) as i64 - self.ring.queued_len(socket) as i64
    }

    /// Counts a viewer that left before its response was sent, once.
    pub(crate) fn count_abort(&self, viewer: &Viewer) {
        if !viewer.aborted.replace(true) {
            self.counters.add(Counter::ViewerAborts, 1);
        }
    }

    /// `--idle-timeout` in milliseconds.
    pub(crate) fn idle_timeout(&self) -> u64 {
        self.settings.idle_timeout.as_millis() as u64
    }

    /// `--send-timeout` in milliseconds.
    fn send_timeout(&self) -> u64 {
        self.settings.send_timeout.as_millis() as u64
    }
}
