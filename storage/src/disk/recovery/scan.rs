//! Reads a segment without a footer record after record, and goes on behind what does not verify.
//!
//! Several writes may have been under way when the process ended, and those that came later may be there while one before them is not. So
//! a scan looks for the next record behind a gap, as long as the gap is not longer than what writes under way can leave. What it
//! takes is whole, body included. Bytes of a body that look like a record do not verify: their writer does not know the store's identity;
//! and looking at them is bounded.

use super::super::footer::{ENTRY_COUNT_MAX, FooterEntry, footer_len};
use super::super::format::{
    BLOCK_LEN, Class, Geometry, READ_LEN_MAX, RECORD_LEN_MAX, SegmentState, StoreId, TableEntry, UNIT_LEN,
};
use super::super::record::{Mismatch, Place, Record, RecordKind, scan_record};

/// Bytes without a record behind which there is none: the longest writes that are under way at once, and the longest record.
const GAP_MAX: u64 = 5 * RECORD_LEN_MAX;

/// Bytes of what began like a record and did not verify that are looked at in one segment.
const WASTE_MAX: u64 = 16 << 20;

/// A scan of one segment.
#[derive(Debug)]
pub(super) struct Scan {
    sequence: u64,
    class: Class,
    /// Where in the segment the next record is looked for.
    at: u64,
    /// Where the last record that was found ends.
    found: u64,
    waste: u64,
    /// A record begins at `at` that the last window did not hold, if its length is what it says.
    is_cut: bool,
    /// Not all of it could be read.
    is_unread: bool,
    records: Vec<FooterEntry>,
    last_lsn: u64,
    oldest: u64,
    newest: u64,
    expires: u32,
}

impl Default for Scan {
    fn default() -> Self {
        Scan {
            sequence: 0,
            class: Class::Records,
            at: BLOCK_LEN,
            found: BLOCK_LEN,
            waste: 0,
            is_cut: false,
            is_unread: false,
            records: Vec::new(),
            last_lsn: 0,
            oldest: u64::MAX,
            newest: 0,
            expires: 0,
        }
    }
}

impl Scan {
    /// The memory of the longest list of records.
    pub(super) const MEMORY_MAX: u64 =
        (ENTRY_COUNT_MAX as u64).next_power_of_two() * size_of::<FooterEntry>() as u64;

    pub(super) fn begin(&mut self, entry: &TableEntry) {
        *self = Scan { sequence: entry.sequence, class: entry.class, ..Scan::default() };
    }

    /// Gives the memory back.
    pub(super) fn end(&mut self) {
        *self = Scan::default();
    }

    /// Returns which bytes of the segment to read next.
    pub(super) fn window(&self, geometry: Geometry) -> (u64, u64) {
        let from = self.at / BLOCK_LEN * BLOCK_LEN;
        (from, (geometry.segment_len() - from).min(READ_LEN_MAX))
    }

    /// Tells whether there is nothing more to find.
    pub(super) fn is_over(&self, geometry: Geometry) -> bool {
        let room = geometry.segment_len() - footer_len(self.records.len() as u32 + 1);
        self.at >= room
            || self.at - self.found > GAP_MAX
            || self.waste > WASTE_MAX
            || self.records.len() as u32 >= ENTRY_COUNT_MAX
    }

    /// Takes the records of a window; without its bytes it is a gap.
    pub(super) fn take(&mut self, store: StoreId, geometry: Geometry, bytes: Option<&[u8]>) {
        let (from, len) = self.window(geometry);
        let end = from + len;
        let Some(bytes) = bytes else {
            self.at = end;
            self.is_unread = true;
            return;
        };
        let place = Place { store, sequence: self.sequence };
        while self.at < end && !self.is_over(geometry) {
            let rest = &bytes[(self.at - from) as usize..];
            match scan_record(rest, &place) {
                Ok(record) => self.note(&record),
                // It may be whole in a window that begins here, once.
                Err(Mismatch::Short) if !self.is_cut && end < geometry.segment_len() => {
                    self.is_cut = true;
                    return;
                }
                Err(Mismatch::NotARecord) => self.skip(0),
                Err(Mismatch::Short) => self.skip(READ_LEN_MAX),
                Err(_) => self.skip(front_len(rest)),
            }
        }
    }

    /// Notes a record, if its body is whole too, and goes behind it.
    fn note(&mut self, record: &Record<'_>) {
        let front = &record.front;
        let unit = (self.at / UNIT_LEN) as u32;
        self.at += front.record_len();
        self.found = self.at;
        self.is_cut = false;
        if !record.verify_body() {
            return;
        }
        self.records.push(FooterEntry::of(front, unit));
        self.last_lsn = self.last_lsn.max(front.lsn);
        self.oldest = self.oldest.min(front.invalidation);
        self.newest = self.newest.max(front.invalidation);
        self.expires = self.expires.max(front.expires);
    }

    fn skip(&mut self, waste: u64) {
        self.waste += waste;
        self.is_cut = false;
        self.at += match self.class {
            Class::Records => RecordKind::Whole.alignment(),
            Class::Slices => RecordKind::Slice.alignment(),
        };
    }

    pub(super) fn records(&self) -> &[FooterEntry] {
        &self.records
    }

    pub(super) fn is_unread(&self) -> bool {
        self.is_unread
    }

    pub(super) fn last_lsn(&self) -> u64 {
        self.last_lsn
    }

    /// Returns what the table says about the segment once it is sealed with these records.
    pub(super) fn entry(&self, before: &TableEntry) -> TableEntry {
        TableEntry {
            oldest: self.oldest,
            newest: self.newest,
            records: self.records.len() as u32,
            expires: self.expires,
            state: SegmentState::Sealed,
            ..*before
        }
    }
}

/// Returns about how many bytes were looked at for nothing.
fn front_len(bytes: &[u8]) -> u64 {
    let claimed = bytes.get(4..8).map_or(0, |len| super::super::bytes::u32_at(len, 0));
    u64::from(claimed).min(bytes.len() as u64)
}
