use std::path::PathBuf;

use super::*;
use crate::invalidations::batch::parse;
use aspis_cache::invalidation::Wildcards;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("aspis-recovery-{}-{name}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        Scratch(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join(FILE_NAME)
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.log()).expect("the log is there")
    }

    fn recover(&self) -> Recovered {
        self.recover_with(Bound::default())
    }

    fn recover_with(&self, bound: Bound) -> Recovered {
        recover(&self.0, bound).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A log with invalidations of these numbers, all whole.
    fn with(name: &str, numbers: &[u64]) -> Self {
        let scratch = Scratch::new(name);
        let mut recovered = scratch.recover();
        for number in numbers {
            let record = invalidation(*number).encode(recovered.header.file);
            crate::invalidations::rules_log::Disk::append(&mut recovered.folder, &record).expect("room");
        }
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn invalidation(number: u64) -> Entry {
    let batch = parse(br#"{"paths":["/a"]}"#, Wildcards::Trailing).expect("sound").batch;
    Entry::Invalidation(Box::new(Invalidation {
        number,
        created_ms: 1,
        id: format!("I{number}").into(),
        batch,
    }))
}

fn numbers(recovered: &Recovered) -> Vec<u64> {
    recovered.records.iter().map(|(invalidation, _)| invalidation.number).collect()
}

#[test]
fn a_new_folder_gets_an_empty_log() {
    let scratch = Scratch::new("new");
    let recovered = scratch.recover();
    assert_eq!((recovered.header.numbers, numbers(&recovered).len()), (0, 0));
    assert_eq!(recovered.folder.log_len(), scratch.bytes().len() as u64);
}

#[test]
fn what_was_synced_is_there_and_numbers_go_on_above_it() {
    let scratch = Scratch::with("plain", &[1, 2, 5]);
    let recovered = scratch.recover();
    assert_eq!(numbers(&recovered), [1, 2, 5]);
    assert_eq!((recovered.header.numbers, recovered.header.folded), (5 + NUMBER_MARGIN, 0));
    assert_eq!(recovered.folder.log_len(), scratch.bytes().len() as u64);
    drop(recovered);
    // A process that accepted something and could not sync it may have given numbers: they are not given again.
    assert_eq!(scratch.recover().header.numbers, 5 + 2 * NUMBER_MARGIN);
}

/// Killed while it wrote: what was not finished was told to nobody.
#[test]
fn a_torn_tail_is_cut_off_wherever_it_is_torn() {
    let scratch = Scratch::with("torn", &[1, 2]);
    let whole = scratch.bytes();
    let last_len = invalidation(2).encode(0).len();
    for cut in 1..last_len {
        std::fs::write(scratch.log(), &whole[..whole.len() - cut]).expect("our own file");
        let recovered = scratch.recover();
        assert_eq!((numbers(&recovered), recovered.header.folded), (vec![1], 0), "cut by {cut}");
        assert_eq!(recovered.folder.log_len(), scratch.bytes().len() as u64);
    }
    // A block of zeroes in the place of the last record, as a file system may leave it.
    let mut zeroed = whole.clone();
    let from = whole.len() - last_len;
    zeroed[from..].fill(0);
    std::fs::write(scratch.log(), &zeroed).expect("our own file");
    assert_eq!(numbers(&scratch.recover()), [1]);
}

/// Too much is invalidated, never too little.
#[test]
fn damage_in_the_middle_invalidates_everything_before() {
    let record_len = invalidation(1).encode(0).len();
    for at in 0..record_len {
        let scratch = Scratch::with("damage", &[1, 2, 3]);
        let mut bytes = scratch.bytes();
        let first = HEADER_LEN;
        bytes[first + record_len + at] ^= 0x40;
        std::fs::write(scratch.log(), &bytes).expect("our own file");
        let recovered = scratch.recover();
        assert_eq!(numbers(&recovered), [1, 3], "byte {at}");
        assert_eq!(recovered.header.folded, 3 + NUMBER_MARGIN);
        let rules = crate::invalidations::still_counting(&recovered.header, &recovered.records);
        assert_eq!(rules.len(), 1, "one rule for everything stands for all before it");
        assert_eq!(rules[0].number, 3 + NUMBER_MARGIN);
        assert!(rules[0].number <= recovered.header.numbers, "what is fetched from now on is newer");
        assert_eq!(std::fs::read(scratch.0.join(DAMAGED_NAME)).expect("kept for a look"), bytes);
        assert_eq!(recovered.folder.log_len(), scratch.bytes().len() as u64);
        drop(recovered);
        // The next start finds a whole log, which still says so.
        let again = scratch.recover();
        assert_eq!((numbers(&again), again.header.folded), (vec![1, 3], 3 + NUMBER_MARGIN));
    }
}

#[test]
fn what_is_no_log_of_ours_stops_the_start() {
    let scratch = Scratch::with("foreign", &[1]);
    let whole = scratch.bytes();
    let mut damaged = whole.clone();
    damaged[30] ^= 1;
    for (bytes, part) in [
        (b"".to_vec(), "is not a log"),
        (b"something else, and in any case long enough to be a header of this log".to_vec(), "is not a log"),
        (whole[..20].to_vec(), "is not a log"),
        (damaged, "is damaged at its front"),
    ] {
        std::fs::write(scratch.log(), &bytes).expect("our own file");
        let error = recover(&scratch.0, Bound::default()).err().expect("refused");
        assert!(error.contains(part) && error.contains("Nothing was changed"), "{error}");
        assert_eq!(scratch.bytes(), bytes);
    }
}

#[test]
fn a_replacement_that_was_not_finished_is_of_no_matter() {
    let scratch = Scratch::with("beside", &[1]);
    std::fs::write(scratch.0.join(crate::invalidations::rules_log::NEW_NAME), b"half")
        .expect("our own folder");
    let mut recovered = scratch.recover();
    assert_eq!(numbers(&recovered), [1]);
    let records: Vec<Arc<[u8]>> = recovered.records.iter().map(|(_, record)| Arc::clone(record)).collect();
    let header = Header { settled: 1, ..recovered.header };
    let disk = &mut recovered.folder;
    crate::invalidations::rules_log::Disk::replace(disk, &header.encode(), &records).expect("room");
    drop(recovered);
    let again = scratch.recover();
    assert_eq!((numbers(&again), again.header.settled), (vec![1], 1));
    assert!(crate::invalidations::still_counting(&again.header, &again.records).is_empty());
}

/// The number up to which everything counts as invalidated, if it is so for everything stored up to now.
fn all_up_to(recovered: &Recovered) -> Option<u64> {
    let rules = crate::invalidations::still_counting(&recovered.header, &recovered.records);
    let is_all = |number| number == recovered.header.numbers;
    rules.iter().map(|batch| batch.number).find(|number| is_all(*number))
}

fn bound(store: u64, numbers: Option<u64>) -> Bound {
    Bound { store, numbers, newest: 0 }
}

#[test]
fn a_store_and_its_log_go_on_together() {
    let scratch = Scratch::with("together", &[1, 2]);
    // Nobody has served from the store, so that any log will do.
    let first = scratch.recover_with(bound(7, None));
    assert_eq!((first.header.store, all_up_to(&first)), (7, None));
    let noted = first.header.numbers;
    drop(first);
    let second = scratch.recover_with(bound(7, Some(noted)));
    assert_eq!((numbers(&second), all_up_to(&second)), (vec![1, 2], None));
    assert!(second.header.numbers > noted);
    let last = second.header.numbers;
    drop(second);
    // A number that was given and did not reach the log before the process was killed.
    let known = Bound { newest: last + NUMBER_MARGIN, ..bound(7, Some(noted)) };
    assert_eq!(all_up_to(&scratch.recover_with(known)), None);
}

/// A log from a backup that was made while the last process ran.
#[test]
fn a_log_that_ends_before_what_is_on_disk_invalidates_all_of_it() {
    let scratch = Scratch::with("backup", &[1, 2]);
    let last = scratch.recover_with(bound(7, None)).header.numbers;
    let newest = last + NUMBER_MARGIN + 1;
    let recovered = scratch.recover_with(Bound { newest, ..bound(7, Some(1)) });
    assert_eq!(all_up_to(&recovered), Some(newest + LOST_MARGIN));
}

/// Rules that concern what is on disk may be missing from a log that is not the store's own: too much is invalidated, never too little.
#[test]
fn a_log_that_is_not_the_stores_own_invalidates_all_of_it() {
    let noted = 5000;
    let known = bound(7, Some(noted));
    let missing = Scratch::new("missing");
    let older = Scratch::with("older", &[1, 2]);
    drop(older.recover_with(bound(7, None)));
    let other = Scratch::with("other", &[9000]);
    drop(other.recover_with(bound(8, None)));
    let without = Scratch::with("without", &[9000]);
    drop(without.recover_with(bound(7, None)));
    // A run without the disk forgets what concerns nothing in memory.
    drop(without.recover());
    for scratch in [&missing, &older, &other, &without] {
        let recovered = scratch.recover_with(known);
        let up_to = all_up_to(&recovered).expect("all of it");
        assert!(up_to >= noted + LOST_MARGIN && recovered.header.numbers == up_to, "{up_to}");
        let expected = numbers(&recovered);
        drop(recovered);
        // It stays so, whether that process noted its number or was killed before.
        for bound in [known, bound(7, Some(up_to))] {
            let again = scratch.recover_with(bound);
            assert_eq!((again.header.folded, numbers(&again)), (up_to, expected.clone()));
            assert!(again.header.numbers > up_to);
        }
    }
}

#[test]
fn damage_and_distrust_together_invalidate_up_to_the_larger_number() {
    let record_len = invalidation(1).encode(0).len();
    let scratch = Scratch::with("both", &[1, 2, 3]);
    let mut bytes = scratch.bytes();
    bytes[HEADER_LEN + record_len + 20] ^= 0x40;
    std::fs::write(scratch.log(), &bytes).expect("our own file");
    let recovered = scratch.recover_with(bound(7, Some(10)));
    assert_eq!(all_up_to(&recovered), Some(10 + LOST_MARGIN));
    assert_eq!(recovered.header.store, 7);
}
