//! What is remembered about a stored response besides its bytes: the few numbers from which reuse is decided.
//!
//! `storable` makes it when an origin's head arrives, storage keeps it unchanged, `reuse` and `age` read it.
//! Invariants: plain data, immutable, `Copy`; times are wall seconds since the epoch that never fall on one machine.

/// The caching facts of one stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMeta {
    /// The status code that the origin sent and that a hit repeats.
    pub status: u16,
    /// When the origin generated the response: its `Date`, else the time of receipt (RFC 9110 §6.6.1).
    pub generated_at: u64,
    /// When the response's head arrived here, in wall seconds.
    pub received_at: u64,
    /// The corrected initial age at `received_at` (RFC 9111 §4.2.3).
    pub initial_age: u32,
    /// The freshness lifetime, counted from generation and already clamped by the operator's bounds.
    pub lifetime: u32,
}

impl StoredMeta {
    /// Returns the first wall second at which the response is no longer fresh.
    ///
    /// Fresh means lifetime > age (RFC 9111 §4.2), so a response whose age reached its lifetime before it
    /// arrived gives a second that is not after `received_at`.
    pub fn fresh_until(&self) -> u64 {
        (self.received_at + u64::from(self.lifetime)).saturating_sub(u64::from(self.initial_age))
    }

    /// Tells whether the response is fresh at wall second `now`.
    pub fn is_fresh(&self, now: u64) -> bool {
        crate::age::current_age(self, now) < self.lifetime
    }
}
