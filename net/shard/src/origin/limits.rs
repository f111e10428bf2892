//! Every bound of the origin side: buffers, waits, counts. Read by all modules beside it; flags outrank those that have one.

use std::time::Duration;

/// Most bytes of an origin's response head (H-10).
pub(crate) const HEAD_LEN_MAX: usize = 32 * 1024;

/// What is allocated for a response head before it is known to be longer. Small responses fit whole.
pub(crate) const HEAD_BUFFER_LEN: usize = 8 * 1024;

/// What a fetch keeps beside its buffers: the conversation, timers, the operation in flight.
pub(crate) const FETCH_COST: usize = 512;

/// What a TLS session keeps while it rests.
pub(crate) const TLS_SESSION_COST: usize = 14 * 1024;

/// Most interim responses (1xx) before a final one. A `100` counts against its own limit of one (H-21).
pub(crate) const INTERIM_COUNT_MAX: u32 = 16;

/// Most addresses tried within one attempt to connect.
pub(crate) const ADDRESS_COUNT_MAX: usize = 16;

/// Most connections that one core keeps idle.
pub(crate) const IDLE_COUNT_MAX: usize = 1024;

/// Idle connections looked at per sweep for having been closed by the origin, one system call each.
pub(crate) const SWEEP_CHECK_MAX: usize = 64;

/// A request that cannot be repeated takes a kept connection only if it was used within this time, because an origin
/// that closes it at the same moment turns such a request into an error.
pub(crate) const UNREPEATABLE_IDLE_MAX: Duration = Duration::from_secs(1);

/// How long to wait before a message that found a mailbox full is sent again.
pub(crate) const MAIL_RETRY_AFTER: Duration = Duration::from_millis(1);

/// Ciphertext received at once: a little more than the largest TLS record, so that one read holds one record.
pub(crate) const TLS_RECEIVE_LEN: usize = 17 * 1024;

/// Plaintext per TLS record.
pub(crate) const TLS_RECORD_LEN: usize = 16 * 1024;

/// Ciphertext queued before a writer waits for the socket to drain. Worst case per connection: this plus one record.
pub(crate) const TLS_SEND_WINDOW: usize = 64 * 1024;

/// Most rounds of a TLS handshake; a peer that needs more is not speaking TLS to an end.
pub(crate) const TLS_HANDSHAKE_READ_MAX: u32 = 256;

/// How long a finished connection is kept by the kernel so that our last bytes (an alert) still reach the origin.
pub(crate) const CLOSE_LINGER: Duration = Duration::from_millis(500);

/// TLS sessions remembered per core for resumption; one origin needs few.
pub(crate) const TLS_SESSION_COUNT: usize = 32;

// A head that fits must fit the buffer that is allocated first or grows to the limit, never beyond.
const _: () = assert!(HEAD_BUFFER_LEN <= HEAD_LEN_MAX);
// One read of ciphertext must hold a whole record (16 KiB + 256 bytes of expansion + 5 of header).
const _: () = assert!(TLS_RECEIVE_LEN >= TLS_RECORD_LEN + 256 + 5);
