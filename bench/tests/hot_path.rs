//! A hot hit allocates nothing on its whole way: a real socket, the ring, the driver, the machine, the tier and back.
//!
//! Shards run in this process before an origin of a few lines; the test is their viewer. All threads but the test's and the origin's are
//! the product's, and what they allocate is counted. One test, so that no other's threads are counted with it.

mod counting;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aspis_config::{Raw, check};
use aspis_runtime::bind;
use aspis_shard::{Boot, Invalidations, Shards};
use aspis_storage::shards::owner_core;
use aspis_wire::Scheme;

/// Longer than anything here takes; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(30);
const BODY_LEN: usize = 1024;
/// Hits before the count, so that every buffer, slot and table has the size that it needs.
const WARM_COUNT: usize = 2000;
const HIT_COUNT: usize = 200;
const ROUND_COUNT: usize = 25;
/// Requests that are sent in one piece, so that one turn answers several.
const PIPELINE_LEN: usize = 8;

/// Answers every request with a KiB that is fresh for an hour, `/varies` by a field.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
    let address = listener.local_addr().expect("a bound listener has an address");
    std::thread::spawn(move || {
        counting::step_aside();
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            std::thread::spawn(move || answer_all(stream));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream) {
    counting::step_aside();
    let mut request = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).is_ok_and(|count| count == 1) {
        request.push(byte[0]);
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let vary = if request.starts_with(b"GET /varies") { "Vary: Accept-Encoding\r\n" } else { "" };
        let fields =
            format!("Cache-Control: max-age=3600\r\nETag: \"a\"\r\n{vary}Content-Length: {BODY_LEN}\r\n");
        let answer = [b"HTTP/1.1 200 OK\r\n", fields.as_bytes(), b"\r\n", &[b'x'; BODY_LEN]].concat();
        stream.write_all(&answer).expect("the product reads");
        request.clear();
    }
}

/// Starts shards; returns them and where they listen.
fn start(origin: SocketAddr, cores: usize) -> (Shards, SocketAddr) {
    let url = format!("http://{origin}");
    let raw: Raw = [("origin", url.as_str())].into_iter().collect();
    let first = bind::tcp((Ipv4Addr::LOCALHOST, 0).into(), true).expect("a loopback port is free");
    let address = bind::local_address(&first).expect("a bound listener has an address");
    let mut listeners = vec![first];
    while listeners.len() < cores {
        listeners.push(bind::tcp(address, true).expect("listeners share a port"));
    }
    let shards = aspis_shard::start(Boot {
        settings: Arc::new(check(&raw).expect("the flags are sound")),
        tcp: vec![listeners],
        unix: None,
        memory: 64 << 20,
        cores: vec![None; cores],
        origin_tls: None,
        log: None,
        invalidations: Invalidations::default(),
    })
    .expect("the shards start");
    shards.set_addresses(Arc::from([origin]));
    (shards, address)
}

struct Viewer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Viewer {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the shard listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a live socket takes options");
        stream.set_nodelay(true).expect("a live socket takes options");
        Self { stream, buffer: Vec::new() }
    }

    /// Sends `requests` and reads so many answers; tells whether all were hits.
    fn ask(&mut self, requests: &[u8], count: usize) -> bool {
        self.stream.write_all(requests).expect("the shard reads");
        (0..count).fold(true, |all, _| self.answer() && all)
    }

    fn answer(&mut self) -> bool {
        let head_len = loop {
            if let Some(at) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            self.fill();
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_len]).into_owned();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        while self.buffer.len() < head_len + BODY_LEN {
            self.fill();
        }
        self.buffer.drain(..head_len + BODY_LEN);
        head.contains("\r\nX-Cache: Hit from ")
    }

    fn fill(&mut self) {
        let mut some = [0; 16 * 1024];
        let count = self.stream.read(&mut some).expect("the shard answers");
        assert!(count > 0, "the shard closed the connection");
        self.buffer.extend_from_slice(&some[..count]);
    }
}

/// Returns the fewest allocations that the product makes for [`HIT_COUNT`] hits in a few rounds, after it had time to warm up.
///
/// Once a second the shard looks for connections that wait too long and allocates for a moment, whatever is asked meanwhile; a round is
/// over sooner, so one of them shows what the hits themselves do.
fn allocations(address: SocketAddr, request: &str, pipelined: usize) -> u64 {
    let mut viewer = Viewer::connect(address);
    let deadline = Instant::now() + PATIENCE;
    while !viewer.ask(request.as_bytes(), 1) {
        assert!(Instant::now() < deadline, "the response is not stored");
    }
    let requests = request.repeat(pipelined);
    for _ in 0..WARM_COUNT / pipelined {
        assert!(viewer.ask(requests.as_bytes(), pipelined));
    }
    let mut round = || {
        let before = counting::elsewhere();
        for _ in 0..HIT_COUNT / pipelined {
            assert!(viewer.ask(requests.as_bytes(), pipelined), "what is fresh stays a hit");
        }
        counting::elsewhere() - before
    };
    (0..ROUND_COUNT).map(|_| round()).min().expect("there are rounds")
}

#[test]
fn no_thread_of_a_shard_allocates_for_a_hit() {
    counting::step_aside();
    let before = counting::elsewhere();
    std::thread::spawn(|| drop(std::hint::black_box(vec![1_u8; 100]))).join().expect("it only allocates");
    assert!(counting::elsewhere() > before, "other threads are counted");
    let origin = origin();
    let (shards, address) = start(origin, 1);
    let before = counting::elsewhere();
    assert!(!Viewer::connect(address).ask(b"GET /miss HTTP/1.1\r\nHost: www.example.com\r\n\r\n", 1));
    assert!(counting::elsewhere() > before, "a miss allocates, and on a thread that is counted");
    let plain = "GET /plain HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: x\r\nCookie: a=b\r\n\r\n";
    let varies = "GET /varies HTTP/1.1\r\nHost: www.example.com\r\nAccept-Encoding: gzip, br\r\n\r\n";
    assert_eq!(allocations(address, plain, 1), 0);
    assert_eq!(allocations(address, varies, 1), 0);
    assert_eq!(allocations(address, plain, PIPELINE_LEN), 0);
    shards.stop();
    // With two cores one of the two keys belongs to the core that does not have the viewer: a replica answers.
    let (shards, address) = start(origin, 2);
    for path in [path_owned_by(0), path_owned_by(1)] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
        assert_eq!(allocations(address, &request, 1), 0, "{path}");
    }
    shards.stop();
}

/// A path whose key belongs to that one of two cores.
fn path_owned_by(core: usize) -> String {
    let owner = |path: &str| {
        let mut key = Vec::new();
        aspis_cache::key::write_key(Scheme::Http, "www.example.com", path, &mut key);
        owner_core(aspis_cache::key::hash(&key), 2)
    };
    let mut paths = (0..).map(|number| format!("/shared/{number}"));
    paths.find(|path| owner(path) == core).expect("hashes are spread")
}
