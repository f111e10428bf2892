//! Serving from the page cache: a response whose pages are in memory anyway is sent from the mapping of its volume instead of being copied.
//!
//! `restore.rs` comes here before it reads a record. What is asked for again is brought into the page cache by the kernel ([`Disk::read_ahead`], on a worker);
//! once it is there, it is copied out of the page cache, verified like any record, and taken into the tier with a body that only the kernel reads. Each hit asks
//! whether the pages are still there.
//!
//! ```text
//! asked for ─┬ pages in memory ─▶ copied, verified ─▶ stored response with a mapped body, sent until a page is gone
//!            └ not ─▶ read past the page cache into memory, as ever; asked for again: the kernel reads it ahead for the next time
//! ```
//! Invariants: no core touches a mapped page or waits for one knowingly; what is mapped is fresh, since only what is in memory is validated; what is
//! mapped at once is bounded; a page that cannot be read ends a connection and nothing else.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use aspis_runtime::DiskFile;
use aspis_runtime::page_cache::{expect_random, file_len, is_resident, read_resident};
use aspis_storage::budget::{Budget, Charge, Purpose};
use aspis_storage::disk::format::{Geometry, READ_LEN_MAX};
use aspis_storage::disk::index::SlotKind;
use aspis_storage::disk::record::{Content, Place, Record};
use aspis_storage::disk::stored::parts;
use aspis_storage::disk::volume::Found;
use aspis_storage::mapping::aligned::AlignedBuf;
use aspis_storage::mapping::body::Body;
use aspis_storage::mapping::gates::Gates;
use aspis_storage::mapping::mapped::{MappedBody, VolumeMap};
use aspis_storage::response::StoredResponse;
use aspis_storage::stored_body::StoredBody;
use aspis_telemetry::Counter;

use super::reading::{LONG, verified};
use super::restore::Target;
use super::{Disk, IoFailed, Mounted};
use crate::limits::{
    INLINE_BODY_LEN_MAX, MAPPED_LEN_MIN, MAPPED_LOOKED_AT, READ_AHEAD_LEN_MAX, READ_AHEAD_PAUSE,
};
use crate::shard::Shard;

// A body that short is copied into its answer.
const _: () = assert!(MAPPED_LEN_MIN > INLINE_BODY_LEN_MAX);

/// The mapping of one volume, and its file open through the page cache.
pub(super) struct Mapping {
    pub(super) map: Arc<VolumeMap>,
    file: DiskFile,
}

impl Mapping {
    /// Maps a volume's file.
    pub(super) fn new(file: OwnedFd, geometry: Geometry, budget: &Arc<Budget>) -> io::Result<Self> {
        expect_random(file.as_fd());
        let ahead = DiskFile::new(file.try_clone()?);
        let gates = Gates::new(geometry.segment_count, budget)
            .ok_or_else(|| io::Error::new(io::ErrorKind::OutOfMemory, "--memory has no room for it"))?;
        let map = Arc::new(VolumeMap::new(file, geometry.file_len(), gates)?);
        Ok(Mapping { map, file: ahead })
    }
}

/// What a core sends from mappings.
pub(super) struct Mappings {
    /// Bytes that may be mapped at once.
    len_max: u64,
    /// Where records are verified.
    scratch: RefCell<Option<AlignedBuf>>,
    /// Bytes that the kernel reads ahead just now.
    ahead_len: Cell<u64>,
    /// Nothing is read ahead before that, in the ring's milliseconds.
    ahead_at: Cell<u64>,
    /// What was taken in and may still be there; the next to be looked at first.
    listed: RefCell<VecDeque<Weak<StoredResponse>>>,
    charge: RefCell<Charge>,
}

impl Mappings {
    pub(super) fn new(len_max: u64, budget: &Arc<Budget>) -> Self {
        let charge = budget.reserve(Purpose::Disk, 0).expect("nothing always fits into a budget");
        Mappings {
            len_max,
            scratch: RefCell::default(),
            ahead_len: Cell::new(0),
            ahead_at: Cell::new(0),
            listed: RefCell::default(),
            charge: RefCell::new(charge),
        }
    }

    /// Lists what was taken in, and looks at a few others: those that are gone leave the list.
    fn list(&self, stored: &Arc<StoredResponse>) {
        let mut listed = self.listed.borrow_mut();
        for _ in 0..MAPPED_LOOKED_AT.min(listed.len()) {
            let Some(other) = listed.pop_front() else { break };
            if live(&other).is_some() {
                listed.push_back(other);
            }
        }
        listed.push_back(Arc::downgrade(stored));
        let len = listed.capacity() * size_of::<Weak<StoredResponse>>();
        self.charge.borrow_mut().set(len as u64);
    }

    /// Takes one off the list that was not used lately, or the next if all of a few were.
    fn spare(&self) -> Option<Arc<StoredResponse>> {
        let mut listed = self.listed.borrow_mut();
        for left in (0..listed.len().min(MAPPED_LOOKED_AT * 2)).rev() {
            let one = listed.pop_front()?;
            let Some(stored) = live(&one) else { continue };
            if stored.uses() == 0 || left == 0 {
                return Some(stored);
            }
            listed.push_back(one);
        }
        None
    }
}

/// A listed response that can still be found; one that cannot takes no more room.
fn live(listed: &Weak<StoredResponse>) -> Option<Arc<StoredResponse>> {
    let stored = listed.upgrade()?;
    if !stored.is_live() {
        let_go(&stored);
        return None;
    }
    Some(stored)
}

/// Has a response never be sent again, though replica tables may hold it for a while.
fn let_go(stored: &StoredResponse) {
    stored.mark_gone();
    if let StoredBody::Mapped(body) = &stored.body {
        body.set_gone();
    }
}

impl Disk {
    /// Bytes that are mapped now, by the volumes of this core.
    pub(super) fn mapped_len(&self) -> u64 {
        self.mappings_of_volumes().map(|mapping| mapping.map.mapped_len()).sum()
    }

    fn mappings_of_volumes(&self) -> impl Iterator<Item = &Mapping> {
        self.volumes.iter().filter_map(|mounted| mounted.mapping.as_ref())
    }

    /// Tells whether a volume's file was cut short, after which its directory is off line. A write would give it its length again, and zeros would be shown
    /// where what is sent just now lay; so it is asked before each.
    pub(super) fn is_cut_short(&self, mounted: &Mounted) -> bool {
        let Some(mapping) = &mounted.mapping else { return false };
        let is_short =
            file_len(mapping.map.as_fd()).is_ok_and(|len| len < mounted.superblock.geometry().file_len());
        // No error would make it more or less likely.
        while is_short && !self.is_off_line(mounted) {
            self.note_error(mounted, IoFailed::Short);
        }
        is_short
    }

    /// Acts on sends that could not read a page: a file that was cut short, or a device that fails. From the timer.
    pub(super) fn note_faults(&self) {
        for mounted in &self.volumes {
            let faults = mounted.mapping.as_ref().and_then(|mapping| mapping.map.take_faults());
            let Some((count, segment)) = faults else { continue };
            self.counters.add(Counter::DiskMappedFault, u64::from(count));
            mounted.volume.borrow_mut().note_error(segment);
            (0..count).for_each(|_| self.note_error(mounted, IoFailed::Page));
        }
    }

    /// A directory is left alone: nothing is sent from its mappings.
    pub(super) fn suspend_mappings(&self, directory: usize) {
        for mounted in self.volumes.iter().filter(|mounted| mounted.directory == directory) {
            if let Some(mapping) = &mounted.mapping {
                mapping.map.gates().suspend();
            }
        }
    }

    /// A directory is in use again; what was verified in it before is not believed.
    pub(super) fn resume_mappings(&self, directory: usize) {
        for mounted in self.volumes.iter().filter(|mounted| mounted.directory == directory) {
            if let Some(mapping) = &mounted.mapping {
                mapping.map.gates().resume();
            }
        }
    }

    /// Verifies the record of a hash in the page cache and hands it over with the body that is mapped; `None` if its pages are not all there, or if there
    /// is none to be mapped. The key is to be compared.
    async fn read_mapped<T>(
        &self,
        primary: u128,
        hash: u128,
        take: impl FnOnce(&Record<'_>, Arc<MappedBody>) -> Option<T>,
    ) -> Option<T> {
        let mounted = self.usable(primary)?;
        let mapping = mounted.mapping.as_ref()?;
        let (found, uses) = mappable(mounted, hash)?;
        let is_there = |found: &Found| {
            let range = found.file_offset..found.file_offset + found.len;
            is_known_resident(mapping.map.as_fd(), &range)
        };
        if !is_there(&found) {
            if uses > 0 {
                self.read_ahead(mounted, mapping, &found);
            }
            return None;
        }
        if found.len as usize > LONG {
            self.long_step().await;
        }
        // Something else may lie there by now.
        let (found, _) = mappable(mounted, hash)?;
        let life = mapping.map.gates().life(found.segment)?;
        let mut scratch = self.mappings.scratch.borrow_mut();
        if scratch.is_none() {
            *scratch = AlignedBuf::new(READ_LEN_MAX as usize, &self.budget);
        }
        let bytes = scratch.as_mut()?.as_mut().get_mut(..found.len as usize)?;
        let read = read_resident(mapping.map.as_fd(), found.file_offset, bytes).ok()?;
        if read < bytes.len() {
            return None;
        }
        let place = Place { store: mounted.superblock.store, sequence: found.sequence };
        let record = self.judge(mounted, &found, hash, verified(&bytes[found.skip..], &place, hash))?;
        let start = found.file_offset + (found.skip + record.front.front_len()) as u64;
        let range = start..start + record.body().len() as u64;
        if range.end - range.start < MAPPED_LEN_MIN {
            return None;
        }
        let body = MappedBody::new(&mapping.map, (found.segment, life), range, self.ring.now_millis())?;
        take(&record, body)
    }

    /// Has the kernel bring a record into the page cache for the next time that it is asked for, as far as there is room for it.
    fn read_ahead(&self, mounted: &Mounted, mapping: &Mapping, found: &Found) {
        let (len, mappings) = (found.len, &self.mappings);
        let ahead_len = mappings.ahead_len.get() + len;
        let has_room = self.mapped_len() + ahead_len <= mappings.len_max && ahead_len <= READ_AHEAD_LEN_MAX;
        if !has_room || self.ring.now_millis() < mappings.ahead_at.get() {
            return;
        }
        mappings.ahead_len.set(ahead_len);
        self.counters.add(Counter::DiskReadAheadBytes, len);
        let (disk, at, file) = (self.handle(), mounted.at, mapping.file.clone());
        let range = found.file_offset..found.file_offset + len;
        self.ring.spawn(async move {
            let read = disk.ring.read_ahead(&file, range).await;
            disk.mappings.ahead_len.set(disk.mappings.ahead_len.get() - len);
            if let Err(errno) = read {
                disk.note_error(&disk.volumes[at], IoFailed::Errno(errno));
            }
        });
    }

    /// Pages left the page cache: the kernel needs its memory for others.
    fn note_pages_gone(&self) {
        self.counters.add(Counter::DiskMappedGone, 1);
        self.mappings.ahead_at.set(self.ring.now_millis() + READ_AHEAD_PAUSE.as_millis() as u64);
    }
}

/// Tells whether all pages of a range are in memory, as far as the kernel can tell.
fn is_known_resident(file: BorrowedFd<'_>, range: &Range<u64>) -> bool {
    matches!(is_resident(file, range), Ok(true))
}

/// What a hash leads to if it may be mapped, and how often it was used: whole, on the disk, in a segment that is not written to any more.
fn mappable(mounted: &Mounted, hash: u128) -> Option<(Found, u8)> {
    let volume = mounted.volume.borrow();
    let found = volume.find(hash)?;
    let may_be = found.kind == SlotKind::Plain && found.len >= MAPPED_LEN_MIN && found.len <= READ_LEN_MAX;
    let uses = volume.rests(&found, hash).filter(|_| may_be)?;
    Some((found, uses))
}

/// Takes a response into the tier whose content is in the page cache; false where it is to be read.
pub(super) async fn restore(shard: &Rc<Shard>, target: &Target) -> bool {
    let Some(disk) = shard.disk.as_ref().filter(|disk| disk.mappings.len_max > 0) else { return false };
    let take = |record: &Record<'_>, body: Arc<MappedBody>| {
        let front = &record.front;
        let is_current = !shard.restores.is_outdated(target.hash);
        let is_meant = matches!(front.content, Content::Whole(_)) && *front.key == *target.key;
        if !is_current || !is_meant || !shard.counts_on_disk(front, target.primary) {
            return None;
        }
        // Only what it is beside its content.
        let empty = Body::writer(&shard.arena, None);
        let parts = parts(front, target.primary, (target.hash, &target.key), empty.body())?;
        let len = body.len();
        shard.make_room(parts.charged_len());
        let stored = StoredResponse::mapped(parts, body, &shard.budget)?;
        // What is stale is to be validated, in memory.
        if !shard.is_in_time(&stored) || !shard.make_mapped_room(disk, len) || !shard.take_back(&stored) {
            return None;
        }
        disk.mappings.list(&stored);
        disk.counters.add(Counter::DiskMappedTaken, 1);
        Some(())
    };
    disk.read_mapped(target.primary, target.hash, take).await.is_some()
}

impl Shard {
    /// Lets go of what is mapped until what was just made fits; false if it cannot.
    fn make_mapped_room(&self, disk: &Disk, len: u64) -> bool {
        for _ in 0..MAPPED_LOOKED_AT {
            if disk.mapped_len() <= disk.mappings.len_max {
                return true;
            }
            let Some(spare) = disk.mappings.spare() else { return false };
            self.store.borrow_mut().remove(spare.hash, &spare.key);
            let_go(&spare);
        }
        // Sends keep the rest for a while.
        disk.mapped_len() <= disk.mappings.len_max + len
    }

    /// Tells whether a response that was found can be sent: one that is mapped, as long as it is fresh and its pages are in memory. It is gone otherwise.
    #[inline]
    pub(crate) fn can_send(&self, stored: &StoredResponse) -> bool {
        match &stored.body {
            StoredBody::Memory(_) => true,
            StoredBody::Mapped(body) => self.can_send_mapped(stored, body),
        }
    }

    #[inline(never)]
    fn can_send_mapped(&self, stored: &StoredResponse, body: &MappedBody) -> bool {
        if !stored.is_live() {
            return false;
        }
        let is_fresh = self.is_in_time(stored);
        let now = self.ring.now_millis();
        let is_there = is_fresh && body.is_there(now, is_known_resident);
        if !is_there {
            let_go(stored);
            if let Some(disk) = self.disk.as_ref().filter(|_| is_fresh) {
                disk.note_pages_gone();
            }
        }
        is_there
    }
}
