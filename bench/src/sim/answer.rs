//! What a viewer gets is composed and read: heads by the product's functions, content from bodies that may still grow.
//!
//! Each viewer reads at its own pace and is woken by messages. When its answer is over it goes to the judge.

use std::sync::Arc;

use aspis_exchange::response_head::{
    ErrorAnswer, HIT_TAIL_LEN_MAX, HitTail, StoredReply, finish_hit, write_error_answer, write_stored_reply,
};
use aspis_exchange::{Action, AnswerKind, Event, OriginFailure, StoredAnswer};
use aspis_storage::mapping::body::BodyState;
use aspis_storage::passage::{Chunk, PassageReader, Step};
use aspis_storage::response::StoredResponse;
use aspis_wire::FieldSlots;

use super::counts::Count;
use super::oracle::End;
use super::viewer::{State, parsed};
use super::world::{Bytes, Message, World, content, note};

/// A viewer's place in a body.
#[derive(Debug)]
pub(crate) struct Reader {
    stored: Arc<StoredResponse>,
    at: u64,
    /// Where it ends; the body's end if that is not known.
    end: Option<u64>,
    /// What still fills the body.
    pub(crate) flight: Option<usize>,
    /// Where it goes on if the body is continued, and the chunk that it is at.
    rest: Option<(PassageReader, Option<Arc<Chunk>>)>,
}

/// How far a reader came.
enum Reads {
    On,
    Over(End),
    /// The passage went on without it.
    Lost,
}

impl Reader {
    /// How much of a piece is read.
    fn take(&self, len: usize, left: u64) -> usize {
        let most = self.end.map_or(u64::MAX, |end| end - self.at).min(left);
        len.min(usize::try_from(most).unwrap_or(usize::MAX))
    }
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
        self.begin(
            id,
            out,
            Reader { stored: Arc::clone(stored), at: 0, end: Some(end), flight: None, rest: None },
        );
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
        self.begin(id, out, Reader { stored: Arc::clone(stored), at, end, flight, rest: None });
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
            collapsed: false,
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

    /// All that a flight fills, behind a head that was composed.
    pub(crate) fn read_all(&mut self, id: usize, stored: &Arc<StoredResponse>, flight: usize) {
        let (stored, end) = (Arc::clone(stored), stored.body.length());
        let reader = Reader { stored, at: 0, end, flight: Some(flight), rest: None };
        self.viewers[id].state = State::Reading(reader);
        self.read(id);
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
        // The state before the bytes: what was published before the end was told is seen.
        let state = reader.stored.body.progress().state;
        while left > 0 && reader.end.is_none_or(|end| reader.at < end) {
            let piece = content(&reader.stored).piece(reader.at);
            if piece.is_empty() {
                break;
            }
            let taken = reader.take(piece.len(), left);
            viewer.got.body.extend_from_slice(&piece[..taken]);
            (reader.at, left) = (reader.at + taken as u64, left - taken as u64);
        }
        if reader.end == Some(reader.at) {
            return self.finish(id, End::Whole);
        }
        let reads = match (state, reader.flight) {
            _ if left == 0 => Reads::On,
            (BodyState::Filling, Some(_)) => Reads::On,
            (BodyState::Complete, _) if reader.end.is_none() => Reads::Over(End::Whole),
            (BodyState::Failed, _) => Reads::Over(End::Broken),
            (BodyState::Continued, Some(flight)) => self.read_rest(id, flight, &mut left),
            (state, _) => {
                let text = format!("viewer {id} waits at {} of a body that is {state:?}", reader.at);
                return self.oracle.fault(text);
            }
        };
        match reads {
            Reads::Over(end) => self.finish(id, end),
            Reads::Lost => {
                self.oracle.excuses(id);
                self.counts.add(Count::Lost, 1);
                self.finish(id, End::Broken);
            }
            Reads::On if left == 0 => {
                let after = self.viewers[id].pace.map_or(1, |(_, millis)| millis);
                self.read_later(id, after);
            }
            Reads::On => {}
        }
    }

    /// Reads what is passed on behind a body that is continued.
    fn read_rest(&mut self, id: usize, flight: usize, left: &mut u64) -> Reads {
        let Some(passage) = self.flights[flight].passage().cloned() else {
            self.oracle.fault(format!("viewer {id} is left alone by flight {flight}"));
            return Reads::On;
        };
        let (from, to) = (self.viewers[id].core, self.flights[flight].core());
        let viewer = &mut self.viewers[id];
        let State::Reading(reader) = &mut viewer.state else { return Reads::On };
        let begins = reader.rest.is_none();
        let (mut stream, mut chunk) =
            reader.rest.take().unwrap_or_else(|| (PassageReader::new(&passage, reader.at), None));
        let mut wants_room = begins;
        let reads = loop {
            if reader.end == Some(reader.at) {
                break Reads::Over(End::Whole);
            }
            if *left == 0 {
                break Reads::On;
            }
            let piece = chunk.as_ref().map(|chunk| chunk.piece(reader.at)).unwrap_or_default();
            if piece.is_empty() {
                let step = stream.step();
                wants_room |= passage.take_room_wanted();
                chunk = match step {
                    Step::Chunk(chunk) => Some(chunk),
                    Step::Wait => break Reads::On,
                    Step::End if reader.end.is_none() => break Reads::Over(End::Whole),
                    Step::End | Step::Failed => break Reads::Over(End::Broken),
                    Step::Lost { .. } => break Reads::Lost,
                };
                continue;
            }
            let taken = reader.take(piece.len(), *left);
            viewer.got.body.extend_from_slice(&piece[..taken]);
            (reader.at, *left) = (reader.at + taken as u64, *left - taken as u64);
        };
        reader.rest = Some((stream, chunk));
        if wants_room {
            self.post(from, to, Message::Room { flight });
        }
        reads
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
            self.viewers[id].got.began = self.began(content(&reader.stored));
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
