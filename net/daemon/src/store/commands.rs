//! `aspis store format|check|stat`: what can be done with a store while no server uses it.
//!
//! What was found goes to standard output, what is wrong to standard error. All three take the locks that a server holds, so that they never look at
//! a store that changes. `check` and `stat` open everything for reading only.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use aspis_config::Raw;
use aspis_config::values::write_size;
use aspis_storage::disk::format::{SegmentState, TableEntry};

use super::file;
use super::find::{self, Access, Folder, FoundVolume, Labels, Missing, shown};
use super::format::make;
use super::label::Label;
use super::open::refused_file_system;
use super::size::Plan;
use super::volume_path;
use crate::cli::StoreCommand;
use crate::{EXIT_DONE, EXIT_FAILED, EXIT_USAGE, cores, stdout};

/// An exit code and what to say before exiting with it.
type Failed = (u8, String);

/// Runs a command; returns the exit code.
pub(crate) fn run(command: StoreCommand, raw: &Raw, paths: &[String]) -> u8 {
    let outcome = match command {
        StoreCommand::Format => format(raw, paths),
        StoreCommand::Check => look(paths, check),
        StoreCommand::Stat => look(paths, stat),
    };
    match outcome {
        Ok(text) => {
            stdout::print(&text);
            EXIT_DONE
        }
        Err((code, text)) => {
            stdout::complain(&format!("error: {text}\n"));
            code
        }
    }
}

fn failed(text: String) -> Failed {
    (EXIT_FAILED, text)
}

/// Makes a store of the folders, in place of what is there only when told so.
fn format(raw: &Raw, paths: &[String]) -> Result<String, Failed> {
    let usage = |text: String| (EXIT_USAGE, text);
    let settings = aspis_config::check_format(raw).map_err(|error| usage(error.to_string()))?;
    let cpus = cores::choose(&settings.cores, &aspis_runtime::bind::available_cpus()).map_err(usage)?;
    let plan = Plan::new(settings.size, cpus.len()).map_err(usage)?;
    let is_forced = raw.contains("force");
    let folders = find::folders(paths, Missing::Make, Labels::Ignore).map_err(failed)?;
    if !is_forced {
        folders.iter().try_for_each(|folder| refuse(folder, paths)).map_err(failed)?;
    }
    let freed = folders.iter().map(allocated).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    make(&folders, plan, &freed).map_err(failed)?;
    drop(folders);
    look(paths, stat)
}

/// Says what keeps a folder from becoming a store unless it is forced.
fn refuse(folder: &Folder, paths: &[String]) -> Result<(), String> {
    let path = folder.path.display();
    let has_label = Label::read(&folder.path).map_err(|error| format!("{path}: {error}"))?.is_some();
    if has_label || !folder.shards.is_empty() {
        return Err(format!("{path} has a store already; --force deletes it and makes another"));
    }
    if let Some(others) = folder.others() {
        return Err(format!(
            "{path} is not empty: it has {others}. --force leaves that alone and makes a store beside it"
        ));
    }
    match file::copy_on_write(&folder.file) {
        Ok(None) => Ok(()),
        Ok(Some(name)) => Err(refused_file_system(&path.to_string(), name, paths)),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// The space that becomes free when a folder's volumes are deleted.
fn allocated(folder: &Folder) -> Result<u64, String> {
    let mut sum = 0;
    for &shard in &folder.shards {
        let path = volume_path(&folder.path, shard);
        let len = File::open(&path).and_then(|file| match file::lock(&file)? {
            true => file::allocated(&file),
            false => Err(io::Error::other("another process uses it")),
        });
        sum += len.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(sum)
}

/// Opens the store in the folders for reading, and has `tell` look at it.
fn look(
    paths: &[String],
    tell: impl Fn(&Label, &[FoundVolume]) -> Result<String, Failed>,
) -> Result<String, Failed> {
    let folders = find::folders(paths, Missing::Refuse, Labels::Read).map_err(failed)?;
    let (label, volumes) = find::volumes(&folders, Access::Read).map_err(failed)?;
    tell(&label, &volumes)
}

/// What the segment table of a volume says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Table {
    free: u32,
    open: u32,
    sealed: u32,
    bad: u32,
    /// Entries that do not verify; one that was never written counts as free.
    damaged: u32,
    /// In sealed segments.
    records: u64,
    /// The newest number of invalidations in sealed segments.
    newest: u64,
}

impl Table {
    fn read(volume: &FoundVolume) -> io::Result<Table> {
        let geometry = volume.superblock.geometry();
        let mut bytes = vec![0; usize::try_from(geometry.table_len()).map_err(io::Error::other)?];
        volume.file.read_exact_at(&mut bytes, geometry.table_offset())?;
        let mut table = Table::default();
        for segment in 0..geometry.segment_count {
            match TableEntry::of_table(&bytes, geometry, volume.superblock.store, segment) {
                Some(entry) => table.add(&entry),
                None if is_unwritten(&bytes, geometry.entry_offset(segment)) => table.free += 1,
                None => table.damaged += 1,
            }
        }
        Ok(table)
    }

    fn add(&mut self, entry: &TableEntry) {
        match entry.state {
            SegmentState::Free => self.free += 1,
            SegmentState::Open => self.open += 1,
            SegmentState::Sealed => {
                self.sealed += 1;
                self.records += u64::from(entry.records);
                self.newest = self.newest.max(entry.newest);
            }
            SegmentState::Bad => self.bad += 1,
        }
    }

    fn sum(tables: &[Table]) -> Table {
        tables.iter().fold(Table::default(), |sum, each| Table {
            free: sum.free + each.free,
            open: sum.open + each.open,
            sealed: sum.sealed + each.sealed,
            bad: sum.bad + each.bad,
            damaged: sum.damaged + each.damaged,
            records: sum.records + each.records,
            newest: sum.newest.max(each.newest),
        })
    }
}

fn is_unwritten(table: &[u8], at: u64) -> bool {
    let entry = usize::try_from(at)
        .ok()
        .and_then(|at| table.get(at..at + aspis_storage::disk::format::TABLE_ENTRY_LEN));
    entry.is_some_and(|entry| entry.iter().all(|byte| *byte == 0))
}

fn tables(volumes: &[FoundVolume]) -> Result<Vec<Table>, Failed> {
    let read = |volume: &FoundVolume| {
        Table::read(volume).map_err(|error| failed(format!("{}: {error}", volume.path.display())))
    };
    volumes.iter().map(read).collect()
}

/// Says what a store is and what it holds, by its segment tables.
fn stat(label: &Label, volumes: &[FoundVolume]) -> Result<String, Failed> {
    let tables = tables(volumes)?;
    let sum = Table::sum(&tables);
    let len =
        |volume: &FoundVolume| u64::from(volume.superblock.segment_count) << volume.superblock.segment_shift;
    let mut text = String::new();
    let first = volumes.first().map(|volume| volume.superblock);
    // A String accepts every write.
    let _ = writeln!(text, "store     {}", shown(&label.store));
    if let Some(superblock) = first {
        let _ = writeln!(text, "made      {}", crate::invalidations::time::text(superblock.created * 1000));
    }
    let _ = writeln!(text, "folders   {}", label.folders);
    let _ = writeln!(text, "volumes   {}", label.volumes);
    let _ = writeln!(text, "size      {}", write_size(volumes.iter().map(len).sum()));
    let _ = writeln!(
        text,
        "segments  {} free, {} open, {} sealed, {} bad, {} unknown",
        sum.free, sum.open, sum.sealed, sum.bad, sum.damaged
    );
    let _ = writeln!(text, "records   {} in sealed segments", sum.records);
    match label.numbers {
        Some(numbers) => {
            let _ =
                writeln!(text, "numbers   {} in records, {numbers} when it was last served from", sum.newest);
        }
        None => text.push_str("numbers   none: nobody has served from it\n"),
    }
    for (volume, table) in volumes.iter().zip(&tables) {
        let _ = writeln!(
            text,
            "{}: {} segments of {}, {} sealed with {} records",
            volume.path.display(),
            volume.superblock.segment_count,
            write_size(1 << volume.superblock.segment_shift),
            table.sealed,
            table.records
        );
    }
    Ok(text)
}

/// Verifies a store.
fn check(_label: &Label, volumes: &[FoundVolume]) -> Result<String, Failed> {
    let mut damage = String::new();
    for (volume, table) in volumes.iter().zip(tables(volumes)?) {
        if volume.mend_at.is_some() {
            let _ =
                writeln!(damage, "{}: one of its two superblocks is damaged or older", volume.path.display());
        }
        if table.damaged > 0 {
            let _ = writeln!(
                damage,
                "{}: {} entries of its table do not verify",
                volume.path.display(),
                table.damaged
            );
        }
    }
    match damage.is_empty() {
        true => Ok(format!("{} volume(s): whole\n", volumes.len())),
        false => Err(failed(damage)),
    }
}
