//! Many requests, one fetch: what viewers and the origin see of collapsing, measured from outside on a real server with two cores.
//!
//! Each scenario starts a server of its own before an origin that it scripts (`script`), plays its viewers on one thread (`crowd`) and returns
//! figures. A figure has a value and mostly a bound; `--assert` makes the bounds the exit code. The machine's own pauses show in the times, so
//! a time out of bounds is worth a second run before it is believed; a count is not.

mod crowd;
mod expiry;
mod followers;
mod hot;
mod huge;
pub(crate) mod script;
mod stampede;

use crate::aspis::{Aspis, sum};
use crate::process;
use crate::wait::Canary;
use script::Script;
use std::io;
use std::path::PathBuf;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    /// Scenarios to play; empty for all.
    pub(crate) scenarios: Vec<String>,
    pub(crate) aspis: Option<String>,
    pub(crate) assert: bool,
}

/// One scenario: plays and returns what it measured.
type Play = fn(&Stage) -> io::Result<Vec<Figure>>;

/// Every scenario by name, in the order in which they are played.
const SCENARIOS: &[(&str, Play)] = &[
    ("thousand", stampede::thousand),
    ("ten-thousand", stampede::ten_thousand),
    ("trickle", followers::trickle),
    ("no-store", followers::no_store),
    ("expiry", expiry::play),
    ("hot", hot::play),
    ("huge", huge::play),
];

/// Returns the names of all scenarios, for the command line.
pub(crate) fn names() -> Vec<&'static str> {
    SCENARIOS.iter().map(|(name, _)| *name).collect()
}

/// Plays the scenarios and prints their figures; false when a bound was asked for and exceeded.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    process::raise_open_files();
    let stage = Stage { program: process::find_aspis(options.aspis.as_deref())? };
    let mut exceeded = Vec::new();
    println!("| scenario | what | measured | bound |");
    println!("|---|---|---|---|");
    for (name, play) in SCENARIOS {
        if !options.scenarios.is_empty() && !options.scenarios.iter().any(|wanted| wanted == name) {
            continue;
        }
        let canary = Canary::start();
        let mut figures = play(&stage).map_err(|error| io::Error::other(format!("{name}: {error}")))?;
        let pause = canary.longest().as_secs_f64() * 1e3;
        figures.push(Figure::told("longest pause of the machine itself", format!("{pause:.0} ms")));
        for figure in figures {
            println!("| {name} | {} | {} | {} |", figure.what, figure.value, figure.bound);
            if !figure.holds {
                exceeded.push(format!("{name}: {}: {}, not {}", figure.what, figure.value, figure.bound));
            }
        }
    }
    if !exceeded.is_empty() {
        println!();
    }
    for line in &exceeded {
        println!("EXCEEDED {line}");
    }
    Ok(!options.assert || exceeded.is_empty())
}

/// What a scenario needs to start its server.
#[derive(Debug)]
struct Stage {
    program: PathBuf,
}

impl Stage {
    /// Starts a server with two cores before `origin`.
    fn server(&self, origin: &Script, flags: &[&str]) -> io::Result<Aspis> {
        let flags = [["--cores", "2", "--memory", "256MiB"].as_slice(), flags].concat();
        Aspis::start(&self.program, origin.address(), None, &flags)
    }
}

/// One value with its bound.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Figure {
    what: String,
    value: String,
    bound: String,
    holds: bool,
}

impl Figure {
    /// A count that must be what it is.
    fn exactly(what: impl Into<String>, value: u64, wanted: u64) -> Self {
        Self {
            what: what.into(),
            value: value.to_string(),
            bound: format!("exactly {wanted}"),
            holds: value == wanted,
        }
    }

    /// A measure that must not be larger than `most`; one that is no number is out of bounds.
    fn at_most(what: impl Into<String>, value: f64, most: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            value: format!("{value:.3} {unit}"),
            bound: format!("at most {most:.3} {unit}"),
            holds: value <= most,
        }
    }

    /// A measure that must not be smaller than `least`.
    fn at_least(what: impl Into<String>, value: f64, least: f64, unit: &str) -> Self {
        Self {
            what: what.into(),
            value: format!("{value:.3} {unit}"),
            bound: format!("at least {least} {unit}"),
            holds: value >= least,
        }
    }

    /// A value to know.
    fn told(what: impl Into<String>, value: String) -> Self {
        Self { what: what.into(), value, bound: String::new(), holds: true }
    }

    /// Everything that was wrong with the answers: nothing may be.
    fn faults(seen: &[crowd::Seen]) -> Self {
        let faults: Vec<&str> = seen.iter().filter_map(|each| each.fault.as_deref()).collect();
        let first = faults.first().map_or_else(String::new, |first| format!(" ({first})"));
        Self {
            what: "answers that were wrong".into(),
            value: format!("{} of {}{first}", faults.len(), seen.len()),
            bound: "none".into(),
            holds: faults.is_empty() && !seen.is_empty(),
        }
    }
}

/// Returns the sum of a metric that must be there.
fn metric(product: &Aspis, name: &str) -> io::Result<f64> {
    sum(&product.metrics()?, name).ok_or_else(|| io::Error::other(format!("/metrics has no {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_part_of_what_it_allows() {
        assert!(Figure::at_most("a", 2.0, 2.0, "s").holds);
        assert!(!Figure::at_most("a", 2.1, 2.0, "s").holds);
        assert!(!Figure::at_most("a", f64::NAN, 2.0, "s").holds);
        assert!(!Figure::at_least("a", 1.9, 2.0, "s").holds);
        assert!(!Figure::exactly("a", 2, 1).holds);
    }

    #[test]
    fn no_answers_at_all_are_not_right() {
        assert!(!Figure::faults(&[]).holds);
    }
}
