//! What one core owns: its viewers, its RAM tier, its origin client, its mail; and the ring's events on their way to them.
//!
//! The runtime calls the `Handler` methods, never one inside another; tasks run between them on the same thread, so a
//! `RefCell` is borrowed for the length of one step only. Nothing here decides about HTTP: that is `core/exchange`.

mod mail;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use aspis_config::Settings;
use aspis_config::behavior::Behavior;
use aspis_exchange::Now;
use aspis_runtime::mailbox::{Post, Receiver};
use aspis_runtime::sync::Notify;
use aspis_runtime::{Close, Handler, ListenerId, Peer, ReceiveEnd, Ring, SocketId};
use aspis_storage::budget::Budget;
use aspis_storage::mapping::arena::{Arena, Block};
use aspis_storage::mapping::body::{BodyWriter, Tail};
use aspis_storage::replica::ReplicaTable;
use aspis_storage::response::StoredResponse;
use aspis_storage::shards::Sharding;
use aspis_storage::tier::{RamTier, Refused};
use aspis_telemetry::{CoreCounters, CoreHistograms, Counter, LogBuffer, Timing};
use aspis_wire::limits::HeadLimits;
use aspis_wire::request::KnownSections;
use slab::Slab;

use crate::account::{Account, OriginMeters};
use crate::alone::AloneFlight;
use crate::asking::Asking;
use crate::backlog::Backlog;
use crate::disk::Disk;
use crate::disk::restore::Restores;
use crate::fill::Fills;
use crate::limits::{
    EVICTED_SHARE, LINGER, MAIL_PER_TURN, REPLICAS_PER_TURN, RETURNED_BLOCKS_PER_TURN, SWEEP_INTERVAL,
};
use crate::messages::Message;
use crate::numbered::Numbered;
use crate::origin::OriginClient;
use crate::overload::Overload;
use crate::owner::Owner;
use crate::places::Places;
use crate::rules::Rules;
use crate::viewer::purge::Purging;
use crate::viewer::{Deadline, Viewer, ViewerState};

use mail::Outbox;

/// The token of the only timer that a shard arms.
const SWEEP: u64 = 1;

/// Everything that one core needs to answer requests.
pub(crate) struct Shard {
    me: Weak<Shard>,
    pub(crate) ring: Ring,
    pub(crate) core: usize,
    pub(crate) settings: Arc<Settings>,
    pub(crate) behavior: Behavior,
    pub(crate) head_limits: HeadLimits,
    pub(crate) object_len_max: u64,
    pub(crate) budget: Arc<Budget>,
    pub(crate) arena: Arena,
    /// What this core owns.
    pub(crate) store: RefCell<RamTier>,
    /// What it served lately of other owners.
    pub(crate) replicas: RefCell<ReplicaTable>,
    /// What was invalidated, and up to where that is done.
    pub(crate) rules: Rules,
    pub(crate) purging: Purging,
    pub(crate) owner: Owner,
    /// What comes back from disk.
    pub(crate) restores: Restores,
    /// Requests that wait for the owners of their keys.
    pub(crate) asks: Numbered<Asking>,
    pub(crate) fills: Fills,
    /// What is in use beside content.
    pub(crate) account: Account,
    pub(crate) flights: RefCell<Slab<AloneFlight>>,
    pub(crate) origin: OriginClient,
    pub(crate) counters: Arc<CoreCounters>,
    pub(crate) histograms: Arc<CoreHistograms>,
    /// Hits of this turn that are not timed yet.
    pub(crate) turn_hits: Cell<u64>,
    pub(crate) log: Option<RefCell<LogBuffer>>,
    /// What viewers repeat with each request.
    pub(crate) known: RefCell<KnownSections>,
    /// Reused for cache keys and for heads that are sent with a larger body.
    pub(crate) scratch: RefCell<Scratch>,
    viewers: RefCell<Vec<Option<Rc<Viewer>>>>,
    pub(crate) backlog: Backlog,
    pub(crate) overload: RefCell<Overload>,
    viewer_count: Cell<usize>,
    /// Where the viewers of all cores are counted.
    places: Arc<Places>,
    listeners: RefCell<Vec<ListenerId>>,
    pub(crate) mail: Receiver<Message>,
    outbox: Outbox,
    pub(crate) cores: usize,
    /// Which core owns what.
    pub(crate) sharding: Sharding,
    /// What this core owns on disk.
    pub(crate) disk: Option<Rc<Disk>>,
    /// Unsafe requests that wait until volumes of other cores know what they removed.
    pub(crate) removals: Numbered<Notify>,
    pub(crate) draining: Cell<bool>,
    sweep_armed: Cell<bool>,
    /// A sweep through the replicas is under way.
    replicas_swept: Cell<bool>,
}

/// Buffers that keep their capacity between requests.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(crate) key: Vec<u8>,
    pub(crate) head: Vec<u8>,
}

/// What `boot` hands to a shard when its core starts.
pub(crate) struct Parts {
    pub(crate) core: usize,
    pub(crate) cores: usize,
    pub(crate) sharding: Sharding,
    pub(crate) disk: Option<Rc<Disk>>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) object_len_max: u64,
    pub(crate) budget: Arc<Budget>,
    pub(crate) arena: Arena,
    pub(crate) replicas: ReplicaTable,
    pub(crate) origin: OriginClient,
    pub(crate) meters: OriginMeters,
    /// Bytes of the ring's receive buffers.
    pub(crate) received_len: u64,
    pub(crate) counters: Arc<CoreCounters>,
    pub(crate) histograms: Arc<CoreHistograms>,
    pub(crate) log: Option<LogBuffer>,
    pub(crate) mail: Receiver<Message>,
    pub(crate) post: Post<Message>,
    pub(crate) rules: Rules,
    pub(crate) purging: Purging,
    pub(crate) places: Arc<Places>,
}

impl Shard {
    /// Makes the shard of this core over `ring`.
    pub(crate) fn new(ring: Ring, parts: Parts) -> Rc<Self> {
        let evicted_len_max = parts.disk.as_ref().map_or(0, |_| parts.arena.capacity() / EVICTED_SHARE);
        let shard = Rc::new_cyclic(|me| Shard {
            me: me.clone(),
            ring,
            core: parts.core,
            behavior: Behavior::from(&*parts.settings),
            head_limits: HeadLimits::default(),
            object_len_max: parts.object_len_max,
            store: RefCell::new(RamTier::new(parts.arena.clone(), Arc::clone(&parts.budget))),
            replicas: RefCell::new(parts.replicas),
            owner: Owner::new(parts.settings.hit_for_miss.as_millis() as u64),
            restores: Restores::new(&parts.budget),
            asks: Numbered::default(),
            fills: Fills::default(),
            account: Account::new(&parts.budget, parts.received_len, parts.meters),
            budget: parts.budget,
            arena: parts.arena,
            flights: RefCell::new(Slab::new()),
            origin: parts.origin,
            counters: parts.counters,
            histograms: parts.histograms,
            turn_hits: Cell::new(0),
            log: parts.log.map(RefCell::new),
            known: RefCell::default(),
            scratch: RefCell::new(Scratch::default()),
            viewers: RefCell::new(Vec::new()),
            backlog: Backlog::default(),
            overload: RefCell::new(Overload::new(parts.settings.shed_after)),
            viewer_count: Cell::new(0),
            places: parts.places,
            listeners: RefCell::new(Vec::new()),
            mail: parts.mail,
            outbox: Outbox::new(parts.post),
            cores: parts.cores,
            sharding: parts.sharding,
            disk: parts.disk,
            removals: Numbered::default(),
            rules: parts.rules,
            purging: parts.purging,
            draining: Cell::new(false),
            sweep_armed: Cell::new(false),
            replicas_swept: Cell::new(true),
            settings: parts.settings,
        });
        shard.store.borrow_mut().keep_evicted(evicted_len_max);
        shard
    }

    /// Adds a listening socket that this core accepts from.
    pub(crate) fn listen(&self, fd: OwnedFd) {
        let listener = self.ring.listen(fd);
        self.listeners.borrow_mut().push(listener);
    }

    /// The shared handle of this shard, for tasks.
    pub(crate) fn handle(&self) -> Rc<Shard> {
        self.me.upgrade().expect("a shard calls itself only while its ring holds it")
    }

    /// The time that the pure code is given.
    pub(crate) fn now(&self) -> Now {
        Now { wall: self.ring.wall_seconds(), millis: self.ring.now_millis() }
    }

    /// The viewer of `socket`, if the connection still lives.
    pub(crate) fn viewer(&self, socket: SocketId) -> Option<Rc<Viewer>> {
        let viewers = self.viewers.borrow();
        viewers.get(socket.slot() as usize)?.as_ref().filter(|viewer| viewer.socket == socket).cloned()
    }

    /// Forgets a viewer and closes its connection; before it lingers, what is queued leaves at the viewer's pace.
    pub(crate) fn close_viewer(&self, viewer: &Viewer, how: Close) {
        if matches!(how, Close::Linger(_)) && self.ring.queued_len(viewer.socket) > 0 && !viewer.gone.get() {
            return self.leave(viewer);
        }
        let slot = viewer.socket.slot() as usize;
        let mut viewers = self.viewers.borrow_mut();
        let Some(place) = viewers.get_mut(slot) else { return };
        if place.as_ref().is_none_or(|kept| kept.socket != viewer.socket) {
            return;
        }
        *place = None;
        drop(viewers);
        viewer.gone.set(true);
        viewer.changed.notify_all();
        self.ring.close(viewer.socket, how);
        self.viewer_count.set(self.viewer_count.get() - 1);
        self.places.give_back(self.core);
        self.counters.set(Counter::ViewerConnectionsOpen, self.viewer_count.get() as u64);
    }

    /// Space for the next bytes of a fill; stored responses are evicted for it. `None` when memory is short all the same.
    pub(crate) fn reserve_tail(&self, writer: &mut BodyWriter, len_max: usize) -> Option<Tail> {
        self.evicting(|store| store.tail(writer, len_max))
    }

    /// A block for so many bytes side by side; stored responses are evicted for it. `None` when memory is short all the same, or in splinters.
    pub(crate) fn block(&self, len: usize) -> Option<Block> {
        self.evicting(|store| store.make_room(len as u64));
        self.arena.allocate(len)
    }

    /// Evicts until the budget has room for so much beside bodies: heads, and what is passed through. Else a cache whose memory is full of
    /// heads would take nothing in any more.
    pub(crate) fn make_room(&self, bytes: u64) {
        if self.budget.available() < bytes {
            self.evict(bytes);
        }
    }

    /// Evicts for so much beside bodies, whether or not the budget has that.
    pub(crate) fn evict(&self, bytes: u64) {
        self.evicting(|store| store.make_room_beside(bytes));
    }

    fn evicting<T>(&self, act: impl FnOnce(&mut RamTier) -> T) -> T {
        let mut store = self.store.borrow_mut();
        store.note_time(self.ring.wall_seconds());
        let before = store.len();
        let result = act(&mut store);
        self.counters.add(Counter::CacheEvicted, (before - store.len()) as u64);
        drop(store);
        self.offer_evicted();
        result
    }

    /// Takes a response into the tier. What leaves for it is in line for the disk before anything else is offered or removed, which is newer.
    pub(crate) fn insert(
        &self,
        stored: &Arc<StoredResponse>,
    ) -> Result<Option<Arc<StoredResponse>>, Refused> {
        let inserted = self.store.borrow_mut().insert(Arc::clone(stored));
        self.offer_evicted();
        inserted
    }

    fn stop_accepting(&self) {
        self.draining.set(true);
        for listener in self.listeners.borrow_mut().drain(..) {
            self.ring.stop_listening(listener);
        }
        for viewer in self.all_viewers() {
            let is_waiting = matches!(viewer.state.get(), ViewerState::Idle | ViewerState::ExpectProxyHeader);
            if is_waiting && viewer.inbox.borrow().is_empty() {
                self.close_viewer(&viewer, Close::Linger(LINGER));
            }
        }
    }

    fn stop(&self) {
        self.stop_accepting();
        for viewer in self.all_viewers() {
            self.close_viewer(&viewer, Close::Abort);
        }
        self.origin.close_idle();
        self.flush_log();
        self.ring.stop();
    }

    fn flush_log(&self) {
        if let Some(log) = &self.log {
            log.borrow_mut().flush(&self.counters);
        }
    }

    fn all_viewers(&self) -> Vec<Rc<Viewer>> {
        self.viewers.borrow().iter().flatten().cloned().collect()
    }

    /// Looks at the viewers, by the slots of their sockets.
    pub(crate) fn with_viewers<T>(&self, look: impl FnOnce(&[Option<Rc<Viewer>>]) -> T) -> T {
        look(&self.viewers.borrow())
    }

    /// Arms the sweep if something may have a deadline. An idle core without connections arms nothing.
    pub(crate) fn arm_sweep(&self) {
        // Viewers, kept origin connections and those that linger, whose number the metrics show, are all sockets.
        let anything = self.ring.live_sockets() > 0 || self.ring.live_tasks() > 0 || self.rules.is_behind();
        if anything && !self.sweep_armed.replace(true) {
            self.ring.arm_timer(SWEEP_INTERVAL, SWEEP);
        }
    }

    /// Begins to look for connections whose deadline has passed, closes idle origin connections, ships the log.
    fn sweep(&self) {
        self.origin.sweep();
        self.tend_rules();
        self.tend_disk();
        if let Some(disk) = &self.disk {
            disk.tend();
        }
        self.ring_limbo();
        self.show_levels();
        self.charge_log();
        self.charge_known();
        self.backlog.begin_sweep();
        self.flush_log();
    }

    /// How many viewers this core has.
    pub(crate) fn viewer_count(&self) -> usize {
        self.viewer_count.get()
    }

    /// Begins to let go of dead replicas.
    pub(crate) fn sweep_all_replicas(&self) {
        self.replicas_swept.set(false);
    }

    /// Lets go of dead replicas, a bounded number in a turn.
    fn sweep_replicas(&self) {
        if !self.replicas_swept.get() {
            let done = self.replicas.borrow_mut().sweep(REPLICAS_PER_TURN);
            self.replicas_swept.set(done);
        }
    }

    /// Copies the levels that others keep to where the control thread reads them.
    fn show_levels(&self) {
        let (counters, ring, store) = (&self.counters, &self.ring, self.store.borrow());
        counters.set(Counter::OriginConnectionsIdle, self.origin.idle_len() as u64);
        counters.set(Counter::CacheResponses, store.len() as u64);
        counters.set(Counter::CacheBodyBytes, store.bytes());
        counters.set(Counter::CacheLimbo, store.limbo() + self.arena.limbo_len());
        counters.set(Counter::ArenaCapacity, self.arena.capacity());
        counters.set(Counter::ArenaResident, self.arena.resident_len());
        counters.set(Counter::ArenaHeld, self.arena.held_len());
        counters.set(Counter::CacheReplicas, self.replicas.borrow().len() as u64);
        let collapse = self.owner.collapse.borrow();
        counters.set(Counter::FlightsRunning, collapse.flights() as u64);
        counters.set(Counter::RequestsWaiting, collapse.waiting() as u64);
        if let Some(disk) = &self.disk {
            disk.show_levels();
        }
        counters.set(Counter::CoreTasks, ring.live_tasks() as u64);
        counters.set(Counter::CoreSockets, ring.live_sockets() as u64);
        let stats = ring.stats();
        counters.set(Counter::CoreTurns, stats.turns);
        counters.set(Counter::CoreLongTurns, stats.long_turns);
        counters.set(Counter::CoreEnters, stats.enters);
    }

    /// A connection broke: what was on its way to the viewer is lost.
    fn lose(&self, viewer: &Viewer) {
        if viewer.state.get() == ViewerState::Busy || self.ring.queued_len(viewer.socket) > 0 {
            self.count_abort(viewer);
        }
        self.close_viewer(viewer, Close::Abort);
    }

    /// Begins to serve a connection whose place is counted here.
    fn welcome(&self, socket: SocketId, peer: Peer) {
        let address = match peer {
            Peer::Inet(address) => Some(address),
            Peer::Unix => None,
        };
        let viewer = Viewer::new(socket, address, self.is_trusted(address), self.settings.proxy_protocol);
        viewer.expect(Deadline::Idle, self.ring.now_millis() + self.idle_timeout());
        let slot = socket.slot() as usize;
        let mut viewers = self.viewers.borrow_mut();
        if viewers.len() <= slot {
            viewers.resize_with(slot + 1, || None);
        }
        viewers[slot] = Some(viewer);
        drop(viewers);
        self.viewer_count.set(self.viewer_count.get() + 1);
        self.counters.set(Counter::ViewerConnectionsOpen, self.viewer_count.get() as u64);
        self.ring.receive(socket);
        self.arm_sweep();
    }

    /// Hands a connection from which nothing was received to the core at which its place is counted. Where that core's
    /// mailbox is full it is served here.
    fn hand_over(&self, core: usize, socket: SocketId, peer: Peer) {
        let descriptor = self.ring.release(socket).expect("nothing was started on a socket just accepted");
        match self.outbox.send_now(core, Message::Viewer { descriptor, peer }) {
            Ok(()) => self.counters.add(Counter::ViewerConnectionsMoved, 1),
            Err(Message::Viewer { descriptor, peer }) => {
                self.places.shift(core, self.core);
                self.welcome(self.ring.adopt(descriptor, peer), peer);
            }
            Err(_) => unreachable!("the mailbox gives back what it was given"),
        }
    }

    /// Another core accepted this connection and handed it over.
    fn take_over(&self, descriptor: OwnedFd, peer: Peer) {
        let socket = self.ring.adopt(descriptor, peer);
        if self.draining.get() {
            self.places.give_back(self.core);
            self.refuse_connection(socket, Counter::ViewerConnectionsRefusedLimit);
        } else {
            self.welcome(socket, peer);
        }
    }

    fn is_trusted(&self, address: Option<SocketAddr>) -> bool {
        address.is_none_or(|address| {
            let ip = address.ip().to_canonical();
            self.settings.trusted_proxies.iter().any(|block| block.contains(&ip))
        })
    }

    /// Tells whether forwarding fields and PROXY headers of `address` are believed.
    pub(crate) fn trusts(&self, address: SocketAddr) -> bool {
        self.is_trusted(Some(address))
    }
}

impl Handler for Shard {
    fn on_accept(&self, _listener: ListenerId, socket: SocketId, peer: Peer) {
        self.counters.add(Counter::ViewerConnections, 1);
        if self.refuses_viewers() {
            self.counters.add(Counter::RetreatNoConnection, 1);
            return self.refuse_connection(socket, Counter::ViewerConnectionsRefusedMemory);
        }
        if self.sheds_connection() {
            return self.refuse_connection(socket, Counter::ViewerConnectionsRefusedLate);
        }
        let place = if self.draining.get() { None } else { self.places.take(self.core) };
        match place {
            Some(core) if core == self.core => self.welcome(socket, peer),
            Some(core) => self.hand_over(core, socket, peer),
            None => self.refuse_connection(socket, Counter::ViewerConnectionsRefusedLimit),
        }
    }

    fn on_receive(&self, socket: SocketId, bytes: &[u8]) {
        // Mail that changes the store first: an invalidation posted by another core must act before a request that its answer caused.
        if !self.mail.is_empty() {
            self.handle_urgent_mail();
        }
        if let Some(viewer) = self.viewer(socket) {
            self.received(&viewer, bytes);
        }
    }

    fn on_receive_end(&self, socket: SocketId, end: ReceiveEnd) {
        let Some(viewer) = self.viewer(socket) else { return };
        viewer.ended.set(true);
        match (end, viewer.state.get()) {
            // The viewer will not ask again; what is queued for it still goes out.
            (ReceiveEnd::Eof, ViewerState::Idle | ViewerState::ExpectProxyHeader) => {
                self.close_viewer(&viewer, Close::Linger(LINGER));
            }
            (ReceiveEnd::Eof, ViewerState::Busy | ViewerState::Stalled) => {
                viewer.changed.notify_all();
                // A reset that met a send shows here as an end: whether the viewer is still there the sends tell, if need be later.
                self.ring.notify_sent(socket);
            }
            // It is looked at again behind the requests that are there.
            (ReceiveEnd::Eof, ViewerState::Queued | ViewerState::Leaving) => {}
            (ReceiveEnd::Error(_), _) => self.lose(&viewer),
        }
    }

    fn on_sent(&self, socket: SocketId, result: Result<(), i32>) {
        let Some(viewer) = self.viewer(socket) else { return };
        match viewer.state.get() {
            _ if result.is_err() => self.lose(&viewer),
            ViewerState::Stalled => self.resume(&viewer),
            ViewerState::Leaving => self.close_viewer(&viewer, Close::Linger(LINGER)),
            ViewerState::ExpectProxyHeader | ViewerState::Idle | ViewerState::Busy | ViewerState::Queued => {}
        }
    }

    fn on_timer(&self, token: u64) {
        if token == SWEEP {
            self.sweep_armed.set(false);
            self.sweep();
            self.arm_sweep();
        }
    }

    fn on_turn(&self) -> bool {
        self.drain_mail(MAIL_PER_TURN);
        self.work_off();
        self.outbox.flush();
        // What readers on this or other cores dropped goes back to the arena, a little each turn.
        self.arena.drain(RETURNED_BLOCKS_PER_TURN);
        self.sweep_replicas();
        self.sweep_rules();
        let walks = self.disk.is_some() && self.keep_warm();
        let gives_way = self.look_at_limit();
        // A message for a full mailbox must not wait until something else wakes this core.
        let mail = !self.mail.is_empty() || !self.outbox.is_empty();
        mail || walks || gives_way || !self.replicas_swept.get() || self.backlog.waits()
    }

    fn on_turn_end(&self, micros: u64) {
        self.histograms.record(Timing::CoreTurn, micros);
        let hits = self.turn_hits.take();
        if hits > 0 {
            self.histograms.record_many(Timing::RequestHit, micros, hits);
        }
    }

    fn on_late(&self, millis: u64) {
        self.note_late(millis);
    }

    fn has_mail(&self) -> bool {
        // Calls and tasks behind `on_turn` leave something for the next turn, too.
        !self.mail.is_empty() || self.backlog.waits()
    }
}
