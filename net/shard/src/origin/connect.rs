//! Opens connections to the origin: which address, how long, how often.
//!
//! `client` asks with a place under the cap in hand. One attempt goes once through the addresses, beginning behind the
//! one that was taken last, and ends with the first that accepts; TCP and TLS handshakes of all of them together must end
//! within `ConnectionTimeout` (D-22). Attempts are shared with those of D-24: one count for the whole fetch.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aspis_exchange::{Attempt, OriginFailure, Retry};
use aspis_runtime::Ring;
use aspis_runtime::weight::Meter;
use aspis_wire::Method;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::limits::{ADDRESS_COUNT_MAX, TLS_SESSION_COUNT};
use super::stream::{Stream, StreamError};
use crate::tls;

/// How often a fetch has tried, and for which method: what a retry depends on (D-22, D-24).
pub(crate) struct Attempts<'m> {
    method: Method<'m>,
    failed: u32,
    max: u32,
}

impl<'m> Attempts<'m> {
    /// Nothing was tried yet; at least one attempt may be made.
    pub(crate) fn new(method: Method<'m>, max: u32) -> Self {
        Attempts { method, failed: 0, max: max.max(1) }
    }

    /// Notes that an attempt failed before any content of the request was used; tells whether to make another.
    ///
    /// `answered`: a byte of an answer came.
    pub(crate) fn failed(&mut self, failure: OriginFailure, answered: bool) -> Retry {
        self.failed += 1;
        let attempt = Attempt { number: self.failed, max: self.max, answered, content_used: false };
        failure.retry(self.method, attempt)
    }
}

/// Opens streams to the origin of one core.
pub(crate) struct Connector {
    ring: Ring,
    name: Option<ServerName<'static>>,
    timeout: Duration,
    addresses: RefCell<Arc<[SocketAddr]>>,
    next_address: Cell<usize>,
    tls: RefCell<Option<Arc<ClientConfig>>>,
    sessions: Meter,
}

impl Connector {
    /// A connector that knows no address yet. With `tls` every connection is one of HTTPS.
    pub(crate) fn new(
        ring: Ring,
        core: usize,
        name: Option<ServerName<'static>>,
        timeout: Duration,
        tls: Option<Arc<ClientConfig>>,
        sessions: Meter,
    ) -> Self {
        Connector {
            sessions,
            ring,
            name,
            timeout,
            addresses: RefCell::new(Arc::from([])),
            // Cores begin at different addresses, so that a restart does not send all of them to the first.
            next_address: Cell::new(core),
            tls: RefCell::new(tls.map(|config| tls::for_core(&config, TLS_SESSION_COUNT))),
        }
    }

    /// Replaces the addresses. Open connections stay.
    pub(crate) fn set_addresses(&self, addresses: Arc<[SocketAddr]>) {
        *self.addresses.borrow_mut() = addresses;
    }

    /// Replaces the TLS settings of new connections.
    pub(crate) fn set_tls(&self, config: &ClientConfig) {
        *self.tls.borrow_mut() = Some(tls::for_core(config, TLS_SESSION_COUNT));
    }

    /// Opens a stream, with as many attempts as are left.
    pub(crate) async fn open(&self, attempts: &mut Attempts<'_>) -> Result<Stream, OriginFailure> {
        loop {
            let failure = match self.ring.timeout(self.timeout, self.attempt()).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(failure)) => failure,
                Err(_) => OriginFailure::ConnectTimeout,
            };
            if attempts.failed(failure, false) == Retry::Never {
                return Err(failure);
            }
        }
    }

    async fn attempt(&self) -> Result<Stream, OriginFailure> {
        let addresses = Arc::clone(&self.addresses.borrow());
        let mut failure = OriginFailure::Unresolvable;
        for _ in 0..addresses.len().min(ADDRESS_COUNT_MAX) {
            // One step per try, so that the next attempt does not begin with an address that swallowed this one's time.
            let turn = self.next_address.get();
            self.next_address.set(turn.wrapping_add(1));
            let address = addresses[turn % addresses.len()];
            match self.try_address(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn try_address(&self, address: SocketAddr) -> Result<Stream, OriginFailure> {
        let socket = self.ring.connect(address).await.map_err(connect_failure)?;
        let stream = Stream::plain(self.ring.clone(), socket);
        let config = self.tls.borrow().clone();
        let Some(config) = config else { return Ok(stream) };
        let Some(name) = self.name.clone() else { return Err(OriginFailure::Tls) };
        stream.into_tls(config, name, &self.sessions).await.map_err(|error| match error {
            StreamError::Io(_) | StreamError::Tls | StreamError::Truncated => OriginFailure::Tls,
        })
    }
}

/// Names what the kernel said about a connection that was never there (H-25).
fn connect_failure(errno: i32) -> OriginFailure {
    match io::Error::from_raw_os_error(errno).kind() {
        io::ErrorKind::TimedOut => OriginFailure::ConnectTimeout,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => OriginFailure::Reset,
        // No descriptor, port or memory left is our shortage, not the origin's.
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory => OriginFailure::Overloaded,
        _ if matches!(errno, ENFILE | EMFILE | ENOBUFS) => OriginFailure::Overloaded,
        _ => OriginFailure::Refused,
    }
}

// Linux error numbers that `io::ErrorKind` has no name for.
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOBUFS: i32 = 105;
