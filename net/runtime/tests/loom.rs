//! The mailbox's promise that no post is slept over, under a model checker: every order of the two sides' steps, and every value that the
//! memory model lets a load see. `RUSTFLAGS="--cfg loom" cargo test -p aspis-runtime --test loom` runs it; a normal build has nothing of it.
//!
//! The flag is the real one. The queue and the eventfd, which the checker does not know, are stood for by a count and a condition.
#![cfg(loom)]

#[path = "../src/atomics.rs"]
mod atomics;
#[path = "../src/mailbox/sleep.rs"]
mod sleep;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use sleep::Sleep;

/// A core as far as its sleep goes.
struct Core {
    /// Messages in the queue. Relaxed: the protocol promises the wake-up, whatever the queue orders.
    mail: AtomicUsize,
    sleep: Sleep,
    /// The eventfd's count, and all that was ever written to it.
    rung: Mutex<(usize, usize)>,
    bell: Condvar,
}

impl Core {
    fn new() -> Arc<Core> {
        Arc::new(Core {
            mail: AtomicUsize::new(0),
            sleep: Sleep::new(),
            rung: Mutex::new((0, 0)),
            bell: Condvar::new(),
        })
    }

    fn post(&self) {
        self.mail.fetch_add(1, Ordering::Relaxed);
        if self.sleep.must_ring() {
            let mut rung = self.rung.lock().unwrap();
            *rung = (rung.0 + 1, rung.1 + 1);
            self.bell.notify_one();
        }
    }

    /// Turns until `message_count` messages were taken, and returns how often the core meant to sleep. A core that sleeps over a
    /// message waits for ever, which the checker finds.
    fn turn_until(&self, message_count: usize) -> usize {
        let (mut taken, mut sleeps) = (0, 0);
        loop {
            taken += self.mail.swap(0, Ordering::Relaxed);
            if taken == message_count {
                return sleeps;
            }
            self.sleep.fall_asleep();
            sleeps += 1;
            if self.mail.load(Ordering::Relaxed) == 0 {
                let mut rung = self.rung.lock().unwrap();
                while rung.0 == 0 {
                    rung = self.bell.wait(rung).unwrap();
                }
                rung.0 = 0;
            }
            self.sleep.wake_up();
        }
    }
}

/// Tries every order with at most `preemptions` switches that no thread asked for, of senders that post so often each.
fn check(preemptions: usize, posts: &'static [usize]) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(move || {
        let core = Core::new();
        let start = |count: &usize| {
            let (core, count) = (core.clone(), *count);
            loom::thread::spawn(move || (0..count).for_each(|_| core.post()))
        };
        let senders: Vec<_> = posts.iter().map(start).collect();
        let sleeps = core.turn_until(posts.iter().sum());
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(core.rung.lock().unwrap().1 <= sleeps, "the bell rings once for a sleep at most");
    });
}

#[test]
fn one_senders_posts_are_not_slept_over() {
    check(4, &[2]);
}

#[test]
fn two_senders_posts_are_not_slept_over() {
    check(3, &[1, 1]);
}
