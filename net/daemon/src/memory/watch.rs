//! Holds what we charged against what the kernel says, once a second, and has the cores make up for the difference.
//!
//! Charges are made where memory is asked for; what an allocator keeps back, or somebody forgot, shows in the kernel's figures only. As
//! long as those stay within the limit and the stated base nothing happens. Above it the excess is withheld from the limit, so that the cores
//! evict, and it is released again as room comes back. It is withheld in steps that the headroom covers, each when the cores have made way
//! for the one before, so that nobody is refused meanwhile. Invariants: at most half of the limit is ever withheld; what is to be withheld is
//! within a bounded time, whatever the cores do; a process whose cores sleep is not looked at.

use std::sync::Arc;
use std::time::Duration;

use aspis_runtime::heap;
use aspis_shard::EvictBell;
use aspis_storage::budget::Budget;
use aspis_telemetry::{CoreCounters, Counter};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::process;

/// How often memory is looked at while cores work.
const LOOK: Duration = Duration::from_secs(1);
/// How long what is withheld may take to grow.
const RAISE_WITHIN: Duration = Duration::from_millis(500);
/// How often the cores are looked at meanwhile.
const RAISE_LOOK: Duration = Duration::from_millis(5);
/// Steps that it takes at most.
const RAISE_STEPS: u64 = 32;
/// What the process has beside the limit: its threads' stacks, the runtime, tables of the libraries.
const BASE: u64 = 16 << 20;
/// And for each core: its executor, its ring, what its allocator keeps at hand.
const BASE_PER_CORE: u64 = 4 << 20;
/// Turns of a core between two looks that are no work: it looks for deadlines of idle connections.
const QUIET_TURNS: u64 = 8;
/// Of the room that came back, the part that is released at a time: what was over once may be again.
const RELEASE_SHARE: u64 = 4;
/// Room below this part of the limit is none.
const GAP_SHARE: u64 = 128;

/// Returns the memory that a process with so many cores has beside its limit: the manual states it.
pub(crate) fn base(cores: usize) -> u64 {
    BASE + cores as u64 * BASE_PER_CORE
}

/// What the watch looks at and whom it tells.
pub(crate) struct Watch {
    pub(crate) budget: Arc<Budget>,
    pub(crate) counters: Vec<Arc<CoreCounters>>,
    /// Has the cores look at the limit.
    pub(crate) bell: EvictBell,
}

impl Watch {
    /// Looks until the runtime ends.
    pub(crate) async fn run(self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let base = base(self.counters.len());
        let (mut turns_before, mut is_at_rest) = (0, true);
        loop {
            ticks.tick().await;
            let turns: u64 = self.counters.iter().map(|core| core.value(Counter::CoreTurns)).sum();
            let done = turns.saturating_sub(std::mem::replace(&mut turns_before, turns));
            let sleeps = done <= QUIET_TURNS * self.counters.len() as u64;
            let before = self.budget.withheld();
            if sleeps && before == 0 {
                // What a crowd left behind goes back once it has gone; the cores' own answer counts as no work.
                if !std::mem::replace(&mut is_at_rest, true) {
                    heap::give_back();
                    self.bell.ring();
                }
                continue;
            }
            is_at_rest = sleeps && is_at_rest;
            let withheld = withheld(process::private_len(), self.budget.limit(), base, before);
            if withheld > before {
                heap::give_back();
                self.raise(before, withheld).await;
                self.bell.ring();
            } else if withheld < before {
                self.budget.withhold(withheld);
            }
        }
    }

    /// Withholds more, as fast as the cores make way for it.
    async fn raise(&self, before: u64, withheld: u64) {
        let until = Instant::now() + RAISE_WITHIN;
        let step = step(withheld - before, self.budget.headroom());
        let mut now = before;
        while now < withheld {
            now = if Instant::now() < until { withheld.min(now + step) } else { withheld };
            self.budget.withhold(now);
            self.bell.ring_softly();
            while self.budget.missing(self.budget.headroom() / 2) > 0 && Instant::now() < until {
                sleep(RAISE_LOOK).await;
            }
        }
    }
}

/// Says in which steps so much more is withheld: half of what content leaves to others, so that they are not refused.
fn step(more: u64, headroom: u64) -> u64 {
    (headroom / 2).max(more.div_ceil(RAISE_STEPS)).max(1)
}

/// Says how much of the limit is to be withheld while so much is resident.
fn withheld(resident: u64, limit: u64, base: u64, before: u64) -> u64 {
    let most = limit + base;
    match resident.checked_sub(most) {
        Some(excess) => (before + excess).min(limit / 2),
        None => {
            let room = most - resident;
            if room < limit / GAP_SHARE {
                before
            } else {
                before.saturating_sub((room / RELEASE_SHARE).max(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn within_limit_and_base_nothing_is_withheld() {
        assert_eq!(withheld(0, 256 * MIB, base(2), 0), 0);
        assert_eq!(withheld(256 * MIB + base(2), 256 * MIB, base(2), 0), 0);
    }

    #[test]
    fn an_excess_is_withheld_and_released_again_as_room_comes_back() {
        let most = 256 * MIB + base(2);
        let first = withheld(most + 10 * MIB, 256 * MIB, base(2), 0);
        assert_eq!(first, 10 * MIB);
        // What was evicted for it is gone from the figures; there it stays as long as there is no room to speak of.
        assert_eq!(withheld(most, 256 * MIB, base(2), first), first);
        assert_eq!(withheld(most - MIB, 256 * MIB, base(2), first), first);
        assert_eq!(withheld(most + MIB, 256 * MIB, base(2), first), 11 * MIB);
        assert_eq!(withheld(most - 8 * MIB, 256 * MIB, base(2), first), 8 * MIB);
        let mut held = first;
        for _ in 0..100 {
            held = withheld(most - 4 * MIB, 256 * MIB, base(2), held);
        }
        assert_eq!(held, 0);
    }

    #[test]
    fn more_is_withheld_in_steps_that_the_headroom_covers_and_not_in_too_many() {
        assert_eq!(step(10 * MIB, 4 * MIB), 2 * MIB);
        assert_eq!(step(1, 4 * MIB), 2 * MIB);
        for (more, headroom) in [(1, 0), (1000, 0), (u64::MAX, 64 * MIB), (512 * MIB, MIB)] {
            assert!(more.div_ceil(step(more, headroom)) <= RAISE_STEPS, "{more} {headroom}");
        }
    }

    #[test]
    fn half_of_the_limit_stays_whatever_the_kernel_says() {
        assert_eq!(withheld(u64::MAX / 2, 256 * MIB, base(2), 0), 128 * MIB);
        assert_eq!(withheld(u64::MAX / 2, 256 * MIB, base(2), 128 * MIB), 128 * MIB);
    }
}
