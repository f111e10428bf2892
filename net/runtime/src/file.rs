//! Files on the ring: reads and writes at an offset, awaited by tasks.
//!
//! Fed by the disk tier's driver with buffers that it owns; the buffer goes into the operation's slot (`op.rs`) before the kernel learns
//! its address and comes back with the completion. Nothing here waits, syncs or moves a file position. The kernel does what it can at once
//! and gives the rest to its own workers, so a slow device holds up the operation and never the core.
//!
//! Invariants: buffer and descriptor are the slot's until the completion is reaped, whatever became of the future and of the file's other
//! handles; a core that stops waits for operations on files no longer than for others (`limits::STOP_WAIT`), and leaks what a dead device keeps.

use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::opcode;
use io_uring::squeue::Entry;
use io_uring::types::Fd;

use crate::op::{Holder, Kind, Memory, Operation, OperationFuture, PinnedBuffer, user_data};
use crate::ring::{Ring, State};
use crate::slots::Key;

/// An open file of one core. Handles are cheap; the descriptor is closed when the last one and the last operation are gone.
#[derive(Clone, Debug)]
pub struct DiskFile(Rc<OwnedFd>);

impl DiskFile {
    /// Takes an open descriptor. What it may be used for, and whether past the page cache, was decided when it was opened.
    pub fn new(descriptor: OwnedFd) -> Self {
        DiskFile(Rc::new(descriptor))
    }
}

impl Ring {
    /// Reads once from `offset` of the file into `range` of `buffer`, clamped to it, and gives the buffer back; fewer bytes than asked for is
    /// the file's end, or a read that has to go on, and 0 is the end. Dropping the future cancels the read as far as the kernel still can
    /// and keeps the buffer until it is done with it.
    pub async fn read_at<B: AsMut<[u8]> + 'static>(
        &self,
        file: &DiskFile,
        offset: u64,
        buffer: B,
        range: Range<usize>,
    ) -> (Result<usize, i32>, B) {
        let read = |fd, start, len| opcode::Read::new(fd, start, len).offset(offset).build();
        let operation =
            self.inner.state.borrow_mut().start_on_file(file, PinnedBuffer::new(buffer), range, read);
        self.finish_on_file(operation).await
    }

    /// Writes once `range` of `buffer`, clamped to it, to `offset` of the file and gives the buffer back; fewer bytes than asked for is a
    /// write that has to go on. Others may hold and read the buffer too, if its type lets them. A dropped future leaves it open whether,
    /// and when, the bytes are written.
    pub async fn write_at<B: AsRef<[u8]> + 'static>(
        &self,
        file: &DiskFile,
        offset: u64,
        buffer: B,
        range: Range<usize>,
    ) -> (Result<usize, i32>, B) {
        let write =
            |fd, start: *mut u8, len| opcode::Write::new(fd, start.cast_const(), len).offset(offset).build();
        let operation =
            self.inner.state.borrow_mut().start_on_file(file, PinnedBuffer::shared(buffer), range, write);
        self.finish_on_file(operation).await
    }

    /// Has the kernel bring a range of a file, which is open through the page cache, into memory. Done when the reads have begun, by a worker of the
    /// kernel.
    pub async fn read_ahead(&self, file: &DiskFile, range: Range<u64>) -> Result<(), i32> {
        let len = libc::off_t::try_from(range.end.saturating_sub(range.start)).unwrap_or(libc::off_t::MAX);
        let entry = opcode::Fadvise::new(Fd(file.0.as_raw_fd()), len, libc::POSIX_FADV_WILLNEED)
            .offset(range.start)
            .build();
        let operation = self.inner.state.borrow_mut().push_on_file(file, Memory::None, &entry);
        let (result, _) = OperationFuture::new(self.inner.clone(), operation).await;
        if result < 0 { Err(-result) } else { Ok(()) }
    }

    async fn finish_on_file<B: 'static>(&self, operation: Key) -> (Result<usize, i32>, B) {
        let (result, memory) = OperationFuture::new(self.inner.clone(), operation).await;
        let Memory::Buffer(pinned) = memory else { unreachable!("it was started with a buffer") };
        (usize::try_from(result).map_err(|_| -result), pinned.into_inner())
    }
}

impl State {
    /// Submits one operation on a file, on a range of a buffer.
    fn start_on_file(
        &mut self,
        file: &DiskFile,
        pinned: PinnedBuffer,
        range: Range<usize>,
        entry: impl FnOnce(Fd, *mut u8, u32) -> Entry,
    ) -> Key {
        let (start, len) = pinned.range(range.start, range.end);
        let entry = entry(Fd(file.0.as_raw_fd()), start, u32::try_from(len).unwrap_or(u32::MAX));
        self.push_on_file(file, Memory::Buffer(pinned), &entry)
    }

    /// Submits one operation on a file.
    fn push_on_file(&mut self, file: &DiskFile, memory: Memory, entry: &Entry) -> Key {
        let operation = self.operations.insert(Operation {
            holder: Holder::File { _descriptor: Rc::clone(&file.0) },
            memory,
            waker: None,
            result: None,
            abandoned: false,
        });
        self.push(&entry.clone().user_data(user_data(Kind::Operation, operation)));
        operation
    }
}
