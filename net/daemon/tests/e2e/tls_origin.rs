//! HTTPS origins: private authorities, names, plain answers on a TLS port, reload.

use crate::support::{Aspis, Authority, Directory, Launch, Origin, TlsOrigin, Viewer, eventually, pattern};

fn before(url: &str, authority: &Authority, directory: &Directory) -> Aspis {
    let path = directory.file("ca.pem");
    std::fs::write(&path, authority.pem()).expect("the directory is ours");
    Launch::before(url).with("--origin-ca", &path).start()
}

fn echo(authority: &Authority, names: &[&str]) -> TlsOrigin {
    TlsOrigin::start(authority, names, |reply| {
        let body = reply.body();
        let answer = [reply.request.target().as_bytes(), b" ", &body].concat();
        reply.answer(200, &[("Cache-Control", "no-store")], &answer);
    })
}

#[test]
fn private_authority_is_trusted() {
    let (authority, directory) = (Authority::new("ours"), Directory::new());
    let origin = echo(&authority, &["127.0.0.1"]);
    let aspis = before(&origin.url("127.0.0.1"), &authority, &directory);
    let mut viewer = Viewer::connect(&aspis);
    for number in 0..10 {
        viewer.get(&format!("/{number}")).expect(200, format!("/{number} ").as_bytes());
    }
    assert_eq!(origin.origin.connections(), 1, "TLS connections are pooled too");
    let head = origin.origin.requests().remove(0);
    assert_eq!(head.all("x-forwarded-proto"), ["http"], "how the viewer came, not how the origin is reached");
}

#[test]
fn large_bodies_pass_over_tls_in_both_directions() {
    let (authority, directory) = (Authority::new("ours"), Directory::new());
    let origin = TlsOrigin::start(&authority, &["127.0.0.1"], |reply| {
        let body = reply.body();
        assert!(body == pattern(0, body.len()), "the request body arrives unchanged");
        reply.answer(200, &[("Cache-Control", "max-age=60")], &pattern(7, 5 << 20));
    });
    let aspis = before(&origin.url("127.0.0.1"), &authority, &directory);
    let mut viewer = Viewer::connect(&aspis);
    viewer.send(format!("POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n", 5 << 20));
    viewer.send(pattern(0, 5 << 20));
    viewer.response().expect(200, &pattern(7, 5 << 20));
    viewer.get("/a").expect_cached("Miss", &pattern(7, 5 << 20));
    viewer.get("/a").expect_cached("Hit", &pattern(7, 5 << 20));
}

/// D-20: the certificate is checked against the host of `--origin`, whatever Host is sent.
#[test]
fn name_of_the_url_is_checked() {
    let (authority, directory) = (Authority::new("ours"), Directory::new());
    let origin = echo(&authority, &["localhost"]);
    let right = before(&origin.url("localhost"), &authority, &directory);
    let mut viewer = Viewer::connect(&right);
    eventually("the name is resolved", || (viewer.get("/a").status() == 200).then_some(()));
    viewer.get("/a").expect(200, b"/a ");
    assert_eq!(origin.origin.requests()[0].all("host"), ["test.example"]);

    let other = echo(&authority, &["other.example"]);
    let wrong = before(&other.url("localhost"), &authority, &directory);
    expect_bad_gateway(&wrong);
    assert_eq!(other.origin.total(), 0, "no request before the certificate is checked");
}

/// D-20, H-25.
#[test]
fn unknown_authority_is_502() {
    let directory = Directory::new();
    let origin = echo(&Authority::new("theirs"), &["127.0.0.1"]);
    let aspis = before(&origin.url("127.0.0.1"), &Authority::new("ours"), &directory);
    expect_bad_gateway(&aspis);
    assert_eq!(origin.origin.total(), 0);
}

/// D-20: without `--origin-ca` only public authorities count.
#[test]
fn private_authority_without_the_flag_is_502() {
    let origin = echo(&Authority::new("theirs"), &["127.0.0.1"]);
    let aspis = Launch::before(&origin.url("127.0.0.1")).start();
    expect_bad_gateway(&aspis);
    assert_eq!(origin.origin.total(), 0);
}

#[track_caller]
fn expect_bad_gateway(aspis: &Aspis) {
    let mut viewer = Viewer::connect(aspis);
    for method in ["GET", "POST"] {
        viewer.ask(method, "/", if method == "POST" { "Content-Length: 0\r\n" } else { "" });
        let response = viewer.response();
        assert_eq!(response.status(), 502, "{response:?}");
        assert_eq!(response.all("x-cache"), ["Error from aspis"]);
    }
}

/// The issue: plain bytes where a handshake should be are an error, not an answer.
#[test]
fn plain_answer_on_a_tls_port_is_502() {
    let (authority, directory) = (Authority::new("ours"), Directory::new());
    let plain = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let address = plain.local_addr().expect("bound");
    std::thread::spawn(move || {
        use std::io::Write;
        for socket in plain.incoming().map_while(Result::ok) {
            let mut socket = socket;
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        }
    });
    let aspis = before(&format!("https://{address}"), &authority, &directory);
    expect_bad_gateway(&aspis);
}

/// `--origin-ca` says whom to trust, not that the origin speaks TLS.
#[test]
fn plain_origin_behind_http_url_is_unaffected_by_the_ca() {
    let (authority, directory) = (Authority::new("ours"), Directory::new());
    let origin = Origin::fixed(&[], b"plain");
    let aspis = before(&origin.url(), &authority, &directory);
    Viewer::connect(&aspis).get("/").expect(200, b"plain");
}

/// Without close_notify an answer that ends with its connection may have been cut by anybody (RFC 8446 section 6.1).
#[test]
fn answer_until_close_needs_close_notify() {
    let (authority, directory) = (Authority::new("ours"), Directory::new());
    let origin = TlsOrigin::start(&authority, &["127.0.0.1"], |reply| {
        reply.head(200, &[("Cache-Control", "max-age=60")]);
        reply.send(b"cut or not?");
        // The harness closes the socket below the session: no close_notify is sent.
        reply.close();
    });
    let aspis = before(&origin.url("127.0.0.1"), &authority, &directory);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/a", "");
    let answer = viewer.try_response();
    assert!(answer.is_err(), "a transfer without its end must look cut: {answer:?}");
    assert_eq!(origin.origin.count("/a"), 1);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/a", "");
    let _ = viewer.try_response();
    assert_eq!(origin.origin.count("/a"), 2, "and it is not stored");
}

/// SIGHUP reads `--origin-ca` again.
#[test]
fn hangup_reads_the_authority_again() {
    let (first, second, directory) = (Authority::new("first"), Authority::new("second"), Directory::new());
    let origin = echo(&second, &["127.0.0.1"]);
    let aspis = before(&origin.url("127.0.0.1"), &first, &directory);
    let mut viewer = Viewer::connect(&aspis);
    assert_eq!(viewer.get("/a").status(), 502);
    std::fs::write(directory.file("ca.pem"), second.pem()).expect("the directory is ours");
    aspis.signal("HUP");
    eventually("the new authority is used", || (viewer.get("/a").status() == 200).then_some(()));
    // A file that cannot be used keeps what there was.
    std::fs::write(directory.file("ca.pem"), "no certificate").expect("the directory is ours");
    aspis.signal("HUP");
    aspis.wait_for_error("ca.pem");
    viewer.get("/a").expect(200, b"/a ");
}

#[test]
fn missing_or_empty_authority_file_is_named_at_start() {
    let directory = Directory::new();
    let missing = directory.file("missing.pem");
    let output = Launch::before("https://127.0.0.1:1").with("--origin-ca", &missing).fail();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}: {text}", output.status);
    assert!(text.contains("missing.pem"), "{text}");
}
