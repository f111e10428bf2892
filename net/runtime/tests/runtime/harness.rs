//! A core under test: its handler is a set of closures, and jobs are run on it from the test's thread.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aspis_runtime::{
    CoreOptions, CoreThread, Handler, ListenerId, Peer, ReceiveEnd, Ring, SocketId, bind, mailbox, spawn_core,
};

/// Nothing in these tests takes nearly as long on a working runtime.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

type Job = Box<dyn FnOnce(&Ring) + Send>;
type Hook<A> = Box<dyn FnMut(&Ring, A)>;
type ReceiveHook = Box<dyn FnMut(&Ring, SocketId, &[u8])>;

/// What the handler does; by default nothing.
pub(crate) struct Hooks {
    pub(crate) accept: Hook<(ListenerId, SocketId, Peer)>,
    pub(crate) receive: ReceiveHook,
    pub(crate) end: Hook<(SocketId, ReceiveEnd)>,
    pub(crate) sent: Hook<(SocketId, Result<(), i32>)>,
    pub(crate) timer: Hook<u64>,
}

impl Default for Hooks {
    fn default() -> Self {
        Hooks {
            accept: Box::new(|ring, (_, socket, _)| ring.receive(socket)),
            receive: Box::new(|_, _, _| {}),
            end: Box::new(|_, _| {}),
            sent: Box::new(|_, _| {}),
            timer: Box::new(|_, _| {}),
        }
    }
}

struct Scripted {
    ring: Ring,
    jobs: mailbox::Receiver<Job>,
    hooks: RefCell<Hooks>,
}

impl Handler for Scripted {
    fn on_accept(&self, listener: ListenerId, socket: SocketId, peer: Peer) {
        (self.hooks.borrow_mut().accept)(&self.ring, (listener, socket, peer));
    }
    fn on_receive(&self, socket: SocketId, bytes: &[u8]) {
        (self.hooks.borrow_mut().receive)(&self.ring, socket, bytes);
    }
    fn on_receive_end(&self, socket: SocketId, end: ReceiveEnd) {
        (self.hooks.borrow_mut().end)(&self.ring, (socket, end));
    }
    fn on_sent(&self, socket: SocketId, result: Result<(), i32>) {
        (self.hooks.borrow_mut().sent)(&self.ring, (socket, result));
    }
    fn on_timer(&self, token: u64) {
        (self.hooks.borrow_mut().timer)(&self.ring, token);
    }
    fn on_turn(&self) -> bool {
        for _ in 0..16 {
            let Some(job) = self.jobs.pop() else { return false };
            job(&self.ring);
        }
        true
    }
    fn has_mail(&self) -> bool {
        !self.jobs.is_empty()
    }
}

/// A running core; it is stopped and joined when dropped.
pub(crate) struct TestCore {
    post: mailbox::Post<Job>,
    thread: Option<CoreThread>,
}

impl TestCore {
    pub(crate) fn start(hooks: impl FnOnce() -> Hooks + Send + 'static) -> Self {
        Self::with_options(CoreOptions::default(), hooks)
    }

    pub(crate) fn with_options(options: CoreOptions, hooks: impl FnOnce() -> Hooks + Send + 'static) -> Self {
        let (mut receivers, post) = mailbox::channel(1, 4096);
        let jobs = receivers.pop().unwrap();
        let doorbell = Some(jobs.doorbell());
        let make = move |ring: Ring| Rc::new(Scripted { ring, jobs, hooks: RefCell::new(hooks()) });
        TestCore { post, thread: Some(spawn_core(options, doorbell, make).unwrap()) }
    }

    /// Runs `job` on the core without waiting for it.
    pub(crate) fn run(&self, job: impl FnOnce(&Ring) + Send + 'static) {
        assert!(self.post.send(0, Box::new(job)).is_ok(), "the mailbox has room");
    }

    /// Runs `job` on the core and returns its answer.
    pub(crate) fn call<T: Send + 'static>(&self, job: impl FnOnce(&Ring) -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        self.run(move |ring| answer.send(job(ring)).unwrap());
        answered.recv_timeout(PATIENCE).expect("the core answers")
    }

    /// Runs a future on the core and returns its result.
    pub(crate) fn block<T, F>(&self, make: impl FnOnce(Ring) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (answer, answered) = mpsc::channel();
        self.run(move |ring| {
            let future = make(ring.clone());
            ring.spawn(async move { answer.send(future.await).unwrap() });
        });
        answered.recv_timeout(PATIENCE).expect("the task ends")
    }

    /// Listens on a port of the kernel's choice.
    pub(crate) fn listen(&self) -> SocketAddr {
        let listener = bind::tcp("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = bind::local_address(&listener).unwrap();
        self.call(move |ring| ring.listen(listener));
        address
    }

    /// Gives the core one end of a stream pair.
    pub(crate) fn adopt(&self) -> (SocketId, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let near = OwnedFd::from(near);
        let socket = self.call(move |ring| ring.adopt(near, Peer::Unix));
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        (socket, far)
    }

    /// Asks the core until it says yes.
    pub(crate) fn wait_until(&self, what: &str, ask: impl FnMut(&Ring) -> bool + Send + Clone + 'static) {
        let started = Instant::now();
        loop {
            let mut ask_once = ask.clone();
            if self.block(move |ring| async move {
                ring.sleep(Duration::from_millis(1)).await;
                ask_once(&ring)
            }) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "never came true: {what}");
        }
    }

    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.run(Ring::stop);
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the core ends without a panic");
            }
        }
    }
}

impl Drop for TestCore {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Lets the kernel hold little for a reader that does not read. Less than two segments of the loopback interface
/// would make each byte wait for the sender's window probe.
pub(crate) fn shrink_receive_buffer(stream: &impl AsRawFd) {
    let len = 131_072_i32;
    // SAFETY: `len` is valid for reads of four bytes during the call.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const len).cast(),
            size_of::<i32>() as u32,
        )
    };
    assert_eq!(result, 0);
}

/// Makes a listening socket take next to no connection that is not accepted.
pub(crate) fn shrink_backlog(listener: &impl AsRawFd) {
    // SAFETY: takes no pointers.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
}

pub(crate) fn round_trip(stream: &mut (impl Read + Write), bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    back
}

/// Bytes that differ at each place and for each seed.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(step).collect()
}

/// Processor time of the calling thread, to the nanosecond.
pub(crate) fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Waits in the test's thread.
pub(crate) fn pause(duration: Duration) {
    let (_keep, never) = mpsc::channel::<()>();
    assert!(never.recv_timeout(duration).is_err());
}

/// A buffer that tells when it is dropped.
pub(crate) struct Watched {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) dropped: Rc<Cell<bool>>,
}

impl AsMut<[u8]> for Watched {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.dropped.set(true);
    }
}
