//! Records to bytes, into a buffer of the caller's and without allocating.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::super::bytes::Put;
use super::super::format::CHECKED_LEN;
use super::decode::checked_front;
use super::{
    Content, MAGIC, Mismatch, NewRecord, Place, VERSION, block_count, front_check, front_len, meta, rounded,
};

/// Returns the bytes that a record takes in its segment, which begins there on a multiple of [`RecordKind::alignment`](super::RecordKind::alignment).
///
/// Longer than [`RECORD_LEN_MAX`](super::super::format::RECORD_LEN_MAX) it cannot be written.
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
/// Its offset in the new segment is a multiple of [`RecordKind::alignment`](super::RecordKind::alignment) too. The body is not looked at.
pub fn relocate(record: &mut [u8], from: &Place, to: &Place) -> Result<(), Mismatch> {
    let len = checked_front(record, from)?.len();
    let check = front_check(&record[..len], to.seed());
    record[8..16].copy_from_slice(&check.to_le_bytes());
    Ok(())
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
    let (facts, names): (_, Option<&[u8]>) = match &new.content {
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
            (None, Some(names.as_bytes()))
        }
        Content::Parts { list } => {
            put.varint(list.len() as u64);
            (None, Some(list))
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
    let of_variant = facts.and_then(|facts| facts.variant).map(|variant| variant.names.as_bytes());
    put.bytes(names.or(of_variant).unwrap_or_default());
    put.bytes(new.key);
    put.bytes(facts.map_or(&[], |facts| facts.head));
    checks
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
