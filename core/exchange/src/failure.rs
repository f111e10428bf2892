//! What does a failed origin mean for the viewer, and may the request be sent again (D-22, D-24, H-25)?
//!
//! The shard's origin client names the failure and asks [`OriginFailure::retry`]; the exchange turns it into a status.
//! Invariant: once a byte of an answer came, or content of the request was used up, nothing is sent again.

use std::fmt;

use aspis_wire::Method;

use crate::ResultType;

/// Why an origin gave no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OriginFailure {
    /// The name has no address, now or yet.
    Unresolvable,
    /// The connection was refused or the network said unreachable.
    Refused,
    /// No connection within `--connect-timeout`.
    ConnectTimeout,
    /// The TLS handshake or the certificate failed, or plain bytes came before it.
    Tls,
    /// The connection ended before a byte of the answer.
    Reset,
    /// The origin was silent for `--read-timeout`.
    ReadTimeout,
    /// What came is no HTTP/1.1 response.
    Invalid,
    /// The response's head is over the limit (H-10).
    HeadTooLarge,
    /// The origin speaks another protocol, or switched without being asked.
    ProtocolMismatch,
    /// The body ended before its length, or its framing broke.
    Truncated,
    /// No connection became free within the wait for one, too many wait already, or this server has more to do than it can.
    Overloaded,
    /// The viewer broke off its own request's body.
    ViewerGone,
}

/// What is known about an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which attempt it was, from 1.
    pub number: u32,
    /// How many attempts the settings allow (D-22).
    pub max: u32,
    /// A byte of an answer came, interim ones included.
    pub answered: bool,
    /// Some of the request's content was read from the viewer, so it cannot be sent again.
    pub content_used: bool,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// On a connection that is new.
    Again,
    /// The failure stands.
    Never,
}

impl OriginFailure {
    /// Returns what the answer counts as: that we refused it, or an error (L-15).
    pub const fn result(self) -> ResultType {
        match self {
            Self::Overloaded => ResultType::CapacityExceeded,
            _ => ResultType::Error,
        }
    }

    /// Returns the status that the viewer gets (H-25).
    pub const fn status(self) -> u16 {
        match self {
            Self::ConnectTimeout | Self::ReadTimeout => 504,
            Self::Overloaded => 503,
            Self::ViewerGone => 400,
            Self::Unresolvable
            | Self::Refused
            | Self::Tls
            | Self::Reset
            | Self::Invalid
            | Self::HeadTooLarge
            | Self::ProtocolMismatch
            | Self::Truncated => 502,
        }
    }

    /// Returns the word for log and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unresolvable => "unresolvable",
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect-timeout",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::ReadTimeout => "read-timeout",
            Self::Invalid => "invalid",
            Self::HeadTooLarge => "head-too-large",
            Self::ProtocolMismatch => "protocol-mismatch",
            Self::Truncated => "truncated",
            Self::Overloaded => "overloaded",
            Self::ViewerGone => "viewer-gone",
        }
    }

    /// Returns one sentence for the body of the error answer; it names no address (H-28).
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Unresolvable => "The origin's domain name cannot be resolved.",
            Self::Refused => "The origin refuses the connection.",
            Self::ConnectTimeout => "The origin did not accept a connection in time.",
            Self::Tls => "No secure connection to the origin could be made.",
            Self::Reset => "The origin closed the connection without an answer.",
            Self::ReadTimeout => "The origin did not answer in time.",
            Self::Invalid => "The origin's answer is not valid HTTP.",
            Self::HeadTooLarge => "The header of the origin's answer is too large.",
            Self::ProtocolMismatch => "The origin answered in another protocol.",
            Self::Truncated => "The origin's answer ended too early.",
            Self::Overloaded => "No capacity is free at the moment.",
            Self::ViewerGone => "The request ended too early.",
        }
    }

    /// Decides whether a failed attempt is followed by another.
    ///
    /// Connecting is repeated for every method, since nothing was sent (D-22). After a silent origin only GET and HEAD are sent again
    /// (D-24). After a connection that ended without a byte, which is how an idle one often ends, idempotent methods are (RFC 9110
    /// §9.2.2). Never once an answer began or content was used up; nor for a name, certificate or protocol that a moment will not mend.
    pub fn retry(self, method: Method<'_>, attempt: Attempt) -> Retry {
        let method_allows = match self {
            Self::Refused | Self::ConnectTimeout => true,
            Self::ReadTimeout => matches!(method, Method::Get | Method::Head),
            Self::Reset => method.is_idempotent(),
            Self::Unresolvable
            | Self::Tls
            | Self::Invalid
            | Self::HeadTooLarge
            | Self::ProtocolMismatch
            | Self::Truncated
            | Self::Overloaded
            | Self::ViewerGone => false,
        };
        let untouched = !attempt.answered && !attempt.content_used;
        if method_allows && untouched && attempt.number < attempt.max { Retry::Again } else { Retry::Never }
    }
}

impl fmt::Display for OriginFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [OriginFailure; 12] = [
        OriginFailure::Unresolvable,
        OriginFailure::Refused,
        OriginFailure::ConnectTimeout,
        OriginFailure::Tls,
        OriginFailure::Reset,
        OriginFailure::ReadTimeout,
        OriginFailure::Invalid,
        OriginFailure::HeadTooLarge,
        OriginFailure::ProtocolMismatch,
        OriginFailure::Truncated,
        OriginFailure::Overloaded,
        OriginFailure::ViewerGone,
    ];
    const FIRST: Attempt = Attempt { number: 1, max: 3, answered: false, content_used: false };

    /// H-25.
    #[test]
    fn failures_become_statuses() {
        for (failure, status) in [
            (OriginFailure::ConnectTimeout, 504),
            (OriginFailure::ReadTimeout, 504),
            (OriginFailure::Refused, 502),
            (OriginFailure::Reset, 502),
            (OriginFailure::Unresolvable, 502),
            (OriginFailure::Tls, 502),
            (OriginFailure::Invalid, 502),
            (OriginFailure::HeadTooLarge, 502),
            (OriginFailure::Overloaded, 503),
        ] {
            assert_eq!(failure.status(), status, "{failure}");
        }
    }

    /// D-24: attempts 3, silent origin: GET is sent three times, POST once.
    #[test]
    fn silent_origin_is_asked_again_for_get_and_head_only() {
        let asked = |method| {
            (1..=5)
                .take_while(|&number| {
                    number == 1
                        || OriginFailure::ReadTimeout.retry(method, Attempt { number: number - 1, ..FIRST })
                            == Retry::Again
                })
                .count()
        };
        assert_eq!((asked(Method::Get), asked(Method::Head)), (3, 3));
        for method in [Method::Post, Method::Put, Method::Delete, Method::Options, Method::Patch] {
            assert_eq!(asked(method), 1, "{method:?}");
        }
    }

    /// D-22.
    #[test]
    fn connecting_is_repeated_for_every_method() {
        for failure in [OriginFailure::Refused, OriginFailure::ConnectTimeout] {
            assert_eq!(failure.retry(Method::Post, FIRST), Retry::Again);
            assert_eq!(failure.retry(Method::Post, Attempt { number: 3, ..FIRST }), Retry::Never);
            assert_eq!(failure.retry(Method::Post, Attempt { max: 1, ..FIRST }), Retry::Never);
        }
    }

    /// RFC 9110 §9.2.2.
    #[test]
    fn broken_connection_repeats_idempotent_methods_only() {
        for (method, expected) in [
            (Method::Get, Retry::Again),
            (Method::Put, Retry::Again),
            (Method::Delete, Retry::Again),
            (Method::Post, Retry::Never),
            (Method::Patch, Retry::Never),
            (Method::Other("X"), Retry::Never),
        ] {
            assert_eq!(OriginFailure::Reset.retry(method, FIRST), expected, "{method:?}");
        }
    }

    #[test]
    fn nothing_is_sent_again_after_an_answer_began_or_content_was_used() {
        for failure in ALL {
            assert_eq!(
                failure.retry(Method::Get, Attempt { answered: true, ..FIRST }),
                Retry::Never,
                "{failure}"
            );
            assert_eq!(
                failure.retry(Method::Get, Attempt { content_used: true, ..FIRST }),
                Retry::Never,
                "{failure}"
            );
        }
    }
}
