//! What viewers get when the origin is away, silent, restarting, wrong or full.

use crate::support::{Aspis, Gate, Launch, Origin, Viewer, pattern};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn before(origin: &Origin) -> Aspis {
    Launch::before(&origin.url()).start()
}

/// GETs `/` and expects this status as an error of our own on a connection that goes on.
#[track_caller]
fn expect_failure(aspis: &Aspis, status: u16) {
    let mut viewer = Viewer::connect(aspis);
    for target in ["/", "/again"] {
        let response = viewer.get(target);
        assert_eq!(response.status(), status, "{response:?}");
        assert_eq!(response.all("x-cache"), ["Error from aspis"], "{response:?}");
        assert!(!response.lists("cache-status", "hit"), "{response:?}");
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|free| free.local_addr())
        .expect("a loopback port is free")
        .port()
}

/// D-22, H-25.
#[test]
fn refused_connection_is_502() {
    let aspis = Launch::before(&format!("http://127.0.0.1:{}", free_port())).start();
    expect_failure(&aspis, 502);
}

/// H-25 and the issue: unresolvable is not fatal.
#[test]
fn unresolvable_name_is_502() {
    let aspis = Launch::before("http://no-such-host.invalid").start();
    expect_failure(&aspis, 502);
}

/// A listener whose backlog is full: the kernel drops further SYNs, as a black hole does.
struct BlackHole {
    listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl BlackHole {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let address = listener.local_addr().expect("bound");
        let mut waiting = Vec::new();
        while let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            waiting.push(socket);
            assert!(waiting.len() < 10_000, "the backlog has no end");
        }
        Self { listener, _waiting: waiting }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }
}

/// D-22, H-25: attempts x timeout, then 504.
#[test]
fn connect_timeout_is_504_after_all_attempts() {
    let hole = BlackHole::new();
    let aspis = Launch::before(&format!("http://{}", hole.address()))
        .with("--connect-timeout", "300ms")
        .with("--connection-attempts", "3")
        .start();
    let began = Instant::now();
    let response = Viewer::connect(&aspis).get("/");
    assert_eq!(response.status(), 504, "{response:?}");
    let elapsed = began.elapsed();
    assert!((Duration::from_millis(850)..Duration::from_secs(4)).contains(&elapsed), "{elapsed:?}");
}

/// D-23, D-24: a silent origin is asked three times for a GET, once for a POST.
#[test]
fn silent_origin_is_asked_again_for_get_only() {
    let origin = Origin::start(|reply| {
        reply.body();
        let _ = reply.connection.some();
        reply.close();
    });
    let aspis = Launch::before(&origin.url()).with("--read-timeout", "300ms").start();
    for (method, target, asked) in
        [("GET", "/g", 3), ("HEAD", "/h", 3), ("POST", "/p", 1), ("DELETE", "/d", 1)]
    {
        let mut viewer = Viewer::connect(&aspis);
        let began = Instant::now();
        viewer.ask(method, target, if method == "POST" { "Content-Length: 0\r\n" } else { "" });
        let response = viewer.response_to(method);
        assert_eq!(response.status(), 504, "{method}: {response:?}");
        assert_eq!(origin.count(target), asked, "{method}");
        let least = Duration::from_millis(250) * u32::try_from(asked).expect("small");
        assert!(
            began.elapsed() >= least && began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
    }
}

/// D-23 (b): silence within an answer ends it visibly, and it is not stored.
#[test]
fn silence_within_an_answer_cuts_it() {
    let origin = Origin::start(|reply| {
        if reply.before > 0 {
            return reply.answer(200, &[("Cache-Control", "max-age=60")], b"whole");
        }
        reply.head(200, &[("Cache-Control", "max-age=60"), ("Content-Length", "10")]);
        reply.send(b"half");
        let _ = reply.connection.some();
        reply.close();
    });
    let aspis = Launch::before(&origin.url()).with("--read-timeout", "300ms").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/a", "");
    assert!(viewer.try_response().is_err(), "a cut answer must look cut");
    Viewer::connect(&aspis).get("/a").expect_cached("Miss", b"whole");
}

/// An origin that closes an idle connection is not an error for the next viewer.
#[test]
fn stale_pooled_connection_is_replaced() {
    let origin = Origin::fixed(&[("Cache-Control", "no-store")], b"ok");
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for round in 1..10 {
        viewer.get("/a").expect(200, b"ok");
        viewer.send("POST /p HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n");
        viewer.response().expect(200, b"ok");
        origin.drop_connections();
        assert!(origin.connections() >= round, "{} connections", origin.connections());
    }
    assert_eq!((origin.count("/a"), origin.count("/p")), (9, 9), "nothing was sent twice");
}

/// An origin that reads the request and then closes: a GET is sent again, a POST is not (its effect is unknown).
#[test]
fn close_instead_of_an_answer_is_retried_for_get_only() {
    let origin = Origin::start(|reply| match (reply.request.target(), reply.before) {
        ("/warm", _) => reply.answer(200, &[], b"warm"),
        (_, 0) => reply.close(),
        _ => reply.answer(200, &[], b"second"),
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    // The pooled connection is the ambiguous one: the close may have crossed the request.
    viewer.get("/warm").expect(200, b"warm");
    viewer.get("/get").expect(200, b"second");
    assert_eq!(origin.count("/get"), 2);
    viewer.get("/warm").expect(200, b"warm");
    viewer.send("POST /post HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(viewer.response().status(), 502);
    assert_eq!(origin.count("/post"), 1, "a POST is never sent twice");
}

#[test]
fn origin_that_restarts_is_found_again() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let start = |body: &'static [u8]| {
        let listener = TcpListener::bind(address).expect("the port is ours");
        let plain = Box::new(crate::support::Connection::plain);
        Origin::on(listener, plain, move |reply| reply.answer(200, &[("Cache-Control", "no-store")], body))
    };
    let aspis = Launch::before(&format!("http://{address}")).start();
    let mut viewer = Viewer::connect(&aspis);
    assert_eq!(viewer.get("/a").status(), 502);
    let origin = start(b"first");
    viewer.get("/a").expect(200, b"first");
    drop(origin);
    assert_eq!(viewer.get("/a").status(), 502);
    // A closed listener's port may be in TIME_WAIT; binding is retried until the kernel gives it back.
    let origin = crate::support::eventually("the port is free again", || {
        TcpListener::bind(address).ok().map(|listener| {
            let plain = Box::new(crate::support::Connection::plain);
            Origin::on(listener, plain, |reply| reply.answer(200, &[], b"second"))
        })
    });
    viewer.get("/a").expect(200, b"second");
    drop(origin);
}

/// H-25: an answer that cannot be parsed.
#[test]
fn garbage_answers_are_502() {
    let answers: &[&[u8]] = &[
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Cut: off",
        b"",
    ];
    for answer in answers {
        let origin = Origin::raw(answer.to_vec());
        let aspis = before(&origin);
        let response = Viewer::connect(&aspis).get("/");
        assert_eq!(response.status(), 502, "{:?}: {response:?}", String::from_utf8_lossy(answer));
        assert_eq!(response.all("x-cache"), ["Error from aspis"]);
    }
}

/// H-10: 32,768 bytes of response head.
#[test]
fn huge_response_head_is_502() {
    let origin = Origin::start(|reply| {
        let len = reply.request.target()[1..].parse().expect("the test asks for a number");
        reply.answer(200, &[("X-Large", &"v".repeat(len))], b"ok");
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    let fits = viewer.get("/32000").expect(200, b"ok");
    assert_eq!(fits.field("x-large").map(str::len), Some(32_000));
    for len in [33_000, 200_000] {
        let response = viewer.get(&format!("/{len}"));
        assert_eq!(response.status(), 502, "{:?}", response.start_line);
    }
}

/// Profile rule 10: bytes after a complete answer are dropped and that connection is not used again.
#[test]
fn bytes_after_an_answer_never_become_the_next_one() {
    let origin = Origin::start(|reply| match reply.request.target() {
        "/excess" => reply.send(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        ),
        _ => reply.answer(200, &[], b"next"),
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for _ in 0..5 {
        viewer.get("/excess").expect(200, b"ok");
        viewer.get("/next").expect(200, b"next");
    }
}

/// The cap holds over all cores, and whoever waits is served.
#[test]
fn origin_connection_cap_holds_over_two_cores() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let origin = {
        let (now, most) = (now.clone(), most.clone());
        Origin::start(move |reply| {
            most.fetch_max(now.fetch_add(1, Ordering::AcqRel) + 1, Ordering::AcqRel);
            for _ in 0..4 {
                crate::support::pause();
            }
            let target = reply.request.target().to_owned();
            now.fetch_sub(1, Ordering::AcqRel);
            reply.answer(200, &[("Cache-Control", "no-store")], target.as_bytes());
        })
    };
    let launch = Launch::before(&origin.url()).with("--cores", "2").with("--origin-max-connections", "2");
    let aspis = launch.start();
    let mut viewers = (0..20).map(|_| Viewer::connect(&aspis)).collect::<Vec<_>>();
    for round in 0..3 {
        for (number, viewer) in viewers.iter_mut().enumerate() {
            viewer.ask("GET", &format!("/{number}/{round}"), "");
        }
        for (number, viewer) in viewers.iter_mut().enumerate() {
            viewer.response().expect(200, format!("/{number}/{round}").as_bytes());
        }
    }
    assert!(most.load(Ordering::Acquire) <= 2, "{} at once", most.load(Ordering::Acquire));
}

/// A waiter that leaves gives its turn to the next.
#[test]
fn viewers_that_leave_the_queue_do_not_block_it() {
    let gate = Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::start(move |reply| {
            if reply.request.target() == "/held" {
                gate.wait("the test lets the held request go");
            }
            reply.answer(200, &[("Cache-Control", "no-store")], b"ok");
        })
    };
    let launch = Launch::before(&origin.url()).with("--cores", "2").with("--origin-max-connections", "1");
    let aspis = launch.start();
    let mut held = Viewer::connect(&aspis);
    held.ask("GET", "/held", "");
    origin.wait_for("/held", 1);
    for _ in 0..10 {
        Viewer::connect(&aspis).ask("GET", "/left", "");
    }
    let mut last = Viewer::connect(&aspis);
    last.ask("GET", "/last", "");
    gate.open();
    held.response().expect(200, b"ok");
    last.response().expect(200, b"ok");
}

/// The settings table: a wait for a connection longer than the read timeout is 503.
#[test]
fn waiting_too_long_for_a_connection_is_503() {
    let gate = Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::start(move |reply| {
            reply.head(200, &[("Transfer-Encoding", "chunked"), ("Cache-Control", "no-store")]);
            while !gate.is_open() && !reply.is_closing() {
                reply.chunk(b"still here");
                crate::support::pause();
            }
            reply.chunk(b"");
        })
    };
    let launch =
        Launch::before(&origin.url()).with("--origin-max-connections", "1").with("--read-timeout", "500ms");
    let aspis = launch.start();
    let mut held = Viewer::connect(&aspis);
    held.ask("GET", "/held", "");
    origin.wait_for("/held", 1);
    let response = Viewer::connect(&aspis).get("/other");
    assert_eq!(response.status(), 503, "{response:?}");
    gate.open();
    assert_eq!(held.response().status(), 200);
}

/// D-26: an idle origin connection is closed after its time.
#[test]
fn idle_origin_connections_are_closed() {
    let closed = Gate::default();
    let origin = {
        let closed = closed.clone();
        Origin::start(move |reply| {
            reply.answer(200, &[], b"ok");
            if reply.connection.some().is_ok_and(|bytes| bytes.is_empty()) {
                closed.open();
            }
            reply.close();
        })
    };
    let aspis = Launch::before(&origin.url()).with("--origin-keepalive-timeout", "1s").start();
    Viewer::connect(&aspis).get("/").expect(200, b"ok");
    closed.wait("the idle connection is closed");
}

/// `localhost` may resolve to `::1` first, where nobody listens: the next address is tried.
#[test]
fn second_address_is_tried() {
    let origin = Origin::fixed(&[("Cache-Control", "no-store")], b"ok");
    let aspis = Launch::before(&format!("http://localhost:{}", origin.address().port())).start();
    let mut viewer = Viewer::connect(&aspis);
    crate::support::eventually("the name is resolved", || {
        (viewer.get("/warm").status() == 200).then_some(())
    });
    for _ in 0..5 {
        viewer.get("/").expect(200, b"ok");
    }
}

/// Many failures in between do not wear anything out.
#[test]
fn failing_origin_leaks_no_files() {
    let origin = Origin::start(|reply| {
        reply.body();
        match reply.connection_number % 4 {
            0 => reply.send(b"garbage\r\n\r\n"),
            1 => reply.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf"),
            2 => {}
            _ => reply.answer(200, &[("Connection", "close")], &pattern(0, 1000)),
        }
        reply.close();
    });
    let aspis = before(&origin);
    let ask = || {
        let mut viewer = Viewer::connect(&aspis);
        viewer.send("POST /p HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc");
        let _ = viewer.try_response();
    };
    (0..8).for_each(|_| ask());
    let files = aspis.open_files();
    (0..200).for_each(|_| ask());
    crate::support::eventually("no file stays open", || (aspis.open_files() <= files + 4).then_some(()));
}
