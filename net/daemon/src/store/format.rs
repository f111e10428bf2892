//! Makes a store of folders that have none: the volumes with their superblocks, and at the very end the labels.
//!
//! Until the last label is written there is no store, so that a start which was ended in between is seen. Asked by a first start and by
//! `aspis store format`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aspis_storage::disk::format::{Geometry, StoreId, Superblock, TABLE_ENTRY_LEN, TableEntry};

use super::file::{self, Allocation, Progress};
use super::find::{Folder, shown, write_superblocks};
use super::label::{self, Label};
use super::size::Plan;
use super::volume_path;
use crate::files;

/// The part of the free space that a store may take.
const FREE_SHARE: (u64, u64) = (9, 10);

/// Makes a store of this form, which was planned for these folders. `freed` is what becomes free in each folder before.
pub(super) fn make(folders: &[Folder], plan: Plan, freed: &[u64]) -> Result<(), String> {
    let len = plan.geometry().file_len();
    let count = u16::try_from(folders.len()).expect("a plan has a volume for each folder, and 64 at most");
    let needed = needed(folders, plan);
    check_space(folders, &needed, freed)?;
    for folder in folders {
        clear(folder).map_err(|error| format!("{}: {error}", folder.path.display()))?;
    }
    let store =
        StoreId(file::random().map_err(|error| format!("the kernel gives no random numbers: {error}"))?);
    let mut progress = Progress::new("allocating the store", needed.iter().sum());
    let mut made: Vec<PathBuf> = Vec::new();
    for shard in 0..plan.volume_count() {
        let path = volume_path(&folders[usize::from(shard % count)].path, shard);
        made.push(path.clone());
        if let Err(error) = make_volume(&path, store, shard, plan, &mut progress) {
            for path in &made {
                // What was begun is of no use, and what cannot be removed is refused by the next start.
                let _ = std::fs::remove_file(path);
            }
            return Err(format!("{}: {}", path.display(), file::reason(&error, len)));
        }
    }
    progress.end();
    for (folder, number) in folders.iter().zip(1..) {
        let label =
            Label { store, folder: number, folders: count, volumes: plan.volume_count(), numbers: None };
        let written = folder.file.sync_all().and_then(|()| label.write(&folder.path));
        written.map_err(|error| format!("{}: {error}", folder.path.join(label::FILE_NAME).display()))?;
    }
    let names: Vec<String> = folders.iter().map(|folder| folder.path.display().to_string()).collect();
    tracing::info!(
        "made store {} in {}: {} volume(s) with {} segments of {} MiB each, {} MiB in all",
        shown(&store),
        names.join(", "),
        plan.volume_count(),
        plan.segment_count,
        (1 << plan.segment_shift) >> 20,
        plan.len() >> 20
    );
    Ok(())
}

/// Returns how much falls to each folder.
pub(super) fn needed(folders: &[Folder], plan: Plan) -> Vec<u64> {
    let mut needed = vec![0; folders.len()];
    for shard in 0..usize::from(plan.volume_count()) {
        needed[shard % folders.len()] += plan.geometry().file_len();
    }
    needed
}

fn make_volume(
    path: &Path,
    store: StoreId,
    shard: u16,
    plan: Plan,
    progress: &mut Progress,
) -> io::Result<()> {
    let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let superblock = Superblock {
        store,
        shard,
        shard_bits: plan.shard_bits,
        segment_shift: plan.segment_shift,
        segment_count: plan.segment_count,
        created,
    };
    let file = files::private().create_new(true).open(path)?;
    if file::allocate(&file, plan.geometry().file_len(), progress)? == Allocation::LengthOnly {
        tracing::warn!(
            "{}: this file system cannot allocate; writes may fail when it is full",
            path.display()
        );
    }
    write_free(&file, store, plan.geometry(), 0..plan.segment_count)?;
    write_superblocks(&file, &superblock)
}

/// Notes in a volume's table that nothing was ever written to these segments, so that no start has to look.
pub(super) fn write_free(
    file: &File,
    store: StoreId,
    geometry: Geometry,
    segments: Range<u32>,
) -> io::Result<()> {
    let Some(last) = segments.clone().last() else { return Ok(()) };
    let from = geometry.entry_offset(segments.start);
    let len = geometry.entry_offset(last) + TABLE_ENTRY_LEN as u64 - from;
    let mut entries = vec![0; usize::try_from(len).expect("a table is short")];
    for segment in segments {
        let at = (geometry.entry_offset(segment) - from) as usize;
        entries[at..at + TABLE_ENTRY_LEN].copy_from_slice(&TableEntry::FREE.encode(store, segment));
    }
    file.write_all_at(&entries, geometry.table_offset() + from)
}

/// Removes what there is of a store, the label first: what is left without it is no store.
fn clear(folder: &Folder) -> io::Result<()> {
    let label = folder.path.join(label::FILE_NAME);
    match std::fs::remove_file(label) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    folder.shards.iter().try_for_each(|&shard| std::fs::remove_file(volume_path(&folder.path, shard)))
}

/// Sees that the file systems have room for `needed` bytes in each folder, when `freed` are free again.
pub(super) fn check_space(folders: &[Folder], needed: &[u64], freed: &[u64]) -> Result<(), String> {
    let spaces = folders.iter().map(|folder| file::space(&folder.file)).collect::<io::Result<Vec<_>>>();
    let spaces = spaces.map_err(|error| format!("the free space cannot be read: {error}"))?;
    for (folder, space) in folders.iter().zip(&spaces) {
        // Folders on the same file system share what is free there.
        let on_it = |lens: &[u64]| -> u64 {
            let same = spaces.iter().zip(lens).filter(|(other, _)| other.device == space.device);
            same.map(|(_, len)| len).sum()
        };
        let (needed, free) = (on_it(needed), space.free + on_it(freed));
        let most = free / FREE_SHARE.1 * FREE_SHARE.0;
        if needed > most {
            return Err(format!(
                "{}: the store needs {} MiB there, and {} MiB are free, of which it may take nine tenths: choose a smaller --disk-size",
                folder.path.display(),
                needed.div_ceil(1 << 20),
                free >> 20
            ));
        }
    }
    Ok(())
}
