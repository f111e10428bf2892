//! The load at a fixed rate: requests leave when a clock says so, however long the answers take.
//!
//! One thread on a core of its own, blocking on nothing: it watches the clock, sends what is due on a connection that waits for nothing, and looks
//! every few microseconds for answers. An answer's time counts from when its request was due, so a server that is late is late for every
//! request that it held up. The list of requests is made before the first of them; one object is drawn from as long a list, of as many
//! requests, as a hundred thousand are, so that the generator does the same work for both.

use crate::peers::cell::{Cell, OBJECTS, Objects};
use crate::peers::wrk::Load;
use crate::process::pinned;
use crate::stats::quantile;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often answers are looked for. Looking takes the lock of a socket and so hinders the server's sends; this keeps it rare.
const LOOK: Duration = Duration::from_micros(10);
/// Answers that are still missing so long after the last request are an error.
const GRACE: Duration = Duration::from_secs(10);
/// Longest head of an answer.
const HEAD_LEN_MAX: usize = 16 * 1024;
/// Bytes that are read at once.
const READ_LEN: usize = 256 * 1024;

/// What is asked for, how fast and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) address: SocketAddr,
    pub(crate) cell: Cell,
    pub(crate) rate: u32,
    pub(crate) length: Duration,
}

/// What the generator prints.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Outcome {
    requests: u64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
}

/// Runs the generator in a process of its own on `core`; `own` is this program.
pub(crate) fn run(own: &Path, core: usize, order: &Order) -> io::Result<Load> {
    let mut command = pinned(own, Some(core));
    command.args(["pace", "--address", &order.address.to_string(), "--cell", &order.cell.to_string()]);
    command.args(["--rate", &order.rate.to_string(), "--seconds", &order.length.as_secs().to_string()]);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Ok(outcome) = serde_json::from_str::<Outcome>(&text) else {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("fixed rate against {}: {text}{errors}", order.address)));
    };
    Ok(Load {
        requests: outcome.requests,
        bytes: outcome.requests * order.cell.size,
        per_second: outcome.per_second,
        p50: Duration::from_secs_f64(outcome.p50_us / 1e6),
        p99: Duration::from_secs_f64(outcome.p99_us / 1e6),
        p999: Duration::from_secs_f64(outcome.p999_us / 1e6),
    })
}

/// Generates the load in this process and prints the outcome as JSON.
pub(crate) fn generate(order: &Order) -> io::Result<()> {
    let requests = requests(order);
    let picks = Cell { objects: Objects::Zipf, ..order.cell }.picks();
    let connect = |_| Connection::open(order.address);
    let mut connections = (0..order.cell.connections).map(connect).collect::<io::Result<Vec<_>>>()?;
    let mut idle: VecDeque<usize> = (0..connections.len()).collect();
    let mut waiting: Vec<usize> = Vec::with_capacity(connections.len());
    let mut times: Vec<f64> = Vec::with_capacity(order.rate as usize * order.length.as_secs() as usize + 1);
    let mut buffer = vec![0; READ_LEN];
    let interval = Duration::from_secs_f64(1.0 / f64::from(order.rate));
    let start = Instant::now();
    let (end, mut look) = (start + order.length, start);
    let mut sent = 0_u32;
    loop {
        let now = Instant::now();
        let due = start + interval * sent;
        if due <= now && due < end {
            if let Some(place) = idle.pop_front() {
                let pick = picks[sent as usize % picks.len()];
                connections[place].send(&requests[pick as usize], due)?;
                waiting.push(place);
                sent += 1;
                continue;
            }
        } else if due >= end && waiting.is_empty() {
            break;
        }
        if now > end + GRACE {
            let left = waiting.len();
            return Err(io::Error::other(format!(
                "{left} answers were missing {} s after the end",
                GRACE.as_secs()
            )));
        }
        if now < look {
            std::hint::spin_loop();
            continue;
        }
        let mut at = 0;
        while let Some(&place) = waiting.get(at) {
            if connections[place].receive(&mut buffer)? {
                times.push(connections[place].due.elapsed().as_secs_f64() * 1e6);
                idle.push_back(waiting.swap_remove(at));
            } else {
                at += 1;
            }
        }
        look = Instant::now() + LOOK;
    }
    let took = start.elapsed().max(order.length);
    times.sort_by(f64::total_cmp);
    let at = |share| quantile(&times, share).unwrap_or(f64::NAN);
    let outcome = Outcome {
        requests: times.len() as u64,
        per_second: times.len() as f64 / took.as_secs_f64(),
        p50_us: at(0.5),
        p99_us: at(0.99),
        p999_us: at(0.999),
    };
    println!("{}", serde_json::to_string(&outcome).map_err(io::Error::other)?);
    Ok(())
}

/// Writes every request that a pick can mean.
fn requests(order: &Order) -> Vec<Box<[u8]>> {
    let request = |number: u32| {
        let object = if order.cell.objects == Objects::One { 0 } else { number };
        let plan = order.cell.plan(object);
        format!("GET {plan} HTTP/1.1\r\nHost: {}\r\n\r\n", order.address).into_bytes().into_boxed_slice()
    };
    (0..OBJECTS).map(request).collect()
}

/// One connection and the answer that it waits for.
struct Connection {
    stream: TcpStream,
    /// When the request was to be sent.
    due: Instant,
    head: Vec<u8>,
    /// Bytes of the body that are still to come; `None` before the end of the head.
    left: Option<u64>,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, due: Instant::now(), head: Vec::new(), left: None })
    }

    fn send(&mut self, request: &[u8], due: Instant) -> io::Result<()> {
        self.due = due;
        self.left = None;
        self.head.clear();
        self.stream.write_all(request)
    }

    /// Takes what came; true when the answer is complete.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let len = match self.stream.read(buffer) {
            Ok(0) => return Err(io::Error::other("the server closed a connection")),
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let Some(left) = self.left else { return self.begin(&buffer[..len]) };
        self.take(left, len as u64)
    }

    /// Reads a head, or the part of it that came.
    fn begin(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.head.extend_from_slice(bytes);
        let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
            if self.head.len() > HEAD_LEN_MAX {
                return Err(io::Error::other("a head without an end"));
            }
            return Ok(false);
        };
        let length = body_length(&self.head[..end])?;
        let beyond = (self.head.len() - end - 4) as u64;
        self.take(length, beyond)
    }

    fn take(&mut self, left: u64, came: u64) -> io::Result<bool> {
        let left =
            left.checked_sub(came).ok_or_else(|| io::Error::other("more bytes than the answer has"))?;
        self.left = Some(left);
        Ok(left == 0)
    }
}

/// Returns the length that the head of a success states.
fn body_length(head: &[u8]) -> io::Result<u64> {
    const NAME: &[u8] = b"content-length:";
    let mut lines = head.split(|byte| *byte == b'\n');
    let success = lines.next().is_some_and(|line| line.starts_with(b"HTTP/1.1 200"));
    let field = lines.find(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)));
    let value = field.and_then(|line| std::str::from_utf8(&line[NAME.len()..]).ok()?.trim().parse().ok());
    value.filter(|_| success).ok_or_else(|| {
        io::Error::other(format!("no success with a length: {:?}", String::from_utf8_lossy(head)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Feeds an answer in pieces of `step` bytes; returns after which byte it counts as complete.
    fn complete_after(answer: &[u8], step: usize) -> io::Result<Option<usize>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut connection = Connection::open(listener.local_addr()?)?;
        let (mut far, _) = listener.accept()?;
        let mut buffer = vec![0; READ_LEN];
        for (number, piece) in answer.chunks(step).enumerate() {
            far.write_all(piece)?;
            connection.stream.set_nonblocking(false)?;
            if connection.receive(&mut buffer)? {
                return Ok(Some((number * step + step).min(answer.len())));
            }
        }
        Ok(None)
    }

    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\nDate: x\r\ncontent-Length: 5\r\n\r\nhello";
        for step in [1, 7, answer.len()] {
            assert_eq!(complete_after(answer, step).unwrap(), Some(answer.len()), "by {step}");
        }
        assert_eq!(complete_after(&answer[..answer.len() - 1], 3).unwrap(), None);
    }

    #[test]
    fn what_is_no_success_with_a_length_is_an_error() {
        for wrong in [
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(complete_after(wrong.as_bytes(), 100).is_err(), "{wrong}");
        }
        assert!(complete_after(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", 100).is_err());
    }
}
