//! May the cache answer this request, and is the stored response still good (RFC 9111 §4)?
//!
//! `core/exchange` asks [`bypass`] once per request before the lookup and [`reuse`] once per stored response found; the key was already
//! compared. Invariant: nothing stale is served but where the origin's directives, the operator and the case allow it.
//! Cache-Control and Pragma of requests are ignored (`--request-directives off`, the profile's default, and T-18).

use aspis_config::Behavior;
use aspis_wire::request::RequestHead;
use aspis_wire::{Field, Method};

use crate::age::current_age;
use crate::stored::{StaleIfError, StoredMeta};

/// Why a request is not answered from the cache and its response not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// The method is neither GET nor HEAD (T-1).
    Method,
    /// The request has a body, which may select the response (profile: "a GET with a body passes uncached").
    Body,
    /// It wants another protocol on this connection.
    Upgrade,
    /// A field asks the origin to treat it as another method, which the key does not show.
    MethodOverride,
    /// Its target is `*` or has no path, which names no resource.
    Target,
}

/// What one pass over a request's fields finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestReading {
    /// Why the cache is not asked; `None` if it is.
    pub bypass: Option<Bypass>,
    /// There is an Authorization field.
    pub authorization: bool,
    /// There is a precondition that a matching response answers with 304.
    pub conditional: bool,
    /// There is a precondition that only the current representation passes: If-Match or If-Unmodified-Since.
    pub guarded: bool,
    /// There is a Range field.
    pub range: bool,
    /// There is Cache-Control or Pragma.
    pub directives: bool,
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
    let mut found = RequestReading::default();
    for field in head {
        let name = field.name;
        let is = |word: &str| name.eq_ignore_ascii_case(word);
        // Lengths first: most fields of a request are none of these.
        match name.len() {
            5 if is("range") => found.range = true,
            6 if is("pragma") => found.directives = true,
            8 if is("if-match") => found.guarded = true,
            13 if is("cache-control") => found.directives = true,
            13 if is("authorization") => found.authorization = true,
            13 if is("x-http-method") => found.bypass = Some(Bypass::MethodOverride),
            13 if is("if-none-match") => found.conditional = true,
            17 if is("if-modified-since") => found.conditional = true,
            17 if is("x-method-override") => found.bypass = Some(Bypass::MethodOverride),
            22 if is("x-http-method-override") => found.bypass = Some(Bypass::MethodOverride),
            19 if is("if-unmodified-since") => found.guarded = true,
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
        /// The current age in seconds.
        age: u32,
        /// Seconds of freshness left, zero or below.
        ttl: i64,
    },
}

/// Decides whether a stored response is fresh at wall second `now` (RFC 9111 §4.2).
#[inline]
pub fn reuse(meta: &StoredMeta, now: u64) -> Reuse {
    reuse_until(meta, u64::MAX, now)
}

/// The same for a response whose freshness ended at wall second `ended_at`, unless its facts end it before: a soft invalidation does that.
#[inline]
pub fn reuse_until(meta: &StoredMeta, ended_at: u64, now: u64) -> Reuse {
    let age = current_age(meta, now);
    let left = ended_at.min(i64::MAX as u64) as i64 - now as i64;
    let ttl = (i64::from(meta.lifetime) - i64::from(age)).min(left);
    if ttl > 0 { Reuse::Fresh { age, ttl } } else { Reuse::Stale { age, ttl } }
}

/// Tells whether a stale response is served at once while it is validated in the background (RFC 5861 §3, T-29).
///
/// For GET only: a HEAD brings no response that could take its place (rule 15).
pub fn serves_while_revalidating(behavior: &Behavior, meta: &StoredMeta, age: u32, ttl: i64) -> bool {
    ttl <= 0
        && -ttl < i64::from(meta.stale_while_revalidate)
        && meta.lifetime > 0
        && within_maximum(behavior, age)
}

/// Tells whether a stale response is served because the origin failed (rule 15, RFC 5861 §4, T-26 to T-28).
pub fn serves_on_error(behavior: &Behavior, meta: &StoredMeta, age: u32, ttl: i64) -> bool {
    let stale_for = -ttl.min(0);
    let allowed = match meta.stale_if_error {
        StaleIfError::Forbidden => false,
        StaleIfError::Unstated => true,
        StaleIfError::Within(seconds) => stale_for <= i64::from(seconds),
    };
    // A broken answer of the origin's was stored because it was fresh; stale it is worth nothing.
    allowed && meta.status < 500 && within_maximum(behavior, age)
}

/// T-26: once the maximum TTL has passed the response counts as gone. A maximum of 0 forbids all storing, not all staleness.
fn within_maximum(behavior: &Behavior, age: u32) -> bool {
    u64::from(age) <= behavior.max_ttl
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

    /// RFC 9111 §4; T-1, T-18.
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
            ("GET / HTTP/1.1\nHost: a\nRange: bytes=0-1\n\n", None),
            ("HEAD / HTTP/1.1\nHost: a\nrange: bytes=0-1\n\n", None),
            ("GET / HTTP/1.1\nHost: a\nIf-Match: \"a\"\n\n", None),
            ("GET / HTTP/1.1\nHost: a\nIF-NONE-MATCH: \"a\"\n\n", None),
            ("GET / HTTP/1.1\nHost: a\nIf-Modified-Since: x\n\n", None),
            ("GET / HTTP/1.1\nHost: a\nIf-Unmodified-Since: x\n\n", None),
            ("GET / HTTP/1.1\nHost: a\nIf-Range: \"a\"\n\n", None),
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
        assert!(ask("GET / HTTP/1.1\nHost: a\nRange: bytes=0-1\n\n").range);
        assert!(ask("GET / HTTP/1.1\nHost: a\nIf-Match: *\n\n").guarded);
        assert!(ask("GET / HTTP/1.1\nHost: a\nIf-Modified-Since: x\n\n").conditional);
        assert!(ask("GET / HTTP/1.1\nHost: a\nPragma: no-cache\n\n").directives);
    }

    #[test]
    fn a_response_is_stale_in_the_second_its_lifetime_ends() {
        let meta = StoredMeta { received_at: 100, initial_age: 10, lifetime: 60, ..StoredMeta::PLAIN };
        assert_eq!(reuse(&meta, 100), Reuse::Fresh { age: 10, ttl: 50 });
        assert_eq!(reuse(&meta, 149), Reuse::Fresh { age: 59, ttl: 1 });
        assert_eq!(reuse(&meta, 150), Reuse::Stale { age: 60, ttl: 0 });
        assert_eq!(reuse(&meta, 160), Reuse::Stale { age: 70, ttl: -10 });
        assert_eq!(reuse(&meta, 50), Reuse::Fresh { age: 10, ttl: 50 });
        assert_eq!(reuse_until(&meta, 120, 119), Reuse::Fresh { age: 29, ttl: 1 });
        assert_eq!(reuse_until(&meta, 120, 120), Reuse::Stale { age: 30, ttl: 0 });
        assert_eq!(reuse_until(&meta, 120, 127), Reuse::Stale { age: 37, ttl: -7 }, "stale since then");
        assert_eq!(reuse_until(&meta, 170, 160), Reuse::Stale { age: 70, ttl: -10 }, "it was over before");
    }

    /// Rule 15, RFC 5861, T-26, T-29.
    #[test]
    fn stale_responses_are_served_only_within_their_windows() {
        let behavior = crate::storable::tests::behavior(&[("max-ttl", "1000s")]);
        let meta = StoredMeta { lifetime: 60, stale_while_revalidate: 10, ..StoredMeta::PLAIN };
        let while_revalidating =
            |age: u32| serves_while_revalidating(&behavior, &meta, age, 60 - i64::from(age));
        assert!(
            !while_revalidating(59)
                && while_revalidating(60)
                && while_revalidating(69)
                && !while_revalidating(70)
        );
        let on_error = |stale_if_error, age: u32| {
            let meta = StoredMeta { stale_if_error, ..meta };
            serves_on_error(&behavior, &meta, age, 60 - i64::from(age))
        };
        assert!(on_error(StaleIfError::Unstated, 1000) && !on_error(StaleIfError::Unstated, 1001));
        assert!(on_error(StaleIfError::Within(5), 65) && !on_error(StaleIfError::Within(5), 66));
        assert!(!on_error(StaleIfError::Forbidden, 60));
        let broken = StoredMeta { status: 503, ..meta };
        assert!(!serves_on_error(&behavior, &broken, 61, -1));
    }

    proptest! {
        #[test]
        fn stale_stays_stale(initial in 0_u32..1000, lifetime in 0_u32..1000, at in 0_u64..3000, later in 0_u64..3000) {
            let meta = StoredMeta { received_at: 100, initial_age: initial, lifetime, ..StoredMeta::PLAIN };
            if matches!(reuse(&meta, at), Reuse::Stale { .. }) {
                let still_stale = matches!(reuse(&meta, at + later), Reuse::Stale { .. });
                prop_assert!(still_stale);
            }
            prop_assert_eq!(matches!(reuse(&meta, at), Reuse::Fresh { .. }), meta.is_fresh(at));
        }
    }
}
