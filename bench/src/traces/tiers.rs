//! Plays recorded request traces through both tiers: the product's RAM policy, its admission to the disk, and a log of segments with reinsertion.
//!
//! RAM has 1 % of the bytes of a trace's objects and the disk 10 %. What is stored in RAM is offered to the disk, and once more when it leaves RAM
//! and was used; what comes from the disk is in RAM again and is not written anew. The write budget is bytes for each byte requested, so
//! time is requested bytes. Beside it stand the same tiers that write everything, and LRU and Belady's with the bytes of both tiers.

mod disk;

use super::reference::{Belady, Cache, OnHit, Queue};
use super::shipped::Shipped;
use super::source::{self, Trace};
use super::{Counts, Options, play};
use aspis_storage::disk::admission::Admission;
use aspis_storage::policy::{Policy, SizeAware};
use disk::Disk;
use std::fmt::Write as _;
use std::io;

/// The traces, in the order of the print: those whose objects have lengths.
pub(crate) const TRACES: [&str; 4] = ["adaptsize", "web07-sized", "scarab-sized", CHURN];
/// The tiers, in percent of the bytes of all objects.
const RAM_PERCENT: u64 = 1;
const DISK_PERCENT: u64 = 10;
/// Bytes that may be written for each that is requested.
const BUDGET: f64 = 0.2;
/// What the burst and the last record may add to that.
const BUDGET_SLACK: f64 = 1.05;
/// Bytes written for each that was admitted.
const AMPLIFICATION_MAX: f64 = 1.33;
/// Milliseconds that the requests of a trace take: with its bytes this makes the rate, and nothing else depends on it.
const LENGTH_MS: u64 = 3_600_000;
/// The bucket holds what one segment does, of which a disk has so many.
const SEGMENTS: u64 = 64;
/// On this trace the budget may cost hits: what is popular is always new, and has to be written to be there.
const CHURN: &str = "churn";

/// What both tiers gave.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    ram: Counts,
    disk: Counts,
    /// Bytes that were admitted, and those that were written, reinserted ones included.
    admitted: u64,
    written: u64,
}

impl Outcome {
    fn both(&self) -> Counts {
        Counts { hits: self.ram.hits + self.disk.hits, hit_bytes: self.ram.hit_bytes + self.disk.hit_bytes }
    }

    fn amplification(&self) -> f64 {
        self.written as f64 / self.admitted.max(1) as f64
    }
}

/// One trace, played.
struct Cell {
    trace: &'static str,
    requests: u64,
    requested: u64,
    ram_alone: Counts,
    budgeted: Outcome,
    unlimited: Outcome,
    lru: Counts,
    belady: Counts,
}

/// Plays everything and prints it; false when a bound was asked for and does not hold.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let mut faults = Vec::new();
    for name in options.asked(&TRACES) {
        let cell = play_all(&source::named(name, &options.folder)?);
        print!("{}", table(&cell));
        faults.extend(judge(&cell));
    }
    println!();
    for fault in &faults {
        println!("OUT OF BOUNDS: {fault}");
    }
    Ok(faults.is_empty() || !options.assert)
}

fn play_all(trace: &Trace) -> Cell {
    let share = |percent: u64| (u128::from(trace.footprint()) * u128::from(percent) / 100) as u64;
    let (ram, disk) = (share(RAM_PERCENT), share(DISK_PERCENT));
    let requested: u64 = trace.requests.iter().map(|object| trace.sizes[*object as usize]).sum();
    let rate = requested as f64 * BUDGET * 1000.0 / LENGTH_MS as f64;
    let burst = disk / SEGMENTS;
    let tiers = |rate| {
        let admission = Admission::new(rate, burst);
        play_both(trace, ram, Disk::new(trace, disk, disk / SEGMENTS, admission), requested)
    };
    Cell {
        trace: trace.name,
        requests: trace.requests.len() as u64,
        requested,
        ram_alone: play(trace, &mut Shipped::new(trace, ram, SizeAware::new)),
        budgeted: tiers(Some(rate.max(1.0) as u64)),
        unlimited: tiers(None),
        lru: play(trace, &mut Queue::new(trace, ram + disk, OnHit::Renew)),
        belady: play(trace, &mut Belady::new(trace, ram + disk)),
    }
}

fn play_both(trace: &Trace, ram_len: u64, mut disk: Disk<'_>, requested: u64) -> Outcome {
    let mut ram = Shipped::new(trace, ram_len, SizeAware::new);
    let (mut outcome, mut passed, mut left) = (Outcome::default(), 0_u64, Vec::new());
    ram.take_left(&mut left);
    for (at, object) in trace.requests.iter().copied().enumerate() {
        let len = trace.sizes[object as usize];
        passed += len;
        disk.now((u128::from(passed) * u128::from(LENGTH_MS) / u128::from(requested.max(1))) as u64);
        let is_on_disk = disk.has(object);
        if ram.request(at, object) {
            outcome.ram.hits += 1;
            outcome.ram.hit_bytes += len;
            continue;
        }
        if is_on_disk {
            outcome.disk.hits += 1;
            outcome.disk.hit_bytes += len;
            disk.used(object);
        } else if ram.holds(object) {
            // What RAM does not take is not written either.
            disk.offer(object, false);
        }
        ram.take_left(&mut left);
        for (object, was_used) in left.drain(..) {
            match disk.has(object) {
                true if was_used => disk.used(object),
                false if was_used => disk.offer(object, true),
                _ => {}
            }
        }
    }
    (outcome.admitted, outcome.written) = disk.wrote();
    outcome
}

fn table(cell: &Cell) -> String {
    let mut text = String::new();
    let Cell { trace, requests, requested, .. } = cell;
    let _ = writeln!(
        text,
        "\n{trace}, {requests} requests; RAM {RAM_PERCENT} % and disk {DISK_PERCENT} % of all bytes, budget {BUDGET} B a byte requested\n\
         {:<28} {:>8} {:>8} {:>9} {:>9} {:>12} {:>13}",
        "  tiers", "RAM", "disk", "objects", "bytes", "written/req", "amplification"
    );
    let percent = |part: u64, of: u64| part as f64 * 100.0 / of.max(1) as f64;
    let plain = |name: &str, counts: Counts| {
        let (objects, bytes) = (percent(counts.hits, *requests), percent(counts.hit_bytes, *requested));
        format!("  {name:<26} {:>8} {:>8} {objects:>7.2} % {bytes:>7.2} %\n", "", "")
    };
    let tiers = |name: &str, outcome: &Outcome| {
        let both = outcome.both();
        format!(
            "  {name:<26} {:>6.2} % {:>6.2} % {:>7.2} % {:>7.2} % {:>12.3} {:>13.3}\n",
            percent(outcome.ram.hits, *requests),
            percent(outcome.disk.hits, *requests),
            percent(both.hits, *requests),
            percent(both.hit_bytes, *requested),
            outcome.written as f64 / *requested as f64,
            outcome.amplification()
        )
    };
    text.push_str(&plain("RAM alone", cell.ram_alone));
    text.push_str(&tiers("both, within the budget", &cell.budgeted));
    text.push_str(&tiers("both, everything written", &cell.unlimited));
    text.push_str(&plain("LRU of both", cell.lru));
    text.push_str(&plain("Belady of both", cell.belady));
    text
}

/// Returns what is not as it must be.
fn judge(cell: &Cell) -> Vec<String> {
    let mut faults = Vec::new();
    let trace = cell.trace;
    let (budgeted, unlimited) = (cell.budgeted.both(), cell.unlimited.both());
    if trace != CHURN && budgeted.hits < unlimited.hits {
        faults.push(format!(
            "{trace}: {} hits within the budget, {} where everything is written",
            budgeted.hits, unlimited.hits
        ));
    }
    let amplification = cell.budgeted.amplification();
    if amplification > AMPLIFICATION_MAX {
        faults.push(format!("{trace}: {amplification:.3} B written for each that was admitted"));
    }
    let written = cell.budgeted.written as f64 / cell.requested.max(1) as f64;
    if written > BUDGET * BUDGET_SLACK {
        faults.push(format!("{trace}: {written:.3} B written for each that was requested"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(trace: &'static str, hits: (u64, u64), written: u64) -> Cell {
        let outcome = |hits| Outcome {
            ram: Counts { hits, hit_bytes: hits },
            disk: Counts::default(),
            admitted: 100,
            written,
        };
        let none = Counts::default();
        let (budgeted, unlimited) = (outcome(hits.0), outcome(hits.1));
        Cell {
            trace,
            requests: 1000,
            requested: 1000,
            ram_alone: none,
            budgeted,
            unlimited,
            lru: none,
            belady: none,
        }
    }

    #[test]
    fn bounds_are_held() {
        assert!(judge(&cell("web07-sized", (10, 10), 133)).is_empty());
        assert_eq!(judge(&cell("web07-sized", (9, 10), 133)).len(), 1);
        assert!(judge(&cell(CHURN, (9, 10), 133)).is_empty(), "there the budget may cost hits");
        assert_eq!(judge(&cell(CHURN, (9, 10), 134)).len(), 1);
        assert_eq!(judge(&cell(CHURN, (9, 10), 211)).len(), 2);
    }

    #[test]
    fn a_second_request_is_answered_by_ram_and_a_late_one_by_the_disk() {
        // A hundred objects of 100 bytes; RAM holds 1, the disk 10.
        let mut requests = vec![0, 0];
        requests.extend(1..6);
        requests.push(0);
        let trace = Trace::new("by hand", requests, vec![100; 100], 1);
        let requested = 800;
        let disk = Disk::new(&trace, 1000, 100, Admission::new(None, 1));
        let outcome = play_both(&trace, 100, disk, requested);
        assert_eq!((outcome.ram.hits, outcome.disk.hits), (1, 1), "{outcome:?}");
        assert_eq!((outcome.admitted, outcome.written), (600, 600));
    }
}
