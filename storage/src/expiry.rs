//! Which stored responses are of no more use, so that they leave before any that is.
//!
//! The tier tells what it takes in and what leaves, and asks when it needs room. Only responses that cannot be validated are listed: an
//! expired one with a validator saves its whole transfer when the origin answers 304, so when it leaves is the policy's decision like that of
//! a fresh one. Invariants: each listed response is in one list, under the time of its own facts; asking costs as many steps as the lists'
//! lengths have digits, and a hit touches nothing here.

use std::collections::BTreeSet;

use aspis_cache::stored::{StaleIfError, StoredMeta};

use crate::response::StoredResponse;

/// The responses without validators, by when their use ends.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    /// Those that nothing may use afterwards.
    dead: BTreeSet<Due>,
    /// Those that may be served afterwards if the origin fails, because nothing forbids it.
    last_resort: BTreeSet<Due>,
}

/// When a response's use ends, and which one it is. In the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    /// The first wall second without use; times after the year 2106 count as that.
    at: u32,
    place: [u8; 16],
}

impl Expiries {
    /// Bytes that one listed response takes at worst: in a tree of nodes of 11 places of which 5 are used.
    pub(crate) const COST: u64 = (3 * size_of::<Due>()) as u64;

    /// Tells whether a response is one that is listed.
    pub(crate) fn lists(response: &StoredResponse) -> bool {
        !response.can_be_validated()
    }

    /// Notes a response that was taken in.
    pub(crate) fn insert(&mut self, response: &StoredResponse) {
        if Self::lists(response) {
            self.list_of(response).insert(due(response));
        }
    }

    /// Forgets a response that left.
    pub(crate) fn remove(&mut self, response: &StoredResponse) {
        if Self::lists(response) {
            let was_listed = self.list_of(response).remove(&due(response));
            debug_assert!(was_listed, "what leaves was taken in");
        }
    }

    /// Returns the place of the response that is of the least use at wall second `now`; `None` while all are of some.
    pub(crate) fn next(&self, now: u64) -> Option<u128> {
        let is_over = |due: &&Due| u64::from(due.at) <= now;
        let due = self.dead.first().filter(is_over).or_else(|| self.last_resort.first().filter(is_over))?;
        Some(u128::from_ne_bytes(due.place))
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Expiries::default();
    }

    fn list_of(&mut self, response: &StoredResponse) -> &mut BTreeSet<Due> {
        if is_last_resort(&response.meta) { &mut self.last_resort } else { &mut self.dead }
    }
}

fn due(response: &StoredResponse) -> Due {
    let at = u32::try_from(use_ends_at(&response.meta)).unwrap_or(u32::MAX);
    Due { at, place: response.place().to_ne_bytes() }
}

/// Returns the first wall second at which a response that cannot be validated is neither fresh nor within a stated allowance to be served
/// stale (RFC 5861 §3 and §4).
fn use_ends_at(meta: &StoredMeta) -> u64 {
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
