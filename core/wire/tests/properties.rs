//! Properties of the parsers: any split gives the same messages, what is written is what is read, nothing panics.

#[path = "corpus/reader.rs"]
mod reader;
mod support;

use std::sync::LazyLock;

use aspis_wire::chunked::{CHUNK_END, ChunkedDecoder, LAST_CHUNK, chunk_header};
use aspis_wire::head_writer::HeadWriter;
use aspis_wire::request::{RequestFraming, parse_request};
use aspis_wire::response::parse_response;
use aspis_wire::{FieldSlots, HeadLimits, Method, date, fields, parse_authority, proxy_protocol};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use support::{Event, Side, read_connection};

static REQUESTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| short(reader::requests()));
static RESPONSES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| short(reader::responses()));

/// The bytes of the cases that are short enough to be split and changed many times.
fn short(cases: Vec<reader::Case>) -> Vec<Vec<u8>> {
    cases.iter().map(reader::Case::bytes).filter(|bytes| bytes.len() < 600).collect()
}

/// Bytes of the corpus with up to three changes: a byte replaced by one that matters to the grammar, removed or doubled.
///
/// An empty line follows, so that a head with a fault is complete: before that a fault may be found sooner or later,
/// depending on where the bytes were split, but it is always the same one.
fn changed(corpus: &'static LazyLock<Vec<Vec<u8>>>) -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<Index>(), 0..3u8, proptest::sample::select(&b"\r\n\t :;,0a\x00\xff/"[..]));
    (any::<Index>(), vec(edit, 0..4)).prop_map(move |(chosen, edits)| {
        let mut bytes = chosen.get(corpus).clone();
        for (at, kind, byte) in edits {
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, bytes[at]),
                _ if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => {}
            }
        }
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    })
}

/// Ascending positions, the last of them the length.
fn arrivals(splits: &[Index], len: usize) -> Vec<usize> {
    let mut positions: Vec<usize> = splits.iter().map(|split| split.index(len + 1)).collect();
    positions.push(len);
    positions.sort_unstable();
    positions
}

fn token() -> impl Strategy<Value = String> {
    "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}"
}

/// Field values without spaces at their ends, which the parser trims.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let inner = prop_oneof![Just(b'\t'), 0x20..0x7f_u8, 0x80..=0xff_u8];
    vec(inner, 0..40).prop_map(|bytes| fields::trim(&bytes).to_vec())
}

proptest! {
    // Failures are kept as named tests, not as seeds in a file.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_requests_gives_the_same_messages(
        bytes in changed(&REQUESTS),
        splits in vec(any::<Index>(), 0..8),
    ) {
        let whole = read_connection(&bytes, &[bytes.len()], Side::Request);
        let split = read_connection(&bytes, &arrivals(&splits, bytes.len()), Side::Request);
        prop_assert_eq!(&whole, &split);
        let each: Vec<usize> = (1..=bytes.len()).collect();
        prop_assert_eq!(whole, read_connection(&bytes, &each, Side::Request));
    }

    #[test]
    fn any_split_of_responses_gives_the_same_messages(
        bytes in changed(&RESPONSES),
        splits in vec(any::<Index>(), 0..8),
        method in prop_oneof![Just(Method::Get), Just(Method::Head), Just(Method::Connect)],
    ) {
        let side = Side::Response(method);
        let whole = read_connection(&bytes, &[bytes.len()], side);
        let split = read_connection(&bytes, &arrivals(&splits, bytes.len()), side);
        prop_assert_eq!(&whole, &split);
        let each: Vec<usize> = (1..=bytes.len()).collect();
        prop_assert_eq!(whole, read_connection(&bytes, &each, side));
    }

    #[test]
    fn a_written_request_is_read_back(
        method in token(),
        path in "/[!-\"$-~]{0,60}",
        sent in vec((token(), value()), 0..20),
        length in proptest::option::of(any::<u32>()),
    ) {
        let framing_names = ["host", "content-length", "transfer-encoding", "connection", "upgrade", "expect"];
        prop_assume!(sent.iter().all(|(name, _)| !framing_names.contains(&name.to_ascii_lowercase().as_str())));
        prop_assume!(method != "CONNECT");
        let mut bytes = Vec::new();
        let mut writer = HeadWriter::new(&mut bytes);
        writer.request_line(Method::from_text(&method), &path).field("Host", b"example.com:8080");
        for (name, value) in &sent {
            writer.field(name, value);
        }
        if let Some(length) = length {
            writer.field_number("Content-Length", length.into());
        }
        writer.end();
        let mut slots = FieldSlots::new();
        let head = parse_request(&bytes, &mut slots, &HeadLimits::default()).unwrap().expect("complete");
        prop_assert_eq!(head.method.as_str(), &method);
        prop_assert_eq!(head.path_and_query, &path);
        prop_assert_eq!(head.authority, "example.com:8080");
        prop_assert_eq!(head.len, bytes.len());
        let read: Vec<_> = head.fields[1..=sent.len()].iter().map(|f| (f.name.to_owned(), f.value.to_vec())).collect();
        prop_assert_eq!(read, sent);
        let framing = length.map_or(RequestFraming::None, |length| RequestFraming::Length(length.into()));
        prop_assert_eq!(head.framing, framing);
    }

    #[test]
    fn a_written_response_is_read_back(status in 200..600_u16, sent in vec((token(), value()), 0..20)) {
        let framing_names = ["content-length", "transfer-encoding", "connection"];
        prop_assume!(sent.iter().all(|(name, _)| !framing_names.contains(&name.to_ascii_lowercase().as_str())));
        let mut bytes = Vec::new();
        let mut writer = HeadWriter::new(&mut bytes);
        writer.status_line(status);
        for (name, value) in &sent {
            writer.field(name, value);
        }
        writer.end();
        let mut slots = FieldSlots::new();
        let parsed = parse_response(&bytes, &mut slots, &HeadLimits::default(), Method::Get);
        let head = parsed.unwrap().expect("complete");
        prop_assert_eq!(head.status, status);
        prop_assert_eq!(head.len, bytes.len());
        let read: Vec<_> = head.fields.iter().map(|f| (f.name.to_owned(), f.value.to_vec())).collect();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn a_value_of_any_bytes_stays_in_its_field(value in vec(any::<u8>(), 0..60)) {
        let mut bytes = Vec::new();
        let mut writer = HeadWriter::new(&mut bytes);
        writer.status_line(204).field("X", &value).field("Y", b"last").end();
        let mut slots = FieldSlots::new();
        let parsed = parse_response(&bytes, &mut slots, &HeadLimits::default(), Method::Get);
        let head = parsed.unwrap().expect("complete");
        prop_assert_eq!(head.fields.len(), 2);
        prop_assert_eq!(head.field("y"), Some(&b"last"[..]));
    }

    #[test]
    fn chunked_content_survives_any_chunks_and_any_split(
        pieces in vec(vec(any::<u8>(), 1..60), 0..12),
        splits in vec(any::<Index>(), 0..12),
        rest in vec(any::<u8>(), 0..10),
    ) {
        let mut bytes = Vec::new();
        for piece in &pieces {
            bytes.extend_from_slice(chunk_header(piece.len(), &mut [0; 18]));
            bytes.extend_from_slice(piece);
            bytes.extend_from_slice(CHUNK_END);
        }
        bytes.extend_from_slice(LAST_CHUNK);
        let len = bytes.len();
        bytes.extend_from_slice(&rest);
        let mut decoder = ChunkedDecoder::new();
        let (mut data, mut at) = (Vec::new(), 0);
        for arrived in arrivals(&splits, bytes.len()) {
            while at < arrived && !decoder.is_finished() {
                let decoded = decoder.decode(&bytes[at..arrived]).unwrap();
                data.extend_from_slice(decoded.data);
                at += decoded.consumed;
            }
        }
        prop_assert!(decoder.is_finished());
        prop_assert_eq!(at, len);
        prop_assert_eq!(data, pieces.concat());
    }

    #[test]
    fn an_accepted_head_is_strict(bytes in changed(&REQUESTS)) {
        let mut slots = FieldSlots::new();
        if let Ok(Some(head)) = parse_request(&bytes, &mut slots, &HeadLimits::default()) {
            let bytes = &bytes[..head.len];
            prop_assert!(bytes.ends_with(b"\r\n\r\n"));
            for (at, &byte) in bytes.iter().enumerate() {
                prop_assert!(byte != b'\n' || bytes[at - 1] == b'\r');
                prop_assert!(byte != b'\r' || bytes[at + 1] == b'\n');
                prop_assert!(byte != 0);
            }
            prop_assert!(head.fields_named("content-length").count() <= 1);
            prop_assert!(head.fields_named("host").count() <= 1);
            prop_assert!(head.field("content-length").is_none() || head.field("transfer-encoding").is_none());
            prop_assert!(head.authority.is_empty() || parse_authority(head.authority.as_bytes()).is_some());
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        let all = [bytes.len()];
        for side in [Side::Request, Side::Response(Method::Get), Side::Response(Method::Head)] {
            let events = read_connection(&bytes, &all, side);
            let is_message = |event: &Event| matches!(event, Event::Message { .. });
            prop_assert!(!events.iter().any(is_message));
        }
        let _ = ChunkedDecoder::new().decode(&bytes);
        let _ = proxy_protocol::parse(&bytes);
        let _ = date::parse(&bytes);
        prop_assert!(fields::list(&bytes).all(|member| !member.is_empty() && fields::trim(member) == member));
    }

    #[test]
    fn every_second_is_written_and_read_back(seconds in 0..=date::SECONDS_MAX) {
        prop_assert_eq!(date::parse(&date::format(seconds)), Some(seconds));
    }
}
