//! The one memory limit: what runs short of it in the middle, what is refused when it is near, and that all of it comes back.

use crate::support::{Aspis, Gate, Launch, Origin, Response, Viewer, eventually, pattern};

const LIMIT: u64 = 16 << 20;

/// What the kernel says that counts: the limit, 5 % of it, and what an idle process of one core has, with the slack of a debug build.
const ALLOWED: u64 = LIMIT / 100 * 105 + (28 << 20);

fn small(origin: &Origin) -> Aspis {
    Launch::before(&origin.url()).with("--memory", "16MiB").start()
}

fn resident(aspis: &Aspis) -> u64 {
    aspis.memory("RssAnon") + aspis.memory("RssShmem")
}

/// Fills whose lengths were declared, each of which fits, and which together do not: those that run short in the middle go on through a
/// passage. Every viewer gets the whole, and only what is whole is stored.
#[test]
fn fills_that_run_short_of_memory_midway_are_passed_on_whole() {
    const COUNT: usize = 6;
    const LEN: usize = 5 << 20;
    let gate = Gate::default();
    let script_gate = gate.clone();
    let origin = Origin::start(move |reply| {
        let number = reply.request.target()[1..].parse().expect("the test asks for a number");
        let body = pattern(number, LEN);
        let length = LEN.to_string();
        reply.head(200, &[("Cache-Control", "max-age=600"), ("ETag", "\"v\""), ("Content-Length", &length)]);
        // All begin before one ends: 6 thirds and what follows are more than the arena has.
        reply.send(&body[..LEN / 3]);
        script_gate.wait("all have begun");
        reply.send(&body[LEN / 3..]);
    });
    let aspis = small(&origin);
    std::thread::scope(|scope| {
        let viewers: Vec<_> = (0..COUNT)
            .map(|number| {
                let aspis = &aspis;
                scope.spawn(move || {
                    Viewer::connect(aspis)
                        .get(&format!("/{number}"))
                        .expect(200, &pattern(number as u64, LEN));
                })
            })
            .collect();
        for number in 0..COUNT {
            origin.wait_for(&format!("/{number}"), 1);
        }
        gate.open();
        viewers.into_iter().for_each(|viewer| viewer.join().expect("every viewer gets the whole"));
    });
    let short = aspis.metric("aspis_cache_not_stored_total{cause=\"memory\"}");
    assert!(short >= 1, "this test is to run short of memory");
    eventually("the fills end", || (aspis.metric("aspis_flights_running") == 0).then_some(()));
    let stored = aspis.metric("aspis_cache_stored_total");
    // One that came when the others had taken all is not begun to be stored.
    assert_eq!(stored + aspis.metric("aspis_cache_not_stored_total"), COUNT as u64);
    assert!(aspis.metric("aspis_cache_responses") <= stored);
    assert!(resident(&aspis) <= ALLOWED, "{} B resident", resident(&aspis));
    // Afterwards everything is as it was: what was not stored is fetched, and stored now.
    let mut viewer = Viewer::connect(&aspis);
    for number in 0..COUNT {
        viewer.get(&format!("/{number}")).expect(200, &pattern(number as u64, LEN));
    }
    let last = COUNT - 1;
    viewer.get(&format!("/{last}")).expect_cached("Hit", &pattern(last as u64, LEN));
}

/// Bytes of viewers that nobody can use yet fill the memory: stored responses leave, buffers shrink, then whoever comes new gets 503; those
/// who were there are served, and when they have left the server is as it was.
#[test]
fn viewers_that_fill_the_memory_push_content_out_and_keep_newcomers_away() {
    const VIEWERS: usize = 260;
    let gate = Gate::default();
    let script_gate = gate.clone();
    let origin = Origin::start(move |reply| {
        if reply.request.target().starts_with("/held") {
            script_gate.wait("the viewers are through");
        }
        reply.answer(200, &[("Cache-Control", "max-age=600")], &pattern(1, 100_000));
    });
    let aspis = Launch::before(&origin.url())
        .with("--memory", "16MiB")
        .with("--origin-max-connections", "2")
        .with("--read-timeout", "60s")
        .start();
    let mut viewer = Viewer::connect(&aspis);
    for number in 0..100 {
        viewer.get(&format!("/{number}")).expect(200, &pattern(1, 100_000));
    }
    let before = eventually("content fills the memory first", || {
        Some(aspis.metric("aspis_cache_responses")).filter(|count| *count > 60)
    });
    // Each asks for what is held back and sends as much again and again as its inbox takes.
    let padded = |number: usize| {
        let pad = "v".repeat(30_000);
        let next = format!("GET /0 HTTP/1.1\r\nHost: a.example\r\nX-Pad: {pad}\r\n\r\n");
        format!("GET /held HTTP/1.1\r\nHost: a.example\r\nX-Number: {number}\r\n\r\n{}", next.repeat(4))
    };
    let mut held = Vec::new();
    let mut most = 0;
    for number in 0..VIEWERS {
        let mut viewer = Viewer::connect(&aspis);
        // A newcomer that is refused may be closed before it has said everything.
        let _ = viewer.connection.send(padded(number).as_bytes());
        held.push(viewer);
        most = most.max(resident(&aspis));
    }
    let refused = || {
        let step = |name: &str| aspis.metric(&format!("aspis_memory_retreats_total{{step=\"{name}\"}}"));
        step("refuse-connection") + step("refuse-request")
    };
    eventually("newcomers are refused", || (refused() > 0).then_some(()));
    most = most.max(resident(&aspis));
    assert!(most <= ALLOWED, "{most} B resident");
    assert!(aspis.metric("aspis_memory_retreats_total{step=\"evict\"}") > 0);
    assert!(aspis.metric("aspis_memory_retreats_total{step=\"shrink\"}") > 0);
    eventually("content makes way", || (aspis.metric("aspis_cache_responses") < before / 4).then_some(()));
    assert!(aspis.metric("aspis_memory_used_bytes{purpose=\"connections\"}") > LIMIT / 2);
    // Most of it is theirs. Whoever was taken in gets an answer, the others 503.
    gate.open();
    let answers: Vec<Option<Response>> = held.iter_mut().map(|viewer| viewer.try_response().ok()).collect();
    let count = |status: u16| answers.iter().flatten().filter(|answer| answer.status() == status).count();
    assert!(count(200) >= 80, "{} of {VIEWERS} were served", count(200));
    assert!(answers.iter().flatten().all(|answer| [200, 503].contains(&answer.status())));
    drop(held);
    eventually("their memory is given back", || {
        (aspis.metric("aspis_memory_used_bytes{purpose=\"connections\"}") < 1 << 20).then_some(())
    });
    viewer.get("/after").expect(200, &pattern(1, 100_000));
    viewer.get("/after").expect_cached("Hit", &pattern(1, 100_000));
}
