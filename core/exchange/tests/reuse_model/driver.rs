//! A driver without sockets: does what the machine asks for, with a simulated origin and a map as the store.
//!
//! It is to `core/exchange` what `net/shard` is, and puts things into its map by the rules of the memory tier.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use aspis_cache::conditional::Validators;
use aspis_cache::key::hash;
use aspis_cache::range::{self, ByteRange, Selection};
use aspis_cache::stored::StoredMeta;
use aspis_cache::vary::{self, Varies};
use aspis_config::Behavior;
use aspis_exchange::forwarded::write_request_key;
use aspis_exchange::origin_request::{self, Preconditions};
use aspis_exchange::response_head::{
    self, ErrorAnswer, HIT_TAIL_LEN_MAX, HitTail, Multipart, OriginAnswer, Stored as Kept, StoredReply,
    not_modified_fields, not_modified_head, stored_fields,
};
use aspis_exchange::{
    Action, AnswerKind, Conditions, Content, Event, Exchange, FoundChange, Now, OriginFailure, Stored,
    StoredAnswer, ViewerFacts, invalidation,
};
use aspis_wire::request::{RequestHead, parse_request};
use aspis_wire::response::{ResponseHead, parse_response};
use aspis_wire::{Field, FieldSlots, HeadLimits, Method, Scheme};

use crate::origin::{Framing, Origin, Reply};
use crate::text::Fields;

pub(crate) const VIEWER: ViewerFacts =
    ViewerFacts { scheme: Scheme::Http, address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), trusted: false };

/// What is stored under one key.
#[derive(Clone, Debug)]
struct Item {
    primary: Vec<u8>,
    names: Option<Box<str>>,
    head: Vec<u8>,
    meta: StoredMeta,
    body: Vec<u8>,
}

impl Item {
    fn view(&self) -> Stored<'_> {
        Stored { meta: &self.meta, head: &self.head, len: self.body.len() as u64, fresh_until: u64::MAX }
    }

    fn version(&self) -> u64 {
        let version = stored_fields(&self.head).find(|field| field.name.eq_ignore_ascii_case("x-version"));
        std::str::from_utf8(version.expect("the origin always names it").value).unwrap().parse().unwrap()
    }
}

/// One request to the origin.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    pub(crate) fields: Fields,
    /// The version of the stored response that was found.
    pub(crate) found: Option<u64>,
    /// The version of the stored response that it validates.
    pub(crate) validates: Option<u64>,
    pub(crate) reply: Option<Reply>,
    pub(crate) requested_at: i64,
    pub(crate) received_at: i64,
    /// For a stale hit, behind the viewer's back.
    pub(crate) is_background: bool,
    /// The answer was set aside: a stale response took its place.
    pub(crate) is_unused: bool,
}

/// What the viewer got.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) fetches: Vec<Fetch>,
    /// The version that the store answered with.
    pub(crate) stored: Option<u64>,
    /// An answer of our own.
    pub(crate) is_refusal: bool,
}

pub(crate) struct Driver {
    pub(crate) behavior: Behavior,
    pub(crate) origin: Origin,
    pub(crate) now: i64,
    items: BTreeMap<Vec<u8>, Item>,
}

/// A request on its way.
struct Work<'w> {
    head: &'w RequestHead<'w, 'w>,
    exchange: Exchange,
    primary: Vec<u8>,
    found: Option<(Vec<u8>, Item)>,
    fetches: Vec<Fetch>,
    is_background: bool,
}

impl Driver {
    pub(crate) fn new(behavior: Behavior, now: i64) -> Driver {
        Driver { behavior, origin: Origin::default(), now, items: BTreeMap::new() }
    }

    fn clock(&self) -> Now {
        Now { wall: self.now as u64, millis: self.now as u64 * 1000 }
    }

    /// Runs one request to its end, with the refresh that it may start.
    pub(crate) fn serve(&mut self, request: &[u8]) -> Served {
        let mut slots = FieldSlots::new();
        let head = parse_request(request, &mut slots, &HeadLimits::default()).unwrap().unwrap();
        let mut key = Vec::new();
        let mut exchange = Exchange::new();
        let event = Event::Request { head: &head, viewer: &VIEWER, key_buffer: &mut key };
        let mut action = exchange.step(&self.behavior, event, self.clock());
        let primary = key.clone();
        let mut found = None;
        if let Action::Lookup { hash: asked } = action {
            assert_eq!(asked, hash(&key));
            found = self.items.get(&key).cloned();
            if found.is_none()
                && let Some(names) = self.names(&primary)
            {
                let event = Event::Varies { names: &names, head: &head, key_buffer: &mut key };
                action = exchange.step(&self.behavior, event, self.clock());
                found = self.items.get(&key).cloned();
            }
            if let Action::Lookup { .. } = action {
                let event = match &found {
                    Some(item) => Event::Found { stored: item.view(), head: &head },
                    None => Event::NotFound,
                };
                action = exchange.step(&self.behavior, event, self.clock());
            }
        }
        let found = found.map(|item| (key, item));
        let mut work =
            Work { head: &head, exchange, primary, found, fetches: Vec::new(), is_background: false };
        let mut served = self.perform(&mut work, action);
        if let Action::Answer(StoredAnswer { refresh: true, .. }) = action {
            self.refresh(&mut work);
        }
        served.fetches = work.fetches;
        served
    }

    fn perform(&mut self, work: &mut Work<'_>, action: Action) -> Served {
        match action {
            Action::RespondStored { age, ttl, send_body } => {
                let (_, item) = work.found.as_ref().expect("a hit was found");
                let tail = HitTail {
                    age,
                    ttl,
                    content_len: item.body.len() as u64,
                    status: item.meta.status,
                    version: work.head.version,
                    keep_alive: true,
                };
                let mut out = vec![0; item.head.len() + HIT_TAIL_LEN_MAX];
                let len = response_head::finish_hit(&self.behavior, &item.head, &tail, &mut out);
                out.truncate(len);
                if send_body {
                    out.extend_from_slice(&item.body);
                }
                self.served(work, &out, Some(item.version()))
            }
            Action::Answer(answer) => self.answer(work, answer),
            Action::Refuse { status } => self.refuse(work, status, None),
            Action::Forward(forward) => self.forward(work, forward.conditions),
            other => panic!("{other:?} is no first action"),
        }
    }

    fn answer(&self, work: &Work<'_>, answer: StoredAnswer) -> Served {
        let (_, item) = work.found.as_ref().expect("what answers was found");
        let len = item.body.len() as u64;
        if matches!(answer.kind, AnswerKind::Unsatisfiable | AnswerKind::PreconditionFailed) {
            let served = self.refuse(work, answer.kind.status(item.meta.status), Some(len));
            return Served { stored: Some(item.version()), ..served };
        }
        let multipart = match (answer.kind, range::select(work.head.fields, len)) {
            (AnswerKind::Parts, Selection::Parts(ranges)) => {
                Some(Multipart::new(&item.head, len, ranges.as_slice(), 7))
            }
            _ => None,
        };
        let reply = StoredReply {
            head: &item.head,
            status: item.meta.status,
            len: Some(len),
            answer,
            multipart: multipart.as_ref(),
            version: work.head.version,
            keep_alive: true,
        };
        let mut out = Vec::new();
        response_head::write_stored_reply(&self.behavior, &work.exchange, &reply, &mut out);
        let piece = |range: ByteRange| &item.body[range.start as usize..range.end as usize];
        match (answer.kind, multipart) {
            _ if !answer.send_body => {}
            (AnswerKind::Whole, _) => out.extend_from_slice(&item.body),
            (AnswerKind::Part(range), _) => out.extend_from_slice(piece(range)),
            (AnswerKind::Parts, Some(multipart)) => {
                for (before, range) in &multipart.parts {
                    out.extend_from_slice(before);
                    out.extend_from_slice(piece(*range));
                }
                out.extend_from_slice(&multipart.end);
            }
            _ => {}
        }
        self.served(work, &out, Some(item.version()))
    }

    fn refuse(&self, work: &Work<'_>, status: u16, unsatisfied_len: Option<u64>) -> Served {
        let answer = ErrorAnswer {
            status,
            method: Some(work.head.method),
            version: work.head.version,
            keep_alive: true,
            reason: work.exchange.forward_reason(),
            collapsed: false,
            failure: None,
            unsatisfied_len: unsatisfied_len.filter(|_| status == 416),
            wall: self.now as u64,
        };
        let mut out = Vec::new();
        response_head::write_error_answer(&self.behavior, &answer, &mut out);
        Served { is_refusal: true, ..self.served(work, &out, None) }
    }

    /// Asks the origin as often as the machine wants it.
    fn forward(&mut self, work: &mut Work<'_>, conditions: Conditions) -> Served {
        let (action, raw, reply) = self.ask(work, conditions);
        let mut slots = FieldSlots::new();
        let head = (!raw.is_empty()).then(|| {
            parse_response(&raw, &mut slots, &HeadLimits::default(), work.head.method).unwrap().unwrap()
        });
        match action {
            Action::Forward(again) => self.forward(work, again.conditions),
            Action::Answer(answer) => {
                work.fetches.last_mut().expect("it was asked").is_unused = true;
                self.answer(work, answer)
            }
            Action::Refuse { status } => self.refuse(work, status, None),
            Action::Freshen { store, answer } => {
                self.freshen(work, store, &head.expect("a 304 came"));
                self.answer(work, answer)
            }
            Action::RespondOrigin { store, content, invalidate, found } => {
                let (head, reply) = (head.expect("a head came"), reply.expect("a head came"));
                self.invalidate(work.head, &head, invalidate);
                self.change_found(work, found, &head);
                let kept = match store.filter(|_| !reply.is_broken) {
                    Some(meta) => self.store(work, meta, &head, &reply.body),
                    None => Kept::No,
                };
                let answer = OriginAnswer::new(work.head, &work.exchange, kept, true, self.clock());
                let mut out = Vec::new();
                let (body, fields) = (content == Content::Follows, not_modified_fields(&head));
                let shown =
                    if content == Content::NotModified { not_modified_head(&head, &fields) } else { head };
                response_head::write_origin(&self.behavior, &shown, &answer, &mut out);
                if body && reply.is_broken {
                    let event = Event::OriginBodyFailed(OriginFailure::Truncated);
                    assert_eq!(work.exchange.step(&self.behavior, event, self.clock()), Action::Cut);
                }
                let mut served = self.served(work, &out, None);
                served.body = if body { reply.body } else { Vec::new() };
                served
            }
            other => panic!("{other:?} does not answer a viewer"),
        }
    }

    /// Sends one request to the origin; returns what the machine makes of the answer, its head and itself.
    fn ask(&mut self, work: &mut Work<'_>, conditions: Conditions) -> (Action, Vec<u8>, Option<Reply>) {
        let found = work.found.as_ref().map(|(_, item)| item);
        let fields: Vec<Field<'_>> =
            found.map(|item| stored_fields(&item.head).collect()).unwrap_or_default();
        let preconditions = match (conditions, found) {
            (Conditions::Viewer, _) => Preconditions::Viewer,
            (Conditions::Stored, Some(item)) => {
                Preconditions::Of(Validators::of(&fields, item.meta.generated_at))
            }
            _ => Preconditions::None,
        };
        let method = if work.is_background { Method::Get } else { work.head.method };
        let mut sent = Vec::new();
        origin_request::write_as(work.head, method, &VIEWER, &self.behavior, preconditions, &mut sent);
        let sent = String::from_utf8(sent).unwrap();
        let (fields, target) = (Fields::parse(&sent), sent.split(' ').nth(1).unwrap());
        let uri = format!("{}{target}", fields.get("host").unwrap());
        let requested_at = self.now;
        let reply = self.origin.answer(method.as_str(), &uri, &fields, self.now);
        self.now += self.origin.site(&uri, self.now).delay;
        work.fetches.push(Fetch {
            fields,
            found: found.map(Item::version),
            validates: found.filter(|_| conditions == Conditions::Stored).map(Item::version),
            reply: reply.clone(),
            requested_at,
            received_at: self.now,
            is_background: work.is_background,
            is_unused: false,
        });
        let stored = work.found.as_ref().map(|(_, item)| item.view());
        let raw = reply.as_ref().map(Reply::head).unwrap_or_default();
        let mut slots = FieldSlots::new();
        let action = if reply.is_some() {
            let head = parse_response(&raw, &mut slots, &HeadLimits::default(), method).unwrap().unwrap();
            let event = Event::OriginHead { head: &head, request: work.head, stored };
            work.exchange.step(&self.behavior, event, self.clock())
        } else {
            let (failure, role) = (OriginFailure::Refused, aspis_exchange::Role::Lead);
            let event = Event::OriginFailed { failure, role, request: work.head, stored };
            work.exchange.step(&self.behavior, event, self.clock())
        };
        (action, raw, reply)
    }

    /// RFC 5861 §3, as a task of its own that runs to its end at once.
    fn refresh(&mut self, work: &mut Work<'_>) {
        work.exchange = Exchange::flight(work.head, Conditions::Stored, self.clock());
        work.is_background = true;
        let mut conditions = Conditions::Stored;
        loop {
            let (action, raw, reply) = self.ask(work, conditions);
            let Some(reply) = reply else { return };
            let mut slots = FieldSlots::new();
            let head =
                parse_response(&raw, &mut slots, &HeadLimits::default(), Method::Get).unwrap().unwrap();
            match action {
                Action::Forward(again) => conditions = again.conditions,
                Action::Freshen { store, .. } => return self.freshen(work, store, &head),
                Action::RespondOrigin { store: Some(meta), .. } if !reply.is_broken => {
                    self.store(work, meta, &head, &reply.body);
                    return;
                }
                Action::RespondOrigin { .. } => return,
                _ => {
                    work.fetches.last_mut().expect("it was asked").is_unused = true;
                    return;
                }
            }
        }
    }

    fn freshen(&mut self, work: &mut Work<'_>, store: Option<StoredMeta>, update: &ResponseHead<'_, '_>) {
        let now = self.clock();
        let (key, item) = work.found.as_mut().expect("what is freshened was found");
        let facts = store.unwrap_or(item.meta);
        let mut head = Vec::new();
        response_head::write_freshened(&self.behavior, &item.head, &facts, update, now, &mut head);
        (item.head, item.meta) = (head, facts);
        match store {
            Some(_) => self.items.insert(key.clone(), item.clone()),
            None => self.items.remove(key),
        };
    }

    fn change_found(&mut self, work: &mut Work<'_>, change: FoundChange, head: &ResponseHead<'_, '_>) {
        match (change, &work.found) {
            (FoundChange::Keep, _) | (_, None) => {}
            (FoundChange::Forget, Some((key, _))) => {
                self.items.remove(key);
            }
            (FoundChange::Update(meta), _) => self.freshen(work, Some(meta), head),
        }
    }

    fn invalidate(&mut self, request: &RequestHead<'_, '_>, head: &ResponseHead<'_, '_>, is_asked: bool) {
        if is_asked {
            let mut buffer = Vec::new();
            let items = &mut self.items;
            invalidation::keys(request, &VIEWER, head, &mut buffer, &mut |asked, key| {
                assert_eq!(asked, hash(key));
                items.retain(|_, item| item.primary != key);
            });
        }
    }

    /// By what the responses under a primary key vary.
    fn names(&self, primary: &[u8]) -> Option<Box<str>> {
        self.items.values().filter(|item| item.primary == primary).find_map(|item| item.names.clone())
    }

    /// As a fill does it, and the tier.
    fn store(&mut self, work: &Work<'_>, meta: StoredMeta, head: &ResponseHead<'_, '_>, body: &[u8]) -> Kept {
        let mut primary = work.primary.clone();
        if primary.is_empty() {
            write_request_key(work.head, &VIEWER, work.head.path_and_query, &mut primary);
        }
        let names = match vary::varies(head.fields) {
            Varies::By(names) => names,
            Varies::No | Varies::Always => "".into(),
        };
        let names = vary::union(&names, &self.names(&primary).unwrap_or_default());
        let mut selected = primary.clone();
        if !names.is_empty() && !vary::extend_key(&self.behavior, &names, work.head.fields, &mut selected) {
            return Kept::No;
        }
        let names = (!names.is_empty()).then_some(names);
        self.items.retain(|key, item| item.primary != primary || (item.names == names && *key != selected));
        let mut stored_head = Vec::new();
        response_head::write_stored(&self.behavior, head, self.clock(), &mut stored_head);
        self.items.insert(selected, Item { primary, names, head: stored_head, meta, body: body.to_vec() });
        Kept::Yes
    }

    /// Reads back what was written, as a viewer would.
    fn served(&self, work: &Work<'_>, out: &[u8], stored: Option<u64>) -> Served {
        let mut slots = FieldSlots::new();
        let head =
            parse_response(out, &mut slots, &HeadLimits::default(), work.head.method).unwrap().unwrap();
        let fields = Fields::parse(std::str::from_utf8(&out[..head.len]).unwrap());
        let body = out[head.len..].to_vec();
        Served { status: head.status, fields, body, fetches: Vec::new(), stored, is_refusal: false }
    }
}

impl Reply {
    /// The head as it comes over the wire.
    fn head(&self) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} Some\r\n", self.status);
        for (name, value) in &self.fields.0 {
            text += &format!("{name}: {value}\r\n");
        }
        match self.framing {
            _ if matches!(self.status, 204 | 304) => {}
            Framing::Length => text += &format!("Content-Length: {}\r\n", self.body.len()),
            Framing::Chunked => text += "Transfer-Encoding: chunked\r\n",
            Framing::UntilClose => {}
        }
        text += "\r\n";
        text.into_bytes()
    }
}
