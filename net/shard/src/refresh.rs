//! Validates a stored response in the background while viewers get it stale (RFC 5861 §3, T-29), and puts freshened heads in place.
//!
//! `viewer/hot.rs` starts a refresh when the exchange says so; the task belongs to the core, not to the viewer's connection. Invariants: one
//! refresh per stored response at a time; a refresh that fails leaves what is stored as it is.

use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::conditional::Validators;
use aspis_cache::stored::StoredMeta;
use aspis_exchange::origin_request::{self, Preconditions};
use aspis_exchange::response_head::{self, stored_fields};
use aspis_exchange::{Action, Conditions, Event, Exchange, OriginFailure, Stored, ViewerFacts};
use aspis_storage::response::{Parts, StoredResponse};
use aspis_telemetry::Counter;
use aspis_wire::request::{RequestHead, parse_request};
use aspis_wire::response::{ResponseHead, parse_response};
use aspis_wire::{Field, FieldSlots, Method};

use crate::fill::{self, Filling};
use crate::origin::{NoBody, OriginRequest, OriginResponse};
use crate::shard::Shard;

/// What a refresh needs of the request that found the stale response.
pub(crate) struct Refresh {
    /// The request's head as received.
    pub(crate) head: Box<[u8]>,
    pub(crate) facts: ViewerFacts,
    /// Hash and bytes of the primary key.
    pub(crate) key: (u128, Box<[u8]>),
    pub(crate) stored: Arc<StoredResponse>,
}

impl Shard {
    /// Starts a refresh, unless one runs for the same stored response.
    pub(crate) fn refresh(&self, refresh: Refresh) {
        let subject = refresh.stored.hash;
        if self.flights.borrow().iter().any(|(_, flight)| flight.refreshes == Some(subject)) {
            return;
        }
        let invalidation = self.invalidation_number();
        let flight = self.begin_flight(refresh.key.0, Some(subject));
        self.counters.add(Counter::CacheRefreshes, 1);
        self.ring.spawn(run(self.handle(), refresh, flight, invalidation));
    }

    /// Puts a stored response with a new head in the old one's place, over the same body; returns the new head.
    ///
    /// `meta` is `None` if the update says that it is not to be stored; then nothing stays (RFC 9111 §4.3.4).
    pub(crate) fn freshen(
        &self,
        stored: &Arc<StoredResponse>,
        meta: Option<StoredMeta>,
        update: &ResponseHead<'_, '_>,
        invalidation: u64,
    ) -> Box<[u8]> {
        let facts = meta.unwrap_or(stored.meta);
        let mut head = Vec::with_capacity(stored.head.len() + 256);
        response_head::write_freshened(&self.behavior, &stored.head, &facts, update, self.now(), &mut head);
        let head: Box<[u8]> = head.into();
        // An invalidation since the request was sent took the old one out; then the new one is not wanted either.
        if !stored.is_live() {
            return head;
        }
        let mut store = self.store.borrow_mut();
        let Some(meta) = meta else {
            store.remove(stored.hash, &stored.key);
            return head;
        };
        let parts = Parts {
            hash: stored.hash,
            key: stored.key.clone(),
            head: head.clone(),
            meta,
            body: Arc::clone(&stored.body),
            invalidation,
            variant: stored.variant.clone(),
        };
        let placed =
            StoredResponse::new(parts, &self.budget).is_some_and(|fresh| store.insert(fresh).is_ok());
        let counter = if placed { Counter::CacheFreshened } else { Counter::CacheNotStoredMemory };
        self.counters.add(counter, 1);
        head
    }
}

async fn run(shard: Rc<Shard>, refresh: Refresh, flight: usize, invalidation: u64) {
    let taken_over = work(&shard, &refresh, flight, invalidation).await;
    if !taken_over {
        shard.end_flight(flight);
    }
}

/// Returns whether a fill took the flight over.
async fn work(shard: &Rc<Shard>, refresh: &Refresh, flight: usize, invalidation: u64) -> bool {
    let mut slots = FieldSlots::new();
    let Ok(Some(request)) = parse_request(&refresh.head, &mut slots, &shard.head_limits) else {
        return false;
    };
    let mut exchange = Exchange::flight(&request, Conditions::Stored, shard.now());
    let mut conditions = Conditions::Stored;
    loop {
        let response = match fetch(shard, refresh, &request, conditions).await {
            Ok(response) => response,
            Err(_) => return false,
        };
        let mut slots = FieldSlots::new();
        let Ok(Some(head)) = parse_response(&response.head, &mut slots, &shard.head_limits, Method::Get)
        else {
            return false;
        };
        let stored = &refresh.stored;
        let view = Stored { meta: &stored.meta, head: &stored.head, len: stored.body.published() };
        let event = Event::OriginHead { head: &head, request: &request, stored: Some(view) };
        match exchange.step(&shard.behavior, event, shard.now()) {
            Action::Forward(again) => conditions = again.conditions,
            Action::Freshen { store, .. } => {
                let doomed = shard.flights.borrow().get(flight).is_none_or(|flight| flight.doomed);
                if !doomed {
                    shard.freshen(stored, store, &head, invalidation);
                }
                return false;
            }
            Action::RespondOrigin { store: Some(meta), .. } => {
                let filling = Filling {
                    head: &head,
                    request: &request,
                    key: &refresh.key,
                    meta,
                    flight,
                    invalidation,
                    prefix: None,
                };
                let fill = fill::begin(shard, filling, &mut Some(response.body));
                // Nobody reads it: the bounds of a fill without a viewer hold from the start.
                if let Some(fill) = &fill {
                    fill.leave();
                }
                return fill.is_some();
            }
            _ => return false,
        }
    }
}

async fn fetch(
    shard: &Rc<Shard>,
    refresh: &Refresh,
    request: &RequestHead<'_, '_>,
    conditions: Conditions,
) -> Result<OriginResponse, OriginFailure> {
    let mut head = Vec::with_capacity(1024);
    let fields: Vec<Field<'_>> = stored_fields(&refresh.stored.head).collect();
    let preconditions = match conditions {
        Conditions::Stored => Preconditions::Of(Validators::of(&fields, refresh.stored.meta.generated_at)),
        Conditions::Viewer | Conditions::None | Conditions::Rest => Preconditions::None,
    };
    origin_request::write_as(request, Method::Get, &refresh.facts, &shard.behavior, preconditions, &mut head);
    let request =
        OriginRequest { head: &head, method: Method::Get, framing: request.framing, upgrade: false };
    shard.origin.fetch(request, None::<NoBody>, &mut |_| {}).await
}
