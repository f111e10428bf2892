//! One core's stored responses: found by key, replaced, and evicted when room is needed.
//!
//! The owner core's driver asks and inserts; nothing here is shared with another core but the responses themselves. Invariants:
//! a response is found only by its full key, while it is live; it has a complete body; whatever leaves the index is marked gone;
//! what the tables take is charged as index before they take it.

mod leaving;
mod room;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use aspis_cache::key::{PART_SUFFIX, hash};
use aspis_cache::range::ByteRange;

use crate::budget::{Budget, Charge, Purpose, Stored};
use crate::expiry::Expiries;
use crate::limits::{OBJECT_RESERVE_SHARE, SAMPLE_COUNT_MAX};
use crate::mapping::arena::Arena;
use crate::mapping::body::BodyState;
use crate::parts::PartsTable;
use crate::policy::{Entries, Handle, Policy, SizeAware};
use crate::response::StoredResponse;
use crate::table::{Placed, Table};
use crate::vary::VaryTable;
use leaving::Leaving;

/// One core's part of the cache in memory.
#[derive(Debug)]
pub struct RamTier<P = SizeAware> {
    index: Table<Entry>,
    /// For each URI that varies: by what, and which variants are stored.
    vary: VaryTable,
    /// For each URI of which parts are stored: which ranges they are, and where they stand.
    parts: PartsTable,
    policy: P,
    expiries: Expiries,
    /// Bytes that the policy was made for.
    capacity: u64,
    /// The latest wall second that was told.
    now: u64,
    arena: Arena,
    budget: Arc<Budget>,
    /// What index, policy and expiries take.
    charge: Charge,
    /// Uses of sampled keys that the policy was not told of yet.
    samples: RefCell<Vec<(u128, u64)>>,
    stored: Stored,
    /// Of those, the bytes of the arena.
    payload: u64,
    round: Round,
    walked: Round,
    /// What was evicted and may go to disk.
    leaving: Leaving,
}

/// A walk over all entries by their positions.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    next: u32,
    /// Where the last one was when the round began; later ones are newcomers.
    end: u32,
}

impl Round {
    /// Takes the next places of an index that ends at `end`, so many at most, and tells whether the round is through with them.
    fn step(&mut self, end: u32, count_max: usize) -> (Range<u32>, bool) {
        if self.next == 0 {
            self.end = end;
        }
        let from = self.next;
        let until = self.end.min(from.saturating_add(count_max.try_into().unwrap_or(u32::MAX)));
        let is_through = until == self.end;
        self.next = if is_through { 0 } else { until };
        (from..until, is_through)
    }
}

#[derive(Debug)]
struct Entry {
    response: Arc<StoredResponse>,
    /// Where it is listed among the expiries, if it is.
    expiry: u32,
}

// What the tables take for each stored response: its slot and chains, the policy's part, and a place among the expiries.
const _: () = assert!(Table::<Entry>::ENTRY_COST + SizeAware::ENTRY_COST + Expiries::ENTRY_COST <= 96);

impl Placed for Entry {
    fn place(&self) -> u128 {
        self.response.place()
    }
}

impl Entries for Table<Entry> {
    fn take_uses(&mut self, entry: Handle) -> u8 {
        self.at(entry.0).map_or(0, |entry| entry.response.take_uses())
    }

    fn hash(&self, entry: Handle) -> u128 {
        self.at(entry.0).map_or(0, Placed::place)
    }
}

/// Why a response was not taken in; it is handed back.
#[derive(Debug)]
pub enum Refused {
    /// The budget has no room for the entry, even after evicting.
    NoMemory(Arc<StoredResponse>),
    /// The body is still filling, or failed.
    NotComplete(Arc<StoredResponse>),
}

/// Returns the length of the largest object that a tier over an arena of `capacity` bytes keeps: all but [`OBJECT_RESERVE_SHARE`] of it.
///
/// Storing it may take all the others' place; what it leaves is for fills that run meanwhile.
pub const fn object_len_max(capacity: u64) -> u64 {
    capacity - capacity / OBJECT_RESERVE_SHARE
}

impl<P: Policy> RamTier<P> {
    /// Makes an empty tier over an arena; the budget is asked when something is inserted.
    pub fn new(arena: Arena, budget: Arc<Budget>) -> RamTier<P> {
        let charge = budget.reserve(Purpose::Index, 0).expect("nothing always fits into a budget");
        let capacity = arena.capacity().min(budget.limit());
        RamTier {
            index: Table::new(),
            vary: VaryTable::new(&budget),
            parts: PartsTable::new(&budget),
            policy: P::new(capacity),
            expiries: Expiries::new(),
            capacity,
            now: 0,
            stored: Stored::none(&budget),
            arena,
            budget,
            charge,
            samples: RefCell::new(Vec::with_capacity(SAMPLE_COUNT_MAX)),
            payload: 0,
            round: Round::default(),
            walked: Round::default(),
            leaving: Leaving::default(),
        }
    }

    /// Returns the live response stored under exactly this key, and counts a use of it; of several parts the latest.
    pub fn lookup(&self, hash: u128, key: &[u8]) -> Option<&Arc<StoredResponse>> {
        let entry = self.index.get(hash).or_else(|| self.latest_part(hash, key))?;
        self.used(entry, key)
    }

    /// Returns the live part stored under exactly this key, that of the parts of a URI, which holds the range `wanted`, and counts a use of
    /// it. `wanted` is told the length of the whole, and names all of it where the whole is asked for.
    ///
    /// Where none holds all of it: a part that holds its first byte, to which the rest can be joined (rule 14 of the RFC 9111 profile);
    /// else the latest, which says only that there are parts.
    pub fn part(
        &self,
        hash: u128,
        key: &[u8],
        wanted: impl FnOnce(u64) -> ByteRange,
    ) -> Option<&Arc<StoredResponse>> {
        if !self.has_parts() {
            return None;
        }
        self.used(self.index.get(self.parts.find(hash, key, wanted)?)?, key)
    }

    /// Returns all parts stored under exactly this key, oldest first; all of one representation.
    pub fn parts(&self, hash: u128, key: &[u8]) -> impl Iterator<Item = &Arc<StoredResponse>> {
        self.parts.places(hash, key).filter_map(|place| self.index.get(place)).map(|entry| &entry.response)
    }

    /// Tells whether what a newcomer would push out was received later than it: the response under its key, or for a part that of its
    /// range and those of another version.
    pub fn holds_newer(&self, newcomer: &StoredResponse) -> bool {
        let others = newcomer.meta.part.map(|part| self.parts.places_of_others(newcomer, part));
        let places = std::iter::once(newcomer.place()).chain(others.into_iter().flatten());
        let entries = places.filter_map(|place| self.index.get(place)).map(|entry| &entry.response);
        entries
            .filter(|held| held.key == newcomer.key && held.is_live())
            .any(|held| held.meta.received_at > newcomer.meta.received_at)
    }

    /// Tells whether a live response that is no part is stored under exactly this key. No use is counted.
    pub fn has(&self, hash: u128, key: &[u8]) -> bool {
        self.index.get(hash).is_some_and(|entry| *entry.response.key == *key && entry.response.is_live())
    }

    /// Returns the request fields by which the responses under exactly this primary key vary, if there are any.
    pub fn vary_names(&self, hash: u128, key: &[u8]) -> Option<&str> {
        self.vary.names(hash, key)
    }

    /// Takes a complete response in and returns the one that it replaces, which is gone then.
    ///
    /// Another key with the same hash is replaced as well: one of two such keys is enough to keep.
    pub fn insert(&mut self, response: Arc<StoredResponse>) -> Result<Option<Arc<StoredResponse>>, Refused> {
        if response.body.progress().state != BodyState::Complete {
            return Err(Refused::NotComplete(response));
        }
        self.tell_samples();
        let place = response.place();
        let (replaced, before) = self.take_with_standing(place).unzip();
        let before =
            before.filter(|_| replaced.as_ref().is_some_and(|replaced| replaced.key == response.key));
        // A URI has one response, or variants: whichever came last says which (RFC 9111 §4.1).
        let outdated = match (&response.variant, response.meta.part) {
            (Some(variant), _) => {
                let primary = &response.key[..variant.primary_len];
                self.take(variant.primary);
                self.remove_parts(primary);
                self.make_room_beside(self.vary.growth(primary, variant));
                self.vary.admit(primary, variant, place)
            }
            (None, Some(part)) => {
                self.make_room_beside(self.parts.growth(&response));
                self.parts.admit(&response, part)
            }
            (None, None) => {
                self.remove_parts(&response.key);
                Some(self.vary.remove(place))
            }
        };
        let Some(outdated) = outdated else { return Err(Refused::NoMemory(response)) };
        for place in outdated {
            self.take(place);
        }
        if !self.cover_entry(&response) {
            self.forget(&response);
            return Err(Refused::NoMemory(response));
        }
        let len = response.charged_len();
        self.stored.add(len);
        self.payload += response.body.charged_len();
        let lists = Expiries::lists(&response);
        let position = self.index.insert(Entry { response: Arc::clone(&response), expiry: 0 });
        self.policy.insert(Handle(position), place, len, before);
        if lists {
            self.expiries.insert(position, &response, &mut note_expiry(&mut self.index));
        }
        Ok(replaced)
    }

    /// Removes the response stored under exactly this key, or all parts, and returns it or one of them, gone.
    pub fn remove(&mut self, hash: u128, key: &[u8]) -> Option<Arc<StoredResponse>> {
        if self.index.get(hash).is_some_and(|entry| *entry.response.key == *key) {
            return self.take(hash);
        }
        let parts: Vec<u128> = self.parts.places(hash, key).collect();
        parts.into_iter().filter_map(|place| self.take(place)).last()
    }

    /// Removes what is stored under exactly this primary key, variants too, and returns how many responses that were.
    pub fn invalidate(&mut self, hash: u128, key: &[u8]) -> usize {
        self.retain_uri(hash, key, &mut |_| false)
    }

    /// Returns what is stored under exactly this primary key: the response, the parts, or the variants.
    pub fn of_uri(&self, hash: u128, key: &[u8]) -> impl Iterator<Item = &Arc<StoredResponse>> {
        self.places_of_uri(hash, key)
            .into_iter()
            .filter_map(|place| self.index.get(place))
            .map(|entry| &entry.response)
    }

    /// Lets those responses under exactly this primary key go for which `keep` is false, variants and parts too, and returns how many
    /// that were. What the URI varies by is forgotten with its last variant.
    pub fn retain_uri(
        &mut self,
        hash: u128,
        key: &[u8],
        keep: &mut dyn FnMut(&Arc<StoredResponse>) -> bool,
    ) -> usize {
        let mut places = self.places_of_uri(hash, key);
        places.retain(|place| self.index.get(*place).is_some_and(|entry| !keep(&entry.response)));
        places.into_iter().filter_map(|place| self.take(place)).count()
    }

    fn places_of_uri(&self, primary: u128, key: &[u8]) -> Vec<u128> {
        let whole = self.index.get(primary).filter(|entry| *entry.response.key == *key).map(|_| primary);
        let mut places: Vec<u128> =
            whole.into_iter().chain(self.vary.variants(primary, key).iter().copied()).collect();
        if self.has_parts() {
            let key = [key, PART_SUFFIX].concat();
            places.extend(self.parts.places(hash(&key), &key));
        }
        places
    }

    /// Goes on with a round over all that is stored: looks at `count_max` places at most, and lets those responses go for which `keep` is
    /// false.
    ///
    /// True with the call that ends a round: `keep` was asked about everything that was stored when the round began and did not leave on
    /// its own. The next call begins the next round. What comes or goes between calls does not hold a round up; newcomers may be
    /// asked about or not.
    pub fn sweep(&mut self, count_max: usize, keep: &mut dyn FnMut(&Arc<StoredResponse>) -> bool) -> bool {
        let (places, is_through) = self.round.step(self.index.end(), count_max);
        for position in places {
            if self.index.at(position).is_some_and(|entry| !keep(&entry.response)) {
                self.take_at(position);
            }
        }
        is_through
    }

    /// Goes on with another round over all that is stored, which takes nothing away: tells `look` of what is at the next `count_max` places.
    /// True with the call that ends a round.
    pub fn walk(&mut self, count_max: usize, look: &mut dyn FnMut(&Arc<StoredResponse>)) -> bool {
        let (places, is_through) = self.walked.step(self.index.end(), count_max);
        places
            .filter_map(|position| self.index.at(position))
            .filter(|entry| entry.response.is_live())
            .for_each(|entry| look(&entry.response));
        is_through
    }

    /// Tells whether any stored response is a part, so that one may be there for a URI without a whole one.
    pub fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    fn latest_part(&self, hash: u128, key: &[u8]) -> Option<&Entry> {
        // Most lookups that find nothing find out here why, without a search.
        if !self.has_parts() {
            return None;
        }
        self.index.get(self.parts.places(hash, key).last()?)
    }

    fn remove_parts(&mut self, primary: &[u8]) {
        if self.has_parts() {
            let key = [primary, PART_SUFFIX].concat();
            self.remove(hash(&key), &key);
        }
    }

    /// Forgets what a response that is not there any more was part of.
    fn forget(&mut self, response: &StoredResponse) {
        if let Some(variant) = &response.variant {
            self.vary.forget(variant.primary, response.hash);
        } else if response.meta.part.is_some() {
            self.parts.forget(response.hash, response.place());
        }
    }

    /// Tells the tier that it is wall second `now` at least; what expired until then leaves first when room is needed.
    ///
    /// Before the first call nothing counts as expired. Time never falls.
    pub fn note_time(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.policy.note_time(self.now);
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        for entry in self.index.values() {
            entry.response.mark_gone();
        }
        self.index.clear();
        self.expiries = Expiries::new();
        self.policy = P::new(self.capacity);
        self.samples.get_mut().clear();
        self.charge.shrink(self.charge.bytes());
        self.vary.clear();
        self.parts.clear();
        self.stored.remove(self.stored.bytes());
        self.payload = 0;
        self.round = Round::default();
        self.walked = Round::default();
    }

    /// Returns how many responses are stored.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Tells whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.index.len() == 0
    }

    /// Returns the bytes charged for the stored responses, without the index.
    pub fn bytes(&self) -> u64 {
        self.stored.bytes()
    }

    /// Returns the arena that bodies of this tier are filled in.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The key decides, since the hash does not resist crafted collisions.
    fn used<'s>(&self, entry: &'s Entry, key: &[u8]) -> Option<&'s Arc<StoredResponse>> {
        let response = &entry.response;
        if *response.key != *key || !response.is_live() {
            return None;
        }
        response.note_use();
        if self.policy.is_sampled(response.place()) {
            self.note_sample(response);
        }
        Some(response)
    }

    fn take(&mut self, place: u128) -> Option<Arc<StoredResponse>> {
        self.take_with_standing(place).map(|(response, _)| response)
    }

    fn take_with_standing(&mut self, place: u128) -> Option<(Arc<StoredResponse>, P::Standing)> {
        self.take_at(self.index.find(place)?)
    }

    fn take_at(&mut self, position: u32) -> Option<(Arc<StoredResponse>, P::Standing)> {
        let entry = self.index.remove(position)?;
        let before = self.policy.remove(Handle(position), entry.response.take_uses());
        Some((self.leave(entry), before))
    }

    /// Settles the accounts of an entry that left the index.
    fn leave(&mut self, entry: Entry) -> Arc<StoredResponse> {
        entry.response.mark_gone();
        self.forget(&entry.response);
        if Expiries::lists(&entry.response) {
            self.expiries.remove(entry.expiry, &entry.response, &mut note_expiry(&mut self.index));
        }
        self.stored.remove(entry.response.charged_len());
        self.payload -= entry.response.body.charged_len();
        entry.response
    }
}

/// Notes in an entry where it is listed among the expiries.
fn note_expiry(index: &mut Table<Entry>) -> impl FnMut(u32, u32) {
    |position, at| {
        if let Some(entry) = index.at_mut(position) {
            entry.expiry = at;
        }
    }
}

#[cfg(test)]
mod expiry_tests;
#[cfg(test)]
mod part_tests;
#[cfg(test)]
mod sweep_tests;
#[cfg(test)]
mod tests;
