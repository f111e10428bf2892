//! Remembers keys that were evicted unused, first in first out, as S3-FIFO is published.
//!
//! S3-FIFO asks on insertion. Fingerprints of 64 bits: a false memory costs one better place in the queue, nothing else.
//! Invariants: what is remembered stands for no more bytes than the bound, and is no more keys than the bound.

use std::collections::{HashMap, VecDeque};

/// A first-in-first-out memory of evicted keys.
#[derive(Debug)]
pub(super) struct Ghost {
    len_max: u64,
    len: u64,
    queue: VecDeque<Remembered>,
    /// The newest entry of each fingerprint, by its running number.
    newest: HashMap<u64, u64>,
    /// Running number of the queue's first entry.
    first: u64,
}

#[derive(Debug)]
struct Remembered {
    fingerprint: u64,
    len: u64,
}

impl Ghost {
    /// Bytes that one remembered key takes at worst, just after the tables doubled.
    pub(super) const KEY_COST: u64 =
        (2 * size_of::<Remembered>() + (size_of::<(u64, u64)>() + 1) * 16 / 7) as u64;

    /// Returns the bytes that this takes, if nothing was just doubled.
    pub(super) fn memory(&self) -> u64 {
        self.queue.len() as u64 * Self::KEY_COST
    }

    /// Makes an empty memory for keys of `len_max` bytes of responses together.
    pub(super) fn new(len_max: u64) -> Ghost {
        Ghost { len_max, len: 0, queue: VecDeque::new(), newest: HashMap::new(), first: 0 }
    }

    /// Remembers a key whose response had `len` bytes; the oldest go until both bounds hold.
    pub(super) fn remember(&mut self, hash: u128, len: u64, count_max: usize) {
        let fingerprint = fingerprint(hash);
        self.newest.insert(fingerprint, self.first + self.queue.len() as u64);
        self.queue.push_back(Remembered { fingerprint, len });
        self.len += len;
        while self.len > self.len_max || self.queue.len() > count_max {
            let Some(oldest) = self.queue.pop_front() else { break };
            self.len -= oldest.len;
            if self.newest.get(&oldest.fingerprint) == Some(&self.first) {
                self.newest.remove(&oldest.fingerprint);
            }
            self.first += 1;
        }
    }

    /// Tells whether the key is remembered, and forgets it: its response is stored again.
    pub(super) fn recall(&mut self, hash: u128) -> bool {
        let Some(number) = self.newest.remove(&fingerprint(hash)) else { return false };
        // Its place in the queue stays as an empty one, so that its bytes are free for others at once.
        let place = &mut self.queue[(number - self.first) as usize];
        self.len -= place.len;
        place.len = 0;
        true
    }
}

fn fingerprint(hash: u128) -> u64 {
    (hash >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> u128 {
        u128::from(number) << 64
    }

    #[test]
    fn the_oldest_go_when_the_bytes_are_full() {
        let mut ghost = Ghost::new(100);
        for number in 1..=4 {
            ghost.remember(key(number), 30, 99);
        }
        assert!(!ghost.recall(key(1)));
        assert!(ghost.recall(key(2)) && ghost.recall(key(4)));
        assert!(!ghost.recall(key(2)), "recalled once");
        ghost.remember(key(5), 60, 99);
        assert!(ghost.recall(key(3)), "recalled keys leave their bytes to others");
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut ghost = Ghost::new(1000);
        for number in 1..=5 {
            ghost.remember(key(number), 1, 3);
        }
        assert_eq!((ghost.queue.len(), ghost.newest.len()), (3, 3));
        assert!(!ghost.recall(key(2)) && ghost.recall(key(3)));
    }

    #[test]
    fn a_key_remembered_twice_lasts_as_long_as_its_newer_place() {
        let mut ghost = Ghost::new(1000);
        ghost.remember(key(1), 1, 3);
        ghost.remember(key(2), 1, 3);
        ghost.remember(key(1), 1, 3);
        ghost.remember(key(3), 1, 3);
        assert!(ghost.recall(key(1)));
        for number in 4..20 {
            ghost.remember(key(number), 1, 3);
        }
        assert_eq!((ghost.len, ghost.newest.len()), (3, 3));
    }

    #[test]
    fn a_key_larger_than_the_memory_is_not_kept() {
        let mut ghost = Ghost::new(10);
        ghost.remember(key(1), 11, 3);
        assert!(!ghost.recall(key(1)));
        assert_eq!(ghost.len, 0);
    }
}
