//! Bytes to records: no length is believed before the check that covers it, and what does not fit together is damage.

use aspis_cache::stored::StoredMeta;

use super::super::bytes::{Take, u16_at, u32_at, u64_at};
use super::{
    Content, FIXED_LEN, Facts, Front, MAGIC, Mismatch, Place, RECORD_LEN_MIN, Record, RecordKind, Tags,
    VERSION, Variant, block_count, front_check, meta,
};

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
pub(super) fn checked_front<'r>(bytes: &'r [u8], place: &Place) -> Result<&'r [u8], Mismatch> {
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
        RecordKind::Parts => {
            let list_len = take.varint()?;
            block_checks = take.bytes(4 * body_blocks)?;
            let list = take.bytes(list_len)?;
            key = take.bytes(key_len)?;
            content = Content::Parts { list };
        }
        RecordKind::Tombstone => {
            block_checks = take.bytes(4 * body_blocks)?;
            key = take.bytes(key_len)?;
            content = Content::Tombstone;
        }
    }
    let (front_len, fields_len) = (front.len(), front.len() - take.rest().len());
    (super::front_len(fields_len, kind) == front_len).then_some(())?;
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
