//! Operations that a future waits for: what the kernel may touch, and who waits.
//!
//! `receive_into`, `connect`, `read_at` and `write_at` put their memory into a slot here before the kernel learns its address; the slot is
//! emptied only when the completion was reaped. A dropped future leaves the slot behind as *abandoned*.
//! Also the layout of `user_data`: kind, generation and slot of whom a completion belongs to.

use std::any::Any;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::ring::Inner;
use crate::slots::{GENERATION_MASK, Key};

/// What a completion is about; the top byte of `user_data`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Nobody waits for it: cancellations and removals that failed because they came late.
    Ignored = 0,
    Accept = 1,
    Receive = 2,
    /// A send from the turn buffer; it completes only by failing.
    SendTurn = 3,
    /// A send from memory of its own.
    SendOwned = 4,
    SendGather = 5,
    /// An operation in `State::operations`.
    Operation = 6,
    Tick = 7,
    Doorbell = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Kind {
        match byte {
            1 => Kind::Accept,
            2 => Kind::Receive,
            3 => Kind::SendTurn,
            4 => Kind::SendOwned,
            5 => Kind::SendGather,
            6 => Kind::Operation,
            7 => Kind::Tick,
            8 => Kind::Doorbell,
            _ => Kind::Ignored,
        }
    }
}

/// Packs kind and key into the 64 bits that travel with an operation.
pub(crate) fn user_data(kind: Kind, key: Key) -> u64 {
    (kind as u64) << 56 | u64::from(key.generation & GENERATION_MASK) << 32 | u64::from(key.slot)
}

/// The inverse of [`user_data`]. Generations never exceed the mask, so the key is whole again.
pub(crate) fn parse_user_data(data: u64) -> (Kind, Key) {
    let key = Key { slot: data as u32, generation: (data >> 32) as u32 & GENERATION_MASK };
    (Kind::from_byte((data >> 56) as u8), key)
}

/// `user_data` of operations of which there is one per ring or whose completion is ignored.
pub(crate) fn plain(kind: Kind) -> u64 {
    user_data(kind, Key { slot: 0, generation: 0 })
}

/// A buffer whose address the kernel holds. It is neither moved nor touched until it is taken back.
pub(crate) struct PinnedBuffer {
    /// From `Box::into_raw`: a `Box` that is moved would invalidate pointers into it.
    owner: *mut dyn Any,
    start: *mut u8,
    len: usize,
}

impl PinnedBuffer {
    pub(crate) fn new<B: AsMut<[u8]> + 'static>(buffer: B) -> Self {
        let typed: *mut B = Box::into_raw(Box::new(buffer));
        // SAFETY: `typed` comes from `into_raw` just above and nothing else knows it. The one `as_mut` borrow is
        // not used after this function; the address stays good because the value is not touched again until
        // `into_inner` or `drop`, which own it. Test: `abandoned_receive_keeps_its_buffer`.
        let slice = unsafe { &mut *typed }.as_mut();
        let (start, len) = (slice.as_mut_ptr(), slice.len());
        PinnedBuffer { owner: typed, start, len }
    }

    /// A buffer that the kernel only reads; others may read it meanwhile.
    pub(crate) fn shared<B: AsRef<[u8]> + 'static>(buffer: B) -> Self {
        let typed: *mut B = Box::into_raw(Box::new(buffer));
        // SAFETY: as in `new`. The address is never written through: only `write_at` makes such a buffer, whose operation reads it.
        // Test: `a_shared_buffer_is_written_while_others_read_it`.
        let slice = unsafe { &*typed }.as_ref();
        let (start, len) = (slice.as_ptr().cast_mut(), slice.len());
        PinnedBuffer { owner: typed, start, len }
    }

    /// Address of `at` and the bytes from there to `end`, clamped to the buffer.
    pub(crate) fn range(&self, at: usize, end: usize) -> (*mut u8, usize) {
        let at = at.min(self.len);
        let end = end.clamp(at, self.len);
        // SAFETY: `at <= len`, so the result is in or one past the buffer.
        (unsafe { self.start.add(at) }, end - at)
    }

    pub(crate) fn into_inner<B: 'static>(self) -> B {
        let owner = self.owner;
        std::mem::forget(self);
        // SAFETY: `owner` came from `Box::into_raw` in `new`; forgetting `self` makes this the only owner.
        let any: Box<dyn Any> = unsafe { Box::from_raw(owner) };
        *any.downcast::<B>().expect("the future that made the operation takes its buffer back")
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        // SAFETY: `owner` came from `Box::into_raw` in `new` and `into_inner` forgets `self`, so it is freed once.
        drop(unsafe { Box::from_raw(self.owner) });
    }
}

/// What the kernel may read or write on behalf of an operation.
pub(crate) enum Memory {
    Buffer(PinnedBuffer),
    /// It names none.
    None,
    /// Held for the kernel; nothing of ours reads it.
    Address {
        _storage: Box<libc::sockaddr_storage>,
    },
}

/// Who keeps the descriptor open that an operation names.
pub(crate) enum Holder {
    /// The socket of this key, which counts what is in flight on it.
    Socket(Key),
    /// The operation itself: files have no place in a table.
    File { _descriptor: Rc<OwnedFd> },
}

/// One submitted operation of a future.
pub(crate) struct Operation {
    pub(crate) holder: Holder,
    pub(crate) memory: Memory,
    pub(crate) waker: Option<Waker>,
    pub(crate) result: Option<i32>,
    /// The future is gone; the completion frees the slot.
    pub(crate) abandoned: bool,
}

/// Waits for one operation. Dropping it early cancels the operation and leaves its memory to the slot.
pub(crate) struct OperationFuture {
    inner: Rc<Inner>,
    key: Option<Key>,
}

impl OperationFuture {
    pub(crate) fn new(inner: Rc<Inner>, key: Key) -> Self {
        OperationFuture { inner, key: Some(key) }
    }
}

impl Future for OperationFuture {
    type Output = (i32, Memory);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<(i32, Memory)> {
        let key = self.key.expect("a finished operation is not polled again");
        let outcome = {
            let mut state = self.inner.state.borrow_mut();
            let operation = state.operations.get_mut(key).expect("a live future keeps its operation's slot");
            match operation.result {
                None => {
                    operation.waker = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Some(result) => {
                    let operation = state.operations.remove(key).expect("looked up just above");
                    (result, operation.memory)
                }
            }
        };
        self.key = None;
        Poll::Ready(outcome)
    }
}

impl Drop for OperationFuture {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.inner.abandon(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_keeps_kind_slot_and_generation() {
        for kind in [Kind::Accept, Kind::Receive, Kind::SendTurn, Kind::Operation, Kind::Tick] {
            let key = Key { slot: u32::MAX, generation: GENERATION_MASK };
            let (parsed_kind, parsed) = parse_user_data(user_data(kind, key));
            assert!(parsed_kind == kind && parsed == key);
        }
    }

    #[test]
    fn a_pinned_buffer_is_given_back_whole_and_ranges_are_clamped() {
        let pinned = PinnedBuffer::new(vec![7_u8; 10]);
        assert_eq!(pinned.range(4, usize::MAX).1, 6);
        assert_eq!(pinned.range(40, 50).1, 0);
        assert_eq!(pinned.into_inner::<Vec<u8>>(), vec![7_u8; 10]);
    }
}
