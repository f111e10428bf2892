//! From samples to tables, verdicts and JSON.

use crate::stats::Spread;
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// Ratios of server CPU per request, and the most that each may be.
const BOUNDS: &[(&str, &str, f64)] =
    &[("aspis", "floor", 1.3), ("aspis", "nginx", 0.6), ("floor", "nginx", 0.5)];

/// One arm in one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) arm: &'static str,
    pub(crate) requests_per_second: f64,
    pub(crate) cpu_us: f64,
    pub(crate) user_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// All arms, once each.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) samples: Vec<Sample>,
}

impl Round {
    /// Returns a line that shows how the run goes.
    pub(crate) fn line(&self) -> String {
        let parts: Vec<String> = self
            .samples
            .iter()
            .map(|sample| {
                format!("{} {:.2} us, {:.0}/s", sample.arm, sample.cpu_us, sample.requests_per_second)
            })
            .collect();
        parts.join("; ")
    }

    fn cpu(&self, arm: &str) -> Option<f64> {
        self.samples.iter().find(|sample| sample.arm == arm).map(|sample| sample.cpu_us)
    }
}

/// One ratio over all rounds.
#[derive(Clone, Debug, Serialize)]
struct Ratio {
    left: &'static str,
    right: &'static str,
    at_most: f64,
    spread: Spread,
}

/// What a whole run says.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    size: u64,
    connections: u32,
    seconds: u64,
    rounds: Vec<Round>,
    ratios: Vec<Ratio>,
}

impl Comparison {
    /// Draws the ratios out of the rounds.
    pub(crate) fn of(size: u64, connections: u32, seconds: u64, rounds: Vec<Round>) -> Self {
        let ratio = |&(left, right, at_most): &(&'static str, &'static str, f64)| {
            let each: Vec<f64> =
                rounds.iter().filter_map(|round| Some(round.cpu(left)? / round.cpu(right)?)).collect();
            Some(Ratio { left, right, at_most, spread: Spread::of(&each)? })
        };
        let ratios = BOUNDS.iter().filter_map(ratio).collect();
        Self { size, connections, seconds, rounds, ratios }
    }

    /// Returns both tables as Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{} B hits, {} connections, {} rounds of {} s; medians [quartiles]\n\n\
             | arm | requests/s | server CPU us/request | user us/request | p50 us | p99 us |\n|---|---|---|---|---|---|\n",
            self.size,
            self.connections,
            self.rounds.len(),
            self.seconds
        );
        for arm in ["floor", "aspis", "nginx"] {
            let column = |value: fn(&Sample) -> f64| {
                let samples = self.rounds.iter().flat_map(|round| &round.samples);
                let values: Vec<f64> = samples.filter(|sample| sample.arm == arm).map(value).collect();
                Spread::of(&values)
            };
            let Some(rate) = column(|sample| sample.requests_per_second) else { continue };
            let cell =
                |spread: Option<Spread>, digits| spread.map_or(String::new(), |spread| show(spread, digits));
            // Formatting into a string cannot fail.
            let _ = writeln!(
                text,
                "| {arm} | {} | {} | {} | {} | {} |",
                show(rate, 0),
                cell(column(|sample| sample.cpu_us), 2),
                cell(column(|sample| sample.user_us), 2),
                cell(column(|sample| sample.p50_us), 0),
                cell(column(|sample| sample.p99_us), 0),
            );
        }
        text.push_str(
            "\n| CPU per request, ratio within each round | median [quartiles] | at most |\n|---|---|---|\n",
        );
        for ratio in &self.ratios {
            let spread = show(ratio.spread, 3);
            let _ = writeln!(text, "| {} / {} | {spread} | {} |", ratio.left, ratio.right, ratio.at_most);
        }
        text
    }

    /// Returns a line for each bound that the median exceeds.
    pub(crate) fn exceeded(&self) -> Vec<String> {
        let over = self.ratios.iter().filter(|ratio| ratio.spread.median > ratio.at_most);
        let line = |ratio: &Ratio| {
            let (left, right) = (ratio.left, ratio.right);
            format!("exceeded: {left} / {right} is {:.3}, at most {}", ratio.spread.median, ratio.at_most)
        };
        over.map(line).collect()
    }

    /// Writes everything, the single rounds too, as JSON.
    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        fs::write(file, text + "\n")
    }
}

fn show(spread: Spread, digits: usize) -> String {
    format!(
        "{:.digits$} [{:.digits$}, {:.digits$}]",
        spread.median, spread.lower_quartile, spread.upper_quartile
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(arm: &'static str, cpu_us: f64) -> Sample {
        Sample { arm, requests_per_second: 1.0, cpu_us, user_us: 1.0, p50_us: 1.0, p99_us: 1.0 }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // A disturbed round doubles everything: its ratio is as good as any other.
        let round =
            |scale: f64| Round { samples: vec![sample("floor", scale), sample("aspis", 1.2 * scale)] };
        let comparison = Comparison::of(1024, 64, 1, vec![round(1.0), round(2.0), round(9.0)]);
        assert_eq!(comparison.ratios.len(), 1);
        assert!((comparison.ratios[0].spread.median - 1.2).abs() < 1e-9);
        assert_eq!(comparison.exceeded(), Vec::<String>::new());
        assert!(comparison.table().contains("| aspis / floor | 1.200 [1.200, 1.200] | 1.3 |"));
    }

    #[test]
    fn an_exceeded_bound_is_named() {
        let round = Round { samples: vec![sample("floor", 1.0), sample("aspis", 1.4), sample("nginx", 4.0)] };
        let comparison = Comparison::of(1024, 64, 1, vec![round]);
        assert_eq!(comparison.exceeded(), ["exceeded: aspis / floor is 1.400, at most 1.3"]);
    }
}
