//! Whole shards in this process, over real sockets: which core serves which connection.
//!
//! The origin is never there: an error of ours is an answer too, and it leaves the connection open.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aspis_config::{Raw, check};
use aspis_runtime::bind;
use aspis_telemetry::Counter;

use super::*;

/// Longer than anything here takes; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(30);

struct Server {
    shards: Option<Shards>,
    address: SocketAddr,
    unix: PathBuf,
}

impl Server {
    fn start(name: &str, cores: usize, flags: &[(&str, &str)]) -> Self {
        let flags = [("origin", "http://127.0.0.1:1")].iter().chain(flags);
        let raw: Raw = flags.copied().collect();
        let first = bind::tcp((Ipv4Addr::LOCALHOST, 0).into(), true).expect("a loopback port is free");
        let address = bind::local_address(&first).expect("a bound listener has an address");
        let mut tcp = vec![first];
        while tcp.len() < cores {
            tcp.push(bind::tcp(address, true).expect("the port is shared"));
        }
        let unix = std::env::temp_dir().join(format!("aspis-boot-{}-{name}.sock", std::process::id()));
        let shards = start(Boot {
            settings: Arc::new(check(&raw).expect("the flags are sound")),
            tcp: vec![tcp],
            unix: Some(bind::unix(&unix).expect("the temporary directory is writable")),
            memory: 64 << 20,
            cores: vec![None; cores],
            origin_tls: None,
            log: None,
            invalidations: Invalidations::default(),
            disk: None,
        });
        Server { shards: Some(shards.expect("the shards start")), address, unix }
    }

    fn shards(&self) -> &Shards {
        self.shards.as_ref().expect("it is taken when it is dropped only")
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a plain socket");
        stream
    }

    fn unix(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.unix).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a plain socket");
        stream
    }

    fn each(&self, counter: Counter) -> Vec<u64> {
        self.shards().counters().iter().map(|core| core.value(counter)).collect()
    }

    fn open(&self) -> Vec<u64> {
        self.each(Counter::ViewerConnectionsOpen)
    }

    fn moved(&self) -> u64 {
        self.each(Counter::ViewerConnectionsMoved).iter().sum()
    }

    #[track_caller]
    fn wait(&self, what: &str, is_true: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_true(self) {
            assert!(Instant::now() < deadline, "never: {what}; open {:?}", self.open());
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(shards) = self.shards.take().filter(|_| !std::thread::panicking()) {
            shards.stop();
        }
        let _ = std::fs::remove_file(&self.unix);
    }
}

/// Makes one request and reads the answer, which leaves the connection open.
#[track_caller]
fn round(stream: &mut (impl Read + Write)) {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").expect("the server reads");
    let status = response(stream);
    assert!(status == 502 || status == 504, "{status}");
}

/// Reads one whole response and returns its status.
#[track_caller]
fn response(stream: &mut impl Read) -> u16 {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("heads of ours are ASCII").to_ascii_lowercase();
    let len =
        head.lines().find_map(|line| line.strip_prefix("content-length:")).expect("errors have a length");
    let mut body = vec![0; len.trim().parse().expect("a number")];
    stream.read_exact(&mut body).expect("the whole body");
    head[9..12].parse().expect("a status")
}

#[test]
fn few_connections_are_spread_over_the_cores() {
    for count in [2, 5, 16] {
        let server = Server::start(&format!("few-{count}"), 2, &[]);
        let mut viewers: Vec<_> = (0..count)
            .map(|_| {
                let mut viewer = server.tcp();
                round(&mut viewer);
                viewer
            })
            .collect();
        let open = server.open();
        assert_eq!(open.iter().sum::<u64>(), count);
        assert!(open.iter().all(|each| *each <= count.div_ceil(2)), "{open:?} of {count}");
        viewers.iter_mut().for_each(round);
        assert_eq!(server.open(), open, "they stay where they are");
    }
}

/// All connections that come at once, on three cores: nobody waits for an answer before the next one connects.
#[test]
fn a_burst_is_spread_over_the_cores() {
    const COUNT: u64 = 96;
    let server = Server::start("burst", 3, &[]);
    let mut viewers: Vec<_> = (0..COUNT).map(|_| server.tcp()).collect();
    viewers.iter_mut().for_each(round);
    let open = server.open();
    assert_eq!(open.iter().sum::<u64>(), COUNT);
    // An eighth ahead of the least, and one more for each core that chose at the same moment.
    assert!(open.iter().all(|each| *each <= COUNT / 3 + 5), "{open:?}");
    drop(viewers);
    server.wait("all have left", |server| server.open() == [0, 0, 0]);
    server.wait("all places are given back", |server| server.shards().open_viewers() == 0);
}

/// A thousand, over TCP where the kernel spreads them and over a Unix socket where one core accepts all.
#[test]
fn a_thousand_connections_end_balanced() {
    const COUNT: u64 = 1000;
    let server = Server::start("thousand", 2, &[]);
    let is_balanced =
        |open: &[u64]| open.iter().sum::<u64>() == COUNT && open[0].abs_diff(open[1]) <= COUNT / 8;
    let tcp: Vec<_> = (0..COUNT).map(|_| server.tcp()).collect();
    server.wait("those over TCP are spread", |server| is_balanced(&server.open()));
    drop(tcp);
    server.wait("all have left", |server| server.open() == [0, 0]);
    let unix: Vec<_> = (0..COUNT).map(|_| server.unix()).collect();
    server.wait("those over the Unix socket are spread", |server| is_balanced(&server.open()));
    drop(unix);
}

/// One core accepts from the Unix socket, and all serve it.
#[test]
fn connections_of_a_unix_socket_are_spread_over_the_cores() {
    let server = Server::start("unix", 2, &[]);
    let mut viewers: Vec<_> = (0..16).map(|_| server.unix()).collect();
    viewers.iter_mut().for_each(round);
    assert_eq!(server.open(), [8, 8]);
    assert_eq!(server.each(Counter::ViewerConnections), [16, 0]);
    server.wait("each that was handed over is counted", |server| server.moved() == 8);
    // Those who leave make room at their core. The first and then every second one was kept by the core that accepted.
    let mut number = 0;
    viewers.retain(|_| {
        number += 1;
        number % 2 == 1
    });
    server.wait("one core is left alone", |server| server.open() == [8, 0]);
    viewers.extend((0..8).map(|_| server.unix()));
    viewers.iter_mut().for_each(round);
    assert_eq!(server.open(), [8, 8]);
    server.wait("each of them is counted", |server| server.moved() == 16);
}

/// Without another core nothing is handed over.
#[test]
fn a_single_core_keeps_all() {
    let server = Server::start("single", 1, &[]);
    let mut viewers: Vec<_> = (0..5).map(|_| server.unix()).collect();
    viewers.iter_mut().for_each(round);
    assert_eq!((server.open(), server.moved()), (vec![5], 0));
    assert_eq!(server.each(Counter::CoreMails), [0]);
}

/// `--max-connections` counts those that were handed over like all others.
#[test]
fn places_are_limited_over_all_cores() {
    let server = Server::start("limit", 2, &[("max-connections", "4")]);
    let mut kept: Vec<_> = (0..4).map(|_| server.unix()).collect();
    let mut further = server.unix();
    assert_eq!(response(&mut further), 503);
    kept.iter_mut().for_each(round);
    assert_eq!(server.open(), [2, 2]);
    for _ in 0..10 {
        kept.pop();
        server.wait("a place is free", |server| server.shards().open_viewers() == 3);
        let mut next = server.unix();
        round(&mut next);
        kept.insert(0, next);
    }
    assert_eq!(response(&mut server.unix()), 503);
}

/// A connection that is on its way when the server ends counts as open, and it is answered or closed.
#[test]
fn what_is_handed_over_while_draining_is_refused() {
    let server = Server::start("drain", 2, &[]);
    // The second core drains; the first still accepts.
    assert!(server.shards().post.send(1, Message::StopAccepting).is_ok());
    let mut first = server.unix();
    round(&mut first);
    let mut second = server.unix();
    assert_eq!(response(&mut second), 503);
    server.wait("its place is given back", |server| server.shards().open_viewers() == 1);
    server.wait("it was handed over", |server| server.moved() == 1);
    assert_eq!(server.open(), [1, 0]);
}

/// A core whose mailbox is full gets nothing more: the connection is served where it was accepted.
#[test]
fn a_connection_that_cannot_be_handed_over_is_kept() {
    let mut server = Server::start("full", 2, &[]);
    let shards = server.shards.take().expect("it was just started");
    // A core that has ended reads no mail.
    assert!(shards.post.send(1, Message::Stop).is_ok());
    assert!(shards.threads.lock().unwrap().pop().expect("two cores").join().is_ok());
    while shards.post.send(1, Message::FlushLog).is_ok() {}
    server.shards = Some(shards);
    let mut viewers: Vec<_> = (0..4).map(|_| server.unix()).collect();
    viewers.iter_mut().for_each(round);
    assert_eq!((server.open(), server.moved()), (vec![4, 0], 0));
    drop(viewers);
    server.wait("the places are given back", |server| server.shards().open_viewers() == 0);
    let shards = server.shards.take().expect("put back above");
    assert!(shards.post.send(0, Message::Stop).is_ok());
    for thread in shards.threads.lock().unwrap().drain(..) {
        assert!(thread.join().is_ok());
    }
}
