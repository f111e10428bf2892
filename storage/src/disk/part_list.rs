//! The parts of one representation that lie on disk: the list that stands under the URI's primary key and leads to them.
//!
//! The owner of the key notes each part that it writes and asks which of them holds a range; the list goes to disk behind each part as a record
//! of its own. A part stands under a hash made of its key, the list's number and its range, so that without the list nobody finds it: whatever takes the
//! list's place under the primary key, a whole response, a marker, a tombstone, ends all parts with it. Invariants: all parts are of one
//! representation, by a strong validator and the total length, else there is one; no two lists of a URI have the same number; what was
//! read from a disk names no byte behind the end of the whole.

use aspis_cache::range::ByteRange;
use aspis_cache::stored::Part;
use xxhash_rust::xxh3::xxh3_128;

use super::bytes::{Put, Take};
use crate::limits::LISTED_PARTS_MAX;
use crate::parts::{Held, Ranges, Validator, validator_of};
use crate::response::StoredResponse;

const NO_VALIDATOR: u8 = 0;
const ETAG: u8 = 1;
const LAST_MODIFIED: u8 = 2;

/// Which parts of a representation lie on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartList {
    /// Which list of its URI it is.
    number: u64,
    ranges: Ranges,
}

impl PartList {
    /// Begins a list of parts of the representation that `stored` is a part of; `number` is one that no other list of this URI has or had.
    pub fn new(number: u64, stored: &StoredResponse, part: Part) -> Self {
        PartList { number, ranges: Ranges::of(stored, part) }
    }

    /// Tells whether a part can have others beside it: it has a strong validator.
    pub fn is_strong(stored: &StoredResponse) -> bool {
        validator_of(stored).is_some()
    }

    /// Tells whether a part can stand in this list: it is of the same representation.
    pub fn takes(&self, stored: &StoredResponse, part: Part) -> bool {
        self.ranges.takes(part.total, validator_of(stored).as_ref())
    }

    /// Notes a part that is written at wall second `now`. Parts within it leave the list, those that are not fresh any more, and the oldest of too many.
    pub fn note(&mut self, stored: &StoredResponse, part: Part, now: u64) {
        let new = Held { range: stored.range(part), fresh_until: stored.fresh_until() };
        self.ranges.held.retain(|held| held.fresh_until > now && held.range != new.range);
        self.ranges.add(new, LISTED_PARTS_MAX);
    }

    /// Returns the part that is fresh at wall second `now` and holds all of `wanted`; of several the one that is fresh the longest.
    pub fn holding(&self, wanted: ByteRange, now: u64) -> Option<ByteRange> {
        self.ranges.holding(wanted, Some(now))
    }

    /// Returns the longest part that is fresh at wall second `now`, begins the whole, is not all of it, and has at most `len_max` bytes.
    pub fn beginning(&self, len_max: u64, now: u64) -> Option<ByteRange> {
        let fresh = self.ranges.held.iter().filter(|held| held.fresh_until > now);
        let ranges = fresh.map(|held| held.range);
        let is_one =
            |range: &ByteRange| range.start == 0 && range.end < self.total() && range.len() <= len_max;
        ranges.filter(is_one).max_by_key(ByteRange::len)
    }

    /// Tells whether exactly this part is listed.
    pub fn has(&self, range: ByteRange) -> bool {
        self.ranges.held.iter().any(|held| held.range == range)
    }

    /// Returns the bytes of the whole.
    pub fn total(&self) -> u64 {
        self.ranges.total
    }

    /// Returns the first wall second at which none of its parts is fresh.
    pub fn fresh_until(&self) -> u64 {
        self.ranges.held.iter().map(|held| held.fresh_until).max().unwrap_or_default()
    }

    /// Returns under which hash a part stands; `hash` is that of the key of the parts.
    pub fn hash_of(&self, hash: u128, range: ByteRange) -> u128 {
        let mut bytes = [0; 40];
        bytes[..16].copy_from_slice(&hash.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&range.start.to_le_bytes());
        bytes[32..].copy_from_slice(&range.end.to_le_bytes());
        xxh3_128(&bytes)
    }

    /// Returns the bytes of memory that it takes beside itself.
    pub fn heap_len(&self) -> usize {
        let validator_len = self.ranges.validator.as_ref().map_or(0, Validator::heap_len);
        self.ranges.held.capacity() * size_of::<Held>() + validator_len
    }

    /// Returns it as a record has it.
    pub fn encode(&self) -> Vec<u8> {
        let mut counting = Put::counting();
        self.put(&mut counting);
        let mut out = vec![0; counting.len()];
        self.put(&mut Put::to(&mut out));
        out
    }

    fn put(&self, put: &mut Put<'_>) {
        let PartList { number, ranges: Ranges { total, validator, held } } = self;
        put.varint(*number);
        put.varint(*total);
        match validator {
            None => put.bytes(&[NO_VALIDATOR]),
            Some(Validator::Etag(tag)) => {
                put.bytes(&[ETAG]);
                put.varint(tag.len() as u64);
                put.bytes(tag);
            }
            Some(Validator::LastModified(second)) => {
                put.bytes(&[LAST_MODIFIED]);
                put.varint(*second);
            }
        }
        put.varint(held.len() as u64);
        let mut before = 0;
        for Held { range, fresh_until } in held {
            put.varint(range.start);
            put.varint(range.len());
            put.distance(*fresh_until, before);
            before = *fresh_until;
        }
    }

    /// Reads one; `None` if the bytes are none, or do not fit together.
    pub fn decode(bytes: &[u8]) -> Option<PartList> {
        let mut take = Take::of(bytes);
        let (number, total) = (take.varint()?, take.varint()?);
        let validator = match take.u8()? {
            NO_VALIDATOR => None,
            ETAG => {
                let len = take.varint()?;
                Some(Validator::Etag(take.bytes(len)?.into()))
            }
            LAST_MODIFIED => Some(Validator::LastModified(take.varint()?)),
            _ => return None,
        };
        let count = take.varint()?;
        if count > LISTED_PARTS_MAX as u64 || (validator.is_none() && count > 1) {
            return None;
        }
        let (mut held, mut before) = (Vec::with_capacity(count as usize), 0);
        for _ in 0..count {
            let (start, len) = (take.varint()?, take.varint()?);
            let end = start.checked_add(len).filter(|end| *end > start && *end <= total)?;
            let fresh_until = take.distance(before)?;
            held.push(Held { range: ByteRange { start, end }, fresh_until });
            before = fresh_until;
        }
        take.rest().is_empty().then_some(PartList { number, ranges: Ranges { total, validator, held } })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aspis_cache::stored::StoredMeta;
    use proptest::prelude::*;

    use super::*;
    use crate::budget::Budget;
    use crate::mapping::arena::Arena;
    use crate::mapping::body::Body;
    use crate::response::Parts;

    const TOTAL: u64 = 1 << 40;

    /// A part of these bytes that is fresh until `fresh_until`.
    fn part(range: (u64, u64), fields: &str, fresh_until: u64) -> (Arc<StoredResponse>, Part) {
        let arena = Arena::new(1 << 20, Budget::new(4 << 20)).unwrap();
        let mut writer = Body::writer(&arena, Some(range.1 - range.0));
        let content = vec![7; (range.1 - range.0) as usize];
        assert_eq!(writer.append(&content), content.len());
        let body = Arc::clone(writer.body());
        writer.complete();
        let part = Part { start: range.0, total: TOTAL };
        let lifetime = fresh_until as u32;
        let meta = StoredMeta { status: 206, lifetime, part: Some(part), ..StoredMeta::PLAIN };
        let parts = Parts {
            hash: 9,
            key: b"key\npart"[..].into(),
            head: format!("HTTP/1.1 206 Partial Content\r\n{fields}\r\n").into_bytes().into(),
            meta,
            body,
            invalidation: 0,
            tags: Box::default(),
            variant: None,
        };
        (StoredResponse::new(parts, &Budget::new(1 << 20)).unwrap(), part)
    }

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange { start, end }
    }

    const TAG: &str = "ETag: \"a\"\r\n";

    fn listing(parts: &[((u64, u64), u64)]) -> PartList {
        let (first, of) = part(parts[0].0, TAG, parts[0].1);
        let mut list = PartList::new(5, &first, of);
        for (bytes, fresh_until) in parts {
            let (stored, of) = part(*bytes, TAG, *fresh_until);
            assert!(list.has(range(bytes.0, bytes.1)) || list.takes(&stored, of));
            list.note(&stored, of, 0);
        }
        list
    }

    ///
    #[test]
    fn a_range_is_found_in_the_part_that_holds_it() {
        let list = listing(&[((0, 100), 60), ((100, 300), 60), ((50, 200), 90)]);
        for (wanted, found) in [
            ((0, 100), Some((0, 100))),
            ((60, 90), Some((50, 200))),
            ((199, 201), Some((100, 300))),
            ((0, 101), None),
            ((300, 301), None),
        ] {
            let found = found.map(|(start, end)| range(start, end));
            assert_eq!(list.holding(range(wanted.0, wanted.1), 59), found, "{wanted:?}");
        }
        assert_eq!((list.beginning(100, 59), list.beginning(99, 59)), (Some(range(0, 100)), None));
        // What is stale is of no use.
        assert_eq!((list.holding(range(0, 100), 60), list.beginning(100, 60)), (None, None));
        assert_eq!(list.holding(range(60, 90), 60), Some(range(50, 200)));
    }

    /// a strong validator and the total length say what is of one representation.
    #[test]
    fn only_parts_of_one_representation_stand_together() {
        let list = listing(&[((0, 100), 60)]);
        let takes = |fields: &str, total: u64| {
            let (stored, _) = part((100, 200), fields, 60);
            list.takes(&stored, Part { start: 100, total })
        };
        assert!(takes(TAG, TOTAL));
        assert!(!takes("ETag: \"b\"\r\n", TOTAL) && !takes("ETag: W/\"a\"\r\n", TOTAL));
        assert!(!takes("", TOTAL) && !takes(TAG, TOTAL - 1));
        let (weak, of) = part((0, 100), "ETag: W/\"a\"\r\n", 60);
        let alone = PartList::new(5, &weak, of);
        assert!(!alone.takes(&weak, of) && !PartList::is_strong(&weak), "what is not strong stands alone");
    }

    #[test]
    fn what_lies_within_a_part_or_is_over_leaves_the_list() {
        let list = listing(&[((10, 20), 60), ((0, 100), 60)]);
        assert!(!list.has(range(10, 20)) && list.has(range(0, 100)));
        let list = listing(&[((0, 100), 60), ((0, 100), 50)]);
        assert_eq!((list.ranges.held.len(), list.fresh_until()), (1, 50), "written anew");
        let mut list = listing(&[((0, 100), 60), ((200, 300), 90)]);
        let (later, of) = part((400, 500), TAG, 120);
        list.note(&later, of, 60);
        assert!(!list.has(range(0, 100)) && list.has(range(200, 300)) && list.fresh_until() == 120);
        let many: Vec<((u64, u64), u64)> =
            (0..LISTED_PARTS_MAX as u64 + 3).map(|at| ((10 * at, 10 * at + 5), 60)).collect();
        let list = listing(&many);
        assert_eq!(list.ranges.held.len(), LISTED_PARTS_MAX);
        assert!(!list.has(range(20, 25)) && list.has(range(30, 35)));
    }

    #[test]
    fn each_part_of_each_list_stands_by_itself() {
        let list = listing(&[((0, 100), 60)]);
        let other = PartList { number: 6, ..list.clone() };
        let hashes = [
            list.hash_of(9, range(0, 100)),
            list.hash_of(9, range(0, 101)),
            list.hash_of(9, range(1, 100)),
            list.hash_of(8, range(0, 100)),
            other.hash_of(9, range(0, 100)),
        ];
        assert!((1..5).all(|at| !hashes[..at].contains(&hashes[at])));
    }

    #[test]
    fn what_does_not_fit_together_is_no_list() {
        let sound = listing(&[((0, 100), 60)]);
        assert_eq!(PartList::decode(&sound.encode()), Some(sound.clone()));
        let with = |change: &dyn Fn(&mut Ranges)| {
            let mut list = sound.clone();
            change(&mut list.ranges);
            PartList::decode(&list.encode())
        };
        assert_eq!(with(&|ranges| ranges.total = 99), None, "behind the end");
        assert_eq!(with(&|ranges| ranges.held[0].range.end = 0), None, "empty");
        assert_eq!(with(&|ranges| ranges.held = vec![ranges.held[0]; LISTED_PARTS_MAX + 1]), None);
        let two = |ranges: &mut Ranges| {
            (ranges.validator, ranges.held) = (None, vec![ranges.held[0]; 2]);
        };
        assert_eq!(with(&two), None, "without a validator there is one");
        assert_eq!(PartList::decode(&[sound.encode(), vec![0]].concat()), None, "bytes behind it");
    }

    proptest! {
        #[test]
        fn a_list_is_read_as_it_was_written(
            parts in prop::collection::vec((0..TOTAL - 500, 1..500u64, any::<u64>()), 0..=LISTED_PARTS_MAX),
            number in any::<u64>(),
            tag in prop::collection::vec(any::<u8>(), 1..40),
            modified in prop::option::of(any::<u64>()),
        ) {
            let held = parts.iter().map(|(start, len, fresh_until)| Held {
                range: range(*start, start + len),
                fresh_until: *fresh_until,
            });
            let validator = modified.map_or(Validator::Etag(tag.into()), Validator::LastModified);
            let ranges = Ranges { total: TOTAL, validator: Some(validator), held: held.collect() };
            let list = PartList { number, ranges };
            prop_assert_eq!(PartList::decode(&list.encode()), Some(list));
        }

        #[test]
        fn any_bytes_are_a_sound_list_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(list) = PartList::decode(&bytes) {
                let ends = list.ranges.held.iter().map(|held| held.range);
                prop_assert!(ends.into_iter().all(|range| range.start < range.end && range.end <= list.total()));
            }
        }
    }
}
