//! Records: stored responses, slices and notes about keys as they lie in a segment.
//!
//! ```text
//! 0   magic u16, version u8, kind u8, front length u32
//! 8   check u64 of the front but for itself; covers store and sequence too
//! 16  top half of the hash u64
//! 24  check u64 of the body, or 0 where its blocks have checks of their own
//! 32  lsn u64, created u32, then numbers as short as they are, then bytes: primary hash, tags, block checks, names or list, key, head
//! ..  body, at once behind the front; in a slice on a 4 KiB boundary
//! ```
//!
//! A volume's owner writes records into its buffers; what was read goes through [`decode_record`] or [`decode_front`] before anything
//! of it is used. Invariants: a record begins on a unit, a slice on a block, and ends before its segment's footer; a record that does
//! not stand where it was written, or is not as it was written, does not verify; what verifies is compared by its key before it is served.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use aspis_cache::stored::StoredMeta;

use super::bytes::{seed, u32_at, u64_at};
use super::format::{BLOCK_LEN, CHECKED_LEN, Class, StoreId, UNIT_LEN};

mod decode;
mod encode;
mod meta;
#[cfg(test)]
mod tests;

pub use decode::{decode_front, decode_record, scan_front, scan_record};
pub use encode::{encode_front, encode_record, record_len, relocate};

const MAGIC: u16 = u16::from_le_bytes(*b"AR");
const VERSION: u8 = 1;

/// Bytes before the first field of variable length.
const FIXED_LEN: usize = 44;

/// Bytes of the shortest record.
pub const RECORD_LEN_MIN: usize = UNIT_LEN as usize;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A whole stored response, or a part.
    Whole,
    /// What a large stored response has but its body, which lies in slices.
    Head,
    /// A slice of a large body.
    Slice,
    /// A primary key whose responses vary, and by which request fields.
    Marker,
    /// Nothing is stored under this hash that was written before.
    Tombstone,
    /// A primary key of which parts are stored, and which they are.
    Parts,
}

impl RecordKind {
    const ALL: [RecordKind; 6] = [
        RecordKind::Whole,
        RecordKind::Head,
        RecordKind::Slice,
        RecordKind::Marker,
        RecordKind::Tombstone,
        RecordKind::Parts,
    ];

    /// Returns the number that stands for it in records and footers.
    pub fn code(self) -> u8 {
        match self {
            RecordKind::Whole => 1,
            RecordKind::Head => 2,
            RecordKind::Slice => 3,
            RecordKind::Marker => 4,
            RecordKind::Tombstone => 5,
            RecordKind::Parts => 6,
        }
    }

    /// Returns what a number stands for.
    pub fn of_code(code: u8) -> Option<RecordKind> {
        RecordKind::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Returns in which segments such records lie.
    pub fn class(self) -> Class {
        match self {
            RecordKind::Slice => Class::Slices,
            _ => Class::Records,
        }
    }

    /// Returns what the offset of such a record in its segment is a multiple of.
    pub fn alignment(self) -> u64 {
        match self {
            RecordKind::Slice => BLOCK_LEN,
            _ => UNIT_LEN,
        }
    }
}

/// Where a record lies, as far as its check is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The store.
    pub store: StoreId,
    /// The sequence of the segment.
    pub sequence: u64,
}

impl Place {
    fn seed(&self) -> u64 {
        seed(self.store, self.sequence)
    }
}

/// A record to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// What it stands under: the hash of the key, or for a slice one of its own.
    pub hash: u128,
    /// The canonical cache key; of a slice that of the whole.
    pub key: &'a [u8],
    /// The invalidation number up to which it was held against the rules.
    pub invalidation: u64,
    /// When it was made, in wall seconds.
    pub created: u32,
    /// When it is of no more use, in wall seconds.
    pub expires: u32,
    /// What it says.
    pub content: Content<'a>,
    /// The body, or the slice of it, in pieces that follow one another; nothing for other kinds.
    pub body: &'a [&'a [u8]],
}

impl NewRecord<'_> {
    /// Returns the bytes of the body.
    pub fn body_len(&self) -> u64 {
        self.body.iter().map(|piece| piece.len() as u64).sum()
    }

    /// Returns what the record is.
    pub fn kind(&self) -> RecordKind {
        self.content.kind()
    }
}

/// What a record says beside its key.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// A whole stored response, or a part.
    Whole(Facts<'a>),
    /// A large stored response, or a large part, without its body.
    Head {
        /// What it is.
        facts: Facts<'a>,
        /// Bytes of the whole body.
        total: u64,
        /// Which slices are its body's.
        write_id: u64,
    },
    /// One slice of a large body.
    Slice {
        /// Which body it belongs to.
        write_id: u64,
        /// Which slice of it, from 0.
        number: u32,
    },
    /// The responses of this primary key vary.
    Marker {
        /// The request fields, in lower case and sorted, separated by commas.
        names: &'a str,
        /// Variants with a smaller lsn were stored under another rule.
        valid_from: u64,
    },
    /// What was written before under this hash is gone.
    Tombstone,
    /// Parts of this primary key's response are stored.
    Parts {
        /// Which they are: a [`PartList`](super::part_list::PartList).
        list: &'a [u8],
    },
}

impl Content<'_> {
    /// Returns what a record with this content is.
    pub fn kind(&self) -> RecordKind {
        match self {
            Content::Whole(_) => RecordKind::Whole,
            Content::Head { .. } => RecordKind::Head,
            Content::Slice { .. } => RecordKind::Slice,
            Content::Marker { .. } => RecordKind::Marker,
            Content::Tombstone => RecordKind::Tombstone,
            Content::Parts { .. } => RecordKind::Parts,
        }
    }
}

/// What a stored response is made of beside key and body.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The facts from which reuse is decided.
    pub meta: StoredMeta,
    /// The serialised response head.
    pub head: &'a [u8],
    /// The hashes of its tags (I-17).
    pub tags: Tags<'a>,
    /// Of which URI it is a variant; `None` if its key is the primary one.
    pub variant: Option<Variant<'a>>,
}

/// The hashes of tags, from memory or from a record.
#[derive(Clone, Copy, Debug)]
pub enum Tags<'a> {
    /// As a stored response has them.
    Held(&'a [u64]),
    /// As a record has them: eight bytes for each.
    Read(&'a [u8]),
}

impl<'a> Tags<'a> {
    /// No tags.
    pub const NONE: Tags<'static> = Tags::Held(&[]);

    /// Returns how many there are.
    pub fn len(&self) -> usize {
        match self {
            Tags::Held(tags) => tags.len(),
            Tags::Read(bytes) => bytes.len() / 8,
        }
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns them all.
    pub fn iter(&self) -> impl Iterator<Item = u64> + use<'a> {
        let (held, read): (&[u64], &[u8]) = match *self {
            Tags::Held(tags) => (tags, &[]),
            Tags::Read(bytes) => (&[], bytes),
        };
        held.iter().copied().chain(read.chunks_exact(8).map(|bytes| u64_at(bytes, 0)))
    }
}

/// What a variant belongs to (RFC 9111 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant<'a> {
    /// The hash of the primary key.
    pub primary: u128,
    /// How many bytes of the variant's key are the primary key.
    pub primary_len: usize,
    /// The request fields by which it was chosen, in lower case and sorted, separated by commas.
    pub names: &'a str,
}

/// Why bytes are not the record that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// No record of this build's begins here.
    NotARecord,
    /// The record goes on behind what is there, if its length is what it says.
    Short,
    /// It is not as it was written for this place.
    Damaged,
    /// It is whole, and another's.
    OtherHash,
}

/// Everything of a record but its body, verified.
#[derive(Clone, Copy, Debug)]
pub struct Front<'r> {
    /// The top half of the hash that it stands under.
    pub hash: u64,
    /// The number that it was given when it was first written: larger than those of all records written before.
    pub lsn: u64,
    /// The invalidation number up to which it was held against the rules.
    pub invalidation: u64,
    /// When it was made, in wall seconds.
    pub created: u32,
    /// When it is of no more use, in wall seconds.
    pub expires: u32,
    /// The canonical cache key; of a slice that of the whole. To be compared with the key that is asked for.
    pub key: &'r [u8],
    /// What it says.
    pub content: Content<'r>,
    front_len: u32,
    body_len: u32,
    body_check: u64,
    block_checks: &'r [u8],
}

impl Front<'_> {
    /// Returns what the record is.
    pub fn kind(&self) -> RecordKind {
        self.content.kind()
    }

    /// Returns where in the record its body begins.
    pub fn front_len(&self) -> usize {
        self.front_len as usize
    }

    /// Returns the bytes of the body.
    pub fn body_len(&self) -> usize {
        self.body_len as usize
    }

    /// Returns the bytes that the record takes in its segment.
    pub fn record_len(&self) -> u64 {
        rounded(u64::from(self.front_len) + u64::from(self.body_len), self.kind())
    }

    /// Returns the blocks that hold these bytes of the body: whole blocks are verified, whatever is needed of them.
    pub fn blocks(&self, bytes: std::ops::Range<usize>) -> std::ops::Range<usize> {
        let end = bytes.end.min(self.body_len());
        if bytes.start >= end { 0..0 } else { bytes.start / CHECKED_LEN..(end - 1) / CHECKED_LEN + 1 }
    }

    /// Returns which bytes of the body a block is.
    pub fn block(&self, block: usize) -> std::ops::Range<usize> {
        let start = block.saturating_mul(CHECKED_LEN).min(self.body_len());
        start..start.saturating_add(CHECKED_LEN).min(self.body_len())
    }

    /// Tells whether these are the bytes of a block of the body.
    pub fn verify_block(&self, block: usize, bytes: &[u8]) -> bool {
        let range = self.block(block);
        if range.is_empty() || bytes.len() != range.len() {
            return false;
        }
        match self.block_checks.get(block * 4..block * 4 + 4) {
            Some(check) => xxh3_64(bytes) as u32 == u32_at(check, 0),
            None => self.block_checks.is_empty() && xxh3_64(bytes) == self.body_check,
        }
    }
}

/// A record that is there as a whole, its front verified.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    /// Everything but the body.
    pub front: Front<'r>,
    body: &'r [u8],
}

impl<'r> Record<'r> {
    /// Returns the body; it is not to be used before [`Record::verify_body`] or, for a part of it, [`Front::verify_block`].
    pub fn body(&self) -> &'r [u8] {
        self.body
    }

    /// Tells whether the body is as it was written.
    pub fn verify_body(&self) -> bool {
        let blocks = self.front.blocks(0..self.body.len());
        blocks.into_iter().all(|block| self.front.verify_block(block, &self.body[self.front.block(block)]))
    }
}

/// The check of a front: what stands before the check is mixed into the seed of what stands behind it.
fn front_check(front: &[u8], seed: u64) -> u64 {
    xxh3_64_with_seed(&front[16..], seed ^ u64_at(front, 0))
}

fn front_len(fields_len: usize, kind: RecordKind) -> usize {
    match kind {
        RecordKind::Slice => fields_len.next_multiple_of(BLOCK_LEN as usize),
        _ => fields_len,
    }
}

fn rounded(len: u64, kind: RecordKind) -> u64 {
    len.next_multiple_of(kind.alignment())
}

fn block_count(body_len: u64) -> usize {
    if body_len > CHECKED_LEN as u64 { body_len.div_ceil(CHECKED_LEN as u64) as usize } else { 0 }
}
