//! Remembers what left, so that a key that comes back soon is known to be worth more.
//!
//! A fingerprint, a time and a use count in eight bytes, eight to a cache line; nothing is linked and nothing grows. The time is the number of
//! bytes that had left until then, so a key is remembered until as many bytes as the tier holds left after it. Fingerprints of 24 bits: a
//! false memory costs one better place, nothing else. Invariant: no more memory than the share of the capacity, however many keys leave.

/// Keys that share a line: a further one takes the place of the oldest.
const WAYS: usize = 8;

/// Bits of the time that a window, as many bytes as the tier holds, is long.
const WINDOW_BITS: u32 = 24;

/// A bounded memory of keys that left.
#[derive(Debug)]
pub(super) struct Ghost {
    /// Made when the first key leaves; empty until then.
    lines: Vec<[u64; WAYS]>,
    line_count: usize,
    /// Bytes that left.
    clock: u64,
    len_max: u64,
}

impl Ghost {
    /// Makes a memory for keys of `len_max` bytes of responses together, that takes at most `memory_max` bytes, and one line.
    pub(super) fn new(len_max: u64, memory_max: u64) -> Ghost {
        let line_count = (memory_max as usize / size_of::<[u64; WAYS]>()).max(1);
        Ghost { lines: Vec::new(), line_count, clock: 0, len_max }
    }

    /// Returns the bytes that this takes.
    pub(super) fn memory(&self) -> u64 {
        size_of_val(&*self.lines) as u64
    }

    /// Returns the bytes that it takes from the first key on.
    pub(super) fn growth(&self) -> u64 {
        if self.lines.is_empty() { (self.line_count * size_of::<[u64; WAYS]>()) as u64 } else { 0 }
    }

    /// Takes the memory, so that remembering takes none.
    pub(super) fn reserve(&mut self) {
        if self.lines.is_empty() {
            // Zeroed pages of the kernel: what is never used is never touched.
            self.lines = vec![[0; WAYS]; self.line_count];
        }
    }

    /// Remembers a key whose response had `len` bytes and was used `uses` times.
    pub(super) fn remember(&mut self, hash: u128, len: u64, uses: u8) {
        let now = self.time();
        self.clock += len;
        if len > self.len_max || self.lines.is_empty() {
            return;
        }
        let key = fingerprint(hash);
        let line = self.line_of(hash);
        let slots = &mut self.lines[line];
        let age = |slot: u64| if slot == 0 { u32::MAX } else { now.wrapping_sub((slot >> 8) as u32) };
        let same = slots.iter().position(|slot| slot >> 40 == key && *slot != 0);
        let oldest = || (0..WAYS).max_by_key(|way| age(slots[*way])).unwrap_or(0);
        let way = same.unwrap_or_else(oldest);
        slots[way] = key << 40 | u64::from(now) << 8 | u64::from(uses);
    }

    /// Returns how often the response of a remembered key was used, and forgets it: its response is stored again.
    pub(super) fn recall(&mut self, hash: u128) -> Option<u8> {
        let (now, key) = (self.time(), fingerprint(hash));
        let window = self.units(self.len_max) as u32;
        let line = self.line_of(hash);
        let slot = self.lines.get_mut(line)?.iter_mut().find(|slot| **slot >> 40 == key && **slot != 0)?;
        let found = std::mem::take(slot);
        (now.wrapping_sub((found >> 8) as u32) <= window).then_some(found as u8)
    }

    /// The time goes round after 256 windows; what was not overwritten until then is taken for young once more, for one window.
    fn time(&self) -> u32 {
        self.units(self.clock) as u32
    }

    fn units(&self, bytes: u64) -> u64 {
        bytes >> (u64::BITS - self.len_max.leading_zeros()).saturating_sub(WINDOW_BITS)
    }

    fn line_of(&self, hash: u128) -> usize {
        // Not by the top bits of all: those name the core.
        ((u128::from(hash as u64) * self.line_count as u128) >> 64) as usize
    }
}

/// 24 bits that are never all zero, so that no slot in use looks free.
fn fingerprint(hash: u128) -> u64 {
    ((hash >> 64) as u64 & 0xff_ffff).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> u128 {
        u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }

    fn ghost(len_max: u64, memory_max: u64) -> Ghost {
        let mut ghost = Ghost::new(len_max, memory_max);
        assert_eq!(ghost.memory(), 0);
        ghost.reserve();
        ghost
    }

    #[test]
    fn a_key_is_remembered_once_with_its_uses_until_a_tier_of_bytes_has_left() {
        let mut ghost = ghost(100, 4096);
        for number in 1..=4 {
            ghost.remember(key(number), 30, number as u8);
        }
        assert_eq!(ghost.recall(key(1)), None, "it and what left since are more than the tier holds");
        assert_eq!((ghost.recall(key(2)), ghost.recall(key(2))), (Some(2), None));
        assert_eq!((ghost.recall(key(4)), ghost.recall(key(5))), (Some(4), None));
    }

    #[test]
    fn a_key_that_leaves_again_is_remembered_anew() {
        let mut ghost = ghost(1000, 64);
        ghost.remember(key(1), 600, 1);
        ghost.remember(key(1), 600, 5);
        assert_eq!((ghost.recall(key(1)), ghost.recall(key(1))), (Some(5), None));
        ghost.remember(key(2), 1001, 5);
        assert_eq!(ghost.recall(key(2)), None, "larger than the tier");
    }

    #[test]
    fn the_oldest_of_a_line_gives_way_and_memory_stays_as_it_is() {
        let mut ghost = ghost(1 << 40, 64);
        let memory = ghost.memory();
        for number in 0..100 {
            ghost.remember(key(number), 1 << 20, 1);
        }
        assert_eq!(memory, 64);
        assert_eq!((ghost.memory(), ghost.growth()), (memory, 0));
        let known: Vec<u64> = (0..100).filter(|number| ghost.recall(key(*number)).is_some()).collect();
        assert_eq!(known, (92..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_time_may_go_round() {
        let mut ghost = ghost(1 << 30, 1 << 16);
        for number in 0..600 {
            ghost.remember(key(number), 1 << 30, 1);
        }
        ghost.remember(key(600), 1 << 29, 1);
        ghost.remember(key(601), 1 << 29, 1);
        assert!(ghost.recall(key(600)).is_some() && ghost.recall(key(601)).is_some());
        assert_eq!(ghost.recall(key(598)), None);
    }
}
