//! From what was given to [`Settings`], or to the one sentence that says what is wrong.
//!
//! Fed by the daemon with [`Raw`]; defaults and bounds come from the settings table. Invariant: `Settings` exists only if every value
//! and every relation between values holds.

use std::fmt;
use std::time::Duration;

use crate::checked::{FormatSettings, RequestDirectives, Semantics, Settings};
use crate::raw::Raw;
use crate::settings::{Kind, SETTINGS, Setting, setting};
use crate::values::{self, Accepted};

/// CloudFront's default TTL where the origin states none: 24 hours (T-15).
const CLOUDFRONT_DEFAULT_TTL: Duration = Duration::from_secs(86_400);
/// CloudFront's error caching minimum TTL: 10 seconds (T-33).
const CLOUDFRONT_ERROR_TTL: Duration = Duration::from_secs(10);
/// The maximum TTL where none is given: 365 days (T-15).
const MAX_TTL_DEFAULT: Duration = Duration::from_secs(31_536_000);

/// The largest body that is stored with a disk: 50 GiB.
const OBJECT_SIZE_MAX_WITH_DISK: u64 = 50 << 30;

/// A setting that is refused. `Display` is the whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The flag, without dashes.
    pub flag: String,
    /// The value that was given; `None` if the flag is missing or unknown.
    pub value: Option<String>,
    /// What is accepted instead, as the end of "expected ...".
    pub accepted: String,
}

impl fmt::Display for SettingError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flag, value, accepted } = self;
        match value {
            Some(value) => write!(out, "invalid value '{value}' for '--{flag}': expected {accepted}"),
            None if setting(flag).is_some() => write!(out, "'--{flag}' is missing: expected {accepted}"),
            None => write!(out, "unknown flag '--{flag}': expected {accepted}"),
        }
    }
}

impl std::error::Error for SettingError {}

/// Checks everything that was given, or names the first thing that is wrong.
pub fn check(raw: &Raw) -> Result<Settings, SettingError> {
    refuse_unknown_and_repeated(raw)?;
    let semantics = one(raw, "semantics", values::semantics)?;
    let ttl = ttl_bounds(raw, semantics)?;
    let settings = Settings {
        origin: one(raw, "origin", values::origin_url)?,
        listen: each(raw, "listen", values::listen)?,
        listen_unix: optional(raw, "listen-unix", values::path)?,
        congestion_control: optional(raw, "congestion-control", values::name)?,
        origin_ca: optional(raw, "origin-ca", values::path)?,
        origin_host: one(raw, "origin-host", values::origin_host)?,
        cores: optional(raw, "cores", values::cores)?.unwrap_or(crate::Cores::All),
        memory: optional(raw, "memory", |text| bounded_size("memory", text))?,
        replica_slots: count(raw, "replica-slots")?,
        admin: one(raw, "admin", values::admin)?,
        admin_token: optional(raw, "admin-token", values::path)?,
        purge_from: each(raw, "purge-from", values::networks)?.into_iter().flatten().collect(),
        cache_tag_header: optional(raw, "cache-tag-header", values::name)?,
        state: optional(raw, "state", values::path)?.or_else(|| raw.values("disk").next().map(str::to_owned)),
        disk: disk(raw)?,
        disk_size: optional(raw, "disk-size", |text| bounded_size("disk-size", text))?,
        disk_write_budget: optional(raw, "disk-write-budget", |text| {
            bounded_size("disk-write-budget", text.strip_suffix("/s").unwrap_or(text))
        })?,
        disk_flush_timeout: duration(raw, "disk-flush-timeout")?,
        disk_mapped: optional(raw, "disk-mapped", |text| bounded_size("disk-mapped", text))?,
        disk_mean_object: one(raw, "disk-mean-object", |text| bounded_size("disk-mean-object", text))?,
        access_log: one(raw, "access-log", values::access_log)?,
        name: one(raw, "name", values::name)?,
        semantics,
        min_ttl: ttl.min,
        default_ttl: ttl.default,
        max_ttl: ttl.max,
        error_ttl: error_ttl(raw, semantics)?,
        hit_for_miss: duration(raw, "hit-for-miss")?,
        heuristic: by_semantics(raw, "heuristic-freshness", semantics, values::switch)?,
        origin_age: one(raw, "origin-age", values::origin_age)?,
        vary: by_semantics(raw, "vary", semantics, values::vary)?,
        language_match: one(raw, "language-match", values::language_match)?,
        store_set_cookie: one(raw, "store-set-cookie", values::switch)?,
        targeted: by_semantics(raw, "cdn-cache-control", semantics, values::switch)?,
        surrogate: one(raw, "surrogate-control", values::switch)?,
        invalidate_on_unsafe: by_semantics(raw, "invalidate-on-unsafe", semantics, values::switch)?,
        request_directives: request_directives(raw)?,
        stale_on_error: by_semantics(raw, "stale-on-error", semantics, values::stale_on_error)?,
        connect_timeout: duration(raw, "connect-timeout")?,
        read_timeout: duration(raw, "read-timeout")?,
        connection_attempts: count(raw, "connection-attempts")?,
        origin_keepalive_timeout: duration(raw, "origin-keepalive-timeout")?,
        origin_max_connections: count(raw, "origin-max-connections")?,
        origin_queue: count(raw, "origin-queue")?,
        origin_queue_timeout: duration(raw, "origin-queue-timeout")?,
        drain_timeout: duration(raw, "drain-timeout")?,
        trusted_proxies: each(raw, "trusted-proxies", values::networks)?.into_iter().flatten().collect(),
        proxy_protocol: switch(raw, "proxy-protocol")?,
        head_timeout: duration(raw, "head-timeout")?,
        body_timeout: duration(raw, "body-timeout")?,
        idle_timeout: duration(raw, "idle-timeout")?,
        send_timeout: duration(raw, "send-timeout")?,
        max_connections: count(raw, "max-connections")?,
        shed_after: duration(raw, "shed-after")?,
        object_size_max: object_size_max(raw)?,
        request_body_max: one(raw, "request-body-max", |text| bounded_size("request-body-max", text))?,
    };
    check_listeners(&settings)?;
    check_object_size(raw, &settings)?;
    Ok(settings)
}

/// Checks what was given to `aspis store format`.
pub fn check_format(raw: &Raw) -> Result<FormatSettings, SettingError> {
    Ok(FormatSettings {
        size: one(raw, "disk-size", |text| bounded_size("disk-size", text))?,
        cores: optional(raw, "cores", values::cores)?.unwrap_or(crate::Cores::All),
    })
}

/// Each folder is named once, and what else concerns the store needs one.
fn disk(raw: &Raw) -> Result<Vec<String>, SettingError> {
    let folders = each(raw, "disk", values::path)?;
    if let Some((_, again)) = folders.iter().enumerate().find(|(at, folder)| folders[..*at].contains(*folder))
    {
        return Err(refused_value("disk", again, "each folder once".to_string()));
    }
    let needing = ["disk-size", "disk-write-budget"];
    match needing.into_iter().find(|flag| folders.is_empty() && raw.contains(flag)) {
        Some(flag) => Err(refused(raw, flag, "--disk DIR beside it".to_string())),
        None => Ok(folders),
    }
}

/// What a setting is where it is not given: by semantics, as the table's note says.
fn by_semantics<T>(
    raw: &Raw,
    flag: &'static str,
    semantics: Semantics,
    parse: impl Fn(&str) -> Result<T, Accepted>,
) -> Result<T, SettingError> {
    let fallback = match (flag, semantics) {
        ("vary", Semantics::Rfc9111) => "origin",
        ("vary", Semantics::Cloudfront) => "ignore",
        ("stale-on-error", _) => semantics.as_str(),
        (_, Semantics::Rfc9111) => "on",
        (_, Semantics::Cloudfront) => "off",
    };
    match optional(raw, flag, &parse)? {
        Some(value) => Ok(value),
        None => parse(fallback).map_err(|accepted| refused_value(flag, fallback, accepted)),
    }
}

/// CloudFront's error TTL is 10 s (T-33); RFC 9111 has none.
fn error_ttl(raw: &Raw, semantics: Semantics) -> Result<Option<Duration>, SettingError> {
    let given = optional(raw, "error-ttl", |text| whole_seconds("error-ttl", text))?;
    Ok(match semantics {
        Semantics::Rfc9111 => given,
        Semantics::Cloudfront => Some(given.unwrap_or(CLOUDFRONT_ERROR_TTL)),
    })
}

/// Blocks add up over repetitions; `off` and `on` stand alone.
fn request_directives(raw: &Raw) -> Result<RequestDirectives, SettingError> {
    let mut given = each(raw, "request-directives", values::request_directives)?;
    if given.len() == 1 {
        return Ok(given.remove(0));
    }
    let mut blocks = Vec::new();
    for value in given {
        match value {
            RequestDirectives::From(more) => blocks.extend(more),
            RequestDirectives::Off | RequestDirectives::On => {
                return Err(refused(
                    raw,
                    "request-directives",
                    "off, on, or address blocks alone".to_string(),
                ));
            }
        }
    }
    Ok(RequestDirectives::From(blocks))
}

/// The three TTLs, each at its default if not given.
struct TtlBounds {
    min: Duration,
    default: Option<Duration>,
    max: Duration,
}

/// Minimum <= default <= maximum, and what is left out follows what is given (T-15).
fn ttl_bounds(raw: &Raw, semantics: Semantics) -> Result<TtlBounds, SettingError> {
    let whole = |flag: &'static str| move |text: &str| whole_seconds(flag, text);
    let min = one(raw, "min-ttl", whole("min-ttl"))?;
    let given = optional(raw, "default-ttl", whole("default-ttl"))?;
    let default = match semantics {
        Semantics::Rfc9111 => given,
        Semantics::Cloudfront => Some(given.unwrap_or(CLOUDFRONT_DEFAULT_TTL.max(min))),
    };
    let floor = min.max(default.unwrap_or(min));
    let max = optional(raw, "max-ttl", whole("max-ttl"))?.unwrap_or(MAX_TTL_DEFAULT.max(floor));
    if given.is_some_and(|given| given < min) {
        let least = values::write_duration(min);
        return Err(refused(raw, "default-ttl", format!("at least --min-ttl, which is {least}")));
    }
    if max < floor {
        let (name, note) = match default {
            Some(default) if default > min && given.is_none() => ("--default-ttl", " when not given"),
            Some(default) if default > min => ("--default-ttl", ""),
            _ => ("--min-ttl", ""),
        };
        let least = values::write_duration(floor);
        return Err(refused(raw, "max-ttl", format!("at least {name}, which is {least}{note}")));
    }
    Ok(TtlBounds { min, default, max })
}

/// One address cannot be taken twice; port 0 may be, the kernel gives two.
fn check_listeners(settings: &Settings) -> Result<(), SettingError> {
    let addresses = || settings.listen.iter().map(|listen| listen.0);
    let taken_before = |at: usize, address| addresses().take(at).any(|other| other == address);
    for (at, address) in addresses().enumerate().filter(|(_, address)| address.port() != 0) {
        if taken_before(at, address) {
            return Err(SettingError {
                flag: "listen".to_string(),
                value: Some(address.to_string()),
                accepted: "each address once".to_string(),
            });
        }
        if settings.admin == crate::AdminAddress::Address(address) {
            return Err(SettingError {
                flag: "admin".to_string(),
                value: Some(address.to_string()),
                accepted: "another address than --listen".to_string(),
            });
        }
    }
    Ok(())
}

/// with a disk what is larger than memory is stored as well.
fn object_size_max(raw: &Raw) -> Result<u64, SettingError> {
    let given = optional(raw, "object-size-max", |text| bounded_size("object-size-max", text))?;
    match given {
        Some(size) => Ok(size),
        None if raw.contains("disk") => Ok(OBJECT_SIZE_MAX_WITH_DISK),
        None => one(raw, "object-size-max", |text| bounded_size("object-size-max", text)),
    }
}

/// Without a disk an object must fit into the memory that was given.
fn check_object_size(raw: &Raw, settings: &Settings) -> Result<(), SettingError> {
    match settings.memory {
        Some(memory)
            if raw.contains("object-size-max")
                && settings.disk.is_empty()
                && settings.object_size_max > memory =>
        {
            let most = values::write_size(memory);
            Err(refused(
                raw,
                "object-size-max",
                format!("at most --memory, which is {most}, or --disk DIR beside it"),
            ))
        }
        _ => Ok(()),
    }
}

fn refuse_unknown_and_repeated(raw: &Raw) -> Result<(), SettingError> {
    for (flag, value) in raw.iter() {
        let Some(setting) = setting(flag) else {
            let nearest = SETTINGS.iter().min_by_key(|known| distance(flag, known.flag));
            let accepted = match nearest {
                Some(known) if distance(flag, known.flag) <= 3 => format!("'--{}', perhaps", known.flag),
                _ => "one of those that --help lists".to_string(),
            };
            return Err(SettingError { flag: flag.to_string(), value: None, accepted });
        };
        if !setting.repeat && raw.values(flag).count() > 1 {
            return Err(refused_value(flag, value, "it once".to_string()));
        }
    }
    Ok(())
}

/// Returns how many edits turn one flag into another.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// Returns the value given, or the table's default; a flag that has neither is missing.
fn one<T>(raw: &Raw, flag: &str, parse: impl Fn(&str) -> Result<T, Accepted>) -> Result<T, SettingError> {
    let Some(text) = raw.values(flag).next().or(known(flag).default) else {
        return Err(SettingError {
            flag: flag.to_string(),
            value: None,
            accepted: parse("").err().unwrap_or_default(),
        });
    };
    parse(text).map_err(|accepted| refused_value(flag, text, accepted))
}

fn optional<T>(
    raw: &Raw,
    flag: &str,
    parse: impl Fn(&str) -> Result<T, Accepted>,
) -> Result<Option<T>, SettingError> {
    if raw.contains(flag) { one(raw, flag, parse).map(Some) } else { Ok(None) }
}

fn each<T>(
    raw: &Raw,
    flag: &str,
    parse: impl Fn(&str) -> Result<T, Accepted>,
) -> Result<Vec<T>, SettingError> {
    let fallback = if raw.contains(flag) { None } else { known(flag).default };
    raw.values(flag)
        .chain(fallback)
        .map(|text| parse(text).map_err(|accepted| refused_value(flag, text, accepted)))
        .collect()
}

fn switch(raw: &Raw, flag: &str) -> Result<bool, SettingError> {
    match raw.values(flag).next() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(text) => Err(refused_value(flag, text, "no value: it is on when given".to_string())),
    }
}

fn duration(raw: &Raw, flag: &'static str) -> Result<Duration, SettingError> {
    one(raw, flag, |text| bounded_duration(flag, text))
}

fn bounded_duration(flag: &str, text: &str) -> Result<Duration, Accepted> {
    let value = values::duration(text)?;
    let Kind::Duration { min_ms, max_ms } = known(flag).kind else {
        unreachable!("--{flag} is a duration in the table")
    };
    let (min, max) = (Duration::from_millis(min_ms), Duration::from_millis(max_ms));
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(format!("a duration from {} to {}", values::write_duration(min), values::write_duration(max)))
}

fn whole_seconds(flag: &str, text: &str) -> Result<Duration, Accepted> {
    let value = bounded_duration(flag, text)?;
    if value.subsec_millis() == 0 { Ok(value) } else { Err("whole seconds, such as 10s or 24h".to_string()) }
}

fn bounded_size(flag: &str, text: &str) -> Result<u64, Accepted> {
    let value = values::size(text)?;
    let Kind::Size { min, max } = known(flag).kind else { unreachable!("--{flag} is a size in the table") };
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(format!("a size from {} to {}", values::write_size(min), values::write_size(max)))
}

fn count<T: TryFrom<u64>>(raw: &Raw, flag: &str) -> Result<T, SettingError> {
    one(raw, flag, |text| {
        let Kind::Count { min, max } = known(flag).kind else {
            unreachable!("--{flag} is a count in the table")
        };
        let accepted = || format!("a whole number from {min} to {max}");
        let value = values::count(text).map_err(|_| accepted())?;
        if !(min..=max).contains(&value) {
            return Err(accepted());
        }
        T::try_from(value).map_err(|_| accepted())
    })
}

fn known(flag: &str) -> &'static Setting {
    setting(flag).expect("only flags of the table are asked for")
}

fn refused(raw: &Raw, flag: &str, accepted: String) -> SettingError {
    let value = raw.values(flag).next().or(known(flag).default).unwrap_or_default();
    refused_value(flag, value, accepted)
}

fn refused_value(flag: &str, value: &str, accepted: String) -> SettingError {
    SettingError { flag: flag.to_string(), value: Some(value.to_string()), accepted }
}

#[cfg(test)]
mod tests;
