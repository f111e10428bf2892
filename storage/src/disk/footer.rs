//! What ends a sealed segment: one short entry for each record, and a trailer in its last 64 bytes.
//!
//! A volume's owner writes it when the segment is full; recovery builds the index from it without reading a record, and reclaim walks it.
//! Invariants: the entries stand in the order of their records; entries and trailer have checks of their own that cover store and
//! sequence; the whole is whole blocks, at most a MiB of them, and ends where the segment ends.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::bytes::{seed, u16_at, u32_at, u64_at};
use super::format::{BLOCK_LEN, Class, RECORD_LEN_MAX, SegmentState, StoreId, TableEntry, UNIT_LEN};
use super::length_class;
use super::record::{Front, RecordKind};

/// Bytes of an entry.
pub const ENTRY_LEN: usize = 16;

/// Bytes of the trailer.
pub const TRAILER_LEN: usize = 64;

/// Most records in a segment, so that one read brings its footer.
pub const ENTRY_COUNT_MAX: u32 = ((RECORD_LEN_MAX - TRAILER_LEN as u64) / ENTRY_LEN as u64) as u32;

const MAGIC: u16 = u16::from_le_bytes(*b"AF");
const VERSION: u8 = 1;
const CHECKED: usize = TRAILER_LEN - 8;

// A place in the longest segment and a length class leave a byte for the kind.
const _: () = assert!(length_class::COUNT as u32 == 1 << 6);

/// What a footer says about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FooterEntry {
    /// The top half of the hash that the record stands under.
    pub hash: u64,
    /// Where in the segment it begins, in units; 18 bits.
    pub unit: u32,
    /// The class of its length.
    pub class: u8,
    /// What it is, as [`RecordKind::code`] has it.
    pub flags: u8,
    /// When it is of no more use, in wall seconds.
    pub expires: u32,
}

impl FooterEntry {
    /// Returns the entry of a record that begins at a unit of its segment.
    pub fn of(front: &Front<'_>, unit: u32) -> Self {
        let class = length_class::of(front.record_len());
        FooterEntry { hash: front.hash, unit, class, flags: front.kind().code(), expires: front.expires }
    }

    /// Returns what the record is; `None` if this build does not know that kind.
    pub fn kind(&self) -> Option<RecordKind> {
        RecordKind::of_code(self.flags)
    }

    /// Returns where in its segment the record begins.
    pub fn offset(&self) -> u64 {
        u64::from(self.unit) * UNIT_LEN
    }

    fn encode(&self) -> [u8; ENTRY_LEN] {
        let packed = self.unit & 0x3_ffff | u32::from(self.class & 0x3f) << 18 | u32::from(self.flags) << 24;
        let mut bytes = [0; ENTRY_LEN];
        bytes[0..8].copy_from_slice(&self.hash.to_le_bytes());
        bytes[8..12].copy_from_slice(&packed.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.expires.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let packed = u32_at(bytes, 8);
        FooterEntry {
            hash: u64_at(bytes, 0),
            unit: packed & 0x3_ffff,
            class: (packed >> 18) as u8 & 0x3f,
            flags: (packed >> 24) as u8,
            expires: u32_at(bytes, 12),
        }
    }
}

/// The last bytes of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Which use of any segment of the volume this is.
    pub sequence: u64,
    /// What kind of records it has.
    pub class: Class,
    /// How many.
    pub count: u32,
    /// The smallest invalidation number among them; `u64::MAX` without records.
    pub oldest: u64,
    /// The largest invalidation number among them; 0 without records.
    pub newest: u64,
    /// The largest number that a record was given when it was first written.
    pub last_lsn: u64,
    /// When the segment was opened, in wall seconds.
    pub created: u32,
    /// When the last of its records expires, in wall seconds.
    pub expires: u32,
}

impl Trailer {
    /// Returns the bytes of the footer that it ends.
    pub fn footer_len(&self) -> u64 {
        footer_len(self.count)
    }

    /// Returns what the table says about the segment that it ends, of which nothing failed.
    pub fn table_entry(&self) -> TableEntry {
        TableEntry {
            sequence: self.sequence,
            oldest: self.oldest,
            newest: self.newest,
            records: self.count,
            created: self.created,
            expires: self.expires,
            state: SegmentState::Sealed,
            class: self.class,
            errors: 0,
        }
    }
}

/// Returns the bytes of a footer for so many records, whole blocks.
pub const fn footer_len(count: u32) -> u64 {
    (count as u64 * ENTRY_LEN as u64 + TRAILER_LEN as u64).next_multiple_of(BLOCK_LEN)
}

/// Appends a footer to `out`: what is written so that it ends exactly where the segment ends.
///
/// The trailer's count is that of the entries, at most [`ENTRY_COUNT_MAX`].
pub fn write_footer(entries: &[FooterEntry], trailer: &Trailer, store: StoreId, out: &mut Vec<u8>) {
    debug_assert_eq!(entries.len(), trailer.count as usize);
    let from = out.len();
    entries.iter().for_each(|entry| out.extend_from_slice(&entry.encode()));
    let checked = seed(store, trailer.sequence);
    let entries_check = xxh3_64_with_seed(&out[from..], checked);
    out.resize(from + footer_len(entries.len() as u32) as usize, 0);
    let at = out.len() - TRAILER_LEN;
    let bytes = &mut out[at..];
    bytes[0..2].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[2] = VERSION;
    bytes[3] = trailer.class.code();
    bytes[4..8].copy_from_slice(&trailer.count.to_le_bytes());
    bytes[8..16].copy_from_slice(&trailer.sequence.to_le_bytes());
    bytes[16..24].copy_from_slice(&trailer.oldest.to_le_bytes());
    bytes[24..32].copy_from_slice(&trailer.newest.to_le_bytes());
    bytes[32..40].copy_from_slice(&trailer.last_lsn.to_le_bytes());
    bytes[40..44].copy_from_slice(&trailer.created.to_le_bytes());
    bytes[44..48].copy_from_slice(&trailer.expires.to_le_bytes());
    bytes[48..56].copy_from_slice(&entries_check.to_le_bytes());
    let check = xxh3_64_with_seed(&bytes[..CHECKED], checked);
    bytes[CHECKED..].copy_from_slice(&check.to_le_bytes());
}

/// Reads the trailer from a segment's last block or more; `None` if it is not that of this use of the segment.
pub fn read_trailer(last_block: &[u8], store: StoreId, sequence: u64) -> Option<Trailer> {
    let bytes = &last_block[last_block.len().checked_sub(TRAILER_LEN)?..];
    if u16_at(bytes, 0) != MAGIC
        || bytes[2] != VERSION
        || u64_at(bytes, 8) != sequence
        || xxh3_64_with_seed(&bytes[..CHECKED], seed(store, sequence)) != u64_at(bytes, CHECKED)
    {
        return None;
    }
    let count = u32_at(bytes, 4);
    (count <= ENTRY_COUNT_MAX).then_some(Trailer {
        sequence,
        class: Class::of_code(bytes[3])?,
        count,
        oldest: u64_at(bytes, 16),
        newest: u64_at(bytes, 24),
        last_lsn: u64_at(bytes, 32),
        created: u32_at(bytes, 40),
        expires: u32_at(bytes, 44),
    })
}

/// Reads the trailer from a segment's last block, of whichever use of the segment it is.
pub fn read_any_trailer(last_block: &[u8], store: StoreId) -> Option<Trailer> {
    let bytes = &last_block[last_block.len().checked_sub(TRAILER_LEN)?..];
    read_trailer(bytes, store, u64_at(bytes, 8))
}

/// The entries of a footer that was verified.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'b> {
    bytes: &'b [u8],
}

impl<'b> Entries<'b> {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / ENTRY_LEN
    }

    /// Tells whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns one by its position.
    pub fn at(&self, position: usize) -> Option<FooterEntry> {
        let from = position.checked_mul(ENTRY_LEN)?;
        self.bytes.get(from..from + ENTRY_LEN).map(FooterEntry::decode)
    }

    /// Returns those of a footer whose checks were looked at before; none if it is not as long as it was.
    pub(super) fn of_verified(bytes: &'b [u8], count: u32) -> Self {
        let from = bytes.len().saturating_sub(footer_len(count) as usize);
        Entries { bytes: bytes[from..].get(..count as usize * ENTRY_LEN).unwrap_or_default() }
    }

    /// Returns all, in the order in which the records were written.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = FooterEntry> + ExactSizeIterator + use<'b> {
        self.bytes.chunks_exact(ENTRY_LEN).map(FooterEntry::decode)
    }
}

/// Reads the entries from bytes that end where the segment ends; `None` if they are too few, or not those of this trailer.
pub fn read_footer<'b>(bytes: &'b [u8], trailer: &Trailer, store: StoreId) -> Option<Entries<'b>> {
    let footer_len = usize::try_from(trailer.footer_len()).ok()?;
    let footer = &bytes[bytes.len().checked_sub(footer_len)?..];
    let entries = footer.get(..trailer.count as usize * ENTRY_LEN)?;
    // The trailer in these bytes says which check the entries have.
    (read_trailer(footer, store, trailer.sequence)? == *trailer).then_some(())?;
    let check = u64_at(footer, footer_len - TRAILER_LEN + 48);
    (xxh3_64_with_seed(entries, seed(store, trailer.sequence)) == check).then_some(Entries { bytes: entries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STORE: StoreId = StoreId(*b"0123456789abcdef");

    fn trailer(sequence: u64, count: u32) -> Trailer {
        Trailer {
            sequence,
            class: Class::Slices,
            count,
            oldest: 3,
            newest: 9,
            last_lsn: 77,
            created: 5,
            expires: 6,
        }
    }

    fn entries() -> impl Strategy<Value = Vec<FooterEntry>> {
        let entry = (any::<u64>(), 0u32..1 << 18, 0u8..64, any::<u8>(), any::<u32>()).prop_map(
            |(hash, unit, class, flags, expires)| FooterEntry { hash, unit, class, flags, expires },
        );
        prop::collection::vec(entry, 0..600)
    }

    proptest! {
        #[test]
        fn a_footer_is_read_as_it_was_written(entries in entries(), sequence in any::<u64>(), before in 0usize..100) {
            let trailer = trailer(sequence, entries.len() as u32);
            let mut out = vec![1; before];
            write_footer(&entries, &trailer, STORE, &mut out);
            prop_assert_eq!((out.len() - before) as u64, trailer.footer_len());
            let last = &out[out.len() - BLOCK_LEN as usize..];
            prop_assert_eq!(read_trailer(last, STORE, sequence), Some(trailer));
            prop_assert_eq!(read_any_trailer(last, STORE), Some(trailer));
            prop_assert_eq!(read_trailer(last, STORE, sequence ^ 1), None);
            prop_assert_eq!(read_any_trailer(last, StoreId([0; 16])), None);
            let read = read_footer(&out, &trailer, STORE).unwrap();
            prop_assert_eq!(read.iter().collect::<Vec<_>>(), &entries[..]);
            prop_assert_eq!(read.at(entries.len()), None);
            prop_assert!((0..entries.len()).all(|at| read.at(at) == Some(entries[at])));
        }

        #[test]
        fn a_flipped_bit_is_seen(entries in entries(), flip in any::<prop::sample::Index>(), bit in 0u8..8) {
            let trailer = trailer(8, entries.len() as u32);
            let mut out = Vec::new();
            write_footer(&entries, &trailer, STORE, &mut out);
            let at = flip.index(out.len());
            out[at] ^= 1 << bit;
            // What is between entries and trailer means nothing.
            let means_nothing = (entries.len() * ENTRY_LEN..out.len() - TRAILER_LEN).contains(&at);
            prop_assert_eq!(read_footer(&out, &trailer, STORE).is_some(), means_nothing);
        }

        #[test]
        fn any_bytes_are_no_footer(bytes in prop::collection::vec(any::<u8>(), 0..5000), count in any::<u32>()) {
            prop_assert_eq!(read_any_trailer(&bytes, STORE), None);
            prop_assert!(read_footer(&bytes, &trailer(1, count), STORE).is_none());
        }
    }

    #[test]
    fn the_longest_footer_is_one_read() {
        assert_eq!(footer_len(ENTRY_COUNT_MAX), RECORD_LEN_MAX);
        assert_eq!((footer_len(0), footer_len(252), footer_len(253)), (4096, 4096, 8192));
    }

    #[test]
    fn a_footer_of_an_earlier_use_is_none() {
        let (mut earlier, mut later) = (Vec::new(), Vec::new());
        let entry = |hash| FooterEntry { hash, unit: 64, class: 1, flags: 1, expires: 0 };
        write_footer(&[entry(1), entry(2)], &trailer(4, 2), STORE, &mut earlier);
        write_footer(&[entry(3), entry(4)], &trailer(5, 2), STORE, &mut later);
        assert!(read_footer(&earlier, &trailer(5, 2), STORE).is_none());
        // Entries of the one with the trailer of the other, as a torn write leaves them.
        later[..32].copy_from_slice(&earlier[..32]);
        assert!(read_footer(&later, &trailer(5, 2), STORE).is_none());
    }
}
