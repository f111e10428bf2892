//! The cap on origin connections over all cores: who may open one, and who is next when none is left.
//!
//! Each core's `pool` asks it; its home is the member of core 0. Three parts: [`Gate`], one atomic that all cores share;
//! [`HomeQueue`], the line of waiters, owned by the home core; [`CapMessage`], what they tell each other by mailbox.
//!
//! Invariants:
//! - Open connections, kept ones and those being opened included, never exceed the cap: a place is counted before the
//!   socket exists and given back after it was closed.
//! - First in, first out: while anybody waits nobody takes a free place past the line.
//! - No lost wake-up. A waiter raises `waiting` and then sends `Wait`; who gives a place back lowers `open` and then
//!   reads `waiting`. Both are sequentially consistent. If the reader saw zero, its decrement came before the raise, so
//!   the home core, which looks at `open` after it received `Wait`, sees the free place. If it saw a waiter it sends
//!   `Freed`, and the home core looks again.
//! - Kept connections never starve a waiter. A core that finishes with a connection while `waiting` is not zero asks the
//!   home core whose it is (`Offer`). One that was kept before is found by `Reclaim`: the home core asks core by core.
//!   A core that answered that it keeps none is not asked again while the line lasts, because until the line is empty
//!   `waiting` stays above zero and that core must offer, not keep; only `Keep` changes that, and the home core sends it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;

/// The core whose member keeps the line of waiters.
pub(crate) const HOME_CORE: usize = 0;

/// What cores tell each other about the cap. The shard wraps it into its own messages and hands it back to
/// [`OriginClient::deliver`](super::OriginClient::deliver).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapMessage {
    /// To home: `core` wants a place and is in line from now on.
    Wait {
        /// The core that waits.
        core: u32,
        /// Its name for this waiter.
        ticket: u64,
    },
    /// To home: a waiter gave up.
    Cancel {
        /// The core that waited.
        core: u32,
        /// Its name for this waiter.
        ticket: u64,
    },
    /// To home: a place became free while somebody waited.
    Freed,
    /// To home: a reusable connection of `core` became free while somebody waited. Whose is it?
    Offer {
        /// The core that holds the connection.
        core: u32,
    },
    /// To home: the answer to `Reclaim`, and to `Yield` after the place was given back.
    Reclaimed {
        /// The core that was asked.
        core: u32,
        /// What came of it.
        outcome: Reclaim,
    },
    /// To a waiter: a place, counted already.
    Grant {
        /// The waiter's name on its core.
        ticket: u64,
    },
    /// To the offering core: the connection goes to this waiter of yours.
    Hand {
        /// The waiter's name on its core.
        ticket: u64,
    },
    /// To the offering core: nobody needs it, keep it.
    Keep,
    /// To the offering core: another core is first; close it and give its place back.
    Yield,
    /// To any core: close one kept connection if there is one.
    Reclaim,
}

/// How a core answered when it was asked for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// A kept connection was closed.
    Closed,
    /// No connection is kept.
    NoneKept,
    /// The offered connection was closed.
    Yielded,
}

/// The count of open connections that all cores share, and of those who wait for one.
pub(crate) struct Gate {
    open: CachePadded<AtomicUsize>,
    waiting: CachePadded<AtomicUsize>,
    max: usize,
}

impl Gate {
    /// A gate that lets `max` connections be open at once. At least one, else nothing could ever be fetched.
    pub(crate) fn new(max: usize) -> Self {
        Gate {
            open: CachePadded::new(AtomicUsize::new(0)),
            waiting: CachePadded::new(AtomicUsize::new(0)),
            max: max.max(1),
        }
    }

    /// Takes a place if one is free and nobody is in line.
    pub(crate) fn try_take(&self) -> bool {
        self.waiting() == 0 && self.take_for_waiter()
    }

    /// Takes a place for the first in line. Only the home core may pass the line.
    pub(crate) fn take_for_waiter(&self) -> bool {
        self.open
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |open| (open < self.max).then_some(open + 1))
            .is_ok()
    }

    /// Gives a place back; tells whether the home core has to be told.
    #[must_use]
    pub(crate) fn give_back(&self) -> bool {
        let before = self.open.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(before > 0, "a place was given back twice");
        self.waiting() > 0
    }

    /// Gets in line. Must come before `Wait` is sent.
    pub(crate) fn join(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    /// Leaves the line. Only the home core, when it takes a waiter out of its queue.
    fn leave(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many wait, those included whose `Wait` is still on its way.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// How many connections are open or being opened.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

/// What the home core knows about the kept connections of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    Unknown,
    /// It was asked in this stretch of waiting and has not answered.
    Asked {
        stretch: u64,
    },
    /// It keeps none, and cannot keep one before the line is empty.
    Dry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiter {
    core: u32,
    ticket: u64,
}

/// The line of waiters. Lives on the home core; fed with every [`CapMessage`] that is addressed to home.
pub(crate) struct HomeQueue {
    line: VecDeque<Waiter>,
    knowledge: Vec<Knowledge>,
    /// Places that are certain to come: offered connections whose cores were told to close them.
    promised: usize,
    /// Cores that were asked for a kept connection and have not answered.
    asked: usize,
    /// Where the next question goes, so that not always the same core loses its connections.
    next_asked: usize,
    /// Counts the times the line ran empty: what a core answered before says nothing about now.
    stretch: u64,
}

impl HomeQueue {
    /// An empty line for `cores` cores.
    pub(crate) fn new(cores: usize) -> Self {
        HomeQueue {
            line: VecDeque::new(),
            knowledge: vec![Knowledge::Unknown; cores],
            promised: 0,
            asked: 0,
            next_asked: 0,
            stretch: 0,
        }
    }

    /// Takes in one message to home and calls `send` with each answer and the core it goes to.
    pub(crate) fn step(&mut self, gate: &Gate, message: CapMessage, mut send: impl FnMut(usize, CapMessage)) {
        match message {
            CapMessage::Wait { core, ticket } => self.line.push_back(Waiter { core, ticket }),
            CapMessage::Cancel { core, ticket } => self.cancel(gate, Waiter { core, ticket }),
            CapMessage::Freed => {}
            CapMessage::Offer { core } => {
                // A free place first: then fewer have to give way.
                self.grant(gate, &mut send);
                self.offer(gate, core, &mut send);
            }
            CapMessage::Reclaimed { core, outcome } => self.reclaimed(core as usize, outcome),
            CapMessage::Grant { .. }
            | CapMessage::Hand { .. }
            | CapMessage::Keep
            | CapMessage::Yield
            | CapMessage::Reclaim => debug_assert!(false, "not a message to home: {message:?}"),
        }
        self.grant(gate, &mut send);
        if self.line.is_empty() {
            self.stretch += 1;
            self.knowledge
                .iter_mut()
                .filter(|known| **known == Knowledge::Dry)
                .for_each(|known| *known = Knowledge::Unknown);
        } else {
            self.ask(&mut send);
        }
    }

    fn grant(&mut self, gate: &Gate, send: &mut impl FnMut(usize, CapMessage)) {
        while let Some(first) = self.line.front().copied() {
            if !gate.take_for_waiter() {
                return;
            }
            self.line.pop_front();
            gate.leave();
            send(first.core as usize, CapMessage::Grant { ticket: first.ticket });
        }
    }

    fn cancel(&mut self, gate: &Gate, waiter: Waiter) {
        // Not in line: it was served meanwhile, and its core deals with what comes for a ticket it no longer knows.
        if let Some(at) = self.line.iter().position(|other| *other == waiter) {
            self.line.remove(at);
            gate.leave();
        }
    }

    /// Decides whose an offered connection is: the first waiter's for whom no place is promised yet.
    fn offer(&mut self, gate: &Gate, core: u32, send: &mut impl FnMut(usize, CapMessage)) {
        let answer = match self.line.get(self.promised).copied() {
            None => {
                // From now on it keeps one, whatever it answered or is about to answer to a question sent before.
                if let Some(known) = self.knowledge.get_mut(core as usize) {
                    *known = match *known {
                        Knowledge::Asked { .. } => Knowledge::Asked { stretch: u64::MAX },
                        Knowledge::Dry | Knowledge::Unknown => Knowledge::Unknown,
                    };
                }
                CapMessage::Keep
            }
            Some(waiter) if waiter.core == core => {
                self.line.remove(self.promised);
                gate.leave();
                CapMessage::Hand { ticket: waiter.ticket }
            }
            Some(_) => {
                self.promised += 1;
                CapMessage::Yield
            }
        };
        send(core as usize, answer);
    }

    fn reclaimed(&mut self, core: usize, outcome: Reclaim) {
        if outcome == Reclaim::Yielded {
            self.promised = self.promised.saturating_sub(1);
            return;
        }
        let Some(known) = self.knowledge.get_mut(core) else { return };
        let Knowledge::Asked { stretch } = *known else { return };
        self.asked -= 1;
        let is_dry = outcome == Reclaim::NoneKept && stretch == self.stretch;
        *known = if is_dry { Knowledge::Dry } else { Knowledge::Unknown };
    }

    /// Asks as many cores for a kept connection as there are waiters without a promise.
    fn ask(&mut self, send: &mut impl FnMut(usize, CapMessage)) {
        let wanted = self.line.len().saturating_sub(self.promised);
        for _ in 0..self.knowledge.len() {
            if self.asked >= wanted {
                return;
            }
            let core = self.next_asked;
            self.next_asked = (core + 1) % self.knowledge.len();
            if self.knowledge[core] == Knowledge::Unknown {
                self.knowledge[core] = Knowledge::Asked { stretch: self.stretch };
                self.asked += 1;
                send(core, CapMessage::Reclaim);
            }
        }
    }

    /// How many are in line.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }
}

#[cfg(test)]
mod tests;
