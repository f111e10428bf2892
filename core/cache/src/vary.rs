//! By which request fields does a response vary, and which variant does a request select (RFC 9111 §4.1, rule 11 of the RFC 9111 profile)?
//!
//! `core/exchange` asks for the names when a response is stored, and writes a variant's key from them for each request that meets a
//! varying URI. Invariants: equal keys mean equal normalised values of every name, a missing field being a value of its own; names are in
//! lower case, sorted and without repetition, so the order in which an origin lists them does not matter.

use aspis_config::Behavior;
use aspis_config::behavior::LanguageMatch;
use aspis_wire::{Field, fields};

use crate::key::SEPARATOR;

/// The most names that a response may vary by and still be stored.
pub const VARY_NAMES_MAX: usize = 16;

/// The longest variant key.
pub const VARIANT_KEY_LEN_MAX: usize = 8192;

/// What the Vary fields of a response say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Varies {
    /// There are none, or they name nothing.
    No,
    /// By these names, separated by commas.
    By(Box<str>),
    /// By anything, or by more than is followed: no later request is known to match.
    Always,
}

/// Tells whether a response varies by `*` or by too much to be followed, without an allocation.
///
/// `X-Forwarded-For` is such a field: the origin sees each viewer's own address in it.
pub fn varies_always(head: &[Field<'_>]) -> bool {
    let mut count = 0;
    fields::named(head, "vary").flat_map(fields::list).any(|name| {
        count += 1;
        name == b"*" || name.eq_ignore_ascii_case(b"x-forwarded-for") || count > VARY_NAMES_MAX
    })
}

/// Reads all Vary lines of a response as one list.
pub fn varies(head: &[Field<'_>]) -> Varies {
    if varies_always(head) {
        return Varies::Always;
    }
    let names: Vec<String> = fields::named(head, "vary")
        .flat_map(fields::list)
        .map(|name| String::from_utf8_lossy(name).to_ascii_lowercase())
        .collect();
    if names.is_empty() { Varies::No } else { Varies::By(joined(names)) }
}

/// Returns the names of both lists: what one variant depends on is asked of all.
pub fn union(one: &str, other: &str) -> Box<str> {
    joined(
        one.split(',').chain(other.split(',')).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
    )
}

/// Tells whether every name of `part` is in `whole`.
pub fn covers(whole: &str, part: &str) -> bool {
    part.split(',').all(|name| whole.split(',').any(|other| other == name))
}

fn joined(mut names: Vec<String>) -> Box<str> {
    names.sort_unstable();
    names.dedup();
    names.join(",").into_boxed_str()
}

/// Appends to a primary key what a request sends for each name; returns false, with the key cut back, if that is too long.
pub fn extend_key(behavior: &Behavior, names: &str, request: &[Field<'_>], key: &mut Vec<u8>) -> bool {
    let primary_len = key.len();
    for name in names.split(',') {
        key.push(SEPARATOR);
        key.extend_from_slice(name.as_bytes());
        let value_at = key.len();
        write_value(name, request, key);
        if name == "accept-language" {
            key[value_at..].make_ascii_lowercase();
            if behavior.language_match == LanguageMatch::Normalized {
                let sorted = languages(&key[value_at..]);
                key.truncate(value_at);
                key.extend_from_slice(&sorted);
            }
        }
    }
    if key.len() > VARIANT_KEY_LEN_MAX {
        key.truncate(primary_len);
        return false;
    }
    true
}

/// Writes `:` and the members of all lines, trimmed and joined; nothing for a field that is not there.
///
/// A field that `Connection` names does not reach the origin (RFC 9110 §7.6.1), so it does not select either: else anybody could
/// put the answer for its absence in the place of any variant.
fn write_value(name: &str, request: &[Field<'_>], key: &mut Vec<u8>) {
    if fields::is_connection_option(request, name) {
        return;
    }
    for (at, value) in fields::named(request, name).enumerate() {
        if at == 0 {
            key.push(b':');
        }
        for member in fields::list(value) {
            write_member(name, member, key);
            key.push(b',');
        }
    }
}

/// Space around the parameters of a language does not distinguish (rule 11).
fn write_member(name: &str, member: &[u8], key: &mut Vec<u8>) {
    if name == "accept-language" {
        key.extend(member.iter().filter(|byte| !byte.is_ascii_whitespace()));
    } else {
        key.extend_from_slice(member);
    }
}

/// Writes languages by falling quality: whoever prefers them alike gets the same.
fn languages(value: &[u8]) -> Vec<u8> {
    let mut members: Vec<(u32, &[u8])> = value
        .strip_prefix(b":")
        .unwrap_or(value)
        .split(|&byte| byte == b',')
        .filter(|member| !member.is_empty())
        .map(|member| (1000 - quality(member), language(member)))
        .collect();
    members.sort_unstable();
    let mut out = if value.is_empty() { Vec::new() } else { b":".to_vec() };
    for (rank, name) in members {
        out.extend_from_slice(name);
        out.push(b';');
        out.extend_from_slice(rank.to_string().as_bytes());
        out.push(b',');
    }
    out
}

fn language(member: &[u8]) -> &[u8] {
    let name = member.split(|&byte| byte == b';').next().unwrap_or(member);
    fields::trim(name)
}

/// Thousandths; 1000 without a weight, 0 where it does not parse.
fn quality(member: &[u8]) -> u32 {
    let Some(weight) = fields::parameters(member).nth(1) else { return 1000 };
    let weight = weight.strip_prefix(b"q=").or_else(|| weight.strip_prefix(b"Q="));
    let parsed =
        weight.and_then(|text| std::str::from_utf8(text).ok()).and_then(|text| text.parse::<f32>().ok());
    parsed.filter(|value| (0.0..=1.0).contains(value)).map_or(0, |value| (value * 1000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storable::tests::behavior;
    use proptest::prelude::*;

    /// Names and values.
    type Pairs = [(&'static str, &'static str)];

    fn fields_of<'a>(lines: &[(&'a str, &'a str)]) -> Vec<Field<'a>> {
        lines.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect()
    }

    fn key(flags: &[(&str, &str)], names: &str, request: &[(&str, &str)]) -> Vec<u8> {
        let mut key = b"primary".to_vec();
        assert!(extend_key(&behavior(flags), names, &fields_of(request), &mut key));
        key
    }

    /// RFC 9110 §7.6.1: what the origin does not see selects nothing.
    #[test]
    fn a_field_for_the_connection_only_counts_as_absent() {
        let absent = key(&[], "accept-language", &[]);
        let hidden = [("Connection", "close, Accept-Language"), ("Accept-Language", "de")];
        assert_eq!(key(&[], "accept-language", &hidden), absent);
        assert_ne!(key(&[], "accept-language", &hidden[1..]), absent);
        assert!(varies_always(&fields_of(&[("Vary", "Accept, X-Forwarded-For")])));
    }

    /// RFC 9110 §12.5.5 and rule 11.
    #[test]
    fn names_are_joined_over_lines_and_a_star_anywhere_counts() {
        let read = |lines: &[&'static str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("Vary", *line)).collect();
            varies(&fields_of(&lines))
        };
        assert_eq!(read(&[]), Varies::No);
        assert_eq!(read(&["", ","]), Varies::No);
        assert_eq!(read(&["Foo, BAR", "foo"]), Varies::By("bar,foo".into()));
        for lines in
            [&["*"][..], &["*, *"], &["", "*"], &[", *"], &["Foo, *"], &["Foo", "*"], &["X-Forwarded-For"]]
        {
            assert_eq!(read(lines), Varies::Always, "{lines:?}");
        }
        let many: String = (0..=VARY_NAMES_MAX).map(|at| format!("n{at},")).collect();
        assert!(varies_always(&fields_of(&[("vary", &many)])));
    }

    #[test]
    fn lists_are_compared_as_sets() {
        assert_eq!(&*union("a,c", "b,c"), "a,b,c");
        assert_eq!(&*union("", "b"), "b");
        assert!(covers("a,b", "a") && covers("a,b", "a,b") && !covers("a", "a,b"));
    }

    /// Rule 11: which requests select the same variant.
    #[test]
    fn normalised_values_select_the_same_variant() {
        let same: &[(&Pairs, &Pairs)] = &[
            (&[("Foo", "1, 2")], &[("Foo", "1"), ("Foo", "2")]),
            (&[("Foo", "1,2")], &[("foo", " 1 ,  2 ")]),
            (&[("Accept-Language", "en, DE")], &[("Accept-Language", "en,de")]),
            (&[("Accept-Language", "en; q=0.5")], &[("Accept-Language", "EN;q=0.5")]),
            (&[("Other", "1")], &[("Other", "2")]),
            (&[("Connection", "foo"), ("Foo", "1")], &[]),
        ];
        for (one, other) in same {
            assert_eq!(
                key(&[], "accept-language,foo", one),
                key(&[], "accept-language,foo", other),
                "{one:?}"
            );
        }
        let different: &[(&Pairs, &Pairs)] = &[
            (&[("Foo", "1")], &[("Foo", "2")]),
            (&[("Foo", "1")], &[]),
            (&[("Foo", "")], &[]),
            (&[("Foo", "a")], &[("Foo", "A")]),
            (&[("Foo", "1, 2")], &[("Foo", "2, 1")]),
            (&[("Accept-Language", "en, de")], &[("Accept-Language", "de, en")]),
        ];
        for (one, other) in different {
            assert_ne!(
                key(&[], "accept-language,foo", one),
                key(&[], "accept-language,foo", other),
                "{one:?}"
            );
        }
    }

    /// Rule 11, the switch.
    #[test]
    fn languages_are_compared_by_preference_where_the_operator_says_so() {
        let flags = [("language-match", "normalized")];
        let asked = |value| key(&flags, "accept-language", &[("Accept-Language", value)]);
        assert_eq!(asked("en, de"), asked("de, en"));
        assert_eq!(asked("en;q=0.5, de"), asked("de, en;q=0.50"));
        assert_ne!(asked("en;q=0.5, de"), asked("en, de;q=0.5"));
        assert_ne!(asked("en"), key(&flags, "accept-language", &[]));
    }

    #[test]
    fn a_selection_that_is_too_long_is_refused() {
        let long = "x".repeat(VARIANT_KEY_LEN_MAX);
        let mut key = b"primary".to_vec();
        assert!(!extend_key(&behavior(&[]), "foo", &fields_of(&[("Foo", &long)]), &mut key));
        assert_eq!(key, b"primary");
    }

    proptest! {
        /// Fields that the rule does not name never change the key; a named one always does.
        #[test]
        fn only_named_fields_select(a in "[a-z]{1,8}", b in "[a-z]{1,8}", other in "[a-z]{0,8}") {
            let request = |value: &str, other: &str| {
                let lines = [("Foo", value), ("Other", other)];
                key(&[], "foo", &lines)
            };
            prop_assert_eq!(request(&a, ""), request(&a, &other));
            prop_assert_eq!(a == b, request(&a, "") == request(&b, ""));
        }

        #[test]
        fn no_bytes_panic(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let request = [Field { name: "accept-language", value: &value }];
            let mut key = Vec::new();
            extend_key(&behavior(&[("language-match", "normalized")]), "accept-language,foo", &request, &mut key);
            let _ = varies(&[Field { name: "vary", value: &value }]);
        }
    }
}
