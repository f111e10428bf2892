//! The simulator: exchange, collapse and storage under simulated cores, origins, viewers and time, with everything that can go wrong drawn
//! from one seed. A judge that shares no code with the product watches what viewers get; a fault prints its seed and all that happened.
//!
//! The product's own machines run: `Exchange` for each viewer and each flight, `Collapse`, `RamTier`, `ReplicaTable` and bodies on each
//! core; `RuleTable` and `rules::hold` too. What `net/shard` does between them with sockets and tasks is written here a second time, in `viewer`, `owner` and `flight`; what the daemon's
//! control thread does for invalidations, in `control`.

mod answer;
mod control;
mod counts;
mod direct;
mod flight;
mod oracle;
mod origin;
mod owner;
mod purge;
mod scenario;
pub(crate) mod text;
mod viewer;
mod world;

use std::io;
use std::time::Instant;

use counts::Counts;
use world::World;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// The first seed.
    pub(crate) from: u64,
    /// How many.
    pub(crate) seeds: u64,
    /// Shows all that happens, fault or not.
    pub(crate) trace: bool,
}

/// Plays the seeds; false at the first fault, which is shown with all that led to it.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let started = Instant::now();
    let mut counts = Counts::default();
    for seed in options.from..options.from.saturating_add(options.seeds) {
        let (fault, trace) = play(seed, options.trace, &mut counts).map_err(io::Error::other)?;
        for line in &trace {
            println!("{line}");
        }
        if let Some(fault) = fault {
            if !options.trace {
                let (_, trace) = play(seed, true, &mut Counts::default()).map_err(io::Error::other)?;
                trace.iter().for_each(|line| println!("{line}"));
            }
            println!("seed {seed}: {fault}");
            return Ok(false);
        }
    }
    println!("{} seeds without a fault in {:.1} s", options.seeds, started.elapsed().as_secs_f64());
    for (name, number) in counts.all() {
        println!("{number:>12} {name}");
    }
    Ok(true)
}

/// Plays one seed; returns the fault, if there is one, and the trace, if it was asked for.
fn play(seed: u64, traced: bool, counts: &mut Counts) -> Result<(Option<String>, Vec<String>), String> {
    let mut world = World::new(seed, traced)?;
    world.play();
    counts.include(&world.counts);
    Ok((world.oracle.fault.take(), world.trace.take().unwrap_or_default()))
}
