//! An origin that answers as a scenario says and notes when it was asked what.
//!
//! One blocking thread per connection. The judge's clock is the origin's: times of arrival and of first bytes are taken here.

use crate::http::{Acceptor, Head, Reader};
use crate::wait;
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How to answer one request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Field lines, each ended by CRLF, without the framing.
    pub(crate) fields: &'static str,
    /// The content; a 304 has none.
    pub(crate) body: Arc<Vec<u8>>,
    /// Time before the head.
    pub(crate) after: Duration,
    /// The content comes in so many pieces, spread over this time; the first with the head.
    pub(crate) pieces: usize,
    pub(crate) over: Duration,
    /// Time after the first piece, before these begin.
    pub(crate) rest: Duration,
}

impl Answer {
    /// A 200 that comes whole after `after`.
    pub(crate) fn whole(fields: &'static str, body: &Arc<Vec<u8>>, after: Duration) -> Self {
        let (over, rest) = (Duration::ZERO, Duration::ZERO);
        Self { status: 200, fields, body: Arc::clone(body), after, pieces: 1, over, rest }
    }
}

/// One request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// It had `If-None-Match`.
    pub(crate) conditional: bool,
    pub(crate) at: Instant,
    /// The same by the machine's clock, since 1970.
    pub(crate) wall: Duration,
    /// When the first bytes of the answer were written.
    pub(crate) answered: Option<Instant>,
}

type Answers = dyn Fn(&str, &Head) -> Answer + Send + Sync;

struct Shared {
    answers: Box<Answers>,
    asked: Mutex<Vec<Asked>>,
}

/// A running origin; dropping it ends its threads.
pub(crate) struct Script {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

impl Script {
    /// Starts an origin that answers each path and head with what `answers` returns.
    pub(crate) fn start(answers: impl Fn(&str, &Head) -> Answer + Send + Sync + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared { answers: Box::new(answers), asked: Mutex::default() });
        let own = Arc::clone(&shared);
        // A connection that cannot be served shows as a wrong answer.
        let acceptor = Acceptor::start(move |stream| connection(stream, &own))?;
        Ok(Self { shared, acceptor })
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.acceptor.address()
    }

    /// Returns every request so far in order of arrival.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// Returns how many requests for `path` came.
    pub(crate) fn count(&self, path: &str) -> u64 {
        lock(&self.shared.asked).iter().filter(|each| each.path == path).count() as u64
    }
}

/// A poisoned lock means that a thread of the driver died; its data are still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers until the peer ends the connection.
fn connection(stream: TcpStream, shared: &Shared) {
    drop(stream.set_nodelay(true));
    let mut reader = Reader::new(stream);
    while let Ok(head) = reader.head() {
        let Some((_, path)) = head.request_line() else { break };
        let number = {
            let mut asked = lock(&shared.asked);
            asked.push(Asked {
                path: path.to_owned(),
                conditional: head.field("if-none-match").is_some(),
                at: Instant::now(),
                wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
                answered: None,
            });
            asked.len() - 1
        };
        let answer = (shared.answers)(path, &head);
        if send(reader.stream(), &answer, shared, number).is_err() {
            break;
        }
    }
    drop(reader.stream().shutdown(Shutdown::Both));
}

fn send(mut stream: &TcpStream, answer: &Answer, shared: &Shared, number: usize) -> io::Result<()> {
    wait::pause(answer.after);
    let body: &[u8] = if answer.status == 304 { &[] } else { &answer.body };
    let mut bytes = format!("HTTP/1.1 {} Scripted\r\n{}", answer.status, answer.fields).into_bytes();
    if answer.status != 304 {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    let piece_len = body.len().div_ceil(answer.pieces.max(1)).max(1);
    let mut pieces = body.chunks(piece_len);
    bytes.extend_from_slice(pieces.next().unwrap_or_default());
    let start = Instant::now();
    lock(&shared.asked)[number].answered = Some(start);
    stream.write_all(&bytes)?;
    let gap = answer.over / answer.pieces.saturating_sub(1).max(1) as u32;
    for (passed, piece) in (1_u32..).zip(pieces) {
        wait::pause((start + answer.rest + gap * passed).saturating_duration_since(Instant::now()));
        stream.write_all(piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Flow;

    #[test]
    fn a_trickle_takes_its_time_and_is_noted() {
        let body = Arc::new(b"0123456789".to_vec());
        let over = Duration::from_millis(90);
        let origin = Script::start(move |_, _| Answer {
            pieces: 4,
            over,
            ..Answer::whole("ETag: \"a\"\r\n", &body, Duration::from_millis(30))
        })
        .unwrap();
        let start = Instant::now();
        let mut stream = TcpStream::connect(origin.address()).unwrap();
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"a\"\r\n\r\n").unwrap();
        let mut reader = Reader::new(stream);
        let head = reader.head().unwrap();
        let mut read = Vec::new();
        let length = reader.content(&head, |_, piece| {
            read.extend_from_slice(piece);
            Flow::Continue
        });
        assert_eq!((length, read.as_slice()), (Ok(10), b"0123456789".as_slice()));
        assert!(start.elapsed() >= Duration::from_millis(120));
        let asked = origin.asked();
        assert_eq!((asked.len(), asked[0].path.as_str(), asked[0].conditional), (1, "/a", true));
        assert!(asked[0].answered.is_some_and(|answered| answered >= asked[0].at));
    }
}
