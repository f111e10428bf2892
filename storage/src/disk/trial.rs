//! Whether a segment that had errors can be used again: all of it is written anew and read back, and must be as it was written.
//!
//! ```text
//!          reclaimed after errors           relapsed ┌──────────────────────────────────────────────┐
//!                    v                               v                                              │
//! Sealed ──> Bad: suspected ──(at once)──> written, read back ──> as written ──> Free ──> used again ┘
//!                                             ^      └─ error, other bytes ─┐            (for a day)
//!            found bad at start ──> Bad: given up ──(waits longer and longer)┘
//! ```
//!
//! Errors in a segment may be the medium's, or come from whatever lies between it and us, and be over. So it is given up only when a trial says that the
//! medium is bad; what fails again after it passed is not tried at once any more.
//!
//! Reclaim and recovery tell of what is bad; the driver asks whether a trial is due, does it piece by piece, and tells how it ended.
//! Invariants: one trial of a volume at a time, and only of a segment that the disk knows to be bad and nobody reads, so that nothing in it counts
//! whenever the process ends; what is written differs for each block and each trial, so that neither an older trial nor a block elsewhere passes for
//! it; and it verifies as nothing of a store.

use super::format::{Geometry, SEGMENT_SHIFTS, SegmentState, TableEntry};
use super::segments::Role;
use super::volume::Volume;

/// Bytes that are written, or read back, at once.
pub const TRIAL_PIECE_LEN: u64 = 256 * 1024;

/// Seconds until a segment that a trial found bad is tried again.
const PAUSE_MIN: u32 = 10;

/// Each further pause is so many times as long.
const PAUSE_GROWTH: u32 = 4;

/// The longest pause between two trials of a segment; one that was used for so long after a trial is like any other.
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

/// What is known of a segment that had errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is to be tried as soon as nobody reads it.
    Suspected,
    /// It is to be tried at this second, which is not known before somebody who knows the time asks.
    GivenUp(Option<u32>),
    /// It passed at this second.
    UsedAgain(u32),
}

/// A segment that had errors.
#[derive(Clone, Copy, Debug)]
struct Suspect {
    segment: u32,
    standing: Standing,
    /// How long it waits when it fails next.
    pause: u32,
}

impl Suspect {
    /// Has it wait, and longer the next time.
    fn wait(&mut self, now: u32) {
        self.standing = Standing::GivenUp(Some(now.saturating_add(self.pause)));
        self.lengthen();
    }

    fn lengthen(&mut self) {
        self.pause = self.pause.saturating_mul(PAUSE_GROWTH).min(PAUSE_MAX);
    }
}

/// The trials of a volume.
#[derive(Debug, Default)]
pub(super) struct Trials {
    suspects: Vec<Suspect>,
    is_under_way: bool,
    /// How many there were so far.
    count: u64,
}

impl Trials {
    /// Notes a segment that was found given up at the start.
    pub(super) fn note_given_up(&mut self, segment: u32) {
        self.suspects.push(Suspect { segment, standing: Standing::GivenUp(None), pause: PAUSE_MIN });
    }

    /// Notes a segment that was reclaimed after errors. It is tried at once, unless it passed a trial lately.
    fn note_suspect(&mut self, segment: u32, now: u32) {
        match self.suspects.iter_mut().find(|suspect| suspect.segment == segment) {
            Some(relapsed) => relapsed.wait(now),
            None => {
                let standing = Standing::Suspected;
                self.suspects.push(Suspect { segment, standing, pause: PAUSE_MIN });
            }
        }
    }

    /// Returns how many segments are about to be tried that may turn out good.
    pub(super) fn suspected(&self) -> u32 {
        self.suspects.iter().filter(|suspect| suspect.standing == Standing::Suspected).count() as u32
    }

    /// Returns the bytes of its list.
    pub(super) fn memory(&self) -> u64 {
        (self.suspects.capacity() * size_of::<Suspect>()) as u64
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
        if self.trials.suspects.is_empty() || self.trials.is_under_way || !self.is_recovered() {
            return None;
        }
        let now = self.now;
        self.trials.suspects.retain(
            |suspect| !matches!(suspect.standing, Standing::UsedAgain(since) if now >= since.saturating_add(PAUSE_MAX)),
        );
        for suspect in &mut self.trials.suspects {
            if suspect.standing == Standing::GivenUp(None) {
                suspect.wait(now);
            }
        }
        let can_be_tried =
            |segment: u32| self.segments.at(segment).role() == Role::Bad && self.segments.is_left(segment);
        // What waits longest, so that none is tried over and over while another is not.
        let due = |suspect: &Suspect| match suspect.standing {
            Standing::Suspected => Some(0),
            Standing::GivenUp(due) => due.filter(|due| *due <= now),
            Standing::UsedAgain(_) => None,
        };
        let due = self.trials.suspects.iter().filter_map(|suspect| Some((due(suspect)?, suspect.segment)));
        let (_, segment) = due.filter(|(_, segment)| can_be_tried(*segment)).min()?;
        self.trials.is_under_way = true;
        self.trials.count += 1;
        let seed = self.config.store.hash64() ^ u64::from(self.now) << 32 ^ self.trials.count;
        Some(Trial::of(segment, &self.config.geometry, seed))
    }

    /// Takes how a trial ended: a segment that passed is used again once the disk knows.
    pub fn tried(&mut self, trial: Trial, outcome: Outcome) {
        self.trials.is_under_way = false;
        let now = self.now;
        let mut suspects = self.trials.suspects.iter_mut();
        let Some(suspect) = suspects.find(|suspect| suspect.segment == trial.segment) else { return };
        match outcome {
            Outcome::Passed => {
                suspect.standing = Standing::UsedAgain(now);
                suspect.lengthen();
                self.stats.trials_passed += 1;
                // Nothing is left of what it had: no rule is needed for it, and its errors are past.
                self.segments.change(trial.segment, Role::Freeing, |entry| {
                    *entry = TableEntry { sequence: entry.sequence, ..TableEntry::FREE };
                });
            }
            Outcome::Failed => {
                self.stats.trials_failed += 1;
                suspect.wait(now);
            }
            Outcome::Aborted => {
                if suspect.standing != Standing::Suspected {
                    suspect.standing = Standing::GivenUp(Some(now.saturating_add(PAUSE_MIN)));
                }
            }
        }
    }

    /// Has nothing wait for a trial: none is done from now on.
    pub fn try_no_more(&mut self) {
        let is_suspected = |suspect: &&mut Suspect| suspect.standing == Standing::Suspected;
        self.trials.suspects.iter_mut().filter(is_suspected).for_each(|suspect| suspect.wait(self.now));
    }

    /// Tells whether a segment waits for its trial that may well pass.
    pub fn suspects_any(&self) -> bool {
        self.trials.suspected() > 0
    }

    /// Has a reclaimed segment not be used before a trial.
    pub(super) fn suspect(&mut self, segment: u32) {
        self.segments.change(segment, Role::Bad, |entry| entry.state = SegmentState::Bad);
        self.trials.note_suspect(segment, self.now);
        self.charge_lists();
    }
}

// The last piece of a segment is as long as the others.
const _: () = assert!((1u64 << *SEGMENT_SHIFTS.start()).is_multiple_of(TRIAL_PIECE_LEN));
