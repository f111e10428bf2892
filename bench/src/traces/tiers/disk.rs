//! The disk of the two tiers: a log of segments that the product's admission guards; the oldest is given up for room, and what was used in it written
//! anew.

use super::super::source::Trace;
use super::super::source::mix;
use aspis_storage::disk::admission::Admission;
use std::collections::VecDeque;

/// Most of a segment that is given up that is written anew, in percent: with no more, writing amplifies by no more than a third.
const REINSERTED_PERCENT: u64 = 25;
/// Hits of an object that are counted.
const HITS_MAX: u8 = 3;
/// An object that would fill more than one part in so many of the disk is not written.
const LARGEST_SHARE: u64 = 8;

/// A log of segments.
pub(super) struct Disk<'t> {
    sizes: &'t [u64],
    capacity: u64,
    segment_len: u64,
    admission: Admission,
    now_ms: u64,
    /// Oldest first; the last is open. One takes objects until it is full, so that it may be longer by a part of the last.
    segments: VecDeque<Vec<u32>>,
    open_len: u64,
    len: u64,
    held: Vec<bool>,
    hits: Vec<u8>,
    admitted: u64,
    written: u64,
    offers: u64,
}

impl<'t> Disk<'t> {
    pub(super) fn new(trace: &'t Trace, capacity: u64, segment_len: u64, admission: Admission) -> Self {
        let count = trace.sizes.len();
        Disk {
            sizes: &trace.sizes,
            capacity,
            segment_len,
            admission,
            now_ms: 0,
            segments: VecDeque::from([Vec::new()]),
            open_len: 0,
            len: 0,
            held: vec![false; count],
            hits: vec![0; count],
            admitted: 0,
            written: 0,
            offers: 0,
        }
    }

    /// Tells the time.
    pub(super) fn now(&mut self, millis: u64) {
        self.now_ms = millis;
    }

    pub(super) fn has(&self, object: u32) -> bool {
        self.held[object as usize]
    }

    /// Notes that an object that is held was used.
    pub(super) fn used(&mut self, object: u32) {
        let hits = &mut self.hits[object as usize];
        *hits = (*hits + 1).min(HITS_MAX);
    }

    /// Offers an object that is not held.
    pub(super) fn offer(&mut self, object: u32, used_before: bool) {
        let len = self.sizes[object as usize];
        self.offers += 1;
        let random = (mix(self.offers) >> 32) as u32;
        if len > self.capacity / LARGEST_SHARE || !self.admission.admit(self.now_ms, len, used_before, random)
        {
            return;
        }
        self.admitted += len;
        self.hits[object as usize] = 0;
        self.write(object);
        while self.len > self.capacity && self.segments.len() > 1 {
            self.reclaim();
        }
    }

    /// Returns the bytes that were admitted, and those that were written.
    pub(super) fn wrote(&self) -> (u64, u64) {
        (self.admitted, self.written)
    }

    fn write(&mut self, object: u32) {
        let len = self.sizes[object as usize];
        if self.open_len >= self.segment_len {
            self.segments.push_back(Vec::new());
            self.open_len = 0;
        }
        self.segments.back_mut().expect("one is always open").push(object);
        self.held[object as usize] = true;
        self.open_len += len;
        self.len += len;
        self.written += len;
        self.admission.spend(len);
    }

    /// Gives the oldest segment up.
    fn reclaim(&mut self) {
        let mut objects = self.segments.pop_front().expect("there are two at least");
        for object in &objects {
            self.held[*object as usize] = false;
            self.len -= self.sizes[*object as usize];
        }
        let needed = self.admission.reinsertion_hits(self.now_ms);
        let mut left = self.segment_len * REINSERTED_PERCENT / 100;
        // The most used first.
        objects.sort_by_key(|object| std::cmp::Reverse(self.hits[*object as usize]));
        for object in objects {
            let (len, hits) = (self.sizes[object as usize], self.hits[object as usize]);
            if hits >= needed && len <= left {
                left -= len;
                self.hits[object as usize] = 0;
                self.write(object);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(trace: &Trace) -> Disk<'_> {
        Disk::new(trace, 800, 100, Admission::new(None, 1))
    }

    #[test]
    fn what_was_used_is_written_anew_and_the_rest_goes() {
        let trace = Trace::new("by hand", Vec::new(), vec![25; 100], 1);
        let mut disk = disk(&trace);
        (0..32).for_each(|object| disk.offer(object, false));
        assert_eq!((disk.len, disk.written), (800, 800));
        disk.used(1);
        disk.used(2);
        disk.offer(32, false);
        // The oldest segment had four, and a quarter of it may be written anew.
        let held: Vec<u32> = (0..5).filter(|object| disk.has(*object)).collect();
        assert_eq!(held, [1, 4]);
        assert_eq!((disk.admitted, disk.written, disk.len), (825, 850, 750));
    }

    #[test]
    fn the_log_never_outgrows_its_room() {
        let trace = Trace::new("by hand", Vec::new(), (1..=400).collect(), 1);
        let mut disk = disk(&trace);
        for object in 0..400 {
            disk.offer(object, false);
            if object % 3 == 0 && disk.has(object) {
                disk.used(object);
            }
            assert!(disk.len <= 800, "{} after {object}", disk.len);
        }
        assert!(!disk.has(399), "half of the disk is too much for one");
    }
}
