//! Answers from the cache that are no plain hit: variants, conditions, ranges, validation, stale responses; and what must not poison it.

use crate::support::{Aspis, ETAG, FRESH, Gate, Launch, Origin, Viewer, eventually};

fn before(origin: &Origin) -> Aspis {
    Launch::before(&origin.url()).start()
}

/// RFC 9111 §4.1, rule 11: several variants of one URL are kept, and the other keeps its own.
#[test]
fn variants_are_kept_side_by_side() {
    let origin = Origin::start(|reply| {
        let chosen = reply.request.field("foo").unwrap_or("none").to_owned();
        reply.answer(200, &[FRESH, ("Vary", "Foo")], chosen.as_bytes());
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    for result in ["Miss", "Hit", "Hit"] {
        viewer.get_with("/a", "Foo: 1\r\n").expect_cached(result, b"1");
        viewer.get_with("/a", "foo: 2\r\n").expect_cached(result, b"2");
        viewer.get("/a").expect_cached(result, b"none");
    }
    assert_eq!(origin.count("/a"), 3);
    viewer.ask("POST", "/a", "Foo: 1\r\nContent-Length: 0\r\n");
    viewer.response();
    // Rule 16: an unsafe request takes every variant away.
    viewer.get_with("/a", "Foo: 2\r\n").expect_cached("Miss", b"2");
    viewer.get("/a").expect_cached("Miss", b"none");
}

/// Rule 12, T-24, R-2, R-12 to R-15.
#[test]
fn a_stored_response_answers_conditions_and_ranges() {
    let body = b"0123456789abcdefghij";
    let origin = Origin::fixed(&[FRESH, ETAG, ("Content-Type", "text/x")], body);
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/a").expect_cached("Miss", body);
    let same = viewer.get_with("/a", "If-None-Match: \"x\", W/\"one\"\r\n").expect(304, b"");
    assert_eq!((same.field("etag"), same.field("content-length")), (Some("\"one\""), None));
    assert!(same.x_cache().starts_with("Hit") && same.field("age").is_some());
    viewer.get_with("/a", "If-None-Match: \"x\"\r\n").expect_cached("Hit", body);
    viewer.get_with("/a", "If-Match: \"x\"\r\n");
    let part = viewer.get_with("/a", "Range: bytes=2-4\r\n").expect(206, b"234");
    assert_eq!(part.field("content-range"), Some("bytes 2-4/20"));
    viewer.get_with("/a", "Range: bytes=-2\r\n").expect(206, b"ij");
    viewer.get_with("/a", "Range: bytes=5-1\r\n").expect(200, body);
    viewer.get_with("/a", "Range: bytes=0-1\r\nIf-Range: \"x\"\r\n").expect(200, body);
    let beyond = viewer.get_with("/a", "Range: bytes=20-\r\n");
    assert_eq!((beyond.status(), beyond.field("content-range")), (416, Some("bytes */20")));
    let several = viewer.get_with("/a", "Range: bytes=0-1,18-\r\n");
    let boundary = several.field("content-type").unwrap().split("boundary=").nth(1).unwrap().to_owned();
    let expected = format!(
        "--{boundary}\r\nContent-Type: text/x\r\nContent-Range: bytes 0-1/20\r\n\r\n01\r\n\
         --{boundary}\r\nContent-Type: text/x\r\nContent-Range: bytes 18-19/20\r\n\r\nij\r\n--{boundary}--\r\n"
    );
    assert_eq!((several.status(), String::from_utf8_lossy(&several.body).into_owned()), (206, expected));
    assert_eq!(origin.count("/a"), 1);
}

/// RFC 9110 §13.1.1.
#[test]
fn a_failed_precondition_is_told_and_the_connection_goes_on() {
    let origin = Origin::fixed(&[FRESH, ETAG], b"x");
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/a").expect_cached("Miss", b"x");
    assert_eq!(viewer.get_with("/a", "If-Match: \"other\"\r\n").status(), 412);
    viewer.get("/a").expect_cached("Hit", b"x");
}

/// RFC 9111 §4.3, rule 13: validated, freshened with new fields over the same content, and a hit again.
#[test]
fn a_stale_response_is_validated_and_freshened() {
    let origin = Origin::start(|reply| match reply.request.field("if-none-match") {
        Some("\"one\"") => reply.answer(304, &[FRESH, ETAG, ("B", "2")], b""),
        _ => reply.answer(200, &[("Cache-Control", "no-cache"), ETAG, ("A", "1"), ("B", "1")], b"content"),
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/a").expect_cached("Miss", b"content");
    let validated = viewer.get("/a").expect_cached("RefreshHit", b"content");
    assert_eq!((validated.field("a"), validated.field("b")), (Some("1"), Some("2")));
    assert!(validated.field("cache-status").unwrap().contains("fwd=stale; fwd-status=304"));
    let hit = viewer.get("/a").expect_cached("Hit", b"content");
    assert_eq!((hit.all("b"), hit.all("cache-control")), (vec!["2"], vec!["max-age=60"]));
    assert_eq!(origin.count("/a"), 2);
}

/// Rule 15: the stale response is served when the origin breaks, unless the origin forbade it.
#[test]
fn stale_is_served_when_the_origin_fails_unless_forbidden() {
    let origin = Origin::start(|reply| {
        let control =
            if reply.request.target() == "/free" { "max-age=0" } else { "max-age=0, must-revalidate" };
        match reply.before {
            0 => reply.answer(200, &[("Cache-Control", control), ETAG], b"old"),
            1 => reply.answer(503, &[], b"broken"),
            _ => reply.close(),
        }
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/free").expect_cached("Miss", b"old");
    let stale = viewer.get("/free").expect_cached("RefreshHit", b"old");
    assert!(stale.field("cache-status").unwrap().ends_with("detail=stale-on-error"));
    viewer.get("/free").expect_cached("RefreshHit", b"old");
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/strict").expect_cached("Miss", b"old");
    viewer.get("/strict").expect(503, b"broken");
    assert_eq!(viewer.get("/strict").status(), 502);
}

/// RFC 5861 §3, T-29: served at once; one refresh in the background, which outlives the viewer.
#[test]
fn stale_is_served_while_one_refresh_runs() {
    let refreshed = Gate::default();
    let origin = {
        let refreshed = refreshed.clone();
        Origin::start(move |reply| {
            let control =
                if reply.before == 0 { "max-age=1, stale-while-revalidate=60" } else { "max-age=60" };
            if reply.before > 0 {
                refreshed.wait("the refresh may be answered");
            }
            reply.answer(200, &[("Cache-Control", control)], reply.before.to_string().as_bytes());
        })
    };
    let aspis = before(&origin);
    Viewer::connect(&aspis).get("/a").expect_cached("Miss", b"0");
    eventually("what is stored becomes stale, and a refresh begins", || {
        Viewer::connect(&aspis).get("/a").expect_cached("Hit", b"0");
        (origin.count("/a") == 2).then_some(())
    });
    for _ in 0..3 {
        Viewer::connect(&aspis).get("/a").expect_cached("Hit", b"0");
    }
    refreshed.open();
    eventually("the refresh is stored", || (Viewer::connect(&aspis).get("/a").body == b"1").then_some(()));
    assert_eq!(origin.count("/a"), 2);
}

/// RFC 9111 §3.4, rule 14: a part answers ranges within it and is completed on the same strong ETag; else fetched whole.
#[test]
fn parts_answer_ranges_and_are_completed() {
    let origin = Origin::start(|reply| {
        let range = reply.request.field("range").unwrap_or("").to_owned();
        let other = reply.request.target() == "/other";
        match range.as_str() {
            "bytes=0-4" => reply.answer(206, &[FRESH, ETAG, ("Content-Range", "bytes 0-4/10")], b"01234"),
            "bytes=5-" if other => {
                reply.answer(206, &[FRESH, ("ETag", "\"two\""), ("Content-Range", "bytes 5-9/10")], b"fghij");
            }
            "bytes=5-" => reply.answer(206, &[FRESH, ETAG, ("Content-Range", "bytes 5-9/10")], b"56789"),
            _ => reply.answer(200, &[FRESH, ("ETag", "\"two\"")], b"abcdefghij"),
        }
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.get_with("/same", "Range: bytes=0-4\r\n").expect(206, b"01234");
    let part = viewer.get_with("/same", "Range: bytes=1-2\r\n").expect(206, b"12");
    assert_eq!((part.all("content-range"), part.x_cache().starts_with("Hit")), (vec!["bytes 1-2/10"], true));
    let whole = viewer.get("/same").expect_cached("Miss", b"0123456789");
    assert_eq!((whole.field("content-range"), whole.field("content-length")), (None, Some("10")));
    assert_eq!(origin.requests().last().unwrap().field("if-range"), Some("\"one\""));
    viewer.get("/same").expect_cached("Hit", b"0123456789");
    assert_eq!(origin.count("/same"), 2);
    viewer.get_with("/other", "Range: bytes=0-4\r\n").expect(206, b"01234");
    viewer.get("/other").expect_cached("Miss", b"abcdefghij");
    viewer.get("/other").expect_cached("Hit", b"abcdefghij");
    assert_eq!(origin.count("/other"), 3);
}

/// parts of one version stand beside each other, and a part of another version turns them out.
#[test]
fn parts_of_one_version_stand_beside_each_other() {
    let origin = Origin::start(|reply| {
        let content = b"0123456789";
        let range = reply.request.field("range").unwrap_or("").to_owned();
        let etag = ("ETag", if range.starts_with("bytes=8") { "\"two\"" } else { "\"one\"" });
        let mut ends = range.trim_start_matches("bytes=").split('-');
        let mut end = |missing| ends.next().and_then(|end| end.parse().ok()).unwrap_or(missing);
        let (first, last) = (end(0), end(9));
        let content_range = format!("bytes {first}-{last}/10");
        reply.answer(206, &[FRESH, etag, ("Content-Range", &content_range)], &content[first..=last]);
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    let mut ask = |range: &str, content: &[u8], result: &str| {
        let response = viewer.get_with("/a", &format!("Range: bytes={range}\r\n")).expect(206, content);
        assert_eq!(response.x_cache().split(' ').next(), Some(result), "{range}");
    };
    ask("0-2", b"012", "Miss");
    ask("3-5", b"345", "Miss");
    ask("6-6", b"6", "Miss");
    for (range, content) in [("0-2", &b"012"[..]), ("4-5", b"45"), ("6-6", b"6"), ("1-1", b"1")] {
        ask(range, content, "Hit");
    }
    ask("2-3", b"23", "Miss");
    ask("0-0", b"0", "Hit");
    ask("8-9", b"89", "Miss");
    ask("8-8", b"8", "Hit");
    ask("4-5", b"45", "Miss");
    let mut whole = Viewer::connect(&aspis);
    assert_eq!(origin.count("/a"), 6);
    // The prefix is there again: the whole is joined from it though it is not the latest part.
    ask("0-3", b"0123", "Miss");
    ask("6-7", b"67", "Miss");
    whole.get("/a").expect_cached("Miss", b"0123456789");
    assert_eq!(origin.requests().last().unwrap().field("range"), Some("bytes=4-"));
    whole.get("/a").expect_cached("Hit", b"0123456789");
}

/// RFC 9111 §4.4, rule 16: an unsafe request takes parts away too.
#[test]
fn an_unsafe_request_removes_parts() {
    let origin = Origin::start(|reply| match reply.request.method() {
        "GET" => reply.answer(206, &[FRESH, ETAG, ("Content-Range", "bytes 0-4/10")], b"01234"),
        _ => reply.answer(204, &[], b""),
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    let part = "Range: bytes=0-4\r\n";
    assert_eq!(viewer.get_with("/a", part).expect(206, b"01234").x_cache(), "Miss");
    assert_eq!(viewer.get_with("/a", part).expect(206, b"01234").x_cache(), "Hit");
    viewer.ask("DELETE", "/a", "");
    assert_eq!(viewer.response().status(), 204);
    assert_eq!(viewer.get_with("/a", part).expect(206, b"01234").x_cache(), "Miss");
    assert_eq!(origin.count("/a"), 3);
}

/// RFC 9111 §4.4: what was asked for before an unsafe request is not stored when it comes after it.
#[test]
fn an_unsafe_request_dooms_a_running_fetch() {
    let rest = Gate::default();
    let origin = {
        let rest = rest.clone();
        Origin::start(move |reply| match (reply.request.method(), reply.before) {
            ("GET", 0) => {
                reply.head(200, &[FRESH, ("Content-Length", "3")]);
                reply.send(b"o");
                rest.wait("the rest may be sent");
                reply.send(b"ld");
            }
            ("GET", _) => reply.answer(200, &[FRESH], b"new"),
            _ => reply.answer(204, &[], b""),
        })
    };
    let aspis = before(&origin);
    let mut first = Viewer::connect(&aspis);
    first.ask("GET", "/a", "");
    assert_eq!(first.head().status(), 200);
    let mut other = Viewer::connect(&aspis);
    other.ask("DELETE", "/a", "");
    assert_eq!(other.response().status(), 204);
    rest.open();
    assert_eq!(first.connection.exactly(3).expect("the rest comes"), b"old");
    other.get("/a").expect_cached("Miss", b"new");
    other.get("/a").expect_cached("Hit", b"new");
    assert_eq!(origin.count("/a"), 3);
}

/// RFC 9111 §4: what was answered earlier does not take the place of what was answered later, though it ends after it.
#[test]
fn an_older_answer_does_not_replace_a_newer_one() {
    let rest = Gate::default();
    let origin = {
        let rest = rest.clone();
        Origin::start(move |reply| match reply.request.field("if-match") {
            // Such a request goes to the origin by itself, whatever else runs.
            Some(_) => {
                reply.head(200, &[FRESH, ("Content-Length", "3")]);
                reply.send(b"o");
                rest.wait("the rest may be sent");
                reply.send(b"ld");
            }
            None => reply.answer(200, &[FRESH], b"new"),
        })
    };
    let aspis = before(&origin);
    let mut slow = Viewer::connect(&aspis);
    slow.ask("GET", "/a", "If-Match: *\r\n");
    assert_eq!(slow.head().status(), 200);
    let mut quick = Viewer::connect(&aspis);
    // Answers are ordered by the second.
    eventually("a second passes", || (quick.get("/clock").field("age") == Some("1")).then_some(()));
    quick.get("/a").expect_cached("Miss", b"new");
    rest.open();
    assert_eq!(slow.connection.exactly(3).expect("the rest comes"), b"old");
    eventually("the older answer was judged", || {
        let metrics = String::from_utf8(aspis.ask_admin("/metrics").body).expect("metrics are text");
        metrics.contains("aspis_cache_not_stored_total{cause=\"failed\"} 1\n").then_some(())
    });
    quick.get("/a").expect_cached("Hit", b"new");
}

/// T-44: CloudFront's default, and a switch of its own.
#[test]
fn where_vary_is_ignored_a_url_has_one_response() {
    let origin = Origin::start(|reply| {
        let chosen = reply.request.field("foo").unwrap_or("none").to_owned();
        reply.answer(200, &[FRESH, ("Vary", "Foo")], chosen.as_bytes());
    });
    for flags in [["--vary", "ignore"], ["--semantics", "cloudfront"]] {
        let aspis = Launch::before(&origin.url()).with(flags[0], flags[1]).start();
        let mut viewer = Viewer::connect(&aspis);
        viewer.get_with("/a", "Foo: 1\r\n").expect_cached("Miss", b"1");
        viewer.get_with("/a", "Foo: 2\r\n").expect_cached("Hit", b"1");
        viewer.get("/a").expect_cached("Hit", b"1");
    }
}

/// RFC 9111 §5.2.1, T-18: a reload goes past the cache only for viewers whom the operator names.
#[test]
fn request_directives_are_followed_for_named_viewers_only() {
    let origin = Origin::start(|reply| reply.answer(200, &[FRESH], reply.before.to_string().as_bytes()));
    let deaf = before(&origin);
    let mut viewer = Viewer::connect(&deaf);
    viewer.get("/a").expect_cached("Miss", b"0");
    viewer.get_with("/a", "Cache-Control: no-cache\r\n").expect_cached("Hit", b"0");
    let open = Launch::before(&origin.url()).with("--request-directives", "127.0.0.0/8").start();
    let mut viewer = Viewer::connect(&open);
    viewer.get("/b").expect_cached("Miss", b"0");
    viewer.get_with("/b", "Cache-Control: no-cache\r\n").expect_cached("Miss", b"1");
    viewer.get("/b").expect_cached("Hit", b"1");
    assert_eq!(viewer.get_with("/c", "Cache-Control: only-if-cached\r\n").status(), 504);
}

/// A field that is not in the key must not choose what others get: forwarding fields of strangers, another Host, a body on GET,
/// a method override, paths that differ only in their encoding.
#[test]
fn nothing_outside_the_key_poisons_the_cache() {
    let origin = Origin::start(|reply| {
        let seen = |name| reply.request.field(name).unwrap_or("-").to_owned();
        let words = [
            reply.request.method().to_owned(),
            reply.request.target().to_owned(),
            seen("host"),
            seen("x-forwarded-host"),
            seen("forwarded"),
            seen("x-original-url"),
            seen("x-http-method-override"),
        ];
        reply.body();
        reply.answer(200, &[FRESH], words.join(" ").as_bytes());
    });
    let aspis = before(&origin);
    let plain = Viewer::connect(&aspis).get("/plain").body;
    for (at, fields) in [
        "X-Forwarded-Host: evil\r\n",
        "Forwarded: host=evil\r\n",
        "X-Original-URL: /admin\r\n",
        "X-HTTP-Method-Override: DELETE\r\n",
        "X-Forwarded-Host: evil\r\nX-HTTP-Method: PUT\r\n",
    ]
    .iter()
    .enumerate()
    {
        let target = format!("/p{at}");
        Viewer::connect(&aspis).get_with(&target, fields);
        let clean = Viewer::connect(&aspis).get(&target).body;
        let expected = String::from_utf8_lossy(&plain).replace("/plain", &target);
        assert_eq!(String::from_utf8_lossy(&clean), expected, "{fields}");
    }
    // A fat GET is passed and not stored.
    let mut viewer = Viewer::connect(&aspis);
    viewer.send("GET /fat HTTP/1.1\r\nHost: test.example\r\nContent-Length: 4\r\n\r\nevil");
    assert!(viewer.response().x_cache().starts_with("Miss"));
    assert!(viewer.get("/fat").x_cache().starts_with("Miss"));
    // Whatever the origin may read differently has a key of its own.
    for target in [
        "/a/b", "/a%2fb", "/a%2Fb", "/a/./b", "/a//b", "/a/b;x", "/a/b%00", "/a/b?", "/a/b.css", "/a/b%3f",
        "/A/b",
    ] {
        let response = viewer.get(target);
        assert!(response.x_cache().starts_with("Miss"), "{target}");
        assert!(String::from_utf8_lossy(&response.body).contains(&format!(" {target} ")), "{target}");
    }
}

/// RFC 9111 §4.1, RFC 9110 §7.6.1: who hides a field from the origin by Connection gets, and fills, the variant without it.
#[test]
fn a_field_hidden_by_connection_selects_no_variant() {
    let origin = Origin::start(|reply| {
        let chosen = reply.request.field("accept-language").unwrap_or("none").to_owned();
        reply.answer(200, &[FRESH, ("Vary", "Accept-Language")], chosen.as_bytes());
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    let hidden = "Connection: keep-alive, Accept-Language\r\nAccept-Language: de\r\n";
    viewer.get_with("/a", hidden).expect_cached("Miss", b"none");
    viewer.get_with("/a", "Accept-Language: de\r\n").expect_cached("Miss", b"de");
    viewer.get_with("/a", "Accept-Language: de\r\n").expect_cached("Hit", b"de");
    viewer.get_with("/a", hidden).expect_cached("Hit", b"none");
    viewer.get("/a").expect_cached("Hit", b"none");
}

/// Decision 7: a request that the origin calls bad for something that is in no key takes nothing away from others.
#[test]
fn a_bad_request_of_one_viewer_is_not_everybodys() {
    let origin = Origin::start(|reply| match reply.request.field("x-oversized") {
        Some(_) => reply.answer(400, &[FRESH], b"bad"),
        None => reply.answer(200, &[FRESH], b"good"),
    });
    let aspis = before(&origin);
    let mut viewer = Viewer::connect(&aspis);
    let oversized = format!("X-Oversized: {}\r\n", "a".repeat(8000));
    viewer.get_with("/a", &oversized).expect(400, b"bad");
    viewer.get("/a").expect_cached("Miss", b"good");
    viewer.get_with("/a", &oversized).expect_cached("Hit", b"good");
}
