//! Decides which units of an arena a block gets: a buddy allocator over numbers, without the memory itself.
//!
//! The arena's owner asks; nothing here is shared. A *unit* is 512 B, a *region* 4,096 units (2 MiB, one huge page), a block of
//! order k is 2^k units aligned to its size. Each region has one bitmap per order, set = free; per order, the regions that have
//! a free block are linked. So taking and freeing cost at most one step per order, whatever the arena's size.
//!
//! Invariants: a unit is free in at most one bitmap; two free buddies never stand beside each other unmerged; `free_units`
//! counts the set bits times their sizes. Only units that were opened can be free: the arena opens them in the order of their
//! numbers, as it has memory for them, so one that never filled leaves its far regions untouched. Blocks need not keep their power
//! of two: the units behind a block's end go back at once.

use crate::limits::{BLOCK_LEN_MAX, BLOCK_LEN_MIN};

/// Units of one region.
pub(crate) const REGION_UNITS: u32 = (BLOCK_LEN_MAX / BLOCK_LEN_MIN) as u32;

/// Orders of blocks: one unit up to a whole region.
pub(crate) const ORDER_COUNT: usize = REGION_UNITS.ilog2() as usize + 1;

/// The order of a whole region.
const ORDER_MAX: usize = ORDER_COUNT - 1;

/// Ends a list of regions.
const NO_REGION: u32 = u32::MAX;

/// Where each order's bitmap begins in a region's words; the last entry is the count of words.
const WORD_START: [usize; ORDER_COUNT + 1] = {
    let mut start = [0; ORDER_COUNT + 1];
    let mut order = 0;
    while order < ORDER_COUNT {
        start[order + 1] = start[order] + (REGION_UNITS as usize >> order).div_ceil(64);
        order += 1;
    }
    start
};

// One summary word per order tells which of its words have a bit, so there can be 64 of them at most.
const _: () = assert!(WORD_START[1] <= 64);

/// Neighbouring units that belong together: a block, or what is left of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first unit.
    pub(crate) unit: u32,
    /// How many units, never across the end of a region.
    pub(crate) units: u32,
}

impl Span {
    /// Returns the span's length in bytes.
    pub(crate) fn len(self) -> usize {
        self.units as usize * BLOCK_LEN_MIN
    }
}

/// Whether a request may be answered with less than it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// All units side by side, or nothing.
    Whole,
    /// Else the largest free block that is smaller.
    Part,
}

/// The free units of one arena.
#[derive(Debug)]
pub(crate) struct Buddy {
    regions: Vec<Region>,
    region_count_max: usize,
    /// How many units were opened, from the first on.
    opened_units: u64,
    /// The first region with a free block, per order.
    heads: [u32; ORDER_COUNT],
    /// Bit k is set when `heads[k]` is a region.
    orders_free: u32,
    free_units: u64,
}

#[derive(Debug)]
struct Region {
    free: [u64; WORD_START[ORDER_COUNT]],
    /// Per order: which words of its bitmap have a bit set.
    summary: [u64; ORDER_COUNT],
    previous: [u32; ORDER_COUNT],
    next: [u32; ORDER_COUNT],
}

impl Buddy {
    /// Returns the bytes that the tables of `region_count` regions take.
    pub(crate) fn table_len(region_count: usize) -> usize {
        region_count * size_of::<Region>()
    }

    /// Makes an allocator over `region_count` regions, none of which is open.
    pub(crate) fn new(region_count: usize) -> Buddy {
        Buddy {
            regions: Vec::with_capacity(region_count),
            region_count_max: region_count,
            opened_units: 0,
            heads: [NO_REGION; ORDER_COUNT],
            orders_free: 0,
            free_units: 0,
        }
    }

    /// Returns how many units are open and free.
    pub(crate) fn free_units(&self) -> u64 {
        self.free_units
    }

    /// Returns how many units were opened.
    pub(crate) fn opened_units(&self) -> u64 {
        self.opened_units
    }

    /// Returns the order of the largest free block.
    pub(crate) fn largest_free(&self) -> Option<u32> {
        self.orders_free.checked_ilog2()
    }

    /// Returns how many units [`Buddy::open`] would open of `units_max`: a power of two, as much as has a place side by side.
    pub(crate) fn next_open(&self, units_max: u32) -> u32 {
        let rest = self.region_count_max as u64 * u64::from(REGION_UNITS) - self.opened_units;
        if rest == 0 || units_max == 0 {
            return 0;
        }
        let at = (self.opened_units % u64::from(REGION_UNITS)) as u32;
        // The largest block that may begin there, and that is not more than wanted.
        let aligned = if at == 0 { REGION_UNITS } else { 1 << at.trailing_zeros() };
        aligned.min(1 << units_max.min(REGION_UNITS).ilog2())
    }

    /// Opens units that were never used, free from now on; as many as [`Buddy::next_open`] says.
    pub(crate) fn open(&mut self, units: u32) {
        debug_assert!(units.is_power_of_two() && units == self.next_open(units));
        let unit = self.opened_units as u32;
        if unit.is_multiple_of(REGION_UNITS) {
            self.regions.push(Region {
                free: [0; WORD_START[ORDER_COUNT]],
                summary: [0; ORDER_COUNT],
                previous: [NO_REGION; ORDER_COUNT],
                next: [NO_REGION; ORDER_COUNT],
            });
        }
        self.opened_units += u64::from(units);
        self.free(Span { unit, units });
    }

    /// Takes `units` units, 1 to a region's; with [`Fit::Part`] perhaps fewer, but as many side by side as there are.
    pub(crate) fn take(&mut self, units: u32, fit: Fit) -> Option<Span> {
        debug_assert!((1..=REGION_UNITS).contains(&units));
        let order = units.next_power_of_two().ilog2() as usize;
        if let Some(unit) = self.take_order(order) {
            self.free_units -= 1 << order;
            self.free(Span { unit: unit + units, units: (1 << order) - units });
            return Some(Span { unit, units });
        }
        let smaller = self.orders_free & ((1 << order) - 1);
        if fit == Fit::Whole || smaller == 0 {
            return None;
        }
        let order = smaller.ilog2() as usize;
        let unit = self.take_order(order)?;
        self.free_units -= 1 << order;
        Some(Span { unit, units: 1 << order })
    }

    /// Frees units that were taken; they may be a part of what one `take` gave.
    pub(crate) fn free(&mut self, span: Span) {
        let Span { mut unit, mut units } = span;
        self.free_units += u64::from(units);
        while units > 0 {
            let aligned = (unit % REGION_UNITS).trailing_zeros().min(ORDER_MAX as u32);
            let order = aligned.min(units.ilog2()) as usize;
            self.free_order(unit, order);
            unit += 1 << order;
            units -= 1 << order;
        }
    }

    /// Takes one block of exactly `order`, splitting the smallest that is large enough. Does not count.
    fn take_order(&mut self, order: usize) -> Option<u32> {
        let large_enough = self.orders_free >> order;
        if large_enough == 0 {
            return None;
        }
        let from = order + large_enough.trailing_zeros() as usize;
        let region = self.heads[from];
        let mut index = self.regions[region as usize].lowest(from);
        self.mark_taken(region, from, index);
        for half in (order..from).rev() {
            index *= 2;
            self.mark_free(region, half, index + 1);
        }
        Some(region * REGION_UNITS + (index << order))
    }

    /// Frees one block, merged with its buddy as often as that is free too. Does not count.
    fn free_order(&mut self, unit: u32, mut order: usize) {
        let region = unit / REGION_UNITS;
        let mut index = (unit % REGION_UNITS) >> order;
        while order < ORDER_MAX && self.regions[region as usize].is_free(order, index ^ 1) {
            self.mark_taken(region, order, index ^ 1);
            index /= 2;
            order += 1;
        }
        self.mark_free(region, order, index);
    }

    fn mark_free(&mut self, region: u32, order: usize, index: u32) {
        let entry = &mut self.regions[region as usize];
        let was_empty = entry.summary[order] == 0;
        let word = index as usize / 64;
        debug_assert!(!entry.is_free(order, index), "freed twice");
        entry.free[WORD_START[order] + word] |= 1 << (index % 64);
        entry.summary[order] |= 1 << word;
        if was_empty {
            self.link(region, order);
        }
    }

    fn mark_taken(&mut self, region: u32, order: usize, index: u32) {
        let entry = &mut self.regions[region as usize];
        let word = index as usize / 64;
        debug_assert!(entry.is_free(order, index), "taken twice");
        let bits = &mut entry.free[WORD_START[order] + word];
        *bits &= !(1 << (index % 64));
        if *bits == 0 {
            entry.summary[order] &= !(1 << word);
        }
        if entry.summary[order] == 0 {
            self.unlink(region, order);
        }
    }

    fn link(&mut self, region: u32, order: usize) {
        let head = self.heads[order];
        let entry = &mut self.regions[region as usize];
        entry.previous[order] = NO_REGION;
        entry.next[order] = head;
        if head != NO_REGION {
            self.regions[head as usize].previous[order] = region;
        }
        self.heads[order] = region;
        self.orders_free |= 1 << order;
    }

    fn unlink(&mut self, region: u32, order: usize) {
        let entry = &self.regions[region as usize];
        let (previous, next) = (entry.previous[order], entry.next[order]);
        if next != NO_REGION {
            self.regions[next as usize].previous[order] = previous;
        }
        if previous != NO_REGION {
            self.regions[previous as usize].next[order] = next;
        } else {
            self.heads[order] = next;
            if next == NO_REGION {
                self.orders_free &= !(1 << order);
            }
        }
    }
}

impl Region {
    fn is_free(&self, order: usize, index: u32) -> bool {
        self.free[WORD_START[order] + index as usize / 64] >> (index % 64) & 1 == 1
    }

    /// Returns the lowest free block of `order`; there must be one.
    fn lowest(&self, order: usize) -> u32 {
        let word = self.summary[order].trailing_zeros();
        word * 64 + self.free[WORD_START[order] + word as usize].trailing_zeros()
    }
}

#[cfg(test)]
mod tests;
