//! What a volume knows about its segments, and the segment table that says so on the disk.
//!
//! ```text
//! Unknown ─┬─> Free ──> Open ──> Closing ──> Sealed ──> Victim ──> Freeing ──> Free
//!          ├─> Sealed          (footer)                              └──> Bad, after errors ──> Freeing, if a trial passes
//!          ├─> Closing, if it was open when the process ended
//!          └─> Bad
//! ```
//!
//! Fed by the volume, which changes entries; the table's blocks are written when they differ from what the disk has. Invariants: a segment
//! is written only while its entry is on the disk as open with its sequence; one that was reclaimed is free when the disk knows it and
//! nobody reads it; one block of the table is in one write at a time; what is asked often (how many segments have a role, the bytes that are found,
//! the smallest number) is kept up to date, so that no answer takes a walk over the 20,000 segments of a large volume.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::format::{
    BLOCK_LEN, Class, Geometry, SegmentState, StoreId, TABLE_ENTRIES_PER_BLOCK, TABLE_ENTRY_LEN, TableEntry,
};
use crate::budget::{Budget, Charge, Purpose};
use crate::mapping::aligned::{AlignedBuf, SharedBuf};
use crate::mapping::mapped::VolumeMap;

/// What the volume does with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Role {
    /// Recovery did not tell yet.
    Unknown,
    /// Nothing in it counts, and the disk knows.
    Free,
    /// Records are appended.
    Open,
    /// It takes no more records; its last bytes and its footer are on their way.
    Closing,
    /// It is read only.
    Sealed,
    /// It is being reclaimed.
    Victim,
    /// It was reclaimed; the disk does not know yet, or somebody still reads it.
    Freeing,
    /// It had errors, and is not used unless a trial passes.
    Bad,
}

/// One segment.
#[derive(Debug)]
pub(super) struct Segment {
    /// What the table says, or is about to.
    pub(super) entry: TableEntry,
    role: Role,
    /// Bytes of records that are found, by their length classes.
    live_len: u64,
    /// Reads that are under way.
    pub(super) pins: u32,
    /// When the entry changed last.
    changed: u64,
}

impl Segment {
    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn live_len(&self) -> u64 {
        self.live_len
    }
}

/// How many roles there are.
const ROLES: usize = Role::Bad as usize + 1;

/// Bytes that a segment's place among the smallest numbers takes, nodes that are half empty included.
const HOLDING_COST: usize = 2 * size_of::<(u64, u32)>();

/// One block of the table.
#[derive(Clone, Copy, Debug, Default)]
struct TableBlock {
    changed: u64,
    /// The changes up to here are on the disk.
    durable: u64,
    /// The changes up to here are in a write.
    in_flight: Option<u64>,
    is_queued: bool,
}

/// All segments of a volume.
#[derive(Debug)]
pub(super) struct Segments {
    store: StoreId,
    pub(super) geometry: Geometry,
    list: Vec<Segment>,
    blocks: Vec<TableBlock>,
    /// Blocks that differ from what the disk has.
    queue: VecDeque<u32>,
    changes: u64,
    /// Segments of which the disk does not know yet that nothing in them counts.
    leaving: Vec<u32>,
    /// How many segments have each role.
    counts: [u32; ROLES],
    /// Those that were reclaimed and are not free yet.
    freeing: Vec<u32>,
    /// Bytes of records that are found, in all segments.
    live_len: u64,
    /// Those that may have records on the disk, by the smallest invalidation number in them.
    holding: BTreeSet<(u64, u32)>,
    last_sequence: u64,
    /// Through which others send what lies in them, if anybody does.
    map: Option<Arc<VolumeMap>>,
    _charge: Charge,
}

/// A block of the table to be written.
#[derive(Debug)]
pub(super) struct TableWrite {
    pub(super) block: u32,
    pub(super) file_offset: u64,
    pub(super) buffer: SharedBuf,
}

const ENTRIES_PER_BLOCK: u32 = TABLE_ENTRIES_PER_BLOCK as u32;

impl Segments {
    /// Makes the segments of a volume, of which nothing is known; `None` when the budget refuses.
    pub(super) fn new(geometry: Geometry, store: StoreId, budget: &Arc<Budget>) -> Option<Segments> {
        let count = geometry.segment_count as usize;
        let blocks = vec![TableBlock::default(); count.div_ceil(ENTRIES_PER_BLOCK as usize)];
        let len = count * size_of::<Segment>() + size_of_val(&*blocks) + blocks.len() * size_of::<u32>();
        let len = len + count * HOLDING_COST;
        let charge = budget.reserve(Purpose::Disk, len as u64)?;
        let unknown =
            || Segment { entry: TableEntry::FREE, role: Role::Unknown, live_len: 0, pins: 0, changed: 0 };
        let list = std::iter::repeat_with(unknown).take(count).collect();
        let queue = VecDeque::with_capacity(blocks.len());
        Some(Segments {
            store,
            geometry,
            list,
            blocks,
            queue,
            changes: 0,
            leaving: Vec::new(),
            counts: std::array::from_fn(|role| {
                if role == Role::Unknown as usize { geometry.segment_count } else { 0 }
            }),
            freeing: Vec::new(),
            live_len: 0,
            holding: BTreeSet::new(),
            last_sequence: 0,
            map: None,
            _charge: charge,
        })
    }

    /// From now on segments are written anew only when nobody sends from them.
    pub(super) fn send_from(&mut self, map: Arc<VolumeMap>) {
        self.map = Some(map);
    }

    /// Has nobody begin to send from a segment that is about to be written anew, or not relied on.
    pub(super) fn close_gate(&self, segment: u32) {
        if let Some(map) = &self.map {
            map.gates().close(segment);
        }
    }

    pub(super) fn at(&self, segment: u32) -> &Segment {
        &self.list[segment as usize]
    }

    /// Counts one who reads a segment.
    pub(super) fn pin(&mut self, segment: u32) {
        self.list[segment as usize].pins += 1;
    }

    /// Takes one off who read a segment.
    pub(super) fn unpin(&mut self, segment: u32) {
        let pins = &mut self.list[segment as usize].pins;
        debug_assert!(*pins > 0, "nobody reads segment {segment}");
        *pins = pins.saturating_sub(1);
        if *pins == 0 {
            self.settle(segment);
        }
    }

    /// Has the volume do something else with a segment; the table says the same about it.
    pub(super) fn set_role(&mut self, segment: u32, role: Role) {
        self.set(segment, role, self.at(segment).entry);
    }

    fn set(&mut self, segment: u32, role: Role, entry: TableEntry) {
        let known = &mut self.list[segment as usize];
        self.holding.remove(&(known.entry.oldest, segment));
        self.counts[known.role as usize] -= 1;
        if known.role == Role::Freeing {
            self.freeing.retain(|other| *other != segment);
        }
        (known.role, known.entry) = (role, entry);
        self.counts[role as usize] += 1;
        if role == Role::Freeing {
            self.freeing.push(segment);
        }
        if self.may_hold(segment) {
            self.holding.insert((entry.oldest, segment));
        }
    }

    /// Tells whether the disk may have records of a segment.
    fn may_hold(&self, segment: u32) -> bool {
        match self.at(segment).role {
            Role::Unknown | Role::Free => false,
            Role::Freeing | Role::Bad => !self.is_durable(segment),
            Role::Open | Role::Closing | Role::Sealed | Role::Victim => true,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Segment)> {
        self.list.iter().enumerate().map(|(number, segment)| (number as u32, segment))
    }

    /// Counts bytes of a record that is found from now on.
    pub(super) fn add_live(&mut self, segment: u32, len: u64) {
        self.list[segment as usize].live_len += len;
        self.live_len += len;
    }

    /// Counts bytes of a record that is not found any more.
    pub(super) fn take_live(&mut self, segment: u32, len: u64) {
        let live = &mut self.list[segment as usize].live_len;
        let taken = len.min(*live);
        *live -= taken;
        self.live_len -= taken;
    }

    /// Counts nothing of a segment as found.
    pub(super) fn clear_live(&mut self, segment: u32) {
        self.take_live(segment, self.at(segment).live_len);
    }

    /// Returns the bytes of records that are found, in all segments.
    pub(super) fn live_len(&self) -> u64 {
        self.live_len
    }

    /// Notes what the disk says.
    pub(super) fn learn(&mut self, segment: u32, entry: TableEntry, role: Role) {
        self.set(segment, role, entry);
        self.last_sequence = self.last_sequence.max(entry.sequence);
    }

    /// Raises the number that the next segment's has to be above.
    pub(super) fn raise_sequence(&mut self, last_sequence: u64) {
        self.last_sequence = self.last_sequence.max(last_sequence);
    }

    /// Returns the sequence of the next segment that is opened.
    pub(super) fn next_sequence(&self) -> u64 {
        self.last_sequence + 1
    }

    /// Changes what the table says about a segment.
    pub(super) fn change(&mut self, segment: u32, role: Role, change: impl FnOnce(&mut TableEntry)) {
        self.changes += 1;
        self.list[segment as usize].changed = self.changes;
        let number = segment / ENTRIES_PER_BLOCK;
        self.blocks[number as usize].changed = self.changes;
        let mut entry = self.at(segment).entry;
        change(&mut entry);
        self.set(segment, role, entry);
        self.enqueue(number);
        if matches!(role, Role::Freeing | Role::Bad) {
            self.close_gate(segment);
        }
        if matches!(role, Role::Freeing | Role::Bad) && !self.leaving.contains(&segment) {
            self.leaving.push(segment);
        }
    }

    /// Tells whether the disk may have a segment whose records are not found any more, so that a crash would bring them back.
    pub(super) fn is_any_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Tells whether the disk has a segment's entry as it is here.
    pub(super) fn is_durable(&self, segment: u32) -> bool {
        let block = &self.blocks[(segment / ENTRIES_PER_BLOCK) as usize];
        block.durable >= self.list[segment as usize].changed
    }

    /// Takes a free segment into use and returns its number and sequence.
    pub(super) fn open(&mut self, class: Class, now: u32) -> Option<(u32, u64)> {
        // The one that was free longest, so that all wear alike.
        let (segment, _) = self
            .iter()
            .filter(|(_, segment)| segment.role == Role::Free)
            .min_by_key(|(_, segment)| segment.entry.sequence)?;
        let sequence = self.next_sequence();
        self.last_sequence = sequence;
        let entry = TableEntry {
            sequence,
            created: now,
            state: SegmentState::Open,
            class,
            errors: self.at(segment).entry.errors,
            ..TableEntry::FREE
        };
        self.clear_live(segment);
        self.change(segment, Role::Open, |old| *old = entry);
        Some((segment, sequence))
    }

    /// Returns how many segments have one of these roles.
    pub(super) fn count(&self, roles: &[Role]) -> u32 {
        let count = roles.iter().map(|role| self.counts[*role as usize]).sum();
        debug_assert_eq!(
            count,
            self.iter().filter(|(_, segment)| roles.contains(&segment.role)).count() as u32
        );
        count
    }

    /// Makes a reclaimed segment free if the disk knows and nobody reads it or sends from it.
    pub(super) fn settle(&mut self, segment: u32) {
        if self.at(segment).role == Role::Freeing && self.is_left(segment) {
            self.set_role(segment, Role::Free);
        }
    }

    /// Tells whether a segment that is not found any more may be written anew: the disk knows, and nobody reads it or sends from it.
    pub(super) fn is_left(&self, segment: u32) -> bool {
        self.at(segment).pins == 0
            && self.is_durable(segment)
            && self.map.as_ref().is_none_or(|map| map.gates().retire(segment))
    }

    /// Settles all segments from which somebody sent when it was tried last.
    pub(super) fn settle_all(&mut self) {
        if self.map.is_some() {
            self.freeing.clone().into_iter().for_each(|segment| self.settle(segment));
        }
    }

    /// Does that for all segments of a block of the table.
    pub(super) fn settle_block(&mut self, block: u32) {
        let first = block.saturating_mul(ENTRIES_PER_BLOCK);
        let end = first.saturating_add(ENTRIES_PER_BLOCK).min(self.geometry.segment_count);
        (first..end).for_each(|segment| self.settle(segment));
    }

    /// Returns the smallest invalidation number that a record on the disk may have; `u64::MAX` without records.
    pub(super) fn oldest_number(&self) -> u64 {
        let oldest = self.holding.first().map_or(u64::MAX, |(oldest, _)| *oldest);
        debug_assert_eq!(
            oldest,
            self.iter()
                .filter(|(number, _)| self.may_hold(*number))
                .map(|(_, segment)| segment.entry.oldest)
                .min()
                .unwrap_or(u64::MAX)
        );
        oldest
    }

    /// Returns the next block of the table to be written, if its memory can be had.
    pub(super) fn next_write(&mut self, budget: &Arc<Budget>) -> Option<TableWrite> {
        let position =
            self.queue.iter().position(|number| self.blocks[*number as usize].in_flight.is_none())?;
        let mut buffer = AlignedBuf::new(BLOCK_LEN as usize, budget)?;
        let number = self.queue.remove(position)?;
        let block = &mut self.blocks[number as usize];
        block.is_queued = false;
        block.in_flight = Some(block.changed);
        let first = number * ENTRIES_PER_BLOCK;
        let end = (first + ENTRIES_PER_BLOCK).min(self.geometry.segment_count);
        for segment in first..end {
            let at = (self.geometry.entry_offset(segment) % BLOCK_LEN) as usize;
            let entry = self.at(segment).entry.encode(self.store, segment);
            buffer.as_mut()[at..at + TABLE_ENTRY_LEN].copy_from_slice(&entry);
        }
        let file_offset = self.geometry.table_offset() + u64::from(number) * BLOCK_LEN;
        Some(TableWrite { block: number, file_offset, buffer: SharedBuf::new(buffer) })
    }

    /// Notes how the write of a block of the table ended.
    pub(super) fn written(&mut self, number: u32, is_written: bool) {
        let Some(block) = self.blocks.get_mut(number as usize) else { return };
        let Some(written) = block.in_flight.take() else { return };
        if is_written {
            block.durable = written;
        }
        if block.durable < block.changed {
            self.enqueue(number);
        }
        let leaving = std::mem::take(&mut self.leaving);
        for segment in leaving {
            if !self.is_durable(segment) {
                self.leaving.push(segment);
            } else if !self.may_hold(segment) {
                self.holding.remove(&(self.at(segment).entry.oldest, segment));
            }
        }
    }

    /// Tells whether the disk has, or is about to have, all of the table.
    pub(super) fn is_written(&self) -> bool {
        self.blocks.iter().all(|block| block.durable >= block.changed)
    }

    fn enqueue(&mut self, number: u32) {
        let block = &mut self.blocks[number as usize];
        if !block.is_queued {
            block.is_queued = true;
            self.queue.push_back(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId([3; 16]);

    fn segments(count: u32) -> (Segments, Arc<Budget>) {
        let budget = Budget::new(1 << 20);
        let geometry = Geometry { segment_shift: 20, segment_count: count };
        let mut segments = Segments::new(geometry, STORE, &budget).unwrap();
        (0..count).for_each(|segment| segments.learn(segment, TableEntry::FREE, Role::Free));
        (segments, budget)
    }

    #[test]
    fn a_block_is_in_one_write_at_a_time_and_goes_again_when_it_changed_meanwhile() {
        let (mut segments, budget) = segments(200);
        assert!(segments.next_write(&budget).is_none() && segments.is_written());
        let (first, sequence) = segments.open(Class::Slices, 7).unwrap();
        assert_eq!((first, sequence, segments.is_durable(first)), (0, 1, false));
        let write = segments.next_write(&budget).unwrap();
        assert_eq!((write.block, write.file_offset), (0, 8192));
        let entry = TableEntry::of_table(write.buffer.as_ref(), segments.geometry, STORE, 0).unwrap();
        assert_eq!((entry.state, entry.sequence, entry.created), (SegmentState::Open, 1, 7));
        let (second, _) = segments.open(Class::Records, 7).unwrap();
        assert!(segments.next_write(&budget).is_none(), "the block is under way");
        segments.written(0, true);
        assert!(segments.is_durable(first) && !segments.is_durable(second));
        assert!(segments.next_write(&budget).is_some());
        segments.written(0, false);
        assert!(!segments.is_durable(second) && segments.next_write(&budget).is_some(), "again");
        segments.written(0, true);
        assert!(segments.is_durable(second) && segments.is_written());
        // Blocks of their own are written side by side.
        for segment in [100, 199] {
            segments.change(segment, Role::Bad, |entry| entry.state = SegmentState::Bad);
        }
        let blocks: Vec<u32> = (0..2).map(|_| segments.next_write(&budget).unwrap().block).collect();
        assert_eq!((blocks, segments.next_write(&budget).is_none()), (vec![1, 2], true));
    }

    #[test]
    fn what_was_reclaimed_is_free_when_the_disk_knows_and_nobody_reads() {
        let (mut segments, budget) = segments(1);
        segments.open(Class::Records, 0).unwrap();
        assert!(segments.open(Class::Records, 0).is_none());
        segments.pin(0);
        segments.change(0, Role::Freeing, |entry| entry.state = SegmentState::Free);
        segments.settle(0);
        assert_eq!(segments.at(0).role(), Role::Freeing);
        segments.next_write(&budget).unwrap();
        segments.written(0, true);
        segments.settle(0);
        assert_eq!(segments.at(0).role(), Role::Freeing, "somebody reads it");
        segments.unpin(0);
        assert_eq!((segments.at(0).role(), segments.open(Class::Slices, 0)), (Role::Free, Some((0, 2))));
    }
}
