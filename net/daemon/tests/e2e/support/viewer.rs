//! A raw viewer: it sends exactly the bytes it is given and reads one framed response at a time.

use super::{Aspis, Connection, Head, PATIENCE};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The host that viewers ask for where a test does not care.
pub(crate) const HOST: &str = "test.example";

/// One viewer connection.
pub(crate) struct Viewer {
    pub(crate) connection: Connection,
    /// The first line of what was sent last, for the message of a failure.
    asked: String,
}

/// One response, complete by its own framing.
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

/// Why no complete response came.
pub(crate) enum Broken {
    /// The connection was closed before the first byte of a head.
    Closed,
    /// The head came, but the body ended before its framing says so, after this many bytes.
    Truncated(Head, usize),
    /// The connection failed, or ended inside a head.
    Failed(io::Error),
}

impl fmt::Debug for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => formatter.write_str("closed before an answer"),
            Self::Truncated(head, len) => write!(formatter, "cut after {len} bytes of the body of {head:?}"),
            Self::Failed(error) => write!(formatter, "failed: {error}"),
        }
    }
}

impl Viewer {
    /// Connects to the first listener.
    #[track_caller]
    pub(crate) fn connect(aspis: &Aspis) -> Self {
        Self::to(aspis.address())
    }

    #[track_caller]
    pub(crate) fn to(address: SocketAddr) -> Self {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)
            .unwrap_or_else(|error| panic!("connecting to {address}: {error}"));
        Self::over(Connection::plain(socket).expect("a fresh socket takes its options"))
    }

    pub(crate) fn over(connection: Connection) -> Self {
        Self { connection, asked: String::new() }
    }

    pub(crate) fn to_unix(path: &str) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self::over(Connection::over(Box::new(socket), None)))
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
        self.asked = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
        self.connection
            .send(bytes)
            .unwrap_or_else(|error| panic!("Aspis does not take {:?}: {error}", self.asked));
    }

    /// Sends a request without a body.
    #[track_caller]
    pub(crate) fn ask(&mut self, method: &str, target: &str, fields: &str) {
        self.send(request(method, target, fields));
    }

    /// Sends a GET that may come too late: the server may have closed the connection already.
    pub(crate) fn ask_if_open(&mut self, target: &str) {
        let _ = self.connection.send(request("GET", target, "").as_bytes());
    }

    /// GETs a target and returns the answer.
    #[track_caller]
    pub(crate) fn get(&mut self, target: &str) -> Response {
        self.ask("GET", target, "");
        self.response()
    }

    /// GETs a target with extra field lines, each ended by CRLF.
    #[track_caller]
    pub(crate) fn get_with(&mut self, target: &str, fields: &str) -> Response {
        self.ask("GET", target, fields);
        self.response()
    }

    /// Reads one complete response to anything but HEAD.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    #[track_caller]
    pub(crate) fn response_to(&mut self, method: &str) -> Response {
        self.try_response_to(method)
            .unwrap_or_else(|broken| panic!("no complete response to {:?}: {broken:?}", self.asked))
    }

    pub(crate) fn try_response(&mut self) -> Result<Response, Broken> {
        self.try_response_to("GET")
    }

    /// Reads one response; interim ones are returned like any other, without a body.
    pub(crate) fn try_response_to(&mut self, method: &str) -> Result<Response, Broken> {
        let head = match self.connection.head() {
            Ok(Some(head)) => head,
            Ok(None) => return Err(Broken::Closed),
            Err(error) => return Err(Broken::Failed(error)),
        };
        let mut body = Vec::new();
        match self.body_into(method, &head, &mut |piece| body.extend_from_slice(piece)) {
            Ok(()) => Ok(Response { head, body }),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Broken::Truncated(head, body.len()))
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Err(Broken::Truncated(head, body.len()))
            }
            Err(error) => Err(Broken::Failed(error)),
        }
    }

    /// Reads only a head, for a test that takes the body itself.
    #[track_caller]
    pub(crate) fn head(&mut self) -> Head {
        self.connection.head().expect("a response head").expect("a response before the end of the connection")
    }

    /// Reads the body that belongs to `head` piece by piece.
    pub(crate) fn body_into(
        &mut self,
        method: &str,
        head: &Head,
        take: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        let status = head.status();
        if method == "HEAD" || status == 204 || status == 304 || (100..200).contains(&status) {
            return Ok(());
        }
        if head.is_chunked() {
            return self.connection.chunked(take);
        }
        match head.content_length() {
            Some(len) => self.connection.counted(len, take),
            None => {
                take(&self.connection.read_to_end()?);
                Ok(())
            }
        }
    }

    /// Leaves so that the server learns of it at once: an orderly close could be a viewer that still reads.
    pub(crate) fn reset(self) {
        let socket = self.connection.socket();
        socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("a socket that is open");
        drop(self);
        drop(socket);
    }

    /// Asserts that the server closes the connection and sends nothing more before it does.
    #[track_caller]
    pub(crate) fn expect_close(&mut self) {
        match self.connection.read_to_end() {
            Ok(rest) => {
                assert!(rest.is_empty(), "bytes after the answer: {:?}", String::from_utf8_lossy(&rest))
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection was not closed: {error}"),
        }
    }

    /// Everything up to the close, whatever it is; a reset ends it like a close.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(some) = self.connection.some() {
            if some.is_empty() {
                break;
            }
            all.extend_from_slice(&some);
        }
        all
    }
}

/// The bytes of a request without a body.
pub(crate) fn request(method: &str, target: &str, fields: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")
}

impl Response {
    /// Whether this answer came from the store, by `X-Cache`.
    #[track_caller]
    pub(crate) fn x_cache(&self) -> &str {
        let values = self.head.all("x-cache");
        assert_eq!(values.len(), 1, "X-Cache is sent once: {:?}", self.head);
        values[0].split(' ').next().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16, body: &[u8]) -> Self {
        assert_eq!(self.status(), status, "{self:?}");
        assert!(self.body == body, "another body than expected: {self:?}");
        self
    }

    /// Asserts a hit or a miss and the exact body.
    #[track_caller]
    pub(crate) fn expect_cached(self, result: &str, body: &[u8]) -> Self {
        assert_eq!(self.x_cache(), result, "{self:?}");
        self.expect(200, body)
    }
}

impl Deref for Response {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(200)];
        write!(formatter, "{:?}({} bytes) {:?}", self.head, self.body.len(), String::from_utf8_lossy(shown))
    }
}
