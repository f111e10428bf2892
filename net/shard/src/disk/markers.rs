//! By which request fields the URIs vary whose variants are on disk, and which of these variants count.
//!
//! A marker lies on disk under the primary key of a URI that varies. `restore.rs` notes those that it reads, `offering.rs` those that it has
//! written; both ask. Invariants: a variant on disk is of use only to who knows a marker with its names, and only if it was not written
//! before that marker's `valid_from`; what is forgotten here is read again, or makes what was written before useless, never the other way
//! round. Their number is bounded, and every byte is charged.

use std::collections::HashMap;
use std::sync::Arc;

use aspis_storage::budget::{Budget, Charge, Purpose};

/// What is known of one URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    /// The primary key: the hash proves nothing.
    pub(crate) key: Box<[u8]>,
    /// In lower case and sorted, separated by commas.
    pub(crate) names: Box<str>,
    /// Variants with a smaller number were written under another rule, or before the URI was invalidated.
    pub(crate) valid_from: u64,
}

/// The markers that were read or written lately, by the hash of the primary key.
pub(crate) struct Markers {
    count_max: usize,
    /// When it is full it becomes `older`, which is forgotten.
    newer: HashMap<u128, Marker>,
    older: HashMap<u128, Marker>,
    charge: Charge,
}

impl Markers {
    /// Makes room for `count_max` markers and as many again; none is there yet.
    pub(crate) fn new(count_max: usize, budget: &Arc<Budget>) -> Self {
        let charge = budget.reserve(Purpose::Index, 0).expect("nothing always fits into a budget");
        Markers { count_max, newer: HashMap::new(), older: HashMap::new(), charge }
    }

    /// What is known of exactly this primary key.
    pub(crate) fn find(&self, primary: u128, key: &[u8]) -> Option<&Marker> {
        let marker = self.newer.get(&primary).or_else(|| self.older.get(&primary))?;
        (*marker.key == *key).then_some(marker)
    }

    /// Notes a marker in place of the one before. Without memory it is not noted, and the one before is forgotten.
    pub(crate) fn note(&mut self, primary: u128, marker: Marker) {
        self.forget(primary);
        if self.newer.len() >= self.count_max {
            self.older = std::mem::take(&mut self.newer);
            let left: u64 = self.older.values().map(Marker::cost).sum();
            self.charge.shrink(self.charge.bytes() - left);
        }
        if self.charge.grow(marker.cost()) {
            self.newer.insert(primary, marker);
        }
    }

    /// Forgets what is known of the URIs under a hash.
    pub(crate) fn forget(&mut self, primary: u128) {
        for marker in [self.newer.remove(&primary), self.older.remove(&primary)].into_iter().flatten() {
            self.charge.shrink(marker.cost());
        }
    }
}

impl Marker {
    /// Its place in a table that is seven eighths full at most and half as full at least, and its bytes.
    fn cost(&self) -> u64 {
        let place = 2 * (size_of::<(u128, Marker)>() + 1);
        (place + self.key.len() + self.names.len()) as u64
    }

    /// Tells whether a variant that was chosen by these names, and written under number `lsn`, counts.
    pub(crate) fn covers(&self, names: &str, lsn: u64) -> bool {
        *self.names == *names && lsn >= self.valid_from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(key: &str, valid_from: u64) -> Marker {
        Marker { key: key.as_bytes().into(), names: "accept".into(), valid_from }
    }

    #[test]
    fn a_marker_is_found_by_its_key_and_covers_what_was_written_under_it() {
        let mut markers = Markers::new(4, &Budget::new(1 << 20));
        markers.note(1, marker("a", 7));
        assert_eq!(markers.find(1, b"a"), Some(&marker("a", 7)));
        assert_eq!((markers.find(1, b"b"), markers.find(2, b"a")), (None, None));
        let marker = markers.find(1, b"a").unwrap();
        assert!(marker.covers("accept", 7) && !marker.covers("accept", 6) && !marker.covers("cookie", 7));
        markers.forget(1);
        assert_eq!(markers.find(1, b"a"), None);
    }

    #[test]
    fn their_number_is_bounded_and_all_of_them_are_charged() {
        let budget = Budget::new(1 << 20);
        let mut markers = Markers::new(4, &budget);
        for number in 0..100 {
            markers.note(number, marker("a", 1));
            markers.note(number, marker("a", 2));
        }
        let known = (0..100).filter(|number| markers.find(*number, b"a").is_some()).count();
        assert!((4..=8).contains(&known) && markers.find(99, b"a").is_some(), "{known}");
        assert_eq!(budget.used(Purpose::Index), known as u64 * marker("a", 1).cost());
        (0..100).for_each(|number| markers.forget(number));
        assert_eq!(budget.used_total(), 0);
    }

    #[test]
    fn without_memory_nothing_is_known() {
        let budget = Budget::new(marker("a", 1).cost());
        let mut markers = Markers::new(4, &budget);
        markers.note(1, marker("a", 1));
        markers.note(2, marker("b", 1));
        assert!(markers.find(1, b"a").is_some() && markers.find(2, b"b").is_none());
        markers.note(1, marker("a rather long key", 2));
        assert_eq!(markers.find(1, b"a"), None, "what is out of date must not be found");
    }
}
