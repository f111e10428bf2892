//! Sleeping and giving up: futures over the timer wheel.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::ring::{Inner, duration_millis};
use crate::slots::Key;
use crate::timer::Due;

/// The time was up before the future was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed;

impl std::fmt::Display for Elapsed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the time was up")
    }
}

impl std::error::Error for Elapsed {}

/// Ready once its time has passed. Its timer is taken out of the wheel when it is dropped.
pub struct Sleep {
    inner: Rc<Inner>,
    timer: Key,
}

impl Sleep {
    pub(crate) fn new(inner: Rc<Inner>, duration: Duration) -> Self {
        let timer = {
            let mut state = inner.state.borrow_mut();
            let due = state.monotonic_millis() + duration_millis(duration);
            // One more millisecond: the clock is read in whole ones, and a sleep is never short.
            state.timers.arm(due + 1, Due::Wake(None))
        };
        Sleep { inner, timer }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match self.inner.state.borrow_mut().timers.set_waker(self.timer, context.waker()) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let due = self.inner.state.borrow_mut().timers.cancel(self.timer);
        // A waker may hold the last reference to a task: it is dropped with nothing borrowed.
        drop(due);
    }
}

/// A future and the time it has.
pub(crate) struct Timeout<F> {
    sleep: Sleep,
    future: Option<Pin<Box<F>>>,
}

impl<F> Timeout<F> {
    pub(crate) fn new(sleep: Sleep, future: F) -> Self {
        Timeout { sleep, future: Some(Box::pin(future)) }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let timeout = &mut *self;
        if let Some(future) = &mut timeout.future
            && let Poll::Ready(output) = future.as_mut().poll(context)
        {
            return Poll::Ready(Ok(output));
        }
        match Pin::new(&mut timeout.sleep).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                timeout.future = None;
                Poll::Ready(Err(Elapsed))
            }
        }
    }
}
