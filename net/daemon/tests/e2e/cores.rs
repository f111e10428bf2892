//! Two cores as one cache: what one has fetched the other serves, what is invalidated is gone from both, and what one asks of the other.
//!
//! A core that is ahead of the other hands over what it accepts, so two connections are enough to reach both.

use crate::support::{
    Aspis, Crowd, FRESH, KIB, Launch, Origin, PatternCheck, Viewer, expect_bodies, pattern, results,
};

/// Connections that reach both cores.
const BOTH: usize = 32;

fn two_cores(origin: &Origin) -> Aspis {
    Launch::before(&origin.url()).with("--cores", "2").start()
}

/// What one connection fetched is a hit over every other, on whatever core it is.
#[test]
fn an_object_is_fetched_once_for_both_cores() {
    let origin = Origin::start(|reply| {
        let target = reply.request.target().to_owned();
        reply.answer(200, &[FRESH], target.as_bytes());
    });
    let aspis = two_cores(&origin);
    // Several keys: some belong to the one core, some to the other.
    for number in 0..16 {
        let target = format!("/{number}");
        Viewer::connect(&aspis).get(&target).expect_cached("Miss", target.as_bytes());
        let mut crowd = Crowd::connect(&aspis, BOTH);
        for viewer in crowd.each() {
            viewer.get(&target).expect_cached("Hit", target.as_bytes());
        }
        assert_eq!(origin.count(&target), 1);
    }
}

/// Once both cores have served it, a hit asks nothing of the other core.
#[test]
fn hits_of_a_known_object_exchange_no_messages() {
    let body = pattern(0, 20 * KIB);
    let content = body.clone();
    let origin = Origin::start(move |reply| reply.answer(200, &[FRESH], &content));
    let aspis = two_cores(&origin);
    let mut crowd = Crowd::connect(&aspis, BOTH);
    for _ in 0..2 {
        expect_bodies(&crowd.get("/a"), &body);
    }
    let before = aspis.metric("aspis_core_mails_total");
    for _ in 0..20 {
        let responses = crowd.get("/a");
        expect_bodies(&responses, &body);
        assert_eq!(results(&responses), [("Hit", BOTH)].into());
    }
    assert_eq!(aspis.metric("aspis_core_mails_total"), before, "messages during {} hits", 20 * BOTH);
    assert_eq!(origin.count("/a"), 1);
}

/// Profile rule 16: when the answer to the unsafe request is there, no core serves what was stored before it.
#[test]
fn an_invalidation_reaches_every_core() {
    let origin = Origin::start(|reply| match reply.request.method() {
        "POST" => reply.answer(204, &[], b""),
        _ => {
            let version = reply.before.to_string();
            reply.answer(200, &[FRESH], version.as_bytes());
        }
    });
    let aspis = two_cores(&origin);
    let mut readers = Crowd::connect(&aspis, BOTH);
    let mut writers = Crowd::connect(&aspis, 8);
    readers.get("/a");
    let mut last = readers.get("/a")[0].body.clone();
    for writer in writers.each() {
        writer.ask("POST", "/a", "Content-Length: 0\r\n");
        assert_eq!(writer.response().status(), 204);
        let before = origin.count("/a");
        let responses = readers.get("/a");
        let now = responses[0].body.clone();
        assert_ne!(now, last, "what was stored before the change");
        expect_bodies(&responses, &now);
        assert_eq!(origin.count("/a"), before + 1, "one fetch for all readers");
        last = now;
    }
}

/// The same for variants, which live where their URL lives.
#[test]
fn an_invalidation_reaches_every_variant_on_every_core() {
    let origin = Origin::start(|reply| match reply.request.method() {
        "POST" => reply.answer(204, &[], b""),
        _ => {
            let body = format!("{} {}", reply.request.field("foo").unwrap_or("none"), reply.before);
            reply.answer(200, &[FRESH, ("Vary", "Foo")], body.as_bytes());
        }
    });
    let aspis = two_cores(&origin);
    let mut readers = Crowd::connect(&aspis, BOTH);
    let mut round = || {
        let mut bodies = Vec::new();
        for fields in ["Foo: 1\r\n", "Foo: 2\r\n"] {
            readers.ask("GET", "/a", fields);
            let responses = readers.responses();
            expect_bodies(&responses, &responses[0].body);
            bodies.push(String::from_utf8_lossy(&responses[0].body).into_owned());
        }
        assert!(bodies[0].starts_with("1 ") && bodies[1].starts_with("2 "), "{bodies:?}");
        bodies
    };
    let old = round();
    assert_eq!(round(), old, "hits");
    let mut writer = Viewer::connect(&aspis);
    writer.ask("POST", "/a", "Content-Length: 0\r\n");
    assert_eq!(writer.response().status(), 204);
    let new = round();
    assert!(old.iter().zip(&new).all(|(old, new)| old != new), "{old:?} and then {new:?}");
    assert_eq!(round(), new, "hits");
}

/// What is freshened on the one core is fresh on the other.
#[test]
fn a_freshened_response_is_fresh_on_both_cores() {
    let origin = Origin::start(|reply| match reply.request.field("if-none-match") {
        Some(_) => reply.answer(304, &[FRESH, ("ETag", "\"one\""), ("B", "2")], b""),
        None => reply.answer(200, &[("Cache-Control", "max-age=0"), ("ETag", "\"one\""), ("B", "1")], b"x"),
    });
    let aspis = two_cores(&origin);
    Viewer::connect(&aspis).get("/a").expect_cached("Miss", b"x");
    let mut crowd = Crowd::connect(&aspis, BOTH);
    let first = crowd.each().next().expect("a crowd").get("/a");
    first.expect_cached("RefreshHit", b"x");
    for viewer in crowd.each() {
        let hit = viewer.get("/a").expect_cached("Hit", b"x");
        assert_eq!(hit.all("b"), ["2"], "the head of the confirmation: {hit:?}");
    }
    assert_eq!(origin.count("/a"), 2);
}

/// C-6 between cores: what is not stored streams through, whichever core the viewer is on, in bounded memory.
#[test]
fn large_answers_that_are_not_stored_stream_through() {
    const LEN: usize = 24 << 20;
    let origin = Origin::start(|reply| {
        reply.head(200, &[("Cache-Control", "no-store"), ("Content-Length", &LEN.to_string())]);
        let mut at = 0;
        while at < LEN && !reply.is_closing() {
            let piece = pattern(at as u64, 512 * KIB);
            at += piece.len();
            reply.send(&piece);
        }
    });
    let aspis = two_cores(&origin);
    let before = aspis.memory("RssAnon");
    for number in 0..12 {
        // Marks go by key, so each is the first of its kind.
        let target = format!("/{number}");
        let mut viewer = Viewer::connect(&aspis);
        viewer.ask("GET", &target, "");
        let head = viewer.head();
        assert_eq!(head.status(), 200, "{head:?}");
        let mut check = PatternCheck::default();
        viewer.body_into("GET", &head, &mut |piece| check.take(piece)).expect("the whole body");
        check.expect(LEN as u64);
        assert_eq!(origin.count(&target), 1);
    }
    let grown = aspis.memory("RssAnon").saturating_sub(before);
    assert!(grown < 16 << 20, "memory grew by {grown} bytes over 12 bodies of {LEN}");
}

/// Ranges and conditions are answered by either core from what the other has stored.
#[test]
fn ranges_and_conditions_are_answered_on_both_cores() {
    let body = pattern(0, 50 * KIB);
    let content = body.clone();
    let origin = Origin::start(move |reply| reply.answer(200, &[FRESH, ("ETag", "\"one\"")], &content));
    let aspis = two_cores(&origin);
    Viewer::connect(&aspis).get("/a").expect_cached("Miss", &body);
    let mut crowd = Crowd::connect(&aspis, BOTH);
    for viewer in crowd.each() {
        let part = viewer.get_with("/a", "Range: bytes=100-199\r\n").expect(206, &body[100..200]);
        assert_eq!(part.x_cache(), "Hit", "{part:?}");
        viewer.get_with("/a", "If-None-Match: \"one\"\r\n").expect(304, b"");
        viewer.ask("HEAD", "/a", "");
        let head = viewer.response_to("HEAD");
        assert_eq!((head.x_cache(), head.content_length()), ("Hit", Some(50 * KIB as u64)), "{head:?}");
    }
    assert_eq!(origin.count("/a"), 1);
}
