//! Texts to values: sizes, durations, addresses, URLs, core lists, networks, names.
//!
//! [`check`](crate::check()) feeds them what the operator gave and adds flag and value to a refusal. Invariants: no text panics;
//! a refusal says what is accepted, as the end of the sentence "expected ...".

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use aspis_wire::Scheme;
use ipnet::IpNet;

use crate::behavior::{LanguageMatch, OriginAge, StaleOnError, Switch, VaryRule};
use crate::checked::{
    AccessLog, AdminAddress, Cores, ListenAddress, OriginHost, OriginUrl, RequestDirectives, Semantics,
};

/// What would have been accepted, as the end of "expected ...".
pub type Accepted = String;

/// The longest name (`--name`).
const NAME_LEN_MAX: usize = 64;
/// The largest core number; the kernel's own limit is 8192.
const CORE_MAX: usize = 8191;

/// Reads a size: a whole number with `B`, `KiB`, `MiB`, `GiB`, `TiB` or `KB`, `MB`, `GB`, `TB`; without a unit, bytes.
pub fn size(text: &str) -> Result<u64, Accepted> {
    let accepted = || "a size such as 64MiB, 2GiB or 500MB".to_string();
    let (number, unit) = split_number(text);
    let number: u64 = number.parse().map_err(|_| accepted())?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(accepted()),
    };
    number.checked_mul(factor).ok_or_else(accepted)
}

/// Writes a size the way [`size`] reads it, in the largest unit that divides it.
pub fn write_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 6] = [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1_000_000_000, "GB"),
        (1 << 10, "KiB"),
        (1, "B"),
    ];
    let whole = |&&(factor, _): &&(u64, &str)| bytes >= factor && bytes.is_multiple_of(factor);
    match UNITS.iter().find(whole) {
        Some((factor, unit)) => format!("{}{unit}", bytes / factor),
        None => "0".to_string(),
    }
}

/// Reads a duration: numbers with `ms`, `s`, `m`, `h` or `d`, largest unit first, as `1h30m`; `0` needs no unit.
pub fn duration(text: &str) -> Result<Duration, Accepted> {
    let accepted = || "a duration such as 500ms, 10s, 24h or 1h30m".to_string();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_ms = 0_u64;
    let mut unit_before = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let number: u64 = number.parse().map_err(|_| accepted())?;
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(accepted()),
        };
        if unit_ms >= unit_before {
            return Err(accepted());
        }
        let part = number.checked_mul(unit_ms).ok_or_else(accepted)?;
        total_ms = total_ms.checked_add(part).ok_or_else(accepted)?;
        unit_before = unit_ms;
        rest = next;
    }
    if unit_before == u64::MAX { Err(accepted()) } else { Ok(Duration::from_millis(total_ms)) }
}

/// Writes a duration the way [`duration`] reads it.
pub fn write_duration(value: Duration) -> String {
    let mut rest = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit_ms, unit) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
        if rest >= unit_ms {
            text.push_str(&format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    if text.is_empty() { "0".to_string() } else { text }
}

/// Reads a whole number.
pub fn count(text: &str) -> Result<u64, Accepted> {
    match all_digits(text) {
        true => text.parse().map_err(|_| "a whole number".to_string()),
        false => Err("a whole number".to_string()),
    }
}

/// Reads a listen address: `127.0.0.1:8080`, `[::]:8080`, `localhost:8080`, or `:8080` for every address, IPv4 and IPv6.
pub fn listen(text: &str) -> Result<ListenAddress, Accepted> {
    socket_address(text)
        .map(ListenAddress)
        .ok_or_else(|| "an address and port such as 127.0.0.1:8080, [::]:8080 or :8080".to_string())
}

/// Reads an admin address: a listen address, `unix:` and a path, or `off`.
pub fn admin(text: &str) -> Result<AdminAddress, Accepted> {
    if text == "off" {
        return Ok(AdminAddress::Off);
    }
    if let Some(path) = text.strip_prefix("unix:")
        && let Ok(path) = self::path(path)
    {
        return Ok(AdminAddress::Unix(path));
    }
    socket_address(text).map(AdminAddress::Address).ok_or_else(|| {
        "an address and port such as 127.0.0.1:9080, [::1]:9080, unix:/run/aspis/admin.sock or off"
            .to_string()
    })
}

fn socket_address(text: &str) -> Option<SocketAddr> {
    if let Some(port) = text.strip_prefix(':') {
        return Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port_number(port)?));
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port_number(port)?));
    }
    SocketAddr::from_str(text).ok()
}

fn port_number(text: &str) -> Option<u16> {
    if all_digits(text) { text.parse().ok() } else { None }
}

/// Reads a path: any text that is not empty and has no NUL.
pub fn path(text: &str) -> Result<String, Accepted> {
    if text.is_empty() || text.contains('\0') { Err("a path".to_string()) } else { Ok(text.to_string()) }
}

/// Reads where the access log goes: `off`, `-` or a path.
pub fn access_log(text: &str) -> Result<AccessLog, Accepted> {
    match text {
        "off" => Ok(AccessLog::Off),
        "-" => Ok(AccessLog::Stdout),
        _ => path(text).map(AccessLog::Path).map_err(|_| "a path, - for standard output, or off".to_string()),
    }
}

/// Reads an origin URL: `http` or `https`, host, optional port and path prefix; no user, query or fragment (D-16).
///
/// A slash at the end of the prefix is dropped, so that prefix and path join with one slash (D-17).
pub fn origin_url(text: &str) -> Result<OriginUrl, Accepted> {
    let accepted = || "a URL such as http://127.0.0.1:8000 or https://origin.example/prefix".to_string();
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
        _ => return Err(accepted()),
    };
    let (authority, prefix) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (host, port) = host_and_port(authority).ok_or_else(accepted)?;
    let prefix = prefix.trim_end_matches('/');
    if !prefix.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#')) {
        return Err(accepted());
    }
    let port = port.unwrap_or(scheme.default_port());
    if port == 0 {
        return Err(accepted());
    }
    Ok(OriginUrl { scheme, host, port, path_prefix: prefix.to_string() })
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`; the host comes back in lower case and without brackets.
fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        let address = Ipv6Addr::from_str(host).ok()?;
        let port = match port {
            "" => None,
            _ => Some(port_number(port.strip_prefix(':')?)?),
        };
        return Some((address.to_string(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port_number(port)?)),
        None => (authority, None),
    };
    is_host_name(host).then(|| (host.to_ascii_lowercase(), port))
}

/// A DNS name or IPv4 address: labels of letters, digits, `-` and `_`, at most 63 bytes each and 253 together.
fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label_is_valid = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(label_is_valid)
}

/// Reads which Host the origin sees: `viewer`, `origin`, or a host name with optional port.
pub fn origin_host(text: &str) -> Result<OriginHost, Accepted> {
    match text {
        "viewer" => Ok(OriginHost::Viewer),
        "origin" => Ok(OriginHost::Origin),
        name => match host_and_port(name) {
            Some(_) => Ok(OriginHost::Name(name.to_ascii_lowercase())),
            None => Err("viewer, origin, or a host name such as www.example.com".to_string()),
        },
    }
}

/// Reads the cores: one number is a count, anything with `,` or `-` a list of core numbers.
pub fn cores(text: &str) -> Result<Cores, Accepted> {
    let accepted = || "a count such as 2, or a list of cores such as 0,2-3".to_string();
    if all_digits(text) {
        return match text.parse() {
            Ok(count @ 1..=CORE_MAX) => Ok(Cores::Count(count)),
            _ => Err(accepted()),
        };
    }
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) =
            (core_number(first).ok_or_else(accepted)?, core_number(last).ok_or_else(accepted)?);
        if first > last {
            return Err(accepted());
        }
        list.extend(first..=last);
    }
    list.sort_unstable();
    let given = list.len();
    list.dedup();
    if list.len() == given { Ok(Cores::List(list)) } else { Err(format!("{}, each core once", accepted())) }
}

fn core_number(text: &str) -> Option<usize> {
    if all_digits(text) { text.parse().ok().filter(|&core| core <= CORE_MAX) } else { None }
}

/// Reads address blocks separated by commas; a bare address is a block of one.
pub fn networks(text: &str) -> Result<Vec<IpNet>, Accepted> {
    let one = |part: &str| {
        let part = part.trim();
        IpNet::from_str(part)
            .ok()
            .or_else(|| IpAddr::from_str(part).ok().map(IpNet::from))
            .map(|net| net.trunc())
    };
    text.split(',')
        .map(|part| one(part).ok_or_else(|| "address blocks such as 10.0.0.0/8 or 2001:db8::/32".to_string()))
        .collect()
}

/// Reads a name: a token that begins with a letter, so that `Via`, `X-Cache` and `Cache-Status` take it as it is.
pub fn name(text: &str) -> Result<String, Accepted> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let begins_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    if begins_well && text.len() <= NAME_LEN_MAX && text.bytes().all(is_token) {
        return Ok(text.to_string());
    }
    Err("a name of letters, digits and !#$%&'*+-.^_`|~ that begins with a letter, at most 64 long"
        .to_string())
}

/// Reads whose rules hold.
pub fn semantics(text: &str) -> Result<Semantics, Accepted> {
    match text {
        "rfc9111" => Ok(Semantics::Rfc9111),
        "cloudfront" => Ok(Semantics::Cloudfront),
        _ => Err("rfc9111 or cloudfront".to_string()),
    }
}

/// Reads `on` or `off`.
pub fn switch(text: &str) -> Result<Switch, Accepted> {
    match text {
        "on" => Ok(Switch::On),
        "off" => Ok(Switch::Off),
        _ => Err("on or off".to_string()),
    }
}

/// Reads what the origin's Age does.
pub fn origin_age(text: &str) -> Result<OriginAge, Accepted> {
    match text {
        "counts" => Ok(OriginAge::Counts),
        "ignored" => Ok(OriginAge::Ignored),
        _ => Err("counts or ignored".to_string()),
    }
}

/// Reads whether Vary selects.
pub fn vary(text: &str) -> Result<VaryRule, Accepted> {
    match text {
        "origin" => Ok(VaryRule::Origin),
        "ignore" => Ok(VaryRule::Ignore),
        _ => Err("origin or ignore".to_string()),
    }
}

/// Reads how languages are compared.
pub fn language_match(text: &str) -> Result<LanguageMatch, Accepted> {
    match text {
        "exact" => Ok(LanguageMatch::Exact),
        "normalized" => Ok(LanguageMatch::Normalized),
        _ => Err("exact or normalized".to_string()),
    }
}

/// Reads when stale responses are served on errors.
pub fn stale_on_error(text: &str) -> Result<StaleOnError, Accepted> {
    match text {
        "stated" => Ok(StaleOnError::Stated),
        "rfc9111" => Ok(StaleOnError::Rfc9111),
        "cloudfront" => Ok(StaleOnError::Cloudfront),
        _ => Err("stated, rfc9111 or cloudfront".to_string()),
    }
}

/// Reads whose request directives are followed.
pub fn request_directives(text: &str) -> Result<RequestDirectives, Accepted> {
    match text {
        "off" => Ok(RequestDirectives::Off),
        "on" => Ok(RequestDirectives::On),
        blocks => networks(blocks)
            .map(RequestDirectives::From)
            .map_err(|_| "off, on, or address blocks such as 10.0.0.0/8".to_string()),
    }
}

/// Splits leading digits from the rest.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
