//! Room is made: what goes, what stays, and what it costs.

use aspis_storage::disk::format::Geometry;
use aspis_storage::disk::volume::Refused;

use crate::simulated::*;

const SMALL: Geometry = Geometry { segment_shift: 20, segment_count: 8 };

/// Appends, and makes room or writes as needed.
fn store(rig: &mut Rig, number: u64, version: u64, len: usize) {
    loop {
        match rig.append(hash(number), version, len, Kind::Marker) {
            Ok(_) => break,
            Err(Refused::NoMemory) => rig.settle(),
            Err(Refused::NoSegment) => {
                rig.settle();
                while rig.reclaim_a_step(1) || rig.try_a_segment() {}
            }
            Err(refused) => panic!("{refused:?}"),
        }
        rig.settle();
    }
    while rig.reclaim_a_step(1) {}
}

fn is_found(rig: &mut Rig, number: u64) -> bool {
    matches!(rig.look(hash(number)), Look::Version { .. })
}

#[test]
fn two_segments_are_kept_free_and_what_is_used_stays() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 8192, 1);
    let used: Vec<u64> = (0..20).collect();
    for number in 0..5000 {
        store(&mut rig, number, number, 4000);
        for number in &used {
            rig.volume.used(hash(*number));
        }
        if number % 50 == 0 {
            rig.settle();
            assert!(rig.volume.stats().free_segments >= 1);
        }
    }
    rig.settle();
    let stats = rig.volume.stats();
    assert!(used.iter().all(|number| is_found(&mut rig, *number)), "{stats:?}");
    assert!((4000..5000).all(|number| is_found(&mut rig, number)), "{stats:?}");
    assert!(!(20..3000).any(|number| is_found(&mut rig, number)));
    assert!(stats.reclaimed_segments > 10 && stats.free_segments >= 2 && stats.reinserted_bytes > 0);
    assert!(rig.volume.oldest_number() == 0, "the oldest that is used");
    let mut rig = Rig::recovered(rig.crash(), 8192, 2);
    assert!(used.iter().all(|number| is_found(&mut rig, *number)));
    assert!((4000..5000).all(|number| is_found(&mut rig, number)));
}

#[test]
fn a_quarter_is_written_anew_at_most_and_a_third_is_added_to_what_is_appended() {
    let geometry = Geometry { segment_shift: 20, segment_count: 40 };
    let mut rig = Rig::recovered(Disk::formatted(geometry), 1 << 15, 1);
    let mut dice = Dice::new(3);
    // Everything is used again and again, so that nothing would go if it could all stay.
    let mut appended = 0u64;
    while rig.volume.stats().reclaimed_segments < 100 {
        store(&mut rig, appended, appended, dice.below(16_000) as usize);
        appended += 1;
        for _ in 0..4 {
            rig.volume.used(hash(appended.saturating_sub(dice.below(3000))));
        }
    }
    rig.settle();
    let stats = rig.volume.stats();
    let amplification = stats.written_bytes as f64 / stats.appended_bytes as f64;
    let reinserted = stats.reinserted_bytes as f64 / stats.appended_bytes as f64;
    println!("written / appended = {amplification:.3}, of that written anew {reinserted:.3}");
    assert!(amplification <= 1.33 && reinserted > 0.1, "{stats:?}");
}

#[test]
fn what_has_expired_goes_first_and_is_not_kept() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 8192, 1);
    for number in 0..100 {
        store(&mut rig, number, number, 4000);
        rig.volume.used(hash(number));
    }
    rig.now += 4000;
    for number in 100..3000 {
        store(&mut rig, number, number, 4000);
    }
    assert!(!(0..100).any(|number| is_found(&mut rig, number)));
    assert_eq!(rig.volume.stats().reinserted_bytes, 0);
}

#[test]
fn slices_with_less_that_is_found_go_before_older_records() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 8192, 1);
    for number in 0..900 {
        rig.append(hash(number), number, 1000, Kind::Marker).unwrap();
    }
    // Slices that nothing leads to any more, behind them.
    for number in 10_000..10_020 {
        rig.append(hash(number), number, 100_000, Kind::Slice).unwrap();
        rig.settle();
        rig.volume.remove(hash(number), 1000);
    }
    let before = rig.volume.stats();
    let mut number = 20_000;
    while rig.volume.stats().reclaimed_segments < before.reclaimed_segments + 2 {
        store(&mut rig, number, number, 10_000);
        number += 1;
    }
    assert!((0..900).all(|number| is_found(&mut rig, number)));
}

#[test]
fn a_segment_that_is_read_is_not_written() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 8192, 1);
    store(&mut rig, 0, 7, 5000);
    rig.settle();
    let found = rig.volume.find(hash(0)).unwrap();
    rig.volume.pin(found.segment);
    let bytes = |rig: &Rig| {
        let start = found.file_offset as usize + found.skip;
        rig.disk.bytes[start..start + 5000].to_vec()
    };
    let before = bytes(&rig);
    for number in 1..3000 {
        store(&mut rig, number, number, 5000);
    }
    rig.settle();
    assert!(!is_found(&mut rig, 0) && bytes(&rig) == before);
    rig.volume.unpin(found.segment);
    for number in 3000..6000 {
        store(&mut rig, number, number, 5000);
    }
    assert!(bytes(&rig) != before);
}

#[test]
fn a_removal_while_its_segment_is_reclaimed_survives_a_crash() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 8192, 1);
    let mut number = 0;
    while rig.volume.stats().free_segments >= 2 {
        match rig.append(hash(number), number, 4000, Kind::Marker) {
            Ok(_) => number += 1,
            Err(_) => rig.settle(),
        }
        if number % 20 == 0 {
            rig.settle();
        }
    }
    // Some are used, so that the segment is not given up in the step that forgets the others.
    (0..5).for_each(|number| rig.volume.used(hash(number)));
    rig.settle();
    while is_found(&mut rig, 10) {
        assert!(rig.reclaim_a_step(1));
    }
    assert!(is_found(&mut rig, 0), "it is under way");
    assert!(rig.volume.remove(hash(10), 1000), "the disk still has it");
    rig.settle();
    let crashed = rig.disk.clone();
    // Once it is given up, and the disk does not know.
    while rig.reclaim_a_step(1) {}
    assert!(rig.volume.remove(hash(11), 1000));
    assert!(rig.fetch(true) > 0);
    let mut after = Rig::recovered(crashed, 8192, 2);
    assert!(!is_found(&mut after, 10) && is_found(&mut after, 11), "only what was removed is gone");
    rig.settle();
    assert!(!rig.volume.remove(hash(12), 1000), "the disk has nothing of it any more");
}

#[test]
fn a_victim_whose_footer_cannot_be_read_is_forgotten() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 8192, 1);
    for number in 0..3000 {
        rig.disk.read_errors = 2;
        store(&mut rig, number, number, 4000);
        rig.disk.read_errors = 0;
    }
    rig.settle();
    let stats = rig.volume.stats();
    assert!((0..3000).filter(|number| is_found(&mut rig, *number)).count() > 500, "{stats:?}");
    let stats = rig.volume.stats();
    assert!(
        stats.dropped <= 2,
        "few slots lead to another's record, and none into a segment that was written anew: {stats:?}"
    );
}

#[test]
fn a_segment_that_is_really_bad_is_not_used_again() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 8192, 1);
    store(&mut rig, 0, 0, 4000);
    rig.settle();
    let found = rig.volume.find(hash(0)).unwrap();
    let start = found.file_offset as usize + 200_000;
    rig.disk.broken = start..start + 512;
    (0..3).for_each(|_| rig.volume.note_error(found.segment));
    for number in 1..4000 {
        store(&mut rig, number, number, 4000);
        rig.try_a_segment();
        rig.now += 1;
    }
    rig.settle();
    let stats = rig.volume.stats();
    assert!(stats.bad_segments == 1 && stats.trials_passed == 0 && stats.trials_failed > 3, "{stats:?}");
    let mut rig = Rig::recovered(rig.crash(), 8192, 2);
    assert_eq!(rig.volume.stats().bad_segments, 1);
    assert!((3500..4000).all(|number| is_found(&mut rig, number)));
}
