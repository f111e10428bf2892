//! The lock-free parts of storage under a model checker: every order of their steps, and every value that the memory model lets a load see,
//! up to a few preemptions. `RUSTFLAGS="--cfg loom" cargo test -p aspis-storage --test loom` runs it; a normal build has nothing of it.
//!
//! Bodies change hands at whole units here (`mapping/watch.rs` says why), and every handle comes back to the first thread before it is
//! dropped, because the language's `Arc` is not one of the things that the checker knows.
#![cfg(loom)]

mod arena;
mod fill;
mod gates;
mod passage;
mod rules;

use std::sync::Arc;

use aspis_storage::budget::Budget;
use aspis_storage::mapping::arena::Arena;

/// The smallest block, and what the checker's notes are kept for.
const UNIT: usize = 512;

/// Tries every order of `run`'s threads with at most `preemptions` switches that none of them asked for.
fn check(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(run);
}

fn arena() -> (Arena, Arc<Budget>) {
    let budget = Budget::new(1 << 30);
    (Arena::new(1, Arc::clone(&budget)).unwrap(), budget)
}
