//! What a viewer gets is composed and read: heads by the product's functions, content from bodies that may still grow.
//!
//! Each viewer reads at its own pace and is woken by messages. When its answer is over it goes to the judge.

use std::sync::Arc;

use aspis_exchange::response_head::{
    ErrorAnswer, HIT_TAIL_LEN_MAX, HitTail, StoredReply, finish_hit, write_error_answer, write_stored_reply,
};
use aspis_exchange::{Action, AnswerKind, Event, OriginFailure, StoredAnswer};
use aspis_storage::mapping::body::BodyState;
use aspis_storage::response::StoredResponse;
use aspis_wire::FieldSlots;

use super::counts::Count;
use super::oracle::End;
use super::viewer::{State, parsed};
use super::world::{Bytes, World, note};

/// A viewer's place in a body.
#[derive(Debug)]
pub(crate) struct Reader {
    stored: Arc<StoredResponse>,
    at: u64,
    /// Where it ends; the body's end if that is not known.
    end: Option<u64>,
    /// What still fills the body.
    pub(crate) flight: Option<usize>,
}

impl World {
    /// A plain hit.
    pub(crate) fn answer_hit(
        &mut self,
        id: usize,
        stored: &Arc<StoredResponse>,
        age: u32,
        ttl: i64,
        send_body: bool,
    ) {
        let raw = Bytes::clone(&self.viewers[id].raw);
        let mut slots = FieldSlots::new();
        let request = parsed(&raw, &mut slots);
        let content_len = stored.body.published();
        let (status, version) = (stored.meta.status, request.version);
        let tail = HitTail { age, ttl, content_len, status, version, keep_alive: true };
        let mut out = vec![0; stored.head.len() + HIT_TAIL_LEN_MAX];
        let len = finish_hit(&self.behavior, &stored.head, &tail, &mut out);
        out.truncate(len);
        let end = if send_body { content_len } else { 0 };
        self.begin(id, out, Reader { stored: Arc::clone(stored), at: 0, end: Some(end), flight: None });
    }

    /// Any other answer from something stored, or arriving; `fresh` is its new head after a validation.
    pub(crate) fn answer_stored(
        &mut self,
        id: usize,
        answer: StoredAnswer,
        stored: &Arc<StoredResponse>,
        fresh: Option<Vec<u8>>,
        flight: Option<usize>,
    ) {
        let raw = Bytes::clone(&self.viewers[id].raw);
        let mut slots = FieldSlots::new();
        let request = parsed(&raw, &mut slots);
        let (offset, len) = match stored.meta.part {
            Some(part) => (part.start, Some(part.total)),
            None => (0, stored.body.length()),
        };
        if matches!(answer.kind, AnswerKind::Unsatisfiable | AnswerKind::PreconditionFailed) {
            if let Some(flight) = flight {
                self.stops_reading(id, flight);
            }
            return self.answer_error(id, answer.kind.status(stored.meta.status), None);
        }
        let reply = StoredReply {
            head: fresh.as_deref().unwrap_or(&stored.head),
            status: stored.meta.status,
            len,
            answer,
            multipart: None,
            version: request.version,
            keep_alive: true,
        };
        let mut out = Vec::new();
        write_stored_reply(&self.behavior, &self.viewers[id].exchange, &reply, &mut out);
        let (at, end) = match answer.kind {
            _ if !answer.send_body => (0, Some(0)),
            AnswerKind::Whole => (0, len),
            AnswerKind::Part(range) => (range.start - offset, Some(range.end - offset)),
            _ => (0, Some(0)),
        };
        self.begin(id, out, Reader { stored: Arc::clone(stored), at, end, flight });
    }

    /// An error of the product's own.
    pub(crate) fn answer_error(&mut self, id: usize, status: u16, failure: Option<OriginFailure>) {
        let raw = Bytes::clone(&self.viewers[id].raw);
        let mut slots = FieldSlots::new();
        let request = parsed(&raw, &mut slots);
        let viewer = &mut self.viewers[id];
        let answer = ErrorAnswer {
            status,
            method: Some(request.method),
            version: request.version,
            keep_alive: true,
            reason: viewer.exchange.forward_reason(),
            failure,
            unsatisfied_len: None,
            wall: 0,
        };
        viewer.got.head.clear();
        write_error_answer(&self.behavior, &answer, &mut viewer.got.head);
        viewer.got.at = self.now;
        self.counts.add(Count::Errors, 1);
        self.finish(id, End::Whole);
    }

    fn begin(&mut self, id: usize, head: Vec<u8>, reader: Reader) {
        let viewer = &mut self.viewers[id];
        viewer.got.head = head;
        viewer.got.at = viewer.decided_at.take().unwrap_or(self.now);
        viewer.state = State::Reading(reader);
        self.read(id);
    }

    /// Reads what is there, as much as the viewer takes at once.
    pub(crate) fn read(&mut self, id: usize) {
        let viewer = &mut self.viewers[id];
        let State::Reading(reader) = &mut viewer.state else { return };
        let mut left = viewer.pace.map_or(u64::MAX, |(bytes, _)| bytes);
        let body = &reader.stored.body;
        // The state before the bytes: what was published before the end was told is seen.
        let state = body.progress().state;
        while left > 0 && reader.end.is_none_or(|end| reader.at < end) {
            let piece = body.piece(reader.at);
            let most = reader.end.map_or(u64::MAX, |end| end - reader.at).min(left);
            let piece = &piece[..piece.len().min(usize::try_from(most).unwrap_or(usize::MAX))];
            let piece = match (piece.is_empty(), state, reader.flight) {
                (true, BodyState::Continued, Some(flight)) => {
                    let rest = self.flights[flight].rest_from(reader.at);
                    &rest[..rest.len().min(usize::try_from(most).unwrap_or(usize::MAX))]
                }
                _ => piece,
            };
            if piece.is_empty() {
                break;
            }
            viewer.got.body.extend_from_slice(piece);
            reader.at += piece.len() as u64;
            left -= piece.len() as u64;
        }
        if reader.end == Some(reader.at) {
            return self.finish(id, End::Whole);
        }
        if left == 0 {
            let after = viewer.pace.map_or(1, |(_, millis)| millis);
            return self.read_later(id, after);
        }
        let over = match (state, reader.flight) {
            (BodyState::Filling, Some(_)) => None,
            (BodyState::Complete, _) if reader.end.is_none() => Some(End::Whole),
            (BodyState::Failed, _) => Some(End::Broken),
            (BodyState::Continued, Some(flight)) => self.flights[flight].rest_end(),
            (state, _) => {
                let text = format!("viewer {id} waits at {} of a body that is {state:?}", reader.at);
                return self.oracle.fault(text);
            }
        };
        match over {
            Some(End::Whole) if reader.end.is_some() => self.finish(id, End::Broken),
            Some(end) => self.finish(id, end),
            None => {}
        }
    }

    /// A viewer's answer is over.
    pub(crate) fn finish(&mut self, id: usize, end: End) {
        note!(self, "viewer {id} is done, {end:?}, {} bytes", self.viewers[id].got.body.len());
        let now = self.clock();
        let viewer = &mut self.viewers[id];
        let state = std::mem::replace(&mut viewer.state, State::Done);
        if end == End::Broken {
            let event = Event::OriginBodyFailed(OriginFailure::Truncated);
            let action = viewer.exchange.step(&self.behavior, event, now);
            if action != Action::Cut {
                self.oracle.fault(format!("viewer {id}: a broken body is {action:?}"));
            }
            self.counts.add(Count::Broken, 1);
        }
        if let State::Reading(reader) = state {
            if let Some(flight) = reader.flight {
                self.stops_reading(id, flight);
            }
            if reader.stored.body.progress().state == BodyState::Complete {
                self.keep(id, &reader.stored);
            }
        }
        let got = std::mem::take(&mut self.viewers[id].got);
        self.oracle.judge(&self.scenario, &self.origin.records, id, &got, end, self.now);
        let viewer = &mut self.viewers[id];
        (viewer.found, viewer.forward) = (None, None);
    }
}
