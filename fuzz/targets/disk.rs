//! The disk tier's formats: any bytes are read without harm, records are read as they were written, changed ones never as something else, and
//! recovery of a volume of any bytes ends.
#![no_main]

use aspis_cache::stored::StoredMeta;
use aspis_storage::disk::footer::{FooterEntry, Trailer, read_any_trailer, read_footer, write_footer};
use aspis_storage::disk::format::{
    BLOCK_LEN, Class, Geometry, SegmentHeader, SegmentState, StoreId, Superblock, TableEntry,
};
use aspis_storage::disk::record::{
    Content, Facts, NewRecord, Place, Tags, Variant, decode_record, encode_record, record_len, scan_record,
};
use aspis_storage::disk::recovery::{Fed, ReadFailed, Rebuild, Recovery, Step};
use libfuzzer_sys::fuzz_target;

const STORE: StoreId = StoreId(*b"0123456789abcdef");
const HASH: u128 = 0x1234_5678_9abc_def0 << 64;

/// Counts what it is told.
#[derive(Default)]
struct Told {
    segments: u32,
    records: u32,
}

impl Rebuild for Told {
    fn segment(&mut self, _segment: u32, entry: &TableEntry) {
        self.segments += u32::from(entry.state != SegmentState::Free);
    }

    fn located(&mut self, _last_sequence: u64) {}

    fn record(&mut self, _segment: u32, _entry: &FooterEntry) {
        self.records += 1;
    }

    fn sealed(&mut self, _segment: u32, entry: &TableEntry, _last_lsn: u64, records: &[FooterEntry]) {
        assert_eq!(entry.records as usize, records.len());
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = Superblock::read(bytes);
    let _ = SegmentHeader::decode(bytes, STORE, 0);
    if let Some(trailer) = read_any_trailer(bytes, STORE) {
        let _ = read_footer(bytes, &trailer, STORE).map(|entries| entries.iter().count());
    }
    let place = Place { store: STORE, sequence: 7 };
    let _ = scan_record(bytes, &place).map(|record| record.verify_body());
    let [kind, sequence, change, cut, rest @ ..] = bytes else { return };
    let record = written(*kind, *cut, rest, &place);
    changed(&record, *change, rest, &place);
    recovered(&record, u64::from(*sequence), *change, rest);
});

/// Writes a record of these bytes and reads it again.
fn written(kind: u8, cut: u8, rest: &[u8], place: &Place) -> Vec<u8> {
    let (key, others) = rest.split_at(usize::from(cut) % (rest.len() + 1));
    let (head, body) = others.split_at(others.len() / 2);
    let number = key.iter().fold(0u64, |number, byte| number.rotate_left(8) ^ u64::from(*byte));
    let meta = StoredMeta {
        status: number as u16,
        received_at: number,
        generated_at: number.rotate_left(20),
        lifetime: (number >> 32) as u32,
        no_cache: kind & 8 != 0,
        ..StoredMeta::PLAIN
    };
    let variant = Variant { primary: HASH, primary_len: key.len() / 2, names: "accept" };
    let tags = [number, !number];
    let variant = (kind & 16 != 0).then_some(variant);
    let facts = Facts { meta, head, tags: Tags::Held(&tags), variant };
    let content = match kind % 6 {
        0 => Content::Whole(facts),
        1 => Content::Head { facts, total: number, write_id: !number },
        2 => Content::Slice { write_id: number, number: number as u32 },
        3 => Content::Marker { names: "accept,accept-language", valid_from: number },
        4 => Content::Parts { list: head },
        _ => Content::Tombstone,
    };
    let (created, expires) = (number as u32, (number >> 8) as u32);
    let pieces = body.split_at(body.len() / 3);
    let pieces = [pieces.0, pieces.1];
    let new = NewRecord { hash: HASH, key, invalidation: number, created, expires, content, body: &pieces };
    let mut out = vec![0xaa; record_len(&new) as usize];
    assert_eq!(encode_record(&new, place, number, &mut out), out.len());
    let read = decode_record(&out, place, HASH).expect("it was written for this place");
    assert!(read.verify_body() && read.body() == body && read.front.key == key);
    assert_eq!((read.front.created, read.front.expires, read.front.lsn), (created, expires, number));
    if let Content::Whole(read) | Content::Head { facts: read, .. } = read.front.content {
        assert!(read.meta == meta && read.head == head && read.variant == variant);
        assert!(read.tags.iter().eq(tags));
    }
    out
}

/// Changes a byte: then front or body do not verify, unless it is padding.
fn changed(record: &[u8], change: u8, rest: &[u8], place: &Place) {
    let mut changed = record.to_vec();
    let at = rest.iter().map(|byte| usize::from(*byte) * 7).sum::<usize>() % changed.len();
    changed[at] ^= change;
    let whole = scan_record(record, place).expect("it is whole");
    let end = whole.front.front_len() + whole.front.body_len();
    if let Ok(read) = scan_record(&changed, place) {
        assert!(change == 0 || at >= end || !read.verify_body());
    }
}

/// Recovers a small volume: one segment is sealed, one is open with the record, and blocks are given other bytes.
fn recovered(record: &[u8], sequence: u64, change: u8, rest: &[u8]) {
    let geometry = Geometry { segment_shift: 20, segment_count: 3 };
    let entry = TableEntry { sequence, state: SegmentState::Open, ..TableEntry::FREE };
    let trailer = Trailer {
        sequence,
        class: Class::Records,
        count: 1,
        oldest: 0,
        newest: 0,
        last_lsn: 0,
        created: 0,
        expires: 0,
    };
    let listed = FooterEntry { hash: 1, unit: 64, class: 3, flags: 1, expires: 0 };
    let mut footer = Vec::new();
    write_footer(&[listed], &trailer, STORE, &mut footer);
    let (mut told, mut reads) = (Told::default(), 0);
    let mut recovery = Recovery::new(STORE, geometry);
    let mut asked = Vec::new();
    loop {
        match recovery.next() {
            Step::Done => break,
            Step::Read(read) => {
                reads += 1;
                assert!(reads < 1000, "recovery does not end");
                asked.push(read);
            }
            Step::Wait => {
                let turn = usize::from(rest.get(reads).copied().unwrap_or(0));
                let read = asked.remove(turn % asked.len());
                let mut bytes = vec![0; read.len];
                let len = bytes.len();
                match read.offset {
                    8192 => {
                        let sealed = TableEntry { state: SegmentState::Sealed, records: 1, ..entry };
                        bytes[..48].copy_from_slice(&sealed.encode(STORE, 0));
                        bytes[48..96].copy_from_slice(&entry.encode(STORE, 1));
                    }
                    _ if len == BLOCK_LEN as usize => bytes.copy_from_slice(&footer),
                    _ => bytes[4096..4096 + record.len()].copy_from_slice(record),
                }
                let from = reads * 13 % (len - rest.len().min(64));
                let given = &rest[..rest.len().min(64)];
                if change & 1 << (reads % 8) != 0 {
                    bytes[from..from + given.len()].copy_from_slice(given);
                }
                let fails = change > 250;
                let mut fed = Fed::Again;
                while fed == Fed::Again {
                    let bytes = if fails { Err(ReadFailed) } else { Ok(&bytes[..]) };
                    fed = recovery.feed(&mut told, read.ticket, bytes);
                }
            }
        }
    }
    assert!(told.records <= 2 * told.segments.max(1) * 20_000);
}
