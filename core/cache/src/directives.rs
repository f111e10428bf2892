//! What does a response's Cache-Control say (RFC 9111 §5.2.2, rules 3 and 4 of the RFC 9111 profile, T-12)?
//!
//! `storable` and `freshness` read the answer. Invariants: no bytes panic; a directive in doubt restricts more rather than less: one that
//! forbids counts however it is written, one that permits only in its plain form.

use aspis_wire::{Field, fields};

use crate::age::parse_seconds;

/// How far a directive that may name fields reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Not given.
    #[default]
    Absent,
    /// Only the named fields.
    Fields,
    /// The whole response.
    Whole,
}

/// The directives of a response that decide here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseDirectives {
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, with or without field names.
    pub no_cache: Extent,
    /// `private`, with or without field names.
    pub private: Extent,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// `stale-while-revalidate` in seconds (RFC 5861 §3).
    pub stale_while_revalidate: Option<u32>,
    /// `stale-if-error` in seconds (RFC 5861 §4).
    pub stale_if_error: Option<u32>,
    /// `max-age` in seconds; 0 if it does not parse.
    pub max_age: Option<u32>,
    /// `s-maxage` in seconds; 0 if it does not parse.
    pub s_maxage: Option<u32>,
}

/// Reads all Cache-Control lines of a response as one list.
pub fn response_directives(head: &[Field<'_>]) -> ResponseDirectives {
    let mut found = ResponseDirectives::default();
    for member in fields::named(head, "cache-control").flat_map(fields::list) {
        let (name, argument) = match member.iter().position(|&byte| byte == b'=') {
            Some(at) => (&member[..at], Some(&member[at + 1..])),
            None => (member, None),
        };
        found.add(name, argument);
    }
    // A string that is never closed may have swallowed a directive that forbids.
    found.no_store |= fields::named(head, "cache-control").any(fields::has_open_string);
    found
}

/// Tells whether `no-cache` or `private` of a response name this field, so that it is passed on but not stored (rule 3).
pub fn is_withheld(head: &[Field<'_>], name: &str) -> bool {
    fields::named(head, "cache-control").flat_map(fields::list).any(|member| {
        let Some(at) = member.iter().position(|&byte| byte == b'=') else { return false };
        let directive = member[..at].trim_ascii();
        let restricts =
            directive.eq_ignore_ascii_case(b"no-cache") || directive.eq_ignore_ascii_case(b"private");
        restricts
            && unquoted(member[at + 1..].trim_ascii())
                .split(|&byte| byte == b',')
                .any(|listed| listed.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
    })
}

impl ResponseDirectives {
    /// Adds one directive; `argument` is what stands behind `=`.
    fn add(&mut self, name: &[u8], argument: Option<&[u8]>) {
        let plain = name.trim_ascii();
        let is = |word: &str| plain.eq_ignore_ascii_case(word.as_bytes());
        if is("no-store") {
            self.no_store = true;
        } else if is("no-cache") {
            self.no_cache = self.no_cache.max(extent(argument));
        } else if is("private") {
            self.private = self.private.max(extent(argument));
        } else if is("public") {
            self.public |= argument.is_none();
        } else if is("must-revalidate") {
            // It restricts serving stale and permits sharing (RFC 9111 §3.5), so it counts in its plain form only.
            self.must_revalidate |= argument.is_none();
        } else if is("proxy-revalidate") {
            self.proxy_revalidate = true;
        } else if is("must-understand") {
            self.must_understand |= argument.is_none();
        } else if is("stale-while-revalidate") {
            self.stale_while_revalidate = smaller(self.stale_while_revalidate, seconds(name, argument));
        } else if is("stale-if-error") {
            self.stale_if_error = smaller(self.stale_if_error, seconds(name, argument));
        } else if is("max-age") {
            self.max_age = smaller(self.max_age, seconds(name, argument));
        } else if is("s-maxage") {
            self.s_maxage = smaller(self.s_maxage, seconds(name, argument));
        }
    }
}

/// `no-cache` alone concerns the whole response, `no-cache="field"` that field; empty names count as none given.
fn extent(argument: Option<&[u8]>) -> Extent {
    match argument.map(|argument| unquoted(argument.trim_ascii()).trim_ascii()) {
        None | Some(b"") => Extent::Whole,
        Some(_) => Extent::Fields,
    }
}

/// Reads a lifetime: `None` voids the directive (space beside `=`), 0 stands for what does not parse (rule 4).
fn seconds(name: &[u8], argument: Option<&[u8]>) -> Option<u32> {
    let Some(argument) = argument else { return Some(0) };
    let has_space = name.last().is_some_and(u8::is_ascii_whitespace)
        || argument.first().is_some_and(u8::is_ascii_whitespace);
    if has_space { None } else { Some(parse_seconds(unquoted(argument)).unwrap_or(0)) }
}

/// Of duplicates the smallest counts (rule 4).
fn smaller(before: Option<u32>, new: Option<u32>) -> Option<u32> {
    match (before, new) {
        (Some(before), Some(new)) => Some(before.min(new)),
        (before, new) => before.or(new),
    }
}

fn unquoted(argument: &[u8]) -> &[u8] {
    argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(argument)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::age::AGE_MAX;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> ResponseDirectives {
        let head: Vec<Field<'_>> =
            lines.iter().map(|line| Field { name: "Cache-Control", value: line.as_bytes() }).collect();
        response_directives(&head)
    }

    /// Rule 4 of the profile, RFC 9111 §5.2 and §1.2.2.
    #[test]
    fn lifetimes() {
        let cases: &[(&[&str], Option<u32>)] = &[
            (&["max-age=60"], Some(60)),
            (&["MAX-AGE=60"], Some(60)),
            (&["max-age=\"60\""], Some(60)),
            (&["max-age='60'"], Some(0)),
            (&["max-age=-60"], Some(0)),
            (&["max-age=+60"], Some(0)),
            (&["max-age=60.5"], Some(0)),
            (&["max-age=1e3"], Some(0)),
            (&["max-age="], Some(0)),
            (&["max-age"], Some(0)),
            (&["max-age=60x"], Some(0)),
            (&["max-age=\"60"], Some(0)),
            (&["max-age =60"], None),
            (&["max-age= 60"], None),
            (&["max-age\t=60"], None),
            (&["max-age=99999999999999999999999"], Some(AGE_MAX)),
            (&["max-age=2147483649"], Some(AGE_MAX)),
            (&["max-age=0060"], Some(60)),
            (&["max-age=60, max-age=5"], Some(5)),
            (&["max-age=60", "max-age=5"], Some(5)),
            (&["max-age=60, max-age=x"], Some(0)),
            (&["a=\", max-age=60, \", max-age=5"], Some(5)),
            (&["a=\", max-age=60"], None),
            (&["xmax-age=60"], None),
            (&["max-age=60;a"], Some(0)),
            (&[" , ,max-age=60,,"], Some(60)),
            (&[""], None),
            (&[], None),
        ];
        for (lines, expected) in cases {
            assert_eq!(read(lines).max_age, *expected, "{lines:?}");
        }
        assert_eq!(read(&["s-maxage=7, max-age=60"]).s_maxage, Some(7));
    }

    /// Rule 3: what forbids counts in any spelling.
    #[test]
    fn what_forbids_is_found_however_it_is_written() {
        for line in [
            "no-store",
            "No-Store",
            "a, no-store",
            "no-store=1",
            "no-store=\"x\"",
            "no-store =1",
            "\tno-store",
            "max-age=60, x=\"a, no-store",
        ] {
            assert!(read(&[line]).no_store, "{line}");
        }
        for (line, extent) in [
            ("private", Extent::Whole),
            ("private=\"\"", Extent::Whole),
            ("private=", Extent::Whole),
            ("private=\"set-cookie\"", Extent::Fields),
            ("private=set-cookie", Extent::Fields),
            ("private=\"a\", private", Extent::Whole),
            ("public", Extent::Absent),
        ] {
            assert_eq!(read(&[line]).private, extent, "{line}");
        }
        assert_eq!(read(&["no-cache=\"a, b\""]).no_cache, Extent::Fields);
        assert!(!read(&["a=\"no-store\""]).no_store);
    }

    /// Rule 3: only the named fields are withheld.
    #[test]
    fn named_fields_are_withheld() {
        let line = |value: &'static str| Field { name: "Cache-Control", value: value.as_bytes() };
        let head = [line("no-cache=\"a, B\", max-age=1"), line("private=c")];
        for (name, expected) in [("A", true), ("b", true), ("C", true), ("d", false), ("max-age", false)] {
            assert_eq!(is_withheld(&head, name), expected, "{name}");
        }
        assert!(!is_withheld(&[line("no-cache, x=\"a\"")], "a"));
    }

    /// RFC 5861 and RFC 9111 §5.2.2.
    #[test]
    fn directives_about_stale_responses() {
        let found = read(&["stale-while-revalidate=5, stale-if-error=7, proxy-revalidate, must-understand"]);
        assert_eq!((found.stale_while_revalidate, found.stale_if_error), (Some(5), Some(7)));
        assert!(found.proxy_revalidate && found.must_understand);
        assert_eq!(read(&["stale-while-revalidate=x"]).stale_while_revalidate, Some(0));
    }

    #[test]
    fn what_permits_counts_only_in_its_plain_form() {
        assert!(read(&["public"]).public && read(&["must-revalidate"]).must_revalidate);
        for line in ["public=1", "public=\"x\"", "xpublic", "must-revalidate=0"] {
            let found = read(&[line]);
            assert!(!found.public && !found.must_revalidate, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..4)) {
            let head: Vec<Field<'_>> = lines.iter().map(|value| Field { name: "cache-control", value }).collect();
            let found = response_directives(&head);
            prop_assert!(found.max_age.is_none_or(|age| age <= AGE_MAX));
        }

        #[test]
        fn order_of_members_does_not_matter(mut members in proptest::collection::vec(
            prop_oneof!["max-age=[0-9]{1,3}", "s-maxage=[0-9]{1,3}", Just("no-store".to_string()), Just("private=\"a\"".to_string()), Just("private".to_string())], 0..6
        )) {
            let forward = read(&[&members.join(",")]);
            members.reverse();
            prop_assert_eq!(forward, read(&[&members.join(" , ")]));
        }
    }
}
