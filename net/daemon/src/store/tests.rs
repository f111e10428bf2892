//! Opening, refusing and resizing stores in folders of their own.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aspis_storage::disk::check::Depth;
use aspis_storage::disk::footer::{Trailer, write_footer};
use aspis_storage::disk::format::{BLOCK_LEN, Class, SegmentHeader, SegmentState, Superblock, TableEntry};

use super::*;

const MIB: u64 = 1 << 20;

/// A folder of one test, removed with everything in it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("aspis-store-{}-{name}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).expect("the temporary folder is writable");
        Scratch(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The names of folders in it, which are not made.
    fn folders<const N: usize>(&self) -> [String; N] {
        std::array::from_fn(|at| {
            self.0.join(format!("disk-{at}")).to_str().expect("plain letters").to_owned()
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn wanted(folders: &[String], size: Option<u64>, cores: usize) -> Wanted<'_> {
    Wanted { folders, size, cores, memory: 64 * MIB, mean_object: 16 << 10 }
}

fn opened(folders: &[String]) -> Store {
    open(&wanted(folders, None, 1)).unwrap_or_else(|error| panic!("{error}"))
}

fn made(folders: &[String], size: u64, cores: usize) -> Store {
    open(&wanted(folders, Some(size), cores)).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn refused(folders: &[String], parts: &[&str]) {
    let error = open(&wanted(folders, None, 1)).expect_err("it is refused");
    for part in parts {
        assert!(error.contains(part), "no {part:?} in {error:?}");
    }
}

fn file(folder: &str, shard: u16) -> File {
    crate::files::private().open(volume_path(Path::new(folder), shard)).expect("a volume")
}

/// Every file in a folder with its content but for the segments.
fn content(folder: &str) -> Vec<(PathBuf, u64, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let file = File::open(&path).expect("a file");
            let len = file.metadata().expect("a file").len();
            let mut bytes = vec![0; usize::try_from(len.min(MIB)).expect("small")];
            file.read_exact_at(&mut bytes, 0).expect("as long as it says");
            (path, len, bytes)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn names_of_volumes_are_read_as_they_are_written() {
    for shard in [0, 7, 63, 1023] {
        let path = volume_path(Path::new("/d"), shard);
        assert_eq!(shard_of(path.file_name().and_then(|name| name.to_str()).expect("a name")), Some(shard));
    }
    for name in ["shard-1.aspis", "shard-00001.aspis", "shard-.aspis", "shard-0001", "shard-0001.aspis~", "x"]
    {
        assert_eq!(shard_of(name), None, "{name}");
    }
}

#[test]
fn empty_folders_become_a_store_and_are_it_ever_after() {
    let scratch = Scratch::new("empty");
    let folders: [String; 2] = scratch.folders();
    let store = made(&folders, 512 * MIB, 3);
    assert_eq!((store.volumes.len(), store.len(), store.numbers()), (4, 512 * MIB, None));
    let (name, superblocks): (u64, Vec<Superblock>) =
        (store.name(), store.volumes.iter().map(|volume| volume.superblock).collect());
    for (shard, volume) in (0..).zip(&store.volumes) {
        assert_eq!((volume.superblock.shard, volume.folder), (shard, usize::from(shard % 2)));
        let len = volume.file.metadata().expect("a file").len();
        assert_eq!(len, volume.superblock.geometry().file_len());
        assert!(file::allocated(&volume.file).expect("a file") >= len, "all of it is allocated");
    }
    drop(store);
    for folders in [folders.clone(), [folders[1].clone(), folders[0].clone()]] {
        let store = opened(&folders);
        assert_eq!(store.name(), name);
        assert_eq!(store.volumes.iter().map(|volume| volume.superblock).collect::<Vec<_>>(), superblocks);
    }
}

#[test]
fn numbers_are_noted_in_every_folder() {
    let scratch = Scratch::new("numbers");
    let folders: [String; 2] = scratch.folders();
    let mut store = made(&folders, 256 * MIB, 2);
    store.note_numbers(0).expect("room for a label");
    drop(store);
    let mut store = opened(&folders);
    assert_eq!(store.numbers(), Some(0), "served from, though no number was given");
    store.note_numbers(77).expect("room for a label");
    drop(store);
    // A start that broke off between two labels.
    let older = label::Label::read(Path::new(&folders[0])).expect("a label").expect("one").expect("sound");
    label::Label { numbers: Some(5), ..older }.write(Path::new(&folders[0])).expect("room");
    assert_eq!(opened(&folders).numbers(), Some(77));
}

#[test]
fn a_folder_is_no_store_by_itself() {
    let scratch = Scratch::new("no-store");
    let folders: [String; 1] = scratch.folders();
    refused(&folders, &["is empty", "--disk-size"]);
    std::fs::write(Path::new(&folders[0]).join("letters"), "dear").expect("our own folder");
    let error = open(&wanted(&folders, Some(128 * MIB), 1)).expect_err("others' files");
    assert!(error.contains("letters") && error.contains("Nothing was changed"), "{error}");
    assert!(
        error.contains(&format!("aspis store format {} --disk-size SIZE --force", folders[0])),
        "{error}"
    );
    assert_eq!(content(&folders[0]).len(), 1);
    std::fs::remove_file(Path::new(&folders[0]).join("letters")).expect("our own folder");
    // What --state keeps there is no stranger.
    std::fs::write(Path::new(&folders[0]).join("rules.log"), "").expect("our own folder");
    std::fs::write(Path::new(&folders[0]).join("lock"), "").expect("our own folder");
    drop(made(&folders, 128 * MIB, 1));
    std::fs::write(Path::new(&folders[0]).join("notes"), "").expect("our own folder");
    drop(opened(&folders));
    let error = open(&wanted(&[folders[0].clone(), folders[0].clone() + "/."], None, 1))
        .expect_err("one folder twice");
    assert!(error.contains("are the same folder"), "{error}");
}

/// Too large, or for too many cores: nothing is left behind that a later start would stumble over.
#[test]
fn a_size_that_cannot_be_is_refused_before_anything_is_made() {
    let scratch = Scratch::new("size");
    let folders: [String; 1] = scratch.folders();
    let large = Wanted { mean_object: 64 * MIB, ..wanted(&folders, Some(20 << 40), 1) };
    let error = open(&large).expect_err("no such disk");
    assert!(error.contains("MiB are free") && error.contains("--disk-size"), "{error}");
    let error = open(&wanted(&folders, Some(128 * MIB), 2)).expect_err("too small for two cores");
    assert!(error.contains("2 volume(s)"), "{error}");
    assert_eq!(content(&folders[0]), []);
    drop(made(&folders, 128 * MIB, 1));
}

#[test]
fn what_is_not_one_whole_store_is_refused_and_left_as_it_is() {
    let scratch = Scratch::new("whole");
    let [a, b, c, d]: [String; 4] = scratch.folders();
    let pair = [a.clone(), b.clone()];
    drop(made(&pair, 256 * MIB, 2));
    drop(made(std::slice::from_ref(&c), 128 * MIB, 1));
    let before = [&a, &b, &c].map(|folder| content(folder));
    refused(
        std::slice::from_ref(&a),
        &["has 2 folder(s)", "one is named", "is number 1", "aspis store format"],
    );
    refused(&[a.clone(), c.clone()], &["belongs to another store", "Nothing was changed"]);
    refused(&[a.clone(), b.clone(), d.clone()], &["disk-3 is not part of the store in", "2 folder(s)"]);
    let volume = |folder: &str, shard| volume_path(Path::new(folder), shard);
    let aside = scratch.path().join("aside");
    std::fs::rename(volume(&b, 1), &aside).expect("a volume");
    refused(&pair, &["disk-1/shard-0001.aspis is missing", "2 volume(s)", "--force"]);
    std::fs::copy(volume(&c, 0), volume(&b, 1)).expect("room");
    refused(&pair, &["disk-1/shard-0001.aspis belongs to another store"]);
    std::fs::copy(volume(&a, 0), volume(&b, 1)).expect("room");
    refused(&pair, &["disk-1/shard-0001.aspis is volume 0 of 2"]);
    std::fs::copy(volume(&a, 0), volume(&b, 0)).expect("room");
    std::fs::rename(&aside, volume(&b, 1)).expect("a volume");
    refused(&pair, &["disk-1/shard-0000.aspis is there twice", "disk-0/shard-0000.aspis"]);
    std::fs::remove_file(volume(&b, 0)).expect("a volume");
    let label = Path::new(&b).join(label::FILE_NAME);
    let text = std::fs::read(&label).expect("a label");
    std::fs::remove_file(&label).expect("a label");
    refused(&pair, &["disk-1 is not part of the store in"]);
    std::fs::write(&label, &text).expect("a label");
    assert_eq!([&a, &b, &c].map(|folder| content(folder)), before);
    drop(opened(&pair));
    std::fs::remove_file(Path::new(&c).join(label::FILE_NAME)).expect("a label");
    refused(std::slice::from_ref(&c), &["has no store.aspis", "was not finished", "--force"]);
}

#[test]
fn another_version_and_damage_are_refused_with_the_file_and_the_command() {
    let scratch = Scratch::new("damage");
    let folders: [String; 1] = scratch.folders();
    drop(made(&folders, 128 * MIB, 1));
    let anew =
        format!("To begin with an empty store: aspis store format {} --disk-size SIZE --force", folders[0]);
    let volume = file(&folders[0], 0);
    let mut sound = [0; BLOCK_LEN as usize];
    volume.read_exact_at(&mut sound, 0).expect("a superblock");
    let both = |block: &[u8]| {
        volume.write_all_at(block, 0).expect("our own file");
        volume.write_all_at(block, BLOCK_LEN).expect("our own file");
    };
    let mut newer = sound;
    newer[8] = 9;
    let end = sound.len() - 8;
    let check = xxhash_rust::xxh3::xxh3_64(&newer[..end]);
    newer[end..].copy_from_slice(&check.to_le_bytes());
    both(&newer);
    refused(&folders, &["shard-0000.aspis has format version 9", &anew]);
    let mut damaged = sound;
    damaged[40] ^= 1;
    both(&damaged);
    refused(&folders, &["shard-0000.aspis is damaged", &anew]);
    both(&[b'x'; BLOCK_LEN as usize]);
    refused(&folders, &["shard-0000.aspis is no file of a store", &anew]);
    // One sound copy is enough, and the other is mended.
    for place in [0, BLOCK_LEN] {
        both(&sound);
        volume.write_all_at(&damaged, place).expect("our own file");
        drop(opened(&folders));
        let mut read = [0; BLOCK_LEN as usize];
        volume.read_exact_at(&mut read, place).expect("a superblock");
        assert!(read == sound, "mended at {place}");
    }
    let label = Path::new(&folders[0]).join(label::FILE_NAME);
    let text = std::fs::read_to_string(&label).expect("a label");
    for (from, to, part) in [
        ("version 1", "version 2", "store.aspis has format version 2"),
        ("volumes 1", "volumes 2", "store.aspis is damaged"),
        ("aspis store", "other store", "store.aspis is no file of a store"),
    ] {
        std::fs::write(&label, text.replace(from, to)).expect("our own file");
        refused(&folders, &[part, &anew]);
    }
}

/// What an earlier build made keeps what it has; that build refuses it from then on.
#[test]
fn a_store_of_an_older_format_becomes_one_of_this() {
    let scratch = Scratch::new("older");
    let folders: [String; 1] = scratch.folders();
    drop(made(&folders, 128 * MIB, 1));
    let volume = file(&folders[0], 0);
    let mut sound = [0; BLOCK_LEN as usize];
    volume.read_exact_at(&mut sound, 0).expect("a superblock");
    let mut older = sound;
    older[8] = 1;
    let end = older.len() - 8;
    let check = xxhash_rust::xxh3::xxh3_64(&older[..end]);
    older[end..].copy_from_slice(&check.to_le_bytes());
    let mut damaged = older;
    damaged[40] ^= 1;
    // As it was made, and with either copy damaged or written by this build: an end between the two writes.
    for (first, copy) in [(older, older), (damaged, older), (older, damaged), (sound, older), (older, sound)]
    {
        volume.write_all_at(&first, 0).expect("our own file");
        volume.write_all_at(&copy, BLOCK_LEN).expect("our own file");
        drop(opened(&folders));
        for place in [0, BLOCK_LEN] {
            let mut read = [0; BLOCK_LEN as usize];
            volume.read_exact_at(&mut read, place).expect("a superblock");
            assert!(read == sound, "at {place}");
        }
    }
}

#[test]
fn a_store_is_used_by_one_process_at_a_time() {
    let scratch = Scratch::new("locked");
    let folders: [String; 1] = scratch.folders();
    let store = made(&folders, 128 * MIB, 1);
    refused(&folders, &["disk-0: another process uses this folder"]);
    drop(store);
    // The file alone may be in use too, under another name.
    let held = File::open(volume_path(Path::new(&folders[0]), 0)).expect("a volume");
    held.lock().expect("nobody has it");
    refused(&folders, &["shard-0000.aspis: another process uses it"]);
    drop(held);
    drop(opened(&folders));
}

#[test]
fn a_store_grows_and_shrinks_and_keeps_the_segments_that_stay() {
    let scratch = Scratch::new("resize");
    let folders: [String; 1] = scratch.folders();
    let store = made(&folders, 256 * MIB, 2);
    let superblock = store.volumes[1].superblock;
    assert_eq!((superblock.segment_shift, superblock.segment_count), (21, 64));
    drop(store);
    let geometry = superblock.geometry();
    let volume = file(&folders[0], 1);
    let entry =
        TableEntry { sequence: 5, state: SegmentState::Sealed, class: Class::Slices, ..TableEntry::FREE };
    for segment in [3, 40] {
        let at = geometry.table_offset() + geometry.entry_offset(segment);
        volume.write_all_at(&entry.encode(superblock.store, segment), at).expect("our own file");
        volume.write_all_at(b"content", geometry.segment_offset(segment)).expect("our own file");
    }
    let table = |segment| {
        let mut bytes = [0; aspis_storage::disk::format::TABLE_ENTRY_LEN];
        volume
            .read_exact_at(&mut bytes, geometry.table_offset() + geometry.entry_offset(segment))
            .expect("a table");
        TableEntry::decode(&bytes, superblock.store, segment)
    };
    let starts = |segment| {
        let mut bytes = [0; 7];
        volume.read_exact_at(&mut bytes, geometry.segment_offset(segment)).map(|()| bytes)
    };
    for (size, segments) in [(64 * MIB, 16), (600 * MIB, 150), (256 * MIB, 64)] {
        let store = made(&folders, size, 2);
        assert_eq!((store.volumes.len(), store.len()), (2, u64::from(segments) * 2 * 2 * MIB));
        for volume in &store.volumes {
            assert_eq!(volume.superblock.segment_count, segments);
            assert_eq!(
                volume.file.metadata().expect("a file").len(),
                volume.superblock.geometry().file_len()
            );
        }
        drop(store);
        assert_eq!(opened(&folders).volumes[1].superblock.segment_count, segments, "kept without the flag");
        assert_eq!((table(3), &starts(3).expect("it stays")), (Some(entry), b"content"));
    }
    // It was gone while the store was small, and what is there now is another segment.
    assert_eq!((table(40), starts(40).expect("long enough")), (Some(TableEntry::FREE), [0; 7]));
    let error = open(&wanted(&folders, Some(128 * MIB / 4), 2)).expect_err("too small");
    assert!(error.contains("can have 64MiB to"), "{error}");
}

/// Writes a sealed segment without records.
fn seal(volume: &File, superblock: &Superblock, segment: u32, entry: TableEntry) {
    let (geometry, store) = (superblock.geometry(), superblock.store);
    let TableEntry { sequence, class, oldest, newest, created, expires, .. } = entry;
    let header = SegmentHeader { sequence, class, created }.encode(store, segment);
    let trailer = Trailer { sequence, class, count: 0, oldest, newest, last_lsn: sequence, created, expires };
    let mut footer = Vec::new();
    write_footer(&[], &trailer, store, &mut footer);
    let end = geometry.segment_offset(segment + 1);
    let write = |bytes: &[u8], at| volume.write_all_at(bytes, at).expect("our own file");
    write(&header, geometry.segment_offset(segment));
    write(&footer, end - footer.len() as u64);
    write(format!("segment {sequence}").as_bytes(), geometry.segment_offset(segment) + BLOCK_LEN);
    write(&entry.encode(store, segment), geometry.table_offset() + geometry.entry_offset(segment));
}

/// What is cut off must not be newer than what stays: what it replaced or removed would come back.
#[test]
fn a_smaller_store_has_the_newest_segments() {
    let scratch = Scratch::new("shrink");
    let folders: [String; 1] = scratch.folders();
    let superblock = made(&folders, 128 * MIB, 1).volumes[0].superblock;
    let (geometry, volume) = (superblock.geometry(), file(&folders[0], 0));
    for segment in 0..64 {
        let (sequence, newest) = (1000 + u64::from(segment), 7 * u64::from(segment));
        seal(
            &volume,
            &superblock,
            segment,
            TableEntry { sequence, newest, oldest: 0, state: SegmentState::Sealed, ..TableEntry::FREE },
        );
    }
    assert_eq!(opened(&folders).newest(), 7 * 63);
    drop(made(&folders, 32 * MIB, 1));
    let small = Superblock { segment_count: 16, ..superblock };
    let found = aspis_storage::disk::check::check(&file::Bytes(&volume), Depth::Records, |_, _| ())
        .expect("a volume");
    assert!(found.is_whole() && found.superblock == small, "{found:?}");
    let mut kept = Vec::new();
    for segment in 0..16 {
        let mut block = [0; BLOCK_LEN as usize];
        volume.read_exact_at(&mut block, geometry.segment_offset(segment)).expect("a segment");
        let Some(header) = SegmentHeader::decode(&block, superblock.store, segment) else { continue };
        let mut content = [0; 12];
        volume.read_exact_at(&mut content, geometry.segment_offset(segment) + BLOCK_LEN).expect("a segment");
        assert_eq!(content.to_vec(), format!("segment {}", header.sequence).into_bytes());
        kept.extend((header.sequence > 1015).then_some(header.sequence));
    }
    kept.sort_unstable();
    assert_eq!(kept, (1052..1064).collect::<Vec<u64>>(), "all but four places, which can be written at once");
}

#[test]
fn what_was_cut_off_is_allocated_again() {
    let scratch = Scratch::new("cut");
    let folders: [String; 1] = scratch.folders();
    drop(made(&folders, 128 * MIB, 1));
    let volume = file(&folders[0], 0);
    let len = volume.metadata().expect("a file").len();
    volume.set_len(100 * MIB).expect("our own file");
    drop(opened(&folders));
    assert_eq!(volume.metadata().expect("a file").len(), len);
    assert!(file::allocated(&volume).expect("a file") >= len);
    volume.set_len(len + 5000).expect("our own file");
    drop(opened(&folders));
    assert_eq!(volume.metadata().expect("a file").len(), len, "what a resize left over is cut off");
}

/// Before anything is made or changed.
#[test]
fn an_index_that_memory_has_no_room_for_is_refused() {
    let scratch = Scratch::new("index");
    let folders: [String; 1] = scratch.folders();
    let index = |size, mean_object| open(&Wanted { mean_object, ..wanted(&folders, size, 2) });
    let error = index(Some(256 * MIB), 16).expect_err("no room");
    assert!(error.contains("--disk-mean-object"), "{error}");
    assert_eq!(content(&folders[0]), []);
    let store = index(Some(256 * MIB), 16 << 10).expect("room");
    assert!(store.index_slots * 85 / 100 >= 128 * MIB / (16 << 10), "{}", store.index_slots);
    drop(store);
    let before = content(&folders[0]);
    index(Some(512 * MIB), 16).expect_err("no room");
    index(None, 16).expect_err("no room");
    assert_eq!(content(&folders[0]), before);
}
