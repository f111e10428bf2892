//! The turn: submit and sleep, reap, call the handler, let woken tasks run.
//!
//! One turn, in order:
//! 1. The composed sends are queued and everything queued is submitted; the core sleeps in the same call if nothing
//!    is left to do, no mail waits and no task is runnable.
//! 2. Completions are collected. Failed small sends first: every other one is done, and its bytes are free.
//! 3. Other completions in order, new connections behind what those that are here bring, then timers.
//! 4. The handler's `on_turn`; calls that waited until nothing was borrowed; woken tasks run, again while they wake others.
//!
//! Each of these takes a bounded number (`limits.rs`); what is left makes the next turn begin without sleep, so nothing
//! that one peer does keeps a core from looking at the others.
//!
//! A tick is armed only while a timer is due some day, a task is alive, or the core is busy. An idle core sleeps without
//! one. How late a tick is looked at is how long anything waits: the handler is told.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fd, Timespec};
use io_uring::{cqueue, opcode, squeue};

use crate::batch::Wait;
use crate::bind;
use crate::limits::{
    ACCEPT_RETRY, ACCEPTS_PER_TURN, ACCEPTS_WAITING_MAX, COMPLETIONS_PER_TURN, LONG_TURN, PROBE_COMPLETIONS,
    PROBE_INTERVAL, STOP_WAIT, TASKS_PER_TURN, YIELD_COUNT_MAX,
};
use crate::op::{Holder, Kind, parse_user_data, plain, user_data};
use crate::receive::Received;
use crate::ring::{Event, Handler, Inner, State, duration_millis};
use crate::slots::Key;
use crate::socket::{ListenerId, Peer, SocketId};
use crate::task;
use crate::timer::Due;

impl State {
    /// Submits everything queued and waits.
    pub(crate) fn enter(&mut self, wait: Wait) {
        let mut wait = wait;
        loop {
            let submit = self.kernel.queued_count();
            self.stats.enters += 1;
            self.stats.sleeps += u64::from(wait != Wait::Nothing);
            match self.kernel.enter(submit, wait).map_err(|error| error.raw_os_error()) {
                Ok(_) => {}
                // Interrupted, waited long enough, or out of memory for requests: what is not submitted is tried again.
                Err(Some(libc::EINTR | libc::ETIME | libc::EAGAIN)) => {}
                // Completions overflowed: they must be collected first.
                Err(Some(libc::EBUSY)) => self.collect(),
                Err(error) => panic!("io_uring_enter failed with {error:?}: the ring is unusable"),
            }
            if self.kernel.queued_count() == 0 {
                return;
            }
            wait = Wait::Nothing;
        }
    }

    /// Moves completions out of the ring, those that overflowed too.
    fn collect(&mut self) {
        loop {
            let before = self.completions.len();
            self.kernel.collect(&mut self.completions);
            self.stats.completions += (self.completions.len() - before) as u64;
            if !self.kernel.has_overflowed() {
                return;
            }
            if self.kernel.enter(0, Wait::Nothing).is_err() && self.completions.len() == before {
                return;
            }
        }
    }

    /// Arms one timeout for the next due timer or the longest tick, unless an earlier or equal one is armed.
    fn arm_tick(&mut self, now: u64, tick_max: Option<u64>) {
        let next = self.timers.next_millis();
        let tick = tick_max.map(|tick| now + tick);
        let Some(at) = [next, tick].into_iter().flatten().min() else { return };
        if let Some((number, armed)) = self.tick_armed {
            // A later wish is met by a spurious tick, an earlier one needs the armed tick replaced.
            if armed <= at {
                return;
            }
            let remove = opcode::TimeoutRemove::new(tick_data(number)).build();
            self.push(&remove.user_data(plain(Kind::Ignored)).flags(squeue::Flags::SKIP_SUCCESS));
        }
        let number = self.tick_number.wrapping_add(1);
        (self.tick_number, self.tick_armed) = (number, Some((number, at)));
        // The kernel reads the time when the operation is submitted, which is before this box is written again.
        *self.tick_time = Timespec::from(Duration::from_millis(at).saturating_sub(self.epoch.elapsed()));
        let timeout = opcode::Timeout::new(&raw const *self.tick_time).build();
        self.push(&timeout.user_data(tick_data(number)));
    }

    /// Reads the doorbell's eventfd through the ring, so that a post from another thread ends the sleep.
    fn arm_doorbell(&mut self) {
        let Some(doorbell) = &self.doorbell else { return };
        if std::mem::replace(&mut self.doorbell_armed, true) {
            return;
        }
        let fd = Fd(doorbell.descriptor().as_raw_fd());
        let read = opcode::Read::new(fd, (&raw mut *self.doorbell_count).cast(), 8).build();
        self.push(&read.user_data(plain(Kind::Doorbell)));
    }

    /// A completion of an operation of a future.
    fn operated(&mut self, key: Key, result: i32) {
        let Some(operation) = self.operations.get_mut(key) else { return };
        let socket = match operation.holder {
            Holder::Socket(socket) => Some(socket),
            Holder::File { .. } => None,
        };
        operation.result = Some(result);
        self.wakers.extend(operation.waker.take());
        if operation.abandoned {
            let finished = self.operations.remove(key).map(|operation| operation.memory);
            self.dead_memory.extend(finished);
        }
        if let Some(socket) = socket {
            self.finish_one(socket);
        }
    }

    /// A completion of a listener. Returns the accepted connection, which the handler is told of.
    fn accepted(&mut self, key: Key, result: i32, flags: u32) -> Option<(SocketId, Peer)> {
        // SAFETY: a result of accept that is not negative is a fresh descriptor that nothing else owns.
        let descriptor = (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) });
        let listener = self.listeners.get_mut(key)?;
        let stopping = listener.stopping;
        if !cqueue::more(flags) {
            listener.armed = false;
            match -result {
                _ if stopping => drop(self.listeners.remove(key)),
                libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => {
                    let due = self.monotonic_millis() + duration_millis(ACCEPT_RETRY);
                    self.timers.arm(due, Due::Accept(key));
                }
                _ => self.arm_accept(key),
            }
        }
        self.stats.accept_errors += u64::from(result < 0 && !stopping);
        let descriptor = descriptor.filter(|_| !stopping)?;
        // A peer that is gone before it is looked at has no address.
        let peer = bind::peer(&descriptor)?;
        self.stats.accepts += 1;
        Some((SocketId(self.add_socket(descriptor, peer)), peer))
    }
}

/// Each tick has a number, so that the completion of a replaced one is told from the current one's.
fn tick_data(number: u32) -> u64 {
    user_data(Kind::Tick, Key { slot: number, generation: 0 })
}

/// Whether the core must look again at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum More {
    Work,
    Nothing,
}

struct Turn<H> {
    inner: Rc<Inner>,
    handler: Rc<H>,
    /// Collected and not looked at, but for those of listeners.
    completions: VecDeque<cqueue::Entry>,
    /// Those of listeners.
    accepts: VecDeque<cqueue::Entry>,
    due: Vec<Due>,
    tick_max: u64,
    /// When this turn looked at what happened.
    looked_at: Instant,
    /// Completions since the last tick.
    since_tick: usize,
}

/// Runs turns until [`crate::Ring::stop`].
pub(crate) async fn run<H: Handler>(inner: Rc<Inner>, handler: Rc<H>, tick_max: Duration) {
    let tick_max = duration_millis(tick_max).max(1);
    let mut turn = Turn::new(inner, handler, tick_max);
    let mut more = More::Work;
    let _leak = LeakOnPanic(turn.inner.clone());
    while !turn.inner.stopping.get() {
        turn.submit_and_wait(more);
        turn.look(more);
        turn.reap();
        turn.fire_timers();
        let on_turn = turn.handler.on_turn();
        let tasks = turn.run_tasks().await;
        more = if on_turn || tasks == More::Work || turn.has_left() { More::Work } else { More::Nothing };
        if more == More::Nothing {
            turn.count(turn.looked_at.elapsed());
        }
    }
    turn.shut_down().await;
}

/// Keeps what the kernel may still touch when a panic unwinds this thread (in tests; the product aborts).
struct LeakOnPanic(Rc<Inner>);

impl Drop for LeakOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::mem::forget(self.0.clone());
        }
    }
}

impl<H: Handler> Turn<H> {
    fn new(inner: Rc<Inner>, handler: Rc<H>, tick_max: u64) -> Self {
        Turn {
            inner,
            handler,
            completions: VecDeque::new(),
            accepts: VecDeque::new(),
            due: Vec::new(),
            tick_max,
            looked_at: Instant::now(),
            since_tick: 0,
        }
    }

    /// Reads the clock. A turn that went on without sleep ends here, with what the kernel did for it.
    fn look(&mut self, more: More) {
        let now = Instant::now();
        if more == More::Work {
            self.count(now - self.looked_at);
        }
        self.looked_at = now;
        self.inner.set_clock(now);
    }

    /// Whether completions wait for the next turn.
    fn has_left(&self) -> bool {
        !self.completions.is_empty() || !self.accepts.is_empty()
    }

    fn submit_and_wait(&mut self, more: More) {
        let mut state = self.inner.state.borrow_mut();
        state.buffers.publish();
        let awaited = state.push_turn_sends();
        let mut sleeps = more == More::Nothing && !awaited;
        let is_busy = self.since_tick >= PROBE_COMPLETIONS;
        if is_busy {
            state.arm_tick(self.inner.turn_millis.get(), Some(duration_millis(PROBE_INTERVAL)));
        }
        if sleeps {
            state.arm_doorbell();
            if !is_busy {
                let tick_max = (self.inner.tasks.live_count() > 0).then_some(self.tick_max);
                state.arm_tick(self.inner.turn_millis.get(), tick_max);
            }
            if let Some(doorbell) = &state.doorbell {
                doorbell.fall_asleep();
            }
            drop(state);
            if self.handler.has_mail() {
                sleeps = false;
            }
            state = self.inner.state.borrow_mut();
        }
        let wait = match (sleeps, self.inner.nap.take()) {
            (false, _) => Wait::Nothing,
            (true, Some(limit)) => Wait::OneWithin(limit),
            (true, None) if state.batch.count() > 1 => Wait::Several(state.batch.count()),
            (true, None) => Wait::One,
        };
        state.enter(wait);
        if let Some(doorbell) = &state.doorbell {
            doorbell.wake_up();
        }
    }

    fn reap(&mut self) {
        {
            let mut state = self.inner.state.borrow_mut();
            state.batch.look(self.looked_at);
            state.collect();
            let mut completions = std::mem::take(&mut state.completions);
            self.since_tick += completions.len();
            for completion in completions.drain(..) {
                let (kind, key) = parse_user_data(completion.user_data());
                match kind {
                    Kind::SendTurn => state.turn_send_failed(key, completion.result()),
                    Kind::Accept => self.accepts.push_back(completion),
                    _ => self.completions.push_back(completion),
                }
            }
            state.completions = completions;
            state.finish_turn_sends();
        }
        self.inner.settle();
        for _ in 0..COMPLETIONS_PER_TURN {
            let Some(completion) = self.completions.pop_front() else { break };
            self.complete(&completion);
        }
        let accepts = ACCEPTS_PER_TURN.max(self.accepts.len().saturating_sub(ACCEPTS_WAITING_MAX));
        for _ in 0..accepts {
            let Some(completion) = self.accepts.pop_front() else { break };
            self.complete(&completion);
        }
        self.inner.settle();
    }

    fn complete(&mut self, completion: &cqueue::Entry) {
        let (kind, key) = parse_user_data(completion.user_data());
        let (result, flags) = (completion.result(), completion.flags());
        match kind {
            Kind::Receive => self.received(key, result, flags),
            Kind::Accept => {
                let accepted = self.inner.state.borrow_mut().accepted(key, result, flags);
                if let Some((socket, peer)) = accepted {
                    self.handler.on_accept(ListenerId(key), socket, peer);
                }
            }
            Kind::SendOwned | Kind::SendGather => self.inner.state.borrow_mut().sent(key, result),
            Kind::Operation => self.inner.state.borrow_mut().operated(key, result),
            Kind::Tick => {
                let mut state = self.inner.state.borrow_mut();
                if let Some((_, at)) = state.tick_armed.take_if(|(number, _)| *number == key.slot) {
                    state.stats.ticks += 1;
                    drop(state);
                    self.since_tick = 0;
                    self.handler.on_late(self.inner.turn_millis.get().saturating_sub(at));
                }
            }
            Kind::Doorbell => {
                let mut state = self.inner.state.borrow_mut();
                state.doorbell_armed = false;
                state.stats.doorbells += 1;
            }
            Kind::SendTurn | Kind::Ignored => {}
        }
    }

    fn received(&mut self, key: Key, result: i32, flags: u32) {
        let received = self.inner.state.borrow_mut().received(key, result, flags);
        match received {
            Received::Bytes { buffer, start, len } => {
                // SAFETY: `start` is a receive buffer that the kernel filled with `len` bytes and gave up with this
                // completion. It is given back below, after the handler's call; nothing else touches it.
                // Test: `every_buffer_has_one_holder`.
                let bytes = unsafe { std::slice::from_raw_parts(start, len) };
                self.handler.on_receive(SocketId(key), bytes);
                self.inner.state.borrow_mut().buffers.give(buffer);
            }
            Received::End(end) => self.handler.on_receive_end(SocketId(key), end),
            Received::Nothing => {}
        }
        if !cqueue::more(flags) {
            self.inner.state.borrow_mut().arm_receive(key);
        }
    }

    fn fire_timers(&mut self) {
        self.inner.state.borrow_mut().timers.advance(self.inner.turn_millis.get(), &mut self.due);
        for due in self.due.drain(..) {
            match due {
                Due::Token(token) => self.handler.on_timer(token),
                Due::Wake(waker) => waker.into_iter().for_each(Waker::wake),
                Due::Linger(key) => self.inner.state.borrow_mut().check_linger(key),
                Due::Accept(key) => self.inner.state.borrow_mut().arm_accept(key),
            }
        }
    }

    /// Makes the calls that waited until nothing was borrowed; what these bring about waits for the next time.
    fn call_waiting(&mut self) -> More {
        let count = self.inner.state.borrow().events.len();
        for _ in 0..count {
            let event = self.inner.state.borrow_mut().events.pop_front();
            if let Some(Event::Sent(socket, result)) = event
                && self.inner.state.borrow_mut().open_socket(socket.0).is_some()
            {
                self.handler.on_sent(socket, result);
            }
        }
        if self.inner.state.borrow().events.is_empty() { More::Nothing } else { More::Work }
    }

    /// Makes waiting calls and gives the tasks that were woken first their turn, until neither brings about more or the turn
    /// is long enough.
    async fn run_tasks(&mut self) -> More {
        let mut left = TASKS_PER_TURN;
        for _ in 0..YIELD_COUNT_MAX {
            let calls = self.call_waiting();
            self.inner.settle();
            if left == 0 {
                break;
            }
            let count = task::release(left);
            if count == 0 {
                return calls;
            }
            left -= count;
            self.inner.state.borrow_mut().stats.yielded(count as u64);
            glommio::executor().yield_now().await;
        }
        // What is left is looked at by the next turn, which does not sleep before it.
        self.inner.settle();
        let calls = !self.inner.state.borrow().events.is_empty();
        if calls || task::first_waits().is_some() { More::Work } else { More::Nothing }
    }

    fn count(&self, length: Duration) {
        let micros = length.as_micros() as u64;
        {
            let stats = &mut self.inner.state.borrow_mut().stats;
            stats.turns += 1;
            stats.long_turns += u64::from(length > LONG_TURN);
            stats.turn_micros_max = stats.turn_micros_max.max(micros);
        }
        self.handler.on_turn_end(micros);
    }

    /// Ends everything: tasks see their operations cancelled and then are dropped, sockets are closed, and the
    /// memory of what the kernel does not give up in time is leaked.
    async fn shut_down(&mut self) {
        {
            let mut state = self.inner.state.borrow_mut();
            for key in state.sockets.keys() {
                state.end_socket(key);
            }
            for key in state.listeners.keys() {
                state.stop_listener(key);
            }
        }
        let started = Instant::now();
        loop {
            self.inner.settle();
            for _ in 0..YIELD_COUNT_MAX {
                task::release(usize::MAX);
                glommio::executor().yield_now().await;
            }
            self.inner.tasks.drop_all();
            self.inner.settle();
            let mut state = self.inner.state.borrow_mut();
            state.push_turn_sends();
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::any().all()).build();
            state.push(&cancel.user_data(plain(Kind::Ignored)));
            state.enter(Wait::One);
            drop(state);
            self.reap_last();
            if self.inner.state.borrow().is_quiet() {
                return;
            }
            if started.elapsed() > STOP_WAIT {
                // The ring and what it names stay alive for good: freeing it would hand the kernel stale addresses.
                std::mem::forget(self.inner.clone());
                return;
            }
        }
    }

    /// Reaps without telling the handler anything.
    fn reap_last(&mut self) {
        let mut state = self.inner.state.borrow_mut();
        state.collect();
        let collected = std::mem::take(&mut state.completions);
        // Failed sends of those that waited were dealt with when they were collected.
        let waiting = self.completions.drain(..).chain(self.accepts.drain(..));
        for completion in waiting.chain(collected) {
            let (kind, key) = parse_user_data(completion.user_data());
            let (result, flags) = (completion.result(), completion.flags());
            match kind {
                Kind::Receive => {
                    if let Received::Bytes { buffer, .. } = state.received(key, result, flags) {
                        state.buffers.give(buffer);
                    }
                }
                Kind::Accept => drop(state.accepted(key, result, flags)),
                Kind::SendTurn => state.turn_send_failed(key, result),
                Kind::SendOwned | Kind::SendGather => state.sent(key, result),
                Kind::Operation => state.operated(key, result),
                Kind::Tick => state.tick_armed = None,
                Kind::Doorbell => state.doorbell_armed = false,
                Kind::Ignored => {}
            }
        }
        state.finish_turn_sends();
        // Accepted just before the listener ended.
        for key in state.sockets.keys() {
            state.end_socket(key);
        }
    }
}

#[cfg(test)]
mod tests;
