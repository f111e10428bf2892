//! The small words that requests and responses share: version, method, scheme, and the room for fields.

use std::mem::MaybeUninit;

use crate::Field;
use crate::limits::FIELD_SLOTS;

/// Room for the fields of one head, on the caller's stack.
///
/// Making one costs nothing: the slots are not initialised until the parser writes them. Make a new
/// one for each head, since the fields in it borrow that head's bytes.
pub struct FieldSlots<'b>([MaybeUninit<Field<'b>>; FIELD_SLOTS]);

impl<'b> FieldSlots<'b> {
    /// Returns empty slots, without touching their memory.
    #[inline]
    pub const fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; FIELD_SLOTS])
    }

    /// The first `count` slots, all of them if there are fewer.
    #[inline]
    pub(crate) fn first(&mut self, count: usize) -> &mut [MaybeUninit<Field<'b>>] {
        &mut self.0[..count.min(FIELD_SLOTS)]
    }
}

impl Default for FieldSlots<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for FieldSlots<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FieldSlots")
    }
}

/// The version of a message that we read. Others are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: no persistent connections unless asked for, no chunked coding.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    /// The text of the start line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }
}

/// The scheme of a target URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`, port 80.
    Http,
    /// `https`, port 443.
    Https,
}

impl Scheme {
    /// The name in lower case, without `://`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URI of this scheme means when it names none (RFC 9110 sections 4.2.1 and 4.2.2).
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A request method. Methods are compared with case (RFC 9110 section 9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method<'b> {
    /// `GET`.
    Get,
    /// `HEAD`.
    Head,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
    /// `OPTIONS`.
    Options,
    /// `PATCH` (RFC 5789).
    Patch,
    /// `TRACE`.
    Trace,
    /// `CONNECT`.
    Connect,
    /// Any other token, as it came.
    Other(&'b str),
}

impl<'b> Method<'b> {
    /// Classifies a method by its exact text.
    #[inline]
    pub fn from_text(text: &'b str) -> Self {
        match text {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            "TRACE" => Self::Trace,
            "CONNECT" => Self::Connect,
            other => Self::Other(other),
        }
    }

    /// The text as it stands in a request line.
    pub const fn as_str(self) -> &'b str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Trace => "TRACE",
            Self::Connect => "CONNECT",
            Self::Other(text) => text,
        }
    }

    /// Whether the request asks for no change at the origin (RFC 9110 section 9.2.1). Unknown methods are not safe.
    pub const fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }

    /// Whether sending the request twice means the same as once (RFC 9110 section 9.2.2).
    pub const fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_know_their_text_and_properties() {
        for (text, safe, idempotent) in [
            ("GET", true, true),
            ("HEAD", true, true),
            ("OPTIONS", true, true),
            ("TRACE", true, true),
            ("PUT", false, true),
            ("DELETE", false, true),
            ("POST", false, false),
            ("PATCH", false, false),
            ("CONNECT", false, false),
            ("M-SEARCH", false, false),
            ("get", false, false),
        ] {
            let method = Method::from_text(text);
            assert_eq!(method.as_str(), text);
            assert_eq!(method.is_safe(), safe, "{text}");
            assert_eq!(method.is_idempotent(), idempotent, "{text}");
        }
        assert_eq!(Method::from_text("get"), Method::Other("get"));
    }

    #[test]
    fn schemes_know_their_ports() {
        assert_eq!((Scheme::Http.as_str(), Scheme::Http.default_port()), ("http", 80));
        assert_eq!((Scheme::Https.as_str(), Scheme::Https.default_port()), ("https", 443));
    }
}
