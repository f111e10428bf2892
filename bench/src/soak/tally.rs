//! What happened in a soak, counted by scenario, and what was wrong, in words.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Faults that are printed; all are counted.
const FAULTS_SHOWN: usize = 25;

/// How an exchange ended, none of them a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A whole answer whose every byte was right.
    Whole,
    /// An answer that visibly broke off, where the origin had done so.
    Broken,
    /// An error response, where the origin had failed or the request was wrong.
    Refused,
    /// Ended by the viewer on purpose.
    Left,
}

/// Counts of one scenario.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    whole: u64,
    broken: u64,
    refused: u64,
    left: u64,
    faults: u64,
    bytes: u64,
    longest: Duration,
}

/// Everything that was counted; shared by all viewers.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: Mutex<BTreeMap<&'static str, Counts>>,
    faults: Mutex<Vec<String>>,
}

impl Tally {
    /// Counts one exchange.
    pub(crate) fn ended(&self, scenario: &'static str, ending: Ending, bytes: u64, took: Duration) {
        let mut counts = lock(&self.counts);
        let counts = counts.entry(scenario).or_default();
        match ending {
            Ending::Whole => counts.whole += 1,
            Ending::Broken => counts.broken += 1,
            Ending::Refused => counts.refused += 1,
            Ending::Left => counts.left += 1,
        }
        counts.bytes += bytes;
        counts.longest = counts.longest.max(took);
    }

    /// Counts one fault.
    pub(crate) fn fault(&self, scenario: &'static str, what: String) {
        lock(&self.counts).entry(scenario).or_default().faults += 1;
        lock(&self.faults).push(format!("{scenario}: {what}"));
    }

    /// Returns how many faults there were.
    pub(crate) fn fault_count(&self) -> usize {
        lock(&self.faults).len()
    }

    /// Returns how many exchanges ended as `Whole`.
    pub(crate) fn whole_count(&self) -> u64 {
        lock(&self.counts).values().map(|counts| counts.whole).sum()
    }

    /// Prints the table, then the first faults.
    pub(crate) fn print(&self) {
        println!("| scenario | whole and right | broke off | refused | left | MiB | longest s | faults |");
        println!("|---|---|---|---|---|---|---|---|");
        let counts = lock(&self.counts);
        let mut all = Counts::default();
        for (scenario, each) in counts.iter() {
            print_row(scenario, each);
            all.whole += each.whole;
            all.broken += each.broken;
            all.refused += each.refused;
            all.left += each.left;
            all.faults += each.faults;
            all.bytes += each.bytes;
            all.longest = all.longest.max(each.longest);
        }
        print_row("all", &all);
        let faults = lock(&self.faults);
        for fault in faults.iter().take(FAULTS_SHOWN) {
            println!("FAULT {fault}");
        }
        if faults.len() > FAULTS_SHOWN {
            println!("... and {} more", faults.len() - FAULTS_SHOWN);
        }
    }
}

fn print_row(name: &str, counts: &Counts) {
    let Counts { whole, broken, refused, left, faults, bytes, longest } = counts;
    let (mib, seconds) = (bytes >> 20, longest.as_secs_f64());
    println!("| {name} | {whole} | {broken} | {refused} | {left} | {mib} | {seconds:.1} | {faults} |");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
