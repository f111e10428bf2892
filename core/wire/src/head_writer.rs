//! Writes heads: start lines, fields, and the empty line.
//!
//! Used by the exchange for requests to origins and for responses to viewers. A field value cannot split a
//! head: bytes that could end a line are written as spaces (RFC 9110 section 5.5 permits it).

use crate::Method;
use crate::fields::is_field_value_byte;

/// Appends one head to a buffer of the caller's.
#[derive(Debug)]
pub struct HeadWriter<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> HeadWriter<'o> {
    /// A writer that appends to `out`.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Writes `METHOD target HTTP/1.1`.
    pub fn request_line(&mut self, method: Method<'_>, target: &str) -> &mut Self {
        self.request_line_parts(method, &[target])
    }

    /// Writes a request line whose target is the parts joined, such as a path prefix and a path.
    ///
    /// The parts must come from checked targets and settings: a byte that could end the line is percent-encoded.
    pub fn request_line_parts(&mut self, method: Method<'_>, target_parts: &[&str]) -> &mut Self {
        self.out.extend_from_slice(method.as_str().as_bytes());
        self.out.push(b' ');
        for part in target_parts {
            self.extend_target(part);
        }
        self.out.extend_from_slice(b" HTTP/1.1\r\n");
        self
    }

    /// Writes `HTTP/1.1 status reason`, with the reason phrase of [`reason_phrase`].
    pub fn status_line(&mut self, status: u16) -> &mut Self {
        self.out.extend_from_slice(b"HTTP/1.1 ");
        self.out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
        self.out.push(b' ');
        self.out.extend_from_slice(reason_phrase(status).as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Writes one field. `name` must be a token.
    pub fn field(&mut self, name: &str, value: &[u8]) -> &mut Self {
        debug_assert!(crate::fields::is_token(name.as_bytes()), "a field name is a token");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.extend_value(value);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Writes one field whose value is the parts joined.
    pub fn field_parts(&mut self, name: &str, parts: &[&[u8]]) -> &mut Self {
        debug_assert!(crate::fields::is_token(name.as_bytes()), "a field name is a token");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        for part in parts {
            self.extend_value(part);
        }
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Writes one field with a decimal number.
    pub fn field_number(&mut self, name: &str, number: u64) -> &mut Self {
        self.field(name, itoa::Buffer::new().format(number).as_bytes())
    }

    /// Writes the empty line that ends the head.
    pub fn end(&mut self) {
        self.out.extend_from_slice(b"\r\n");
    }

    fn extend_value(&mut self, value: &[u8]) {
        let from = self.out.len();
        self.out.extend_from_slice(value);
        for byte in &mut self.out[from..] {
            if !is_field_value_byte(*byte) {
                *byte = b' ';
            }
        }
    }

    fn extend_target(&mut self, part: &str) {
        for &byte in part.as_bytes() {
            if byte > b' ' && byte < 0x7f {
                self.out.push(byte);
            } else {
                let digits = b"0123456789ABCDEF";
                let encoded = [b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 0xf)]];
                self.out.extend_from_slice(&encoded);
            }
        }
    }
}

/// The reason phrase of a status (RFC 9110 section 15 and its registry), or an empty one.
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        494 => "Request Header Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_head_is_written_as_the_grammar_says() {
        let mut out = Vec::new();
        let mut writer = HeadWriter::new(&mut out);
        writer.request_line_parts(Method::Get, &["/base", "/a?b=c"]).field("Host", b"example.com");
        writer.field_number("Content-Length", 0).field_parts("Via", &[b"1.1 a", b", ", b"1.1 aspis"]);
        writer.end();
        let expected = "GET /base/a?b=c HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n\
                        Via: 1.1 a, 1.1 aspis\r\n\r\n";
        assert_eq!(str::from_utf8(&out), Ok(expected));
    }

    #[test]
    fn a_status_line_has_its_space_even_without_a_phrase() {
        for (status, line) in [(200, "HTTP/1.1 200 OK\r\n"), (599, "HTTP/1.1 599 \r\n")] {
            let mut out = Vec::new();
            HeadWriter::new(&mut out).status_line(status);
            assert_eq!(str::from_utf8(&out), Ok(line));
        }
    }

    #[test]
    fn a_value_cannot_split_the_head() {
        let mut out = Vec::new();
        HeadWriter::new(&mut out).field("X", b"a\r\nSet-Cookie: b\0\x7f\xff\t.").end();
        assert_eq!(out, b"X: a  Set-Cookie: b  \xff\t.\r\n\r\n");
        out.clear();
        HeadWriter::new(&mut out).request_line(Method::Get, "/a b\r\nX: \u{e9}");
        assert_eq!(out, b"GET /a%20b%0D%0AX:%20%C3%A9 HTTP/1.1\r\n");
    }
}
