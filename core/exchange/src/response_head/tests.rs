use aspis_config::{Raw, check};
use aspis_wire::response::parse_response;
use aspis_wire::{FieldSlots, HeadLimits};
use proptest::prelude::*;

use super::*;
use crate::OriginFailure;

pub(super) fn behavior(flags: &[(&str, &str)]) -> Behavior {
    let mut raw: Raw = flags.iter().copied().collect();
    raw.push("origin", "http://origin.example");
    Behavior::from(&check(&raw).unwrap())
}

const CLOUDFRONT: &[(&str, &str)] = &[("semantics", "cloudfront"), ("name", "cloudfront")];
const WALL: u64 = 784_111_777;
const MISS: OriginAnswer<'static> = OriginAnswer {
    method: Method::Get,
    version: Version::Http11,
    keep_alive: true,
    result: ResultType::Miss,
    reason: ForwardReason::UriMiss,
    stored: Stored::Yes,
    not_stored: None,
    wall: WALL,
};

fn with_head<T>(text: &str, method: Method<'_>, use_head: impl FnOnce(&ResponseHead<'_, '_>) -> T) -> T {
    let text = text.replace('\n', "\r\n");
    let mut slots = FieldSlots::new();
    let head = parse_response(text.as_bytes(), &mut slots, &HeadLimits::default(), method).unwrap().unwrap();
    use_head(&head)
}

fn origin(text: &str, answer: OriginAnswer<'_>, flags: &[(&str, &str)]) -> (String, Sending) {
    with_head(text, answer.method, |head| {
        let mut out = Vec::new();
        let sending = write_origin(&behavior(flags), head, &answer, &mut out);
        (String::from_utf8(out).unwrap().replace("\r\n", "\n"), sending)
    })
}

fn stored(text: &str, flags: &[(&str, &str)]) -> String {
    with_head(text, Method::Get, |head| {
        let mut out = Vec::new();
        write_stored(&behavior(flags), head, Now { wall: WALL, millis: 0 }, &mut out);
        String::from_utf8(out).unwrap().replace("\r\n", "\n")
    })
}

#[test]
fn a_miss_passes_on_what_is_end_to_end() {
    let (text, sending) = origin(
        "HTTP/1.1 200 Fine\nServer: o\nDate: Sun, 06 Nov 1994 08:49:37 GMT\nConnection: X-Hop\nX-Hop: 1\nKeep-Alive: 5\n\
         Content-Length: 5\nX-Cache: Hit from o\nCache-Status: o; hit\nAge: 3\nVia: 1.1 o\n\n",
        MISS,
        &[],
    );
    assert_eq!(
        text,
        "HTTP/1.1 200 OK\nServer: o\nDate: Sun, 06 Nov 1994 08:49:37 GMT\nCache-Status: o; hit\nAge: 3\nVia: 1.1 o\n\
         Via: 1.1 aspis\nContent-Length: 5\nX-Cache: Miss from aspis\n\
         Cache-Status: aspis; fwd=uri-miss; fwd-status=200; stored\n\n"
    );
    assert_eq!(sending, Sending { framing: ViewerFraming::Length(5), keep_alive: true });
}

/// H-2, H-3, H-7: CloudFront's way.
#[test]
fn cloudfront_replaces_via_and_says_keep_alive() {
    let (text, _) = origin("HTTP/1.1 200 OK\nContent-Length: 0\nVia: 1.1 o\n\n", MISS, CLOUDFRONT);
    assert!(
        text.contains("\nX-Cache: Miss from cloudfront\n") && text.contains("\nConnection: keep-alive\n"),
        "{text}"
    );
    assert!(
        text.contains("\nVia: 1.1 cloudfront\n") && !text.contains("1.1 o") && !text.contains("Cache-Status"),
        "{text}"
    );
}

/// RFC 9110 §15.5.22, §7.8: what a 426 wants is said to the viewer; of other answers Upgrade is the origin's connection's (H-8).
#[test]
fn a_426_names_its_protocols() {
    let fields =
        "Connection: upgrade, X-Hop\nUpgrade: websocket\nUpgrade: HTTP/3.0\nX-Hop: 1\nContent-Length: 0\n\n";
    let (text, _) = origin(&format!("HTTP/1.1 426 Upgrade Required\n{fields}"), MISS, &[]);
    assert!(text.contains("\nUpgrade: websocket\nUpgrade: HTTP/3.0\nConnection: upgrade\n"), "{text}");
    assert!(!text.contains("X-Hop"), "{text}");
    let closing = OriginAnswer { keep_alive: false, ..MISS };
    let (text, _) = origin(&format!("HTTP/1.1 426 Upgrade Required\n{fields}"), closing, &[]);
    assert!(text.contains("\nConnection: upgrade\n") && text.ends_with("\nConnection: close\n\n"), "{text}");
    let (text, _) = origin(&format!("HTTP/1.1 400 x\n{fields}"), MISS, &[]);
    assert!(!text.contains("Upgrade") && !text.contains("Connection"), "{text}");
}

/// RFC 9110 §7.6.3, H-3: the version in which the response came; CloudFront's line is its own.
#[test]
fn via_names_the_version_that_the_origin_spoke() {
    let old = "HTTP/1.0 200 OK\nContent-Length: 0\n\n";
    assert!(origin(old, MISS, &[]).0.contains("\nVia: 1.0 aspis\n"));
    assert!(stored(old, &[]).contains("\nVia: 1.0 aspis\n"));
    assert!(origin(old, MISS, CLOUDFRONT).0.contains("\nVia: 1.1 cloudfront\n"));
}

/// H-22, RFC 9112 §6.
#[test]
fn framing_suits_the_viewer() {
    let old = OriginAnswer { version: Version::Http10, ..MISS };
    let head = OriginAnswer { method: Method::Head, ..MISS };
    let chunked = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: x\n\n";
    let until_close = "HTTP/1.0 200 OK\n\n";
    let cases: &[(&str, OriginAnswer<'_>, ViewerFraming, bool, &str)] = &[
        (chunked, MISS, ViewerFraming::Chunked, true, "\nTransfer-Encoding: chunked\n"),
        (until_close, MISS, ViewerFraming::Chunked, true, "\nTransfer-Encoding: chunked\n"),
        (chunked, old, ViewerFraming::UntilClose, false, "\nConnection: close\n"),
        (
            "HTTP/1.1 200 OK\nContent-Length: 5\n\n",
            old,
            ViewerFraming::Length(5),
            true,
            "\nConnection: keep-alive\n",
        ),
        ("HTTP/1.1 200 OK\nContent-Length: 5\n\n", head, ViewerFraming::None, true, "\nContent-Length: 5\n"),
        ("HTTP/1.1 204 No Content\n\n", MISS, ViewerFraming::None, true, "\nX-Cache"),
        ("HTTP/1.1 304 Not Modified\nETag: \"a\"\n\n", MISS, ViewerFraming::None, true, "\nETag: \"a\"\n"),
    ];
    for (text, answer, framing, keep_alive, contains) in cases {
        let (written, sending) = origin(text, *answer, &[]);
        assert_eq!(sending, Sending { framing: *framing, keep_alive: *keep_alive }, "{text}");
        assert!(written.contains(contains), "{contains} in {written}");
        assert!(!written.contains("Trailer"), "{written}"); // H-8
        let framed = written.matches("Content-Length").count() + written.matches("Transfer-Encoding").count();
        assert!(framed <= 1, "{written}");
    }
    let closing = origin("HTTP/1.1 204 No Content\n\n", OriginAnswer { keep_alive: false, ..MISS }, &[]);
    assert!(closing.0.contains("\nConnection: close\n"));
}

/// RFC 9110 §6.6.1, H-6, T-42.
#[test]
fn a_missing_date_is_added_and_a_given_one_kept() {
    assert!(
        origin("HTTP/1.1 204 No Content\n\n", MISS, &[])
            .0
            .contains("\nDate: Sun, 06 Nov 1994 08:49:37 GMT\n")
    );
    let given = stored("HTTP/1.1 200 OK\ndate: Thu, 01 Jan 1970 00:00:00 GMT\nContent-Length: 1\n\n", &[]);
    assert_eq!(given.to_lowercase().matches("date: ").count(), 1);
    assert!(given.contains("\ndate: Thu, 01 Jan 1970 00:00:00 GMT\n"));
}

/// T-41, RFC 9111 §4 and §5.1, RFC 9211: the whole head of a hit.
#[test]
fn a_hit_is_its_prefix_and_its_tail() {
    let text = "HTTP/1.1 200 OK\nDate: Sun, 06 Nov 1994 08:49:37 GMT\nAge: 9\nX-Cache: Hit from o\nContent-Length: 5\nETag: \"a\"\n\n";
    let prefix = stored(text, &[]).replace('\n', "\r\n");
    let tail =
        HitTail { age: 12, ttl: 48, content_len: 5, status: 200, version: Version::Http11, keep_alive: true };
    let mut out = [0; 1024];
    let len = finish_hit(&behavior(&[]), prefix.as_bytes(), &tail, &mut out);
    assert_eq!(
        std::str::from_utf8(&out[..len]).unwrap().replace("\r\n", "\n"),
        "HTTP/1.1 200 OK\nDate: Sun, 06 Nov 1994 08:49:37 GMT\nETag: \"a\"\nVia: 1.1 aspis\n\
         X-Cache: Hit from aspis\nCache-Status: aspis; hit; ttl=48\nAge: 12\nContent-Length: 5\n\n"
    );
    let cloudfront = stored(text, CLOUDFRONT);
    assert!(cloudfront.ends_with("X-Cache: Hit from cloudfront\n") && !cloudfront.contains("Content-Length"));
}

/// Rule 17, RFC 9110 §15.2.
#[test]
fn interim_heads_pass_filtered_and_never_to_http_1_0() {
    let text = "HTTP/1.1 103 Early Hints\nLink: </a>; rel=preload\nConnection: x\nX: 1\n\n";
    let interim = |text: &str, version| {
        with_head(text, Method::Get, |head| {
            let mut out = Vec::new();
            let passed = write_interim(head, version, &mut out);
            assert_eq!(passed, !out.is_empty());
            passed.then(|| String::from_utf8(out).unwrap().replace("\r\n", "\n"))
        })
    };
    assert_eq!(
        interim(text, Version::Http11).as_deref(),
        Some("HTTP/1.1 103 Early Hints\nLink: </a>; rel=preload\n\n")
    );
    assert_eq!(interim(text, Version::Http10), None);
    assert!(interim("HTTP/1.1 102 Processing\n\n", Version::Http11).is_some());
    assert!(interim("HTTP/1.1 104 Upload Resumption Supported\n\n", Version::Http11).is_some());
    assert_eq!(interim("HTTP/1.1 100 Continue\n\n", Version::Http11), None);
}

#[test]
fn switching_names_the_protocol() {
    let text = "HTTP/1.1 101 Switching Protocols\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Accept: x\n\n";
    let written = with_head(text, Method::Get, |head| {
        let mut out = Vec::new();
        write_switching(&behavior(&[]), head, &mut out);
        String::from_utf8(out).unwrap().replace("\r\n", "\n")
    });
    assert_eq!(
        written,
        "HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: websocket\nSec-WebSocket-Accept: x\nVia: 1.1 aspis\n\
         X-Cache: Miss from aspis\n\n"
    );
}

fn error(answer: ErrorAnswer<'_>, flags: &[(&str, &str)]) -> String {
    let mut out = Vec::new();
    write_error_answer(&behavior(flags), &answer, &mut out);
    String::from_utf8(out).unwrap().replace("\r\n", "\n")
}

const GATEWAY: ErrorAnswer<'static> = ErrorAnswer {
    status: 502,
    method: Some(Method::Get),
    version: Version::Http11,
    keep_alive: true,
    reason: Some(ForwardReason::UriMiss),
    collapsed: false,
    failure: Some(OriginFailure::Refused),
    unsatisfied_len: None,
    wall: WALL,
};

/// H-25, H-26, H-28.
#[test]
fn errors_say_what_happened_and_are_never_stored() {
    let body = "502 Bad Gateway: The origin refuses the connection.\n";
    let head = format!(
        "HTTP/1.1 502 Bad Gateway\nDate: Sun, 06 Nov 1994 08:49:37 GMT\nServer: aspis\n\
         Content-Type: text/plain; charset=utf-8\nContent-Length: {}\nCache-Control: no-store\n\
         X-Cache: Error from aspis\nCache-Status: aspis; fwd=uri-miss\n\n",
        body.len()
    );
    assert_eq!(error(GATEWAY, &[]), format!("{head}{body}"));
    let head = error(ErrorAnswer { method: Some(Method::Head), ..GATEWAY }, &[]);
    assert!(head.ends_with("\n\n") && head.contains("\nContent-Length: "));
    let refused =
        ErrorAnswer { status: 400, method: None, keep_alive: false, reason: None, failure: None, ..GATEWAY };
    let refused = error(refused, &[]);
    assert!(
        refused.contains("\nConnection: close\n\n400 Bad Request: Bad request.\n")
            && !refused.contains("Cache-Status")
    );
}

/// H-2, L-15 and RFC 9110 §10.2.3.
#[test]
fn who_is_refused_for_want_of_capacity_is_told_when_to_come_again() {
    let failure = Some(OriginFailure::Overloaded);
    let full = error(ErrorAnswer { status: 503, failure, ..GATEWAY }, &[]);
    assert!(
        full.contains("\nRetry-After: 5\n") && full.contains("\nX-Cache: CapacityExceeded from aspis\n"),
        "{full}"
    );
    let closed = error(ErrorAnswer { status: 503, failure: None, ..GATEWAY }, &[]);
    assert!(
        closed.contains("\nRetry-After: 5\n") && closed.contains("\nX-Cache: Error from aspis\n"),
        "{closed}"
    );
    assert!(!error(GATEWAY, &[]).contains("Retry-After"));
}

/// H-26, H-27.
#[test]
fn cloudfront_errors_are_its_page() {
    let text = error(ErrorAnswer { status: 403, failure: None, ..GATEWAY }, CLOUDFRONT);
    for part in [
        "\nX-Cache: Error from cloudfront\n",
        "\nContent-Type: text/html",
        "\nVia: 1.1 cloudfront\n",
        "<TITLE>ERROR: The request could not be satisfied</TITLE>",
        "<H1>403 ERROR</H1>",
        "Generated by cloudfront (CloudFront)",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

proptest! {
    /// What a viewer gets parses, with the same status, framing and end-to-end fields.
    #[test]
    fn written_heads_parse_to_the_same_response(
        status in prop_oneof![Just(200_u16), Just(404), Just(503), Just(299)],
        sent in proptest::collection::vec(("X-[ABD-Zabd-z]{1,8}", "([!-~]([ -~]{0,10}[!-~])?)?"), 0..8),
        length in 0_u64..1_000_000,
    ) {
        let mut text = format!("HTTP/1.1 {status} x\nContent-Length: {length}\n");
        for (name, value) in &sent {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text.push('\n');
        let (written, _) = origin(&text, MISS, &[]);
        with_head(&written, Method::Get, |head| {
            assert_eq!((head.status, head.framing), (status, ResponseFraming::Length(length)));
            let came: Vec<_> = head.fields.iter().filter(|field| field.name.starts_with("X-") && field.name != "X-Cache")
                .map(|field| (field.name.to_string(), field.value.to_vec())).collect();
            let expected: Vec<_> = sent.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
            assert_eq!(came, expected);
        });
        let prefix = stored(&text, &[]).replace('\n', "\r\n");
        let mut out = vec![0; prefix.len() + HIT_TAIL_LEN_MAX];
        let tail = HitTail { age: 1, ttl: 2, content_len: length, status: 200, version: Version::Http11, keep_alive: false };
        let len = finish_hit(&behavior(&[]), prefix.as_bytes(), &tail, &mut out);
        let text = std::str::from_utf8(&out[..len]).unwrap().replace("\r\n", "\n");
        with_head(&text, Method::Get, |head| {
            assert_eq!((head.status, head.framing), (status, ResponseFraming::Length(length)));
            assert_eq!(head.field("age"), Some(&b"1"[..]));
            assert!(!head.keep_alive);
        });
    }
}

/// RFC 9110 §15.3.7: only the status says that it is a part; where it lies is said when it is sent.
#[test]
fn a_part_has_the_head_of_its_whole() {
    let whole = stored("HTTP/1.1 200 OK\nETag: \"a\"\nContent-Length: 5\n\n", &[]).replace('\n', "\r\n");
    let part = part_head(whole.as_bytes());
    assert!(part.starts_with(b"HTTP/1.1 206 Partial Content\r\n"));
    assert!(stored_fields(&part).eq(stored_fields(whole.as_bytes())));
    assert!(part_head(b"").starts_with(b"HTTP/1.1 206"), "bytes from outside do not end the process");
}
