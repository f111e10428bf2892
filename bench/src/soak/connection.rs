//! A viewer's connection to the server under test: writes requests, reads answers as their framing demands, and tells apart how it ended.

use super::viewer::{EXCHANGE_MAX, SILENCE_MAX};
use crate::http::{Fault, Flow, Framing, Head, Reader};
use crate::plan::Plan;
use socket2::{Domain, Socket, Type};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// A connection to the server under test.
pub(super) struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: TcpStream,
    /// The next answer is one to HEAD.
    pub(super) head_only: bool,
    /// The last answer said that it ends the connection.
    pub(super) closes: bool,
    /// A head that was read while waiting for 100.
    early: Option<Head>,
}

impl Connection {
    /// Connects; with a small receive buffer, so that a reader that does not read is felt, if `receive_len` is given.
    pub(super) fn open(address: SocketAddr, receive_len: Option<usize>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if let Some(len) = receive_len {
            socket.set_recv_buffer_size(len)?;
        }
        socket.connect(&address.into())?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        let writer = stream.try_clone()?;
        Ok(Self { reader: Reader::new(stream), writer, head_only: false, closes: false, early: None })
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    /// Reads until 100 (Continue), true, or another head, which is kept for `answer`.
    pub(super) fn continues(&mut self) -> bool {
        match self.reader.head() {
            Ok(head) if head.status() == Ok(100) => true,
            Ok(head) => {
                self.early = Some(head);
                false
            }
            Err(_) => false,
        }
    }

    /// Reads one final answer.
    pub(super) fn answer(&mut self, sink: impl FnMut(u64, &[u8]) -> Flow) -> Result<(Head, u64), Fault> {
        let head = self.final_head()?;
        let length = self.content(&head, sink)?;
        Ok((head, length))
    }

    /// Reads the head of one final answer.
    pub(super) fn final_head(&mut self) -> Result<Head, Fault> {
        let mut head = match self.early.take() {
            Some(head) => head,
            None => self.reader.head()?,
        };
        while head.status()? < 200 {
            head = self.reader.head()?;
        }
        self.closes = head.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Ok(head)
    }

    /// Reads the content that belongs to `head`.
    pub(super) fn content(
        &mut self,
        head: &Head,
        sink: impl FnMut(u64, &[u8]) -> Flow,
    ) -> Result<u64, Fault> {
        let framing = head.framing()?;
        if self.head_only || matches!(head.status()?, 204 | 304) {
            return Ok(0);
        }
        if framing.is_none() {
            self.closes = true;
        }
        self.reader.body(framing.unwrap_or(Framing::UntilClose), sink)
    }

    /// Reads to the end of the connection; false when it did not come within the longest silence.
    pub(super) fn drain(&mut self, read: &mut u64) -> bool {
        let end = Instant::now() + EXCHANGE_MAX;
        while Instant::now() < end {
            match self.reader.some() {
                Ok(bytes) => *read += bytes.len() as u64,
                Err(Fault::Silent) => return false,
                Err(_) => return true,
            }
        }
        false
    }
}

/// Returns a plain request for `plan`.
pub(super) fn get(plan: Plan) -> Vec<u8> {
    format!("GET {plan} HTTP/1.1\r\nHost: soak\r\nUser-Agent: aspis-soak\r\nAccept: */*\r\n\r\n").into_bytes()
}
