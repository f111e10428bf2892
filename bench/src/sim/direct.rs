//! A viewer's request that goes to the origin by itself, or gets what a flight brought for it alone.
//!
//! Called by `viewer` when its owner said so, or was not asked. What comes goes to the viewer as it comes; what may be stored is left with
//! the owner when it is whole, and what it says about something stored is told to the owner.

use std::sync::Arc;

use aspis_cache::conditional::Validators;
use aspis_cache::status::Stored as Kept;
use aspis_cache::stored::StoredMeta;
use aspis_exchange::origin_request::{self, Preconditions};
use aspis_exchange::response_head::{
    self, OriginAnswer, joined_fields, joined_head, not_modified_fields, not_modified_head, stored_fields,
    write_freshened,
};
use aspis_exchange::{Action, Conditions, Content, Event, FoundChange, OriginFailure, Role, invalidation};
use aspis_storage::response::StoredResponse;
use aspis_wire::request::RequestHead;
use aspis_wire::response::ResponseHead;
use aspis_wire::{Field, FieldSlots};

use super::counts::Count;
use super::flight::answers_ours;
use super::oracle::End;
use super::owner::{Change, Deposit, Keeps};
use super::viewer::{State, parsed, parsed_answer, view};
use super::world::{Bytes, Consumer, FACTS, Message, World, content, note};

/// An answer that passes through.
#[derive(Debug)]
pub(crate) struct Passing {
    pub(crate) fetch: Option<usize>,
    /// Owners that have not said yet that they forgot what the request changed: until then nothing is sent.
    missing: usize,
    ended: Option<End>,
    /// The viewer gets the content.
    follows: bool,
}

impl World {
    /// Sends the request to the origin for this viewer alone.
    pub(crate) fn go(&mut self, id: usize, conditions: Conditions) {
        let raw = Bytes::clone(&self.viewers[id].raw);
        let mut slots = FieldSlots::new();
        let head = parsed(&raw, &mut slots);
        let found = self.viewers[id].found.clone();
        let mut out = Vec::new();
        let fields: Vec<Field<'_>> =
            found.as_deref().map(|stored| stored_fields(&stored.head).collect()).unwrap_or_default();
        let preconditions = match (conditions, &found) {
            (Conditions::Viewer, _) => Preconditions::Viewer,
            (conditions, found) => conditional(conditions, found.as_deref(), &fields),
        };
        origin_request::write_as(&head, head.method, &FACTS, &self.behavior, preconditions, &mut out);
        let fetch = self.fetch(Consumer::Viewer(id), &out, Some(id));
        self.viewers[id].state = State::Fetching(fetch);
    }

    pub(crate) fn viewer_failed(&mut self, id: usize, failure: OriginFailure) {
        let raw = Bytes::clone(&self.viewers[id].raw);
        let mut slots = FieldSlots::new();
        let request = parsed(&raw, &mut slots);
        let now = self.clock();
        let found = self.still_held(id);
        let viewer = &mut self.viewers[id];
        let (role, stored) = (Role::Lead, found.as_deref().map(view));
        let event = Event::OriginFailed { failure, role, request: &request, stored };
        let action = viewer.exchange.step(&self.behavior, event, now);
        self.obey(id, action, found);
    }

    pub(crate) fn viewer_head(&mut self, id: usize, raw: &[u8]) {
        let State::Fetching(fetch) = self.viewers[id].state else {
            return self.oracle.fault(format!("viewer {id} gets a head that it did not ask for"));
        };
        self.take_origin(id, raw, Some(fetch), None);
    }

    /// Takes the head of a flight that it led. What is stored of it is read with the others.
    pub(crate) fn take_led(
        &mut self,
        id: usize,
        raw: &[u8],
        flight: usize,
        stored: Option<Arc<StoredResponse>>,
    ) {
        let Some(stored) = stored else { return self.take_origin(id, raw, None, Some(flight)) };
        let raw_request = Bytes::clone(&self.viewers[id].raw);
        let mut slots = FieldSlots::new();
        let request = parsed(&raw_request, &mut slots);
        let mut answer_slots = FieldSlots::new();
        let head = parsed_answer(raw, &mut answer_slots, request.method);
        let now = self.clock();
        let found = self.still_held(id);
        let viewer = &mut self.viewers[id];
        let event = Event::OriginHead { head: &head, request: &request, stored: found.as_deref().map(view) };
        let action = viewer.exchange.step(&self.behavior, event, now);
        note!(self, "viewer {id} as leader of flight {flight}: {action:?}");
        let content = match action {
            Action::RespondOrigin { content, .. } => content,
            // What it found left the tier meanwhile, so the flight did not know of it; for the leader it is better than an error.
            Action::Answer(_) => {
                self.stops_reading(id, flight);
                return self.obey(id, action, found);
            }
            action => {
                return self.oracle.fault(format!("viewer {id} makes {action:?} of what its flight stores"));
            }
        };
        self.send_origin(id, &request, &head, content);
        if content == Content::Follows {
            return self.read_all(id, &stored, flight);
        }
        self.stops_reading(id, flight);
        self.finish(id, End::Whole);
    }

    /// Takes the head of the origin's answer: of its own fetch, or of a flight that it led for nobody else.
    pub(crate) fn take_origin(&mut self, id: usize, raw: &[u8], fetch: Option<usize>, flight: Option<usize>) {
        let raw_request = Bytes::clone(&self.viewers[id].raw);
        let mut slots = FieldSlots::new();
        let request = parsed(&raw_request, &mut slots);
        let mut answer_slots = FieldSlots::new();
        let head = parsed_answer(raw, &mut answer_slots, request.method);
        let now = self.clock();
        // What confirms or completes what was found is about that; what came instead makes do without what was invalidated meanwhile (I-25).
        let ours = answers_ours(head.status);
        let found = if ours { self.viewers[id].found.clone() } else { self.still_held(id) };
        let of = fetch.or(flight.map(|flight| self.flights[flight].fetch));
        let number = of.map_or(0, |fetch| self.fetches[fetch].number);
        let viewer = &mut self.viewers[id];
        let event = Event::OriginHead { head: &head, request: &request, stored: found.as_deref().map(view) };
        let action = viewer.exchange.step(&self.behavior, event, now);
        note!(self, "viewer {id} from the origin: {action:?}");
        if !matches!(action, Action::RespondOrigin { .. } | Action::Join { .. }) {
            self.let_go(fetch, flight);
        }
        match action {
            Action::RespondOrigin { store, content, invalidate, found: change } => {
                let missing = if invalidate { self.forget_everywhere(id, &request, &head) } else { 0 };
                self.change_found(id, change, &head, number);
                self.send_origin(id, &request, &head, content);
                self.counts.add(Count::Passed, 1);
                if let Some((meta, fetch)) = store.zip(fetch).filter(|_| content == Content::Follows) {
                    self.will_deposit(id, raw, meta, fetch);
                }
                let follows = content == Content::Follows;
                self.viewers[id].state = State::Passing(Passing { fetch, missing, ended: None, follows });
            }
            Action::Join { .. } => {
                let Some(stored) = found else { return self.oracle.fault("a join of nothing") };
                let fields = joined_fields(&stored.head, &head);
                let len = stored.body.published() + head.content_length.unwrap_or(0);
                self.send_origin(id, &request, &joined_head(&head, &fields, len), Content::Follows);
                self.counts.add(Count::Joined, 1);
                let began = self.began(content(&stored));
                let viewer = &mut self.viewers[id];
                viewer.got.began = began;
                let mut at = 0;
                while at < stored.body.published() {
                    let piece = content(&stored).piece(at);
                    viewer.got.body.extend_from_slice(piece);
                    at += piece.len() as u64;
                }
                viewer.state = State::Passing(Passing { fetch, missing: 0, ended: None, follows: true });
            }
            Action::Freshen { store, answer } => {
                let Some(stored) = found else { return self.oracle.fault("nothing to freshen") };
                let meta = store.unwrap_or(stored.meta);
                let mut fresh = Vec::new();
                write_freshened(&self.behavior, &stored.head, &meta, &head, now, &mut fresh);
                self.counts.add(Count::Validated, 1);
                self.tell_change(id, &stored, &fresh, store, number);
                self.answer_stored(id, answer, &stored, Some(fresh), None);
            }
            Action::Forward(again) => self.go(id, again.conditions),
            action => self.obey(id, action, found),
        }
    }

    /// What comes after the head is not wanted.
    pub(crate) fn let_go(&mut self, fetch: Option<usize>, flight: Option<usize>) {
        let passed = flight.map(|flight| self.flights[flight].fetch);
        for fetch in fetch.into_iter().chain(passed) {
            self.drop_fetch(fetch);
        }
    }

    fn send_origin(
        &mut self,
        id: usize,
        request: &RequestHead<'_, '_>,
        head: &ResponseHead<'_, '_>,
        content: Content,
    ) {
        let now = self.clock();
        let viewer = &mut self.viewers[id];
        let answer = OriginAnswer::new(request, &viewer.exchange, Kept::No, true, now);
        let fields = not_modified_fields(head);
        let head = if content == Content::NotModified { not_modified_head(head, &fields) } else { *head };
        viewer.got.head.clear();
        response_head::write_origin(&self.behavior, &head, &answer, &mut viewer.got.head);
        viewer.got.at = self.now;
    }

    /// What a viewer fetched by itself is copied to the owner, if nothing was invalidated there meanwhile.
    fn will_deposit(&mut self, id: usize, raw: &[u8], meta: StoredMeta, fetch: usize) {
        let viewer = &mut self.viewers[id];
        let (Some(primary), Some(epoch)) = (viewer.primary.clone(), viewer.ticket) else { return };
        let request = Bytes::clone(&viewer.raw);
        viewer.deposit = Some(Box::new(Deposit {
            primary,
            request,
            head: raw.into(),
            meta,
            body: Vec::new(),
            epoch,
            fetch,
        }));
    }

    /// A successful unsafe request makes all cores' copies invalid (rule 16); returns how many owners have to confirm that.
    fn forget_everywhere(
        &mut self,
        id: usize,
        request: &RequestHead<'_, '_>,
        head: &ResponseHead<'_, '_>,
    ) -> usize {
        let mut keys = Vec::new();
        invalidation::keys(request, &FACTS, head, &mut Vec::new(), &mut |hash, key| {
            keys.push((hash, Box::<[u8]>::from(key)));
        });
        let core = self.viewers[id].core;
        self.oracle.posted(id, self.version_of(head));
        let count = keys.len();
        for (hash, key) in keys {
            self.counts.add(Count::Invalidations, 1);
            let owner = self.owner(hash);
            self.post(core, owner, Message::Invalidate { viewer: id, hash, key });
        }
        count
    }

    /// The version that the answer to a POST made.
    fn version_of(&self, head: &ResponseHead<'_, '_>) -> u64 {
        let serial = head.field("x-serial").and_then(|value| std::str::from_utf8(value).ok());
        let record = serial.and_then(|serial| self.origin.records.get(serial.parse::<usize>().ok()?));
        record.map_or(0, |record| record.version)
    }

    pub(crate) fn invalidated(&mut self, id: usize) {
        if let State::Passing(passing) = &mut self.viewers[id].state {
            passing.missing -= 1;
            self.passed(id);
        }
    }

    /// The answer to a HEAD concerns what was found (RFC 9111 §4.3.5).
    fn change_found(&mut self, id: usize, change: FoundChange, head: &ResponseHead<'_, '_>, number: u64) {
        let Some(stored) = self.viewers[id].found.clone() else { return };
        match change {
            FoundChange::Keep => {}
            FoundChange::Forget => self.tell_change(id, &stored, &[], None, number),
            FoundChange::Update(meta) => {
                let (mut fresh, now) = (Vec::new(), self.clock());
                write_freshened(&self.behavior, &stored.head, &meta, head, now, &mut fresh);
                self.tell_change(id, &stored, &fresh, Some(meta), number);
            }
        }
    }

    fn tell_change(
        &mut self,
        id: usize,
        stored: &Arc<StoredResponse>,
        head: &[u8],
        meta: Option<StoredMeta>,
        number: u64,
    ) {
        let Some((hash, _)) = self.viewers[id].primary else { return };
        let (core, owner) = (self.viewers[id].core, self.owner(hash));
        let keeps = match meta {
            // No newer than what was held of it against the rules (I-24).
            Some(meta) => Keeps::Fresh { head: head.into(), meta, number: number.min(stored.invalidation()) },
            None => Keeps::Nothing,
        };
        self.post(core, owner, Message::Change(Box::new(Change { stored: Arc::clone(stored), keeps })));
    }

    pub(crate) fn viewer_chunk(&mut self, id: usize, bytes: &[u8]) {
        let viewer = &mut self.viewers[id];
        if let State::Passing(Passing { follows: true, .. }) = viewer.state {
            viewer.got.body.extend_from_slice(bytes);
        }
    }

    pub(crate) fn viewer_ended(&mut self, id: usize, whole: bool) {
        if let State::Passing(passing) = &mut self.viewers[id].state {
            // What is not passed on may break as it likes.
            let end = if whole || !passing.follows { End::Whole } else { End::Broken };
            passing.ended = Some(end);
            self.passed(id);
        }
    }

    /// An answer that passes through is over when both its content and what it has to wait for are there.
    fn passed(&mut self, id: usize) {
        let State::Passing(Passing { missing: 0, ended: Some(end), .. }) = self.viewers[id].state else {
            return;
        };
        if end == End::Whole
            && let Some(mut deposit) = self.viewers[id].deposit.take()
        {
            deposit.body.clone_from(&self.viewers[id].got.body);
            let (core, owner) = (self.viewers[id].core, self.owner(deposit.primary.0));
            self.post(core, owner, Message::Deposit(deposit));
        }
        self.finish(id, end);
    }
}

/// The preconditions for what is stored.
pub(crate) fn conditional<'a>(
    conditions: Conditions,
    stored: Option<&StoredResponse>,
    fields: &[Field<'a>],
) -> Preconditions<'a> {
    let Some(stored) = stored else { return Preconditions::None };
    let validators = Validators::of(fields, stored.meta.generated_at);
    match conditions {
        Conditions::Stored => Preconditions::Of(validators),
        Conditions::Rest => {
            Preconditions::Rest { from: stored.body.published(), etag: validators.strong_etag() }
        }
        Conditions::Viewer | Conditions::None => Preconditions::None,
    }
}
