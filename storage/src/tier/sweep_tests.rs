//! Rounds over all that is stored: everybody is asked, a bounded number in each call, whatever comes and goes meanwhile.

use super::tests::{MIB, hash, key, store, tier};
use super::*;
use proptest::prelude::*;

#[test]
fn a_round_asks_about_everything_and_lets_go_what_is_not_to_be_kept() {
    let (mut tier, budget) = tier(4 * MIB, 8 * MIB);
    assert!(tier.sweep(0, &mut |_| true), "nothing is there, so a round is through at once");
    let empty = budget.used_total();
    for number in 0..100 {
        assert!(store(&mut tier, number, 1000));
    }
    let kept = Arc::clone(tier.lookup(hash(4), &key(4)).unwrap());
    let let_go = Arc::clone(tier.lookup(hash(5), &key(5)).unwrap());
    let mut asked = 0;
    let mut calls = 0;
    loop {
        let before = asked;
        let through = tier.sweep(7, &mut |response| {
            asked += 1;
            response.hash.wrapping_sub(hash(5)) != 0 && !(50..60).any(|number| hash(number) == response.hash)
        });
        calls += 1;
        assert!(asked - before <= 7);
        if through {
            break;
        }
    }
    assert_eq!((asked, calls, tier.len()), (100, 100_usize.div_ceil(7), 89));
    assert!(kept.is_live() && !let_go.is_live() && tier.lookup(hash(55), &key(55)).is_none());
    // The next call begins the next round; a round that keeps nothing leaves nothing behind.
    assert!(tier.sweep(usize::MAX, &mut |_| false));
    drop((kept, let_go));
    while tier.arena().drain(1000) > 0 {}
    assert_eq!((tier.len(), tier.bytes(), tier.arena().free_len()), (0, 0, tier.arena().capacity()));
    tier.clear();
    tier.arena().give_up(u64::MAX);
    assert_eq!(budget.used_total(), empty);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Between calls responses come (and push others out), are replaced and leave; who was there at the beginning and still is was asked.
    #[test]
    fn a_round_misses_nobody_who_stays(
        first in 1u128..80,
        steps in prop::collection::vec((0u8..4, 0u128..160, 1usize..9), 1..120),
    ) {
        let (mut tier, _budget) = tier(2 * MIB, 8 * MIB);
        for number in 0..first {
            prop_assert!(store(&mut tier, number, 30_000));
        }
        let stored = |tier: &RamTier| tier.index.values().map(|entry| Arc::clone(&entry.response)).collect::<Vec<_>>();
        let mut waiting = stored(&tier);
        let mut rounds = 0;
        for (kind, number, count) in steps {
            match kind {
                0 => drop(store(&mut tier, number, 30_000)),
                1 => drop(tier.remove(hash(number), &key(number))),
                _ => {
                    let mut asked = Vec::new();
                    let through = tier.sweep(count, &mut |response| {
                        asked.push(Arc::clone(response));
                        response.hash.is_multiple_of(5)
                    });
                    prop_assert!(asked.len() <= count);
                    prop_assert!(asked.iter().all(|one| one.is_live() == one.hash.is_multiple_of(5)));
                    waiting.retain(|one| one.is_live() && !asked.iter().any(|other| Arc::ptr_eq(one, other)));
                    if through {
                        prop_assert!(waiting.is_empty(), "{} were not asked about", waiting.len());
                        waiting = stored(&tier);
                        rounds += 1;
                    }
                }
            }
        }
        for _ in 0..200 {
            rounds += usize::from(tier.sweep(1, &mut |_| true));
        }
        prop_assert!(rounds > 0, "a round ends");
    }
}

#[test]
fn a_walk_looks_at_everything_that_is_live_and_takes_nothing() {
    let (mut tier, _budget) = tier(4 * MIB, 8 * MIB);
    assert!(tier.walk(10, &mut |_| unreachable!("nothing is there")));
    for number in 0..20 {
        assert!(store(&mut tier, number, 1000));
    }
    tier.lookup(hash(3), &key(3)).unwrap().mark_gone();
    let (mut seen, mut calls) = (Vec::new(), 0);
    loop {
        calls += 1;
        if tier.walk(6, &mut |response| seen.push(response.hash)) {
            break;
        }
        // A sweep has a round of its own.
        tier.sweep(1, &mut |_| true);
    }
    seen.sort_unstable();
    let mut all: Vec<u128> = (0..20).filter(|number| *number != 3).map(hash).collect();
    all.sort_unstable();
    assert_eq!((seen, calls, tier.len()), (all, 4, 20));
}
