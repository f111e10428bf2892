//! Answers from a stored response that are no plain hit: 304, ranges, stale and validated ones, 412 and 416.
//!
//! Called by `viewer/hot.rs` where nothing has to be waited for, and by `viewer/exchange.rs` after the origin was asked. What is sent was
//! decided by the exchange; this file queues it.

use aspis_cache::range::{self, ByteRange, Selection};
use aspis_cache::stored::StoredMeta;
use aspis_exchange::response_head::{self, ErrorAnswer, Multipart, StoredReply};
use aspis_exchange::{AnswerKind, Exchange, StoredAnswer};
use aspis_runtime::SocketId;
use aspis_storage::stored_body::StoredBody;
use aspis_wire::request::RequestHead;

use crate::limits::INLINE_BODY_LEN_MAX;
use crate::shard::Shard;

/// What an answer is made from: a stored response, or one whose head was just freshened.
pub(crate) struct Material<'m> {
    pub(crate) hash: u128,
    pub(crate) head: &'m [u8],
    pub(crate) meta: &'m StoredMeta,
    pub(crate) body: &'m StoredBody,
}

impl Shard {
    /// Queues an answer from a stored response; returns its status and its length on the wire.
    pub(crate) fn send_answer(
        &self,
        socket: SocketId,
        request: &RequestHead<'_, '_>,
        exchange: &Exchange,
        material: &Material<'_>,
        answer: StoredAnswer,
        keep_alive: bool,
    ) -> (u16, u64) {
        let status = answer.kind.status(material.meta.status);
        let (offset, len) = match material.meta.part {
            Some(part) => (part.start, part.total),
            // Of content that is still coming only its length is used.
            None => (0, material.body.length().unwrap_or_else(|| material.body.published())),
        };
        if matches!(answer.kind, AnswerKind::Unsatisfiable | AnswerKind::PreconditionFailed) {
            return (status, self.send_refusal(socket, request, exchange, status, len, keep_alive));
        }
        let multipart = match answer.kind {
            AnswerKind::Parts => multipart(request, material, len),
            _ => None,
        };
        let reply = StoredReply {
            head: material.head,
            status: material.meta.status,
            len: Some(len),
            answer,
            multipart: multipart.as_ref(),
            version: request.version,
            keep_alive,
        };
        let mut head = Vec::with_capacity(material.head.len() + 256);
        response_head::write_stored_reply(&self.behavior, exchange, &reply, &mut head);
        let range = match answer.kind {
            _ if !answer.send_body => ByteRange { start: 0, end: 0 },
            AnswerKind::Whole => ByteRange { start: 0, end: len },
            // The exchange saw that the range lies in what is stored.
            AnswerKind::Part(range) => ByteRange { start: range.start - offset, end: range.end - offset },
            _ => ByteRange { start: 0, end: 0 },
        };
        let sent_len = match multipart {
            Some(multipart) => self.send_parts(socket, head, material.body, multipart),
            None => self.send_range(socket, head, material.body, range),
        };
        (status, sent_len)
    }

    /// Queues a head with bytes of a body; small ones are copied so that they leave with one send.
    fn send_range(&self, socket: SocketId, mut head: Vec<u8>, body: &StoredBody, range: ByteRange) -> u64 {
        let sent_len = head.len() as u64 + range.len();
        let Some(body) = body.in_memory().filter(|_| range.len() <= INLINE_BODY_LEN_MAX) else {
            self.ring.send_source(socket, &head, self.source_of(body), range.start..range.end);
            return sent_len;
        };
        let mut at = range.start;
        while at < range.end {
            let piece = body.piece(at);
            let piece = &piece[..piece.len().min((range.end - at) as usize)];
            head.extend_from_slice(piece);
            at += piece.len() as u64;
        }
        self.ring.send_owned(socket, head);
        sent_len
    }

    fn send_parts(&self, socket: SocketId, head: Vec<u8>, body: &StoredBody, multipart: Multipart) -> u64 {
        let mut sent_len = head.len() as u64;
        self.ring.send_owned(socket, head);
        for (before, range) in multipart.parts {
            sent_len += self.send_range(socket, before, body, range);
        }
        sent_len += multipart.end.len() as u64;
        self.ring.send_owned(socket, multipart.end);
        sent_len
    }

    /// 412 and 416: the connection may go on.
    fn send_refusal(
        &self,
        socket: SocketId,
        request: &RequestHead<'_, '_>,
        exchange: &Exchange,
        status: u16,
        len: u64,
        keep_alive: bool,
    ) -> u64 {
        let answer = ErrorAnswer {
            status,
            method: Some(request.method),
            version: request.version,
            keep_alive,
            reason: exchange.forward_reason(),
            collapsed: exchange.is_collapsed(),
            failure: None,
            unsatisfied_len: (status == 416).then_some(len),
            wall: self.ring.wall_seconds(),
        };
        let mut out = Vec::with_capacity(512);
        response_head::write_error_answer(&self.behavior, &answer, &mut out);
        let sent_len = out.len() as u64;
        self.ring.send_owned(socket, out);
        sent_len
    }
}

/// The parts that the request asks for; the exchange saw that there are several.
fn multipart(request: &RequestHead<'_, '_>, material: &Material<'_>, len: u64) -> Option<Multipart> {
    match range::select(request.fields, len) {
        Selection::Parts(ranges) => {
            Some(Multipart::new(material.head, len, ranges.as_slice(), material.hash))
        }
        Selection::Whole | Selection::Unsatisfiable => None,
    }
}
