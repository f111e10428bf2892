//! A fill: one origin response on its way into the arena, and into the viewers that read it meanwhile.
//!
//! `flight.rs` starts it for all who share a fetch, `viewer/exchange.rs` for a request that goes alone; `run` reads the origin into the body
//! without ever waiting for a viewer, and tells the readers ([`FillView`]). When the response turns out too large, or memory is short, the rest
//! goes through a passage (`fill/passing.rs`), and with a disk to that as well. Invariants: a body becomes a stored response only when it is complete; a failed one is never served.

mod passing;
mod source;
mod view;

pub(crate) use passing::{Passing, pass, pass_rest};
pub(crate) use source::{Broken, Source};
pub(crate) use view::{FillView, Fills, OnDisk, Reader, Reading, SharedFill};

use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::invalidation::tags;
use aspis_cache::key::PART_SUFFIX;
use aspis_cache::stored::StoredMeta;
use aspis_cache::vary::{self, Varies};
use aspis_config::behavior::VaryRule;
use aspis_exchange::collapse::FlightId;
use aspis_exchange::response_head;
use aspis_runtime::future::yield_now;
use aspis_storage::disk::format::SLICE_LEN;
use aspis_storage::mapping::body::{Body, BodyState, BodyWriter};
use aspis_storage::response::{Parts, StoredResponse, VariantOf};
use aspis_telemetry::Counter;
use aspis_wire::request::RequestHead;
use aspis_wire::response::ResponseHead;

use crate::disk::{Feed, Slices};
use crate::limits::{FILL_RECEIVE_LEN as RECEIVE_LEN, STREAM_EARLY_SHARE};
use crate::origin::OriginBody;
use crate::resume::Retry;
use crate::shard::Shard;

/// A response that may be stored, as its head comes.
pub(crate) struct Filling<'f> {
    pub(crate) head: &'f ResponseHead<'f, 'f>,
    pub(crate) request: &'f RequestHead<'f, 'f>,
    /// Hash and bytes of the primary key.
    pub(crate) key: &'f (u128, Box<[u8]>),
    pub(crate) meta: StoredMeta,
    pub(crate) flying: Flying,
    /// The rule number that was current when the origin request was sent; of a part that is completed the least of both requests'.
    pub(crate) invalidation: u64,
    /// What stands before the origin's content: a stored part that it completes.
    pub(crate) prefix: Option<&'f Arc<Body>>,
}

/// Where an invalidation marks the fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flying {
    /// Among the owner's flights.
    Shared(FlightId),
    /// In the shard's table of fetches that go alone.
    Alone(usize),
}

/// A fill that is ready to begin, once all who wait for it are told.
pub(crate) struct Fill {
    pub(crate) view: Rc<FillView>,
    /// What it becomes.
    pub(crate) stored: Arc<StoredResponse>,
    task: Task,
    source: Source,
    writer: BodyWriter,
}

impl Fill {
    fn new(
        shard: &Rc<Shard>,
        (stored, writer): (Arc<StoredResponse>, BodyWriter),
        (source, length): (Source, Option<u64>),
        flying: Flying,
        retry: Option<Retry>,
    ) -> Self {
        let view = FillView::new(shard, Arc::clone(writer.body()));
        let task = Task {
            shard: Rc::clone(shard),
            view: Rc::clone(&view),
            stored: Arc::clone(&stored),
            flying,
            length,
            retry,
            feed: None,
            has_tried: false,
        };
        Fill { view, stored, task, source, writer }
    }

    /// Begins: it grows by itself.
    pub(crate) fn start(self) {
        let shard = Rc::clone(&self.task.shard);
        shard.ring.spawn(self.task.run(self.source, self.writer));
    }
}

impl Shard {
    /// Copies another body to the end of one that is being written; false when memory is short.
    pub(crate) fn copy_body(&self, writer: &mut BodyWriter, from: &Body) -> bool {
        let (start, len) = (writer.published(), from.published());
        while writer.published() - start < len {
            if !self.copy_bytes(writer, from.piece(writer.published() - start)) {
                return false;
            }
        }
        true
    }

    /// Copies bytes to the end of a body that is being written; false when memory is short.
    pub(crate) fn copy_bytes(&self, writer: &mut BodyWriter, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(mut tail) = self.reserve_tail(writer, rest.len()) else { return false };
            let room: &mut [u8] = tail.as_mut();
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            writer.publish(tail, count);
            rest = &rest[count..];
        }
        true
    }

    /// What a fill becomes, as it comes: not to be kept while nothing new is stored. `None` when memory is short.
    fn stored_as_it_comes(&self, parts: Parts) -> Option<Arc<StoredResponse>> {
        if self.refuses_fills() {
            Some(StoredResponse::under_way(parts, &self.budget))
        } else {
            self.stored_response(parts)
        }
    }

    fn is_doomed(&self, flying: Flying) -> bool {
        match flying {
            Flying::Shared(id) => self.owner.collapse.borrow().is_doomed(id),
            Flying::Alone(flight) => self.flights.borrow().get(flight).is_none_or(|flight| flight.doomed),
        }
    }

    /// How often unsafe requests had invalidated something when a fetch was sent that goes alone. Those of the owner need not say it.
    fn unsafes_before(&self, flying: Flying) -> u64 {
        match flying {
            Flying::Shared(_) => self.rules.unsafes(),
            Flying::Alone(flight) => self.flights.borrow().get(flight).map_or(0, |flight| flight.unsafes),
        }
    }

    fn end_flying(&self, flying: Flying) {
        match flying {
            Flying::Shared(id) => self.land(id),
            Flying::Alone(flight) => self.end_flight(flight),
        }
    }
}
/// Prepares to store a response.
///
/// The origin's stream is taken exactly if there is a fill; there is none if the request selects no variant that can be kept, or if memory is
/// short. One that is known to be too large for this core is passed on to all who share it and never stored.
pub(crate) fn prepare(
    shard: &Rc<Shard>,
    filling: Filling<'_>,
    origin: &mut Option<OriginBody>,
    retry: Option<Retry>,
) -> Option<Fill> {
    let (key, variant) = selected_key(shard, &filling)?;
    let mut stored_head = Vec::with_capacity(1024);
    // The length is stated by each hit: it may not be known yet.
    response_head::write_stored(&shard.behavior, filling.head, shard.now(), &mut stored_head);
    let prefix_len = filling.prefix.map_or(0, |prefix| prefix.published());
    let length = origin.as_ref()?.length().map(|length| length + prefix_len);
    let mut writer = Body::writer(&shard.arena, length);
    let lines = filling.head.fields.iter().map(|field| (field.name.as_bytes(), field.value));
    let parts = Parts {
        hash: if key.len() > filling.key.1.len() { aspis_cache::key::hash(&key) } else { filling.key.0 },
        key: key.into(),
        head: stored_head.into(),
        meta: filling.meta,
        body: Arc::clone(writer.body()),
        invalidation: filling.invalidation,
        tags: tags::of_fields(lines, shard.settings.cache_tag_header.as_deref()),
        variant,
    };
    let stored = shard.stored_as_it_comes(parts)?;
    if let Some(prefix) = filling.prefix
        && !shard.copy_body(&mut writer, prefix)
    {
        return None;
    }
    let origin = origin.take()?;
    // Where the length is not known its end cannot be told from a break that happens to fall on a chunk.
    let retry = retry
        .filter(|_| length.is_some())
        .and_then(|retry| retry.of(filling.head.status, filling.head.fields, length));
    Some(Fill::new(shard, (stored, writer), (Source::Origin(origin), length), filling.flying, retry))
}

/// Prepares to bring a large response, or a part of one, back from disk. Where a slice is missing or damaged the origin is asked for the
/// rest, if `retry` can.
pub(crate) fn restored(
    shard: &Rc<Shard>,
    parts: Parts,
    writer: BodyWriter,
    slices: Slices,
    (flight, retry): (FlightId, Option<Retry>),
) -> Option<Fill> {
    let stored = shard.stored_as_it_comes(parts)?;
    stored.set_on_disk(true);
    let length = Some(slices.len());
    let on_disk = OnDisk { slices: slices.of().clone(), start: slices.start(), stored: Arc::clone(&stored) };
    let source = Source::Disk(slices);
    let fill = Fill::new(shard, (stored, writer), (source, length), Flying::Shared(flight), retry);
    fill.view.set_on_disk(on_disk);
    Some(fill)
}

/// The key under which a response is kept: what one variant depends on is asked of all, so that none is served to a request that it was
/// not chosen for. `None` if it cannot be kept.
fn selected_key(shard: &Shard, filling: &Filling<'_>) -> Option<(Vec<u8>, Option<VariantOf>)> {
    let (hash, key) = (filling.key.0, &filling.key.1);
    let names = match (shard.behavior.vary, vary::varies(filling.head.fields)) {
        (VaryRule::Ignore, _) | (VaryRule::Origin, Varies::No | Varies::Always) => "".into(),
        (VaryRule::Origin, Varies::By(names)) => names,
    };
    let before: Box<str> = shard.store.borrow().vary_names(hash, key).unwrap_or_default().into();
    let names = vary::union(&names, &before);
    let mut selected = key.to_vec();
    if filling.meta.part.is_some() {
        // Parts are kept for URIs that do not vary.
        selected.extend_from_slice(PART_SUFFIX);
        return names.is_empty().then_some((selected, None));
    }
    if names.is_empty() {
        return Some((selected, None));
    }
    vary::extend_key(&shard.behavior, &names, filling.request.fields, &mut selected)
        .then_some((selected, Some(VariantOf { primary: hash, primary_len: key.len(), names })))
}

/// One fill at work.
struct Task {
    shard: Rc<Shard>,
    view: Rc<FillView>,
    stored: Arc<StoredResponse>,
    flying: Flying,
    length: Option<u64>,
    /// How the rest is asked for if the origin's stream breaks.
    retry: Option<Retry>,
    /// What writes it to disk while it comes.
    feed: Option<Feed>,
    /// It was tried to.
    has_tried: bool,
}

enum End {
    Whole,
    TooLarge,
    NoMemory,
    Broken,
    Unwanted,
}

impl Task {
    /// Reads the origin's body to its end and stores the response if it is still wanted then.
    async fn run(mut self, mut source: Source, mut writer: BodyWriter) {
        let end = self.read_all(&mut source, &mut writer).await;
        let (shard, view) = (Rc::clone(&self.shard), Rc::clone(&self.view));
        match end {
            End::Whole => {
                // I-22: a rule that came meanwhile does not let it be stored; who reads it gets it whole.
                let doomed = shard.is_doomed(self.flying) || !shard.holds(&self.stored);
                if doomed {
                    // Before readers on other cores can see it whole, and keep it.
                    self.give_up(Counter::CacheNotStoredFailed);
                }
                if let (Some(feed), false) = (self.feed.take(), doomed) {
                    feed.stays_in_memory(&shard);
                }
                let whole = writer.complete() == BodyState::Complete;
                if whole && !doomed {
                    shard.store_at_owner(Arc::clone(&self.stored), shard.unsafes_before(self.flying));
                } else if !doomed {
                    self.give_up(Counter::CacheNotStoredFailed);
                }
            }
            End::TooLarge | End::NoMemory => {
                let counter = match end {
                    End::TooLarge => Counter::CacheNotStoredSize,
                    _ => Counter::CacheNotStoredMemory,
                };
                let feed = self.feed.take().filter(Feed::is_on).or_else(|| self.stream(&source, &writer));
                match &feed {
                    Some(feed) => feed.leaves_memory(),
                    None => self.give_up(counter),
                }
                let mut passing = Passing::behind(&shard, &view, writer, source);
                // Who comes from now on would find the beginning gone. What goes to disk ends by itself.
                if feed.is_none() {
                    shard.end_flying(self.flying);
                }
                view.tell(&shard);
                (passing.length, passing.retry, passing.feed) = (self.length, self.retry, feed);
                return passing.run(shard).await;
            }
            End::Broken | End::Unwanted => {
                self.give_up(Counter::CacheNotStoredFailed);
                writer.fail();
            }
        }
        shard.end_flying(self.flying);
        view.tell(&shard);
    }

    /// Has what does not say its length go to disk before memory is full of it: else too much of it would have to be written at once.
    fn stream_early(&mut self, source: &Source, writer: &BodyWriter) {
        if let Some(feed) = &self.feed {
            feed.grew(writer.published());
        } else if self.length.is_none() && writer.published() > self.shard.object_len_max / STREAM_EARLY_SHARE
        {
            self.feed = self.stream(source, writer);
        }
    }

    /// Has what memory does not take go to disk as it comes, if there is one and it is worth it. That is tried once.
    fn stream(&mut self, source: &Source, writer: &BodyWriter) -> Option<Feed> {
        let (Flying::Shared(flight), Source::Origin(_)) = (self.flying, source) else { return None };
        if std::mem::replace(&mut self.has_tried, true) {
            return None;
        }
        let feed = self.shard.stream_to_disk(&self.stored, flight, (writer.body(), self.length))?;
        if let Some(slices) = feed.slices() {
            self.view.set_on_disk(OnDisk { slices, start: 0, stored: Arc::clone(&self.stored) });
        }
        Some(feed)
    }

    fn give_up(&self, counter: Counter) {
        self.stored.mark_gone();
        self.shard.counters.add(counter, 1);
    }

    async fn read_all(&mut self, source: &mut Source, writer: &mut BodyWriter) -> End {
        let too_large = |len: u64| {
            // What other fills and readers hold cannot be evicted, so evicting the rest would be for nothing.
            let missing = len.saturating_sub(writer.published());
            len > self.shard.object_len_max || !self.shard.store.borrow().could_hold(missing)
        };
        if self.length.is_some_and(too_large) {
            return End::TooLarge;
        }
        // All who wait share what goes through all the same; each by itself would take far more.
        if self.shard.refuses_fills() {
            self.shard.counters.add(Counter::RetreatNoFill, 1);
            return End::NoMemory;
        }
        let mut alone_since = None;
        loop {
            if self.view.body().published() > self.shard.object_len_max {
                return End::TooLarge;
            }
            // Behind a part that was mended there may come more.
            if source.is_whole() || self.length == Some(self.view.body().published()) {
                return End::Whole;
            }
            let missing =
                self.length.map_or(RECEIVE_LEN, |length| length.saturating_sub(self.view.body().published()));
            let read = match source.append_to(writer).await {
                Ok(0) => {
                    let len = missing.clamp(1, RECEIVE_LEN) as usize;
                    let Some(tail) = self.shard.reserve_tail(writer, len) else { return End::NoMemory };
                    let (read, tail) = source.read(tail).await;
                    if let Ok(count) = read {
                        writer.publish(tail, count);
                    }
                    read
                }
                appended => appended,
            };
            match read {
                Ok(0) => return End::Whole,
                Ok(_) => {
                    self.view.tell(&self.shard);
                    self.stream_early(source, writer);
                    // Slices are there at once: nobody else is to wait until all of many are copied.
                    if matches!(source, Source::Disk(_)) && self.length > Some(SLICE_LEN) {
                        yield_now().await;
                    }
                }
                Err(_) => {
                    let Some(retry) = &mut self.retry else { return End::Broken };
                    let Some(rest) = retry.rest(&self.shard, writer.published()).await else {
                        return End::Broken;
                    };
                    *source = Source::Origin(rest);
                    // Together they are not what lies on disk.
                    self.stored.set_on_disk(false);
                }
            }
            if self.view.has_readers() {
                alone_since = None;
            } else if matches!(source, Source::Disk(_)) {
                // It stays where it is; of what was read nothing is thrown away.
                if source.must_read() {
                    return End::Unwanted;
                }
            } else {
                let now = self.shard.ring.now_millis();
                let done = (self.length, writer.published());
                if !FillView::is_worth_finishing(done, now - *alone_since.get_or_insert(now)) {
                    return End::Unwanted;
                }
            }
        }
    }
}
