//! The PROXY protocol: one answer for every prefix, and the address that a written header names is read back.
#![no_main]

use std::net::SocketAddr;

use aspis_fuzz::prefixes;
use aspis_wire::proxy_protocol::{Parsed, V1_LEN_MAX, V2_LEN_MAX, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    for len in prefixes(bytes.len()) {
        let part = parse(&bytes[..len]);
        assert!(part == Ok(Parsed::Incomplete) || part == whole, "at {len} {part:?} but {whole:?}");
    }
    let Ok(Parsed::Header { consumed, source }) = whole else {
        assert!(whole != Ok(Parsed::Incomplete) || bytes.len() < V2_LEN_MAX, "waited beyond the limit");
        return;
    };
    assert!(consumed <= bytes.len());
    let header = &bytes[..consumed];
    if header[0] == b'P' {
        assert!(consumed <= V1_LEN_MAX);
        let line = header.strip_suffix(b"\r\n").expect("a line");
        assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n')));
        if let Some(source) = source {
            let text = std::str::from_utf8(line).expect("ASCII");
            let words: Vec<&str> = text.split(' ').collect();
            assert_eq!(words.len(), 6);
            assert_eq!(words[2].parse(), Ok(source.ip()));
            assert_eq!(words[4], source.port().to_string());
        }
    } else {
        assert!(consumed <= V2_LEN_MAX);
        assert_eq!(consumed, 16 + usize::from(header[14]) * 256 + usize::from(header[15]));
    }
    let Some(source) = source else { return };
    for written in [version_1(source), version_2(source)] {
        let len = written.len();
        let followed = [&written[..], b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(parse(&followed), Ok(Parsed::Header { consumed: len, source: Some(source) }));
    }
});

fn version_1(source: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {0} {0} {1} 443\r\n", source.ip(), source.port()).into_bytes()
}

fn version_2(source: SocketAddr) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    let octets = match source {
        SocketAddr::V4(source) => {
            bytes.extend_from_slice(&[0x11, 0, 12]);
            source.ip().octets().to_vec()
        }
        SocketAddr::V6(source) => {
            bytes.extend_from_slice(&[0x21, 0, 36]);
            source.ip().octets().to_vec()
        }
    };
    bytes.extend_from_slice(&octets.repeat(2));
    bytes.extend_from_slice(&source.port().to_be_bytes());
    bytes.extend_from_slice(&[0, 80]);
    bytes
}
