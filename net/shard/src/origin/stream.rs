//! A byte stream to the origin, plain or TLS, over one socket of the ring.
//!
//! `connect` opens it; everything else of the origin side reads and writes through it. Reading and writing take `&self`
//! and may go on at the same time (request body against early answer, both directions of a tunnel); there is at most one
//! reader and one writer. A plain read lands in the caller's buffer, without a copy.
//!
//! Invariants: a `RefCell` is never borrowed across an await; ciphertext is queued in the order in which it was made. A
//! read that was given up half-way may have lost bytes, so its stream must be closed. Dropping the stream closes it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use aspis_runtime::weight::{Meter, Weight};
use aspis_runtime::{Close, Peer, Quiet, Ring, SocketId};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::limits::{
    CLOSE_LINGER, TLS_HANDSHAKE_READ_MAX, TLS_RECEIVE_LEN, TLS_RECORD_LEN, TLS_SEND_WINDOW, TLS_SESSION_COST,
};
use crate::tls::{Plaintext, Session};

/// Why a stream cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamError {
    /// The kernel's error number.
    Io(i32),
    /// The TLS session failed: handshake, certificate, alert, or bytes that are no TLS.
    Tls,
    /// The socket ended before the TLS session did.
    Truncated,
}

/// A connected stream.
pub(crate) struct Stream {
    ring: Ring,
    socket: SocketId,
    tls: Option<Tls>,
    /// An alert is queued: close behind it instead of at once.
    is_orderly: Cell<bool>,
}

struct Tls {
    session: RefCell<Session>,
    incoming: RefCell<Incoming>,
    weight: RefCell<Weight>,
}

/// Ciphertext that was received and not yet fed to the session.
#[derive(Default)]
struct Incoming {
    /// `None` while a receive owns it, empty while the stream rests.
    buffer: Option<Vec<u8>>,
    filled: Range<usize>,
    is_ended: bool,
}

impl Stream {
    /// A plain stream over a connected socket.
    pub(crate) fn plain(ring: Ring, socket: SocketId) -> Self {
        Stream { ring, socket, tls: None, is_orderly: Cell::new(false) }
    }

    /// Makes a TLS session over a plain stream to which nothing was sent and from which nothing was read.
    pub(crate) async fn into_tls(
        mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        sessions: &Meter,
    ) -> Result<Self, StreamError> {
        let session = Session::new(config, name).map_err(|_| StreamError::Tls)?;
        let incoming = Incoming { buffer: Some(Vec::new()), ..Incoming::default() };
        self.tls = Some(Tls {
            session: RefCell::new(session),
            incoming: RefCell::new(incoming),
            weight: RefCell::new(sessions.weigh(TLS_SESSION_COST)),
        });
        self.handshake().await?;
        Ok(self)
    }

    /// Reads into `buffer[range]`, which must not be empty. Zero is the proper end of the stream.
    pub(crate) async fn read<B: AsMut<[u8]> + 'static>(
        &self,
        mut buffer: B,
        range: Range<usize>,
    ) -> (Result<usize, StreamError>, B) {
        let Some(tls) = &self.tls else {
            let (received, buffer) = self.ring.receive_into(self.socket, buffer, range).await;
            return (received.map_err(StreamError::Io), buffer);
        };
        loop {
            let plaintext = tls.session.borrow_mut().read(&mut buffer.as_mut()[range.clone()]);
            match plaintext {
                Plaintext::Bytes(count) => return (Ok(count), buffer),
                Plaintext::Closed => return (Ok(0), buffer),
                Plaintext::Truncated => return (Err(StreamError::Truncated), buffer),
                Plaintext::Starved => {}
            }
            if let Err(error) = self.feed(tls).await {
                return (Err(error), buffer);
            }
        }
    }

    /// Queues `bytes` and waits until the kernel has taken all of them.
    pub(crate) async fn write(&self, bytes: Vec<u8>) -> Result<(), StreamError> {
        match &self.tls {
            // Refused only after a failure, which the flush tells.
            None => {
                self.ring.send_owned(self.socket, bytes);
            }
            Some(tls) => self.write_records(tls, &bytes).await?,
        }
        self.ring.flush(self.socket).await.map_err(StreamError::Io)
    }

    /// Queues a short message without waiting; a failure shows when the answer is read.
    pub(crate) fn queue(&self, bytes: &[u8]) -> Result<(), StreamError> {
        match &self.tls {
            None => {
                self.ring.send_owned(self.socket, bytes.to_vec());
            }
            Some(tls) => {
                tls.session.borrow_mut().write(bytes).map_err(|_| StreamError::Tls)?;
                self.send_pending(tls);
            }
        }
        Ok(())
    }

    /// Tells whether the origin has neither closed nor said anything unasked.
    pub(crate) fn is_quiet(&self) -> bool {
        let has_unread = self.tls.as_ref().is_some_and(|tls| {
            let incoming = tls.incoming.borrow();
            let is_clean = !incoming.is_ended && incoming.filled.is_empty() && incoming.buffer.is_some();
            !is_clean || !tls.session.borrow_mut().is_drained()
        });
        !has_unread && self.ring.is_quiet(self.socket) == Quiet::Yes
    }

    /// Gives back memory that a stream without work does not need.
    pub(crate) fn rest(&self) {
        if let Some(tls) = &self.tls {
            let mut incoming = tls.incoming.borrow_mut();
            if incoming.filled.is_empty() && incoming.buffer.is_some() {
                incoming.buffer = Some(Vec::new());
                tls.weight.borrow_mut().set(TLS_SESSION_COST);
            }
        }
    }

    /// The address that it is connected to.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self.ring.peer(self.socket)? {
            Peer::Inet(address) => Some(address),
            Peer::Unix => None,
        }
    }

    /// Says that nothing is under way: when it is dropped, a TLS session closes with its alert.
    pub(crate) fn finish(&self) {
        // A plain stream has nothing left to say: closing it is all the origin waits for.
        if let Some(tls) = &self.tls {
            self.is_orderly.set(true);
            tls.session.borrow_mut().close();
            self.send_pending(tls);
        }
    }

    /// Ends our direction behind everything that was written; the origin's goes on.
    pub(crate) async fn finish_writing(&self) -> Result<(), StreamError> {
        if let Some(tls) = &self.tls {
            tls.session.borrow_mut().close();
            self.send_pending(tls);
        }
        self.ring.flush(self.socket).await.map_err(StreamError::Io)?;
        if self.tls.is_none() {
            self.ring.shut_sending(self.socket);
        }
        Ok(())
    }

    /// Closes at once. A read that is under way ends.
    pub(crate) fn abort(&self) {
        self.ring.close(self.socket, Close::Abort);
    }

    async fn handshake(&self) -> Result<(), StreamError> {
        let tls = self.tls.as_ref().expect("only `into_tls` calls this, after it set the session");
        for _ in 0..TLS_HANDSHAKE_READ_MAX {
            self.send_pending(tls);
            if !tls.session.borrow().is_handshaking() {
                return Ok(());
            }
            self.feed(tls).await?;
            if tls.incoming.borrow().is_ended {
                return Err(StreamError::Tls);
            }
        }
        Err(StreamError::Tls)
    }

    /// Gives the session more ciphertext: what was received before, else what the socket has next.
    async fn feed(&self, tls: &Tls) -> Result<(), StreamError> {
        if tls.incoming.borrow().filled.is_empty() {
            self.receive(tls).await?;
        }
        let mut incoming = tls.incoming.borrow_mut();
        let Incoming { buffer: Some(buffer), filled, .. } = &mut *incoming else {
            return Err(StreamError::Tls);
        };
        let fed = tls.session.borrow_mut().feed(&buffer[filled.clone()]);
        // Also after an error: an alert tells the origin's operator what was wrong.
        self.send_pending(tls);
        match fed {
            // Nothing is taken behind a `close_notify`; what follows it is no part of the stream.
            Ok(0) => filled.start = filled.end,
            Ok(taken) => filled.start += taken,
            Err(_) => {
                self.is_orderly.set(true);
                return Err(StreamError::Tls);
            }
        }
        Ok(())
    }

    async fn receive(&self, tls: &Tls) -> Result<(), StreamError> {
        let buffer = tls.incoming.borrow_mut().buffer.take();
        let Some(mut buffer) = buffer else {
            debug_assert!(false, "two readers, or a reader after one that was given up");
            return Err(StreamError::Tls);
        };
        buffer.resize(TLS_RECEIVE_LEN, 0);
        tls.weight.borrow_mut().set(TLS_SESSION_COST + TLS_RECEIVE_LEN);
        let whole = 0..buffer.len();
        let (received, buffer) = self.ring.receive_into(self.socket, buffer, whole).await;
        let mut incoming = tls.incoming.borrow_mut();
        incoming.buffer = Some(buffer);
        let count = received.map_err(StreamError::Io)?;
        incoming.filled = 0..count;
        incoming.is_ended = count == 0;
        Ok(())
    }

    async fn write_records(&self, tls: &Tls, bytes: &[u8]) -> Result<(), StreamError> {
        let mut queued = 0;
        for record in bytes.chunks(TLS_RECORD_LEN) {
            if queued >= TLS_SEND_WINDOW {
                self.ring.flush(self.socket).await.map_err(StreamError::Io)?;
                queued = 0;
            }
            tls.session.borrow_mut().write(record).map_err(|_| StreamError::Tls)?;
            queued += self.send_pending(tls);
        }
        Ok(())
    }

    fn send_pending(&self, tls: &Tls) -> usize {
        let ciphertext = tls.session.borrow_mut().take_ciphertext();
        let len = ciphertext.len();
        if len > 0 {
            self.ring.send_owned(self.socket, ciphertext);
        }
        len
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let how = if self.is_orderly.get() { Close::Linger(CLOSE_LINGER) } else { Close::Abort };
        self.ring.close(self.socket, how);
    }
}
