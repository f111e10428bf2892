//! The content of a flight: into memory while it is read, from there on through a passage where it does not fit, and asked for again where it breaks.

use std::collections::VecDeque;
use std::sync::Arc;

use aspis_cache::conditional::Validators;
use aspis_cache::range;
use aspis_exchange::origin_request::Preconditions;
use aspis_storage::limits::PASSAGE_CHUNK_LEN_MAX;
use aspis_storage::mapping::body::{BodyState, BodyWriter};
use aspis_storage::passage::passage;
use aspis_storage::response::StoredResponse;
use aspis_wire::FieldSlots;
use aspis_wire::response::ResponseHead;

use super::{Flight, Passing, RESUMES_MAX};
use crate::sim::counts::Count;
use crate::sim::oracle::End;
use crate::sim::viewer::parsed;
use crate::sim::world::{Bytes, World, note};

impl World {
    /// Content comes for a flight.
    pub(crate) fn flight_chunk(&mut self, flight: usize, bytes: &[u8]) {
        let core = self.flights[flight].core;
        let Some(mut fill) = self.flights[flight].fill.take() else { return };
        let mut taken = 0;
        if let Some(mut writer) = fill.writer.take() {
            let room = self.scenario.object_len_max.saturating_sub(writer.published());
            let fits = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
            taken = self.append(core, &mut writer, fits);
            if taken < bytes.len() {
                fill.passing = Some(self.hand_over(flight, &fill.stored, writer));
            } else {
                fill.writer = Some(writer);
            }
        }
        if let Some(passing) = &mut fill.passing {
            passing.held.extend(bytes[taken..].chunks(PASSAGE_CHUNK_LEN_MAX).map(<[u8]>::to_vec));
        }
        self.flights[flight].fill = Some(fill);
        self.pump(flight);
        self.wake(flight);
    }

    /// What is known to be too large is passed on to all who share it.
    pub(super) fn give_up(&mut self, flight: usize) {
        let Some(mut fill) = self.flights[flight].fill.take() else { return };
        if let Some(writer) = fill.writer.take() {
            fill.passing = Some(self.hand_over(flight, &fill.stored, writer));
        }
        self.flights[flight].fill = Some(fill);
    }

    /// Memory is short, or the body too large: what is there stays readable, the rest is passed on.
    fn hand_over(&mut self, flight: usize, stored: &StoredResponse, writer: BodyWriter) -> Passing {
        stored.mark_gone();
        note!(self, "flight {flight} is handed over at {}", writer.published());
        self.counts.add(Count::HandedOver, 1);
        let (passing, passage) = passage(&self.budget, self.scenario.window_len, writer.published());
        writer.hand_over();
        self.over(flight);
        Passing { passage, writer: Some(passing), held: VecDeque::new(), end: None }
    }

    /// Passes on what was held, as far as there is room before the fastest reader.
    pub(crate) fn pump(&mut self, flight: usize) {
        let it = &mut self.flights[flight];
        let (readers, fetch) = (it.readers.clone(), it.fetch);
        let Some(passing) = it.fill.as_mut().and_then(|fill| fill.passing.as_mut()) else { return };
        if readers.is_empty() {
            // Nobody needs the rest, nor what was there before it.
            it.fill = None;
            return self.drop_fetch(fetch);
        }
        while let Some(writer) = &mut passing.writer {
            let Some(piece) = passing.held.pop_front() else { break };
            if !writer.has_room() && (writer.must_wait() || writer.readers() == 0) {
                passing.held.push_front(piece);
                break;
            }
            if writer.append(piece).is_err() {
                self.counts.add(Count::ShortOfMemory, 1);
                passing.writer = None;
                passing.held.clear();
                readers.iter().for_each(|reader| self.oracle.excuses(*reader));
            }
        }
        if passing.held.is_empty()
            && let Some(end) = passing.end
            && let Some(writer) = passing.writer.take()
        {
            match end {
                End::Whole => writer.complete(),
                End::Broken => writer.fail(),
            }
        }
        self.wake(flight);
    }

    /// No more content comes.
    pub(crate) fn flight_ended(&mut self, flight: usize, whole: bool) {
        if !whole {
            return self.broken(flight);
        }
        let Flight { core, id, .. } = self.flights[flight];
        let Some(fill) = &mut self.flights[flight].fill else { return };
        let Some(writer) = fill.writer.take() else { return self.passing_ends(flight, End::Whole) };
        let stored = Arc::clone(&fill.stored);
        let doomed = self.cores[core].collapse.is_doomed(id);
        if doomed {
            // Before readers can see that it is whole, and keep it.
            self.counts.add(Count::Doomed, 1);
            stored.mark_gone();
        }
        if writer.complete() == BodyState::Complete && !doomed {
            self.admit(core, &stored);
        } else {
            stored.mark_gone();
        }
        self.over(flight);
        self.wake(flight);
    }

    fn passing_ends(&mut self, flight: usize, end: End) {
        let passing = self.flights[flight].fill.as_mut().and_then(|fill| fill.passing.as_mut());
        if let Some(passing) = passing {
            passing.end = Some(end);
            self.pump(flight);
        }
    }

    /// Content broke off: the rest is asked for where the tag is strong (RFC 9110 §13.1.5), else readers see that it is broken.
    pub(super) fn broken(&mut self, flight: usize) {
        let Some(fill) = &mut self.flights[flight].fill else { return };
        if let (Some(writer), Some(tag)) = (&fill.writer, &fill.tag)
            && fill.resumes < RESUMES_MAX
        {
            fill.resumes += 1;
            fill.is_resuming = true;
            let (from, tag) = (writer.published(), tag.clone());
            let raw = Bytes::clone(&self.flights[flight].start.raw);
            let mut slots = FieldSlots::new();
            let head = parsed(&raw, &mut slots);
            note!(self, "flight {flight} asks for the rest from {from}");
            return self.request(flight, &head, Preconditions::Rest { from, etag: Some(&tag) });
        }
        let Some(writer) = fill.writer.take() else { return self.passing_ends(flight, End::Broken) };
        fill.stored.mark_gone();
        writer.fail();
        self.over(flight);
        self.wake(flight);
    }

    /// The origin answers a fill that asks for its rest.
    pub(super) fn resumed(&mut self, flight: usize, fetch: usize, head: &ResponseHead<'_, '_>) {
        let Some(fill) = &mut self.flights[flight].fill else { return };
        let Some(writer) = &fill.writer else { return };
        let range = head.field("content-range").and_then(range::parse_content_range);
        let tag = Validators::of(head.fields, 0).strong_etag();
        let fits = range.is_some_and(|(range, total)| {
            range.start == writer.published()
                && total == Some(range.end)
                && fill.stored.body.length().is_none_or(|length| length == range.end)
        });
        if head.status == 206 && fill.is_resuming && fits && tag == fill.tag.as_deref() {
            fill.is_resuming = false;
            return self.counts.add(Count::Resumed, 1);
        }
        self.drop_fetch(fetch);
        fill_gives_up(&mut self.flights[flight]);
        self.broken(flight);
    }
}

/// The rest that came is not the rest: no further attempt.
fn fill_gives_up(flight: &mut Flight) {
    if let Some(fill) = &mut flight.fill {
        fill.tag = None;
    }
}
