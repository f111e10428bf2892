//! What the origin writes: each answer as its plan says, misbehaviour included.

use super::After;
use crate::http::Reader;
use crate::plan::{Kind, Plan};
use crate::random::Random;
use crate::sim::text::date;
use crate::wait;
use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a stalled answer waits for the peer to give up.
const STALL: Duration = Duration::from_secs(60);
/// Time before the head of a late answer, and between the pieces of a trickle.
pub(super) const LATE: Duration = Duration::from_millis(150);

/// One response in the making.
pub(super) struct Answer {
    pub(super) plan: Plan,
    pub(super) path: String,
    pub(super) head_only: bool,
}

impl Answer {
    /// Answers as the plan says, misbehaviour included.
    pub(super) fn send(&self, reader: &mut Reader) -> io::Result<After> {
        let mut stream = reader.stream();
        let half = self.plan.answer_len() / 2;
        match self.plan.kind {
            Kind::ResetHead => return Ok(After::Reset),
            Kind::Garbage => {
                stream.write_all(b"HTTP/1.1 OK 200\nnothing : of\x00the kind\n\n")?;
                return Ok(After::Close);
            }
            Kind::StallHead => {
                stall(reader);
                return Ok(After::Close);
            }
            Kind::Late => wait::pause(LATE),
            Kind::Interim => stream.write_all(
                b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n",
            )?,
            _ => {}
        }
        if self.head_only {
            stream.write_all(self.head().as_bytes())?;
            return Ok(if self.plan.kind == Kind::UntilClose { After::Close } else { After::KeepAlive });
        }
        match self.plan.kind {
            Kind::CutLength | Kind::ResetBody | Kind::StallBody => {
                stream.write_all(self.head().as_bytes())?;
                self.body(stream, half)?;
                match self.plan.kind {
                    Kind::ResetBody => return Ok(After::Reset),
                    Kind::StallBody => stall(reader),
                    _ => {}
                }
                Ok(After::Close)
            }
            Kind::CutChunked => {
                stream.write_all(self.head().as_bytes())?;
                self.chunks(stream, half)?;
                Ok(After::Close)
            }
            Kind::Overrun => {
                // What is too much leaves together with the end of the body, so that it is there before the connection can be used
                // again. Bytes that come later cannot be told from the next answer.
                stream.write_all(self.head().as_bytes())?;
                let last = self.plan.answer_len().min(8 * 1024);
                let at = self.plan.answer_len() - last;
                self.body(stream, at)?;
                let mut bytes = vec![0; last as usize];
                self.plan.content().fill(at, &mut bytes);
                bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong");
                stream.write_all(&bytes)?;
                Ok(After::Close)
            }
            Kind::UntilClose => {
                self.write(stream)?;
                Ok(After::Close)
            }
            _ => {
                self.write(stream)?;
                Ok(After::KeepAlive)
            }
        }
    }

    /// Writes head and body whole.
    pub(super) fn write(&self, mut stream: &TcpStream) -> io::Result<()> {
        if self.head_only {
            return stream.write_all(self.head().as_bytes());
        }
        // Small answers leave in one piece, as those of a real server do.
        if self.plan.answer_len() <= 16 * 1024 && !self.chunked() {
            let mut bytes = self.head().into_bytes();
            let start = bytes.len();
            bytes.resize(start + self.plan.answer_len() as usize, 0);
            self.plan.content().fill(0, &mut bytes[start..]);
            return stream.write_all(&bytes);
        }
        stream.write_all(self.head().as_bytes())?;
        if self.chunked() {
            self.chunks(stream, self.plan.answer_len())?;
            return stream.write_all(b"0\r\n\r\n");
        }
        self.body(stream, self.plan.answer_len())
    }

    fn chunked(&self) -> bool {
        matches!(self.plan.kind, Kind::FreshChunked | Kind::PrivateChunked | Kind::CutChunked)
    }

    fn head(&self) -> String {
        let framing = match self.plan.kind {
            Kind::UntilClose => "Connection: close\r\n".to_owned(),
            _ if self.chunked() => "Transfer-Encoding: chunked\r\n".to_owned(),
            _ => format!("Content-Length: {}\r\n", self.plan.answer_len()),
        };
        let policy = match self.plan.kind {
            Kind::Brief => "max-age=1",
            Kind::Fresh
            | Kind::Dated
            | Kind::FreshChunked
            | Kind::CutLength
            | Kind::CutChunked
            | Kind::Trickle
            | Kind::Overrun => "public, max-age=3600",
            _ => "no-store",
        };
        let date = match self.plan.kind {
            Kind::Dated => format!("Date: {}\r\n", date(now())),
            _ => String::new(),
        };
        format!(
            "HTTP/1.1 200 OK\r\nServer: bench\r\n{date}Content-Type: application/octet-stream\r\n{framing}\
             Cache-Control: {policy}\r\nETag: \"{:016x}\"\r\nLast-Modified: Tue, 01 Sep 2026 10:00:00 GMT\r\nX-Plan: {}\r\n\r\n",
            self.plan.seed ^ self.plan.id,
            self.path
        )
    }

    /// Writes the first `length` bytes of the content.
    fn body(&self, stream: &TcpStream, length: u64) -> io::Result<()> {
        let trickle = self.plan.kind == Kind::Trickle;
        let piece_len = if trickle { (length / 6).clamp(1, 64 * 1024) } else { length.clamp(1, 256 * 1024) };
        let rest = if trickle { LATE / 4 } else { Duration::ZERO };
        self.plan.content().send(stream, (0, length), false, || piece_len, rest)
    }

    /// Writes the first `length` bytes of the content in chunks of uneven size, without the last chunk.
    fn chunks(&self, stream: &TcpStream, length: u64) -> io::Result<()> {
        let mut random = Random::new(self.plan.id ^ self.plan.seed);
        let largest = if length > 16 << 20 { 256 * 1024 } else { 40_000 };
        let piece_len = || random.length(largest);
        self.plan.content().send(stream, (0, length), true, piece_len, Duration::ZERO)
    }
}

/// Returns the second since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Says nothing until the peer gives up.
fn stall(reader: &mut Reader) {
    drop(reader.stream().set_read_timeout(Some(STALL)));
    drop(reader.some());
}
