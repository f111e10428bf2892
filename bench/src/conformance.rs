//! The public conformance suite for HTTP caches, and our supplement to it, run against the product and scored.
//!
//! `bench/conformance/` holds what is not Rust: the pinned suite, the supplement, and the two programs for node that serve as origin and as
//! client. `suite` runs them, `score` judges what came of it; a run is origin, product and client, all new.

mod score;
mod suite;

use crate::aspis::Aspis;
use crate::process;
use score::{LeftOut, Report, Score};
use std::io;
use std::path::PathBuf;
use std::time::Instant;
use suite::Suite;

/// What the command line asks for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) semantics: Semantics,
    pub(crate) tests: Tests,
    pub(crate) only: Option<String>,
    pub(crate) runs: u64,
    pub(crate) cores: u64,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) aspis: Option<String>,
    pub(crate) flags: Vec<String>,
    pub(crate) assert: bool,
}

/// The product's semantics under test, each with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Semantics {
    Rfc9111,
    Cloudfront,
}

/// Whose tests run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tests {
    /// The pinned suite, without what its list leaves out.
    Suite,
    /// Ours.
    Supplement,
}

impl Semantics {
    /// Returns the semantics called `name`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Rfc9111, Self::Cloudfront].into_iter().find(|semantics| semantics.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rfc9111 => "rfc9111",
            Self::Cloudfront => "cloudfront",
        }
    }

    /// Returns the flags of a run: CloudFront's rules are comparable only without its TTL of a day (the RFC 9111 profile's table).
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Rfc9111 => &["--semantics", "rfc9111"],
            Self::Cloudfront => {
                &["--semantics", "cloudfront", "--min-ttl", "0", "--default-ttl", "0", "--error-ttl", "0"]
            }
        }
    }

    /// Returns what a score falls short of.
    fn misses(self, tests: Tests, score: &Score) -> Vec<String> {
        let bounds = match (self, tests) {
            (Self::Rfc9111, Tests::Suite) => vec![
                ("required", score.required, 142),
                ("optimal", score.optimal, 79),
                ("required of the whole list", score.whole_required, 143),
                ("optimal of the whole list", score.whole_optimal, 79),
            ],
            (Self::Rfc9111, Tests::Supplement) => vec![
                ("required", score.required, score.required.total),
                ("optimal", score.optimal, score.optimal.total),
            ],
            (Self::Cloudfront, Tests::Suite) => vec![("required", score.required, 122)],
            // The supplement is about what CloudFront does not have.
            (Self::Cloudfront, Tests::Supplement) => Vec::new(),
        };
        let short = bounds.into_iter().filter(|(_, tally, least)| tally.passed < *least);
        short.map(|(name, tally, least)| format!("{name}: {tally}, at least {least} are needed")).collect()
    }
}

/// Runs the tests and prints the scores; false when a bound was asked for and missed.
pub(crate) fn run(options: &Options) -> io::Result<bool> {
    let suite = Suite::prepare(options.folder.as_deref())?;
    let program = process::find_aspis(options.aspis.as_deref())?;
    let left_out = match options.tests {
        Tests::Suite => LeftOut::read(&suite.text("left-out.json")?)?,
        Tests::Supplement => LeftOut::nothing(),
    };
    let cores = options.cores.to_string();
    let fixed = options.semantics.flags().iter().copied().chain(["--cores", &cores]);
    let flags: Vec<&str> = fixed.chain(options.flags.iter().map(String::as_str)).collect();
    let mut held = true;
    for run in 1..=options.runs {
        let mut origin = suite.origin()?;
        let aspis = Aspis::start(&program, origin.announced("listening on ")?, None, &flags)?;
        let began = Instant::now();
        let text = suite.client(aspis.address, options.tests, options.only.as_deref())?;
        let report = Report::read(&text)?;
        if let Some(id) = &options.only {
            for line in origin.errors() {
                eprintln!("{line}");
            }
            let explanation = report.explanation(id)?;
            println!("{id}: {}", explanation.as_deref().unwrap_or("passes"));
            held &= explanation.is_none();
            continue;
        }
        let score = Score::of(&report, &left_out)?;
        if options.tests == Tests::Suite {
            score.check_totals()?;
        }
        let seconds = began.elapsed().as_secs_f64();
        println!("{} run {run} of {}, {seconds:.1} s", options.semantics.name(), options.runs);
        print!("{score}");
        for miss in options.semantics.misses(options.tests, &score) {
            println!("MISSED {miss}");
            held = false;
        }
    }
    Ok(held || !options.assert)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_is_held_and_missed() {
        let misses = |semantics: Semantics, tests, score: Score| semantics.misses(tests, &score).len();
        assert_eq!(misses(Semantics::Rfc9111, Tests::Suite, Score::example(142, 79, (143, 79))), 0);
        assert_eq!(misses(Semantics::Rfc9111, Tests::Suite, Score::example(141, 79, (143, 79))), 1);
        assert_eq!(misses(Semantics::Rfc9111, Tests::Suite, Score::example(142, 78, (142, 78))), 3);
        assert_eq!(misses(Semantics::Cloudfront, Tests::Suite, Score::example(122, 0, (0, 0))), 0);
        assert_eq!(misses(Semantics::Cloudfront, Tests::Suite, Score::example(121, 81, (165, 95))), 1);
        assert_eq!(misses(Semantics::Rfc9111, Tests::Supplement, Score::example(142, 81, (0, 0))), 0);
        assert_eq!(misses(Semantics::Rfc9111, Tests::Supplement, Score::example(142, 80, (0, 0))), 1);
    }

    #[test]
    fn semantics_have_names() {
        assert_eq!(Semantics::named("cloudfront"), Some(Semantics::Cloudfront));
        assert_eq!(Semantics::named("squid"), None);
    }
}
