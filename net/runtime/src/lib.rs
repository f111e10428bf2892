//! The kernel boundary: executors, the ring, sockets, files, timers, mailboxes.
//!
//! This crate decides *how* a core waits and moves bytes, and nothing about what the bytes mean. `net/shard` feeds
//! it with a [`Handler`] per core and with tasks; the kernel's completions come back as calls of that handler or as
//! futures that become ready. Nothing else in the tree names glommio or io-uring.
//!
//! One thread per core runs one glommio executor, and inside it one task owns one io_uring: the only place where the
//! thread sleeps (`turn.rs`). Everything here is single-threaded per core ([`Ring`] is `Rc` inside), except for
//! [`mailbox`], through which other threads reach a core.
//!
//! Invariants, each with its test in `tests/`; the first three also in `turn/tests.rs`, with a kernel that does its worst:
//! - Memory that a submitted operation names is owned by the operation's slot until its completion is reaped.
//! - A descriptor is closed only when nothing in flight names it; slots carry a generation, so a late completion
//!   never touches the next user of the slot.
//! - Bytes of one socket leave in the order in which they were queued; one send is in flight per socket.
//! - A completion that wakes a task lets the task run in the same turn.
#![allow(unsafe_code)] // The kernel interface takes raw addresses and descriptors; every block proves its conditions.

mod atomics;
mod batch;
pub mod bind;
mod buffers;
mod executor;
mod file;
pub mod future;
mod future_timer;
pub mod heap;
#[cfg(not(test))]
mod kernel;
// Unit tests have a kernel that misuses what it was lent as far as it may; those in `tests/` have the real one.
#[cfg(test)]
#[path = "kernel/fake.rs"]
mod kernel;
pub mod limits;
pub mod mailbox;
mod op;
pub mod page_cache;
pub mod probe;
mod receive;
mod ring;
mod send;
mod slice;
mod slots;
mod socket;
mod stats;
pub mod sync;
mod task;
mod timer;
mod turn;
pub mod weight;

pub use executor::{CoreOptions, CoreThread, StartError, spawn_core};
pub use file::DiskFile;
pub use future_timer::Elapsed;
pub use mailbox::Doorbell;
pub use ring::{Handler, Ring};
pub use send::{Piece, Source};
pub use socket::{Close, ListenerId, Peer, Quiet, ReceiveEnd, SocketId};
pub use stats::{RingHeap, RingStats};
