//! A byte stream read by message parts: heads, lengths, chunks. Both ends of a test use it.

use super::{Head, PATIENCE};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

/// What a connection can run over: TCP, TLS over TCP, a unix socket.
pub(crate) trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

/// A stream and the bytes read from it that nobody has taken yet.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    /// The socket below the stream, for shutting one direction down; a unix socket has none.
    socket: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Over plain TCP; every read and write has the limit [`PATIENCE`].
    pub(crate) fn plain(socket: TcpStream) -> io::Result<Self> {
        let below = prepared(&socket)?;
        Ok(Self::over(Box::new(socket), Some(below)))
    }

    pub(crate) fn over(stream: Box<dyn Stream>, socket: Option<TcpStream>) -> Self {
        Self { stream, socket, buffer: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Ends our direction; the other side reads the end of the stream.
    pub(crate) fn finish_sending(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(Shutdown::Write);
        }
    }

    /// A second handle on the plain socket, for a thread that writes while this one reads.
    pub(crate) fn socket(&self) -> TcpStream {
        self.socket.as_ref().and_then(|socket| socket.try_clone().ok()).expect("a TCP connection")
    }

    /// Reads more into the buffer; 0 is the end of the stream.
    fn fill(&mut self) -> io::Result<usize> {
        let mut more = [0; 64 * 1024];
        let read = self.stream.read(&mut more)?;
        self.buffer.extend_from_slice(&more[..read]);
        Ok(read)
    }

    fn fill_or_fail(&mut self, what: &str) -> io::Result<()> {
        match self.fill()? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the connection ended in {what}"))),
            _ => Ok(()),
        }
    }

    /// Takes whatever is there, waiting for at least one byte; empty is the end of the stream.
    pub(crate) fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Takes exactly `len` bytes.
    pub(crate) fn exactly(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < len {
            self.fill_or_fail("a counted part")?;
        }
        Ok(self.buffer.drain(..len).collect())
    }

    /// Takes everything up to the end of the stream.
    pub(crate) fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Takes one head; `None` when the stream ends before its first byte.
    pub(crate) fn head(&mut self) -> io::Result<Option<Head>> {
        Ok(self.raw_head()?.map(|bytes| Head::parse(&bytes)))
    }

    /// Takes the bytes of one head with its empty line.
    pub(crate) fn raw_head(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                return Ok(Some(self.buffer.drain(..at + 4).collect()));
            }
            if self.fill()? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!(
                            "the connection ended in a head: {:?}",
                            String::from_utf8_lossy(&self.buffer)
                        ),
                    )),
                };
            }
        }
    }

    /// Takes one line without its CRLF.
    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.drain(..at + 2).collect::<Vec<_>>();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.fill_or_fail("a line")?;
        }
    }

    /// Hands a body of `len` bytes to `take`, piece by piece.
    pub(crate) fn counted(&mut self, len: u64, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut left = len;
        while left > 0 {
            if self.buffer.is_empty() {
                self.fill_or_fail("a body with a length")?;
            }
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            take(&self.buffer[..now]);
            self.buffer.drain(..now);
            left -= now as u64;
        }
        Ok(())
    }

    /// Hands the content of a chunked body to `take`, with the last chunk and any trailers read.
    pub(crate) fn chunked(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("not a chunk size: {line:?}"))
            })?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(());
            }
            self.counted(size, take)?;
            let end = self.line()?;
            if !end.is_empty() {
                let problem = format!("bytes after a chunk's content: {end:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
        }
    }
}

/// Gives the socket its limits and returns a second handle on it.
pub(crate) fn prepared(socket: &TcpStream) -> io::Result<TcpStream> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    socket.try_clone()
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
