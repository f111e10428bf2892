//! Durations in buckets that widen with the duration.
//!
//! A core records microseconds; the control thread sums the cores at a scrape. Buckets are powers of two, each
//! split in four, so a bucket's bounds differ by at most a quarter and a quantile read from them is that exact.
//! Like the counters, a histogram has one writer and costs two plain additions.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// Parts into which each power of two is split, as a power of two itself.
const SPLIT_BITS: u32 = 2;
const SPLIT: usize = 1 << SPLIT_BITS;
/// Longest duration with a bucket of its own: 2^32 us, 71 minutes. What is longer counts in the last bucket.
const OCTAVES: usize = 32;

/// How many buckets a histogram has.
pub const BUCKET_COUNT: usize = SPLIT + (OCTAVES - SPLIT_BITS as usize) * SPLIT;

/// Returns the bucket of a duration. Grows with the duration.
#[inline]
fn bucket_of(micros: u64) -> usize {
    if micros < SPLIT as u64 {
        return micros as usize;
    }
    let octave = 63 - micros.leading_zeros();
    let part = (micros >> (octave - SPLIT_BITS)) as usize & (SPLIT - 1);
    let bucket = SPLIT + (octave - SPLIT_BITS) as usize * SPLIT + part;
    bucket.min(BUCKET_COUNT - 1)
}

/// Returns the first duration, in microseconds, that lies above bucket `index`.
pub fn bucket_end(index: usize) -> u64 {
    if index < SPLIT {
        return index as u64 + 1;
    }
    let octave = ((index - SPLIT) / SPLIT) as u32 + SPLIT_BITS;
    let part = ((index - SPLIT) % SPLIT) as u64;
    (SPLIT as u64 + part + 1) << (octave - SPLIT_BITS)
}

/// What is timed. The names are those of the metrics page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Timing {
    /// A whole request that was answered from the cache, first byte in to last byte queued; where no access log needs the time of each, to the
    /// end of the turn.
    RequestHit,
    /// A whole request that needed the origin or failed, first byte in to last byte queued.
    RequestOther,
    /// One turn of a core's loop.
    CoreTurn,
    /// How late a core looked at what happened.
    CoreLate,
}

/// One row of the table of histograms.
#[derive(Clone, Copy, Debug)]
pub struct TimingInfo {
    /// What this row describes.
    pub timing: Timing,
    /// The Prometheus family, without prefix and without unit.
    pub name: &'static str,
    /// One sentence for operators.
    pub help: &'static str,
    /// The labels of this row within its family.
    pub labels: &'static [(&'static str, &'static str)],
}

const REQUEST_HELP: &str = "Time from a request's first byte to its response's last byte queued.";

/// The table: one row per [`Timing`], in its order, families together.
pub static TIMINGS: &[TimingInfo] = &[
    TimingInfo {
        timing: Timing::RequestHit,
        name: "request_duration",
        help: REQUEST_HELP,
        labels: &[("from", "cache")],
    },
    TimingInfo {
        timing: Timing::RequestOther,
        name: "request_duration",
        help: REQUEST_HELP,
        labels: &[("from", "origin")],
    },
    TimingInfo {
        timing: Timing::CoreTurn,
        name: "core_turn_duration",
        help: "Length of a turn of a core's loop, which a core that sleeps in between ends before.",
        labels: &[],
    },
    TimingInfo {
        timing: Timing::CoreLate,
        name: "core_lateness",
        help: "Time until a core looks at what happens, measured every 10 ms or so while it is busy.",
        labels: &[],
    },
];

const TIMING_COUNT: usize = 4;

#[derive(Debug)]
struct Histogram {
    buckets: [AtomicU64; BUCKET_COUNT],
    sum: AtomicU64,
}

/// The histograms of one core. Exactly one thread writes them; any may read.
#[derive(Debug)]
pub struct CoreHistograms {
    histograms: CachePadded<[Histogram; TIMING_COUNT]>,
}

impl CoreHistograms {
    /// Makes a set of empty histograms.
    pub fn new() -> Self {
        CoreHistograms {
            histograms: CachePadded::new(
                [const {
                    Histogram { buckets: [const { AtomicU64::new(0) }; BUCKET_COUNT], sum: AtomicU64::new(0) }
                }; TIMING_COUNT],
            ),
        }
    }

    /// Counts one duration. Only the owner calls this.
    #[inline]
    pub fn record(&self, timing: Timing, micros: u64) {
        self.record_many(timing, micros, 1);
    }

    /// Counts one duration `count` times. Only the owner calls this.
    #[inline]
    pub fn record_many(&self, timing: Timing, micros: u64, count: u64) {
        let histogram = &self.histograms[timing as usize];
        let add = |number: &AtomicU64, more: u64| {
            number.store(number.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        };
        add(&histogram.buckets[bucket_of(micros)], count);
        add(&histogram.sum, micros.wrapping_mul(count));
    }
}

impl Default for CoreHistograms {
    fn default() -> Self {
        CoreHistograms::new()
    }
}

/// One [`Timing`] summed over several cores.
#[derive(Clone, Debug)]
pub struct TimingSnapshot {
    /// How many durations fell into each bucket; [`bucket_end`] names the bounds.
    pub buckets: [u64; BUCKET_COUNT],
    /// All durations together, in microseconds.
    pub sum_micros: u64,
}

impl TimingSnapshot {
    /// Sums one timing over `cores`.
    pub fn of<'c>(cores: impl IntoIterator<Item = &'c CoreHistograms>, timing: Timing) -> Self {
        let mut total = TimingSnapshot { buckets: [0; BUCKET_COUNT], sum_micros: 0 };
        for core in cores {
            let histogram = &core.histograms[timing as usize];
            for (sum, value) in total.buckets.iter_mut().zip(&histogram.buckets) {
                *sum = sum.wrapping_add(value.load(Ordering::Relaxed));
            }
            total.sum_micros = total.sum_micros.wrapping_add(histogram.sum.load(Ordering::Relaxed));
        }
        total
    }

    /// Returns how many durations were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the bounds of the exported buckets in seconds with the count of each, not cumulative: one per
    /// power of two from 16 us to 67 s, then the rest. Finer bounds would only lengthen every scrape.
    pub fn exported(&self) -> Vec<(f64, u64)> {
        const FIRST: u32 = 4;
        const LAST: u32 = 26;
        let mut rows: Vec<(f64, u64)> = (FIRST..=LAST)
            .map(|power| ((1_u64 << power) as f64 / 1e6, 0))
            .chain([(f64::INFINITY, 0)])
            .collect();
        let last_row = rows.len() - 1;
        for (index, &count) in self.buckets.iter().enumerate() {
            let end = bucket_end(index);
            let power = end.next_power_of_two().trailing_zeros();
            let row = if index == BUCKET_COUNT - 1 || power > LAST {
                last_row
            } else {
                (power.max(FIRST) - FIRST) as usize
            };
            rows[row].1 += count;
        }
        rows
    }

    /// Returns the upper bound, in microseconds, of the bucket that holds the given share of all durations.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = ((count as f64 * share).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        self.buckets.iter().enumerate().find_map(|(index, value)| {
            seen += value;
            (seen >= wanted).then(|| bucket_end(index))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_the_durations() {
        let mut previous = 0;
        for micros in (0..5000).chain((13..34).flat_map(|p| [(1_u64 << p) - 1, 1 << p, (1 << p) + 1])) {
            let bucket = bucket_of(micros);
            assert!(bucket >= previous, "{micros}");
            previous = bucket;
            if bucket < BUCKET_COUNT - 1 {
                assert!(micros < bucket_end(bucket), "{micros} in {bucket}");
                assert!(bucket == 0 || micros >= bucket_end(bucket - 1), "{micros} in {bucket}");
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKET_COUNT - 1);
        assert_eq!(bucket_end(BUCKET_COUNT - 1), 1 << OCTAVES);
    }

    #[test]
    fn a_quantile_is_exact_to_a_quarter() {
        let core = CoreHistograms::new();
        for micros in 1..=1000 {
            core.record(Timing::RequestHit, micros);
        }
        let snapshot = TimingSnapshot::of([&core], Timing::RequestHit);
        assert_eq!(snapshot.count(), 1000);
        assert_eq!(snapshot.sum_micros, 500_500);
        let median = snapshot.quantile(0.5).expect("not empty");
        assert!((500..=625).contains(&median), "{median}");
        assert_eq!(TimingSnapshot::of([&core], Timing::RequestOther).quantile(0.5), None);
    }

    #[test]
    fn exported_buckets_keep_every_duration_below_their_bound() {
        let core = CoreHistograms::new();
        let durations = [0, 3, 15, 16, 17, 100, 127, 128, 1 << 20, (1 << 26) - 1, 1 << 26, u64::MAX / 2];
        for micros in durations {
            core.record(Timing::RequestOther, micros);
        }
        let rows = TimingSnapshot::of([&core], Timing::RequestOther).exported();
        let mut below = 0;
        for (bound, count) in rows {
            below += count;
            let expected = durations.iter().filter(|&&micros| (micros as f64) < bound * 1e6).count() as u64;
            assert_eq!(below, expected, "below {bound} s");
        }
        assert_eq!(below, durations.len() as u64);
    }

    #[test]
    fn each_row_describes_the_timing_at_its_index() {
        assert_eq!(TIMINGS.len(), TIMING_COUNT);
        for (index, info) in TIMINGS.iter().enumerate() {
            assert_eq!(info.timing as usize, index, "{}", info.name);
        }
    }
}
