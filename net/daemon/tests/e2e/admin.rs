//! Who may ask the admin side for what: tokens, foreign names and pages, Unix sockets, and the commands that use them.

use crate::support::{Aspis, Directory, Launch, Origin, Response, Viewer, run};
use std::os::unix::fs::PermissionsExt;

fn plain() -> Origin {
    Origin::fixed(&[("Cache-Control", "max-age=60")], b"ok")
}

/// POSTs to `/v1/invalidations` with these field lines, each ended by CRLF.
#[track_caller]
fn post(aspis: &Aspis, fields: &str, body: &str) -> Response {
    let mut viewer = Viewer::to(aspis.admin());
    viewer.send(format!(
        "POST /v1/invalidations HTTP/1.1\r\n{fields}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ));
    viewer.response()
}

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn foreign_names_and_pages_and_forms_are_refused() {
    let origin = plain();
    let aspis = Launch::before(&origin.url()).start();
    let own = format!("Host: {}\r\n", aspis.admin());
    let all = r#"{"all":true}"#;
    for (fields, status) in [
        (format!("{own}{JSON}"), 201),
        (format!("Host: localhost\r\n{JSON}"), 201),
        (format!("{own}{JSON}Origin: http://{}\r\n", aspis.admin()), 201),
        (format!("Host: rebound.example\r\n{JSON}"), 403),
        (format!("{own}{JSON}Origin: http://evil.example\r\n"), 403),
        (format!("{own}{JSON}Origin: null\r\n"), 403),
        (format!("{own}Content-Type: text/plain\r\n"), 415),
        (format!("{own}Content-Type: application/x-www-form-urlencoded\r\n"), 415),
        (own.clone(), 415),
    ] {
        let answer = post(&aspis, &fields, all);
        assert_eq!(answer.status(), status, "{fields}: {answer:?}");
        if status != 201 {
            assert_eq!(answer.all("content-type"), ["application/problem+json"], "{fields}");
        }
    }
    // Reading what is stored is as private; health and metrics are not.
    assert_eq!(aspis.ask_admin("/v1/invalidations").status(), 403);
    assert_eq!(aspis.ask_admin("/metrics").status(), 200);
}

#[test]
fn an_open_address_needs_the_token_for_changes() {
    let (origin, directory) = (plain(), Directory::new());
    let file = directory.file("token");
    std::fs::write(&file, "an-admin-token-of-this-test\n").expect("our own directory");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("our own file");
    let aspis =
        Launch::before(&origin.url()).with("--admin", "0.0.0.0:0").with("--admin-token", &file).start();
    aspis.wait_for_error("can be read by others");
    let port = aspis.admin().port();
    let at = format!("127.0.0.1:{port}");
    let ask = |token: Option<&str>| {
        let mut arguments = vec!["invalidate", "--all", "--admin", &at];
        arguments.extend(token.map(|file| ["--admin-token", file]).into_iter().flatten());
        run(&arguments)
    };
    let refused = ask(None);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("401") && text.contains("--admin-token"), "{text}");
    assert_eq!(ask(Some(&file)).status.code(), Some(0));
    // A new token is taken at SIGHUP; the old one is none any more.
    let old = directory.file("old");
    std::fs::copy(&file, &old).expect("our own directory");
    std::fs::write(&file, "another-token-of-this-test\n").expect("our own file");
    aspis.signal("HUP");
    aspis.wait_for_error("the admin token was read again");
    assert_eq!(ask(Some(&old)).status.code(), Some(1));
    assert_eq!(ask(Some(&file)).status.code(), Some(0));
}

#[test]
fn an_open_address_without_a_token_refuses_changes() {
    let origin = plain();
    let aspis = Launch::before(&origin.url()).with("--admin", "0.0.0.0:0").start();
    aspis.wait_for_error("without --admin-token nobody can invalidate there");
    let output = run(&["invalidate", "--all", "--admin", &format!("127.0.0.1:{}", aspis.admin().port())]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("403"), "{text}");
}

#[test]
fn a_unix_socket_is_an_admin_address() {
    let (origin, directory) = (plain(), Directory::new());
    let path = directory.file("admin.sock");
    let name = format!("unix:{path}");
    let aspis = Launch::before(&origin.url()).with("--admin", &name).start();
    assert_eq!(aspis.admin_name(), name);
    let mode = std::fs::metadata(&path).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let output = run(&["invalidate", "/a", "--wait", "--admin", &name]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text.starts_with('I') && text.ends_with(" Completed (number 1)\n"), "{text}");
}

#[test]
fn the_commands_say_what_is_wrong() {
    let origin = plain();
    let aspis = Launch::before(&origin.url()).start();
    let (admin, viewers) = (aspis.admin().to_string(), aspis.address().to_string());
    for (arguments, code, parts) in [
        (&["invalidate", "--admin", &admin][..], 2, &["nothing to invalidate", "--tag"][..]),
        (&["invalidate", "images", "--admin", &admin], 2, &["/paths/0: images", "begins with '/'"]),
        (&["invalidate", "/a", "--admin", "nowhere"], 2, &["--admin", "nowhere"]),
        (&["invalidate", "/a", "--admin", "127.0.0.1:1"], 1, &["nobody listens on 127.0.0.1:1"]),
        (
            &["invalidate", "/a", "--admin", "unix:/nowhere.sock"],
            1,
            &["nobody listens on unix:/nowhere.sock"],
        ),
        (&["invalidate", "/a", "--admin", &viewers], 1, &["is it an admin address"]),
        (&["invalidate", "/a", "--admin-token", "/nowhere"], 1, &["--admin-token /nowhere"]),
        (&["explain", "/a", "--admin", &admin], 2, &["http://www.example.com/"]),
        (&["explain"], 2, &["<URL>"]),
    ] {
        let output = run(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        for part in parts {
            assert!(text.contains(part), "{arguments:?}: {part:?} is not in: {text}");
        }
    }
}
