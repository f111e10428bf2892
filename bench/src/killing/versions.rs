//! An origin whose pages are new on each request, and the question whether what was purged is served again.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use crate::admin::Admin;
use crate::http::{self, Head, Reader};

/// The page that each round of kills invalidates.
const PAGE: &str = "/versioned";
/// A server that says nothing for so long is stuck.
const SILENCE: Duration = Duration::from_secs(20);

/// A running origin.
#[derive(Debug)]
pub(crate) struct Versions {
    address: SocketAddr,
    /// The newest version of a page that an acknowledged invalidation was about: older ones, and it, must not come again.
    purged: Mutex<HashMap<String, u64>>,
}

impl Versions {
    /// Starts it; it ends with the driver.
    pub(crate) fn start() -> io::Result<Self> {
        // Answers so far.
        let given = AtomicU64::new(0);
        let address = http::serve(move |stream, head| answer(stream, head, &given))?;
        Ok(Self { address, purged: Mutex::default() })
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has the page stored, and invalidated. Only what was acknowledged counts.
    pub(crate) fn invalidate(&self, viewers: SocketAddr, admin: SocketAddr) -> io::Result<()> {
        let version = fetch(viewers, PAGE)?;
        let (status, _) =
            Admin::connect(admin)?.ask("POST", "/v1/invalidations", Some(&json!({ "paths": [PAGE] })))?;
        if status == 201 {
            self.note(PAGE, version);
        }
        Ok(())
    }

    /// Notes that an acknowledged invalidation was about this version of a page.
    pub(crate) fn note(&self, page: &str, version: u64) {
        self.purged.lock().unwrap_or_else(PoisonError::into_inner).insert(page.to_owned(), version);
    }

    /// Asks for every page that was purged.
    pub(crate) fn expect_newer(&self, viewers: SocketAddr, faults: &mut Vec<String>) -> io::Result<()> {
        for (page, purged) in &*self.purged.lock().unwrap_or_else(PoisonError::into_inner) {
            let version = fetch(viewers, page)?;
            if version <= *purged {
                faults.push(format!("version {version} of {page} is served, but {purged} was purged"));
            }
        }
        Ok(())
    }
}

/// Returns the version of a page that a viewer gets.
pub(crate) fn fetch(viewers: SocketAddr, page: &str) -> io::Result<u64> {
    let mut reader = Reader::connect(viewers, SILENCE)?;
    let request = format!("GET {page} HTTP/1.1\r\nHost: killing.example\r\nConnection: close\r\n\r\n");
    reader.stream().write_all(request.as_bytes())?;
    let (_, body) = reader.answer().map_err(|fault| io::Error::other(format!("{page}: {fault:?}")))?;
    let body = String::from_utf8_lossy(&body);
    body.parse().map_err(|_| io::Error::other(format!("{page}: no version in {body:?}")))
}

/// Answers a request with a page of its own version, tagged with its path.
fn answer(mut stream: &TcpStream, head: &Head, given: &AtomicU64) -> io::Result<()> {
    let (_, target) = head.request_line().ok_or(io::ErrorKind::InvalidData)?;
    let version = given.fetch_add(1, Ordering::SeqCst) + 1;
    let body = version.to_string();
    let tag = target.trim_start_matches('/').replace('/', "-");
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nCache-Control: max-age=36000\r\nETag: \"{version}\"\r\nSurrogate-Key: page-{tag}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes())
}
