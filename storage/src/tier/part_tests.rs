//! Parts of a representation: found by the range asked for, of one version only, bounded, and gone together.

use super::tests::{MIB, response_of, store, tier};
use super::*;
use crate::limits::PART_COUNT_MAX;
use aspis_cache::stored::{Part, StoredMeta};
use proptest::prelude::*;

const PRIMARY: &[u8] = b"https://host/film";

fn part_key() -> Vec<u8> {
    [PRIMARY, PART_SUFFIX].concat()
}

fn head(validator: &str) -> Vec<u8> {
    format!("HTTP/1.1 206 Partial Content\r\nDate: x\r\n{validator}\r\n").into_bytes()
}

/// A part of these bytes of a whole of `total` that came at `now`.
fn part(tier: &mut RamTier, range: Range<u64>, total: u64, now: u64, validator: &str) -> Arc<StoredResponse> {
    let meta = StoredMeta {
        status: 206,
        received_at: now,
        generated_at: now,
        lifetime: 60,
        part: Some(Part { start: range.start, total }),
        ..StoredMeta::PLAIN
    };
    let key = part_key();
    response_of(tier, hash(&key), &key, range.end - range.start, meta, &head(validator)).unwrap()
}

fn put(tier: &mut RamTier, range: Range<u64>, total: u64, now: u64, validator: &str) {
    let part = part(tier, range, total, now, validator);
    assert!(tier.insert(part).is_ok());
}

/// What is charged as index when tables have grown and no part is there.
fn index_without_parts(tier: &mut RamTier, budget: &Budget) -> u64 {
    put(tier, 0..100, 1000, 100, ETAG);
    assert_eq!(tier.invalidate(hash(PRIMARY), PRIMARY), 1);
    assert!(tier.cover(0));
    budget.used(Purpose::Index)
}

/// The range of the part that is found for these bytes.
fn found(tier: &RamTier, range: Range<u64>) -> Option<Range<u64>> {
    let key = part_key();
    let found = tier.part(hash(&key), &key, |_| ByteRange { start: range.start, end: range.end })?;
    range_of(found)
}

fn range_of(response: &StoredResponse) -> Option<Range<u64>> {
    response.meta.part.map(|part| part.start..part.start + response.body.published())
}

fn all(tier: &RamTier) -> Vec<Range<u64>> {
    let key = part_key();
    tier.parts(hash(&key), &key).filter_map(|part| range_of(part)).collect()
}

const ETAG: &str = "ETag: \"a\"";

/// each stored part answers the ranges within it.
#[test]
fn a_range_is_found_in_the_part_that_holds_it() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    for start in [0, 300, 600] {
        put(&mut tier, start..start + 200, 1000, 100, ETAG);
    }
    assert_eq!((tier.len(), tier.has_parts()), (3, true));
    for (asked, holder) in [(0..1, 0..200), (199..200, 0..200), (300..500, 300..500), (650..700, 600..800)] {
        assert_eq!(found(&tier, asked.clone()), Some(holder), "{asked:?}");
    }
    assert_eq!(found(&tier, 150..250), Some(0..200), "the beginning is there");
    assert_eq!(found(&tier, 0..1000), Some(0..200), "what the rest is joined to");
    assert_eq!(found(&tier, 250..300), Some(600..800), "the latest tells that there are parts");
    let key = part_key();
    let told = std::cell::Cell::new(0);
    let whole = |total| {
        told.set(total);
        ByteRange { start: 0, end: total }
    };
    assert!(tier.part(hash(&key), &key, whole).is_some() && told.get() == 1000);
    assert!(tier.part(hash(&key), PRIMARY, whole).is_none() && tier.part(1, &key, whole).is_none());
    // Who does not tell a range gets the latest.
    assert_eq!(range_of(tier.lookup(hash(&key), &key).unwrap()), Some(600..800));
    assert!(tier.lookup(hash(PRIMARY), PRIMARY).is_none());
}

/// parts of two versions never stand together.
#[test]
fn another_validator_or_length_turns_all_parts_out() {
    // A date is strong where the response was made after it.
    let modified = "Last-Modified: Thu, 01 Jan 1970 00:01:00 GMT";
    let later = "Last-Modified: Thu, 01 Jan 1970 00:01:01 GMT";
    let weak = "ETag: W/\"a\"";
    let both = "ETag: \"a\"\r\nLast-Modified: Thu, 01 Jan 1970 00:01:00 GMT";
    let weak_with_date = "ETag: W/\"a\"\r\nLast-Modified: Thu, 01 Jan 1970 00:01:00 GMT";
    let twice = "ETag: \"a\"\r\nETag: \"a\"";
    let table = [
        (ETAG, 1000, ETAG, 1000, 2),
        (ETAG, 1000, "eTAG:\"a\" ", 1000, 2),
        (ETAG, 1000, both, 1000, 2),
        (modified, 1000, modified, 1000, 2),
        (ETAG, 1000, "ETag: \"b\"", 1000, 1),
        (ETAG, 1000, ETAG, 1001, 1),
        (ETAG, 1000, modified, 1000, 1),
        (both, 1000, modified, 1000, 1),
        (modified, 1000, later, 1000, 1),
        (weak, 1000, weak, 1000, 1),
        (weak_with_date, 1000, weak_with_date, 1000, 1),
        (twice, 1000, twice, 1000, 1),
        ("X: y", 1000, "X: y", 1000, 1),
    ];
    for (first, first_total, second, second_total, count) in table {
        let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
        put(&mut tier, 0..200, first_total, 100, first);
        put(&mut tier, 500..700, second_total, 100, second);
        assert_eq!(tier.len(), count, "{first} {first_total}, {second} {second_total}");
        assert_eq!(found(&tier, 500..700), Some(500..700));
    }
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    put(&mut tier, 0..200, 1000, 60, modified);
    put(&mut tier, 500..700, 1000, 60, modified);
    assert_eq!(
        (tier.len(), found(&tier, 500..700)),
        (1, Some(500..700)),
        "a date of the same second is weak"
    );
}

#[test]
fn what_lies_within_a_newcomer_leaves_unless_it_is_fresh_for_longer() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    put(&mut tier, 0..100, 1000, 100, ETAG);
    put(&mut tier, 100..200, 1000, 100, ETAG);
    put(&mut tier, 500..600, 1000, 100, ETAG);
    let kept = Arc::clone(tier.parts(hash(&part_key()), &part_key()).next().unwrap());
    put(&mut tier, 0..300, 1000, 100, ETAG);
    assert_eq!(all(&tier), [500..600, 0..300]);
    assert!(!kept.is_live());
    // The short one is newer: it answers while the long one is stale already, and the long one what it does not hold.
    put(&mut tier, 0..50, 1000, 110, ETAG);
    assert_eq!((found(&tier, 10..20), found(&tier, 10..60)), (Some(0..50), Some(0..300)));
    // A late one of exactly the same range takes the place.
    put(&mut tier, 0..300, 1000, 90, ETAG);
    assert_eq!(all(&tier), [500..600, 0..50, 0..300]);
}

#[test]
fn a_newcomer_replaces_the_part_of_its_range_alone() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    put(&mut tier, 0..100, 1000, 100, ETAG);
    put(&mut tier, 200..300, 1000, 100, ETAG);
    let same = part(&mut tier, 200..300, 1000, 120, ETAG);
    let replaced = tier.insert(Arc::clone(&same)).unwrap().unwrap();
    assert_eq!((range_of(&replaced), replaced.is_live(), tier.len()), (Some(200..300), false, 2));
}

/// Fetches run side by side: what was received earlier is not to push out what was received later.
#[test]
fn what_is_stored_is_held_against_a_newcomer() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    put(&mut tier, 0..100, 1000, 100, ETAG);
    put(&mut tier, 200..300, 1000, 110, ETAG);
    for (range, received_at, validator, newer) in [
        (0..100, 99, ETAG, true),
        (0..100, 100, ETAG, false),
        (200..300, 109, ETAG, true),
        (0..300, 90, ETAG, false),
        (500..600, 109, "ETag: \"b\"", true),
        (500..600, 110, "ETag: \"b\"", false),
        (500..600, 109, "X: y", true),
    ] {
        let newcomer = part(&mut tier, range.clone(), 1000, received_at, validator);
        assert_eq!(tier.holds_newer(&newcomer), newer, "{range:?} at {received_at}, {validator}");
    }
    let meta = StoredMeta { received_at: 50, ..StoredMeta::PLAIN };
    let old = response_of(&mut tier, hash(PRIMARY), PRIMARY, 9, meta, &head(ETAG)).unwrap();
    assert!(!tier.holds_newer(&old), "nothing whole is there");
    assert!(store_whole(&mut tier, 60));
    assert!(tier.holds_newer(&old));
    assert!(store_whole(&mut tier, 50) && !tier.holds_newer(&old));
}

fn store_whole(tier: &mut RamTier, received_at: u64) -> bool {
    let meta = StoredMeta { received_at, ..StoredMeta::PLAIN };
    let whole = response_of(tier, hash(PRIMARY), PRIMARY, 9, meta, &head(ETAG)).unwrap();
    tier.insert(whole).is_ok()
}

#[test]
fn one_part_too_many_turns_the_oldest_out() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    for number in 0..PART_COUNT_MAX as u64 + 3 {
        put(&mut tier, number * 10..number * 10 + 5, 1000, 100, ETAG);
    }
    assert_eq!((tier.len(), all(&tier)[0].clone()), (PART_COUNT_MAX, 30..35));
}

#[test]
fn parts_leave_with_the_whole_a_variant_a_removal_and_an_invalidation() {
    let (mut tier, budget) = tier(2 * MIB, 8 * MIB);
    let key = part_key();
    let empty = budget.used(Purpose::Index);
    let index = index_without_parts(&mut tier, &budget);
    let fill = |tier: &mut RamTier| {
        for start in [0, 300, 600] {
            put(tier, start..start + 200, 1000, 100, ETAG);
        }
    };
    fill(&mut tier);
    assert_eq!((tier.invalidate(hash(PRIMARY), PRIMARY), tier.len()), (3, 0));
    assert_eq!(budget.used(Purpose::Index), index);
    fill(&mut tier);
    assert!(tier.remove(hash(&key), &key).is_some_and(|part| !part.is_live()) && tier.is_empty());
    assert!(tier.remove(hash(&key), &key).is_none());
    fill(&mut tier);
    let whole = response_of(&mut tier, hash(PRIMARY), PRIMARY, 9, StoredMeta::PLAIN, &head(ETAG)).unwrap();
    assert!(tier.insert(whole).unwrap().is_none());
    assert_eq!((tier.len(), tier.has_parts()), (1, false));
    fill(&mut tier);
    assert_eq!(tier.len(), 4, "a part of a later fetch does not push the whole out");
    let mut variant_key = PRIMARY.to_vec();
    variant_key.extend_from_slice(b"\nx");
    let body = Arc::clone(tier.lookup(hash(PRIMARY), PRIMARY).unwrap().body.in_memory().unwrap());
    let variant = crate::response::VariantOf {
        primary: hash(PRIMARY),
        primary_len: PRIMARY.len(),
        names: "accept".into(),
    };
    let parts = crate::response::Parts {
        hash: hash(&variant_key),
        key: variant_key.into(),
        head: head(ETAG).into(),
        meta: StoredMeta::PLAIN,
        body,
        invalidation: 0,
        tags: Box::default(),
        variant: Some(variant),
    };
    assert!(tier.insert(StoredResponse::new(parts, &budget).unwrap()).is_ok());
    assert_eq!((tier.len(), tier.has_parts()), (1, false), "parts are of URIs that do not vary");
    tier.clear();
    assert_eq!(budget.used(Purpose::Index), empty);
}

#[test]
fn parts_are_evicted_one_by_one() {
    let (mut tier, budget) = tier(2 * MIB, 8 * MIB);
    let index = index_without_parts(&mut tier, &budget);
    for number in 0..8 {
        put(&mut tier, number * 200_000..(number + 1) * 200_000, 10_000_000, 100, ETAG);
    }
    assert!(tier.make_room(900_000));
    let left = all(&tier);
    assert!((4..=6).contains(&left.len()), "{left:?}");
    assert_eq!(tier.len(), left.len());
    while tier.evict().is_some() {}
    assert!(!tier.has_parts() && all(&tier).is_empty());
    assert_eq!(budget.used(Purpose::Index), index);
    assert!(store(&mut tier, 1, 10));
}

#[test]
fn an_expired_part_is_reclaimed_as_any_other() {
    let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
    put(&mut tier, 0..200_000, 1_000_000, 100, "X: y");
    tier.note_time(160);
    assert!(tier.evict().is_some_and(|part| range_of(&part) == Some(0..200_000)));
    assert!(!tier.has_parts());
}

/// The small caches that a share is chosen by hold each key of a sample or none of its uses: a part's key is its place.
#[test]
fn uses_of_a_part_are_sampled_by_its_place() {
    let (mut tier, _budget) = tier(16 * MIB, 32 * MIB);
    let parts = PART_COUNT_MAX as u64;
    for number in 0..parts {
        put(&mut tier, number * 10..number * 10 + 10, 10_000, 100, ETAG);
    }
    tier.tell_samples();
    for number in 0..parts {
        assert!(found(&tier, number * 10..number * 10 + 10).is_some());
    }
    let key = part_key();
    let places: Vec<u128> = tier.parts.places(hash(&key), &key).collect();
    let sampled: Vec<u128> = places.iter().copied().filter(|place| tier.policy.is_sampled(*place)).collect();
    assert!(!sampled.is_empty() && sampled.len() < places.len(), "{} of {}", sampled.len(), places.len());
    assert_eq!(tier.samples.borrow().iter().map(|(place, _)| *place).collect::<Vec<_>>(), sampled);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever comes and goes: parts are of one version, what any of them holds is found, and the accounts end where they began.
    #[test]
    fn what_is_stored_is_found_and_of_one_version(
        steps in prop::collection::vec((0u8..12, 0u64..30, 1u64..12, 0u64..100), 1..120),
    ) {
        let (mut tier, budget) = tier(2 * MIB, 8 * MIB);
        let index = budget.used(Purpose::Index);
        let key = part_key();
        let mut versions = (ETAG, 40);
        for (kind, start, len, at) in steps {
            match kind {
                0..=7 => {
                    put(&mut tier, start..start + len, versions.1, at, versions.0);
                    let kept = tier.parts(hash(&key), &key).any(|part| {
                        range_of(part) == Some(start..start + len) && part.meta.received_at == at
                    });
                    prop_assert!(kept, "the newcomer is there");
                }
                8 => versions.0 = if versions.0 == ETAG { "ETag: \"b\"" } else { ETAG },
                9 => versions.1 = 90 - versions.1,
                10 => drop(tier.evict()),
                _ => drop(tier.invalidate(hash(PRIMARY), PRIMARY)),
            }
            let parts: Vec<&Arc<StoredResponse>> = tier.parts(hash(&key), &key).collect();
            prop_assert_eq!((parts.len(), tier.has_parts()), (tier.len(), !parts.is_empty()));
            prop_assert!(parts.len() <= PART_COUNT_MAX);
            let version = |part: &StoredResponse| (part.head.clone(), part.meta.part.map(|part| part.total));
            prop_assert!(parts.windows(2).all(|pair| version(pair[0]) == version(pair[1])));
            let asked = at % 40..at % 40 + len;
            let holds = |range: &Range<u64>| range.start <= asked.start && asked.end <= range.end;
            let some_part_holds_it = parts.iter().filter_map(|part| range_of(part)).any(|range| holds(&range));
            let answer = found(&tier, asked.clone());
            prop_assert_eq!(answer.as_ref().is_some_and(holds), some_part_holds_it);
            prop_assert_eq!(answer.is_some(), !parts.is_empty());
        }
        tier.clear();
        prop_assert_eq!(budget.used(Purpose::Index), index);
    }
}
