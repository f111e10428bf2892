//! Has every object asked for once, in as little of the machine's time as it takes.
//!
//! Few threads with many connections each: a thread sends a batch on all of its connections and then reads their answers one connection after the
//! other, so that what comes meanwhile wakes nobody. Every answer must be 200 with a body of the length that the origin sends.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::aspis::Aspis;

use super::object;
use super::origin::head_len;

/// Threads that ask.
const THREADS: usize = 3;
/// Connections of each: misses of one connection are fetched one after the other.
const CONNECTIONS: usize = 40;
/// Requests of one connection that are under way.
const PIPELINED: u64 = 32;
/// A server that says nothing for so long is broken.
const SILENCE: Duration = Duration::from_secs(60);
/// What every answer begins with.
const GOOD: &[u8] = b"HTTP/1.1 200 ";

/// Asks for the first `objects`, whose bodies have `size` bytes.
pub(super) fn fill(server: &Aspis, objects: u64, size: usize) -> io::Result<()> {
    let next = AtomicU64::new(0);
    let asking = || -> io::Result<()> {
        let lines: io::Result<Vec<Line>> = (0..CONNECTIONS).map(|_| Line::connect(server)).collect();
        let mut lines = lines?;
        loop {
            for line in &mut lines {
                let first = next.fetch_add(PIPELINED, Ordering::Relaxed).min(objects);
                line.ask(first..(first + PIPELINED).min(objects))?;
            }
            if lines.iter().all(|line| line.awaited == 0) {
                return Ok(());
            }
            lines.iter_mut().try_for_each(|line| line.take_answers(size))?;
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(asking)).collect();
        let panicked = |_| Err(io::Error::other("a loader panicked"));
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(panicked))
    })
}

struct Line {
    stream: TcpStream,
    text: String,
    /// What came and was not looked at.
    bytes: Vec<u8>,
    awaited: u64,
}

impl Line {
    fn connect(server: &Aspis) -> io::Result<Line> {
        let stream = TcpStream::connect(server.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(Line { stream, text: String::new(), bytes: Vec::new(), awaited: 0 })
    }

    fn ask(&mut self, numbers: Range<u64>) -> io::Result<()> {
        self.awaited = numbers.end - numbers.start;
        self.text.clear();
        for number in numbers {
            self.text.push_str("GET ");
            self.text.push_str(&object(number));
            self.text.push_str(" HTTP/1.1\r\nHost: bench\r\n\r\n");
        }
        self.stream.write_all(self.text.as_bytes())
    }

    fn take_answers(&mut self, size: usize) -> io::Result<()> {
        let mut at = 0;
        loop {
            while self.awaited > 0 {
                let Some(len) = answer_len(&self.bytes[at..], size)? else { break };
                at += len;
                self.awaited -= 1;
            }
            self.bytes.drain(..at);
            at = 0;
            if self.awaited == 0 {
                let is_all = self.bytes.is_empty();
                return if is_all { Ok(()) } else { Err(io::Error::other("more bytes than were asked for")) };
            }
            let (had, room) = (self.bytes.len(), 32 * 1024);
            self.bytes.resize(had + room, 0);
            let got = self.stream.read(&mut self.bytes[had..])?;
            self.bytes.truncate(had + got);
            if got == 0 {
                return Err(io::Error::other("the server ended a connection that waits for answers"));
            }
        }
    }
}

/// Returns the length of the answer at the front of `bytes`, if it is whole.
fn answer_len(bytes: &[u8], size: usize) -> io::Result<Option<usize>> {
    let Some(len) = head_len(bytes) else { return Ok(None) };
    if !bytes.starts_with(GOOD) {
        return Err(io::Error::other(format!("answered {}", String::from_utf8_lossy(&bytes[..len]))));
    }
    Ok((bytes.len() >= len + size).then_some(len + size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_good_head_and_its_body() {
        let answer = b"HTTP/1.1 200 OK\r\nAge: 0\r\n\r\nbodyHTTP/";
        assert_eq!(answer_len(answer, 4).unwrap(), Some(31));
        assert_eq!(answer_len(&answer[..30], 4).unwrap(), None);
        assert_eq!(answer_len(&answer[..20], 4).unwrap(), None);
        assert!(answer_len(b"HTTP/1.1 503 No\r\n\r\n", 4).is_err());
    }
}
