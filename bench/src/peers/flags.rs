//! The command lines of `peers`, of its special case `compare`, and of the generator that they start.

use super::Options;
use super::arms::Arm;
use super::cell::Cell;
use crate::flags::{aspis_flag, assert_flag, number, number_flag, size, size_flag, text};
use crate::pace::Order;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Describes `peers`.
pub(crate) fn peers() -> Command {
    Command::new("peers")
        .about("Compares what a hit costs in Aspis, the floor, nginx, HAProxy, h2o, Varnish, Traffic Server and Squid")
        .arg(
            Arg::new("cells")
                .long("cells")
                .value_name("LIST")
                .help("What to measure, SIZE/CONNECTIONS[/p16][/zipf][/log][/Nrps] each [default: six of them]"),
        )
        .arg(arms_flag("floor,aspis,nginx,haproxy,h2o,varnish,trafficserver,squid"))
        .arg(number_flag("rounds", "N", "5", "Times that each arm is loaded in a cell", 1..=1000))
        .arg(number_flag("seconds", "S", "2", "Length of one load", 1..=600))
        .arg(
            Arg::new("full")
                .long("full")
                .action(ArgAction::SetTrue)
                .requires("output")
                .conflicts_with("cells")
                .help("Measures every combination, going on with what the output folder holds"),
        )
        .arg(
            Arg::new("minutes")
                .long("minutes")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..=10_000))
                .help("Ends after the round in which so many minutes have passed"),
        )
        .arg(output_flag())
        .arg(assert_flag("Fails when a bound of a measured cell is exceeded"))
        .arg(aspis_flag())
}

/// Describes `compare`.
pub(crate) fn compare() -> Command {
    Command::new("compare")
        .about("The shortest of peers: one cell, by default floor, Aspis and nginx")
        .arg(number_flag("rounds", "N", "7", "Times that each arm is loaded", 1..=1000))
        .arg(number_flag("seconds", "S", "2", "Length of one load", 1..=600))
        .arg(number_flag("connections", "N", "64", "Connections of the load", 1..=10_000))
        .arg(size_flag("1KiB"))
        .arg(arms_flag("floor,aspis,nginx"))
        .arg(output_flag())
        .arg(assert_flag("Fails when a bound of the cell is exceeded"))
        .arg(aspis_flag())
}

/// Describes `pace`.
pub(crate) fn pace() -> Command {
    Command::new("pace")
        .about("Generates hits at a fixed rate and prints what came of them as JSON; peers and zipf start it themselves")
        .arg(Arg::new("address").long("address").value_name("ADDR").required(true).help("The server"))
        .arg(
            Arg::new("cell")
                .long("cell")
                .value_name("CELL")
                .default_value("1KiB/64")
                .help("Size, connections and hot set, as peers has them"),
        )
        .arg(number_flag("rate", "N", "10000", "Requests each second", 1..=1_000_000))
        .arg(number_flag("seconds", "S", "2", "Length of the load", 1..=600))
}

/// Reads the arguments of `peers`.
pub(crate) fn peers_options(arguments: &ArgMatches) -> io::Result<Options> {
    let full = arguments.get_flag("full");
    let cells = match arguments.get_one::<String>("cells") {
        Some(list) => list.split(',').map(Cell::parse).collect::<Result<_, _>>().map_err(io::Error::other)?,
        None if full => Cell::all(),
        None => Cell::usual(),
    };
    let limit = arguments.get_one::<u64>("minutes").map(|minutes| Duration::from_secs(minutes * 60));
    Ok(Options { resume: full, limit, ..common(arguments, cells)? })
}

/// Reads the arguments of `compare`.
pub(crate) fn compare_options(arguments: &ArgMatches) -> io::Result<Options> {
    common(arguments, vec![Cell::plain(size(arguments), number(arguments, "connections") as u32)])
}

/// Reads the arguments of `pace`.
pub(crate) fn order(arguments: &ArgMatches) -> io::Result<Order> {
    Ok(Order {
        address: text(arguments, "address").parse().map_err(io::Error::other)?,
        cell: Cell::parse(text(arguments, "cell")).map_err(io::Error::other)?,
        rate: number(arguments, "rate") as u32,
        length: Duration::from_secs(number(arguments, "seconds")),
    })
}

fn common(arguments: &ArgMatches, cells: Vec<Cell>) -> io::Result<Options> {
    Ok(Options {
        cells,
        arms: arms(text(arguments, "arms")).map_err(io::Error::other)?,
        rounds: number(arguments, "rounds") as usize,
        length: Duration::from_secs(number(arguments, "seconds")),
        output: arguments.get_one::<PathBuf>("output").cloned(),
        resume: false,
        limit: None,
        aspis: arguments.get_one::<String>("aspis").cloned(),
        assert: arguments.get_flag("assert"),
    })
}

/// Reads a list of arms.
fn arms(list: &str) -> Result<Vec<Arm>, String> {
    let named = list.split(',').map(|name| {
        let all = || Arm::ALL.map(Arm::name).join(",");
        Arm::named(name).ok_or_else(|| format!("no arm {name:?}: expected some of {}", all()))
    });
    named.collect()
}

fn arms_flag(default: &'static str) -> Arg {
    Arg::new("arms").long("arms").value_name("LIST").default_value(default).help("Servers to compare")
}

fn output_flag() -> Arg {
    Arg::new("output")
        .long("output")
        .value_name("DIR")
        .value_parser(value_parser!(PathBuf))
        .help("Writes peers.json, peers.md and peers.svg there, by custom a folder in bench/results")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_arms_and_cells_are_read() {
        assert!(arms("floor,apache").is_err());
        assert_eq!(arms("floor,aspis").map(|arms| arms.len()), Ok(2));
        let read = |words: &[&str]| peers_options(&peers().get_matches_from(words));
        let options = read(&["peers", "--cells", "1KiB/64,1KiB/1/log"]).unwrap();
        assert_eq!((options.cells.len(), options.arms.len()), (2, Arm::ALL.len()));
        assert!(read(&["peers", "--cells", "1KiB"]).is_err());
        assert!(peers().try_get_matches_from(["peers", "--full"]).is_err());
        assert!(read(&["peers", "--full", "--output", "x"]).unwrap().resume);
    }
}
