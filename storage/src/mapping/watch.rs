//! Tells the model checker who reads and who writes which unit of a mapping; nothing at all in a normal build.
//!
//! The checker knows the order of atomics only; a byte that is read by one thread while another writes it looks to it like any other
//! byte. So each access to a mapping is noted here, by unit, before it is made: two of which one writes, and of which neither is known to
//! come first, end the test. Fed by everything in `mapping` that makes a slice or copies; read by `tests/loom`.
//!
//! Invariant: a test's bodies change hands at whole units only, because a unit is either read or written here, never both.

#[cfg(not(loom))]
mod none {
    /// Notes nothing.
    #[derive(Debug)]
    pub(in crate::mapping) struct Watch;

    impl Watch {
        pub(in crate::mapping) fn new() -> Watch {
            Watch
        }

        #[inline(always)]
        pub(in crate::mapping) fn read(&self, _offset: usize, _len: usize) {}

        #[inline(always)]
        pub(in crate::mapping) fn write(&self, _offset: usize, _len: usize) {}
    }
}

#[cfg(loom)]
mod cells {
    use crate::limits::BLOCK_LEN_MIN;
    use loom::cell::UnsafeCell;

    /// Units that are watched: as many as the tests use, because each costs time in every run.
    const UNIT_COUNT: usize = 64;

    /// Notes accesses by unit.
    #[derive(Debug)]
    pub(in crate::mapping) struct Watch(Vec<UnsafeCell<()>>);

    // SAFETY: the cells hold no data; all that happens to them is that the checker notes an access.
    unsafe impl Sync for Watch {}

    impl Watch {
        pub(in crate::mapping) fn new() -> Watch {
            Watch((0..UNIT_COUNT).map(|_| UnsafeCell::new(())).collect())
        }

        #[track_caller]
        pub(in crate::mapping) fn read(&self, offset: usize, len: usize) {
            self.units(offset, len).iter().for_each(|unit| unit.with(|_| ()));
        }

        #[track_caller]
        pub(in crate::mapping) fn write(&self, offset: usize, len: usize) {
            self.units(offset, len).iter().for_each(|unit| unit.with_mut(|_| ()));
        }

        fn units(&self, offset: usize, len: usize) -> &[UnsafeCell<()>] {
            &self.0[offset / BLOCK_LEN_MIN..(offset + len).div_ceil(BLOCK_LEN_MIN)]
        }
    }
}

#[cfg(loom)]
pub(super) use cells::Watch;
#[cfg(not(loom))]
pub(super) use none::Watch;
