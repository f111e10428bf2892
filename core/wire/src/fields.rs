//! Questions about fields: tokens, comma lists, and which fields go no further than this connection.
//!
//! Read by the exchange when it writes heads and by the cache when it reads directives. Nothing here allocates.

use crate::Field;

/// Bytes of a token (RFC 9110 section 5.6.2).
pub(crate) const TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let value = byte as u8;
        table[byte] = value.is_ascii_alphanumeric()
            || matches!(
                value,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

/// Whether `value` is a token: at least one byte, none of them a delimiter (RFC 9110 section 5.6.2).
pub fn is_token(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|&byte| TOKEN_BYTES[usize::from(byte)])
}

/// Whether `value` may stand as a field value: no control byte but the tab (RFC 9110 section 5.5).
pub fn is_field_value(value: &[u8]) -> bool {
    value.iter().all(|&byte| is_field_value_byte(byte))
}

/// A visible byte, space, tab, or obs-text.
#[inline]
pub(crate) const fn is_field_value_byte(byte: u8) -> bool {
    (byte >= b' ' && byte != 0x7f) || byte == b'\t'
}

/// Removes spaces and tabs at both ends (`OWS` of RFC 9110 section 5.6.3), and nothing else.
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether a field describes this connection only, whatever `Connection` says.
///
/// RFC 9110 section 7.6.1, and the proxy fields that RFC 9111 section 3.1 keeps out of a cache.
pub fn is_hop_by_hop(name: &str) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 => is("te"),
        7 => is("trailer") || is("upgrade"),
        10 => is("connection") || is("keep-alive"),
        16 => is("proxy-connection"),
        17 => is("transfer-encoding"),
        18 => is("proxy-authenticate"),
        19 => is("proxy-authorization"),
        25 => is("proxy-authentication-info"),
        _ => false,
    }
}

/// The fields that go on to the next recipient: all but the hop-by-hop ones and those that `Connection` names.
///
/// Rule 10 of the RFC 9111 profile and RFC 9110 section 7.6.1. The parser bounds the number of options
/// ([`CONNECTION_OPTIONS_MAX`](crate::limits::CONNECTION_OPTIONS_MAX)), so the work is bounded too.
pub fn end_to_end<'f, 'b>(fields: &'f [Field<'b>]) -> impl Iterator<Item = &'f Field<'b>> {
    fields.iter().filter(move |field| !is_hop_by_hop(field.name) && !is_connection_option(fields, field.name))
}

/// Whether a `Connection` field among `fields` names `option`, without case.
pub fn is_connection_option(fields: &[Field<'_>], option: &str) -> bool {
    named(fields, "connection")
        .any(|value| list(value).any(|member| member.eq_ignore_ascii_case(option.as_bytes())))
}

/// The value of the first field of that name. `name` may be in any case.
pub fn first<'b>(fields: &[Field<'b>], name: &str) -> Option<&'b [u8]> {
    fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// The values of all fields of that name, in order.
pub fn named<'f, 'b: 'f>(fields: &'f [Field<'b>], name: &'f str) -> impl Iterator<Item = &'b [u8]> + 'f {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// The members of a comma list, trimmed, without the empty ones (RFC 9110 section 5.6.1.2).
///
/// A comma within a quoted string does not separate. A string without its closing quote reaches to the end.
pub fn list(value: &[u8]) -> List<'_> {
    List { rest: value, separator: b',' }
}

/// The parts of a member that stand between semicolons: its value, then its parameters. As [`list`] otherwise.
pub fn parameters(member: &[u8]) -> List<'_> {
    List { rest: member, separator: b';' }
}

/// Iterator of [`list`] and [`parameters`].
#[derive(Clone, Debug)]
pub struct List<'b> {
    rest: &'b [u8],
    separator: u8,
}

impl<'b> Iterator for List<'b> {
    type Item = &'b [u8];

    fn next(&mut self) -> Option<&'b [u8]> {
        while !self.rest.is_empty() {
            let end = member_end(self.rest, self.separator);
            let member = trim(&self.rest[..end]);
            self.rest = self.rest.get(end + 1..).unwrap_or_default();
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    }
}

/// Tells whether a quoted string is begun and not ended, so that what stands in it may have been meant as members.
pub fn has_open_string(value: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for &byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    quoted
}

/// Where the first member ends: at a separator outside of quotes, or at the end.
fn member_end(value: &[u8], separator: u8) -> usize {
    let mut quoted = false;
    let mut at = 0;
    while let Some(&byte) = value.get(at) {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => at += 1,
            _ if byte == separator && !quoted => return at,
            _ => {}
        }
        at += 1;
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(value: &str) -> Vec<&str> {
        list(value.as_bytes()).map(|member| str::from_utf8(member).unwrap()).collect()
    }

    #[test]
    fn an_open_string_is_found() {
        for open in [r#"a="b"#, r#"""#, r#"a="b\"x"#] {
            assert!(has_open_string(open.as_bytes()), "{open}");
        }
        for closed in ["", r#"a="b""#, r#"a="b\\""#, r"a\b"] {
            assert!(!has_open_string(closed.as_bytes()), "{closed}");
        }
    }

    #[test]
    fn lists_respect_quoted_strings_and_skip_empty_members() {
        assert_eq!(members(""), Vec::<&str>::new());
        assert_eq!(members(" , ,\t"), Vec::<&str>::new());
        assert_eq!(members("a"), ["a"]);
        assert_eq!(members(" a ,\tb\t,, c"), ["a", "b", "c"]);
        assert_eq!(members(r#"no-cache="a, b", max-age=1"#), [r#"no-cache="a, b""#, "max-age=1"]);
        assert_eq!(members(r#""a\",b", c"#), [r#""a\",b""#, "c"]);
        assert_eq!(members(r#""a, b"#), [r#""a, b"#]);
        assert_eq!(members(r#""a\"#), [r#""a\"#]);
        assert_eq!(members(r"a\,b"), [r"a\", "b"]);
    }

    #[test]
    fn parameters_split_at_semicolons() {
        let parts: Vec<&[u8]> = parameters(br#"gzip ; q=0.5; x=";""#).collect();
        assert_eq!(parts, [&b"gzip"[..], b"q=0.5", br#"x=";""#]);
    }

    #[test]
    fn hop_by_hop_fields_and_connection_options_go_no_further() {
        // Rule 10 of the RFC 9111 profile.
        let field = |name, value: &'static str| Field { name, value: value.as_bytes() };
        let fields = [
            field("Connection", "close, X-Secret"),
            field("connection", "x-OTHER"),
            field("Keep-Alive", "timeout=5"),
            field("Proxy-Connection", "keep-alive"),
            field("Proxy-Authenticate", "Basic"),
            field("Proxy-Authorization", "Basic x"),
            field("Proxy-Authentication-Info", "x"),
            field("TE", "trailers"),
            field("Trailer", "X"),
            field("Transfer-Encoding", "chunked"),
            field("Upgrade", "h2c"),
            field("x-secret", "1"),
            field("X-Other", "1"),
            field("Content-Type", "text/plain"),
            field("ETag", "\"a\""),
        ];
        let kept: Vec<&str> = end_to_end(&fields).map(|field| field.name).collect();
        assert_eq!(kept, ["Content-Type", "ETag"]);
        assert_eq!(first(&fields, "etag"), Some(&b"\"a\""[..]));
        assert_eq!(named(&fields, "connection").count(), 2);
    }

    #[test]
    fn trimming_takes_spaces_and_tabs_only() {
        assert_eq!(trim(b" \t a b\t "), b"a b");
        assert_eq!(trim(b"\x0ba"), b"\x0ba");
        assert_eq!(trim(b"  "), b"");
    }
}
