//! The one table of settings: flag, value, default, bounds, who takes it, and what the number costs.
//!
//! The command line, `--help`, completions and `docs/flags.md` are made from it by the daemon and [`markdown`](crate::markdown);
//! [`check`](crate::check()) takes defaults and bounds from it. A setting exists only here, in the part of the table that `settings/` has for its
//! group. The flags of the commands beside serving are in a table of their own, `settings/requests.rs`.

mod caching;
mod disk;
mod machine;
mod requests;
mod sides;

pub use requests::REQUESTS;

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The name without dashes.
    pub flag: &'static str,
    /// What stands for the value in help; empty for a switch.
    pub value_name: &'static str,
    /// The text that counts when the flag is absent; `None` where there is none or it is worked out.
    pub default: Option<&'static str>,
    /// How the default reads where `default` cannot say it; empty otherwise.
    pub default_note: &'static str,
    /// Whether the flag may be given more than once.
    pub repeat: bool,
    /// The kind of value and its bounds.
    pub kind: Kind,
    /// The subcommands that take the flag.
    pub commands: &'static [&'static str],
    /// One line for `-h`.
    pub summary: &'static str,
    /// What the setting does, why one would change it, and what the number costs.
    pub detail: &'static str,
}

/// The kind of a value, with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `http://` or `https://`, host, optional port and path prefix.
    OriginUrl,
    /// `ADDRESS:PORT`, `[ADDRESS]:PORT` or `:PORT`.
    Listen,
    /// As `Listen`, `unix:PATH` or `off`.
    Admin,
    /// A path of a file or socket.
    Path,
    /// Any text; the server judges it.
    Text,
    /// A path, `-` or `off`.
    Log,
    /// `viewer`, `origin` or a host name.
    OriginHost,
    /// A count, or a list of core numbers.
    Cores,
    /// A token that begins with a letter.
    Name,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Address blocks, separated by commas or by repetition.
    Networks,
    /// On when given.
    Switch,
    /// Bytes between these bounds.
    Size {
        /// The least value.
        min: u64,
        /// The largest value.
        max: u64,
    },
    /// A span of time between these bounds, in milliseconds.
    Duration {
        /// The least value.
        min_ms: u64,
        /// The largest value.
        max_ms: u64,
    },
    /// A whole number between these bounds.
    Count {
        /// The least value.
        min: u64,
        /// The largest value.
        max: u64,
    },
}

/// Returns the setting of that name.
pub fn setting(flag: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.flag == flag)
}

/// Returns the settings that a subcommand takes, in the table's order.
pub fn settings_of(command: &str) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().chain(REQUESTS).filter(move |setting| setting.commands.contains(&command))
}

const ALL: &[&str] = &["serve", "demo", "check"];
/// What decides about the form of a store.
const FORMATS: &[&str] = &["serve", "demo", "check", "store format"];
/// The demo brings its own origin.
const WITH_ORIGIN: &[&str] = &["serve", "check"];

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
/// Timeouts on a viewer or origin: long enough for any long poll, short enough that a typing error shows.
const TIMEOUT_MAX: u64 = 24 * HOUR;
/// 100 years of 365 days (T-6).
const TTL_MAX: u64 = 3_153_600_000 * SECOND;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// A setting that takes one value and is known to every subcommand; the table's entries override what differs.
const PLAIN: Setting = Setting {
    flag: "",
    value_name: "",
    default: None,
    default_note: "",
    repeat: false,
    kind: Kind::Switch,
    commands: ALL,
    summary: "",
    detail: "",
};

/// Every setting, in the order of the help: where, who, disk, what is cached, origin, viewers, limits.
pub static SETTINGS: &[Setting] = &TABLE;

const PARTS: [&[Setting]; 4] = [machine::ROWS, disk::ROWS, caching::ROWS, sides::ROWS];
const COUNT: usize = PARTS[0].len() + PARTS[1].len() + PARTS[2].len() + PARTS[3].len();
static TABLE: [Setting; COUNT] = joined(PARTS);

/// Puts the parts of the table behind each other.
const fn joined(parts: [&[Setting]; 4]) -> [Setting; COUNT] {
    let mut table = [PLAIN; COUNT];
    let (mut part, mut at) = (0, 0);
    while part < parts.len() {
        let mut row = 0;
        while row < parts[part].len() {
            table[at] = parts[part][row];
            (row, at) = (row + 1, at + 1);
        }
        part += 1;
    }
    table
}

#[cfg(test)]
mod tests;
