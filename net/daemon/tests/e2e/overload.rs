//! More than the server or its origin can do: refused with 503 and `Retry-After`, counted, named in the log; what is stored is served.

use crate::support::{Aspis, Directory, Gate, Launch, Origin, Response, Viewer, eventually, pause};
use std::time::Duration;

/// Asserts that a request was refused for want of capacity (L-15).
#[track_caller]
fn expect_refused(response: &Response) {
    assert_eq!(response.status(), 503, "{response:?}");
    assert_eq!(response.all("retry-after"), ["5"], "{response:?}");
    assert_eq!(response.all("x-cache"), ["CapacityExceeded from aspis"], "{response:?}");
    assert_eq!(response.all("cache-control"), ["no-store"], "{response:?}");
}

/// An origin that answers `/held...` when the gate opens and everything else at once.
fn holding(gate: &Gate, fields: &'static [(&'static str, &'static str)]) -> Origin {
    let gate = gate.clone();
    Origin::start(move |reply| {
        if reply.request.target().starts_with("/held") {
            gate.wait("the test lets the origin answer");
        }
        reply.answer(200, fields, b"ok");
    })
}

/// `--origin-queue`: who comes when so many wait is refused at once, and not after a timeout.
#[test]
fn fetches_beyond_the_queue_are_refused_at_once() {
    let (gate, directory) = (Gate::default(), Directory::new());
    let origin = holding(&gate, &[("Cache-Control", "no-store")]);
    let log = directory.file("access.log");
    let aspis = Launch::before(&origin.url())
        .with("--origin-max-connections", "1")
        .with("--origin-queue", "2")
        .with("--access-log", &log)
        .start();
    let mut waiting: Vec<_> = (0..3)
        .map(|number| {
            let mut viewer = Viewer::connect(&aspis);
            viewer.ask("GET", &format!("/held-{number}"), "");
            viewer
        })
        .collect();
    aspis.wait_for_metric("aspis_origin_waiting", 2);
    let mut refused = Viewer::connect(&aspis);
    for number in 0..5 {
        expect_refused(&refused.get(&format!("/refused-{number}")));
    }
    // One that would share a waiting fetch does.
    let mut sharing = Viewer::connect(&aspis);
    sharing.ask("GET", "/held-2", "");
    gate.open();
    for viewer in &mut waiting {
        viewer.response().expect(200, b"ok");
    }
    assert_eq!(sharing.response().status(), 200);
    refused.get("/later").expect(200, b"ok");
    aspis.wait_for_metric("aspis_requests_total{result=\"CapacityExceeded\"}", 5);
    let line = eventually("the log names it", || {
        let text = std::fs::read_to_string(&log).ok()?;
        text.lines().find(|line| line.contains("/refused-0")).map(str::to_owned)
    });
    assert!(line.contains("\" 503 ") && line.contains(" CapacityExceeded "), "{line}");
}

/// `--origin-queue-timeout`: who waits longer is refused, and what is stale and may be served answers instead.
#[test]
fn fetches_that_wait_too_long_are_refused_or_answered_stale() {
    let gate = Gate::default();
    let origin = holding(&gate, &[("Cache-Control", "max-age=1")]);
    let aspis = Launch::before(&origin.url())
        .with("--origin-max-connections", "1")
        .with("--origin-queue-timeout", "300ms")
        .start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/stored").expect_cached("Miss", b"ok");
    let mut held = Viewer::connect(&aspis);
    held.ask("GET", "/held", "");
    origin.wait_for("/held", 1);
    expect_refused(&viewer.get("/other"));
    eventually("the stored response is stale and the wait for its validation over", || {
        let response = viewer.get("/stored");
        assert_eq!((response.status(), &response.body[..]), (200, &b"ok"[..]), "{response:?}");
        response.field("age").is_some_and(|age| age != "0" && age != "1").then_some(())
    });
    gate.open();
    held.response().expect(200, b"ok");
}

/// Stops and continues the server, so that it looks at everything late, until `probe` has an answer.
fn late<T>(aspis: &Aspis, mut probe: impl FnMut() -> Option<T>) -> T {
    eventually("the server notices that it is late", || {
        for _ in 0..4 {
            aspis.signal("STOP");
            std::thread::park_timeout(Duration::from_millis(120));
            aspis.signal("CONT");
            pause();
        }
        probe()
    })
}

/// `--shed-after`: a core that is late refuses what needs the origin and serves what is stored.
#[test]
fn a_core_that_is_late_refuses_what_needs_the_origin_and_serves_hits() {
    for cores in ["1", "2"] {
        let gate = Gate::default();
        let origin = holding(&gate, &[("Cache-Control", "max-age=600")]);
        let aspis = Launch::before(&origin.url()).with("--cores", cores).with("--shed-after", "20ms").start();
        let mut viewers: Vec<_> = (0..4).map(|_| Viewer::connect(&aspis)).collect();
        for viewer in &mut viewers {
            viewer.get("/stored").expect(200, b"ok");
            viewer.get("/stored").expect_cached("Hit", b"ok");
        }
        // While somebody waits a core has a timer to be late with.
        let mut held: Vec<_> = (0..16)
            .map(|number| {
                let mut viewer = Viewer::connect(&aspis);
                viewer.ask("GET", &format!("/held-{cores}-{number}"), "");
                viewer
            })
            .collect();
        aspis.wait_for_requests(16);
        let mut number = 0;
        late(&aspis, || {
            // All together: what comes after a while comes when it is over.
            for viewer in &mut viewers {
                number += 1;
                viewer.ask("GET", &format!("/miss-{cores}-{number}"), "");
                viewer.ask("GET", "/stored", "");
            }
            let mut refused = 0;
            for viewer in &mut viewers {
                let response = viewer.response();
                if response.status() == 503 {
                    expect_refused(&response);
                    refused += 1;
                } else {
                    response.expect(200, b"ok");
                }
                viewer.response().expect_cached("Hit", b"ok");
            }
            (refused > 0).then_some(())
        });
        assert!(aspis.metric("aspis_requests_shed_total") > 0);
        // Nothing is late any more: everything is served again.
        eventually("it is over", || {
            number += 1;
            let response = viewers[0].get(&format!("/after-{cores}-{number}"));
            (response.status() == 200).then_some(())
        });
        gate.open();
        held.iter_mut().for_each(|viewer| assert_eq!(viewer.response().status(), 200));
    }
}

/// When refusing fetches is not enough, new connections are refused, too; those that are there are served.
#[test]
fn a_core_that_stays_late_refuses_new_connections() {
    let gate = Gate::default();
    let origin = holding(&gate, &[("Cache-Control", "max-age=600")]);
    let aspis = Launch::before(&origin.url()).with("--cores", "1").with("--shed-after", "20ms").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/stored").expect(200, b"ok");
    let mut held = Viewer::connect(&aspis);
    held.ask("GET", "/held", "");
    aspis.wait_for_requests(1);
    let refused = late(&aspis, || {
        viewer.get("/stored").expect_cached("Hit", b"ok");
        let mut new = Viewer::connect(&aspis);
        new.ask_if_open("/stored");
        new.try_response().ok().filter(|response| response.status() == 503)
    });
    assert_eq!(refused.all("retry-after"), ["5"], "{refused:?}");
    assert!(refused.lists("connection", "close"), "{refused:?}");
    assert!(aspis.metric("aspis_viewer_connections_refused_total{cause=\"late\"}") > 0);
    eventually("it is over", || {
        let mut new = Viewer::connect(&aspis);
        new.ask_if_open("/stored");
        new.try_response().ok().filter(|response| response.status() == 200)
    });
    gate.open();
    held.response().expect(200, b"ok");
}

/// `--shed-after 0`: whatever happens, nothing is refused.
#[test]
fn a_core_that_may_be_late_refuses_nothing() {
    let gate = Gate::default();
    let origin = holding(&gate, &[("Cache-Control", "no-store")]);
    let aspis = Launch::before(&origin.url()).with("--cores", "1").with("--shed-after", "0").start();
    let mut held = Viewer::connect(&aspis);
    held.ask("GET", "/held", "");
    aspis.wait_for_requests(1);
    let mut viewer = Viewer::connect(&aspis);
    let mut rounds = 0;
    late(&aspis, || {
        rounds += 1;
        viewer.get("/miss").expect(200, b"ok");
        (rounds == 5).then_some(())
    });
    assert_eq!(aspis.metric("aspis_requests_shed_total"), 0);
    gate.open();
    held.response().expect(200, b"ok");
}
