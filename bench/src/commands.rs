//! The command line: every command, its flags and its help. What a command does with them is in its own module.

use crate::flags::{
    aspis_flag, assert_flag, names_flag, number_flag, parse_size, size_flag, state_folder_flag,
};
use crate::{budget, cold, collapse, fair, faults, peers, scale, stall, traces};
use clap::{Arg, ArgAction, Command, value_parser};
use std::path::PathBuf;

/// Describes all commands.
pub(crate) fn command() -> Command {
    Command::new("aspis-bench")
        .about("Measures and tortures Aspis from outside")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("floor")
                .about("Serves one fixed answer on the product's ring: the least that a hit can cost")
                .arg(size_flag("1KiB")),
        )
        .subcommand(peers::flags::peers())
        .subcommand(peers::flags::compare())
        .subcommand(peers::flags::pace())
        .subcommand(
            Command::new("scale")
                .about("Shows how the cost of a hit and memory grow with objects, connections, size and cores")
                .arg(
                    names_flag("only", "CURVE", scale::CURVES, "Measures these curves only"),
                )
                .arg(number_flag("seconds", "S", "2", "Length of one load", 1..=600))
                .arg(
                    Arg::new("full")
                        .long("full")
                        .action(ArgAction::SetTrue)
                        .help("With ten million objects, too: needs 16 GiB of memory and half an hour"),
                )
                .arg(aspis_flag()),
        )
        .subcommand(
            Command::new("zipf")
                .about("Compares what a hit among 100,000 objects costs with one of a single object, at one fixed rate")
                .arg(number_flag("rounds", "N", "15", "Times that both are loaded", 1..=1000))
                .arg(number_flag("seconds", "S", "2", "Length of one load", 1..=600))
                .arg(number_flag("connections", "N", "64", "Connections of the load", 1..=10_000))
                .arg(number_flag("rate", "N", "40000", "Requests each second", 1..=1_000_000))
                .arg(assert_flag("Fails when the ratio is over its bound"))
                .arg(aspis_flag()),
        )
        .subcommand(
            Command::new("collapse")
                .about("Measures what many viewers of one object cost the origin, the server and each other")
                .arg(
                    names_flag("scenario", "NAME", collapse::names(), "Plays these scenarios only"),
                )
                .arg(assert_flag("Fails when a figure is out of bounds, and names it"))
                .arg(aspis_flag()),
        )
        .subcommand(conformance_command())
        .subcommand(traces_command())
        .subcommand(tiers_command())
        .subcommand(fair::command())
        .subcommand(fair::part_command())
        .subcommand(
            Command::new("idle")
                .about("Measures the CPU share of a server that nobody asks anything, and the memory of idle connections")
                .arg(number_flag("seconds", "S", "10", "Length of the measurement", 1..=3600))
                .arg(number_flag("connections", "N", "0", "Connections that are kept open", 0..=60_000))
                .arg(assert_flag("Fails when it is over the bound"))
                .arg(aspis_flag()),
        )
        .subcommand(invalidation_command())
        .subcommand(memory_command())
        .subcommand(
            Command::new("instructions")
                .about("Counts the instructions of a hot hit in user mode, under valgrind")
                .arg(
                    Arg::new("stored")
                        .long("stored")
                        .value_name("FILE")
                        .default_value("bench/instructions.txt")
                        .value_parser(value_parser!(PathBuf))
                        .help("The numbers that may only fall"),
                )
                .arg(
                    Arg::new("lower")
                        .long("lower")
                        .action(ArgAction::SetTrue)
                        .help("Stores what was counted where it is lower"),
                )
                .arg(
                    Arg::new("profiles")
                        .long("profiles")
                        .value_name("DIR")
                        .value_parser(value_parser!(PathBuf))
                        .help("Keeps callgrind's files there, for callgrind_annotate: NAME.callgrind.2 holds the hits"),
                )
                .arg(assert_flag("Fails when a number is more than 2 % over the stored one each of three times"))
                .arg(aspis_flag()),
        )
        .subcommand(
            Command::new("miss-latency")
                .about("Measures how long a miss takes on a server that was asleep")
                .arg(number_flag("count", "N", "500", "Requests", 1..=100_000))
                .arg(assert_flag("Fails when the median is over the bound"))
                .arg(aspis_flag()),
        )
        .subcommand(
            Command::new("stream")
                .about(
                    "Streams bodies larger than the memory limit both ways and watches the server's memory",
                )
                .arg(size_flag("2GiB"))
                .arg(aspis_flag()),
        )
        .subcommand(
            Command::new("sim")
                .about("Plays exchange, collapse and storage under simulated cores, origins and time; fails on any fault")
                .arg(number_flag("seeds", "N", "10000", "How many seeds", 1..=u64::MAX))
                .arg(number_flag("from", "N", "0", "The first of them", 0..=u64::MAX))
                .arg(
                    Arg::new("seed")
                        .long("seed")
                        .value_name("N")
                        .value_parser(value_parser!(u64))
                        .help("Plays this one only"),
                )
                .arg(
                    Arg::new("trace")
                        .long("trace")
                        .action(ArgAction::SetTrue)
                        .help("Shows all that happens"),
                ),
        )
        .subcommand(
            Command::new("killing")
                .about("Kills a server with -9 while it accepts invalidations; whatever it acknowledged must hold afterwards")
                .arg(number_flag("rounds", "N", "200", "Kills", 1..=100_000))
                .arg(number_flag("seed", "N", "1", "Repeats the choices of a run", 0..=u64::MAX))
                .arg(state_folder_flag())
                .arg(assert_flag("Fails when something acknowledged was lost, and names it"))
                .arg(aspis_flag()),
        )
        .subcommand(
            Command::new("crash")
                .about("Kills a server with a store over and over under mixed load; nothing wrong and nothing invalidated may come back")
                .arg(number_flag("rounds", "N", "500", "Kills", 1..=100_000))
                .arg(number_flag("seed", "N", "1", "Repeats the choices of a run", 0..=u64::MAX))
                .arg(number_flag("from", "N", "0", "The first round: goes on with a run", 0..=u64::MAX))
                .arg(state_folder_flag())
                .arg(assert_flag("Fails on any fault, and names it"))
                .arg(aspis_flag()),
        )
        .subcommand(
            Command::new("restart")
                .about("Measures how soon a store of many small records serves again, after an orderly end and after kill -9")
                .arg(number_flag("records", "N", "10000000", "Records of the store, about 400 B each", 1000..=100_000_000))
                .arg(number_flag("rounds", "N", "3", "Starts after either end, whose medians count", 1..=1000))
                .arg(state_folder_flag().help("Keeps the store in this folder and uses it again"))
                .arg(assert_flag("Fails when a start takes too long, or the index too many bytes"))
                .arg(aspis_flag()),
        )
        .subcommand(budget::command())
        .subcommand(cold::command())
        .subcommand(
            Command::new("cold-reads")
                .about("Measures the least that direct reads cost, and what of a large hit from disk is copied")
                .arg(number_flag("rounds", "N", "5", "Times that each is measured", 1..=1000))
                .arg(state_folder_flag())
                .arg(assert_flag("Fails when a read takes too long, or when what was read of a large hit is copied"))
                .arg(aspis_flag()),
        )
        .subcommand(cold::part_command())
        .subcommand(
            Command::new("faults")
                .about("Runs a server on a disk that fails on command; no viewer may notice (needs root and /dev/fuse)")
                .arg(
                    names_flag("only", "FAULT", faults::names(), "Plays these faults only"),
                )
                .arg(number_flag("seed", "N", "1", "Repeats the choices of a run", 0..=u64::MAX))
                .arg(assert_flag("Fails when a viewer noticed, or the disk did not come back"))
                .arg(aspis_flag()),
        )
        .subcommand(stall::command())
        .subcommand(stall::part_command())
        .subcommand(
            Command::new("storm")
                .about("Invalidates a thousand times a second under load; none may be lost and hits may hardly notice")
                .arg(number_flag("seconds", "S", "15", "Length of the storm, over all rounds", 5..=3600))
                .arg(number_flag("rate", "N", "1000", "Invalidations per second", 8..=100_000))
                .arg(state_folder_flag())
                .arg(assert_flag("Fails when a figure is out of bounds"))
                .arg(aspis_flag()),
        )
        .subcommand(
            Command::new("soak")
                .about(
                    "Tortures a server with everything that viewers and origins do wrong; fails on any fault",
                )
                .arg(number_flag("seconds", "S", "180", "Length of the run", 1..=86_400))
                .arg(number_flag("seed", "N", "1", "Repeats the choices of a run", 0..=u64::MAX))
                .arg(number_flag("viewers", "N", "48", "Viewers at the same time", 1..=1000))
                .arg(number_flag("cores", "N", "2", "Cores of the server", 1..=64))
                .arg(
                    Arg::new("only")
                        .long("only")
                        .value_name("LIST")
                        .default_value("")
                        .help("Plays these scenarios only, to narrow a fault down"),
                )
                .arg(aspis_flag()),
        )
}

fn invalidation_command() -> Command {
    Command::new("invalidation")
        .about("Invalidates many objects over and over, and many times a second, while hits are served")
        .long_about(
            "Stores many objects and measures, for everything, a prefix and a tag of half, how soon an invalidation is completed and how soon no \
             viewer gets old bytes any more. A round is one soft invalidation and a look through connections of every core; it does not wait for \
             the sweep behind it, which looks at all objects once. After all rounds come four sweeps that are waited for while hits are \
             measured: one that removes nothing, and three that remove half, a part and the rest. So the objects are fetched once, and a run takes \
             the time of the fill and of six sweeps with a rest of ten seconds after each, whatever the number of rounds. At last comes the stream, over fewer objects. \
             What it costs hits is their p99 beside senders who invalidate, over that beside nothing; how much of it is the senders' own part is told by \
             a third load, the same senders before a stub that answers and does nothing. All take turns, and the bound is for the median of the \
             rounds' ratios. Hits are asked for at real-time priority where that is allowed: an operator's viewers are elsewhere.",
        )
        .arg(number_flag("objects", "N", "1000000", "Objects that are stored", 100..=100_000_000))
        .arg(number_flag("object-size", "BYTES", "64", "Length of each body", 16..=65_536))
        .arg(number_flag("rounds", "N", "100", "Rounds of each kind of rule", 1..=100_000))
        .arg(number_flag("seconds", "S", "15", "Length of the stream, over all rounds; 0 for none", 0..=3600))
        .arg(number_flag("rate", "N", "1000", "Invalidations in each second of it", 1..=100_000))
        .arg(
            Arg::new("only-stream")
                .long("only-stream")
                .action(ArgAction::SetTrue)
                .help("Plays the stream only, over at most 300000 objects"),
        )
        .arg(number_flag("cores", "N", "2", "Cores of the server", 1..=64))
        .arg(
            Arg::new("memory")
                .long("memory")
                .value_name("SIZE")
                .value_parser(parse_size)
                .help("The limit that the server is given; without it what the objects need"),
        )
        .arg(assert_flag("Fails when a figure is out of bounds or a rule was lost"))
        .arg(aspis_flag())
}

fn memory_command() -> Command {
    Command::new("memory")
        .about("Holds a server to its memory limit, in a scan of distinct objects or, with --connections, before a crowd")
        .arg(size_flag("10GiB").help("Bytes of distinct objects"))
        .arg(
            Arg::new("sizes")
                .long("sizes")
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Histogram of their lengths, JSON: valSizeRange and valSizeRangeProbability"),
        )
        .arg(
            Arg::new("memory")
                .long("memory")
                .value_name("SIZE")
                .default_value("256MiB")
                .value_parser(parse_size)
                .help("The limit that the server is given"),
        )
        .arg(number_flag("cores", "N", "2", "Cores of the server", 1..=64))
        .arg(number_flag("connections", "N", "0", "Viewers of a crowd, in place of the scan", 0..=50_000))
        .arg(assert_flag("Fails when memory is over its bound, or content holds less than 95 % of the arena"))
        .arg(aspis_flag())
}

fn traces_flag() -> Arg {
    Arg::new("traces")
        .long("traces")
        .value_name("DIR")
        .required(true)
        .value_parser(value_parser!(PathBuf))
        .help("Where the trace files are")
}

fn tiers_command() -> Command {
    Command::new("tiers")
        .about(
            "Plays recorded request traces through both tiers: hits of each, and what is written to the disk",
        )
        .arg(traces_flag())
        .arg(
            Arg::new("only")
                .long("only")
                .value_name("TRACE")
                .action(ArgAction::Append)
                .value_parser(traces::tiers::TRACES)
                .help("Plays this trace; may be repeated; default: all"),
        )
        .arg(assert_flag("Fails when a write budget costs hits, or more is written than it allows"))
}

fn traces_command() -> Command {
    Command::new("traces")
        .about("Plays recorded request traces through eviction policies: the product's and published ones")
        .arg(traces_flag())
        .arg(
            Arg::new("only")
                .long("only")
                .value_name("TRACE")
                .action(ArgAction::Append)
                .value_parser(traces::TRACES)
                .help("Plays this trace; may be repeated; default: all"),
        )
        .arg(assert_flag("Fails when a published count is not met or the product's policy is over a bound"))
}

fn conformance_command() -> Command {
    Command::new("conformance")
        .about("Runs the public conformance suite for HTTP caches, scored, or our supplement to it")
        .arg(
            Arg::new("semantics")
                .long("semantics")
                .value_name("NAME")
                .default_value("rfc9111")
                .value_parser(["rfc9111", "cloudfront"])
                .help("Semantics of the product; cloudfront runs with all TTL at 0"),
        )
        .arg(
            Arg::new("supplement")
                .long("supplement")
                .action(ArgAction::SetTrue)
                .help("Runs our supplement in place of the suite"),
        )
        .arg(
            Arg::new("only")
                .long("only")
                .value_name("ID")
                .help("Runs one test, and shows its messages at the client and at the origin"),
        )
        .arg(number_flag("runs", "N", "1", "Runs, each with a new origin and product", 1..=100))
        .arg(number_flag("cores", "N", "1", "Cores of the product", 1..=64))
        .arg(
            Arg::new("folder")
                .long("folder")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("Installs the suite there, if it is not, instead of in bench/conformance"),
        )
        .arg(assert_flag("Fails when a score is below its bound, or a test of --only fails"))
        .arg(aspis_flag())
        .arg(
            Arg::new("flags")
                .value_name("FLAG")
                .last(true)
                .num_args(1..)
                .help("More flags of the product, after --"),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }
}
