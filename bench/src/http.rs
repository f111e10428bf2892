//! A blocking HTTP/1.1 reader of its own, for the drivers and their origins.
//!
//! It shares no code with the product on purpose: a framing mistake of ours must not be judged by the code that made it. It is strict about
//! what it reads and tells apart what matters to a judge: a message that ended, one that was cut, one that never came.

mod serve;

pub(crate) use serve::{Acceptor, listen, serve};

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest head that the reader takes.
const HEAD_LEN_MAX: usize = 64 * 1024;
/// Bytes asked of the socket at once.
const READ_LEN: usize = 64 * 1024;

/// Why a message could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection ended in order, before the first byte of a message.
    Closed,
    /// The connection ended in order, within a message.
    Cut,
    /// The connection was reset.
    Reset,
    /// Nothing came for as long as the socket's timeout.
    Silent,
    /// The bytes are no HTTP/1.1 message.
    Malformed(String),
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::other(format!("{fault:?}"))
    }
}

/// How the end of a message's content is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After as many bytes.
    Length(u64),
    /// At the last chunk.
    Chunked,
    /// At the end of the connection.
    UntilClose,
}

/// A start line and its fields.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) start_line: String,
    fields: Vec<(String, String)>,
}

impl Head {
    /// Returns the value of the first field of that lower-case name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// Returns the status code of a response head.
    pub(crate) fn status(&self) -> Result<u16, Fault> {
        let code =
            self.start_line.strip_prefix("HTTP/1.1 ").or_else(|| self.start_line.strip_prefix("HTTP/1.0 "));
        code.and_then(|rest| rest.get(..3))
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| Fault::Malformed(format!("status line {:?}", self.start_line)))
    }

    /// Returns method and target of a request head.
    pub(crate) fn request_line(&self) -> Option<(&str, &str)> {
        let mut words = self.start_line.split(' ');
        Some((words.next()?, words.next()?))
    }

    /// Returns the part that a GET asks for of content of this length and entity tag, from a byte to the one after the last; `None` for all of it.
    pub(crate) fn part(&self, tag: &str, length: u64) -> Option<(u64, u64)> {
        let is_get = self.request_line().is_some_and(|(method, _)| method == "GET");
        // A part is only of the version that is asked about (RFC 9110 section 13.1.5).
        let is_same = self.field("if-range").is_none_or(|known| known == tag);
        part(self.field("range").filter(|_| is_get && is_same)?, length)
    }

    /// Returns what the framing fields say; `None` when there are none.
    pub(crate) fn framing(&self) -> Result<Option<Framing>, Fault> {
        let length = self.field("content-length");
        match (self.field("transfer-encoding"), length) {
            (Some(_), Some(_)) => Err(Fault::Malformed("both framings".into())),
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(Some(Framing::Chunked)),
            (Some(coding), None) => Err(Fault::Malformed(format!("transfer coding {coding:?}"))),
            (None, Some(digits)) => match digits.parse() {
                Ok(length) => Ok(Some(Framing::Length(length))),
                Err(_) => Err(Fault::Malformed(format!("content length {digits:?}"))),
            },
            (None, None) => Ok(None),
        }
    }

    /// Reads a head from its bytes, the empty line included.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(bytes).map_err(|_| Fault::Malformed("head is not text".into()))?;
        let mut lines = text.split("\r\n");
        let start_line = lines.next().unwrap_or_default().to_owned();
        let mut fields = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) =
                line.split_once(':').ok_or_else(|| Fault::Malformed(format!("field line {line:?}")))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { start_line, fields })
    }
}

/// What the sink of a body wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// More.
    Continue,
    /// No more: the reader stops in the middle and the connection is of no more use.
    Stop,
}

/// Reads messages from one connection.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: TcpStream,
    buffer: Vec<u8>,
    taken: usize,
}

impl Reader {
    /// Reads from `stream`, whose read timeout says when a peer counts as silent.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new(), taken: 0 }
    }

    /// Connects. A peer that says nothing for as long as `silence` is silent.
    pub(crate) fn connect(address: SocketAddr, silence: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(silence))?;
        stream.set_write_timeout(Some(silence))?;
        Ok(Self::new(stream))
    }

    /// Returns the connection, to write to it or to end it.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads a head.
    pub(crate) fn head(&mut self) -> Result<Head, Fault> {
        loop {
            if let Some(end) = find_end(self.unread()) {
                let head = Head::parse(&self.unread()[..end]);
                self.taken += end;
                return head;
            }
            if self.unread().len() > HEAD_LEN_MAX {
                return Err(Fault::Malformed("head without an end".into()));
            }
            let empty = self.unread().is_empty();
            match self.fill() {
                Ok(0) if empty => return Err(Fault::Closed),
                Ok(0) => return Err(Fault::Cut),
                Ok(_) => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    /// Reads an answer, head and content.
    pub(crate) fn answer(&mut self) -> Result<(Head, Vec<u8>), Fault> {
        let head = self.head()?;
        let mut content = Vec::new();
        self.content(&head, |_, piece| {
            content.extend_from_slice(piece);
            Flow::Continue
        })?;
        Ok((head, content))
    }

    /// Reads the content of an answer that has this head, as [`body`](Self::body) does.
    pub(crate) fn content(
        &mut self,
        head: &Head,
        sink: impl FnMut(u64, &[u8]) -> Flow,
    ) -> Result<u64, Fault> {
        self.body(head.framing()?.unwrap_or(Framing::UntilClose), sink)
    }

    /// Reads a body, handing each piece with its offset to `sink`; returns the length. Only a body that ended as its framing demands is `Ok`.
    pub(crate) fn body(
        &mut self,
        framing: Framing,
        mut sink: impl FnMut(u64, &[u8]) -> Flow,
    ) -> Result<u64, Fault> {
        let mut at = 0;
        match framing {
            Framing::Length(length) => {
                self.pass(length, &mut at, &mut sink)?;
            }
            Framing::UntilClose => loop {
                let piece = self.unread();
                if !piece.is_empty() {
                    let flow = sink(at, piece);
                    at += piece.len() as u64;
                    self.taken = self.buffer.len();
                    if flow == Flow::Stop {
                        break;
                    }
                }
                if self.fill()? == 0 {
                    break;
                }
            },
            Framing::Chunked => loop {
                let line = self.line()?;
                let size = line.split(';').next().unwrap_or_default();
                let valid =
                    (1..=15).contains(&size.len()) && size.bytes().all(|byte| byte.is_ascii_hexdigit());
                let length = u64::from_str_radix(size, 16).ok().filter(|_| valid);
                let length = length.ok_or_else(|| Fault::Malformed(format!("chunk size {line:?}")))?;
                if length == 0 {
                    while !self.line()?.is_empty() {}
                    break;
                }
                if self.pass(length, &mut at, &mut sink)? == Flow::Stop {
                    break;
                }
                let end = self.line()?;
                if !end.is_empty() {
                    return Err(Fault::Malformed(format!("{end:?} after a chunk")));
                }
            },
        }
        Ok(at)
    }

    /// Returns what came after the messages read so far; for tunnels.
    pub(crate) fn some(&mut self) -> Result<Vec<u8>, Fault> {
        if self.unread().is_empty() && self.fill()? == 0 {
            return Err(Fault::Closed);
        }
        let bytes = self.unread().to_vec();
        self.taken = self.buffer.len();
        Ok(bytes)
    }

    /// Hands `length` bytes to `sink`.
    fn pass(
        &mut self,
        length: u64,
        at: &mut u64,
        sink: &mut impl FnMut(u64, &[u8]) -> Flow,
    ) -> Result<Flow, Fault> {
        let end = *at + length;
        while *at < end {
            if self.unread().is_empty() && self.fill()? == 0 {
                return Err(Fault::Cut);
            }
            let piece = self.unread();
            let piece = &piece[..piece.len().min(usize::try_from(end - *at).unwrap_or(usize::MAX))];
            let flow = sink(*at, piece);
            *at += piece.len() as u64;
            self.taken += piece.len();
            if flow == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }

    /// Reads one line without its end.
    fn line(&mut self) -> Result<String, Fault> {
        loop {
            if let Some(end) = self.unread().windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.unread()[..end]).into_owned();
                self.taken += end + 2;
                return Ok(line);
            }
            if self.unread().len() > 4096 {
                return Err(Fault::Malformed("line without an end".into()));
            }
            if self.fill()? == 0 {
                return Err(Fault::Cut);
            }
        }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.taken..]
    }

    /// Reads once more from the socket; 0 at its end.
    fn fill(&mut self) -> Result<usize, Fault> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let len = self.buffer.len();
        self.buffer.resize(len + READ_LEN, 0);
        let result = loop {
            match self.stream.read(&mut self.buffer[len..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(len + result.as_ref().copied().unwrap_or(0));
        result.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Fault::Silent,
            _ => Fault::Reset,
        })
    }
}

/// Reads `bytes=1-2` or `bytes=1-` into a start and an end that is not part of it.
fn part(text: &str, length: u64) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: u64 = first.parse().ok()?;
    let end = match last {
        "" => length,
        _ => last.parse::<u64>().ok()?.checked_add(1)?.min(length),
    };
    (first < end).then_some((first, end))
}

/// Returns the length of the head at the start of `bytes`, its empty line included.
fn find_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

    /// Reads one response that a peer writes as `bytes` before it closes.
    fn read(bytes: &'static [u8]) -> Result<Vec<u8>, Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        near.write_all(bytes).unwrap();
        drop(near);
        Reader::new(far).answer().map(|(_, content)| content)
    }

    #[test]
    fn whole_bodies_are_read_in_each_framing() {
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").unwrap(), b"abc");
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n";
        assert_eq!(read(chunked).unwrap(), b"abc");
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n\r\nabc").unwrap(), b"abc");
    }

    #[test]
    fn a_cut_body_is_never_whole() {
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc"), Err(Fault::Cut));
        let no_last_chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
        assert_eq!(read(no_last_chunk), Err(Fault::Cut));
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-"), Err(Fault::Cut));
        assert_eq!(read(b""), Err(Fault::Closed));
    }

    #[test]
    fn parts_are_read() {
        assert_eq!(part("bytes=2-4", 10), Some((2, 5)));
        assert_eq!(part("bytes=2-", 10), Some((2, 10)));
        assert_eq!(part("bytes=2-99", 10), Some((2, 10)));
        assert_eq!(part("bytes=10-", 10), None);
        assert_eq!(part("bytes=-3", 10), None);
    }

    #[test]
    fn a_get_may_ask_for_a_part_of_the_version_that_it_knows() {
        let part = |head: &str| Head::parse(head.as_bytes()).unwrap().part("\"v2\"", 10);
        assert_eq!(part("GET /a HTTP/1.1\r\nRange: bytes=2-4\r\n\r\n"), Some((2, 5)));
        assert_eq!(part("GET /a HTTP/1.1\r\nRange: bytes=2-4\r\nIf-Range: \"v2\"\r\n\r\n"), Some((2, 5)));
        assert_eq!(part("GET /a HTTP/1.1\r\nRange: bytes=2-4\r\nIf-Range: \"v1\"\r\n\r\n"), None);
        assert_eq!(part("HEAD /a HTTP/1.1\r\nRange: bytes=2-4\r\n\r\n"), None);
        assert_eq!(part("GET /a HTTP/1.1\r\n\r\n"), None);
    }

    #[test]
    fn a_wrong_chunk_is_malformed() {
        let wrong = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n";
        assert!(matches!(read(wrong), Err(Fault::Malformed(_))));
        let sign = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n";
        assert!(matches!(read(sign), Err(Fault::Malformed(_))));
    }
}
