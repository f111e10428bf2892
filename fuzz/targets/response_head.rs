//! Response heads: one answer for every prefix, nothing lax accepted, framing by the rules, written as read.
#![no_main]

use aspis_fuzz::{check_head, decimal, limits, prefixes, values};
use aspis_wire::head_writer::HeadWriter;
use aspis_wire::response::{ResponseError, ResponseFraming, ResponseHead, parse_response};
use aspis_wire::{FieldSlots, HeadLimits, Method, Version};
use libfuzzer_sys::fuzz_target;

/// Everything of a head that can be compared, but for the reason phrase.
#[derive(Debug, PartialEq)]
struct Seen {
    version: Version,
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    framing: ResponseFraming,
    content_length: Option<u64>,
    keep_alive: bool,
}

fn seen(head: &ResponseHead<'_, '_>) -> Seen {
    Seen {
        version: head.version,
        status: head.status,
        fields: head.fields.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect(),
        framing: head.framing,
        content_length: head.content_length,
        keep_alive: head.keep_alive,
    }
}

type Outcome = Result<Option<(usize, Vec<u8>, Seen)>, ResponseError>;

fn parse(bytes: &[u8], limits: &HeadLimits, method: Method<'_>) -> Outcome {
    let mut slots = FieldSlots::new();
    let head = parse_response(bytes, &mut slots, limits, method)?;
    Ok(head.map(|head| (head.len, head.reason.to_vec(), seen(&head))))
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let limits = limits(choice);
    let method = [Method::Get, Method::Head, Method::Connect, Method::Post][usize::from(choice >> 1 & 3)];
    let bytes = [data, b"\r\n\r\n"].concat();
    let whole = parse(&bytes, &limits, method);
    for len in prefixes(bytes.len()) {
        let part = parse(&bytes[..len], &limits, method);
        assert!(matches!(part, Ok(None)) || part == whole, "at {len} {part:?} but {whole:?}");
        if let Ok(Some((head_len, ..))) = part {
            assert!(head_len <= len);
        }
    }
    match whole {
        Ok(None) => panic!("a finished head was waited on"),
        Ok(Some((len, ..))) => check(&bytes[..len], &limits, method),
        Err(_) => {}
    }
});

fn check(bytes: &[u8], limits: &HeadLimits, method: Method<'_>) {
    let mut slots = FieldSlots::new();
    let head = parse_response(bytes, &mut slots, limits, method).unwrap().expect("complete");
    assert_eq!(head.len, bytes.len());
    assert!(bytes.len() <= limits.head_len_max && head.fields.len() <= limits.field_count_max);
    let line = check_head(bytes, head.fields);
    let start = format!("{} {:03}", head.version.as_str(), head.status);
    let rest = line.strip_prefix(start.as_bytes()).expect("version and status");
    assert_eq!(rest.strip_prefix(b" ").unwrap_or(rest), head.reason);
    assert!(head.status >= 100);

    let lengths = values(head.fields, "content-length");
    let codings = values(head.fields, "transfer-encoding");
    assert!(lengths.is_empty() || codings.is_empty());
    let mut numbers = lengths.iter().flat_map(|value| value.split(|&byte| byte == b','));
    let same = numbers.clone().all(|number| decimal(number.trim_ascii()) == head.content_length);
    assert!(same && head.content_length.is_some() == numbers.next().is_some());

    let empty = head.status < 200 || matches!(head.status, 204 | 304) || method == Method::Head;
    let tunnel = method == Method::Connect && head.status / 100 == 2;
    let coding = codings.join(&b','.to_owned()).to_ascii_lowercase();
    match head.framing {
        ResponseFraming::None => assert!(empty || tunnel),
        _ if empty || tunnel => panic!("content where there is none"),
        ResponseFraming::Length(length) => assert_eq!(head.content_length, Some(length)),
        ResponseFraming::Chunked => assert!(coding == b"chunked" && head.version == Version::Http11),
        ResponseFraming::UntilClose => {
            assert!(head.content_length.is_none() && !head.keep_alive);
            assert!(!coding.split(|&byte| byte == b',').any(|name| name.trim_ascii() == b"chunked"));
        }
    }

    let mut written = Vec::new();
    let mut writer = HeadWriter::new(&mut written);
    writer.status_line(head.status);
    for field in head.fields {
        writer.field(field.name, field.value);
    }
    writer.end();
    if head.version == Version::Http11 {
        let (len, _, again) = parse(&written, &HeadLimits::default(), method).unwrap().expect("complete");
        assert_eq!((len, again), (written.len(), seen(&head)));
    }
}
