//! Faults that a review of the viewer side found: each test failed before its fix.

use crate::support::{
    Aspis, Gate, Launch, Origin, PatternCheck, Viewer, eventually, pattern, pause, request,
};
use std::time::{Duration, Instant};

const FRESH: &[(&str, &str)] = &[("Cache-Control", "max-age=600")];

/// Larger than all that the kernel keeps for a reader who does not read.
const LARGE: usize = 10 << 20;

fn wait(duration: Duration) {
    let until = Instant::now() + duration;
    while Instant::now() < until {
        pause();
    }
}

/// A server that has `/large` stored.
#[track_caller]
fn with_a_large_hit(origin: &Origin) -> Aspis {
    let aspis = Launch::before(&origin.url()).start();
    Viewer::connect(&aspis).get("/large").expect_cached("Miss", &pattern(0, LARGE));
    // The fill's end and the viewer's are two moments.
    eventually("the response is stored", || {
        (Viewer::connect(&aspis).get("/large").x_cache() == "Hit").then_some(())
    });
    aspis
}

fn large_origin() -> Origin {
    Origin::start(|reply| reply.answer(200, FRESH, &pattern(0, LARGE)))
}

/// Reads the body of a hit whose head is read, after a time in which nothing was read.
#[track_caller]
fn read_late(viewer: &mut Viewer) {
    let head = viewer.head();
    assert_eq!(head.status(), 200, "{head:?}");
    wait(Duration::from_millis(2500));
    let mut check = PatternCheck::default();
    viewer.body_into("GET", &head, &mut |piece| check.take(piece)).expect("the whole body");
    check.expect(LARGE as u64);
}

/// The linger after the last answer is short; what was queued before it is still the viewer's, at its pace.
#[test]
fn a_last_response_waits_for_a_slow_reader() {
    let origin = large_origin();
    let aspis = with_a_large_hit(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/large", "Connection: close\r\n");
    read_late(&mut viewer);
    viewer.expect_close();
}

#[test]
fn a_viewer_that_ended_its_side_still_gets_all() {
    let origin = large_origin();
    let aspis = with_a_large_hit(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/large", "");
    viewer.connection.finish_sending();
    read_late(&mut viewer);
    viewer.expect_close();
}

#[test]
fn draining_waits_for_a_slow_reader_of_a_hit() {
    let origin = large_origin();
    let mut aspis = with_a_large_hit(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/large", "");
    let head = viewer.head();
    aspis.signal("TERM");
    wait(Duration::from_millis(2500));
    let mut check = PatternCheck::default();
    viewer.body_into("GET", &head, &mut |piece| check.take(piece)).expect("the whole body");
    check.expect(LARGE as u64);
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
}

/// `--send-timeout` is for a viewer that takes no byte. The kernel says only now and then that a send moved on.
#[test]
fn a_reader_slower_than_the_window_per_timeout_is_served() {
    let len = 4_500_000;
    let origin = Origin::start(move |reply| reply.answer(200, &[], &pattern(0, len)));
    let aspis = Launch::before(&origin.url()).with("--send-timeout", "700ms").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/", "");
    let head = viewer.head();
    let mut check = PatternCheck::default();
    viewer
        .body_into("GET", &head, &mut |piece| {
            check.take(piece);
            wait(Duration::from_millis(100));
        })
        .expect("the whole body");
    check.expect(len as u64);
}

/// A head's time begins with its own first byte, not with that of an earlier head on the connection.
#[test]
fn each_pipelined_head_has_its_own_time() {
    let origin = Origin::start(|reply| reply.answer(200, FRESH, b"short"));
    let aspis = Launch::before(&origin.url()).with("--head-timeout", "1500ms").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/a").expect(200, b"short");
    eventually("the response is stored", || (viewer.get("/a").x_cache() == "Hit").then_some(()));
    let whole = request("GET", "/a", "");
    let (front, back) = whole.split_at(2);
    viewer.send(front);
    for _ in 0..12 {
        wait(Duration::from_millis(250));
        viewer.send(format!("{back}{front}"));
        viewer.response().expect_cached("Hit", b"short");
    }
}

/// A viewer that was not read from, because it had sent too much at once, is read from when it becomes a tunnel.
#[test]
fn a_tunnel_reads_a_viewer_that_was_paused() {
    let proceed = Gate::default();
    let origin = {
        let proceed = proceed.clone();
        Origin::start(move |reply| {
            match reply.request.target() {
                "/hit" => return reply.answer(200, FRESH, b"h"),
                "/slow" => {
                    proceed.wait("the test lets the first request go on");
                    return reply.answer(200, &[], b"slow");
                }
                _ => {}
            }
            reply.head(101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")]);
            while let Ok(bytes) = reply.connection.some() {
                if bytes.is_empty() {
                    break;
                }
                reply.send(&bytes);
            }
            reply.close();
        })
    };
    let aspis = Launch::before(&origin.url()).start();
    let mut viewer = Viewer::connect(&aspis);
    eventually("the response is stored", || (viewer.get("/hit").x_cache() == "Hit").then_some(()));
    viewer.ask("GET", "/slow", "");
    origin.wait_for("/slow", 1);
    let pad = format!("X-Pad: {}\r\n", "p".repeat(15_000));
    const HITS: usize = 10;
    for _ in 0..HITS {
        viewer.ask("GET", "/hit", &pad);
    }
    viewer.ask("GET", "/socket", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    // All of it is in the server's hands before the first answer.
    wait(Duration::from_millis(500));
    proceed.open();
    viewer.response().expect(200, b"slow");
    for _ in 0..HITS {
        viewer.response().expect_cached("Hit", b"h");
    }
    assert_eq!(viewer.head().status(), 101);
    viewer.send(b"hello");
    assert_eq!(viewer.connection.exactly(5).expect("the echo"), b"hello");
}

#[test]
fn a_viewer_that_leaves_is_counted_once() {
    let proceed = Gate::default();
    let origin = {
        let proceed = proceed.clone();
        Origin::start(move |reply| {
            proceed.wait("the test lets the request go on");
            reply.answer(200, &[], b"late");
        })
    };
    let aspis = Launch::before(&origin.url()).start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/", "");
    origin.wait_for("/", 1);
    // More than the server has read when the socket closes turns the close into a reset.
    let reset = std::process::Command::new("python3")
        .args([
            "-c",
            "import socket,struct,sys\n\
             s=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n\
             s.sendall(b'GET /gone HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')\n\
             sys.stdin.read(1)\n\
             s.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,struct.pack('ii',1,0))\n\
             s.close()",
            &aspis.address().port().to_string(),
        ])
        .stdin(std::process::Stdio::piped())
        .spawn();
    let Ok(mut reset) = reset else { return proceed.open() };
    origin.wait_for("/gone", 1);
    drop(reset.stdin.take());
    assert!(reset.wait().expect("our own child").success());
    eventually("the abort is seen", || (aspis.metric("aspis_requests_running") == 1).then_some(()));
    assert_eq!(aspis.metric("aspis_viewer_aborts_total"), 1);
    proceed.open();
    viewer.response().expect(200, b"late");
    eventually("no request runs", || (aspis.metric("aspis_requests_running") == 0).then_some(()));
}

/// `--max-connections` counts over all cores, whichever of them the kernel chooses.
#[test]
fn the_limit_on_connections_is_one_for_all_cores() {
    let origin = Origin::fixed(&[], b"fine");
    let aspis = Launch::before(&origin.url()).with("--max-connections", "3").with("--cores", "2").start();
    let mut kept = (0..3).map(|_| Viewer::connect(&aspis)).collect::<Vec<_>>();
    for viewer in &mut kept {
        viewer.get("/").expect(200, b"fine");
    }
    let mut further = Viewer::connect(&aspis);
    further.ask_if_open("/");
    assert!(further.try_response().map_or(true, |response| response.status() == 503));
    drop(kept);
    let aspis = Launch::before(&origin.url()).with("--max-connections", "1").with("--cores", "2").start();
    for _ in 0..4 {
        eventually("the only place is free", || {
            let mut viewer = Viewer::connect(&aspis);
            viewer.ask_if_open("/");
            viewer.try_response().ok().filter(|response| response.status() == 200)
        });
    }
}

/// A balancer's connection that has not said a word holds no drain up.
#[test]
fn draining_does_not_wait_for_a_proxy_header() {
    let origin = Origin::fixed(&[], b"fine");
    let mut aspis = Launch::before(&origin.url()).switch("--proxy-protocol").start();
    let mut viewer = Viewer::connect(&aspis);
    eventually("the connection is accepted", || {
        (aspis.metric("aspis_viewer_connections_open") == 1).then_some(())
    });
    aspis.signal("TERM");
    viewer.expect_close();
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
}

/// Without a length or chunks only a reset can say that something is missing.
#[test]
fn a_cut_answer_to_http_1_0_is_a_reset_and_no_end() {
    for fresh in ["max-age=600", "no-store"] {
        let origin = Origin::start(move |reply| {
            reply.head(200, &[("Transfer-Encoding", "chunked"), ("Cache-Control", fresh)]);
            reply.chunk(&pattern(0, 100_000));
            reply.send(b"1000\r\nnot all of it");
            reply.close();
        });
        let aspis = Launch::before(&origin.url()).start();
        let mut viewer = Viewer::connect(&aspis);
        viewer.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n");
        let read = viewer.connection.read_to_end();
        assert!(read.is_err(), "{fresh}: a clean end after {} bytes", read.map_or(0, |bytes| bytes.len()));
    }
}

/// The time between two requests counts from the answer, a hit's too, whatever `--send-timeout` is.
#[test]
fn a_connection_is_idle_from_its_last_hit_on() {
    let origin = Origin::start(|reply| reply.answer(200, FRESH, b"short"));
    let aspis = Launch::before(&origin.url()).with("--idle-timeout", "1500ms").start();
    let mut viewer = Viewer::connect(&aspis);
    eventually("the response is stored", || (viewer.get("/a").x_cache() == "Hit").then_some(()));
    let began = Instant::now();
    viewer.expect_close();
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// What the origin did not want of a request's content is never taken for the next request.
#[test]
fn content_behind_an_early_answer_is_no_request() {
    for status in [200, 413] {
        let origin = Origin::start(move |reply| {
            if reply.request.target() == "/upload" {
                reply.send(format!("HTTP/1.1 {status} Early\r\nContent-Length: 5\r\n\r\nearly").as_bytes());
                wait(Duration::from_millis(300));
                return reply.close();
            }
            reply.answer(200, &[], b"smuggled");
        });
        let aspis = Launch::before(&origin.url()).start();
        let mut viewer = Viewer::connect(&aspis);
        viewer.send("POST /upload HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100000\r\n\r\n");
        let response = viewer.response();
        assert_eq!((response.status(), response.body.as_slice()), (status, &b"early"[..]));
        assert!(response.lists("connection", "close"), "{response:?}");
        viewer.ask_if_open("/smuggled");
        let rest = viewer.rest();
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
        assert_eq!(origin.count("/smuggled"), 0);
    }
}

/// A viewer that waits for `100 Continue` and gets an error may send its content or not: the connection ends either way.
#[test]
fn an_expectation_that_the_origin_fails_ends_the_connection() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let url = format!("http://{}", closed.local_addr().expect("bound"));
    drop(closed);
    let aspis = Launch::before(&url).start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 60\r\nExpect: 100-continue\r\n\r\n");
    let response = viewer.response();
    assert_eq!(response.status(), 502, "{response:?}");
    assert!(response.lists("connection", "close"), "{response:?}");
    viewer.ask_if_open("/next");
    assert!(viewer.rest().is_empty());
}

/// Asks for an answer that never ends and leaves with an orderly end first, as browsers do: no receive tells that the viewer
/// is gone, only what is sent to it does. Stored or not, the origin's connection must not be held for ever.
#[track_caller]
fn leave_an_endless_answer(cache_control: &'static str) {
    let given_up = Gate::default();
    let origin = {
        let given_up = given_up.clone();
        Origin::start(move |reply| {
            reply.head(200, &[("Transfer-Encoding", "chunked"), ("Cache-Control", cache_control)]);
            while !reply.is_closing() {
                reply.chunk(b"drip");
                wait(Duration::from_millis(50));
            }
            given_up.open();
        })
    };
    let aspis = Launch::before(&origin.url()).start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/", "");
    viewer.head();
    viewer.connection.finish_sending();
    wait(Duration::from_millis(200));
    drop(viewer);
    given_up.wait("the origin's connection ends");
    eventually("no request runs", || (aspis.metric("aspis_requests_running") == 0).then_some(()));
}

#[test]
fn an_endless_answer_without_a_viewer_is_given_up() {
    leave_an_endless_answer("no-store");
}

/// Nobody waits for it and nobody knows how long it is.
#[test]
fn an_endless_fill_without_a_viewer_is_given_up() {
    leave_an_endless_answer("max-age=600");
}

#[test]
fn an_endless_tunnel_without_a_viewer_is_given_up() {
    let given_up = Gate::default();
    let origin = {
        let given_up = given_up.clone();
        Origin::start(move |reply| {
            reply.head(101, &[("Connection", "Upgrade"), ("Upgrade", "websocket")]);
            while !reply.is_closing() {
                reply.send(b"drip");
                wait(Duration::from_millis(50));
            }
            given_up.open();
        })
    };
    let aspis = Launch::before(&origin.url()).start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    assert_eq!(viewer.head().status(), 101);
    viewer.connection.finish_sending();
    wait(Duration::from_millis(200));
    drop(viewer);
    given_up.wait("the origin's connection ends");
}
