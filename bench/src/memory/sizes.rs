//! Sizes of objects as a real site has them: drawn from a histogram that is given as a file, never kept here.

use serde::Deserialize;
use std::io;
use std::path::Path;

use crate::random::Random;

/// The file: lengths, and how often each occurs.
#[derive(Deserialize)]
struct Histogram {
    #[serde(rename = "valSizeRange")]
    lengths: Vec<u64>,
    #[serde(rename = "valSizeRangeProbability")]
    weights: Vec<f64>,
}

/// Lengths with their cumulated weights.
#[derive(Debug)]
pub(crate) struct Sizes {
    lengths: Vec<u64>,
    ends: Vec<f64>,
}

impl Sizes {
    /// Reads a histogram.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let named = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
        let text = std::fs::read(path).map_err(|error| named(&error))?;
        let histogram: Histogram = serde_json::from_slice(&text).map_err(|error| named(&error))?;
        Self::of(histogram.lengths, histogram.weights)
            .ok_or_else(|| named(&"expected as many positive weights as lengths of 1 B to 1 GiB"))
    }

    fn of(lengths: Vec<u64>, weights: Vec<f64>) -> Option<Self> {
        let mut sum = 0.0;
        let ends: Vec<f64> = weights
            .iter()
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        let sound = !lengths.is_empty()
            && lengths.len() == weights.len()
            && lengths.iter().all(|length| (1..=1 << 30).contains(length))
            && weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0)
            && sum > 0.0;
        sound.then_some(Self { lengths, ends })
    }

    /// Returns the length of object `number` of a seed: always the same.
    pub(crate) fn length(&self, seed: u64, number: u64) -> u64 {
        let mut random = Random::new(seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let total = self.ends.last().copied().unwrap_or_default();
        let place = (random.next() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        let index = self.ends.partition_point(|end| *end <= place);
        self.lengths[index.min(self.lengths.len() - 1)]
    }

    /// Returns the longest length.
    pub(crate) fn longest(&self) -> u64 {
        self.lengths.iter().copied().max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_come_as_often_as_their_weights_say() {
        let sizes = Sizes::of(vec![10, 20, 30], vec![1.0, 0.0, 3.0]).unwrap();
        let drawn: Vec<u64> = (0..4000).map(|number| sizes.length(1, number)).collect();
        let tens = drawn.iter().filter(|length| **length == 10).count();
        assert!((850..1150).contains(&tens) && !drawn.contains(&20), "{tens}");
        assert_eq!(sizes.length(1, 77), drawn[77]);
        assert_eq!(sizes.longest(), 30);
    }

    #[test]
    fn what_is_no_histogram_is_refused() {
        for (lengths, weights) in [
            (vec![], vec![]),
            (vec![1], vec![]),
            (vec![0], vec![1.0]),
            (vec![1], vec![0.0]),
            (vec![1, 2], vec![1.0, -1.0]),
            (vec![1], vec![f64::NAN]),
        ] {
            assert!(Sizes::of(lengths, weights).is_none());
        }
    }
}
