//! A thousand invalidations a second over the admin API while viewers load a hot object: is one lost, does memory grow, do hits suffer?
//!
//! Rounds of load without and with the storm take turns, so that what else the machine does falls on both. The storm mixes paths, wildcards and
//! tags, most of which concern nothing; among them is each of some hundred pages that are stored before, by its path or by its tag. All of them
//! must be fetched anew afterwards, and all that was acknowledged must have a number of its own.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::Admin;
use crate::aspis::{Aspis, sum};
use crate::killing::versions::{Versions, fetch};
use crate::peers::wrk::{Script, Wrk};
use crate::process::{self, Scratch};
use crate::stats::Spread;
use crate::wait;

/// Callers, each at its part of the rate.
const CALLERS: u64 = 32;
/// Pages that the storm is about.
const PAGES: u64 = 400;
/// Connections of the load.
const CONNECTIONS: u32 = 32;
/// Most that the 99th percentile of hits may grow.
const P99_RATIO_MAX: f64 = 1.5;
/// Most that the server's own memory may grow over the storm: its list and the rules until they are settled.
const GROWTH_MAX: u64 = 64 << 20;
/// Least share of the wanted rate that must have been reached for the run to tell something.
const RATE_SHARE_MIN: f64 = 0.95;
/// Times that the load is measured without and with the storm.
const ROUNDS: u64 = 5;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// Length of all rounds with the storm together.
    pub(crate) length: Duration,
    /// Invalidations per second.
    pub(crate) rate: u64,
    /// Where the server keeps its state; `None` for the temporary files.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) aspis: Option<String>,
}

/// What the storm was told.
#[derive(Debug, Default)]
struct Told {
    numbers: Vec<u64>,
    refused: Vec<String>,
}

/// Plays and prints the figures; false when one is out of bounds.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let wrk = Wrk::find()?;
    let hot = wrk.script(&["/hot".to_owned()], 1)?;
    let program = process::find_aspis(options.aspis.as_deref())?;
    let folder = Scratch::of_state("storm", options.folder.as_deref())?;
    let state = folder.path().display().to_string();
    let origin = Versions::start()?;
    let server = Aspis::start(
        &program,
        origin.address(),
        None,
        &["--cores", "2", "--memory", "256MiB", "--state", &state],
    )?;
    for page in 0..PAGES {
        origin.note(&name(page), fetch(server.address, &name(page))?);
    }
    fetch(server.address, "/hot")?;
    let round = Duration::from_secs((options.length.as_secs() / ROUNDS).max(1));
    let (told, sent) = (Mutex::new(Told::default()), AtomicU64::new(0));
    let (mut calm, mut stormy, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let before = server.server.status_bytes("RssAnon");
    let mut took = Duration::ZERO;
    for _ in 0..ROUNDS {
        let without = load(&wrk, &hot, server.address, round)?;
        let start = Instant::now();
        let with = storm(&server, options.rate, &told, &sent, || load(&wrk, &hot, server.address, round))?;
        took += start.elapsed();
        calm.push(without);
        stormy.push(with);
        ratios.push(with / without);
    }
    let told = told.into_inner().map_err(|_| io::Error::other("a caller panicked"))?;
    let done = wait::until(Duration::from_secs(20), || {
        server.metrics().ok().and_then(|metrics| sum(&metrics, "aspis_invalidations_in_progress"))
            == Some(0.0)
    });
    let after = server.server.status_bytes("RssAnon");
    let mut faults = told.refused.clone();
    if !done {
        faults.push("some are never completed".into());
    }
    origin.expect_newer(server.address, &mut faults)?;
    let mut numbers = told.numbers.clone();
    numbers.sort_unstable();
    numbers.dedup();
    let (sent, acknowledged) = (sent.load(Ordering::Relaxed), told.numbers.len() as u64);
    if acknowledged != sent || numbers.len() as u64 != acknowledged {
        faults.push(format!("{sent} sent, {acknowledged} acknowledged, {} numbers", numbers.len()));
    }
    if sent < PAGES {
        faults.push(format!("only {sent} of {PAGES} pages were reached: a longer run is needed"));
    }
    let rate = acknowledged as f64 / took.as_secs_f64();
    let growth = after.saturating_sub(before);
    let median = |samples: &[f64]| Spread::of(samples).map_or(f64::NAN, |spread| spread.median);
    let ratio = median(&ratios);
    let log = server.metrics()?;
    let least = options.rate as f64 * RATE_SHARE_MIN;
    println!("| what | measured | bound |\n|---|---|---|");
    println!("| invalidations acknowledged | {acknowledged} of {sent} | all |");
    println!("| per second | {rate:.0} | at least {least:.0} |");
    println!("| p99 of hits without, median of {ROUNDS} | {:.3} ms | |", median(&calm));
    println!("| p99 of hits with the storm | {:.3} ms | |", median(&stormy));
    println!("| their ratio, median of the rounds | {ratio:.2} | at most {P99_RATIO_MAX} |");
    println!(
        "| growth of RssAnon | {:.1} MiB | at most {} MiB |",
        growth as f64 / 1_048_576.0,
        GROWTH_MAX >> 20
    );
    println!(
        "| length of rules.log | {:.1} MiB | |",
        sum(&log, "aspis_invalidation_log_bytes").unwrap_or(0.0) / 1_048_576.0
    );
    println!(
        "| rules pending at the end | {} | |",
        sum(&log, "aspis_invalidation_rules_pending").unwrap_or(0.0)
    );
    println!("| faults | {} | none |", faults.len());
    for fault in faults.iter().take(10) {
        println!("FAULT {fault}");
    }
    Ok(faults.is_empty() && rate >= least && growth <= GROWTH_MAX && ratio <= P99_RATIO_MAX)
}

/// Returns the 99th percentile of hits, in milliseconds.
fn load(wrk: &Wrk, hot: &Script, address: SocketAddr, length: Duration) -> io::Result<f64> {
    Ok(wrk.run(1, address, hot, CONNECTIONS, length)?.p99.as_secs_f64() * 1e3)
}

/// Invalidates at the rate for as long as `meanwhile` takes, and returns what that returns.
fn storm<T>(
    server: &Aspis,
    rate: u64,
    told: &Mutex<Told>,
    sent: &AtomicU64,
    meanwhile: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                let over = &over;
                scope.spawn(move || call(server.admin, rate / CALLERS, over, told, sent))
            })
            .collect();
        let outcome = meanwhile();
        over.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.join().unwrap_or_else(|_| Err(io::Error::other("a caller panicked")))?;
        }
        outcome
    })
}

/// One caller, that keeps its pace however long an answer takes.
fn call(
    address: SocketAddr,
    rate: u64,
    over: &AtomicBool,
    told: &Mutex<Told>,
    sent: &AtomicU64,
) -> io::Result<()> {
    let mut admin = Admin::connect(address)?;
    let start = Instant::now();
    for at in 0_u64.. {
        let due = start + Duration::from_micros(1_000_000 * at / rate.max(1));
        wait::pause(due.saturating_duration_since(Instant::now()));
        if over.load(Ordering::Relaxed) {
            break;
        }
        let document = batch(sent.fetch_add(1, Ordering::Relaxed));
        let (status, found) = admin.ask("POST", "/v1/invalidations", Some(&document))?;
        let mut told = told.lock().map_err(|_| io::Error::other("a caller panicked"))?;
        match (status, found["number"].as_u64()) {
            (201, Some(number)) => told.numbers.push(number),
            _ => told.refused.push(format!("{document} was answered {status} {found}")),
        }
    }
    Ok(())
}

fn name(page: u64) -> String {
    format!("/pages/{page}")
}

/// The pages first, one after the other by path or tag; then what concerns nothing.
fn batch(at: u64) -> Value {
    match (at < PAGES, at % 4) {
        (true, 0 | 1) => json!({ "paths": [name(at)] }),
        (true, 2) => json!({ "tags": [format!("page-pages-{at}")] }),
        (true, _) => json!({ "paths": [format!("{}*", name(at))] }),
        (false, 0) => json!({ "paths": [format!("/none/{at}")] }),
        (false, 1) => json!({ "tags": [format!("none-{at}"), "none"] }),
        (false, 2) => json!({ "paths": [format!("/none/{at}/*")], "soft": true }),
        (false, _) => {
            json!({ "paths": [format!("/none/{at}"), format!("#none-{at}")], "hosts": ["none.example"] })
        }
    }
}
