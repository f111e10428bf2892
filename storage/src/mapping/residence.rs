//! How much of an arena the kernel has given: more as blocks are asked for, less when somebody else needs the memory.
//!
//! `arena.rs` asks for more when no free block will do; the tier has free blocks given up when the budget is short. A given-up block is
//! *away*: taken out of the buddy, without memory, charged to nobody, until it is brought back. So free memory of an arena can become
//! heads, connections or buffers without an object moving.
//!
//! ```text
//! unopened --bring--> free --take--> block --drop, drain--> free --give_up--> away --bring--> free
//!                     └─────── resident: charged as arena_free, payload or limbo ───┘
//! ```
//!
//! Huge pages are wished for where a whole region is resident, and nowhere else: the kernel would fill the gaps and give more than is
//! charged. Invariants: the resident units are the opened ones without those away, and all are charged; memory comes and goes in
//! whole pages.

use memmap2::Advice;

use super::arena::Arena;
use super::memory::Memory;
use crate::buddy::{Buddy, Fit, ORDER_COUNT, REGION_UNITS, Span};
use crate::budget::Purpose;
use crate::limits::{BLOCK_LEN_MIN, BUDGET_ATTEMPTS, GIVE_UP_LEN_MIN};

/// Units of a page.
const PAGE_UNITS: u32 = (GIVE_UP_LEN_MIN / BLOCK_LEN_MIN) as u32;

/// Which opened units the kernel has back.
#[derive(Debug, Default)]
pub(super) struct Residence {
    /// The first units of blocks that are away, per order.
    away: [Vec<u32>; ORDER_COUNT],
    away_units: u64,
    /// Units of each region that are not resident; 0 is where huge pages are wished for.
    absent: Vec<u32>,
}

/// Where more memory comes from.
#[derive(Clone, Copy)]
enum Supply {
    /// A block of this order that is away.
    Away(usize),
    /// So many units that were never used.
    Unopened(u32),
}

impl Supply {
    fn units(self) -> u32 {
        match self {
            Supply::Away(order) => 1 << order,
            Supply::Unopened(units) => units,
        }
    }
}

impl Residence {
    /// Returns how many of the opened units have no memory.
    pub(super) fn away_units(&self) -> u64 {
        self.away_units
    }

    /// Finds a block of `order`, or the largest smaller one, of which at most `units_max` are affordable. What is away comes first:
    /// it keeps regions whole.
    fn supply(&self, buddy: &Buddy, order: usize, units_max: u32) -> Option<Supply> {
        let order = order.min(units_max.checked_ilog2()? as usize);
        let is_there = |order: &usize| !self.away[*order].is_empty();
        let unopened = buddy.next_open(units_max);
        if let Some(away) = (order..ORDER_COUNT).find(is_there) {
            return Some(Supply::Away(away));
        }
        if unopened >= 1 << order {
            return Some(Supply::Unopened(unopened));
        }
        let smaller = (0..order).rev().find(is_there);
        match smaller {
            Some(away) if 1 << away >= unopened => Some(Supply::Away(away)),
            _ => (unopened > 0).then_some(Supply::Unopened(unopened)),
        }
    }

    /// Takes a block of at most `units_max` from those away; of a larger one the rest stays.
    fn take_away(&mut self, order: usize, units_max: u32) -> Option<Span> {
        let unit = self.away[order].pop()?;
        let mut order = order;
        while 1 << order > units_max {
            order -= 1;
            self.away[order].push(unit + (1 << order));
        }
        self.away_units -= 1 << order;
        Some(Span { unit, units: 1 << order })
    }

    /// Counts units of a region that came or went, and wishes for what suits it now.
    fn note(&mut self, memory: &Memory, unit: u32, change: i64) {
        let region = (unit / REGION_UNITS) as usize;
        if self.absent.len() <= region {
            self.absent.resize(region + 1, REGION_UNITS);
            // What is resident in part from the start must not be filled up.
            if -change < i64::from(REGION_UNITS) {
                memory.wish_huge(region, Advice::NoHugePage);
            } else {
                // That is what the mapping began with.
                self.absent[region] = 0;
                return;
            }
        }
        let before = self.absent[region];
        let after = before.saturating_add_signed(change as i32);
        self.absent[region] = after;
        match (before, after) {
            (0, 1..) => memory.wish_huge(region, Advice::NoHugePage),
            (1.., 0) => memory.wish_huge(region, Advice::HugePage),
            _ => {}
        }
    }
}

impl Arena {
    /// Has memory come for a block of `units`, or for the largest smaller one that arena and budget allow, if that is larger than what
    /// is free.
    pub(super) fn bring(&self, buddy: &mut Buddy, units: u32) {
        let owner = &*self.owner;
        let mut residence = owner.residence.borrow_mut();
        let order = units.max(PAGE_UNITS).next_power_of_two().ilog2() as usize;
        // Other cores take from the budget too, so what was affordable a moment ago may not be; no need to try for ever.
        for _ in 0..BUDGET_ATTEMPTS {
            let affordable = self.budget().available_for_content() / BLOCK_LEN_MIN as u64;
            let units_max = affordable.min(u64::from(REGION_UNITS)) as u32;
            if units_max < PAGE_UNITS {
                return;
            }
            let Some(supply) = residence.supply(buddy, order, units_max) else { return };
            let coming = supply.units().min(1 << units_max.ilog2());
            if buddy.largest_free().is_some_and(|free| coming <= 1 << free) {
                return;
            }
            if !self.budget().take_for_content(Purpose::ArenaFree, u64::from(coming) * BLOCK_LEN_MIN as u64) {
                continue;
            }
            let unit = match supply {
                Supply::Away(order) => {
                    let span = residence.take_away(order, coming).expect("the supply was just seen");
                    buddy.free(span);
                    span.unit
                }
                Supply::Unopened(units) => {
                    let unit = buddy.opened_units() as u32;
                    buddy.open(units);
                    unit
                }
            };
            return residence.note(&owner.memory, unit, -i64::from(coming));
        }
    }

    /// Gives free memory back to the kernel until that is `len` bytes, and returns how much it was.
    pub fn give_up(&self, len: u64) -> u64 {
        let owner = &*self.owner;
        let (mut buddy, mut residence) = (owner.buddy.borrow_mut(), owner.residence.borrow_mut());
        let mut given = 0;
        while given < len && buddy.largest_free().is_some_and(|order| 1 << order >= PAGE_UNITS) {
            let missing = (len - given).div_ceil(BLOCK_LEN_MIN as u64).min(u64::from(REGION_UNITS)) as u32;
            // A power of two, so that it is one block and lies on pages.
            let wanted = missing.max(PAGE_UNITS).next_power_of_two();
            let Some(span) = buddy.take(wanted, Fit::Part) else { break };
            if !owner.memory.give_to_kernel(span) {
                buddy.free(span);
                break;
            }
            residence.away[span.units.ilog2() as usize].push(span.unit);
            residence.away_units += u64::from(span.units);
            residence.note(&owner.memory, span.unit, i64::from(span.units));
            given += span.len() as u64;
        }
        self.budget().give(Purpose::ArenaFree, given);
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;
    use crate::mapping::arena::Block;
    use std::sync::Arc;

    const MIB: u64 = 1024 * 1024;

    fn arena(capacity: u64, limit: u64) -> (Arena, Arc<Budget>) {
        let tables = Buddy::table_len(capacity.div_ceil(2 * MIB) as usize) as u64;
        let budget = Budget::new(limit + tables);
        (Arena::new(capacity as usize, Arc::clone(&budget)).unwrap(), budget)
    }

    fn settle(arena: &Arena) {
        while arena.drain(1000) > 0 {}
    }

    #[test]
    fn what_is_given_up_is_zero_when_it_comes_back() {
        let (arena, budget) = arena(2 * MIB, 4 * MIB);
        let mut block = arena.allocate(MIB as usize).unwrap();
        block.as_mut().fill(7);
        let start = block.as_ref().as_ptr();
        drop(block);
        settle(&arena);
        assert_eq!(arena.give_up(2 * MIB), 2 * MIB);
        assert_eq!((arena.resident_len(), budget.used(Purpose::ArenaFree)), (0, 0));
        let block = arena.allocate(MIB as usize).unwrap();
        assert!(block.as_ref().as_ptr() == start && block.as_ref().iter().all(|byte| *byte == 0));
        assert_eq!(budget.used(Purpose::Payload) + budget.used(Purpose::ArenaFree), arena.resident_len());
    }

    #[test]
    fn free_memory_becomes_room_for_others_and_comes_back_when_they_leave() {
        let (arena, budget) = arena(4 * MIB, 4 * MIB);
        let blocks: Vec<Block> = (0..16).map(|_| arena.allocate(256 * 1024).unwrap()).collect();
        assert!(budget.reserve(Purpose::Heads, 1000).is_none(), "all is content");
        // Every other block goes, so that no region is wholly free.
        let kept: Vec<Block> =
            blocks.into_iter().enumerate().filter(|(n, _)| n % 2 == 0).map(|(_, b)| b).collect();
        settle(&arena);
        assert!(budget.reserve(Purpose::Heads, 1000).is_none(), "what is free still has its memory");
        assert_eq!(arena.give_up(MIB), MIB);
        let heads = budget.reserve(Purpose::Heads, MIB).unwrap();
        assert_eq!(arena.obtainable_len(), MIB);
        let more: Vec<Block> = (0..4).map(|_| arena.allocate(256 * 1024).unwrap()).collect();
        assert!(arena.allocate(512).is_none() && arena.free_len() == MIB);
        drop(heads);
        let rest: Vec<Block> = (0..4).map(|_| arena.allocate(256 * 1024).unwrap()).collect();
        assert_eq!((arena.free_len(), arena.obtainable_len(), budget.available()), (0, 0, 0));
        drop((kept, more, rest));
        settle(&arena);
        assert!(arena.allocate(2 * MIB as usize).is_some(), "all merged back");
    }

    #[test]
    fn an_arena_opens_no_more_than_the_budget_has() {
        let (arena, budget) = arena(4 * MIB, 24 * 1024);
        assert_eq!(arena.obtainable_len(), 24 * 1024);
        let first = arena.allocate(512).unwrap();
        assert_eq!((arena.resident_len(), budget.available()), (16 * 1024, 8 * 1024));
        let second = arena.allocate(8 * 1024).unwrap();
        let third = arena.allocate(8 * 1024).unwrap();
        assert!(arena.allocate(8 * 1024).is_none());
        drop((first, second, third));
        settle(&arena);
        assert_eq!(arena.obtainable_len(), 24 * 1024);
        assert_eq!(arena.give_up(u64::MAX), 24 * 1024);
        assert_eq!(budget.available(), 24 * 1024);
    }

    #[test]
    fn a_block_that_is_away_comes_back_in_pieces_where_the_budget_is_short() {
        let (arena, budget) = arena(2 * MIB, 2 * MIB);
        drop(arena.allocate(512).unwrap());
        settle(&arena);
        assert_eq!(arena.give_up(u64::MAX), 2 * MIB);
        let others = budget.reserve(Purpose::Heads, 2 * MIB - 100 * 1024).unwrap();
        let block = arena.allocate(64 * 1024).unwrap();
        assert_eq!((arena.resident_len(), budget.available()), (64 * 1024, 36 * 1024));
        drop((others, block));
        settle(&arena);
        let blocks: Vec<Block> =
            [1024, 512, 256, 128, 64, 64].map(|len| arena.allocate(len * 1024).unwrap()).into();
        assert_eq!((arena.resident_len(), arena.free_len()), (2 * MIB, 0));
        drop(blocks);
        settle(&arena);
        assert!(arena.allocate(2 * MIB as usize).is_some(), "all merged back");
    }

    #[test]
    fn less_than_a_page_is_not_given_up() {
        let (arena, _budget) = arena(2 * MIB, 2 * MIB);
        let blocks: Vec<Block> = (0..4096).map(|_| arena.allocate(512).unwrap()).collect();
        // Of each page one unit stays.
        let kept: Vec<Block> = blocks.into_iter().step_by(8).collect();
        settle(&arena);
        assert_eq!((arena.give_up(u64::MAX), arena.resident_len()), (0, 2 * MIB));
        drop(kept);
        settle(&arena);
        assert_eq!(arena.give_up(5000), 8192);
    }
}
