//! From samples to Markdown: one table for each cell, and one of the bounds.

use super::arms::Arm;
use super::bounds::Verdict;
use super::cell::Cell;
use super::results::{Measured, Results, Round, Sample};
use std::fmt::Write as _;

/// From this size on, what a mebibyte costs says more than what a request does.
const LARGE: u64 = 64 << 10;

/// Returns a line that shows how a run goes.
pub(crate) fn line(round: &Round) -> String {
    let part = |sample: &Sample| {
        format!("{} {:.2} us {:.0}/s", sample.arm.name(), sample.cpu_us, sample.requests_per_second)
    };
    round.samples.iter().map(part).collect::<Vec<_>>().join(", ")
}

/// Returns everything as Markdown.
pub(crate) fn markdown(results: &Results, verdicts: &[Verdict]) -> String {
    let mut text = format!(
        "Hits over loopback: each server on core 0, the load on core 1, arms interleaved, rounds of {} s; medians [quartiles]. CPU is time on a \
         CPU of all threads and processes of the server, exact; its part in user mode is a share by the kernel's ticks. Ratios are medians of \
         the ratios within each round. Resident is what the server's processes hold, files in memory not counted.\n\n{}",
        results.seconds,
        results.machine.text()
    );
    for measured in &results.cells {
        text.push('\n');
        text.push_str(&table(measured));
    }
    if !verdicts.is_empty() {
        text.push_str("\n| cell | bound | measured | at most | |\n|---|---|---|---|---|\n");
        for verdict in verdicts {
            let value = verdict.value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"));
            let word = match (verdict.holds(), verdict.value) {
                (true, _) => "holds",
                (false, Some(_)) => "exceeded",
                (false, None) => "not measured",
            };
            // Formatting into a string cannot fail, here and below.
            let _ = writeln!(
                text,
                "| {} | {} | {value} | {} | {word} |",
                verdict.cell, verdict.what, verdict.at_most
            );
        }
    }
    text
}

/// Returns the table of one cell.
fn table(measured: &Measured) -> String {
    let size = Cell::parse(&measured.cell).map_or(0, |cell| cell.size);
    let mut text = format!("**{}**, {} rounds\n\n", measured.cell, measured.rounds.len());
    let per_mib = if size >= LARGE { " us/MiB |" } else { "" };
    let _ = writeln!(
        text,
        "| arm | requests/s | CPU us/request |{per_mib} user us | p50 us | p99 us | p99.9 us | resident MiB | CPU / aspis | CPU / floor |"
    );
    let columns = if size >= LARGE { 11 } else { 10 };
    text.push_str(&("|---".repeat(columns) + "|\n"));
    for arm in measured.arms() {
        let show = |figure: fn(&Sample) -> f64, digits| {
            measured.spread(arm, figure).map_or_else(String::new, |spread| spread.show(digits))
        };
        let ratio = |right| {
            let spread = measured.ratio(arm, right, |sample| sample.cpu_us);
            spread.filter(|_| arm != right).map_or_else(String::new, |spread| spread.show(2))
        };
        let _ = write!(
            text,
            "| {} | {} | {} |",
            arm.name(),
            show(|sample| sample.requests_per_second, 0),
            show(|sample| sample.cpu_us, 2)
        );
        if size >= LARGE {
            let per_mib = f64::from(1 << 20) / size as f64;
            let cpu = measured.spread(arm, |sample| sample.cpu_us).map_or(f64::NAN, |spread| spread.median);
            let _ = write!(text, " {:.0} |", cpu * per_mib);
        }
        let _ = writeln!(
            text,
            " {} | {} | {} | {} | {:.0} | {} | {} |",
            show(|sample| sample.user_us, 2),
            show(|sample| sample.p50_us, 0),
            show(|sample| sample.p99_us, 0),
            show(|sample| sample.p999_us, 0),
            measured.spread(arm, |sample| sample.resident_mib).map_or(f64::NAN, |spread| spread.median),
            ratio(Arm::Aspis),
            ratio(Arm::Floor),
        );
    }
    for fault in &measured.faults {
        let _ = writeln!(text, "\nLeft out: {fault}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::bounds::judge;
    use super::super::results::tests::{results, sample};
    use super::*;

    #[test]
    fn every_row_has_as_many_cells_as_its_head() {
        for cell in ["1KiB/64", "64KiB/64"] {
            let round = vec![sample(Arm::Floor, 5.0), sample(Arm::Aspis, 6.0), sample(Arm::Nginx, 12.0)];
            let results = results(cell, vec![round.clone(), round]);
            let text = table(&results.cells[0]);
            let counts: Vec<usize> = text
                .lines()
                .filter(|line| line.starts_with('|'))
                .map(|line| line.matches('|').count())
                .collect();
            assert_eq!(counts.len(), 5, "{text}");
            assert!(counts.iter().all(|count| *count == counts[0]), "{text}");
            let all = markdown(&results, &judge(&results));
            assert!(all.contains("| CPU, aspis / nginx | 0.500 |"), "{all}");
        }
    }
}
