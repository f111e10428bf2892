//! Viewers that ask for one object in different ways while it is fetched: conditions, credentials, old versions, halves of connections; and
//! answers of unusual shape. Each must get what its own request asks for.

use crate::support::{
    Crowd, Directory, ETAG, FRESH, Gate, HOST, KIB, Viewer, eventually, expect_bodies, gated, on_each,
    pattern, results,
};

/// C-1 with RFC 9110 §13: a condition is the viewer's own. It neither reaches the origin nor the others, whoever leads.
#[test]
fn conditions_are_each_viewers_own() {
    for conditional_leads in [true, false] {
        on_each(|launch| {
            let gate = Gate::default();
            let body = pattern(0, 30 * KIB);
            let content = body.clone();
            let origin = gated(&gate, move |reply| match reply.request.field("if-none-match") {
                Some(_) => reply.answer(304, &[FRESH, ETAG], b""),
                None => reply.answer(200, &[FRESH, ETAG], &content),
            });
            let aspis = launch(&origin).start();
            let mut knowing = Crowd::connect(&aspis, 5);
            let mut plain = Crowd::connect(&aspis, 5);
            let mut ask = |conditional: bool| match conditional {
                true => knowing.ask("GET", "/a", "If-None-Match: \"one\"\r\n"),
                false => plain.ask("GET", "/a", ""),
            };
            ask(conditional_leads);
            origin.wait_for("/a", 1);
            ask(!conditional_leads);
            aspis.wait_for_places(10);
            gate.open();
            for response in knowing.responses() {
                assert_eq!(response.field("etag"), Some("\"one\""), "{response:?}");
                response.expect(304, b"");
            }
            expect_bodies(&plain.responses(), &body);
            assert_eq!(origin.count("/a"), 1, "{:?}", origin.requests());
            assert_eq!(origin.only("/a").field("if-none-match"), None);
        });
    }
}

/// Profile rule 7: what was fetched with somebody's credentials is nobody else's unless the origin says so.
#[test]
fn an_answer_to_credentials_is_not_shared() {
    on_each(|launch| {
        let gate = Gate::default();
        let origin = gated(&gate, |reply| {
            let who = reply.request.field("authorization").unwrap_or("nobody").to_owned();
            reply.answer(200, &[FRESH], who.as_bytes());
        });
        let aspis = launch(&origin).start();
        let mut first = Viewer::connect(&aspis);
        first.ask("GET", "/a", "Authorization: Basic first\r\n");
        origin.wait_for("/a", 1);
        let mut others = Crowd::connect(&aspis, 6);
        for (number, viewer) in others.each().enumerate() {
            viewer.ask("GET", "/a", &format!("Authorization: Basic {number}\r\n"));
        }
        let mut strangers = Crowd::asking(&aspis, 4, "/a");
        aspis.wait_for_requests(11);
        gate.open();
        assert_eq!(first.response().body, b"Basic first");
        for (number, response) in others.responses().iter().enumerate() {
            assert_eq!(String::from_utf8_lossy(&response.body), format!("Basic {number}"));
        }
        expect_bodies(&strangers.responses(), b"nobody");
    });
}

/// Profile rules 3 and 7: a leader without credentials answers those who have some, as any stored response does; `private` answers nobody else.
#[test]
fn a_private_answer_is_its_leaders_own() {
    on_each(|launch| {
        let gate = Gate::default();
        let origin = gated(&gate, |reply| {
            let body = reply.before.to_string();
            reply.answer(200, &[("Cache-Control", "private, max-age=60")], body.as_bytes());
        });
        let aspis = launch(&origin).start();
        let mut crowd = Crowd::asking(&aspis, 10, "/a");
        aspis.wait_for_places(10);
        gate.open();
        let mut bodies: Vec<Vec<u8>> = crowd.responses().into_iter().map(|response| response.body).collect();
        bodies.sort();
        bodies.dedup();
        assert_eq!(bodies.len(), 10, "each has an answer of its own");
        assert_eq!(origin.count("/a"), 10);
    });
}

/// RFC 9112 §6.1: a viewer of HTTP/1.0 knows no chunks; its body ends with the connection, also when it follows.
#[test]
fn old_viewers_follow_without_chunks() {
    on_each(|launch| {
        let gate = Gate::default();
        let body = pattern(0, 200 * KIB);
        let content = body.clone();
        let origin = gated(&gate, move |reply| {
            reply.head(200, &[FRESH, ("Transfer-Encoding", "chunked")]);
            for piece in content.chunks(50_000) {
                reply.chunk(piece);
            }
            reply.chunk(b"");
        });
        let aspis = launch(&origin).start();
        let mut new = Crowd::asking(&aspis, 5, "/a");
        origin.wait_for("/a", 1);
        let mut old = Crowd::connect(&aspis, 5);
        for viewer in old.each() {
            viewer.send(format!("GET /a HTTP/1.0\r\nHost: {HOST}\r\n\r\n"));
        }
        aspis.wait_for_places(10);
        gate.open();
        expect_bodies(&new.responses(), &body);
        for response in old.responses() {
            assert!(!response.is_chunked(), "{response:?}");
            response.expect(200, &body);
        }
        assert_eq!(origin.count("/a"), 1);
    });
}

/// Bodies without a length and without chunks end with the origin's connection, for followers as well; and bodies may be empty.
#[test]
fn answers_of_any_framing_are_shared() {
    for length in [0, 1, 150 * KIB] {
        on_each(|launch| {
            let gate = Gate::default();
            let body = pattern(0, length);
            let content = body.clone();
            let origin = gated(&gate, move |reply| match reply.request.target() {
                "/close" => {
                    reply.head(200, &[FRESH, ("Connection", "close")]);
                    reply.send(&content);
                    reply.close();
                }
                "/chunked" => {
                    reply.head(200, &[FRESH, ("Transfer-Encoding", "chunked")]);
                    if !content.is_empty() {
                        reply.chunk(&content);
                    }
                    reply.chunk(b"");
                }
                "/early" => {
                    reply.send(b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\n\r\n");
                    reply.answer(200, &[FRESH], &content);
                }
                _ => reply.answer(200, &[FRESH], &content),
            });
            let aspis = launch(&origin).start();
            let targets = ["/length", "/chunked", "/close"];
            let mut crowds: Vec<_> = targets.iter().map(|target| Crowd::asking(&aspis, 6, target)).collect();
            let mut hinted = Crowd::asking(&aspis, 6, "/early");
            aspis.wait_for_places(24);
            gate.open();
            for (crowd, target) in crowds.iter_mut().zip(targets) {
                let responses = crowd.responses();
                expect_bodies(&responses, &body);
                assert_eq!(results(&responses), [("Hit", 5), ("Miss", 1)].into(), "{target}");
                assert_eq!(origin.count(target), 1, "{target}");
            }
            for viewer in hinted.each() {
                let mut response = viewer.response();
                while response.status() == 103 {
                    response = viewer.response();
                }
                response.expect(200, &body);
            }
            assert_eq!(origin.count("/early"), 1);
        });
    }
}

/// A viewer that has sent all it has to say still reads.
#[test]
fn a_follower_that_closed_its_half_is_answered() {
    on_each(|launch| {
        let gate = Gate::default();
        let body = pattern(0, 100 * KIB);
        let content = body.clone();
        let origin = gated(&gate, move |reply| reply.answer(200, &[FRESH], &content));
        let aspis = launch(&origin).start();
        let mut crowd = Crowd::asking(&aspis, 8, "/a");
        aspis.wait_for_places(8);
        for viewer in crowd.each() {
            viewer.connection.finish_sending();
        }
        gate.open();
        expect_bodies(&crowd.responses(), &body);
        assert_eq!(origin.count("/a"), 1);
    });
}

/// Requests that wait behind one that follows are answered in their order.
#[test]
fn pipelined_requests_follow_in_order() {
    on_each(|launch| {
        let gate = Gate::default();
        let origin = gated(&gate, |reply| {
            let target = reply.request.target().to_owned();
            reply.answer(200, &[FRESH], target.as_bytes());
        });
        let aspis = launch(&origin).start();
        let targets = ["/a", "/b", "/a", "/c", "/b"];
        let request: String =
            targets.iter().map(|target| format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).collect();
        let mut crowd = Crowd::connect(&aspis, 10);
        for viewer in crowd.each() {
            viewer.send(&request);
        }
        origin.wait_for("/a", 1);
        gate.open();
        for viewer in crowd.each() {
            for target in targets {
                viewer.response().expect(200, target.as_bytes());
            }
        }
        for target in ["/a", "/b", "/c"] {
            assert_eq!(origin.count(target), 1, "{target}");
        }
    });
}

/// C-3: what a HEAD brings has no content for others; it is fetched for itself and nobody waits for it.
#[test]
fn a_head_is_not_waited_for() {
    on_each(|launch| {
        let gate = Gate::default();
        let origin = gated(&gate, |reply| reply.answer(200, &[FRESH], b"content"));
        let aspis = launch(&origin).start();
        let mut head = Viewer::connect(&aspis);
        head.ask("HEAD", "/a", "");
        origin.wait_for("/a", 1);
        let mut crowd = Crowd::asking(&aspis, 6, "/a");
        origin.wait_for("/a", 2);
        gate.open();
        assert_eq!(head.response_to("HEAD").status(), 200);
        expect_bodies(&crowd.responses(), b"content");
        let gets = origin.requests().iter().filter(|request| request.method() == "GET").count();
        assert_eq!(gets, 1, "{:?}", origin.requests());
    });
}

/// C-4: the log says it as the field does, one line for each viewer.
#[test]
fn the_log_tells_the_leader_from_its_followers() {
    on_each(|launch| {
        let directory = Directory::new();
        let log = directory.file("access.log");
        let gate = Gate::default();
        let origin = gated(&gate, |reply| reply.answer(200, &[FRESH], b"content"));
        let aspis = launch(&origin).with("--access-log", &log).start();
        let mut crowd = Crowd::asking(&aspis, 12, "/logged");
        aspis.wait_for_places(12);
        gate.open();
        expect_bodies(&crowd.responses(), b"content");
        let lines = eventually("twelve lines in the log", || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<String> =
                text.lines().filter(|line| line.contains("/logged")).map(str::to_owned).collect();
            (lines.len() >= 12).then_some(lines)
        });
        let with = |word: &str| {
            let has =
                |line: &&String| line.split(|byte: char| !byte.is_alphanumeric()).any(|each| each == word);
            lines.iter().filter(has).count()
        };
        assert_eq!((lines.len(), with("Miss"), with("Hit")), (12, 1, 11), "{lines:#?}");
    });
}

/// C-7: with CloudFront's semantics a minimum TTL makes such a response storable, so followers are answered by it.
#[test]
fn a_minimum_ttl_lets_followers_share_what_forbids_it() {
    on_each(|launch| {
        let gate = Gate::default();
        let origin = gated(&gate, |reply| {
            let body = reply.before.to_string();
            reply.answer(200, &[("Cache-Control", "no-store")], body.as_bytes());
        });
        let launch = launch(&origin).with("--semantics", "cloudfront").with("--min-ttl", "60s");
        let aspis = launch.start();
        let mut crowd = Crowd::asking(&aspis, 10, "/a");
        aspis.wait_for_places(10);
        gate.open();
        expect_bodies(&crowd.responses(), b"0");
        assert_eq!(origin.count("/a"), 1);
    });
}
