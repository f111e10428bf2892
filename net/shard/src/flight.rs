//! One fetch of the owner's, for all who wait for it or in the background: asks the origin, and stores, confirms or passes what comes.
//!
//! `owner.rs` starts it; the task belongs to the core, so no viewer that leaves ends it (C-9). Its own exchange decides what to store; the
//! exchanges of those who wait decide what each of them gets. Invariants: everybody who waits is told exactly once; a flight ends when its
//! content is there, or when there will be none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::conditional::Validators;
use aspis_cache::stored::StoredMeta;
use aspis_exchange::collapse::{Answer, FlightId, Outcome, Shared};
use aspis_exchange::origin_request::{self, Preconditions};
use aspis_exchange::response_head::{joined_fields, joined_head, stored_fields};
use aspis_exchange::{Action, Conditions, Event, Exchange, OriginFailure, Role, ViewerFacts};
use aspis_storage::response::StoredResponse;
use aspis_telemetry::Counter;
use aspis_wire::request::{RequestHead, parse_request};
use aspis_wire::response::{ResponseHead, parse_response};
use aspis_wire::{Field, FieldSlots, Method};

use crate::asking::{Reply, Waiter};
use crate::disk::large::is_unread;
use crate::fill::{self, Fill, FillView, Filling, Flying};
use crate::limits::FETCH_ROOM;
use crate::origin::{NoBody, OriginBody, OriginRequest, OriginResponse};
use crate::owner::Arrived;
use crate::resume::Retry;
use crate::shard::Shard;
use crate::storing::{older_of, view_of};

/// One fetch, before it is sent.
pub(crate) struct Flight {
    pub(crate) id: FlightId,
    /// The head of the request that leads, or that found something stale.
    pub(crate) head: Box<[u8]>,
    pub(crate) facts: ViewerFacts,
    /// Hash and bytes of the primary key.
    pub(crate) key: (u128, Box<[u8]>),
    /// What is stored and has to be validated, or completed.
    pub(crate) stored: Option<Arc<StoredResponse>>,
    pub(crate) conditions: Conditions,
    /// For whom it is made; nobody for a refresh in the background.
    pub(crate) leader: Option<Waiter>,
}

/// Runs a flight until its head is known and all are told; its content goes on in a task of its own.
pub(crate) async fn run(shard: Rc<Shard>, flight: Flight) {
    let mut slots = FieldSlots::new();
    let landed = match parse_request(&flight.head, &mut slots, &shard.head_limits) {
        Ok(Some(_)) if !shard.room_for_fetch(FETCH_ROOM).await => Err(OriginFailure::Overloaded),
        Ok(Some(request)) => {
            let (number, stored) = (Cell::new(0), RefCell::new(flight.stored.clone()));
            Work { shard: &shard, flight: &flight, request: &request, number, stored }.fly().await
        }
        // The same bytes were parsed when they came.
        Ok(None) | Err(_) => Err(OriginFailure::Invalid),
    };
    if let Err(failure) = landed {
        let roles = Roles::of(&flight);
        shard.settle(flight.id, Outcome::Failed, None, |_, _| Reply::Failed { failure, role: roles.next() });
    }
    // A fill ends its flight itself, and a flight that was answered otherwise is over.
    if landed != Ok(Landed::Filling) {
        shard.land(flight.id);
    }
    if let Some(stored) = &flight.stored {
        stored.release_refresh();
    }
}

/// How a flight came down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Landed {
    /// Its content is coming.
    Filling,
    /// All is said.
    Done,
}

struct Work<'w> {
    shard: &'w Rc<Shard>,
    flight: &'w Flight,
    request: &'w RequestHead<'w, 'w>,
    /// The rule number that was current before the last request was sent.
    number: Cell<u64>,
    /// What is validated or completed, as long as no rule came that concerns it.
    stored: RefCell<Option<Arc<StoredResponse>>>,
}

impl Work<'_> {
    async fn fly(&self) -> Result<Landed, OriginFailure> {
        let (shard, flight) = (self.shard, self.flight);
        let mut exchange = Exchange::flight(self.request, flight.conditions, shard.now());
        let mut conditions = flight.conditions;
        loop {
            let response = self.fetch(conditions).await?;
            let mut slots = FieldSlots::new();
            let parsed = parse_response(&response.head, &mut slots, &shard.head_limits, Method::Get);
            let Ok(Some(head)) = parsed else { return Err(OriginFailure::Invalid) };
            let stored = self.found(head.status);
            let stored = stored.as_deref().map(view_of);
            let event = Event::OriginHead { head: &head, request: self.request, stored };
            return Ok(match exchange.step(&shard.behavior, event, shard.now()) {
                Action::Forward(again) => {
                    conditions = again.conditions;
                    continue;
                }
                Action::Freshen { store, .. } => self.confirmed(&head, store),
                Action::Answer(_) => self.stale(head.status),
                Action::RespondOrigin { store, .. } => {
                    let raw = Arc::from(&response.head[..]);
                    self.arrived(&head, Some(raw), response.body, store).ok_or(OriginFailure::Overloaded)?
                }
                Action::Join { store } => match self.joined(&head, response.body, store) {
                    Some(landed) => landed,
                    // Only the whole helps who waits: what completes a part is nothing without it.
                    None => {
                        conditions = Conditions::None;
                        exchange = Exchange::flight(self.request, conditions, shard.now());
                        continue;
                    }
                },
                Action::Refuse { .. } => return Err(refusal(head.status)),
                _ => return Err(OriginFailure::Invalid),
            });
        }
    }

    /// What the origin's answer with this status is held against. I-25: nothing that a rule took answers in place of an error. What a
    /// 304 confirms or a 206 completes was there when the request was sent; [`Shard::replace`] and [`Work::joined`] look again.
    fn found(&self, status: u16) -> Option<Arc<StoredResponse>> {
        let stored = self.stored.borrow().clone();
        stored.filter(|stored| answers_condition(status) || self.shard.holds(stored))
    }

    async fn fetch(&self, conditions: Conditions) -> Result<OriginResponse, OriginFailure> {
        let (shard, flight) = (self.shard, self.flight);
        // Read before anything is sent: what a rule finds that is accepted from here on was asked for before it.
        self.number.set(shard.rules.number());
        shard.owner.collapse.borrow_mut().sent(flight.id, self.number.get());
        // I-24: no condition is made of what a rule took.
        self.stored.borrow_mut().take_if(|stored| !shard.holds(stored));
        let stored = self.stored.borrow().clone();
        let fields: Vec<Field<'_>> =
            stored.as_ref().map(|stored| stored_fields(&stored.head).collect()).unwrap_or_default();
        let preconditions = preconditions(conditions, stored.as_deref(), &fields, Preconditions::Range);
        let mut interim = |raw: &[u8]| {
            if let Some(leader) = &flight.leader {
                shard.reply(leader, Reply::Interim(raw.into()));
            }
        };
        fetch(shard, self.request, &flight.facts, preconditions, &mut interim).await
    }

    /// The origin's response came, to be stored or not. `None`, and nobody was told, if it has to be stored and cannot be: without `raw`.
    fn arrived(
        &self,
        head: &ResponseHead<'_, '_>,
        raw: Option<Arc<[u8]>>,
        body: OriginBody,
        store: Option<StoredMeta>,
    ) -> Option<Landed> {
        let (shard, flight) = (self.shard, self.flight);
        let mut origin = Some(body);
        let stored = self.stored.borrow().clone();
        let joined = stored.as_ref().filter(|_| raw.is_none());
        let prefix = joined.and_then(|stored| stored.body.in_memory());
        let invalidation = older_of(self.number.get(), joined.map(|stored| &**stored));
        let filling = store.map(|meta| Filling {
            head,
            request: self.request,
            key: &flight.key,
            meta,
            flying: Flying::Shared(flight.id),
            invalidation,
            prefix,
        });
        let retry = Retry::new(flight.head.clone(), flight.facts);
        let fill = filling.and_then(|filling| fill::prepare(shard, filling, &mut origin, Some(retry)));
        if let Some(fill) = fill {
            let Fill { view, stored, .. } = &fill;
            let names = stored.variant.as_ref().map_or_else(Box::default, |variant| variant.names.clone());
            let shared = if stored.meta.no_cache { Shared::LeaderOnly } else { Shared::WithAll };
            self.rekey(stored);
            let arrived = Arrived {
                stored: Arc::clone(stored),
                fill: Some(Rc::clone(view)),
                validated: false,
                restored: false,
            };
            let follow = arrived.clone();
            shard.settle(flight.id, Outcome::Kept { names, shared }, Some(arrived), |answer, core| {
                match answer {
                    Answer::Lead => lead_reply(&raw, view, &follow, core),
                    Answer::Follow => follow.reply(core, Role::Collapsed),
                    other => other_reply(other, head.status),
                }
            });
            fill.start();
            return Some(Landed::Filling);
        }
        let (origin, raw) = (origin?, raw?);
        let passing = fill::pass(shard, origin);
        let was_marked = shard.owner.collapse.borrow().is_marked(flight.key.0, shard.now());
        shard.settle(flight.id, Outcome::Passed { status: head.status }, None, |answer, core| match answer {
            Answer::Lead => {
                Reply::Origin { head: Arc::clone(&raw), stored: None, reading: passing.view.lend(core) }
            }
            other => other_reply(other, head.status),
        });
        if !was_marked && self.is_for_a_range() {
            // A range that cannot be satisfied, or several, say nothing about the whole, which may well be shared.
            shard.owner.collapse.borrow_mut().lift_mark(flight.key.0);
        }
        passing.start(shard);
        Some(Landed::Done)
    }

    /// The rest of a stored prefix came (rule 14). `None` if both together cannot be stored.
    fn joined(
        &self,
        head: &ResponseHead<'_, '_>,
        body: OriginBody,
        store: Option<StoredMeta>,
    ) -> Option<Landed> {
        let stored = self.stored.borrow().clone().filter(|stored| self.shard.holds(stored))?;
        let fields = joined_fields(&stored.head, head);
        let len = stored.body.published() + body.length().unwrap_or(0);
        let whole = joined_head(head, &fields, len);
        self.arrived(&whole, None, body, store)
    }

    /// A 304: what is stored gets a new head (RFC 9111 §4.3.4).
    fn confirmed(&self, update: &ResponseHead<'_, '_>, store: Option<StoredMeta>) -> Landed {
        let (shard, flight) = (self.shard, self.flight);
        let Some(stored) = &*self.stored.borrow() else { return Landed::Done };
        let is_doomed = shard.owner.collapse.borrow().is_doomed(flight.id);
        if is_unread(stored) {
            return self.confirmed_on_disk(stored, update, store.filter(|_| !is_doomed));
        }
        let fresh = shard.freshened(stored, store, update, self.number.get());
        match (&fresh, store) {
            (Some(fresh), Some(_)) if !is_doomed => shard.replace(Arc::clone(fresh), stored),
            (Some(fresh), _) => fresh.mark_gone(),
            (None, _) => shard.counters.add(Counter::CacheNotStoredMemory, 1),
        }
        if store.is_none() && !is_doomed {
            shard.forget(stored);
        }
        let fresh = fresh.unwrap_or_else(|| Arc::clone(stored));
        let shared = match store {
            Some(meta) if !meta.no_cache => Shared::WithAll,
            _ => Shared::LeaderOnly,
        };
        let arrived = Arrived { stored: fresh, fill: None, validated: true, restored: false };
        let told = arrived.clone();
        shard.settle(flight.id, Outcome::Confirmed(shared), Some(arrived), |answer, core| match answer {
            Answer::Lead => told.reply(core, Role::Lead),
            Answer::Follow => told.reply(core, Role::Collapsed),
            other => other_reply(other, update.status),
        });
        Landed::Done
    }

    /// The same where the content lies on disk alone: the new head goes there, and who waited finds it.
    fn confirmed_on_disk(
        &self,
        stored: &StoredResponse,
        update: &ResponseHead<'_, '_>,
        store: Option<StoredMeta>,
    ) -> Landed {
        let (shard, flight) = (self.shard, self.flight);
        let fresh = store.and_then(|meta| shard.freshened(stored, Some(meta), update, self.number.get()));
        match fresh {
            Some(fresh) => shard.renew_on_disk(fresh, stored),
            None => shard.forget_on_disk(stored),
        }
        shard.settle(flight.id, Outcome::Failed, None, |_, _| Reply::Again);
        Landed::Done
    }

    /// An error for which something stale may answer (rule 15).
    fn stale(&self, status: u16) -> Landed {
        let roles = Roles::of(self.flight);
        self.shard
            .settle(self.flight.id, Outcome::Stale, None, |_, _| Reply::Erred { status, role: roles.next() });
        Landed::Done
    }

    /// The origin was asked for the range that the leader wants.
    fn is_for_a_range(&self) -> bool {
        self.flight.conditions == Conditions::Viewer && self.request.field("range").is_some()
    }

    /// Whoever asks for exactly what came finds it by its own key.
    fn rekey(&self, stored: &StoredResponse) {
        if stored.meta.part.is_none() {
            self.shard.owner.collapse.borrow_mut().rekey(self.flight.id, stored.hash, &stored.key);
        }
    }
}

/// The roles of those who are told the same, in the order in which they are: the leader is the first, if there is one.
struct Roles(Cell<bool>);

impl Roles {
    fn of(flight: &Flight) -> Self {
        Roles(Cell::new(flight.leader.is_some()))
    }

    fn next(&self) -> Role {
        if self.0.replace(false) { Role::Lead } else { Role::Collapsed }
    }
}

/// What those are told whom the response is not for.
fn other_reply(answer: Answer, status: u16) -> Reply {
    match answer {
        Answer::Refuse { status } => Reply::Erred { status, role: Role::Collapsed },
        Answer::Stale | Answer::Failed => Reply::Erred { status, role: Role::Collapsed },
        Answer::Lead | Answer::Follow | Answer::Alone => Reply::Alone,
    }
}

/// The leader gets the origin's own head; with a stored prefix before the content there is none.
fn lead_reply(raw: &Option<Arc<[u8]>>, view: &Rc<FillView>, arrived: &Arrived, core: usize) -> Reply {
    match raw {
        Some(raw) => Reply::Origin {
            head: Arc::clone(raw),
            stored: Some(Arc::clone(&arrived.stored)),
            reading: view.lend(core),
        },
        None => arrived.reply(core, Role::Lead),
    }
}

/// Tells whether an answer with this status is about what was there when its request was sent.
pub(crate) fn answers_condition(status: u16) -> bool {
    matches!(status, 206 | 304 | 416)
}

/// What an answer with this status failed in that the machine refuses: a 101 that nobody asked for, or a 304.
pub(crate) fn refusal(status: u16) -> OriginFailure {
    if status == 101 { OriginFailure::ProtocolMismatch } else { OriginFailure::Invalid }
}

/// The preconditions of a request to the origin. `fields` are those of what is stored; `viewers` are the viewer's as far as they go on.
pub(crate) fn preconditions<'f>(
    conditions: Conditions,
    stored: Option<&StoredResponse>,
    fields: &[Field<'f>],
    viewers: Preconditions<'f>,
) -> Preconditions<'f> {
    match (conditions, stored) {
        (Conditions::Viewer, _) => viewers,
        (Conditions::Stored, Some(stored)) => {
            Preconditions::Of(Validators::of(fields, stored.meta.generated_at))
        }
        (Conditions::Rest, Some(stored)) => {
            let etag = Validators::of(fields, stored.meta.generated_at).strong_etag();
            Preconditions::Rest { from: stored.body.published(), etag }
        }
        (Conditions::Stored | Conditions::Rest, None) | (Conditions::None, _) => Preconditions::None,
    }
}

/// Sends a GET of the owner's and waits for the head of its final answer.
pub(crate) async fn fetch(
    shard: &Rc<Shard>,
    request: &RequestHead<'_, '_>,
    facts: &ViewerFacts,
    preconditions: Preconditions<'_>,
    interim: &mut dyn FnMut(&[u8]),
) -> Result<OriginResponse, OriginFailure> {
    let mut head = Vec::with_capacity(1024);
    origin_request::write_as(request, Method::Get, facts, &shard.behavior, preconditions, &mut head);
    let request =
        OriginRequest { head: &head, method: Method::Get, framing: request.framing, upgrade: false };
    shard.origin.fetch(request, None::<NoBody>, interim).await
}
