//! A hot object on two cores: whether hits exchange messages, and what they cost beside hits that share nothing.
//!
//! The comparison is with two servers of one core each, one per CPU, under the very same load: from each CPU, half of it goes to either CPU in
//! both cases. So the programs that load steal as much from both, as many packets change the CPU, batches are as large, and what is left of a
//! difference is the sharing.

use super::crowd::{self, Ask};
use super::script::{Answer, Script};
use super::{Figure, Stage, metric};
use crate::aspis::Aspis;
use crate::content::Content;
use crate::peers::wrk::{Load, Script as Requests, Wrk};
use crate::stats::Spread;
use crate::wait;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The object.
const PATH: &str = "/hot";
const SIZE: usize = 1024;
/// Connections of each quarter of the load.
const CONNECTIONS: u32 = 16;
/// Connections over which the object is made known to every core, and how often.
const WARMERS: usize = 64;
const WARM_ROUNDS: usize = 3;
/// Length of the load during which no message may pass, and of each load of the comparison.
const QUIET: Duration = Duration::from_secs(5);
/// Time at the start and the end of that load which does not count.
const MARGIN: Duration = Duration::from_secs(1);
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 7;
/// Fewer hits than this show nothing.
const SERVED_MIN: f64 = 10_000.0;
/// Most that a hit that both cores serve may cost, in hits that share nothing.
const RATIO_MAX: f64 = 1.05;

/// Plays both.
pub(super) fn play(stage: &Stage) -> io::Result<Vec<Figure>> {
    let load = Quarters::of(Wrk::find()?)?;
    if thread::available_parallelism()?.get() < 2 {
        return Err(io::Error::other("one CPU: there is nothing to share"));
    }
    let mut body = vec![0; SIZE];
    Content::of(PATH).fill(0, &mut body);
    let body = Arc::new(body);
    let content = Arc::clone(&body);
    let fields = "Cache-Control: public, max-age=3600\r\nETag: \"one\"\r\n";
    let origin = Script::start(move |_, _| Answer::whole(fields, &content, Duration::ZERO))?;

    let shared = stage.server(&origin, &[])?;
    warm(&shared, &body)?;
    let fetched = origin.count(PATH);
    let alone = [stage.one_core(&origin, 0)?, stage.one_core(&origin, 1)?];
    for product in &alone {
        warm(product, &body)?;
    }
    let (mails, served) = quiet(&load, &shared)?;
    let mut figures = vec![
        Figure::exactly("origin requests until both cores have it", fetched, 1),
        Figure::exactly("messages between the cores", mails as u64, 0),
        Figure::at_least("hits meanwhile", served, SERVED_MIN, ""),
    ];
    figures.extend(compare(&load, &shared, &alone)?);
    Ok(figures)
}

/// Returns how many messages the cores received, and how many hits they served, in the middle of a load.
fn quiet(quarters: &Quarters, shared: &Aspis) -> io::Result<(f64, f64)> {
    let counts = || -> io::Result<(f64, f64)> {
        Ok((metric(shared, "aspis_core_mails_total")?, metric(shared, "aspis_requests_total")?))
    };
    thread::scope(|scope| {
        let load = scope.spawn(|| quarters.run([shared.address; 2], QUIET + 2 * MARGIN));
        // Connections that are opened may be handed from core to core, so only what comes after counts.
        wait::pause(MARGIN);
        let before = counts()?;
        wait::pause(QUIET);
        let after = counts()?;
        load.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the driver panicked")))?;
        Ok((after.0 - before.0, after.1 - before.1))
    })
}

/// Interleaves loads of the two arrangements and compares the CPU time of a hit.
fn compare(quarters: &Quarters, shared: &Aspis, alone: &[Aspis; 2]) -> io::Result<Vec<Figure>> {
    let (mut both, mut own, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let two = || cost(quarters, [shared.address; 2], &[shared]);
    let one = || cost(quarters, [alone[0].address, alone[1].address], &[&alone[0], &alone[1]]);
    for round in 0..ROUNDS {
        // What a round's first load leaves behind must not always meet the same one.
        let (two, one) = if round % 2 == 0 {
            let two = two()?;
            (two, one()?)
        } else {
            let one = one()?;
            (two()?, one)
        };
        both.push(two);
        own.push(one);
        ratios.push(two / one);
    }
    let spread = |samples: &[f64]| {
        Spread::of(samples).ok_or_else(|| io::Error::other("no rounds")).map(|spread| {
            let text = format!(
                "{:.3} us ({:.3} to {:.3})",
                spread.median, spread.lower_quartile, spread.upper_quartile
            );
            (spread.median, text)
        })
    };
    let (ratio, _) = spread(&ratios)?;
    Ok(vec![
        Figure::told("server CPU of a hit, one object on both cores", spread(&both)?.1),
        Figure::told("server CPU of a hit, each core its own", spread(&own)?.1),
        Figure::at_most("their ratio, median of the rounds", ratio, RATIO_MAX, ""),
    ])
}

/// Returns the microseconds of CPU that `servers` need for a hit under a load of all quarters.
fn cost(quarters: &Quarters, addresses: [SocketAddr; 2], servers: &[&Aspis]) -> io::Result<f64> {
    let used = || servers.iter().map(|product| product.server.cpu()).sum::<Duration>();
    let before = used();
    let requests = quarters.run(addresses, ROUND)?;
    Ok(used().saturating_sub(before).as_secs_f64() * 1e6 / requests.max(1) as f64)
}

/// The load of both arrangements.
struct Quarters {
    wrk: Wrk,
    requests: Requests,
}

impl Quarters {
    fn of(wrk: Wrk) -> io::Result<Self> {
        let requests = wrk.script(&[PATH.to_owned()], 1)?;
        Ok(Self { wrk, requests })
    }

    /// Loads each address from each CPU, all at the same time; returns the requests of all.
    fn run(&self, addresses: [SocketAddr; 2], length: Duration) -> io::Result<u64> {
        let pairs = [(0, addresses[0]), (0, addresses[1]), (1, addresses[0]), (1, addresses[1])];
        let loads: Vec<io::Result<Load>> = thread::scope(|scope| {
            let run = |(cpu, address)| self.wrk.run(cpu, address, &self.requests, CONNECTIONS, length);
            let started: Vec<_> = pairs.into_iter().map(|pair| scope.spawn(move || run(pair))).collect();
            let died = |_| Err(io::Error::other("a thread of the driver panicked"));
            started.into_iter().map(|quarter| quarter.join().unwrap_or_else(died)).collect()
        });
        loads.into_iter().try_fold(0, |sum, load| Ok(sum + load?.requests))
    }
}

/// Asks over so many connections that every core has seen the object.
fn warm(product: &Aspis, body: &Arc<Vec<u8>>) -> io::Result<()> {
    for round in 0..WARM_ROUNDS {
        let seen = crowd::play(product.address, vec![Ask::now(PATH, body); WARMERS], || {})?;
        if let Some(fault) = seen.iter().find_map(|each| each.fault.as_deref()) {
            return Err(io::Error::other(format!("warming: {fault}")));
        }
        if round + 1 == WARM_ROUNDS && seen.iter().any(|each| each.result != "Hit") {
            return Err(io::Error::other("a warm object is no hit everywhere"));
        }
    }
    Ok(())
}

impl Stage {
    /// Starts a server with one core on `cpu`.
    fn one_core(&self, origin: &Script, cpu: usize) -> io::Result<Aspis> {
        Aspis::start(&self.program, origin.address(), Some(cpu), &["--cores", "1", "--memory", "256MiB"])
    }
}
