//! The `aspis` binary: reads the command line and hands over to one subcommand.
//!
//! Exit codes: 0 when all went well, 1 when something outside failed, 2 when a flag or a value is wrong. Standard
//! output belongs to programs (see [`stdout`]); everything for people goes to standard error.

mod admin;
mod ask;
mod boot;
mod check;
mod cli;
mod control;
mod cores;
mod demo;
mod dns;
mod explain;
mod failure;
mod files;
mod invalidations;
mod listeners;
mod log_writer;
mod memory;
mod metrics;
mod notify;
mod origin_tls;
mod process;
mod signals;
mod stdout;
mod store;

use std::process::ExitCode;

use cli::Invocation;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Everything was done.
const EXIT_DONE: u8 = 0;
/// Something that we need failed: a port, a file, the kernel, the origin.
const EXIT_FAILED: u8 = 1;
/// The command line was wrong.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(text) => {
            stdout::complain(&text);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    start_operator_messages();
    ExitCode::from(match invocation {
        Invocation::Serve(raw) => boot::serve(&raw),
        Invocation::Demo(raw) => demo::run(raw),
        Invocation::Check(raw) => check::run(&raw),
        Invocation::Invalidate(raw, paths) => ask::invalidate(&raw, &paths),
        Invocation::Explain(raw, url) => ask::explain(&raw, &url),
        Invocation::Store(command, raw, folders) => store::commands::run(command, &raw, &folders),
        Invocation::Print(text) => {
            stdout::print(&text);
            EXIT_DONE
        }
    })
}

/// Sends what the modules say with `tracing` to standard error, one line each.
fn start_operator_messages() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .init();
}

/// Turns a command line's settings into checked ones, or says on standard error what is wrong with which flag.
fn settings(raw: &aspis_config::Raw) -> Result<aspis_config::Settings, u8> {
    aspis_config::check(raw).map_err(|error| failure::usage(error).tell())
}
