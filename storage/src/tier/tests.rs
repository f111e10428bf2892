//! The tier: hits by full key only, replacement, eviction for room, and accounts that end at zero.

use super::*;
use crate::limits::BLOCK_LEN_MAX;
use crate::mapping::body::Body;
use crate::response::Parts;
use aspis_cache::stored::StoredMeta;
use proptest::prelude::*;

pub(super) const MIB: u64 = 1024 * 1024;

const META: StoredMeta = StoredMeta { lifetime: 60, ..StoredMeta::PLAIN };

/// A tier whose payload is bounded by `capacity`, and the budget of it.
pub(super) fn tier(capacity: u64, limit: u64) -> (RamTier, Arc<Budget>) {
    let budget = Budget::new(limit);
    let arena = Arena::new(capacity as usize, Arc::clone(&budget)).unwrap();
    (RamTier::new(arena, Arc::clone(&budget)), budget)
}

pub(super) fn key(number: u128) -> Vec<u8> {
    format!("https://host/{number}").into_bytes()
}

/// Spreads small numbers over the hash as a real one would.
pub(super) fn hash(number: u128) -> u128 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
}

/// Fills a body of `len` bytes, evicting as the driver would; `None` when there is no room at all.
fn fill(tier: &mut RamTier, len: u64) -> Option<Arc<Body>> {
    let mut writer = Body::writer(tier.arena(), Some(len));
    while writer.published() < len {
        let missing = (len - writer.published()).min(BLOCK_LEN_MAX as u64) as usize;
        let mut tail = tier.tail(&mut writer, missing)?;
        let filled = tail.as_ref().len();
        tail.as_mut().fill(7);
        writer.publish(tail, filled);
    }
    let body = Arc::clone(writer.body());
    assert_eq!(writer.complete(), BodyState::Complete);
    Some(body)
}

fn response(tier: &mut RamTier, hash: u128, key: &[u8], len: u64) -> Option<Arc<StoredResponse>> {
    response_of(tier, hash, key, len, META, &[0; 200])
}

pub(super) fn response_of(
    tier: &mut RamTier,
    hash: u128,
    key: &[u8],
    len: u64,
    meta: StoredMeta,
    head: &[u8],
) -> Option<Arc<StoredResponse>> {
    let body = fill(tier, len)?;
    let budget = Arc::clone(&tier.budget);
    let make = |body: &Arc<Body>| {
        let (key, head, body) = (key.into(), head.into(), Arc::clone(body));
        StoredResponse::new(
            Parts { hash, key, head, meta, body, invalidation: 0, tags: Box::default(), variant: None },
            &budget,
        )
    };
    make(&body).or_else(|| if tier.make_room_beside(1000) { make(&body) } else { None })
}

pub(super) fn store(tier: &mut RamTier, number: u128, len: u64) -> bool {
    let Some(response) = response(tier, hash(number), &key(number), len) else { return false };
    tier.insert(response).is_ok()
}

#[test]
fn a_response_is_found_by_its_key() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    assert!(tier.is_empty() && tier.lookup(hash(1), &key(1)).is_none());
    assert!(store(&mut tier, 1, 1000) && store(&mut tier, 2, 2000));
    assert_eq!(tier.lookup(hash(1), &key(1)).unwrap().body.published(), 1000);
    assert_eq!(tier.lookup(hash(2), &key(2)).unwrap().body.published(), 2000);
    assert_eq!(tier.len(), 2);
    assert!(tier.bytes() >= 3000);
}

#[test]
fn a_lookup_counts_a_use() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    assert!(store(&mut tier, 1, 10));
    assert_eq!(tier.lookup(hash(1), &key(1)).unwrap().take_uses(), 1);
    assert!(tier.lookup(hash(1), &key(2)).is_none());
    assert_eq!(tier.lookup(hash(1), &key(1)).unwrap().take_uses(), 1);
}

#[test]
fn the_same_hash_with_another_key_is_a_miss() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    let first = response(&mut tier, 42, b"one", 10).unwrap();
    assert!(tier.insert(Arc::clone(&first)).unwrap().is_none());
    assert!(tier.lookup(42, b"two").is_none());
    assert!(tier.remove(42, b"two").is_none());
    let second = response(&mut tier, 42, b"two", 10).unwrap();
    let replaced = tier.insert(second).unwrap().unwrap();
    assert!(Arc::ptr_eq(&replaced, &first) && !first.is_live());
    assert!(tier.lookup(42, b"one").is_none() && tier.lookup(42, b"two").is_some());
    assert_eq!(tier.len(), 1);
}

#[test]
fn a_replaced_response_is_gone() {
    let (mut tier, budget) = tier(2 * MIB, 8 * MIB);
    assert!(store(&mut tier, 1, 10_000));
    let old = Arc::clone(tier.lookup(hash(1), &key(1)).unwrap());
    let index = budget.used(Purpose::Index);
    let new = response(&mut tier, hash(1), &key(1), 500).unwrap();
    let replaced = tier.insert(Arc::clone(&new)).unwrap().unwrap();
    assert!(Arc::ptr_eq(&replaced, &old) && !old.is_live() && new.is_live());
    assert!(Arc::ptr_eq(tier.lookup(hash(1), &key(1)).unwrap(), &new));
    assert_eq!((tier.len(), tier.bytes(), budget.used(Purpose::Index)), (1, new.charged_len(), index));
    assert_eq!(old.body.in_memory().unwrap().piece(9_999), &[7], "a send that runs goes on");
}

#[test]
fn a_removed_response_is_gone() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    assert!(store(&mut tier, 1, 10));
    let removed = tier.remove(hash(1), &key(1)).unwrap();
    assert!(!removed.is_live() && tier.is_empty() && tier.bytes() == 0);
    assert!(tier.remove(hash(1), &key(1)).is_none());
}

#[test]
fn a_response_marked_gone_is_not_found() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    assert!(store(&mut tier, 1, 10));
    tier.lookup(hash(1), &key(1)).unwrap().mark_gone();
    assert!(tier.lookup(hash(1), &key(1)).is_none());
}

#[test]
fn only_complete_bodies_are_taken_in() {
    let (mut tier, budget) = tier(2 * MIB, 8 * MIB);
    let mut writer = Body::writer(tier.arena(), None);
    assert_eq!(writer.append(b"part"), 4);
    let (key, head, body) = (key(1).into(), [0; 9].into(), Arc::clone(writer.body()));
    let parts = Parts {
        hash: hash(1),
        key,
        head,
        meta: META,
        body,
        invalidation: 0,
        tags: Box::default(),
        variant: None,
    };
    let response = StoredResponse::new(parts, &budget).unwrap();
    let Err(Refused::NotComplete(response)) = tier.insert(response) else {
        panic!("a filling body was taken in")
    };
    writer.hand_over();
    assert!(matches!(tier.insert(response), Err(Refused::NotComplete(_))));
    assert!(tier.is_empty());
}

#[test]
fn room_is_made_by_evicting_and_used_responses_stay() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    for number in 0..200 {
        assert!(store(&mut tier, number, 20_000));
        // Number 3 is asked for again and again, as a hot response is.
        assert!(number < 3 || tier.lookup(hash(3), &key(3)).is_some(), "at {number}");
    }
    assert!((80..=104).contains(&tier.len()), "{}", tier.len());
    assert!(tier.lookup(hash(0), &key(0)).is_none());
}

#[test]
fn a_response_that_is_freshened_keeps_its_standing() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    let used = 1_000_000..1_000_090;
    for number in used.clone() {
        assert!(store(&mut tier, number, 20_000) && tier.lookup(hash(number), &key(number)).is_some());
    }
    // Newcomers that nobody uses have a tenth of the tier, ten of them. One of the used ones is freshened every forty newcomers, and
    // asked for once between that: as a newcomer it would have left by then.
    for number in 0..1000 {
        assert!(store(&mut tier, number, 20_000));
        match number % 40 {
            0 => assert!(store(&mut tier, used.start, 20_000)),
            20 => assert!(tier.lookup(hash(used.start), &key(used.start)).is_some(), "at {number}"),
            _ => {}
        }
    }
}

#[test]
fn room_beyond_the_whole_tier_is_refused() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    assert!(store(&mut tier, 1, 1000));
    assert!(!tier.make_room(3 * MIB));
    assert!(tier.make_room(2 * MIB), "all of the arena, once the rest has left");
    assert!(tier.is_empty());
}

#[test]
fn a_fill_into_a_full_tier_gets_whole_blocks() {
    let (mut tier, budget) = tier(4 * MIB, 8 * MIB);
    for number in 0..100 {
        assert!(store(&mut tier, number, 100_000));
    }
    let rest = budget.reserve(Purpose::Connections, budget.available()).unwrap();
    let body = fill(&mut tier, 1_000_000).unwrap();
    assert!(body.block_count() <= 40, "{} blocks", body.block_count());
    drop(rest);
}

#[test]
fn a_tail_without_any_memory_is_refused_at_once() {
    let (mut tier, budget) = tier(2 * MIB, 8 * MIB);
    let mut writer = Body::writer(tier.arena(), None);
    let rest = budget.reserve(Purpose::Connections, budget.available()).unwrap();
    assert!(tier.tail(&mut writer, 100).is_none());
    drop(rest);
    assert!(tier.tail(&mut writer, 100).is_some());
}

#[test]
fn pinned_responses_do_not_make_room_empty_the_tier() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    let mut pins = Vec::new();
    for number in 0..20 {
        assert!(store(&mut tier, number, 100_000));
        pins.push(Arc::clone(tier.lookup(hash(number), &key(number)).unwrap()));
    }
    assert!(!tier.make_room(300_000), "what sends hold frees nothing yet");
    assert!(tier.len() >= 16, "{} are left", tier.len());
    drop(pins);
    assert!(tier.make_room(300_000), "what was evicted came back");
    assert!(tier.len() >= 16);
}

#[test]
fn an_entry_that_the_budget_refuses_is_handed_back() {
    let (mut tier, budget) = tier(2 * MIB, 8 * MIB);
    let response = response(&mut tier, hash(1), &key(1), 10).unwrap();
    tier.arena().give_up(u64::MAX);
    let rest = budget.reserve(Purpose::Connections, budget.available()).unwrap();
    let Err(Refused::NoMemory(response)) = tier.insert(response) else {
        panic!("there was no room for the entry")
    };
    drop(rest);
    assert!(tier.insert(response).is_ok());
}

#[test]
fn content_makes_room_for_others_without_a_whole_region_free() {
    let (mut tier, budget) = tier(4 * MIB, 5 * MIB);
    for number in 0..200 {
        assert!(store(&mut tier, number, 30_000));
    }
    assert!(tier.arena().resident_len() == 4 * MIB && tier.arena().free_len() < 60_000);
    // Larger than what arena and limit leave beside each other: half of the content goes, and its memory with it.
    assert!(budget.available() < 2 * MIB);
    while !tier.make_room_beside(3 * MIB) {}
    let others = budget.reserve(Purpose::Connections, 3 * MIB).unwrap();
    assert!(tier.arena().resident_len() < 2 * MIB + 600_000, "{} resident", tier.arena().resident_len());
    assert!(tier.len() > 40, "{} are left", tier.len());
    // The tier goes on with what it has, full as before.
    for number in 200..400 {
        assert!(store(&mut tier, number, 30_000));
    }
    assert!(budget.used_total() <= budget.limit() && tier.arena().obtainable_len() < 100_000);
    drop(others);
    for number in 400..600 {
        assert!(store(&mut tier, number, 30_000));
    }
    assert!(tier.arena().free_len() < 60_000, "what the others left is content again");
}

#[test]
fn free_memory_makes_room_for_others_before_content_leaves() {
    let (mut tier, budget) = tier(8 * MIB, 9 * MIB);
    for number in 0..40 {
        assert!(store(&mut tier, number, 100_000));
    }
    for number in 0..30 {
        assert!(tier.remove(hash(number), &key(number)).is_some());
    }
    let stored = tier.bytes();
    tier.arena().drain(1000);
    assert!(stored >= 1_000_000 && budget.yieldable() >= stored + 3_000_000, "{}", budget.yieldable());
    let mut others = budget.reserve(Purpose::Connections, budget.available()).unwrap();
    // Noted over the limit: that has to come back as well.
    others.set(others.bytes() + MIB);
    assert!(tier.give_up_beside(MIB) && budget.missing(MIB) == 0);
    assert_eq!((tier.len(), tier.bytes()), (10, stored));
    // Some of it stays for the next object, and what is stored stays.
    assert!(!tier.give_up_beside(6 * MIB));
    assert!(tier.arena().resident_free_len() > 0 && tier.len() == 10);
}

#[test]
fn content_leaves_the_headroom_to_others() {
    let budget = Budget::with_headroom(5 * MIB, MIB);
    let arena = Arena::new(5 * MIB as usize, Arc::clone(&budget)).unwrap();
    let mut tier: RamTier = RamTier::new(arena, Arc::clone(&budget));
    for number in 0..200 {
        assert!(store(&mut tier, number, 50_000));
    }
    // Heads take of it, and content makes way for the next.
    assert!(budget.used(Purpose::Payload) + budget.used(Purpose::ArenaFree) <= 4 * MIB);
    assert!(budget.used(Purpose::Payload) > 3 * MIB, "{}", budget.used(Purpose::Payload));
}

/// In a tier of this size every key is sampled.
#[test]
fn uses_of_sampled_keys_wait_for_the_next_insert_and_are_bounded() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    assert!(store(&mut tier, 1, 10) && tier.policy.is_sampled(hash(1)));
    for _ in 0..2 * SAMPLE_COUNT_MAX {
        assert!(tier.lookup(hash(1), &key(1)).is_some() && tier.lookup(hash(2), &key(2)).is_none());
    }
    assert_eq!(tier.samples.borrow().len(), SAMPLE_COUNT_MAX);
    assert_eq!(tier.samples.borrow()[0].0, hash(1));
    assert!(store(&mut tier, 2, 10));
    assert_eq!(tier.samples.borrow().len(), 0);
}

/// A rule for what varies needs memory as an entry does, and gets it as one does.
#[test]
fn what_varies_makes_room_for_its_rule() {
    let (mut tier, budget) = tier(2 * MIB, 4 * MIB);
    for number in 0..100 {
        assert!(store(&mut tier, number, 30_000));
    }
    let key = b"https://host/page\nx".as_slice();
    let (primary, primary_len) = (aspis_cache::key::hash(&key[..17]), 17);
    let parts = Parts {
        hash: aspis_cache::key::hash(key),
        key: key.into(),
        head: [0; 9].into(),
        meta: META,
        body: Arc::clone(tier.lookup(hash(99), &self::key(99)).unwrap().body.in_memory().unwrap()),
        invalidation: 0,
        tags: Box::default(),
        variant: Some(crate::response::VariantOf { primary, primary_len, names: "accept".into() }),
    };
    let variant = StoredResponse::new(parts, &budget).unwrap();
    let rest = budget.reserve(Purpose::Connections, budget.available()).unwrap();
    assert!(tier.insert(variant).is_ok());
    assert_eq!(tier.vary_names(primary, &key[..17]), Some("accept"));
    drop(rest);
}

#[test]
fn memory_returns_to_zero_after_a_clear() {
    let (mut tier, budget) = tier(4 * MIB, 8 * MIB);
    let empty = budget.used_total();
    for number in 0..500 {
        assert!(store(&mut tier, number, 1 + number as u64 * 977 % 60_000));
    }
    let pinned = Arc::clone(tier.lookup(hash(499), &key(499)).unwrap());
    tier.clear();
    assert!(!pinned.is_live() && tier.is_empty() && tier.bytes() == 0);
    drop(pinned);
    while tier.arena().drain(1000) > 0 {}
    assert_eq!(budget.used_total(), empty + tier.arena().resident_len());
    tier.arena().give_up(u64::MAX);
    assert_eq!((budget.used_total(), tier.arena().free_len()), (empty, tier.arena().capacity()));
    assert!(store(&mut tier, 1, 100), "a cleared tier is used again");
}

#[test]
fn limbo_is_what_others_hold_of_what_left() {
    let (mut tier, _budget) = tier(4 * MIB, 8 * MIB);
    for number in 0..4 {
        assert!(store(&mut tier, number, 100_000));
    }
    let mut running = Body::writer(tier.arena(), Some(50_000));
    assert_eq!(running.append(&[1; 10_000]), 10_000);
    assert_eq!((tier.limbo(), tier.arena().filling_len()), (0, 50_176));
    let held = Arc::clone(tier.lookup(hash(1), &key(1)).unwrap());
    tier.remove(hash(1), &key(1));
    assert_eq!(tier.limbo(), held.body.charged_len());
    tier.remove(hash(2), &key(2));
    assert_eq!(tier.limbo(), held.body.charged_len(), "nobody holds the second one");
    let reader = Arc::clone(running.body());
    running.hand_over();
    assert_eq!((tier.limbo(), tier.arena().filling_len()), (held.body.charged_len() + 10_240, 0));
    drop((held, reader));
    assert_eq!(tier.limbo(), 0);
}

/// Runs phases of different sizes through a full tier and returns, per phase, content bytes by arena bytes.
fn utilisation_of(phases: &[(&'static str, u64, u64, u32)]) -> Vec<(&'static str, f64)> {
    let capacity = 64 * MIB;
    let (mut tier, budget) = tier(capacity, 2 * capacity);
    let (mut number, mut seed) = (0, 0x2545_f491_4f6c_dd1d_u64);
    let mut figures = Vec::new();
    for (name, low, high, turnovers) in phases {
        let mut written = 0;
        while written < capacity * u64::from(*turnovers) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Spread evenly over the orders of magnitude between the bounds.
            let share = (seed >> 11) as f64 / (1u64 << 53) as f64;
            let len = (*low as f64 * (*high as f64 / *low as f64).powf(share)) as u64;
            number += 1;
            assert!(store(&mut tier, number, len), "{name}: {len} B");
            written += len;
            assert!(budget.used_total() <= budget.limit());
        }
        let content: u64 = tier.index.values().map(|entry| entry.response.body.published()).sum();
        let figure = content as f64 / capacity as f64;
        println!("{name:>8}: {:5.2} % of the arena is content, {} responses", figure * 100.0, tier.len());
        figures.push((*name, figure));
    }
    figures
}

#[test]
fn the_arena_stays_full_of_content_when_sizes_shift() {
    // One object is up to 2 MiB of 64, so up to 3 % are free just after an eviction made room for it.
    let phases = [
        ("medium", 8_192, 131_072, 3),
        ("large", 262_144, 2_097_152, 3),
        ("small", 6_144, 32_768, 2),
        ("mixed", 4_096, 2_097_152, 3),
        ("large", 262_144, 2_097_152, 2),
    ];
    for (name, figure) in utilisation_of(&phases) {
        assert!(figure >= 0.95, "{name}: {figure}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_budget_is_never_exceeded_and_all_of_it_returns(
        steps in prop::collection::vec((0u8..10, 0u128..60, 0u64..400_000), 1..150),
    ) {
        let (mut tier, budget) = tier(4 * MIB, 3 * MIB);
        let empty = budget.used_total();
        let mut pins = Vec::new();
        let mut others = Vec::new();
        for (kind, number, len) in steps {
            match kind {
                0..=5 => {
                    let stored = store(&mut tier, number, len);
                    let found = tier.lookup(hash(number), &key(number));
                    prop_assert!(!stored || found.is_some_and(|found| found.body.published() == len));
                }
                6 => drop(tier.remove(hash(number), &key(number))),
                7 => pins.extend(tier.lookup(hash(number), &key(number)).cloned()),
                8 => pins.truncate(pins.len() / 2),
                _ => {
                    others.extend(budget.reserve(Purpose::Connections, len / 4));
                    others.truncate(6);
                }
            }
            prop_assert!(budget.used_total() <= budget.limit());
            let sum: u64 = tier.index.values().map(|entry| entry.response.charged_len()).sum();
            prop_assert_eq!(tier.bytes(), sum);
            let gone: u64 = pins.iter().filter(|pin| !pin.is_live()).map(|pin| pin.body.charged_len()).sum();
            prop_assert!(tier.limbo() <= gone && (gone == 0 || tier.limbo() > 0));
            prop_assert!(tier.index.values().all(|entry| entry.response.is_live()));
        }
        tier.clear();
        drop((pins, others));
        while tier.arena().drain(1000) > 0 {}
        tier.arena().give_up(u64::MAX);
        prop_assert_eq!((budget.used_total(), tier.arena().free_len()), (empty, tier.arena().capacity()));
    }
}
