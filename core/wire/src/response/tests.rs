//! Table tests of response heads, by section of RFC 9112.

use super::*;

fn parse<'b>(
    bytes: &'b [u8],
    method: Method<'_>,
    look: impl FnOnce(Result<Option<ResponseHead<'b, '_>>, ResponseError>),
) {
    let mut slots = FieldSlots::new();
    look(parse_response(bytes, &mut slots, &HeadLimits::default(), method));
}

#[track_caller]
fn framing(bytes: &str, method: Method<'_>) -> (ResponseFraming, bool) {
    let mut slots = FieldSlots::new();
    let parsed = parse_response(bytes.as_bytes(), &mut slots, &HeadLimits::default(), method);
    let head = parsed.unwrap_or_else(|error| panic!("{error}: {bytes}")).expect("complete");
    (head.framing, head.keep_alive)
}

#[track_caller]
fn refused(bytes: &[u8], error: ResponseError) {
    parse(bytes, Method::Get, |parsed| {
        assert_eq!(parsed.map(|_| ()), Err(error), "{}", bytes.escape_ascii())
    });
}

#[test]
fn a_plain_response_is_read() {
    let bytes = b"HTTP/1.1 200 All good\r\nContent-Length: 3\r\nETag: \"x\"\r\n\r\nabc";
    parse(bytes, Method::Get, |parsed| {
        let head = parsed.unwrap().expect("complete");
        assert_eq!((head.version, head.status, head.reason), (Version::Http11, 200, &b"All good"[..]));
        assert_eq!((head.framing, head.keep_alive), (ResponseFraming::Length(3), true));
        assert_eq!((head.len, head.content_length), (bytes.len() - 3, Some(3)));
        assert_eq!(head.field("etag"), Some(&b"\"x\""[..]));
        assert_eq!(head.fields_named("etag").count(), 1);
        assert!(!head.is_interim());
    });
}

#[test]
fn section_4_status_lines_are_strict() {
    for (line, reason) in [
        ("HTTP/1.1 200", ""),
        ("HTTP/1.1 200 ", ""),
        ("HTTP/1.1 200  two", " two"),
        ("HTTP/1.0 999 odd\tone", "odd\tone"),
        ("HTTP/1.1 200 \u{e9}", "\u{e9}"),
    ] {
        let bytes = format!("{line}\r\n\r\n");
        parse(bytes.as_bytes(), Method::Get, |parsed| {
            assert_eq!(parsed.unwrap().expect("complete").reason, reason.as_bytes(), "{line}");
        });
    }
    for bytes in [
        &b"\r\nHTTP/1.1 200 OK\r\n\r\n"[..],
        b"HTTP/2 200 OK\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"http/1.1 200 OK\r\n",
        b"HTTP/1.1  200 OK\r\n",
        b"HTTP/1.1 20 OK\r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 abc OK\r\n",
        b"\x15\x03\x01",
        b"HTTP/1.1\t200 OK\r\n",
        b"HTTP/1.1 200\tOK\r\n",
        b"HTTP/1.1 200 O\0K\r\n",
        b"HTTP/1.1 200 OK\rX\r\n",
        b"SSH-2.0-x",
        b"HTTP/1.1 -20 OK\r\n",
        b"ICY 200 OK\r\n",
    ] {
        refused(bytes, ResponseError::StatusLine);
    }
    refused(b"HTTP/1.1 099 OK\r\n\r\n", ResponseError::Status);
    for bytes in
        [&b""[..], b"HTT", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: y\r\n"]
    {
        parse(bytes, Method::Get, |parsed| assert!(matches!(parsed, Ok(None)), "{parsed:?}"));
    }
}

#[test]
fn section_5_field_lines_are_strict() {
    for (line, error) in [
        ("X : y", ResponseError::FieldName),
        (" X: y", ResponseError::FieldName),
        ("X: y\r\n z", ResponseError::FieldName),
        ("X", ResponseError::FieldName),
        (": y", ResponseError::FieldName),
        ("X: a\0", ResponseError::FieldValue),
        ("X: a\rY: b", ResponseError::FieldValue),
        ("X: a\nY: b", ResponseError::BareLineFeed),
    ] {
        refused(format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n").as_bytes(), error);
    }
    refused(b"HTTP/1.1 200 OK\nX: y\r\n\r\n", ResponseError::BareLineFeed);
    refused(b"HTTP/1.1 200 OK\r\nX: y\r\n\n", ResponseError::BareLineFeed);
    let many = "X: y\r\n".repeat(129);
    refused(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes(), ResponseError::TooManyFields);
    let many = "Connection: y\r\n".repeat(65);
    refused(format!("HTTP/1.1 200 OK\r\n{many}\r\n").as_bytes(), ResponseError::TooManyConnectionOptions);
}

#[test]
fn section_6_3_framing_follows_its_rules_in_order() {
    use ResponseFraming::{Chunked, Length, None, UntilClose};
    let table = [
        // Rules 1 and 2: no content whatever the fields say.
        (Method::Head, "200 OK\r\nContent-Length: 5", None, true),
        (Method::Head, "200 OK\r\nTransfer-Encoding: chunked", None, true),
        (Method::Head, "200 OK", None, true),
        (Method::Get, "304 Not Modified\r\nContent-Length: 5", None, true),
        (Method::Get, "204 No Content", None, true),
        (Method::Get, "204 No Content\r\nContent-Length: 0", None, true),
        (Method::Get, "204 No Content\r\nContent-Length: 5", None, false),
        (Method::Get, "204 No Content\r\nTransfer-Encoding: chunked", None, false),
        (Method::Get, "100 Continue", None, true),
        (Method::Get, "103 Early Hints\r\nLink: x", None, true),
        (Method::Get, "101 Switching Protocols\r\nUpgrade: x", None, false),
        (Method::Get, "101 Switching Protocols\r\nContent-Length: 0", None, false),
        (Method::Get, "103 Early Hints\r\nContent-Length: 0", None, true),
        (Method::Connect, "200 OK", None, true),
        (Method::Connect, "404 Not Found\r\nContent-Length: 5", Length(5), true),
        // Rule 4.
        (Method::Get, "200 OK\r\nTransfer-Encoding: Chunked", Chunked, true),
        // Rule 10 of the RFC 9111 profile.
        (Method::Get, "200 OK\r\nTransfer-Encoding: gzip", UntilClose, false),
        (Method::Get, "200 OK\r\nTransfer-Encoding: abc, identity", UntilClose, false),
        // Rules 5 to 8.
        (Method::Get, "200 OK\r\nContent-Length: 5\r\nContent-Length: 5", Length(5), true),
        (Method::Get, "200 OK\r\nContent-Length: 5, 5", Length(5), true),
        (Method::Post, "200 OK\r\nContent-Length: 0", Length(0), true),
        (Method::Get, "200 OK\r\nContent-Length: 5\r\nConnection: close", Length(5), false),
        (Method::Get, "200 OK", UntilClose, false),
    ];
    for (method, rest, expected, keep_alive) in table {
        assert_eq!(framing(&format!("HTTP/1.1 {rest}\r\n\r\n"), method), (expected, keep_alive), "{rest}");
    }
    assert_eq!(framing("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Get), (Length(5), false));
    let kept = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n";
    assert_eq!(framing(kept, Method::Get), (Length(5), true));
}

#[test]
fn framing_that_two_could_read_differently_is_refused() {
    for (lines, error) in [
        ("Content-Length: 5\r\nContent-Length: 6", ResponseError::ContentLength),
        ("Content-Length: 5, 6", ResponseError::ContentLength),
        ("Content-Length: -1", ResponseError::ContentLength),
        ("Content-Length:", ResponseError::ContentLength),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", ResponseError::LengthAndCoding),
        ("Transfer-Encoding: gzip\r\nContent-Length: 5", ResponseError::LengthAndCoding),
        ("Transfer-Encoding: chunked, chunked", ResponseError::TransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", ResponseError::TransferEncoding),
        ("Transfer-Encoding: chunked, gzip", ResponseError::TransferEncoding),
        ("Transfer-Encoding: gzip, chunked", ResponseError::TransferEncoding),
        ("Transfer-Encoding:", ResponseError::TransferEncoding),
    ] {
        for status in [200, 204, 304, 100] {
            refused(format!("HTTP/1.1 {status} X\r\n{lines}\r\n\r\n").as_bytes(), error);
        }
    }
    refused(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ResponseError::TransferEncoding);
    refused(b"HTTP/1.1 100 C\r\nContent-Length: 5\r\n\r\n", ResponseError::InterimWithContent);
    refused(b"HTTP/1.1 101 S\r\nTransfer-Encoding: chunked\r\n\r\n", ResponseError::InterimWithContent);
}

#[test]
fn interim_responses_are_told_from_final_ones() {
    for (status, interim) in [(100, true), (101, false), (102, true), (103, true), (199, true), (200, false)]
    {
        let bytes = format!("HTTP/1.1 {status} X\r\n\r\n");
        parse(bytes.as_bytes(), Method::Get, |parsed| {
            assert_eq!(parsed.unwrap().expect("complete").is_interim(), interim, "{status}");
        });
    }
}

#[test]
fn the_head_has_a_limit() {
    // H-10: 32,768 bytes pass, one more does not.
    let head = |len: usize| format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(len - 24));
    assert_eq!(framing(&head(32_768), Method::Get).0, ResponseFraming::UntilClose);
    refused(head(32_769).as_bytes(), ResponseError::HeadTooLarge);
    refused(&head(40_000).as_bytes()[..32_768], ResponseError::HeadTooLarge);
    let unfinished = head(40_000);
    parse(&unfinished.as_bytes()[..32_767], Method::Get, |parsed| assert!(matches!(parsed, Ok(None))));
}
