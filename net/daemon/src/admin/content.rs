//! The content of one admin request, as it comes.

use aspis_wire::chunked::{ChunkError, ChunkedDecoder};
use aspis_wire::request::RequestFraming;

/// What came of it, and how the rest is framed.
#[derive(Debug)]
pub(super) struct Content {
    bytes: Vec<u8>,
    rest: Rest,
}

#[derive(Debug)]
enum Rest {
    /// So many bytes.
    Length(u64),
    Chunked(ChunkedDecoder),
}

impl Content {
    /// Nothing has come yet.
    pub(super) fn new(framing: RequestFraming) -> Self {
        let rest = match framing {
            RequestFraming::None => Rest::Length(0),
            RequestFraming::Length(len) => Rest::Length(len),
            RequestFraming::Chunked => Rest::Chunked(ChunkedDecoder::new()),
        };
        Content { bytes: Vec::new(), rest }
    }

    /// What came.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How long it is, as far as that is known.
    pub(super) fn len(&self) -> u64 {
        let to_come = if let Rest::Length(len) = self.rest { len } else { 0 };
        to_come.saturating_add(self.bytes.len() as u64)
    }

    /// Takes what belongs to it from the front of `unread`; true when all of it has come.
    pub(super) fn take(&mut self, unread: &mut Vec<u8>) -> Result<bool, ChunkError> {
        match &mut self.rest {
            Rest::Length(len) => {
                let count = usize::try_from(*len).unwrap_or(usize::MAX).min(unread.len());
                self.bytes.extend(unread.drain(..count));
                *len -= count as u64;
                Ok(*len == 0)
            }
            Rest::Chunked(decoder) => {
                let mut at = 0;
                while at < unread.len() && !decoder.is_finished() {
                    let decoded = decoder.decode(&unread[at..])?;
                    self.bytes.extend_from_slice(decoded.data);
                    at += decoded.consumed;
                }
                unread.drain(..at);
                Ok(decoder.is_finished())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ends_where_its_framing_says() {
        for (framing, bytes) in [
            (RequestFraming::Length(5), &b"hello, next"[..]),
            (RequestFraming::Chunked, b"3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nT: 1\r\n\r\n, next"),
        ] {
            // In one piece, and byte by byte.
            for step in [bytes.len(), 1] {
                let (mut content, mut unread) = (Content::new(framing), Vec::new());
                let mut pieces = bytes.chunks(step);
                while !content.take(&mut unread).expect("sound") {
                    unread.extend_from_slice(pieces.next().expect("it ends before"));
                }
                unread.extend(pieces.flatten());
                assert_eq!(
                    (content.bytes(), &unread[..]),
                    (&b"hello"[..], &b", next"[..]),
                    "{framing:?} {step}"
                );
            }
        }
        assert_eq!(Content::new(RequestFraming::None).take(&mut Vec::new()), Ok(true));
        assert_eq!(Content::new(RequestFraming::Length(u64::MAX)).len(), u64::MAX);
        assert!(Content::new(RequestFraming::Chunked).take(&mut b"x\r\n".to_vec()).is_err());
    }
}
