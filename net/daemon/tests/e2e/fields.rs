//! What is added to, changed in and removed from the fields on the way, in both directions.

use crate::support::{Head, Launch, Origin, Viewer};

fn plain() -> Origin {
    Origin::fixed(&[], b"ok")
}

/// The head that the origin saw for one request with these field lines.
#[track_caller]
fn seen_by_origin(launch: impl FnOnce(Launch) -> Launch, request: &str) -> Head {
    let origin = plain();
    let aspis = launch(Launch::before(&origin.url())).start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.send(request);
    viewer.response().expect(200, b"ok");
    origin.requests().remove(0)
}

fn members(head: &Head, name: &str) -> Vec<String> {
    head.all(name).iter().flat_map(|value| value.split(',')).map(|member| member.trim().to_owned()).collect()
}

/// H-12: the viewer's address is appended.
#[test]
fn forwarded_fields_name_the_viewer() {
    let head = seen_by_origin(|launch| launch, "GET / HTTP/1.1\r\nHost: shop.example:81\r\n\r\n");
    assert_eq!(members(&head, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(head.all("x-forwarded-host"), ["shop.example:81"]);
    assert_eq!(head.all("host"), ["shop.example:81"]);
    assert_eq!(members(&head, "via"), ["1.1 aspis"]);
}

/// H-12: `192.0.2.4,192.0.2.3` becomes `192.0.2.4,192.0.2.3,<viewer>`; Via is appended likewise.
#[test]
fn forwarded_for_and_via_are_appended() {
    let head = seen_by_origin(
        |launch| launch.with("--name", "edge-1"),
        "GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 192.0.2.4\r\nX-Forwarded-For: 192.0.2.3\r\n\
         Via: 1.0 fred\r\n\r\n",
    );
    assert_eq!(members(&head, "x-forwarded-for"), ["192.0.2.4", "192.0.2.3", "127.0.0.1"]);
    assert_eq!(members(&head, "via"), ["1.0 fred", "1.1 edge-1"]);
}

#[test]
fn strangers_cannot_set_forwarded_proto_and_host() {
    let head = seen_by_origin(
        |launch| launch,
        "GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n\r\n",
    );
    assert_eq!(head.all("x-forwarded-proto"), ["http"]);
    assert_eq!(head.all("x-forwarded-host"), ["a.example"]);
}

#[test]
fn trusted_proxies_set_forwarded_proto_and_host() {
    let head = seen_by_origin(
        |launch| launch.with("--trusted-proxies", "10.0.0.0/8,127.0.0.0/8"),
        "GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n\r\n",
    );
    assert_eq!(head.all("x-forwarded-proto"), ["https"]);
    assert_eq!(head.all("x-forwarded-host"), ["shop.example"]);
}

/// RFC 9110 section 7.6.1 and profile rule 10, towards the origin.
#[test]
fn hop_by_hop_fields_of_the_viewer_stay_here() {
    let head = seen_by_origin(
        |launch| launch,
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, X-Mine, x-other\r\nX-Mine: 1\r\nX-Other: 2\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\nTrailer: X-T\r\n\
         Proxy-Authorization: Basic eA==\r\nUpgrade: h2c\r\nX-Kept: yes\r\nCookie: a=b\r\n\r\n",
    );
    let gone = [
        "x-mine",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "proxy-authorization",
    ];
    for name in gone {
        assert_eq!(head.all(name), Vec::<&str>::new(), "{name}: {head:?}");
    }
    assert!(!head.lists("connection", "x-mine"), "{head:?}");
    assert_eq!(head.all("x-kept"), ["yes"]);
    assert_eq!(head.all("cookie"), ["a=b"]);
}

/// A viewer cannot have a field removed that Aspis itself relies on (RFC 9110 section 7.6.1).
#[test]
fn connection_cannot_remove_what_we_add() {
    let head = seen_by_origin(
        |launch| launch,
        "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: Host, Content-Length, X-Forwarded-For, Via\r\n\
         Content-Length: 2\r\n\r\nhi",
    );
    assert_eq!(head.all("host"), ["a.example"]);
    assert!(head.content_length() == Some(2) || head.is_chunked(), "{head:?}");
    assert_eq!(members(&head, "x-forwarded-for").last().map(String::as_str), Some("127.0.0.1"));
    assert_eq!(members(&head, "via").last().map(String::as_str), Some("1.1 aspis"));
}

/// H-8 and profile rule 10, towards the viewer.
#[test]
fn hop_by_hop_fields_of_the_origin_stay_here() {
    let origin = Origin::fixed(
        &[
            ("Connection", "X-Mine, keep-alive"),
            ("X-Mine", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Trailer", "X-T"),
            ("Upgrade", "h2c"),
            ("Proxy-Authenticate", "Basic"),
            ("X-Kept", "yes"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("X-Empty", ""),
        ],
        b"ok",
    );
    let aspis = Launch::before(&origin.url()).start();
    let response = Viewer::connect(&aspis).get("/").expect(200, b"ok");
    for name in ["x-mine", "keep-alive", "proxy-connection", "trailer", "upgrade", "proxy-authenticate"] {
        assert_eq!(response.all(name), Vec::<&str>::new(), "{name}: {response:?}");
    }
    assert!(!response.lists("connection", "x-mine"), "{response:?}");
    assert_eq!(response.all("x-kept"), ["yes"]);
    assert_eq!(response.all("x-empty"), [""]);
    assert_eq!(response.all("set-cookie"), ["a=1", "b=2"], "each on its own line (RFC 6265 section 3)");
}

/// H-2: an `X-Cache` of the origin is replaced.
#[test]
fn x_cache_of_the_origin_is_replaced() {
    let origin = Origin::fixed(&[("X-Cache", "Hit from elsewhere")], b"ok");
    let aspis = Launch::before(&origin.url()).with("--name", "edge-1").start();
    let response = Viewer::connect(&aspis).get("/");
    assert_eq!(response.all("x-cache"), ["Miss from edge-1"], "{response:?}");
}

/// RFC 9110 section 6.6.1, T-42: a gateway with a clock adds the Date that the origin left out; never a second one.
#[test]
fn date_is_added_once() {
    let dated: &[(&str, &str)] = &[("Date", "Sun, 06 Nov 1994 08:49:37 GMT")];
    let origin = Origin::start(move |reply| {
        let fields = if reply.request.target() == "/dated" { dated } else { &[] };
        reply.answer(200, fields, b"ok");
    });
    let aspis = Launch::before(&origin.url()).start();
    let mut viewer = Viewer::connect(&aspis);
    assert_eq!(viewer.get("/dated").all("date"), ["Sun, 06 Nov 1994 08:49:37 GMT"]);
    let added = viewer.get("/plain");
    assert_eq!(added.all("date").len(), 1, "{added:?}");
    assert!(added.all("date")[0].ends_with(" GMT"), "{added:?}");
}

#[test]
fn origin_host_modes_choose_the_host_field() {
    let request = "GET / HTTP/1.1\r\nHost: viewer.example\r\n\r\n";
    for (mode, expected) in [("viewer", Some("viewer.example")), ("name.example", Some("name.example"))] {
        let head = seen_by_origin(|launch| launch.with("--origin-host", mode), request);
        assert_eq!(head.all("host"), Vec::from_iter(expected), "{mode}");
        assert_eq!(head.all("x-forwarded-host"), ["viewer.example"], "{mode}");
    }
    let origin = plain();
    let aspis = Launch::before(&origin.url()).with("--origin-host", "origin").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.send(request);
    viewer.response().expect(200, b"ok");
    assert_eq!(origin.only("/").all("host"), [origin.address().to_string()]);
}

/// D-17: a path prefix of the origin's URL is put before the path and is not part of the key.
#[test]
fn path_prefix_of_the_origin_is_put_before() {
    let origin = Origin::fixed(&[("Cache-Control", "max-age=60")], b"ok");
    for prefix in ["/app", "/app/"] {
        let aspis = Launch::before(&format!("{}{prefix}", origin.url())).start();
        let mut viewer = Viewer::connect(&aspis);
        viewer.get("/page?q=1").expect_cached("Miss", b"ok");
        viewer.get("/page?q=1").expect_cached("Hit", b"ok");
        viewer.get("/").expect_cached("Miss", b"ok");
    }
    assert_eq!((origin.count("/app/page?q=1"), origin.count("/app/")), (2, 2));
}

#[test]
fn cloaked_bytes_in_values_pass_unchanged() {
    let head = seen_by_origin(
        |launch| launch,
        "GET / HTTP/1.1\r\nHost: a.example\r\nX-Utf: caf\u{e9}\r\nX-Tab: a\tb\r\nX-Quote: \"a, b\"\r\n\r\n",
    );
    assert_eq!(head.all("x-utf"), ["caf\u{e9}"]);
    assert_eq!(head.all("x-tab"), ["a\tb"]);
    assert_eq!(head.all("x-quote"), ["\"a, b\""]);
}
