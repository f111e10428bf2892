use super::*;
use crate::budget::Purpose;
use proptest::prelude::*;
use std::collections::HashMap;

fn index(slots: u64) -> Index {
    Index::new(slots, 0x5eed, &Budget::new(1 << 30)).unwrap()
}

/// Hashes as the cache key's hash gives them.
fn hash(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn slot(number: u64) -> Slot {
    let unit = 64 + (number % 262_000) as u32;
    Slot {
        segment: (number / 262_000) as u32,
        unit,
        class: (number % 64) as u8,
        hits: 0,
        kind: SlotKind::Plain,
    }
}

#[test]
fn a_slot_is_unpacked_as_it_was_packed() {
    for kind in [SlotKind::Plain, SlotKind::Head, SlotKind::Marker, SlotKind::Hidden] {
        for (segment, unit, class, hits) in
            [(0, 64, 0, 0), (SEGMENT_COUNT_MAX - 1, (1 << 18) - 1, 63, 3), (7, 4096, 8, 1)]
        {
            let slot = Slot { segment, unit, class, hits, kind };
            assert_eq!(Slot::unpack(slot.pack()), slot);
            assert_eq!(slot.pack() & (SOUGHT | LOSSY), 0);
        }
    }
}

#[test]
fn both_buckets_of_a_hash_name_each_other() {
    for tag in 1..=TAG_COUNT {
        for bucket in [0, 63, 64, 1000] {
            let other = other_bucket(bucket, tag);
            assert!(other != bucket && other / GROUP_BUCKETS == bucket / GROUP_BUCKETS);
            assert_eq!(other_bucket(other, tag), bucket);
        }
    }
}

/// At the load that it is sized for: what it takes, what is lost to room and to tags, and how often a miss has a candidate.
#[test]
fn at_85_percent_load_little_is_lost_and_a_record_costs_9_and_a_half_bytes() {
    let records = 200_000u64;
    let budget = Budget::new(1 << 30);
    let mut index = Index::new(Index::slots_for(records), 1, &budget).unwrap();
    let (mut replaced, mut crowded) = (0, 0);
    for number in 0..records {
        let inserted = index.insert(hash(number), slot(number));
        replaced += u64::from(inserted.replaced.is_some());
        crowded += u64::from(inserted.crowded_out.is_some());
    }
    let found = (0..records).filter(|number| index.find(hash(*number)) == Some(slot(*number))).count() as u64;
    assert_eq!(found, index.len());
    assert_eq!(records - found, replaced + crowded);
    let wrong = (records..2 * records).filter(|number| index.find(hash(*number)).is_some()).count();
    let percent = |count: u64| count as f64 * 100.0 / records as f64;
    let bytes = budget.used(Purpose::Disk) as f64 / records as f64;
    println!(
        "{bytes:.2} B a record; lost to tags {:.3} %, to room {:.4} %; misses with a candidate {:.3} %",
        percent(replaced),
        percent(crowded),
        percent(wrong as u64)
    );
    assert!(bytes <= 9.5);
    assert!(percent(replaced) <= 0.15 && percent(crowded) <= 0.4 && percent(wrong as u64) <= 0.25);
    drop(index);
    assert_eq!(budget.used_total(), 0);
}

#[test]
fn more_records_than_slots_push_the_least_used_out() {
    let mut index = index(5120);
    let used: Vec<u64> = (0..1000).collect();
    for number in &used {
        index.insert(hash(*number), slot(*number));
        (0..5).for_each(|_| index.mark_used(hash(*number)));
    }
    for number in 1000..40_000 {
        index.insert(hash(number), slot(number));
        assert_eq!(index.find(hash(number)), Some(slot(number)), "what is new is always there");
    }
    assert_eq!(index.slot_count(), 5120);
    assert!(index.len() > 5000);
    let kept = used
        .iter()
        .filter(|number| index.find(hash(**number)) == Some(Slot { hits: 3, ..slot(**number) }))
        .count();
    assert!(kept >= 980, "{kept} of 1000 used ones are left");
    let lossy = (0..40_000).filter(|number| index.is_lossy(hash(*number))).count();
    assert!(lossy > 30_000, "{lossy}");
}

#[test]
fn a_crowded_out_record_leaves_its_home_lossy() {
    let mut index = index(512);
    let mut present: HashMap<u64, Slot> = HashMap::new();
    for number in 0..2000 {
        let inserted = index.insert(hash(number), slot(number));
        present.insert(number, slot(number));
        for gone in inserted.crowded_out.into_iter().chain(inserted.replaced) {
            present.retain(|_, slot| *slot != gone);
        }
        if let Some(gone) = inserted.crowded_out {
            let number = u64::from(gone.unit - 64);
            assert!(index.is_lossy(hash(number)));
        }
        assert_eq!(present.len() as u64, index.len());
    }
    for number in 0..2000 {
        let found = index.find(hash(number));
        assert!(present.get(&number).is_none_or(|slot| found == Some(*slot)));
        assert!(found.is_some() || index.is_lossy(hash(number)), "gone without a trace: {number}");
    }
}

#[test]
fn older_records_stay_behind_newer_ones_and_removed_ones() {
    let mut index = index(512);
    assert_eq!(index.insert_older(1, slot(9)), Older::Taken);
    assert_eq!(index.insert_older(1, slot(8)), Older::Hidden);
    assert_eq!(index.insert_older(2, Slot::hidden(3, 70)), Older::Taken);
    assert_eq!(index.peek(2), Some(Slot::hidden(3, 70)));
    assert_eq!(index.insert_older(2, slot(7)), Older::Hidden);
    assert_eq!((index.find(1), index.find(2), index.len()), (Some(slot(9)), None, 2));
    // What is removed while the volume recovers hides older ones too, and so does what is not there at all.
    assert_eq!((index.hide(1), index.hide(3)), (Some(slot(9)), None));
    assert_eq!(
        (index.insert_older(1, slot(6)), index.insert_older(3, slot(5))),
        (Older::Hidden, Older::Hidden)
    );
    index.insert_older(1, Slot::REMOVED);
    // A new one stands nevertheless, and is no replacement of anything.
    assert_eq!(index.insert(1, slot(10)), Inserted::default());
    index.insert_older(1, Slot::REMOVED);
    let mut from = Some(0);
    while let Some(next) = from {
        from = index.sweep_hidden(next, 5);
    }
    assert_eq!((index.find(1), index.len()), (Some(slot(10)), 1));
    assert_eq!(index.insert_older(2, slot(1)), Older::Taken);
}

#[test]
fn a_bucket_that_lost_something_takes_nothing_older() {
    let mut index = index(512);
    let mut number = 0;
    while index.insert_older(hash(number), slot(number)) != Older::Crowded {
        number += 1;
    }
    assert!(index.is_lossy(hash(number)));
    let neighbours: Vec<u64> = (0..number).filter(|other| index.find(hash(*other)).is_some()).collect();
    neighbours.iter().for_each(|other| assert!(index.remove(hash(*other)).is_some()));
    assert!(index.is_empty());
    assert_eq!(
        index.insert_older(hash(number), slot(1)),
        Older::Crowded,
        "there is room now, but not for it"
    );
    assert_eq!(index.insert(hash(number), slot(2)), Inserted::default());
    assert!(index.is_lossy(hash(number)), "the mark outlives the slots that it lies beside");
}

#[test]
fn only_the_record_in_its_place_is_removed() {
    let mut index = index(512);
    index.insert(5, slot(100));
    let Slot { segment, unit, .. } = slot(100);
    assert_eq!(index.remove_at(5, segment, unit + 1), None);
    assert_eq!(index.remove_at(5, segment + 1, unit), None);
    assert_eq!(index.remove_at(6, segment, unit), None);
    assert_eq!(index.remove_at(5, segment, unit), Some(slot(100)));
    assert_eq!(index.remove_at(5, segment, unit), None);
}

#[test]
fn memory_that_the_budget_refuses_is_not_taken() {
    assert!(Index::new(10_000_000, 0, &Budget::new(1 << 20)).is_none());
    assert!(Index::new(u64::MAX / 32, 0, &Budget::new(u64::MAX)).is_none());
}

/// Ten million in well under two seconds, or a restart with as many takes longer than it may.
#[test]
#[ignore = "takes time that only an optimised build has: cargo test --release -p aspis-storage -- --ignored --nocapture ten_million"]
fn ten_million_inserts_and_finds() {
    let records = 10_000_000u64;
    let ahead = 16;
    for (what, prefetching) in [("one by one", false), ("with prefetching", true)] {
        let mut index = Index::new(Index::slots_for(records), 1, &Budget::new(1 << 30)).unwrap();
        for kind in ["older", "insert", "find"] {
            let start = cpu_seconds();
            let mut done = 0u64;
            for number in 0..records {
                if prefetching {
                    index.prefetch(hash(number + ahead));
                }
                done += u64::from(match kind {
                    "older" => index.insert_older(hash(number), slot(number)) == Older::Taken,
                    "insert" => index.insert(hash(number), slot(number)).replaced.is_some(),
                    _ => index.find(hash(number)).is_some(),
                });
            }
            let nanos = (cpu_seconds() - start) * 1e9 / records as f64;
            println!("{what:>18} {kind:>7}: {nanos:6.1} ns, {done}");
            assert!(nanos < 200.0 || !prefetching, "{nanos}");
        }
    }
}

/// What the kernel says this thread has run so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

proptest! {
    #[test]
    fn it_holds_what_a_map_holds(steps in prop::collection::vec((0u8..8, 0u64..300), 1..3000)) {
        let mut index = index(2048);
        let mut map: HashMap<u64, Slot> = HashMap::new();
        for (step, (kind, number)) in steps.into_iter().enumerate() {
            let new = slot(step as u64 * 1000 + number);
            match kind {
                0..4 => {
                    let inserted = index.insert(hash(number), new);
                    prop_assert_eq!(inserted, Inserted { replaced: map.insert(number, new), crowded_out: None });
                }
                4 => prop_assert_eq!(index.remove(hash(number)), map.remove(&number)),
                5 => {
                    let taken = index.insert_older(hash(number), new) == Older::Taken;
                    prop_assert_eq!(taken, !map.contains_key(&number));
                    map.entry(number).or_insert(new);
                }
                6 => {
                    index.mark_used(hash(number));
                    map.entry(number).and_modify(|slot| slot.hits = (slot.hits + 1).min(HITS_MAX));
                }
                _ => {
                    let Some(old) = map.get(&number).copied() else { continue };
                    prop_assert_eq!(index.remove_at(hash(number), old.segment, old.unit), Some(old));
                    map.remove(&number);
                }
            }
            prop_assert_eq!(index.find(hash(number)), map.get(&number).copied());
            prop_assert_eq!(index.len(), map.len() as u64);
        }
        for number in 0..300 {
            prop_assert_eq!(index.find(hash(number)), map.get(&number).copied());
        }
    }
}
