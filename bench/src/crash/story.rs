//! What happens in one round: drawn from seed and round alone.

use crate::random::Random;
use std::fmt;
use std::time::Duration;

/// One round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Story {
    pub(super) cores: u64,
    pub(super) ending: Ending,
    /// For all who ask.
    pub(super) seed: u64,
}

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// kill -9 after so long under load.
    Kill(Duration),
    /// kill -9 so long after the server listens, while it recovers and everything is looked at.
    KillEarly(Duration),
    /// SIGTERM after so long under load.
    Terminate(Duration),
}

impl Story {
    /// Draws a round.
    pub(super) fn draw(seed: u64, round: u64) -> Self {
        let mut random = Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(round));
        let cores = random.between(1, 2);
        let millis = |random: &mut Random, most| Duration::from_millis(random.between(0, most));
        let ending = match random.between(0, 9) {
            0 => Ending::Terminate(millis(&mut random, 600)),
            1 => Ending::KillEarly(millis(&mut random, 30)),
            // Most are killed soon: what was written last is what may be torn.
            2..=5 => Ending::Kill(millis(&mut random, 400)),
            _ => Ending::Kill(millis(&mut random, 1_500)),
        };
        Self { cores, ending, seed: random.next() }
    }
}

impl fmt::Display for Story {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, after) = match self.ending {
            Ending::Kill(after) => ("killed", after),
            Ending::KillEarly(after) => ("killed just after the start,", after),
            Ending::Terminate(after) => ("ended in order", after),
        };
        let millis = after.as_millis();
        write!(out, "{} core(s), {what} after {millis} ms", self.cores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_the_same_wherever_a_run_begins() {
        assert_eq!(Story::draw(3, 17), Story::draw(3, 17));
        assert_ne!(Story::draw(3, 17), Story::draw(3, 18));
        let endings: Vec<Ending> = (0..100).map(|round| Story::draw(1, round).ending).collect();
        let count = |is: fn(&Ending) -> bool| endings.iter().filter(|ending| is(ending)).count();
        assert!(count(|ending| matches!(ending, Ending::Kill(_))) > 50);
        assert!(count(|ending| matches!(ending, Ending::KillEarly(_))) > 2);
        assert!(count(|ending| matches!(ending, Ending::Terminate(_))) > 2);
    }
}
