use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::super::format::{Class, SLICE_LEN, TABLE_ENTRY_LEN};
use super::super::record::RecordKind;
use super::super::sample::{Disk, Item, SMALL, STORE, gone, put};
use super::*;

/// What a volume remembers of what it is told.
#[derive(Debug, Default)]
struct Model {
    segments: BTreeMap<u32, TableEntry>,
    located: Option<u64>,
    slots: HashMap<u64, (u64, FooterEntry)>,
    sealed: BTreeMap<u32, Vec<FooterEntry>>,
    /// Calls during one feed.
    calls: usize,
}

impl Rebuild for Model {
    fn segment(&mut self, segment: u32, entry: &TableEntry) {
        self.calls += 1;
        self.segments.insert(segment, *entry);
    }

    fn located(&mut self, last_sequence: u64) {
        assert_eq!(self.located.replace(last_sequence), None);
        assert!(self.segments.values().all(|entry| entry.sequence < last_sequence));
    }

    fn record(&mut self, segment: u32, entry: &FooterEntry) {
        self.calls += 1;
        assert!(self.located.is_some());
        let sequence = self.segments[&segment].sequence;
        let newer =
            self.slots.get(&entry.hash).is_some_and(|(at, there)| (*at, there.unit) > (sequence, entry.unit));
        if !newer {
            self.slots.insert(entry.hash, (sequence, *entry));
        }
    }

    fn sealed(&mut self, segment: u32, entry: &TableEntry, last_lsn: u64, records: &[FooterEntry]) {
        assert_eq!((entry.state, entry.records as usize), (SegmentState::Sealed, records.len()));
        // None are left of one that could not be read.
        if let Some(last) = records.last() {
            let last_unit = last.unit;
            assert_eq!((entry.oldest, entry.newest), (entry.sequence + 10, entry.sequence + 10));
            assert_eq!(entry.expires, 1000 + entry.sequence as u32);
            assert_eq!(last_lsn, (entry.sequence << 24) + u64::from(last_unit) * 64);
        }
        self.segments.insert(segment, *entry);
        self.sealed.insert(segment, records.to_vec());
    }
}

impl Model {
    fn found(&self) -> BTreeMap<u64, RecordKind> {
        self.slots.iter().map(|(hash, (_, entry))| (*hash, entry.kind().unwrap())).collect()
    }
}

/// How a run of recovery went.
#[derive(Debug, Default)]
struct Run {
    reads: usize,
    bytes: usize,
    most_ahead: usize,
}

/// Recovers; `turn` chooses which of the reads under way is fed next, `fails` which reads do not come.
fn run(
    disk: &Disk,
    mut turn: impl FnMut(usize) -> usize,
    mut fails: impl FnMut(&Read) -> bool,
) -> (Model, Run) {
    let (mut model, mut run) = (Model::default(), Run::default());
    let mut recovery = Recovery::new(STORE, disk.geometry);
    let mut under_way: Vec<Read> = Vec::new();
    loop {
        match recovery.next() {
            Step::Done => break,
            Step::Read(read) => {
                assert!(read.offset.is_multiple_of(BLOCK_LEN) && (read.len as u64).is_multiple_of(BLOCK_LEN));
                assert!(read.len > 0 && read.len as u64 <= READ_LEN_MAX);
                run.reads += 1;
                run.bytes += read.len;
                assert!(run.reads < 20_000, "recovery does not end");
                under_way.push(read);
            }
            Step::Wait => {
                run.most_ahead = run.most_ahead.max(under_way.len());
                let read = under_way.remove(turn(under_way.len()));
                let from = read.offset as usize;
                let bytes =
                    if fails(&read) { Err(ReadFailed) } else { Ok(&disk.bytes[from..from + read.len]) };
                loop {
                    model.calls = 0;
                    let fed = recovery.feed(&mut model, read.ticket, bytes);
                    assert!(model.calls <= TOLD_MAX + 1);
                    if fed == Fed::Taken {
                        break;
                    }
                }
            }
        }
    }
    assert!(recovery.is_located());
    (model, run)
}

fn recovered(disk: &Disk) -> Model {
    run(disk, |_| 0, |_| false).0
}

/// A history of few keys over some segments, of which the last is open, in an order of places that is not that of time.
fn write(history: &[Vec<Item>]) -> (Disk, BTreeMap<u64, RecordKind>) {
    let mut disk = Disk::new(SMALL);
    let mut latest = BTreeMap::new();
    for (at, items) in history.iter().enumerate() {
        let (segment, sequence) = ((at as u32 * 3 + 2) % 8, at as u64 + 1);
        if at + 1 == history.len() {
            disk.open(segment, sequence, items);
        } else {
            disk.sealed(segment, sequence, items);
        }
        latest.extend(items.iter().map(|item| (item.hash, item.kind)));
    }
    (disk, latest)
}

fn histories() -> impl Strategy<Value = Vec<Vec<Item>>> {
    let item =
        (0u64..25, any::<bool>()).prop_map(|(hash, is_put)| if is_put { put(hash) } else { gone(hash) });
    prop::collection::vec(prop::collection::vec(item, 1..40), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_newest_of_each_key_is_found(history in histories(), turns in prop::collection::vec(any::<u8>(), 40)) {
        let (disk, latest) = write(&history);
        let model = recovered(&disk);
        prop_assert_eq!(model.found(), latest.clone());
        prop_assert_eq!(model.sealed.len(), 1);
        // Reads that are fed out of turn cost time, not truth.
        let mut turns = turns.into_iter();
        let (model, _) = run(&disk, |len| turns.next().map_or(0, |turn| usize::from(turn) % len), |_| false);
        prop_assert_eq!(model.found(), latest);
    }

    /// What cannot be read is left out: what is found was written, and what is found of a key is the newest of what could be read.
    #[test]
    fn reads_that_fail_by_chance_leave_out_only_what_they_held(
        history in histories(),
        fails in prop::collection::vec(0u8..4, 200),
        turns in prop::collection::vec(any::<u8>(), 200),
    ) {
        let (disk, latest) = write(&history);
        let (mut fails, mut turns) = (fails.into_iter(), turns.into_iter());
        let turn = |len| turns.next().map_or(0, |turn| usize::from(turn) % len);
        let mut failed = Vec::new();
        let (model, _) = run(&disk, turn, |read| {
            let does = fails.next() == Some(0);
            failed.extend(does.then_some(read.offset));
            does
        });
        let kinds: Vec<Item> = history.concat();
        for (hash, kind) in model.found() {
            let item = Item { hash, kind };
            prop_assert!(kinds.contains(&item));
        }
        if failed.is_empty() {
            prop_assert_eq!(model.found(), latest);
        }
    }

    #[test]
    fn table_header_or_footer_may_be_lost(history in histories(), lost in prop::collection::vec(0u8..4, 8), table in any::<bool>()) {
        let (mut disk, latest) = write(&history);
        for (lost, segment) in lost.into_iter().zip(0..) {
            match lost {
                // One of the two says which use of the segment it is, with the table or without.
                1 => disk.header_block(segment)[9] ^= 1,
                2 if !table => disk.last_block(segment)[4090] ^= 1,
                3 => disk.last_block(segment)[3] ^= 1,
                _ => {}
            }
        }
        if table {
            // An open segment without its entry is known by its header alone.
            let open = (history.len() as u32 - 1) * 3 + 2;
            let whole = SegmentHeader { sequence: history.len() as u64, class: Class::Records, created: 5 };
            disk.header_block(open % 8).copy_from_slice(&whole.encode(STORE, open % 8));
            disk.table_block().fill(0);
        }
        prop_assert_eq!(recovered(&disk).found(), latest);
    }
}

#[test]
fn an_empty_volume_is_known_after_one_read() {
    let (model, run) = run(&Disk::new(SMALL), |_| 0, |_| false);
    assert_eq!((run.reads, model.segments.len(), model.located), (1, 8, Some(SEQUENCE_GAP)));
    assert!(model.found().is_empty() && model.sealed.is_empty());
}

#[test]
fn what_was_scanned_is_given_to_be_sealed() {
    let mut disk = Disk::new(SMALL);
    let (_, records) = disk.open(3, 9, &[put(1), put(2), gone(1)]);
    disk.open(4, 10, &[]);
    let model = recovered(&disk);
    assert_eq!(model.sealed[&3], records);
    assert_eq!(model.segments[&3].state, SegmentState::Sealed);
    // Nothing was written into the other one.
    assert_eq!((model.segments[&4].state, model.segments[&4].sequence), (SegmentState::Free, 10));
    assert_eq!(model.found(), BTreeMap::from([(1, RecordKind::Tombstone), (2, RecordKind::Marker)]));
}

#[test]
fn a_scan_goes_on_behind_a_gap_and_not_into_another_life() {
    let mut disk = Disk::new(SMALL);
    let items: Vec<Item> = (0..100).map(put).collect();
    let before: Vec<Item> = (200..500).map(put).collect();
    disk.sealed(0, 4, &before);
    let (_, records) = disk.open(0, 5, &items);
    let at = |record: usize| disk.geometry.segment_offset(0) + records[record].offset();
    // A front, a body, and blocks of which the write never came.
    let (front, body, torn) = (at(10) as usize + 20, at(21) as usize - 70, at(40)..at(60));
    disk.bytes[front] ^= 1;
    disk.bytes[body] ^= 1;
    disk.bytes[torn.start as usize..torn.end as usize].fill(0);
    let model = recovered(&disk);
    let whole = (0..100).filter(|at| !(40..60).contains(at) && *at != 10 && *at != 20);
    assert_eq!(
        model.sealed[&0].iter().map(|entry| entry.hash).collect::<Vec<_>>(),
        whole.collect::<Vec<_>>()
    );
}

#[test]
fn a_slice_is_found_behind_a_gap() {
    let mut disk = Disk::new(Geometry { segment_shift: 22, segment_count: 1 });
    let items: Vec<Item> = (0..300).map(|hash| Item { hash, kind: RecordKind::Slice }).collect();
    let (_, records) = disk.open(0, 5, &items);
    let at = disk.geometry.segment_offset(0) + records[150].offset();
    disk.block(at).fill(7);
    let model = recovered(&disk);
    assert_eq!(model.sealed[&0].len(), 299);
    assert_eq!(model.segments[&0].class, Class::Slices);
}

#[test]
fn a_table_that_is_out_of_date_is_found_out() {
    let mut disk = Disk::new(SMALL);
    disk.sealed(1, 5, &[put(1), put(2)]);
    disk.sealed(2, 6, &[put(1), gone(3)]);
    let stale = disk.table_block().to_vec();
    disk.sealed(1, 7, &[put(3), gone(1), put(4)]);
    disk.table_block().copy_from_slice(&stale);
    let model = recovered(&disk);
    assert_eq!((model.segments[&1].sequence, model.segments[&1].state), (7, SegmentState::Sealed));
    let found =
        BTreeMap::from([(1, RecordKind::Tombstone), (3, RecordKind::Marker), (4, RecordKind::Marker)]);
    assert_eq!(model.found(), found);
}

#[test]
fn reads_that_fail_lose_no_more_than_they_would_have_brought() {
    let mut disk = Disk::new(SMALL);
    for segment in 0..6 {
        disk.sealed(segment, u64::from(segment) + 1, &[put(segment.into()), put(100 + u64::from(segment))]);
    }
    let all = recovered(&disk).found();
    let table = disk.geometry.table_offset();
    let (model, _) = run(&disk, |_| 0, |read| read.offset == table);
    assert_eq!(model.found(), all);
    let footer = disk.geometry.segment_offset(3) - BLOCK_LEN;
    let (model, _) = run(&disk, |_| 0, |read| read.offset == footer);
    assert_eq!((model.found(), model.sealed.len()), (all, 1));
    let (model, run) = run(&disk, |_| 0, |_| true);
    assert!(model.found().is_empty() && model.segments.len() == 8 && run.reads == 20);
}

#[test]
fn footers_are_asked_for_ahead_and_told_in_bounded_steps() {
    let geometry = Geometry { segment_shift: 24, segment_count: 12 };
    let mut disk = Disk::new(geometry);
    let items: Vec<Item> = (0..10_000).map(|hash| put(hash * 7)).collect();
    for segment in 0..12 {
        disk.sealed(segment, u64::from(segment) + 1, &items[..items.len() - segment as usize]);
    }
    let (model, run) = run(&disk, |_| 0, |_| false);
    assert_eq!((run.reads, run.most_ahead), (13, READS_AHEAD));
    assert_eq!(model.slots.len(), 10_000);
    let of_newest = model.slots.values().filter(|(sequence, _)| *sequence == 12).count();
    assert_eq!(of_newest, 10_000 - 11);
}

#[test]
fn a_large_table_is_told_in_bounded_steps() {
    let disk = Disk { geometry: Geometry { segment_shift: 20, segment_count: 9000 }, bytes: Vec::new() };
    let (mut model, mut recovery) = (Model::default(), Recovery::new(STORE, disk.geometry));
    let Step::Read(read) = recovery.next() else { panic!("the table is read first") };
    let mut table = vec![0; disk.geometry.table_len() as usize];
    for segment in 0..9000 {
        let at = disk.geometry.entry_offset(segment) as usize;
        table[at..at + TABLE_ENTRY_LEN].copy_from_slice(&TableEntry::FREE.encode(STORE, segment));
    }
    let steps = (0..).map(|step| 9000usize.saturating_sub(step * TOLD_MAX).min(TOLD_MAX));
    for calls in steps.take_while(|calls| *calls > 0) {
        model.calls = 0;
        let fed = if model.segments.len() + calls == 9000 { Fed::Taken } else { Fed::Again };
        assert_eq!((recovery.feed(&mut model, read.ticket, Ok(&table)), model.calls), (fed, calls));
    }
    assert_eq!((recovery.next(), recovery.is_located()), (Step::Done, true));
}

/// A body that is full of what looks like the beginning of records, behind one that is damaged.
#[test]
fn bytes_that_look_like_records_cost_a_bounded_time() {
    let geometry = Geometry { segment_shift: 24, segment_count: 1 };
    let mut disk = Disk::new(geometry);
    let (_, records) = disk.open(0, 5, &[put(1)]);
    let from = (geometry.segment_offset(0) + records[0].offset()) as usize;
    for claimed in [200u32, 100_000, 1 << 20, 8 << 20] {
        let mut hostile = disk.clone();
        for at in (from..hostile.bytes.len() - BLOCK_LEN as usize).step_by(64) {
            hostile.bytes[at..at + 4].copy_from_slice(&disk.bytes[from..from + 4]);
            hostile.bytes[at + 4..at + 8].copy_from_slice(&claimed.to_le_bytes());
        }
        let (model, run) = run(&hostile, |_| 0, |_| false);
        println!("{claimed}: {} reads, {} bytes", run.reads, run.bytes);
        assert!(model.found().is_empty() && run.bytes < 64 << 20, "{} bytes", run.bytes);
    }
}

#[test]
fn what_a_recovery_takes_is_bounded() {
    let geometry = Geometry { segment_shift: 24, segment_count: 256 };
    println!("{} bytes", Recovery::memory_max(geometry));
    assert!(Recovery::memory_max(geometry) <= 2 << 20);
    const { assert!(SLICE_LEN < READ_LEN_MAX) };
}
