//! The answer to an unsafe request waits until the disk knows what it made out of date, so that a crash does not bring that back after the
//! viewer was told (RFC 9111 §4.4).
//!
//! `viewer/exchange.rs` comes here once it has invalidated everywhere; the owner of each key says when its volume has it. Invariants: without
//! a disk nothing waits; a device that does not answer costs a bounded time; a request that leaves gives up its place.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use aspis_runtime::sync::Notify;

use crate::limits::DISK_REMOVAL_PATIENCE;
use crate::messages::Message;
use crate::shard::Shard;

/// The requests of one core that wait for volumes of others.
#[derive(Default)]
pub(crate) struct Removals {
    waiting: RefCell<HashMap<u64, Rc<Notify>>>,
    next: Cell<u64>,
}

/// A request's place among those that wait; leaving it frees it.
struct Place<'s> {
    removals: &'s Removals,
    number: u64,
    written: Rc<Notify>,
}

impl<'s> Place<'s> {
    fn take(removals: &'s Removals) -> Self {
        let number = removals.next.replace(removals.next.get() + 1);
        let written = Rc::new(Notify::new());
        removals.waiting.borrow_mut().insert(number, Rc::clone(&written));
        Place { removals, number, written }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.removals.waiting.borrow_mut().remove(&self.number);
    }
}

impl Shard {
    /// Waits until what was removed so far under these primary keys does not come back with a restart.
    pub(crate) async fn removals_written(&self, primaries: &[u128]) {
        let Some(disk) = &self.disk else { return };
        for primary in primaries {
            let owner = self.owner_of(*primary);
            if owner == self.core {
                disk.removals_written(*primary).await;
                continue;
            }
            let place = Place::take(&self.removals);
            let written = place.written.notified();
            // Behind the message that removes, in the same mailbox.
            self.post(
                owner,
                Message::AskRemoved { core: self.core, number: place.number, primary: *primary },
            );
            let _ = self.ring.timeout(DISK_REMOVAL_PATIENCE, written).await;
        }
    }

    /// A request of another core waits for what was removed here.
    pub(crate) fn removals_asked(&self, core: usize, number: u64, primary: u128) {
        let shard = self.handle();
        self.ring.spawn(async move {
            if let Some(disk) = &shard.disk {
                disk.removals_written(primary).await;
            }
            shard.post(core, Message::Removed(number));
        });
    }

    /// The owner's word came for a request of this core.
    pub(crate) fn removed(&self, number: u64) {
        if let Some(written) = self.removals.waiting.borrow().get(&number) {
            written.notify_all();
        }
    }
}
