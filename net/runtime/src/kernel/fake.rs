//! A kernel for tests that does with lent memory whatever the interface allows, as late as it can, and tells when it is not as lent.
//!
//! It stands in for `kernel.rs` in the crate's unit tests. Until it posts an operation's completion it
//! - compares what it was given to send, message headers and vectors included, with what was there at submission;
//! - fills buffers that it may receive into with poison, ever again, and looks whether anybody else wrote there;
//! - looks whether the descriptor is still open.
//!
//! Freed memory is poisoned too (`Poisoning`), so that a buffer that was freed too early does not look as it did. Completions come in any
//! order, late, short, failed or cancelled, by a seed. What left and what came is kept for each descriptor.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::io;

use io_uring::types::BufRingEntry;
use io_uring::{cqueue, opcode, squeue};

use crate::batch::Wait;

/// Entries of the submission queue: few, so that it fills up within a turn.
const QUEUE_LEN: usize = 6;

const BUFFER_SELECT: u8 = 1 << 5;
const IS_MULTISHOT: u16 = 1 << 1;
const SKIP_SUCCESS: u8 = 1 << 6;
const CANCEL_ALL: u32 = 1 << 0;
const CANCEL_FD: u32 = 1 << 1;
const HAS_BUFFER: u32 = 1 << 0;
const HAS_MORE: u32 = 1 << 1;

/// Fills memory with a pattern before it is freed.
struct Poisoning;

#[global_allocator]
static POISONING: Poisoning = Poisoning;

// SAFETY: all is the system allocator's; the memory is written before it is given back, while it is still the caller's.
unsafe impl GlobalAlloc for Poisoning {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on; `layout.size()` bytes from `pointer` are allocated.
        unsafe {
            pointer.write_bytes(0xdd, layout.size());
            System.dealloc(std::hint::black_box(pointer), layout);
        }
    }
}

/// Numbers from a seed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// True once in `count` times.
    pub(crate) fn once_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// The other end of a descriptor.
#[derive(Default)]
pub(crate) struct Connection {
    /// All that was taken from us.
    pub(crate) sent: Vec<u8>,
    /// A send failed: no more is taken.
    pub(crate) is_broken: bool,
    salt: u8,
    received_len: u64,
    has_ended: bool,
}

/// The byte that comes in at a position.
pub(crate) fn incoming(salt: u8, position: u64) -> u8 {
    (position % 251) as u8 ^ salt
}

/// The fields of a submission queue entry that are used here, by the kernel's layout.
#[derive(Clone, Copy)]
struct Submission {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    address: u64,
    len: u32,
    operation_flags: u32,
    user_data: u64,
}

impl Submission {
    fn parse(entry: &squeue::Entry) -> Self {
        // SAFETY: an entry is the kernel's 64-byte structure, plain data without padding.
        let bytes: [u8; 64] = unsafe { std::ptr::from_ref(entry).cast::<[u8; 64]>().read() };
        let u32_at = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        Submission {
            opcode: bytes[0],
            flags: bytes[1],
            priority: u16::from_ne_bytes([bytes[2], bytes[3]]),
            fd: u32_at(4) as i32,
            address: u64_at(16),
            len: u32_at(24),
            operation_flags: u32_at(28),
            user_data: u64_at(32),
        }
    }
}

/// What was lent with an operation.
enum Lent {
    /// Pieces to read, and what was in them; the last `payload_len` bytes are those to send.
    Reads { pieces: Vec<(u64, usize)>, seen: Vec<u8>, payload_len: usize },
    /// A buffer to write to, and what we wrote last.
    Writes { address: u64, poison: u8 },
    /// The buffers of the ring.
    Ring,
}

struct InFlight {
    submission: Submission,
    lent: Lent,
    /// It will do nothing any more, but has not ended yet.
    is_cancelled: bool,
}

/// The ring of receive buffers, as far as the kernel has used it.
struct BufferRing {
    address: u64,
    count: u16,
    head: u16,
    /// By buffer: the poison that we filled it with, while it is ours.
    poison: HashMap<u16, u8>,
}

pub(crate) struct Kernel {
    queued: Vec<Submission>,
    in_flight: Vec<InFlight>,
    completions: Vec<cqueue::Entry>,
    ring: Option<BufferRing>,
    pub(crate) chance: Chance,
    pub(crate) connections: HashMap<i32, Connection>,
    poison: u8,
}

fn read_pieces(pieces: &[(u64, usize)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(address, len) in pieces {
        // SAFETY: what the code under test lent must be readable until its completion; that is what is tested.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(address as *const u8, len) });
    }
    bytes
}

fn fill(address: u64, len: usize, byte: u8) {
    // SAFETY: what the code under test lent must be writable until its completion; that is what is tested.
    unsafe { (address as *mut u8).write_bytes(byte, len) };
}

fn assert_poisoned(address: u64, len: usize, byte: u8) {
    let bytes = read_pieces(&[(address, len)]);
    assert!(bytes.iter().all(|found| *found == byte), "a buffer of the kernel was written or freed");
}

impl Kernel {
    pub(crate) fn new(_entries: u32) -> io::Result<Self> {
        Ok(Kernel {
            queued: Vec::new(),
            in_flight: Vec::new(),
            completions: Vec::new(),
            ring: None,
            chance: Chance::new(0),
            connections: HashMap::new(),
            poison: 0,
        })
    }

    /// Begins a connection on a fresh descriptor.
    pub(crate) fn connect(&mut self, fd: i32, salt: u8) {
        self.connections.insert(fd, Connection { salt, ..Connection::default() });
    }

    pub(crate) fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// The descriptors of the sends that are queued, in their order.
    pub(crate) fn queued_sends(&self) -> Vec<i32> {
        let sends = self
            .queued
            .iter()
            .filter(|queued| [opcode::Send::CODE, opcode::SendMsg::CODE].contains(&queued.opcode));
        sends.map(|queued| queued.fd).collect()
    }

    pub(crate) unsafe fn register_buffers(
        &mut self,
        address: u64,
        count: u16,
        _group: u16,
    ) -> io::Result<()> {
        self.ring = Some(BufferRing { address, count, head: 0, poison: HashMap::new() });
        Ok(())
    }

    pub(crate) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        let has_room = self.queued.len() < QUEUE_LEN;
        if has_room {
            self.queued.push(Submission::parse(entry));
        }
        has_room
    }

    pub(crate) fn queued_count(&mut self) -> u32 {
        self.queued.len() as u32
    }

    pub(crate) fn enter(&mut self, submit: u32, _: Wait) -> io::Result<usize> {
        self.poke();
        let submitted: Vec<_> = self.queued.drain(..submit as usize).collect();
        for submission in submitted {
            self.submit(submission);
        }
        self.poke();
        for _ in 0..self.in_flight.len() {
            let at = self.chance.below(self.in_flight.len());
            if self.chance.once_in(3) {
                self.finish(at);
            }
            if self.in_flight.is_empty() {
                break;
            }
        }
        self.poke();
        Ok(submit as usize)
    }

    pub(crate) fn collect(&mut self, completions: &mut Vec<cqueue::Entry>) {
        completions.append(&mut self.completions);
    }

    pub(crate) fn has_overflowed(&mut self) -> bool {
        false
    }

    /// Looks whether all that is lent is as it was, and poisons anew what we may write to.
    pub(crate) fn poke(&mut self) {
        self.poison = self.poison.wrapping_add(1);
        for operation in &mut self.in_flight {
            // SAFETY: the call takes no pointer.
            let is_open = unsafe { libc::fcntl(operation.submission.fd, libc::F_GETFD) } >= 0;
            assert!(is_open, "a descriptor was closed under an operation");
            match &mut operation.lent {
                Lent::Reads { pieces, seen, .. } => {
                    assert!(read_pieces(pieces) == *seen, "what is being sent was changed or freed");
                }
                Lent::Writes { address, poison } => {
                    let len = operation.submission.len as usize;
                    assert_poisoned(*address, len, *poison);
                    fill(*address, len, self.poison);
                    *poison = self.poison;
                }
                Lent::Ring => {}
            }
        }
        let Some(ring) = &mut self.ring else { return };
        let mut position = ring.head;
        while position != ring.tail() {
            let (address, len, id) = ring.entry(position);
            if let Some(poison) = ring.poison.insert(id, self.poison) {
                assert_poisoned(address, len, poison);
            }
            fill(address, len, self.poison);
            position = position.wrapping_add(1);
        }
    }

    fn submit(&mut self, submission: Submission) {
        let whole = (submission.address, submission.len as usize);
        let lent = match submission.opcode {
            opcode::Send::CODE if submission.flags & SKIP_SUCCESS != 0 => {
                return self.send_at_once(submission);
            }
            opcode::Send::CODE | opcode::Write::CODE => {
                Lent::Reads { pieces: vec![whole], seen: read_pieces(&[whole]), payload_len: whole.1 }
            }
            opcode::SendMsg::CODE => {
                // SAFETY: the address is that of a message header by the operation's definition.
                let message = unsafe { (submission.address as *const libc::msghdr).read() };
                let mut pieces = vec![(submission.address, size_of::<libc::msghdr>())];
                let count = message.msg_iovlen;
                pieces.push((message.msg_iov as u64, count * size_of::<libc::iovec>()));
                // SAFETY: the header names `count` vectors.
                let vectors = unsafe { std::slice::from_raw_parts(message.msg_iov, count) };
                pieces.extend(vectors.iter().map(|vector| (vector.iov_base as u64, vector.iov_len)));
                let payload_len = vectors.iter().map(|vector| vector.iov_len).sum();
                Lent::Reads { seen: read_pieces(&pieces), pieces, payload_len }
            }
            opcode::Recv::CODE if submission.flags & BUFFER_SELECT != 0 => Lent::Ring,
            opcode::Recv::CODE | opcode::Read::CODE => {
                fill(whole.0, whole.1, self.poison);
                Lent::Writes { address: whole.0, poison: self.poison }
            }
            opcode::AsyncCancel::CODE => return self.cancel(submission),
            // Time passes between two turns: a tick is always due.
            opcode::Timeout::CODE => return self.complete(submission.user_data, -libc::ETIME, 0),
            other => panic!("the tests submit no operation {other}"),
        };
        self.in_flight.push(InFlight { submission, lent, is_cancelled: false });
    }

    /// A send that must not wait: what is not taken now never is, and what is taken is not told.
    fn send_at_once(&mut self, submission: Submission) {
        let bytes = read_pieces(&[(submission.address, submission.len as usize)]);
        let result = match self.chance.below(8) {
            0 => -libc::EAGAIN,
            1 => self.chance.below(bytes.len() + 1) as i32,
            _ => bytes.len() as i32,
        };
        let result = self.take(submission.fd, &bytes, result);
        if result != bytes.len() as i32 {
            self.complete(submission.user_data, result, 0);
        }
    }

    /// Adds the bytes that a result says were taken to what was sent; a broken connection takes none.
    fn take(&mut self, fd: i32, bytes: &[u8], result: i32) -> i32 {
        let is_failure = self.chance.once_in(80);
        let connection = self.connections.get_mut(&fd).expect("sends go to connections");
        connection.is_broken |= is_failure;
        if connection.is_broken {
            return -libc::ECONNRESET;
        }
        connection.sent.extend_from_slice(&bytes[..result.max(0) as usize]);
        result
    }

    fn cancel(&mut self, submission: Submission) {
        let by_fd = submission.operation_flags & CANCEL_FD != 0;
        assert_eq!(by_fd, submission.operation_flags & CANCEL_ALL != 0, "all of a descriptor, or one");
        let matches = |operation: &InFlight| match by_fd {
            _ if operation.is_cancelled => false,
            true => operation.submission.fd == submission.fd,
            false => operation.submission.user_data == submission.address,
        };
        let mut found = false;
        while let Some(at) = self.in_flight.iter().position(matches) {
            found = true;
            // Some were nearly done and cannot be cancelled any more, and some take their time.
            if self.chance.once_in(3) {
                self.finish_for_good(at);
                continue;
            }
            self.in_flight[at].is_cancelled = true;
            if self.chance.once_in(2) {
                self.finish_for_good(at);
            }
        }
        if !found {
            self.complete(submission.user_data, -libc::ENOENT, 0);
        }
    }

    fn complete(&mut self, user_data: u64, result: i32, flags: u32) {
        #[repr(C)]
        struct Completion {
            user_data: u64,
            result: i32,
            flags: u32,
        }
        // SAFETY: a completion queue entry is this structure of the kernel's, plain data.
        let entry = unsafe {
            std::mem::transmute::<Completion, cqueue::Entry>(Completion { user_data, result, flags })
        };
        self.completions.push(entry);
    }

    /// Does an operation's work, or a part of it.
    fn finish(&mut self, at: usize) {
        let InFlight { submission, lent, is_cancelled } = &self.in_flight[at];
        let is_multishot = matches!(lent, Lent::Ring) && submission.priority & IS_MULTISHOT != 0;
        let (submission, is_cancelled) = (*submission, *is_cancelled);
        if !is_multishot || is_cancelled || self.chance.once_in(4) {
            return self.finish_for_good(at);
        }
        let has_more = self.receive_into_ring(submission, HAS_MORE);
        if !has_more {
            self.in_flight.swap_remove(at);
        }
    }

    /// Does an operation's work; the completion is its last.
    fn finish_for_good(&mut self, at: usize) {
        let InFlight { submission, lent, is_cancelled } = self.in_flight.swap_remove(at);
        match lent {
            _ if is_cancelled => self.complete(submission.user_data, -libc::ECANCELED, 0),
            Lent::Ring => {
                self.receive_into_ring(submission, 0);
            }
            Lent::Reads { pieces, seen, payload_len } => {
                assert!(read_pieces(&pieces) == seen, "what is being sent was changed or freed");
                let payload = &seen[seen.len() - payload_len..];
                // MSG_WAITALL or not, a send may end early.
                let len =
                    if self.chance.once_in(4) { self.chance.below(payload_len + 1) } else { payload_len };
                let result = self.take(submission.fd, payload, len as i32);
                self.complete(submission.user_data, result, 0);
            }
            Lent::Writes { address, poison } => {
                assert_poisoned(address, submission.len as usize, poison);
                let result = self.receive(submission.fd, address, submission.len as usize);
                self.complete(submission.user_data, result, 0);
            }
        }
    }

    /// Writes what comes next on a connection, and returns how much or the end.
    fn receive(&mut self, fd: i32, address: u64, len: usize) -> i32 {
        let has_ended = self.chance.once_in(40);
        let len = 1 + self.chance.below(len.max(1));
        let connection = self.connections.get_mut(&fd).expect("receives are from connections");
        connection.has_ended |= has_ended;
        if connection.has_ended {
            return 0;
        }
        for offset in 0..len {
            fill(address + offset as u64, 1, incoming(connection.salt, connection.received_len));
            connection.received_len += 1;
        }
        len as i32
    }

    /// One completion of a multishot receive; whether more are to come.
    fn receive_into_ring(&mut self, submission: Submission, more: u32) -> bool {
        let ring = self.ring.as_mut().expect("buffers are registered");
        if ring.head == ring.tail() {
            self.complete(submission.user_data, -libc::ENOBUFS, 0);
            return false;
        }
        let (address, len, id) = ring.entry(ring.head);
        if let Some(poison) = ring.poison.get(&id) {
            assert_poisoned(address, len, *poison);
        }
        let result = self.receive(submission.fd, address, len);
        if result == 0 {
            self.complete(submission.user_data, 0, 0);
            return false;
        }
        let ring = self.ring.as_mut().expect("looked at above");
        ring.poison.remove(&id);
        ring.head = ring.head.wrapping_add(1);
        self.complete(submission.user_data, result, HAS_BUFFER | more | u32::from(id) << 16);
        more != 0
    }
}

impl BufferRing {
    fn tail(&self) -> u16 {
        // SAFETY: the ring was registered; its tail lies where the kernel's definition says.
        unsafe { BufRingEntry::tail(self.address as *const BufRingEntry).read() }
    }

    /// Address, length and number of the buffer at a position.
    fn entry(&self, position: u16) -> (u64, usize, u16) {
        let at = usize::from(position & (self.count - 1));
        // SAFETY: the ring was registered with `count` entries.
        let entry = unsafe { &*(self.address as *const BufRingEntry).add(at) };
        (entry.addr(), entry.len() as usize, entry.bid())
    }
}
