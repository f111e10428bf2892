//! Takes a store for serving: made if its folders are empty, of the size that is wanted, allocated, and open past the page cache.
//!
//! Asked once by the start, before the cores and the log of invalidations. What comes of it, [`Store`], goes to the cores as files, and keeps
//! the locks for the life of the process.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aspis_config::values::write_size;
use aspis_shard::{Directory, DiskBoot, VolumeFile};
use aspis_storage::disk::format::{Geometry, SegmentState, Superblock, TABLE_ENTRY_LEN, TableEntry};

use super::file::{self, Allocation, Progress};
use super::find::{self, Access, Folder, FoundVolume, Labels, Missing, shown, write_superblocks};
use super::format::{check_space, make};
use super::label::Label;
use super::shrink;
use super::size::{self, Plan};
use super::{Folders, name_of, volume_path};

/// What the operator wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'w> {
    /// The folders of `--disk`.
    pub(crate) folders: &'w [String],
    /// `--disk-size`.
    pub(crate) size: Option<u64>,
    /// How many cores serve.
    pub(crate) cores: usize,
}

/// One volume, ready for the data plane.
#[derive(Debug)]
pub(crate) struct Volume {
    /// Its folder, by its place among those of `--disk`.
    pub(crate) folder: usize,
    /// The file, locked.
    pub(crate) file: File,
    /// Whether reads and writes pass by the page cache.
    pub(crate) is_direct: bool,
    /// What it says of itself.
    pub(crate) superblock: Superblock,
}

/// A store that this process alone uses.
#[derive(Debug)]
pub(crate) struct Store {
    /// The folders, locked as long as this is there.
    folders: Vec<Folder>,
    label: Label,
    newest: u64,
    /// The volumes, by shard; taken by the cores.
    pub(crate) volumes: Vec<Volume>,
}

/// Opens the store in these folders, or makes it. The error says what is wrong and what to do.
pub(crate) fn open(wanted: &Wanted<'_>) -> Result<Store, String> {
    let folders = find::folders(wanted.folders, Missing::Make, Labels::Read)?;
    let file_systems =
        folders.iter().map(|folder| file::copy_on_write(&folder.file)).collect::<io::Result<Vec<_>>>();
    let file_systems = file_systems.map_err(|error| format!("the file system cannot be asked: {error}"))?;
    let copying =
        folders.iter().zip(file_systems).find_map(|(folder, name)| Some((folder.path.display(), name?)));
    let folders = match folders.iter().all(Folder::has_no_store) {
        false => {
            if let Some((path, name)) = copying {
                tracing::warn!(
                    "{path} is on {name}, which copies what is written again: writes may fail when it is full"
                );
            }
            folders
        }
        true => {
            if let Some((path, name)) = copying {
                return Err(refused_file_system(&path.to_string(), name, wanted.folders));
            }
            make_first(&folders, wanted)?;
            drop(folders);
            find::folders(wanted.folders, Missing::Refuse, Labels::Read)?
        }
    };
    let (label, mut found) = find::volumes(&folders, Access::Write)?;
    found.iter_mut().try_for_each(mend)?;
    if let Some(size) = wanted.size {
        resize(&folders, &mut found, size)?;
    }
    allocate(&found)?;
    if wanted.cores > found.len() {
        tracing::warn!(
            "the store has {} volume(s) for {} cores: the others own no URLs. `aspis store format` makes one with more",
            found.len(),
            wanted.cores
        );
    }
    let newest = found.iter().map(newest).max().unwrap_or_default();
    let volumes = found.into_iter().map(ready).collect::<Result<Vec<_>, String>>()?;
    if let Some(buffered) = volumes.iter().find(|volume| !volume.is_direct) {
        tracing::warn!(
            "{}: this file system has no direct I/O; the store goes through the page cache",
            folders[buffered.folder].path.display()
        );
    }
    let store = Store { folders, label, newest, volumes };
    tracing::info!(
        "store {}: {} volume(s), {} MiB",
        shown(&label.store),
        store.volumes.len(),
        store.len() >> 20
    );
    Ok(store)
}

/// Says why a file system is refused, and how it is taken all the same.
pub(super) fn refused_file_system(folder: &str, name: &str, folders: &[String]) -> String {
    format!(
        "{folder} is on {name}, which writes elsewhere when something is written again, so that the space of a store is not kept for it. Name a folder \
         on ext4 or XFS, or take it all the same: aspis store format {} --disk-size SIZE --force",
        folders.join(" ")
    )
}

/// Makes the store of a first start. Only empty folders become one without being told so.
fn make_first(folders: &[Folder], wanted: &Wanted<'_>) -> Result<(), String> {
    for folder in folders {
        if let Some(others) = folder.others() {
            return Err(format!(
                "{} is no store and not empty: it has {others}. Nothing was changed. Name an empty folder, or make a store beside them: aspis store \
                 format {} --disk-size SIZE --force",
                folder.path.display(),
                wanted.folders.join(" ")
            ));
        }
    }
    let Some(size) = wanted.size else {
        return Err(format!(
            "{} is empty: say with --disk-size how large the store is to be",
            wanted.folders.join(" ")
        ));
    };
    make(folders, Plan::new(size, wanted.cores)?, &vec![0; folders.len()])
}

/// Writes the one of the two superblocks again that is not as it should be.
fn mend(volume: &mut FoundVolume) -> Result<(), String> {
    let Some(at) = volume.mend_at.take() else { return Ok(()) };
    let path = volume.path.display();
    tracing::warn!("{path}: one of its two superblocks was damaged or older, and is written again");
    let written =
        volume.file.write_all_at(&volume.superblock.encode(), at).and_then(|()| volume.file.sync_all());
    written.map_err(|error| format!("{path}: {error}"))
}

/// Gives each volume the segments that make the store so large.
fn resize(folders: &[Folder], volumes: &mut [FoundVolume], size: u64) -> Result<(), String> {
    let count = volumes.len() as u64;
    let mut targets = Vec::with_capacity(volumes.len());
    let mut needed = vec![0; folders.len()];
    for volume in volumes.iter() {
        let geometry = size::resized(volume.superblock.geometry(), count, size)?;
        needed[volume.folder] += geometry.file_len().saturating_sub(volume.superblock.geometry().file_len());
        targets.push(geometry);
    }
    if targets.iter().zip(volumes.iter()).all(|(target, volume)| *target == volume.superblock.geometry()) {
        return Ok(());
    }
    check_space(folders, &needed, &vec![0; folders.len()])?;
    let before: u64 = volumes.iter().map(|volume| len_of(volume.superblock.geometry())).sum();
    let mut progress = Progress::new("making the store larger", needed.iter().sum());
    for (volume, target) in volumes.iter_mut().zip(&targets) {
        resize_volume(volume, *target, &mut progress).map_err(|error| {
            format!("{}: {}", volume.path.display(), file::reason(&error, target.file_len()))
        })?;
    }
    progress.end();
    let after: u64 = targets.iter().map(|geometry| len_of(*geometry)).sum();
    tracing::info!("the store has {} now, {} before", write_size(after), write_size(before));
    Ok(())
}

/// Changes the length of a volume, in an order in which it is sound at each moment.
fn resize_volume(volume: &mut FoundVolume, target: Geometry, progress: &mut Progress) -> io::Result<()> {
    let before = volume.superblock.geometry();
    if target.segment_count > before.segment_count {
        file::allocate(&volume.file, target.file_len(), progress)?;
        // From a time when it was larger there may be entries of segments that are long gone.
        let from = before.entry_offset(before.segment_count - 1) + TABLE_ENTRY_LEN as u64;
        let zeros = vec![0; usize::try_from(target.table_len() - from).expect("a table is short")];
        volume.file.write_all_at(&zeros, target.table_offset() + from)?;
        volume.file.sync_data()?;
    }
    if target.segment_count < before.segment_count {
        shrink::make_room(volume, target.segment_count)?;
    }
    volume.superblock.segment_count = target.segment_count;
    write_superblocks(&volume.file, &volume.superblock)
}

/// Gives every volume the length and the space that it should have; what was cut off or copied with holes is whole again.
fn allocate(volumes: &[FoundVolume]) -> Result<(), String> {
    let lens = || volumes.iter().map(|volume| volume.superblock.geometry().file_len());
    let mut progress = Progress::new("allocating the store", lens().sum());
    let mut is_promised = true;
    for (volume, len) in volumes.iter().zip(lens()) {
        let fail = |error: io::Error| format!("{}: {}", volume.path.display(), file::reason(&error, len));
        let found = volume.file.metadata().map_err(fail)?.len();
        if found < len {
            tracing::warn!(
                "{}: {} of it were cut off; what lay there is lost",
                volume.path.display(),
                write_size(len - found)
            );
        }
        is_promised &= file::allocate(&volume.file, len, &mut progress).map_err(fail)? == Allocation::Whole;
    }
    if !is_promised {
        tracing::warn!("the file system of the store cannot allocate; writes may fail when it is full");
    }
    progress.end();
    Ok(())
}

/// Returns the largest invalidation number that the table of segments names. A table that cannot be read names none; recovery does without it too.
fn newest(volume: &FoundVolume) -> u64 {
    let superblock = &volume.superblock;
    let geometry = superblock.geometry();
    let mut table = vec![0; usize::try_from(geometry.table_len()).expect("a table is short")];
    if volume.file.read_exact_at(&mut table, geometry.table_offset()).is_err() {
        return 0;
    }
    let entry = |segment| TableEntry::of_table(&table, geometry, superblock.store, segment);
    let counting =
        (0..geometry.segment_count).filter_map(entry).filter(|entry| entry.state == SegmentState::Sealed);
    counting.map(|entry| entry.newest).max().unwrap_or_default()
}

/// Opens a volume for the data plane. The lock passes to the new file.
fn ready(found: FoundVolume) -> Result<Volume, String> {
    let FoundVolume { folder, path, file, superblock, .. } = found;
    let fail = |error: io::Error| format!("{}: {error}", path.display());
    let (direct, is_direct) = file::open_direct(&path).map_err(fail)?;
    drop(file);
    if !file::lock(&direct).map_err(fail)? {
        return Err(format!("{}: another process uses it", path.display()));
    }
    Ok(Volume { folder, file: direct, is_direct, superblock })
}

fn len_of(geometry: Geometry) -> u64 {
    u64::from(geometry.segment_count) << geometry.segment_shift
}

impl Store {
    /// Returns how many bytes of it can hold something.
    pub(crate) fn len(&self) -> u64 {
        self.volumes.iter().map(|volume| len_of(volume.superblock.geometry())).sum()
    }

    /// What the log of invalidations calls it by; never 0.
    pub(crate) fn name(&self) -> u64 {
        name_of(&self.label.store)
    }

    /// The number of invalidations from which the last server went on; `None` if none has served from it.
    pub(crate) fn numbers(&self) -> Option<u64> {
        self.label.numbers
    }

    /// The largest number of invalidations that its tables of segments name.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Notes from which number of invalidations this process goes on. Before anything is stored under it.
    pub(crate) fn note_numbers(&mut self, numbers: u64) -> Result<(), String> {
        self.label.numbers = Some(numbers);
        for folder in &mut self.folders {
            let Some(label) = &mut folder.label else { continue };
            label.numbers = Some(numbers);
            label.write(&folder.path).map_err(|error| {
                format!("{}: its label cannot be written: {error}", folder.path.display())
            })?;
        }
        Ok(())
    }

    /// Hands the volumes over to the cores, with indexes of so many slots; what stays watches their files.
    pub(crate) fn boot(
        &mut self,
        index_slots: u64,
        write_budget: Option<u64>,
    ) -> Result<(DiskBoot, Folders), String> {
        let directories: Vec<Arc<Directory>> =
            self.folders.iter().map(|folder| Directory::new(&folder.path.display().to_string())).collect();
        let paths = |at: usize| {
            let inside = self.volumes.iter().filter(|volume| volume.folder == at);
            inside.map(|volume| volume_path(&self.folders[at].path, volume.superblock.shard)).collect()
        };
        let watched =
            directories.iter().enumerate().map(|(at, directory)| (Arc::clone(directory), paths(at)));
        let folders = Folders::new(watched.collect())
            .map_err(|error| format!("the store cannot be watched: {error}"))?;
        let volumes = std::mem::take(&mut self.volumes).into_iter().map(|volume| VolumeFile {
            file: volume.file.into(),
            directory: volume.folder,
            superblock: volume.superblock,
        });
        let shard_bits = u8::try_from(self.label.volumes.ilog2()).expect("64 volumes at most");
        let boot = DiskBoot {
            volumes: volumes.collect(),
            directories,
            shard_bits,
            index_slots_per_volume: index_slots,
            write_budget,
        };
        Ok((boot, folders))
    }

    /// Returns how many slots the index of each volume has, or says that memory has no room for them.
    pub(crate) fn index_slots(&self, mean_object: u64, memory: u64) -> Result<u64, String> {
        let each =
            self.volumes.iter().map(|volume| size::index_slots(volume.superblock.geometry(), mean_object));
        let slots = each.max().unwrap_or_default();
        size::check_index(slots * self.volumes.len() as u64, memory, mean_object)?;
        Ok(slots)
    }
}
