//! The records of a response that goes to disk while it comes: its slices, each from the chunks that it came in, and its head.
//!
//! `streaming.rs` makes them, and the line of `writing.rs` has each appended when it is its turn. Invariants: a slice is appended whole, and after those before
//! it; the head is the last.

use std::rc::Rc;
use std::sync::Arc;

use aspis_storage::disk::format::SLICE_LEN;
use aspis_storage::disk::stored::{head_record, pieces, slice_record};
use aspis_storage::disk::volume::{Refused, Volume};
use aspis_storage::mapping::body::Body;
use aspis_storage::passage::Chunk;
use aspis_telemetry::Counter;

use super::Streaming;
use crate::disk::offering::mark;
use crate::disk::{Offer, Step};

/// One slice to be written.
pub(super) struct SliceOffer {
    pub(super) streaming: Rc<Streaming>,
    pub(super) number: u64,
    pub(super) front: Option<Arc<Body>>,
    pub(super) chunks: Vec<Arc<Chunk>>,
    pub(super) end: u64,
}

/// The head, behind all slices.
pub(super) struct HeadOffer {
    pub(super) streaming: Rc<Streaming>,
    pub(super) total: u64,
}

impl Offer for SliceOffer {
    fn primary(&self) -> u128 {
        self.streaming.primary
    }

    fn len(&self) -> u64 {
        self.end - self.number * SLICE_LEN
    }

    fn concerns(&self, _: u128) -> bool {
        // Without a head nobody finds it.
        false
    }

    fn step(&mut self, volume: &mut Volume, now: u32) -> Result<Step, Refused> {
        let Streaming { stored, write_id, appended, changed, .. } = &*self.streaming;
        // A body has fewer slices than 2^32: it would be 4 PiB.
        let number = u32::try_from(self.number).map_err(|_| Refused::TooLarge)?;
        let mut at = self.number * SLICE_LEN;
        let mut body = match &self.front {
            Some(front) => pieces(front, at..self.end.min(front.published())),
            None => Vec::new(),
        };
        at += body.iter().map(|piece| piece.len() as u64).sum::<u64>();
        for chunk in &self.chunks {
            let piece = chunk.piece(at);
            let piece = &piece[..piece.len().min((self.end - at) as usize)];
            at += piece.len() as u64;
            body.push(piece);
        }
        volume.append(&slice_record(stored, (*write_id, number), &body, now), now)?;
        appended.set(self.number + 1);
        changed.notify_all();
        Ok(Step::Done(self.len()))
    }

    fn give_up(&mut self) {
        self.streaming.give_up(Counter::DiskRefusedMemory);
    }
}

impl Offer for HeadOffer {
    fn primary(&self) -> u128 {
        self.streaming.primary
    }

    fn len(&self) -> u64 {
        let stored = &self.streaming.stored;
        stored.charged_len() - stored.body.charged_len()
    }

    fn concerns(&self, hash: u128) -> bool {
        hash == self.streaming.stored.hash || hash == self.streaming.primary
    }

    fn step(&mut self, volume: &mut Volume, now: u32) -> Result<Step, Refused> {
        let Streaming { shard, stored, write_id, .. } = &*self.streaming;
        if let (Some(variant), Some(shard)) = (&stored.variant, shard.upgrade()) {
            mark(&shard, stored, variant, volume, now)?;
        }
        volume.append(&head_record(stored, (*write_id, self.total), now), now)?;
        self.streaming.kept();
        Ok(Step::Done(self.len()))
    }

    fn give_up(&mut self) {
        let streaming = &self.streaming;
        streaming.give_up(Counter::DiskRefusedMemory);
        // Of what was confirmed the older head may stay: its content is the same, and is stale no later.
        if let (Some(_), Some(shard)) = (streaming.flight, streaming.shard.upgrade()) {
            shard.forget_on_disk(&streaming.stored);
        }
    }
}
