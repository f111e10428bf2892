//! How long a start needs for its index: recovery of ten million records from footers in memory.

use std::sync::Arc;

use aspis_storage::budget::Budget;
use aspis_storage::disk::footer::{FooterEntry, Trailer, write_footer};
use aspis_storage::disk::format::{Class, Geometry, SegmentState, TABLE_ENTRY_LEN, TableEntry};
use aspis_storage::disk::index::Index;
use aspis_storage::disk::recovery::{Fed, Step};
use aspis_storage::disk::volume::{BUFFER_LEN, Volume, VolumeConfig};
use aspis_storage::mapping::aligned::AlignedPool;

use crate::simulated::{STORE, hash};

/// A volume of 10 GiB with objects of about 1 KiB; a store has several of them, each core its own.
const GEOMETRY: Geometry = Geometry { segment_shift: 24, segment_count: 640 };
const RECORDS_PER_SEGMENT: u32 = 15_700;

#[test]
#[ignore = "takes time that only an optimised build has: cargo test --release -p aspis-storage --test disk -- --ignored --nocapture ten_million"]
fn ten_million_records_are_recovered() {
    let records = u64::from(GEOMETRY.segment_count * RECORDS_PER_SEGMENT);
    let mut table = vec![0; GEOMETRY.table_len() as usize];
    let footers: Vec<Vec<u8>> = (0..GEOMETRY.segment_count)
        .map(|segment| {
            let sequence = u64::from(segment) + 1;
            let (oldest, newest, created, expires) = (1, 1, 0, u32::MAX);
            let count = RECORDS_PER_SEGMENT;
            let entry =
                TableEntry { sequence, records: count, state: SegmentState::Sealed, ..TableEntry::FREE };
            let at = GEOMETRY.entry_offset(segment) as usize;
            table[at..at + TABLE_ENTRY_LEN].copy_from_slice(&entry.encode(STORE, segment));
            let entries: Vec<FooterEntry> = (0..count)
                .map(|number| {
                    let hash = (hash(u64::from(segment * count + number)) >> 64) as u64;
                    FooterEntry { hash, unit: 64 + 16 * number, class: 11, flags: 1, expires }
                })
                .collect();
            let class = Class::Records;
            let trailer = Trailer { sequence, class, count, oldest, newest, last_lsn: 0, created, expires };
            let mut footer = Vec::new();
            write_footer(&entries, &trailer, STORE, &mut footer);
            footer
        })
        .collect();
    let budget = Budget::new(1 << 30);
    let pool = AlignedPool::new(BUFFER_LEN, 1, 1, Arc::clone(&budget));
    let index_slots = Index::slots_for(records);
    let config = VolumeConfig { store: STORE, shard: 0, geometry: GEOMETRY, index_slots, budget, pool };
    let mut volume = Volume::new(config).expect("the budget has room");
    let mut recovery = volume.recovery();
    let start = cpu_seconds();
    let (mut asked, mut longest) = (std::collections::VecDeque::new(), 0f64);
    loop {
        match recovery.next() {
            Step::Done => break,
            Step::Read(read) => asked.push_back(read),
            Step::Wait => {
                let read = asked.pop_front().expect("it waits for a read");
                let end =
                    (read.offset + read.len as u64 - GEOMETRY.segment_offset(0)) >> GEOMETRY.segment_shift;
                let bytes =
                    if read.offset == GEOMETRY.table_offset() { &table } else { &footers[end as usize - 1] };
                loop {
                    let before = cpu_seconds();
                    let fed = recovery.feed(&mut volume, read.ticket, Ok(bytes));
                    longest = longest.max(cpu_seconds() - before);
                    if fed == Fed::Taken {
                        break;
                    }
                }
            }
        }
    }
    let seconds = cpu_seconds() - start;
    let found = volume.stats().records;
    println!(
        "{found} of {records} records in {seconds:.2} s of CPU, {:.0} ns each; the longest step {:.2} ms; {:.2} B of index each",
        seconds * 1e9 / records as f64,
        longest * 1e3,
        index_slots as f64 * 8.0 / records as f64,
    );
    assert!(found >= records * 99 / 100, "{found}");
    assert!(seconds < 2.0, "{seconds}");
    assert!(longest < 0.01, "{longest}");
}

/// What the kernel says this thread has run so far.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts");
    stat.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).expect("a number") / 1e9
}
