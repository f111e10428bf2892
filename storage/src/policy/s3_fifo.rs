//! S3-FIFO: a small queue on trial, a main queue, and a memory of what left the small queue unused.
//!
//! ```text
//! new key ─────────────> small (10 % of the bytes) ── used since ──> main ── used since ──> main again, one use less
//! remembered key ──────────────────────────────────────────────────> main
//!                        small ── unused ──> evicted, remembered     main ── unused ──> evicted
//! replaced (validated, fetched anew) ──> the newest end of its queue, with its uses
//! ```
//!
//! Invariants: each entry is in one queue; a queue's bytes are the sum of its entries'; one eviction moves at most
//! `EVICTION_STEPS_MAX` entries aside.

use super::ghost::Ghost;
use super::{Entries, Handle, Policy};
use crate::limits::{EVICTION_STEPS_MAX, GHOST_COUNT_MIN, USE_COUNT_MAX};
use crate::pages::Pages;

/// Ends a queue.
const NO_NODE: u32 = u32::MAX;

/// Simple, and better than LRU on every trace with many one-time keys; what the tier's own policy is held against.
#[derive(Debug)]
pub struct S3Fifo {
    nodes: Pages<Node>,
    count: usize,
    small: Queue,
    main: Queue,
    small_len_max: u64,
    ghost: Ghost,
}

#[derive(Debug)]
struct Node {
    len: u64,
    /// Towards the newer end.
    newer: u32,
    /// Towards the older end.
    older: u32,
    place: Place,
    uses: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Small,
    Main,
}

/// Queue and uses of an entry that left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    place: Place,
    uses: u8,
}

#[derive(Debug)]
struct Queue {
    newest: u32,
    oldest: u32,
    len: u64,
}

impl Default for Node {
    fn default() -> Node {
        Node { len: 0, newer: NO_NODE, older: NO_NODE, place: Place::Small, uses: 0 }
    }
}

impl Policy for S3Fifo {
    type Standing = Standing;

    fn new(capacity: u64) -> S3Fifo {
        S3Fifo {
            nodes: Pages::new(),
            count: 0,
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            small_len_max: capacity / 10,
            ghost: Ghost::new((u128::from(capacity) * 9 / 10) as u64),
        }
    }

    fn insert(&mut self, entry: Handle, hash: u128, len: u64, before: Option<Standing>) {
        while entry.0 as usize >= self.nodes.len() {
            self.nodes.grow();
        }
        let Standing { place, uses } = before.unwrap_or_else(|| {
            let place = if self.ghost.recall(hash) { Place::Main } else { Place::Small };
            Standing { place, uses: 0 }
        });
        *self.nodes.at_mut(entry.0) = Node { len, uses, ..Node::default() };
        self.push(entry.0, place);
        self.count += 1;
    }

    fn remove(&mut self, entry: Handle, uses: u8) -> Standing {
        self.unlink(entry.0);
        self.count -= 1;
        let node = self.nodes.at(entry.0);
        Standing { place: node.place, uses: (node.uses + uses).min(USE_COUNT_MAX) }
    }

    fn evict(&mut self, entries: &mut dyn Entries) -> Option<Handle> {
        for step in 0.. {
            let from_small = self.small.len > self.small_len_max || self.main.oldest == NO_NODE;
            let entry = if from_small { self.small.oldest } else { self.main.oldest };
            if entry == NO_NODE {
                return None;
            }
            let node = self.nodes.at_mut(entry);
            node.uses = (node.uses + entries.take_uses(Handle(entry))).min(USE_COUNT_MAX);
            if node.uses > 0 && step < EVICTION_STEPS_MAX {
                // From the small queue an entry starts anew; in the main queue each round costs one use.
                node.uses = if from_small { 0 } else { node.uses - 1 };
                self.unlink(entry);
                self.push(entry, Place::Main);
                continue;
            }
            let len = node.len;
            if from_small {
                let count_max = self.count.max(GHOST_COUNT_MIN);
                self.ghost.remember(entries.hash(Handle(entry)), len, count_max);
            }
            self.remove(Handle(entry), 0);
            return Some(Handle(entry));
        }
        None
    }

    fn memory(&self) -> u64 {
        self.nodes.memory() + self.ghost.memory()
    }

    fn growth(&self, entry: Handle) -> u64 {
        let page = if entry.0 as usize >= self.nodes.len() { Pages::<Node>::PAGE_COST } else { 0 };
        page + Ghost::KEY_COST
    }
}

impl S3Fifo {
    fn queue(&mut self, place: Place) -> &mut Queue {
        match place {
            Place::Small => &mut self.small,
            Place::Main => &mut self.main,
        }
    }

    /// Puts a node at a queue's newest end.
    fn push(&mut self, handle: u32, place: Place) {
        let older = self.queue(place).newest;
        let node = self.nodes.at_mut(handle);
        (node.newer, node.older, node.place) = (NO_NODE, older, place);
        let len = node.len;
        if older != NO_NODE {
            self.nodes.at_mut(older).newer = handle;
        }
        let queue = self.queue(place);
        queue.newest = handle;
        queue.len += len;
        if older == NO_NODE {
            queue.oldest = handle;
        }
    }

    /// Takes a node out of its queue.
    fn unlink(&mut self, handle: u32) {
        let node = self.nodes.at(handle);
        let (newer, older, place, len) = (node.newer, node.older, node.place, node.len);
        if newer != NO_NODE {
            self.nodes.at_mut(newer).older = older;
        }
        if older != NO_NODE {
            self.nodes.at_mut(older).newer = newer;
        }
        let queue = self.queue(place);
        queue.len -= len;
        if newer == NO_NODE {
            queue.newest = older;
        }
        if older == NO_NODE {
            queue.oldest = newer;
        }
    }
}

impl Queue {
    const EMPTY: Queue = Queue { newest: NO_NODE, oldest: NO_NODE, len: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::{Endless, Model, play};
    use proptest::prelude::*;

    /// Responses of 10 bytes in a tier of 100, so that the small queue's share is one of them.
    ///
    /// What happens: `+n` a response of n comes, `*n` it is used, `-n` it is removed, `=n` it is replaced, `!` one is evicted.
    fn run(script: &str) -> Vec<u128> {
        let mut policy = S3Fifo::new(100);
        let mut entries = Model::default();
        let mut evicted = Vec::new();
        for word in script.split_whitespace() {
            let (kind, number) = word.split_at(1);
            let hash = number.parse::<u128>().unwrap_or(0) << 64;
            match kind {
                "+" => policy.insert(entries.add(hash), hash, 10, None),
                "=" => {
                    let entry = entries.find(hash);
                    let uses = entries.take_uses(entry);
                    let before = policy.remove(entry, uses);
                    policy.insert(entry, hash, 10, Some(before));
                }
                "*" => entries.note_use(hash),
                "-" => drop(policy.remove(entries.remove(hash), 0)),
                _ => evicted.extend(policy.evict(&mut entries).map(|entry| entries.take(entry) >> 64)),
            }
        }
        evicted
    }

    #[test]
    fn the_order_of_eviction_is_that_of_s3_fifo() {
        let table: [(&str, &[u128]); 11] = [
            ("!", &[]),
            ("+1 +2 +3 ! ! ! !", &[1, 2, 3]),
            // A used entry of the small queue moves to main; unused ones leave first.
            ("+1 +2 +3 +4 *1 ! !", &[2, 3]),
            // Small within its share (10 of 100 bytes): main gives.
            ("+1 +2 *1 +3 ! !", &[2, 1]),
            // A second use in main buys one more round.
            ("+1 +2 +3 *1 *2 +4 ! *1 +5 ! !", &[3, 4, 2]),
            // A remembered key goes to main at once and outlives newer unused ones.
            ("+1 +2 ! +1 +3 +4 ! !", &[1, 2, 3]),
            // Removal leaves the queues whole, at either end and between.
            ("+1 +2 +3 -2 ! !", &[1, 3]),
            ("+1 +2 +3 -1 -3 ! !", &[2]),
            // A main entry with three uses takes three rounds; without others it still leaves.
            ("+1 +2 +3 *1 ! *1 *1 *1 !", &[2, 1]),
            // A replaced entry keeps its queue and its uses, and has the time of a new one.
            ("+1 +2 +3 *1 ! =1 +4 +5 ! ! !", &[2, 3, 4, 1]),
            ("+1 *1 =1 +2 +3 ! !", &[2, 1]),
        ];
        for (script, expected) in table {
            assert_eq!(run(script), expected, "{script}");
        }
    }

    #[test]
    fn endless_uses_do_not_stop_an_eviction() {
        let mut entries = Endless::default();
        let mut policy = S3Fifo::new(100);
        policy.insert(Handle(0), 1, 10, None);
        policy.insert(Handle(1), 2, 10, None);
        assert!(policy.evict(&mut entries).is_some());
        assert_eq!(entries.asked, EVICTION_STEPS_MAX + 1);
    }

    proptest! {
        #[test]
        fn queues_stay_whole(steps in prop::collection::vec((0u8..4, any::<u8>(), 1u64..50), 1..300)) {
            let policy = play(S3Fifo::new(1000), &steps, |policy| {
                (policy.small.len + policy.main.len, policy.count)
            });
            prop_assert!(policy.small.oldest == NO_NODE && policy.main.newest == NO_NODE);
        }
    }
}
