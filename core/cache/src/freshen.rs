//! What does a 304, or the answer to a HEAD, change in a stored response (RFC 9111 §3.2, §4.3.4, §4.3.5, rule 13 of the RFC 9111 profile)?
//!
//! `core/exchange` asks when such an answer comes. Invariants: fields that describe the content's bytes stay as they are; a strong ETag that
//! differs from the stored one changes nothing.

use aspis_wire::{Field, fields};

use crate::conditional::{Validators, is_strong, same_strong};

/// Whether a 304 may freshen what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshening {
    /// It may.
    Applies,
    /// It is about another representation: ask again without conditions.
    Differs,
}

/// Decides by the strong validator, if the 304 has one (RFC 9111 §4.3.4).
pub fn freshening(stored: &Validators<'_>, update: &[Field<'_>]) -> Freshening {
    let new = Validators::of(update, 0);
    match new.etag {
        Some(tag) if is_strong(tag) && !same_strong(stored.etag, Some(tag)) => Freshening::Differs,
        _ => Freshening::Applies,
    }
}

/// What the answer to a HEAD says about a stored GET (RFC 9111 §4.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadAnswer {
    /// The stored response is the one described: its fields may be updated.
    Same,
    /// It is another one: what is stored is out of date.
    Other,
    /// Nothing can be said.
    Unknown,
}

/// Compares validators and length of a 200 to HEAD with what is stored.
pub fn head_answer(
    stored: &Validators<'_>,
    stored_len: u64,
    update: &[Field<'_>],
    update_len: Option<u64>,
) -> HeadAnswer {
    let new = Validators::of(update, 0);
    let differs = |old: Option<&[u8]>, new: Option<&[u8]>| old.is_some() && new.is_some() && old != new;
    if differs(stored.etag, new.etag)
        || differs(stored.last_modified, new.last_modified)
        || update_len.is_some_and(|len| len != stored_len)
    {
        return HeadAnswer::Other;
    }
    let same = (stored.etag.is_some() && stored.etag == new.etag)
        || (stored.last_modified.is_some() && stored.last_modified == new.last_modified);
    if same { HeadAnswer::Same } else { HeadAnswer::Unknown }
}

/// Returns the stored fields with those of the update in place of their namesakes (RFC 9111 §3.2).
///
/// Hop-by-hop fields and those that describe the stored bytes are not taken over. `Age` is: it belongs to the update. The stored `Date`
/// goes in any case: an update without one was made when it arrived (RFC 9110 §6.6.1), or it would be as old as what it freshens.
pub fn merged<'b>(stored: impl Iterator<Item = Field<'b>>, update: &[Field<'b>]) -> Vec<Field<'b>> {
    let taken: Vec<Field<'b>> =
        fields::end_to_end(update).filter(|field| !describes_content(field.name)).copied().collect();
    let is_replaced = |old: &Field<'_>| {
        old.name.eq_ignore_ascii_case("date")
            || taken.iter().any(|new| new.name.eq_ignore_ascii_case(old.name))
    };
    let mut all: Vec<Field<'b>> = stored.filter(|old| !is_replaced(old)).collect();
    all.extend(taken);
    all
}

fn describes_content(name: &str) -> bool {
    ["content-length", "content-encoding", "content-range"].iter().any(|kept| name.eq_ignore_ascii_case(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and values.
    type Pairs = [(&'static str, &'static str)];

    fn fields_of<'a>(lines: &[(&'a str, &'a str)]) -> Vec<Field<'a>> {
        lines.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect()
    }

    /// RFC 9111 §4.3.4 and rule 13.
    #[test]
    fn another_strong_etag_changes_nothing() {
        let cases: &[(Option<&str>, &Pairs, Freshening)] = &[
            (Some("\"a\""), &[], Freshening::Applies),
            (Some("\"a\""), &[("ETag", "\"a\"")], Freshening::Applies),
            (Some("\"a\""), &[("ETag", "W/\"b\"")], Freshening::Applies),
            (Some("W/\"a\""), &[("ETag", "W/\"b\"")], Freshening::Applies),
            (Some("\"a\""), &[("ETag", "\"b\"")], Freshening::Differs),
            (None, &[("ETag", "\"b\"")], Freshening::Differs),
        ];
        for (stored, update, expected) in cases {
            let stored = Validators { etag: stored.map(str::as_bytes), ..Validators::default() };
            assert_eq!(freshening(&stored, &fields_of(update)), *expected, "{update:?}");
        }
    }

    /// RFC 9111 §3.2.
    #[test]
    fn updates_replace_fields_but_not_those_of_the_content() {
        let stored = fields_of(&[
            ("A", "1"),
            ("Date", "x"),
            ("B", "1"),
            ("B", "2"),
            ("Content-Encoding", "gzip"),
            ("C", "1"),
        ]);
        let update = fields_of(&[
            ("b", "3"),
            ("Content-Encoding", "br"),
            ("Content-Length", "7"),
            ("Content-Range", "x"),
            ("Connection", "d"),
            ("D", "1"),
            ("E", "1"),
        ]);
        let merged = merged(stored.into_iter(), &update);
        let found: Vec<(&str, &[u8])> = merged.iter().map(|field| (field.name, field.value)).collect();
        let expected: Vec<(&str, &[u8])> =
            vec![("A", b"1"), ("Content-Encoding", b"gzip"), ("C", b"1"), ("b", b"3"), ("E", b"1")];
        assert_eq!(found, expected);
    }

    /// RFC 9111 §4.3.5.
    #[test]
    fn a_head_answer_is_held_against_what_is_stored() {
        let stored = Validators { etag: Some(b"\"a\""), last_modified: None, generated_at: 0 };
        let ask = |update: &[(&str, &str)], len| head_answer(&stored, 5, &fields_of(update), len);
        assert_eq!(ask(&[("ETag", "\"a\"")], Some(5)), HeadAnswer::Same);
        assert_eq!(ask(&[("ETag", "\"a\"")], None), HeadAnswer::Same);
        assert_eq!(ask(&[("ETag", "\"a\"")], Some(6)), HeadAnswer::Other);
        assert_eq!(ask(&[("ETag", "\"b\"")], Some(5)), HeadAnswer::Other);
        assert_eq!(ask(&[], Some(5)), HeadAnswer::Unknown);
    }
}
