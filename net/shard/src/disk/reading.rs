//! Reading records: a place among those that read, a buffer, one read, and the checks before anybody sees a byte.
//!
//! Flights of the owner ask (`restore.rs`). Reads of one length class wait in line for one of its buffers, so that large ones do not hold up
//! small ones, and what is in flight is bounded in count and bytes. A short record is copied from there into memory. What is long is read to where it
//! stays, if the arena has such a block: its bytes are looked at once, for the check. Invariants: a record is handed out verified or not at all; what does
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
use aspis_storage::disk::record::{Front, Mismatch, Place, Record, RecordKind, decode_front, decode_record};
use aspis_storage::disk::volume::Found;
use aspis_storage::mapping::aligned::AlignedBuf;
use aspis_storage::mapping::arena::{Arena, Block};
use aspis_storage::mapping::body::{Body, BodyWriter};
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

/// Gives a block of the arena with room for so many bytes side by side, if there is one.
pub(crate) type Blocks<'b> = dyn Fn(usize) -> Option<Block> + 'b;

/// Everything of a record that was read and verified but its body.
pub(crate) struct ReadFront {
    bytes: Box<[u8]>,
    place: Place,
    hash: u128,
}

impl ReadFront {
    /// Returns what it says. Its key is to be compared.
    pub(crate) fn front(&self) -> Front<'_> {
        decode_front(&self.bytes, &self.place, self.hash)
            .expect("it was verified and nobody wrote to it since")
    }
}

/// The body of a record, or some of it, that was read and verified.
pub(crate) struct ReadBody {
    lent: Lent,
    range: Range<usize>,
}

impl ReadBody {
    /// Returns the bytes that were asked for.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.lent.bytes()[self.range.clone()]
    }

    /// Makes a body in memory of them, without a copy; `Err` if they lie in a buffer of ours.
    pub(crate) fn into_body(mut self, arena: &Arena) -> Result<Arc<Body>, Self> {
        match self.lent.room.take() {
            Some(Room::Block(block)) if !self.range.is_empty() => {
                Ok(Body::of_block(arena, block, self.range.clone()))
            }
            room => {
                self.lent.room = room;
                Err(self)
            }
        }
    }

    /// Appends them to a body in memory, without a copy, and returns how many they are; `Err` if they lie in a buffer of ours, or cannot follow
    /// what is there.
    pub(crate) fn append_to(mut self, writer: &mut BodyWriter) -> Result<usize, Self> {
        match self.lent.room.take() {
            Some(Room::Block(block)) => match writer.adopt(block, self.range.clone()) {
                Ok(()) => return Ok(self.range.len()),
                Err(block) => self.lent.room = Some(Room::Block(block)),
            },
            room => self.lent.room = room,
        }
        Err(self)
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

    /// Waits for the right to one of the buffers; `None` when too many do.
    async fn turn(self: &Rc<Self>, ring: &Ring) -> Option<Turn> {
        if let Some(left) = self.free.get().checked_sub(1) {
            self.free.set(left);
            return Some(Turn(Rc::clone(self)));
        }
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.borrow_mut();
            if waiting.len() >= DISK_READS_WAITING_MAX {
                return None;
            }
            waiting.push_back(sender);
        }
        // Who waits that long is better served by the origin; the device is slow, not broken.
        ring.timeout(DISK_READ_PATIENCE, receiver).await.ok()?.ok()
    }

    /// Takes a buffer, for who has a turn; `None` when there is no memory for it.
    fn buffer(&self) -> Option<AlignedBuf> {
        let at_hand = self.buffers.borrow_mut().pop();
        at_hand.or_else(|| AlignedBuf::new(self.len, &self.budget))
    }
}

/// What is read into.
enum Room {
    /// A lane's.
    Buffer(AlignedBuf),
    /// Of the arena, where it may stay.
    Block(Block),
}

impl AsRef<[u8]> for Room {
    fn as_ref(&self) -> &[u8] {
        match self {
            Room::Buffer(buffer) => buffer.as_ref(),
            Room::Block(block) => block.as_ref(),
        }
    }
}

impl AsMut<[u8]> for Room {
    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Room::Buffer(buffer) => buffer.as_mut(),
            Room::Block(block) => block.as_mut(),
        }
    }
}

/// Room for a read, in the hands of who reads.
struct Lent {
    /// `None` while the kernel has it.
    room: Option<Room>,
    turn: Turn,
}

impl Lent {
    fn bytes(&self) -> &[u8] {
        self.room.as_ref().expect("the kernel gave it back").as_ref()
    }

    fn is_block(&self) -> bool {
        matches!(self.room, Some(Room::Block(_)))
    }

    /// Takes a lane's buffer in place of what there is.
    fn take_buffer(&mut self) -> Option<()> {
        self.room = Some(Room::Buffer(self.turn.0.buffer()?));
        Some(())
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // What the kernel has is dropped by the operation when it is done with it.
        if let Some(Room::Buffer(buffer)) = self.room.take() {
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

/// Decodes a whole record and verifies all of it.
pub(super) fn verified<'b>(bytes: &'b [u8], place: &Place, hash: u128) -> Result<Record<'b>, Mismatch> {
    let record = decode_record(bytes, place, hash)?;
    if record.verify_body() { Ok(record) } else { Err(Mismatch::Damaged) }
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
    ///
    /// A long one is read into one of `blocks`, if there is one: its body may stay there.
    pub(crate) async fn read(
        &self,
        primary: u128,
        hash: u128,
        blocks: Option<&Blocks<'_>>,
    ) -> Option<(ReadFront, ReadBody)> {
        let mounted = self.usable(primary)?;
        let (mut lent, found, _pin) = self.lend(mounted, hash, (blocks, usize::MAX)).await?;
        let place = Place { store: mounted.superblock.store, sequence: found.sequence };
        let all = 0..found.len as usize;
        let skip = self.fetch(mounted, hash, &found, &[all, 0..0], &mut lent).await?;
        if found.len as usize > LONG {
            self.long_step().await;
        }
        let bytes = &lent.bytes()[skip..];
        let record = self.judge(mounted, &found, hash, verified(bytes, &place, hash))?;
        let (front_len, body_len) = (record.front.front_len(), record.body().len());
        // Apart from the body, which need not stay with it.
        let front = ReadFront { bytes: lent.bytes()[skip..skip + front_len].into(), place, hash };
        let start = skip + front_len;
        Some((front, ReadBody { lent, range: start..start + body_len }))
    }

    /// Reads these bytes of a slice and verifies them, as [`Disk::read`] does for a whole record; `key` is whose slice it is. Where there are
    /// blocks for them they are all of it.
    pub(crate) async fn read_slice(
        &self,
        primary: u128,
        (hash, key): (u128, &[u8]),
        range: Range<usize>,
        blocks: Option<&Blocks<'_>>,
    ) -> Option<ReadBody> {
        let mounted = self.usable(primary)?;
        let blocks = blocks.filter(|_| range.start == 0 && range.len() > LONG);
        let end = (FRONT_LEN + range.end).next_multiple_of(BLOCK_LEN as usize);
        let (mut lent, found, _pin) = self.lend(mounted, hash, (blocks, end)).await?;
        let place = Place { store: mounted.superblock.store, sequence: found.sequence };
        let all = 0..found.len as usize;
        let wanted = if lent.is_block() { [0..end.min(all.end), 0..0] } else { spans(&range, all.end) };
        let mut skip = self.fetch(mounted, hash, &found, &wanted, &mut lent).await?;
        self.long_step().await;
        let is_as_thought = decode_front(&lent.bytes()[skip..], &place, hash).is_ok_and(|front| {
            front.front_len() == FRONT_LEN && (!lent.is_block() || front.body_len() == range.end)
        });
        // With a key as long as that the body begins later, and not all that was wanted of it was read.
        if !is_as_thought {
            if lent.is_block() {
                lent.take_buffer()?;
            }
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
        Some(ReadBody { lent, range: start + range.start..start + range.end })
    }

    /// A read brought the record of another key with the same hash, or one that is of no use any more.
    pub(crate) fn note_other(&self) {
        self.counters.add(Counter::DiskFalseCandidates, 1);
    }

    /// Waits for room for the record of a hash, or for its first bytes, and pins its segment: a block for a long one, or a buffer, which holds
    /// all of it.
    async fn lend<'d>(
        &self,
        mounted: &'d Mounted,
        hash: u128,
        (blocks, len_max): (Option<&Blocks<'_>>, usize),
    ) -> Option<(Lent, Found, Pin<'d>)> {
        let find = || mounted.volume.borrow().find(hash);
        let lane = self.reads.lane(find()?.len as usize)?;
        let turn = lane.turn(&self.ring).await?;
        // Something else may lie there by now, which need not fit.
        let found = find().filter(|found| found.len as usize <= lane.len)?;
        // Before what is asked for a block lets others leave memory, some of them for the disk.
        let pin = Pin::new(mounted, found.segment);
        let blocks = blocks.filter(|_| found.len as usize > LONG);
        let block = blocks.and_then(|block| block(len_max.min(found.len as usize)));
        let room = match block {
            Some(block) => Room::Block(block),
            None => Room::Buffer(lane.buffer()?),
        };
        Some((Lent { room: Some(room), turn }, found, pin))
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
        let room = lent.room.as_mut()?.as_mut();
        if let Some(bytes) = mounted.volume.borrow().buffered(found) {
            let len = bytes.len().min(room.len());
            room[..len].copy_from_slice(&bytes[..len]);
            return Some(0);
        }
        for span in spans.iter().filter(|span| !span.is_empty()) {
            let room = lent.room.take()?;
            let (result, room) = self.read_into(mounted, found.file_offset, room, span.clone()).await;
            lent.room = room;
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
    pub(super) async fn read_into<B: AsMut<[u8]> + 'static>(
        &self,
        mounted: &Mounted,
        offset: u64,
        buffer: B,
        range: Range<usize>,
    ) -> (Result<(), IoFailed>, Option<B>) {
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
                self.doubt(mounted);
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
