//! Request heads: one answer for every prefix, nothing lax accepted, what is written is what was read.
#![no_main]

use aspis_fuzz::{check_head, decimal, limits, prefixes, values};
use aspis_wire::head_writer::HeadWriter;
use aspis_wire::request::{
    KnownSections, KnownSlots, RequestError, RequestFraming, RequestHead, parse_request,
};
use aspis_wire::{FieldSlots, HeadLimits, Method, Scheme, Version};
use libfuzzer_sys::fuzz_target;

/// Everything of a head that can be compared.
#[derive(Debug, PartialEq)]
struct Seen {
    method: String,
    version: Version,
    scheme: Option<Scheme>,
    authority: String,
    path_and_query: String,
    fields: Vec<(String, Vec<u8>)>,
    framing: RequestFraming,
    keep_alive: bool,
    upgrade: bool,
    expect_continue: bool,
}

fn seen(head: &RequestHead<'_, '_>) -> Seen {
    Seen {
        method: head.method.as_str().to_owned(),
        version: head.version,
        scheme: head.scheme,
        authority: head.authority.to_owned(),
        path_and_query: head.path_and_query.to_owned(),
        fields: head.fields.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect(),
        framing: head.framing,
        keep_alive: head.keep_alive,
        upgrade: head.upgrade,
        expect_continue: head.expect_continue,
    }
}

fn parse(bytes: &[u8], limits: &HeadLimits) -> Result<Option<(usize, Seen)>, RequestError> {
    let mut slots = FieldSlots::new();
    Ok(parse_request(bytes, &mut slots, limits)?.map(|head| (head.len, seen(&head))))
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let limits = limits(choice);
    // A fault may be found late, but not later than the end of the head.
    let bytes = [data, b"\r\n\r\n"].concat();
    let whole = parse(&bytes, &limits);
    // Nor does it depend on what came before.
    let mut known = KnownSections::default();
    for _ in 0..3 {
        let mut slots = KnownSlots::new();
        let again = known.parse_request(&bytes, &mut slots, &limits);
        assert_eq!(again.map(|head| head.map(|head| (head.len, seen(&head)))), whole);
    }
    for len in prefixes(bytes.len()) {
        let part = parse(&bytes[..len], &limits);
        assert!(matches!(part, Ok(None)) || part == whole, "at {len} {part:?} but {whole:?}");
        if let Ok(Some((head_len, _))) = part {
            assert!(head_len <= len);
        }
    }
    match whole {
        Ok(None) => {
            assert!(bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')), "a finished head was waited on")
        }
        Ok(Some((len, _))) => check(&bytes[..len], &limits),
        Err(error) => assert!([400, 414, 431, 501, 505].contains(&error.status())),
    }
});

fn check(bytes: &[u8], limits: &HeadLimits) {
    let mut slots = FieldSlots::new();
    let head = parse_request(bytes, &mut slots, limits).unwrap().expect("complete");
    assert_eq!(head.len, bytes.len());
    let empty = bytes.chunks(2).take_while(|pair| *pair == b"\r\n").count() * 2;
    let bytes = &bytes[empty..];
    assert!(bytes.len() <= limits.head_len_max && head.fields.len() <= limits.field_count_max);
    let line = check_head(bytes, head.fields);

    let words: Vec<&str> = std::str::from_utf8(line).expect("ASCII").split(' ').collect();
    let [method, target, version] = words[..] else { panic!("three words") };
    assert_eq!(method, head.method.as_str());
    assert_eq!(version, head.version.as_str());
    assert!(target.bytes().all(|byte| byte.is_ascii_graphic()) && !target.contains('#'));
    assert!(target.len() <= limits.target_len_max);
    match head.scheme {
        Some(scheme) => {
            let rest = target.split_once("://").expect("absolute-form").1;
            assert!(rest.starts_with(head.authority));
            assert!(target[..5].to_ascii_lowercase().starts_with("http") && !scheme.as_str().is_empty());
        }
        None if head.method == Method::Connect => assert_eq!(target, head.authority),
        None => {
            assert_eq!(target, head.path_and_query);
            let host = values(head.fields, "host");
            assert_eq!(head.authority.as_bytes(), host.first().copied().unwrap_or_default());
        }
    }
    assert!(
        head.path_and_query.starts_with('/') || head.path_and_query == "*" || head.method == Method::Connect
    );
    assert!(!head.authority.is_empty() || head.version == Version::Http10);
    assert!(!head.authority.contains(['@', '/', ' ', ',', '\\', '%']));
    assert!(values(head.fields, "host").len() <= 1);

    let lengths = values(head.fields, "content-length");
    let codings = values(head.fields, "transfer-encoding");
    match head.framing {
        RequestFraming::None => assert!(lengths.is_empty() && codings.is_empty()),
        RequestFraming::Length(length) => {
            assert!(codings.is_empty() && lengths.len() == 1 && decimal(lengths[0]) == Some(length));
        }
        RequestFraming::Chunked => {
            assert!(lengths.is_empty() && codings.len() == 1 && head.version == Version::Http11);
            assert_eq!(codings[0].to_ascii_lowercase(), b"chunked");
        }
    }

    let mut written = Vec::new();
    let mut writer = HeadWriter::new(&mut written);
    writer.request_line(head.method, target);
    for field in head.fields {
        writer.field(field.name, field.value);
    }
    writer.end();
    if head.version == Version::Http11 {
        let (len, again) = parse(&written, &HeadLimits::default()).unwrap().expect("complete");
        assert_eq!((len, again), (written.len(), seen(&head)));
    }
}
