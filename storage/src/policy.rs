//! Decides what leaves the RAM tier when room is needed, behind one trait so that alternatives can be compared on the same traces.
//!
//! The tier tells a policy what came and went and asks for the next to evict; a policy never sees a response, only its hash and
//! size. Hits are not told one by one: a hit raises the response's own use count, and the policy asks for it when it looks at
//! the entry, so a hit touches nothing of the policy.

mod ghost;
mod s3_fifo;

pub use s3_fifo::S3Fifo;

/// A policy's name for an entry; valid until the entry is removed or evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(pub u32);

/// An order of eviction.
pub trait Policy {
    /// Bytes that the policy keeps for each entry of the tier, remembered keys included; charged as index.
    const ENTRY_COST: u64;

    /// What an entry that left was worth, for the one that takes its place.
    type Standing;

    /// Makes a policy for a tier of `capacity` bytes.
    fn new(capacity: u64) -> Self;

    /// Notes a new entry of `len` bytes; `before` is the standing of the one that it replaces, which it takes over.
    fn insert(&mut self, hash: u128, len: u64, before: Option<Self::Standing>) -> Handle;

    /// Forgets an entry that left for another reason than eviction; `uses` is how often it was used since that was last asked, at most 3.
    fn remove(&mut self, handle: Handle, uses: u8) -> Self::Standing;

    /// Chooses an entry, forgets it and returns its hash; `None` if there is none.
    ///
    /// `take_uses` returns how often an entry was used since it was last asked for, at most 3.
    fn evict(&mut self, take_uses: &mut dyn FnMut(u128) -> u8) -> Option<u128>;
}
