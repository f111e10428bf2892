//! Bodies that anyone can check: every byte follows from the path of its URL and its offset.
//!
//! The origins of this package write them, the viewers compare each received byte with what the path promises. So a body of another
//! key, a mixture of two, a shifted or repeated piece all show, at any size, without keeping the body.

use crate::wait;
use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// The endless byte sequence that belongs to one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    seed: u64,
}

impl Content {
    /// Returns the sequence of `path`.
    pub(crate) fn of(path: &str) -> Self {
        Self { seed: xxh3_64(path.as_bytes()) }
    }

    /// Writes the bytes from offset `at` on into all of `out`.
    pub(crate) fn fill(self, at: u64, out: &mut [u8]) {
        let (mut index, skip) = (at / 8, (at % 8) as usize);
        let mut rest = out;
        if skip != 0 {
            let first = self.word(index);
            let taken = rest.len().min(8 - skip);
            rest[..taken].copy_from_slice(&first[skip..skip + taken]);
            rest = &mut rest[taken..];
            index += 1;
        }
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word(index));
            index += 1;
        }
        let last = words.into_remainder();
        let len = last.len();
        last.copy_from_slice(&self.word(index)[..len]);
    }

    /// Writes the bytes from `from` to `to` in pieces of these lengths, as chunks where they are `chunked` but without the last one, which is empty; with
    /// a rest after each piece that another follows.
    pub(crate) fn send(
        self,
        mut stream: &TcpStream,
        (from, to): (u64, u64),
        chunked: bool,
        mut piece_len: impl FnMut() -> u64,
        rest: Duration,
    ) -> io::Result<()> {
        let (mut at, mut bytes) = (from, Vec::new());
        while at < to {
            let len = piece_len().min(to - at) as usize;
            bytes.clear();
            if chunked {
                write!(bytes, "{len:x}\r\n")?;
            }
            let start = bytes.len();
            bytes.resize(start + len, 0);
            self.fill(at, &mut bytes[start..]);
            if chunked {
                bytes.extend_from_slice(b"\r\n");
            }
            stream.write_all(&bytes)?;
            at += len as u64;
            if !rest.is_zero() && at < to {
                wait::pause(rest);
            }
        }
        Ok(())
    }

    /// Returns the offset of the first byte of `bytes`, which stand at offset `at`, that is not as promised.
    pub(crate) fn first_difference(self, at: u64, bytes: &[u8]) -> Option<u64> {
        let mut expected = [0; 4096];
        let mut offset = at;
        for piece in bytes.chunks(expected.len()) {
            let expected = &mut expected[..piece.len()];
            self.fill(offset, expected);
            if expected != piece {
                let within = expected.iter().zip(piece).position(|(left, right)| left != right);
                return Some(offset + within.unwrap_or(0) as u64);
            }
            offset += piece.len() as u64;
        }
        None
    }

    /// SplitMix64 by index: any offset is as cheap as the next one.
    fn word(self, index: u64) -> [u8; 8] {
        let mut mixed = self.seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_gives_the_same_bytes() {
        let content = Content::of("/a");
        let mut whole = vec![0; 1000];
        content.fill(0, &mut whole);
        for at in 0..40 {
            for len in [0, 1, 7, 8, 9, 17, 500] {
                let mut piece = vec![0; len];
                content.fill(at as u64, &mut piece);
                assert_eq!(piece, whole[at..at + len], "at {at}, {len} bytes");
            }
        }
    }

    #[test]
    fn one_wrong_byte_is_found_where_it_is() {
        let content = Content::of("/a");
        let mut bytes = vec![0; 10_000];
        content.fill(5, &mut bytes);
        assert_eq!(content.first_difference(5, &bytes), None);
        bytes[9_000] ^= 1;
        assert_eq!(content.first_difference(5, &bytes), Some(9_005));
    }

    #[test]
    fn another_path_has_another_body() {
        let mut bytes = vec![0; 64];
        Content::of("/a").fill(0, &mut bytes);
        assert_eq!(Content::of("/b").first_difference(0, &bytes), Some(0));
    }
}
