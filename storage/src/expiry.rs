//! Which stored responses are of no more use, so that they leave before any that is.
//!
//! The tier tells what it takes in and what leaves, by positions of its index, and asks when it needs room. Only responses that cannot be validated are listed: an
//! expired one with a validator saves its whole transfer when the origin answers 304, so when it leaves is the policy's decision like that of
//! a fresh one. Invariants: each listed response is in one list, under the time of its own facts; asking costs one step, telling as many as
//! the lists' lengths have digits, and a hit touches nothing here.

use aspis_cache::stored::{StaleIfError, StoredMeta};

use crate::policy::{Heap, Place};
use crate::response::StoredResponse;

/// The responses without validators, by when their use ends, which is the first wall second without; times after the year 2106 count as that.
#[derive(Debug)]
pub(crate) struct Expiries {
    /// Those that nothing may use afterwards.
    dead: Heap,
    /// Those that may be served afterwards if the origin fails, because nothing forbids it.
    last_resort: Heap,
}

impl Expiries {
    /// Bytes that each listed response takes once pages are full.
    pub(crate) const ENTRY_COST: u64 = Heap::ENTRY_COST;

    /// Makes empty lists, which take no memory.
    pub(crate) fn new() -> Expiries {
        Expiries { dead: Heap::new(), last_resort: Heap::new() }
    }

    /// Tells whether a response is one that is listed.
    pub(crate) fn lists(response: &StoredResponse) -> bool {
        !response.can_be_validated()
    }

    /// Notes a response that was taken in at a position, and is listed; `moved` is told for each position where it is listed now.
    pub(crate) fn insert(&mut self, entry: u32, response: &StoredResponse, moved: &mut impl FnMut(u32, u32)) {
        let number = u32::try_from(use_ends_at(&response.meta)).unwrap_or(u32::MAX);
        self.list_of(response).push(Place { number, entry }, moved);
    }

    /// Forgets a response that left and was listed at `at`; `moved` is told as by [`Expiries::insert`].
    pub(crate) fn remove(&mut self, at: u32, response: &StoredResponse, moved: &mut impl FnMut(u32, u32)) {
        self.list_of(response).remove(at, moved);
    }

    /// Returns the position of the response that is of the least use at wall second `now`; `None` while all are of some.
    pub(crate) fn next(&self, now: u64) -> Option<u32> {
        let is_over = |place: &Place| u64::from(place.number) <= now;
        let first = self.dead.first().filter(is_over).or_else(|| self.last_resort.first().filter(is_over));
        first.map(|place| place.entry)
    }

    /// Returns the bytes that this takes.
    pub(crate) fn memory(&self) -> u64 {
        self.dead.memory() + self.last_resort.memory()
    }

    /// Returns the bytes by which the next insert lets this grow.
    pub(crate) fn growth(&self, response: &StoredResponse) -> u64 {
        let list = if is_last_resort(&response.meta) { &self.last_resort } else { &self.dead };
        if Self::lists(response) { list.growth() } else { 0 }
    }

    fn list_of(&mut self, response: &StoredResponse) -> &mut Heap {
        if is_last_resort(&response.meta) { &mut self.last_resort } else { &mut self.dead }
    }
}

/// Returns the first wall second at which a response that cannot be validated is neither fresh nor within a stated allowance to be served
/// stale (RFC 5861 §3 and §4).
pub(crate) fn use_ends_at(meta: &StoredMeta) -> u64 {
    let on_error = match meta.stale_if_error {
        // The allowance includes its last second.
        StaleIfError::Within(seconds) if is_served_on_error(meta) => u64::from(seconds) + 1,
        _ => 0,
    };
    meta.fresh_until() + on_error.max(u64::from(meta.stale_while_revalidate))
}

fn is_last_resort(meta: &StoredMeta) -> bool {
    meta.stale_if_error == StaleIfError::Unstated && is_served_on_error(meta)
}

/// A stored error of the origin's is never served for another one (rule 15 of the RFC 9111 profile).
fn is_served_on_error(meta: &StoredMeta) -> bool {
    meta.status < 500
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_ends_with_the_last_stated_allowance() {
        let fresh = StoredMeta { received_at: 1000, initial_age: 10, lifetime: 60, ..StoredMeta::PLAIN };
        let forbidden = StoredMeta { stale_if_error: StaleIfError::Forbidden, ..fresh };
        let within = StoredMeta { stale_if_error: StaleIfError::Within(30), ..fresh };
        let revalidates = StoredMeta { stale_while_revalidate: 100, ..within };
        let table = [
            (fresh, 1050, true),
            (forbidden, 1050, false),
            (within, 1081, false),
            (revalidates, 1150, false),
            (StoredMeta { stale_while_revalidate: 100, ..fresh }, 1150, true),
            (StoredMeta { status: 503, ..fresh }, 1050, false),
            (StoredMeta { status: 503, ..within }, 1050, false),
        ];
        for (meta, at, last_resort) in table {
            assert_eq!((use_ends_at(&meta), is_last_resort(&meta)), (at, last_resort), "{meta:?}");
        }
    }
}
