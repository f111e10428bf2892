//! The process: start, what it prints, signals, drain, log, admin side, other subcommands, bad input.

use crate::support::{Aspis, Broken, Directory, Gate, Launch, Origin, Viewer, eventually, run};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn plain() -> Origin {
    Origin::fixed(&[("Cache-Control", "max-age=60")], b"ok")
}

/// An origin that sends half of an answer to `/slow` and the rest when the gate opens.
fn held(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::start(move |reply| {
        if reply.request.target() != "/slow" {
            return reply.answer(200, &[("Cache-Control", "no-store")], b"quick");
        }
        reply.head(200, &[("Content-Length", "8"), ("Cache-Control", "no-store")]);
        reply.send(b"half");
        gate.wait("the test lets the answer go on");
        reply.send(b"half");
    })
}

#[test]
fn standard_output_has_the_listeners_and_nothing_else() {
    let origin = plain();
    let aspis =
        Launch::before(&origin.url()).with("--listen", "127.0.0.1:0").with("--listen", "127.0.0.1:0").start();
    for number in 0..3 {
        Viewer::connect(&aspis).get(&format!("/{number}")).expect(200, b"ok");
    }
    let lines = aspis.output();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("listening on 127.0.0.1:") && !lines[0].ends_with(":0"), "{lines:?}");
    assert!(lines[1].starts_with("listening on 127.0.0.1:"), "{lines:?}");
    assert_eq!(lines[2], format!("admin listening on {}", aspis.admin()));
}

/// The issue: SIGTERM drains and exits with 0; new connections are refused or closed.
#[test]
fn sigterm_drains_and_exits_with_0() {
    let gate = Gate::default();
    let origin = held(&gate);
    let mut aspis = Launch::before(&origin.url()).with("--cores", "2").start();
    let idle = Viewer::connect(&aspis);
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/slow", "");
    let head = viewer.head();
    let address = aspis.address();
    aspis.signal("TERM");
    eventually("new connections are refused or closed", || match TcpStream::connect(address) {
        Err(_) => Some(()),
        Ok(socket) => {
            let mut late = Viewer::over(crate::support::Connection::plain(socket).ok()?);
            late.ask_if_open("/late");
            matches!(late.try_response(), Err(Broken::Closed | Broken::Failed(_))).then_some(())
        }
    });
    assert!(aspis.is_running(), "a request is in flight");
    gate.open();
    let mut body = Vec::new();
    viewer.body_into("GET", &head, &mut |piece| body.extend_from_slice(piece)).expect("the whole answer");
    assert_eq!(body, b"halfhalf");
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
    drop(idle);
}

/// `--drain-timeout` bounds the wait.
#[test]
fn drain_timeout_cuts_what_is_left() {
    let gate = Gate::default();
    let origin = held(&gate);
    let mut aspis = Launch::before(&origin.url()).with("--drain-timeout", "300ms").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/slow", "");
    viewer.head();
    aspis.signal("TERM");
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
    gate.open();
}

#[test]
fn idle_server_stops_at_once() {
    let origin = plain();
    let mut aspis = Launch::before(&origin.url()).with("--cores", "2").start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/").expect(200, b"ok");
    aspis.signal("INT");
    let began = std::time::Instant::now();
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "idle connections do not hold the drain: {:?}",
        began.elapsed()
    );
    viewer.expect_close();
}

/// The issue: exit 2, with flag, value and what is accepted.
#[test]
fn bad_flags_and_values_are_named_and_exit_with_2() {
    let cases: &[(&[&str], &[&str])] = &[
        (&["serve", "--origin", "http://a", "--no-such-flag"], &["--no-such-flag"]),
        (&["serve", "--origin", "http://a", "--memory", "lots"], &["--memory", "lots", "64MiB"]),
        (&["serve", "--origin", "http://a", "--memory", "1"], &["--memory", "'1'"]),
        (&["serve", "--origin", "http://a", "--read-timeout", "soon"], &["--read-timeout", "soon"]),
        (&["serve", "--origin", "http://a", "--listen", "nowhere"], &["--listen", "nowhere"]),
        (&["serve", "--origin", "ftp://a"], &["--origin", "ftp://a", "http"]),
        (&["serve", "--origin", "http://a", "--semantics", "none"], &["--semantics", "none", "rfc9111"]),
        (&["serve", "--origin", "http://a", "--cores", "none"], &["--cores", "none"]),
        (&["serve", "--origin", "http://a", "--trusted-proxies", "10.0.0.0/99"], &["--trusted-proxies"]),
        (&["serve", "--origin", "http://a", "--connection-attempts", "9"], &["--connection-attempts", "9"]),
        (&["serve"], &["--origin"]),
        (&["no-such-command"], &["no-such-command"]),
    ];
    for (arguments, parts) in cases {
        let output = run(arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        for part in *parts {
            assert!(errors.contains(part), "{arguments:?}: {part:?} is not in: {errors}");
        }
    }
}

/// The issue: port taken gives a clear message; exit 1.
#[test]
fn taken_port_is_named_and_exits_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let address = taken.local_addr().expect("bound").to_string();
    let output = Launch::before("http://127.0.0.1:1").with("--listen", &address).fail();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));

    // Two servers on one address: the second must not share the first one's viewers.
    let origin = plain();
    let first = Launch::before(&origin.url()).start();
    let address = first.address().to_string();
    let output = Launch::before(&origin.url()).with("--listen", &address).fail();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
    Viewer::connect(&first).get("/").expect(200, b"ok");
}

#[test]
fn taken_admin_port_is_named_and_exits_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    let address = taken.local_addr().expect("bound").to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspis"));
    command.args(["serve", "--origin", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", &address]);
    let output =
        command.args(["--cores", "1", "--memory", "64MiB"]).output().expect("the binary can be started");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
}

/// The issue: an origin that cannot be resolved at start is said and retried, not fatal.
#[test]
fn unresolvable_origin_is_not_fatal() {
    let mut aspis = Launch::before("http://no-such-host.invalid").start();
    aspis.wait_for_error("no-such-host.invalid");
    assert_eq!(Viewer::connect(&aspis).get("/").status(), 502);
    assert!(aspis.is_running());
    assert_eq!(aspis.ask_admin("/healthz").status(), 200);
}

#[test]
fn unix_listener_serves() {
    let (origin, directory) = (plain(), Directory::new());
    let path = directory.file("viewers.sock");
    let mut aspis = Launch::before(&origin.url()).with("--listen-unix", &path).start();
    assert!(aspis.listeners().iter().any(|line| line.contains(&path)), "{:?}", aspis.listeners());
    let mut viewer = Viewer::to_unix(&path).expect("the socket is there");
    viewer.get("/a").expect_cached("Miss", b"ok");
    viewer.get("/a").expect_cached("Hit", b"ok");
    // The settings table: a peer without an address counts as 127.0.0.1.
    assert_eq!(origin.only("/a").all("x-forwarded-for"), ["127.0.0.1"]);
    Viewer::connect(&aspis).get("/a").expect_cached("Hit", b"ok");
    aspis.signal("TERM");
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
    // What is left of the file, or of a crashed server's, does not hinder the next start.
    let aspis = Launch::before(&origin.url()).with("--listen-unix", &path).start();
    Viewer::to_unix(&path).expect("the socket is there").get("/b").expect(200, b"ok");
    drop(aspis);
    let aspis = Launch::before(&origin.url()).with("--listen-unix", &path).start();
    Viewer::to_unix(&path).expect("the socket is there").get("/b").expect(200, b"ok");
    drop(aspis);
}

#[test]
fn admin_side_tells_health_readiness_and_metrics() {
    let origin = plain();
    let aspis = Launch::before(&origin.url()).start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.get("/a").expect_cached("Miss", b"ok");
    viewer.get("/a").expect_cached("Hit", b"ok");
    for page in ["/healthz", "/readyz"] {
        let response = aspis.ask_admin(page);
        assert_eq!(response.status(), 200, "{page}: {response:?}");
    }
    assert_eq!(aspis.ask_admin("/no-such-page").status(), 404);
    let metrics = aspis.ask_admin("/metrics");
    assert_eq!(metrics.status(), 200);
    assert!(metrics.field("content-type").is_some_and(|kind| kind.contains("text")), "{metrics:?}");
    let page = text(&metrics.body);
    let names = page.lines().filter(|line| line.starts_with("# TYPE aspis_")).count();
    assert!(names >= 5, "the counters are there from the first day:\n{page}");
    for line in [
        "aspis_responses_total{class=\"2xx\"} 2",
        "aspis_requests_total{result=\"Hit\"} 1",
        "aspis_requests_total{result=\"Miss\"} 1",
        "aspis_origin_requests_total 1",
        "aspis_cache_stored_total 1",
    ] {
        assert!(page.lines().any(|there| there == line), "{line} is missing:\n{page}");
    }
}

/// Not ready while draining, so that a balancer looks elsewhere, yet alive.
#[test]
fn readiness_ends_with_the_drain() {
    let gate = Gate::default();
    let origin = held(&gate);
    let mut aspis = Launch::before(&origin.url()).start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/slow", "");
    viewer.head();
    assert_eq!(aspis.ask_admin("/readyz").status(), 200);
    aspis.signal("TERM");
    eventually("not ready any more", || (aspis.ask_admin("/readyz").status() == 503).then_some(()));
    assert_eq!(aspis.ask_admin("/healthz").status(), 200);
    gate.open();
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
}

#[test]
fn admin_can_be_off() {
    let origin = plain();
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspis"));
    command.args(["serve", "--origin", &origin.url(), "--listen", "127.0.0.1:0", "--admin", "off"]);
    command.args(["--cores", "1", "--memory", "64MiB"]).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("the binary can be started");
    let mut line = String::new();
    let output = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("one line");
    let address = line.trim().strip_prefix("listening on ").and_then(|text| text.parse().ok());
    let served = address.map(|address| Viewer::to(address).get("/a").status());
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(served, Some(200), "{line:?}");
}

fn lines(path: &str) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// One line for each request; USR1 and HUP open the file anew, as log rotation needs.
#[test]
fn access_log_is_written_and_reopened() {
    let (origin, directory) = (plain(), Directory::new());
    let path = directory.file("access.log");
    let aspis = Launch::before(&origin.url()).with("--access-log", &path).start();
    let mut viewer = Viewer::connect(&aspis);
    for target in ["/one", "/one", "/two"] {
        viewer.get(target).expect(200, b"ok");
    }
    let written =
        eventually("three lines are in the log", || Some(lines(&path)).filter(|lines| lines.len() >= 3));
    assert_eq!(written.len(), 3, "{written:?}");
    for (line, (target, result)) in written.iter().zip([("/one", "Miss"), ("/one", "Hit"), ("/two", "Miss")])
    {
        for part in [target, result, "200", "GET", "127.0.0.1", "test.example"] {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
    }
    for signal in ["USR1", "HUP"] {
        let rotated = directory.file(&format!("rotated-{signal}.log"));
        std::fs::rename(&path, &rotated).expect("the directory is ours");
        aspis.signal(signal);
        eventually("the log is opened anew", || std::path::Path::new(&path).exists().then_some(()));
        viewer.get(&format!("/after-{signal}")).expect(200, b"ok");
        let fresh =
            eventually("a line is in the new file", || Some(lines(&path)).filter(|lines| !lines.is_empty()));
        assert!(fresh[0].contains(&format!("/after-{signal}")), "{fresh:?}");
        assert!(!lines(&rotated).iter().any(|line| line.contains(&format!("/after-{signal}"))));
    }
}

/// The log is complete after a drain: nothing buffered is lost.
#[test]
fn access_log_is_flushed_at_exit() {
    let (origin, directory) = (plain(), Directory::new());
    let path = directory.file("access.log");
    let mut aspis = Launch::before(&origin.url()).with("--access-log", &path).with("--cores", "2").start();
    let mut viewer = Viewer::connect(&aspis);
    for number in 0..50 {
        viewer.get(&format!("/{number}")).expect(200, b"ok");
    }
    aspis.signal("TERM");
    assert_eq!(aspis.wait_for_exit().code(), Some(0));
    assert_eq!(lines(&path).len(), 50);
}

#[test]
fn access_log_on_standard_output_follows_the_listeners() {
    let origin = plain();
    let aspis = Launch::before(&origin.url()).with("--access-log", "-").start();
    Viewer::connect(&aspis).get("/logged").expect(200, b"ok");
    aspis.wait_for_output("/logged");
    let lines = aspis.output();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines[0].starts_with("listening on ") && lines[1].starts_with("admin listening on "),
        "{lines:?}"
    );
}

/// A request's bytes cannot forge a line of the log.
#[test]
fn log_lines_cannot_be_forged() {
    let (origin, directory) = (plain(), Directory::new());
    let path = directory.file("access.log");
    let aspis = Launch::before(&origin.url()).with("--access-log", &path).start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.get_with("/a\"b", "User-Agent: x\"\ty\\ z\u{85}\r\nReferer: \"\r\n");
    viewer.get("/last");
    let written = eventually("the last line is there", || {
        Some(lines(&path)).filter(|lines| lines.iter().any(|line| line.contains("/last")))
    });
    assert_eq!(written.len(), 2, "{written:?}");
}

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

#[test]
fn proxy_protocol_gives_the_viewers_address() {
    let origin = Origin::fixed(&[("Cache-Control", "no-store")], b"ok");
    let aspis = Launch::before(&origin.url()).switch("--proxy-protocol").start();
    let mut v2 = V2_SIGNATURE.to_vec();
    v2.extend_from_slice(&[0x21, 0x11, 0, 12, 192, 0, 2, 9, 127, 0, 0, 1, 0x12, 0x34, 0, 80]);
    let mut local = V2_SIGNATURE.to_vec();
    local.extend_from_slice(&[0x20, 0x00, 0, 0]);
    let cases: &[(&[u8], &str, &str)] = &[
        (b"PROXY TCP4 192.0.2.7 127.0.0.1 1234 80\r\n", "/v1", "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 1234 80\r\n", "/v1-6", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "/unknown", "127.0.0.1"),
        (&v2, "/v2", "192.0.2.9"),
        (&local, "/local", "127.0.0.1"),
    ];
    for (header, target, address) in cases {
        let mut viewer = Viewer::connect(&aspis);
        viewer.send(header);
        viewer.get(target).expect(200, b"ok");
        assert_eq!(origin.only(target).all("x-forwarded-for"), [*address], "{target}");
        // The header stands once at the beginning of the connection, and split packets do not matter.
        viewer.get(&format!("{target}-again")).expect(200, b"ok");
        let mut viewer = Viewer::connect(&aspis);
        for byte in *header {
            viewer.send([*byte]);
        }
        viewer.get(&format!("{target}-split")).expect(200, b"ok");
    }
}

/// The settings table: a connection without the header is closed.
#[test]
fn missing_proxy_header_closes_the_connection() {
    let origin = plain();
    let aspis = Launch::before(&origin.url()).switch("--proxy-protocol").start();
    for bytes in
        [&b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"[..], b"PROXY TCP4 x y 1 2\r\nGET / HTTP/1.1\r\n\r\n"]
    {
        let mut viewer = Viewer::connect(&aspis);
        let _ = viewer.connection.send(bytes);
        let rest = text(&viewer.rest());
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 400"), "{rest}");
    }
    assert_eq!(origin.total(), 0);
}

/// Without the flag a PROXY header is a bad request, never an address.
#[test]
fn unasked_proxy_header_is_400() {
    let origin = plain();
    let aspis = Launch::before(&origin.url()).start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.send("PROXY TCP4 192.0.2.7 127.0.0.1 1234 80\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(viewer.response().status(), 400);
    viewer.expect_close();
    assert_eq!(origin.total(), 0);
}

#[test]
fn version_and_help_print_to_standard_output() {
    for arguments in [&["version"][..], &["--version"], &["--help"], &["serve", "--help"], &["check", "-h"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stdout.is_empty(), "{arguments:?}");
    }
    assert!(text(&run(&["version"]).stdout).contains(env!("CARGO_PKG_VERSION")));
    let help = text(&run(&["serve", "--help"]).stdout);
    for flag in ["--origin", "--listen", "--memory", "--semantics", "--drain-timeout", "--access-log"] {
        assert!(help.contains(flag), "{flag} is not in the help");
    }
}

/// The issue: `aspis check` = flags, kernel probe, origin reachability.
#[test]
fn check_tells_whether_the_origin_can_be_reached() {
    let origin = plain();
    let good = run(&["check", "--origin", &origin.url(), "--memory", "64MiB"]);
    assert_eq!(good.status.code(), Some(0), "{} {}", text(&good.stdout), text(&good.stderr));
    let bad =
        run(&["check", "--origin", "http://127.0.0.1:1", "--memory", "64MiB", "--connect-timeout", "1s"]);
    assert_eq!(bad.status.code(), Some(1), "{} {}", text(&bad.stdout), text(&bad.stderr));
    assert!((text(&bad.stdout) + &text(&bad.stderr)).contains("127.0.0.1:1"));
    assert_eq!(run(&["check", "--origin", "nonsense"]).status.code(), Some(2));
}

/// The issue: the demo serves pages, images, a slow API, an object with ranges, a counter, and prints curl lines.
#[test]
fn demo_serves_what_it_advertises() {
    // Ended by kill -9 it leaves its store behind.
    let directory = Directory::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspis"));
    command.args([
        "demo",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--cores",
        "1",
        "--memory",
        "64MiB",
    ]);
    command.env("TMPDIR", directory.path());
    let aspis = Aspis::start(command);
    let mut viewer = Viewer::connect(&aspis);
    let page = viewer.get("/");
    assert_eq!(page.status(), 200, "{page:?}");
    assert!(page.field("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{page:?}");
    let advertised = eventually("curl lines are printed", || {
        let printed = [aspis.errors(), aspis.output()].concat().join("\n");
        let address = format!("{}/", aspis.address());
        let targets = printed
            .lines()
            .filter(|line| line.contains("curl"))
            .filter_map(|line| line.split_once(&address).map(|(_, rest)| rest.to_owned()))
            .map(|rest| format!("/{}", rest.split([' ', '\'', '"', ';']).next().unwrap_or_default()))
            .collect::<Vec<_>>();
        (!targets.is_empty()).then_some(targets)
    });
    for target in advertised {
        let response = viewer.get(&target);
        assert!((200..300).contains(&response.status()), "{target}: {response:?}");
    }
}

/// A second SIGTERM ends the drain, as operators expect of a second Ctrl-C.
#[test]
fn second_sigterm_ends_the_drain() {
    let gate = Gate::default();
    let origin = held(&gate);
    let mut aspis = Launch::before(&origin.url()).start();
    let mut viewer = Viewer::connect(&aspis);
    viewer.ask("GET", "/slow", "");
    viewer.head();
    aspis.signal("TERM");
    eventually("the drain has begun", || (aspis.ask_admin("/readyz").status() == 503).then_some(()));
    aspis.signal("TERM");
    aspis.wait_for_exit();
    gate.open();
}
