//! How soon an invalidation of many objects is in effect everywhere, and what hits pay during the sweep after it.
//!
//! Each round gives the origin a new version, invalidates, and asks on connections of every core: none may get the old bytes once the request was
//! answered as completed. The rounds are soft, so that all objects stay stored and each sweep has all of them before it; the last of
//! each kind is hard, so that its sweep gives all their memory back.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::aspis::{Aspis, sum};
use crate::stats::quantile;
use crate::wait::{self, Canary};

use super::origin::VersionOrigin;
use super::viewer::Viewer;
use super::{Options, figure, load, object};

/// What is invalidated, as the API has it.
const KINDS: [(&str, &str); 3] = [
    ("/*", "\"paths\":[\"/*\"]"),
    ("a prefix", "\"paths\":[\"/o/*\"]"),
    ("a tag of half", "\"tags\":[\"half\"]"),
];
/// Connections that probe, for each core.
const PROBES: u64 = 4;
/// Most milliseconds from asking until it is in effect everywhere, p99.
const EFFECT_MAX: f64 = 10.0;
/// Most times that hits may be slower during a sweep, p99.
const SLOWER_MAX: f64 = 2.0;
/// What is asked for all the time; tags and the prefix leave it.
const HOT: &str = "/hot";
/// Between two hits.
const PACE: Duration = Duration::from_micros(300);
/// How long hits are measured without a sweep, and at least with one.
const QUIET: Duration = Duration::from_secs(3);
/// A sweep that takes longer is broken.
const SWEEP_MAX: Duration = Duration::from_secs(120);

pub(super) fn run(server: &Aspis, origin: &VersionOrigin, options: &Options) -> io::Result<bool> {
    let mut probes = Vec::new();
    for _ in 0..options.cores * PROBES {
        probes.push(Viewer::connect(server.address)?);
    }
    println!("\neffect: {} rounds of each kind over {} objects", options.rounds, options.objects);
    println!("| figure | measured | at most | |\n|---|---|---|---|");
    let mut held = true;
    for (name, rule) in KINDS {
        let quiet = quiet(server)?;
        // A connection of its own: the admin server ends those that say nothing for ten seconds.
        let mut admin = Viewer::connect(server.admin)?;
        let canary = Canary::start();
        let (mut completed, mut effective) = (Vec::new(), Vec::new());
        let hits = hot(server, || {
            for _ in 0..options.rounds {
                let (done, seen) =
                    round(origin, &mut admin, &mut probes, &format!("{{{rule},\"soft\":true}}"))?;
                completed.push(done);
                effective.push(seen);
            }
            // The hits pay for the sweep to its end.
            sweep(server)?;
            wait::pause(QUIET);
            Ok(())
        })?;
        let late = canary.longest().as_secs_f64() * 1e3;
        for (what, mut times) in [("completed", completed), ("no old bytes on any core", effective)] {
            times.sort_by(f64::total_cmp);
            let at = |share| quantile(&times, share).unwrap_or(f64::INFINITY);
            held &= figure(&format!("{name}: {what}, p99"), at(0.99), "ms", EFFECT_MAX);
            println!(
                "| {name}: p50, worst | {:.2} ms, {:.2} ms | (this machine let nobody run for {late:.1} ms) | |",
                at(0.5),
                at(1.0)
            );
        }
        held &= figure(
            &format!("{name}: hot p99 meanwhile, of {quiet:.0} us"),
            p99(&hits) / quiet,
            "x",
            SLOWER_MAX,
        );
    }
    // The tag takes one half, the prefix the other; then all at once.
    for (name, rule) in KINDS.iter().rev() {
        if stored(server)? < options.objects / 4 {
            load(server, options.objects)?;
        }
        // Beside each, since neighbours come and go; and the gauges of the cores are as old as this at most.
        let quiet = quiet(server)?;
        let left = stored(server)?;
        let mut admin = Viewer::connect(server.admin)?;
        let hits = hot(server, || {
            let (_, seen) = round(origin, &mut admin, &mut probes, &format!("{{{rule}}}"))?;
            println!("| {name}, hard: no old bytes on any core | {seen:.2} ms | | |");
            sweep(server)?;
            wait::pause(QUIET);
            Ok(())
        })?;
        let gone = left.saturating_sub(stored(server)?);
        held &=
            figure(&format!("{name}, hard: hot p99 while {gone} go"), p99(&hits) / quiet, "x", SLOWER_MAX);
    }
    load(server, options.objects)?;
    Ok(held)
}

/// The p99 of hits while nothing else happens, in microseconds.
pub(super) fn quiet(server: &Aspis) -> io::Result<f64> {
    let hits = hot(server, || {
        wait::pause(QUIET);
        Ok(())
    })?;
    Ok(p99(&hits))
}

/// Waits until nothing of what was invalidated is left.
fn sweep(server: &Aspis) -> io::Result<()> {
    let swept = wait::until(SWEEP_MAX, || settled(server).unwrap_or(false));
    if swept { Ok(()) } else { Err(io::Error::other("the sweep does not end")) }
}

/// One invalidation: milliseconds until it is completed, and until every probe has the new version.
fn round(
    origin: &VersionOrigin,
    admin: &mut Viewer,
    probes: &mut [Viewer],
    json: &str,
) -> io::Result<(f64, f64)> {
    // All have it before, so that old bytes are there to be served.
    let path = object(0);
    for probe in probes.iter_mut() {
        probe.ask(&path)?;
    }
    let version = origin.change();
    let began = Instant::now();
    admin.invalidate(json, true)?;
    let completed = began.elapsed();
    for probe in probes.iter_mut() {
        probe.send(std::slice::from_ref(&path))?;
    }
    for probe in probes {
        let got = probe.version()?;
        if got < version {
            return Err(io::Error::other(format!("version {got} after {json}, which {version} came before")));
        }
    }
    Ok((completed.as_secs_f64() * 1e3, began.elapsed().as_secs_f64() * 1e3))
}

/// Asks for something hot while `work` runs; returns how many microseconds each answer took.
pub(super) fn hot(server: &Aspis, work: impl FnOnce() -> io::Result<()>) -> io::Result<Vec<f64>> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| ask_until(server, &over));
        let worked = work();
        over.store(true, Ordering::Relaxed);
        let times = asking.join().map_err(|_| io::Error::other("the hot viewer panicked"))?;
        worked.and(times)
    })
}

fn ask_until(server: &Aspis, over: &AtomicBool) -> io::Result<Vec<f64>> {
    let mut viewer = Viewer::connect(server.address)?;
    let mut times = Vec::new();
    viewer.ask(HOT)?;
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        viewer.ask(HOT)?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
        wait::pause(PACE);
    }
    Ok(times)
}

pub(super) fn p99(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.99).unwrap_or(f64::INFINITY)
}

fn stored(server: &Aspis) -> io::Result<u64> {
    gauge(server, "aspis_cache_responses").map(|count| count as u64)
}

/// Whether every core is through with what was invalidated so far.
pub(super) fn settled(server: &Aspis) -> io::Result<bool> {
    gauge(server, "aspis_invalidation_rules_pending").map(|pending| pending == 0.0)
}

pub(super) fn gauge(server: &Aspis, name: &str) -> io::Result<f64> {
    sum(&server.metrics()?, name).ok_or_else(|| io::Error::other(format!("no metric {name}")))
}
