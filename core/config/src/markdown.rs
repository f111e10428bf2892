//! The reference page of flags, written from the settings table.
//!
//! The daemon's test compares `docs/flags.md` with [`flags_page`], so the page cannot fall behind the table.

use std::fmt::Write;
use std::time::Duration;

use crate::settings::{Kind, REQUESTS, SETTINGS, Setting};
use crate::values::{write_duration, write_size};

/// Returns the whole text of `docs/flags.md`.
pub fn flags_page() -> String {
    let mut page = String::from(
        "# Flags\n\nThis page is written from the settings table in `core/config`; do not edit it by hand.\n\
         Sizes read `64MiB`, `2GiB`, `500MB`; durations `500ms`, `10s`, `24h`, `1h30m`.\n\n\
         | flag | default | accepted | subcommands |\n| --- | --- | --- | --- |\n",
    );
    for setting in SETTINGS {
        row(setting, &mut page);
    }
    page.push_str(
        "\nThe commands beside serving take these; the settings of the server are below.\n\n\
         | flag | default | accepted | subcommands |\n| --- | --- | --- | --- |\n",
    );
    for setting in REQUESTS {
        row(setting, &mut page);
    }
    for setting in REQUESTS {
        let _ = write!(page, "\n`{}`: {}.\n{}\n", usage(setting), setting.summary, setting.detail);
    }
    for setting in SETTINGS {
        let _ = write!(
            page,
            "\n## {}\n\n`{}`\n\n{}.\n{}\n\nDefault: {}. Accepted: {}.{}\n",
            setting.flag,
            usage(setting),
            setting.summary,
            setting.detail,
            default(setting),
            accepted(setting),
            if setting.repeat { " May be repeated." } else { "" }
        );
    }
    page
}

/// Writes a row of the table. Only settings of the server have a section of their own.
fn row(setting: &Setting, page: &mut String) {
    let commands = setting.commands.join(", ");
    let accepted = escaped(&accepted(setting));
    let usage = escaped(&usage(setting));
    let linked = match SETTINGS.iter().any(|own| std::ptr::eq(own, setting)) {
        true => format!("[`{usage}`](#{})", setting.flag),
        false => format!("`{usage}`"),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(page, "| {linked} | {} | {accepted} | {commands} |", default(setting));
}

/// Returns the flag with its value's name, as on a command line.
pub fn usage(setting: &Setting) -> String {
    match setting.value_name {
        "" => format!("--{}", setting.flag),
        value_name => format!("--{} {value_name}", setting.flag),
    }
}

/// Returns the default as text.
pub fn default(setting: &Setting) -> String {
    match setting.default {
        Some(default) => format!("`{default}`"),
        None => setting.default_note.to_string(),
    }
}

/// Returns what values a setting takes, with its bounds.
pub fn accepted(setting: &Setting) -> String {
    match setting.kind {
        Kind::OriginUrl => "`http://` or `https://`, a host, optionally a port and a path prefix".to_string(),
        Kind::Listen => "`ADDRESS:PORT`, `[ADDRESS]:PORT`, `:PORT`".to_string(),
        Kind::Admin => "`ADDRESS:PORT`, `[ADDRESS]:PORT`, `:PORT`, `unix:PATH`, `off`".to_string(),
        Kind::Path => "a path".to_string(),
        Kind::Text => "a text".to_string(),
        Kind::Log => "a path, `-`, `off`".to_string(),
        Kind::OriginHost => "`viewer`, `origin`, a host name".to_string(),
        Kind::Cores => "a count such as `2`, a list such as `0,2-3`".to_string(),
        Kind::Name => "a token that begins with a letter, at most 64 bytes".to_string(),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Kind::Networks => "address blocks, separated by commas".to_string(),
        Kind::Switch => "no value".to_string(),
        Kind::Size { min, max } => format!("{} to {}", write_size(min), write_size(max)),
        Kind::Duration { min_ms, max_ms } => {
            let [min, max] = [min_ms, max_ms].map(|ms| write_duration(Duration::from_millis(ms)));
            format!("{min} to {max}")
        }
        Kind::Count { min, max } => format!("{min} to {max}"),
    }
}

/// A bar inside a table cell ends the cell unless escaped.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_a_row_and_a_section() {
        let page = flags_page();
        for setting in SETTINGS {
            assert!(page.contains(&format!("(#{})", setting.flag)), "{}", setting.flag);
            assert!(page.contains(&format!("\n## {}\n", setting.flag)), "{}", setting.flag);
            assert!(page.contains(setting.detail), "{}", setting.flag);
        }
        assert!(page.contains("Default: `10s`. Accepted: 10ms to 1m."));
    }

    #[test]
    fn rows_have_four_cells() {
        for row in flags_page().lines().filter(|line| line.starts_with('|')) {
            assert_eq!(row.replace("\\|", "").matches('|').count(), 5, "{row}");
        }
    }
}
