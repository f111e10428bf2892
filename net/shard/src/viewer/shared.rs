//! One request whose fetch is shared: asks the owner of its key and answers with what comes.
//!
//! `viewer/exchange.rs` comes here when the machine says that others may share the fetch. The owner may be this core or another; nothing here
//! differs. Invariants: what arrives is judged by this request's own exchange; a request goes to the origin by itself only when told so.

use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::range::ByteRange;
use aspis_exchange::response_head::{self, StoredReply, ViewerFraming, stored_fields};
use aspis_exchange::{
    Action, AnswerKind, Arriving, Collapsing, Content, Event, Forward, OriginFailure, Role, StoredAnswer,
    Variant,
};
use aspis_runtime::future::yield_now;
use aspis_storage::mapping::body::BodyState;
use aspis_storage::response::StoredResponse;
use aspis_telemetry::Counter;
use aspis_wire::response::parse_response;
use aspis_wire::{Field, FieldSlots};

use super::exchange::{Afterwards, Work};
use super::relay::{Delimiter, Relay, RelayFailure};
use crate::asking::{Ask, Reply};
use crate::disk::reading_on::RestAsk;
use crate::fill::{FillView, Reader, Reading};
use crate::limits::ASKS_MAX;
use crate::owner::Refresh;
use crate::resume::Retry;
use crate::storing::{primary_of, view_of};

/// What a reply leads to.
enum Next {
    Over(Afterwards),
    /// The owner is asked anew, with this.
    Ask(Forward),
    /// The request goes to the origin by itself.
    Alone(Forward),
}

impl Work<'_> {
    /// Waits for what the owner of the key has or gets.
    pub(super) async fn share(&self, forward: Forward) -> Afterwards {
        let mut forward = forward;
        // A reply may be there at once; then a connection's next request must not be answered inside this one.
        yield_now().await;
        for _ in 0..ASKS_MAX {
            let Some(key) = self.key else { break };
            let place = self.shard.ask(Ask {
                head: self.raw.into(),
                facts: *self.facts,
                key: key.clone(),
                forward,
                sheds: self.shard.sheds_elsewhere(self.shard.owner_of(key.0)),
                has: self.stored(),
                restores: 0,
            });
            let reply = loop {
                match place.next().await {
                    Reply::Interim(raw) => self.pass_interim(&raw),
                    reply => break reply,
                }
            };
            drop(place);
            // Boxed: thousands wait above this line, and what they do afterwards takes many times the room.
            let replied = Box::pin(self.replied(reply, forward));
            let _weight = self.shard.account.requests.weigh(size_of_val(&*replied));
            match replied.await {
                Next::Over(afterwards) => return afterwards,
                Next::Ask(again) => forward = again,
                Next::Alone(alone) => return self.go_alone_boxed(alone).await,
            }
        }
        self.go_alone_boxed(forward).await
    }

    async fn replied(&self, reply: Reply, forward: Forward) -> Next {
        match reply {
            // The owner does not have the rule yet that this core has; or what is mapped went meanwhile.
            Reply::Stored(stored) if !self.shard.holds(&stored) || !self.shard.can_send(&stored) => {
                self.found.replace(None);
                Next::Ask(forward)
            }
            Reply::Stored(stored) => self.look_at(stored),
            Reply::Arrived { stored, role, validated, reading } => {
                self.arrived(stored, role, validated, reading, forward).await
            }
            Reply::Origin { head, stored, reading } => {
                // Boxed, as what few go through below: of the many that follow each has room for its own steps only.
                Next::Over(Box::pin(self.lead(&head, stored, reading)).await)
            }
            Reply::Erred { status, role } => {
                let view = self.held();
                let stored = view.as_deref().map(view_of);
                let event = Event::OriginErred { status, role, request: self.head, stored };
                Next::Over(match self.step(event, self.shard.now()) {
                    Action::Answer(answer) => self.answer_stored(answer),
                    Action::Refuse { status } => self.answer_error(status, None),
                    _ => Afterwards::Reset,
                })
            }
            Reply::Failed { failure, role } => Next::Over(self.answer_failure(failure, role)),
            Reply::Alone if forward.collapsing == Collapsing::OnlyStored => {
                let action = self.step(Event::NotFound, self.shard.now());
                let Action::Refuse { status } = action else { return Next::Over(Afterwards::Reset) };
                Next::Over(self.answer_error(status, None))
            }
            Reply::Alone => Next::Alone(forward),
            // Not forwarded, as the word Collapsed has it: stale where that is allowed, else 503.
            Reply::Full => Next::Over(self.answer_failure(OriginFailure::Overloaded, Role::Collapsed)),
            // The first is taken before, the second is for who reads on.
            Reply::Interim(_) | Reply::Rest(_) | Reply::Again => Next::Ask(forward),
        }
    }

    /// Judges what the owner has stored meanwhile, or had before this core looked.
    fn look_at(&self, stored: Arc<StoredResponse>) -> Next {
        let event = Event::Found { stored: view_of(&stored), head: self.head };
        let action = self.step(event, self.shard.now());
        self.shard.replicate(&stored);
        self.found.replace(Some(Arc::clone(&stored)));
        Next::Over(match action {
            Action::RespondStored { age, ttl, send_body } => self.answer_stored(StoredAnswer {
                kind: AnswerKind::Whole,
                age,
                ttl,
                send_body,
                refresh: false,
            }),
            Action::Answer(answer) => {
                if answer.refresh
                    && let Some(key) = self.key
                {
                    let (head, key) = (self.raw.into(), key.clone());
                    self.shard.refresh(Refresh { head, facts: *self.facts, key, stored });
                }
                self.answer_stored(answer)
            }
            Action::Forward(forward) => return Next::Ask(forward),
            Action::Refuse { status } => self.answer_error(status, None),
            _ => Afterwards::Reset,
        })
    }

    /// Answers with what a shared fetch brought, if it is for this request.
    async fn arrived(
        &self,
        stored: Arc<StoredResponse>,
        role: Role,
        validated: bool,
        reading: Option<Reading>,
        forward: Forward,
    ) -> Next {
        let reader = reading.map(|reading| FillView::attach(self.shard, reading));
        let progress = stored.body.progress();
        if progress.state == BodyState::Failed {
            // who has not got the head yet starts anew.
            return Next::Ask(forward);
        }
        let arriving = Arriving {
            meta: &stored.meta,
            head: &stored.head,
            length: stored.body.length(),
            published: progress.len,
            variant: stored
                .variant
                .as_ref()
                .map(|variant| Variant { names: &variant.names, key: &stored.key }),
            validated,
        };
        let mut key = self.key.map(|(_, key)| key.to_vec()).unwrap_or_default();
        let event = Event::Arrived { arriving, role, request: self.head, key_buffer: &mut key };
        match self.step(event, self.shard.now()) {
            Action::Answer(answer) => {
                if role == Role::Collapsed {
                    self.shard.counters.add(Counter::RequestsCollapsed, 1);
                }
                Next::Over(match reader {
                    Some(reader) if progress.state != BodyState::Complete => {
                        self.answer_arriving(&stored, reader, answer).await
                    }
                    _ => {
                        self.shard.replicate(&stored);
                        self.send_answer(&stored, &stored.head, answer)
                    }
                })
            }
            Action::AskAgain => Next::Ask(forward),
            // Once: of an origin that sends the whole where a part was asked for, nobody waits for another.
            Action::Forward(apart)
                if apart.collapsing == Collapsing::Apart && forward.collapsing != Collapsing::Apart =>
            {
                Next::Ask(apart)
            }
            Action::Forward(alone) => Next::Alone(alone),
            Action::Refuse { status } => Next::Over(self.answer_error(status, None)),
            _ => Next::Over(Afterwards::Reset),
        }
    }

    /// Sends a response whose content is still coming.
    async fn answer_arriving(
        &self,
        stored: &Arc<StoredResponse>,
        reader: Reader,
        answer: StoredAnswer,
    ) -> Afterwards {
        let offset = stored.meta.part.map_or(0, |part| part.start);
        let total = stored.meta.part.map(|part| part.total).or(stored.body.length());
        let range = match answer.kind {
            // The exchange saw that the range lies in what arrives.
            AnswerKind::Part(range) => ByteRange { start: range.start - offset, end: range.end - offset },
            AnswerKind::Whole => ByteRange { start: 0, end: total.unwrap_or(u64::MAX) },
            // Without content, or with content of our own.
            _ => return self.send_answer(stored, &stored.head, answer),
        };
        let mut reply = StoredReply {
            head: &stored.head,
            status: stored.meta.status,
            len: total,
            answer,
            multipart: None,
            version: self.head.version,
            keep_alive: self.may_keep_alive(),
        };
        let framing = match answer.kind {
            AnswerKind::Whole if answer.send_body => reply.framing(),
            _ => ViewerFraming::None,
        };
        reply.keep_alive &= framing != ViewerFraming::UntilClose;
        let mut out = Vec::with_capacity(stored.head.len() + 256);
        response_head::write_stored_reply(&self.shard.behavior, &self.exchange.borrow(), &reply, &mut out);
        self.progress.status.set(answer.kind.status(stored.meta.status));
        self.send(out);
        let delimiter = if framing == ViewerFraming::Chunked { Delimiter::Chunked } else { Delimiter::Plain };
        let mut relay = Relay::new(self.shard, self.viewer, delimiter, &self.progress.sent_len);
        let relayed = match answer.kind {
            _ if !answer.send_body => relay.finish().await,
            AnswerKind::Whole => {
                let fields: Vec<Field<'_>> = stored_fields(&stored.head).collect();
                self.follow(&mut relay, reader, stored.meta.status, &fields).await
            }
            _ => self.follow_range(&mut relay, reader, range).await.map_err(|(failure, _)| failure),
        };
        if relayed.is_ok() {
            self.shard.replicate(stored);
        }
        self.relayed(relayed, reply.keep_alive)
    }

    /// Follows a fill to its end. Who was too slow for a passage reads on from disk, or goes on by a range request, where the response allows
    /// that (idea 4).
    async fn follow(
        &self,
        relay: &mut Relay<'_>,
        reader: Reader,
        status: u16,
        fields: &[Field<'_>],
    ) -> Result<(), RelayFailure> {
        let length = reader.view.body().length();
        let followed = self.follow_range(relay, reader, ByteRange { start: 0, end: u64::MAX }).await;
        let Err((failure, Some(at))) = followed else { return followed.map_err(|(failure, _)| failure) };
        let Some(mut retry) = Retry::new(self.raw.into(), *self.facts).of(status, fields, length) else {
            return Err(failure);
        };
        match Box::pin(retry.rest(self.shard, at)).await {
            Some(rest) => Box::pin(relay.pass(rest)).await,
            None => Err(failure),
        }
    }

    /// Follows a fill through a range, the end of it from disk if need be. The error says from where on the origin may be asked for the rest.
    async fn follow_range(
        &self,
        relay: &mut Relay<'_>,
        reader: Reader,
        range: ByteRange,
    ) -> Result<(), (RelayFailure, Option<u64>)> {
        let lost = match relay.follow(&reader, range).await {
            Ok(()) => return Ok(()),
            Err(lost @ RelayFailure::Lost { at }) => (lost, at),
            Err(failure) => return Err((failure, None)),
        };
        let (failure, at) = lost;
        let Some(fill) = reader.view.on_disk().map(Arc::clone) else { return Err((failure, Some(at))) };
        // Nobody waits for it there any more.
        drop(reader);
        let rest = ByteRange { start: at, end: range.end };
        let ask = RestAsk { fill, range: rest, head: self.raw.into(), facts: *self.facts };
        match Box::pin(self.shard.read_on(ask)).await {
            Some(reader) => {
                let followed = relay.follow(&reader, ByteRange { start: 0, end: range.end - at }).await;
                followed.map_err(|failure| (failure, None))
            }
            None => Err((failure, Some(at))),
        }
    }

    /// Sends what the origin answered to this request's own fetch.
    async fn lead(&self, raw: &[u8], stored: Option<Arc<StoredResponse>>, reading: Reading) -> Afterwards {
        let reader = FillView::attach(self.shard, reading);
        let mut slots = FieldSlots::new();
        let parsed = parse_response(raw, &mut slots, &self.shard.head_limits, aspis_wire::Method::Get);
        let Ok(Some(head)) = parsed else { return self.answer_failure(OriginFailure::Invalid, Role::Lead) };
        // What is gone was not validated, so it has no part in the answer.
        let found = self.held().filter(|found| found.is_live());
        let event =
            Event::OriginHead { head: &head, request: self.head, stored: found.as_deref().map(view_of) };
        let content = match self.step(event, self.shard.now()) {
            Action::RespondOrigin { content, .. } => content,
            Action::Answer(answer) => return self.answer_stored(answer),
            Action::Refuse { status } => return self.answer_error(status, None),
            _ => return Afterwards::Reset,
        };
        let is_kept = stored.as_ref().is_some_and(|stored| {
            let fits = stored.body.length().is_none_or(|length| length <= self.shard.kept_len_max());
            fits && stored.is_live()
        });
        let (sending, delimiter) = self.send_origin_head(&head, content, is_kept);
        let mut relay = Relay::new(self.shard, self.viewer, delimiter, &self.progress.sent_len);
        let relayed = match content {
            Content::Follows => self.follow(&mut relay, reader, head.status, head.fields).await,
            Content::None | Content::NotModified => relay.finish().await,
        };
        if let (Ok(()), Some(stored)) = (&relayed, &stored) {
            self.shard.replicate(stored);
        }
        self.relayed(relayed, sending)
    }
}

impl crate::shard::Shard {
    /// Keeps a response of another owner at hand, if it is whole and still stored.
    pub(crate) fn replicate(self: &Rc<Self>, stored: &Arc<StoredResponse>) {
        let is_whole = stored.body.progress().state == BodyState::Complete;
        let is_part = stored.meta.part.is_some();
        if is_whole && !is_part && stored.is_live() && self.owner_of(primary_of(stored)) != self.core {
            self.replicas.borrow_mut().insert(stored);
        }
    }
}
