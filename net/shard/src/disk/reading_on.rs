//! Reading on from disk: who is too slow for what goes through a passage gets the rest from the slices that are written meanwhile, or were before.
//!
//! `viewer/shared.rs` asks, on whatever core, when its place in a passage is gone; the core that fills answers with a passage that only this reader
//! has. Invariants: the bytes are those of the same fill, whatever is stored under its key by now; no origin is asked for what is on
//! disk or goes there; where the disk breaks off the origin is asked for the rest under the same strong ETag.

use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::range::ByteRange;
use aspis_exchange::ViewerFacts;
use aspis_exchange::response_head::stored_fields;
use aspis_telemetry::Counter;
use aspis_wire::Field;

use super::Slices;
use crate::asking::{Reply, Waiter};
use crate::fill::{FillView, OnDisk, Passing, Reader, SharedFill, pass_rest};
use crate::resume::Retry;
use crate::shard::Shard;

/// What a reader asks for who was too slow for a passage.
pub(crate) struct RestAsk {
    /// What it read.
    pub(crate) fill: Arc<SharedFill>,
    /// Which bytes of that it still wants; the end may lie behind it.
    pub(crate) range: ByteRange,
    /// The reader's request as received.
    pub(crate) head: Box<[u8]>,
    pub(crate) facts: ViewerFacts,
}

impl Shard {
    /// Asks the core that fills for the rest; `None` if the disk does not have it.
    pub(crate) async fn read_on(self: &Rc<Self>, ask: RestAsk) -> Option<Reader> {
        let place = self.ask_rest(ask);
        match place.next().await {
            Reply::Rest(reading) => Some(FillView::attach(self, reading)),
            _ => None,
        }
    }

    /// Serves one who asks for the rest of what this core fills, or filled.
    pub(crate) fn rest_asked(&self, ask: RestAsk, waiter: &Waiter) {
        let shard = self.handle();
        let passing = ask.fill.on_disk().and_then(|on_disk| rest(&shard, on_disk, &ask));
        let reply = match &passing {
            Some(passing) => Reply::Rest(passing.view.lend(waiter.core(self))),
            None => Reply::Alone,
        };
        self.reply(waiter, reply);
        if let Some(passing) = passing {
            self.counters.add(Counter::DiskReadOn, 1);
            passing.start(&shard);
        }
    }
}

fn rest(shard: &Rc<Shard>, on_disk: &OnDisk, ask: &RestAsk) -> Option<Passing> {
    let OnDisk { slices, start, stored } = on_disk;
    let end = slices.total.min(start.saturating_add(ask.range.end));
    let range = ByteRange { start: start + ask.range.start, end };
    let first = ByteRange { start: range.start, end: range.start + 1 };
    if range.start >= range.end || !slices.may_be_there(shard, first) {
        return None;
    }
    let fields: Vec<Field<'_>> = stored_fields(&stored.head).collect();
    // The slices may be those of a part themselves.
    let (base, total) =
        stored.meta.part.map_or((0, slices.total), |part| (part.start.saturating_sub(*start), part.total));
    let retry = Retry::new(ask.head.clone(), ask.facts).of_part(&fields, base + range.start, total);
    // Without the origin's help all of it must be there.
    if retry.is_none() && !slices.may_be_there(shard, range) {
        return None;
    }
    Some(pass_rest(shard, Slices::new(shard, slices.clone(), range), retry))
}
