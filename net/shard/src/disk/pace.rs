//! One long step in a turn: what takes some tenths of a millisecond waits in line for a turn of its own, so that hits wait for one at most.
//!
//! Verifying a slice, copying one to a write buffer, looking at what a read of recovery brought: each asks here first. Invariants: who asked
//! first goes first; at most one of them goes in a turn; while nobody waits nothing runs here.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use aspis_runtime::sync::oneshot;
use aspis_runtime::{Ring, future};

/// Who may take how long, on one core.
#[derive(Clone, Default)]
pub(super) struct Pace(Rc<Line>);

#[derive(Default)]
struct Line {
    waiting: RefCell<VecDeque<oneshot::Sender<()>>>,
    /// When the turn began in which a long step ran last.
    ran_in: Cell<Option<Instant>>,
    /// A task lets those in line go.
    is_running: Cell<bool>,
}

impl Pace {
    /// Waits for a turn in which nothing long ran, and takes it.
    pub(super) async fn long_step(&self, ring: &Ring) {
        let line = &self.0;
        if line.is_running.get() || line.ran_in.get() == Some(ring.turn_started()) {
            let (sender, receiver) = oneshot::channel();
            line.waiting.borrow_mut().push_back(sender);
            if !line.is_running.replace(true) {
                ring.spawn(let_go(Rc::clone(line), ring.clone()));
            }
            // The task that lets go is there as long as anybody waits, or the core ends.
            let _ = receiver.await;
        }
        line.ran_in.set(Some(ring.turn_started()));
    }
}

/// Lets one go in each turn until nobody waits.
async fn let_go(line: Rc<Line>, ring: Ring) {
    loop {
        while line.ran_in.get() == Some(ring.turn_started()) {
            future::yield_now().await;
        }
        let Some(next) = line.waiting.borrow_mut().pop_front() else {
            line.is_running.set(false);
            return;
        };
        // It may run in a later turn only, which is then its own.
        line.ran_in.set(Some(ring.turn_started()));
        let _ = next.send(());
    }
}
