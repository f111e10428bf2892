//! The connections of one core: which are kept for the next request, and whether a new one may be opened.
//!
//! `client` acquires here and `body` gives back. A kept connection is used last in, first out, so that those not needed
//! grow old and are closed after `OriginKeepaliveTimeout` (D-26), by use or by the shard's sweep. Each connection holds a
//! [`Slot`], one place under the cap of all cores (`cap`); this file is a core's member of that cap, and core 0's also
//! keeps the line of waiters.
//!
//! Invariants: a slot is released after its socket was closed, never before; no `RefCell` is borrowed while a
//! connection or slot is dropped, because that sends a message, which on core 0 is handled at once; every `Offer`,
//! `Reclaim` and `Yield` is answered once; messages to one core keep their order even if its mailbox was full.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use aspis_exchange::OriginFailure;
use aspis_runtime::Ring;
use aspis_runtime::sync::oneshot;
use aspis_telemetry::{CoreCounters, Counter};

use super::OriginShared;
use super::cap::{CapMessage, HOME_CORE, HomeQueue, Reclaim};
use super::limits::{IDLE_COUNT_MAX, MAIL_RETRY_AFTER, SWEEP_CHECK_MAX, UNREPEATABLE_IDLE_MAX};
use super::stream::Stream;

/// An open connection and its place under the cap. The socket closes before the place is given back.
pub(crate) struct Connection {
    pub(crate) stream: Rc<Stream>,
    slot: Slot,
    /// Of the pool when it was opened: what was opened under older TLS settings is not kept.
    generation: u64,
}

impl Connection {
    /// Closes the socket and keeps the place for another one.
    fn into_slot(self) -> Slot {
        self.slot
    }
}

/// One place under the cap. Dropping it gives the place back.
pub(crate) struct Slot {
    shared: Arc<OriginShared>,
    pool: Weak<Pool>,
}

impl Slot {
    fn new(pool: &Rc<Pool>) -> Self {
        pool.counters.add(Counter::OriginConnectionsOpen, 1);
        Slot { shared: Arc::clone(&pool.shared), pool: Rc::downgrade(pool) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let is_awaited = self.shared.gate.give_back();
        if let Some(pool) = self.pool.upgrade() {
            pool.counters.sub(Counter::OriginConnectionsOpen, 1);
            if is_awaited {
                pool.tell(HOME_CORE, CapMessage::Freed);
            }
        }
    }
}

/// Which kept connections will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Any that is quiet.
    Any,
    /// Only one that was used a moment ago: the request cannot be repeated.
    Recent,
    /// None: one was stale just now.
    Never,
}

/// What a fetch gets from the pool.
pub(crate) enum Acquired {
    /// A connection that served before.
    Kept(Connection),
    /// The right to open one.
    Slot(Slot),
}

struct Idle {
    connection: Connection,
    since_millis: u64,
}

/// What a waiter gets.
enum Granted {
    Slot(Slot),
    Connection(Connection),
}

/// The connections of one core, and its part in the cap.
pub(crate) struct Pool {
    me: Weak<Pool>,
    ring: Ring,
    core: usize,
    shared: Arc<OriginShared>,
    counters: Arc<CoreCounters>,
    idle: RefCell<Vec<Idle>>,
    /// Finished connections about which the home core was asked.
    offered: RefCell<VecDeque<Connection>>,
    waiters: RefCell<HashMap<u64, oneshot::Sender<Granted>>>,
    next_ticket: Cell<u64>,
    addresses: RefCell<Arc<[SocketAddr]>>,
    generation: Cell<u64>,
    home: Option<RefCell<HomeQueue>>,
    /// Messages of this core to itself that wait until the running one is handled.
    local: RefCell<VecDeque<CapMessage>>,
    is_handling: Cell<bool>,
    /// Messages whose mailbox was full.
    outbox: RefCell<VecDeque<(usize, CapMessage)>>,
}

impl Pool {
    /// The empty pool of `core`.
    pub(crate) fn new(
        ring: Ring,
        core: usize,
        shared: Arc<OriginShared>,
        counters: Arc<CoreCounters>,
    ) -> Rc<Self> {
        let home = (core == HOME_CORE).then(|| RefCell::new(HomeQueue::new(shared.cores)));
        Rc::new_cyclic(|me| Pool {
            me: me.clone(),
            ring,
            core,
            shared,
            counters,
            idle: RefCell::new(Vec::new()),
            offered: RefCell::new(VecDeque::new()),
            waiters: RefCell::new(HashMap::new()),
            next_ticket: Cell::new(0),
            addresses: RefCell::new(Arc::from([])),
            generation: Cell::new(0),
            home,
            local: RefCell::new(VecDeque::new()),
            is_handling: Cell::new(false),
            outbox: RefCell::new(VecDeque::new()),
        })
    }

    /// A kept connection or the right to open one. Waits in line, at most `wait_max`, when the cap is reached.
    pub(crate) async fn acquire(
        self: &Rc<Self>,
        reuse: Reuse,
        wait_max: Duration,
    ) -> Result<Acquired, OriginFailure> {
        if let Some(connection) = self.take_idle(reuse) {
            return Ok(Acquired::Kept(connection));
        }
        if self.shared.gate.try_take() {
            return Ok(Acquired::Slot(Slot::new(self)));
        }
        match self.wait(wait_max).await? {
            Granted::Slot(slot) => Ok(Acquired::Slot(slot)),
            Granted::Connection(connection) => {
                let is_usable = reuse != Reuse::Never && self.is_current(&connection);
                if is_usable && connection.stream.is_quiet() {
                    self.counters.add(Counter::OriginConnectionsReused, 1);
                    return Ok(Acquired::Kept(connection));
                }
                Ok(Acquired::Slot(connection.into_slot()))
            }
        }
    }

    /// Binds a new stream to the place that was taken for it.
    pub(crate) fn connected(&self, stream: Stream, slot: Slot) -> Connection {
        self.counters.add(Counter::OriginConnections, 1);
        Connection { stream: Rc::new(stream), slot, generation: self.generation.get() }
    }

    /// Takes back a connection whose response was read to its exact end and that the origin keeps open.
    pub(crate) fn give_back(&self, connection: Connection) {
        if !self.is_current(&connection) || self.idle_len() >= IDLE_COUNT_MAX {
            connection.stream.finish();
        } else if self.shared.gate.waiting() > 0 {
            self.offered.borrow_mut().push_back(connection);
            self.tell(HOME_CORE, CapMessage::Offer { core: self.core as u32 });
        } else {
            self.keep(connection);
        }
    }

    /// Closes connections that were kept too long, and those that the origin closed.
    pub(crate) fn sweep(&self) {
        let age_max = millis(self.shared.settings.keepalive_timeout);
        let now = self.ring.now_millis();
        let mut checked = 0;
        // Oldest first: the youngest are the next to be used, and are checked then.
        let gone = self
            .idle
            .borrow_mut()
            .extract_if(.., |kept| {
                checked += 1;
                let is_old = now.saturating_sub(kept.since_millis) >= age_max;
                is_old || (checked <= SWEEP_CHECK_MAX && !kept.connection.stream.is_quiet())
            })
            .collect::<Vec<_>>();
        close_all(gone);
        self.count_idle();
    }

    /// Closes every kept connection.
    pub(crate) fn close_idle(&self) {
        let all = std::mem::take(&mut *self.idle.borrow_mut());
        close_all(all);
        self.count_idle();
    }

    /// Replaces the addresses. Connections to others are closed when they are not in use.
    pub(crate) fn set_addresses(&self, addresses: Arc<[SocketAddr]>) {
        *self.addresses.borrow_mut() = addresses;
        let gone = self
            .idle
            .borrow_mut()
            .extract_if(.., |kept| !self.is_current(&kept.connection))
            .collect::<Vec<_>>();
        close_all(gone);
        self.count_idle();
    }

    /// Closes every kept connection and, when they are given back, those in use.
    pub(crate) fn retire(&self) {
        self.generation.set(self.generation.get() + 1);
        self.close_idle();
    }

    /// How many connections are kept.
    pub(crate) fn idle_len(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Takes in a message of the cap.
    pub(crate) fn deliver(&self, message: CapMessage) {
        self.local.borrow_mut().push_back(message);
        if self.is_handling.replace(true) {
            return;
        }
        loop {
            let next = self.local.borrow_mut().pop_front();
            let Some(message) = next else { break };
            self.handle(message);
        }
        self.is_handling.set(false);
    }

    fn handle(&self, message: CapMessage) {
        match message {
            CapMessage::Wait { .. }
            | CapMessage::Cancel { .. }
            | CapMessage::Freed
            | CapMessage::Offer { .. }
            | CapMessage::Reclaimed { .. } => self.handle_home(message),
            CapMessage::Grant { ticket } => self.granted(ticket),
            CapMessage::Hand { ticket } => self.handed(ticket),
            CapMessage::Keep => {
                let offered = self.offered.borrow_mut().pop_front();
                if let Some(connection) = offered {
                    self.keep(connection);
                }
            }
            CapMessage::Yield => {
                let offered = self.offered.borrow_mut().pop_front();
                if let Some(connection) = offered {
                    close(connection);
                }
                self.answer(Reclaim::Yielded);
            }
            CapMessage::Reclaim => {
                let oldest = {
                    let mut idle = self.idle.borrow_mut();
                    (!idle.is_empty()).then(|| idle.remove(0))
                };
                let outcome = if oldest.is_some() { Reclaim::Closed } else { Reclaim::NoneKept };
                if let Some(kept) = oldest {
                    close(kept.connection);
                }
                self.count_idle();
                self.answer(outcome);
            }
        }
    }

    fn handle_home(&self, message: CapMessage) {
        let Some(home) = &self.home else {
            debug_assert!(false, "only core {HOME_CORE} is home: {message:?}");
            return;
        };
        let mut answers = Vec::new();
        home.borrow_mut().step(&self.shared.gate, message, |core, answer| answers.push((core, answer)));
        for (core, answer) in answers {
            self.tell(core, answer);
        }
    }

    fn answer(&self, outcome: Reclaim) {
        self.tell(HOME_CORE, CapMessage::Reclaimed { core: self.core as u32, outcome });
    }

    fn granted(&self, ticket: u64) {
        // The place is counted already, whoever takes it; unused it goes back by being dropped.
        let Some(pool) = self.me.upgrade() else { return };
        let slot = Slot::new(&pool);
        let waiter = self.waiters.borrow_mut().remove(&ticket);
        if let Some(waiter) = waiter {
            drop(waiter.send(Granted::Slot(slot)));
        }
    }

    fn handed(&self, ticket: u64) {
        let offered = self.offered.borrow_mut().pop_front();
        let Some(connection) = offered else { return };
        let waiter = self.waiters.borrow_mut().remove(&ticket);
        match waiter {
            None => self.give_back(connection),
            Some(waiter) => {
                if let Err(Granted::Connection(connection)) = waiter.send(Granted::Connection(connection)) {
                    self.give_back(connection);
                }
            }
        }
    }

    async fn wait(self: &Rc<Self>, wait_max: Duration) -> Result<Granted, OriginFailure> {
        // Over all cores, so that no core waits in vain beside others that wait little.
        if self.shared.gate.waiting() >= self.shared.settings.queue_len_max {
            return Err(OriginFailure::Overloaded);
        }
        let ticket = self.next_ticket.get();
        self.next_ticket.set(ticket + 1);
        let (sender, receiver) = oneshot::channel();
        self.waiters.borrow_mut().insert(ticket, sender);
        self.counters.add(Counter::OriginWaits, 1);
        self.counters.add(Counter::OriginWaiting, 1);
        // From here on the guard withdraws the ticket if this future is dropped.
        let _in_line = InLine { pool: Rc::clone(self), ticket };
        self.shared.gate.join();
        self.tell(HOME_CORE, CapMessage::Wait { core: self.core as u32, ticket });
        match self.ring.timeout(wait_max, receiver).await {
            Ok(Ok(granted)) => Ok(granted),
            Ok(Err(_)) | Err(_) => Err(OriginFailure::Overloaded),
        }
    }

    fn take_idle(&self, reuse: Reuse) -> Option<Connection> {
        let kept_max = self.shared.settings.keepalive_timeout;
        let age_max = match reuse {
            Reuse::Never => return None,
            Reuse::Any => millis(kept_max),
            Reuse::Recent => millis(kept_max.min(UNREPEATABLE_IDLE_MAX)),
        };
        let now = self.ring.now_millis();
        loop {
            let youngest =
                self.idle.borrow_mut().pop_if(|kept| now.saturating_sub(kept.since_millis) < age_max)?;
            self.count_idle();
            if youngest.connection.stream.is_quiet() {
                self.counters.add(Counter::OriginConnectionsReused, 1);
                return Some(youngest.connection);
            }
        }
    }

    /// Tells whether `connection` was made under the TLS settings of today and to an address that the name still has.
    fn is_current(&self, connection: &Connection) -> bool {
        let addresses = self.addresses.borrow();
        let is_address = |address| addresses.contains(&address);
        connection.generation == self.generation.get() && connection.stream.address().is_some_and(is_address)
    }

    fn keep(&self, connection: Connection) {
        if !self.is_current(&connection) {
            close(connection);
            return;
        }
        connection.stream.rest();
        let since_millis = self.ring.now_millis();
        self.idle.borrow_mut().push(Idle { connection, since_millis });
        self.count_idle();
    }

    fn count_idle(&self) {
        self.counters.set(Counter::OriginConnectionsIdle, self.idle_len() as u64);
    }

    /// Sends a message, to this core without a detour.
    fn tell(&self, core: usize, message: CapMessage) {
        if core == self.core {
            self.deliver(message);
            return;
        }
        let mut outbox = self.outbox.borrow_mut();
        if outbox.is_empty() && (self.shared.post)(core, message).is_ok() {
            return;
        }
        outbox.push_back((core, message));
        if outbox.len() == 1 {
            self.ring.spawn(flush_outbox(self.ring.clone(), self.me.clone()));
        }
    }
}

/// Sends what found a full mailbox, in order, until nothing is left.
async fn flush_outbox(ring: Ring, pool: Weak<Pool>) {
    loop {
        ring.sleep(MAIL_RETRY_AFTER).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut outbox = pool.outbox.borrow_mut();
        while let Some((core, message)) = outbox.front().copied() {
            if (pool.shared.post)(core, message).is_err() {
                break;
            }
            outbox.pop_front();
        }
        if outbox.is_empty() {
            return;
        }
    }
}

/// Withdraws a waiter that nobody polls any more.
struct InLine {
    pool: Rc<Pool>,
    ticket: u64,
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.pool.counters.sub(Counter::OriginWaiting, 1);
        let was_waiting = self.pool.waiters.borrow_mut().remove(&self.ticket).is_some();
        if was_waiting {
            self.pool
                .tell(HOME_CORE, CapMessage::Cancel { core: self.pool.core as u32, ticket: self.ticket });
        }
    }
}

fn close(connection: Connection) {
    connection.stream.finish();
}

fn close_all(kept: Vec<Idle>) {
    for idle in kept {
        close(idle.connection);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
