//! When a core has more to do than it can: what it refuses, and how much of it.
//!
//! Fed by the shard with how late the core looks at what happens (`Handler::on_late`) and how long its tasks wait; asked before a request goes to the
//! origin and before a connection is taken. The queue decides, not the load: as long as nothing waits for longer than `--shed-after` nothing
//! is refused, however busy the core is.
//!
//! As in CoDel, a burst is no overload: only the least delay of a whole interval counts. Each interval in which even that is above the target
//! takes the level up by one or more, each in which it is not takes it down. A level says which part of what could be refused is: first of
//! the requests that need the origin, which cost the most, then of new connections. Hits are served at every level, because
//! a hit costs less than its refusal. Invariants: off, or without samples, nothing is refused; the share that is refused is spread evenly.

use std::time::Duration;

use aspis_cache::key;
use aspis_exchange::collapse::{Asked, Wants};
use aspis_exchange::{Collapsing, Forward};
use aspis_telemetry::{Counter, Timing};

use crate::asking::Waiter;
use crate::shard::Shard;

/// The level at which every request that needs the origin is refused, and the first at which connections are.
const FETCHES_FULL: u32 = 8;

/// The level at which every new connection is refused.
const LEVEL_MAX: u32 = 2 * FETCHES_FULL;

/// Most levels that one interval adds.
const STEP_MAX: u64 = 8;

/// An interval is as long as the target, within these bounds: the shortest in which a busy core takes several samples.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
const INTERVAL_MAX: Duration = Duration::from_millis(1000);

/// What one core refuses. Times are the ring's milliseconds.
#[derive(Debug)]
pub(crate) struct Overload {
    /// The longest delay that is no overload; 0 for never.
    target: u64,
    interval: u64,
    /// When the running interval began.
    began_at: u64,
    /// The least delay in it, if there was a sample.
    least: Option<u64>,
    /// When the last sample was taken, and the delay in it.
    last: (u64, u64),
    level: u32,
    fetches: Share,
    connections: Share,
}

/// Refuses so many parts of a whole, evenly spread.
#[derive(Debug, Default)]
struct Share {
    sum: u32,
}

impl Share {
    /// Whether the next one is refused, of which `parts` in [`FETCHES_FULL`] are.
    fn takes(&mut self, parts: u32) -> bool {
        self.sum += parts.min(FETCHES_FULL);
        let takes = self.sum >= FETCHES_FULL;
        self.sum -= if takes { FETCHES_FULL } else { 0 };
        takes
    }
}

impl Overload {
    /// One that begins to refuse when delays stay above `shed_after`; zero is never.
    pub(crate) fn new(shed_after: Duration) -> Self {
        Overload {
            target: shed_after.as_millis() as u64,
            interval: shed_after.clamp(INTERVAL_MIN, INTERVAL_MAX).as_millis() as u64,
            began_at: 0,
            least: None,
            last: (0, 0),
            level: 0,
            fetches: Share::default(),
            connections: Share::default(),
        }
    }

    /// Takes one sample: something waited for so long until this core looked at it.
    pub(crate) fn note(&mut self, delay: u64, now: u64) {
        if self.target == 0 {
            return;
        }
        // What waited for so long says that the core was busy meanwhile, however long ago the last sample is.
        self.forget_old(now.saturating_sub(delay));
        self.last = (now, delay);
        let before = self.least;
        self.least = Some(before.map_or(delay, |least| least.min(delay)));
        let (Some(_), Some(least)) = (before, self.least) else {
            // One look that was late, however late, may be a machine that slept.
            return;
        };
        if now - self.began_at < self.interval {
            return;
        }
        self.least = None;
        self.began_at = now;
        self.level = if least > self.target {
            (self.level + (least / self.target).min(STEP_MAX) as u32).min(LEVEL_MAX)
        } else if least > self.target / 2 {
            self.level.saturating_sub(1)
        } else {
            self.level / 2
        };
    }

    /// Whether a request that needs the origin is refused now.
    pub(crate) fn refuses_fetch(&mut self, now: u64) -> bool {
        self.forget_old(now);
        self.level > 0 && self.fetches.takes(self.level)
    }

    /// Whether a new connection is refused now.
    pub(crate) fn refuses_connection(&mut self, now: u64) -> bool {
        self.forget_old(now);
        self.level > FETCHES_FULL && self.connections.takes(self.level - FETCHES_FULL)
    }

    /// Whether anything is refused at all, unless it is over meanwhile.
    pub(crate) fn is_on(&self) -> bool {
        self.level > 0
    }

    /// A core that took no sample for some intervals had nothing to do, unless its samples are as far apart as its looks.
    fn forget_old(&mut self, now: u64) {
        let (at, delay) = self.last;
        if now.saturating_sub(at) > 3 * self.interval + 2 * delay {
            (self.began_at, self.least, self.level) = (now, None, 0);
        }
    }
}

impl Shard {
    /// The core looked so late at what happened.
    pub(crate) fn note_late(&self, millis: u64) {
        self.histograms.record(Timing::CoreLate, millis * 1000);
        // Requests that need more than a look wait for their tasks, which hits go before.
        let delay = millis.max(self.ring.task_wait_millis());
        self.overload.borrow_mut().note(delay, self.ring.now_millis());
    }

    /// Whether a request that needs the origin is refused now; counts it then.
    pub(crate) fn sheds_fetch(&self) -> bool {
        let sheds = self.overload.borrow_mut().refuses_fetch(self.ring.now_millis());
        self.counters.add(Counter::RequestsShed, u64::from(sheds));
        sheds
    }

    /// Whether a new connection is refused now.
    pub(crate) fn sheds_connection(&self) -> bool {
        self.overload.borrow_mut().refuses_connection(self.ring.now_millis())
    }

    /// Whether a request is refused before it waits for anything: one that would go to the origin, because it goes by itself or because
    /// no fetch runs that it could join. Of what other cores own their owners know more.
    pub(crate) fn sheds_at_once(
        &self,
        forward: &Forward,
        primary: Option<&(u128, Box<[u8]>)>,
        selected: &[u8],
    ) -> bool {
        if !self.overload.borrow().is_on() {
            return false;
        }
        let needs_origin = match (forward.collapsing, primary) {
            (Collapsing::OnlyStored, _) => false,
            (Collapsing::Never, _) | (_, None) => true,
            (_, Some((primary, _))) => {
                let wants = Wants::FollowOnly;
                let asked = Asked { primary: *primary, selected: key::hash(selected), key: selected, wants };
                let is_here = self.owner_of(*primary) == self.core;
                let comes = || self.owner.collapse.borrow().joinable(&asked).is_some();
                is_here && !comes() && !self.has_on_disk(*primary, *primary)
            }
        };
        needs_origin && self.sheds_fetch()
    }

    /// Whether one of another core that asked is refused: it may be for that core's sake.
    pub(crate) fn sheds_asked(&self, asked: &Asked<'_>, waiter: &Waiter, asker_sheds: bool) -> bool {
        let is_there = matches!(waiter, Waiter::There { .. });
        if !is_there || !(asker_sheds || self.overload.borrow().is_on()) {
            return false;
        }
        let joins = self.owner.collapse.borrow().joinable(asked).is_some();
        if joins {
            return false;
        }
        if asker_sheds {
            self.counters.add(Counter::RequestsShed, 1);
        }
        asker_sheds || self.sheds_fetch()
    }

    /// Whether a request that asks another core is to be refused there if it would need the origin.
    pub(crate) fn sheds_elsewhere(&self, owner: usize) -> bool {
        owner != self.core && self.overload.borrow_mut().refuses_fetch(self.ring.now_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: u64 = 100;
    const STEP: u64 = 10;

    fn overload() -> Overload {
        Overload::new(Duration::from_millis(TARGET))
    }

    /// Takes the same sample each 10 ms for so long; returns the time after it.
    fn hold(overload: &mut Overload, delay: u64, from: u64, millis: u64) -> u64 {
        let to = from + millis;
        (from..to).step_by(STEP as usize).for_each(|now| overload.note(delay, now));
        to
    }

    fn refused(overload: &mut Overload, now: u64) -> (usize, usize) {
        let fetches = (0..64).filter(|_| overload.refuses_fetch(now)).count();
        (fetches, (0..64).filter(|_| overload.refuses_connection(now)).count())
    }

    #[test]
    fn off_refuses_nothing_whatever_waits() {
        let mut overload = Overload::new(Duration::ZERO);
        let now = hold(&mut overload, 60_000, 0, 60_000);
        assert_eq!(refused(&mut overload, now), (0, 0));
    }

    #[test]
    fn delays_up_to_the_target_are_no_overload() {
        let mut overload = overload();
        let now = hold(&mut overload, TARGET, 0, 60_000);
        assert_eq!(refused(&mut overload, now), (0, 0));
    }

    /// The least delay of an interval counts: a burst that is worked off within one is none.
    #[test]
    fn bursts_are_no_overload() {
        let mut overload = overload();
        let mut now = 0;
        for _ in 0..200 {
            now = hold(&mut overload, 20 * TARGET, now, TARGET - STEP);
            now = hold(&mut overload, TARGET / 3, now, STEP);
        }
        assert_eq!(refused(&mut overload, now), (0, 0));
    }

    #[test]
    fn fetches_are_refused_first_and_evenly_and_connections_only_when_that_is_not_enough() {
        let mut overload = overload();
        let mut now = 0;
        let mut seen = Vec::new();
        for _ in 0..40 {
            now = hold(&mut overload, TARGET + 1, now, TARGET);
            let (fetches, connections) = refused(&mut overload, now);
            assert!(connections == 0 || fetches == 64, "{fetches} of 64 fetches, {connections} connections");
            seen.push(fetches + connections);
        }
        assert!(seen.is_sorted() && seen.contains(&8) && seen.contains(&32), "{seen:?}");
        assert_eq!(refused(&mut overload, now), (64, 64), "in the end everything but hits");
        // Evenly: of any eight, as many as of any other eight.
        overload.level = 3;
        for _ in 0..8 {
            assert_eq!((0..8).filter(|_| overload.refuses_fetch(now)).count(), 3);
        }
    }

    #[test]
    fn an_overload_that_ends_is_forgotten() {
        let mut overload = overload();
        let now = hold(&mut overload, 5 * TARGET, 0, 20 * TARGET);
        assert_eq!(refused(&mut overload, now), (64, 64));
        // At once where nothing waits any more: without load there are no samples.
        assert_eq!(refused(&mut overload, now + 20 * TARGET), (0, 0));
        let mut overload = self::overload();
        let now = hold(&mut overload, 5 * TARGET, 0, 20 * TARGET);
        // And within a few intervals where the core stays busy.
        let now = hold(&mut overload, 0, now, 7 * TARGET);
        assert_eq!(refused(&mut overload, now), (0, 0));
    }

    /// The longer the delays, the fewer the samples: they must not look like rest.
    #[test]
    fn a_core_that_seldom_looks_is_overloaded_most_of_all() {
        let mut overload = overload();
        let mut now = 0;
        for _ in 0..5 {
            now += 50 * TARGET;
            overload.note(50 * TARGET - STEP, now);
        }
        assert_eq!(refused(&mut overload, now + 40 * TARGET), (64, 64));
        // A single one after a rest is a burst.
        let mut overload = self::overload();
        overload.note(TARGET / 2, 50 * TARGET);
        overload.note(50 * TARGET, 200 * TARGET);
        assert_eq!(refused(&mut overload, 200 * TARGET), (0, 0));
    }

    /// A core before a queue: hits are always served, misses unless they are refused. Work is counted in microseconds.
    struct Model {
        overload: Overload,
        queue: u64,
        worst: u64,
        settled_worst: u64,
        served: u64,
    }

    /// Plays `seconds` of a steady offer with random bursts; refusing costs a tenth of a miss.
    fn play(hit_load: u64, miss_load: u64, target: u64, seed: u64) -> Model {
        const MISS: u64 = 200;
        const SECONDS: u64 = 60;
        let overload = Overload::new(Duration::from_millis(target));
        let mut model = Model { overload, queue: 0, worst: 0, settled_worst: 0, served: 0 };
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut offered = 0;
        for now in 0..SECONDS * 1000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Half of the time nothing comes, half of the time twice as much.
            let busy = ((random >> 40) & 1) * 2;
            model.queue += hit_load * busy * 10;
            offered += miss_load * busy * 10;
            while offered >= MISS {
                offered -= MISS;
                if model.overload.refuses_fetch(now) {
                    model.queue += MISS / 10;
                } else {
                    model.queue += MISS;
                    model.served += 1;
                }
            }
            if now % STEP == 0 {
                let delay = model.queue / 1000;
                model.overload.note(delay, now);
                model.worst = model.worst.max(delay);
                if now > SECONDS * 500 {
                    model.settled_worst = model.settled_worst.max(delay);
                }
            }
            model.queue = model.queue.saturating_sub(1000);
        }
        model
    }

    /// With any offer of misses beside any load of hits that the core could serve alone, delays stay within a few targets, and
    /// what the core can do beside the hits is done.
    #[test]
    fn delays_stay_bounded_and_work_is_done_under_any_overload() {
        for seed in 0..8 {
            for target in [20, 100, 500] {
                // In hundredths of what the core can do.
                for (hits, misses) in [(10, 120), (10, 300), (50, 100), (50, 400), (70, 60), (0, 800)] {
                    let model = play(hits, misses, target, seed);
                    let name = format!("{hits} % hits, {misses} % misses, target {target} ms, seed {seed}");
                    // Two intervals pass before anything is refused, in which the queue grows by all that is too much.
                    let interval = target.clamp(50, 1000);
                    let bound = (target + 3 * interval) * (hits + misses).max(100) / 100;
                    assert!(model.worst <= bound, "{name}: {} ms once", model.worst);
                    assert!(model.settled_worst <= bound * 2 / 3, "{name}: {} ms", model.settled_worst);
                    // Per cent of the core that went into misses that were served.
                    let used = model.served * 200 / 600_000;
                    let refusals = (misses / 10).min(100 - hits);
                    let possible = (100 - hits - refusals).min(misses);
                    assert!(used * 100 >= possible * 60, "{name}: {used} of {possible} %");
                }
            }
        }
    }

    /// Without overload nothing is refused: what is offered is served.
    #[test]
    fn nothing_is_refused_where_the_core_can_do_it_all() {
        for seed in 0..8 {
            let model = play(30, 50, 100, seed);
            assert!(model.served >= 148_000, "{}: seed {seed}", model.served);
            assert_eq!(model.overload.level, 0);
        }
    }
}
