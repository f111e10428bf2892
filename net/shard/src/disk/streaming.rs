//! A response that is larger than memory takes, on its way to disk while it comes: its content is cut into slices, each is written when it is
//! complete, and the head that leads to them when the last one is.
//!
//! `fill.rs` hands over the chunks that it passes on to viewers, and the beginning that it has in memory; `writing.rs` appends the slices;
//! `restore.rs` serves who comes meanwhile from those that are there, and `slices.rs` waits for the others. Invariants: only a whole response gets a
//! head, and none that an unsafe request or a rule concerns (I-22); its flight is not over before the head is appended, or given up; what
//! waits to be appended is bounded, and no viewer waits for it longer than `STREAM_STALL_MAX` in all; one response of a key is written at a
//! time; slices without a head are never found, and leave with their segment.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use aspis_cache::key;
use aspis_exchange::collapse::FlightId;
use aspis_runtime::future::{race, yield_now};
use aspis_runtime::sync::Notify;
use aspis_storage::disk::format::SLICE_LEN;
use aspis_storage::disk::stored::{head_record, is_large, pieces, slice_count, slice_hash, slice_record};
use aspis_storage::disk::volume::{Refused, Volume};
use aspis_storage::mapping::body::Body;
use aspis_storage::passage::{Chunk, PassageWriter};
use aspis_storage::response::StoredResponse;
use aspis_telemetry::Counter;

use super::offering::mark;
use super::slices::SlicesOf;
use super::{Offer, Step};
use crate::limits::{
    DISK_WRITE_PATIENCE, SLICES_FOUND_PER_STEP, STREAM_ADMITTED_LEN, STREAM_LOOK, STREAM_SHARE,
    STREAM_STALL_MAX, STREAMED_SLICES_MAX, STREAMED_SLICES_MIN,
};
use crate::shard::Shard;
use crate::storing::primary_of;

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

/// One slice to be written.
struct SliceOffer {
    streaming: Rc<Streaming>,
    number: u64,
    front: Option<Arc<Body>>,
    chunks: Vec<Arc<Chunk>>,
    end: u64,
}

/// The head, behind all slices.
struct HeadOffer {
    streaming: Rc<Streaming>,
    total: u64,
}

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
        let streaming = Rc::new(Streaming {
            shard: Rc::downgrade(&self.handle()),
            stored: Arc::clone(stored),
            primary,
            flight: Some(flight),
            write_id: disk.new_write_id(primary)?,
            length,
            len_max,
            admitted: Cell::new(admitted),
            gathered: RefCell::new(Gathered {
                front_len: front.published(),
                front: (front.published() > 0).then(|| Arc::clone(front)),
                chunks: VecDeque::new(),
                end: front.published(),
            }),
            offered: Cell::new(0),
            appended: Cell::new(0),
            state: Cell::new(State::Growing),
            is_fed: Cell::new(true),
            is_in_memory: Cell::new(true),
            changed: Notify::new(),
            stalled: Cell::new(0),
        });
        self.restores.streams.borrow_mut().insert(stored.hash, Rc::clone(&streaming));
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

    /// What is being written under this number.
    pub(super) fn stream_of(&self, of: &SlicesOf) -> Option<Rc<Streaming>> {
        let streams = self.restores.streams.borrow();
        streams.get(&of.hash).filter(|streaming| streaming.write_id == of.write_id).cloned()
    }

    fn is_doomed_flight(&self, flight: FlightId) -> bool {
        self.owner.collapse.borrow().is_doomed(flight)
    }
}

impl Streaming {
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
                if !disk.is_usable(self.primary) {
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
        self.gathered.replace(Gathered { front: None, front_len: 0, chunks: VecDeque::new(), end: 0 });
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

    /// All of it came and memory keeps it: what is written already need not be written again.
    pub(crate) fn stays_in_memory(self, body: &Body) {
        let Feed(streaming) = &self;
        streaming.hand_over(true);
        let is_handed_over = streaming.offered.get() == slice_count(body.published());
        if is_handed_over && self.is_on() && is_large(body.published()) {
            body.set_write_id(streaming.write_id);
        }
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
        let (mut appended, mut since) = (streaming.appended.get(), shard.ring.now_millis());
        loop {
            let changed = streaming.changed.notified();
            streaming.hand_over(false);
            if !self.is_on() || streaming.waiting_len() < most {
                return self.is_on();
            }
            let began = shard.ring.now_millis();
            race(changed, shard.ring.sleep(STREAM_LOOK)).await;
            let now = shard.ring.now_millis();
            if is_read && passing.is_caught_up() {
                streaming.stalled.set(streaming.stalled.get() + (now - began));
            }
            if streaming.appended.get() > appended {
                (appended, since) = (streaming.appended.get(), now);
            }
            if is_late(now - since, DISK_WRITE_PATIENCE) || is_late(streaming.stalled.get(), STREAM_STALL_MAX)
            {
                self.give_up(Counter::DiskRefusedQueue);
                return false;
            }
        }
    }

    /// All of it came: the last slice is written, and then the head, if nothing has made it out of date.
    pub(crate) async fn finish(self, shard: &Rc<Shard>, total: u64) {
        let streaming = Rc::clone(&self.0);
        let count = slice_count(total);
        let (mut appended, mut since) = (0, shard.ring.now_millis());
        loop {
            let changed = streaming.changed.notified();
            streaming.hand_over(true);
            if !self.is_on() {
                return;
            }
            if streaming.appended.get() >= count {
                break;
            }
            race(changed, shard.ring.sleep(STREAM_LOOK)).await;
            let now = shard.ring.now_millis();
            if streaming.appended.get() > appended {
                (appended, since) = (streaming.appended.get(), now);
            }
            if is_late(now - since, DISK_WRITE_PATIENCE) {
                return self.give_up(Counter::DiskRefusedQueue);
            }
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
        let streaming = Rc::new(Streaming {
            shard: Rc::downgrade(&self.handle()),
            primary: primary_of(&fresh),
            stored: fresh,
            flight: None,
            write_id,
            length: Some(total),
            len_max: total,
            admitted: Cell::new(total),
            gathered: RefCell::new(Gathered {
                front: None,
                front_len: 0,
                chunks: VecDeque::new(),
                end: total,
            }),
            offered: Cell::new(slice_count(total)),
            appended: Cell::new(slice_count(total)),
            state: Cell::new(State::Whole),
            is_fed: Cell::new(false),
            is_in_memory: Cell::new(false),
            changed: Notify::new(),
            stalled: Cell::new(0),
        });
        self.restores.streams.borrow_mut().insert(streaming.stored.hash, Rc::clone(&streaming));
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

impl Offer for SliceOffer {
    fn primary(&self) -> u128 {
        self.streaming.primary
    }

    fn len(&self) -> u64 {
        self.end - self.number * SLICE_LEN
    }

    fn concerns(&self, _: u128) -> bool {
        // Without a head nobody finds it.
        false
    }

    fn step(&mut self, volume: &mut Volume, now: u32) -> Result<Step, Refused> {
        let Streaming { stored, write_id, appended, changed, .. } = &*self.streaming;
        // A body has fewer slices than 2^32: it would be 4 PiB.
        let number = u32::try_from(self.number).map_err(|_| Refused::TooLarge)?;
        let mut at = self.number * SLICE_LEN;
        let mut body = match &self.front {
            Some(front) => pieces(front, at..self.end.min(front.published())),
            None => Vec::new(),
        };
        at += body.iter().map(|piece| piece.len() as u64).sum::<u64>();
        for chunk in &self.chunks {
            let piece = chunk.piece(at);
            let piece = &piece[..piece.len().min((self.end - at) as usize)];
            at += piece.len() as u64;
            body.push(piece);
        }
        volume.append(&slice_record(stored, (*write_id, number), &body, now), now)?;
        appended.set(self.number + 1);
        changed.notify_all();
        Ok(Step::Done(self.len()))
    }

    fn give_up(&mut self) {
        self.streaming.give_up(Counter::DiskRefusedMemory);
    }
}

impl Offer for HeadOffer {
    fn primary(&self) -> u128 {
        self.streaming.primary
    }

    fn len(&self) -> u64 {
        let stored = &self.streaming.stored;
        stored.charged_len() - stored.body.charged_len()
    }

    fn concerns(&self, hash: u128) -> bool {
        hash == self.streaming.stored.hash || hash == self.streaming.primary
    }

    fn step(&mut self, volume: &mut Volume, now: u32) -> Result<Step, Refused> {
        let Streaming { shard, stored, write_id, .. } = &*self.streaming;
        if let (Some(variant), Some(shard)) = (&stored.variant, shard.upgrade()) {
            mark(&shard, stored, variant, volume, now)?;
        }
        volume.append(&head_record(stored, (*write_id, self.total), now), now)?;
        self.streaming.kept();
        Ok(Step::Done(self.len()))
    }

    fn give_up(&mut self) {
        let streaming = &self.streaming;
        streaming.give_up(Counter::DiskRefusedMemory);
        // Of what was confirmed the older head may stay: its content is the same, and is stale no later.
        if let (Some(_), Some(shard)) = (streaming.flight, streaming.shard.upgrade()) {
            shard.forget_on_disk(&streaming.stored);
        }
    }
}

fn is_late(millis: u64, patience: Duration) -> bool {
    u128::from(millis) >= patience.as_millis()
}
