//! The origin of a site: serves the version of the moment with validators, ranges and variants; some objects change by themselves, all by POST.
//!
//! It never fails: whatever goes wrong at a viewer is the server's doing. Large content comes in pieces with pauses now and then, so that fills are
//! under way when something is invalidated or killed.

use super::ledger::Ledger;
use super::site::{Edition, VARIANTS};
use crate::http::{self, Head};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One request in so many for what lives shortly finds it changed.
const CHANGE: u64 = 6;
/// One answer in so many comes slowly.
const SLOW: u64 = 5;
const PIECE_LEN: u64 = 128 * 1024;
const PAUSE: Duration = Duration::from_millis(15);

/// A running origin; it ends with the driver.
#[derive(Debug)]
pub(crate) struct Origin {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Origin {
    /// Serves the ledger's site on a port of the kernel's choice.
    pub(crate) fn start(ledger: &Arc<Ledger>) -> io::Result<Self> {
        let requests = Arc::new(AtomicU64::new(0));
        let (ledger, counted) = (Arc::clone(ledger), Arc::clone(&requests));
        let address = http::serve(move |stream, head| {
            answer(stream, &ledger, head, counted.fetch_add(1, Ordering::SeqCst))
        })?;
        Ok(Self { address, requests })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many requests came.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: &TcpStream, ledger: &Ledger, head: &Head, number: u64) -> io::Result<()> {
    let (method, path) = head.request_line().unwrap_or_default();
    let Some(at) = ledger.site.find(path) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let object = ledger.object(at);
    if method == "POST" {
        let version = ledger.change(at);
        return write!(stream, "HTTP/1.1 200 OK\r\nX-Version: {version}\r\nContent-Length: 0\r\n\r\n");
    }
    // By itself changes only what nobody may keep for long: all else would be served in its old version, and rightly.
    let version = if object.lifetime < 60 && number.is_multiple_of(CHANGE) {
        ledger.change(at)
    } else {
        ledger.version(at)
    };
    let language = head.field("accept-language").unwrap_or(VARIANTS[0]);
    let variant = VARIANTS[..object.variants].iter().position(|name| *name == language).unwrap_or(0);
    let edition = Edition { version, variant };
    let vary = if object.variants > 1 { "Vary: Accept-Language\r\n" } else { "" };
    let fields = format!(
        "Cache-Control: max-age={}\r\nETag: {}\r\nSurrogate-Key: tag-{}\r\n{vary}",
        object.lifetime,
        edition.tag(),
        object.tag
    );
    if head.field("if-none-match") == Some(&edition.tag()) {
        return write!(stream, "HTTP/1.1 304 Not Modified\r\n{fields}\r\n");
    }
    let length = object.content_len(edition);
    let part = head.part(&edition.tag(), length);
    let (from, end) = part.unwrap_or((0, length));
    let is_chunked = part.is_none() && method == "GET" && number % 7 == 3;
    let framing = match is_chunked {
        true => "Transfer-Encoding: chunked\r\n".to_owned(),
        false => format!("Content-Length: {}\r\n", end - from),
    };
    match part {
        None => write!(stream, "HTTP/1.1 200 OK\r\n{fields}{framing}\r\n")?,
        Some(_) => write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\n{fields}{framing}Content-Range: bytes {from}-{}/{length}\r\n\r\n",
            end - 1
        )?,
    }
    if method == "HEAD" {
        return Ok(());
    }
    let rest = if number.is_multiple_of(SLOW) { PAUSE } else { Duration::ZERO };
    object.content(edition).send(stream, (from, end), is_chunked, || PIECE_LEN, rest)?;
    if is_chunked { stream.write_all(b"0\r\n\r\n") } else { Ok(()) }
}
