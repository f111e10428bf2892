//! Does the disk tier ever hold up a core's loop? Hits from memory alone, and beside everything that a disk tier does, in turn, while something else on
//! the machine fills the page cache.
//!
//! A round measures twice, without and with the disk load ([`load`]): reads from disk, cold and repeated, fills, and the writes that follow. The hog
//! ([`hog`]) runs beside both. The server tells of its own loop how long turns took and how late it looked at what happened, in buckets that
//! double; the viewers of hits tell what they saw of that; the kernel tells how often the threads of its cores waited for a page. What the machine
//! itself holds up shows without the disk load as well.
//!
//! Neither the server's histograms nor the viewers can tell a core that waits for the disk from one whose processor somebody else uses: the kernel's own
//! threads write back and reclaim what the hog touches, for milliseconds at a time, and what they do to a core they would do to any program (decision
//! 23). So the core is traced where that can be ([`trace`]), and its turns are judged without the time in which it could have run.

mod hog;
mod load;
mod trace;

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
use trace::{Trace, Turns};

/// The CPU of the server, and that of all others.
const CPUS: (usize, usize) = (0, 1);
/// What hits are asked for, how fast.
const SMALL_SIZE: u64 = 1024;
const RATE: u32 = 2_000;
/// Memory of the server unless another is asked for: a quarter of what is stored.
const MEMORY: &str = "128MiB";
const DISK_SIZE: &str = "2GiB";
/// A load begins so long before it is measured, and what it leaves behind passes in as long.
const UNFOLD: Duration = Duration::from_millis(500);
/// The page cache is full by then.
const FULL_MAX: Duration = Duration::from_secs(300);
/// Most that one turn in a thousand may take.
const STALL_MAX: f64 = 0.001;
/// The same where only the server's histograms tell, and for how late one look in a thousand may be: a bucket ends there, at 2^10 us.
const BUCKET_MAX: f64 = 0.001024;
const SHARE: f64 = 0.999;
/// Share of the turns that a trace must have seen.
const TRACED_MIN: f64 = 0.8;
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
    /// The server's `--memory`.
    memory: String,
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
        .arg(
            Arg::new("memory")
                .long("memory")
                .value_name("SIZE")
                .default_value(MEMORY)
                .help("Memory of the server: with more than 1GiB it grows all the time, beside the hog"),
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
        memory: arguments.get_one::<String>("memory").cloned().unwrap_or_default(),
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
    /// Of each turn; `None` where the kernel does not let us trace.
    traced: Option<Turns>,
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
    let flags = ["--cores", "1", "--memory", &options.memory, "--disk", &disk, "--disk-size", DISK_SIZE];
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
        without.push(measure(&own, &server, &base, folder.path())?);
        let part = load::start(server.address, round, UNFOLD + options.length + UNFOLD, CPUS.1)?;
        wait::pause(UNFOLD);
        with.push(measure(&own, &server, &base, folder.path())?);
        load::end(part)?;
        wait::pause(UNFOLD);
    }
    drop(hog);
    report(options, hog_len, &without, &with)
}

fn measure(own: &Path, server: &Aspis, base: &Base, folder: &Path) -> io::Result<Measured> {
    let look = || -> io::Result<_> { Ok((server.metrics()?, server.server.major_faults(CORE_THREADS)?)) };
    let core = server.server.threads(CORE_THREADS)?[0];
    let trace = Trace::start(folder, core, base.length, CPUS.1)?;
    let (before, faults) = look()?;
    let seen = fair::measure(own, base)?;
    let (after, faults_after) = look()?;
    let traced = trace.map(Trace::end).transpose()?.flatten();
    let timing = |name| Histogram::read(&after, name).since(&Histogram::read(&before, name));
    let turns = timing(TURNS);
    // One that began late, or ended early, says nothing of what it did not see.
    let traced = traced.filter(|traced| traced.count() as f64 >= turns.count() * TRACED_MIN);
    let grown = |name| figure(&after, name) - figure(&before, name);
    Ok(Measured {
        turns,
        lateness: timing(LATENESS),
        traced,
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
    /// Medians over the rounds of the share of traced turns, whole and without what others took; `None` if one was not traced.
    traced: Option<(f64, f64)>,
    major_faults: u64,
}

fn summary(measured: &[Measured]) -> io::Result<Summary> {
    let median = |figures: Vec<f64>| Spread::of(&figures).map(|spread| spread.median);
    let mut lateness = Histogram::default();
    measured.iter().for_each(|each| lateness.add(&each.lateness));
    let quantiles = |each: &Measured| each.traced.as_ref().map(|turns| turns.quantiles(SHARE));
    let traced: Option<Vec<(f64, f64)>> = measured.iter().map(quantiles).collect();
    let traced = traced.and_then(|traced| {
        let (whole, own) = traced.into_iter().unzip();
        Some((median(whole)?, median(own)?))
    });
    let turns = measured.iter().map(|each| each.turns.quantile(SHARE)).collect();
    Ok(Summary {
        turn: median(turns).ok_or_else(|| io::Error::other("no rounds"))?,
        lateness: lateness.quantile(SHARE),
        traced,
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
        "| disk load | turn p99.9 at most, ms | late p99.9 at most, ms | traced turn p99.9, ms | without what others took, ms | hit p99, us | hit p99.9, us | major faults | disk hits/s | from page cache/s | read MiB/s | written MiB/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (name, measured) in [("without", without), ("with", with)] {
        let summary = summary(measured)?;
        let median = |figure, digits| Spread::show_of(measured, figure, digits);
        let traced = summary.traced.map_or_else(
            || "- | -".to_owned(),
            |_| {
                let millis = |each: &Measured| {
                    let turns = each.traced.as_ref().map(|turns| turns.quantiles(SHARE));
                    turns.map_or((f64::NAN, f64::NAN), |(whole, own)| (whole * 1e3, own * 1e3))
                };
                let figures: Vec<(f64, f64)> = measured.iter().map(millis).collect();
                let whole = Spread::show_of(&figures, |each| each.0, 3);
                format!("{whole} | {}", Spread::show_of(&figures, |each| each.1, 3))
            },
        );
        let per_second = |figure: fn(&Measured) -> f64| {
            measured.iter().map(figure).sum::<f64>() / seconds / measured.len() as f64
        };
        let mib = f64::from(1 << 20);
        println!(
            "| {name} | {:.3} | {:.3} | {traced} | {} | {} | {} | {:.0} | {:.0} | {:.1} | {:.1} |",
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
    let mut hold = |what, with: f64, without: f64, most: f64| {
        if with.is_nan() || (with > most && with > without) {
            lines.push(format!("{what} {:.3} ms, not 1", with * 1e3));
        }
    };
    if let (Some((_, without)), Some((_, with))) = (without.traced, with.traced) {
        hold(
            "one turn in a thousand took, without what others took of the processor,",
            with,
            without,
            STALL_MAX,
        );
    } else {
        println!("perf is not there or may not trace: time in which others used the processor counts too");
        hold("one turn in a thousand took up to", with.turn, without.turn, BUCKET_MAX);
        hold("one look in a thousand was late by up to", with.lateness, without.lateness, BUCKET_MAX);
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

    fn summary(turn: f64, lateness: f64, major_faults: u64) -> Summary {
        Summary { turn, lateness, traced: None, major_faults }
    }

    #[test]
    fn what_the_machine_itself_holds_up_is_not_the_disks() {
        let quiet = summary(0.000128, 0.000016, 0);
        assert!(exceeded(&quiet, &summary(BUCKET_MAX, BUCKET_MAX, 0)).is_empty());
        assert_eq!(exceeded(&quiet, &summary(0.002048, 0.000016, 0)).len(), 1);
        assert_eq!(exceeded(&quiet, &summary(0.000128, 0.004096, 3)).len(), 2);
        assert!(exceeded(&summary(0.000128, 0.004096, 9), &summary(0.000128, 0.004096, 0)).is_empty());
        assert_eq!(exceeded(&quiet, &summary(f64::NAN, 0.0, 0)).len(), 1);
    }

    #[test]
    fn what_others_took_of_the_processor_is_not_the_disks_where_it_is_traced() {
        let traced =
            |own, faults| Summary { traced: Some((0.005, own)), ..summary(0.008192, 0.016384, faults) };
        assert!(exceeded(&traced(0.0001, 0), &traced(0.0009, 0)).is_empty());
        assert_eq!(exceeded(&traced(0.0001, 0), &traced(0.0011, 0)).len(), 1);
        assert_eq!(exceeded(&traced(0.0001, 0), &traced(0.0009, 1)).len(), 1);
        assert_eq!(exceeded(&traced(0.0001, 0), &traced(f64::NAN, 0)).len(), 1);
        assert_eq!(
            exceeded(&summary(0.000128, 0.000016, 0), &traced(0.0001, 0)).len(),
            2,
            "of both or of none"
        );
    }

    #[test]
    fn parts_that_do_not_exist_are_refused() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(part(&words("other 1")).is_err());
        assert!(part(&words("hog /nowhere much 1")).is_err());
        assert!(part(&words("load nowhere 1 1")).is_err());
    }
}
