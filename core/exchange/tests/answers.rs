//! Answers from a stored response as a viewer reads them: conditions and ranges (RFC 9110 §13 to §15), validation (RFC 9111 §4.3), fields.
//!
//! A response is stored by the machine's own decision, then asked for; what comes back is read as text. Nothing here waits or sleeps.
#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic names the line that is wrong")]

use std::net::{IpAddr, Ipv4Addr};

use aspis_cache::range::{self, Selection};
use aspis_cache::stored::StoredMeta;
use aspis_config::{Behavior, Raw, check};
use aspis_exchange::response_head::{
    HIT_TAIL_LEN_MAX, HitTail, Multipart, StoredReply, finish_hit, write_freshened, write_origin,
    write_stored, write_stored_reply,
};
use aspis_exchange::response_head::{OriginAnswer, Stored as Kept};
use aspis_exchange::{
    Action, AnswerKind, Conditions, Content, Event, Exchange, FoundChange, Now, ResultType, Stored,
    StoredAnswer, ViewerFacts,
};
use aspis_wire::request::{RequestHead, parse_request};
use aspis_wire::response::{ResponseHead, parse_response};
use aspis_wire::{FieldSlots, HeadLimits, Method, Scheme};

const VIEWER: ViewerFacts =
    ViewerFacts { scheme: Scheme::Http, address: IpAddr::V4(Ipv4Addr::LOCALHOST), trusted: false };
/// Sun, 06 Nov 1994 08:49:37 GMT.
const START: u64 = 784_111_777;
const LEN: u64 = 100;
/// Ten seconds of freshness, both validators, and whatever RFC 9110 §15.4.5 names.
const RICH: &str = "HTTP/1.1 200 OK\nDate: Sun, 06 Nov 1994 08:49:37 GMT\nETag: \"a\"\nVary: Foo\nCache-Control: max-age=10\n\
    Expires: Sun, 06 Nov 1994 08:49:47 GMT\nContent-Location: /x.en\nLast-Modified: Sun, 06 Nov 1994 08:00:00 GMT\n\
    Content-Type: text/x\nContent-Language: en\nX-Own: 1\nContent-Length: 100\n\n";

fn at(seconds: u64) -> Now {
    Now { wall: START + seconds, millis: seconds * 1000 }
}

fn with_request<T>(text: &str, then: impl FnOnce(&RequestHead<'_, '_>) -> T) -> T {
    let text = text.replace('\n', "\r\n");
    let mut slots = FieldSlots::new();
    then(&parse_request(text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap())
}

fn with_response<T>(text: &str, method: &str, then: impl FnOnce(&ResponseHead<'_, '_>) -> T) -> T {
    let text = text.replace('\n', "\r\n");
    let mut slots = FieldSlots::new();
    let method = Method::from_text(method);
    then(&parse_response(text.as_bytes(), &mut slots, &HeadLimits::default(), method).unwrap().unwrap())
}

/// One request about a stored response.
struct Talk {
    behavior: Behavior,
    exchange: Exchange,
    request: String,
    meta: StoredMeta,
    head: Vec<u8>,
}

impl Talk {
    /// Has the origin answer a GET with `response` at [`START`], and asks for it with `fields` some seconds later.
    fn new(flags: &[(&str, &str)], response: &str, method: &str, fields: &str, later: u64) -> (Talk, Action) {
        let mut raw: Raw = flags.iter().copied().collect();
        raw.push("origin", "http://origin.example");
        let behavior = Behavior::from(&check(&raw).unwrap());
        let request = "GET /x HTTP/1.1\nHost: a\n\n".to_string();
        let (meta, head) = (StoredMeta::PLAIN, Vec::new());
        let mut talk = Talk { behavior, exchange: Exchange::new(), request, meta, head };
        talk.ask(at(0));
        talk.step(Event::NotFound, at(0));
        let Action::RespondOrigin { store: Some(meta), .. } = talk.origin_without(response, at(0)) else {
            panic!("{response} is not stored")
        };
        let mut head = Vec::new();
        with_response(response, "GET", |response| write_stored(&talk.behavior, response, at(0), &mut head));
        (talk.meta, talk.head, talk.exchange) = (meta, head, Exchange::new());
        talk.request = format!("{method} /x HTTP/1.1\nHost: a\n{fields}\n");
        talk.ask(at(later));
        let stored = Stored { meta: &talk.meta, head: &talk.head, len: LEN, fresh_until: u64::MAX };
        let action = with_request(&talk.request, |head| {
            talk.exchange.step(&talk.behavior, Event::Found { stored, head }, at(later))
        });
        (talk, action)
    }

    fn ask(&mut self, now: Now) {
        let mut key = Vec::new();
        let action = with_request(&self.request, |head| {
            let event = Event::Request { head, viewer: &VIEWER, key_buffer: &mut key };
            self.exchange.step(&self.behavior, event, now)
        });
        assert!(matches!(action, Action::Lookup { .. }));
    }

    fn step(&mut self, event: Event<'_>, now: Now) -> Action {
        self.exchange.step(&self.behavior, event, now)
    }

    fn origin_without(&mut self, response: &str, now: Now) -> Action {
        with_request(&self.request, |request| {
            with_response(response, request.method.as_str(), |head| {
                let event = Event::OriginHead { head, request, stored: None };
                self.exchange.step(&self.behavior, event, now)
            })
        })
    }

    /// The origin answers what was forwarded; a 304 freshens what is kept.
    fn origin(&mut self, response: &str, later: u64) -> Action {
        with_request(&self.request, |request| {
            with_response(response, request.method.as_str(), |head| {
                let stored = Stored { meta: &self.meta, head: &self.head, len: LEN, fresh_until: u64::MAX };
                let event = Event::OriginHead { head, request, stored: Some(stored) };
                let action = self.exchange.step(&self.behavior, event, at(later));
                if let Action::Freshen { store: Some(meta), .. } = action {
                    let mut fresh = Vec::new();
                    write_freshened(&self.behavior, &self.head, &meta, head, at(later), &mut fresh);
                    (self.head, self.meta) = (fresh, meta);
                }
                action
            })
        })
    }

    /// The head that the viewer gets.
    fn text(&self, answer: StoredAnswer) -> String {
        let mut out = Vec::new();
        with_request(&self.request, |request| {
            let multipart = match range::select(request.fields, LEN) {
                Selection::Parts(ranges) if answer.kind == AnswerKind::Parts => {
                    Some(Multipart::new(&self.head, LEN, ranges.as_slice(), 7))
                }
                _ => None,
            };
            let reply = StoredReply {
                head: &self.head,
                status: self.meta.status,
                len: Some(LEN),
                answer,
                multipart: multipart.as_ref(),
                version: request.version,
                keep_alive: true,
            };
            write_stored_reply(&self.behavior, &self.exchange, &reply, &mut out);
        });
        String::from_utf8(out).unwrap().replace("\r\n", "\n")
    }
}

fn answered(action: Action) -> StoredAnswer {
    match action {
        Action::Answer(answer) | Action::Freshen { answer, .. } => answer,
        other => panic!("{other:?}"),
    }
}

/// The head that a fresh response gives to a GET with these fields.
fn answer(response: &str, fields: &str) -> String {
    let (talk, action) = Talk::new(&[], response, "GET", fields, 3);
    talk.text(answered(action))
}

fn assert_has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.contains(&format!("\n{line}\n")), "{line} is missing in {text}");
    }
}

fn assert_lacks(text: &str, names: &[&str]) {
    for name in names {
        assert!(!text.contains(&format!("\n{name}: ")), "{name} is in {text}");
    }
}

/// What RFC 9110 §15.3.7 and §15.4.5 want repeated.
const REPEATED: [&str; 6] = [
    "Date: Sun, 06 Nov 1994 08:49:37 GMT",
    "ETag: \"a\"",
    "Vary: Foo",
    "Cache-Control: max-age=10",
    "Expires: Sun, 06 Nov 1994 08:49:47 GMT",
    "Content-Location: /x.en",
];

/// RFC 9110 §15.4.5, rule 12.
#[test]
fn a_304_has_the_stored_fields_and_describes_no_content() {
    let text = answer(RICH, "If-None-Match: \"a\"\n");
    assert!(text.starts_with("HTTP/1.1 304 Not Modified\n"), "{text}");
    assert_has(&text, &REPEATED);
    // The deviation: the other stored fields too.
    assert_has(&text, &["X-Own: 1", "Last-Modified: Sun, 06 Nov 1994 08:00:00 GMT", "Age: 3"]);
    assert_lacks(&text, &["Content-Length", "Content-Type", "Content-Language", "Content-Range"]);
}

/// RFC 9110 §15.3.7, §14.3, R-2.
#[test]
fn a_206_has_the_stored_fields_and_its_range() {
    for fields in ["Range: bytes=10-19\n", "Range: bytes=10-19\nIf-Range: \"a\"\n"] {
        let text = answer(RICH, fields);
        assert!(text.starts_with("HTTP/1.1 206 Partial Content\n"), "{text}");
        assert_has(&text, &REPEATED);
        // The deviation: with If-Range too all others.
        assert_has(
            &text,
            &["X-Own: 1", "Content-Type: text/x", "Last-Modified: Sun, 06 Nov 1994 08:00:00 GMT"],
        );
        assert_has(&text, &["Content-Range: bytes 10-19/100", "Content-Length: 10", "Accept-Ranges: bytes"]);
    }
    let told = RICH.replace("X-Own: 1", "accept-ranges: none");
    let text = answer(&told, "Range: bytes=10-19\n");
    assert_has(&text, &["accept-ranges: none"]);
    assert_lacks(&text, &["Accept-Ranges"]);
}

/// RFC 9110 §15.3.7.2, R-13.
#[test]
fn several_ranges_have_no_content_range_of_their_own() {
    let text = answer(RICH, "Range: bytes=0-1,5-6\n");
    assert!(text.contains("\nContent-Type: multipart/byteranges; boundary="), "{text}");
    assert_lacks(&text, &["Content-Range"]);
    // One that is left of two is no multipart.
    let text = answer(RICH, "Range: bytes=0-1,200-300\n");
    assert_has(&text, &["Content-Range: bytes 0-1/100", "Content-Type: text/x"]);
}

/// RFC 9110 §13.1.2, §13.1.5, §14.2.
#[test]
fn head_gets_304_and_never_a_range() {
    let ask = |method: &str, fields: &str| {
        let (talk, action) = Talk::new(&[], RICH, method, fields, 3);
        let answer = answered(action);
        (answer.kind, answer.send_body, talk.text(answer))
    };
    let (kind, body, text) = ask("HEAD", "If-None-Match: W/\"a\"\n");
    assert_eq!((kind, body), (AnswerKind::NotModified, false));
    assert!(text.starts_with("HTTP/1.1 304 "), "{text}");
    for fields in ["Range: bytes=0-1\n", "Range: bytes=500-\n", "Range: bytes=0-1\nIf-Range: \"a\"\n"] {
        let (kind, body, text) = ask("HEAD", fields);
        assert_eq!((kind, body), (AnswerKind::Whole, false), "{fields}");
        assert_has(&text, &["Content-Length: 100"]);
        assert_lacks(&text, &["Content-Range"]);
    }
    // Without Range, If-Range means nothing: such a request is a plain hit.
    for fields in ["If-Range: \"a\"\n", "If-Range: \"b\"\n"] {
        let (_, action) = Talk::new(&[], RICH, "GET", fields, 3);
        assert_eq!(action, Action::RespondStored { age: 3, ttl: 7, send_body: true }, "{fields}");
    }
}

/// RFC 9110 §7.6.3: Via names the version that the origin spoke, in whatever is made of its response.
#[test]
fn via_of_a_stored_answer_is_that_of_its_origin() {
    for (version, via) in [("HTTP/1.0", "Via: 1.0 aspis"), ("HTTP/1.1", "Via: 1.1 aspis")] {
        let response = RICH.replace("HTTP/1.1", version);
        assert_has(&answer(&response, "If-None-Match: \"a\"\n"), &[via]);
        assert_has(&answer(&response, "Range: bytes=0-1\n"), &[via]);
    }
    let (talk, action) = Talk::new(&[("semantics", "cloudfront")], RICH, "GET", "Range: bytes=0-1\n", 3);
    assert_has(&talk.text(answered(action)), &["Via: 1.1 aspis", "X-Cache: Hit from aspis"]);
}

/// RFC 9111 §3.1, §5.2.2.4, §5.2.2.7, rule 3: named fields reach the first viewer and no other.
#[test]
fn a_withheld_field_is_not_in_a_hit() {
    let response = "HTTP/1.1 200 OK\nCache-Control: max-age=10, no-cache=\"x-secret\", private=\"X-Mine\"\nX-Secret: 1\nx-mine: 2\n\
        X-Other: 3\nContent-Length: 100\n\n";
    let (talk, action) = Talk::new(&[], response, "GET", "", 3);
    let Action::RespondStored { age, ttl, .. } = action else { panic!("{action:?}") };
    let tail = HitTail {
        age,
        ttl,
        content_len: LEN,
        status: 200,
        version: aspis_wire::Version::Http11,
        keep_alive: true,
    };
    let mut out = vec![0; talk.head.len() + HIT_TAIL_LEN_MAX];
    let len = finish_hit(&talk.behavior, &talk.head, &tail, &mut out);
    let hit = String::from_utf8(out[..len].to_vec()).unwrap().replace("\r\n", "\n");
    assert_has(&hit, &["X-Other: 3"]);
    assert_lacks(&hit, &["X-Secret", "x-mine"]);
    let first = with_request(&talk.request, |request| {
        with_response(response, "GET", |head| {
            let answer = OriginAnswer::new(request, &talk.exchange, Kept::Yes, true, at(0));
            let mut out = Vec::new();
            write_origin(&talk.behavior, head, &answer, &mut out);
            String::from_utf8(out).unwrap().replace("\r\n", "\n")
        })
    });
    assert_has(&first, &["X-Secret: 1", "x-mine: 2", "X-Other: 3"]);
}

/// RFC 9111 §4.3.2: our condition goes to the origin, the viewer's own is judged against what it confirmed.
#[test]
fn a_viewers_condition_beside_our_validation_is_judged_here() {
    for (fields, kind) in [
        ("If-None-Match: \"x\", \"a\"\n", AnswerKind::NotModified),
        ("If-None-Match: \"x\"\n", AnswerKind::Whole),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:00:00 GMT\n", AnswerKind::NotModified),
        ("If-Modified-Since: Sun, 06 Nov 1994 07:59:59 GMT\n", AnswerKind::Whole),
        ("", AnswerKind::Whole),
    ] {
        let (mut talk, action) = Talk::new(&[], RICH, "GET", fields, 20);
        let Action::Forward(forward) = action else { panic!("{action:?}") };
        assert_eq!(forward.conditions, Conditions::Stored, "{fields}");
        let action = talk.origin("HTTP/1.1 304 x\nETag: \"a\"\n\n", 20);
        assert_eq!(answered(action).kind, kind, "{fields}");
    }
}

/// RFC 9111 §4.3.2: a fetch for all who wait goes out without the viewer's condition, which is judged when the 200 is there.
#[test]
fn a_miss_is_held_against_the_viewers_condition() {
    let bare = "HTTP/1.1 200 OK\nCache-Control: max-age=10\nContent-Length: 100\n\n";
    for (fields, status, expected) in [
        ("If-None-Match: \"x\", W/\"b\"\n", "200 OK", Content::NotModified),
        ("If-None-Match: \"x\"\n", "200 OK", Content::Follows),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:00:00 GMT\n", "200 OK", Content::NotModified),
        ("If-Match: \"x\"\nIf-None-Match: \"b\"\n", "200 OK", Content::Follows),
        ("If-None-Match: \"b\"\n", "404 Not Found", Content::Follows),
        ("", "200 OK", Content::Follows),
    ] {
        let (mut talk, action) = Talk::new(&[], bare, "GET", fields, 20);
        assert!(matches!(action, Action::Forward(_)));
        let head = format!(
            "HTTP/1.1 {status}\nETag: \"b\"\nLast-Modified: Sun, 06 Nov 1994 08:00:00 GMT\nContent-Length: 1\n\n"
        );
        let Action::RespondOrigin { content, .. } = talk.origin(&head, 20) else { panic!("passed on") };
        assert_eq!(content, expected, "{fields} {status}");
    }
}

/// RFC 9111 §4.3.1: what only the current representation may pass is for the origin to judge.
#[test]
fn guarded_requests_go_on_as_they_came_where_the_stored_response_is_stale() {
    for fields in ["If-Match: \"a\"\n", "If-Unmodified-Since: Sun, 06 Nov 1994 08:00:00 GMT\n"] {
        let (_, action) = Talk::new(&[], RICH, "GET", fields, 20);
        let Action::Forward(forward) = action else { panic!("{action:?}") };
        assert_eq!(forward.conditions, Conditions::Viewer, "{fields}");
    }
}

/// RFC 9111 §3.2, RFC 9110 §6.6.1: an update without Date is dated by its arrival, so its age is 0 and its lifetime runs anew.
#[test]
fn an_update_without_date_is_as_old_as_its_arrival() {
    let (mut talk, _) = Talk::new(&[], RICH, "GET", "", 1000);
    let action = talk.origin("HTTP/1.1 304 x\nETag: \"a\"\n\n", 1000);
    let Action::Freshen { store: Some(meta), answer } = action else { panic!("{action:?}") };
    assert_eq!((answer.age, answer.ttl, meta.initial_age, meta.generated_at), (0, 10, 0, START + 1000));
    assert_has(&talk.text(answer), &["Date: Sun, 06 Nov 1994 09:06:17 GMT"]);
}

/// RFC 9213 §2.2, rule 17: what a targeted field said lasts over a 304 without one, in place of Cache-Control all the while.
#[test]
fn a_targeted_field_outlives_a_304_without_it() {
    let told = |update: &str| {
        let response = RICH
            .replace("max-age=10\n", "no-store\nCDN-Cache-Control: max-age=30, must-revalidate\n")
            .replace("Expires: Sun, 06 Nov 1994 08:49:47 GMT\n", "");
        let (mut talk, action) = Talk::new(&[], &response, "GET", "", 1000);
        assert!(matches!(action, Action::Forward(_)));
        match talk.origin(&format!("HTTP/1.1 304 x\nETag: \"a\"\n{update}\n"), 1000) {
            Action::Freshen { store, .. } => {
                store.map(|meta| (meta.lifetime, meta.targeted, meta.forbids_stale))
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(told(""), Some((30, true, true)));
    assert_eq!(told("Cache-Control: private\n"), Some((30, true, true)));
    assert_eq!(told("CDN-Cache-Control: max-age=7\n"), Some((7, true, false)));
    assert_eq!(told("CDN-Cache-Control: no-store\n"), None);
    // An invalid one takes the old one's place and is ignored whole.
    assert_eq!(told("CDN-Cache-Control: max-age=\"7\"\nCache-Control: max-age=8\n"), Some((8, false, false)));
}

/// RFC 9110 §15.4.5: a 304 that nobody asked for is no answer; a stale response is one, where it may be.
#[test]
fn a_304_to_a_request_without_conditions_is_no_answer() {
    let nothing = "HTTP/1.1 304 x\nETag: \"b\"\n\n";
    let (mut talk, _) = Talk::new(&[], RICH, "GET", "", 20);
    let Action::Forward(again) = talk.origin(nothing, 20) else { panic!("asked again without conditions") };
    assert_eq!(again.conditions, Conditions::None);
    let stale = talk.origin(nothing, 20);
    assert!(matches!(stale, Action::Answer(StoredAnswer { kind: AnswerKind::Whole, .. })), "{stale:?}");
    let strict = RICH.replace("max-age=10", "max-age=10, must-revalidate");
    let (mut talk, _) = Talk::new(&[], &strict, "GET", "", 20);
    talk.origin(nothing, 20);
    assert_eq!(talk.origin(nothing, 20), Action::Refuse { status: 502 });
    // The viewer's own condition may be answered so, a viewer without one may not.
    for (fields, passes) in [("If-None-Match: \"b\"\n", true), ("", false)] {
        let bare = "HTTP/1.1 200 OK\nCache-Control: max-age=10\nContent-Length: 100\n\n";
        let (mut talk, _) = Talk::new(&[("stale-on-error", "stated")], bare, "GET", fields, 20);
        let action = talk.origin(nothing, 20);
        assert_eq!(matches!(action, Action::RespondOrigin { .. }), passes, "{action:?}");
    }
}

/// RFC 9111 §5.1, T-41: Age is sent with a validated answer too, and counts from the answer that confirmed it.
#[test]
fn a_validated_answer_tells_its_age() {
    let (mut talk, _) = Talk::new(&[], RICH, "GET", "", 1000);
    let action = talk.origin("HTTP/1.1 304 x\nETag: \"a\"\nAge: 4\n\n", 1000);
    let answer = answered(action);
    assert_eq!(talk.exchange.result(), ResultType::RefreshHit);
    let text = talk.text(answer);
    assert_has(&text, &["Age: 4", "X-Cache: RefreshHit from aspis"]);
    assert_eq!(text.matches("\nAge: ").count(), 1);
}

/// RFC 9111 §5.2.1.2: `max-stale` is the viewer's own wish; only what forbids every stale answer ends it (§4.2.4).
#[test]
fn max_stale_is_served_unless_every_stale_answer_is_forbidden() {
    let ask = |flags: &[(&str, &str)], control: &str| {
        let response = RICH.replace("max-age=10", control);
        let flags = [flags, &[("request-directives", "on")]].concat();
        let (_, action) = Talk::new(&flags, &response, "GET", "Cache-Control: max-stale=60\n", 20);
        matches!(action, Action::Answer(StoredAnswer { kind: AnswerKind::Whole, age: 20, ttl: -10, .. }))
    };
    assert!(ask(&[], "max-age=10"));
    assert!(ask(&[], "max-age=10, stale-if-error=0"));
    assert!(ask(&[("stale-on-error", "stated")], "max-age=10"));
    assert!(ask(&[("stale-on-error", "cloudfront")], "max-age=10"));
    for control in ["max-age=10, must-revalidate", "max-age=10, proxy-revalidate", "s-maxage=10"] {
        for flags in [&[][..], &[("stale-on-error", "stated")], &[("stale-on-error", "cloudfront")]] {
            assert!(!ask(flags, control), "{control} {flags:?}");
        }
    }
}

/// RFC 9111 §5.2.1.5: the answer to a HEAD that must not be stored brings the stored GET nothing.
#[test]
fn a_head_that_forbids_storing_changes_nothing() {
    for (fields, kept) in [("Cache-Control: no-store\n", true), ("", false)] {
        let (mut talk, action) = Talk::new(&[("request-directives", "on")], RICH, "HEAD", fields, 20);
        assert!(matches!(action, Action::Forward(_)));
        let answer = "HTTP/1.1 200 OK\nETag: \"b\"\nContent-Length: 100\nCache-Control: max-age=9\n\n";
        let Action::RespondOrigin { store: None, found, .. } = talk.origin(answer, 20) else { panic!() };
        assert_eq!(found == FoundChange::Keep, kept, "{fields}");
    }
}

/// Decision 7: a 400 whose request carries something that is in no key is nobody else's answer.
#[test]
fn a_bad_request_is_stored_for_ordinary_requests_only() {
    let stored = |fields: &str| {
        let raw: Raw = [("origin", "http://origin.example")].into_iter().collect();
        let behavior = Behavior::from(&check(&raw).unwrap());
        let (mut exchange, mut key) = (Exchange::new(), Vec::new());
        let bad = "HTTP/1.1 400 Bad Request\nCache-Control: max-age=60\nContent-Length: 0\n\n";
        with_request(&format!("GET /x HTTP/1.1\nHost: a\n{fields}\n"), |request| {
            let event = Event::Request { head: request, viewer: &VIEWER, key_buffer: &mut key };
            exchange.step(&behavior, event, at(0));
            exchange.step(&behavior, Event::NotFound, at(0));
            with_response(bad, "GET", |head| {
                let event = Event::OriginHead { head, request, stored: None };
                let action = exchange.step(&behavior, event, at(0));
                matches!(action, Action::RespondOrigin { store: Some(_), .. })
            })
        })
    };
    assert!(stored("") && stored("Accept: */*\nUser-Agent: x\n"));
    assert!(!stored(&format!("X-Oversized: {}\n", "a".repeat(5000))));
    assert!(!stored("Cookie: a=b\n") && !stored("Range: bytes=x\n"));
}
