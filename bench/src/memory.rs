//! Holds the server to its memory limit: under a scan of more objects than it can keep, and under more viewers than it can buffer for.
//!
//! What counts is what the kernel says: RssAnon + RssShmem of the process, every 100 ms. It may be at most the limit, 5 % of it, and the
//! base that the manual states. Sizes are drawn from a histogram that is given as a file.

mod crowd;
mod origin;
mod scan;
pub(crate) mod sizes;

use crate::aspis::{Aspis, sum};
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
/// Of the samples, one in so many asks the server too.
const ASKED_EACH: usize = 5;
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

/// What was seen of a server at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    resident: u64,
    /// What the server says that it uses, if it was asked.
    used: Option<u64>,
}

/// Looks at a server until the end.
fn samples(product: &Aspis, over: &AtomicBool) -> Vec<Sample> {
    let start = Instant::now();
    let mut seen = Vec::new();
    while !over.load(Ordering::SeqCst) {
        let is_asked = seen.len().is_multiple_of(ASKED_EACH);
        let metrics = if is_asked { product.metrics().ok() } else { None };
        let used = metrics.and_then(|metrics| sum(&metrics, "aspis_memory_used_bytes"));
        seen.push(Sample {
            at: start.elapsed(),
            resident: private(&product.server),
            used: used.map(|used| used as u64),
        });
        wait::pause(SAMPLE);
    }
    seen
}

/// Tells limit, base and peak, and whether the bound holds.
fn judge(what: &str, options: &Options, at_rest: u64, seen: &[Sample]) -> bool {
    let highest = seen.iter().max_by_key(|sample| sample.resident);
    let peak = highest.map_or(0, |sample| sample.resident);
    let unaccounted =
        seen.iter().filter_map(|sample| Some(sample.resident.saturating_sub(sample.used?))).max();
    let bound = bound(options.limit, options.cores);
    println!("| {what} | MiB |");
    println!("|---|---|");
    println!("| limit | {:.1} |", mib(options.limit));
    println!("| stated base | {:.1} |", mib(BASE + options.cores * BASE_PER_CORE));
    println!("| at rest | {:.1} |", mib(at_rest));
    println!("| peak of {} samples | {:.1} |", seen.len(), mib(peak));
    println!("| last | {:.1} |", mib(seen.last().map_or(0, |sample| sample.resident)));
    let told = seen.iter().filter(|sample| sample.used.is_some());
    let told = told.max_by_key(|sample| sample.resident).and_then(|sample| sample.used);
    println!("| used by its own account about then | {:.1} |", mib(told.unwrap_or(0)));
    println!("| most of it unaccounted | {:.1} |", mib(unaccounted.unwrap_or(0)));
    println!("| peak after, s | {:.1} |", highest.map_or(0.0, |sample| sample.at.as_secs_f64()));
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
