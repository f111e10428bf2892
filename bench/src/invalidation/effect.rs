//! How soon an invalidation of many objects is in effect everywhere, and what hits pay during the sweep after it.
//!
//! Each round gives the origin a new version, invalidates, and asks on connections of every core: none may get the old bytes once the request was
//! answered as completed. The rounds are soft, so that all objects stay stored, and do not wait for the sweep, which runs meanwhile. Then come
//! sweeps of their own with hits beside them: one that looks at everything and removes nothing, and three that give all memory back. Hits count from
//! the invalidation to the end of its sweep and no longer.

use std::io;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::Admin;
use crate::aspis::{Aspis, sum};
use crate::stats::quantile;
use crate::wait::{self, Canary};

use super::hot::{Hot, Looks, p99};
use super::origin::VersionOrigin;
use super::viewer::Viewer;
use super::{Options, figure, object};

/// What is invalidated in the rounds, as the API has it.
const KINDS: [(&str, &str, &str); 3] =
    [("/*", "paths", "/*"), ("a prefix", "paths", "/o/*"), ("a tag of half", "tags", "half")];
/// And with a sweep of its own, softly or not: together the hard ones take all, so that one fill is enough.
const SWEPT: [(&str, &str, &str, bool); 4] = [
    ("/*, soft", "paths", "/*", true),
    ("a tag of half", "tags", "half", false),
    ("a prefix", "paths", "/o/1*", false),
    ("/*", "paths", "/*", false),
];
/// What is asked for to see an invalidation: all of them concern it.
const PROBED: u64 = 10;
/// Most milliseconds from asking until it is in effect everywhere, p99.
const EFFECT_MAX: f64 = 10.0;
/// Most times that hits may be slower during a sweep, p99.
const SLOWER_MAX: f64 = 2.0;
/// How long hits are measured without a sweep.
const QUIET: Duration = Duration::from_secs(3);
/// Whether a sweep is through is asked so rarely: hits beside it do not count.
const LOOK: Duration = Duration::from_millis(250);
/// The gauges of the cores are no older.
const GAUGE_AGE: Duration = Duration::from_millis(600);
/// A core rests so many times as long as it swept, and no longer than this: hits meanwhile would count as hits during the next sweep.
const REST_FACTOR: u32 = 49;
const REST_MAX: Duration = Duration::from_secs(10);
/// A sweep that takes longer than this, and so much more for each object, is broken.
const SWEEP_MAX: Duration = Duration::from_secs(60);
const SWEEP_EACH_MAX: Duration = Duration::from_micros(20);

pub(super) fn run(
    server: &Aspis,
    origin: &VersionOrigin,
    hot: &mut Hot,
    options: &Options,
) -> io::Result<bool> {
    let mut probes = Viewer::connect_to_all(options.cores, server.address)?;
    println!("\neffect: {} rounds of each kind over {} objects", options.rounds, options.objects);
    println!("| figure | measured | at most | |\n|---|---|---|---|");
    let mut held = true;
    for (name, field, rule) in KINDS {
        // A connection of its own: the admin server ends those that say nothing for ten seconds.
        let mut admin = Admin::connect(server.admin)?;
        let canary = Canary::start();
        let (mut completed, mut effective) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            let document = json!({ field: [rule], "soft": true });
            let (done, seen) = round(origin, &mut admin, &mut probes, &document)?;
            completed.push(done);
            effective.push(seen);
        }
        let late = canary.longest().as_secs_f64() * 1e3;
        for (what, mut times) in [("completed", completed), ("no old bytes on any core", effective)] {
            times.sort_by(f64::total_cmp);
            let at = |share| quantile(&times, share).unwrap_or(f64::INFINITY);
            held &= figure(&format!("{name}: {what}, p99"), at(0.99), "ms", EFFECT_MAX);
            println!(
                "| {name}: {what}, p50 and worst | {:.2} ms, {:.2} ms | (this machine let nobody run for {late:.1} ms) | |",
                at(0.5),
                at(1.0)
            );
        }
    }
    let sweep_max = SWEEP_MAX + SWEEP_EACH_MAX * u32::try_from(options.objects).unwrap_or(u32::MAX);
    let began = Instant::now();
    swept(server, &Looks::default(), sweep_max)?;
    rest(began.elapsed());
    for (name, field, rule, is_soft) in SWEPT {
        let before = stored(server)?;
        // Before each and behind it, since neighbours come and go.
        let mut quiet = quiet(hot)?;
        let mut took = Duration::ZERO;
        let hits = hot.beside(|looks| {
            let began = Instant::now();
            let document = json!({ field: [rule], "soft": is_soft });
            round(origin, &mut Admin::connect(server.admin)?, &mut probes, &document)?;
            swept(server, looks, sweep_max)?;
            took = began.elapsed();
            Ok(())
        })?;
        rest(took);
        quiet.extend(self::quiet(hot)?);
        let quiet = p99(&quiet);
        let gone = before.saturating_sub(stored(server)?);
        let what = format!("{name}: hot p99 while {before} are looked at and {gone} go, of {quiet:.0} us");
        held &= figure(&what, p99(&hits) / quiet, "x", SLOWER_MAX);
        println!(
            "| {name}: the sweep, and hits meanwhile | {:.1} s, {} | | |",
            took.as_secs_f64(),
            hits.len()
        );
    }
    Ok(held)
}

/// Waits until the cores have rested after a sweep that took so long, and their gauges say what it left.
fn rest(swept: Duration) {
    wait::pause((swept * REST_FACTOR).clamp(GAUGE_AGE, REST_MAX));
}

/// Hits while nothing else happens.
fn quiet(hot: &mut Hot) -> io::Result<Vec<f64>> {
    hot.beside(|_| {
        wait::pause(QUIET);
        Ok(())
    })
}

/// Waits until every core is through with what was invalidated.
fn swept(server: &Aspis, looks: &Looks, limit: Duration) -> io::Result<()> {
    let end = Instant::now() + limit;
    while !looks.at(|| settled(server))? {
        if Instant::now() >= end {
            return Err(io::Error::other(format!("the sweep does not end within {} s", limit.as_secs())));
        }
        wait::pause(LOOK);
    }
    Ok(())
}

/// One invalidation: milliseconds until it is completed, and until every probe has the new version.
fn round(
    origin: &VersionOrigin,
    admin: &mut Admin,
    probes: &mut [Viewer],
    document: &Value,
) -> io::Result<(f64, f64)> {
    // All have it before, so that old bytes are there to be served.
    let path = object(PROBED);
    for probe in probes.iter_mut() {
        probe.ask(&path)?;
    }
    let version = origin.change();
    let began = Instant::now();
    admin.invalidate(document, true)?;
    let completed = began.elapsed();
    for probe in probes.iter_mut() {
        probe.send(std::slice::from_ref(&path))?;
    }
    for probe in probes {
        let got = probe.version()?;
        if got < version {
            return Err(io::Error::other(format!(
                "version {got} after {document}, which {version} came before"
            )));
        }
    }
    Ok((completed.as_secs_f64() * 1e3, began.elapsed().as_secs_f64() * 1e3))
}

fn stored(server: &Aspis) -> io::Result<u64> {
    gauge(server, "aspis_cache_responses").map(|count| count as u64)
}

/// Whether every core is through with what was invalidated so far.
pub(super) fn settled(server: &Aspis) -> io::Result<bool> {
    gauge(server, "aspis_invalidation_rules_pending").map(|pending| pending == 0.0)
}

fn gauge(server: &Aspis, name: &str) -> io::Result<f64> {
    sum(&server.metrics()?, name).ok_or_else(|| io::Error::other(format!("no metric {name}")))
}
