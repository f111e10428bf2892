//! The product's order of eviction in its exact form: each hit is told at once, counts have no end, worth is floating point, the ghost has whole keys.
//!
//! Written from the design and not from the product's code, so that the two check each other: where the lazy form and the fixed-point worth cost
//! hits, it shows here.

use super::list::List;
use super::reference::{Cache, Ghost};
use super::source::Trace;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Out,
    Probation,
    Main,
}

/// The product's order with each hit told at once.
pub(super) struct Exact<'t> {
    sizes: &'t [u64],
    probation: List,
    main_len: u64,
    place: Vec<Place>,
    uses: Vec<u32>,
    worth: Vec<f64>,
    /// Objects of main by the bits of what they were worth when they were put there or looked at: of positive numbers these have the same order.
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    floor: f64,
    ghost: Ghost,
    share: u64,
    capacity: u64,
}

impl<'t> Exact<'t> {
    pub(super) fn new(trace: &'t Trace, capacity: u64, share: u64) -> Self {
        let count = trace.sizes.len();
        Exact {
            sizes: &trace.sizes,
            probation: List::new(count),
            main_len: 0,
            place: vec![Place::Out; count],
            uses: vec![0; count],
            worth: vec![0.0; count],
            heap: BinaryHeap::new(),
            floor: 0.0,
            ghost: Ghost::new(count, capacity),
            share,
            capacity,
        }
    }

    fn worth_now(&self, object: u32) -> f64 {
        self.floor + f64::from(self.uses[object as usize]) / (self.sizes[object as usize] as f64).sqrt()
    }

    fn push_main(&mut self, object: u32) {
        let worth = self.worth_now(object);
        self.worth[object as usize] = worth;
        self.place[object as usize] = Place::Main;
        self.main_len += self.sizes[object as usize];
        self.heap.push(Reverse((worth.to_bits(), object)));
    }

    fn evict(&mut self) {
        if self.probation.len * 100 > self.share * self.capacity || self.heap.is_empty() {
            let oldest = self.probation.oldest;
            let len = self.sizes[oldest as usize];
            self.probation.remove(oldest, len);
            if self.uses[oldest as usize] >= 2 {
                self.push_main(oldest);
            } else {
                self.place[oldest as usize] = Place::Out;
                self.ghost.remember(oldest, len, self.uses[oldest as usize]);
            }
            return;
        }
        let Some(Reverse((bits, object))) = self.heap.pop() else { return };
        let worth = f64::from_bits(bits);
        let now = self.worth[object as usize];
        if now > worth {
            self.heap.push(Reverse((now.to_bits(), object)));
            return;
        }
        self.floor = worth;
        let len = self.sizes[object as usize];
        self.main_len -= len;
        self.place[object as usize] = Place::Out;
        self.ghost.remember(object, len, self.uses[object as usize] / 2);
    }
}

impl Cache for Exact<'_> {
    fn request(&mut self, _at: usize, object: u32) -> bool {
        let len = self.sizes[object as usize];
        match self.place[object as usize] {
            Place::Out => {}
            Place::Probation => {
                self.uses[object as usize] += 1;
                return true;
            }
            Place::Main => {
                self.uses[object as usize] += 1;
                self.worth[object as usize] = self.worth_now(object);
                return true;
            }
        }
        if len > self.capacity {
            return false;
        }
        let known = self.ghost.recall(object, len);
        while self.probation.len + self.main_len + len > self.capacity {
            self.evict();
        }
        self.uses[object as usize] = known.unwrap_or(0) + 1;
        if known.is_some() {
            self.push_main(object);
        } else {
            self.probation.push(object, len);
            self.place[object as usize] = Place::Probation;
        }
        false
    }
}
