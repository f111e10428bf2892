//! A hot hit allocates nothing: from the request's bytes to the response's head, through parser, exchange, and tier or replica table.
//!
//! `hot_path.rs` has the same for ring and driver.

mod counting;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use aspis_cache::stored::StoredMeta;
use aspis_config::{Behavior, Raw, check};
use aspis_exchange::response_head::{HIT_TAIL_LEN_MAX, HitTail, finish_hit, write_stored};
use aspis_exchange::{Action, Event, Exchange, Now, Stored, ViewerFacts};
use aspis_storage::budget::Budget;
use aspis_storage::mapping::arena::Arena;
use aspis_storage::mapping::body::Body;
use aspis_storage::replica::ReplicaTable;
use aspis_storage::response::{Parts, StoredResponse};
use aspis_storage::tier::RamTier;
use aspis_wire::limits::HeadLimits;
use aspis_wire::request::parse_request;
use aspis_wire::response::parse_response;
use aspis_wire::{FieldSlots, Method, Scheme};

const NOW: Now = Now { wall: 1_788_256_860, millis: 60_000 };
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nDate: Tue, 01 Sep 2026 10:00:00 GMT\r\nContent-Length: 1024\r\nETag: \"a\"\r\n\
    Cache-Control: max-age=3600\r\nVary: Accept-Encoding\r\n\r\n";
const REQUEST: &[u8] = b"GET /app.js?v=3 HTTP/1.1\r\nHost: www.example.com\r\nAccept-Encoding: gzip, br\r\n\
    Cookie: a=b\r\nCache-Control: no-cache\r\nUser-Agent: x\r\n\r\n";

/// Which way the response is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Plain,
    AsVariant,
}

/// Where the core that serves finds the response.
#[derive(Clone, Copy)]
enum Shelf<'s> {
    /// It owns the key.
    Own(&'s RamTier),
    /// Another core does.
    Replicas(&'s ReplicaTable),
}

impl<'s> Shelf<'s> {
    fn lookup(self, hash: u128, key: &[u8]) -> Option<&'s Arc<StoredResponse>> {
        match self {
            Shelf::Own(tier) => tier.lookup(hash, key),
            Shelf::Replicas(table) => table.lookup(hash, key),
        }
    }

    fn vary_names(self, hash: u128, key: &[u8]) -> Option<&'s str> {
        match self {
            Shelf::Own(tier) => tier.vary_names(hash, key),
            Shelf::Replicas(table) => table.vary_names(hash, key),
        }
    }
}

/// Answers the request once and returns the length of the head; the same steps as the shard's.
fn serve(behavior: &Behavior, shelf: Shelf<'_>, key: &mut Vec<u8>, out: &mut [u8]) -> usize {
    let viewer =
        ViewerFacts { scheme: Scheme::Http, address: IpAddr::V4(Ipv4Addr::LOCALHOST), trusted: false };
    let mut slots = FieldSlots::new();
    let head = parse_request(REQUEST, &mut slots, &HeadLimits::default())
        .expect("the head is sound")
        .expect("the head is whole");
    let mut exchange = Exchange::new();
    let event = Event::Request { head: &head, viewer: &viewer, key_buffer: key };
    let Action::Lookup { mut hash } = exchange.step(behavior, event, NOW) else { panic!("looked up") };
    if shelf.lookup(hash, key).is_none() {
        let names = shelf.vary_names(hash, key).expect("it varies");
        let event = Event::Varies { names, head: &head, key_buffer: key };
        let Action::Lookup { hash: variant } = exchange.step(behavior, event, NOW) else {
            panic!("looked up")
        };
        hash = variant;
    }
    let found = shelf.lookup(hash, key).expect("it is stored");
    let stored = Stored {
        meta: &found.meta,
        head: &found.head,
        len: found.body.published(),
        fresh_until: found.fresh_until(),
    };
    let Action::RespondStored { age, ttl, .. } =
        exchange.step(behavior, Event::Found { stored, head: &head }, NOW)
    else {
        panic!("a fresh response is sent")
    };
    let content_len = found.body.published();
    let tail =
        HitTail { age, ttl, content_len, status: 200, version: head.version, keep_alive: head.keep_alive };
    finish_hit(behavior, &found.head, &tail, out)
}

/// Stores the response and returns how many allocations 100 hits on it make, on its owner's core and on another.
fn allocations(kept: Kept) -> [u64; 2] {
    let raw: Raw = [("origin", "http://origin.example")].into_iter().collect();
    let behavior = Behavior::from(&check(&raw).expect("the flags are sound"));
    let budget = Budget::new(64 << 20);
    let arena = Arena::new(16 << 20, budget.clone()).expect("the machine has memory for a test");
    let mut tier = RamTier::new(arena.clone(), budget.clone());
    let mut slots = FieldSlots::new();
    let response = parse_response(RESPONSE, &mut slots, &HeadLimits::default(), Method::Get)
        .expect("the head is sound")
        .expect("the head is whole");
    let mut prefix = Vec::new();
    write_stored(&behavior, &response, NOW, &mut prefix);
    let mut writer = Body::writer(&arena, Some(1024));
    writer.append(&[b'x'; 1024]);
    let body = writer.body().clone();
    writer.complete();
    let mut key = Vec::new();
    aspis_cache::key::write_key(Scheme::Http, "www.example.com", "/app.js?v=3", &mut key);
    let (primary, primary_len) = (aspis_cache::key::hash(&key), key.len());
    let mut request_slots = FieldSlots::new();
    let request = parse_request(REQUEST, &mut request_slots, &HeadLimits::default())
        .expect("the head is sound")
        .expect("the head is whole");
    let variant = (kept == Kept::AsVariant).then(|| {
        assert!(aspis_cache::vary::extend_key(&behavior, "accept-encoding", request.fields, &mut key));
        aspis_storage::response::VariantOf { primary, primary_len, names: "accept-encoding".into() }
    });
    let meta = StoredMeta {
        generated_at: NOW.wall - 60,
        received_at: NOW.wall - 60,
        lifetime: 3600,
        ..StoredMeta::PLAIN
    };
    let parts = Parts {
        hash: aspis_cache::key::hash(&key),
        key: key.into(),
        head: prefix.into(),
        meta,
        body,
        invalidation: 0,
        tags: Box::default(),
        variant,
    };
    let stored = StoredResponse::new(parts, &budget).expect("the budget has room");
    let mut replicas = ReplicaTable::new(64, &budget).expect("the budget has room");
    replicas.insert(&stored);
    tier.insert(stored).expect("the tier has room");
    let (mut buffer, mut out) = (Vec::with_capacity(1024), vec![0; 4096 + HIT_TAIL_LEN_MAX]);
    [Shelf::Own(&tier), Shelf::Replicas(&replicas)].map(|shelf| {
        assert!(serve(&behavior, shelf, &mut buffer, &mut out) > 0);
        let before = counting::here();
        for _ in 0..100 {
            assert!(serve(&behavior, shelf, &mut buffer, &mut out) > 0);
        }
        counting::here() - before
    })
}

#[test]
fn a_hot_hit_allocates_nothing() {
    let before = counting::here();
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert!(counting::here() > before, "the counter counts");
    assert_eq!(allocations(Kept::Plain), [0, 0]);
    assert_eq!(allocations(Kept::AsVariant), [0, 0]);
}
