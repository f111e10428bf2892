//! Bytes of a viewer become requests, and requests that need no waiting are answered at once.
//!
//! Called from the ring's receive completion (`Shard::received`) and when a connection becomes `Idle` again with bytes
//! in its inbox. A fresh hit is composed straight into the ring's turn buffer: no allocation, no task, no system call of
//! its own. Whatever else a request needs is parked here and goes on in `viewer/exchange.rs`.
//!
//! Invariant: requests of one connection are answered in their order; bytes that are not used stay in the inbox.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use aspis_exchange::response_head::error::refusal_status;
use aspis_exchange::response_head::{self, ErrorAnswer, HIT_TAIL_LEN_MAX, HitTail};
use aspis_exchange::{Action, Event, Exchange, OriginFailure, ResultType, Role, ViewerFacts};
use aspis_runtime::{Close, SocketId};
use aspis_storage::response::StoredResponse;
use aspis_telemetry::Counter;
use aspis_wire::proxy_protocol;
use aspis_wire::request::{KnownSlots, RequestHead};
use aspis_wire::{Method, Scheme};

use crate::limits::{INBOX_LEN_MAX, INBOX_ROOM, INLINE_BODY_LEN_MAX, LINGER, QUEUED_LEN_MAX};
use crate::log::{Answered, Ended};
use crate::owner::Refresh;
use crate::shard::Shard;
use crate::storing::view_of;
use crate::viewer::exchange::{self, Parked};
use crate::viewer::shelf::Shelf;
use crate::viewer::stored::Material;
use crate::viewer::{Deadline, Viewer, ViewerState, purge};

/// What became of one request head.
enum Served {
    /// Answered; the next request may follow.
    Next,
    /// A task goes on with it, or the connection is on its way to be closed.
    Taken,
}

/// What a lookup brought.
enum Found<'s> {
    Stored(&'s Arc<StoredResponse>),
    /// Nothing of use; the machine says what to do instead.
    Instead(Action),
}

/// What became of a stored response that was found.
enum Sent {
    AtOnce(SentAtOnce),
    /// It does not answer the request by itself; the machine says what to do.
    Instead(Action),
}

/// An answer from the cache that is queued already.
struct SentAtOnce {
    status: u16,
    sent_len: u64,
    keep_alive: bool,
    /// It is stale: a fetch in the background makes it fresh.
    refresh: bool,
}

impl Shard {
    /// Takes bytes that the ring received for `viewer`.
    pub(crate) fn received(&self, viewer: &Rc<Viewer>, bytes: &[u8]) {
        self.counters.add(Counter::ViewerBytesReceived, bytes.len() as u64);
        match viewer.state.get() {
            ViewerState::Busy | ViewerState::Stalled | ViewerState::Queued => {
                let mut inbox = viewer.inbox.borrow_mut();
                inbox.extend(bytes, &self.account.inboxes);
                if inbox.len() > INBOX_LEN_MAX && !viewer.paused.replace(true) {
                    self.ring.pause_receive(viewer.socket);
                }
                drop(inbox);
                viewer.changed.notify_all();
                if viewer.state.get() != ViewerState::Stalled {
                    self.unpause(viewer);
                }
            }
            ViewerState::Idle if viewer.inbox.borrow().is_empty() => {
                let used = self.serve(viewer, bytes);
                if !viewer.is_ending() && used < bytes.len() {
                    viewer.inbox.borrow_mut().extend(&bytes[used..], &self.account.inboxes);
                }
                self.served(viewer);
            }
            ViewerState::Idle | ViewerState::ExpectProxyHeader => {
                viewer.inbox.borrow_mut().extend(bytes, &self.account.inboxes);
                self.serve_inbox(viewer);
                if viewer.state.get() == ViewerState::Idle {
                    self.unpause(viewer);
                }
            }
            ViewerState::Leaving => {}
        }
    }

    /// Goes on with a connection whose task ended, or whose queue was sent.
    pub(crate) fn resume(&self, viewer: &Rc<Viewer>) {
        viewer.state.set(ViewerState::Idle);
        viewer.expect(Deadline::Idle, self.ring.now_millis() + self.idle_timeout());
        if !viewer.inbox.borrow().is_empty() {
            self.serve_inbox(viewer);
        }
        match viewer.state.get() {
            ViewerState::Idle
                if viewer.ended.get() || (self.draining.get() && viewer.inbox.borrow().is_empty()) =>
            {
                self.close_viewer(viewer, Close::Linger(LINGER));
            }
            // A task waits for the viewer's bytes, or wants to know that it left.
            ViewerState::Idle | ViewerState::Busy | ViewerState::Queued => self.unpause(viewer),
            ViewerState::ExpectProxyHeader | ViewerState::Stalled | ViewerState::Leaving => {}
        }
    }

    /// Reads on from a viewer whose inbox has room again: one piece at a time until it is empty, for who fills it once does it again, and the
    /// kernel would take far more than there is room for at once while all others wait.
    pub(crate) fn unpause(&self, viewer: &Viewer) {
        if !viewer.paused.get() || viewer.gone.get() {
            return;
        }
        match viewer.inbox.borrow().len() {
            0 => {
                viewer.paused.set(false);
                self.ring.receive(viewer.socket);
            }
            1..=INBOX_ROOM => self.ring.receive_once(viewer.socket),
            _ => {}
        }
    }

    /// The same with what is in the inbox, which nobody else looks at meanwhile.
    fn serve_inbox(&self, viewer: &Rc<Viewer>) {
        let mut inbox = viewer.inbox.take();
        if viewer.state.get() == ViewerState::ExpectProxyHeader {
            match self.read_proxy_header(viewer, &inbox) {
                Some(len) => inbox.consume(len),
                None => {
                    *viewer.inbox.borrow_mut() = inbox;
                    return;
                }
            }
        }
        inbox.consume(self.serve(viewer, &inbox));
        if !viewer.is_ending() {
            *viewer.inbox.borrow_mut() = inbox;
        }
        self.served(viewer);
    }

    /// Answers the requests in `bytes` as far as that needs no waiting and this turn allows; returns the bytes that it used.
    fn serve(&self, viewer: &Rc<Viewer>, bytes: &[u8]) -> usize {
        let started = self.ring.turn_started();
        let mut known = self.known.borrow_mut();
        let mut at = 0;
        while at < bytes.len() && viewer.state.get() == ViewerState::Idle {
            if self.ring.queued_len(viewer.socket) > QUEUED_LEN_MAX {
                self.stall(viewer);
                break;
            }
            if !self.backlog.may_answer(viewer) {
                self.enqueue(viewer);
                break;
            }
            let mut slots = KnownSlots::new();
            match known.parse_request(&bytes[at..], &mut slots, &self.head_limits) {
                Ok(Some(head)) => {
                    let len = head.len;
                    match self.answer(viewer, &head, &bytes[at..at + len], started) {
                        Served::Next => {
                            at += len;
                            // The next head, if it has begun, has its own time.
                            viewer.expect(Deadline::None, 0);
                        }
                        Served::Taken => {
                            at += len;
                            break;
                        }
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    self.refuse(viewer, None, refusal_status(&self.behavior, error), started);
                    break;
                }
            }
        }
        at
    }

    /// What is left of the bytes is in the inbox: sets what the connection waits for.
    fn served(&self, viewer: &Viewer) {
        if !viewer.is_ending() && viewer.state.get() == ViewerState::Idle {
            self.wait_for_viewer(viewer);
        }
    }

    /// Asks the machine what one request needs and does what can be done at once.
    fn answer(
        &self,
        viewer: &Rc<Viewer>,
        head: &RequestHead<'_, '_>,
        raw: &[u8],
        started: Instant,
    ) -> Served {
        if matches!(head.method, Method::Other(purge::METHOD)) && !self.settings.purge_from.is_empty() {
            self.purge(viewer, head, raw, started);
            return Served::Taken;
        }
        let facts = ViewerFacts {
            scheme: Scheme::Http,
            address: viewer.address.get().ip(),
            trusted: viewer.trusted.get(),
        };
        let mut scratch = self.scratch.borrow_mut();
        let scratch = &mut *scratch;
        let mut exchange = Exchange::new();
        let event = Event::Request { head, viewer: &facts, key_buffer: &mut scratch.key };
        let mut action = exchange.step(&self.behavior, event, self.now());
        let (mut key, mut kept) = (None, None);
        if let Action::Lookup { hash } = action {
            let primary_len = scratch.key.len();
            let (store, replicas) = (self.store.borrow(), self.replicas.borrow());
            let found = if self.owner_of(hash) == self.core {
                self.look_up(&*store, &mut exchange, head, hash, &mut scratch.key)
            } else {
                self.look_up(&*replicas, &mut exchange, head, hash, &mut scratch.key)
            };
            let primary = || (hash, Box::from(&scratch.key[..primary_len]));
            action = match found {
                Found::Instead(action) => action,
                Found::Stored(stored) => {
                    match self.send_found(viewer, head, &mut exchange, stored, &mut scratch.head) {
                        Sent::AtOnce(sent) => {
                            let refreshed = sent.refresh.then(|| (Arc::clone(stored), primary()));
                            drop((store, replicas));
                            if let Some((stored, key)) = refreshed {
                                self.refresh(Refresh { head: raw.into(), facts, key, stored });
                            }
                            return self.sent_at_once(viewer, head, &exchange, &sent, started);
                        }
                        Sent::Instead(action) => {
                            kept = Some(Arc::clone(stored));
                            action
                        }
                    }
                }
            };
            key = Some(primary());
        }
        match action {
            Action::Refuse { status } => self.refuse(viewer, Some(head), status, started),
            Action::Forward(forward)
                if self.refuses_request() || self.sheds_at_once(&forward, key.as_ref(), &scratch.key) =>
            {
                return self.shed(viewer, head, &mut exchange, kept.as_ref(), started);
            }
            action => {
                let parked = Parked { exchange, action, facts, head: raw.into(), key, stored: kept, started };
                self.park(viewer, parked);
            }
        }
        Served::Taken
    }

    /// Finds the stored response that the request selects: under its key, as a variant, or as a part. Else what to do instead.
    fn look_up<'s>(
        &self,
        store: &'s impl Shelf,
        exchange: &mut Exchange,
        head: &RequestHead<'_, '_>,
        hash: u128,
        key: &mut Vec<u8>,
    ) -> Found<'s> {
        match store.lookup(hash, key) {
            Some(found) if self.holds(found) && self.can_send(found) => self.found(found),
            _ => self.look_further(store, exchange, head, hash, key),
        }
    }

    fn found<'s>(&self, found: &'s Arc<StoredResponse>) -> Found<'s> {
        found.prefetch();
        self.counters.add(Counter::LookupsFound, 1);
        Found::Stored(found)
    }

    /// Nothing stands under the key itself that may be used. Apart, so that a plain hit does not pay for it.
    #[inline(never)]
    fn look_further<'s>(
        &self,
        store: &'s impl Shelf,
        exchange: &mut Exchange,
        head: &RequestHead<'_, '_>,
        hash: u128,
        key: &mut Vec<u8>,
    ) -> Found<'s> {
        let (now, primary_len) = (self.now(), key.len());
        let mut action = Action::Lookup { hash };
        let mut found = None;
        let held = |found: &&Arc<StoredResponse>| self.holds(found) && self.can_send(found);
        if let Some(names) = store.vary_names(hash, key) {
            action = exchange.step(&self.behavior, Event::Varies { names, head, key_buffer: key }, now);
            if let Action::Lookup { hash } = action {
                found = store.lookup(hash, key).filter(held);
            }
        }
        let may_be_a_part = matches!(action, Action::Lookup { .. }) && key.len() == primary_len;
        if found.is_none() && may_be_a_part && store.has_parts() {
            action = exchange.step(&self.behavior, Event::NotWhole { key_buffer: key }, now);
            if let Action::Lookup { hash } = action {
                found = store.part(hash, key, head.fields).filter(held);
            }
        }
        if let Some(found) = found {
            return self.found(found);
        }
        if let Action::Lookup { .. } = action {
            self.counters.add(Counter::LookupsNotFound, 1);
            let is_all = store.is_owner() && self.disk.is_none();
            let event = if is_all { Event::NotFound } else { Event::NotHere };
            action = exchange.step(&self.behavior, event, now);
        }
        Found::Instead(action)
    }

    /// Sends what was found if it answers the request as it is. Else what to do instead.
    fn send_found(
        &self,
        viewer: &Viewer,
        head: &RequestHead<'_, '_>,
        exchange: &mut Exchange,
        stored: &Arc<StoredResponse>,
        head_buffer: &mut Vec<u8>,
    ) -> Sent {
        let event = Event::Found { stored: view_of(stored), head };
        let action = exchange.step(&self.behavior, event, self.now());
        let keep_alive = head.keep_alive && !self.draining.get();
        match action {
            Action::RespondStored { age, ttl, send_body } => {
                let tail = HitTail {
                    age,
                    ttl,
                    content_len: stored.body.published(),
                    status: stored.meta.status,
                    version: head.version,
                    keep_alive,
                };
                let sent_len = self.send_stored(viewer.socket, stored, &tail, send_body, head_buffer);
                Sent::AtOnce(SentAtOnce { status: stored.meta.status, sent_len, keep_alive, refresh: false })
            }
            Action::Answer(answer) => {
                let material = Material {
                    hash: stored.hash,
                    head: &stored.head,
                    meta: &stored.meta,
                    body: &stored.body,
                };
                let (status, sent_len) =
                    self.send_answer(viewer.socket, head, exchange, &material, answer, keep_alive);
                Sent::AtOnce(SentAtOnce { status, sent_len, keep_alive, refresh: answer.refresh })
            }
            action => Sent::Instead(action),
        }
    }

    /// Records an answer from the cache and says how the connection goes on.
    fn sent_at_once(
        &self,
        viewer: &Rc<Viewer>,
        head: &RequestHead<'_, '_>,
        exchange: &Exchange,
        sent: &SentAtOnce,
        started: Instant,
    ) -> Served {
        let ended = Ended {
            status: sent.status,
            sent_len: sent.sent_len,
            result: exchange.result(),
            forward: None,
            collapsed: false,
            started,
            answered: Answered::Last,
        };
        self.record(viewer, Some(head), &ended);
        if sent.keep_alive {
            return Served::Next;
        }
        self.close_viewer(viewer, Close::Linger(LINGER));
        Served::Taken
    }

    /// Refuses a request because this core has more to do than it can; what is stored answers all the same where it may be stale.
    fn shed(
        &self,
        viewer: &Rc<Viewer>,
        head: &RequestHead<'_, '_>,
        exchange: &mut Exchange,
        stored: Option<&Arc<StoredResponse>>,
        started: Instant,
    ) -> Served {
        let (failure, wall) = (OriginFailure::Overloaded, self.ring.wall_seconds());
        let view = stored.map(|stored| view_of(stored));
        let event = Event::OriginFailed { failure, role: Role::Lead, request: head, stored: view };
        let action = exchange.step(&self.behavior, event, self.now());
        // Content that nobody reads is still on its way.
        let keep_alive = head.keep_alive && !head.has_content() && !self.draining.get();
        let (status, sent_len) = match (action, stored) {
            (Action::Answer(answer), Some(stored)) => {
                let StoredResponse { hash, head: stored_head, meta, body, .. } = &**stored;
                let material = Material { hash: *hash, head: stored_head, meta, body };
                self.send_answer(viewer.socket, head, exchange, &material, answer, keep_alive)
            }
            _ => {
                let answer = ErrorAnswer {
                    status: failure.status(),
                    method: Some(head.method),
                    version: head.version,
                    keep_alive,
                    reason: None,
                    collapsed: false,
                    failure: Some(failure),
                    unsatisfied_len: None,
                    wall,
                };
                let mut out = Vec::with_capacity(512);
                response_head::write_error_answer(&self.behavior, &answer, &mut out);
                let sent_len = out.len() as u64;
                self.ring.send_with(viewer.socket, out.len(), |room| {
                    room[..out.len()].copy_from_slice(&out);
                    out.len()
                });
                (answer.status, sent_len)
            }
        };
        let sent = SentAtOnce { status, sent_len, keep_alive, refresh: false };
        self.sent_at_once(viewer, head, exchange, &sent, started)
    }

    fn park(&self, viewer: &Rc<Viewer>, parked: Parked) {
        viewer.state.set(ViewerState::Busy);
        viewer.expect(Deadline::None, 0);
        self.counters.add(Counter::RequestsRunning, 1);
        self.ring.spawn(exchange::run(self.handle(), Rc::clone(viewer), parked));
    }

    /// Queues a stored response; returns its length on the wire.
    fn send_stored(
        &self,
        socket: SocketId,
        stored: &Arc<StoredResponse>,
        tail: &HitTail,
        send_body: bool,
        head_buffer: &mut Vec<u8>,
    ) -> u64 {
        let body_len = if send_body { stored.body.published() } else { 0 };
        let head_len_max = stored.head.len() + HIT_TAIL_LEN_MAX;
        if let (0..=INLINE_BODY_LEN_MAX, Some(body)) = (body_len, stored.body.in_memory()) {
            let mut written = 0;
            self.ring.send_with(socket, head_len_max + body_len as usize, |out| {
                written = response_head::finish_hit(&self.behavior, &stored.head, tail, out);
                let mut at = 0;
                while at < body_len {
                    let piece = body.piece(at);
                    out[written..written + piece.len()].copy_from_slice(piece);
                    written += piece.len();
                    at += piece.len() as u64;
                }
                written
            });
            return written as u64;
        }
        head_buffer.resize(head_len_max, 0);
        let head_len = response_head::finish_hit(&self.behavior, &stored.head, tail, head_buffer);
        let source = self.source_of(&stored.body);
        self.ring.send_source(socket, &head_buffer[..head_len], source, 0..body_len);
        head_len as u64 + body_len
    }

    /// Answers with an error of our own and ends the connection.
    pub(crate) fn refuse(
        &self,
        viewer: &Rc<Viewer>,
        head: Option<&RequestHead<'_, '_>>,
        status: u16,
        started: Instant,
    ) {
        self.counters.add(refused_counter(status), 1);
        let mut out = Vec::new();
        response_head::write_error(&self.behavior, head, status, self.ring.wall_seconds(), false, &mut out);
        let ended = Ended {
            status,
            sent_len: out.len() as u64,
            result: ResultType::Error,
            forward: None,
            collapsed: false,
            started,
            answered: Answered::Last,
        };
        self.ring.send_owned(viewer.socket, out);
        self.record(viewer, head, &ended);
        self.close_viewer(viewer, Close::Linger(LINGER));
    }

    /// A head began and did not end in time.
    pub(crate) fn refuse_late_head(&self, viewer: &Rc<Viewer>) {
        self.counters.add(Counter::ViewerTimeoutHead, 1);
        self.refuse(viewer, None, 408, Instant::now());
    }

    /// More connections than allowed, or than there is memory for: 503, and nothing is kept.
    pub(crate) fn refuse_connection(&self, socket: SocketId, cause: Counter) {
        self.counters.add(cause, 1);
        let mut out = Vec::new();
        response_head::write_error(&self.behavior, None, 503, self.ring.wall_seconds(), false, &mut out);
        self.ring.send_owned(socket, out);
        self.ring.close(socket, Close::Linger(LINGER));
    }

    /// Reads the PROXY protocol header in `inbox`: the offset behind it, or `None` while more is needed or if it was refused.
    fn read_proxy_header(&self, viewer: &Rc<Viewer>, inbox: &[u8]) -> Option<usize> {
        let believed = self.settings.trusted_proxies.is_empty() || viewer.trusted.get();
        match proxy_protocol::parse(inbox) {
            Ok(proxy_protocol::Parsed::Incomplete) => None,
            Ok(proxy_protocol::Parsed::Header { consumed, source }) if believed => {
                if let Some(source) = source {
                    viewer.address.set(source);
                    viewer.trusted.set(self.trusts(source));
                }
                viewer.state.set(ViewerState::Idle);
                Some(consumed)
            }
            Ok(_) | Err(_) => {
                self.counters.add(Counter::Refused400, 1);
                self.close_viewer(viewer, Close::Abort);
                None
            }
        }
    }
}

fn refused_counter(status: u16) -> Counter {
    match status {
        400 => Counter::Refused400,
        413 => Counter::Refused413,
        414 => Counter::Refused414,
        431 => Counter::Refused431,
        501 => Counter::Refused501,
        503 => Counter::Refused503,
        505 => Counter::Refused505,
        _ => Counter::RefusedOther,
    }
}
