//! Tests of the chunked coding.

use super::*;
use crate::HeadLimits;

/// Decodes `input` in pieces of `step` bytes; returns the data and how much was consumed at the end.
fn decode(input: &[u8], step: usize, limits: &HeadLimits) -> Result<(Vec<u8>, Option<usize>), ChunkError> {
    let mut decoder = ChunkedDecoder::with_limits(limits);
    let mut data = Vec::new();
    let mut consumed = 0;
    for end in (step..input.len() + step).step_by(step) {
        let end = end.min(input.len());
        while consumed < end {
            let decoded = decoder.decode(&input[consumed..end])?;
            data.extend_from_slice(decoded.data);
            consumed += decoded.consumed;
            if decoded.finished {
                assert!(decoder.is_finished());
                return Ok((data, Some(consumed)));
            }
            assert!(decoded.consumed > 0, "progress while there is input");
        }
    }
    Ok((data, None))
}

#[track_caller]
fn accepted(input: &str, data: &str, rest: usize) {
    for step in 1..=input.len() {
        let expected = Ok((data.as_bytes().to_vec(), Some(input.len() - rest)));
        assert_eq!(decode(input.as_bytes(), step, &HeadLimits::DEFAULT), expected, "{input:?} by {step}");
    }
}

#[track_caller]
fn refused(input: &str, error: ChunkError) {
    for step in 1..=input.len() {
        assert_eq!(decode(input.as_bytes(), step, &HeadLimits::DEFAULT), Err(error), "{input:?} by {step}");
    }
}

#[test]
fn section_7_1_content_is_decoded() {
    accepted("0\r\n\r\n", "", 0);
    accepted("5\r\nhello\r\n0\r\n\r\n", "hello", 0);
    accepted("5\r\nhello\r\n1\r\n!\r\n0\r\n\r\nGET /", "hello!", 5);
    accepted("00a\r\n0123456789\r\n000\r\n\r\n", "0123456789", 0);
    accepted("A\r\n0123456789\r\n0\r\n\r\n", "0123456789", 0);
    accepted("2\r\n\r\n\r\n0\r\n\r\n", "\r\n", 0);
    accepted("5;a\r\nhello\r\n0;b=c;d=\"e \\\" ;\"\r\n\r\n", "hello", 0);
    accepted("0\r\nX: y\r\nExpires:\t\r\n\r\nrest", "", 4);
}

#[test]
fn section_7_1_anything_else_is_refused() {
    for (input, error) in [
        ("\r\n", ChunkError::Size),
        ("\n", ChunkError::Size),
        ("g\r\n", ChunkError::Size),
        (" 5\r\n", ChunkError::Size),
        ("5 \r\n", ChunkError::Size),
        ("5\t\r\n", ChunkError::Size),
        ("0x5\r\n", ChunkError::Size),
        ("+5\r\n", ChunkError::Size),
        ("-1\r\n", ChunkError::Size),
        ("5_0\r\n", ChunkError::Size),
        ("5\n", ChunkError::LineEnd),
        ("5\rh", ChunkError::LineEnd),
        ("5\r\r", ChunkError::LineEnd),
        ("00000000000000001\r\n", ChunkError::SizeOverflow),
        ("ffffffffffffffff0\r\n", ChunkError::SizeOverflow),
        ("5\r\nhelloX", ChunkError::LineEnd),
        ("5\r\nhello\n", ChunkError::LineEnd),
        ("5\r\nhello\rX", ChunkError::LineEnd),
        ("5\r\nhello\r\n\r\n", ChunkError::Size),
        ("5;\r\n", ChunkError::Extension),
        ("5; a\r\n", ChunkError::Extension),
        ("5;a \r\n", ChunkError::Extension),
        ("5;a=\r\n", ChunkError::Extension),
        ("5;a\n", ChunkError::Extension),
        ("5;a=\"b\n\"\r\n", ChunkError::Extension),
        ("5;a=\"b\r\n", ChunkError::Extension),
        ("5;a=\"b\"c\r\n", ChunkError::Extension),
        ("5;a=\"\\\n\"\r\n", ChunkError::Extension),
        ("5;;a\r\n", ChunkError::Extension),
        ("5;a=b\0\r\n", ChunkError::Extension),
        ("0\r\n\n", ChunkError::Trailer),
        ("0\r\n\rX", ChunkError::Trailer),
        ("0\r\nX\r\n", ChunkError::Trailer),
        ("0\r\nX : y\r\n", ChunkError::Trailer),
        ("0\r\n X: y\r\n", ChunkError::Trailer),
        ("0\r\nX: y\r\n z\r\n", ChunkError::Trailer),
        ("0\r\nX: y\n\r\n", ChunkError::Trailer),
        ("0\r\nX: y\0\r\n", ChunkError::Trailer),
        ("0\r\n: y\r\n", ChunkError::Trailer),
        ("0\r\nGET / HTTP/1.1\r\n", ChunkError::Trailer),
    ] {
        refused(input, error);
    }
}

#[test]
fn the_largest_size_does_not_overflow() {
    let mut decoder = ChunkedDecoder::new();
    let decoded = decoder.decode(b"ffffffffffffffff\r\nabc").unwrap();
    assert_eq!((decoded.data, decoded.consumed, decoded.finished), (&b"abc"[..], 21, false));
    let decoded = decoder.decode(b"\r\n0\r\n\r\n").unwrap();
    assert_eq!((decoded.data, decoded.finished), (&b"\r\n0\r\n\r\n"[..], false));
}

#[test]
fn an_error_stays() {
    let mut decoder = ChunkedDecoder::new();
    assert_eq!(decoder.decode(b"x"), Err(ChunkError::Size));
    assert_eq!(decoder.decode(b"0\r\n\r\n"), Err(ChunkError::Size));
    assert!(!decoder.is_finished());
}

#[test]
fn a_finished_decoder_takes_nothing_more() {
    let mut decoder = ChunkedDecoder::default();
    assert!(decoder.decode(LAST_CHUNK).unwrap().finished);
    assert_eq!(decoder.decode(b"GET /").unwrap(), Decoded { consumed: 0, data: b"", finished: true });
}

#[test]
fn extensions_and_trailers_have_limits() {
    let extension = |len: usize| format!("0;{}\r\n\r\n", "x".repeat(len));
    accepted_whole(&extension(256));
    assert_eq!(whole(&extension(257)), Err(ChunkError::ExtensionTooLong));
    let trailers = |len: usize| format!("0\r\nX:{}\r\n\r\n", "y".repeat(len));
    // The name, the colon and three of the four line-end bytes count, the very last does not.
    accepted_whole(&trailers(8_192 - 5));
    assert_eq!(whole(&trailers(8_192 - 4)), Err(ChunkError::TrailerTooLong));
}

#[test]
fn framing_that_outweighs_its_data_is_refused() {
    // A long extension on every one-byte chunk.
    let chunk = format!("1;{}\r\nx\r\n", "e".repeat(200));
    assert_eq!(whole(&(chunk.repeat(200) + "0\r\n\r\n")), Err(ChunkError::Overhead));
    // Tiny chunks without extensions are poor but honest.
    accepted_whole(&("1\r\nx\r\n".repeat(20_000) + "0\r\n\r\n"));
    accepted_whole(&("0000000000000001\r\nx\r\n".repeat(20_000) + "0\r\n\r\n"));
}

#[track_caller]
fn accepted_whole(input: &str) {
    assert!(matches!(whole(input), Ok(Some(len)) if len == input.len()));
}

fn whole(input: &str) -> Result<Option<usize>, ChunkError> {
    decode(input.as_bytes(), input.len(), &HeadLimits::DEFAULT).map(|(_, consumed)| consumed)
}

#[test]
fn chunk_headers_are_lower_case_hexadecimal() {
    let mut out = [0; 18];
    for (len, line) in [
        (1, "1\r\n"),
        (10, "a\r\n"),
        (16, "10\r\n"),
        (255, "ff\r\n"),
        (4_096, "1000\r\n"),
        (usize::MAX, "ffffffffffffffff\r\n"),
    ] {
        assert_eq!(chunk_header(len, &mut out), line.as_bytes());
    }
}
