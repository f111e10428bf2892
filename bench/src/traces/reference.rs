//! The policies as they are published, each hit told at once: what the oracle's counts are of, and what ours is held against.
//!
//! They share no code with the product. FIFO, LRU, SIEVE (Zhang et al., NSDI 2024), S3-FIFO (Yang et al., SOSP 2023, with the sizes that the
//! counts were taken with) and Belady's with bypass. An object is held exactly while it is in one of the lists.

use super::list::{List, NONE};
use super::source::Trace;
use std::collections::{BTreeSet, VecDeque};

/// A cache of one trace's objects.
pub(crate) trait Cache {
    /// Plays request number `at`, for an object, and tells whether it was a hit.
    fn request(&mut self, at: usize, object: u32) -> bool;
}

/// FIFO, or LRU where a hit makes an object the newest.
pub(super) struct Queue<'t> {
    sizes: &'t [u64],
    list: List,
    held: Vec<bool>,
    capacity: u64,
    on_hit: OnHit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnHit {
    Nothing,
    Renew,
}

impl<'t> Queue<'t> {
    pub(super) fn new(trace: &'t Trace, capacity: u64, on_hit: OnHit) -> Self {
        let count = trace.sizes.len();
        Queue { sizes: &trace.sizes, list: List::new(count), held: vec![false; count], capacity, on_hit }
    }
}

impl Cache for Queue<'_> {
    fn request(&mut self, _at: usize, object: u32) -> bool {
        let len = self.sizes[object as usize];
        if self.held[object as usize] {
            if self.on_hit == OnHit::Renew {
                self.list.remove(object, len);
                self.list.push(object, len);
            }
            return true;
        }
        if len > self.capacity {
            return false;
        }
        while self.list.len + len > self.capacity {
            let oldest = self.list.oldest;
            self.list.remove(oldest, self.sizes[oldest as usize]);
            self.held[oldest as usize] = false;
        }
        self.list.push(object, len);
        self.held[object as usize] = true;
        false
    }
}

/// A queue with a hand that goes from old to new, and takes the first that was not visited since it last came by.
pub(super) struct Sieve<'t> {
    sizes: &'t [u64],
    list: List,
    held: Vec<bool>,
    visited: Vec<bool>,
    hand: u32,
    capacity: u64,
}

impl<'t> Sieve<'t> {
    pub(super) fn new(trace: &'t Trace, capacity: u64) -> Self {
        let count = trace.sizes.len();
        Sieve {
            sizes: &trace.sizes,
            list: List::new(count),
            held: vec![false; count],
            visited: vec![false; count],
            hand: NONE,
            capacity,
        }
    }
}

impl Cache for Sieve<'_> {
    fn request(&mut self, _at: usize, object: u32) -> bool {
        let len = self.sizes[object as usize];
        if self.held[object as usize] {
            self.visited[object as usize] = true;
            return true;
        }
        if len > self.capacity {
            return false;
        }
        while self.list.len + len > self.capacity {
            let mut at = if self.hand == NONE { self.list.oldest } else { self.hand };
            while self.visited[at as usize] {
                self.visited[at as usize] = false;
                at = self.list.newer_than(at);
                if at == NONE {
                    at = self.list.oldest;
                }
            }
            self.hand = self.list.newer_than(at);
            self.list.remove(at, self.sizes[at as usize]);
            self.held[at as usize] = false;
        }
        self.list.push(object, len);
        (self.held[object as usize], self.visited[object as usize]) = (true, false);
        false
    }
}

/// S3-FIFO: a small queue of a tenth, a main queue, a ghost of nine tenths in object bytes, counters up to 3.
pub(super) struct S3Fifo<'t> {
    sizes: &'t [u64],
    small: List,
    main: List,
    place: Vec<Place>,
    uses: Vec<u8>,
    ghost: Ghost,
    small_max: u64,
    capacity: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Out,
    Small,
    Main,
}

impl<'t> S3Fifo<'t> {
    pub(super) fn new(trace: &'t Trace, capacity: u64) -> Self {
        let count = trace.sizes.len();
        S3Fifo {
            sizes: &trace.sizes,
            small: List::new(count),
            main: List::new(count),
            place: vec![Place::Out; count],
            uses: vec![0; count],
            ghost: Ghost::new(count, capacity * 9 / 10),
            small_max: capacity / 10,
            capacity,
        }
    }

    fn evict(&mut self) {
        if self.small.len > self.small_max || self.main.oldest == NONE {
            let oldest = self.small.oldest;
            let len = self.sizes[oldest as usize];
            self.small.remove(oldest, len);
            if std::mem::take(&mut self.uses[oldest as usize]) > 0 {
                self.main.push(oldest, len);
                self.place[oldest as usize] = Place::Main;
            } else {
                self.place[oldest as usize] = Place::Out;
                self.ghost.remember(oldest, len, 0);
            }
            return;
        }
        let oldest = self.main.oldest;
        let len = self.sizes[oldest as usize];
        self.main.remove(oldest, len);
        let uses = &mut self.uses[oldest as usize];
        if *uses > 0 {
            *uses -= 1;
            self.main.push(oldest, len);
        } else {
            self.place[oldest as usize] = Place::Out;
        }
    }
}

impl Cache for S3Fifo<'_> {
    fn request(&mut self, _at: usize, object: u32) -> bool {
        let len = self.sizes[object as usize];
        if self.place[object as usize] != Place::Out {
            let uses = &mut self.uses[object as usize];
            *uses = (*uses + 1).min(3);
            return true;
        }
        if len > self.capacity {
            return false;
        }
        let known = self.ghost.recall(object, len).is_some();
        while self.small.len + self.main.len + len > self.capacity {
            self.evict();
        }
        self.uses[object as usize] = 0;
        let (list, place) =
            if known { (&mut self.main, Place::Main) } else { (&mut self.small, Place::Small) };
        list.push(object, len);
        self.place[object as usize] = place;
        false
    }
}

/// Keys that left, first in first out, by bytes.
pub(super) struct Ghost {
    queue: VecDeque<Remembered>,
    /// For each object the number of the entry that counts, 0 if none does, and how often it was used.
    newest: Vec<(u32, u32)>,
    next: u32,
    len: u64,
    len_max: u64,
}

struct Remembered {
    object: u32,
    number: u32,
    len: u64,
}

impl Ghost {
    pub(super) fn new(count: usize, len_max: u64) -> Self {
        Ghost { queue: VecDeque::new(), newest: vec![(0, 0); count], next: 0, len: 0, len_max }
    }

    pub(super) fn remember(&mut self, object: u32, len: u64, uses: u32) {
        if len > self.len_max {
            return;
        }
        self.next += 1;
        self.newest[object as usize] = (self.next, uses);
        self.queue.push_back(Remembered { object, number: self.next, len });
        self.len += len;
        while self.len > self.len_max
            && let Some(oldest) = self.queue.pop_front()
        {
            // One that was recalled gave its bytes back then.
            let newest = &mut self.newest[oldest.object as usize].0;
            if *newest == oldest.number {
                *newest = 0;
                self.len -= oldest.len;
            }
        }
    }

    pub(super) fn recall(&mut self, object: u32, len: u64) -> Option<u32> {
        let (number, uses) = std::mem::take(&mut self.newest[object as usize]);
        if number == 0 {
            return None;
        }
        self.len -= len;
        Some(uses)
    }
}

/// Takes the one whose next use is farthest, and bypasses what is never used again.
pub(super) struct Belady<'t> {
    trace: &'t Trace,
    held: Vec<bool>,
    /// Next use and object.
    order: BTreeSet<(u32, u32)>,
    next_of: Vec<u32>,
    len: u64,
    capacity: u64,
}

impl<'t> Belady<'t> {
    pub(super) fn new(trace: &'t Trace, capacity: u64) -> Self {
        let count = trace.sizes.len();
        let (held, next_of) = (vec![false; count], vec![0; count]);
        Belady { trace, held, order: BTreeSet::new(), next_of, len: 0, capacity }
    }
}

impl Cache for Belady<'_> {
    fn request(&mut self, at: usize, object: u32) -> bool {
        let len = self.trace.sizes[object as usize];
        let next = self.trace.next_uses[at];
        let is_hit = self.held[object as usize];
        if is_hit {
            self.order.remove(&(self.next_of[object as usize], object));
            if next == u32::MAX {
                self.held[object as usize] = false;
                self.len -= len;
                return true;
            }
        } else {
            if len > self.capacity || next == u32::MAX {
                return false;
            }
            self.len += len;
            self.held[object as usize] = true;
        }
        self.order.insert((next, object));
        self.next_of[object as usize] = next;
        while self.len > self.capacity {
            let Some((_, farthest)) = self.order.pop_last() else { break };
            self.held[farthest as usize] = false;
            self.len -= self.trace.sizes[farthest as usize];
        }
        is_hit
    }
}
