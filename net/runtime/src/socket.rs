//! Sockets and listeners: their states, and how they end.
//!
//! A socket is *open* until `close`. Then it *lingers* (queued sends leave, then the write side is shut and what
//! the peer still sends is thrown away for a while) or is *ended* at once: everything in flight is cancelled, and
//! when the last completion is in, the descriptor is closed and the slot is free for another.
//!
//! ```text
//!            close(Linger)               sends done            peer done, limit or time
//!   Open ------------------> Draining ------------> Shut ----------------------------> Ended -> (slot free)
//!     \------------------------- close(Abort | Reset), or a failed send ----------------^
//! ```

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::Waker;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd};
use io_uring::{opcode, squeue};

use crate::bind;
use crate::limits::LINGER_DRAIN_LEN_MAX;
use crate::op::{Kind, plain};
use crate::ring::{Event, State};
use crate::send::{InFlight, Pending};
use crate::slots::Key;
use crate::timer::Due;

/// Names a socket of one core. The generation makes ids of closed sockets dead for good.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId(pub(crate) Key);

impl SocketId {
    /// Returns a small number that no other live socket of the core has, for dense tables.
    pub fn slot(&self) -> u32 {
        self.0.slot
    }
}

impl std::fmt::Debug for SocketId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "socket {}.{}", self.0.slot, self.0.generation)
    }
}

/// Names a listening socket of one core.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub(crate) Key);

impl std::fmt::Debug for ListenerId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "listener {}.{}", self.0.slot, self.0.generation)
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A TCP peer; IPv4 peers of a dual-stack socket are given as IPv4.
    Inet(SocketAddr),
    /// A peer on a Unix socket, which has no address of use.
    Unix,
}

/// Why no more bytes come from a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceiveEnd {
    /// The peer has sent all it wants.
    Eof,
    /// The connection failed with this errno.
    Error(i32),
}

/// How a socket ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// At once: queued sends are dropped. The peer sees an orderly end if it was not sending.
    Abort,
    /// At once and with a reset, so that the peer cannot take what it has for the whole.
    Reset,
    /// Queued sends leave first, then the write side is shut and incoming bytes are thrown away until the peer
    /// ends, [`LINGER_DRAIN_LEN_MAX`] bytes came, or this time passed without progress.
    Linger(Duration),
}

/// What a look at a connection shows that should have nothing to say, such as a pooled one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Quiet {
    /// Open, with nothing to read.
    Yes,
    /// Ended or failed.
    Closed,
    /// Bytes wait that nobody asked for.
    Readable,
}

/// The receive of a socket into the ring's buffers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReceiveState {
    Idle,
    Armed,
    /// Cancelled; its last completion is not in yet.
    Stopping,
}

/// Where a socket is on its way to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Open,
    Draining(Duration),
    Shut,
    Ended,
}

/// Everything that is known about a connection.
pub(crate) struct Socket {
    pub(crate) descriptor: OwnedFd,
    pub(crate) peer: Peer,
    pub(crate) phase: Phase,
    /// Operations in flight that name the descriptor.
    pub(crate) outstanding: u32,
    pub(crate) receive: ReceiveState,
    pub(crate) receive_wanted: bool,
    /// Only one piece is wanted.
    pub(crate) receive_once: bool,
    /// The end was seen: nothing is received any more.
    pub(crate) receive_ended: bool,
    /// The window of `batch.rs` in which something came last.
    pub(crate) heard_in: u16,
    pub(crate) in_flight: InFlight,
    pub(crate) queue: VecDeque<Pending>,
    /// Bytes in flight and queued.
    pub(crate) queued_len: u64,
    pub(crate) send_error: Option<i32>,
    pub(crate) notify_sent: bool,
    pub(crate) flushers: Vec<Waker>,
    pub(crate) drained_len: u64,
    /// While lingering: the timer, and the queue's length when it last looked.
    pub(crate) linger_timer: Option<Key>,
    pub(crate) linger_mark: u64,
}

impl Socket {
    fn new(descriptor: OwnedFd, peer: Peer) -> Self {
        Socket {
            descriptor,
            peer,
            phase: Phase::Open,
            outstanding: 0,
            receive: ReceiveState::Idle,
            receive_wanted: false,
            receive_once: false,
            receive_ended: false,
            heard_in: 0,
            in_flight: InFlight::None,
            queue: VecDeque::new(),
            queued_len: 0,
            send_error: None,
            notify_sent: false,
            flushers: Vec::new(),
            drained_len: 0,
            linger_timer: None,
            linger_mark: 0,
        }
    }

    pub(crate) fn fd(&self) -> Fd {
        Fd(self.descriptor.as_raw_fd())
    }

    /// Whether the descriptor is all there is to know: nothing in flight names it and nothing is to follow.
    fn is_at_rest(&self) -> bool {
        let is_quiet = self.outstanding == 0 && self.queued_len == 0 && !self.receive_wanted;
        self.phase == Phase::Open && is_quiet && !self.receive_ended && self.send_error.is_none()
    }

    pub(crate) fn is_lingering(&self) -> bool {
        matches!(self.phase, Phase::Draining(_) | Phase::Shut)
    }
}

/// A listening socket and its multishot accept.
pub(crate) struct Listener {
    pub(crate) descriptor: OwnedFd,
    pub(crate) armed: bool,
    pub(crate) stopping: bool,
}

impl State {
    pub(crate) fn add_socket(&mut self, descriptor: OwnedFd, peer: Peer) -> Key {
        self.sockets.insert(Socket::new(descriptor, peer))
    }

    /// The socket, if it is alive and its owner has not closed it.
    pub(crate) fn open_socket(&mut self, key: Key) -> Option<&mut Socket> {
        self.sockets.get_mut(key).filter(|socket| socket.phase == Phase::Open)
    }

    /// Gives the descriptor of a socket at rest away and frees its slot.
    pub(crate) fn release_socket(&mut self, key: Key) -> Option<OwnedFd> {
        self.sockets.get(key).filter(|socket| socket.is_at_rest())?;
        // Nothing in flight names the descriptor, and what comes later does not find the slot by this key.
        self.sockets.remove(key).map(|socket| socket.descriptor)
    }

    pub(crate) fn close_socket(&mut self, key: Key, how: Close) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let Close::Linger(patience) = how else {
            if how == Close::Reset {
                bind::set_reset_on_close(&socket.descriptor);
            }
            return self.end_socket(key);
        };
        if socket.phase != Phase::Open {
            return;
        }
        if socket.send_error.is_some() {
            return self.end_socket(key);
        }
        socket.phase = Phase::Draining(patience);
        socket.notify_sent = false;
        socket.linger_mark = socket.queued_len;
        let idle = socket.queued_len == 0;
        self.arm_linger(key, patience);
        self.want_receive(key);
        if idle {
            self.shut_socket(key);
        }
    }

    fn arm_linger(&mut self, key: Key, patience: Duration) {
        let due = self.monotonic_millis() + patience.as_millis() as u64;
        let timer = self.timers.arm(due, Due::Linger(key));
        let socket = self.sockets.get_mut(key).expect("a lingering socket keeps its slot");
        if let Some(old) = socket.linger_timer.replace(timer) {
            self.timers.cancel(old);
        }
    }

    /// All queued sends have left: shuts the write side and waits for the peer's end.
    pub(crate) fn shut_socket(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        bind::shut_write(&socket.descriptor);
        if socket.receive_ended || socket.drained_len >= LINGER_DRAIN_LEN_MAX {
            return self.end_socket(key);
        }
        let Phase::Draining(patience) = socket.phase else { return };
        socket.phase = Phase::Shut;
        self.arm_linger(key, patience);
    }

    /// Bytes that came to a lingering socket: thrown away, within bounds.
    pub(crate) fn drain_socket(&mut self, key: Key, len: u64) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.drained_len += len;
        if socket.drained_len < LINGER_DRAIN_LEN_MAX {
            return;
        }
        match socket.phase {
            Phase::Shut => self.end_socket(key),
            _ => self.unwant_receive(key),
        }
    }

    /// The linger timer fired: ends the socket unless its sends made progress since the last look.
    pub(crate) fn check_linger(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        match socket.phase {
            Phase::Draining(patience) if socket.queued_len != socket.linger_mark => {
                socket.linger_mark = socket.queued_len;
                self.arm_linger(key, patience);
            }
            Phase::Draining(_) | Phase::Shut => self.end_socket(key),
            Phase::Open | Phase::Ended => {}
        }
    }

    /// Drops what is queued, cancels what is in flight and closes the descriptor as soon as nothing is.
    pub(crate) fn end_socket(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.phase == Phase::Ended {
            return;
        }
        if matches!(socket.in_flight, InFlight::Owned { .. } | InFlight::Gather(_)) {
            self.push_own_later_send(key);
        }
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.phase = Phase::Ended;
        socket.receive_wanted = false;
        socket.notify_sent = false;
        self.dead_sends.extend(socket.queue.drain(..));
        self.wakers.append(&mut socket.flushers);
        let (outstanding, fd) = (socket.outstanding, socket.fd());
        if let Some(timer) = socket.linger_timer.take() {
            self.timers.cancel(timer);
        }
        if outstanding > 0 {
            // The descriptor may be closed, and its number in use again, before this is submitted, if the last
            // completion is already reaped. It then matches nothing: operations of the next user are queued behind it.
            let cancel = opcode::AsyncCancel2::new(CancelBuilder::fd(fd).all()).build();
            self.push(&cancel.user_data(plain(Kind::Ignored)).flags(squeue::Flags::SKIP_SUCCESS));
        }
        self.free_if_quiet(key);
    }

    /// One operation on the socket is complete.
    pub(crate) fn finish_one(&mut self, key: Key) {
        if let Some(socket) = self.sockets.get_mut(key) {
            socket.outstanding -= 1;
        }
        self.free_if_quiet(key);
    }

    fn free_if_quiet(&mut self, key: Key) {
        let quiet = |socket: &Socket| socket.phase == Phase::Ended && socket.outstanding == 0;
        if self.sockets.get(key).is_some_and(quiet) {
            // Closes the descriptor. Nothing in flight names it: `outstanding` counts each operation from the
            // moment it is queued. Test: `a_closed_slot_never_hits_a_stranger`.
            drop(self.sockets.remove(key));
        }
    }

    pub(crate) fn add_listener(&mut self, descriptor: OwnedFd) -> Key {
        let key = self.listeners.insert(Listener { descriptor, armed: false, stopping: false });
        self.arm_accept(key);
        key
    }

    pub(crate) fn arm_accept(&mut self, key: Key) {
        let Some(listener) = self.listeners.get_mut(key) else { return };
        if listener.armed || listener.stopping {
            return;
        }
        listener.armed = true;
        let fd = Fd(listener.descriptor.as_raw_fd());
        let accept = opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build();
        self.push(&accept.user_data(crate::op::user_data(Kind::Accept, key)));
    }

    pub(crate) fn stop_listener(&mut self, key: Key) {
        let Some(listener) = self.listeners.get_mut(key) else { return };
        if !listener.armed {
            drop(self.listeners.remove(key));
            return;
        }
        if !std::mem::replace(&mut listener.stopping, true) {
            self.cancel(crate::op::user_data(Kind::Accept, key));
        }
    }

    /// Asks the kernel to end the operation that carries `user_data`.
    pub(crate) fn cancel(&mut self, user_data: u64) {
        let cancel = opcode::AsyncCancel::new(user_data).build();
        self.push(&cancel.user_data(plain(Kind::Ignored)).flags(squeue::Flags::SKIP_SUCCESS));
    }

    /// Tells the handler later in this turn, when nothing is borrowed.
    pub(crate) fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }
}
