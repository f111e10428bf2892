//! Turns with a kernel that poisons what it was lent (`kernel/fake.rs`): whatever order sockets are used, closed and abandoned in,
//! memory and descriptors stay the kernel's until the completion, and every byte leaves and comes once and in order.

use super::*;
use crate::executor::CoreOptions;
use crate::file::DiskFile;
use crate::kernel::{Chance, incoming};
use crate::ring::Ring;
use crate::send::{Piece, Source};
use crate::socket::{Close, ReceiveEnd};
use crate::stats::RingStats;
use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};

type Receiving = Pin<Box<dyn Future<Output = (Result<usize, i32>, Counted)>>>;

/// What a buffer of an operation on a file is filled with.
const UNTOUCHED: u8 = 0xaa;

/// Memory that is counted while it is alive.
struct Counted {
    bytes: Vec<u8>,
    _alive: Rc<()>,
}

impl AsMut<[u8]> for Counted {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body in several pieces.
struct Pieces {
    pieces: Vec<Vec<u8>>,
    _alive: Rc<()>,
}

impl Source for Pieces {
    fn piece(&self, at: u64) -> Piece<'_> {
        let mut at = at as usize;
        for piece in &self.pieces {
            if at < piece.len() {
                return piece[at..].into();
            }
            at -= piece.len();
        }
        [0_u8; 0].as_slice().into()
    }
}

/// What must be true of a socket.
struct Model {
    fd: i32,
    salt: u8,
    /// What was accepted for sending.
    queued: Vec<u8>,
    /// How much of it when the test asked to be told, until it is.
    asked_len: Option<usize>,
    received_len: u64,
    /// A receive was abandoned: bytes may be lost.
    is_lossy: bool,
    is_open: bool,
    receiving: Option<Receiving>,
}

impl Model {
    fn check_received(&mut self, bytes: &[u8]) {
        for byte in bytes {
            assert!(self.is_lossy || *byte == incoming(self.salt, self.received_len));
            self.received_len += 1;
        }
    }
}

struct Recorder {
    inner: Rc<Inner>,
    models: RefCell<HashMap<Key, Model>>,
}

impl Handler for Recorder {
    fn on_accept(&self, _: ListenerId, _: SocketId, _: Peer) {}

    fn on_receive(&self, socket: SocketId, bytes: &[u8]) {
        // The kernel goes on with all that is its own; these bytes are not.
        self.inner.state.borrow_mut().kernel.poke();
        let mut models = self.models.borrow_mut();
        let model = models.get_mut(&socket.0).expect("only sockets of the test receive");
        assert!(model.is_open, "a closed socket shows nothing");
        model.check_received(bytes);
    }

    fn on_receive_end(&self, _: SocketId, end: ReceiveEnd) {
        assert_eq!(end, ReceiveEnd::Eof);
    }

    fn on_sent(&self, socket: SocketId, result: Result<(), i32>) {
        let state = self.inner.state.borrow();
        let mut models = self.models.borrow_mut();
        let model = models.get_mut(&socket.0).expect("only sockets of the test send");
        let connection = &state.kernel.connections[&model.fd];
        assert!(result.is_ok() || connection.is_broken);
        let asked_len = model.asked_len.take().expect("it was asked for, once");
        assert!(result.is_err() || connection.sent.len() >= asked_len, "what was queued then has left");
    }

    fn on_timer(&self, _: u64) {}

    fn on_turn(&self) -> bool {
        false
    }

    fn has_mail(&self) -> bool {
        false
    }
}

/// A core without a thread: one turn after the other, by hand.
struct Bench {
    turn: Turn<Recorder>,
    ring: Ring,
    chance: Chance,
    alive: Rc<()>,
    salt: u8,
    /// Operations on files that run, and whether each is a read.
    on_files: Vec<(Receiving, bool)>,
    files_done: u64,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let options =
            CoreOptions { receive_buffer_count: 4, receive_buffer_len: 100, ..CoreOptions::default() };
        let mut state = State::new(&options, None).unwrap();
        state.kernel.chance = Chance::new(seed);
        let inner = Inner::new(state);
        let handler = Rc::new(Recorder { inner: inner.clone(), models: RefCell::default() });
        let ring = Ring { inner: inner.clone() };
        let turn = Turn::new(inner, handler, 50);
        let (on_files, files_done) = (Vec::new(), 0);
        Bench { turn, ring, chance: Chance::new(!seed), alive: Rc::new(()), salt: 0, on_files, files_done }
    }

    fn turn(&mut self) {
        self.turn.submit_and_wait(More::Work);
        self.turn.inner.set_clock(Instant::now());
        self.turn.reap();
        self.turn.fire_timers();
        self.turn.call_waiting();
        self.turn.inner.settle();
        self.turn.count(Duration::ZERO);
        self.check_sent();
    }

    /// What left is the beginning of what was queued.
    fn check_sent(&self) {
        let state = self.turn.inner.state.borrow();
        for model in self.turn.handler.models.borrow().values() {
            let sent = &state.kernel.connections[&model.fd].sent;
            assert!(model.queued.starts_with(sent), "sent out of order, twice or from wrong memory");
        }
    }

    fn bytes(&mut self, len_max: usize) -> Vec<u8> {
        let len = self.chance.below(len_max);
        (0..len).map(|_| self.chance.below(256) as u8).collect()
    }

    /// A fresh descriptor, its number, and a new salt for it.
    fn descriptor(&mut self) -> (UnixStream, i32) {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let fd = ours.as_raw_fd();
        self.salt = self.salt.wrapping_add(1);
        // The number is a closed socket's at most, of which nothing can be in flight any more.
        self.turn.handler.models.borrow_mut().retain(|_, model| model.fd != fd);
        (ours, fd)
    }

    fn connect(&mut self) {
        let (ours, fd) = self.descriptor();
        let salt = self.salt;
        self.turn.inner.state.borrow_mut().kernel.connect(fd, salt);
        let socket = self.ring.adopt(ours.into(), Peer::Unix);
        let model = Model {
            fd,
            salt,
            queued: Vec::new(),
            asked_len: None,
            received_len: 0,
            is_lossy: false,
            is_open: true,
            receiving: None,
        };
        self.turn.handler.models.borrow_mut().insert(socket.0, model);
    }

    /// One of the sockets that are open.
    fn pick(&mut self) -> Option<SocketId> {
        let models = self.turn.handler.models.borrow();
        let mut open: Vec<Key> =
            models.iter().filter(|(_, model)| model.is_open).map(|(key, _)| *key).collect();
        open.sort();
        (!open.is_empty()).then(|| SocketId(open[self.chance.below(open.len())]))
    }

    fn queued(&self, socket: SocketId, is_accepted: bool, bytes: &[u8]) {
        if is_accepted {
            let mut models = self.turn.handler.models.borrow_mut();
            models.get_mut(&socket.0).unwrap().queued.extend_from_slice(bytes);
        }
    }

    fn send(&mut self, socket: SocketId) {
        let bytes = self.bytes(400);
        match self.chance.below(4) {
            0 => {
                let is_accepted = self.ring.send_owned(socket, bytes.clone());
                self.queued(socket, is_accepted, &bytes);
            }
            1 => {
                let pieces: Vec<Vec<u8>> = (0..5).map(|_| self.bytes(90)).collect();
                let whole = pieces.concat();
                let from = self.chance.below(whole.len() + 1);
                let to = from + self.chance.below(whole.len() - from + 1);
                let source = Rc::new(Pieces { pieces, _alive: self.alive.clone() });
                let is_accepted = self.ring.send_source(socket, &bytes, source, from as u64..to as u64);
                self.queued(socket, is_accepted, &bytes);
                self.queued(socket, is_accepted, &whole[from..to]);
            }
            _ => {
                let is_accepted = self.ring.send_with(socket, 500, |room| {
                    room[..bytes.len()].copy_from_slice(&bytes);
                    bytes.len()
                });
                self.queued(socket, is_accepted, &bytes);
            }
        }
    }

    /// Begins a receive into memory of our own, looks after one, or drops it.
    fn receive_into(&mut self, socket: SocketId) {
        let mut models = self.turn.handler.models.borrow_mut();
        let model = models.get_mut(&socket.0).unwrap();
        let mut receiving = model.receiving.take().unwrap_or_else(|| {
            let buffer = Counted { bytes: vec![0xaa; 200], _alive: self.alive.clone() };
            let ring = self.ring.clone();
            Box::pin(async move { ring.receive_into(socket, buffer, 10..190).await })
        });
        if let Poll::Ready((result, buffer)) =
            receiving.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            assert!(buffer.bytes[..10].iter().chain(&buffer.bytes[190..]).all(|byte| *byte == 0xaa));
            if let Ok(len) = result {
                model.check_received(&buffer.bytes[10..10 + len]);
            }
        } else if self.chance.once_in(6) {
            model.is_lossy = true;
            drop(models);
            drop(receiving);
        } else {
            model.receiving = Some(receiving);
        }
    }

    /// Begins an operation on a file of its own, whose handle is gone before the operation is; or looks after one, or drops it.
    fn use_file(&mut self) {
        if self.on_files.len() < 4 && self.chance.once_in(2) {
            let (ours, fd) = self.descriptor();
            self.turn.inner.state.borrow_mut().kernel.connect(fd, self.salt);
            let file = DiskFile::new(ours.into());
            let buffer = Counted { bytes: vec![UNTOUCHED; 200], _alive: self.alive.clone() };
            let (ring, is_read) = (self.ring.clone(), self.chance.once_in(2));
            let mut running: Receiving = Box::pin(async move {
                match is_read {
                    true => ring.read_at(&file, 4096, buffer, 10..190).await,
                    false => ring.write_at(&file, 4096, buffer, 10..190).await,
                }
            });
            assert!(running.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            return self.on_files.push((running, is_read));
        }
        if self.on_files.is_empty() {
            return;
        }
        let at = self.chance.below(self.on_files.len());
        let (mut running, is_read) = self.on_files.swap_remove(at);
        match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((result, buffer)) => {
                self.files_done += 1;
                let read_len = if is_read { result.unwrap_or(0) } else { 0 };
                let untouched = buffer.bytes[..10].iter().chain(&buffer.bytes[190..]);
                assert!(
                    untouched
                        .chain(if is_read { &[] } else { &buffer.bytes[10..190] })
                        .all(|byte| *byte == UNTOUCHED)
                );
                let salt = buffer.bytes[10] ^ incoming(0, 0);
                let read = buffer.bytes[10..10 + read_len].iter().enumerate();
                assert!(read.into_iter().all(|(at, byte)| *byte == incoming(salt, at as u64)));
            }
            Poll::Pending if self.chance.once_in(4) => drop(running),
            Poll::Pending => self.on_files.push((running, is_read)),
        }
    }

    fn close(&mut self, socket: SocketId) {
        let how = match self.chance.below(3) {
            0 => Close::Abort,
            1 => Close::Reset,
            _ => Close::Linger(Duration::from_secs(1000)),
        };
        let receiving = {
            let mut models = self.turn.handler.models.borrow_mut();
            let model = models.get_mut(&socket.0).unwrap();
            model.is_open = false;
            model.receiving.take()
        };
        // Either may come first.
        if self.chance.once_in(2) {
            drop(receiving);
            self.ring.close(socket, how);
        } else {
            self.ring.close(socket, how);
            drop(receiving);
        }
    }

    fn step(&mut self) {
        let open_count = self.turn.handler.models.borrow().values().filter(|model| model.is_open).count();
        let Some(socket) = self.pick().filter(|_| open_count == 5 || !self.chance.once_in(8)) else {
            return self.connect();
        };
        match self.chance.below(18) {
            0..6 => self.send(socket),
            6 => {
                let mut models = self.turn.handler.models.borrow_mut();
                let model = models.get_mut(&socket.0).unwrap();
                if model.asked_len.is_none() {
                    model.asked_len = Some(model.queued.len());
                    self.ring.notify_sent(socket);
                }
            }
            // Not together with a receive into memory of our own.
            7..9 if self.turn.handler.models.borrow()[&socket.0].receiving.is_none() => {
                match self.chance.once_in(4) {
                    true => self.ring.receive_once(socket),
                    false => self.ring.receive(socket),
                }
            }
            9 => self.ring.pause_receive(socket),
            10..13 => self.receive_into(socket),
            13 if self.chance.once_in(3) => self.close(socket),
            14 => self.use_file(),
            _ => self.turn(),
        }
    }
}

#[test]
fn the_kernel_keeps_what_it_was_lent_until_its_completion() {
    let mut sum = [0; 8];
    for seed in 0..150 {
        let Ok((stats, files_done)) = std::panic::catch_unwind(|| run(seed)) else { panic!("seed {seed}") };
        let counts = [
            stats.turn_sends,
            stats.resumed_sends,
            stats.owned_sends,
            stats.gather_sends,
            stats.received_len,
            stats.receive_starved,
            stats.enters - stats.turns,
            files_done,
        ];
        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    assert!(sum.iter().all(|count| *count > 100), "every way was gone: {sum:?}");
}

/// A hit does not wait for what others get in the same turn. What is closed in it is tried once, before all that it has is cancelled.
#[test]
fn composed_sends_leave_before_all_others_of_their_turn() {
    let mut bench = Bench::new(1);
    let mut adopt = || {
        let (ours, fd) = bench.descriptor();
        bench.turn.inner.state.borrow_mut().kernel.connect(fd, bench.salt);
        (bench.ring.adopt(ours.into(), Peer::Unix), fd)
    };
    let [(owned, owned_fd), (gather, gather_fd), (closed, closed_fd), (hit, hit_fd)] =
        [(); 4].map(|()| adopt());
    let body = |alive: &Rc<()>| Rc::new(Pieces { pieces: vec![vec![1; 100]], _alive: alive.clone() });
    assert!(bench.ring.send_owned(owned, vec![1; 10]));
    assert!(bench.ring.send_source(gather, b"head", body(&bench.alive), 0..100));
    assert!(bench.ring.send_source(closed, b"head", body(&bench.alive), 0..100));
    assert!(bench.ring.send_with(hit, 10, |room| room.len().min(10)));
    bench.ring.close(closed, Close::Abort);
    let mut state = bench.turn.inner.state.borrow_mut();
    state.push_turn_sends();
    assert_eq!(state.kernel.queued_sends(), [closed_fd, hit_fd, owned_fd, gather_fd]);
}

/// Many steps on a few sockets, and their end; returns what was done, and how many operations on files.
fn run(seed: u64) -> (RingStats, u64) {
    let mut bench = Bench::new(seed);
    for _ in 0..400 {
        bench.step();
    }
    // What is open is closed politely, so all of it must still leave.
    let mut polite = Vec::new();
    while let Some(socket) = bench.pick() {
        let mut models = bench.turn.handler.models.borrow_mut();
        let model = models.get_mut(&socket.0).unwrap();
        model.is_open = false;
        polite.push(socket.0);
        let receiving = model.receiving.take();
        drop(models);
        drop(receiving);
        bench.ring.close(socket, Close::Linger(Duration::from_secs(1000)));
    }
    // Operations on files are left alone, or dropped with the future.
    bench.on_files.truncate(1);
    for _ in 0..5000 {
        bench.turn();
        let state = bench.turn.inner.state.borrow();
        if state.is_quiet() && state.kernel.in_flight_count() == 0 {
            break;
        }
    }
    {
        let state = bench.turn.inner.state.borrow();
        assert!(state.is_quiet() && state.kernel.in_flight_count() == 0, "everything ends");
        for key in polite {
            let model = &bench.turn.handler.models.borrow()[&key];
            let connection = &state.kernel.connections[&model.fd];
            assert!(connection.is_broken || connection.sent == model.queued, "a lingering socket sends all");
        }
    }
    bench.on_files.clear();
    bench.turn.inner.settle();
    assert_eq!(Rc::strong_count(&bench.alive), 1, "all that was lent is freed");
    (bench.ring.stats(), bench.files_done)
}
