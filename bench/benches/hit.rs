//! What the product's own part of a hit costs: key and hash, lookup, head, and all of it through the exchange machine.
#![allow(missing_docs, reason = "criterion's macros make public items without documentation")]

use aspis_cache::invalidation::{Rule, RuleTable, Subject, Wildcards};
use aspis_cache::key::{hash, write_key};
use aspis_cache::stored::StoredMeta;
use aspis_config::{Behavior, Raw, check};
use aspis_exchange::response_head::{HIT_TAIL_LEN_MAX, HitTail, finish_hit, write_stored};
use aspis_exchange::{Action, Event, Exchange, Now, Stored, ViewerFacts};
use aspis_storage::budget::Budget;
use aspis_storage::mapping::arena::Arena;
use aspis_storage::mapping::body::Body;
use aspis_storage::response::{Parts, StoredResponse};
use aspis_storage::rules::hold;
use aspis_storage::tier::RamTier;
use aspis_wire::limits::HeadLimits;
use aspis_wire::request::parse_request;
use aspis_wire::response::parse_response;
use aspis_wire::{FieldSlots, Method, Scheme, Version};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

const REQUEST: &[u8] = b"GET /assets/app-1.js?v=3 HTTP/1.1\r\nHost: www.example.com\r\n\r\n";
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nDate: Tue, 01 Sep 2026 10:00:00 GMT\r\nContent-Type: application/javascript\r\n\
Content-Length: 1024\r\nLast-Modified: Mon, 31 Aug 2026 10:00:00 GMT\r\nETag: \"64f1c2a0-400\"\r\n\
Cache-Control: max-age=3600\r\nAccept-Ranges: bytes\r\n\r\n";
const NOW: Now = Now { wall: 1_788_256_860, millis: 60_000 };
const META: StoredMeta = StoredMeta {
    status: 200,
    generated_at: NOW.wall - 60,
    received_at: NOW.wall - 60,
    initial_age: 0,
    lifetime: 3600,
    ..StoredMeta::PLAIN
};
/// Enough entries that a lookup at random misses the processor's caches.
const ENTRIES: u64 = 100_000;

fn behavior() -> Behavior {
    let raw: Raw = [("origin", "http://origin.example")].into_iter().collect();
    Behavior::from(&check(&raw).expect("the flags are sound"))
}

fn prefix(behavior: &Behavior) -> Vec<u8> {
    let mut slots = FieldSlots::new();
    let head = parse_response(RESPONSE, &mut slots, &HeadLimits::default(), Method::Get)
        .expect("the head is sound")
        .expect("the head is whole");
    let mut out = Vec::new();
    write_stored(behavior, &head, NOW, &mut out);
    out
}

/// A tier with `ENTRIES` small responses, and their keys.
fn tier(behavior: &Behavior) -> (RamTier, Vec<(u128, Vec<u8>)>) {
    let budget = Budget::new(1 << 30);
    let arena = Arena::new(512 << 20, budget.clone()).expect("the machine has memory for a bench");
    let mut tier = RamTier::new(arena.clone(), budget.clone());
    let head = prefix(behavior);
    let mut keys = Vec::new();
    for number in 0..ENTRIES {
        let mut key = Vec::new();
        write_key(Scheme::Http, "www.example.com", &format!("/assets/app-{number}.js?v=3"), &mut key);
        let hash = hash(&key);
        let mut writer = Body::writer(&arena, Some(1024));
        writer.append(&[b'x'; 1024]);
        let body = writer.body().clone();
        writer.complete();
        let parts = Parts {
            hash,
            key: key.clone().into_boxed_slice(),
            head: head.clone().into_boxed_slice(),
            meta: META,
            body,
            invalidation: 0,
            tags: Box::default(),
            variant: None,
        };
        let response = StoredResponse::new(parts, &budget).expect("the budget has room");
        tier.insert(response).expect("the tier has room");
        keys.push((hash, key));
    }
    (tier, keys)
}

fn hit(criterion: &mut Criterion) {
    let behavior = behavior();
    let (tier, keys) = tier(&behavior);
    let mut group = criterion.benchmark_group("hit");

    let mut buffer = Vec::with_capacity(256);
    group.bench_function("key and hash", |bencher| {
        bencher.iter(|| {
            write_key(
                Scheme::Http,
                black_box("www.example.com"),
                black_box("/assets/app-1.js?v=3"),
                &mut buffer,
            );
            hash(black_box(&buffer))
        });
    });

    group.bench_function("lookup, the same again", |bencher| {
        let (hash, key) = &keys[7];
        bencher.iter(|| tier.lookup(black_box(*hash), black_box(key)).is_some());
    });
    let mut place = 0;
    group.bench_function("lookup, any of 100,000", |bencher| {
        bencher.iter_batched(
            || {
                // A step coprime to the count visits all in an order that no prefetcher knows.
                place = (place + 61_803) % keys.len();
                &keys[place]
            },
            |(hash, key)| tier.lookup(*hash, key).is_some(),
            BatchSize::SmallInput,
        );
    });

    // What an invalidation that does not concern it costs a response: once, and at each hit from then on.
    let (hash, key) = &keys[7];
    let response = tier.lookup(*hash, key).expect("the key was inserted");
    for pending in [100, 10_000] {
        let mut rules = RuleTable::new();
        for number in 1..=pending {
            let text = format!("/assets/{number}/{}", ["*", "main.css"][number as usize % 2]);
            rules.add(number, &[Rule::path(&text, None, false, Wildcards::Trailing).expect("a path")]);
        }
        let subject = Subject { key: black_box(key), tags: &[1, 2, 3] };
        group.bench_function(format!("first look with {pending} rules"), |bencher| {
            bencher.iter(|| rules.judge(&subject, black_box(0)));
        });
        group.bench_function(format!("later looks with {pending} rules"), |bencher| {
            bencher.iter(|| hold(black_box(response), black_box(&rules), NOW.wall));
        });
    }

    let prefix = prefix(&behavior);
    let mut out = vec![0; prefix.len() + HIT_TAIL_LEN_MAX];
    let tail = HitTail {
        age: 60,
        ttl: 3540,
        content_len: 1024,
        status: 200,
        version: Version::Http11,
        keep_alive: true,
    };
    group.bench_function("response head", |bencher| {
        bencher.iter(|| finish_hit(&behavior, black_box(&prefix), black_box(&tail), &mut out));
    });

    let limits = HeadLimits::default();
    let viewer =
        ViewerFacts { scheme: Scheme::Http, address: IpAddr::V4(Ipv4Addr::LOCALHOST), trusted: false };
    group.bench_function("from head to head", |bencher| {
        bencher.iter(|| {
            let mut slots = FieldSlots::new();
            let head = parse_request(black_box(REQUEST), &mut slots, &limits);
            let head = head.expect("the head is sound").expect("the head is whole");
            let mut exchange = Exchange::new();
            let event = Event::Request { head: &head, viewer: &viewer, key_buffer: &mut buffer };
            let Action::Lookup { hash } = exchange.step(&behavior, event, NOW) else {
                unreachable!("a plain GET is looked up")
            };
            let response = tier.lookup(hash, &buffer).expect("the key was inserted");
            let stored = Stored {
                meta: &response.meta,
                head: &response.head,
                len: response.body.published(),
                fresh_until: response.fresh_until(),
            };
            let Action::RespondStored { age, ttl, .. } =
                exchange.step(&behavior, Event::Found { stored, head: &head }, NOW)
            else {
                unreachable!("a fresh response is sent")
            };
            let content_len = response.body.published();
            let tail = HitTail {
                age,
                ttl,
                content_len,
                status: 200,
                version: head.version,
                keep_alive: head.keep_alive,
            };
            finish_hit(&behavior, &response.head, &tail, &mut out)
        });
    });
    group.finish();
}

criterion_group!(benches, hit);
criterion_main!(benches);
