use std::cell::Cell;

use super::super::format::{FormatError, SEGMENT_COUNT_MAX};
use super::super::record::RecordKind;
use super::super::sample::{Disk, Item, SMALL, STORE, gone, put};
use super::*;

/// A volume whose reads are short, of which some fail, and that counts the longest.
struct Volume {
    disk: Disk,
    fails_at: Option<u64>,
    longest: Cell<usize>,
}

impl ReadAt for Volume {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.longest.set(self.longest.get().max(buffer.len()));
        let reached = |at: u64| (offset..offset + buffer.len() as u64).contains(&at);
        if self.fails_at.is_some_and(reached) {
            return Err(io::Error::other("a bad sector"));
        }
        let rest = self.disk.bytes.get(offset as usize..).unwrap_or_default();
        let len = rest.len().min(buffer.len()).min(100_000);
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

fn superblock() -> Superblock {
    let Geometry { segment_shift, segment_count } = SMALL;
    Superblock { store: STORE, shard: 0, shard_bits: 0, segment_shift, segment_count, created: 7 }
}

/// Two sealed segments and one that was never sealed, 60 records each.
fn volume() -> Volume {
    let mut disk = Disk::new(SMALL);
    disk.put(0, &superblock().encode());
    disk.put(BLOCK_LEN, &superblock().encode());
    let items: Vec<Item> = (0..60).map(|hash| if hash % 6 == 0 { gone(hash) } else { put(hash) }).collect();
    let slices: Vec<Item> = (0..60).map(|hash| Item { hash, kind: RecordKind::Slice }).collect();
    disk.sealed(5, 1, &items);
    disk.sealed(2, 2, &slices);
    disk.open(0, 3, &items);
    Volume { disk, fails_at: None, longest: Cell::new(0) }
}

fn of(volume: &Volume) -> Report {
    check(volume, Depth::Records, |_, _| {}).unwrap()
}

fn counts(report: &Report) -> Vec<(Damage, u64)> {
    report.counts().collect()
}

#[test]
fn a_whole_volume_is_whole_and_counted() {
    let volume = volume();
    let mut told = Vec::new();
    let report = check(&volume, Depth::Records, |done, of| told.push((done, of))).unwrap();
    assert!(report.is_whole() && report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.segments, SegmentCounts { free: 5, open: 1, sealed: 2, bad: 0 });
    let records = RecordCounts { slices: 60, markers: 100, tombstones: 20, ..RecordCounts::default() };
    assert_eq!((report.records, report.records.total(), report.verified), (records, 180, 180));
    assert_eq!((report.oldest, report.newest, report.lost()), (11, 13, 0));
    assert!(report.record_bytes > 60 * 4096 && volume.longest.get() <= READ_LEN_MAX as usize);
    assert_eq!(told, (1..=8).map(|done| (done, 8)).collect::<Vec<_>>());
    let footers = check(&volume, Depth::Footers, |_, _| {}).unwrap();
    assert_eq!((footers.records, footers.verified), (records, 60));
}

#[test]
fn segments_are_told_as_they_were_left() {
    let segments = segments(&volume(), &superblock());
    let used: Vec<_> = (0..8).map(|at: usize| (segments[at].state, segments[at].sequence)).collect();
    let mut expected = [(SegmentState::Free, 0); 8];
    (expected[5], expected[2]) = ((SegmentState::Sealed, 1), (SegmentState::Sealed, 2));
    expected[0] = (SegmentState::Open, 3);
    assert_eq!(used, expected);
}

#[test]
fn a_table_that_was_never_written_is_no_damage() {
    let mut volume = volume();
    let table = SMALL.table_offset() as usize;
    for segment in [1, 3, 4, 6, 7] {
        let at = table + SMALL.entry_offset(segment) as usize;
        volume.disk.bytes[at..at + TABLE_ENTRY_LEN].fill(0);
    }
    assert!(of(&volume).is_whole());
    let at = table + SMALL.entry_offset(5) as usize;
    volume.disk.bytes[at..at + TABLE_ENTRY_LEN].fill(0);
    assert_eq!(counts(&of(&volume)), [(Damage::TableEntry, 1)]);
}

/// Every block in which something lies, one after the other: the report says where.
#[test]
fn damage_anywhere_is_found() {
    let whole = volume();
    for block in 0..whole.disk.bytes.len() as u64 / BLOCK_LEN {
        let at = (block * BLOCK_LEN) as usize;
        let bytes = &whole.disk.bytes[at..at + BLOCK_LEN as usize];
        let Some(used) = bytes.iter().rposition(|byte| *byte != 0) else { continue };
        let mut volume = volume();
        volume.disk.bytes[at + used] ^= 0x10;
        let report = of(&volume);
        let within = SMALL.segment_offset(0)..SMALL.segment_offset(1);
        if within.contains(&(at as u64)) {
            // Nothing says what an unsealed segment had: what does not verify is not among it.
            assert!(report.verified >= 160, "{block}");
            continue;
        }
        assert!(!report.is_whole(), "block {block}");
        let (first, kinds) = (report.findings[0], counts(&report));
        let behind = first.offset as usize <= at + used && at < first.offset as usize + (64 << 10);
        assert!(behind, "block {block}: {first:?}");
        assert_eq!(kinds.iter().map(|(_, count)| count).sum::<u64>(), 1, "block {block}: {kinds:?}");
        assert_eq!(report.lost() + report.verified, 180, "block {block}");
    }
}

#[test]
fn damage_is_called_by_its_name() {
    let segment = |segment: u32| SMALL.segment_offset(segment) as usize;
    for (at, damage) in [
        (100, Damage::Superblock),
        (4096, Damage::Superblock),
        (SMALL.table_offset() as usize + SMALL.entry_offset(5) as usize, Damage::TableEntry),
        (segment(5) + 9, Damage::Header),
        (segment(6) - 1, Damage::Footer),
        (segment(5) + 4096 + 20, Damage::Record),
        (segment(5) + 4096 + 90, Damage::Body),
        (segment(2) + 8192 + 50, Damage::Body),
    ] {
        let mut volume = volume();
        volume.disk.bytes[at] ^= 1;
        let report = of(&volume);
        assert_eq!(counts(&report), [(damage, 1)], "{at}");
        assert_eq!(report.lost(), u64::from(damage.loses_a_record()));
    }
    let mut volume = volume();
    volume.fails_at = Some(SMALL.segment_offset(5) + 5000);
    let report = of(&volume);
    // The header is read with what follows it; records behind the bad sector are read by themselves.
    assert_eq!((report.count(Damage::Header), report.count(Damage::Unreadable)), (1, 4));
    assert_eq!(report.verified, 176);
}

#[test]
fn a_record_of_another_shard_is_found() {
    let mut volume = volume();
    let half = Superblock { shard: 1, shard_bits: 1, ..superblock() };
    volume.disk.put(0, &half.encode());
    volume.disk.put(BLOCK_LEN, &half.encode());
    // Of the sealed segment: all hashes of the sample are small.
    assert_eq!(counts(&of(&volume)), [(Damage::Shard, 50)]);
}

#[test]
fn what_is_no_volume_has_no_report() {
    let empty = Volume { disk: Disk { geometry: SMALL, bytes: Vec::new() }, ..volume() };
    assert!(matches!(check(&empty, Depth::Footers, |_, _| {}), Err(CheckError::Read(_))));
    let zeros = Volume { disk: Disk { geometry: SMALL, bytes: vec![0; 9000] }, ..volume() };
    let error = check(&zeros, Depth::Footers, |_, _| {}).unwrap_err();
    assert!(matches!(error, CheckError::Format(FormatError::NotAStore)));
}

#[test]
fn a_file_that_is_too_short_has_a_report_with_a_bounded_list() {
    let long = Superblock { segment_shift: 20, segment_count: SEGMENT_COUNT_MAX, ..superblock() };
    let bytes = [long.encode(), long.encode()].concat();
    let volume = Volume { disk: Disk { geometry: long.geometry(), bytes }, ..volume() };
    let report = of(&volume);
    assert_eq!(report.findings.len(), FINDINGS_MAX);
    // The table is tried four times, then both ends of every segment.
    assert_eq!(report.count(Damage::Unreadable), 4 + 2 * u64::from(SEGMENT_COUNT_MAX));
}
