//! What a volume holds, found again after a stop or a crash without reading its records: from the segment table and the footers.
//!
//! A machine without I/O: [`Recovery::next`] says what to read, [`Recovery::feed`] takes it and tells a [`Rebuild`] what it found.
//!
//! ```text
//! Table ──> Ends ──> Segments ──────────────────────────> Done
//!           header and last block of  │ ▲    newest first, one footer each
//!           segments whose entry      ▼ │
//!           does not verify           Ends ──> Scan ──> Telling
//!                                     of one whose footer does not verify, or that was never sealed: record after record
//! ```
//!
//! The driver feeds reads in the order in which they were asked for, while several of them run. Invariants: each step asks for at most
//! [`READ_LEN_MAX`] bytes and tells at most [`TOLD_MAX`] records; nothing is told that a check did not cover; what cannot be read or does not
//! verify is left out, and recovery ends whatever the volume holds.

use std::collections::VecDeque;

use super::footer::{self, Entries, FooterEntry};
use super::format::{
    BLOCK_LEN, Geometry, READ_LEN_MAX, SEGMENT_COUNT_MAX, SegmentHeader, SegmentState, StoreId,
    TABLE_ENTRIES_PER_BLOCK, TableEntry,
};
use scan::Scan;

mod scan;
#[cfg(test)]
mod tests;

/// Reads that run side by side.
pub const READS_AHEAD: usize = 8;

/// Most records, or segments, that one call tells of: about 0.2 ms of a core.
pub const TOLD_MAX: usize = 1024;

/// How many records before its turn one is announced.
const ANNOUNCED_AHEAD: usize = 16;

/// Times that the table is asked for again when it cannot be read.
const TABLE_ATTEMPTS: u32 = 3;

/// Sequences that are left out behind the largest that was found: segments whose entry in the table was lost may have them.
const SEQUENCE_GAP: u64 = 64;

/// What recovery tells a volume: which segments there are first, then what they hold, the newest first.
///
/// A volume answers look-ups meanwhile, and appends and removes as soon as it was told of all segments: what it takes in by itself is newer
/// than anything that it is told, and a removal has to hide what it was not told of yet.
pub trait Rebuild {
    /// Tells what a segment is, before any record of it; again, still before its records, if the table was wrong about it.
    ///
    /// One that is open was not sealed and may have records, of which [`Rebuild::sealed`] will tell; nothing is appended to it.
    fn segment(&mut self, segment: u32, entry: &TableEntry);

    /// Tells that every segment was told of; the next segment that is opened has a larger sequence than this.
    fn located(&mut self, last_sequence: u64);

    /// Tells of a record, which counts unless what stands in its place in the index, a tombstone too, has a larger (sequence, unit).
    ///
    /// Records come the newest first, but for slices and for what the table was wrong about.
    fn record(&mut self, segment: u32, entry: &FooterEntry);

    /// Tells that a segment whose footer cannot be read has these records, in the order in which they lie there; `entry` is sealed.
    ///
    /// Each is told by [`Rebuild::record`] too, before. The volume writes footer and table entry; if it cannot, the next recovery finds
    /// the same. It should not if some could not be read, so that the next recovery tries again; then there may be none.
    fn sealed(&mut self, segment: u32, entry: &TableEntry, last_lsn: u64, records: &[FooterEntry]);

    /// Tells that a segment with this sequence may have had records that could not be read: what they hide is among what is older.
    fn unread(&mut self, _sequence: u64) {}

    /// Says that a record will be told of soon, so that the memory that it leads to can be asked for.
    fn announce(&self, _entry: &FooterEntry) {}

    /// Tells that all was told.
    fn recovered(&mut self) {}
}

/// A read that recovery wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Names the read when it is fed.
    pub ticket: u64,
    /// Where in the file it begins, on a block.
    pub offset: u64,
    /// Bytes, whole blocks.
    pub len: usize,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begin this read.
    Read(Read),
    /// Nothing before the oldest read that was begun is fed.
    Wait,
    /// All is told.
    Done,
}

/// What to do with the bytes that were fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// Feed them again: not all of them was told.
    Again,
    /// They are not needed any more.
    Taken,
}

/// A read did not bring its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFailed;

/// The recovery of one volume.
#[derive(Debug)]
pub struct Recovery {
    store: StoreId,
    geometry: Geometry,
    stage: Stage,
    ticket: u64,
    /// Reads that were asked for, the oldest first.
    asked: VecDeque<(Read, Job)>,
    /// What is known about each segment, from the table or from its ends.
    entries: Vec<Option<TableEntry>>,
    /// Segments whose ends are read.
    doubted: Vec<u32>,
    /// The ends of `doubted` for which no read was asked yet begin here; each has two.
    doubted_at: usize,
    /// The header of the first of `doubted` whose last block is awaited.
    header: Option<SegmentHeader>,
    is_header_unread: bool,
    /// Reads of the table that failed.
    failed_count: u32,
    /// Segments that may have records, the newest first.
    order: Vec<u32>,
    /// The first of `order` that was not told completely.
    told: usize,
    /// Ends of the first such segment were read, so that its footer is not doubted twice.
    is_sure: bool,
    /// How much of what is fed was told.
    progress: usize,
    scan: Scan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Table,
    Ends,
    Segments,
    /// Of the first of `order` that was not told.
    Scan,
    /// What the scan found.
    Telling,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Table,
    Header(u32),
    LastBlock(u32),
    Footer(u32),
    Window(u32),
}

impl Recovery {
    /// Begins with a volume of which nothing is known but its superblock.
    pub fn new(store: StoreId, geometry: Geometry) -> Self {
        Recovery {
            store,
            geometry,
            stage: Stage::Table,
            ticket: 0,
            asked: VecDeque::with_capacity(READS_AHEAD),
            entries: Vec::with_capacity(geometry.segment_count as usize),
            doubted: Vec::new(),
            doubted_at: 0,
            header: None,
            is_header_unread: false,
            failed_count: 0,
            order: Vec::new(),
            told: 0,
            is_sure: false,
            progress: 0,
            scan: Scan::default(),
        }
    }

    /// Returns the most memory that a recovery takes, reads apart.
    pub fn memory_max(geometry: Geometry) -> u64 {
        let of_segment = size_of::<Option<TableEntry>>() + 2 * size_of::<u32>();
        u64::from(geometry.segment_count) * of_segment as u64 + Scan::MEMORY_MAX
    }

    /// Tells whether the volume was told of all segments, so that it may append.
    pub fn is_located(&self) -> bool {
        match self.stage {
            Stage::Table => false,
            Stage::Ends => !self.order.is_empty(),
            Stage::Segments | Stage::Scan | Stage::Telling | Stage::Done => true,
        }
    }

    /// Says what to do next; reads may run side by side.
    #[expect(
        clippy::should_implement_trait,
        reason = "not an iterator's: what comes next depends on what is fed"
    )]
    pub fn next(&mut self) -> Step {
        match self.stage {
            Stage::Done => Step::Done,
            _ if self.asked.len() >= READS_AHEAD => Step::Wait,
            Stage::Table if self.asked.is_empty() => {
                self.ask(Job::Table, self.geometry.table_offset(), self.geometry.table_len())
            }
            Stage::Ends if self.doubted_at < 2 * self.doubted.len() => self.ask_end(),
            Stage::Segments => self.ask_footer(),
            Stage::Scan if self.asked.is_empty() => self.ask_window(),
            // The turn to tell was lost to a read out of order: any read gives it back.
            Stage::Telling if self.asked.is_empty() => {
                let segment = self.order[self.told];
                self.ask(Job::Window(segment), self.geometry.segment_offset(segment), BLOCK_LEN)
            }
            Stage::Table | Stage::Ends | Stage::Scan | Stage::Telling => Step::Wait,
        }
    }

    /// Takes what a read brought: that of the oldest ticket, until it is [`Fed::Taken`].
    ///
    /// A read that is fed out of turn, or is not wanted any more, is taken without effect and asked for again if it matters.
    pub fn feed(&mut self, rebuild: &mut impl Rebuild, ticket: u64, bytes: Result<&[u8], ReadFailed>) -> Fed {
        match self.asked.front() {
            Some((oldest, job)) if oldest.ticket == ticket => {
                let (len, job) = (oldest.len, *job);
                // What is shorter than it was asked for says nothing about what lies where.
                let bytes = bytes.ok().and_then(|bytes| bytes.get(..len));
                let fed = self.take(rebuild, job, bytes);
                if fed == Fed::Taken {
                    self.progress = 0;
                    // The job may have made others void, itself among them.
                    if self.asked.front().is_some_and(|(oldest, _)| oldest.ticket == ticket) {
                        self.asked.pop_front();
                    }
                }
                fed
            }
            Some(_) if self.asked.iter().any(|(read, _)| read.ticket == ticket) => {
                self.ask_again();
                Fed::Taken
            }
            _ => Fed::Taken,
        }
    }

    fn take(&mut self, rebuild: &mut impl Rebuild, job: Job, bytes: Option<&[u8]>) -> Fed {
        match job {
            Job::Table if bytes.is_none() && self.failed_count < TABLE_ATTEMPTS => {
                // Without it every segment would be in doubt: it is asked for again.
                self.failed_count += 1;
                Fed::Taken
            }
            Job::Table => self.take_table(rebuild, bytes.unwrap_or_default()),
            Job::Header(segment) => {
                self.is_header_unread = bytes.is_none();
                self.header = bytes.and_then(|block| SegmentHeader::decode(block, self.store, segment));
                Fed::Taken
            }
            Job::LastBlock(segment) => self.take_ends(rebuild, segment, bytes),
            Job::Footer(segment) => self.take_footer(rebuild, segment, bytes.unwrap_or_default()),
            Job::Window(segment) if self.stage == Stage::Scan => self.take_window(rebuild, segment, bytes),
            Job::Window(segment) => self.tell_scanned(rebuild, segment),
        }
    }

    /// Tells of the segments whose entry verifies, and notes the others.
    fn take_table(&mut self, rebuild: &mut impl Rebuild, table: &[u8]) -> Fed {
        let end = (self.progress + TOLD_MAX).min(self.geometry.segment_count as usize);
        for segment in self.progress as u32..end as u32 {
            let entry = TableEntry::of_table(table, self.geometry, self.store, segment)
                .filter(|entry| is_possible(entry, self.geometry));
            match &entry {
                Some(entry) => rebuild.segment(segment, entry),
                None => self.doubted.push(segment),
            }
            self.entries.push(entry);
        }
        self.progress = end;
        if end < self.geometry.segment_count as usize {
            return Fed::Again;
        }
        if self.doubted.is_empty() {
            self.locate(rebuild);
        } else {
            self.stage = Stage::Ends;
        }
        Fed::Taken
    }

    /// Decides what a doubted segment is, from its header and its last block.
    fn take_ends(&mut self, rebuild: &mut impl Rebuild, segment: u32, bytes: Option<&[u8]>) -> Fed {
        let (before, last_block) = (self.entries[segment as usize], bytes.unwrap_or_default());
        let entry = match self.header.take() {
            Some(header) => match footer::read_trailer(last_block, self.store, header.sequence) {
                Some(trailer) => trailer.table_entry(),
                None => open_entry(&header),
            },
            None => match (before, footer::read_any_trailer(last_block, self.store)) {
                // The table knows which use of the segment it is; another one's trailer is a leftover.
                (Some(entry), Some(trailer)) if trailer.sequence == entry.sequence => trailer.table_entry(),
                (Some(entry), _) => TableEntry { state: SegmentState::Open, ..entry },
                (None, Some(trailer)) => trailer.table_entry(),
                (None, None) => {
                    if self.is_header_unread || bytes.is_none() {
                        rebuild.unread(u64::MAX);
                    }
                    TableEntry::FREE
                }
            },
        };
        let entry = TableEntry { errors: before.map_or(0, |before| before.errors), ..entry };
        self.entries[segment as usize] = Some(entry);
        rebuild.segment(segment, &entry);
        if self.doubted_at == 2 * self.doubted.len() && self.asked.len() == 1 {
            self.doubted.clear();
            self.doubted_at = 0;
            if self.order.is_empty() {
                self.locate(rebuild);
            } else {
                self.is_sure = true;
                self.stage = Stage::Segments;
            }
        }
        Fed::Taken
    }

    /// Puts the segments that may have records in order, once all are known.
    fn locate(&mut self, rebuild: &mut impl Rebuild) {
        let known = self.entries.iter().zip(0u32..);
        let mut order: Vec<(u64, u32)> = known
            .filter_map(|(entry, segment)| entry.as_ref().map(|entry| (entry, segment)))
            .filter(|(entry, _)| entry.state.may_have_records())
            .map(|(entry, segment)| (entry.sequence, segment))
            .collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        self.order = order.into_iter().map(|(_, segment)| segment).collect();
        let last = self.entries.iter().flatten().map(|entry| entry.sequence).max().unwrap_or(0);
        rebuild.located(last.saturating_add(SEQUENCE_GAP));
        self.stage = Stage::Segments;
        self.end_if_told(rebuild);
    }

    /// Tells of a segment's records by its footer, the last first.
    fn take_footer(&mut self, rebuild: &mut impl Rebuild, segment: u32, bytes: &[u8]) -> Fed {
        let entry = self.entry(segment);
        let entries = match self.progress {
            0 => footer::read_trailer(bytes, self.store, entry.sequence)
                .filter(|trailer| trailer.count == entry.records && trailer.class == entry.class)
                .and_then(|trailer| footer::read_footer(bytes, &trailer, self.store)),
            // Verified when it was fed for the first time.
            _ => Some(Entries::of_verified(bytes, entry.records)),
        };
        let Some(entries) = entries else {
            self.doubt(segment);
            return Fed::Taken;
        };
        let left = entries.len() - self.progress.min(entries.len());
        for position in (left.saturating_sub(TOLD_MAX)..left).rev() {
            let Some(record) = entries.at(position) else { continue };
            let ahead = position.checked_sub(ANNOUNCED_AHEAD).and_then(|ahead| entries.at(ahead));
            ahead.iter().for_each(|ahead| rebuild.announce(ahead));
            rebuild.record(segment, &record);
        }
        self.progress += TOLD_MAX;
        if left > TOLD_MAX {
            return Fed::Again;
        }
        self.go_on(rebuild);
        Fed::Taken
    }

    /// Has the ends of a segment read whose footer does not verify, or its records if its ends were read before.
    fn doubt(&mut self, segment: u32) {
        self.asked.clear();
        if self.is_sure {
            self.begin_scan(segment);
        } else {
            self.doubted = vec![segment];
            self.doubted_at = 0;
            self.stage = Stage::Ends;
        }
    }

    fn begin_scan(&mut self, segment: u32) {
        self.scan.begin(&self.entry(segment));
        self.stage = Stage::Scan;
    }

    fn take_window(&mut self, rebuild: &mut impl Rebuild, segment: u32, bytes: Option<&[u8]>) -> Fed {
        if bytes.is_none() {
            rebuild.unread(self.entry(segment).sequence);
        }
        self.scan.take(self.store, self.geometry, bytes);
        if !self.scan.is_over(self.geometry) {
            return Fed::Taken;
        }
        self.stage = Stage::Telling;
        self.tell_scanned(rebuild, segment)
    }

    /// Tells of what a scan found, the last first, and then that the segment can be sealed with it.
    fn tell_scanned(&mut self, rebuild: &mut impl Rebuild, segment: u32) -> Fed {
        let records = self.scan.records();
        let left = records.len() - self.progress.min(records.len());
        for record in records[left.saturating_sub(TOLD_MAX)..left].iter().rev() {
            rebuild.record(segment, record);
        }
        self.progress += TOLD_MAX;
        if left > TOLD_MAX {
            return Fed::Again;
        }
        // One that could not be read is not free: what it may hide is older.
        if records.is_empty() && !self.scan.is_unread() {
            let entry = self.entry(segment);
            let free = TableEntry { sequence: entry.sequence, errors: entry.errors, ..TableEntry::FREE };
            self.entries[segment as usize] = Some(free);
            rebuild.segment(segment, &free);
        } else {
            let entry = self.scan.entry(&self.entry(segment));
            self.entries[segment as usize] = Some(entry);
            rebuild.sealed(segment, &entry, self.scan.last_lsn(), records);
        }
        self.scan.end();
        self.go_on(rebuild);
        Fed::Taken
    }

    /// Goes to the next segment.
    fn go_on(&mut self, rebuild: &mut impl Rebuild) {
        self.told += 1;
        self.is_sure = false;
        self.stage = Stage::Segments;
        self.end_if_told(rebuild);
    }

    fn end_if_told(&mut self, rebuild: &mut impl Rebuild) {
        if self.told == self.order.len() {
            self.stage = Stage::Done;
            rebuild.recovered();
        }
    }

    fn ask(&mut self, job: Job, offset: u64, len: u64) -> Step {
        self.ticket += 1;
        let read = Read { ticket: self.ticket, offset, len: len as usize };
        self.asked.push_back((read, job));
        Step::Read(read)
    }

    fn ask_end(&mut self) -> Step {
        let segment = self.doubted[self.doubted_at / 2];
        let is_header = self.doubted_at.is_multiple_of(2);
        self.doubted_at += 1;
        if is_header {
            self.ask(Job::Header(segment), self.geometry.segment_offset(segment), BLOCK_LEN)
        } else {
            let offset = self.geometry.segment_offset(segment + 1) - BLOCK_LEN;
            self.ask(Job::LastBlock(segment), offset, BLOCK_LEN)
        }
    }

    /// Asks for the footer of the newest segment for which that was not done, or begins to scan the oldest in turn.
    fn ask_footer(&mut self) -> Step {
        let Some(segment) = self.order.get(self.told + self.asked.len()).copied() else { return Step::Wait };
        let entry = self.entry(segment);
        if entry.state == SegmentState::Sealed {
            let len = footer::footer_len(entry.records);
            return self.ask(Job::Footer(segment), self.geometry.segment_offset(segment + 1) - len, len);
        }
        if !self.asked.is_empty() {
            return Step::Wait;
        }
        self.begin_scan(segment);
        self.ask_window()
    }

    fn ask_window(&mut self) -> Step {
        let segment = self.order[self.told];
        let (within, len) = self.scan.window(self.geometry);
        self.ask(Job::Window(segment), self.geometry.segment_offset(segment) + within, len)
    }

    /// Forgets all reads that were asked for, so that they are asked for once more.
    fn ask_again(&mut self) {
        let ends = self.asked.iter().filter(|(_, job)| matches!(job, Job::Header(_) | Job::LastBlock(_)));
        // The header of a segment whose last block is asked for was taken already, and is read once more.
        self.doubted_at = (self.doubted_at - ends.count()) / 2 * 2;
        self.header = None;
        self.asked.clear();
        self.progress = 0;
    }

    fn entry(&self, segment: u32) -> TableEntry {
        self.entries[segment as usize].expect("a segment in order is known")
    }
}

/// Tells whether a volume like this can have such a segment, so that its footer can be read.
fn is_possible(entry: &TableEntry, geometry: Geometry) -> bool {
    entry.state != SegmentState::Sealed
        || entry.records <= footer::ENTRY_COUNT_MAX
            && footer::footer_len(entry.records) <= geometry.segment_len() - BLOCK_LEN
}

fn open_entry(header: &SegmentHeader) -> TableEntry {
    let SegmentHeader { sequence, class, created } = *header;
    TableEntry { sequence, created, class, state: SegmentState::Open, ..TableEntry::FREE }
}

// The table and every footer are one read.
const _: () =
    assert!((SEGMENT_COUNT_MAX as u64).div_ceil(TABLE_ENTRIES_PER_BLOCK) * BLOCK_LEN <= READ_LEN_MAX);
const _: () = assert!(footer::footer_len(footer::ENTRY_COUNT_MAX) <= READ_LEN_MAX);
