//! May the cache answer this request, and is the stored response still good (RFC 9111 §4)?
//!
//! `core/exchange` asks [`bypass`] once per request before the lookup and [`reuse`] once per stored response found; the key was already
//! compared. Invariants: nothing stale is served; a request that this landing cannot answer from the cache goes to the origin.
//! Cache-Control and Pragma of requests are ignored (`--request-directives off`, the profile's default, and T-18).

use aspis_wire::request::RequestHead;
use aspis_wire::{Field, Method};

use crate::age::current_age;
use crate::stored::StoredMeta;

/// Why a request is not answered from the cache and its response not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// The method is neither GET nor HEAD (T-1).
    Method,
    /// The request has a body, which may select the response (profile: "a GET with a body passes uncached").
    Body,
    /// It asks for a part.
    Range,
    /// It is conditional.
    Conditional,
    /// It wants another protocol on this connection.
    Upgrade,
    /// A field asks the origin to treat it as another method, which the key does not show.
    MethodOverride,
    /// Its target is `*` or has no path, which names no resource.
    Target,
}

/// What one pass over a request's fields finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestReading {
    /// Why the cache is not asked; `None` if it is.
    pub bypass: Option<Bypass>,
    /// There is an Authorization field.
    pub authorization: bool,
}

/// Decides whether the cache is asked at all. One pass over the fields, no allocation.
pub fn bypass(head: &RequestHead<'_, '_>) -> RequestReading {
    let mut found = by_fields(head.fields);
    let by_head = match head.method {
        Method::Get | Method::Head if head.upgrade => Some(Bypass::Upgrade),
        Method::Get | Method::Head if head.has_content() => Some(Bypass::Body),
        Method::Get | Method::Head if !head.path_and_query.starts_with('/') => Some(Bypass::Target),
        Method::Get | Method::Head => None,
        _ => Some(Bypass::Method),
    };
    found.bypass = by_head.or(found.bypass);
    found
}

fn by_fields(head: &[Field<'_>]) -> RequestReading {
    let mut found = RequestReading { bypass: None, authorization: false };
    for field in head {
        let name = field.name;
        let is = |word: &str| name.eq_ignore_ascii_case(word);
        // Lengths first: most fields of a request are none of these.
        match name.len() {
            5 if is("range") => found.bypass = Some(Bypass::Range),
            8 if is("if-match") || is("if-range") => found.bypass = Some(Bypass::Conditional),
            13 if is("authorization") => found.authorization = true,
            13 if is("x-http-method") => found.bypass = Some(Bypass::MethodOverride),
            13 if is("if-none-match") => found.bypass = Some(Bypass::Conditional),
            17 if is("if-modified-since") => found.bypass = Some(Bypass::Conditional),
            17 if is("x-method-override") => found.bypass = Some(Bypass::MethodOverride),
            22 if is("x-http-method-override") => found.bypass = Some(Bypass::MethodOverride),
            19 if is("if-unmodified-since") => found.bypass = Some(Bypass::Conditional),
            _ => {}
        }
    }
    found
}

/// Whether a stored response answers now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It does.
    Fresh {
        /// The current age in seconds.
        age: u32,
        /// Seconds of freshness left, above zero.
        ttl: i64,
    },
    /// It does not: the origin is asked.
    Stale {
        /// Seconds of freshness left, zero or below.
        ttl: i64,
    },
}

/// Decides whether a stored response is fresh at wall second `now` (RFC 9111 §4.2).
#[inline]
pub fn reuse(meta: &StoredMeta, now: u64) -> Reuse {
    let age = current_age(meta, now);
    let ttl = i64::from(meta.lifetime) - i64::from(age);
    if ttl > 0 { Reuse::Fresh { age, ttl } } else { Reuse::Stale { ttl } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aspis_wire::request::parse_request;
    use aspis_wire::{FieldSlots, HeadLimits};
    use proptest::prelude::*;

    fn ask(text: &str) -> RequestReading {
        let text = text.replace('\n', "\r\n");
        let mut slots = FieldSlots::new();
        let head = parse_request(text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
        bypass(&head)
    }

    /// RFC 9111 §4 with what this landing leaves to the origin; T-1, T-18.
    #[test]
    fn requests_that_bypass_the_cache() {
        let cases: &[(&str, Option<Bypass>)] = &[
            ("GET / HTTP/1.1\nHost: a\n\n", None),
            ("HEAD / HTTP/1.1\nHost: a\n\n", None),
            (
                "GET / HTTP/1.1\nHost: a\nCache-Control: no-cache, no-store, max-age=0\nPragma: no-cache\n\n",
                None,
            ),
            ("GET / HTTP/1.1\nHost: a\nCookie: a=b\nAuthorization: Basic x\n\n", None),
            ("GET / HTTP/1.1\nHost: a\nContent-Length: 0\n\n", None),
            ("GET / HTTP/1.1\nHost: a\nContent-Length: 1\n\n", Some(Bypass::Body)),
            ("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n", Some(Bypass::Body)),
            ("GET / HTTP/1.1\nHost: a\nRange: bytes=0-1\n\n", Some(Bypass::Range)),
            ("HEAD / HTTP/1.1\nHost: a\nrange: bytes=0-1\n\n", Some(Bypass::Range)),
            ("GET / HTTP/1.1\nHost: a\nIf-Match: \"a\"\n\n", Some(Bypass::Conditional)),
            ("GET / HTTP/1.1\nHost: a\nIF-NONE-MATCH: \"a\"\n\n", Some(Bypass::Conditional)),
            ("GET / HTTP/1.1\nHost: a\nIf-Modified-Since: x\n\n", Some(Bypass::Conditional)),
            ("GET / HTTP/1.1\nHost: a\nIf-Unmodified-Since: x\n\n", Some(Bypass::Conditional)),
            ("GET / HTTP/1.1\nHost: a\nIf-Range: \"a\"\n\n", Some(Bypass::Conditional)),
            ("GET / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket\n\n", Some(Bypass::Upgrade)),
            ("GET / HTTP/1.1\nHost: a\nX-HTTP-Method-Override: DELETE\n\n", Some(Bypass::MethodOverride)),
            ("GET / HTTP/1.1\nHost: a\nX-HTTP-Method: DELETE\n\n", Some(Bypass::MethodOverride)),
            ("GET / HTTP/1.1\nHost: a\nX-Method-Override: DELETE\n\n", Some(Bypass::MethodOverride)),
            ("POST / HTTP/1.1\nHost: a\n\n", Some(Bypass::Method)),
            ("OPTIONS * HTTP/1.1\nHost: a\n\n", Some(Bypass::Method)),
            ("get / HTTP/1.1\nHost: a\n\n", Some(Bypass::Method)),
            ("M-SEARCH / HTTP/1.1\nHost: a\n\n", Some(Bypass::Method)),
        ];
        for (text, expected) in cases {
            assert_eq!(ask(text).bypass, *expected, "{text}");
        }
        assert!(ask("GET / HTTP/1.1\nHost: a\nAuthorization: Basic x\n\n").authorization);
    }

    #[test]
    fn a_response_is_stale_in_the_second_its_lifetime_ends() {
        let meta =
            StoredMeta { status: 200, generated_at: 0, received_at: 100, initial_age: 10, lifetime: 60 };
        assert_eq!(reuse(&meta, 100), Reuse::Fresh { age: 10, ttl: 50 });
        assert_eq!(reuse(&meta, 149), Reuse::Fresh { age: 59, ttl: 1 });
        assert_eq!(reuse(&meta, 150), Reuse::Stale { ttl: 0 });
        assert_eq!(reuse(&meta, 160), Reuse::Stale { ttl: -10 });
        assert_eq!(reuse(&meta, 50), Reuse::Fresh { age: 10, ttl: 50 });
    }

    proptest! {
        #[test]
        fn stale_stays_stale(initial in 0_u32..1000, lifetime in 0_u32..1000, at in 0_u64..3000, later in 0_u64..3000) {
            let meta = StoredMeta { status: 200, generated_at: 0, received_at: 100, initial_age: initial, lifetime };
            if matches!(reuse(&meta, at), Reuse::Stale { .. }) {
                let still_stale = matches!(reuse(&meta, at + later), Reuse::Stale { .. });
                prop_assert!(still_stale);
            }
            prop_assert_eq!(matches!(reuse(&meta, at), Reuse::Fresh { .. }), meta.is_fresh(at));
        }
    }
}
