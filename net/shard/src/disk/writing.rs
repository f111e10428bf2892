//! Writing: what was offered waits in line, is appended to its volume step by step, and leaves when enough of it has gathered.
//!
//! `offering.rs` hands over what is worth it; one task per core appends and writes while there is something to, and ends with it. Invariants:
//! the line is bounded in bytes and count, and gives way first when memory is short; what was removed is not appended afterwards; a turn
//! copies a bounded number of bytes; what could not be written is counted and is not on disk, no more.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aspis_cache::key;
use aspis_runtime::sync::{Notify, oneshot};
use aspis_runtime::{Elapsed, future};
use aspis_storage::budget::Budget;
use aspis_storage::disk::admission::Admission;
use aspis_storage::disk::volume::{Refused, Volume, Write, WriteFailed};
use aspis_telemetry::Counter;

use super::{Disk, IoFailed, Mounted, Plan};
use crate::limits::{
    DISK_APPENDED_PER_TURN, DISK_BURST, DISK_BURST_LEN_MIN, DISK_FLUSH_AFTER, DISK_QUEUE_COUNT_MAX,
    DISK_QUEUE_LEN_MAX, DISK_QUEUE_SHARE, DISK_RECORDS_PER_TURN, DISK_REMOVAL_PATIENCE, DISK_RETRY_AFTER,
    DISK_WRITE_PATIENCE, WRITE_BUFFERS_KEPT, WRITE_BUFFERS_TRIMMED,
};

/// Something to be written, record by record, that waits until it is its turn.
pub(crate) trait Offer {
    /// The hash of the primary key.
    fn primary(&self) -> u128;

    /// How many bytes it will write at most, and keeps in memory until then.
    fn len(&self) -> u64;

    /// Tells whether it would write under this hash what must not come back.
    fn concerns(&self, hash: u128) -> bool;

    /// Appends the next record.
    fn step(&mut self, volume: &mut Volume, now: u32) -> Result<Step, Refused>;

    /// It will not be written, or not to its end.
    fn give_up(&mut self);
}

/// What a step of an offer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// So many bytes were appended, and more are to come.
    More(u64),
    /// With so many bytes it is all there.
    Done(u64),
}

/// Why an offer is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// Writes are dear, and it is not worth it.
    Budget,
    /// Too much waits.
    Queue,
    /// The directory is off line.
    OffLine,
}

impl NotTaken {
    fn counter(self) -> Counter {
        match self {
            NotTaken::Budget => Counter::DiskRefusedBudget,
            NotTaken::Queue => Counter::DiskRefusedQueue,
            NotTaken::OffLine => Counter::DiskRefusedOffLine,
        }
    }
}

/// What one core writes.
pub(super) struct Writes {
    /// Bytes of all lines together.
    queued_len: Cell<u64>,
    len_max: u64,
    admission: RefCell<Admission>,
    /// The last of a sequence of numbers that is good enough to be a die.
    chance: Cell<u64>,
    /// The task runs.
    is_running: Cell<bool>,
    /// There may be more to do than the task knew of.
    changed: Notify,
    /// A write ended.
    written: Notify,
    /// No write buffer was free: what there is goes out, be it little.
    is_short: Cell<bool>,
    /// Whose line is looked at next.
    next: Cell<usize>,
    /// Who waits until all of it is written.
    flushes: RefCell<Vec<oneshot::Sender<()>>>,
    end: Cell<End>,
}

/// How far the process's end is, as far as writing is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It has not begun.
    Ahead,
    /// All that is offered is written, and the write budget decides nothing.
    Begun,
    /// Nothing more is taken.
    Over,
}

/// What one volume has to write.
#[derive(Default)]
pub(super) struct Line {
    offers: RefCell<VecDeque<Box<dyn Offer>>>,
    /// Since when there is something that was not handed to the kernel, in milliseconds of the core's clock.
    since: Cell<Option<u64>>,
    /// Nothing was to be had for the next record: something has to be written or reclaimed first.
    is_blocked: Cell<bool>,
    in_flight: Cell<usize>,
    is_sealed: Cell<bool>,
}

/// What came of an attempt to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Appended {
    Nothing,
    Some,
}

impl Writes {
    pub(super) fn new(budget: &Arc<Budget>, cores: usize, volumes: usize, plan: &Plan) -> Self {
        let rate = plan.write_budget.map(|rate| rate * volumes as u64);
        let burst = rate.map_or(0, |rate| (rate * DISK_BURST.as_secs()).max(DISK_BURST_LEN_MIN));
        Writes {
            queued_len: Cell::new(0),
            len_max: (budget.limit() / DISK_QUEUE_SHARE / cores as u64).min(DISK_QUEUE_LEN_MAX),
            admission: RefCell::new(Admission::new(rate, burst)),
            chance: Cell::new(0x9e37_79b9_7f4a_7c15),
            is_running: Cell::new(false),
            changed: Notify::new(),
            written: Notify::new(),
            is_short: Cell::new(false),
            next: Cell::new(0),
            flushes: RefCell::default(),
            end: Cell::new(End::Ahead),
        }
    }

    pub(super) fn queued_len(&self) -> u64 {
        self.queued_len.get()
    }

    /// Takes what was written off the budget.
    pub(super) fn spend(&self, len: u64) {
        self.admission.borrow_mut().spend(len);
    }

    fn draw(&self) -> u32 {
        let next =
            self.chance.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.chance.set(next);
        (next >> 32) as u32
    }
}

impl Disk {
    /// Takes something to be written, if it is worth it and there is room. `used_before` is whether anybody asked for it more than once.
    pub(crate) fn offer(&self, mut offer: Box<dyn Offer>, used_before: bool) -> Result<(), NotTaken> {
        let refused = self.refuses(&*offer, used_before);
        if let Err(cause) = refused {
            self.counters.add(cause.counter(), 1);
            offer.give_up();
            return refused;
        }
        self.put_in_line(offer);
        Ok(())
    }

    /// Takes a part of something whose length was admitted as a whole ([`Disk::admits`]); it comes back while there is no room.
    pub(super) fn offer_part(&self, offer: Box<dyn Offer>) -> Result<(), Box<dyn Offer>> {
        if self.has_no_room(&*offer).is_err() {
            return Err(offer);
        }
        self.put_in_line(offer);
        Ok(())
    }

    /// Tells whether so many bytes are worth a write that come bit by bit, under a key that nobody asked for before.
    pub(super) fn admits(&self, len: u64) -> bool {
        let (now, chance) = (self.ring.now_millis(), self.writes.draw());
        self.writes.admission.borrow_mut().admit(now, len, false, chance)
    }

    /// A number for the slices of one body that no other body of its key has, nor had before a restart; `None` without a volume.
    pub(super) fn new_write_id(&self, primary: u128) -> Option<u64> {
        let lsn = self.mounted(primary)?.volume.borrow().next_lsn();
        let parts = [lsn, self.ring.wall_seconds(), u64::from(self.writes.draw())].map(u64::to_le_bytes);
        // Zero is no number.
        Some(key::hash(&parts.concat()) as u64 | 1)
    }

    fn put_in_line(&self, offer: Box<dyn Offer>) {
        let mounted = self.mounted(offer.primary()).expect("it was looked at just now");
        self.set_queued_len(self.writes.queued_len() + offer.len());
        mounted.line.offers.borrow_mut().push_back(offer);
        self.kick();
    }

    fn refuses(&self, offer: &dyn Offer, used_before: bool) -> Result<(), NotTaken> {
        self.has_no_room(offer)?;
        if self.writes.end.get() == End::Begun {
            return Ok(());
        }
        let (now, chance) = (self.ring.now_millis(), self.writes.draw());
        if self.writes.admission.borrow_mut().admit(now, offer.len(), used_before, chance) {
            Ok(())
        } else {
            Err(NotTaken::Budget)
        }
    }

    fn has_no_room(&self, offer: &dyn Offer) -> Result<(), NotTaken> {
        let mounted = self.usable(offer.primary()).ok_or(NotTaken::OffLine)?;
        if self.is_full(mounted, offer.len()) || self.writes.end.get() == End::Over {
            return Err(NotTaken::Queue);
        }
        Ok(())
    }

    /// Tells whether the line has no room for so many bytes more.
    fn is_full(&self, mounted: &Mounted, len: u64) -> bool {
        // What is longer than the whole line may still go alone.
        let queued_len = self.writes.queued_len.get();
        queued_len > 0 && queued_len + len > self.writes.len_max
            || mounted.line.offers.borrow().len() >= DISK_QUEUE_COUNT_MAX
    }

    /// Waits until an offer of so many bytes would find room in its line; false if none is there in the millisecond `until`, or there will be none.
    pub(super) async fn has_room_until(&self, primary: u128, len: u64, until: u64) -> bool {
        let Some(mounted) = self.mounted(primary) else { return false };
        self.written_until(until, || self.is_off_line(mounted) || !self.is_full(mounted, len)).await
            && !self.is_off_line(mounted)
    }

    /// Waits until nothing is in line, or nothing of it can be written; false if something is left in the millisecond `until`.
    pub(super) async fn is_empty_until(&self, until: u64) -> bool {
        let is_empty =
            |mounted: &Mounted| mounted.line.offers.borrow().is_empty() || self.is_off_line(mounted);
        self.written_until(until, || self.volumes.iter().all(is_empty)).await
    }

    /// Waits until writing has brought something about; false if it did not until that millisecond.
    async fn written_until(&self, until: u64, is_so: impl Fn() -> bool) -> bool {
        loop {
            let written = self.writes.written.notified();
            if is_so() {
                return true;
            }
            let left = until.saturating_sub(self.ring.now_millis());
            if left == 0 {
                return false;
            }
            let pause = DISK_RETRY_AFTER.min(Duration::from_millis(left));
            future::race(written, self.ring.sleep(pause)).await;
        }
    }

    /// Steps towards the end of the process.
    pub(super) fn end(&self, end: End) {
        self.writes.end.set(end);
    }

    /// Tells whether the process's end has begun.
    pub(super) fn is_ending(&self) -> bool {
        self.writes.end.get() != End::Ahead
    }

    /// Tells whether something waits that will be written under a hash.
    pub(crate) fn is_in_line(&self, primary: u128, hash: u128) -> bool {
        let Some(mounted) = self.mounted(primary) else { return false };
        mounted.line.offers.borrow().iter().any(|offer| offer.concerns(hash))
    }

    /// Sees to it that nothing comes back from disk that was stored under this hash so far: not now, and not after a restart. What says so
    /// on disk leaves with this turn.
    pub(crate) fn remove(&self, primary: u128, hash: u128) {
        let Some(mounted) = self.mounted(primary) else { return };
        self.drop_offers(mounted, |offer| offer.concerns(hash));
        if mounted.volume.borrow_mut().remove(hash, self.wall()) {
            self.counters.add(Counter::DiskRemoved, 1);
            self.write_out(mounted);
            self.kick();
        }
    }

    /// Waits until a restart would find everything removed that was removed so far in the volume of a primary key; but not for a device
    /// that does not answer, or is off line.
    pub(crate) async fn removals_written(&self, primary: u128) {
        let Some(mounted) = self.mounted(primary) else { return };
        let mark = mounted.volume.borrow().mark();
        let written = async {
            loop {
                let changed = self.writes.written.notified();
                if mounted.volume.borrow().is_written(mark) || self.is_off_line(mounted) {
                    return;
                }
                changed.await;
            }
        };
        let _ = self.ring.timeout(DISK_REMOVAL_PATIENCE, written).await;
    }

    /// Gives up what waits to be written: the memory is wanted.
    pub(crate) fn relieve(&self) {
        let count = self.drop_lines();
        self.counters.add(Counter::DiskRefusedMemory, count);
        self.write_pool.trim(WRITE_BUFFERS_KEPT, WRITE_BUFFERS_TRIMMED);
    }

    /// Takes all offers out of all lines; returns how many.
    pub(super) fn drop_lines(&self) -> u64 {
        self.volumes.iter().map(|mounted| self.drop_offers(mounted, |_| true)).sum()
    }

    /// Writes all that waits and ends the segments in order; tells when that is done, or cannot be.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.writes.flushes.borrow_mut().push(sender);
        self.kick();
        receiver
    }

    /// Takes offers out of a line; returns how many.
    pub(super) fn drop_offers(&self, mounted: &Mounted, is_dropped: impl Fn(&dyn Offer) -> bool) -> u64 {
        if !mounted.line.offers.borrow().iter().any(|offer| is_dropped(&**offer)) {
            return 0;
        }
        let offers = std::mem::take(&mut *mounted.line.offers.borrow_mut());
        let (dropped, kept) = offers.into_iter().partition::<VecDeque<_>, _>(|offer| is_dropped(&**offer));
        *mounted.line.offers.borrow_mut() = kept;
        let count = dropped.len() as u64;
        dropped.into_iter().for_each(|offer| self.give_up(offer));
        count
    }

    /// Notes how much waits now. The metrics show it at once: where they show nothing, all that was offered is appended or given up.
    fn set_queued_len(&self, len: u64) {
        self.writes.queued_len.set(len);
        self.counters.set(Counter::DiskQueueBytes, len);
    }

    /// An offer that was taken ends unwritten.
    fn give_up(&self, mut offer: Box<dyn Offer>) {
        self.set_queued_len(self.writes.queued_len() - offer.len());
        offer.give_up();
    }

    /// Has the task run if it does not, whatever it waits for.
    pub(super) fn wake(&self) {
        if !self.writes.is_running.get() {
            self.kick();
        }
    }

    /// Has the task look, and run if it does not.
    pub(super) fn kick(&self) {
        if self.writes.is_running.replace(true) {
            self.writes.changed.notify_all();
        } else {
            self.ring.spawn(run(self.handle()));
        }
    }

    /// Appends what is next in some line; says whether there was anything that could be.
    fn append(&self) -> Appended {
        for _ in 0..self.volumes.len() {
            let at = self.writes.next.get();
            self.writes.next.set((at + 1) % self.volumes.len());
            if self.append_to(&self.volumes[at]) == Appended::Some {
                return Appended::Some;
            }
        }
        Appended::Nothing
    }

    /// Appends a bounded number of records and bytes.
    fn append_to(&self, mounted: &Mounted) -> Appended {
        let (mut len, mut count) = (0, 0);
        while len < DISK_APPENDED_PER_TURN && count < DISK_RECORDS_PER_TURN && !mounted.line.is_blocked.get()
        {
            let Some(mut offer) = mounted.line.offers.borrow_mut().pop_front() else { break };
            let step = offer.step(&mut mounted.volume.borrow_mut(), self.wall());
            match step {
                Ok(Step::More(appended)) => {
                    len += appended;
                    mounted.line.offers.borrow_mut().push_front(offer);
                }
                Ok(Step::Done(appended)) => {
                    len += appended;
                    self.set_queued_len(self.writes.queued_len() - offer.len());
                }
                // It is looked at again when something was written, read or reclaimed.
                Err(refused @ (Refused::NotReady | Refused::NoMemory | Refused::NoSegment)) => {
                    mounted.line.is_blocked.set(true);
                    self.writes.is_short.set(self.writes.is_short.get() || refused == Refused::NoMemory);
                    mounted.line.offers.borrow_mut().push_front(offer);
                    break;
                }
                Err(Refused::TooLarge) => {
                    self.counters.add(Counter::DiskRefusedSpace, 1);
                    self.give_up(offer);
                    continue;
                }
            }
            count += 1;
        }
        self.counters.add(Counter::DiskRecordsWritten, count as u64);
        if count == 0 {
            return Appended::Nothing;
        }
        mounted.line.is_sealed.set(false);
        Appended::Some
    }

    /// Hands to the kernel what has gathered or must not wait.
    pub(super) fn write_out(&self, mounted: &Mounted) {
        if self.is_off_line(mounted) {
            return;
        }
        let (line, now) = (&mounted.line, self.ring.now_millis());
        let is_late =
            line.since.get().is_some_and(|since| now >= since + DISK_FLUSH_AFTER.as_millis() as u64);
        let force = is_late || self.writes.is_short.get() || !self.writes.flushes.borrow().is_empty();
        loop {
            let next = mounted.volume.borrow_mut().next_write(force);
            let Some(write) = next else { break };
            line.in_flight.set(line.in_flight.get() + 1);
            self.ring.spawn(self.handle().write(mounted.at, write));
        }
        if !mounted.volume.borrow().has_unwritten() {
            line.since.set(None);
        } else if line.since.get().is_none() {
            line.since.set(Some(now));
        }
    }

    /// Writes a buffer and tells the volume.
    async fn write(self: Rc<Self>, at: usize, write: Write) {
        let mounted = &self.volumes[at];
        let Write { file_offset, mut buffer, len, token } = write;
        let (mut done, mut outcome) = (0, Ok(()));
        while done < len && outcome.is_ok() {
            if self.is_cut_short(mounted) {
                outcome = Err(IoFailed::Short);
                break;
            }
            let at = file_offset + done as u64;
            let mut write = pin!(self.ring.write_at(&mounted.file, at, buffer, done..len));
            let (result, back) = loop {
                match self.ring.timeout(DISK_WRITE_PATIENCE, write.as_mut()).await {
                    Ok(written) => break written,
                    // It is waited for nevertheless: these blocks are the kernel's until then.
                    Err(Elapsed) => self.note_error(mounted, IoFailed::Late),
                }
            };
            buffer = back;
            match result {
                Ok(0) => outcome = Err(IoFailed::Short),
                Ok(written) => done += written,
                Err(errno) => outcome = Err(IoFailed::Errno(errno)),
            }
        }
        self.counters.add(Counter::DiskWrites, 1);
        self.counters.add(Counter::DiskWrittenBytes, done as u64);
        self.writes.spend(done as u64);
        mounted.volume.borrow_mut().written(token, buffer, outcome.map_err(|_| WriteFailed));
        mounted.line.in_flight.set(mounted.line.in_flight.get() - 1);
        if let Err(failed) = outcome {
            self.counters.add(Counter::DiskWriteErrors, 1);
            self.note_error(mounted, failed);
        }
        self.writes.written.notify_all();
        self.reclaim(mounted);
        // The disk may know by now that nothing in it counts.
        if mounted.volume.borrow().suspects_any() {
            self.try_bad(mounted);
        }
        self.kick();
    }

    /// Returns in how many milliseconds something is to be done at the latest, whatever comes: what was appended is written, what found no
    /// room is tried again.
    fn look_in(&self) -> Option<u64> {
        let (now, flush_after) = (self.ring.now_millis(), DISK_FLUSH_AFTER.as_millis() as u64);
        let in_use = self.volumes.iter().filter(|mounted| !self.is_off_line(mounted));
        let looks =
            in_use.filter_map(|mounted| match mounted.line.since.get().map(|since| since + flush_after) {
                Some(due) if due > now => Some(due - now),
                // It was tried to no avail, or waits for a write that is under way.
                Some(_) => Some(DISK_RETRY_AFTER.as_millis() as u64),
                None => mounted.line.is_blocked.get().then_some(DISK_RETRY_AFTER.as_millis() as u64),
            });
        looks.min()
    }

    /// Seals what is open once every line is empty, if somebody waits for that, and tells him when all is written.
    fn finish_flushes(&self) {
        if self.writes.flushes.borrow().is_empty() {
            return;
        }
        let mut is_done = true;
        for mounted in self.volumes.iter().filter(|mounted| !self.is_off_line(mounted)) {
            let line = &mounted.line;
            let can_wait = line.is_blocked.get() && line.in_flight.get() == 0;
            if !line.offers.borrow().is_empty() && !can_wait {
                is_done = false;
            } else if !line.is_sealed.replace(true) {
                mounted.volume.borrow_mut().seal_all();
                self.write_out(mounted);
            }
            is_done &= line.in_flight.get() == 0 && !mounted.volume.borrow().has_unwritten();
        }
        if is_done {
            for flush in self.writes.flushes.take() {
                // Who does not wait any more needs no word.
                let _ = flush.send(());
            }
        }
    }

    /// How many uses a record needs to be written again when its segment is reclaimed.
    pub(super) fn reinsertion_hits(&self) -> u8 {
        // What memory brings at the end must not cost what is used on disk.
        if self.is_ending() {
            return 1;
        }
        self.writes.admission.borrow_mut().reinsertion_hits(self.ring.now_millis())
    }

    /// Tells whether nothing is to be written, now or later.
    fn is_idle(&self) -> bool {
        let none_waits = self.writes.flushes.borrow().is_empty();
        none_waits
            && self.volumes.iter().all(|mounted| {
                let line = &mounted.line;
                let waits = !line.offers.borrow().is_empty() || line.since.get().is_some();
                line.in_flight.get() == 0 && (!waits || self.is_off_line(mounted))
            })
    }
}

/// Appends and writes until there is nothing left to.
async fn run(disk: Rc<Disk>) {
    loop {
        let changed = disk.writes.changed.notified();
        for mounted in disk.volumes.iter().filter(|mounted| mounted.line.is_blocked.replace(false)) {
            disk.reclaim(mounted);
        }
        if disk.volumes.iter().any(|mounted| !mounted.line.offers.borrow().is_empty()) {
            disk.long_step().await;
        }
        let appended = disk.append();
        disk.volumes.iter().for_each(|mounted| disk.write_out(mounted));
        disk.writes.is_short.set(false);
        if appended == Appended::Some {
            continue;
        }
        disk.finish_flushes();
        if disk.is_idle() {
            // What is offered from now on starts the next one.
            disk.writes.is_running.set(false);
            return;
        }
        match disk.look_in() {
            Some(millis) => {
                future::race(changed, disk.ring.sleep(Duration::from_millis(millis))).await;
            }
            None => changed.await,
        }
    }
}
