//! How old is a response (RFC 9111 §4.2.3, rule 6 of the RFC 9111 profile)?
//!
//! `storable` asks for the initial age when a head arrives, `reuse` for the current age at each hit.
//! Invariant: for a given stored response the current age never falls as the clock advances, and never
//! passes [`AGE_MAX`].

use crate::stored::StoredMeta;

/// The largest age that is counted: 2^31 seconds (RFC 9111 §1.2.2).
pub const AGE_MAX: u32 = 1 << 31;

/// Returns the age of a stored response at wall second `now`: its initial age plus the time it rested here (T-43).
///
/// A clock that stands before the time of receipt counts as no time at all, so that age never falls.
pub fn current_age(meta: &StoredMeta, now: u64) -> u32 {
    let resident = now.saturating_sub(meta.received_at);
    saturated(u64::from(meta.initial_age).saturating_add(resident))
}

/// Returns the corrected initial age: the larger of apparent age and `Age` plus response delay.
///
/// `age_field` is the value of the first `Age` field line; of several members the first counts, an invalid one is
/// ignored (rule 6, RFC 9111 §5.1). `received_at` is when the head came. What was generated since the request was sent is as old as the
/// delay at most, so its Date says nothing more; else a response that crosses the tick of a second would be a second old, and one with a
/// lifetime of a second would never be fresh.
pub fn initial_age(
    age_field: Option<&[u8]>,
    generated_at: Option<u64>,
    sent: Delay,
    received_at: u64,
) -> u32 {
    let before = generated_at.filter(|date| *date < sent.requested_at);
    let apparent = before.map_or(0, |date| received_at.saturating_sub(date));
    let reported = age_field.and_then(parse_age).unwrap_or(0);
    saturated(apparent.max(u64::from(reported).saturating_add(sent.seconds)))
}

/// How long a response was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// The wall second in which the request was sent.
    pub requested_at: u64,
    /// Whole seconds that passed until the head came; fewer than the clock's seconds by one at most.
    pub seconds: u64,
}

/// Reads an `Age` value: digits only, saturating at [`AGE_MAX`]; of a list the first member.
///
/// Nothing is returned for anything else: an invalid `Age` is ignored, not read as stale.
pub fn parse_age(value: &[u8]) -> Option<u32> {
    let first = value.split(|&byte| byte == b',').next().unwrap_or(value);
    parse_seconds(first.trim_ascii())
}

/// Reads delta-seconds: one or more digits, saturating at 2^31 (RFC 9111 §1.2.2).
pub(crate) fn parse_seconds(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0_u64, |value, digit| {
        value.saturating_mul(10).saturating_add(u64::from(digit - b'0')).min(u64::from(AGE_MAX))
    });
    Some(saturated(value))
}

fn saturated(seconds: u64) -> u32 {
    u32::try_from(seconds).map_or(AGE_MAX, |seconds| seconds.min(AGE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn delay(sent: u64, received: u64) -> Delay {
        Delay { requested_at: sent, seconds: received - sent }
    }

    fn meta(received_at: u64, initial_age: u32) -> StoredMeta {
        StoredMeta {
            status: 200,
            generated_at: received_at,
            received_at,
            initial_age,
            lifetime: 60,
            ..StoredMeta::PLAIN
        }
    }

    /// RFC 9111 §4.2.3 and rule 6: which of the two ages counts.
    #[test]
    fn initial_age_is_the_larger_of_apparent_and_reported() {
        let cases = [
            // Age, Date, sent, received, expected
            (None, None, 100, 100, 0),
            (None, Some(90), 100, 100, 10),
            (None, Some(200), 100, 100, 0), // the origin's clock is ahead
            (Some("30"), Some(90), 100, 100, 30),
            (Some("30"), Some(10), 100, 100, 90),
            (Some("30"), None, 100, 105, 35), // response delay is added
            (None, None, 100, 105, 5),
            (Some("7200, 0"), None, 100, 100, 7200), // the first of several
            (Some("nonsense"), Some(95), 100, 100, 5),
            (Some("-10"), None, 100, 100, 0),
            (Some("7200.0"), None, 100, 100, 0),
            (Some(""), None, 100, 100, 0),
            (Some("99999999999999999999"), None, 100, 100, AGE_MAX),
        ];
        for (age, date, sent, received, expected) in cases {
            assert_eq!(
                initial_age(age.map(|age: &str| age.as_bytes()), date, delay(sent, received), received),
                expected,
                "Age {age:?} Date {date:?}"
            );
        }
    }

    /// The tick of a second between request and answer is no second of delay, and the Date of the answer is none of age.
    #[test]
    fn an_answer_that_crosses_a_tick_is_not_a_second_old() {
        let sent = Delay { requested_at: 99, seconds: 0 };
        for (date, expected) in [(None, 0), (Some(99), 0), (Some(100), 0), (Some(98), 2)] {
            assert_eq!(initial_age(None, date, sent, 100), expected, "{date:?}");
        }
    }

    #[test]
    fn freshness_ends_when_age_reaches_the_lifetime() {
        let meta = meta(1000, 10);
        assert_eq!(meta.fresh_until(), 1050);
        assert!(meta.is_fresh(1049));
        assert!(!meta.is_fresh(1050));
    }

    /// Rule 6: a larger Age than the lifetime arrives as stale.
    #[test]
    fn response_older_than_its_lifetime_is_never_fresh() {
        let meta = meta(1000, 61);
        assert!(!meta.is_fresh(1000));
        assert!(!meta.is_fresh(0));
    }

    proptest! {
        #[test]
        fn age_never_falls(
            received in 0_u64..1 << 40, initial in 0_u32..=AGE_MAX, at in 0_u64..1 << 41, later in 0_u64..1 << 41
        ) {
            let meta = meta(received, initial);
            let first = current_age(&meta, at);
            let second = current_age(&meta, at.saturating_add(later));
            prop_assert!(second >= first);
            prop_assert!(second <= AGE_MAX);
        }

        #[test]
        fn initial_age_is_at_least_what_a_valid_age_field_says(age in 0_u32..AGE_MAX, sent in 0_u64..1 << 40, delay in 0_u64..1000) {
            let text = age.to_string();
            let sent = Delay { requested_at: sent, seconds: delay };
            let answer = initial_age(Some(text.as_bytes()), None, sent, sent.requested_at + delay);
            prop_assert!(answer >= age);
        }

        #[test]
        fn any_bytes_are_read_without_panic(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = parse_age(&value);
            prop_assert!(initial_age(Some(&value), None, delay(5, 5), 4) <= AGE_MAX);
        }
    }
}
