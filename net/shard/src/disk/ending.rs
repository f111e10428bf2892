//! The orderly end: what is only in memory goes to disk before the process does, so that the next one begins warm.
//!
//! The control thread waits at a gate for all cores once no viewer is left; each core walks its memory, what was used first, offers what the disk
//! does not have and somebody may still use, and ends its segments in order. Invariants: it ends in time whatever the disk does, and says what
//! did not get there; what a rule took, or nothing may serve or validate any more, is not written; a line is never longer than while serving.

use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use aspis_runtime::future;
use aspis_storage::disk::stored::is_of_use;
use aspis_storage::disk::volume::Location;
use aspis_storage::response::StoredResponse;

use super::Disk;
use super::offering::{Why, location, offered_len};
use super::writing::End;
use crate::limits::WRITTEN_OUT_PER_TURN;
use crate::shard::Shard;
use crate::storing::primary_of;

/// What is to be on disk at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What waits to be written.
    Line,
    /// Whatever is in memory and of use.
    Memory,
}

/// What came of writing memory to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Responses that only memory had, and that the disk has now.
    pub written: u64,
    /// Responses that are still only in memory.
    pub left: u64,
}

/// Waits until all cores have written, from another thread.
pub(crate) struct FlushGate(Arc<Gate>);

/// What one core is to write for who waits at the gate; done when it is dropped.
pub(crate) struct Flush {
    gate: Arc<Gate>,
    extent: Extent,
    patience: Duration,
    flushed: Flushed,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waits_for: usize,
    flushed: Flushed,
}

impl FlushGate {
    /// Makes a gate at which nobody is waited for.
    pub(crate) fn new() -> Self {
        FlushGate(Arc::default())
    }

    /// Makes a part that has to be dropped first.
    pub(crate) fn part(&self, extent: Extent, patience: Duration) -> Flush {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).waits_for += 1;
        Flush { gate: Arc::clone(&self.0), extent, patience, flushed: Flushed::default() }
    }

    /// Waits until all parts were dropped and returns what came of them; `None` if that takes longer than `patience`.
    pub(crate) fn wait(&self, patience: Duration) -> Option<Flushed> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.changed.wait_timeout_while(state, patience, |state| state.waits_for > 0);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        (state.waits_for == 0).then_some(state.flushed)
    }
}

impl Flush {
    fn done(mut self, flushed: Flushed) {
        self.flushed = flushed;
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let mut state = self.gate.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waits_for -= 1;
        state.flushed.written += self.flushed.written;
        state.flushed.left += self.flushed.left;
        drop(state);
        self.gate.changed.notify_all();
    }
}

/// What a walk through memory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
    /// To write what was used.
    Used,
    /// To write the rest.
    All,
    /// To see what is not written.
    Count,
}

impl Shard {
    /// Writes what is asked for, and says so when that is done, given up, or cannot be done.
    pub(crate) fn flush_disk(&self, flush: Flush) {
        let shard = self.handle();
        self.ring.spawn(async move {
            let Some(disk) = &shard.disk else { return };
            let flushed = match flush.extent {
                Extent::Line => {
                    // It ends without a word only with the core.
                    let _ = disk.flush().await;
                    Flushed::default()
                }
                Extent::Memory => write_memory(&shard, disk, flush.patience).await,
            };
            flush.done(flushed);
        });
    }

    /// Goes on with a walk through memory, a bounded number of responses: notes what is of use to a start and not wholly on its way to disk, and
    /// returns how many are of use and not there. True at its end.
    fn look_for_missing(&self, disk: &Disk, missing: &mut Vec<Arc<StoredResponse>>) -> (u64, bool) {
        let (mut count, now) = (0, self.ring.wall_seconds());
        let is_through = self.store.borrow_mut().walk(WRITTEN_OUT_PER_TURN, &mut |stored| {
            // What is mapped is there.
            if !is_of_use(stored, now) || !self.holds(stored) || stored.body.mapped().is_some() {
                return;
            }
            let mounted = disk.mounted(primary_of(stored));
            let location = mounted.and_then(|mounted| location(self, stored, &mounted.volume.borrow()));
            count += u64::from(location != Some(Location::Written));
            if location.is_none() {
                missing.push(Arc::clone(stored));
            }
        });
        (count, is_through)
    }

    /// Offers a response once its line has room; false if that is not before the millisecond `until`.
    async fn offer_missing(&self, disk: &Disk, stored: Arc<StoredResponse>, until: u64) -> bool {
        let primary = primary_of(&stored);
        let has_room = disk.has_room_until(primary, offered_len(&stored), until).await;
        // What took its place meanwhile was offered before.
        let is_wanted = stored.is_live() && !(stored.is_on_disk() && disk.is_in_line(primary, stored.hash));
        if has_room && is_wanted {
            self.offer_to_disk(stored, primary, Why::Evicted);
        }
        self.ring.now_millis() < until
    }

    /// Walks through memory once, and returns how many responses of use are not on disk; what is to be written is offered until the millisecond `until`.
    async fn walk_memory(&self, disk: &Disk, walk: Walk, until: u64) -> u64 {
        let (mut count, mut missing, mut is_in_time) = (0, Vec::new(), walk != Walk::Count);
        loop {
            let (found, is_through) = self.look_for_missing(disk, &mut missing);
            count += found;
            for stored in missing.drain(..) {
                if is_in_time && (walk == Walk::All || stored.was_used()) {
                    is_in_time = self.offer_missing(disk, stored, until).await;
                }
            }
            if is_through {
                return count;
            }
            future::yield_now().await;
        }
    }
}

/// Writes whatever is of use and only in memory, for so long.
async fn write_memory(shard: &Rc<Shard>, disk: &Disk, patience: Duration) -> Flushed {
    let until = shard.ring.now_millis() + patience.as_millis() as u64;
    disk.end(End::Begun);
    // A walk for what was used lately may be under way; the next begins where it ends.
    if shard.restores.walk.is_on.replace(false) {
        while !shard.store.borrow_mut().walk(WRITTEN_OUT_PER_TURN, &mut |_| {}) {
            future::yield_now().await;
        }
    }
    let missing = shard.walk_memory(disk, Walk::Used, until).await;
    shard.walk_memory(disk, Walk::All, until).await;
    disk.is_empty_until(until).await;
    disk.end(End::Over);
    disk.drop_lines();
    // It ends without a word only with the core.
    let _ = disk.flush().await;
    let left = shard.walk_memory(disk, Walk::Count, until).await;
    Flushed { written: missing.saturating_sub(left), left }
}
