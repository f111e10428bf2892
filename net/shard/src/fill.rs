//! A fill: one origin response on its way into the arena while a viewer reads it.
//!
//! `viewer/exchange.rs` starts it when the machine says that a response may be stored; `run` reads the origin into the
//! body without ever waiting for the viewer; the viewer's task follows `body` and sleeps on `changed`. When the response
//! turns out too large, or memory is short, the rest of the origin's stream is handed to the viewer's task, which passes
//! it through. Invariants: a body becomes a stored response only when it is complete; a failed one is never served.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::key::PART_SUFFIX;
use aspis_cache::stored::StoredMeta;
use aspis_cache::vary::{self, Varies};
use aspis_config::behavior::VaryRule;
use aspis_exchange::response_head;
use aspis_runtime::sync::Notify;
use aspis_storage::mapping::body::{Body, BodyState, BodyWriter};
use aspis_storage::response::{Parts, StoredResponse, VariantOf};
use aspis_telemetry::Counter;
use aspis_wire::request::RequestHead;
use aspis_wire::response::ResponseHead;

use crate::limits::{
    FILL_RECEIVE_LEN as RECEIVE_LEN, FILL_WITHOUT_VIEWER_MISSING_MAX, FILL_WITHOUT_VIEWER_TIME,
};
use crate::origin::OriginBody;
use crate::shard::Shard;

/// What a fill becomes once it is whole.
pub(crate) struct Candidate {
    pub(crate) hash: u128,
    pub(crate) key: Box<[u8]>,
    /// The head that hits send, without what changes from hit to hit.
    pub(crate) head: Box<[u8]>,
    pub(crate) meta: StoredMeta,
    /// The invalidation number that was current when the origin request was sent.
    pub(crate) invalidation: u64,
    /// The fetch in the shard's table of fetches, where an invalidation marks it.
    pub(crate) flight: usize,
    /// Of which URI it is a variant.
    pub(crate) variant: Option<VariantOf>,
}

/// A response that may be stored, as its head comes.
pub(crate) struct Filling<'f> {
    pub(crate) head: &'f ResponseHead<'f, 'f>,
    pub(crate) request: &'f RequestHead<'f, 'f>,
    /// Hash and bytes of the primary key.
    pub(crate) key: &'f (u128, Box<[u8]>),
    pub(crate) meta: StoredMeta,
    pub(crate) flight: usize,
    pub(crate) invalidation: u64,
    /// What stands before the origin's content: a stored part that it completes.
    pub(crate) prefix: Option<&'f Arc<Body>>,
}

/// Begins to store a response: the returned fill grows by itself.
///
/// The origin's stream is taken exactly if there is a fill; there is none if the request selects no variant that can be kept.
pub(crate) fn begin(
    shard: &Rc<Shard>,
    filling: Filling<'_>,
    origin: &mut Option<OriginBody>,
) -> Option<Rc<Fill>> {
    let (hash, key) = (filling.key.0, &filling.key.1);
    let names = match (shard.behavior.vary, vary::varies(filling.head.fields)) {
        (VaryRule::Ignore, _) | (VaryRule::Origin, Varies::No | Varies::Always) => "".into(),
        (VaryRule::Origin, Varies::By(names)) => names,
    };
    // What one variant depends on is asked of all, so that none is served to a request that it was not chosen for.
    let before: Box<str> = shard.store.borrow().vary_names(hash, key).unwrap_or_default().into();
    let names = vary::union(&names, &before);
    let mut selected = key.to_vec();
    if filling.meta.part.is_some() {
        // Parts are kept for URIs that do not vary.
        if !names.is_empty() {
            return None;
        }
        selected.extend_from_slice(PART_SUFFIX);
    }
    let variant = if names.is_empty() {
        None
    } else if vary::extend_key(&shard.behavior, &names, filling.request.fields, &mut selected) {
        Some(VariantOf { primary: hash, primary_len: key.len(), names })
    } else {
        return None;
    };
    let mut stored_head = Vec::with_capacity(1024);
    // The length is stated by each hit: it may not be known yet.
    response_head::write_stored(&shard.behavior, filling.head, shard.now(), &mut stored_head);
    let prefix_len = filling.prefix.map_or(0, |prefix| prefix.published());
    let length = origin.as_ref()?.length().map(|length| length + prefix_len);
    let mut writer = Body::writer(&shard.arena, length);
    if let Some(prefix) = filling.prefix
        && !copy_prefix(shard, &mut writer, prefix)
    {
        return None;
    }
    let origin = origin.take()?;
    let fill = Fill::new(Arc::clone(writer.body()));
    let candidate = Candidate {
        hash: if selected.len() > key.len() { aspis_cache::key::hash(&selected) } else { hash },
        key: selected.into(),
        head: stored_head.into(),
        meta: filling.meta,
        invalidation: filling.invalidation,
        flight: filling.flight,
        variant,
    };
    shard.ring.spawn(run(Rc::clone(shard), Rc::clone(&fill), origin, writer, candidate));
    Some(fill)
}

/// One running fill.
pub(crate) struct Fill {
    /// The bytes so far.
    pub(crate) body: Arc<Body>,
    /// Bytes were published, or the fill ended, or it was handed over.
    pub(crate) changed: Notify,
    rest: RefCell<Option<OriginBody>>,
    handed_over: Cell<bool>,
    viewer_left: Cell<bool>,
}

impl Fill {
    /// Makes the shared part of a fill over `body`.
    pub(crate) fn new(body: Arc<Body>) -> Rc<Self> {
        Rc::new(Fill {
            body,
            changed: Notify::new(),
            rest: RefCell::new(None),
            handed_over: Cell::new(false),
            viewer_left: Cell::new(false),
        })
    }

    /// Tells whether the fill stopped here and its reader has to go on from the origin itself.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.handed_over.get()
    }

    /// Takes the rest of the origin's stream after a hand-over.
    pub(crate) fn take_rest(&self) -> Option<OriginBody> {
        self.rest.borrow_mut().take()
    }

    /// Says that nobody reads any more. A stream that was handed over ends here.
    pub(crate) fn leave(&self) {
        self.viewer_left.set(true);
        self.rest.borrow_mut().take();
    }

    fn hand_over(&self, origin: OriginBody) {
        if !self.viewer_left.get() {
            *self.rest.borrow_mut() = Some(origin);
        }
        self.handed_over.set(true);
        self.changed.notify_all();
    }

    /// Idea 4: a fill without viewers goes on if half is there or little is missing. Where the length is not known it has
    /// a little time: an answer that never ends would hold its connection for ever.
    fn is_worth_finishing(&self, length: Option<u64>, millis_alone: u64) -> bool {
        let Some(length) = length else {
            return u128::from(millis_alone) < FILL_WITHOUT_VIEWER_TIME.as_millis();
        };
        let published = self.body.published();
        published >= length / 2 || length - published <= FILL_WITHOUT_VIEWER_MISSING_MAX
    }
}

/// Copies a stored prefix to the front of a body; false when memory is short.
fn copy_prefix(shard: &Shard, writer: &mut BodyWriter, prefix: &Body) -> bool {
    let len = prefix.published();
    while writer.published() < len {
        let piece = prefix.piece(writer.published());
        let Some(mut tail) = shard.reserve_tail(writer, piece.len()) else { return false };
        let room: &mut [u8] = tail.as_mut();
        let count = room.len().min(piece.len());
        room[..count].copy_from_slice(&piece[..count]);
        writer.publish(tail, count);
    }
    true
}

/// Reads the origin's body to its end and stores the response if it is still wanted then.
pub(crate) async fn run(
    shard: Rc<Shard>,
    fill: Rc<Fill>,
    mut origin: OriginBody,
    mut writer: BodyWriter,
    candidate: Candidate,
) {
    let flight = candidate.flight;
    let whole = read_all(&shard, &fill, &mut writer, &mut origin).await;
    match whole {
        End::Whole => {
            let whole = writer.complete() == BodyState::Complete;
            let doomed = shard.flights.borrow().get(flight).is_none_or(|flight| flight.doomed);
            if whole && !doomed {
                admit(&shard, &fill, candidate);
            } else {
                shard.counters.add(Counter::CacheNotStoredFailed, 1);
            }
        }
        End::TooLarge => {
            shard.counters.add(Counter::CacheNotStoredSize, 1);
            fill.hand_over(origin);
        }
        End::Broken | End::Unwanted => {
            shard.counters.add(Counter::CacheNotStoredFailed, 1);
            writer.fail();
        }
    }
    shard.end_flight(flight);
    fill.changed.notify_all();
}

enum End {
    Whole,
    TooLarge,
    Broken,
    Unwanted,
}

async fn read_all(shard: &Rc<Shard>, fill: &Fill, writer: &mut BodyWriter, origin: &mut OriginBody) -> End {
    let length = origin.length().map(|length| length + fill.body.published());
    let mut alone_since = None;
    loop {
        if fill.body.published() > shard.object_len_max {
            return End::TooLarge;
        }
        if origin.is_whole() {
            return End::Whole;
        }
        let missing = length.map_or(RECEIVE_LEN, |length| length - fill.body.published());
        let Some(tail) = shard.reserve_tail(writer, missing.min(RECEIVE_LEN) as usize) else {
            return End::TooLarge;
        };
        let (read, tail) = origin.read(tail).await;
        match read {
            Ok(0) => return End::Whole,
            Ok(count) => {
                writer.publish(tail, count);
                fill.changed.notify_all();
            }
            Err(_) => return End::Broken,
        }
        if fill.viewer_left.get() {
            let now = shard.ring.now_millis();
            if !fill.is_worth_finishing(length, now - *alone_since.get_or_insert(now)) {
                return End::Unwanted;
            }
        }
    }
}

fn admit(shard: &Rc<Shard>, fill: &Fill, candidate: Candidate) {
    let parts = Parts {
        hash: candidate.hash,
        key: candidate.key,
        head: candidate.head,
        meta: candidate.meta,
        body: Arc::clone(&fill.body),
        invalidation: candidate.invalidation,
        variant: candidate.variant,
    };
    // A rule that grew meanwhile selects by more than this response was chosen by.
    let outgrown = parts.variant.as_ref().is_some_and(|variant| {
        let store = shard.store.borrow();
        let now = store.vary_names(variant.primary, &parts.key[..variant.primary_len]);
        now.is_some_and(|now| !vary::covers(&variant.names, now))
    });
    let varies_now =
        parts.variant.is_none() && shard.store.borrow().vary_names(parts.hash, &parts.key).is_some();
    // Fetches of one key may run side by side: the one that was answered later stays.
    let newer = shard.store.borrow().lookup(parts.hash, &parts.key).map(|kept| kept.meta.received_at);
    if outgrown || varies_now || newer.is_some_and(|newer| newer > parts.meta.received_at) {
        shard.counters.add(Counter::CacheNotStoredFailed, 1);
        return;
    }
    let stored = StoredResponse::new(parts, &shard.budget)
        .is_some_and(|stored| shard.store.borrow_mut().insert(stored).is_ok());
    let counter = if stored { Counter::CacheStored } else { Counter::CacheNotStoredMemory };
    shard.counters.add(counter, 1);
}
