//! Plays recorded request traces through the product's eviction policies and through those of the literature.
//!
//! Each trace is played with caches of 1, 5, 10 and 25 % of the bytes of its objects. The reference policies must give the published counts
//! ([`oracle`]) to the last hit, so that what ours is held against is right. Ours is played in its exact form, where each hit is
//! told at once, and as it ships: the product's own code behind its trait, with use counts that stop at 3 and are taken late.

mod exact;
mod list;
mod oracle;
mod reference;
mod report;
mod shipped;
pub(crate) mod source;
#[cfg(test)]
mod tests;
pub(crate) mod tiers;

use aspis_storage::policy::{Policy, S3Fifo, SizeAware};
use exact::Exact;
use reference::{Belady, Cache, OnHit, Queue, Sieve};
use shipped::Shipped;
use source::Trace;
use std::io;
use std::path::PathBuf;

/// The traces, in the order of the print.
pub(crate) const TRACES: [&str; 6] =
    ["adaptsize", "web07", "scarab-recs", "web07-sized", "scarab-sized", "churn"];
/// Sizes of the caches, in percent of the footprint.
const PERCENTS: [u64; 4] = [1, 5, 10, 25];

/// What `aspis-bench traces` was asked for.
pub(crate) struct Options {
    /// Where the files are.
    pub(crate) folder: PathBuf,
    /// The traces to play; none for all.
    pub(crate) only: Vec<String>,
    /// Whether bounds are held.
    pub(crate) assert: bool,
}

impl Options {
    /// Returns those of these traces that are to be played.
    fn asked<'n>(&self, names: &'n [&str]) -> impl Iterator<Item = &'n str> {
        names.iter().copied().filter(|name| self.only.is_empty() || self.only.iter().any(|only| only == name))
    }
}

/// What a cache gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    hits: u64,
    hit_bytes: u64,
}

/// All that was played of one trace with caches of one size.
struct Cell {
    trace: &'static str,
    percent: u64,
    capacity: u64,
    requests: u64,
    requested_bytes: u64,
    /// By the policy's name, in the order of the print.
    results: Vec<(String, Counts)>,
    /// The share of probation that the product's policy ended with.
    share: u64,
}

/// The product's policy as it ships.
const SHIPPED: &str = "Aspis, lazy";

/// Plays everything and prints it; false when a bound was asked for and does not hold.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let mut cells = Vec::new();
    for name in options.asked(&TRACES) {
        let trace = source::named(name, &options.folder)?;
        for percent in PERCENTS {
            let cell = play_all(&trace, percent);
            print!("{}", report::table(&cell));
            cells.push(cell);
        }
    }
    let faults: Vec<String> = cells.iter().flat_map(report::faults).collect();
    println!();
    for fault in &faults {
        println!("OUT OF BOUNDS: {fault}");
    }
    if faults.is_empty() {
        println!(
            "All published counts are met to the last hit, and the product's policy is within its bounds."
        );
    }
    Ok(faults.is_empty() || !options.assert)
}

/// Plays a trace through a cache.
fn play(trace: &Trace, cache: &mut dyn Cache) -> Counts {
    let mut counts = Counts::default();
    for (at, object) in trace.requests.iter().enumerate() {
        if cache.request(at, *object) {
            counts.hits += 1;
            counts.hit_bytes += trace.sizes[*object as usize];
        }
    }
    counts
}

fn play_all(trace: &Trace, percent: u64) -> Cell {
    let capacity = (u128::from(trace.footprint()) * u128::from(percent) / 100) as u64;
    let mut results: Vec<(String, Counts)> = Vec::new();
    let mut add = |name: &str, cache: &mut dyn Cache| results.push((name.to_owned(), play(trace, cache)));
    add("FIFO", &mut Queue::new(trace, capacity, OnHit::Nothing));
    add("LRU", &mut Queue::new(trace, capacity, OnHit::Renew));
    add("SIEVE", &mut Sieve::new(trace, capacity));
    add("S3-FIFO", &mut reference::S3Fifo::new(trace, capacity));
    add("S3-FIFO, lazy", &mut Shipped::new(trace, capacity, S3Fifo::new));
    for share in [0, 10, 50] {
        add(&format!("Aspis, exact, {share} %"), &mut Exact::new(trace, capacity, share));
        let make = |capacity| SizeAware::with_share(capacity, share);
        add(&format!("Aspis, lazy, {share} %"), &mut Shipped::new(trace, capacity, make));
    }
    let mut shipped = Shipped::new(trace, capacity, SizeAware::new);
    add(SHIPPED, &mut shipped);
    add("Belady", &mut Belady::new(trace, capacity));
    let requested_bytes = trace.requests.iter().map(|object| trace.sizes[*object as usize]).sum();
    let requests = trace.requests.len() as u64;
    let share = shipped.policy.share();
    Cell { trace: trace.name, percent, capacity, requests, requested_bytes, results, share }
}
