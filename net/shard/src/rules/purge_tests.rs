//! PURGE over real connections: who may, what is asked for, and when the answer comes.

use std::sync::{Arc, Mutex};

use aspis_cache::invalidation::Rule;

use super::stage::{Stage, rule};
use super::{Invalidations, Purged, Purges};

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
