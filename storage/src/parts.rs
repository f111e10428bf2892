//! Which parts of a representation are stored, so that one that holds the range asked for is found (R-3, R-5, RFC 9111 §3.4).
//!
//! The tier tells what it takes in and what leaves, and asks on a lookup that found nothing whole; on disk a list of the same form leads to the
//! parts that lie there (`disk/part_list.rs`). All parts of a URI have one key; each has a place of its own in the tier's index, made of the key's
//! hash and the range. Invariants: parts that stand together are of one representation, by a strong validator and the total length; none lies
//! within another of the same or longer freshness; a URI has at most `PART_COUNT_MAX` of them in memory; every byte is charged as index.

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

/// The parts of one representation in a tier.
#[derive(Debug)]
struct PartSet {
    /// The hash of the key.
    hash: u128,
    key: Box<[u8]>,
    ranges: Ranges,
}

/// Which parts of one representation are stored; at least one once it is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Bytes of the whole.
    pub(crate) total: u64,
    /// What they were recognised by; `None` if nothing strong, and then there is one part.
    pub(crate) validator: Option<Validator>,
    /// Oldest first.
    pub(crate) held: Vec<Held>,
}

/// What tells that two parts are of one representation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Validator {
    Etag(Box<[u8]>),
    /// A date that is strong, because the response was made later (RFC 9110 §8.8.2.2).
    LastModified(u64),
}

/// One part that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) range: ByteRange,
    pub(crate) fresh_until: u64,
}

impl Placed for Box<PartSet> {
    fn place(&self) -> u128 {
        self.hash
    }
}

impl PartSet {
    /// What is charged beside its place in the table: the record, and all the parts it may have.
    fn cost(key_len: usize, validator: Option<&Validator>) -> u64 {
        let record = size_of::<PartSet>() + PART_COUNT_MAX * size_of::<Held>();
        (record + key_len + validator.map_or(0, Validator::heap_len)) as u64
    }

    fn charged(&self) -> u64 {
        Self::cost(self.key.len(), self.ranges.validator.as_ref())
    }

    fn takes(&self, key: &[u8], total: u64, validator: Option<&Validator>) -> bool {
        *self.key == *key && self.ranges.takes(total, validator)
    }
}

impl Validator {
    /// Returns the bytes of the heap that it takes.
    pub(crate) fn heap_len(&self) -> usize {
        match self {
            Validator::Etag(tag) => tag.len(),
            Validator::LastModified(_) => 0,
        }
    }
}

impl Ranges {
    /// Names no part yet of the representation that this is a part of.
    pub(crate) fn of(response: &StoredResponse, part: Part) -> Self {
        Ranges { total: part.total, validator: validator_of(response), held: Vec::new() }
    }

    /// parts are kept beside each other only where their strong validator and the total length agree.
    pub(crate) fn takes(&self, total: u64, validator: Option<&Validator>) -> bool {
        self.total == total && validator.is_some() && self.validator.as_ref() == validator
    }

    /// Returns the part that holds `wanted` and is fresh after `now`, if that is said; of several the one that is fresh the longest.
    pub(crate) fn holding(&self, wanted: ByteRange, now: Option<u64>) -> Option<ByteRange> {
        let is_fresh = |held: &&Held| now.is_none_or(|now| held.fresh_until > now);
        let holding = self.held.iter().filter(is_fresh).filter(|held| holds(held.range, wanted));
        holding.max_by_key(|held| (held.fresh_until, held.range.len())).map(|held| held.range)
    }

    /// Adds a part, and returns those that leave for it: what lies within it, or the oldest of more than `count_max`.
    pub(crate) fn add(&mut self, new: Held, count_max: usize) -> Vec<ByteRange> {
        let mut leaving = Vec::new();
        self.held.retain(|other| {
            let stays = !holds(new.range, other.range) || other.fresh_until > new.fresh_until;
            if !stays {
                leaving.push(other.range);
            }
            stays
        });
        if self.held.len() >= count_max {
            leaving.push(self.held.remove(0).range);
        }
        self.held.push(new);
        leaving
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
        let ranges = &set.ranges;
        let wanted = wanted(ranges.total);
        let first = ByteRange { end: wanted.start.saturating_add(1), ..wanted };
        let latest = || ranges.held.last().map(|held| held.range);
        let range = ranges.holding(wanted, None).or_else(|| ranges.holding(first, None)).or_else(latest)?;
        Some(place(hash, range))
    }

    /// Returns the places of all parts under exactly this key, oldest first.
    pub(crate) fn places(&self, hash: u128, key: &[u8]) -> impl Iterator<Item = u128> {
        let set = self.sets.get(hash).filter(|set| *set.key == *key);
        set.into_iter().flat_map(|set| &set.ranges.held).map(move |held| place(hash, held.range))
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
        let hash = response.hash;
        others.into_iter().flat_map(|set| &set.ranges.held).map(move |held| place(hash, held.range))
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
            let ranges = Ranges { total: part.total, validator, held: Vec::new() };
            self.sets.insert(Box::new(PartSet { hash, key, ranges }));
        }
        let set = self.sets.get_mut(response.hash).expect("it was there or was put there");
        let held = Held { range: response.range(part), fresh_until: response.meta.fresh_until() };
        let leaving = set.ranges.add(held, PART_COUNT_MAX);
        outdated.extend(leaving.into_iter().map(|range| place(response.hash, range)));
        Some(outdated)
    }

    /// Forgets one part, and the set with the last.
    pub(crate) fn forget(&mut self, hash: u128, forgotten: u128) {
        let Some(set) = self.sets.get_mut(hash) else { return };
        set.ranges.held.retain(|held| place(hash, held.range) != forgotten);
        if set.ranges.held.is_empty() {
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
        set.ranges.held.into_iter().map(|held| place(hash, held.range)).collect()
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
pub(crate) fn validator_of(response: &StoredResponse) -> Option<Validator> {
    let etag = response.single_field("etag");
    if same_strong(etag, etag) {
        return etag.map(|tag| Validator::Etag(tag.into()));
    }
    let modified = response.single_field("last-modified").and_then(date::parse);
    let is_strong = |modified: &u64| *modified < response.meta.generated_at;
    modified.filter(is_strong).filter(|_| etag.is_none()).map(Validator::LastModified)
}
