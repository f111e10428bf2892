//! What goes through a passage: content that memory does not take, passed on to its readers in a bounded window.
//!
//! `fill.rs` comes here with what turned out too large, `flight.rs` with what is not stored, `disk/reading_on.rs` with the rest for a reader that was too
//! slow. Invariants: without a disk it gets on no faster than the fastest reader, and ends with the last one; what is written to disk meanwhile
//! runs ahead of slow readers, who read on from there, and is finished without them if it is worth it; no reader waits for the disk.

use std::rc::Rc;
use std::sync::Arc;

use aspis_runtime::future::{Either, race};
use aspis_storage::mapping::body::{Body, BodyWriter};
use aspis_storage::passage::{PassageWriter, passage};
use aspis_telemetry::Counter;

use super::{FillView, Source};
use crate::disk::{Feed, Slices};
use crate::limits::{
    PASSAGE_LOOK, PASSAGE_PATIENCE, PASSAGE_WINDOW_PATIENCE, STREAM_AHEAD_AFTER, passage_window,
};
use crate::origin::OriginBody;
use crate::resume::Retry;
use crate::shard::Shard;

/// A response on its way through a passage.
pub(crate) struct Passing {
    pub(crate) view: Rc<FillView>,
    source: Source,
    writer: PassageWriter,
    /// Where it ends, if that is known.
    pub(super) length: Option<u64>,
    /// How the rest is asked for if the source breaks off.
    pub(super) retry: Option<Retry>,
    /// What writes it to disk.
    pub(super) feed: Option<Feed>,
}

/// A passage that got no memory for as long as it may wait.
struct NoMemory;

/// Prepares to pass a response through that is not stored: readers begin at its first byte.
pub(crate) fn pass(shard: &Rc<Shard>, origin: OriginBody) -> Passing {
    let body = Body::writer(&shard.arena, origin.length());
    Passing::new(shard, body, Source::Origin(origin))
}

/// Prepares to pass on, from slices on disk, the rest of what a reader was too slow for.
pub(crate) fn pass_rest(shard: &Rc<Shard>, slices: Slices, retry: Option<Retry>) -> Passing {
    let length = Some(slices.len());
    let body = Body::writer(&shard.arena, length);
    Passing { length, retry, ..Passing::new(shard, body, Source::Disk(slices)) }
}

impl Passing {
    fn new(shard: &Rc<Shard>, body: BodyWriter, source: Source) -> Self {
        let view = FillView::new(shard, Arc::clone(body.body()));
        Passing::behind(shard, &view, body, source)
    }

    /// What a fill goes on in, behind what of it is in memory.
    pub(super) fn behind(shard: &Shard, view: &Rc<FillView>, body: BodyWriter, source: Source) -> Self {
        let (writer, stream) =
            passage(&shard.budget, passage_window(shard.arena.capacity()), body.published());
        view.go_on_in(stream);
        body.hand_over();
        Passing { view: Rc::clone(view), source, writer, length: None, retry: None, feed: None }
    }

    /// Begins to pass on.
    pub(crate) fn start(self, shard: &Rc<Shard>) {
        shard.ring.spawn(self.run(Rc::clone(shard)));
    }

    /// Passes content on. Where it breaks the origin is asked for the rest, if `retry` can.
    pub(super) async fn run(mut self, shard: Rc<Shard>) {
        self.source.slow_down();
        // What is received into, until it is a chunk with a charge of its own.
        let mut weight = shard.account.origin.fetches.weigh(0);
        let (mut is_ahead, mut alone_since) = (false, None);
        loop {
            self.feed.take_if(|feed| !feed.is_on());
            is_ahead &= self.feed.is_some();
            if !is_ahead && !self.wait_for_readers(&shard, &mut is_ahead).await {
                return;
            }
            if let Some(feed) = &self.feed
                && !feed.has_room(&shard, &self.writer, self.view.has_readers()).await
            {
                continue;
            }
            if self.view.has_readers() {
                alone_since = None;
            } else {
                let now = shard.ring.now_millis();
                let alone = now - *alone_since.get_or_insert(now);
                let done = (self.length, self.writer.written());
                if self.feed.is_none() || !FillView::is_worth_finishing(done, alone) {
                    return;
                }
            }
            if self.length == Some(self.writer.written()) {
                return self.complete(&shard).await;
            }
            let missing = self.length.map_or(u64::MAX, |length| length.saturating_sub(self.writer.written()));
            let len = shard.relay_len().min(usize::try_from(missing).unwrap_or(usize::MAX));
            weight.set(len);
            let Some((read, mut buffer)) = self.read(len).await else { return };
            match read {
                Some(0) => return self.complete(&shard).await,
                Some(count) => {
                    buffer.truncate(count);
                    if count < len / 4 {
                        buffer.shrink_to_fit();
                    }
                    if self.append(&shard, buffer).await.is_err() {
                        shard.counters.add(Counter::PassageNoMemory, 1);
                        let Passing { view, writer, .. } = self;
                        drop(writer);
                        return view.tell(&shard);
                    }
                    weight.set(0);
                    if is_ahead {
                        self.writer.let_go_before(
                            self.writer.written().saturating_sub(passage_window(shard.arena.capacity())),
                        );
                    }
                    if let Some(feed) = self.feed.as_ref().filter(|_| !self.writer.has_beginning()) {
                        feed.close(&shard);
                    }
                }
                None => {
                    let rest = match &mut self.retry {
                        Some(retry) => retry.rest(&shard, self.writer.written()).await,
                        None => None,
                    };
                    let Some(rest) = rest else {
                        let Passing { view, writer, .. } = self;
                        writer.fail();
                        return view.tell(&shard);
                    };
                    self.source = Source::Origin(rest);
                }
            }
            self.view.tell(&shard);
        }
    }

    /// Waits until the fastest reader has taken enough; false if there is nobody to read, and no other reason to go on. What goes to disk
    /// does not wait for long, if the readers that it leaves behind are sure to get the rest.
    async fn wait_for_readers(&mut self, shard: &Shard, is_ahead: &mut bool) -> bool {
        while !self.writer.has_room() {
            let room = self.view.room.notified();
            if !self.view.has_readers() {
                break;
            }
            // Asked to be told; with room meanwhile, or before the first reader has begun, the next look tells.
            if self.writer.must_wait() || self.writer.readers() == 0 {
                self.source.let_go();
                if self.feed.is_none() || self.retry.is_none() {
                    room.await;
                } else if let Either::Right(()) = race(room, shard.ring.sleep(STREAM_AHEAD_AFTER)).await {
                    *is_ahead = true;
                    break;
                }
            }
        }
        self.view.has_readers() || self.feed.is_some()
    }

    /// Reads up to `len` bytes; `None` inside if the content broke off. Nothing if nobody is left who wants any: a stream that says little
    /// must not keep its connection then.
    async fn read(&mut self, len: usize) -> Option<(Option<usize>, Vec<u8>)> {
        let reading = self.source.read(vec![0; len]);
        let (read, buffer) = if self.feed.is_some() {
            reading.await
        } else {
            match race(reading, self.view.all_left()).await {
                Either::Left(read) => read,
                Either::Right(()) => return None,
            }
        };
        Some((read.ok(), buffer))
    }

    /// Appends to the passage; stored responses are evicted for it, and waited for, rather than that its window shrinks and viewers are cut,
    /// and it waits a while for what others hold. What it holds for the disk is given up first.
    async fn append(&mut self, shard: &Shard, bytes: Vec<u8>) -> Result<(), NoMemory> {
        let mut bytes = bytes;
        let now = shard.ring.now_millis();
        let until = now + PASSAGE_PATIENCE.as_millis() as u64;
        let whole_until = now + PASSAGE_WINDOW_PATIENCE.as_millis() as u64;
        loop {
            let len = PassageWriter::charged_len(bytes.capacity());
            shard.make_room(len);
            let is_wanted = self.view.has_readers() || self.feed.is_some();
            if shard.ring.now_millis() < whole_until && shard.waits_for_content(len) && is_wanted {
                shard.ring.sleep(PASSAGE_LOOK).await;
                continue;
            }
            match self.writer.append(bytes) {
                Ok(()) => {
                    if let (Some(feed), Some(chunk)) = (&self.feed, self.writer.newest()) {
                        feed.push(chunk);
                    }
                    return Ok(());
                }
                Err(back) => bytes = back,
            }
            if let Some(feed) = self.feed.take() {
                feed.give_up(Counter::DiskRefusedMemory);
                continue;
            }
            if shard.ring.now_millis() >= until || !self.view.has_readers() {
                return Err(NoMemory);
            }
            shard.ring.sleep(PASSAGE_LOOK).await;
        }
    }

    /// All of it came: readers are told, and what goes to disk is ended.
    async fn complete(self, shard: &Rc<Shard>) {
        let Passing { view, writer, feed, .. } = self;
        let total = writer.written();
        writer.complete();
        view.tell(shard);
        if let Some(feed) = feed {
            feed.finish(shard, total).await;
        }
    }
}
