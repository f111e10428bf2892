//! The buddy against a plain map of units: no overlap, exact counts, everything merges back.

use super::*;
use proptest::prelude::*;

/// Checks every invariant of the allocator against the spans that are out.
fn check(buddy: &Buddy, taken: &[Span]) {
    let unit_count = buddy.opened_units() as usize;
    let mut owner = vec![0u8; unit_count];
    let mut mark = |unit: usize, units: usize| {
        for slot in &mut owner[unit..unit + units] {
            assert_eq!(*slot, 0, "unit belongs to two");
            *slot = 1;
        }
    };
    for span in taken {
        mark(span.unit as usize, span.units as usize);
        assert_eq!(
            span.unit / REGION_UNITS,
            (span.unit + span.units - 1) / REGION_UNITS,
            "span crosses a region"
        );
    }
    let mut free = 0u64;
    for (number, region) in buddy.regions.iter().enumerate() {
        for order in 0..ORDER_COUNT {
            let blocks = REGION_UNITS >> order;
            for index in (0..blocks).filter(|index| region.is_free(order, *index)) {
                mark(number * REGION_UNITS as usize + ((index as usize) << order), 1 << order);
                free += 1 << order;
                assert!(order == ORDER_MAX || !region.is_free(order, index ^ 1), "buddies left unmerged");
            }
            let listed = {
                let mut at = buddy.heads[order];
                while at != NO_REGION && at as usize != number {
                    at = buddy.regions[at as usize].next[order];
                }
                at != NO_REGION
            };
            assert_eq!(
                listed,
                (0..blocks).any(|index| region.is_free(order, index)),
                "list and bitmap differ"
            );
        }
    }
    assert!(owner.iter().all(|mark| *mark == 1), "a unit is lost");
    assert_eq!(buddy.free_units(), free);
}

/// A buddy whose regions are all open.
fn open(region_count: usize) -> Buddy {
    let mut buddy = Buddy::new(region_count);
    (0..region_count).for_each(|_| buddy.open(REGION_UNITS));
    buddy
}

#[test]
fn a_region_splits_into_exact_lengths_and_merges_back() {
    let mut buddy = open(1);
    let odd = buddy.take(4095, Fit::Whole).unwrap();
    let last = buddy.take(1, Fit::Whole).unwrap();
    assert_eq!((odd.unit, last.unit, buddy.free_units()), (0, 4095, 0));
    assert_eq!(buddy.take(1, Fit::Part), None);
    check(&buddy, &[odd, last]);
    buddy.free(odd);
    buddy.free(last);
    check(&buddy, &[]);
    assert_eq!(buddy.take(REGION_UNITS, Fit::Whole), Some(Span { unit: 0, units: REGION_UNITS }));
}

#[test]
fn a_part_is_the_largest_that_is_left() {
    let mut buddy = open(1);
    let first = buddy.take(2048, Fit::Whole).unwrap();
    let second = buddy.take(1024, Fit::Whole).unwrap();
    assert_eq!(buddy.take(1500, Fit::Whole), None);
    let part = buddy.take(1500, Fit::Part).unwrap();
    assert_eq!(part.units, 1024);
    check(&buddy, &[first, second, part]);
}

#[test]
fn nothing_is_free_before_it_is_opened_in_blocks_that_lie_side_by_side() {
    let mut buddy = Buddy::new(2);
    assert_eq!((buddy.take(1, Fit::Part), buddy.largest_free()), (None, None));
    for (wanted, opened) in [(100, 64), (4096, 64), (4096, 128), (255, 128), (7, 4), (4096, 4)] {
        assert_eq!(buddy.next_open(wanted), opened);
        buddy.open(opened);
        check(&buddy, &[]);
    }
    assert_eq!((buddy.opened_units(), buddy.free_units()), (392, 392));
    while buddy.next_open(REGION_UNITS) > 0 {
        buddy.open(buddy.next_open(REGION_UNITS));
    }
    assert_eq!((buddy.opened_units(), buddy.next_open(1)), (2 * u64::from(REGION_UNITS), 0));
    assert_eq!(buddy.take(REGION_UNITS, Fit::Whole).map(|span| span.units), Some(REGION_UNITS), "merged");
}

/// One step: take so many units, or free the n-th span, perhaps in two parts.
fn step() -> impl Strategy<Value = (u32, usize, bool)> {
    let units = prop_oneof![Just(0), 1u32..16, 1u32..600, 1u32..=REGION_UNITS];
    (units, any::<usize>(), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_steps_keeps_the_invariants(steps in prop::collection::vec(step(), 1..120)) {
        let mut buddy = open(3);
        let mut taken: Vec<Span> = Vec::new();
        for (units, which, flag) in steps {
            if units > 0 {
                let fit = if flag { Fit::Part } else { Fit::Whole };
                let before = buddy.free_units();
                match buddy.take(units, fit) {
                    Some(span) => {
                        prop_assert!(span.units == units || (flag && span.units < units));
                        prop_assert_eq!(buddy.free_units(), before - u64::from(span.units));
                        taken.push(span);
                    }
                    None => prop_assert_eq!(buddy.free_units(), if flag { 0 } else { before }),
                }
            } else if !taken.is_empty() {
                let span = taken.swap_remove(which % taken.len());
                let kept = if flag { span.units / 2 } else { 0 };
                if kept > 0 {
                    taken.push(Span { unit: span.unit, units: kept });
                }
                buddy.free(Span { unit: span.unit + kept, units: span.units - kept });
            }
            check(&buddy, &taken);
        }
        for span in taken.drain(..) {
            buddy.free(span);
        }
        check(&buddy, &[]);
        prop_assert!(buddy.regions.iter().all(|region| region.is_free(ORDER_MAX, 0)));
    }
}
