//! Decides whether the writer of a passage may go on, and who tells it when it may again.
//!
//! Fed by the writer's appends and the readers' advances; both sides ask. All of it are positions and flags: no memory is published
//! through them, chunks come by their own links. Invariants: positions never fall; a writer that waits is told, because both sides
//! store first, then fence, then look:
//!
//! ```text
//!   reader                              writer, about to wait
//!   fastest = max(fastest, at)          wanted = true
//!   fence(SeqCst)                       fence(SeqCst)
//!   if wanted and room { tell }         if room { wanted = false; go on }
//! ```

use crate::atomics::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// The distance between a writer and the fastest of its readers.
#[derive(Debug)]
pub(super) struct Room {
    lead_len: u64,
    written: AtomicU64,
    fastest: AtomicU64,
    readers: AtomicUsize,
    /// The writer waits until a reader takes this.
    wanted: AtomicBool,
}

impl Room {
    pub(super) fn new(start: u64, lead_len: u64) -> Room {
        Room {
            lead_len,
            written: AtomicU64::new(start),
            fastest: AtomicU64::new(start),
            readers: AtomicUsize::new(0),
            wanted: AtomicBool::new(false),
        }
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(super) fn fastest(&self) -> u64 {
        self.fastest.load(Ordering::Relaxed)
    }

    pub(super) fn readers(&self) -> usize {
        self.readers.load(Ordering::Relaxed)
    }

    pub(super) fn wrote(&self, end: u64) {
        self.written.store(end, Ordering::Relaxed);
    }

    pub(super) fn advance(&self, at: u64) {
        // Most advances of the slower readers change nothing, and then need not take the line from the others.
        if self.fastest() < at {
            self.fastest.fetch_max(at, Ordering::Relaxed);
        }
    }

    pub(super) fn join(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave(&self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn has_room(&self) -> bool {
        self.lead() < self.lead_len
    }

    /// Asks to be told, unless there is room or nobody who would tell.
    pub(super) fn must_wait(&self) -> bool {
        // Swaps, though stores would do: the model checker orders changes for certain only if each has read the one before.
        self.wanted.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let waits = !self.has_room() && self.readers() > 0;
        if !waits {
            self.wanted.swap(false, Ordering::Relaxed);
        }
        waits
    }

    /// Takes the writer's wish to be told. Not before half of the lead is free, so that it is not woken for every chunk: the
    /// fastest reader can always go on until there is that much.
    pub(super) fn take_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        self.wanted.load(Ordering::Relaxed)
            && (self.lead() <= self.lead_len / 2 || self.readers() == 0)
            && self.wanted.swap(false, Ordering::Relaxed)
    }

    /// How far the writer is ahead. A reader may see an old `written` below what it has read itself.
    fn lead(&self) -> u64 {
        self.written().saturating_sub(self.fastest())
    }
}
