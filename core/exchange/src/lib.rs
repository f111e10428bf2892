//! The spine: the steps of one request as a pure state machine, and the heads that it sends both ways.
//!
//! The driver in `net/shard` feeds [`Exchange::step`] with events and does what the [`Action`] says; it decides nothing itself.
//! [`origin_request`] and [`response_head`] turn heads into bytes, [`failure`] says what a failed origin means and when to try again,
//! [`invalidation`] which keys an answer makes invalid, [`collapse`] who fetches for whom. Nothing here has a clock or a socket; the hit path allocates nothing.
#![forbid(unsafe_code)]

pub mod collapse;
pub mod exchange;
pub mod failure;
pub mod forwarded;
pub mod invalidation;
pub mod origin_request;
pub mod response_head;

pub use aspis_cache::status::{ForwardReason, ResultType};
pub use aspis_cache::storable::NotStored;
pub use collapse::Collapse;
pub use exchange::{
    Action, AnswerKind, Arriving, Collapsing, Conditions, Content, Event, Exchange, Forward, FoundChange,
    JOIN_LEN_MAX, Role, Stored, StoredAnswer, Variant,
};
pub use failure::{Attempt, OriginFailure, Retry};
pub use forwarded::ViewerFacts;

/// The time, as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall clock in seconds since the epoch; never falls.
    pub wall: u64,
    /// Monotonic milliseconds.
    pub millis: u64,
}
