//! Holds the server to its memory limit: under a scan of more objects than it can keep, and under more viewers than it can buffer for.
//!
//! What counts is what the kernel says: RssAnon + RssShmem of the process, every 100 ms. It may be at most the limit, 5 % of it, and the
//! base that the manual states. Sizes are drawn from a histogram that is given as a file.

mod crowd;
mod origin;
mod scan;
pub(crate) mod sizes;

use crate::aspis::Aspis;
use crate::process::Server;
use crate::wait;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The manual states this beside the limit: the process itself, and what each core's executor and ring have.
pub(crate) const BASE: u64 = 16 << 20;
/// And this for each core.
pub(crate) const BASE_PER_CORE: u64 = 4 << 20;
/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(100);
/// The least part of the arena that content holds once it is full.
const USE_MIN: f64 = 0.95;

/// What to run.
#[derive(Debug)]
pub(crate) struct Options {
    /// Bytes of distinct objects.
    pub(crate) total: u64,
    /// The histogram of their lengths.
    pub(crate) sizes: Option<PathBuf>,
    /// `--memory` of the server, in bytes.
    pub(crate) limit: u64,
    pub(crate) cores: u64,
    /// Viewers of the crowd; 0 for the scan.
    pub(crate) connections: u64,
    pub(crate) aspis: Option<String>,
}

/// Runs the scan or the crowd; false when a bound does not hold.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    if options.connections > 0 { crowd::run(options) } else { scan::run(options) }
}

/// Returns the most that a server may have under a limit.
pub(crate) fn bound(limit: u64, cores: u64) -> u64 {
    limit + limit / 20 + BASE + cores * BASE_PER_CORE
}

/// Returns what counts of a server's memory.
pub(crate) fn private(server: &Server) -> u64 {
    server.status_bytes("RssAnon") + server.status_bytes("RssShmem")
}

/// Looks at a server until the end; returns what it saw, with times since the start.
fn samples(server: &Server, over: &AtomicBool) -> Vec<(Duration, u64)> {
    let start = Instant::now();
    let mut seen = Vec::new();
    while !over.load(Ordering::SeqCst) {
        seen.push((start.elapsed(), private(server)));
        wait::pause(SAMPLE);
    }
    seen
}

/// Tells limit, base and peak, and whether the bound holds.
fn judge(what: &str, options: &Options, at_rest: u64, seen: &[(Duration, u64)]) -> bool {
    let peak = seen.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
    let bound = bound(options.limit, options.cores);
    println!("| {what} | MiB |");
    println!("|---|---|");
    println!("| limit | {:.1} |", mib(options.limit));
    println!("| stated base | {:.1} |", mib(BASE + options.cores * BASE_PER_CORE));
    println!("| at rest | {:.1} |", mib(at_rest));
    println!("| peak of {} samples | {:.1} |", seen.len(), mib(peak));
    println!("| last | {:.1} |", mib(seen.last().map_or(0, |(_, bytes)| *bytes)));
    println!("| at most | {:.1} |", mib(bound));
    println!(
        "| (peak - stated base) / limit | {:.3} |",
        peak.saturating_sub(bound - options.limit * 21 / 20) as f64 / options.limit as f64
    );
    if peak > bound {
        println!("memory: peak of {:.1} MiB, at most {:.1}", mib(peak), mib(bound));
    }
    peak <= bound
}

/// Tells what the server says it uses, by purpose.
fn tell_purposes(product: &Aspis) -> io::Result<()> {
    for (name, value) in product.metrics()? {
        let of_memory = [
            "aspis_memory_",
            "aspis_arena_",
            "aspis_cache_evicted",
            "aspis_cache_not_stored",
            "aspis_passage_ended",
        ];
        if of_memory.iter().any(|start| name.starts_with(start)) && value != 0.0 {
            println!("{name} {value}");
        }
    }
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
