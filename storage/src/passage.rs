//! A stream that is passed through and not stored: one writer, several viewers on any core, and a bounded window of memory.
//!
//! The owner's fetch makes a passage for a response that it does not store, or that outgrew what may be stored, and appends what the
//! origin sends. Each viewer's core reads with a [`PassageReader`] of its own. Nobody waits here: who wakes whom is the shard's business,
//! and [`PassageWriter::must_wait`] with [`Passage::take_room_wanted`] tell when.
//!
//! ```text
//!     let go          kept for slower readers          kept for the fastest      not read from the origin yet
//!  ───────────────┼──────── window_len ────────┼──── at most PASSAGE_LEAD_LEN ──┼─────────────────────────
//!                                     the fastest reader                     written
//! ```
//!
//! Chunks are linked forward, and the links are weak: only the writer keeps chunks, and a reader the one that it is sending. So
//! nobody takes a lock, a slow reader cannot pin more than its one chunk, and a chunk that was let go cannot hold those behind it.
//!
//! What is written to disk meanwhile may run ahead of all readers: then chunks are let go whoever has sent them ([`PassageWriter::let_go_before`]).
//!
//! Invariants: a reader gets every byte from its first on without a gap, until the stream's end or until it is told at which byte it was
//! lost; the fastest reader is not lost, but by `let_go_before`, and gets on however short memory is; what is alive is at most `window_len + PASSAGE_LEAD_LEN` and one chunk more, and one for each
//! reader; each chunk is charged as long as somebody holds it.

mod room;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock, Weak};

use crate::atomics::{AtomicU8, Ordering};
use crate::budget::{Budget, Charge, Purpose};
use crate::limits::{PASSAGE_CHUNK_LEN_MAX, PASSAGE_LEAD_LEN};
use room::Room;

/// Makes a passage of the bytes from `start` on, a position in the representation, and its only writer.
///
/// A reader that is `window_len` bytes or more behind the fastest one may be lost.
pub fn passage(budget: &Arc<Budget>, window_len: u64, start: u64) -> (PassageWriter, Arc<Passage>) {
    let passage = Arc::new(Passage {
        start,
        room: Room::new(start, PASSAGE_LEAD_LEN),
        first: OnceLock::new(),
        end: AtomicU8::new(FLOWING),
        last: OnceLock::new(),
    });
    let writer = PassageWriter {
        passage: Arc::clone(&passage),
        budget: Arc::clone(budget),
        // The chunk that begins where the fastest reader is must stay.
        window_len: window_len.max(1),
        kept: VecDeque::new(),
    };
    (writer, passage)
}

/// What the writer and the readers of one stream share.
#[derive(Debug)]
pub struct Passage {
    start: u64,
    room: Room,
    /// Where readers begin; set by the first append.
    first: OnceLock<Weak<Chunk>>,
    /// `FLOWING` until the writer is gone. Stored with Release after the last link.
    end: AtomicU8,
    /// What the writer kept when it ended, for the readers that are not there yet.
    last: OnceLock<VecDeque<Arc<Chunk>>>,
}

const FLOWING: u8 = 0;
const COMPLETE: u8 = 1;
const FAILED: u8 = 2;

impl Passage {
    /// Returns the position of the first byte.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns how many readers there are. Nobody needs a passage that lost its last one.
    pub fn readers(&self) -> usize {
        self.room.readers()
    }

    /// Whether the writer's core must be told: it waits, and there is room again or nobody left to read.
    ///
    /// Asked by a reader's core after each [`PassageReader::step`] and after a reader was dropped. One caller gets `true` for each
    /// [`PassageWriter::must_wait`].
    pub fn take_room_wanted(&self) -> bool {
        self.room.take_wanted()
    }
}

/// A piece of the stream as the origin's socket gave it.
#[derive(Debug)]
pub struct Chunk {
    start: u64,
    bytes: Vec<u8>,
    /// The chunk behind this one. Weak: see the top of the file.
    next: OnceLock<Weak<Chunk>>,
    _charge: Charge,
}

impl Chunk {
    /// Returns the position of the first byte.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns the position behind the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Returns the bytes from position `at` on; none if it lies outside.
    pub fn piece(&self, at: u64) -> &[u8] {
        let offset = at.checked_sub(self.start).and_then(|offset| usize::try_from(offset).ok());
        offset.and_then(|offset| self.bytes.get(offset..)).unwrap_or_default()
    }
}

/// The one that appends; it lives on the core that fetches.
#[derive(Debug)]
pub struct PassageWriter {
    passage: Arc<Passage>,
    budget: Arc<Budget>,
    window_len: u64,
    /// The chunks that readers may still get, oldest first.
    kept: VecDeque<Arc<Chunk>>,
}

impl PassageWriter {
    /// Returns what readers are made of.
    pub fn passage(&self) -> &Arc<Passage> {
        &self.passage
    }

    /// Returns the position behind the last byte that was appended.
    pub fn written(&self) -> u64 {
        self.passage.room.written()
    }

    /// Returns how many readers there are.
    pub fn readers(&self) -> usize {
        self.passage.readers()
    }

    /// Returns the newest chunk.
    pub fn newest(&self) -> Option<&Arc<Chunk>> {
        self.kept.back()
    }

    /// Whether the fastest reader has taken all that was appended.
    pub fn is_caught_up(&self) -> bool {
        self.passage.room.fastest() >= self.written()
    }

    /// Whether a reader that begins now finds the first byte.
    pub fn has_beginning(&self) -> bool {
        self.kept.front().is_none_or(|first| first.start == self.passage.start)
    }

    /// Lets go of the chunks that end before a position, whoever has not sent them: such readers are lost. The newest is kept.
    pub fn let_go_before(&mut self, at: u64) {
        while self.kept.len() > 1 && self.kept[0].end() <= at {
            self.kept.pop_front();
        }
    }

    /// Whether the origin may be read on: the fastest reader is less than `PASSAGE_LEAD_LEN` behind.
    pub fn has_room(&self) -> bool {
        self.passage.room.has_room()
    }

    /// Whether the writer must wait; then a reader's [`Passage::take_room_wanted`] tells when to look again.
    ///
    /// `false` when there is room after all, or no reader left: then nobody would tell.
    pub fn must_wait(&self) -> bool {
        self.passage.room.must_wait()
    }

    /// Returns the bytes that are charged for a chunk of so much capacity.
    pub fn charged_len(capacity: usize) -> u64 {
        (capacity + size_of::<Chunk>()) as u64
    }

    /// Appends a chunk, at most `PASSAGE_CHUNK_LEN_MAX` bytes, and lets go of what fell out of the window.
    ///
    /// Gives the bytes back when the budget has no room for them, even with all let go that the fastest reader has sent. One chunk and the next
    /// are taken in all the same: what is under way has to get on, and whoever begins a passage asks for so much before.
    pub fn append(&mut self, bytes: Vec<u8>) -> Result<(), Vec<u8>> {
        debug_assert!(bytes.len() <= PASSAGE_CHUNK_LEN_MAX, "the bound on memory counts in chunks");
        if bytes.is_empty() {
            return Ok(());
        }
        self.trim();
        let Some(charge) = self.charge(bytes.capacity()) else { return Err(bytes) };
        let start = self.written();
        let chunk = Arc::new(Chunk { start, bytes, next: OnceLock::new(), _charge: charge });
        let end = chunk.end();
        let link = match self.kept.back() {
            Some(last) => &last.next,
            // The newest chunk is never let go of, so nothing is kept only before the first.
            None => &self.passage.first,
        };
        link.set(Arc::downgrade(&chunk)).expect("only the writer links, and each place once");
        self.kept.push_back(chunk);
        self.passage.room.wrote(end);
        Ok(())
    }

    /// Ends the stream as whole.
    pub fn complete(mut self) {
        self.finish(COMPLETE);
    }

    /// Ends the stream as broken; readers still get what was appended.
    pub fn fail(mut self) {
        self.finish(FAILED);
    }

    /// Lets go of chunks that begin `window_len` or more behind the fastest reader.
    fn trim(&mut self) {
        let fastest = self.passage.room.fastest();
        while self.kept.len() > 1 && fastest.saturating_sub(self.kept[0].start) >= self.window_len {
            self.kept.pop_front();
        }
    }

    /// Charges a chunk; when memory is short the window shrinks first, down to what the fastest reader has not sent.
    fn charge(&mut self, capacity: usize) -> Option<Charge> {
        let len = Self::charged_len(capacity);
        loop {
            if let Some(charge) = self.budget.reserve(Purpose::Fills, len) {
                return Some(charge);
            }
            if self.kept.len() <= 1 {
                let mut charge = self.budget.reserve(Purpose::Fills, 0)?;
                charge.set(len);
                return Some(charge);
            }
            let is_sent = |chunk: &Arc<Chunk>| chunk.end() <= self.passage.room.fastest();
            if !self.kept.front().is_some_and(is_sent) {
                return None;
            }
            self.kept.pop_front();
        }
    }

    fn finish(&mut self, end: u8) {
        self.trim();
        // Before the end is told: whoever sees it finds all that was in the window.
        let first_end = self.passage.last.set(std::mem::take(&mut self.kept));
        debug_assert!(first_end.is_ok(), "a writer ends once");
        self.passage.end.store(end, Ordering::Release);
    }
}

impl Drop for PassageWriter {
    fn drop(&mut self) {
        if self.passage.end.load(Ordering::Relaxed) == FLOWING {
            self.finish(FAILED);
        }
    }
}

/// What a reader finds at its position.
#[derive(Debug)]
pub enum Step {
    /// The chunk that holds byte [`PassageReader::at`]; send it from there on, then ask again.
    Chunk(Arc<Chunk>),
    /// Nothing yet.
    Wait,
    /// The stream is over and was whole.
    End,
    /// The stream broke off here.
    Failed,
    /// The reader was too slow, or came too late: byte `at` is gone.
    Lost {
        /// The first byte that the reader did not get.
        at: u64,
    },
}

/// One viewer's place in the stream.
#[derive(Debug)]
pub struct PassageReader {
    passage: Arc<Passage>,
    at: u64,
    /// The chunk that was handed out last, for its link; or one before `at` that was walked over.
    current: Option<Arc<Chunk>>,
    is_lost: bool,
}

impl PassageReader {
    /// Begins to read at position `from`. Byte `start` can be asked for as long as it is kept, and any later one from there.
    pub fn new(passage: &Arc<Passage>, from: u64) -> PassageReader {
        passage.room.join();
        PassageReader { passage: Arc::clone(passage), at: from, current: None, is_lost: from < passage.start }
    }

    /// Returns what is read.
    pub fn passage(&self) -> &Arc<Passage> {
        &self.passage
    }

    /// Returns the position of the first byte that the last [`Step::Chunk`] is to be sent from; of the next byte after other steps.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Takes the chunk from the last step as sent, and returns what follows it.
    pub fn step(&mut self) -> Step {
        if let Some(sent) = &self.current {
            self.at = self.at.max(sent.end());
            self.passage.room.advance(sent.end());
        }
        while !self.is_lost {
            // The end first: the writer stores it after the last link, so no chunk can follow an end that was seen.
            let end = self.passage.end.load(Ordering::Acquire);
            let link = self.current.as_ref().map_or(&self.passage.first, |chunk| &chunk.next);
            let Some(next) = link.get() else {
                return match end {
                    FLOWING => Step::Wait,
                    COMPLETE => Step::End,
                    _ => Step::Failed,
                };
            };
            let Some(chunk) = next.upgrade() else { break };
            self.current = Some(Arc::clone(&chunk));
            if chunk.end() > self.at {
                return Step::Chunk(chunk);
            }
            // A reader that begins further on walks there; the writer needs to know that it does.
            self.passage.room.advance(chunk.end());
        }
        self.is_lost = true;
        self.current = None;
        Step::Lost { at: self.at }
    }
}

impl Drop for PassageReader {
    fn drop(&mut self) {
        self.passage.room.leave();
    }
}

#[cfg(test)]
mod tests;
