//! The 99th percentile of small hits from memory while the whole store is read on the same core as fast as it comes, beside what it is without that.

use super::{CPUS, Options, SIZE};
use crate::aspis::{Aspis, sum};
use crate::fair::{self, Base};
use crate::peers::cell::Cell;
use crate::peers::fill::{self, Body};
use crate::process::Server;
use crate::stats::Spread;
use crate::viewer;
use crate::wait;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// Viewers of the small object, which is stored beside the cold ones.
const SMALL_SIZE: u64 = 1024;
const RATE: u32 = 2_000;
/// Readers of the cold scan.
const SCANNERS: u32 = 8;
/// By how much the scan may slow hot hits.
const HOT_RATIO_MAX: f64 = 2.0;
/// A scan begins so long before hot hits are measured beside it.
const UNFOLD: Duration = Duration::from_millis(500);

/// Measures hot hits without and with the scan beside them; false when they wait too long.
pub(super) fn run(options: &Options, server: &Aspis) -> io::Result<bool> {
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
pub(super) fn part(words: &[String]) -> io::Result<()> {
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
    use crate::origin::Origin;

    #[test]
    fn a_scan_asks_for_everything_from_several_places() {
        let origin = Origin::start().unwrap();
        let words = [origin.address().to_string(), "16".to_owned(), "0.3".to_owned()];
        part(&words).unwrap();
        assert!(origin.requests() >= 16, "{}", origin.requests());
        assert!(part(&words[..2]).is_err());
    }
}
