//! Why a request was refused, and with which status.

use std::fmt;

/// Why the bytes are not a request that we serve. All are the viewer's fault; none may be retried as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestError {
    /// More empty lines before the request line than are ignored, or a bare line end there.
    EmptyLines,
    /// The first bytes are no method, so this is some other protocol.
    NotHttp,
    /// The method has a byte that is not allowed.
    Method,
    /// The method is longer than any that is known.
    MethodTooLong,
    /// The target has a byte or a form that is not allowed, or one that does not go with the method.
    Target,
    /// The target is longer than the limit.
    TargetTooLong,
    /// The request line does not end as it must, or has too many or too few parts.
    RequestLine,
    /// The version is well-formed but not HTTP/1.0 or HTTP/1.1.
    VersionUnsupported,
    /// A line ends in a line feed without a carriage return.
    BareLineFeed,
    /// A field name has a byte that is not allowed, a space before its colon, or the line is a folded one.
    FieldName,
    /// A field value has a byte that is not allowed.
    FieldValue,
    /// More fields than the limit.
    TooManyFields,
    /// The head is longer than the limit.
    HeadTooLong,
    /// HTTP/1.1 without `Host`.
    HostMissing,
    /// More than one `Host`.
    HostRepeated,
    /// `Host` does not name one host.
    HostInvalid,
    /// `Content-Length` is not one number.
    ContentLengthInvalid,
    /// `Content-Length` is given more than once.
    ContentLengthRepeated,
    /// `Content-Length` and `Transfer-Encoding` are both given.
    LengthAndCoding,
    /// `Transfer-Encoding` in HTTP/1.0.
    TransferEncodingInHttp10,
    /// `Transfer-Encoding` does not end in exactly one `chunked`, or is no list of tokens.
    TransferEncodingInvalid,
    /// `Transfer-Encoding` names a coding that we do not know.
    TransferEncodingUnknown,
    /// `Connection` names more options than the limit.
    TooManyConnectionOptions,
}

impl RequestError {
    /// The status of the answer, after which the connection is closed: 400, 414, 431, 501 or 505.
    pub const fn status(self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::TooManyFields | Self::HeadTooLong => 431,
            Self::MethodTooLong | Self::TransferEncodingUnknown => 501,
            Self::VersionUnsupported => 505,
            _ => 400,
        }
    }

    /// One plain sentence without its full stop, for the log and for the answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EmptyLines => "too many empty lines before the request line",
            Self::NotHttp => "the bytes are not an HTTP request",
            Self::Method => "the method has a byte that is not allowed",
            Self::MethodTooLong => "the method is not known",
            Self::Target => "the request target is malformed or does not go with the method",
            Self::TargetTooLong => "the request target is too long",
            Self::RequestLine => "the request line is malformed",
            Self::VersionUnsupported => "the HTTP version is not supported",
            Self::BareLineFeed => "a line of the head ends in a line feed without a carriage return",
            Self::FieldName => "a field name is malformed",
            Self::FieldValue => "a field value has a byte that is not allowed",
            Self::TooManyFields => "the head has too many fields",
            Self::HeadTooLong => "the head is too long",
            Self::HostMissing => "the Host field is missing",
            Self::HostRepeated => "there is more than one Host field",
            Self::HostInvalid => "the Host field does not name one host",
            Self::ContentLengthInvalid => "the Content-Length field is not one number",
            Self::ContentLengthRepeated => "the Content-Length field is repeated",
            Self::LengthAndCoding => "both Content-Length and Transfer-Encoding are given",
            Self::TransferEncodingInHttp10 => "Transfer-Encoding is not allowed in HTTP/1.0",
            Self::TransferEncodingInvalid => {
                "the Transfer-Encoding field does not end in exactly one chunked"
            }
            Self::TransferEncodingUnknown => "the transfer coding is not known",
            Self::TooManyConnectionOptions => "the Connection field names too many options",
        }
    }

    /// What httparse found wrong after the request line, which was checked before.
    pub(super) const fn from_fields(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName => Self::FieldName,
            httparse::Error::HeaderValue | httparse::Error::NewLine => Self::FieldValue,
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            httparse::Error::Status | httparse::Error::Token | httparse::Error::Version => Self::RequestLine,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::error::Error for RequestError {}
