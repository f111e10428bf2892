//! A scan: every object once, from a handful of viewers, until so many bytes went through.

use super::origin::{FastOrigin, byte};
use super::sizes::Sizes;
use super::{Options, USE_MIN, judge, mib, private, samples, tell_purposes};
use crate::aspis::{Aspis, sum};
use crate::http::{Fault, Flow, Reader};
use crate::{process, wait};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Viewers that ask at the same time.
const VIEWERS: usize = 16;
/// The seed of the lengths.
const SEED: u64 = 7;
/// How often the use of the arena is asked for.
const LOOK: Duration = Duration::from_secs(1);
/// Faults that are told one by one.
const FAULTS_MAX: usize = 10;

/// Runs the scan; false when a bound does not hold or an answer is wrong.
pub(super) fn run(options: &Options) -> io::Result<bool> {
    let Some(file) = &options.sizes else {
        return Err(io::Error::other(
            "--sizes FILE is missing: a histogram with valSizeRange and valSizeRangeProbability",
        ));
    };
    let sizes = Sizes::read(file)?;
    let origin = FastOrigin::start(sizes.longest())?;
    let (memory, cores) = (options.limit.to_string(), options.cores.to_string());
    let flags = ["--memory", &memory, "--cores", &cores];
    let product =
        Aspis::start(&process::find_aspis(options.aspis.as_deref())?, origin.address, None, &flags)?;
    wait::pause(Duration::from_secs(1));
    let at_rest = private(&product.server);

    let (over, asked, sent) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let faults: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let start = Instant::now();
    let (seen, uses) = thread::scope(|scope| {
        let sampler = scope.spawn(|| samples(&product, &over));
        let looker = scope.spawn(|| uses(&product, options, &sent, &over));
        let viewers: Vec<_> = (0..VIEWERS)
            .map(|_| {
                scope.spawn(|| {
                    let fault = view(product.address, &sizes, options.total, (&asked, &sent));
                    if let Err(fault) = fault {
                        faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(fault);
                    }
                })
            })
            .collect();
        let ended = viewers.into_iter().all(|viewer| viewer.join().is_ok());
        over.store(true, Ordering::SeqCst);
        (sampler.join().unwrap_or_default(), looker.join().unwrap_or_default().filter(|_| ended))
    });
    let seconds = start.elapsed().as_secs_f64();

    let (asked, sent) = (asked.into_inner(), sent.into_inner());
    println!(
        "scan of {:.2} GiB, {asked} objects, {seconds:.0} s, {} origin requests",
        mib(sent) / 1024.0,
        origin.requests()
    );
    let held = judge("scan", options, at_rest, &seen);
    tell_purposes(&product)?;
    let filled = uses.is_some_and(|uses| uses >= USE_MIN);
    match uses {
        Some(uses) => println!(
            "arena use at steady state: {:.1} % of its capacity, at least {:.0} %",
            uses * 100.0,
            USE_MIN * 100.0
        ),
        None => println!("the scan was too short to fill the arena: at least 3 times the limit is needed"),
    }
    let faults = faults.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    faults.iter().take(FAULTS_MAX).for_each(|fault| println!("wrong: {fault}"));
    Ok(held && filled && faults.is_empty())
}

/// Returns the median part of the arena that content held once twice the limit had gone through.
fn uses(product: &Aspis, options: &Options, sent: &AtomicU64, over: &AtomicBool) -> Option<f64> {
    let mut uses = Vec::new();
    while !over.load(Ordering::SeqCst) {
        wait::pause(LOOK);
        if sent.load(Ordering::Relaxed) < 2 * options.limit {
            continue;
        }
        let Ok(metrics) = product.metrics() else { continue };
        let limbo = sum(&metrics, "aspis_cache_limbo_bytes").unwrap_or(0.0);
        let held = sum(&metrics, "aspis_arena_held_bytes").map(|held| (held - limbo).max(0.0));
        let capacity = sum(&metrics, "aspis_arena_capacity_bytes").filter(|capacity| *capacity > 0.0);
        uses.extend(held.zip(capacity).map(|(held, capacity)| held / capacity));
    }
    uses.sort_by(f64::total_cmp);
    uses.get(uses.len() / 2).copied()
}

/// Asks for one object after another until enough went through.
fn view(
    address: SocketAddr,
    sizes: &Sizes,
    total: u64,
    (asked, sent): (&AtomicU64, &AtomicU64),
) -> Result<(), String> {
    let lost = |error: io::Error| error.to_string();
    let mut reader = Reader::connect(address, Duration::from_secs(30)).map_err(lost)?;
    while sent.load(Ordering::Relaxed) < total {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        let length = sizes.length(SEED, number);
        let request = format!("GET /{length}/{number} HTTP/1.1\r\nHost: bench\r\nAccept: image/webp\r\n\r\n");
        reader.stream().write_all(request.as_bytes()).map_err(lost)?;
        let named = |fault: Fault| format!("object {number} of {length} B: {fault:?}");
        let head = reader.head().map_err(named)?;
        let mut wrong = None;
        let got = reader
            .content(&head, |at, piece| {
                // The edges of each piece: a block in the wrong place shows there, and the driver must not cost more than the server.
                let last = at + piece.len() as u64 - 1;
                if piece.first() != Some(&byte(at)) || piece.last() != Some(&byte(last)) {
                    wrong = wrong.or(Some(at));
                }
                Flow::Continue
            })
            .map_err(named)?;
        if head.status().map_err(named)? != 200 || got != length || wrong.is_some() {
            return Err(format!(
                "object {number} of {length} B: {}, {got} B, wrong at {wrong:?}",
                head.start_line
            ));
        }
        sent.fetch_add(length, Ordering::Relaxed);
    }
    Ok(())
}
