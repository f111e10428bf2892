//! Why a response was refused.

use std::fmt;

/// Why the bytes are not a response that we take. All are the origin's fault.
///
/// None means that the request was not acted upon, so a retry is only for the driver's rules to allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseError {
    /// The head is longer than the limit (H-10).
    HeadTooLarge,
    /// More fields than the limit.
    TooManyFields,
    /// The status line is malformed or the version is not HTTP/1.0 or HTTP/1.1.
    StatusLine,
    /// The status is below 100.
    Status,
    /// A line ends in a line feed without a carriage return.
    BareLineFeed,
    /// A field name has a byte that is not allowed, a space before its colon, or the line is a folded one.
    FieldName,
    /// A field value has a byte that is not allowed.
    FieldValue,
    /// `Content-Length` is not a number, or several differ.
    ContentLength,
    /// `Content-Length` and `Transfer-Encoding` are both given.
    LengthAndCoding,
    /// `Transfer-Encoding` is malformed, has codings around `chunked`, or stands in HTTP/1.0.
    TransferEncoding,
    /// A 1xx response announces content.
    InterimWithContent,
    /// `Connection` names more options than the limit.
    TooManyConnectionOptions,
}

impl ResponseError {
    /// One plain sentence without its full stop, for the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HeadTooLarge => "the response head is too large",
            Self::TooManyFields => "the response head has too many fields",
            Self::StatusLine => "the status line is malformed",
            Self::Status => "the status is below 100",
            Self::BareLineFeed => "a line of the response head ends in a line feed without a carriage return",
            Self::FieldName => "a response field name is malformed",
            Self::FieldValue => "a response field value has a byte that is not allowed",
            Self::ContentLength => "the response's Content-Length is not one number",
            Self::LengthAndCoding => "the response has both Content-Length and Transfer-Encoding",
            Self::TransferEncoding => "the response's Transfer-Encoding cannot be followed",
            Self::InterimWithContent => "an interim response announces content",
            Self::TooManyConnectionOptions => "the response's Connection field names too many options",
        }
    }

    /// What httparse found wrong.
    pub(super) const fn from_parser(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName => Self::FieldName,
            httparse::Error::HeaderValue | httparse::Error::NewLine => Self::FieldValue,
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            httparse::Error::Status | httparse::Error::Token | httparse::Error::Version => Self::StatusLine,
        }
    }
}

impl fmt::Display for ResponseError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::error::Error for ResponseError {}
