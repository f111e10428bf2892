//! Dense storage whose keys never hit a stranger: a slot's generation changes each time it is emptied.
//!
//! Sockets, listeners, operations and timers live here. Invariant: a [`Key`] finds exactly the value that it was
//! given for, or nothing.

/// Bits of the generation that travel in an operation's `user_data`.
pub(crate) const GENERATION_MASK: u32 = 0x00ff_ffff;

/// Place and generation of a stored value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

/// Entries of the first chunk. A notification that one task waits for has a chunk of its own, so it is small.
const CHUNK_LEN_FIRST: usize = 4;
/// Entries of the longest chunk. All long ones are of one length, so that the allocator lays them side by side and a huge page is not
/// touched for each.
const CHUNK_LEN_MAX: usize = 256;
/// The first chunk of that length, and its first slot.
const CHUNK_LONG: usize = (CHUNK_LEN_MAX / CHUNK_LEN_FIRST).ilog2() as usize;
const SLOT_LONG: usize = CHUNK_LEN_MAX - CHUNK_LEN_FIRST;

/// Values in slots that are reused last-emptied first, so that the busy part stays small.
///
/// The chunks double up to a length and never move: growing copies nothing, leaves no freed halves behind, and touches no memory before it is used.
pub(crate) struct Slots<T> {
    chunks: Vec<Vec<Entry<T>>>,
    /// Slots that were ever used.
    count: usize,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the chunk of a slot and its place in it.
#[inline]
fn place(slot: usize) -> (usize, usize) {
    if slot >= SLOT_LONG {
        let beyond = slot - SLOT_LONG;
        return (CHUNK_LONG + beyond / CHUNK_LEN_MAX, beyond % CHUNK_LEN_MAX);
    }
    let chunk = (slot / CHUNK_LEN_FIRST + 1).ilog2() as usize;
    (chunk, slot + CHUNK_LEN_FIRST - (CHUNK_LEN_FIRST << chunk))
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Self {
        Slots { chunks: Vec::new(), count: 0, free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        if let Some(slot) = self.free.pop() {
            let entry = self.entry_mut(slot).expect("a free slot was used before");
            entry.value = Some(value);
            return Key { slot, generation: entry.generation };
        }
        let slot = u32::try_from(self.count).expect("fewer than 2^32 slots are ever alive");
        let (chunk, _) = place(self.count);
        if chunk == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(CHUNK_LEN_FIRST << chunk.min(CHUNK_LONG)));
        }
        self.chunks[chunk].push(Entry { generation: 0, value: Some(value) });
        self.count += 1;
        Key { slot, generation: 0 }
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entry_mut(key.slot)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1) & GENERATION_MASK;
        self.free.push(key.slot);
        Some(value)
    }

    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let (chunk, at) = place(key.slot as usize);
        self.chunks.get(chunk)?.get(at).filter(|entry| entry.generation == key.generation)?.value.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entry_mut(key.slot).filter(|entry| entry.generation == key.generation)?.value.as_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.count - self.free.len()
    }

    /// Returns the bytes of the slots that were ever used.
    pub(crate) fn heap_len(&self) -> usize {
        self.count * size_of::<Entry<T>>() + self.free.capacity() * size_of::<u32>()
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        let live = |(slot, entry): (usize, &Entry<T>)| {
            entry.value.as_ref().map(|_| Key { slot: slot as u32, generation: entry.generation })
        };
        self.chunks.iter().flatten().enumerate().filter_map(live).collect()
    }

    #[inline]
    fn entry_mut(&mut self, slot: u32) -> Option<&mut Entry<T>> {
        let (chunk, at) = place(slot as usize);
        self.chunks.get_mut(chunk)?.get_mut(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_finds_the_next_user_of_its_slot() {
        let mut slots = Slots::new();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(second.slot, first.slot);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"second"));
        assert_eq!((slots.len(), slots.keys().len()), (1, 1));
    }

    #[test]
    fn slots_are_counted_through_all_chunks_and_values_never_move() {
        let mut slots = Slots::new();
        let first = slots.insert(0);
        let address = std::ptr::from_ref(slots.get(first).unwrap());
        let keys: Vec<Key> = (1..1000).map(|number| slots.insert(number)).collect();
        assert!((0..1000).zip(slots.keys()).all(|(slot, key)| key.slot == slot));
        assert!(keys.iter().zip(1..).all(|(key, number)| slots.get(*key) == Some(&number)));
        assert_eq!(std::ptr::from_ref(slots.get(first).unwrap()), address);
        assert_eq!(slots.get(Key { slot: 1000, generation: 0 }), None);
        assert_eq!(slots.get(Key { slot: u32::MAX, generation: 0 }), None);
    }
}
