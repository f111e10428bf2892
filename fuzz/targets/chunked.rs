//! Chunked content: the machine of single bytes agrees with a reading by lines, however the bytes are split.
#![no_main]

use aspis_fuzz::limits;
use aspis_wire::HeadLimits;
use aspis_wire::chunked::{CHUNK_END, ChunkError, ChunkedDecoder, LAST_CHUNK, chunk_header};
use libfuzzer_sys::fuzz_target;

/// The data and what was consumed, when the content is complete.
type Outcome = Result<Option<(Vec<u8>, usize)>, ChunkError>;

fn decode(bytes: &[u8], limits: &HeadLimits, mut next_step: impl FnMut() -> usize) -> Outcome {
    let mut decoder = ChunkedDecoder::with_limits(limits);
    let mut data = Vec::new();
    let (mut at, mut arrived) = (0, 0);
    loop {
        while at < arrived {
            let decoded = decoder.decode(&bytes[at..arrived])?;
            assert!(decoded.consumed <= arrived - at && decoded.data.len() <= decoded.consumed);
            data.extend_from_slice(decoded.data);
            at += decoded.consumed;
            assert_eq!(decoded.finished, decoder.is_finished());
            if decoded.finished {
                return Ok(Some((data, at)));
            }
            assert!(decoded.consumed > 0);
        }
        if arrived == bytes.len() {
            return Ok(None);
        }
        arrived = bytes.len().min(arrived + next_step());
    }
}

/// Why the second reading stopped before the end.
enum Stop {
    Fault,
    Incomplete,
}

/// The line that begins at `at`, without its CR LF, and where the next begins.
fn line(bytes: &[u8], at: usize) -> Result<(&[u8], usize), Stop> {
    let rest = &bytes[at..];
    let end = rest.windows(2).position(|pair| pair == b"\r\n").ok_or(Stop::Incomplete)?;
    let line = &rest[..end];
    if line.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
        Err(Stop::Fault)
    } else {
        Ok((line, at + end + 2))
    }
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

/// Whether `;name[=value]` repeats to the end.
fn are_extensions(mut rest: &[u8]) -> bool {
    while let Some(after) = rest.strip_prefix(b";") {
        let name_len = after.iter().position(|byte| matches!(byte, b';' | b'=')).unwrap_or(after.len());
        if !is_token(&after[..name_len]) {
            return false;
        }
        rest = &after[name_len..];
        let Some(value) = rest.strip_prefix(b"=") else { continue };
        let value_len = if value.first() == Some(&b'"') {
            let mut len = 1;
            loop {
                match value.get(len) {
                    None => return false,
                    Some(b'"') => break len + 1,
                    Some(b'\\') => len += 2,
                    Some(_) => len += 1,
                }
            }
        } else {
            let len = value.iter().position(|&byte| byte == b';').unwrap_or(value.len());
            if !is_token(&value[..len]) {
                return false;
            }
            len
        };
        if value_len > value.len() || !is_text(&value[..value_len]) {
            return false;
        }
        rest = &value[value_len..];
    }
    rest.is_empty()
}

/// Reads by lines, without the limits.
fn read_by_lines(bytes: &[u8]) -> Result<(Vec<u8>, usize), Stop> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let (size_line, after) = line(bytes, at)?;
        let digits = size_line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits == 0 || digits > 16 || !are_extensions(&size_line[digits..]) {
            return Err(Stop::Fault);
        }
        let size =
            u64::from_str_radix(std::str::from_utf8(&size_line[..digits]).expect("ASCII"), 16).expect("hex");
        at = after;
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).map_err(|_| Stop::Incomplete)?;
        let chunk = at.checked_add(size).and_then(|end| bytes.get(at..end)).ok_or(Stop::Incomplete)?;
        data.extend_from_slice(chunk);
        at += size;
        match bytes.get(at..at + 2) {
            Some(b"\r\n") => at += 2,
            Some(_) => return Err(Stop::Fault),
            None => return Err(Stop::Incomplete),
        }
    }
    loop {
        let (trailer, after) = line(bytes, at)?;
        at = after;
        if trailer.is_empty() {
            return Ok((data, at));
        }
        let colon = trailer.iter().position(|&byte| byte == b':').ok_or(Stop::Fault)?;
        if !is_token(&trailer[..colon]) || !is_text(&trailer[colon + 1..]) {
            return Err(Stop::Fault);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, seed], bytes)) = data.split_first_chunk::<2>() else { return };
    let limits = limits(choice);
    let whole = decode(bytes, &limits, || bytes.len().max(1));
    let by_one = decode(bytes, &limits, || 1);
    assert_eq!(whole, by_one);
    let mut state = u32::from(seed) + 1;
    let by_any = decode(bytes, &limits, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as usize % 19 + 1
    });
    assert_eq!(whole, by_any);

    let by_lines = read_by_lines(bytes);
    let limited = |error| {
        matches!(error, ChunkError::ExtensionTooLong | ChunkError::TrailerTooLong | ChunkError::Overhead)
    };
    match (&whole, by_lines) {
        (Ok(Some(finished)), Ok(expected)) => assert_eq!(*finished, expected),
        (Ok(Some(_)), Err(_)) => panic!("accepted what is not chunked content"),
        (Ok(None), Err(Stop::Incomplete)) => {}
        (Ok(None), _) => panic!("waited for more of what is decided"),
        (Err(error), Ok(_)) => assert!(limited(*error), "refused chunked content: {error}"),
        (Err(_), Err(_)) => {}
    }

    if let Ok(Some((data, _))) = whole {
        let mut framed = Vec::new();
        for piece in data.chunks(usize::from(seed) + 1) {
            framed.extend_from_slice(chunk_header(piece.len(), &mut [0; 18]));
            framed.extend_from_slice(piece);
            framed.extend_from_slice(CHUNK_END);
        }
        framed.extend_from_slice(LAST_CHUNK);
        let again = decode(&framed, &HeadLimits::default(), || 7);
        assert_eq!(again, Ok(Some((data, framed.len()))));
    }
});
