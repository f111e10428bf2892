//! What must hold between the product and its peers, and whether it does.

use super::arms::Arm;
use super::results::{Measured, Results, Sample};

/// What a bound compares.
#[derive(Clone, Copy, Debug)]
enum Measure {
    /// Server CPU per request of the product over that of another arm. Objects of one cell are equally long, so per MiB it is the same.
    Cpu(Arm),
    /// The same over the peer that needs the least.
    CpuOfBestPeer,
    /// The product's CPU in user mode per request, in microseconds.
    User,
    /// The product's median p99 over the upper quartile of the peer with the lowest.
    P99OfBestPeer,
}

/// Every bound: cell, measure, and the most that its median may be.
const BOUNDS: &[(&str, Measure, f64)] = &[
    ("1KiB/64", Measure::Cpu(Arm::Floor), 1.15),
    ("1KiB/64", Measure::Cpu(Arm::Nginx), 0.5),
    ("1KiB/64", Measure::Cpu(Arm::Haproxy), 0.9),
    ("1KiB/64", Measure::Cpu(Arm::H2o), 0.9),
    ("1KiB/64", Measure::Cpu(Arm::Varnish), 0.3),
    ("1KiB/64", Measure::User, 1.5),
    ("1KiB/64", Measure::P99OfBestPeer, 1.0),
    ("1KiB/1", Measure::CpuOfBestPeer, 1.0),
    ("1KiB/512", Measure::CpuOfBestPeer, 1.0),
    ("64KiB/64", Measure::Cpu(Arm::Nginx), 1.0),
    ("1MiB/64", Measure::Cpu(Arm::Nginx), 1.25),
];

/// What came of one bound.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) cell: &'static str,
    pub(crate) what: String,
    /// The figure; `None` when an arm was not measured.
    pub(crate) value: Option<f64>,
    pub(crate) at_most: f64,
}

impl Verdict {
    /// Returns whether the figure is known and within the bound.
    pub(crate) fn holds(&self) -> bool {
        self.value.is_some_and(|value| value <= self.at_most)
    }

    /// Returns whether the figure is known and beyond the bound.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.value.is_some_and(|value| value > self.at_most)
    }
}

/// Judges every bound of the cells that were measured.
pub(crate) fn judge(results: &Results) -> Vec<Verdict> {
    let judged = |&(cell, measure, at_most): &(&'static str, Measure, f64)| {
        let measured = results.of(cell)?;
        let (what, value) = judge_one(measured, measure);
        Some(Verdict { cell, what, value, at_most })
    };
    BOUNDS.iter().filter_map(judged).collect()
}

fn judge_one(measured: &Measured, measure: Measure) -> (String, Option<f64>) {
    let cpu = |right| measured.ratio(Arm::Aspis, right, |sample| sample.cpu_us).map(|spread| spread.median);
    match measure {
        Measure::Cpu(arm) => (format!("CPU, aspis / {}", arm.name()), cpu(arm)),
        Measure::CpuOfBestPeer => {
            let best = best_peer(measured, |sample| sample.cpu_us);
            let name = best.map_or("best peer", Arm::name);
            (format!("CPU, aspis / {name}, the peer with the least"), best.and_then(cpu))
        }
        Measure::User => {
            let user = measured.spread(Arm::Aspis, |sample| sample.user_us);
            ("us of CPU in user mode, aspis".into(), user.map(|spread| spread.median))
        }
        Measure::P99OfBestPeer => {
            let p99: fn(&Sample) -> f64 = |sample| sample.p99_us;
            let best = best_peer(measured, p99);
            let name = best.map_or("best peer", Arm::name);
            let own = measured.spread(Arm::Aspis, p99);
            let peer = best.and_then(|best| measured.spread(best, p99));
            let value = own.zip(peer).map(|(own, peer)| own.median / peer.upper_quartile);
            (format!("p99, median of aspis / upper quartile of {name}, the peer with the lowest"), value)
        }
    }
}

fn best_peer(measured: &Measured, figure: fn(&Sample) -> f64) -> Option<Arm> {
    let median = |arm: &Arm| measured.spread(*arm, figure).map_or(f64::INFINITY, |spread| spread.median);
    measured.arms().filter(|arm| arm.is_peer()).min_by(|left, right| median(left).total_cmp(&median(right)))
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{results, sample};
    use super::*;

    fn verdicts(cell: &str, arms: &[(Arm, f64)]) -> Vec<Verdict> {
        let round: Vec<Sample> = arms.iter().map(|(arm, cpu)| sample(*arm, *cpu)).collect();
        judge(&results(cell, vec![round.clone(), round]))
    }

    #[test]
    fn each_bound_is_judged_by_its_own_arms() {
        let arms =
            [(Arm::Floor, 5.0), (Arm::Aspis, 5.5), (Arm::Nginx, 12.0), (Arm::Haproxy, 6.0), (Arm::H2o, 8.0)];
        let verdicts = verdicts("1KiB/64", &arms);
        let held: Vec<bool> = verdicts.iter().map(Verdict::holds).collect();
        // HAProxy is too close, Varnish is not there.
        assert_eq!(held, [true, true, false, true, false, true, true]);
        assert!(verdicts[2].is_exceeded() && !verdicts[4].is_exceeded());
        assert_eq!(verdicts[4].value, None);
    }

    #[test]
    fn the_best_peer_is_the_one_to_beat() {
        let arms = [(Arm::Floor, 1.0), (Arm::Aspis, 10.0), (Arm::Squid, 30.0), (Arm::H2o, 9.0)];
        let verdicts = verdicts("1KiB/512", &arms);
        assert!(verdicts[0].is_exceeded() && verdicts[0].what.contains("h2o"), "{verdicts:?}");
        assert!(judge(&results("4KiB/7", vec![vec![sample(Arm::Aspis, 1.0)]])).is_empty());
    }
}
