//! Does a targeted field such as CDN-Cache-Control take the place of Cache-Control (RFC 9213, rule 17 of the RFC 9111 profile)?
//!
//! `storable` asks before it reads Cache-Control. Invariant: a field that is not a strict Structured-Field dictionary (RFC 9651 §3.2) of the
//! right types is ignored as a whole, which leaves Cache-Control in force.

use aspis_wire::{Field, fields};

use crate::age::AGE_MAX;
use crate::directives::{Extent, ResponseDirectives};

/// The field that Aspis follows as a shared cache.
pub const CDN_CACHE_CONTROL: &str = "cdn-cache-control";
/// The older one of the Edge Architecture Specification, followed where the operator says so.
pub const SURROGATE_CONTROL: &str = "surrogate-control";

/// Tells whether a field is for caches like us only and goes no further.
pub fn is_targeted(name: &str) -> bool {
    name.eq_ignore_ascii_case(CDN_CACHE_CONTROL)
}

/// Returns the directives of a targeted field; `None` if it is absent, empty or invalid.
pub fn targeted_directives(head: &[Field<'_>], name: &str) -> Option<ResponseDirectives> {
    let mut text = Vec::new();
    for value in fields::named(head, name) {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(value);
    }
    let mut parser = Parser { rest: fields::trim(&text) };
    if parser.rest.is_empty() {
        return None;
    }
    parser.dictionary()
}

/// What a member's value is, as far as directives differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    Flag(bool),
    Integer(i64),
    Other,
}

struct Parser<'t> {
    rest: &'t [u8],
}

impl<'t> Parser<'t> {
    /// RFC 9651 §4.2.2. Of a repeated key the last counts.
    fn dictionary(&mut self) -> Option<ResponseDirectives> {
        let mut found = ResponseDirectives::default();
        loop {
            let key = self.key()?;
            let value = if self.take(b'=') { self.item_or_list()? } else { Value::Flag(true) };
            self.parameters()?;
            apply(&mut found, key, value)?;
            self.skip_space();
            if self.rest.is_empty() {
                return Some(found);
            }
            if !self.take(b',') {
                return None;
            }
            self.skip_space();
            if self.rest.is_empty() {
                return None;
            }
        }
    }

    fn key(&mut self) -> Option<&'t [u8]> {
        let first = *self.rest.first()?;
        if !first.is_ascii_lowercase() && first != b'*' {
            return None;
        }
        Some(self.take_while(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.' | b'*')
        }))
    }

    fn item_or_list(&mut self) -> Option<Value> {
        if !self.take(b'(') {
            return self.bare_item();
        }
        loop {
            self.rest = trim_spaces(self.rest);
            if self.take(b')') {
                return Some(Value::Other);
            }
            self.bare_item()?;
            self.parameters()?;
            if !matches!(self.rest.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.take(b';') {
            self.rest = trim_spaces(self.rest);
            self.key()?;
            if self.take(b'=') {
                self.bare_item()?;
            }
        }
        Some(())
    }

    fn bare_item(&mut self) -> Option<Value> {
        match *self.rest.first()? {
            b'"' => self.string(),
            b'?' => self.boolean(),
            b':' => self.bytes(),
            b'@' => {
                self.take(b'@');
                matches!(self.number()?, Value::Integer(_)).then_some(Value::Other)
            }
            b'-' | b'0'..=b'9' => self.number(),
            first if first.is_ascii_alphabetic() || first == b'*' => {
                self.take_while(|byte| fields::is_token(&[byte]) || matches!(byte, b':' | b'/'));
                Some(Value::Other)
            }
            _ => None,
        }
    }

    /// RFC 9651 §4.2.4: at most 15 digits, or 12 and 3 behind the point.
    fn number(&mut self) -> Option<Value> {
        let negative = self.take(b'-');
        let digits = self.take_while(|byte| byte.is_ascii_digit());
        if self.take(b'.') {
            let decimals = self.take_while(|byte| byte.is_ascii_digit());
            let fits = (1..=12).contains(&digits.len()) && (1..=3).contains(&decimals.len());
            return fits.then_some(Value::Other);
        }
        if !(1..=15).contains(&digits.len()) {
            return None;
        }
        let number = digits.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        Some(Value::Integer(if negative { -number } else { number }))
    }

    fn string(&mut self) -> Option<Value> {
        self.take(b'"');
        loop {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            match byte {
                b'"' => return Some(Value::Other),
                b'\\' => {
                    let (&escaped, rest) = self.rest.split_first()?;
                    self.rest = rest;
                    if !matches!(escaped, b'"' | b'\\') {
                        return None;
                    }
                }
                b' '..=b'~' => {}
                _ => return None,
            }
        }
    }

    fn boolean(&mut self) -> Option<Value> {
        self.take(b'?');
        if self.take(b'1') {
            return Some(Value::Flag(true));
        }
        self.take(b'0').then_some(Value::Flag(false))
    }

    fn bytes(&mut self) -> Option<Value> {
        self.take(b':');
        self.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
        self.take(b':').then_some(Value::Other)
    }

    fn take(&mut self, byte: u8) -> bool {
        let Some(rest) = self.rest.strip_prefix(&[byte]) else { return false };
        self.rest = rest;
        true
    }

    fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> &'t [u8] {
        let end = self.rest.iter().position(|&byte| !accept(byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn skip_space(&mut self) {
        self.take_while(|byte| matches!(byte, b' ' | b'\t'));
    }
}

fn trim_spaces(mut text: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] = text {
        text = rest;
    }
    text
}

/// Takes one member over; `None` if a directive that we know has another type than its own.
fn apply(found: &mut ResponseDirectives, key: &[u8], value: Value) -> Option<()> {
    let seconds = || match value {
        Value::Integer(number) if number >= 0 => {
            Some(Some(u32::try_from(number).map_or(AGE_MAX, |n| n.min(AGE_MAX))))
        }
        _ => None,
    };
    let flag = || match value {
        Value::Flag(flag) => Some(flag),
        _ => None,
    };
    let extent = || flag().map(|flag| if flag { Extent::Whole } else { Extent::Absent });
    match key {
        b"max-age" => found.max_age = seconds()?,
        b"s-maxage" => found.s_maxage = seconds()?,
        b"stale-while-revalidate" => found.stale_while_revalidate = seconds()?,
        b"stale-if-error" => found.stale_if_error = seconds()?,
        b"no-store" => found.no_store = flag()?,
        b"no-cache" => found.no_cache = extent()?,
        b"private" => found.private = extent()?,
        b"public" => found.public = flag()?,
        b"must-revalidate" => found.must_revalidate = flag()?,
        b"proxy-revalidate" => found.proxy_revalidate = flag()?,
        b"must-understand" => found.must_understand = flag()?,
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(lines: &[&str]) -> Option<ResponseDirectives> {
        let head: Vec<Field<'_>> =
            lines.iter().map(|line| Field { name: "CDN-Cache-Control", value: line.as_bytes() }).collect();
        targeted_directives(&head, CDN_CACHE_CONTROL)
    }

    /// RFC 9213 §2.1 and RFC 9651 §4.2.
    #[test]
    fn a_strict_dictionary_is_read() {
        let age = |lines: &[&str]| read(lines).map(|found| found.max_age);
        assert_eq!(age(&["max-age=60"]), Some(Some(60)));
        assert_eq!(age(&["a=(1 2);b, max-age=60;x=\"y\", c=?0"]), Some(Some(60)));
        assert_eq!(age(&["max-age=60", "max-age=5"]), Some(Some(5)));
        assert_eq!(age(&["max-age=999999999999999"]), Some(Some(AGE_MAX)));
        assert_eq!(age(&["x=:YQ==:, y=@5, z=1.5, t=a/b"]), Some(None));
        let found = read(&["no-store, private, no-cache=?0"]).unwrap();
        assert!(found.no_store && found.private == Extent::Whole && found.no_cache == Extent::Absent);
    }

    /// Rule 17: invalid or wrong type: ignored whole.
    #[test]
    fn anything_else_is_ignored_as_a_whole() {
        for line in [
            "",
            " ",
            ",",
            "max-age=60,",
            "max-age=60 no-store",
            "Max-Age=60",
            "max-age=\"60\"",
            "max-age=60.0",
            "max-age",
            "max-age=-1",
            "max-age=a",
            "max-age=",
            "max-age =60",
            "max-age= 60",
            "no-store=1",
            "private=\"a\"",
            "max-age=1234567890123456",
            "a=(1",
            "a=\"x",
            "a=?2",
            "a=:x",
            "&",
            "max-age=60;",
            "max-age=60;A",
        ] {
            assert_eq!(read(&[line]), None, "{line}");
        }
        assert_eq!(read(&[]), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", dense in "[a-z0-9=,;()\"? .:@*-]{0,30}") {
            let _ = (read(&[&text]), read(&[&dense]));
        }
    }
}
