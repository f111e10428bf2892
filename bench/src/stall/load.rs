//! Everything that a disk tier does, each at a bounded rate: reads of what memory does not hold, once and again, reads of parts of large objects, fills small and
//! large, and the writes that come of them.
//!
//! Runs in a process of its own, at the worst priority; each thread is a [`viewer`] that asks steadily. A failure of one is a failure of all.

use crate::peers::cell::Cell;
use crate::plan::Plan;
use crate::process::Server;
use crate::random::Random;
use crate::viewer::{self, Wish};
use crate::wait;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// Objects that are stored beforehand: small ones, and some of several slices.
pub(super) const COLD: u32 = 8_000;
pub(super) const LARGE: u32 = 16;
/// Of the small ones those that come again and again.
const WARM: u32 = 3_000;
const COLD_SIZE: u64 = 64 * 1024;
const LARGE_SIZE: u64 = 4 << 20;
/// Longest part of a large object that is asked for, and how many of its first bytes parts begin in: they come again soon.
const PART_LEN: u64 = 256 * 1024;
const PARTS_SPAN: u64 = 2 << 20;
const NEW_LARGE_SIZE: u64 = 4 << 20;
/// New objects of one round.
const NEW_PER_ROUND: u64 = 1 << 32;
/// After the last request the answers are there by then.
const GRACE: Duration = Duration::from_secs(40);

/// The small objects that are stored.
pub(super) fn cold_cell() -> Cell {
    Cell::plain(COLD_SIZE, 1)
}

/// The large ones.
pub(super) fn large_cell() -> Cell {
    Cell::plain(LARGE_SIZE, 1)
}

/// What a thread asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// Any of the small objects.
    Cold,
    /// One of those that come again and again, more than memory holds: they are sent from the page cache as long as the hog leaves them there.
    Warm,
    /// A part of one of the large ones.
    Part,
    /// A small object that nobody asked for before.
    New,
    /// A large one.
    NewLarge,
}

/// Who asks: what, on how many connections, how often a second in all.
const DEEDS: [(Deed, u64, u32); 5] = [
    (Deed::Cold, 4, 400),
    (Deed::Warm, 4, 400),
    (Deed::Part, 2, 60),
    (Deed::New, 2, 100),
    (Deed::NewLarge, 1, 2),
];

/// Starts the load of a round and returns when it has begun.
pub(super) fn start(address: SocketAddr, round: usize, length: Duration, core: usize) -> io::Result<Server> {
    let (round, seconds) = (round.to_string(), length.as_secs_f64().to_string());
    let words = ["stall-part", "load", &address.to_string(), &round, &seconds].map(str::to_owned);
    let mut server = Server::start_beside("disk load", &words, core)?;
    server.announced("loads ")?;
    Ok(server)
}

/// Waits for its end; what it said of failures is an error.
pub(super) fn end(mut load: Server) -> io::Result<()> {
    let has_ended = wait::until(GRACE, || !load.runs());
    match load.errors().first() {
        Some(fault) => Err(io::Error::other(format!("disk load: {fault}"))),
        None if has_ended => Ok(()),
        None => Err(io::Error::other("the disk load does not end")),
    }
}

/// What the process does: address, number of the round, seconds.
pub(super) fn part(words: &[String]) -> io::Result<()> {
    let wrong = || io::Error::other("expected: ADDRESS ROUND SECONDS");
    let [address, round, seconds] = words else { return Err(wrong()) };
    let address: SocketAddr = address.parse().map_err(|_| wrong())?;
    let round: u64 = round.parse().map_err(|_| wrong())?;
    let seconds: f64 = seconds.parse().map_err(|_| wrong())?;
    let length = Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    println!("loads {address}");
    let start = Instant::now();
    thread::scope(|scope| {
        let mut askers = Vec::new();
        for (deed, connections, per_second) in DEEDS {
            for number in 0..connections {
                let period = Duration::from_secs_f64(connections as f64 / f64::from(per_second));
                askers.push(scope.spawn(move || {
                    let mut choice = Choice::new(deed, round, number);
                    viewer::steadily(address, || choice.draw(), start + length, period)
                }));
            }
        }
        let died = |_| Err(io::Error::other("an asker's thread panicked"));
        askers.into_iter().try_for_each(|asker| asker.join().unwrap_or_else(died))
    })
}

/// What one thread asks for next.
struct Choice {
    deed: Deed,
    random: Random,
    /// The next new object.
    next: u64,
}

impl Choice {
    fn new(deed: Deed, round: u64, number: u64) -> Self {
        let next = (round * 16 + number + 1) * NEW_PER_ROUND;
        Self { deed, random: Random::new(next), next }
    }

    fn draw(&mut self) -> Wish {
        let mut any = |count: u32| (self.random.next() % u64::from(count)) as u32;
        match self.deed {
            Deed::Cold => (cold_cell().plan(any(COLD)), None),
            Deed::Warm => (cold_cell().plan(any(WARM)), None),
            Deed::Part => {
                let plan = large_cell().plan(any(LARGE));
                let from = self.random.next() % PARTS_SPAN;
                (plan, Some((from, from + self.random.between(1, PART_LEN))))
            }
            Deed::New | Deed::NewLarge => {
                self.next += 1;
                let size = if self.deed == Deed::New { COLD_SIZE } else { NEW_LARGE_SIZE };
                (Plan { id: self.next, ..Cell::plain(size, 1).plan(0) }, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Origin;

    #[test]
    fn everything_is_asked_for_and_what_is_new_is_never_asked_for_twice() {
        let mut seen = Vec::new();
        for (deed, round, number) in
            [(Deed::New, 0, 0), (Deed::New, 0, 1), (Deed::New, 1, 0), (Deed::NewLarge, 0, 0)]
        {
            let mut choice = Choice::new(deed, round, number);
            seen.extend((0..100).map(|_| choice.draw().0));
        }
        let count = seen.len();
        seen.sort_by_key(|plan| (plan.size, plan.id));
        seen.dedup();
        assert_eq!(seen.len(), count);
        let mut parts = Choice::new(Deed::Part, 0, 0);
        assert!((0..100).all(|_| parts.draw().1.is_some_and(|(from, to)| from < to && to < LARGE_SIZE)));
    }

    #[test]
    fn a_load_lasts_as_long_as_it_is_told() {
        let origin = Origin::start().unwrap();
        let start = Instant::now();
        let words = [origin.address().to_string(), "0".to_owned(), "0.2".to_owned()];
        part(&words).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(200) && origin.requests() > 20);
    }
}
