//! Every block of a small store is flipped, zeroed, swapped with another one, or taken from an earlier life of its segment.
//!
//! Whatever it is: recovery ends, nothing panics, every record that is handed out is one that was written under its key, whole. And more than
//! that, as far as there is anything that knows better: damage to table, headers and footers loses nothing; damage to a record of a sealed
//! segment loses that record, and brings no older version back.

use std::collections::BTreeMap;
use std::ops::Range;

use aspis_storage::disk::format::{BLOCK_LEN, Geometry, SegmentState, TableEntry};
use aspis_storage::disk::volume::{Found, Refused};

use crate::simulated::*;

const SMALL: Geometry = Geometry { segment_shift: 20, segment_count: 6 };
const KEYS: u64 = 90;
const SLOTS: u64 = 4096;

/// A store with two lives in the same segments.
struct Store {
    disk: Disk,
    /// What lay there in the first life.
    before: Vec<u8>,
    /// The latest version of each key; none if it was removed.
    latest: BTreeMap<u64, Option<u64>>,
    /// Where each key's record lies.
    found: BTreeMap<u64, Found>,
    /// The first version of the second life.
    second: u64,
    /// Which bytes of the file belong to segments that were not sealed.
    open: Vec<Range<u64>>,
}

/// Appends and removes by chance until `segments` are used; notes what stands at the end.
fn live(rig: &mut Rig, segments: u32, version: &mut u64, latest: &mut BTreeMap<u64, Option<u64>>) {
    while rig.volume.stats().used_segments < segments {
        let key = rig.dice.below(KEYS);
        *version += 1;
        if rig.dice.one_in(5) {
            rig.volume.remove(hash(key), rig.now);
            latest.insert(key, None);
            continue;
        }
        // Slices have keys that come once.
        let (key, kind, len) = if key.is_multiple_of(6) {
            (KEYS + *version, Kind::Slice, 30_000)
        } else {
            (key, Kind::Marker, 12_000)
        };
        let len = rig.dice.below(len) as usize;
        match rig.append(hash(key), *version, len, kind) {
            Ok(_) => drop(latest.insert(key, Some(*version))),
            Err(Refused::NoMemory) => rig.settle(),
            Err(refused) => panic!("{refused:?}"),
        }
    }
    rig.settle();
}

impl Store {
    fn new() -> Store {
        let (mut version, mut latest) = (0, BTreeMap::new());
        let mut rig = Rig::recovered(Disk::formatted(SMALL), SLOTS, 11);
        live(&mut rig, 5, &mut version, &mut latest);
        rig.volume.seal_all();
        rig.settle();
        let mut disk = rig.crash();
        let before = disk.bytes.clone();
        // All that was is forgotten, and its segments are used again with larger sequences.
        for segment in 0..SMALL.segment_count {
            let entry = entry_of(&disk, segment);
            disk.put_entry(segment, &TableEntry { sequence: entry.sequence, ..TableEntry::FREE });
        }
        latest.clear();
        let mut rig = Rig::recovered(disk, SLOTS, 12);
        let second = version + 1;
        live(&mut rig, 5, &mut version, &mut latest);
        // Some more into what is open.
        for key in 0..20 {
            version += 1;
            rig.append(hash(key * 4), version, 3000, Kind::Marker).expect("there is room");
            latest.insert(key * 4, Some(version));
        }
        rig.settle();
        let disk = rig.crash();
        let open = (0..SMALL.segment_count)
            .filter(|segment| entry_of(&disk, *segment).state == SegmentState::Open)
            .map(|segment| SMALL.segment_offset(segment)..SMALL.segment_offset(segment + 1));
        let open: Vec<_> = open.collect();
        assert_eq!(open.len(), 2);
        let mut rig = Rig::recovered(disk, SLOTS, 13);
        let mut found = BTreeMap::new();
        for (key, version) in &latest {
            let look = version.map_or(Look::Nothing, |version| Look::Version { version, is_written: true });
            assert_eq!(rig.look(hash(*key)), look, "{key}");
            found.extend(rig.volume.find(hash(*key)).map(|found| (*key, found)));
        }
        Store { disk: rig.disk, before, latest, found, second, open }
    }

    /// The blocks in which something lies, or lay.
    fn blocks(&self) -> Vec<u64> {
        let used = |block: &u64| {
            let at = (block * BLOCK_LEN) as usize..((block + 1) * BLOCK_LEN) as usize;
            self.disk.bytes[at.clone()].iter().chain(&self.before[at]).any(|byte| *byte != 0)
        };
        (0..self.disk.bytes.len() as u64 / BLOCK_LEN).filter(used).collect()
    }

    fn block(&self, block: u64) -> Vec<u8> {
        self.disk.bytes[bytes_of(block)].to_vec()
    }

    fn put(&mut self, block: u64, bytes: &[u8]) {
        self.disk.bytes[bytes_of(block)].copy_from_slice(bytes);
    }

    fn what(&self, block: u64) -> What {
        let at = block * BLOCK_LEN;
        if at < SMALL.segment_offset(0) {
            return What::Table;
        }
        let segment = ((at - SMALL.segment_offset(0)) >> SMALL.segment_shift) as u32;
        let is_open = self.open.iter().any(|open| open.contains(&at));
        if at == SMALL.segment_offset(segment) {
            What::Header
        } else if is_open {
            What::OpenRecords
        } else if self.found.values().any(|found| overlaps(found, block)) {
            What::Records
        } else {
            // The footer, or nothing that is found.
            What::Rest
        }
    }

    /// Recovers and looks everything up; returns the keys that are lost.
    fn judge(&mut self, damaged: &[u64], may_be: MayBe) -> Vec<u64> {
        let disk = std::mem::replace(&mut self.disk, Disk::formatted(Geometry { segment_count: 1, ..SMALL }));
        let mut rig = Rig::recovered(disk, SLOTS, 17);
        let mut lost = Vec::new();
        for (key, latest) in &self.latest {
            let (found, whole) = (rig.volume.find(hash(*key)), self.found.get(key));
            // What lies where it lay and was not touched is what it was.
            let is_touched = found.iter().any(|found| damaged.iter().any(|block| overlaps(found, *block)));
            if found.as_ref() == whole && !is_touched {
                continue;
            }
            match rig.look(hash(*key)) {
                Look::Version { version, .. } if Some(version) == *latest => {}
                Look::Version { version, .. } => match may_be {
                    MayBe::Latest => panic!("{damaged:?}: {key} is {version}, not {latest:?}"),
                    MayBe::Older => assert!(version >= self.second, "{damaged:?}: of the life before"),
                    MayBe::Anything => {}
                },
                Look::Nothing | Look::Unreadable => lost.extend(latest.map(|_| *key)),
            }
        }
        self.disk = rig.disk;
        lost
    }

    /// Nothing is lost but what lies in these blocks.
    fn check_lost(&self, lost: &[u64], damaged: &[u64]) {
        for key in lost {
            let found = &self.found[key];
            assert!(damaged.iter().any(|block| overlaps(found, *block)), "{damaged:?} lost {key}: {found:?}");
        }
    }
}

/// What lies in a block of the second life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Table,
    Header,
    Records,
    OpenRecords,
    Rest,
}

/// Which versions of a key may be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MayBe {
    Latest,
    /// Of the same life: nothing lists what a segment has that was not sealed.
    Older,
    /// Of the life before too: a whole table from then says that its segments count.
    Anything,
}

fn entry_of(disk: &Disk, segment: u32) -> TableEntry {
    disk.entry(segment).expect("the table is whole")
}

fn bytes_of(block: u64) -> Range<usize> {
    (block * BLOCK_LEN) as usize..((block + 1) * BLOCK_LEN) as usize
}

fn overlaps(found: &Found, block: u64) -> bool {
    (found.file_offset..found.file_offset + found.len).contains(&(block * BLOCK_LEN))
}

/// Damages each block by `damage`, which returns other blocks that it changed; judges each by what it hit.
fn damage_each(mut damage: impl FnMut(&mut Store, u64, &mut Dice) -> Option<u64>, of_table: MayBe) {
    let mut store = Store::new();
    let mut dice = Dice::new(4);
    let blocks = store.blocks();
    assert!(blocks.len() > 1000, "{} blocks", blocks.len());
    let mut lost_in_all = 0;
    for block in blocks {
        let whole = store.block(block);
        let mut damaged = vec![block];
        let before = store.disk.bytes.clone();
        damaged.extend(damage(&mut store, block, &mut dice));
        if store.disk.bytes == before {
            continue;
        }
        let hit: Vec<What> = damaged.iter().map(|block| store.what(*block)).collect();
        let may_be = match () {
            () if hit.contains(&What::Table) => of_table,
            () if hit.contains(&What::OpenRecords) => MayBe::Older,
            () => MayBe::Latest,
        };
        let lost = store.judge(&damaged, may_be);
        if may_be != MayBe::Anything {
            store.check_lost(&lost, &damaged);
        }
        lost_in_all += lost.len();
        store.disk.bytes.copy_from_slice(&before);
        assert_eq!(store.block(block), whole);
    }
    // The test would show nothing if nothing was hit.
    assert!(lost_in_all > 100, "{lost_in_all}");
    assert_eq!(store.judge(&[], MayBe::Latest), []);
}

#[test]
fn a_flipped_bit_loses_at_most_its_record() {
    damage_each(
        |store, block, dice| {
            let at = bytes_of(block).start + dice.below(BLOCK_LEN) as usize;
            store.disk.bytes[at] ^= 1 << dice.below(8);
            None
        },
        MayBe::Latest,
    );
}

#[test]
fn a_block_of_zeros_loses_at_most_its_records() {
    damage_each(
        |store, block, _| {
            store.put(block, &[0; BLOCK_LEN as usize]);
            None
        },
        MayBe::Latest,
    );
}

#[test]
fn blocks_in_each_others_places_lose_at_most_their_records() {
    let mut others = Vec::new();
    damage_each(
        |store, block, dice| {
            if others.is_empty() {
                others = store.blocks();
            }
            let other = others[dice.below(others.len() as u64) as usize];
            let (first, second) = (store.block(block), store.block(other));
            store.put(block, &second);
            store.put(other, &first);
            Some(other)
        },
        MayBe::Latest,
    );
}

#[test]
fn a_block_from_an_earlier_life_loses_at_most_its_records() {
    damage_each(
        |store, block, _| {
            let before = store.before[bytes_of(block)].to_vec();
            store.put(block, &before);
            None
        },
        MayBe::Anything,
    );
}
