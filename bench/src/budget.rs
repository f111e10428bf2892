//! Does a server keep to its write budget, and what does the disk have to take for each byte that was worth writing?
//!
//! A store is filled without a budget; then the server is started again with one, and viewers bring several times as many new bytes as that lets through,
//! while they ask again and again for a part of what is stored: reclaiming has something to keep from the first moment on. What may be
//! written at once beyond the budget is spent before anything is counted. Written is what the kernel counts for the process as well as what the
//! server says; admitted are the bodies of the records that were appended, which all have one length.

use crate::aspis::{Aspis, figure};
use crate::flags::{aspis_flag, assert_flag, number, number_flag, parse_size, path, state_folder_flag};
use crate::origin::Origin;
use crate::peers::cell::Cell;
use crate::peers::fill::{self, Body};
use crate::plan::Plan;
use crate::process::{self, Scratch};
use crate::random::Random;
use crate::viewer::{self, Wish};
use crate::wait;
use clap::{Arg, ArgMatches, Command};
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

/// Length of every object.
const SIZE: u64 = 32 * 1024;
const MEMORY: &str = "64MiB";
const DISK_SIZE: u64 = 256 << 20;
/// Objects that fill the store to its end and begin it anew, and of how many of them one stays in demand.
const STORED: u32 = (DISK_SIZE / SIZE) as u32 / 4 * 5;
const PER_POPULAR: u32 = 4;
/// How many times the budget viewers bring in new bytes, and ask for in old ones.
const NEW: u64 = 3;
const OLD: u64 = 1;
/// Viewers of either.
const VIEWERS: u64 = 4;
/// The server saves up budget for half a minute; after this time nothing of that is left.
const SETTLE: Duration = Duration::from_secs(30);
/// What was asked for is written by then.
const WRITTEN_MAX: Duration = Duration::from_secs(60);
const TERMINATE_MAX: Duration = Duration::from_secs(20);
/// By which part of the budget written bytes may differ from it.
const ERROR_MAX: f64 = 0.05;
/// Most that may be written for each byte that was admitted.
const AMPLIFICATION_MAX: f64 = 1.33;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// Bytes a second.
    budget: u64,
    length: Duration,
    folder: Option<PathBuf>,
    aspis: Option<String>,
}

/// The command line.
pub(crate) fn command() -> Command {
    Command::new("budget")
        .about("Measures whether a server writes as much to its disk as --disk-write-budget says, and for how many admitted bytes")
        .arg(
            Arg::new("budget")
                .long("budget")
                .value_name("SIZE")
                .default_value("4MiB")
                .value_parser(parse_size)
                .help("What may be written each second"),
        )
        .arg(number_flag("seconds", "S", "60", "Length of the measurement, after half a minute to settle", 5..=86_400))
        .arg(state_folder_flag())
        .arg(assert_flag("Fails when written bytes are more than 5 % off the budget, or over 1.33 of those admitted"))
        .arg(aspis_flag())
}

/// Reads the arguments.
pub(crate) fn options(arguments: &ArgMatches) -> Options {
    Options {
        budget: number(arguments, "budget"),
        length: Duration::from_secs(number(arguments, "seconds")),
        folder: path(arguments, "folder"),
        aspis: arguments.get_one::<String>("aspis").cloned(),
    }
}

/// What was counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counted {
    at: Option<Instant>,
    /// Bytes by the kernel's count, and by the server's.
    device: f64,
    written: f64,
    records: f64,
    reinserted: f64,
    reclaimed: f64,
    refused: f64,
}

/// Measures; false when a figure is out of bounds.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let program = process::find_aspis(options.aspis.as_deref())?;
    let folder = Scratch::of_state("budget", options.folder.as_deref())?;
    let origin = Origin::start()?;
    let (disk, disk_size) = (folder.path().display().to_string(), DISK_SIZE.to_string());
    let flags = ["--cores", "1", "--memory", MEMORY, "--disk", &disk, "--disk-size", &disk_size];
    fill_store(Aspis::start(&program, origin.address(), None, &flags)?)?;
    let budget = options.budget.to_string();
    let flags: Vec<&str> = flags.into_iter().chain(["--disk-write-budget", &budget]).collect();
    let server = Aspis::start(&program, origin.address(), None, &flags)?;
    let end = Instant::now() + SETTLE + options.length;
    let (before, after) = thread::scope(|scope| {
        let mut viewers = Vec::new();
        for number in 0..VIEWERS {
            for (times, urls) in [(NEW, Urls::New), (OLD, Urls::Popular)] {
                let per_second = (options.budget * times) as f64 / SIZE as f64;
                let period = Duration::from_secs_f64(VIEWERS as f64 / per_second);
                let mut choice = Choice::new(urls, number);
                let address = server.address;
                viewers.push(scope.spawn(move || viewer::steadily(address, || choice.draw(), end, period)));
            }
        }
        wait::pause(SETTLE);
        let before = count(&server)?;
        wait::pause(options.length);
        let after = count(&server)?;
        let died = |_| Err(io::Error::other("a viewer's thread panicked"));
        viewers.into_iter().try_for_each(|viewer| viewer.join().unwrap_or_else(died))?;
        io::Result::Ok((before, after))
    })?;
    report(options, &since(&before, &after))
}

/// Fills the store, and ends the server that did.
fn fill_store(mut server: Aspis) -> io::Result<()> {
    let cell = Cell::plain(SIZE, 1);
    let objects: Vec<u32> = (0..STORED).collect();
    // In parts, so that what waits to be written stays less than is refused.
    for part in objects.chunks(500) {
        fill::fetch_all(server.address, Body::Planned, part, |object| cell.plan(object))?;
        server.written(WRITTEN_MAX)?;
    }
    server.server.terminate(TERMINATE_MAX).map(drop)
}

/// What a viewer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urls {
    New,
    Popular,
}

struct Choice {
    urls: Urls,
    random: Random,
    next: u64,
}

impl Choice {
    fn new(urls: Urls, number: u64) -> Self {
        let next = (number + 1) << 40;
        Self { urls, random: Random::new(next), next }
    }

    fn draw(&mut self) -> Wish {
        let popular = (self.random.next() % u64::from(STORED / PER_POPULAR)) as u32 * PER_POPULAR;
        let plan = Cell::plain(SIZE, 1).plan(popular);
        self.next += 1;
        match self.urls {
            Urls::Popular => (plan, None),
            Urls::New => (Plan { id: self.next, ..plan }, None),
        }
    }
}

fn count(server: &Aspis) -> io::Result<Counted> {
    let (metrics, device) = (server.metrics()?, server.server.device_writes()? as f64);
    let figure = |name| figure(&metrics, name);
    Ok(Counted {
        at: Some(Instant::now()),
        device,
        written: figure("aspis_disk_written_bytes_total"),
        records: figure("aspis_disk_records_written_total"),
        reinserted: figure("aspis_disk_reinserted_bytes_total"),
        reclaimed: figure("aspis_disk_reclaimed_segments_total"),
        refused: figure("aspis_disk_not_written_total{cause=\"budget\"}"),
    })
}

/// What was counted each second between two looks.
fn since(before: &Counted, after: &Counted) -> Counted {
    let seconds = after.at.zip(before.at).map_or(f64::NAN, |(after, before)| (after - before).as_secs_f64());
    let rate = |figure: fn(&Counted) -> f64| (figure(after) - figure(before)) / seconds;
    Counted {
        at: None,
        device: rate(|counted| counted.device),
        written: rate(|counted| counted.written),
        records: rate(|counted| counted.records),
        reinserted: rate(|counted| counted.reinserted),
        reclaimed: rate(|counted| counted.reclaimed),
        refused: rate(|counted| counted.refused),
    }
}

fn report(options: &Options, rates: &Counted) -> io::Result<bool> {
    let (budget, mib) = (options.budget as f64, f64::from(1 << 20));
    let admitted = rates.records * SIZE as f64;
    let row = |what: &str, rate: f64| println!("| {what} | {:.3} | {:.3} |", rate / mib, rate / budget);
    println!("| {} s | MiB/s | of the budget |\n|---|---|---|", options.length.as_secs());
    row("budget", budget);
    row("new bytes offered", budget * NEW as f64);
    row("written, by the kernel's count", rates.device);
    row("written, by the server's", rates.written);
    row("bodies admitted", admitted);
    row("written again by reclaiming", rates.reinserted);
    println!(
        "{:.2} B written for each byte admitted, at most {AMPLIFICATION_MAX}; {:.1} segments reclaimed and {:.0} responses refused each second",
        rates.device / admitted,
        rates.reclaimed,
        rates.refused
    );
    let is_telling = rates.reclaimed > 0.0 && rates.refused > 0.0;
    if !is_telling {
        return Err(io::Error::other("nothing was reclaimed, or nothing refused: nothing was shown"));
    }
    let exceeded = exceeded(budget, rates);
    exceeded.iter().for_each(|line| println!("OUT OF BOUNDS: {line}"));
    Ok(exceeded.is_empty())
}

fn exceeded(budget: f64, rates: &Counted) -> Vec<String> {
    let mut lines = Vec::new();
    for (who, rate) in [("the kernel", rates.device), ("the server", rates.written)] {
        let error = rate / budget - 1.0;
        if error.is_nan() || error.abs() > ERROR_MAX {
            lines.push(format!("what {who} counts is {:+.1} % off the budget", error * 100.0));
        }
    }
    let amplification = rates.device / (rates.records * SIZE as f64);
    if amplification.is_nan() || amplification > AMPLIFICATION_MAX {
        lines.push(format!("{amplification:.3} B are written for each that was admitted"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_the_budget_or_written_too_often_is_out_of_bounds() {
        let budget = 1000.0 * SIZE as f64;
        let of = |device: f64, written: f64, records: f64| Counted {
            device: budget * device,
            written: budget * written,
            records,
            ..Counted::default()
        };
        assert!(exceeded(budget, &of(1.04, 0.96, 800.0)).is_empty());
        assert_eq!(exceeded(budget, &of(1.06, 1.0, 800.0)).len(), 1);
        assert_eq!(exceeded(budget, &of(1.0, 0.94, 800.0)).len(), 1);
        assert_eq!(exceeded(budget, &of(1.0, 1.0, 700.0)).len(), 1);
        assert_eq!(exceeded(budget, &of(f64::NAN, 1.0, 0.0)).len(), 2);
    }

    #[test]
    fn new_urls_are_new_and_popular_ones_come_again() {
        let draw = |urls, number| {
            let mut choice = Choice::new(urls, number);
            let mut ids: Vec<u64> = (0..9000).map(|_| choice.draw().0.id).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let (first, second) = (draw(Urls::New, 0), draw(Urls::New, 1));
        assert!(first.len() == 9000 && first.last() < second.first());
        assert!(draw(Urls::Popular, 0).len() <= (STORED / PER_POPULAR) as usize);
    }
}
