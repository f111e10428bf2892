//! Drives the product from outside: criterion, load, the floor, peers, soak.
//!
//! `aspis-bench COMMAND` starts the servers that it measures itself, on ports of the kernel's choice, and ends them. Nothing here shares
//! code with what it judges, but for the floor responder, which is the product's own runtime with nothing on it.

mod admin;
mod aspis;
mod budget;
mod cold;
mod collapse;
mod commands;
mod conformance;
mod content;
mod crash;
mod fair;
mod faults;
mod flags;
mod floor;
mod http;
mod idle;
mod instructions;
mod invalidation;
mod killing;
mod memory;
mod miss;
mod origin;
mod pace;
mod peers;
mod plan;
mod popularity;
mod process;
mod random;
mod restart;
mod scale;
mod sim;
mod soak;
mod stall;
mod stats;
mod storm;
mod stream;
mod traces;
mod viewer;
mod wait;
mod witness;
mod zipf;

use clap::ArgMatches;
use flags::{number, path, size, text, words};
use std::io;
use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = commands::command().get_matches();
    let Some((name, arguments)) = matches.subcommand() else { return ExitCode::from(2) };
    match run(name, arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("aspis-bench {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a subcommand; false when what it measured is out of bounds.
fn run(name: &str, arguments: &ArgMatches) -> io::Result<bool> {
    let aspis = arguments.try_get_one::<String>("aspis").ok().flatten().cloned();
    let held = |inside: bool| inside || !arguments.get_flag("assert");
    match name {
        "floor" => floor::run(size(arguments) as usize).map(|()| true),
        "peers" => peers::run(&peers::flags::peers_options(arguments)?),
        "compare" => peers::run(&peers::flags::compare_options(arguments)?),
        "pace" => pace::generate(&peers::flags::order(arguments)?).map(|()| true),
        "scale" => scale::run(&scale::Options {
            only: words(arguments, "only"),
            length: Duration::from_secs(number(arguments, "seconds")),
            full: arguments.get_flag("full"),
            aspis,
        })
        .map(|()| true),
        "zipf" => zipf::run(&zipf::Options {
            rounds: number(arguments, "rounds") as usize,
            length: Duration::from_secs(number(arguments, "seconds")),
            connections: number(arguments, "connections") as u32,
            rate: number(arguments, "rate") as u32,
            aspis,
        })
        .map(held),
        "collapse" => collapse::run(&collapse::Options {
            scenarios: words(arguments, "scenario"),
            aspis,
            assert: arguments.get_flag("assert"),
        }),
        "conformance" => conformance::run(&conformance::Options {
            semantics: conformance::Semantics::named(text(arguments, "semantics"))
                .ok_or_else(|| io::Error::other("no such semantics: expected rfc9111 or cloudfront"))?,
            tests: if arguments.get_flag("supplement") {
                conformance::Tests::Supplement
            } else {
                conformance::Tests::Suite
            },
            only: arguments.get_one::<String>("only").cloned(),
            runs: number(arguments, "runs"),
            cores: number(arguments, "cores"),
            folder: path(arguments, "folder"),
            aspis,
            flags: words(arguments, "flags"),
            assert: arguments.get_flag("assert"),
        }),
        "instructions" => instructions::run(&instructions::Options {
            aspis,
            stored: path(arguments, "stored").unwrap_or_default(),
            lower: arguments.get_flag("lower"),
            profiles: path(arguments, "profiles"),
        })
        .map(held),
        "fair" => fair::run(&fair::Options {
            scenarios: words(arguments, "scenario"),
            rounds: number(arguments, "rounds") as usize,
            length: Duration::from_secs(number(arguments, "seconds")),
            rate: number(arguments, "rate") as u32,
            aspis,
            assert: arguments.get_flag("assert"),
        }),
        "fair-part" => fair::part(&words(arguments, "words")).map(|()| true),
        "idle" => {
            let length = Duration::from_secs(number(arguments, "seconds"));
            idle::run(length, number(arguments, "connections") as usize, aspis.as_deref()).map(held)
        }
        "memory" => memory::run(&memory::Options {
            total: size(arguments),
            sizes: path(arguments, "sizes"),
            limit: number(arguments, "memory"),
            cores: number(arguments, "cores"),
            connections: number(arguments, "connections"),
            aspis,
        })
        .map(held),
        "invalidation" => invalidation::run(&invalidation::Options {
            objects: number(arguments, "objects"),
            object_size: number(arguments, "object-size"),
            rounds: number(arguments, "rounds") as usize,
            only_stream: arguments.get_flag("only-stream"),
            seconds: number(arguments, "seconds"),
            rate: number(arguments, "rate"),
            cores: number(arguments, "cores"),
            memory: arguments.get_one::<u64>("memory").copied(),
            aspis,
        })
        .map(held),
        "miss-latency" => miss::run(number(arguments, "count") as usize, aspis.as_deref()).map(held),
        "stream" => stream::run(size(arguments), aspis.as_deref()),
        "sim" => sim::run(&sim::Options {
            from: arguments.get_one("seed").copied().unwrap_or_else(|| number(arguments, "from")),
            seeds: if arguments.contains_id("seed") { 1 } else { number(arguments, "seeds") },
            trace: arguments.get_flag("trace"),
        }),
        "soak" => soak::run(&soak::Options {
            length: Duration::from_secs(number(arguments, "seconds")),
            seed: number(arguments, "seed"),
            viewers: number(arguments, "viewers"),
            cores: number(arguments, "cores"),
            only: text(arguments, "only").to_owned(),
            aspis,
        }),
        "traces" | "tiers" => {
            let play = if name == "traces" { traces::run } else { traces::tiers::run };
            play(&traces::Options {
                folder: path(arguments, "traces").unwrap_or_default(),
                only: words(arguments, "only"),
                assert: arguments.get_flag("assert"),
            })
        }
        "killing" => killing::run(&killing::Options {
            rounds: number(arguments, "rounds"),
            seed: number(arguments, "seed"),
            folder: path(arguments, "folder"),
            aspis,
        })
        .map(held),
        "crash" => crash::run(&crash::Options {
            rounds: number(arguments, "rounds"),
            seed: number(arguments, "seed"),
            from: number(arguments, "from"),
            folder: path(arguments, "folder"),
            aspis,
        })
        .map(held),
        "budget" => budget::run(&budget::options(arguments)).map(held),
        "cold" => cold::run(&cold::options(arguments)).map(held),
        "cold-reads" => cold::read::run(&cold::read::Options {
            rounds: number(arguments, "rounds") as usize,
            folder: path(arguments, "folder"),
            aspis,
        })
        .map(held),
        "cold-part" => cold::part(&words(arguments, "words")).map(|()| true),
        "faults" => faults::run(&faults::Options {
            only: words(arguments, "only"),
            seed: number(arguments, "seed"),
            aspis,
        })
        .map(held),
        "restart" => restart::run(&restart::Options {
            records: number(arguments, "records"),
            rounds: number(arguments, "rounds") as usize,
            folder: path(arguments, "folder"),
            aspis,
        })
        .map(held),
        "stall" => stall::run(&stall::options(arguments)).map(held),
        "stall-part" => stall::part(&words(arguments, "words")).map(|()| true),
        "storm" => storm::run(&storm::Options {
            length: Duration::from_secs(number(arguments, "seconds")),
            rate: number(arguments, "rate"),
            folder: path(arguments, "folder"),
            aspis,
        })
        .map(held),
        _ => Err(io::Error::other("no such command")),
    }
}
