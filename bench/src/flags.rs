//! Flags that several commands have, and what is read from them.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use std::path::PathBuf;

pub(crate) fn number_flag(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
    range: std::ops::RangeInclusive<u64>,
) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .default_value(default)
        .value_parser(value_parser!(u64).range(range))
        .help(help)
}

pub(crate) fn size_flag(default: &'static str) -> Arg {
    Arg::new("size")
        .long("size")
        .value_name("SIZE")
        .default_value(default)
        .value_parser(parse_size)
        .help("Length of the body: 1024, 1KiB, 64MiB, 2GiB")
}

/// A flag that takes some of these names, in one go or again and again.
pub(crate) fn names_flag(
    name: &'static str,
    value: &'static str,
    names: impl Into<ValueParser>,
    help: &'static str,
) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(value)
        .action(ArgAction::Append)
        .num_args(1..)
        .value_parser(names)
        .help(help)
}

pub(crate) fn state_folder_flag() -> Arg {
    Arg::new("folder")
        .long("folder")
        .value_name("DIR")
        .value_parser(value_parser!(PathBuf))
        .help("Keeps the server's state below this folder, if not among the temporary files: on the disk that is to be measured")
}

pub(crate) fn assert_flag(help: &'static str) -> Arg {
    Arg::new("assert").long("assert").action(ArgAction::SetTrue).help(help)
}

pub(crate) fn aspis_flag() -> Arg {
    Arg::new("aspis")
        .long("aspis")
        .value_name("PATH")
        .help("The aspis binary, if not the one beside this program")
}

pub(crate) fn number(arguments: &ArgMatches, name: &str) -> u64 {
    arguments.get_one(name).copied().unwrap_or_default()
}

pub(crate) fn size(arguments: &ArgMatches) -> u64 {
    number(arguments, "size")
}

pub(crate) fn text<'a>(arguments: &'a ArgMatches, name: &str) -> &'a str {
    arguments.get_one::<String>(name).map_or("", String::as_str)
}

/// Returns all values of a flag that may be repeated.
pub(crate) fn words(arguments: &ArgMatches, name: &str) -> Vec<String> {
    arguments.get_many::<String>(name).into_iter().flatten().cloned().collect()
}

/// Returns the file or folder that a flag names.
pub(crate) fn path(arguments: &ArgMatches, name: &str) -> Option<PathBuf> {
    arguments.get_one::<PathBuf>(name).cloned()
}

/// Reads `1024`, `1KiB`, `64MiB` or `2GiB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    number
        .zip(scale)
        .and_then(|(number, scale): (u64, u64)| number.checked_mul(scale))
        .filter(|size| (1..=1 << 40).contains(size))
        .ok_or_else(|| "expected a size such as 1KiB or 2GiB, up to 1024GiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("1KiB"), Ok(1024));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert!(parse_size("2GB").is_err());
        assert!(parse_size("0").is_err());
        assert!(parse_size("99999999999GiB").is_err());
    }
}
