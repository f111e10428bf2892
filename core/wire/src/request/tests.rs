//! Table tests of request heads, by section of RFC 9112.

use super::*;

/// Parses with the default limits and hands the result to `look`.
fn with<T>(bytes: &[u8], look: impl FnOnce(Result<Option<RequestHead<'_, '_>>, RequestError>) -> T) -> T {
    let mut slots = FieldSlots::new();
    look(parse_request(bytes, &mut slots, &HeadLimits::default()))
}

#[track_caller]
fn accepted(bytes: &[u8], look: impl FnOnce(RequestHead<'_, '_>)) {
    let shown = bytes.escape_ascii();
    with(bytes, |parsed| look(parsed.unwrap_or_else(|error| panic!("{error}: {shown}")).expect("complete")));
}

#[track_caller]
fn refused(bytes: &[u8], error: RequestError) {
    let shown = bytes.escape_ascii().to_string();
    with(bytes, |parsed| assert_eq!(parsed.map(|_| ()), Err(error), "{shown}"));
}

#[track_caller]
fn incomplete(bytes: &[u8]) {
    with(bytes, |parsed| assert!(matches!(parsed, Ok(None)), "{parsed:?}"));
}

/// A GET with these lines after `Host`, each to end in CR LF.
fn get_with(lines: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
}

#[test]
fn a_plain_get_is_read() {
    let bytes = b"GET /a?b=c HTTP/1.1\r\nHost: example.com:8080\r\nAccept:  */* \r\nAccept: x\r\n\r\nrest";
    accepted(bytes, |head| {
        assert_eq!(head.method, Method::Get);
        assert_eq!(head.version, Version::Http11);
        assert_eq!(head.scheme, None);
        assert_eq!(head.authority, "example.com:8080");
        assert_eq!(head.path_and_query, "/a?b=c");
        assert_eq!(head.fields.len(), 3);
        assert_eq!(head.framing, RequestFraming::None);
        assert!(head.keep_alive && !head.upgrade && !head.expect_continue && !head.has_content());
        assert_eq!(head.len, bytes.len() - 4);
        assert_eq!(head.field("accept"), Some(&b"*/*"[..]));
        assert_eq!(head.fields_named("accept").collect::<Vec<_>>(), [&b"*/*"[..], b"x"]);
        assert_eq!(head.field("cookie"), None);
    });
}

#[test]
fn section_2_2_line_ends_are_strict() {
    for (bytes, error) in [
        (&b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..], RequestError::BareLineFeed),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", RequestError::BareLineFeed),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", RequestError::BareLineFeed),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: y\nZ: z\r\n\r\n", RequestError::BareLineFeed),
        (b"GET / HTTP/1.1\n", RequestError::BareLineFeed),
        (b"GET / HTTP/1.1\rHost: a\r\n\r\n", RequestError::RequestLine),
        (b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", RequestError::FieldValue),
        (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", RequestError::FieldValue),
        (b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", RequestError::RequestLine),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::EmptyLines),
        (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::EmptyLines),
        (b"\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::EmptyLines),
        (b"\r\n\r\n\r\n", RequestError::EmptyLines),
        (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", RequestError::NotHttp),
    ] {
        refused(bytes, error);
    }
    accepted(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", |head| assert_eq!(head.len, 31));
    for bytes in [&b""[..], b"\r", b"\r\n", b"\r\n\r", b"\r\n\r\n"] {
        incomplete(bytes);
    }
}

#[test]
fn section_3_request_lines_are_strict() {
    for (bytes, error) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00"[..], RequestError::NotHttp),
        (b"\0", RequestError::NotHttp),
        (b"G\0T / HTTP/1.1\r\n", RequestError::Method),
        (b"GET\t/ HTTP/1.1\r\n", RequestError::Method),
        (b"GET\r\n", RequestError::RequestLine),
        (b"GET  / HTTP/1.1\r\n", RequestError::RequestLine),
        (b"GET /  HTTP/1.1\r\n", RequestError::RequestLine),
        (b"GET / HTTP/1.1 \r\n", RequestError::RequestLine),
        (b"GET /\r\n", RequestError::RequestLine),
        (b"GET / \r\n", RequestError::RequestLine),
        (b"GET / http/1.1\r\n", RequestError::RequestLine),
        (b"GET / HTTPS/1.1\r\n", RequestError::RequestLine),
        (b"GET / HTTP/1.\r\n", RequestError::RequestLine),
        (b"GET / HTTP/11\r\n", RequestError::RequestLine),
        (b"GET / HTTP/0.9\r\n", RequestError::RequestLine),
        (b"GET / HTTP/1.10\r\n", RequestError::RequestLine),
        (b"GET / x HTTP/1.1\r\n", RequestError::RequestLine),
        (b"GET / HTTP/2.0\r\n", RequestError::VersionUnsupported),
        (b"GET / HTTP/3\r\n", RequestError::VersionUnsupported),
        (b"GET / HTTP/1.2\r\n", RequestError::VersionUnsupported),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", RequestError::VersionUnsupported),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG", RequestError::MethodTooLong),
    ] {
        refused(bytes, error);
        let mut whole = bytes.to_vec();
        whole.extend_from_slice(b"Host: a\r\n\r\n");
        refused(&whole, error);
    }
    accepted(b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEF / HTTP/1.1\r\nHost: a\r\n\r\n", |head| {
        assert_eq!(head.method.as_str().len(), 32);
    });
}

#[test]
fn section_3_2_targets_have_four_forms() {
    for (method, target, scheme, authority, path) in [
        ("GET", "/", None, "h", "/"),
        ("GET", "//x/../y?z?&", None, "h", "//x/../y?z?&"),
        ("OPTIONS", "*", None, "h", "*"),
        ("CONNECT", "a:443", None, "a:443", ""),
        ("CONNECT", "[::1]:443", None, "[::1]:443", ""),
        ("GET", "http://a", Some(Scheme::Http), "a", "/"),
        ("GET", "HTTPS://A:81/b?c", Some(Scheme::Https), "A:81", "/b?c"),
        ("OPTIONS", "http://a", Some(Scheme::Http), "a", "*"),
        ("OPTIONS", "http://a/", Some(Scheme::Http), "a", "/"),
    ] {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        accepted(bytes.as_bytes(), |head| {
            assert_eq!(head.scheme, scheme, "{target}");
            assert_eq!(head.authority, authority, "{target}");
            assert_eq!(head.path_and_query, path, "{target}");
        });
    }
    for (method, target) in [
        ("GET", "*"),
        ("GET", "a"),
        ("GET", "a:443"),
        ("GET", "?a"),
        ("GET", "ftp://a/"),
        ("GET", "http:/a"),
        ("GET", "http:///a"),
        ("GET", "http://"),
        ("GET", "http://user@a/"),
        ("GET", "http://a:0/"),
        ("GET", "http://a?b"),
        ("GET", "http://a b/"),
        ("GET", "/a#b"),
        ("GET", "/\u{e9}"),
        ("GET", "/\u{7f}"),
        ("GET", "/\u{0}"),
        ("GET", "/a\tb"),
        ("CONNECT", "/"),
        ("CONNECT", "a"),
        ("CONNECT", "a:"),
        ("CONNECT", "http://a:1/"),
        ("CONNECT", "*"),
        ("OPTIONS", "**"),
    ] {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        with(bytes.as_bytes(), |parsed| {
            assert_eq!(parsed.map(|_| ()).map_err(RequestError::status), Err(400), "{method} {target}");
        });
    }
}

#[test]
fn section_3_2_there_is_exactly_one_valid_host() {
    // H-20.
    refused(b"GET / HTTP/1.1\r\n\r\n", RequestError::HostMissing);
    refused(b"GET http://a/ HTTP/1.1\r\n\r\n", RequestError::HostMissing);
    refused(b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", RequestError::HostRepeated);
    refused(b"GET / HTTP/1.0\r\nHost: a\r\nhOST: b\r\n\r\n", RequestError::HostRepeated);
    for value in ["", " ", "a b", "a,b", "u@a", "a:0", "a/b", "a:80:80", "a\\b", "\u{e9}"] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n");
        refused(bytes.as_bytes(), RequestError::HostInvalid);
        let bytes = format!("GET http://x/ HTTP/1.1\r\nHost: {value}\r\n\r\n");
        refused(bytes.as_bytes(), RequestError::HostInvalid);
    }
    // H-22: HTTP/1.0 need not name its host.
    accepted(b"GET / HTTP/1.0\r\n\r\n", |head| assert_eq!(head.authority, ""));
    accepted(b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", |head| assert_eq!(head.authority, "b"));
}

#[test]
fn section_5_field_lines_are_strict() {
    for (line, error) in [
        ("X : y\r\n", RequestError::FieldName),
        ("X\t: y\r\n", RequestError::FieldName),
        (" X: y\r\n", RequestError::FieldName),
        ("X: y\r\n z\r\n", RequestError::FieldName),
        ("X: y\r\n\tz\r\n", RequestError::FieldName),
        (": y\r\n", RequestError::FieldName),
        ("X\r\n", RequestError::FieldName),
        ("X Y: z\r\n", RequestError::FieldName),
        ("X(: z\r\n", RequestError::FieldName),
        ("X\u{e9}: z\r\n", RequestError::FieldName),
        ("X: a\0b\r\n", RequestError::FieldValue),
        ("X: a\x0bb\r\n", RequestError::FieldValue),
        ("X: a\x7fb\r\n", RequestError::FieldValue),
    ] {
        refused(&get_with(line), error);
    }
    accepted(&get_with("X:\r\nY:\t \r\nZ: a\tb\u{e9} \r\n"), |head| {
        assert_eq!(head.field("x"), Some(&b""[..]));
        assert_eq!(head.field("y"), Some(&b""[..]));
        assert_eq!(head.field("z"), Some("a\tb\u{e9}".as_bytes()));
    });
}

#[test]
fn section_6_3_framing_has_one_reading() {
    for (lines, framing) in [
        ("", RequestFraming::None),
        ("Content-Length: 0\r\n", RequestFraming::Length(0)),
        ("content-LENGTH:5\r\n", RequestFraming::Length(5)),
        ("Transfer-Encoding: chunked\r\n", RequestFraming::Chunked),
        ("transfer-encoding:\tCHUNKED\t\r\n", RequestFraming::Chunked),
    ] {
        accepted(&get_with(lines), |head| assert_eq!(head.framing, framing, "{lines}"));
    }
    for (lines, error) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", RequestError::ContentLengthRepeated),
        ("Content-Length: 5, 5\r\n", RequestError::ContentLengthRepeated),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", RequestError::ContentLengthInvalid),
        ("Content-Length:\r\n", RequestError::ContentLengthInvalid),
        ("Content-Length: +5\r\n", RequestError::ContentLengthInvalid),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", RequestError::LengthAndCoding),
        ("Transfer-Encoding: gzip\r\nContent-Length: x\r\n", RequestError::LengthAndCoding),
        ("Transfer-Encoding: chunked, chunked\r\n", RequestError::TransferEncodingInvalid),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            RequestError::TransferEncodingInvalid,
        ),
        ("Transfer-Encoding: chunked, gzip\r\n", RequestError::TransferEncodingInvalid),
        ("Transfer-Encoding:\r\n", RequestError::TransferEncodingInvalid),
        ("Transfer-Encoding: gzip\r\n", RequestError::TransferEncodingUnknown),
        ("Transfer-Encoding: gzip, chunked\r\n", RequestError::TransferEncodingUnknown),
        ("Transfer-Encoding: xchunked\r\n", RequestError::TransferEncodingUnknown),
        ("Transfer-Encoding: identity\r\n", RequestError::TransferEncodingUnknown),
    ] {
        refused(&get_with(lines), error);
    }
    refused(
        b"GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        RequestError::TransferEncodingInHttp10,
    );
}

#[test]
fn section_9_3_persistence_follows_version_and_options() {
    for (version, value, keep_alive) in [
        ("1.1", "x", true),
        ("1.1", "close", false),
        ("1.1", "keep-alive, Close", false),
        ("1.0", "x", false),
        ("1.0", "Keep-Alive", true),
        ("1.0", "keep-alive, close", false),
    ] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: a\r\nConnection: {value}\r\n\r\n");
        accepted(bytes.as_bytes(), |head| assert_eq!(head.keep_alive, keep_alive, "{version} {value}"));
    }
    let many = "Connection: x\r\n".repeat(65);
    refused(&get_with(&many), RequestError::TooManyConnectionOptions);
}

#[test]
fn upgrade_and_expect_need_http_1_1() {
    let websocket = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nExpect: 100-Continue\r\n";
    accepted(&get_with(websocket), |head| assert!(head.upgrade && head.expect_continue));
    let old = format!("GET / HTTP/1.0\r\n{websocket}\r\n");
    accepted(old.as_bytes(), |head| assert!(!head.upgrade && !head.expect_continue));
    for lines in [
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
        "Connection: upgrade\r\nUpgrade:\r\n",
        "Connection: upgrade, http2-settings\r\nUpgrade: H2C\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
    ] {
        accepted(&get_with(lines), |head| assert!(!head.upgrade, "{lines}"));
    }
}

#[test]
fn the_target_has_a_limit() {
    // H-15: "http://" + "a" + the path.
    let line = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(len - 1));
    accepted(line(8_192 - 8).as_bytes(), |head| assert_eq!(head.path_and_query.len(), 8_184));
    refused(line(8_192 - 7).as_bytes(), RequestError::TargetTooLong);
    refused(format!("GET /{}", "x".repeat(8_192)).as_bytes(), RequestError::TargetTooLong);
    incomplete(format!("GET /{}", "x".repeat(8_191)).as_bytes());
}

#[test]
fn the_head_has_a_limit() {
    // H-16. The empty lines before it do not count.
    let head = |len: usize| {
        let before = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        format!("{before}{}\r\n\r\n", "y".repeat(len - before.len() - 4))
    };
    accepted(head(32_768).as_bytes(), |parsed| assert_eq!(parsed.len, 32_768));
    accepted(format!("\r\n{}", head(32_768)).as_bytes(), |parsed| assert_eq!(parsed.len, 32_770));
    refused(head(32_769).as_bytes(), RequestError::HeadTooLong);
    refused(&head(40_000).as_bytes()[..32_768], RequestError::HeadTooLong);
    incomplete(&head(40_000).as_bytes()[..32_767]);
}

#[test]
fn the_fields_have_a_limit() {
    accepted(&get_with(&"X: y\r\n".repeat(127)), |head| assert_eq!(head.fields.len(), 128));
    refused(&get_with(&"X: y\r\n".repeat(128)), RequestError::TooManyFields);
    let limits = HeadLimits { field_count_max: 2, ..HeadLimits::default() };
    let bytes = get_with("X: y\r\nZ: z\r\n");
    let parsed = parse_request(&bytes, &mut FieldSlots::new(), &limits).map(|_| ());
    assert_eq!(parsed, Err(RequestError::TooManyFields));
}

#[test]
fn hopeless_bytes_are_refused_before_the_head_is_complete() {
    // A TLS ClientHello that has line feeds in it.
    let mut hello = vec![0x16, 0x03, 0x01];
    hello.resize(3_000, b'\n');
    hello.push(0);
    refused(&hello, RequestError::NotHttp);
    refused(b"GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n", RequestError::FieldName);
    refused(b"GET / HTTP/1.1\r\nHost: a\n\n", RequestError::BareLineFeed);
    refused(&get_with(&"X: y\r\n".repeat(200))[..1_003], RequestError::TooManyFields);
}

#[test]
fn errors_name_their_status() {
    for (error, status) in [
        (RequestError::Target, 400),
        (RequestError::TargetTooLong, 414),
        (RequestError::HeadTooLong, 431),
        (RequestError::TooManyFields, 431),
        (RequestError::TransferEncodingUnknown, 501),
        (RequestError::MethodTooLong, 501),
        (RequestError::VersionUnsupported, 505),
    ] {
        assert_eq!(error.status(), status);
        assert!(!error.to_string().is_empty() && !error.to_string().ends_with('.'));
    }
}
