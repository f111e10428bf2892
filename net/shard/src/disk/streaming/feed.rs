//! The side of a fill that feeds what goes to disk while it comes.
//!
//! `fill.rs` and `fill/passing.rs` hold a [`Feed`] for as long as there may be more. Invariants: who feeds is told to wait while too much waits for the disk, but no
//! viewer waits for it longer than `STREAM_STALL_MAX` in all; what is not finished gets no head.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aspis_runtime::future::race;
use aspis_storage::disk::format::SLICE_LEN;
use aspis_storage::disk::stored::{is_large, slice_count};
use aspis_storage::passage::{Chunk, PassageWriter};
use aspis_telemetry::Counter;

use super::offers::HeadOffer;
use super::{Feed, State, Streaming};
use crate::disk::SlicesOf;
use crate::disk::offering::Why;
use crate::limits::{
    DISK_WRITE_PATIENCE, STREAM_LOOK, STREAM_SHARE, STREAM_STALL_MAX, STREAMED_SLICES_MAX,
    STREAMED_SLICES_MIN,
};
use crate::shard::Shard;

impl Feed {
    /// Takes note that so much of it is in memory.
    pub(crate) fn grew(&self, len: u64) {
        let Feed(streaming) = self;
        if let Err(cause) = streaming.may_be(len) {
            return self.give_up(cause);
        }
        {
            let mut gathered = streaming.gathered.borrow_mut();
            (gathered.end, gathered.front_len) = (len, len);
        }
        streaming.hand_over(false);
    }

    /// All of it came, and memory keeps it: it is offered to the disk as others are, when its slices are there and need not be written again.
    pub(crate) fn stays_in_memory(self, shard: &Rc<Shard>) {
        let stored = Arc::clone(&self.0.stored);
        // Nothing older takes its place until then.
        if shard.has_on_disk(self.0.primary, stored.hash) {
            shard.forget_on_disk(&stored);
        }
        let shard = Rc::clone(shard);
        let ring = shard.ring.clone();
        ring.spawn(async move {
            let len = stored.body.published();
            if is_large(len)
                && self.all_appended(&shard, slice_count(len)).await
                && let Some(body) = stored.body.in_memory()
            {
                body.set_write_id(self.0.write_id);
            }
            drop(self);
            if stored.is_live() {
                shard.offer(&stored, Why::Stored { used_before: false });
            }
        });
    }

    /// Memory does not keep it: what comes is passed on.
    pub(crate) fn leaves_memory(&self) {
        self.0.is_in_memory.set(false);
    }

    /// Takes what was passed on last.
    pub(crate) fn push(&self, chunk: &Arc<Chunk>) {
        let Feed(streaming) = self;
        if streaming.state.get() == State::Growing {
            if let Err(cause) = streaming.may_be(chunk.end()) {
                return self.give_up(cause);
            }
            {
                let mut gathered = streaming.gathered.borrow_mut();
                gathered.end = chunk.end();
                gathered.chunks.push_back(Arc::clone(chunk));
            }
            streaming.hand_over(false);
        }
    }

    /// Tells whether what comes is still written.
    pub(crate) fn is_on(&self) -> bool {
        self.0.state.get() == State::Growing
    }

    /// Nobody finds its beginning where it is passed on: who comes from now on begins with the slices.
    pub(crate) fn close(&self, shard: &Shard) {
        if let Some(flight) = self.0.flight {
            shard.owner.collapse.borrow_mut().close(flight);
        }
    }

    /// The slices that it writes.
    pub(crate) fn slices(&self) -> Option<SlicesOf> {
        self.0.slices()
    }

    /// Memory is short, or the origin broke off: nothing more is written.
    pub(crate) fn give_up(&self, cause: Counter) {
        self.0.give_up(cause);
    }

    /// Waits until the disk has taken enough of what came before; false if the viewers would have to wait for it too long.
    pub(crate) async fn has_room(&self, shard: &Shard, passing: &PassageWriter, is_read: bool) -> bool {
        let Feed(streaming) = self;
        let share = shard.budget.limit() / STREAM_SHARE / shard.cores as u64 / SLICE_LEN;
        let most = share.clamp(STREAMED_SLICES_MIN, STREAMED_SLICES_MAX) * SLICE_LEN;
        let mut progress = Progress::of(streaming, shard);
        loop {
            let changed = streaming.changed.notified();
            streaming.hand_over(false);
            if !self.is_on() || streaming.waiting_len() < most {
                return self.is_on();
            }
            let began = shard.ring.now_millis();
            race(changed, shard.ring.sleep(STREAM_LOOK)).await;
            if is_read && passing.is_caught_up() {
                streaming.stalled.set(streaming.stalled.get() + (shard.ring.now_millis() - began));
            }
            if progress.is_late(streaming, shard) || is_late(streaming.stalled.get(), STREAM_STALL_MAX) {
                self.give_up(Counter::DiskRefusedQueue);
                return false;
            }
        }
    }

    /// Hands over what is left, and waits until all slices can be read; false if that takes too long, or was given up.
    async fn all_appended(&self, shard: &Shard, count: u64) -> bool {
        let Feed(streaming) = self;
        let mut progress = Progress::of(streaming, shard);
        loop {
            let changed = streaming.changed.notified();
            streaming.hand_over(true);
            if !self.is_on() || streaming.appended.get() >= count {
                return self.is_on();
            }
            race(changed, shard.ring.sleep(STREAM_LOOK)).await;
            if progress.is_late(streaming, shard) {
                return false;
            }
        }
    }

    /// All of it came: the last slice is written, and then the head, if nothing has made it out of date.
    pub(crate) async fn finish(self, shard: &Rc<Shard>, total: u64) {
        let streaming = Rc::clone(&self.0);
        if !self.all_appended(shard, slice_count(total)).await {
            return self.give_up(Counter::DiskRefusedQueue);
        }
        if !is_large(total) || !streaming.is_there(shard, total).await {
            return self.give_up(Counter::DiskRefusedSpace);
        }
        let stored = &streaming.stored;
        // I-22: a rule that came meanwhile does not let it be stored; nor does an unsafe request, or what was stored in its place.
        let is_wanted = self.is_on()
            && !streaming.flight.is_some_and(|flight| shard.is_doomed_flight(flight))
            && stored.is_live()
            && shard.is_wanted(stored);
        if !is_wanted {
            return self.give_up(Counter::CacheNotStoredFailed);
        }
        streaming.state.set(State::Whole);
        streaming.is_fed.set(false);
        streaming.changed.notify_all();
        shard.make_way_for(&streaming);
        let offer = Box::new(HeadOffer { streaming: Rc::clone(&streaming), total });
        let disk = shard.disk.as_ref().expect("it was there when this began");
        if let Err(mut offer) = disk.offer_part(offer) {
            offer.give_up();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if self.0.is_fed.get() {
            if self.0.is_in_memory.get() {
                return self.0.part();
            }
            self.0.give_up(Counter::CacheNotStoredFailed);
        }
    }
}

/// How far the disk is, and since when.
struct Progress {
    appended: u64,
    since: u64,
}

impl Progress {
    fn of(streaming: &Streaming, shard: &Shard) -> Self {
        Progress { appended: streaming.appended.get(), since: shard.ring.now_millis() }
    }

    /// Tells whether it has been no further for too long.
    fn is_late(&mut self, streaming: &Streaming, shard: &Shard) -> bool {
        let now = Progress::of(streaming, shard);
        if now.appended > self.appended {
            *self = now;
            return false;
        }
        is_late(now.since - self.since, DISK_WRITE_PATIENCE)
    }
}

fn is_late(millis: u64, patience: Duration) -> bool {
    u128::from(millis) >= patience.as_millis()
}
