//! How was a request answered, in the words of `X-Cache` (H-2) and `Cache-Status` (RFC 9211)?
//!
//! `core/exchange` chooses the words and writes heads with them; telemetry counts and logs them.

use std::fmt;

/// The result type of an exchange: one per log record, and the first word of `X-Cache` (H-2, L-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResultType {
    /// Answered from the cache without asking the origin.
    Hit,
    /// Answered from the cache after the origin confirmed it.
    RefreshHit,
    /// Answered by the origin.
    Miss,
    /// A 4xx or 5xx, whoever made it.
    Error,
    /// A 503 of ours for want of capacity: here, or towards the origin.
    CapacityExceeded,
}

impl ResultType {
    /// Returns the word of `X-Cache`, log and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "Hit",
            Self::RefreshHit => "RefreshHit",
            Self::Miss => "Miss",
            Self::Error => "Error",
            Self::CapacityExceeded => "CapacityExceeded",
        }
    }
}

impl fmt::Display for ResultType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Why a request went to the origin: the `fwd` parameter (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardReason {
    /// The cache was configured not to handle this request, or cannot.
    Bypass,
    /// The method's semantics require it.
    Method,
    /// Nothing is stored under this URI.
    UriMiss,
    /// Something is stored, but not for these request fields.
    VaryMiss,
    /// Nothing usable is stored, for a reason not told apart.
    Miss,
    /// Something fresh is stored, but the request's fields ask for the origin.
    Request,
    /// What is stored is stale.
    Stale,
    /// Only a part is stored.
    Partial,
}

impl ForwardReason {
    /// Returns the token of RFC 9211.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

impl fmt::Display for ForwardReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// Whether a forwarded response was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is being stored.
    Yes,
    /// It is not.
    No,
}

/// Writes the value of `X-Cache`: `Miss from NAME` (H-2).
pub fn write_x_cache(name: &str, result: ResultType, out: &mut Vec<u8>) {
    out.extend_from_slice(result.as_str().as_bytes());
    out.extend_from_slice(b" from ");
    out.extend_from_slice(name.as_bytes());
}

/// Writes our member of `Cache-Status` for a forwarded request: `NAME; fwd=uri-miss; fwd-status=200; stored` (RFC 9211 §2).
///
/// `fwd_status` is the origin's status where one came. The name is a token by the settings' rule, so it stands unquoted.
pub fn write_forwarded(
    name: &str,
    reason: ForwardReason,
    fwd_status: Option<u16>,
    stored: Stored,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"; fwd=");
    out.extend_from_slice(reason.as_str().as_bytes());
    if let Some(status) = fwd_status {
        out.extend_from_slice(b"; fwd-status=");
        out.extend_from_slice(status.to_string().as_bytes());
    }
    if stored == Stored::Yes {
        out.extend_from_slice(b"; stored");
    }
}

/// Adds `; detail=WORD` to our member (RFC 9211 §2.8); the word is a token.
pub fn write_detail(word: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"; detail=");
    out.extend_from_slice(word.as_bytes());
}

/// Writes our member of `Cache-Status` for a hit up to the number: `NAME; hit; ttl=` (RFC 9211 §2.1, §2.4).
pub fn write_hit_open(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"; hit; ttl=");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// H-2 and RFC 9211 §2.
    #[test]
    fn fields_read_as_the_specifications_say() {
        assert_eq!(text(|out| write_x_cache("aspis", ResultType::RefreshHit, out)), "RefreshHit from aspis");
        assert_eq!(
            text(|out| write_forwarded("aspis", ForwardReason::UriMiss, Some(200), Stored::Yes, out)),
            "aspis; fwd=uri-miss; fwd-status=200; stored"
        );
        assert_eq!(
            text(|out| write_forwarded("aspis", ForwardReason::Method, None, Stored::No, out)),
            "aspis; fwd=method"
        );
        assert_eq!(text(|out| write_hit_open("aspis", out)), "aspis; hit; ttl=");
    }
}
