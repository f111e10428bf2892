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

use slab::Slab;

use super::ghost::Ghost;
use super::{Handle, Policy};
use crate::limits::{EVICTION_STEPS_MAX, GHOST_COUNT_MIN, USE_COUNT_MAX};

/// Ends a queue.
const NO_NODE: u32 = u32::MAX;

/// The first policy; simple, and better than LRU on every trace with many one-time keys.
#[derive(Debug)]
pub struct S3Fifo {
    nodes: Slab<Node>,
    small: Queue,
    main: Queue,
    small_len_max: u64,
    ghost: Ghost,
}

#[derive(Debug)]
struct Node {
    hash: u128,
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

impl Policy for S3Fifo {
    const ENTRY_COST: u64 = 2 * size_of::<(usize, Node)>() as u64 + Ghost::KEY_COST;

    type Standing = Standing;

    fn new(capacity: u64) -> S3Fifo {
        S3Fifo {
            nodes: Slab::new(),
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            small_len_max: capacity / 10,
            ghost: Ghost::new(capacity / 10 * 9),
        }
    }

    fn insert(&mut self, hash: u128, len: u64, before: Option<Standing>) -> Handle {
        let Standing { place, uses } = before.unwrap_or_else(|| {
            let place = if self.ghost.recall(hash) { Place::Main } else { Place::Small };
            Standing { place, uses: 0 }
        });
        let node = Node { hash, len, newer: NO_NODE, older: NO_NODE, place, uses };
        let handle = self.nodes.insert(node) as u32;
        self.push(handle, place);
        Handle(handle)
    }

    fn remove(&mut self, handle: Handle, uses: u8) -> Standing {
        self.unlink(handle.0);
        let node = self.nodes.remove(handle.0 as usize);
        Standing { place: node.place, uses: (node.uses + uses).min(USE_COUNT_MAX) }
    }

    fn evict(&mut self, take_uses: &mut dyn FnMut(u128) -> u8) -> Option<u128> {
        for step in 0.. {
            let from_small = self.small.len > self.small_len_max || self.main.oldest == NO_NODE;
            let handle = if from_small { self.small.oldest } else { self.main.oldest };
            let node = self.nodes.get_mut(handle as usize)?;
            node.uses = (node.uses + take_uses(node.hash)).min(USE_COUNT_MAX);
            if node.uses > 0 && step < EVICTION_STEPS_MAX {
                // From the small queue an entry starts anew; in the main queue each round costs one use.
                node.uses = if from_small { 0 } else { node.uses - 1 };
                self.unlink(handle);
                self.push(handle, Place::Main);
                continue;
            }
            let (hash, len) = (node.hash, node.len);
            if from_small {
                let count_max = self.nodes.len().max(GHOST_COUNT_MIN);
                self.ghost.remember(hash, len, count_max);
            }
            self.remove(Handle(handle), 0);
            return Some(hash);
        }
        None
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
        let node = &mut self.nodes[handle as usize];
        (node.newer, node.older, node.place) = (NO_NODE, older, place);
        let len = node.len;
        if older != NO_NODE {
            self.nodes[older as usize].newer = handle;
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
        let node = &self.nodes[handle as usize];
        let (newer, older, place, len) = (node.newer, node.older, node.place, node.len);
        if newer != NO_NODE {
            self.nodes[newer as usize].older = older;
        }
        if older != NO_NODE {
            self.nodes[older as usize].newer = newer;
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
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Responses of 10 bytes in a tier of 100, so that the small queue's share is one of them.
    ///
    /// What happens: `+n` a response of n comes, `*n` it is used, `-n` it is removed, `=n` it is replaced, `!` one is evicted.
    fn run(script: &str) -> Vec<u128> {
        let mut policy = S3Fifo::new(100);
        let mut uses: HashMap<u128, u8> = HashMap::new();
        let mut handles: HashMap<u128, Handle> = HashMap::new();
        let mut evicted = Vec::new();
        for word in script.split_whitespace() {
            let (kind, number) = word.split_at(1);
            let hash = number.parse::<u128>().unwrap_or(0) << 64;
            match kind {
                "+" => drop(handles.insert(hash, policy.insert(hash, 10, None))),
                "=" => {
                    let uses = uses.insert(hash, 0).unwrap_or(0);
                    let before = policy.remove(handles[&hash], uses);
                    handles.insert(hash, policy.insert(hash, 10, Some(before)));
                }
                "*" => *uses.entry(hash).or_default() += 1,
                "-" => drop(policy.remove(handles.remove(&hash).unwrap(), 0)),
                _ => evicted.extend(
                    policy.evict(&mut |hash| uses.insert(hash, 0).unwrap_or(0)).map(|hash| hash >> 64),
                ),
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
        let mut policy = S3Fifo::new(100);
        policy.insert(1, 10, None);
        policy.insert(2, 10, None);
        let mut asked = 0;
        let evicted = policy.evict(&mut |_| {
            asked += 1;
            3
        });
        assert!(evicted.is_some());
        assert_eq!(asked, EVICTION_STEPS_MAX + 1);
    }

    proptest! {
        #[test]
        fn queues_stay_whole(steps in prop::collection::vec((0u8..4, any::<u8>(), 1u64..50), 1..300)) {
            let mut policy = S3Fifo::new(1000);
            let mut held: Vec<(u128, Handle, u64)> = Vec::new();
            for (number, (kind, which, len)) in steps.into_iter().enumerate() {
                match kind {
                    0 | 1 => {
                        let hash = (number as u128 % 40) << 64 | number as u128;
                        held.push((hash, policy.insert(hash, len, None), len));
                    }
                    2 if !held.is_empty() => drop(policy.remove(held.swap_remove(which as usize % held.len()).1, 0)),
                    _ => {
                        let evicted = policy.evict(&mut |hash| (hash as u8 ^ which) % 4);
                        prop_assert_eq!(evicted.is_none(), held.is_empty());
                        held.retain(|entry| Some(entry.0) != evicted);
                    }
                }
                let sum: u64 = held.iter().map(|entry| entry.2).sum();
                prop_assert_eq!((policy.small.len + policy.main.len, policy.nodes.len()), (sum, held.len()));
            }
            while let Some(evicted) = policy.evict(&mut |_| 0) {
                held.retain(|entry| entry.0 != evicted);
            }
            prop_assert!(held.is_empty() && policy.small.oldest == NO_NODE && policy.main.newest == NO_NODE);
        }
    }
}
