//! Fetches one response from the origin: connection, request, interim responses, head; and when to try again.
//!
//! The shard's driver calls [`OriginClient::fetch`] and gets the head as bytes and the content as an
//! [`OriginBody`](super::OriginBody). Decides about retries (D-24 and RFC 9110 §9.2.2): a request is repeated only if no
//! byte of an answer came and nothing of its content was used up. A kept connection that the origin had closed meanwhile
//! does not count as an attempt, because the origin never saw the request. Invariants: one final head per fetch, at most
//! one `100` before it (H-21), a head of at most 32 KiB (H-10); whatever cannot be parsed is a failure.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use aspis_exchange::{OriginFailure, Retry};
use aspis_runtime::Ring;
use aspis_telemetry::{CoreCounters, Counter};
use aspis_wire::request::RequestFraming;
use aspis_wire::response::{ResponseError, parse_response};
use aspis_wire::{FieldSlots, HeadLimits, Method};
use rustls::ClientConfig;

use super::OriginShared;
use super::body::{Delimited, OriginBody};
use super::cap::CapMessage;
use super::connect::{Attempts, Connector};
use super::conversation::{Conversation, Sender};
use super::limits::{FETCH_COST, HEAD_BUFFER_LEN, HEAD_LEN_MAX, INTERIM_COUNT_MAX};
use super::pool::{Acquired, Connection, Pool, Reuse};
use super::request_body::{Outlet, RequestBody, send};
use crate::account::OriginMeters;
use aspis_runtime::weight::Weight;

/// A request as it goes to the origin.
#[derive(Clone, Copy, Debug)]
pub struct OriginRequest<'r> {
    /// The head, serialised, with its empty line.
    pub head: &'r [u8],
    /// Its method: says whether content follows the response and whether the request may be repeated.
    pub method: Method<'r>,
    /// How the content is framed; the head says the same.
    pub framing: RequestFraming,
    /// Whether the head asks for an upgrade, so that a `101` is an answer.
    pub upgrade: bool,
}

/// A response whose head has come.
pub struct OriginResponse {
    /// The final head as it was received, good for `parse_response`.
    pub head: Vec<u8>,
    /// Its content.
    pub body: OriginBody,
}

/// The origin as one core sees it. Cheap to clone.
#[derive(Clone)]
pub struct OriginClient {
    ring: Ring,
    shared: Arc<OriginShared>,
    counters: Arc<CoreCounters>,
    pool: Rc<Pool>,
    connector: Rc<Connector>,
    meters: OriginMeters,
}

/// An attempt that brought no final head.
struct Failed {
    failure: OriginFailure,
    /// A byte of an answer came.
    is_answered: bool,
}

impl OriginClient {
    /// The client of `core`. It knows no address yet. With `tls` the origin is one of HTTPS.
    pub fn new(
        ring: Ring,
        core: usize,
        shared: Arc<OriginShared>,
        tls: Option<Arc<ClientConfig>>,
        counters: Arc<CoreCounters>,
        meters: OriginMeters,
    ) -> Self {
        let settings = &shared.settings;
        let connector = Connector::new(
            ring.clone(),
            core,
            settings.server_name.clone(),
            settings.connect_timeout,
            tls,
            meters.tls.clone(),
        );
        OriginClient {
            pool: Pool::new(ring.clone(), core, Arc::clone(&shared), Arc::clone(&counters)),
            connector: Rc::new(connector),
            ring,
            shared,
            counters,
            meters,
        }
    }

    /// Replaces the origin's addresses. Connections to an address that is gone serve no further request; without any
    /// address a fetch fails as unresolvable.
    pub fn set_addresses(&self, addresses: Arc<[SocketAddr]>) {
        self.pool.set_addresses(Arc::clone(&addresses));
        self.connector.set_addresses(addresses);
    }

    /// Replaces the TLS settings. Connections made under the old ones serve no further request.
    pub fn set_tls(&self, config: Arc<ClientConfig>) {
        self.connector.set_tls(&config);
        self.pool.retire();
    }

    /// Takes in a message of the cap that came by mailbox.
    pub fn deliver(&self, message: CapMessage) {
        self.pool.deliver(message);
    }

    /// Closes connections that were kept too long (D-26). To be called about once a second while any is kept.
    pub fn sweep(&self) {
        self.pool.sweep();
    }

    /// How many connections are kept for the next request.
    pub fn idle_len(&self) -> usize {
        self.pool.idle_len()
    }

    /// Closes every kept connection.
    pub fn close_idle(&self) {
        self.pool.close_idle();
    }

    /// Sends a request and waits for the final head. `interim` is shown the heads of 102 to 199 as they came.
    ///
    /// `body` must be given if the framing announces content, and is not asked for any if the framing announces none.
    /// Dropping the future, or the response, ends the exchange with
    /// the origin.
    ///
    /// # Errors
    ///
    /// What kept the origin from answering, after the retries that the rules allow.
    pub async fn fetch<B: RequestBody + 'static>(
        &self,
        request: OriginRequest<'_>,
        body: Option<B>,
        interim: &mut dyn FnMut(&[u8]),
    ) -> Result<OriginResponse, OriginFailure> {
        let answer = self.fetch_with_retries(request, body, interim).await;
        if let Err(failure) = answer {
            super::count_failure(&self.counters, failure);
        }
        answer
    }

    async fn fetch_with_retries<B: RequestBody + 'static>(
        &self,
        request: OriginRequest<'_>,
        body: Option<B>,
        interim: &mut dyn FnMut(&[u8]),
    ) -> Result<OriginResponse, OriginFailure> {
        let has_content = !matches!(request.framing, RequestFraming::None | RequestFraming::Length(0));
        let mut body = body.filter(|_| has_content);
        if has_content && body.is_none() {
            debug_assert!(false, "a framing that announces content comes with a body");
            return Err(OriginFailure::ViewerGone);
        }
        let is_repeatable = !has_content && request.method.is_idempotent();
        let mut attempts = Attempts::new(request.method, self.shared.settings.attempts);
        let mut reuse = if is_repeatable { Reuse::Any } else { Reuse::Recent };
        loop {
            let (connection, was_kept) = self.connection(reuse, &mut attempts).await?;
            let failed = match self.attempt(connection, request, body.take(), interim).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            let is_stale = was_kept && !failed.is_answered && failed.failure == OriginFailure::Reset;
            let may_repeat = if is_stale {
                // The origin closed it before it saw the request: no attempt of it.
                is_repeatable
            } else {
                !has_content && attempts.failed(failed.failure, failed.is_answered) == Retry::Again
            };
            if !may_repeat {
                return Err(failed.failure);
            }
            self.counters.add(Counter::OriginRetries, 1);
            reuse = Reuse::Never;
        }
    }

    /// A kept connection (and `true`), or a new one.
    async fn connection(
        &self,
        reuse: Reuse,
        attempts: &mut Attempts<'_>,
    ) -> Result<(Connection, bool), OriginFailure> {
        match self.pool.acquire(reuse, self.shared.settings.queue_timeout).await? {
            Acquired::Kept(connection) => Ok((connection, true)),
            Acquired::Slot(slot) => {
                let stream = self.connector.open(attempts).await?;
                Ok((self.pool.connected(stream, slot), false))
            }
        }
    }

    /// Sends the request on `connection` and reads up to the final head.
    async fn attempt<B: RequestBody + 'static>(
        &self,
        connection: Connection,
        request: OriginRequest<'_>,
        body: Option<B>,
        interim: &mut dyn FnMut(&[u8]),
    ) -> Result<OriginResponse, Failed> {
        self.counters.add(Counter::OriginRequests, 1);
        let read_timeout = self.shared.settings.read_timeout;
        let sender = match body {
            None => {
                let queued = connection.stream.queue(request.head);
                queued.map_err(|_| Failed { failure: OriginFailure::Reset, is_answered: false })?;
                None
            }
            Some(body) => {
                let stream = Rc::clone(&connection.stream);
                let outlet = Outlet { ring: self.ring.clone(), stream, piece_timeout: read_timeout };
                let sender: Sender = Box::pin(send(outlet, request.head.to_vec(), request.framing, body));
                Some(sender)
            }
        };
        let conversation = Conversation::new(connection, sender, self.ring.clone(), read_timeout);
        let mut reader = HeadReader {
            conversation,
            weight: self.meters.fetches.weigh(HEAD_BUFFER_LEN + FETCH_COST),
            buffer: vec![0; HEAD_BUFFER_LEN],
            filled: 0,
            is_answered: false,
            counters: &self.counters,
        };
        match reader.final_head(request, interim).await {
            Ok(head) => Ok(self.response(reader, head)),
            Err(failure) => Err(Failed { failure, is_answered: reader.is_answered }),
        }
    }

    fn response(&self, reader: HeadReader<'_>, head: HeadFacts) -> OriginResponse {
        let HeadReader { mut conversation, mut buffer, filled, mut weight, .. } = reader;
        // An error or an upgrade ends the interest in the request's content; any other answer may go along with it.
        if head.status >= 400 || matches!(head.delimited, Delimited::Tunnel) {
            conversation.stop_sending();
        }
        let early = buffer[head.len..filled].to_vec();
        buffer.truncate(head.len);
        // It is kept as long as the content takes.
        buffer.shrink_to_fit();
        weight.set(buffer.len() + early.len() + FETCH_COST);
        let (pool, counters) = (Rc::clone(&self.pool), Arc::clone(&self.counters));
        let body = OriginBody::new(conversation, head.delimited, (early, weight), pool, counters);
        OriginResponse { head: buffer, body }
    }
}

/// What is remembered of the final head while its bytes move.
struct HeadFacts {
    status: u16,
    len: usize,
    delimited: Delimited,
}

/// Reads heads until the final one is whole.
struct HeadReader<'c> {
    conversation: Conversation,
    weight: Weight,
    buffer: Vec<u8>,
    filled: usize,
    is_answered: bool,
    counters: &'c CoreCounters,
}

/// What stands at the front of the buffer.
enum Front {
    Incomplete,
    Interim { status: u16, len: usize },
    Final(HeadFacts),
}

impl HeadReader<'_> {
    async fn final_head(
        &mut self,
        request: OriginRequest<'_>,
        interim: &mut dyn FnMut(&[u8]),
    ) -> Result<HeadFacts, OriginFailure> {
        let (mut continue_count, mut interim_count) = (0, 0);
        loop {
            match self.front(request)? {
                Front::Incomplete => self.receive().await?,
                Front::Final(head) => return Ok(head),
                Front::Interim { status, len } => {
                    continue_count += u32::from(status == 100);
                    interim_count += 1;
                    // H-21: one 100, then a final status.
                    if continue_count > 1 || interim_count > INTERIM_COUNT_MAX {
                        return Err(OriginFailure::Invalid);
                    }
                    // Rule 17 of the RFC 9111 profile, RFC 9110 §15.2: all but the answers to what we asked go on to the viewer.
                    if status >= 102 {
                        interim(&self.buffer[..len]);
                    }
                    self.buffer.copy_within(len..self.filled, 0);
                    self.filled -= len;
                }
            }
        }
    }

    fn front(&self, request: OriginRequest<'_>) -> Result<Front, OriginFailure> {
        if self.filled == 0 {
            return Ok(Front::Incomplete);
        }
        let limits = HeadLimits { head_len_max: HEAD_LEN_MAX, ..HeadLimits::default() };
        let mut slots = FieldSlots::new();
        let head = match parse_response(&self.buffer[..self.filled], &mut slots, &limits, request.method) {
            Ok(Some(head)) => head,
            Ok(None) => return Ok(Front::Incomplete),
            Err(ResponseError::HeadTooLarge) => return Err(OriginFailure::HeadTooLarge),
            Err(_) => return Err(OriginFailure::Invalid),
        };
        let (status, len) = (head.status, head.len);
        if head.is_interim() {
            return Ok(Front::Interim { status, len });
        }
        let delimited = match status {
            101 if !request.upgrade => return Err(OriginFailure::Invalid),
            101 => Delimited::Tunnel,
            _ => Delimited::Content { framing: head.framing, keep_alive: head.keep_alive },
        };
        Ok(Front::Final(HeadFacts { status, len, delimited }))
    }

    async fn receive(&mut self) -> Result<(), OriginFailure> {
        if self.filled == self.buffer.len() {
            if self.filled >= HEAD_LEN_MAX {
                return Err(OriginFailure::HeadTooLarge);
            }
            self.buffer.resize(HEAD_LEN_MAX, 0);
        }
        let range = self.filled..self.buffer.len();
        let (received, buffer) = self.conversation.receive(std::mem::take(&mut self.buffer), range).await;
        self.buffer = buffer;
        match received {
            // The end of the stream, or of its TLS session: without a byte it is a closed connection, else half a head.
            Ok(0) | Err(OriginFailure::Truncated) if !self.is_answered => Err(OriginFailure::Reset),
            Ok(0) => Err(OriginFailure::Truncated),
            Ok(count) => {
                self.counters.add(Counter::OriginBytesReceived, count as u64);
                self.is_answered = true;
                self.filled += count;
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }
}
