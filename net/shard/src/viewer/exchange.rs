//! One request that has to wait: forwarded to the origin, stored or passed through, and answered.
//!
//! `viewer/hot.rs` parks it here with the machine's first action; this task does the I/O that the machine asks for and tells
//! it the results. It ends with exactly one log record and leaves the connection `Idle`, or closed.
//!
//! ```text
//! forward --failed--> error answer
//!         --101-----> tunnel
//!         --head----> storable: fill + follow | else: pass through
//! ```

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use aspis_cache::range::ByteRange;
use aspis_cache::status::Stored as Kept;
use aspis_cache::stored::StoredMeta;
use aspis_exchange::forwarded::write_request_key;
use aspis_exchange::origin_request::{self, Preconditions};
use aspis_exchange::response_head::{
    self, ErrorAnswer, OriginAnswer, ViewerFraming, joined_fields, joined_head, stored_fields,
};
use aspis_exchange::{
    Action, Collapsing, Content, Event, Exchange, Forward, FoundChange, Now, OriginFailure, Role,
    StoredAnswer, ViewerFacts, invalidation,
};
use aspis_runtime::Close;
use aspis_runtime::future::{Either, race};
use aspis_storage::mapping::body::Body;
use aspis_storage::response::StoredResponse;
use aspis_telemetry::Counter;
use aspis_wire::request::{RequestHead, parse_request};
use aspis_wire::response::{ResponseHead, parse_response};
use aspis_wire::{Field, FieldSlots, HeadLimits};

use crate::alone::FlightGuard;
use crate::fill::{self, FillView, Filling, Flying, Reader};
use crate::flight::{answers_condition, preconditions, refusal};
use crate::limits::{DEPOSIT_LEN_MAX, FETCH_ROOM, LINGER};
use crate::log::{Answered, Ended};
use crate::origin::{LentBody, OriginBody, OriginRequest, OriginResponse};
use crate::shard::Shard;
use crate::storing::{older_of, view_of};
use crate::viewer::body::{BodyFault, ViewerBody};
use crate::viewer::relay::{Delimiter, Relay, RelayFailure};
use crate::viewer::stored::Material;
use crate::viewer::{Viewer, tunnel};

/// A request that waits, with everything that it needs once the ring's buffer is gone.
pub(crate) struct Parked {
    pub(crate) exchange: Exchange,
    pub(crate) action: Action,
    pub(crate) facts: ViewerFacts,
    /// The head as received, parsed again where it is needed.
    pub(crate) head: Box<[u8]>,
    /// Hash and bytes of the cache key, if the cache was asked.
    pub(crate) key: Option<(u128, Box<[u8]>)>,
    /// What was found and not served.
    pub(crate) stored: Option<Arc<StoredResponse>>,
    pub(crate) started: Instant,
}

/// How the connection goes on after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Afterwards {
    KeepAlive,
    /// Everything was sent; the connection ends.
    Close,
    /// Something is missing, and the viewer must see it.
    Reset,
}

/// What the log will say, filled in as it becomes known, so that it is there also when the viewer leaves in the middle.
#[derive(Default)]
pub(super) struct Progress {
    pub(super) status: Cell<u16>,
    pub(super) sent_len: Cell<u64>,
    answered: Cell<Answered>,
}

/// Runs one parked request to its end.
pub(crate) async fn run(shard: Rc<Shard>, viewer: Rc<Viewer>, parked: Parked) {
    let mut fields = Vec::new();
    let head = parked_head(&parked.head, &mut fields, &shard.head_limits);
    let listed = size_of_val(head.fields);
    let keyed = parked.key.as_ref().map_or(0, |(_, key)| key.len());
    let _weight = shard.account.requests.weigh(parked.head.len() + keyed + listed);
    let progress = Progress::default();
    let exchange = RefCell::new(parked.exchange);
    let work = Work {
        shard: &shard,
        viewer: &viewer,
        head: &head,
        raw: &parked.head,
        facts: &parked.facts,
        key: parked.key.as_ref(),
        found: RefCell::new(parked.stored),
        number: Cell::new(0),
        exchange: &exchange,
        progress: &progress,
        request_whole: Rc::new(Cell::new(true)),
    };
    let afterwards = match race(work.perform(parked.action), viewer_gone(&viewer)).await {
        Either::Left(afterwards) => afterwards,
        Either::Right(()) => {
            shard.count_abort(&viewer);
            Afterwards::Reset
        }
    };
    let ended = Ended {
        status: progress.status.get(),
        sent_len: progress.sent_len.get(),
        result: exchange.borrow().result(),
        forward: exchange.borrow().forward_reason(),
        collapsed: exchange.borrow().is_collapsed(),
        started: parked.started,
        answered: progress.answered.get(),
    };
    shard.record(&viewer, Some(&head), &ended);
    shard.counters.sub(Counter::RequestsRunning, 1);
    match afterwards {
        Afterwards::KeepAlive => shard.resume(&viewer),
        Afterwards::Close => shard.close_viewer(&viewer, Close::Linger(LINGER)),
        Afterwards::Reset => shard.close_viewer(&viewer, Close::Reset),
    }
}

/// Reads the head of a parked request again. A request that waits keeps the fields that it has, not room for as many as it might have.
pub(super) fn parked_head<'b, 'h>(
    raw: &'b [u8],
    fields: &'h mut Vec<Field<'b>>,
    limits: &HeadLimits,
) -> RequestHead<'b, 'h> {
    let mut slots = FieldSlots::new();
    match parse_request(raw, &mut slots, limits) {
        Ok(Some(head)) => {
            *fields = head.fields.to_vec();
            head.with_fields(fields)
        }
        // The same bytes were parsed before they were parked.
        Ok(None) | Err(_) => unreachable!("a parked head parses as it did when it was parked"),
    }
}

pub(super) async fn viewer_gone(viewer: &Viewer) {
    while !viewer.gone.get() {
        viewer.changed.notified().await;
    }
}

/// Everything that the steps of one exchange share.
pub(super) struct Work<'w> {
    pub(super) shard: &'w Rc<Shard>,
    pub(super) viewer: &'w Rc<Viewer>,
    pub(super) head: &'w RequestHead<'w, 'w>,
    /// The head as received.
    pub(super) raw: &'w [u8],
    pub(super) facts: &'w ViewerFacts,
    pub(super) key: Option<&'w (u128, Box<[u8]>)>,
    /// What was found last and not served.
    pub(super) found: RefCell<Option<Arc<StoredResponse>>>,
    /// The rule number that was current before a request of its own was sent.
    number: Cell<u64>,
    pub(super) exchange: &'w RefCell<Exchange>,
    pub(super) progress: &'w Progress,
    /// Every byte of the request was taken from the connection.
    request_whole: Rc<Cell<bool>>,
}

impl Work<'_> {
    /// Does what the machine asks for until the response is out.
    async fn perform(&self, action: Action) -> Afterwards {
        let Action::Forward(forward) = action else { return self.answer_error(500, None) };
        match forward.collapsing {
            Collapsing::Never => self.go_alone_boxed(forward).await,
            _ => self.share(forward).await,
        }
    }

    /// Fetches for this request alone, with room of its own: most requests that wait do not come here.
    pub(super) async fn go_alone_boxed(&self, forward: Forward) -> Afterwards {
        let alone = Box::pin(self.go_alone(forward));
        let _weight = self.shard.account.requests.weigh(size_of_val(&*alone));
        alone.await
    }

    /// Fetches for this request alone.
    async fn go_alone(&self, forward: Forward) -> Afterwards {
        if !self.shard.room_for_fetch(FETCH_ROOM).await {
            return self.answer_failure(OriginFailure::Overloaded, Role::Lead);
        }
        // Read before anything is sent: whatever rule is accepted from here on, what comes was asked for before it.
        self.number.set(self.shard.rules.number());
        let flight = match self.key {
            Some((hash, _)) if forward.may_store => {
                Some(FlightGuard::new(self.shard, *hash, self.number.get()))
            }
            _ => None,
        };
        let body = ViewerBody::new(
            Rc::clone(self.shard),
            Rc::clone(self.viewer),
            self.head.framing,
            self.head.expect_continue,
            Rc::clone(&self.request_whole),
        );
        let body = LentBody::new(body);
        match self.fetch(&forward, body.clone()).await {
            Ok(response) => self.respond(response, flight, body).await,
            Err(failure) => match body.take_back().and_then(|body| body.fault()) {
                Some(fault) => self.answer_fault(fault),
                None => self.answer_failure(failure, Role::Lead),
            },
        }
    }

    /// Sends the request to the origin and waits for the head of its final answer.
    async fn fetch(
        &self,
        forward: &Forward,
        body: LentBody<ViewerBody>,
    ) -> Result<OriginResponse, OriginFailure> {
        let mut head = Vec::with_capacity(1024);
        // I-24: no condition is made of what a rule took.
        self.found.borrow_mut().take_if(|found| !self.shard.holds(found));
        let found = self.stored();
        let fields: Vec<Field<'_>> =
            found.as_ref().map(|stored| stored_fields(&stored.head).collect()).unwrap_or_default();
        let preconditions =
            preconditions(forward.conditions, found.as_deref(), &fields, Preconditions::Viewer);
        origin_request::write_as(
            self.head,
            self.head.method,
            self.facts,
            &self.shard.behavior,
            preconditions,
            &mut head,
        );
        let request = OriginRequest {
            head: &head,
            method: self.head.method,
            framing: self.head.framing,
            upgrade: forward.upgrade,
        };
        let mut interim = |raw: &[u8]| self.pass_interim(raw);
        self.shard.origin.fetch(request, Some(body), &mut interim).await
    }

    /// 102 and 103 go to viewers that can have more than one response (RFC 9110 §15.2; rule 17 of the RFC 9111 profile).
    pub(super) fn pass_interim(&self, raw: &[u8]) {
        let mut slots = FieldSlots::new();
        if let Ok(Some(head)) = parse_response(raw, &mut slots, &self.shard.head_limits, self.head.method) {
            let mut out = Vec::new();
            if response_head::write_interim(&head, self.head.version, &mut out) {
                self.shard.ring.send_owned(self.viewer.socket, out);
            }
        }
    }

    /// Sends what the origin answered, asking again where the machine says so.
    async fn respond(
        &self,
        response: OriginResponse,
        flight: Option<FlightGuard<'_>>,
        request_body: LentBody<ViewerBody>,
    ) -> Afterwards {
        let mut response = response;
        loop {
            let mut slots = FieldSlots::new();
            let limits = &self.shard.head_limits;
            let head = match parse_response(&response.head, &mut slots, limits, self.head.method) {
                Ok(Some(head)) => head,
                Ok(None) | Err(_) => return self.answer_failure(OriginFailure::Invalid, Role::Lead),
            };
            // What a 304 confirms or a 206 completes was there when the request was sent.
            let found = if answers_condition(head.status) { self.stored() } else { self.held() };
            let stored = found.as_deref().map(view_of);
            let event = Event::OriginHead { head: &head, request: self.head, stored };
            match self.step(event, self.shard.now()) {
                Action::RespondOrigin { store, content, invalidate, found } => {
                    if invalidate {
                        let primaries = self.invalidate(&head);
                        self.shard.removals_written(&primaries).await;
                    }
                    self.change_found(found, &head);
                    return self.send_response(&head, response.body, store, content, flight, None).await;
                }
                Action::Join { store } => {
                    let Some(stored) = found else { return Afterwards::Reset };
                    let fields = joined_fields(&stored.head, &head);
                    let len = stored.body.published() + response.body.length().unwrap_or(0);
                    let whole = joined_head(&head, &fields, len);
                    // Parts are in memory.
                    let Some(prefix) = stored.body.in_memory() else { return Afterwards::Reset };
                    let prefix = Some(prefix);
                    let content = Content::Follows;
                    return self.send_response(&whole, response.body, store, content, flight, prefix).await;
                }
                Action::Freshen { store, answer } => {
                    drop(response.body);
                    return self.freshen(store, answer, &head);
                }
                Action::Answer(answer) => return self.answer_stored(answer),
                Action::Forward(again) => match self.fetch(&again, request_body.clone()).await {
                    Ok(other) => response = other,
                    Err(failure) => return self.answer_failure(failure, Role::Lead),
                },
                Action::Tunnel => return self.tunnel(&head, response.body).await,
                Action::Refuse { status } => {
                    return self.answer_error(status, Some(refusal(head.status)));
                }
                _ => return Afterwards::Reset,
            }
        }
    }

    /// What was found last and not served.
    pub(super) fn stored(&self) -> Option<Arc<StoredResponse>> {
        self.found.borrow().clone()
    }

    /// The same if no rule concerns it: only that may answer in place of the origin (I-25).
    pub(super) fn held(&self) -> Option<Arc<StoredResponse>> {
        self.stored().filter(|found| self.shard.holds(found))
    }

    /// The answer to a HEAD may concern what was found (RFC 9111 §4.3.5).
    fn change_found(&self, change: FoundChange, head: &ResponseHead<'_, '_>) {
        let Some(stored) = self.stored() else { return };
        match change {
            FoundChange::Keep => {}
            FoundChange::Forget => self.shard.forget(&stored),
            FoundChange::Update(meta) => {
                if let Some(fresh) = self.shard.freshened(&stored, Some(meta), head, self.number.get()) {
                    self.shard.replace_at_owner(fresh, &stored);
                }
            }
        }
    }

    /// The origin confirmed what was found: it gets its new head and answers.
    fn freshen(
        &self,
        store: Option<StoredMeta>,
        answer: StoredAnswer,
        update: &ResponseHead<'_, '_>,
    ) -> Afterwards {
        let Some(stored) = self.stored() else { return Afterwards::Reset };
        let fresh = self.shard.freshened(&stored, store, update, self.number.get());
        match (&fresh, store) {
            (_, None) => self.shard.forget(&stored),
            (Some(fresh), Some(_)) => self.shard.replace_at_owner(Arc::clone(fresh), &stored),
            (None, Some(_)) => self.shard.counters.add(Counter::CacheNotStoredMemory, 1),
        }
        // Without memory for a new head the old one has to do.
        let head = fresh.as_ref().map_or(&stored.head, |fresh| &fresh.head);
        self.send_answer(&stored, head, answer)
    }

    /// What was found answers although it is stale: the origin failed (rule 15).
    pub(super) fn answer_stored(&self, answer: StoredAnswer) -> Afterwards {
        let Some(stored) = self.stored() else { return Afterwards::Reset };
        self.send_answer(&stored, &stored.head, answer)
    }

    pub(super) fn send_answer(
        &self,
        stored: &StoredResponse,
        head: &[u8],
        answer: StoredAnswer,
    ) -> Afterwards {
        let keep_alive = self.may_keep_alive();
        let material = Material { hash: stored.hash, head, meta: &stored.meta, body: &stored.body };
        let exchange = self.exchange.borrow();
        let (status, sent_len) =
            self.shard.send_answer(self.viewer.socket, self.head, &exchange, &material, answer, keep_alive);
        let progress = self.progress;
        progress.status.set(status);
        progress.sent_len.set(progress.sent_len.get() + sent_len);
        progress.answered.set(Answered::At(Instant::now()));
        if keep_alive { Afterwards::KeepAlive } else { Afterwards::Close }
    }

    /// Sends head and content of the origin's answer, and stores them on the way if `store` says so.
    async fn send_response(
        &self,
        head: &ResponseHead<'_, '_>,
        origin: OriginBody,
        store: Option<StoredMeta>,
        content: Content,
        flight: Option<FlightGuard<'_>>,
        prefix: Option<&Arc<Body>>,
    ) -> Afterwards {
        let fits = self.fits(store, &origin);
        if store.is_some() && !fits {
            self.shard.counters.add(Counter::CacheNotStoredSize, 1);
        }
        let mut origin = Some(origin);
        let fill =
            store.filter(|_| fits).and_then(|meta| self.start_fill(head, &mut origin, meta, flight, prefix));
        let (keep_alive, delimiter) = self.send_origin_head(head, content, fill.is_some());
        let mut relay = Relay::new(self.shard, self.viewer, delimiter, &self.progress.sent_len);
        if let (None, Some(prefix)) = (&fill, prefix) {
            relay.send_prefix(prefix);
        }
        let has_body = content == Content::Follows;
        let relayed = match (fill, origin) {
            (Some(fill), _) if has_body => relay.follow(&fill, ByteRange { start: 0, end: u64::MAX }).await,
            (None, Some(origin)) if has_body => relay.pass(origin).await,
            // Content that the viewer does not get, if there is any, goes on being stored.
            _ => relay.finish().await,
        };
        self.relayed(relayed, keep_alive)
    }

    /// Tells whether a response that may be stored is not too large; one that another core owns is copied there, so it has to be small.
    fn fits(&self, store: Option<StoredMeta>, origin: &OriginBody) -> bool {
        let is_own = self.key.is_none_or(|(hash, _)| self.shard.owner_of(*hash) == self.shard.core);
        match origin.length() {
            _ if store.is_none() => false,
            Some(length) if is_own => length <= self.shard.object_len_max,
            Some(length) => length <= DEPOSIT_LEN_MAX,
            None => is_own,
        }
    }

    /// Sends the head of the origin's answer, or of the 304 that it comes to; whether the connection can go on, and how content follows.
    pub(super) fn send_origin_head(
        &self,
        head: &ResponseHead<'_, '_>,
        content: Content,
        is_stored: bool,
    ) -> (bool, Delimiter) {
        let stored = if is_stored { Kept::Yes } else { Kept::No };
        let keep_alive = self.may_keep_alive();
        let answer =
            OriginAnswer::new(self.head, &self.exchange.borrow(), stored, keep_alive, self.shard.now());
        let fields = response_head::not_modified_fields(head);
        let not_modified = response_head::not_modified_head(head, &fields);
        let head = if content == Content::NotModified { &not_modified } else { head };
        let mut out = Vec::with_capacity(1024);
        let sending = response_head::write_origin(&self.shard.behavior, head, &answer, &mut out);
        self.progress.status.set(head.status);
        self.send(out);
        let delimiter = match sending.framing {
            ViewerFraming::Chunked if content == Content::Follows => Delimiter::Chunked,
            _ => Delimiter::Plain,
        };
        (sending.keep_alive, delimiter)
    }

    /// How the connection goes on after content was sent, or was not.
    pub(super) fn relayed(&self, relayed: Result<(), RelayFailure>, keep_alive: bool) -> Afterwards {
        match relayed {
            Ok(()) if keep_alive => Afterwards::KeepAlive,
            Ok(()) => Afterwards::Close,
            Err(RelayFailure::Viewer) => Afterwards::Reset,
            Err(RelayFailure::Lost { .. }) => {
                self.shard.counters.add(Counter::PassageLost, 1);
                Afterwards::Reset
            }
            Err(RelayFailure::Origin(failure)) => {
                self.step(Event::OriginBodyFailed(failure), self.shard.now());
                Afterwards::Reset
            }
        }
    }

    /// Begins to store the response; the origin's stream is taken only if that is done.
    fn start_fill(
        &self,
        head: &ResponseHead<'_, '_>,
        origin: &mut Option<OriginBody>,
        meta: StoredMeta,
        flight: Option<FlightGuard<'_>>,
        prefix: Option<&Arc<Body>>,
    ) -> Option<Reader> {
        let posted;
        let (key, flight) = match (self.key, flight) {
            (Some(key), Some(flight)) => (key, flight),
            _ => {
                // Rule 9: the answer to a POST is kept for later GETs. What it invalidated went before.
                let mut bytes = Vec::new();
                write_request_key(self.head, self.facts, self.head.path_and_query, &mut bytes);
                posted = (aspis_cache::key::hash(&bytes), bytes.into_boxed_slice());
                (&posted, FlightGuard::new(self.shard, posted.0, self.number.get()))
            }
        };
        let joined = self.stored().filter(|_| prefix.is_some());
        let invalidation = older_of(self.number.get(), joined.as_deref());
        let flying = Flying::Alone(flight.flight);
        let filling = Filling { head, request: self.head, key, meta, flying, invalidation, prefix };
        let fill = fill::prepare(self.shard, filling, origin, None)?;
        flight.hand_over();
        let reader = FillView::attach(self.shard, fill.view.lend(self.shard.core));
        fill.start();
        Some(reader)
    }

    /// Whether the connection can take another request behind this answer. An answer that came before the request's
    /// content was read ends it: what is still on its way cannot be told from the next request soon enough.
    pub(super) fn may_keep_alive(&self) -> bool {
        self.head.keep_alive && !self.shard.draining.get() && self.request_whole.get()
    }

    /// Removes everywhere what a successful unsafe request made out of date (rule 16 of the RFC 9111 profile); returns the hashes of the keys.
    fn invalidate(&self, head: &ResponseHead<'_, '_>) -> Vec<u128> {
        let (mut key, mut hashes) = (Vec::new(), Vec::new());
        invalidation::keys(self.head, self.facts, head, &mut key, &mut |hash, key| {
            self.shard.invalidate_everywhere(hash, key);
            hashes.push(hash);
        });
        hashes
    }

    /// The 101 goes to the viewer, then bytes go both ways.
    async fn tunnel(&self, head: &ResponseHead<'_, '_>, origin: OriginBody) -> Afterwards {
        // Content that was still on its way to the origin would run into the tunnel as bytes of the new protocol.
        let Some(tunnel) = origin.into_tunnel().filter(|_| self.request_whole.get()) else {
            return Afterwards::Reset;
        };
        let mut out = Vec::with_capacity(512);
        response_head::write_switching(&self.shard.behavior, head, &mut out);
        self.progress.status.set(head.status);
        self.send(out);
        tunnel::run(self.shard, self.viewer, &tunnel, &self.progress.sent_len).await;
        Afterwards::Close
    }

    /// The viewer's content did not come whole.
    fn answer_fault(&self, fault: BodyFault) -> Afterwards {
        let failure = OriginFailure::ViewerGone;
        self.step(
            Event::OriginFailed { failure, role: Role::Lead, request: self.head, stored: None },
            self.shard.now(),
        );
        // Where the next request would begin is not known.
        self.request_whole.set(false);
        fault.status().map_or(Afterwards::Reset, |status| self.answer_error(status, None))
    }

    /// The origin failed before it answered (H-25).
    pub(super) fn answer_failure(&self, failure: OriginFailure, role: Role) -> Afterwards {
        if failure == OriginFailure::ViewerGone {
            return Afterwards::Reset;
        }
        let found = self.held();
        let event =
            Event::OriginFailed { failure, role, request: self.head, stored: found.as_deref().map(view_of) };
        match self.step(event, self.shard.now()) {
            Action::Answer(answer) => self.answer_stored(answer),
            Action::Refuse { status } => self.answer_error(status, Some(failure)),
            _ => Afterwards::Reset,
        }
    }

    /// An error of our own.
    pub(super) fn answer_error(&self, status: u16, failure: Option<OriginFailure>) -> Afterwards {
        let answer = ErrorAnswer {
            status,
            method: Some(self.head.method),
            version: self.head.version,
            keep_alive: self.may_keep_alive(),
            reason: self.exchange.borrow().forward_reason(),
            collapsed: self.exchange.borrow().is_collapsed(),
            failure,
            unsatisfied_len: None,
            wall: self.shard.now().wall,
        };
        let mut out = Vec::with_capacity(512);
        response_head::write_error_answer(&self.shard.behavior, &answer, &mut out);
        self.progress.status.set(status);
        self.send(out);
        if answer.keep_alive { Afterwards::KeepAlive } else { Afterwards::Close }
    }

    pub(super) fn step(&self, event: Event<'_>, now: Now) -> Action {
        self.exchange.borrow_mut().step(&self.shard.behavior, event, now)
    }

    pub(super) fn send(&self, bytes: Vec<u8>) {
        let progress = self.progress;
        progress.sent_len.set(progress.sent_len.get() + bytes.len() as u64);
        if progress.answered.get() == Answered::Never {
            progress.answered.set(Answered::At(Instant::now()));
        }
        self.shard.ring.send_owned(self.viewer.socket, bytes);
    }
}
