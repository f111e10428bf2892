//! `Upgrade`: after a 101 both directions carry bytes that nobody interprets.

use crate::support::{Aspis, Broken, Gate, Launch, Origin, PatternCheck, Viewer, eventually, pattern};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn before(origin: &Origin) -> Aspis {
    Launch::before(&origin.url()).start()
}

const SWITCH: &[(&str, &str)] = &[
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
];

/// An origin that switches and then sends back what it gets, until the viewer's direction ends.
fn echoing() -> Origin {
    Origin::start(|reply| {
        if reply.request.field("upgrade").is_none() {
            return reply.answer(200, &[], b"plain");
        }
        reply.head(101, SWITCH);
        while let Ok(bytes) = reply.connection.some() {
            if bytes.is_empty() {
                break;
            }
            reply.send(&bytes);
        }
        reply.close();
    })
}

#[track_caller]
fn upgraded(aspis: &Aspis) -> Viewer {
    let mut viewer = Viewer::connect(aspis);
    viewer.ask("GET", "/socket", UPGRADE);
    let head = viewer.head();
    assert_eq!(head.status(), 101, "{head:?}");
    assert!(head.lists("connection", "upgrade"), "{head:?}");
    assert_eq!(head.all("upgrade"), ["websocket"]);
    assert_eq!(head.all("sec-websocket-accept"), ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
    viewer
}

/// H-31.
#[test]
fn bytes_pass_both_ways_after_101() {
    let origin = echoing();
    let aspis = before(&origin);
    let mut viewer = upgraded(&aspis);
    for message in [&b"hello"[..], b"\0\xff\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"] {
        viewer.send(message);
        assert_eq!(viewer.connection.exactly(message.len()).expect("the echo"), message);
    }
    let head = origin.only("/socket");
    assert!(head.lists("connection", "upgrade"), "{head:?}");
    assert_eq!(head.all("upgrade"), ["websocket"]);
    assert_eq!(head.all("sec-websocket-key"), ["dGhlIHNhbXBsZSBub25jZQ=="]);
}

/// Bytes that come in the same packet as the heads are not lost on either side.
#[test]
fn bytes_sent_with_the_heads_are_not_lost() {
    let origin = Origin::start(|reply| {
        let mut answer =
            b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".to_vec();
        answer.extend_from_slice(b"early from origin");
        reply.send(&answer);
        let got = reply.connection.exactly(b"early from viewer".len());
        assert_eq!(got.expect("the viewer's bytes"), b"early from viewer");
        reply.send(b"!");
        reply.close();
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.send(format!("GET /socket HTTP/1.1\r\nHost: a.example\r\n{UPGRADE}\r\nearly from viewer"));
    assert_eq!(viewer.head().status(), 101);
    assert_eq!(viewer.connection.read_to_end().expect("a clean end"), b"early from origin!");
}

#[test]
fn large_volumes_pass_in_both_directions_at_once() {
    const LEN: usize = 32 << 20;
    let origin = echoing();
    let aspis = before(&origin);
    let memory = aspis.memory("RssAnon");
    let mut viewer = upgraded(&aspis);
    let mut socket = viewer.connection.socket();
    let writing = std::thread::spawn(move || {
        for at in (0..LEN).step_by(1 << 20) {
            socket.write_all(&pattern(at as u64, 1 << 20)).expect("the tunnel takes it");
        }
        socket.shutdown(Shutdown::Write).expect("our own direction");
    });
    let mut check = PatternCheck::default();
    viewer.connection.counted(LEN as u64, &mut |piece| check.take(piece)).expect("the whole echo");
    check.expect(LEN as u64);
    writing.join().expect("the writer does not panic");
    viewer.expect_close();
    let growth = aspis.memory("RssAnon").saturating_sub(memory);
    assert!(growth < 32 << 20, "grew by {growth} bytes");
}

#[test]
fn end_of_either_side_reaches_the_other() {
    // The origin ends: the viewer reads everything, then the end.
    let origin = Origin::start(|reply| {
        reply.head(101, SWITCH);
        reply.send(b"bye");
        reply.close();
    });
    let aspis = before(&origin);
    let mut viewer = upgraded(&aspis);
    assert_eq!(viewer.connection.read_to_end().expect("a clean end"), b"bye");

    // The viewer vanishes: the origin's connection ends.
    let ended = Gate::default();
    let origin = {
        let ended = ended.clone();
        Origin::start(move |reply| {
            reply.head(101, SWITCH);
            while reply.connection.some().is_ok_and(|bytes| !bytes.is_empty()) {}
            ended.open();
            reply.close();
        })
    };
    let aspis = before(&origin);
    let viewer = upgraded(&aspis);
    drop(viewer);
    ended.wait("the origin's side of the tunnel ends");
    eventually("both sockets are closed", || (aspis.open_files() < 200).then_some(()));
}

/// A half close is passed on as a half close: the other direction goes on.
#[test]
fn half_close_leaves_the_other_direction_open() {
    let origin = Origin::start(|reply| {
        reply.head(101, SWITCH);
        let all = reply.connection.read_to_end().expect("the viewer's direction ends cleanly");
        reply.send(format!("got {}", all.len()).as_bytes());
        reply.close();
    });
    let aspis = before(&origin);
    let mut viewer = upgraded(&aspis);
    viewer.send(pattern(0, 100_000));
    viewer.connection.finish_sending();
    assert_eq!(viewer.connection.read_to_end().expect("the answer after the half close"), b"got 100000");
}

/// Anything but 101 is an ordinary answer and the connection goes on in HTTP.
#[test]
fn refused_upgrade_is_an_ordinary_answer() {
    let origin = Origin::start(|reply| match reply.request.target() {
        "/socket" => reply.answer(403, &[], b"no sockets"),
        _ => reply.answer(200, &[], b"plain"),
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for _ in 0..2 {
        viewer.ask("GET", "/socket", UPGRADE);
        viewer.response().expect(403, b"no sockets");
        viewer.get("/next").expect(200, b"plain");
    }
}

/// A switch that nobody asked for is an invalid answer (RFC 9110 section 15.2.2).
#[test]
fn unasked_101_is_bad_gateway() {
    let origin = Origin::start(|reply| {
        reply.head(101, SWITCH);
        reply.send(b"surprise");
        reply.close();
    });
    let aspis = before(&origin);
    let response = Viewer::connect(&aspis).get("/a");
    assert_eq!(response.status(), 502, "{response:?}");
}

/// An upgrade is never answered from the store, and its answer is never stored. H-31.
#[test]
fn upgrade_requests_go_to_the_origin() {
    let origin = Origin::fixed(&[("Cache-Control", "max-age=60")], b"page");
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/socket").expect_cached("Miss", b"page");
    viewer.ask("GET", "/socket", UPGRADE);
    viewer.response().expect(200, b"page");
    assert_eq!(origin.count("/socket"), 2);
}

/// A tunnel that rests is not an idle connection between requests. H-31.
#[test]
fn quiet_tunnel_outlives_the_idle_timeout() {
    let origin = echoing();
    let aspis = Launch::before(&origin.url())
        .with("--idle-timeout", "200ms")
        .with("--head-timeout", "200ms")
        .with("--body-timeout", "10s")
        .with("--send-timeout", "10s")
        .start();
    let mut viewer = upgraded(&aspis);
    let mut socket = viewer.connection.socket();
    socket.set_read_timeout(Some(Duration::from_millis(800))).expect("a socket option");
    match socket.read(&mut [0; 16]) {
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
        other => panic!("the tunnel was ended: {other:?}"),
    }
    socket.set_read_timeout(Some(crate::support::PATIENCE)).expect("a socket option");
    viewer.send("still here");
    assert_eq!(viewer.connection.exactly(10).expect("the echo"), b"still here");
}

#[test]
fn origin_that_dies_before_101_is_bad_gateway() {
    let origin = Origin::start(|reply| reply.close());
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/socket", UPGRADE);
    match viewer.try_response() {
        Ok(response) => assert_eq!(response.status(), 502, "{response:?}"),
        Err(broken @ (Broken::Closed | Broken::Failed(_) | Broken::Truncated(..))) => {
            panic!("no answer: {broken:?}")
        }
    }
}
