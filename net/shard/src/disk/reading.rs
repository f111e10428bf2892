//! Reading records: a place among those that read, a buffer, one read, and the checks before anybody sees a byte.
//!
//! Flights of the owner ask (`restore.rs`). Reads of one length class wait in line for one of its buffers, so that large ones do not hold up
//! small ones, and what is in flight is bounded in count and bytes. Invariants: a record is handed out verified or not at all; what does
//! not verify loses its place in the index; a segment is pinned while it is read; a device that does not answer costs a request a bounded
//! time, and its buffer stays with the kernel until it does.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use aspis_runtime::sync::oneshot;
use aspis_runtime::{Elapsed, Ring};
use aspis_storage::budget::Budget;
use aspis_storage::disk::format::{BLOCK_LEN, CHECKED_LEN, READ_LEN_MAX};
use aspis_storage::disk::record::{Mismatch, Place, Record, RecordKind, decode_front, decode_record};
use aspis_storage::disk::volume::Found;
use aspis_storage::mapping::aligned::AlignedBuf;
use aspis_telemetry::Counter;

use super::{Disk, IoFailed, Mounted};
use crate::limits::{
    DISK_READ_LEN_MAX, DISK_READ_PATIENCE, DISK_READ_SHARE, DISK_READS_MAX, DISK_READS_WAITING_MAX,
};

/// Bytes of the buffers of small reads, and how many run at once. A class of record lengths is up to a quarter longer than the record, and
/// the blocks around it are read too.
const SMALL: (usize, usize) = (24 * 1024, 40);

/// The same for those in between.
const MEDIUM: (usize, usize) = (160 * 1024, 16);

/// The same for the longest, at most.
const LARGE: (usize, usize) = (READ_LEN_MAX as usize, 8);

const _: () = assert!(SMALL.1 + MEDIUM.1 + LARGE.1 == DISK_READS_MAX);

/// Bytes of a slice's front, unless its key is very long: its body begins on the next block.
const FRONT_LEN: usize = BLOCK_LEN as usize;

/// A record longer than this is verified in a turn without another such thing.
pub(super) const LONG: usize = 128 * 1024;

/// A record that was read and verified, as long as somebody looks at it.
pub(crate) struct ReadRecord {
    lent: Lent,
    skip: usize,
    place: Place,
    hash: u128,
}

impl ReadRecord {
    /// Returns the record. Its key is to be compared.
    pub(crate) fn record(&self) -> Record<'_> {
        let bytes = &self.lent.bytes()[self.skip..];
        decode_record(bytes, &self.place, self.hash).expect("it was verified and nobody wrote to it since")
    }
}

/// Some bytes of a slice that were read and verified.
pub(crate) struct ReadSlice {
    lent: Lent,
    range: Range<usize>,
}

impl ReadSlice {
    /// Returns the bytes that were asked for.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.lent.bytes()[self.range.clone()]
    }
}

/// The buffers of a core's reads.
pub(super) struct Reads {
    lanes: [Rc<Lane>; 3],
}

impl Reads {
    pub(super) fn new(budget: &Arc<Budget>, cores: usize) -> Self {
        let most = (budget.limit() / DISK_READ_SHARE / cores as u64).min(DISK_READ_LEN_MAX) as usize;
        let lanes = [SMALL, MEDIUM, LARGE].map(|(len, count)| (len, count.min(most / 3 / len).max(1)));
        // All in one mapping, for which the kernel gives memory when it is first read into. Without one each read brings its own buffer.
        let lens = lanes.iter().flat_map(|(len, count)| std::iter::repeat_n(*len, *count));
        let mut buffers = AlignedBuf::several(lens, budget).unwrap_or_default().into_iter();
        let lane = |(len, count)| Lane::new(len, count, buffers.by_ref().take(count).collect(), budget);
        Reads { lanes: lanes.map(lane) }
    }

    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.lanes.iter().all(|lane| lane.free.get() == lane.count && lane.waiting.borrow().is_empty())
    }

    /// The shortest buffers that hold `len` bytes.
    fn lane(&self, len: usize) -> Option<&Rc<Lane>> {
        self.lanes.iter().find(|lane| lane.len >= len)
    }
}

/// Buffers of one length, and who waits for one.
struct Lane {
    len: usize,
    /// How many may read at once.
    #[cfg(test)]
    count: usize,
    /// How many more may read now.
    free: Cell<usize>,
    /// At hand. One that the kernel did not give back in time is replaced by one of its own.
    buffers: RefCell<Vec<AlignedBuf>>,
    budget: Arc<Budget>,
    waiting: RefCell<VecDeque<oneshot::Sender<Turn>>>,
}

/// The right to one of a lane's buffers; it goes to the next in line when it is dropped.
struct Turn(Rc<Lane>);

impl Drop for Turn {
    fn drop(&mut self) {
        let lane = &self.0;
        lane.free.set(lane.free.get() + 1);
        loop {
            let Some(next) = lane.waiting.borrow_mut().pop_front() else { return };
            if next.is_closed() {
                continue;
            }
            lane.free.set(lane.free.get() - 1);
            // It was not closed a moment ago, and nothing ran since.
            let _ = next.send(Turn(Rc::clone(lane)));
            return;
        }
    }
}

impl Lane {
    fn new(len: usize, count: usize, buffers: Vec<AlignedBuf>, budget: &Arc<Budget>) -> Rc<Self> {
        Rc::new(Lane {
            len,
            #[cfg(test)]
            count,
            free: Cell::new(count),
            buffers: RefCell::new(buffers),
            budget: Arc::clone(budget),
            waiting: RefCell::default(),
        })
    }

    /// Waits for a buffer; `None` when too many do, or when there is no memory for it.
    async fn lend(self: &Rc<Self>, ring: &Ring) -> Option<Lent> {
        let turn = if let Some(left) = self.free.get().checked_sub(1) {
            self.free.set(left);
            Turn(Rc::clone(self))
        } else {
            let (sender, receiver) = oneshot::channel();
            {
                let mut waiting = self.waiting.borrow_mut();
                if waiting.len() >= DISK_READS_WAITING_MAX {
                    return None;
                }
                waiting.push_back(sender);
            }
            // Who waits that long is better served by the origin; the device is slow, not broken.
            ring.timeout(DISK_READ_PATIENCE, receiver).await.ok()?.ok()?
        };
        let at_hand = self.buffers.borrow_mut().pop();
        let buffer = at_hand.or_else(|| AlignedBuf::new(self.len, &self.budget))?;
        Some(Lent { buffer: Some(buffer), turn })
    }
}

/// A buffer of a lane, in the hands of who reads.
struct Lent {
    /// `None` while the kernel has it.
    buffer: Option<AlignedBuf>,
    turn: Turn,
}

impl Lent {
    fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().expect("the kernel gave it back").as_ref()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // Else the operation drops it when the kernel is done with it.
        if let Some(buffer) = self.buffer.take() {
            self.turn.0.buffers.borrow_mut().push(buffer);
        }
    }
}

/// Keeps a segment from being overwritten.
struct Pin<'m> {
    mounted: &'m Mounted,
    segment: u32,
}

impl<'m> Pin<'m> {
    fn new(mounted: &'m Mounted, segment: u32) -> Self {
        mounted.volume.borrow_mut().pin(segment);
        Pin { mounted, segment }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.mounted.volume.borrow_mut().unpin(self.segment);
    }
}

impl Disk {
    /// Tells whether a record may be there. Reads memory only; in most cases of yes it is.
    #[inline]
    pub(crate) fn may_hold(&self, primary: u128, hash: u128) -> bool {
        let Some(mounted) = self.mounted(primary) else { return false };
        !self.is_off_line(mounted) && mounted.volume.borrow().find(hash).is_some()
    }

    /// Notes that something was used that is in memory as well, so that reclaim keeps it; tells whether it is there.
    pub(crate) fn used(&self, primary: u128, hash: u128) -> bool {
        let Some(mounted) = self.mounted(primary) else { return false };
        let mut volume = mounted.volume.borrow_mut();
        volume.used(hash);
        volume.find(hash).is_some()
    }

    /// Reads the record of a hash and verifies it; `None` if there is none, or if it cannot be had. The key is to be compared.
    pub(crate) async fn read(&self, primary: u128, hash: u128) -> Option<ReadRecord> {
        let mounted = self.mounted(primary).filter(|mounted| !self.is_off_line(mounted))?;
        let (mut lent, found, _pin) = self.lend(mounted, hash).await?;
        let place = Place { store: mounted.superblock.store, sequence: found.sequence };
        let all = 0..found.len as usize;
        let skip = self.fetch(mounted, hash, &found, &[all, 0..0], &mut lent).await?;
        if found.len as usize > LONG {
            self.long_step().await;
        }
        let verified = match decode_record(&lent.bytes()[skip..], &place, hash) {
            Ok(record) if record.verify_body() => Ok(()),
            Ok(_) => Err(Mismatch::Damaged),
            Err(mismatch) => Err(mismatch),
        };
        self.judge(mounted, &found, hash, verified)?;
        Some(ReadRecord { lent, skip, place, hash })
    }

    /// Reads these bytes of a slice and verifies them, as [`Disk::read`] does for a whole record; `key` is whose slice it is.
    pub(crate) async fn read_slice(
        &self,
        primary: u128,
        (hash, key): (u128, &[u8]),
        range: Range<usize>,
    ) -> Option<ReadSlice> {
        let mounted = self.mounted(primary).filter(|mounted| !self.is_off_line(mounted))?;
        let (mut lent, found, _pin) = self.lend(mounted, hash).await?;
        let place = Place { store: mounted.superblock.store, sequence: found.sequence };
        let all = 0..found.len as usize;
        let mut skip = self.fetch(mounted, hash, &found, &spans(&range, all.end), &mut lent).await?;
        self.long_step().await;
        let front = decode_front(&lent.bytes()[skip..], &place, hash);
        // With a key as long as that the body begins later, and not all that was wanted of it was read.
        if !front.is_ok_and(|front| front.front_len() == FRONT_LEN) {
            skip = self.fetch(mounted, hash, &found, &[all, 0..0], &mut lent).await?;
        }
        let bytes = &lent.bytes()[skip..];
        let verified = decode_front(bytes, &place, hash).and_then(|front| {
            let end = front.front_len() + front.body_len();
            let body = bytes.get(front.front_len()..end).ok_or(Mismatch::Short)?;
            if front.kind() != RecordKind::Slice || front.key != key || range.end > body.len() {
                return Err(Mismatch::OtherHash);
            }
            let mut blocks = front.blocks(range.clone());
            let is_whole = blocks.all(|block| front.verify_block(block, &body[front.block(block)]));
            if is_whole { Ok(skip + front.front_len()) } else { Err(Mismatch::Damaged) }
        });
        let start = self.judge(mounted, &found, hash, verified)?;
        Some(ReadSlice { lent, range: start + range.start..start + range.end })
    }

    /// A read brought the record of another key with the same hash, or one that is of no use any more.
    pub(crate) fn note_other(&self) {
        self.counters.add(Counter::DiskFalseCandidates, 1);
    }

    /// Waits for a buffer that holds the record of a hash, and pins its segment.
    async fn lend<'d>(&self, mounted: &'d Mounted, hash: u128) -> Option<(Lent, Found, Pin<'d>)> {
        let find = || mounted.volume.borrow().find(hash);
        let lane = self.reads.lane(find()?.len as usize)?;
        let lent = lane.lend(&self.ring).await?;
        // Something else may lie there by now, which need not fit.
        let found = find().filter(|found| found.len as usize <= lane.len)?;
        let pin = Pin::new(mounted, found.segment);
        Some((lent, found, pin))
    }

    /// Brings these spans of the blocks around a record to their places in the buffer; returns where in it the record begins.
    async fn fetch(
        &self,
        mounted: &Mounted,
        hash: u128,
        found: &Found,
        spans: &[Range<usize>; 2],
        lent: &mut Lent,
    ) -> Option<usize> {
        let buffer = lent.buffer.as_mut()?;
        if let Some(bytes) = mounted.volume.borrow().buffered(found) {
            let len = bytes.len().min(buffer.len());
            buffer.as_mut()[..len].copy_from_slice(&bytes[..len]);
            return Some(0);
        }
        for span in spans.iter().filter(|span| !span.is_empty()) {
            let buffer = lent.buffer.take()?;
            let (result, buffer) = self.read_into(mounted, found.file_offset, buffer, span.clone()).await;
            lent.buffer = buffer;
            match result {
                Ok(()) => {}
                Err(IoFailed::Late) => return None,
                Err(_) => {
                    self.forget_place(mounted, found, hash);
                    return None;
                }
            }
        }
        Some(found.skip)
    }

    /// Reads a range of what begins at `offset` of a volume to its place in `buffer`, whole or not at all. The buffer is not given back
    /// when that takes too long.
    pub(super) async fn read_into(
        &self,
        mounted: &Mounted,
        offset: u64,
        buffer: AlignedBuf,
        range: Range<usize>,
    ) -> (Result<(), IoFailed>, Option<AlignedBuf>) {
        self.counters.add(Counter::DiskReads, 1);
        let len = range.len();
        let read = async {
            let (mut buffer, mut done) = (buffer, range.start);
            while done < range.end {
                let (result, back) =
                    self.ring.read_at(&mounted.file, offset + done as u64, buffer, done..range.end).await;
                buffer = back;
                match result {
                    Ok(0) => return (Err(IoFailed::Short), buffer),
                    Ok(read) => done += read,
                    Err(errno) => return (Err(IoFailed::Errno(errno)), buffer),
                }
            }
            (Ok(()), buffer)
        };
        let (result, buffer) = match self.ring.timeout(DISK_READ_PATIENCE, read).await {
            Ok((result, buffer)) => (result, Some(buffer)),
            Err(Elapsed) => (Err(IoFailed::Late), None),
        };
        match result {
            Ok(()) => self.counters.add(Counter::DiskReadBytes, len as u64),
            Err(failed) => {
                self.counters.add(Counter::DiskReadErrors, 1);
                self.note_error(mounted, failed);
            }
        }
        (result, buffer)
    }

    /// Acts on what the checks said.
    pub(super) fn judge<T>(
        &self,
        mounted: &Mounted,
        found: &Found,
        hash: u128,
        verified: Result<T, Mismatch>,
    ) -> Option<T> {
        match verified {
            Ok(value) => {
                let mut volume = mounted.volume.borrow_mut();
                // What was removed or replaced while it was read is not what was looked for any more.
                let is_there = |now: Found| (now.segment, now.unit) == (found.segment, found.unit);
                if !volume.find(hash).is_some_and(is_there) {
                    return None;
                }
                volume.used(hash);
                Some(value)
            }
            Err(Mismatch::OtherHash) => {
                self.note_other();
                None
            }
            Err(Mismatch::NotARecord | Mismatch::Short | Mismatch::Damaged) => {
                self.counters.add(Counter::DiskCheckFailures, 1);
                self.forget_place(mounted, found, hash);
                None
            }
        }
    }

    /// What was found could not be read, or is not what was written.
    fn forget_place(&self, mounted: &Mounted, found: &Found, hash: u128) {
        let mut volume = mounted.volume.borrow_mut();
        volume.drop_slot(found, hash);
        volume.note_error(found.segment);
    }
}

/// What to read of a slice for some bytes of its body: its front and the blocks that are checked as a whole, in one read if they are close.
fn spans(range: &Range<usize>, len: usize) -> [Range<usize>; 2] {
    let start = FRONT_LEN + range.start / CHECKED_LEN * CHECKED_LEN;
    let end = (FRONT_LEN + range.end.next_multiple_of(CHECKED_LEN)).min(len);
    let is_far = start > FRONT_LEN + CHECKED_LEN && start < end;
    if is_far { [0..FRONT_LEN, start..end] } else { [0..end, end..end] }
}
