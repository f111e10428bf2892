//! The chunked decoder as a machine of one byte at a time outside the data.
//!
//! ```text
//! SizeFirst -> Size -+-> SizeEnd -> Data -> DataCr -> DataLf -> SizeFirst
//!                    |      |
//!   ExtensionName.. <+      +-> (size 0) TrailerStart -+-> EndLf -> Finished
//!                                            ^         |
//!                                            +- TrailerName -> TrailerValue -> TrailerLf
//! ```

use std::fmt;

use crate::HeadLimits;
use crate::fields::{TOKEN_BYTES, is_field_value_byte};

/// What a chunk and its line end pay for, in bytes of overhead.
const OVERHEAD_FREE_PER_CHUNK: usize = 16;

/// Decodes one chunked content, in any number of calls.
#[derive(Clone, Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// In `Size` states the size so far, in `Data` what is still to come.
    remaining: u64,
    /// Digits of the size, bytes of the extensions or bytes of the trailers so far.
    count: usize,
    /// Bytes of chunk lines that no data has paid for.
    overhead: usize,
    trailer_len_max: usize,
    extension_len_max: usize,
    overhead_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    SizeFirst,
    /// Within the digits.
    Size,
    /// Before the first byte of an extension's name.
    ExtensionNameFirst,
    ExtensionName,
    /// After an extension's `=`.
    ExtensionValueFirst,
    ExtensionValue,
    ExtensionQuoted,
    /// After a backslash within a quoted value.
    ExtensionEscaped,
    /// After a closing quote.
    ExtensionQuotedEnd,
    /// After the CR of a chunk line.
    SizeEnd,
    Data,
    /// After the data, before CR.
    DataCr,
    /// After that CR.
    DataLf,
    /// At the beginning of a line after the last chunk.
    TrailerStart,
    TrailerName,
    TrailerValue,
    /// After the CR of a trailer.
    TrailerLf,
    /// After the CR of the final empty line.
    EndLf,
    Finished,
    Failed(ChunkError),
}

/// What one call found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'i> {
    /// Bytes of the input that are done with: pass the rest again.
    pub consumed: usize,
    /// A piece of the content; may be empty.
    pub data: &'i [u8],
    /// The content is complete; bytes after `consumed` belong to the next message.
    pub finished: bool,
}

/// Why the bytes are not chunked content. The connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChunkError {
    /// No hexadecimal digit where a size must be, or a byte after it that may not follow.
    Size,
    /// A size of more than sixteen digits.
    SizeOverflow,
    /// An extension that is malformed.
    Extension,
    /// Extensions longer than the limit.
    ExtensionTooLong,
    /// A line that ends in CR or LF alone, or data that is not followed by CR LF.
    LineEnd,
    /// A trailer that is malformed or folded.
    Trailer,
    /// Trailers longer than the limit.
    TrailerTooLong,
    /// Much more framing than data.
    Overhead,
}

impl ChunkError {
    /// One plain sentence without its full stop.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Size => "a chunk size is malformed",
            Self::SizeOverflow => "a chunk size is too large",
            Self::Extension => "a chunk extension is malformed",
            Self::ExtensionTooLong => "a chunk extension is too long",
            Self::LineEnd => "a chunk does not end in CR LF",
            Self::Trailer => "a trailer is malformed",
            Self::TrailerTooLong => "the trailers are too long",
            Self::Overhead => "the chunks carry too little data for their framing",
        }
    }
}

impl fmt::Display for ChunkError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl std::error::Error for ChunkError {}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkedDecoder {
    /// A decoder with the default limits, at the beginning of the content.
    pub const fn new() -> Self {
        Self::with_limits(&HeadLimits::DEFAULT)
    }

    /// A decoder with limits of the caller's.
    pub const fn with_limits(limits: &HeadLimits) -> Self {
        Self {
            state: State::SizeFirst,
            remaining: 0,
            count: 0,
            overhead: 0,
            trailer_len_max: limits.trailer_len_max,
            extension_len_max: limits.chunk_extension_len_max,
            overhead_max: limits.chunk_overhead_max,
        }
    }

    /// Whether the content was complete in an earlier call.
    pub const fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Takes the next bytes and returns at most one piece of data.
    ///
    /// Framing before and after that piece is consumed in the same call. When nothing is consumed and the
    /// content is not finished, the input was empty: more is wanted.
    ///
    /// # Errors
    ///
    /// At the first byte that may not stand where it stands, and in every later call.
    pub fn decode<'i>(&mut self, input: &'i [u8]) -> Result<Decoded<'i>, ChunkError> {
        let mut data: &[u8] = &[];
        let mut consumed = 0;
        while let Some(&byte) = input.get(consumed) {
            match self.state {
                State::Data if !data.is_empty() => break,
                State::Data => {
                    let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX);
                    let rest = &input[consumed..];
                    data = &rest[..rest.len().min(wanted)];
                    consumed += data.len();
                    self.remaining -= data.len() as u64;
                    self.overhead = self.overhead.saturating_sub(data.len().saturating_mul(2));
                    if self.remaining == 0 {
                        self.state = State::DataCr;
                    }
                }
                State::Finished => break,
                State::Failed(error) => return Err(error),
                _ => match self.step(byte) {
                    Ok(state) => {
                        self.state = state;
                        consumed += 1;
                    }
                    Err(error) => {
                        self.state = State::Failed(error);
                        return Err(error);
                    }
                },
            }
        }
        Ok(Decoded { consumed, data, finished: self.is_finished() })
    }

    /// Moves over one byte of framing.
    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        match self.state {
            State::SizeFirst => {
                self.remaining = 0;
                self.count = 0;
                self.add_digit(byte)
            }
            State::Size => match byte {
                b'\r' => Ok(State::SizeEnd),
                b';' => {
                    self.count = 0;
                    Ok(State::ExtensionNameFirst)
                }
                b'\n' => Err(ChunkError::LineEnd),
                _ => self.add_digit(byte),
            },
            State::SizeEnd if byte == b'\n' => self.line_ended(),
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::SizeFirst),
            State::SizeEnd | State::DataCr | State::DataLf => Err(ChunkError::LineEnd),
            State::TrailerStart
            | State::TrailerName
            | State::TrailerValue
            | State::TrailerLf
            | State::EndLf => self.trailer(byte),
            // `decode` handles these itself.
            State::Data | State::Finished | State::Failed(_) => Ok(self.state),
            _ => self.extension(byte),
        }
    }

    fn add_digit(&mut self, byte: u8) -> Result<State, ChunkError> {
        let digit = char::from(byte).to_digit(16).ok_or(ChunkError::Size)?;
        if self.count == 16 {
            return Err(ChunkError::SizeOverflow);
        }
        self.count += 1;
        self.overhead += 1;
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(State::Size)
    }

    /// After CR LF of a chunk line: the data or, after size 0, the trailers.
    fn line_ended(&mut self) -> Result<State, ChunkError> {
        if self.remaining == 0 {
            self.count = 0;
            return Ok(State::TrailerStart);
        }
        self.overhead = self.overhead.saturating_sub(OVERHEAD_FREE_PER_CHUNK);
        if self.overhead > self.overhead_max { Err(ChunkError::Overhead) } else { Ok(State::Data) }
    }

    /// `;name[=token|quoted]`, without the white space that RFC 9112 section 7.1.1 calls bad.
    fn extension(&mut self, byte: u8) -> Result<State, ChunkError> {
        let is_token = TOKEN_BYTES[usize::from(byte)];
        let next = match self.state {
            State::ExtensionNameFirst | State::ExtensionName if is_token => State::ExtensionName,
            State::ExtensionName if byte == b'=' => State::ExtensionValueFirst,
            State::ExtensionValueFirst if byte == b'"' => State::ExtensionQuoted,
            State::ExtensionValueFirst | State::ExtensionValue if is_token => State::ExtensionValue,
            State::ExtensionQuoted if byte == b'"' => State::ExtensionQuotedEnd,
            State::ExtensionQuoted if byte == b'\\' => State::ExtensionEscaped,
            State::ExtensionQuoted | State::ExtensionEscaped if is_field_value_byte(byte) => {
                State::ExtensionQuoted
            }
            State::ExtensionName | State::ExtensionValue | State::ExtensionQuotedEnd => match byte {
                b';' => State::ExtensionNameFirst,
                b'\r' => return Ok(State::SizeEnd),
                _ => return Err(ChunkError::Extension),
            },
            _ => return Err(ChunkError::Extension),
        };
        self.count += 1;
        self.overhead += 1;
        if self.count > self.extension_len_max { Err(ChunkError::ExtensionTooLong) } else { Ok(next) }
    }

    /// `*( field-name ":" value CRLF ) CRLF`.
    fn trailer(&mut self, byte: u8) -> Result<State, ChunkError> {
        let is_token = TOKEN_BYTES[usize::from(byte)];
        let next = match self.state {
            State::TrailerStart if byte == b'\r' => State::EndLf,
            State::TrailerStart | State::TrailerName if is_token => State::TrailerName,
            State::TrailerName if byte == b':' => State::TrailerValue,
            State::TrailerValue if byte == b'\r' => State::TrailerLf,
            State::TrailerValue if is_field_value_byte(byte) => State::TrailerValue,
            State::TrailerLf if byte == b'\n' => State::TrailerStart,
            State::EndLf if byte == b'\n' => return Ok(State::Finished),
            _ => return Err(ChunkError::Trailer),
        };
        self.count += 1;
        if self.count > self.trailer_len_max { Err(ChunkError::TrailerTooLong) } else { Ok(next) }
    }
}
