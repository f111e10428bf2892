//! What does a hit cost that comes from the disk, and who else pays for it?
//!
//! `cost`: server CPU of a 64 KiB hit that comes from disk, in rounds of which each measures all: one server that copies what it reads into memory, one that
//! sends it from the page cache through its mapping, nginx with its own disk cache whose files are in the page cache too, and a hit from memory.
//! Everything is asked for in turn, so that memory, a tenth of it all, is of little help; what it helps is told. `hot`: the 99th percentile of small hits from memory while the whole store is read on the same core
//! as fast as it comes, beside what it is without that.

use crate::aspis::{Aspis, sample, sum};
use crate::fair::{self, Base};
use crate::origin::Origin;
use crate::peers::arms::{self, Arm, Program, Running, Site};
use crate::peers::cell::Cell;
use crate::peers::fill::{self, Body};
use crate::peers::wrk::{Script, Wrk};
use crate::process::{self, Scratch, Server};
use crate::stats::Spread;
use crate::viewer;
use crate::wait;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

pub(crate) mod read;

/// The CPU of the servers, and that of all others.
const CPUS: (usize, usize) = (0, 1);
const SIZE: u64 = 64 * 1024;
/// Viewers of the small object, which is stored beside the cold ones.
const SMALL_SIZE: u64 = 1024;
const RATE: u32 = 2_000;
/// Readers of the cold scan.
const SCANNERS: u32 = 8;
/// What is stored is written by then.
const WRITTEN_MAX: Duration = Duration::from_secs(120);
/// Times that everything is asked for until it is in the store.
const PASSES: usize = 6;
/// Of so many objects one may not be in the store: two in the same place of an index take turns.
const OBJECTS_PER_LOST: u64 = 200;
/// Less of the requests from disk, and the rounds are about something else.
const DISK_SHARE_MIN: f64 = 0.75;
/// Times that everything is asked for until it is sent from the page cache.
const MAPPED_PASSES: usize = 20;
/// A hit from the page cache costs at most what nginx takes.
const NGINX_RATIO_MAX: f64 = 1.0;
/// What reading and checking may add to a hit, in microseconds.
const READ_COST_MAX: f64 = 25.0;
/// By how much the scan may slow hot hits.
const HOT_RATIO_MAX: f64 = 2.0;
/// A scan begins so long before hot hits are measured beside it.
const UNFOLD: Duration = Duration::from_millis(500);
const HITS: &str = "aspis_disk_lookups_total{answer=\"hit\"}";
const MAPPED: &str = "aspis_disk_mapped_total{event=\"sent\"}";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) objects: u64,
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
    /// Connections that ask for what is cold.
    pub(crate) connections: u32,
    /// Where the store is; `None` for the temporary files.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) aspis: Option<String>,
}

/// Measures both; false when a figure is out of bounds.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let program = process::find_aspis(options.aspis.as_deref())?;
    let folder = Scratch::of_state("cold", options.folder.as_deref())?;
    let origin = Origin::start()?;
    let cell = Cell::plain(SIZE, options.connections);
    let objects: Vec<u32> = (0..options.objects as u32).collect();
    let mapped_len = (options.objects * SIZE * 2).to_string();
    let start = |name: &str, mapped: &str| {
        let disk = folder.path().join(name).display().to_string();
        let disk_size = (options.objects * SIZE * 2).max(512 << 20).to_string();
        let memory = (options.objects * SIZE / 10).max(64 << 20).to_string();
        let mut flags = vec!["--cores", "1", "--memory", &memory, "--disk", &disk, "--disk-size", &disk_size];
        flags.extend(["--disk-mapped", mapped]);
        let server = Aspis::start(&program, origin.address(), Some(CPUS.0), &flags)?;
        store(&server, &origin, &cell, &objects)?;
        Ok::<_, io::Error>(server)
    };
    let copying = start("copying", "0")?;
    let mapping = start("mapping", &mapped_len)?;
    map(&mapping, &cell, &objects)?;
    let cost = cost(options, (&copying, &mapping), &origin, &cell, &objects)?;
    drop(mapping);
    let hot = hot(options, &copying)?;
    Ok(cost && hot)
}

/// Asks for everything until it is sent from the page cache, but for what memory has.
fn map(server: &Aspis, cell: &Cell, objects: &[u32]) -> io::Result<()> {
    let mut share = 0.0;
    for _ in 0..MAPPED_PASSES {
        let sent = || -> io::Result<f64> { Ok(sample(&server.metrics()?, MAPPED).unwrap_or(0.0)) };
        let before = sent()?;
        fill::fetch_all(server.address, Body::Planned, objects, |object| cell.plan(object))?;
        share = (sent()? - before) / objects.len() as f64;
        if share >= DISK_SHARE_MIN {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("only {share:.2} of the requests are sent from the page cache")))
}

/// Has everything in the store, and nothing waiting to be written.
pub(crate) fn store(server: &Aspis, origin: &Origin, cell: &Cell, objects: &[u32]) -> io::Result<()> {
    let mut asked = 0;
    for _ in 0..PASSES {
        let before = origin.requests();
        // In parts, so that what waits to be written stays less than is refused.
        for part in objects.chunks(500) {
            fill::fetch_all(server.address, Body::Planned, part, |object| cell.plan(object))?;
            server.written(WRITTEN_MAX)?;
        }
        asked = origin.requests() - before;
        if asked * OBJECTS_PER_LOST <= objects.len() as u64 {
            return Ok(());
        }
    }
    Err(io::Error::other(format!("{asked} of {} objects are not in the store", objects.len())))
}

/// CPU of one request, and the part of them that came from disk.
#[derive(Clone, Copy, Debug)]
struct Cost {
    micros: f64,
    from_disk: f64,
    per_second: f64,
}

fn cost(
    options: &Options,
    (copying, mapping): (&Aspis, &Aspis),
    origin: &Origin,
    cell: &Cell,
    objects: &[u32],
) -> io::Result<bool> {
    let wrk = Wrk::find()?;
    let paths: Vec<String> = objects.iter().map(|object| cell.plan(*object).to_string()).collect();
    let (all, one) = (wrk.script(&paths, 1)?, wrk.script(&paths[..1], 1)?);
    let scratch = Scratch::new()?;
    let nginx = match Program::find(Arm::Nginx, None) {
        Ok(program) => {
            let site = Site { scratch: &scratch, core: CPUS.0, origin: origin.address(), cell };
            let running = arms::start(&program, site)?;
            fill::fetch_all(running.address, Body::Planned, objects, |object| cell.plan(object))?;
            Some(running)
        }
        Err(error) => {
            println!("without nginx: {error}");
            None
        }
    };
    let load = |address: SocketAddr, script: &Script, arm: Measured<'_>| -> io::Result<Cost> {
        let used = || match arm {
            Measured::Aspis(server, _) => server.server.cpu(),
            Measured::Peer(peer) => peer.cpu(),
        };
        let hits = || -> io::Result<f64> {
            let Measured::Aspis(server, metric) = arm else { return Ok(0.0) };
            Ok(sample(&server.metrics()?, metric).unwrap_or(0.0))
        };
        let (before, hits_before, asked) = (used(), hits()?, origin.requests());
        let load = wrk.run(CPUS.1, address, script, options.connections, options.length)?;
        let (took, from_disk) = (used() - before, hits()? - hits_before);
        let misses = origin.requests() - asked;
        if misses * OBJECTS_PER_LOST > load.requests {
            return Err(io::Error::other(format!("{misses} of {} requests were misses", load.requests)));
        }
        let requests = load.requests.max(1) as f64;
        Ok(Cost {
            micros: took.as_secs_f64() * 1e6 / requests,
            from_disk: from_disk / requests,
            per_second: load.per_second,
        })
    };
    let (mut cold, mut mapped, mut warm, mut peer) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        cold.push(load(copying.address, &all, Measured::Aspis(copying, HITS))?);
        mapped.push(load(mapping.address, &all, Measured::Aspis(mapping, MAPPED))?);
        warm.push(load(copying.address, &one, Measured::Aspis(copying, HITS))?);
        if let Some(nginx) = &nginx {
            peer.push(load(nginx.address, &all, Measured::Peer(nginx))?);
        }
    }
    println!(
        "\n| 64 KiB, {} connections, {} rounds | CPU us/request | from disk | requests/s |",
        options.connections, options.rounds
    );
    println!("|---|---|---|---|");
    println!("{}\n{}", row("read and copied into memory", &cold), row("from the mapping", &mapped));
    println!("{}", row("from memory", &warm));
    if !peer.is_empty() {
        println!("{}", row("nginx, files in the page cache", &peer));
    }
    let cold = from_disk(&cold, &warm)?;
    let mapped = from_disk(&mapped, &warm)?;
    let spread = |values: Vec<f64>| Spread::of(&values).ok_or_else(|| io::Error::other("no rounds"));
    let read = spread(cold.iter().zip(&warm).map(|(each, warm)| each - warm.micros).collect())?;
    println!("reading, checking and copying add {} us to a hit, at most {READ_COST_MAX}", read.show(1));
    let mut is_held = read.median <= READ_COST_MAX;
    if !peer.is_empty() {
        let by_peer =
            |each: &[f64]| spread(each.iter().zip(&peer).map(|(each, peer)| each / peer.micros).collect());
        println!("CPU of a hit that is copied by nginx's: {}", by_peer(&cold)?.show(3));
        let ratio = by_peer(&mapped)?;
        println!("CPU of a hit from the mapping by nginx's: {}, at most {NGINX_RATIO_MAX}", ratio.show(3));
        is_held &= ratio.median <= NGINX_RATIO_MAX;
    }
    Ok(is_held)
}

/// Whose CPU is measured, and the metric that says which requests came from disk.
#[derive(Clone, Copy)]
enum Measured<'m> {
    Aspis(&'m Aspis, &'static str),
    Peer(&'m Running),
}

/// What a request from disk took in each round: of the others each cost what a hit from memory costs.
fn from_disk(costs: &[Cost], warm: &[Cost]) -> io::Result<Vec<f64>> {
    let shares: Vec<f64> = costs.iter().map(|cost| cost.from_disk).collect();
    let share = Spread::of(&shares).ok_or_else(|| io::Error::other("no rounds"))?.median;
    if share < DISK_SHARE_MIN {
        return Err(io::Error::other(format!("only {share:.2} of the requests came from disk")));
    }
    let each = |(cost, warm): (&Cost, &Cost)| {
        (cost.micros - warm.micros * (1.0 - cost.from_disk).max(0.0)) / cost.from_disk.max(f64::MIN_POSITIVE)
    };
    Ok(costs.iter().zip(warm).map(each).collect())
}

fn row(name: &str, costs: &[Cost]) -> String {
    let cell = |figure: fn(&Cost) -> f64, digits| Spread::show_of(costs, figure, digits);
    let (micros, share) = (cell(|cost| cost.micros, 1), cell(|cost| cost.from_disk, 2));
    format!("| {name} | {micros} | {share} | {} |", cell(|cost| cost.per_second, 0))
}

/// Hot hits without and with the scan beside them.
fn hot(options: &Options, server: &Aspis) -> io::Result<bool> {
    let own = std::env::current_exe()?;
    let small = Cell::plain(SMALL_SIZE, 1);
    fill::fetch_all(server.address, Body::Planned, &[0], |object| small.plan(object))?;
    let base = |length| Base {
        address: server.address,
        path: small.plan(0).to_string(),
        connections: fair::CONNECTIONS,
        rate: RATE,
        length,
    };
    // What a process does for the first time is no part of either.
    fair::measure(&own, &base(Duration::from_secs(1)))?;
    let read = || -> io::Result<f64> {
        sum(&server.metrics()?, "aspis_disk_read_bytes_total").ok_or_else(|| io::Error::other("no metric"))
    };
    println!(
        "\n| hot hits, {RATE}/s | p50 us | p99 us | p50 beside the scan | p99 beside the scan | ratio | read MiB/s |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut ratios = Vec::new();
    for _ in 0..options.rounds {
        let alone = fair::measure(&own, &base(options.length))?;
        let scan = Scan::start(server.address, options.objects, UNFOLD + options.length)?;
        wait::pause(UNFOLD);
        let (before, began) = (read()?, Instant::now());
        let beside = fair::measure(&own, &base(options.length))?;
        let speed = (read()? - before) / f64::from(1 << 20) / began.elapsed().as_secs_f64();
        drop(scan);
        let ratio = beside.p99 / alone.p99;
        println!(
            "| | {:.0} | {:.0} | {:.0} | {:.0} | {ratio:.2} | {speed:.0} |",
            alone.p50, alone.p99, beside.p50, beside.p99
        );
        if speed < 1.0 {
            return Err(io::Error::other("the scan has read nothing"));
        }
        ratios.push(ratio);
    }
    let ratio = Spread::of(&ratios).ok_or_else(|| io::Error::other("no rounds"))?;
    println!("p99 beside the scan by p99 without: {}, at most {HOT_RATIO_MAX}", ratio.show(2));
    Ok(ratio.median <= HOT_RATIO_MAX)
}

/// Readers of the whole store in a process of their own, at the worst priority, on the CPU of the others.
struct Scan {
    _process: Server,
}

impl Scan {
    fn start(address: SocketAddr, objects: u64, length: Duration) -> io::Result<Self> {
        let words = ["cold-part", &address.to_string(), &objects.to_string()].map(str::to_owned);
        let words = [words.as_slice(), &[length.as_secs_f64().to_string()]].concat();
        let mut process = Server::start_beside("scan", &words, CPUS.1)?;
        process.announced("scans ")?;
        Ok(Self { _process: process })
    }
}

/// What the process of a scan does: address, objects, seconds.
pub(crate) fn part(words: &[String]) -> io::Result<()> {
    let wrong = || io::Error::other("expected: ADDRESS OBJECTS SECONDS");
    let [address, objects, seconds] = words else { return Err(wrong()) };
    let address: SocketAddr = address.parse().map_err(|_| wrong())?;
    let objects: u32 = objects.parse().map_err(|_| wrong())?;
    let seconds: f64 = seconds.parse().map_err(|_| wrong())?;
    let end = Instant::now() + Duration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
    println!("scans {address}");
    thread::scope(|scope| {
        let scanners: Vec<_> = (0..SCANNERS)
            .map(|number| scope.spawn(move || scan(address, objects, objects / SCANNERS * number, end)))
            .collect();
        let died = |_| Err(io::Error::other("a scanner's thread panicked"));
        scanners.into_iter().try_for_each(|scanner| scanner.join().unwrap_or_else(died))
    })
}

/// Asks for one object after the other, and looks at none of the bytes.
fn scan(address: SocketAddr, objects: u32, first: u32, end: Instant) -> io::Result<()> {
    let cell = Cell::plain(SIZE, 1);
    let mut object = first;
    let next = || {
        let plan = cell.plan(object);
        object = (object + 1) % objects.max(1);
        (plan, None)
    };
    viewer::steadily(address, next, end, Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_asks_for_everything_from_several_places() {
        let origin = Origin::start().unwrap();
        let words = [origin.address().to_string(), "16".to_owned(), "0.3".to_owned()];
        part(&words).unwrap();
        assert!(origin.requests() >= 16, "{}", origin.requests());
        assert!(part(&words[..2]).is_err());
    }
}
