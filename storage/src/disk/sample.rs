//! A volume in memory for tests, written as its owner writes it.

use super::footer::{self, FooterEntry, Trailer};
use super::format::{BLOCK_LEN, Class, Geometry, SegmentHeader, SegmentState, StoreId, TableEntry};
use super::record::{self, Content, NewRecord, Place, RecordKind};

pub(super) const STORE: StoreId = StoreId(*b"0123456789abcdef");
pub(super) const SMALL: Geometry = Geometry { segment_shift: 20, segment_count: 8 };

/// The volume.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) geometry: Geometry,
    pub(super) bytes: Vec<u8>,
}

/// A record of a test: a hash, and whether something or nothing stands under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) hash: u64,
    pub(super) kind: RecordKind,
}

impl Disk {
    pub(super) fn new(geometry: Geometry) -> Self {
        let mut disk = Disk { geometry, bytes: vec![0; geometry.file_len() as usize] };
        (0..geometry.segment_count).for_each(|segment| disk.table(segment, &TableEntry::FREE));
        disk
    }

    pub(super) fn put(&mut self, at: u64, bytes: &[u8]) {
        self.bytes[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn table(&mut self, segment: u32, entry: &TableEntry) {
        let at = self.geometry.table_offset() + self.geometry.entry_offset(segment);
        self.put(at, &entry.encode(STORE, segment));
    }

    /// Writes an open segment; returns its entry, and the entries of its records.
    pub(super) fn open(
        &mut self,
        segment: u32,
        sequence: u64,
        items: &[Item],
    ) -> (TableEntry, Vec<FooterEntry>) {
        let class = items.first().map_or(Class::Records, |item| item.kind.class());
        let header = SegmentHeader { sequence, class, created: 5 };
        let entry = TableEntry { sequence, class, created: 5, state: SegmentState::Open, ..TableEntry::FREE };
        self.table(segment, &entry);
        let offset = self.geometry.segment_offset(segment);
        self.put(offset, &header.encode(STORE, segment));
        let (mut at, mut records) = (BLOCK_LEN, Vec::new());
        for item in items {
            let key = item.hash.to_le_bytes();
            let body = vec![item.hash as u8; 100 + (item.hash % 7 * 900) as usize];
            let content = match item.kind {
                RecordKind::Slice => Content::Slice { write_id: 1, number: 1 },
                RecordKind::Tombstone => Content::Tombstone,
                _ => Content::Marker { names: "accept", valid_from: 1 },
            };
            let new = NewRecord {
                hash: u128::from(item.hash) << 64,
                key: &key,
                invalidation: sequence + 10,
                created: 5,
                expires: 1000 + sequence as u32,
                content,
                body: &[&body],
            };
            let mut out = vec![0; record::record_len(&new) as usize];
            record::encode_record(&new, &Place { store: STORE, sequence }, (sequence << 24) + at, &mut out);
            self.put(offset + at, &out);
            let front = record::scan_front(&out, &Place { store: STORE, sequence }).unwrap();
            records.push(FooterEntry::of(&front, (at / 64) as u32));
            at += out.len() as u64;
        }
        (entry, records)
    }

    pub(super) fn sealed(&mut self, segment: u32, sequence: u64, items: &[Item]) -> Vec<FooterEntry> {
        let (entry, records) = self.open(segment, sequence, items);
        let trailer = Trailer {
            sequence,
            class: entry.class,
            count: records.len() as u32,
            oldest: sequence + 10,
            newest: sequence + 10,
            last_lsn: 9,
            created: 5,
            expires: 1000 + sequence as u32,
        };
        let mut footer = Vec::new();
        footer::write_footer(&records, &trailer, STORE, &mut footer);
        self.put(self.geometry.segment_offset(segment + 1) - footer.len() as u64, &footer);
        self.table(segment, &trailer.table_entry());
        records
    }

    pub(super) fn block(&mut self, at: u64) -> &mut [u8] {
        &mut self.bytes[at as usize..(at + BLOCK_LEN) as usize]
    }

    pub(super) fn header_block(&mut self, segment: u32) -> &mut [u8] {
        self.block(self.geometry.segment_offset(segment))
    }

    pub(super) fn last_block(&mut self, segment: u32) -> &mut [u8] {
        self.block(self.geometry.segment_offset(segment + 1) - BLOCK_LEN)
    }

    pub(super) fn table_block(&mut self) -> &mut [u8] {
        self.block(self.geometry.table_offset())
    }
}

pub(super) fn put(hash: u64) -> Item {
    Item { hash, kind: RecordKind::Marker }
}

pub(super) fn gone(hash: u64) -> Item {
    Item { hash, kind: RecordKind::Tombstone }
}
