//! One shard's volume: an index in memory, a log of records in segments on the disk, and what is on its way between them.
//!
//! The shard's driver asks where a record lies and reads it; appends what is worth keeping; fetches the writes that this asks for, does them,
//! and tells how they ended. Nothing here does I/O, and every call is bounded.
//!
//! Two segments are open: one for *records*, in which what is behind is newer, and one for *slices*, whose keys come once. What makes an
//! older version of a key stay away, after a crash too: the newest record of a place in the index hides all older ones, on the disk as in
//! memory; a removal is a record of its own, a *tombstone*, and is written wherever something may be on the disk that the index does not know
//! (lossy buckets, while a segment is reclaimed, while the volume recovers); and segments of records are reclaimed in the order of their
//! age (`reclaim.rs`), so that what hides outlives what it hides.
//!
//! Invariants: a slot of the index names a record that was appended, and what is found is only a candidate until its check and key are
//! compared; a segment that somebody reads or that the disk does not know to be free is not written anew; what is not on the disk yet is
//! still in memory, and found there.

use std::sync::Arc;

use super::footer::FooterEntry;
use super::format::{BLOCK_LEN, Class, Geometry, SegmentHeader, StoreId, UNIT_LEN};
use super::index::{Index, Inserted, Slot, SlotKind};
use super::length_class;
use super::open::{CHUNK_LEN, OpenSegment};
use super::reclaim::Reclaimer;
use super::record::{Content, NewRecord, Place, RecordKind, encode_record, record_len};
use super::recovery::Recovery;
use super::segments::{Role, Segments};
use super::trial::Trials;
use crate::budget::{Budget, Charge, Purpose};
use crate::mapping::aligned::AlignedPool;
use crate::mapping::mapped::VolumeMap;

mod rebuild;
mod writing;

pub(super) use writing::ERRORS_MAX;
pub use writing::{Mark, Token, WRITES_IN_FLIGHT_MAX, Write, WriteFailed};

/// Bytes of the buffers that a volume takes from its pool.
pub const BUFFER_LEN: usize = CHUNK_LEN;

/// Most removals that wait for room on the disk and are written in one call.
const PENDING_PER_CALL: usize = 64;

/// What a volume is made of.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// The store that it belongs to.
    pub store: StoreId,
    /// Which shard of it.
    pub shard: u16,
    /// Where in the file what lies.
    pub geometry: Geometry,
    /// Slots of the index; [`Index::slots_for`] says how many records need.
    pub index_slots: u64,
    /// What pays for the index and for lists.
    pub budget: Arc<Budget>,
    /// Where write buffers come from, of at least [`BUFFER_LEN`] bytes; the volumes of a core share it.
    pub pool: AlignedPool,
}

/// Why a record is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No segment is free; after some reclaim there is.
    NoSegment,
    /// It is longer than a record may be.
    TooLarge,
    /// Recovery has not told of all segments yet.
    NotReady,
    /// All buffers are taken; after some writes there are free ones.
    NoMemory,
}

/// Where a record's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// On the disk.
    Written,
    /// In memory, until the disk has them: see [`Volume::buffered`].
    Buffered,
}

/// What may be the record that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where in the file the blocks begin that hold it.
    pub file_offset: u64,
    /// Bytes of these blocks.
    pub len: u64,
    /// Where in these blocks it begins.
    pub skip: usize,
    /// The sequence of its segment, for its check.
    pub sequence: u64,
    /// Its segment, to be pinned while it is read.
    pub segment: u32,
    /// Where in the segment it begins, in units.
    pub unit: u32,
    /// What it is.
    pub kind: SlotKind,
    /// Where its bytes are now.
    pub location: Location,
}

/// Figures of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeStats {
    /// Records that are found.
    pub records: u64,
    /// Bytes of these, by their length classes.
    pub live_bytes: u64,
    /// Memory of the index that finds them.
    pub index_bytes: u64,
    /// Segments with records, open or not.
    pub used_segments: u32,
    /// Segments that can be written.
    pub free_segments: u32,
    /// Segments that are given up, or suspected until a trial.
    pub bad_segments: u32,
    /// Bytes of records that were appended by others than the volume itself.
    pub appended_bytes: u64,
    /// Bytes of records that reclaim appended again.
    pub reinserted_bytes: u64,
    /// Bytes that were handed to writes: records, padding, footers, tables.
    pub written_bytes: u64,
    /// Tombstones appended.
    pub tombstones: u64,
    /// Segments reclaimed.
    pub reclaimed_segments: u64,
    /// Slots that left because their buckets were full.
    pub crowded_out: u64,
    /// Slots that left because reads of their records failed.
    pub dropped: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Reads at the start that failed, so that older records were left out.
    pub unread: u64,
    /// Segments that had errors and are used again, because a trial found them good.
    pub trials_passed: u64,
    /// Trials of segments that had errors which found them bad.
    pub trials_failed: u64,
    /// Removals that wait for room on the disk.
    pub pending_tombstones: u64,
}

/// How far recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is known.
    Unknown,
    /// All segments are known, not all records.
    Located,
    /// All records are known; hidden slots are freed from this bucket on.
    Sweeping(u64),
    /// All is as it will be.
    Ready,
}

/// One shard's volume.
#[derive(Debug)]
pub struct Volume {
    pub(super) config: VolumeConfig,
    pub(super) index: Index,
    pub(super) segments: Segments,
    /// By class.
    open: [Option<OpenSegment>; 2],
    pub(super) closing: Vec<OpenSegment>,
    pub(super) reclaim: Reclaimer,
    pub(super) trials: Trials,
    list_charge: Charge,
    /// Hashes of removals that could not be appended.
    pending: Vec<u64>,
    /// Behind the last removal that was appended later than it was asked for.
    late: Mark,
    pub(super) phase: Phase,
    pub(super) now: u32,
    newest_number: u64,
    /// Records with an order in segments below this sequence are not believed: what hides them could not be read.
    unread_below: u64,
    /// The sequence of the last of these.
    unread_last: u64,
    in_flight: u32,
    pub(super) stats: VolumeStats,
}

impl Volume {
    /// Makes a volume that knows nothing yet: recovery tells it what there is. `None` when the budget refuses the index.
    pub fn new(config: VolumeConfig) -> Option<Volume> {
        let seed = config.store.hash64() ^ u64::from(config.shard);
        let index = Index::new(config.index_slots, seed, &config.budget)?;
        let segments = Segments::new(config.geometry, config.store, &config.budget)?;
        let lists = config.budget.reserve(Purpose::Disk, 0)?;
        Some(Volume {
            config,
            index,
            segments,
            open: [None, None],
            closing: Vec::new(),
            reclaim: Reclaimer::default(),
            trials: Trials::default(),
            list_charge: lists,
            pending: Vec::new(),
            late: Mark::default(),
            phase: Phase::Unknown,
            now: 0,
            newest_number: 0,
            unread_below: 0,
            unread_last: 0,
            in_flight: 0,
            stats: VolumeStats::default(),
        })
    }

    /// Has segments written anew only when nobody sends from their mapping. Before anything is sent from it.
    pub fn send_from(&mut self, map: Arc<VolumeMap>) {
        self.segments.send_from(map);
    }

    /// Tells whether what was found lies in a segment that is not written to any more, and how often it was used, at most 3; `None` if it does not.
    pub fn rests(&self, found: &Found, hash: u128) -> Option<u8> {
        let is_sealed = self.segments.at(found.segment).role() == Role::Sealed;
        let slot = self.index.find(top(hash)).filter(|_| is_sealed && found.location == Location::Written)?;
        Some(slot.hits)
    }

    /// Asks the processor for what [`Volume::find`] looks at.
    #[inline]
    pub fn prefetch(&self, hash: u128) {
        self.index.prefetch(top(hash));
    }

    /// Returns where the record of this hash may lie. Memory only, and little of it: asked on every miss.
    #[inline]
    pub fn find(&self, hash: u128) -> Option<Found> {
        let slot = self.index.find(top(hash))?;
        Some(self.locate(slot))
    }

    /// Returns the bytes that begin with the record, if they are still in memory.
    pub fn buffered(&self, found: &Found) -> Option<&[u8]> {
        let open = self.written_segment(found.segment).filter(|open| open.sequence() == found.sequence)?;
        open.buffered(u64::from(found.unit) * UNIT_LEN)
    }

    /// Keeps a segment from being written anew while it is read.
    pub fn pin(&mut self, segment: u32) {
        self.segments.pin(segment);
    }

    /// Ends what [`Volume::pin`] began.
    pub fn unpin(&mut self, segment: u32) {
        self.segments.unpin(segment);
    }

    /// Counts a use of the record of this hash, from the disk or from memory: what is used is kept when its segment is reclaimed.
    pub fn used(&mut self, hash: u128) {
        self.index.mark_used(top(hash));
    }

    /// Returns a number that the next record of the class with an order will not be below.
    pub fn next_lsn(&self) -> u64 {
        match &self.open[Class::Records as usize] {
            Some(open) => lsn(open),
            None => self.segments.next_sequence() << LSN_SHIFT,
        }
    }

    /// Appends a record, which stands under its hash from now on, and returns the number that it was given.
    ///
    /// It is written when enough is gathered, or when [`Volume::next_write`] is asked to.
    pub fn append(&mut self, new: &NewRecord<'_>, now: u32) -> Result<u64, Refused> {
        self.now = self.now.max(now);
        self.append_pending();
        let len = record_len(new);
        let number = self.append_new(new, len)?;
        self.stats.appended_bytes += len;
        Ok(number)
    }

    /// Removes what stands under a hash, and lets nothing older come back: true if something may have been on the disk.
    pub fn remove(&mut self, hash: u128, now: u32) -> bool {
        self.now = self.now.max(now);
        let hash = top(hash);
        let removed = self.take_out(hash);
        let may_be_there = removed
            || self.index.is_lossy(hash)
            || self.reclaim.is_under_way()
            || self.segments.is_any_leaving()
            || self.unread_below > 0
            || !self.is_recovered();
        if may_be_there {
            self.bury(hash);
        }
        may_be_there
    }

    /// Forgets where a record lies that could not be read, or is another's. What lies there may come back after a restart, unless it is removed
    /// or replaced before.
    pub fn drop_slot(&mut self, found: &Found, hash: u128) {
        let hash = top(hash);
        let Some(slot) = self.index.remove_at(hash, found.segment, found.unit) else { return };
        self.forget(slot);
        self.index.mark_lossy(hash);
        self.stats.dropped += 1;
    }

    /// Counts a read of a segment that failed; one with several is tried once it is reclaimed, before it is used again.
    pub fn note_error(&mut self, segment: u32) {
        self.note_errors(segment, 1);
    }

    fn note_errors(&mut self, segment: u32, count: u16) {
        let role = self.segments.at(segment).role();
        self.segments.change(segment, role, |entry| entry.errors = entry.errors.saturating_add(count));
    }

    /// Returns the smallest invalidation number of anything that may be found, now or after a crash: 0 while the volume recovers, or if
    /// something could not be read then; `u64::MAX` if there is nothing.
    pub fn oldest_number(&self) -> u64 {
        if !self.is_recovered() || self.stats.unread > 0 {
            return 0;
        }
        let written = self.open.iter().flatten().chain(&self.closing);
        let unwritten = written.map(|open| open.trailer().oldest).min().unwrap_or(u64::MAX);
        unwritten.min(self.segments.oldest_number())
    }

    /// Returns the largest invalidation number that any record had.
    pub fn last_number(&self) -> u64 {
        self.newest_number
    }

    /// Tells whether all records are known.
    pub fn is_recovered(&self) -> bool {
        matches!(self.phase, Phase::Sweeping(_) | Phase::Ready)
    }

    /// Returns the volume's figures.
    pub fn stats(&self) -> VolumeStats {
        VolumeStats {
            index_bytes: self.index.memory_len(),
            records: self.index.len(),
            live_bytes: self.segments.live_len(),
            used_segments: self.segments.count(&[Role::Open, Role::Closing, Role::Sealed, Role::Victim]),
            free_segments: self.segments.count(&[Role::Free, Role::Freeing]),
            bad_segments: self.segments.count(&[Role::Bad]),
            pending_tombstones: self.pending.len() as u64,
            ..self.stats
        }
    }

    /// Returns what finds out what the volume's file holds, and tells this: nothing is appended before all segments are told of.
    pub fn recovery(&self) -> Recovery {
        Recovery::new(self.config.store, self.config.geometry)
    }

    fn locate(&self, slot: Slot) -> Found {
        let geometry = &self.config.geometry;
        let offset = u64::from(slot.unit) * UNIT_LEN;
        let start = offset / BLOCK_LEN * BLOCK_LEN;
        // The class is rounded up, and may end behind the segment.
        let end = (offset + length_class::len(slot.class)).next_multiple_of(BLOCK_LEN);
        let open = self.written_segment(slot.segment);
        let is_buffered = open.is_some_and(|open| open.buffered(offset).is_some());
        Found {
            file_offset: geometry.segment_offset(slot.segment) + start,
            len: end.min(geometry.segment_len()) - start,
            skip: (offset - start) as usize,
            sequence: self.segments.at(slot.segment).entry.sequence,
            segment: slot.segment,
            unit: slot.unit,
            kind: slot.kind,
            location: if is_buffered { Location::Buffered } else { Location::Written },
        }
    }

    /// Tells whether what stands in the index was written after another record.
    fn is_newer(&self, standing: Slot, other: Slot) -> bool {
        let order = |slot: Slot| (self.segments.at(slot.segment).entry.sequence, slot.unit);
        standing == Slot::REMOVED || order(standing) >= order(other)
    }

    /// Returns a segment that is not sealed yet.
    fn written_segment(&self, segment: u32) -> Option<&OpenSegment> {
        self.open.iter().flatten().chain(&self.closing).find(|open| open.segment == segment)
    }

    /// Appends a record of `len` bytes and lists it.
    fn append_new(&mut self, new: &NewRecord<'_>, len: u64) -> Result<u64, Refused> {
        let kind = new.kind();
        let mut number = 0;
        let place = self.append_bytes(kind.class(), len, |out, place, lsn| {
            encode_record(new, place, lsn, out);
            number = lsn;
        })?;
        let entry = FooterEntry {
            hash: top(new.hash),
            unit: place.1,
            class: length_class::of(len),
            flags: kind.code(),
            expires: new.expires,
        };
        self.list(place.0, kind, entry, number, new.invalidation);
        Ok(number)
    }

    /// Puts `len` bytes into the open segment of a class, and returns its number and where in it they lie, in units.
    pub(super) fn append_bytes(
        &mut self,
        class: Class,
        len: u64,
        write: impl FnOnce(&mut [u8], &Place, u64),
    ) -> Result<(u32, u32), Refused> {
        self.make_room(class, len)?;
        let store = self.config.store;
        let open = self.open[class as usize].as_mut().ok_or(Refused::NoSegment)?;
        let (place, lsn) = (Place { store, sequence: open.sequence() }, lsn(open));
        let unit =
            open.append(len, &self.config.pool, |out| write(out, &place, lsn)).ok_or(Refused::NoMemory)?;
        Ok((open.segment, unit))
    }

    /// Has a segment of this class open that has room for a record of `len` bytes.
    fn make_room(&mut self, class: Class, len: u64) -> Result<(), Refused> {
        if len > OpenSegment::record_len_max(self.config.geometry.segment_len()) {
            return Err(Refused::TooLarge);
        }
        if self.phase == Phase::Unknown {
            return Err(Refused::NotReady);
        }
        let open = &mut self.open[class as usize];
        if open.as_ref().is_some_and(|open| open.has_room(len)) {
            return Ok(());
        }
        if let Some(full) = open.take() {
            self.close(full);
        }
        let (segment, sequence) = self.segments.open(class, self.now).ok_or(Refused::NoSegment)?;
        let header = SegmentHeader { sequence, class, created: self.now };
        let len = self.config.geometry.segment_len();
        match OpenSegment::new(segment, len, header, self.config.store, &self.config.budget) {
            Some(opened) => self.open[class as usize] = Some(opened),
            None => {
                self.free(segment);
                return Err(Refused::NoMemory);
            }
        }
        Ok(())
    }

    /// Has an open segment take no more records.
    fn close(&mut self, mut open: OpenSegment) {
        open.seal();
        self.segments.set_role(open.segment, Role::Closing);
        self.closing.push(open);
    }

    /// Lists a record that was appended last in its segment, and has its hash lead to it.
    pub(super) fn list(
        &mut self,
        segment: u32,
        kind: RecordKind,
        entry: FooterEntry,
        lsn: u64,
        invalidation: u64,
    ) {
        self.newest_number = self.newest_number.max(invalidation);
        if let Some(open) = &mut self.open[kind.class() as usize] {
            open.list(entry, lsn, invalidation);
            if kind == RecordKind::Tombstone {
                open.hurry();
            }
        }
        if let Some(slot) = slot_of(segment, kind, &entry) {
            let Inserted { replaced, crowded_out } = self.index.insert(entry.hash, slot);
            self.segments.add_live(segment, length_class::len(slot.class));
            self.stats.crowded_out += u64::from(crowded_out.is_some());
            replaced.into_iter().chain(crowded_out).for_each(|old| self.forget(old));
        }
    }

    /// Takes a hash out of the index; true if it was there.
    fn take_out(&mut self, hash: u64) -> bool {
        let removed = match self.phase {
            Phase::Unknown | Phase::Located => self.index.hide(hash),
            Phase::Sweeping(_) | Phase::Ready => self.index.remove(hash),
        };
        removed.is_some_and(|slot| {
            self.forget(slot);
            true
        })
    }

    /// Writes that what was under a hash is gone, or remembers to.
    pub(super) fn bury(&mut self, hash: u64) {
        if !self.pending.is_empty() || self.append_tombstone(hash).is_err() {
            // As many as the index has slots is what can be on the disk.
            if (self.pending.len() as u64) < self.index.slot_count() {
                self.pending.push(hash);
                self.charge_lists();
            }
        }
    }

    fn append_tombstone(&mut self, hash: u64) -> Result<(), Refused> {
        let new = NewRecord {
            hash: u128::from(hash) << 64,
            key: &[],
            invalidation: self.newest_number,
            created: self.now,
            expires: self.now,
            content: Content::Tombstone,
            body: &[],
        };
        self.append_new(&new, record_len(&new))?;
        self.stats.tombstones += 1;
        Ok(())
    }

    /// Appends removals that waited, if there is room now.
    fn append_pending(&mut self) {
        for _ in 0..PENDING_PER_CALL.min(self.pending.len()) {
            let Some(hash) = self.pending.last().copied() else { return };
            // What stands there now is newer, and hides the same.
            if self.index.find(hash).is_none() && self.append_tombstone(hash).is_err() {
                return;
            }
            self.late = self.mark();
            self.pending.pop();
        }
        if self.pending.is_empty() && self.pending.capacity() > 0 {
            self.pending = Vec::new();
            self.charge_lists();
        }
    }

    /// Charges the lists that come and go.
    pub(super) fn charge_lists(&mut self) {
        let len = self.reclaim.memory()
            + self.trials.memory()
            + (self.pending.capacity() * size_of::<u64>()) as u64;
        if len != self.list_charge.bytes() {
            self.list_charge.set(len);
        }
    }

    /// Takes a record that is not found any more off its segment's account.
    pub(super) fn forget(&mut self, slot: Slot) {
        self.segments.take_live(slot.segment, length_class::len(slot.class));
    }
}

/// Bits of a record's number that count within its segment.
const LSN_SHIFT: u32 = 20;
// Every record of a segment has a number of its own, and the next segment's are larger.
const _: () = assert!(super::footer::ENTRY_COUNT_MAX < 1 << LSN_SHIFT);

/// Returns the number of the record that is appended next: larger than those of all records of its class.
fn lsn(open: &OpenSegment) -> u64 {
    open.sequence() << LSN_SHIFT | open.entries().len() as u64
}

/// Returns what index and footers keep of a hash.
#[inline]
fn top(hash: u128) -> u64 {
    (hash >> 64) as u64
}

/// Returns the slot for a record; `None` for one that is not found.
fn slot_of(segment: u32, kind: RecordKind, entry: &FooterEntry) -> Option<Slot> {
    let kind = match kind {
        RecordKind::Whole | RecordKind::Slice => SlotKind::Plain,
        RecordKind::Head => SlotKind::Head,
        RecordKind::Marker | RecordKind::Parts => SlotKind::Marker,
        RecordKind::Tombstone => return None,
    };
    Some(Slot { segment, unit: entry.unit, class: entry.class, hits: 0, kind })
}
