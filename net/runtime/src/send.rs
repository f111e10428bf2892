//! Sends: small ones composed in place, owned ones, and gathers of a head and pieces of a body.
//!
//! A small send names the turn buffer, must not wait (`MSG_DONTWAIT`) and completes only by failing: when the
//! turn's submission has returned and no failure was reaped for it, it is done. What a socket did not take is copied
//! to memory of its own and sent on with a completion. Everything else is pinned in the socket's slot (`InFlight`)
//! until its completion. One send per socket is in flight; the others wait in order.
//!
//! The kernel works on what is submitted one after the other, and sends copy. So the composed ones go first: a hit does not wait for
//! the piece of somebody's large body, nor for the answers of tasks, that leave with the same turn (decision 26).

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::rc::Rc;

use io_uring::{opcode, squeue};

use crate::bind;
use crate::buffers::Region;
use crate::limits::{GATHER_LEN_MAX, GATHER_PIECE_COUNT_MAX, OWNED_MERGE_LEN_MAX};
use crate::op::{Kind, user_data};
use crate::ring::{Event, State};
use crate::slots::Key;
use crate::socket::{Phase, SocketId};
use crate::weight::{Meter, Weight};

/// A body that is sent from where it lies.
///
/// `piece` returns the longest contiguous run from `at`, and is empty only at the end. The ring holds the `Rc` until
/// the kernel is done with the bytes: `&self` stays borrowed, as far as safe code can tell, for that long, so the
/// bytes stay where they are. `piece` must not call the ring.
pub trait Source: 'static {
    /// Returns the longest contiguous run of bytes from `at`.
    fn piece(&self, at: u64) -> Piece<'_>;

    /// The kernel could not read what a piece named (`EFAULT`): the peer sees a cut. It must not call the ring.
    fn unreadable(&self) {}
}

/// Bytes that the kernel reads; whether anybody else can is not said.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'p> {
    start: *const u8,
    len: usize,
    _bytes: PhantomData<&'p [u8]>,
}

impl Piece<'_> {
    /// Returns how many bytes they are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether there are none: the source ended.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<'p> From<&'p [u8]> for Piece<'p> {
    fn from(bytes: &'p [u8]) -> Self {
        Piece { start: bytes.as_ptr(), len: bytes.len(), _bytes: PhantomData }
    }
}

/// Bytes that are not to be read by us: of a file's mapping, say, which may be cut short.
impl<'p> From<&'p [MaybeUninit<u8>]> for Piece<'p> {
    fn from(bytes: &'p [MaybeUninit<u8>]) -> Self {
        Piece { start: bytes.as_ptr().cast(), len: bytes.len(), _bytes: PhantomData }
    }
}

/// A send that waits for its turn.
pub(crate) enum Pending {
    Owned(Owned),
    Source(SourceSend),
}

/// Bytes of our own, and what they weigh.
pub(crate) struct Owned {
    bytes: Vec<u8>,
    weight: Weight,
}

impl Owned {
    pub(crate) fn new(bytes: Vec<u8>, meter: &Meter) -> Self {
        let weight = meter.weigh(bytes.capacity());
        Owned { bytes, weight }
    }
}

/// A head and the part of a body behind it, as far as they are not sent.
pub(crate) struct SourceSend {
    head: Vec<u8>,
    head_at: usize,
    source: Rc<dyn Source>,
    at: u64,
    end: u64,
    /// Of the head, and of the gather send that it becomes.
    weight: Weight,
}

/// The send that the kernel works on, with everything that it may read.
pub(crate) enum InFlight {
    None,
    Turn(Region),
    Owned { owned: Owned, at: usize },
    Gather(Box<Gather>),
}

/// A gather send: the kernel may read the message header, the vectors and what they name.
pub(crate) struct Gather {
    send: SourceSend,
    /// As many as there are pieces: thousands of slow viewers have one such send each.
    vectors: Vec<libc::iovec>,
    message: libc::msghdr,
    len: usize,
}

impl SourceSend {
    /// Moves past `len` bytes that are sent. True if nothing is left.
    fn advance(&mut self, len: u64) -> bool {
        let of_head = (len).min((self.head.len() - self.head_at) as u64);
        self.head_at += of_head as usize;
        self.at += len - of_head;
        self.head_at == self.head.len() && self.at >= self.end
    }
}

impl Gather {
    fn new(send: SourceSend) -> Box<Self> {
        // SAFETY: `msghdr` is plain data of the C interface; all zeroes is its documented empty value.
        let message = unsafe { std::mem::zeroed() };
        Box::new(Gather { send, vectors: Vec::new(), message, len: 0 })
    }

    /// Names the next bytes. False if the source has fewer than it was asked for.
    fn load(&mut self) -> bool {
        let send = &self.send;
        let (vectors, mut len) = (&mut self.vectors, 0);
        vectors.clear();
        let mut name = |bytes: Piece<'_>, taken: usize| {
            vectors.push(libc::iovec { iov_base: bytes.start.cast_mut().cast(), iov_len: taken });
            len += taken;
            vectors.len() < GATHER_PIECE_COUNT_MAX && len < GATHER_LEN_MAX
        };
        let mut room = true;
        if send.head_at < send.head.len() {
            let head = &send.head[send.head_at..];
            room = name(head.into(), head.len());
        }
        let (mut at, mut left) = (send.at, GATHER_LEN_MAX as u64);
        while room && at < send.end && left > 0 {
            let run = send.source.piece(at);
            let take = (send.end - at).min(left).min(run.len() as u64);
            if take == 0 {
                break;
            }
            room = name(run, take as usize);
            (at, left) = (at + take, left - take);
        }
        let listed = self.vectors.capacity() * size_of::<libc::iovec>();
        self.send.weight.set(self.send.head.capacity() + size_of::<Gather>() + listed);
        self.message.msg_iov = self.vectors.as_mut_ptr();
        self.message.msg_iovlen = self.vectors.len();
        self.len = len;
        len > 0
    }
}

/// What became of a send's completion.
enum Outcome {
    Done,
    Again,
    Failed(i32),
}

impl State {
    /// Lets `fill` write up to `len_max` bytes that leave behind everything queued before. False if the socket is
    /// closed or its sends failed; `fill` is not called then.
    pub(crate) fn send_with(
        &mut self,
        key: Key,
        len_max: usize,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> bool {
        let Some(socket) = self.sockets.get_mut(key) else { return false };
        if socket.phase != Phase::Open || socket.send_error.is_some() {
            return false;
        }
        let before = match socket.in_flight {
            InFlight::None => None,
            InFlight::Turn(region) if socket.queue.is_empty() && self.turn.follows(region, len_max) => {
                Some(region)
            }
            _ => return self.send_with_owned(key, len_max, fill),
        };
        let Some(room) = self.turn.room(len_max) else { return self.send_with_owned(key, len_max, fill) };
        let len = fill(room).min(len_max);
        if len == 0 {
            return true;
        }
        let region = self.turn.commit(len, before).expect("whether it follows was asked above");
        socket.in_flight = InFlight::Turn(region);
        socket.queued_len += len as u64;
        if before.is_none() {
            socket.outstanding += 1;
            self.turn_sends.push(key);
            self.stats.turn_sends += 1;
        }
        true
    }

    fn send_with_owned(&mut self, key: Key, len_max: usize, fill: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let Some(socket) = self.sockets.get_mut(key) else { return false };
        let goes_on = matches!(socket.queue.back(), Some(Pending::Owned(owned)) if owned.bytes.len() < OWNED_MERGE_LEN_MAX);
        if !goes_on {
            socket.queue.push_back(Pending::Owned(Owned::new(Vec::new(), &self.sends)));
        }
        let Some(Pending::Owned(Owned { bytes, weight })) = socket.queue.back_mut() else { return false };
        let start = bytes.len();
        bytes.resize(start + len_max, 0);
        let len = fill(&mut bytes[start..]).min(len_max);
        bytes.truncate(start + len);
        weight.set(bytes.capacity());
        socket.queued_len += len as u64;
        if bytes.is_empty() {
            socket.queue.pop_back();
        }
        self.start_next_send(key);
        true
    }

    /// Queues a send from memory of its own. False if the socket is closed or its sends failed.
    pub(crate) fn send_pending(&mut self, key: Key, pending: Pending) -> bool {
        let len = match &pending {
            Pending::Owned(owned) => owned.bytes.len() as u64,
            Pending::Source(send) => send.head.len() as u64 + (send.end - send.at),
        };
        let accepted = match self.open_socket(key) {
            Some(socket) if socket.send_error.is_none() => {
                if len > 0 {
                    socket.queued_len += len;
                    if matches!(socket.in_flight, InFlight::None) && socket.queue.is_empty() {
                        // Past the queue, whose memory a connection would keep while it is idle.
                        self.start_send(key, pending);
                    } else {
                        socket.queue.push_back(pending);
                    }
                    return true;
                }
                true
            }
            _ => false,
        };
        self.dead_sends.push(pending);
        accepted
    }

    /// Starts the first waiting send if none is in flight.
    pub(crate) fn start_next_send(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if !matches!(socket.in_flight, InFlight::None) || socket.phase == Phase::Ended {
            return;
        }
        let Some(pending) = socket.queue.pop_front() else { return };
        if socket.queue.is_empty() {
            // What waited is rare; what is kept for it would be kept by every idle connection.
            socket.queue = VecDeque::new();
        }
        self.start_send(key, pending);
    }

    /// Starts a send; none is in flight.
    fn start_send(&mut self, key: Key, pending: Pending) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.outstanding += 1;
        match pending {
            Pending::Owned(owned) => {
                socket.in_flight = InFlight::Owned { owned, at: 0 };
                self.push_owned(key);
            }
            Pending::Source(send) => {
                socket.in_flight = InFlight::Gather(Gather::new(send));
                self.push_gather(key);
            }
        }
    }

    fn push_owned(&mut self, key: Key) {
        self.stats.owned_sends += 1;
        self.later_sends.push(key);
    }

    fn push_gather(&mut self, key: Key) {
        let socket = self.sockets.get_mut(key).expect("its send is in flight");
        let InFlight::Gather(gather) = &mut socket.in_flight else { return };
        if !gather.load() {
            // The source ended before the range that it was asked for: the peer must see a cut, not a short body.
            self.bury_in_flight(key);
            self.finish_one(key);
            return self.send_cut(key, libc::EPIPE);
        }
        self.stats.gather_sends += 1;
        self.later_sends.push(key);
    }

    /// Queues the operation of a send in flight that the kernel does not have yet.
    fn push_later_send(&mut self, key: Key) {
        let socket = self.sockets.get(key).expect("what is in flight keeps its slot");
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        // What the entry names stays in `in_flight` until its completion (see `sent`) or, cancelled, until the slot is freed, which
        // waits for the completion too.
        let entry = match &socket.in_flight {
            InFlight::Owned { owned, at } => {
                let rest = &owned.bytes[*at..];
                let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
                let send = opcode::Send::new(socket.fd(), rest.as_ptr(), len).flags(flags).build();
                send.user_data(user_data(Kind::SendOwned, key))
            }
            InFlight::Gather(gather) => {
                let send = opcode::SendMsg::new(socket.fd(), &raw const gather.message);
                send.flags(flags as u32).build().user_data(user_data(Kind::SendGather, key))
            }
            InFlight::None | InFlight::Turn(_) => unreachable!("it ends with its completion"),
        };
        self.push(&entry);
    }

    /// Before the operations of a socket are cancelled: what was to be sent goes as far as it can at once, as it would have without waiting
    /// for the end of the turn.
    pub(crate) fn push_own_later_send(&mut self, key: Key) {
        if let Some(at) = self.later_sends.iter().position(|later| *later == key) {
            self.later_sends.swap_remove(at);
            self.push_later_send(key);
        }
    }

    /// Queues the operations of the turn's sends, the composed ones first; called right before the submission. True if something
    /// waits for one of them to be done, so that the core must not sleep in the same call: they complete silently.
    pub(crate) fn push_turn_sends(&mut self) -> bool {
        let mut awaited = false;
        let keys = std::mem::take(&mut self.turn_sends);
        for &key in &keys {
            let Some(socket) = self.sockets.get(key) else { continue };
            let InFlight::Turn(region) = socket.in_flight else { continue };
            if socket.phase == Phase::Ended {
                awaited = true;
                continue;
            }
            let is_awaited = !socket.queue.is_empty() || socket.notify_sent || !socket.flushers.is_empty();
            awaited |= is_awaited || socket.phase != Phase::Open;
            let bytes = self.turn.bytes(region);
            let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL | libc::MSG_DONTWAIT;
            let send = opcode::Send::new(socket.fd(), bytes.as_ptr(), region.len).flags(flags).build();
            let entry = send.user_data(user_data(Kind::SendTurn, key)).flags(squeue::Flags::SKIP_SUCCESS);
            self.push(&entry);
        }
        self.turn_sends = keys;
        let mut later = std::mem::take(&mut self.later_sends);
        later.drain(..).for_each(|key| self.push_later_send(key));
        self.later_sends = later;
        awaited
    }

    /// A send from the turn buffer was not taken whole: the rest goes on from memory of its own, first in order.
    pub(crate) fn turn_send_failed(&mut self, key: Key, result: i32) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let InFlight::Turn(region) = socket.in_flight else { return };
        let sent = match result {
            0.. => (result as u32).min(region.len),
            _ if result == -libc::EAGAIN => 0,
            _ => {
                socket.in_flight = InFlight::None;
                self.finish_one(key);
                return self.send_failed(key, -result);
            }
        };
        if socket.phase == Phase::Ended {
            socket.in_flight = InFlight::None;
            return self.finish_one(key);
        }
        let bytes = self.turn.bytes(region)[sent as usize..].to_vec();
        socket.queued_len -= u64::from(sent);
        socket.in_flight = InFlight::Owned { owned: Owned::new(bytes, &self.sends), at: 0 };
        self.stats.resumed_sends += 1;
        self.push_owned(key);
    }

    /// The submission has returned and failures are dealt with: every other composed send is done.
    pub(crate) fn finish_turn_sends(&mut self) {
        let mut keys = std::mem::take(&mut self.turn_sends);
        for key in keys.drain(..) {
            let Some(socket) = self.sockets.get_mut(key) else { continue };
            let InFlight::Turn(region) = socket.in_flight else { continue };
            socket.in_flight = InFlight::None;
            socket.queued_len -= u64::from(region.len);
            self.send_done(key);
        }
        self.turn_sends = keys;
        self.turn.reset();
    }

    /// A send from owned memory or a gather is complete.
    pub(crate) fn sent(&mut self, key: Key, result: i32) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        let ended = socket.phase == Phase::Ended;
        let (len, outcome) = match &mut socket.in_flight {
            _ if result < 0 && !(result == -libc::EAGAIN || result == -libc::EINTR) => {
                (0, Outcome::Failed(-result))
            }
            InFlight::Owned { owned, at } => {
                let len = result.max(0) as usize;
                *at = (*at + len).min(owned.bytes.len());
                (len as u64, if *at == owned.bytes.len() { Outcome::Done } else { Outcome::Again })
            }
            InFlight::Gather(gather) => {
                let len = (result.max(0) as usize).min(gather.len) as u64;
                (len, if gather.send.advance(len) { Outcome::Done } else { Outcome::Again })
            }
            InFlight::None | InFlight::Turn(_) => return,
        };
        socket.queued_len = socket.queued_len.saturating_sub(len);
        match outcome {
            Outcome::Again if !ended => match socket.in_flight {
                InFlight::Gather(_) => self.push_gather(key),
                _ => self.push_owned(key),
            },
            Outcome::Failed(errno) if !ended => {
                let is_ours = errno == libc::EFAULT;
                if let (true, InFlight::Gather(gather)) = (is_ours, &socket.in_flight) {
                    gather.send.source.unreadable();
                }
                self.bury_in_flight(key);
                self.finish_one(key);
                if is_ours { self.send_cut(key, errno) } else { self.send_failed(key, errno) }
            }
            _ => {
                self.bury_in_flight(key);
                self.send_done(key);
            }
        }
    }

    /// Moves the completed send to where it is dropped when nothing is borrowed: sources are foreign code.
    fn bury_in_flight(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        match std::mem::replace(&mut socket.in_flight, InFlight::None) {
            InFlight::Gather(gather) => self.dead_sends.push(Pending::Source(gather.send)),
            InFlight::Owned { .. } | InFlight::Turn(_) | InFlight::None => {}
        }
    }

    /// One send is complete: starts the next or tells whoever waits for the queue to become empty.
    fn send_done(&mut self, key: Key) {
        self.finish_one(key);
        self.start_next_send(key);
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.queued_len > 0 {
            return;
        }
        self.wakers.append(&mut socket.flushers);
        if std::mem::take(&mut socket.notify_sent) {
            self.tell(Event::Sent(SocketId(key), Ok(())));
        } else if matches!(socket.phase, Phase::Draining(_)) {
            self.shut_socket(key);
        }
    }

    /// What was promised to the peer cannot be sent, and that is not the peer's doing: it must not wait for the rest.
    fn send_cut(&mut self, key: Key, errno: i32) {
        if let Some(socket) = self.sockets.get(key) {
            bind::shut_write(&socket.descriptor);
        }
        self.send_failed(key, errno);
    }

    /// The write side is broken: what is queued can never leave.
    fn send_failed(&mut self, key: Key, errno: i32) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.send_error = Some(errno);
        socket.queued_len = 0;
        self.dead_sends.extend(socket.queue.drain(..));
        self.wakers.append(&mut socket.flushers);
        if std::mem::take(&mut socket.notify_sent) {
            self.tell(Event::Sent(SocketId(key), Err(errno)));
        } else if socket.is_lingering() {
            self.end_socket(key);
        }
    }

    /// Asks for one `on_sent` when the queue is empty, which may be at once.
    pub(crate) fn notify_sent(&mut self, key: Key) {
        let Some(socket) = self.open_socket(key) else { return };
        match socket.send_error {
            Some(errno) => self.tell(Event::Sent(SocketId(key), Err(errno))),
            None if socket.queued_len == 0 => self.tell(Event::Sent(SocketId(key), Ok(()))),
            None => socket.notify_sent = true,
        }
    }
}

impl SourceSend {
    pub(crate) fn new(head: &[u8], source: Rc<dyn Source>, range: Range<u64>, meter: &Meter) -> Self {
        let head = head.to_vec();
        SourceSend {
            weight: meter.weigh(head.capacity() + size_of::<Gather>()),
            head,
            head_at: 0,
            source,
            at: range.start,
            end: range.end.max(range.start),
        }
    }
}
