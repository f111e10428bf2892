//! A segment that was given up is tried again: it is used again once all of it was read back as it was written, and not before.

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

/// A volume in which a segment was given up after reads that failed; returns its number.
fn with_a_bad_segment() -> (Rig, u32) {
    let mut rig = Rig::recovered(Disk::formatted(SMALL), 8192, 1);
    let mut number = 0;
    while rig.volume.stats().bad_segments == 0 {
        number += 1;
        while rig.append(hash(number), number, 8000, Kind::Marker).is_err() {
            rig.settle();
            while rig.reclaim_a_step(1) {}
        }
        if number == 1 {
            let segment = rig.volume.find(hash(number)).expect("it was appended").segment;
            (0..3).for_each(|_| rig.volume.note_error(segment));
        }
        rig.settle();
        while rig.reclaim_a_step(1) {}
        assert!(number < 10_000, "it is reclaimed some time");
    }
    rig.settle();
    let bad = (0..SMALL.segment_count)
        .find(|segment| rig.disk.entry(*segment).is_some_and(|entry| entry.state == SegmentState::Bad));
    (rig, bad.expect("the disk knows"))
}

/// The trial that is due after so many seconds, if one is.
fn due(rig: &mut Rig, after: u32) -> Option<Trial> {
    rig.now += after;
    rig.volume.next_trial(rig.now)
}

#[test]
fn a_segment_that_passes_is_used_again() {
    let (mut rig, bad) = with_a_bad_segment();
    assert!(due(&mut rig, 0).is_none() && due(&mut rig, 599).is_none(), "not at once");
    let trial = due(&mut rig, 1).expect("it is due");
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
        while rig.append(hash(number), number, 8000, Kind::Marker).is_err() {
            rig.settle();
            while rig.reclaim_a_step(1) {}
        }
        rig.settle();
    }
    let mut rig = Rig::recovered(rig.crash(), 8192, 2);
    assert!(matches!(rig.look(hash(number)), Look::Version { .. }));
}

#[test]
fn one_that_fails_stays_bad_and_is_tried_more_and_more_rarely() {
    let (mut rig, bad) = with_a_bad_segment();
    assert!(due(&mut rig, 0).is_none());
    let mut pauses = Vec::new();
    for lost in [0, 3, 1, 2, 0, 1, 2, 3, 0, 1] {
        let before = rig.now;
        let trial = loop {
            if let Some(trial) = due(&mut rig, 600) {
                break trial;
            }
        };
        pauses.push((rig.now - before) / 600);
        let outcome = play(&mut rig, &trial, Some(lost));
        assert_eq!(outcome, Outcome::Failed, "what an older trial left does not pass for it");
        rig.volume.tried(trial, outcome);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 144, 144]);
    rig.settle();
    assert_eq!((rig.volume.stats().trials_failed, rig.volume.stats().bad_segments), (10, 1));
    // Nor does a start take it for anything else, whatever the trials left in it; then it is tried anew.
    let mut rig = Rig::recovered(rig.crash(), 8192, 2);
    assert_eq!(rig.disk.entry(bad).unwrap().state, SegmentState::Bad);
    assert_eq!(rig.volume.stats().bad_segments, 1);
    assert!(due(&mut rig, 0).is_none());
    let trial = due(&mut rig, 600).expect("it is due");
    rig.volume.tried(trial, Outcome::Aborted);
    assert!(due(&mut rig, 599).is_none());
    let trial = due(&mut rig, 1).expect("it is due as soon as before");
    let outcome = play(&mut rig, &trial, None);
    rig.volume.tried(trial, outcome);
    rig.settle();
    assert_eq!(rig.volume.stats().bad_segments, 0);
}

#[test]
fn what_somebody_reads_is_not_written_over() {
    let (mut rig, bad) = with_a_bad_segment();
    rig.volume.pin(bad);
    assert!(due(&mut rig, 0).is_none() && due(&mut rig, 600).is_none());
    rig.volume.unpin(bad);
    assert!(due(&mut rig, 0).is_some());
}
