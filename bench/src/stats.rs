//! Medians and quartiles: what the tables of this package print.

use serde::Serialize;

/// The middle and the spread of some samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) lower_quartile: f64,
    pub(crate) median: f64,
    pub(crate) upper_quartile: f64,
}

impl Spread {
    /// Returns the spread of `samples`; `None` when there are none.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            lower_quartile: quantile(&sorted, 0.25)?,
            median: quantile(&sorted, 0.5)?,
            upper_quartile: quantile(&sorted, 0.75)?,
        })
    }

    /// Returns the spread of one figure of some samples for a table; nothing when there are none.
    pub(crate) fn show_of<T>(samples: &[T], figure: fn(&T) -> f64, digits: usize) -> String {
        let values: Vec<f64> = samples.iter().map(figure).collect();
        Self::of(&values).map_or_else(String::new, |spread| spread.show(digits))
    }

    /// Returns it for a table: the median, and the quartiles in brackets.
    pub(crate) fn show(self, digits: usize) -> String {
        let Self { lower_quartile, median, upper_quartile } = self;
        format!("{median:.digits$} [{lower_quartile:.digits$}, {upper_quartile:.digits$}]")
    }
}

/// Returns the value below which `share` of the sorted samples lie, interpolated between neighbours.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = share.clamp(0.0, 1.0) * last as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_interpolate() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { lower_quartile: 1.75, median: 2.5, upper_quartile: 3.25 });
        assert_eq!(spread.show(1), "2.5 [1.8, 3.2]");
        assert_eq!(Spread::of(&[7.0]).unwrap().median, 7.0);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn the_ends_are_the_extremes() {
        assert_eq!(quantile(&[1.0, 2.0, 9.0], 0.0), Some(1.0));
        assert_eq!(quantile(&[1.0, 2.0, 9.0], 1.0), Some(9.0));
    }
}
