//! Tasks: futures on the core's executor whose wakes the ring knows of.
//!
//! The ring sleeps in the kernel, not in the executor, so it must know that a task became runnable. Each task is
//! polled with a waker of ours that puts it into a line of the thread; the turn hands the front of the line to the executor,
//! so that a crowd that is woken at once runs in portions, in the order in which it was woken. Wakers must be woken on the
//! core's own thread; other threads use a mailbox.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::slots::{Key, Slots};

thread_local! {
    /// The tasks of this thread that became runnable, and when.
    static LINE: RefCell<VecDeque<(u64, Runnable)>> = const { RefCell::new(VecDeque::new()) };
    /// Milliseconds as of the beginning of this turn.
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// A task that the executor does not know to be runnable.
enum Runnable {
    /// It has not run yet.
    New(Rc<Tasks>, Key),
    Woken(Arc<Tracker>),
}

/// Notes the time of this turn.
pub(crate) fn set_now(millis: u64) {
    NOW.set(millis);
}

fn line_up(runnable: Runnable) {
    LINE.with_borrow_mut(|line| line.push_back((NOW.get(), runnable)));
}

/// Hands the first tasks of the line to the executor; returns how many.
pub(crate) fn release(count_max: usize) -> usize {
    for count in 0..count_max {
        // Taken out first: what a task brings about may be that another one is woken.
        let Some((_, runnable)) = LINE.with_borrow_mut(VecDeque::pop_front) else { return count };
        match runnable {
            Runnable::New(tasks, key) => {
                glommio::spawn_local(Task { tasks, key, waker: None }).detach();
            }
            Runnable::Woken(tracker) => {
                tracker.is_in_line.store(false, Ordering::Relaxed);
                tracker.executor.wake_by_ref();
            }
        }
    }
    count_max
}

/// Returns how long the first task of the line has waited, in milliseconds; `None` if no task is runnable.
pub(crate) fn first_waits() -> Option<u64> {
    LINE.with_borrow(|line| line.front().map(|(since, _)| NOW.get().saturating_sub(*since)))
}

struct Tracker {
    executor: Waker,
    /// Atomic because a waker must be good for any thread, although this one is used on its own only.
    is_in_line: AtomicBool,
}

impl Wake for Tracker {
    fn wake(self: Arc<Self>) {
        if !self.is_in_line.swap(true, Ordering::Relaxed) {
            line_up(Runnable::Woken(self));
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_in_line.swap(true, Ordering::Relaxed) {
            line_up(Runnable::Woken(Arc::clone(self)));
        }
    }
}

type Boxed = Pin<Box<dyn Future<Output = ()>>>;

/// The futures of a core's tasks. They live here and not in the executor, so that a core that stops can drop them
/// all while its ring still works.
#[derive(Default)]
pub(crate) struct Tasks {
    /// Empty while the task is polled.
    futures: RefCell<Slots<Option<Boxed>>>,
    /// Bytes of the futures that live.
    heap: Cell<u64>,
}

/// What the executor and the line keep for each task: its record, its wakers, its place.
const TASK_COST: u64 = 320;

impl Tasks {
    /// Puts a task into the line of this thread.
    pub(crate) fn spawn(tasks: &Rc<Self>, future: impl Future<Output = ()> + 'static) {
        let boxed: Boxed = Box::pin(future);
        tasks.heap.set(tasks.heap.get() + size_of_val(&*boxed) as u64 + TASK_COST);
        let key = tasks.futures.borrow_mut().insert(Some(boxed));
        line_up(Runnable::New(tasks.clone(), key));
    }

    pub(crate) fn live_count(&self) -> usize {
        self.futures.borrow().len()
    }

    /// Returns the bytes of the live tasks.
    pub(crate) fn heap_len(&self) -> u64 {
        self.heap.get()
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
            let tracker =
                Arc::new(Tracker { executor: context.waker().clone(), is_in_line: AtomicBool::new(false) });
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
        let ended = size_of_val(&*future) as u64 + TASK_COST;
        task.tasks.heap.set(task.tasks.heap.get() - ended);
        drop(future);
        drop(task.tasks.futures.borrow_mut().remove(task.key));
        Poll::Ready(())
    }
}
