//! Which bytes a `Range` field asks for (RFC 9110 §14), for an object of known length.
//!
//! One range is served; a list of several is answered with the whole object, which the RFC allows.

use std::ops::Range;

/// What to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The whole object with 200: no range, one that cannot be read, or several.
    Whole,
    /// These bytes with 206.
    Part(Range<u64>),
    /// Nothing, with 416: the range lies beyond the end.
    Unsatisfiable,
}

/// Reads a `Range` field for an object of `len` bytes.
pub(super) fn wanted(field: Option<&str>, len: u64) -> Wanted {
    let Some(spec) = field.and_then(|text| text.trim().strip_prefix("bytes=")) else { return Wanted::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Wanted::Whole };
    match (number(first), number(last)) {
        (Number::Absent, Number::Is(count)) => suffix(count, len),
        (Number::Is(first), Number::Absent) => part(first, u64::MAX, len),
        (Number::Is(first), Number::Is(last)) if first <= last => part(first, last, len),
        _ => Wanted::Whole,
    }
}

enum Number {
    Absent,
    Is(u64),
    Unreadable,
}

fn number(text: &str) -> Number {
    if text.is_empty() {
        return Number::Absent;
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Number::Unreadable;
    }
    // More digits than fit are a position beyond any end.
    Number::Is(text.parse().unwrap_or(u64::MAX))
}

fn part(first: u64, last: u64, len: u64) -> Wanted {
    if first >= len { Wanted::Unsatisfiable } else { Wanted::Part(first..last.saturating_add(1).min(len)) }
}

fn suffix(count: u64, len: u64) -> Wanted {
    if count == 0 || len == 0 { Wanted::Unsatisfiable } else { Wanted::Part(len.saturating_sub(count)..len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_a_part() {
        for (field, expected) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-99", 0..100),
            ("bytes=10-19", 10..20),
            ("bytes=10-", 10..100),
            ("bytes=90-1000", 90..100),
            ("bytes=-1", 99..100),
            ("bytes=-1000", 0..100),
            ("bytes=99-99999999999999999999999999", 99..100),
        ] {
            assert_eq!(wanted(Some(field), 100), Wanted::Part(expected), "{field}");
        }
    }

    #[test]
    fn a_range_beyond_the_end_cannot_be_satisfied() {
        for field in ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999-"] {
            assert_eq!(wanted(Some(field), 100), Wanted::Unsatisfiable, "{field}");
        }
        assert_eq!(wanted(Some("bytes=-5"), 0), Wanted::Unsatisfiable);
    }

    #[test]
    fn anything_else_is_the_whole() {
        assert_eq!(wanted(None, 100), Wanted::Whole);
        for field in
            ["", "bytes=", "bytes=-", "bytes=5-4", "bytes=a-b", "bytes=1-2,4-5", "items=1-2", "bytes=+1-2"]
        {
            assert_eq!(wanted(Some(field), 100), Wanted::Whole, "{field}");
        }
    }
}
