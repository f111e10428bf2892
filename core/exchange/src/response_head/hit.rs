//! The few bytes of a hit's head that differ from hit to hit: copies and three numbers, no allocation, no search.
//!
//! The prefix was written when the response was stored ([`super::write_stored`]) and ends either inside the open `Cache-Status` line,
//! right after `ttl=`, or with a whole line. Both are told apart by the last byte, so a prefix stays right when settings change.

use aspis_config::Behavior;
use aspis_wire::Version;

use super::Connection;

/// The most bytes that [`finish_hit`] adds to a prefix.
pub const HIT_TAIL_LEN_MAX: usize = 160;

const AGE: &[u8] = b"Age: ";
const CONTENT_LENGTH: &[u8] = b"Content-Length: ";
const LINE_END: &[u8] = b"\r\n";
/// Decimal digits of the longest number, `u64::MAX` or `i64::MIN`.
const DIGITS_MAX: usize = 20;

// The longest tail fits: ttl line, age line, length line, the longest Connection, the empty line.
const _: () = assert!(
    DIGITS_MAX + 2 + AGE.len() + DIGITS_MAX + 2 + CONTENT_LENGTH.len() + DIGITS_MAX + 2 + 24 + 2
        <= HIT_TAIL_LEN_MAX
);

/// What differs from hit to hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HitTail {
    /// Current age in seconds (T-41, RFC 9111 §5.1).
    pub age: u32,
    /// Seconds of freshness left, for `Cache-Status`.
    pub ttl: i64,
    /// The length of the stored body, which is complete; announced to HEAD too (RFC 9110 §8.6).
    pub content_len: u64,
    /// The status, which may forbid to name a length (RFC 9110 §8.6).
    pub status: u16,
    /// The viewer's version.
    pub version: Version,
    /// The connection lives on.
    pub keep_alive: bool,
}

/// Writes a hit's whole head to the front of `out` and returns its length; 0, with nothing usable written, if it does not fit.
///
/// A buffer of `prefix.len() + HIT_TAIL_LEN_MAX` always fits.
#[inline]
pub fn finish_hit(behavior: &Behavior, prefix: &[u8], tail: &HitTail, out: &mut [u8]) -> usize {
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
    if tail.status != 204 {
        writer.put(CONTENT_LENGTH);
        writer.put(digits.format(tail.content_len).as_bytes());
        writer.put(LINE_END);
    }
    writer.put(Connection::of(behavior, tail.version, tail.keep_alive).line());
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
    use super::super::tests::behavior;
    use super::*;
    use proptest::prelude::*;

    const TAIL: HitTail =
        HitTail { age: 7, ttl: 53, content_len: 12, status: 200, version: Version::Http11, keep_alive: true };

    fn text(prefix: &str, tail: HitTail) -> String {
        let mut out = [0; 256];
        let len = finish_hit(&behavior(&[]), prefix.as_bytes(), &tail, &mut out);
        String::from_utf8(out[..len].to_vec()).unwrap()
    }

    #[test]
    fn tail_continues_an_open_line_and_follows_a_closed_one() {
        assert_eq!(text("A: b; ttl=", TAIL), "A: b; ttl=53\r\nAge: 7\r\nContent-Length: 12\r\n\r\n");
        assert_eq!(text("A: b\r\n", TAIL), "A: b\r\nAge: 7\r\nContent-Length: 12\r\n\r\n");
    }

    /// H-22, RFC 9112 §9.3.
    #[test]
    fn viewers_learn_what_becomes_of_the_connection() {
        let ends = |version, keep_alive| text("", HitTail { version, keep_alive, ..TAIL });
        assert!(ends(Version::Http11, true).ends_with("12\r\n\r\n"));
        assert!(ends(Version::Http10, true).ends_with("\r\nConnection: keep-alive\r\n\r\n"));
        assert!(ends(Version::Http11, false).ends_with("\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn longest_tail_fits_the_stated_room() {
        let tail = HitTail {
            age: u32::MAX,
            ttl: i64::MIN,
            content_len: u64::MAX,
            status: 200,
            version: Version::Http10,
            keep_alive: true,
        };
        let behavior = behavior(&[]);
        let mut out = [0; HIT_TAIL_LEN_MAX + 1];
        let len = finish_hit(&behavior, b"=", &tail, &mut out);
        assert!(len > 0);
        assert_eq!(finish_hit(&behavior, b"=", &tail, &mut out[..len - 1]), 0);
        assert_eq!(finish_hit(&behavior, b"=", &tail, &mut out[..len]), len);
        assert_eq!(finish_hit(&behavior, b"=", &tail, &mut []), 0);
    }

    proptest! {
        #[test]
        fn a_short_buffer_gives_zero_and_never_panics(room in 0_usize..120, age in any::<u32>(), ttl in any::<i64>()) {
            let tail = HitTail { age, ttl, ..TAIL };
            let behavior = behavior(&[]);
            let mut full = [0; 300];
            let whole = finish_hit(&behavior, b"X: ttl=", &tail, &mut full);
            let mut out = vec![0; room];
            prop_assert_eq!(finish_hit(&behavior, b"X: ttl=", &tail, &mut out), if room >= whole { whole } else { 0 });
        }
    }
}
