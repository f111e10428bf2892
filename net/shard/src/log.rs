//! The end of an exchange: counted, timed and logged exactly once.
//!
//! Called by `viewer/hot.rs` for hits and refusals and by `viewer/exchange.rs` for the rest.

use std::time::Instant;

use aspis_exchange::{ForwardReason, ResultType};
use aspis_telemetry::{Counter, Record, Timing};
use aspis_wire::request::RequestHead;

use crate::shard::Shard;
use crate::viewer::Viewer;

/// What is known of one exchange when it is over.
pub(crate) struct Ended {
    pub(crate) status: u16,
    pub(crate) sent_len: u64,
    pub(crate) result: ResultType,
    pub(crate) forward: Option<ForwardReason>,
    /// Another request's fetch answered it.
    pub(crate) collapsed: bool,
    pub(crate) started: Instant,
    pub(crate) answered: Answered,
}

/// When the first byte of a response was queued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answered {
    /// There was none.
    #[default]
    Never,
    /// At this moment.
    At(Instant),
    /// With the last byte: the response was complete at once.
    Last,
}

impl Shard {
    /// Counts, times and logs one exchange. `head` is `None` if no request could be read.
    pub(crate) fn record(&self, viewer: &Viewer, head: Option<&RequestHead<'_, '_>>, ended: &Ended) {
        let counters = &self.counters;
        counters.add(result_counter(ended.result), 1);
        counters.add(status_counter(ended.status), 1);
        counters.add(Counter::ViewerBytesSent, ended.sent_len);
        if let Some(reason) = ended.forward.filter(|_| !ended.collapsed) {
            counters.add(forward_counter(reason), 1);
        }
        let is_hit = ended.forward.is_none() && ended.result == ResultType::Hit;
        if is_hit && self.log.is_none() && ended.started == self.ring.turn_started() {
            // A look at the clock costs more than all of the above: the turn's end tells for all hits of the turn.
            self.turn_hits.set(self.turn_hits.get() + 1);
            return;
        }
        let duration_micros = (Instant::now() - ended.started).as_micros() as u64;
        let timing = if is_hit { Timing::RequestHit } else { Timing::RequestOther };
        self.histograms.record(timing, duration_micros);
        let Some(log) = &self.log else { return };
        let field = |name| head.and_then(|head| head.field(name)).unwrap_or_default();
        let record = Record {
            ended_at: self.ring.wall_seconds(),
            viewer: Some(viewer.address.get().ip()),
            method: head.map_or(&[][..], |head| head.method.as_str().as_bytes()),
            target: head.map_or(&[][..], |head| head.path_and_query.as_bytes()),
            host: head.map_or(&[][..], |head| head.authority.as_bytes()),
            version: head.map_or("-", |head| head.version.as_str()),
            status: ended.status,
            sent_len: ended.sent_len,
            result: ended.result.as_str(),
            forward: ended.forward.map(|reason| reason.as_str()),
            duration_micros,
            first_byte_micros: match ended.answered {
                Answered::Never => 0,
                Answered::At(at) => (at - ended.started).as_micros() as u64,
                Answered::Last => duration_micros,
            },
            user_agent: field("user-agent"),
            referer: field("referer"),
        };
        log.borrow_mut().record(&record, counters);
    }
}

fn result_counter(result: ResultType) -> Counter {
    match result {
        ResultType::Hit => Counter::RequestsHit,
        ResultType::RefreshHit => Counter::RequestsRefreshHit,
        ResultType::Miss => Counter::RequestsMiss,
        ResultType::Error => Counter::RequestsError,
        ResultType::CapacityExceeded => Counter::RequestsCapacityExceeded,
    }
}

fn status_counter(status: u16) -> Counter {
    match status / 100 {
        2 => Counter::Responses2xx,
        3 => Counter::Responses3xx,
        4 => Counter::Responses4xx,
        5 => Counter::Responses5xx,
        _ => Counter::ResponsesOther,
    }
}

fn forward_counter(reason: ForwardReason) -> Counter {
    match reason {
        ForwardReason::Bypass => Counter::ForwardedBypass,
        ForwardReason::Method => Counter::ForwardedMethod,
        ForwardReason::UriMiss => Counter::ForwardedUriMiss,
        ForwardReason::VaryMiss => Counter::ForwardedVaryMiss,
        ForwardReason::Miss => Counter::ForwardedMiss,
        ForwardReason::Partial => Counter::ForwardedPartial,
        ForwardReason::Request => Counter::ForwardedRequest,
        ForwardReason::Stale => Counter::ForwardedStale,
    }
}
