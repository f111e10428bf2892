//! Rules that come while something is under way: fills, resumed ones, validations, those who wait, marks, copies.

use aspis_cache::invalidation::Rule;
use aspis_telemetry::Counter;

use super::stage::{Gate, Stage, soft};
use crate::Why;

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

/// A fill that broke and goes on after the rule is as old as its beginning.
#[test]
fn a_fill_that_is_resumed_is_as_old_as_its_beginning() {
    for purges in [true, false] {
        let gate = Gate::default();
        let opened = gate.clone();
        let fields = "Cache-Control: max-age=60\r\nETag: \"a\"\r\n";
        let stage = Stage::new(move |reply| match reply.before {
            0 => {
                reply.begin("200 OK", fields, 10);
                reply.write("11111");
                opened.wait();
                reply.hang_up();
            }
            1 => {
                assert!(reply.head.contains("\r\nrange: bytes=5-\r\n"), "{}", reply.head);
                reply.answer(
                    "206 Partial Content",
                    &format!("{fields}Content-Range: bytes 5-9/10\r\n"),
                    "22222",
                );
            }
            _ => reply.version(""),
        });
        let leader = stage.ask("/a");
        stage.wait(|| stage.explain("/a").in_flight && stage.count("/a") == 1);
        if purges {
            stage.purge("/a");
        }
        gate.open();
        assert_eq!(leader.recv().unwrap().body, "1111122222");
        let (version, fetches) = if purges { ("v3", 1) } else { ("1111122222", 0) };
        stage.wait(|| !stage.explain("/a").in_flight);
        stage.expect(&mut stage.viewers(), "/a", version, fetches);
    }
}

/// A part that a rule takes while its rest is on its way is not completed: the whole is fetched, after the rule.
#[test]
fn a_part_that_is_purged_is_not_completed() {
    let gate = Gate::default();
    let opened = gate.clone();
    let stage = Stage::new(move |reply| {
        let part = |range: &str| {
            format!("Cache-Control: max-age=60\r\nETag: \"a\"\r\nContent-Range: bytes {range}/10\r\n")
        };
        match reply.before {
            0 => reply.answer("206 Partial Content", &part("0-4"), "11111"),
            1 => {
                assert!(reply.head.contains("\r\nrange: bytes=5-\r\n"), "{}", reply.head);
                opened.wait();
                reply.answer("206 Partial Content", &part("5-9"), "22222");
            }
            _ => {
                assert!(!reply.has("range"), "{}", reply.head);
                reply.version("");
            }
        }
    });
    assert_eq!(stage.viewer().send("GET", "/a", "Range: bytes=0-4\r\n").body, "11111");
    let whole = stage.ask("/a");
    stage.wait_count("/a", 2);
    stage.purge("/a");
    gate.open();
    assert_eq!(whole.recv().unwrap().body, "v3");
    stage.expect(&mut stage.viewers(), "/a", "v3", 0);
}

/// A soft rule for a fetch that runs: who comes after it does not join, and what came is validated before it answers anybody again.
#[test]
fn a_fill_under_a_soft_rule_is_stored_stale() {
    let gate = Gate::default();
    let opened = gate.clone();
    let stage = Stage::new(move |reply| {
        if reply.before == 0 {
            opened.wait();
        }
        let validates = reply.has("if-none-match");
        let body = format!("v{} {validates}", reply.before + 1);
        reply.answer("200 OK", "Cache-Control: max-age=60\r\nETag: \"a\"\r\n", &body);
    });
    let leader = stage.ask("/a");
    stage.wait_count("/a", 1);
    stage.invalidate(vec![soft("/*")]);
    gate.open();
    assert_eq!(leader.recv().unwrap().body, "v1 false");
    stage.wait(|| stage.sum(Counter::CacheStored) == 1);
    stage.expect(&mut stage.viewers(), "/a", "v2 true", 1);
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
