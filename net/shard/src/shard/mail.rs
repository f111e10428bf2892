//! Mail: what this core tells others, and what is done with what it is told.
//!
//! Everybody in the shard posts; `backlog.rs` says which message is next. Invariants: what is posted to one core arrives in that order; nothing
//! waits for a full mailbox, and nothing is lost in front of it.

use std::cell::RefCell;
use std::collections::VecDeque;

use aspis_runtime::heap;
use aspis_runtime::mailbox::Post;
use aspis_telemetry::Counter;

use super::Shard;
use crate::asking::Waiter;
use crate::messages::Message;

/// The way to all mailboxes, and what did not fit into them yet.
pub(super) struct Outbox {
    post: Post<Message>,
    held: RefCell<VecDeque<(usize, Message)>>,
}

impl Outbox {
    pub(super) fn new(post: Post<Message>) -> Self {
        Outbox { post, held: RefCell::default() }
    }

    /// Tells whether everything that was posted is in its mailbox.
    pub(super) fn is_empty(&self) -> bool {
        self.held.borrow().is_empty()
    }

    /// Sends a message that may overtake what waits here; it comes back when the mailbox is full.
    pub(super) fn send_now(&self, core: usize, message: Message) -> Result<(), Message> {
        self.post.send(core, message)
    }

    /// Tries again to send what did not fit.
    pub(super) fn flush(&self) {
        let mut held = self.held.borrow_mut();
        while let Some((core, message)) = held.pop_front() {
            if let Err(message) = self.post.send(core, message) {
                held.push_front((core, message));
                return;
            }
        }
    }

    fn post(&self, core: usize, message: Message) {
        let mut held = self.held.borrow_mut();
        if held.is_empty() {
            if let Err(message) = self.post.send(core, message) {
                held.push_back((core, message));
            }
        } else {
            held.push_back((core, message));
        }
    }
}

impl Shard {
    /// Sends a message to every other core.
    pub(crate) fn post_others(&self, message: impl Fn() -> Message) {
        for core in (0..self.cores).filter(|core| *core != self.core) {
            self.post(core, message());
        }
    }

    /// Sends a message to another core; when its mailbox is full the message waits here and goes with a later turn.
    pub(crate) fn post(&self, core: usize, message: Message) {
        self.outbox.post(core, message);
    }

    /// The way to all mailboxes, for other threads.
    pub(crate) fn post_box(&self) -> Post<Message> {
        self.outbox.post.clone()
    }

    /// Handles as many messages as are there, `count_max` at most.
    pub(crate) fn drain_mail(&self, count_max: usize) {
        for _ in 0..count_max {
            let Some(message) = self.backlog.next_mail(&self.mail) else { return };
            self.counters.add(Counter::CoreMails, 1);
            match message {
                Message::Addresses(addresses) => self.origin.set_addresses(addresses),
                Message::Tls(config) => self.origin.set_tls(config),
                Message::StopAccepting => self.stop_accepting(),
                Message::Stop => self.stop(),
                Message::FlushLog => self.flush_log(),
                Message::Cap(message) => self.origin.deliver(message),
                Message::Viewer { descriptor, peer } => self.take_over(descriptor, peer),
                Message::Invalidate { hash, key } => self.invalidate_here(hash, &key),
                Message::AskRemoved { core, number, primary } => self.removals_asked(core, number, primary),
                Message::Removed(number) => self.removed(number),
                Message::Ask { core, number, ask } => self.asked(*ask, Waiter::There { core, number }),
                Message::AskRest { core, number, ask } => {
                    self.rest_asked(*ask, &Waiter::There { core, number });
                }
                Message::Left { core, number } => self.left(Some((core, number))),
                Message::Reply { number, reply } => self.replied(number, *reply),
                Message::Progress(fill) => self.fill_changed(&fill),
                Message::Room(fill) => self.fill_has_room(&fill),
                Message::Refresh(refresh) => self.refresh_here(*refresh),
                Message::Deposit { stored, unsafes } => self.deposit(&stored, unsafes),
                Message::Replace { fresh, old } => self.replace(fresh, &old),
                Message::Forget(stored) => self.forget(&stored),
                Message::Rules(batch) => self.apply_rules(&batch),
                Message::ForgetRules(up_to) => self.forget_rules(up_to),
                Message::Explain(question) => self.explain(*question),
                Message::Purged(number) => self.purged(number),
                Message::FlushDisk(flush) => self.flush_disk(flush),
                Message::SweepReplicas => self.sweep_all_replicas(),
                Message::Evict => {
                    heap::give_back();
                    self.keep_within_limit();
                }
                Message::MakeWay => self.keep_within_limit(),
            }
        }
    }
}
