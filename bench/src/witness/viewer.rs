//! A viewer of a site: asks for objects whole and in parts, conditionally, in variants, leaves on the way, and changes objects with POST.

use super::Meeting;
use super::ledger::{Answer, Asked};
use super::site::{Edition, VARIANTS};
use crate::http::{Fault, Flow, Reader};
use crate::random::Random;
use std::cell::Cell;
use std::io::Write;
use std::time::{Duration, Instant};

/// A server that says nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(20);

/// Ranges that are looked at of an object in parts.
const LOOKED_AT: usize = 4;

/// What a viewer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Whole,
    Part,
    Condition,
    HeadOnly,
    Post,
    Leave,
}

const DEEDS: [(Deed, u64); 6] = [
    (Deed::Whole, 56),
    (Deed::Part, 18),
    (Deed::Condition, 8),
    (Deed::HeadOnly, 4),
    (Deed::Post, 7),
    (Deed::Leave, 7),
];

/// One viewer with one connection at a time.
#[derive(Debug)]
pub(crate) struct Viewer<'m> {
    meeting: &'m Meeting<'m>,
    random: Random,
    connection: Option<Reader>,
}

/// What a request asks for besides its object.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    range: Option<(u64, u64)>,
    known: Option<Edition>,
    is_head: bool,
    /// Goes away after so many bytes.
    leaves_after: Option<u64>,
}

impl<'m> Viewer<'m> {
    pub(crate) fn new(meeting: &'m Meeting<'m>, seed: u64) -> Self {
        Self { meeting, random: Random::new(seed), connection: None }
    }

    /// Does one thing after the other until the meeting is over.
    pub(crate) fn run(mut self) {
        while !self.meeting.is_over() {
            let object = self.pick();
            match self.random.weighted(&DEEDS) {
                Deed::Post => self.post(object),
                deed => {
                    let asks_for_all = matches!(deed, Deed::Whole | Deed::Condition | Deed::Leave);
                    let in_parts = self.meeting.ledger.object(object).in_parts;
                    let deed =
                        if in_parts && asks_for_all && self.random.chance(98) { Deed::Part } else { deed };
                    let variant = self.variant(object);
                    let wish = self.wish(object, variant, deed);
                    self.ask(object, variant, wish);
                }
            }
        }
    }

    /// Asks once for every object in every variant whose number is `share` of `shares`, large ones also in parts; for several ranges of what is asked
    /// for in parts.
    pub(crate) fn look_at_all(mut self, share: usize, shares: usize) {
        let ledger = self.meeting.ledger;
        for object in (share..ledger.site.objects.len()).step_by(shares) {
            for variant in 0..ledger.object(object).variants {
                if self.meeting.is_over() {
                    return;
                }
                if ledger.object(object).in_parts {
                    for _ in 0..LOOKED_AT {
                        let wish = self.wish(object, variant, Deed::Part);
                        self.ask(object, variant, wish);
                    }
                    continue;
                }
                let edition = Edition { version: ledger.version(object), variant };
                let is_large = ledger.object(object).content_len(edition) > 1_000_000;
                let deed = if is_large && self.random.chance(60) { Deed::Part } else { Deed::Whole };
                let wish = self.wish(object, variant, deed);
                self.ask(object, variant, wish);
            }
        }
    }

    /// Few objects are asked for often and all now and then.
    fn pick(&mut self) -> usize {
        let count = self.meeting.ledger.site.objects.len() as u64;
        let among = if self.random.chance(50) { (count / 8).max(1) } else { count };
        (self.random.next() % among) as usize
    }

    fn variant(&mut self, object: usize) -> usize {
        (self.random.next() % self.meeting.ledger.object(object).variants as u64) as usize
    }

    fn wish(&mut self, object: usize, variant: usize, deed: Deed) -> Wish {
        let ledger = self.meeting.ledger;
        let version = ledger.version(object);
        let len = ledger.object(object).content_len(Edition { version, variant });
        let mut wish = Wish { is_head: deed == Deed::HeadOnly, ..Wish::default() };
        match deed {
            Deed::Part if ledger.object(object).in_parts => {
                wish.range = Some(ledger.object(object).draw_part(&mut self.random));
            }
            // Every version has the first byte that is asked for; the end may be behind it.
            Deed::Part => {
                let from = self.random.next() % ledger.object(object).least_len();
                let length = self.random.length(len);
                wish.range = Some((from, from + length));
            }
            Deed::Condition => {
                let back = self.random.between(0, 2).min(version - 1);
                wish.known = Some(Edition { version: version - back, variant });
            }
            Deed::Leave => wish.leaves_after = Some(self.random.length(len)),
            Deed::Whole | Deed::HeadOnly | Deed::Post => {}
        }
        wish
    }

    /// Changes an object; once that is answered, what it was before is gone.
    fn post(&mut self, object: usize) {
        let ledger = self.meeting.ledger;
        let path = ledger.object(object).path.clone();
        let request = format!("POST {path} HTTP/1.1\r\nHost: witness\r\nContent-Length: 2\r\n\r\nhi");
        let result = self.exchange(&request, &|| false, |reader| {
            let head = reader.head()?;
            let version = head.field("x-version").and_then(|text| text.parse::<u64>().ok());
            reader.content(&head, |_, _| Flow::Continue)?;
            Ok((head.status()?, version))
        });
        match result {
            Some((200, Some(version))) => {
                ledger.invalidated(object, version, "POST");
                self.meeting.note(|tally| tally.posts += 1);
            }
            Some((status, version)) => {
                self.meeting.fault(format!("POST {path}: status {status}, version {version:?}"));
            }
            None => {}
        }
    }

    /// Asks for an object and judges the answer.
    fn ask(&mut self, number: usize, variant: usize, wish: Wish) {
        let ledger = self.meeting.ledger;
        let object = ledger.object(number);
        let method = if wish.is_head { "HEAD" } else { "GET" };
        let mut request = format!("{method} {} HTTP/1.1\r\nHost: witness\r\n", object.path);
        if object.variants > 1 {
            request.push_str(&format!("Accept-Language: {}\r\n", VARIANTS[variant]));
        }
        if let Some((from, end)) = wish.range {
            request.push_str(&format!("Range: bytes={from}-{}\r\n", end - 1));
        }
        if let Some(known) = wish.known {
            request.push_str(&format!("If-None-Match: {}\r\n", known.tag()));
        }
        request.push_str("\r\n");
        let asked = Asked {
            object: number,
            variant,
            least: ledger.least(number, Instant::now()),
            range: wish.range,
            known: wish.known,
            is_head: wish.is_head,
        };
        // What is not at the origin any more and no longer in the store cannot be gone on with.
        let named = Cell::new(None);
        let is_gone = || named.get().is_some_and(|named: Edition| named.version < ledger.version(number));
        let result = self.exchange(&request, &is_gone, |reader| {
            let head = reader.head()?;
            let result = head.field("x-cache").and_then(|text| text.split(' ').next()).map(str::to_owned);
            let mut answer = Answer {
                status: head.status()?,
                etag: head.field("etag").map(str::to_owned),
                content_range: head.field("content-range").map(str::to_owned),
                stated_len: head.field("content-length").and_then(|text| text.parse().ok()),
                ..Answer::default()
            };
            if wish.is_head || answer.status == 304 {
                return Ok((answer, result));
            }
            let from = match answer.status {
                206 => wish.range.map_or(0, |(from, _)| from),
                _ => 0,
            };
            named.set(answer.etag.as_deref().and_then(Edition::parse));
            let content = named.get().map(|named| object.content(named));
            let mut wrong_at = None;
            let length = reader.content(&head, |at, piece| {
                if let (Some(content), None) = (content, wrong_at) {
                    wrong_at = content.first_difference(from + at, piece);
                }
                match wish.leaves_after {
                    Some(most) if at + piece.len() as u64 >= most => Flow::Stop,
                    _ => Flow::Continue,
                }
            })?;
            (answer.len, answer.wrong_at) = (length, wrong_at);
            answer.is_part = wish.leaves_after.is_some();
            Ok((answer, result))
        });
        let Some((answer, result)) = result else { return };
        if wish.leaves_after.is_some() {
            self.connection = None;
        }
        match ledger.judge(&asked, &answer) {
            Ok(_) => self.meeting.note(|tally| {
                tally.answers += 1;
                tally.bytes += answer.len;
                tally.hits += u64::from(result.as_deref() == Some("Hit"));
                tally.refreshed += u64::from(result.as_deref() == Some("RefreshHit"));
                tally.parts += u64::from(answer.status == 206);
                let is_hit = answer.status == 206 && result.as_deref() == Some("Hit");
                tally.part_hits += u64::from(is_hit && object.in_parts);
                tally.unchanged += u64::from(answer.status == 304);
                tally.left += u64::from(answer.is_part);
            }),
            Err(fault) => self.meeting.fault(format!("{fault}, X-Cache {result:?}")),
        }
    }

    /// Sends a request and reads its answer; a connection that breaks is noted, as no fault if `is_excused` by then, and the next one is a
    /// new one.
    fn exchange<T>(
        &mut self,
        request: &str,
        is_excused: &dyn Fn() -> bool,
        read: impl FnOnce(&mut Reader) -> Result<T, Fault>,
    ) -> Option<T> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match Reader::connect(self.meeting.address, SILENCE) {
                Ok(connection) => connection,
                Err(error) => {
                    self.meeting.broke(format!("cannot connect: {error}"));
                    self.meeting.end();
                    return None;
                }
            },
        };
        let line = request.lines().next().unwrap_or_default();
        if let Err(error) = connection.stream().write_all(request.as_bytes()) {
            self.meeting.broke(format!("{line}: cannot send: {error}"));
            return None;
        }
        match read(&mut connection) {
            Ok(answer) => {
                self.connection = Some(connection);
                Some(answer)
            }
            Err(Fault::Reset | Fault::Cut) if is_excused() => {
                self.meeting.broke_off();
                None
            }
            Err(fault) => {
                self.meeting.broke(format!("{line}: {fault:?}"));
                None
            }
        }
    }
}
