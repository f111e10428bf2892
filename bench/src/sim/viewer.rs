//! One viewer's request on its core: the driver around its exchange, from the head's arrival to its last byte.
//!
//! What `net/shard` does with sockets and tasks is done here with numbers and messages: look at the core's own tier or its replicas, ask
//! the owner, or go to the origin directly. `answer` composes and reads. Invariant: a request is answered once, or its viewer left.

use std::sync::Arc;

use aspis_exchange::{
    Action, Arriving, Collapsing, Conditions, Event, Exchange, Forward, Role, Stored, Variant,
};
use aspis_storage::response::StoredResponse;
use aspis_wire::request::{RequestHead, parse_request};
use aspis_wire::response::{ResponseHead, parse_response};
use aspis_wire::{FieldSlots, HeadLimits, Method};

use super::answer::Reader;
use super::counts::Count;
use super::direct::Passing;
use super::oracle::Got;
use super::owner::{Deposit, Reply, wanted};
use super::scenario::{Condition, Plan, Scenario, Verb};
use super::world::{Bytes, FACTS, Message, World, note};

/// The hash and the bytes of a primary key.
pub(crate) type Primary = (u128, Box<[u8]>);

/// One request.
#[derive(Debug)]
pub(crate) struct Viewer {
    pub(crate) core: usize,
    /// The request's head as it came.
    pub(crate) raw: Bytes,
    pub(crate) exchange: Exchange,
    pub(crate) state: State,
    pub(crate) primary: Option<Primary>,
    /// What was found and did not answer by itself.
    pub(crate) found: Option<Arc<StoredResponse>>,
    pub(crate) forward: Option<Forward>,
    pub(crate) got: Got,
    pub(crate) pace: Option<(u64, u64)>,
    /// When its owner decided what answers it, where that was not its own core just now.
    pub(crate) decided_at: Option<u64>,
    /// What its fetch may leave with the owner.
    pub(crate) deposit: Option<Box<Deposit>>,
    /// The owner's number when it answered last: what is sent to the origin after that is not from before an invalidation.
    pub(crate) ticket: Option<u64>,
    /// Its owner knows that it left.
    pub(crate) is_forgotten: bool,
}

/// Where a request is.
#[derive(Debug)]
pub(crate) enum State {
    Coming,
    /// The owner was asked.
    Asked,
    /// The origin was asked for it alone.
    Fetching(usize),
    /// It reads something stored, or on its way there.
    Reading(Reader),
    /// It gets what the origin sends, or what is passed on to it.
    Passing(Passing),
    Done,
    Left,
}

impl Viewer {
    /// A viewer who has not come yet.
    pub(crate) fn new(plan: &Plan, scenario: &Scenario) -> Viewer {
        Viewer {
            core: plan.core,
            raw: text(plan, scenario).into_bytes().into(),
            exchange: Exchange::new(),
            state: State::Coming,
            primary: None,
            found: None,
            forward: None,
            got: Got::default(),
            pace: plan.pace,
            decided_at: None,
            deposit: None,
            ticket: None,
            is_forgotten: false,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done | State::Left)
    }
}

/// The head of a plan's request.
fn text(plan: &Plan, scenario: &Scenario) -> String {
    let site = &scenario.sites[plan.site];
    let verb = match plan.verb {
        Verb::Get => "GET",
        Verb::Head => "HEAD",
        Verb::Post => "POST",
    };
    let mut head = format!("{verb} {} HTTP/1.1\r\nHost: {}\r\n", site.path, site.host);
    let mut line = |name: &str, value: &str| head.push_str(&format!("{name}: {value}\r\n"));
    if !plan.language.is_empty() {
        line("Accept-Language", plan.language);
    }
    if let Some((first, last)) = plan.range {
        line("Range", &format!("bytes={first}-{}", last.map(|last| last.to_string()).unwrap_or_default()));
    }
    let tag = |version| site.tag_of(version, plan.language).unwrap_or_else(|| "\"unknown\"".into());
    match plan.condition {
        Condition::None => {}
        Condition::NoneMatch(version) => line("If-None-Match", &tag(version)),
        Condition::Match(version) => line("If-Match", &tag(version)),
        Condition::Range(version) => line("If-Range", &tag(version)),
    }
    if plan.verb == Verb::Post {
        line("Content-Length", "0");
    }
    head.push_str("\r\n");
    head
}

/// Parses a request that is known to be sound.
pub(crate) fn parsed<'b, 'h>(raw: &'b [u8], slots: &'h mut FieldSlots<'b>) -> RequestHead<'b, 'h> {
    parse_request(raw, slots, &HeadLimits::default())
        .expect("the simulator writes sound requests")
        .expect("the simulator writes whole heads")
}

/// Parses an answer that is known to be sound.
pub(crate) fn parsed_answer<'b, 'h>(
    raw: &'b [u8],
    slots: &'h mut FieldSlots<'b>,
    method: Method<'_>,
) -> ResponseHead<'b, 'h> {
    parse_response(raw, slots, &HeadLimits::default(), method)
        .expect("the simulated origin writes sound heads")
        .expect("the simulated origin writes whole heads")
}

/// What was found, as the machine looks at it.
pub(crate) fn view(stored: &StoredResponse) -> Stored<'_> {
    Stored {
        meta: &stored.meta,
        head: &stored.head,
        len: stored.body.published(),
        fresh_until: stored.fresh_until(),
    }
}

impl World {
    /// A viewer's request is there.
    pub(crate) fn arrives(&mut self, id: usize) {
        self.counts.add(Count::Viewers, 1);
        self.oracle.arrives(id);
        let raw = Bytes::clone(&self.viewers[id].raw);
        let mut slots = FieldSlots::new();
        let head = parsed(&raw, &mut slots);
        note!(
            self,
            "viewer {id} on core {}: {}",
            self.viewers[id].core,
            String::from_utf8_lossy(&raw).replace("\r\n", " | ")
        );
        let now = self.clock();
        let mut key = Vec::new();
        let event = Event::Request { head: &head, viewer: &FACTS, key_buffer: &mut key };
        let action = self.viewers[id].exchange.step(&self.behavior, event, now);
        let Action::Lookup { hash } = action else { return self.obey(id, action, None) };
        self.viewers[id].primary = Some((hash, key.clone().into()));
        let (action, found) = self.look_up(id, hash, &head, &mut key);
        self.justify(self.viewers[id].core);
        self.viewers[id].found.clone_from(&found);
        self.obey(id, action, found);
    }

    /// Looks at what this core has: as the owner all that is stored, else what it keeps of another's.
    fn look_up(
        &mut self,
        id: usize,
        hash: u128,
        head: &RequestHead<'_, '_>,
        key: &mut Vec<u8>,
    ) -> (Action, Option<Arc<StoredResponse>>) {
        let (now, owner) = (self.clock(), self.owner(hash));
        let viewer = &mut self.viewers[id];
        let core = &self.cores[viewer.core];
        let owns = owner == viewer.core;
        let held = |stored: &&Arc<StoredResponse>| core.holds(stored, now.wall);
        let get = |hash, key: &[u8]| {
            let found = if owns { core.tier.lookup(hash, key) } else { core.replicas.lookup(hash, key) };
            found.filter(held).cloned()
        };
        let names = if owns { core.tier.vary_names(hash, key) } else { core.replicas.vary_names(hash, key) };
        let primary_len = key.len();
        let mut action = Action::Lookup { hash };
        let mut found = get(hash, key);
        if found.is_none()
            && let Some(names) = names
        {
            let event = Event::Varies { names, head, key_buffer: key };
            action = viewer.exchange.step(&self.behavior, event, now);
            if let Action::Lookup { hash } = action {
                found = get(hash, key);
            }
        }
        let may_be_a_part = matches!(action, Action::Lookup { .. }) && key.len() == primary_len;
        if found.is_none() && may_be_a_part && owns && core.tier.has_parts() {
            action = viewer.exchange.step(&self.behavior, Event::NotWhole { key_buffer: key }, now);
            if let Action::Lookup { hash } = action {
                found = core.tier.part(hash, key, |total| wanted(head, total)).filter(held).cloned();
            }
        }
        if let Action::Lookup { .. } = action {
            let event = match &found {
                Some(stored) => Event::Found { stored: view(stored), head },
                None => Event::NotFound,
            };
            action = viewer.exchange.step(&self.behavior, event, now);
            if matches!(action, Action::RespondStored { .. } | Action::Answer(_)) {
                self.counts.add(if owns { Count::OwnHits } else { Count::ReplicaHits }, 1);
            }
        }
        (action, found)
    }

    /// Does what the machine says; `stored` is what its answer is made from.
    pub(crate) fn obey(&mut self, id: usize, action: Action, stored: Option<Arc<StoredResponse>>) {
        note!(self, "viewer {id}: {action:?}");
        match (action, stored) {
            (Action::RespondStored { age, ttl, send_body }, Some(stored)) => {
                self.answer_hit(id, &stored, age, ttl, send_body);
            }
            (Action::Answer(answer), Some(stored)) => {
                if self.viewers[id].exchange.is_stale_on_error() {
                    self.counts.add(Count::StaleOnError, 1);
                    let latest = self.cores[self.viewers[id].core].rules.latest();
                    self.oracle.stale_on_error(id, latest);
                }
                if answer.refresh {
                    self.ask_for_refresh(id, &stored);
                }
                self.answer_stored(id, answer, &stored, None, None);
            }
            (Action::Refuse { status }, _) => self.answer_error(id, status, None),
            (Action::Forward(forward), _) => self.forward(id, forward),
            (Action::AskAgain, _) => {
                self.counts.add(Count::AskedAgain, 1);
                self.ask(id);
            }
            (action, _) => self.oracle.fault(format!("viewer {id} cannot do {action:?}")),
        }
    }

    fn forward(&mut self, id: usize, forward: Forward) {
        self.viewers[id].forward = Some(forward);
        match forward.collapsing {
            // Of ranges far from a running fetch each goes by itself here.
            Collapsing::Never | Collapsing::Apart | Collapsing::OnlyStored => self.go(id, forward.conditions),
            Collapsing::LeadOrFollow | Collapsing::FollowOnly => self.ask(id),
        }
    }

    /// Asks the owner of the key.
    fn ask(&mut self, id: usize) {
        let viewer = &mut self.viewers[id];
        let Some((hash, _)) = viewer.primary else {
            return self.oracle.fault(format!("viewer {id} asks an owner without a key"));
        };
        viewer.state = State::Asked;
        let (core, has) = (viewer.core, viewer.found.clone());
        let owner = self.owner(hash);
        self.post(core, owner, Message::Ask { viewer: id, has });
    }

    fn ask_for_refresh(&mut self, id: usize, stored: &Arc<StoredResponse>) {
        let viewer = &self.viewers[id];
        let Some((hash, _)) = viewer.primary else { return };
        let (core, owner) = (viewer.core, self.owner(hash));
        self.post(core, owner, Message::Refresh { viewer: id, stored: Arc::clone(stored) });
    }

    /// The owner answered.
    pub(crate) fn replied(&mut self, id: usize, reply: Reply, epoch: u64) {
        let viewer = &mut self.viewers[id];
        if matches!(viewer.state, State::Left) {
            return self.refused_by_absence(id, reply);
        }
        if !matches!(viewer.state, State::Asked) {
            return self.oracle.fault(format!("viewer {id} is answered while it is {:?}", viewer.state));
        }
        viewer.ticket = Some(epoch);
        let raw = Bytes::clone(&viewer.raw);
        let mut slots = FieldSlots::new();
        let request = parsed(&raw, &mut slots);
        let (now, request) = (self.clock(), &request);
        // I-25: what was found before may have been invalidated since, and is no answer to an error then.
        let found = self.still_held(id);
        let viewer = &mut self.viewers[id];
        let stored = found.as_deref().map(view);
        match reply {
            Reply::Stored(stored) => {
                viewer.found = Some(Arc::clone(&stored));
                let event = Event::Found { stored: view(&stored), head: request };
                let action = viewer.exchange.step(&self.behavior, event, now);
                self.counts.add(Count::OwnerHits, 1);
                self.keep(id, &stored);
                self.obey(id, action, Some(stored));
            }
            Reply::Arrived { stored, role, validated, flight, at } => {
                viewer.decided_at = Some(at);
                self.arrived(id, &stored, role, validated, flight, request);
            }
            Reply::Origin { head, flight, stored } => self.take_led(id, &head, flight, stored),
            Reply::Errored { status, role } => {
                let event = Event::OriginErred { status, role, request, stored };
                let action = viewer.exchange.step(&self.behavior, event, now);
                self.obey(id, action, found);
            }
            Reply::Failed { failure } => {
                let event = Event::OriginFailed { failure, role: Role::Lead, request, stored };
                let action = viewer.exchange.step(&self.behavior, event, now);
                self.obey(id, action, found);
            }
            Reply::Alone => {
                let conditions = viewer.forward.map_or(Conditions::Viewer, |forward| forward.conditions);
                self.go(id, conditions);
            }
        }
    }

    /// A shared fetch brought something.
    fn arrived(
        &mut self,
        id: usize,
        stored: &Arc<StoredResponse>,
        role: Role,
        validated: bool,
        flight: usize,
        request: &RequestHead<'_, '_>,
    ) {
        let now = self.clock();
        let viewer = &mut self.viewers[id];
        let mut key = viewer.primary.as_ref().map(|(_, key)| key.to_vec()).unwrap_or_default();
        let variant = stored.variant.as_ref().map(|it| Variant { names: &it.names, key: &stored.key });
        let arriving = Arriving {
            meta: &stored.meta,
            head: &stored.head,
            length: stored.body.length(),
            published: stored.body.published(),
            variant,
            validated,
        };
        let event = Event::Arrived { arriving, role, request, key_buffer: &mut key };
        let action = viewer.exchange.step(&self.behavior, event, now);
        note!(self, "viewer {id} as {role:?} of flight {flight}: {action:?}");
        match action {
            Action::Answer(answer) => self.answer_stored(id, answer, stored, None, Some(flight)),
            action => {
                self.viewers[id].decided_at = None;
                self.stops_reading(id, flight);
                self.obey(id, action, None);
            }
        }
    }

    /// A viewer goes away.
    pub(crate) fn leaves(&mut self, id: usize) {
        if self.viewers[id].is_done() {
            return;
        }
        note!(self, "viewer {id} leaves");
        self.counts.add(Count::Left, 1);
        let viewer = &mut self.viewers[id];
        let core = viewer.core;
        match std::mem::replace(&mut viewer.state, State::Left) {
            State::Asked => {
                let owner = viewer.primary.as_ref().map(|(hash, _)| *hash).map(|hash| self.owner(hash));
                if let Some(owner) = owner {
                    self.post(core, owner, Message::Leave { viewer: id });
                }
            }
            State::Fetching(fetch) => self.drop_fetch(fetch),
            State::Passing(passing) => self.let_go(passing.fetch, None),
            State::Reading(reader) => {
                if let Some(flight) = reader.flight {
                    self.stops_reading(id, flight);
                }
            }
            _ => {}
        }
        let viewer = &mut self.viewers[id];
        (viewer.found, viewer.deposit) = (None, None);
    }

    /// An answer for one who left.
    fn refused_by_absence(&mut self, id: usize, reply: Reply) {
        match reply {
            Reply::Arrived { flight, .. } => self.stops_reading(id, flight),
            Reply::Origin { flight, stored: Some(_), .. } => self.stops_reading(id, flight),
            Reply::Origin { flight, stored: None, .. } => self.let_go(None, Some(flight)),
            _ => {}
        }
    }

    /// Keeps what another core owns, so that the next hit stays here.
    pub(crate) fn keep(&mut self, id: usize, stored: &Arc<StoredResponse>) {
        let viewer = &self.viewers[id];
        let Some((hash, _)) = viewer.primary else { return };
        let core = viewer.core;
        if self.owner(hash) != core {
            self.cores[core].replicas.insert(stored);
        }
    }
}
