//! What disturbs: one connection that asks without end, readers of a huge body, a crowd on one key, misses that the origin cannot keep up with.
//!
//! Runs in a process of its own, at the worst priority, on the CPU beside the server's, for a given time. It takes whatever answer comes; what it got is
//! seen from the server's counters. Where the kernel does not preempt itself, who is measured waits for the end of its system calls: so they are short.

use crate::process;
use crate::wait;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::LocalSet;

/// Requests that are written at once.
const BATCH: usize = 500;
/// What the slow reader takes, and how often.
const SIP: usize = 16 * 1024;
const SIP_EVERY: Duration = Duration::from_millis(250);
/// Most bytes that are read at once.
const READ_LEN: usize = 64 * 1024;
/// Most sockets that the kernel tells of at once.
const EVENTS: usize = 32;
/// Connections that are made at a time: below any backlog.
const CONNECTING: u32 = 256;

/// One way to disturb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// One connection sends requests without waiting for answers, and reads all that comes.
    Pipeline,
    /// One reader that takes as much as it can, and one that takes little.
    Readers,
    /// Connections that ask for one key each so often.
    Crowd { connections: u32, every: Duration },
    /// The same, each for a URL that nobody asked for before.
    Misses { connections: u32, every: Duration },
}

/// Disturbs `address` for so long with requests for `path`.
pub(crate) fn play(way: Way, address: SocketAddr, path: &str, length: Duration) -> io::Result<()> {
    process::raise_open_files();
    let end = Instant::now() + length;
    match way {
        Way::Pipeline => pipeline(address, path, end),
        Way::Readers => readers(address, path, end),
        Way::Crowd { connections, every } => ask(address, path, Urls::One, (connections, every), end),
        Way::Misses { connections, every } => ask(address, path, Urls::New, (connections, every), end),
    }
}

/// Tells the parent that it has begun.
fn begun(address: SocketAddr) {
    println!("disturbs {address}");
}

fn request(address: SocketAddr, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n")
}

fn pipeline(address: SocketAddr, path: &str, end: Instant) -> io::Result<()> {
    let mut writing = TcpStream::connect(address)?;
    let mut reading = writing.try_clone()?;
    let batch = request(address, path).repeat(BATCH);
    thread::spawn(move || {
        // It ends with the process.
        while writing.write_all(batch.as_bytes()).is_ok() {}
    });
    begun(address);
    let mut buffer = vec![0; READ_LEN];
    while Instant::now() < end {
        if reading.read(&mut buffer)? == 0 {
            return Err(io::Error::other("the server closed the connection"));
        }
    }
    Ok(())
}

fn readers(address: SocketAddr, path: &str, end: Instant) -> io::Result<()> {
    let mut slow = TcpStream::connect(address)?;
    slow.write_all(request(address, path).as_bytes())?;
    thread::spawn(move || {
        let mut sip = vec![0; SIP];
        while slow.read(&mut sip).is_ok_and(|count| count > 0) {
            wait::pause(SIP_EVERY);
        }
    });
    let mut fast = TcpStream::connect(address)?;
    let (text, mut writing) = (request(address, path), fast.try_clone()?);
    // Two are on their way at any time, so that one follows the other without a pause.
    writing.write_all(text.repeat(2).as_bytes())?;
    begun(address);
    let (mut buffer, mut came, mut asked) = (vec![0; READ_LEN], 0_u64, 2_u64);
    while Instant::now() < end {
        match fast.read(&mut buffer)? {
            0 => return Err(io::Error::other("the server closed the connection")),
            count => came += count as u64,
        }
        if came >> 30 >= asked - 1 {
            writing.write_all(text.as_bytes())?;
            asked += 1;
        }
    }
    Ok(())
}

/// Which URLs a crowd asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urls {
    One,
    New,
}

/// Each connection asks every so often, or as soon as its answer came if that took longer.
fn ask(
    address: SocketAddr,
    path: &str,
    urls: Urls,
    (connections, every): (u32, Duration),
    end: Instant,
) -> io::Result<()> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_io().enable_time().max_io_events_per_tick(EVENTS).build()?;
    LocalSet::new().block_on(&runtime, async move {
        let mut streams = Vec::new();
        while (streams.len() as u32) < connections {
            let count = CONNECTING.min(connections - streams.len() as u32);
            let group: Vec<_> = (0..count)
                .map(|_| tokio::task::spawn_local(tokio::net::TcpStream::connect(address)))
                .collect();
            for stream in group {
                streams.push(stream.await.map_err(io::Error::other)??);
            }
        }
        begun(address);
        let start = Instant::now();
        for (number, mut stream) in (0_u32..).zip(streams) {
            let path = path.to_owned();
            tokio::task::spawn_local(async move {
                let mut due = start + every * number / connections;
                let mut buffer = vec![0; 4096];
                for round in 0_u32.. {
                    tokio::time::sleep_until(due.into()).await;
                    let own = match urls {
                        Urls::One => path.clone(),
                        Urls::New => format!("{path}/{}/{number}/{round}", std::process::id()),
                    };
                    if stream.write_all(request(address, &own).as_bytes()).await.is_err() {
                        return;
                    }
                    // Answers are short: what comes at once is one.
                    if !stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                        return;
                    }
                    due = (due + every).max(Instant::now());
                }
            });
        }
        tokio::time::sleep_until(end.into()).await;
        Ok(())
    })
}
