//! Waiting on real time, in one place: the drivers stand outside the product and have threads of their own to block.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

/// Blocks the calling thread.
#[expect(clippy::disallowed_methods, reason = "a driver's own thread, never a core of the product")]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Asks `condition` every few milliseconds until it holds; false when `limit` has passed before.
pub(crate) fn until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        pause(Duration::from_millis(20));
    }
}

/// Notes how long this machine lets nobody run: what it adds to every time that is measured meanwhile.
#[derive(Debug)]
pub(crate) struct Canary {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Duration>>,
}

impl Canary {
    /// Begins to watch.
    pub(crate) fn start() -> Self {
        /// Long enough to cost nothing, short beside what matters.
        const NAP: Duration = Duration::from_millis(5);
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = spawn(move || {
            let mut longest = Duration::ZERO;
            while !seen.load(Ordering::Relaxed) {
                let start = Instant::now();
                pause(NAP);
                longest = longest.max(start.elapsed().saturating_sub(NAP));
            }
            longest
        });
        Self { over, thread: Some(thread) }
    }

    /// Returns by how much a pause was too long at worst.
    pub(crate) fn longest(mut self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}
