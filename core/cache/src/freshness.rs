//! How long is a response fresh, counted from its generation (RFC 9111 §4.2.1, rule 5 of the RFC 9111 profile, T-7, T-9, T-15)?
//!
//! `storable` asks once when the origin's head arrives. Invariant: a lifetime is never above the maximum nor below the minimum TTL.

use aspis_config::Behavior;
use aspis_wire::{Field, date, fields};

use crate::age::AGE_MAX;
use crate::directives::ResponseDirectives;

/// Returns the lifetime that the origin stated: s-maxage, else max-age, else Expires minus Date; `None` if it stated none.
///
/// A value that does not parse counts as zero, not as absent. Two Expires lines are expired. Without a valid Date the time of receipt
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

/// Returns the lifetime that counts: what the origin stated, else the default TTL, else 0, within minimum and maximum.
///
/// The operator outranks the origin (T-9). Heuristic freshness is not part of this landing, so a response that states
/// nothing where no default is set has lifetime 0, or the minimum (profile, additions for origin mode).
pub fn lifetime(behavior: &Behavior, explicit: Option<u32>) -> u32 {
    let stated = explicit.map(u64::from).or(behavior.default_ttl).unwrap_or(0);
    saturated(stated.min(behavior.max_ttl).max(behavior.min_ttl))
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
            assert_eq!(lifetime(&behavior(flags), *explicit), *expected, "{flags:?} {explicit:?}");
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
            let answer = u64::from(lifetime(&behavior, explicit));
            prop_assert!((min..=max).contains(&answer));
        }

        #[test]
        fn no_dates_panic(expires in "\\PC{0,30}", date in "\\PC{0,30}", received in any::<u64>()) {
            let head = [Field { name: "expires", value: expires.as_bytes() }, Field { name: "date", value: date.as_bytes() }];
            let _ = explicit_lifetime(&head, &response_directives(&head), generated_at(&head), received);
        }
    }
}
