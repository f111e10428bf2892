//! An origin whose objects all have the version of the moment, and say so.
//!
//! One thread per connection, blocking; requests have no bodies.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A running origin; its threads end with the connections.
#[derive(Debug)]
pub(crate) struct VersionOrigin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    version: AtomicU64,
    requests: AtomicU64,
}

impl VersionOrigin {
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&of_thread);
                // A connection that breaks shows at the viewer that waits for its answer.
                std::thread::spawn(move || drop(serve(&stream, &shared)));
            }
        });
        Ok(Self { address, shared })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Gives everything a new version and returns it.
    pub(crate) fn change(&self) -> u64 {
        self.shared.version.fetch_add(1, Ordering::SeqCst) + 1
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut line = String::new();
    let mut is_half = false;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if let Some(path) = line.strip_prefix("GET ").and_then(|rest| rest.split(' ').next()) {
            is_half = path
                .strip_prefix("/o/")
                .and_then(|number| number.parse().ok())
                .is_some_and(|number: u64| number.is_multiple_of(2));
        }
        if !line.trim_end().is_empty() {
            continue;
        }
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let body = format!("{:016}", shared.version.load(Ordering::SeqCst));
        let tags = if is_half { "Surrogate-Key: half\r\n" } else { "" };
        let head = "HTTP/1.1 200 OK\r\nCache-Control: public, max-age=86400\r\n";
        let answer = format!("{head}{tags}Content-Length: {}\r\n\r\n{body}", body.len());
        writer.write_all(answer.as_bytes())?;
    }
}
