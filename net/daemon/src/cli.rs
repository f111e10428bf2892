//! The command line, built from the one table of settings.
//!
//! Flags, help, completions and the reference page come from [`aspis_config::settings::SETTINGS`]; this module adds
//! the subcommands, the groups of the help and the wording of errors. Values are not judged here: they go as text
//! into [`Raw`], and `aspis_config::check` says what is wrong with them.

use std::ffi::OsString;

use aspis_config::Raw;
use aspis_config::settings::{REQUESTS, Setting, settings_of};
use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use clap_complete::Shell;

#[cfg(test)]
mod tests;

/// What the operator asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Invocation {
    /// Serve viewers.
    Serve(Raw),
    /// Serve viewers before an origin of our own.
    Demo(Raw),
    /// Tell whether serving would work.
    Check(Raw),
    /// Tell a running server to invalidate these paths and what the flags say.
    Invalidate(Raw, Vec<String>),
    /// Ask a running server about this URL.
    Explain(Raw, String),
    /// Look at the store in these folders, or make one.
    Store(StoreCommand, Raw, Vec<String>),
    /// Print this and end.
    Print(String),
}

/// What is to be done with a store while nobody serves from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreCommand {
    /// Make it anew.
    Format,
    /// Read and verify all of it.
    Check,
    /// Say what it is and what it holds.
    Stat,
}

impl StoreCommand {
    const ALL: [StoreCommand; 3] = [StoreCommand::Format, StoreCommand::Check, StoreCommand::Stat];

    /// Its name on the command line, and behind `store` in the table of settings.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            StoreCommand::Format => ("format", "store format"),
            StoreCommand::Check => ("check", "store check"),
            StoreCommand::Stat => ("stat", "store stat"),
        }
    }

    fn about(self) -> &'static str {
        match self {
            StoreCommand::Format => "Make a store of these folders; what a store in them held is gone",
            StoreCommand::Check => "Read a whole store and verify every check in it; nothing is changed",
            StoreCommand::Stat => "Say what a store is and what it holds; nothing is changed",
        }
    }
}

/// The first flag of each group of the help, in the table's order, and the group's heading.
const GROUPS: &[(&str, &str)] = &[
    ("origin", "Where"),
    ("cores", "Machine"),
    ("disk", "Disk"),
    ("semantics", "What is kept"),
    ("connect-timeout", "Origin side"),
    ("drain-timeout", "Viewer side and limits"),
];

const ABOUT: &str = "Aspis stands between viewers and a web server and answers from memory and disk what may be answered from there.";

const EXAMPLES: &str = "\
Examples:
  See it work, with an origin of its own:
      aspis demo
  Before a web server, on every address, with 8 GiB of memory:
      aspis serve --origin http://10.0.0.5:8000 --listen :80 --memory 8GiB
  With 500 GB on two disks, which outlive restarts:
      aspis serve --origin http://10.0.0.5:8000 --disk /data/1/aspis --disk /data/2/aspis --disk-size 500GB
  Before an HTTPS origin with a private certificate authority:
      aspis serve --origin https://app.internal --origin-ca /etc/aspis/ca.pem
  Would it work here? Flags, kernel and origin, without serving:
      aspis check --origin https://app.internal
  What changed at the origin is to be fetched anew:
      aspis invalidate '/images/*' --wait

Was it a hit? Look at X-Cache, Age and Cache-Status:
      curl -sI http://127.0.0.1:8080/
";

const SERVE_AFTER: &str = "\
Sizes: 64MiB, 2GiB, 1GB. Durations: 500ms, 10s, 5m, 24h.

Standard output has one line `listening on ADDR` for each listener, then `admin listening on ADDR`, then the
access log if it goes to `-`. Messages for people go to standard error.

Signals:
  TERM, INT   finish what runs, at most --drain-timeout, and exit 0; a second one exits 1 at once
  HUP         read --origin-ca and --admin-token again and reopen the access log
  USR1        reopen the access log

Exit codes: 0 done, 1 something failed (a port, a file, the kernel), 2 a flag or a value is wrong.
";

const INVALIDATE_AFTER: &str = "\
Examples:
  aspis invalidate /index.html '/images/*'          these, on every host
  aspis invalidate --tag product-17 --wait          what the origin tagged so; return when it is done everywhere
  aspis invalidate --host www.example.com --soft    a whole host becomes stale and is validated
  aspis invalidate --all                            everything

A path is compared with the request's path and query as they were sent. With --semantics cloudfront only a `*` at the end is a wildcard, with
rfc9111 any `*` is. All variants of a path go. Prints the invalidation's id, status and number.

Exit codes: 0 accepted (with --wait: completed), 1 the server cannot be reached or refuses, 2 an item or a flag is wrong.
";

const STORE_AFTER: &str = "\
Examples:
  aspis store format /data/1/aspis /data/2/aspis --disk-size 500GB    make a store of two folders
  aspis store check /data/1/aspis /data/2/aspis                       read and verify all of it
  aspis store stat /data/1/aspis                                      what it is and what it holds

A store lies in all the folders that were named when it was made. No server may be running on it. `aspis serve --disk` makes a store of an
empty folder by itself.

Exit codes: 0 done, 1 it cannot be (a file, the space, damage, a server that uses it), 2 a flag or a value is wrong.
";

/// Reads a command line. The error is a text for standard error; the exit code is then 2.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, String> {
    let args: Vec<OsString> = args.into_iter().collect();
    let matches = match command().try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Invocation::Print(error.render().to_string()));
        }
        Err(error) => return Err(explain(&error, &args)),
    };
    Ok(match matches.subcommand() {
        Some(("serve", given)) => Invocation::Serve(raw("serve", given)),
        Some(("demo", given)) => Invocation::Demo(raw("demo", given)),
        Some(("check", given)) => Invocation::Check(raw("check", given)),
        Some(("invalidate", given)) => {
            let paths = given.get_many::<String>("path").into_iter().flatten().cloned().collect();
            Invocation::Invalidate(raw("invalidate", given), paths)
        }
        Some(("explain", given)) => {
            let url = given.get_one::<String>("url").cloned().expect("clap demands the URL");
            Invocation::Explain(raw("explain", given), url)
        }
        Some(("store", given)) => store(given),
        Some(("version", _)) => Invocation::Print(format!("{}\n", version_line())),
        Some(("flags", _)) => Invocation::Print(aspis_config::markdown::flags_page()),
        Some(("completions", given)) => {
            let shell = given.get_one::<Shell>("shell").copied().expect("clap demands the shell");
            Invocation::Print(completions(shell))
        }
        // clap demands a subcommand and knows no other.
        _ => return Err(command().render_help().to_string()),
    })
}

fn store(given: &ArgMatches) -> Invocation {
    let (name, given) = given.subcommand().expect("clap demands a command behind `store`");
    let known = StoreCommand::ALL.into_iter().find(|command| command.names().0 == name);
    let command = known.expect("clap knows no other command");
    let folders = given.get_many::<String>("folder").into_iter().flatten().cloned().collect();
    Invocation::Store(command, raw(command.names().1, given), folders)
}

/// Returns the line of `aspis version`.
pub(crate) fn version_line() -> String {
    format!("aspis {}", env!("CARGO_PKG_VERSION"))
}

fn raw(command: &str, given: &ArgMatches) -> Raw {
    let mut raw = Raw::new();
    for setting in settings_of(command) {
        if setting.value_name.is_empty() {
            if given.get_flag(setting.flag) {
                raw.push(setting.flag, "true");
            }
        } else if let Some(values) = given.get_many::<String>(setting.flag) {
            values.for_each(|value| raw.push(setting.flag, value.as_str()));
        }
    }
    raw
}

fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "aspis", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Builds the whole command line.
fn command() -> Command {
    Command::new("aspis")
        .about(ABOUT)
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand_required(true)
        .arg_required_else_help(false)
        .disable_help_subcommand(true)
        .max_term_width(110)
        .after_help(EXAMPLES)
        .subcommand(
            with_settings("serve", "Serve viewers from memory, disk and --origin").after_long_help(SERVE_AFTER).after_help(
                "`aspis serve --help` tells what each flag does and costs; `aspis demo` needs none of them.",
            ),
        )
        .subcommand(
            with_settings("demo", "Serve before an origin of its own, and print what to try")
                .after_help("The demo's origin ends with it. The lines to try are printed on standard error."),
        )
        .subcommand(
            with_settings("check", "Tell whether flags, kernel and origin are fit to serve")
                .after_help("Takes the flags of `aspis serve`. Exit codes: 0 fit, 1 not fit, 2 a flag is wrong."),
        )
        .subcommand(
            with_settings("invalidate", "Tell a running server that what it stored is out of date")
                .arg(
                    Arg::new("path")
                        .value_name("PATH")
                        .num_args(0..)
                        .help("Paths with their query, `*` as wildcard (quote it); `#TAG` is a tag"),
                )
                .after_help(INVALIDATE_AFTER),
        )
        .subcommand(
            with_settings("explain", "Ask a running server what it knows of a URL, and why")
                .arg(Arg::new("url").value_name("URL").required(true).help("As a viewer would ask for it, such as http://www.example.com/a"))
                .after_help("Exit codes: 0 answered, 1 the server cannot be reached or refuses, 2 the URL or a flag is wrong."),
        )
        .subcommand(store_command())
        .subcommand(Command::new("version").about("Print the version"))
        .subcommand(
            Command::new("completions").about("Print a completion script for a shell").arg(
                Arg::new("shell")
                    .value_name("SHELL")
                    .required(true)
                    .value_parser(clap::value_parser!(Shell))
                    .help("The shell that will read the script"),
            ).after_help("Example: aspis completions bash > /etc/bash_completion.d/aspis"),
        )
        .subcommand(
            Command::new("flags").about("Print the reference of all flags").arg(
                Arg::new("markdown").long("markdown").action(ArgAction::SetTrue).help("As Markdown, which is the only form"),
            ),
        )
}

fn store_command() -> Command {
    let commands = StoreCommand::ALL.map(|command| {
        let (name, in_table) = command.names();
        let folders = Arg::new("folder").value_name("DIR").num_args(1..).required(true);
        with_arguments(Command::new(name).about(command.about()), in_table)
            .arg(folders.help("Every folder of the store, each as a server has it for --disk"))
    });
    Command::new("store")
        .about("Make, verify or describe the store of the disk tier")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .after_help(STORE_AFTER)
        .subcommands(commands)
}

fn with_settings(name: &'static str, about: &'static str) -> Command {
    with_arguments(Command::new(name).about(about), name)
}

/// Adds the flags that the table has for a command.
fn with_arguments(mut command: Command, in_table: &str) -> Command {
    for setting in settings_of(in_table) {
        command = command.arg(argument(setting));
    }
    command
}

/// Makes clap's view of one row of the table.
fn argument(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        Some(default) => default,
        None => setting.default_note,
    };
    let is_request = REQUESTS.iter().any(|request| std::ptr::eq(request, setting));
    let arg = Arg::new(setting.flag)
        .long(setting.flag)
        .help_heading((!is_request).then(|| heading(setting.flag)))
        .help(format!("{} [default: {default}]", setting.summary))
        .long_help(format!("{}\n{}\nDefault: {default}.", sentence(setting.summary), setting.detail));
    if setting.value_name.is_empty() {
        return arg.action(ArgAction::SetTrue);
    }
    // A value may begin with a dash (`--access-log -`); what it means is decided by the check.
    let arg = arg.value_name(setting.value_name).value_parser(ValueParser::string());
    let arg = if setting.flag == "access-log" { arg.allow_hyphen_values(true) } else { arg };
    arg.action(if setting.repeat { ArgAction::Append } else { ArgAction::Set })
}

/// Ends a summary with a full stop, unless it ends with dots of its own.
fn sentence(summary: &str) -> String {
    if summary.ends_with('.') { summary.to_owned() } else { format!("{summary}.") }
}

/// Returns the heading of the group to which a flag belongs: that of the last group which begins at or before it.
fn heading(flag: &str) -> &'static str {
    let mut heading = GROUPS[0].1;
    for setting in aspis_config::settings::SETTINGS {
        if let Some((_, name)) = GROUPS.iter().find(|(first, _)| *first == setting.flag) {
            heading = name;
        }
        if setting.flag == flag {
            break;
        }
    }
    heading
}

/// Words an error so that it names the flag, the value and what is accepted.
fn explain(error: &clap::Error, args: &[OsString]) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let word = |at: usize| args.get(at).and_then(|arg| arg.to_str()).unwrap_or_default();
    let subcommand = if word(1) == "store" { format!("store {}", word(2)) } else { word(1).to_owned() };
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let given = context(ContextKind::InvalidArg).unwrap_or_default();
            let mut text = if given.starts_with('-') {
                format!("error: unknown flag '{given}'{}", value_after(&given, args))
            } else {
                format!("error: unexpected value '{given}': values belong to flags")
            };
            if let Some(similar) = context(ContextKind::SuggestedArg) {
                text.push_str(&format!("; did you mean '{similar}'?"));
            }
            text.push('\n');
            let accepted: Vec<String> =
                settings_of(&subcommand).map(|setting| format!("--{}", setting.flag)).collect();
            if accepted.is_empty() {
                text.push_str("See 'aspis --help'.\n");
            } else {
                text.push_str(&format!(
                    "Accepted: {}.\nSee 'aspis {subcommand} --help'.\n",
                    accepted.join(", ")
                ));
            }
            text
        }
        kind @ (ErrorKind::InvalidSubcommand | ErrorKind::MissingSubcommand) => {
            // For a missing one clap's context has the program's own name.
            let given =
                context(ContextKind::InvalidSubcommand).filter(|_| kind == ErrorKind::InvalidSubcommand);
            let within = command();
            let (within, help) = match word(1) {
                "store" => (within.find_subcommand("store").cloned().unwrap_or(within), "aspis store --help"),
                _ => (within, "aspis --help"),
            };
            let names: Vec<&str> = within.get_subcommands().map(Command::get_name).collect();
            let problem = match given {
                Some(given) => format!("unknown subcommand '{given}'"),
                None => "a subcommand is missing".to_owned(),
            };
            format!("error: {problem}\nAccepted: {}.\nSee '{help}'.\n", names.join(", "))
        }
        _ => error.render().to_string(),
    }
}

/// Returns ` with value 'x'` if a value was given with an unknown flag.
fn value_after(flag: &str, args: &[OsString]) -> String {
    let texts: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let attached = texts.iter().find_map(|text| text.strip_prefix(flag)?.strip_prefix('='));
    let next = || {
        let at = texts.iter().position(|text| text == flag)?;
        texts.get(at + 1).map(|text| text.as_ref()).filter(|text| !text.starts_with('-'))
    };
    attached.or_else(next).map(|value| format!(" with value '{value}'")).unwrap_or_default()
}
