//! Records: stored responses, slices and notes about keys as they lie in a segment.
//!
//! ```text
//! 0   magic u16, version u8, kind u8, front length u32
//! 8   check u64 of the front but for itself; covers store and sequence too
//! 16  top half of the hash u64
//! 24  check u64 of the body, or 0 where its blocks have checks of their own
//! 32  lsn u64, created u32, then numbers as short as they are, then bytes: primary hash, tags, block checks, names, key, head
//! ..  body, at once behind the front; in a slice on a 4 KiB boundary
//! ```
//!
//! A volume's owner writes records into its buffers; what was read goes through [`decode_record`] or [`decode_front`] before anything
//! of it is used. Invariants: a record begins on a unit, a slice on a block, and ends before its segment's footer; a record that does
//! not stand where it was written, or is not as it was written, does not verify; what verifies is compared by its key before it is served.

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use aspis_cache::stored::StoredMeta;

use super::bytes::{Put, Take, seed, u16_at, u32_at, u64_at};
use super::format::{BLOCK_LEN, CHECKED_LEN, Class, StoreId, UNIT_LEN};

mod meta;
#[cfg(test)]
mod tests;

const MAGIC: u16 = u16::from_le_bytes(*b"AR");
const VERSION: u8 = 1;

/// Bytes before the first field of variable length.
const FIXED_LEN: usize = 44;

/// Bytes of the shortest record.
pub const RECORD_LEN_MIN: usize = UNIT_LEN as usize;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// A whole stored response.
    Whole,
    /// What a large stored response has but its body, which lies in slices.
    Head,
    /// A slice of a large body.
    Slice,
    /// A primary key whose responses vary, and by which request fields.
    Marker,
    /// Nothing is stored under this hash that was written before.
    Tombstone,
}

impl RecordKind {
    const ALL: [RecordKind; 5] =
        [RecordKind::Whole, RecordKind::Head, RecordKind::Slice, RecordKind::Marker, RecordKind::Tombstone];

    /// Returns the number that stands for it in records and footers.
    pub fn code(self) -> u8 {
        match self {
            RecordKind::Whole => 1,
            RecordKind::Head => 2,
            RecordKind::Slice => 3,
            RecordKind::Marker => 4,
            RecordKind::Tombstone => 5,
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
    /// A whole stored response.
    Whole(Facts<'a>),
    /// A large stored response without its body.
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

/// Returns the bytes that a record takes in its segment, which begins there on a multiple of [`RecordKind::alignment`].
///
/// Longer than [`RECORD_LEN_MAX`](super::format::RECORD_LEN_MAX) it cannot be written.
pub fn record_len(new: &NewRecord<'_>) -> u64 {
    let mut put = Put::counting();
    put_fields(new, 0, &mut put);
    rounded(front_len(put.len(), new.kind()) as u64 + new.body_len(), new.kind())
}

/// Writes a record to the beginning of `out`, which has room for [`record_len`] bytes, and returns how many these are.
///
/// `lsn` is larger than that of every record of the volume so far.
pub fn encode_record(new: &NewRecord<'_>, place: &Place, lsn: u64, out: &mut [u8]) -> usize {
    let mut at = encode_front(new, place, lsn, out);
    for piece in new.body {
        out[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    let len = rounded(at as u64, new.kind()) as usize;
    out[at..len].fill(0);
    len
}

/// Writes all of a record but its body, which begins at once behind it, and returns how long that is.
///
/// For who gathers the record in more than one buffer; body and padding are then left to them.
pub fn encode_front(new: &NewRecord<'_>, place: &Place, lsn: u64, out: &mut [u8]) -> usize {
    let mut put = Put::to(out);
    let checks = put_fields(new, lsn, &mut put);
    let len = front_len(put.len(), new.kind());
    put.zeros(len - put.len());
    let body_check = write_body_checks(new.body, &mut out[checks]);
    let front = &mut out[..len];
    front[4..8].copy_from_slice(&(len as u32).to_le_bytes());
    front[24..32].copy_from_slice(&body_check.to_le_bytes());
    let check = front_check(front, place.seed());
    front[8..16].copy_from_slice(&check.to_le_bytes());
    len
}

/// Makes the copy of a record that lay in `from` one that lies in `to`, as reclaim does with what is still used.
///
/// Its offset in the new segment is a multiple of [`RecordKind::alignment`] too. The body is not looked at.
pub fn relocate(record: &mut [u8], from: &Place, to: &Place) -> Result<(), Mismatch> {
    let len = checked_front(record, from)?.len();
    let check = front_check(&record[..len], to.seed());
    record[8..16].copy_from_slice(&check.to_le_bytes());
    Ok(())
}

/// Reads the record that begins `bytes` and stands under `hash`; its front is verified, its body is there.
///
/// The caller compares the key, then has the body verified.
pub fn decode_record<'r>(bytes: &'r [u8], place: &Place, hash: u128) -> Result<Record<'r>, Mismatch> {
    of_hash(scan_record(bytes, place)?, |record| record.front.hash, hash)
}

/// Reads all of the record that begins `bytes` and stands under `hash` but its body, which need not be there.
pub fn decode_front<'r>(bytes: &'r [u8], place: &Place, hash: u128) -> Result<Front<'r>, Mismatch> {
    of_hash(scan_front(bytes, place)?, |front| front.hash, hash)
}

/// Reads whichever record begins `bytes`.
pub fn scan_record<'r>(bytes: &'r [u8], place: &Place) -> Result<Record<'r>, Mismatch> {
    let front = scan_front(bytes, place)?;
    // The whole record, so that what follows it is there or the record is not.
    let len = usize::try_from(front.record_len()).map_err(|_| Mismatch::Short)?;
    let record = bytes.get(..len).ok_or(Mismatch::Short)?;
    let body = &record[front.front_len()..front.front_len() + front.body_len()];
    Ok(Record { front, body })
}

/// Reads all of whichever record begins `bytes` but its body, which need not be there.
pub fn scan_front<'r>(bytes: &'r [u8], place: &Place) -> Result<Front<'r>, Mismatch> {
    let front = checked_front(bytes, place)?;
    take_fields(front).ok_or(Mismatch::Damaged)
}

fn of_hash<T>(found: T, hash_of: impl Fn(&T) -> u64, hash: u128) -> Result<T, Mismatch> {
    if hash_of(&found) == (hash >> 64) as u64 { Ok(found) } else { Err(Mismatch::OtherHash) }
}

/// Returns the front that begins `bytes` if it is as it was written for this place.
fn checked_front<'r>(bytes: &'r [u8], place: &Place) -> Result<&'r [u8], Mismatch> {
    if bytes.len() < RECORD_LEN_MIN {
        return Err(Mismatch::Short);
    }
    if u16_at(bytes, 0) != MAGIC || bytes[2] != VERSION {
        return Err(Mismatch::NotARecord);
    }
    let len = u32_at(bytes, 4) as usize;
    if len < FIXED_LEN {
        return Err(Mismatch::Damaged);
    }
    let front = bytes.get(..len).ok_or(Mismatch::Short)?;
    if front_check(front, place.seed()) != u64_at(front, 8) {
        return Err(Mismatch::Damaged);
    }
    Ok(front)
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

/// Writes what stands before the body, without the checks; returns where those of the blocks belong.
fn put_fields(new: &NewRecord<'_>, lsn: u64, put: &mut Put<'_>) -> std::ops::Range<usize> {
    let body_len = new.body_len();
    put.bytes(&MAGIC.to_le_bytes());
    put.bytes(&[VERSION, new.kind().code()]);
    put.zeros(12);
    put.bytes(&((new.hash >> 64) as u64).to_le_bytes());
    put.zeros(8);
    put.bytes(&lsn.to_le_bytes());
    put.bytes(&new.created.to_le_bytes());
    put.distance(new.expires.into(), new.created.into());
    put.varint(new.invalidation);
    put.varint(body_len);
    put.varint(new.key.len() as u64);
    let (facts, names) = match &new.content {
        Content::Whole(facts) => (Some(facts), None),
        Content::Head { facts, total, write_id } => {
            put.varint(*total);
            put.varint(*write_id);
            (Some(facts), None)
        }
        Content::Slice { write_id, number } => {
            put.varint(*write_id);
            put.varint((*number).into());
            (None, None)
        }
        Content::Marker { names, valid_from } => {
            put.varint(*valid_from);
            put.varint(names.len() as u64);
            (None, Some(*names))
        }
        Content::Tombstone => (None, None),
    };
    if let Some(facts) = facts {
        meta::put(&facts.meta, new.created, put);
        put.varint(facts.head.len() as u64);
        put.varint(facts.tags.len() as u64);
        if let Some(variant) = &facts.variant {
            put.varint(variant.primary_len as u64 + 1);
            put.varint(variant.names.len() as u64);
            put.bytes(&variant.primary.to_le_bytes());
        } else {
            put.varint(0);
        }
        facts.tags.iter().for_each(|tag| put.bytes(&tag.to_le_bytes()));
    }
    let checks = put.len();
    put.zeros(block_count(body_len) * 4);
    let checks = checks..put.len();
    let of_variant = facts.and_then(|facts| facts.variant).map(|variant| variant.names);
    put.bytes(names.or(of_variant).unwrap_or_default().as_bytes());
    put.bytes(new.key);
    put.bytes(facts.map_or(&[], |facts| facts.head));
    checks
}

/// Reads what stands before the body, after its check.
fn take_fields(front: &[u8]) -> Option<Front<'_>> {
    let kind = RecordKind::of_code(front[3])?;
    let (hash, body_check) = (u64_at(front, 16), u64_at(front, 24));
    let mut take = Take::of(&front[32..]);
    let lsn = take.u64()?;
    let created = take.u32()?;
    let expires = u32::try_from(take.distance(created.into())?).ok()?;
    let invalidation = take.varint()?;
    let body_len = take.varint32()?;
    let key_len = take.varint()?;
    let body_blocks = block_count(body_len.into()) as u64;
    let (key, content, block_checks);
    match kind {
        RecordKind::Whole => {
            let rest = FactLens::take(created, &mut take)?;
            block_checks = take.bytes(4 * body_blocks)?;
            let facts = rest.facts(&mut take, key_len)?;
            key = facts.0;
            content = Content::Whole(facts.1);
        }
        RecordKind::Head => {
            let (total, write_id) = (take.varint()?, take.varint()?);
            let rest = FactLens::take(created, &mut take)?;
            block_checks = take.bytes(4 * body_blocks)?;
            let facts = rest.facts(&mut take, key_len)?;
            key = facts.0;
            content = Content::Head { facts: facts.1, total, write_id };
        }
        RecordKind::Slice => {
            let (write_id, number) = (take.varint()?, take.varint32()?);
            block_checks = take.bytes(4 * body_blocks)?;
            key = take.bytes(key_len)?;
            content = Content::Slice { write_id, number };
        }
        RecordKind::Marker => {
            let (valid_from, names_len) = (take.varint()?, take.varint()?);
            block_checks = take.bytes(4 * body_blocks)?;
            let names = std::str::from_utf8(take.bytes(names_len)?).ok()?;
            key = take.bytes(key_len)?;
            content = Content::Marker { names, valid_from };
        }
        RecordKind::Tombstone => {
            block_checks = take.bytes(4 * body_blocks)?;
            key = take.bytes(key_len)?;
            content = Content::Tombstone;
        }
    }
    let (front_len, fields_len) = (front.len(), front.len() - take.rest().len());
    (self::front_len(fields_len, kind) == front_len).then_some(())?;
    let front_len = front_len as u32;
    Some(Front {
        hash,
        lsn,
        invalidation,
        created,
        expires,
        key,
        content,
        front_len,
        body_len,
        body_check,
        block_checks,
    })
}

/// The fields of a stored response that stand before the block checks.
struct FactLens<'r> {
    meta: StoredMeta,
    head_len: u64,
    /// Primary hash, length of the primary key, and length of the names.
    variant: Option<(u128, usize, u64)>,
    tags: Tags<'r>,
}

impl<'r> FactLens<'r> {
    fn take(created: u32, take: &mut Take<'r>) -> Option<Self> {
        let meta = meta::take(created, take)?;
        let (head_len, tag_count) = (take.varint()?, take.varint()?);
        let variant = match take.varint()? {
            0 => None,
            primary_len => {
                let names_len = take.varint()?;
                let primary = u128::from_le_bytes(take.bytes(16)?.try_into().ok()?);
                Some((primary, usize::try_from(primary_len - 1).ok()?, names_len))
            }
        };
        let tags = Tags::Read(take.bytes(tag_count.checked_mul(8)?)?);
        Some(FactLens { meta, head_len, variant, tags })
    }

    /// Reads what stands behind the block checks, the key among it.
    fn facts(self, take: &mut Take<'r>, key_len: u64) -> Option<(&'r [u8], Facts<'r>)> {
        let FactLens { meta, head_len, variant, tags } = self;
        let variant = match variant {
            Some((primary, primary_len, names_len)) => {
                let names = std::str::from_utf8(take.bytes(names_len)?).ok()?;
                // The primary key is the beginning of the variant's.
                (primary_len as u64 <= key_len).then_some(())?;
                Some(Variant { primary, primary_len, names })
            }
            None => None,
        };
        let key = take.bytes(key_len)?;
        let head = take.bytes(head_len)?;
        Some((key, Facts { meta, head, tags, variant }))
    }
}

/// Writes the checks of a long body's blocks; returns that of a short one.
fn write_body_checks(pieces: &[&[u8]], checks: &mut [u8]) -> u64 {
    let mut pieces = Pieces { pieces, at: 0 };
    if checks.is_empty() {
        return pieces.check(CHECKED_LEN);
    }
    for check in checks.chunks_exact_mut(4) {
        check.copy_from_slice(&(pieces.check(CHECKED_LEN) as u32).to_le_bytes());
    }
    0
}

/// A body that is read from front to back.
struct Pieces<'p> {
    pieces: &'p [&'p [u8]],
    /// How much of the first piece was read.
    at: usize,
}

impl Pieces<'_> {
    /// Returns the check of the next `len` bytes, or of what is left.
    fn check(&mut self, len: usize) -> u64 {
        self.skip_read();
        // At once where one piece has them all, as most do.
        if let [piece, others @ ..] = self.pieces
            && (piece.len() - self.at >= len || others.is_empty())
        {
            let end = piece.len().min(self.at + len);
            let check = xxh3_64(&piece[self.at..end]);
            self.at = end;
            return check;
        }
        let mut hasher = Xxh3::new();
        let mut left = len;
        while left > 0
            && let [piece, ..] = self.pieces
        {
            let end = piece.len().min(self.at + left);
            hasher.update(&piece[self.at..end]);
            left -= end - self.at;
            self.at = end;
            self.skip_read();
        }
        hasher.digest()
    }

    /// Goes to the next piece while nothing of this one is left.
    fn skip_read(&mut self) {
        while let [piece, others @ ..] = self.pieces
            && self.at == piece.len()
        {
            self.pieces = others;
            self.at = 0;
        }
    }
}
