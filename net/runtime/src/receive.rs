//! Receives: the multishot receive of a socket, one receive into a buffer of the ring, and one into a caller's buffer.
//!
//! The multishot receive is armed while it is wanted. Each completion takes one buffer of the ring, which goes back
//! once the handler has seen it. A completion without `MORE` ends the arming, whatever its result, and it is armed
//! again if it is still wanted. The kernel goes on with it, 32 buffers at a time, as long as bytes are there: 200 us of a core for half a MiB
//! that one peer sent. Of who sends so much one buffer is received at a time, when there is room for it.

use std::ops::{Bound, RangeBounds};

use io_uring::{cqueue, opcode, squeue};

use crate::buffers::BUFFER_GROUP;
use crate::op::{Holder, Kind, Memory, Operation, PinnedBuffer, user_data};
use crate::ring::State;
use crate::slots::Key;
use crate::socket::{Phase, ReceiveEnd, ReceiveState};

/// What a receive's completion asks the turn to do once nothing is borrowed.
pub(crate) enum Received {
    /// Show the bytes to the handler, then give the buffer back.
    Bytes {
        buffer: u16,
        start: *const u8,
        len: usize,
    },
    /// Tell the handler that no more comes.
    End(ReceiveEnd),
    Nothing,
}

impl State {
    /// Arms the multishot receive, unless it is armed or the end was seen.
    pub(crate) fn want_receive(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if socket.phase == Phase::Ended || socket.receive_ended {
            return;
        }
        (socket.receive_wanted, socket.receive_once) = (true, false);
        self.arm_receive(key);
    }

    /// Arms a receive of one piece, unless a receive is armed or the end was seen.
    pub(crate) fn want_receive_once(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        // One that is wanted already brings more than this would, or the same.
        if socket.phase == Phase::Ended || socket.receive_ended || socket.receive_wanted {
            return;
        }
        (socket.receive_wanted, socket.receive_once) = (true, true);
        self.arm_receive(key);
    }

    pub(crate) fn arm_receive(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        if !socket.receive_wanted || socket.receive != ReceiveState::Idle {
            return;
        }
        socket.receive = ReceiveState::Armed;
        socket.outstanding += 1;
        let receive = if socket.receive_once {
            let receive = opcode::Recv::new(socket.fd(), std::ptr::null_mut(), 0).buf_group(BUFFER_GROUP);
            receive.build().flags(squeue::Flags::BUFFER_SELECT)
        } else {
            opcode::RecvMulti::new(socket.fd(), BUFFER_GROUP).build()
        };
        self.push(&receive.user_data(user_data(Kind::Receive, key)));
    }

    /// Stops the multishot receive. What it has received already is still shown.
    pub(crate) fn unwant_receive(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.receive_wanted = false;
        if socket.receive == ReceiveState::Armed {
            socket.receive = ReceiveState::Stopping;
            self.cancel(user_data(Kind::Receive, key));
        }
    }

    /// A completion of the multishot receive. The caller arms it again (`arm_receive`) after the handler has seen it.
    pub(crate) fn received(&mut self, key: Key, result: i32, flags: u32) -> Received {
        let buffer = cqueue::buffer_select(flags);
        let received = self.judge_received(key, result, buffer);
        if let (Some(buffer), Received::End(_) | Received::Nothing) = (buffer, &received) {
            self.buffers.take(buffer);
            self.buffers.give(buffer);
        }
        if !cqueue::more(flags) {
            if let Some(socket) = self.sockets.get_mut(key) {
                socket.receive = ReceiveState::Idle;
                if result > 0 && std::mem::take(&mut socket.receive_once) {
                    socket.receive_wanted = false;
                }
            }
            self.finish_one(key);
        }
        received
    }

    fn judge_received(&mut self, key: Key, result: i32, buffer: Option<u16>) -> Received {
        let Some(socket) = self.sockets.get_mut(key) else { return Received::Nothing };
        if socket.phase == Phase::Ended {
            return Received::Nothing;
        }
        if let (1.., Some(buffer)) = (result, buffer) {
            self.stats.received_len += result as u64;
            self.batch.heard(&mut socket.heard_in);
            if socket.is_lingering() {
                self.drain_socket(key, result as u64);
                return Received::Nothing;
            }
            let start = self.buffers.take(buffer);
            return Received::Bytes { buffer, start, len: result as usize };
        }
        let end = match -result {
            // The buffers come back within this turn; it is armed again.
            libc::ENOBUFS => {
                self.stats.receive_starved += 1;
                return Received::Nothing;
            }
            libc::ECANCELED | libc::EINTR | libc::EAGAIN => return Received::Nothing,
            ..=0 => ReceiveEnd::Eof,
            errno => ReceiveEnd::Error(errno),
        };
        socket.receive_ended = true;
        socket.receive_wanted = false;
        match socket.phase {
            Phase::Shut => self.end_socket(key),
            Phase::Draining(_) if end != ReceiveEnd::Eof => self.end_socket(key),
            Phase::Draining(_) | Phase::Ended => {}
            Phase::Open => return Received::End(end),
        }
        Received::Nothing
    }

    /// Submits one receive into `buffer`. Gives the buffer back with an errno if the socket cannot.
    pub(crate) fn start_receive_into<B: AsMut<[u8]> + 'static>(
        &mut self,
        key: Key,
        buffer: B,
        range: impl RangeBounds<usize>,
    ) -> Result<Key, (i32, B)> {
        let Some(socket) = self.open_socket(key) else { return Err((libc::EBADF, buffer)) };
        if socket.receive != ReceiveState::Idle {
            return Err((libc::EBUSY, buffer));
        }
        let start = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(at) => at.saturating_add(1),
            Bound::Excluded(at) => *at,
            Bound::Unbounded => usize::MAX,
        };
        let pinned = PinnedBuffer::new(buffer);
        let (address, len) = pinned.range(start, end);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let fd = socket.fd();
        socket.outstanding += 1;
        let memory = Memory::Buffer(pinned);
        let operation = self.operations.insert(Operation {
            holder: Holder::Socket(key),
            memory,
            waker: None,
            result: None,
            abandoned: false,
        });
        let receive = opcode::Recv::new(fd, address, len).build();
        self.push(&receive.user_data(user_data(Kind::Operation, operation)));
        Ok(operation)
    }
}
