//! Sending content, early answers, both directions at once, tunnels.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use aspis_exchange::OriginFailure;
use aspis_runtime::Ring;
use aspis_wire::Method;
use aspis_wire::request::RequestFraming;

use super::rig::{
    Origin, Pieces, Rig, end, fetch, get, ok, read_all, read_head, read_rest, settings, status_of,
};
use crate::origin::{BodyGone, LentBody, NoBody, OriginRequest, OriginSettings, RequestBody};

const LENGTH_10: &[u8] = b"POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 10\r\n\r\n";
const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\n\r\n";

fn post(head: &[u8], framing: RequestFraming) -> OriginRequest<'_> {
    OriginRequest { head, method: Method::Post, framing, upgrade: false }
}

/// An origin that reports everything it receives after the head, once the client ends or `enough` bytes came.
fn recording(enough: usize) -> (Origin, mpsc::Receiver<Vec<u8>>) {
    let (report, reported) = mpsc::channel();
    let report = Mutex::new(report);
    let origin = Origin::start(move |mut stream, _| {
        if read_head(&mut stream).is_none() {
            return;
        }
        let mut content = vec![0; enough];
        let mut filled = 0;
        while filled < enough {
            match stream.read(&mut content[filled..]) {
                Ok(count @ 1..) => filled += count,
                _ => break,
            }
        }
        content.truncate(filled);
        let _ = report.lock().expect("no panic while sending").send(content);
        let _ = stream.write_all(&ok(b"taken"));
        read_rest(&mut stream);
    });
    (origin, reported)
}

#[test]
fn content_is_framed_as_the_head_says() {
    let chunked: &[u8] = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    for (head, framing, pieces, expected) in [
        (LENGTH_10, RequestFraming::Length(10), [&b"hello"[..], b"", b"world"], &b"helloworld"[..]),
        (CHUNKED, RequestFraming::Chunked, [b"hello", b"", b" world"], chunked),
    ] {
        let (origin, reported) = recording(expected.len());
        let rig = Rig::one(settings(), origin.address);
        let answer = rig.run(0, move |client, _| async move {
            let answer = fetch(&client, post(head, framing), Some(Pieces::new(&pieces))).await;
            assert_eq!(client.idle_len(), 1, "the connection is good for the next request");
            answer
        });
        assert_eq!(answer, Ok((200, b"taken".to_vec())));
        assert_eq!(reported.recv().expect("the origin reports"), expected);
    }
}

#[test]
fn content_that_ends_early_or_runs_over_ends_the_connection() {
    let gone = || Pieces { pieces: VecDeque::from([b"hello".to_vec()]), end: Err(BodyGone) };
    for (head, framing, body) in [
        (LENGTH_10, RequestFraming::Length(10), Pieces::new(&[b"hello"])),
        (LENGTH_10, RequestFraming::Length(10), Pieces::new(&[b"hello", b"worlds"])),
        (LENGTH_10, RequestFraming::Length(10), gone()),
        (CHUNKED, RequestFraming::Chunked, gone()),
    ] {
        let (origin, reported) = recording(1000);
        let rig = Rig::one(settings(), origin.address);
        let answer =
            rig.run(0, move |client, _| async move { fetch(&client, post(head, framing), Some(body)).await });
        assert_eq!(answer, Err(OriginFailure::ViewerGone));
        let content = reported.recv_timeout(Duration::from_secs(10)).expect("the origin sees the end");
        let whole: &[u8] = if framing == RequestFraming::Chunked { b"5\r\nhello\r\n" } else { b"hello" };
        assert_eq!(content, whole, "no byte makes it look complete");
        assert_eq!((origin.connections(), rig.shared.open_len()), (1, 0));
    }
}

/// Content that never ends, one piece per poll of its ring.
struct Endless(Ring);

impl RequestBody for Endless {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, BodyGone> {
        self.0.sleep(Duration::from_millis(1)).await;
        Ok(Some(vec![b'x'; 1000]))
    }
}

#[test]
fn an_early_refusal_is_an_answer() {
    let origin = Origin::start(|mut stream, _| {
        read_head(&mut stream);
        let mut some = [0; 5000];
        stream.read_exact(&mut some).expect("content comes");
        stream
            .write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
            .expect("the client reads");
        end(stream);
    });
    let rig = Rig::one(settings(), origin.address);
    let (answer, idle, is_back) = rig.run(0, |client, ring| async move {
        let body = LentBody::new(Endless(ring));
        let answer = fetch(&client, post(CHUNKED, RequestFraming::Chunked), Some(body.clone())).await;
        (answer, client.idle_len(), body.take_back().is_some())
    });
    assert_eq!(answer, Ok((413, b"big".to_vec())));
    assert_eq!((idle, rig.shared.open_len()), (0, 0), "half a request is on this connection");
    assert!(is_back, "the viewer side gets its content back");
}

#[test]
fn an_early_refusal_that_ends_in_a_reset_is_an_answer_too() {
    let origin = Origin::start(|mut stream, _| {
        read_head(&mut stream);
        let mut some = [0; 5000];
        stream.read_exact(&mut some).expect("content comes");
        stream
            .write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
            .expect("the client reads");
        // Closed with content unread: the kernel says so with a reset.
    });
    let rig = Rig::one(settings(), origin.address);
    for _ in 0..20 {
        let answer = rig.run(0, |client, ring| async move {
            fetch(&client, post(CHUNKED, RequestFraming::Chunked), Some(Endless(ring))).await
        });
        assert_eq!(answer, Ok((413, Vec::new())));
    }
}

#[test]
fn an_answer_may_go_along_with_the_content() {
    // Each piece is answered before the next is sent: neither direction can wait for the other to end.
    struct Answered {
        next: usize,
        seen: std::rc::Rc<std::cell::Cell<usize>>,
        ring: Ring,
    }
    impl RequestBody for Answered {
        async fn next(&mut self) -> Result<Option<Vec<u8>>, BodyGone> {
            while self.seen.get() < self.next {
                self.ring.sleep(Duration::from_millis(1)).await;
            }
            self.next += 1;
            Ok((self.next <= 5).then(|| vec![b'0' + self.next as u8]))
        }
    }
    let origin = Origin::start(|mut stream, _| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").expect("the client reads");
        let mut piece = [0; 6];
        for _ in 0..5 {
            stream.read_exact(&mut piece).expect("a chunk comes");
            stream.write_all(&piece[3..4]).expect("the client reads");
        }
        read_rest(&mut stream);
    });
    let rig = Rig::one(settings(), origin.address);
    let answer = rig.run(0, |client, ring| async move {
        let seen = std::rc::Rc::new(std::cell::Cell::new(0));
        let body = Answered { next: 0, seen: seen.clone(), ring };
        let response = client.fetch(post(CHUNKED, RequestFraming::Chunked), Some(body), &mut |_| {}).await;
        let mut response = response.expect("the head comes before the content is sent");
        let mut all = Vec::new();
        loop {
            let (read, buffer) = response.body.read(vec![0; 10]).await;
            match read.expect("the answer goes on") {
                0 => return all,
                count => all.extend_from_slice(&buffer[..count]),
            }
            seen.set(all.len());
        }
    });
    assert_eq!(answer, b"12345");
}

#[test]
fn a_body_that_was_taken_back_ends_the_request() {
    let (origin, reported) = recording(1000);
    let rig = Rig::one(settings(), origin.address);
    let answer = rig.run(0, |client, _| async move {
        let body = LentBody::new(Pieces::new(&[b"hello"]));
        drop(body.take_back());
        fetch(&client, post(LENGTH_10, RequestFraming::Length(10)), Some(body)).await
    });
    assert_eq!(answer, Err(OriginFailure::ViewerGone));
    assert_eq!(reported.recv().expect("the origin sees the end"), b"");
}

#[test]
fn an_origin_that_takes_no_content_times_out() {
    let origin = Origin::start(|mut stream, _| {
        read_head(&mut stream);
        std::thread::park_timeout(Duration::from_secs(5));
    });
    let rig =
        Rig::one(OriginSettings { read_timeout: Duration::from_millis(200), ..settings() }, origin.address);
    let answer = rig.run(0, |client, _| async move {
        let piece = vec![b'x'; 1 << 20];
        let pieces = Pieces { pieces: (0..64).map(|_| piece.clone()).collect(), end: Ok(()) };
        fetch(&client, post(CHUNKED, RequestFraming::Chunked), Some(pieces)).await
    });
    assert_eq!(answer, Err(OriginFailure::ReadTimeout));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_dropped_read_does_not_lose_bytes_silently() {
    let (go, told) = mpsc::channel::<()>();
    let told = Arc::new(Mutex::new(told));
    let origin = Origin::start(move |mut stream, _| {
        read_head(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").expect("the client reads");
        let _ = told.lock().expect("no panic while waiting").recv();
        let _ = stream.write_all(b"body");
        read_rest(&mut stream);
    });
    let rig = Rig::one(settings(), origin.address);
    let read = rig.run(0, move |client, ring| async move {
        let request = super::rig::request(super::rig::GET, Method::Get);
        let mut response = client.fetch(request, None::<NoBody>, &mut |_| {}).await.expect("the head comes");
        let given_up = ring.timeout(Duration::from_millis(50), response.body.read(vec![0; 4])).await;
        assert!(given_up.is_err(), "nothing to read yet");
        go.send(()).expect("the origin waits");
        read_all(&mut response.body).await
    });
    assert_eq!(read, Err(OriginFailure::Reset));
    assert_eq!(rig.shared.open_len(), 0);
}

/// H-31.
#[test]
fn an_upgrade_becomes_a_tunnel_both_ways() {
    let origin = Origin::start(|mut stream, _| {
        read_head(&mut stream);
        let head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n";
        stream.write_all(&[&head[..], b"early"].concat()).expect("the client reads");
        let mut buffer = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..count]).expect("the client reads");
        }
    });
    let rig = Rig::one(settings(), origin.address);
    let (echo, idle) = rig.run(0, |client, ring| async move {
        let head = b"GET /ws HTTP/1.1\r\nHost: o\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        let request =
            OriginRequest { head, method: Method::Get, framing: RequestFraming::None, upgrade: true };
        let response = client.fetch(request, None::<NoBody>, &mut |_| {}).await.expect("the origin switches");
        assert_eq!(status_of(&response.head, Method::Get), 101);
        let tunnel = response.body.into_tunnel().expect("a 101 has a tunnel");
        let mut echo = Vec::new();
        // A read is under way while the write is made.
        let read = async {
            while echo.len() < b"earlyhello".len() {
                let (read, buffer) = tunnel.read(vec![0; 3]).await;
                echo.extend_from_slice(&buffer[..read.expect("the tunnel is open")]);
            }
        };
        let write = async {
            ring.sleep(Duration::from_millis(20)).await;
            tunnel.write(b"hello".to_vec()).await.expect("the tunnel is open");
        };
        aspis_runtime::future::join(read, write).await;
        drop(tunnel);
        (echo, client.idle_len())
    });
    assert_eq!((echo, idle), (b"earlyhello".to_vec(), 0));
    assert_eq!(rig.shared.open_len(), 0);
}

#[test]
fn an_upgrade_that_is_declined_is_an_ordinary_response() {
    let origin = Origin::answering(|_| ok(b"plain"));
    let rig = Rig::one(settings(), origin.address);
    let (content, is_tunnel) = rig.run(0, |client, _| async move {
        let head = b"GET /ws HTTP/1.1\r\nHost: o\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        let request =
            OriginRequest { head, method: Method::Get, framing: RequestFraming::None, upgrade: true };
        let mut response =
            client.fetch(request, None::<NoBody>, &mut |_| {}).await.expect("the origin answers");
        let content = read_all(&mut response.body).await;
        let is_tunnel = response.body.into_tunnel().is_some();
        get(&client).await.expect("the connection is good for another");
        (content, is_tunnel)
    });
    assert_eq!((content, is_tunnel), (Ok(b"plain".to_vec()), false));
    assert_eq!(origin.connections(), 1);
}
