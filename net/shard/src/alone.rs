//! Fetches that go alone, each on the core of its viewer, and what unsafe requests make of all fetches (RFC 9111 §4.4).
//!
//! `viewer/exchange.rs` holds a [`FlightGuard`] until its fetch is over or a fill has taken it over, and calls [`Shard::invalidate_everywhere`] for
//! what a successful unsafe request names. The fetches that are shared are `flight.rs`. Invariant: what was asked for before an unsafe
//! request of the same key succeeded is not stored after it, on whatever core.

use std::rc::Rc;
use std::sync::Arc;

use aspis_telemetry::Counter;

use crate::messages::Message;
use crate::shard::Shard;

/// A fetch that goes alone and may end in a stored response, so that an invalidation finds it.
pub(crate) struct AloneFlight {
    pub(crate) hash: u128,
    /// The rule number that was current before the request was sent.
    pub(crate) number: u64,
    /// How often unsafe requests had invalidated something by then.
    pub(crate) unsafes: u64,
    /// The key was invalidated after the origin request was sent: the answer is not stored.
    pub(crate) doomed: bool,
}

/// A fetch in the shard's table of fetches, removed when it is dropped unless a fill took it over.
pub(crate) struct FlightGuard<'g> {
    shard: &'g Rc<Shard>,
    pub(crate) flight: usize,
}

impl<'g> FlightGuard<'g> {
    /// Notes a fetch for the key with this hash, whose request is sent after `number` was read.
    pub(crate) fn new(shard: &'g Rc<Shard>, hash: u128, number: u64) -> Self {
        FlightGuard { shard, flight: shard.begin_flight(hash, number) }
    }

    /// The fill ends the flight from now on.
    pub(crate) fn hand_over(self) {
        std::mem::forget(self);
    }
}

impl Drop for FlightGuard<'_> {
    fn drop(&mut self) {
        self.shard.end_flight(self.flight);
    }
}

impl Shard {
    /// Notes a fetch that goes alone and whose answer may be stored.
    fn begin_flight(&self, hash: u128, number: u64) -> usize {
        let unsafes = self.rules.unsafes();
        self.flights.borrow_mut().insert(AloneFlight { hash, number, unsafes, doomed: false })
    }

    /// Forgets a fetch.
    pub(crate) fn end_flight(&self, flight: usize) {
        self.flights.borrow_mut().try_remove(flight);
    }

    /// Removes what is stored under `key` on every core, and keeps running fetches of it from being stored.
    ///
    /// Other cores have the message in their mailbox before the answer that caused it leaves, and they read their mail
    /// before they look at bytes of a viewer: a viewer who saw that answer does not get the old response. Only where a mailbox
    /// is full does the message come a turn or two later.
    pub(crate) fn invalidate_everywhere(&self, hash: u128, key: &[u8]) {
        self.rules.note_unsafe();
        self.invalidate_here(hash, key);
        let key: Arc<[u8]> = Arc::from(key);
        self.post_others(|| Message::Invalidate { hash, key: Arc::clone(&key) });
    }

    pub(crate) fn invalidate_here(&self, hash: u128, key: &[u8]) {
        if self.owner_of(hash) == self.core {
            let removed = self.store.borrow_mut().invalidate(hash, key);
            self.counters.add(Counter::CacheInvalidated, removed as u64);
            self.owner.collapse.borrow_mut().invalidate(hash);
            self.forget_uri_on_disk(hash);
        } else {
            // The owner's mailbox has this message before any question of ours that follows.
            self.replicas.borrow_mut().remove(hash, key);
        }
        for (_, flight) in self.flights.borrow_mut().iter_mut().filter(|(_, flight)| flight.hash == hash) {
            flight.doomed = true;
        }
    }
}
