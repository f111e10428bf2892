//! Probation, the main part and the memory of what left, with a given share for probation.
//!
//! ```text
//! unknown key ────> probation (FIFO, a share of the bytes) ── used since ──> main (heap)
//! remembered key ────────────────────────────────────────────────────────> main, with its uses
//!                   probation ── unused ──> out, remembered    main ── least worth, unused since ──> out, remembered
//! ```
//!
//! In main an entry is worth `floor + uses * weight`, the weight falling with the root of its length; the floor is what the last one that left
//! was worth, so that old uses fade. Uses are asked for when an entry is looked at, and count from the floor of that moment. The product
//! runs this once per core, and three small ones to find the best share. Invariants: each entry is in one part; a part's bytes are the sum of
//! its entries'; one eviction looks at `EVICTION_STEPS_MAX` entries at most; all that is worth something is within half the range of `u32`.

use super::ghost::Ghost;
use crate::limits::EVICTION_STEPS_MAX;
use crate::pages::Pages;
use crate::policy::heap::{Heap, Place};
use crate::policy::{Entries, Handle};

/// Ends the queue.
const NONE: u32 = u32::MAX;

/// The weight of a single byte.
const WEIGHT_MAX: u32 = 1 << 22;

/// What the oldest of the probation queue needs to stay: the request that brought it, and one more.
const PROMOTION_USES: u8 = 2;

// No two entries are worth so much apart that their order could be mistaken.
const _: () = assert!(WEIGHT_MAX as u64 * u8::MAX as u64 <= 1 << 31);

/// One order of eviction with a share that may be changed.
#[derive(Debug)]
pub(super) struct Queues {
    nodes: Pages<Node>,
    /// The probation queue's ends and bytes.
    newest: u32,
    oldest: u32,
    probation_len: u64,
    main: Heap,
    main_len: u64,
    /// Percent of all bytes.
    share: u64,
    ghost: Ghost,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    len: u64,
    /// In probation towards the older end; in main where the heap has it.
    older: u32,
    /// Towards the newer end.
    newer: u32,
    part: Part,
    uses: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Probation,
    Main,
}

/// Part and uses of an entry that left.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    part: Part,
    uses: u8,
}

impl Default for Node {
    fn default() -> Node {
        Node { len: 0, older: NONE, newer: NONE, part: Part::Probation, uses: 0 }
    }
}

impl Queues {
    /// Bytes that each entry takes once pages are full.
    pub(super) const ENTRY_COST: u64 = size_of::<Node>() as u64 + Heap::ENTRY_COST;

    /// Makes empty queues for a tier of `capacity` bytes, with `share` percent of what is there on probation.
    pub(super) fn new(capacity: u64, share: u64, ghost_memory_max: u64) -> Queues {
        Queues {
            nodes: Pages::new(),
            newest: NONE,
            oldest: NONE,
            probation_len: 0,
            main: Heap::new(),
            main_len: 0,
            share,
            ghost: Ghost::new(capacity, ghost_memory_max),
        }
    }

    /// Returns the bytes of all entries.
    pub(super) fn len(&self) -> u64 {
        self.probation_len + self.main_len
    }

    /// Returns how many entries there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        let entry = |entry: u32| Some(entry).filter(|entry| *entry != NONE);
        let queue = std::iter::successors(entry(self.oldest), |at| entry(self.nodes.at(*at).newer));
        queue.count() + self.main.len()
    }

    /// Returns the share of probation in percent.
    pub(super) fn share(&self) -> u64 {
        self.share
    }

    /// Gives probation another share; evictions bring it about.
    pub(super) fn set_share(&mut self, share: u64) {
        self.share = share;
    }

    /// Returns the bytes that this takes.
    pub(super) fn memory(&self) -> u64 {
        self.nodes.memory() + self.main.memory() + self.ghost.memory()
    }

    /// Returns the bytes by which an insert at a position lets this grow.
    pub(super) fn growth(&self, entry: Handle) -> u64 {
        let is_new = entry.0 as usize >= self.nodes.len();
        let page = if is_new { Pages::<Node>::PAGE_COST + Heap::PAGE_COST } else { 0 };
        page + self.ghost.growth()
    }

    pub(super) fn insert(&mut self, entry: Handle, hash: u128, len: u64, before: Option<Standing>) {
        while entry.0 as usize >= self.nodes.len() {
            self.nodes.grow();
        }
        // An eviction moves entries to main, and must not need memory for it.
        self.main.reserve(self.nodes.len());
        self.ghost.reserve();
        let Standing { part, uses } = before.unwrap_or_else(|| match self.ghost.recall(hash) {
            Some(uses) => Standing { part: Part::Main, uses: uses.saturating_add(1) },
            None => Standing { part: Part::Probation, uses: 1 },
        });
        *self.nodes.at_mut(entry.0) = Node { len, part, uses, ..Node::default() };
        match part {
            Part::Probation => self.push_newest(entry.0),
            Part::Main => self.push_main(entry.0),
        }
    }

    pub(super) fn remove(&mut self, entry: Handle, uses: u8) -> Standing {
        let node = *self.nodes.at(entry.0);
        match node.part {
            Part::Probation => self.unlink(entry.0),
            Part::Main => self.take_main(node.older),
        }
        Standing { part: node.part, uses: node.uses.saturating_add(uses) }
    }

    pub(super) fn evict(&mut self, entries: &mut dyn Entries) -> Option<Handle> {
        for step in 0.. {
            let may_stay = step < EVICTION_STEPS_MAX;
            let first = self.main.first();
            let is_over = self.probation_len * 100 > self.share * self.len();
            if first.is_none() || (is_over && self.oldest != NONE) {
                let entry = Handle(self.oldest);
                if entry.0 == NONE {
                    return None;
                }
                let (_, uses) = self.note_uses(entry, entries);
                self.unlink(entry.0);
                if uses >= PROMOTION_USES && may_stay {
                    self.push_main(entry.0);
                    continue;
                }
                self.ghost.remember(entries.hash(entry), self.nodes.at(entry.0).len, uses);
                return Some(entry);
            }
            let least = first?;
            let entry = Handle(least.entry);
            let (since, uses) = self.note_uses(entry, entries);
            if since > 0 && may_stay {
                let worth = self.worth(entry.0);
                let nodes = &mut self.nodes;
                self.main.renumber(0, worth, &mut |entry, at| nodes.at_mut(entry).older = at);
                continue;
            }
            self.take_main(0);
            self.main.raise_floor(least.number);
            self.ghost.remember(entries.hash(entry), self.nodes.at(entry.0).len, uses / 2);
            return Some(entry);
        }
        None
    }

    /// Counts what an entry was used since it was last looked at, and returns that and all its uses.
    fn note_uses(&mut self, entry: Handle, entries: &mut dyn Entries) -> (u8, u8) {
        let since = entries.take_uses(entry);
        let node = self.nodes.at_mut(entry.0);
        node.uses = node.uses.saturating_add(since);
        (since, node.uses)
    }

    /// Returns what an entry of main is worth from now on.
    fn worth(&self, entry: u32) -> u32 {
        let node = self.nodes.at(entry);
        self.main.floor().wrapping_add(u32::from(node.uses) * weight(node.len))
    }

    fn push_main(&mut self, entry: u32) {
        let number = self.worth(entry);
        let nodes = &mut self.nodes;
        nodes.at_mut(entry).part = Part::Main;
        self.main_len += nodes.at(entry).len;
        self.main.push(Place { number, entry }, &mut |entry, at| nodes.at_mut(entry).older = at);
    }

    fn take_main(&mut self, at: u32) {
        let nodes = &mut self.nodes;
        let place = self.main.remove(at, &mut |entry, at| nodes.at_mut(entry).older = at);
        self.main_len -= self.nodes.at(place.entry).len;
    }

    fn push_newest(&mut self, entry: u32) {
        let older = std::mem::replace(&mut self.newest, entry);
        let node = self.nodes.at_mut(entry);
        node.older = older;
        self.probation_len += node.len;
        match older {
            NONE => self.oldest = entry,
            older => self.nodes.at_mut(older).newer = entry,
        }
    }

    fn unlink(&mut self, entry: u32) {
        let Node { len, older, newer, .. } = *self.nodes.at(entry);
        self.probation_len -= len;
        match newer {
            NONE => self.newest = older,
            newer => self.nodes.at_mut(newer).older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.nodes.at_mut(older).newer = newer,
        }
    }
}

/// Returns what one use of a response of `len` bytes is worth: one over the root of its length.
fn weight(len: u64) -> u32 {
    ((f64::from(WEIGHT_MAX) / (len.max(1) as f64).sqrt()) as u32).max(1)
}
