//! Collapsing when something is not as it should be: answers that nobody may share, origins that fail, fills that break, viewers that leave.

use crate::support::{
    Broken, Crowd, ETAG, FRESH, Gate, KIB, Origin, Viewer, eventually, expect_bodies, on_each_before,
    pattern, results,
};
use std::net::TcpListener;

/// An origin that answers nothing before the gate opens, and numbers its answers.
fn unstorable(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(move |reply| {
        if reply.request.target() == "/a" && reply.before > 0 {
            gate.wait("the other requests arrive at the origin while this one is not answered");
        }
        reply.answer(200, &[("Cache-Control", "no-store")], reply.before.to_string().as_bytes());
    })
}

/// C-6, C-13: followers of an answer that cannot be shared go to the origin side by side, and while the mark holds nobody waits for anybody.
#[test]
fn an_answer_that_is_not_stored_is_fetched_side_by_side() {
    const VIEWERS: usize = 8;
    on_each_before(|launch| {
        let (first, second) = (Gate::default(), Gate::default());
        let origin = {
            let (first, second) = (first.clone(), second.clone());
            Origin::start(move |reply| {
                // All but the very first are held until a whole round of them has come.
                match reply.before {
                    0 => {}
                    1..VIEWERS => first.wait("the first round arrives in parallel"),
                    _ => second.wait("the second round arrives in parallel"),
                }
                reply.answer(200, &[("Cache-Control", "no-store")], reply.before.to_string().as_bytes());
            })
        };
        let aspis = launch(&origin.url()).start();
        for (round, gate) in [(1, &first), (2, &second)] {
            let mut crowd = Crowd::asking(&aspis, VIEWERS, "/a");
            origin.wait_for("/a", round * VIEWERS);
            gate.open();
            let mut bodies: Vec<Vec<u8>> = crowd.responses().into_iter().map(|each| each.body).collect();
            bodies.sort();
            bodies.dedup();
            assert_eq!(bodies.len(), VIEWERS, "each has an answer of its own");
        }
        assert_eq!(origin.count("/a"), 2 * VIEWERS);
    });
}

/// `--hit-for-miss 0`: nothing is remembered, so a leader is waited for each time.
#[test]
fn without_marks_each_round_has_a_leader() {
    on_each_before(|launch| {
        let gate = Gate::default();
        let origin = unstorable(&gate);
        let aspis = launch(&origin.url()).with("--hit-for-miss", "0").start();
        let mut viewer = Viewer::connect(&aspis);
        viewer.get("/a").expect_cached("Miss", b"0");
        let mut crowd = Crowd::asking(&aspis, 6, "/a");
        aspis.wait_for_requests(6);
        // Whatever else these six had to ask for, they would have asked before this one.
        for _ in 0..4 {
            Viewer::connect(&aspis).get("/other");
        }
        assert_eq!(origin.count("/a"), 2, "one leads");
        gate.open();
        crowd.responses();
        assert_eq!(origin.count("/a"), 7);
    });
}

/// C-8, C-9: an error of the origin that is not stored is told to everybody, and not asked for again by each.
#[test]
fn an_error_that_is_not_stored_is_one_request() {
    on_each_before(|launch| {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |reply| {
            held.wait("the origin may answer");
            reply.answer(503, &[("Cache-Control", "no-store")], b"down");
        });
        let aspis = launch(&origin.url()).start();
        let mut crowd = Crowd::asking(&aspis, 20, "/a");
        aspis.wait_for_places(20);
        gate.open();
        let responses = crowd.responses();
        let led = responses.iter().filter(|response| response.body == b"down").count();
        assert_eq!(led, 1, "the leader has the origin's own words");
        for response in &responses {
            assert_eq!(response.status(), 503, "{response:?}");
        }
        assert_eq!(origin.count("/a"), 1);
    });
}

/// C-7, C-8: an error with a lifetime is stored, so it is the answer of all.
#[test]
fn an_error_that_is_stored_is_shared() {
    on_each_before(|launch| {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |reply| {
            held.wait("the origin may answer");
            reply.answer(404, &[FRESH], b"gone");
        });
        let aspis = launch(&origin.url()).start();
        let mut crowd = Crowd::asking(&aspis, 20, "/a");
        aspis.wait_for_places(20);
        gate.open();
        for response in crowd.responses() {
            response.expect(404, b"gone");
        }
        assert_eq!(origin.count("/a"), 1);
    });
}

/// C-9: a leader that fails fails for all, with one series of attempts.
#[test]
fn an_origin_that_hangs_up_is_one_series_of_attempts() {
    on_each_before(|launch| {
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::start(move |reply| {
            held.wait("the origin may hang up");
            reply.close();
        });
        let aspis = launch(&origin.url()).with("--connection-attempts", "2").start();
        let mut crowd = Crowd::asking(&aspis, 20, "/a");
        aspis.wait_for_places(20);
        gate.open();
        for response in crowd.responses() {
            assert_eq!(response.status(), 502, "{response:?}");
        }
        assert!((1..=2).contains(&origin.count("/a")), "{} attempts", origin.count("/a"));
    });
}

/// Nobody listens: everybody is told, and soon.
#[test]
fn an_origin_that_is_not_there_is_an_error_for_all() {
    on_each_before(|launch| {
        let free = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let url = format!("http://{}", free.local_addr().expect("a bound listener has an address"));
        drop(free);
        let aspis = launch(&url).start();
        for response in Crowd::asking(&aspis, 20, "/a").responses() {
            assert_eq!(response.status(), 502, "{response:?}");
        }
    });
}

/// C-11: who follows waits no longer than the leader's attempts.
#[test]
fn a_silent_origin_is_a_timeout_for_all() {
    on_each_before(|launch| {
        let over = Gate::default();
        let held = over.clone();
        let origin = Origin::start(move |reply| {
            held.wait("every viewer has been told");
            reply.close();
        });
        let flags = [("--read-timeout", "2s"), ("--connection-attempts", "1")];
        let launch =
            flags.iter().fold(launch(&origin.url()), |launch, (flag, value)| launch.with(flag, value));
        let aspis = launch.start();
        for response in Crowd::asking(&aspis, 20, "/a").responses() {
            assert_eq!(response.status(), 504, "{response:?}");
        }
        over.open();
        assert!(origin.count("/a") <= 2, "{} requests", origin.count("/a"));
    });
}

/// Profile rule 15, C-9: when the validation fails, everybody has the stale response.
#[test]
fn a_failed_validation_gives_all_the_stale_response() {
    for refuses in [false, true] {
        on_each_before(|launch| {
            let gate = Gate::default();
            let held = gate.clone();
            let origin = Origin::start(move |reply| {
                if reply.before == 0 {
                    return reply.answer(200, &[("Cache-Control", "max-age=0"), ETAG], b"old");
                }
                held.wait("the origin may fail");
                if refuses { reply.answer(503, &[], b"broken") } else { reply.close() }
            });
            let aspis = launch(&origin.url()).with("--connection-attempts", "1").start();
            Viewer::connect(&aspis).get("/a").expect_cached("Miss", b"old");
            let mut crowd = Crowd::asking(&aspis, 20, "/a");
            aspis.wait_for_places(21);
            gate.open();
            expect_bodies(&crowd.responses(), b"old");
            // A connection that was kept may be tried in vain once more.
            assert!((2..=3).contains(&origin.count("/a")), "{} requests", origin.count("/a"));
        });
    }
}

/// An origin that sends a part of a body, waits, and sends the rest.
fn halved(body: &[u8], half: usize, finish: &Gate) -> Origin {
    let (finish, body) = (finish.clone(), body.to_owned());
    Origin::start(move |reply| {
        reply.head(200, &[FRESH, ETAG, ("Content-Length", &body.len().to_string())]);
        reply.send(&body[..half]);
        finish.wait("the rest may come");
        reply.send(&body[half..]);
    })
}

/// C-9: the leader's viewer leaves before the head; the fetch goes on for those that wait.
#[test]
fn a_leader_that_leaves_takes_nobody_along() {
    on_each_before(|launch| {
        let gate = Gate::default();
        let body = pattern(0, 100 * KIB);
        let origin = {
            let (gate, body) = (gate.clone(), body.clone());
            Origin::start(move |reply| {
                gate.wait("the origin may answer");
                reply.answer(200, &[FRESH], &body);
            })
        };
        let aspis = launch(&origin.url()).start();
        let mut leader = Viewer::connect(&aspis);
        leader.ask("GET", "/a", "");
        origin.wait_for("/a", 1);
        let mut crowd = Crowd::asking(&aspis, 10, "/a");
        let leaving = Crowd::asking(&aspis, 3, "/a");
        aspis.wait_for_requests(14);
        leader.reset();
        leaving.reset();
        aspis.wait_for_requests(10);
        gate.open();
        expect_bodies(&crowd.responses(), &body);
        assert_eq!(origin.count("/a"), 1);
    });
}

/// C-9, R-32: the same within the body.
#[test]
fn a_leader_that_leaves_within_the_body_takes_nobody_along() {
    on_each_before(|launch| {
        let finish = Gate::default();
        let body = pattern(0, 3 << 20);
        let origin = halved(&body, 100 * KIB, &finish);
        let aspis = launch(&origin.url()).start();
        let mut leader = Viewer::connect(&aspis);
        leader.ask("GET", "/a", "");
        leader.connection.exactly(50 * KIB).expect("the beginning");
        let mut crowd = Crowd::asking(&aspis, 10, "/a");
        aspis.wait_for_requests(11);
        leader.reset();
        aspis.wait_for_requests(10);
        finish.open();
        expect_bodies(&crowd.responses(), &body);
        assert_eq!(origin.count("/a"), 1);
    });
}

/// R-30 as the profile has it: a small fill that nobody waits for any more is finished and kept.
#[test]
fn a_small_fill_that_all_viewers_left_is_stored() {
    on_each_before(|launch| {
        let finish = Gate::default();
        let body = pattern(0, 100 * KIB);
        let origin = halved(&body, 40 * KIB, &finish);
        let aspis = launch(&origin.url()).start();
        let mut crowd = Crowd::asking(&aspis, 5, "/a");
        for viewer in crowd.each() {
            viewer.connection.exactly(20 * KIB).expect("the beginning");
        }
        crowd.reset();
        aspis.wait_for_requests(0);
        finish.open();
        aspis.wait_for_metric("aspis_cache_responses", 1);
        Viewer::connect(&aspis).get("/a").expect_cached("Hit", &body);
        assert_eq!(origin.count("/a"), 1);
    });
}

/// a follower that does not read holds up neither the fill nor anybody else.
#[test]
fn a_follower_that_does_not_read_slows_nobody() {
    on_each_before(|launch| {
        let gate = Gate::default();
        let body = pattern(0, 12 << 20);
        let origin = {
            let (gate, body) = (gate.clone(), body.clone());
            Origin::start(move |reply| {
                gate.wait("the origin may answer");
                reply.answer(200, &[FRESH], &body);
            })
        };
        let aspis = launch(&origin.url()).start();
        let mut slow = Crowd::asking(&aspis, 4, "/a");
        let mut crowd = Crowd::asking(&aspis, 4, "/a");
        aspis.wait_for_requests(8);
        gate.open();
        expect_bodies(&crowd.responses(), &body);
        aspis.wait_for_metric("aspis_cache_responses", 1);
        expect_bodies(&slow.responses(), &body);
        assert_eq!(origin.count("/a"), 1);
    });
}

/// Who waits when the server is told to end is still answered.
#[test]
fn viewers_that_wait_are_answered_during_a_drain() {
    on_each_before(|launch| {
        let gate = Gate::default();
        let body = pattern(0, 100 * KIB);
        let origin = {
            let (gate, body) = (gate.clone(), body.clone());
            Origin::start(move |reply| {
                gate.wait("the origin may answer");
                reply.answer(200, &[FRESH], &body);
            })
        };
        let mut aspis = launch(&origin.url()).start();
        let mut crowd = Crowd::asking(&aspis, 20, "/a");
        aspis.wait_for_requests(20);
        aspis.signal("TERM");
        eventually("the server drains", || (aspis.ask_admin("/readyz").status() == 503).then_some(()));
        gate.open();
        expect_bodies(&crowd.responses(), &body);
        assert_eq!(aspis.wait_for_exit().code(), Some(0));
        assert_eq!(origin.count("/a"), 1);
    });
}

/// a fill that breaks is resumed where it broke, on the same strong validator; viewers see nothing of it.
#[test]
fn a_broken_fill_is_resumed() {
    on_each_before(|launch| {
        let gate = Gate::default();
        let body = pattern(0, 400 * KIB);
        let origin = {
            let (gate, body) = (gate.clone(), body.clone());
            Origin::start(move |reply| {
                let Some(range) = reply.request.field("range") else {
                    gate.wait("the origin may answer");
                    reply.head(200, &[FRESH, ETAG, ("Content-Length", &body.len().to_string())]);
                    reply.send(&body[..150 * KIB]);
                    return reply.close();
                };
                assert_eq!(reply.request.field("if-range"), Some("\"one\""), "{:?}", reply.request);
                let start = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-'));
                let start: usize = start.and_then(|start| start.parse().ok()).expect("an open range");
                let stated = format!("bytes {start}-{}/{}", body.len() - 1, body.len());
                reply.answer(206, &[FRESH, ETAG, ("Content-Range", &stated)], &body[start..]);
            })
        };
        let aspis = launch(&origin.url()).start();
        let mut crowd = Crowd::asking(&aspis, 10, "/a");
        aspis.wait_for_places(10);
        gate.open();
        let responses = crowd.responses();
        expect_bodies(&responses, &body);
        assert_eq!(results(&responses), [("Hit", 9), ("Miss", 1)].into());
        assert_eq!(origin.count("/a"), 2, "{:?}", origin.requests());
        Viewer::connect(&aspis).get("/a").expect_cached("Hit", &body);
        assert_eq!(origin.count("/a"), 2);
    });
}

/// what comes instead of the rest is not put behind the beginning.
#[test]
fn a_broken_fill_is_not_resumed_with_another_version() {
    on_each_before(|launch| {
        let body = pattern(0, 400 * KIB);
        let gate = Gate::default();
        let origin = {
            let (gate, body) = (gate.clone(), body.clone());
            Origin::start(move |reply| {
                gate.wait("the origin may answer");
                if reply.request.field("range").is_some() {
                    return reply.answer(200, &[FRESH, ("ETag", "\"two\"")], &pattern(9, 400 * KIB));
                }
                reply.head(200, &[FRESH, ETAG, ("Content-Length", &body.len().to_string())]);
                reply.send(&body[..150 * KIB]);
                reply.close();
            })
        };
        let aspis = launch(&origin.url()).start();
        expect_cut(&mut Crowd::asking(&aspis, 10, "/a"), || aspis.wait_for_places(10), &gate);
    });
}

/// without a validator nothing can be resumed, and everybody sees that the body broke off.
#[test]
fn a_broken_fill_without_a_validator_is_cut_for_all() {
    for chunked in [false, true] {
        on_each_before(|launch| {
            let gate = Gate::default();
            let held = gate.clone();
            let origin = Origin::start(move |reply| {
                held.wait("the origin may answer");
                let framing =
                    if chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", "409600") };
                reply.head(200, &[FRESH, framing]);
                let part = pattern(0, 150 * KIB);
                if chunked {
                    reply.chunk(&part)
                } else {
                    reply.send(&part)
                }
                reply.close();
            });
            let aspis = launch(&origin.url()).start();
            expect_cut(&mut Crowd::asking(&aspis, 10, "/a"), || aspis.wait_for_places(10), &gate);
            aspis.wait_for_requests(0);
            assert_eq!(aspis.metric("aspis_cache_responses"), 0, "nothing broken is stored");
        });
    }
}

/// Everybody has the head of a 200 and then a visible end before the end; or, who had not got the head yet, an error.
#[track_caller]
fn expect_cut(crowd: &mut Crowd, arrived: impl Fn(), gate: &Gate) {
    arrived();
    gate.open();
    let outcomes = crowd.try_responses();
    let mut cut = 0;
    for outcome in &outcomes {
        match outcome {
            Err(Broken::Truncated(head, _)) if head.status() == 200 => cut += 1,
            Ok(response) if matches!(response.status(), 502 | 504) => {}
            other => panic!("neither cut nor an error: {other:?}"),
        }
    }
    assert!(cut > 0, "not even the leader had the beginning: {outcomes:?}");
}
