//! Content on its way to a viewer while a task waits for it: framing, the bounded window, and the end that can be seen.
//!
//! `viewer/exchange.rs` makes one per response; its source is a growing fill or the origin itself. Invariants: at most
//! `SEND_WINDOW` bytes and one piece are queued; a body that did not arrive whole never looks whole to the viewer.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::range::ByteRange;
use aspis_exchange::OriginFailure;
use aspis_runtime::{Piece, Source};
use aspis_storage::mapping::body::{Body, BodyState};
use aspis_storage::mapping::mapped::Lease;
use aspis_storage::passage::{Chunk, Passage, PassageReader, Step};
use aspis_storage::stored_body::StoredBody;
use aspis_telemetry::Counter;

use crate::fill::{FillView, Reader};
use crate::limits::FILL_PIECE_LEN;
use crate::origin::OriginBody;
use crate::shard::Shard;
use crate::viewer::Viewer;
use crate::viewer::pace::NotTaken;

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
    /// It was too slow for what is not stored: byte `at` is gone.
    Lost {
        /// The first byte that was not sent.
        at: u64,
    },
}

/// Bytes of a body in the arena, for the ring.
pub(crate) struct BodySource(pub(crate) Arc<Body>);

impl Source for BodySource {
    fn piece(&self, at: u64) -> Piece<'_> {
        self.0.piece(at).into()
    }
}

/// Bytes of a mapped body, for the ring. Without a lease there are none: its segment was written anew between the look and the send, and the viewer
/// sees a connection that ends before the answer.
struct MappedSource(Option<Lease>);

impl Source for MappedSource {
    fn piece(&self, at: u64) -> Piece<'_> {
        self.0.as_ref().map_or(Piece::from([0_u8; 0].as_slice()), |lease| lease.piece(at).into())
    }

    fn unreadable(&self) {
        if let Some(lease) = &self.0 {
            lease.unreadable();
        }
    }
}

impl Shard {
    /// What the ring sends a stored response's content from.
    pub(crate) fn source_of(&self, body: &StoredBody) -> Rc<dyn Source> {
        match body {
            StoredBody::Memory(body) => Rc::new(BodySource(Arc::clone(body))),
            StoredBody::Mapped(body) => {
                self.counters.add(Counter::DiskMappedSent, 1);
                Rc::new(MappedSource(body.lease()))
            }
        }
    }
}

/// Bytes of a response that is not stored, for the ring.
struct ChunkSource(Arc<Chunk>);

impl Source for ChunkSource {
    fn piece(&self, at: u64) -> Piece<'_> {
        self.0.piece(at).into()
    }
}

/// One response body on its way out.
pub(crate) struct Relay<'r> {
    shard: &'r Rc<Shard>,
    viewer: &'r Rc<Viewer>,
    delimiter: Delimiter,
    /// All bytes of the response, for the log.
    sent_len: &'r Cell<u64>,
}

/// A buffer with room for a chunk's header before the content, and for its end behind it.
struct RelayBuffer {
    bytes: Vec<u8>,
    delimiter: Delimiter,
}

/// `xxxxxxxx\r\n`: eight digits name any length that a buffer can have, leading zeros are allowed (RFC 9112 §7.1).
const CHUNK_HEADER_LEN: usize = 10;

/// A line end.
const CHUNK_END_LEN: usize = 2;

impl RelayBuffer {
    fn new(delimiter: Delimiter, len: usize) -> Self {
        let framing = match delimiter {
            Delimiter::Plain => 0,
            Delimiter::Chunked => CHUNK_HEADER_LEN + CHUNK_END_LEN,
        };
        RelayBuffer { bytes: vec![0; len + framing], delimiter }
    }

    /// Returns the first `count` bytes of content, framed.
    fn take(&mut self, count: usize) -> Vec<u8> {
        if self.delimiter == Delimiter::Plain {
            return take_front(&mut self.bytes, count);
        }
        let end = CHUNK_HEADER_LEN + count;
        self.bytes[..CHUNK_HEADER_LEN].copy_from_slice(format!("{count:08x}\r\n").as_bytes());
        self.bytes[end..end + CHUNK_END_LEN].copy_from_slice(b"\r\n");
        take_front(&mut self.bytes, end + CHUNK_END_LEN)
    }
}

impl AsMut<[u8]> for RelayBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        match self.delimiter {
            Delimiter::Plain => &mut self.bytes,
            Delimiter::Chunked => {
                let end = self.bytes.len() - CHUNK_END_LEN;
                &mut self.bytes[CHUNK_HEADER_LEN..end]
            }
        }
    }
}

/// Returns the first `len` bytes of a buffer, which is empty afterwards or as it was.
///
/// A short piece is copied: what waits for a slow viewer must not hold a whole buffer for each few bytes.
pub(crate) fn take_front(buffer: &mut Vec<u8>, len: usize) -> Vec<u8> {
    if len < buffer.len() / 4 {
        return buffer[..len].to_vec();
    }
    let mut front = std::mem::take(buffer);
    front.truncate(len);
    front
}

impl<'r> Relay<'r> {
    /// Begins the content of a response whose head is already queued.
    pub(crate) fn new(
        shard: &'r Rc<Shard>,
        viewer: &'r Rc<Viewer>,
        delimiter: Delimiter,
        sent_len: &'r Cell<u64>,
    ) -> Self {
        Relay { shard, viewer, delimiter, sent_len }
    }

    /// Follows a growing fill through a range of its bytes, which may end behind it, and the passage in which it goes on.
    pub(crate) async fn follow(&mut self, reader: &Reader, range: ByteRange) -> Result<(), RelayFailure> {
        let mut at = range.start;
        while at < range.end {
            let view = &reader.view;
            let changed = view.changed.notified();
            let progress = view.body().progress();
            if progress.len > at {
                let to = progress.len.min(range.end).min(at + FILL_PIECE_LEN);
                let source: Rc<dyn Source> = Rc::new(BodySource(Arc::clone(view.body())));
                self.queue_piece(source, at..to)?;
                at = to;
                self.bound_queue().await?;
                continue;
            }
            match progress.state {
                // A range that ends behind the content was asked for as the whole.
                BodyState::Complete => break,
                BodyState::Continued => {
                    let passage = view.passage().ok_or(RelayFailure::Origin(OriginFailure::Truncated))?;
                    return self.follow_passage(view, passage, ByteRange { start: at, ..range }).await;
                }
                BodyState::Failed => return Err(RelayFailure::Origin(OriginFailure::Truncated)),
                BodyState::Filling if self.viewer.gone.get() => return Err(RelayFailure::Viewer),
                BodyState::Filling => changed.await,
            }
        }
        self.finish().await
    }

    /// Follows what is not stored, as long as this viewer stays within its window.
    async fn follow_passage(
        &mut self,
        view: &FillView,
        passage: &Arc<Passage>,
        range: ByteRange,
    ) -> Result<(), RelayFailure> {
        let mut reader = PassageReader::new(passage, range.start);
        // The writer may have waited for a first reader.
        view.tell_room();
        while reader.at() < range.end {
            let changed = view.changed.notified();
            let step = reader.step();
            if passage.take_room_wanted() {
                view.tell_room();
            }
            match step {
                Step::Chunk(chunk) => {
                    let piece = reader.at()..chunk.end().min(range.end);
                    let is_last = piece.end == range.end;
                    self.queue_piece(Rc::new(ChunkSource(chunk)), piece)?;
                    self.bound_queue().await?;
                    if is_last {
                        break;
                    }
                }
                Step::End => break,
                Step::Wait if self.viewer.gone.get() => return Err(RelayFailure::Viewer),
                Step::Wait => changed.await,
                Step::Failed => return Err(RelayFailure::Origin(OriginFailure::Truncated)),
                Step::Lost { at } => return Err(RelayFailure::Lost { at }),
            }
        }
        self.finish().await
    }

    /// Passes the origin's content through, reading on only while the viewer takes it.
    pub(crate) async fn pass(&mut self, mut origin: OriginBody) -> Result<(), RelayFailure> {
        let mut buffer = RelayBuffer::new(self.delimiter, self.shard.relay_len());
        let mut weight = self.shard.account.origin.fetches.weigh(buffer.bytes.len());
        loop {
            if buffer.bytes.is_empty() {
                buffer = RelayBuffer::new(self.delimiter, self.shard.relay_len());
            }
            weight.set(buffer.bytes.len());
            let (read, returned) = origin.read(buffer).await;
            buffer = returned;
            match read {
                Ok(0) => return self.finish().await,
                Ok(count) => {
                    self.note(count as u64);
                    let piece = buffer.take(count);
                    self.is_queued(self.shard.ring.send_owned(self.viewer.socket, piece))?;
                }
                Err(failure) => return Err(RelayFailure::Origin(failure)),
            }
            // A piece that waits to be sent is weighed there.
            weight.set(buffer.bytes.len());
            self.bound_queue().await?;
        }
    }

    /// Sends what was stored already before the origin's content; the head has announced both together.
    pub(crate) fn send_prefix(&mut self, prefix: &Arc<Body>) {
        let source: Rc<dyn Source> = Rc::new(BodySource(Arc::clone(prefix)));
        let len = prefix.published();
        self.shard.ring.send_source(self.viewer.socket, &[], source, 0..len);
        self.note(len);
    }

    fn queue_piece(&mut self, source: Rc<dyn Source>, range: Range<u64>) -> Result<(), RelayFailure> {
        let len = range.end - range.start;
        let (ring, socket) = (&self.shard.ring, self.viewer.socket);
        let is_queued = match self.delimiter {
            Delimiter::Plain => ring.send_source(socket, &[], source, range),
            Delimiter::Chunked => {
                let header = format!("{len:08x}\r\n");
                ring.send_source(socket, header.as_bytes(), source, range)
                    && ring.send_owned(socket, b"\r\n".to_vec())
            }
        };
        self.is_queued(is_queued)?;
        self.note(len);
        Ok(())
    }

    /// Ends the relay if the ring did not take a piece, because sending failed before. Of a viewer that has ended its side
    /// and then left nothing else tells: there is no more to receive from it, and a queue that failed is empty.
    fn is_queued(&self, is_queued: bool) -> Result<(), RelayFailure> {
        if is_queued {
            return Ok(());
        }
        self.shard.count_abort(self.viewer);
        Err(RelayFailure::Viewer)
    }

    fn note(&self, count: u64) {
        self.sent_len.set(self.sent_len.get() + count);
    }

    async fn bound_queue(&self) -> Result<(), RelayFailure> {
        if self.shard.ring.queued_len(self.viewer.socket) > self.shard.send_window() {
            self.flush().await?;
        }
        if self.viewer.gone.get() { Err(RelayFailure::Viewer) } else { Ok(()) }
    }

    async fn flush(&self) -> Result<(), RelayFailure> {
        self.shard.flush(self.viewer).await.map_err(|NotTaken| RelayFailure::Viewer)
    }

    /// Ends the content and waits until all of it has left.
    pub(crate) async fn finish(&self) -> Result<(), RelayFailure> {
        if self.delimiter == Delimiter::Chunked {
            self.shard.ring.send_owned(self.viewer.socket, aspis_wire::chunked::LAST_CHUNK.to_vec());
        }
        self.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RELAY_BUFFER_LEN;

    fn filled(delimiter: Delimiter, byte: u8) -> RelayBuffer {
        let mut buffer = RelayBuffer::new(delimiter, RELAY_BUFFER_LEN);
        assert_eq!(buffer.as_mut().len(), RELAY_BUFFER_LEN);
        buffer.as_mut().fill(byte);
        buffer
    }

    #[test]
    fn short_pieces_hold_no_more_memory_than_they_need() {
        for delimiter in [Delimiter::Plain, Delimiter::Chunked] {
            let mut buffer = filled(delimiter, b'x');
            let piece = buffer.take(20);
            assert!(piece.capacity() < 64, "{delimiter:?}: {}", piece.capacity());
            assert_eq!(buffer.as_mut().len(), RELAY_BUFFER_LEN, "it serves again");
        }
    }

    #[test]
    fn pieces_are_framed_as_the_viewer_was_told() {
        assert_eq!(filled(Delimiter::Plain, b'x').take(3), b"xxx");
        assert_eq!(filled(Delimiter::Chunked, b'x').take(3), b"00000003\r\nxxx\r\n");
        let mut whole = filled(Delimiter::Chunked, b'x');
        let piece = whole.take(RELAY_BUFFER_LEN);
        assert!(piece.starts_with(b"00010000\r\nx") && piece.ends_with(b"x\r\n"));
        assert_eq!(piece.len(), RELAY_BUFFER_LEN + CHUNK_HEADER_LEN + CHUNK_END_LEN);
        assert!(whole.bytes.is_empty(), "a long piece is not copied");
    }
}
