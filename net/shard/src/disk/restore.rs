//! Bringing back what is on disk, at the owner of its key: before anybody fetches it, once for all who ask.
//!
//! `owner.rs` comes here with who found nothing in memory. While the record is read all who ask for the same key wait; then each is served
//! anew, from memory, from a fill that reads slices, or by a fetch as if there were no disk. What the record says decides:
//!
//! ```text
//! marker ───────▶ by what the URI varies is known: the variant is looked for
//! parts ────────▶ which parts are there is known: one that holds the range is looked for (R-3)
//! whole ─┬──────▶ into memory; a part, too
//!        └ in the page cache: stays there (`mapped.rs`)
//! being written ▶ as a fresh head: its slices are waited for where they are not there yet
//! head ─┬ stale ▶ the origin is asked whether it is still good: with all slices in memory, or where they do not fit or only ranges are wanted without
//!       └ fresh ▶ a fill for who wants all of it, and one for each range that is less than half: nothing else is read
//! nothing, damaged, another's, purged, or memory is short ▶ as if it had never been there
//! ```
//! Invariants: one read at a time for a key (C-1); what comes back is held against all rules that are newer than it (I-22, I-25), and against
//! its marker or the list that led to it; what was taken from the disk's index while it was read is not used; nothing on disk takes the place of something in memory.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::key::{self, PART_SUFFIX};
use aspis_cache::range::{self, ByteRange};
use aspis_exchange::{Conditions, Forward, JOIN_LEN_MAX};
use aspis_runtime::weight::Weight;
use aspis_storage::budget::Budget;
use aspis_storage::disk::format::{READ_LEN_MAX, SLICE_LEN};
use aspis_storage::disk::part_list::PartList;
use aspis_storage::disk::record::{Content, Front};
use aspis_storage::disk::stored::{is_large, parts, parts_of_part};
use aspis_storage::mapping::body::{Body, BodyState};
use aspis_storage::response::StoredResponse;
use aspis_telemetry::Counter;
use aspis_wire::FieldSlots;
use aspis_wire::request::{RequestHead, parse_request};

use super::ReadBody;
use super::large::{Judged, Large, is_plain, plain_range};
use super::mapped;
use super::markers::{LeadsTo, Marker, Markers, Variants};
use super::offering::Walk;
use super::slices::SlicesOf;
use super::streaming::Streaming;
use crate::asking::{Ask, Waiter};
use crate::fill::Fill;
use crate::limits::{MARKERS_MAX, RESTORES_PER_ASK, WAITERS_MAX};
use crate::shard::Shard;
use crate::storing::primary_key_of_parts;

// What is read as a beginning can be joined.
const _: () = assert!(SLICE_LEN <= JOIN_LEN_MAX);

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

/// What is read next: the record under the selected key, or a part, or the marker that says which of the URI's variants count or which parts are
/// there.
pub(crate) struct Target {
    /// The hash of the primary key.
    pub(super) primary: u128,
    /// What the record stands under.
    pub(super) hash: u128,
    pub(super) key: Box<[u8]>,
    /// Which part it is.
    pub(super) part: Option<ByteRange>,
}

/// What a record turned out to be.
enum Restored {
    /// By what the URI varies, or which parts of it are there, is known now.
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

    /// What one who found nothing in memory is to wait for: something of use that may be on disk.
    ///
    /// `selected` and its hash are what the request selects as far as that is known.
    pub(crate) fn may_be_on_disk(
        &self,
        ask: &Ask,
        request: &RequestHead<'_, '_>,
        selected: (u128, &[u8]),
    ) -> Option<Target> {
        let wants_more = ask.has.as_ref().is_none_or(|has| asks_for_more(has, request));
        if !wants_more || ask.restores >= RESTORES_PER_ASK || self.restores.waiting.get() >= WAITERS_MAX {
            return None;
        }
        let is_there = |target: &Target| {
            let may_be = self.has_on_disk(target.primary, target.hash)
                || self.streaming(target.hash, &target.key).is_some();
            let stranger = |restore: &Restore| restore.key != target.key;
            may_be && !self.restores.under_way.borrow().get(&target.hash).is_some_and(stranger)
        };
        let target = self.target(ask, request, selected).filter(is_there);
        if target.is_none() {
            self.counters.add(Counter::DiskMiss, 1);
        }
        target
    }

    /// Reads what may be on disk for one who asks; he waits with others for it.
    pub(crate) fn restore(&self, ask: Ask, waiter: Waiter, target: Target) {
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

    /// A variant is of use only with its marker, which is read first if it is not known, and a part with the list that it stands in; but not for what
    /// is being written just now. `None` if no part is of use.
    fn target(
        &self,
        ask: &Ask,
        request: &RequestHead<'_, '_>,
        (hash, selected): (u128, &[u8]),
    ) -> Option<Target> {
        let (primary, key) = &ask.key;
        let markers = self.restores.markers.borrow();
        let is_streaming = self.streaming(hash, selected).is_some();
        if let Some(list) = markers.parts(*primary, key).filter(|_| hash == *primary && !is_streaming) {
            let range = wanted_part(list, ask, request, self.ring.wall_seconds())?;
            let key = [key, PART_SUFFIX].concat();
            let hash = list.hash_of(key::hash(&key), range);
            return Some(Target { primary: *primary, hash, key: key.into(), part: Some(range) });
        }
        let is_known = hash == *primary || is_streaming || markers.variants(*primary, key).is_some();
        let (hash, key) = if is_known { (hash, selected) } else { (*primary, &**key) };
        Some(Target { primary: *primary, hash, key: key.into(), part: None })
    }

    /// Tells whether a part on disk still counts: the list that led to it does.
    fn counts_as_part(&self, target: &Target, range: ByteRange) -> bool {
        let markers = self.restores.markers.borrow();
        let list = markers.parts(target.primary, primary_key_of_parts(&target.key));
        list.is_some_and(|list| list.has(range) && list.hash_of(key::hash(&target.key), range) == target.hash)
    }

    /// Tells whether a variant on disk counts, as far as is known now.
    pub(super) fn counts_on_disk(&self, front: &Front<'_>, primary: u128) -> bool {
        let (Content::Whole(facts) | Content::Head { facts, .. }) = &front.content else { return false };
        facts.variant.is_none_or(|variant| {
            let markers = self.restores.markers.borrow();
            let marker = front.key.get(..variant.primary_len).and_then(|key| markers.variants(primary, key));
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

/// Which part on disk is of use to a request: one that holds the range it asks for (R-3), or for one who asks for the whole and has nothing of it a
/// beginning that the rest can be joined to (rule 14 of the RFC 9111 profile).
fn wanted_part(list: &PartList, ask: &Ask, request: &RequestHead<'_, '_>, now: u64) -> Option<ByteRange> {
    if request.field("range").is_none() {
        // One that lies in slices is read for ranges only.
        return list.beginning(SLICE_LEN, now).filter(|_| ask.has.is_none() && is_plain(request));
    }
    list.holding(plain_range(request, list.total())?, now)
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
    if target.part.is_none() && mapped::restore(shard, target).await {
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
    let note = |leads_to| {
        let marker = Marker { key: target.key.clone(), leads_to };
        shard.restores.markers.borrow_mut().note(target.primary, marker);
        Some(Restored::Marker)
    };
    match front.content {
        Content::Whole(_) | Content::Head { .. } if let Some(range) = target.part => {
            part(shard, &front, (target, range), body)
        }
        Content::Marker { names, valid_from } if target.hash == target.primary => {
            note(LeadsTo::Variants(Variants { names: names.into(), valid_from }))
        }
        Content::Parts { list } if target.hash == target.primary => {
            note(LeadsTo::Parts(PartList::decode(list)?))
        }
        Content::Whole(_) if shard.counts_on_disk(&front, target.primary) => {
            let body = into_memory(shard, body)?;
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

/// What becomes of a part: it is taken into memory, or a large one waits for who wants what of it.
fn part(
    shard: &Rc<Shard>,
    front: &Front<'_>,
    (target, range): (&Target, ByteRange),
    body: ReadBody,
) -> Option<Restored> {
    if !shard.counts_as_part(target, range) {
        return None;
    }
    // Without what leads to it, it would not be found when it is wanted next.
    shard.disk.as_ref()?.used(target.primary, target.primary);
    let hash = key::hash(&target.key);
    if let Content::Head { total, write_id, .. } = front.content {
        drop(body);
        let slices = SlicesOf { primary: target.primary, hash, key: target.key.clone(), write_id, total };
        let large = Large::of_part(shard, front, range, slices)?;
        return (large.judge(shard) == Judged::Fresh).then(|| Restored::Large(Box::new(large)));
    }
    let body = into_memory(shard, body)?;
    let stored = shard.stored_response(parts_of_part(front, range, (hash, &target.key), &body)?)?;
    // To make room may have brought about anything but a wait.
    let is_of_use = shard.is_in_time(&stored) && shard.counts_as_part(target, range);
    (is_of_use && shard.take_back(&stored)).then_some(Restored::Stored)
}

/// A body in memory of what was read; `None` without memory.
fn into_memory(shard: &Shard, body: ReadBody) -> Option<Arc<Body>> {
    body.into_body(&shard.arena).or_else(|body| copied(shard, body.bytes()).ok_or(())).ok()
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
