//! Is a volume that nobody uses whole, what does it hold, and what of it is lost?
//!
//! The offline commands hand in something to read from and print the [`Report`]. What there is to find is found by recovery itself, so that a
//! volume is judged by what a server would make of it; then, if asked for, every record is read and verified. Invariants: takes a few MiB
//! however large the volume is, changes nothing, and gives a report whatever the volume holds behind its superblock.

use std::io;

use super::footer::{self, FooterEntry};
use super::format::{
    BLOCK_LEN, Geometry, READ_LEN_MAX, SegmentHeader, SegmentState, Superblock, TABLE_ENTRY_LEN, TableEntry,
};
use super::length_class;
use super::record::{Content, Front, Place, scan_record};
use super::recovery::{Fed, ReadFailed, Rebuild, Recovery, Step};
use crate::shards::Sharding;

mod report;
#[cfg(test)]
mod tests;

pub use report::{CheckError, Damage, FINDINGS_MAX, Finding, RecordCounts, Report, SegmentCounts};

/// Something that has the bytes of a volume.
pub trait ReadAt {
    /// Reads from `offset` into `buffer`, as [`io::Read::read`] does; 0 bytes are the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// How much of a volume is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What recovery reads: table and footers, and the records of what was not sealed.
    Footers,
    /// Every record too, with its body.
    Records,
}

/// Looks at a volume; `progress` is told how many of how many segments were looked at.
pub fn check(
    volume: &impl ReadAt,
    depth: Depth,
    mut progress: impl FnMut(u32, u32),
) -> Result<Report, CheckError> {
    let mut blocks = vec![0; 2 * BLOCK_LEN as usize];
    fill(volume, 0, &mut blocks).map_err(CheckError::Read)?;
    let superblock = Superblock::read(&blocks).map_err(CheckError::Format)?;
    let mut report = Report::new(superblock);
    for (block, offset) in blocks.chunks(BLOCK_LEN as usize).zip([0, BLOCK_LEN]) {
        if Superblock::decode(block) != Ok(superblock) {
            report.note(offset, Damage::Superblock);
        }
    }
    let geometry = superblock.geometry();
    let mut buffer = vec![0; READ_LEN_MAX as usize];
    let survey = survey(volume, &mut report, &mut buffer);
    let mut footer = Vec::new();
    for (segment, found) in (0..).zip(&survey.segments) {
        let Found { entry, is_rebuilt } = found;
        if *is_rebuilt {
            // The scan read and verified them.
            report.verified += u64::from(entry.records);
        } else if entry.state == SegmentState::Sealed && depth == Depth::Records {
            footer.resize(footer::footer_len(entry.records) as usize, 0);
            let mut walk = Walk { volume, geometry, segment, window: 0..0, buffer: &mut buffer };
            walk.verify(entry, &mut footer, &mut report);
        }
        progress(segment + 1, geometry.segment_count);
    }
    Ok(report)
}

/// Returns what each segment of a volume is, as recovery finds it; what was not sealed is open.
///
/// For who changes the volume's length: [`shrink::plan`](super::shrink::plan).
pub fn segments(volume: &impl ReadAt, superblock: &Superblock) -> Vec<TableEntry> {
    let mut report = Report::new(*superblock);
    let survey = survey(volume, &mut report, &mut vec![0; READ_LEN_MAX as usize]);
    let state = |found: &Found| if found.is_rebuilt { SegmentState::Open } else { found.entry.state };
    survey.segments.iter().map(|found| TableEntry { state: state(found), ..found.entry }).collect()
}

/// What recovery found out about a segment.
#[derive(Clone, Copy)]
struct Found {
    entry: TableEntry,
    is_rebuilt: bool,
}

/// Takes the place of the volume of a server.
struct Survey {
    segments: Vec<Found>,
    records: RecordCounts,
    record_bytes: u64,
}

impl Rebuild for Survey {
    fn segment(&mut self, segment: u32, entry: &TableEntry) {
        let found = Found { entry: *entry, is_rebuilt: false };
        match self.segments.get_mut(segment as usize) {
            Some(before) => *before = found,
            None => self.segments.resize(segment as usize + 1, found),
        }
    }

    fn located(&mut self, _last_sequence: u64) {}

    fn record(&mut self, _segment: u32, entry: &FooterEntry) {
        self.records.add(entry.kind());
        self.record_bytes += length_class::len(entry.class);
    }

    fn sealed(&mut self, segment: u32, entry: &TableEntry, _last_lsn: u64, _records: &[FooterEntry]) {
        self.segments[segment as usize] = Found { entry: *entry, is_rebuilt: true };
    }
}

/// Has recovery find out what there is, and compares that with the table.
fn survey(volume: &impl ReadAt, report: &mut Report, buffer: &mut [u8]) -> Survey {
    let superblock = report.superblock;
    let geometry = superblock.geometry();
    let free = Found { entry: TableEntry::FREE, is_rebuilt: false };
    let segments = vec![free; geometry.segment_count as usize];
    let mut survey = Survey { segments, records: RecordCounts::default(), record_bytes: 0 };
    let mut recovery = Recovery::new(superblock.store, geometry);
    // One read after the other: each is fed before the next is asked for.
    while let Step::Read(read) = recovery.next() {
        let bytes = &mut buffer[..read.len];
        let outcome = fill(volume, read.offset, bytes);
        if outcome.is_err() {
            report.note(read.offset, Damage::Unreadable);
        }
        let fed = outcome.map(|()| &*bytes).map_err(|_| ReadFailed);
        while recovery.feed(&mut survey, read.ticket, fed) == Fed::Again {}
    }
    report.records = survey.records;
    report.record_bytes = survey.record_bytes;
    let table = &mut buffer[..geometry.table_len() as usize];
    let has_table = fill(volume, geometry.table_offset(), table).is_ok();
    for (segment, found) in (0..).zip(&survey.segments) {
        let entry = TableEntry::of_table(table, geometry, superblock.store, segment);
        let said = entry.map(|entry| entry.state);
        let is_right = match entry {
            Some(entry) => entry.sequence == found.entry.sequence,
            None => found.entry.sequence == 0 && is_unwritten(table, geometry.entry_offset(segment)),
        };
        if has_table && !is_right {
            report.note(geometry.table_offset() + geometry.entry_offset(segment), Damage::TableEntry);
        }
        if found.is_rebuilt && said != Some(SegmentState::Open) {
            report.note(geometry.segment_offset(segment + 1) - BLOCK_LEN, Damage::Footer);
        }
        let counts = &mut report.segments;
        *match found.entry.state {
            _ if found.is_rebuilt => &mut counts.open,
            SegmentState::Free => &mut counts.free,
            SegmentState::Open => &mut counts.open,
            SegmentState::Sealed => &mut counts.sealed,
            SegmentState::Bad => &mut counts.bad,
        } += 1;
        if found.entry.state == SegmentState::Sealed && found.entry.records > 0 {
            report.oldest = report.oldest.min(found.entry.oldest);
            report.newest = report.newest.max(found.entry.newest);
        }
    }
    survey
}

/// Tells whether an entry was never written: a new volume has zeros there.
fn is_unwritten(table: &[u8], at: u64) -> bool {
    table[at as usize..][..TABLE_ENTRY_LEN].iter().all(|byte| *byte == 0)
}

/// A walk over the records of a sealed segment.
struct Walk<'v, V> {
    volume: &'v V,
    geometry: Geometry,
    segment: u32,
    /// Which bytes of the segment the buffer has.
    window: std::ops::Range<u64>,
    buffer: &'v mut [u8],
}

impl<V: ReadAt> Walk<'_, V> {
    /// Verifies every record that the footer names; `footer` has its length.
    fn verify(&mut self, entry: &TableEntry, footer: &mut [u8], report: &mut Report) {
        let Superblock { store, .. } = report.superblock;
        let (offset, end) =
            (self.geometry.segment_offset(self.segment), self.geometry.segment_offset(self.segment + 1));
        let segment = self.segment;
        let header = self.bytes(0, BLOCK_LEN).and_then(|block| SegmentHeader::decode(block, store, segment));
        let has_header = header.is_some_and(|header| header.sequence == entry.sequence);
        if !has_header {
            report.note(offset, Damage::Header);
        }
        let footer_offset = end - footer.len() as u64;
        // Recovery verified it a moment ago.
        let entries = fill(self.volume, footer_offset, footer).ok().and_then(|()| {
            let trailer = footer::read_trailer(footer, store, entry.sequence)?;
            footer::read_footer(footer, &trailer, store)
        });
        let Some(entries) = entries else {
            report.note(footer_offset, Damage::Unreadable);
            return;
        };
        let place = Place { store, sequence: entry.sequence };
        for record in entries.iter() {
            match self.verify_record(&record, &place, &report.superblock) {
                None => report.verified += 1,
                Some(damage) => report.note(offset + record.offset(), damage),
            }
        }
    }

    fn verify_record(
        &mut self,
        entry: &FooterEntry,
        place: &Place,
        superblock: &Superblock,
    ) -> Option<Damage> {
        let from = entry.offset();
        let end = (from + length_class::len(entry.class)).min(self.geometry.segment_len());
        if from >= end || end - from > READ_LEN_MAX - BLOCK_LEN {
            return Some(Damage::Record);
        }
        let Some(bytes) = self.bytes(from, end - from) else { return Some(Damage::Unreadable) };
        let Ok(record) = scan_record(bytes, place) else { return Some(Damage::Record) };
        if FooterEntry::of(&record.front, entry.unit) != *entry {
            return Some(Damage::Record);
        }
        if !belongs(&record.front, superblock) {
            return Some(Damage::Shard);
        }
        (!record.verify_body()).then_some(Damage::Body)
    }

    /// Returns bytes of the segment; a window is read when they are not there. At most a block less than [`READ_LEN_MAX`].
    fn bytes(&mut self, from: u64, len: u64) -> Option<&[u8]> {
        if from < self.window.start || from + len > self.window.end {
            let start = from / BLOCK_LEN * BLOCK_LEN;
            self.window = start..(start + READ_LEN_MAX).min(self.geometry.segment_len());
            let bytes = &mut self.buffer[..(self.window.end - start) as usize];
            if fill(self.volume, self.geometry.segment_offset(self.segment) + start, bytes).is_err() {
                self.window = 0..0;
                return None;
            }
        }
        let at = (from - self.window.start) as usize;
        self.buffer.get(at..at + len as usize)
    }
}

/// Tells whether a record belongs to the volume's shard, as far as it says.
fn belongs(front: &Front<'_>, superblock: &Superblock) -> bool {
    // A shard is named by top bits, and the top half is what a record has.
    let hash = u128::from(front.hash) << 64;
    let primary = match &front.content {
        // Parts, slices and some tombstones stand under hashes of their own.
        Content::Whole(facts) | Content::Head { facts, .. } if facts.meta.part.is_some() => return true,
        Content::Slice { .. } | Content::Tombstone => return true,
        Content::Whole(facts) | Content::Head { facts, .. } => {
            facts.variant.map_or(hash, |variant| variant.primary)
        }
        Content::Marker { .. } | Content::Parts { .. } => hash,
    };
    Sharding::of_bits(superblock.shard_bits).shard(primary) == usize::from(superblock.shard)
}

/// Fills the buffer or fails.
fn fill(volume: &impl ReadAt, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match volume.read_at(offset, buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => {
                let len = len.min(buffer.len());
                offset += len as u64;
                buffer = &mut buffer[len..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
