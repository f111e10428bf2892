//! Where a core looks for the stored response that answers a request.
//!
//! `hot.rs` asks: its own tier for keys that this core owns, its replicas for those of others. Neither decides whether what is found may be used.

use std::sync::Arc;

use aspis_cache::range;
use aspis_storage::replica::ReplicaTable;
use aspis_storage::response::StoredResponse;
use aspis_storage::tier::RamTier;
use aspis_wire::Field;

/// Where a core looks for stored responses: in its own tier, or among its replicas of other owners' ones.
pub(super) trait Shelf {
    /// What is not found there is not stored at all, but for the disk.
    fn is_owner(&self) -> bool;
    fn lookup(&self, hash: u128, key: &[u8]) -> Option<&Arc<StoredResponse>>;
    fn vary_names(&self, hash: u128, key: &[u8]) -> Option<&str>;
    fn has_parts(&self) -> bool;
    /// The part of a URI's that holds what `request` asks for, or one that comes near.
    fn part(&self, hash: u128, key: &[u8], request: &[Field<'_>]) -> Option<&Arc<StoredResponse>>;
}

impl Shelf for RamTier {
    fn is_owner(&self) -> bool {
        true
    }

    fn lookup(&self, hash: u128, key: &[u8]) -> Option<&Arc<StoredResponse>> {
        self.lookup(hash, key)
    }

    fn vary_names(&self, hash: u128, key: &[u8]) -> Option<&str> {
        self.vary_names(hash, key)
    }

    fn has_parts(&self) -> bool {
        self.has_parts()
    }

    fn part(&self, hash: u128, key: &[u8], request: &[Field<'_>]) -> Option<&Arc<StoredResponse>> {
        self.part(hash, key, |total| range::span(request, total))
    }
}

impl Shelf for ReplicaTable {
    fn is_owner(&self) -> bool {
        false
    }

    fn lookup(&self, hash: u128, key: &[u8]) -> Option<&Arc<StoredResponse>> {
        self.lookup(hash, key)
    }

    fn vary_names(&self, hash: u128, key: &[u8]) -> Option<&str> {
        self.vary_names(hash, key)
    }

    /// Parts stay with their owner.
    fn has_parts(&self) -> bool {
        false
    }

    fn part(&self, _hash: u128, _key: &[u8], _request: &[Field<'_>]) -> Option<&Arc<StoredResponse>> {
        None
    }
}
