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
        recover(&self.0).unwrap_or_else(|error| panic!("{error}"))
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
    assert_eq!(recovered.log_len, scratch.bytes().len() as u64);
}

#[test]
fn what_was_synced_is_there_and_numbers_go_on_above_it() {
    let scratch = Scratch::with("plain", &[1, 2, 5]);
    let recovered = scratch.recover();
    assert_eq!(numbers(&recovered), [1, 2, 5]);
    assert_eq!((recovered.header.numbers, recovered.header.folded), (5 + NUMBER_MARGIN, 0));
    assert_eq!(recovered.log_len, scratch.bytes().len() as u64);
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
        assert_eq!(recovered.log_len, scratch.bytes().len() as u64);
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
        assert_eq!(recovered.log_len, scratch.bytes().len() as u64);
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
        (b"something else, long enough to be a header of this log".to_vec(), "is not a log"),
        (whole[..20].to_vec(), "is not a log"),
        (damaged, "is damaged at its front"),
    ] {
        std::fs::write(scratch.log(), &bytes).expect("our own file");
        let error = recover(&scratch.0).err().expect("refused");
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
