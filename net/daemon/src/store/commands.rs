//! `aspis store format|check|stat`: what can be done with a store while no server uses it.
//!
//! What was found goes to standard output, what is wrong to standard error. All three take the locks that a server holds, so that they never look at
//! a store that changes. `check` and `stat` open everything for reading only.

use std::fmt::Write as _;
use std::fs::File;
use std::time::Instant;

use aspis_config::Raw;
use aspis_config::values::write_size;
use aspis_storage::disk::check::{self, Depth, Finding, RecordCounts, Report, SegmentCounts};

use super::file::{self, TELL_AFTER};
use super::find::{self, Access, Folder, FoundVolume, Labels, Missing, shown};
use super::format::make;
use super::label::Label;
use super::open::refused_file_system;
use super::size::Plan;
use super::volume_path;
use crate::cli::StoreCommand;
use crate::failure::{Failure, failed, finish, usage};
use crate::invalidations::time;
use crate::{cores, stdout};

/// So many places of damage are told for each volume.
const FINDINGS_TOLD: usize = 10;

/// Runs a command; returns the exit code.
pub(crate) fn run(command: StoreCommand, raw: &Raw, paths: &[String]) -> u8 {
    finish(match command {
        StoreCommand::Format => format(raw, paths),
        StoreCommand::Check => look(paths, check),
        StoreCommand::Stat => look(paths, stat),
    })
}

/// Makes a store of the folders, in place of what is there only when told so.
fn format(raw: &Raw, paths: &[String]) -> Result<String, Failure> {
    let settings = aspis_config::check_format(raw).map_err(usage)?;
    let cpus = cores::choose(&settings.cores, &aspis_runtime::bind::available_cpus()).map_err(usage)?;
    let plan = Plan::new(settings.size, cpus.len(), paths.len()).map_err(usage)?;
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
        let len = File::open(&path).and_then(|file| {
            file::take(&file)?;
            file::allocated(&file)
        });
        sum += len.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(sum)
}

/// Opens the store in the folders for reading, and has `tell` look at it.
fn look(
    paths: &[String],
    tell: impl Fn(&Label, &[FoundVolume]) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let folders = find::folders(paths, Missing::Refuse, Labels::Read).map_err(failed)?;
    let (label, volumes) = find::volumes(&folders, Access::Read).map_err(failed)?;
    tell(&label, &volumes)
}

/// Says what a store is and what it holds, as its next server will find it.
fn stat(label: &Label, volumes: &[FoundVolume]) -> Result<String, Failure> {
    let reports = reports(volumes, Depth::Footers)?;
    Ok(described(label, &reports))
}

/// Reads and verifies every record of a store.
fn check(label: &Label, volumes: &[FoundVolume]) -> Result<String, Failure> {
    let reports = reports(volumes, Depth::Records)?;
    let mut text = described(label, &reports);
    let verified: u64 = reports.iter().map(|report| report.verified).sum();
    // A String accepts every write, here and below.
    let _ = writeln!(text, "verified  {verified} record(s)");
    if reports.iter().all(Report::is_whole) {
        text.push_str("whole\n");
        return Ok(text);
    }
    stdout::print(&text);
    let mut damage = String::from("the store is damaged:\n");
    for (volume, report) in volumes.iter().zip(&reports) {
        let path = volume.path.display();
        for (what, count) in report.counts() {
            let _ = writeln!(damage, "  {path}: {count} x {what}");
        }
        for Finding { offset, damage: what } in report.findings.iter().take(FINDINGS_TOLD) {
            let _ = writeln!(damage, "  {path}: at byte {offset}: {what}");
        }
    }
    let lost: u64 = reports.iter().map(Report::lost).sum();
    let _ = write!(
        damage,
        "{lost} record(s) are lost: a server fetches them again. The rest is made good by the next start; nothing has to be done"
    );
    Err(failed(damage))
}

/// Looks at every volume, and tells people how far that is when it takes long.
fn reports(volumes: &[FoundVolume], depth: Depth) -> Result<Vec<Report>, Failure> {
    let mut told_at = Instant::now();
    let mut report = |volume: &FoundVolume| {
        let tell = |done: u32, of: u32| {
            if told_at.elapsed() >= TELL_AFTER {
                told_at = Instant::now();
                tracing::info!("{}: {done} of {of} segments", volume.path.display());
            }
        };
        check::check(&file::Bytes(&volume.file), depth, tell)
            .map_err(|error| failed(format!("{}: {error}", volume.path.display())))
    };
    volumes.iter().map(&mut report).collect()
}

fn described(label: &Label, reports: &[Report]) -> String {
    let sum = |of: &dyn Fn(&Report) -> u64| -> u64 { reports.iter().map(of).sum() };
    let mut text = String::new();
    let _ = writeln!(text, "store     {}", shown(&label.store));
    if let Some(report) = reports.first() {
        let _ = writeln!(text, "made      {}", time::text(report.superblock.created * 1000));
        let _ = writeln!(text, "folders   {}", label.folders);
        let _ = writeln!(
            text,
            "volumes   {} with {} segment(s) of {} each",
            label.volumes,
            report.superblock.segment_count,
            write_size(report.superblock.geometry().segment_len())
        );
    }
    let len = sum(&|report| report.superblock.geometry().segments_len());
    let _ = writeln!(text, "size      {}", write_size(len));
    let segments = |of: fn(&SegmentCounts) -> u32| sum(&|report| u64::from(of(&report.segments)));
    let _ = writeln!(
        text,
        "segments  {} free, {} not ended, {} sealed, {} bad",
        segments(|counts| counts.free),
        segments(|counts| counts.open),
        segments(|counts| counts.sealed),
        segments(|counts| counts.bad)
    );
    let records = |of: fn(&RecordCounts) -> u64| sum(&|report| of(&report.records));
    let _ = writeln!(
        text,
        "records   {} in about {} MiB, replaced ones among them: {} whole, {} heads, {} slices, {} markers, {} lists of parts, {} tombstones, {} unknown",
        records(RecordCounts::total),
        sum(&|report| report.record_bytes) >> 20,
        records(|counts| counts.whole),
        records(|counts| counts.heads),
        records(|counts| counts.slices),
        records(|counts| counts.markers),
        records(|counts| counts.part_lists),
        records(|counts| counts.tombstones),
        records(|counts| counts.unknown)
    );
    let newest = reports.iter().map(|report| report.newest).max().unwrap_or_default();
    let _ = match label.numbers {
        Some(numbers) => {
            writeln!(text, "numbers   {newest} the largest of a record, {numbers} when a server began last")
        }
        None => writeln!(text, "numbers   none: no server has used it"),
    };
    text
}
