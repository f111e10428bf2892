//! Web-cache poisoning and deception: what one viewer sends must not choose what another gets.
//!
//! Two promises: whatever the origin can see of a request and the key does not show stays away from the origin or from the cache; and
//! targets that differ in a byte never share a key.
#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic names the line that is wrong")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use aspis_config::{Behavior, Raw, check};
use aspis_exchange::origin_request;
use aspis_exchange::{Action, Event, Exchange, Forward, ForwardReason, Now, ViewerFacts};
use aspis_wire::request::parse_request;
use aspis_wire::{FieldSlots, HeadLimits, Scheme};

const STRANGER: ViewerFacts =
    ViewerFacts { scheme: Scheme::Http, address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), trusted: false };
const PROXY: ViewerFacts = ViewerFacts { trusted: true, ..STRANGER };
const NOW: Now = Now { wall: 1_700_000_000, millis: 0 };

/// What becomes of a request: its key if the cache is asked, the machine's action, and the head that the origin would get.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    key: Option<Vec<u8>>,
    action: Action,
    origin: String,
}

impl Seen {
    fn is_stored(&self) -> bool {
        matches!(self.action, Action::Lookup { .. } | Action::Forward(Forward { may_store: true, .. }))
    }
}

/// `None` where the request is refused before anything is decided about it.
fn seen_by(viewer: &ViewerFacts, request: &str) -> Option<Seen> {
    let mut raw = Raw::default();
    raw.push("origin", "http://origin.example");
    let behavior = Behavior::from(&check(&raw).unwrap());
    let request = request.replace('\n', "\r\n");
    let mut slots = FieldSlots::new();
    let head = parse_request(request.as_bytes(), &mut slots, &HeadLimits::default()).ok()?.unwrap();
    let mut key = Vec::new();
    let event = Event::Request { head: &head, viewer, key_buffer: &mut key };
    let action = Exchange::new().step(&behavior, event, NOW);
    let mut origin = Vec::new();
    origin_request::write(&head, viewer, &behavior, &mut origin);
    let key = matches!(action, Action::Lookup { .. }).then_some(key);
    Some(Seen { key, action, origin: String::from_utf8(origin).unwrap() })
}

fn seen(request: &str) -> Option<Seen> {
    seen_by(&STRANGER, request)
}

/// H-12: fields that frameworks build links, routes or the scheme from.
#[test]
fn unkeyed_fields_that_speak_for_a_proxy_do_not_reach_the_origin() {
    let plain = seen("GET /x HTTP/1.1\nHost: a.example\n\n").unwrap();
    for field in [
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Host: a.example\nX-Forwarded-Host: evil.example",
        "x-forwarded-host: evil.example",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Scheme: http",
        "X-Forwarded-Port: 8443",
        "X-Forwarded-Server: evil.example",
        "X-Forwarded-Prefix: /evil",
        "X-Forwarded-Ssl: on",
        "Forwarded: for=192.0.2.9;host=evil.example;proto=https",
        "X-Original-URL: /admin",
        "X-Rewrite-URL: /admin",
        "X-Real-IP: 127.0.0.1",
        "Proxy-Authorization: Basic eDp5",
        "Connection: X-Trace\nX-Trace: 1",
        "Keep-Alive: timeout=5",
        "TE: trailers",
    ] {
        let with = seen(&format!("GET /x HTTP/1.1\nHost: a.example\n{field}\n\n")).unwrap();
        assert_eq!(with, plain, "{field}");
    }
}

/// The address chain is the one field of a stranger's that goes on; it is appended to, so the origin knows who was last.
#[test]
fn viewer_cannot_hide_behind_a_chain_of_addresses() {
    let with = seen("GET /x HTTP/1.1\nHost: a.example\nX-Forwarded-For: 127.0.0.1\n\n").unwrap();
    assert!(with.origin.contains("X-Forwarded-For: 127.0.0.1,192.0.2.1\r\n"), "{}", with.origin);
}

/// What a trusted proxy says is seen by the origin, so it is in the key.
#[test]
fn what_a_trusted_proxy_says_selects_the_key() {
    let keys: BTreeSet<_> =
        ["", "X-Forwarded-Host: b.example\n", "X-Forwarded-Host: c.example\n", "X-Forwarded-Proto: https\n"]
            .iter()
            .map(|field| {
                seen_by(&PROXY, &format!("GET /x HTTP/1.1\nHost: a.example\n{field}\n")).unwrap().key.unwrap()
            })
            .collect();
    assert_eq!(keys.len(), 4);
}

/// RFC 9112 §3.2: one host decides, and the origin is told the same that the key shows.
#[test]
fn host_of_key_and_origin_is_one() {
    let host = |seen: &Seen| {
        let line =
            seen.origin.lines().find_map(|line| line.strip_prefix("X-Forwarded-Host: ")).unwrap().to_string();
        (String::from_utf8(seen.key.clone().unwrap()).unwrap(), line)
    };
    let (key, told) = host(&seen("GET http://a.example/x HTTP/1.1\nHost: evil.example\n\n").unwrap());
    assert_eq!((&*key, &*told), ("http\na.example\n/x", "a.example"));
    let (other, _) = host(&seen("GET /x HTTP/1.1\nHost: evil.example\n\n").unwrap());
    assert_ne!(key, other);
    for refused in [
        "GET /x HTTP/1.1\nHost: a.example\nHost: evil.example\n\n",
        "GET /x HTTP/1.1\nHost: a.example, evil.example\n\n",
        "GET /x HTTP/1.1\nHost: a.example/evil\n\n",
        "GET /x HTTP/1.1\nHost: user@a.example\n\n",
        "GET /x HTTP/1.1\nHost : evil.example\nHost: a.example\n\n",
        "GET /x HTTP/1.1\n Host: evil.example\nHost: a.example\n\n",
    ] {
        assert_eq!(seen(refused), None, "{refused}");
    }
}

/// A request whose content or fields may choose the answer passes the cache by.
#[test]
fn requests_that_the_key_cannot_show_pass_the_cache() {
    for (request, reason) in [
        ("GET /x HTTP/1.1\nHost: a\nContent-Length: 3\n\n", ForwardReason::Bypass),
        ("GET /x HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n", ForwardReason::Bypass),
        ("HEAD /x HTTP/1.1\nHost: a\nContent-Length: 3\n\n", ForwardReason::Bypass),
        ("GET /x HTTP/1.1\nHost: a\nX-HTTP-Method-Override: POST\n\n", ForwardReason::Bypass),
        ("GET /x HTTP/1.1\nHost: a\nX-HTTP-Method: PUT\n\n", ForwardReason::Bypass),
        ("GET /x HTTP/1.1\nHost: a\nX-Method-Override: DELETE\n\n", ForwardReason::Bypass),
        ("GET /x HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket\n\n", ForwardReason::Bypass),
        ("POST /x HTTP/1.1\nHost: a\nContent-Length: 3\n\n", ForwardReason::Method),
    ] {
        let seen = seen(request).unwrap();
        assert!(seen.key.is_none() && !seen.is_stored(), "{request}");
        assert!(
            matches!(seen.action, Action::Forward(forward) if forward.reason == reason),
            "{request} {:?}",
            seen.action
        );
    }
    assert_eq!(seen("GET /x HTTP/1.1\nHost: a\nContent-Length: 3\nTransfer-Encoding: chunked\n\n"), None);
}

/// Path confusion: what an origin may take for the same page is another resource here, and goes on byte for byte. So nobody is
/// served a private page that was stored under a public-looking name, unless the origin itself says that the page may be stored.
#[test]
fn targets_that_differ_in_a_byte_never_share_a_key() {
    let targets = [
        "/account",
        "/account/",
        "//account",
        "/account//",
        "/./account",
        "/account/.",
        "/account/x.css",
        "/account%2fx.css",
        "/account%2Fx.css",
        "/account;x.css",
        "/account;x=.css",
        "/account%3bx.css",
        "/account%3Bx.css",
        "/account%3fx.css",
        "/account%3Fx.css",
        "/account?x.css",
        "/account%23x.css",
        "/account%00x.css",
        "/account%00",
        "/account%0ax.css",
        "/account%0d%0ax.css",
        "/account%09",
        "/account%20",
        "/account%5cx.css",
        "/account/%2e%2e/x.css",
        "/account/%2E%2E/x.css",
        "/account/../x.css",
        "/account/..%2fx.css",
        "/x.css",
        "/account/..;/x.css",
        "/static/../account",
        "/static/%2e%2e/account",
        "/static/..%2faccount",
        "/static%2f..%2faccount",
        "/%61ccount",
        "/Account",
        "/ACCOUNT",
        "/account.css",
        "/account,x.css",
        "/account!x.css",
        "/account~x.css",
        "/account:x.css",
        "/account@x.css",
        "/account?",
        "/account?a=1&b=2",
        "/account?b=2&a=1",
        "/account?a=1;b=2",
        "/account?a=1&a=1",
        "/account?a=%31&b=2",
        "/account?utm_source=x",
        "/account?A=1&b=2",
        "/account??",
        "/account?/",
        "/account?x.css/",
        "/%2561ccount",
        "/account%252fx.css",
        "/account%c0%afx.css",
    ];
    let mut keys = BTreeSet::new();
    for target in targets {
        let seen = seen(&format!("GET {target} HTTP/1.1\nHost: a.example\n\n"))
            .unwrap_or_else(|| panic!("{target} is refused"));
        assert!(
            seen.origin.starts_with(&format!("GET {target} HTTP/1.1\r\n")),
            "{target} goes on as it came: {}",
            seen.origin
        );
        assert!(seen.key.as_ref().unwrap().ends_with(target.as_bytes()), "{target}");
        assert!(keys.insert(seen.key), "{target} shares a key");
    }
    assert_eq!(keys.len(), targets.len());
}

/// Bytes that separate the parts of a request, a key or a URL are refused where they stand bare.
#[test]
fn bare_delimiters_in_targets_are_refused() {
    for target in ["/a#b", "/a b", "/a\tb", "/a\rb", "/a\0b", "/a\x7fb", "a/b", "http:///x", "//\n/x"] {
        assert_eq!(seen(&format!("GET {target} HTTP/1.1\nHost: a.example\n\n")), None, "{target:?}");
    }
}

/// The parts of a key cannot be moved into each other.
#[test]
fn parts_of_a_key_do_not_run_together() {
    let keys: BTreeSet<_> = [
        "GET /b HTTP/1.1\nHost: a\n\n",
        "GET /a/b HTTP/1.1\nHost: a\n\n",
        "GET /b HTTP/1.1\nHost: a:8080\n\n",
        "GET /:8080/b HTTP/1.1\nHost: a\n\n",
        "GET /b%0aaccept-encoding HTTP/1.1\nHost: a\n\n",
        "GET /b%0a%0a HTTP/1.1\nHost: a\n\n",
    ]
    .iter()
    .map(|request| seen(request).unwrap().key.unwrap())
    .collect();
    assert_eq!(keys.len(), 6);
    assert!(
        keys.iter().all(|key| key.iter().filter(|byte| **byte == b'\n').count() == 2),
        "two separators each"
    );
}
