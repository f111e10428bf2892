//! The sweep: everything stored is held against the rules, so that the memory of what is gone comes back and rules can be forgotten (I-27).
//!
//! Begun by the shard's timer, carried on from its turns. It works in *slices* whose length is measured, since letting go of one response takes
//! anything from a microsecond to the return of a large body. A slice comes in a turn to which nothing came, so that answers never wait for it, and
//! is followed by a nap, in which whatever else shares the processor runs. A core that is never without anything to do has a slice every
//! [`RULES_SLICE_WAIT`] all the same.
//!
//! Invariants: what comes to a core while it sweeps waits for one slice at most; a round always ends; `settled` is raised only when nothing
//! that is stored, or under way, has a smaller number.

use std::time::{Duration, Instant};

use aspis_telemetry::Counter;

use crate::limits::{
    RULES_NAP, RULES_ROUND_PAUSE, RULES_ROUND_PAUSE_MAX, RULES_SLICE, RULES_SLICE_WAIT, RULES_SWEPT_AT_ONCE,
};
use crate::messages::Message;
use crate::shard::Shard;

/// A walk through everything that is stored.
#[derive(Clone, Copy)]
pub(super) struct Round {
    /// The table's `latest` when it began.
    number: u64,
    removed: u64,
    /// How long its slices were so far.
    worked: Duration,
    slices: Slices,
}

/// When the next slice may come.
#[derive(Clone, Copy)]
struct Slices {
    /// The ring's completions, as far as they were seen.
    completions: u64,
    /// When the last slice began.
    began: Instant,
}

impl Slices {
    /// Whether one comes in this turn.
    fn is_due(&mut self, completions: u64, now: Instant) -> bool {
        let is_quiet = std::mem::replace(&mut self.completions, completions) == completions;
        let is_due = is_quiet || now.saturating_duration_since(self.began) >= RULES_SLICE_WAIT;
        if is_due {
            self.began = now;
        }
        is_due
    }
}

impl Shard {
    /// Begins a round, if it is time for one, and says how far this core is. From the timer.
    pub(crate) fn tend_rules(&self) {
        let rules = &self.rules;
        if !rules.is_behind() {
            return self.say_settled();
        }
        let is_due = rules.round.get().is_none() && self.ring.now_millis() >= rules.next_round_at.get();
        if is_due && rules.swept.get() < rules.latest() {
            let slices =
                Slices { completions: self.ring.stats().completions, began: self.ring.turn_started() };
            let round = Round { number: rules.latest(), removed: 0, worked: Duration::ZERO, slices };
            rules.round.set(Some(round));
        }
        self.settle_rules();
    }

    /// Goes on with a round, for a bounded time in a turn (I-27), and sees to it that there is another turn while there is more to do.
    pub(crate) fn sweep_rules(&self) {
        let Some(mut round) = self.rules.round.get() else { return };
        let is_due = round.slices.is_due(self.ring.stats().completions, self.ring.turn_started());
        if is_due && self.sweep_slice(&mut round) {
            self.rules.round.set(None);
            return self.end_round(&round);
        }
        self.rules.round.set(Some(round));
        self.ring.nap(RULES_NAP);
    }

    /// Looks at responses until the slice is over; true if they were the last ones.
    fn sweep_slice(&self, round: &mut Round) -> bool {
        let (began, mut removed) = (Instant::now(), 0);
        let mut store = self.store.borrow_mut();
        let (is_through, worked) = loop {
            let is_through = store.sweep(RULES_SWEPT_AT_ONCE, &mut |stored| {
                let stays = stored.is_live() && self.holds(stored);
                removed += u64::from(!stays);
                stays
            });
            let worked = began.elapsed();
            if is_through || worked >= RULES_SLICE {
                break (is_through, worked);
            }
        };
        drop(store);
        self.counters.add(Counter::CachePurged, removed);
        round.removed += removed;
        round.worked += worked;
        is_through
    }

    fn end_round(&self, round: &Round) {
        self.rules.swept.set(round.number);
        // A core that is told of rules all the time must do something else as well.
        let pause = (round.worked * RULES_ROUND_PAUSE).min(RULES_ROUND_PAUSE_MAX);
        self.rules.next_round_at.set(self.ring.now_millis() + pause.as_millis() as u64);
        if round.removed > 0 {
            // Replicas hold the memory of what is gone as long as nobody looks.
            self.post_others(|| Message::SweepReplicas);
        }
        self.settle_rules();
    }

    /// Says up to which number nothing is left here: of what is stored the rounds say it, of what is under way the fetches.
    fn settle_rules(&self) {
        let rules = &self.rules;
        let alone = self.flights.borrow().iter().map(|(_, flight)| flight.number).min();
        let asking = self.owner.collapse.borrow().oldest_number();
        let under_way = [alone, asking, self.oldest_arriving()].into_iter().flatten().min();
        let settled = under_way.map_or(rules.swept.get(), |number| number.min(rules.swept.get()));
        rules.settled.set(settled.max(rules.settled.get()));
        self.say_settled();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I-27: bounded in each turn, behind what viewers wait for, and never put off for good.
    #[test]
    fn slices_come_between_what_happens_and_are_never_put_off_for_good() {
        let start = Instant::now();
        let at = |share: u32| start + RULES_SLICE_WAIT * share / 10;
        let mut slices = Slices { completions: 7, began: start };
        assert!(slices.is_due(7, at(1)));
        assert!(!slices.is_due(8, at(2)));
        assert!(slices.is_due(8, at(3)), "a turn later, when the answer is on its way");
        assert!(!slices.is_due(9, at(12)), "a slice was not long ago");
        assert!(slices.is_due(11, at(13)));
        assert!(!slices.is_due(12, at(14)));
        assert!(slices.is_due(12, at(14)));
    }
}
