//! One connection of the driver: asks for objects and reads which version it got.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::http::{Fault, Reader};

use super::origin::VERSION_LEN;

/// A server that says nothing for so long is broken.
const SILENCE: Duration = Duration::from_secs(60);

/// Connections of [`Viewer::connect_to_all`] for each core: few enough for one thread, enough for every core to have some.
const CONNECTIONS: u64 = 4;

#[derive(Debug)]
pub(crate) struct Viewer {
    reader: Reader,
}

impl Viewer {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Viewer> {
        Ok(Viewer { reader: Reader::connect(address, SILENCE)? })
    }

    /// Connects so often that each of so many cores has some connections.
    pub(crate) fn connect_to_all(cores: u64, address: SocketAddr) -> io::Result<Vec<Viewer>> {
        (0..cores * CONNECTIONS).map(|_| Viewer::connect(address)).collect()
    }

    /// Asks for one object; returns its version.
    pub(crate) fn ask(&mut self, path: &str) -> io::Result<u64> {
        self.send(std::slice::from_ref(&path))?;
        self.version()
    }

    /// Sends requests whose answers are read with [`version`](Self::version).
    pub(crate) fn send(&mut self, paths: &[impl AsRef<str>]) -> io::Result<()> {
        let mut text = String::new();
        for path in paths {
            text.push_str(&format!("GET {} HTTP/1.1\r\nHost: bench\r\n\r\n", path.as_ref()));
        }
        self.send_bytes(text.as_bytes())
    }

    /// Sends bytes as they are.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.stream().write_all(bytes)
    }

    /// Reads one answer's version.
    pub(crate) fn version(&mut self) -> io::Result<u64> {
        let (status, body) = self.answer()?;
        let version =
            body.get(..VERSION_LEN).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        version.filter(|_| status == 200).ok_or_else(|| unexpected(status, &body))
    }

    fn answer(&mut self) -> io::Result<(u16, Vec<u8>)> {
        let failed = |fault: Fault| io::Error::other(format!("no answer: {fault:?}"));
        let (head, body) = self.reader.answer().map_err(failed)?;
        Ok((head.status().map_err(failed)?, body))
    }
}

fn unexpected(status: u16, body: &[u8]) -> io::Error {
    io::Error::other(format!("{status} {}", String::from_utf8_lossy(body)))
}
