//! Putting responses into the store, and new heads in the place of old ones: at the owner of the key, wherever they came from.
//!
//! `fill.rs` brings what is whole, `flight.rs` and `viewer/exchange.rs` what the origin confirmed. Invariants: only the owner's tier takes responses
//! in; what is not taken in is gone; nothing replaces what was fetched later.

use std::sync::Arc;

use aspis_cache::key::{self, PART_SUFFIX};
use aspis_cache::stored::StoredMeta;
use aspis_cache::vary;
use aspis_exchange::{Stored, response_head};
use aspis_storage::mapping::body::Body;
use aspis_storage::response::{Parts, StoredResponse, tags_of};
use aspis_telemetry::Counter;
use aspis_wire::response::ResponseHead;

use crate::disk::offering::Why;
use crate::limits::DEPOSIT_LEN_MAX;
use crate::messages::Message;
use crate::shard::Shard;

impl Shard {
    /// Stores a response at the owner of its key: here, or there as a copy. `unsafes` is how often unsafe requests had invalidated
    /// something when its request was sent.
    pub(crate) fn store_at_owner(&self, stored: Arc<StoredResponse>, unsafes: u64) {
        let owner = self.owner_of(primary_of(&stored));
        if owner == self.core {
            self.admit(&stored);
        } else if stored.body.published() <= DEPOSIT_LEN_MAX {
            self.post(owner, Message::Deposit { stored, unsafes });
        } else {
            // A copy of it is not worth the time; the next fetch is the owner's.
            self.counters.add(Counter::CacheNotStoredSize, 1);
        }
    }

    /// Copies a response that another core filled into this core's arena, and stores it.
    ///
    /// An unsafe request that succeeded since its request was sent may have been for it, a rule certainly was: then it is not stored.
    pub(crate) fn deposit(&self, filled: &StoredResponse, unsafes: u64) {
        if unsafes < self.rules.unsafes() || !self.holds(filled) {
            return;
        }
        // What was filled is in memory.
        let Some(content) = filled.body.in_memory() else { return };
        let mut writer = Body::writer(&self.arena, Some(content.published()));
        if !self.copy_body(&mut writer, content) {
            self.counters.add(Counter::CacheNotStoredMemory, 1);
            return;
        }
        let body = Arc::clone(writer.body());
        writer.complete();
        let parts = Parts {
            hash: filled.hash,
            key: filled.key.clone(),
            head: filled.head.clone(),
            meta: filled.meta,
            body,
            invalidation: filled.invalidation(),
            tags: filled.tags.clone(),
            variant: filled.variant.clone(),
        };
        match self.stored_response(parts) {
            Some(stored) => self.admit(&stored),
            None => self.counters.add(Counter::CacheNotStoredMemory, 1),
        }
    }

    /// Takes a whole response into the tier if it is still wanted; it is gone otherwise.
    ///
    /// What a rule concerns that came after its request was sent is not wanted (I-22); what is taken in was held against all rules so far.
    pub(crate) fn admit(&self, stored: &Arc<StoredResponse>) {
        let counter = if self.is_wanted(stored) {
            if let Ok(replaced) = self.insert(stored) {
                self.owner.collapse.borrow_mut().lift_mark(primary_of(stored));
                let used_before = replaced.is_some_and(|replaced| replaced.was_used());
                self.offer(stored, Why::Stored { used_before });
                return self.counters.add(Counter::CacheStored, 1);
            }
            self.forget_on_disk(stored);
            Counter::CacheNotStoredMemory
        } else {
            Counter::CacheNotStoredFailed
        };
        stored.mark_gone();
        self.counters.add(counter, 1);
    }

    /// Tells whether a response may be taken into the tier: no rule concerns it, and nothing better is there. In the place of what is there
    /// nothing comes back from disk.
    pub(crate) fn is_wanted(&self, stored: &StoredResponse) -> bool {
        let is_late = || stored.is_on_disk() && self.store.borrow().has(stored.hash, &stored.key);
        self.holds(stored) && !self.is_outdated(stored) && !is_late()
    }

    /// Tells whether something better is stored: fetches of one key may run side by side, and rules of selection grow meanwhile.
    fn is_outdated(&self, stored: &StoredResponse) -> bool {
        let store = self.store.borrow();
        let by_names = match &stored.variant {
            Some(variant) => store
                .vary_names(variant.primary, &stored.key[..variant.primary_len])
                .is_some_and(|now| !vary::covers(&variant.names, now)),
            None => store.vary_names(stored.hash, &stored.key).is_some(),
        };
        by_names || store.holds_newer(stored)
    }

    /// Puts `fresh` in the place of `old`, which it describes anew, if `old` is still there.
    ///
    /// I-24: a rule that came after the origin was asked ends the one and the other; by its fields or by those that it had.
    pub(crate) fn replace(&self, fresh: Arc<StoredResponse>, old: &StoredResponse) {
        let is_wanted = self.holds(old) && self.holds(&fresh) && old.is_live();
        let placed = is_wanted && self.insert(&fresh).is_ok();
        if placed {
            self.offer(&fresh, Why::Freshened);
        } else {
            fresh.mark_gone();
        }
        let counter = match (placed, is_wanted) {
            (true, _) => Counter::CacheFreshened,
            (false, true) => Counter::CacheNotStoredMemory,
            (false, false) => Counter::CacheNotStoredFailed,
        };
        self.counters.add(counter, 1);
    }

    /// Removes a response that is out of date.
    pub(crate) fn forget(&self, stored: &Arc<StoredResponse>) {
        let owner = self.owner_of(primary_of(stored));
        if owner == self.core {
            if stored.is_live() {
                self.store.borrow_mut().remove(stored.hash, &stored.key);
            }
            // What took its place, if something did, is not out of date.
            if !self.store.borrow().has(stored.hash, &stored.key) {
                self.forget_on_disk(stored);
            }
        } else {
            self.post(owner, Message::Forget(Arc::clone(stored)));
        }
    }

    /// Puts `fresh` in the place of `old` at the owner of the key.
    pub(crate) fn replace_at_owner(&self, fresh: Arc<StoredResponse>, old: &Arc<StoredResponse>) {
        let owner = self.owner_of(primary_of(old));
        if owner == self.core {
            self.replace(fresh, old);
        } else {
            self.post(owner, Message::Replace { fresh, old: Arc::clone(old) });
        }
    }

    /// Makes a stored response with a new head over the same body (RFC 9111 §3.2); `None` when memory is short.
    ///
    /// Content that is mapped gets none either: it would be written to disk anew, which nobody can read it for.
    ///
    /// Without `meta` it is for one answer only. I-24: it is no newer than what was held of `stored` against the rules, since a rule may
    /// have been accepted before the origin confirmed it that this core did not have yet.
    pub(crate) fn freshened(
        &self,
        stored: &StoredResponse,
        meta: Option<StoredMeta>,
        update: &ResponseHead<'_, '_>,
        invalidation: u64,
    ) -> Option<Arc<StoredResponse>> {
        let body = Arc::clone(stored.body.in_memory()?);
        let meta = meta.unwrap_or(stored.meta);
        let mut head = Vec::with_capacity(stored.head.len() + 256);
        response_head::write_freshened(&self.behavior, &stored.head, &meta, update, self.now(), &mut head);
        // I-19: those that it was stored with, where a 304 does not name others.
        let tags = match tags_of(&head, self.settings.cache_tag_header.as_deref()) {
            none if none.is_empty() => stored.tags.clone(),
            tags => tags,
        };
        let parts = Parts {
            hash: stored.hash,
            key: stored.key.clone(),
            head: head.into(),
            meta,
            body,
            invalidation: invalidation.min(stored.invalidation()),
            tags,
            variant: stored.variant.clone(),
        };
        self.stored_response(parts)
    }

    /// Makes a stored response, for which others are evicted; `None` when memory is short all the same.
    pub(crate) fn stored_response(&self, parts: Parts) -> Option<Arc<StoredResponse>> {
        self.make_room(parts.charged_len());
        StoredResponse::new(parts, &self.budget)
    }
}

/// The hash of the primary key of a response.
pub(crate) fn primary_of(stored: &StoredResponse) -> u128 {
    match (&stored.variant, stored.meta.part) {
        (Some(variant), _) => variant.primary,
        (None, Some(_)) => key::hash(primary_key_of_parts(&stored.key)),
        (None, None) => stored.hash,
    }
}

/// The primary key of the URI whose parts have this key.
pub(crate) fn primary_key_of_parts(key: &[u8]) -> &[u8] {
    &key[..key.len() - PART_SUFFIX.len()]
}

/// The rule number of what a request brings that was sent at `number`, and that completes `joined`: it is as old as the older of both.
pub(crate) fn older_of(number: u64, joined: Option<&StoredResponse>) -> u64 {
    joined.map_or(number, |joined| number.min(joined.invalidation()))
}

/// A stored response as the machine looks at it.
pub(crate) fn view_of(stored: &StoredResponse) -> Stored<'_> {
    Stored {
        meta: &stored.meta,
        head: &stored.head,
        len: stored.body.published(),
        fresh_until: stored.fresh_until(),
    }
}
