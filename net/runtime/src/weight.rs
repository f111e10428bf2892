//! What a core's things weigh on the heap, added up without an atomic and taken off when they go.
//!
//! Whoever keeps memory that no allocation counter tells apart (a queued send, a task, a viewer's bytes) holds a [`Weight`] beside it. The
//! handler reads the sums once a turn and holds them against its budget. Invariant: a meter is the sum of the weights that live.

use std::cell::Cell;
use std::rc::Rc;

/// The sum of the weights of one kind, on one core.
#[derive(Clone, Debug, Default)]
pub struct Meter(Rc<Cell<u64>>);

/// What one thing weighs, for as long as this lives.
#[derive(Debug)]
#[must_use = "a weight that is dropped weighs nothing"]
pub struct Weight {
    meter: Meter,
    len: u64,
}

impl Meter {
    /// Returns the sum.
    pub fn sum(&self) -> u64 {
        self.0.get()
    }

    /// Adds `len` bytes until the weight is dropped.
    pub fn weigh(&self, len: usize) -> Weight {
        self.0.set(self.0.get() + len as u64);
        Weight { meter: self.clone(), len: len as u64 }
    }
}

impl Weight {
    /// Makes this weigh `len` bytes from now on.
    pub fn set(&mut self, len: usize) {
        self.meter.0.set(self.meter.0.get() - self.len + len as u64);
        self.len = len as u64;
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_is_the_sum_of_the_weights_that_live() {
        let meter = Meter::default();
        let (mut one, other) = (meter.weigh(10), meter.clone().weigh(5));
        assert_eq!(meter.sum(), 15);
        one.set(3);
        assert_eq!(meter.sum(), 8);
        drop(other);
        one.set(100);
        assert_eq!(meter.sum(), 100);
        drop(one);
        assert_eq!(meter.sum(), 0);
    }
}
