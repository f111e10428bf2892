//! The atomics of the lock-free parts: those of the language, or, with `--cfg loom`, those of the model checker, which tries every order
//! that the memory model allows. The arena, the body and the passage are fed by it; `tests/loom` reads what comes of it.
//!
//! Counts that publish nothing (the budget's) stay the language's own: trying their orders would cost time and show nothing.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
