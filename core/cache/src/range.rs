//! Which bytes does a Range field ask for (RFC 9110 §14, R-1, R-12 to R-14)?
//!
//! `core/exchange` asks when a complete stored 200 could answer. Invariants: ranges lie within the content, ascend and do not
//! overlap; a field that asks for anything else is ignored as a whole, which gives the complete content.

use aspis_wire::{Field, fields};

/// The most ranges that one request may ask for; more are ignored (RFC 9110 §17.15).
pub const RANGE_COUNT_MAX: usize = 16;

/// Bytes `start..end` of the content; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// The first byte behind it.
    pub end: u64,
}

impl ByteRange {
    /// Returns how many bytes it names.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Never: a range names at least one byte.
    pub const fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// Ranges in ascending order, without an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    list: [ByteRange; RANGE_COUNT_MAX],
    count: usize,
}

impl Ranges {
    /// Returns them; there is at least one.
    pub fn as_slice(&self) -> &[ByteRange] {
        &self.list[..self.count]
    }
}

/// What a Range field means for content of a known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for one call on the stack; a box would be an allocation for each range"
)]
pub enum Selection {
    /// No field, or one to be ignored.
    Whole,
    /// These.
    Parts(Ranges),
    /// No byte of it is there: 416.
    Unsatisfiable,
}

/// Reads the Range field of a request for content of `len` bytes.
pub fn select(request: &[Field<'_>], len: u64) -> Selection {
    let mut lines = fields::named(request, "range");
    match (lines.next(), lines.next()) {
        (Some(value), None) => parse(value, len),
        _ => Selection::Whole,
    }
}

/// Returns the smallest range that holds all that a request asks for of content of `len` bytes: all of it where no range counts.
pub fn span(request: &[Field<'_>], len: u64) -> ByteRange {
    let whole = ByteRange { start: 0, end: len };
    match select(request, len) {
        // Those that count are in ascending order.
        Selection::Parts(ranges) => match ranges.as_slice() {
            [first, .., last] => ByteRange { start: first.start, end: last.end },
            [one] => *one,
            [] => whole,
        },
        Selection::Whole | Selection::Unsatisfiable => whole,
    }
}

fn parse(value: &[u8], len: u64) -> Selection {
    let Some((unit, specs)) = split(value, b'=') else { return Selection::Whole };
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return Selection::Whole;
    }
    let mut ranges = Ranges { list: [ByteRange { start: 0, end: 0 }; RANGE_COUNT_MAX], count: 0 };
    let mut spec_count = 0;
    let mut reached = 0;
    for spec in fields::list(specs) {
        spec_count += 1;
        let Some(spec) = Spec::parse(spec) else { return Selection::Whole };
        if spec_count > RANGE_COUNT_MAX {
            return Selection::Whole;
        }
        let Some(range) = spec.within(len) else { continue };
        // out of order or overlapping asks are ignored whole; they cost more than they are worth.
        if range.start < reached {
            return Selection::Whole;
        }
        reached = range.end;
        ranges.list[ranges.count] = range;
        ranges.count += 1;
    }
    match (spec_count, ranges.count) {
        (0, _) => Selection::Whole,
        (_, 0) => Selection::Unsatisfiable,
        _ => Selection::Parts(ranges),
    }
}

/// One range as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    /// `first-last` or `first-`.
    From(u64, Option<u64>),
    /// `-length`.
    Last(u64),
}

impl Spec {
    fn parse(text: &[u8]) -> Option<Self> {
        let (first, last) = split(text, b'-')?;
        match (first, last) {
            (b"", last) => number(last).map(Self::Last),
            (first, b"") => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From(first, Some(last)))
            }
        }
    }

    /// what reaches beyond the end is cut; what begins there is not satisfiable.
    fn within(self, len: u64) -> Option<ByteRange> {
        let range = match self {
            Self::From(first, last) => {
                ByteRange { start: first, end: last.map_or(len, |last| last.saturating_add(1).min(len)) }
            }
            Self::Last(count) => ByteRange { start: len.saturating_sub(count), end: len },
        };
        (!range.is_empty()).then_some(range)
    }
}

fn split(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

/// Digits only; a number beyond 64 bits counts as the largest.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

/// What a `Content-Range` of a 206 says: first byte, last byte, and the complete length unless it is `*` (RFC 9110 §14.4).
pub fn parse_content_range(value: &[u8]) -> Option<(ByteRange, Option<u64>)> {
    let (unit, rest) = split(value, b' ')?;
    let (range, total) = split(rest, b'/')?;
    let (first, last) = split(range, b'-')?;
    let (first, last) = (number(first)?, number(last)?);
    let total = if total == b"*" { None } else { Some(number(total)?) };
    let fits = first <= last && last < u64::MAX && total.is_none_or(|total| last < total);
    let range = ByteRange { start: first, end: last.saturating_add(1) };
    (unit.eq_ignore_ascii_case(b"bytes") && fits).then_some((range, total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// First bytes and those behind the last.
    type Tiles = [(u64, u64)];

    fn parts(value: &str, len: u64) -> Option<Vec<(u64, u64)>> {
        let request = [Field { name: "Range", value: value.as_bytes() }];
        match select(&request, len) {
            Selection::Whole => None,
            Selection::Unsatisfiable => Some(Vec::new()),
            Selection::Parts(ranges) => {
                Some(ranges.as_slice().iter().map(|range| (range.start, range.end)).collect())
            }
        }
    }

    /// and RFC 9110 §14.1.2.
    #[test]
    fn ranges_are_read_cut_or_ignored() {
        let cases: &[(&str, Option<&Tiles>)] = &[
            ("bytes=0-9", Some(&[(0, 10)])),
            ("BYTES=0-0", Some(&[(0, 1)])),
            ("bytes=90-", Some(&[(90, 100)])),
            ("bytes=-10", Some(&[(90, 100)])),
            ("bytes=-1000", Some(&[(0, 100)])),
            ("bytes=0-999999", Some(&[(0, 100)])),
            ("bytes=0-99999999999999999999999999", Some(&[(0, 100)])),
            ("bytes=0-0,5-6, 99-", Some(&[(0, 1), (5, 7), (99, 100)])),
            ("bytes=0-9,200-300", Some(&[(0, 10)])),
            ("bytes=100-", Some(&[])),
            ("bytes=-0", Some(&[])),
            ("bytes=200-300,400-500", Some(&[])),
            ("bytes=30-40,10-20", None),
            ("bytes=10-20,15-25", None),
            ("bytes=20-10", None),
            ("bytes=a-b", None),
            ("bytes=1", None),
            ("bytes=--1", None),
            ("bytes=", None),
            ("bytes 0-1", None),
            ("items=0-1", None),
            ("bytes=0-1;2-3", None),
        ];
        for (value, expected) in cases {
            assert_eq!(parts(value, 100).as_deref(), *expected, "{value}");
        }
        let line = Field { name: "Range", value: b"bytes=0-1" };
        assert_eq!(select(&[line, line], 100), Selection::Whole);
        assert_eq!(parts("bytes=0-", 0), Some(Vec::new()));
    }

    /// What holds the span holds all that is asked for.
    #[test]
    fn the_span_reaches_from_the_first_byte_to_the_last() {
        for (value, expected) in [
            ("bytes=5-9", (5, 10)),
            ("bytes=-1", (99, 100)),
            ("bytes=0-0,5-6,90-", (0, 100)),
            ("bytes=1-1,3-3", (1, 4)),
            ("bytes=100-", (0, 100)),
            ("bytes=3-1", (0, 100)),
        ] {
            let span = span(&[Field { name: "range", value: value.as_bytes() }], 100);
            assert_eq!((span.start, span.end), expected, "{value}");
        }
        assert_eq!(span(&[], 7), ByteRange { start: 0, end: 7 });
    }

    #[test]
    fn too_many_ranges_are_ignored() {
        let list = |count: usize| {
            let specs: Vec<String> = (0..count).map(|at| format!("{}-{}", at * 2, at * 2)).collect();
            format!("bytes={}", specs.join(","))
        };
        assert_eq!(parts(&list(RANGE_COUNT_MAX), 100).unwrap().len(), RANGE_COUNT_MAX);
        assert_eq!(parts(&list(RANGE_COUNT_MAX + 1), 100), None);
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        let range = |start, end| ByteRange { start, end };
        assert_eq!(parse_content_range(b"bytes 0-4/10"), Some((range(0, 5), Some(10))));
        assert_eq!(parse_content_range(b"bytes 5-9/*"), Some((range(5, 10), None)));
        for value in
            ["bytes */10", "bytes 5-4/10", "bytes 0-10/10", "bytes=0-4/10", "0-4/10", "items 0-4/10", ""]
        {
            assert_eq!(parse_content_range(value.as_bytes()), None, "{value}");
        }
    }

    proptest! {
        /// Cut a body at any points: the ranges between them tile it.
        #[test]
        fn ranges_tile_the_body(cuts in proptest::collection::btree_set(1_u64..200, 0..10), len in 200_u64..300) {
            let mut edges: Vec<u64> = cuts.into_iter().collect();
            edges.insert(0, 0);
            edges.push(len);
            let specs: Vec<String> = edges.windows(2).map(|pair| format!("{}-{}", pair[0], pair[1] - 1)).collect();
            let found = parts(&format!("bytes={}", specs.join(",")), len).unwrap();
            let tiles: Vec<(u64, u64)> = edges.windows(2).map(|pair| (pair[0], pair[1])).collect();
            prop_assert_eq!(found, tiles);
        }

        #[test]
        fn no_text_panics_and_ranges_stay_inside(value in "(bytes=)?[0-9,\\- a]{0,30}", len in 0_u64..1000) {
            let request = [Field { name: "range", value: value.as_bytes() }];
            if let Selection::Parts(ranges) = select(&request, len) {
                let mut reached = 0;
                for range in ranges.as_slice() {
                    prop_assert!(range.start >= reached && !range.is_empty() && range.end <= len);
                    reached = range.end;
                }
            }
            let _ = parse_content_range(value.as_bytes());
        }
    }
}
