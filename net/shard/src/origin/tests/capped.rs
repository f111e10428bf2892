//! The cap on connections over real cores: never exceeded, first in first out, no wait without end.

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use aspis_exchange::OriginFailure;
use aspis_telemetry::Counter;
use aspis_wire::Method;

use super::rig::{Origin, Rig, fetch, get, ok, read_head, read_rest, request, settings};
use crate::origin::{NoBody, OriginSettings};

fn capped(connection_count_max: usize) -> OriginSettings {
    OriginSettings { connection_count_max, ..settings() }
}

/// Lets a core finish what it has begun.
fn pass_turn(rig: &Rig, core: usize) {
    rig.run(core, |_, ring| async move { ring.sleep(Duration::from_millis(2)).await });
}

#[test]
fn two_cores_share_the_cap_and_all_are_served() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running_there, most_there) = (running.clone(), most.clone());
    let origin = Origin::start(move |mut stream, number| {
        while read_head(&mut stream).is_some() {
            let now = running_there.fetch_add(1, Ordering::SeqCst) + 1;
            most_there.fetch_max(now, Ordering::SeqCst);
            std::thread::park_timeout(Duration::from_millis(2));
            running_there.fetch_sub(1, Ordering::SeqCst);
            let close = if number % 2 == 0 { "Connection: close\r\n" } else { "" };
            let answer = format!("HTTP/1.1 200 OK\r\n{close}Content-Length: 2\r\n\r\nok");
            if stream.write_all(answer.as_bytes()).is_err() || !close.is_empty() {
                return;
            }
        }
    });
    let rig = Rig::start(capped(2), 2, None, &[origin.address]);
    let fetches: Vec<_> =
        (0..80).map(|number| rig.begin(number % 2, |client, _| async move { get(&client).await })).collect();
    for fetch in fetches {
        let answer = fetch.recv_timeout(Duration::from_secs(20)).expect("nobody waits for ever");
        assert_eq!(answer, Ok((200, b"ok".to_vec())));
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert!(rig.count(Counter::OriginWaits) > 0);
    assert_eq!(rig.count(Counter::OriginWaiting), 0);
    assert!(rig.shared.open_len() <= 2);
    assert_eq!(rig.shared.gate.waiting(), 0);
}

#[test]
fn waiters_of_two_cores_are_served_in_their_order() {
    let (order, ordered) = mpsc::channel();
    let (go, told) = mpsc::channel::<()>();
    let shared = Mutex::new((order, told));
    let origin = Origin::start(move |mut stream, _| {
        while let Some(head) = read_head(&mut stream) {
            let shared = shared.lock().expect("no panic while waiting");
            shared.0.send(head[5]).expect("the test listens");
            if head[5] == b'0' {
                shared.1.recv().expect("the test goes on");
            }
            drop(shared);
            if stream.write_all(&ok(b"x")).is_err() {
                return;
            }
        }
    });
    let rig = Rig::start(capped(1), 2, None, &[origin.address]);
    let fetch_number = |number: usize, core: usize| {
        rig.begin(core, move |client, _| async move {
            let head = format!("GET /{number} HTTP/1.1\r\nHost: o\r\n\r\n");
            fetch(&client, request(head.as_bytes(), Method::Get), None::<NoBody>).await
        })
    };
    let mut fetches = vec![fetch_number(0, 1)];
    assert_eq!(ordered.recv(), Ok(b'0'));
    for number in 1..=8 {
        let core = (number / 2) % 2;
        fetches.push(fetch_number(number, core));
        // In line before the next: first its core has sent its message, then home has read it.
        pass_turn(&rig, core);
        pass_turn(&rig, 0);
    }
    assert_eq!(rig.shared.gate.waiting(), 8);
    go.send(()).expect("the origin waits");
    let order: Vec<u8> = (1..=8).map(|_| ordered.recv().expect("the origin is asked")).collect();
    assert_eq!(order, b"12345678");
    for fetch in fetches {
        assert_eq!(fetch.recv().expect("the fetch ends"), Ok((200, b"x".to_vec())));
    }
}

#[test]
fn a_connection_that_another_core_keeps_is_given_up_at_once() {
    let origin = Origin::answering(|_| ok(b"x"));
    let rig = Rig::start(capped(1), 3, None, &[origin.address]);
    let start = Instant::now();
    for turn in 0..12 {
        let (answer, idle) =
            rig.run(turn % 3, |client, _| async move { (get(&client).await, client.idle_len()) });
        assert_eq!((answer, idle), (Ok((200, b"x".to_vec())), 1), "turn {turn}");
    }
    // They are kept for a minute: waiting for that would be seen.
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!((origin.connections(), rig.shared.open_len()), (12, 1));
}

/// An origin that answers nothing, and a channel that tells when it was asked.
fn silent() -> (Origin, mpsc::Receiver<()>) {
    let (asked, seen) = mpsc::channel();
    let asked = Mutex::new(asked);
    let origin = Origin::start(move |mut stream, _| {
        read_head(&mut stream);
        let _ = asked.lock().expect("no panic while sending").send(());
        read_rest(&mut stream);
    });
    (origin, seen)
}

#[test]
fn waiting_for_a_place_has_an_end() {
    let (asked, seen) = mpsc::channel();
    let asked = Mutex::new(asked);
    // Never silent and never done: its connection is in use for as long as the test runs.
    let origin = Origin::start(move |mut stream, _| {
        read_head(&mut stream);
        let _ = asked.lock().expect("no panic while sending").send(());
        let mut next: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
        while stream.write_all(next).is_ok() {
            next = b"x";
            std::thread::park_timeout(Duration::from_millis(5));
        }
    });
    let wait_max = Duration::from_millis(200);
    let short =
        OriginSettings { connect_timeout: wait_max / 2, attempts: 2, read_timeout: wait_max, ..capped(1) };
    let rig = Rig::start(short, 2, None, &[origin.address]);
    let _held = rig.begin(0, |client, _| async move { get(&client).await });
    seen.recv().expect("the origin is asked");
    for core in [0, 1] {
        let start = Instant::now();
        assert_eq!(
            rig.run(core, |client, _| async move { get(&client).await }),
            Err(OriginFailure::Overloaded)
        );
        assert!(start.elapsed() >= wait_max);
        pass_turn(&rig, core);
        pass_turn(&rig, 0);
        assert_eq!((rig.shared.gate.waiting(), rig.count(Counter::OriginWaiting)), (0, 0));
    }
    assert_eq!(rig.count(Counter::OriginOverloaded), 2);
}

#[test]
fn a_waiter_that_is_dropped_leaves_the_line() {
    let (origin, asked) = silent();
    let rig = Rig::start(capped(1), 2, None, &[origin.address]);
    let held = rig.begin(1, |client, ring| async move {
        let held = ring.timeout(Duration::from_millis(300), get(&client)).await;
        held.is_err()
    });
    asked.recv().expect("the origin is asked");
    let gave_up = rig.run(1, |client, ring| async move {
        ring.timeout(Duration::from_millis(20), get(&client)).await.is_err()
    });
    pass_turn(&rig, 1);
    pass_turn(&rig, 0);
    assert!(gave_up);
    assert_eq!(rig.shared.gate.waiting(), 0);
    assert_eq!(held.recv(), Ok(true));
    assert_eq!(rig.shared.open_len(), 0);
}

#[test]
fn a_connection_that_is_not_opened_gives_its_place_back() {
    let refusing = std::net::TcpListener::bind(("127.0.0.1", 0))
        .and_then(|free| free.local_addr())
        .expect("a port is free");
    let rig = Rig::start(capped(1), 2, None, &[refusing]);
    for core in [0, 1, 0, 1] {
        assert_eq!(rig.run(core, |client, _| async move { get(&client).await }), Err(OriginFailure::Refused));
        assert_eq!((rig.shared.open_len(), rig.count(Counter::OriginConnectionsOpen)), (0, 0));
    }
}
