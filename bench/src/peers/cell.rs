//! What is measured of every server: one combination of size, connections, pipelining, hot set, log and load.

use crate::plan::{Kind, Plan};
use crate::popularity;
use std::fmt;

/// Objects of the large hot set.
pub(crate) const OBJECTS: u32 = 100_000;
/// Requests after which the list of picks begins again.
const PICKS: usize = 1 << 18;
/// Seed of the list of picks.
const SEED: u64 = 1;
/// The first object's id. All ids have as many digits, so that all requests are equally long.
const FIRST_ID: u64 = 100_000;
/// Requests that are sent at once where a cell pipelines.
const DEPTH: u32 = 16;
/// The fixed rate: what the slowest of the servers can hold on one core.
const RATE: u32 = 10_000;

/// Cells of a run that names none, each as it is written on the command line.
const USUAL: &[&str] = &["1KiB/64", "1KiB/1", "1KiB/512", "64KiB/64", "1MiB/64", "1KiB/64/10000rps"];

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objects {
    /// One object.
    One,
    /// A hundred thousand, by Zipf's law.
    Zipf,
}

/// Whether the servers log each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Logging {
    /// No access log.
    Off,
    /// One line for each request in a file in memory.
    On,
}

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Each connection asks again as soon as it has an answer.
    Saturation,
    /// So many requests each second over all connections, however long the answers take.
    Rate(u32),
}

/// One cell of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) size: u64,
    pub(crate) connections: u32,
    /// Requests sent at once on a connection.
    pub(crate) depth: u32,
    pub(crate) objects: Objects,
    pub(crate) logging: Logging,
    pub(crate) pace: Pace,
}

impl Cell {
    /// Returns the plainest cell: one object, no pipelining, no log, at saturation.
    pub(crate) fn plain(size: u64, connections: u32) -> Self {
        Self {
            size,
            connections,
            depth: 1,
            objects: Objects::One,
            logging: Logging::Off,
            pace: Pace::Saturation,
        }
    }

    /// Reads `SIZE/CONNECTIONS`, with any of `/p16`, `/zipf`, `/log` and `/10000rps` after it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "no cell {text:?}: expected one such as 1KiB/64, 1KiB/64/p16/zipf/log or 1KiB/64/10000rps"
            )
        };
        let mut parts = text.split('/');
        let size = crate::flags::parse_size(parts.next().unwrap_or_default())?;
        let connections = parts.next().and_then(|digits| digits.parse().ok());
        let connections = connections.filter(|count| (1..=10_000).contains(count)).ok_or_else(wrong)?;
        let mut cell = Self::plain(size, connections);
        for part in parts {
            match part {
                "zipf" => cell.objects = Objects::Zipf,
                "log" => cell.logging = Logging::On,
                _ => {
                    let depth = part.strip_prefix('p').and_then(|digits| digits.parse().ok());
                    let rate = part.strip_suffix("rps").and_then(|digits| digits.parse().ok());
                    match (depth, rate) {
                        (Some(depth @ 1..=64), _) => cell.depth = depth,
                        (_, Some(rate @ 1..=1_000_000)) => cell.pace = Pace::Rate(rate),
                        _ => return Err(wrong()),
                    }
                }
            }
        }
        if cell.depth > 1 && cell.pace != Pace::Saturation {
            return Err(format!("{text}: a fixed rate is not pipelined"));
        }
        if cell.objects == Objects::Zipf && size > 4096 {
            return Err(format!(
                "{text}: {OBJECTS} objects of that size are more than the servers are given memory for"
            ));
        }
        Ok(cell)
    }

    /// Returns the cells of a run that names none.
    pub(crate) fn usual() -> Vec<Self> {
        USUAL.iter().filter_map(|name| Self::parse(name).ok()).collect()
    }

    /// Returns every combination; the large hot set with small objects only.
    pub(crate) fn all() -> Vec<Self> {
        let mut cells = Self::usual();
        for size in [1 << 10, 64 << 10, 1 << 20] {
            for connections in [1, 64, 512, 2000] {
                let plain = Self::plain(size, connections);
                for (depth, objects, logging) in combinations() {
                    if objects == Objects::One || size == 1 << 10 {
                        cells.push(Self { depth, objects, logging, ..plain });
                    }
                }
                // 1 GiB/s is the most that the fixed rate may mean.
                let rate = RATE.min(((1 << 30) / size) as u32);
                cells.push(Self { pace: Pace::Rate(rate), ..plain });
            }
        }
        let mut seen = Vec::new();
        cells.retain(|cell| {
            !seen.contains(cell) && {
                seen.push(*cell);
                true
            }
        });
        cells
    }

    /// Returns the plan of one object.
    pub(crate) fn plan(&self, object: u32) -> Plan {
        Plan { kind: Kind::Dated, size: self.size, seed: SEED, id: FIRST_ID + u64::from(object) }
    }

    /// Returns how many objects there are.
    pub(crate) fn object_count(&self) -> u32 {
        match self.objects {
            Objects::One => 1,
            Objects::Zipf => OBJECTS,
        }
    }

    /// Returns which objects are asked for, one after the other.
    pub(crate) fn picks(&self) -> Vec<u32> {
        match self.objects {
            Objects::One => vec![0],
            Objects::Zipf => popularity::zipf(OBJECTS, PICKS, SEED),
        }
    }
}

fn combinations() -> impl Iterator<Item = (u32, Objects, Logging)> {
    let of_objects = |objects| [Logging::Off, Logging::On].map(|logging| (objects, logging));
    let both = [Objects::One, Objects::Zipf].into_iter().flat_map(of_objects);
    both.flat_map(|(objects, logging)| [1, DEPTH].map(|depth| (depth, objects, logging)))
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", size(self.size), self.connections)?;
        if self.depth > 1 {
            write!(formatter, "/p{}", self.depth)?;
        }
        if self.objects == Objects::Zipf {
            formatter.write_str("/zipf")?;
        }
        if self.logging == Logging::On {
            formatter.write_str("/log")?;
        }
        if let Pace::Rate(rate) = self.pace {
            write!(formatter, "/{rate}rps")?;
        }
        Ok(())
    }
}

/// Returns a size as the command line takes it.
pub(crate) fn size(bytes: u64) -> String {
    match bytes.trailing_zeros() {
        30.. if bytes > 0 => format!("{}GiB", bytes >> 30),
        20..30 => format!("{}MiB", bytes >> 20),
        10..20 => format!("{}KiB", bytes >> 10),
        _ => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_survives_its_name() {
        let all = Cell::all();
        assert_eq!(Cell::usual().len(), USUAL.len());
        for cell in &all {
            assert_eq!(Cell::parse(&cell.to_string()).as_ref(), Ok(cell));
        }
        // 1 KiB has 8 combinations, the others 4, and each has its fixed rate.
        assert_eq!(all.len(), 4 * (8 + 4 + 4) + 12);
    }

    #[test]
    fn what_is_no_cell_is_refused() {
        for text in ["", "1KiB", "1KiB/0", "1KiB/64/p0", "1KiB/64/fast", "1KiB/64/p16/10rps", "1MiB/64/zipf"]
        {
            assert!(Cell::parse(text).is_err(), "{text}");
        }
    }
}
