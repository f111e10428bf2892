//! Writes the heads that viewers get: of stored responses, of the origin's, of tunnels and interim answers.
//!
//! The driver calls [`write_stored`] once when a response is stored and [`finish_hit`] for each hit; [`write_origin`] for what passes
//! through; [`error`] makes answers of our own. Invariants: only end-to-end fields go on; exactly one framing; `Date` is
//! there and unchanged if the origin sent it (T-42); an origin's `X-Cache` is replaced (H-2), its `Cache-Status` kept before ours.

pub mod error;
mod hit;
mod stored;

pub use error::{ErrorAnswer, write_error, write_error_answer};
pub use hit::{HIT_TAIL_LEN_MAX, HitTail, finish_hit};
pub use stored::{Multipart, StoredReply, part_head, stored_fields, write_stored_reply};

pub use aspis_cache::status::Stored;

use aspis_cache::directives::is_withheld;
use aspis_cache::freshen::merged;
use aspis_cache::status::{
    ForwardReason, ResultType, write_detail, write_forwarded, write_hit_open, write_x_cache,
};
use aspis_cache::storable::NotStored;
use aspis_cache::stored::StoredMeta;
use aspis_cache::targeted::{CDN_CACHE_CONTROL, SURROGATE_CONTROL};
use aspis_config::Behavior;
use aspis_config::behavior::{Persistence, ViaStyle};
use aspis_wire::head_writer::HeadWriter;
use aspis_wire::request::RequestHead;
use aspis_wire::response::{ResponseFraming, ResponseHead};
use aspis_wire::{Field, Method, Version, date, fields};

use crate::exchange::whole_head;
use crate::{Exchange, Now};

/// The interim answer to `Expect: 100-continue` (H-21).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What the viewer is told about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It lives on, and the version says so.
    Persistent,
    /// It lives on, and the viewer has to be told.
    KeepAlive,
    /// It ends after this answer.
    Close,
}

impl Connection {
    /// Returns what an answer has to say: HTTP/1.0 viewers are told that the connection lives on, and so is everybody with CloudFront's
    /// rules (H-7).
    pub fn of(behavior: &Behavior, version: Version, keep_alive: bool) -> Self {
        match (keep_alive, version) {
            (false, _) => Self::Close,
            (true, Version::Http10) => Self::KeepAlive,
            (true, Version::Http11) => match behavior.persistence {
                Persistence::Implied => Self::Persistent,
                Persistence::Stated => Self::KeepAlive,
            },
        }
    }

    /// Returns the whole field line, or nothing.
    pub(crate) const fn line(self) -> &'static [u8] {
        match self {
            Self::Persistent => b"",
            Self::KeepAlive => b"Connection: keep-alive\r\n",
            Self::Close => b"Connection: close\r\n",
        }
    }
}

/// How content is framed towards the viewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewerFraming {
    /// No content follows.
    None,
    /// That many bytes follow.
    Length(u64),
    /// Chunks follow.
    Chunked,
    /// Content ends with the connection.
    UntilClose,
}

/// The facts of an answer that comes from the origin.
#[derive(Clone, Copy, Debug)]
pub struct OriginAnswer<'a> {
    /// The request's method.
    pub method: Method<'a>,
    /// The viewer's version.
    pub version: Version,
    /// The viewer's connection may live on.
    pub keep_alive: bool,
    /// For `X-Cache`.
    pub result: ResultType,
    /// For `Cache-Status`.
    pub reason: ForwardReason,
    /// For `Cache-Status`.
    pub stored: Stored,
    /// For `Cache-Status`: why it is not stored.
    pub not_stored: Option<NotStored>,
    /// Now, for a missing `Date`.
    pub wall: u64,
}

impl<'a> OriginAnswer<'a> {
    /// Gathers the facts from the request and its exchange, after the exchange took the origin's head.
    pub fn new(
        request: &RequestHead<'a, '_>,
        exchange: &Exchange,
        stored: Stored,
        keep_alive: bool,
        now: Now,
    ) -> Self {
        Self {
            method: request.method,
            version: request.version,
            keep_alive,
            result: exchange.result(),
            // An answer of the origin's without a reason to ask it does not occur; `miss` is the word that claims least.
            reason: exchange.forward_reason().unwrap_or(ForwardReason::Miss),
            stored,
            not_stored: exchange.not_stored(),
            wall: now.wall,
        }
    }
}

/// How the driver sends the content of an answer that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// The framing that the head announced.
    pub framing: ViewerFraming,
    /// Whether the connection lives on; false also where the framing needs its end.
    pub keep_alive: bool,
}

/// Writes the part of a stored response's head that is the same for every hit; [`finish_hit`] adds the rest.
///
/// The length is not part of it: it may not be known before the body is complete. `now` is when the head was received, for a
/// missing `Date`. The result ends with the line that the hit's numbers go on with.
pub fn write_stored(behavior: &Behavior, head: &ResponseHead<'_, '_>, now: Now, out: &mut Vec<u8>) {
    HeadWriter::new(out).status_line(head.status);
    // The hit states the current age, so the origin's is not repeated (RFC 9111 §5.1, T-41).
    let keep =
        |field: &Field<'_>| !field.name.eq_ignore_ascii_case("age") && !is_withheld(head.fields, field.name);
    write_passing(behavior, head, now.wall, keep, out);
    write_x_cache_line(&behavior.name, ResultType::Hit, out);
    if behavior.cache_status {
        out.extend_from_slice(b"Cache-Status: ");
        write_hit_open(&behavior.name, out);
    }
}

/// Writes the stored head anew after a 304 or the answer to a HEAD brought `update` (RFC 9111 §3.2).
pub fn write_freshened(
    behavior: &Behavior,
    stored_head: &[u8],
    meta: &StoredMeta,
    update: &ResponseHead<'_, '_>,
    now: Now,
    out: &mut Vec<u8>,
) {
    let fields = merged(stored_fields(stored_head), update.fields);
    let head = ResponseHead { status: meta.status, fields: &fields, ..*update };
    write_stored(behavior, &head, now, out);
}

/// The fields of the whole that a stored prefix and its rest make (RFC 9111 §3.4).
pub fn joined_fields<'b>(stored_head: &'b [u8], rest: &ResponseHead<'b, '_>) -> Vec<Field<'b>> {
    let is_range = |field: &Field<'_>| field.name.eq_ignore_ascii_case("content-range");
    merged(stored_fields(stored_head).filter(|field| !is_range(field)), rest.fields)
}

/// The head of that whole, with so much content.
pub fn joined_head<'b, 'h>(
    rest: &ResponseHead<'b, '_>,
    fields: &'h [Field<'b>],
    len: u64,
) -> ResponseHead<'b, 'h> {
    whole_head(rest, 200, fields, len)
}

/// The fields of the 304 that says of an origin's answer that the viewer has it (RFC 9110 §15.4.5): nothing about content.
pub fn not_modified_fields<'b>(head: &ResponseHead<'b, '_>) -> Vec<Field<'b>> {
    let describes = |field: &Field<'_>| {
        ["content-type", "content-encoding", "content-language", "content-range"]
            .iter()
            .any(|name| field.name.eq_ignore_ascii_case(name))
    };
    head.fields.iter().filter(|field| !describes(field)).copied().collect()
}

/// The head of that 304.
pub fn not_modified_head<'b, 'h>(
    head: &ResponseHead<'b, '_>,
    fields: &'h [Field<'b>],
) -> ResponseHead<'b, 'h> {
    ResponseHead {
        version: head.version,
        status: 304,
        reason: b"",
        fields,
        framing: ResponseFraming::None,
        content_length: None,
        keep_alive: head.keep_alive,
        len: 0,
    }
}

/// Writes the head of an origin's final answer and returns how its content is to be sent.
pub fn write_origin(
    behavior: &Behavior,
    head: &ResponseHead<'_, '_>,
    answer: &OriginAnswer<'_>,
    out: &mut Vec<u8>,
) -> Sending {
    let framing = viewer_framing(head.framing, answer.version);
    let keep_alive = answer.keep_alive && framing != ViewerFraming::UntilClose;
    HeadWriter::new(out).status_line(head.status);
    write_passing(behavior, head, answer.wall, |_| true, out);
    write_required_upgrade(head, out);
    write_framing(head, framing, answer.method, out);
    write_x_cache_line(&behavior.name, answer.result, out);
    if behavior.cache_status {
        out.extend_from_slice(b"Cache-Status: ");
        write_forwarded(&behavior.name, answer.reason, Some(head.status), answer.stored, out);
        if let Some(detail) = answer.not_stored {
            write_detail(detail.as_str(), out);
        }
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(Connection::of(behavior, answer.version, keep_alive).line());
    out.extend_from_slice(b"\r\n");
    Sending { framing, keep_alive }
}

/// Writes an interim head, 102 to 199 (rule 17), as it may go on to the viewer; returns false and writes nothing where it may not.
///
/// HTTP/1.0 knows no interim answers (RFC 9110 §15.2); 100 is answered here (H-21) and 101 ends the exchange.
pub fn write_interim(head: &ResponseHead<'_, '_>, version: Version, out: &mut Vec<u8>) -> bool {
    if version == Version::Http10 || !matches!(head.status, 102..=199) {
        return false;
    }
    let mut writer = HeadWriter::new(out);
    writer.status_line(head.status);
    for field in fields::end_to_end(head.fields).filter(|field| !is_framing(field.name)) {
        writer.field(field.name, field.value);
    }
    writer.end();
    true
}

/// Writes a 101 with the protocol that the origin chose; after it the two connections are one (RFC 9110 §7.8).
pub fn write_switching(behavior: &Behavior, head: &ResponseHead<'_, '_>, out: &mut Vec<u8>) {
    let mut writer = HeadWriter::new(out);
    writer.status_line(head.status);
    writer.field("Connection", b"upgrade");
    for value in head.fields_named("upgrade") {
        writer.field("Upgrade", value);
    }
    for field in fields::end_to_end(head.fields).filter(|field| !is_replaced(behavior, field)) {
        writer.field(field.name, field.value);
    }
    write_via(behavior, head.version, out);
    write_x_cache_line(&behavior.name, ResultType::Miss, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes the origin's end-to-end fields that `keep` allows, a `Date` if it sent none, and `Via`.
fn write_passing(
    behavior: &Behavior,
    head: &ResponseHead<'_, '_>,
    wall: u64,
    keep: impl Fn(&Field<'_>) -> bool,
    out: &mut Vec<u8>,
) {
    let mut writer = HeadWriter::new(out);
    let mut has_date = false;
    for field in fields::end_to_end(head.fields) {
        if is_replaced(behavior, field) || !keep(field) {
            continue;
        }
        has_date |= field.name.eq_ignore_ascii_case("date");
        writer.field(field.name, field.value);
    }
    if !has_date {
        // RFC 9110 §6.6.1: a recipient with a clock adds it before it stores or passes on; H-6, T-42.
        writer.field("Date", &date::format(wall));
    }
    write_via(behavior, head.version, out);
}

/// Tells whether we write a field of this name ourselves.
fn is_replaced(behavior: &Behavior, field: &Field<'_>) -> bool {
    let is = |name: &str| field.name.eq_ignore_ascii_case(name);
    // H-3: with CloudFront's rules the origin's Via is replaced.
    // RFC 9213 §2: a targeted field is for us alone once we follow it.
    is_framing(field.name)
        || is("x-cache")
        || (behavior.via == ViaStyle::Replace && is("via"))
        || (behavior.targeted.is_on() && is(CDN_CACHE_CONTROL))
        || (behavior.surrogate.is_on() && is(SURROGATE_CONTROL))
}

fn is_framing(name: &str) -> bool {
    // H-8: trailers are not passed on, so they are not announced.
    ["content-length", "transfer-encoding", "trailer"]
        .iter()
        .any(|framing| name.eq_ignore_ascii_case(framing))
}

/// A 426 has to say which protocols it wants (RFC 9110 §15.5.22), and a viewer that asks for one is let through to the origin.
fn write_required_upgrade(head: &ResponseHead<'_, '_>, out: &mut Vec<u8>) {
    let mut protocols = head.fields_named("upgrade").filter(|_| head.status == 426).peekable();
    if protocols.peek().is_none() {
        return;
    }
    let mut writer = HeadWriter::new(out);
    for value in protocols {
        writer.field("Upgrade", value);
    }
    // RFC 9110 §7.8: who sends Upgrade names it in Connection; a second line may say what becomes of the connection.
    writer.field("Connection", b"upgrade");
}

/// `Via` names the version in which the message was received (RFC 9110 §7.6.3); CloudFront's own is always 1.1 (H-3).
fn write_via(behavior: &Behavior, received: Version, out: &mut Vec<u8>) {
    let received = if behavior.via == ViaStyle::Replace { Version::Http11 } else { received };
    let version = received.as_str().strip_prefix("HTTP/").unwrap_or(received.as_str());
    HeadWriter::new(out).field_parts("Via", &[version.as_bytes(), b" ", behavior.name.as_bytes()]);
}

fn write_x_cache_line(name: &str, result: ResultType, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Cache: ");
    write_x_cache(name, result, out);
    out.extend_from_slice(b"\r\n");
}

/// Length where it is known, else chunks, else the end of the connection for HTTP/1.0 viewers (H-22).
fn viewer_framing(framing: ResponseFraming, version: Version) -> ViewerFraming {
    match (framing, version) {
        (ResponseFraming::None, _) => ViewerFraming::None,
        (ResponseFraming::Length(len), _) => ViewerFraming::Length(len),
        (ResponseFraming::Chunked | ResponseFraming::UntilClose, Version::Http11) => ViewerFraming::Chunked,
        (ResponseFraming::Chunked | ResponseFraming::UntilClose, Version::Http10) => {
            ViewerFraming::UntilClose
        }
    }
}

fn write_framing(head: &ResponseHead<'_, '_>, framing: ViewerFraming, method: Method<'_>, out: &mut Vec<u8>) {
    let mut writer = HeadWriter::new(out);
    match framing {
        ViewerFraming::Length(len) => {
            writer.field_number("Content-Length", len);
        }
        ViewerFraming::Chunked => {
            writer.field("Transfer-Encoding", b"chunked");
        }
        ViewerFraming::UntilClose => {}
        ViewerFraming::None => {
            if let Some(len) = announced_len(head, method) {
                writer.field_number("Content-Length", len);
            }
        }
    }
}

/// The length that an answer to HEAD announces for its GET (RFC 9110 §8.6); 204 and 304 go without.
fn announced_len(head: &ResponseHead<'_, '_>, method: Method<'_>) -> Option<u64> {
    if method == Method::Head && !matches!(head.status, 204 | 304) { head.content_length } else { None }
}

#[cfg(test)]
mod tests;
