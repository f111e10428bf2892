//! Answers from a stored response that are no plain hit: 304, ranges, validated and stale ones.
//!
//! The driver calls [`write_stored_reply`] when the exchange says `Answer` or `Freshen`, and sends the content as the reply says. The
//! stored head is read back with [`stored_fields`]. Invariant: what the origin sent end to end is repeated, and only our own lines differ.

use aspis_cache::range::ByteRange;
use aspis_cache::status::{write_detail, write_hit_open};
use aspis_config::Behavior;
use aspis_wire::head_writer::HeadWriter;
use aspis_wire::{Field, Version};

use super::{Connection, ViewerFraming, write_x_cache_line};
use crate::exchange::{AnswerKind, Exchange, StoredAnswer};

/// Returns the origin's fields of a head that [`super::write_stored`] made, in their order.
///
/// Our own lines stand at its end: `Via`, `X-Cache`, and `Cache-Status` where it is on, which is open then.
pub fn stored_fields(head: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut lines = field_lines(head);
    lines.truncate(lines.len().saturating_sub(own_lines(head)));
    lines.into_iter().filter_map(field)
}

/// Returns the stored head of a part of the content whose stored head this is (RFC 9110 §15.3.7).
pub fn part_head(head: &[u8]) -> Vec<u8> {
    let mut part = Vec::with_capacity(head.len() + 16);
    HeadWriter::new(&mut part).status_line(206);
    let mut lines = Lines { rest: head };
    lines.next();
    part.extend_from_slice(lines.rest);
    part
}

/// Returns our line of `Via`, which names the version in which the stored response came (RFC 9110 §7.6.3).
fn stored_via(head: &[u8]) -> Option<Field<'_>> {
    let lines = field_lines(head);
    field(lines.get(lines.len().checked_sub(own_lines(head))?)?)
}

/// How many lines at the end are ours.
fn own_lines(head: &[u8]) -> usize {
    if head.last() == Some(&b'\n') { 2 } else { 3 }
}

fn field_lines(head: &[u8]) -> Vec<&[u8]> {
    Lines { rest: head }.skip(1).collect()
}

fn field(line: &[u8]) -> Option<Field<'_>> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let name = std::str::from_utf8(&line[..colon]).ok()?;
    Some(Field { name, value: line.get(colon + 2..).unwrap_or_default() })
}

struct Lines<'h> {
    rest: &'h [u8],
}

impl<'h> Iterator for Lines<'h> {
    type Item = &'h [u8];

    fn next(&mut self) -> Option<&'h [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.windows(2).position(|pair| pair == b"\r\n").unwrap_or(self.rest.len());
        let line = &self.rest[..end];
        self.rest = self.rest.get(end + 2..).unwrap_or_default();
        Some(line)
    }
}

/// What an answer from a stored response is written from.
#[derive(Clone, Copy, Debug)]
pub struct StoredReply<'a> {
    /// The stored head.
    pub head: &'a [u8],
    /// The stored status.
    pub status: u16,
    /// The length of the stored content; `None` while it is not known, then [`StoredReply::framing`] says how it goes out.
    pub len: Option<u64>,
    /// What the exchange decided.
    pub answer: StoredAnswer,
    /// For several ranges.
    pub multipart: Option<&'a Multipart>,
    /// The viewer's version.
    pub version: Version,
    /// The connection lives on.
    pub keep_alive: bool,
}

impl StoredReply<'_> {
    /// How the content goes out if all of it does: by its length, else in chunks, else until the connection ends (H-22).
    pub fn framing(&self) -> ViewerFraming {
        match (self.len, self.version) {
            (Some(len), _) => ViewerFraming::Length(len),
            (None, Version::Http11) => ViewerFraming::Chunked,
            (None, Version::Http10) => ViewerFraming::UntilClose,
        }
    }
}

/// The parts of a `multipart/byteranges` answer (RFC 9110 §14.6, R-13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multipart {
    boundary: String,
    /// Each range with the bytes that go before it.
    pub parts: Vec<(Vec<u8>, ByteRange)>,
    /// The bytes that go after the last.
    pub end: Vec<u8>,
}

impl Multipart {
    /// Makes the parts of these ranges. `seed` makes a boundary that content is not expected to hold.
    pub fn new(head: &[u8], len: u64, ranges: &[ByteRange], seed: u128) -> Self {
        let boundary = format!("aspis-{seed:032x}");
        let content_type = stored_fields(head).find(|field| field.name.eq_ignore_ascii_case("content-type"));
        let parts = ranges
            .iter()
            .enumerate()
            .map(|(at, range)| {
                let lead = if at == 0 { "" } else { "\r\n" };
                let mut before = format!("{lead}--{boundary}\r\n").into_bytes();
                let mut writer = HeadWriter::new(&mut before);
                if let Some(field) = content_type {
                    writer.field("Content-Type", field.value);
                }
                writer.field("Content-Range", content_range(*range, len).as_bytes());
                writer.end();
                (before, *range)
            })
            .collect();
        let end = format!("\r\n--{boundary}--\r\n").into_bytes();
        Self { boundary, parts, end }
    }

    /// Returns the length of all of it.
    pub fn len(&self) -> u64 {
        let parts: u64 = self.parts.iter().map(|(before, range)| before.len() as u64 + range.len()).sum();
        parts + self.end.len() as u64
    }

    /// Never: there is always the end.
    pub fn is_empty(&self) -> bool {
        self.end.is_empty()
    }
}

fn content_range(range: ByteRange, len: u64) -> String {
    format!("bytes {}-{}/{len}", range.start, range.end - 1)
}

/// Appends the head of an answer from a stored response. Not for 412 and 416, which are errors of ours.
pub fn write_stored_reply(
    behavior: &Behavior,
    exchange: &Exchange,
    reply: &StoredReply<'_>,
    out: &mut Vec<u8>,
) {
    let StoredReply { answer, .. } = *reply;
    let mut writer = HeadWriter::new(out);
    let status = answer.kind.status(reply.status);
    let (multipart, partial, not_modified) = (reply.multipart.is_some(), status == 206, status == 304);
    writer.status_line(status);
    let mut says_ranges = false;
    for field in stored_fields(reply.head) {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        says_ranges |= is("accept-ranges");
        // A stored part says where it lies; what is sent of it may lie elsewhere.
        let is_replaced = (multipart && is("content-type")) || (partial && is("content-range"));
        // RFC 9110 §15.4.5: a 304 describes no content.
        let describes =
            not_modified && (is("content-type") || is("content-encoding") || is("content-language"));
        if !is_replaced && !describes {
            writer.field(field.name, field.value);
        }
    }
    if partial && !says_ranges {
        //
        writer.field("Accept-Ranges", b"bytes");
    }
    match answer.kind {
        AnswerKind::Part(range) => {
            // The exchange gives no range of content whose length is not known.
            let len = reply.len.unwrap_or(range.end);
            writer.field("Content-Range", content_range(range, len).as_bytes());
            writer.field_number("Content-Length", range.len());
        }
        AnswerKind::Parts => {
            if let Some(multipart) = reply.multipart {
                let parts: [&[u8]; 2] = [b"multipart/byteranges; boundary=", multipart.boundary.as_bytes()];
                writer.field_parts("Content-Type", &parts);
                writer.field_number("Content-Length", multipart.len());
            }
        }
        AnswerKind::Whole if reply.status != 204 => match (reply.len, reply.version) {
            (Some(len), _) => {
                writer.field_number("Content-Length", len);
            }
            (None, Version::Http11) if answer.send_body => {
                writer.field("Transfer-Encoding", b"chunked");
            }
            (None, _) => {}
        },
        AnswerKind::Whole
        | AnswerKind::NotModified
        | AnswerKind::Unsatisfiable
        | AnswerKind::PreconditionFailed => {}
    }
    writer.field_number("Age", u64::from(answer.age));
    if let Some(via) = stored_via(reply.head) {
        writer.field(via.name, via.value);
    }
    write_x_cache_line(&behavior.name, exchange.result(), out);
    if behavior.cache_status {
        write_cache_status(behavior, exchange, answer.ttl, out);
    }
    out.extend_from_slice(Connection::of(behavior, reply.version, reply.keep_alive).line());
    out.extend_from_slice(b"\r\n");
}

/// `hit; ttl=N`, or why the origin was asked and what it said (RFC 9211 §2).
fn write_cache_status(behavior: &Behavior, exchange: &Exchange, ttl: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Cache-Status: ");
    match exchange.forward_reason() {
        None => {
            write_hit_open(&behavior.name, out);
            out.extend_from_slice(ttl.to_string().as_bytes());
        }
        Some(reason) => {
            let status =
                exchange.forward_status().map_or(String::new(), |status| format!("; fwd-status={status}"));
            let collapsed = if exchange.is_collapsed() { "; collapsed" } else { "" };
            let line = format!("{}; fwd={reason}{status}{collapsed}; ttl={ttl}", behavior.name);
            out.extend_from_slice(line.as_bytes());
            if exchange.is_stale_on_error() {
                write_detail("stale-on-error", out);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}
