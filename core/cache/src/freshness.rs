//! How long is a response fresh, counted from its generation (RFC 9111 §4.2.1, rule 5 of the RFC 9111 profile, T-7, T-9, T-15)?
//!
//! `storable` asks once when the origin's head arrives. Invariant: a lifetime is never above the maximum nor below the minimum TTL.

use aspis_config::Behavior;
use aspis_config::behavior::Statuses;
use aspis_wire::{Field, date, fields};

use crate::age::AGE_MAX;
use crate::directives::ResponseDirectives;

/// Returns the lifetime that the origin stated: s-maxage, else max-age, else Expires minus Date; `None` if it stated none.
///
/// A value that does not parse counts as zero, not as absent (T-11). Two Expires lines are expired. Without a valid Date the time of receipt
/// stands for it (T-7); with one, the origin's clock is compared with itself (rule 5).
pub fn explicit_lifetime(
    head: &[Field<'_>],
    directives: &ResponseDirectives,
    generated_at: Option<u64>,
    received_at: u64,
) -> Option<u32> {
    directives.s_maxage.or(directives.max_age).or_else(|| {
        let mut lines = fields::named(head, "expires");
        let first = lines.next()?;
        let expires = if lines.next().is_some() { None } else { date::parse(first) };
        let lifetime = expires.map_or(0, |at| at.saturating_sub(generated_at.unwrap_or(received_at)));
        Some(saturated(lifetime))
    })
}

/// Returns the lifetime that counts: what was stated or guessed, else 0, within minimum and maximum.
///
/// The operator outranks the origin (T-9; profile, additions for origin mode).
pub fn clamped(behavior: &Behavior, seconds: Option<u32>) -> u32 {
    saturated(seconds.map_or(0, u64::from).min(behavior.max_ttl).max(behavior.min_ttl))
}

/// Returns the lifetime where the origin stated none (rule 1, additions for origin mode, T-9, T-33, T-34).
///
/// The default TTL, else a tenth of what lies between Last-Modified and Date, for a status that may be kept without being told so; an
/// error's own TTL where that is longer. `None`: nothing says that it may be kept at all.
pub fn implicit_lifetime(
    behavior: &Behavior,
    status: u16,
    head: &[Field<'_>],
    directives: &ResponseDirectives,
    generated_at: u64,
) -> Option<u32> {
    let named = match behavior.statuses {
        Statuses::Rfc9111 => is_heuristic(status),
        Statuses::Cloudfront => {
            // T-3: 307 and 308 only where the origin sent Cache-Control.
            let told = fields::first(head, "cache-control").is_some();
            (200..400).contains(&status) && (told || !matches!(status, 307 | 308))
        }
    };
    let default = behavior.default_ttl.filter(|_| named).map(saturated);
    let guessed = || {
        let allowed = behavior.heuristic.is_on() && (named || directives.public);
        let modified = fields::first(head, "last-modified").filter(|_| allowed).and_then(date::parse)?;
        Some(saturated(generated_at.saturating_sub(modified) / 10))
    };
    let error = behavior.error_ttl.filter(|_| is_cached_error(status)).map(saturated);
    default.or_else(guessed).max(error)
}

/// Statuses that may be kept without explicit freshness (RFC 9110 §15.1, rule 1).
pub fn is_heuristic(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 451 | 501)
}

/// Errors that the error TTL is for (T-34).
pub fn is_cached_error(status: u16) -> bool {
    matches!(status, 404 | 410 | 414 | 500..=504) && status != 505
}

/// Returns when the origin says that it generated the response: its Date, if there is exactly one and it is valid.
pub fn generated_at(head: &[Field<'_>]) -> Option<u64> {
    let mut lines = fields::named(head, "date");
    let first = lines.next()?;
    if lines.next().is_some() { None } else { date::parse(first) }
}

fn saturated(seconds: u64) -> u32 {
    u32::try_from(seconds).map_or(AGE_MAX, |seconds| seconds.min(AGE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directives::response_directives;
    use crate::storable::tests::behavior;
    use proptest::prelude::*;

    /// Names and values: of fields or of flags.
    type Pairs = [(&'static str, &'static str)];

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const DATE: u64 = 784_111_777;
    const DATE_TEXT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER_TEXT: &str = "Sun, 06 Nov 1994 08:51:37 GMT";

    fn explicit(head: &[(&str, &str)]) -> Option<u32> {
        let head: Vec<Field<'_>> =
            head.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect();
        explicit_lifetime(&head, &response_directives(&head), generated_at(&head), DATE + 60)
    }

    /// What a 200 without Last-Modified gets.
    fn decided(behavior: &Behavior, explicit: Option<u32>) -> u32 {
        let implicit = || implicit_lifetime(behavior, 200, &[], &ResponseDirectives::default(), DATE);
        clamped(behavior, explicit.or_else(implicit))
    }

    /// Rule 1: which statuses, and how long; the error TTL and CloudFront's rules (T-3, T-13, T-34).
    #[test]
    fn lifetimes_that_nobody_stated() {
        let modified = Field { name: "Last-Modified", value: b"Sun, 06 Nov 1994 08:32:57 GMT" };
        let ask = |flags: &[(&str, &str)], status, public| {
            let directives = ResponseDirectives { public, ..ResponseDirectives::default() };
            implicit_lifetime(&behavior(flags), status, &[modified], &directives, DATE)
        };
        for status in [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 451, 501] {
            assert_eq!(ask(&[], status, false), Some(100), "{status}");
        }
        for status in [201, 202, 302, 303, 307, 400, 403, 500, 502, 503, 504, 599] {
            assert_eq!((ask(&[], status, false), ask(&[], status, true)), (None, Some(100)), "{status}");
        }
        assert_eq!(ask(&[("default-ttl", "5s")], 200, false), Some(5));
        assert_eq!(ask(&[("default-ttl", "5s")], 302, false), None);
        assert_eq!(ask(&[("heuristic-freshness", "off")], 200, true), None);
        assert_eq!(ask(&[("error-ttl", "7s")], 503, false), Some(7));
        assert_eq!(ask(&[("error-ttl", "7s")], 404, false), Some(100));
        assert_eq!(ask(&[("error-ttl", "7s")], 403, false), None);
        let cloudfront: &[(&str, &str)] = &[("semantics", "cloudfront")];
        for (status, expected) in
            [(200, Some(86_400)), (302, Some(86_400)), (307, None), (404, Some(10)), (403, None)]
        {
            assert_eq!(ask(cloudfront, status, false), expected, "{status}");
        }
    }

    /// Rule 5 and T-7, T-11, RFC 9111 §5.3.
    #[test]
    fn the_first_of_s_maxage_max_age_and_expires_decides() {
        let date = ("Date", DATE_TEXT);
        let cases: &[(&Pairs, Option<u32>)] = &[
            (&[], None),
            (&[("Cache-Control", "public")], None),
            (&[("Cache-Control", "max-age=10, s-maxage=600")], Some(600)),
            (&[("Cache-Control", "max-age=600, s-maxage=0")], Some(0)),
            (&[date, ("Expires", LATER_TEXT), ("Cache-Control", "max-age=30")], Some(30)),
            (&[date, ("Expires", LATER_TEXT)], Some(120)),
            (&[date, ("Expires", "Sunday, 06-Nov-94 08:51:37 GMT")], Some(120)),
            (&[date, ("Expires", "Sun Nov  6 08:51:37 1994")], Some(120)),
            (&[("Expires", LATER_TEXT)], Some(60)), // no Date: the time of receipt
            (&[("Date", "nonsense"), ("Expires", LATER_TEXT)], Some(60)),
            (&[date, ("Expires", "0")], Some(0)),
            (&[date, ("Expires", "-1")], Some(0)),
            (&[date, ("Expires", "")], Some(0)),
            (&[date, ("Expires", "Sun, 06 Nov 1994 08:51:37 PST")], Some(0)),
            (&[date, ("Expires", DATE_TEXT)], Some(0)),
            (&[date, ("Expires", LATER_TEXT), ("Expires", LATER_TEXT)], Some(0)),
            (&[date, ("Expires", LATER_TEXT), ("Cache-Control", "max-age=x")], Some(0)),
            (&[date, ("Expires", LATER_TEXT), ("Cache-Control", "max-age = 5")], Some(120)),
        ];
        for (head, expected) in cases {
            assert_eq!(explicit(head), *expected, "{head:?}");
        }
    }

    /// T-9, T-15 and the profile's additions for origin mode.
    #[test]
    fn the_operator_outranks_the_origin() {
        let cases: &[(&Pairs, Option<u32>, u32)] = &[
            (&[], None, 0),
            (&[], Some(10), 10),
            (&[], Some(AGE_MAX), 31_536_000),
            (&[("min-ttl", "60s")], Some(0), 60),
            (&[("min-ttl", "60s")], None, 60),
            (&[("default-ttl", "300s")], None, 300),
            (&[("default-ttl", "300s")], Some(0), 0),
            (&[("max-ttl", "5s")], Some(10), 5),
            (&[("semantics", "cloudfront")], None, 86_400),
            (
                &[
                    ("semantics", "cloudfront"),
                    ("min-ttl", "60s"),
                    ("default-ttl", "300s"),
                    ("max-ttl", "1h"),
                ],
                None,
                300,
            ),
            (
                &[
                    ("semantics", "cloudfront"),
                    ("min-ttl", "60s"),
                    ("default-ttl", "300s"),
                    ("max-ttl", "1h"),
                ],
                Some(99_999_999),
                3600,
            ),
            (&[("max-ttl", "36500d")], Some(AGE_MAX), AGE_MAX), // T-6
        ];
        for (flags, explicit, expected) in cases {
            assert_eq!(decided(&behavior(flags), *explicit), *expected, "{flags:?} {explicit:?}");
        }
    }

    #[test]
    fn a_repeated_date_is_no_date() {
        let line = Field { name: "Date", value: DATE_TEXT.as_bytes() };
        assert_eq!(generated_at(&[line]), Some(DATE));
        assert_eq!(generated_at(&[line, line]), None);
    }

    proptest! {
        #[test]
        fn lifetime_stays_within_minimum_and_maximum(
            explicit in proptest::option::of(0_u32..=AGE_MAX), min in 0_u64..1000, span in 0_u64..1000, default in 0_u64..1000, given in any::<bool>()
        ) {
            let max = min + span;
            let mut behavior = behavior(&[]);
            behavior.min_ttl = min;
            behavior.max_ttl = max;
            behavior.default_ttl = given.then_some(min + default % (span + 1));
            let answer = u64::from(decided(&behavior, explicit));
            prop_assert!((min..=max).contains(&answer));
        }

        #[test]
        fn no_dates_panic(expires in "\\PC{0,30}", date in "\\PC{0,30}", received in any::<u64>()) {
            let head = [Field { name: "expires", value: expires.as_bytes() }, Field { name: "date", value: date.as_bytes() }];
            let _ = explicit_lifetime(&head, &response_directives(&head), generated_at(&head), received);
        }
    }
}
