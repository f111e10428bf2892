//! A volume from its first record on: where records are found while they are on their way, and after a start.

use aspis_storage::disk::format::Geometry;
use aspis_storage::disk::volume::Refused;

use crate::simulated::*;

const SMALL: Geometry = Geometry { segment_shift: 20, segment_count: 16 };

fn version(version: u64, is_written: bool) -> Look {
    Look::Version { version, is_written }
}

#[test]
fn a_record_is_found_in_memory_then_on_the_disk_and_after_a_start() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 4096, 1);
    assert_eq!(rig.look(hash(1)), Look::Nothing);
    rig.append(hash(1), 7, 10_000, Kind::Marker).unwrap();
    rig.append(hash(2), 8, 5_000, Kind::Slice).unwrap();
    assert_eq!((rig.look(hash(1)), rig.look(hash(2))), (version(7, false), version(8, false)));
    rig.settle();
    assert_eq!((rig.look(hash(1)), rig.look(hash(2))), (version(7, true), version(8, true)));
    assert_eq!((rig.volume.oldest_number(), rig.volume.last_number()), (7, 8));
    let mut rig = Rig::recovered(rig.crash(), 4096, 2);
    assert_eq!((rig.look(hash(1)), rig.look(hash(2))), (version(7, true), version(8, true)));
    assert_eq!((rig.volume.oldest_number(), rig.volume.last_number()), (7, 8));
    // What was open got its footer, and is found by it.
    rig.settle();
    let mut rig = Rig::recovered(rig.crash(), 4096, 3);
    assert_eq!((rig.look(hash(1)), rig.look(hash(2))), (version(7, true), version(8, true)));
}

#[test]
fn nothing_is_appended_before_recovery_told_of_all_segments() {
    let mut rig = Rig::new(Disk::formatted(SMALL), 4096, 1);
    assert_eq!(rig.append(hash(1), 1, 10, Kind::Marker), Err(Refused::NotReady));
    assert_eq!(rig.volume.oldest_number(), 0);
    while rig.recover_a_step() {}
    assert_eq!(rig.volume.oldest_number(), u64::MAX);
    rig.append(hash(1), 1, 10, Kind::Marker).unwrap();
    assert_eq!(rig.append(hash(2), 1, 1 << 20, Kind::Marker), Err(Refused::TooLarge));
}

#[test]
fn what_is_written_bit_by_bit_is_all_found() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 4096, 5);
    for number in 0..300 {
        rig.append(hash(number), number, (number * 97 % 5000) as usize, Kind::Marker).unwrap();
        rig.fetch(number % 3 == 0);
        if number % 2 == 0 {
            rig.complete();
        }
        let recent = number.saturating_sub(8)..=number;
        assert!(recent.into_iter().all(|number| matches!(rig.look(hash(number)), Look::Version { .. })));
    }
    rig.settle();
    let mut rig = Rig::recovered(rig.crash(), 4096, 6);
    assert!((0..300).all(|number| rig.look(hash(number)) == version(number, true)));
}

#[test]
fn a_removed_record_stays_away_after_a_crash() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 4096, 5);
    rig.append(hash(1), 1, 100, Kind::Marker).unwrap();
    rig.append(hash(2), 2, 100, Kind::Marker).unwrap();
    rig.settle();
    assert!(rig.volume.remove(hash(1), 1000));
    assert!(!rig.volume.remove(hash(3), 1000), "nothing was there");
    assert_eq!(rig.look(hash(1)), Look::Nothing);
    // Little as it is, it does not wait for more.
    assert_eq!(rig.fetch(false), 1);
    rig.settle();
    let mut rig = Rig::recovered(rig.crash(), 4096, 6);
    assert_eq!((rig.look(hash(1)), rig.look(hash(2))), (Look::Nothing, version(2, true)));
    rig.append(hash(1), 3, 100, Kind::Marker).unwrap();
    assert_eq!(rig.look(hash(1)), version(3, false));
}

#[test]
fn what_is_removed_while_the_volume_recovers_is_not_recovered() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 4096, 5);
    for number in 0..3000 {
        rig.append(hash(number), number, 100, Kind::Marker).unwrap();
    }
    rig.settle();
    let mut rig = Rig::new(rig.crash(), 4096, 6);
    // Before anything is known, too.
    rig.volume.remove(hash(5), 1000);
    rig.append(hash(6), 9999, 10, Kind::Marker).unwrap_err();
    let mut removed = 10;
    while rig.recover_a_step() {
        if removed < 40 {
            rig.volume.remove(hash(removed), 1000);
            removed += 1;
        }
    }
    rig.settle();
    for _ in 0..2 {
        let gone = |number: &u64| *number == 5 || (10..removed).contains(number);
        for number in 0..100 {
            let expected = if gone(&number) { Look::Nothing } else { version(number, true) };
            assert_eq!(rig.look(hash(number)), expected, "{number}");
        }
        rig = Rig::recovered(rig.crash(), 4096, 7);
    }
}

#[test]
fn a_full_volume_refuses() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 4096, 5);
    let mut taken = 0;
    let refused = loop {
        match rig.append(hash(taken), 1, 100_000, Kind::Marker) {
            Ok(_) => taken += 1,
            Err(Refused::NoMemory) => rig.settle(),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, taken), (Refused::NoSegment, 16 * 10));
    rig.settle();
    assert!((0..taken).all(|number| rig.look(hash(number)) == version(1, true)));
    let stats = rig.volume.stats();
    assert_eq!((stats.records, stats.free_segments, stats.used_segments), (taken, 0, 16));
}

#[test]
fn a_record_is_appended_between_any_two_writes_when_buffers_are_few() {
    let geometry = Geometry { segment_shift: 22, segment_count: 8 };
    // With this seed there are two buffers: both are closed when a third is refused.
    let mut rig = Rig::recovered(Disk::formatted(geometry), 4096, 0);
    rig.append(hash(1), 1, 700_001, Kind::Marker).unwrap();
    rig.append(hash(2), 1, 700_001, Kind::Marker).unwrap();
    assert_eq!(rig.append(hash(3), 1, 700_001, Kind::Marker), Err(Refused::NoMemory));
    rig.fetch(false);
    while rig.complete() {}
    // One write at a time, and appends in between.
    for number in 4..60 {
        rig.fetch_one(true);
        let _ = rig.append(hash(number), 1, 9_999, Kind::Marker);
        if number % 3 == 0 {
            rig.complete();
        }
        for number in 1..=number {
            let look = rig.look(hash(number));
            assert!(matches!(look, Look::Nothing | Look::Version { version: 1, .. }), "{look:?}");
        }
    }
    rig.settle();
    let mut rig = Rig::recovered(rig.crash(), 4096, 1);
    assert!([1, 2, 59].into_iter().all(|number| rig.look(hash(number)) == version(1, true)));
}

#[test]
fn a_removal_is_known_to_be_written_when_a_crash_cannot_undo_it() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 4096, 5);
    rig.append(hash(1), 1, 100, Kind::Marker).unwrap();
    rig.append(hash(2), 2, 100, Kind::Marker).unwrap();
    rig.settle();
    rig.volume.remove(hash(1), 1000);
    let mark = rig.volume.mark();
    assert!(!rig.volume.is_written(mark));
    // Its write fails, so that it is written once more, elsewhere.
    assert!(rig.fetch_one(false));
    rig.disk.write_errors = 1;
    rig.complete();
    rig.disk.write_errors = 0;
    assert!(!rig.volume.is_written(mark), "it was lost with the write");
    while !rig.volume.is_written(mark) {
        assert!(rig.fetch(false) > 0 || rig.complete());
    }
    let mut rig = Rig::recovered(rig.crash(), 4096, 6);
    assert_eq!((rig.look(hash(1)), rig.look(hash(2))), (Look::Nothing, version(2, true)));
}
