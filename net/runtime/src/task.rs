//! Tasks: futures on the core's executor whose wakes the ring knows of.
//!
//! The ring sleeps in the kernel, not in the executor, so it must know that a task became runnable. Each task is
//! polled with a waker of ours that sets a flag of the thread before it wakes the executor's task. Whatever the future
//! inside uses to wake itself, the flag is set. Wakers must be woken on the core's own thread; other threads use a
//! mailbox.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use crate::slots::{Key, Slots};

thread_local! {
    /// A task of this thread became runnable since the executor last had its turn.
    static WOKE_ANY: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether a task became runnable, and forgets it.
pub(crate) fn take_woke_any() -> bool {
    WOKE_ANY.replace(false)
}

struct Tracker {
    executor: Waker,
}

impl Wake for Tracker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        WOKE_ANY.set(true);
        self.executor.wake_by_ref();
    }
}

/// Returns whether a task is runnable.
pub(crate) fn woke_any() -> bool {
    WOKE_ANY.get()
}

type Boxed = Pin<Box<dyn Future<Output = ()>>>;

/// The futures of a core's tasks. They live here and not in the executor, so that a core that stops can drop them
/// all while its ring still works.
#[derive(Default)]
pub(crate) struct Tasks {
    /// Empty while the task is polled.
    futures: RefCell<Slots<Option<Boxed>>>,
}

impl Tasks {
    /// Hands a task to the executor of this thread.
    pub(crate) fn spawn(tasks: &Rc<Self>, future: impl Future<Output = ()> + 'static) {
        let key = tasks.futures.borrow_mut().insert(Some(Box::pin(future)));
        WOKE_ANY.set(true);
        glommio::spawn_local(Task { tasks: tasks.clone(), key, waker: None }).detach();
    }

    pub(crate) fn live_count(&self) -> usize {
        self.futures.borrow().len()
    }

    /// Drops all futures, with nothing borrowed while they are dropped.
    pub(crate) fn drop_all(&self) {
        let keys = self.futures.borrow().keys();
        for key in keys {
            let future = self.futures.borrow_mut().remove(key);
            drop(future);
        }
    }
}

/// What the executor polls.
struct Task {
    tasks: Rc<Tasks>,
    key: Key,
    waker: Option<(Arc<Tracker>, Waker)>,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let task = &mut *self;
        if !task.waker.as_ref().is_some_and(|(tracker, _)| tracker.executor.will_wake(context.waker())) {
            let tracker = Arc::new(Tracker { executor: context.waker().clone() });
            task.waker = Some((tracker.clone(), Waker::from(tracker)));
        }
        let (_, waker) = task.waker.as_ref().expect("made above");
        let taken = task.tasks.futures.borrow_mut().get_mut(task.key).and_then(Option::take);
        let Some(mut future) = taken else { return Poll::Ready(()) };
        if future.as_mut().poll(&mut Context::from_waker(waker)).is_pending() {
            if let Some(place) = task.tasks.futures.borrow_mut().get_mut(task.key) {
                *place = Some(future);
            }
            return Poll::Pending;
        }
        drop(future);
        drop(task.tasks.futures.borrow_mut().remove(task.key));
        Poll::Ready(())
    }
}
