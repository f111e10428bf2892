//! What a core uses beside stored content, held against the one limit once a turn; and the order in which it retreats when that is short.
//!
//! Buffers of viewers, requests that wait, origin connections and the like are there before anyone can refuse them. Each has a weight in a
//! meter of its core; every few turns the sums are charged, in steps, so that a hit costs next to nothing here. Then the core looks at what the
//! limit has left, and gives way:
//!
//! ```text
//! left of the headroom     what happens (each step with all before it)
//! all of it                nothing
//! less                     free memory of the arena becomes room for others, then stored responses are evicted; where this core has
//!                          nothing more to give, the others are asked to do the same
//! less than a half         buffers shrink, idle origin connections are closed
//! less than a quarter      where little content is left that could make way, nothing new is stored: what the origin sends goes through
//! less than an eighth      fetches wait until content has made way; once none is left that could, requests that would have to wait get 503
//! less than a sixteenth    new connections do too: who comes for what is stored takes the least, so he is refused last
//! ```
//!
//! Work is bounded in each turn, and a core that gave way in one and is still short takes another: it sleeps only when it has nothing
//! to give, or waits for what it gave and others still hold.
//!
//! Invariants: what is in use is charged within a few turns, to within a step; what a fetch needs is charged before it begins; nobody is
//! refused while stored responses or free memory of arenas could cover what he needs.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aspis_runtime::weight::Meter;
use aspis_runtime::{RingHeap, heap};
use aspis_storage::budget::{Budget, Charge, Purpose};
use aspis_telemetry::Counter;

use crate::limits::{
    ASK_AGAIN_AFTER, CHARGE_STEP, EVICT_AGAIN_AFTER, FETCH_LOOK, FETCH_PATIENCE, LIMBO_SHARE,
    LOOK_EACH_TURNS, RELAY_BUFFER_LEN, RELAY_BUFFER_LEN_SHORT, RING_LIMBO_AFTER, SEND_WINDOW,
    SHRINK_AGAIN_AFTER,
};
use crate::messages::Message;
use crate::shard::Shard;
use crate::viewer::Viewer;

/// A viewer's record, its place in the table, and what the allocator adds.
const VIEWER_COST: u64 = (size_of::<Viewer>() + 64) as u64;

/// How far a core has retreated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Retreat {
    /// There is memory.
    None,
    /// Stored responses leave.
    Evict,
    /// Buffers shrink.
    Shrink,
    /// Nothing new is stored.
    NoFills,
    /// No request waits.
    NoRequests,
    /// Nobody new is served.
    NoConnections,
}

impl Retreat {
    /// Says how far to retreat with so much of the limit left.
    fn of(available: u64, headroom: u64) -> Self {
        match available {
            _ if available >= headroom => Retreat::None,
            _ if available >= headroom / 2 => Retreat::Evict,
            _ if available >= headroom / 4 => Retreat::Shrink,
            _ if available >= left_for_requests(headroom) => Retreat::NoFills,
            _ if available >= left_for_connections(headroom) => Retreat::NoRequests,
            _ => Retreat::NoConnections,
        }
    }
}

/// What is left of the headroom at least where a request waits, or a fetch begins.
fn left_for_requests(headroom: u64) -> u64 {
    headroom / 8
}

/// What is left of the headroom at least where a connection is taken.
fn left_for_connections(headroom: u64) -> u64 {
    headroom / 16
}

/// Tells whether less than twice as much content is left as has to leave.
fn is_running_out(missing: u64, left: u64) -> bool {
    missing.saturating_mul(2) > left
}

/// The meters of the origin's side.
#[derive(Clone, Debug, Default)]
pub struct OriginMeters {
    /// Buffers of fetches.
    pub fetches: Meter,
    /// TLS sessions.
    pub tls: Meter,
}

/// What one core keeps beside content.
pub(crate) struct Account {
    charges: RefCell<Charges>,
    /// Bytes of viewers that nobody used yet.
    pub(crate) inboxes: Meter,
    /// Requests that wait, as far as they are not part of their tasks.
    pub(crate) requests: Meter,
    pub(crate) origin: OriginMeters,
    retreat: Cell<Retreat>,
    /// Counts turns.
    turn: Cell<u32>,
    limbo_rung_at: Cell<Option<u64>>,
    evicted_at: Cell<Option<u64>>,
    asked_at: Cell<Option<u64>>,
    shrunk_at: Cell<Option<u64>>,
    /// The last look gave something up and more is needed.
    gives_way: Cell<bool>,
    /// When the turn of that began.
    gave_in: Cell<Option<Instant>>,
    /// When the turn began in which something was evicted last for somebody who would be refused.
    pressed_in: Cell<Option<Instant>>,
}

struct Charges {
    connections: Charge,
    requests: Charge,
    turns: Charge,
    fills: Charge,
    tls: Charge,
    logs: Charge,
    /// Header sections that are remembered.
    known: Charge,
    /// Bytes of receive buffers.
    received: u64,
}

impl Account {
    /// Opens the account of a core whose ring receives into so many bytes.
    pub(crate) fn new(budget: &Arc<Budget>, received: u64, origin: OriginMeters) -> Self {
        let empty = |purpose| budget.reserve(purpose, 0).expect("nothing always fits into a budget");
        Account {
            charges: RefCell::new(Charges {
                connections: empty(Purpose::Connections),
                requests: empty(Purpose::Requests),
                turns: empty(Purpose::Turns),
                fills: empty(Purpose::Fills),
                tls: empty(Purpose::Tls),
                logs: empty(Purpose::Logs),
                known: empty(Purpose::Turns),
                received,
            }),
            inboxes: Meter::default(),
            requests: Meter::default(),
            origin,
            retreat: Cell::new(Retreat::None),
            turn: Cell::new(0),
            limbo_rung_at: Cell::new(None),
            evicted_at: Cell::new(None),
            asked_at: Cell::new(None),
            shrunk_at: Cell::new(None),
            gives_way: Cell::new(false),
            gave_in: Cell::new(None),
            pressed_in: Cell::new(None),
        }
    }

    /// Returns how far the core has retreated.
    pub(crate) fn retreat(&self) -> Retreat {
        self.retreat.get()
    }

    /// Charges what is in use now.
    fn charge(&self, heap: RingHeap, viewers: usize) {
        let mut charges = self.charges.borrow_mut();
        let viewers = viewers as u64 * VIEWER_COST;
        keep(&mut charges.connections, heap.sockets + heap.sends + self.inboxes.sum() + viewers);
        keep(&mut charges.requests, heap.tasks + self.requests.sum());
        let received = charges.received;
        keep(&mut charges.turns, received + heap.turn);
        keep(&mut charges.fills, self.origin.fetches.sum());
        keep(&mut charges.tls, self.origin.tls.sum());
    }
}

/// Sets a charge to what is in use, rounded up to steps; small changes change nothing.
fn keep(charge: &mut Charge, used: u64) {
    if used > charge.bytes() || used + 2 * CHARGE_STEP <= charge.bytes() {
        charge.set(used.next_multiple_of(CHARGE_STEP));
    }
}

/// Tells whether `span` has passed since `before`, and notes that it is now.
fn is_due(before: &Cell<Option<u64>>, now: u64, span: Duration) -> bool {
    let is_due = before.get().is_none_or(|before| u128::from(now - before) >= span.as_millis());
    if is_due {
        before.set(Some(now));
    }
    is_due
}

impl Shard {
    /// Each turn: looks at the limit every few turns, and in each while memory is short. True if the core must not sleep, because it has
    /// more to give up.
    #[inline]
    pub(crate) fn look_at_limit(&self) -> bool {
        let account = &self.account;
        let turn = account.turn.get().wrapping_add(1);
        account.turn.set(turn);
        if turn.is_multiple_of(LOOK_EACH_TURNS) || account.retreat.get() != Retreat::None {
            self.keep_within_limit();
            self.ring_limbo();
        }
        account.gives_way.get()
    }

    /// Has all cores let go of what was evicted here, once that is more than replicas may hold.
    pub(crate) fn ring_limbo(&self) {
        if self.cores == 1 || self.store.borrow().limbo() <= self.budget.limit() / LIMBO_SHARE {
            return;
        }
        if is_due(&self.account.limbo_rung_at, self.ring.now_millis(), RING_LIMBO_AFTER) {
            self.post_others(|| Message::SweepReplicas);
        }
    }

    /// Charges what this core uses, and retreats if the limit is short.
    pub(crate) fn keep_within_limit(&self) {
        let account = &self.account;
        account.charge(self.ring.heap(), self.viewer_count());
        let headroom = self.budget.headroom();
        if self.budget.available() >= headroom {
            account.retreat.set(Retreat::None);
            account.gives_way.set(false);
            return;
        }
        let gave = self.give_way(headroom);
        account.gives_way.set(gave && self.budget.missing(headroom) > 0);
        let retreat = Retreat::of(self.budget.available(), headroom);
        if retreat >= Retreat::Shrink {
            self.shrink();
        }
        account.retreat.set(retreat);
    }

    /// Charges header sections that are remembered.
    pub(crate) fn charge_known(&self) {
        let known = self.known.borrow().heap_len() as u64;
        keep(&mut self.account.charges.borrow_mut().known, known);
    }

    /// Charges access log buffers.
    pub(crate) fn charge_log(&self) {
        let Some(log) = &self.log else { return };
        let log = log.borrow();
        // What all cores share is charged once.
        let shared = if self.core == 0 { log.queue_heap_len() } else { 0 };
        keep(&mut self.account.charges.borrow_mut().logs, log.heap_len() + shared);
    }

    /// The first step: free memory of the arena goes, then content leaves, until `bytes` are free; where this core has no more to give the
    /// others are asked. Once in a turn; tells whether it gave anything.
    fn give_way(&self, bytes: u64) -> bool {
        let (account, turn) = (&self.account, Some(self.ring.turn_started()));
        if account.gave_in.replace(turn) == turn {
            return account.gives_way.get();
        }
        let has = || (self.arena.resident_len(), self.store.borrow().len());
        let before = has();
        if self.store.borrow().give_up_beside(bytes) {
            return true;
        }
        let (missing, limbo) = (self.budget.missing(bytes), self.store.borrow().limbo());
        // What left and is still held comes back by itself; others need not leave for it, unless it takes long.
        if limbo < missing || is_due(&self.account.evicted_at, self.ring.now_millis(), EVICT_AGAIN_AFTER) {
            self.evict(bytes);
            self.counters.add(Counter::RetreatEvict, 1);
        }
        let gave = has() != before;
        if !gave {
            self.ask_others();
        }
        gave
    }

    /// Has the other cores give way too, if they have anything.
    fn ask_others(&self) {
        let own = self.store.borrow().bytes() + self.arena.resident_free_len();
        if self.cores > 1
            && self.budget.yieldable() > own
            && is_due(&self.account.asked_at, self.ring.now_millis(), ASK_AGAIN_AFTER)
        {
            self.post_others(|| Message::MakeWay);
        }
    }

    /// The last step before somebody is refused: content leaves until `wanted` is free, whatever is in limbo, and the other cores are asked.
    /// Tells whether it is free now.
    fn press_for(&self, wanted: u64) -> bool {
        let is_there = || self.budget.missing(wanted) == 0;
        // Once in a turn, however many want it: what leaves first may be held.
        let turn = Some(self.ring.turn_started());
        if !is_there() && self.account.pressed_in.replace(turn) != turn {
            self.evict(wanted);
            self.counters.add(Counter::RetreatEvict, 1);
            if !is_there() {
                self.ask_others();
            }
        }
        is_there()
    }

    /// Tells whether content of any core, or free memory of any arena, can still make way until `wanted` is free. What is in limbo does so
    /// nobody knows when: it covers nothing, so that those who are served already are not cut for it.
    fn is_covered(&self, wanted: u64) -> bool {
        self.budget.missing(wanted) <= self.budget.yieldable()
    }

    /// The second step: everything that only saves time goes, and the other cores evict as well.
    fn shrink(&self) {
        if !is_due(&self.account.shrunk_at, self.ring.now_millis(), SHRINK_AGAIN_AFTER) {
            return;
        }
        self.counters.add(Counter::RetreatShrink, 1);
        self.ring.shrink();
        heap::give_back();
        // Unless it is in use just now.
        if let Ok(mut scratch) = self.scratch.try_borrow_mut() {
            *scratch = Default::default();
        }
        self.origin.close_idle();
        if let Some(disk) = &self.disk {
            disk.relieve();
        }
        self.sweep_all_replicas();
        self.post_others(|| Message::Evict);
    }

    /// Tells whether a fetch may begin, which takes `bytes` of buffers; content leaves for it if need be, and it waits for what somebody
    /// still holds of it. Else what asked for it is refused: the fourth step, for what waited already when memory became short.
    pub(crate) async fn room_for_fetch(&self, bytes: usize) -> bool {
        let until = self.ring.now_millis() + FETCH_PATIENCE.as_millis() as u64;
        let wanted = left_for_requests(self.budget.headroom()) + bytes as u64;
        while !self.has_room_for_fetch(wanted) {
            if self.budget.missing(wanted) > self.budget.content() || self.ring.now_millis() >= until {
                self.counters.add(Counter::RetreatNoRequest, 1);
                return false;
            }
            self.ring.sleep(FETCH_LOOK).await;
        }
        true
    }

    fn has_room_for_fetch(&self, wanted: u64) -> bool {
        // What this turn brought counts: thousands may be told at once to go alone.
        self.account.charge(self.ring.heap(), self.viewer_count());
        self.budget.missing(wanted) == 0 || {
            self.give_way(self.budget.headroom() + wanted);
            self.press_for(wanted)
        }
    }

    /// Returns how long a buffer is that passes content on: less while memory is short.
    pub(crate) fn relay_len(&self) -> usize {
        if self.account.retreat() >= Retreat::Shrink { RELAY_BUFFER_LEN_SHORT } else { RELAY_BUFFER_LEN }
    }

    /// Returns how much may be queued to a viewer before its task waits: less while memory is short.
    pub(crate) fn send_window(&self) -> u64 {
        if self.account.retreat() >= Retreat::Shrink { 0 } else { SEND_WINDOW }
    }

    /// Whether `bytes` beside content are not to be had now, and will be when stored responses have left.
    pub(crate) fn waits_for_content(&self, bytes: u64) -> bool {
        let missing = self.budget.missing(bytes);
        missing > 0 && missing <= self.budget.stored()
    }

    /// The third step: whether a response that may be stored has to go through uncached. Not as long as twice as much content is left as has
    /// to leave: a passage cuts viewers that are slow.
    pub(crate) fn refuses_fills(&self) -> bool {
        let missing = self.budget.missing(self.budget.headroom());
        self.account.retreat() >= Retreat::NoFills && is_running_out(missing, self.budget.yieldable())
    }

    /// The fifth step: whether nobody new is served.
    pub(crate) fn refuses_viewers(&self) -> bool {
        self.refuses_at(Retreat::NoConnections, left_for_connections(self.budget.headroom()))
    }

    fn refuses_at(&self, step: Retreat, wanted: u64) -> bool {
        if self.account.retreat() < step {
            return false;
        }
        // It may be long ago that this was so: a core that sleeps does not look.
        self.keep_within_limit();
        self.account.retreat() >= step && !self.press_for(wanted) && !self.is_covered(wanted)
    }

    /// The fourth step: whether a request that would have to wait is not served; it is counted.
    pub(crate) fn refuses_request(&self) -> bool {
        let refuses = self.refuses_at(Retreat::NoRequests, left_for_requests(self.budget.headroom()));
        self.counters.add(Counter::RetreatNoRequest, u64::from(refuses));
        refuses
    }
}

#[cfg(test)]
mod shortage_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retreat_has_an_order() {
        let steps: Vec<Retreat> = [800, 799, 399, 199, 99, 49, 0].map(|left| Retreat::of(left, 800)).into();
        let order = [
            Retreat::None,
            Retreat::Evict,
            Retreat::Shrink,
            Retreat::NoFills,
            Retreat::NoRequests,
            Retreat::NoConnections,
        ];
        assert_eq!(steps[..6], order);
        assert_eq!(steps[6], Retreat::NoConnections);
        assert!(order.is_sorted());
    }

    #[test]
    fn content_runs_out_when_half_of_it_has_to_leave() {
        assert!(is_running_out(50, 99) && !is_running_out(50, 100) && !is_running_out(0, 0));
    }

    #[test]
    fn small_changes_are_not_charged_and_none_is_lost() {
        let budget = Budget::new(1 << 20);
        let mut charge = budget.reserve(Purpose::Connections, 0).unwrap();
        keep(&mut charge, 1);
        assert_eq!(charge.bytes(), CHARGE_STEP);
        keep(&mut charge, CHARGE_STEP);
        assert_eq!(charge.bytes(), CHARGE_STEP);
        keep(&mut charge, 5 * CHARGE_STEP + 1);
        assert_eq!(charge.bytes(), 6 * CHARGE_STEP);
        keep(&mut charge, 4 * CHARGE_STEP + 1);
        assert_eq!(charge.bytes(), 6 * CHARGE_STEP);
        keep(&mut charge, 0);
        assert_eq!(budget.used_total(), 0);
    }

    #[test]
    fn what_was_done_is_done_again_after_a_while() {
        let before = Cell::new(None);
        let times = [0, 99, 100, 150, 200].map(|now| is_due(&before, now, Duration::from_millis(100)));
        assert_eq!(times, [true, false, true, false, true]);
    }
}
