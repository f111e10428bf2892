//! Invalidation within whole shards on two cores: what is stored, what is on its way, what waits, and what is forgotten.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

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

/// I-22, the test of the specification: who is attached gets the old version whole, who comes after the rule the new one, which stays.
#[test]
fn a_fill_that_runs_is_delivered_and_not_stored() {
    let gate = Gate::default();
    let opened = gate.clone();
    let stage = Stage::new(move |reply| match reply.before {
        0 => {
            reply.begin("200 OK", "Cache-Control: max-age=60\r\n", 10);
            reply.write("11111");
            opened.wait();
            reply.write("11111");
        }
        _ => reply.version(""),
    });
    let leader = stage.ask("/slow");
    stage.wait_count("/slow", 1);
    stage.wait(|| stage.explain("/slow").in_flight);
    let follower = stage.ask("/slow");
    stage.wait(|| stage.sum(Counter::CollapsedArriving) == 1);
    let number = stage.purge("/slow");
    assert!(!stage.explain("/slow").in_flight, "nobody joins it any more");
    assert!(stage.shards().rules_settled() < number);
    let mut viewers = stage.viewers();
    stage.expect(&mut viewers, "/slow", "v2", 1);
    gate.open();
    for old in [leader, follower] {
        assert_eq!(old.recv().unwrap().body, "1111111111");
    }
    stage.wait(|| stage.shards().rules_settled() >= number);
    stage.expect(&mut viewers, "/slow", "v2", 0);
    assert_eq!(viewers[0].get("/slow").result(), "hit");
}

/// A fill that ends after the rule, with nobody in between, is not stored either.
#[test]
fn a_fill_that_ends_after_the_rule_leaves_nothing() {
    let gate = Gate::default();
    let opened = gate.clone();
    let stage = Stage::new(move |reply| {
        if reply.before == 0 {
            opened.wait();
        }
        reply.version("");
    });
    let leader = stage.ask("/a");
    stage.wait_count("/a", 1);
    stage.purge("/*");
    gate.open();
    assert_eq!(leader.recv().unwrap().body, "v1");
    stage.expect(&mut stage.viewers(), "/a", "v2", 1);
}

/// I-22 where tags are not known yet: who begins to wait after the rule shares the fetch only if its tags turn out not to be concerned.
#[test]
fn who_waits_for_a_head_asks_again_if_its_tags_are_purged() {
    for (tags, versions) in [("xkey: gone\r\n", "v2"), ("xkey: other\r\n", "v1"), ("", "v1")] {
        let gate = Gate::default();
        let opened = gate.clone();
        let stage = Stage::new(move |reply| {
            if reply.before == 0 {
                opened.wait();
            }
            reply.version(tags);
        });
        let leader = stage.ask("/a");
        stage.wait_count("/a", 1);
        stage.invalidate(vec![Rule::tag("gone", None, false).unwrap()]);
        let follower = stage.ask("/a");
        stage.wait(|| stage.sum(Counter::CollapsedWaiting) == 1);
        gate.open();
        assert_eq!(leader.recv().unwrap().body, "v1");
        assert_eq!(follower.recv().unwrap().body, versions, "{tags}");
        let fetches = if versions == "v2" { 2 } else { 1 };
        stage.expect(&mut stage.viewers(), "/a", versions, 0);
        assert_eq!(stage.count("/a"), fetches, "{tags}");
    }
}

/// I-24: what a 304 confirms that was asked for before the rule stays purged, and the next fetch is unconditional.
#[test]
fn a_validation_that_runs_does_not_revive() {
    let gate = Gate::default();
    let opened = gate.clone();
    let stage = Stage::new(move |reply| {
        if reply.before == 1 {
            assert!(reply.has("if-none-match"), "{}", reply.head);
            opened.wait();
            return reply.answer("304 Not Modified", "Cache-Control: max-age=60\r\nETag: \"a\"\r\n", "");
        }
        let conditional = reply.has("if-none-match");
        let body = format!("v{}{}", reply.before + 1, if conditional { " conditional" } else { "" });
        let age = if reply.before == 0 { "max-age=0" } else { "max-age=60" };
        reply.answer("200 OK", &format!("Cache-Control: {age}\r\nETag: \"a\"\r\n"), &body);
    });
    let mut viewers = stage.viewers();
    assert_eq!(viewers[0].get("/a").body, "v1");
    let validating = stage.ask("/a");
    stage.wait_count("/a", 2);
    stage.purge("/a");
    gate.open();
    assert_eq!(validating.recv().unwrap().body, "v1", "it came before the rule");
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

/// I-25 for what is stale by itself, and is purged while the origin is asked: the failure is passed on, be it an answer or none.
#[test]
fn a_failure_that_comes_after_the_rule_has_nothing_to_fall_back_to() {
    for (answers, purges, status) in
        [(true, true, 503), (false, true, 502), (true, false, 200), (false, false, 200)]
    {
        let gate = Gate::default();
        let opened = gate.clone();
        let stage = Stage::new(move |reply| match reply.before {
            0 => {
                reply.answer("200 OK", "Cache-Control: max-age=0, stale-if-error=60\r\nETag: \"a\"\r\n", "v1")
            }
            _ => {
                opened.wait();
                if answers { reply.answer("503 Service Unavailable", "", "down") } else { reply.hang_up() }
            }
        });
        stage.viewer().get("/a");
        let asking = [stage.ask("/a"), stage.ask("/a")];
        stage.wait_count("/a", 2);
        if purges {
            stage.purge("/a");
        }
        gate.open();
        for asked in asking {
            assert_eq!(asked.recv().unwrap().status, status, "answers {answers}, purges {purges}");
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

/// C-13: that a response was for one viewer says nothing about what comes after the rule, so those who ask then share a fetch again.
#[test]
fn a_mark_is_lifted_by_a_rule_for_its_key() {
    let gate = Gate::default();
    let opened = gate.clone();
    let stage = Stage::new(move |reply| match reply.before {
        0 => reply.answer("200 OK", "Cache-Control: private\r\n", "mine"),
        _ => {
            opened.wait();
            reply.version("");
        }
    });
    assert_eq!(stage.viewer().get("/a").body, "mine");
    assert_eq!(stage.explain("/a").why, Why::Alone);
    stage.purge("/b");
    assert_eq!(stage.explain("/a").why, Why::Alone, "not its key");
    stage.purge("/a");
    let first = stage.ask("/a");
    stage.wait_count("/a", 2);
    let second = stage.ask("/a");
    stage.wait(|| stage.sum(Counter::CollapsedWaiting) == 1);
    gate.open();
    for asked in [first, second] {
        assert_eq!(asked.recv().unwrap().body, "v2");
    }
    assert_eq!(stage.count("/a"), 2);
}

/// Requests that go alone: the answer to a POST that is kept for GETs, asked for before the rule, is not stored after it.
#[test]
fn what_a_request_fetches_by_itself_is_held_against_the_rules() {
    let gate = Gate::default();
    let opened = gate.clone();
    let stage = Stage::new(move |reply| {
        if reply.head.starts_with("post") {
            opened.wait();
            let fields = "Cache-Control: max-age=60\r\nContent-Location: /form\r\n";
            return reply.answer("200 OK", fields, "posted");
        }
        reply.version("");
    });
    for purged in [true, false] {
        let mut viewer = stage.viewer();
        let before = stage.count("/form");
        let posting = std::thread::spawn(move || viewer.send("POST", "/form", "Content-Length: 0\r\n"));
        stage.wait_count("/form", before + 1);
        if purged {
            stage.purge("/form");
        }
        gate.open();
        assert_eq!(posting.join().unwrap().body, "posted");
        let body = stage.viewer().get("/form").body;
        assert_eq!(body != "posted", purged, "{body}");
        stage.purge("/*");
    }
}

/// A fetch of the other core's than the owner's is stored by the owner, if no rule came meanwhile.
#[test]
fn a_copy_for_the_owner_is_held_against_the_rules() {
    let gate = Gate::default();
    let opened = gate.clone();
    let stage = Stage::new(move |reply| match reply.before {
        // A mark: the next requests go alone, each on its own core.
        0 => reply.answer("200 OK", "Cache-Control: private\r\n", "mine"),
        1 | 2 => {
            opened.wait();
            reply.version("xkey: one\r\n");
        }
        _ => reply.version(""),
    });
    assert_eq!(stage.viewer().get("/a").body, "mine");
    let alone = [stage.ask("/a"), stage.ask("/a")];
    stage.wait_count("/a", 3);
    stage.invalidate(vec![Rule::tag("one", None, false).unwrap()]);
    gate.open();
    for asked in alone {
        assert!(asked.recv().unwrap().body.starts_with('v'));
    }
    stage.expect(&mut stage.viewers(), "/a", "v4", 1);
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
    assert_eq!(changes.load(Ordering::SeqCst), 2 * stage::CORES as u64, "each core applied and settled");
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

/// Keeps what PURGE requests ask for until the test does it.
#[derive(Default)]
struct Asked(Mutex<Vec<Vec<Rule>>>, Mutex<Vec<Done>>);

type Done = Box<dyn FnOnce(Purged) + Send>;

impl Purges for Asked {
    fn purge(&self, rules: Vec<Rule>, done: Done) {
        self.0.lock().unwrap().push(rules);
        self.1.lock().unwrap().push(done);
    }
}

impl Asked {
    /// Takes what was asked first, once there is something.
    fn take(&self, stage: &Stage) -> (Vec<Rule>, Done) {
        stage.wait(|| !self.1.lock().unwrap().is_empty());
        (self.0.lock().unwrap().remove(0), self.1.lock().unwrap().remove(0))
    }
}

fn purging(from: &'static str) -> (Stage, Arc<Asked>) {
    let asked = Arc::new(Asked::default());
    let purges: Arc<dyn Purges> = Arc::clone(&asked) as Arc<dyn Purges>;
    let invalidations = Invalidations { purges: Some(purges), ..Invalidations::default() };
    let flags: &[_] = if from.is_empty() { &[] } else { &[("purge-from", from)] };
    let stage = Stage::with(flags, invalidations, |reply| match reply.head.starts_with("purge") {
        true => reply.answer("200 OK", "", "the origin's"),
        false => reply.version(""),
    });
    (stage, asked)
}

/// A PURGE waits until its rules took effect, and the connection goes on.
#[test]
fn a_purge_is_answered_when_it_took_effect() {
    let (stage, asked) = purging("10.0.0.0/8,127.0.0.0/8");
    let mut viewers = stage.viewers();
    stage.expect(&mut viewers, "/a", "v1", 1);
    std::thread::scope(|scope| {
        for viewer in &mut viewers {
            scope.spawn(|| {
                let answer = viewer.send("PURGE", "/a", "");
                assert_eq!(
                    (answer.status, answer.body.ends_with("\"status\":\"Completed\"}\n")),
                    (200, true)
                );
                assert!(answer.head.contains("content-type: application/json"), "{}", answer.head);
                let version = viewer.get("/a").body;
                assert!(version != "v1", "{version}");
            });
        }
        for _ in 0..2 {
            let (rules, done) = asked.take(&stage);
            assert_eq!(rules, [Rule { host: Some("a.example".into()), ..rule("/a") }]);
            done(Ok(stage.invalidate(rules)));
        }
    });
}

/// What keeps a purge from taking effect is said, and an end of the server too.
#[test]
fn a_purge_that_fails_says_why() {
    let (stage, asked) = purging("127.0.0.1");
    for (why, said) in [(Some("no \"room\""), r#""no \"room\"""#), (None, "the server is ending")] {
        let mut viewer = stage.viewer();
        let asking = std::thread::spawn(move || viewer.send("PURGE", "/a", "xkey: a b\r\nSoft-Purge: 1\r\n"));
        let (rules, done) = asked.take(&stage);
        assert!(rules.len() == 2 && rules.iter().all(|rule| rule.soft), "{rules:?}");
        match why {
            Some(why) => done(Err(why.to_owned())),
            None => drop(done),
        }
        let answer = asking.join().unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.body.contains(said), "{}", answer.body);
    }
}

/// Nobody else purges, and where nobody may the method is the origin's.
#[test]
fn a_purge_of_others_is_refused() {
    let (stage, asked) = purging("10.0.0.0/8");
    assert_eq!(stage.viewer().send("PURGE", "/a", "").status, 403);
    assert!(asked.0.lock().unwrap().is_empty());
    let (stage, _) = purging("127.0.0.1");
    let long = format!("xkey: {}\r\n", "x".repeat(257));
    assert_eq!(stage.viewer().send("PURGE", "/a", &long).status, 400);
    let (stage, asked) = purging("");
    assert_eq!(stage.viewer().send("PURGE", "/a", "").body, "the origin's");
    assert!(asked.0.lock().unwrap().is_empty());
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
