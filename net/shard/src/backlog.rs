//! What one turn leaves for the next, so that no turn is long: requests of who pipelines much, mail, replies to a crowd, and the sweep over
//! the viewers.
//!
//! The shard's `Handler` calls it; `viewer/hot.rs` asks whether a connection may be answered once more in this turn. Invariants: a connection gets at
//! most [`REQUESTS_PER_TURN`] answers in a turn, and those that wait come in the order in which they began to; mail that changes what is
//! stored acts before bytes that were received after it was posted, other mail keeps its order and waits its turn.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use aspis_runtime::SocketId;
use aspis_runtime::mailbox::Receiver;
use aspis_telemetry::Counter;

use crate::asking::{Reply, Waiter};
use crate::limits::{
    MAILBOX_LEN, QUEUED_VIEWERS_PER_TURN, REPLIES_PER_TURN, REQUESTS_PER_TURN, SWEPT_PER_TURN,
};
use crate::messages::Message;
use crate::shard::Shard;
use crate::viewer::{Deadline, Viewer, ViewerState};

/// What waits for the next turn.
#[derive(Default)]
pub(crate) struct Backlog {
    /// Counts the turns.
    turn: Cell<u64>,
    /// Something may be below: the one look of most turns.
    is_busy: Cell<bool>,
    /// Connections with requests at hand that had enough answers.
    viewers: RefCell<VecDeque<SocketId>>,
    /// Mail that changes what is stored, and the rest that was before or between.
    urgent: RefCell<VecDeque<Message>>,
    mail: RefCell<VecDeque<Message>>,
    /// What requests that waited for a fetch are still to be told.
    replies: RefCell<VecDeque<(Waiter, Reply)>>,
    /// Where the sweep over the viewers goes on.
    sweep_at: Cell<Option<usize>>,
}

impl Backlog {
    /// Tells whether a connection may be answered once more in this turn, and counts that.
    #[inline]
    pub(crate) fn may_answer(&self, viewer: &Viewer) -> bool {
        let (turn, count) = viewer.answered.get();
        if turn != self.turn.get() {
            viewer.answered.set((self.turn.get(), 1));
            return true;
        }
        viewer.answered.set((turn, count + 1));
        count < REQUESTS_PER_TURN
    }

    /// The next message: what changes the store first.
    pub(crate) fn next_mail(&self, mailbox: &Receiver<Message>) -> Option<Message> {
        let urgent = self.urgent.borrow_mut().pop_front();
        urgent.or_else(|| self.mail.borrow_mut().pop_front()).or_else(|| mailbox.pop())
    }

    /// Takes all mail and returns how many messages of it act before anything else.
    fn sort(&self, mailbox: &Receiver<Message>) -> usize {
        let (mut urgent, mut mail) = (self.urgent.borrow_mut(), self.mail.borrow_mut());
        while mail.len() < MAILBOX_LEN
            && let Some(message) = mailbox.pop()
        {
            if message.changes_the_store() {
                urgent.push_back(message);
            } else {
                mail.push_back(message);
            }
        }
        self.is_busy.set(true);
        // As much again waits: what is behind it is found by handling it all.
        if mailbox.is_empty() { urgent.len() } else { urgent.len() + mail.len() + MAILBOX_LEN }
    }

    /// Begins to look for viewers whose deadline has passed, unless that goes on.
    pub(crate) fn begin_sweep(&self) {
        if self.sweep_at.get().is_none() {
            self.sweep_at.set(Some(0));
            self.is_busy.set(true);
        }
    }

    /// Whether the next turn has something to do.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        self.is_busy.get()
    }

    fn holds_any(&self) -> bool {
        let one = !self.viewers.borrow().is_empty() || !self.replies.borrow().is_empty();
        one || !self.mail.borrow().is_empty() || self.sweep_at.get().is_some()
    }
}

impl Shard {
    /// Handles mail that must act before a request that is about to be looked at: an answer may have caused both.
    pub(crate) fn handle_urgent_mail(&self) {
        let count = self.backlog.sort(&self.mail);
        self.drain_mail(count);
    }

    /// Leaves the next requests of a connection to the next turn.
    pub(crate) fn enqueue(&self, viewer: &Viewer) {
        self.counters.add(Counter::ViewerTurnsFull, 1);
        viewer.state.set(ViewerState::Queued);
        viewer.expect(Deadline::None, 0);
        self.backlog.viewers.borrow_mut().push_back(viewer.socket);
        self.backlog.is_busy.set(true);
    }

    /// Goes on with what turns before left, a part of each, and ends this turn.
    #[inline]
    pub(crate) fn work_off(&self) {
        if self.backlog.is_busy.get() {
            self.tell_some();
            self.serve_queued();
            self.sweep_viewers();
            self.backlog.is_busy.set(self.backlog.holds_any());
        }
        self.backlog.turn.set(self.backlog.turn.get() + 1);
    }

    /// Goes on with connections that had enough answers in a turn before.
    fn serve_queued(&self) {
        let turn = self.backlog.turn.get();
        for _ in 0..QUEUED_VIEWERS_PER_TURN {
            let Some(socket) = self.backlog.viewers.borrow_mut().pop_front() else { break };
            let Some(viewer) = self.viewer(socket) else { continue };
            if viewer.answered.get().0 == turn {
                // It and all behind it were queued in this turn.
                self.backlog.viewers.borrow_mut().push_front(socket);
                break;
            }
            if viewer.state.get() == ViewerState::Queued {
                self.resume(&viewer);
            }
        }
    }

    /// Tells requests that waited for a fetch what became of it: the first at once, the others in turns that follow.
    pub(crate) fn tell(&self, answers: impl Iterator<Item = (Waiter, Reply)>) {
        let mut answers = answers;
        for (waiter, reply) in answers.by_ref().take(REPLIES_PER_TURN) {
            self.reply(&waiter, reply);
        }
        let mut replies = self.backlog.replies.borrow_mut();
        replies.extend(answers);
        if !replies.is_empty() {
            self.backlog.is_busy.set(true);
        }
    }

    /// Goes on with that.
    fn tell_some(&self) {
        for _ in 0..REPLIES_PER_TURN {
            let Some((waiter, reply)) = self.backlog.replies.borrow_mut().pop_front() else { return };
            self.reply(&waiter, reply);
        }
    }

    /// Looks at some viewers whether their deadline has passed.
    fn sweep_viewers(&self) {
        let Some(from) = self.backlog.sweep_at.get() else { return };
        let now = self.ring.now_millis();
        let is_late =
            |viewer: &&Rc<Viewer>| viewer.deadline.get() != Deadline::None && now >= viewer.deadline_at.get();
        let (late, next) = self.with_viewers(|viewers| {
            let end = (from + SWEPT_PER_TURN).min(viewers.len());
            let some = viewers.get(from..end).unwrap_or_default();
            let late: Vec<Rc<Viewer>> = some.iter().flatten().filter(is_late).cloned().collect();
            (late, (end < viewers.len()).then_some(end))
        });
        self.backlog.sweep_at.set(next);
        for viewer in late {
            self.end_late(&viewer, now);
        }
    }
}
