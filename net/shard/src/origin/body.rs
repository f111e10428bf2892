//! A response's content, decoded, to its exact end.
//!
//! `client` makes it from the head's framing; the viewer side and fills read it. Bytes land in the reader's buffer, where
//! the chunked coding is taken out in place. Invariants: zero means that the content is whole; content that is cut short
//! or mis-framed is an error, never an end; no byte beyond a known length is received. The connection goes back to the
//! pool the moment the content is whole, if the origin keeps it open, nothing came behind the content and the request went
//! out whole; in every other case it closes, also when the body is dropped half-way.

use std::rc::Rc;

use aspis_exchange::OriginFailure;
use aspis_runtime::weight::Weight;
use aspis_telemetry::{CoreCounters, Counter};
use aspis_wire::chunked::ChunkedDecoder;
use aspis_wire::response::ResponseFraming;
use std::sync::Arc;

use super::conversation::Conversation;
use super::pool::Pool;
use super::tunnel::OriginTunnel;

/// The content of an origin's response.
pub struct OriginBody {
    conversation: Option<Conversation>,
    state: State,
    length: Option<u64>,
    keep_alive: bool,
    /// Received together with the head.
    early: Vec<u8>,
    early_read: usize,
    /// Of the fetch's buffers.
    _weight: Weight,
    pool: Rc<Pool>,
    counters: Arc<CoreCounters>,
}

enum State {
    Length { left: u64 },
    Chunked(ChunkedDecoder),
    UntilClose,
    Tunnel,
    Whole,
    Failed(OriginFailure),
}

/// What became of received bytes.
enum Step {
    /// So many bytes of content stand at the front of the buffer.
    Content(usize),
    /// The same, and they were the last. `surplus`: more came than belongs to the response.
    Last { content: usize, surplus: bool },
}

/// How a response's content is delimited, and what happens to its connection.
pub(crate) enum Delimited {
    /// As the head says; kept alive or not.
    Content { framing: ResponseFraming, keep_alive: bool },
    /// `101`: no response follows.
    Tunnel,
}

impl OriginBody {
    pub(crate) fn new(
        conversation: Conversation,
        delimited: Delimited,
        (early, weight): (Vec<u8>, Weight),
        pool: Rc<Pool>,
        counters: Arc<CoreCounters>,
    ) -> Self {
        let (state, length, keep_alive) = match delimited {
            Delimited::Tunnel => (State::Tunnel, None, false),
            Delimited::Content { framing, keep_alive } => match framing {
                ResponseFraming::None => (State::Length { left: 0 }, Some(0), keep_alive),
                ResponseFraming::Length(length) => (State::Length { left: length }, Some(length), keep_alive),
                ResponseFraming::Chunked => (State::Chunked(ChunkedDecoder::new()), None, keep_alive),
                ResponseFraming::UntilClose => (State::UntilClose, None, false),
            },
        };
        let conversation = Some(conversation);
        let mut body = OriginBody {
            conversation,
            state,
            length,
            keep_alive,
            early,
            early_read: 0,
            _weight: weight,
            pool,
            counters,
        };
        if matches!(body.state, State::Length { left: 0 }) {
            body.finish(false);
        }
        body
    }

    /// How long the content is, if the head said so.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Tells whether all of the content was read.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, State::Whole)
    }

    /// Reads decoded content into `buffer`, which must not be empty. Zero: the content is whole.
    ///
    /// After an error, or after a call whose future was dropped, every further call fails.
    pub async fn read<B: AsMut<[u8]> + 'static>(
        &mut self,
        mut buffer: B,
    ) -> (Result<usize, OriginFailure>, B) {
        debug_assert!(!buffer.as_mut().is_empty(), "an empty buffer cannot tell content from its end");
        loop {
            let room = buffer.as_mut().len();
            let want = match self.state {
                State::Whole | State::Tunnel => return (Ok(0), buffer),
                State::Failed(failure) => return (Err(failure), buffer),
                State::Length { left } => usize::try_from(left).map_or(room, |left| left.min(room)),
                State::Chunked(_) | State::UntilClose => room,
            };
            let (received, returned) = self.receive(buffer, want).await;
            buffer = returned;
            match received.and_then(|count| self.decode(&mut buffer.as_mut()[..count])) {
                // Nothing but chunk syntax.
                Ok(Step::Content(0)) => {}
                Ok(Step::Content(count)) => return (Ok(count), buffer),
                Ok(Step::Last { content, surplus }) => {
                    self.finish(surplus);
                    return (Ok(content), buffer);
                }
                Err(failure) => {
                    self.fail(failure);
                    return (Err(failure), buffer);
                }
            }
        }
    }

    /// The tunnel behind a `101`; nothing for any other response.
    pub fn into_tunnel(mut self) -> Option<OriginTunnel> {
        let State::Tunnel = self.state else { return None };
        let (connection, _) = self.conversation.take()?.into_connection();
        Some(OriginTunnel::new(connection, std::mem::take(&mut self.early)))
    }

    async fn receive<B: AsMut<[u8]> + 'static>(
        &mut self,
        mut buffer: B,
        want: usize,
    ) -> (Result<usize, OriginFailure>, B) {
        let early = &self.early[self.early_read..];
        if !early.is_empty() {
            let count = early.len().min(want);
            buffer.as_mut()[..count].copy_from_slice(&early[..count]);
            self.early_read += count;
            return (Ok(count), buffer);
        }
        let Some(conversation) = &mut self.conversation else { return (Err(OriginFailure::Reset), buffer) };
        let (received, buffer) = conversation.receive(buffer, 0..want).await;
        if let Ok(count) = received {
            self.counters.add(Counter::OriginBytesReceived, count as u64);
        }
        (received, buffer)
    }

    /// Takes the framing out of `bytes`; none at all say that the origin ended its side.
    fn decode(&mut self, bytes: &mut [u8]) -> Result<Step, OriginFailure> {
        match &mut self.state {
            State::UntilClose if bytes.is_empty() => Ok(Step::Last { content: 0, surplus: false }),
            _ if bytes.is_empty() => Err(OriginFailure::Truncated),
            State::UntilClose => Ok(Step::Content(bytes.len())),
            State::Length { left } => {
                *left -= bytes.len() as u64;
                let content = bytes.len();
                Ok(if *left == 0 { Step::Last { content, surplus: false } } else { Step::Content(content) })
            }
            State::Chunked(decoder) => decode_in_place(decoder, bytes),
            State::Tunnel | State::Whole | State::Failed(_) => Err(OriginFailure::Invalid),
        }
    }

    fn finish(&mut self, surplus: bool) {
        self.state = State::Whole;
        let has_surplus = surplus || self.early_read < self.early.len();
        self.early = Vec::new();
        self.early_read = 0;
        let Some((connection, is_sent)) = self.conversation.take().map(Conversation::into_connection) else {
            return;
        };
        if self.keep_alive && is_sent && !has_surplus {
            self.pool.give_back(connection);
        }
    }

    fn fail(&mut self, failure: OriginFailure) {
        self.state = State::Failed(failure);
        self.conversation = None;
        super::count_failure(&self.counters, failure);
    }
}

/// Moves the content of chunks in `bytes` to the front.
fn decode_in_place(decoder: &mut ChunkedDecoder, bytes: &mut [u8]) -> Result<Step, OriginFailure> {
    let (mut read, mut content) = (0, 0);
    while read < bytes.len() {
        let input = &bytes[read..];
        let decoded = decoder.decode(input).map_err(|_| OriginFailure::Invalid)?;
        let data_len = decoded.data.len();
        // `data` is a part of `input`; an empty one may be anywhere.
        let data_at = if data_len == 0 { 0 } else { decoded.data.as_ptr().addr() - input.as_ptr().addr() };
        let (consumed, is_finished) = (decoded.consumed, decoded.finished);
        bytes.copy_within(read + data_at..read + data_at + data_len, content);
        content += data_len;
        read += consumed;
        if is_finished {
            return Ok(Step::Last { content, surplus: read < bytes.len() });
        }
        if consumed == 0 {
            // The decoder keeps what it needs, so that it takes every byte it is given.
            return Err(OriginFailure::Invalid);
        }
    }
    Ok(Step::Content(content))
}
