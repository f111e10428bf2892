//! What the tests of every policy play: entries under positions that are used again, and any order of what a tier does.

use super::{Entries, Handle, Policy};
use std::collections::HashMap;

/// Entries as a tier has them: a hash and uses at each position, and positions that are free.
#[derive(Debug, Default)]
pub(super) struct Model {
    places: HashMap<u32, (u128, u8)>,
    free: Vec<u32>,
}

impl Entries for Model {
    fn take_uses(&mut self, entry: Handle) -> u8 {
        let place = self.places.get_mut(&entry.0).expect("a policy asks only about what is there");
        std::mem::take(&mut place.1)
    }

    fn hash(&self, entry: Handle) -> u128 {
        self.places[&entry.0].0
    }
}

impl Model {
    pub(super) fn add(&mut self, hash: u128) -> Handle {
        let position = self.free.pop().unwrap_or(self.places.len() as u32);
        assert!(self.places.insert(position, (hash, 0)).is_none());
        Handle(position)
    }

    pub(super) fn find(&self, hash: u128) -> Handle {
        let found = self.places.iter().find(|(_, place)| place.0 == hash);
        Handle(*found.expect("it is there").0)
    }

    pub(super) fn note_use(&mut self, hash: u128) {
        let entry = self.find(hash);
        let uses = &mut self.places.get_mut(&entry.0).expect("it was found").1;
        *uses = (*uses + 1).min(3);
    }

    pub(super) fn remove(&mut self, hash: u128) -> Handle {
        let entry = self.find(hash);
        self.take(entry);
        entry
    }

    pub(super) fn take(&mut self, entry: Handle) -> u128 {
        self.free.push(entry.0);
        self.places.remove(&entry.0).expect("only what is there leaves").0
    }
}

/// Entries that are used again and again while they are looked at.
#[derive(Debug, Default)]
pub(super) struct Endless {
    pub(super) asked: usize,
}

impl Entries for Endless {
    fn take_uses(&mut self, _entry: Handle) -> u8 {
        self.asked += 1;
        3
    }

    fn hash(&self, entry: Handle) -> u128 {
        u128::from(entry.0) << 64
    }
}

/// Lets entries come, be used, be replaced, leave and be evicted, and then evicts all; checks after each step that bytes and count, which
/// `figures` returns, are those of the entries that are there, and that no more memory was taken than was foretold.
pub(super) fn play<P: Policy>(
    mut policy: P,
    steps: &[(u8, u8, u64)],
    figures: impl Fn(&P) -> (u64, usize),
) -> P {
    let mut entries = Model::default();
    let mut held: Vec<(u128, u64)> = Vec::new();
    for (number, (kind, which, len)) in steps.iter().enumerate() {
        let at = usize::from(*which) % held.len().max(1);
        match kind {
            0 | 1 => {
                // Few enough keys that many come back after they left.
                let hash = u128::from(*which) << 64 | u128::from(*which) << 32 | (number as u128 % 7);
                if held.iter().any(|entry| entry.0 == hash) {
                    entries.note_use(hash);
                    continue;
                }
                let entry = entries.add(hash);
                let (growth, before) = (policy.growth(entry), policy.memory());
                policy.insert(entry, hash, *len, None);
                assert!(policy.memory() <= before + growth);
                held.push((hash, *len));
            }
            2 if !held.is_empty() => {
                let hash = held[at].0;
                if which % 2 == 0 {
                    held.swap_remove(at);
                    policy.remove(entries.remove(hash), 0);
                } else {
                    let entry = entries.find(hash);
                    let before = policy.remove(entry, 1);
                    policy.insert(entry, hash, *len, Some(before));
                    held[at].1 = *len;
                }
            }
            _ => {
                let before = policy.memory();
                let evicted = policy.evict(&mut entries).map(|entry| entries.take(entry));
                assert_eq!(evicted.is_none(), held.is_empty());
                held.retain(|entry| Some(entry.0) != evicted);
                assert!(policy.memory() <= before + P::new(1000).growth(Handle(0)));
            }
        }
        let sum: u64 = held.iter().map(|entry| entry.1).sum();
        assert_eq!(figures(&policy), (sum, held.len()));
    }
    while let Some(evicted) = policy.evict(&mut entries) {
        let hash = entries.take(evicted);
        held.retain(|entry| entry.0 != hash);
    }
    assert!(held.is_empty(), "what was lost: {held:?}");
    policy
}
