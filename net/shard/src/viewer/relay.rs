//! Content on its way to a viewer while a task waits for it: framing, the bounded window, and the end that can be seen.
//!
//! `viewer/exchange.rs` makes one per response; its source is a growing fill or the origin itself. Invariants: at most
//! `SEND_WINDOW` bytes and one piece are queued; a body that did not arrive whole never looks whole to the viewer.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use aspis_exchange::OriginFailure;
use aspis_runtime::Source;
use aspis_storage::mapping::body::{Body, BodyState};
use aspis_telemetry::Counter;

use crate::fill::Fill;
use crate::limits::{FILL_PIECE_LEN, RELAY_BUFFER_LEN, SEND_WINDOW};
use crate::origin::OriginBody;
use crate::shard::Shard;
use crate::viewer::Viewer;

/// How the content is delimited towards the viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delimiter {
    /// `Content-Length`, or the end of the connection: the bytes go as they are.
    Plain,
    /// The chunked coding.
    Chunked,
}

/// Why a relay did not finish. In both cases the connection must be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayFailure {
    /// The origin's content did not arrive whole.
    Origin(OriginFailure),
    /// The viewer went away or took nothing for `--send-timeout`.
    Viewer,
}

/// Bytes of a body in the arena, for the ring.
pub(crate) struct BodySource(pub(crate) Arc<Body>);

impl Source for BodySource {
    fn piece(&self, at: u64) -> &[u8] {
        self.0.piece(at)
    }
}

/// One response body on its way out.
pub(crate) struct Relay<'r> {
    shard: &'r Rc<Shard>,
    viewer: &'r Rc<Viewer>,
    delimiter: Delimiter,
    /// Content bytes queued so far.
    sent: u64,
    /// All bytes of the response, for the log.
    sent_len: &'r Cell<u64>,
}

/// A buffer that leaves room for a chunk's header before the content.
struct RelayBuffer {
    bytes: Vec<u8>,
    start: usize,
}

/// `xxxxxxxx\r\n`: eight digits name any length that a buffer can have, leading zeros are allowed (RFC 9112 §7.1).
const CHUNK_HEADER_LEN: usize = 10;

impl AsMut<[u8]> for RelayBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

impl<'r> Relay<'r> {
    /// Begins the content of a response whose head is already queued.
    pub(crate) fn new(
        shard: &'r Rc<Shard>,
        viewer: &'r Rc<Viewer>,
        delimiter: Delimiter,
        sent_len: &'r Cell<u64>,
    ) -> Self {
        Relay { shard, viewer, delimiter, sent: 0, sent_len }
    }

    /// Follows a growing fill to its end, or to where it was handed over and then the origin itself.
    pub(crate) async fn follow(&mut self, fill: &Fill) -> Result<(), RelayFailure> {
        loop {
            let published = fill.body.published();
            if published > self.sent {
                self.queue_piece(fill, published.min(self.sent + FILL_PIECE_LEN));
                self.bound_queue().await?;
                continue;
            }
            match fill.body.progress().state {
                BodyState::Complete => return self.finish().await,
                _ if fill.is_handed_over() => {
                    let rest = fill.take_rest().ok_or(RelayFailure::Origin(OriginFailure::Truncated))?;
                    return self.pass(rest).await;
                }
                BodyState::Failed => return Err(RelayFailure::Origin(OriginFailure::Truncated)),
                BodyState::Filling => self.changed(fill).await?,
            }
        }
    }

    /// Passes the origin's content through, reading on only while the viewer takes it.
    pub(crate) async fn pass(&mut self, mut origin: OriginBody) -> Result<(), RelayFailure> {
        loop {
            let start = if self.delimiter == Delimiter::Chunked { CHUNK_HEADER_LEN } else { 0 };
            let buffer = RelayBuffer { bytes: vec![0; start + RELAY_BUFFER_LEN], start };
            let (read, buffer) = origin.read(buffer).await;
            match read {
                Ok(0) => return self.finish().await,
                Ok(count) => self.queue_buffer(buffer, count),
                Err(failure) => return Err(RelayFailure::Origin(failure)),
            }
            self.bound_queue().await?;
        }
    }

    fn queue_buffer(&mut self, mut buffer: RelayBuffer, count: usize) {
        buffer.bytes.truncate(buffer.start + count);
        if self.delimiter == Delimiter::Chunked {
            let header = format!("{count:08x}\r\n");
            buffer.bytes[..CHUNK_HEADER_LEN].copy_from_slice(header.as_bytes());
            buffer.bytes.extend_from_slice(b"\r\n");
        }
        self.note(count as u64);
        self.shard.ring.send_owned(self.viewer.socket, buffer.bytes);
    }

    fn queue_piece(&mut self, fill: &Fill, to: u64) {
        let source: Rc<dyn Source> = Rc::new(BodySource(Arc::clone(&fill.body)));
        let range = self.sent..to;
        match self.delimiter {
            Delimiter::Plain => {
                self.shard.ring.send_source(self.viewer.socket, &[], source, range);
            }
            Delimiter::Chunked => {
                let header = format!("{:08x}\r\n", to - self.sent);
                self.shard.ring.send_source(self.viewer.socket, header.as_bytes(), source, range);
                self.shard.ring.send_owned(self.viewer.socket, b"\r\n".to_vec());
            }
        }
        self.note(to - self.sent);
    }

    fn note(&mut self, count: u64) {
        self.sent += count;
        self.sent_len.set(self.sent_len.get() + count);
    }

    async fn changed(&self, fill: &Fill) -> Result<(), RelayFailure> {
        if self.viewer.gone.get() {
            return Err(RelayFailure::Viewer);
        }
        fill.changed.notified().await;
        Ok(())
    }

    async fn bound_queue(&self) -> Result<(), RelayFailure> {
        if self.shard.ring.queued_len(self.viewer.socket) > SEND_WINDOW {
            self.flush().await?;
        }
        if self.viewer.gone.get() { Err(RelayFailure::Viewer) } else { Ok(()) }
    }

    async fn flush(&self) -> Result<(), RelayFailure> {
        let ring = &self.shard.ring;
        match ring.timeout(self.shard.settings.send_timeout, ring.flush(self.viewer.socket)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(RelayFailure::Viewer),
            Err(_) => {
                self.shard.counters.add(Counter::ViewerTimeoutSend, 1);
                Err(RelayFailure::Viewer)
            }
        }
    }

    /// Ends the content and waits until all of it has left.
    pub(crate) async fn finish(&self) -> Result<(), RelayFailure> {
        if self.delimiter == Delimiter::Chunked {
            self.shard.ring.send_owned(self.viewer.socket, aspis_wire::chunked::LAST_CHUNK.to_vec());
        }
        self.flush().await
    }
}
