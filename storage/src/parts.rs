//! Which parts of a representation are stored, so that one that holds the range asked for is found (R-3, R-5, RFC 9111 §3.4).
//!
//! The tier tells what it takes in and what leaves, and asks on a lookup that found nothing whole. All parts of a URI have one key; each has
//! a place of its own in the tier's index, made of the key's hash and the range. Invariants: parts that stand together are of one
//! representation, by a strong validator and the total length; none lies within another of the same or longer freshness; a URI has at most
//! `PART_COUNT_MAX` of them; every byte is charged as index.

use std::sync::Arc;

use aspis_cache::conditional::same_strong;
use aspis_cache::range::ByteRange;
use aspis_cache::stored::Part;
use aspis_wire::date;

use crate::budget::{Budget, Charge, Purpose};
use crate::limits::PART_COUNT_MAX;
use crate::response::StoredResponse;
use crate::table::{Placed, Table};

/// The parts of one tier, by the hash of their key.
#[derive(Debug)]
pub(crate) struct PartsTable {
    sets: Table<Box<PartSet>>,
    charge: Charge,
}

/// The parts of one representation.
#[derive(Debug)]
struct PartSet {
    /// The hash of the key.
    hash: u128,
    key: Box<[u8]>,
    total: u64,
    /// What they were recognised by; `None` if nothing strong, and then there is one part.
    validator: Option<Validator>,
    /// Oldest first; at least one.
    parts: Vec<Held>,
}

/// What tells that two parts are of one representation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Validator {
    Etag(Box<[u8]>),
    /// A date that is strong, because the response was made later (RFC 9110 §8.8.2.2).
    LastModified(u64),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    range: ByteRange,
    fresh_until: u64,
    place: u128,
}

impl Placed for Box<PartSet> {
    fn place(&self) -> u128 {
        self.hash
    }
}

impl PartSet {
    /// What is charged beside its place in the table: the record, and all the parts it may have.
    fn cost(key_len: usize, validator: Option<&Validator>) -> u64 {
        let validator_len = match validator {
            Some(Validator::Etag(tag)) => tag.len(),
            Some(Validator::LastModified(_)) | None => 0,
        };
        let record = size_of::<PartSet>() + PART_COUNT_MAX * size_of::<Held>();
        (record + key_len + validator_len) as u64
    }

    fn charged(&self) -> u64 {
        Self::cost(self.key.len(), self.validator.as_ref())
    }

    /// parts are kept beside each other only where their strong validator and the total length agree.
    fn takes(&self, key: &[u8], total: u64, validator: Option<&Validator>) -> bool {
        *self.key == *key
            && self.total == total
            && validator.is_some()
            && self.validator.as_ref() == validator
    }
}

impl PartsTable {
    /// Makes an empty table.
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        let charge = budget.reserve(Purpose::Index, 0).expect("nothing always fits into a budget");
        PartsTable { sets: Table::new(), charge }
    }

    /// Tells whether there is no part of anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.len() == 0
    }

    /// Returns the place of the part under exactly this key that holds `wanted`, which is asked for by the total length; where none does,
    /// of one that holds its first byte; where none does either, of the latest. Of several the one that is fresh the longest.
    pub(crate) fn find(&self, hash: u128, key: &[u8], wanted: impl FnOnce(u64) -> ByteRange) -> Option<u128> {
        let set = self.sets.get(hash).filter(|set| *set.key == *key)?;
        let wanted = wanted(set.total);
        let first = ByteRange { end: wanted.start.saturating_add(1), ..wanted };
        let best = |wanted| {
            let holding = set.parts.iter().filter(|held| holds(held.range, wanted));
            holding.max_by_key(|held| (held.fresh_until, held.range.len()))
        };
        best(wanted).or_else(|| best(first)).or(set.parts.last()).map(|held| held.place)
    }

    /// Returns the places of all parts under exactly this key, oldest first.
    pub(crate) fn places(&self, hash: u128, key: &[u8]) -> impl Iterator<Item = u128> {
        let set = self.sets.get(hash).filter(|set| *set.key == *key);
        set.into_iter().flat_map(|set| &set.parts).map(|held| held.place)
    }

    /// Returns the places of the parts of another representation than a newcomer's.
    pub(crate) fn places_of_others(
        &self,
        response: &StoredResponse,
        part: Part,
    ) -> impl Iterator<Item = u128> {
        let validator = validator_of(response);
        let set = self.sets.get(response.hash);
        let others = set.filter(|set| !set.takes(&response.key, part.total, validator.as_ref()));
        others.into_iter().flat_map(|set| &set.parts).map(|held| held.place)
    }

    /// Returns the bytes by which the table grows with the first part of a representation.
    pub(crate) fn growth(&self, response: &StoredResponse) -> u64 {
        PartSet::cost(response.key.len(), validator_of(response).as_ref()) + self.sets.growth()
    }

    /// Notes a part whose place is free, and returns the places of those that have to leave for it: all of another representation, what lies within it, or the
    /// oldest of too many.
    ///
    /// `None` when the budget has no room for the first part of a set.
    pub(crate) fn admit(&mut self, response: &StoredResponse, part: Part) -> Option<Vec<u128>> {
        let validator = validator_of(response);
        let same = |set: &PartSet| set.takes(&response.key, part.total, validator.as_ref());
        let mut outdated = Vec::new();
        if !self.sets.get(response.hash).is_some_and(|set| same(set)) {
            outdated = self.remove(response.hash);
            let cost = PartSet::cost(response.key.len(), validator.as_ref());
            if !self.charge.grow(cost + self.sets.growth()) {
                return None;
            }
            let (hash, key) = (response.hash, response.key.clone());
            let set = PartSet { hash, key, total: part.total, validator, parts: Vec::new() };
            self.sets.insert(Box::new(set));
        }
        let set = self.sets.get_mut(response.hash).expect("it was there or was put there");
        let held = Held {
            range: response.range(part),
            fresh_until: response.meta.fresh_until(),
            place: response.place(),
        };
        set.parts.retain(|other| {
            let stays = !holds(held.range, other.range) || other.fresh_until > held.fresh_until;
            if !stays {
                outdated.push(other.place);
            }
            stays
        });
        if set.parts.len() >= PART_COUNT_MAX {
            outdated.push(set.parts.remove(0).place);
        }
        set.parts.push(held);
        Some(outdated)
    }

    /// Forgets one part, and the set with the last.
    pub(crate) fn forget(&mut self, hash: u128, place: u128) {
        let Some(set) = self.sets.get_mut(hash) else { return };
        set.parts.retain(|held| held.place != place);
        if set.parts.is_empty() {
            self.remove(hash);
        }
    }

    /// Forgets all parts under a hash and returns their places.
    pub(crate) fn remove(&mut self, hash: u128) -> Vec<u128> {
        let found = self.sets.take(hash);
        let Some(set) = found else { return Vec::new() };
        self.charge.shrink(set.charged());
        if self.sets.len() == 0 {
            self.clear();
        }
        set.parts.into_iter().map(|held| held.place).collect()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.sets.clear();
        self.charge.shrink(self.charge.bytes());
    }
}

/// Returns where the part with this range stands in the index: at no other part's place, and not at its key's hash.
pub(crate) fn place(hash: u128, range: ByteRange) -> u128 {
    /// Odd, so that no two ranges give the same; large, so that neighbours spread.
    const SPREAD: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let range = u128::from(range.end) << 64 | u128::from(range.start);
    hash.wrapping_add(range.wrapping_mul(SPREAD))
}

fn holds(outer: ByteRange, inner: ByteRange) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// Returns the strong validator of a response, if it has one: its ETag, or where it has none its Last-Modified.
fn validator_of(response: &StoredResponse) -> Option<Validator> {
    let etag = response.single_field("etag");
    if same_strong(etag, etag) {
        return etag.map(|tag| Validator::Etag(tag.into()));
    }
    let modified = response.single_field("last-modified").and_then(date::parse);
    let is_strong = |modified: &u64| *modified < response.meta.generated_at;
    modified.filter(is_strong).filter(|_| etag.is_none()).map(Validator::LastModified)
}
