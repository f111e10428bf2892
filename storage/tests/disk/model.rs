//! Appends, replacements, removals, reclaim, trials, errors and crashes in any order, against a model of what may be found.
//!
//! The model knows of each key which versions were ever appended, and a *floor*: no version below it may be found ever again, because something
//! newer, a removal too, was on the disk. What was found and on the disk when the process died has to be found afterwards. Versions are
//! numbers that only grow, and stand in for invalidation numbers: nothing is found below a number that the volume gave up.

use std::collections::BTreeMap;

use aspis_storage::disk::format::Geometry;
use aspis_storage::disk::volume::Refused;

use crate::simulated::*;

const INDEX_SLOTS: u64 = 8192;
const KEYS: u64 = 300;

/// What a life of the process knows about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// What an earlier life left; this may be missing only if that is `None`.
    Left(Option<u64>),
    /// This version or, since room is made and records are lost, none.
    AtMost(u64),
    Nothing,
}

#[derive(Debug)]
struct Key {
    versions: Vec<u64>,
    floor: u64,
    expected: Expected,
    /// What was done last was to remove it.
    is_removed: bool,
}

struct Model {
    keys: BTreeMap<u64, Key>,
    version: u64,
    /// Numbers below this were given up by the volume.
    given_up: u64,
    dice: Dice,
    found: u64,
    crashes: u64,
    /// Nothing that was left may be missing: no read fails, and no room was made in this life.
    is_all_there: bool,
    is_faulty: bool,
}

impl Model {
    fn new(seed: u64, is_faulty: bool) -> Self {
        let dice = Dice::new(seed ^ 0xd1ce);
        Model {
            keys: BTreeMap::new(),
            version: 1,
            given_up: 0,
            dice,
            found: 0,
            crashes: 0,
            is_all_there: true,
            is_faulty,
        }
    }

    fn any_key(&mut self) -> u64 {
        self.dice.below(KEYS)
    }

    fn append(&mut self, rig: &mut Rig) {
        // Keys of slices come only once.
        let kind = if self.dice.one_in(6) { Kind::Slice } else { Kind::Marker };
        let number = if kind == Kind::Slice { 1_000_000 + self.version } else { self.any_key() };
        let len = match self.dice.below(20) {
            0 => self.dice.below(200_000),
            1..4 => 0,
            _ => self.dice.below(9_000),
        };
        self.version += 1;
        let version = self.version;
        match rig.append(hash(number), version, len as usize, kind) {
            Ok(_) => {
                let new =
                    || Key { versions: Vec::new(), floor: 0, expected: Expected::Nothing, is_removed: false };
                let key = self.keys.entry(number).or_insert_with(new);
                key.versions.push(version);
                key.is_removed = false;
                key.expected = Expected::AtMost(version);
            }
            Err(Refused::TooLarge) => panic!("{len} is not too large"),
            Err(_) => {}
        }
    }

    fn remove(&mut self, rig: &mut Rig) {
        let number = self.any_key();
        rig.volume.remove(hash(number), rig.now);
        if let Some(key) = self.keys.get_mut(&number) {
            // The removal has a number too, so that only what came before it is below the floor that it makes.
            self.version += 1;
            key.versions.push(self.version);
            key.expected = Expected::Nothing;
            key.is_removed = true;
        }
    }

    fn reclaim(&mut self, rig: &mut Rig) -> bool {
        let is_any = rig.reclaim_a_step(1);
        self.is_all_there &= !is_any;
        is_any
    }

    /// Looks a key up and holds what is found against the model.
    fn look(&mut self, rig: &mut Rig, number: u64) -> Look {
        let look = rig.look(hash(number));
        let is_recovered = rig.volume.is_recovered();
        let given_up = self.given_up;
        let Some(key) = self.keys.get_mut(&number) else {
            assert_eq!(look, Look::Nothing, "nothing was ever there");
            return look;
        };
        if let Look::Version { version, is_written } = look {
            self.found += 1;
            assert!(key.versions.contains(&version), "{number}: {version} was never appended");
            assert!(version >= key.floor, "{number}: {version} is older than {key:?}");
            assert!(version >= given_up, "{number}: {version} is below {given_up}, which was given up");
            match key.expected {
                Expected::Left(None) => {}
                Expected::Left(Some(left)) => assert_eq!(version, left, "{number}"),
                Expected::AtMost(newest) => assert_eq!(version, newest, "{number}"),
                Expected::Nothing => panic!("{number}: {version} is back"),
            }
            if is_written {
                key.floor = key.floor.max(version);
            }
        } else if is_recovered {
            if let Expected::Left(Some(left)) = key.expected
                && self.is_all_there
            {
                panic!("{number}: {left} is lost: {look:?}");
            }
            key.expected = Expected::Nothing;
        }
        look
    }

    /// Notes that all that was done is on the disk.
    fn settled(&mut self) {
        for key in self.keys.values_mut() {
            if key.is_removed {
                key.floor = key.floor.max(key.versions.last().map_or(0, |last| last + 1));
            }
        }
    }

    fn step(&mut self, rig: &mut Rig) {
        rig.now += u32::from(self.dice.one_in(20));
        match self.dice.below(100) {
            0..45 => self.append(rig),
            45..52 => self.remove(rig),
            52..70 => {
                let number = self.any_key();
                if let Look::Version { .. } = self.look(rig, number) {
                    rig.volume.used(hash(number));
                }
            }
            70..80 => drop(rig.fetch(false)),
            80..83 => drop(rig.fetch_one(true)),
            83..92 => drop(rig.complete()),
            92..97 => drop((0..self.dice.below(6)).all(|_| self.reclaim(rig))),
            97 => drop(rig.try_a_segment()),
            // All is written, with a segment half reclaimed or not.
            _ => {
                let is_reclaimed = self.dice.one_in(2);
                while rig.fetch(true) > 0 || rig.complete() || is_reclaimed && self.reclaim(rig) {}
                if rig.volume.is_settled() {
                    self.settled();
                }
            }
        }
        if rig.volume.is_recovered() {
            let oldest = rig.volume.oldest_number();
            if oldest != u64::MAX {
                self.given_up = self.given_up.max(oldest);
            }
        }
    }

    /// Ends this life and begins the next.
    fn crash(&mut self, mut rig: Rig, geometry: Geometry) -> Rig {
        self.crashes += 1;
        let numbers: Vec<u64> = self.keys.keys().copied().collect();
        for number in numbers {
            let left = match self.look(&mut rig, number) {
                Look::Version { version, is_written: true } => Some(version),
                _ => None,
            };
            let is_removed = rig.volume.is_recovered() && left.is_none();
            let key = self.keys.get_mut(&number).expect("it was listed");
            // A removal that the disk did not get is lost with the process.
            key.is_removed = false;
            // What was not told yet when the process died again is there as it was.
            key.expected = match key.expected {
                Expected::Left(before) if !is_removed && left.is_none() => Expected::Left(before),
                _ => Expected::Left(left),
            };
        }
        self.is_all_there = !self.is_faulty;
        let mut disk = rig.crash();
        assert!(disk.geometry == geometry);
        disk.read_errors = 0;
        let seed = self.dice.roll();
        let mut next = Rig::new(disk, INDEX_SLOTS, seed);
        next.now = 1000 + self.version as u32 / 10;
        next
    }

    /// After a recovery that nobody disturbed all that was left has to be there.
    fn check_all(&mut self, rig: &mut Rig) {
        let numbers: Vec<u64> = self.keys.keys().copied().collect();
        let mut last = 0;
        for number in numbers {
            if let Look::Version { version, .. } = self.look(rig, number) {
                last = last.max(version);
            }
        }
        assert!(rig.volume.last_number() >= last);
    }
}

fn play(seed: u64, steps: u64, write_errors: u64, read_errors: u64) -> Model {
    let segment_count = 10 + (seed % 10) as u32;
    let geometry = Geometry { segment_shift: 20, segment_count };
    let mut model = Model::new(seed, write_errors + read_errors > 0);
    let mut rig = Rig::recovered(Disk::formatted(geometry), INDEX_SLOTS, seed);
    for _ in 0..steps {
        (rig.disk.write_errors, rig.disk.read_errors) = (write_errors, read_errors);
        if model.dice.below(3) > 0 {
            rig.recover_a_step();
        }
        model.step(&mut rig);
        if model.dice.one_in(250) {
            rig = model.crash(rig, geometry);
            if model.dice.one_in(2) {
                while rig.recover_a_step() {}
                model.check_all(&mut rig);
            }
        }
    }
    rig = model.crash(rig, geometry);
    while rig.recover_a_step() {}
    model.check_all(&mut rig);
    model
}

/// How many seeds are played: `ASPIS_MODEL_SEEDS` of them if it is set.
fn seeds(usual: u64) -> u64 {
    let set = std::env::var_os("ASPIS_MODEL_SEEDS");
    set.and_then(|set| set.to_str()?.parse().ok()).unwrap_or(usual)
}

fn play_many(first: u64, usual: u64, write_errors: u64, read_errors: u64) {
    let (mut found, mut crashes) = (0, 0);
    for seed in first..first + seeds(usual) {
        println!("seed {seed}");
        let model = play(seed, 2500, write_errors, read_errors);
        found += model.found;
        crashes += model.crashes;
    }
    println!("{crashes} crashes, {found} records found");
    assert!(found > 1000);
}

#[test]
fn whatever_happens_nothing_wrong_older_or_removed_is_found() {
    play_many(0, 25, 0, 0);
}

#[test]
fn writes_that_fail_lose_records_and_bring_nothing_back() {
    play_many(1000, 15, 60, 0);
}

#[test]
fn reads_that_fail_lose_records_and_bring_nothing_back() {
    play_many(2000, 15, 0, 40);
}
