//! The order of eviction, that nothing is lost whatever comes and goes, and the search for a share.

use super::*;
use crate::limits::{EVICTION_STEPS_MAX, SHADOW_ENTRIES_MAX, TUNING_REQUESTS, TUNING_SECONDS};
use crate::policy::model::{Endless, Model, play};
use proptest::prelude::*;

/// Responses in a tier of 1000 bytes with a share of 10 %. Lengths are 100, or what follows a colon.
///
/// What happens: `+n` response n comes, `*n` it is used, `-n` it is removed, `=n` it is replaced, `!` one is evicted.
fn run(script: &str) -> Vec<u128> {
    let mut policy = SizeAware::with_share(1000, 10);
    let mut entries = Model::default();
    let mut evicted = Vec::new();
    for word in script.split_whitespace() {
        let (kind, number) = word.split_at(1);
        let (number, len) = number.split_once(':').unwrap_or((number, "100"));
        let hash = number.parse::<u128>().unwrap_or(0) << 64;
        let len = len.parse().unwrap();
        match kind {
            "+" => policy.insert(entries.add(hash), hash, len, None),
            "=" => {
                let entry = entries.find(hash);
                let before = policy.remove(entry, entries.take_uses(entry));
                policy.insert(entry, hash, len, Some(before));
            }
            "*" => entries.note_use(hash),
            "-" => drop(policy.remove(entries.remove(hash), 0)),
            _ => evicted.extend(policy.evict(&mut entries).map(|entry| entries.take(entry) >> 64)),
        }
    }
    evicted
}

#[test]
fn the_order_of_eviction_is_by_probation_uses_and_size() {
    let table: [(&str, &[u128]); 13] = [
        ("!", &[]),
        ("+1 +2 +3 ! ! ! !", &[1, 2, 3]),
        // What was used on probation moves to main; unused ones leave first.
        ("+1 +2 +3 +4 *1 ! ! ! !", &[2, 3, 4, 1]),
        // One remembered goes to main at once and outlives newer unused ones.
        ("+1 +2 ! +1 +3 +4 ! !", &[1, 2, 3]),
        // In main the large one is worth less than the small one with as many uses ...
        ("+1:900 +2:100 *1 *2 +3:200 ! ! !", &[3, 1, 2]),
        // ... unless it was used often enough.
        ("+1:300 +2:100 *1 *1 *1 *2 +3 ! ! !", &[3, 2, 1]),
        ("+1:400 +2:100 *1 *1 *2 +3 ! ! !", &[3, 1, 2]),
        // Uses that come while it is in main count when it is looked at.
        ("+1:400 +2:100 *1 *2 +3 ! *1 *1 *1 ! !", &[3, 2, 1]),
        // Old uses fade: each that leaves raises what the uses of later ones are worth.
        ("+1 *1 *1 +2 *2 +8 ! ! +3 *3 +9 ! ! !", &[8, 2, 9, 1, 3]),
        // Removal leaves both parts whole.
        ("+1 +2 +3 -2 ! !", &[1, 3]),
        ("+1 +2 +3 *1 *2 *3 +4 ! -2 ! ! !", &[4, 1, 3]),
        // A replaced one keeps its part and its uses; on probation it is the newest again.
        ("+1 +2 *1 =1 +3 ! ! !", &[2, 3, 1]),
        ("+1 +2 =1 ! !", &[2, 1]),
    ];
    for (script, expected) in table {
        assert_eq!(run(script), expected, "{script}");
    }
}

#[test]
fn endless_uses_do_not_stop_an_eviction() {
    let mut entries = Endless::default();
    let mut policy = SizeAware::new(1000);
    for entry in 0..3 {
        policy.insert(Handle(entry), u128::from(entry) << 64, 10, None);
    }
    assert!(policy.evict(&mut entries).is_some());
    assert_eq!(entries.asked, EVICTION_STEPS_MAX + 1);
}

/// Worths are compared on a circle; many rounds of it change nothing.
#[test]
fn worths_may_go_round() {
    let mut policy = SizeAware::with_share(1000, 10);
    let mut entries = Model::default();
    for round in 0..20_000_u128 {
        for number in 0..2 {
            let hash = (round * 2 + number) << 64;
            let entry = entries.add(hash);
            policy.insert(entry, hash, 1, None);
            (0..3).for_each(|_| entries.note_use(hash));
        }
        // Of two alike the older one leaves, so that no more than two are ever there.
        let evicted = policy.evict(&mut entries).map(|entry| entries.take(entry) >> 64).unwrap();
        assert!(round == 0 || evicted >= (round - 1) * 2, "{evicted} left in round {round}");
        let other = policy.evict(&mut entries).map(|entry| entries.take(entry) >> 64);
        assert!(other.is_some());
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_and_bytes_add_up(
        share in prop::sample::select(vec![0, 10, 50, 100]),
        steps in prop::collection::vec((0u8..4, any::<u8>(), 1u64..400), 1..400),
    ) {
        let policy = play(SizeAware::with_share(1000, share), &steps, |policy| (policy.queues.len(), policy.queues.count()));
        prop_assert_eq!((policy.queues.len(), policy.queues.count()), (0, 0));
    }

    #[test]
    fn nothing_is_lost_while_the_share_is_sought(
        steps in prop::collection::vec((0u8..4, any::<u8>(), 1u64..400), 1..400),
    ) {
        play(SizeAware::new(1000), &steps, |policy| (policy.queues.len(), policy.queues.count()));
    }
}

/// Each object is asked for twice, the second time when `distance` others were asked for.
fn ask(policy: &mut SizeAware, count: u64, distance: u64, first: u64) {
    for at in 0..count {
        for number in [Some(at), at.checked_sub(distance)].into_iter().flatten() {
            let hash = u128::from(first + number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            policy.note_use(hash, 1000);
        }
    }
}

#[test]
fn the_share_that_misses_least_is_taken() {
    // Fewer than a tenth of the tier: every key is sampled.
    let mut policy = SizeAware::new(1_000_000);
    assert_eq!(policy.share(), 10);
    // A thousand fit; an object comes back after 301 others, and once only: a tenth on probation is too short for it.
    ask(&mut policy, 4 * TUNING_REQUESTS, 301, 0);
    assert_eq!(policy.share(), 50);
    // Alike with every share: it stays as it is.
    ask(&mut policy, 4 * TUNING_REQUESTS, 3, 1 << 32);
    assert_eq!(policy.share(), 50);
}

#[test]
fn where_time_is_told_the_share_changes_every_few_minutes() {
    let mut policy = SizeAware::new(1_000_000);
    policy.note_time(1000);
    ask(&mut policy, 6 * TUNING_REQUESTS, 301, 0);
    policy.note_time(1000 + TUNING_SECONDS - 1);
    assert_eq!(policy.share(), 10);
    policy.note_time(1000 + TUNING_SECONDS);
    assert_eq!(policy.share(), 50);
}

#[test]
fn few_requests_prove_nothing() {
    let mut policy = SizeAware::new(1_000_000);
    policy.note_time(0);
    for period in 1..50 {
        ask(&mut policy, 8, 301, period << 32);
        policy.note_time(period * TUNING_SECONDS);
        assert_eq!(policy.share(), 10);
    }
}

#[test]
fn one_key_in_256_of_a_large_tier_is_sampled_and_more_of_a_small_one() {
    let sampled = |capacity| {
        let policy = SizeAware::new(capacity);
        (0..65536_u128).filter(|number| policy.is_sampled(number << 32)).count()
    };
    assert_eq!((sampled(64 << 30), sampled(2 << 30), sampled(64 << 20)), (256, 256, 8192));
    assert_eq!((sampled(1 << 20), sampled(0)), (65536, 65536));
    assert!(!SizeAware::with_share(1 << 20, 10).is_sampled(0));
}

#[test]
fn the_small_caches_have_a_bounded_number_of_entries() {
    let mut policy = SizeAware::new(u64::MAX / 256);
    let mut grown = 0;
    for number in 0..3 * SHADOW_ENTRIES_MAX as u128 {
        let (before, growth) = (policy.memory(), policy.growth(Handle(0)));
        policy.note_use(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) & !(0xff << 32), 1);
        assert!(policy.memory() - before <= growth);
        if number > 2 * SHADOW_ENTRIES_MAX as u128 {
            grown += policy.memory() - before;
        }
    }
    assert_eq!(grown, 0);
    assert!(policy.memory() < 6_000_000, "{} B", policy.memory());
}
