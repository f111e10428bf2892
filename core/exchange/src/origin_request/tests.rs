use aspis_config::{Raw, check};
use aspis_wire::request::parse_request;
use aspis_wire::{FieldSlots, HeadLimits, Method, Scheme};
use proptest::prelude::*;

use super::*;

fn behavior(flags: &[(&str, &str)]) -> Behavior {
    let mut raw: Raw = flags.iter().copied().collect();
    if !raw.contains("origin") {
        raw.push("origin", "http://origin.example:8000");
    }
    Behavior::from(&check(&raw).unwrap())
}

const STRANGER: ViewerFacts = ViewerFacts {
    scheme: Scheme::Http,
    address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)),
    trusted: false,
};

fn written(request: &str, viewer: &ViewerFacts, flags: &[(&str, &str)]) -> String {
    let request = request.replace('\n', "\r\n");
    let mut slots = FieldSlots::new();
    let head = parse_request(request.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
    let mut out = Vec::new();
    write(&head, viewer, &behavior(flags), &mut out);
    String::from_utf8(out).unwrap().replace("\r\n", "\n")
}

/// H-13.
#[test]
fn a_plain_request_goes_on_with_who_asked() {
    assert_eq!(
        written("GET /x?y HTTP/1.1\nHost: www.example\nAccept: */*\nCookie: a=b\n\n", &STRANGER, &[]),
        "GET /x?y HTTP/1.1\nHost: www.example\nAccept: */*\nCookie: a=b\nX-Forwarded-For: 192.0.2.2\n\
         X-Forwarded-Proto: http\nX-Forwarded-Host: www.example\nVia: 1.1 aspis\n\n"
    );
}

/// H-12: the three examples.
#[test]
fn viewer_address_is_appended() {
    let line = |fields: &str, viewer: &ViewerFacts| {
        let text = written(&format!("GET / HTTP/1.1\nHost: a\n{fields}\n"), viewer, &[]);
        text.lines().find_map(|line| line.strip_prefix("X-Forwarded-For: ").map(str::to_string)).unwrap()
    };
    assert_eq!(line("", &STRANGER), "192.0.2.2");
    assert_eq!(line("X-Forwarded-For: 192.0.2.4,192.0.2.3\n", &STRANGER), "192.0.2.4,192.0.2.3,192.0.2.2");
    assert_eq!(
        line("X-Forwarded-For: 1.1.1.1\nx-forwarded-for: 2.2.2.2\n", &STRANGER),
        "1.1.1.1,2.2.2.2,192.0.2.2"
    );
    let v6 = ViewerFacts { address: "2001:db8::1".parse().unwrap(), ..STRANGER };
    assert_eq!(line("", &v6), "2001:db8::1");
    let mapped = ViewerFacts { address: "::ffff:192.0.2.9".parse().unwrap(), ..STRANGER };
    assert_eq!(line("", &mapped), "192.0.2.9");
}

#[test]
fn only_trusted_peers_speak_for_the_viewer() {
    let request = "GET / HTTP/1.1\nHost: a\nX-Forwarded-Proto: https\nX-Forwarded-Host: b\nX-Forwarded-Port: 1\nForwarded: host=b\nX-Real-IP: 9.9.9.9\n\n";
    let stranger = written(request, &STRANGER, &[]);
    assert!(stranger.contains("\nX-Forwarded-Proto: http\nX-Forwarded-Host: a\n"), "{stranger}");
    for absent in ["Port", "Forwarded: ", "X-Real-IP"] {
        assert!(!stranger.contains(absent), "{absent}");
    }
    let trusted = written(request, &ViewerFacts { trusted: true, ..STRANGER }, &[]);
    assert!(trusted.contains("\nX-Forwarded-Proto: https\nX-Forwarded-Host: b\n"), "{trusted}");
    assert!(trusted.contains("\nX-Forwarded-Port: 1\nForwarded: host=b\nX-Real-IP: 9.9.9.9\n"));
}

/// RFC 9110 §7.6.1, rule 10, H-11, H-21.
#[test]
fn what_concerns_the_connection_stays_here() {
    let text = written(
        "POST / HTTP/1.1\nHost: a\nConnection: close, X-Hop\nX-Hop: 1\nKeep-Alive: 5\nTE: trailers\nProxy-Authorization: x\n\
         Expect: 100-continue\nTransfer-Encoding: chunked\nX-End: 2\n\n",
        &STRANGER,
        &[],
    );
    for absent in ["Connection", "X-Hop", "Keep-Alive", "TE:", "Proxy-Authorization", "Expect"] {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
    assert!(text.contains("\nX-End: 2\n") && text.ends_with("\nTransfer-Encoding: chunked\n\n"), "{text}");
}

/// RFC 9110 §10.1.1, §15.5.18: an expectation that we do not know is dropped too; it is never 417.
#[test]
fn expectations_are_dropped_whatever_they_ask() {
    let text = written("POST / HTTP/1.1\nHost: a\nExpect: the-moon\nContent-Length: 1\n\n", &STRANGER, &[]);
    assert!(text.starts_with("POST / HTTP/1.1\n") && !text.contains("Expect"), "{text}");
}

/// RFC 9110 §7.6.2.
#[test]
fn max_forwards_counts_for_options_only() {
    let line = |method: &str, value: &str| {
        let request = format!("{method} / HTTP/1.1\nHost: a\nMax-Forwards: {value}\n\n");
        let text = written(&request, &STRANGER, &[]);
        text.lines().find_map(|line| line.strip_prefix("Max-Forwards: ").map(str::to_string))
    };
    let some = |text: &str| Some(text.to_string());
    assert_eq!(line("OPTIONS", "3"), some("2"));
    assert_eq!(line("OPTIONS", "99999999999999999999"), some("18446744073709551614"));
    assert_eq!(line("OPTIONS", "many"), None);
    for method in ["GET", "POST", "PROPFIND"] {
        assert_eq!(line(method, "3"), some("3"), "{method}");
    }
}

/// RFC 9111 §5.2, RFC 9110 §14.5: what is for the origin goes on as it came.
#[test]
fn directives_and_partial_puts_go_on_as_they_came() {
    let fields = "Cache-Control: no-cache, x=\"a, b\"\nCache-Control: max-age=0\nPragma: no-cache\n";
    let text = written(&format!("GET / HTTP/1.1\nHost: a\n{fields}\n"), &STRANGER, &[]);
    assert!(text.contains(&format!("\n{fields}")), "{text}");
    let fields = "Content-Range: bytes 0-1/10\nContent-Type: text/x\n";
    let text = written(&format!("PUT / HTTP/1.1\nHost: a\n{fields}Content-Length: 2\n\n"), &STRANGER, &[]);
    assert!(text.contains(&format!("\n{fields}")) && text.ends_with("\nContent-Length: 2\n\n"), "{text}");
}

/// RFC 9111 §4.3.1, rule 13, rule 14: the conditions on the wire are the viewer's or ours, never both.
#[test]
fn conditions_are_the_viewers_or_ours() {
    let ask = |preconditions: Preconditions<'_>| {
        let request = "GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"v\"\r\nIf-Modified-Since: x\r\nIf-Match: *\r\n\
                       If-Unmodified-Since: x\r\nIf-Range: \"v\"\r\nRange: bytes=0-1\r\n\r\n";
        let mut slots = FieldSlots::new();
        let head = parse_request(request.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
        let mut out = Vec::new();
        write_as(&head, Method::Get, &STRANGER, &behavior(&[]), preconditions, &mut out);
        let text = String::from_utf8(out).unwrap();
        let mut lines =
            text.split("\r\n").filter(|line| line.starts_with("If-") || line.starts_with("Range"));
        lines.by_ref().map(str::to_string).collect::<Vec<_>>().join("|")
    };
    let both = Validators {
        etag: Some(b"W/\"a\""),
        last_modified: Some(b"Sun, 06 Nov 1994 08:49:37 GMT"),
        generated_at: 0,
    };
    assert_eq!(
        ask(Preconditions::Of(both)),
        "If-None-Match: W/\"a\"|If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"
    );
    assert_eq!(
        ask(Preconditions::Of(Validators { etag: None, ..both })),
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"
    );
    assert_eq!(ask(Preconditions::Of(Validators { last_modified: None, ..both })), "If-None-Match: W/\"a\"");
    assert_eq!(ask(Preconditions::None), "");
    assert_eq!(ask(Preconditions::Range), "If-Range: \"v\"|Range: bytes=0-1");
    assert_eq!(ask(Preconditions::Rest { from: 5, etag: Some(b"\"a\"") }), "Range: bytes=5-|If-Range: \"a\"");
    assert_eq!(
        ask(Preconditions::Viewer),
        "If-None-Match: \"v\"|If-Modified-Since: x|If-Match: *|If-Unmodified-Since: x|If-Range: \"v\"|Range: bytes=0-1"
    );
}

#[test]
fn length_is_kept_and_via_grows() {
    let text = written(
        "PUT / HTTP/1.1\nHost: a\nVia: 1.0 first\nContent-Length: 0\n\n",
        &STRANGER,
        &[("name", "edge-1")],
    );
    assert!(text.contains("\nVia: 1.0 first\n") && text.contains("\nVia: 1.1 edge-1\n"), "{text}");
    assert!(text.ends_with("\nContent-Length: 0\n\n"));
    assert!(written("GET / HTTP/1.0\nHost: a\n\n", &STRANGER, &[]).contains("\nVia: 1.0 aspis\n"));
}

/// D-17, and the three ways of --origin-host.
#[test]
fn host_and_prefix_are_the_operators_choice() {
    let request = "GET /x HTTP/1.1\nHost: www.example\n\n";
    let start = |flags: &[(&str, &str)]| {
        written(request, &STRANGER, flags).lines().take(2).collect::<Vec<_>>().join("|")
    };
    assert_eq!(start(&[("origin", "http://o/production/")]), "GET /production/x HTTP/1.1|Host: www.example");
    assert_eq!(start(&[("origin-host", "origin")]), "GET /x HTTP/1.1|Host: origin.example:8000");
    assert_eq!(start(&[("origin-host", "b.example")]), "GET /x HTTP/1.1|Host: b.example");
    let old = written("GET /x HTTP/1.0\n\n", &STRANGER, &[]);
    assert!(old.contains("\nHost: origin.example:8000\n") && !old.contains("X-Forwarded-Host"));
    let star = written("OPTIONS * HTTP/1.1\nHost: a\n\n", &STRANGER, &[("origin", "http://o/p")]);
    assert!(star.starts_with("OPTIONS * HTTP/1.1\n"));
}

/// RFC 9110 §7.8.
#[test]
fn upgrade_is_passed_on_when_asked_for() {
    let text = written(
        "GET /ws HTTP/1.1\nHost: a\nConnection: keep-alive, Upgrade\nUpgrade: websocket\nSec-WebSocket-Key: x\n\n",
        &STRANGER,
        &[],
    );
    assert!(
        text.contains("\nConnection: upgrade\nUpgrade: websocket\n")
            && text.contains("\nSec-WebSocket-Key: x\n")
    );
    assert!(
        !written("GET /ws HTTP/1.1\nHost: a\nUpgrade: websocket\n\n", &STRANGER, &[]).contains("Upgrade")
    );
}

proptest! {
    /// Parse and send are inverse: method, target and end-to-end fields come back, in order.
    #[test]
    fn what_is_written_parses_to_the_same_request(
        method in prop_oneof![Just("GET"), Just("POST"), Just("DELETE"), Just("M-SEARCH")],
        path in "/[!-~&&[^#]]{0,20}",
        sent in proptest::collection::vec(("X-[A-Za-z]{1,8}", "([!-~]([ -~]{0,10}[!-~])?)?"), 0..8),
        length in proptest::option::of(0_u64..1000),
    ) {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: a.example\r\n");
        for (name, value) in &sent {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length {
            request.push_str(&format!("Content-Length: {length}\r\n"));
        }
        request.push_str("\r\n");
        let mut slots = FieldSlots::new();
        let head = parse_request(request.as_bytes(), &mut slots, &HeadLimits::default());
        prop_assume!(head.is_ok());
        let head = head.unwrap().unwrap();
        let mut out = Vec::new();
        write(&head, &STRANGER, &behavior(&[]), &mut out);
        let mut again = FieldSlots::new();
        let back = parse_request(&out, &mut again, &HeadLimits::default()).unwrap().unwrap();
        prop_assert_eq!(back.method, Method::from_text(method));
        prop_assert_eq!(back.path_and_query, head.path_and_query);
        prop_assert_eq!(back.authority, "a.example");
        prop_assert_eq!(back.framing, head.framing);
        prop_assert_eq!(back.len, out.len());
        let own = |name: &str| sent.iter().any(|(given, _)| given == name);
        let came: Vec<_> = back.fields.iter().filter(|field| own(field.name)).map(|field| (field.name.to_string(), field.value.to_vec())).collect();
        let expected: Vec<_> = sent.iter().filter(|(name, _)| !speaks_for_a_proxy(name)).map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect();
        prop_assert_eq!(came, expected);
    }
}
