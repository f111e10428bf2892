//! Fills a store that a server has made with records that it finds: whole sealed segments, written offline through the product's own formats.
//!
//! Record `number` is the response to [`path`]`(number)`; its body follows from that, so whoever gets it can check it. Segments fill front to back in
//! the order of the numbers, so the largest numbers are the newest. Nothing of the store is changed but segments that it calls free, and their
//! entries in the table, which come last.

use super::{BODY_LEN, HOST, path};
use crate::content::Content;
use aspis_cache::key::{hash, write_key};
use aspis_cache::stored::StoredMeta;
use aspis_config::raw::Raw;
use aspis_config::{Behavior, check};
use aspis_exchange::Now;
use aspis_exchange::response_head::write_stored;
use aspis_storage::disk::footer::{FooterEntry, Trailer, footer_len, write_footer};
use aspis_storage::disk::format::{
    BLOCK_LEN, Class, Geometry, SegmentHeader, SegmentState, Superblock, TableEntry, UNIT_LEN,
};
use aspis_storage::disk::length_class;
use aspis_storage::disk::record::{self, Facts, NewRecord, Place, RecordKind, Tags};
use aspis_storage::shards::Sharding;
use aspis_wire::response::parse_response;
use aspis_wire::{FieldSlots, HeadLimits, Method, Scheme};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the origin is supposed to have said.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=2592000\r\nETag: \"r1\"\r\n\r\n";
/// As long as that says.
const LIFETIME: u32 = 2_592_000;

/// What the records of a store have in common.
struct Common {
    head: Vec<u8>,
    now: u64,
}

impl Common {
    fn new(now: u64) -> io::Result<Self> {
        let raw: Raw = [("origin", "http://origin.example")].into_iter().collect();
        let behavior = Behavior::from(&check(&raw).map_err(|error| io::Error::other(format!("{error:?}")))?);
        let mut slots = FieldSlots::new();
        let parsed = parse_response(RESPONSE, &mut slots, &HeadLimits::default(), Method::Get);
        let Ok(Some(response)) = parsed else {
            return Err(io::Error::other("the head of the records is wrong"));
        };
        let mut head = Vec::new();
        write_stored(&behavior, &response, Now { wall: now, millis: 0 }, &mut head);
        Ok(Self { head, now })
    }

    /// Makes the record of a number and hands it on.
    fn with<T>(&self, number: u64, what: impl FnOnce(&NewRecord<'_>) -> T) -> T {
        let path = path(number);
        let mut key = Vec::new();
        write_key(Scheme::Http, HOST, &path, &mut key);
        let mut body = [0; BODY_LEN];
        Content::of(&path).fill(0, &mut body);
        let meta = StoredMeta {
            status: 200,
            generated_at: self.now,
            received_at: self.now,
            lifetime: LIFETIME,
            ..StoredMeta::PLAIN
        };
        let facts = Facts { meta, head: &self.head, tags: Tags::NONE, variant: None };
        what(&NewRecord {
            hash: hash(&key),
            key: &key,
            invalidation: 0,
            created: self.now as u32,
            expires: (self.now as u32).saturating_add(LIFETIME),
            content: record::Content::Whole(facts),
            body: &[&body],
        })
    }
}

/// Returns the bytes that a record takes in its segment, and in that segment's footer.
pub(super) fn record_len() -> io::Result<u64> {
    let longest = Common::new(now())?.with(u64::from(u32::MAX), record::record_len);
    // Whole blocks of a footer of thousands hold 16 bytes a record, and the trailer is nothing beside them.
    Ok(longest + 16)
}

/// Returns how many volumes lie in a folder.
pub(super) fn volume_count(folder: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        count += usize::from(Volume::open(&entry?.path(), 0)?.is_some());
    }
    Ok(count)
}

/// Writes records 0 to `count` into the store in `folder`; returns the bytes that were written.
pub(super) fn fill(folder: &Path, count: u64) -> io::Result<u64> {
    let common = Common::new(now())?;
    let mut volumes = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        if let Some(volume) = Volume::open(&entry?.path(), common.now as u32)? {
            volumes.push(volume);
        }
    }
    volumes.sort_by_key(|volume| volume.superblock.shard);
    let shard_bits = volumes.first().map_or(0, |volume| volume.superblock.shard_bits);
    if volumes.len() != 1 << shard_bits {
        return Err(io::Error::other(format!("{} of {} volumes", volumes.len(), 1_u64 << shard_bits)));
    }
    let sharding = Sharding::of_bits(shard_bits);
    for number in 0..count {
        common.with(number, |new| volumes[sharding.shard(new.hash)].append(new))?;
    }
    let mut written = 0;
    for volume in volumes {
        written += volume.finish()?;
    }
    Ok(written)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// A volume that is filled, and its open segment.
struct Volume {
    file: File,
    superblock: Superblock,
    geometry: Geometry,
    table: Vec<u8>,
    /// Free segments that are left, the next one last.
    free: Vec<u32>,
    sequence: u64,
    lsn: u64,
    created: u32,
    buffer: Vec<u8>,
    len: usize,
    entries: Vec<FooterEntry>,
    written: u64,
}

impl Volume {
    /// Opens a file if it is a volume.
    fn open(path: &Path, created: u32) -> io::Result<Option<Self>> {
        if path.metadata()?.len() < 1 << 20 {
            return Ok(None);
        }
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut blocks = vec![0; 2 * BLOCK_LEN as usize];
        file.read_exact_at(&mut blocks, 0)?;
        let Ok(superblock) = Superblock::read(&blocks) else { return Ok(None) };
        let geometry = superblock.geometry();
        let mut table = vec![0; geometry.table_len() as usize];
        file.read_exact_at(&mut table, geometry.table_offset())?;
        let entry = |segment| TableEntry::of_table(&table, geometry, superblock.store, segment);
        let is_free = |segment: &u32| entry(*segment).is_none_or(|entry| entry.state == SegmentState::Free);
        let free: Vec<u32> = (0..geometry.segment_count).rev().filter(is_free).collect();
        let sequence = (0..geometry.segment_count).filter_map(|segment| Some(entry(segment)?.sequence)).max();
        let buffer = vec![0; geometry.segment_len() as usize];
        Ok(Some(Self {
            file,
            superblock,
            geometry,
            table,
            free,
            sequence: sequence.unwrap_or(0) + 1,
            // Above whatever the server gave while it made the store.
            lsn: 1_000_000,
            created,
            buffer,
            len: BLOCK_LEN as usize,
            entries: Vec::new(),
            written: 0,
        }))
    }

    fn append(&mut self, new: &NewRecord<'_>) -> io::Result<()> {
        let len = record::record_len(new) as usize;
        let footer = footer_len(self.entries.len() as u32 + 1) as usize;
        if self.len + len + footer > self.buffer.len() {
            self.seal()?;
        }
        let place = Place { store: self.superblock.store, sequence: self.sequence };
        self.lsn += 1;
        record::encode_record(new, &place, self.lsn, &mut self.buffer[self.len..]);
        self.entries.push(FooterEntry {
            hash: (new.hash >> 64) as u64,
            unit: (self.len as u64 / UNIT_LEN) as u32,
            class: length_class::of(len as u64),
            flags: RecordKind::Whole.code(),
            expires: new.expires,
        });
        self.len += len;
        Ok(())
    }

    /// Writes the open segment with its footer, and begins another.
    fn seal(&mut self) -> io::Result<()> {
        let segment = self.free.pop().ok_or_else(|| io::Error::other("the store is too small"))?;
        let expires = self.created.saturating_add(LIFETIME);
        let entry = TableEntry {
            sequence: self.sequence,
            oldest: 0,
            newest: 0,
            records: self.entries.len() as u32,
            created: self.created,
            expires,
            state: SegmentState::Sealed,
            class: Class::Records,
            errors: 0,
        };
        let trailer = Trailer {
            sequence: self.sequence,
            class: Class::Records,
            count: entry.records,
            oldest: 0,
            newest: 0,
            last_lsn: self.lsn,
            created: self.created,
            expires,
        };
        let header = SegmentHeader { sequence: self.sequence, class: Class::Records, created: self.created };
        let store = self.superblock.store;
        self.buffer[..BLOCK_LEN as usize].copy_from_slice(&header.encode(store, segment));
        let mut footer = Vec::new();
        write_footer(&self.entries, &trailer, store, &mut footer);
        let at = self.buffer.len() - footer.len();
        self.buffer[self.len..at].fill(0);
        self.buffer[at..].copy_from_slice(&footer);
        self.file.write_all_at(&self.buffer, self.geometry.segment_offset(segment))?;
        let at = self.geometry.entry_offset(segment) as usize;
        let bytes = entry.encode(store, segment);
        self.table[at..at + bytes.len()].copy_from_slice(&bytes);
        self.written += self.buffer.len() as u64;
        self.sequence += 1;
        self.len = BLOCK_LEN as usize;
        self.entries.clear();
        Ok(())
    }

    /// Writes what is open and the table; returns the bytes that were written.
    fn finish(mut self) -> io::Result<u64> {
        if !self.entries.is_empty() {
            self.seal()?;
        }
        // Segments first: a table must not promise what is not there.
        self.file.sync_data()?;
        self.file.write_all_at(&self.table, self.geometry.table_offset())?;
        self.file.sync_data()?;
        Ok(self.written)
    }
}
