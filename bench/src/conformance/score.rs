//! What a run of the suite is worth: its own rules of judgement, without the tests that RFC 9111 contradicts.
//!
//! Fed with what the client wrote and with the checked-in list of tests to leave out. A test counts only if it and everything that it
//! depends on passes, as the suite's own tables have it. An unexpected number of results is an error, never a score.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;

/// Results of the pinned suite, and tests that its list leaves out.
const RESULTS: usize = 350;
const LEFT_OUT: usize = 41;
/// Required and optimal tests that remain.
const REMAIN: (usize, usize) = (142, 81);

/// What the client wrote.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    tests: Vec<Test>,
    results: HashMap<String, Outcome>,
}

#[derive(Debug, Deserialize)]
struct Test {
    id: String,
    name: String,
    kind: Kind,
    depends_on: Vec<String>,
}

/// How much a test matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A MUST.
    Required,
    /// What a good cache does.
    Optimal,
    /// Of interest; no answer is wrong.
    Check,
}

/// `true`, or the kind of error and what went wrong.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Outcome {
    Flag(bool),
    Failed(String, String),
}

/// The tests that do not count.
#[derive(Debug)]
pub(super) struct LeftOut {
    ids: BTreeSet<String>,
    /// How many there are for each reason.
    groups: Vec<(String, usize)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    why: String,
    ids: Vec<String>,
}

/// Passed tests of some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) passed: usize,
    pub(super) total: usize,
}

/// The verdict on a run.
#[derive(Debug)]
pub(super) struct Score {
    pub(super) required: Tally,
    pub(super) optimal: Tally,
    check: Tally,
    pub(super) whole_required: Tally,
    pub(super) whole_optimal: Tally,
    left_out: Vec<(String, usize)>,
    results: usize,
    failures: Vec<Failure>,
}

#[derive(Debug)]
struct Failure {
    kind: Kind,
    id: String,
    name: String,
    why: String,
}

impl Report {
    /// Reads the client's JSON.
    pub(super) fn read(text: &str) -> io::Result<Self> {
        let report: Self = serde_json::from_str(text).map_err(io::Error::other)?;
        let ids: BTreeSet<&str> = report.tests.iter().map(|test| test.id.as_str()).collect();
        if ids.len() != report.tests.len() {
            return Err(io::Error::other("two tests have one id"));
        }
        if let Some(id) = report.results.keys().find(|id| !ids.contains(id.as_str())) {
            return Err(io::Error::other(format!("a result of an unknown test: {id}")));
        }
        Ok(report)
    }

    /// Returns what went wrong in the test itself, whatever it depends on; `None` when it passed.
    pub(super) fn explanation(&self, id: &str) -> io::Result<Option<String>> {
        match self.results.get(id) {
            Some(Outcome::Flag(true)) => Ok(None),
            Some(Outcome::Flag(false)) => Ok(Some("failed".into())),
            Some(Outcome::Failed(kind, message)) => Ok(Some(format!("{kind}: {message}"))),
            None => Err(io::Error::other(format!("no result of test {id}"))),
        }
    }
}

impl LeftOut {
    /// Reads the list: groups by name, each with a reason and ids.
    pub(super) fn read(text: &str) -> io::Result<Self> {
        let groups: BTreeMap<String, Group> = serde_json::from_str(text).map_err(io::Error::other)?;
        if let Some((name, _)) = groups.iter().find(|(_, group)| group.why.is_empty()) {
            return Err(io::Error::other(format!("no reason to leave out {name}")));
        }
        let all: Vec<&String> = groups.values().flat_map(|group| &group.ids).collect();
        let ids: BTreeSet<String> = all.iter().copied().cloned().collect();
        if ids.len() != all.len() || ids.len() != LEFT_OUT {
            let found = format!("{} ids, {} of them different, instead of {LEFT_OUT}", all.len(), ids.len());
            return Err(io::Error::other(format!("the list of tests to leave out has {found}")));
        }
        Ok(Self { ids, groups: groups.into_iter().map(|(name, group)| (name, group.ids.len())).collect() })
    }

    /// Leaves nothing out.
    pub(super) fn nothing() -> Self {
        Self { ids: BTreeSet::new(), groups: Vec::new() }
    }
}

impl Score {
    /// Judges a run.
    pub(super) fn of(report: &Report, left_out: &LeftOut) -> io::Result<Self> {
        if report.results.len() != report.tests.len() {
            let (results, tests) = (report.results.len(), report.tests.len());
            return Err(io::Error::other(format!("{results} results of {tests} tests")));
        }
        let tests: HashMap<&str, &Test> = report.tests.iter().map(|test| (test.id.as_str(), test)).collect();
        if let Some(id) = left_out.ids.iter().find(|id| !tests.contains_key(id.as_str())) {
            return Err(io::Error::other(format!("no test {id}, which the list leaves out")));
        }
        let mut score = Self {
            required: Tally::default(),
            optimal: Tally::default(),
            check: Tally::default(),
            whole_required: Tally::default(),
            whole_optimal: Tally::default(),
            left_out: left_out.groups.clone(),
            results: report.results.len(),
            failures: Vec::new(),
        };
        for test in &report.tests {
            let fault = fault(test, &tests, report, &mut Vec::new())?;
            let counts = !left_out.ids.contains(&test.id);
            let tallies = match test.kind {
                Kind::Required => [counts.then_some(&mut score.required), Some(&mut score.whole_required)],
                Kind::Optimal => [counts.then_some(&mut score.optimal), Some(&mut score.whole_optimal)],
                Kind::Check => [counts.then_some(&mut score.check), None],
            };
            for tally in tallies.into_iter().flatten() {
                tally.total += 1;
                tally.passed += usize::from(fault.is_none());
            }
            if let Some(why) = fault.filter(|_| counts) {
                let (id, name) = (test.id.clone(), test.name.clone());
                score.failures.push(Failure { kind: test.kind, id, name, why });
            }
        }
        score.failures.sort_by_key(|failure| failure.kind);
        Ok(score)
    }

    /// Makes sure that all of the pinned suite was there.
    pub(super) fn check_totals(&self) -> io::Result<()> {
        let (results, remain) = (self.results, (self.required.total, self.optimal.total));
        if results != RESULTS || remain != REMAIN {
            let found = format!("{results} results, {} required, {} optimal", remain.0, remain.1);
            return Err(io::Error::other(format!(
                "{found}, instead of {RESULTS}, {} and {}",
                REMAIN.0, REMAIN.1
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
impl Score {
    /// Returns a score with these figures passed, of the pinned suite's totals.
    pub(super) fn example(required: usize, optimal: usize, whole: (usize, usize)) -> Self {
        let tally = |passed, total| Tally { passed, total };
        Self {
            required: tally(required, REMAIN.0),
            optimal: tally(optimal, REMAIN.1),
            check: Tally::default(),
            whole_required: tally(whole.0, 165),
            whole_optimal: tally(whole.1, 95),
            left_out: Vec::new(),
            results: RESULTS,
            failures: Vec::new(),
        }
    }
}

/// Returns why a test does not count: what went wrong in it, or the first of what it depends on that does not count.
fn fault<'t>(
    test: &'t Test,
    tests: &HashMap<&str, &'t Test>,
    report: &Report,
    asking: &mut Vec<&'t str>,
) -> io::Result<Option<String>> {
    if asking.contains(&test.id.as_str()) {
        return Err(io::Error::other(format!("test {} depends on itself", test.id)));
    }
    asking.push(&test.id);
    let mut found = report.explanation(&test.id)?;
    for id in &test.depends_on {
        let Some(needed) = tests.get(id.as_str()) else {
            return Err(io::Error::other(format!("test {} depends on an unknown one, {id}", test.id)));
        };
        if found.is_none() && fault(needed, tests, report, asking)?.is_some() {
            found = Some(format!("passes, but depends on {id}, which does not"));
        }
    }
    asking.pop();
    Ok(found)
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.passed, self.total)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::Optimal => "optimal",
            Self::Check => "check",
        })
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "  {} {}: {}", failure.kind, failure.id, failure.why)?;
            writeln!(f, "    {}", failure.name)?;
        }
        writeln!(f, "required {}, optimal {}, checks {}", self.required, self.optimal, self.check)?;
        if !self.left_out.is_empty() {
            let (required, optimal) = (self.whole_required, self.whole_optimal);
            let groups: Vec<String> =
                self.left_out.iter().map(|(name, count)| format!("{count} {name}")).collect();
            writeln!(
                f,
                "whole list: required {required}, optimal {optimal}; left out: {}",
                groups.join(", ")
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
