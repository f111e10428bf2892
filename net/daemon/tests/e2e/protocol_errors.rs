//! What is not HTTP, or is HTTP twice over: refused or re-framed to exactly one message, whatever the bytes.

use crate::support::{Aspis, Broken, Launch, Origin, Random, Viewer};

fn before(origin: &Origin) -> Aspis {
    Launch::before(&origin.url()).start()
}

fn echo() -> Origin {
    Origin::start(|reply| {
        let body = reply.body();
        reply.answer(200, &[("Cache-Control", "no-store")], &body);
    })
}

/// H-23: TLS on the plain port is answered with 400 in the clear.
#[test]
fn tls_on_the_plain_port_is_400() {
    let origin = echo();
    let aspis = before(&origin);
    let mut hello = vec![0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    hello.extend_from_slice(&[0xab; 194]);
    let mut viewer = Viewer::connect(&aspis);
    viewer.send(&hello);
    let response = viewer.response();
    assert_eq!(response.status(), 400, "{response:?}");
    viewer.expect_close();
    assert_eq!(origin.total(), 0);
}

/// Bytes of any kind never stop the server, and what it answers is HTTP.
#[test]
fn garbage_of_200_seeds_is_survived() {
    let origin = echo();
    let aspis = before(&origin);
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut viewer = Viewer::connect(&aspis);
        let bytes = garbage(&mut random);
        let _ = viewer.connection.send(&bytes);
        viewer.connection.finish_sending();
        let answer = viewer.rest();
        let shown = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "seed {seed}: {shown}");
    }
    Viewer::connect(&aspis).get("/alive").expect(200, b"");
}

/// Pure noise, or a valid request with bytes changed, dropped, doubled or inserted.
fn garbage(random: &mut Random) -> Vec<u8> {
    if random.below(4) == 0 {
        return (0..random.below(3000)).map(|_| random.byte()).collect();
    }
    let mut bytes = b"POST /a HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n\
                      5;x=\"y\"\r\nhello\r\n0\r\nT: u\r\n\r\nGET /b HTTP/1.1\r\nHost: a.example\r\n\r\n"
        .to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] = random.byte(),
            1 => {
                bytes.remove(at);
            }
            2 => bytes.insert(at, b"\r\n :,;\0\t0f"[random.below(10)]),
            _ => {
                let piece = bytes[at..(at + random.below(20)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}

/// Answers of any kind never stop the server either, and none of them reaches the store as something else.
#[test]
fn garbage_answers_of_200_seeds_are_survived() {
    let origin = Origin::start(|reply| {
        if reply.request.target() == "/alive" {
            return reply.answer(200, &[], b"yes");
        }
        let seed = reply.request.target()[1..].parse().expect("the test asks for a number");
        let mut random = Random::new(seed);
        let mut bytes = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n\
                          5\r\nhello\r\n0\r\nT: u\r\n\r\n"
            .to_vec();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[at] = random.byte(),
                1 => {
                    bytes.remove(at);
                }
                _ => bytes.insert(at, b"\r\n :,;\0\t0f"[random.below(10)]),
            }
        }
        reply.send(&bytes);
        reply.close();
    });
    let aspis = Launch::before(&origin.url()).with("--read-timeout", "2s").start();
    for seed in 0..200 {
        let mut viewer = Viewer::connect(&aspis);
        viewer.ask("GET", &format!("/{seed}"), "Connection: close\r\n");
        match viewer.try_response() {
            Ok(_) | Err(Broken::Truncated(..)) => {}
            // A broken chunk shows as a chunked answer that is cut within its framing.
            Err(Broken::Failed(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
            Err(broken) => panic!("seed {seed}: {broken:?}"),
        }
    }
    Viewer::connect(&aspis).get("/alive").expect(200, b"yes");
}
