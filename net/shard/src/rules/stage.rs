//! Whole shards in this process before an origin that a test scripts, and viewers on every core: where invalidation is tried out.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use aspis_cache::invalidation::{Rule, Wildcards};
use aspis_config::{Raw, Settings, check};
use aspis_runtime::bind;
use aspis_telemetry::Counter;

use crate::{Boot, DiskBoot, Explanation, Invalidations, RuleBatch, Shards, start};

/// Longer than anything here takes; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(30);

/// Cores of every stage: one owns a key, the other has replicas of it.
pub(crate) const CORES: usize = 2;

/// The limit of all but those that ask for another.
const MEMORY: u64 = 64 << 20;

/// Something that a test opens once, and others wait for.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    #[track_caller]
    pub(crate) fn wait(&self) {
        let opened = self.0.0.lock().unwrap();
        let (_opened, waited) = self.0.1.wait_timeout_while(opened, PATIENCE, |opened| !*opened).unwrap();
        assert!(!waited.timed_out(), "the gate stays shut");
    }
}

/// A request at the origin.
pub(crate) struct Reply<'s> {
    stream: &'s mut TcpStream,
    /// Its head as it came, in lower case.
    pub(crate) head: String,
    /// Its target.
    pub(crate) target: String,
    /// How many requests for the target came before it.
    pub(crate) before: usize,
}

impl Reply<'_> {
    pub(crate) fn has(&self, field: &str) -> bool {
        self.head.contains(&format!("\r\n{field}:"))
    }

    /// Answers with this status line's rest, these fields, and content.
    pub(crate) fn answer(&mut self, status: &str, fields: &str, body: &str) {
        self.begin(status, fields, body.len());
        self.write(body);
    }

    /// The head of an answer of so many bytes.
    pub(crate) fn begin(&mut self, status: &str, fields: &str, len: usize) {
        let length =
            if status.starts_with("304") { String::new() } else { format!("Content-Length: {len}\r\n") };
        self.write(&format!("HTTP/1.1 {status}\r\n{length}{fields}\r\n"));
    }

    /// Ends the connection without a word.
    pub(crate) fn hang_up(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    pub(crate) fn write(&mut self, text: &str) {
        // The product may have gone away: then nobody reads.
        let _ = self.stream.write_all(text.as_bytes());
    }

    /// A version of the target: fresh for a minute.
    pub(crate) fn version(&mut self, fields: &str) {
        let body = format!("v{}", self.before + 1);
        self.answer("200 OK", &format!("Cache-Control: max-age=60\r\n{fields}"), &body);
    }
}

type Counts = Arc<Mutex<HashMap<String, usize>>>;

/// Everything that a test plays with.
pub(crate) struct Stage {
    shards: Option<Shards>,
    address: SocketAddr,
    counts: Counts,
    origin: SocketAddr,
    settings: Arc<Settings>,
}

impl Stage {
    /// Shards with these flags, before an origin that answers as `script` says.
    pub(crate) fn with(
        flags: &[(&str, &str)],
        invalidations: Invalidations,
        script: impl Fn(&mut Reply<'_>) + Send + Sync + 'static,
    ) -> Self {
        Stage::with_disk(flags, invalidations, None, script)
    }

    /// The same with a store.
    pub(crate) fn with_disk(
        flags: &[(&str, &str)],
        invalidations: Invalidations,
        disk: Option<DiskBoot>,
        script: impl Fn(&mut Reply<'_>) + Send + Sync + 'static,
    ) -> Self {
        Stage::begin(MEMORY, flags, invalidations, disk, script)
    }

    /// Shards under another memory limit.
    pub(crate) fn under(memory: u64, script: impl Fn(&mut Reply<'_>) + Send + Sync + 'static) -> Self {
        Stage::begin(memory, &[], Invalidations::default(), None, script)
    }

    fn begin(
        memory: u64,
        flags: &[(&str, &str)],
        invalidations: Invalidations,
        disk: Option<DiskBoot>,
        script: impl Fn(&mut Reply<'_>) + Send + Sync + 'static,
    ) -> Self {
        let counts = Counts::default();
        let origin = serve(Arc::new(script), Arc::clone(&counts));
        let url = format!("http://{origin}");
        let raw: Raw = [("origin", url.as_str())].iter().chain(flags).copied().collect();
        let settings = Arc::new(check(&raw).expect("the flags are sound"));
        let (shards, address) = raise(memory, &settings, origin, invalidations, disk);
        Stage { shards: Some(shards), address, counts, origin, settings }
    }

    /// Ends the shards and starts others in their place.
    pub(crate) fn restart(&mut self, invalidations: Invalidations, disk: Option<DiskBoot>) {
        self.shards.take().expect("it is taken when it is dropped only").stop();
        let (shards, address) = raise(MEMORY, &self.settings, self.origin, invalidations, disk);
        (self.shards, self.address) = (Some(shards), address);
    }

    pub(crate) fn new(script: impl Fn(&mut Reply<'_>) + Send + Sync + 'static) -> Self {
        Stage::with(&[], Invalidations::default(), script)
    }

    pub(crate) fn shards(&self) -> &Shards {
        self.shards.as_ref().expect("it is taken when it is dropped only")
    }

    /// Where viewers connect to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often the origin was asked for a target.
    pub(crate) fn count(&self, target: &str) -> usize {
        self.counts.lock().unwrap().get(target).copied().unwrap_or_default()
    }

    /// Waits until the origin was asked for a target so often.
    #[track_caller]
    pub(crate) fn wait_count(&self, target: &str, count: usize) {
        self.wait(|| self.count(target) >= count);
    }

    #[track_caller]
    pub(crate) fn wait(&self, is_true: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_true() {
            assert!(Instant::now() < deadline, "never");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// A counter of all cores.
    pub(crate) fn sum(&self, counter: Counter) -> u64 {
        self.shards().counters().iter().map(|core| core.value(counter)).sum()
    }

    /// Accepts rules and waits until every core has applied them; returns their number.
    #[track_caller]
    pub(crate) fn invalidate(&self, rules: Vec<Rule>) -> u64 {
        let number = self.shards().next_rule_number();
        self.shards().add_rules(&Arc::new(RuleBatch { number, rules }));
        self.shards().ring_all();
        self.wait(|| self.shards().rules_applied() >= number);
        number
    }

    #[track_caller]
    pub(crate) fn purge(&self, path: &str) -> u64 {
        self.invalidate(vec![rule(path)])
    }

    /// One viewer on each core.
    pub(crate) fn viewers(&self) -> [Viewer; CORES] {
        std::array::from_fn(|_| self.viewer())
    }

    /// Connections that come after each other go to the cores in turn.
    pub(crate) fn viewer(&self) -> Viewer {
        let mut viewer = self.viewer_at_once();
        // Once it was answered it is counted where it stays.
        viewer.get("/warm-up");
        viewer
    }

    /// One that may not have been taken in yet.
    pub(crate) fn viewer_at_once(&self) -> Viewer {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a plain socket");
        Viewer { stream }
    }

    /// Asks in a thread of its own, over a connection of its own.
    pub(crate) fn ask(&self, target: &str) -> Receiver<Answer> {
        let (sender, receiver) = mpsc::channel();
        let (mut viewer, target) = (self.viewer(), target.to_owned());
        std::thread::spawn(move || {
            let _ = sender.send(viewer.get(&target));
        });
        receiver
    }

    /// Every viewer gets this, and the origin was asked once for it if `fetched`.
    #[track_caller]
    pub(crate) fn expect(&self, viewers: &mut [Viewer], target: &str, body: &str, fetches: usize) {
        let before = self.count(target);
        let results: Vec<_> = viewers.iter_mut().map(|viewer| viewer.get(target)).collect();
        for answer in &results {
            assert_eq!(answer.body, body, "{target}: {results:?}");
        }
        assert_eq!(self.count(target) - before, fetches, "{target}: {results:?}");
    }

    pub(crate) fn explain(&self, target: &str) -> Explanation {
        let (sender, receiver) = mpsc::channel();
        let head = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n").into_bytes();
        let viewer = aspis_exchange::ViewerFacts {
            scheme: aspis_wire::Scheme::Http,
            address: Ipv4Addr::LOCALHOST.into(),
            trusted: false,
        };
        let done = Box::new(move |explanation| sender.send(explanation).expect("it is waited for"));
        self.shards().explain(head.into(), &viewer, done).expect("a sound request");
        receiver.recv_timeout(PATIENCE).expect("an explanation")
    }
}

/// Starts shards; returns them and where they listen.
fn raise(
    memory: u64,
    settings: &Arc<Settings>,
    origin: SocketAddr,
    invalidations: Invalidations,
    disk: Option<DiskBoot>,
) -> (Shards, SocketAddr) {
    let first = bind::tcp((Ipv4Addr::LOCALHOST, 0).into(), true).expect("a loopback port is free");
    let address = bind::local_address(&first).expect("a bound listener has an address");
    let mut tcp = vec![first];
    while tcp.len() < CORES {
        tcp.push(bind::tcp(address, true).expect("the port is shared"));
    }
    let shards = start(Boot {
        settings: Arc::clone(settings),
        tcp: vec![tcp],
        unix: None,
        memory,
        cores: vec![None; CORES],
        origin_tls: None,
        log: None,
        invalidations,
        disk,
    });
    let shards = shards.expect("the shards start");
    shards.set_addresses(Arc::from([origin]));
    (shards, address)
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(shards) = self.shards.take().filter(|_| !std::thread::panicking()) {
            shards.stop();
        }
    }
}

/// A hard rule for a path, its last `*` a wildcard.
pub(crate) fn rule(path: &str) -> Rule {
    Rule::path(path, None, false, Wildcards::Trailing).expect("a sound path")
}

pub(crate) fn soft(path: &str) -> Rule {
    Rule { soft: true, ..rule(path) }
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The first word of X-Cache.
    pub(crate) fn result(&self) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix("x-cache: ")).expect("X-Cache");
        line.split(' ').next().expect("a word")
    }
}

/// One viewer connection.
pub(crate) struct Viewer {
    stream: TcpStream,
}

impl Viewer {
    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.send("GET", target, "")
    }

    pub(crate) fn send(&mut self, method: &str, target: &str, fields: &str) -> Answer {
        self.ask(method, target, fields);
        self.answer()
    }

    /// Sends a request, and reads nothing yet.
    pub(crate) fn ask(&mut self, method: &str, target: &str, fields: &str) {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n");
        self.stream.write_all(request.as_bytes()).expect("the product reads");
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.stream.read_exact(&mut byte).expect("a whole head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("ASCII").to_ascii_lowercase();
        let status = head[9..12].parse().expect("a status");
        let len = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; len.expect("a length").parse().expect("a number")];
        self.stream.read_exact(&mut body).expect("the whole content");
        Answer { status, head, body: String::from_utf8(body).expect("text") }
    }
}

/// Accepts connections for as long as the test runs.
fn serve(script: Arc<impl Fn(&mut Reply<'_>) + Send + Sync + 'static>, counts: Counts) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, script, counts) =
                (stream.expect("a connection"), Arc::clone(&script), Arc::clone(&counts));
            stream.set_nodelay(true).expect("a plain socket");
            std::thread::spawn(move || while converse(&mut stream, &*script, &counts).is_some() {});
        }
    });
    address
}

/// Reads one request and has it answered; `None` at the end of the connection.
fn converse(stream: &mut TcpStream, script: &impl Fn(&mut Reply<'_>), counts: &Counts) -> Option<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let target = head.split(' ').nth(1)?.to_owned();
    let head = head.to_ascii_lowercase();
    if target == "/warm-up" {
        return stream
            .write_all(b"HTTP/1.1 200 OK\r\nCache-Control: no-store\r\nContent-Length: 0\r\n\r\n")
            .ok();
    }
    let before = {
        let mut counts = counts.lock().unwrap();
        let count = counts.entry(target.clone()).or_default();
        *count += 1;
        *count - 1
    };
    script(&mut Reply { stream, head, target, before });
    Some(())
}
