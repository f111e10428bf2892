//! A stream of invalidations while hits are served: none may be lost, memory stays where it is, and hits stay quick.
//!
//! Paths, prefixes that match little, and tags that nothing has, some of them waited for. Afterwards every path that was named must have the new
//! version, and what was not named the old one.
//!
//! What hits pay is the ratio of loads that take turns: hits beside senders who address the admin port, and hits beside nothing at all. That ratio has
//! the bound. It counts the senders' own work against the product, since they share the processors with who is measured, which an operator's callers do
//! not. A third load tells how much that is: the same senders before a stub that answers as the admin port does without doing anything. Beside them hits may
//! be quicker than beside nothing, because processors that are kept awake are. Which load comes first changes from round to round.

use std::collections::HashSet;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::admin::Admin;
use crate::aspis::Aspis;
use crate::http;
use crate::memory;
use crate::random::Random;
use crate::stats::Spread;
use crate::wait;

use super::effect::settled;
use super::hot::{Hot, p99};
use super::origin::VersionOrigin;
use super::viewer::Viewer;
use super::{Options, figure, mib, object};

/// Connections that invalidate.
const SENDERS: u64 = 8;
/// One in so many waits until its own is completed, and looks at once.
const WAITED: u64 = 50;
/// Times that each load is measured.
const ROUNDS: u64 = 5;
/// Most times that hits may be slower meanwhile than beside nothing, p99.
const SLOWER_MAX: f64 = 1.5;
/// Least share of the wanted rate that must be reached for the run to tell something.
const RATE_SHARE_MIN: f64 = 0.95;
/// Most that private memory may grow, in MiB: the rules of all cores, the registry's list, and what the allocator keeps.
const GROWTH_MAX: f64 = 96.0;
/// Rules that are pending for longer afterwards are stuck.
const SETTLE_MAX: Duration = Duration::from_secs(120);
/// Objects that nobody named, which are looked at.
const LEFT_COUNT: usize = 1000;

/// Returns whether the figures held.
pub(super) fn run(
    server: &Aspis,
    origin: &VersionOrigin,
    hot: &mut Hot,
    options: &Options,
    objects: u64,
) -> io::Result<bool> {
    println!("\nrate: {} invalidations a second for {} s", options.rate, options.seconds);
    println!("| figure | measured | at most | |\n|---|---|---|---|");
    settle(server)?;
    let mut stream = Stream { server, options, objects, version: origin.change(), stub: stub()?, seed: 0 };
    let before = memory::private(&server.server);
    let mut seen = Seen::default();
    for round in 0..ROUNDS {
        for turn in 0..LOADS.len() {
            stream.play(LOADS[(round as usize + turn) % LOADS.len()], hot, &mut seen)?;
            // The last ones were not waited for. And what is left of this load must not be measured with the next one.
            settle(server)?;
        }
    }
    let mut held = seen.show(options);
    held &= figure("growth of private memory", mib(seen.most.saturating_sub(before)), "MiB", GROWTH_MAX);
    held &= check(server, objects, stream.version, &seen.named)?;
    Ok(held)
}

/// Waits until every core is through with what was invalidated.
fn settle(server: &Aspis) -> io::Result<()> {
    match wait::until(SETTLE_MAX, || settled(server).unwrap_or(false)) {
        true => Ok(()),
        false => Err(io::Error::other("rules stay pending")),
    }
}

/// Whom the senders address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    Nobody,
    Stub,
    Product,
}

/// In the order of the first round.
const LOADS: [Load; 3] = [Load::Nobody, Load::Stub, Load::Product];

/// What the senders need.
struct Stream<'s> {
    server: &'s Aspis,
    options: &'s Options,
    objects: u64,
    /// What the origin answers from before the first of them.
    version: u64,
    stub: SocketAddr,
    /// Makes the choices of each load others than those of the load before.
    seed: u64,
}

/// What was measured.
#[derive(Default)]
struct Seen {
    /// The p99 of hits for each round.
    alone: Vec<f64>,
    stubbed: Vec<f64>,
    streamed: Vec<f64>,
    named: HashSet<u64>,
    late: Duration,
    /// Invalidations that were acknowledged, and how long that took them in all.
    acknowledged: u64,
    took: Duration,
    /// The most private memory.
    most: u64,
}

impl Stream<'_> {
    /// Measures hits beside one load.
    fn play(&mut self, load: Load, hot: &mut Hot, seen: &mut Seen) -> io::Result<()> {
        let (mut all, mut took) = (Vec::new(), Duration::ZERO);
        let memory = || memory::private(&self.server.server);
        let hits = hot.beside(|looks| {
            let began = Instant::now();
            let sent: Vec<io::Result<Sent>> = thread::scope(|scope| {
                let stream = &*self;
                let senders: Vec<_> =
                    (0..SENDERS).map(|number| scope.spawn(move || stream.send(load, number))).collect();
                while senders.iter().any(|sender| !sender.is_finished()) {
                    seen.most = seen.most.max(looks.at(memory));
                    wait::pause(Duration::from_millis(100));
                }
                let panicked = |_| Err(io::Error::other("a sender panicked"));
                senders.into_iter().map(|sender| sender.join().unwrap_or_else(panicked)).collect()
            });
            took = began.elapsed();
            all = sent.into_iter().collect::<io::Result<_>>()?;
            Ok(())
        })?;
        self.seed += SENDERS;
        let p99 = p99(&hits);
        match load {
            Load::Nobody => seen.alone.push(p99),
            Load::Stub => seen.stubbed.push(p99),
            Load::Product => {
                seen.streamed.push(p99);
                seen.took += took;
                for sent in all {
                    seen.acknowledged += sent.count;
                    seen.named.extend(sent.named);
                    seen.late = seen.late.max(sent.late);
                }
            }
        }
        Ok(())
    }

    /// One sender's part of a load, at a pace that an answer that is late does not change.
    fn send(&self, load: Load, sender: u64) -> io::Result<Sent> {
        let Options { rate, seconds, .. } = *self.options;
        let address = match load {
            Load::Nobody => {
                wait::pause(Duration::from_secs(seconds) / ROUNDS as u32);
                return Ok(Sent::default());
            }
            Load::Stub => self.stub,
            Load::Product => self.server.admin,
        };
        let mut random = Random::new(self.seed + sender);
        let mut admin = Admin::connect(address)?;
        let mut viewer = Viewer::connect(self.server.address)?;
        let (began, mut sent) = (Instant::now(), Sent::default());
        for at in 0..rate * seconds / SENDERS / ROUNDS {
            // The senders begin one after the other.
            let due = Duration::from_micros((at * SENDERS + sender) * 1_000_000 / rate);
            match due.checked_sub(began.elapsed()) {
                Some(early) => wait::pause(early),
                None => sent.late = sent.late.max(began.elapsed() - due),
            }
            let number = random.between(0, self.objects - 1);
            let (path, waits) = (object(number), at % WAITED == 0);
            let document = match random.between(0, 3) {
                _ if waits => json!({ "paths": [path] }),
                0 => json!({ "tags": [format!("none-{number}"), format!("none-{at}")] }),
                1 => json!({ "paths": [format!("{path}*")] }),
                _ => json!({ "paths": [path, format!("/none/{number}")] }),
            };
            admin.invalidate(&document, waits)?;
            sent.count += 1;
            if document.get("paths").is_some() {
                sent.named.push(number);
            }
            if waits && viewer.ask(&path)? < self.version && load == Load::Product {
                return Err(io::Error::other(format!("{path} is old after its invalidation was completed")));
            }
        }
        Ok(sent)
    }
}

/// What one connection sent.
#[derive(Default)]
struct Sent {
    named: Vec<u64>,
    count: u64,
    late: Duration,
}

impl Seen {
    fn show(&self, options: &Options) -> bool {
        let spread = |samples: &[f64], digits| {
            Spread::of(samples).map_or_else(String::new, |spread| spread.show(digits))
        };
        let over = |base: &[f64]| -> Vec<f64> {
            self.streamed.iter().zip(base).map(|(with, without)| with / without).collect()
        };
        let ratios = over(&self.alone);
        println!("| invalidations acknowledged | {} | | |", self.acknowledged);
        println!("| latest sender behind its schedule | {:.0} ms | | |", self.late.as_secs_f64() * 1e3);
        println!(
            "| hot p99 beside nothing, median and quartiles of {ROUNDS} rounds | {} us | | |",
            spread(&self.alone, 0)
        );
        println!("| hot p99 beside senders whom a stub answers | {} us | | |", spread(&self.stubbed, 0));
        println!("| hot p99 beside senders who invalidate | {} us | | |", spread(&self.streamed, 0));
        println!("| ratio of each round to nothing | {} | | |", spread(&ratios, 2));
        println!("| ratio of each round to the stub | {} | | |", spread(&over(&self.stubbed), 2));
        let ratio = Spread::of(&ratios).map_or(f64::INFINITY, |spread| spread.median);
        let rate = self.acknowledged as f64 / self.took.as_secs_f64();
        let least = options.rate as f64 * RATE_SHARE_MIN;
        let is_reached = rate >= least;
        let verdict = if is_reached { "held" } else { "UNDER" };
        println!("| invalidations a second | {rate:.0} | at least {least:.0} | {verdict} |");
        figure("hot p99 meanwhile to beside nothing, median of the rounds' ratios", ratio, "x", SLOWER_MAX)
            && is_reached
    }
}

/// Whether all that was named is new, and nothing else.
fn check(server: &Aspis, objects: u64, version: u64, named: &HashSet<u64>) -> io::Result<bool> {
    let mut viewer = Viewer::connect(server.address)?;
    let mut lost = 0;
    for number in named {
        lost += u64::from(viewer.ask(&object(*number))? < version);
    }
    let left: Vec<u64> = (0..objects).filter(|number| !is_named(*number, named)).take(LEFT_COUNT).collect();
    let mut extra = 0;
    for number in &left {
        extra += u64::from(viewer.ask(&object(*number))? >= version);
    }
    let mut held = figure(&format!("rules lost, of {} paths", named.len()), lost as f64, "", 0.0);
    held &= figure(&format!("objects gone that nobody named, of {}", left.len()), extra as f64, "", 0.0);
    Ok(held)
}

/// Tells whether an object may have been named, by its own path or by the digits that it begins with and a wildcard.
fn is_named(number: u64, named: &HashSet<u64>) -> bool {
    std::iter::successors(Some(number), |number| Some(number / 10).filter(|rest| *rest > 0))
        .any(|front| named.contains(&front))
}

/// Starts what answers as the admin port answers an invalidation, and does nothing else.
fn stub() -> io::Result<SocketAddr> {
    let number = AtomicU64::new(0);
    http::serve(move |stream, _| answer(stream, number.fetch_add(1, Ordering::Relaxed)))
}

fn answer(mut stream: &TcpStream, number: u64) -> io::Result<()> {
    let document = format!(
        "{{\"create_time\":\"2026-01-01T00:00:00Z\",\"id\":\"IAAAAAAAAAAAAA\",\"item_count\":2,\"number\":{number},\"paths\":[\"/o/1\",\"/none/1\"],\
         \"soft\":false,\"status\":\"Completed\"}}\n"
    );
    // In one piece, as the product sends it.
    let whole = format!(
        "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncache-control: no-store\r\nlocation: /v1/invalidations/IAAAAAAAAAAAAA\r\n\
         content-length: {}\r\n\r\n{document}",
        document.len()
    );
    stream.write_all(whole.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_with_a_named_number_may_be_named() {
        let named = HashSet::from([12, 500]);
        assert!([12, 120, 12_345, 500].into_iter().all(|number| is_named(number, &named)));
        assert!([1, 21, 50, 5, 0].into_iter().all(|number| !is_named(number, &named)));
    }

    #[test]
    fn the_stub_answers_as_senders_want_it() {
        let mut admin = Admin::connect(stub().unwrap()).unwrap();
        admin.invalidate(&json!({ "paths": ["/a"] }), false).unwrap();
        admin.invalidate(&json!({ "paths": ["/b"] }), true).unwrap();
        assert_eq!(admin.ask("POST", "/", Some(&json!({}))).unwrap().1["number"], 2);
    }
}
