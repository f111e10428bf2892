//! What a core does for the keys it owns: answers those who ask, collapses them, takes in what others fetched, and forgets.
//!
//! Asked by messages from `viewer`, its own viewers' among them; starts what is in `flight`.

use std::sync::Arc;

use aspis_cache::invalidation::tags;
use aspis_cache::key;
use aspis_cache::range::{self, ByteRange, Selection};
use aspis_cache::reuse::{Reuse, reuse};
use aspis_cache::stored::StoredMeta;
use aspis_cache::vary::{self, Varies};
use aspis_exchange::collapse::{Asked, Place, Wants};
use aspis_exchange::response_head::write_stored;
use aspis_exchange::{Collapsing, Conditions, OriginFailure, Role};
use aspis_storage::mapping::body::{Body, BodyState, BodyWriter};
use aspis_storage::response::{self, Parts, StoredResponse, VariantOf};
use aspis_wire::request::RequestHead;
use aspis_wire::response::ResponseHead;
use aspis_wire::{FieldSlots, Method};

use super::counts::Count;
use super::flight::Start;
use super::viewer::{Primary, parsed, parsed_answer};
use super::world::{Bytes, Fetch, Message, World, content, note};

/// What an owner tells one who asked.
pub(crate) enum Reply {
    /// It has this, which the asker has not seen.
    Stored(Arc<StoredResponse>),
    /// A shared fetch brought this; decided at that time.
    Arrived {
        stored: Arc<StoredResponse>,
        role: Role,
        validated: bool,
        flight: usize,
        at: u64,
    },
    /// The fetch was led by the asker: the origin's own head, and what is stored of it; if nothing, it is for the asker alone.
    Origin {
        head: Vec<u8>,
        flight: usize,
        stored: Option<Arc<StoredResponse>>,
    },
    /// An error for all, and whose fetch brought it.
    Errored {
        status: u16,
        role: Role,
    },
    Failed {
        failure: OriginFailure,
    },
    Alone,
}

/// Something fetched by a viewer's core.
#[derive(Debug)]
pub(crate) struct Deposit {
    pub(crate) primary: Primary,
    pub(crate) request: Bytes,
    /// The origin's head.
    pub(crate) head: Box<[u8]>,
    pub(crate) meta: StoredMeta,
    pub(crate) body: Vec<u8>,
    /// The owner's number before the request was sent.
    pub(crate) epoch: u64,
    /// The fetch that brought it.
    pub(crate) fetch: usize,
}

/// What a viewer's own fetch says about something stored.
pub(crate) struct Change {
    pub(crate) stored: Arc<StoredResponse>,
    pub(crate) keeps: Keeps,
}

/// What becomes of it.
pub(crate) enum Keeps {
    Nothing,
    /// With the number of the rules that it is from.
    Fresh {
        head: Box<[u8]>,
        meta: StoredMeta,
        number: u64,
    },
}

/// What is stored under it.
pub(crate) struct Kept {
    pub(crate) head: Box<[u8]>,
    pub(crate) meta: StoredMeta,
    pub(crate) body: Arc<Body>,
    /// The number of the rules that it is from.
    pub(crate) number: u64,
    pub(crate) tags: Box<[u64]>,
}

/// Under which key a response is stored.
pub(crate) struct Candidate {
    pub(crate) hash: u128,
    pub(crate) key: Vec<u8>,
    pub(crate) variant: Option<VariantOf>,
}

impl World {
    /// A viewer asks for a key that this core owns.
    pub(crate) fn asked(&mut self, core: usize, id: usize, has: Option<Arc<StoredResponse>>) {
        let viewer = &self.viewers[id];
        let (Some(primary), Some(forward)) = (viewer.primary.clone(), viewer.forward) else {
            return self.oracle.fault(format!("viewer {id} asks for nothing"));
        };
        let raw = Bytes::clone(&viewer.raw);
        let mut slots = FieldSlots::new();
        let head = parsed(&raw, &mut slots);
        let owned = self.owned(core, &primary, &head);
        self.justify(core);
        if let Some(stored) = owned
            && has.as_ref().is_none_or(|has| !Arc::ptr_eq(has, &stored))
        {
            return self.reply(core, id, Reply::Stored(stored));
        }
        let Some(key) = self.selected(core, &primary, &head) else {
            return self.reply(core, id, Reply::Alone);
        };
        // What left the tier since it was found is not validated any more: it may have been invalidated.
        let wall = self.clock().wall;
        let stored = has.filter(|has| has.is_live() && self.cores[core].holds(has, wall));
        self.justify(core);
        let conditions = if stored.is_some() { forward.conditions } else { Conditions::Viewer };
        let range = match (head.method, conditions) {
            (Method::Get, Conditions::Viewer) => range_text(&head),
            _ => None,
        };
        let (asked, place) = match (&range, forward.collapsing) {
            (_, Collapsing::FollowOnly | Collapsing::Apart | Collapsing::OnlyStored | Collapsing::Never) => {
                self.place(core, &primary, key, Wants::FollowOnly, id)
            }
            (None, Collapsing::LeadOrFollow) => self.place(core, &primary, key, Wants::LeadOrFollow, id),
            // A range follows a fetch of the whole, else one for the same range; it never leads the whole (C-10).
            (Some(range), Collapsing::LeadOrFollow) => {
                let ranged = [&key[..], range].concat();
                match self.place(core, &primary, key, Wants::FollowOnly, id) {
                    (_, Place::Alone(_)) => self.place(core, &primary, ranged, Wants::LeadOrFollow, id),
                    placed => placed,
                }
            }
        };
        let start = Start { primary, key: asked, raw, stored, leader: Some(id) };
        self.placed(core, id, place, start, conditions, forward.collapsing);
    }

    fn placed(
        &mut self,
        core: usize,
        id: usize,
        place: Place<usize>,
        start: Start,
        conditions: Conditions,
        collapsing: Collapsing,
    ) {
        match place {
            Place::Lead(flight) => {
                self.counts.add(Count::Led, 1);
                self.cores[core].waits.insert(id, flight);
                self.fly(core, flight, start, conditions);
            }
            Place::Wait(flight) => {
                self.counts.add(Count::Waited, 1);
                self.cores[core].waits.insert(id, flight);
                let number = self.cores[core].flights[&flight];
                note!(self, "viewer {id} waits for flight {number}");
                self.oracle.joins(id, number, self.now, self.scenario.mark_millis);
            }
            Place::Attach(flight, _) => {
                self.counts.add(Count::Attached, 1);
                let number = self.cores[core].flights[&flight];
                self.oracle.joins(id, number, self.now, self.scenario.mark_millis);
                self.attach(core, id, number);
            }
            Place::Alone(_) => {
                self.counts.add(Count::Alone, 1);
                let now = self.now;
                match collapsing {
                    Collapsing::LeadOrFollow => {
                        self.oracle.goes_alone(id, core, &start.key, &start.primary.1, now);
                    }
                    _ => self.oracle.finds_none(id, core, &start.key, &start.primary.1, now),
                }
                self.reply(core, id, Reply::Alone);
            }
            Place::Full(_) => {
                self.counts.add(Count::Refused, 1);
                self.oracle.refuses(id);
                self.reply(core, id, Reply::Failed { failure: OriginFailure::Overloaded });
            }
        }
    }

    /// Finds a place; a flight whose response is stale already is closed to those who come now (RFC 9111 §4.2.4).
    fn place(
        &mut self,
        core: usize,
        primary: &Primary,
        key: Vec<u8>,
        wants: Wants,
        id: usize,
    ) -> (Vec<u8>, Place<usize>) {
        let now = self.clock();
        loop {
            let asked = Asked { primary: primary.0, selected: key::hash(&key), key: &key, wants };
            self.close_outdated(core, primary, &asked);
            let place = self.cores[core].collapse.ask(asked, id, now);
            if let Place::Attach(flight, _) = place {
                let number = self.cores[core].flights[&flight];
                let fresh = self.flights[number]
                    .arriving()
                    .is_some_and(|stored| matches!(reuse(&stored.meta, now.wall), Reuse::Fresh { .. }));
                if !fresh {
                    self.counts.add(Count::Closed, 1);
                    self.cores[core].collapse.close(flight);
                    self.oracle.parts(number);
                    continue;
                }
            }
            return (key, place);
        }
    }

    /// What is stored for a request.
    fn owned(
        &self,
        core: usize,
        primary: &Primary,
        head: &RequestHead<'_, '_>,
    ) -> Option<Arc<StoredResponse>> {
        let (it, wall) = (&self.cores[core], self.clock().wall);
        let tier = &it.tier;
        let held = |stored: &&Arc<StoredResponse>| it.holds(stored, wall);
        if let Some(stored) = tier.lookup(primary.0, &primary.1).filter(held) {
            return Some(Arc::clone(stored));
        }
        let mut key = primary.1.to_vec();
        if let Some(names) = tier.vary_names(primary.0, &primary.1) {
            if !vary::extend_key(&self.behavior, names, head.fields, &mut key) {
                return None;
            }
        } else if head.method == Method::Get && tier.has_parts() {
            key.extend_from_slice(key::PART_SUFFIX);
            return tier.part(key::hash(&key), &key, |total| wanted(head, total)).filter(held).cloned();
        } else {
            return None;
        }
        tier.lookup(key::hash(&key), &key).filter(held).cloned()
    }

    /// The key that a request selects, by what is stored and what is arriving; `None` if it is too long.
    fn selected(&self, core: usize, primary: &Primary, head: &RequestHead<'_, '_>) -> Option<Vec<u8>> {
        let core = &self.cores[core];
        let mut key = primary.1.to_vec();
        let names = core.tier.vary_names(primary.0, &primary.1);
        if let Some(names) = names.or_else(|| core.collapse.names(primary.0, &primary.1))
            && !vary::extend_key(&self.behavior, names, head.fields, &mut key)
        {
            return None;
        }
        Some(key)
    }

    /// Answers one who asked.
    pub(crate) fn reply(&mut self, core: usize, id: usize, reply: Reply) {
        self.cores[core].waits.remove(&id);
        if self.viewers[id].is_forgotten {
            self.oracle.fault(format!("viewer {id} is answered, although its owner knows that it left"));
        }
        let epoch = self.cores[core].epoch;
        let to = self.viewers[id].core;
        self.post(core, to, Message::Reply { viewer: id, reply, epoch });
    }

    /// One who waits here went away.
    pub(crate) fn left(&mut self, core: usize, id: usize) {
        let core = &mut self.cores[core];
        self.viewers[id].is_forgotten = true;
        if let Some(flight) = core.waits.remove(&id) {
            core.collapse.leave(flight, |waiter| *waiter == id);
        }
    }

    /// Somebody got this stale; one task validates it (RFC 5861 §3).
    pub(crate) fn refresh(&mut self, core: usize, id: usize, stored: Arc<StoredResponse>) {
        let wall = self.clock().wall;
        let is_held = stored.is_live() && self.cores[core].holds(&stored, wall);
        self.justify(core);
        if !is_held {
            return;
        }
        let Some(primary) = self.viewers[id].primary.clone() else { return };
        let key = stored.key.to_vec();
        let wants = Wants::LeadOrFollow;
        let asked = Asked { primary: primary.0, selected: stored.hash, key: &key, wants };
        self.close_outdated(core, &primary, &asked);
        let Some(flight) = self.cores[core].collapse.begin(asked) else { return };
        self.counts.add(Count::Refreshes, 1);
        let raw = Bytes::clone(&self.viewers[id].raw);
        let start = Start { primary, key, raw, stored: Some(stored), leader: None };
        self.fly(core, flight, start, Conditions::Stored);
    }

    /// An unsafe request was successful somewhere (rule 16).
    pub(crate) fn invalidate(&mut self, core: usize, from: usize, id: usize, hash: u128, key: &[u8]) {
        note!(self, "core {core} forgets {}", String::from_utf8_lossy(key).replace('\n', " "));
        let it = &mut self.cores[core];
        it.tier.invalidate(hash, key);
        it.collapse.invalidate(hash);
        it.epoch += 1;
        self.oracle.invalidates(key);
        self.post(core, from, Message::Invalidated { viewer: id });
    }

    /// What a viewer fetched by itself is stored, if nothing was invalidated since.
    pub(crate) fn deposited(&mut self, core: usize, deposit: &Deposit) {
        if self.cores[core].epoch != deposit.epoch {
            return;
        }
        let mut slots = FieldSlots::new();
        let request = parsed(&deposit.request, &mut slots);
        let mut answer_slots = FieldSlots::new();
        let head = parsed_answer(&deposit.head, &mut answer_slots, Method::Get);
        if deposit.body.len() as u64 > self.scenario.object_len_max {
            return;
        }
        let Some(candidate) = self.candidate(core, &deposit.primary, &request, &head, &deposit.meta) else {
            return;
        };
        let mut writer = Body::writer(self.cores[core].tier.arena(), Some(deposit.body.len() as u64));
        if self.append(core, &mut writer, &deposit.body) < deposit.body.len() {
            return self.counts.add(Count::ShortOfMemory, 1);
        }
        let body = Arc::clone(writer.body());
        if writer.complete() != BodyState::Complete {
            return self.oracle.fault("a deposit is not whole");
        }
        let tags = tags_of(&head);
        let head = self.stored_head(&head);
        let Fetch { number, rules, .. } = self.fetches[deposit.fetch];
        self.begins_body(&body, rules);
        let kept = Kept { head, meta: deposit.meta, body, number, tags };
        if let Some(stored) = self.record(core, candidate, kept)
            && self.admit(core, &stored)
        {
            self.counts.add(Count::Deposited, 1);
        }
    }

    /// What a viewer's own validation, or its HEAD, says about something stored.
    pub(crate) fn changed(&mut self, core: usize, change: &Change) {
        match &change.keeps {
            Keeps::Nothing => {
                if change.stored.is_live() {
                    self.cores[core].tier.remove(change.stored.hash, &change.stored.key);
                }
            }
            Keeps::Fresh { head, meta, number } => {
                self.freshen(core, &change.stored, head.clone(), *meta, *number);
            }
        }
    }

    /// Makes a response with a new head over the same body. It takes the old one's place, if that still has it.
    pub(crate) fn freshen(
        &mut self,
        core: usize,
        stored: &Arc<StoredResponse>,
        head: Box<[u8]>,
        meta: StoredMeta,
        number: u64,
    ) -> Option<Arc<StoredResponse>> {
        // I-19: those that it was stored with, where a 304 does not name others.
        let tags = match response::tags_of(&head, None) {
            none if none.is_empty() => stored.tags.clone(),
            tags => tags,
        };
        let candidate =
            Candidate { hash: stored.hash, key: stored.key.to_vec(), variant: stored.variant.clone() };
        let body = Arc::clone(content(stored));
        let fresh = self.record(core, candidate, Kept { head, meta, body, number, tags })?;
        let wall = self.clock().wall;
        let is_held = self.cores[core].admits(&fresh, wall);
        self.justify(core);
        if !is_held || !stored.is_live() || self.cores[core].tier.insert(Arc::clone(&fresh)).is_err() {
            fresh.mark_gone();
        }
        Some(fresh)
    }

    /// Under which key a response to this request is stored; `None` if it is not.
    pub(crate) fn candidate(
        &self,
        core: usize,
        primary: &Primary,
        request: &RequestHead<'_, '_>,
        head: &ResponseHead<'_, '_>,
        meta: &StoredMeta,
    ) -> Option<Candidate> {
        let names = match vary::varies(head.fields) {
            Varies::By(names) => names,
            Varies::No | Varies::Always => "".into(),
        };
        // What one variant depends on is asked of all.
        let before = self.cores[core].tier.vary_names(primary.0, &primary.1).unwrap_or_default();
        let names = vary::union(&names, before);
        let mut key = primary.1.to_vec();
        if meta.part.is_some() {
            if !names.is_empty() {
                return None;
            }
            key.extend_from_slice(key::PART_SUFFIX);
        }
        let mut variant = None;
        if !names.is_empty() {
            if !vary::extend_key(&self.behavior, &names, request.fields, &mut key) {
                return None;
            }
            variant = Some(VariantOf { primary: primary.0, primary_len: primary.1.len(), names });
        }
        Some(Candidate { hash: key::hash(&key), key, variant })
    }

    /// Makes the record of a response; `None` when memory is short.
    pub(crate) fn record(
        &mut self,
        core: usize,
        candidate: Candidate,
        kept: Kept,
    ) -> Option<Arc<StoredResponse>> {
        let Candidate { hash, key, variant } = candidate;
        let Kept { head, meta, body, number, tags } = kept;
        let need = (key.len() + head.len() + 2048) as u64;
        let wall = self.clock().wall;
        self.cores[core].tier.note_time(wall);
        self.cores[core].tier.make_room_beside(need);
        let parts = Parts { hash, key: key.into(), head, meta, body, invalidation: number, tags, variant };
        let stored = StoredResponse::new(parts, &self.budget);
        self.counts.add(Count::ShortOfMemory, u64::from(stored.is_none()));
        stored
    }

    /// The head of a response as it is stored.
    pub(crate) fn stored_head(&self, head: &ResponseHead<'_, '_>) -> Box<[u8]> {
        let mut out = Vec::new();
        write_stored(&self.behavior, head, self.clock(), &mut out);
        out.into()
    }

    /// Puts bytes behind a body's end; returns how many there was memory for.
    pub(crate) fn append(&mut self, core: usize, writer: &mut BodyWriter, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let Some(mut tail) = self.cores[core].tier.tail(writer, bytes.len() - at) else { break };
            let room: &mut [u8] = tail.as_mut();
            let len = room.len().min(bytes.len() - at);
            room[..len].copy_from_slice(&bytes[at..at + len]);
            writer.publish(tail, len);
            at += len;
        }
        at
    }

    /// Takes a whole response in, if it still fits to what is stored; else it is gone.
    pub(crate) fn admit(&mut self, core: usize, stored: &Arc<StoredResponse>) -> bool {
        let wall = self.clock().wall;
        // What came by a request from before a rule is of no use after it (I-22).
        let is_held = self.cores[core].admits(stored, wall);
        self.justify(core);
        let tier = &mut self.cores[core].tier;
        // A rule that grew meanwhile selects by more than this response was chosen by.
        let outgrown = match &stored.variant {
            Some(variant) => tier
                .vary_names(variant.primary, &stored.key[..variant.primary_len])
                .is_some_and(|now| !vary::covers(&variant.names, now)),
            None => tier.vary_names(stored.hash, &stored.key).is_some(),
        };
        // Fetches of one key may run side by side: the one that was answered later stays.
        let newer = tier.holds_newer(stored);
        let is_part = stored.meta.part.is_some();
        let taken = is_held && !outgrown && !newer && tier.insert(Arc::clone(stored)).is_ok();
        if taken {
            self.counts.add(if is_part { Count::Parts } else { Count::Stored }, 1);
        } else {
            stored.mark_gone();
        }
        taken
    }
}

/// The tags of an answer (I-17).
pub(crate) fn tags_of(head: &ResponseHead<'_, '_>) -> Box<[u64]> {
    tags::of_fields(head.fields.iter().map(|field| (field.name.as_bytes(), field.value)), None)
}

/// The range that is asked for of a content of this length; all of it where none is.
pub(crate) fn wanted(head: &RequestHead<'_, '_>, total: u64) -> ByteRange {
    match range::select(head.fields, total) {
        Selection::Parts(ranges) if ranges.as_slice().len() == 1 => ranges.as_slice()[0],
        _ => ByteRange { start: 0, end: total },
    }
}

/// What makes requests for a range the same: the text of Range and If-Range.
fn range_text(head: &RequestHead<'_, '_>) -> Option<Vec<u8>> {
    let range = head.field("range")?;
    let condition = head.field("if-range").unwrap_or_default();
    Some([key::PART_SUFFIX, range, b"\n", condition].concat())
}
