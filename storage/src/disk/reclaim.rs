//! How room is made: the segment that is worth least is given up, and what of it is still used is appended anew.
//!
//! ```text
//! Idle ──> Footer ──> Walk ──> Fetch ──> Idle          one victim at a time
//!            └──────> Scan ────────────────^           its footer cannot be read: the index is looked through
//! ```
//!
//! Of the eight oldest sealed segments the one goes whose records have all expired, or else the one with the fewest bytes that are found. But
//! of segments with an order only the oldest: in it nothing can hide anything older, a tombstone neither, so that all it has may be forgotten;
//! what hides it lies in later ones. What was used since it was written is appended again, most used first and up to a quarter of what the
//! segment had: so a byte that is appended costs at most a third of another. The driver asks for the next step, and reads what it asks for. Invariants:
//! a step is bounded; from a victim's first step until the disk knows that it is free, a removal that finds nothing leaves a tombstone
//! nevertheless, because a crash would bring the victim's records back.

use super::footer::{FooterEntry, footer_len, read_footer, read_trailer};
use super::format::{BLOCK_LEN, Class, UNIT_LEN};
use super::index::HITS_MAX;
use super::length_class;
use super::record::{Place, RecordKind, relocate, scan_record};
use super::recovery::ReadFailed;
use super::segments::Role;
use super::volume::{ERRORS_MAX, Refused, Volume};

/// Segments that are kept free ahead of what is appended.
const CLEAN_SEGMENTS: u32 = 2;

/// Sealed segments among which a victim is sought, the oldest.
const CANDIDATES: usize = 8;

/// Records of a footer that are looked up in one step.
const WALKED_PER_STEP: usize = 1000;

/// Buckets of the index that are looked through in one step.
const SCANNED_PER_STEP: u64 = 4096;

/// Bytes that one read brings and one step appends, unless a record is longer.
const WINDOW_LEN: u64 = 256 * 1024;

/// One part in this many of a segment's bytes is appended anew at most.
const REINSERTED_SHARE: u64 = 4;

/// What reclaim does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// Enough segments are free.
    Idle,
    /// It goes on when something was written, or sealed, or read, or tried.
    Wait,
    /// A step was done; the next may follow at once.
    Again,
    /// These bytes are to be read and handed to [`Volume::reclaimed`].
    Read {
        /// Where in the file they begin, on a block.
        file_offset: u64,
        /// Whole blocks, at most [`READ_LEN_MAX`](super::format::READ_LEN_MAX).
        len: usize,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    Footer,
    Walk,
    Fetch,
    /// From this bucket on.
    Scan(u64),
}

/// The reclaim of one segment.
#[derive(Debug, Default)]
pub(super) struct Reclaimer {
    stage: Stage,
    segment: u32,
    /// What its footer lists, then what of it may be kept.
    entries: Vec<FooterEntry>,
    /// Entries before this one are done.
    at: usize,
    /// Entries that are used, and how much: the front part of `entries` is reused for them.
    used_count: usize,
    /// Bytes of used records, then of those that may be appended anew, by their hits.
    used_len: [u64; HITS_MAX as usize + 1],
    /// The entries that the read under way brings end here.
    window_end: usize,
    /// An append was refused until something is written.
    is_stuck: bool,
}

impl Reclaimer {
    /// Tells whether a segment is being reclaimed.
    pub(super) fn is_under_way(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// Returns the bytes of its lists.
    pub(super) fn memory(&self) -> u64 {
        (self.entries.capacity() * size_of::<FooterEntry>()) as u64
    }
}

impl Volume {
    /// Does the next step of making room, or says what to read for it; a record with fewer than `least_hits` uses is not kept.
    pub fn next_reclaim(&mut self, now: u32, least_hits: u8) -> Reclaim {
        self.now = self.now.max(now);
        let next = match self.reclaim.stage {
            Stage::Idle if !self.is_recovered() => Reclaim::Idle,
            Stage::Idle => self.choose_victim(),
            Stage::Footer => self.footer_read(),
            Stage::Walk => self.walk(least_hits),
            Stage::Fetch => self.fetch(),
            Stage::Scan(from) => self.scan(from),
        };
        self.charge_lists();
        next
    }

    /// Takes what the read brought that [`Volume::next_reclaim`] asked for last.
    pub fn reclaimed(&mut self, bytes: Result<&[u8], ReadFailed>) {
        match self.reclaim.stage {
            Stage::Footer => self.take_footer(bytes.unwrap_or_default()),
            Stage::Fetch => self.take_window(bytes.unwrap_or_default()),
            _ => {}
        }
        self.charge_lists();
    }

    /// Tells whether fewer segments are free, or will be soon, than should be.
    pub fn is_short(&self) -> bool {
        self.segments.count(&[Role::Free, Role::Freeing]) < CLEAN_SEGMENTS
    }

    fn choose_victim(&mut self) -> Reclaim {
        // Nobody tells when the last send from a segment ends.
        if self.segments.count(&[Role::Freeing]) > 0 {
            self.segments.settle_all();
        }
        if !self.is_short() {
            return Reclaim::Idle;
        }
        // After a fault that tainted many, one after the other would be reclaimed and all that they have be lost.
        if self.segments.count(&[Role::Free, Role::Freeing]) + self.trials.suspected() >= CLEAN_SEGMENTS {
            return Reclaim::Wait;
        }
        let Some(victim) = self.victim() else { return Reclaim::Wait };
        self.segments.set_role(victim, Role::Victim);
        self.segments.close_gate(victim);
        self.reclaim = Reclaimer { segment: victim, stage: Stage::Footer, ..Reclaimer::default() };
        // One whose footer could not be written still has its list in memory.
        if let Some(at) = self.closing.iter().position(|open| open.segment == victim) {
            self.reclaim.entries = self.closing.remove(at).into_entries(&self.config.pool);
            self.reclaim.stage = Stage::Walk;
            return Reclaim::Again;
        }
        self.footer_read()
    }

    /// Returns the segment that is worth least. One look at each segment, once for each that is reclaimed.
    fn victim(&self) -> Option<u32> {
        let is_over =
            |number: u32| self.closing.iter().any(|open| open.segment == number && open.is_without_footer());
        let mut oldest_in_order = u64::MAX;
        // The oldest, by sequence.
        let mut oldest = [(u64::MAX, 0); CANDIDATES];
        for (number, segment) in self.segments.iter() {
            let (role, sequence) = (segment.role(), segment.entry.sequence);
            let is_used = matches!(role, Role::Open | Role::Closing | Role::Sealed);
            if is_used && segment.entry.class == Class::Records {
                oldest_in_order = oldest_in_order.min(sequence);
            }
            let is_older = sequence < oldest[CANDIDATES - 1].0;
            if is_older && (role == Role::Sealed || role != Role::Free && is_over(number)) {
                let place = oldest.partition_point(|(other, _)| *other < sequence);
                oldest.copy_within(place..CANDIDATES - 1, place + 1);
                oldest[place] = (sequence, number);
            }
        }
        let candidates = oldest.into_iter().filter(|(sequence, _)| *sequence < u64::MAX);
        candidates
            .map(|(_, number)| (number, self.segments.at(number)))
            .filter(|(_, segment)| {
                segment.entry.class == Class::Slices || segment.entry.sequence == oldest_in_order
            })
            .min_by_key(|(_, segment)| {
                (segment.entry.expires >= self.now, segment.live_len(), segment.entry.sequence)
            })
            .map(|(number, _)| number)
    }

    fn footer_read(&self) -> Reclaim {
        let (geometry, segment) = (&self.config.geometry, self.reclaim.segment);
        let len = footer_len(self.segments.at(segment).entry.records);
        let file_offset = geometry.segment_offset(segment) + geometry.segment_len() - len;
        Reclaim::Read { file_offset, len: len as usize }
    }

    fn take_footer(&mut self, bytes: &[u8]) {
        let sequence = self.segments.at(self.reclaim.segment).entry.sequence;
        let store = self.config.store;
        let entries = read_trailer(bytes, store, sequence)
            .and_then(|trailer| read_footer(bytes, &trailer, store))
            .map(|entries| entries.iter().collect());
        match entries {
            Some(entries) => {
                self.reclaim.entries = entries;
                self.reclaim.stage = Stage::Walk;
            }
            None => {
                self.note_error(self.reclaim.segment);
                self.reclaim.stage = Stage::Scan(0);
            }
        }
    }

    /// Frees the slots of records that nobody used, and gathers the others.
    fn walk(&mut self, least_hits: u8) -> Reclaim {
        let end = (self.reclaim.at + WALKED_PER_STEP).min(self.reclaim.entries.len());
        for at in self.reclaim.at..end {
            let entry = self.reclaim.entries[at];
            let Some(slot) = self.index.find_at(entry.hash, self.reclaim.segment, entry.unit) else {
                continue;
            };
            if slot.hits >= least_hits && entry.expires > self.now {
                let (count, hits) = (self.reclaim.used_count, slot.hits as usize);
                self.reclaim.entries[count] = entry;
                self.reclaim.used_count += 1;
                self.reclaim.used_len[hits] += length_class::len(entry.class);
            } else {
                self.clear(&entry);
            }
        }
        self.reclaim.at = end;
        if end == self.reclaim.entries.len() {
            self.share_out();
        }
        Reclaim::Again
    }

    /// Decides how many bytes of each number of hits are kept: the most used first.
    fn share_out(&mut self) {
        let reclaim = &mut self.reclaim;
        let last = reclaim.entries.last().map_or(0, |last| last.offset() + length_class::len(last.class));
        reclaim.entries.truncate(reclaim.used_count);
        let mut left = last / REINSERTED_SHARE;
        for len in reclaim.used_len.iter_mut().rev() {
            *len = (*len).min(left);
            left -= *len;
        }
        reclaim.at = 0;
        reclaim.stage = Stage::Fetch;
    }

    /// Asks for the next records that are kept; ends with the last.
    fn fetch(&mut self) -> Reclaim {
        if std::mem::take(&mut self.reclaim.is_stuck) {
            return Reclaim::Wait;
        }
        let segment = self.reclaim.segment;
        for _ in 0..WALKED_PER_STEP {
            let Some(first) = self.reclaim.entries.get(self.reclaim.at).copied() else {
                self.end();
                return Reclaim::Again;
            };
            if !self.is_kept(&first) {
                self.reclaim.at += 1;
                self.clear(&first);
                continue;
            }
            let geometry = &self.config.geometry;
            let block = |offset: u64| offset / BLOCK_LEN * BLOCK_LEN;
            let end = |entry: &FooterEntry| {
                (entry.offset() + length_class::len(entry.class)).next_multiple_of(BLOCK_LEN)
            };
            let start = block(first.offset());
            let others = self.reclaim.entries[self.reclaim.at + 1..].iter();
            let near =
                others.take_while(|entry| end(entry) <= start + WINDOW_LEN).take(WALKED_PER_STEP).count();
            self.reclaim.window_end = self.reclaim.at + 1 + near;
            let last = &self.reclaim.entries[self.reclaim.window_end - 1];
            let len = end(last).min(geometry.segment_len()) - start;
            return Reclaim::Read {
                file_offset: geometry.segment_offset(segment) + start,
                len: len as usize,
            };
        }
        Reclaim::Again
    }

    /// Appends what of a window is kept; what cannot be read, or has no room, is given up.
    fn take_window(&mut self, bytes: &[u8]) {
        let Some(first) = self.reclaim.entries.get(self.reclaim.at) else { return };
        let start = first.offset() / BLOCK_LEN * BLOCK_LEN;
        if bytes.is_empty() {
            self.note_error(self.reclaim.segment);
        }
        while self.reclaim.at < self.reclaim.window_end {
            let entry = self.reclaim.entries[self.reclaim.at];
            let record = bytes.get((entry.offset() - start) as usize..).unwrap_or_default();
            if self.is_kept(&entry) {
                match self.reinsert(&entry, record) {
                    Ok(()) => {}
                    // The rest is read again when there is memory.
                    Err(Refused::NoMemory) => {
                        self.reclaim.is_stuck = true;
                        return;
                    }
                    Err(_) => self.clear(&entry),
                }
            } else {
                self.clear(&entry);
            }
            self.reclaim.at += 1;
        }
    }

    /// Tells whether a record is still found here, and within what is kept of its hits.
    fn is_kept(&self, entry: &FooterEntry) -> bool {
        let slot = self.index.find_at(entry.hash, self.reclaim.segment, entry.unit);
        slot.is_some_and(|slot| self.reclaim.used_len[slot.hits as usize] >= length_class::len(entry.class))
    }

    /// Appends the copy of a record, which takes the place of the one in the victim.
    fn reinsert(&mut self, entry: &FooterEntry, bytes: &[u8]) -> Result<(), Refused> {
        let store = self.config.store;
        let from = Place { store, sequence: self.segments.at(self.reclaim.segment).entry.sequence };
        let Ok(record) = scan_record(bytes, &from) else { return Err(Refused::NotReady) };
        let front = record.front;
        let (kind, len) = (front.kind(), front.record_len());
        if front.hash != entry.hash || kind == RecordKind::Tombstone {
            return Err(Refused::NotReady);
        }
        let hits = self.index.find(entry.hash).map_or(0, |slot| slot.hits as usize);
        let (segment, unit) = self.append_bytes(kind.class(), len, |out, to, _| {
            out.copy_from_slice(&bytes[..len as usize]);
            // It verified just now, and the copy is the same.
            relocate(out, &from, to).expect("a record that verified is a record");
        })?;
        debug_assert!((u64::from(unit) * UNIT_LEN).is_multiple_of(kind.alignment()));
        self.list(segment, kind, FooterEntry { unit, ..*entry }, front.lsn, front.invalidation);
        let kept = &mut self.reclaim.used_len[hits];
        *kept = kept.saturating_sub(length_class::len(entry.class));
        self.stats.reinserted_bytes += len;
        Ok(())
    }

    /// Takes every slot out that leads into a victim whose footer cannot be read.
    fn scan(&mut self, from: u64) -> Reclaim {
        let segment = self.reclaim.segment;
        match self.index.clear_segment(segment, from, SCANNED_PER_STEP) {
            Some(next) => self.reclaim.stage = Stage::Scan(next),
            None => self.end(),
        }
        Reclaim::Again
    }

    /// Frees the slot of a record if it still leads into the victim.
    fn clear(&mut self, entry: &FooterEntry) {
        if let Some(slot) = self.index.remove_at(entry.hash, self.reclaim.segment, entry.unit) {
            self.forget(slot);
        }
    }

    /// Gives the victim up: nothing in it counts.
    fn end(&mut self) {
        let segment = self.reclaim.segment;
        self.reclaim = Reclaimer::default();
        self.segments.clear_live(segment);
        self.stats.reclaimed_segments += 1;
        if self.segments.at(segment).entry.errors >= ERRORS_MAX {
            self.suspect(segment);
        } else {
            self.free(segment);
        }
    }
}
