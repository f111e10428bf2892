//! A segment that had errors is tried: it is used again once all of it was read back as it was written, and not before.

use aspis_storage::disk::format::{Geometry, SegmentState};
use aspis_storage::disk::trial::{Outcome, TRIAL_PIECE_LEN, Trial};

use crate::simulated::*;

const SMALL: Geometry = Geometry { segment_shift: 20, segment_count: 8 };

/// Writes a trial to the disk and reads it back, or all but the piece of this number.
fn play(rig: &mut Rig, trial: &Trial, lost: Option<usize>) -> Outcome {
    let mut piece = vec![0; TRIAL_PIECE_LEN as usize];
    for (number, at) in trial.pieces().enumerate() {
        trial.fill(at, &mut piece);
        if lost != Some(number) {
            rig.disk.bytes[at as usize..at as usize + piece.len()].copy_from_slice(&piece);
        }
    }
    let is_there = |at: u64| trial.verify(at, &rig.disk.bytes[at as usize..][..piece.len()]);
    if trial.pieces().all(is_there) { Outcome::Passed } else { Outcome::Failed }
}

/// Appends a record, for which room is made as needed and what is suspected is not tried.
fn store(rig: &mut Rig, number: u64) {
    while rig.append(hash(number), number, 8000, Kind::Marker).is_err() {
        rig.settle();
        while rig.reclaim_a_step(1) {}
    }
    rig.settle();
    while rig.reclaim_a_step(1) {}
}

/// Reads of a segment fail until it is not believed.
fn taint(rig: &mut Rig, segment: u32) {
    (0..3).for_each(|_| rig.volume.note_error(segment));
}

/// Appends numbers from this one on until so many segments are bad; returns the next.
fn store_until_bad(rig: &mut Rig, first: u64, count: u32) -> u64 {
    let mut number = first;
    while rig.volume.stats().bad_segments < count {
        store(rig, number);
        number += 1;
        assert!(number < first + 10_000, "it is reclaimed some time");
    }
    rig.settle();
    number
}

/// A volume in which a segment had errors and was reclaimed; returns its number.
fn with_a_suspect() -> (Rig, u32) {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 8192, 1);
    store(&mut rig, 1);
    let segment = rig.volume.find(hash(1)).expect("it was appended").segment;
    taint(&mut rig, segment);
    store_until_bad(&mut rig, 2, 1);
    assert!(rig.disk.entry(segment).is_some_and(|entry| entry.state == SegmentState::Bad), "the disk knows");
    (rig, segment)
}

/// The trial that is due after so many seconds, if one is.
fn due(rig: &mut Rig, after: u32) -> Option<Trial> {
    rig.now += after;
    rig.volume.next_trial(rig.now)
}

/// How many seconds it takes until a trial is due.
#[track_caller]
fn next(rig: &mut Rig) -> (Trial, u32) {
    let before = rig.now;
    let found = (0..10_000).find_map(|round| due(rig, if round == 0 { 0 } else { 10 }));
    (found.expect("one is due within a day"), rig.now - before)
}

#[test]
fn a_segment_that_passes_is_used_again() {
    let (mut rig, bad) = with_a_suspect();
    let trial = due(&mut rig, 0).expect("it is due at once");
    assert_eq!(trial.pieces().count(), 4);
    assert!(due(&mut rig, 100_000).is_none(), "one at a time");
    let outcome = play(&mut rig, &trial, None);
    let free = rig.volume.stats().free_segments;
    rig.volume.tried(trial, outcome);
    rig.settle();
    let stats = rig.volume.stats();
    assert_eq!((stats.bad_segments, stats.free_segments, stats.trials_passed), (0, free + 1, 1));
    let entry = rig.disk.entry(bad).unwrap();
    assert_eq!((entry.state, entry.errors), (SegmentState::Free, 0));
    assert!(due(&mut rig, 100_000).is_none());
    // What is stored in it afterwards is found, and survives.
    let mut number = 20_000;
    while rig.disk.entry(bad).is_none_or(|entry| entry.state == SegmentState::Free) {
        number += 1;
        store(&mut rig, number);
    }
    let mut rig = Rig::recovered(rig.crash(), 8192, 2);
    assert!(matches!(rig.look(hash(number)), Look::Version { .. }));
}

#[test]
fn one_that_fails_stays_bad_and_is_tried_more_and_more_rarely() {
    let (mut rig, bad) = with_a_suspect();
    let mut pauses = Vec::new();
    for lost in [0, 3, 1, 2, 0, 1, 2, 3, 0, 1] {
        let (trial, pause) = next(&mut rig);
        pauses.push(pause);
        let outcome = play(&mut rig, &trial, Some(lost));
        assert_eq!(outcome, Outcome::Failed, "what an older trial left does not pass for it");
        rig.volume.tried(trial, outcome);
    }
    assert_eq!(pauses, [0, 10, 40, 160, 640, 2560, 10_240, 40_960, 86_400, 86_400]);
    rig.settle();
    assert_eq!((rig.volume.stats().trials_failed, rig.volume.stats().bad_segments), (10, 1));
    // Nor does a start take it for anything else, whatever the trials left in it; then it is tried anew.
    let mut rig = Rig::recovered(rig.crash(), 8192, 2);
    assert_eq!(rig.disk.entry(bad).unwrap().state, SegmentState::Bad);
    assert_eq!(rig.volume.stats().bad_segments, 1);
    let (trial, pause) = next(&mut rig);
    assert_eq!(pause, 10, "nobody waits for it");
    rig.volume.tried(trial, Outcome::Aborted);
    let (trial, pause) = next(&mut rig);
    assert_eq!(pause, 10, "it is due as soon as before");
    let outcome = play(&mut rig, &trial, None);
    rig.volume.tried(trial, outcome);
    rig.settle();
    assert_eq!(rig.volume.stats().bad_segments, 0);
}

/// A medium that forgets passes a trial and fails later: it is out of use for longer each time.
#[test]
fn one_that_fails_again_after_it_passed_waits() {
    let (mut rig, bad) = with_a_suspect();
    let (mut pauses, mut number) = (Vec::new(), 20_000);
    for round in 0..5 {
        let (trial, pause) = next(&mut rig);
        pauses.push(pause);
        let outcome = play(&mut rig, &trial, None);
        rig.volume.tried(trial, outcome);
        rig.settle();
        // A day without errors has it be like any other.
        rig.now += if round == 3 { 86_400 } else { 600 };
        assert!(due(&mut rig, 0).is_none());
        taint(&mut rig, bad);
        number = store_until_bad(&mut rig, number, 1);
    }
    assert_eq!(pauses, [0, 40, 640, 10_240, 0]);
}

/// A fault that is over left errors in every segment: what they have is not lost at once, since the first that were reclaimed may be good.
#[test]
fn a_store_full_of_suspects_is_not_emptied() {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 8192, 1);
    (0..2000).for_each(|number| store(&mut rig, number));
    (0..SMALL.segment_count).for_each(|segment| taint(&mut rig, segment));
    let before = rig.volume.stats();
    let mut number = 2000;
    let mut fill = |rig: &mut Rig| {
        while rig.reclaim_a_step(1) {}
        rig.settle();
        while rig.append(hash(number), number, 8000, Kind::Marker).is_ok() {
            number += 1;
            rig.settle();
            while rig.reclaim_a_step(1) {}
        }
        rig.volume.stats()
    };
    let after = fill(&mut rig);
    assert_eq!((after.bad_segments, after.reclaimed_segments - before.reclaimed_segments), (2, 2));
    assert!(after.records > before.records / 2, "{after:?}");
    // One that is found bad is not waited for; one that passes is room.
    for outcome in [Outcome::Failed, Outcome::Passed] {
        let (trial, _) = next(&mut rig);
        rig.volume.tried(trial, outcome);
        rig.settle();
    }
    let after = fill(&mut rig);
    assert_eq!((after.bad_segments, after.trials_failed, after.trials_passed), (3, 1, 1), "{after:?}");
    assert!(after.reclaimed_segments > before.reclaimed_segments + 2, "{after:?}");
    // Nor is any waited for when none is tried any more.
    rig.volume.try_no_more();
    assert!(!rig.volume.suspects_any() && fill(&mut rig).bad_segments > 3);
}

#[test]
fn what_somebody_reads_is_not_written_over() {
    let (mut rig, bad) = with_a_suspect();
    rig.volume.pin(bad);
    assert!(due(&mut rig, 0).is_none() && due(&mut rig, 600).is_none());
    rig.volume.unpin(bad);
    assert!(due(&mut rig, 0).is_some());
}
