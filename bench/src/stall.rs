//! Does the disk tier ever hold up a core's loop? Hits from memory alone, and beside everything that a disk tier does, in turn, while something else on
//! the machine fills the page cache.
//!
//! A round measures twice, without and with the disk load ([`load`]): reads from disk, cold and repeated, fills, and the writes that follow. The hog
//! ([`hog`]) runs beside both. The server tells of its own loop how long turns took and how late it looked at what happened, in buckets that
//! double; the viewers of hits tell what they saw of that; the kernel tells how often the threads of its cores waited for a page. What the machine
//! itself holds up shows without the disk load as well.

mod hog;
mod load;

use crate::aspis::{Aspis, Histogram, figure};
use crate::cold;
use crate::fair::{self, Base};
use crate::flags::{
    aspis_flag, assert_flag, number, number_flag, parse_size, path, state_folder_flag, words,
};
use crate::origin::Origin;
use crate::peers::cell::Cell;
use crate::peers::fill::{self, Body};
use crate::process::{self, Scratch};
use crate::stats::Spread;
use crate::wait;
use clap::{Arg, ArgMatches, Command};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The CPU of the server, and that of all others.
const CPUS: (usize, usize) = (0, 1);
/// What hits are asked for, how fast.
const SMALL_SIZE: u64 = 1024;
const RATE: u32 = 2_000;
/// Memory of the server: a quarter of what is stored.
const MEMORY: &str = "128MiB";
const DISK_SIZE: &str = "2GiB";
/// A load begins so long before it is measured, and what it leaves behind passes in as long.
const UNFOLD: Duration = Duration::from_millis(500);
/// The page cache is full by then.
const FULL_MAX: Duration = Duration::from_secs(300);
/// Most that one turn in a thousand may take, and that one look in a thousand may be late: a bucket ends there, at 2^10 us.
const STALL_MAX: f64 = 0.001024;
const SHARE: f64 = 0.999;
const TURNS: &str = "aspis_core_turn_duration_seconds";
const LATENESS: &str = "aspis_core_lateness_seconds";
/// What the names of the threads begin with that serve.
const CORE_THREADS: &str = "aspis-core-";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    rounds: usize,
    length: Duration,
    /// Bytes that the hog goes through; `None` for the machine's memory and a quarter.
    hog: Option<u64>,
    folder: Option<PathBuf>,
    flags: Vec<String>,
    aspis: Option<String>,
}

/// The command line.
pub(crate) fn command() -> Command {
    Command::new("stall")
        .about("Measures whether the disk tier holds up a core's loop, beside a hog of the page cache")
        .arg(number_flag("rounds", "N", "7", "Times that hits are measured without and with the disk load", 1..=1000))
        .arg(number_flag("seconds", "S", "3", "Length of one measurement", 1..=600))
        .arg(
            Arg::new("hog")
                .long("hog")
                .value_name("SIZE")
                .value_parser(parse_size)
                .help("Length of the file that the hog reads over and over [default: the machine's memory and a quarter]"),
        )
        .arg(state_folder_flag())
        .arg(assert_flag("Fails when a turn in a thousand takes over 1 ms, or a core waits for a page"))
        .arg(aspis_flag())
        .arg(Arg::new("flags").value_name("FLAG").last(true).num_args(1..).help("More flags of the product, after --"))
}

/// The command line of a process that [`run`] starts.
pub(crate) fn part_command() -> Command {
    Command::new("stall-part").about("One process of stall").hide(true).arg(Arg::new("words").num_args(1..))
}

/// Reads the arguments.
pub(crate) fn options(arguments: &ArgMatches) -> Options {
    Options {
        rounds: number(arguments, "rounds") as usize,
        length: Duration::from_secs(number(arguments, "seconds")),
        hog: arguments.get_one::<u64>("hog").copied(),
        folder: path(arguments, "folder"),
        flags: words(arguments, "flags"),
        aspis: arguments.get_one::<String>("aspis").cloned(),
    }
}

/// One measurement.
#[derive(Clone, Debug)]
struct Measured {
    turns: Histogram,
    lateness: Histogram,
    /// What the viewers of hits waited, in microseconds.
    p99: f64,
    p999: f64,
    major_faults: u64,
    /// Of the disk tier meanwhile: hits, bytes read, bytes written.
    disk: [f64; 3],
    /// Responses that were sent from the page cache.
    mapped: f64,
}

/// Measures; false when a figure is out of bounds.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let program = process::find_aspis(options.aspis.as_deref())?;
    let own = std::env::current_exe()?;
    let folder = Scratch::of_state("stall", options.folder.as_deref())?;
    let origin = Origin::start()?;
    let disk = folder.path().join("store").display().to_string();
    let flags = ["--cores", "1", "--memory", MEMORY, "--disk", &disk, "--disk-size", DISK_SIZE];
    let flags: Vec<&str> = flags.into_iter().chain(options.flags.iter().map(String::as_str)).collect();
    let server = Aspis::start(&program, origin.address(), Some(CPUS.0), &flags)?;
    let small = Cell::plain(SMALL_SIZE, 1);
    fill::fetch_all(server.address, Body::Planned, &[0], |object| small.plan(object))?;
    cold::store(&server, &origin, &load::cold_cell(), &(0..load::COLD).collect::<Vec<_>>())?;
    cold::store(&server, &origin, &load::large_cell(), &(0..load::LARGE).collect::<Vec<_>>())?;
    let hog_len =
        options.hog.map_or_else(|| process::memory_of_machine().map(|memory| memory / 4 * 5), Ok)?;
    let hog = hog::start(folder.path(), hog_len, CPUS.1)?;
    if !wait::until(FULL_MAX, || hog::is_full(folder.path())) {
        return Err(io::Error::other("the page cache is not full after so long: name a smaller --hog"));
    }
    let base = Base {
        address: server.address,
        path: small.plan(0).to_string(),
        connections: fair::CONNECTIONS,
        rate: RATE,
        length: options.length,
    };
    // What a process does for the first time is no part of either.
    fair::measure(&own, &Base { length: Duration::from_secs(1), ..base.clone() })?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        without.push(measure(&own, &server, &base)?);
        let part = load::start(server.address, round, UNFOLD + options.length + UNFOLD, CPUS.1)?;
        wait::pause(UNFOLD);
        with.push(measure(&own, &server, &base)?);
        load::end(part)?;
        wait::pause(UNFOLD);
    }
    drop(hog);
    report(options, hog_len, &without, &with)
}

fn measure(own: &Path, server: &Aspis, base: &Base) -> io::Result<Measured> {
    let look = || -> io::Result<_> { Ok((server.metrics()?, server.server.major_faults(CORE_THREADS)?)) };
    let (before, faults) = look()?;
    let seen = fair::measure(own, base)?;
    let (after, faults_after) = look()?;
    let timing = |name| Histogram::read(&after, name).since(&Histogram::read(&before, name));
    let grown = |name| figure(&after, name) - figure(&before, name);
    Ok(Measured {
        turns: timing(TURNS),
        lateness: timing(LATENESS),
        p99: seen.p99,
        p999: seen.p999,
        major_faults: faults_after.saturating_sub(faults),
        disk: [
            grown("aspis_disk_lookups_total{answer=\"hit\"}"),
            grown("aspis_disk_read_bytes_total"),
            grown("aspis_disk_written_bytes_total"),
        ],
        mapped: grown("aspis_disk_mapped_total{event=\"sent\"}"),
    })
}

/// The figures of all measurements of one kind.
struct Summary {
    /// Bounds of the share, in seconds: the median of turns over the rounds, and of lateness over all rounds together, which are few samples each.
    turn: f64,
    lateness: f64,
    major_faults: u64,
}

fn summary(measured: &[Measured]) -> io::Result<Summary> {
    let turns: Vec<f64> = measured.iter().map(|each| each.turns.quantile(SHARE)).collect();
    let mut lateness = Histogram::default();
    measured.iter().for_each(|each| lateness.add(&each.lateness));
    Ok(Summary {
        turn: Spread::of(&turns).ok_or_else(|| io::Error::other("no rounds"))?.median,
        lateness: lateness.quantile(SHARE),
        major_faults: measured.iter().map(|each| each.major_faults).sum(),
    })
}

fn report(options: &Options, hog_len: u64, without: &[Measured], with: &[Measured]) -> io::Result<bool> {
    let seconds = options.length.as_secs_f64();
    println!(
        "{} rounds of {seconds:.0} s, {RATE} hits/s of {SMALL_SIZE} B from memory, beside a hog of {} MiB",
        options.rounds,
        hog_len >> 20
    );
    println!(
        "| disk load | turn p99.9 at most, ms | late p99.9 at most, ms | hit p99, us | hit p99.9, us | major faults | disk hits/s | from page cache/s | read MiB/s | written MiB/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (name, measured) in [("without", without), ("with", with)] {
        let summary = summary(measured)?;
        let median = |figure, digits| Spread::show_of(measured, figure, digits);
        let per_second = |figure: fn(&Measured) -> f64| {
            measured.iter().map(figure).sum::<f64>() / seconds / measured.len() as f64
        };
        let mib = f64::from(1 << 20);
        println!(
            "| {name} | {:.3} | {:.3} | {} | {} | {} | {:.0} | {:.0} | {:.1} | {:.1} |",
            summary.turn * 1e3,
            summary.lateness * 1e3,
            median(|each| each.p99, 0),
            median(|each| each.p999, 0),
            summary.major_faults,
            per_second(|each| each.disk[0]),
            per_second(|each| each.mapped),
            per_second(|each| each.disk[1]) / mib,
            per_second(|each| each.disk[2]) / mib
        );
    }
    if with.iter().any(|each| each.disk.iter().any(|grown| grown.is_nan() || *grown <= 0.0)) {
        return Err(io::Error::other("the disk was not read, or not written, while it was to be"));
    }
    let exceeded = exceeded(&summary(without)?, &summary(with)?);
    exceeded.iter().for_each(|line| println!("OUT OF BOUNDS: {line}"));
    Ok(exceeded.is_empty())
}

/// What is out of bounds. A delay that is as long without the disk load is the machine's.
fn exceeded(without: &Summary, with: &Summary) -> Vec<String> {
    let mut lines = Vec::new();
    for (what, with, without) in [
        ("one turn in a thousand took", with.turn, without.turn),
        ("one look in a thousand was late by", with.lateness, without.lateness),
    ] {
        if with.is_nan() || (with > STALL_MAX && with > without) {
            lines.push(format!("{what} up to {:.3} ms, not 1", with * 1e3));
        }
    }
    if with.major_faults > 0 {
        lines.push(format!("cores waited {} times for a page", with.major_faults));
    }
    lines
}

/// What a process of [`run`] does: `hog` or `load`, and its own words.
pub(crate) fn part(words: &[String]) -> io::Result<()> {
    match words.split_first() {
        Some((what, rest)) if what == "hog" => hog::part(rest),
        Some((what, rest)) if what == "load" => load::part(rest),
        _ => Err(io::Error::other("expected: hog or load")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_itself_holds_up_is_not_the_disks() {
        let summary = |turn, lateness, major_faults| Summary { turn, lateness, major_faults };
        let quiet = summary(0.000128, 0.000016, 0);
        assert!(exceeded(&quiet, &summary(STALL_MAX, STALL_MAX, 0)).is_empty());
        assert_eq!(exceeded(&quiet, &summary(0.002048, 0.000016, 0)).len(), 1);
        assert_eq!(exceeded(&quiet, &summary(0.000128, 0.004096, 3)).len(), 2);
        assert!(exceeded(&summary(0.000128, 0.004096, 9), &summary(0.000128, 0.004096, 0)).is_empty());
        assert_eq!(exceeded(&quiet, &summary(f64::NAN, 0.0, 0)).len(), 1);
    }

    #[test]
    fn parts_that_do_not_exist_are_refused() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(part(&words("other 1")).is_err());
        assert!(part(&words("hog /nowhere much 1")).is_err());
        assert!(part(&words("load nowhere 1 1")).is_err());
    }
}
