//! The few bytes of a hit's head that differ from hit to hit: about 50 ns, no allocation, no branch on names.
//!
//! The prefix was written when the response was stored ([`super::write_stored`]) and ends either inside the open `Cache-Status` line,
//! right after `ttl=`, or with a whole line. Both are told apart by the last byte, so a prefix stays right when settings change.

use super::Connection;

/// The most bytes that [`finish_hit`] adds to a prefix.
pub const TAIL_LEN_MAX: usize = 160;

const AGE: &[u8] = b"Age: ";
const CONTENT_LENGTH: &[u8] = b"Content-Length: ";
const CHUNKED: &[u8] = b"Transfer-Encoding: chunked\r\n";
const LINE_END: &[u8] = b"\r\n";
/// Decimal digits of the longest number, `u64::MAX` or `i64::MIN`.
const DIGITS_MAX: usize = 20;

// The longest tail fits: ttl line, age line, the longest framing, the longest Connection, the empty line.
const _: () = assert!(
    DIGITS_MAX + 2 + AGE.len() + DIGITS_MAX + 2 + CONTENT_LENGTH.len() + DIGITS_MAX + 2 + 24 + 2
        <= TAIL_LEN_MAX
);
const _: () = assert!(CHUNKED.len() <= CONTENT_LENGTH.len() + DIGITS_MAX + 2);

/// What a hit's head says about the framing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HitFraming {
    /// The prefix has the length already.
    InPrefix,
    /// That many bytes.
    Length(u64),
    /// Chunks, while the length is not known.
    Chunked,
    /// The end of the connection, for HTTP/1.0 while the length is not known; `connection` has to be `Close`.
    UntilClose,
}

/// What differs from hit to hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HitTail {
    /// Current age in seconds (T-41, RFC 9111 §5.1).
    pub age: u32,
    /// Seconds of freshness left, for `Cache-Status`.
    pub ttl: i64,
    /// The framing.
    pub framing: HitFraming,
    /// What is said about the connection.
    pub connection: Connection,
}

/// Writes a hit's whole head to the front of `out` and returns its length; 0, with nothing usable written, if it does not fit.
///
/// A buffer of `prefix.len() + TAIL_LEN_MAX` always fits.
#[inline]
pub fn finish_hit(prefix: &[u8], tail: &HitTail, out: &mut [u8]) -> usize {
    let mut writer = Writer { out, at: 0, fits: true };
    writer.put(prefix);
    let mut digits = itoa::Buffer::new();
    if prefix.last() == Some(&b'=') {
        writer.put(digits.format(tail.ttl).as_bytes());
        writer.put(LINE_END);
    }
    writer.put(AGE);
    writer.put(digits.format(tail.age).as_bytes());
    writer.put(LINE_END);
    match tail.framing {
        HitFraming::InPrefix | HitFraming::UntilClose => {}
        HitFraming::Length(len) => {
            writer.put(CONTENT_LENGTH);
            writer.put(digits.format(len).as_bytes());
            writer.put(LINE_END);
        }
        HitFraming::Chunked => writer.put(CHUNKED),
    }
    writer.put(tail.connection.line());
    writer.put(LINE_END);
    if writer.fits { writer.at } else { 0 }
}

/// Appends to a slice; remembers when something did not fit.
struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
    fits: bool,
}

impl Writer<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        match self.out.get_mut(self.at..self.at + bytes.len()) {
            Some(space) => {
                space.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            None => self.fits = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tail_continues_an_open_line_and_follows_a_closed_one() {
        let tail =
            HitTail { age: 7, ttl: 53, framing: HitFraming::InPrefix, connection: Connection::Persistent };
        let mut out = [0; 256];
        let len = finish_hit(b"A: b; ttl=", &tail, &mut out);
        assert_eq!(&out[..len], b"A: b; ttl=53\r\nAge: 7\r\n\r\n");
        let len = finish_hit(b"A: b\r\n", &tail, &mut out);
        assert_eq!(&out[..len], b"A: b\r\nAge: 7\r\n\r\n");
    }

    #[test]
    fn framing_and_connection_are_stated() {
        let tail = |framing, connection| HitTail { age: 0, ttl: 1, framing, connection };
        let text = |tail: HitTail| {
            let mut out = [0; 256];
            let len = finish_hit(b"", &tail, &mut out);
            String::from_utf8(out[..len].to_vec()).unwrap()
        };
        assert_eq!(
            text(tail(HitFraming::Length(12), Connection::KeepAlive)),
            "Age: 0\r\nContent-Length: 12\r\nConnection: keep-alive\r\n\r\n"
        );
        assert_eq!(
            text(tail(HitFraming::Chunked, Connection::Close)),
            "Age: 0\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(
            text(tail(HitFraming::UntilClose, Connection::Close)),
            "Age: 0\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn longest_tail_fits_the_stated_room() {
        let tail = HitTail {
            age: u32::MAX,
            ttl: i64::MIN,
            framing: HitFraming::Length(u64::MAX),
            connection: Connection::KeepAlive,
        };
        let mut out = [0; TAIL_LEN_MAX + 1];
        let len = finish_hit(b"=", &tail, &mut out);
        assert!(len > 0);
        assert_eq!(finish_hit(b"=", &tail, &mut out[..len - 1]), 0);
        assert_eq!(finish_hit(b"=", &tail, &mut out[..len]), len);
        assert_eq!(finish_hit(b"=", &tail, &mut []), 0);
    }

    proptest! {
        #[test]
        fn a_short_buffer_gives_zero_and_never_panics(room in 0_usize..120, age in any::<u32>(), ttl in any::<i64>()) {
            let tail = HitTail { age, ttl, framing: HitFraming::Chunked, connection: Connection::Close };
            let mut full = [0; 300];
            let whole = finish_hit(b"X: ttl=", &tail, &mut full);
            let mut out = vec![0; room];
            prop_assert_eq!(finish_hit(b"X: ttl=", &tail, &mut out), if room >= whole { whole } else { 0 });
        }
    }
}
