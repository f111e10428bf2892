//! Bodies that are sent from where they lie on disk, through a read-only mapping of their volume's file.
//!
//! The owner of a volume makes a [`MappedBody`] once it has verified the bytes in the page cache, which is the memory that the mapping shows; any core that
//! finds the response asks whether the pages are still there, takes a [`Lease`] and hands its bytes to the kernel. What keeps it sound:
//!
//! 1. Nothing of ours reads a mapped byte: a lease gives them as bytes of which nobody says that they are there (`MaybeUninit`), which only a system
//!    call can take. A page that cannot be read makes that call fail; nothing is signalled.
//! 2. A segment is written anew only when no lease of it is left ([`Gates`]).
//!
//! Invariant: a body that was found gone is never there again.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::{fmt, io};

use memmap2::{Advice, Mmap, MmapOptions};

use super::gates::{Gates, Life};
use crate::atomics::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::limits::RESIDENCE_ASKED_MILLIS;

/// The mapping of one volume's file.
pub struct VolumeMap {
    map: Mmap,
    file: OwnedFd,
    gates: Gates,
    /// Bytes of the bodies over it that are not gone.
    mapped_len: AtomicU64,
    /// Sends that could not read a page.
    faults: AtomicU32,
    /// The segment of the last of these.
    fault_segment: AtomicU32,
}

impl VolumeMap {
    /// Maps the first `len` bytes of a file, which is open through the page cache.
    pub fn new(file: OwnedFd, len: u64, gates: Gates) -> io::Result<VolumeMap> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        // JUSTIFICATION: the language has no word for memory that is a file's.
        // SAFETY: what makes a mapping of a file unsound is that its bytes change, or go, under a reference. No reference to a byte of it is ever made
        // but as `MaybeUninit` in `Lease::piece`, which nothing reads but the kernel. Test: `a_file_that_is_cut_short_is_a_failed_call`.
        let map = unsafe { MmapOptions::new().len(len).map(file.as_raw_fd())? };
        // Hints; they are not needed for anything but speed and small core dumps.
        let _ = map.advise(Advice::Random);
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::DontDump);
        Ok(VolumeMap {
            map,
            file,
            gates,
            mapped_len: AtomicU64::new(0),
            faults: AtomicU32::new(0),
            fault_segment: AtomicU32::new(0),
        })
    }

    /// Returns who may send from which segment.
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// Returns the bytes of all bodies over it that are not gone, whoever else holds some that are.
    pub fn mapped_len(&self) -> u64 {
        self.mapped_len.load(Ordering::Relaxed)
    }

    /// Returns how many sends could not read a page since the last call, and the segment of the last.
    pub fn take_faults(&self) -> Option<(u32, u32)> {
        if self.faults.load(Ordering::Relaxed) == 0 {
            return None;
        }
        Some((self.faults.swap(0, Ordering::AcqRel), self.fault_segment.load(Ordering::Relaxed)))
    }
}

impl AsFd for VolumeMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for VolumeMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeMap").field("len", &self.map.len()).finish_non_exhaustive()
    }
}

/// The content of one stored response, verified, in the page cache.
#[derive(Debug)]
pub struct MappedBody {
    map: Arc<VolumeMap>,
    /// Where in the file it lies.
    range: Range<u64>,
    segment: u32,
    life: Life,
    /// When its pages were found to be there last, in milliseconds of the core that asked.
    asked_at: AtomicU64,
    is_gone: AtomicBool,
}

impl MappedBody {
    /// Makes one of bytes that were just verified; `None` if they are not in the mapping. `life` is the segment's from before that.
    pub fn new(
        map: &Arc<VolumeMap>,
        (segment, life): (u32, Life),
        range: Range<u64>,
        now_millis: u64,
    ) -> Option<Arc<MappedBody>> {
        let is_inside = range.start < range.end && range.end <= map.map.len() as u64;
        if !is_inside || !map.gates.is_open(segment, life) {
            return None;
        }
        map.mapped_len.fetch_add(range.end - range.start, Ordering::Relaxed);
        Some(Arc::new(MappedBody {
            map: Arc::clone(map),
            range,
            segment,
            life,
            asked_at: AtomicU64::new(now_millis),
            is_gone: AtomicBool::new(false),
        }))
    }

    /// Returns how many bytes it has.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Tells whether it can be sent now. `is_resident` tells whether all pages of a range of the file are in memory; it is not asked again so soon
    /// after it was.
    pub fn is_there(
        &self,
        now_millis: u64,
        is_resident: impl FnOnce(BorrowedFd<'_>, &Range<u64>) -> bool,
    ) -> bool {
        if self.is_gone.load(Ordering::Acquire) || !self.map.gates.is_open(self.segment, self.life) {
            return false;
        }
        let asked_at = self.asked_at.load(Ordering::Relaxed);
        // Another core's clock may be ahead of this one's.
        if now_millis.checked_sub(asked_at).is_some_and(|age| age < RESIDENCE_ASKED_MILLIS) {
            return true;
        }
        let is_there = is_resident(self.map.as_fd(), &self.range);
        if is_there {
            self.asked_at.store(now_millis, Ordering::Relaxed);
        } else {
            self.set_gone();
        }
        is_there
    }

    /// Has it never be found there again.
    pub fn set_gone(&self) {
        if !self.is_gone.swap(true, Ordering::AcqRel) {
            self.map.mapped_len.fetch_sub(self.len(), Ordering::Relaxed);
        }
    }

    /// Lets the kernel read it; `None` if its segment was written anew.
    pub fn lease(self: &Arc<Self>) -> Option<Lease> {
        self.map.gates.enter(self.segment, self.life).then(|| Lease { body: Arc::clone(self) })
    }
}

impl Drop for MappedBody {
    fn drop(&mut self) {
        self.set_gone();
    }
}

/// Keeps the bytes of a mapped body what they are while the kernel may read them.
#[derive(Debug)]
pub struct Lease {
    body: Arc<MappedBody>,
}

impl Lease {
    /// Returns the bytes from `at` on, for a system call that reads them.
    pub fn piece(&self, at: u64) -> &[MaybeUninit<u8>] {
        let range = &self.body.range;
        let start = range.start.saturating_add(at).min(range.end);
        // JUSTIFICATION: the kernel takes addresses; a copy is what the mapping saves.
        // SAFETY: the slice covers bytes of the mapping.
        // - Alive: the body keeps the mapping, which is never unmapped or moved before its drop, and the slice borrows the body.
        // - In bounds: `MappedBody::new` saw that the range lies in the mapping, and `start <= range.end`.
        // - Never read by us: `MaybeUninit` has no safe way to read it, and no other code of this crate and of `net/runtime` does; that the file may be
        //   changed or cut short by others is so nothing that the language can see.
        // Test: `a_file_that_is_cut_short_is_a_failed_call`.
        unsafe {
            let bytes = self.body.map.map.as_ptr().add(start as usize).cast::<MaybeUninit<u8>>();
            std::slice::from_raw_parts(bytes, (range.end - start) as usize)
        }
    }

    /// The kernel could not read it: nobody finds it there any more, nor its neighbours, and the owner of the volume is told.
    pub fn unreadable(&self) {
        let MappedBody { map, segment, .. } = &*self.body;
        self.body.set_gone();
        map.gates.close(*segment);
        map.fault_segment.store(*segment, Ordering::Relaxed);
        map.faults.fetch_add(1, Ordering::AcqRel);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.body.map.gates.leave(self.body.segment);
    }
}

#[cfg(test)]
mod tests;
