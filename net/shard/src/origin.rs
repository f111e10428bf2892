//! The origin side of a core: connections, their cap over all cores, requests and answers, tunnels.
//!
//! The shard's driver asks [`OriginClient::fetch`]; it is fed with addresses and TLS settings by the control thread and
//! with [`CapMessage`]s by other cores. Files, in the order of a request: `client` (the fetch and its retries), `pool`
//! (kept connections) with `cap` (how many over all cores), `connect`, `stream` (plain or TLS bytes), `request_body`
//! (sending), `conversation` (receiving meanwhile), `body` (content), `tunnel` (after a `101`).
//!
//! Invariants: every wait has an end; a response that is cut or mis-framed ends in an error, never in a whole body; no
//! connection is used again unless its last response was read to its exact end.

pub(crate) mod body;
pub(crate) mod cap;
pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod conversation;
pub(crate) mod limits;
pub(crate) mod pool;
pub(crate) mod request_body;
pub(crate) mod stream;
pub(crate) mod tunnel;

#[cfg(test)]
mod tests;

use std::time::Duration;

use aspis_config::Settings;
use aspis_exchange::OriginFailure;
use aspis_telemetry::{CoreCounters, Counter};
use aspis_wire::Scheme;
use rustls::pki_types::ServerName;

pub use self::body::OriginBody;
pub use self::cap::{CapMessage, Reclaim};
pub use self::client::{OriginClient, OriginRequest, OriginResponse};
pub use self::request_body::{BodyGone, LentBody, NoBody, RequestBody};
pub use self::tunnel::OriginTunnel;

use self::cap::Gate;
use crate::tls::{self, TlsSetupError};

/// How an origin is talked to.
#[derive(Clone, Debug)]
pub struct OriginSettings {
    /// What SNI asks for and the certificate must name: the URL's host. Needed for HTTPS only.
    pub server_name: Option<ServerName<'static>>,
    /// `ConnectionTimeout` (D-22): TCP and TLS handshakes of one attempt.
    pub connect_timeout: Duration,
    /// `OriginReadTimeout` (D-23): to the first byte, and between two.
    pub read_timeout: Duration,
    /// `ConnectionAttempts` (D-22, D-24): per fetch, 1 to 3.
    pub attempts: u32,
    /// `OriginKeepaliveTimeout` (D-26): how long an idle connection is kept.
    pub keepalive_timeout: Duration,
    /// Most connections open at once, over all cores, kept ones included.
    pub connection_count_max: usize,
    /// Most fetches that wait for one of them, over all cores.
    pub queue_len_max: usize,
    /// How long a fetch waits for one at most.
    pub queue_timeout: Duration,
}

impl OriginSettings {
    /// What the operator's settings say.
    ///
    /// # Errors
    ///
    /// If an HTTPS origin's host cannot be named by a certificate.
    pub fn of(settings: &Settings) -> Result<Self, TlsSetupError> {
        let server_name = match settings.origin.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(tls::server_name(&settings.origin.host)?),
        };
        Ok(OriginSettings {
            server_name,
            connect_timeout: settings.connect_timeout,
            read_timeout: settings.read_timeout,
            attempts: settings.connection_attempts,
            keepalive_timeout: settings.origin_keepalive_timeout,
            connection_count_max: settings.origin_max_connections,
            queue_len_max: settings.origin_queue,
            // A wait in line is silence of the origin like any other (D-23).
            queue_timeout: settings.origin_queue_timeout.min(settings.read_timeout),
        })
    }
}

/// Brings a message of the cap to the mailbox of a core, or back if that is full.
pub type CapPost = dyn Fn(usize, CapMessage) -> Result<(), CapMessage> + Send + Sync;

/// What the cores share about an origin: its settings and the cap on its connections.
pub struct OriginShared {
    settings: OriginSettings,
    cores: usize,
    gate: Gate,
    post: Box<CapPost>,
}

impl OriginShared {
    /// For `cores` cores. `post` wraps a message into the shard's own and sends it.
    pub fn new(
        settings: OriginSettings,
        cores: usize,
        post: impl Fn(usize, CapMessage) -> Result<(), CapMessage> + Send + Sync + 'static,
    ) -> Self {
        let gate = Gate::new(settings.connection_count_max);
        OriginShared { settings, cores, gate, post: Box::new(post) }
    }

    /// How many connections are open or being opened, over all cores.
    pub fn open_len(&self) -> usize {
        self.gate.open()
    }
}

/// Counts a failure by its cause.
fn count_failure(counters: &CoreCounters, failure: OriginFailure) {
    let counter = match failure {
        OriginFailure::Unresolvable => Counter::OriginUnresolvable,
        OriginFailure::Refused => Counter::OriginRefused,
        OriginFailure::Reset => Counter::OriginReset,
        OriginFailure::ConnectTimeout => Counter::OriginConnectTimeout,
        OriginFailure::Tls => Counter::OriginTls,
        OriginFailure::ReadTimeout => Counter::OriginReadTimeout,
        OriginFailure::Invalid => Counter::OriginInvalid,
        OriginFailure::HeadTooLarge => Counter::OriginHeadTooLarge,
        OriginFailure::ProtocolMismatch => Counter::OriginProtocolMismatch,
        OriginFailure::Truncated => Counter::OriginTruncated,
        OriginFailure::Overloaded => Counter::OriginOverloaded,
        // Not the origin's.
        OriginFailure::ViewerGone => return,
    };
    counters.add(counter, 1);
}
