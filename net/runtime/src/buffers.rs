//! Memory shared with the kernel: receive buffers that it picks from, and the turn buffer that sends leave from.
//!
//! A receive buffer belongs to the kernel from `give` until a completion names it, then to us until it is given
//! again. The turn buffer's bytes are the kernel's while it is inside the turn's submission and ours otherwise.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::limits::{TURN_CHUNK_COUNT_MAX, TURN_CHUNK_LEN};

/// Group id of the one buffer ring of each io_uring.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// Private anonymous memory, page-aligned, touched lazily.
struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        // JUSTIFICATION: the kernel wants page-aligned memory whose address never changes.
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(address.cast()).expect("mmap never answers null without MAP_FIXED");
        Ok(Mapping { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `len` are those of `mmap` in `new`, and the owner of the mapping outlives each use:
        // `ReceiveBuffers` is dropped after the ring, or leaked with it (see `Inner::shut_down`).
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Who holds each receive buffer, so that a kernel or driver fault cannot alias one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holder {
    Kernel,
    Us,
}

/// The buffers that multishot receives pick from.
pub(crate) struct ReceiveBuffers {
    ring: Mapping,
    memory: Mapping,
    count: u16,
    buffer_len: u32,
    tail: u16,
    holders: Vec<Holder>,
}

impl ReceiveBuffers {
    /// Makes `count` buffers (a power of two) of `buffer_len` bytes, all held by us.
    pub(crate) fn new(count: u16, buffer_len: u32) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel masks positions with count - 1");
        let ring = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(count) * buffer_len as usize)?;
        let holders = vec![Holder::Us; usize::from(count)];
        Ok(ReceiveBuffers { ring, memory, count, buffer_len, tail: 0, holders })
    }

    /// Tells the kernel about the ring, by its address and its number of entries, and gives it all buffers.
    ///
    /// The mapping is page-aligned, holds that many entries, and must live until after the io_uring is dropped: `State` declares the
    /// kernel before its buffers, and `Inner::shut_down` leaks both where it must.
    pub(crate) fn register(&mut self, register: impl FnOnce(u64, u16) -> io::Result<()>) -> io::Result<()> {
        register(self.ring.start.as_ptr() as u64, self.count)?;
        for id in 0..self.count {
            self.give(id);
        }
        self.publish();
        Ok(())
    }

    /// Takes the buffer that a completion named. Returns its address; it is ours until `give`.
    pub(crate) fn take(&mut self, id: u16) -> *const u8 {
        let holder = &mut self.holders[usize::from(id)];
        assert_eq!(*holder, Holder::Kernel, "a completion names a buffer that was given to the kernel");
        *holder = Holder::Us;
        self.address(id)
    }

    /// Gives a buffer back; the kernel sees it after `publish`.
    pub(crate) fn give(&mut self, id: u16) {
        let holder = &mut self.holders[usize::from(id)];
        assert_eq!(*holder, Holder::Us, "a buffer is given back once");
        *holder = Holder::Kernel;
        let position = usize::from(self.tail & (self.count - 1));
        let address = self.address(id) as u64;
        // SAFETY: `position < count` entries of the mapping. The kernel reads only entries before the published
        // tail and has consumed this one: at most `count` buffers exist and this one was ours.
        // Test: `every_buffer_has_one_holder`.
        let entry = unsafe { &mut *self.ring.start.as_ptr().cast::<BufRingEntry>().add(position) };
        entry.set_addr(address);
        entry.set_len(self.buffer_len);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel all buffers given since the last call.
    pub(crate) fn publish(&self) {
        // SAFETY: the mapping starts with the entry whose reserved field is the tail by the kernel's definition; it
        // is aligned for u16 and only written through this atomic store.
        unsafe {
            let tail = BufRingEntry::tail(self.ring.start.as_ptr().cast::<BufRingEntry>());
            (*tail.cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }

    fn address(&self, id: u16) -> *const u8 {
        debug_assert!(id < self.count);
        // SAFETY: `id < count` (indexing `holders` checked it), so the offset is inside the mapping.
        unsafe { self.memory.start.as_ptr().add(usize::from(id) * self.buffer_len as usize) }
    }
}

/// Bytes of the turn buffer that one send names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) chunk: u32,
    pub(crate) at: u32,
    pub(crate) len: u32,
}

/// Where small responses are composed in place; emptied once per turn, after the submission.
pub(crate) struct TurnBuffer {
    /// Boxes that are never moved out of, so that addresses hold while the vector grows.
    chunks: Vec<Box<[u8]>>,
    current: usize,
    used: usize,
}

impl TurnBuffer {
    pub(crate) fn new() -> Self {
        TurnBuffer { chunks: Vec::new(), current: 0, used: 0 }
    }

    /// Returns room for `len` bytes behind everything composed this turn, or nothing if the turn's room is used up.
    pub(crate) fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        if len > TURN_CHUNK_LEN {
            return None;
        }
        if !self.chunks.is_empty() && self.used + len > TURN_CHUNK_LEN {
            if self.current + 1 == TURN_CHUNK_COUNT_MAX {
                return None;
            }
            (self.current, self.used) = (self.current + 1, 0);
        }
        if self.current == self.chunks.len() {
            self.chunks.push(vec![0; TURN_CHUNK_LEN].into_boxed_slice());
        }
        Some(&mut self.chunks[self.current][self.used..self.used + len])
    }

    /// Keeps the first `len` bytes of the last `room`: as part of `before` if they follow it directly.
    pub(crate) fn commit(&mut self, len: usize, before: Option<Region>) -> Option<Region> {
        let at = self.used as u32;
        let region = Region { chunk: self.current as u32, at, len: len as u32 };
        let region = match before {
            None => region,
            Some(b) if b.chunk == region.chunk && b.at + b.len == at => {
                Region { len: b.len + region.len, ..b }
            }
            Some(_) => return None,
        };
        self.used += len;
        Some(region)
    }

    /// Whether bytes composed next in `len` of room would follow `region` directly.
    pub(crate) fn follows(&self, region: Region, len: usize) -> bool {
        region.chunk as usize == self.current
            && (region.at + region.len) as usize == self.used
            && self.used + len <= TURN_CHUNK_LEN
    }

    pub(crate) fn bytes(&self, region: Region) -> &[u8] {
        &self.chunks[region.chunk as usize][region.at as usize..(region.at + region.len) as usize]
    }

    /// Returns the bytes that are allocated.
    pub(crate) fn heap_len(&self) -> usize {
        self.chunks.len() * TURN_CHUNK_LEN
    }

    /// Frees the chunks behind the one that is in use.
    pub(crate) fn shrink(&mut self) {
        self.chunks.truncate(self.current + 1);
    }

    /// Forgets the turn's bytes. The submission that named them has returned and its failures were copied out.
    pub(crate) fn reset(&mut self) {
        (self.current, self.used) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_regions_merge_and_others_do_not() {
        let mut turn = TurnBuffer::new();
        turn.room(100).unwrap()[..3].copy_from_slice(b"abc");
        let first = turn.commit(3, None).unwrap();
        assert!(turn.follows(first, 100));
        turn.room(100).unwrap()[..3].copy_from_slice(b"def");
        let merged = turn.commit(3, Some(first)).unwrap();
        assert_eq!(turn.bytes(merged), b"abcdef");
        turn.room(10).unwrap();
        turn.commit(1, None).unwrap();
        assert!(!turn.follows(merged, 10));
        assert_eq!(turn.commit(1, Some(merged)), None);
    }

    #[test]
    fn the_turn_buffer_is_bounded_and_starts_over() {
        let mut turn = TurnBuffer::new();
        assert!(turn.room(TURN_CHUNK_LEN + 1).is_none());
        for _ in 0..TURN_CHUNK_COUNT_MAX {
            assert!(turn.room(TURN_CHUNK_LEN).is_some());
            turn.commit(TURN_CHUNK_LEN, None);
        }
        assert!(turn.room(1).is_none());
        turn.reset();
        assert!(turn.room(1).is_some());
    }

    #[test]
    fn every_buffer_has_one_holder() {
        let mut buffers = ReceiveBuffers::new(4, 64).unwrap();
        for id in 0..4 {
            buffers.give(id);
        }
        buffers.take(2);
        let twice = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| buffers.take(2)));
        assert!(twice.is_err(), "a buffer that we hold cannot be taken again");
        buffers.give(2);
        let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| buffers.give(2)));
        assert!(again.is_err(), "a buffer that the kernel holds cannot be given again");
    }
}
