//! A volume that is made larger or smaller keeps what it has room for, and nothing older comes back.

use std::collections::BTreeSet;

use aspis_storage::disk::format::{BLOCK_LEN, Geometry, SegmentHeader, TableEntry};
use aspis_storage::disk::shrink;
use aspis_storage::disk::volume::Refused;

use crate::simulated::*;

const SLOTS: u64 = 1 << 14;

fn geometry(segment_count: u32) -> Geometry {
    Geometry { segment_shift: 20, segment_count }
}

/// Makes the disk one of `segment_count` segments, as the daemon does with a volume that nobody uses.
fn resize(mut disk: Disk, segment_count: u32) -> Disk {
    let (before, after) = (disk.geometry, geometry(segment_count));
    if segment_count < before.segment_count {
        let entry = |segment| disk.entry(segment).unwrap_or(TableEntry::FREE);
        let entries: Vec<TableEntry> = (0..before.segment_count).map(entry).collect();
        let plan = shrink::plan(&entries, segment_count);
        plan.freed.iter().for_each(|segment| disk.put_entry(*segment, &TableEntry::FREE));
        for moved in plan.moves {
            let from = before.segment_offset(moved.from) as usize;
            let (to, len) = (before.segment_offset(moved.to) as usize, before.segment_len() as usize);
            disk.bytes.copy_within(from..from + len, to);
            let block = &disk.bytes[from..from + BLOCK_LEN as usize];
            let header =
                SegmentHeader::decode(block, STORE, moved.from).expect("a segment in use has a header");
            disk.bytes[to..to + BLOCK_LEN as usize].copy_from_slice(&header.encode(STORE, moved.to));
            disk.put_entry(moved.to, &entries[moved.from as usize]);
        }
    }
    assert_eq!(before.segment_offset(0), after.segment_offset(0), "the table has room for more");
    disk.bytes.resize(after.file_len() as usize, 0);
    Disk { geometry: after, ..disk }
}

#[test]
fn a_volume_that_grows_and_shrinks_keeps_its_newest_records_and_nothing_older() {
    let mut disk = Disk::formatted(geometry(12));
    let (mut number, mut removed) = (0, BTreeSet::new());
    for (life, segment_count) in [12, 30, 9, 9, 24, 16].into_iter().enumerate() {
        disk = resize(disk, segment_count);
        let mut rig = Rig::recovered(disk, SLOTS, life as u64);
        // What was appended last was less than any of these volumes holds.
        for number in number - number.min(400)..number {
            let expected = match removed.contains(&number) {
                true => Look::Nothing,
                false => Look::Version { version: number + 1, is_written: true },
            };
            assert_eq!(rig.look(hash(number)), expected, "{number} after {segment_count}");
        }
        assert!(removed.iter().all(|number| rig.look(hash(*number)) == Look::Nothing));
        let most = rig.volume.stats();
        assert_eq!(most.used_segments + most.free_segments, segment_count);
        for _ in 0..1000 + 200 * u64::from(segment_count) {
            // Most keys come once, some again, and some are removed.
            match rig.append(hash(number), number + 1, 3500, Kind::Marker) {
                Ok(_) => number += 1,
                Err(Refused::NoSegment | Refused::NoMemory) => {
                    rig.settle();
                    while rig.reclaim_a_step(1) {}
                    rig.settle();
                }
                Err(refused) => panic!("{refused:?}"),
            }
            if number % 7 == 3 && removed.insert(number - 1) {
                rig.volume.remove(hash(number - 1), rig.now);
            }
        }
        rig.settle();
        if life % 2 == 0 {
            rig.volume.seal_all();
            rig.settle();
        }
        disk = rig.crash();
    }
}
