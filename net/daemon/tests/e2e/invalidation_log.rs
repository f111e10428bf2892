//! What `--state` keeps: invalidations survive kill -9, damage is named, and a full disk is no silent loss.

use crate::support::{Aspis, Directory, Launch, Origin, Random, eventually};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

fn plain() -> Origin {
    Origin::fixed(&[("Cache-Control", "max-age=600")], b"ok")
}

fn start(origin: &Origin, directory: &Directory) -> Aspis {
    Launch::before(&origin.url()).with("--state", &directory.file("state")).start()
}

/// The issue: what was acknowledged is there after kill -9, with its number, content and reference; numbers go on above it.
#[test]
fn acknowledged_invalidations_survive_kill_9() {
    let (origin, directory) = (plain(), Directory::new());
    let mut known: Vec<Value> = Vec::new();
    for round in 0..3 {
        let aspis = start(&origin, &directory);
        for earlier in &known {
            let id = earlier["id"].as_str().expect("an id");
            let (status, read) = aspis.ask_admin_json("GET", &format!("/v1/invalidations/{id}"), "");
            assert_eq!((status, read["status"].as_str()), (200, Some("Completed")), "round {round}: {read}");
            for name in ["number", "paths", "tags", "create_time", "caller_reference"] {
                assert_eq!(read[name], earlier[name], "round {round}: {name} of {id}");
            }
            let again = format!(
                r#"{{"paths":{},"tags":["t"],"caller_reference":{}}}"#,
                earlier["paths"], earlier["caller_reference"]
            );
            assert_eq!(aspis.ask_admin_json("POST", "/v1/invalidations", &again).1["id"], earlier["id"]);
        }
        for at in 0..5 {
            let body =
                format!(r#"{{"paths":["/{round}/{at}"],"tags":["t"],"caller_reference":"r{round}-{at}"}}"#);
            let (status, document) = aspis.ask_admin_json("POST", "/v1/invalidations", &body);
            assert_eq!(status, 201, "{document}");
            let newest = known.last().map_or(0, |last| last["number"].as_u64().expect("a number"));
            assert!(document["number"].as_u64().expect("a number") > newest, "{document}");
            known.push(document);
        }
        // Dropping it is kill -9.
        drop(aspis);
    }
}

/// Sends a batch to a server that may be killed meanwhile; nothing if no whole answer came.
fn try_post(admin: SocketAddr, body: &str) -> Option<Value> {
    let mut socket = TcpStream::connect(admin).ok()?;
    let head = "POST /v1/invalidations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n";
    write!(socket, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let (head, document) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 201 ").then(|| serde_json::from_str(document).ok())?
}

/// The issue, in short: killed at any moment between acceptance and completion, whatever was acknowledged holds.
#[test]
fn killed_while_it_accepts_it_loses_nothing_that_it_acknowledged() {
    let (origin, directory) = (plain(), Directory::new());
    let mut random = Random::new(6);
    let mut known: BTreeMap<u64, Value> = BTreeMap::new();
    for round in 0..6 {
        let aspis = start(&origin, &directory);
        for (number, earlier) in &known {
            let id = earlier["id"].as_str().expect("an id");
            let (status, read) = aspis.ask_admin_json("GET", &format!("/v1/invalidations/{id}"), "");
            assert_eq!((status, read["number"].as_u64()), (200, Some(*number)), "round {round}: {read}");
            assert_eq!(
                (&read["paths"], read["status"].as_str()),
                (&earlier["paths"], Some("Completed")),
                "round {round}"
            );
        }
        let newest = known.keys().last().copied().unwrap_or(0);
        let admin = aspis.admin();
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                std::thread::spawn(move || {
                    let bodies = (0..).map(|at| format!(r#"{{"paths":["/{round}/{caller}/{at}"]}}"#));
                    bodies.map_while(|body| try_post(admin, &body)).collect::<Vec<Value>>()
                })
            })
            .collect();
        eventually("one is accepted", || (aspis.metric("aspis_invalidations_total") > 0).then_some(()));
        std::thread::park_timeout(Duration::from_millis(random.below(40) as u64));
        // Dropping it is kill -9.
        drop(aspis);
        for caller in callers {
            for document in caller.join().expect("a caller does not panic") {
                let number = document["number"].as_u64().expect("a number");
                assert!(number > newest, "round {round}: {number} after {newest}");
                assert!(known.insert(number, document).is_none(), "round {round}: {number} twice");
            }
        }
    }
    assert!(known.len() > 6, "some were acknowledged in each round");
}

#[test]
fn two_processes_never_share_a_folder() {
    let (origin, directory) = (plain(), Directory::new());
    let first = start(&origin, &directory);
    let output = Launch::before(&origin.url()).with("--state", &directory.file("state")).fail();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("--state") && text.contains("another process uses this folder"), "{text}");
    drop(first);
    drop(start(&origin, &directory));
}

/// Too much is invalidated, never too little, and the operator is told.
#[test]
fn a_torn_tail_is_cut_and_damage_is_named() {
    let (origin, directory) = (plain(), Directory::new());
    let log = directory.path().join("state/rules.log");
    let aspis = start(&origin, &directory);
    for path in ["/1", "/2", "/3"] {
        aspis.ask_admin_json("POST", "/v1/invalidations", &format!(r#"{{"paths":["{path}"]}}"#));
    }
    drop(aspis);
    let mut bytes = std::fs::read(&log).expect("the log is there");
    bytes.truncate(bytes.len() - 3);
    std::fs::write(&log, &bytes).expect("our own directory");
    let aspis = start(&origin, &directory);
    aspis.wait_for_error("cut off");
    assert_eq!(aspis.ask_admin_json("GET", "/v1/invalidations", "").1["quantity"], 2);
    drop(aspis);
    let mut bytes = std::fs::read(&log).expect("the log is there");
    // Within the first invalidation: behind the header and the record of the first start's frame.
    bytes[90] ^= 0xff;
    std::fs::write(&log, &bytes).expect("our own directory");
    let aspis = start(&origin, &directory);
    aspis.wait_for_error("counts as invalidated");
    assert_eq!(aspis.ask_admin_json("GET", "/v1/invalidations", "").1["quantity"], 1);
    assert_eq!(
        aspis.ask_admin_json("POST", "/v1/invalidations?wait=5", r#"{"all":true}"#).1["status"],
        "Completed"
    );
    drop(aspis);
    std::fs::write(&log, b"no log of ours").expect("our own directory");
    let output = Launch::before(&origin.url()).with("--state", &directory.file("state")).fail();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("is not a log of invalidations"), "{text}");
}

/// A disk that takes no more: the answer is 503 with the cause, `/readyz` tells, and all is well again when there is room.
#[test]
fn a_full_disk_is_said_and_mended() {
    let (origin, directory) = (plain(), Directory::new());
    let command = Launch::before(&origin.url()).with("--state", &directory.file("state")).command();
    // A limit on the length of files stands for the full disk; where its signal is ignored a write fails with an error.
    let mut without_signal = Command::new("sh");
    without_signal
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args());
    let aspis = Aspis::start(without_signal);
    let limit = |bytes: &str| {
        let status = Command::new("prlimit")
            .args(["--pid", &aspis.id().to_string(), &format!("--fsize={bytes}:")])
            .status();
        assert!(status.expect("prlimit is there").success());
    };
    let body = r#"{"paths":["/a"]}"#;
    assert_eq!(aspis.ask_admin_json("POST", "/v1/invalidations", body).0, 201);
    limit("64");
    let (status, problem) = aspis.ask_admin_json("POST", "/v1/invalidations", body);
    assert_eq!(status, 503, "{problem}");
    assert_eq!(problem["applied"], true, "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("rules.log")), "{problem}");
    let (status, problem) = aspis.ask_admin_json("POST", "/v1/invalidations", body);
    assert_eq!((status, problem["applied"].as_bool()), (503, Some(false)), "what comes after is not begun");
    assert_eq!(aspis.ask_admin_json("GET", "/v1/invalidations", "").1["quantity"], 1);
    let ready = aspis.ask_admin("/readyz");
    assert!(
        ready.status() == 200 && String::from_utf8_lossy(&ready.body).contains("invalidations are refused"),
        "{ready:?}"
    );
    assert_eq!(aspis.metric("aspis_invalidation_log_broken"), 1);
    limit("unlimited");
    aspis.wait_for_error("rules.log is written again");
    let (_, document) = eventually("it takes invalidations again", || {
        Some(aspis.ask_admin_json("POST", "/v1/invalidations", body)).filter(|(status, _)| *status == 201)
    });
    drop(aspis);
    let aspis = start(&origin, &directory);
    let id = document["id"].as_str().expect("an id");
    assert_eq!(aspis.ask_admin_json("GET", &format!("/v1/invalidations/{id}"), "").0, 200);
    assert_eq!(aspis.ask_admin_json("GET", "/v1/invalidations", "").1["quantity"], 2);
}
