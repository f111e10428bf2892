//! Heads, interim responses, framing, truncation, surplus.

use std::io::Write;

use aspis_exchange::OriginFailure;
use aspis_telemetry::Counter;
use aspis_wire::Method;

use super::rig::{GET, Origin, Rig, end, get, ok, read_all, read_head, request, settings, status_of};
use crate::origin::NoBody;
use crate::origin::limits::{HEAD_LEN_MAX, INTERIM_COUNT_MAX};

/// An origin that answers one request per connection with these bytes and ends.
fn one_shot(answer: Vec<u8>) -> Origin {
    Origin::start(move |mut stream, _| {
        if read_head(&mut stream).is_some() {
            let _ = stream.write_all(&answer);
            end(stream);
        }
    })
}

fn answer_to(bytes: &[u8]) -> (super::rig::Fetched, Origin) {
    let origin = one_shot(bytes.to_vec());
    let rig = Rig::one(settings(), origin.address);
    let answer = rig.run(0, |client, _| async move {
        let answer = get(&client).await;
        assert!(answer.is_ok() || client.idle_len() == 0, "a connection that failed is not kept");
        client.close_idle();
        answer
    });
    assert_eq!(rig.shared.open_len(), 0);
    (answer, origin)
}

#[test]
fn content_that_is_cut_short_is_an_error() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123456789"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n1234",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ] {
        assert_eq!(answer_to(answer).0, Err(OriginFailure::Truncated), "{}", String::from_utf8_lossy(answer));
    }
}

#[test]
fn broken_chunks_are_an_error() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123456\r\n0\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ] {
        assert_eq!(answer_to(answer).0, Err(OriginFailure::Invalid), "{}", String::from_utf8_lossy(answer));
    }
}

/// Rule 10 of the RFC 9111 profile: an unknown coding is read to the close.
#[test]
fn content_until_close_is_whole_when_the_stream_ends_in_order() {
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: exotic\r\n\r\n",
        "HTTP/1.0 200 OK\r\n\r\n",
    ] {
        let content = vec![b'c'; 100_000];
        let answer = [head.as_bytes(), &content].concat();
        assert_eq!(answer_to(&answer).0, Ok((200, content)), "{head}");
    }
}

#[test]
fn heads_that_cannot_be_parsed_are_invalid_and_not_asked_for_again() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ] {
        let (answered, origin) = answer_to(answer);
        assert_eq!(answered, Err(OriginFailure::Invalid), "{}", String::from_utf8_lossy(answer));
        assert_eq!(origin.connections(), 1);
    }
}

#[test]
fn a_fresh_connection_that_closes_without_a_byte_uses_up_the_attempts() {
    let (answered, origin) = answer_to(b"");
    assert_eq!(answered, Err(OriginFailure::Reset));
    assert_eq!(origin.connections(), 3);
}

/// H-10.
#[test]
fn a_head_may_have_32_kib_and_no_byte_more() {
    let frame = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: \r\n\r\n".len();
    for (len, expected) in
        [(HEAD_LEN_MAX, Ok((200, b"ok".to_vec()))), (HEAD_LEN_MAX + 1, Err(OriginFailure::HeadTooLarge))]
    {
        let padding = "x".repeat(len - frame);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: {padding}\r\n\r\nok");
        assert_eq!(answer_to(answer.as_bytes()).0, expected, "{len}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(20).repeat(1000));
    let (answered, _) = answer_to(endless.as_bytes());
    assert!(matches!(answered, Err(OriginFailure::HeadTooLarge | OriginFailure::Invalid)), "{answered:?}");
}

/// H-21 and rule 17 of the RFC 9111 profile.
#[test]
fn interim_responses_go_on_or_are_swallowed() {
    let interim: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    let answer =
        [b"HTTP/1.1 100 Continue\r\n\r\n", interim, b"HTTP/1.1 102 Processing\r\n\r\n", &ok(b"done")]
            .concat();
    let origin = Origin::answering(move |_| answer.clone());
    let rig = Rig::one(settings(), origin.address);
    let (status, content, seen, idle) = rig.run(0, |client, _| async move {
        let mut seen = Vec::new();
        let mut note = |raw: &[u8]| seen.push(raw.to_vec());
        let response = client.fetch(request(GET, Method::Get), None::<NoBody>, &mut note).await;
        let mut response = response.expect("the final response comes");
        let status = status_of(&response.head, Method::Get);
        (status, read_all(&mut response.body).await, seen, client.idle_len())
    });
    assert_eq!((status, content, idle), (200, Ok(b"done".to_vec()), 1));
    assert_eq!(seen, [interim, b"HTTP/1.1 102 Processing\r\n\r\n"]);
}

/// H-21: one 100 is accepted, a second one is an error.
#[test]
fn a_second_100_is_invalid() {
    let once = [b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), ok(b"x")].concat();
    assert_eq!(answer_to(&once).0, Ok((200, b"x".to_vec())));
    let twice = [b"HTTP/1.1 100 Continue\r\n\r\n".repeat(2), ok(b"x")].concat();
    assert_eq!(answer_to(&twice).0, Err(OriginFailure::Invalid));
}

#[test]
fn interim_responses_have_a_limit() {
    for (count, expected) in
        [(INTERIM_COUNT_MAX, Ok((200, b"x".to_vec()))), (INTERIM_COUNT_MAX + 1, Err(OriginFailure::Invalid))]
    {
        let answer = [b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count as usize), ok(b"x")].concat();
        assert_eq!(answer_to(&answer).0, expected, "{count}");
    }
}

/// Rule 10.
#[test]
fn bytes_behind_a_response_close_its_connection() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
    ] {
        let origin = Origin::answering(move |_| answer.to_vec());
        let rig = Rig::one(settings(), origin.address);
        let answers = rig.run(0, |client, _| async move {
            let answers = [get(&client).await, get(&client).await];
            (answers, client.idle_len())
        });
        let expected = Ok((200, b"ok".to_vec()));
        assert_eq!(answers, ([expected.clone(), expected], 0), "{}", String::from_utf8_lossy(answer));
        assert_eq!(origin.connections(), 2);
    }
}

#[test]
fn every_split_of_a_response_gives_the_same() {
    let chunked: &[u8] =
        b"HTTP/1.1 103 H\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nT: v\r\n\r\n";
    for at in 1..chunked.len() {
        let origin = Origin::start(move |mut stream, _| {
            if read_head(&mut stream).is_some() {
                stream.write_all(&chunked[..at]).expect("the client reads");
                // Long enough for the client to look in most runs; right in any case.
                std::thread::park_timeout(std::time::Duration::from_millis(1));
                stream.write_all(&chunked[at..]).expect("the client reads");
                end(stream);
            }
        });
        let rig = Rig::one(settings(), origin.address);
        assert_eq!(
            rig.run(0, |client, _| async move { get(&client).await }),
            Ok((200, b"abcdefg".to_vec())),
            "{at}"
        );
        assert_eq!(rig.count(Counter::OriginInvalid), 0);
    }
}
