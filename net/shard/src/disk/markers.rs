//! What lies on disk under the primary keys of URIs that have more than one response there: by which request fields a URI varies and which of
//! its variants count, or which parts of its response are stored.
//!
//! Either is a record under the primary key, in the place that a whole response would have, and the last one written counts. `restore.rs` notes those
//! that it reads, `offering.rs` those that it has written; both ask. Invariants: a variant or a part on disk is of use only to who knows what leads to it,
//! a variant only if it was not written before its marker's `valid_from`; what is forgotten here is read again, or makes what was written before
//! useless, never the other way round. Their number and their bytes are bounded, and every byte is charged.

use std::collections::HashMap;
use std::sync::Arc;

use aspis_storage::budget::{Budget, Charge, Purpose};
use aspis_storage::disk::part_list::PartList;

use crate::limits::MARKER_COST;

/// What is known of one URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    /// The primary key: the hash proves nothing.
    pub(crate) key: Box<[u8]>,
    pub(crate) leads_to: LeadsTo,
}

/// What the record under a primary key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LeadsTo {
    Variants(Variants),
    Parts(PartList),
}

/// By what a URI varies, and which of its variants count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variants {
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
    newer_cost: u64,
    older: HashMap<u128, Marker>,
    charge: Charge,
}

impl Markers {
    /// Makes room for `count_max` markers and as many again, fewer if they are long; none is there yet.
    pub(crate) fn new(count_max: usize, budget: &Arc<Budget>) -> Self {
        let charge = budget.reserve(Purpose::Index, 0).expect("nothing always fits into a budget");
        Markers { count_max, newer: HashMap::new(), newer_cost: 0, older: HashMap::new(), charge }
    }

    /// By what the URI with exactly this primary key varies, if it is known to.
    pub(crate) fn variants(&self, primary: u128, key: &[u8]) -> Option<&Variants> {
        match self.find(primary, key)? {
            LeadsTo::Variants(variants) => Some(variants),
            LeadsTo::Parts(_) => None,
        }
    }

    /// Which parts of the response with exactly this primary key are stored, if some are known to be.
    pub(crate) fn parts(&self, primary: u128, key: &[u8]) -> Option<&PartList> {
        match self.find(primary, key)? {
            LeadsTo::Variants(_) => None,
            LeadsTo::Parts(list) => Some(list),
        }
    }

    fn find(&self, primary: u128, key: &[u8]) -> Option<&LeadsTo> {
        let marker = self.newer.get(&primary).or_else(|| self.older.get(&primary))?;
        (*marker.key == *key).then_some(&marker.leads_to)
    }

    /// Notes a marker in place of the one before. Without memory it is not noted, and the one before is forgotten.
    pub(crate) fn note(&mut self, primary: u128, marker: Marker) {
        self.forget(primary);
        let cost = marker.cost();
        if self.newer.len() >= self.count_max
            || self.newer_cost + cost > self.count_max as u64 * MARKER_COST && !self.newer.is_empty()
        {
            self.older = std::mem::take(&mut self.newer);
            self.charge.shrink(self.charge.bytes() - self.newer_cost);
            self.newer_cost = 0;
        }
        if self.charge.grow(cost) {
            self.newer.insert(primary, marker);
            self.newer_cost += cost;
        }
    }

    /// Forgets what is known of the URIs under a hash.
    pub(crate) fn forget(&mut self, primary: u128) {
        if let Some(marker) = self.newer.remove(&primary) {
            self.newer_cost -= marker.cost();
            self.charge.shrink(marker.cost());
        }
        if let Some(marker) = self.older.remove(&primary) {
            self.charge.shrink(marker.cost());
        }
    }
}

impl Marker {
    /// Its place in a table that is seven eighths full at most and half as full at least, and its bytes.
    fn cost(&self) -> u64 {
        let place = 2 * (size_of::<(u128, Marker)>() + 1);
        let leads_to_len = match &self.leads_to {
            LeadsTo::Variants(variants) => variants.names.len(),
            LeadsTo::Parts(list) => list.heap_len(),
        };
        (place + self.key.len() + leads_to_len) as u64
    }
}

impl Variants {
    /// Tells whether a variant that was chosen by these names, and written under number `lsn`, counts.
    pub(crate) fn covers(&self, names: &str, lsn: u64) -> bool {
        *self.names == *names && lsn >= self.valid_from
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(key: &str, valid_from: u64) -> Marker {
        let variants = Variants { names: "accept".into(), valid_from };
        Marker { key: key.as_bytes().into(), leads_to: LeadsTo::Variants(variants) }
    }

    #[test]
    fn a_marker_is_found_by_its_key_and_covers_what_was_written_under_it() {
        let mut markers = Markers::new(4, &Budget::new(1 << 20));
        markers.note(1, marker("a", 7));
        assert_eq!(markers.find(1, b"a"), Some(&marker("a", 7).leads_to));
        assert_eq!(
            (markers.find(1, b"b"), markers.find(2, b"a"), markers.parts(1, b"a")),
            (None, None, None)
        );
        let found = markers.variants(1, b"a").unwrap();
        assert!(found.covers("accept", 7) && !found.covers("accept", 6) && !found.covers("cookie", 7));
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
    fn long_ones_leave_sooner() {
        let budget = Budget::new(1 << 20);
        let mut markers = Markers::new(4, &budget);
        let key = "k".repeat(3 * MARKER_COST as usize);
        (0..10).for_each(|number| markers.note(number, marker(&key, 1)));
        let known = (0..10).filter(|number| markers.find(*number, key.as_bytes()).is_some()).count();
        assert_eq!(known, 2, "each fills its half");
        assert_eq!(budget.used(Purpose::Index), 2 * marker(&key, 1).cost());
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
