//! How many completions a core waits for when it has nothing else to do: one, or several while much comes in.
//!
//! A core that is asked a hundred thousand times a second sleeps and wakes for every second or third request, because each comes alone. Waiting
//! for several, but briefly, takes the same requests in fewer turns: a fifth of the calls, and a twentieth less CPU for each request
//! (decision 21). Told by `receive.rs` of what came, asked by the turn.
//!
//! Invariants: nobody waits longer than [`crate::limits::BATCH_PATIENCE`] for it; at rates at which this would bring less than a few requests, nobody waits at all;
//! no more is waited for than half of those who are talking, because the other half may wait for us.

use std::time::{Duration, Instant};

use crate::limits::{BATCH_COUNT_MAX, BATCH_COUNT_MIN, BATCH_RATE_MIN, BATCH_WINDOW};

/// How a core waits for the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// Not at all.
    Nothing,
    /// For a completion.
    One,
    /// For a completion, no longer than this.
    OneWithin(Duration),
    /// For so many; after [`crate::limits::BATCH_PATIENCE`] for one, as `One` does.
    Several(u32),
}

/// What came in lately, in windows of [`BATCH_WINDOW`].
pub(crate) struct Batch {
    began: Instant,
    /// Names the window to the sockets.
    window: u16,
    /// Receives of this window, and sockets that they came from.
    received: u32,
    talking: u32,
    count: u32,
}

impl Batch {
    pub(crate) fn new(now: Instant) -> Self {
        Batch { began: now, window: 1, received: 0, talking: 0, count: 1 }
    }

    /// Something came on a socket that holds `heard_in`: the window in which it was heard last.
    #[inline]
    pub(crate) fn heard(&mut self, heard_in: &mut u16) {
        self.received += 1;
        if *heard_in != self.window {
            *heard_in = self.window;
            self.talking += 1;
        }
    }

    /// Ends the window if it is over.
    #[inline]
    pub(crate) fn look(&mut self, now: Instant) {
        let passed = now - self.began;
        if passed >= BATCH_WINDOW {
            self.end_window(now, passed);
        }
    }

    fn end_window(&mut self, now: Instant, passed: Duration) {
        let is_much = u128::from(self.received) * 1_000_000 >= BATCH_RATE_MIN * passed.as_micros();
        let half = self.talking / 2;
        self.count = if is_much && half >= BATCH_COUNT_MIN { half.min(BATCH_COUNT_MAX) } else { 1 };
        (self.began, self.received, self.talking) = (now, 0, 0);
        self.window = self.window.wrapping_add(1);
    }

    /// Returns how many completions to wait for; at least 1.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays one window in which each of `sockets` is heard `times`, and returns what is waited for afterwards.
    fn count_after(batch: &mut Batch, sockets: &mut [u16], times: usize, lasts: Duration) -> u32 {
        for _ in 0..times {
            sockets.iter_mut().for_each(|socket| batch.heard(socket));
        }
        let end = batch.began + lasts;
        batch.look(end);
        batch.count()
    }

    #[test]
    fn many_who_talk_much_are_waited_for_by_half() {
        let mut batch = Batch::new(Instant::now());
        assert_eq!(batch.count(), 1);
        assert_eq!(count_after(&mut batch, &mut [0; 16], 20, BATCH_WINDOW), 8);
        assert_eq!(count_after(&mut batch, &mut [0; 1000], 20, BATCH_WINDOW), BATCH_COUNT_MAX);
        assert_eq!(count_after(&mut batch, &mut [0; 1], 1000, BATCH_WINDOW), 1, "it may wait for us");
        assert_eq!(count_after(&mut batch, &mut [0; 15], 100, BATCH_WINDOW), 1, "too few are left meanwhile");
    }

    #[test]
    fn at_a_usual_rate_one_is_enough() {
        let mut batch = Batch::new(Instant::now());
        let window = BATCH_WINDOW.as_micros() as usize;
        let few = BATCH_RATE_MIN as usize * window / 1_000_000;
        assert!(count_after(&mut batch, &mut vec![0; few], 1, BATCH_WINDOW) > 1);
        assert_eq!(count_after(&mut batch, &mut vec![0; few - 1], 1, BATCH_WINDOW), 1);
        assert_eq!(
            count_after(&mut batch, &mut vec![0; few], 1, BATCH_WINDOW * 2),
            1,
            "as many in twice the time"
        );
    }

    #[test]
    fn a_window_is_judged_when_it_is_over() {
        let mut batch = Batch::new(Instant::now());
        assert_eq!(count_after(&mut batch, &mut [0; 64], 100, BATCH_WINDOW / 2), 1);
        let end = batch.began + BATCH_WINDOW;
        batch.look(end);
        assert_eq!(batch.count(), 32);
    }

    #[test]
    fn who_talks_in_two_windows_counts_in_both() {
        let mut batch = Batch::new(Instant::now());
        let mut sockets = [0; 16];
        assert_eq!(count_after(&mut batch, &mut sockets, 20, BATCH_WINDOW), 8);
        assert_eq!(count_after(&mut batch, &mut sockets, 20, BATCH_WINDOW), 8);
    }
}
