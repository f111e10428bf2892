//! One fetch for all who want the same: sent, answered, filled into memory while it is read, and stored or not.
//!
//! Started by `owner`; told by the world what the origin sends. Its own exchange decides; `Collapse` says who is told what.

mod filling;

use std::collections::VecDeque;
use std::sync::Arc;

use aspis_cache::stored::StoredMeta;
use aspis_exchange::collapse::{Answer, FlightId, Outcome, Shared};
use aspis_exchange::origin_request::{self, Preconditions};
use aspis_exchange::response_head::{joined_fields, joined_head, stored_fields, write_freshened};
use aspis_exchange::{Action, Conditions, Event, Exchange, OriginFailure, Role};
use aspis_storage::mapping::body::{Body, BodyWriter};
use aspis_storage::passage::{Passage, PassageWriter};
use aspis_storage::response::StoredResponse;
use aspis_wire::request::RequestHead;
use aspis_wire::response::{ResponseFraming, ResponseHead};
use aspis_wire::{Field, FieldSlots, Method};

use super::counts::Count;
use super::direct::conditional;
use super::oracle::End;
use super::owner::{Kept, Reply, tags_of};
use super::viewer::{Primary, parsed, parsed_answer, view};
use super::world::{Bytes, Consumer, FACTS, Message, World, content, note};

/// Times that a broken fill asks for the rest.
const RESUMES_MAX: u8 = 2;

/// What a flight begins with.
pub(crate) struct Start {
    pub(crate) primary: Primary,
    /// The selected key, with the range if it is for one.
    pub(crate) key: Vec<u8>,
    pub(crate) raw: Bytes,
    /// What is validated or completed.
    pub(crate) stored: Option<Arc<StoredResponse>>,
    pub(crate) leader: Option<usize>,
}

/// One flight; it stays in the list when it is over.
pub(crate) struct Flight {
    core: usize,
    id: FlightId,
    start: Start,
    exchange: Exchange,
    pub(crate) fetch: usize,
    /// The number of the rules that what it brings is from.
    pub(crate) number: u64,
    fill: Option<Fill>,
    /// Viewers that read what it fills.
    readers: Vec<usize>,
    /// Cores that were told that there is more and did not look yet.
    told: Vec<bool>,
    /// Nobody joins it any more.
    is_over: bool,
}

/// A body that grows.
struct Fill {
    stored: Arc<StoredResponse>,
    writer: Option<BodyWriter>,
    /// What came after memory was short goes to readers through this.
    passing: Option<Passing>,
    /// The strong tag with which a broken fill can be resumed.
    tag: Option<Vec<u8>>,
    resumes: u8,
    is_resuming: bool,
}

/// The rest of a body that does not fit into memory.
struct Passing {
    passage: Arc<Passage>,
    writer: Option<PassageWriter>,
    /// What was not taken from the origin's connection yet.
    held: VecDeque<Vec<u8>>,
    end: Option<End>,
}

/// What a fill begins with.
#[derive(Clone, Copy)]
enum From<'f> {
    /// The origin's head of all that comes.
    Head(&'f [u8]),
    /// A stored part, whose rest comes.
    Prefix(&'f Arc<Body>),
}

/// What a flight brought.
enum Brought {
    /// With the origin's head, if it is that of the response.
    Response {
        stored: Arc<StoredResponse>,
        head: Option<Vec<u8>>,
        validated: bool,
    },
    Head(Vec<u8>),
    Error(u16),
    Failure(OriginFailure),
}

impl Flight {
    /// The response that is arriving.
    pub(crate) fn arriving(&self) -> Option<&Arc<StoredResponse>> {
        self.fill.as_ref().map(|fill| &fill.stored)
    }

    /// Where the bytes are that come behind the body's.
    pub(crate) fn passage(&self) -> Option<&Arc<Passage>> {
        self.fill.as_ref().and_then(|fill| fill.passing.as_ref()).map(|passing| &passing.passage)
    }

    /// Everything restarts.
    pub(crate) fn is_lost(&mut self) {
        (self.fill, self.start.stored, self.is_over) = (None, None, true);
        self.readers.clear();
    }

    /// The core that flies it.
    pub(crate) fn core(&self) -> usize {
        self.core
    }
}

impl World {
    /// Starts a flight and sends its request.
    pub(crate) fn fly(&mut self, core: usize, id: FlightId, start: Start, conditions: Conditions) {
        let flight = self.flights.len();
        self.oracle.begins(core, &start.key, &start.primary.1, flight);
        self.cores[core].flights.insert(id, flight);
        let raw = Bytes::clone(&start.raw);
        let mut slots = FieldSlots::new();
        let head = parsed(&raw, &mut slots);
        let exchange = Exchange::flight(&head, conditions, self.clock());
        let told = vec![false; self.cores.len()];
        note!(self, "flight {flight} of core {core}, led by {:?}, {conditions:?}", start.leader);
        self.flights.push(Flight {
            core,
            id,
            start,
            exchange,
            fetch: 0,
            number: 0,
            fill: None,
            readers: Vec::new(),
            told,
            is_over: false,
        });
        self.send(flight, conditions, &head);
    }

    fn send(&mut self, flight: usize, conditions: Conditions, head: &RequestHead<'_, '_>) {
        let stored = self.flights[flight].start.stored.clone();
        let fields: Vec<Field<'_>> =
            stored.as_deref().map(|stored| stored_fields(&stored.head).collect()).unwrap_or_default();
        let preconditions = match conditions {
            Conditions::Viewer => Preconditions::Range,
            conditions => conditional(conditions, stored.as_deref(), &fields),
        };
        // What is validated or completed is no newer than what was held of it against the rules (I-24).
        let built_on =
            stored.as_ref().filter(|_| conditions != Conditions::Viewer && conditions != Conditions::None);
        let number = built_on.map_or(u64::MAX, |stored| stored.invalidation()).min(self.control.number);
        let it = &mut self.flights[flight];
        it.number = number;
        self.cores[it.core].collapse.sent(it.id, number);
        self.request(flight, head, preconditions);
    }

    fn request(&mut self, flight: usize, head: &RequestHead<'_, '_>, preconditions: Preconditions<'_>) {
        let mut out = Vec::new();
        origin_request::write_as(head, Method::Get, &FACTS, &self.behavior, preconditions, &mut out);
        let leader = self.flights[flight].start.leader;
        self.flights[flight].fetch = self.fetch(Consumer::Flight(flight), &out, leader);
    }

    /// The origin answers a flight.
    pub(crate) fn flight_head(&mut self, flight: usize, fetch: usize, raw: &[u8]) {
        let raw_request = Bytes::clone(&self.flights[flight].start.raw);
        let mut slots = FieldSlots::new();
        let request = parsed(&raw_request, &mut slots);
        let mut answer_slots = FieldSlots::new();
        let head = parsed_answer(raw, &mut answer_slots, Method::Get);
        if self.flights[flight].fill.is_some() {
            return self.resumed(flight, fetch, &head);
        }
        let now = self.clock();
        // I-25: what was invalidated meanwhile is no answer to an error; those who wait for its validation or completion came before.
        let stored = self.flights[flight].start.stored.clone();
        let stored = if answers_ours(head.status) { stored } else { self.held_at(flight, stored) };
        let it = &mut self.flights[flight];
        let event = Event::OriginHead { head: &head, request: &request, stored: stored.as_deref().map(view) };
        let action = it.exchange.step(&self.behavior, event, now);
        note!(self, "flight {flight}: {action:?}");
        match action {
            Action::RespondOrigin { store: Some(meta), .. } => {
                if !self.fill(flight, &request, &head, meta, From::Head(raw)) {
                    self.pass(flight, fetch, head.status, raw);
                }
            }
            Action::RespondOrigin { store: None, .. } => self.pass(flight, fetch, head.status, raw),
            Action::Join { store } => {
                let joined = stored.zip(store).is_some_and(|(prefix, meta)| {
                    let fields = joined_fields(&prefix.head, &head);
                    let len = prefix.body.published() + head.content_length.unwrap_or(0);
                    let whole = joined_head(&head, &fields, len);
                    self.fill(flight, &request, &whole, meta, From::Prefix(content(&prefix)))
                });
                // The rest alone answers nobody: who waited asks for the whole.
                if !joined {
                    self.drop_fetch(fetch);
                    self.settle(flight, Outcome::Passed { status: 200 }, &Brought::Error(502));
                }
            }
            Action::Freshen { store, .. } => {
                self.drop_fetch(fetch);
                self.confirm(flight, &head, store);
            }
            Action::Answer(_) => {
                self.drop_fetch(fetch);
                self.settle(flight, Outcome::Stale, &Brought::Error(head.status));
            }
            Action::Forward(again) => {
                self.drop_fetch(fetch);
                self.send(flight, again.conditions, &request);
            }
            action => self.oracle.fault(format!("flight {flight} cannot do {action:?}")),
        }
    }

    /// The origin gave a flight no answer.
    pub(crate) fn flight_failed(&mut self, flight: usize, failure: OriginFailure) {
        if self.flights[flight].fill.is_some() {
            return self.broken(flight);
        }
        let raw = Bytes::clone(&self.flights[flight].start.raw);
        let mut slots = FieldSlots::new();
        let request = parsed(&raw, &mut slots);
        let now = self.clock();
        let stored = self.flights[flight].start.stored.clone();
        let stored = self.held_at(flight, stored);
        let it = &mut self.flights[flight];
        let (role, stored) = (Role::Lead, stored.as_deref().map(view));
        let event = Event::OriginFailed { failure, role, request: &request, stored };
        let outcome = match it.exchange.step(&self.behavior, event, now) {
            Action::Answer(_) => Outcome::Stale,
            _ => Outcome::Failed,
        };
        self.settle(flight, outcome, &Brought::Failure(failure));
    }

    fn held_at(&mut self, flight: usize, stored: Option<Arc<StoredResponse>>) -> Option<Arc<StoredResponse>> {
        let (core, wall) = (self.flights[flight].core, self.clock().wall);
        let held = stored.filter(|stored| self.cores[core].holds(stored, wall));
        self.justify(core);
        held
    }

    /// Begins to fill memory with what comes; false if it is not stored after all.
    fn fill(
        &mut self,
        flight: usize,
        request: &RequestHead<'_, '_>,
        head: &ResponseHead<'_, '_>,
        meta: StoredMeta,
        from: From<'_>,
    ) -> bool {
        let (core, primary) = (self.flights[flight].core, self.flights[flight].start.primary.clone());
        let length = match head.framing {
            ResponseFraming::Length(len) => Some(len),
            _ => None,
        };
        let Some(candidate) = self.candidate(core, &primary, request, head, &meta) else { return false };
        let mut writer = Body::writer(self.cores[core].tier.arena(), length);
        if let From::Prefix(prefix) = from {
            let mut at = 0;
            while at < prefix.published() {
                let piece = prefix.piece(at);
                if self.append(core, &mut writer, piece) < piece.len() {
                    self.counts.add(Count::ShortOfMemory, 1);
                    return false;
                }
                at += piece.len() as u64;
            }
            self.counts.add(Count::Joined, 1);
        }
        let stored_head = self.stored_head(head);
        let body = Arc::clone(writer.body());
        let it = &self.flights[flight];
        let rules = match from {
            From::Head(_) => self.fetches[it.fetch].rules,
            From::Prefix(prefix) => self.began(prefix).unwrap_or(0),
        };
        let number = it.number;
        self.begins_body(&body, rules);
        let kept = Kept { head: stored_head, meta, body, number, tags: tags_of(head) };
        let Some(stored) = self.record(core, candidate, kept) else { return false };
        let whole = meta.part.is_none() && meta.status == 200;
        let tag = head.field("etag").filter(|tag| whole && !tag.starts_with(b"W/"));
        self.flights[flight].fill = Some(Fill {
            stored: Arc::clone(&stored),
            writer: Some(writer),
            passing: None,
            tag: tag.map(<[u8]>::to_vec),
            resumes: 0,
            is_resuming: false,
        });
        let it = &self.flights[flight];
        if meta.part.is_none() && *stored.key != *it.start.key {
            self.cores[core].collapse.rekey(it.id, stored.hash, &stored.key);
            self.oracle.rekeys(core, &stored.key, flight);
        }
        let names = stored.variant.as_ref().map(|variant| variant.names.clone()).unwrap_or_default();
        let shared = if meta.no_cache { Shared::LeaderOnly } else { Shared::WithAll };
        let head = match from {
            From::Head(raw) => Some(raw.to_vec()),
            From::Prefix(_) => None,
        };
        let brought = Brought::Response { stored, head, validated: false };
        self.settle(flight, Outcome::Kept { names, shared }, &brought);
        if length.is_some_and(|length| length > self.scenario.object_len_max) {
            self.give_up(flight);
        }
        true
    }

    /// What is stored is good again.
    fn confirm(&mut self, flight: usize, update: &ResponseHead<'_, '_>, store: Option<StoredMeta>) {
        let (core, id) = (self.flights[flight].core, self.flights[flight].id);
        let Some(old) = self.flights[flight].start.stored.clone() else {
            return self.oracle.fault("a 304 for nothing");
        };
        let meta = store.unwrap_or(old.meta);
        let mut head = Vec::new();
        write_freshened(&self.behavior, &old.head, &meta, update, self.clock(), &mut head);
        let doomed = self.cores[core].collapse.is_doomed(id);
        let shared = match store {
            Some(meta) if !meta.no_cache => Shared::WithAll,
            _ => Shared::LeaderOnly,
        };
        if store.is_none() && !doomed && old.is_live() {
            self.cores[core].tier.remove(old.hash, &old.key);
        }
        if doomed {
            // It answers those who wait, and nobody finds it.
            self.counts.add(Count::Doomed, 1);
            old.mark_gone();
        }
        let number = self.flights[flight].number;
        let Some(stored) = self.freshen(core, &old, head.into(), meta, number) else {
            return self.settle(flight, Outcome::Passed { status: 200 }, &Brought::Error(502));
        };
        self.counts.add(Count::Validated, 1);
        self.settle(
            flight,
            Outcome::Confirmed(shared),
            &Brought::Response { stored, head: None, validated: true },
        );
        self.over(flight);
    }

    /// What came is for the leader alone, or an error for all.
    fn pass(&mut self, flight: usize, fetch: usize, status: u16, raw: &[u8]) {
        self.fetches[fetch].consumer = Consumer::Nobody;
        self.settle(flight, Outcome::Passed { status }, &Brought::Head(raw.to_vec()));
    }

    /// Tells everybody who waits what came.
    fn settle(&mut self, flight: usize, outcome: Outcome, brought: &Brought) {
        let now = self.clock();
        let Flight { core, id, ref start, fetch, .. } = self.flights[flight];
        let leader = start.leader;
        let for_all = matches!(
            &outcome,
            Outcome::Kept { shared: Shared::WithAll, .. } | Outcome::Confirmed(Shared::WithAll)
        );
        let is_kept = matches!(&outcome, Outcome::Kept { .. } | Outcome::Confirmed(_));
        let trouble = matches!(
            &outcome,
            Outcome::Stale | Outcome::Failed | Outcome::Passed { status: 500 | 502..=504 }
        );
        if !for_all && !trouble {
            self.oracle.marks(flight, Some(self.now + self.scenario.mark_millis));
        } else if for_all {
            self.oracle.marks(flight, None);
        }
        self.oracle.settles(flight, for_all);
        for (viewer, answer) in self.cores[core].collapse.settle(id, outcome, now) {
            let role = if leader == Some(viewer) { Role::Lead } else { Role::Collapsed };
            let reply = match (answer, brought) {
                (Answer::Lead, Brought::Response { stored, head: Some(head), .. }) => {
                    self.flights[flight].readers.push(viewer);
                    Reply::Origin { head: head.clone(), flight, stored: Some(Arc::clone(stored)) }
                }
                (Answer::Lead | Answer::Follow, Brought::Response { stored, validated, .. }) => {
                    self.flights[flight].readers.push(viewer);
                    Reply::Arrived {
                        stored: Arc::clone(stored),
                        role,
                        validated: *validated,
                        flight,
                        at: self.now,
                    }
                }
                (Answer::Lead, Brought::Head(head)) => {
                    self.fetches[fetch].consumer = Consumer::Passed { viewer, owner: core };
                    Reply::Origin { head: head.clone(), flight, stored: None }
                }
                (Answer::Refuse { status }, _) => Reply::Errored { status, role },
                (Answer::Stale | Answer::Failed, Brought::Error(status)) => {
                    Reply::Errored { status: *status, role }
                }
                (Answer::Stale | Answer::Failed, Brought::Failure(failure)) => {
                    Reply::Failed { failure: *failure }
                }
                _ => Reply::Alone,
            };
            self.reply(core, viewer, reply);
        }
        if !is_kept {
            self.over(flight);
        }
    }

    /// One who came after the head is answered at once.
    pub(crate) fn attach(&mut self, core: usize, id: usize, flight: usize) {
        let Some(stored) = self.flights[flight].arriving().cloned() else {
            return self
                .oracle
                .fault(format!("viewer {id} attaches to flight {flight}, which fills nothing"));
        };
        self.flights[flight].readers.push(id);
        self.reply(
            core,
            id,
            Reply::Arrived { stored, role: Role::Collapsed, validated: false, flight, at: self.now },
        );
    }

    /// A viewer reads a flight's body no more.
    pub(crate) fn stops_reading(&mut self, id: usize, flight: usize) {
        let core = self.viewers[id].core;
        let it = &mut self.flights[flight];
        it.readers.retain(|reader| *reader != id);
        if it.is_over && it.readers.is_empty() && it.passage().is_none() {
            it.fill = None;
        }
        if it.passage().is_some() {
            let to = it.core;
            self.post(core, to, Message::Room { flight });
        }
    }

    /// Tells each core whose viewers read this that there is more; once until it looks.
    fn wake(&mut self, flight: usize) {
        let from = self.flights[flight].core;
        for at in 0..self.flights[flight].readers.len() {
            let it = &mut self.flights[flight];
            let to = self.viewers[it.readers[at]].core;
            if !std::mem::replace(&mut it.told[to], true) {
                self.post(from, to, Message::Progress { flight });
            }
        }
    }

    /// A core looks what there is.
    pub(crate) fn progressed(&mut self, core: usize, flight: usize) {
        self.flights[flight].told[core] = false;
        for viewer in self.flights[flight].readers.clone() {
            if self.viewers[viewer].core == core {
                self.read(viewer);
            }
        }
    }

    /// Nobody joins a flight any more, and nothing of it is stored any more.
    fn over(&mut self, flight: usize) {
        let Flight { core, id, .. } = self.flights[flight];
        self.flights[flight].is_over = true;
        self.oracle.parts(flight);
        self.cores[core].collapse.end(id);
        self.cores[core].flights.remove(&id);
    }
}

/// Whether such a status may answer a condition or a range that was made of what is stored.
pub(crate) fn answers_ours(status: u16) -> bool {
    matches!(status, 206 | 304 | 416)
}
