//! A response that is larger than memory takes, on its way to disk while it comes: its content is cut into slices, each is written when it is
//! complete, and the head that leads to them when the last one is.
//!
//! `fill.rs` hands over the chunks that it passes on to viewers, and the beginning that it has in memory; `writing.rs` appends the slices;
//! `restore.rs` serves who comes meanwhile from those that are there, and `slices.rs` waits for the others. Invariants: only a whole response gets a
//! head, and none that an unsafe request or a rule concerns (I-22); its flight is not over before the head is appended, or given up; what
//! waits to be appended is bounded, and no viewer waits for it longer than `STREAM_STALL_MAX` in all; one response of a key is written at a
//! time; slices without a head are never found, and leave with their segment.

mod feed;
mod offers;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use aspis_cache::key;
use aspis_exchange::collapse::FlightId;
use aspis_runtime::future::yield_now;
use aspis_runtime::sync::Notify;
use aspis_storage::disk::format::SLICE_LEN;
use aspis_storage::disk::stored::{is_large, slice_count, slice_hash};
use aspis_storage::mapping::body::Body;
use aspis_storage::passage::Chunk;
use aspis_storage::response::StoredResponse;
use aspis_telemetry::Counter;

use super::slices::SlicesOf;
use crate::limits::{SLICES_FOUND_PER_STEP, STREAM_ADMITTED_LEN};
use crate::shard::Shard;
use crate::storing::primary_of;
use offers::{HeadOffer, SliceOffer};

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// More slices may come.
    Growing,
    /// All slices are there.
    Whole,
    /// No more come, and it gets no head.
    GivenUp,
}

/// One response on its way to disk.
pub(crate) struct Streaming {
    shard: Weak<Shard>,
    stored: Arc<StoredResponse>,
    primary: u128,
    /// What brings it; `None` if its content was there before, and only its head is new.
    flight: Option<FlightId>,
    write_id: u64,
    /// Of the whole; `None` if the origin does not say.
    length: Option<u64>,
    /// It is given up when it turns out to be longer.
    len_max: u64,
    /// Up to here the write budget has admitted it.
    admitted: Cell<u64>,
    gathered: RefCell<Gathered>,
    /// Slices that were handed over to be written.
    offered: Cell<u64>,
    /// Those that can be read.
    appended: Cell<u64>,
    state: Cell<State>,
    /// More may come from the task that feeds it.
    is_fed: Cell<bool>,
    /// Memory still has all of it, and may keep it.
    is_in_memory: Cell<bool>,
    /// Slices were appended, or it ended.
    changed: Notify,
    /// For how long viewers waited for the disk, in milliseconds.
    stalled: Cell<u64>,
}

/// What is in memory and was not handed over yet.
#[derive(Default)]
struct Gathered {
    /// The beginning, which came before it was known to be too large.
    front: Option<Arc<Body>>,
    /// How long that was.
    front_len: u64,
    chunks: VecDeque<Arc<Chunk>>,
    /// How many bytes came so far.
    end: u64,
}

/// The side that feeds it: when it is dropped before [`Feed::finish`] nothing more comes.
pub(crate) struct Feed(Rc<Streaming>);

impl Shard {
    /// Begins to write a response that memory does not take; `front` is what came of it so far. `None` if it is not worth it, or cannot be.
    ///
    /// what is longer than `--object-size-max` is not stored.
    pub(crate) fn stream_to_disk(
        &self,
        stored: &Arc<StoredResponse>,
        flight: FlightId,
        (front, length): (&Arc<Body>, Option<u64>),
    ) -> Option<Feed> {
        let disk = self.disk.as_ref()?;
        let primary = primary_of(stored);
        let is_wanted = stored.meta.part.is_none()
            && self.owner_of(primary) == self.core
            && length.is_none_or(is_large)
            && !self.refuses_fills()
            && !self.is_doomed_flight(flight)
            && !self.restores.streams.borrow().contains_key(&stored.hash);
        // A volume that it would fill has its first slices written over by the last.
        let len_max = self.settings.object_size_max.min(disk.capacity(primary)? / 2);
        let admitted = length.unwrap_or_else(|| STREAM_ADMITTED_LEN.max(2 * front.published())).min(len_max);
        if !is_wanted || length.is_some_and(|length| length > len_max) {
            return None;
        }
        if !disk.admits(admitted) {
            self.counters.add(Counter::DiskRefusedBudget, 1);
            return None;
        }
        let begun = Streaming::new(self, Arc::clone(stored), disk.new_write_id(primary)?, (length, len_max));
        let front_len = front.published();
        let front = (front_len > 0).then(|| Arc::clone(front));
        let streaming = self.streams(Streaming {
            flight: Some(flight),
            admitted: Cell::new(admitted),
            gathered: RefCell::new(Gathered { front, front_len, end: front_len, ..Gathered::default() }),
            ..begun
        });
        streaming.hand_over(false);
        Some(Feed(streaming))
    }

    /// The longest response that is kept: in memory, or with a disk there.
    pub(crate) fn kept_len_max(&self) -> u64 {
        if self.disk.is_some() { self.settings.object_size_max } else { self.object_len_max }
    }

    /// What is being written under exactly this key, if that is still of use.
    pub(super) fn streaming(&self, hash: u128, key: &[u8]) -> Option<Rc<Streaming>> {
        let streams = self.restores.streams.borrow();
        let streaming = streams.get(&hash).filter(|streaming| *streaming.stored.key == *key)?;
        let is_doomed = streaming.flight.is_some_and(|flight| self.is_doomed_flight(flight));
        let is_of_use = streaming.length.is_some() && streaming.state.get() != State::GivenUp && !is_doomed;
        is_of_use.then(|| Rc::clone(streaming))
    }

    /// Tells whether this very response is being written: it is offered when its slices are there.
    pub(super) fn is_streaming(&self, stored: &Arc<StoredResponse>) -> bool {
        let streams = self.restores.streams.borrow();
        streams.get(&stored.hash).is_some_and(|streaming| Arc::ptr_eq(&streaming.stored, stored))
    }

    /// What is being written under this number.
    pub(super) fn stream_of(&self, of: &SlicesOf) -> Option<Rc<Streaming>> {
        let streams = self.restores.streams.borrow();
        streams.get(&of.hash).filter(|streaming| streaming.write_id == of.write_id).cloned()
    }

    fn streams(&self, streaming: Streaming) -> Rc<Streaming> {
        let streaming = Rc::new(streaming);
        self.restores.streams.borrow_mut().insert(streaming.stored.hash, Rc::clone(&streaming));
        streaming
    }

    fn is_doomed_flight(&self, flight: FlightId) -> bool {
        self.owner.collapse.borrow().is_doomed(flight)
    }
}

impl Streaming {
    /// Nothing of it came yet, nothing is admitted, and no flight brings it.
    fn new(
        shard: &Shard,
        stored: Arc<StoredResponse>,
        write_id: u64,
        (length, len_max): (Option<u64>, u64),
    ) -> Self {
        Streaming {
            shard: Rc::downgrade(&shard.handle()),
            primary: primary_of(&stored),
            stored,
            flight: None,
            write_id,
            length,
            len_max,
            admitted: Cell::new(0),
            gathered: RefCell::default(),
            offered: Cell::new(0),
            appended: Cell::new(0),
            state: Cell::new(State::Growing),
            is_fed: Cell::new(true),
            is_in_memory: Cell::new(true),
            changed: Notify::new(),
            stalled: Cell::new(0),
        }
    }

    /// What it becomes.
    pub(super) fn stored(&self) -> &Arc<StoredResponse> {
        &self.stored
    }

    /// Where its content is found; `None` if its length is not known.
    pub(super) fn slices(&self) -> Option<SlicesOf> {
        Some(SlicesOf {
            primary: self.primary,
            hash: self.stored.hash,
            key: self.stored.key.clone(),
            write_id: self.write_id,
            total: self.length?,
        })
    }

    /// Tells whether a slice will be there.
    pub(super) fn expects(&self, number: u64) -> bool {
        self.state.get() == State::Growing && number >= self.appended.get()
    }

    /// Waits until a slice is there, or will not be.
    pub(super) async fn reached(&self, number: u64) {
        loop {
            let changed = self.changed.notified();
            if !self.expects(number) {
                return;
            }
            changed.await;
        }
    }

    /// Bytes that are held for the disk alone, and were not appended.
    fn waiting_len(&self) -> u64 {
        let gathered = self.gathered.borrow();
        gathered.end.saturating_sub(gathered.front_len.max(self.appended.get() * SLICE_LEN))
    }

    /// Tells whether it may become so long; the write budget is asked for as much again each time.
    fn may_be(&self, len: u64) -> Result<(), Counter> {
        if len > self.len_max {
            return Err(Counter::DiskRefusedSpace);
        }
        let admitted = self.admitted.get();
        if len > admitted {
            let shard = self.shard.upgrade();
            let more = admitted.min(self.len_max - admitted);
            let disk = shard.as_ref().and_then(|shard| shard.disk.as_ref());
            if !disk.is_some_and(|disk| disk.admits(more)) {
                return Err(Counter::DiskRefusedBudget);
            }
            self.admitted.set(admitted + more);
        }
        Ok(())
    }

    /// Hands over the slices that are complete, as far as there is room; with `all` the last one, too.
    fn hand_over(self: &Rc<Self>, all: bool) {
        let Some(shard) = self.shard.upgrade() else { return };
        let Some(disk) = &shard.disk else { return };
        while self.state.get() == State::Growing {
            let number = self.offered.get();
            let start = number * SLICE_LEN;
            let mut gathered = self.gathered.borrow_mut();
            let end = gathered.end.min(start + SLICE_LEN);
            if end <= start || (end < start + SLICE_LEN && !all) {
                return;
            }
            let front = gathered.front.clone().filter(|front| front.published() > start);
            let chunks = gathered.chunks.iter().filter(|chunk| chunk.start() < end && chunk.end() > start);
            let chunks = chunks.cloned().collect();
            let offer = SliceOffer { streaming: Rc::clone(self), number, front, chunks, end };
            if disk.offer_part(Box::new(offer)).is_err() {
                drop(gathered);
                if disk.usable(self.primary).is_none() {
                    self.give_up(Counter::DiskRefusedOffLine);
                }
                return;
            }
            gathered.front.take_if(|front| front.published() <= end);
            while gathered.chunks.front().is_some_and(|chunk| chunk.end() <= end) {
                gathered.chunks.pop_front();
            }
            self.offered.set(number + 1);
        }
    }

    /// It gets no head.
    pub(super) fn give_up(&self, cause: Counter) {
        if self.state.get() == State::GivenUp {
            return;
        }
        self.part();
        if let Some(shard) = self.shard.upgrade() {
            shard.counters.add(cause, 1);
            if !self.is_in_memory.get() {
                self.stored.mark_gone();
                shard.counters.add(Counter::CacheNotStoredSize, self.flight.is_some().into());
                self.leave(&shard);
            }
        }
        self.changed.notify_all();
    }

    /// Memory goes on without it.
    fn part(&self) {
        self.state.set(State::GivenUp);
        self.gathered.take();
        if let Some(shard) = self.shard.upgrade() {
            shard.restores.streams.borrow_mut().remove(&self.stored.hash);
        }
    }

    /// Nobody finds it here any more, and its flight is over.
    fn leave(&self, shard: &Shard) {
        shard.restores.streams.borrow_mut().remove(&self.stored.hash);
        if let Some(flight) = self.flight {
            shard.land(flight);
        }
    }

    /// The head is appended: who asks from now on finds it on disk.
    fn kept(&self) {
        if let Some(shard) = self.shard.upgrade() {
            let is_new = self.flight.is_some();
            shard.counters.add(if is_new { Counter::CacheStored } else { Counter::CacheFreshened }, 1);
            self.leave(&shard);
        }
    }

    /// Tells whether all slices of so many bytes are there.
    async fn is_there(&self, shard: &Shard, total: u64) -> bool {
        for number in 0..slice_count(total) {
            let hash =
                u32::try_from(number).map(|number| slice_hash(self.stored.hash, self.write_id, number));
            if !hash.is_ok_and(|hash| shard.has_on_disk(self.primary, hash)) {
                return false;
            }
            if number % SLICES_FOUND_PER_STEP == SLICES_FOUND_PER_STEP - 1 {
                yield_now().await;
            }
        }
        true
    }
}

impl Shard {
    /// Writes the new head of a response that the origin confirmed and whose content is on disk alone. What was stored in its place stays.
    ///
    /// I-24: a rule that came after the origin was asked ends the one and the other.
    pub(crate) fn renew_on_disk(&self, fresh: Arc<StoredResponse>, old: &StoredResponse) {
        let (Some(disk), Some(write_id)) = (&self.disk, fresh.body.write_id()) else { return };
        let is_wanted = self.holds(old)
            && self.holds(&fresh)
            && !self.store.borrow().has(fresh.hash, &fresh.key)
            && !self.restores.streams.borrow().contains_key(&fresh.hash);
        let Some(total) = fresh.body.length().filter(|_| is_wanted) else {
            return self.counters.add(Counter::CacheNotStoredFailed, 1);
        };
        let streaming = self.streams(Streaming {
            admitted: Cell::new(total),
            gathered: RefCell::new(Gathered { end: total, ..Gathered::default() }),
            offered: Cell::new(slice_count(total)),
            appended: Cell::new(slice_count(total)),
            state: Cell::new(State::Whole),
            is_fed: Cell::new(false),
            is_in_memory: Cell::new(false),
            ..Streaming::new(self, fresh, write_id, (Some(total), total))
        });
        if let Err(mut offer) = disk.offer_part(Box::new(HeadOffer { streaming, total })) {
            offer.give_up();
        }
    }

    /// What was in memory under the key of a response that is on disk from now on is out of date: the older one, and parts of it.
    fn make_way_for(&self, streaming: &Streaming) {
        let stored = &streaming.stored;
        self.restores.outdate(stored.hash);
        if stored.variant.is_none() {
            self.restores.markers.borrow_mut().forget(streaming.primary);
        }
        let is_older = |other: &StoredResponse| {
            other.meta.received_at < stored.meta.received_at
                || other.meta.part.is_none() && other.body.write_id() != Some(streaming.write_id)
        };
        let part_key = [&*stored.key, key::PART_SUFFIX].concat();
        let mut store = self.store.borrow_mut();
        let whole = store.lookup(stored.hash, &stored.key).is_some_and(|other| is_older(other));
        if whole {
            store.remove(stored.hash, &stored.key);
        }
        let part_hash = key::hash(&part_key);
        if store.parts(part_hash, &part_key).any(|part| is_older(part)) {
            store.remove(part_hash, &part_key);
        }
    }
}
