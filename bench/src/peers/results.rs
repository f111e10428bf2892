//! What was measured so far: kept in a file after every round, so that a long run can be taken up where it was left.

use super::arms::Arm;
use super::cell::Cell;
use super::machine::Machine;
use crate::stats::Spread;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Name of the file in the output folder.
const FILE: &str = "peers.json";

/// One arm in one round.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) arm: Arm,
    pub(crate) requests_per_second: f64,
    pub(crate) cpu_us: f64,
    pub(crate) user_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) resident_mib: f64,
}

/// All arms, once each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Round {
    pub(crate) samples: Vec<Sample>,
}

/// All rounds of one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) cell: String,
    pub(crate) rounds: Vec<Round>,
    /// What is missing in the rounds, and why.
    pub(crate) faults: Vec<String>,
}

/// Everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) seconds: u64,
    pub(crate) cells: Vec<Measured>,
}

impl Round {
    fn of(&self, arm: Arm) -> Option<&Sample> {
        self.samples.iter().find(|sample| sample.arm == arm)
    }
}

impl Measured {
    /// Returns the arms that were measured at all, in the order of the tables.
    pub(crate) fn arms(&self) -> impl Iterator<Item = Arm> {
        Arm::ALL.into_iter().filter(|arm| self.rounds.iter().any(|round| round.of(*arm).is_some()))
    }

    /// Returns the spread of one figure of `arm` over the rounds.
    pub(crate) fn spread(&self, arm: Arm, figure: fn(&Sample) -> f64) -> Option<Spread> {
        let values: Vec<f64> = self.rounds.iter().filter_map(|round| round.of(arm).map(figure)).collect();
        Spread::of(&values)
    }

    /// Returns the spread of the ratios of one figure of two arms, each ratio taken within a round: what disturbs a round disturbs both.
    pub(crate) fn ratio(&self, left: Arm, right: Arm, figure: fn(&Sample) -> f64) -> Option<Spread> {
        let ratio = |round: &Round| Some(figure(round.of(left)?) / figure(round.of(right)?));
        let values: Vec<f64> = self.rounds.iter().filter_map(ratio).collect();
        Spread::of(&values)
    }
}

impl Results {
    /// Begins with nothing.
    pub(crate) fn new(machine: Machine, seconds: u64) -> Self {
        Self { machine, seconds, cells: Vec::new() }
    }

    /// Goes on with what `folder` holds, if that was taken with the same programs on the same machine.
    pub(crate) fn resume(folder: &Path, machine: Machine, seconds: u64) -> io::Result<Self> {
        let file = folder.join(FILE);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::new(machine, seconds)),
            Err(error) => return Err(error),
        };
        let results: Self = serde_json::from_str(&text)
            .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))?;
        if results.machine == machine && results.seconds == seconds {
            return Ok(results);
        }
        Err(io::Error::other(format!(
            "{} was taken on another machine, with other programs or another --seconds: name another folder with --output, or remove it",
            file.display()
        )))
    }

    /// Writes everything into `folder`.
    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)? + "\n";
        // A run that is ended in the middle of this must not lose what it has.
        let new = folder.join(format!("{FILE}.new"));
        fs::write(&new, text)?;
        fs::rename(new, folder.join(FILE))
    }

    /// Returns what was measured of a cell.
    pub(crate) fn of(&self, cell: &str) -> Option<&Measured> {
        self.cells.iter().find(|measured| measured.cell == cell)
    }

    /// Returns what was measured of a cell, to add to it.
    pub(crate) fn entry(&mut self, cell: &Cell) -> &mut Measured {
        let name = cell.to_string();
        let place = self.cells.iter().position(|measured| measured.cell == name).unwrap_or_else(|| {
            self.cells.push(Measured { cell: name, rounds: Vec::new(), faults: Vec::new() });
            self.cells.len() - 1
        });
        &mut self.cells[place]
    }

    /// Returns how many rounds a cell has.
    pub(crate) fn rounds(&self, cell: &Cell) -> usize {
        self.of(&cell.to_string()).map_or(0, |measured| measured.rounds.len())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::process::Scratch;

    /// A sample whose figures all follow from its CPU time.
    pub(in crate::peers) fn sample(arm: Arm, cpu_us: f64) -> Sample {
        Sample {
            arm,
            requests_per_second: 1e6 / cpu_us,
            cpu_us,
            user_us: cpu_us / 10.0,
            p50_us: cpu_us * 10.0,
            p99_us: cpu_us * 50.0,
            p999_us: cpu_us * 90.0,
            resident_mib: 10.0,
        }
    }

    /// Results with one cell and these rounds.
    pub(in crate::peers) fn results(cell: &str, rounds: Vec<Vec<Sample>>) -> Results {
        let rounds = rounds.into_iter().map(|samples| Round { samples }).collect();
        let mut results = Results::new(Machine::read(&[]).unwrap(), 2);
        results.cells.push(Measured { cell: cell.into(), rounds, faults: Vec::new() });
        results
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // A disturbed round doubles everything: its ratio is as good as any other.
        let round = |scale: f64| vec![sample(Arm::Floor, scale), sample(Arm::Aspis, 1.2 * scale)];
        let results = results("1KiB/64", vec![round(1.0), round(2.0), round(9.0)]);
        let ratio = results.cells[0].ratio(Arm::Aspis, Arm::Floor, |sample| sample.cpu_us).unwrap();
        assert!((ratio.median - 1.2).abs() < 1e-9 && (ratio.upper_quartile - 1.2).abs() < 1e-9);
        assert!(results.cells[0].ratio(Arm::Aspis, Arm::Squid, |sample| sample.cpu_us).is_none());
    }

    #[test]
    fn a_run_goes_on_where_it_was_left() {
        let scratch = Scratch::new().unwrap();
        let cell = Cell::plain(1024, 64);
        let machine = Machine::read(&[]).unwrap();
        let mut results = Results::resume(scratch.path(), machine.clone(), 2).unwrap();
        assert_eq!(results.rounds(&cell), 0);
        results.entry(&cell).rounds.push(Round { samples: vec![sample(Arm::Aspis, 6.0)] });
        results.save(scratch.path()).unwrap();
        let resumed = Results::resume(scratch.path(), machine.clone(), 2).unwrap();
        assert_eq!(resumed.rounds(&cell), 1);
        assert!(Results::resume(scratch.path(), machine, 3).is_err());
    }
}
