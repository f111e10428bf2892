//! Segments that had errors are tried, in the background: written whole, read back whole, and used again if all is as it was written.
//!
//! `aspis_storage::disk::trial` says which and when; this does the I/O, a piece at a time with pauses between. Invariants: an error here says nothing
//! about the directory, and nothing about the segment unless the directory is well; nothing is tried in one that is off line, nor while the
//! process ends.

use aspis_storage::disk::trial::{Outcome, TRIAL_PIECE_LEN, Trial};
use aspis_storage::mapping::aligned::AlignedBuf;

use super::{Disk, Mounted};
use crate::limits::DISK_TRIAL_PAUSE;

const PIECE_LEN: usize = TRIAL_PIECE_LEN as usize;

impl Disk {
    /// Begins to try a segment of a volume, if one is due.
    pub(super) fn try_bad(&self, mounted: &Mounted) {
        if self.is_off_line(mounted) || self.is_ending() {
            return;
        }
        let Some(trial) = mounted.volume.borrow_mut().next_trial(self.wall()) else { return };
        let (disk, at) = (self.handle(), mounted.at);
        self.ring.spawn(async move {
            let mounted = &disk.volumes[at];
            let outcome = disk.run_trial(mounted, &trial).await;
            mounted.volume.borrow_mut().tried(trial, outcome);
            // The table says so, and what found no free segment may go on.
            disk.write_out(mounted);
            disk.kick();
            if outcome != Outcome::Aborted {
                disk.try_bad(mounted);
            }
        });
    }

    pub(super) async fn run_trial(&self, mounted: &Mounted, trial: &Trial) -> Outcome {
        match self.write_and_read(mounted, trial).await {
            // Where everything fails it is not for the segment.
            Outcome::Failed if !self.is_well(mounted).await => Outcome::Aborted,
            outcome => outcome,
        }
    }

    async fn write_and_read(&self, mounted: &Mounted, trial: &Trial) -> Outcome {
        for is_written in [false, true] {
            for file_offset in trial.pieces() {
                // Somebody waits for room that it may be.
                if !mounted.volume.borrow().is_short() {
                    self.ring.sleep(DISK_TRIAL_PAUSE).await;
                }
                let Some(mut buffer) = AlignedBuf::new(PIECE_LEN, &self.budget) else {
                    return Outcome::Aborted;
                };
                // A write would give a file that was cut short its length again.
                if self.is_off_line(mounted) || self.is_ending() || self.is_cut_short(mounted) {
                    return Outcome::Aborted;
                }
                let is_good = if is_written {
                    let (result, buffer) =
                        self.ring.read_at(&mounted.file, file_offset, buffer, 0..PIECE_LEN).await;
                    self.long_step().await;
                    result == Ok(PIECE_LEN) && trial.verify(file_offset, buffer.as_ref())
                } else {
                    self.long_step().await;
                    trial.fill(file_offset, buffer.as_mut());
                    let (result, _) =
                        self.ring.write_at(&mounted.file, file_offset, buffer, 0..PIECE_LEN).await;
                    self.writes.spend(PIECE_LEN as u64);
                    result == Ok(PIECE_LEN)
                };
                if !is_good {
                    return Outcome::Failed;
                }
            }
        }
        Outcome::Passed
    }
}
