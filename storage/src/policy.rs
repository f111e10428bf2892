//! Decides what leaves the RAM tier when room is needed, behind one trait so that alternatives can be compared on the same traces.
//!
//! The tier tells a policy what came and went and asks for the next to evict; a policy never sees a response, only its hash and
//! size. Hits are not told one by one: a hit raises the response's own use count, and the policy asks for it when it looks at
//! the entry, so a hit touches nothing of the policy. Only those of few sampled keys are told, late, to a policy that tunes itself.
//!
//! [`SizeAware`] is the tier's; [`S3Fifo`] is what it is held against.

mod ghost;
mod heap;
#[cfg(test)]
mod model;
mod s3_fifo;
mod size_aware;

pub(crate) use heap::{Heap, Place};
pub use s3_fifo::S3Fifo;
pub use size_aware::SizeAware;

/// The position of an entry in the tier's table; another entry may have it after that one was removed or evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u32);

/// What a policy asks about the entries that it was told of.
pub trait Entries {
    /// Returns how often an entry was used since it was last asked for, at most 3, and starts again.
    fn take_uses(&mut self, entry: Handle) -> u8;

    /// Returns the hash under which an entry stands.
    fn hash(&self, entry: Handle) -> u128;
}

/// An order of eviction.
pub trait Policy {
    /// What an entry that left was worth, for the one that takes its place.
    type Standing;

    /// Makes a policy for a tier of `capacity` bytes; it takes memory when it is told of the first entry.
    fn new(capacity: u64) -> Self;

    /// Notes a new entry of `len` bytes; `before` is the standing of the one that it replaces, which it takes over.
    ///
    /// Positions are those of a table: dense, and used again.
    fn insert(&mut self, entry: Handle, hash: u128, len: u64, before: Option<Self::Standing>);

    /// Forgets an entry that left for another reason than eviction; `uses` is how often it was used since that was last asked, at most 3.
    fn remove(&mut self, entry: Handle, uses: u8) -> Self::Standing;

    /// Chooses an entry and forgets it; `None` if there is none.
    fn evict(&mut self, entries: &mut dyn Entries) -> Option<Handle>;

    /// Returns the bytes that the policy takes, remembered keys included.
    fn memory(&self) -> u64;

    /// Returns the most bytes by which [`Policy::memory`] grows with an insert at this position.
    fn growth(&self, entry: Handle) -> u64;

    /// Tells whether the uses of a key are to be told one by one.
    fn is_sampled(&self, _hash: u128) -> bool {
        false
    }

    /// Notes a request for a sampled key that found a response of `len` bytes.
    fn note_use(&mut self, _hash: u128, _len: u64) {}

    /// Tells the policy that it is wall second `now` at least.
    fn note_time(&mut self, _now: u64) {}
}
