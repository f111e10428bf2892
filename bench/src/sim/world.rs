//! Simulated time, cores and messages between them: what happens next, and to whom it is given.
//!
//! `viewer`, `owner` and `flight` are the driver: each is told what happened and does what the product's machines say. Nothing here
//! decides. Invariants: messages of one core to another arrive in their order; what happens at the same millisecond happens in the order
//! in which it was scheduled, so a seed is played in one way only.

mod happening;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::invalidation::RuleTable;
use aspis_config::{Behavior, Raw, check};
use aspis_exchange::collapse::{Collapse, FlightId, Limits};
use aspis_exchange::{Now, OriginFailure, ViewerFacts};
use aspis_storage::budget::{Budget, Purpose};
use aspis_storage::mapping::arena::Arena;
use aspis_storage::mapping::body::Body;
use aspis_storage::replica::ReplicaTable;
use aspis_storage::response::StoredResponse;
use aspis_storage::shards::owner_core;
use aspis_storage::tier::RamTier;
use aspis_wire::Scheme;

use crate::random::Random;

use super::control::{Control, Judged, Sweep};
use super::counts::{Count, Counts};
use super::flight::Flight;
use super::oracle::Oracle;
use super::origin::{Item, Origin, WALL};
use super::scenario::Scenario;
use super::text::Head;
use super::viewer::Viewer;

use happening::Due;
pub(crate) use happening::{Happening, Message};

/// Who all viewers are.
pub(crate) const FACTS: ViewerFacts =
    ViewerFacts { scheme: Scheme::Http, address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), trusted: false };

/// Events after which a run counts as one that never ends.
const EVENTS_MAX: u64 = 200_000;

/// A core's sweeps, in milliseconds.
const SWEEP_EVERY: u64 = 700;

/// One simulated core.
pub(crate) struct Core {
    pub(crate) tier: RamTier,
    pub(crate) replicas: ReplicaTable,
    /// Waiters are viewers' numbers.
    pub(crate) collapse: Collapse<usize>,
    /// The flights of `collapse` by their names there.
    pub(crate) flights: HashMap<FlightId, usize>,
    /// For whom its viewers wait here.
    pub(crate) waits: HashMap<usize, FlightId>,
    /// How many invalidations this core did as an owner.
    pub(crate) epoch: u64,
    /// What the operator invalidated, as far as this core was told.
    pub(crate) rules: RuleTable,
    /// What the rules did here, until the judge hears of it.
    pub(crate) judged: RefCell<Vec<Judged>>,
    pub(crate) sweep: Sweep,
}

impl Core {
    /// A core with nothing stored.
    pub(crate) fn new(scenario: &Scenario, budget: &Arc<Budget>) -> Result<Core, String> {
        let limits =
            Limits { waiters_max: scenario.waiters_max, marks_max: 64, mark_millis: scenario.mark_millis };
        let arena = Arena::new(4 << 20, Arc::clone(budget)).map_err(|error| error.to_string())?;
        let replicas = ReplicaTable::new(scenario.replica_slots, budget).ok_or("no room for replicas")?;
        Ok(Core {
            tier: RamTier::new(arena, Arc::clone(budget)),
            replicas,
            collapse: Collapse::new(limits),
            flights: HashMap::new(),
            waits: HashMap::new(),
            epoch: 0,
            rules: RuleTable::new(),
            judged: RefCell::default(),
            sweep: Sweep::default(),
        })
    }
}

/// Who gets what comes for a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consumer {
    Flight(usize),
    Viewer(usize),
    /// A viewer, through this owner.
    Passed {
        viewer: usize,
        owner: usize,
    },
    Nobody,
}

/// One request to the origin.
pub(crate) struct Fetch {
    pub(crate) consumer: Consumer,
    request: Head,
    pub(crate) site: usize,
    leader: Option<usize>,
    script: VecDeque<(u64, Item)>,
    version: u64,
    sent_at: u64,
    /// The number of the newest batch of rules when it was sent.
    pub(crate) number: u64,
    /// The judge's count of them.
    pub(crate) rules: usize,
}

/// All of one seed's run.
pub(crate) struct World {
    pub(crate) scenario: Scenario,
    pub(crate) behavior: Behavior,
    pub(crate) budget: Arc<Budget>,
    pub(crate) cores: Vec<Core>,
    pub(crate) viewers: Vec<Viewer>,
    pub(crate) fetches: Vec<Fetch>,
    pub(crate) flights: Vec<Flight>,
    pub(crate) origin: Origin,
    pub(crate) oracle: Oracle,
    pub(crate) counts: Counts,
    pub(crate) now: u64,
    /// What happened, if anybody wants to know.
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) control: Control,
    /// By the address of a body, how many batches of rules had been accepted when its first byte was asked for; the last body there counts.
    bodies: HashMap<usize, usize>,
    queue: BinaryHeap<Reverse<Due>>,
    scheduled: u64,
    /// When the last message from one core to another arrives.
    last: Vec<u64>,
    random: Random,
}

/// The content of a stored response: nothing is mapped here.
pub(super) fn content(stored: &StoredResponse) -> &Arc<Body> {
    stored.body.in_memory().expect("the simulator has no disk")
}

/// Writes a line of the trace if there is one.
macro_rules! note {
    ($world:expr, $($argument:tt)*) => {
        if let Some(trace) = &mut $world.trace {
            trace.push(format!("{:>6} {}", $world.now, format_args!($($argument)*)));
        }
    };
}
pub(crate) use note;

impl World {
    /// Sets up the world of a seed, with a trace or without.
    pub(crate) fn new(seed: u64, traced: bool) -> Result<World, String> {
        let scenario = Scenario::of(seed);
        let mut raw: Raw = [("origin", "http://origin.example")].into_iter().collect();
        if scenario.stale_as_stated {
            raw.push("stale-on-error", "stated");
        }
        let behavior = Behavior::from(&check(&raw).map_err(|errors| format!("{errors:?}"))?);
        let base = scenario.cores as u64 * 16 * 1024;
        let budget = Budget::new(base + scenario.memory_len);
        let mut cores = Vec::new();
        for _ in 0..scenario.cores {
            cores.push(Core::new(&scenario, &budget)?);
        }
        let viewers = scenario.plans.iter().map(|plan| Viewer::new(plan, &scenario)).collect();
        let mut world = World {
            origin: Origin::new(seed, &scenario),
            behavior,
            budget,
            cores,
            viewers,
            fetches: Vec::new(),
            flights: Vec::new(),
            oracle: Oracle::default(),
            counts: Counts::default(),
            now: 0,
            trace: traced.then(Vec::new),
            control: Control::new(scenario.cores, scenario.tells_early),
            bodies: HashMap::new(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            last: vec![0; scenario.cores * scenario.cores],
            random: Random::new(seed ^ 0x5157_0012),
            scenario,
        };
        world.schedule_all();
        Ok(world)
    }

    fn schedule_all(&mut self) {
        for viewer in 0..self.viewers.len() {
            let plan = &self.scenario.plans[viewer];
            let (at, leaves_after) = (plan.at, plan.leaves_after);
            self.schedule(at, Happening::Arrives(viewer));
            if let Some(after) = leaves_after {
                self.schedule(at + after, Happening::Leaves(viewer));
            }
        }
        for (at, site) in self.scenario.changes.clone() {
            self.schedule(at, Happening::Changes(site));
        }
        for core in 0..self.cores.len() {
            self.schedule(SWEEP_EVERY, Happening::Sweeps(core));
        }
        for purge in 0..self.scenario.purges.len() {
            self.schedule(self.scenario.purges[purge].at, Happening::Accepts(purge));
        }
        if !self.scenario.purges.is_empty() {
            (0..self.cores.len()).for_each(|core| self.schedule(0, Happening::SweepsRules { core, life: 0 }));
        }
        if let Some(at) = self.scenario.restart_at {
            self.schedule(at, Happening::Restarts);
        }
    }

    /// Plays until nothing is left to happen, or a fault is found; then looks whether everything is in its place.
    pub(crate) fn play(&mut self) {
        let mut events = 0;
        while let Some(Reverse(due)) = self.queue.pop() {
            self.now = due.at;
            self.happens(due.happening);
            events += 1;
            if events > EVENTS_MAX {
                self.oracle.fault("it never ends");
            }
            if self.oracle.fault.is_some() {
                return;
            }
        }
        self.counts.add(Count::Events, events);
        self.counts.add(Count::SoftServed, self.oracle.soft_served.get());
        self.drained();
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Arrives(viewer) => self.arrives(viewer),
            Happening::Leaves(viewer) => self.leaves(viewer),
            Happening::Reads(viewer) => self.read(viewer),
            Happening::Delivered { life, .. } if life != self.control.life => {}
            Happening::Delivered { from, to, message, .. } => self.delivered(from, to, message),
            Happening::Reaches(fetch) => {
                let Fetch { site, leader, request, .. } = &self.fetches[fetch];
                let (site, leader) = (*site, *leader);
                let version = self.origin.version(site);
                let script = self.origin.answer(&self.scenario, site, request, leader, self.now);
                note!(self, "fetch {fetch} reaches the origin, version {version}");
                self.fetches[fetch].version = version;
                self.fetches[fetch].script = script;
                self.comes_next(fetch);
            }
            Happening::Comes(fetch) => self.comes(fetch),
            Happening::Accepts(purge) => self.accepts(purge),
            Happening::Safe { number, life } => self.safe(number, life),
            Happening::Told { core, told, life } => self.told(core, told, life),
            Happening::SweepsRules { core, life } if life == self.control.life => self.sweeps_rules(core),
            Happening::SweepsRules { .. } => {}
            Happening::Restarts => self.restarts(),
            Happening::Changes(site) => {
                self.origin.change(site);
                note!(self, "site {site} is now version {}", self.origin.version(site));
            }
            Happening::Sweeps(core) => {
                self.cores[core].replicas.sweep(16);
                if self.now < self.scenario.ends_at {
                    self.schedule(self.now + SWEEP_EVERY, Happening::Sweeps(core));
                }
            }
        }
    }

    fn delivered(&mut self, from: usize, to: usize, message: Message) {
        match message {
            Message::Ask { viewer, has } => self.asked(to, viewer, has),
            Message::Reply { viewer, reply, epoch } => self.replied(viewer, reply, epoch),
            Message::Leave { viewer } => self.left(to, viewer),
            Message::Refresh { viewer, stored } => self.refresh(to, viewer, stored),
            Message::Progress { flight } => self.progressed(to, flight),
            Message::Room { flight } => self.pump(flight),
            Message::Invalidate { viewer, hash, key } => self.invalidate(to, from, viewer, hash, &key),
            Message::Invalidated { viewer } => self.invalidated(viewer),
            Message::Deposit(deposit) => self.deposited(to, &deposit),
            Message::Change(change) => self.changed(to, &change),
            Message::Chunk { viewer, bytes } => self.viewer_chunk(viewer, &bytes),
            Message::Ended { viewer, whole } => self.viewer_ended(viewer, whole),
        }
    }

    /// Sends a message; one to oneself arrives at once, but after what happens now.
    pub(crate) fn post(&mut self, from: usize, to: usize, message: Message) {
        let mut at = self.now;
        if from != to {
            let pair = from * self.cores.len() + to;
            at = (at + self.delay()).max(self.last[pair]);
            self.last[pair] = at;
        }
        let life = self.control.life;
        self.schedule(at, Happening::Delivered { from, to, message, life });
    }

    /// How long a message takes.
    pub(crate) fn delay(&mut self) -> u64 {
        self.random.between(0, self.scenario.message_millis_max)
    }

    /// Something happens later.
    pub(crate) fn schedule_after(&mut self, after: u64, happening: Happening) {
        self.schedule(self.now + after, happening);
    }

    /// A viewer reads on later.
    pub(crate) fn read_later(&mut self, viewer: usize, after: u64) {
        self.schedule(self.now + after, Happening::Reads(viewer));
    }

    pub(crate) fn schedule(&mut self, at: u64, happening: Happening) {
        self.scheduled += 1;
        self.queue.push(Reverse(Due { at, number: self.scheduled, happening }));
    }

    /// Sends a request to the origin.
    pub(crate) fn fetch(&mut self, consumer: Consumer, request: &[u8], leader: Option<usize>) -> usize {
        let request = Head::of(request);
        let site = self.scenario.sites.iter().position(|site| site.path == request.word(1));
        let Some(site) = site else {
            self.oracle.fault(format!("a request for a URL that nobody asked for: {request:?}"));
            return usize::MAX;
        };
        let fetch = self.fetches.len();
        note!(self, "fetch {fetch} for {consumer:?}: {request:?}");
        self.counts.add(Count::Fetches, 1);
        leader.into_iter().for_each(|leader| self.oracle.fetches(leader));
        self.fetches.push(Fetch {
            consumer,
            request,
            site,
            leader,
            script: VecDeque::new(),
            version: 0,
            sent_at: self.now,
            number: self.control.number,
            rules: self.oracle.rules(),
        });
        let after = self.random.between(0, 3);
        self.schedule(self.now + after, Happening::Reaches(fetch));
        fetch
    }

    /// A body is begun by a request that was sent when so many batches of rules had been accepted.
    pub(crate) fn begins_body(&mut self, body: &Arc<Body>, rules: usize) {
        self.bodies.insert(Arc::as_ptr(body).addr(), rules);
    }

    /// That number of a body.
    pub(crate) fn began(&self, body: &Arc<Body>) -> Option<usize> {
        self.bodies.get(&Arc::as_ptr(body).addr()).copied()
    }

    /// Nobody wants what still comes for a fetch.
    pub(crate) fn drop_fetch(&mut self, fetch: usize) {
        self.fetches[fetch].consumer = Consumer::Nobody;
    }

    fn comes_next(&mut self, fetch: usize) {
        if let Some((after, _)) = self.fetches[fetch].script.front() {
            let at = self.now + after;
            self.schedule(at, Happening::Comes(fetch));
        }
    }

    fn comes(&mut self, fetch: usize) {
        let Some((_, item)) = self.fetches[fetch].script.pop_front() else { return };
        let Fetch { site, consumer, version, .. } = self.fetches[fetch];
        if consumer == Consumer::Nobody {
            return;
        }
        self.comes_next(fetch);
        match item {
            Item::Head(serial, head) => {
                let record = &mut self.origin.records[serial];
                let sent = &self.fetches[fetch];
                (record.sent_at, record.received_at, record.rules) =
                    (sent.sent_at, Some(self.now), sent.rules);
                note!(self, "fetch {fetch} head {serial}: {} version {}", record.status, record.version);
                if record.status >= 500 {
                    self.oracle.fails(site, self.now);
                }
                match consumer {
                    Consumer::Flight(flight) => self.flight_head(flight, fetch, &head),
                    Consumer::Viewer(viewer) => self.viewer_head(viewer, &head),
                    Consumer::Passed { .. } | Consumer::Nobody => {}
                }
            }
            Item::Chunk(bytes) => match consumer {
                Consumer::Flight(flight) => self.flight_chunk(flight, &bytes),
                Consumer::Viewer(viewer) => self.viewer_chunk(viewer, &bytes),
                Consumer::Passed { viewer, owner } => {
                    let core = self.viewers[viewer].core;
                    self.post(owner, core, Message::Chunk { viewer, bytes });
                }
                Consumer::Nobody => {}
            },
            Item::Whole | Item::Broken => {
                let whole = matches!(item, Item::Whole);
                note!(self, "fetch {fetch} ends {}", if whole { "whole" } else { "broken" });
                if !whole {
                    self.oracle.breaks(site, version);
                }
                match consumer {
                    Consumer::Flight(flight) => self.flight_ended(flight, whole),
                    Consumer::Viewer(viewer) => self.viewer_ended(viewer, whole),
                    Consumer::Passed { viewer, owner } => {
                        let core = self.viewers[viewer].core;
                        self.post(owner, core, Message::Ended { viewer, whole });
                    }
                    Consumer::Nobody => {}
                }
            }
            Item::Silence | Item::Refused => {
                let failure = match item {
                    Item::Silence => OriginFailure::ReadTimeout,
                    _ => OriginFailure::Refused,
                };
                note!(self, "fetch {fetch} fails: {failure}");
                self.oracle.fails(site, self.now);
                match consumer {
                    Consumer::Flight(flight) => self.flight_failed(flight, failure),
                    Consumer::Viewer(viewer) => self.viewer_failed(viewer, failure),
                    Consumer::Passed { .. } | Consumer::Nobody => {}
                }
            }
        }
    }

    /// The time as the product sees it.
    pub(crate) fn clock(&self) -> Now {
        Now { wall: WALL + self.now / 1000, millis: self.now }
    }

    /// The core that owns a primary key.
    pub(crate) fn owner(&self, primary: u128) -> usize {
        owner_core(primary, self.cores.len())
    }

    /// Nothing may be left over when nobody is there any more.
    fn drained(&mut self) {
        if let Some(viewer) = self.viewers.iter().position(|viewer| !viewer.is_done()) {
            self.oracle.fault(format!("viewer {viewer} was never answered: {:?}", self.viewers[viewer]));
        }
        for (core, it) in self.cores.iter().enumerate() {
            let (flights, waiting) = (it.collapse.flights(), it.collapse.waiting());
            if flights + waiting + it.flights.len() + it.waits.len() > 0 {
                self.oracle.fault(format!("core {core} still has {flights} flights and {waiting} waiters"));
            }
        }
        self.storms();
        self.viewers.clear();
        self.flights.clear();
        self.take_back();
        for (core, it) in self.cores.iter().enumerate() {
            let (limbo, waiting) = (it.tier.limbo(), it.tier.arena().limbo_len());
            if limbo + waiting > 0 {
                self.oracle.fault(format!("core {core}: {limbo} bytes in limbo, {waiting} not taken back"));
            }
        }
        for core in &mut self.cores {
            core.tier.clear();
        }
        self.take_back();
        for purpose in [Purpose::Payload, Purpose::Limbo, Purpose::Heads, Purpose::Fills] {
            let used = self.budget.used(purpose);
            if used > 0 {
                self.oracle.fault(format!("{used} bytes of {} are charged for nothing", purpose.name()));
            }
        }
    }

    /// All tables let go of what is gone, then all arenas take back what was dropped.
    fn take_back(&mut self) {
        for core in &mut self.cores {
            // The first call may end a round that began when some of them were not gone yet.
            core.replicas.sweep(usize::MAX);
            core.replicas.sweep(usize::MAX);
        }
        for core in &self.cores {
            while core.tier.arena().drain(usize::MAX) > 0 {}
        }
    }

    /// A sound site that many asked for before its first head was there was asked for once.
    fn storms(&mut self) {
        if self.counts.of(Count::ShortOfMemory) + self.counts.of(Count::Restarts) > 0 {
            return;
        }
        for (number, site) in self.scenario.sites.iter().enumerate() {
            // What was invalidated meanwhile is fetched again, and what may be as long as its tags are not known; all else is not.
            let purged = self
                .scenario
                .purges
                .iter()
                .flat_map(|purge| &purge.items)
                .any(|item| item.is_tag() || item.concerns(site));
            if purged {
                continue;
            }
            if site.is_storm && self.origin.gets[number] != 1 {
                self.oracle.fault(format!("{} was fetched {} times", site.path, self.origin.gets[number]));
            }
            self.counts.add(Count::Storms, u64::from(site.is_storm));
        }
    }
}

/// A head for as long as somebody looks at it.
pub(crate) type Bytes = Rc<[u8]>;
