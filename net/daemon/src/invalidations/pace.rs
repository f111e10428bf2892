//! How often something may be done, if it is asked for all the time.
//!
//! Used where each time costs the processors that also serve, and one time does for all that came meanwhile: syncs of the log and bells of cores that sleep.
//! Who asks now and then never waits; a stream is served at the pace. Decides only: the caller has the clock and waits.

use std::time::Instant;

use super::limits::{PACE, PACE_BURST};

/// Says when the next time may be.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the times so far would be over, had each taken its part of the pace.
    paid_until: Instant,
}

impl Pace {
    /// Begins with all its credit.
    pub(super) fn new(now: Instant) -> Self {
        Pace { paid_until: now }
    }

    /// Returns the moment from which on it may be done.
    pub(super) fn free_at(&self) -> Instant {
        self.paid_until.checked_sub(PACE * PACE_BURST).unwrap_or(self.paid_until)
    }

    /// Notes that it is done.
    pub(super) fn note(&mut self, now: Instant) {
        self.paid_until = self.paid_until.max(now) + PACE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_a_stream_is_paced() {
        let start = Instant::now() + PACE * 100;
        let mut pace = Pace::new(start);
        for _ in 0..=PACE_BURST {
            assert!(pace.free_at() <= start);
            pace.note(start);
        }
        assert_eq!(pace.free_at(), start + PACE);
        pace.note(start + PACE);
        assert_eq!(pace.free_at(), start + PACE * 2);
        // Rest gives the credit back, and no more than that.
        let later = start + PACE * 1000;
        for _ in 0..=PACE_BURST {
            assert!(pace.free_at() <= later);
            pace.note(later);
        }
        assert_eq!(pace.free_at(), later + PACE);
    }
}
