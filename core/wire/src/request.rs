//! Decides what a viewer's bytes ask for: the head of a request, its target, and what frames its content.
//!
//! Fed by the shard's viewer side with everything received since the last request; read by the exchange.
//! Also the admin server's and the tests' way to read a request. RFC 9112 sections 2 to 6 and 9.
//!
//! The order of judgement is fixed, so that the answer does not depend on how the bytes were split: first
//! the request line from left to right ([`line`]), then the fields from first to last, then the length of
//! the head, then what the fields say. Checks may be put off until more bytes are there, never reordered.

mod error;
mod known;
mod line;
mod target;

#[cfg(test)]
mod tests;

use memchr::memchr;

pub use self::error::RequestError;
pub use self::known::{KnownSections, KnownSlots};
use crate::authority;
use crate::fields;
use crate::framing::{self, CodingFact, Facts, LengthFact};
use crate::limits::EMPTY_LINES_MAX;
use crate::{Field, FieldSlots, HeadLimits, Method, Scheme, Version};

/// The head of a request. Everything borrows the received bytes or the caller's slots.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'b, 'h> {
    /// The method.
    pub method: Method<'b>,
    /// The version of the request line.
    pub version: Version,
    /// The scheme, of a target in absolute-form only. Otherwise the connection decides it.
    pub scheme: Option<Scheme>,
    /// The authority of the target if it has one, else `Host`. Empty only for HTTP/1.0 without `Host`.
    ///
    /// Checked by [`parse_authority`](crate::parse_authority); letter case and default port are as they came.
    pub authority: &'b str,
    /// `/...` with the query; `*` for a server-wide `OPTIONS`; empty for `CONNECT`.
    pub path_and_query: &'b str,
    /// All fields in order, `Host` and the hop-by-hop ones included.
    pub fields: &'h [Field<'b>],
    /// What frames the content.
    pub framing: RequestFraming,
    /// Whether the viewer lets the connection live after this exchange.
    pub keep_alive: bool,
    /// Whether the viewer asks for another protocol: `Upgrade` present and named in `Connection`, HTTP/1.1.
    ///
    /// False where `h2c` is among the protocols: RFC 9113 withdrew it, and a tunnel of HTTP/2 would carry
    /// requests past everything that is decided here. The field is then ignored (RFC 9110 section 7.8).
    pub upgrade: bool,
    /// Whether the viewer waits for `100 Continue` before it sends content (RFC 9110 section 10.1.1).
    pub expect_continue: bool,
    /// Bytes of the head: with its final empty line and with empty lines that stood before it.
    pub len: usize,
}

/// What frames the content of a request (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFraming {
    /// Neither length nor coding: no content.
    None,
    /// That many bytes; may be 0.
    Length(u64),
    /// The chunked coding, and no other.
    Chunked,
}

impl<'b> RequestHead<'b, '_> {
    /// Returns the same head over a copy of its fields, for one that has to be kept: the slots of a parse have room for many more.
    pub fn with_fields<'n>(&self, fields: &'n [Field<'b>]) -> RequestHead<'b, 'n> {
        RequestHead {
            method: self.method,
            version: self.version,
            scheme: self.scheme,
            authority: self.authority,
            path_and_query: self.path_and_query,
            fields,
            framing: self.framing,
            keep_alive: self.keep_alive,
            upgrade: self.upgrade,
            expect_continue: self.expect_continue,
            len: self.len,
        }
    }

    /// The value of the first field of that name.
    pub fn field(&self, lowercase_name: &str) -> Option<&'b [u8]> {
        fields::first(self.fields, lowercase_name)
    }

    /// The values of all fields of that name, in order.
    pub fn fields_named<'s>(&'s self, lowercase_name: &'s str) -> impl Iterator<Item = &'b [u8]> + 's {
        fields::named(self.fields, lowercase_name)
    }

    /// Whether content may follow the head.
    pub fn has_content(&self) -> bool {
        !matches!(self.framing, RequestFraming::None | RequestFraming::Length(0))
    }
}

/// Up to this length the request line is looked at again with every arrival, complete or not.
const RECHECKED_LEN_MAX: usize = 1_024;

/// Reads one request head from the front of `bytes`; `Ok(None)` when more bytes are needed.
///
/// Call it again with all the bytes when more have come: what was looked at before is not parsed again
/// until the head ends, a line ends or a limit is reached, so that slow arrival costs no more than a search.
///
/// # Errors
///
/// As soon as the bytes cannot become a request that we serve. The connection must be closed after the
/// answer of [`RequestError::status`], since where the next request would begin is unknown.
#[inline]
pub fn parse_request<'b, 'h>(
    bytes: &'b [u8],
    slots: &'h mut FieldSlots<'b>,
    limits: &HeadLimits,
) -> Result<Option<RequestHead<'b, 'h>>, RequestError> {
    let skipped = match bytes.first() {
        Some(b'\r' | b'\n') => match skip_empty_lines(bytes)? {
            Some(skipped) => skipped,
            None => return Ok(None),
        },
        Some(_) => 0,
        None => return Ok(None),
    };
    let rest = &bytes[skipped..];
    let window = &rest[..rest.len().min(limits.head_len_max)];
    // Most requests arrive whole and alone, so the end is looked at before the whole is searched.
    if !window.ends_with(b"\r\n\r\n") && !framing::has_empty_line(window) {
        return incomplete(window, slots, limits).map(|()| None);
    }
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(window, slots.first(limits.field_count_max)) {
        Ok(httparse::Status::Complete(len)) => {
            let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
            else {
                return Err(RequestError::RequestLine);
            };
            let version = if version == 0 { Version::Http10 } else { Version::Http11 };
            let line = line::Line { method, target, version };
            if !line.is_plausible(limits) {
                line::check(window, limits)?;
            }
            judge_fields(&window[..len], line, parsed.headers, limits)
                .map(|head| Some(RequestHead { len: head.len + skipped, ..head }))
        }
        Ok(httparse::Status::Partial) => {
            line::check(window, limits)?;
            if window.len() == limits.head_len_max { Err(RequestError::HeadTooLong) } else { Ok(None) }
        }
        Err(error) => {
            line::check(window, limits)?;
            Err(RequestError::from_fields(error))
        }
    }
}

/// How many bytes of empty lines stand before the request line; `None` if it is not known yet.
///
/// RFC 9112 section 2.2: a server should ignore at least one. More than [`EMPTY_LINES_MAX`] are refused.
fn skip_empty_lines(bytes: &[u8]) -> Result<Option<usize>, RequestError> {
    let mut skipped = 0;
    loop {
        match &bytes[skipped..] {
            [] | [b'\r'] => return Ok(None),
            [b'\r', b'\n', ..] if skipped < 2 * EMPTY_LINES_MAX => skipped += 2,
            [b'\r' | b'\n', ..] => return Err(RequestError::EmptyLines),
            _ => return Ok(Some(skipped)),
        }
    }
}

/// Refuses early what cannot become a request, at a cost that slow arrival cannot multiply.
///
/// The request line is looked at while it is incomplete or short. The fields are parsed only when a line has just
/// ended (their number is limited, so these calls are few) or when the head has reached its limit.
#[cold]
fn incomplete<'b>(
    window: &'b [u8],
    slots: &mut FieldSlots<'b>,
    limits: &HeadLimits,
) -> Result<(), RequestError> {
    let at_limit = window.len() >= limits.head_len_max;
    let line_ended = window.last() == Some(&b'\n');
    if !at_limit && !line_ended && window.len() > RECHECKED_LEN_MAX && memchr(b'\n', window).is_some() {
        return line::check_first_byte(window);
    }
    line::check(window, limits)?;
    if line_ended || at_limit {
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(window, slots.first(limits.field_count_max)) {
            // A head that ends without CR LF CR LF ends in a bare line feed.
            Ok(httparse::Status::Complete(_)) => return Err(RequestError::BareLineFeed),
            Ok(httparse::Status::Partial) => {}
            Err(error) => return Err(RequestError::from_fields(error)),
        }
    }
    if at_limit { Err(RequestError::HeadTooLong) } else { Ok(()) }
}

/// Judges a head that is complete and made of well-formed lines.
#[inline]
fn judge_fields<'b, 'h>(
    head: &[u8],
    line: line::Line<'b>,
    fields: &'h [Field<'b>],
    limits: &HeadLimits,
) -> Result<RequestHead<'b, 'h>, RequestError> {
    let facts = framing::collect(head, fields).ok_or(RequestError::BareLineFeed)?;
    judge(line, fields, &facts, || host_of(fields, &facts), head.len(), limits)
}

/// Judges a head by what is known of its fields. `host` gives the value of `Host`, if there is one.
#[inline]
fn judge<'b, 'h>(
    line: line::Line<'b>,
    fields: &'h [Field<'b>],
    facts: &Facts,
    host: impl FnOnce() -> Result<Option<&'b str>, RequestError>,
    len: usize,
    limits: &HeadLimits,
) -> Result<RequestHead<'b, 'h>, RequestError> {
    if facts.host_repeated {
        return Err(RequestError::HostRepeated);
    }
    if facts.too_many_options {
        return Err(RequestError::TooManyConnectionOptions);
    }
    let method = Method::from_text(line.method);
    let target = target::split(line.target, method)?;
    let host = match host()? {
        Some(host) => host,
        None if line.version == Version::Http11 => return Err(RequestError::HostMissing),
        None => "",
    };
    let authority = target.authority.unwrap_or(host);
    // H-15 counts the URL with scheme and host.
    let scheme_len = target.scheme.unwrap_or(Scheme::Http).as_str().len() + "://".len();
    if scheme_len + authority.len() + target.path_and_query.len() > limits.target_len_max {
        return Err(RequestError::TargetTooLong);
    }
    Ok(RequestHead {
        method,
        version: line.version,
        scheme: target.scheme,
        authority,
        path_and_query: target.path_and_query,
        fields,
        framing: request_framing(facts, line.version)?,
        keep_alive: facts.persists(line.version),
        upgrade: facts.asks_for_upgrade() && line.version == Version::Http11,
        expect_continue: facts.expect_continue && line.version == Version::Http11,
        len,
    })
}

/// The value of `Host`, if there is one. H-20: an invalid one is refused even where the target outranks it (RFC 9112 section 3.2).
#[inline]
fn host_of<'b>(fields: &[Field<'b>], facts: &Facts) -> Result<Option<&'b str>, RequestError> {
    let Some(at) = facts.host_at else { return Ok(None) };
    authority::authority_text(fields[at].value).map(Some).ok_or(RequestError::HostInvalid)
}

/// RFC 9112 section 6.3 for requests, with nothing left to interpretation.
#[inline]
fn request_framing(facts: &Facts, version: Version) -> Result<RequestFraming, RequestError> {
    match (facts.coding, facts.length) {
        (CodingFact::Absent, LengthFact::Absent) => Ok(RequestFraming::None),
        (CodingFact::Absent, LengthFact::Once(length)) => Ok(RequestFraming::Length(length)),
        (CodingFact::Absent, LengthFact::Repeated(_)) => Err(RequestError::ContentLengthRepeated),
        (CodingFact::Absent, LengthFact::Invalid) => Err(RequestError::ContentLengthInvalid),
        (_, length) if length != LengthFact::Absent => Err(RequestError::LengthAndCoding),
        _ if version == Version::Http10 => Err(RequestError::TransferEncodingInHttp10),
        (CodingFact::Chunked, _) => Ok(RequestFraming::Chunked),
        (CodingFact::UnknownThenChunked | CodingFact::Unknown, _) => {
            Err(RequestError::TransferEncodingUnknown)
        }
        (CodingFact::Invalid, _) => Err(RequestError::TransferEncodingInvalid),
    }
}
