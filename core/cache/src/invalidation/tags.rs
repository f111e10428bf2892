//! Which tags does a response carry (I-17)?
//!
//! Read from the origin's fields when a response is stored, and kept as hashes: a collision invalidates too much, never too little.
//! Invariants: at most [`TAG_COUNT_MAX`] tags of at most [`TAG_LEN_MAX`] characters each, without repetition; letter case does not matter.

use aspis_wire::fields;
use xxhash_rust::xxh3::xxh3_64;

/// The most tags of one response; further ones are ignored (I-17).
pub const TAG_COUNT_MAX: usize = 50;

/// The most characters of a tag; a longer one is ignored (I-17).
pub const TAG_LEN_MAX: usize = 256;

/// Reads the tags of a response from its fields, in their order.
///
/// `Surrogate-Key` and `xkey` have them separated by spaces, `Cache-Tag`, `Edge-Cache-Tag` and the operator's own field by commas.
pub fn of_fields<'f>(
    lines: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    extra_header: Option<&str>,
) -> Box<[u64]> {
    let mut tags = Vec::new();
    for (name, value) in lines {
        let Some(separators) = separators_of(name, extra_header) else { continue };
        let members = value.split(|byte| separators.contains(byte)).map(fields::trim);
        for tag in members.filter_map(hash) {
            if tags.len() == TAG_COUNT_MAX {
                break;
            }
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
    }
    tags.into()
}

/// Returns the hash under which a tag is known; `None` for what is no tag: empty, too long, or with a byte that is not visible ASCII.
pub fn hash(tag: &[u8]) -> Option<u64> {
    let mut lower = [0; TAG_LEN_MAX];
    let lower = lower.get_mut(..tag.len()).filter(|lower| !lower.is_empty())?;
    if !tag.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    lower.copy_from_slice(tag);
    lower.make_ascii_lowercase();
    Some(xxh3_64(lower))
}

/// What separates the tags of a field; `None` for a field that has none.
fn separators_of(name: &[u8], extra_header: Option<&str>) -> Option<&'static [u8]> {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    if is("surrogate-key") || is("xkey") {
        Some(b" \t")
    } else if is("cache-tag") || is("edge-cache-tag") || extra_header.is_some_and(is) {
        Some(b",")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[(&str, &str)], extra: Option<&str>) -> Vec<u64> {
        of_fields(lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), extra).into()
    }

    fn known(tags: &[&str]) -> Vec<u64> {
        tags.iter().map(|tag| hash(tag.as_bytes()).unwrap()).collect()
    }

    /// I-17: the fields, what separates in each, letter case, and no repetition.
    #[test]
    fn tags_are_read_from_their_fields() {
        let lines = [
            ("Cache-Tag", "product:electronics, category:tv,,\t"),
            ("Content-Type", "text/html"),
            ("surrogate-key", "a  b,c\tA"),
            ("XKEY", "d"),
            ("Edge-Cache-Tag", "e,f"),
            ("My-Tags", "g"),
        ];
        let all = ["product:electronics", "category:tv", "a", "b,c", "d", "e", "f"];
        assert_eq!(of(&lines, None), known(&all));
        assert_eq!(of(&lines, Some("my-tags")), known(&[&all[..], &["g"]].concat()));
        assert_eq!(
            of(&[("Cache-Tag", "B, b, \u{fc}, x y")], None),
            known(&["b"]),
            "what is no tag is ignored"
        );
        assert!(of(&[("Cache-Tagg", "x"), ("Tag", "y")], None).is_empty());
    }

    /// I-17: 50 tags of 256 characters.
    #[test]
    fn further_and_longer_tags_are_ignored() {
        let many: Vec<String> = (0..60).map(|number| format!("t{number}")).collect();
        let tags = of(&[("Cache-Tag", &many[..40].join(",")), ("xkey", &many[40..].join(" "))], None);
        assert_eq!(tags.len(), TAG_COUNT_MAX);
        assert_eq!(tags[49], hash(b"t49").unwrap());
        let long = "x".repeat(TAG_LEN_MAX);
        assert_eq!(of(&[("xkey", &format!("{long} {long}x"))], None), known(&[&long]));
    }
}
