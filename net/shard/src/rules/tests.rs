//! Invalidation within whole shards on two cores: what is stored, what stays, what is swept and forgotten, what is explained.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aspis_cache::invalidation::{Rule, Wildcards};

use super::stage::{Gate, Reply, Stage, rule, soft};
use super::*;
use crate::Why;

/// I-9, I-10, I-13: what a path names is fetched anew, on either core, and nothing else is.
#[test]
fn a_path_purges_what_it_names() {
    let stage = Stage::new(|reply| reply.version(""));
    let targets =
        ["/images/a.jpg", "/images/A.jpg", "/images/a.jpg?x=1", "/images/", "/images", "/imagesx", "/"];
    let table: [(&str, &[usize]); 6] = [
        ("/images/a.jpg", &[0]),
        ("/images/*", &[0, 1, 2, 3]),
        ("/images*", &[0, 1, 2, 3, 4, 5]),
        ("/images/a.jpg*", &[0, 2]),
        ("/im*es", &[]),
        ("/*", &[0, 1, 2, 3, 4, 5, 6]),
    ];
    let mut viewers = stage.viewers();
    let mut versions = [1; 7];
    for target in targets {
        stage.expect(&mut viewers, target, "v1", 1);
    }
    for (path, purged) in table {
        stage.purge(path);
        for (at, target) in targets.iter().enumerate() {
            let is_purged = purged.contains(&at);
            versions[at] += usize::from(is_purged);
            stage.expect(&mut viewers, target, &format!("v{}", versions[at]), usize::from(is_purged));
        }
    }
}

/// I-18, and what the operator's hosts bound.
#[test]
fn a_tag_and_a_host_purge_theirs() {
    let stage = Stage::new(|reply| match reply.target.as_str() {
        "/a" => reply.version("Surrogate-Key: one two\r\n"),
        _ => reply.version("Cache-Tag: two, three\r\n"),
    });
    let mut viewers = stage.viewers();
    let tag = |text| Rule::tag(text, None, false).unwrap();
    let host = |name| Rule::all(Some(name), false).unwrap();
    for (number, (rule, a, b)) in [
        (tag("one"), 1, 0),
        (tag("TWO"), 1, 1),
        (tag("four"), 0, 0),
        (host("a.example"), 1, 1),
        (host("b.example"), 0, 0),
    ]
    .into_iter()
    .enumerate()
    {
        for viewer in &mut viewers {
            viewer.get("/a");
            viewer.get("/b");
        }
        let before = (stage.count("/a"), stage.count("/b"));
        stage.invalidate(vec![rule]);
        for viewer in &mut viewers {
            viewer.get("/a");
            viewer.get("/b");
        }
        assert_eq!((stage.count("/a") - before.0, stage.count("/b") - before.1), (a, b), "{number}");
    }
}

/// I-30, and nothing but the first request after it misses.
#[test]
fn the_first_request_afterwards_is_a_miss() {
    let stage = Stage::new(|reply| reply.version("ETag: \"a\"\r\n"));
    let mut viewers = stage.viewers();
    stage.expect(&mut viewers, "/a", "v1", 1);
    stage.purge("/a");
    let results = [0, 1, 0, 1].map(|at| viewers[at].get("/a").result().to_owned());
    assert_eq!(results, ["miss", "hit", "hit", "hit"]);
}

/// I-17: the operator's own field; I-19: a 304 that names no tags leaves those that there were.
#[test]
fn tags_come_from_the_operators_field_and_stay_with_a_304() {
    let flags = [("cache-tag-header", "X-Tags")];
    let stage = Stage::with(&flags, Invalidations::default(), |reply| match reply.has("if-none-match") {
        true => reply.answer("304 Not Modified", "Cache-Control: max-age=60\r\n", ""),
        false => reply.version("ETag: \"a\"\r\nX-Tags: one, Two\r\n"),
    });
    let tag = |text| Rule::tag(text, None, false).unwrap();
    let mut viewers = stage.viewers();
    stage.expect(&mut viewers, "/a", "v1", 1);
    stage.invalidate(vec![soft("/a")]);
    stage.expect(&mut viewers, "/a", "v1", 1);
    stage.invalidate(vec![tag("three")]);
    stage.expect(&mut viewers, "/a", "v1", 0);
    stage.invalidate(vec![tag("two")]);
    stage.expect(&mut viewers, "/a", "v3", 1);
}

/// A stale response, and what becomes of it where the origin is down: `answers` says how the second request for it is answered.
fn stale_and_purged(fields: &'static str, rule: Rule) -> (Stage, Arc<AtomicBool>) {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let stage = Stage::new(move |reply: &mut Reply<'_>| {
        if is_down.load(Ordering::SeqCst) {
            return reply.answer("503 Service Unavailable", "", "down");
        }
        let body = format!("v{} {}", reply.before + 1, reply.has("if-none-match"));
        let fields = format!("Cache-Control: max-age=60{fields}\r\nETag: \"{}\"\r\n", reply.before);
        reply.answer("200 OK", &fields, &body);
    });
    let mut viewers = stage.viewers();
    stage.expect(&mut viewers, "/a", "v1 false", 1);
    stage.invalidate(vec![rule]);
    (stage, down)
}

/// A soft rule leaves something stale: it is validated, served while that is done where the origin allows it, and served where the origin
/// fails.
#[test]
fn what_is_purged_softly_is_stale() {
    let (stage, _) = stale_and_purged("", soft("/a"));
    stage.expect(&mut stage.viewers(), "/a", "v2 true", 1);

    let (stage, _) = stale_and_purged(", stale-while-revalidate=60", soft("/*"));
    let mut viewers = stage.viewers();
    assert_eq!(viewers[0].get("/a").body, "v1 false");
    stage.wait_count("/a", 2);
    stage.wait(|| {
        stage.explain("/a").why == Why::Fresh { ttl: 60 } || stage.explain("/a").why == Why::Fresh { ttl: 59 }
    });
    stage.expect(&mut viewers, "/a", "v2 true", 0);

    let (stage, down) = stale_and_purged(", stale-if-error=60", soft("/a*"));
    down.store(true, Ordering::SeqCst);
    for viewer in &mut stage.viewers() {
        assert_eq!(viewer.get("/a").body, "v1 false");
    }
}

/// I-25: what a hard rule took serves nobody, whatever the origin allowed.
#[test]
fn what_is_purged_is_not_served_stale() {
    for allowed in [", stale-while-revalidate=60", ", stale-if-error=60", ""] {
        let (stage, down) = stale_and_purged(allowed, rule("/a"));
        stage.expect(&mut stage.viewers(), "/a", "v2 false", 1);
        stage.purge("/a");
        down.store(true, Ordering::SeqCst);
        for viewer in &mut stage.viewers() {
            let answer = viewer.get("/a");
            assert_eq!((answer.status, answer.body.contains("v2")), (503, false), "{allowed}");
        }
    }
}

/// I-11: variants go together, and what the new version varies by counts, not what the old one did.
#[test]
fn variants_go_together() {
    let varies = Arc::new(AtomicBool::new(true));
    let still = Arc::clone(&varies);
    let stage = Stage::new(move |reply| {
        let vary = if still.load(Ordering::SeqCst) { "Vary: Foo\r\n" } else { "" };
        reply.version(vary);
    });
    let mut viewers = stage.viewers();
    for round in 0..2 {
        for (at, foo) in ["Foo: 1\r\n", "Foo: 2\r\n"].iter().enumerate() {
            for viewer in &mut viewers {
                assert_eq!(viewer.send("GET", "/a", foo).body, format!("v{}", 2 * round + at + 1));
            }
        }
        stage.purge("/a");
    }
    varies.store(false, Ordering::SeqCst);
    for foo in ["Foo: 1\r\n", "Foo: 2\r\n", "Foo: 3\r\n"] {
        for viewer in &mut viewers {
            assert_eq!(viewer.send("GET", "/a", foo).body, "v5", "{foo}");
        }
    }
}

/// I-11: parts, errors and redirects.
#[test]
fn parts_errors_and_redirects_go_too() {
    let stage = Stage::new(|reply| match reply.target.as_str() {
        "/part" => {
            let fields = "Cache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Range: bytes 0-1/10\r\n";
            let body = format!("v{}", reply.before + 1);
            reply.answer("206 Partial Content", fields, &body);
        }
        "/error" => {
            let body = format!("v{}", reply.before + 1);
            reply.answer("404 Not Found", "Cache-Control: max-age=60\r\n", &body);
        }
        _ => {
            let body = format!("v{}", reply.before + 1);
            reply.answer("301 Moved Permanently", "Cache-Control: max-age=60\r\nLocation: /x\r\n", &body);
        }
    });
    let mut viewers = stage.viewers();
    for (target, fields) in [("/part", "Range: bytes=0-1\r\n"), ("/error", ""), ("/moved", "")] {
        let mut get = |body: &str| {
            for viewer in &mut viewers {
                assert_eq!(viewer.send("GET", target, fields).body, body, "{target}");
            }
        };
        get("v1");
        stage.purge("/*");
        get("v2");
    }
}

/// The sweep: what is gone leaves, what stays is not asked for again once the rules are forgotten, and what comes late is refused.
#[test]
fn rules_settle_and_are_forgotten() {
    let changes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&changes);
    let rules_changed: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let gate = Gate::default();
    let opened = gate.clone();
    let script = move |reply: &mut Reply<'_>| {
        if reply.target == "/slow" && reply.before == 0 {
            opened.wait();
        }
        reply.version("");
    };
    let stage = Stage::with(&[], Invalidations { rules_changed, ..Invalidations::default() }, script);
    let mut viewers = stage.viewers();
    for number in 0..64 {
        stage.expect(&mut viewers, &format!("/a/{number}"), "v1", 1);
        stage.expect(&mut viewers, &format!("/b/{number}"), "v1", 1);
    }
    let number = stage.purge("/a/*");
    stage.wait(|| stage.shards().rules_settled() == number);
    assert_eq!(stage.sum(Counter::CachePurged), 64);
    assert_eq!(changes.load(Ordering::SeqCst), stage::CORES as u64, "each core settled");
    stage.shards().forget_rules(u64::MAX);
    for number in 0..64 {
        stage.expect(&mut viewers, &format!("/b/{number}"), "v1", 0);
        stage.expect(&mut viewers, &format!("/a/{number}"), "v2", 1);
    }
    // A fetch that runs holds the rules back that came after it was sent, also where the sweep is through.
    let owner = stage.explain("/slow").owner_core;
    let swept =
        (0..64).map(|number| format!("/b/{number}")).find(|target| stage.explain(target).owner_core == owner);
    let before = stage.sum(Counter::CachePurged);
    let slow = stage.ask("/slow");
    stage.wait_count("/slow", 1);
    let number = stage.purge("/c");
    let other = stage.purge(&swept.unwrap());
    stage.wait(|| stage.sum(Counter::CachePurged) > before);
    assert!(stage.shards().rules_settled() < number);
    gate.open();
    assert_eq!(slow.recv().unwrap().body, "v1");
    stage.wait(|| stage.shards().rules_settled() == other);
    // It was held against the rules when it was stored, so it needs none of them any more.
    stage.shards().forget_rules(u64::MAX);
    stage.expect(&mut viewers, "/slow", "v1", 0);
}

/// I-21: nobody wakes the cores, and yet each holds its next answer against the rule, its replicas too.
#[test]
fn a_core_that_is_not_rung_obeys_with_its_next_answer() {
    let stage = Stage::new(|reply| reply.version(""));
    let mut viewers = stage.viewers();
    for round in 1..50 {
        stage.expect(&mut viewers, "/a", &format!("v{round}"), 1);
        let number = stage.shards().next_rule_number();
        stage.shards().add_rules(&Arc::new(RuleBatch { number, rules: vec![rule("/a")] }));
    }
    stage.expect(&mut viewers, "/a", "v50", 1);
    assert_eq!(stage.shards().rules_applied(), 49, "each viewer's core looked at its mail");
}

/// Who waits for rules is told when the last core has them, and nobody is told of what nobody waits for.
#[test]
fn rules_that_are_awaited_are_told_when_all_cores_have_them() {
    let (tell, told) = std::sync::mpsc::channel();
    let rules_changed: Arc<dyn Fn() + Send + Sync> = Arc::new(move || _ = tell.send(()));
    let invalidations = Invalidations { rules_changed, ..Invalidations::default() };
    let stage = Stage::with(&[], invalidations, |reply| reply.version(""));
    for round in 1..=3 {
        // The sweeps tell what they settled.
        stage.wait(|| stage.shards().rules_settled() == round - 1);
        while told.try_recv().is_ok() {}
        let number = stage.shards().next_rule_number();
        stage.shards().await_rules(number);
        assert!(told.try_recv().is_err(), "nobody has it");
        stage.shards().add_rules(&Arc::new(RuleBatch { number, rules: vec![rule("/a")] }));
        stage.shards().ring_all();
        told.recv_timeout(std::time::Duration::from_secs(30)).expect("all have it");
        assert_eq!(stage.shards().rules_applied(), number);
        stage.shards().await_rules(number);
        told.try_recv().expect("at once, since it is so already");
        stage.shards().await_rules(u64::MAX);
    }
}

/// Batches of a thousand rules, and many batches: nothing is lost, and the mailbox is never too small.
#[test]
fn many_rules_at_once_all_take_effect() {
    let stage = Stage::new(|reply| reply.version(""));
    let mut viewers = stage.viewers();
    let targets: Vec<String> = (0..40).map(|number| format!("/p{number}/x")).collect();
    for target in &targets {
        stage.expect(&mut viewers, target, "v1", 1);
    }
    let all = (0..1000).map(|number| rule(&format!("/p{number}/*"))).collect();
    stage.invalidate(all);
    for target in &targets {
        stage.expect(&mut viewers, target, "v2", 1);
    }
    let mut last = 0;
    for round in 0..10_000 {
        last = stage.shards().next_rule_number();
        let rules = vec![rule(&format!("/p{}/x", round % 20))];
        stage.shards().add_rules(&Arc::new(RuleBatch { number: last, rules }));
    }
    stage.shards().ring_all();
    stage.wait(|| stage.shards().rules_applied() >= last);
    for (at, target) in targets.iter().enumerate() {
        let (version, fetches) = if at < 20 { ("v3", 1) } else { ("v2", 0) };
        stage.expect(&mut viewers, target, version, fetches);
    }
}

/// I-26: shards begin with the rules that still count, and count on from there.
#[test]
fn shards_begin_where_the_log_ends() {
    let rules = vec![
        RuleBatch { number: 3, rules: vec![rule("/*")] },
        RuleBatch { number: 7, rules: vec![rule("/a")] },
    ];
    let invalidations = Invalidations { rules, first_number: 9, ..Invalidations::default() };
    let stage = Stage::with(&[], invalidations, |reply| reply.version(""));
    assert_eq!((stage.shards().rules_applied(), stage.shards().rules_settled()), (7, 7));
    let mut viewers = stage.viewers();
    stage.expect(&mut viewers, "/a", "v1", 1);
    assert_eq!(stage.purge("/a"), 10);
    stage.expect(&mut viewers, "/a", "v2", 1);
}

/// What `aspis explain` says.
#[test]
fn the_owner_explains() {
    let stage = Stage::new(|reply| match reply.target.as_str() {
        "/vary" => reply.version("Vary: Foo\r\n"),
        _ => reply.version("ETag: \"a\"\r\nxkey: one two\r\n"),
    });
    assert_eq!(stage.explain("/a").why, Why::Nothing);
    let mut viewers = stage.viewers();
    stage.expect(&mut viewers, "/a", "v1", 1);
    let known = stage.explain("/a");
    assert_eq!(&*known.key, b"http\na.example\n/a");
    assert!(matches!(known.why, Why::Fresh { ttl: 58..=60 }), "{known:?}");
    let stored = known.stored.expect("it is stored");
    assert_eq!((stored.status, stored.lifetime, stored.len, stored.tags, stored.number), (200, 60, 2, 2, 0));
    assert!(stored.can_be_validated);
    stage.purge("/b");
    stage.invalidate(vec![soft("/a")]);
    let softened = stage.explain("/a").why;
    assert!(matches!(softened, Why::Validated { soft: true, .. }), "{softened:?}");
    let number =
        stage.invalidate(vec![Rule::path("/a", Some("A.example:80"), false, Wildcards::Trailing).unwrap()]);
    // Until it is looked at or swept.
    let purged = stage.explain("/a").why;
    assert!(matches!(purged, Why::Nothing) || purged == Why::Purged { number }, "{purged:?}");
    viewers[0].send("GET", "/vary", "Foo: 1\r\n");
    let varies = stage.explain("/vary");
    assert_eq!((varies.why, varies.varies_by.as_str(), varies.variants), (Why::OtherVariants, "foo", 1));
}
