//! How long a miss takes on a server that was asleep: one viewer, one request at a time, with pauses in which every tick runs out.

use crate::aspis::Aspis;
use crate::http::Reader;
use crate::origin::Origin;
use crate::plan::{Kind, Plan};
use crate::process;
use crate::random::Random;
use crate::stats::quantile;
use crate::viewer::{self, Body};
use crate::wait;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Most that the median of the misses may take.
const P50_MAX: Duration = Duration::from_millis(1);
/// Pauses between requests, in milliseconds: around and beyond the longest tick of a core.
const PAUSES: (u64, u64) = (20, 120);

/// Measures `count` misses and, for comparison, as many requests to the origin itself; false when the median is over the bound.
pub(crate) fn run(count: usize, aspis: Option<&str>) -> io::Result<bool> {
    let origin = Origin::start()?;
    let product = Aspis::start(&process::find_aspis(aspis)?, origin.address(), None, &["--cores", "1"])?;
    let through = measure(product.address, count, 1)?;
    let direct = measure(origin.address(), count, 2)?;
    println!(
        "| {count} sequential requests, asleep between | p50 us | p90 us | p99 us | worst us |\n|---|---|---|---|---|"
    );
    for (name, times) in [("a miss through Aspis", &through), ("the origin itself", &direct)] {
        let at = |share| quantile(times, share).unwrap_or(f64::NAN);
        println!("| {name} | {:.0} | {:.0} | {:.0} | {:.0} |", at(0.5), at(0.9), at(0.99), at(1.0));
    }
    let median = quantile(&through, 0.5).unwrap_or(f64::NAN);
    println!("\nBound: p50 of a miss below {} us.", P50_MAX.as_micros());
    Ok(median < P50_MAX.as_secs_f64() * 1e6)
}

/// Returns the sorted times of `count` distinct requests in microseconds.
fn measure(address: SocketAddr, count: usize, seed: u64) -> io::Result<Vec<f64>> {
    let mut random = Random::new(seed);
    let mut reader = Reader::connect(address, Duration::from_secs(10))?;
    let mut times = Vec::with_capacity(count);
    // The first request opens the connection to the origin and is not counted.
    for id in 0..=count as u64 {
        wait::pause(Duration::from_millis(random.between(PAUSES.0, PAUSES.1)));
        let plan = Plan { kind: Kind::Private, size: 1024, seed, id };
        let start = Instant::now();
        let fetched = viewer::fetch(&mut reader, "bench", (plan, None), Body::Planned);
        fetched.map_err(|fault| io::Error::other(format!("{plan}: {fault:?}")))?;
        if id != 0 {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}
