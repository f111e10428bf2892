//! The handle through which a core's code uses its ring, and the state behind it.
//!
//! [`Ring`] is what handlers and tasks hold: each call borrows the state for its own duration and queues operations;
//! nothing is submitted before the turn's end (`turn.rs`). Code of others (handlers, wakers, dropped sources) never
//! runs while the state is borrowed, with two exceptions that say so: `fill` and `Source::piece`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::ops::{Range, RangeBounds};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use io_uring::types::Timespec;
use io_uring::{cqueue, opcode, squeue};

use crate::batch::{Batch, Wait};
use crate::bind;
use crate::buffers::{BUFFER_GROUP, ReceiveBuffers, TurnBuffer};
use crate::executor::CoreOptions;
use crate::future_timer::{Elapsed, Sleep, Timeout};
use crate::kernel::Kernel;
use crate::mailbox::Doorbell;
use crate::op::{Holder, Kind, Memory, Operation, OperationFuture, user_data};
use crate::send::{Owned, Pending, Source, SourceSend};
use crate::slots::{Key, Slots};
use crate::socket::{Close, Listener, ListenerId, Peer, Quiet, ReceiveEnd, Socket, SocketId};
use crate::stats::{RingHeap, RingStats};
use crate::task::{self, Tasks};
use crate::timer::{Due, Wheel};
use crate::weight::Meter;

/// What a socket keeps beside its place in the table once it has queued something: room for four sends.
const SOCKET_COST: u64 = 4 * size_of::<Pending>() as u64;

/// What a core does with its sockets' events.
///
/// Called by the ring's task and never re-entered; it takes `&self` and keeps its state in cells. No call may block. What a handler does not
/// have a use for, a core without sockets say, does nothing.
pub trait Handler: 'static {
    /// A connection was accepted. Nothing is received from it before [`Ring::receive`].
    fn on_accept(&self, _listener: ListenerId, _socket: SocketId, _peer: Peer) {}
    /// Bytes came by the multishot receive. They are valid during the call only.
    fn on_receive(&self, _socket: SocketId, _bytes: &[u8]) {}
    /// No more bytes will come by the multishot receive.
    fn on_receive_end(&self, _socket: SocketId, _end: ReceiveEnd) {}
    /// After [`Ring::notify_sent`]: the send queue became empty, or sending failed with an errno.
    fn on_sent(&self, _socket: SocketId, _result: Result<(), i32>) {}
    /// A timer of [`Ring::arm_timer`] is due.
    fn on_timer(&self, _token: u64) {}
    /// Called each turn before the submission: drains mail and does a bounded slice of background work. True means
    /// that there is more to do and the core must not sleep.
    fn on_turn(&self) -> bool {
        false
    }
    /// A turn was that long, in microseconds: from one look at what happened to the next, or to its end where the core may have slept.
    fn on_turn_end(&self, _micros: u64) {}
    /// A timer came that late, in milliseconds: so long waits whatever happens until this core looks at it. Called every
    /// [`crate::limits::PROBE_INTERVAL`] or so while the core is busy.
    fn on_late(&self, _millis: u64) {}
    /// Whether mail waits, or anything else that must not be slept over. Asked after the asleep flag was raised, so that no post is.
    /// A core with a mailbox answers for it.
    fn has_mail(&self) -> bool {
        false
    }
}

/// Handler calls that wait until nothing is borrowed.
pub(crate) enum Event {
    Sent(SocketId, Result<(), i32>),
}

/// Everything of one core's ring. Field order matters: the ring is dropped before the memory that it names.
pub(crate) struct State {
    pub(crate) kernel: Kernel,
    pub(crate) sockets: Slots<Socket>,
    pub(crate) listeners: Slots<Listener>,
    pub(crate) operations: Slots<Operation>,
    pub(crate) timers: Wheel,
    pub(crate) turn: TurnBuffer,
    pub(crate) turn_sends: Vec<Key>,
    /// Sockets with a send in flight that the kernel does not have yet: it goes behind the composed ones.
    pub(crate) later_sends: Vec<Key>,
    /// What the sends weigh that are not composed in the turn buffer.
    pub(crate) sends: Meter,
    pub(crate) buffers: ReceiveBuffers,
    pub(crate) events: VecDeque<Event>,
    /// Tasks to wake when nothing is borrowed.
    pub(crate) wakers: Vec<Waker>,
    /// Sends to drop when nothing is borrowed.
    pub(crate) dead_sends: Vec<Pending>,
    /// Memory of abandoned operations, to drop when nothing is borrowed.
    pub(crate) dead_memory: Vec<Memory>,
    pub(crate) doorbell: Option<Doorbell>,
    /// The kernel writes the eventfd's count here; boxed because its address is in flight.
    pub(crate) doorbell_count: Box<u64>,
    pub(crate) doorbell_armed: bool,
    /// The kernel reads the tick's time here.
    pub(crate) tick_time: Box<Timespec>,
    /// Number of the last tick, and number and time in milliseconds of the armed one.
    pub(crate) tick_number: u32,
    pub(crate) tick_armed: Option<(u32, u64)>,
    /// Collected and not yet looked at.
    pub(crate) completions: Vec<cqueue::Entry>,
    pub(crate) epoch: Instant,
    /// How many completions to wait for.
    pub(crate) batch: Batch,
    pub(crate) stats: RingStats,
}

/// State and the cells that are read while it is borrowed.
pub(crate) struct Inner {
    pub(crate) state: RefCell<State>,
    pub(crate) tasks: Rc<Tasks>,
    pub(crate) stopping: Cell<bool>,
    epoch: Instant,
    pub(crate) turn_millis: Cell<u64>,
    turn_started: Cell<Instant>,
    /// The longest that the core sleeps after this turn.
    pub(crate) nap: Cell<Option<Duration>>,
    wall_read_at: Cell<u64>,
    wall: Cell<u64>,
}

impl State {
    pub(crate) fn new(options: &CoreOptions, doorbell: Option<Doorbell>) -> io::Result<Self> {
        let mut kernel = Kernel::new(options.ring_entries)?;
        let count = options.receive_buffer_count.next_power_of_two();
        let mut buffers = ReceiveBuffers::new(count, options.receive_buffer_len)?;
        buffers.register(|address, count| {
            // SAFETY: as `register` says; `State` drops `kernel` before `buffers`.
            unsafe { kernel.register_buffers(address, count, BUFFER_GROUP) }
        })?;
        Ok(State {
            kernel,
            sockets: Slots::new(),
            listeners: Slots::new(),
            operations: Slots::new(),
            timers: Wheel::new(0),
            turn: TurnBuffer::new(),
            turn_sends: Vec::new(),
            later_sends: Vec::new(),
            sends: Meter::default(),
            buffers,
            events: VecDeque::new(),
            wakers: Vec::new(),
            dead_sends: Vec::new(),
            dead_memory: Vec::new(),
            doorbell,
            doorbell_count: Box::new(0),
            doorbell_armed: false,
            tick_time: Box::new(Timespec::new()),
            tick_number: 0,
            tick_armed: None,
            completions: Vec::new(),
            epoch: Instant::now(),
            batch: Batch::new(Instant::now()),
            stats: RingStats::default(),
        })
    }

    pub(crate) fn monotonic_millis(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Whether nothing is in flight that names our memory or descriptors.
    pub(crate) fn is_quiet(&self) -> bool {
        let done = |key: &Key| self.operations.get(*key).is_some_and(|operation| operation.result.is_some());
        self.sockets.len() == 0
            && self.listeners.len() == 0
            && !self.doorbell_armed
            && self.operations.keys().iter().all(done)
    }

    /// Queues an operation; submits what is queued first if there is no room.
    pub(crate) fn push(&mut self, entry: &squeue::Entry) {
        loop {
            // JUSTIFICATION: the queue's entries carry raw addresses, so pushing is unsafe by interface.
            // SAFETY: each caller stores what the entry names where only the entry's completion frees it: the
            // socket's `InFlight`, an `Operation`, the turn buffer, or a box of this state.
            // Tests: `abandoned_receive_keeps_its_buffer`, `abandoned_read_keeps_its_buffer_and_descriptor`,
            // `bodies_to_a_stalled_reader_arrive_whole_and_in_order`,
            // `the_kernel_keeps_what_it_was_lent_until_its_completion`.
            if unsafe { self.kernel.push(entry) } {
                return;
            }
            self.enter(Wait::Nothing);
        }
    }
}

impl Inner {
    pub(crate) fn new(state: State) -> Rc<Self> {
        let epoch = state.epoch;
        Rc::new(Inner {
            state: RefCell::new(state),
            tasks: Rc::default(),
            stopping: Cell::new(false),
            epoch,
            turn_millis: Cell::new(0),
            turn_started: Cell::new(epoch),
            nap: Cell::new(None),
            wall_read_at: Cell::new(u64::MAX),
            wall: Cell::new(0),
        })
    }

    pub(crate) fn set_clock(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.epoch).as_millis() as u64;
        self.turn_millis.set(millis);
        self.turn_started.set(now);
        task::set_now(millis);
    }

    /// Wakes tasks and drops foreign memory that waited until nothing was borrowed.
    pub(crate) fn settle(&self) {
        loop {
            let (wakers, sends, memory) = {
                let mut state = self.state.borrow_mut();
                if state.wakers.is_empty() && state.dead_sends.is_empty() && state.dead_memory.is_empty() {
                    return;
                }
                let sends = std::mem::take(&mut state.dead_sends);
                (std::mem::take(&mut state.wakers), sends, std::mem::take(&mut state.dead_memory))
            };
            drop((sends, memory));
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// A future dropped its operation: cancels it and leaves its memory to the slot until the completion.
    pub(crate) fn abandon(&self, key: Key) {
        let mut state = self.state.borrow_mut();
        let Some(operation) = state.operations.get_mut(key) else { return };
        operation.waker = None;
        if operation.result.is_some() {
            let finished = state.operations.remove(key).map(|operation| operation.memory);
            state.dead_memory.extend(finished);
            return;
        }
        operation.abandoned = true;
        state.cancel(user_data(Kind::Operation, key));
    }
}

/// One core's sockets, timers and tasks. A cheap handle that stays on its core's thread.
#[derive(Clone)]
pub struct Ring {
    pub(crate) inner: Rc<Inner>,
}

impl Ring {
    /// Accepts connections on a listening socket until [`Ring::stop_listening`].
    pub fn listen(&self, descriptor: OwnedFd) -> ListenerId {
        bind::prepare_listener(&descriptor);
        ListenerId(self.inner.state.borrow_mut().add_listener(descriptor))
    }

    /// Stops accepting and closes the listening socket. Accepted connections live on.
    pub fn stop_listening(&self, listener: ListenerId) {
        self.inner.state.borrow_mut().stop_listener(listener.0);
    }

    /// Takes a connected stream socket into the ring.
    pub fn adopt(&self, descriptor: OwnedFd, peer: Peer) -> SocketId {
        bind::set_blocking(&descriptor);
        SocketId(self.inner.state.borrow_mut().add_socket(descriptor, peer))
    }

    /// Takes an open socket out of the ring, so that another core can adopt it; the id is dead afterwards. `None`, and
    /// nothing changes, if something is in flight, queued or wanted on the socket, or if an end or a failure was seen
    /// that only this ring knows of. A socket that was just accepted or adopted can always be released.
    pub fn release(&self, socket: SocketId) -> Option<OwnedFd> {
        self.inner.state.borrow_mut().release_socket(socket.0)
    }

    /// Receives into the ring's buffers and tells the handler, until [`Ring::pause_receive`] or the end.
    pub fn receive(&self, socket: SocketId) {
        let mut state = self.inner.state.borrow_mut();
        if state.open_socket(socket.0).is_some() {
            state.want_receive(socket.0);
        }
    }

    /// Receives one piece into a buffer of the ring, and then no more: for a socket from which so much comes that the multishot receive would
    /// fill buffer after buffer, while all others wait.
    pub fn receive_once(&self, socket: SocketId) {
        let mut state = self.inner.state.borrow_mut();
        if state.open_socket(socket.0).is_some() {
            state.want_receive_once(socket.0);
        }
    }

    /// Stops receiving. Bytes that the kernel has handed over already are still shown to the handler: at most what
    /// fits the ring's receive buffers.
    pub fn pause_receive(&self, socket: SocketId) {
        let mut state = self.inner.state.borrow_mut();
        if state.open_socket(socket.0).is_some() {
            state.unwant_receive(socket.0);
        }
    }

    /// Composes up to `len_max` bytes in place and sends them behind everything queued on the socket. `fill` returns
    /// how many it wrote and must not call the ring's socket functions. False if the socket is closed or its sends
    /// failed. Calls for one socket that follow each other directly become one send.
    pub fn send_with(&self, socket: SocketId, len_max: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> bool {
        self.inner.state.borrow_mut().send_with(socket.0, len_max, fill)
    }

    /// Sends bytes behind everything queued on the socket. False if the socket is closed or its sends failed.
    pub fn send_owned(&self, socket: SocketId, bytes: Vec<u8>) -> bool {
        let mut state = self.inner.state.borrow_mut();
        let owned = Owned::new(bytes, &state.sends);
        state.send_pending(socket.0, Pending::Owned(owned))
    }

    /// Sends `head` and then `range` of `source` from where it lies, behind everything queued on the socket. False if
    /// the socket is closed or its sends failed. A source that ends before `range` does fails the socket's sends.
    pub fn send_source(
        &self,
        socket: SocketId,
        head: &[u8],
        source: Rc<dyn Source>,
        range: Range<u64>,
    ) -> bool {
        let mut state = self.inner.state.borrow_mut();
        let send = Pending::Source(SourceSend::new(head, source, range, &state.sends));
        state.send_pending(socket.0, send)
    }

    /// Returns the bytes that are queued or in flight on the socket.
    pub fn queued_len(&self, socket: SocketId) -> u64 {
        self.inner.state.borrow().sockets.get(socket.0).map_or(0, |socket| socket.queued_len)
    }

    /// Returns how many bytes the peer has acknowledged; 0 where the kernel does not tell. A system call, for telling a
    /// slow reader from a stuck one: the queue alone shrinks only when a whole send has found room in the kernel.
    pub fn acknowledged_len(&self, socket: SocketId) -> u64 {
        let mut state = self.inner.state.borrow_mut();
        state.open_socket(socket.0).map_or(0, |socket| bind::acknowledged(&socket.descriptor))
    }

    /// Asks for one `on_sent` when the send queue is empty (in this turn if it is now) or sending fails.
    pub fn notify_sent(&self, socket: SocketId) {
        self.inner.state.borrow_mut().notify_sent(socket.0);
    }

    /// Closes the socket. The id is dead for everything but a second, harder close of a lingering socket.
    pub fn close(&self, socket: SocketId, how: Close) {
        self.inner.state.borrow_mut().close_socket(socket.0, how);
    }

    /// Returns the other end, if the socket is open.
    pub fn peer(&self, socket: SocketId) -> Option<Peer> {
        self.inner.state.borrow_mut().open_socket(socket.0).map(|socket| socket.peer)
    }

    /// Returns our end, if the socket is open and has an address.
    pub fn local_address(&self, socket: SocketId) -> Option<SocketAddr> {
        self.inner.state.borrow_mut().open_socket(socket.0).and_then(|s| bind::local_address(&s.descriptor))
    }

    /// Ends our side of an open socket; the peer's side goes on. For after a [`Ring::flush`]: what is still queued fails.
    pub fn shut_sending(&self, socket: SocketId) {
        if let Some(socket) = self.inner.state.borrow_mut().open_socket(socket.0) {
            bind::shut_write(&socket.descriptor);
        }
    }

    /// Whether the socket is open with nothing to read. A look at the kernel's queue, without waiting.
    pub fn is_quiet(&self, socket: SocketId) -> Quiet {
        match self.inner.state.borrow_mut().open_socket(socket.0) {
            Some(socket) if !socket.receive_ended => bind::peek(&socket.descriptor),
            _ => Quiet::Closed,
        }
    }

    /// Connects to `address`. Dropping the future gives up and closes the socket.
    pub async fn connect(&self, address: SocketAddr) -> Result<SocketId, i32> {
        let descriptor =
            bind::stream_socket(address).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?;
        let (storage, len) = bind::to_storage(address);
        let (guard, operation) = {
            let mut state = self.inner.state.borrow_mut();
            let fd = io_uring::types::Fd(descriptor.as_raw_fd());
            let socket = state.add_socket(descriptor, Peer::Inet(address));
            state.sockets.get_mut(socket).expect("just added").outstanding += 1;
            let storage = Box::new(storage);
            let pointer: *const libc::sockaddr = (&raw const *storage).cast();
            let operation = state.operations.insert(Operation {
                holder: Holder::Socket(socket),
                memory: Memory::Address { _storage: storage },
                waker: None,
                result: None,
                abandoned: false,
            });
            let connect = opcode::Connect::new(fd, pointer, len).build();
            state.push(&connect.user_data(user_data(Kind::Operation, operation)));
            (ConnectGuard { ring: self, socket: Some(SocketId(socket)) }, operation)
        };
        let mut guard = guard;
        match OperationFuture::new(self.inner.clone(), operation).await {
            (0.., _) => guard.socket.take().ok_or(libc::ECANCELED),
            (error, _) => Err(-error),
        }
    }

    /// Receives once into `range` of `buffer` and gives the buffer back; 0 is the peer's end. Not together with
    /// [`Ring::receive`] (`EBUSY`). Dropping the future cancels the receive, keeps the buffer until the kernel is done
    /// with it, and may lose bytes: afterwards the socket is good for closing only.
    pub async fn receive_into<B: AsMut<[u8]> + 'static>(
        &self,
        socket: SocketId,
        buffer: B,
        range: impl RangeBounds<usize>,
    ) -> (Result<usize, i32>, B) {
        let started = self.inner.state.borrow_mut().start_receive_into(socket.0, buffer, range);
        let operation = match started {
            Ok(operation) => operation,
            Err((errno, buffer)) => return (Err(errno), buffer),
        };
        let (result, memory) = OperationFuture::new(self.inner.clone(), operation).await;
        let Memory::Buffer(pinned) = memory else { unreachable!("a receive was started with a buffer") };
        let result = usize::try_from(result).map_err(|_| -result);
        (result, pinned.into_inner())
    }

    /// Waits until the send queue is empty. Fails if sending failed or the socket is closed.
    pub async fn flush(&self, socket: SocketId) -> Result<(), i32> {
        poll_fn(|context| {
            let mut state = self.inner.state.borrow_mut();
            let Some(socket) = state.open_socket(socket.0) else { return Poll::Ready(Err(libc::EBADF)) };
            match socket.send_error {
                Some(errno) => Poll::Ready(Err(errno)),
                None if socket.queued_len == 0 => Poll::Ready(Ok(())),
                None => {
                    if !socket.flushers.iter().any(|waker| waker.will_wake(context.waker())) {
                        socket.flushers.push(context.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Runs a task on this core. It starts within this turn, behind those that were woken before.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        Tasks::spawn(&self.inner.tasks, future);
    }

    /// Returns how many tasks are alive.
    pub fn live_tasks(&self) -> usize {
        self.inner.tasks.live_count()
    }

    /// Returns how long the task has waited that is to run next, in milliseconds; 0 if none is runnable.
    pub fn task_wait_millis(&self) -> u64 {
        task::first_waits().unwrap_or(0)
    }

    /// Returns how many sockets are alive, closing ones included.
    pub fn live_sockets(&self) -> usize {
        self.inner.state.borrow().sockets.len()
    }

    /// Returns what the ring keeps in memory now.
    pub fn heap(&self) -> RingHeap {
        let state = self.inner.state.borrow();
        RingHeap {
            sockets: state.sockets.heap_len() as u64 + state.sockets.len() as u64 * SOCKET_COST,
            sends: state.sends.sum(),
            tasks: self.inner.tasks.heap_len(),
            turn: state.turn.heap_len() as u64,
        }
    }

    /// Frees buffers that the next turn can do without.
    pub fn shrink(&self) {
        self.inner.state.borrow_mut().turn.shrink();
    }

    /// Returns how many listeners are alive, stopping ones included.
    pub fn live_listeners(&self) -> usize {
        self.inner.state.borrow().listeners.len()
    }

    /// Returns how many timers are armed, sleeps included.
    pub fn live_timers(&self) -> usize {
        self.inner.state.borrow().timers.len()
    }

    /// Returns milliseconds since the core's start, as of the beginning of this turn.
    pub fn now_millis(&self) -> u64 {
        self.inner.turn_millis.get()
    }

    /// Returns when this turn began to look at what happened: the time of all that came with it, at no cost.
    pub fn turn_started(&self) -> Instant {
        self.inner.turn_started.get()
    }

    /// Returns seconds since 1970, read at most once per millisecond. It never decreases on this core.
    pub fn wall_seconds(&self) -> u64 {
        let now = self.inner.turn_millis.get();
        if self.inner.wall_read_at.replace(now) != now {
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            self.inner.wall.set(self.inner.wall.get().max(wall));
        }
        self.inner.wall.get()
    }

    /// Sleeps for at least `duration`, and about 10 ms longer at most.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(self.inner.clone(), duration)
    }

    /// Runs `future` for at most `duration`. What is not done then is dropped.
    pub fn timeout<F: Future>(
        &self,
        duration: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> + use<F> {
        Timeout::new(self.sleep(duration), future)
    }

    /// Calls the handler's `on_timer` with `token` after at least `after`. It cannot be taken back: the handler
    /// looks at its own deadline again.
    pub fn arm_timer(&self, after: Duration, token: u64) {
        let mut state = self.inner.state.borrow_mut();
        let due = state.monotonic_millis() + duration_millis(after);
        state.timers.arm(due, Due::Token(token));
    }

    /// If the core sleeps after this turn it does so for `limit` at most, and about the timer slack of its thread: for work in small portions
    /// that lets others have the processor in between. Timers count in milliseconds, this in microseconds.
    pub fn nap(&self, limit: Duration) {
        self.inner.nap.set(Some(limit));
    }

    /// Returns what the ring has done so far.
    pub fn stats(&self) -> RingStats {
        self.inner.state.borrow().stats
    }

    /// Ends the core after this turn. Sockets are closed, tasks are dropped, futures of operations end with ECANCELED.
    pub fn stop(&self) {
        self.inner.stopping.set(true);
    }
}

/// Whole milliseconds, rounded up, so that nothing is early.
pub(crate) fn duration_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX / 2).min(u64::MAX / 2)
}

/// Closes a socket whose connect did not come to an end.
struct ConnectGuard<'r> {
    ring: &'r Ring,
    socket: Option<SocketId>,
}

impl Drop for ConnectGuard<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.socket {
            self.ring.close(socket, Close::Abort);
        }
    }
}
