//! What goes on in a volume beside requests: its index is rebuilt after a start, segments are reclaimed, a directory off line is probed.
//!
//! Each is a task that ends when it is done. Invariants: a few reads run ahead and bounded pieces of what they bring are looked at, so
//! that requests are answered meanwhile; what is not known yet is a miss; a directory is in use again only after its file was found whole
//! and written to.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use aspis_runtime::sync::oneshot;
use aspis_storage::disk::format::{BLOCK_LEN, Superblock};
use aspis_storage::disk::reclaim::Reclaim;
use aspis_storage::disk::recovery::{self, Fed, ReadFailed, Recovery, Step};
use aspis_storage::mapping::aligned::AlignedBuf;
use aspis_telemetry::Counter;

use super::{Disk, IoFailed, Mounted};
use crate::limits::{
    DISK_PROBE_PAUSE_MIN, DISK_RECOVERIES_MAX, DISK_RECOVERY_AHEAD_LEN, DISK_RECOVERY_ATTEMPTS,
    DISK_RETRY_AFTER,
};

/// What a read of recovery brought.
type Brought = Result<AlignedBuf, IoFailed>;

impl Disk {
    /// Begins to rebuild the indexes, a few volumes at a time.
    pub(super) fn recover(&self) {
        let next = Rc::new(Cell::new(0));
        for _ in 0..DISK_RECOVERIES_MAX.min(self.volumes.len()) {
            let (disk, next) = (self.handle(), Rc::clone(&next));
            self.ring.spawn(async move {
                loop {
                    let at = next.replace(next.get() + 1);
                    let Some(mounted) = disk.volumes.get(at) else { return };
                    disk.recover_volume(mounted).await;
                    disk.reclaim(mounted);
                    disk.kick();
                    // A core that sleeps from now on has told how far it came.
                    disk.show_levels();
                }
            });
        }
    }

    async fn recover_volume(&self, mounted: &Mounted) {
        let superblock = &mounted.superblock;
        let mut recovery = Recovery::new(superblock.store, superblock.geometry());
        let mut running: VecDeque<(recovery::Read, oneshot::Receiver<Brought>)> = VecDeque::new();
        let mut held = None;
        loop {
            // A read that had no room is begun before another is asked for.
            let step = match held.take() {
                Some(read) => Step::Read(read),
                None => recovery.next(),
            };
            match step {
                Step::Done => return,
                Step::Read(read) => {
                    let ahead: usize = running.iter().map(|(read, _)| read.len).sum();
                    if running.is_empty() || ahead + read.len <= DISK_RECOVERY_AHEAD_LEN {
                        running.push_back((read, self.begin_read(mounted, read)));
                        continue;
                    }
                    held = Some(read);
                }
                Step::Wait => {}
            }
            // Nothing is awaited that could bring it on.
            let Some((read, brought)) = running.pop_front() else { return };
            let brought = brought.await.unwrap_or(Err(IoFailed::Late));
            loop {
                self.long_step().await;
                let bytes =
                    brought.as_ref().map(|buffer| &buffer.as_ref()[..read.len]).map_err(|_| ReadFailed);
                if recovery.feed(&mut *mounted.volume.borrow_mut(), read.ticket, bytes) == Fed::Taken {
                    break;
                }
            }
            if recovery.is_located() && !mounted.is_located.replace(true) {
                self.kick();
            }
        }
    }

    /// Makes room in a volume, if it needs any and nobody is at it.
    pub(super) fn reclaim(&self, mounted: &Mounted) {
        if mounted.is_reclaiming.get() || self.is_off_line(mounted) {
            return;
        }
        let step = self.next_reclaim(mounted);
        if matches!(step, Reclaim::Idle | Reclaim::Wait) {
            return;
        }
        mounted.is_reclaiming.set(true);
        let (disk, at) = (self.handle(), mounted.at);
        self.ring.spawn(async move {
            let mounted = &disk.volumes[at];
            let last = disk.reclaim_volume(mounted, step).await;
            mounted.is_reclaiming.set(false);
            match last {
                // It goes on after a write, or after a while.
                Reclaim::Wait => disk.wake(),
                // There may be a free segment for what waits, and something to write.
                _ => disk.kick(),
            }
        });
    }

    /// Goes on until enough segments are free, or until something else has to happen first; returns which.
    async fn reclaim_volume(&self, mounted: &Mounted, mut step: Reclaim) -> Reclaim {
        while !self.is_off_line(mounted) {
            match step {
                Reclaim::Idle | Reclaim::Wait => return step,
                Reclaim::Again => self.long_step().await,
                Reclaim::Read { file_offset, len } => {
                    let brought = self.read_block(mounted, file_offset, len).await;
                    self.long_step().await;
                    let bytes =
                        brought.as_ref().map(|buffer| &buffer.as_ref()[..len]).map_err(|_| ReadFailed);
                    mounted.volume.borrow_mut().reclaimed(bytes);
                }
            }
            step = self.next_reclaim(mounted);
            self.write_out(mounted);
        }
        Reclaim::Wait
    }

    fn next_reclaim(&self, mounted: &Mounted) -> Reclaim {
        let least_hits = self.reinsertion_hits();
        let mut volume = mounted.volume.borrow_mut();
        if self.is_ending() {
            volume.try_no_more();
        }
        volume.next_reclaim(self.wall(), least_hits)
    }

    /// Reads in a task of its own, so that others run ahead.
    fn begin_read(&self, mounted: &Mounted, read: recovery::Read) -> oneshot::Receiver<Brought> {
        let (sender, receiver) = oneshot::channel();
        let (disk, at) = (self.handle(), mounted.at);
        self.ring.spawn(async move {
            let _ = sender.send(disk.read_patiently(&disk.volumes[at], read.offset, read.len).await);
        });
        receiver
    }

    /// Reads for recovery: what is left out is not found any more, so a directory off line is waited for, and one failure is none.
    async fn read_patiently(&self, mounted: &Mounted, offset: u64, len: usize) -> Brought {
        let mut attempts = 0;
        loop {
            let brought = self.read_block(mounted, offset, len).await;
            attempts += 1;
            if brought.is_ok() || attempts >= DISK_RECOVERY_ATTEMPTS && !self.is_off_line(mounted) {
                return brought;
            }
            while self.is_off_line(mounted) {
                self.ring.sleep(DISK_PROBE_PAUSE_MIN).await;
            }
        }
    }

    /// Reads `len` bytes into a buffer of their own, for which memory is waited for.
    async fn read_block(&self, mounted: &Mounted, offset: u64, len: usize) -> Brought {
        let buffer = loop {
            match AlignedBuf::new(len, &self.budget) {
                Some(buffer) => break buffer,
                None => self.ring.sleep(DISK_RETRY_AFTER).await,
            }
        };
        match self.read_into(mounted, offset, buffer, 0..len).await {
            (Ok(()), Some(buffer)) => Ok(buffer),
            (Ok(()), None) => unreachable!("what was read is given back"),
            (Err(failed), _) => Err(failed),
        }
    }

    /// Leaves a directory alone that just failed once too often: what waits for it is given up, and it is looked after.
    pub(super) fn leave_alone(&self, directory: usize) {
        self.suspend_mappings(directory);
        for mounted in self.volumes.iter().filter(|mounted| mounted.directory == directory) {
            let count = self.drop_offers(mounted, |_| true);
            self.counters.add(Counter::DiskRefusedOffLine, count);
        }
        let disk = self.handle();
        self.ring.spawn(async move { disk.look_after(directory).await });
    }

    /// Probes a directory until it works again.
    async fn look_after(&self, directory: usize) {
        let probed = self.volumes.iter().find(|mounted| mounted.directory == directory);
        let Some(mounted) = probed else { return };
        loop {
            let due = self.health.borrow()[directory].probe_in(self.ring.now_millis());
            let Some(millis) = due else { return };
            self.ring.sleep(Duration::from_millis(millis)).await;
            let is_cut = self.health.borrow()[directory].is_cut();
            let works = if is_cut { None } else { self.probe(mounted).await };
            let mut health = self.health.borrow_mut();
            match works {
                Some(()) => health[directory].probe_succeeded(),
                None => health[directory].probe_failed(self.ring.now_millis()),
            }
            if works.is_some() {
                drop(health);
                self.resume_mappings(directory);
                return self.kick();
            }
        }
    }

    /// Something of a volume was read that is not what was written: looks whether its directory is well, unless it did a moment ago.
    pub(super) fn doubt(&self, mounted: &Mounted) {
        if !self.health.borrow_mut()[mounted.directory].doubt(self.ring.now_millis()) {
            return;
        }
        let (disk, at) = (self.handle(), mounted.at);
        self.ring.spawn(async move {
            disk.is_well(&disk.volumes[at]).await;
        });
    }

    /// Probes the directory of a volume, and leaves it alone if it is not well.
    pub(super) async fn is_well(&self, mounted: &Mounted) -> bool {
        let is_well = self.probe(mounted).await.is_some();
        let now = self.ring.now_millis();
        let goes_off = self.health.borrow_mut()[mounted.directory].doubt_ended(now, is_well);
        if goes_off {
            self.leave_alone(mounted.directory);
        }
        is_well
    }

    /// Reads both ends of a volume's file, writes the copy of its superblock, which is as it was, and reads that back: a device that changes what it
    /// brings shows it there.
    async fn probe(&self, mounted: &Mounted) -> Option<()> {
        const LEN: usize = BLOCK_LEN as usize;
        let superblock = mounted.superblock;
        let end = superblock.geometry().file_len() - BLOCK_LEN;
        self.read_block(mounted, end, LEN).await.ok()?;
        let mut blocks = self.read_block(mounted, 0, 2 * LEN).await.ok()?;
        if Superblock::read(blocks.as_ref()) != Ok(superblock) {
            return None;
        }
        let copy = superblock.encode();
        blocks.as_mut()[..LEN].copy_from_slice(&copy);
        let (result, _) = self.ring.write_at(&mounted.file, BLOCK_LEN, blocks, 0..LEN).await;
        if result != Ok(LEN) {
            return None;
        }
        let written = self.read_block(mounted, BLOCK_LEN, LEN).await.ok()?;
        (written.as_ref()[..LEN] == copy).then_some(())
    }
}
