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
    /// The freshness lifetime, counted from generation and already clamped by the operator's bounds; 0 with `no-cache`.
    pub lifetime: u32,
    /// `no-cache` without field names: each reuse needs a validation of its own (RFC 9111 §5.2.2.4).
    pub no_cache: bool,
    /// How long after its freshness it may be served while it is validated in the background (RFC 5861 §3); 0 is never.
    pub stale_while_revalidate: u32,
    /// Whether it may be served stale when the origin fails.
    pub stale_if_error: StaleIfError,
    /// A directive of the origin's forbids every stale answer, whoever wants it (RFC 9111 §4.2.4).
    pub forbids_stale: bool,
    /// A targeted field decided, which hits do not repeat (RFC 9213 §2.2).
    pub targeted: bool,
    /// Of a 206: where its content belongs (RFC 9111 §3.4).
    pub part: Option<Part>,
}

/// Where the content of a stored 206 belongs; its length is that of the stored content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first byte.
    pub start: u64,
    /// The length of the complete representation.
    pub total: u64,
}

/// Whether a stored response may be served stale when the origin fails (RFC 9111 §4.2.4, RFC 5861 §4, rule 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleIfError {
    /// A directive of the origin's forbids it, or the operator does where none permits it.
    Forbidden,
    /// Nothing is said; the operator's maximum bounds it.
    Unstated,
    /// For this many seconds after its freshness.
    Within(u32),
}

impl StoredMeta {
    /// The facts of a 200 that was never fresh and may be served stale on error; others are made from it.
    pub const PLAIN: Self = Self {
        status: 200,
        generated_at: 0,
        received_at: 0,
        initial_age: 0,
        lifetime: 0,
        no_cache: false,
        stale_while_revalidate: 0,
        stale_if_error: StaleIfError::Unstated,
        forbids_stale: false,
        targeted: false,
        part: None,
    };

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
