//! What goes from memory to disk, and what must not come back from there.
//!
//! `storing.rs` tells what was stored, confirmed or found out of date, `alone.rs` what an unsafe request made of a URI, and the evictions of
//! `shard.rs` what leaves memory; `writing.rs` has each offer append its records, one in a step. Invariants: what was replaced in memory, or
//! forgotten, is not found on disk afterwards, whether or not what took its place is written; slices and a variant's marker come before the
//! record that leads to them; a part is found by the list under its URI's primary key alone, which is written behind it, and not while something
//! better is there; what came from disk and lies there is not written.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use aspis_cache::stored::Part;
use aspis_storage::disk::format::SLICE_LEN;
use aspis_storage::disk::index::SlotKind;
use aspis_storage::disk::part_list::PartList;
use aspis_storage::disk::record::NewRecord;
use aspis_storage::disk::stored::{
    head_record, is_large, is_of_use, marker_record, part_list_record, pieces, slice_count, slice_hash,
    slice_record, whole_record,
};
use aspis_storage::disk::volume::{Location, Refused, Volume};
use aspis_storage::mapping::body::Body;
use aspis_storage::response::{StoredResponse, VariantOf};

use super::markers::{LeadsTo, Marker, Variants};
use super::{Disk, Offer, Step};
use crate::limits::{KEEP_WARM_INTERVAL, KEPT_WARM_PER_TURN};
use crate::shard::Shard;
use crate::storing::{primary_key_of_parts, primary_of};

/// Why a response is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was taken into memory, in the place of one that was used or of none.
    Stored { used_before: bool },
    /// The origin confirmed it: what lies on disk has the same content, and is stale no later.
    Freshened,
    /// It leaves memory, and was used there.
    Evicted,
}

impl Why {
    fn used_before(self) -> bool {
        self != Why::Stored { used_before: false }
    }

    /// Whether what lies on disk before may stay if this is not written. Nothing does of what was stored in the place of another.
    fn spares_older(self) -> bool {
        matches!(self, Why::Freshened | Why::Evicted)
    }
}

/// A walk through memory for what the disk should know.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) is_on: Cell<bool>,
    /// The next begins no sooner, in the ring's milliseconds.
    next_at: Cell<u64>,
}

/// A stored response on its way to disk.
struct StoredOffer {
    shard: Weak<Shard>,
    stored: Arc<StoredResponse>,
    /// Its content.
    body: Arc<Body>,
    primary: u128,
    why: Why,
    len: u64,
    /// The slices that were written, and under which number.
    slices: Option<(u64, u64)>,
    /// For a part: a number that no list of its URI and no slices have.
    number: Option<u64>,
    /// The part was appended under this hash, the list that leads to it not yet.
    part: Option<u128>,
}

impl Offer for StoredOffer {
    fn primary(&self) -> u128 {
        self.primary
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn concerns(&self, hash: u128) -> bool {
        hash == self.stored.hash || hash == self.primary
    }

    fn step(&mut self, volume: &mut Volume, now: u32) -> Result<Step, Refused> {
        let (stored, content) = (&*self.stored, &*self.body);
        let len = content.published();
        if stored.meta.part.is_some() {
            // Until all is known what its list would take the place of may be something better.
            if !volume.is_recovered() {
                return Err(Refused::NotReady);
            }
            if stored.fresh_until() <= now.into()
                || !self.shard.upgrade().is_some_and(|shard| shard.takes_parts(stored, volume))
            {
                return Ok(Step::Done(0));
            }
        }
        if is_large(len) {
            let (write_id, written) = match self.slices {
                Some(slices) => slices,
                None => first_slice(stored, volume, self.number),
            };
            if written < slice_count(len) {
                let start = written * SLICE_LEN;
                let end = len.min(start + SLICE_LEN);
                let body = pieces(content, start..end);
                // A body has fewer slices than 2^32: it would be 4 PiB.
                let number = u32::try_from(written).map_err(|_| Refused::TooLarge)?;
                volume.append(&slice_record(stored, (write_id, number), &body, now), now)?;
                self.slices = Some((write_id, written + 1));
                return Ok(Step::More(end - start));
            }
            content.set_write_id(write_id);
            self.slices = Some((write_id, written));
        }
        if let (Some(variant), Some(shard)) = (&stored.variant, self.shard.upgrade()) {
            mark(&shard, stored, variant, volume, now)?;
        }
        let pieces = if self.slices.is_none() { pieces(content, 0..len) } else { Vec::new() };
        let record = match self.slices {
            Some((write_id, _)) => head_record(stored, (write_id, len), now),
            None => whole_record(stored, &pieces, now),
        };
        match (stored.meta.part, self.number, self.shard.upgrade()) {
            (Some(part), Some(number), Some(shard)) => {
                append_part(&shard, (stored, part), (number, record), volume, &mut self.part)?;
            }
            _ => drop(volume.append(&record, now)?),
        }
        Ok(Step::Done(len))
    }

    fn give_up(&mut self) {
        self.stored.set_on_disk(false);
        let Some(shard) = self.shard.upgrade() else { return };
        match self.stored.meta.part {
            Some(part) => shard.forget_other_parts(&self.stored, part, self.primary),
            None if self.why.spares_older() => {}
            None => shard.forget_on_disk(&self.stored),
        }
    }
}

/// What an offer of a response takes of its line.
pub(super) fn offered_len(stored: &StoredResponse) -> u64 {
    // With its slices there, most likely, a large one is a head.
    let has_slices = stored.body.write_id().is_some();
    stored.charged_len() - if has_slices { stored.body.charged_len() } else { 0 }
}

/// Where what a start would find of a response is, if all of it is there or on its way.
pub(super) fn location(shard: &Shard, stored: &StoredResponse, volume: &Volume) -> Option<Location> {
    let len = stored.body.published();
    let hash = shard.hash_on_disk(stored, volume)?;
    let found = volume.find(hash).filter(|_| stored.is_on_disk())?;
    let is_whole = stored.meta.part.is_some()
        || !is_large(len)
        || first_slice(stored, volume, None).1 == slice_count(len);
    is_whole.then_some(found.location)
}

/// Appends the record of a part and the list that leads to it; `appended` is under which hash that was done before the list found no room.
fn append_part(
    shard: &Shard,
    (stored, part): (&StoredResponse, Part),
    (number, record): (u64, NewRecord<'_>),
    volume: &mut Volume,
    appended: &mut Option<u128>,
) -> Result<(), Refused> {
    let (primary, key, now) = (primary_of(stored), primary_key_of_parts(&stored.key), record.created);
    let mut markers = shard.restores.markers.borrow_mut();
    let known = markers.parts(primary, key).filter(|list| list.takes(stored, part));
    let mut list = known.cloned().unwrap_or_else(|| PartList::new(number, stored, part));
    let hash = list.hash_of(stored.hash, stored.range(part));
    if *appended != Some(hash) {
        volume.append(&NewRecord { hash, ..record }, now)?;
        *appended = Some(hash);
    }
    list.note(stored, part, now.into());
    let encoded = list.encode();
    volume.append(&part_list_record(stored, (primary, key), (&list, &encoded), now), now)?;
    markers.note(primary, Marker { key: key.into(), leads_to: LeadsTo::Parts(list) });
    Ok(())
}

/// Where writing the slices of a body begins: behind the last if all are there from an earlier time, else with the first under a new number.
fn first_slice(stored: &StoredResponse, volume: &Volume, number: Option<u64>) -> (u64, u64) {
    let count = slice_count(stored.body.published());
    let is_there = |write_id, number: u64| {
        let number = u32::try_from(number).ok();
        number.is_some_and(|number| volume.find(slice_hash(stored.hash, write_id, number)).is_some())
    };
    match stored.body.write_id() {
        Some(write_id) if (0..count).all(|number| is_there(write_id, number)) => (write_id, count),
        _ => (number.unwrap_or_else(|| volume.next_lsn()), 0),
    }
}

/// Writes the marker with which a variant counts, unless it is there.
pub(super) fn mark(
    shard: &Shard,
    stored: &StoredResponse,
    variant: &VariantOf,
    volume: &mut Volume,
    now: u32,
) -> Result<(), Refused> {
    let key = &stored.key[..variant.primary_len];
    let mut markers = shard.restores.markers.borrow_mut();
    let known = markers.variants(variant.primary, key).filter(|marker| marker.names == variant.names);
    let valid_from = match known {
        Some(_) if volume.find(variant.primary).is_some() => return Ok(()),
        Some(marker) => marker.valid_from,
        // Nothing is known of what was written before: it does not count.
        None => volume.next_lsn(),
    };
    volume.append(&marker_record(stored, variant, valid_from, now), now)?;
    let variants = Variants { names: variant.names.clone(), valid_from };
    markers.note(variant.primary, Marker { key: key.into(), leads_to: LeadsTo::Variants(variants) });
    Ok(())
}

impl Shard {
    /// Offers what was just taken into memory to the disk. What is not written ends what was there before.
    pub(crate) fn offer(&self, stored: &Arc<StoredResponse>, why: Why) {
        let Some(disk) = &self.disk else { return };
        let primary = primary_of(stored);
        if stored.meta.part.is_none() {
            self.restores.outdate(stored.hash);
            if stored.variant.is_none() {
                self.restores.markers.borrow_mut().forget(primary);
                // Parts are of what was before, whether or not this is written.
                if disk.stands(primary) == Some(SlotKind::Marker) {
                    self.forget_uri_on_disk(primary);
                }
            }
        }
        if !stored.is_on_disk() && !self.is_streaming(stored) {
            self.offer_to_disk(Arc::clone(stored), primary, why);
        }
    }

    pub(super) fn offer_to_disk(&self, stored: Arc<StoredResponse>, primary: u128, why: Why) {
        // What is mapped came from there.
        let (Some(disk), Some(body)) = (&self.disk, stored.body.in_memory().map(Arc::clone)) else { return };
        let number = match stored.meta.part {
            Some(part) if !self.clears_way_for(&stored, part, primary) => return,
            Some(_) => disk.new_write_id(primary),
            None => None,
        };
        stored.set_on_disk(true);
        let shard = Rc::downgrade(&self.handle());
        let len = offered_len(&stored);
        let offer = StoredOffer { shard, stored, body, primary, why, len, slices: None, number, part: None };
        // It is told where it is not taken.
        let _ = disk.offer(Box::new(offer), why.used_before());
    }

    /// Takes care that nothing of another representation than a part's comes back from disk; false where the part is not to be written: it is stale,
    /// memory has all of the response, or no other part could stand beside it.
    fn clears_way_for(&self, stored: &StoredResponse, part: Part, primary: u128) -> bool {
        let key = primary_key_of_parts(&stored.key);
        if stored.fresh_until() <= self.ring.wall_seconds() || self.store.borrow().has(primary, key) {
            return false;
        }
        if self.disk.as_ref().and_then(|disk| disk.stands(primary)) == Some(SlotKind::Marker)
            && !self.knows_beside(stored, part, primary)
        {
            self.forget_uri_on_disk(primary);
        }
        PartList::is_strong(stored)
    }

    /// A part is not written: nothing of another representation comes back from disk in its place.
    fn forget_other_parts(&self, stored: &StoredResponse, part: Part, primary: u128) {
        let Some(disk) = &self.disk else { return };
        let may_be_there =
            disk.stands(primary) == Some(SlotKind::Marker) || disk.is_in_line(primary, stored.hash);
        if may_be_there && !self.knows_beside(stored, part, primary) {
            self.forget_uri_on_disk(primary);
        }
    }

    /// Tells whether what is known to stand under the primary key of a part may stay: a list of parts of the same representation, or a marker.
    fn knows_beside(&self, stored: &StoredResponse, part: Part, primary: u128) -> bool {
        let key = primary_key_of_parts(&stored.key);
        let markers = self.restores.markers.borrow();
        markers.variants(primary, key).is_some()
            || markers.parts(primary, key).is_some_and(|list| list.takes(stored, part))
    }

    /// Tells whether parts of a response may be listed under its primary key: nothing better stands there.
    fn takes_parts(&self, stored: &StoredResponse, volume: &Volume) -> bool {
        let (primary, key) = (primary_of(stored), primary_key_of_parts(&stored.key));
        let varies = self.restores.markers.borrow().variants(primary, key).is_some();
        !varies && volume.find(primary).is_none_or(|found| found.kind == SlotKind::Marker)
    }

    /// Under which hash a response lies on disk, if it does; of a part that of one which holds it, or of all of the response.
    pub(super) fn hash_on_disk(&self, stored: &StoredResponse, volume: &Volume) -> Option<u128> {
        let Some(part) = stored.meta.part else { return Some(stored.hash) };
        let (primary, key) = (primary_of(stored), primary_key_of_parts(&stored.key));
        if volume.find(primary)?.kind != SlotKind::Marker {
            return Some(primary);
        }
        let markers = self.restores.markers.borrow();
        let list = markers.parts(primary, key).filter(|list| list.takes(stored, part))?;
        let holding = list.holding(stored.range(part), self.ring.wall_seconds())?;
        Some(list.hash_of(stored.hash, holding))
    }

    /// Takes care that a response does not come back from disk, nor what it took the place of.
    pub(crate) fn forget_on_disk(&self, stored: &StoredResponse) {
        let Some(disk) = &self.disk else { return };
        let primary = primary_of(stored);
        if stored.meta.part.is_some() {
            // With it all parts go, that is the list.
            if disk.with_volume(primary, |volume| self.takes_parts(stored, volume)) == Some(true) {
                self.forget_uri_on_disk(primary);
            }
            return;
        }
        self.restores.outdate(stored.hash);
        disk.remove(primary, stored.hash);
        let is_marked = |variant: &VariantOf| {
            let markers = self.restores.markers.borrow();
            let marker = markers.variants(primary, &stored.key[..variant.primary_len]);
            marker.is_some_and(|marker| marker.names == variant.names)
        };
        if stored.variant.as_ref().is_some_and(|variant| !is_marked(variant)) {
            self.forget_uri_on_disk(primary);
        }
    }

    /// The same for all that is stored under a primary key: without its marker no variant counts.
    pub(crate) fn forget_uri_on_disk(&self, primary: u128) {
        if let Some(disk) = &self.disk {
            self.restores.outdate(primary);
            self.restores.markers.borrow_mut().forget(primary);
            disk.remove(primary, primary);
        }
    }

    /// Offers what memory let go of; in the step in which it did, so that nothing newer comes before it.
    pub(crate) fn offer_evicted(&self) {
        if self.disk.is_none() {
            return;
        }
        let evicted = self.store.borrow_mut().take_evicted();
        for stored in evicted.into_iter().filter(|stored| self.holds(stored)) {
            let primary = primary_of(&stored);
            self.offer_to_disk(stored, primary, Why::Evicted);
        }
    }

    /// Begins to look through memory for what the disk should know, unless that is under way or was done lately. From the timer.
    pub(crate) fn tend_disk(&self) {
        let (now, walk) = (self.ring.now_millis(), &self.restores.walk);
        let is_due = !walk.is_on.get() && now >= walk.next_at.get();
        if self.disk.as_ref().is_some_and(|disk| is_due && !disk.is_ending()) {
            walk.is_on.set(true);
            walk.next_at.set(now + KEEP_WARM_INTERVAL.as_millis() as u64);
        }
    }

    /// Goes on with that, a bounded number of responses in a turn; true while there is more to do.
    ///
    /// What is used in memory is never read from disk, so nothing else tells its segment's reclaim that it is to stay. And what was not
    /// taken when it was stored, but was used since, would be lost with the process.
    pub(crate) fn keep_warm(&self) -> bool {
        let walk = &self.restores.walk;
        let Some(disk) = self.disk.as_ref().filter(|_| walk.is_on.get()) else { return false };
        let (mut unwritten, now) = (Vec::new(), self.ring.wall_seconds());
        let is_through = self.store.borrow_mut().walk(KEPT_WARM_PER_TURN, &mut |stored| {
            if !stored.was_used() {
                return;
            }
            let primary = primary_of(stored);
            let is_there = match stored.meta.part {
                None => disk.used(primary, stored.hash),
                Some(_) => self.used_part(disk, stored, primary) || !is_of_use(stored, now),
            };
            // What waits in line is not there yet.
            let is_safe = is_there || stored.is_on_disk() && disk.is_in_line(primary, stored.hash);
            if !is_safe {
                unwritten.push(Arc::clone(stored));
            }
        });
        for stored in unwritten {
            let primary = primary_of(&stored);
            self.offer_to_disk(stored, primary, Why::Evicted);
        }
        walk.is_on.set(!is_through);
        !is_through
    }

    /// Notes that a part was used that is in memory as well, and with it what leads to it; tells whether it is on disk, as far as is known.
    fn used_part(&self, disk: &Disk, stored: &StoredResponse, primary: u128) -> bool {
        let is_led_to = disk.used(primary, primary);
        let Some(hash) = disk.with_volume(primary, |volume| self.hash_on_disk(stored, volume)).flatten()
        else {
            // Its list is not remembered: it was written, and would be alone in a new one.
            return is_led_to && stored.is_on_disk();
        };
        disk.used(primary, hash)
    }
}
