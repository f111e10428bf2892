//! RFC 9111 and RFC 9110 caching questions, one per file, pure: heads and `now` in, an answer out.
//!
//! `core/exchange` asks them in order, storage keeps [`stored::StoredMeta`]. Nothing here has a clock, allocates on the
//! hit path, or knows how a response is kept. Rules are those of the RFC 9111 profile; where a rule leaves a choice
//! the answer here is the one that can at worst cause a miss.
#![forbid(unsafe_code)]

pub mod age;
pub mod conditional;
pub mod directives;
pub mod freshen;
pub mod freshness;
pub mod invalidate;
pub mod invalidation;
pub mod key;
pub mod range;
pub mod request_directives;
pub mod reuse;
pub mod status;
pub mod storable;
pub mod stored;
pub mod targeted;
pub mod vary;
