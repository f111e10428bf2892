//! One line per request: what the line says and how it is written.
//!
//! A core fills a [`Record`] when a response has been sent or given up and formats it into its
//! [`LogBuffer`](crate::LogBuffer). The line is the combined log format that every log reader knows, followed by
//! what a cache adds, separated by single blanks and ended by LF:
//!
//! ```text
//! 192.0.2.7 - - [22/Nov/2026:01:47:16 +0000] "GET /a?b=1 HTTP/1.1" 200 1354 "-" "curl/8.14" "example.com" Hit - 0.000042 0.000040
//! ```
//!
//! | # | field | value |
//! |---|---|---|
//! | 1 | viewer | address of the viewer (behind a trusted proxy: the one that the proxy named) |
//! | 2, 3 | identity, user | always `-` |
//! | 4 | time | end of the response, UTC, in brackets |
//! | 5 | request | method, target and version as received, quoted; `"-"` if no request could be read |
//! | 6 | status | sent to the viewer; `000` if the viewer left before any response |
//! | 7 | bytes | sent to the viewer, head included |
//! | 8 | referer | quoted, `"-"` if none |
//! | 9 | user agent | quoted, `"-"` if none |
//! | 10 | host | quoted, `"-"` if none |
//! | 11 | result type | `Hit`, `RefreshHit`, `Miss`, `Error`, `CapacityExceeded` (rule L-15) |
//! | 12 | forward reason | of RFC 9211, why the request went to the origin; `-` if it did not |
//! | 13 | duration | seconds with six decimals, first byte of the request to last byte of the response queued |
//! | 14 | first byte | seconds with six decimals, first byte of the request to first byte of the response queued |
//!
//! In quoted fields every control byte, every byte above 126, `"` and `\` is written `\xHH`, so a line is
//! printable ASCII and a viewer cannot forge a line or a field. Long fields are cut at the limits below.
//! GoAccess reads it with `--log-format='%h %^[%d:%t %^] "%r" %s %b "%R" "%u" "%v" %C %^ %T %^'`
//! `--date-format=%d/%b/%Y --time-format=%T`; readers of the combined format ignore what follows field 9.

use std::io::Write as _;
use std::net::IpAddr;

/// Most bytes of a target that are logged; the longest that is accepted at all (rule H-15).
pub const TARGET_LEN_MAX: usize = 8192;
/// Most bytes that are logged of any other field that a viewer writes.
pub const FIELD_LEN_MAX: usize = 1024;
/// Upper bound of a line's length: every logged byte escaped, plus what is not under a viewer's control.
pub const LINE_LEN_MAX: usize = 4 * (TARGET_LEN_MAX + 5 * FIELD_LEN_MAX) + 512;

/// What is known of one request when it is over. Text from viewers is raw bytes; the formatter escapes it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// End of the response, seconds since the epoch.
    pub ended_at: u64,
    /// Address of the viewer; `None` for a connection over a Unix socket without a named source.
    pub viewer: Option<IpAddr>,
    /// Method as received; empty if no request could be read.
    pub method: &'a [u8],
    /// Target as received.
    pub target: &'a [u8],
    /// Host that the request named; empty if none.
    pub host: &'a [u8],
    /// Version as received, such as `HTTP/1.1`.
    pub version: &'a str,
    /// Status sent; 0 if the viewer left before any response.
    pub status: u16,
    /// Bytes sent to the viewer, head included.
    pub sent_len: u64,
    /// Result type in the words of rule L-15: `Hit`, `Miss`, ...
    pub result: &'a str,
    /// Forward reason of RFC 9211, if the request went to the origin.
    pub forward: Option<&'a str>,
    /// First byte of the request to last byte of the response queued.
    pub duration_micros: u64,
    /// First byte of the request to first byte of the response queued.
    pub first_byte_micros: u64,
    /// `User-Agent`; empty if none.
    pub user_agent: &'a [u8],
    /// `Referer`; empty if none.
    pub referer: &'a [u8],
}

/// The bracketed time of a line, kept between lines because most of them share their second.
#[derive(Clone, Debug)]
pub struct Stamp {
    second: u64,
    text: [u8; STAMP_LEN],
}

const STAMP_LEN: usize = "[22/Nov/2026:01:47:16 +0000]".len();

impl Stamp {
    /// Makes a stamp that will be computed at its first use.
    pub fn new() -> Self {
        Stamp { second: u64::MAX, text: [b'-'; STAMP_LEN] }
    }

    fn at(&mut self, second: u64) -> &[u8; STAMP_LEN] {
        if second != self.second {
            self.text = stamp_text(second);
            self.second = second;
        }
        &self.text
    }
}

impl Default for Stamp {
    fn default() -> Self {
        Stamp::new()
    }
}

/// Appends the line of `record` to `out`; allocates nothing if `out` has [`LINE_LEN_MAX`] bytes to spare.
pub fn format(record: &Record<'_>, stamp: &mut Stamp, out: &mut Vec<u8>) {
    match record.viewer {
        Some(address) => write_address(address.to_canonical(), out),
        None => out.push(b'-'),
    }
    out.extend_from_slice(b" - - ");
    out.extend_from_slice(stamp.at(record.ended_at));
    out.extend_from_slice(b" \"");
    if record.method.is_empty() {
        out.push(b'-');
    } else {
        escape(record.method, FIELD_LEN_MAX, out);
        out.push(b' ');
        escape(record.target, TARGET_LEN_MAX, out);
        out.push(b' ');
        escape(record.version.as_bytes(), FIELD_LEN_MAX, out);
    }
    out.extend_from_slice(b"\" ");
    let status = record.status % 1000;
    out.extend([status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8));
    out.push(b' ');
    out.extend_from_slice(itoa::Buffer::new().format(record.sent_len).as_bytes());
    for field in [record.referer, record.user_agent, record.host] {
        out.extend_from_slice(b" \"");
        escape(if field.is_empty() { b"-" } else { field }, FIELD_LEN_MAX, out);
        out.push(b'"');
    }
    out.push(b' ');
    out.extend_from_slice(record.result.as_bytes());
    out.push(b' ');
    out.extend_from_slice(record.forward.unwrap_or("-").as_bytes());
    out.push(b' ');
    seconds(record.duration_micros, out);
    out.push(b' ');
    seconds(record.first_byte_micros, out);
    out.push(b'\n');
}

/// Appends an address; one of version 4, which most lines have, without the formatting machinery.
fn write_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            out.extend_from_slice(itoa::Buffer::new().format(first).as_bytes());
            for octet in rest {
                out.push(b'.');
                out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        IpAddr::V6(address) => write!(out, "{address}").expect("a Vec accepts every write"),
    }
}

/// Appends `bytes`, at most `len_max` of them, with everything that could break a quoted field as `\xHH`.
fn escape(bytes: &[u8], len_max: usize, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut rest = &bytes[..bytes.len().min(len_max)];
    // Most fields are plain; without an early exit the compiler looks at sixteen bytes at once.
    if rest.iter().fold(true, |all, &byte| all & is_plain(byte)) {
        return out.extend_from_slice(rest);
    }
    while let Some(at) = rest.iter().position(|&byte| !is_plain(byte)) {
        let byte = rest[at];
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[b'\\', b'x', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\')
}

fn seconds(micros: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(micros / 1_000_000).as_bytes());
    out.push(b'.');
    // The seventh digit is a guard that keeps the leading zeros; it is not copied.
    out.extend_from_slice(&itoa::Buffer::new().format(1_000_000 + micros % 1_000_000).as_bytes()[1..]);
}

/// Writes a time as `[22/Nov/2026:01:47:16 +0000]`. Years beyond 9999 stay at the last one.
fn stamp_text(second: u64) -> [u8; STAMP_LEN] {
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    const LAST_SECOND: u64 = 253_402_300_799;
    let second = second.min(LAST_SECOND);
    let (year, month, day) = civil_date(second / 86_400);
    let of_day = second % 86_400;
    let mut text = *b"[00/Jan/0000:00:00:00 +0000]";
    let mut two = |at: usize, value: u64| {
        text[at] = b'0' + (value / 10 % 10) as u8;
        text[at + 1] = b'0' + (value % 10) as u8;
    };
    two(1, day);
    two(8, year / 100);
    two(10, year % 100);
    two(13, of_day / 3600);
    two(16, of_day / 60 % 60);
    two(19, of_day % 60);
    let name = (month as usize - 1) * 3;
    text[4..7].copy_from_slice(&MONTHS[name..name + 3]);
    text
}

/// Returns year, month and day of a day counted from 1970-01-01, by the proleptic Gregorian calendar.
pub fn civil_date(days: u64) -> (u64, u64, u64) {
    // Years begin in March here, so the leap day is a year's last day and the months have one formula.
    let from_march_0000 = days + 719_468;
    let era = from_march_0000 / 146_097;
    let of_era = from_march_0000 % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        Record {
            ended_at: 1_795_312_036,
            viewer: Some("192.0.2.7".parse().expect("an address")),
            method: b"GET",
            target: b"/a?b=1",
            host: b"example.com",
            version: "HTTP/1.1",
            status: 200,
            sent_len: 1354,
            result: "Hit",
            forward: None,
            duration_micros: 42,
            first_byte_micros: 40,
            user_agent: b"curl/8.14",
            referer: b"",
        }
    }

    fn line(record: &Record<'_>) -> String {
        let mut out = Vec::new();
        format(record, &mut Stamp::new(), &mut out);
        String::from_utf8(out).expect("a line is ASCII")
    }

    /// L-15.
    #[test]
    fn a_hit_is_the_documented_line() {
        assert_eq!(
            line(&record()),
            "192.0.2.7 - - [22/Nov/2026:01:47:16 +0000] \"GET /a?b=1 HTTP/1.1\" 200 1354 \"-\" \"curl/8.14\" \
             \"example.com\" Hit - 0.000042 0.000040\n"
        );
    }

    #[test]
    fn a_forwarded_request_says_why_and_how_long() {
        let record = Record {
            viewer: None,
            result: "Miss",
            forward: Some("uri-miss"),
            duration_micros: 61_234_567,
            first_byte_micros: 1_000_000,
            referer: b"https://a.example/",
            ..record()
        };
        let line = line(&record);
        assert!(line.starts_with("- - - ["), "{line}");
        assert!(line.contains("\"https://a.example/\""), "{line}");
        assert!(line.ends_with(" Miss uri-miss 61.234567 1.000000\n"), "{line}");
    }

    #[test]
    fn an_unreadable_request_is_a_dash_and_no_response_is_000() {
        let line = line(&Record { method: b"", status: 0, host: b"", ..record() });
        assert!(line.contains("] \"-\" 000 1354 "), "{line}");
    }

    #[test]
    fn a_mapped_address_is_logged_as_the_viewer_knows_it() {
        let viewer = Some("::ffff:198.51.100.3".parse().expect("an address"));
        assert!(line(&Record { viewer, ..record() }).starts_with("198.51.100.3 - - ["));
    }

    #[test]
    fn addresses_are_written_as_everywhere() {
        for address in ["0.0.0.0", "255.255.255.255", "10.0.100.1", "1.20.30.4", "::", "2001:db8::1"] {
            let viewer = Some(address.parse().expect("an address"));
            let line = line(&Record { viewer, ..record() });
            assert!(line.starts_with(&format!("{address} - - [")), "{line}");
        }
    }

    #[test]
    fn no_bytes_of_a_viewer_can_forge_a_line_or_a_field() {
        for byte in 0..=255_u8 {
            let hostile = [b'a', byte, b'"', b'\n', b'\\', b'z'];
            let record = Record {
                method: &hostile,
                target: &hostile,
                host: &hostile,
                user_agent: &hostile,
                referer: &hostile,
                ..record()
            };
            let line = line(&record);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert_eq!(line.matches('"').count(), 8, "{line}");
            assert!(line.trim_end_matches('\n').bytes().all(|b| matches!(b, b' '..=b'~')), "{line}");
        }
        let line = line(&Record { user_agent: b"a\"b\\c\r\n\x7f\xff", ..record() });
        assert!(line.contains(r#""a\x22b\x5Cc\x0D\x0A\x7F\xFF""#), "{line}");
    }

    #[test]
    fn the_longest_line_stays_below_its_bound() {
        let long = vec![0_u8; 40_000];
        let record = Record {
            viewer: Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().expect("an address")),
            method: &long,
            target: &long,
            host: &long,
            user_agent: &long,
            referer: &long,
            sent_len: u64::MAX,
            duration_micros: u64::MAX,
            first_byte_micros: u64::MAX,
            result: "CapacityExceeded",
            forward: Some("vary-miss"),
            ..record()
        };
        let len = line(&record).len();
        assert!(len > 4 * (TARGET_LEN_MAX + 4 * FIELD_LEN_MAX), "{len}");
        assert!(len <= LINE_LEN_MAX, "{len}");
    }

    #[test]
    fn dates_follow_the_calendar() {
        for (second, expected) in [
            (0, "[01/Jan/1970:00:00:00 +0000]"),
            (951_782_399, "[28/Feb/2000:23:59:59 +0000]"),
            (951_782_400, "[29/Feb/2000:00:00:00 +0000]"),
            (4_107_542_400, "[01/Mar/2100:00:00:00 +0000]"),
            (1_735_689_599, "[31/Dec/2024:23:59:59 +0000]"),
            (u64::MAX, "[31/Dec/9999:23:59:59 +0000]"),
        ] {
            assert_eq!(std::str::from_utf8(&stamp_text(second)).expect("ASCII"), expected);
        }
    }
}
