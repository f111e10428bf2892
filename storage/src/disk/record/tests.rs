use aspis_cache::stored::{Part, StaleIfError};
use proptest::prelude::*;

use super::super::format::{RECORD_LEN_MAX, SLICE_LEN};
use super::*;

const PLACE: Place = Place { store: StoreId(*b"0123456789abcdef"), sequence: 12 };
const HASH: u128 = 0x1234_5678_9abc_def0_1122_3344_5566_7788;

fn plain<'a>(head: &'a [u8], tags: &'a [u64]) -> Facts<'a> {
    Facts { meta: StoredMeta::PLAIN, head, tags: Tags::Held(tags), variant: None }
}

fn new<'a>(key: &'a [u8], content: Content<'a>, body: &'a [&'a [u8]]) -> NewRecord<'a> {
    NewRecord {
        hash: HASH,
        key,
        invalidation: 5,
        created: 1_800_000_000,
        expires: 1_800_000_060,
        content,
        body,
    }
}

/// A record in a buffer of exactly its length that held other bytes before.
fn encoded(new: &NewRecord<'_>, place: &Place, lsn: u64) -> Vec<u8> {
    let mut out = vec![0xee; record_len(new) as usize];
    assert_eq!(encode_record(new, place, lsn, &mut out), out.len());
    out
}

#[derive(Clone, Debug)]
struct Sample {
    meta: StoredMeta,
    kind: RecordKind,
    key: Vec<u8>,
    head: Vec<u8>,
    names: String,
    tags: Vec<u64>,
    variant: Option<(u128, usize)>,
    body: Vec<u8>,
    cuts: Vec<prop::sample::Index>,
    numbers: (u64, u64, u32, u64),
    times: (u32, u32),
}

impl Sample {
    fn facts(&self) -> Facts<'_> {
        let variant = self.variant.map(|(primary, primary_len)| Variant {
            primary,
            primary_len: primary_len.min(self.key.len()),
            names: &self.names,
        });
        Facts { meta: self.meta, head: &self.head, tags: Tags::Held(&self.tags), variant }
    }

    fn content(&self) -> Content<'_> {
        let (first, second, number, _) = self.numbers;
        match self.kind {
            RecordKind::Whole => Content::Whole(self.facts()),
            RecordKind::Head => Content::Head { facts: self.facts(), total: first, write_id: second },
            RecordKind::Slice => Content::Slice { write_id: first, number },
            RecordKind::Marker => Content::Marker { names: &self.names, valid_from: first },
            RecordKind::Tombstone => Content::Tombstone,
            RecordKind::Parts => Content::Parts { list: &self.head },
        }
    }

    /// The body cut into pieces, some of them empty.
    fn pieces(&self) -> Vec<&[u8]> {
        let mut cuts: Vec<usize> = self.cuts.iter().map(|cut| cut.index(self.body.len() + 1)).collect();
        cuts.extend([0, self.body.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|cut| &self.body[cut[0]..cut[1]]).collect()
    }

    fn with<T>(&self, what: impl FnOnce(&NewRecord<'_>) -> T) -> T {
        let pieces = self.pieces();
        let (created, expires) = self.times;
        let invalidation = self.numbers.3;
        let (key, content) = (&self.key[..], self.content());
        what(&NewRecord { hash: HASH, key, invalidation, created, expires, content, body: &pieces })
    }
}

fn metas() -> impl Strategy<Value = StoredMeta> {
    let on_error = prop_oneof![
        Just(StaleIfError::Forbidden),
        Just(StaleIfError::Unstated),
        any::<u32>().prop_map(StaleIfError::Within)
    ];
    let part = prop::option::of(any::<(u64, u64)>().prop_map(|(start, total)| Part { start, total }));
    (any::<(u16, u64, u64, u32, u32, u32, bool, bool, bool)>(), on_error, part).prop_map(
        |(numbers, stale_if_error, part)| {
            let (status, generated_at, received_at, initial_age, lifetime, stale_while_revalidate, ..) =
                numbers;
            let (.., no_cache, forbids_stale, targeted) = numbers;
            StoredMeta {
                status,
                generated_at,
                received_at,
                initial_age,
                lifetime,
                no_cache,
                stale_while_revalidate,
                stale_if_error,
                forbids_stale,
                targeted,
                part,
            }
        },
    )
}

fn samples() -> impl Strategy<Value = Sample> {
    let body_len = prop_oneof![4 => 0usize..300, 2 => 60_000usize..70_000, 1 => 120_000usize..200_000];
    let body = (body_len, any::<u64>()).prop_map(|(len, seed)| {
        (0..len as u64).map(|at| (at.wrapping_mul(seed | 1) >> 13) as u8).collect::<Vec<_>>()
    });
    let bytes = (prop::collection::vec(any::<u8>(), 0..200), prop::collection::vec(any::<u8>(), 0..600));
    let names = "[a-z-]{0,20}(,[a-z]{1,9})?";
    let tags = prop::collection::vec(any::<u64>(), 0..5);
    let variant = prop::option::of((any::<u128>(), 0usize..300));
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    let kind = prop::sample::select(RecordKind::ALL.to_vec());
    let numbers = (any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>());
    ((metas(), kind, bytes, names, tags, variant), (body, cuts, numbers, any::<(u32, u32)>())).prop_map(
        |((meta, kind, (key, head), names, tags, variant), (body, cuts, numbers, times))| Sample {
            meta,
            kind,
            key,
            head,
            names,
            tags,
            variant,
            body,
            cuts,
            numbers,
            times,
        },
    )
}

/// Tells whether content that was read is what was written.
fn same(read: &Content<'_>, written: &Content<'_>) -> bool {
    let facts = |read: &Facts<'_>, written: &Facts<'_>| {
        read.meta == written.meta
            && read.head == written.head
            && read.tags.iter().eq(written.tags.iter())
            && read.tags.len() == written.tags.len()
            && read.variant == written.variant
    };
    match (read, written) {
        (Content::Whole(a), Content::Whole(b)) => facts(a, b),
        (
            Content::Head { facts: a, total, write_id },
            Content::Head { facts: b, total: of_b, write_id: id_of_b },
        ) => facts(a, b) && (total, write_id) == (of_b, id_of_b),
        (Content::Slice { write_id, number }, Content::Slice { write_id: id_of_b, number: number_of_b }) => {
            (write_id, number) == (id_of_b, number_of_b)
        }
        (
            Content::Marker { names, valid_from },
            Content::Marker { names: names_of_b, valid_from: from_of_b },
        ) => (names, valid_from) == (names_of_b, from_of_b),
        (Content::Tombstone, Content::Tombstone) => true,
        (Content::Parts { list }, Content::Parts { list: list_of_b }) => list == list_of_b,
        _ => false,
    }
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(sample in samples(), lsn in any::<u64>()) {
        let bytes = sample.with(|new| encoded(new, &PLACE, lsn));
        prop_assert!((bytes.len() as u64).is_multiple_of(sample.kind.alignment()));
        let record = decode_record(&bytes, &PLACE, HASH).unwrap();
        let front = record.front;
        prop_assert_eq!((front.lsn, front.created, front.expires), (lsn, sample.times.0, sample.times.1));
        prop_assert_eq!((front.key, front.invalidation), (&sample.key[..], sample.numbers.3));
        prop_assert!(same(&front.content, &sample.content()), "{:?}", front.content);
        prop_assert_eq!(record.body(), &sample.body[..]);
        prop_assert!(record.verify_body());
        prop_assert_eq!(front.record_len(), bytes.len() as u64);
        // The body of a slice is whole blocks away from the record, which begins on a block.
        prop_assert!(sample.kind != RecordKind::Slice || front.front_len().is_multiple_of(BLOCK_LEN as usize));
        prop_assert!(decode_front(&bytes[..front.front_len().max(RECORD_LEN_MIN)], &PLACE, HASH).is_ok());
        prop_assert_eq!(decode_record(&bytes, &PLACE, HASH ^ 1 << 64).err(), Some(Mismatch::OtherHash));
        let elsewhere = [Place { sequence: 13, ..PLACE }, Place { store: StoreId([9; 16]), ..PLACE }];
        prop_assert!(elsewhere.iter().all(|place| decode_record(&bytes, place, HASH).is_err()));
        for len in [0, 1, 43, 63, front.front_len() - 1, bytes.len() - 1] {
            prop_assert_eq!(decode_record(&bytes[..len], &PLACE, HASH).err(), Some(Mismatch::Short));
        }
        // Front and body apart give the same bytes.
        sample.with(|new| {
            let mut apart = vec![0; bytes.len()];
            let len = encode_front(new, &PLACE, lsn, &mut apart);
            apart[len..len + sample.body.len()].copy_from_slice(&sample.body);
            assert_eq!(apart, bytes);
        });
    }

    #[test]
    fn a_record_that_was_moved_is_the_same_in_its_new_place(sample in samples(), sequence in 13u64..99) {
        let mut bytes = sample.with(|new| encoded(new, &PLACE, 7));
        let to = Place { sequence, ..PLACE };
        prop_assert_eq!(relocate(&mut bytes, &to, &to), Err(Mismatch::Damaged));
        relocate(&mut bytes, &PLACE, &to).unwrap();
        prop_assert!(decode_record(&bytes, &PLACE, HASH).is_err());
        let record = decode_record(&bytes, &to, HASH).unwrap();
        prop_assert!(record.verify_body() && record.front.lsn == 7 && same(&record.front.content, &sample.content()));
    }

    #[test]
    fn a_changed_byte_never_gives_other_content(sample in samples(), at in any::<prop::sample::Index>(), change in 1u8..) {
        let whole = sample.with(|new| encoded(new, &PLACE, 7));
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let front = scan_front(&whole, &PLACE).unwrap();
        match decode_record(&bytes, &PLACE, HASH) {
            Err(_) => prop_assert!(at < front.front_len()),
            // Only the padding means nothing.
            Ok(record) => prop_assert_eq!(record.verify_body(), at >= front.front_len() + front.body_len()),
        }
    }

    #[test]
    fn any_bytes_are_no_record(mut bytes in prop::collection::vec(any::<u8>(), 0..300), len in any::<u32>(), kind in 0u8..8) {
        let is_no_record = |bytes: &[u8]| scan_record(bytes, &PLACE).is_err();
        prop_assert!(is_no_record(&bytes));
        if bytes.len() >= 8 {
            bytes[..3].copy_from_slice(&[MAGIC as u8, (MAGIC >> 8) as u8, VERSION]);
            bytes[3] = kind;
            bytes[4..8].copy_from_slice(&len.to_le_bytes());
            prop_assert!(is_no_record(&bytes));
            bytes[4..8].copy_from_slice(&(len % 300).to_le_bytes());
            prop_assert!(is_no_record(&bytes));
        }
    }

    /// Behind a check that fits: fields of any content, as a build with other fields would have them.
    #[test]
    fn any_fields_behind_a_good_check_do_not_panic(fields in prop::collection::vec(any::<u8>(), 12..300), kind in 0u8..8) {
        let mut bytes = vec![0; 32];
        bytes[..3].copy_from_slice(&[MAGIC as u8, (MAGIC >> 8) as u8, VERSION]);
        bytes[3] = kind;
        bytes.extend_from_slice(&fields);
        let len = bytes.len();
        bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        let check = front_check(&bytes, PLACE.seed());
        bytes[8..16].copy_from_slice(&check.to_le_bytes());
        bytes.resize(len.max(RECORD_LEN_MIN), 0);
        if let Ok(front) = scan_front(&bytes, &PLACE) {
            prop_assert!(front.key.len() + front.block_checks.len() <= len);
            front.verify_block(usize::MAX, &bytes);
            front.blocks(0..usize::MAX);
        }
        let _ = scan_record(&bytes, &PLACE);
    }

    #[test]
    fn changed_fields_behind_a_good_check_do_not_panic(
        sample in samples(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = sample.with(|new| encoded(new, &PLACE, 7));
        let len = scan_front(&bytes, &PLACE).unwrap().front_len();
        for (at, byte) in changes {
            bytes[16 + at.index(len - 16)] = byte;
        }
        let check = front_check(&bytes[..len], PLACE.seed());
        bytes[8..16].copy_from_slice(&check.to_le_bytes());
        if let Ok(record) = scan_record(&bytes, &PLACE) {
            record.verify_body();
        }
    }
}

#[test]
fn a_range_needs_its_blocks_only() {
    let body: Vec<u8> = (0..SLICE_LEN).map(|at| (at % 251) as u8).collect();
    let bytes = encoded(&new(b"key", Content::Slice { write_id: 1, number: 2 }, &[&body]), &PLACE, 1);
    assert_eq!(bytes.len() as u64, SLICE_LEN + BLOCK_LEN);
    assert!(bytes.len() as u64 <= RECORD_LEN_MAX);
    let front = decode_front(&bytes[..BLOCK_LEN as usize], &PLACE, HASH).unwrap();
    assert_eq!((front.front_len(), front.body_len()), (BLOCK_LEN as usize, SLICE_LEN as usize));
    for (range, blocks) in [
        (0..1, 0..1),
        (0..CHECKED_LEN, 0..1),
        (0..CHECKED_LEN + 1, 0..2),
        (CHECKED_LEN..CHECKED_LEN + 1, 1..2),
        (1_000_000..9_000_000, 15..16),
        (5..5, 0..0),
        (9_000_000..9_000_001, 0..0),
    ] {
        assert_eq!(front.blocks(range.clone()), blocks, "{range:?}");
    }
    let block = |number| &body[front.block(number)];
    assert!((0..16).all(|number| front.verify_block(number, block(number))));
    assert!(!front.verify_block(0, block(1)) && !front.verify_block(16, &[]) && !front.verify_block(0, &[]));
    assert_eq!((front.block(15).len(), front.block(16).len()), (SLICE_LEN as usize % CHECKED_LEN, 0));
}

#[test]
fn sixteen_slices_fill_a_segment() {
    let body = vec![7; SLICE_LEN as usize];
    let key = vec![b'k'; 3900];
    let len = record_len(&new(&key, Content::Slice { write_id: u64::MAX, number: 15 }, &[&body]));
    assert!(BLOCK_LEN + 16 * len + super::super::footer::footer_len(16) <= 16 << 20);
    const { assert!(16 * SLICE_LEN >= (16 << 20) * 99 / 100) };
}

/// What a record of `body_len` bytes takes beside key, head, tags and body, footer entry included, in the mean over a cycle of lengths.
fn overhead(body_len: usize) -> (f64, f64) {
    let (key, head, tags) = ([b'k'; 42], [b'h'; 260], [1, 2]);
    let (mut taken, mut content) = (0, 0);
    for more in 0..UNIT_LEN as usize {
        let body = vec![0; body_len + more - UNIT_LEN as usize / 2];
        let meta = StoredMeta {
            generated_at: 1_799_999_999,
            received_at: 1_800_000_000,
            initial_age: 300,
            lifetime: 86_400,
            ..StoredMeta::PLAIN
        };
        let whole = Content::Whole(Facts { meta, ..plain(&head, &tags) });
        let new = NewRecord { expires: 1_800_086_100, invalidation: 100_000, ..new(&key, whole, &[]) };
        taken += record_len(&NewRecord { body: &[&body], ..new }) + super::super::footer::ENTRY_LEN as u64;
        content += (key.len() + head.len() + tags.len() * 8 + body.len()) as u64;
    }
    ((taken - content) as f64 / 64.0, (taken - content) as f64 / content as f64)
}

#[test]
fn overheads_are_within_their_bounds() {
    for (body_len, bound) in [(200, 0.35), (1000, 0.10), (40 * 1024, 0.02)] {
        let (bytes, share) = overhead(body_len);
        println!("{body_len} B: {bytes:.1} B beside the content, {:.1} %", share * 100.0);
        assert!(share <= bound, "{body_len}: {share}");
    }
}

#[test]
fn kinds_have_codes_of_their_own() {
    for kind in RecordKind::ALL {
        assert_eq!(RecordKind::of_code(kind.code()), Some(kind));
    }
    assert_eq!(RecordKind::of_code(0), None);
    assert_eq!(RecordKind::ALL.iter().map(|kind| kind.code()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
}
