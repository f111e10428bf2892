use aspis_config::{Raw, check};
use aspis_wire::Version;
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
const GET: RequestFacts = RequestFacts { may_store: true, authorization: false, requested_at: NOW };

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

/// RFC 9111 §3 and rules 3, 7, 8, 11, 14, 17: one line per reason.
#[test]
fn the_plain_case_is_stored_and_every_doubt_is_not() {
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
        (&[("Last-Modified", "Sun, 06 Nov 1983 08:49:37 GMT")], Err(NotStored::NotFresh)),
        (&[("Cache-Control", "max-age=0")], Err(NotStored::NotFresh)),
        (&[("Cache-Control", "public")], Err(NotStored::NotFresh)),
        (&[fresh, ("Age", "60")], Err(NotStored::NotFresh)), // rule 6
        (&[fresh, ("Date", "Sun, 06 Nov 1994 08:40:00 GMT")], Err(NotStored::NotFresh)),
        (&[("Cache-Control", "max-age=60, no-store")], Err(NotStored::NoStore)),
        (&[fresh, ("Cache-Control", "no-store")], Err(NotStored::NoStore)),
        (&[fresh, ("Cache-Control", "private")], Err(NotStored::Private)),
        (&[fresh, ("Cache-Control", "private=\"x\"")], Err(NotStored::Private)),
        (&[fresh, ("Cache-Control", "no-cache")], Err(NotStored::NoCache)),
        (&[fresh, ("Cache-Control", "no-cache=\"set-cookie\"")], Err(NotStored::NoCache)),
        (&[fresh, ("Vary", "Accept")], Err(NotStored::Vary)),
        (&[fresh, ("vary", "")], Err(NotStored::Vary)),
        (&[fresh, ("Set-Cookie", "a=b")], Err(NotStored::SetCookie)),
        (&[fresh, ("Content-Range", "bytes 0-1/2")], Err(NotStored::Unknown)),
        (&[fresh, ("CDN-Cache-Control", "max-age=1")], Err(NotStored::Unknown)),
        (&[fresh, ("Surrogate-Control", "max-age=1")], Err(NotStored::Unknown)),
    ];
    for (head, expected) in cases {
        assert_eq!(stored(head), *expected, "{head:?}");
    }
}

#[test]
fn only_a_whole_200_to_a_get_is_stored() {
    let fresh = [("Cache-Control", "max-age=60")];
    for status in [201, 203, 204, 206, 301, 304, 404, 500, 599] {
        assert_eq!(ask(&[], GET, status, ResponseFraming::Length(0), &fresh), Err(NotStored::Status));
    }
    let other = RequestFacts { may_store: false, ..GET };
    assert_eq!(ask(&[], other, 200, ResponseFraming::Length(0), &fresh), Err(NotStored::Request));
    assert!(ask(&[], GET, 200, ResponseFraming::Chunked, &fresh).is_ok());
    assert_eq!(ask(&[], GET, 200, ResponseFraming::UntilClose, &fresh), Err(NotStored::Length));
    assert_eq!(ask(&[], GET, 200, ResponseFraming::None, &fresh), Err(NotStored::Length));
    let limit = [("object-size-max", "10B")];
    assert!(ask(&limit, GET, 200, ResponseFraming::Length(10), &fresh).is_ok());
    assert_eq!(ask(&limit, GET, 200, ResponseFraming::Length(11), &fresh), Err(NotStored::TooLarge));
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

/// T-8, T-9: the table of file 03, for both columns.
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

/// Profile, additions: in rfc9111 the minimum lifts a lifetime but never what a directive forbids.
#[test]
fn minimum_ttl_never_permits_what_rfc9111_forbids() {
    let flags = [("min-ttl", "60s")];
    let get = |value| ask(&flags, GET, 200, ResponseFraming::Length(0), &[("Cache-Control", value)]);
    assert_eq!(get("max-age=0").map(|meta| meta.lifetime), Ok(60));
    assert_eq!(get("no-store"), Err(NotStored::NoStore));
    assert_eq!(get("private"), Err(NotStored::Private));
    assert_eq!(get("no-cache"), Err(NotStored::NoCache));
}

/// T-16 against rule 6: whether the origin's age uses up the lifetime.
#[test]
fn origin_age_counts_in_rfc9111_only() {
    let head = [("Cache-Control", "max-age=60"), ("Age", "50")];
    let rfc = ask(&[], GET, 200, ResponseFraming::Length(0), &head).unwrap();
    assert_eq!((rfc.initial_age, rfc.fresh_until()), (50, NOW + 10));
    let cloudfront =
        ask(&[("semantics", "cloudfront")], GET, 200, ResponseFraming::Length(0), &head).unwrap();
    assert_eq!((cloudfront.initial_age, cloudfront.fresh_until()), (50, NOW + 60));
}

proptest! {
    #[test]
    fn what_is_stored_is_fresh_on_arrival_and_bounded(
        cache_control in "(max-age=[0-9]{1,10}|s-maxage=[0-9]{1,4}|public|private|no-store|no-cache)(, ?(max-age=[0-9]{1,5}|public|must-revalidate))?",
        age in "[0-9]{0,12}", delay in 0_u64..100,
    ) {
        let request = RequestFacts { requested_at: NOW - delay, ..GET };
        let head = [("Cache-Control", cache_control.as_str()), ("Age", age.as_str())];
        if let Ok(meta) = ask(&[], request, 200, ResponseFraming::Length(0), &head) {
            prop_assert!(meta.is_fresh(NOW));
            prop_assert!(u64::from(meta.lifetime) <= 31_536_000);
            prop_assert!(meta.fresh_until() <= NOW + u64::from(meta.lifetime));
            prop_assert!(!cache_control.contains("no-store") && !cache_control.contains("private") && !cache_control.contains("no-cache"));
        }
    }
}
