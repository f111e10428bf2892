//! Judges a request line from left to right, complete or not (RFC 9112 section 3).
//!
//! The answer for a prefix holds for everything that begins with it: the first fault from the left decides.
//! So it can be asked at any time, and an error does not depend on how the bytes arrived.

use memchr::memchr;

use super::{RECHECKED_LEN_MAX, RequestError};
use crate::fields::TOKEN_BYTES;
use crate::limits::METHOD_LEN_MAX;
use crate::{HeadLimits, Version};

/// The parts of a request line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'b> {
    pub(super) method: &'b str,
    pub(super) target: &'b str,
    pub(super) version: Version,
}

impl Line<'_> {
    /// Whether [`check`] would find no fault in method and target, which httparse has already parsed.
    #[inline]
    pub(super) fn is_plausible(&self, limits: &HeadLimits) -> bool {
        self.method.len() <= METHOD_LEN_MAX
            && self.target.len() <= limits.target_len_max
            // Without an early exit the compiler looks at sixteen bytes at once.
            && self.target.bytes().fold(true, |all, byte| all & is_target_byte(byte))
    }
}

/// A visible ASCII byte but `#`: a fragment is never sent (RFC 9110 section 7.1), the rest must be encoded.
#[inline]
const fn is_target_byte(byte: u8) -> bool {
    byte > b' ' && byte < 0x7f && byte != b'#'
}

/// Reads the request line of a GET or HEAD at once and returns it with what stands behind it; `None` where [`check`] or httparse have to
/// look closer, whatever they find then.
#[inline]
pub(super) fn read<'b>(bytes: &'b [u8], limits: &HeadLimits) -> Option<(Line<'b>, &'b [u8])> {
    let method = match bytes {
        [b'G', b'E', b'T', b' ', ..] => "GET",
        [b'H', b'E', b'A', b'D', b' ', ..] => "HEAD",
        _ => return None,
    };
    // It is looked at with every arrival.
    let end = memchr(b'\n', &bytes[..bytes.len().min(RECHECKED_LEN_MAX)])?;
    let (target, version) =
        bytes.get(method.len() + 1..end)?.split_last_chunk::<{ " HTTP/1.1\r".len() }>()?;
    let version = match version {
        b" HTTP/1.1\r" => Version::Http11,
        b" HTTP/1.0\r" => Version::Http10,
        _ => return None,
    };
    let line = Line { method, target: str::from_utf8(target).ok()?, version };
    (!target.is_empty() && line.is_plausible(limits)).then_some((line, &bytes[end + 1..]))
}

/// Refuses what does not even begin like a method, such as a TLS handshake (H-23).
pub(super) fn check_first_byte(bytes: &[u8]) -> Result<(), RequestError> {
    match bytes.first() {
        Some(&byte) if !TOKEN_BYTES[usize::from(byte)] => Err(RequestError::NotHttp),
        _ => Ok(()),
    }
}

/// Returns the first fault of the request line, if there is one in these bytes.
#[cold]
pub(super) fn check(bytes: &[u8], limits: &HeadLimits) -> Result<(), RequestError> {
    let Some(rest) = check_method(bytes)? else { return Ok(()) };
    let Some(rest) = check_target(rest, limits)? else { return Ok(()) };
    let Some(rest) = check_version(rest)? else { return Ok(()) };
    match rest {
        [] | [b'\r'] | [b'\r', b'\n', ..] => Ok(()),
        [b'\n', ..] => Err(RequestError::BareLineFeed),
        _ => Err(RequestError::RequestLine),
    }
}

/// The bytes after the method and its space, if it is complete.
fn check_method(bytes: &[u8]) -> Result<Option<&[u8]>, RequestError> {
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            _ if TOKEN_BYTES[usize::from(byte)] => {
                if at == METHOD_LEN_MAX {
                    return Err(RequestError::MethodTooLong);
                }
            }
            b' ' if at > 0 => return Ok(Some(&bytes[at + 1..])),
            _ if at == 0 => return Err(RequestError::NotHttp),
            b'\r' | b'\n' => return Err(RequestError::RequestLine),
            _ => return Err(RequestError::Method),
        }
    }
    Ok(None)
}

/// The bytes after the target and its space, if it is complete.
fn check_target<'b>(bytes: &'b [u8], limits: &HeadLimits) -> Result<Option<&'b [u8]>, RequestError> {
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            _ if is_target_byte(byte) => {
                if at == limits.target_len_max {
                    return Err(RequestError::TargetTooLong);
                }
            }
            b' ' if at > 0 => return Ok(Some(&bytes[at + 1..])),
            // HTTP/0.9, or a second space.
            b' ' | b'\r' | b'\n' => return Err(RequestError::RequestLine),
            _ => return Err(RequestError::Target),
        }
    }
    Ok(None)
}

/// The bytes after a version that we read, if it is complete.
fn check_version(bytes: &[u8]) -> Result<Option<&[u8]>, RequestError> {
    let name = b"HTTP/";
    let compared = bytes.len().min(name.len());
    if bytes[..compared] != name[..compared] {
        return Err(RequestError::RequestLine);
    }
    match bytes.get(name.len()..).unwrap_or_default() {
        [] => Ok(None),
        [b'1'] | [b'1', b'.'] => Ok(None),
        [b'1', b'.', b'0' | b'1', rest @ ..] => Ok(Some(rest)),
        [b'1', b'.', b'2'..=b'9', ..] => Err(RequestError::VersionUnsupported),
        [b'2'..=b'9', ..] => Err(RequestError::VersionUnsupported),
        // HTTP/0.9 never had a version in its request line.
        _ => Err(RequestError::RequestLine),
    }
}
