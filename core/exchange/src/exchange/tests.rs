use std::net::IpAddr;

use aspis_config::{Raw, check};
use aspis_wire::request::parse_request;
use aspis_wire::response::parse_response;
use aspis_wire::{FieldSlots, HeadLimits, Scheme};
use proptest::prelude::*;

use super::*;

const VIEWER: ViewerFacts =
    ViewerFacts { scheme: Scheme::Http, address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), trusted: false };
const NOW: Now = Now { wall: 1000, millis: 0 };
const META: StoredMeta =
    StoredMeta { generated_at: 990, received_at: 990, initial_age: 5, lifetime: 60, ..StoredMeta::PLAIN };
const FRESH: &str = "HTTP/1.1 200 OK\nCache-Control: max-age=60\nContent-Length: 5\n\n";

fn behavior(flags: &[(&str, &str)]) -> Behavior {
    let mut raw: Raw = flags.iter().copied().collect();
    raw.push("origin", "http://origin.example");
    Behavior::from(&check(&raw).unwrap())
}

/// An exchange, its settings and the method of its request.
struct Run {
    exchange: Exchange,
    behavior: Behavior,
    key: Vec<u8>,
    method: String,
}

impl Run {
    fn new(flags: &[(&str, &str)]) -> Self {
        Self { exchange: Exchange::new(), behavior: behavior(flags), key: Vec::new(), method: String::new() }
    }

    fn request(&mut self, text: &str) -> Action {
        let text = text.replace('\n', "\r\n");
        self.method = text.split(' ').next().unwrap().to_string();
        let mut slots = FieldSlots::new();
        let head = parse_request(text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
        let event = Event::Request { head: &head, viewer: &VIEWER, key_buffer: &mut self.key };
        self.exchange.step(&self.behavior, event, NOW)
    }

    fn origin(&mut self, text: &str, wall: u64) -> Action {
        let text = text.replace('\n', "\r\n");
        let mut slots = FieldSlots::new();
        let method = Method::from_text(&self.method);
        let head =
            parse_response(text.as_bytes(), &mut slots, &HeadLimits::default(), method).unwrap().unwrap();
        self.exchange.step(&self.behavior, Event::OriginHead { head: &head }, Now { wall, ..NOW })
    }

    fn step(&mut self, event: Event<'_>) -> Action {
        self.exchange.step(&self.behavior, event, NOW)
    }
}

fn get() -> Run {
    let mut run = Run::new(&[]);
    let Action::Lookup { hash: hashed } = run.request("GET /x HTTP/1.1\nHost: A\n\n") else {
        panic!("the cache is asked")
    };
    assert_eq!(run.key, b"http\na\n/x");
    assert_eq!(hashed, hash(&run.key));
    run
}

#[test]
fn a_fresh_hit_is_answered_from_the_cache() {
    let mut run = get();
    assert_eq!(run.step(Event::Found(&META)), Action::RespondStored { age: 15, ttl: 45, send_body: true });
    assert_eq!((run.exchange.result(), run.exchange.status()), (ResultType::Hit, 200));
    assert_eq!(run.exchange.forward_reason(), None);
}

/// RFC 9111 §4, T-25: HEAD from a stored GET.
#[test]
fn head_is_answered_from_a_stored_get_and_shares_its_key() {
    let mut run = Run::new(&[]);
    assert!(matches!(run.request("HEAD /x HTTP/1.1\nHost: a\n\n"), Action::Lookup { .. }));
    assert_eq!(run.key, get().key);
    assert_eq!(run.step(Event::Found(&META)), Action::RespondStored { age: 15, ttl: 45, send_body: false });
}

#[test]
fn a_miss_is_forwarded_and_stored() {
    let mut run = get();
    let forward = Forward { reason: ForwardReason::UriMiss, may_store: true, upgrade: false };
    assert_eq!(run.step(Event::NotFound), Action::Forward(forward));
    let Action::RespondOrigin { store: Some(meta), body: true, invalidate: false } = run.origin(FRESH, 1003)
    else {
        panic!("stored")
    };
    // Rule 6: the three seconds between request and answer count as age.
    assert_eq!((meta.received_at, meta.initial_age, meta.lifetime), (1003, 3, 60));
    assert_eq!((run.exchange.result(), run.exchange.status()), (ResultType::Miss, 200));
    assert_eq!(
        (run.exchange.forward_reason(), run.exchange.not_stored()),
        (Some(ForwardReason::UriMiss), None)
    );
}

#[test]
fn a_stale_response_is_never_served() {
    let mut run = get();
    let stale = StoredMeta { lifetime: 15, ..META };
    let Action::Forward(forward) = run.step(Event::Found(&stale)) else { panic!("forwarded") };
    assert_eq!((forward.reason, forward.may_store), (ForwardReason::Stale, true));
}

#[test]
fn requests_that_the_cache_cannot_answer_bypass_it() {
    for (request, reason) in [
        ("GET / HTTP/1.1\nHost: a\nRange: bytes=0-0\n\n", ForwardReason::Bypass),
        ("GET / HTTP/1.1\nHost: a\nIf-None-Match: \"a\"\n\n", ForwardReason::Bypass),
        ("GET / HTTP/1.1\nHost: a\nContent-Length: 3\n\n", ForwardReason::Bypass),
        ("POST / HTTP/1.1\nHost: a\nContent-Length: 3\n\n", ForwardReason::Method),
        ("OPTIONS * HTTP/1.1\nHost: a\n\n", ForwardReason::Method),
        ("PROPFIND / HTTP/1.1\nHost: a\n\n", ForwardReason::Method),
    ] {
        let mut run = Run::new(&[]);
        let expected = Action::Forward(Forward { reason, may_store: false, upgrade: false });
        assert_eq!(run.request(request), expected, "{request}");
        let Action::RespondOrigin { store, .. } = run.origin(FRESH, 1000) else { panic!("{request}") };
        assert_eq!((store, run.exchange.not_stored()), (None, Some(NotStored::Request)), "{request}");
    }
}

/// A HEAD answer has no body to keep.
#[test]
fn a_head_response_is_never_stored() {
    let mut run = Run::new(&[]);
    run.request("HEAD / HTTP/1.1\nHost: a\n\n");
    run.step(Event::NotFound);
    let answer = run.origin(FRESH, 1000);
    assert_eq!(answer, Action::RespondOrigin { store: None, body: false, invalidate: false });
}

/// Rule 16.
#[test]
fn unsafe_methods_invalidate_unless_they_failed() {
    for (method, status, expected) in [
        ("POST", "200 OK", true),
        ("DELETE", "204 No Content", true),
        ("PROPFIND", "207 x", true),
        ("PUT", "301 x", true),
        ("POST", "400 x", false),
        ("POST", "500 x", false),
        ("OPTIONS", "200 x", false),
        ("GET", "200 x", false),
    ] {
        let mut run = Run::new(&[]);
        if matches!(run.request(&format!("{method} / HTTP/1.1\nHost: a\n\n")), Action::Lookup { .. }) {
            run.step(Event::NotFound);
        }
        let Action::RespondOrigin { invalidate, .. } =
            run.origin(&format!("HTTP/1.1 {status}\nContent-Length: 0\n\n"), 1000)
        else {
            panic!("{method}")
        };
        assert_eq!(invalidate, expected, "{method} {status}");
    }
}

/// H-17, H-18, H-19 and RFC 9110 §15.6.2.
#[test]
fn refusals_come_before_anything_else() {
    let cloudfront: &[(&str, &str)] = &[("semantics", "cloudfront")];
    let small: &[(&str, &str)] = &[("request-body-max", "10B")];
    for (flags, request, status) in [
        (&[][..], "CONNECT a:443 HTTP/1.1\nHost: a:443\n\n", 501),
        (&[], "TRACE / HTTP/1.1\nHost: a\n\n", 501),
        (cloudfront, "CONNECT a:443 HTTP/1.1\nHost: a:443\n\n", 403),
        (cloudfront, "TRACE / HTTP/1.1\nHost: a\n\n", 403),
        (cloudfront, "PROPFIND / HTTP/1.1\nHost: a\n\n", 403),
        (cloudfront, "GET / HTTP/1.1\nHost: a\nContent-Length: 1\n\n", 403),
        (cloudfront, "GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n", 403),
        (small, "POST / HTTP/1.1\nHost: a\nContent-Length: 11\n\n", 413),
    ] {
        let mut run = Run::new(flags);
        assert_eq!(run.request(request), Action::Refuse { status }, "{request}");
        assert_eq!((run.exchange.result(), run.exchange.status()), (ResultType::Error, status));
        assert_eq!(run.exchange.forward_reason(), None);
    }
    let mut run = Run::new(small);
    assert!(matches!(run.request("POST / HTTP/1.1\nHost: a\nContent-Length: 10\n\n"), Action::Forward(_)));
}

/// H-25, H-2.
#[test]
fn a_failed_origin_is_an_error() {
    for (failure, status) in
        [(OriginFailure::Refused, 502), (OriginFailure::ReadTimeout, 504), (OriginFailure::Overloaded, 503)]
    {
        let mut run = get();
        run.step(Event::NotFound);
        assert_eq!(run.step(Event::OriginFailed(failure)), Action::Refuse { status });
        assert_eq!((run.exchange.result(), run.exchange.status()), (ResultType::Error, status));
        assert_eq!(run.exchange.forward_reason(), Some(ForwardReason::UriMiss));
    }
    let mut run = get();
    run.step(Event::NotFound);
    run.origin("HTTP/1.1 404 Not Found\nContent-Length: 0\n\n", 1000);
    assert_eq!((run.exchange.result(), run.exchange.status()), (ResultType::Error, 404));
}

#[test]
fn a_body_that_breaks_is_cut_and_logged_as_an_error() {
    let mut run = get();
    run.step(Event::NotFound);
    run.origin(FRESH, 1000);
    assert_eq!(run.step(Event::OriginBodyFailed(OriginFailure::Truncated)), Action::Cut);
    assert_eq!((run.exchange.result(), run.exchange.status()), (ResultType::Error, 200));
}

/// RFC 9110 §7.8.
#[test]
fn only_an_asked_for_upgrade_becomes_a_tunnel() {
    let switching = "HTTP/1.1 101 Switching Protocols\nConnection: upgrade\nUpgrade: websocket\n\n";
    let mut run = Run::new(&[]);
    let action = run.request("GET /ws HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket\n\n");
    let forward = Forward { reason: ForwardReason::Bypass, may_store: false, upgrade: true };
    assert_eq!(action, Action::Forward(forward));
    assert_eq!(run.origin(switching, 1000), Action::Tunnel);
    assert_eq!((run.exchange.result(), run.exchange.status()), (ResultType::Miss, 101));
    let mut run = get();
    run.step(Event::NotFound);
    assert_eq!(run.origin(switching, 1000), Action::Refuse { status: 502 });
}

#[test]
fn events_out_of_order_change_nothing() {
    let mut run = Run::new(&[]);
    assert_eq!(run.step(Event::NotFound), Action::OutOfOrder);
    assert_eq!(run.step(Event::Found(&META)), Action::OutOfOrder);
    let mut run = get();
    assert_eq!(run.origin(FRESH, 1000), Action::OutOfOrder);
    assert_eq!(run.step(Event::OriginFailed(OriginFailure::Reset)), Action::OutOfOrder);
    assert!(matches!(run.step(Event::Found(&META)), Action::RespondStored { .. }));
    assert_eq!(run.step(Event::Found(&META)), Action::OutOfOrder);
    assert_eq!((run.exchange.result(), run.exchange.status()), (ResultType::Hit, 200));
}

proptest! {
    /// Whatever the driver does, an exchange answers at most once, and a stored response is only served while fresh.
    #[test]
    fn any_order_of_events_gives_at_most_one_answer(events in proptest::collection::vec(0_u8..6, 0..12), age in 0_u32..100) {
        let mut run = Run::new(&[]);
        let meta = StoredMeta { initial_age: age, ..META };
        let mut answers = 0;
        for event in events {
            let action = match event {
                0 => run.request("GET /x HTTP/1.1\nHost: a\n\n"),
                1 => run.step(Event::Found(&meta)),
                2 => run.step(Event::NotFound),
                3 if run.method.is_empty() => continue,
                3 => run.origin(FRESH, 1000),
                4 => run.step(Event::OriginFailed(OriginFailure::Reset)),
                _ => run.step(Event::OriginBodyFailed(OriginFailure::Truncated)),
            };
            if let Action::RespondStored { age, .. } = action {
                prop_assert!(age < meta.lifetime);
            }
            let answered = matches!(action, Action::RespondStored { .. } | Action::RespondOrigin { .. } | Action::Refuse { .. });
            answers += u32::from(answered);
        }
        prop_assert!(answers <= 1);
        prop_assert_eq!(run.exchange.status() != 0, answers == 1);
    }
}
