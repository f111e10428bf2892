//! A disk in memory that a volume writes and reads through a rig, with crashes, torn writes and errors as asked for.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use aspis_storage::budget::Budget;
use aspis_storage::disk::format::{BLOCK_LEN, Geometry, StoreId, TABLE_ENTRY_LEN, TableEntry};
use aspis_storage::disk::reclaim::Reclaim;
use aspis_storage::disk::record::{Content, Mismatch, NewRecord, Place, decode_record};
use aspis_storage::disk::recovery::{Fed, Read, ReadFailed, Recovery, Step};
use aspis_storage::disk::trial::{Outcome, TRIAL_PIECE_LEN};
use aspis_storage::disk::volume::{
    BUFFER_LEN, Found, Location, Refused, Volume, VolumeConfig, Write, WriteFailed,
};
use aspis_storage::mapping::aligned::AlignedPool;

pub(crate) const STORE: StoreId = StoreId(*b"fedcba9876543210");

/// Numbers by chance, the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(2).wrapping_add(1))
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What a read of a record gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing stands under the hash.
    Nothing,
    /// What stands there could not be read, or is not what was looked for.
    Unreadable,
    /// The version that the record has, and whether the disk has all of it.
    Version { version: u64, is_written: bool },
}

/// The bytes of a disk, and how it fails.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) geometry: Geometry,
    /// One read, or write, in this many fails; 0 for none.
    pub(crate) read_errors: u64,
    pub(crate) write_errors: u64,
    /// Bytes here stay as they are, whatever is written.
    pub(crate) broken: Range<usize>,
}

impl Disk {
    pub(crate) fn formatted(geometry: Geometry) -> Disk {
        let bytes = vec![0; geometry.file_len() as usize];
        let mut disk = Disk { bytes, geometry, read_errors: 0, write_errors: 0, broken: 0..0 };
        (0..geometry.segment_count).for_each(|segment| disk.put_entry(segment, &TableEntry::FREE));
        disk
    }

    /// Returns what the table says about a segment, if that verifies.
    pub(crate) fn entry(&self, segment: u32) -> Option<TableEntry> {
        let table = &self.bytes[self.geometry.table_offset() as usize..];
        TableEntry::of_table(table, self.geometry, STORE, segment)
    }

    /// Has the table say this about a segment.
    pub(crate) fn put_entry(&mut self, segment: u32, entry: &TableEntry) {
        let at = (self.geometry.table_offset() + self.geometry.entry_offset(segment)) as usize;
        self.bytes[at..at + TABLE_ENTRY_LEN].copy_from_slice(&entry.encode(STORE, segment));
    }

    fn read(&self, offset: u64, len: usize, dice: &mut Dice) -> Result<&[u8], ReadFailed> {
        assert!(offset.is_multiple_of(BLOCK_LEN) && len.is_multiple_of(BLOCK_LEN as usize));
        if self.read_errors > 0 && dice.one_in(self.read_errors) {
            return Err(ReadFailed);
        }
        self.bytes.get(offset as usize..offset as usize + len).ok_or(ReadFailed)
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert!(offset.is_multiple_of(BLOCK_LEN) && bytes.len().is_multiple_of(BLOCK_LEN as usize));
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        let kept = self.bytes[self.broken.clone()].to_vec();
        self.bytes[start..end].copy_from_slice(bytes);
        self.bytes[self.broken.clone()].copy_from_slice(&kept);
    }

    /// What is left of a write that nobody was told the end of: nothing, all, a part, or some sectors of it.
    fn tear(&mut self, offset: u64, bytes: &[u8], dice: &mut Dice) {
        let sector = if dice.one_in(2) { 512 } else { BLOCK_LEN as usize };
        let count = (bytes.len() / sector) as u64;
        let (kind, end) = (dice.below(4), dice.below(count + 1));
        for number in 0..count {
            let is_left = match kind {
                0 => false,
                1 => true,
                2 => number < end,
                _ => dice.one_in(2),
            };
            let from = number as usize * sector;
            if is_left {
                let at = offset as usize + from;
                self.bytes[at..at + sector].copy_from_slice(&bytes[from..from + sector]);
            }
        }
    }
}

/// A volume, its disk, and the writes that are under way between them.
pub(crate) struct Rig {
    pub(crate) disk: Disk,
    pub(crate) volume: Volume,
    pub(crate) dice: Dice,
    pub(crate) now: u32,
    flight: Vec<Write>,
    recovery: Option<Recovery>,
    reads: VecDeque<Read>,
}

impl Rig {
    /// Starts a volume on what a disk holds; recovery has not begun.
    pub(crate) fn new(disk: Disk, index_slots: u64, seed: u64) -> Rig {
        let budget = Budget::new(256 << 20);
        // Few enough that appends are refused now and then.
        let pool = AlignedPool::new(BUFFER_LEN, 2 + seed as usize % 8, 2, Arc::clone(&budget));
        let config =
            VolumeConfig { store: STORE, shard: 0, geometry: disk.geometry, index_slots, budget, pool };
        let volume = Volume::new(config).expect("the budget has room");
        let recovery = Some(volume.recovery());
        let reads = VecDeque::new();
        Rig { disk, volume, dice: Dice::new(seed), now: 1000, flight: Vec::new(), recovery, reads }
    }

    /// Starts a volume and recovers all of it.
    pub(crate) fn recovered(disk: Disk, index_slots: u64, seed: u64) -> Rig {
        let mut rig = Rig::new(disk, index_slots, seed);
        while rig.recover_a_step() {}
        rig
    }

    /// Does a step of recovery: asks for a read, or feeds the oldest; false once all is told.
    pub(crate) fn recover_a_step(&mut self) -> bool {
        let Some(recovery) = &mut self.recovery else { return false };
        match recovery.next() {
            Step::Read(read) => self.reads.push_back(read),
            Step::Wait => {
                let read = self.reads.front().expect("it waits for a read");
                let bytes = self.disk.read(read.offset, read.len, &mut self.dice);
                if recovery.feed(&mut self.volume, read.ticket, bytes) == Fed::Taken {
                    self.reads.pop_front();
                }
            }
            Step::Done => self.recovery = None,
        }
        self.recovery.is_some()
    }

    /// Appends a record whose bytes follow from its hash and version.
    pub(crate) fn append(
        &mut self,
        hash: u128,
        version: u64,
        body_len: usize,
        kind: Kind,
    ) -> Result<u64, Refused> {
        let body = body(hash, version, body_len);
        let (key, halves) = (key(hash), body.split_at(body_len / 3));
        let pieces = [halves.0, halves.1];
        let new = record(hash, &key, version, kind, &pieces, self.now);
        self.volume.append(&new, self.now)
    }

    /// Looks a record up as the driver does, and checks every byte of it.
    pub(crate) fn look(&mut self, hash: u128) -> Look {
        let Some(found) = self.volume.find(hash) else { return Look::Nothing };
        let look = self.read(&found, hash);
        if look == Look::Unreadable {
            self.volume.drop_slot(&found, hash);
        }
        look
    }

    fn read(&mut self, found: &Found, hash: u128) -> Look {
        let is_written = found.location == Location::Written;
        let bytes = if is_written {
            match self.disk.read(found.file_offset, found.len as usize, &mut self.dice) {
                Ok(bytes) => &bytes[found.skip..],
                Err(ReadFailed) => {
                    self.volume.note_error(found.segment);
                    return Look::Unreadable;
                }
            }
        } else {
            self.volume.buffered(found).expect("it was said to be in memory")
        };
        let place = Place { store: STORE, sequence: found.sequence };
        let read = match decode_record(bytes, &place, hash) {
            // Another key's, which shares the place in the index: it stays.
            Err(Mismatch::OtherHash) => return Look::Nothing,
            Ok(read) if read.front.key == key(hash) && read.verify_body() => read,
            _ => return Look::Unreadable,
        };
        let version = read.front.invalidation;
        assert!(read.body() == body(hash, version, read.body().len()), "other bytes than were written");
        Look::Version { version, is_written }
    }

    /// Fetches writes; they are under way until [`Rig::complete`].
    pub(crate) fn fetch(&mut self, force: bool) -> usize {
        (0..).take_while(|_| self.fetch_one(force)).count()
    }

    /// Fetches one write, if there is any.
    pub(crate) fn fetch_one(&mut self, force: bool) -> bool {
        let Some(write) = self.volume.next_write(force) else { return false };
        let range = |write: &Write| write.file_offset..write.file_offset + write.len as u64;
        for other in &self.flight {
            let (ours, theirs) = (range(&write), range(other));
            assert!(ours.end <= theirs.start || theirs.end <= ours.start, "one block in two writes");
        }
        assert!(write.len > 0, "a write of nothing");
        self.flight.push(write);
        assert!(self.flight.len() <= 4, "too many writes");
        true
    }

    /// Ends one of the writes that are under way, any of them; false if there is none.
    pub(crate) fn complete(&mut self) -> bool {
        if self.flight.is_empty() {
            return false;
        }
        let write = self.flight.swap_remove(self.dice.below(self.flight.len() as u64) as usize);
        let bytes = &write.buffer.as_ref()[..write.len];
        let fails = self.disk.write_errors > 0 && self.dice.one_in(self.disk.write_errors);
        let result = if fails {
            self.disk.tear(write.file_offset, bytes, &mut self.dice);
            Err(WriteFailed)
        } else {
            self.disk.write(write.file_offset, bytes);
            Ok(())
        };
        self.volume.written(write.token, write.buffer, result);
        true
    }

    /// Writes all that was appended.
    pub(crate) fn settle(&mut self) {
        while self.fetch(true) > 0 || self.complete() {}
        assert!(self.volume.is_settled());
    }

    /// Does a step of reclaim; false if there is nothing to reclaim, or it waits for writes.
    pub(crate) fn reclaim_a_step(&mut self, hits: u8) -> bool {
        match self.volume.next_reclaim(self.now, hits) {
            Reclaim::Idle | Reclaim::Wait => false,
            Reclaim::Again => true,
            Reclaim::Read { file_offset, len } => {
                let bytes = self.disk.read(file_offset, len, &mut self.dice);
                self.volume.reclaimed(bytes);
                true
            }
        }
    }

    /// Tries a segment that had errors, if a trial is due; the disk fails as it does for others.
    pub(crate) fn try_a_segment(&mut self) -> bool {
        let Some(trial) = self.volume.next_trial(self.now) else { return false };
        let mut piece = vec![0; TRIAL_PIECE_LEN as usize];
        let mut is_good = true;
        for at in trial.pieces() {
            trial.fill(at, &mut piece);
            self.disk.write(at, &piece);
            is_good &= self.disk.write_errors == 0 || !self.dice.one_in(self.disk.write_errors);
        }
        for at in trial.pieces() {
            let read = self.disk.read(at, piece.len(), &mut self.dice);
            is_good &= read.is_ok_and(|bytes| trial.verify(at, bytes));
        }
        self.volume.tried(trial, if is_good { Outcome::Passed } else { Outcome::Failed });
        true
    }

    /// Ends the process and the machine with it: writes under way leave anything or nothing.
    pub(crate) fn crash(mut self) -> Disk {
        for write in std::mem::take(&mut self.flight) {
            self.disk.tear(write.file_offset, &write.buffer.as_ref()[..write.len], &mut self.dice);
        }
        self.disk
    }
}

/// What kind of record a test appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Marker,
    Slice,
}

/// The record of a version of a key; the version stands in for the invalidation number.
fn record<'a>(
    hash: u128,
    key: &'a [u8],
    version: u64,
    kind: Kind,
    body: &'a [&'a [u8]],
    now: u32,
) -> NewRecord<'a> {
    let content = match kind {
        Kind::Marker => Content::Marker { names: "accept", valid_from: 0 },
        Kind::Slice => Content::Slice { write_id: version, number: 3 },
    };
    NewRecord { hash, key, invalidation: version, created: now, expires: now + 3600, content, body }
}

fn key(hash: u128) -> Vec<u8> {
    format!("https://example.com/{hash:032x}").into_bytes()
}

/// The bytes of a version of a key: a piece of a long row of numbers by chance, since each piece made anew would take most of a test's time.
fn body(hash: u128, version: u64, len: usize) -> &'static [u8] {
    const ROW_LEN: usize = 2 << 20;
    static ROW: OnceLock<Vec<u8>> = OnceLock::new();
    let row = ROW.get_or_init(|| {
        let mut dice = Dice::new(17);
        (0..ROW_LEN / 8).flat_map(|_| dice.roll().to_le_bytes()).collect()
    });
    let start = Dice::new(hash as u64 ^ version.wrapping_mul(77)).below((ROW_LEN - len) as u64) as usize;
    &row[start..start + len]
}

/// The hash of a key of a test.
pub(crate) fn hash(number: u64) -> u128 {
    let mut dice = Dice::new(number);
    u128::from(dice.roll()) << 64 | u128::from(dice.roll())
}
