//! Collects, in one pass over the fields, everything that frames a message, for both sides.
//!
//! Fed by the request and response parsers with the fields of a complete head. The two sides judge the
//! facts differently (RFC 9112 section 6.3), so this only collects: it refuses what is broken for both.

use memchr::memmem;

use crate::Field;
use crate::fields;
use crate::limits::CONNECTION_OPTIONS_MAX;

/// What the fields say about framing and about the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    /// Which of the fields is `Host`, the first one.
    pub(crate) host_at: Option<usize>,
    pub(crate) host_repeated: bool,
    pub(crate) length: LengthFact,
    pub(crate) coding: CodingFact,
    /// `Connection: close` was named.
    pub(crate) close: bool,
    /// `Connection: keep-alive` was named.
    pub(crate) keep_alive: bool,
    /// `Connection: upgrade` was named.
    pub(crate) upgrade_option: bool,
    /// An `Upgrade` field is present and not empty.
    pub(crate) upgrade_field: bool,
    /// An `Upgrade` field names `h2c`.
    pub(crate) upgrade_h2c: bool,
    /// `Expect: 100-continue` is present.
    pub(crate) expect_continue: bool,
    /// More options than [`CONNECTION_OPTIONS_MAX`].
    pub(crate) too_many_options: bool,
    option_count: usize,
}

/// What the `Content-Length` fields say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LengthFact {
    #[default]
    Absent,
    /// One field with one number.
    Once(u64),
    /// Several equal numbers, in one field or more.
    Repeated(u64),
    /// Not a number, too large, or several that differ.
    Invalid,
}

/// What the `Transfer-Encoding` fields say together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CodingFact {
    #[default]
    Absent,
    /// Exactly one member, `chunked`.
    Chunked,
    /// Only tokens that are not `chunked`.
    Unknown,
    /// `chunked` last and once, after tokens that are not `chunked`.
    UnknownThenChunked,
    /// Empty, not a list of tokens, or `chunked` before the end or more than once.
    Invalid,
}

/// Whether a head may end in these bytes: at CR LF CR LF or at an empty line that lacks a CR, which is refused.
#[inline]
pub(crate) fn has_empty_line(bytes: &[u8]) -> bool {
    memmem::find(bytes, b"\n\r\n").is_some() || memmem::find(bytes, b"\n\n").is_some()
}

/// Reads all fields once. Returns `None` if a line of the head ends in a line feed alone.
///
/// httparse takes a bare line feed as the end of a line (RFC 9112 section 2.2 permits it); we do not, since a
/// recipient behind us may not. Every line feed that it skipped stands before a name or at the end, so
/// looking at the byte two before each name and at the last four finds all of them.
#[inline]
pub(crate) fn collect(head: &[u8], fields: &[Field<'_>]) -> Option<Facts> {
    let mut facts = Facts::default();
    let start = head.as_ptr() as usize;
    for (at, field) in fields.iter().enumerate() {
        let name_at = (field.name.as_ptr() as usize).wrapping_sub(start);
        if head.get(name_at.wrapping_sub(2)) != Some(&b'\r') {
            return None;
        }
        match field.name.len() {
            4 if field.name.eq_ignore_ascii_case("host") => {
                facts.host_repeated |= facts.host_at.is_some();
                facts.host_at = facts.host_at.or(Some(at));
            }
            6 if field.name.eq_ignore_ascii_case("expect") => {
                facts.expect_continue |= field.value.eq_ignore_ascii_case(b"100-continue");
            }
            7 if field.name.eq_ignore_ascii_case("upgrade") => {
                facts.upgrade_field |= !field.value.is_empty();
                facts.upgrade_h2c |= fields::list(field.value).any(|name| name.eq_ignore_ascii_case(b"h2c"));
            }
            10 if field.name.eq_ignore_ascii_case("connection") => facts.add_options(field.value),
            14 if field.name.eq_ignore_ascii_case("content-length") => facts.add_length(field.value),
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => facts.add_coding(field.value),
            _ => {}
        }
    }
    head.ends_with(b"\r\n\r\n").then_some(facts)
}

impl Facts {
    /// Whether the sender means to keep the connection (RFC 9112 section 9.3).
    #[inline]
    pub(crate) fn persists(&self, version: crate::Version) -> bool {
        !self.close && (version == crate::Version::Http11 || self.keep_alive)
    }

    /// Whether `Upgrade` is present, named in `Connection`, and asks for no HTTP/2.
    pub(crate) fn asks_for_upgrade(&self) -> bool {
        self.upgrade_field && self.upgrade_option && !self.upgrade_h2c
    }

    fn add_options(&mut self, value: &[u8]) {
        for option in fields::list(value) {
            self.option_count += 1;
            if self.option_count > CONNECTION_OPTIONS_MAX {
                self.too_many_options = true;
                return;
            }
            match option.len() {
                5 => self.close |= option.eq_ignore_ascii_case(b"close"),
                7 => self.upgrade_option |= option.eq_ignore_ascii_case(b"upgrade"),
                10 => self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive"),
                _ => {}
            }
        }
    }

    fn add_length(&mut self, value: &[u8]) {
        // Split at every comma: an empty member is invalid too, unlike in other lists.
        for member in value.split(|&byte| byte == b',') {
            self.length = match (self.length, parse_length(fields::trim(member))) {
                (LengthFact::Absent, Some(length)) => LengthFact::Once(length),
                (LengthFact::Once(before) | LengthFact::Repeated(before), Some(length))
                    if before == length =>
                {
                    LengthFact::Repeated(length)
                }
                _ => LengthFact::Invalid,
            };
        }
    }

    fn add_coding(&mut self, value: &[u8]) {
        for member in value.split(|&byte| byte == b',') {
            let member = fields::trim(member);
            let chunked = member.eq_ignore_ascii_case(b"chunked");
            self.coding = match (self.coding, chunked) {
                (CodingFact::Absent, true) => CodingFact::Chunked,
                (CodingFact::Unknown, true) => CodingFact::UnknownThenChunked,
                (CodingFact::Absent | CodingFact::Unknown, false) if fields::is_token(member) => {
                    CodingFact::Unknown
                }
                _ => CodingFact::Invalid,
            };
        }
    }
}

/// A length as `1*DIGIT`: no sign, no space, at most nineteen digits, so that it cannot overflow.
pub(crate) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    let mut length = 0u64;
    for &digit in value {
        if !digit.is_ascii_digit() {
            return None;
        }
        length = length * 10 + u64::from(digit - b'0');
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length_of(values: &[&str]) -> LengthFact {
        let mut facts = Facts::default();
        values.iter().for_each(|value| facts.add_length(value.as_bytes()));
        facts.length
    }

    fn coding_of(values: &[&str]) -> CodingFact {
        let mut facts = Facts::default();
        values.iter().for_each(|value| facts.add_coding(value.as_bytes()));
        facts.coding
    }

    #[test]
    fn content_length_is_digits_and_nothing_else() {
        assert_eq!(length_of(&[]), LengthFact::Absent);
        assert_eq!(length_of(&["0"]), LengthFact::Once(0));
        assert_eq!(length_of(&["007"]), LengthFact::Once(7));
        assert_eq!(length_of(&["9999999999999999999"]), LengthFact::Once(9_999_999_999_999_999_999));
        assert_eq!(length_of(&["5, 5"]), LengthFact::Repeated(5));
        assert_eq!(length_of(&["5", "5"]), LengthFact::Repeated(5));
        for bad in
            ["", "+5", "-5", "5 5", "0x5", "5,", ",5", "5.0", "18446744073709551616", "5, 6", "5;a", "a"]
        {
            assert_eq!(length_of(&[bad]), LengthFact::Invalid, "{bad}");
        }
        assert_eq!(length_of(&["5", "6"]), LengthFact::Invalid);
        assert_eq!(length_of(&["5", "6", "6"]), LengthFact::Invalid);
    }

    #[test]
    fn transfer_codings_are_told_apart() {
        assert_eq!(coding_of(&["Chunked"]), CodingFact::Chunked);
        assert_eq!(coding_of(&["gzip"]), CodingFact::Unknown);
        assert_eq!(coding_of(&["identity"]), CodingFact::Unknown);
        assert_eq!(coding_of(&["gzip, chunked"]), CodingFact::UnknownThenChunked);
        assert_eq!(coding_of(&["gzip", "chunked"]), CodingFact::UnknownThenChunked);
        for bad in [
            "",
            ",",
            "chunked,",
            ",chunked",
            "chunked, chunked",
            "chunked, gzip",
            "chunked;a=b",
            "\"chunked\"",
            "gzip, chunked, gzip",
            "a b",
        ] {
            assert_eq!(coding_of(&[bad]), CodingFact::Invalid, "{bad}");
        }
        assert_eq!(coding_of(&["chunked", "chunked"]), CodingFact::Invalid);
    }

    #[test]
    fn options_are_counted_and_bounded() {
        let mut facts = Facts::default();
        facts.add_options(b"a, Close ,KEEP-alive, upgrade");
        assert!(facts.close && facts.keep_alive && facts.upgrade_option && !facts.too_many_options);
        let many = "x,".repeat(CONNECTION_OPTIONS_MAX - 4);
        facts.add_options(many.as_bytes());
        assert!(!facts.too_many_options);
        facts.add_options(b"x");
        assert!(facts.too_many_options);
    }
}
