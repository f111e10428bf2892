use std::io::{Read, Write};

use aspis_cache::invalidation::Wildcards;
use aspis_config::AdminAddress;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// Cores that know nothing of any URL.
struct Silent;

impl Explains for Silent {
    fn explain(
        &self,
        _: Box<[u8]>,
        _: &aspis_exchange::ViewerFacts,
        _: explain::Done,
    ) -> Result<(), &'static str> {
        Err("nobody knows")
    }
}

pub(super) fn admin() -> Admin {
    let (invalidations, ..) =
        crate::invalidations::open(None, crate::invalidations::Bound::default(), Wildcards::Trailing)
            .expect("in memory");
    invalidations.attach(Arc::new(crate::invalidations::tests::FakeCores::default()));
    Admin {
        readiness: Arc::default(),
        metrics: crate::metrics::tests::sample(),
        memory: MemoryPage::new(aspis_storage::budget::Budget::new(1 << 20), Vec::new()),
        store: None,
        invalidations,
        cores: Arc::new(Silent),
        guard: Guard::new(Reach::Loopback, None).expect("no file"),
    }
}

/// Runs `peer` against one connection.
pub(super) fn play<T, F: Future<Output = T>>(admin: &Admin, peer: impl FnOnce(DuplexStream) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (ours, socket) = duplex(1 << 20);
        tokio::join!(peer(ours), converse(socket, admin)).0
    })
}

/// Sends these bytes on a connection of their own, and returns what comes until it ends.
pub(super) fn converse_with(admin: &Admin, bytes: &[u8]) -> String {
    play(admin, async |mut peer| {
        peer.write_all(bytes).await.expect("there is room");
        let mut text = String::new();
        peer.read_to_string(&mut text).await.expect("text");
        text
    })
}

fn ask(admin: &Admin, method: &str, path: &str) -> (u16, String) {
    ask_as(admin, method, path, "localhost")
}

fn ask_as(admin: &Admin, method: &str, path: &str, host: &str) -> (u16, String) {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = converse_with(admin, head.as_bytes());
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

#[test]
fn health_is_always_ok() {
    assert_eq!(ask(&admin(), "GET", "/healthz"), (200, "ok\n".to_owned()));
}

#[test]
fn readiness_names_what_is_missing_until_nothing_is() {
    let admin = admin();
    let (status, body) = ask(&admin, "GET", "/readyz");
    assert_eq!(status, 503);
    assert_eq!(
        body,
        "{\"ready\":false,\"reasons\":[\"not listening yet\",\"the origin's name has not been resolved yet\"]}\n"
    );
    admin.readiness.listening();
    admin.readiness.origin_known();
    assert_eq!(ask(&admin, "GET", "/readyz"), (200, "{\"ready\":true,\"reasons\":[]}\n".to_owned()));
    // A log that cannot be written keeps no viewer away.
    admin.readiness.log_failure(Some("disk full".to_owned()));
    let (status, body) = ask(&admin, "GET", "/readyz");
    assert!(
        status == 200 && body.contains("\"warnings\":[\"invalidations are refused: disk full\"]"),
        "{body}"
    );
    admin.readiness.log_failure(None);
    admin.readiness.draining();
    let (status, body) = ask(&admin, "GET", "/readyz");
    assert_eq!((status, body.as_str()), (503, "{\"ready\":false,\"reasons\":[\"draining\"]}\n"));
}

#[test]
fn metrics_are_served() {
    let (status, body) = ask(&admin(), "GET", "/metrics");
    assert_eq!(status, 200);
    assert!(body.contains("aspis_requests_total{result=\"Hit\"} 7\n"), "{body}");
}

#[test]
fn other_methods_and_paths_are_refused() {
    assert_eq!(ask(&admin(), "POST", "/metrics").0, 405);
    assert_eq!(ask(&admin(), "DELETE", "/healthz").0, 405);
    assert_eq!(ask(&admin(), "DELETE", "/v1/invalidations/I1").0, 405);
    for path in ["/", "/v1", "/v1/", "/v1/invalidations/", "/v1/invalidations/I1/x", "/healthz/"] {
        assert_eq!(ask(&admin(), "GET", path).0, 404, "{path}");
    }
    assert_eq!(ask(&admin(), "POST", "/nothing").0, 404);
}

#[test]
fn every_route_under_v1_asks_the_guard() {
    for (path, _, methods) in ROUTES.iter().filter(|(path, ..)| path.starts_with("/v1/")) {
        let path = if path.ends_with('/') { format!("{path}name") } else { (*path).to_owned() };
        for method in methods.split(", ") {
            let status = ask_as(&admin(), method, &path, "rebound.example").0;
            assert_eq!(status, 403, "{method} {path}");
        }
    }
}

#[test]
fn it_answers_over_a_socket() {
    let address = AdminAddress::Address("127.0.0.1:0".parse().expect("an address"));
    let listener = bind(&address).expect("a free port").expect("not off");
    let address = listener.address().expect("bound");
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let stop = tokio::time::timeout(Duration::from_millis(700), serve(listener, Arc::new(admin())));
            assert!(stop.await.is_err(), "the server ends with its runtime only");
        });
    });
    let mut socket = std::net::TcpStream::connect(address).expect("it listens");
    socket.write_all(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    server.join().expect("the server ends");
}

#[test]
fn the_memory_account_is_served() {
    let (status, body) = ask(&admin(), "GET", "/v1/memory");
    assert_eq!(status, 200);
    assert!(body.contains("\"limit_bytes\": 1048576,") && body.contains("\"purposes\": {"), "{body}");
    assert_eq!(ask(&admin(), "POST", "/v1/memory").0, 405);
}
