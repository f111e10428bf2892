//! Reads the PROXY protocol header, versions 1 and 2, that a load balancer sends before the first request.
//!
//! Fed by the listener when `--proxy-protocol` is on; its answer is the viewer's address. The header must
//! come first on the connection and be complete; there is no guessing whether it is there.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, with its line end.
pub const V1_LEN_MAX: usize = 107;

/// The longest header of version 2 that we take, addresses and further values together.
pub const V2_LEN_MAX: usize = 4_096;

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1_SIGNATURE: &[u8; 6] = b"PROXY ";

/// What the bytes so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Incomplete,
    /// The header is complete.
    Header {
        /// Bytes of the header; the first request begins after them.
        consumed: usize,
        /// The viewer's address; `None` if the balancer speaks for itself (health checks) or does not know.
        source: Option<SocketAddr>,
    },
}

/// The bytes are no PROXY protocol header that we take. The connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocolError {
    /// The bytes begin like neither version.
    Missing,
    /// The header is malformed.
    Malformed,
    /// The header is longer than the limit.
    TooLong,
}

impl fmt::Display for ProxyProtocolError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Missing => "the PROXY protocol header is missing",
            Self::Malformed => "the PROXY protocol header is malformed",
            Self::TooLong => "the PROXY protocol header is too long",
        })
    }
}

impl std::error::Error for ProxyProtocolError {}

/// Reads a header of either version from the front of `bytes`.
///
/// # Errors
///
/// As soon as the bytes cannot become a header.
pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    if begins_like(bytes, V2_SIGNATURE) {
        if bytes.len() < V2_SIGNATURE.len() { Ok(Parsed::Incomplete) } else { parse_v2(bytes) }
    } else if begins_like(bytes, V1_SIGNATURE) {
        if bytes.len() < V1_SIGNATURE.len() { Ok(Parsed::Incomplete) } else { parse_v1(bytes) }
    } else {
        Err(ProxyProtocolError::Missing)
    }
}

/// Whether `bytes` and `signature` agree as far as both go.
fn begins_like(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(byte, expected)| byte == expected)
}

/// `PROXY TCP4 source destination port port` CR LF, with single spaces.
fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    let window = &bytes[..bytes.len().min(V1_LEN_MAX)];
    let Some(cr) = window.iter().position(|&byte| byte == b'\r' || byte == b'\n') else {
        return if bytes.len() < V1_LEN_MAX {
            Ok(Parsed::Incomplete)
        } else {
            Err(ProxyProtocolError::TooLong)
        };
    };
    match window.get(cr + 1) {
        _ if window[cr] == b'\n' => return Err(ProxyProtocolError::Malformed),
        None if bytes.len() < V1_LEN_MAX => return Ok(Parsed::Incomplete),
        None => return Err(ProxyProtocolError::TooLong),
        Some(b'\n') => {}
        Some(_) => return Err(ProxyProtocolError::Malformed),
    }
    let line = str::from_utf8(&window[V1_SIGNATURE.len()..cr]).map_err(|_| ProxyProtocolError::Malformed)?;
    let source = v1_source(line).ok_or(ProxyProtocolError::Malformed)?;
    Ok(Parsed::Header { consumed: cr + 2, source })
}

/// The source address of the words after `PROXY `; the outer `None` if they are malformed.
fn v1_source(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // The receiver must ignore anything up to the line end.
        return Some(None);
    }
    let (source, destination) = (words.next()?, words.next()?);
    let (source_port, destination_port) = (v1_port(words.next()?)?, v1_port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    let _ = destination_port;
    let address = match family {
        "TCP4" => {
            destination.parse::<Ipv4Addr>().ok()?;
            IpAddr::V4(source.parse().ok()?)
        }
        "TCP6" => {
            destination.parse::<Ipv6Addr>().ok()?;
            IpAddr::V6(source.parse().ok()?)
        }
        _ => return None,
    };
    Some(Some(SocketAddr::new(address, source_port)))
}

/// A port in decimal without sign or leading zero.
fn v1_port(text: &str) -> Option<u16> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Signature, version and command, family, length, addresses, further values that we skip.
fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
    let Some(&command) = bytes.get(12) else { return Ok(Parsed::Incomplete) };
    if command != 0x20 && command != 0x21 {
        return Err(ProxyProtocolError::Malformed);
    }
    let Some(&family) = bytes.get(13) else { return Ok(Parsed::Incomplete) };
    let Some(&[high, low]) = bytes.get(14..16) else { return Ok(Parsed::Incomplete) };
    let consumed = 16 + usize::from(u16::from_be_bytes([high, low]));
    if consumed > V2_LEN_MAX {
        return Err(ProxyProtocolError::TooLong);
    }
    let Some(payload) = bytes.get(16..consumed) else { return Ok(Parsed::Incomplete) };
    let source = if command == 0x20 { None } else { v2_source(family, payload)? };
    Ok(Parsed::Header { consumed, source })
}

/// The source address, for TCP over IPv4 or IPv6; other families are known to nobody here.
fn v2_source(family: u8, payload: &[u8]) -> Result<Option<SocketAddr>, ProxyProtocolError> {
    let malformed = ProxyProtocolError::Malformed;
    match family {
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *payload.first_chunk::<12>().ok_or(malformed)?;
            Ok(Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low]))))
        }
        0x21 => {
            let addresses = payload.first_chunk::<36>().ok_or(malformed)?;
            let (source, rest) = addresses.split_first_chunk::<16>().ok_or(malformed)?;
            let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, high, low, ..] = *rest else {
                return Err(malformed);
            };
            Ok(Some(SocketAddr::new(Ipv6Addr::from(*source).into(), u16::from_be_bytes([high, low]))))
        }
        // Unspecified, datagrams, Unix sockets: valid headers without an address that means something here.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => Ok(None),
        _ => Err(malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses and checks that every shorter prefix is incomplete or the same error.
    fn parsed(bytes: &[u8]) -> Result<Parsed, ProxyProtocolError> {
        let whole = parse(bytes);
        let consumed = match whole {
            Ok(Parsed::Header { consumed, .. }) => consumed,
            _ => bytes.len(),
        };
        for len in 0..consumed {
            let part = parse(&bytes[..len]);
            assert!(part == Ok(Parsed::Incomplete) || part == whole, "{} at {len}", bytes.escape_ascii());
        }
        whole
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend_from_slice(&[command, family]);
        bytes.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn version_1_names_the_viewer() {
        for (line, source) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", Some("192.0.2.1:56324")),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", Some("[2001:db8::1]:1")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", None),
        ] {
            let bytes = format!("{line}GET / HTTP/1.1\r\n");
            let source = source.map(|address| address.parse().unwrap());
            assert_eq!(
                parsed(bytes.as_bytes()),
                Ok(Parsed::Header { consumed: line.len(), source }),
                "{line}"
            );
        }
    }

    #[test]
    fn version_1_is_strict() {
        for line in [
            "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\rX",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(ProxyProtocolError::Malformed), "{line}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_LEN_MAX - 16));
        assert_eq!(long.len(), V1_LEN_MAX);
        assert_eq!(parsed(long.as_bytes()), Ok(Parsed::Header { consumed: V1_LEN_MAX, source: None }));
        let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_LEN_MAX - 15));
        assert_eq!(parsed(longer.as_bytes()), Err(ProxyProtocolError::TooLong));
    }

    #[test]
    fn version_2_names_the_viewer() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 0x1f, 0x90, 1, 187, 0xee, 0, 1, 9];
        let bytes = v2(0x21, 0x11, &v4);
        let source = Some("192.0.2.1:8080".parse().unwrap());
        assert_eq!(parsed(&bytes), Ok(Parsed::Header { consumed: 32, source }));
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[33] = 80;
        let source = Some("[::1]:80".parse().unwrap());
        assert_eq!(parsed(&v2(0x21, 0x21, &v6)), Ok(Parsed::Header { consumed: 52, source }));
        for (command, family) in [(0x20, 0x11), (0x20, 0x00), (0x21, 0x00), (0x21, 0x12), (0x21, 0x31)] {
            let expected = Ok(Parsed::Header { consumed: 16, source: None });
            assert_eq!(parsed(&v2(command, family, b"")), expected, "{command:x} {family:x}");
        }
    }

    #[test]
    fn version_2_is_strict() {
        for (command, family, payload) in [
            (0x11, 0x11, &[0; 12][..]),
            (0x22, 0x11, &[0; 12]),
            (0x31, 0x11, &[0; 12]),
            (0x21, 0x11, &[0; 11]),
            (0x21, 0x21, &[0; 35]),
            (0x21, 0x41, &[0; 12]),
            (0x21, 0x13, &[0; 12]),
        ] {
            assert_eq!(parsed(&v2(command, family, payload)), Err(ProxyProtocolError::Malformed));
        }
        let largest = V2_LEN_MAX - 16;
        assert!(matches!(
            parse(&v2(0x20, 0, &vec![0; largest])),
            Ok(Parsed::Header { consumed: V2_LEN_MAX, .. })
        ));
        assert_eq!(parse(&v2(0x20, 0, &vec![0; largest + 1])[..16]), Err(ProxyProtocolError::TooLong));
    }

    #[test]
    fn a_connection_without_the_header_is_refused_at_its_first_bytes() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PRO ", b"\r\nGET", b"\x16\x03", b"PROXY\t"] {
            assert_eq!(parse(bytes), Err(ProxyProtocolError::Missing));
        }
        assert_eq!(parse(b""), Ok(Parsed::Incomplete));
    }
}
