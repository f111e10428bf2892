//! What we send is one message: any accepted head, forwarded, is read back by the same parser as exactly one head with
//! the same framing. This is where a request smuggled through us would show.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use aspis_config::{Behavior, Raw, check};
use aspis_exchange::response_head::{
    HIT_TAIL_LEN_MAX, HitTail, OriginAnswer, Stored, ViewerFraming, finish_hit, write_interim, write_origin,
    write_stored, write_switching,
};
use aspis_exchange::{ForwardReason, Now, ResultType, ViewerFacts, origin_request};
use aspis_fuzz::{check_head, values};
use aspis_wire::request::{RequestFraming, parse_request};
use aspis_wire::response::{ResponseFraming, ResponseHead, parse_response};
use aspis_wire::{FieldSlots, HeadLimits, Method, Scheme, Version};
use libfuzzer_sys::fuzz_target;

/// Heads of this many fields are left out, since ours come to them and the parser has a limit.
const FIELDS_MAX: usize = 110;

fn behavior(semantics: &str) -> Behavior {
    let mut raw = Raw::new();
    raw.push("origin", "https://origin.example/prefix");
    raw.push("semantics", semantics);
    Behavior::from(&check(&raw).expect("these settings are valid"))
}

thread_local! {
    static BEHAVIORS: [Behavior; 2] = [behavior("rfc9111"), behavior("cloudfront")];
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let bytes = [data, b"\r\n\r\n"].concat();
    BEHAVIORS.with(|behaviors| {
        let behavior = &behaviors[usize::from(choice & 1)];
        if choice & 2 == 0 {
            check_request(&bytes, behavior, choice & 4 != 0);
        } else {
            check_response(&bytes, behavior, choice);
        }
    });
});

fn check_request(bytes: &[u8], behavior: &Behavior, trusted: bool) {
    let mut slots = FieldSlots::new();
    let Ok(Some(head)) = parse_request(bytes, &mut slots, &HeadLimits::default()) else { return };
    if head.method == Method::Connect || head.fields.len() > FIELDS_MAX {
        return;
    }
    let viewer = ViewerFacts { scheme: Scheme::Http, address: IpAddr::V4(Ipv4Addr::LOCALHOST), trusted };
    let mut out = Vec::new();
    origin_request::write(&head, &viewer, behavior, &mut out);

    let mut slots = FieldSlots::new();
    let sent = parse_request(&out, &mut slots, &HeadLimits::default()).expect("a request").expect("complete");
    assert_eq!(sent.len, out.len());
    check_head(&out, sent.fields);
    assert_eq!((sent.method, sent.framing, sent.upgrade), (head.method, head.framing, head.upgrade));
    let path = head.path_and_query;
    match sent.path_and_query.strip_prefix(behavior.origin.path_prefix.as_str()) {
        Some(rest) if path != "*" => assert_eq!(rest, path),
        _ => assert_eq!(sent.path_and_query, path),
    }
    assert!(!sent.expect_continue && sent.keep_alive);
    assert!(values(sent.fields, "x-forwarded-for").len() == 1 && values(sent.fields, "host").len() == 1);
    let lengths = values(sent.fields, "content-length").len();
    let codings = values(sent.fields, "transfer-encoding").len();
    match sent.framing {
        RequestFraming::None => assert_eq!((lengths, codings), (0, 0)),
        RequestFraming::Length(_) => assert_eq!((lengths, codings), (1, 0)),
        RequestFraming::Chunked => assert_eq!((lengths, codings), (0, 1)),
    }
    for name in ["te", "trailer", "keep-alive", "proxy-connection", "proxy-authorization", "expect"] {
        assert!(values(sent.fields, name).is_empty(), "{name} went on");
    }
    if !head.upgrade {
        assert!(values(sent.fields, "connection").is_empty() && values(sent.fields, "upgrade").is_empty());
    }
}

fn check_response(bytes: &[u8], behavior: &Behavior, choice: u8) {
    let method = if choice & 4 == 0 { Method::Get } else { Method::Head };
    let version = if choice & 8 == 0 { Version::Http11 } else { Version::Http10 };
    let mut slots = FieldSlots::new();
    let Ok(Some(head)) = parse_response(bytes, &mut slots, &HeadLimits::default(), method) else { return };
    if head.fields.len() > FIELDS_MAX {
        return;
    }
    if head.framing != ResponseFraming::None {
        check_hit(&head, behavior, choice);
    }
    let mut out = Vec::new();
    if head.is_interim() {
        if !write_interim(&head, version, &mut out) {
            assert!(out.is_empty());
            return;
        }
    } else if head.status == 101 {
        write_switching(behavior, &head, &mut out);
    }
    let mut sending = None;
    if out.is_empty() {
        let answer = OriginAnswer {
            method,
            version,
            keep_alive: choice & 16 == 0,
            result: ResultType::Miss,
            reason: ForwardReason::Miss,
            stored: Stored::No,
            not_stored: None,
            wall: 1_000_000_000,
        };
        sending = Some(write_origin(behavior, &head, &answer, &mut out));
    }
    let mut slots = FieldSlots::new();
    let sent = parse_response(&out, &mut slots, &HeadLimits::default(), method)
        .expect("a response")
        .expect("complete");
    assert_eq!((sent.len, sent.status), (out.len(), head.status));
    check_head(&out, sent.fields);
    assert!(
        values(sent.fields, "content-length").len() + values(sent.fields, "transfer-encoding").len() <= 1
    );
    let Some(sending) = sending else { return };
    let expected = match sending.framing {
        ViewerFraming::None => ResponseFraming::None,
        ViewerFraming::Length(length) => ResponseFraming::Length(length),
        ViewerFraming::Chunked => ResponseFraming::Chunked,
        ViewerFraming::UntilClose => ResponseFraming::UntilClose,
    };
    assert_eq!(sent.framing, expected);
    let none = |framing| framing == ResponseFraming::None;
    assert_eq!(none(sent.framing), none(head.framing), "content appeared or vanished");
    assert!(!sending.keep_alive || sent.keep_alive, "the head says close where the connection lives on");
    assert!(sending.keep_alive || !sent.keep_alive || version == Version::Http10, "the head hides a close");
    assert_eq!(values(sent.fields, "x-cache").len(), 1);
    if version == Version::Http10 {
        assert!(values(sent.fields, "transfer-encoding").is_empty());
    }
}

/// A hit's head, made of the prefix that was written at storing time, is one head with the stored length.
fn check_hit(head: &ResponseHead<'_, '_>, behavior: &Behavior, choice: u8) {
    let now = Now { wall: 1_000_000_000, millis: 0 };
    let mut prefix = Vec::new();
    write_stored(behavior, head, now, &mut prefix);
    let tail = HitTail {
        age: 7,
        ttl: -5,
        content_len: 12,
        status: head.status,
        version: Version::Http11,
        keep_alive: choice & 16 == 0,
    };
    let mut out = vec![0; prefix.len() + HIT_TAIL_LEN_MAX];
    let len = finish_hit(behavior, &prefix, &tail, &mut out);
    let mut slots = FieldSlots::new();
    let parsed = parse_response(&out[..len], &mut slots, &HeadLimits::default(), Method::Get);
    let sent = parsed.expect("a response").expect("complete");
    assert_eq!((sent.len, sent.status, sent.keep_alive), (len, head.status, tail.keep_alive));
    check_head(&out[..len], sent.fields);
    let has_content = !matches!(head.status, 100..=199 | 204 | 304);
    let expected = if has_content { ResponseFraming::Length(12) } else { ResponseFraming::None };
    assert_eq!(sent.framing, expected);
    assert!(values(sent.fields, "age").len() == 1 && values(sent.fields, "x-cache").len() == 1);
}
