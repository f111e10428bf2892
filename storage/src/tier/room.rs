//! How a tier gets room: content by evicting, everything else by letting memory of the arena go, and its own tables by charging them before they grow.
//!
//! The driver asks for room before a fill takes it; the tier itself before it takes an entry in. Invariants: a bounded number of entries leaves
//! in one call; what the tables take is charged at any time, but for what a policy takes while it evicts, which the next insert settles.

use std::sync::Arc;

use super::{RamTier, object_len_max};
use crate::limits::{
    BLOCK_LEN_MIN, DRAIN_COUNT_UNDER_PRESSURE, EVICTION_COUNT_PER_CALL, EVICTION_LEN_MIN, GIVE_UP_KEPT_SHARE,
    GIVE_UP_LEN, GIVE_UP_LEN_MAX, SAMPLE_COUNT_MAX,
};
use crate::mapping::body::{BodyWriter, Tail};
use crate::policy::{Handle, Policy};
use crate::response::StoredResponse;

impl<P: Policy> RamTier<P> {
    /// Evicts until `bytes` more of content, rounded up to whole units, can be allocated, and tells whether they can.
    ///
    /// About `bytes` of content, or a little more where that is little, and a bounded number of them leave in one call: those that sends
    /// still hold free nothing yet, and evicting others instead would empty the cache without helping. A caller that is told `false`
    /// serves uncached.
    pub fn make_room(&mut self, bytes: u64) -> bool {
        let bytes = bytes.next_multiple_of(BLOCK_LEN_MIN as u64);
        let mut evicted_len = 0;
        for _ in 0..EVICTION_COUNT_PER_CALL {
            if self.has_room(bytes) {
                return true;
            }
            if evicted_len >= bytes.max(EVICTION_LEN_MIN) {
                break;
            }
            let Some(response) = self.evict() else { break };
            // Heads and index are freed as well, and let the arena have more, but only content is there for certain.
            evicted_len += response.body.charged_len();
        }
        self.has_room(bytes)
    }

    /// Gives up free memory of the arena until the budget has `bytes` for anything but content, and tells whether it has. Nothing leaves
    /// the tier for it, and what an arena that is full has free between its blocks stays, since the next object would want it back.
    ///
    /// Some more than needed is given up, so that it is not for each head anew, and a bounded amount in one call.
    pub fn give_up_beside(&self, bytes: u64) -> bool {
        self.give_up_but(bytes, self.arena.resident_len() / GIVE_UP_KEPT_SHARE);
        self.budget.missing(bytes) == 0
    }

    /// Gives up free memory as [`RamTier::give_up_beside`] does, then evicts until the budget has `bytes`, then gives up the rest of
    /// the free memory, and tells whether the budget has that now. Bounded as [`RamTier::make_room`] is.
    pub fn make_room_beside(&mut self, bytes: u64) -> bool {
        let (mut evicted_len, bound) = (0, bytes.saturating_mul(2).max(2 * GIVE_UP_LEN));
        let mut given = 0;
        for _ in 0..EVICTION_COUNT_PER_CALL {
            given += self.give_up_but(bytes, self.arena.resident_len() / GIVE_UP_KEPT_SHARE);
            if self.budget.missing(bytes) == 0 {
                return true;
            }
            if evicted_len >= bound || given >= GIVE_UP_LEN_MAX {
                break;
            }
            let Some(response) = self.evict() else { break };
            evicted_len += response.charged_len();
        }
        self.give_up_but(bytes, 0);
        self.budget.missing(bytes) == 0
    }

    /// Lends the next room of a fill, after evicting for it if need be; `None` when memory is short all the same.
    ///
    /// Room for the whole next block is made first: a full tier would give one splinter after another otherwise.
    pub fn tail(&mut self, writer: &mut BodyWriter, len_max: usize) -> Option<Tail> {
        let missing = writer.missing_room(len_max);
        if missing == 0 {
            return writer.tail(len_max);
        }
        // A list of many blocks needs room for itself as well.
        let listed = writer.directory_len_max();
        if listed > 0 {
            self.make_room_beside(listed);
        }
        if !self.make_room(missing) {
            // A smaller block will do too, if there is one.
            self.make_room(BLOCK_LEN_MIN as u64);
        }
        writer.tail(len_max)
    }

    /// Tells whether an object of `len` bytes could be stored, if need be with all that is stored now leaving for it.
    ///
    /// A caller who asks first does not empty the tier for an object that running fills and readers of others leave no room for.
    pub fn could_hold(&self, len: u64) -> bool {
        let in_use = self.arena.filling_len() + self.limbo();
        len <= self.arena.obtainable_len()
            || len.saturating_add(in_use) <= object_len_max(self.arena.reachable_len())
    }

    /// Returns the bytes of bodies that somebody holds though they are neither stored here nor being filled.
    ///
    /// Replica tables of other cores and sends that run hold them; when this grows, sweeps of the tables let go of it. What was
    /// dropped already is not part of it: the arena takes that back by itself.
    pub fn limbo(&self) -> u64 {
        self.arena.held_len().saturating_sub(self.payload).saturating_sub(self.arena.filling_len())
    }

    /// Tells whether content of `bytes` can be allocated, after taking back what was dropped if need be.
    fn has_room(&self, bytes: u64) -> bool {
        let fits = || self.arena.obtainable_len() >= bytes;
        fits() || (self.arena.drain(DRAIN_COUNT_UNDER_PRESSURE) > 0 && fits())
    }

    /// Gives up what the budget is short of `bytes` by, of the arena's free memory beyond `kept`; returns how much that was.
    fn give_up_but(&self, bytes: u64, kept: u64) -> u64 {
        let missing = self.budget.missing(bytes);
        if missing == 0 {
            return 0;
        }
        self.arena.drain(DRAIN_COUNT_UNDER_PRESSURE);
        let spare = self.arena.resident_free_len().saturating_sub(kept);
        self.arena.give_up(missing.clamp(GIVE_UP_LEN, GIVE_UP_LEN_MAX).min(spare))
    }

    /// Lets the response of the least use go: one that is of none any more, else the policy's choice. What is kept for the disk frees
    /// nothing yet, so another leaves with it.
    pub(super) fn evict(&mut self) -> Option<Arc<StoredResponse>> {
        if let Some(position) = self.expiries.next(self.now) {
            return self.take_at(position).map(|(response, _)| response);
        }
        loop {
            let Handle(position) = self.policy.evict(&mut self.index)?;
            let entry = self.index.remove(position).expect("the policy knows exactly what is in the index");
            let is_kept = self.leaving.wants(&entry.response);
            let response = self.leave(entry);
            if !is_kept {
                return Some(response);
            }
            self.leaving.keep(response);
        }
    }

    /// Charges what the tables grow by for one more entry, after evicting for it if need be.
    pub(super) fn cover_entry(&mut self, response: &StoredResponse) -> bool {
        let growth = |tier: &Self| {
            let entry = Handle(tier.index.next());
            tier.index.growth() + tier.policy.growth(entry) + tier.expiries.growth(response)
        };
        let wanted = growth(self);
        self.cover(wanted) || {
            self.make_room_beside(wanted);
            self.cover(growth(self))
        }
    }

    /// Charges what the tables take and `growth` more, and tells whether the budget has that; else nothing is charged.
    pub(super) fn cover(&mut self, growth: u64) -> bool {
        let wanted = self.index.memory() + self.policy.memory() + self.expiries.memory() + growth;
        let charged = self.charge.bytes();
        self.charge.shrink(charged.saturating_sub(wanted));
        charged >= wanted || self.charge.grow(wanted - charged)
    }

    /// Keeps a use for the policy; what is too much until something is stored is not missed, since nothing is evicted either.
    #[cold]
    pub(super) fn note_sample(&self, response: &StoredResponse) {
        let mut samples = self.samples.borrow_mut();
        if samples.len() < SAMPLE_COUNT_MAX {
            samples.push((response.place(), response.charged_len()));
        }
    }

    /// Tells the policy of uses of sampled keys, as long as there is memory for what it makes of them.
    pub(super) fn tell_samples(&mut self) {
        let mut samples = self.samples.take();
        for (hash, len) in samples.drain(..) {
            if !self.cover(self.policy.growth(Handle(0))) {
                break;
            }
            self.policy.note_use(hash, len);
        }
        self.samples.replace(samples);
    }
}
