//! The form of the log: a header, then records, each with its own check.
//!
//! Written by the registry, read at start and for every listing. All numbers are little endian.
//!
//! | part | layout |
//! |---|---|
//! | header | magic `ASPISRUL`, version u64, file u64, numbers u64, settled u64, folded u64, store u64, check u64 |
//! | record | magic u32, payload length u32, check u64, payload |
//! | payload, kind 1 | kind u8, flags u8 (1 soft, 2 has a reference), number u64, created u64 (milliseconds), id and reference as texts, count of items u32, items as kind u8 and text, count of rules u32, rules |
//! | payload, kind 2 | kind u8, number u64: every number up to this may have been given |
//!
//! A text is its length as u16 and its bytes. Checks are xxh3-64; a record's covers its length and the header's `file`, so that a record of an
//! earlier file in the same blocks is none. Invariant: bytes from a disk never panic, and what does not verify is no record.

use aspis_cache::invalidation::Rule;
use xxhash_rust::xxh3::Xxh3;

use super::batch::{Batch, Item, ItemKind};
use super::limits::RECORD_LEN_MAX;

const FILE_MAGIC: [u8; 8] = *b"ASPISRUL";
const VERSION: u64 = 2;
/// The length of the header.
pub(crate) const HEADER_LEN: usize = 64;
const RECORD_MAGIC: [u8; 4] = *b"\x8bInv";
/// What stands before a payload.
const FRAME_LEN: usize = 16;

const KIND_INVALIDATION: u8 = 1;
const KIND_NUMBERS: u8 = 2;
const FLAG_SOFT: u8 = 1;
const FLAG_REFERENCE: u8 = 2;

/// What the header of a log says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Tells this file from those before it.
    pub(crate) file: u64,
    /// Every number up to this may have been given when the file was written.
    pub(crate) numbers: u64,
    /// Rules up to this number concern nothing any more.
    pub(crate) settled: u64,
    /// Everything with a smaller number than this counts as invalidated; 0 for nothing.
    pub(crate) folded: u64,
    /// The store on disk with which it was kept: what is settled is so there too; 0 for none.
    pub(crate) store: u64,
}

/// Why the front of a file is no header of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// It is something else.
    Foreign,
    /// It is a log of a version that this program does not know.
    Version(u64),
    /// It is a log whose header does not verify.
    Damaged,
}

impl Header {
    /// Returns the bytes at the front of a file.
    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&FILE_MAGIC);
        bytes[8..16].copy_from_slice(&VERSION.to_le_bytes());
        let numbers = [self.file, self.numbers, self.settled, self.folded, self.store];
        for (at, number) in numbers.into_iter().enumerate() {
            bytes[16 + 8 * at..24 + 8 * at].copy_from_slice(&number.to_le_bytes());
        }
        let check = check(0, &bytes[..HEADER_LEN - 8]);
        bytes[HEADER_LEN - 8..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads the front of a file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(HeaderError::Foreign)?;
        if bytes[..8] != FILE_MAGIC {
            return Err(HeaderError::Foreign);
        }
        let number = |at: usize| {
            let bytes = bytes[at..].first_chunk().expect("the header ends with the last number");
            u64::from_le_bytes(*bytes)
        };
        // First: in another version the check lies elsewhere.
        if number(8) != VERSION {
            return Err(HeaderError::Version(number(8)));
        }
        if check(0, &bytes[..HEADER_LEN - 8]) != number(HEADER_LEN - 8) {
            return Err(HeaderError::Damaged);
        }
        Ok(Header {
            file: number(16),
            numbers: number(24),
            settled: number(32),
            folded: number(40),
            store: number(48),
        })
    }
}

/// One invalidation as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invalidation {
    /// Its number.
    pub(crate) number: u64,
    /// When it was accepted, in milliseconds since the epoch.
    pub(crate) created_ms: u64,
    /// Its name for callers (I-4).
    pub(crate) id: Box<str>,
    /// What was asked for.
    pub(crate) batch: Batch,
}

/// What a record tells of an invalidation before its rules: all that callers hear of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Front<'r> {
    /// Its number.
    pub(crate) number: u64,
    /// When it was accepted, in milliseconds since the epoch.
    pub(crate) created_ms: u64,
    /// Its name for callers (I-4).
    pub(crate) id: &'r str,
    /// What is stored becomes stale instead of gone.
    pub(crate) soft: bool,
    /// The caller's name for the request (I-5).
    pub(crate) reference: Option<&'r str>,
    /// What was asked for, as it was written.
    pub(crate) items: Vec<(ItemKind, &'r str)>,
}

/// What a payload says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// An invalidation was accepted.
    Invalidation(Box<Invalidation>),
    /// Every number up to this may have been given.
    Numbers(u64),
}

impl Entry {
    /// Returns it as a record of the file that the header describes.
    pub(crate) fn encode(&self, file: u64) -> Vec<u8> {
        let mut record = vec![0; FRAME_LEN];
        match self {
            Entry::Invalidation(invalidation) => invalidation.encode(&mut record),
            Entry::Numbers(number) => {
                record.push(KIND_NUMBERS);
                record.extend_from_slice(&number.to_le_bytes());
            }
        }
        let len = u32::try_from(record.len() - FRAME_LEN).expect("a record is far shorter than 4 GiB");
        record[..4].copy_from_slice(&RECORD_MAGIC);
        record[4..8].copy_from_slice(&len.to_le_bytes());
        let check = record_check(file, &record);
        record[8..16].copy_from_slice(&check.to_le_bytes());
        record
    }

    /// Reads the payload of a record that was found to be whole.
    pub(crate) fn decode(record: &[u8]) -> Option<Self> {
        let mut rest = Reader(record.get(FRAME_LEN..)?);
        let entry = match rest.u8()? {
            KIND_INVALIDATION => Entry::Invalidation(Box::new(Invalidation::decode(&mut rest)?)),
            KIND_NUMBERS => Entry::Numbers(rest.u64()?),
            _ => return None,
        };
        rest.0.is_empty().then_some(entry)
    }
}

impl Invalidation {
    fn encode(&self, out: &mut Vec<u8>) {
        let Batch { items, rules, soft, reference } = &self.batch;
        let soft = if *soft { FLAG_SOFT } else { 0 };
        out.push(KIND_INVALIDATION);
        out.push(soft | if reference.is_some() { FLAG_REFERENCE } else { 0 });
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        put_text(out, &self.id);
        put_text(out, reference.as_deref().unwrap_or_default());
        put_count(out, items.len());
        for item in items {
            out.push(item.kind as u8);
            put_text(out, &item.text);
        }
        put_count(out, rules.len());
        for rule in rules {
            rule.encode(out);
        }
    }

    fn decode(rest: &mut Reader<'_>) -> Option<Self> {
        let Front { number, created_ms, id, soft, reference, items } = Front::decode(rest)?;
        let items = items.into_iter().map(|(kind, text)| Item { kind, text: text.into() }).collect();
        let mut rules = Vec::new();
        for _ in 0..rest.u32()? {
            let (rule, len) = Rule::decode(rest.0)?;
            rest.0 = rest.0.get(len..)?;
            rules.push(rule);
        }
        let batch = Batch { items, rules, soft, reference: reference.map(Into::into) };
        Some(Invalidation { number, created_ms, id: id.into(), batch })
    }
}

impl<'r> Front<'r> {
    /// Reads it from a record that was found to be whole.
    pub(crate) fn of(record: &'r [u8]) -> Option<Self> {
        let mut rest = Reader(record.get(FRAME_LEN..)?);
        if rest.u8()? == KIND_INVALIDATION { Front::decode(&mut rest) } else { None }
    }

    fn decode(rest: &mut Reader<'r>) -> Option<Self> {
        let flags = rest.u8()?;
        let (number, created_ms) = (rest.u64()?, rest.u64()?);
        let (id, reference) = (rest.text()?, rest.text()?);
        let reference = (flags & FLAG_REFERENCE != 0).then_some(reference);
        // A count is no promise: nothing is reserved for it before it is there.
        let mut items = Vec::new();
        for _ in 0..rest.u32()? {
            items.push((ItemKind::of(rest.u8()?)?, rest.text()?));
        }
        Some(Front { number, created_ms, id, soft: flags & FLAG_SOFT != 0, reference, items })
    }
}

/// Returns the length of the record at the front of `bytes`; `None` if there is none that verifies.
pub(crate) fn record_len(file: u64, bytes: &[u8]) -> Option<usize> {
    let frame: &[u8; FRAME_LEN] = bytes.first_chunk()?;
    if frame[..4] != RECORD_MAGIC {
        return None;
    }
    let mut numbers = Reader(&frame[4..]);
    let (len, check) = (numbers.u32()? as usize, numbers.u64()?);
    if len > RECORD_LEN_MAX {
        return None;
    }
    let record = bytes.get(..FRAME_LEN + len)?;
    (record_check(file, record) == check).then_some(record.len())
}

/// Returns where the next record that verifies begins, at or after `from`.
pub(crate) fn next_record(file: u64, bytes: &[u8], from: usize) -> Option<usize> {
    let last = bytes.len().checked_sub(FRAME_LEN)?;
    (from..=last).find(|&at| bytes[at] == RECORD_MAGIC[0] && record_len(file, &bytes[at..]).is_some())
}

/// Covers the length and the payload, but not the check itself.
fn record_check(file: u64, record: &[u8]) -> u64 {
    let mut hash = Xxh3::with_seed(file);
    hash.update(&record[4..8]);
    hash.update(&record[FRAME_LEN..]);
    hash.digest()
}

fn check(seed: u64, bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(bytes, seed)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("items, ids and references are shorter than 64 KiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("a batch has a few thousand items");
    out.extend_from_slice(&count.to_le_bytes());
}

/// What is left of some bytes.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'b str> {
        let len = usize::from(u16::from_le_bytes(self.take()?));
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aspis_cache::invalidation::Wildcards;

    fn sample() -> Entry {
        let body = br##"{"paths":["/a","/b/*","#t"],"hosts":["h:81"],"soft":true,"caller_reference":"r"}"##;
        let batch = super::super::batch::parse(body, Wildcards::Trailing).expect("sound").batch;
        Entry::Invalidation(Box::new(Invalidation { number: 7, created_ms: 123, id: "IABC".into(), batch }))
    }

    #[test]
    fn what_is_written_is_read() {
        for entry in [sample(), Entry::Numbers(9)] {
            let record = entry.encode(5);
            assert_eq!(record_len(5, &record), Some(record.len()));
            assert_eq!(record_len(6, &record), None, "a record of another file is none");
            match (&entry, Front::of(&record)) {
                (Entry::Invalidation(whole), Some(front)) => {
                    assert_eq!((front.number, front.created_ms, front.id), (7, 123, "IABC"));
                    assert_eq!((front.soft, front.reference), (true, Some("r")));
                    assert_eq!(front.items, whole.batch.written());
                }
                (entry, front) => assert_eq!((entry, front), (&Entry::Numbers(9), None)),
            }
            assert_eq!(Entry::decode(&record), Some(entry));
        }
        let header = Header { file: 1, numbers: 2, settled: 3, folded: 4, store: 5 };
        assert_eq!(Header::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn every_bit_counts() {
        let record = sample().encode(5);
        for at in 0..record.len() {
            let mut bad = record.clone();
            bad[at] ^= 0x10;
            assert_eq!(record_len(5, &bad), None, "byte {at}");
            assert_eq!(record_len(5, &record[..at]), None, "cut at {at}");
        }
        let header = Header::default().encode();
        for at in 0..HEADER_LEN {
            let mut bad = header;
            bad[at] ^= 0x10;
            assert!(Header::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn versions_and_strangers_are_told_apart() {
        let mut next = Header::default().encode();
        next[8] = 3;
        assert_eq!(Header::decode(&next), Err(HeaderError::Version(3)));
        assert_eq!(
            Header::decode(b"something else entirely, and in any case long enough to be a header"),
            Err(HeaderError::Foreign)
        );
        assert_eq!(Header::decode(b""), Err(HeaderError::Foreign));
    }

    #[test]
    fn records_are_found_again_behind_damage() {
        let record = sample().encode(5);
        let mut bytes = b"\x8b\x8bInv nonsense".to_vec();
        let at = bytes.len();
        bytes.extend_from_slice(&record);
        assert_eq!(next_record(5, &bytes, 0), Some(at));
        assert_eq!(next_record(5, &bytes, at + 1), None);
        assert_eq!(next_record(5, b"short", 0), None);
    }

    #[test]
    fn payloads_from_outside_never_panic() {
        let record = sample().encode(5);
        for at in FRAME_LEN..record.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bad = record.clone();
                bad[at] = value;
                let _ = (Entry::decode(&bad), Front::of(&bad));
            }
            let _ = (Entry::decode(&record[..at]), Front::of(&record[..at]));
        }
    }
}
