//! Waiting on real time, in one place: the drivers stand outside the product and have threads of their own to block.

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
