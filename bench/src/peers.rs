//! The product and its peers side by side on the same hits.
//!
//! Every server is up on core 0 (the idle ones cost next to nothing), one generator loads one after the other from core 1, and the order turns
//! from round to round; what the first one warms is left to the median. The figure that counts is server CPU per request, of all threads and
//! children. Neighbours on the machine disturb whole rounds, so the verdict is the median of the ratios *within* each round, never a ratio of
//! medians. `cell` says what can be asked, `arms` and `configs` start the servers, `fill` proves that they answer from their caches, `wrk` and
//! `crate::pace` load them, `results` keeps the samples, `bounds`, `report` and `plot` make of them what people read.

pub(crate) mod arms;
mod bounds;
pub(crate) mod cell;
mod configs;
pub(crate) mod fill;
pub(crate) mod flags;
mod machine;
mod plot;
mod report;
mod results;
pub(crate) mod wrk;

use crate::origin::Origin;
use crate::pace;
use crate::process::{self, Scratch, find_program};
use crate::wait;
use arms::{Arm, Program, Running, Site};
use cell::{Cell, Pace};
use machine::Machine;
use results::{Results, Round, Sample};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};
use wrk::{Script, Wrk};

/// Core of the servers, and of the load.
pub(crate) const CORES: (usize, usize) = (0, 1);
/// A load that fails is repeated so often before its sample is left out.
const TRIES: usize = 2;
/// Of so many requests one may be answered by the origin: more, and the load did not measure hits.
const HITS_PER_MISS: u64 = 10_000;
/// Servers that log have so long to write their first line.
const LOGGED: Duration = Duration::from_secs(15);

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) cells: Vec<Cell>,
    pub(crate) arms: Vec<Arm>,
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
    /// Where the results go, if anywhere.
    pub(crate) output: Option<PathBuf>,
    /// Goes on with what the output holds.
    pub(crate) resume: bool,
    /// Ends after the round in which this has passed.
    pub(crate) limit: Option<Duration>,
    pub(crate) aspis: Option<String>,
    pub(crate) assert: bool,
}

/// What all cells share.
struct Stage {
    programs: Vec<Program>,
    own: PathBuf,
    wrk: Wrk,
    end: Option<Instant>,
    length: Duration,
}

/// Measures what is missing and prints the tables; false when bounds were to hold and one does not, or none was measured.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let stage = Stage::set(options)?;
    let machine = Machine::read(&stage.programs)?;
    let seconds = options.length.as_secs();
    let mut results = match &options.output {
        Some(folder) if options.resume => Results::resume(folder, machine, seconds)?,
        _ => Results::new(machine, seconds),
    };
    for cell in &options.cells {
        if results.rounds(cell) < options.rounds && !stage.is_over() {
            stage.measure(cell, options, &mut results)?;
        }
    }
    let verdicts = bounds::judge(&results);
    let text = report::markdown(&results, &verdicts);
    println!("{text}");
    if let Some(folder) = &options.output {
        results.save(folder)?;
        fs::write(folder.join("peers.md"), &text)?;
        fs::write(folder.join("peers.svg"), plot::svg(&results))?;
    }
    let missing = options.cells.iter().filter(|cell| results.rounds(cell) < options.rounds).count();
    if missing > 0 {
        println!("{missing} of {} cells are not complete: run this again to go on", options.cells.len());
    }
    for verdict in verdicts.iter().filter(|verdict| verdict.is_exceeded()) {
        let value = verdict.value.unwrap_or(f64::NAN);
        println!("exceeded: {}: {} is {value:.3}, at most {}", verdict.cell, verdict.what, verdict.at_most);
    }
    let held =
        verdicts.iter().any(bounds::Verdict::holds) && !verdicts.iter().any(bounds::Verdict::is_exceeded);
    Ok(held || !options.assert)
}

impl Stage {
    /// Finds the programs; peers that are not there are named and left out.
    fn set(options: &Options) -> io::Result<Self> {
        let wrk = Wrk::find()?;
        if find_program("taskset").is_none() {
            return Err(io::Error::other("taskset is not installed (Debian package util-linux)"));
        }
        if available_parallelism()?.get() < 2 {
            return Err(io::Error::other("one core: the servers and the load need one each"));
        }
        process::raise_open_files();
        let mut programs = Vec::new();
        for arm in &options.arms {
            match Program::find(*arm, options.aspis.as_deref()) {
                Ok(program) => programs.push(program),
                Err(error) if arm.is_peer() => eprintln!("without {}: {error}", arm.name()),
                Err(error) => return Err(error),
            }
        }
        let end = options.limit.map(|limit| Instant::now() + limit);
        Ok(Self { programs, own: std::env::current_exe()?, wrk, end, length: options.length })
    }

    fn is_over(&self) -> bool {
        self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// Adds the rounds that `cell` lacks.
    fn measure(&self, cell: &Cell, options: &Options, results: &mut Results) -> io::Result<()> {
        let scratch = Scratch::new()?;
        let origin = Origin::start()?;
        let paths: Vec<String> =
            cell.picks().into_iter().map(|object| cell.plan(object).to_string()).collect();
        let script = self.wrk.script(&paths, cell.depth)?;
        let mut running = Vec::new();
        for program in &self.programs {
            let site = Site { scratch: &scratch, core: CORES.0, origin: origin.address(), cell };
            let ready =
                arms::start(program, site).and_then(|arm| fill::fill(&arm, cell, &origin).map(|()| arm));
            match ready {
                Ok(arm) => running.push(arm),
                Err(error) if program.arm.is_peer() => {
                    eprintln!("{cell}: without {}: {error}", program.arm.name());
                    results.entry(cell).faults.push(format!("{}: {error}", program.arm.name()));
                }
                Err(error) => return Err(error),
            }
        }
        while results.rounds(cell) < options.rounds && !self.is_over() {
            let number = results.rounds(cell);
            let mut round = Round::default();
            for place in 0..running.len() {
                let arm = &running[(place + number) % running.len()];
                match self.sample(arm, cell, &script, &origin) {
                    Ok(sample) => round.samples.push(sample),
                    Err(error) => {
                        let fault = format!("{}, round {}: {error}", arm.arm.name(), number + 1);
                        eprintln!("{cell}: {fault}");
                        results.entry(cell).faults.push(fault);
                    }
                }
            }
            eprintln!("{cell}, round {}: {}", number + 1, report::line(&round));
            results.entry(cell).rounds.push(round);
            if let Some(folder) = &options.output {
                results.save(folder)?;
            }
        }
        let silent = |arm: &&Running| !wait::until(LOGGED, || arm.has_logged());
        if let Some(arm) = running.iter().find(silent) {
            return Err(io::Error::other(format!("{cell}: {} has written no log", arm.arm.name())));
        }
        Ok(())
    }

    /// Takes one sample; a load that fails is repeated once.
    fn sample(&self, arm: &Running, cell: &Cell, script: &Script, origin: &Origin) -> io::Result<Sample> {
        let mut failed = None;
        for _ in 0..TRIES {
            match self.sample_once(arm, cell, script, origin) {
                Ok(sample) => return Ok(sample),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| io::Error::other("never tried")))
    }

    fn sample_once(
        &self,
        arm: &Running,
        cell: &Cell,
        script: &Script,
        origin: &Origin,
    ) -> io::Result<Sample> {
        arm.empty_log();
        let (before, asked) = (arm.used(), origin.requests());
        let load = self.load(arm, cell, script, self.length)?;
        let (total, user) = arm.used().since(before);
        let misses = origin.requests() - asked;
        if misses * HITS_PER_MISS > load.requests {
            return Err(io::Error::other(format!(
                "{misses} of {} requests went to the origin",
                load.requests
            )));
        }
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let per_request = |time: Duration| micros(time) / load.requests.max(1) as f64;
        Ok(Sample {
            arm: arm.arm,
            requests_per_second: load.per_second,
            cpu_us: per_request(total),
            user_us: per_request(user),
            p50_us: micros(load.p50),
            p99_us: micros(load.p99),
            p999_us: micros(load.p999),
            resident_mib: arm.resident() as f64 / f64::from(1 << 20),
        })
    }

    fn load(&self, arm: &Running, cell: &Cell, script: &Script, length: Duration) -> io::Result<wrk::Load> {
        match cell.pace {
            Pace::Saturation => self.wrk.run(CORES.1, arm.address, script, cell.connections, length),
            Pace::Rate(rate) => {
                let order = pace::Order { address: arm.address, cell: *cell, rate, length };
                pace::run(&self.own, CORES.1, &order)
            }
        }
    }
}
