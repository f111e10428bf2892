//! What a look at a volume brought.

use std::fmt;
use std::io;

use super::super::format::{FormatError, Superblock};
use super::super::record::RecordKind;

/// Most findings that a report lists; the others are counted.
pub const FINDINGS_MAX: usize = 100;

/// Why there is no report.
#[derive(Debug)]
pub enum CheckError {
    /// Its superblocks cannot be read.
    Read(io::Error),
    /// Neither of its superblocks can be used.
    Format(FormatError),
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckError::Read(error) => write!(f, "its superblocks cannot be read: {error}"),
            CheckError::Format(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CheckError {}

/// What is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One of the two superblocks does not verify; the other one counts.
    Superblock,
    /// An entry of the segment table does not verify or is out of date; the segment itself says what it is.
    TableEntry,
    /// The header of a segment does not verify; table and footer count.
    Header,
    /// The footer of a sealed segment does not verify; its records were looked for one by one.
    Footer,
    /// The head of a record does not verify, or is not what the footer says.
    Record,
    /// The body of a record does not verify.
    Body,
    /// A record stands in the volume of another shard.
    Shard,
    /// The bytes cannot be read.
    Unreadable,
}

impl Damage {
    const ALL: [Damage; 8] = [
        Damage::Superblock,
        Damage::TableEntry,
        Damage::Header,
        Damage::Footer,
        Damage::Record,
        Damage::Body,
        Damage::Shard,
        Damage::Unreadable,
    ];

    /// Tells whether a record is lost by it; what else is damaged is made good from another place, or by the next start.
    pub fn loses_a_record(self) -> bool {
        matches!(self, Damage::Record | Damage::Body | Damage::Shard)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Damage::Superblock => "a superblock does not verify",
            Damage::TableEntry => "an entry of the segment table does not verify or is out of date",
            Damage::Header => "the header of a segment does not verify",
            Damage::Footer => "the footer of a segment does not verify",
            Damage::Record => "a record does not verify",
            Damage::Body => "the body of a record does not verify",
            Damage::Shard => "a record belongs to another shard",
            Damage::Unreadable => "cannot be read",
        })
    }
}

/// Damage, and where in the file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The first byte of what is damaged.
    pub offset: u64,
    /// What is wrong.
    pub damage: Damage,
}

/// How many segments are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentCounts {
    /// Nothing in them counts.
    pub free: u32,
    /// They were being written; the next start seals them.
    pub open: u32,
    /// Whole, with a footer.
    pub sealed: u32,
    /// Not used any more.
    pub bad: u32,
}

/// How many records there are of which kind, those that newer ones replaced among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Whole stored responses.
    pub whole: u64,
    /// Heads of large ones.
    pub heads: u64,
    /// Their slices.
    pub slices: u64,
    /// URIs that vary.
    pub markers: u64,
    /// Notes that something is gone.
    pub tombstones: u64,
    /// URIs of which parts are stored; the parts themselves are among the whole ones and the heads.
    pub part_lists: u64,
    /// Of kinds that this build does not know.
    pub unknown: u64,
}

impl RecordCounts {
    /// Returns how many records there are.
    pub fn total(&self) -> u64 {
        let RecordCounts { whole, heads, slices, markers, tombstones, part_lists, unknown } = *self;
        whole + heads + slices + markers + tombstones + part_lists + unknown
    }

    pub(super) fn add(&mut self, kind: Option<RecordKind>) {
        *match kind {
            Some(RecordKind::Whole) => &mut self.whole,
            Some(RecordKind::Head) => &mut self.heads,
            Some(RecordKind::Slice) => &mut self.slices,
            Some(RecordKind::Marker) => &mut self.markers,
            Some(RecordKind::Tombstone) => &mut self.tombstones,
            Some(RecordKind::Parts) => &mut self.part_lists,
            None => &mut self.unknown,
        } += 1;
    }
}

/// What a volume holds and what of it is damaged.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the volume says about itself.
    pub superblock: Superblock,
    /// Its segments, as they were left.
    pub segments: SegmentCounts,
    /// Its records, as footers have them.
    pub records: RecordCounts,
    /// The bytes that these take, as footers have them: rounded up to classes of lengths.
    pub record_bytes: u64,
    /// Records that were read and verified, those of unsealed segments among them.
    pub verified: u64,
    /// The smallest invalidation number of a record; `u64::MAX` without records.
    pub oldest: u64,
    /// The largest; 0 without records.
    pub newest: u64,
    /// The first findings, in the order in which they were made.
    pub findings: Vec<Finding>,
    counts: [u64; Damage::ALL.len()],
}

impl Report {
    pub(super) fn new(superblock: Superblock) -> Self {
        Report {
            superblock,
            segments: SegmentCounts::default(),
            records: RecordCounts::default(),
            record_bytes: 0,
            verified: 0,
            oldest: u64::MAX,
            newest: 0,
            findings: Vec::new(),
            counts: [0; Damage::ALL.len()],
        }
    }

    /// Tells whether nothing is damaged.
    pub fn is_whole(&self) -> bool {
        self.counts.iter().all(|count| *count == 0)
    }

    /// Returns how much damage of a kind there is, listed or not.
    pub fn count(&self, damage: Damage) -> u64 {
        self.counts[damage as usize]
    }

    /// Returns what is damaged and how often, leaving out what is not.
    pub fn counts(&self) -> impl Iterator<Item = (Damage, u64)> {
        Damage::ALL.into_iter().map(|damage| (damage, self.count(damage))).filter(|(_, count)| *count > 0)
    }

    /// Returns how many records are lost.
    pub fn lost(&self) -> u64 {
        self.counts().filter(|(damage, _)| damage.loses_a_record()).map(|(_, count)| count).sum()
    }

    pub(super) fn note(&mut self, offset: u64, damage: Damage) {
        self.counts[damage as usize] += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { offset, damage });
        }
    }
}
