//! Many viewers on one thread: all connect, then all ask, and each notes when its answer began and ended and whether it was right.
//!
//! A thread per viewer would cost the machine more than the server under test, so this is the one driver that waits for sockets in bulk.

use crate::http::{Framing, Head};
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;

/// Longest that one answer may take: a gibibyte for each of many, on a machine that has more to do.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// Connections that are made at a time: below any backlog.
const CONNECTING: usize = 256;
/// Viewers with one source address; the ports of a handful of addresses hold any crowd, those of earlier crowds included.
const PER_SOURCE: usize = 4_000;
/// Bytes asked of a socket at once.
const READ_LEN: usize = 256 * 1024;
/// Longest head that a viewer takes.
const HEAD_LEN_MAX: usize = 64 * 1024;

/// What one viewer asks for.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) path: String,
    /// What it must get.
    pub(super) body: Arc<Vec<u8>>,
    /// When it asks, counted from the moment when all are connected.
    pub(super) after: Duration,
    pub(super) reads: Reads,
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    All,
    /// The first bytes; then the viewer leaves.
    Start(usize),
    /// The first bytes, as a range.
    Range(usize),
}

impl Ask {
    /// Asks for all of it at once.
    pub(super) fn now(path: &str, body: &Arc<Vec<u8>>) -> Self {
        Self { path: path.to_owned(), body: Arc::clone(body), after: Duration::ZERO, reads: Reads::All }
    }
}

/// What one viewer saw.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) asked: Instant,
    /// The first byte of the content.
    pub(super) first: Option<Instant>,
    pub(super) done: Instant,
    /// The first word of `X-Cache`.
    pub(super) result: String,
    /// What was wrong with the answer.
    pub(super) fault: Option<String>,
}

impl Seen {
    /// Returns the time from asking to the last byte.
    pub(super) fn took(&self) -> Duration {
        self.done.saturating_duration_since(self.asked)
    }
}

/// Plays a crowd: each of `asks` has a connection of its own; `connected` is called when all have one, before anyone asks.
pub(super) fn play(address: SocketAddr, asks: Vec<Ask>, connected: impl FnOnce()) -> io::Result<Vec<Seen>> {
    on_one_thread(async move {
        let mut callers = Vec::with_capacity(asks.len());
        for group in 0..asks.len().div_ceil(CONNECTING) {
            let numbers = group * CONNECTING..((group + 1) * CONNECTING).min(asks.len());
            let attempts: Vec<_> = numbers
                .map(|number| tokio::task::spawn_local(Caller::connect(address, source(number))))
                .collect();
            for attempt in attempts {
                callers.push(attempt.await.map_err(io::Error::other)??);
            }
        }
        connected();
        let scratch = Scratch::new();
        let start = Instant::now();
        let tasks: Vec<_> = callers
            .into_iter()
            .zip(asks)
            .map(|(mut caller, ask)| {
                let scratch = scratch.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep_until((start + ask.after).into()).await;
                    caller.ask(&ask, &scratch).await
                })
            })
            .collect();
        let mut seen = Vec::with_capacity(tasks.len());
        for task in tasks {
            seen.push(task.await.map_err(io::Error::other)?);
        }
        Ok(seen)
    })
}

/// Asks for `path` at a steady rate for `length`, whatever the answers do; a connection that is still busy asks late and counts from then.
pub(super) fn steadily(
    address: SocketAddr,
    ask: &Ask,
    per_second: u32,
    length: Duration,
) -> io::Result<Vec<Seen>> {
    /// Each connection asks once in this time.
    const PERIOD: Duration = Duration::from_millis(500);
    let connections = (f64::from(per_second) * PERIOD.as_secs_f64()).ceil() as u32;
    on_one_thread(async move {
        let scratch = Scratch::new();
        let start = Instant::now() + PERIOD;
        let tasks: Vec<_> = (0..connections)
            .map(|number| {
                let (ask, scratch) = (ask.clone(), scratch.clone());
                tokio::task::spawn_local(async move {
                    let mut caller = Caller::connect(address, source(number as usize)).await?;
                    let mut at = start + PERIOD * number / connections;
                    let mut seen = Vec::new();
                    while at < start + length {
                        tokio::time::sleep_until(at.into()).await;
                        seen.push(caller.ask(&ask, &scratch).await);
                        at += PERIOD;
                    }
                    io::Result::Ok(seen)
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.map_err(io::Error::other)??);
        }
        Ok(all)
    })
}

fn on_one_thread<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    LocalSet::new().block_on(&runtime, work)
}

fn source(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 1 + (number / PER_SOURCE) as u8)
}

/// Where all viewers of a thread read into, one after the other; kept only until the bytes are compared.
#[derive(Clone)]
struct Scratch {
    bytes: Rc<RefCell<Vec<u8>>>,
}

impl Scratch {
    fn new() -> Self {
        Self { bytes: Rc::new(RefCell::new(vec![0; READ_LEN])) }
    }
}

/// A viewer's connection.
struct Caller {
    stream: TcpStream,
    /// What it names as the host: the address, as other programs that load do.
    host: SocketAddr,
}

impl Caller {
    async fn connect(address: SocketAddr, source: Ipv4Addr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // A port that rests from an earlier crowd may be taken again.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((source, 0)))?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, host: address })
    }

    /// Asks once and reads the answer.
    async fn ask(&mut self, ask: &Ask, scratch: &Scratch) -> Seen {
        let now = Instant::now();
        let mut seen = Seen { asked: now, first: None, done: now, result: String::new(), fault: None };
        let exchange = self.exchange(ask, scratch, &mut seen);
        let ended = tokio::time::timeout(ANSWER_MAX, exchange).await;
        seen.fault = match ended {
            Ok(Ok(())) => None,
            Ok(Err(what)) => Some(what),
            Err(_) => Some(format!("no whole answer after {} s", ANSWER_MAX.as_secs())),
        };
        seen.done = Instant::now();
        seen
    }

    async fn exchange(&mut self, ask: &Ask, scratch: &Scratch, seen: &mut Seen) -> Result<(), String> {
        let (range, count) = match ask.reads {
            Reads::All => (String::new(), ask.body.len()),
            Reads::Start(count) => (String::new(), count),
            Reads::Range(count) => (format!("Range: bytes=0-{}\r\n", count - 1), count),
        };
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n{range}\r\n", ask.path, self.host);
        self.stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut head = Vec::new();
        // `None` until the head is complete, then how many bytes of content came.
        let mut at: Option<usize> = None;
        while at.is_none_or(|at| at < count) {
            self.stream.readable().await.map_err(|error| error.to_string())?;
            let mut bytes = scratch.bytes.borrow_mut();
            let piece = match self.stream.try_read(&mut bytes) {
                Ok(0) => return Err(format!("the connection ended after {at:?} bytes of content")),
                Ok(len) => &bytes[..len],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(format!("{error} after {at:?} bytes of content")),
            };
            let content = match at {
                Some(at) => (at, piece),
                None => {
                    head.extend_from_slice(piece);
                    let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else {
                        if head.len() > HEAD_LEN_MAX {
                            return Err("a head without an end".into());
                        }
                        continue;
                    };
                    let rest = head.len() - (end + 4);
                    judge_head(&head[..end + 4], ask, seen)?;
                    (0, &piece[piece.len() - rest..])
                }
            };
            if !content.1.is_empty() && seen.first.is_none() {
                seen.first = Some(Instant::now());
            }
            let end = content.0 + content.1.len();
            if ask.body.get(content.0..end) != Some(content.1) {
                return Err(format!("wrong content between bytes {} and {end}", content.0));
            }
            at = Some(end);
        }
        Ok(())
    }
}

/// Holds a head against what must come and notes its result.
fn judge_head(bytes: &[u8], ask: &Ask, seen: &mut Seen) -> Result<(), String> {
    let (status, length) = match ask.reads {
        Reads::All | Reads::Start(_) => (200, ask.body.len()),
        Reads::Range(count) => (206, count),
    };
    let head = Head::parse(bytes).map_err(|fault| format!("{fault:?}"))?;
    let result = head.field("x-cache").unwrap_or_default();
    seen.result = result.split(' ').next().unwrap_or_default().to_owned();
    if head.status() != Ok(status) {
        return Err(head.start_line);
    }
    match head.framing() {
        Ok(Some(Framing::Length(stated))) if stated == length as u64 => Ok(()),
        other => Err(format!("{other:?} frames {length} bytes")),
    }
}
