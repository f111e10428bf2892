//! What passes through: methods, targets, versions, statuses, interim responses, pipelining.

use crate::support::{Aspis, Gate, Launch, Origin, Viewer, request};

/// An origin that answers with what it was asked: `METHOD target body`.
fn echo() -> Origin {
    Origin::start(|reply| {
        let body = reply.body();
        let mut answer = format!("{} {} ", reply.request.method(), reply.request.target()).into_bytes();
        answer.extend_from_slice(&body);
        reply.answer(200, &[("Cache-Control", "no-store")], &answer);
    })
}

fn before(origin: &Origin) -> Aspis {
    Launch::before(&origin.url()).start()
}

#[test]
fn every_method_passes_with_its_body() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for method in ["GET", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH", "PURGE"] {
        viewer.ask(method, "/plain", "");
        viewer.response().expect(200, format!("{method} /plain ").as_bytes());
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "REPORT"] {
        viewer.send(format!("{method} /body HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nfour"));
        viewer.response().expect(200, format!("{method} /body four").as_bytes());
    }
    assert_eq!(origin.total(), 11);
}

#[test]
fn head_has_the_length_and_no_body() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("HEAD", "/page", "");
    let response = viewer.response_to("HEAD");
    assert_eq!(response.status(), 200);
    assert_eq!(response.content_length(), Some("HEAD /page ".len() as u64), "{response:?}");
    viewer.get("/next").expect(200, b"GET /next ");
}

/// Profile, "Additions for origin mode": a GET with a body passes uncached.
#[test]
fn get_with_a_body_passes_uncached() {
    let origin = Origin::start(|reply| {
        let body = reply.body();
        reply.answer(200, &[("Cache-Control", "max-age=60")], &body);
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for body in ["one", "two"] {
        viewer.send(format!("GET /search HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\n{body}"));
        viewer.response().expect_cached("Miss", body.as_bytes());
    }
    assert_eq!(origin.count("/search"), 2);
}

/// RFC 9112 section 3.2.2: the authority of an absolute-form target replaces the Host field.
#[test]
fn absolute_form_names_the_host() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "http://other.example/path?q=1", "");
    viewer.response().expect(200, b"GET /path?q=1 ");
    viewer.ask("GET", "http://other.example", "");
    viewer.response().expect(200, b"GET / ");
    for head in origin.requests() {
        assert_eq!(head.all("host"), ["other.example"], "{head:?}");
    }
}

#[test]
fn options_asterisk_passes() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("OPTIONS", "*", "");
    viewer.response().expect(200, b"OPTIONS * ");
}

#[test]
fn target_bytes_are_not_rewritten() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for target in ["/a%20b?c=%2F&&d", "/a/../b//c/./", "/%41?x=/?/", "//two", "/;p=1?", "/a%2fb"] {
        viewer.get(target).expect(200, format!("GET {target} ").as_bytes());
    }
}

/// H-22: an HTTP/1.0 viewer is served; without keep-alive the connection ends with the answer.
#[test]
fn http_1_0_viewer_gets_its_answer_and_a_close() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.send("GET /old HTTP/1.0\r\nHost: a.example\r\n\r\n");
    let response = viewer.response().expect(200, b"GET /old ");
    assert!(!response.is_chunked(), "{response:?}");
    viewer.expect_close();
}

#[test]
fn http_1_0_viewer_without_host_is_served() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.send("GET /nameless HTTP/1.0\r\n\r\n");
    viewer.response().expect(200, b"GET /nameless ");
    // RFC 9112 section 3.2: an HTTP/1.1 request to the origin has exactly one Host field.
    assert_eq!(origin.only("/nameless").all("host").len(), 1);
}

#[test]
fn http_1_0_viewer_with_keep_alive_is_kept() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for path in ["/one", "/two"] {
        viewer.send(format!("GET {path} HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n"));
        let response = viewer.response().expect(200, format!("GET {path} ").as_bytes());
        assert!(response.lists("connection", "keep-alive"), "an HTTP/1.0 viewer must be told: {response:?}");
    }
}

/// H-22: no chunked coding for HTTP/1.0; an answer of unknown length ends with the connection.
#[test]
fn http_1_0_viewer_never_gets_chunks() {
    let origin = Origin::start(|reply| {
        reply.head(200, &[("Transfer-Encoding", "chunked")]);
        reply.chunk(b"one ");
        reply.chunk(b"two");
        reply.chunk(b"");
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.send("GET /chunks HTTP/1.0\r\nHost: a.example\r\nConnection: keep-alive\r\n\r\n");
    let response = viewer.response().expect(200, b"one two");
    assert!(response.all("transfer-encoding").is_empty(), "{response:?}");
    assert!(!response.lists("connection", "keep-alive"), "{response:?}");
}

#[test]
fn connection_close_of_the_viewer_is_obeyed() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    let response = viewer.get_with("/last", "Connection: close\r\n").expect(200, b"GET /last ");
    assert!(
        response.lists("connection", "close"),
        "RFC 9112 section 9.6: the last answer says so: {response:?}"
    );
    viewer.expect_close();
}

/// A viewer may end its direction after the last request and still read the answer.
#[test]
fn half_closed_viewer_still_gets_its_answer() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/half", "");
    viewer.connection.finish_sending();
    viewer.response().expect(200, b"GET /half ");
    viewer.expect_close();
}

#[test]
fn bodiless_statuses_keep_the_connection_in_step() {
    let origin = Origin::start(|reply| match reply.request.target() {
        "/204" => reply.answer(204, &[], b""),
        "/304" => reply.answer(304, &[("ETag", "\"v\""), ("Content-Length", "999")], b""),
        "/empty" => reply.answer(200, &[], b""),
        _ => reply.answer(200, &[], b"after"),
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for (target, status, fields) in [
        ("/204", 204, ""),
        // Guarded conditions are the origin's to judge.
        ("/304", 304, "If-Match: \"v\"\r\nIf-None-Match: \"v\"\r\n"),
        ("/empty", 200, ""),
    ] {
        viewer.ask("GET", target, fields);
        assert_eq!(viewer.response().expect(status, b"").status(), status);
        viewer.get("/next").expect(200, b"after");
    }
}

#[test]
fn origin_statuses_pass() {
    let origin = Origin::start(|reply| {
        let status = reply.request.target()[1..].parse().expect("the test asks for a number");
        reply.answer(status, &[], b"body");
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for status in [201, 299, 301, 404, 418, 500, 503, 599] {
        let response = viewer.get(&format!("/{status}"));
        assert_eq!(response.status(), status, "{response:?}");
        assert_eq!(response.body, b"body");
    }
}

/// Profile rule 17 and the issue: 102 and 103 pass, and they pass when they come, not with the final answer.
#[test]
fn interim_responses_pass_at_once() {
    let seen = Gate::default();
    let origin = {
        let seen = seen.clone();
        Origin::start(move |reply| {
            reply.send(b"HTTP/1.1 102 Processing\r\n\r\n");
            reply.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n");
            seen.wait("the viewer reads the interim responses");
            reply.answer(200, &[], b"final");
        })
    };
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/", "");
    assert_eq!(viewer.response().status(), 102);
    let hints = viewer.response();
    assert_eq!(hints.status(), 103);
    assert_eq!(hints.field("link"), Some("</a.css>; rel=preload"));
    seen.open();
    let last = viewer.response().expect(200, b"final");
    assert_eq!(last.field("link"), None, "fields of an interim response do not join the final one");
}

/// RFC 9110 section 15.2: an HTTP/1.0 viewer never gets a 1xx.
#[test]
fn interim_responses_are_kept_from_http_1_0() {
    let origin = Origin::start(|reply| {
        reply.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
        reply.answer(200, &[], b"final");
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n");
    viewer.response().expect(200, b"final");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|reply| {
        let stored = reply.request.target().starts_with("/hit");
        let control = if stored { "max-age=60" } else { "no-store" };
        let body = reply.request.target().to_owned();
        reply.answer(200, &[("Cache-Control", control)], body.as_bytes());
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for number in 0..10 {
        viewer.get(&format!("/hit/{number}")).expect_cached("Miss", format!("/hit/{number}").as_bytes());
    }
    // Fifty requests leave in one write: hits, misses and posts with bodies that look like requests.
    let mut batch = String::new();
    let target = |number: usize| match number % 5 {
        0 | 1 => format!("/hit/{}", number % 10),
        2 => format!("/post/{number}"),
        _ => format!("/miss/{number}"),
    };
    for number in 0..50 {
        if number % 5 == 2 {
            let body = "GET /smuggled HTTP/1.1\r\n\r\n";
            let fields = format!("Host: test.example\r\nContent-Length: {}\r\n", body.len());
            batch.push_str(&format!("POST {} HTTP/1.1\r\n{fields}\r\n{body}", target(number)));
        } else {
            batch.push_str(&request("GET", &target(number), ""));
        }
    }
    viewer.send(batch);
    for number in 0..50 {
        let result = if number % 5 < 2 { "Hit" } else { "Miss" };
        viewer.response().expect_cached(result, target(number).as_bytes());
    }
    assert_eq!(origin.count("/smuggled"), 0);
}

#[test]
fn requests_split_at_every_byte_are_understood() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    let bytes = b"POST /split HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n";
    for at in 1..bytes.len() {
        viewer.send(&bytes[..at]);
        viewer.send(&bytes[at..]);
        viewer.response().expect(200, b"POST /split four");
    }
}

#[test]
fn keep_alive_origin_connections_are_reused() {
    let origin = echo();
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for number in 0..20 {
        viewer.get(&format!("/{number}")).expect(200, format!("GET /{number} ").as_bytes());
    }
    assert_eq!(origin.connections(), 1, "one core, one request at a time, one connection");
}

#[test]
fn two_cores_serve_many_viewers() {
    let origin = echo();
    let aspis = Launch::before(&origin.url()).with("--cores", "2").start();
    let mut viewers = (0..40).map(|_| Viewer::connect(&aspis)).collect::<Vec<_>>();
    for round in 0..5 {
        for (number, viewer) in viewers.iter_mut().enumerate() {
            viewer.ask("GET", &format!("/{number}/{round}"), "");
        }
        for (number, viewer) in viewers.iter_mut().enumerate() {
            viewer.response().expect(200, format!("GET /{number}/{round} ").as_bytes());
        }
    }
}

/// The issue: dual-stack addresses work, and the lines name the listeners in the order given.
#[test]
fn several_listeners_and_dual_stack_serve() {
    let origin = echo();
    let launch = Launch::before(&origin.url()).with("--listen", "127.0.0.1:0").with("--listen", "[::]:0");
    let aspis = launch.start();
    assert_eq!(aspis.listeners().len(), 2, "{:?}", aspis.listeners());
    assert!(aspis.listeners()[0].starts_with("127.0.0.1:"), "{:?}", aspis.listeners());
    assert!(aspis.listeners()[1].starts_with("[::]:"), "{:?}", aspis.listeners());
    let port =
        aspis.listeners()[1].rsplit(':').next().and_then(|port| port.parse::<u16>().ok()).expect("a port");
    for address in [aspis.address(), ([127, 0, 0, 1], port).into()] {
        Viewer::to(address).get("/here").expect(200, b"GET /here ");
    }
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        Viewer::to((std::net::Ipv6Addr::LOCALHOST, port).into()).get("/six").expect(200, b"GET /six ");
    }
}
