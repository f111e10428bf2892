//! Decodes and frames chunked content (RFC 9112 section 7.1), for both sides.
//!
//! Fed with whatever bytes arrived after a head whose framing is chunked; read by the viewer side (requests)
//! and the origin side (responses). Extensions and trailers are checked for their syntax and dropped.
//!
//! Invariants:
//! - Strict: no white space in or around a size, no bare CR or LF, no size that overflows, no folded trailer.
//! - The same bytes give the same data and the same end, however they are split.
//! - What does not become data is bounded: extensions, trailers, and chunk lines against the data they carry.

mod decoder;

#[cfg(test)]
mod tests;

pub use decoder::{ChunkError, ChunkedDecoder, Decoded};

/// The end of chunked content without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What stands after the data of every chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Writes the line before a chunk of `len` bytes and returns it. The data and [`CHUNK_END`] follow.
///
/// `len` must not be 0: that line would end the content.
pub fn chunk_header(len: usize, out: &mut [u8; 18]) -> &[u8] {
    debug_assert!(len > 0, "a chunk of no bytes is the last chunk");
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1) as usize;
    for (at, byte) in out[..digits].iter_mut().enumerate() {
        let nibble = (len >> (4 * (digits - 1 - at))) & 0xf;
        *byte = b"0123456789abcdef"[nibble];
    }
    out[digits..digits + 2].copy_from_slice(b"\r\n");
    &out[..digits + 2]
}
