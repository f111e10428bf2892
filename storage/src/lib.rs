//! Stored responses in memory and on disk: who may use how much, where the bytes lie, how a fill is read while it grows, and what is evicted.
//!
//! - [`budget`] decides whether memory may be used at all; everything else asks it first.
//! - [`mapping`] owns the bytes: the arena of one core, its blocks, and bodies that one writer fills while many cores read.
//!   It is the only part of the crate that may use `unsafe`.
//! - [`passage`] carries what is not stored from one writer to many readers through a window of bounded size.
//! - [`response`] is what a key leads to: key, head, facts for reuse, body and a few atomics; [`stored_body`] is where its body lies.
//! - [`rules`] holds it against what the operator invalidated.
//! - [`tier`] is one core's index of stored responses; [`policy`] decides what leaves when room is needed and
//!   nothing is of no more use.
//! - [`disk`] decides what lies where in the volumes of a store, and finds it again.
//! - [`shards`] says which core owns a key; [`replica`] is what a core keeps at hand of what others own.
//!
//! Fed by the shard's driver, which owns one [`tier::RamTier`], one [`replica::ReplicaTable`] and one [`mapping::arena::Arena`] per
//! core. The crate names no clock, file, socket or thread: times and limits are arguments.

mod atomics;
mod buddy;
pub mod budget;
pub mod disk;
mod expiry;
mod heap;
pub mod limits;
pub mod mapping;
mod pages;
mod parts;
pub mod passage;
pub mod policy;
pub mod replica;
pub mod response;
pub mod rules;
pub mod shards;
pub mod stored_body;
mod table;
pub mod tier;
pub mod vary;
