//! One core's table of stored responses that other cores own: a hit on them stays on this core.
//!
//! The driver puts in what it served of another core's keys and asks on each request; the owner never knows. What the owner evicts,
//! replaces or invalidates is marked gone there and not found here any more; `sweep` then lets go of its memory. Invariants: a response is
//! found only by its full key and while it is live; the table holds at most its slots, one `Arc` each, and never grows.
//!
//! ```text
//! set = one cache line:  tag tag tag tag | response x 4 | which were used, whose turn it is
//! ```
//!
//! A lookup touches that line and, where a tag fits, the response. Names of variants need no record of their own: a variant stands under its
//! own hash and once more under its primary key's, where it tells what its URI varies by.

use std::cell::Cell;
use std::sync::Arc;

use crate::budget::{Budget, Charge, Purpose};
use crate::limits::REPLICA_WAYS;
use crate::response::StoredResponse;

/// The responses of other cores that one core served lately.
#[derive(Debug)]
pub struct ReplicaTable {
    /// A power of two of them, or none.
    sets: Box<[Set]>,
    /// Slots in use.
    len: usize,
    /// Where the next sweep begins.
    sweep_at: usize,
    _charge: Charge,
}

/// Places for the responses of some hashes, in one cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Set {
    tags: [u32; REPLICA_WAYS],
    slots: [Option<Arc<StoredResponse>>; REPLICA_WAYS],
    /// Bit k is set when slot k was used since the victim was last looked for. This core's alone.
    used: Cell<u8>,
    /// The slot that the next search for a victim begins with.
    hand: u8,
}

const _: () = assert!(size_of::<Set>() == 64);

/// What a slot's response is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sought {
    /// The response itself, by the hash of its own key.
    Response,
    /// What its URI varies by, by the hash of its primary key.
    Names,
}

impl ReplicaTable {
    /// Makes a table of `slots`, rounded up to a power of two; of 0 one that keeps nothing. `None` when the budget refuses.
    pub fn new(slots: usize, budget: &Arc<Budget>) -> Option<ReplicaTable> {
        let set_count =
            if slots == 0 { 0 } else { slots.div_ceil(REPLICA_WAYS).checked_next_power_of_two()? };
        let charge =
            budget.reserve(Purpose::Replicas, (set_count as u64).checked_mul(size_of::<Set>() as u64)?)?;
        let sets = (0..set_count).map(|_| Set::default()).collect();
        Some(ReplicaTable { sets, len: 0, sweep_at: 0, _charge: charge })
    }

    /// Returns how many of `slots` a table of at most `len_max` bytes can have: all of them, or the largest power of two that fits.
    pub fn slots_within(slots: usize, len_max: u64) -> usize {
        let set_count = usize::try_from(len_max / size_of::<Set>() as u64).unwrap_or(usize::MAX);
        match set_count.checked_ilog2() {
            Some(digits) => slots.min((1 << digits) * REPLICA_WAYS),
            None => 0,
        }
    }

    /// Returns the live response stored under exactly this key, and counts a use of it.
    pub fn lookup(&self, hash: u128, key: &[u8]) -> Option<&Arc<StoredResponse>> {
        let response = self.find(hash, key, Sought::Response)?;
        response.note_use();
        Some(response)
    }

    /// Returns the request fields by which the responses under exactly this primary key vary, as far as a live variant here tells.
    pub fn vary_names(&self, hash: u128, key: &[u8]) -> Option<&str> {
        let response = self.find(hash, key, Sought::Names)?;
        response.variant.as_ref().map(|variant| &*variant.names)
    }

    /// Keeps a response; of a variant also what its URI varies by. What is gone leaves for it first, then what was not used lately.
    pub fn insert(&mut self, response: &Arc<StoredResponse>) {
        // What is gone already must not take the place of what came after it.
        if self.sets.is_empty() || !response.is_live() {
            return;
        }
        self.put(response.hash, &response.key, Sought::Response, response);
        if let Some(variant) = &response.variant {
            self.put(variant.primary, &response.key[..variant.primary_len], Sought::Names, response);
        }
    }

    /// Lets go of what is kept under exactly this primary key: the response, and the names without which no variant is found.
    pub fn remove(&mut self, hash: u128, key: &[u8]) {
        for sought in [Sought::Response, Sought::Names] {
            // Where a variant's hash looks like its primary key's, its own slot tells the names as well.
            while let Some(way) = self.way_of(hash, key, sought) {
                let at = self.set_of(hash);
                self.sets[at].slots[way] = None;
                self.len -= 1;
            }
        }
    }

    /// Lets go of gone responses in the next `slots_max` slots, at least one set of them; true when that ends a round over all.
    ///
    /// What went when its slot had been passed already stays until the next round, so a caller who is told of more memory to free
    /// within a round does another.
    pub fn sweep(&mut self, slots_max: usize) -> bool {
        let end = (self.sweep_at + (slots_max / REPLICA_WAYS).max(1)).min(self.sets.len());
        for set in &mut self.sets[self.sweep_at..end] {
            for slot in &mut set.slots {
                if slot.take_if(|response| !response.is_live()).is_some() {
                    self.len -= 1;
                }
            }
        }
        let is_round = end == self.sets.len();
        self.sweep_at = if is_round { 0 } else { end };
        is_round
    }

    /// Returns how many slots are in use: one for each response and one for what each URI varies by, gone ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn set_of(&self, hash: u128) -> usize {
        // The low bits: the top ones name the owner, and keys of few owners must spread over all sets.
        hash as usize & (self.sets.len() - 1)
    }

    fn find(&self, hash: u128, key: &[u8], sought: Sought) -> Option<&Arc<StoredResponse>> {
        let way = self.way_of(hash, key, sought)?;
        let set = &self.sets[self.set_of(hash)];
        let response = set.slots[way].as_ref().filter(|response| response.is_live())?;
        set.note_use(way);
        Some(response)
    }

    /// Returns the slot that holds exactly what is sought, live or not.
    fn way_of(&self, hash: u128, key: &[u8], sought: Sought) -> Option<usize> {
        if self.sets.is_empty() {
            return None;
        }
        let set = &self.sets[self.set_of(hash)];
        let tag = tag_of(hash);
        (0..REPLICA_WAYS).find(|way| {
            let fits = |response: &Arc<StoredResponse>| sought.is(response, hash, key);
            set.tags[*way] == tag && set.slots[*way].as_ref().is_some_and(fits)
        })
    }

    fn put(&mut self, hash: u128, key: &[u8], sought: Sought, response: &Arc<StoredResponse>) {
        let way = self.way_of(hash, key, sought);
        let at = self.set_of(hash);
        let set = &mut self.sets[at];
        let way = way.unwrap_or_else(|| set.victim());
        set.tags[way] = tag_of(hash);
        // What was served just now counts as used, so that it is not the next victim before it could be asked for again.
        set.note_use(way);
        if set.slots[way].replace(Arc::clone(response)).is_none() {
            self.len += 1;
        }
    }
}

impl Sought {
    /// Tells whether a response is what is sought under this hash and exactly this key; the hash alone proves nothing.
    fn is(self, response: &StoredResponse, hash: u128, key: &[u8]) -> bool {
        match self {
            Sought::Response => response.hash == hash && *response.key == *key,
            Sought::Names => response.variant.as_ref().is_some_and(|variant| {
                variant.primary == hash && response.key[..variant.primary_len] == *key
            }),
        }
    }
}

impl Set {
    fn note_use(&self, way: usize) {
        let used = self.used.get() | 1 << way;
        if used != self.used.get() {
            self.used.set(used);
        }
    }

    /// Chooses the slot for a newcomer: an empty one, else a gone one, else the next that was not used since it was last passed.
    fn victim(&mut self) -> usize {
        let is_gone =
            |slot: &Option<Arc<StoredResponse>>| slot.as_ref().is_none_or(|response| !response.is_live());
        if let Some(way) =
            self.slots.iter().position(Option::is_none).or_else(|| self.slots.iter().position(is_gone))
        {
            return way;
        }
        loop {
            let way = usize::from(self.hand);
            self.hand = ((way + 1) % REPLICA_WAYS) as u8;
            if self.used.get() & 1 << way == 0 {
                return way;
            }
            self.used.set(self.used.get() & !(1 << way));
        }
    }
}

/// Returns the bits of a hash that a slot is told apart by at a glance; not those that choose the set.
fn tag_of(hash: u128) -> u32 {
    (hash >> 64) as u32
}

#[cfg(test)]
mod tests;
