//! How many viewers each core has, and which core is to serve the next one.
//!
//! The kernel spreads connections by a hash of their addresses, and a Unix socket is accepted from by one core, so a few
//! connections that stay for long may all end on one core. `shard` asks here for each connection that it accepts and
//! hands it to the core that it is told; nothing was received from it by then.
//!
//! Invariants: a place is counted at the core that is to serve it before that core knows, so that a burst does not all
//! go to one core; never more places are taken than `--max-connections`. The counts are written when a connection is
//! accepted or closed, never for a request, and they order nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

/// How far a core may be ahead of the least loaded one and keep what it accepts, as a part of that one's viewers: more
/// cannot be told from the kernel's own spread, and handing over costs both cores something.
const SLACK_SHARE: usize = 8;

/// And at least by this many: two connections on two cores are one for each.
const SLACK_MIN: usize = 1;

/// The places for viewer connections of all cores.
pub(crate) struct Places {
    count_max: usize,
    taken: CachePadded<AtomicUsize>,
    cores: Box<[CachePadded<AtomicUsize>]>,
}

impl Places {
    /// Makes `count_max` places that so many cores share.
    pub(crate) fn new(cores: usize, count_max: usize) -> Self {
        Places {
            count_max,
            taken: CachePadded::new(AtomicUsize::new(0)),
            cores: (0..cores).map(|_| CachePadded::new(AtomicUsize::new(0))).collect(),
        }
    }

    /// Takes a place for a connection that core `here` accepted, and returns the core that is to serve it; `None` if all
    /// places are taken.
    pub(crate) fn take(&self, here: usize) -> Option<usize> {
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.count_max {
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let core = self.core_for_next(here);
        self.cores[core].fetch_add(1, Ordering::Relaxed);
        Some(core)
    }

    /// Moves a place that was taken at core `from` to core `to`.
    pub(crate) fn shift(&self, from: usize, to: usize) {
        self.cores[to].fetch_add(1, Ordering::Relaxed);
        self.cores[from].fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives back a place that was taken at `core`.
    pub(crate) fn give_back(&self, core: usize) {
        self.cores[core].fetch_sub(1, Ordering::Relaxed);
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections of all cores, those on their way between two cores included.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// The core that accepted, unless it would be too far ahead of the least loaded one. Among equals the next one after
    /// it, so that several cores with too many do not all choose the first.
    fn core_for_next(&self, here: usize) -> usize {
        let count = |core: usize| self.cores[core].load(Ordering::Relaxed);
        let others = (1..self.cores.len()).map(|step| (here + step) % self.cores.len());
        let Some((least, core)) = others.map(|core| (count(core), core)).min_by_key(|(count, _)| *count)
        else {
            return here;
        };
        let slack = (least / SLACK_SHARE).max(SLACK_MIN);
        if count(here) + 1 > least + slack { core } else { here }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(places: &Places) -> Vec<usize> {
        places.cores.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn what_one_core_accepts_is_spread_evenly_while_it_is_little() {
        for (cores, connections, expected) in [
            (1, 5, vec![5]),
            (2, 1, vec![1, 0]),
            (2, 5, vec![3, 2]),
            (2, 16, vec![8, 8]),
            (3, 8, vec![3, 3, 2]),
        ] {
            let places = Places::new(cores, 100);
            for _ in 0..connections {
                places.take(0).expect("there is a place");
            }
            assert_eq!(counts(&places), expected, "{connections} connections on {cores} cores");
            assert_eq!(places.taken(), connections);
        }
    }

    #[test]
    fn a_core_keeps_what_it_accepts_unless_it_is_an_eighth_ahead() {
        let places = Places::new(2, 10_000);
        let take = |here, count: usize| (0..count).filter(|_| places.take(here) != Some(here)).count();
        for _ in 0..1000 {
            assert_eq!((take(0, 1), take(1, 1)), (0, 0), "equal cores exchange nothing");
        }
        assert_eq!(take(0, 125), 0);
        assert_eq!(take(0, 1), 1);
        assert_eq!(counts(&places), [1125, 1001]);
        // The next ones are spread so that the distance grows as slowly as the least loaded core does.
        take(0, 1000);
        let counts = counts(&places);
        assert!(counts[0] - counts[1] <= counts[1] / SLACK_SHARE, "{counts:?}");
    }

    /// Whatever the kernel's spread, and however viewers come and go, the cores end within an eighth of each other.
    #[test]
    fn a_thousand_connections_on_two_cores_end_balanced() {
        for all_to_one in [true, false] {
            let places = Places::new(2, 10_000);
            let mut random = 1_u64;
            let mut draw = |below: usize| {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) as usize % below
            };
            let mut served = Vec::new();
            for round in 0..5000 {
                if served.len() < 1000 {
                    // Two of three go to the first core, or all.
                    let here = if all_to_one { 0 } else { draw(3) / 2 };
                    served.push(places.take(here).expect("there is a place"));
                }
                if round > 1000 && served.len() == 1000 {
                    places.give_back(served.swap_remove(draw(1000)));
                }
            }
            while served.len() < 1000 {
                served.push(places.take(0).expect("there is a place"));
            }
            let counts = counts(&places);
            assert_eq!(counts.iter().sum::<usize>(), 1000);
            let ahead = counts[0].abs_diff(counts[1]);
            assert!(ahead <= 1000 / SLACK_SHARE, "{counts:?}");
        }
    }

    #[test]
    fn a_core_whose_viewers_left_is_filled_up_by_the_others() {
        let places = Places::new(3, 100);
        for here in [0, 1, 2].repeat(4) {
            assert_eq!(places.take(here), Some(here));
        }
        for _ in 0..4 {
            places.give_back(1);
        }
        for here in [0, 2, 0, 2] {
            assert_eq!(places.take(here), Some(1));
        }
        assert_eq!(counts(&places), [4, 4, 4]);
        // Two cores that are ahead of several equal ones choose different ones.
        let places = Places::new(4, 100);
        for here in [0, 0, 2, 2] {
            places.take(here);
        }
        assert_eq!(counts(&places), [1, 1, 1, 1]);
    }

    #[test]
    fn a_place_that_is_not_wanted_there_is_kept_here() {
        let places = Places::new(2, 100);
        assert_eq!((places.take(0), places.take(0)), (Some(0), Some(1)));
        places.shift(1, 0);
        assert_eq!((counts(&places), places.taken()), (vec![2, 0], 2));
    }

    #[test]
    fn no_more_places_are_taken_than_there_are() {
        const LIMIT: usize = 50;
        let places = Places::new(4, LIMIT);
        let accept = &|here| (0..LIMIT).filter_map(|_| places.take(here)).collect::<Vec<_>>();
        let served: Vec<usize> = std::thread::scope(|scope| {
            let threads = [0, 1, 2, 3].map(|here| scope.spawn(move || accept(here)));
            threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(served.len() <= LIMIT && places.taken() == served.len(), "{} served", served.len());
        assert_eq!(counts(&places).iter().sum::<usize>(), served.len());
        while places.taken() < LIMIT {
            assert!(places.take(0).is_some());
        }
        assert_eq!((places.take(0), places.taken()), (None, LIMIT));
        for core in served {
            places.give_back(core);
        }
        assert!(places.take(0).is_some());
    }
}
