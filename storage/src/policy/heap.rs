//! The entry with the least of some number, where entries come, go and change in any order.
//!
//! The policy's main part and the lists of what expires are such heaps. Each entry notes where it stands, so that it can be taken out:
//! whoever changes the heap is told of every move. Four children to a node: half the steps of two, and they share a cache line.
//! Numbers may wrap: they are compared by how far they are above the heap's floor, which may rise up to the least of them.

use crate::pages::Pages;

/// Children of a node.
const WIDTH: u32 = 4;

/// Entries by position, ordered by a number.
#[derive(Debug)]
pub(crate) struct Heap {
    places: Pages<Place>,
    len: u32,
    floor: u32,
}

/// An entry and the number that orders it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) number: u32,
    pub(crate) entry: u32,
}

impl Heap {
    /// Bytes that each entry takes once pages are full.
    pub(crate) const ENTRY_COST: u64 = size_of::<Place>() as u64;

    /// Bytes of one more page.
    pub(crate) const PAGE_COST: u64 = Pages::<Place>::PAGE_COST;

    /// Makes an empty heap, which takes no memory.
    pub(crate) fn new() -> Heap {
        Heap { places: Pages::new(), len: 0, floor: 0 }
    }

    /// Returns the bytes that this takes.
    pub(crate) fn memory(&self) -> u64 {
        self.places.memory()
    }

    /// Returns the bytes by which the next push lets this grow.
    pub(crate) fn growth(&self) -> u64 {
        if self.len as usize == self.places.len() { Self::PAGE_COST } else { 0 }
    }

    /// Returns how many entries there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Makes room for `len` entries ahead.
    pub(crate) fn reserve(&mut self, len: usize) {
        while self.places.len() < len {
            self.places.grow();
        }
    }

    /// Returns the entry of the least number.
    pub(crate) fn first(&self) -> Option<Place> {
        (self.len > 0).then(|| *self.places.at(0))
    }

    /// Raises the floor to `number`, which is at most the least one's.
    pub(crate) fn raise_floor(&mut self, number: u32) {
        self.floor = number;
    }

    /// Returns the floor.
    pub(crate) fn floor(&self) -> u32 {
        self.floor
    }

    /// Puts an entry in; `moved` is told where every entry stands that it moves, this one too.
    pub(crate) fn push(&mut self, place: Place, moved: &mut impl FnMut(u32, u32)) {
        self.reserve(self.len as usize + 1);
        self.len += 1;
        self.rise(self.len - 1, place, moved);
    }

    /// Takes the entry out that stands at `at`.
    pub(crate) fn remove(&mut self, at: u32, moved: &mut impl FnMut(u32, u32)) -> Place {
        let removed = *self.places.at(at);
        self.len -= 1;
        let last = *self.places.at(self.len);
        if at < self.len {
            self.settle(at, last, moved);
        }
        removed
    }

    /// Gives the entry that stands at `at` another number.
    pub(crate) fn renumber(&mut self, at: u32, number: u32, moved: &mut impl FnMut(u32, u32)) {
        let entry = self.places.at(at).entry;
        self.settle(at, Place { number, entry }, moved);
    }

    /// Puts an entry where `at` is, or wherever from there its number says.
    fn settle(&mut self, at: u32, place: Place, moved: &mut impl FnMut(u32, u32)) {
        if at > 0 && self.is_before(place, *self.places.at((at - 1) / WIDTH)) {
            self.rise(at, place, moved);
        } else {
            self.sink(at, place, moved);
        }
    }

    fn rise(&mut self, mut at: u32, place: Place, moved: &mut impl FnMut(u32, u32)) {
        while at > 0 {
            let parent = (at - 1) / WIDTH;
            let above = *self.places.at(parent);
            if !self.is_before(place, above) {
                break;
            }
            self.put(at, above, moved);
            at = parent;
        }
        self.put(at, place, moved);
    }

    fn sink(&mut self, mut at: u32, place: Place, moved: &mut impl FnMut(u32, u32)) {
        loop {
            let first = at * WIDTH + 1;
            let children = first..self.len.min(first + WIDTH);
            let mut least: Option<(u32, Place)> = None;
            for child in children {
                let other = *self.places.at(child);
                if least.is_none_or(|(_, least)| self.is_before(other, least)) {
                    least = Some((child, other));
                }
            }
            let Some((child, below)) = least.filter(|(_, below)| self.is_before(*below, place)) else {
                break;
            };
            self.put(at, below, moved);
            at = child;
        }
        self.put(at, place, moved);
    }

    fn put(&mut self, at: u32, place: Place, moved: &mut impl FnMut(u32, u32)) {
        *self.places.at_mut(at) = place;
        moved(place.entry, at);
    }

    fn is_before(&self, one: Place, other: Place) -> bool {
        one.number.wrapping_sub(self.floor) < other.number.wrapping_sub(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        /// Numbers near the end of their range wrap; the order goes on.
        #[test]
        fn it_gives_what_a_sorted_list_gives(
            floor in prop::sample::select(vec![0, 1 << 31, u32::MAX - 500]),
            steps in prop::collection::vec((0u8..4, 0u32..1000), 1..400),
        ) {
            let mut heap = Heap::new();
            heap.raise_floor(floor);
            let mut stands: HashMap<u32, u32> = HashMap::new();
            let mut numbers: HashMap<u32, u32> = HashMap::new();
            for (entry, (kind, above)) in steps.into_iter().enumerate() {
                let (entry, number) = (entry as u32, heap.floor().wrapping_add(above));
                let any = numbers.keys().min_by_key(|entry| (**entry).wrapping_mul(2_654_435_761).wrapping_add(above)).copied();
                match (kind, any) {
                    (0, Some(any)) => {
                        let removed = heap.remove(stands[&any], &mut |entry, at| { stands.insert(entry, at); });
                        prop_assert_eq!(removed.entry, any);
                        prop_assert_eq!(Some(removed.number), numbers.remove(&any));
                    }
                    (1, Some(any)) => {
                        heap.renumber(stands[&any], number, &mut |entry, at| { stands.insert(entry, at); });
                        numbers.insert(any, number);
                    }
                    (2, _) => {
                        let least = numbers.values().map(|number| number.wrapping_sub(heap.floor())).min();
                        let first = heap.first();
                        prop_assert_eq!(first.map(|first| first.number.wrapping_sub(heap.floor())), least);
                        if let Some(first) = first {
                            prop_assert_eq!((stands[&first.entry], numbers[&first.entry]), (0, first.number));
                            heap.raise_floor(first.number);
                        }
                    }
                    _ => {
                        let grown = heap.growth();
                        let before = heap.memory();
                        heap.push(Place { number, entry }, &mut |entry, at| { stands.insert(entry, at); });
                        numbers.insert(entry, number);
                        prop_assert_eq!(heap.memory() - before, grown);
                    }
                }
                prop_assert_eq!(heap.len as usize, numbers.len());
            }
        }
    }
}
