use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::tests::{admin, converse_with, play};
use super::*;

const CLOSE: &str = "Connection: close\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

fn post(fields: &str, content: &str) -> String {
    format!("POST /v1/invalidations HTTP/1.1\r\nHost: localhost\r\n{JSON}{fields}\r\n{content}")
}

fn statuses(answers: &str) -> Vec<&str> {
    answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

#[test]
fn an_answer_has_what_its_reader_needs() {
    let answer =
        converse_with(&admin(), format!("GET /healthz HTTP/1.1\r\nHost: a\r\n{CLOSE}\r\n").as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert_eq!(body, "ok\n");
    for field in
        ["content-type: text/plain; charset=utf-8", "content-length: 3", "connection: close", "date: "]
    {
        assert!(head.contains(&format!("\r\n{field}")), "{head}");
    }
    let head_alone =
        converse_with(&admin(), format!("HEAD /healthz HTTP/1.1\r\nHost: a\r\n{CLOSE}\r\n").as_bytes());
    assert_eq!(statuses(&head_alone), ["200"]);
    assert!(head_alone.contains("content-length: 3\r\n") && head_alone.ends_with("\r\n\r\n"), "{head_alone}");
}

#[test]
fn requests_are_answered_in_order_however_they_are_split() {
    let content = r#"{"paths":["/a"]}"#;
    let length = format!("Content-Length: {}\r\n", content.len());
    let chunked = format!("{:x}\r\n{}\r\n0\r\n\r\n", content.len(), content);
    let all = [
        "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        post(&length, content),
        post("Transfer-Encoding: chunked\r\n", &chunked),
        // Content that nobody wants is passed over.
        "GET /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        format!("GET /v1/invalidations HTTP/1.1\r\nHost: localhost\r\n{CLOSE}\r\n"),
    ]
    .concat();
    let expected = ["200", "201", "201", "404", "200"];
    assert_eq!(statuses(&converse_with(&admin(), all.as_bytes())), expected);
    let answers = play(&admin(), async |mut peer| {
        let mut answers = String::new();
        for piece in all.as_bytes().chunks(7) {
            peer.write_all(piece).await.expect("it is read");
            tokio::task::yield_now().await;
        }
        peer.read_to_string(&mut answers).await.expect("text");
        answers
    });
    assert_eq!(statuses(&answers), expected);
    assert!(answers.contains("\r\nlocation: /v1/invalidations/I"), "{answers}");
    assert!(answers.contains("\"quantity\":2}"), "{answers}");
}

#[test]
fn http_1_0_is_kept_only_if_it_asks() {
    let ask = |fields: &str| format!("GET /healthz HTTP/1.0\r\n{fields}\r\n");
    let once = [ask(""), ask("")].concat();
    assert_eq!(statuses(&converse_with(&admin(), once.as_bytes())), ["200"]);
    let kept = [ask("Connection: keep-alive\r\n"), ask("")].concat();
    let answers = converse_with(&admin(), kept.as_bytes());
    assert_eq!(statuses(&answers), ["200", "200"]);
    assert!(answers.contains("\r\nconnection: keep-alive\r\n"), "{answers}");
}

#[test]
fn what_cannot_be_read_is_refused_and_ends_the_connection() {
    let long = |len: usize| "x".repeat(len);
    let with_length = |len: usize| post(&format!("Content-Length: {len}\r\n"), "");
    for (bytes, status) in [
        ("\u{1}\u{2}\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), "505"),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", long(LIMITS.target_len_max)), "414"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", long(LIMITS.head_len_max)), "431"),
        (with_length(BODY_LEN_MAX + 1), "413"),
        (post("Transfer-Encoding: chunked\r\n", "x\r\n"), "400"),
        // Refused before its content was read: where the next one begins is not known.
        ("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n".to_owned(), "405"),
    ] {
        let next = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
        let answers = converse_with(&admin(), format!("{bytes}{next}").as_bytes());
        assert_eq!(statuses(&answers), [status], "{}", &bytes[..bytes.len().min(80)]);
        assert!(answers.contains("\r\nconnection: close\r\n"), "{answers}");
    }
}

#[test]
fn a_chunked_body_is_bounded_while_it_comes() {
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let answer = play(&admin(), async |mut peer| {
        peer.write_all(post("Transfer-Encoding: chunked\r\n", "").as_bytes()).await.expect("it is read");
        for _ in 0..=BODY_LEN_MAX / 0x10000 {
            // Refused at the last one, and read on for a while.
            peer.write_all(chunk.as_bytes()).await.expect("it is read");
        }
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.expect("text");
        answer
    });
    assert_eq!(statuses(&answer), ["413"]);
}

#[test]
fn who_waits_to_send_content_is_told_to() {
    let content = r#"{"all":true}"#;
    let fields = format!("Content-Length: {}\r\nExpect: 100-continue\r\n{CLOSE}", content.len());
    let answers = play(&admin(), async |mut peer| {
        peer.write_all(post(&fields, "").as_bytes()).await.expect("it is read");
        let mut first = [0; 25];
        peer.read_exact(&mut first).await.expect("an answer");
        assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
        peer.write_all(content.as_bytes()).await.expect("it is read");
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.expect("text");
        answer
    });
    assert_eq!(statuses(&answers), ["201"]);
    // Who sends it all the same is not.
    assert_eq!(statuses(&converse_with(&admin(), post(&fields, content).as_bytes())), ["201"]);
}

#[test]
fn a_body_that_breaks_off_is_not_obeyed() {
    let bytes = post("Content-Length: 100\r\n", r#"{"all":true}"#);
    let answer = play(&admin(), async |mut peer| {
        peer.write_all(bytes.as_bytes()).await.expect("it is read");
        peer.shutdown().await.expect("our own end");
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.expect("text");
        answer
    });
    assert_eq!(statuses(&answer), ["400"]);
    assert!(answer.contains("broke off"), "{answer}");
}

/// Whoever waits for completion and goes away gives its place back, however long it wanted to wait.
#[test]
fn who_goes_away_is_not_waited_for() {
    let content = r#"{"all":true,"wait":60}"#;
    let began = Instant::now();
    play(&admin(), async |mut peer| {
        let bytes = post(&format!("Content-Length: {}\r\n", content.len()), content);
        peer.write_all(bytes.as_bytes()).await.expect("it is read");
        tokio::task::yield_now().await;
        drop(peer);
    });
    assert!(began.elapsed() < Duration::from_secs(30));
}
