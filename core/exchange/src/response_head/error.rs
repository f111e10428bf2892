//! Answers of our own: refusals and origin failures (H-25 to H-28).
//!
//! The driver calls it when the exchange says `Refuse`, and for heads that cannot be parsed. Invariants: never stored anywhere
//! (`no-store`), `X-Cache: Error from NAME`, and the body says in one sentence what happened, without addresses. A 503 says when to come again.

use aspis_cache::status::{ForwardReason, ResultType};
use aspis_config::Behavior;
use aspis_config::behavior::ErrorPage;
use aspis_wire::head_writer::{HeadWriter, reason_phrase};
use aspis_wire::request::{RequestError, RequestHead};
use aspis_wire::{Method, Version, date};

use super::{Connection, write_via, write_x_cache_line};
use crate::failure::OriginFailure;

/// Seconds after which a viewer that was refused for want of capacity may ask again (RFC 9110 §10.2.3): longer than an overload takes to pass
/// once it is met by refusals, short enough that nobody gives up.
const RETRY_AFTER: u64 = 5;

/// The facts of an answer of our own.
#[derive(Clone, Copy, Debug)]
pub struct ErrorAnswer<'a> {
    /// The status.
    pub status: u16,
    /// The request's method, if it is known: HEAD gets no body.
    pub method: Option<Method<'a>>,
    /// The viewer's version; HTTP/1.1 if it is not known.
    pub version: Version,
    /// The viewer's connection may live on.
    pub keep_alive: bool,
    /// Why the origin was asked, if it was.
    pub reason: Option<ForwardReason>,
    /// It was asked by another request, for this one too (RFC 9211 §2.6).
    pub collapsed: bool,
    /// What happened to the origin, for the sentence in the body.
    pub failure: Option<OriginFailure>,
    /// For a 416: the length of what is stored (RFC 9110 §15.5.17).
    pub unsatisfied_len: Option<u64>,
    /// Now, for `Date`.
    pub wall: u64,
}

/// Appends head and body of a refusal: nothing is known of an origin, and of the request only what `head` says.
pub fn write_error(
    behavior: &Behavior,
    head: Option<&RequestHead<'_, '_>>,
    status: u16,
    wall: u64,
    keep_alive: bool,
    out: &mut Vec<u8>,
) {
    let answer = ErrorAnswer {
        status,
        method: head.map(|head| head.method),
        version: head.map_or(Version::Http11, |head| head.version),
        keep_alive,
        reason: None,
        collapsed: false,
        failure: None,
        unsatisfied_len: None,
        wall,
    };
    write_error_answer(behavior, &answer, out);
}

/// Appends head and body of an answer of our own.
pub fn write_error_answer(behavior: &Behavior, answer: &ErrorAnswer<'_>, out: &mut Vec<u8>) {
    let sentence = answer.failure.map_or_else(|| sentence(answer.status), OriginFailure::sentence);
    let (content_type, body): (&[u8], String) = match behavior.error_page {
        ErrorPage::Text => {
            let reason = reason_phrase(answer.status);
            (b"text/plain; charset=utf-8", format!("{} {reason}: {sentence}\n", answer.status))
        }
        ErrorPage::Html => (b"text/html; charset=iso-8859-1", page(answer.status, sentence)),
    };
    let mut writer = HeadWriter::new(out);
    writer.status_line(answer.status);
    writer.field("Date", &date::format(answer.wall));
    // H-6: the product, or CloudFront's word.
    writer.field("Server", behavior.server.as_bytes());
    writer.field("Content-Type", content_type);
    writer.field_number("Content-Length", body.len() as u64);
    writer.field("Cache-Control", b"no-store");
    if answer.status == 503 {
        writer.field_number("Retry-After", RETRY_AFTER);
    }
    if let Some(len) = answer.unsatisfied_len {
        writer.field_parts("Content-Range", &[b"bytes */", len.to_string().as_bytes()]);
    }
    if behavior.error_page == ErrorPage::Html {
        // H-26: these answers have Via, although no message was received.
        write_via(behavior, Version::Http11, out);
    }
    let result = answer.failure.map_or(ResultType::Error, OriginFailure::result);
    write_x_cache_line(&behavior.name, result, out);
    if let Some(reason) = answer.reason.filter(|_| behavior.cache_status) {
        let collapsed: &[u8] = if answer.collapsed { b"; collapsed" } else { b"" };
        let parts = [behavior.name.as_bytes(), b"; fwd=", reason.as_str().as_bytes(), collapsed];
        HeadWriter::new(out).field_parts("Cache-Status", &parts);
    }
    out.extend_from_slice(Connection::of(behavior, answer.version, answer.keep_alive).line());
    out.extend_from_slice(b"\r\n");
    if answer.method != Some(Method::Head) {
        out.extend_from_slice(body.as_bytes());
    }
}

/// Appends head and body of an answer of our own to what was asked of us, not of the origin: never stored, and none of the cache's words.
pub fn write_own(
    behavior: &Behavior,
    status: u16,
    content_type: &str,
    body: &[u8],
    (version, keep_alive): (Version, bool),
    wall: u64,
    out: &mut Vec<u8>,
) {
    let mut writer = HeadWriter::new(out);
    writer.status_line(status);
    writer.field("Date", &date::format(wall));
    writer.field("Server", behavior.server.as_bytes());
    writer.field("Content-Type", content_type.as_bytes());
    writer.field_number("Content-Length", body.len() as u64);
    writer.field("Cache-Control", b"no-store");
    out.extend_from_slice(Connection::of(behavior, version, keep_alive).line());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

/// Returns the status for a request that cannot be read (H-15, H-16, H-20).
pub fn refusal_status(behavior: &Behavior, error: RequestError) -> u16 {
    match error.status() {
        431 => behavior.oversized_head_status,
        status => status,
    }
}

/// Returns what a status means when we made it ourselves (H-20, H-28).
fn sentence(status: u16) -> &'static str {
    match status {
        400 => "Bad request.",
        403 => "The request is not allowed here: method, or a body where none belongs.",
        408 => "The request did not arrive in time.",
        412 => "A condition of the request does not hold.",
        413 => "The request's body is too large.",
        414 => "The request's URL is too long.",
        416 => "No byte of the requested range exists.",
        417 => "The expectation cannot be met.",
        431 | 494 => "The request's header is too large.",
        501 => "The method or the transfer coding is not supported.",
        502 => "The origin's answer cannot be used.",
        503 => "No capacity is free at the moment.",
        504 => "The origin did not answer in time.",
        505 => "This version of HTTP is not supported.",
        _ => "The request could not be satisfied.",
    }
}

/// H-27: CloudFront's page in shape. The request id comes with the header that carries it, in a later landing.
fn page(status: u16, sentence: &str) -> String {
    format!(
        "<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 4.01 Transitional//EN\" \"http://www.w3.org/TR/html4/loose.dtd\">\n\
         <HTML><HEAD><META HTTP-EQUIV=\"Content-Type\" CONTENT=\"text/html; charset=iso-8859-1\">\n\
         <TITLE>ERROR: The request could not be satisfied</TITLE>\n\
         </HEAD><BODY>\n\
         <H1>{status} ERROR</H1>\n\
         <H2>The request could not be satisfied.</H2>\n\
         <HR noshade size=\"1px\">\n\
         {sentence}\n\
         There may be too much traffic or a configuration error. Try again later, or contact the owner of the site.\n\
         <BR clear=\"all\">\n\
         Owners find the cause in the access log and the documentation.\n\
         <BR clear=\"all\">\n\
         <HR noshade size=\"1px\">\n\
         <PRE>\n\
         Generated by cloudfront (CloudFront)\n\
         </PRE>\n\
         <ADDRESS>\n\
         </ADDRESS>\n\
         </BODY></HTML>\n"
    )
}
