//! The disk tier of one core over real files: what was offered is read back, at once and after a restart, and what fails is a miss.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::time::Duration;

use aspis_storage::disk::record::RecordKind;
use aspis_storage::disk::trial::Outcome;
use aspis_storage::mapping::arena::Arena;
use aspis_storage::mapping::body::Body;

use super::bare::*;
use super::store::Store;
use super::writing::{End, NotTaken};
use super::*;
use crate::limits::{DISK_DOUBT_PAUSE, DISK_QUEUE_SHARE};

#[test]
fn what_was_offered_is_read_at_once_and_after_a_restart() {
    let store = Store::of(GEOMETRY);
    for flush in [true, false] {
        let core = Core::start(store.open());
        let base = if flush { 0 } else { 100 };
        assert!(core.offer(plain(base..base + 20, 30_000)).iter().all(Result::is_ok));
        core.wait("all is appended", |disk| disk.writes.queued_len() == 0);
        assert_bodies(&core.read(base..base + 20), base..base + 20, 30_000);
        assert!(core.read([7777]) == [None]);
        if flush {
            assert!(core.flush());
        } else {
            core.wait("all is written", |disk| {
                disk.volumes.iter().all(|mounted| mounted.volume.borrow().is_settled())
            });
        }
        core.stop();
        let core = Core::start(store.open());
        assert_bodies(&core.read(base..base + 20), base..base + 20, 30_000);
        if !flush {
            assert_bodies(&core.read(0..20), 0..20, 30_000);
        }
        core.stop();
    }
}

#[test]
fn some_bytes_of_a_slice_are_read_with_what_checks_them() {
    const LEN: usize = 900_000;
    const BLOCK: u64 = 65_536;
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    let read = |key: Vec<u8>, range: std::ops::Range<usize>| {
        core.block(move |disk| async move {
            let read = disk.read_slice(hash(2), (hash(2), &key), range, None).await;
            read.map(|read| read.bytes().to_vec())
        })
    };
    core.offer(vec![Plain { kind: RecordKind::Slice, ..Plain::new(2, LEN) }]);
    core.wait("it is appended", |disk| disk.writes.queued_len() == 0);
    for is_written in [false, true] {
        // A front is a block of its own, and so is what is checked as a whole; neighbours are read at once.
        for (range, bytes_read) in [
            (0..10, 4096 + BLOCK),
            (65_530..65_550, 4096 + 2 * BLOCK),
            (131_072..131_073, 4096 + BLOCK),
            (300_000..600_000, 4096 + 6 * BLOCK),
            (0..LEN, 917_504),
            (LEN - 1..LEN, 4096 + 917_504 - 4096 - 13 * BLOCK),
        ] {
            let before = core.count(Counter::DiskReadBytes);
            let bytes = read(key(2), range.clone());
            assert!(bytes.is_some_and(|bytes| bytes == body(2, LEN)[range.clone()]), "{range:?}");
            let read_len = core.count(Counter::DiskReadBytes) - before;
            assert!(read_len == bytes_read || !is_written && read_len == 0, "{range:?}: {read_len}");
        }
        assert!(read(key(2), LEN - 1..LEN + 1).is_none() && read(b"key".to_vec(), 0..10).is_none());
        core.wait_settled();
    }
    assert_eq!(core.count(Counter::DiskCheckFailures), 0);
    // Of a long key the front is longer than a block.
    core.offer(vec![Plain { kind: RecordKind::Slice, key_len: 9000, ..Plain::new(4, LEN) }]);
    assert!(core.flush());
    let bytes = core.block(|disk| async move {
        let read = disk.read_slice(hash(4), (hash(4), &[b'k'; 9000]), 300_000..300_010, None).await;
        read.map(|read| read.bytes().to_vec())
    });
    assert!(bytes.is_some_and(|bytes| bytes == body(4, LEN)[300_000..300_010]));
}

/// What is long is read to where it stays, if there is such a place; then nothing of it is copied.
#[test]
fn what_is_long_is_read_to_where_it_stays() {
    const LEN: usize = 300_000;
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    let slice = Plain { kind: RecordKind::Slice, ..Plain::new(2, LEN) };
    // Of a long key the front is longer than a block, and the body not where it was thought.
    let odd = Plain { kind: RecordKind::Slice, key_len: 9000, ..Plain::new(4, LEN) };
    core.offer(vec![Plain::new(0, LEN), slice, odd, Plain::new(6, 20_000)]);
    core.wait("all is appended", |disk| disk.writes.queued_len() == 0);
    for is_written in [false, true] {
        for has_room in [true, false] {
            core.block(move |disk| async move {
                let arena = Arena::new(4 << 20, Budget::new(64 << 20)).unwrap();
                let held = (!has_room).then(|| [(); 2].map(|()| arena.allocate(2 << 20).unwrap()));
                let block = |len| arena.allocate(len);
                let mut writer = Body::writer(&arena, None);
                let (read, whole) = disk.read(hash(0), hash(0), Some(&block)).await.unwrap();
                assert_eq!(read.front().key, key(0));
                let whole = whole.into_body(&arena).map_err(|whole| whole.bytes().to_vec());
                let is_whole = |found: &[u8]| found == body(0, LEN);
                match &whole {
                    Ok(kept) => assert!(has_room && is_whole(kept.piece(0)) && kept.charged_len() < 301_100),
                    Err(bytes) => assert!(!has_room && is_whole(bytes)),
                }
                let slice = disk.read_slice(hash(2), (hash(2), &key(2)), 0..LEN, Some(&block)).await.unwrap();
                assert!(slice.bytes() == body(2, LEN));
                let appended = slice.append_to(&mut writer).map_err(|slice| slice.bytes() == body(2, LEN));
                assert_eq!(appended.ok(), has_room.then_some(LEN));
                assert!(!has_room || writer.body().piece(0) == body(2, LEN));
                // These are copied: a part, what is not where it was thought, what is short, what has to follow something else.
                let part =
                    disk.read_slice(hash(2), (hash(2), &key(2)), 65_536..LEN, Some(&block)).await.unwrap();
                assert!(part.bytes() == &body(2, LEN)[65_536..] && part.into_body(&arena).is_err());
                let odd_key = [b'k'; 9000];
                let odd = disk.read_slice(hash(4), (hash(4), &odd_key), 0..LEN, Some(&block)).await.unwrap();
                assert!(odd.bytes() == body(4, LEN) && odd.into_body(&arena).is_err());
                let (_, short) = disk.read(hash(6), hash(6), Some(&block)).await.unwrap();
                assert!(short.bytes() == body(6, 20_000) && short.into_body(&arena).is_err());
                let again = disk.read_slice(hash(2), (hash(2), &key(2)), 0..LEN, Some(&block)).await.unwrap();
                assert!(again.append_to(&mut writer).is_err_and(|again| again.bytes() == body(2, LEN)));
                drop(held);
            });
        }
        if !is_written {
            core.wait_settled();
        }
    }
    assert_eq!(core.count(Counter::DiskCheckFailures), 0);
    core.wait("every buffer is back", |disk| disk.reads.is_at_rest());
}

#[test]
fn what_was_removed_does_not_come_back() {
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    core.offer(plain(0..10, 5000));
    core.wait_settled();
    // What waits in line when it is removed is not written either.
    core.call(|disk| {
        disk.offer(Box::new(Plain::new(20, 5000)), false).unwrap();
        disk.offer(Box::new(Plain::new(22, 5000)), false).unwrap();
        (0..5).chain([20]).for_each(|number| disk.remove(hash(number), hash(number)));
    });
    core.wait_settled();
    let expected: Vec<bool> = (0..10).map(|number| number >= 5).chain([false, true]).collect();
    let is_there = |core: &Core| -> Vec<bool> {
        core.read((0..10).chain([20, 22])).iter().map(Option::is_some).collect()
    };
    assert_eq!(is_there(&core), expected);
    core.stop();
    let core = Core::start(store.open());
    assert_eq!(is_there(&core), expected);
}

#[test]
fn who_waits_for_a_removal_knows_that_it_outlives_the_process() {
    let store = Store::of(GEOMETRY);
    for round in 0..10 {
        let core = Core::start(store.open());
        core.offer(plain(0..10, 5000));
        core.wait_settled();
        core.block(move |disk| async move {
            disk.remove(hash(round), hash(round));
            let volume = &disk.mounted(hash(round)).unwrap().volume;
            let mark = volume.borrow().mark();
            assert!(!volume.borrow().is_written(mark));
            disk.removals_written(hash(round)).await;
            assert!(volume.borrow().is_written(mark));
            // Nothing more is written: as if the process were killed.
            disk.ring.stop();
        });
        core.stop();
        let core = Core::start(store.open());
        let found: Vec<u64> =
            (0..10).zip(core.read(0..10)).filter(|(_, body)| body.is_some()).map(|(n, _)| n).collect();
        assert_eq!(found, (0..10).filter(|number| *number != round).collect::<Vec<_>>());
    }
}

/// Several times what the store holds goes through it: segments are reclaimed under way, and what is used stays.
#[test]
fn a_full_store_makes_room_and_keeps_what_is_used() {
    const LEN: usize = 60_000;
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    for base in (10..610).step_by(10) {
        if base == 10 {
            core.offer(plain(0..10, LEN));
        }
        assert!(core.offer(plain(base..base + 10, LEN)).iter().all(Result::is_ok), "{base}");
        core.wait("all is appended", |disk| disk.writes.queued_len() == 0);
        assert_bodies(&core.read(base..base + 10), base..base + 10, LEN);
        // These are asked for all the time.
        core.read(0..4);
    }
    core.wait_settled();
    let found = |core: &Core| -> Vec<u64> {
        let read = core.read(0..610);
        let found = (0..).zip(read).filter(|(_, found)| found.is_some());
        found
            .map(|(number, found)| {
                assert!(found.is_some_and(|found| found == body(number, LEN)), "{number}");
                number
            })
            .collect()
    };
    let before = found(&core);
    assert!(before.starts_with(&[0, 1, 2, 3]) && before.ends_with(&[608, 609]), "{before:?}");
    assert!((130..260).contains(&before.len()), "most of 16 MiB: {}", before.len());
    core.call(|disk| disk.show_levels());
    assert!(core.count(Counter::DiskReclaimed) > 15 && core.count(Counter::DiskReinserted) > 0);
    core.stop();
    let core = Core::start(store.open());
    assert_eq!(found(&core), before);
}

#[test]
fn the_line_is_bounded_and_gives_way_when_memory_is_short() {
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    let (sender, given_up) = mpsc::channel();
    let (taken, shown, after) = core.call(move |disk| {
        let offer = |number| {
            let plain = Plain { given_up: Some(sender.clone()), ..Plain::new(number, 100_000) };
            disk.offer(Box::new(plain), false)
        };
        let taken: Vec<_> = (0..60).map(offer).collect();
        let shown = disk.counters.value(Counter::DiskQueueBytes);
        disk.relieve();
        (taken, shown, disk.counters.value(Counter::DiskQueueBytes))
    });
    let count = taken.iter().filter(|taken| taken.is_ok()).count();
    assert_eq!(count as u64, (64 << 20) / DISK_QUEUE_SHARE / 100_000, "a part of the limit");
    assert!(taken[count..].iter().all(|taken| *taken == Err(NotTaken::Queue)));
    assert_eq!((shown, after, given_up.iter().count()), (count as u64 * 100_000, 0, 60));
    assert_eq!(core.count(Counter::DiskRefusedQueue), 60 - count as u64);
    assert_eq!(core.count(Counter::DiskRefusedMemory), count as u64);
}

#[test]
fn a_file_that_lost_its_end_is_off_line_until_it_has_it_again() {
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    core.offer(plain(0..40, 5000));
    assert!(core.flush());
    let cut = |len| {
        for shard in 0..2 {
            OpenOptions::new().write(true).open(store.volume_path(shard)).unwrap().set_len(len).unwrap();
        }
    };
    cut(1 << 16);
    assert!(core.read(0..40).iter().all(Option::is_none));
    assert_eq!(core.count(Counter::DiskReadErrors), 5, "then it is left alone");
    assert!(store.directory.is_off_line());
    assert_eq!(core.offer(plain(40..41, 10)), [Err(NotTaken::OffLine)]);
    assert!(core.flush(), "nothing can be written: nobody waits for it");
    cut(GEOMETRY.file_len());
    core.wait("it is used again", |disk| !disk.is_off_line(&disk.volumes[0]));
    // The content is gone: that is noticed.
    assert!(core.read(0..40).iter().all(Option::is_none));
    assert!(core.count(Counter::DiskCheckFailures) > 0);
    core.offer(plain(100..120, 5000));
    core.wait_settled();
    assert_bodies(&core.read(100..120), 100..120, 5000);
}

#[test]
fn a_file_that_cannot_be_written_is_off_line_and_nothing_waits_for_it() {
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    core.offer(plain(0..40, 5000));
    assert!(core.flush());
    core.stop();
    let core = Core::start(store.open_as(OpenOptions::new().read(true)));
    assert_bodies(&core.read(0..40), 0..40, 5000);
    core.offer(plain(40..60, 5000));
    core.wait("it is off line", |disk| disk.is_off_line(&disk.volumes[0]));
    assert!(core.count(Counter::DiskWriteErrors) >= 5);
    assert!(core.read(0..60).iter().all(Option::is_none));
    core.call(|disk| (0..60).for_each(|number| disk.remove(hash(number), hash(number))));
    assert!(core.flush());
    core.stop();
    let core = Core::start(store.open());
    assert_bodies(&core.read(0..40), 0..40, 5000);
}

/// A device that does not answer: the reading end of a pipe.
#[test]
fn a_core_stops_over_a_disk_that_does_not_answer() {
    let store = Store::of(GEOMETRY);
    let mut boot = store.open();
    let mut writers = Vec::new();
    for volume in &mut boot.volumes {
        let (reader, writer) = io::pipe().unwrap();
        volume.file = reader.into();
        writers.push(writer);
    }
    let core = Core::start_recovering(boot);
    core.offer(plain(0..10, 5000));
    assert!(!core.call(|disk| disk.may_hold(hash(1), hash(1))));
    assert_eq!(core.read([1]), [None]);
    assert!(core.flush());
    assert_eq!(core.call(|disk| disk.oldest_number()), 0, "what it holds is not known");
    core.stop();
}

#[test]
fn damage_is_a_miss_and_the_rest_is_found() {
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    assert!(core.offer(plain(0..20, 40_000)).iter().all(Result::is_ok));
    assert!(core.flush());
    // One byte in the body of some record of the first volume.
    let file = OpenOptions::new().write(true).open(store.volume_path(0)).unwrap();
    file.write_all_at(b"\xff\x00\xff", GEOMETRY.segment_offset(0) + 250_000).unwrap();
    let read = core.read(0..20);
    assert_eq!(read.iter().filter(|body| body.is_none()).count(), 1);
    for (number, found) in (0..20).zip(&read).filter(|(_, found)| found.is_some()) {
        assert!(found.as_deref() == Some(&*body(number, 40_000)));
    }
    assert_eq!(core.count(Counter::DiskCheckFailures), 1);
    assert_eq!(core.read(0..20).iter().filter(|body| body.is_none()).count(), 1);
    assert_eq!(core.count(Counter::DiskCheckFailures), 1, "it lost its place");
}

/// One bad place is not held against the directory; where all that is read is wrong it is off line until that is over.
#[test]
fn a_directory_that_brings_other_bytes_is_off_line_until_it_does_not() {
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    assert!(core.offer(plain(0..4, 40_000)).iter().all(Result::is_ok));
    assert!(core.flush());
    let file = OpenOptions::new().read(true).write(true).open(store.volume_path(0)).unwrap();
    let damage = |number: u64| {
        let found = core.call(move |disk| disk.volumes[0].volume.borrow().find(hash(number)).unwrap());
        file.write_all_at(b"\xff\x00\xff", found.file_offset + 20_000).unwrap();
    };
    damage(0);
    assert_eq!(core.read([0]), [None]);
    core.wait("it was looked at", |disk| disk.health.borrow_mut()[0].doubt(u64::MAX));
    core.call(|disk| disk.health.borrow_mut()[0].doubt_ended(0, true));
    assert!(!store.directory.is_off_line());
    assert_bodies(&core.read([2]), 2..3, 40_000);
    // Neither copy of what is known to be there is as it was.
    let mut superblocks = [0; 8192];
    file.read_exact_at(&mut superblocks, 0).unwrap();
    file.write_all_at(&superblocks.map(|byte| byte ^ 1), 0).unwrap();
    damage(2);
    core.wait("it may be looked at again", |disk| {
        disk.ring.now_millis() >= DISK_DOUBT_PAUSE.as_millis() as u64
    });
    assert_eq!(core.read([2]), [None]);
    core.wait("it is off line", |disk| disk.is_off_line(&disk.volumes[0]));
    assert!(store.directory.is_off_line() && core.read([1]) == [None]);
    file.write_all_at(&superblocks, 0).unwrap();
    core.wait("it is on line", |disk| !disk.is_off_line(&disk.volumes[0]));
    assert_bodies(&core.read([1]), 1..2, 40_000);
    assert_eq!(core.count(Counter::DiskCheckFailures), 2);
}

/// Has a segment have errors and be reclaimed.
fn reclaim_a_tainted_segment(core: &Core) {
    core.offer(plain(0..1, 60_000));
    core.wait_settled();
    core.call(|disk| {
        let mut volume = disk.volumes[0].volume.borrow_mut();
        let segment = volume.find(hash(0)).unwrap().segment;
        (0..3).for_each(|_| volume.note_error(segment));
    });
    for base in (10..410).step_by(10) {
        core.offer(plain(base..base + 10, 60_000));
        core.wait("all is appended", |disk| disk.writes.queued_len() == 0);
    }
    core.wait_settled();
}

#[test]
fn a_segment_that_had_errors_is_tried_and_used_again() {
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    reclaim_a_tainted_segment(&core);
    core.wait("it passed", |disk| disk.volumes[0].volume.borrow().stats().trials_passed == 1);
    core.wait_settled();
    core.call(|disk| disk.show_levels());
    assert_eq!((core.count(Counter::DiskTrialsPassed), core.count(Counter::DiskSegmentsBad)), (1, 0));
    // What was read from elsewhere meanwhile is there, and what is written now comes back.
    assert_bodies(&core.read(400..410), 400..410, 60_000);
    core.offer(plain(500..540, 60_000));
    core.wait_settled();
    assert_bodies(&core.read(500..540), 500..540, 60_000);
}

/// Where nothing can be written no segment is found bad for that.
#[test]
fn a_trial_in_a_directory_that_fails_says_nothing() {
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    core.call(|disk| disk.end(End::Begun));
    reclaim_a_tainted_segment(&core);
    assert_eq!(
        core.call(|disk| disk.volumes[0].volume.borrow().stats().bad_segments),
        1,
        "it is not tried at the end"
    );
    core.stop();
    let core = Core::start(store.open_as(OpenOptions::new().read(true)));
    let outcome = core.block(|disk| async move {
        let mounted = &disk.volumes[0];
        let due = |now| mounted.volume.borrow_mut().next_trial(now);
        assert!(due(disk.wall()).is_none());
        let trial = due(disk.wall() + 11).unwrap();
        let outcome = disk.run_trial(mounted, &trial).await;
        mounted.volume.borrow_mut().tried(trial, outcome);
        outcome
    });
    assert_eq!(outcome, Outcome::Aborted);
    assert!(store.directory.is_off_line());
    assert_eq!(core.call(|disk| disk.volumes[0].volume.borrow().stats().trials_failed), 0);
}

#[test]
fn many_readers_at_once_wait_for_each_other() {
    let store = Store::of(GEOMETRY);
    let core = Core::start(store.open());
    core.offer(plain(0..10, 15_000));
    assert!(core.flush());
    let (sender, found) = mpsc::channel();
    core.call(move |disk| {
        for reader in 0..500_u64 {
            let (disk, sender) = (Rc::clone(disk), sender.clone());
            disk.clone().ring.spawn(async move {
                let number = reader % 10;
                let read = disk.read(hash(number), hash(number), None);
                // Some go away while they wait or read.
                if reader % 3 == 0 {
                    let _ = disk.ring.timeout(Duration::from_millis(reader / 100), read).await;
                } else {
                    let read = read.await;
                    sender.send(read.is_some_and(|(_, read)| *read.bytes() == body(number, 15_000))).unwrap();
                }
            });
        }
    });
    let found: Vec<bool> = found.iter().collect();
    assert_eq!((found.len(), found.iter().filter(|found| **found).count()), (333, 333));
    core.wait("every buffer is back", |disk| disk.reads.is_at_rest());
}

#[test]
fn a_store_that_is_not_whole_or_too_large_for_the_memory_is_refused() {
    let store = Store::of(GEOMETRY);
    let budget = Budget::new(64 << 20);
    let mut boot = store.open();
    boot.volumes.pop();
    assert!(deal(Some(boot), 1, &budget).is_err_and(|cause| cause.contains("2 volumes")));
    let mut boot = store.open();
    boot.index_slots_per_volume = 5 << 20;
    assert!(deal(Some(boot), 1, &budget).is_err_and(|cause| cause.contains("80 MiB")));
    assert_eq!(budget.used_total(), 0);
    let (sharding, dealt) = deal(Some(store.open()), 3, &budget).unwrap();
    let shards: Vec<_> = dealt.iter().map(|dealt| (dealt.first_shard, dealt.volumes.len())).collect();
    assert_eq!((sharding.count(), shards), (2, vec![(0, 1), (1, 1), (0, 0)]));
}
