//! What reading a head costs: requests of a load generator and of a browser, and an origin's response.
#![allow(missing_docs, reason = "criterion's macros make public items without documentation")]

use aspis_wire::limits::HeadLimits;
use aspis_wire::request::parse_request;
use aspis_wire::response::parse_response;
use aspis_wire::{FieldSlots, Method};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const LOAD: &[u8] = b"GET /assets/app.js?v=3 HTTP/1.1\r\nHost: www.example.com\r\n\r\n";

const BROWSER: &[u8] = b"GET /assets/app.js?v=3 HTTP/1.1\r\nHost: www.example.com\r\nConnection: keep-alive\r\n\
sec-ch-ua-platform: \"Linux\"\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\nAccept: */*\r\nSec-Fetch-Site: same-origin\r\n\
Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script\r\nReferer: https://www.example.com/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-GB,en;q=0.9\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Tue, 01 Sep 2026 10:00:00 GMT\r\n\
Content-Type: application/javascript\r\nContent-Length: 1024\r\nLast-Modified: Mon, 31 Aug 2026 10:00:00 GMT\r\n\
Connection: keep-alive\r\nETag: \"64f1c2a0-400\"\r\nExpires: Tue, 01 Sep 2026 11:00:00 GMT\r\nCache-Control: max-age=3600\r\n\
Accept-Ranges: bytes\r\n\r\n";

fn heads(criterion: &mut Criterion) {
    let limits = HeadLimits::default();
    let mut group = criterion.benchmark_group("heads");
    for (name, bytes) in [("request of a load generator", LOAD), ("request of a browser", BROWSER)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut slots = FieldSlots::new();
                let head = parse_request(black_box(bytes), &mut slots, &limits);
                let head = head.expect("the head is sound").expect("the head is whole");
                black_box((head.len, head.keep_alive, head.fields.len()))
            });
        });
    }
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("response of an origin", |bencher| {
        bencher.iter(|| {
            let mut slots = FieldSlots::new();
            let head = parse_response(black_box(RESPONSE), &mut slots, &limits, Method::Get);
            let head = head.expect("the head is sound").expect("the head is whole");
            black_box((head.len, head.status, head.fields.len()))
        });
    });
    group.finish();
}

criterion_group!(benches, heads);
criterion_main!(benches);
