//! HTTP messages and HTTP/1.1 framing for both sides, without I/O.
//!
//! Decides what the bytes of a viewer or an origin mean: where a head ends, what frames the content
//! after it, whether the connection may be used again; and writes heads. Fed by the shard's viewer
//! and origin sides with bytes as they arrive; read by everything that asks about a message.
//!
//! Invariants:
//! - One strict parser for both sides. What two recipients could read differently is refused, not repaired.
//! - Bytes from outside never panic and never make it allocate, but for [`request::KnownSections`], whose memory is bounded; every
//!   length has a limit in [`limits`].
//! - The answer does not depend on how the bytes were split: an incomplete head is `Ok(None)`, and a
//!   longer prefix of the same bytes gives the same message or the same error.
#![forbid(unsafe_code)]

mod authority;
mod framing;
mod message;

pub mod chunked;
pub mod date;
pub mod fields;
pub mod head_writer;
pub mod limits;
pub mod proxy_protocol;
pub mod request;
pub mod response;
pub mod structured;

pub use authority::{Authority, parse_authority};
pub use httparse::Header as Field;
pub use limits::{FIELD_SLOTS, HeadLimits};
pub use message::{FieldSlots, Method, Scheme, Version};
