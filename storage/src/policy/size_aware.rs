//! The tier's policy: newcomers on probation, the rest by uses and size, a memory of what left, and a share for probation that is found
//! while running.
//!
//! [`queues`] is the order itself. Which share is best depends on the site, so a sample of the keys is also played through three small caches with
//! different shares, and every few minutes the best share is taken if it clearly is ([`tuner`]). Memory and work are bounded: the ghost by
//! a share of the capacity, an eviction by a number of steps, a sampled request by three of those.

mod ghost;
mod queues;
mod tuner;

use super::{Entries, Handle, Policy};
use crate::limits::GHOST_MEMORY_SHARE;
use queues::{Queues, Standing};
use tuner::Tuner;

/// Probation, size-aware main part and ghost.
#[derive(Debug)]
pub struct SizeAware {
    queues: Queues,
    tuner: Tuner,
}

impl SizeAware {
    /// Bytes that each entry takes once pages are full, without the ghost.
    pub const ENTRY_COST: u64 = Queues::ENTRY_COST;

    /// Makes a policy whose probation keeps its share, for comparisons.
    pub fn with_share(capacity: u64, percent: u64) -> SizeAware {
        let mut policy = SizeAware::new(capacity);
        policy.queues.set_share(percent);
        policy.tuner.stop();
        policy
    }

    /// Returns the share of probation in percent.
    pub fn share(&self) -> u64 {
        self.queues.share()
    }
}

impl Policy for SizeAware {
    type Standing = Standing;

    fn new(capacity: u64) -> SizeAware {
        SizeAware {
            queues: Queues::new(capacity, tuner::SHARE_FIRST, capacity / GHOST_MEMORY_SHARE),
            tuner: Tuner::new(capacity),
        }
    }

    fn insert(&mut self, entry: Handle, hash: u128, len: u64, before: Option<Standing>) {
        // What takes another's place was found, if stale: its use was told already.
        if before.is_none() && self.tuner.is_sampled(hash) {
            self.note_use(hash, len);
        }
        self.queues.insert(entry, hash, len, before);
    }

    fn remove(&mut self, entry: Handle, uses: u8) -> Standing {
        self.queues.remove(entry, uses)
    }

    fn evict(&mut self, entries: &mut dyn Entries) -> Option<Handle> {
        self.queues.evict(entries)
    }

    fn memory(&self) -> u64 {
        self.queues.memory() + self.tuner.memory()
    }

    fn growth(&self, entry: Handle) -> u64 {
        self.queues.growth(entry) + self.tuner.growth()
    }

    fn is_sampled(&self, hash: u128) -> bool {
        self.tuner.is_sampled(hash)
    }

    fn note_use(&mut self, hash: u128, len: u64) {
        if let Some(share) = self.tuner.note_request(hash, len) {
            self.queues.set_share(share);
        }
    }

    fn note_time(&mut self, now: u64) {
        if let Some(share) = self.tuner.note_time(now) {
            self.queues.set_share(share);
        }
    }
}

#[cfg(test)]
mod tests;
