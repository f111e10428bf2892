//! A stream of invalidations while hits are served: none may be lost, memory stays where it is, and hits stay quick.
//!
//! Paths, prefixes that match little, and tags that nothing has, some of them waited for. Afterwards every path that was named must have the new
//! version, and what was not named the old one.

use std::collections::HashSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::admin::Admin;
use crate::aspis::Aspis;
use crate::memory;
use crate::random::Random;
use crate::wait;

use super::effect::{gauge, hot, p99, quiet, settled};
use super::origin::VersionOrigin;
use super::viewer::Viewer;
use super::{Options, figure, mib, object};

/// Connections that invalidate.
const SENDERS: u64 = 8;
/// One in so many waits until its own is completed, and looks at once.
const WAITED: u64 = 50;
/// Most times that hits may be slower meanwhile, p99.
const SLOWER_MAX: f64 = 1.5;
/// Most that private memory may grow, in MiB: the rules of all cores, the registry's list, and what the allocator keeps.
const GROWTH_MAX: f64 = 96.0;
/// Rules that are pending for longer afterwards are stuck.
const SETTLE_MAX: Duration = Duration::from_secs(120);
/// Objects that nobody named, which are looked at.
const LEFT_COUNT: usize = 1000;

pub(super) fn run(
    server: &Aspis,
    origin: &VersionOrigin,
    options: &Options,
    objects: u64,
) -> io::Result<bool> {
    println!("\nrate: {} invalidations a second for {} s", options.rate, options.seconds);
    println!("| figure | measured | at most | |\n|---|---|---|---|");
    if !wait::until(SETTLE_MAX, || settled(server).unwrap_or(false)) {
        return Err(io::Error::other("rules of before are still pending"));
    }
    let quiet = quiet(server)?;
    let memory = || memory::private(&server.server);
    let (before, version) = (memory(), origin.change());
    let (mut named, mut most, mut late) = (HashSet::new(), 0_u64, Duration::ZERO);
    let hits = hot(server, || {
        let sent: Vec<io::Result<Sent>> = thread::scope(|scope| {
            let senders: Vec<_> = (0..SENDERS)
                .map(|number| scope.spawn(move || send(server, options, objects, number, version)))
                .collect();
            while senders.iter().any(|sender| !sender.is_finished()) {
                most = most.max(memory());
                wait::pause(Duration::from_millis(100));
            }
            let panicked = |_| Err(io::Error::other("a sender panicked"));
            senders.into_iter().map(|sender| sender.join().unwrap_or_else(panicked)).collect()
        });
        for sent in sent {
            let sent = sent?;
            named.extend(sent.named);
            late = late.max(sent.late);
        }
        Ok(())
    })?;
    println!("| latest sender behind its schedule | {:.0} ms | | |", late.as_secs_f64() * 1e3);
    let mut held =
        figure(&format!("hot p99 meanwhile, of {quiet:.0} us"), p99(&hits) / quiet, "x", SLOWER_MAX);
    held &= figure("growth of private memory", mib(most.saturating_sub(before)), "MiB", GROWTH_MAX);
    // The last ones were not waited for: they are in force once as many are applied as were accepted.
    let applied = || -> io::Result<bool> {
        Ok(gauge(server, "aspis_invalidation_number_applied")? >= gauge(server, "aspis_invalidation_number")?)
    };
    if !wait::until(SETTLE_MAX, || applied().unwrap_or(false)) {
        return Err(io::Error::other("not all that was accepted is applied"));
    }
    let mut viewer = Viewer::connect(server.address)?;
    let mut lost = 0;
    for number in &named {
        lost += u64::from(viewer.ask(&object(*number))? < version);
    }
    let left: Vec<u64> = (0..objects).filter(|number| !is_named(*number, &named)).take(LEFT_COUNT).collect();
    let mut extra = 0;
    for number in &left {
        extra += u64::from(viewer.ask(&object(*number))? >= version);
    }
    held &= figure(&format!("rules lost, of {} paths", named.len()), lost as f64, "", 0.0);
    held &= figure(&format!("objects gone that nobody named, of {}", left.len()), extra as f64, "", 0.0);
    let all_settled = wait::until(SETTLE_MAX, || settled(server).unwrap_or(false));
    println!(
        "| rules still pending at the end | {} | | |",
        gauge(server, "aspis_invalidation_rules_pending")?
    );
    Ok(held && all_settled)
}

/// What one connection sent.
struct Sent {
    named: Vec<u64>,
    late: Duration,
}

/// Tells whether an object may have been named, by its own path or by the digits that it begins with and a wildcard.
fn is_named(number: u64, named: &HashSet<u64>) -> bool {
    std::iter::successors(Some(number), |number| Some(number / 10).filter(|rest| *rest > 0))
        .any(|front| named.contains(&front))
}

fn send(server: &Aspis, options: &Options, objects: u64, sender: u64, version: u64) -> io::Result<Sent> {
    let mut random = Random::new(sender);
    let mut admin = Admin::connect(server.admin)?;
    let mut viewer = Viewer::connect(server.address)?;
    let (began, mut sent) = (Instant::now(), Sent { named: Vec::new(), late: Duration::ZERO });
    let count = options.rate * options.seconds / SENDERS;
    for at in 0..count {
        let due = Duration::from_micros(at * SENDERS * 1_000_000 / options.rate);
        match due.checked_sub(began.elapsed()) {
            Some(early) => wait::pause(early),
            None => sent.late = sent.late.max(began.elapsed() - due),
        }
        let number = random.between(0, objects - 1);
        let (path, waits) = (object(number), at % WAITED == 0);
        let document = match random.between(0, 3) {
            _ if waits => json!({ "paths": [path] }),
            0 => json!({ "tags": [format!("none-{number}"), format!("none-{at}")] }),
            1 => json!({ "paths": [format!("{path}*")] }),
            _ => json!({ "paths": [path, format!("/none/{number}")] }),
        };
        admin.invalidate(&document, waits)?;
        if document.get("paths").is_some() {
            sent.named.push(number);
        }
        if waits && viewer.ask(&path)? < version {
            return Err(io::Error::other(format!("{path} is old after its invalidation was completed")));
        }
    }
    Ok(sent)
}
