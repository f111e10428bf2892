//! What a large hot set costs beside a single object.
//!
//! One server holds a hundred thousand objects. The same generator asks at the same fixed rate for one of them, and for all of them by Zipf's law,
//! in turns. It draws from lists of the same length that were made before, so that what differs is the server's work alone.

use crate::origin::Origin;
use crate::pace::{self, Order};
use crate::peers::arms::{self, Arm, Program, Running, Site};
use crate::peers::cell::{Cell, OBJECTS, Objects};
use crate::peers::{CORES, fill};
use crate::process::Scratch;
use crate::stats::Spread;
use std::io;
use std::time::Duration;

/// Length of the objects.
const SIZE: u64 = 1024;
/// Most that a request for one of many may cost, in requests for a single object.
const RATIO_MAX: f64 = 1.15;
/// A load that kept less of the rate was hindered, and the round says nothing.
const KEPT_MIN: f64 = 0.95;
/// Rounds that may be hindered for each that is asked for.
const HINDERED_MAX: usize = 2;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
    pub(crate) connections: u32,
    pub(crate) rate: u32,
    pub(crate) aspis: Option<String>,
}

/// What one load cost and how long its answers took, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Cost {
    cpu: f64,
    user: f64,
    p50: f64,
    p99: f64,
    /// The part of the rate that was kept.
    kept: f64,
}

/// Measures both in turns; false when the ratio is over its bound.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let own = std::env::current_exe()?;
    let scratch = Scratch::new()?;
    let origin = Origin::start()?;
    let one = Cell::plain(SIZE, options.connections);
    let many = Cell { objects: Objects::Zipf, ..one };
    let program = Program::find(Arm::Aspis, options.aspis.as_deref())?;
    let site = Site { scratch: &scratch, core: CORES.0, origin: origin.address(), cell: &many };
    let server = arms::start(&program, site)?;
    fill::fill(&server, &many, &origin)?;
    let measure = |cell: Cell| {
        let order = Order { address: server.address, cell, rate: options.rate, length: options.length };
        measure(&own, &server, &origin, &order)
    };
    let (mut rounds, mut hindered) = (Vec::new(), 0);
    while rounds.len() < options.rounds {
        // What a round's first load leaves behind must not always meet the same one.
        let (single, zipf) = if (rounds.len() + hindered).is_multiple_of(2) {
            let single = measure(one)?;
            (single, measure(many)?)
        } else {
            let zipf = measure(many)?;
            (measure(one)?, zipf)
        };
        let kept = single.kept.min(zipf.kept);
        eprintln!("one {:.2} us, many {:.2} us, {:.0} % of the rate", single.cpu, zipf.cpu, kept * 100.0);
        if kept < KEPT_MIN {
            hindered += 1;
            if hindered > options.rounds * HINDERED_MAX {
                return Err(io::Error::other(
                    "the rate cannot be kept on this machine: name a lower one with --rate",
                ));
            }
            continue;
        }
        rounds.push((single, zipf));
    }
    let ratios: Vec<f64> = rounds.iter().map(|(single, zipf)| zipf.cpu / single.cpu).collect();
    let ratio = Spread::of(&ratios).ok_or_else(|| io::Error::other("no rounds"))?;
    println!(
        "1 KiB hits at {} requests/s over {} connections, {} rounds of {} s, {hindered} more did not keep the rate; medians [quartiles]\n\n\
         | asked for | server CPU us/request | user us/request | p50 us | p99 us |\n|---|---|---|---|---|",
        options.rate,
        options.connections,
        rounds.len(),
        options.length.as_secs()
    );
    let single: Vec<Cost> = rounds.iter().map(|(single, _)| *single).collect();
    let zipf: Vec<Cost> = rounds.iter().map(|(_, zipf)| *zipf).collect();
    println!("{}\n{}", row("one object", &single), row(&format!("{OBJECTS} objects, Zipf"), &zipf));
    println!("\nCPU per request, ratio within each round: {}, at most {RATIO_MAX}", ratio.show(3));
    Ok(ratio.median <= RATIO_MAX)
}

fn measure(own: &std::path::Path, server: &Running, origin: &Origin, order: &Order) -> io::Result<Cost> {
    let (before, asked) = (server.used(), origin.requests());
    let load = pace::run(own, CORES.1, order)?;
    let (total, user) = server.used().since(before);
    let misses = origin.requests() - asked;
    if misses > 0 {
        return Err(io::Error::other(format!(
            "{misses} requests went to the origin: the server has not kept all objects"
        )));
    }
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let per_request = |time: Duration| micros(time) / load.requests.max(1) as f64;
    Ok(Cost {
        cpu: per_request(total),
        user: per_request(user),
        p50: micros(load.p50),
        p99: micros(load.p99),
        kept: load.per_second / f64::from(order.rate),
    })
}

fn row(name: &str, costs: &[Cost]) -> String {
    let cell = |figure: fn(&Cost) -> f64, digits| Spread::show_of(costs, figure, digits);
    let (cpu, user) = (cell(|cost| cost.cpu, 2), cell(|cost| cost.user, 2));
    format!("| {name} | {cpu} | {user} | {} | {} |", cell(|cost| cost.p50, 0), cell(|cost| cost.p99, 0))
}
