//! Stored responses as records, and records as stored responses.
//!
//! The driver asks for the records of what it writes, and makes of what it read a response in its arena. Invariants: a response comes back as
//! it was, key, head, facts, tags, number and variant, but that what a soft rule ended early stays ended; what a record says is believed
//! only as far as it fits together.

use std::sync::Arc;

use aspis_cache::range::ByteRange;
use aspis_cache::stored::{Part, StoredMeta};
use xxhash_rust::xxh3::xxh3_128;

use super::format::SLICE_LEN;
use super::part_list::PartList;
use super::record::{Content, Facts, Front, NewRecord, Tags, Variant};
use crate::expiry::use_ends_at;
use crate::mapping::body::Body;
use crate::response::{Parts, StoredResponse, VariantOf};

/// Tells whether a body of so many bytes lies on disk in slices, with a head for them.
pub const fn is_large(len: u64) -> bool {
    len > SLICE_LEN
}

/// Returns in how many slices a body of so many bytes lies.
pub const fn slice_count(len: u64) -> u64 {
    len.div_ceil(SLICE_LEN)
}

/// Returns under which hash a slice stands: of one body of one key, so that slices of two bodies never mix.
pub fn slice_hash(hash: u128, write_id: u64, number: u32) -> u128 {
    let mut bytes = [0; 28];
    bytes[..16].copy_from_slice(&hash.to_le_bytes());
    bytes[16..24].copy_from_slice(&write_id.to_le_bytes());
    bytes[24..].copy_from_slice(&number.to_le_bytes());
    xxh3_128(&bytes)
}

/// Returns the pieces of a body's bytes, for [`NewRecord::body`].
pub fn pieces(body: &Body, range: std::ops::Range<u64>) -> Vec<&[u8]> {
    let (mut at, mut pieces) = (range.start, Vec::with_capacity(body.block_count()));
    while at < range.end {
        let piece = body.piece(at);
        let piece = &piece[..piece.len().min((range.end - at) as usize)];
        if piece.is_empty() {
            break;
        }
        at += piece.len() as u64;
        pieces.push(piece);
    }
    pieces
}

/// Returns the record of a response that is not large; `body` are all the pieces of its body. A part stands under another hash.
pub fn whole_record<'a>(stored: &'a StoredResponse, body: &'a [&'a [u8]], created: u32) -> NewRecord<'a> {
    NewRecord { body, ..record(stored, created, Content::Whole(facts(stored))) }
}

/// Returns the head record of a large response of `total` bytes whose slices were written under `write_id`. A part stands under another hash.
pub fn head_record(stored: &StoredResponse, (write_id, total): (u64, u64), created: u32) -> NewRecord<'_> {
    record(stored, created, Content::Head { facts: facts(stored), total, write_id })
}

/// Returns the record of a slice of a large response's body; `body` are the pieces of the slice.
pub fn slice_record<'a>(
    stored: &'a StoredResponse,
    (write_id, number): (u64, u32),
    body: &'a [&'a [u8]],
    created: u32,
) -> NewRecord<'a> {
    let hash = slice_hash(stored.hash, write_id, number);
    NewRecord { hash, body, ..record(stored, created, Content::Slice { write_id, number }) }
}

/// Returns the record that says by what a variant's URI varies, and which of its variants on disk count.
pub fn marker_record<'a>(
    stored: &'a StoredResponse,
    variant: &'a VariantOf,
    valid_from: u64,
    created: u32,
) -> NewRecord<'a> {
    let content = Content::Marker { names: &variant.names, valid_from };
    let key = &stored.key[..variant.primary_len];
    // As long as any of its variants may be of use.
    NewRecord { hash: variant.primary, key, expires: u32::MAX, ..record(stored, created, content) }
}

/// Returns the record that leads from a primary key, by its hash and its bytes, to the parts of its response; `encoded` is the list, and `last` the part
/// that came last.
pub fn part_list_record<'a>(
    last: &'a StoredResponse,
    (primary, key): (u128, &'a [u8]),
    (list, encoded): (&PartList, &'a [u8]),
    created: u32,
) -> NewRecord<'a> {
    let expires = u32::try_from(list.fresh_until()).unwrap_or(u32::MAX);
    let content = Content::Parts { list: encoded };
    NewRecord { hash: primary, key, expires, ..record(last, created, content) }
}

/// Tells whether a response is worth its place on disk at wall second `now`: it may be served or validated then or later.
pub fn is_of_use(stored: &StoredResponse, now: u64) -> bool {
    stored.is_live() && ends_at(stored) > now
}

/// The first wall second at which a response is of no use any more.
fn ends_at(stored: &StoredResponse) -> u64 {
    match stored.meta.part {
        // One that no other may stand beside is not listed, and a stale one is fetched anew.
        Some(_) if !PartList::is_strong(stored) => 0,
        Some(_) => stored.fresh_until(),
        // What has a validator is of use for good: a 304 saves its transfer.
        None if stored.can_be_validated() => u64::MAX,
        None => use_ends_at(&stored.meta),
    }
}

fn record<'a>(stored: &'a StoredResponse, created: u32, content: Content<'a>) -> NewRecord<'a> {
    let expires = ends_at(stored);
    NewRecord {
        hash: stored.hash,
        key: &stored.key,
        invalidation: stored.invalidation(),
        created,
        expires: u32::try_from(expires).unwrap_or(u32::MAX),
        content,
        body: &[],
    }
}

fn facts(stored: &StoredResponse) -> Facts<'_> {
    let variant = stored.variant.as_ref().map(|variant| Variant {
        primary: variant.primary,
        primary_len: variant.primary_len,
        names: &variant.names,
    });
    Facts { meta: shortened(stored), head: &stored.head, tags: Tags::Held(&stored.tags), variant }
}

/// Returns the facts with a lifetime that ends where a soft rule ended the freshness: the record has the number of that rule, which is not
/// looked at again.
pub fn shortened(stored: &StoredResponse) -> StoredMeta {
    let early = stored.meta.fresh_until().saturating_sub(stored.fresh_until());
    let early = u32::try_from(early).unwrap_or(u32::MAX);
    StoredMeta { lifetime: stored.meta.lifetime.saturating_sub(early), ..stored.meta }
}

/// Makes of a record the parts of a response over `body`, which holds what the record's body or its slices did; `None` if it is no
/// response's, or does not fit together.
///
/// `hash` and `key` are what it was asked for under, and `primary` is the hash of the primary key.
pub fn parts(
    front: &Front<'_>,
    primary: u128,
    (hash, key): (u128, &[u8]),
    body: &Arc<Body>,
) -> Option<Parts> {
    let (Content::Whole(facts) | Content::Head { facts, .. }) = front.content else { return None };
    let is_whole = facts.meta.part.is_none() && facts.variant.is_some() == (hash != primary);
    let of_uri = |variant: &Variant<'_>| variant.primary == primary && variant.primary_len < key.len();
    let fits = is_whole && facts.variant.as_ref().is_none_or(of_uri);
    fits.then(|| parts_of(front, &facts, (hash, key), body)).flatten()
}

/// Makes of the record of a part the parts of a response over `body`, as [`parts`] does; `None` if it is not the part with this range.
///
/// `hash` and `key` are those of the parts of its URI.
pub fn parts_of_part(
    front: &Front<'_>,
    range: ByteRange,
    (hash, key): (u128, &[u8]),
    body: &Arc<Body>,
) -> Option<Parts> {
    let (facts, len) = match front.content {
        Content::Whole(facts) => (facts, front.body_len() as u64),
        Content::Head { facts, total, .. } => (facts, total),
        _ => return None,
    };
    let is_meant = |part: Part| part.start == range.start && range.end <= part.total;
    let fits = facts.meta.part.is_some_and(is_meant) && len == range.len() && facts.variant.is_none();
    fits.then(|| parts_of(front, &facts, (hash, key), body)).flatten()
}

fn parts_of(
    front: &Front<'_>,
    facts: &Facts<'_>,
    (hash, key): (u128, &[u8]),
    body: &Arc<Body>,
) -> Option<Parts> {
    (*front.key == *key).then(|| Parts {
        hash,
        key: key.into(),
        head: facts.head.into(),
        meta: facts.meta,
        body: Arc::clone(body),
        invalidation: front.invalidation,
        tags: facts.tags.iter().collect(),
        variant: facts.variant.map(|variant| VariantOf {
            primary: variant.primary,
            primary_len: variant.primary_len,
            names: variant.names.into(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use aspis_cache::stored::{Part, StaleIfError};

    use super::*;
    use crate::budget::Budget;
    use crate::disk::format::StoreId;
    use crate::disk::record::{Place, decode_record, encode_record, record_len};
    use crate::mapping::arena::Arena;

    const PLACE: Place = Place { store: StoreId([7; 16]), sequence: 3 };

    const META: StoredMeta = StoredMeta {
        generated_at: 990,
        received_at: 1000,
        initial_age: 10,
        lifetime: 60,
        stale_if_error: StaleIfError::Within(9),
        ..StoredMeta::PLAIN
    };

    fn body(bytes: &[u8]) -> Arc<Body> {
        let arena = Arena::new(4 << 20, Budget::new(64 << 20)).unwrap();
        let mut writer = Body::writer(&arena, Some(bytes.len() as u64));
        assert_eq!(writer.append(bytes), bytes.len());
        let body = Arc::clone(writer.body());
        writer.complete();
        body
    }

    fn stored(variant: Option<VariantOf>, meta: StoredMeta, bytes: &[u8]) -> Arc<StoredResponse> {
        let parts = Parts {
            hash: if variant.is_some() { 9 << 64 } else { 7 << 64 },
            key: if variant.is_some() { b"key\naccept:x"[..].into() } else { b"key"[..].into() },
            head: b"HTTP/1.1 200 OK\r\nVia: a\r\nX-Cache: b\r\n"[..].into(),
            meta,
            body: body(bytes),
            invalidation: 5,
            tags: Box::new([1, 2]),
            variant,
        };
        StoredResponse::new(parts, &Budget::new(1 << 20)).unwrap()
    }

    fn variant() -> VariantOf {
        VariantOf { primary: 7 << 64, primary_len: 3, names: "accept".into() }
    }

    fn written(new: &NewRecord<'_>) -> Vec<u8> {
        let mut out = vec![1; record_len(new) as usize];
        assert_eq!(encode_record(new, &PLACE, 77, &mut out), out.len());
        out
    }

    #[test]
    fn a_response_comes_back_as_it_was() {
        for variant in [None, Some(variant())] {
            let stored = stored(variant, META, b"body");
            let pieces = pieces(stored.body.in_memory().unwrap(), 0..4);
            let bytes = written(&whole_record(&stored, &pieces, 1001));
            let record = decode_record(&bytes, &PLACE, stored.hash).unwrap();
            assert_eq!((record.body(), record.front.lsn), (&b"body"[..], 77));
            let back =
                parts(&record.front, 7 << 64, (stored.hash, &stored.key), stored.body.in_memory().unwrap())
                    .unwrap();
            assert_eq!((back.hash, &back.key, &back.head), (stored.hash, &stored.key, &stored.head));
            assert_eq!((back.meta, back.invalidation, &back.tags), (stored.meta, 5, &stored.tags));
            assert_eq!(back.variant, stored.variant);
            let other =
                parts(&record.front, 7 << 64, (stored.hash, b"other"), stored.body.in_memory().unwrap());
            assert!(other.is_none(), "the hash proves nothing");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_no_response() {
        let plain = stored(None, META, b"body");
        let bytes = written(&whole_record(&plain, &[], 1001));
        let record = decode_record(&bytes, &PLACE, plain.hash).unwrap();
        // A record of a primary key under the hash of a variant, and the other way round.
        assert!(
            parts(&record.front, 8 << 64, (plain.hash, &plain.key), plain.body.in_memory().unwrap())
                .is_none()
        );
        let varied = stored(Some(variant()), META, b"body");
        let bytes = written(&whole_record(&varied, &[], 1001));
        let record = decode_record(&bytes, &PLACE, varied.hash).unwrap();
        for primary in [varied.hash, 8 << 64] {
            assert!(
                parts(&record.front, primary, (varied.hash, &varied.key), varied.body.in_memory().unwrap())
                    .is_none()
            );
        }
        let meta = StoredMeta { part: Some(Part { start: 0, total: 9 }), ..META };
        let part = stored(None, meta, b"body");
        let bytes = written(&whole_record(&part, &[], 1001));
        let record = decode_record(&bytes, &PLACE, part.hash).unwrap();
        assert!(
            parts(&record.front, part.hash, (part.hash, &part.key), part.body.in_memory().unwrap()).is_none()
        );
        let marker = variant();
        let bytes = written(&marker_record(&varied, &marker, 3, 1001));
        let record = decode_record(&bytes, &PLACE, 7 << 64).unwrap();
        assert_eq!(record.front.key, b"key");
        assert!(parts(&record.front, 7 << 64, (7 << 64, b"key"), part.body.in_memory().unwrap()).is_none());
    }

    /// a part comes back as the one that was meant, and as nothing else.
    #[test]
    fn a_part_comes_back_as_the_range_that_it_was() {
        let of = Part { start: 20, total: 90 };
        let part = stored(None, StoredMeta { status: 206, part: Some(of), ..META }, b"body");
        let range = part.range(of);
        let (list, body) = (PartList::new(8, &part, of), part.body.in_memory().unwrap());
        let hash = list.hash_of(part.hash, range);
        let pieces = pieces(body, 0..4);
        let bytes = written(&NewRecord { hash, ..whole_record(&part, &pieces, 1001) });
        let record = decode_record(&bytes, &PLACE, hash).unwrap();
        let back = parts_of_part(&record.front, range, (part.hash, &part.key), body).unwrap();
        assert_eq!((back.hash, &back.key, back.meta), (part.hash, &part.key, part.meta));
        for (start, end) in [(20, 23), (20, 25), (21, 25), (0, 4)] {
            let other = ByteRange { start, end };
            assert!(parts_of_part(&record.front, other, (part.hash, &part.key), body).is_none(), "{other:?}");
        }
        assert!(parts_of_part(&record.front, range, (part.hash, b"other"), body).is_none());
        assert!(
            parts(&record.front, part.hash, (part.hash, &part.key), body).is_none(),
            "it is not the whole"
        );
        let whole = stored(None, META, b"body");
        let bytes = written(&whole_record(&whole, &pieces, 1001));
        let record = decode_record(&bytes, &PLACE, whole.hash).unwrap();
        let none =
            parts_of_part(&record.front, ByteRange { start: 0, end: 4 }, (whole.hash, &whole.key), body);
        assert!(none.is_none(), "the whole is no part");
        // What leads to it stands under the primary key, and is over with the last of its parts.
        let mut list = list;
        list.note(&part, of, 0);
        let encoded = list.encode();
        let bytes = written(&part_list_record(&part, (5 << 64, b"primary"), (&list, &encoded), 1001));
        let front = decode_record(&bytes, &PLACE, 5 << 64).unwrap().front;
        let Content::Parts { list: read } = front.content else { panic!("a list") };
        assert_eq!((PartList::decode(read), front.key), (Some(list), &b"primary"[..]));
        assert_eq!((u64::from(front.expires), front.invalidation), (part.fresh_until(), 5));
    }

    #[test]
    fn a_part_is_of_use_while_it_is_fresh_and_can_be_listed() {
        let of = Some(Part { start: 0, total: 9 });
        let part = |head: &str| {
            let parts = Parts {
                hash: 1,
                key: b"key"[..].into(),
                head: format!("HTTP/1.1 206 Partial Content\r\n{head}").into_bytes().into(),
                meta: StoredMeta { part: of, ..META },
                body: body(b"x"),
                invalidation: 0,
                tags: Box::default(),
                variant: None,
            };
            StoredResponse::new(parts, &Budget::new(1 << 20)).unwrap()
        };
        let strong = part("ETag: \"a\"\r\n");
        assert!(is_of_use(&strong, strong.fresh_until() - 1) && !is_of_use(&strong, strong.fresh_until()));
        assert!(!is_of_use(&part("ETag: W/\"a\"\r\n"), 1001));
    }

    /// I-25: what a soft rule ended is stale when it comes back, whether or not the rule is still known.
    #[test]
    fn what_ended_early_stays_ended() {
        let stored = stored(None, META, b"body");
        stored.shorten_fresh_until(1020);
        stored.raise_invalidation(8);
        let bytes = written(&whole_record(&stored, &[], 1001));
        let record = decode_record(&bytes, &PLACE, stored.hash).unwrap();
        let back =
            parts(&record.front, stored.hash, (stored.hash, &stored.key), stored.body.in_memory().unwrap())
                .unwrap();
        assert_eq!((back.meta.fresh_until(), back.invalidation), (1020, 8));
    }

    #[test]
    fn a_large_body_lies_in_slices_of_its_own() {
        let bytes: Vec<u8> = (0..SLICE_LEN + 10).map(|at| (at % 251) as u8).collect();
        let stored = stored(None, META, &bytes);
        assert!(is_large(SLICE_LEN + 10) && !is_large(SLICE_LEN));
        assert_eq!((slice_count(SLICE_LEN + 10), slice_count(SLICE_LEN)), (2, 1));
        for (number, range) in [(0, 0..SLICE_LEN), (1, SLICE_LEN..SLICE_LEN + 10)] {
            let pieces = pieces(stored.body.in_memory().unwrap(), range.clone());
            let new = slice_record(&stored, (6, number), &pieces, 1001);
            assert_eq!(new.hash, slice_hash(stored.hash, 6, number));
            let written = written(&new);
            let record = decode_record(&written, &PLACE, new.hash).unwrap();
            assert!(
                record.verify_body() && record.body() == &bytes[range.start as usize..range.end as usize]
            );
        }
        let others = [slice_hash(1, 6, 0), slice_hash(stored.hash, 7, 0), slice_hash(stored.hash, 6, 1)];
        assert!(!others.contains(&slice_hash(stored.hash, 6, 0)));
        let head = written(&head_record(&stored, (6, SLICE_LEN + 10), 1001));
        let record = decode_record(&head, &PLACE, stored.hash).unwrap();
        let Content::Head { total, write_id, .. } = record.front.content else { panic!("a head") };
        assert_eq!((total, write_id, record.front.body_len()), (SLICE_LEN + 10, 6, 0));
    }

    #[test]
    fn what_has_a_validator_is_of_use_for_good() {
        let stored = stored(None, META, b"body");
        assert_eq!(whole_record(&stored, &[], 1001).expires, 1060);
        let parts = Parts {
            hash: 1,
            key: b"key"[..].into(),
            head: b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\n"[..].into(),
            meta: META,
            body: body(b"x"),
            invalidation: 0,
            tags: Box::default(),
            variant: None,
        };
        let validated = StoredResponse::new(parts, &Budget::new(1 << 20)).unwrap();
        assert_eq!(whole_record(&validated, &[], 1001).expires, u32::MAX);
    }
}
