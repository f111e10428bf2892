//! Minutes of everything that goes wrong in production, at once, against a real server: viewers that leave, reset, stall and send nonsense; an
//! origin that cuts, resets, stalls, lies and restarts. The driver knows for each URL what a right answer is, so one wrong byte, one cut answer
//! that looks whole or one request that hangs is a fault. At the end the server must be as empty as at the start.

mod connection;
mod scenarios;
mod shared;
mod tally;
mod verdict;
mod viewer;

use crate::aspis::{Aspis, sum};
use crate::memory;
use crate::origin::{Origin, Outages};
use crate::process::{self, Server};
use crate::random::Random;
use crate::wait;
use shared::Meeting;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tally::Tally;
use viewer::{SILENCE_MAX, Viewer};

/// What the server waits for a viewer that does not read. The stalled viewers wait three times as long.
const SEND_TIMEOUT: Duration = Duration::from_secs(4);
/// Flags of the server: timeouts that fit into a soak, and a memory limit that evictions reach.
const FLAGS: &[&str] = &[
    "--memory",
    "128MiB",
    "--object-size-max",
    "8MiB",
    "--connect-timeout",
    "2s",
    "--read-timeout",
    "3s",
    "--head-timeout",
    "4s",
    "--body-timeout",
    "4s",
    "--send-timeout",
    "4s",
    "--idle-timeout",
    "20s",
    "--origin-keepalive-timeout",
    "2s",
    "--drain-timeout",
    "10s",
];
/// A machine that lets a thread sleep so much longer than it wanted may let the timeouts above run out on both sides.
const STARVED: Duration = Duration::from_millis(700);
/// The memory limit above.
const MEMORY: u64 = 128 << 20;
/// Growth between the second and the last quarter of the run that is not yet a leak.
const GROWTH_MAX: u64 = 24 << 20;
/// The server has so long to become quiet: longer than each of its timeouts.
const QUIET: Duration = Duration::from_secs(45);
/// Gauges that must be zero when nobody is there.
const GAUGES: &[&str] = &[
    "aspis_viewer_connections_open",
    "aspis_requests_running",
    "aspis_tunnels_open",
    "aspis_origin_connections_open",
    "aspis_origin_waiting",
];
/// Counters that tell why shared bodies were not stored, and who was cut for it.
const CUT: &str = "aspis_passage_ended_total";
const TOLD: &[&str] = &[
    "aspis_collapse_total",
    "aspis_cache_not_stored_total",
    "aspis_cache_evicted_total",
    CUT,
    "aspis_core_mails_total",
];
/// Counters that tell who was refused and by whom, and what memory was used for: told where anything was wrong.
const REFUSED: &[&str] = &[
    "aspis_memory_retreats_total",
    "aspis_memory_used_bytes",
    "aspis_memory_withheld_bytes",
    "aspis_arena_resident_bytes",
    "aspis_arena_held_bytes",
    "aspis_cache_limbo_bytes",
    "aspis_requests_shed_total",
    "aspis_viewer_connections_refused_total",
    "aspis_origin_waits_total",
    "aspis_origin_failures_total",
];
/// Gauges that must be back at what they were when the server had just started. Sockets are counted from outside, by descriptors.
const BASELINES: &[&str] = &["aspis_core_tasks"];

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) length: Duration,
    pub(crate) seed: u64,
    pub(crate) viewers: u64,
    pub(crate) cores: u64,
    /// Names of scenarios, separated by commas; empty for all.
    pub(crate) only: String,
    pub(crate) aspis: Option<String>,
}

/// Runs the soak and prints what happened; false on any fault.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let scenarios = scenarios::scenarios(&options.only).map_err(io::Error::other)?;
    let origin = Mutex::new(Origin::start()?);
    let (origin_address, outages) = {
        let origin = held(&origin);
        (origin.address(), origin.outages())
    };
    let cores = options.cores.to_string();
    let flags = [FLAGS, &["--cores", &cores]].concat();
    let program = process::find_aspis(options.aspis.as_deref())?;
    let mut product = Aspis::start(&program, origin_address, None, &flags)?;
    // One request each way first: what a server builds on first use belongs to its baseline.
    let tally = Tally::default();
    let meeting = Meeting::new();
    last_request(&product, options.seed, "first request", (&tally, &meeting), 1);
    quiet(&product, &[]);
    let before = Baseline::take(&product)?;

    let start = Instant::now();
    let end = start + options.length;
    let resident = Mutex::new(Vec::new());
    let at_fault = Mutex::new(None);
    let over = AtomicBool::new(false);
    let starved = AtomicUsize::new(0);
    thread::scope(|scope| {
        let viewers: Vec<_> = (1..=options.viewers)
            .map(|number| {
                let known = (&tally, &meeting);
                let mut viewer = viewer(product.address, options.seed, number, known, outages.clone());
                viewer.scenarios.clone_from(&scenarios);
                scope.spawn(move || viewer.run(end))
            })
            .collect();
        scope.spawn(|| restarts(&origin, options.seed, &over, end, &tally));
        scope.spawn(|| samples(&product.server, &over, &resident));
        scope.spawn(|| watch_faults(&product, &tally, &over, &at_fault));
        scope.spawn(|| starved.fetch_add(starvation(&outages, &over), Ordering::SeqCst));
        for viewer in viewers {
            if viewer.join().is_err() {
                tally.fault("driver", "a viewer's thread panicked".into());
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    let took = start.elapsed();

    shared(&product, &meeting, &tally);
    let at_end = product.metrics();
    after(&mut product, &before, options, (&tally, &meeting));
    for complaint in held(&origin).complaints() {
        tally.fault("origin's view", complaint);
    }
    let resident = resident.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    judge_memory(&resident, before.resident, options.cores, &tally);
    if options.only.is_empty() && tally.whole_count() < options.viewers {
        tally.fault("driver", "next to nothing was answered, so nothing was shown".into());
    }

    // A minute of crowds in which nobody followed anybody shows nothing of what it is for.
    if options.only.is_empty() && took > Duration::from_secs(60) && meeting.collapsed() == 0 {
        tally.fault("driver", "no answer was collapsed".into());
    }
    let starved = starved.into_inner();
    println!(
        "soak of {:.0} s, seed {}, {} viewers, {} origin restarts, {starved} pauses of the machine, {} origin requests",
        took.as_secs_f64(),
        options.seed,
        options.viewers,
        outages.count() - starved,
        held(&origin).requests()
    );
    tally.print();
    if tally.fault_count() > 0 {
        let at_fault = at_fault.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (when, metrics) in [("at the first fault", at_fault), ("at the end", at_end.ok())] {
            println!("{when}:");
            tell(&metrics.unwrap_or_default(), REFUSED);
        }
    }
    Ok(tally.fault_count() == 0)
}

fn held(origin: &Mutex<Origin>) -> std::sync::MutexGuard<'_, Origin> {
    origin.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn viewer<'t>(
    address: SocketAddr,
    seed: u64,
    number: u64,
    (tally, meeting): (&'t Tally, &'t Meeting),
    outages: Outages,
) -> Viewer<'t> {
    let random = Random::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d).wrapping_add(number));
    Viewer { address, seed, random, tally, outages, next_id: number << 32, scenarios: Vec::new(), meeting }
}

/// Takes the origin down and up again at random.
fn restarts(origin: &Mutex<Origin>, seed: u64, over: &AtomicBool, end: Instant, tally: &Tally) {
    let mut random = Random::new(!seed);
    loop {
        let pause = Duration::from_millis(random.between(6_000, 14_000));
        if wait::until(pause, || over.load(Ordering::SeqCst)) || Instant::now() + Duration::from_secs(2) > end
        {
            return;
        }
        let down = Duration::from_millis(random.between(0, 800));
        if let Err(error) = held(origin).restart(down) {
            tally.fault("driver", format!("the origin did not come back: {error}"));
            return;
        }
    }
}

/// Notes until the end when the machine let nobody run for long; returns how often.
fn starvation(outages: &Outages, over: &AtomicBool) -> usize {
    let nap = Duration::from_millis(20);
    let mut count = 0;
    while !over.load(Ordering::SeqCst) {
        let start = Instant::now();
        wait::pause(nap);
        if start.elapsed() > nap + STARVED {
            outages.note(start, Instant::now());
            count += 1;
        }
    }
    count
}

/// Notes resident memory until the end.
fn samples(server: &Server, over: &AtomicBool, resident: &Mutex<Vec<u64>>) {
    while !wait::until(Duration::from_millis(500), || over.load(Ordering::SeqCst)) {
        let now = memory::private(server);
        resident.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(now);
    }
}

/// Keeps what the server says of itself when the first fault is there: which refusal it was, and what memory was used for.
fn watch_faults(
    product: &Aspis,
    tally: &Tally,
    over: &AtomicBool,
    at_fault: &Mutex<Option<Vec<(String, f64)>>>,
) {
    let look = Duration::from_millis(100);
    while !wait::until(look, || over.load(Ordering::SeqCst)) {
        if tally.fault_count() > 0 {
            *at_fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = product.metrics().ok();
            return;
        }
    }
}

/// Prints those samples of these families that are not zero.
fn tell(metrics: &[(String, f64)], families: &[&str]) {
    let told = metrics.iter().filter(|(name, value)| {
        *value != 0.0 && families.iter().any(|told| name.split('{').next() == Some(told))
    });
    for (name, value) in told {
        println!("{name} {value}");
    }
}

/// What a server at rest holds.
struct Baseline {
    resident: u64,
    descriptors: usize,
    gauges: Vec<f64>,
}

impl Baseline {
    fn take(product: &Aspis) -> io::Result<Self> {
        let metrics = product.metrics()?;
        let gauge = |name: &&str| {
            let missing = || io::Error::other(format!("/metrics has no {name}"));
            sum(&metrics, name).ok_or_else(missing)
        };
        Ok(Self {
            resident: memory::private(&product.server),
            descriptors: product.server.descriptors(),
            gauges: BASELINES.iter().map(gauge).collect::<io::Result<_>>()?,
        })
    }
}

/// Waits until the gauges are where they must be; returns those that are not.
fn quiet(product: &Aspis, baselines: &[f64]) -> Vec<String> {
    let mut off = Vec::new();
    wait::until(QUIET, || {
        off.clear();
        let Ok(metrics) = product.metrics() else {
            off.push("/metrics does not answer".into());
            return false;
        };
        let expected =
            GAUGES.iter().zip(std::iter::repeat(0.0)).chain(BASELINES.iter().zip(baselines.iter().copied()));
        for (name, expected) in expected {
            match sum(&metrics, name) {
                Some(value) if value <= expected => {}
                Some(value) => off.push(format!("{name} is {value}, not {expected}")),
                None => off.push(format!("/metrics has no {name}")),
            }
        }
        off.is_empty()
    });
    off
}

/// Tells what the server counted of shared fetches, and holds the answers that were cut against it.
fn shared(product: &Aspis, meeting: &Meeting, tally: &Tally) {
    println!("{} answers came from the fetch of another viewer", meeting.collapsed());
    let Ok(metrics) = product.metrics() else { return };
    tell(&metrics, TOLD);
    let allowed = sum(&metrics, CUT).unwrap_or(0.0);
    let cut = meeting.cut();
    if cut.len() as f64 > allowed {
        cut.iter().for_each(|each| println!("cut: {each}"));
        let count = cut.len();
        let what = format!("{count} answers broke off and {allowed} were too slow for what was not stored");
        tally.fault("stampede", what);
    }
}

/// Checks the server after the last viewer has gone: nothing left, still working, ends in order.
fn after(product: &mut Aspis, before: &Baseline, options: &Options, known: (&Tally, &Meeting)) {
    let tally = known.0;
    if !product.server.runs() {
        tally.fault("afterwards", "the server is gone".into());
    } else {
        for gauge in quiet(product, &before.gauges) {
            tally.fault("afterwards", gauge);
        }
        if !wait::until(QUIET, || product.server.descriptors() <= before.descriptors) {
            let now = product.server.descriptors();
            tally.fault("afterwards", format!("{now} descriptors, {} at first", before.descriptors));
        }
        last_request(product, options.seed, "last request", known, 2);
        match product.server.terminate(Duration::from_secs(20)) {
            Ok(Some(status)) if status.code() == Some(0) => {}
            other => tally.fault("afterwards", format!("SIGTERM ended in {other:?}")),
        }
    }
    for line in product.server.errors() {
        if line.contains("panicked") || line.contains("RUST_BACKTRACE") {
            tally.fault("afterwards", line);
        }
    }
}

/// Plays one plain exchange of each kind, which must be right.
fn last_request(product: &Aspis, seed: u64, scenario: &'static str, known: (&Tally, &Meeting), number: u64) {
    let quiet_origin = match Origin::start() {
        Ok(origin) => origin,
        Err(error) => return known.0.fault("driver", error.to_string()),
    };
    // The outages of an origin that never was down excuse nothing.
    let mut viewer = viewer(product.address, seed, number, known, quiet_origin.outages());
    viewer.next_id += 1 << 60;
    viewer.each_once(scenario);
}

/// Judges resident memory over the run: the bound that `aspis-bench memory` holds it to.
fn judge_memory(samples: &[u64], before: u64, cores: u64, tally: &Tally) {
    let most = |samples: &[u64]| samples.iter().copied().max().unwrap_or(0);
    let quarter = samples.len() / 4;
    let peak = most(samples);
    let (early, late) = (most(&samples[quarter..2 * quarter]), most(&samples[3 * quarter..]));
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!(
        "resident memory: {:.1} MiB before, second quarter {:.1}, last quarter {:.1}, peak {:.1}",
        mib(before),
        mib(early),
        mib(late),
        mib(peak)
    );
    let bound = memory::bound(MEMORY, cores);
    if peak > bound {
        tally.fault("memory", format!("peak of {:.1} MiB, at most {:.0}", mib(peak), mib(bound)));
    }
    // A short run is all warming up.
    if samples.len() >= 120 && late > early + GROWTH_MAX {
        tally.fault("memory", format!("still growing: {:.1} to {:.1} MiB", mib(early), mib(late)));
    }
}

const _: () =
    assert!(SEND_TIMEOUT.as_secs() * 3 < SILENCE_MAX.as_secs(), "a stalled reader is no stuck request");
