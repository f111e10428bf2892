//! A segment that is being written: its records on their way from memory to the disk, front to back.
//!
//! ```text
//! segment  | header | record | record | rec.ord | ...        | footer |
//! chunks   [ in flight       )[ closed       )[ filling  ->
//!          durable ^          ^ on a block              ^ position
//! ```
//!
//! Records are copied into *chunks*, each of which is written once: closed at the last whole block when enough is gathered, the rest carried
//! over to the next chunk; or up to its last byte, padded, when what it has must not wait. Then the next chunk begins with the same block
//! again, and is written only after the first write of it has ended. A chunk's bytes can be read until the disk has all records that begin in it.
//! The volume feeds it and asks for the next write. Invariants: `durable` has no gap before it; bytes that were handed to a write never change;
//! records end before the footer begins, and what is between is never looked at.

use std::collections::VecDeque;
use std::sync::Arc;

use super::footer::{ENTRY_COUNT_MAX, FooterEntry, Trailer, footer_len, write_footer};
use super::format::{BLOCK_LEN, Class, RECORD_LEN_MAX, SegmentHeader, StoreId, UNIT_LEN};
use super::record::RecordKind;
use crate::budget::{Budget, Charge, Purpose};
use crate::mapping::aligned::{AlignedBuf, AlignedPool, SharedBuf};

/// Bytes of a chunk: the longest record, and what was carried over.
pub(super) const CHUNK_LEN: usize = (RECORD_LEN_MAX + BLOCK_LEN) as usize;

/// Bytes for which a write is worth it.
const WRITE_LEN_MIN: u64 = 256 * 1024;

/// Most chunks of a segment that wait for their writes.
const CHUNK_COUNT_MAX: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    Filling,
    Closed,
    InFlight,
    Written,
}

#[derive(Debug)]
struct Chunk {
    /// Where in the segment it begins, on a block.
    start: u64,
    /// Where its records end.
    end: u64,
    /// Where its write ends, on a block; not before it is closed.
    write_end: u64,
    state: ChunkState,
    buffer: SharedBuf,
    /// The buffer goes back to the pool.
    is_pooled: bool,
}

/// How far the footer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Footer {
    /// More records may come.
    NotYet,
    Wanted,
    InFlight,
    /// It is under way, and no longer what it should be.
    Outdated,
    Written,
    /// It could not be written, or must not be; the entries stay in memory.
    Failed,
}

/// A part of a segment to be written.
#[derive(Debug)]
pub(super) struct SegmentWrite {
    /// Where in the segment.
    pub(super) start: u64,
    pub(super) len: usize,
    pub(super) buffer: SharedBuf,
    pub(super) is_footer: bool,
}

/// A segment that is being written.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) segment: u32,
    len: u64,
    trailer: Trailer,
    store: StoreId,
    /// Where the next record goes.
    position: u64,
    /// Up to here all is in chunks that take no more.
    covered: u64,
    /// Up to here the disk has all.
    durable: u64,
    /// What lies between `covered`, rounded down to a block, and `position` while no chunk is filling.
    tail: Box<[u8; BLOCK_LEN as usize]>,
    chunks: VecDeque<Chunk>,
    entries: Vec<FooterEntry>,
    charge: Charge,
    is_urgent: bool,
    footer: Footer,
}

impl OpenSegment {
    /// Begins segment `segment` of `len` bytes; `None` when the budget refuses.
    pub(super) fn new(
        segment: u32,
        len: u64,
        header: SegmentHeader,
        store: StoreId,
        budget: &Arc<Budget>,
    ) -> Option<OpenSegment> {
        let trailer = Trailer {
            sequence: header.sequence,
            class: header.class,
            count: 0,
            oldest: u64::MAX,
            newest: 0,
            last_lsn: 0,
            created: header.created,
            expires: 0,
        };
        let mut open = Self::of(segment, len, trailer, store, budget)?;
        *open.tail = header.encode(store, segment);
        open.position = BLOCK_LEN;
        Some(open)
    }

    /// Takes up a segment that has records but no footer yet.
    pub(super) fn unsealed(
        segment: u32,
        len: u64,
        trailer: Trailer,
        records: &[FooterEntry],
        store: StoreId,
        budget: &Arc<Budget>,
    ) -> Option<OpenSegment> {
        let mut open = Self::of(segment, len, trailer, store, budget)?;
        open.entries = records.to_vec();
        open.charge_entries();
        open.footer = Footer::Wanted;
        Some(open)
    }

    fn of(
        segment: u32,
        len: u64,
        trailer: Trailer,
        store: StoreId,
        budget: &Arc<Budget>,
    ) -> Option<OpenSegment> {
        Some(OpenSegment {
            segment,
            len,
            trailer,
            store,
            position: 0,
            covered: 0,
            durable: 0,
            tail: Box::new([0; BLOCK_LEN as usize]),
            chunks: VecDeque::new(),
            entries: Vec::new(),
            charge: budget.reserve(Purpose::Disk, BLOCK_LEN)?,
            is_urgent: false,
            footer: Footer::NotYet,
        })
    }

    pub(super) fn class(&self) -> Class {
        self.trailer.class
    }

    /// Where the next record goes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Up to where the disk has all.
    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    pub(super) fn sequence(&self) -> u64 {
        self.trailer.sequence
    }

    /// Returns what its footer would say of all records together.
    pub(super) fn trailer(&self) -> Trailer {
        Trailer { count: self.entries.len() as u32, ..self.trailer }
    }

    pub(super) fn entries(&self) -> &[FooterEntry] {
        &self.entries
    }

    /// Tells whether it has records that are not in a write yet, or a footer that is not.
    pub(super) fn has_unwritten(&self) -> bool {
        self.footer == Footer::Wanted || (self.position > self.covered && !self.entries.is_empty())
    }

    /// Tells whether one more record of `len` bytes fits before the footer.
    pub(super) fn has_room(&self, len: u64) -> bool {
        let count = self.entries.len() as u32 + 1;
        let end = (self.position + len).next_multiple_of(BLOCK_LEN);
        count <= ENTRY_COUNT_MAX && end + footer_len(count) <= self.len
    }

    /// Returns the longest record that an empty segment of `segment_len` bytes takes.
    pub(super) fn record_len_max(segment_len: u64) -> u64 {
        (segment_len - BLOCK_LEN - footer_len(1)).min(RECORD_LEN_MAX)
    }

    /// Appends a record of `len` bytes that `write` puts down; `None`, and nothing happened, without memory for it.
    ///
    /// The caller asked [`OpenSegment::has_room`]. Returns where the record lies, in units.
    pub(super) fn append(
        &mut self,
        len: u64,
        pool: &AlignedPool,
        write: impl FnOnce(&mut [u8]),
    ) -> Option<u32> {
        debug_assert!(self.has_room(len) && len.is_multiple_of(UNIT_LEN) && self.footer == Footer::NotYet);
        let fits = |chunk: &Chunk| self.position - chunk.start + len <= CHUNK_LEN as u64;
        match self.filling() {
            Some(chunk) if fits(chunk) => {}
            Some(_) => {
                self.close(self.position / BLOCK_LEN * BLOCK_LEN);
                self.begin_chunk(pool)?;
            }
            None => self.begin_chunk(pool)?,
        }
        let position = self.position;
        let chunk = self.chunks.back_mut().expect("a chunk is filling");
        let from = (position - chunk.start) as usize;
        let bytes = chunk.buffer.get_mut().expect("nobody else has a chunk that is filling");
        write(&mut bytes[from..from + len as usize]);
        self.position += len;
        chunk.end = self.position;
        Some((position / UNIT_LEN) as u32)
    }

    /// Lists the record that was appended last.
    pub(super) fn list(&mut self, entry: FooterEntry, lsn: u64, invalidation: u64) {
        self.entries.push(entry);
        self.charge_entries();
        let trailer = &mut self.trailer;
        // No rule has anything to say about a tombstone.
        if entry.kind() != Some(RecordKind::Tombstone) {
            trailer.oldest = trailer.oldest.min(invalidation);
        }
        trailer.newest = trailer.newest.max(invalidation);
        trailer.expires = trailer.expires.max(entry.expires);
        trailer.last_lsn = trailer.last_lsn.max(lsn);
    }

    /// Has what was appended so far written soon, be it little.
    pub(super) fn hurry(&mut self) {
        self.is_urgent = true;
    }

    /// Takes no more records: what is there is written, and the footer.
    pub(super) fn seal(&mut self) {
        if self.footer == Footer::NotYet {
            self.footer = Footer::Wanted;
            self.is_urgent = true;
        }
    }

    /// Tells whether all of it is on the disk, the footer too.
    pub(super) fn is_finished(&self) -> bool {
        self.footer == Footer::Written && self.durable >= self.position
    }

    /// Gives the footer up before it is written.
    pub(super) fn leave_without_footer(&mut self) {
        self.footer = Footer::Failed;
    }

    /// Tells whether the footer could not be written; it is not tried again.
    pub(super) fn is_without_footer(&self) -> bool {
        self.footer == Footer::Failed
    }

    /// Ends with what its footer would list.
    pub(super) fn into_entries(mut self, pool: &AlignedPool) -> Vec<FooterEntry> {
        self.release(pool);
        self.entries
    }

    /// Returns the bytes from an offset of the segment on, if they are still in memory.
    pub(super) fn buffered(&self, offset: u64) -> Option<&[u8]> {
        let chunk = self.chunks.iter().find(|chunk| (chunk.start..chunk.end).contains(&offset))?;
        Some(&chunk.buffer.as_ref()[(offset - chunk.start) as usize..(chunk.end - chunk.start) as usize])
    }

    /// Returns the next write, and counts it as under way; `force` if little is worth it too.
    pub(super) fn next_write(&mut self, force: bool, budget: &Arc<Budget>) -> Option<SegmentWrite> {
        if let Some(write) = self.next_chunk(force || self.is_urgent, budget) {
            return Some(write);
        }
        // A footer is believed, so the disk has to have what it lists.
        if self.footer != Footer::Wanted || self.durable < self.position {
            return None;
        }
        let trailer = self.trailer();
        let len = footer_len(trailer.count);
        let mut buffer = AlignedBuf::new(len as usize, budget)?;
        let mut bytes = Vec::with_capacity(len as usize);
        write_footer(&self.entries, &trailer, self.store, &mut bytes);
        buffer.as_mut()[..bytes.len()].copy_from_slice(&bytes);
        self.footer = Footer::InFlight;
        let buffer = SharedBuf::new(buffer);
        Some(SegmentWrite { start: self.len - len, len: len as usize, buffer, is_footer: true })
    }

    fn next_chunk(&mut self, force: bool, budget: &Arc<Budget>) -> Option<SegmentWrite> {
        // It takes no record, so it has to be the one that is closed below.
        let is_next = self.chunks.back().is_none_or(|last| !Self::is_waiting(last));
        if is_next && self.covered < self.position && force {
            self.begin_last_block(budget)?;
        }
        let number = self.chunks.iter().position(Self::is_waiting)?;
        let before = number.checked_sub(1).map(|before| &self.chunks[before]);
        // One block is in one write at a time, or the older bytes might come last.
        let start = self.chunks[number].start;
        if before.is_some_and(|before| before.state != ChunkState::Written && before.write_end > start) {
            return None;
        }
        if self.chunks[number].state == ChunkState::Filling {
            let whole = self.position / BLOCK_LEN * BLOCK_LEN;
            if force && self.position > self.covered {
                self.is_urgent = false;
                self.close(self.position);
            } else if whole - start >= WRITE_LEN_MIN {
                self.close(whole);
            } else {
                return None;
            }
        }
        let chunk = &mut self.chunks[number];
        chunk.state = ChunkState::InFlight;
        let len = (chunk.write_end - chunk.start) as usize;
        Some(SegmentWrite { start, len, buffer: chunk.buffer.clone(), is_footer: false })
    }

    /// Notes that the chunk which begins at `start` was written, and returns up to where the disk has all.
    pub(super) fn chunk_written(&mut self, start: u64, pool: &AlignedPool) {
        let in_flight = |chunk: &&mut Chunk| chunk.start == start && chunk.state == ChunkState::InFlight;
        let Some(chunk) = self.chunks.iter_mut().find(in_flight) else { return };
        chunk.state = ChunkState::Written;
        for chunk in self.chunks.iter().take_while(|chunk| chunk.state == ChunkState::Written) {
            self.durable = self.durable.max(chunk.end.min(chunk.write_end));
        }
        while self
            .chunks
            .front()
            .is_some_and(|chunk| chunk.state == ChunkState::Written && chunk.end <= self.durable)
        {
            self.release_first(pool);
        }
    }

    /// Notes how the footer's write ended.
    pub(super) fn footer_written(&mut self, is_written: bool) {
        self.footer = match self.footer {
            Footer::Outdated => Footer::Wanted,
            _ if is_written => Footer::Written,
            _ => Footer::Failed,
        };
    }

    /// Gives up what the disk does not have, after a write that failed, and returns the records that it takes with it.
    ///
    /// The footer is still wanted: it keeps what was written before from being read past its end.
    pub(super) fn fail(&mut self, pool: &AlignedPool) -> Vec<FooterEntry> {
        let kept = self
            .entries
            .iter()
            .enumerate()
            .take_while(|(number, _)| self.record_end(*number) <= self.durable)
            .count();
        self.position = kept.checked_sub(1).map_or(BLOCK_LEN, |last| self.record_end(last));
        (self.covered, self.durable) = (self.position, self.position);
        self.release(pool);
        self.footer = match self.footer {
            Footer::InFlight | Footer::Outdated => Footer::Outdated,
            Footer::Failed => Footer::Failed,
            _ => Footer::Wanted,
        };
        self.entries.split_off(kept)
    }

    fn record_end(&self, number: usize) -> u64 {
        self.entries.get(number + 1).map_or(self.position, FooterEntry::offset)
    }

    /// Tells whether a chunk was not handed to a write yet.
    fn is_waiting(chunk: &Chunk) -> bool {
        matches!(chunk.state, ChunkState::Filling | ChunkState::Closed)
    }

    fn filling(&self) -> Option<&Chunk> {
        self.chunks.back().filter(|chunk| chunk.state == ChunkState::Filling)
    }

    fn begin_chunk(&mut self, pool: &AlignedPool) -> Option<()> {
        if self.chunks.len() >= CHUNK_COUNT_MAX {
            return None;
        }
        self.fill(pool.take()?, true);
        Some(())
    }

    /// Begins a chunk of one block for what is left before the next one, which is closed in the same call.
    ///
    /// Not with a buffer of the pool's: those of chunks whose last record ends in this block are free only once it is written, so that all of
    /// them could be waiting for one more.
    fn begin_last_block(&mut self, budget: &Arc<Budget>) -> Option<()> {
        let start = self.uncovered_block();
        if self.chunks.back().is_some_and(|last| last.state != ChunkState::Written && last.write_end > start)
        {
            return None;
        }
        self.fill(AlignedBuf::new(BLOCK_LEN as usize, budget)?, false);
        Some(())
    }

    /// Begins a chunk in this buffer with what was carried over.
    fn fill(&mut self, mut buffer: AlignedBuf, is_pooled: bool) {
        let start = self.uncovered_block();
        let carried = (self.position - start) as usize;
        buffer.as_mut()[..carried].copy_from_slice(&self.tail[..carried]);
        self.chunks.push_back(Chunk {
            start,
            end: self.position,
            write_end: start,
            state: ChunkState::Filling,
            buffer: SharedBuf::new(buffer),
            is_pooled,
        });
    }

    /// Where the block begins from which on not all is in chunks that take no more.
    fn uncovered_block(&self) -> u64 {
        self.covered / BLOCK_LEN * BLOCK_LEN
    }

    /// Ends the chunk that is filling: at a block, or where the records end, padded to a block.
    fn close(&mut self, end: u64) {
        let position = self.position;
        let chunk = self.chunks.back_mut().expect("a chunk is filling");
        let write_end = end.next_multiple_of(BLOCK_LEN);
        let filled = (position - chunk.start) as usize;
        let last_block = (position / BLOCK_LEN * BLOCK_LEN - chunk.start) as usize;
        let bytes = chunk.buffer.get_mut().expect("nobody else has a chunk that is filling");
        self.tail[..filled - last_block].copy_from_slice(&bytes[last_block..filled]);
        let write_len = (write_end - chunk.start) as usize;
        if write_len > filled {
            bytes[filled..write_len].fill(0);
        }
        (chunk.state, chunk.write_end) = (ChunkState::Closed, write_end);
        self.covered = end;
    }

    fn release_first(&mut self, pool: &AlignedPool) {
        let Some(chunk) = self.chunks.pop_front() else { return };
        match chunk.buffer.into_inner() {
            _ if !chunk.is_pooled => {}
            Some(buffer) => pool.put(buffer),
            None => pool.lost(),
        }
    }

    fn charge_entries(&mut self) {
        let len = BLOCK_LEN + (self.entries.capacity() * size_of::<FooterEntry>()) as u64;
        if len != self.charge.bytes() {
            self.charge.set(len);
        }
    }

    /// Gives its buffers back.
    pub(super) fn release(&mut self, pool: &AlignedPool) {
        while !self.chunks.is_empty() {
            self.release_first(pool);
        }
    }
}
