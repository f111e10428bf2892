//! URLs whose content changes: the origin's side of what must never be mixed, and never be older than a change that was confirmed.
//!
//! The version of a URL rises with each POST and every now and then by itself. Its number is in the entity tag, and content and length follow
//! from path and version, so a viewer can tell from the head it got what every byte must be. Validators and ranges are honoured as RFC 9110
//! has it; a ragged URL also fails and breaks off, which its ranges may then repair.

use super::answer::LATE;
use super::{After, lock};
use crate::http::Head;
use crate::plan::{Kind, Plan};
use crate::wait;
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

/// Every so many requests the content changes by itself.
const CHANGE: u64 = 11;
/// Pieces of a trickle.
const PIECES: u64 = 6;

/// The version of each URL.
#[derive(Debug, Default)]
pub(super) struct Versions {
    states: Mutex<HashMap<String, State>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    version: u64,
    requests: u64,
}

/// How an answer is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Whole,
    Chunked,
    Trickle,
    Late,
}

/// How an answer goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    None,
    /// 503 instead.
    Refuses,
    /// A reset after half of the content.
    Breaks,
}

impl Versions {
    /// Answers one request for `plan`.
    pub(super) fn answer(
        &self,
        mut stream: &TcpStream,
        plan: Plan,
        method: &str,
        head: &Head,
    ) -> io::Result<After> {
        let state = self.next(plan, method);
        let State { version, requests } = state;
        let tag = format!("\"v{version}\"");
        if method == "POST" {
            write!(stream, "HTTP/1.1 200 OK\r\nX-Version: {version}\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(After::KeepAlive);
        }
        let mishap = match (plan.kind, requests % 6) {
            (Kind::Ragged, 1) => Mishap::Refuses,
            (Kind::Ragged, 3) => Mishap::Breaks,
            _ => Mishap::None,
        };
        let manner = match requests % 5 {
            0 => Manner::Trickle,
            1 => Manner::Chunked,
            2 => Manner::Late,
            _ => Manner::Whole,
        };
        if mishap == Mishap::Refuses {
            stream.write_all(
                b"HTTP/1.1 503 Service Unavailable\r\nCache-Control: no-store\r\nContent-Length: 0\r\n\r\n",
            )?;
            return Ok(After::KeepAlive);
        }
        if manner == Manner::Late {
            wait::pause(LATE);
        }
        let fields = format!(
            "Server: bench\r\nCache-Control: {}\r\nETag: {tag}\r\nX-Plan: {plan}\r\n",
            policy(plan.id)
        );
        if head.field("if-none-match") == Some(&tag) {
            write!(stream, "HTTP/1.1 304 Not Modified\r\n{fields}\r\n")?;
            return Ok(After::KeepAlive);
        }
        let length = plan.length_in(version);
        let part = head.part(&tag, length);
        let (from, to) = part.unwrap_or((0, length));
        let framing = match manner {
            Manner::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            _ => format!("Content-Length: {}\r\n", to - from),
        };
        match part {
            None => write!(stream, "HTTP/1.1 200 OK\r\n{fields}{framing}\r\n")?,
            Some(_) => write!(
                stream,
                "HTTP/1.1 206 Partial Content\r\n{fields}{framing}Content-Range: bytes {from}-{}/{length}\r\n\r\n",
                to - 1
            )?,
        }
        if method == "HEAD" {
            return Ok(After::KeepAlive);
        }
        let stop = if mishap == Mishap::Breaks { from + (to - from) / 2 } else { to };
        content(stream, plan, version, (from, stop), manner)?;
        if mishap == Mishap::Breaks {
            return Ok(After::Reset);
        }
        if manner == Manner::Chunked {
            stream.write_all(b"0\r\n\r\n")?;
        }
        Ok(After::KeepAlive)
    }

    /// Counts a request and returns what it meets.
    fn next(&self, plan: Plan, method: &str) -> State {
        let mut states = lock(&self.states);
        let state = states.entry(plan.to_string()).or_default();
        state.requests += 1;
        if method == "POST" || state.requests.is_multiple_of(CHANGE) {
            state.version += 1;
        }
        *state
    }
}

/// Returns for how long a URL may be stored: some expire all the time, some only by a POST, some are used stale meanwhile.
fn policy(id: u64) -> &'static str {
    match id % 3 {
        0 => "max-age=1",
        1 => "max-age=1, stale-while-revalidate=5",
        _ => "max-age=60",
    }
}

/// Writes the bytes from `from` to `to` of one version.
fn content(
    stream: &TcpStream,
    plan: Plan,
    version: u64,
    (from, to): (u64, u64),
    manner: Manner,
) -> io::Result<()> {
    let piece_len = match manner {
        Manner::Trickle => ((to - from) / PIECES).clamp(1, 256 * 1024),
        Manner::Chunked => 30_000,
        Manner::Whole | Manner::Late => 256 * 1024,
    };
    let rest = if manner == Manner::Trickle { LATE / 4 } else { Duration::ZERO };
    plan.content_in(version).send(stream, (from, to), manner == Manner::Chunked, || piece_len, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_post_is_a_new_version() {
        let versions = Versions::default();
        let plan = Plan { kind: Kind::Changing, size: 10, seed: 1, id: 2 };
        assert_eq!(versions.next(plan, "GET").version, 0);
        assert_eq!(versions.next(plan, "POST").version, 1);
        assert_eq!(versions.next(plan, "GET").version, 1);
        assert_ne!(plan.length_in(0), plan.length_in(1));
        assert_ne!(plan.content_in(0), plan.content_in(1));
    }
}
