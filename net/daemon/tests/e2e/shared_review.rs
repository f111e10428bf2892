//! Faults that a review of shared fetches found: each test failed before its fix.

use crate::support::{
    Crowd, ETAG, FRESH, Gate, KIB, Launch, Origin, Viewer, eventually, on_each, pattern, pause,
};
use std::time::{Duration, Instant};

fn wait(duration: Duration) {
    let until = Instant::now() + duration;
    while Instant::now() < until {
        pause();
    }
}

/// An origin whose first answer stops half-way until the gate opens; the later ones come at once.
fn first_is_slow(finish: &Gate, fields: &'static [(&'static str, &'static str)]) -> Origin {
    let finish = finish.clone();
    Origin::start(move |reply| {
        if reply.before > 0 {
            return reply.answer(200, fields, b"later");
        }
        let mut all = fields.to_vec();
        all.push(("Content-Length", "10"));
        reply.head(200, &all);
        reply.send(b"first");
        finish.wait("the first answer may end");
        reply.send(b"first");
    })
}

/// RFC 9111 §4.2.4: what became stale while it still comes answers those who waited for it, not who comes now.
#[test]
fn a_fill_that_became_stale_is_not_joined() {
    for (fields, age) in [
        (&[("Cache-Control", "max-age=1, must-revalidate"), ETAG], 2500),
        (&[("Cache-Control", "max-age=0, must-revalidate"), ETAG], 0),
    ] {
        on_each(|launch| {
            let finish = Gate::default();
            let origin = first_is_slow(&finish, fields);
            let aspis = launch(&origin).start();
            let mut leader = Viewer::connect(&aspis);
            leader.ask("GET", "/a", "");
            leader.head();
            wait(Duration::from_millis(age));
            Viewer::connect(&aspis).get("/a").expect(200, b"later");
            assert_eq!(origin.count("/a"), 2);
            finish.open();
            assert_eq!(leader.connection.exactly(10).expect("the first body"), b"firstfirst");
        });
    }
}

/// RFC 9111 §5.2.1.4: `no-cache` of a request wants an answer that is not older than itself.
#[test]
fn no_cache_does_not_join_what_came_before_it() {
    on_each(|launch| {
        let finish = Gate::default();
        let origin = first_is_slow(&finish, &[FRESH, ETAG]);
        let aspis = launch(&origin).with("--request-directives", "on").start();
        let mut leader = Viewer::connect(&aspis);
        leader.ask("GET", "/a", "");
        leader.head();
        wait(Duration::from_millis(1100));
        let asked = |fields| Viewer::connect(&aspis).get_with("/a", fields);
        asked("Cache-Control: no-cache\r\n").expect(200, b"later");
        asked("Cache-Control: max-age=0\r\n").expect(200, b"later");
        finish.open();
    });
}

/// RFC 9111 §5.2.1.7: which core the viewer is on is nothing that `only-if-cached` should show.
#[test]
fn only_if_cached_finds_what_another_core_owns() {
    let origin = Origin::fixed(&[FRESH], b"stored");
    let aspis = Launch::before(&origin.url()).with("--cores", "2").with("--request-directives", "on").start();
    Viewer::connect(&aspis).get("/a").expect_cached("Miss", b"stored");
    let mut crowd = Crowd::connect(&aspis, 32);
    for viewer in crowd.each() {
        viewer.get_with("/a", "Cache-Control: only-if-cached\r\n").expect_cached("Hit", b"stored");
        assert_eq!(viewer.get_with("/b", "Cache-Control: only-if-cached\r\n").status(), 504);
    }
    assert_eq!(origin.total(), 1);
}

/// RFC 9211 §2.1, §2.2: what the owner of the key has stored is a hit, and nothing was forwarded, on whatever core the viewer is.
#[test]
fn a_hit_at_the_owner_was_not_forwarded() {
    let origin = Origin::fixed(&[FRESH], b"stored");
    let aspis = Launch::before(&origin.url()).with("--cores", "2").start();
    Viewer::connect(&aspis).get("/a").expect_cached("Miss", b"stored");
    let mut crowd = Crowd::connect(&aspis, 32);
    for viewer in crowd.each() {
        let hit = viewer.get("/a").expect_cached("Hit", b"stored");
        let status = hit.field("cache-status").unwrap_or_default();
        assert!(status.starts_with("aspis; hit; ttl="), "{hit:?}");
    }
    aspis.wait_for_requests(0);
    assert_eq!(aspis.metric("aspis_forwarded_total"), 1);
}

/// C-13: a range that the origin refuses, or sends as several, does not keep those apart who want the whole.
#[test]
fn a_range_that_is_not_stored_leaves_no_mark() {
    on_each(|launch| {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |reply| {
            if reply.request.field("range").is_some() {
                return reply.answer(416, &[("Content-Range", "bytes */7")], b"");
            }
            held.wait("all viewers ask");
            reply.answer(200, &[FRESH], b"content");
        });
        let aspis = launch(&origin).start();
        Viewer::connect(&aspis).get_with("/a", "Range: bytes=100-\r\n").expect(416, b"");
        let mut crowd = Crowd::asking(&aspis, 8, "/a");
        aspis.wait_for_places(9);
        gate.open();
        for response in crowd.responses() {
            response.expect(200, b"content");
        }
        assert_eq!(origin.count("/a"), 2);
    });
}

/// Rule 14: where the rest of a stored part may not be stored, the viewer gets the whole all the same.
#[test]
fn a_rest_that_may_not_be_stored_completes_nothing_and_breaks_nothing() {
    on_each(|launch| {
        let origin = Origin::start(|reply| match reply.request.field("range") {
            Some("bytes=0-4") => {
                reply.answer(206, &[FRESH, ETAG, ("Content-Range", "bytes 0-4/10")], b"01234");
            }
            Some(_) => {
                let fields = [("Cache-Control", "no-store"), ETAG, ("Content-Range", "bytes 5-9/10")];
                reply.answer(206, &fields, b"56789");
            }
            None => reply.answer(200, &[("Cache-Control", "no-store"), ETAG], b"0123456789"),
        });
        let aspis = launch(&origin).start();
        let mut viewer = Viewer::connect(&aspis);
        viewer.get_with("/a", "Range: bytes=0-4\r\n").expect(206, b"01234");
        eventually("the part is stored", || {
            (viewer.get_with("/a", "Range: bytes=0-4\r\n").x_cache() == "Hit").then_some(())
        });
        viewer.get("/a").expect(200, b"0123456789");
    });
}

/// RFC 9110 §13.2.2: If-None-Match goes before Range, and the shared fetch went out without it.
#[test]
fn a_leader_of_a_range_who_has_it_already_gets_a_304() {
    on_each(|launch| {
        let origin = Origin::start(|reply| {
            reply.answer(206, &[FRESH, ETAG, ("Content-Range", "bytes 0-4/10")], b"01234");
        });
        let aspis = launch(&origin).start();
        let mut viewer = Viewer::connect(&aspis);
        viewer.get_with("/a", "Range: bytes=0-4\r\nIf-None-Match: \"one\"\r\n").expect(304, b"");
        viewer.get_with("/a", "Range: bytes=0-4\r\n").expect(206, b"01234");
    });
}

/// A viewer that leaves takes the origin's connection along at once where nothing is stored, however seldom the origin speaks.
#[test]
fn a_stream_that_nobody_reads_is_closed_at_once() {
    on_each(|launch| {
        let closed = Gate::default();
        let told = closed.clone();
        let origin = Origin::start(move |reply| {
            reply.head(200, &[("Cache-Control", "no-store"), ("Transfer-Encoding", "chunked")]);
            reply.chunk(b"event");
            // Reads until the other side closes.
            let _ = reply.connection.read_to_end();
            told.open();
            reply.close();
        });
        let aspis = launch(&origin).start();
        let mut viewer = Viewer::connect(&aspis);
        viewer.ask("GET", "/a", "");
        viewer.head();
        // Not all of it, so that the reset may meet a send.
        viewer.connection.exactly(10).expect("the beginning of the event");
        viewer.reset();
        eventually("the origin's connection is closed", || closed.is_open().then_some(()));
    });
}

/// C-10: a part far from what a running fetch has brought is one fetch for all who want it.
#[test]
fn identical_ranges_far_from_a_running_fill_are_one_fetch() {
    const LEN: usize = 24 << 20;
    on_each(|launch| {
        let (finish, part) = (Gate::default(), Gate::default());
        let origin = {
            let (finish, part) = (finish.clone(), part.clone());
            Origin::start(move |reply| {
                if reply.request.field("range").is_some() {
                    part.wait("all viewers ask");
                    let range = format!("bytes 20000000-20000009/{LEN}");
                    return reply.answer(206, &[FRESH, ETAG, ("Content-Range", &range)], b"0123456789");
                }
                reply.head(200, &[FRESH, ETAG, ("Content-Length", &LEN.to_string())]);
                reply.send(&pattern(0, 64 * KIB));
                finish.wait("the ranges are answered");
                reply.close();
            })
        };
        let aspis = launch(&origin).start();
        let mut leader = Viewer::connect(&aspis);
        leader.ask("GET", "/a", "");
        leader.head();
        let mut crowd = Crowd::connect(&aspis, 8);
        crowd.ask("GET", "/a", "Range: bytes=20000000-20000009\r\n");
        origin.wait_for("/a", 2);
        aspis.wait_for_places(17);
        part.open();
        for response in crowd.responses() {
            response.expect(206, b"0123456789");
        }
        assert_eq!(origin.count("/a"), 2, "{:?}", origin.requests());
        finish.open();
    });
}

/// RFC 9211 §2.5: what is larger than this core's part of the memory is not called stored.
#[test]
fn what_is_too_large_is_not_called_stored() {
    on_each(|launch| {
        let origin = Origin::start(|reply| reply.answer(200, &[FRESH], &pattern(0, 15 << 20)));
        let aspis = launch(&origin).with("--memory", "16MiB").start();
        let response = Viewer::connect(&aspis).get("/a").expect(200, &pattern(0, 15 << 20));
        let status = response.field("cache-status").unwrap_or_default();
        assert!(!status.contains("stored"), "{response:?}");
    });
}

/// The counter of what went to the origin counts requests to the origin, also where the origin fails.
#[test]
fn who_waited_for_a_failure_was_not_forwarded() {
    on_each(|launch| {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |reply| {
            held.wait("the origin may hang up");
            reply.close();
        });
        let aspis = launch(&origin).with("--connection-attempts", "1").start();
        let mut crowd = Crowd::asking(&aspis, 20, "/a");
        aspis.wait_for_places(20);
        gate.open();
        let mut collapsed = 0;
        for response in crowd.responses() {
            assert_eq!(response.status(), 502, "{response:?}");
            collapsed +=
                usize::from(response.field("cache-status").unwrap_or_default().contains("collapsed"));
        }
        aspis.wait_for_requests(0);
        assert_eq!((aspis.metric("aspis_forwarded_total"), collapsed), (1, 19));
    });
}

/// C-11: viewers that went away do not take the places of those who wait until the fetch is over.
#[test]
fn who_went_away_gives_its_place_to_others() {
    const LEAVING: usize = 1500;
    on_each(|launch| {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |reply| {
            held.wait("the viewers have left");
            reply.answer(200, &[FRESH], b"content");
        });
        let aspis = launch(&origin).start();
        let mut leader = Viewer::connect(&aspis);
        leader.ask("GET", "/a", "");
        origin.wait_for("/a", 1);
        for _ in 0..LEAVING / 100 {
            let crowd = Crowd::asking(&aspis, 100, "/a");
            aspis.wait_for_requests(101);
            crowd.reset();
            aspis.wait_for_requests(1);
        }
        eventually("places are given back", || {
            let waiting = aspis.metric("aspis_requests_waiting");
            (waiting > 0 && waiting < LEAVING as u64 / 2).then_some(())
        });
        let mut crowd = Crowd::asking(&aspis, 10, "/a");
        aspis.wait_for_requests(11);
        gate.open();
        leader.response().expect(200, b"content");
        for response in crowd.responses() {
            response.expect_cached("Hit", b"content");
        }
        assert_eq!(origin.count("/a"), 1);
    });
}

/// A cache that is full of heads still passes on what it does not store, and still stores what is new.
#[test]
fn a_cache_full_of_small_responses_goes_on() {
    let large = pattern(0, 900 * KIB);
    let origin = {
        let large = large.clone();
        Origin::start(move |reply| match reply.request.target() {
            "/passed" => reply.answer(200, &[("Cache-Control", "no-store")], &large),
            "/stored" => reply.answer(200, &[FRESH], &large),
            _ => reply.answer(200, &[FRESH, ("X-Long", LONG)], b"x"),
        })
    };
    let aspis = Launch::before(&origin.url()).with("--memory", "16MiB").start();
    let mut viewer = Viewer::connect(&aspis);
    for batch in 0..40 {
        for number in 0..100 {
            viewer.ask("GET", &format!("/{batch}/{number}"), "");
        }
        for _ in 0..100 {
            viewer.response().expect(200, b"x");
        }
    }
    assert!(aspis.metric("aspis_cache_responses") < 4000, "the memory is full");
    Viewer::connect(&aspis).get("/passed").expect(200, &large);
    Viewer::connect(&aspis).get("/stored").expect(200, &large);
    assert_eq!(aspis.metric("aspis_passage_ended_total"), 0);
    viewer.get("/new").expect_cached("Miss", b"x");
    viewer.get("/new").expect_cached("Hit", b"x");
}

const LONG: &str = {
    const BYTES: [u8; 6000] = [b'l'; 6000];
    match str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => unreachable!(),
    }
};
