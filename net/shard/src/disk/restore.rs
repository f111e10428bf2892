//! Bringing back what is on disk, at the owner of its key: before anybody fetches it, once for all who ask.
//!
//! `owner.rs` comes here with who found nothing in memory. While the record is read all who ask for the same key wait; then each is served
//! anew, from memory, from a fill that reads slices, or by a fetch as if there were no disk. What the record says decides:
//!
//! ```text
//! marker ───────▶ by what the URI varies is known: the variant is looked for
//! whole ─┬──────▶ into memory
//!        └ in the page cache: stays there (`mapped.rs`)
//! being written ▶ as a fresh head: its slices are waited for where they are not there yet
//! head ─┬ stale ▶ the origin is asked whether it is still good: with all slices in memory, or where they do not fit or only ranges are wanted without
//!       └ fresh ▶ a fill for who wants all of it, and one for each range that is less than half: nothing else is read
//! nothing, damaged, another's, purged, or memory is short ▶ as if it had never been there
//! ```
//! Invariants: one read at a time for a key (C-1); what comes back is held against all rules that are newer than it (I-22, I-25), and against
//! its marker; what was taken from the disk's index while it was read is not used; nothing on disk takes the place of something in memory.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::range;
use aspis_exchange::{Conditions, Forward};
use aspis_runtime::weight::Weight;
use aspis_storage::budget::Budget;
use aspis_storage::disk::format::READ_LEN_MAX;
use aspis_storage::disk::record::{Content, Front};
use aspis_storage::disk::stored::{is_large, parts};
use aspis_storage::mapping::body::{Body, BodyState};
use aspis_storage::response::StoredResponse;
use aspis_telemetry::Counter;
use aspis_wire::FieldSlots;
use aspis_wire::request::{RequestHead, parse_request};

use super::large::{Judged, Large};
use super::mapped;
use super::markers::{Marker, Markers};
use super::offering::Walk;
use super::slices::SlicesOf;
use super::streaming::Streaming;
use crate::asking::{Ask, Waiter};
use crate::fill::Fill;
use crate::limits::{MARKERS_MAX, RESTORES_PER_ASK, WAITERS_MAX};
use crate::shard::Shard;

/// What comes from disk for the keys of this core.
pub(crate) struct Restores {
    /// By the hash of what is read.
    under_way: RefCell<HashMap<u128, Restore>>,
    waiting: Cell<usize>,
    pub(crate) markers: RefCell<Markers>,
    pub(super) walk: Walk,
    /// What goes to disk as it comes, by the hash of its key.
    pub(super) streams: RefCell<HashMap<u128, Rc<Streaming>>>,
}

struct Restore {
    key: Box<[u8]>,
    waiting: Vec<Waits>,
    /// What is read was taken from the disk's index, or replaced there, since the read began.
    is_outdated: bool,
}

/// One who waits for a read.
pub(super) struct Waits {
    pub(super) ask: Ask,
    waiter: Waiter,
    _weight: Weight,
}

/// What is read next: the record under the selected key, or the marker that says which of the URI's variants count.
pub(super) struct Target {
    /// The hash of the primary key.
    pub(super) primary: u128,
    pub(super) hash: u128,
    pub(super) key: Box<[u8]>,
}

/// What a record turned out to be.
enum Restored {
    /// By what the URI varies is known now.
    Marker,
    /// It is in memory.
    Stored,
    /// It is stale, and its content stays on disk while the origin is asked whether it is still good.
    Unread(Arc<StoredResponse>),
    /// Its content lies in slices that nobody has read yet.
    Large(Box<Large>),
}

impl Restores {
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Restores {
            under_way: RefCell::default(),
            waiting: Cell::new(0),
            markers: RefCell::new(Markers::new(MARKERS_MAX, budget)),
            walk: Walk::default(),
            streams: RefCell::default(),
        }
    }

    /// What lies on disk under a hash is of no use any more, be it that it is read just now.
    pub(crate) fn outdate(&self, hash: u128) {
        if let Some(restore) = self.under_way.borrow_mut().get_mut(&hash) {
            restore.is_outdated = true;
        }
    }

    /// Tells whether nobody who waits wants more of it than a range.
    fn all_want_ranges(&self, shard: &Shard, large: &Large, hash: u128) -> bool {
        let wants_range = |waits: &Waits| {
            let mut slots = FieldSlots::new();
            let request = parse_request(&waits.ask.head, &mut slots, &shard.head_limits);
            request.is_ok_and(|request| request.is_some_and(|request| large.part_for(&request).is_some()))
        };
        self.under_way.borrow().get(&hash).is_some_and(|restore| restore.waiting.iter().all(wants_range))
    }

    pub(super) fn is_outdated(&self, hash: u128) -> bool {
        self.under_way.borrow().get(&hash).is_some_and(|restore| restore.is_outdated)
    }
}

impl Shard {
    /// Tells whether something seems to lie on disk under a hash; memory alone is asked.
    pub(crate) fn has_on_disk(&self, primary: u128, hash: u128) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.may_hold(primary, hash))
    }

    /// Tells whether one who found nothing in memory is to wait for the disk: whether something of use may be there.
    ///
    /// `selected` and its hash are what the request selects as far as that is known.
    pub(crate) fn may_be_on_disk(
        &self,
        ask: &Ask,
        request: &RequestHead<'_, '_>,
        selected: (u128, &[u8]),
    ) -> bool {
        let wants_more = ask.has.as_ref().is_none_or(|has| asks_for_more(has, request));
        if !wants_more || ask.restores >= RESTORES_PER_ASK || self.restores.waiting.get() >= WAITERS_MAX {
            return false;
        }
        let target = self.target(&ask.key, selected);
        let stranger = |restore: &Restore| restore.key != target.key;
        let may_be = self.has_on_disk(target.primary, target.hash)
            || self.streaming(target.hash, &target.key).is_some();
        let is_there = may_be && !self.restores.under_way.borrow().get(&target.hash).is_some_and(stranger);
        if !is_there {
            self.counters.add(Counter::DiskMiss, 1);
        }
        is_there
    }

    /// Reads what may be on disk for one who asks; he waits with others for it.
    pub(crate) fn restore(&self, ask: Ask, waiter: Waiter, selected: (u128, &[u8])) {
        let target = self.target(&ask.key, selected);
        let weight = self.account.requests.weigh(ask.head.len() + ask.key.1.len() + size_of::<Waits>());
        let waits = Waits { ask, waiter, _weight: weight };
        self.restores.waiting.set(self.restores.waiting.get() + 1);
        let mut under_way = self.restores.under_way.borrow_mut();
        if let Some(restore) = under_way.get_mut(&target.hash) {
            return restore.waiting.push(waits);
        }
        under_way.insert(
            target.hash,
            Restore { key: target.key.clone(), waiting: vec![waits], is_outdated: false },
        );
        self.ring.spawn(run(self.handle(), target));
    }

    /// A variant is of use only with its marker, which is read first if it is not known; but not for what is being written just now.
    fn target(&self, (primary, key): &(u128, Box<[u8]>), (hash, selected): (u128, &[u8])) -> Target {
        let is_known = hash == *primary
            || self.streaming(hash, selected).is_some()
            || self.restores.markers.borrow().find(*primary, key).is_some();
        let (hash, key) = if is_known { (hash, selected) } else { (*primary, &**key) };
        Target { primary: *primary, hash, key: key.into() }
    }

    /// Tells whether a variant on disk counts, as far as is known now.
    pub(super) fn counts_on_disk(&self, front: &Front<'_>, primary: u128) -> bool {
        let (Content::Whole(facts) | Content::Head { facts, .. }) = &front.content else { return false };
        facts.variant.is_none_or(|variant| {
            let markers = self.restores.markers.borrow();
            let marker = front.key.get(..variant.primary_len).and_then(|key| markers.find(primary, key));
            marker.is_some_and(|marker| marker.covers(variant.names, front.lsn))
        })
    }

    /// Takes what came from disk into memory. What a rule took, or something in memory is in place of, is gone.
    pub(super) fn take_back(&self, stored: &Arc<StoredResponse>) -> bool {
        stored.set_on_disk(true);
        let is_taken = self.is_wanted(stored) && self.insert(stored).is_ok();
        if !is_taken {
            stored.mark_gone();
        }
        is_taken
    }
}

/// Whether a request that has seen this wants more than it: the whole of a part, or another range.
fn asks_for_more(has: &StoredResponse, request: &RequestHead<'_, '_>) -> bool {
    let Some(part) = has.meta.part.filter(|_| has.is_live()) else { return !has.is_live() };
    let wanted = range::span(request.fields, part.total);
    wanted.start < part.start || wanted.end > part.start + has.body.published()
}

/// Reads a record and serves all who waited for it.
async fn run(shard: Rc<Shard>, target: Target) {
    let restored = read(&shard, &target).await;
    // Only a marker leads to something else on disk.
    let restores = if matches!(restored, Some(Restored::Marker)) { 1 } else { RESTORES_PER_ASK };
    match &restored {
        Some(Restored::Marker) => {}
        Some(Restored::Stored | Restored::Large(_) | Restored::Unread(_)) => {
            shard.counters.add(Counter::DiskHit, 1)
        }
        None => shard.counters.add(Counter::DiskMiss, 1),
    }
    let restore = shard.restores.under_way.borrow_mut().remove(&target.hash);
    let waiting = restore.map_or_else(Vec::new, |restore| restore.waiting);
    shard.restores.waiting.set(shard.restores.waiting.get() - waiting.len());
    let fills = match &restored {
        Some(Restored::Large(large)) => large.fills(&shard, &waiting),
        _ => Vec::new(),
    };
    for Waits { ask, waiter, .. } in waiting {
        let ask = Ask { restores: ask.restores + restores, ..ask };
        shard.asked(
            if let Some(Restored::Unread(stored)) = &restored { validating(ask, stored) } else { ask },
            waiter,
        );
    }
    // Who waited reads them now; one without readers ends at once.
    fills.into_iter().for_each(Fill::start);
}

/// What one asks who waited for something that is stale on disk: the origin is to confirm it.
fn validating(ask: Ask, stored: &Arc<StoredResponse>) -> Ask {
    let forward = Forward { conditions: Conditions::Stored, ..ask.forward };
    Ask { has: Some(Arc::clone(stored)), forward, ..ask }
}

/// Reads the record; `None` if there is nothing of use.
async fn read(shard: &Rc<Shard>, target: &Target) -> Option<Restored> {
    let disk = shard.disk.as_ref()?;
    if let Some(streaming) = shard.streaming(target.hash, &target.key) {
        let large = Large::of_streaming(&streaming)?;
        return (large.judge(shard) == Judged::Fresh).then(|| Restored::Large(Box::new(large)));
    }
    if mapped::restore(shard, target).await {
        return Some(Restored::Stored);
    }
    shard.make_room(READ_LEN_MAX);
    let block = |len| shard.block(len);
    let (read, body) = disk.read(target.primary, target.hash, Some(&block)).await?;
    if shard.restores.is_outdated(target.hash) {
        return None;
    }
    let front = read.front();
    if *front.key != *target.key {
        disk.note_other();
        return None;
    }
    match front.content {
        Content::Marker { names, valid_from } if target.hash == target.primary => {
            let marker = Marker { key: target.key.clone(), names: names.into(), valid_from };
            shard.restores.markers.borrow_mut().note(target.primary, marker);
            Some(Restored::Marker)
        }
        Content::Whole(_) if shard.counts_on_disk(&front, target.primary) => {
            let body =
                body.into_body(&shard.arena).or_else(|body| copied(shard, body.bytes()).ok_or(())).ok()?;
            taken_back(shard, &front, target, &body)
        }
        Content::Head { total, write_id, .. }
            if is_large(total) && shard.counts_on_disk(&front, target.primary) =>
        {
            // Its buffer is for others while slices are read.
            drop(body);
            let slices = SlicesOf {
                primary: target.primary,
                hash: target.hash,
                key: target.key.clone(),
                write_id,
                total,
            };
            large(shard, &front, target, slices).await
        }
        _ => None,
    }
}

/// A body of these bytes in the arena; `None` without memory.
fn copied(shard: &Shard, bytes: &[u8]) -> Option<Arc<Body>> {
    let mut writer = Body::writer(&shard.arena, Some(bytes.len() as u64));
    shard.counters.add(Counter::DiskCopiedBytes, bytes.len() as u64);
    if !shard.copy_bytes(&mut writer, bytes) {
        return None;
    }
    let body = Arc::clone(writer.body());
    (writer.complete() == BodyState::Complete).then_some(body)
}

fn taken_back(shard: &Shard, front: &Front<'_>, target: &Target, body: &Arc<Body>) -> Option<Restored> {
    let parts = parts(front, target.primary, (target.hash, &target.key), body)?;
    let stored = shard.stored_response(parts)?;
    shard.take_back(&stored).then_some(Restored::Stored)
}

/// What becomes of a head: a fresh one waits for who wants what of it.
async fn large(shard: &Rc<Shard>, front: &Front<'_>, target: &Target, slices: SlicesOf) -> Option<Restored> {
    let large = Large::of(shard, front, slices)?;
    match large.judge(shard) {
        Judged::Purged => None,
        Judged::Fresh => Some(Restored::Large(Box::new(large))),
        Judged::Stale => {
            let is_for_ranges = shard.restores.all_want_ranges(shard, &large, target.hash);
            // R-11: the origin may confirm it without any of its content.
            if is_for_ranges || !large.fits(shard) {
                return large.unread(shard).map(Restored::Unread);
            }
            // It may be served as it is in place of an error: then all of it is needed at once.
            let body = large.read_all(shard).await?;
            let is_current = !shard.restores.is_outdated(target.hash);
            let counts = is_current && shard.counts_on_disk(front, target.primary);
            if counts { taken_back(shard, front, target, &body) } else { None }
        }
    }
}
