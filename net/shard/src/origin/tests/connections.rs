//! Keeping connections, finding them stale, opening them, giving up.

use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use aspis_exchange::OriginFailure;
use aspis_telemetry::Counter;
use aspis_wire::Method;
use aspis_wire::request::RequestFraming;

use super::rig::{
    GET, Origin, Pieces, Rig, end, fetch, get, ok, read_all, read_head, read_rest, request, settings,
};
use crate::origin::{NoBody, OriginRequest, OriginSettings};

#[test]
fn a_connection_serves_many_responses_of_every_framing() {
    let origin = Origin::answering(|request| {
        match request {
        _ if request.starts_with(b"HEAD") => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec(),
        _ if request.starts_with(b"DELETE") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        _ if request.starts_with(b"GET /chunked") => {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n".to_vec()
        }
        _ => ok(b"12345"),
    }
    });
    let rig = Rig::one(settings(), origin.address);
    let answers = rig.run(0, |client, _| async move {
        let chunked = request(b"GET /chunked HTTP/1.1\r\nHost: o\r\n\r\n", Method::Get);
        let head = request(b"HEAD / HTTP/1.1\r\nHost: o\r\n\r\n", Method::Head);
        let delete = request(b"DELETE / HTTP/1.1\r\nHost: o\r\n\r\n", Method::Delete);
        let mut answers = vec![get(&client).await];
        for request in [chunked, head, delete] {
            answers.push(fetch(&client, request, None::<NoBody>).await);
        }
        assert_eq!(client.idle_len(), 1);
        answers
    });
    let expected: [(u16, &[u8]); 4] = [(200, b"12345"), (200, b"abcde"), (200, b""), (204, b"")];
    assert_eq!(answers, expected.map(|(status, content)| Ok((status, content.to_vec()))));
    assert_eq!(origin.connections(), 1);
    assert_eq!(rig.count(Counter::OriginConnectionsReused), 3);
    assert_eq!(rig.shared.open_len(), 1);
}

/// An origin that answers the first request of its first connection and closes at the second.
fn forgetful(requests: &Arc<AtomicUsize>) -> Origin {
    let requests = Arc::clone(requests);
    Origin::start(move |mut stream, number| {
        while read_head(&mut stream).is_some() {
            if requests.fetch_add(1, Ordering::SeqCst) == 1 && number == 0 {
                return;
            }
            stream.write_all(&ok(b"hello")).expect("the client reads");
        }
    })
}

#[test]
fn a_kept_connection_that_closes_without_a_byte_is_replaced() {
    let requests = Arc::new(AtomicUsize::new(0));
    let origin = forgetful(&requests);
    let rig = Rig::one(OriginSettings { attempts: 1, ..settings() }, origin.address);
    let answers = rig.run(0, |client, _| async move { [get(&client).await, get(&client).await] });
    assert_eq!(answers, [Ok((200, b"hello".to_vec())), Ok((200, b"hello".to_vec()))]);
    assert_eq!((origin.connections(), requests.load(Ordering::SeqCst)), (2, 3));
    assert_eq!(rig.count(Counter::OriginRetries), 1);
}

/// RFC 9110 §9.2.2: POST is not idempotent; and content that was used cannot be sent again.
#[test]
fn a_post_on_a_connection_that_closes_is_not_repeated() {
    for has_content in [false, true] {
        let requests = Arc::new(AtomicUsize::new(0));
        let origin = forgetful(&requests);
        let rig = Rig::one(settings(), origin.address);
        let answer = rig.run(0, move |client, _| async move {
            get(&client).await.expect("the first answer comes");
            if has_content {
                let head = b"PUT / HTTP/1.1\r\nHost: o\r\nContent-Length: 2\r\n\r\n";
                let framing = RequestFraming::Length(2);
                let request = OriginRequest { head, method: Method::Put, framing, upgrade: false };
                fetch(&client, request, Some(Pieces::new(&[b"hi"]))).await
            } else {
                fetch(&client, request(b"POST / HTTP/1.1\r\nHost: o\r\n\r\n", Method::Post), None::<NoBody>)
                    .await
            }
        });
        assert_eq!(answer, Err(OriginFailure::Reset));
        assert_eq!(requests.load(Ordering::SeqCst), 2, "content: {has_content}");
    }
}

#[test]
fn a_kept_connection_that_was_closed_or_spoke_is_not_used() {
    for speech in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"] {
        let (act, told) = mpsc::channel::<()>();
        let (acted, seen) = mpsc::channel::<()>();
        let signals = Mutex::new((told, acted));
        let origin = Origin::start(move |mut stream, number| {
            while read_head(&mut stream).is_some() {
                stream.write_all(&ok(b"good")).expect("the client reads");
                if number == 0 {
                    let signals = signals.lock().expect("one connection waits at a time");
                    signals.0.recv().expect("the test goes on");
                    stream.write_all(speech).expect("the connection is open");
                    if speech.is_empty() {
                        stream.shutdown(std::net::Shutdown::Both).expect("the connection is open");
                    }
                    signals.1.send(()).expect("the test goes on");
                }
            }
        });
        let rig = Rig::one(settings(), origin.address);
        assert_eq!(rig.run(0, |client, _| async move { get(&client).await }), Ok((200, b"good".to_vec())));
        act.send(()).expect("the origin waits");
        seen.recv().expect("the origin acts");
        assert_eq!(rig.run(0, |client, _| async move { get(&client).await }), Ok((200, b"good".to_vec())));
        assert_eq!(origin.connections(), 2);
        assert_eq!(rig.count(Counter::OriginRetries), 0, "it was seen before a request was sent");
    }
}

/// D-26.
#[test]
fn an_idle_connection_is_closed_after_the_keepalive_timeout() {
    let (closed, seen) = mpsc::channel();
    let closed = Mutex::new(closed);
    let origin = Origin::start(move |mut stream, _| {
        read_head(&mut stream).expect("a request comes");
        stream.write_all(&ok(b"x")).expect("the client reads");
        assert!(read_head(&mut stream).is_none(), "no second request on this connection");
        let _ = closed.lock().expect("no panic while sending").send(());
    });
    let keepalive_timeout = Duration::from_millis(150);
    let rig = Rig::one(OriginSettings { keepalive_timeout, ..settings() }, origin.address);
    let idle = rig.run(0, move |client, ring| async move {
        let mut idle = Vec::new();
        get(&client).await.expect("the origin answers");
        client.sweep();
        idle.push(client.idle_len());
        ring.sleep(keepalive_timeout * 2).await;
        // Too old to be used, even before the sweep.
        get(&client).await.expect("the origin answers");
        idle.push(client.idle_len());
        client.sweep();
        idle.push(client.idle_len());
        ring.sleep(keepalive_timeout * 2).await;
        client.sweep();
        idle.push(client.idle_len());
        idle
    });
    assert_eq!(idle, [1, 2, 1, 0]);
    for _ in 0..2 {
        seen.recv_timeout(Duration::from_secs(10)).expect("the origin sees each connection end");
    }
    assert_eq!((origin.connections(), rig.shared.open_len()), (2, 0));
}

#[test]
fn a_request_that_cannot_be_repeated_takes_no_old_connection() {
    let origin = Origin::answering(|_| ok(b"x"));
    let rig = Rig::one(settings(), origin.address);
    rig.run(0, |client, ring| async move {
        let post = request(b"POST / HTTP/1.1\r\nHost: o\r\n\r\n", Method::Post);
        get(&client).await.expect("the origin answers");
        fetch(&client, post, None::<NoBody>).await.expect("a young connection will do");
        ring.sleep(super::super::limits::UNREPEATABLE_IDLE_MAX + Duration::from_millis(100)).await;
        fetch(&client, post, None::<NoBody>).await.expect("a new connection is opened");
    });
    assert_eq!(origin.connections(), 2);
}

#[test]
fn settings_that_change_retire_what_was_kept() {
    let origin = Origin::answering(|_| ok(b"x"));
    let rig = Rig::one(settings(), origin.address);
    let idle = rig.run(0, |client, _| async move {
        get(&client).await.expect("the origin answers");
        let before = client.idle_len();
        client.close_idle();
        (before, client.idle_len())
    });
    assert_eq!((idle, rig.shared.open_len()), ((1, 0), 0));
}

/// D-24: attempts 3, silent origin: GET is asked three times, POST once.
#[test]
fn a_silent_origin_is_asked_as_often_as_the_rules_allow() {
    for (method, head, expected) in [
        (Method::Get, GET, 3),
        (Method::Head, &b"HEAD / HTTP/1.1\r\nHost: o\r\n\r\n"[..], 3),
        (Method::Post, b"POST / HTTP/1.1\r\nHost: o\r\n\r\n", 1),
        (Method::Put, b"PUT / HTTP/1.1\r\nHost: o\r\n\r\n", 1),
    ] {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let origin = Origin::start(move |mut stream, _| {
            if read_head(&mut stream).is_some() {
                counted.fetch_add(1, Ordering::SeqCst);
                read_rest(&mut stream);
            }
        });
        let read_timeout = Duration::from_millis(100);
        let rig = Rig::one(OriginSettings { read_timeout, ..settings() }, origin.address);
        let start = Instant::now();
        let answer = rig.run(0, move |client, _| async move {
            fetch(&client, request(head, method), None::<NoBody>).await
        });
        assert_eq!(answer, Err(OriginFailure::ReadTimeout), "{method:?}");
        assert_eq!(requests.load(Ordering::SeqCst), expected, "{method:?}");
        assert!(start.elapsed() >= read_timeout * expected as u32, "{method:?}");
        assert_eq!(rig.shared.open_len(), 0);
    }
}

/// D-23: the limit holds between any two bytes; and nothing is repeated once a byte came.
#[test]
fn an_origin_that_stops_in_the_middle_times_out_once() {
    for part in [&b"HTTP/1.1 200 OK\r\nContent-"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345"] {
        let origin = Origin::start(move |mut stream, _| {
            if read_head(&mut stream).is_some() {
                stream.write_all(part).expect("the client reads");
                read_rest(&mut stream);
            }
        });
        let rig = Rig::one(
            OriginSettings { read_timeout: Duration::from_millis(100), ..settings() },
            origin.address,
        );
        let answer = rig.run(0, |client, _| async move { get(&client).await });
        assert_eq!(answer, Err(OriginFailure::ReadTimeout));
        assert_eq!((origin.connections(), rig.shared.open_len()), (1, 0));
        assert_eq!(rig.count(Counter::OriginReadTimeout), 1);
    }
}

#[test]
fn an_address_that_refuses_is_passed_over_within_the_attempt() {
    let origin = Origin::answering(|_| ok(b"x"));
    // Bound and not listening any more: refuses.
    let refusing =
        TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr()).expect("a port is free");
    let one_attempt = OriginSettings { attempts: 1, ..settings() };
    let rig = Rig::start(one_attempt.clone(), 1, None, &[refusing, origin.address]);
    assert_eq!(rig.run(0, |client, _| async move { get(&client).await }), Ok((200, b"x".to_vec())));
    let rig = Rig::start(one_attempt, 1, None, &[refusing]);
    assert_eq!(rig.run(0, |client, _| async move { get(&client).await }), Err(OriginFailure::Refused));
    assert_eq!(rig.shared.open_len(), 0);
}

#[test]
fn without_addresses_the_origin_is_unresolvable() {
    let rig = Rig::start(settings(), 1, None, &[]);
    assert_eq!(rig.run(0, |client, _| async move { get(&client).await }), Err(OriginFailure::Unresolvable));
    assert_eq!(rig.count(Counter::OriginUnresolvable), 1);
}

#[test]
fn addresses_are_taken_in_turn() {
    let origins: Vec<_> = (0..3)
        .map(|_| {
            Origin::start(|mut stream, _| {
                read_head(&mut stream);
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                end(stream);
            })
        })
        .collect();
    let addresses: Vec<_> = origins.iter().map(|origin| origin.address).collect();
    let rig = Rig::start(settings(), 1, None, &addresses);
    rig.run(0, |client, _| async move {
        for _ in 0..6 {
            get(&client).await.expect("the origin answers");
        }
    });
    assert_eq!(origins.iter().map(Origin::connections).collect::<Vec<_>>(), [2, 2, 2]);
}

#[test]
fn connections_to_an_address_that_is_gone_are_not_used_again() {
    let [old, new] = [b"old", b"new"].map(|content| Origin::answering(move |_| ok(content)));
    let rig = Rig::one(settings(), old.address);
    let (before, kept) = (old.address, new.address);
    let answers = rig.run(0, move |client, _| async move {
        let mut answers = vec![get(&client).await];
        client.set_addresses(Arc::from([kept, before]));
        assert_eq!(client.idle_len(), 1, "the address is still one of the origin's");
        // One connection is in use while its address goes.
        let response = client.fetch(request(GET, Method::Get), None::<NoBody>, &mut |_| {}).await;
        client.set_addresses(Arc::from([kept]));
        let mut response = response.expect("the old address answers");
        answers.push(read_all(&mut response.body).await.map(|content| (200, content)));
        assert_eq!(client.idle_len(), 0);
        answers.push(get(&client).await);
        answers
    });
    let expected = [b"old", b"old", b"new"].map(|content| Ok((200, content.to_vec())));
    assert_eq!(answers, expected);
}

#[test]
fn dropping_a_response_half_way_closes_its_connection() {
    let (closed, seen) = mpsc::channel();
    let closed = Mutex::new(closed);
    let origin = Origin::start(move |mut stream, _| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345").expect("the client reads");
        read_rest(&mut stream);
        let _ = closed.lock().expect("no panic while sending").send(());
    });
    let rig = Rig::one(settings(), origin.address);
    rig.run(0, |client, _| async move {
        let response = client.fetch(request(GET, Method::Get), None::<NoBody>, &mut |_| {}).await;
        let mut response = response.expect("a head comes");
        let (read, _) = response.body.read(vec![0; 3]).await;
        assert_eq!(read, Ok(3));
    });
    seen.recv_timeout(Duration::from_secs(10)).expect("the origin sees the end");
    assert_eq!(rig.shared.open_len(), 0);
}
