//! Takes a store for serving: made if its folders are empty, of the size that is wanted, allocated, and open past the page cache.
//!
//! Asked once by the start, before the cores and the log of invalidations. What comes of it, [`Store`], goes to the cores as files, and keeps
//! the locks for the life of the process.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aspis_config::Settings;
use aspis_config::values::write_size;
use aspis_shard::{Directory, DiskBoot, VolumeFile};
use aspis_storage::disk::format::{Geometry, SegmentState, Superblock, TableEntry, VERSION};

use super::file::{self, Allocation, Progress};
use super::find::{self, Access, Folder, FoundVolume, Labels, Mend, Missing, shown, write_superblocks};
use super::format::{check_space, make, needed, write_free};
use super::label::Label;
use super::shrink;
use super::size::{self, Plan};
use super::watch::Watched;
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
    /// `--memory`, of which the index takes a part.
    pub(crate) memory: u64,
    /// `--disk-mean-object`.
    pub(crate) mean_object: u64,
}

impl<'w> Wanted<'w> {
    /// Returns what these settings want of so many cores and so much memory; `None` without `--disk`.
    pub(crate) fn of(settings: &'w Settings, cores: usize, memory: u64) -> Option<Self> {
        let Settings { disk, disk_size: size, disk_mean_object: mean_object, .. } = settings;
        let wanted = Wanted { folders: disk, size: *size, cores, memory, mean_object: *mean_object };
        (!disk.is_empty()).then_some(wanted)
    }

    /// Returns the length of the index of each of so many volumes, or says that memory has no room for it.
    fn index_slots(&self, geometry: Geometry, volumes: u64) -> Result<u64, String> {
        size::fitting_index(geometry, volumes, self.memory, self.mean_object)
    }
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
    len: u64,
    /// The slots of the index of each volume.
    pub(super) index_slots: u64,
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
            let plan = plan_first(&folders, wanted)?;
            make(&folders, plan, &vec![0; folders.len()])?;
            drop(folders);
            find::folders(wanted.folders, Missing::Refuse, Labels::Read)?
        }
    };
    let (label, mut found) = find::volumes(&folders, Access::Write)?;
    found.iter_mut().try_for_each(mend)?;
    let index_slots = resize(&folders, &mut found, wanted)?;
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
    let len = volumes.iter().map(|volume| volume.superblock.geometry().segments_len()).sum();
    tracing::info!("store {}: {} volume(s), {} MiB", shown(&label.store), volumes.len(), len >> 20);
    Ok(Store { folders, label, newest, len, index_slots, volumes })
}

/// Says what [`open()`] would find or make, or why it would fail. Nothing is made or changed.
pub(crate) fn foresee(wanted: &Wanted<'_>) -> Result<String, String> {
    let are_there = wanted.folders.iter().filter(|path| std::path::Path::new(path).exists()).count();
    let folders = match are_there {
        0 => Vec::new(),
        _ => find::folders(wanted.folders, Missing::Refuse, Labels::Read)?,
    };
    if folders.iter().all(Folder::has_no_store) {
        let plan = plan_first(&folders, wanted)?;
        if !folders.is_empty() {
            check_space(&folders, &needed(&folders, plan), &vec![0; folders.len()])?;
        }
        return Ok(format!(
            "a store of {} in {} volume(s) will be made",
            write_size(plan.len()),
            plan.volume_count()
        ));
    }
    let (label, found) = find::volumes(&folders, Access::Read)?;
    targets(&found, wanted)?;
    let len: u64 = found.iter().map(|volume| volume.superblock.geometry().segments_len()).sum();
    Ok(format!("store {}: {} in {} volume(s)", shown(&label.store), write_size(len), found.len()))
}

/// Says why a file system is refused, and how it is taken all the same.
pub(super) fn refused_file_system(folder: &str, name: &str, folders: &[String]) -> String {
    format!(
        "{folder} is on {name}, which writes elsewhere when something is written again, so that the space of a store is not kept for it. Name a folder \
         on ext4 or XFS, or take it all the same: aspis store format {} --disk-size SIZE --force",
        folders.join(" ")
    )
}

/// Plans the store of a first start. Only empty folders become one without being told so.
fn plan_first(folders: &[Folder], wanted: &Wanted<'_>) -> Result<Plan, String> {
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
    let plan = Plan::new(size, wanted.cores, wanted.folders.len())?;
    wanted.index_slots(plan.geometry(), u64::from(plan.volume_count()))?;
    Ok(plan)
}

/// Writes the superblocks again that are not as they should be.
fn mend(volume: &mut FoundVolume) -> Result<(), String> {
    let Some(mend) = volume.mend.take() else { return Ok(()) };
    let path = volume.path.display();
    let written = match mend {
        Mend::One(at) => {
            tracing::warn!("{path}: one of its two superblocks was damaged or older, and is written again");
            volume.file.write_all_at(&volume.superblock.encode(), at).and_then(|()| volume.file.sync_all())
        }
        Mend::Both => {
            tracing::info!("{path}: it is of an older format, and from now on of format {VERSION}");
            write_superblocks(&volume.file, &volume.superblock)
        }
    };
    written.map_err(|error| format!("{path}: {error}"))
}

/// Returns the form that each volume is to have, and the slots of the index of each.
fn targets(volumes: &[FoundVolume], wanted: &Wanted<'_>) -> Result<(Vec<Geometry>, u64), String> {
    let count = volumes.len() as u64;
    let (mut targets, mut slots) = (Vec::with_capacity(volumes.len()), 0);
    for volume in volumes {
        let before = volume.superblock.geometry();
        let target = wanted.size.map_or(Ok(before), |size| size::resized(before, count, size))?;
        slots = slots.max(wanted.index_slots(target, count)?);
        targets.push(target);
    }
    Ok((targets, slots))
}

/// Gives each volume the segments that make the store as large as is wanted. Returns the slots of the index of each.
fn resize(folders: &[Folder], volumes: &mut [FoundVolume], wanted: &Wanted<'_>) -> Result<u64, String> {
    let (targets, slots) = targets(volumes, wanted)?;
    let mut needed = vec![0; folders.len()];
    for (volume, target) in volumes.iter().zip(&targets) {
        let before = volume.superblock.geometry().file_len();
        needed[volume.folder] += target.file_len().saturating_sub(before);
    }
    if targets.iter().zip(volumes.iter()).all(|(target, volume)| *target == volume.superblock.geometry()) {
        return Ok(slots);
    }
    check_space(folders, &needed, &vec![0; folders.len()])?;
    let before: u64 = volumes.iter().map(|volume| volume.superblock.geometry().segments_len()).sum();
    let mut progress = Progress::new("making the store larger", needed.iter().sum());
    for (volume, target) in volumes.iter_mut().zip(&targets) {
        resize_volume(volume, *target, &mut progress).map_err(|error| {
            format!("{}: {}", volume.path.display(), file::reason(&error, target.file_len()))
        })?;
    }
    progress.end();
    let after: u64 = targets.iter().map(Geometry::segments_len).sum();
    tracing::info!("the store has {} now, {} before", write_size(after), write_size(before));
    Ok(slots)
}

/// Changes the length of a volume, in an order in which it is sound at each moment.
fn resize_volume(volume: &mut FoundVolume, target: Geometry, progress: &mut Progress) -> io::Result<()> {
    let before = volume.superblock.geometry();
    if target.segment_count > before.segment_count {
        file::allocate(&volume.file, target.file_len(), progress)?;
        // From a time when it was larger there may be entries of segments that are long gone.
        let added = before.segment_count..target.segment_count;
        write_free(&volume.file, volume.superblock.store, target, added)?;
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
    file::take(&direct).map_err(fail)?;
    Ok(Volume { folder, file: direct, is_direct, superblock })
}

impl Store {
    /// Returns how many bytes of it can hold something.
    pub(crate) fn len(&self) -> u64 {
        self.len
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

    /// Hands the volumes over to the cores; what stays watches their files.
    pub(crate) fn boot(
        &mut self,
        write_budget: Option<u64>,
        mapped_len_max: u64,
    ) -> Result<(DiskBoot, Folders), String> {
        let directories: Vec<Arc<Directory>> =
            self.folders.iter().map(|folder| Directory::new(&folder.path.display().to_string())).collect();
        let watch = |(at, directory): (usize, &Arc<Directory>)| {
            let inside = self.volumes.iter().filter(|volume| volume.folder == at);
            let watched = inside.map(|volume| {
                let path = volume_path(&self.folders[at].path, volume.superblock.shard);
                let len = volume.superblock.geometry().file_len();
                Ok(Watched { path, file: volume.file.try_clone()?, len })
            });
            Ok((Arc::clone(directory), watched.collect::<io::Result<_>>()?))
        };
        let watched: io::Result<_> = directories.iter().enumerate().map(watch).collect();
        let folders = watched
            .and_then(Folders::new)
            .map_err(|error| format!("the store cannot be watched: {error}"))?;
        let mut mapped = self.open_mapped(mapped_len_max).into_iter();
        let mapped_len_max = if mapped.len() > 0 { mapped_len_max } else { 0 };
        let volumes = std::mem::take(&mut self.volumes).into_iter().map(|volume| VolumeFile {
            file: volume.file.into(),
            mapped: mapped.next(),
            directory: volume.folder,
            superblock: volume.superblock,
        });
        let shard_bits = u8::try_from(self.label.volumes.ilog2()).expect("64 volumes at most");
        let boot = DiskBoot {
            volumes: volumes.collect(),
            directories,
            shard_bits,
            index_slots_per_volume: self.index_slots,
            write_budget,
            mapped_len_max,
        };
        Ok((boot, folders))
    }

    /// Opens all volumes once more, to be mapped; none if they are not to be, or cannot.
    fn open_mapped(&self, mapped_len_max: u64) -> Vec<OwnedFd> {
        if mapped_len_max == 0 || self.volumes.iter().any(|volume| !volume.is_direct) {
            return Vec::new();
        }
        let opened = self.volumes.iter().map(|volume| {
            file::open_mapped(&volume_path(&self.folders[volume.folder].path, volume.superblock.shard))
        });
        match opened.collect::<io::Result<Vec<_>>>() {
            Ok(files) => files,
            Err(error) => {
                tracing::info!("nothing is sent from the page cache: {error}");
                Vec::new()
            }
        }
    }
}
