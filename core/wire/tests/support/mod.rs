//! A connection as the shard reads it, reduced to its framing: head, content, next head.

use aspis_wire::chunked::{ChunkError, ChunkedDecoder};
use aspis_wire::request::{RequestFraming, parse_request};
use aspis_wire::response::{ResponseFraming, parse_response};
use aspis_wire::{FieldSlots, HeadLimits, Method};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side<'m> {
    /// From a viewer.
    Request,
    /// From an origin, in answer to a request of this method.
    Response(Method<'m>),
}

/// What a connection carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A whole message of `len` bytes.
    Message { len: usize, content: Vec<u8> },
    /// A message whose content is everything after its head.
    UntilClose { content: Vec<u8> },
    /// A fault with its status; nothing is read after it.
    Refused(u16),
}

enum Content {
    Length(u64),
    Chunked(Box<ChunkedDecoder>),
    UntilClose,
}

/// Reads a connection whose bytes arrive up to each of `arrivals`, which are ascending positions.
///
/// The last arrival must be the length of `bytes`. Only bytes that have arrived are looked at.
pub(crate) fn read_connection(bytes: &[u8], arrivals: &[usize], side: Side<'_>) -> Vec<Event> {
    let mut events = Vec::new();
    // Where the current message begins, and how far it was read.
    let (mut start, mut at) = (0, 0);
    let mut content: Option<(Content, Vec<u8>)> = None;
    for &arrived in arrivals {
        while at < arrived || content.is_some() {
            if content.is_none() {
                match read_head(&bytes[at..arrived], side) {
                    Err(status) => {
                        events.push(Event::Refused(status));
                        return events;
                    }
                    Ok(None) => break,
                    Ok(Some((len, framing))) => {
                        at += len;
                        content = Some((framing, Vec::new()));
                    }
                }
            }
            let (framing, data) = content.as_mut().expect("set above");
            match read_content(framing, &bytes[at..arrived], data) {
                Err(_) => {
                    events.push(Event::Refused(if matches!(side, Side::Request) { 400 } else { 502 }));
                    return events;
                }
                Ok((consumed, finished)) => {
                    at += consumed;
                    if !finished {
                        break;
                    }
                }
            }
            let (_, data) = content.take().expect("set above");
            events.push(Event::Message { len: at - start, content: data });
            start = at;
        }
    }
    if let Some((Content::UntilClose, data)) = content {
        events.push(Event::UntilClose { content: data });
    }
    events
}

fn read_head(bytes: &[u8], side: Side<'_>) -> Result<Option<(usize, Content)>, u16> {
    let mut slots = FieldSlots::new();
    let limits = HeadLimits::default();
    match side {
        Side::Request => {
            let head = parse_request(bytes, &mut slots, &limits).map_err(|error| error.status())?;
            Ok(head.map(|head| {
                let content = match head.framing {
                    RequestFraming::None => Content::Length(0),
                    RequestFraming::Length(length) => Content::Length(length),
                    RequestFraming::Chunked => Content::Chunked(Box::default()),
                };
                (head.len, content)
            }))
        }
        Side::Response(method) => {
            let head = parse_response(bytes, &mut slots, &limits, method).map_err(|_| 502u16)?;
            Ok(head.map(|head| {
                let content = match head.framing {
                    ResponseFraming::None => Content::Length(0),
                    ResponseFraming::Length(length) => Content::Length(length),
                    ResponseFraming::Chunked => Content::Chunked(Box::default()),
                    ResponseFraming::UntilClose => Content::UntilClose,
                };
                (head.len, content)
            }))
        }
    }
}

/// Returns how much was consumed and whether the content is complete.
fn read_content(
    content: &mut Content,
    mut bytes: &[u8],
    data: &mut Vec<u8>,
) -> Result<(usize, bool), ChunkError> {
    match content {
        Content::Length(left) => {
            let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            data.extend_from_slice(&bytes[..taken]);
            *left -= taken as u64;
            Ok((taken, *left == 0))
        }
        Content::Chunked(decoder) => {
            let all = bytes.len();
            while !bytes.is_empty() {
                let decoded = decoder.decode(bytes)?;
                data.extend_from_slice(decoded.data);
                bytes = &bytes[decoded.consumed..];
                if decoded.finished {
                    return Ok((all - bytes.len(), true));
                }
                assert!(decoded.consumed > 0, "the decoder makes progress while there is input");
            }
            Ok((all, decoder.is_finished()))
        }
        Content::UntilClose => {
            data.extend_from_slice(bytes);
            Ok((bytes.len(), false))
        }
    }
}
