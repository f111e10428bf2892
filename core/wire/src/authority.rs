//! Decides whether a `Host` value or the authority of a target names one host, and splits it.
//!
//! Narrower than RFC 3986 on purpose: no user information (RFC 9110 section 4.2.4), no percent-encoding, no
//! sub-delimiters (a comma could be a joined list of hosts), no empty port, no port with leading zeros. So
//! two texts that differ in more than letter case and the default port name two different hosts.

use crate::limits::HOST_LEN_MAX;

/// A host and perhaps a port, as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'b> {
    /// The host: a name, an IPv4 address, or an IPv6 address with its brackets.
    pub host: &'b str,
    /// The port, when one was named. Never 0.
    pub port: Option<u16>,
}

/// Bytes of a registered name or IPv4 address: letters, digits and `-._~`.
const HOST_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    table
};

/// Splits `host[:port]`, or returns `None` if it is not exactly that.
///
/// RFC 3986 section 3.2 with the narrowings named at the top of this file.
pub fn parse_authority(value: &[u8]) -> Option<Authority<'_>> {
    let (host_len, port) = split(value)?;
    // All bytes were checked to be ASCII, so this cannot fail; `ok` keeps the function free of panics.
    let host = str::from_utf8(&value[..host_len]).ok()?;
    Some(Authority { host, port })
}

/// Returns `value` as text if [`parse_authority`] takes it; for each request, so nothing is looked at twice.
#[inline]
pub(crate) fn authority_text(value: &[u8]) -> Option<&str> {
    split(value)?;
    str::from_utf8(value).ok()
}

/// The length of the host and the port.
fn split(value: &[u8]) -> Option<(usize, Option<u16>)> {
    let host_len = if value.first() == Some(&b'[') {
        let close = value.iter().position(|&byte| byte == b']')?;
        let address = str::from_utf8(&value[1..close]).ok()?;
        // A zone identifier has no meaning on another machine, and the standard parser refuses it.
        address.parse::<std::net::Ipv6Addr>().ok()?;
        close + 1
    } else {
        let len = value.iter().position(|&byte| !HOST_BYTES[usize::from(byte)]).unwrap_or(value.len());
        if len == 0 || len > HOST_LEN_MAX {
            return None;
        }
        len
    };
    let port = match &value[host_len..] {
        [] => None,
        [b':', digits @ ..] => Some(parse_port(digits)?),
        _ => return None,
    };
    Some((host_len, port))
}

/// 1 to 65535 in decimal, without sign or leading zero.
fn parse_port(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 5 || digits[0] == b'0' {
        return None;
    }
    let mut port: u32 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        port = port * 10 + u32::from(digit - b'0');
    }
    u16::try_from(port).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_split_into_host_and_port() {
        for (value, host, port) in [
            ("example.com", "example.com", None),
            ("EXAMPLE.com:80", "EXAMPLE.com", Some(80)),
            ("a_b-c.~d:65535", "a_b-c.~d", Some(65535)),
            ("127.0.0.1:8080", "127.0.0.1", Some(8080)),
            ("[::1]", "[::1]", None),
            ("[2001:db8::1]:443", "[2001:db8::1]", Some(443)),
            ("example.com.", "example.com.", None),
        ] {
            assert_eq!(parse_authority(value.as_bytes()), Some(Authority { host, port }), "{value}");
        }
    }

    #[test]
    fn anything_but_one_host_is_refused() {
        for value in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:00080",
            "a:080",
            "a:65536",
            "a:99999",
            "a:123456",
            "a:+80",
            "a:80 ",
            "a:80a",
            "a b",
            "a,b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "user@a",
            "user:pw@a",
            "a:80:80",
            "%61",
            "a%2f",
            "a;b",
            "a'b",
            "(a)",
            "a\tb",
            "\u{e9}",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[fe80::1%25eth0]",
            "[1.2.3.4]",
            "[v1.x]",
            "[]",
            "[::g]",
            "*",
        ] {
            assert_eq!(parse_authority(value.as_bytes()), None, "{value}");
        }
        assert_eq!(parse_authority(&[b'a'; HOST_LEN_MAX + 1]), None);
        assert!(parse_authority(&[b'a'; HOST_LEN_MAX]).is_some());
        assert_eq!(parse_authority(b"a\0"), None);
        assert_eq!(parse_authority(b"\xff"), None);
    }
}
