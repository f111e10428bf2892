//! What one core, or the control thread, tells a core. Sent through the runtime's mailboxes, handled by `Shard::drain_mail`.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::origin::CapMessage;

/// A message to one core.
pub(crate) enum Message {
    /// The origin's addresses as DNS gives them now.
    Addresses(Arc<[SocketAddr]>),
    /// The TLS settings for new origin connections.
    Tls(Arc<rustls::ClientConfig>),
    /// No new connections; answers in flight end with `Connection: close`.
    StopAccepting,
    /// Close what is open and end the core's loop.
    Stop,
    /// Ship the access log lines gathered so far.
    FlushLog,
    /// Origin connection cap: waiting, granting, releasing.
    Cap(CapMessage),
    /// Another core saw an unsafe request succeed: this key is no longer to be served (RFC 9111 §4.4).
    Invalidate {
        /// Hash of `key`.
        hash: u128,
        /// The cache key, compared in full.
        key: Arc<[u8]>,
    },
}

impl From<CapMessage> for Message {
    fn from(message: CapMessage) -> Self {
        Message::Cap(message)
    }
}
