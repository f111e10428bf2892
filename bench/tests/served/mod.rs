//! Shards in the test's own process before an origin of a few lines, and a viewer that asks them.
#![allow(dead_code, reason = "each test uses its own part")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aspis_config::{Raw, check};
use aspis_runtime::bind;
use aspis_shard::{Boot, Invalidations, Shards};

/// Longer than anything here takes; a test that hangs fails instead.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const BODY_LEN: usize = 1024;

/// Answers every request with a KiB that is fresh for an hour, `/varies` by a field.
pub(crate) fn origin() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
    let address = listener.local_addr().expect("a bound listener has an address");
    std::thread::spawn(move || {
        crate::counting::step_aside();
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            std::thread::spawn(move || answer_all(stream));
        }
    });
    address
}

fn answer_all(mut stream: TcpStream) {
    crate::counting::step_aside();
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
pub(crate) fn start(origin: SocketAddr, cores: usize) -> (Shards, SocketAddr) {
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
        disk: None,
    })
    .expect("the shards start");
    shards.set_addresses(Arc::from([origin]));
    (shards, address)
}

/// One connection to a shard.
pub(crate) struct Viewer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Viewer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the shard listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a live socket takes options");
        stream.set_nodelay(true).expect("a live socket takes options");
        Self { stream, buffer: Vec::new() }
    }

    /// Sends `requests` and reads so many answers; tells whether all were hits.
    pub(crate) fn ask(&mut self, requests: &[u8], count: usize) -> bool {
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

/// Connects and asks until the answer is a hit, as it is once the first is stored.
pub(crate) fn warm(address: SocketAddr, request: &str) -> Viewer {
    let mut viewer = Viewer::connect(address);
    let deadline = Instant::now() + PATIENCE;
    while !viewer.ask(request.as_bytes(), 1) {
        assert!(Instant::now() < deadline, "the response is not stored");
    }
    viewer
}
