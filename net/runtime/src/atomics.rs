//! The atomics of what cores share: those of the language, or, with `--cfg loom`, those of the model checker, which tries every order
//! that the memory model allows. Fed to `mailbox/sleep.rs`; `tests/loom.rs` reads what comes of it.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, Ordering, fence};
