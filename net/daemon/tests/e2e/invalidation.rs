//! Invalidation through the doors that operators use: the admin API and PURGE, on two cores, while viewers ask.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use crate::support::{Crowd, Launch, Origin, Reply, Viewer, eventually, expect_bodies, pause, results};

const FRESH: (&str, &str) = ("Cache-Control", "max-age=600");

/// Connections that reach both cores.
const BOTH: usize = 8;

fn two_cores(origin: &Origin) -> Launch {
    Launch::before(&origin.url()).with("--cores", "2")
}

/// Answers with the version of its target, which rises with each request.
fn versions(reply: &mut Reply<'_>) {
    let body = format!("v{}", reply.before + 1);
    reply.answer(200, &[FRESH, ("xkey", "all")], body.as_bytes());
}

/// I-22, the test of the specification: v1 on its way since before, completed at t=2, v2 from t=3 on.
#[test]
fn a_slow_fill_is_overtaken() {
    let (held, hold) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let at_origin = (held.clone(), hold.clone());
    let origin = Origin::start(move |reply| {
        if reply.before > 0 {
            return reply.answer(200, &[FRESH], b"version two");
        }
        reply.head(200, &[FRESH, ("Content-Length", "11")]);
        reply.send(b"version");
        at_origin.0.wait();
        at_origin.1.wait();
        reply.send(b" one");
    });
    let aspis = two_cores(&origin).start();
    let mut attached = Crowd::asking(&aspis, BOTH, "/a");
    held.wait();
    eventually("all follow the fill", || (aspis.metric("aspis_collapse_total") >= BOTH as u64).then_some(()));
    aspis.invalidate(r#"{"paths":["/a"]}"#);
    let mut crowd = Crowd::connect(&aspis, BOTH);
    let fresh = crowd.get("/a");
    expect_bodies(&fresh, b"version two");
    assert_eq!(origin.count("/a"), 2, "one fetch for all who came after it");
    hold.wait();
    expect_bodies(&attached.responses(), b"version one");
    let later = crowd.get("/a");
    expect_bodies(&later, b"version two");
    assert_eq!(results(&later), [("Hit", BOTH)].into());
    assert_eq!(origin.count("/a"), 2);
}

/// I-20, I-30: once it is completed no core answers with what was stored before, and the next request is a miss, one for all.
#[test]
fn what_is_invalidated_is_gone_from_every_core() {
    let origin = Origin::start(versions);
    let aspis = two_cores(&origin).start();
    let mut crowd = Crowd::connect(&aspis, BOTH);
    let targets: Vec<String> = (0..16).map(|number| format!("/dir/{number}?q=1")).collect();
    let mut expect = |version: &str, misses: usize| {
        for target in &targets {
            let before = origin.count(target);
            let first = crowd.get(target);
            expect_bodies(&first, version.as_bytes());
            assert_eq!(origin.count(target) - before, misses, "{target}");
        }
    };
    expect("v1", 1);
    expect("v1", 0);
    let batches = [
        r#"{"paths":["/dir/*"]}"#,
        r#"{"tags":["ALL"]}"#,
        r#"{"hosts":["TEST.example"]}"#,
        r#"{"all":true}"#,
    ];
    for (at, batch) in batches.iter().enumerate() {
        aspis.invalidate(batch);
        expect(&format!("v{}", at + 2), 1);
        aspis.invalidate(r#"{"paths":["/dir/1","/other*"],"tags":["none"]}"#);
        expect(&format!("v{}", at + 2), 0);
    }
    let mut viewer = Viewer::connect(&aspis);
    aspis.invalidate(r#"{"paths":["/dir/0?q=1"]}"#);
    assert_eq!(viewer.get(&targets[0]).x_cache(), "Miss");
    assert_eq!(viewer.get(&targets[0]).x_cache(), "Hit");
}

/// A thousand paths in one batch, and the memory of what is gone comes back without anybody asking for it.
#[test]
fn a_batch_of_a_thousand_paths_is_swept() {
    let origin = Origin::start(versions);
    let aspis = two_cores(&origin).start();
    let mut viewer = Viewer::connect(&aspis);
    for number in 0..200 {
        viewer.get(&format!("/p/{number}")).expect_cached("Miss", b"v1");
    }
    let paths: Vec<String> = (0..1000).map(|number| format!("\"/p/{number}\"")).collect();
    aspis.invalidate(&format!("{{\"paths\":[{}]}}", paths[20..].join(",")));
    aspis.wait_for_metric("aspis_cache_purged_total", 180);
    aspis.wait_for_metric("aspis_cache_responses", 20);
    for number in 0..200 {
        let (result, body) = if number < 20 { ("Hit", b"v1") } else { ("Miss", b"v2") };
        viewer.get(&format!("/p/{number}")).expect_cached(result, body);
    }
}

/// A soft one leaves what the origin allows to be served while it is validated, and when it is down.
#[test]
fn what_is_invalidated_softly_is_stale() {
    let origin = Origin::start(|reply| {
        let etag = format!("\"{}\"", reply.before);
        let stale = "max-age=600, stale-while-revalidate=600, stale-if-error=600";
        let body = format!("v{} {}", reply.before + 1, reply.request.field("if-none-match").is_some());
        reply.answer(200, &[("Cache-Control", stale), ("ETag", &etag)], body.as_bytes());
    });
    let aspis = two_cores(&origin).start();
    let mut crowd = Crowd::connect(&aspis, BOTH);
    expect_bodies(&crowd.get("/a"), b"v1 false");
    aspis.invalidate(r#"{"paths":["/a"],"soft":true}"#);
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/a").expect_cached("Hit", b"v1 false");
    eventually("the background brings the next version", || {
        (viewer.get("/a").body == b"v2 true").then_some(())
    });
    expect_bodies(&crowd.get("/a"), b"v2 true");
    aspis.invalidate(r#"{"paths":["/a"]}"#);
    expect_bodies(&crowd.get("/a"), b"v3 false");
}

/// PURGE of a URL and of tags, by those who may.
#[test]
fn viewers_purge_where_they_may() {
    let origin = Origin::start(versions);
    let aspis = two_cores(&origin).with("--purge-from", "127.0.0.0/8,::1").start();
    let mut viewer = Viewer::connect(&aspis);
    let purge = |viewer: &mut Viewer, fields: &str| {
        viewer.ask("PURGE", "/a", fields);
        let answer = viewer.response();
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status() == 200 && text.contains("\"status\":\"Completed\""), "{text}");
    };
    viewer.get("/a").expect_cached("Miss", b"v1");
    purge(&mut viewer, "");
    viewer.get("/a").expect_cached("Miss", b"v2");
    purge(&mut viewer, "xkey: other\r\n");
    viewer.get("/a").expect_cached("Hit", b"v2");
    purge(&mut viewer, "Surrogate-Key: other all\r\n");
    viewer.get("/a").expect_cached("Miss", b"v3");
    assert_eq!(origin.requests().iter().filter(|request| request.method() == "PURGE").count(), 0);

    let aspis = two_cores(&origin).with("--purge-from", "192.0.2.0/24").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("PURGE", "/b", "");
    assert_eq!(viewer.response().status(), 403);

    let aspis = two_cores(&origin).start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("PURGE", "/c", "");
    viewer.response().expect(200, b"v1");
    assert_eq!(origin.only("/c").method(), "PURGE", "without the flag it is the origin's");
}

/// I-21: whatever is being fetched, stored, validated and copied meanwhile, nobody who asks after an invalidation was completed gets what
/// the origin gave before it was accepted.
#[test]
fn nobody_gets_what_is_older_than_a_completed_invalidation() {
    const ROUNDS: u64 = 60;
    let version = Arc::new(AtomicU64::new(1));
    let now = version.clone();
    let origin = Origin::start(move |reply| {
        let version = now.load(Ordering::SeqCst);
        // Some answers are on their way for long, in the head or in the content.
        let slow = reply.before % 3;
        if slow == 1 {
            pause();
        }
        let body = format!("{version:08}");
        let cache = if reply.before % 5 == 4 { "max-age=0" } else { "max-age=600" };
        reply.head(
            200,
            &[
                ("Cache-Control", cache),
                ("ETag", &format!("\"{version}\"")),
                ("xkey", "t"),
                ("Content-Length", "8"),
            ],
        );
        reply.send(&body.as_bytes()[..4]);
        if slow == 2 {
            pause();
        }
        reply.send(&body.as_bytes()[4..]);
    });
    let aspis = two_cores(&origin).with("--purge-from", "127.0.0.1").start();
    let (completed, over) = (AtomicU64::new(1), AtomicBool::new(false));
    let served = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for reader in 0..6 {
            let (aspis, completed, over, served) = (&aspis, &completed, &over, &served);
            scope.spawn(move || {
                let mut viewer = Viewer::connect(aspis);
                let mut at = reader;
                while !over.load(Ordering::SeqCst) {
                    at += 1;
                    let least = completed.load(Ordering::SeqCst);
                    let answer = viewer.get(&format!("/x/{}", at % 4));
                    let got: u64 = String::from_utf8_lossy(&answer.body).parse().expect("a version");
                    assert!(got >= least, "{got} where {least} was completed: {answer:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut purger = Viewer::connect(&aspis);
        for round in 0..ROUNDS {
            let next = version.fetch_add(1, Ordering::SeqCst) + 1;
            match round % 5 {
                0 => drop(aspis.invalidate(r#"{"paths":["/x/*"]}"#)),
                1 => drop(aspis.invalidate(r#"{"tags":["t"]}"#)),
                2 => drop(aspis.invalidate(r#"{"paths":["/x/0","/x/1","/x/2","/x/3"]}"#)),
                3 => drop(aspis.invalidate(r#"{"hosts":["test.example"]}"#)),
                _ => {
                    purger.ask("PURGE", "/x/0", "xkey: t\r\n");
                    assert_eq!(purger.response().status(), 200);
                }
            }
            completed.store(next, Ordering::SeqCst);
            std::thread::park_timeout(Duration::from_millis(round % 4 * 5));
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(served.load(Ordering::Relaxed) > ROUNDS, "the readers were there");
}
