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

use aspis_cache::status::Stored;
use aspis_cache::stored::StoredMeta;
use aspis_exchange::response_head::{self, ErrorAnswer, OriginAnswer, ViewerFraming};
use aspis_exchange::{
    Action, Event, Exchange, Forward, Now, OriginFailure, ViewerFacts, invalidation, origin_request,
};
use aspis_runtime::Close;
use aspis_runtime::future::{Either, race};
use aspis_storage::mapping::body::Body;
use aspis_telemetry::Counter;
use aspis_wire::FieldSlots;
use aspis_wire::request::{RequestHead, parse_request};
use aspis_wire::response::{ResponseHead, parse_response};

use crate::fill::{self, Candidate, Fill};
use crate::limits::LINGER;
use crate::log::{Answered, Ended};
use crate::origin::{LentBody, OriginBody, OriginRequest, OriginResponse};
use crate::shard::Shard;
use crate::viewer::body::{BodyFault, ViewerBody};
use crate::viewer::relay::{Delimiter, Relay, RelayFailure};
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
    pub(crate) started: Instant,
}

/// How the connection goes on after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    KeepAlive,
    /// Everything was sent; the connection ends.
    Close,
    /// Something is missing, and the viewer must see it.
    Reset,
}

/// What the log will say, filled in as it becomes known, so that it is there also when the viewer leaves in the middle.
#[derive(Default)]
struct Progress {
    status: Cell<u16>,
    sent_len: Cell<u64>,
    answered: Cell<Answered>,
}

/// Runs one parked request to its end.
pub(crate) async fn run(shard: Rc<Shard>, viewer: Rc<Viewer>, parked: Parked) {
    let mut slots = FieldSlots::new();
    let head = match parse_request(&parked.head, &mut slots, &shard.head_limits) {
        Ok(Some(head)) => head,
        // The same bytes were parsed before they were parked.
        Ok(None) | Err(_) => unreachable!("a parked head parses as it did when it was parked"),
    };
    let progress = Progress::default();
    let exchange = RefCell::new(parked.exchange);
    let work = Work {
        shard: &shard,
        viewer: &viewer,
        head: &head,
        facts: &parked.facts,
        key: parked.key.as_ref(),
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

async fn viewer_gone(viewer: &Viewer) {
    while !viewer.gone.get() {
        viewer.changed.notified().await;
    }
}

/// Everything that the steps of one exchange share.
struct Work<'w> {
    shard: &'w Rc<Shard>,
    viewer: &'w Rc<Viewer>,
    head: &'w RequestHead<'w, 'w>,
    facts: &'w ViewerFacts,
    key: Option<&'w (u128, Box<[u8]>)>,
    exchange: &'w RefCell<Exchange>,
    progress: &'w Progress,
    /// Every byte of the request was taken from the connection.
    request_whole: Rc<Cell<bool>>,
}

/// A fetch in the shard's table of fetches, removed when it is dropped unless a fill took it over.
struct FlightGuard<'g> {
    shard: &'g Rc<Shard>,
    flight: usize,
    invalidation: u64,
}

impl<'g> FlightGuard<'g> {
    fn new(shard: &'g Rc<Shard>, hash: u128) -> Self {
        FlightGuard { shard, flight: shard.begin_flight(hash), invalidation: shard.invalidation_number() }
    }

    /// The fill ends the flight from now on.
    fn hand_over(self) -> usize {
        let flight = self.flight;
        std::mem::forget(self);
        flight
    }
}

impl Drop for FlightGuard<'_> {
    fn drop(&mut self) {
        self.shard.end_flight(self.flight);
    }
}

/// The viewer's place at a fill; leaving it is noted also when the viewer's task is cut short.
struct Reader(Rc<Fill>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Work<'_> {
    /// Does what the machine asks for until the response is out.
    async fn perform(&self, action: Action) -> Afterwards {
        let Action::Forward(forward) = action else { return self.answer_error(500, None) };
        let flight = match self.key {
            Some((hash, _)) if forward.may_store => Some(FlightGuard::new(self.shard, *hash)),
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
            Ok(response) => self.respond(response, flight).await,
            Err(failure) => match body.take_back().and_then(|body| body.fault()) {
                Some(fault) => self.answer_fault(fault),
                None => self.answer_failure(failure),
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
        origin_request::write(self.head, self.facts, &self.shard.behavior, &mut head);
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
    fn pass_interim(&self, raw: &[u8]) {
        let mut slots = FieldSlots::new();
        if let Ok(Some(head)) = parse_response(raw, &mut slots, &self.shard.head_limits, self.head.method) {
            let mut out = Vec::new();
            if response_head::write_interim(&head, self.head.version, &mut out) {
                self.shard.ring.send_owned(self.viewer.socket, out);
            }
        }
    }

    /// Sends what the origin answered.
    async fn respond(&self, response: OriginResponse, flight: Option<FlightGuard<'_>>) -> Afterwards {
        let mut slots = FieldSlots::new();
        let head = match parse_response(&response.head, &mut slots, &self.shard.head_limits, self.head.method)
        {
            Ok(Some(head)) => head,
            Ok(None) | Err(_) => return self.answer_failure(OriginFailure::Invalid),
        };
        let now = self.shard.now();
        let action = self.step(Event::OriginHead { head: &head }, now);
        match action {
            Action::RespondOrigin { store, body, invalidate } => {
                if invalidate {
                    self.invalidate(&head);
                }
                self.send_response(&head, response.body, store.filter(|_| body), body, flight).await
            }
            Action::Tunnel => self.tunnel(&head, response.body).await,
            Action::Refuse { status } => self.answer_error(status, Some(OriginFailure::ProtocolMismatch)),
            _ => Afterwards::Reset,
        }
    }

    /// Sends head and content of the origin's answer, and stores them on the way if `store` says so.
    async fn send_response(
        &self,
        head: &ResponseHead<'_, '_>,
        origin: OriginBody,
        store: Option<StoredMeta>,
        has_body: bool,
        flight: Option<FlightGuard<'_>>,
    ) -> Afterwards {
        let fits = origin.length().is_none_or(|length| length <= self.shard.object_len_max);
        if store.is_some() && !fits {
            self.shard.counters.add(Counter::CacheNotStoredSize, 1);
        }
        let store = store.filter(|_| fits).zip(flight);
        let mut out = Vec::with_capacity(1024);
        let stored = if store.is_some() { Stored::Yes } else { Stored::No };
        let answer = OriginAnswer::new(
            self.head,
            &self.exchange.borrow(),
            stored,
            self.may_keep_alive(),
            self.shard.now(),
        );
        let sending = response_head::write_origin(&self.shard.behavior, head, &answer, &mut out);
        self.progress.status.set(head.status);
        self.send(out);
        let delimiter = match sending.framing {
            ViewerFraming::Chunked if has_body => Delimiter::Chunked,
            _ => Delimiter::Plain,
        };
        let mut relay = Relay::new(self.shard, self.viewer, delimiter, &self.progress.sent_len);
        let relayed = match store {
            Some((meta, flight)) => {
                let reader = Reader(self.start_fill(head, origin, meta, flight));
                relay.follow(&reader.0).await
            }
            None if has_body => relay.pass(origin).await,
            None => relay.finish().await,
        };
        match relayed {
            Ok(()) if sending.keep_alive => Afterwards::KeepAlive,
            Ok(()) => Afterwards::Close,
            Err(RelayFailure::Viewer) => Afterwards::Reset,
            Err(RelayFailure::Origin(failure)) => {
                self.step(Event::OriginBodyFailed(failure), self.shard.now());
                Afterwards::Reset
            }
        }
    }

    /// Begins to store the response: the returned fill grows by itself.
    fn start_fill(
        &self,
        head: &ResponseHead<'_, '_>,
        origin: OriginBody,
        meta: StoredMeta,
        flight: FlightGuard<'_>,
    ) -> Rc<Fill> {
        let (hash, key) = self.key.expect("a flight is begun only with a key");
        let mut stored_head = Vec::with_capacity(1024);
        // The length is stated by each hit: it may not be known yet.
        response_head::write_stored(&self.shard.behavior, head, self.shard.now(), &mut stored_head);
        let writer = Body::writer(&self.shard.arena, origin.length());
        let fill = Fill::new(Arc::clone(writer.body()));
        let candidate = Candidate {
            hash: *hash,
            key: key.clone(),
            head: stored_head.into(),
            meta,
            invalidation: flight.invalidation,
            flight: flight.hand_over(),
        };
        self.shard.ring.spawn(fill::run(Rc::clone(self.shard), Rc::clone(&fill), origin, writer, candidate));
        fill
    }

    /// Whether the connection can take another request behind this answer. An answer that came before the request's
    /// content was read ends it: what is still on its way cannot be told from the next request soon enough.
    fn may_keep_alive(&self) -> bool {
        self.head.keep_alive && !self.shard.draining.get() && self.request_whole.get()
    }

    /// Removes everywhere what a successful unsafe request made out of date (rule 16 of the RFC 9111 profile).
    fn invalidate(&self, head: &ResponseHead<'_, '_>) {
        let mut key = Vec::new();
        invalidation::keys(self.head, self.facts, head, &mut key, &mut |hash, key| {
            self.shard.invalidate_everywhere(hash, key);
        });
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
        self.step(Event::OriginFailed(OriginFailure::ViewerGone), self.shard.now());
        // Where the next request would begin is not known.
        self.request_whole.set(false);
        fault.status().map_or(Afterwards::Reset, |status| self.answer_error(status, None))
    }

    /// The origin failed before it answered (H-25).
    fn answer_failure(&self, failure: OriginFailure) -> Afterwards {
        if failure == OriginFailure::ViewerGone {
            return Afterwards::Reset;
        }
        match self.step(Event::OriginFailed(failure), self.shard.now()) {
            Action::Refuse { status } => self.answer_error(status, Some(failure)),
            _ => Afterwards::Reset,
        }
    }

    /// An error of our own.
    fn answer_error(&self, status: u16, failure: Option<OriginFailure>) -> Afterwards {
        let answer = ErrorAnswer {
            status,
            method: Some(self.head.method),
            version: self.head.version,
            keep_alive: self.may_keep_alive(),
            reason: self.exchange.borrow().forward_reason(),
            failure,
            wall: self.shard.now().wall,
        };
        let mut out = Vec::with_capacity(512);
        response_head::write_error_answer(&self.shard.behavior, &answer, &mut out);
        self.progress.status.set(status);
        self.send(out);
        if answer.keep_alive { Afterwards::KeepAlive } else { Afterwards::Close }
    }

    fn step(&self, event: Event<'_>, now: Now) -> Action {
        self.exchange.borrow_mut().step(&self.shard.behavior, event, now)
    }

    fn send(&self, bytes: Vec<u8>) {
        let progress = self.progress;
        progress.sent_len.set(progress.sent_len.get() + bytes.len() as u64);
        if progress.answered.get() == Answered::Never {
            progress.answered.set(Answered::At(Instant::now()));
        }
        self.shard.ring.send_owned(self.viewer.socket, bytes);
    }
}
