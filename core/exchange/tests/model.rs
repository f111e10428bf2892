//! The exchange against a small reference model of RFC 9111 reuse: random requests, origin changes, failures and time jumps.
//!
//! The harness is a driver in miniature: one map for a cache, one function for an origin. The model knows nothing of heads and directives; it
//! says from the numbers which version must be served, with which result, and whether the origin is asked. A failure prints the operations.

use std::collections::HashMap;
use std::net::IpAddr;

use aspis_cache::conditional::Validators;
use aspis_cache::stored::StoredMeta;
use aspis_cache::vary;
use aspis_config::{Behavior, Raw, check};
use aspis_exchange::response_head::{stored_fields, write_freshened, write_stored};
use aspis_exchange::{
    Action, Conditions, Event, Exchange, Now, OriginFailure, ResultType, Stored, ViewerFacts,
};
use aspis_wire::request::{RequestHead, parse_request};
use aspis_wire::response::parse_response;
use aspis_wire::{FieldSlots, HeadLimits, Method, Scheme};
use proptest::prelude::*;

const START: u64 = 1_000_000;
const VIEWER: ViewerFacts =
    ViewerFacts { scheme: Scheme::Http, address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), trusted: false };

/// What the origin says of its responses from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    max_age: Option<u32>,
    no_store: bool,
    no_cache: bool,
    must_revalidate: bool,
    while_revalidate: u32,
    etag: bool,
    vary: bool,
}

#[derive(Clone, Debug)]
enum Operation {
    /// GET of one of two URLs with one of two values of `Foo`.
    Get { url: u8, chosen: u8 },
    /// A POST that succeeds.
    Post { url: u8 },
    /// The representations change.
    Change,
    /// The origin says other things of them.
    Policy(Policy),
    /// The origin breaks or is mended.
    Up(bool),
    /// Time passes.
    Wait(u32),
}

/// What a viewer sees, and whether the origin was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    version: Option<u32>,
    result: ResultType,
    asked: bool,
}

// --- the reference model -------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
struct Kept {
    version: u32,
    at: u64,
    policy: Policy,
}

impl Kept {
    fn fresh_for(&self) -> u64 {
        if self.policy.no_cache { 0 } else { u64::from(self.policy.max_age.unwrap_or(0)) }
    }
}

/// RFC 9111 §3 and §4 for the policies above, by numbers alone.
#[derive(Default)]
struct Model {
    kept: HashMap<(u8, Option<u8>), Kept>,
    varies: HashMap<u8, bool>,
}

impl Model {
    fn get(&mut self, world: &World, url: u8, chosen: u8) -> Seen {
        let place = (url, self.varies.get(&url).copied().unwrap_or(false).then_some(chosen));
        let kept = self.kept.get(&place).copied();
        let Some(kept) = kept else { return self.fetch(world, url, chosen) };
        let age = world.now - kept.at;
        if age < kept.fresh_for() {
            return Seen { version: Some(kept.version), result: ResultType::Hit, asked: false };
        }
        let strict = kept.policy.must_revalidate || kept.policy.no_cache;
        let stale_for = age - kept.fresh_for();
        if !strict && kept.fresh_for() > 0 && stale_for < u64::from(kept.policy.while_revalidate) {
            // The background refresh is done at once here; it leaves everything as it is where the origin is down.
            let seen = Seen { version: Some(kept.version), result: ResultType::Hit, asked: true };
            if world.up {
                self.ask_again(world, place, kept, url, chosen);
            }
            return seen;
        }
        if !world.up {
            let version = (!strict).then_some(kept.version);
            let result = if strict { ResultType::Error } else { ResultType::RefreshHit };
            return Seen { version, result, asked: true };
        }
        self.ask_again(world, place, kept, url, chosen)
    }

    /// The origin is up: a matching validator freshens, else the response comes whole.
    fn ask_again(&mut self, world: &World, place: (u8, Option<u8>), kept: Kept, url: u8, chosen: u8) -> Seen {
        if !(kept.policy.etag && world.policy.etag && kept.version == world.version) {
            return self.fetch(world, url, chosen);
        }
        let seen = Seen { version: Some(kept.version), result: ResultType::RefreshHit, asked: true };
        // A 304 without Vary leaves the stored one; one that begins to vary fits no longer to where the response is kept.
        if self.may_keep(world) && (kept.policy.vary || !world.policy.vary) {
            let policy = Policy { vary: kept.policy.vary, ..world.policy };
            self.kept.insert(place, Kept { version: kept.version, at: world.now, policy });
        } else {
            self.kept.remove(&place);
            if place.1.is_some() && !self.kept.keys().any(|(other, chosen)| *other == url && chosen.is_some())
            {
                self.varies.remove(&url);
            }
        }
        seen
    }

    fn fetch(&mut self, world: &World, url: u8, chosen: u8) -> Seen {
        if !world.up {
            return Seen { version: None, result: ResultType::Error, asked: true };
        }
        if self.may_keep(world) {
            let varies = world.policy.vary || self.varies.get(&url).copied().unwrap_or(false);
            if varies {
                self.kept.remove(&(url, None));
                self.varies.insert(url, true);
            }
            let kept = Kept { version: world.version, at: world.now, policy: world.policy };
            self.kept.insert((url, varies.then_some(chosen)), kept);
        }
        Seen { version: Some(world.version), result: ResultType::Miss, asked: true }
    }

    fn may_keep(&self, world: &World) -> bool {
        let policy = world.policy;
        let fresh = policy.max_age.is_some_and(|age| age > 0) && !policy.no_cache;
        !policy.no_store && (fresh || policy.etag)
    }

    fn post(&mut self, url: u8) {
        self.kept.retain(|(other, _), _| *other != url);
        self.varies.remove(&url);
    }
}

// --- the world and the driver in miniature -------------------------------------------------------------------------

struct World {
    now: u64,
    version: u32,
    policy: Policy,
    up: bool,
}

impl World {
    /// The origin's head for a request, as text.
    fn answer(&self, if_none_match: Option<&str>) -> String {
        let policy = self.policy;
        let mut control = Vec::new();
        control.extend(policy.max_age.map(|age| format!("max-age={age}")));
        control.extend(policy.no_store.then(|| "no-store".to_string()));
        control.extend(policy.no_cache.then(|| "no-cache".to_string()));
        control.extend(policy.must_revalidate.then(|| "must-revalidate".to_string()));
        if policy.while_revalidate > 0 {
            control.push(format!("stale-while-revalidate={}", policy.while_revalidate));
        }
        let mut fields = format!("Cache-Control: {}\r\nVersion: {}\r\n", control.join(", "), self.version);
        let etag = format!("\"{}\"", self.version);
        if policy.etag {
            fields.push_str(&format!("ETag: {etag}\r\n"));
        }
        if policy.vary {
            fields.push_str("Vary: Foo\r\n");
        }
        if policy.etag && if_none_match == Some(&etag) {
            format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\n")
        } else {
            format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 1\r\n\r\n")
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    meta: StoredMeta,
    head: Vec<u8>,
    version: u32,
    key: Vec<u8>,
    primary: Vec<u8>,
    names: Option<Box<str>>,
}

struct Driver {
    behavior: Behavior,
    store: HashMap<Vec<u8>, Entry>,
    asked: bool,
}

impl Driver {
    fn names(&self, primary: &[u8]) -> Option<Box<str>> {
        self.store.values().find(|entry| entry.primary == primary && entry.names.is_some())?.names.clone()
    }

    fn get(&mut self, world: &World, url: u8, chosen: u8) -> Seen {
        let text = format!("GET /{url} HTTP/1.1\r\nHost: a\r\nFoo: {chosen}\r\n\r\n");
        let mut slots = FieldSlots::new();
        let request = parse_request(text.as_bytes(), &mut slots, &HeadLimits::default())
            .expect("the head is sound")
            .expect("the head is whole");
        let now = Now { wall: world.now, millis: 0 };
        let (mut key, mut exchange) = (Vec::new(), Exchange::new());
        self.asked = false;
        let event = Event::Request { head: &request, viewer: &VIEWER, key_buffer: &mut key };
        exchange.step(&self.behavior, event, now);
        let primary = key.clone();
        if !self.store.contains_key(&key)
            && let Some(names) = self.names(&primary)
        {
            let event = Event::Varies { names: &names, head: &request, key_buffer: &mut key };
            exchange.step(&self.behavior, event, now);
        }
        let found = self.store.get(&key).cloned();
        let action = match &found {
            None => exchange.step(&self.behavior, Event::NotFound, now),
            Some(entry) => {
                let stored = Stored { meta: &entry.meta, head: &entry.head, len: 1 };
                exchange.step(&self.behavior, Event::Found { stored, head: &request }, now)
            }
        };
        let version = found.as_ref().map(|entry| entry.version);
        let seen = match action {
            Action::RespondStored { .. } => version,
            Action::Answer(answer) => {
                if answer.refresh {
                    let mut refresh = Exchange::refreshing(&request, now);
                    self.ask(world, &mut refresh, Conditions::Stored, &request, &primary, found.as_ref());
                }
                version
            }
            Action::Forward(forward) => {
                self.ask(world, &mut exchange, forward.conditions, &request, &primary, found.as_ref())
            }
            other => panic!("{other:?}"),
        };
        Seen { version: seen, result: exchange.result(), asked: self.asked }
    }

    fn ask(
        &mut self,
        world: &World,
        exchange: &mut Exchange,
        conditions: Conditions,
        request: &RequestHead<'_, '_>,
        primary: &[u8],
        found: Option<&Entry>,
    ) -> Option<u32> {
        self.asked = true;
        let now = Now { wall: world.now, millis: 0 };
        let stored = found.map(|entry| Stored { meta: &entry.meta, head: &entry.head, len: 1 });
        if !world.up {
            let event = Event::OriginFailed { failure: OriginFailure::Refused, request, stored };
            let served = matches!(exchange.step(&self.behavior, event, now), Action::Answer(_));
            return found.filter(|_| served).map(|entry| entry.version);
        }
        let fields: Vec<_> = found.map(|entry| stored_fields(&entry.head).collect()).unwrap_or_default();
        let etag = Validators::of(&fields, 0).etag.filter(|_| conditions == Conditions::Stored);
        let etag = etag.map(|tag| String::from_utf8_lossy(tag).into_owned());
        let text = world.answer(etag.as_deref());
        let mut slots = FieldSlots::new();
        let head = parse_response(text.as_bytes(), &mut slots, &HeadLimits::default(), Method::Get)
            .expect("the head is sound")
            .expect("the head is whole");
        match exchange.step(&self.behavior, Event::OriginHead { head: &head, request, stored }, now) {
            Action::RespondOrigin { store, .. } => {
                if let Some(meta) = store {
                    let mut out = Vec::new();
                    write_stored(&self.behavior, &head, now, &mut out);
                    self.keep(
                        request,
                        primary,
                        &head,
                        Entry {
                            meta,
                            head: out,
                            version: world.version,
                            key: Vec::new(),
                            primary: primary.to_vec(),
                            names: None,
                        },
                    );
                }
                Some(world.version)
            }
            Action::Freshen { store, .. } => {
                let entry = found.expect("only what was found is freshened");
                self.store.remove(&entry.key);
                if let Some(meta) = store {
                    let mut out = Vec::new();
                    write_freshened(&self.behavior, &entry.head, &meta, &head, now, &mut out);
                    self.store.insert(entry.key.clone(), Entry { meta, head: out, ..entry.clone() });
                }
                Some(entry.version)
            }
            other => panic!("{other:?}"),
        }
    }

    fn keep(
        &mut self,
        request: &RequestHead<'_, '_>,
        primary: &[u8],
        head: &aspis_wire::response::ResponseHead<'_, '_>,
        mut entry: Entry,
    ) {
        let own = match vary::varies(head.fields) {
            vary::Varies::By(names) => names,
            vary::Varies::No | vary::Varies::Always => "".into(),
        };
        let names = vary::union(&own, &self.names(primary).unwrap_or_default());
        let mut key = primary.to_vec();
        if !names.is_empty() {
            assert!(vary::extend_key(&self.behavior, &names, request.fields, &mut key));
            self.store.remove(primary);
            entry.names = Some(names);
        }
        entry.key = key.clone();
        self.store.insert(key, entry);
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    let seconds = prop_oneof![Just(None), (0_u32..20).prop_map(Some)];
    (
        seconds,
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
        any::<bool>(),
        0_u32..10,
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(max_age, no_store, no_cache, must_revalidate, while_revalidate, etag, vary)| {
            Policy { max_age, no_store, no_cache, must_revalidate, while_revalidate, etag, vary }
        })
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        8 => (0_u8..2, 0_u8..2).prop_map(|(url, chosen)| Operation::Get { url, chosen }),
        1 => (0_u8..2).prop_map(|url| Operation::Post { url }),
        2 => Just(Operation::Change),
        2 => policies().prop_map(Operation::Policy),
        1 => prop::bool::weighted(0.7).prop_map(Operation::Up),
        3 => (1_u32..15).prop_map(Operation::Wait),
    ];
    proptest::collection::vec(operation, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn the_exchange_reuses_as_the_reference_model_does(first in policies(), operations in operations()) {
        let mut raw = Raw::new();
        raw.push("origin", "http://origin.example");
        let behavior = Behavior::from(&check(&raw).expect("the flags are sound"));
        let mut driver = Driver { behavior, store: HashMap::new(), asked: false };
        let mut world = World { now: START, version: 1, policy: first, up: true };
        let mut model = Model::default();
        for (at, operation) in operations.iter().enumerate() {
            match operation {
                Operation::Get { url, chosen } => {
                    let expected = model.get(&world, *url, *chosen);
                    let seen = driver.get(&world, *url, *chosen);
                    prop_assert_eq!(seen, expected, "operation {} at {}", at, world.now - START);
                }
                Operation::Post { url } => {
                    model.post(*url);
                    let primary = format!("http\na\n/{url}").into_bytes();
                    driver.store.retain(|_, entry| entry.primary != primary);
                }
                Operation::Change => world.version += 1,
                Operation::Policy(policy) => world.policy = *policy,
                Operation::Up(up) => world.up = *up,
                Operation::Wait(seconds) => world.now += u64::from(*seconds),
            }
        }
    }
}
