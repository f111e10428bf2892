//! The bytes themselves: the arena's memory, its blocks and the bodies made of them.
//!
//! And the mappings of the disk tier's files, which nothing here reads.
//!
//! The one part of the crate that may use `unsafe`: many cores read a body while one writer fills it, and the kernel writes into
//! its end, which no safe type of the language allows over one mapping. What keeps it sound, in one place:
//!
//! 1. A unit of the arena belongs to one span at a time; the buddy sees to that.
//! 2. A span is dropped by exactly one owner, a [`arena::Block`] or a [`body::Body`], and only then gets on the return stack.
//! 3. Of a body's bytes, those below its published length are never written again, and those above are reached by at most one
//!    [`body::Tail`] or the writer, never both.
//! 4. Whoever holds bytes holds the `Arc` that keeps the mapping and their span.
//!
//! What keeps the mappings of files sound is in [`mapped`].

// JUSTIFICATION: see above; the rest of the crate denies it.
#![allow(unsafe_code)]

pub mod aligned;
pub mod arena;
pub mod body;
pub mod gates;
pub mod mapped;
mod memory;
pub(crate) mod prefetch;
mod residence;
mod watch;
