//! Finds the share of probation that suits the site, by playing a sample of its keys through small caches with different shares.
//!
//! A cache of one in 256 of the capacity, asked for one key in 256, misses about as often as the whole would with the same share. All three
//! see the same requests, so they differ by their shares alone. Every five minutes of told time, or after so many sampled requests where no
//! time is told, the best share is taken if it has clearly fewer misses than the one in use. Of a small tier more keys are sampled,
//! because a handful of objects says nothing. Invariants: memory is bounded by the number of entries of a small cache; the same requests
//! and times give the same shares.

use super::queues::Queues;
use crate::limits::{
    SHADOW_ENTRIES_MAX, SHADOW_LEN_MIN, SHADOW_SAMPLE_BITS, TUNING_REQUESTS, TUNING_SECONDS, USE_COUNT_MAX,
};
use crate::policy::{Entries, Handle};
use crate::table::{Placed, Table};

/// The shares that are tried, in percent.
const SHARES: [u64; 3] = [0, 10, 50];

/// The share that a new tier begins with.
pub(super) const SHARE_FIRST: u64 = 10;

/// Chooses a share.
#[derive(Debug)]
pub(super) struct Tuner {
    shadows: [Shadow; SHARES.len()],
    /// Which of the shares is in use.
    current: usize,
    /// For each share: sampled requests that missed with it and not with the current one, and the other way round.
    worse: [u64; SHARES.len()],
    better: [u64; SHARES.len()],
    misses: u64,
    requests: u64,
    sample_bits: u32,
    is_stopped: bool,
    /// When this period began, if time is told.
    began: Option<u64>,
}

/// A small cache of nothing but hashes and lengths.
#[derive(Debug)]
struct Shadow {
    table: Table<Entry>,
    queues: Queues,
    capacity: u64,
}

#[derive(Debug)]
struct Entry {
    hash: u128,
    uses: u8,
}

impl Placed for Entry {
    fn place(&self) -> u128 {
        self.hash
    }
}

impl Entries for Table<Entry> {
    fn take_uses(&mut self, entry: Handle) -> u8 {
        self.at_mut(entry.0).map_or(0, |entry| std::mem::take(&mut entry.uses))
    }

    fn hash(&self, entry: Handle) -> u128 {
        self.at(entry.0).map_or(0, |entry| entry.hash)
    }
}

impl Tuner {
    /// Makes a tuner for a tier of `capacity` bytes.
    pub(super) fn new(capacity: u64) -> Tuner {
        let sample_bits = (capacity / SHADOW_LEN_MIN).max(1).ilog2().min(SHADOW_SAMPLE_BITS);
        let capacity = capacity >> sample_bits;
        Tuner {
            shadows: SHARES.map(|share| Shadow::new(capacity, share)),
            current: SHARES.iter().position(|share| *share == SHARE_FIRST).unwrap_or(0),
            worse: [0; SHARES.len()],
            better: [0; SHARES.len()],
            misses: 0,
            requests: 0,
            sample_bits,
            is_stopped: false,
            began: None,
        }
    }

    /// Ends the search.
    pub(super) fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// Tells whether requests for a key are to be told.
    pub(super) fn is_sampled(&self, hash: u128) -> bool {
        // Bits that choose neither the core nor a chain of the tier's table.
        ((hash >> 32) as u32) & ((1 << self.sample_bits) - 1) == 0 && !self.is_stopped
    }

    /// Returns the bytes that this takes.
    pub(super) fn memory(&self) -> u64 {
        self.shadows.iter().map(|shadow| shadow.table.memory() + shadow.queues.memory()).sum()
    }

    /// Returns the most bytes by which the next request lets this grow.
    pub(super) fn growth(&self) -> u64 {
        let growth =
            |shadow: &Shadow| shadow.table.growth() + shadow.queues.growth(Handle(shadow.table.end()));
        if self.is_stopped { 0 } else { self.shadows.iter().map(growth).sum() }
    }

    /// Plays a request for a sampled key; the share that is to be used from now on, if another is.
    pub(super) fn note_request(&mut self, hash: u128, len: u64) -> Option<u64> {
        let hits = self.shadows.each_mut().map(|shadow| shadow.request(hash, len));
        self.requests += 1;
        self.misses += u64::from(!hits[self.current]);
        for (share, hit) in hits.into_iter().enumerate() {
            self.worse[share] += u64::from(!hit && hits[self.current]);
            self.better[share] += u64::from(hit && !hits[self.current]);
        }
        let is_over = self.began.is_none() && self.requests >= TUNING_REQUESTS;
        if is_over { self.choose() } else { None }
    }

    /// Notes the time; the share that is to be used from now on, if another is.
    pub(super) fn note_time(&mut self, now: u64) -> Option<u64> {
        let began = *self.began.get_or_insert(now);
        if now < began.saturating_add(TUNING_SECONDS) {
            return None;
        }
        self.began = Some(now);
        self.choose()
    }

    /// Ends a period.
    fn choose(&mut self) -> Option<u64> {
        let gain = |share: usize| self.better[share].saturating_sub(self.worse[share]);
        let best = (0..SHARES.len()).max_by_key(|share| gain(*share))?;
        let (gained, differing) = (gain(best), self.better[best] + self.worse[best]);
        // By more than a hundredth of the misses, and by more than chance explains: three deviations of as many tosses of a coin as
        // there were requests that told the two apart.
        let is_clear = gained * 100 > self.misses && gained * gained > 9 * differing;
        self.worse = [0; SHARES.len()];
        self.better = [0; SHARES.len()];
        (self.misses, self.requests) = (0, 0);
        if !is_clear || best == self.current {
            return None;
        }
        self.current = best;
        Some(SHARES[best])
    }
}

impl Shadow {
    fn new(capacity: u64, share: u64) -> Shadow {
        // A fingerprint for each KiB; that of a whole tier has more, but all three are alike.
        let ghost_memory_max = (capacity / 128).min((SHADOW_ENTRIES_MAX * size_of::<u64>()) as u64);
        Shadow { table: Table::new(), queues: Queues::new(capacity, share, ghost_memory_max), capacity }
    }

    /// Plays a request and tells whether it was a hit.
    fn request(&mut self, hash: u128, len: u64) -> bool {
        if let Some(entry) = self.table.get_mut(hash) {
            entry.uses = (entry.uses + 1).min(USE_COUNT_MAX);
            return true;
        }
        if len > self.capacity {
            return false;
        }
        while self.queues.len() + len > self.capacity || self.table.len() >= SHADOW_ENTRIES_MAX {
            let Some(entry) = self.queues.evict(&mut self.table) else { return false };
            self.table.remove(entry.0);
        }
        let position = self.table.insert(Entry { hash, uses: 0 });
        self.queues.insert(Handle(position), hash, len, None);
        false
    }
}
