//! Invalidations by the admin API and by the commands, as viewers see them.

use crate::support::{Aspis, Launch, Origin, Response, Viewer, run};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// An origin that tells on each request how often it was asked, and tags its answers.
fn counting() -> (Origin, Arc<AtomicU32>) {
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    let origin = Origin::start(move |reply| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        let tag = if reply.request.target().contains("news") { "News extra" } else { "other" };
        let fields = [("Cache-Control", "max-age=600"), ("ETag", "\"e\""), ("Surrogate-Key", tag)];
        reply.answer(200, &fields, format!("{number}").as_bytes());
    });
    (origin, count)
}

#[track_caller]
fn results(aspis: &Aspis, paths: &[&str]) -> Vec<String> {
    let mut viewer = Viewer::connect(aspis);
    paths.iter().map(|path| viewer.get(path).x_cache().to_owned()).collect()
}

/// I-8, I-9, I-18, I-21, I-30: what is named is fetched anew after `Completed`, and nothing else.
#[test]
fn what_is_named_is_gone_and_the_rest_stays() {
    let (origin, _) = counting();
    let aspis = Launch::before(&origin.url()).with("--cores", "2").start();
    let paths = ["/a", "/a?x=1", "/i/1", "/i/2/3", "/news", "/z"];
    for (body, gone) in [
        (r#"{"paths":["/a"]}"#, &["/a"][..]),
        (r#"{"paths":["/a*"]}"#, &["/a", "/a?x=1"]),
        (r#"{"paths":["/i/*","/z"]}"#, &["/i/1", "/i/2/3", "/z"]),
        (r##"{"paths":["#NEWS"]}"##, &["/news"]),
        (r#"{"tags":["extra"]}"#, &["/news"]),
        (r#"{"hosts":["nobody.example"]}"#, &[]),
        (r#"{"hosts":["Test.Example:80"]}"#, &paths),
        (r#"{"paths":["/a"],"hosts":["nobody.example"]}"#, &[]),
        (r#"{"all":true}"#, &paths),
    ] {
        results(&aspis, &paths);
        assert_eq!(results(&aspis, &paths), ["Hit"; 6], "before {body}");
        aspis.invalidate(body);
        let wanted: Vec<&str> =
            paths.iter().map(|path| if gone.contains(path) { "Miss" } else { "Hit" }).collect();
        assert_eq!(results(&aspis, &paths), wanted, "{body}");
    }
    assert_eq!(aspis.metric("aspis_invalidations_total"), 9);
    assert_eq!(aspis.metric("aspis_invalidation_number"), 9);
}

/// A soft one is validated; after a hard one the next fetch is unconditional (I-24).
#[test]
fn soft_validates_and_hard_fetches() {
    let (origin, _) = counting();
    let aspis = Launch::before(&origin.url()).start();
    for (body, is_conditional) in [(r#"{"paths":["/a"],"soft":true}"#, true), (r#"{"paths":["/a"]}"#, false)]
    {
        results(&aspis, &["/a", "/a"]);
        let before = origin.requests().len();
        aspis.invalidate(body);
        Viewer::connect(&aspis).get("/a");
        let asked = origin.requests();
        assert_eq!(asked.len(), before + 1, "{body}");
        assert_eq!(!asked[before].all("if-none-match").is_empty(), is_conditional, "{body}");
    }
}

/// Bad input: the item is named and nothing of the batch is applied.
#[test]
fn a_bad_batch_changes_nothing() {
    let (origin, _) = counting();
    let aspis = Launch::before(&origin.url()).start();
    results(&aspis, &["/a", "/a"]);
    let long = format!(r#"{{"paths":["/a","/{}"]}}"#, "x".repeat(4000));
    let many: Vec<String> = (0..3001).map(|at| format!("\"/{at}\"")).collect();
    let many = format!(r#"{{"paths":["/a",{}]}}"#, many.join(","));
    for (body, pointer) in [
        (r#"{"paths":["/a","b"]}"#, Some("/paths/1")),
        (&long, Some("/paths/1")),
        (r#"{"paths":["/a"],"tags":["a b",""]}"#, Some("/tags/0")),
        (r#"{"paths":["/a"],"unknown":1}"#, None),
        (r#"{"paths":[]}"#, None),
        ("", None),
        (&many, None),
    ] {
        let (status, problem) = aspis.ask_admin_json("POST", "/v1/invalidations", body);
        assert_eq!(status, 400, "{problem}");
        assert_eq!(problem["pointer"].as_str(), pointer, "{problem}");
        assert!(problem["detail"].is_string() && problem["status"] == 400, "{problem}");
    }
    assert_eq!(results(&aspis, &["/a"]), ["Hit"]);
    assert_eq!(aspis.ask_admin_json("GET", "/v1/invalidations", "").1["quantity"], 0);
    // A body that is too long is refused by what its head says.
    let mut viewer = Viewer::to(aspis.admin());
    viewer.send(format!(
        "POST /v1/invalidations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        (4 << 20) + 1
    ));
    assert_eq!(viewer.response().status(), 413);
}

/// I-2 to I-5.
#[test]
fn invalidations_are_read_listed_and_idempotent() {
    let (origin, _) = counting();
    let aspis = Launch::before(&origin.url()).start();
    let body = r#"{"paths":["/a","/b"],"tags":["t"],"caller_reference":"release-7"}"#;
    let first = aspis.invalidate(body);
    let id = first["id"].as_str().expect("an id");
    let (status, read) = aspis.ask_admin_json("GET", &format!("/v1/invalidations/{id}"), "");
    assert_eq!((status, &read), (200, &first));
    assert_eq!((&read["paths"], &read["tags"]), (&json!(["/a", "/b"]), &json!(["t"])));
    let again = aspis.invalidate(r#"{"tags":["t"],"paths":["/b","/a"],"caller_reference":"release-7"}"#);
    assert_eq!((&again["id"], &again["number"]), (&first["id"], &first["number"]));
    let (status, problem) =
        aspis.ask_admin_json("POST", "/v1/invalidations", r#"{"all":true,"caller_reference":"release-7"}"#);
    assert_eq!((status, problem["applied"].as_bool()), (409, Some(false)));
    let newest = aspis.invalidate(r#"{"all":true}"#);
    let (_, page) = aspis.ask_admin_json("GET", "/v1/invalidations?max_items=1", "");
    assert_eq!((&page["items"][0]["id"], page["is_truncated"].as_bool()), (&newest["id"], Some(true)));
    let marker = page["next_marker"].as_str().expect("there is more");
    let (_, page) = aspis.ask_admin_json("GET", &format!("/v1/invalidations?marker={marker}"), "");
    assert_eq!((&page["items"][0]["id"], page["is_truncated"].as_bool()), (&first["id"], Some(false)));
    assert_eq!(aspis.ask_admin_json("GET", "/v1/invalidations/INOBODY", "").0, 404);
}

/// The commands do what the API does, and `explain` says why.
#[test]
fn the_commands_invalidate_and_explain() {
    let (origin, _) = counting();
    let aspis = Launch::before(&origin.url()).with("--cores", "2").start();
    let admin = aspis.admin().to_string();
    let explain = |path: &str| {
        let output = run(&["explain", &format!("http://test.example{path}"), "--admin", &admin]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = explain("/news");
    assert!(text.contains("why        not stored") && text.contains("stored     no"), "{text}");
    assert!(text.contains("key        http test.example /news"), "{text}");
    let answer: Response = Viewer::connect(&aspis).get("/news");
    assert_eq!(answer.x_cache(), "Miss");
    let text = explain("/news");
    assert!(text.contains("a hit: it is fresh for") && text.contains("status 200"), "{text}");
    assert!(text.contains("tags       2"), "{text}");
    let output = run(&[
        "invalidate",
        "--tag",
        "news",
        "--host",
        "test.example",
        "--soft",
        "--wait",
        "--admin",
        &admin,
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(explain("/news").contains("soft purge"), "{}", explain("/news"));
    assert_eq!(run(&["invalidate", "/n*", "--wait", "--admin", &admin]).status.code(), Some(0));
    let text = explain("/news");
    assert!(text.contains("purged by invalidation 2") || text.contains("not stored"), "{text}");
}
