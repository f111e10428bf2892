//! The replica table: found by full key while live, bounded, victims in order, and never another's answer than a plain map's.

use std::collections::HashMap;

use aspis_cache::stored::StoredMeta;
use proptest::prelude::*;

use super::*;
use crate::mapping::arena::Arena;
use crate::mapping::body::Body;
use crate::response::{Parts, VariantOf};

/// Makes responses; their bodies are empty, which nothing here looks at.
struct Maker {
    budget: Arc<Budget>,
    arena: Arena,
}

impl Maker {
    fn new() -> Maker {
        let budget = Budget::new(1 << 24);
        Maker { arena: Arena::new(1, Arc::clone(&budget)).unwrap(), budget }
    }

    fn make(&self, hash: u128, key: &[u8], variant: Option<VariantOf>) -> Arc<StoredResponse> {
        let writer = Body::writer(&self.arena, Some(0));
        let body = Arc::clone(writer.body());
        writer.complete();
        let (key, head) = (key.into(), [0; 9].into());
        let parts = Parts {
            hash,
            key,
            head,
            meta: StoredMeta::PLAIN,
            body,
            invalidation: 0,
            tags: Box::default(),
            variant,
        };
        StoredResponse::new(parts, &self.budget).unwrap()
    }

    fn plain(&self, hash: u128, key: &[u8]) -> Arc<StoredResponse> {
        self.make(hash, key, None)
    }

    /// A variant of the URI `primary` by `names`; its key is the primary one and what was selected.
    fn variant(
        &self,
        hash: u128,
        primary: (u128, &[u8]),
        selected: &[u8],
        names: &str,
    ) -> Arc<StoredResponse> {
        let of = VariantOf { primary: primary.0, primary_len: primary.1.len(), names: names.into() };
        self.make(hash, &[primary.1, selected].concat(), Some(of))
    }
}

fn table(slots: usize) -> ReplicaTable {
    ReplicaTable::new(slots, &Budget::new(1 << 24)).unwrap()
}

#[test]
fn slots_are_rounded_up_charged_and_refused() {
    let budget = Budget::new(2048);
    let table = ReplicaTable::new(65, &budget).unwrap();
    assert_eq!((table.sets.len() * REPLICA_WAYS, budget.used(Purpose::Replicas)), (128, 2048));
    assert!(ReplicaTable::new(1, &budget).is_none());
    assert!(ReplicaTable::new(usize::MAX, &budget).is_none());
    drop(table);
    assert_eq!(budget.used_total(), 0);
    assert_eq!(ReplicaTable::new(1, &budget).unwrap().sets.len(), 1);
}

#[test]
fn a_small_memory_gets_a_small_table() {
    for (slots, len_max, expected) in [
        (65_536, u64::MAX, 65_536),
        (65_536, 1 << 20, 65_536),
        (65_536, (1 << 20) - 1, 32_768),
        (100, 1 << 20, 100),
        (100, 64, 4),
        (100, 63, 0),
        (0, 1 << 20, 0),
        (16_777_216, 1_000_000, 32_768),
    ] {
        let found = ReplicaTable::slots_within(slots, len_max);
        assert_eq!(found, expected, "{slots} in {len_max}");
        assert!(ReplicaTable::new(found, &Budget::new(len_max)).is_some());
    }
}

#[test]
fn no_slots_keep_nothing() {
    let (maker, mut table) = (Maker::new(), table(0));
    table.insert(&maker.plain(1, b"a"));
    table.remove(1, b"a");
    assert!(table.lookup(1, b"a").is_none() && table.vary_names(1, b"a").is_none());
    assert!(table.is_empty() && table.sweep(100));
}

#[test]
fn a_response_is_found_by_its_full_key_while_it_is_live() {
    let (maker, mut table) = (Maker::new(), table(64));
    let one = maker.plain(42, b"one");
    table.insert(&one);
    assert!(Arc::ptr_eq(table.lookup(42, b"one").unwrap(), &one));
    assert_eq!(one.take_uses(), 1, "the owner's policy sees uses on other cores");
    assert!(table.lookup(42, b"two").is_none() && table.lookup(43, b"one").is_none());
    assert!(table.vary_names(42, b"one").is_none());
    let same_hash = maker.plain(42, b"two");
    table.insert(&same_hash);
    assert!(table.lookup(42, b"one").is_some() && table.lookup(42, b"two").is_some());
    one.mark_gone();
    assert!(table.lookup(42, b"one").is_none());
    table.insert(&one);
    assert!(table.lookup(42, b"one").is_none());
}

#[test]
fn a_newer_response_takes_the_place_of_its_key() {
    let (maker, mut table) = (Maker::new(), table(64));
    let (old, new) = (maker.plain(1, b"a"), maker.plain(1, b"a"));
    table.insert(&old);
    old.mark_gone();
    table.insert(&new);
    table.insert(&old);
    assert!(Arc::ptr_eq(table.lookup(1, b"a").unwrap(), &new));
    assert_eq!((table.len(), Arc::strong_count(&old), Arc::strong_count(&new)), (1, 1, 2));
}

#[test]
fn a_variant_tells_what_its_uri_varies_by() {
    let (maker, mut table) = (Maker::new(), table(64));
    let uri = (7, &b"uri"[..]);
    let (gzip, plain) = (
        maker.variant(100, uri, b"gzip", "accept-encoding"),
        maker.variant(101, uri, b"-", "accept-encoding"),
    );
    table.insert(&gzip);
    table.insert(&plain);
    assert_eq!(table.vary_names(7, b"uri"), Some("accept-encoding"));
    assert!(table.vary_names(7, b"ur").is_none() && table.vary_names(8, b"uri").is_none());
    assert!(table.lookup(7, b"uri").is_none() && table.lookup(7, b"urigzip").is_none());
    assert!(Arc::ptr_eq(table.lookup(100, b"urigzip").unwrap(), &gzip));
    assert_eq!(table.len(), 3);
    plain.mark_gone();
    assert!(table.vary_names(7, b"uri").is_none(), "names of what is gone are the owner's to tell anew");
    table.insert(&maker.variant(102, uri, b"x", "accept,accept-encoding"));
    assert_eq!(table.vary_names(7, b"uri"), Some("accept,accept-encoding"));
    table.remove(7, b"uri");
    assert!(table.vary_names(7, b"uri").is_none());
}

#[test]
fn the_victim_is_empty_then_gone_then_unused() {
    let (maker, mut table) = (Maker::new(), table(4));
    let all: Vec<_> = (0..4u8).map(|number| maker.plain(u128::from(number), &[number])).collect();
    all.iter().for_each(|response| table.insert(response));
    let kept = |table: &ReplicaTable| -> Vec<u8> {
        table.sets[0].slots.iter().flatten().map(|response| response.key[0]).collect()
    };
    assert_eq!(kept(&table), [0, 1, 2, 3]);
    all[2].mark_gone();
    table.insert(&maker.plain(4, &[4]));
    assert_eq!(kept(&table), [0, 1, 4, 3], "the gone one leaves before any other");
    table.insert(&maker.plain(5, &[5]));
    assert_eq!(kept(&table), [5, 1, 4, 3], "all were used, so the first one looked at leaves");
    assert!(table.lookup(1, &[1]).is_some());
    table.insert(&maker.plain(6, &[6]));
    assert_eq!(kept(&table), [5, 1, 6, 3], "a used one is passed once");
    assert_eq!(table.len(), 4);
}

#[test]
fn a_sweep_goes_round_in_pieces_and_frees_what_is_gone() {
    let (maker, mut table) = (Maker::new(), table(64));
    let all: Vec<_> = (0..32u8).map(|number| maker.plain(u128::from(number), &[number])).collect();
    all.iter().for_each(|response| table.insert(response));
    assert_eq!(table.len(), 32);
    all.iter().step_by(2).for_each(|response| response.mark_gone());
    assert!(!table.sweep(32));
    assert_eq!(table.len(), 24);
    assert!(table.sweep(32));
    assert_eq!(table.len(), 16);
    for (number, response) in all.iter().enumerate() {
        assert_eq!(Arc::strong_count(response), 1 + number % 2, "{number}");
    }
    let rounds = (0..16).filter(|_| table.sweep(1)).count();
    assert_eq!(rounds, 1, "at least one set of slots for each call");
}

#[test]
fn a_warm_lookup_writes_nothing() {
    let (maker, mut table) = (Maker::new(), table(64));
    table.insert(&maker.plain(1, b"a"));
    (0..9).for_each(|_| assert!(table.lookup(1, b"a").is_some()));
    // Saturated: the count would go on if a lookup still wrote to the shared line.
    let before = table.sets[1].used.get();
    let response = table.lookup(1, b"a").unwrap();
    assert_eq!((response.take_uses(), table.sets[1].used.get()), (crate::limits::USE_COUNT_MAX, before));
}

/// The hash of a model's key: few sets and few tags, so that all kinds of collisions happen.
fn hash_of(number: u8) -> u128 {
    u128::from(number % 3) | u128::from(number % 5) << 64 | u128::from(number % 7) << 100
}

fn names_of(response: &StoredResponse) -> Option<&str> {
    response.variant.as_ref().map(|variant| &*variant.names)
}

proptest! {
    /// Against a map without bound: what is found is what was put in last, live, under that key; what is refused is gone or was
    /// pushed out; and a table with room for all forgets nothing.
    #[test]
    fn the_table_answers_as_a_map_does(
        roomy in any::<bool>(),
        steps in prop::collection::vec((0u8..10, 0u8..24, 0u8..4), 1..200),
    ) {
        let maker = Maker::new();
        // 24 keys and 4 names in 3 of 16 sets would push each other out; spread out they never do.
        let mut table = if roomy { table(4096) } else { table(16) };
        let spread = |number: u8| if roomy { hash_of(number) | u128::from(number) << 2 } else { hash_of(number) };
        let mut model: HashMap<Vec<u8>, Arc<StoredResponse>> = HashMap::new();
        let mut names: HashMap<u8, Arc<StoredResponse>> = HashMap::new();
        for (kind, number, uri) in steps {
            let (plain_key, uri_key) = (vec![b'k', number], vec![b'u', uri]);
            let uri_hash = spread(200 + uri);
            let variant_key = [&uri_key[..], &[number]].concat();
            match kind {
                0..=2 => {
                    let response = maker.plain(spread(number), &plain_key);
                    table.insert(&response);
                    if let Some(old) = model.insert(plain_key.clone(), response) {
                        old.mark_gone();
                    }
                }
                3..=4 => {
                    let now = format!("n{kind}");
                    let of = (uri_hash, &uri_key[..]);
                    let response = maker.variant(spread(100 + number), of, &[number], &now);
                    // As the owner does: one rule for a URI, and what was chosen by another one is gone.
                    let others = model.iter().filter(|(key, _)| key.starts_with(&uri_key));
                    others.filter(|(key, old)| names_of(old) != Some(&now) || **key == variant_key).for_each(|(_, old)| old.mark_gone());
                    table.insert(&response);
                    names.insert(uri, Arc::clone(&response));
                    model.insert(variant_key.clone(), response);
                }
                5 => drop(model.get(&plain_key).map(|response| response.mark_gone())),
                6 => drop(model.get(&variant_key).map(|response| response.mark_gone())),
                7 => {
                    table.remove(spread(number), &plain_key);
                    model.remove(&plain_key);
                }
                8 => {
                    table.remove(uri_hash, &uri_key);
                    names.remove(&uri);
                }
                _ => drop(table.sweep(usize::from(number))),
            }
            for (key, hash) in [(&plain_key, spread(number)), (&variant_key, spread(100 + number))] {
                let found = table.lookup(hash, key);
                let expected = model.get(key).filter(|response| response.is_live());
                match (found, expected) {
                    (Some(found), Some(expected)) => prop_assert!(Arc::ptr_eq(found, expected)),
                    (Some(_), None) => prop_assert!(false, "found what is gone"),
                    (None, Some(_)) => prop_assert!(!roomy, "forgot with room for all"),
                    (None, None) => {}
                }
            }
            let told = table.vary_names(uri_hash, &uri_key);
            if let Some(told) = told {
                let mut live = model.iter().filter(|(key, response)| key.starts_with(&uri_key) && response.is_live());
                prop_assert!(live.any(|(_, response)| names_of(response) == Some(told)), "{told} is no rule any more");
            }
            if roomy {
                let newest = names.get(&uri).filter(|response| response.is_live());
                prop_assert_eq!(told, newest.and_then(|newest| names_of(newest)));
            }
            prop_assert!(table.len() <= table.sets.len() * REPLICA_WAYS);
            prop_assert_eq!(table.len(), table.sets.iter().flat_map(|set| &set.slots).flatten().count());
        }
        // The rest of the round that runs, then a whole one.
        while !table.sweep(64) {}
        while !table.sweep(64) {}
        prop_assert!(table.sets.iter().flat_map(|set| &set.slots).flatten().all(|response| response.is_live()));
    }
}
