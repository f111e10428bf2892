//! Crowds before one cold object: how often the origin is asked, what the server's memory does, and when the last viewer has everything.

use super::crowd::{self, Ask, Seen};
use super::script::{Answer, Script};
use super::{Figure, Stage, metric};
use crate::aspis::Aspis;
use crate::content::Content;
use crate::{process, wait};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What every answer here says about its storing.
const FRESH: &str = "Cache-Control: public, max-age=3600\r\nETag: \"one\"\r\n";
/// Memory that each waiting and then reading viewer may take beyond its idle connection, when the body is there once. The body itself has
/// eight times as much.
const VIEWER_LEN_MAX: u64 = 8 << 10;
/// What may be stored beside the content of one body: its head, and the rounding of blocks.
const STORED_SLACK: u64 = 8 << 10;

/// 1,000 viewers for 1 MiB that begins after a second.
pub(super) fn thousand(stage: &Stage) -> io::Result<Vec<Figure>> {
    let crowd = Crowd { viewers: 1_000, size: 1 << 20, origin_time: Duration::from_secs(1) };
    let outcome = crowd.play(stage)?;
    let mut figures = outcome.common(&crowd);
    figures.push(Figure::told("the last viewer has everything after", format!("{:.2} s", outcome.last)));
    Ok(figures)
}

/// 10,000 viewers for 64 KiB that come after two seconds.
pub(super) fn ten_thousand(stage: &Stage) -> io::Result<Vec<Figure>> {
    let crowd = Crowd { viewers: 10_000, size: 64 << 10, origin_time: Duration::from_secs(2) };
    let outcome = crowd.play(stage)?;
    let mut figures = outcome.common(&crowd);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let most = crowd.origin_time.as_secs_f64() * 1.5;
    figures.push(Figure::at_most("the last viewer has everything after", outcome.last, most, "s"));
    figures
        .push(Figure::told("memory of the idle connections", format!("{:.1} MiB", mib(outcome.connections))));
    let what = "growth of peak memory beyond that";
    let most = crowd.size as u64 + crowd.viewers as u64 * VIEWER_LEN_MAX;
    figures.push(Figure::at_most(what, mib(outcome.growth), mib(most), "MiB"));
    // One body with its head and its rounding, which is all that is kept.
    let most = mib(crowd.size as u64 + STORED_SLACK);
    let stored = mib(outcome.stored as u64);
    figures.push(Figure::at_most("stored afterwards", stored, most, "MiB"));
    figures.push(Figure::at_least("the same", stored, mib(crowd.size as u64), "MiB"));
    Ok(figures)
}

struct Crowd {
    viewers: usize,
    size: usize,
    origin_time: Duration,
}

struct Outcome {
    seen: Vec<Seen>,
    origin_requests: u64,
    /// Seconds from the first request to the last byte.
    last: f64,
    /// Bytes of resident memory that connecting took.
    connections: u64,
    /// Bytes of resident memory at its peak beyond that.
    growth: u64,
    /// Content bytes stored afterwards.
    stored: f64,
    /// Seconds from the first request to the first byte of any content.
    first: f64,
    /// Seconds of CPU from when all were connected.
    server_cpu: f64,
    driver_cpu: f64,
}

impl Crowd {
    fn play(&self, stage: &Stage) -> io::Result<Outcome> {
        let path = "/cold";
        let mut body = vec![0; self.size];
        Content::of(path).fill(0, &mut body);
        let body = Arc::new(body);
        let (content, origin_time) = (Arc::clone(&body), self.origin_time);
        let origin = Script::start(move |_, _| Answer::whole(FRESH, &content, origin_time))?;
        let product = stage.server(&origin, &[])?;
        let before = product.server.status_bytes("VmRSS");
        let mut connected = before;
        let mut cpu = (Duration::ZERO, Duration::ZERO);
        let asks = vec![Ask::now(path, &body); self.viewers];
        let seen = crowd::play(product.address, asks, || {
            connected = product.server.status_bytes("VmRSS");
            // What cannot be reset is counted as growth, which is on the safe side.
            drop(product.server.reset_peak());
            cpu = (product.server.cpu(), process::own_cpu());
        })?;
        let used = (product.server.cpu().saturating_sub(cpu.0), process::own_cpu().saturating_sub(cpu.1));
        let start = seen.iter().map(|each| each.asked).min().unwrap_or_else(Instant::now);
        let end = seen.iter().map(|each| each.done).max().unwrap_or(start);
        let first = seen.iter().filter_map(|each| each.first).min().unwrap_or(end);
        Ok(Outcome {
            origin_requests: origin.count(path),
            last: end.duration_since(start).as_secs_f64(),
            connections: connected.saturating_sub(before),
            growth: product.server.status_bytes("VmHWM").saturating_sub(connected),
            first: first.duration_since(start).as_secs_f64(),
            server_cpu: used.0.as_secs_f64(),
            driver_cpu: used.1.as_secs_f64(),
            stored: stored(&product)?,
            seen,
        })
    }
}

/// Returns the content bytes that are stored; the gauge follows within a second or so.
fn stored(product: &Aspis) -> io::Result<f64> {
    let mut bytes = Ok(0.0);
    wait::until(Duration::from_secs(3), || {
        bytes = metric(product, "aspis_cache_body_bytes");
        !matches!(bytes, Ok(0.0))
    });
    bytes
}

impl Outcome {
    /// The figures of any crowd. C-4: one Miss leads, all others are Hits.
    fn common(&self, crowd: &Crowd) -> Vec<Figure> {
        let with = |result: &str| self.seen.iter().filter(|each| each.result == result).count() as u64;
        vec![
            Figure::exactly("origin requests", self.origin_requests, 1),
            Figure::faults(&self.seen),
            Figure::exactly("viewers with a Miss", with("Miss"), 1),
            Figure::exactly("viewers with a Hit", with("Hit"), crowd.viewers as u64 - 1),
            Figure::told("the first viewer has its first byte after", format!("{:.2} s", self.first)),
            Figure::told("CPU time of the server", format!("{:.2} s", self.server_cpu)),
            Figure::told("CPU time of the driver, on one thread", format!("{:.2} s", self.driver_cpu)),
        ]
    }
}
