//! What comes back from disk, tried out with whole shards and files: after a restart, after an eviction, and what must not come back.

mod ending;
mod large;
mod mapped;
mod parts;
mod streamed;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aspis_cache::invalidation::Rule;
use aspis_telemetry::Counter;

use super::store::Store;
use crate::rules::stage::{Reply, Stage, Viewer, rule, soft};
use crate::{Invalidations, RuleBatch, Why};

/// Content in which every place can be told from every other.
fn pattern(len: usize) -> String {
    (0..len / 8).map(|at| format!("{at:08}")).collect()
}

/// Answers with a version of the target that is fresh for an hour and has a validator.
fn version(reply: &mut Reply<'_>) {
    let body = format!("v{}", reply.before + 1);
    let fields = format!("Cache-Control: max-age=3600\r\nETag: \"{}\"\r\n", reply.before + 1);
    reply.answer("200 OK", &fields, &body);
}

fn stage(store: &Store, script: impl Fn(&mut Reply<'_>) + Send + Sync + 'static) -> Stage {
    Stage::with_disk(&[], Invalidations::default(), Some(store.boot()), script)
}

/// The rules that were accepted so far, for shards that start anew.
fn rules(number: u64, rules: Vec<Rule>) -> Invalidations {
    Invalidations {
        rules: vec![RuleBatch { number, rules }],
        first_number: number,
        ..Invalidations::default()
    }
}

/// Waits until all that was stored is on disk, then starts anew.
fn restart(stage: &mut Stage, store: &Store, invalidations: Invalidations) {
    store.settle(stage);
    stage.restart(invalidations, Some(store.boot()));
    store.wait_recovered(stage);
}

/// Invalidates while the stage runs, or between two of its lives: the second begins with the rule.
fn invalidate(stage: &mut Stage, store: &Store, purge: Rule, restarts: bool) {
    if restarts {
        restart(stage, store, rules(1, vec![purge]));
    } else {
        stage.invalidate(vec![purge]);
    }
}

/// The answer is a hit from disk: nobody fetched, and nothing says that somebody did.
#[track_caller]
fn expect_hit(viewer: &mut Viewer, target: &str, fields: &str, body: &str) {
    let answer = viewer.send("GET", target, fields);
    // Bodies are long.
    assert!(answer.body == body && answer.result() == "hit", "{target}: {}", answer.head);
}

#[test]
fn what_was_stored_is_there_after_a_restart() {
    let store = Store::new();
    let mut stage = stage(&store, version);
    let targets: Vec<String> = (0..20).map(|number| format!("/{number}")).collect();
    for target in &targets {
        assert_eq!(stage.viewer().get(target).body, "v1");
    }
    restart(&mut stage, &store, Invalidations::default());
    for target in &targets {
        let explained = stage.explain(target);
        assert!(explained.on_disk && explained.why == Why::OnDisk, "{explained:?}");
        for mut viewer in stage.viewers() {
            expect_hit(&mut viewer, target, "", "v1");
        }
        assert!(matches!(stage.explain(target).why, Why::Fresh { .. }));
        assert_eq!(stage.count(target), 1);
    }
    assert_eq!(stage.sum(Counter::DiskHit), 20);
    assert_eq!(stage.viewer().get("/never").result(), "miss");
}

#[test]
fn what_was_evicted_comes_back() {
    let store = Store::new();
    let content = pattern(1 << 20);
    let stage = stage(&store, move |reply| {
        reply.answer("200 OK", "Cache-Control: max-age=3600\r\n", &content);
    });
    let targets: Vec<String> = (0..100).map(|number| format!("/{number}")).collect();
    let mut viewer = stage.viewer();
    for target in &targets {
        viewer.get(target);
        // What waits to be written gives way first when memory is short.
        for _ in 0..100 {
            if stage.explain(target).on_disk {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    assert!(stage.sum(Counter::CacheEvicted) > 20);
    let expected = pattern(1 << 20);
    for target in &targets {
        assert!(viewer.get(target).body == expected);
    }
    let fetches: usize = targets.iter().map(|target| stage.count(target)).sum();
    assert!(stage.sum(Counter::DiskHit) > 30 && fetches < 150, "{fetches}");
}

/// C-1: all who ask while it is read get it, and the disk is asked once.
#[test]
fn a_cold_key_is_read_once_for_all() {
    let store = Store::new();
    let mut stage = stage(&store, version);
    stage.viewer().get("/a");
    restart(&mut stage, &store, Invalidations::default());
    let answers: Vec<_> = (0..100).map(|_| stage.ask("/a")).collect();
    for answer in answers {
        let answer = answer.recv().unwrap();
        assert_eq!((answer.body.as_str(), answer.result()), ("v1", "hit"));
    }
    assert_eq!((stage.count("/a"), stage.sum(Counter::DiskHit)), (1, 1));
}

/// RFC 9111 §4.1, after a restart: each request gets the variant that it selects, and one that is not there is fetched.
#[test]
fn variants_come_back_with_their_marker() {
    let store = Store::new();
    let mut stage = stage(&store, |reply| {
        let language = if reply.head.contains("accept-language: de") { "de" } else { "en" };
        reply.answer("200 OK", "Cache-Control: max-age=3600\r\nVary: Accept-Language\r\n", language);
    });
    let mut viewer = stage.viewer();
    for language in ["de", "en"] {
        let fields = format!("Accept-Language: {language}\r\n");
        assert_eq!(viewer.send("GET", "/a", &fields).body, language);
    }
    restart(&mut stage, &store, Invalidations::default());
    let mut viewer = stage.viewer();
    for language in ["en", "de", "de"] {
        expect_hit(&mut viewer, "/a", &format!("Accept-Language: {language}\r\n"), language);
    }
    assert_eq!(stage.count("/a"), 2);
    assert_eq!(viewer.send("GET", "/a", "Accept-Language: fr\r\n").result(), "miss");
    assert_eq!(stage.explain("/a").varies_by, "accept-language");
    // The new variant stands beside the others, which still count.
    restart(&mut stage, &store, Invalidations::default());
    let mut viewer = stage.viewer();
    for (language, body) in [("de", "de"), ("fr", "en"), ("en", "en")] {
        expect_hit(&mut viewer, "/a", &format!("Accept-Language: {language}\r\n"), body);
    }
    assert_eq!(stage.count("/a"), 3);
}

/// RFC 9111 §4.4: what an unsafe request made out of date does not come back, variants neither, whatever is stored afterwards.
#[test]
fn what_an_unsafe_request_ended_stays_ended() {
    for varies in ["", "Vary: Accept-Language\r\n"] {
        let store = Store::new();
        let mut stage = stage(&store, move |reply| {
            let body = format!("v{}", reply.before + 1);
            reply.answer("200 OK", &format!("Cache-Control: max-age=3600\r\n{varies}"), &body);
        });
        let mut viewer = stage.viewer();
        for language in ["de", "en"] {
            viewer.send("GET", "/a", &format!("Accept-Language: {language}\r\n"));
        }
        store.settle(&stage);
        let answer = viewer.send("POST", "/a", "Content-Length: 0\r\n");
        assert_eq!(answer.status, 200);
        restart(&mut stage, &store, Invalidations::default());
        let before = stage.count("/a");
        let mut viewer = stage.viewer();
        let answer = viewer.send("GET", "/a", "Accept-Language: de\r\n");
        assert_eq!((answer.result(), stage.count("/a")), ("miss", before + 1));
        // A new variant brings a marker again, under which the old ones do not count; nor after another restart.
        for _ in 0..2 {
            if !varies.is_empty() {
                store.settle(&stage);
                let english = viewer.send("GET", "/b", "Accept-Language: en\r\n");
                assert!(english.status == 200);
            }
            restart(&mut stage, &store, Invalidations::default());
            viewer = stage.viewer();
        }
        expect_hit(&mut viewer, "/a", "Accept-Language: de\r\n", &format!("v{}", before + 1));
        if !varies.is_empty() {
            assert_eq!(viewer.send("GET", "/a", "Accept-Language: en\r\n").result(), "miss");
        }
    }
}

/// RFC 9111 §4.3: what is stale on disk is validated with its validator, and what the origin confirmed is fresh after a restart.
#[test]
fn what_is_stale_on_disk_is_validated() {
    let store = Store::new();
    let mut stage = stage(&store, |reply| {
        if reply.has("if-none-match") {
            reply.answer("304 Not Modified", "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", "");
        } else {
            reply.answer("200 OK", "Cache-Control: max-age=0\r\nETag: \"a\"\r\n", "body");
        }
    });
    stage.viewer().get("/a");
    restart(&mut stage, &store, Invalidations::default());
    let answer = stage.viewer().get("/a");
    assert_eq!((answer.body.as_str(), answer.result(), stage.count("/a")), ("body", "refreshhit", 2));
    restart(&mut stage, &store, Invalidations::default());
    expect_hit(&mut stage.viewer(), "/a", "", "body");
    assert_eq!(stage.count("/a"), 2);
}

/// I-22, I-25: rules by path, prefix and tag hold for what lies on disk, whether they come before it is read or while nothing runs.
#[test]
fn rules_hold_for_what_lies_on_disk() {
    let tag = Rule::tag("T", None, false).unwrap();
    for (purge, concerned) in [(rule("/a"), true), (rule("/*"), true), (tag, true), (rule("/b"), false)] {
        for restarts in [true, false] {
            let store = Store::new();
            let mut stage = stage(&store, |reply| {
                let body = format!("v{}", reply.before + 1);
                reply.answer("200 OK", "Cache-Control: max-age=3600\r\nCache-Tag: t\r\n", &body);
            });
            stage.viewer().get("/a");
            restart(&mut stage, &store, Invalidations::default());
            invalidate(&mut stage, &store, purge.clone(), restarts);
            let answer = stage.viewer().get("/a");
            let (body, result, count) = if concerned { ("v2", "miss", 2) } else { ("v1", "hit", 1) };
            assert_eq!((answer.body.as_str(), answer.result(), stage.count("/a")), (body, result, count));
        }
    }
}

/// I-25: what a soft rule concerns comes back stale: it is validated.
#[test]
fn what_was_purged_softly_comes_back_stale() {
    for purged_before in [true, false] {
        let store = Store::new();
        let mut stage = stage(&store, |reply| {
            if reply.has("if-none-match") {
                reply.answer("304 Not Modified", "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", "");
            } else {
                reply.answer("200 OK", "Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", "body");
            }
        });
        stage.viewer().get("/a");
        if purged_before {
            stage.invalidate(vec![soft("/a")]);
        }
        restart(&mut stage, &store, rules(1, vec![soft("/a")]));
        let answer = stage.viewer().get("/a");
        assert_eq!((answer.result(), stage.count("/a")), ("refreshhit", 2), "{purged_before}");
        expect_hit(&mut stage.viewer(), "/a", "", "body");
    }
}

/// What lies on disk keeps the rules that it was not held against.
#[test]
fn rules_are_kept_for_what_lies_on_disk() {
    let store = Store::new();
    let mut stage = stage(&store, version);
    stage.viewer().get("/a");
    store.settle(&stage);
    stage.restart(rules(7, vec![rule("/a")]), Some(store.boot()));
    store.wait_recovered(&stage);
    assert!(stage.shards().rules_settled() < 7, "{}", stage.shards().rules_settled());
    stage.shards().forget_rules(7);
    assert_eq!(stage.viewer().get("/a").body, "v2");
}

/// What is damaged is fetched, and nobody sees a wrong byte.
#[test]
fn what_is_damaged_is_a_miss() {
    let store = Store::new();
    let mut stage = stage(&store, |reply| {
        let body = format!("the body of version {}", reply.before + 1);
        reply.answer("200 OK", "Cache-Control: max-age=3600\r\n", &body);
    });
    stage.viewer().get("/a");
    store.settle(&stage);
    store.damage(b"the body of version");
    stage.restart(Invalidations::default(), Some(store.boot()));
    store.wait_recovered(&stage);
    let answer = stage.viewer().get("/a");
    assert_eq!((answer.status, answer.body.as_str()), (200, "the body of version 2"));
    assert_eq!((stage.sum(Counter::DiskCheckFailures), stage.sum(Counter::DiskHit)), (1, 0));
    assert_eq!(stage.viewer().get("/a").result(), "hit");
}

/// A newer version that is stored takes the place of the one on disk, also over a restart.
#[test]
fn what_was_replaced_does_not_come_back() {
    let store = Store::new();
    let mut stage = stage(&store, |reply| {
        let body = format!("v{}", reply.before + 1);
        let age = if reply.before == 0 { 0 } else { 3600 };
        reply.answer("200 OK", &format!("Cache-Control: max-age={age}, stale-if-error=9999\r\n"), &body);
    });
    stage.viewer().get("/a");
    store.settle(&stage);
    assert_eq!(stage.viewer().get("/a").body, "v2");
    restart(&mut stage, &store, Invalidations::default());
    expect_hit(&mut stage.viewer(), "/a", "", "v2");
}

/// The index knows a hash, the record its key: who asks for another key of the same hash is not answered with it.
#[test]
fn a_stranger_of_the_same_hash_is_not_served() {
    let store = Store::new();
    let mut stage = stage(&store, version);
    stage.viewer().get("/a");
    store.settle(&stage);
    let key = stage.explain("/a").key;
    store.forge(&key);
    stage.restart(Invalidations::default(), Some(store.boot()));
    store.wait_recovered(&stage);
    assert!(stage.explain("/a").on_disk);
    assert_eq!(stage.viewer().get("/a").body, "v2");
    assert_eq!(stage.sum(Counter::DiskFalseCandidates), 1);
}

#[test]
fn a_store_that_is_gone_is_a_miss() {
    let store = Store::new();
    let mut stage = stage(&store, version);
    stage.viewer().get("/a");
    store.settle(&stage);
    stage.restart(Invalidations::default(), None);
    assert_eq!(stage.viewer().get("/a").body, "v2");
}

/// A crash loses nothing but what was stored last: what was removed stays removed, without an orderly end.
#[test]
fn what_was_removed_stays_removed_without_an_orderly_end() {
    let store = Store::new();
    let mut stage = stage(&store, version);
    let mut viewer = stage.viewer();
    viewer.get("/a");
    viewer.get("/b");
    store.settle(&stage);
    let writes = stage.sum(Counter::DiskWrites);
    assert_eq!(viewer.send("POST", "/a", "Content-Length: 0\r\n").status, 200);
    // It leaves at once; then the shards end as they are.
    stage.wait(|| stage.sum(Counter::DiskWrites) > writes);
    stage.restart(Invalidations::default(), Some(store.boot()));
    store.wait_recovered(&stage);
    assert!(!stage.explain("/a").on_disk);
    expect_hit(&mut stage.viewer(), "/b", "", "v1");
    assert_eq!(stage.viewer().get("/a").result(), "miss");
}

/// What was not worth a write when it was stored, and was used since, is written while it is in memory.
#[test]
fn what_is_used_in_memory_goes_to_disk_after_all() {
    let store = Store::new();
    let content = pattern(500_000);
    let script = move |reply: &mut Reply<'_>| {
        reply.answer("200 OK", "Cache-Control: max-age=3600\r\n", &content);
    };
    let stage = Stage::with_disk(&[], Invalidations::default(), Some(store.boot_frugal()), script);
    let mut viewer = stage.viewer();
    let mut number = 0;
    let refused = loop {
        let target = format!("/{number}");
        let before = stage.sum(Counter::DiskRefusedBudget);
        viewer.get(&target);
        if stage.sum(Counter::DiskRefusedBudget) > before {
            break target;
        }
        number += 1;
    };
    assert!(!stage.explain(&refused).on_disk);
    expect_hit(&mut viewer, &refused, "", &pattern(500_000));
    let _others = stage.viewers();
    stage.wait(|| stage.explain(&refused).on_disk);
    assert!(matches!(stage.explain(&refused).why, Why::Fresh { .. }));
}

/// Statuses, empty content, content of unknown length, and what was stored beside it: all of it is as it was.
#[test]
fn a_response_comes_back_as_it_was() {
    let store = Store::new();
    let mut stage = stage(&store, |reply| match &*reply.target {
        "/empty" => reply.answer("200 OK", "Cache-Control: max-age=3600\r\n", ""),
        "/moved" => reply.answer("301 Moved", "Location: /a\r\nCache-Control: max-age=3600\r\n", "moved"),
        "/gone" => reply.answer("404 Not Found", "Cache-Control: max-age=3600\r\nX-Note: here\r\n", "no"),
        _ => {
            reply.write("HTTP/1.1 200 OK\r\nCache-Control: max-age=3600\r\n");
            reply.write("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
        }
    });
    let targets = ["/empty", "/moved", "/gone", "/chunked"];
    let mut viewer = stage.viewer();
    // The first answer to the last of them comes in chunks, which this viewer does not read.
    targets[..3].iter().for_each(|target| drop(viewer.get(target)));
    stage.viewer().ask("GET", "/chunked", "");
    stage.wait(|| matches!(stage.explain("/chunked").why, Why::Fresh { .. }));
    let before: Vec<_> = targets.iter().map(|target| viewer.get(target)).collect();
    restart(&mut stage, &store, Invalidations::default());
    let mut viewer = stage.viewer();
    for (target, before) in targets.iter().zip(before) {
        assert_eq!(viewer.get(target).body, before.body);
        let after = viewer.get(target);
        let passes = |line: &&str| !line.starts_with("age:") && !line.starts_with("cache-status:");
        let without_age = |head: &str| {
            let mut lines: Vec<String> = head.lines().filter(passes).map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        assert_eq!((after.status, after.body), (before.status, before.body), "{target}");
        assert_eq!(without_age(&after.head), without_age(&before.head), "{target}");
        assert_eq!(stage.count(target), 1);
    }
}

/// RFC 9111 §4.4: who was told that an unsafe request succeeded does not get what was before, not even from a server that ended at once.
#[test]
fn what_an_unsafe_request_invalidated_does_not_outlive_its_answer() {
    let store = Store::new();
    let mut stage = stage(&store, |reply| match reply.head.starts_with("post") {
        true => reply.answer("200 OK", "", ""),
        false => version(reply),
    });
    for round in 0..2 {
        // On the core of the viewer and on the other.
        let targets: Vec<String> = (0..6).map(|number| format!("/{round}/{number}")).collect();
        let mut viewer = stage.viewer();
        targets.iter().for_each(|target| assert_eq!(viewer.get(target).body, "v1"));
        store.settle(&stage);
        for target in &targets {
            assert_eq!(viewer.send("POST", target, "Content-Length: 0\r\n").status, 200);
        }
        stage.restart(Invalidations::default(), Some(store.boot()));
        store.wait_recovered(&stage);
        let mut viewer = stage.viewer();
        for target in &targets {
            assert_eq!(viewer.get(target).body, "v3", "{target}");
        }
    }
}
