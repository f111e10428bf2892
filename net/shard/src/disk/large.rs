//! A large object on disk: its head is known, its content lies in slices, and who wants what of it decides what is read.
//!
//! `restore.rs` makes it from a head record. One that is fresh becomes fills, which viewers attach to as to those of an origin: one of the
//! whole, and one for each range that is less than half of it. One that is stale is read whole. Of a large part there are ranges only. Invariants: for a range no slice is read but
//! those that it touches, and of a slice nothing but the blocks that are verified with what is wanted, unless that is most of it; a fill
//! begins only with the slices that it needs in the index, or with the origin's help for the rest.

use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::conditional::{Validators, range_applies};
use aspis_cache::invalidation::{Subject, Verdict};
use aspis_cache::key;
use aspis_cache::range::{self, ByteRange, Selection};
use aspis_cache::reuse::{Reuse, reuse};
use aspis_cache::stored::{Part, StoredMeta};
use aspis_exchange::Collapsing;
use aspis_exchange::collapse::{Asked, FlightId, Outcome, Shared, Wants};
use aspis_exchange::response_head::{part_head, stored_fields};
use aspis_storage::disk::record::Front;
use aspis_storage::disk::stored::{parts, parts_of_part, shortened};
use aspis_storage::mapping::body::{Body, BodyState, BodyWriter};
use aspis_storage::response::{Parts, StoredResponse, VariantOf};
use aspis_wire::request::{RequestHead, parse_request};
use aspis_wire::{Field, FieldSlots, Method};

use super::restore::Waits;
use super::slices::{Slices, SlicesOf, covering};
use super::streaming::Streaming;
use crate::asking::{Ask, Reply};
use crate::fill::{self, Fill};
use crate::limits::{BLOCKS_AHEAD, FILL_RECEIVE_LEN};
use crate::owner::{Arrived, range_key};
use crate::resume::Retry;
use crate::shard::Shard;
use crate::storing::primary_key_of_parts;

/// A response, or a part of one, whose content lies in slices.
pub(super) struct Large {
    head: Box<[u8]>,
    meta: StoredMeta,
    invalidation: u64,
    tags: Box<[u64]>,
    variant: Option<VariantOf>,
    slices: SlicesOf,
}

/// Tells whether a response has its content on disk alone: its body was never filled.
pub(crate) fn is_unread(stored: &StoredResponse) -> bool {
    stored.body.write_id().is_some() && stored.body.progress().state == BodyState::Failed
}

/// Of what use it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    Fresh,
    /// It may be validated, or served where that is allowed.
    Stale,
    Purged,
}

impl Large {
    /// Reads a head record; `None` if it is none, or does not fit together.
    pub(super) fn of(shard: &Shard, front: &Front<'_>, slices: SlicesOf) -> Option<Self> {
        // Only what it is beside its content.
        let empty = Body::writer(&shard.arena, None);
        let parts = parts(front, slices.primary, (slices.hash, &slices.key), empty.body())?;
        Some(Large::from(parts, slices))
    }

    fn from(parts: Parts, slices: SlicesOf) -> Self {
        let Parts { head, meta, invalidation, tags, variant, .. } = parts;
        Large { head, meta, invalidation, tags, variant, slices }
    }

    /// Reads the head record of the part with this range; `None` if it is none, or does not fit together.
    pub(super) fn of_part(
        shard: &Shard,
        front: &Front<'_>,
        range: ByteRange,
        slices: SlicesOf,
    ) -> Option<Self> {
        let empty = Body::writer(&shard.arena, None);
        let parts = parts_of_part(front, range, (slices.hash, &slices.key), empty.body())?;
        Some(Large::from(parts, slices))
    }

    /// What comes just now, and is written meanwhile; `None` if its length is not known.
    pub(super) fn of_streaming(streaming: &Streaming) -> Option<Self> {
        let stored = streaming.stored();
        Some(Large {
            head: stored.head.clone(),
            meta: shortened(stored),
            invalidation: stored.invalidation(),
            tags: stored.tags.clone(),
            variant: stored.variant.clone(),
            slices: streaming.slices()?,
        })
    }

    /// Holds it against the rules that are newer than it (I-22, I-25), and the clock.
    pub(super) fn judge(&self, shard: &Shard) -> Judged {
        let subject = Subject { key: &self.slices.key, tags: &self.tags };
        match (shard.rules.judge(&subject, self.invalidation), reuse(&self.meta, shard.now().wall)) {
            (Verdict::Gone, _) => Judged::Purged,
            (Verdict::Untouched, Reuse::Fresh { .. }) => Judged::Fresh,
            (Verdict::Untouched | Verdict::Stale, _) => Judged::Stale,
        }
    }

    /// Tells whether memory could hold all of it.
    pub(super) fn fits(&self, shard: &Shard) -> bool {
        let total = self.slices.total;
        total <= shard.object_len_max && shard.store.borrow().could_hold(total)
    }

    /// All but its content, for the origin to confirm; `None` if there is nothing to confirm it by, or memory is short.
    pub(super) fn unread(&self, shard: &Shard) -> Option<Arc<StoredResponse>> {
        let writer = Body::writer(&shard.arena, Some(self.slices.total));
        writer.body().set_write_id(self.slices.write_id);
        let stored = shard.stored_response(self.parts(writer.body()))?;
        stored.set_on_disk(true);
        stored.can_be_validated().then_some(stored)
    }

    /// All of it over a body.
    fn parts(&self, body: &Arc<Body>) -> Parts {
        Parts {
            hash: self.slices.hash,
            key: self.slices.key.clone(),
            head: self.head.clone(),
            meta: self.meta,
            body: Arc::clone(body),
            invalidation: self.invalidation,
            tags: self.tags.clone(),
            variant: self.variant.clone(),
        }
    }

    /// Reads all slices into a body; `None` if one is missing, or memory is short.
    pub(super) async fn read_all(&self, shard: &Rc<Shard>) -> Option<Arc<Body>> {
        let whole = ByteRange { start: 0, end: self.slices.total };
        if !self.slices.may_be_there(shard, whole) || !shard.store.borrow().could_hold(whole.len()) {
            return None;
        }
        let mut writer = Body::writer(&shard.arena, Some(whole.len()));
        let mut slices = Slices::new(shard, self.slices.clone(), whole);
        while !slices.is_whole() {
            if slices.append_to(&mut writer).await.ok()? > 0 {
                continue;
            }
            let tail = shard.reserve_tail(&mut writer, FILL_RECEIVE_LEN as usize)?;
            let (read, tail) = slices.read(tail).await;
            writer.publish(tail, read.ok()?);
        }
        let body = Arc::clone(writer.body());
        body.set_write_id(self.slices.write_id);
        (writer.complete() == BodyState::Complete).then_some(body)
    }

    /// Prepares what those who wait will read: the whole, or ranges of it.
    pub(super) fn fills(&self, shard: &Rc<Shard>, waiting: &[Waits]) -> Vec<Fill> {
        let mut fills = Vec::new();
        for Waits { ask, .. } in waiting {
            let mut slots = FieldSlots::new();
            let Ok(Some(request)) = parse_request(&ask.head, &mut slots, &shard.head_limits) else {
                continue;
            };
            let fill = match self.part_for(&request) {
                Some(wanted) => {
                    let ahead = if reads_on(ask, wanted) { BLOCKS_AHEAD } else { 0 };
                    let start = self.held().start;
                    let wanted = ByteRange { start: wanted.start - start, end: wanted.end - start };
                    self.part(shard, ask, &request, covering(wanted, self.slices.total, ahead))
                }
                None if self.meta.part.is_some() => None,
                // A running fill of the whole is too far from it, and another is none for it.
                None if ask.forward.collapsing == Collapsing::Apart => None,
                None => self.whole(shard, ask),
            };
            fills.extend(fill);
        }
        fills
    }

    /// Which bytes of the whole its slices are.
    fn held(&self) -> ByteRange {
        let start = self.meta.part.map_or(0, |part| part.start);
        ByteRange { start, end: start + self.slices.total }
    }

    /// The bytes of the whole that a request wants that asks for a range which is clearly less than it, or which lies in this part.
    pub(super) fn part_for(&self, request: &RequestHead<'_, '_>) -> Option<ByteRange> {
        let (held, part) = (self.held(), self.meta.part);
        let total = part.map_or(self.slices.total, |part| part.total);
        let fields: Vec<Field<'_>> = stored_fields(&self.head).collect();
        let validators = Validators::of(&fields, self.meta.generated_at);
        // Parts are kept for URIs that do not vary.
        if self.variant.is_some()
            || self.meta.status != if part.is_some() { 206 } else { 200 }
            || !range_applies(request.fields, &validators)
        {
            return None;
        }
        let wanted = plain_range(request, total)?;
        let is_fit = match part {
            Some(_) => held.start <= wanted.start && wanted.end <= held.end,
            None => wanted.len() < total / 2,
        };
        is_fit.then_some(wanted)
    }

    /// A fill of the whole, unless one runs.
    fn whole(&self, shard: &Rc<Shard>, ask: &Ask) -> Option<Fill> {
        let range = ByteRange { start: 0, end: self.slices.total };
        let writer = Body::writer(&shard.arena, Some(range.len()));
        writer.body().set_write_id(self.slices.write_id);
        let fields: Vec<Field<'_>> = stored_fields(&self.head).collect();
        let retry = Retry::new(ask.head.clone(), ask.facts).of(self.meta.status, &fields, Some(range.len()));
        // Without the origin's help all of it must be there.
        if retry.is_none() && !self.slices.may_be_there(shard, range) {
            return None;
        }
        let parts = self.parts(writer.body());
        let asked = self.asked(self.slices.hash, &self.slices.key);
        self.fill(shard, asked, (parts, writer, retry), range)
    }

    /// A fill of these bytes of the slices as a part, which is kept as one that the origin sent, unless one runs for the same range (R-3, C-10).
    fn part(
        &self,
        shard: &Rc<Shard>,
        ask: &Ask,
        request: &RequestHead<'_, '_>,
        range: ByteRange,
    ) -> Option<Fill> {
        if !self.slices.may_be_there(shard, range) {
            return None;
        }
        let part = match self.meta.part {
            Some(part) => Part { start: part.start + range.start, ..part },
            None => Part { start: range.start, total: self.slices.total },
        };
        let (primary_key, part_key, head) = match self.meta.part {
            Some(_) => (primary_key_of_parts(&self.slices.key), self.slices.key.clone(), self.head.clone()),
            None => {
                let part_key = [&*self.slices.key, key::PART_SUFFIX].concat();
                (&*self.slices.key, part_key.into(), part_head(&self.head).into())
            }
        };
        let key = range_key(primary_key, request)?;
        let writer = Body::writer(&shard.arena, Some(range.len()));
        let parts = Parts {
            hash: key::hash(&part_key),
            key: part_key,
            head,
            meta: StoredMeta { status: 206, part: Some(part), ..self.meta },
            body: Arc::clone(writer.body()),
            invalidation: self.invalidation,
            tags: self.tags.clone(),
            variant: None,
        };
        let fields: Vec<Field<'_>> = stored_fields(&self.head).collect();
        let retry = Retry::new(ask.head.clone(), ask.facts);
        let retry = retry.of_part(&fields, part.start, part.total);
        self.fill(shard, self.asked(key::hash(&key), &key), (parts, writer, retry), range)
    }

    fn asked<'k>(&self, selected: u128, key: &'k [u8]) -> Asked<'k> {
        Asked { primary: self.slices.primary, selected, key, wants: Wants::LeadOrFollow }
    }

    /// Begins a flight that those who ask from now on attach to.
    fn fill(
        &self,
        shard: &Rc<Shard>,
        asked: Asked<'_>,
        (parts, writer, retry): (Parts, BodyWriter, Option<Retry>),
        range: ByteRange,
    ) -> Option<Fill> {
        let id = shard.owner.collapse.borrow_mut().begin(asked)?;
        shard.owner.collapse.borrow_mut().sent(id, self.invalidation);
        let slices = Slices::new(shard, self.slices.clone(), range);
        let fill = fill::restored(shard, parts, writer, slices, (id, retry));
        // A rule may have come since it was written.
        match fill.filter(|fill| shard.holds(&fill.stored)) {
            Some(fill) => {
                self.settle(shard, id, &fill);
                Some(fill)
            }
            None => {
                shard.land(id);
                None
            }
        }
    }

    fn settle(&self, shard: &Shard, id: FlightId, fill: &Fill) {
        let names = self.variant.as_ref().map_or_else(Box::default, |variant| variant.names.clone());
        let (stored, view) = (Arc::clone(&fill.stored), Rc::clone(&fill.view));
        let arrived = Arrived { stored, fill: Some(view), validated: false, restored: true };
        // Nobody waits for this flight.
        shard
            .settle(id, Outcome::Kept { names, shared: Shared::WithAll }, Some(arrived), |_, _| Reply::Alone);
    }
}

/// Tells whether a request wants what is stored as it is: a GET without conditions, but for those of ranges.
pub(super) fn is_plain(request: &RequestHead<'_, '_>) -> bool {
    let conditional = ["if-none-match", "if-modified-since", "cache-control"];
    request.method == Method::Get && conditional.iter().all(|name| request.field(name).is_none())
}

/// The one range of `total` bytes that a plain request asks for; `None` if it asks for something else.
pub(super) fn plain_range(request: &RequestHead<'_, '_>, total: u64) -> Option<ByteRange> {
    let Selection::Parts(ranges) = range::select(request.fields, total) else { return None };
    let [wanted] = ranges.as_slice() else { return None };
    is_plain(request).then_some(*wanted)
}

/// Tells whether one who asks goes on where a part ends that he found in memory: what comes behind it will be asked for next.
fn reads_on(ask: &Ask, wanted: ByteRange) -> bool {
    ask.has.as_ref().is_some_and(|has| {
        has.meta.part.is_some_and(|part| {
            let end = part.start + has.body.published();
            part.start < wanted.start && wanted.start <= end && end < wanted.end
        })
    })
}
