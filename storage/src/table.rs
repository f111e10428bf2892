//! A table of what stands under hashes, which never stalls: one insert moves a few entries, whatever the table holds.
//!
//! The tier's index, the rules of what varies and the sets of parts are such tables. An entry keeps its position for as long as it is there, so
//! that others name it by that and a walk by positions goes on after any change. Hashes lead to chains by linear hashing: with each entry the
//! number of chains grows by two, each of which takes over a part of one other chain. Invariants: every held slot is in the chain of its hash,
//! every other slot in the list of free ones; there are twice as many chains as slots were ever held, so a chain has half an entry on average.
//!
//! Memory only grows, and by pages: what was taken is for the entries that follow. Only `clear` gives it back.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::pages::{PAGE_LEN, Pages};

/// No slot: the end of a chain.
const NONE: u32 = u32::MAX;

/// Chains that an entry brings.
const CHAINS_PER_ENTRY: usize = 2;

/// What can say under which hash it stands.
pub(crate) trait Placed {
    /// The hash, all of it; the table itself keeps 32 bits. Its lower 64 bits should differ from those of others.
    fn place(&self) -> u128;
}

/// Entries by their hash, and by position.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Pages<Slot<T>>,
    /// The first slot of each chain.
    chains: Pages<Chain>,
    chain_count: usize,
    /// Slots that were ever held; later ones of the last page are free as well.
    slot_count: usize,
    /// The first free slot among those.
    free: u32,
    len: usize,
    /// Odd; chooses the chains, so that nobody outside can name keys that all share one.
    secret: u64,
}

#[derive(Debug)]
struct Slot<T> {
    held: Option<T>,
    hash: u32,
    /// The next one of the chain, or of the free ones.
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Chain(u32);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot { held: None, hash: 0, next: NONE }
    }
}

impl Default for Chain {
    fn default() -> Self {
        Chain(NONE)
    }
}

impl<T: Placed> Table<T> {
    /// Bytes of slot and chains for each entry, once pages are full.
    pub(crate) const ENTRY_COST: u64 = (size_of::<Slot<T>>() + CHAINS_PER_ENTRY * size_of::<Chain>()) as u64;

    /// Makes an empty table, which takes no memory.
    pub(crate) fn new() -> Self {
        Table {
            slots: Pages::new(),
            chains: Pages::new(),
            chain_count: 0,
            slot_count: 0,
            free: NONE,
            len: 0,
            secret: RandomState::new().hash_one(0) | 1,
        }
    }

    /// Returns how many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the number below which all positions are; it never falls.
    pub(crate) fn end(&self) -> u32 {
        self.slot_count as u32
    }

    /// Returns the position that the next insert gives.
    pub(crate) fn next(&self) -> u32 {
        if self.free == NONE { self.end() } else { self.free }
    }

    /// Returns the bytes that this takes.
    pub(crate) fn memory(&self) -> u64 {
        self.slots.memory() + self.chains.memory()
    }

    /// Returns the bytes by which the next insert lets this grow.
    pub(crate) fn growth(&self) -> u64 {
        if self.free != NONE {
            return 0;
        }
        let slots = if self.slot_count == self.slots.len() { Pages::<Slot<T>>::PAGE_COST } else { 0 };
        let chains = self.chain_count + CHAINS_PER_ENTRY > self.chains.len();
        slots + if chains { Pages::<Chain>::PAGE_COST } else { 0 }
    }

    /// Returns the position of the entry that stands under this hash.
    pub(crate) fn find(&self, place: u128) -> Option<u32> {
        if self.chain_count == 0 {
            return None;
        }
        let hash = self.short(place);
        let mut position = self.chains.at(self.chain_of(hash)).0;
        while position != NONE {
            let slot = self.slots.at(position);
            if slot.hash == hash && slot.held.as_ref().is_some_and(|held| held.place() == place) {
                return Some(position);
            }
            position = slot.next;
        }
        None
    }

    /// Returns the entry that stands under this hash.
    pub(crate) fn get(&self, place: u128) -> Option<&T> {
        self.at(self.find(place)?)
    }

    /// Returns the entry at a position, if one is there.
    pub(crate) fn at(&self, position: u32) -> Option<&T> {
        self.slots.at(position).held.as_ref()
    }

    /// Returns the entry at a position, if one is there, to change it; but not where it stands.
    pub(crate) fn at_mut(&mut self, position: u32) -> Option<&mut T> {
        self.slots.at_mut(position).held.as_mut()
    }

    /// Returns the entry that stands under this hash, to change it; but not where it stands.
    pub(crate) fn get_mut(&mut self, place: u128) -> Option<&mut T> {
        self.at_mut(self.find(place)?)
    }

    /// Takes the entry that stands under this hash out.
    pub(crate) fn take(&mut self, place: u128) -> Option<T> {
        self.remove(self.find(place)?)
    }

    /// Puts an entry under a hash that nothing stands under, and returns its position.
    pub(crate) fn insert(&mut self, held: T) -> u32 {
        let hash = self.short(held.place());
        let position = self.take_free();
        let chain = self.chain_of(hash);
        let first = self.chains.at_mut(chain);
        *self.slots.at_mut(position) = Slot { held: Some(held), hash, next: first.0 };
        first.0 = position;
        self.len += 1;
        position
    }

    /// Takes the entry at a position out, if one is there.
    pub(crate) fn remove(&mut self, position: u32) -> Option<T> {
        let slot = self.slots.at_mut(position);
        let held = slot.held.take()?;
        let (hash, next) = (slot.hash, slot.next);
        slot.next = self.free;
        self.free = position;
        self.len -= 1;
        let chain = self.chain_of(hash);
        let first = self.chains.at_mut(chain);
        if first.0 == position {
            first.0 = next;
            return Some(held);
        }
        let mut before = first.0;
        loop {
            let slot = self.slots.at_mut(before);
            if slot.next == position {
                slot.next = next;
                return Some(held);
            }
            before = slot.next;
        }
    }

    /// Returns all entries, in the order of their positions.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        (0..self.end()).filter_map(|position| self.at(position))
    }

    /// Forgets everything and gives its memory back.
    pub(crate) fn clear(&mut self) {
        *self = Table::new();
    }

    /// Returns a slot that nothing holds, and brings its chains if it is a new one.
    fn take_free(&mut self) -> u32 {
        if self.free != NONE {
            let position = self.free;
            self.free = self.slots.at(position).next;
            return position;
        }
        if self.slot_count == self.slots.len() {
            self.slots.grow();
        }
        for _ in 0..CHAINS_PER_ENTRY {
            self.add_chain();
        }
        self.slot_count += 1;
        assert!(self.slot_count < NONE as usize, "the budget ends before positions do");
        self.slot_count as u32 - 1
    }

    /// Adds a chain, which takes from the one that stood for its hashes those that are its own.
    fn add_chain(&mut self) {
        if self.chain_count == self.chains.len() {
            self.chains.grow();
        }
        let added = self.chain_count;
        self.chain_count += 1;
        if added == 0 {
            return;
        }
        let from = added - (1 << added.ilog2());
        let mut position = std::mem::replace(&mut self.chains.at_mut(from as u32).0, NONE);
        while position != NONE {
            let slot = self.slots.at(position);
            let (hash, next) = (slot.hash, slot.next);
            let chain = self.chain_of(hash);
            let first = std::mem::replace(&mut self.chains.at_mut(chain).0, position);
            self.slots.at_mut(position).next = first;
            position = next;
        }
    }

    /// Returns the 32 bits of a hash that the table keeps: of its product with the secret, folded, so that each depends on many.
    fn short(&self, place: u128) -> u32 {
        let product = u128::from(place as u64) * u128::from(self.secret);
        (product >> 64) as u32 ^ product as u32
    }

    /// Returns the number of the chain for a hash: its low bits, one fewer where that chain is not there yet.
    fn chain_of(&self, hash: u32) -> u32 {
        let mask = (self.chain_count.next_power_of_two() - 1) as u32;
        let chain = hash & mask;
        if (chain as usize) < self.chain_count { chain } else { chain & (mask >> 1) }
    }
}

// The chains of an entry are in one page: an insert brings one at most.
const _: () = assert!(PAGE_LEN.is_multiple_of(CHAINS_PER_ENTRY));

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Item(u128);

    impl Placed for Item {
        fn place(&self) -> u128 {
            self.0
        }
    }

    fn hash(number: u64) -> u128 {
        u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
    }

    /// The longest chain, and the sum of all.
    fn chains(table: &Table<Item>) -> (usize, usize) {
        let lengths = (0..table.chain_count).map(|chain| {
            let first = Some(table.chains.at(chain as u32).0).filter(|slot| *slot != NONE);
            let next = |slot: &u32| Some(table.slots.at(*slot).next).filter(|slot| *slot != NONE);
            std::iter::successors(first, next).count()
        });
        lengths.fold((0, 0), |(longest, sum), len| (longest.max(len), sum + len))
    }

    #[test]
    fn one_insert_moves_few_entries_and_takes_one_page_of_each_kind() {
        let mut table = Table::new();
        let mut moved_most = 0;
        for number in 0..300_000 {
            let (before, growth) = (table.memory(), table.growth());
            // What the two new chains will take over: all of the chains that they split, at worst.
            let moved: usize = (0..2)
                .filter_map(|more| {
                    let added = table.chain_count + more;
                    let from = added.checked_sub(1 << added.checked_ilog2()?)?;
                    (from < table.chain_count).then(|| {
                        let first = Some(table.chains.at(from as u32).0).filter(|slot| *slot != NONE);
                        let next = |slot: &u32| Some(table.slots.at(*slot).next).filter(|slot| *slot != NONE);
                        std::iter::successors(first, next).count()
                    })
                })
                .sum();
            moved_most = moved_most.max(moved);
            table.insert(Item(hash(number)));
            assert_eq!(table.memory() - before, growth);
            assert!(growth <= Pages::<Slot<Item>>::PAGE_COST + Pages::<Chain>::PAGE_COST);
        }
        let (longest, sum) = chains(&table);
        println!("one insert moves at most {moved_most} entries; the longest of the chains has {longest}");
        assert!(moved_most <= 32 && longest <= 16 && sum == 300_000);
        let per_entry = table.memory() as f64 / 300_000.0;
        assert!(per_entry <= Table::<Item>::ENTRY_COST as f64 * 1.02, "{per_entry} B");
        assert!((0..300_000).all(|number| table.get(hash(number)) == Some(&Item(hash(number)))));
        assert!((300_000..400_000).all(|number| table.find(hash(number)).is_none()));
    }

    #[test]
    fn places_that_share_what_the_table_keeps_are_told_apart() {
        let mut table = Table::new();
        // The secret cannot tell them apart either.
        let places: Vec<u128> = (0..50).map(|number| number << 64 | 7).collect();
        let positions: Vec<u32> = places.iter().map(|place| table.insert(Item(*place))).collect();
        for (place, position) in places.iter().zip(&positions) {
            assert_eq!(table.find(*place), Some(*position));
        }
        assert_eq!(table.remove(positions[25]), Some(Item(places[25])));
        assert_eq!(table.remove(positions[25]), None);
        assert_eq!((table.find(places[25]), table.get(places[26])), (None, Some(&Item(places[26]))));
    }

    #[test]
    fn keys_that_share_low_bits_do_not_share_a_chain() {
        let mut table = Table::new();
        for number in 0..20_000 {
            table.insert(Item(number << 40 | 7));
        }
        let (longest, sum) = chains(&table);
        assert!(longest <= 64 && sum == 20_000, "a chain of {longest}");
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(steps in prop::collection::vec((0u8..3, 0u64..400), 1..2000)) {
            let mut table = Table::new();
            let mut map = HashMap::new();
            for (kind, number) in steps {
                let place = hash(number);
                let position = table.find(place);
                prop_assert_eq!(position, map.get(&place).copied());
                match position {
                    None if kind > 0 => drop(map.insert(place, table.insert(Item(place)))),
                    Some(position) if kind == 0 => {
                        prop_assert_eq!(table.remove(position), Some(Item(place)));
                        map.remove(&place);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), map.len());
            }
            prop_assert_eq!(table.values().count(), map.len());
            prop_assert_eq!(chains(&table).1, map.len());
            let memory = table.memory();
            prop_assert!(memory <= Pages::<Slot<Item>>::PAGE_COST + 2 * Pages::<Chain>::PAGE_COST);
            table.clear();
            prop_assert_eq!((table.memory(), table.len(), table.end()), (0, 0, 0));
        }
    }
}
