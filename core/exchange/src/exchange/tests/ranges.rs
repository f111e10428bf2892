//! Conditions, ranges and parts: what a request gets of a stored response that is not all of it.

use super::*;

/// Rule 12, T-24, R-2, R-14: what a fresh stored response answers itself.
#[test]
fn preconditions_and_ranges_are_answered_from_the_cache() {
    let part = |start, end| AnswerKind::Part(ByteRange { start, end });
    for (fields, expected) in [
        ("If-None-Match: \"x\", W/\"a\"\n", AnswerKind::NotModified),
        ("If-None-Match: \"x\"\n", AnswerKind::Whole),
        ("If-Modified-Since: Thu, 01 Jan 1970 00:15:00 GMT\n", AnswerKind::NotModified),
        ("If-Match: \"x\"\n", AnswerKind::PreconditionFailed),
        ("Range: bytes=0-9\n", part(0, 10)),
        ("Range: bytes=-1\n", part(99, 100)),
        ("Range: bytes=0-0,5-6\n", AnswerKind::Parts),
        ("Range: bytes=100-\n", AnswerKind::Unsatisfiable),
        ("Range: bytes=0-9\nIf-Range: \"x\"\n", AnswerKind::Whole),
        ("Range: bytes=0-9\nIf-Range: \"a\"\n", part(0, 10)),
        ("Range: bytes=0-9\nIf-None-Match: \"a\"\n", AnswerKind::NotModified),
    ] {
        let mut run = Run::new(&[]);
        run.request(&format!("GET /x HTTP/1.1\nHost: a\n{fields}\n"));
        let Action::Answer(answer) = run.found(&META) else { panic!("{fields}") };
        assert_eq!(answer.kind, expected, "{fields}");
        assert_eq!(run.exchange.status(), expected.status(200));
    }
    // RFC 9110 §13.2.1: not for what is no success.
    let mut run = Run::new(&[]);
    run.request("GET /x HTTP/1.1\nHost: a\nIf-None-Match: *\nRange: bytes=0-1\n\n");
    let Action::Answer(answer) = run.found(&StoredMeta { status: 404, ..META }) else { panic!("served") };
    assert_eq!(answer.kind, AnswerKind::Whole);
}

/// R-3, rule 14: a part answers what lies in it; its prefix is completed, on the same strong ETag only.
#[test]
fn a_part_answers_ranges_and_is_completed() {
    let part = |start| StoredMeta { status: 206, part: Some(Part { start, total: 1000 }), ..META };
    let ask = |fields: &str, meta: &StoredMeta| {
        let mut run = Run::new(&[]);
        run.request(&format!("GET /x HTTP/1.1\nHost: a\n{fields}\n"));
        let event = Event::NotWhole { key_buffer: &mut run.key };
        let Action::Lookup { .. } = run.exchange.step(&run.behavior, event, NOW) else { panic!("looked up") };
        let action = run.found(meta);
        (run, action)
    };
    let kind = |range: &str, meta: &StoredMeta| match ask(range, meta).1 {
        Action::Answer(answer) => Some(answer.kind),
        Action::Forward(forward) => {
            assert_eq!((forward.reason, forward.conditions), (ForwardReason::Partial, Conditions::Viewer));
            None
        }
        other => panic!("{other:?}"),
    };
    let range = |start, end| Some(AnswerKind::Part(ByteRange { start, end }));
    assert_eq!(kind("Range: bytes=10-19\n", &part(0)), range(10, 20));
    assert_eq!(kind("Range: bytes=900-\n", &part(900)), range(900, 1000));
    for (fields, start) in
        [("Range: bytes=90-100\n", 0), ("Range: bytes=10-19\n", 20), ("Range: bytes=0-1,3-4\n", 0), ("", 5)]
    {
        assert_eq!(kind(fields, &part(start)), None, "{fields}");
    }
    let stale = StoredMeta { lifetime: 1, ..part(0) };
    assert_eq!(kind("Range: bytes=10-19\n", &stale), None);
    let rest = |fields: &str| {
        let (mut run, action) = ask("", &part(0));
        let Action::Forward(forward) = action else { panic!("forwarded") };
        assert_eq!(forward.conditions, Conditions::Rest);
        run.origin(&format!("HTTP/1.1 206 x\nCache-Control: max-age=9\n{fields}\n"), 1000)
    };
    let joined = rest("ETag: \"a\"\nContent-Range: bytes 100-999/1000\nContent-Length: 900\n");
    let Action::Join { store: Some(meta) } = joined else { panic!("joined") };
    assert_eq!((meta.status, meta.part, meta.lifetime), (200, None, 9));
    for fields in [
        "ETag: \"b\"\nContent-Range: bytes 100-999/1000\nContent-Length: 900\n",
        "ETag: W/\"a\"\nContent-Range: bytes 100-999/1000\nContent-Length: 900\n",
        "ETag: \"a\"\nContent-Range: bytes 101-999/1000\nContent-Length: 899\n",
        "ETag: \"a\"\nContent-Range: bytes 100-999/1001\nContent-Length: 900\n",
        "ETag: \"a\"\nContent-Length: 900\n",
    ] {
        let Action::Forward(again) = rest(fields) else { panic!("{fields}") };
        assert_eq!(again.conditions, Conditions::None, "{fields}");
    }
    // Rule 14: under a weak ETag, or none, the rest is asked for too, and refused when it comes (RFC 9111 §3.4).
    for etag in ["ETag: W/\"a\"\r\n", ""] {
        let head = str::from_utf8(STORED_HEAD).unwrap().replace("ETag: \"a\"\r\n", etag);
        let mut run = Run { stored_head: head.into_bytes(), ..Run::new(&[]) };
        run.request("GET /x HTTP/1.1\nHost: a\n\n");
        let event = Event::NotWhole { key_buffer: &mut run.key };
        assert!(matches!(run.exchange.step(&run.behavior, event, NOW), Action::Lookup { .. }));
        let Action::Forward(forward) = run.found(&part(0)) else { panic!("forwarded") };
        assert_eq!(forward.conditions, Conditions::Rest, "{etag}");
        let fields =
            format!("{}Content-Range: bytes 100-999/1000\nContent-Length: 900\n", etag.replace('\r', ""));
        let action = run.origin(&format!("HTTP/1.1 206 Partial Content\n{fields}\n"), NOW.wall);
        let Action::Forward(again) = action else { panic!("{etag}: {action:?}") };
        assert_eq!(again.conditions, Conditions::None, "{etag}");
    }
    // A part is no answer to a request for the whole, however the origin fails.
    let (mut run, _) = ask("", &part(0));
    assert_eq!(run.fails(OriginFailure::Refused), Action::Refuse { status: 502 });
}
