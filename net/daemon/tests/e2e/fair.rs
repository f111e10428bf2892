//! A server that one viewer, or one crowd, keeps busy: the others are served, everything stays bounded, and nobody loses a byte.
//!
//! Shown by counts, not by times: how many answers a turn gives, what is cut, who gets what. `aspis-bench fair` measures the times.

use crate::support::{Aspis, Crowd, Launch, Origin, PATIENCE, Viewer, eventually, expect_bodies, request};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

/// Answers of one connection in one turn: `REQUESTS_PER_TURN` of the product.
const PER_TURN: usize = 32;

/// Everything may be stored, and its body is its path.
fn echo() -> Origin {
    Origin::start(|reply| {
        let body = reply.request.target().to_owned();
        reply.answer(200, &[("Cache-Control", "max-age=600")], body.as_bytes());
    })
}

fn on_one_core(origin: &Origin) -> Aspis {
    Launch::before(&origin.url()).with("--cores", "1").start()
}

/// Requests that are sent at once are answered in their order, a portion in each turn, whatever stands between them.
#[test]
fn a_long_pipeline_is_answered_in_portions_and_in_order() {
    const COUNT: usize = 2000;
    let origin = echo();
    let aspis = on_one_core(&origin);
    let mut viewer = Viewer::connect(&aspis);
    let targets = ["/one", "/two", "/three"];
    for target in targets {
        viewer.get(target).expect(200, target.as_bytes());
    }
    // A body and a miss stand between, so that a task takes over and gives back.
    let post =
        |number| format!("POST /post-{number} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello");
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for number in 0..COUNT {
        let target = targets[number % 3].to_owned();
        bytes.extend_from_slice(request("GET", &target, "").as_bytes());
        expected.push(target);
        if number % 500 == 250 {
            bytes.extend_from_slice(post(number).as_bytes());
            expected.push(format!("/post-{number}"));
        }
    }
    let socket = viewer.connection.socket();
    thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut &socket, &bytes).expect("all is taken"));
        for target in &expected {
            let response = viewer.response();
            assert_eq!((response.status(), &response.body[..]), (200, target.as_bytes()));
        }
    });
    let portions = COUNT / PER_TURN / 4;
    eventually("turns were full", || {
        (aspis.metric("aspis_viewer_turns_full_total") as usize >= portions).then_some(())
    });
    let turns = aspis.metric("aspis_core_turn_duration_seconds_count") as usize;
    assert!(turns >= COUNT / PER_TURN, "{turns} turns for {COUNT} requests of one connection");
    viewer.get("/one").expect(200, b"/one");
}

/// What waits for the next turn because a task left it there is not slept over.
#[test]
fn requests_behind_a_miss_do_not_wait_for_a_timer() {
    const ROUNDS: u32 = 40;
    let origin = echo();
    let aspis = on_one_core(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/one").expect(200, b"/one");
    let started = Instant::now();
    for round in 0..ROUNDS {
        let miss = format!("/miss-{round}");
        viewer.send(request("GET", &miss, "") + &request("GET", "/one", "").repeat(2 * PER_TURN));
        viewer.response().expect(200, miss.as_bytes());
        for _ in 0..2 * PER_TURN {
            viewer.response().expect(200, b"/one");
        }
    }
    // A core looks up each 50 ms while it has a task, and each 500 ms otherwise.
    assert!(started.elapsed().as_millis() < u128::from(ROUNDS) * 45, "{:?}", started.elapsed());
}

/// A viewer that sends much and then ends its side gets every answer, also those that waited for later turns.
#[test]
fn who_ends_behind_a_long_pipeline_gets_all_answers() {
    const COUNT: usize = 500;
    let origin = echo();
    let aspis = on_one_core(&origin);
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/one").expect(200, b"/one");
    viewer.send(request("GET", "/one", "").repeat(COUNT));
    viewer.connection.finish_sending();
    for number in 0..COUNT {
        let response = viewer.response();
        assert_eq!((response.status(), &response.body[..]), (200, &b"/one"[..]), "answer {number}");
    }
    viewer.expect_close();
    aspis.wait_for_metric("aspis_viewer_connections_open", 0);
}

/// One connection that never stops asking does not keep the others from being served, nor from coming.
#[test]
fn an_endless_pipeline_holds_nobody_up() {
    let origin = echo();
    let aspis = on_one_core(&origin);
    Viewer::connect(&aspis).get("/one").expect(200, b"/one");
    let stop = Arc::new(AtomicBool::new(false));
    let flood = Viewer::connect(&aspis).connection.socket();
    let reading = flood.try_clone().expect("a second handle");
    let writer = {
        let (stop, bytes) = (Arc::clone(&stop), request("GET", "/one", "").repeat(1000));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed)
                && std::io::Write::write_all(&mut &flood, bytes.as_bytes()).is_ok()
            {}
            let _ = flood.shutdown(std::net::Shutdown::Both);
        })
    };
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while std::io::Read::read(&mut &reading, &mut buffer).is_ok_and(|count| count > 0) {}
    });
    eventually("it asks more than a turn answers", || {
        (aspis.metric("aspis_viewer_turns_full_total") > 20).then_some(())
    });
    let started = Instant::now();
    for number in 0..20 {
        let mut viewer = Viewer::connect(&aspis);
        viewer.get("/one").expect(200, b"/one");
        let miss = format!("/miss-{number}");
        viewer.get(&miss).expect(200, miss.as_bytes());
    }
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    assert!(!writer.is_finished(), "it still asks");
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("no panic");
    reader.join().expect("no panic");
}

/// A crowd that waits for one object: all get it, woken in portions, and one fetch is made.
#[test]
fn a_crowd_that_waits_for_one_object_is_woken_in_portions() {
    const COUNT: usize = 400;
    let gate = crate::support::Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::start(move |reply| {
            gate.wait("all wait");
            reply.answer(200, &[("Cache-Control", "max-age=600")], b"hot");
        })
    };
    let aspis = on_one_core(&origin);
    let mut crowd = Crowd::asking(&aspis, COUNT, "/hot");
    aspis.wait_for_places(COUNT);
    gate.open();
    expect_bodies(&crowd.responses(), b"hot");
    assert_eq!(origin.count("/hot"), 1);
}

/// Viewers that ask for much and never read are cut after `--send-timeout`, hold little meanwhile, and hold nobody up.
#[test]
fn viewers_that_never_read_are_cut_and_hold_nobody_up() {
    const COUNT: usize = 100;
    const LEN: usize = 4 << 20;
    let body = vec![b'x'; LEN];
    let origin = Origin::start(move |reply| {
        let body: &[u8] = if reply.request.target() == "/large" { &body } else { b"small" };
        reply.answer(200, &[("Cache-Control", "max-age=600")], body);
    });
    let aspis = Launch::before(&origin.url()).with("--cores", "1").with("--send-timeout", "1s").start();
    assert_eq!(Viewer::connect(&aspis).get("/large").body.len(), LEN);
    Viewer::connect(&aspis).get("/small").expect(200, b"small");
    let before = aspis.memory("RssAnon");
    // Ten answers each, of which the kernel takes the first part only.
    let mut stuck = Crowd::connect(&aspis, COUNT);
    for viewer in stuck.each() {
        viewer.send(request("GET", "/large", "").repeat(10));
    }
    let mut other = Viewer::connect(&aspis);
    while aspis.metric("aspis_viewer_timeouts_total{phase=\"send\"}") < COUNT as u64 {
        other.get("/small").expect(200, b"small");
        crate::support::pause();
    }
    let grown = aspis.memory("RssAnon").saturating_sub(before);
    assert!(grown < 32 << 20, "{COUNT} readers that do not read hold {grown} bytes");
    drop(stuck);
    aspis.wait_for_metric("aspis_viewer_connections_open", 1);
}

/// Heads that come a byte at a time end after `--head-timeout`, however many they are.
#[test]
fn many_slow_heads_are_ended_and_hold_nobody_up() {
    const COUNT: usize = 200;
    let origin = echo();
    let aspis = Launch::before(&origin.url()).with("--cores", "1").with("--head-timeout", "500ms").start();
    let mut slow = Crowd::connect(&aspis, COUNT);
    slow.each().for_each(|viewer| viewer.send("GET / HTTP/1.1\r\nHost: a.exa"));
    let mut other = Viewer::connect(&aspis);
    for _ in 0..20 {
        other.get("/one").expect(200, b"/one");
    }
    for response in slow.responses() {
        assert_eq!(response.status(), 408, "{response:?}");
    }
    aspis.wait_for_metric("aspis_viewer_timeouts_total{phase=\"head\"}", COUNT as u64);
    aspis.wait_for_metric("aspis_viewer_connections_open", 1);
}

/// More connections than `--max-connections` are told so and closed; those that are there are served meanwhile.
#[test]
fn a_flood_of_connections_is_refused_beside_those_that_are_served() {
    const LIMIT: usize = 20;
    const FLOOD: usize = 300;
    let origin = echo();
    let limit = LIMIT.to_string();
    let aspis = Launch::before(&origin.url()).with("--cores", "1").with("--max-connections", &limit).start();
    let mut kept = Crowd::connect(&aspis, LIMIT);
    expect_bodies(&kept.get("/one"), b"/one");
    let mut flood = Crowd::connect(&aspis, FLOOD);
    expect_bodies(&kept.get("/one"), b"/one");
    for viewer in flood.each() {
        let response = viewer.response();
        assert_eq!(response.status(), 503, "{response:?}");
        assert_eq!(response.all("retry-after"), ["5"]);
        viewer.expect_close();
    }
    assert_eq!(aspis.metric("aspis_viewer_connections_open"), LIMIT as u64);
    aspis.wait_for_metric("aspis_viewer_connections_refused_total", FLOOD as u64);
}
