//! The answer to an unsafe request waits until the disk knows what it made out of date, so that a crash does not bring that back after the
//! viewer was told (RFC 9111 §4.4).
//!
//! `viewer/exchange.rs` comes here once it has invalidated everywhere; the owner of each key says when its volume has it. Invariants: without
//! a disk nothing waits; a device that does not answer costs a bounded time; a request that leaves gives up its place.

use std::rc::Rc;

use aspis_runtime::sync::Notify;

use crate::limits::DISK_REMOVAL_PATIENCE;
use crate::messages::Message;
use crate::shard::Shard;

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
            let place = self.removals.place(Rc::new(Notify::new()));
            let written = place.told.notified();
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
        if let Some(written) = self.removals.find(number) {
            written.notify_all();
        }
    }
}
