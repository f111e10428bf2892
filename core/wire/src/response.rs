//! Decides what an origin's bytes answer: the head of a response and what frames its content.
//!
//! Fed by the shard's origin side with everything received since the request was sent; read by the
//! exchange. RFC 9112 sections 2, 4, 5, 6.3 and 9. As strict as the request side: a response that two
//! readers could read differently is an origin failure, never stored and never repaired.

mod error;

#[cfg(test)]
mod tests;

pub use self::error::ResponseError;
use crate::fields;
use crate::framing::{self, CodingFact, Facts, LengthFact};
use crate::{Field, FieldSlots, HeadLimits, Method, Version};

/// The head of a response. Everything borrows the received bytes or the caller's slots.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'b, 'h> {
    /// The version of the status line.
    pub version: Version,
    /// The status, 100 to 999.
    pub status: u16,
    /// The reason phrase as it came, perhaps empty, perhaps not UTF-8.
    pub reason: &'b [u8],
    /// All fields in order, the hop-by-hop ones included.
    pub fields: &'h [Field<'b>],
    /// What frames the content.
    pub framing: ResponseFraming,
    /// The number in `Content-Length`, also where no content follows (an answer to HEAD, a 304).
    ///
    /// Write this one, not the field: an origin may have repeated the number.
    pub content_length: Option<u64>,
    /// Whether the connection may carry another request once the content was read to its end.
    pub keep_alive: bool,
    /// Bytes of the head with its final empty line.
    pub len: usize,
}

/// What frames the content of a response (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFraming {
    /// No content: 1xx, 204, 304, an answer to HEAD, a 2xx to CONNECT.
    None,
    /// That many bytes; may be 0.
    Length(u64),
    /// The chunked coding, and no other.
    Chunked,
    /// Everything until the origin closes.
    UntilClose,
}

impl<'b> ResponseHead<'b, '_> {
    /// The value of the first field of that name.
    pub fn field(&self, lowercase_name: &str) -> Option<&'b [u8]> {
        fields::first(self.fields, lowercase_name)
    }

    /// The values of all fields of that name, in order.
    pub fn fields_named<'s>(&'s self, lowercase_name: &'s str) -> impl Iterator<Item = &'b [u8]> + 's {
        fields::named(self.fields, lowercase_name)
    }

    /// Whether another response to the same request follows: 1xx but 101 (RFC 9110 section 15.2).
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// Reads one response head from the front of `bytes`; `Ok(None)` when more bytes are needed.
///
/// `request_method` is that of the request being answered, since it decides whether content follows.
/// As with requests, call it again with all the bytes when more have come.
///
/// # Errors
///
/// As soon as the bytes cannot become a response. The connection must not be used again.
pub fn parse_response<'b, 'h>(
    bytes: &'b [u8],
    slots: &'h mut FieldSlots<'b>,
    limits: &HeadLimits,
    request_method: Method<'_>,
) -> Result<Option<ResponseHead<'b, 'h>>, ResponseError> {
    let window = &bytes[..bytes.len().min(limits.head_len_max)];
    let prefix = b"HTTP/1.";
    let compared = window.len().min(prefix.len());
    if window[..compared] != prefix[..compared] {
        return Err(ResponseError::StatusLine);
    }
    let at_limit = window.len() >= limits.head_len_max;
    // A head is parsed only when it can be complete, when a line has just ended or at the limit: the number
    // of lines is limited, so slow arrival costs no more than a search.
    let ended = window.ends_with(b"\n") || framing::has_empty_line(window);
    if !ended && !at_limit {
        return Ok(None);
    }
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let count = limits.field_count_max;
    match config.parse_response_with_uninit_headers(&mut parsed, window, slots.first(count)) {
        Ok(httparse::Status::Complete(len)) => {
            let (Some(version), Some(status)) = (parsed.version, parsed.code) else {
                return Err(ResponseError::StatusLine);
            };
            let version = if version == 0 { Version::Http10 } else { Version::Http11 };
            judge(&window[..len], version, status, parsed.headers, request_method).map(Some)
        }
        Ok(httparse::Status::Partial) if at_limit => Err(ResponseError::HeadTooLarge),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(ResponseError::from_parser(error)),
    }
}

/// Judges a head that is complete and made of well-formed lines.
fn judge<'b, 'h>(
    head: &'b [u8],
    version: Version,
    status: u16,
    fields: &'h [Field<'b>],
    request_method: Method<'_>,
) -> Result<ResponseHead<'b, 'h>, ResponseError> {
    let facts = framing::collect(head, fields).ok_or(ResponseError::BareLineFeed)?;
    if status < 100 {
        return Err(ResponseError::Status);
    }
    if facts.too_many_options {
        return Err(ResponseError::TooManyConnectionOptions);
    }
    let framing = response_framing(&facts, version, status, request_method)?;
    let keep_alive = facts.persists(version)
        && framing != ResponseFraming::UntilClose
        && status != 101
        && !may_have_stray_content(&facts, status);
    let content_length = match facts.length {
        LengthFact::Once(length) | LengthFact::Repeated(length) => Some(length),
        LengthFact::Absent | LengthFact::Invalid => None,
    };
    let (reason, len) = (reason(head), head.len());
    Ok(ResponseHead { version, status, reason, fields, framing, content_length, keep_alive, len })
}

/// RFC 9112 section 6.3 for responses: rules 1 to 8 in their order.
fn response_framing(
    facts: &Facts,
    version: Version,
    status: u16,
    request_method: Method<'_>,
) -> Result<ResponseFraming, ResponseError> {
    if facts.length == LengthFact::Invalid {
        return Err(ResponseError::ContentLength);
    }
    if facts.coding != CodingFact::Absent && facts.length != LengthFact::Absent {
        return Err(ResponseError::LengthAndCoding);
    }
    if matches!(facts.coding, CodingFact::Invalid | CodingFact::UnknownThenChunked) {
        return Err(ResponseError::TransferEncoding);
    }
    if facts.coding != CodingFact::Absent && version == Version::Http10 {
        return Err(ResponseError::TransferEncoding);
    }
    if status < 200 && (facts.coding != CodingFact::Absent || announces_content(facts.length)) {
        // RFC 9110 section 8.6 and RFC 9112 section 6.1 forbid both; what follows could be taken for content.
        // A length of 0 is forbidden too, but some servers send it with 101 and it has one reading.
        return Err(ResponseError::InterimWithContent);
    }
    let tunnel = request_method == Method::Connect && (200..300).contains(&status);
    if request_method == Method::Head || tunnel || matches!(status, 100..200 | 204 | 304) {
        return Ok(ResponseFraming::None);
    }
    match (facts.coding, facts.length) {
        (CodingFact::Chunked, _) => Ok(ResponseFraming::Chunked),
        (CodingFact::Absent, LengthFact::Once(length) | LengthFact::Repeated(length)) => {
            Ok(ResponseFraming::Length(length))
        }
        // Rule 10 of the RFC 9111 profile: an unknown coding is read to the close; its field is hop-by-hop.
        _ => Ok(ResponseFraming::UntilClose),
    }
}

/// Whether a 204 announces content that it must not have, so that the connection's next bytes are in doubt.
fn may_have_stray_content(facts: &Facts, status: u16) -> bool {
    status == 204 && (facts.coding != CodingFact::Absent || announces_content(facts.length))
}

/// Whether a length is given and is not 0.
fn announces_content(length: LengthFact) -> bool {
    !matches!(length, LengthFact::Absent | LengthFact::Once(0) | LengthFact::Repeated(0))
}

/// The reason phrase: what stands between the status and the end of the status line.
fn reason(head: &[u8]) -> &[u8] {
    let line_len = memchr::memchr(b'\r', head).unwrap_or(head.len());
    head.get("HTTP/1.1 200 ".len()..line_len).unwrap_or_default()
}
