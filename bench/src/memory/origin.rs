//! An origin that costs little: answers `/SIZE/NUMBER` with so many bytes, from memory, storable for an hour; `/slow/...` waits for a sign.
//!
//! One thread per connection, blocking; requests have no bodies.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::http;
use crate::wait;

/// A path that begins so is answered once the gate is open.
const SLOW: &str = "/slow";
/// A gate that nobody opens does not hold a thread for ever.
const GATE: Duration = Duration::from_secs(120);
/// The pattern repeats after a prime number of bytes, so that content shifted by a block is wrong content.
const PERIOD: u64 = 251;

/// A running origin; its threads end with the connections.
#[derive(Debug)]
pub(crate) struct FastOrigin {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes: Vec<u8>,
    requests: AtomicU64,
    is_open: AtomicBool,
}

/// Returns byte `at` of every body.
pub(crate) fn byte(at: u64) -> u8 {
    (at % PERIOD) as u8
}

impl FastOrigin {
    /// Starts one whose longest answer has so many bytes.
    pub(crate) fn start(longest: u64) -> io::Result<Self> {
        let bytes = (0..longest).map(byte).collect();
        let shared = Arc::new(Shared { bytes, requests: AtomicU64::new(0), is_open: AtomicBool::new(false) });
        let of_threads = Arc::clone(&shared);
        // A connection that breaks is the viewer's or the product's business; both are watched elsewhere.
        let address = http::listen(move |stream| drop(serve(&stream, &of_threads)))?;
        Ok(Self { address, shared })
    }

    /// Returns how many requests came.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Lets the slow answers go.
    pub(crate) fn open(&self) {
        self.shared.is_open.store(true, Ordering::SeqCst);
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        while line.trim_end() != "" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let rest = match path.strip_prefix(SLOW) {
            Some(rest) => {
                wait::until(GATE, || shared.is_open.load(Ordering::SeqCst));
                rest
            }
            None => &path,
        };
        let size = rest.split('/').nth(1).and_then(|size| size.parse::<usize>().ok()).unwrap_or_default();
        let body = &shared.bytes[..size.min(shared.bytes.len())];
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: image/webp\r\nCache-Control: public, max-age=3600\r\n\
             ETag: \"{}\"\r\nLast-Modified: Sat, 01 Nov 2025 10:00:00 GMT\r\nServer: bench\r\nContent-Length: {}\r\n\r\n",
            path,
            body.len()
        );
        write_both(stream, head.as_bytes(), body)?;
    }
}

fn write_both(mut stream: &TcpStream, head: &[u8], body: &[u8]) -> io::Result<()> {
    let mut slices = &mut [IoSlice::new(head), IoSlice::new(body)][..];
    while !slices.is_empty() {
        match stream.write_vectored(slices)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => IoSlice::advance_slices(&mut slices, count),
        }
    }
    Ok(())
}
