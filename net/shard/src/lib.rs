//! What runs on each core: listeners, viewer connections, the origin client, fills, and the mail between cores.
//!
//! `boot` starts one shard per core for the daemon. In a shard the ring's events come in through `shard`, `viewer/hot`
//! answers fresh hits inside the event, `viewer/exchange` answers everything that waits, `fill` stores, `origin` fetches.
//! Each key has one owner among the cores: `asking` asks it, `owner` and `flight` are the owner's side.
//! What to do is decided by `aspis-exchange`; this crate does it.

#![forbid(unsafe_code)]

mod account;
mod alone;
mod asking;
mod backlog;
mod boot;
mod disk;
mod explain;
mod fill;
mod flight;
mod limits;
mod log;
mod messages;
mod numbered;
pub mod origin;
mod overload;
mod owner;
mod places;
mod resume;
mod rules;
mod shard;
mod storing;
pub mod tls;
mod viewer;

pub use boot::{Boot, EvictBell, Shards, StartError, start};
pub use disk::{Directory, DiskBoot, Extent, Flushed, VolumeFile};
pub use explain::{Explanation, StoredFacts, Why};
pub use limits::FLUSH_SLACK;
pub use rules::{Invalidations, Purged, Purges, RuleBatch};
