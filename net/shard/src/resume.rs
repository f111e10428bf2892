//! Going on with a response that broke off: the rest is asked for by a range that the same strong ETag guards.
//!
//! `fill.rs` asks when its origin's stream breaks (R-29, R-32), and readers notice nothing but a pause; `viewer/shared.rs` asks for a reader that was
//! too slow for what is not stored. Invariants: only bytes of the same representation are joined
//! (RFC 9111 §3.4); a resume that brings nothing counts against a bound.

use std::rc::Rc;

use aspis_cache::conditional::Validators;
use aspis_cache::range::{ByteRange, parse_content_range};
use aspis_exchange::ViewerFacts;
use aspis_exchange::origin_request::Preconditions;
use aspis_telemetry::Counter;
use aspis_wire::request::parse_request;
use aspis_wire::response::{ResponseFraming, ResponseHead, parse_response};
use aspis_wire::{Field, FieldSlots, Method};

use crate::flight::fetch;
use crate::limits::RESUMES_MAX;
use crate::origin::OriginBody;
use crate::shard::Shard;

/// The request behind a fill.
pub(crate) struct Retry {
    /// Its head as received.
    pub(crate) head: Box<[u8]>,
    pub(crate) facts: ViewerFacts,
    /// What the rest has to belong to, and how long the whole is if that is known.
    pub(crate) whole: Option<(Box<[u8]>, Option<u64>)>,
    /// Where in the whole the content begins that breaks: 0 but for a part.
    pub(crate) base: u64,
    /// Where the last resumes began.
    pub(crate) began_at: Option<u64>,
    pub(crate) count: u32,
}

impl Retry {
    /// The request of a flight.
    pub(crate) fn new(head: Box<[u8]>, facts: ViewerFacts) -> Self {
        Retry { head, facts, whole: None, base: 0, began_at: None, count: 0 }
    }

    /// Notes what the response is; `None` if a break in it cannot be mended: only a 200 with a strong ETag can.
    pub(crate) fn of(self, status: u16, fields: &[Field<'_>], length: Option<u64>) -> Option<Self> {
        let etag = Validators::of(fields, 0).strong_etag().filter(|_| status == 200)?;
        Some(Retry { whole: Some((Box::from(etag), length)), ..self })
    }

    /// Notes that it is a part, from `base` on, of a 200 of `total` bytes, whose bytes all come from the whole's rest.
    pub(crate) fn of_part(self, fields: &[Field<'_>], base: u64, total: u64) -> Option<Self> {
        Some(Retry { base, ..self.of(200, fields, Some(total))? })
    }

    /// Asks for the bytes from `from` on; of a part those behind it come too. `None` if the origin has something else now, or too many attempts brought nothing.
    pub(crate) async fn rest(&mut self, shard: &Rc<Shard>, from: u64) -> Option<OriginBody> {
        let (etag, length) = self.whole.as_ref()?;
        let from = self.base + from;
        if self.began_at.replace(from) != Some(from) {
            self.count = 0;
        }
        let mut slots = FieldSlots::new();
        let request = parse_request(&self.head, &mut slots, &shard.head_limits).ok()??;
        while self.count < RESUMES_MAX {
            self.count += 1;
            shard.counters.add(Counter::FillResumes, 1);
            let preconditions = Preconditions::Rest { from, etag: Some(etag) };
            let Ok(response) = fetch(shard, &request, &self.facts, preconditions, &mut |_| {}).await else {
                continue;
            };
            let mut slots = FieldSlots::new();
            let head = parse_response(&response.head, &mut slots, &shard.head_limits, Method::Get).ok()??;
            return is_rest(&head, etag, from, *length).then_some(response.body);
        }
        None
    }
}

/// Tells whether a response is exactly the bytes that are missing of the same representation.
fn is_rest(head: &ResponseHead<'_, '_>, etag: &[u8], from: u64, length: Option<u64>) -> bool {
    let range = head.field("content-range").and_then(parse_content_range);
    let Some((range, Some(total))) = range else { return false };
    head.status == 206
        && range == (ByteRange { start: from, end: total })
        && length.is_none_or(|length| length == total)
        && head.framing == ResponseFraming::Length(range.len())
        && Validators::of(head.fields, 0).strong_etag() == Some(etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aspis_wire::HeadLimits;

    fn rests(head: &str) -> bool {
        let text = format!("HTTP/1.1 {head}\r\n\r\n").replace('\n', "\r\n").replace("\r\r", "\r");
        let mut slots = FieldSlots::new();
        let head = parse_response(text.as_bytes(), &mut slots, &HeadLimits::default(), Method::Get)
            .unwrap()
            .unwrap();
        is_rest(&head, b"\"a\"", 10, Some(100))
    }

    /// R-5, RFC 9111 §3.4.
    #[test]
    fn only_the_missing_bytes_of_the_same_representation_are_joined() {
        let good = "206 Partial Content\nETag: \"a\"\nContent-Range: bytes 10-99/100\nContent-Length: 90";
        assert!(rests(good));
        for (from, to) in [
            ("206", "200"),
            ("\"a\"", "\"b\""),
            ("\"a\"", "W/\"a\""),
            ("10-99", "11-99"),
            ("10-99", "10-98"),
            ("/100", "/101"),
            ("/100", "/*"),
            ("Length: 90", "Length: 89"),
        ] {
            assert!(!rests(&good.replace(from, to)), "{to}");
        }
    }
}
