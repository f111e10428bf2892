//! Does a request's precondition let the stored response through (RFC 9110 §13, RFC 9111 §4.3.2, rule 12 of the RFC 9111 profile, T-24)?
//!
//! `core/exchange` asks when a stored response could answer a request that has one of these fields. Invariant: a validator in doubt
//! never matches, so at worst the whole content is sent again.

use aspis_wire::{Field, date, fields};

/// What a stored response is recognised by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Validators<'b> {
    /// Its ETag as it came.
    pub etag: Option<&'b [u8]>,
    /// Its Last-Modified as it came.
    pub last_modified: Option<&'b [u8]>,
    /// When it was generated, in wall seconds.
    pub generated_at: u64,
}

impl<'b> Validators<'b> {
    /// Reads them from a response's fields; a field that is there twice counts as absent.
    pub fn of(head: &[Field<'b>], generated_at: u64) -> Self {
        let single = |name: &'static str| {
            let mut lines = fields::named(head, name);
            lines.next().filter(|value| lines.next().is_none() && !value.is_empty())
        };
        Self { etag: single("etag"), last_modified: single("last-modified"), generated_at }
    }

    /// Tells whether the origin can be asked conditionally.
    pub fn any(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some_and(|value| date::parse(value).is_some())
    }

    /// Returns the strong entity tag, if there is one (RFC 9110 §8.8.3).
    pub fn strong_etag(&self) -> Option<&'b [u8]> {
        self.etag.filter(|tag| is_strong(tag))
    }
}

/// What the preconditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were none.
    Proceed,
    /// Answer 304.
    NotModified,
    /// Answer 412.
    Failed,
}

/// Evaluates all preconditions of a GET or HEAD in the order of RFC 9110 §13.2.2.
pub fn evaluate(request: &[Field<'_>], stored: &Validators<'_>) -> Verdict {
    let has = |name| fields::first(request, name).is_some();
    if has("if-match") {
        let matches = |tag: &[u8]| stored.etag.is_some_and(|own| is_strong(own) && own == tag);
        if !any_tag(request, "if-match", matches) {
            return Verdict::Failed;
        }
    } else if let Some(since) = single_date(request, "if-unmodified-since")
        && stored.last_modified.and_then(date::parse).is_some_and(|modified| modified > since)
    {
        return Verdict::Failed;
    }
    if has("if-none-match") {
        let matches = |tag: &[u8]| stored.etag.is_some_and(|own| opaque(own) == opaque(tag));
        return if any_tag(request, "if-none-match", matches) {
            Verdict::NotModified
        } else {
            Verdict::Proceed
        };
    }
    match single_date(request, "if-modified-since") {
        Some(since) if modified_at(stored) <= since => Verdict::NotModified,
        _ => Verdict::Proceed,
    }
}

/// Tells whether a range may be served: no If-Range, or one that names exactly this representation (RFC 9110 §13.1.5, R-15).
pub fn range_applies(request: &[Field<'_>], stored: &Validators<'_>) -> bool {
    let mut lines = fields::named(request, "if-range");
    let Some(value) = lines.next() else { return true };
    if lines.next().is_some() {
        return false;
    }
    if is_strong(value) {
        return stored.etag == Some(value);
    }
    let (Some(asked), Some(own)) = (date::parse(value), stored.last_modified.and_then(date::parse)) else {
        return false;
    };
    // A date is strong only if it lies before the response was made (RFC 9110 §8.8.2.2).
    asked == own && own < stored.generated_at
}

/// Tells whether two entity tags are both strong and the same (RFC 9110 §8.8.3.2).
pub fn same_strong(one: Option<&[u8]>, other: Option<&[u8]>) -> bool {
    one.is_some_and(|tag| is_strong(tag) && Some(tag) == other)
}

/// Without Last-Modified, Date stands for it (RFC 9111 §4.3.2).
fn modified_at(stored: &Validators<'_>) -> u64 {
    stored.last_modified.and_then(date::parse).unwrap_or(stored.generated_at)
}

fn any_tag(request: &[Field<'_>], name: &str, matches: impl Fn(&[u8]) -> bool) -> bool {
    fields::named(request, name).flat_map(fields::list).any(|tag| tag == b"*" || matches(tag))
}

/// A repeated or malformed date is ignored (RFC 9110 §13.1.3).
fn single_date(request: &[Field<'_>], name: &str) -> Option<u64> {
    let mut lines = fields::named(request, name);
    let first = lines.next()?;
    if lines.next().is_some() { None } else { date::parse(first) }
}

/// Returns whether a tag is strong: quoted, and without `W/`.
pub fn is_strong(tag: &[u8]) -> bool {
    tag.len() >= 2 && tag.first() == Some(&b'"') && tag.last() == Some(&b'"')
}

fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AT_850: &str = "Sunday, 06-Nov-94 08:49:37 GMT";
    const AT_ASCTIME: &str = "Sun Nov  6 08:49:37 1994";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const SECOND: u64 = 784_111_777;

    fn ask(request: &[(&str, &str)], etag: Option<&str>, modified: Option<&str>) -> Verdict {
        let request: Vec<Field<'_>> =
            request.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect();
        let stored = Validators {
            etag: etag.map(str::as_bytes),
            last_modified: modified.map(str::as_bytes),
            generated_at: SECOND + 100,
        };
        evaluate(&request, &stored)
    }

    /// RFC 9110 §13.1.2 and rule 12: lists, weak comparison, precedence.
    #[test]
    fn if_none_match_compares_weakly_and_outranks_dates() {
        use Verdict::{NotModified, Proceed};
        for (field, etag, expected) in [
            ("\"a\"", Some("\"a\""), NotModified),
            ("\"x\", \"a\"", Some("\"a\""), NotModified),
            ("W/\"a\"", Some("\"a\""), NotModified),
            ("\"a\"", Some("W/\"a\""), NotModified),
            ("*", Some("\"a\""), NotModified),
            ("*", None, NotModified),
            ("\"a\"", None, Proceed),
            ("\"b\"", Some("\"a\""), Proceed),
            ("\"a,b\"", Some("\"a\""), Proceed),
            ("", Some("\"a\""), Proceed),
        ] {
            assert_eq!(ask(&[("If-None-Match", field)], etag, None), expected, "{field} {etag:?}");
        }
        let both = [("If-None-Match", "\"b\""), ("If-Modified-Since", AFTER)];
        assert_eq!(ask(&both, Some("\"a\""), Some(AT)), Proceed);
    }

    /// RFC 9110 §13.1.3 and RFC 9111 §4.3.2: all three date forms; without Last-Modified Date counts.
    #[test]
    fn if_modified_since_compares_dates() {
        use Verdict::{NotModified, Proceed};
        for (field, modified, expected) in [
            (AT, Some(AT), NotModified),
            (AT_850, Some(AT), NotModified),
            (AT_ASCTIME, Some(AT), NotModified),
            (AFTER, Some(AT), NotModified),
            (BEFORE, Some(AT), Proceed),
            ("nonsense", Some(AT), Proceed),
            (AT, None, Proceed),
            ("Sun, 06 Nov 1994 09:49:38 GMT", None, NotModified),
        ] {
            assert_eq!(ask(&[("If-Modified-Since", field)], None, modified), expected, "{field}");
        }
    }

    /// RFC 9110 §13.1.1, §13.1.4.
    #[test]
    fn what_must_match_is_compared_strongly() {
        use Verdict::{Failed, Proceed};
        for (request, expected) in [
            (&[("If-Match", "\"a\"")][..], Proceed),
            (&[("If-Match", "*")], Proceed),
            (&[("If-Match", "\"b\", \"a\"")], Proceed),
            (&[("If-Match", "W/\"a\"")], Failed),
            (&[("If-Match", "\"b\"")], Failed),
            (&[("If-Unmodified-Since", AT)], Proceed),
            (&[("If-Unmodified-Since", BEFORE)], Failed),
            (&[("If-Unmodified-Since", "x")], Proceed),
            (&[("If-Match", "\"a\""), ("If-Unmodified-Since", BEFORE)], Proceed),
        ] {
            assert_eq!(ask(request, Some("\"a\""), Some(AT)), expected, "{request:?}");
        }
        assert_eq!(ask(&[("If-Match", "W/\"a\"")], Some("W/\"a\""), None), Failed);
        // RFC 9110 §13.1.4: ignored without Last-Modified.
        assert_eq!(ask(&[("If-Unmodified-Since", BEFORE)], None, None), Proceed);
        let twice = [("If-Modified-Since", AFTER), ("If-Modified-Since", AFTER)];
        assert_eq!(ask(&twice, None, Some(AT)), Proceed);
    }

    ///
    #[test]
    fn if_range_takes_strong_validators_only() {
        let stored =
            Validators { etag: Some(b"\"a\""), last_modified: Some(AT.as_bytes()), generated_at: SECOND + 1 };
        for (value, expected) in
            [("\"a\"", true), ("\"b\"", false), ("W/\"a\"", false), (AT, true), (AFTER, false), ("x", false)]
        {
            let request = [Field { name: "If-Range", value: value.as_bytes() }];
            assert_eq!(range_applies(&request, &stored), expected, "{value}");
            let young = Validators { generated_at: SECOND, ..stored };
            assert_eq!(range_applies(&request, &young), value == "\"a\"", "{value}");
        }
        assert!(range_applies(&[], &stored));
    }
}
