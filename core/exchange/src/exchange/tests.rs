use std::net::IpAddr;

use aspis_config::{Raw, check};
use aspis_wire::request::parse_request;
use aspis_wire::response::parse_response;
use aspis_wire::{FieldSlots, HeadLimits, Method, Scheme};
use proptest::prelude::*;

use super::*;
use crate::failure::OriginFailure;
use aspis_cache::stored::{Part, StaleIfError, StoredMeta};

mod ranges;

const VIEWER: ViewerFacts =
    ViewerFacts { scheme: Scheme::Http, address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), trusted: false };
pub(super) const NOW: Now = at(1000);

const fn at(wall: u64) -> Now {
    Now { wall, millis: wall * 1000 }
}

pub(super) const META: StoredMeta =
    StoredMeta { generated_at: 990, received_at: 990, initial_age: 5, lifetime: 60, ..StoredMeta::PLAIN };
/// Stale since this second.
const STALE: StoredMeta = StoredMeta { lifetime: 15, ..META };
const FRESH: &str = "HTTP/1.1 200 OK\nCache-Control: max-age=60\nContent-Length: 5\n\n";

fn behavior(flags: &[(&str, &str)]) -> Behavior {
    let mut raw: Raw = flags.iter().copied().collect();
    raw.push("origin", "http://origin.example");
    Behavior::from(&check(&raw).unwrap())
}

/// A stored head with validators, as the driver would have made it.
pub(super) const STORED_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\nLast-Modified: Thu, 01 Jan 1970 00:15:00 GMT\r\n\
    Cache-Control: max-age=60\r\nDate: Thu, 01 Jan 1970 00:16:30 GMT\r\nVia: 1.1 aspis\r\nX-Cache: Hit from aspis\r\n\
    Cache-Status: aspis; hit; ttl=";

/// An exchange, its settings and its request.
pub(super) struct Run {
    pub(super) exchange: Exchange,
    pub(super) behavior: Behavior,
    pub(super) key: Vec<u8>,
    text: String,
    method: String,
    /// What the origin's answers are held against.
    stored: Option<StoredMeta>,
    stored_head: Vec<u8>,
}

impl Run {
    pub(super) fn new(flags: &[(&str, &str)]) -> Self {
        Self {
            exchange: Exchange::new(),
            behavior: behavior(flags),
            key: Vec::new(),
            text: "GET /x HTTP/1.1\r\nHost: a\r\n\r\n".to_string(),
            method: String::new(),
            stored: None,
            stored_head: STORED_HEAD.to_vec(),
        }
    }

    pub(super) fn request(&mut self, text: &str) -> Action {
        let text = text.replace('\n', "\r\n");
        self.method = text.split(' ').next().unwrap().to_string();
        self.text = text;
        let mut slots = FieldSlots::new();
        let head = parse_request(self.text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
        let event = Event::Request { head: &head, viewer: &VIEWER, key_buffer: &mut self.key };
        self.exchange.step(&self.behavior, event, NOW)
    }

    fn found(&mut self, meta: &StoredMeta) -> Action {
        self.found_at(meta, NOW.wall)
    }

    fn found_at(&mut self, meta: &StoredMeta, wall: u64) -> Action {
        self.stored = Some(*meta);
        let mut slots = FieldSlots::new();
        let head = parse_request(self.text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
        let stored = Stored { meta, head: &self.stored_head, len: 100, fresh_until: u64::MAX };
        self.exchange.step(&self.behavior, Event::Found { stored, head: &head }, at(wall))
    }

    fn varies(&mut self, names: &str) -> Action {
        let mut slots = FieldSlots::new();
        let head = parse_request(self.text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
        let event = Event::Varies { names, head: &head, key_buffer: &mut self.key };
        self.exchange.step(&self.behavior, event, NOW)
    }

    fn origin(&mut self, text: &str, wall: u64) -> Action {
        self.origin_at(text, at(wall))
    }

    fn origin_at(&mut self, text: &str, now: Now) -> Action {
        let text = text.replace('\n', "\r\n");
        let (mut slots, mut request_slots) = (FieldSlots::new(), FieldSlots::new());
        let limits = HeadLimits::default();
        let request = parse_request(self.text.as_bytes(), &mut request_slots, &limits).unwrap().unwrap();
        let method = Method::from_text(&self.method);
        let head = parse_response(text.as_bytes(), &mut slots, &limits, method).unwrap().unwrap();
        let stored = self.stored.as_ref().map(|meta| Stored {
            meta,
            head: &self.stored_head,
            len: 100,
            fresh_until: u64::MAX,
        });
        let event = Event::OriginHead { head: &head, request: &request, stored };
        self.exchange.step(&self.behavior, event, now)
    }

    fn fails(&mut self, failure: OriginFailure) -> Action {
        let mut slots = FieldSlots::new();
        let request =
            parse_request(self.text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
        let stored = self.stored.as_ref().map(|meta| Stored {
            meta,
            head: &self.stored_head,
            len: 100,
            fresh_until: u64::MAX,
        });
        let event = Event::OriginFailed { failure, role: Role::Lead, request: &request, stored };
        self.exchange.step(&self.behavior, event, NOW)
    }

    pub(super) fn arrives(&mut self, arriving: Arriving<'_>, role: Role) -> Action {
        let mut slots = FieldSlots::new();
        let request =
            parse_request(self.text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
        let event = Event::Arrived { arriving, role, request: &request, key_buffer: &mut self.key };
        self.exchange.step(&self.behavior, event, NOW)
    }

    pub(super) fn errs(&mut self, status: u16) -> Action {
        let mut slots = FieldSlots::new();
        let request =
            parse_request(self.text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
        let stored = self.stored.as_ref().map(|meta| Stored {
            meta,
            head: &self.stored_head,
            len: 100,
            fresh_until: u64::MAX,
        });
        self.exchange.step(
            &self.behavior,
            Event::OriginErred { status, role: Role::Collapsed, request: &request, stored },
            NOW,
        )
    }

    pub(super) fn step(&mut self, event: Event<'_>) -> Action {
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
    assert_eq!(run.found(&META), Action::RespondStored { age: 15, ttl: 45, send_body: true });
    assert_eq!((run.exchange.result(), run.exchange.status()), (ResultType::Hit, 200));
    assert_eq!(run.exchange.forward_reason(), None);
}

/// RFC 9111 §4, T-25: HEAD from a stored GET.
#[test]
fn head_is_answered_from_a_stored_get_and_shares_its_key() {
    let mut run = Run::new(&[]);
    assert!(matches!(run.request("HEAD /x HTTP/1.1\nHost: a\n\n"), Action::Lookup { .. }));
    assert_eq!(run.key, get().key);
    assert_eq!(run.found(&META), Action::RespondStored { age: 15, ttl: 45, send_body: false });
}

#[test]
fn a_miss_is_forwarded_and_stored() {
    let mut run = get();
    let forward = Forward {
        reason: ForwardReason::UriMiss,
        may_store: true,
        upgrade: false,
        conditions: Conditions::Viewer,
        collapsing: Collapsing::LeadOrFollow,
    };
    assert_eq!(run.step(Event::NotFound), Action::Forward(forward));
    let Action::RespondOrigin { store: Some(meta), content: Content::Follows, invalidate: false, .. } =
        run.origin(FRESH, 1003)
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

/// RFC 9111 §4.2.3: a response that is answered at once is fresh for its second, also where the clock ticks meanwhile.
#[test]
fn a_lifetime_of_a_second_survives_the_tick() {
    let mut run = get();
    run.step(Event::NotFound);
    let date = "Date: Thu, 01 Jan 1970 00:16:40 GMT";
    let head = format!("HTTP/1.1 200 OK\n{date}\nCache-Control: max-age=1\nContent-Length: 5\n\n");
    let soon = Now { wall: NOW.wall + 1, millis: NOW.millis + 20 };
    let Action::RespondOrigin { store: Some(meta), .. } = run.origin_at(&head, soon) else {
        panic!("stored")
    };
    assert_eq!((meta.initial_age, meta.is_fresh(soon.wall), meta.is_fresh(soon.wall + 1)), (0, true, false));
    // A second later it is too old when it comes.
    let mut run = get();
    run.step(Event::NotFound);
    let late = Now { wall: NOW.wall + 1, millis: NOW.millis + 1000 };
    assert!(matches!(run.origin_at(&head, late), Action::RespondOrigin { store: None, .. }));
}

/// RFC 9111 §4.3.1, rule 13.
#[test]
fn a_stale_response_is_validated() {
    let mut run = get();
    let Action::Forward(forward) = run.found(&STALE) else { panic!("forwarded") };
    assert_eq!((forward.reason, forward.may_store), (ForwardReason::Stale, true));
    assert_eq!(forward.conditions, Conditions::Stored);
    let Action::Freshen { store: Some(meta), answer } =
        run.origin("HTTP/1.1 304 x\nETag: \"a\"\nCache-Control: max-age=9\nB: 2\n\n", 1002)
    else {
        panic!("freshened")
    };
    assert_eq!((meta.status, meta.lifetime, meta.received_at), (200, 9, 1002));
    assert_eq!((answer.kind, run.exchange.result()), (AnswerKind::Whole, ResultType::RefreshHit));
    // A response without validators is fetched whole.
    let mut run = get();
    run.stored_head = b"HTTP/1.1 200 OK\r\nA: b\r\nVia: x\r\nX-Cache: y\r\n".to_vec();
    let Action::Forward(forward) = run.found(&STALE) else { panic!("forwarded") };
    assert_eq!(forward.conditions, Conditions::Viewer);
}

/// RFC 9111 §4.3.4, rule 13: a 304 about another strong ETag updates nothing.
#[test]
fn a_304_about_another_representation_is_asked_again() {
    let mut run = get();
    run.found(&STALE);
    let Action::Forward(again) = run.origin("HTTP/1.1 304 x\nETag: \"b\"\n\n", 1000) else { panic!("again") };
    assert_eq!((again.conditions, again.may_store), (Conditions::None, true));
    assert!(matches!(run.origin(FRESH, 1001), Action::RespondOrigin { store: Some(_), .. }));
    // One that varies otherwise is used once and not kept.
    let mut run = get();
    run.found(&STALE);
    let action = run.origin("HTTP/1.1 304 x\nVary: B\nCache-Control: max-age=9\n\n", 1000);
    assert!(matches!(action, Action::Freshen { store: None, .. }));
}

/// Rule 15: served stale when the origin fails, unless forbidden; then an error.
#[test]
fn stale_is_served_on_error_where_it_may_be() {
    for (stale_if_error, served) in
        [(StaleIfError::Unstated, true), (StaleIfError::Forbidden, false), (StaleIfError::Within(1), false)]
    {
        let meta = StoredMeta { stale_if_error, lifetime: 10, ..STALE };
        let mut run = get();
        run.found(&meta);
        let failed = run.fails(OriginFailure::Refused);
        assert_eq!(matches!(failed, Action::Answer(_)), served, "{stale_if_error:?}");
        let mut run = get();
        run.found(&meta);
        let broken = run.origin("HTTP/1.1 503 x\nContent-Length: 0\n\n", 1000);
        assert_eq!(matches!(broken, Action::Answer(_)), served, "{stale_if_error:?}");
        assert_eq!(run.exchange.is_stale_on_error(), served);
    }
}

/// RFC 5861 §3, T-29: at once and with a refresh within the window; a HEAD is not.
#[test]
fn stale_is_served_while_it_is_refreshed() {
    let meta = StoredMeta { stale_while_revalidate: 5, ..STALE };
    let mut run = get();
    let Action::Answer(answer) = run.found(&meta) else { panic!("served") };
    assert_eq!((answer.kind, answer.refresh, answer.ttl), (AnswerKind::Whole, true, 0));
    assert_eq!(run.exchange.result(), ResultType::Hit);
    let mut run = get();
    assert!(matches!(run.found_at(&meta, 1005), Action::Forward(_)));
    let mut run = Run::new(&[]);
    run.request("HEAD /x HTTP/1.1\nHost: a\n\n");
    assert!(matches!(run.found(&meta), Action::Forward(_)));
}

/// RFC 9111 §5.2.1, T-18: only viewers who may ask are heard.
#[test]
fn request_directives_are_followed_where_the_operator_says_so() {
    let request = "GET /x HTTP/1.1\nHost: a\nCache-Control: no-cache\n\n";
    let ask = |flags: &[(&str, &str)]| {
        let mut run = Run::new(flags);
        run.request(request);
        run.found(&META)
    };
    assert!(matches!(ask(&[]), Action::RespondStored { .. }));
    assert!(matches!(ask(&[("request-directives", "10.0.0.0/8")]), Action::RespondStored { .. }));
    for value in ["on", "127.0.0.0/8"] {
        let Action::Forward(forward) = ask(&[("request-directives", value)]) else { panic!("{value}") };
        assert_eq!((forward.reason, forward.conditions), (ForwardReason::Request, Conditions::Stored));
    }
    // RFC 9111 §5.2.1.5.
    let mut run = Run::new(&[("request-directives", "on")]);
    run.request("GET /x HTTP/1.1\nHost: a\nCache-Control: no-store\n\n");
    let Action::Forward(forward) = run.found(&STALE) else { panic!("forwarded") };
    assert!(!forward.may_store);
    assert!(matches!(run.origin(FRESH, 1000), Action::RespondOrigin { store: None, .. }));
    let mut run = Run::new(&[("request-directives", "on")]);
    run.request("GET /x HTTP/1.1\nHost: a\nCache-Control: only-if-cached\n\n");
    assert_eq!(run.step(Event::NotFound), Action::Refuse { status: 504 });
}

/// RFC 9111 §5.2.1.7: before 504 the owner of the key is asked; who goes on without it is as if nothing was found.
#[test]
fn only_if_cached_asks_the_owner_of_the_key() {
    let asked = || {
        let mut run = Run::new(&[("request-directives", "on")]);
        run.request("GET /x HTTP/1.1\nHost: a\nCache-Control: only-if-cached\n\n");
        let Action::Forward(forward) = run.step(Event::NotHere) else { panic!("asked") };
        assert_eq!((forward.collapsing, forward.may_store), (Collapsing::OnlyStored, false));
        run
    };
    assert!(matches!(asked().found(&META), Action::RespondStored { .. } | Action::Answer(_)));
    assert_eq!(asked().found(&STALE), Action::Refuse { status: 504 });
    let mut run = asked();
    assert_eq!(run.step(Event::NotFound), Action::Refuse { status: 504 });
    assert_eq!(run.exchange.forward_reason(), None, "nothing was forwarded");
    let mut run = Run::new(&[]);
    run.request("GET /x HTTP/1.1\nHost: a\n\n");
    let Action::Forward(forward) = run.step(Event::NotHere) else { panic!("forwarded") };
    assert_eq!(forward.collapsing, Collapsing::LeadOrFollow);
    // RFC 9211 §2.2: what the owner has is a hit, without a word of forwarding.
    run.found(&META);
    assert_eq!((run.exchange.result(), run.exchange.forward_reason()), (ResultType::Hit, None));
}

/// RFC 9111 §4.1, rule 11.
#[test]
fn a_varying_uri_is_looked_up_by_its_variant() {
    let mut run = Run::new(&[]);
    run.request("GET /x HTTP/1.1\nHost: a\nFoo: 1\n\n");
    let primary = run.key.clone();
    let Action::Lookup { hash: hashed } = run.varies("foo") else { panic!("looked up") };
    assert!(run.key.starts_with(&primary) && run.key.len() > primary.len());
    assert_eq!(hashed, hash(&run.key));
    let Action::Forward(forward) = run.step(Event::NotFound) else { panic!("forwarded") };
    assert_eq!(forward.reason, ForwardReason::VaryMiss);
    assert_eq!(run.varies("foo"), Action::OutOfOrder);
}

/// Rule 9: a POST that names itself is kept for later GETs, if freshness is explicit.
#[test]
fn a_post_is_stored_only_if_it_names_its_own_uri() {
    for (fields, stored) in [
        ("Cache-Control: max-age=60\nContent-Location: /x\n", true),
        ("Cache-Control: max-age=60\nContent-Location: http://a/x\n", true),
        ("Cache-Control: max-age=60\nContent-Location: /y\n", false),
        ("Cache-Control: max-age=60\n", false),
        ("Content-Location: /x\nETag: \"a\"\n", false),
    ] {
        let mut run = Run::new(&[]);
        run.request("POST /x HTTP/1.1\nHost: a\nContent-Length: 0\n\n");
        let action = run.origin(&format!("HTTP/1.1 200 OK\n{fields}Content-Length: 1\n\n"), 1000);
        let Action::RespondOrigin { store, invalidate: true, .. } = action else { panic!("{fields}") };
        assert_eq!(store.is_some(), stored, "{fields}");
    }
}

/// RFC 9111 §4.3.5.
#[test]
fn the_answer_to_a_head_updates_or_removes_what_is_stored() {
    for (fields, expected) in [("ETag: \"a\"", "update"), ("ETag: \"b\"", "forget"), ("A: b", "keep")] {
        let mut run = Run::new(&[]);
        run.request("HEAD /x HTTP/1.1\nHost: a\n\n");
        run.found(&STALE);
        let action = run.origin(&format!("HTTP/1.1 200 OK\n{fields}\nCache-Control: max-age=5\n\n"), 1000);
        let Action::RespondOrigin { found, store: None, .. } = action else { panic!("{fields}") };
        let word = match found {
            FoundChange::Keep => "keep",
            FoundChange::Forget => "forget",
            FoundChange::Update(meta) if meta.lifetime == 5 => "update",
            FoundChange::Update(_) => "wrong",
        };
        assert_eq!(word, expected);
    }
}

#[test]
fn requests_that_the_cache_cannot_answer_bypass_it() {
    for (request, reason) in [
        ("GET / HTTP/1.1\nHost: a\nContent-Length: 3\n\n", ForwardReason::Bypass),
        ("POST / HTTP/1.1\nHost: a\nContent-Length: 3\n\n", ForwardReason::Method),
        ("OPTIONS * HTTP/1.1\nHost: a\n\n", ForwardReason::Method),
        ("PROPFIND / HTTP/1.1\nHost: a\n\n", ForwardReason::Method),
    ] {
        let mut run = Run::new(&[]);
        let expected = Action::Forward(Forward {
            reason,
            may_store: false,
            upgrade: false,
            conditions: Conditions::Viewer,
            collapsing: Collapsing::Never,
        });
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
    assert_eq!(
        answer,
        Action::RespondOrigin {
            store: None,
            content: Content::None,
            invalidate: false,
            found: FoundChange::Keep
        }
    );
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
        // RFC 9110 §7.6.2, §7.6.3.
        (&[], "OPTIONS / HTTP/1.1\nHost: a\nMax-Forwards: 0\n\n", 501),
        (&[], &format!("GET / HTTP/1.1\nHost: a\nVia: {}\n\n", ["1.1 aspis"; 8].join(", ")), 508),
    ] {
        let mut run = Run::new(flags);
        assert_eq!(run.request(request), Action::Refuse { status }, "{request}");
        assert_eq!((run.exchange.result(), run.exchange.status()), (ResultType::Error, status));
        assert_eq!(run.exchange.forward_reason(), None);
    }
    let mut run = Run::new(small);
    assert!(matches!(run.request("POST / HTTP/1.1\nHost: a\nContent-Length: 10\n\n"), Action::Forward(_)));
    let passed =
        format!("OPTIONS / HTTP/1.1\nHost: a\nMax-Forwards: 1\nVia: {}\n\n", ["1.1 aspis"; 7].join(", "));
    assert!(matches!(Run::new(&[]).request(&passed), Action::Forward(_)));
}

/// H-25, H-2, L-15.
#[test]
fn a_failed_origin_is_an_error() {
    for (failure, status, result) in [
        (OriginFailure::Refused, 502, ResultType::Error),
        (OriginFailure::ReadTimeout, 504, ResultType::Error),
        // L-15: that nothing is free is no fault of the origin's.
        (OriginFailure::Overloaded, 503, ResultType::CapacityExceeded),
    ] {
        let mut run = get();
        run.step(Event::NotFound);
        assert_eq!(run.fails(failure), Action::Refuse { status });
        assert_eq!((run.exchange.result(), run.exchange.status()), (result, status));
        assert_eq!(run.exchange.forward_reason(), Some(ForwardReason::UriMiss));
    }
    let mut run = get();
    run.step(Event::NotFound);
    run.origin("HTTP/1.1 404 Not Found\nContent-Length: 0\n\n", 1000);
    assert_eq!((run.exchange.result(), run.exchange.status()), (ResultType::Error, 404));
}

/// L-15.
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
    let forward = Forward {
        reason: ForwardReason::Bypass,
        may_store: false,
        upgrade: true,
        conditions: Conditions::Viewer,
        collapsing: Collapsing::Never,
    };
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
    assert_eq!(run.found(&META), Action::OutOfOrder);
    let mut run = get();
    assert_eq!(run.origin(FRESH, 1000), Action::OutOfOrder);
    assert_eq!(run.fails(OriginFailure::Reset), Action::OutOfOrder);
    assert!(matches!(run.found(&META), Action::RespondStored { .. }));
    assert_eq!(run.found(&META), Action::OutOfOrder);
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
                1 => run.found(&meta),
                2 => run.step(Event::NotFound),
                3 if run.method.is_empty() => continue,
                3 => run.origin(FRESH, 1000),
                4 => run.fails(OriginFailure::Reset),
                _ => run.step(Event::OriginBodyFailed(OriginFailure::Truncated)),
            };
            if let Action::RespondStored { age, .. } = action {
                prop_assert!(age < meta.lifetime);
            }
            let answered = matches!(action, Action::RespondStored { .. } | Action::Answer(_) | Action::RespondOrigin { .. } | Action::Refuse { .. });
            answers += u32::from(answered);
        }
        prop_assert!(answers <= 1);
        prop_assert_eq!(run.exchange.status() != 0, answers == 1);
    }
}
