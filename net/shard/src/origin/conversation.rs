//! One request and its answer on one connection: receiving while the request may still be on its way out.
//!
//! `client` reads the head through it, `body` the content. Decides what is waited for and how long (D-23): while the
//! request is being sent the origin may be silent, for the sender has a limit of its own; from then on it must say
//! something within `OriginReadTimeout`, first byte and every further one. Invariants: a receive that was given up closes
//! the connection, because bytes may be lost with it; the caller's buffer comes back in every case.

use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use aspis_exchange::OriginFailure;
use aspis_runtime::Ring;
use aspis_runtime::future::{Either, race};

use super::pool::Connection;
use super::request_body::SendFailure;
use super::stream::StreamError;

/// A request that is being sent.
pub(crate) type Sender = Pin<Box<dyn Future<Output = Result<(), SendFailure>>>>;

/// How far the request is.
enum Sending {
    Running(Sender),
    /// All of it is with the kernel.
    Whole,
    /// It was given up. The answer may still come, the connection is not used again.
    Broken,
}

/// A connection in use.
pub(crate) struct Conversation {
    // Dropped before the connection: the sender holds its stream.
    sending: Sending,
    connection: Connection,
    ring: Ring,
    read_timeout: Duration,
    /// A receive began and was not seen to its end: its future was dropped.
    is_receiving: bool,
}

impl Conversation {
    /// A conversation whose request is queued already, or is sent by `sender` whenever the answer is waited for.
    pub(crate) fn new(
        connection: Connection,
        sender: Option<Sender>,
        ring: Ring,
        read_timeout: Duration,
    ) -> Self {
        let sending = sender.map_or(Sending::Whole, Sending::Running);
        Conversation { sending, connection, ring, read_timeout, is_receiving: false }
    }

    /// Receives into `buffer[range]`, which must not be empty. Zero: the origin ended its side.
    pub(crate) async fn receive<B: AsMut<[u8]> + 'static>(
        &mut self,
        buffer: B,
        range: std::ops::Range<usize>,
    ) -> (Result<usize, OriginFailure>, B) {
        if std::mem::replace(&mut self.is_receiving, true) {
            return (Err(OriginFailure::Reset), buffer);
        }
        let stream = Rc::clone(&self.connection.stream);
        let mut read = pin!(stream.read(buffer, range));
        let answer = match self.finish_sending(&mut read).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => {
                let answer = self.ring.timeout(self.read_timeout, read.as_mut()).await;
                answer.map_err(|_| OriginFailure::ReadTimeout)
            }
            Err(failure) => Err(failure),
        };
        match answer {
            Ok((received, buffer)) => {
                self.is_receiving = false;
                (received.map_err(stream_failure), buffer)
            }
            Err(failure) => {
                // Closing makes the kernel give the buffer back at once.
                stream.abort();
                let (_, buffer) = read.await;
                (Err(failure), buffer)
            }
        }
    }

    /// Goes on sending until the request is out or the answer says something.
    async fn finish_sending<R: Future>(
        &mut self,
        read: &mut Pin<&mut R>,
    ) -> Result<Option<R::Output>, OriginFailure> {
        let Sending::Running(sender) = &mut self.sending else { return Ok(None) };
        match race(sender.as_mut(), read.as_mut()).await {
            Either::Right(answer) => Ok(Some(answer)),
            Either::Left(Ok(())) => {
                self.sending = Sending::Whole;
                Ok(None)
            }
            Either::Left(Err(failure)) => {
                self.sending = Sending::Broken;
                match failure {
                    // It may have answered before it stopped listening: 413, say.
                    SendFailure::Origin(_) => Ok(None),
                    SendFailure::Stalled => Err(OriginFailure::ReadTimeout),
                    SendFailure::BodyGone => Err(OriginFailure::ViewerGone),
                }
            }
        }
    }

    /// Stops sending the request: the answer is there and does not want the rest.
    pub(crate) fn stop_sending(&mut self) {
        if matches!(self.sending, Sending::Running(_)) {
            self.sending = Sending::Broken;
        }
    }

    /// The connection, and whether the request went out whole.
    pub(crate) fn into_connection(self) -> (Connection, bool) {
        let is_whole = matches!(self.sending, Sending::Whole) && !self.is_receiving;
        (self.connection, is_whole)
    }
}

/// Names what went wrong with a stream that was connected (H-25).
pub(crate) fn stream_failure(error: StreamError) -> OriginFailure {
    match error {
        StreamError::Io(_) => OriginFailure::Reset,
        StreamError::Tls => OriginFailure::Tls,
        StreamError::Truncated => OriginFailure::Truncated,
    }
}
