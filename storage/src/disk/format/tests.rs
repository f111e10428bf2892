use super::*;
use proptest::prelude::*;

const STORE: StoreId = StoreId(*b"0123456789abcdef");

fn superblock() -> Superblock {
    Superblock {
        store: STORE,
        shard: 3,
        shard_bits: 2,
        segment_shift: 24,
        segment_count: 256,
        created: 1_800_000_000,
    }
}

#[test]
fn a_superblock_is_read_as_it_was_written_or_not_at_all() {
    let block = superblock().encode();
    assert_eq!(Superblock::decode(&block), Ok(superblock()));
    for at in 0..block.len() {
        let mut flipped = block;
        flipped[at] ^= 1 << (at % 8);
        let error = if at < 8 { FormatError::NotAStore } else { FormatError::Damaged };
        assert_eq!(Superblock::decode(&flipped), Err(error), "{at}");
    }
    assert_eq!(Superblock::decode(&block[..4095]), Err(FormatError::NotAStore));
    assert_eq!(Superblock::decode(&[]), Err(FormatError::NotAStore));
}

#[test]
fn another_version_and_impossible_values_are_refused() {
    let mut block = superblock().encode();
    block[8] = 9;
    let check = xxh3_64(&block[..BLOCK_CHECKED]);
    block[BLOCK_CHECKED..].copy_from_slice(&check.to_le_bytes());
    assert_eq!(Superblock::decode(&block), Err(FormatError::Version(9)));
    for impossible in [
        Superblock { shard: 4, ..superblock() },
        Superblock { shard_bits: 200, ..superblock() },
        Superblock { segment_shift: 25, ..superblock() },
        Superblock { segment_shift: 19, ..superblock() },
        Superblock { segment_count: 0, ..superblock() },
        Superblock { segment_count: SEGMENT_COUNT_MAX + 1, ..superblock() },
    ] {
        assert_eq!(Superblock::decode(&impossible.encode()), Err(FormatError::Damaged));
    }
}

#[test]
fn the_copy_counts_where_the_first_is_damaged() {
    let whole = superblock().encode();
    let (mut damaged, empty) = (whole, [0; BLOCK_LEN as usize]);
    damaged[100] ^= 1;
    let read = |first: &[u8], copy: &[u8]| Superblock::read(&[first, copy].concat());
    assert_eq!(read(&whole, &damaged), Ok(superblock()));
    assert_eq!(read(&damaged, &whole), Ok(superblock()));
    assert_eq!(read(&empty, &whole), Ok(superblock()));
    assert_eq!(read(&damaged, &empty), Err(FormatError::Damaged));
    assert_eq!(read(&empty, &damaged), Err(FormatError::Damaged));
    assert_eq!(read(&empty, &empty), Err(FormatError::NotAStore));
    assert_eq!(Superblock::read(&whole[..100]), Err(FormatError::NotAStore));
}

#[test]
fn nothing_in_a_volume_overlaps() {
    for (segment_shift, segment_count) in [(20, 1), (20, 80), (20, 81), (24, 256), (24, SEGMENT_COUNT_MAX)] {
        let geometry = Geometry { segment_shift, segment_count };
        let last = geometry.entry_offset(segment_count - 1) + TABLE_ENTRY_LEN as u64;
        assert!(last <= geometry.table_len() && geometry.table_len() <= RECORD_LEN_MAX);
        assert!(geometry.table_offset() + geometry.table_len() <= geometry.segment_offset(0));
        assert_eq!(geometry.segment_offset(0), SEGMENTS_OFFSET);
        assert_eq!(geometry.segment_offset(1) - geometry.segment_offset(0), geometry.segment_len());
        assert_eq!(Geometry::within(geometry.file_len(), segment_shift), Some(geometry));
        assert_eq!(
            Geometry::within(geometry.file_len() - 1, segment_shift).map_or(0, |less| less.segment_count),
            segment_count - 1
        );
    }
    for segment in 1..2000 {
        let geometry = Geometry { segment_shift: 20, segment_count: 2000 };
        let (before, at) = (geometry.entry_offset(segment - 1), geometry.entry_offset(segment));
        assert!(before + TABLE_ENTRY_LEN as u64 <= at);
        assert_eq!(
            at / 512,
            (at + TABLE_ENTRY_LEN as u64 - 1) / 512,
            "a torn write leaves no entry in pieces"
        );
    }
    assert_eq!(Geometry::within(100, 20), None);
}

fn entries() -> impl Strategy<Value = TableEntry> {
    let state = prop::sample::select(vec![
        SegmentState::Free,
        SegmentState::Open,
        SegmentState::Sealed,
        SegmentState::Bad,
    ]);
    let class = prop::sample::select(vec![Class::Records, Class::Slices]);
    (any::<(u64, u64, u64, u32, u32, u32, u16)>(), state, class).prop_map(|(numbers, state, class)| {
        let (sequence, oldest, newest, records, created, expires, errors) = numbers;
        TableEntry { sequence, oldest, newest, records, created, expires, state, class, errors }
    })
}

proptest! {
    #[test]
    fn an_entry_is_read_in_its_place_only(entry in entries(), segment in 0u32..1000, flip in 0usize..48 * 8) {
        let bytes = entry.encode(STORE, segment);
        prop_assert_eq!(TableEntry::decode(&bytes, STORE, segment), Some(entry));
        prop_assert_eq!(TableEntry::decode(&bytes, STORE, segment + 1), None);
        prop_assert_eq!(TableEntry::decode(&bytes, StoreId([7; 16]), segment), None);
        let mut flipped = bytes;
        flipped[flip / 8] ^= 1 << (flip % 8);
        prop_assert_eq!(TableEntry::decode(&flipped, STORE, segment), None);
        let geometry = Geometry { segment_shift: 20, segment_count: 1000 };
        let mut table = vec![0; geometry.table_len() as usize];
        let at = geometry.entry_offset(segment) as usize;
        table[at..at + TABLE_ENTRY_LEN].copy_from_slice(&bytes);
        prop_assert_eq!(TableEntry::of_table(&table, geometry, STORE, segment), Some(entry));
        prop_assert_eq!(TableEntry::of_table(&table[..at + 47], geometry, STORE, segment), None);
    }

    #[test]
    fn a_header_is_read_in_its_place_only(sequence in any::<u64>(), created in any::<u32>(), flip in 0usize..4096 * 8) {
        for class in [Class::Records, Class::Slices] {
            let header = SegmentHeader { sequence, class, created };
            let mut block = header.encode(STORE, 5);
            prop_assert_eq!(SegmentHeader::decode(&block, STORE, 5), Some(header));
            prop_assert_eq!(SegmentHeader::decode(&block, STORE, 6), None);
            prop_assert_eq!(SegmentHeader::decode(&block, StoreId([7; 16]), 5), None);
            prop_assert_eq!(SegmentHeader::decode(&block[1..], STORE, 5), None);
            block[flip / 8] ^= 1 << (flip % 8);
            prop_assert_eq!(SegmentHeader::decode(&block, STORE, 5), None);
        }
    }

    #[test]
    fn any_bytes_are_no_volume(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        prop_assert_eq!(Superblock::read(&bytes), Err(FormatError::NotAStore));
        prop_assert_eq!(SegmentHeader::decode(&bytes, STORE, 0), None);
    }
}
