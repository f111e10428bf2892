//! Room: what is of no more use leaves first, what can be validated does not, and one object may take the place of all others.

use super::tests::{MIB, hash, key, response_of, store, tier};
use super::*;
use aspis_cache::stored::{StaleIfError, StoredMeta};

const VALIDATOR: &[u8] = b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\n";
const NONE: &[u8] = b"HTTP/1.1 200 OK\r\n";

/// Fresh for an hour, or for ten seconds from second 0.
const LONG: StoredMeta =
    StoredMeta { lifetime: 3600, stale_if_error: StaleIfError::Forbidden, ..StoredMeta::PLAIN };
const SHORT: StoredMeta = StoredMeta { lifetime: 10, ..LONG };

/// Stores responses of 100,000 bytes under these numbers.
fn store_all(tier: &mut RamTier, numbers: Range<u128>, meta: StoredMeta, head: &[u8]) {
    for number in numbers {
        let response = response_of(tier, hash(number), &key(number), 100_000, meta, head).unwrap();
        assert!(tier.insert(response).is_ok());
    }
}

/// How many of these are there, without counting a use.
fn count(tier: &RamTier, numbers: Range<u128>) -> usize {
    numbers.filter(|number| tier.index.find(hash(*number)).is_some()).count()
}

/// Four MiB hold 41 responses: 20 that live long are older than 20 that expire, and 20 more come.
fn survivors(now: u64, expiring: StoredMeta, head: &[u8]) -> (usize, usize) {
    let (mut tier, _budget) = tier(4 * MIB, 8 * MIB);
    store_all(&mut tier, 0..20, LONG, VALIDATOR);
    store_all(&mut tier, 100..120, expiring, head);
    tier.note_time(now);
    store_all(&mut tier, 200..220, LONG, VALIDATOR);
    assert_eq!(count(&tier, 200..220), 20);
    (count(&tier, 0..20), count(&tier, 100..120))
}

#[test]
fn what_is_of_no_more_use_leaves_before_what_is_fresh() {
    let (fresh, expired) = survivors(9, SHORT, NONE);
    assert!(fresh <= 1 && expired == 20, "all are fresh, so the oldest leave: {fresh}, {expired}");
    let (fresh, expired) = survivors(10, SHORT, NONE);
    assert!(fresh == 20 && expired <= 1, "the useless ones make the room: {fresh}, {expired}");
}

#[test]
fn a_validator_and_a_stated_allowance_keep_the_expired() {
    let (_, kept) = survivors(10, SHORT, VALIDATOR);
    assert_eq!(kept, 20, "a 304 saves the transfer");
    let within = StoredMeta { stale_if_error: StaleIfError::Within(50), ..SHORT };
    assert_eq!((survivors(60, within, NONE).1, survivors(61, within, NONE).0), (20, 20));
    let revalidated = StoredMeta { stale_while_revalidate: 50, ..SHORT };
    assert_eq!((survivors(59, revalidated, NONE).1, survivors(60, revalidated, NONE).0), (20, 20));
}

#[test]
fn what_only_a_broken_origin_needs_leaves_after_what_nobody_does() {
    let (mut tier, _budget) = tier(4 * MIB, 8 * MIB);
    store_all(&mut tier, 0..20, StoredMeta { stale_if_error: StaleIfError::Unstated, ..SHORT }, NONE);
    store_all(&mut tier, 100..110, SHORT, NONE);
    store_all(&mut tier, 200..210, LONG, VALIDATOR);
    tier.note_time(1000);
    store_all(&mut tier, 300..310, LONG, VALIDATOR);
    assert_eq!(count(&tier, 0..20), 20);
    assert!(count(&tier, 100..110) <= 1);
    store_all(&mut tier, 310..325, LONG, VALIDATOR);
    assert_eq!((count(&tier, 100..110), count(&tier, 200..210)), (0, 10));
    assert!(count(&tier, 0..20) <= 6);
}

#[test]
fn what_left_or_was_replaced_is_not_reclaimed_again() {
    let (mut tier, budget) = tier(4 * MIB, 8 * MIB);
    let empty = budget.used(Purpose::Index);
    store_all(&mut tier, 0..10, SHORT, NONE);
    tier.remove(hash(0), &key(0));
    store_all(&mut tier, 1..5, LONG, NONE);
    tier.note_time(500);
    assert!(tier.make_room(4 * MIB - 500_000));
    assert_eq!((tier.len(), count(&tier, 1..5)), (4, 4), "what was freshened stays");
    tier.note_time(10);
    assert_eq!(tier.now, 500, "time never falls");
    tier.clear();
    assert_eq!(budget.used(Purpose::Index), empty);
    assert!(tier.expiries.next(u64::MAX).is_none());
}

#[test]
fn one_object_may_take_the_place_of_all_others() {
    let (mut tier, _budget) = tier(32 * MIB, 40 * MIB);
    for number in 0..500 {
        assert!(store(&mut tier, number, 1 + number as u64 * 977 % 90_000));
    }
    let len = object_len_max(tier.arena().capacity());
    assert_eq!(len, 30 * MIB);
    assert!(tier.arena().free_len() < len);
    assert!(tier.could_hold(len) && !tier.could_hold(len + 1) && !tier.could_hold(u64::MAX));
    assert!(store(&mut tier, 1000, len));
    assert_eq!(tier.lookup(hash(1000), &key(1000)).unwrap().body.published(), len);
    // Beside it is room for another fill, and it leaves as any other when more is needed.
    assert!(store(&mut tier, 1001, MIB) && tier.lookup(hash(1000), &key(1000)).is_some());
    for number in 2000..2040 {
        assert!(store(&mut tier, number, MIB));
    }
    assert!(tier.len() >= 29, "{} are stored", tier.len());
}

#[test]
fn what_fills_and_readers_hold_is_not_counted_on() {
    let (mut tier, _budget) = tier(8 * MIB, 16 * MIB);
    let len = object_len_max(tier.arena().capacity());
    assert!(store(&mut tier, 1, 2 * MIB) && store(&mut tier, 2, 4 * MIB));
    let read = Arc::clone(tier.lookup(hash(1), &key(1)).unwrap());
    assert!(tier.could_hold(len));
    tier.remove(hash(1), &key(1));
    assert!(tier.could_hold(len - 2 * MIB) && !tier.could_hold(len - 2 * MIB + 1));
    let free = tier.arena().free_len();
    assert!(free == 2 * MIB && tier.could_hold(free));
    drop(read);
    assert!(tier.could_hold(len));
    let mut running = crate::mapping::body::Body::writer(tier.arena(), Some(MIB));
    assert!(running.reserve(MIB) && tier.could_hold(len - MIB) && !tier.could_hold(len));
}
