//! Waiting for each other within one core: a notification for many, and a value for one.
//!
//! Not for other threads: these are `Rc` and cells. Tasks woken by them run within the same turn of the ring.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::slots::{Key, Slots};

/// Wakes everyone who waits. It keeps no memory: who asks after a notification waits for the next.
pub struct Notify {
    generation: Cell<u64>,
    waiters: RefCell<Slots<Waker>>,
}

impl Default for Notify {
    fn default() -> Self {
        Self::new()
    }
}

impl Notify {
    /// Makes one that nobody waits for.
    pub fn new() -> Self {
        Notify { generation: Cell::new(0), waiters: RefCell::new(Slots::new()) }
    }

    /// Wakes all who wait now.
    pub fn notify_all(&self) {
        self.generation.set(self.generation.get().wrapping_add(1));
        let waiters: Vec<Waker> = {
            let mut waiters = self.waiters.borrow_mut();
            let keys = waiters.keys();
            keys.into_iter().filter_map(|key| waiters.remove(key)).collect()
        };
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Waits for the first notification after this call (not after the first poll), so that a condition can be
    /// checked in between without a gap.
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, seen: self.generation.get(), place: None }
    }

    /// Returns how many wait.
    pub fn waiter_count(&self) -> usize {
        self.waiters.borrow().len()
    }
}

/// Ready after the next notification. Leaves nothing behind when it is dropped.
pub struct Notified<'n> {
    notify: &'n Notify,
    seen: u64,
    place: Option<Key>,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.notify.generation.get() != self.seen {
            return Poll::Ready(());
        }
        let notify = self.notify;
        let mut waiters = notify.waiters.borrow_mut();
        match self.place.and_then(|place| waiters.get_mut(place)) {
            Some(waker) => waker.clone_from(context.waker()),
            None => self.place = Some(waiters.insert(context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let waker = self.place.and_then(|place| self.notify.waiters.borrow_mut().remove(place));
        // A waker may hold the last reference to a task: it is dropped with nothing borrowed.
        drop(waker);
    }
}

/// A place for one value that one task waits for.
pub mod oneshot {
    use super::*;

    struct Place<T> {
        value: Option<T>,
        waker: Option<Waker>,
        sender_gone: bool,
        receiver_gone: bool,
    }

    /// Gives the value.
    pub struct Sender<T>(Rc<RefCell<Place<T>>>);

    /// Waits for the value; a future of `Result<T, Gone>`.
    pub struct Receiver<T>(Rc<RefCell<Place<T>>>);

    /// The sender was dropped without giving a value.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Gone;

    /// Makes a connected pair.
    pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let place = Place { value: None, waker: None, sender_gone: false, receiver_gone: false };
        let place = Rc::new(RefCell::new(place));
        (Sender(place.clone()), Receiver(place))
    }

    impl<T> Sender<T> {
        /// Gives the value; returns it if nobody can receive it any more.
        pub fn send(self, value: T) -> Result<(), T> {
            let mut place = self.0.borrow_mut();
            if place.receiver_gone {
                return Err(value);
            }
            place.value = Some(value);
            Ok(())
        }

        /// Whether the receiver was dropped.
        pub fn is_closed(&self) -> bool {
            self.0.borrow().receiver_gone
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            let waker = {
                let mut place = self.0.borrow_mut();
                place.sender_gone = true;
                place.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, Gone>;

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T, Gone>> {
            let mut place = self.0.borrow_mut();
            match place.value.take() {
                Some(value) => Poll::Ready(Ok(value)),
                None if place.sender_gone => Poll::Ready(Err(Gone)),
                None => {
                    let old = place.waker.replace(context.waker().clone());
                    drop(place);
                    drop(old);
                    Poll::Pending
                }
            }
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            let (waker, value) = {
                let mut place = self.0.borrow_mut();
                place.receiver_gone = true;
                (place.waker.take(), place.value.take())
            };
            drop((waker, value));
        }
    }
}
