//! What stands alone in a volume's file: its superblock, its segment table, and the header of each segment.
//!
//! ```text
//! 0      superblock          4096   its copy
//! 8192   segment table: 80 entries in each 4 KiB block, 10 in each sector of 512 B
//! 2 MiB  segments, each a header block, records, a footer
//! ```
//!
//! The daemon formats and opens volumes, a volume's owner writes its table and its segments, recovery and the offline check read.
//! Invariants: what stands alone begins with a magic and a version; a superblock's check covers the whole block, all others the
//! identity of the store and the place too, so that nothing verifies that another store wrote, or that was written for another place.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::bytes::{seed, u16_at, u32_at, u64_at};
use crate::shards::Sharding;

#[cfg(test)]
mod tests;

/// Bytes of a block: the unit of reading and writing.
pub const BLOCK_LEN: u64 = 4096;

/// Bytes of the unit in which a record's place is counted.
pub const UNIT_LEN: u64 = 64;

/// Bytes of a slice of a large body: 16 of them, with their heads, fill a segment of 16 MiB.
pub const SLICE_LEN: u64 = 1_040_384;

/// Bytes of a body that one check covers; a longer body has a check for each such block.
pub const CHECKED_LEN: usize = 65_536;

/// Bytes of the longest record: a whole slice with its head, so that a buffer of a MiB and a block holds what one read brings.
pub const RECORD_LEN_MAX: u64 = 1 << 20;

/// Bytes of the longest read that anything here asks for: the blocks around the longest record.
pub const READ_LEN_MAX: u64 = RECORD_LEN_MAX + BLOCK_LEN;

/// Most segments of a volume, so that one read brings the table, and the first segment lies in one place in volumes of every size.
pub const SEGMENT_COUNT_MAX: u32 = (RECORD_LEN_MAX / BLOCK_LEN * TABLE_ENTRIES_PER_BLOCK) as u32;

/// Segments of 1 MiB to 16 MiB: a footer and an index slot count units with 18 bits.
pub const SEGMENT_SHIFTS: std::ops::RangeInclusive<u8> = 20..=24;

/// Most bits of a key's hash that name a shard.
pub const SHARD_BITS_MAX: u8 = 10;

/// The format that this code writes. Format 1 had no lists of parts: it is read, and written as this one before anything else is.
pub const VERSION: u32 = 2;

/// The oldest format that this code reads.
pub const VERSION_MIN: u32 = 1;

/// Bytes of a table entry.
pub const TABLE_ENTRY_LEN: usize = 48;

const TABLE_OFFSET: u64 = 2 * BLOCK_LEN;
/// Bytes of the smallest piece that a disk writes whole. An entry lies in one of them: a write that is torn leaves each entry as it was or as it
/// was to be, since one that were neither would leave it to what an earlier life of the segment says.
const SECTOR_LEN: u64 = 512;
const TABLE_ENTRIES_PER_SECTOR: u64 = SECTOR_LEN / TABLE_ENTRY_LEN as u64;
/// Entries in one block of the table.
pub const TABLE_ENTRIES_PER_BLOCK: u64 = BLOCK_LEN / SECTOR_LEN * TABLE_ENTRIES_PER_SECTOR;
const SEGMENTS_OFFSET: u64 = 2 << 20;

const SUPERBLOCK_MAGIC: u64 = u64::from_le_bytes(*b"AspisVol");
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"AsSg");
const HEADER_VERSION: u16 = 1;
const BLOCK_CHECKED: usize = BLOCK_LEN as usize - 8;

// A full slice, with a block for its head, is a record.
const _: () = assert!(SLICE_LEN + BLOCK_LEN <= RECORD_LEN_MAX);
// The longest table ends before the first segment.
const _: () = assert!(TABLE_OFFSET + RECORD_LEN_MAX <= SEGMENTS_OFFSET);
// Every superblock names shards that can be counted.
const _: () = assert!(SHARD_BITS_MAX <= Sharding::BITS_MAX);
// Places in a segment have 18 bits in footers and index slots.
const _: () = assert!((1 << *SEGMENT_SHIFTS.end()) / UNIT_LEN <= 1 << 18);

/// The identity of a store, random and drawn when it is formatted.
///
/// Its hash is the secret of every check: it should not be shown to who can choose what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub [u8; 16]);

impl StoreId {
    /// Returns what checks are mixed with.
    pub fn hash64(&self) -> u64 {
        xxh3_64(&self.0)
    }
}

/// What a volume says about itself, in its first block and again in its second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The store that the volume belongs to.
    pub store: StoreId,
    /// Which shard of it.
    pub shard: u16,
    /// How many top bits of a primary key's hash name the shard.
    pub shard_bits: u8,
    /// The length of a segment, as a power of two.
    pub segment_shift: u8,
    /// How many segments there are.
    pub segment_count: u32,
    /// When the store was formatted, in wall seconds.
    pub created: u64,
}

/// Why a superblock cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// It is no superblock of ours.
    NotAStore,
    /// It is whole, and of a format that this code does not know.
    Version(u32),
    /// It is one of ours and not as it was written.
    Damaged,
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FormatError::NotAStore => write!(f, "is not a volume of a store"),
            FormatError::Version(version) => {
                write!(f, "has format {version}, this build reads {VERSION_MIN} to {VERSION}")
            }
            FormatError::Damaged => write!(f, "has a damaged superblock"),
        }
    }
}

impl std::error::Error for FormatError {}

impl Superblock {
    /// Returns the block to write at 0 and at 4096.
    pub fn encode(&self) -> [u8; BLOCK_LEN as usize] {
        let mut block = [0; BLOCK_LEN as usize];
        block[0..8].copy_from_slice(&SUPERBLOCK_MAGIC.to_le_bytes());
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[16..32].copy_from_slice(&self.store.0);
        block[32..34].copy_from_slice(&self.shard.to_le_bytes());
        block[34] = self.shard_bits;
        block[35] = self.segment_shift;
        block[36..40].copy_from_slice(&self.segment_count.to_le_bytes());
        block[40..48].copy_from_slice(&self.created.to_le_bytes());
        let check = xxh3_64(&block[..BLOCK_CHECKED]);
        block[BLOCK_CHECKED..].copy_from_slice(&check.to_le_bytes());
        block
    }

    /// Reads one superblock.
    ///
    /// Magic, version and check stand in the same places in every format, so that one of another version is told from a damaged one.
    pub fn decode(block: &[u8]) -> Result<Self, FormatError> {
        if block.len() < BLOCK_LEN as usize || u64_at(block, 0) != SUPERBLOCK_MAGIC {
            return Err(FormatError::NotAStore);
        }
        if xxh3_64(&block[..BLOCK_CHECKED]) != u64_at(block, BLOCK_CHECKED) {
            return Err(FormatError::Damaged);
        }
        let version = u32_at(block, 8);
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(FormatError::Version(version));
        }
        let mut store = StoreId([0; 16]);
        store.0.copy_from_slice(&block[16..32]);
        let superblock = Superblock {
            store,
            shard: u16_at(block, 32),
            shard_bits: block[34],
            segment_shift: block[35],
            segment_count: u32_at(block, 36),
            created: u64_at(block, 40),
        };
        if superblock.is_possible() { Ok(superblock) } else { Err(FormatError::Damaged) }
    }

    /// Reads the superblock from the first two blocks of a volume: the copy counts where the first does not.
    pub fn read(blocks: &[u8]) -> Result<Self, FormatError> {
        let (first, copy) = blocks.split_at(blocks.len().min(BLOCK_LEN as usize));
        let damage = match Self::decode(first) {
            Ok(superblock) => return Ok(superblock),
            Err(damage) => damage,
        };
        Self::decode(copy).map_err(|of_copy| match (damage, of_copy) {
            // What says most: another version, then damage.
            (version @ FormatError::Version(_), _) | (_, version @ FormatError::Version(_)) => version,
            (FormatError::NotAStore, FormatError::NotAStore) => FormatError::NotAStore,
            _ => FormatError::Damaged,
        })
    }

    /// Returns where what lies in the volume.
    pub fn geometry(&self) -> Geometry {
        Geometry { segment_shift: self.segment_shift, segment_count: self.segment_count }
    }

    fn is_possible(&self) -> bool {
        self.shard_bits <= SHARD_BITS_MAX
            && u32::from(self.shard) < 1 << self.shard_bits
            && SEGMENT_SHIFTS.contains(&self.segment_shift)
            && (1..=SEGMENT_COUNT_MAX).contains(&self.segment_count)
    }
}

/// Where what lies in a volume's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The length of a segment, as a power of two.
    pub segment_shift: u8,
    /// How many segments there are, at least one.
    pub segment_count: u32,
}

impl Geometry {
    /// Returns the most segments that a file of `file_len` bytes has room for; `None` if that is not one.
    pub fn within(file_len: u64, segment_shift: u8) -> Option<Geometry> {
        let most = file_len.saturating_sub(SEGMENTS_OFFSET) >> segment_shift;
        let geometry =
            Geometry { segment_shift, segment_count: most.min(u64::from(SEGMENT_COUNT_MAX)) as u32 };
        (geometry.segment_count > 0).then_some(geometry)
    }

    /// Returns the bytes of a segment.
    pub fn segment_len(&self) -> u64 {
        1 << self.segment_shift
    }

    /// Returns the bytes of all segments.
    pub fn segments_len(&self) -> u64 {
        u64::from(self.segment_count) << self.segment_shift
    }

    /// Returns where the segment table begins.
    pub fn table_offset(&self) -> u64 {
        TABLE_OFFSET
    }

    /// Returns the bytes of the segment table, whole blocks.
    pub fn table_len(&self) -> u64 {
        u64::from(self.segment_count).div_ceil(TABLE_ENTRIES_PER_BLOCK) * BLOCK_LEN
    }

    /// Returns where in the table the entry of a segment lies; it does not cross a sector.
    pub fn entry_offset(&self, segment: u32) -> u64 {
        let sector = u64::from(segment) / TABLE_ENTRIES_PER_SECTOR;
        sector * SECTOR_LEN + u64::from(segment) % TABLE_ENTRIES_PER_SECTOR * TABLE_ENTRY_LEN as u64
    }

    /// Returns where in the file a segment begins.
    pub fn segment_offset(&self, segment: u32) -> u64 {
        SEGMENTS_OFFSET + (u64::from(segment) << self.segment_shift)
    }

    /// Returns the bytes of the whole file.
    pub fn file_len(&self) -> u64 {
        self.segment_offset(self.segment_count)
    }
}

/// What a segment is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Nothing in it counts.
    Free,
    /// It is being written: it has no footer yet.
    Open,
    /// It has a footer and is not written any more.
    Sealed,
    /// Too much of it could not be read or written; it is not used.
    Bad,
}

impl SegmentState {
    /// Tells whether such a segment may have records that count.
    pub(super) fn may_have_records(self) -> bool {
        matches!(self, SegmentState::Open | SegmentState::Sealed)
    }
}

/// What kind of records a segment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Everything but slices, in the order in which it came: what is behind is newer.
    Records,
    /// Slices of large bodies, whose keys come only once.
    Slices,
}

impl Class {
    pub(super) fn code(self) -> u8 {
        match self {
            Class::Records => 0,
            Class::Slices => 1,
        }
    }

    pub(super) fn of_code(code: u8) -> Option<Class> {
        [Class::Records, Class::Slices].into_iter().find(|class| class.code() == code)
    }
}

/// What the table says about a segment.
///
/// Before anything is written into a segment for the next time, its entry is on disk as open with the new sequence: recovery believes a
/// sealed entry as long as the footer agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// Which use of any segment of the volume this is; 0 if it was never used.
    pub sequence: u64,
    /// The smallest invalidation number in it; `u64::MAX` without records.
    pub oldest: u64,
    /// The largest invalidation number in it; 0 without records.
    pub newest: u64,
    /// How many records it has, once it is sealed.
    pub records: u32,
    /// When it was opened, in wall seconds.
    pub created: u32,
    /// When the last of its records expires, in wall seconds.
    pub expires: u32,
    /// What it is used for.
    pub state: SegmentState,
    /// What kind of records it has.
    pub class: Class,
    /// Reads and writes of it that failed.
    pub errors: u16,
}

impl TableEntry {
    /// The entry of a segment that was never used.
    pub const FREE: TableEntry = TableEntry {
        sequence: 0,
        oldest: u64::MAX,
        newest: 0,
        records: 0,
        created: 0,
        expires: 0,
        state: SegmentState::Free,
        class: Class::Records,
        errors: 0,
    };

    /// Returns the entry's bytes, for this segment of this store only.
    pub fn encode(&self, store: StoreId, segment: u32) -> [u8; TABLE_ENTRY_LEN] {
        let mut bytes = [0; TABLE_ENTRY_LEN];
        bytes[0..8].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.newest.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.records.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.created.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.expires.to_le_bytes());
        bytes[36] = match self.state {
            SegmentState::Free => 0,
            SegmentState::Open => 1,
            SegmentState::Sealed => 2,
            SegmentState::Bad => 3,
        };
        bytes[37] = self.class.code();
        bytes[38..40].copy_from_slice(&self.errors.to_le_bytes());
        let check = xxh3_64_with_seed(&bytes[..40], seed(store, u64::from(segment)));
        bytes[40..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads the entry of a segment; `None` if it was not written for it, or not as it is.
    pub fn decode(bytes: &[u8; TABLE_ENTRY_LEN], store: StoreId, segment: u32) -> Option<Self> {
        if xxh3_64_with_seed(&bytes[..40], seed(store, u64::from(segment))) != u64_at(bytes, 40) {
            return None;
        }
        let state = match bytes[36] {
            0 => SegmentState::Free,
            1 => SegmentState::Open,
            2 => SegmentState::Sealed,
            3 => SegmentState::Bad,
            _ => return None,
        };
        Some(TableEntry {
            sequence: u64_at(bytes, 0),
            oldest: u64_at(bytes, 8),
            newest: u64_at(bytes, 16),
            records: u32_at(bytes, 24),
            created: u32_at(bytes, 28),
            expires: u32_at(bytes, 32),
            state,
            class: Class::of_code(bytes[37])?,
            errors: u16_at(bytes, 38),
        })
    }

    /// Reads the entry of a segment from the bytes of the table, which may be too short for it.
    pub fn of_table(table: &[u8], geometry: Geometry, store: StoreId, segment: u32) -> Option<Self> {
        let at = usize::try_from(geometry.entry_offset(segment)).ok()?;
        let bytes = table.get(at..at + TABLE_ENTRY_LEN)?.try_into().ok()?;
        Self::decode(bytes, store, segment)
    }
}

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Which use of any segment of the volume this is, from 1.
    pub sequence: u64,
    /// What kind of records follow.
    pub class: Class,
    /// When the segment was opened, in wall seconds.
    pub created: u32,
}

impl SegmentHeader {
    /// Returns the block to write where segment `segment` begins.
    pub fn encode(&self, store: StoreId, segment: u32) -> [u8; BLOCK_LEN as usize] {
        let mut block = [0; BLOCK_LEN as usize];
        block[0..4].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
        block[4..6].copy_from_slice(&HEADER_VERSION.to_le_bytes());
        block[6] = self.class.code();
        block[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        block[16..20].copy_from_slice(&self.created.to_le_bytes());
        let check = xxh3_64_with_seed(&block[..BLOCK_CHECKED], seed(store, u64::from(segment)));
        block[BLOCK_CHECKED..].copy_from_slice(&check.to_le_bytes());
        block
    }

    /// Reads the header of a segment; `None` if it was not written for it, or not as it is.
    pub fn decode(block: &[u8], store: StoreId, segment: u32) -> Option<Self> {
        if block.len() < BLOCK_LEN as usize
            || u32_at(block, 0) != HEADER_MAGIC
            || u16_at(block, 4) != HEADER_VERSION
            || xxh3_64_with_seed(&block[..BLOCK_CHECKED], seed(store, u64::from(segment)))
                != u64_at(block, BLOCK_CHECKED)
        {
            return None;
        }
        let class = Class::of_code(block[6])?;
        Some(SegmentHeader { sequence: u64_at(block, 8), class, created: u32_at(block, 16) })
    }
}
