use aspis_config::{Raw, check};
use aspis_wire::request::parse_request;
use aspis_wire::{FieldSlots, HeadLimits, Version};
use proptest::prelude::*;

use super::*;

pub(crate) fn behavior(flags: &[(&str, &str)]) -> Behavior {
    let mut raw: Raw = flags.iter().copied().collect();
    raw.push("origin", "http://origin.example");
    Behavior::from(&check(&raw).unwrap())
}

/// Names and values.
type Fields = [(&'static str, &'static str)];

const NOW: u64 = 784_111_777;
const DATE: (&str, &str) = ("Date", "Sun, 06 Nov 1994 08:49:37 GMT");
const GET: RequestFacts = RequestFacts {
    may_store: true,
    explicit_only: false,
    range: false,
    authorization: false,
    ordinary: true,
    delay: Delay { requested_at: NOW, seconds: 0 },
};

fn ask(
    flags: &[(&str, &str)],
    request: RequestFacts,
    status: u16,
    framing: ResponseFraming,
    head: &[(&str, &str)],
) -> Result<StoredMeta, NotStored> {
    let fields: Vec<Field<'_>> =
        head.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect();
    let head = ResponseHead {
        version: Version::Http11,
        status,
        reason: b"",
        fields: &fields,
        framing,
        content_length: None,
        keep_alive: true,
        len: 0,
    };
    storable(&behavior(flags), request, &head, NOW)
}

fn stored(head: &[(&str, &str)]) -> Result<u32, NotStored> {
    ask(&[], GET, 200, ResponseFraming::Length(5), head).map(|meta| meta.lifetime)
}

/// RFC 9111 §3 and rules 1, 3, 8, 11, 13, 17: one line per reason.
#[test]
fn what_is_stored_and_for_how_long() {
    let fresh = ("Cache-Control", "max-age=60");
    let cases: &[(&Fields, Result<u32, NotStored>)] = &[
        (&[fresh], Ok(60)),
        (&[fresh, DATE], Ok(60)),
        (&[fresh, ("Pragma", "no-cache")], Ok(60)), // T-12
        (&[fresh, ("Content-Encoding", "gzip")], Ok(60)),
        (&[fresh, ("Age", "59")], Ok(60)),
        (&[("Cache-Control", "max-age=60, must-revalidate, proxy-revalidate, immutable")], Ok(60)),
        (&[DATE, ("Expires", "Sun, 06 Nov 1994 08:51:37 GMT")], Ok(120)),
        (&[], Err(NotStored::NotFresh)),
        (&[DATE, ("Last-Modified", "Sun, 06 Nov 1994 08:32:57 GMT")], Ok(100)), // rule 1
        (&[DATE, ("Last-Modified", "nonsense")], Err(NotStored::NotFresh)),
        (
            &[DATE, ("Last-Modified", "Sun, 06 Nov 1994 08:32:57 GMT"), ("Set-Cookie", "a=b")],
            Err(NotStored::SetCookie),
        ),
        // Rule 13: what can be validated is kept without freshness.
        (&[("ETag", "\"a\"")], Ok(0)),
        (&[("Cache-Control", "max-age=60, no-cache"), ("ETag", "\"a\"")], Ok(0)),
        (&[("Cache-Control", "max-age=0"), ("ETag", "W/\"a\"")], Ok(0)),
        (&[("Cache-Control", "no-store"), ("ETag", "\"a\"")], Err(NotStored::NoStore)),
        // Rule 2.
        (&[("Cache-Control", "max-age=60, no-store, must-understand")], Ok(60)),
        (&[("Cache-Control", "max-age=0")], Err(NotStored::NotFresh)),
        (&[("Cache-Control", "public")], Err(NotStored::NotFresh)),
        (&[fresh, ("Age", "60")], Err(NotStored::NotFresh)), // rule 6
        (&[fresh, ("Date", "Sun, 06 Nov 1994 08:40:00 GMT")], Err(NotStored::NotFresh)),
        (&[("Cache-Control", "max-age=60, no-store")], Err(NotStored::NoStore)),
        (&[fresh, ("Cache-Control", "no-store")], Err(NotStored::NoStore)),
        (&[fresh, ("Cache-Control", "private")], Err(NotStored::Private)),
        (&[fresh, ("Cache-Control", "private=\"x\"")], Ok(60)),
        (&[fresh, ("Cache-Control", "no-cache")], Err(NotStored::NoCache)),
        (&[fresh, ("Cache-Control", "no-cache=\"set-cookie\"")], Ok(60)),
        (&[fresh, ("Vary", "Accept")], Ok(60)),
        (&[fresh, ("vary", "Accept, *")], Err(NotStored::Vary)),
        (&[fresh, ("Set-Cookie", "a=b")], Ok(60)), // rule 8
        // Rule 17: a valid targeted field replaces Cache-Control and Expires altogether.
        (&[fresh, ("CDN-Cache-Control", "max-age=1")], Ok(1)),
        (&[fresh, ("CDN-Cache-Control", "no-store")], Err(NotStored::NoStore)),
        (&[("Cache-Control", "no-store"), ("CDN-Cache-Control", "max-age=9")], Ok(9)),
        (&[fresh, ("CDN-Cache-Control", "max-age=\"1\"")], Ok(60)),
        (
            &[DATE, ("Expires", "Sun, 06 Nov 1994 08:51:37 GMT"), ("CDN-Cache-Control", "private=?0")],
            Err(NotStored::NotFresh),
        ),
        (&[fresh, ("Surrogate-Control", "max-age=1")], Ok(60)),
    ];
    for (head, expected) in cases {
        assert_eq!(stored(head), *expected, "{head:?}");
    }
}

/// Rule 1: every final status with explicit freshness.
#[test]
fn any_final_status_with_explicit_freshness_is_stored() {
    let fresh = [("Cache-Control", "max-age=60")];
    let status = |status, head: &[(&str, &str)]| {
        ask(&[], GET, status, ResponseFraming::Length(0), head).map(|meta| meta.lifetime)
    };
    for code in [200, 201, 203, 204, 299, 301, 303, 307, 400, 404, 499, 500, 503, 599] {
        assert_eq!(status(code, &fresh), Ok(60), "{code}");
    }
    // What one request caused by itself is nobody else's answer.
    for code in [206, 304, 412, 413, 416, 417, 426, 431, 600, 999] {
        assert_eq!(status(code, &fresh), Err(NotStored::Status), "{code}");
    }
    for code in [201, 202, 403, 502, 599] {
        assert_eq!(status(code, &[DATE]), Err(NotStored::NotFresh), "{code}");
        let minimum = ask(&[("min-ttl", "60s")], GET, code, ResponseFraming::Length(0), &[DATE]);
        assert_eq!(minimum, Err(NotStored::NotFresh), "{code}");
    }
    let understood = [("Cache-Control", "max-age=60, must-understand")];
    assert_eq!(status(599, &understood), Err(NotStored::NotUnderstood));
    assert_eq!(status(404, &understood), Ok(60));
}

/// Decision 7: a 400 is kept only as long as the origin says, and only if the URI must be what is bad.
#[test]
fn a_bad_request_is_stored_only_if_its_uri_is_to_blame() {
    let strange = RequestFacts { ordinary: false, ..GET };
    let modified = ("Last-Modified", "Sun, 06 Nov 1994 08:32:57 GMT");
    let public = [DATE, modified, ("Cache-Control", "public")];
    let zero = [("Cache-Control", "max-age=0")];
    let stated = [("Cache-Control", "max-age=60")];
    let cloudfront: &Fields = &[("semantics", "cloudfront")];
    let long: &Fields = &[("min-ttl", "60s"), ("default-ttl", "60s"), ("error-ttl", "60s")];
    let cases: &[(&Fields, RequestFacts, u16, &Fields, bool)] = &[
        (&[], GET, 400, &stated, true),
        (&[], strange, 400, &stated, false),
        (&[], strange, 404, &stated, true),
        // A 414 is about its target, which is in the key.
        (&[], strange, 414, &[DATE, modified], true),
        (&[], GET, 400, &public, false),
        (&[], GET, 404, &public, true),
        (long, GET, 400, &zero, false),
        (long, GET, 404, &zero, true),
        (long, GET, 400, &[], false),
        (cloudfront, GET, 400, &stated, true),
        (cloudfront, strange, 400, &stated, false),
        (cloudfront, GET, 400, &zero, false),
        (cloudfront, GET, 403, &zero, true),
    ];
    for (flags, request, status, head, expected) in cases {
        let answer = ask(flags, *request, *status, ResponseFraming::Length(0), head);
        assert_eq!(answer.is_ok(), *expected, "{flags:?} {status} {head:?} {answer:?}");
    }
}

/// Decision 7: what makes a request special.
#[test]
fn an_ordinary_request_is_short_and_carries_no_state() {
    let ask = |fields: &str| {
        let text = format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut slots = FieldSlots::new();
        is_ordinary(&parse_request(text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap())
    };
    assert!(ask("") && ask("Accept: text/html, */*;q=0.1\r\nUser-Agent: x (y; z)\r\n"));
    for fields in [
        "Cookie: a=b\r\n",
        "authorization: Basic x\r\n",
        "Range: bytes=x\r\n",
        "If-None-Match: \"a\"\r\n",
        "IF-RANGE: x\r\n",
        "X-A: \u{e4}\r\n",
        "X-A: a\tb\r\n",
        &format!("X-A: {}\r\n", "a".repeat(ORDINARY_HEAD_LEN_MAX)),
    ] {
        assert!(!ask(fields), "{fields}");
    }
}

#[test]
fn requests_and_lengths_that_keep_a_response_out() {
    let fresh = [("Cache-Control", "max-age=60")];
    let other = RequestFacts { may_store: false, ..GET };
    assert_eq!(ask(&[], other, 200, ResponseFraming::Length(0), &fresh), Err(NotStored::Request));
    assert!(ask(&[], GET, 200, ResponseFraming::Chunked, &fresh).is_ok());
    assert!(ask(&[], GET, 200, ResponseFraming::UntilClose, &fresh).is_ok());
    assert_eq!(ask(&[], GET, 200, ResponseFraming::None, &fresh), Err(NotStored::Length));
    let limit = [("object-size-max", "10B")];
    assert!(ask(&limit, GET, 200, ResponseFraming::Length(10), &fresh).is_ok());
    assert_eq!(ask(&limit, GET, 200, ResponseFraming::Length(11), &fresh), Err(NotStored::TooLarge));
    // Rule 9: a POST needs explicit freshness.
    let post = RequestFacts { explicit_only: true, ..GET };
    assert!(ask(&[], post, 200, ResponseFraming::Length(0), &fresh).is_ok());
    let guess = [DATE, ("Last-Modified", "Sun, 06 Nov 1994 08:32:57 GMT")];
    assert_eq!(ask(&[], post, 200, ResponseFraming::Length(0), &guess), Err(NotStored::NotFresh));
    // T-1: CloudFront's methods have no such POST.
    let cloudfront = [("semantics", "cloudfront")];
    assert_eq!(ask(&cloudfront, post, 200, ResponseFraming::Length(0), &fresh), Err(NotStored::Request));
    // Rule 8, the switch.
    let cookie = [("Cache-Control", "max-age=60"), ("Set-Cookie", "a=b")];
    let flags = [("store-set-cookie", "off")];
    assert_eq!(ask(&flags, GET, 200, ResponseFraming::Length(0), &cookie), Err(NotStored::SetCookie));
    // Surrogate-Control, the switch.
    let surrogate = [("Cache-Control", "max-age=60"), ("Surrogate-Control", "max-age=1")];
    let flags = [("surrogate-control", "on")];
    assert_eq!(
        ask(&flags, GET, 200, ResponseFraming::Length(0), &surrogate).map(|meta| meta.lifetime),
        Ok(1)
    );
}

/// RFC 9111 §3.4, rule 14, R-5, R-17.
#[test]
fn a_part_is_stored_only_as_one_exact_range() {
    let range = RequestFacts { range: true, ..GET };
    let fresh = ("Cache-Control", "max-age=60");
    let ask_part = |request, value: &str, framing, vary: &[(&str, &str)]| {
        let head: Vec<_> =
            [fresh, ("Content-Range", value)].into_iter().chain(vary.iter().copied()).collect();
        ask(&[], request, 206, framing, &head).map(|meta| meta.part)
    };
    let five = ResponseFraming::Length(5);
    assert_eq!(ask_part(range, "bytes 0-4/10", five, &[]), Ok(Some(Part { start: 0, total: 10 })));
    assert_eq!(ask_part(range, "bytes 5-9/10", five, &[]), Ok(Some(Part { start: 5, total: 10 })));
    for value in ["bytes 4-9/10", "bytes 0-4/*", "bytes */10", "items 0-4/10"] {
        assert_eq!(ask_part(range, value, five, &[]), Err(NotStored::Status), "{value}");
    }
    assert_eq!(ask_part(GET, "bytes 0-4/10", five, &[]), Err(NotStored::Status));
    assert_eq!(ask_part(range, "bytes 0-4/10", ResponseFraming::Chunked, &[]), Err(NotStored::Status));
    assert_eq!(ask_part(range, "bytes 0-4/10", five, &[("Vary", "A")]), Err(NotStored::Status));
}

/// Rule 15, RFC 5861 §4, T-28, T-31.
#[test]
fn what_may_be_served_stale_is_noted() {
    let stale = |flags: &[(&str, &str)], value: &str| {
        ask(flags, GET, 200, ResponseFraming::Length(0), &[("Cache-Control", value)]).unwrap().stale_if_error
    };
    let cloudfront: &[(&str, &str)] = &[("semantics", "cloudfront")];
    for value in ["max-age=1, must-revalidate", "max-age=1, proxy-revalidate", "s-maxage=1, stale-if-error=9"]
    {
        assert_eq!(stale(&[], value), StaleIfError::Forbidden, "{value}");
        assert_ne!(stale(cloudfront, value), StaleIfError::Forbidden, "{value}");
    }
    assert_eq!(stale(&[], "max-age=1"), StaleIfError::Unstated);
    assert_eq!(stale(&[], "max-age=1, stale-if-error=9"), StaleIfError::Within(9));
    assert_eq!(stale(cloudfront, "max-age=1, stale-if-error=0"), StaleIfError::Forbidden);
    assert_eq!(stale(&[("stale-on-error", "stated")], "max-age=1"), StaleIfError::Forbidden);
    // T-28: there only `stale-if-error=0` does. What `no-cache` forbids is an answer without validation.
    let validated = |flags: &[(&str, &str)]| {
        let head = [("Cache-Control", "max-age=1, no-cache"), ("ETag", "\"a\"")];
        ask(flags, GET, 200, ResponseFraming::Length(0), &head).unwrap().stale_if_error
    };
    assert_eq!(validated(cloudfront), StaleIfError::Unstated);
    assert_eq!(validated(&[]), StaleIfError::Forbidden);
    // RFC 9111 §4.2.4: what forbids every stale answer is a fact of its own, also where the operator asks for stale ones on error.
    let forbids = |flags: &[(&str, &str)], value: &str| {
        ask(flags, GET, 200, ResponseFraming::Length(0), &[("Cache-Control", value)]).unwrap().forbids_stale
    };
    for (value, expected) in
        [("max-age=1, must-revalidate", true), ("s-maxage=1", true), ("max-age=1, stale-if-error=0", false)]
    {
        assert_eq!((forbids(&[], value), forbids(cloudfront, value)), (expected, expected), "{value}");
        assert_eq!(forbids(&[("stale-on-error", "stated")], value), expected, "{value}");
    }
    let while_revalidating = |value: &str| {
        let head = [("Cache-Control", value)];
        ask(&[], GET, 200, ResponseFraming::Length(0), &head).unwrap().stale_while_revalidate
    };
    assert_eq!(while_revalidating("max-age=1, stale-while-revalidate=5"), 5);
    assert_eq!(while_revalidating("max-age=1, stale-while-revalidate=5, stale-if-error=0"), 5);
    assert_eq!(while_revalidating("max-age=1, stale-while-revalidate=5, must-revalidate"), 0);
}

/// T-3, T-33 to T-35: the table of file 03.
#[test]
fn cloudfront_stores_errors_as_its_table_says() {
    let rows: &[(u16, &str, &str, Option<u32>)] = &[
        (404, "x", "10s", Some(10)),
        (404, "max-age=60", "10s", Some(60)),
        (404, "max-age=5", "10s", Some(10)),
        (404, "no-store", "10s", None),
        (500, "no-store", "10s", Some(10)),
        (403, "x", "300s", None),
        (403, "max-age=1", "300s", Some(300)),
        (416, "max-age=100", "300s", None),
        (401, "max-age=100", "300s", None),
        (404, "x", "0", None),
        (499, "max-age=7", "0", Some(7)),
    ];
    for (status, value, error_ttl, expected) in rows {
        let flags = [("semantics", "cloudfront"), ("error-ttl", *error_ttl)];
        let answer = ask(&flags, GET, *status, ResponseFraming::Length(0), &[("Cache-Control", value)]);
        assert_eq!(answer.ok().map(|meta| meta.lifetime), *expected, "{status} {value} {error_ttl}");
    }
}

/// Rule 7, RFC 9111 §3.5.
#[test]
fn authorised_responses_are_shared_only_if_the_origin_says_so() {
    let authorised = RequestFacts { authorization: true, ..GET };
    for (value, expected) in [
        ("max-age=60", false),
        ("max-age=60, public", true),
        ("s-maxage=60", true),
        ("max-age=60, must-revalidate", true),
        ("max-age=60, public, private", false),
    ] {
        let answer = ask(&[], authorised, 200, ResponseFraming::Length(0), &[("Cache-Control", value)]);
        assert_eq!(answer.is_ok(), expected, "{value}");
    }
}

/// T-8, T-9, T-10: the table of file 03, for both columns.
#[test]
fn cloudfront_ttls_follow_the_table() {
    let wide: &[(&str, &str)] = &[("semantics", "cloudfront")];
    let narrow: &[(&str, &str)] =
        &[("semantics", "cloudfront"), ("min-ttl", "60s"), ("default-ttl", "300s"), ("max-ttl", "3600s")];
    let rows: &[(&str, Result<u32, NotStored>, u32)] = &[
        ("x", Ok(86_400), 300),
        ("max-age=10", Ok(10), 60),
        ("max-age=99999999", Ok(31_536_000), 3600),
        ("max-age=10, s-maxage=600", Ok(600), 600),
        ("max-age=600, s-maxage=0", Err(NotStored::NotFresh), 60),
        ("public", Ok(86_400), 300),
        ("no-cache", Err(NotStored::NoCache), 60),
        ("no-store", Err(NotStored::NoStore), 60),
        ("private", Err(NotStored::Private), 60),
        ("private, max-age=600", Err(NotStored::Private), 60),
        ("max-age=0", Err(NotStored::NotFresh), 60),
    ];
    for (value, first, second) in rows {
        let get = |flags| {
            ask(flags, GET, 200, ResponseFraming::Length(0), &[("Cache-Control", value)])
                .map(|meta| meta.lifetime)
        };
        assert_eq!(get(wide), *first, "{value}");
        assert_eq!(get(narrow), Ok(*second), "{value}");
    }
}

/// T-8 and the profile's additions: in rfc9111 the minimum lifts a lifetime but never what a directive forbids.
#[test]
fn minimum_ttl_never_permits_what_rfc9111_forbids() {
    let flags = [("min-ttl", "60s")];
    let get = |value| ask(&flags, GET, 200, ResponseFraming::Length(0), &[("Cache-Control", value)]);
    assert_eq!(get("max-age=0").map(|meta| meta.lifetime), Ok(60));
    assert_eq!(get("no-store"), Err(NotStored::NoStore));
    assert_eq!(get("private"), Err(NotStored::Private));
    assert_eq!(get("no-cache"), Err(NotStored::NoCache));
}

/// T-16 against rule 6 and T-43: whether the origin's age uses up the lifetime.
#[test]
fn origin_age_counts_unless_the_operator_says_otherwise() {
    let head = [("Cache-Control", "max-age=60"), ("Age", "50")];
    let rfc = ask(&[], GET, 200, ResponseFraming::Length(0), &head).unwrap();
    assert_eq!((rfc.initial_age, rfc.fresh_until()), (50, NOW + 10));
    let cloudfront =
        ask(&[("semantics", "cloudfront")], GET, 200, ResponseFraming::Length(0), &head).unwrap();
    assert_eq!((cloudfront.initial_age, cloudfront.fresh_until()), (50, NOW + 10));
    let ignored = ask(&[("origin-age", "ignored")], GET, 200, ResponseFraming::Length(0), &head).unwrap();
    assert_eq!((ignored.initial_age, ignored.fresh_until()), (50, NOW + 60));
}

proptest! {
    #[test]
    fn what_is_stored_is_bounded(
        cache_control in "(max-age=[0-9]{1,10}|s-maxage=[0-9]{1,4}|public|private|no-store|no-cache)(, ?(max-age=[0-9]{1,5}|public|must-revalidate))?",
        age in "[0-9]{0,12}", delay in 0_u64..100,
    ) {
        let request = RequestFacts { delay: Delay { requested_at: NOW - delay, seconds: delay }, ..GET };
        let head = [("Cache-Control", cache_control.as_str()), ("Age", age.as_str())];
        if let Ok(meta) = ask(&[], request, 200, ResponseFraming::Length(0), &head) {
            prop_assert!(u64::from(meta.lifetime) <= 31_536_000);
            prop_assert!(meta.fresh_until() <= NOW + u64::from(meta.lifetime));
            prop_assert!(!cache_control.contains("no-store") && !cache_control.contains("private") && !cache_control.contains("no-cache"));
        }
    }
}
