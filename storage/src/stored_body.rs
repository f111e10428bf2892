//! Where the content of a stored response lies: in the arena, or on disk in a mapping that only the kernel reads.
//!
//! `response.rs` has one in each stored response; who reads content in user mode asks for [`StoredBody::in_memory`] and does without where
//! there is none, so that no mapped byte is ever touched by us.

use std::sync::Arc;

use crate::mapping::body::{Body, BodyState, Progress};
use crate::mapping::mapped::MappedBody;

/// The content of a stored response.
#[derive(Clone, Debug)]
pub enum StoredBody {
    /// In the arena of a core; it may still be filling.
    Memory(Arc<Body>),
    /// On disk, verified, in pages that were in memory: whole from the start.
    Mapped(Arc<MappedBody>),
}

impl StoredBody {
    /// Returns the body whose bytes can be read.
    #[inline]
    pub fn in_memory(&self) -> Option<&Arc<Body>> {
        match self {
            StoredBody::Memory(body) => Some(body),
            StoredBody::Mapped(_) => None,
        }
    }

    /// Returns the body that only the kernel reads.
    #[inline]
    pub fn mapped(&self) -> Option<&Arc<MappedBody>> {
        match self {
            StoredBody::Memory(_) => None,
            StoredBody::Mapped(body) => Some(body),
        }
    }

    /// Returns how many bytes there are now.
    #[inline]
    pub fn published(&self) -> u64 {
        match self {
            StoredBody::Memory(body) => body.published(),
            StoredBody::Mapped(body) => body.len(),
        }
    }

    /// Returns the state and the length that belongs to it.
    pub fn progress(&self) -> Progress {
        match self {
            StoredBody::Memory(body) => body.progress(),
            StoredBody::Mapped(body) => Progress { state: BodyState::Complete, len: body.len() },
        }
    }

    /// Returns how long the whole is, if that is known: see [`Body::length`].
    pub fn length(&self) -> Option<u64> {
        match self {
            StoredBody::Memory(body) => body.length(),
            StoredBody::Mapped(body) => Some(body.len()),
        }
    }

    /// Returns how many bytes of the arena it holds, used or not.
    pub fn charged_len(&self) -> u64 {
        self.in_memory().map_or(0, |body| body.charged_len())
    }

    /// Returns under which number its slices were written to disk; `None` if none were.
    pub fn write_id(&self) -> Option<u64> {
        self.in_memory().and_then(|body| body.write_id())
    }

    /// Asks the processor for the beginning of it.
    #[inline]
    pub fn prefetch(&self) {
        if let StoredBody::Memory(body) = self {
            body.prefetch();
        }
    }
}

impl From<Arc<Body>> for StoredBody {
    fn from(body: Arc<Body>) -> StoredBody {
        StoredBody::Memory(body)
    }
}
