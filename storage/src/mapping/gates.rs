//! Who may still send from which segment of a volume's mapping, and when a segment may be written anew.
//!
//! The owner of a volume closes a segment's gate when it begins to reclaim it and *retires* it before it is written anew; cores that send from
//! the mapping ask whether the gate is open and enter for as long as the kernel reads the bytes. All of it is one atomic for each segment:
//!
//! ```text
//! | life: 32 | closed: 1 | who sends from it: 31 |
//! ```
//! Invariants: whoever is inside was let in during the segment's present life, so a segment is retired only with nobody inside; a life that
//! ended never comes back in the time that a body lives; nobody waits here.

use std::sync::Arc;

use crate::atomics::{AtomicU32, AtomicU64, Ordering};
use crate::budget::{Budget, Charge, Purpose};

const CLOSED: u64 = 1 << 31;
const COUNT: u64 = CLOSED - 1;
const LIFE_SHIFT: u32 = 32;

/// The life of a segment: from when it was written until it is written anew, and no longer than its file was relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    segment: u32,
    volume: u32,
}

/// The gates of a volume's segments.
#[derive(Debug)]
pub struct Gates {
    /// Counted on each time that the file stops being relied on, and each time that it is again: odd while it is not.
    volume: AtomicU32,
    segments: Box<[AtomicU64]>,
    _charge: Charge,
}

impl Gates {
    /// Makes the open gates of so many segments; `None` when the budget refuses.
    pub fn new(count: u32, budget: &Arc<Budget>) -> Option<Gates> {
        let charge = budget.reserve(Purpose::Disk, u64::from(count) * size_of::<AtomicU64>() as u64)?;
        let segments = (0..count).map(|_| AtomicU64::new(0)).collect();
        Some(Gates { volume: AtomicU32::new(0), segments, _charge: charge })
    }

    /// Returns the present life of a segment; `None` while its gate is closed, or its file is not relied on.
    pub fn life(&self, segment: u32) -> Option<Life> {
        let volume = self.volume.load(Ordering::Acquire);
        let state = self.segments.get(segment as usize)?.load(Ordering::Acquire);
        let is_open = volume.is_multiple_of(2) && state & CLOSED == 0;
        is_open.then_some(Life { segment: (state >> LIFE_SHIFT) as u32, volume })
    }

    /// Tells whether a segment lives as it did and its gate is open.
    pub fn is_open(&self, segment: u32, life: Life) -> bool {
        self.life(segment) == Some(life)
    }

    /// Enters: the segment is not written anew until [`Gates::leave`]. False if it was since that life. A gate that was closed a moment ago
    /// lets in all the same, because who asks has just found it open.
    #[must_use]
    pub fn enter(&self, segment: u32, life: Life) -> bool {
        let Some(gate) = self.segments.get(segment as usize) else { return false };
        let before = gate.fetch_add(1, Ordering::Acquire);
        let is_same = (before >> LIFE_SHIFT) as u32 == life.segment;
        if !is_same {
            gate.fetch_sub(1, Ordering::Release);
        }
        is_same
    }

    /// Leaves again.
    pub fn leave(&self, segment: u32) {
        if let Some(gate) = self.segments.get(segment as usize) {
            let before = gate.fetch_sub(1, Ordering::Release);
            debug_assert!(before & COUNT > 0, "nobody is inside segment {segment}");
        }
    }

    /// Has nobody find a segment's gate open for the rest of its life.
    pub fn close(&self, segment: u32) {
        if let Some(gate) = self.segments.get(segment as usize) {
            gate.fetch_or(CLOSED, Ordering::AcqRel);
        }
    }

    /// Ends the life of a segment, which may be written anew then; false while somebody is inside.
    pub fn retire(&self, segment: u32) -> bool {
        let Some(gate) = self.segments.get(segment as usize) else { return true };
        let state = gate.load(Ordering::Acquire);
        // Who comes later finds another life, and who is inside is counted.
        let next = ((state >> LIFE_SHIFT) + 1) << LIFE_SHIFT;
        state & COUNT == 0 && gate.compare_exchange(state, next, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Has nobody find any gate open until [`Gates::resume`]: the file is not relied on.
    pub fn suspend(&self) {
        if self.volume.load(Ordering::Acquire).is_multiple_of(2) {
            self.volume.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Relies on the file again. What was verified before is not: its bytes may be others now.
    pub fn resume(&self) {
        if !self.volume.load(Ordering::Acquire).is_multiple_of(2) {
            self.volume.fetch_add(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_retired_when_all_have_left() {
        let gates = Gates::new(2, &Budget::new(1 << 20)).unwrap();
        let life = gates.life(1).unwrap();
        assert!(gates.enter(1, life) && gates.enter(1, life));
        gates.close(1);
        assert!(!gates.is_open(1, life) && gates.is_open(0, gates.life(0).unwrap()));
        assert!(gates.enter(1, life), "it was found open a moment ago");
        for _ in 0..3 {
            assert!(!gates.retire(1));
            gates.leave(1);
        }
        assert!(gates.retire(1));
        assert!(!gates.is_open(1, life) && !gates.enter(1, life), "that life is over");
        let next = gates.life(1).unwrap();
        assert!(next != life && gates.retire(1), "who came late left no count");
    }

    #[test]
    fn what_was_found_before_a_file_was_not_relied_on_stays_closed() {
        let gates = Gates::new(1, &Budget::new(1 << 20)).unwrap();
        let life = gates.life(0).unwrap();
        gates.suspend();
        gates.suspend();
        assert!(gates.life(0).is_none() && !gates.is_open(0, life));
        gates.resume();
        gates.resume();
        assert!(gates.life(0).is_some() && !gates.is_open(0, life));
    }

    #[test]
    fn a_segment_that_is_not_there_is_closed() {
        let gates = Gates::new(1, &Budget::new(1 << 20)).unwrap();
        assert!(gates.life(1).is_none() && !gates.enter(1, gates.life(0).unwrap()) && gates.retire(1));
        gates.close(1);
        gates.leave(1);
    }

    #[test]
    fn gates_are_charged() {
        let budget = Budget::new(80);
        assert!(Gates::new(11, &budget).is_none());
        let gates = Gates::new(10, &budget).unwrap();
        assert_eq!(budget.used(Purpose::Disk), 80);
        drop(gates);
        assert_eq!(budget.used_total(), 0);
    }
}
