//! The demo's origin: a small web server on a loopback port and a thread of its own.
//!
//! It counts how often each path was asked, which is the whole point: the counter stands still while Aspis answers.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RANGE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use super::content;
use super::range::{Wanted, wanted};

/// How long `/slow` works.
const SLOW: Duration = Duration::from_secs(1);
/// Paths whose requests are counted; further ones are counted together, so that a stranger cannot fill the memory.
const COUNTED_PATHS_MAX: usize = 1000;
/// Bytes of the large object that are made at a time.
const VIDEO_PIECE_LEN: u64 = 64 * 1024;

/// How often each path was asked.
#[derive(Debug, Default)]
struct Asked {
    counts: Mutex<HashMap<String, u64>>,
}

impl Asked {
    fn note(&self, path: &str) -> u64 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if counts.len() < COUNTED_PATHS_MAX || counts.contains_key(path) { path } else { "others" };
        let count = counts.entry(key.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn count(&self, path: &str) -> u64 {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied().unwrap_or(0)
    }
}

/// Starts the origin and returns where it listens. It ends with the process.
pub(super) fn start() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo-origin".to_owned()).spawn(move || {
        if let Err(error) = runtime.block_on(serve(listener)) {
            tracing::error!("the demo's origin ended: {error}");
        }
    })?;
    Ok(address)
}

async fn serve(listener: std::net::TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let asked = Arc::new(Asked::default());
    loop {
        let (socket, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("the demo's origin cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Heads and bodies leave in separate writes; with Nagle's algorithm the second would wait.
        let _ = socket.set_nodelay(true);
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<hyper::body::Incoming>| {
                let asked = Arc::clone(&asked);
                let (parts, _) = request.into_parts();
                async move {
                    let range =
                        parts.headers.get(RANGE).and_then(|value| value.to_str().ok()).map(str::to_owned);
                    let path = parts.uri.path();
                    let query = parts.uri.query().unwrap_or_default();
                    let mut response = answer(&parts.method, path, query, range.as_deref(), &asked);
                    if path == "/slow" && response.status() == StatusCode::OK {
                        tokio::time::sleep(SLOW).await;
                    }
                    response.headers_mut().insert("server", HeaderValue::from_static("aspis-demo-origin"));
                    Ok::<_, Infallible>(response)
                }
            });
            // A viewer that leaves is no concern of the demo.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

type Answer = Response<Either<Full<Bytes>, Video>>;

fn answer(method: &Method, path: &str, query: &str, range: Option<&str>, asked: &Asked) -> Answer {
    const HTML: &str = "text/html; charset=utf-8";
    const TEXT: &str = "text/plain; charset=utf-8";
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "no-store", "only GET and HEAD\n");
    }
    if path == "/asked" {
        let of = query.split('&').find_map(|pair| pair.strip_prefix("path=")).unwrap_or("/");
        let count = asked.count(&of.replace("%2F", "/").replace("%2f", "/"));
        return text(StatusCode::OK, TEXT, "no-store", format!("{count}\n"));
    }
    let count = asked.note(path);
    match path {
        "/" => text(StatusCode::OK, HTML, "max-age=60", content::INDEX),
        "/page" => {
            text(StatusCode::OK, TEXT, "max-age=3600", "Kept for an hour, from whichever side you look.\n")
        }
        "/slow" => text(
            StatusCode::OK,
            "application/json",
            "max-age=30",
            format!("{{\"worked_ms\":1000,\"run\":{count}}}\n"),
        ),
        "/count" => {
            text(StatusCode::OK, TEXT, "max-age=10", format!("the origin was asked {count} time(s)\n"))
        }
        "/private" => text(StatusCode::OK, TEXT, "no-store", format!("never kept, answer number {count}\n")),
        "/video" => video(range),
        _ => {
            match path.strip_prefix("/images/").and_then(|name| content::image(name.strip_suffix(".svg")?)) {
                Some(svg) => text(StatusCode::OK, "image/svg+xml", "max-age=86400", svg),
                None => text(StatusCode::NOT_FOUND, TEXT, "no-store", "no such resource\n"),
            }
        }
    }
}

fn text(status: StatusCode, kind: &'static str, cache: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, HeaderValue::from_static(kind));
    set(&mut response, CACHE_CONTROL, HeaderValue::from_static(cache));
    response
}

fn video(range: Option<&str>) -> Answer {
    let (status, part) = match wanted(range, content::VIDEO_LEN) {
        Wanted::Whole => (StatusCode::OK, 0..content::VIDEO_LEN),
        Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Wanted::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
    };
    let content_range = match status {
        StatusCode::PARTIAL_CONTENT => {
            format!("bytes {}-{}/{}", part.start, part.end - 1, content::VIDEO_LEN)
        }
        StatusCode::RANGE_NOT_SATISFIABLE => format!("bytes */{}", content::VIDEO_LEN),
        _ => String::new(),
    };
    let mut response = Response::new(Either::Right(Video { at: part.start, end: part.end }));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    set(&mut response, CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    set(&mut response, ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    set(&mut response, ETAG, HeaderValue::from_static("\"demo-video-1\""));
    if !content_range.is_empty() {
        let value = HeaderValue::try_from(content_range).expect("digits are a field value");
        set(&mut response, CONTENT_RANGE, value);
    }
    response
}

fn set(response: &mut Answer, name: HeaderName, value: HeaderValue) {
    response.headers_mut().insert(name, value);
}

/// A part of the large object, made while it is sent.
struct Video {
    at: u64,
    end: u64,
}

impl Body for Video {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let len = (self.end - self.at).min(VIDEO_PIECE_LEN);
        if len == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; len as usize];
        content::fill_video(self.at, &mut piece);
        self.at += len;
        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

/// Paths that the origin has, for the tests of those who name them.
#[cfg(test)]
pub(super) const PATHS: [&str; 9] = [
    "/",
    "/page",
    "/slow",
    "/count",
    "/private",
    "/video",
    "/asked",
    "/images/wave.svg",
    "/images/rings.svg",
];

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use http_body_util::BodyExt;

    use super::*;

    fn get(path: &str, range: Option<&str>, asked: &Asked) -> (u16, hyper::HeaderMap, Bytes) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let (parts, body) = answer(&Method::GET, path, query, range, asked).into_parts();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let body = runtime.block_on(body.collect()).expect("made by code").to_bytes();
        (parts.status.as_u16(), parts.headers, body)
    }

    #[test]
    fn every_path_is_there_and_says_whether_it_may_be_kept() {
        let asked = Asked::default();
        for path in PATHS {
            let (status, headers, body) = get(path, None, &asked);
            assert_eq!(status, 200, "{path}");
            assert!(headers.contains_key(CACHE_CONTROL) && !body.is_empty(), "{path}");
        }
        assert_eq!(get("/nothing", None, &asked).0, 404);
        assert_eq!(answer(&Method::POST, "/", "", None, &asked).status(), StatusCode::METHOD_NOT_ALLOWED);
    }

    #[test]
    fn it_tells_how_often_it_was_asked() {
        let asked = Asked::default();
        for _ in 0..3 {
            get("/slow", None, &asked);
        }
        assert_eq!(get("/asked?path=/slow", None, &asked).2, "3\n");
        assert_eq!(get("/asked?path=%2Fslow", None, &asked).2, "3\n");
        assert_eq!(get("/asked?path=/never", None, &asked).2, "0\n");
        assert_eq!(get("/count", None, &asked).2, "the origin was asked 1 time(s)\n");
        for path in 0..COUNTED_PATHS_MAX + 10 {
            asked.note(&format!("/{path}"));
        }
        assert!(asked.counts.lock().expect("not poisoned").len() <= COUNTED_PATHS_MAX + 1);
    }

    #[test]
    fn the_video_is_served_whole_and_in_parts() {
        let asked = Asked::default();
        let (status, headers, whole) = get("/video", None, &asked);
        assert_eq!((status, whole.len() as u64), (200, content::VIDEO_LEN));
        assert_eq!(headers[ACCEPT_RANGES], "bytes");
        let (status, headers, part) = get("/video", Some("bytes=70000-140000"), &asked);
        assert_eq!(status, 206);
        assert_eq!(headers[CONTENT_RANGE], "bytes 70000-140000/33554432");
        assert_eq!(part, whole[70_000..=140_000]);
        let (status, headers, none) = get("/video", Some("bytes=33554432-"), &asked);
        assert_eq!((status, none.len()), (416, 0));
        assert_eq!(headers[CONTENT_RANGE], "bytes */33554432");
    }

    #[test]
    fn it_answers_over_a_socket() {
        let address = start().expect("a free port");
        let mut socket = std::net::TcpStream::connect(address).expect("it listens");
        socket
            .write_all(b"GET /video HTTP/1.1\r\nHost: a\r\nRange: bytes=-3\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("it answers");
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 206 Partial Content\r\n"), "{text}");
        assert!(text.contains("content-length: 3\r\n"), "{text}");
        let mut expected = [0; 3];
        content::fill_video(content::VIDEO_LEN - 3, &mut expected);
        assert!(answer.ends_with(&expected));
    }
}
