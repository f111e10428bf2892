//! What does a hit cost that comes from the disk, and who else pays for it?
//!
//! `cost.rs` measures the server's CPU of hits of 64 KiB that come from disk, `hot.rs` what small hits from memory wait while the whole store is read on
//! the same core, `read.rs` the least that a read costs on this machine.
//! Everything is asked for in turn, so that memory, a tenth of it all, is of little help; what it helps is told.

use crate::aspis::{Aspis, sample};
use crate::flags::{
    aspis_flag, assert_flag, names_flag, number, number_flag, path, state_folder_flag, words,
};
use crate::origin::Origin;
use crate::peers::cell::Cell;
use crate::peers::fill::{self, Body};
use crate::process::{self, Scratch};
use clap::{Arg, ArgMatches, Command};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod cost;
mod hot;
pub(crate) mod read;

/// The CPU of the servers, and that of all others.
const CPUS: (usize, usize) = (0, 1);
const SIZE: u64 = 64 * 1024;
/// What a read of so much and its check may take of a core, and what they may add to a hit, in microseconds.
const READ_COST_MAX: f64 = 25.0;
/// What is stored is written by then.
const WRITTEN_MAX: Duration = Duration::from_secs(120);
/// Times that everything is asked for until it is in the store.
const PASSES: usize = 6;
/// Of so many objects one may not be in the store: two in the same place of an index take turns.
const OBJECTS_PER_LOST: u64 = 200;
/// Less of the requests from disk, and the rounds are about something else.
const DISK_SHARE_MIN: f64 = 0.75;
/// Times that everything is asked for until it is sent from the page cache.
const MAPPED_PASSES: usize = 20;
const HITS: &str = "aspis_disk_lookups_total{answer=\"hit\"}";
const MAPPED: &str = "aspis_disk_mapped_total{event=\"sent\"}";
/// What can be measured by itself.
const PARTS: [&str; 3] = ["read", "mapped", "hot"];

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    objects: u64,
    rounds: usize,
    length: Duration,
    /// Connections that ask for what is cold.
    connections: u32,
    /// Of [`PARTS`]; none are all.
    only: Vec<String>,
    /// Where the store is; `None` for the temporary files.
    folder: Option<PathBuf>,
    aspis: Option<String>,
    /// Another build, whose reads are measured in turn with this one's.
    beside: Option<String>,
}

impl Options {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

/// The command line.
pub(crate) fn command() -> Command {
    Command::new("cold")
        .about("Measures what hits from disk cost, beside nginx's, and what hot hits pay for a scan of the store")
        .arg(names_flag(
            "only",
            "PART",
            PARTS,
            "Measures these only: hits that are read, hits from the page cache beside nginx's, hot hits beside a scan",
        ))
        .arg(number_flag("objects", "N", "8000", "Objects of 64 KiB in the store", 2_000..=1_000_000))
        .arg(number_flag("rounds", "N", "7", "Times that each is loaded", 1..=1000))
        .arg(number_flag("connections", "N", "8", "Connections that ask for what is cold", 1..=10_000))
        .arg(number_flag("seconds", "S", "2", "Length of one load", 1..=600))
        .arg(state_folder_flag())
        .arg(assert_flag("Fails when a figure is over its bound"))
        .arg(aspis_flag())
        .arg(Arg::new("beside").long("beside").value_name("PATH").help("Another aspis binary, whose reads are measured in turn"))
}

/// The command line of a process that [`run`] starts.
pub(crate) fn part_command() -> Command {
    Command::new("cold-part").hide(true).arg(Arg::new("words").num_args(1..))
}

/// Reads the arguments.
pub(crate) fn options(arguments: &ArgMatches) -> Options {
    let program = |name| arguments.get_one::<String>(name).cloned();
    Options {
        objects: number(arguments, "objects"),
        rounds: number(arguments, "rounds") as usize,
        length: Duration::from_secs(number(arguments, "seconds")),
        connections: number(arguments, "connections") as u32,
        only: words(arguments, "only"),
        folder: path(arguments, "folder"),
        aspis: program("aspis"),
        beside: program("beside"),
    }
}

/// Measures what is asked for; false when a figure is out of bounds.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let program = process::find_aspis(options.aspis.as_deref())?;
    let folder = Scratch::of_state("cold", options.folder.as_deref())?;
    let origin = Origin::start()?;
    let cell = Cell::plain(SIZE, options.connections);
    let objects: Vec<u32> = (0..options.objects as u32).collect();
    let start = |program: &Path, name: &str, mapped_len: u64| {
        let disk = folder.path().join(name).display().to_string();
        let disk_size = (options.objects * SIZE * 2).max(512 << 20).to_string();
        let memory = (options.objects * SIZE / 10).max(64 << 20).to_string();
        let mapped = mapped_len.to_string();
        let mut flags = vec!["--cores", "1", "--memory", &memory, "--disk", &disk, "--disk-size", &disk_size];
        flags.extend(["--disk-mapped", &mapped]);
        let server = Aspis::start(program, origin.address(), Some(CPUS.0), &flags)?;
        store(&server, &origin, &cell, &objects)?;
        Ok::<_, io::Error>(server)
    };
    let copying = start(&program, "copying", 0)?;
    let beside = options.beside.as_deref().filter(|_| options.wants("read"));
    let beside = beside.map(|path| start(&process::find_aspis(Some(path))?, "beside", 0)).transpose()?;
    let mapping = if options.wants("mapped") {
        let mapping = start(&program, "mapping", options.objects * SIZE * 2)?;
        map(&mapping, &cell, &objects)?;
        Some(mapping)
    } else {
        None
    };
    let mut is_held = true;
    if options.wants("read") || mapping.is_some() {
        let servers = cost::Servers { copying: &copying, beside: beside.as_ref(), mapping: mapping.as_ref() };
        is_held &= cost::run(options, &servers, &origin, (&cell, &objects))?;
    }
    drop((mapping, beside));
    if options.wants("hot") {
        is_held &= hot::run(options, &copying)?;
    }
    Ok(is_held)
}

/// Asks for everything until it is sent from the page cache, but for what memory has.
fn map(server: &Aspis, cell: &Cell, objects: &[u32]) -> io::Result<()> {
    let mut share = 0.0;
    for _ in 0..MAPPED_PASSES {
        let sent = || -> io::Result<f64> { Ok(sample(&server.metrics()?, MAPPED).unwrap_or(0.0)) };
        let before = sent()?;
        fill::fetch_all(server.address, Body::Planned, objects, |object| cell.plan(object))?;
        share = (sent()? - before) / objects.len() as f64;
        if share >= DISK_SHARE_MIN {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("only {share:.2} of the requests are sent from the page cache")))
}

/// Has everything in the store, and nothing waiting to be written.
pub(crate) fn store(server: &Aspis, origin: &Origin, cell: &Cell, objects: &[u32]) -> io::Result<()> {
    let mut asked = 0;
    for _ in 0..PASSES {
        let before = origin.requests();
        // In parts, so that what waits to be written stays less than is refused.
        for part in objects.chunks(500) {
            fill::fetch_all(server.address, Body::Planned, part, |object| cell.plan(object))?;
            server.written(WRITTEN_MAX)?;
        }
        asked = origin.requests() - before;
        if asked * OBJECTS_PER_LOST <= objects.len() as u64 {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("{asked} of {} objects are not in the store", objects.len())))
}

/// What the process of a scan does.
pub(crate) fn part(words: &[String]) -> io::Result<()> {
    hot::part(words)
}
