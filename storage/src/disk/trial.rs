//! Whether a segment that was given up can be used again: all of it is written anew and read back, rarely, and must be as it was written.
//!
//! ```text
//! Bad ──(waits)──> written ──> read back ──> as written ──> Freeing ──> Free
//!  ^                   └─ error ─┴─ other bytes, error ─┐
//!  └──────────────── waits twice as long ───────────────┘
//! ```
//!
//! Reclaim and recovery tell of what is bad; the driver asks now and then whether a trial is due, does it piece by piece, and tells how it ended.
//! Invariants: one trial of a volume at a time, and only of a segment that the disk knows to be bad and nobody reads, so that nothing in it counts
//! whenever the process ends; what is written differs for each block and each trial, so that neither an older trial nor a block elsewhere passes for
//! it; and it verifies as nothing of a store.

use super::format::{Geometry, SEGMENT_SHIFTS, SegmentState, TableEntry};
use super::segments::Role;
use super::volume::Volume;

/// Bytes that are written, or read back, at once.
pub const TRIAL_PIECE_LEN: u64 = 256 * 1024;

/// Seconds before a segment is tried for the first time.
const PAUSE_MIN: u32 = 600;

/// The longest pause between two trials of a segment.
const PAUSE_MAX: u32 = 24 * 3600;

/// How a trial ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was read back as it was written.
    Passed,
    /// Something failed, or was other than it was written.
    Failed,
    /// It was not done to its end, for another reason.
    Aborted,
}

/// The trial of one segment, which the driver does.
#[derive(Debug)]
#[must_use = "a trial that is not told of is under way for ever"]
pub struct Trial {
    segment: u32,
    /// Where in the file it begins.
    start: u64,
    len: u64,
    seed: u64,
}

/// A segment that is bad.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    segment: u32,
    /// Not known before somebody who knows the time asks.
    due: Option<u32>,
    pause: u32,
}

/// The trials of a volume.
#[derive(Debug, Default)]
pub(super) struct Trials {
    waiting: Vec<Waiting>,
    is_under_way: bool,
    /// How many there were so far.
    count: u64,
}

impl Trials {
    /// Notes a segment that is given up from now on, or was found so.
    pub(super) fn note(&mut self, segment: u32) {
        if !self.waiting.iter().any(|waiting| waiting.segment == segment) {
            self.waiting.push(Waiting { segment, due: None, pause: PAUSE_MIN });
        }
    }

    /// Returns the bytes of its list.
    pub(super) fn memory(&self) -> u64 {
        (self.waiting.capacity() * size_of::<Waiting>()) as u64
    }
}

impl Trial {
    fn of(segment: u32, geometry: &Geometry, seed: u64) -> Trial {
        Trial { segment, start: geometry.segment_offset(segment), len: geometry.segment_len(), seed }
    }

    /// Returns where in the file its pieces begin, each of [`TRIAL_PIECE_LEN`] bytes: all are written, then all are read.
    pub fn pieces(&self) -> impl Iterator<Item = u64> + use<> {
        (self.start..self.start + self.len).step_by(TRIAL_PIECE_LEN as usize)
    }

    /// Makes the bytes that are written at a place of the file.
    pub fn fill(&self, file_offset: u64, bytes: &mut [u8]) {
        for (number, word) in bytes.chunks_mut(8).enumerate() {
            word.copy_from_slice(&self.word(file_offset, number)[..word.len()]);
        }
    }

    /// Tells whether what was read at a place of the file is what was written there.
    pub fn verify(&self, file_offset: u64, bytes: &[u8]) -> bool {
        bytes
            .chunks(8)
            .enumerate()
            .all(|(number, word)| *word == self.word(file_offset, number)[..word.len()])
    }

    fn word(&self, file_offset: u64, number: usize) -> [u8; 8] {
        let at = file_offset / 8 + number as u64;
        let mixed = (at ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes()
    }
}

impl Volume {
    /// Returns the trial that is due, if any is; it is to be told of by [`Volume::tried`].
    pub fn next_trial(&mut self, now: u32) -> Option<Trial> {
        self.now = self.now.max(now);
        if self.trials.is_under_way || !self.is_recovered() {
            return None;
        }
        let can_be_tried =
            |segment: u32| self.segments.at(segment).role() == Role::Bad && self.segments.is_left(segment);
        let now = self.now;
        for waiting in &mut self.trials.waiting {
            waiting.due.get_or_insert(now.saturating_add(PAUSE_MIN));
        }
        let due = self.trials.waiting.iter().filter(|waiting| waiting.due.is_some_and(|due| due <= now));
        let segment = due.map(|waiting| waiting.segment).find(|segment| can_be_tried(*segment))?;
        self.trials.is_under_way = true;
        self.trials.count += 1;
        let seed = self.config.store.hash64() ^ u64::from(self.now) << 32 ^ self.trials.count;
        Some(Trial::of(segment, &self.config.geometry, seed))
    }

    /// Takes how a trial ended: a segment that passed is used again once the disk knows.
    pub fn tried(&mut self, trial: Trial, outcome: Outcome) {
        self.trials.is_under_way = false;
        let now = self.now;
        let Some(at) = self.trials.waiting.iter().position(|waiting| waiting.segment == trial.segment) else {
            return;
        };
        let waiting = &mut self.trials.waiting[at];
        match outcome {
            Outcome::Passed => {
                self.trials.waiting.swap_remove(at);
                self.stats.trials_passed += 1;
                // Nothing is left of what it had: no rule is needed for it, and its errors are past.
                self.segments.change(trial.segment, Role::Freeing, |entry| {
                    *entry = TableEntry { sequence: entry.sequence, ..TableEntry::FREE };
                });
            }
            Outcome::Failed => {
                self.stats.trials_failed += 1;
                waiting.pause = waiting.pause.saturating_mul(2).min(PAUSE_MAX);
                waiting.due = Some(now.saturating_add(waiting.pause));
            }
            Outcome::Aborted => waiting.due = Some(now.saturating_add(waiting.pause)),
        }
    }

    /// Gives a segment up.
    pub(super) fn give_up(&mut self, segment: u32) {
        self.segments.change(segment, Role::Bad, |entry| entry.state = SegmentState::Bad);
        self.trials.note(segment);
        self.charge_lists();
    }
}

// The last piece of a segment is as long as the others.
const _: () = assert!((1u64 << *SEGMENT_SHIFTS.start()).is_multiple_of(TRIAL_PIECE_LEN));
