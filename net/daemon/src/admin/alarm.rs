//! One timer for all that a connection waits for.
//!
//! Arming a timer of the runtime for each request, and taking it off again, costs more than most requests do. Here it stays armed for a moment that
//! has passed meanwhile, goes off once in so many seconds, and is set anew if there is still time.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The timer.
#[derive(Debug)]
pub(crate) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// A timer that nobody waits for yet.
    pub(crate) fn new() -> Self {
        Alarm(Box::pin(sleep_until(Instant::now())))
    }

    /// Waits for `work`; `None` if it takes longer than `limit`.
    pub(crate) async fn within<T>(&mut self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        self.until(Instant::now() + limit, work).await
    }

    /// Waits for `work`; `None` if it is not done at `end`.
    pub(crate) async fn until<T>(&mut self, end: Instant, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|context| {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Some(done));
            }
            // Later than it should be: after a longer wait than this one.
            if self.0.deadline() > end {
                self.0.as_mut().reset(end);
            }
            while self.0.as_mut().poll(context).is_ready() {
                if Instant::now() >= end {
                    return Poll::Ready(None);
                }
                self.0.as_mut().reset(end);
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn each_wait_has_its_own_end() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let mut alarm = Alarm::new();
            let began = Instant::now();
            assert_eq!(alarm.within(LONG, async { 1 }).await, Some(1));
            assert_eq!(alarm.within(SHORT, pending::<()>()).await, None);
            assert!(began.elapsed() >= SHORT, "a timer of before is no end");
            // Set for long by this one, which is over before.
            assert_eq!(alarm.within(LONG, tokio::time::sleep(SHORT)).await, Some(()));
            assert_eq!(alarm.within(SHORT, pending::<()>()).await, None);
            assert!(began.elapsed() < LONG);
        });
    }
}
