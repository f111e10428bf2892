//! The admin server: `GET /healthz`, `/readyz` and `/metrics`, on its own address and on the control thread.
//!
//! It shares nothing with the cores but their counters, so a flood of admin requests cannot slow a viewer by more than
//! its share of the machine. Connections are few and short-lived by limit.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::metrics::{Format, Metrics};

/// Most admin connections at a time; further ones wait in the listener's queue.
const CONNECTION_COUNT_MAX: usize = 64;
/// A connection may take this long to send a head, between two requests too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept that failed, for example because no file is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether viewers should be sent to us. Written by the control thread, read by the admin server.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    is_listening: AtomicBool,
    knows_origin: AtomicBool,
    is_draining: AtomicBool,
}

impl Readiness {
    /// The listeners accept.
    pub(crate) fn listening(&self) {
        self.is_listening.store(true, Ordering::Relaxed);
    }

    /// At least one address of the origin is known.
    pub(crate) fn origin_known(&self) {
        self.knows_origin.store(true, Ordering::Relaxed);
    }

    /// The end has begun.
    pub(crate) fn draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// Lists what stands against sending viewers; empty when ready.
    fn reasons(&self) -> Vec<&'static str> {
        [
            (!self.is_listening.load(Ordering::Relaxed), "not listening yet"),
            (!self.knows_origin.load(Ordering::Relaxed), "the origin's name has not been resolved yet"),
            (self.is_draining.load(Ordering::Relaxed), "draining"),
        ]
        .into_iter()
        .filter_map(|(stands, reason)| stands.then_some(reason))
        .collect()
    }
}

/// What the admin server answers from.
#[derive(Debug)]
pub(crate) struct Admin {
    /// For `/readyz`.
    pub(crate) readiness: Arc<Readiness>,
    /// For `/metrics`.
    pub(crate) metrics: Metrics,
}

/// Binds the admin address. The error names the address.
pub(crate) fn bind(address: SocketAddr) -> Result<std::net::TcpListener, String> {
    let listener =
        std::net::TcpListener::bind(address).map_err(|error| format!("--admin {address}: {error}"))?;
    listener.set_nonblocking(true).map_err(|error| format!("--admin {address}: {error}"))?;
    Ok(listener)
}

/// Serves until the runtime ends.
pub(crate) async fn serve(listener: std::net::TcpListener, admin: Arc<Admin>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("the admin server cannot start: {error}"),
    };
    let places = Arc::new(Semaphore::new(CONNECTION_COUNT_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes the semaphore");
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!("the admin server cannot accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
                let response = admin.answer(request.method(), request.uri().path(), accept);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(socket), service);
            // What a peer does to its own admin connection concerns nobody else.
            let _ = connection.await;
            drop(place);
        });
    }
}

impl Admin {
    /// Answers one request.
    fn answer(&self, method: &Method, path: &str, accept: Option<&str>) -> Response<Full<Bytes>> {
        const TEXT: &str = "text/plain; charset=utf-8";
        if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
            return response(StatusCode::NOT_FOUND, TEXT, "not found: try /healthz, /readyz or /metrics\n");
        }
        if method != Method::GET && method != Method::HEAD {
            let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match path {
            "/healthz" => response(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => self.ready(),
            _ => {
                let format = Format::accepted(accept);
                response(StatusCode::OK, format.content_type(), self.metrics.render(format))
            }
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let reasons = self.readiness.reasons();
        let quoted: Vec<String> = reasons.iter().map(|reason| format!("\"{reason}\"")).collect();
        let body = format!("{{\"ready\":{},\"reasons\":[{}]}}\n", reasons.is_empty(), quoted.join(","));
        let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        response(status, "application/json", body)
    }
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use http_body_util::BodyExt;

    use super::*;

    fn admin() -> Admin {
        Admin { readiness: Arc::default(), metrics: crate::metrics::tests::sample() }
    }

    fn ask(admin: &Admin, method: Method, path: &str) -> (u16, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let response = admin.answer(&method, path, None);
        let status = response.status().as_u16();
        let body = runtime.block_on(response.into_body().collect()).expect("a body in memory").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[test]
    fn health_is_always_ok() {
        assert_eq!(ask(&admin(), Method::GET, "/healthz"), (200, "ok\n".to_owned()));
    }

    #[test]
    fn readiness_names_what_is_missing_until_nothing_is() {
        let admin = admin();
        let (status, body) = ask(&admin, Method::GET, "/readyz");
        assert_eq!(status, 503);
        assert_eq!(
            body,
            "{\"ready\":false,\"reasons\":[\"not listening yet\",\"the origin's name has not been resolved yet\"]}\n"
        );
        admin.readiness.listening();
        admin.readiness.origin_known();
        assert_eq!(
            ask(&admin, Method::GET, "/readyz"),
            (200, "{\"ready\":true,\"reasons\":[]}\n".to_owned())
        );
        admin.readiness.draining();
        let (status, body) = ask(&admin, Method::GET, "/readyz");
        assert_eq!((status, body.as_str()), (503, "{\"ready\":false,\"reasons\":[\"draining\"]}\n"));
    }

    #[test]
    fn metrics_are_served() {
        let (status, body) = ask(&admin(), Method::GET, "/metrics");
        assert_eq!(status, 200);
        assert!(body.contains("aspis_requests_total{result=\"Hit\"} 7\n"), "{body}");
    }

    #[test]
    fn other_methods_and_paths_are_refused() {
        assert_eq!(ask(&admin(), Method::POST, "/metrics").0, 405);
        assert_eq!(ask(&admin(), Method::DELETE, "/healthz").0, 405);
        assert_eq!(ask(&admin(), Method::GET, "/").0, 404);
        assert_eq!(ask(&admin(), Method::POST, "/nothing").0, 404);
    }

    #[test]
    fn a_taken_admin_address_is_named() {
        let taken = bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = taken.local_addr().expect("bound");
        let error = bind(address).expect_err("taken");
        assert!(error.contains(&format!("--admin {address}")) && error.contains("in use"), "{error}");
    }

    #[test]
    fn it_answers_over_a_socket() {
        let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let server = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let stop =
                    tokio::time::timeout(Duration::from_millis(700), serve(listener, Arc::new(admin())));
                assert!(stop.await.is_err(), "the server ends with its runtime only");
            });
        });
        let mut socket = std::net::TcpStream::connect(address).expect("it listens");
        socket
            .write_all(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        server.join().expect("the server ends");
    }
}
