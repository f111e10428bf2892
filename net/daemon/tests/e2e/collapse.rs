//! Many requests, one fetch: who is answered by whose fetch, what followers see while it runs, and what never collapses.
//!
//! Each test runs with one core and with two: the viewers have connections of their own, so that with two cores some ask the core that
//! owns the key and some the other.

use crate::support::{
    Aspis, Broken, Crowd, ETAG, FRESH, Gate, KIB, Launch, Origin, PatternCheck, Viewer, eventually,
    expect_bodies, gated, on_each, pattern, results,
};

/// C-1, C-4: one leader, whose answer is a Miss; all others follow it and are Hits.
#[test]
fn fifty_viewers_of_a_cold_object_are_one_origin_request() {
    on_each(|launch| {
        let gate = Gate::default();
        let body = pattern(0, 300 * KIB);
        let content = body.clone();
        let origin = gated(&gate, move |reply| reply.answer(200, &[FRESH, ETAG], &content));
        let aspis = launch(&origin).start();
        let mut crowd = Crowd::asking(&aspis, 50, "/a");
        aspis.wait_for_places(50);
        gate.open();
        let responses = crowd.responses();
        expect_bodies(&responses, &body);
        assert_eq!(origin.count("/a"), 1);
        assert_eq!(results(&responses), [("Hit", 49), ("Miss", 1)].into());
        for response in &responses {
            let status = response.field("cache-status").unwrap_or_default();
            let collapsed = status.split(';').any(|part| part.trim() == "collapsed");
            assert_eq!(collapsed, response.x_cache() == "Hit", "RFC 9211 section 2.6: {response:?}");
        }
        // What they waited for is stored: nobody fetches it again, over any connection.
        assert_eq!(results(&crowd.get("/a")), [("Hit", 50)].into());
        assert_eq!(origin.count("/a"), 1);
    });
}

/// C-3: the key decides, not the time.
#[test]
fn other_keys_are_fetched_for_themselves() {
    on_each(|launch| {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |reply| {
            held.wait("the origin may answer");
            let target = reply.request.target().to_owned();
            reply.answer(200, &[FRESH], target.as_bytes());
        });
        let aspis = launch(&origin).start();
        let targets: Vec<String> = (0..8).map(|number| format!("/a?{number}")).collect();
        let mut crowds: Vec<Crowd> = targets.iter().map(|target| Crowd::asking(&aspis, 4, target)).collect();
        aspis.wait_for_requests(32);
        gate.open();
        for (crowd, target) in crowds.iter_mut().zip(&targets) {
            expect_bodies(&crowd.responses(), target.as_bytes());
            assert_eq!(origin.count(target), 1, "{target}");
        }
    });
}

/// followers have the first bytes while the origin still holds the last ones back, whatever the framing.
#[test]
fn followers_are_answered_while_the_origin_still_sends() {
    for chunked in [false, true] {
        on_each(|launch| {
            let (begin, finish) = (Gate::default(), Gate::default());
            let body = pattern(0, 200 * KIB);
            let origin = {
                let (begin, finish, body) = (begin.clone(), finish.clone(), body.clone());
                Origin::start(move |reply| {
                    begin.wait("the origin may answer");
                    let (first, last) = body.split_at(64 * KIB);
                    if chunked {
                        reply.head(200, &[FRESH, ("Transfer-Encoding", "chunked")]);
                        reply.chunk(first);
                        finish.wait("every follower has the first bytes");
                        reply.chunk(last);
                        reply.chunk(b"");
                    } else {
                        reply.head(200, &[FRESH, ("Content-Length", &body.len().to_string())]);
                        reply.send(first);
                        finish.wait("every follower has the first bytes");
                        reply.send(last);
                    }
                })
            };
            let aspis = launch(&origin).start();
            let mut early = Crowd::asking(&aspis, 10, "/a");
            aspis.wait_for_requests(10);
            begin.open();
            let check = |viewer: &mut Viewer| {
                let head = viewer.head();
                assert_eq!(head.status(), 200, "{head:?}");
                if head.is_chunked() {
                    // The first chunk of ours may have any length; one byte of it shows that it is on its way.
                    let some = viewer.connection.exactly(16).expect("the first chunk");
                    assert!(some.contains(&b'\n'), "{some:?}");
                } else {
                    assert!(viewer.connection.exactly(64 * KIB).expect("the first half") == body[..64 * KIB]);
                }
                head.is_chunked()
            };
            let mut chunks: Vec<bool> = early.each().map(check).collect();
            // Those that come later have them just as well.
            let mut late = Crowd::asking(&aspis, 10, "/a");
            chunks.extend(late.each().map(check));
            finish.open();
            for (viewer, chunked) in early.each().chain(late.each()).zip(chunks) {
                if !chunked {
                    let rest = viewer.connection.exactly(body.len() - 64 * KIB).expect("the rest");
                    assert!(rest == body[64 * KIB..], "another rest than expected");
                }
            }
            expect_bodies(&[Viewer::connect(&aspis).get("/a")], &body);
            assert_eq!(origin.count("/a"), 1);
        });
    }
}

/// a body whose length shows only at its end is whole for everybody, and so is the end itself.
#[test]
fn followers_of_a_chunked_answer_have_all_of_it() {
    on_each(|launch| {
        let gate = Gate::default();
        let body = pattern(0, 500 * KIB);
        let origin = {
            let (gate, body) = (gate.clone(), body.clone());
            Origin::start(move |reply| {
                gate.wait("the origin may answer");
                reply.head(200, &[FRESH, ("Transfer-Encoding", "chunked")]);
                for piece in body.chunks(33_333) {
                    reply.chunk(piece);
                }
                reply.chunk(b"");
            })
        };
        let aspis = launch(&origin).start();
        let mut crowd = Crowd::asking(&aspis, 20, "/a");
        aspis.wait_for_places(20);
        gate.open();
        let responses = crowd.responses();
        expect_bodies(&responses, &body);
        assert_eq!(results(&responses), [("Hit", 19), ("Miss", 1)].into());
        // The same connections go on: the framing ended where it should.
        expect_bodies(&crowd.get("/a"), &body);
        assert_eq!(origin.count("/a"), 1);
    });
}

/// Profile, collapsing: a follower takes the leader's response only if its Vary selects it; the others are one fetch for each variant.
#[test]
fn variants_asked_for_at_once_are_one_fetch_each() {
    on_each(|launch| {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |reply| {
            held.wait("the origin may answer");
            let chosen = reply.request.field("foo").unwrap_or("none").to_owned();
            reply.answer(200, &[FRESH, ("Vary", "Foo")], chosen.as_bytes());
        });
        let aspis = launch(&origin).start();
        let (mut ones, mut twos) = (Crowd::connect(&aspis, 10), Crowd::connect(&aspis, 10));
        ones.ask("GET", "/a", "Foo: 1\r\n");
        twos.ask("GET", "/a", "Foo: 2\r\n");
        aspis.wait_for_places(20);
        gate.open();
        let (ones, twos) = (ones.responses(), twos.responses());
        expect_bodies(&ones, b"1");
        expect_bodies(&twos, b"2");
        assert_eq!(origin.count("/a"), 2, "{:?}", origin.requests());
        assert_eq!(results(&ones), [("Hit", 9), ("Miss", 1)].into());
        assert_eq!(results(&twos), [("Hit", 9), ("Miss", 1)].into());
    });
}

/// C-2: one conditional request confirms for all; its leader is a RefreshHit, the others are Hits.
#[test]
fn one_validation_answers_all() {
    on_each(|launch| {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |reply| match reply.request.field("if-none-match") {
            Some("\"one\"") => {
                held.wait("the origin may answer");
                reply.answer(304, &[FRESH, ETAG], b"");
            }
            _ => reply.answer(200, &[("Cache-Control", "max-age=0"), ETAG], b"content"),
        });
        let aspis = launch(&origin).start();
        Viewer::connect(&aspis).get("/a").expect_cached("Miss", b"content");
        let mut crowd = Crowd::asking(&aspis, 20, "/a");
        aspis.wait_for_places(21);
        gate.open();
        let responses = crowd.responses();
        expect_bodies(&responses, b"content");
        assert_eq!(origin.count("/a"), 2, "{:?}", origin.requests());
        assert_eq!(results(&responses), [("Hit", 19), ("RefreshHit", 1)].into());
        assert_eq!(results(&crowd.get("/a")), [("Hit", 20)].into());
        assert_eq!(origin.count("/a"), 2);
    });
}

/// C-2: when the validation brings another content, everybody has that one, and nobody a mixture.
#[test]
fn a_validation_that_brings_new_content_brings_it_to_all() {
    on_each(|launch| {
        let gate = Gate::default();
        let (old, new) = (pattern(0, 100 * KIB), pattern(7, 120 * KIB));
        let origin = {
            let (gate, old, new) = (gate.clone(), old.clone(), new.clone());
            Origin::start(move |reply| {
                if reply.before == 0 {
                    return reply.answer(200, &[("Cache-Control", "max-age=0"), ETAG], &old);
                }
                gate.wait("the origin may answer");
                reply.answer(200, &[FRESH, ("ETag", "\"two\"")], &new);
            })
        };
        let aspis = launch(&origin).start();
        Viewer::connect(&aspis).get("/a").expect_cached("Miss", &old);
        let mut crowd = Crowd::asking(&aspis, 20, "/a");
        aspis.wait_for_places(21);
        gate.open();
        let responses = crowd.responses();
        expect_bodies(&responses, &new);
        for response in &responses {
            assert_eq!(response.field("etag"), Some("\"two\""), "{response:?}");
        }
        assert_eq!(origin.count("/a"), 2, "{:?}", origin.requests());
    });
}

/// Starts an origin that sends the first part of a body, waits, and sends the rest; the leader of its fetch; and waits for the first part.
fn half_sent(
    launch: &dyn Fn(&Origin) -> Launch,
    body: &[u8],
    half: usize,
    finish: &Gate,
) -> (Origin, Aspis, Viewer) {
    let origin = {
        let (finish, body) = (finish.clone(), body.to_owned());
        Origin::start(move |reply| {
            reply.head(200, &[FRESH, ETAG, ("Content-Length", &body.len().to_string())]);
            reply.send(&body[..half]);
            finish.wait("the rest may come");
            reply.send(&body[half..]);
        })
    };
    let aspis = launch(&origin).start();
    let mut leader = Viewer::connect(&aspis);
    leader.ask("GET", "/a", "");
    assert_eq!(leader.head().status(), 200);
    assert!(leader.connection.exactly(half).expect("the first part") == body[..half]);
    (origin, aspis, leader)
}

/// HEAD follows a running fetch (C-3: it never leads one for others).
#[test]
fn head_during_a_fill_is_answered_from_it() {
    on_each(|launch| {
        let finish = Gate::default();
        let body = pattern(0, 100 * KIB);
        let (origin, aspis, mut leader) = half_sent(launch, &body, 10 * KIB, &finish);
        let mut crowd = Crowd::connect(&aspis, 8);
        for viewer in crowd.each() {
            viewer.ask("HEAD", "/a", "");
            let head = viewer.response_to("HEAD");
            assert_eq!((head.status(), head.x_cache()), (200, "Hit"), "{head:?}");
            assert_eq!(head.content_length(), Some(100 * KIB as u64), "{head:?}");
        }
        assert_eq!(origin.count("/a"), 1);
        finish.open();
        assert!(leader.connection.exactly(90 * KIB).expect("the rest") == body[10 * KIB..]);
    });
}

/// C-10: a range that the running fetch covers is answered from it, also where it reaches beyond what has come.
#[test]
fn ranges_within_a_running_fill_are_answered_from_it() {
    on_each(|launch| {
        let finish = Gate::default();
        let body = pattern(0, 100 * KIB);
        let (origin, aspis, mut leader) = half_sent(launch, &body, 50 * KIB, &finish);
        let mut there = Crowd::connect(&aspis, 8);
        there.ask("GET", "/a", "Range: bytes=1000-1999\r\n");
        for response in there.responses() {
            assert_eq!(response.field("content-range"), Some("bytes 1000-1999/102400"), "{response:?}");
            response.expect(206, &body[1000..2000]);
        }
        let mut beyond = Crowd::connect(&aspis, 8);
        beyond.ask("GET", "/a", "Range: bytes=40000-79999\r\n");
        for viewer in beyond.each() {
            let head = viewer.head();
            assert_eq!(head.status(), 206, "{head:?}");
            let first = viewer.connection.exactly(10_000).expect("what has come already");
            assert!(first == body[40_000..50_000], "another beginning than expected");
        }
        finish.open();
        for viewer in beyond.each() {
            let rest = viewer.connection.exactly(30_000).expect("what comes later");
            assert!(rest == body[50_000..80_000], "another end than expected");
        }
        assert!(leader.connection.exactly(50 * KIB).expect("the rest") == body[50 * KIB..]);
        assert_eq!(origin.count("/a"), 1, "{:?}", origin.requests());
    });
}

/// C-10: the same range of a cold object is one fetch; another range is another.
#[test]
fn identical_ranges_of_a_cold_object_are_one_fetch() {
    on_each(|launch| {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |reply| {
            held.wait("the origin may answer");
            match reply.request.field("range") {
                Some("bytes=0-4") => {
                    reply.answer(206, &[FRESH, ETAG, ("Content-Range", "bytes 0-4/20")], b"01234")
                }
                Some("bytes=10-14") => {
                    reply.answer(206, &[FRESH, ETAG, ("Content-Range", "bytes 10-14/20")], b"abcde")
                }
                _ => reply.answer(200, &[FRESH, ETAG], b"0123456789abcdefghij"),
            }
        });
        let aspis = launch(&origin).start();
        let (mut first, mut second) = (Crowd::connect(&aspis, 10), Crowd::connect(&aspis, 10));
        first.ask("GET", "/a", "Range: bytes=0-4\r\n");
        second.ask("GET", "/a", "Range: bytes=10-14\r\n");
        aspis.wait_for_places(20);
        gate.open();
        for (crowd, range, part) in [(&mut first, "0-4", b"01234"), (&mut second, "10-14", b"abcde")] {
            for response in crowd.responses() {
                let expected = format!("bytes {range}/20");
                assert_eq!(response.field("content-range"), Some(expected.as_str()), "{response:?}");
                response.expect(206, part);
            }
        }
        assert_eq!(origin.count("/a"), 2, "{:?}", origin.requests());
    });
}

/// what grows too large to be stored goes on: whole for the fastest, and for the others as long as they keep up with it.
#[test]
fn bodies_that_are_too_large_to_store_go_on() {
    const LEN: usize = 6 << 20;
    for chunked in [false, true] {
        on_each(|launch| {
            let gate = Gate::default();
            let held = gate.clone();
            let origin = Origin::start(move |reply| {
                held.wait("the origin may answer");
                let length = LEN.to_string();
                let framing = if chunked {
                    ("Transfer-Encoding", "chunked")
                } else {
                    ("Content-Length", length.as_str())
                };
                reply.head(200, &[FRESH, framing]);
                let mut at = 0;
                while at < LEN && !reply.is_closing() {
                    let piece = pattern(at as u64, (256 * KIB).min(LEN - at));
                    at += piece.len();
                    if chunked { reply.chunk(&piece) } else { reply.send(&piece) }
                }
                if chunked {
                    reply.chunk(b"");
                }
            });
            let aspis = launch(&origin).with("--object-size-max", "1MiB").start();
            let mut crowd = Crowd::asking(&aspis, 6, "/a");
            aspis.wait_for_places(6);
            gate.open();
            let mut cut = 0;
            for each in crowd.try_responses() {
                match each {
                    Ok(response) => {
                        let mut check = PatternCheck::default();
                        check.take(&response.body);
                        check.expect(LEN as u64);
                    }
                    Err(Broken::Truncated(head, len)) if chunked && len > 0 => {
                        assert_eq!(head.status(), 200, "{head:?}");
                        cut += 1;
                    }
                    Err(broken) => panic!("{broken:?}"),
                }
            }
            assert!(cut < 6, "the fastest is never cut");
            assert_eq!(aspis.metric("aspis_passage_ended_total"), cut, "who is cut is counted");
            assert!(origin.count("/a") <= 6, "{:?}", origin.requests());
            assert_eq!(Viewer::connect(&aspis).get("/a").x_cache(), "Miss", "it is not stored");
        });
    }
}

/// Profile rule 16: what a fetch brings that began before an unsafe request succeeded is not used after it.
#[test]
fn an_unsafe_request_during_a_fill_outdates_it() {
    on_each(|launch| {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |reply| {
            if reply.request.method() == "POST" {
                return reply.answer(204, &[], b"");
            }
            if reply.before == 0 {
                held.wait("the first answer may come");
            }
            let version = reply.before.to_string();
            reply.answer(200, &[FRESH, ETAG], version.as_bytes());
        });
        let aspis = launch(&origin).start();
        let mut before = Crowd::asking(&aspis, 5, "/a");
        origin.wait_for("/a", 1);
        aspis.wait_for_places(5);
        let mut writer = Viewer::connect(&aspis);
        writer.ask("POST", "/a", "Content-Length: 0\r\n");
        assert_eq!(writer.response().status(), 204);
        let after = Crowd::asking(&aspis, 8, "/a").responses();
        gate.open();
        for response in &after {
            assert!(response.body != b"0", "what came before the change: {response:?}");
        }
        // Those that asked before the change may have either.
        before.responses();
        let version = after[0].body.clone();
        for response in Crowd::connect(&aspis, 8).get("/a") {
            assert_eq!(response.x_cache(), "Hit", "{response:?}");
            response.expect(200, &version);
        }
        let gets = origin.requests().iter().filter(|head| head.method() == "GET").count();
        assert_eq!(gets, 2, "{:?}", origin.requests());
    });
}

/// A crowd far beyond the connections that one core handles in a turn, over both.
#[test]
fn four_hundred_viewers_are_one_origin_request() {
    on_each(|launch| {
        let gate = Gate::default();
        let body = pattern(3, 64 * KIB);
        let content = body.clone();
        let origin = gated(&gate, move |reply| reply.answer(200, &[FRESH], &content));
        let aspis = launch(&origin).start();
        let mut crowd = Crowd::asking(&aspis, 400, "/a");
        aspis.wait_for_places(400);
        gate.open();
        let responses = crowd.responses();
        expect_bodies(&responses, &body);
        assert_eq!(results(&responses), [("Hit", 399), ("Miss", 1)].into());
        assert_eq!(origin.count("/a"), 1);
        eventually("no request runs", || (aspis.metric("aspis_requests_running") == 0).then_some(()));
    });
}
