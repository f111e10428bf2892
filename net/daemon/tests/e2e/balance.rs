//! Connections that one core accepts and another serves: everything works there as where it was accepted.
//!
//! The first core accepts everything from the Unix socket, and every second connection is handed over. That TCP connections
//! are spread too is shown where the counters of each core can be seen, in `net/shard/src/boot/tests.rs`.

use crate::support::{Aspis, Directory, Gate, Launch, Origin, Viewer, eventually};

const COUNT: usize = 16;

/// A server on two cores and on a Unix socket in `directory`.
fn before(origin: &Origin, directory: &Directory) -> Launch {
    Launch::before(&origin.url()).with("--cores", "2").with("--listen-unix", &directory.file("viewers.sock"))
}

fn connect(directory: &Directory, count: usize) -> Vec<Viewer> {
    let path = directory.file("viewers.sock");
    (0..count).map(|_| Viewer::to_unix(&path).expect("the socket is there")).collect()
}

#[track_caller]
fn all_get(viewers: &mut [Viewer], target: &str) {
    for viewer in viewers {
        viewer.get(target).expect(200, b"ok");
    }
}

#[track_caller]
fn expect_moved(aspis: &Aspis, count: u64) {
    aspis.wait_for_metric("aspis_viewer_connections_moved_total", count);
}

#[test]
fn every_second_connection_of_a_unix_socket_is_served_by_the_second_core() {
    let (origin, directory) = (Origin::fixed(&[("Cache-Control", "max-age=60")], b"ok"), Directory::new());
    let aspis = before(&origin, &directory).start();
    let mut viewers = connect(&directory, COUNT);
    for target in ["/a", "/b", "/c"] {
        all_get(&mut viewers, target);
        assert_eq!(origin.count(target), 1);
    }
    expect_moved(&aspis, COUNT as u64 / 2);
    aspis.wait_for_metric("aspis_viewer_connections_open", COUNT as u64);
    assert_eq!(aspis.metric("aspis_viewer_connections_total"), COUNT as u64);
    drop(viewers);
    aspis.wait_for_metric("aspis_viewer_connections_open", 0);
}

/// Keep-alive connections over TCP, few and many: nobody is lost, whoever accepted, and requests alone move nothing.
#[test]
fn connections_stay_where_they_are() {
    let origin = Origin::fixed(&[("Cache-Control", "max-age=60")], b"ok");
    let aspis = Launch::before(&origin.url()).with("--cores", "2").start();
    for count in [5, 16] {
        let mut viewers = (0..count).map(|_| Viewer::connect(&aspis)).collect::<Vec<_>>();
        all_get(&mut viewers, "/a");
        aspis.wait_for_metric("aspis_viewer_connections_open", count);
        let moved = aspis.metric("aspis_viewer_connections_moved_total");
        for _ in 0..10 {
            all_get(&mut viewers, "/a");
        }
        assert_eq!(aspis.metric("aspis_viewer_connections_moved_total"), moved);
        drop(viewers);
        aspis.wait_for_metric("aspis_viewer_connections_open", 0);
    }
    assert_eq!(origin.count("/a"), 1);
}

/// What was sent before the connection was handed over is read by the core that got it, the PROXY header first.
#[test]
fn the_proxy_header_is_read_by_the_core_that_serves() {
    let (origin, directory) = (Origin::fixed(&[("Cache-Control", "no-store")], b"ok"), Directory::new());
    let aspis = before(&origin, &directory).switch("--proxy-protocol").start();
    let mut viewers = connect(&directory, COUNT);
    for (number, viewer) in viewers.iter_mut().enumerate() {
        viewer.send(format!("PROXY TCP4 192.0.2.{number} 127.0.0.1 1234 80\r\n"));
        viewer.ask("GET", &format!("/{number}"), "");
    }
    for (number, viewer) in viewers.iter_mut().enumerate() {
        viewer.response().expect(200, b"ok");
        let asked = origin.only(&format!("/{number}"));
        assert_eq!(asked.all("x-forwarded-for"), [format!("192.0.2.{number}")]);
    }
    expect_moved(&aspis, COUNT as u64 / 2);
}

/// A drain waits for what runs on either core and closes the rest at once.
#[test]
fn a_drain_finds_connections_that_were_handed_over() {
    let gate = Gate::default();
    let origin = {
        let gate = gate.clone();
        Origin::start(move |reply| {
            reply.head(200, &[("Content-Length", "8"), ("Cache-Control", "no-store")]);
            reply.send(b"half");
            gate.wait("the test lets the answer go on");
            reply.send(b"half");
        })
    };
    let directory = Directory::new();
    let mut aspis = before(&origin, &directory).start();
    let mut busy = connect(&directory, 4);
    let heads: Vec<_> = busy
        .iter_mut()
        .enumerate()
        .map(|(number, viewer)| {
            viewer.ask("GET", &format!("/{number}"), "");
            viewer.head()
        })
        .collect();
    let mut idle = connect(&directory, 4);
    aspis.wait_for_metric("aspis_viewer_connections_open", 8);
    expect_moved(&aspis, 4);
    aspis.signal("TERM");
    idle.iter_mut().for_each(Viewer::expect_close);
    assert!(aspis.is_running(), "requests are in flight");
    gate.open();
    for (viewer, head) in busy.iter_mut().zip(&heads) {
        let mut body = Vec::new();
        viewer.body_into("GET", head, &mut |piece| body.extend_from_slice(piece)).expect("the whole answer");
        assert_eq!(body, b"halfhalf");
    }
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
}

/// No descriptor is left behind by connections that change cores.
#[test]
fn connections_that_change_cores_leave_no_descriptors() {
    let (origin, directory) = (Origin::fixed(&[("Cache-Control", "max-age=60")], b"ok"), Directory::new());
    let aspis = before(&origin, &directory).start();
    let round = || {
        let mut viewers = connect(&directory, COUNT);
        all_get(&mut viewers, "/a");
        // Some leave without having said a word, maybe while they are on their way.
        drop(connect(&directory, COUNT));
        drop(viewers);
        aspis.wait_for_metric("aspis_viewer_connections_open", 0);
    };
    round();
    let before = aspis.open_files();
    (0..10).for_each(|_| round());
    eventually("every descriptor is closed", || (aspis.open_files() <= before).then_some(()));
}
