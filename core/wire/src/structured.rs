//! Writes structured field values (RFC 9651), as `Cache-Status` (RFC 9211) needs them.
//!
//! Fed by the cache's status module. Only values that the grammar allows come out.

use crate::fields::TOKEN_BYTES;

/// Whether `text` is a token of structured fields: begins with a letter or `*` (RFC 9651 section 3.3.4).
pub fn is_token(text: &str) -> bool {
    let first = text.as_bytes().first();
    first.is_some_and(|&byte| byte.is_ascii_alphabetic() || byte == b'*')
        && text.bytes().all(|byte| TOKEN_BYTES[usize::from(byte)] || matches!(byte, b':' | b'/'))
}

/// Whether `text` is a key: lower-case letters, digits and `_-.*`, not beginning with a digit, `-`, `_` or `.`.
pub fn is_key(text: &str) -> bool {
    let first = text.as_bytes().first();
    first.is_some_and(|&byte| byte.is_ascii_lowercase() || byte == b'*')
        && text.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.' | b'*')
        })
}

/// Appends a quoted string. Bytes that a string cannot hold become `?`.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend_from_slice(&[b'\\', character as u8]),
            ' '..='~' => out.push(character as u8),
            _ => out.push(b'?'),
        }
    }
    out.push(b'"');
}

/// Appends a token where `text` is one, else a quoted string: a cache's name in `Cache-Status` may be either.
pub fn write_token_or_string(text: &str, out: &mut Vec<u8>) {
    if is_token(text) { out.extend_from_slice(text.as_bytes()) } else { write_string(text, out) }
}

/// Appends `;key`, a parameter that is true.
pub fn write_flag(key: &str, out: &mut Vec<u8>) {
    debug_assert!(is_key(key), "a parameter's name is a key");
    out.push(b';');
    out.extend_from_slice(key.as_bytes());
}

/// Appends `;key=token`.
pub fn write_token_parameter(key: &str, token: &str, out: &mut Vec<u8>) {
    debug_assert!(is_token(token), "the value is a token");
    write_flag(key, out);
    out.push(b'=');
    out.extend_from_slice(token.as_bytes());
}

/// Appends `;key=integer`, clamped to the fifteen digits that RFC 9651 section 3.3.1 allows.
pub fn write_integer_parameter(key: &str, integer: i64, out: &mut Vec<u8>) {
    write_flag(key, out);
    out.push(b'=');
    let clamped = integer.clamp(-999_999_999_999_999, 999_999_999_999_999);
    out.extend_from_slice(itoa::Buffer::new().format(clamped).as_bytes());
}

/// Appends `;key="text"`.
pub fn write_string_parameter(key: &str, text: &str, out: &mut Vec<u8>) {
    write_flag(key, out);
    out.push(b'=');
    write_string(text, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_status_member_is_written() {
        let mut out = Vec::new();
        write_token_or_string("aspis", &mut out);
        write_flag("hit", &mut out);
        write_integer_parameter("ttl", -412, &mut out);
        write_token_parameter("fwd", "uri-miss", &mut out);
        write_string_parameter("detail", "a \"b\" \\ \u{e9}\n", &mut out);
        assert_eq!(str::from_utf8(&out), Ok(r#"aspis;hit;ttl=-412;fwd=uri-miss;detail="a \"b\" \\ ??""#));
    }

    #[test]
    fn names_that_are_no_tokens_are_quoted() {
        for (name, written) in [("edge/1:a", "edge/1:a"), ("1a", "\"1a\""), ("a b", "\"a b\""), ("", "\"\"")]
        {
            let mut out = Vec::new();
            write_token_or_string(name, &mut out);
            assert_eq!(str::from_utf8(&out), Ok(written));
        }
    }

    #[test]
    fn integers_are_clamped_to_what_the_grammar_allows() {
        let mut out = Vec::new();
        write_integer_parameter("a", i64::MAX, &mut out);
        write_integer_parameter("b", i64::MIN, &mut out);
        assert_eq!(str::from_utf8(&out), Ok(";a=999999999999999;b=-999999999999999"));
    }
}
