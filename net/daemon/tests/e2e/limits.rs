//! Every limit and timeout on the viewer's side, reached.

use crate::support::{Aspis, Broken, Gate, Launch, Origin, Viewer, eventually, pattern};
use std::time::{Duration, Instant};

fn echo() -> Origin {
    Origin::start(|reply| {
        let body = reply.body();
        reply.answer(200, &[], &body);
    })
}

fn before(origin: &Origin) -> Aspis {
    Launch::before(&origin.url()).start()
}

/// Sends bytes and expects this status, then the end of the connection.
#[track_caller]
fn refused(aspis: &Aspis, request: impl AsRef<[u8]>, status: u16) {
    let mut viewer = Viewer::connect(aspis);
    // The server may answer and close before it has taken everything.
    let _ = viewer.connection.send(request.as_ref());
    let response = viewer.response();
    assert_eq!(response.status(), status, "{response:?}");
    assert_eq!(response.all("x-cache"), ["Error from aspis"], "{response:?}");
    assert!(response.lists("connection", "close"), "{response:?}");
    viewer.expect_close();
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

/// H-15: 8,192 bytes of URL.
#[test]
fn long_target_is_414() {
    let origin = echo();
    let aspis = before(&origin);
    refused(&aspis, get(&format!("/{}", "a".repeat(8192)), ""), 414);
    refused(&aspis, get(&format!("/{}", "a".repeat(20_000)), ""), 414);
    assert_eq!(origin.total(), 0);
    let long = format!("/{}", "a".repeat(8000));
    Viewer::connect(&aspis).get(&long).expect(200, b"");
    assert_eq!(origin.count(&long), 1);
}

/// H-16: 32,768 bytes of head; origin mode answers 431.
#[test]
fn large_head_is_431() {
    let origin = echo();
    let aspis = before(&origin);
    let fields = |len: usize| format!("X-Large: {}\r\n", "v".repeat(len));
    refused(&aspis, get("/", &fields(33_000)), 431);
    refused(&aspis, get("/", &fields(200_000)), 431);
    refused(&aspis, get("/", &"X-Many: v\r\n".repeat(200)), 431);
    assert_eq!(origin.total(), 0);
    let mut viewer = Viewer::connect(&aspis);
    viewer.get_with("/", &fields(32_000)).expect(200, b"");
    viewer.get_with("/", &"X-Many: v\r\n".repeat(100)).expect(200, b"");
    assert_eq!(origin.requests()[0].field("x-large").map(str::len), Some(32_000));
    assert_eq!(origin.requests()[1].all("x-many").len(), 100);
}

/// H-16 with `--semantics cloudfront`: 494.
#[test]
fn large_head_is_494_with_cloudfront_semantics() {
    let origin = echo();
    let aspis = Launch::before(&origin.url()).with("--semantics", "cloudfront").start();
    let mut viewer = Viewer::connect(&aspis);
    let _ = viewer.connection.send(get("/", &format!("X-Large: {}\r\n", "v".repeat(33_000))).as_bytes());
    let response = viewer.response();
    assert_eq!(response.status(), 494, "{response:?}");
    viewer.expect_close();
}

#[test]
fn versions_and_codings_that_are_not_ours_are_refused() {
    let origin = echo();
    let aspis = before(&origin);
    refused(&aspis, "GET / HTTP/2.0\r\nHost: a.example\r\n\r\n", 505);
    refused(&aspis, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
    refused(&aspis, "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501);
    refused(&aspis, "GET / HTTP/1.1\r\n\r\n", 400);
    assert_eq!(origin.total(), 0);
}

/// H-17 through its flag: more is 413, with either framing.
#[test]
fn large_request_body_is_413() {
    let origin = Origin::start(|reply| {
        if reply.body_into(&mut |_| {}) {
            reply.answer(200, &[], b"fits");
        }
    });
    let aspis = Launch::before(&origin.url()).with("--request-body-max", "1000").start();
    refused(&aspis, "POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1001\r\n\r\n", 413);
    refused(
        &aspis,
        format!("POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n", 1_u64 << 50),
        413,
    );
    let mut chunked =
        b"POST /a HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n".to_vec();
    chunked.extend_from_slice(&pattern(0, 1001));
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    refused(&aspis, chunked, 413);
    let mut viewer = Viewer::connect(&aspis);
    viewer.send("POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1000\r\n\r\n");
    viewer.send(pattern(0, 1000));
    viewer.response().expect(200, b"fits");
}

#[test]
fn slow_head_is_408() {
    let origin = echo();
    let aspis = Launch::before(&origin.url()).with("--head-timeout", "300ms").start();
    let began = Instant::now();
    refused(&aspis, "GET / HTTP/1.1\r\nHost: a.exa", 408);
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

/// The head's time counts from its first byte: a drip of bytes does not extend it.
#[test]
fn dripping_head_is_408() {
    let origin = echo();
    let aspis = Launch::before(&origin.url()).with("--head-timeout", "300ms").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.send("GET / HTTP/1.1\r\nX-Drip: ");
    eventually("the server gives up on the head", || {
        viewer.connection.send(b"x").is_err().then_some(()).or_else(|| aspis_closed(&viewer).then_some(()))
    });
}

/// Each head has its own time: arrivals that end inside the next head do not add up.
#[test]
fn quick_heads_that_straddle_arrivals_are_not_late() {
    let origin = Origin::start(|reply| reply.answer(200, &[("Cache-Control", "max-age=60")], b"ok"));
    let aspis = Launch::before(&origin.url()).with("--head-timeout", "300ms").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/").expect_cached("Miss", b"ok");
    let request = "GET / HTTP/1.1\r\nHost: test.example\r\n\r\n";
    let (first, rest) = request.split_at(20);
    viewer.send(first);
    for _ in 0..24 {
        crate::support::pause();
        viewer.send(format!("{rest}{first}"));
        viewer.response().expect_cached("Hit", b"ok");
    }
}

/// Whether the server has answered or closed.
fn aspis_closed(viewer: &Viewer) -> bool {
    let socket = viewer.connection.socket();
    socket.set_nonblocking(true).expect("a socket option");
    let there = socket.peek(&mut [0]).is_ok();
    socket.set_nonblocking(false).expect("a socket option");
    there
}

#[test]
fn idle_connections_are_closed_without_a_word() {
    let origin = echo();
    let aspis = Launch::before(&origin.url()).with("--idle-timeout", "300ms").start();
    Viewer::connect(&aspis).expect_close();
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/").expect(200, b"");
    let began = Instant::now();
    viewer.expect_close();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn slow_body_is_408_and_ends_the_origin_request() {
    let broken = Gate::default();
    let origin = {
        let broken = broken.clone();
        Origin::start(move |reply| {
            if !reply.body_into(&mut |_| {}) {
                broken.open();
            }
        })
    };
    let aspis = Launch::before(&origin.url()).with("--body-timeout", "300ms").start();
    refused(&aspis, "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\nabc", 408);
    broken.wait("the origin sees the body break off");
}

/// A viewer that takes nothing is cut, its origin connection too.
#[test]
fn stuck_reader_is_cut() {
    let cut = Gate::default();
    let origin = {
        let cut = cut.clone();
        Origin::start(move |reply| {
            reply.head(200, &[("Transfer-Encoding", "chunked")]);
            while !reply.is_closing() {
                reply.chunk(&pattern(0, 1 << 20));
            }
            cut.open();
        })
    };
    let aspis = Launch::before(&origin.url()).with("--send-timeout", "500ms").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/endless", "");
    cut.wait("the origin's connection ends because nobody reads");
    match viewer.try_response() {
        Err(Broken::Truncated(..) | Broken::Failed(_)) => {}
        other => panic!("a cut transfer must look cut: {other:?}"),
    }
}

/// A reader that is slow but moves is served.
#[test]
fn moving_reader_is_not_cut() {
    let len = 4 << 20;
    let origin = Origin::start(move |reply| reply.answer(200, &[], &pattern(0, len)));
    let aspis = Launch::before(&origin.url()).with("--send-timeout", "500ms").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/", "");
    let head = viewer.head();
    let (mut check, mut since) = (crate::support::PatternCheck::default(), Instant::now());
    viewer
        .body_into("GET", &head, &mut |piece| {
            check.take(piece);
            while since.elapsed() < Duration::from_millis(20) {
                crate::support::pause();
            }
            since = Instant::now();
        })
        .expect("the whole body");
    check.expect(len as u64);
}

/// A viewer that leaves in the middle takes nothing with it: files are closed and others are served.
#[test]
fn viewers_that_leave_free_everything() {
    let origin = Origin::start(|reply| {
        if reply.request.target() == "/after" {
            return reply.answer(200, &[], b"fine");
        }
        reply.head(200, &[("Transfer-Encoding", "chunked")]);
        for _ in 0..64 {
            reply.chunk(&pattern(0, 1 << 20));
        }
        reply.chunk(b"");
    });
    let aspis = before(&origin);
    Viewer::connect(&aspis).get("/after").expect(200, b"fine");
    let files = aspis.open_files();
    for _ in 0..20 {
        let mut viewer = Viewer::connect(&aspis);
        viewer.ask("GET", "/large", "");
        viewer.head();
    }
    eventually("the files of viewers that left are closed", || {
        (aspis.open_files() <= files + 1).then_some(())
    });
    Viewer::connect(&aspis).get("/after").expect(200, b"fine");
}

#[test]
fn viewers_above_the_limit_get_503() {
    let origin = echo();
    let aspis = Launch::before(&origin.url()).with("--max-connections", "3").start();
    let mut kept = (0..3).map(|_| Viewer::connect(&aspis)).collect::<Vec<_>>();
    for viewer in &mut kept {
        viewer.get("/").expect(200, b"");
    }
    let mut further = Viewer::connect(&aspis);
    let _ = further.connection.send(get("/", "").as_bytes());
    match further.try_response() {
        Ok(response) => assert_eq!(response.status(), 503, "{response:?}"),
        Err(Broken::Closed | Broken::Failed(_)) => {}
        Err(other) => panic!("{other:?}"),
    }
    drop(kept);
    eventually("a place is free again", || {
        let mut viewer = Viewer::connect(&aspis);
        viewer.ask_if_open("/");
        viewer.try_response().ok().filter(|response| response.status() == 200)
    });
}
