//! What recovery tells a volume, and what the volume makes of it.
//!
//! It is told of the newest records first, while it already answers and appends. What stands in the index then is newer than what is told, but
//! for what the table was wrong about, and a removal, or a tombstone, stands there as a hidden slot until all is told. Where records of a
//! segment could not be read, older ones with an order are left out for this life of the process: what hid them may be missing.

use super::{OpenSegment, Phase, Role, Volume, VolumeConfig, slot_of};
use crate::disk::footer::{FooterEntry, Trailer};
use crate::disk::format::{Class, SegmentState, TableEntry};
use crate::disk::index::{Older, Slot, SlotKind};
use crate::disk::length_class;
use crate::disk::recovery::Rebuild;

impl Rebuild for Volume {
    fn segment(&mut self, segment: u32, entry: &TableEntry) {
        let role = match entry.state {
            SegmentState::Free => Role::Free,
            // Nothing is appended to one that was open: it gets its footer when its records are known.
            SegmentState::Open => Role::Closing,
            SegmentState::Sealed => Role::Sealed,
            SegmentState::Bad => Role::Bad,
        };
        self.segments.learn(segment, *entry, role);
        if role == Role::Bad {
            self.trials.note_given_up(segment);
            self.charge_lists();
        }
        if entry.state != SegmentState::Free {
            self.newest_number = self.newest_number.max(entry.newest);
        }
    }

    fn located(&mut self, last_sequence: u64) {
        self.segments.raise_sequence(last_sequence);
        if self.phase == Phase::Unknown {
            self.phase = Phase::Located;
        }
    }

    fn record(&mut self, segment: u32, entry: &FooterEntry) {
        let of = &self.segments.at(segment).entry;
        if of.class == Class::Records && of.sequence < self.unread_below {
            return;
        }
        // What a later build wrote, of whatever kind, may have replaced something.
        let hidden = Slot::hidden(segment, entry.unit);
        let slot = entry.kind().and_then(|kind| slot_of(segment, kind, entry)).unwrap_or(hidden);
        match self.index.peek(entry.hash) {
            Some(standing) if self.is_newer(standing, slot) => return,
            Some(_) => {
                let replaced = self.index.insert(entry.hash, slot).replaced;
                replaced.into_iter().for_each(|old| self.forget(old));
            }
            None if self.index.insert_older(entry.hash, slot) != Older::Taken => return,
            None => {}
        }
        if slot.kind != SlotKind::Hidden {
            self.segments.add_live(segment, length_class::len(slot.class));
        }
    }

    fn sealed(&mut self, segment: u32, entry: &TableEntry, last_lsn: u64, records: &[FooterEntry]) {
        let trailer = Trailer {
            sequence: entry.sequence,
            class: entry.class,
            count: records.len() as u32,
            oldest: entry.oldest,
            newest: entry.newest,
            last_lsn,
            created: entry.created,
            expires: entry.expires,
        };
        self.newest_number = self.newest_number.max(entry.newest);
        // It is sealed when its footer is there.
        self.segments.learn(segment, TableEntry { state: SegmentState::Open, ..*entry }, Role::Closing);
        let VolumeConfig { store, geometry, budget, .. } = &self.config;
        match OpenSegment::unsealed(segment, geometry.segment_len(), trailer, records, *store, budget) {
            Some(mut unsealed) => {
                // A footer would say for good that nothing is missing; without one the next start looks again.
                if self.unread_last == entry.sequence {
                    unsealed.leave_without_footer();
                }
                self.closing.push(unsealed);
            }
            // Without memory for its footer it is reclaimed without one.
            None => self.segments.set_role(segment, Role::Sealed),
        }
    }

    fn unread(&mut self, sequence: u64) {
        let is_slices = |entry: &TableEntry| entry.sequence == sequence && entry.class == Class::Slices;
        // Slices hide nothing.
        if !self.segments.iter().any(|(_, segment)| is_slices(&segment.entry)) {
            self.unread_below = self.unread_below.max(sequence);
        }
        self.unread_last = sequence;
        self.stats.unread += 1;
    }

    fn announce(&self, entry: &FooterEntry) {
        self.index.prefetch(entry.hash);
    }

    fn recovered(&mut self) {
        if !self.is_recovered() {
            self.phase = Phase::Sweeping(0);
        }
    }
}
