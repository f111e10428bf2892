//! Prints what was played, and holds it against the published counts and the bounds.

use super::{Cell, Counts, SHIPPED, oracle};
use std::fmt::Write as _;

/// On the sized trace: the percent of the footprint, and by how many percent fewer objects than with LRU must be missed.
const SIZED_BOUNDS: [(u64, f64); 3] = [(1, 6.0), (5, 6.0), (10, 5.0)];

/// And by how many percent fewer bytes.
const SIZED_BYTES_BOUND: f64 = 2.0;

/// On the churn model: by how many percent more objects than with LRU may be missed, with every cache.
const CHURN_BOUND: f64 = 3.0;

impl Cell {
    fn counts(&self, name: &str) -> Counts {
        let found = self.results.iter().find(|(other, _)| other == name);
        found.map_or(Counts::default(), |(_, counts)| *counts)
    }

    /// By how many percent more objects, and bytes, are missed with these counts than with LRU.
    fn against_lru(&self, counts: Counts) -> (f64, f64) {
        let lru = self.counts("LRU");
        let objects = change(self.requests - counts.hits, self.requests - lru.hits);
        let bytes = change(self.requested_bytes - counts.hit_bytes, self.requested_bytes - lru.hit_bytes);
        (objects, bytes)
    }
}

fn change(new: u64, old: u64) -> f64 {
    (new as f64 / old.max(1) as f64 - 1.0) * 100.0
}

/// Returns a cell as a table of text.
pub(super) fn table(cell: &Cell) -> String {
    let mut text = String::new();
    let Cell { trace, percent, capacity, requests, share, .. } = cell;
    let head =
        format!("{trace}, {requests} requests, a cache of {capacity} bytes ({percent} % of all objects)");
    let _ = writeln!(text, "\n{head}; share of probation at the end {share} %");
    let _ = writeln!(
        text,
        "  {:<19} {:>9} {:>8} {:>12} {:>15} {:>12}",
        "policy", "hits", "ratio", "misses/LRU", "bytes hit", "bytes/LRU"
    );
    for (name, counts) in &cell.results {
        let (objects, bytes) = cell.against_lru(*counts);
        let ratio = counts.hits as f64 * 100.0 / *requests as f64;
        let _ = writeln!(
            text,
            "  {name:<19} {:>9} {ratio:>6.2} % {objects:>+10.2} % {:>15} {bytes:>+10.2} %",
            counts.hits, counts.hit_bytes
        );
    }
    text
}

/// Returns what is not as it must be.
pub(super) fn faults(cell: &Cell) -> Vec<String> {
    let Cell { trace, percent, .. } = cell;
    let mut faults = Vec::new();
    for (name, counts) in &cell.results {
        let Some((hits, hit_bytes)) = oracle::counts(trace, *percent, name) else { continue };
        if counts.hits != hits || hit_bytes.is_some_and(|bytes| bytes != counts.hit_bytes) {
            faults.push(format!(
                "{trace} at {percent} %, {name}: {counts:?}, published are {hits}, {hit_bytes:?}"
            ));
        }
    }
    let (objects, bytes) = cell.against_lru(cell.counts(SHIPPED));
    if *trace == "adaptsize"
        && let Some((_, bound)) = SIZED_BOUNDS.iter().find(|(size, _)| size == percent)
        && (objects > -bound || bytes > -SIZED_BYTES_BOUND)
    {
        faults.push(format!(
            "{trace} at {percent} %: {objects:+.2} % objects and {bytes:+.2} % bytes missed, bounds are -{bound} and -{SIZED_BYTES_BOUND}"
        ));
    }
    if *trace == "churn" && objects > CHURN_BOUND {
        faults.push(format!(
            "{trace} at {percent} %: {objects:+.2} % objects missed, the bound is +{CHURN_BOUND}"
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(trace: &'static str, percent: u64, ours: (u64, u64)) -> Cell {
        let counts = |(hits, hit_bytes)| Counts { hits, hit_bytes };
        let results = vec![("LRU".to_owned(), counts((0, 0))), (SHIPPED.to_owned(), counts(ours))];
        Cell { trace, percent, capacity: 1, requests: 1000, requested_bytes: 10_000, results, share: 10 }
    }

    #[test]
    fn bounds_are_held_where_they_are_stated() {
        let ours_alone =
            |cell: &Cell| faults(cell).into_iter().filter(|fault| !fault.contains("LRU:")).count();
        let table = [
            (cell("adaptsize", 1, (60, 200)), 0),
            (cell("adaptsize", 1, (59, 200)), 1),
            (cell("adaptsize", 1, (60, 199)), 1),
            (cell("adaptsize", 10, (50, 200)), 0),
            (cell("adaptsize", 10, (49, 200)), 1),
            (cell("adaptsize", 25, (0, 0)), 0),
            (cell("web07", 1, (0, 0)), 0),
            (cell("churn", 1, (0, 0)), 0),
        ];
        for (cell, count) in table {
            assert_eq!(
                ours_alone(&cell),
                count,
                "{} {} {:?}",
                cell.trace,
                cell.percent,
                cell.counts(SHIPPED)
            );
        }
        let mut churn = cell("churn", 25, (0, 0));
        churn.results[0].1.hits = 30;
        assert_eq!(ours_alone(&churn), 1, "a hundredth of 970 is less than 30");
        churn.results[0].1.hits = 29;
        assert_eq!(ours_alone(&churn), 0);
    }

    #[test]
    fn published_counts_are_met_to_the_last_hit() {
        let mut web = Cell { requests: 76_118, ..cell("web07", 1, (0, 0)) };
        assert_eq!(faults(&web).len(), 1, "LRU has none");
        web.results[0].1.hits = 29_797;
        assert!(faults(&web).is_empty());
        web.results.push(("Belady".to_owned(), Counts { hits: 40_646, hit_bytes: 0 }));
        assert_eq!(faults(&web).len(), 1);
    }
}
