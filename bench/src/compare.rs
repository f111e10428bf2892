//! The floor, the product and nginx side by side on the same hits.
//!
//! All servers are up and warm on core 0 (the idle ones cost nothing), `wrk` loads one after the other from core 1, and the order turns from
//! round to round. The figure that counts is server CPU per request, of all threads and children. Neighbours on the machine disturb whole
//! rounds, so the verdict is the median of the ratios *within* each round, never a ratio of medians.

mod arms;
pub(crate) mod load;
mod report;

use crate::origin::Origin;
use crate::plan::{Kind, Plan};
use crate::process::{self, Scratch, find_program};
use arms::{Arm, Programs, Running};
use report::{Comparison, Round, Sample};
use std::io;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

/// Core of the servers, and of the load.
const CORES: (usize, usize) = (0, 1);
/// Each arm is loaded once for so long before the first round.
const WARM: Duration = Duration::from_secs(1);

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
    pub(crate) connections: u32,
    pub(crate) size: u64,
    pub(crate) arms: Vec<Arm>,
    pub(crate) aspis: Option<String>,
    pub(crate) output: Option<PathBuf>,
    pub(crate) assert: bool,
}

/// Reads the list of arms.
pub(crate) fn arms(list: &str) -> Result<Vec<Arm>, String> {
    let named = list.split(',').map(|name| {
        Arm::named(name).ok_or_else(|| format!("no arm {name:?}: expected some of floor,aspis,nginx"))
    });
    named.collect()
}

/// Runs the rounds and prints the tables; false when a bound was asked for and exceeded.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let wrk = find_program("wrk").ok_or_else(|| missing("wrk"))?;
    if find_program("taskset").is_none() {
        return Err(missing("taskset"));
    }
    if available_parallelism()?.get() < 2 {
        return Err(io::Error::other("one core: the servers and the load need one each"));
    }
    let with = |arm| options.arms.contains(&arm);
    let programs = Programs {
        own: std::env::current_exe()?,
        aspis: if with(Arm::Aspis) { process::find_aspis(options.aspis.as_deref())? } else { PathBuf::new() },
        nginx: match find_program("nginx") {
            Some(nginx) => nginx,
            None if with(Arm::Nginx) => return Err(missing("nginx")),
            None => PathBuf::new(),
        },
    };
    let scratch = Scratch::new()?;
    let origin = Origin::start()?;
    let plan = Plan { kind: Kind::Fresh, size: options.size, seed: 1, id: 1 };
    let path = plan.to_string();
    let mut running = Vec::new();
    for arm in &options.arms {
        running.push(arms::start(*arm, &programs, &scratch, CORES.0, origin.address(), plan)?);
    }
    for arm in &running {
        load::run(&wrk, CORES.1, arm.address, &path, options.connections, WARM)?;
    }
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        let mut round = Round { samples: Vec::new() };
        let count = running.len();
        for arm in (0..count).map(|place| &running[(place + number) % count]) {
            round.samples.push(measure(arm, &wrk, &path, options)?);
        }
        eprintln!("round {}: {}", number + 1, round.line());
        rounds.push(round);
    }
    let comparison = Comparison::of(options.size, options.connections, options.length.as_secs(), rounds);
    println!("{}", comparison.table());
    if let Some(output) = &options.output {
        comparison.write(output)?;
    }
    let exceeded = comparison.exceeded();
    for line in &exceeded {
        println!("{line}");
    }
    Ok(!options.assert || exceeded.is_empty())
}

fn measure(arm: &Running, wrk: &std::path::Path, path: &str, options: &Options) -> io::Result<Sample> {
    let (cpu, user) = (arm.server.cpu(), arm.server.user_cpu());
    let load = load::run(wrk, CORES.1, arm.address, path, options.connections, options.length)?;
    let per_request = |time: Duration| time.as_secs_f64() * 1e6 / load.requests.max(1) as f64;
    Ok(Sample {
        arm: arm.arm.name(),
        requests_per_second: load.per_second,
        cpu_us: per_request(arm.server.cpu().saturating_sub(cpu)),
        user_us: per_request(arm.server.user_cpu().saturating_sub(user)),
        p50_us: load.p50.as_secs_f64() * 1e6,
        p99_us: load.p99.as_secs_f64() * 1e6,
    })
}

fn missing(name: &str) -> io::Error {
    io::Error::other(format!("{name} is not installed; install it, or leave its arm out with --arms"))
}
