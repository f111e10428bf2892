//! The admin side of a server, asked in JSON over one kept connection, by whoever invalidates or looks at invalidations.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use crate::http::{Fault, Reader};

/// Longer than the server lets anybody wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(100);

/// A connection to it.
#[derive(Debug)]
pub(crate) struct Admin {
    reader: Reader,
    host: SocketAddr,
}

impl Admin {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { reader: Reader::connect(address, ANSWER_TIMEOUT)?, host: address })
    }

    /// Sends a request, and returns the answer's status and document.
    pub(crate) fn ask(
        &mut self,
        method: &str,
        target: &str,
        document: Option<&Value>,
    ) -> io::Result<(u16, Value)> {
        let body = document.map(Value::to_string).unwrap_or_default();
        let fields = match document {
            Some(_) => format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()),
            None => String::new(),
        };
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n{fields}\r\n{body}", self.host);
        self.reader.stream().write_all(request.as_bytes())?;
        self.answer().map_err(|fault| io::Error::other(format!("{method} {target}: {fault:?}")))
    }

    /// Asks for an invalidation, and waits until it is accepted, or completed where `wait` says so.
    pub(crate) fn invalidate(&mut self, document: &Value, wait: bool) -> io::Result<()> {
        let target = if wait { "/v1/invalidations?wait=true" } else { "/v1/invalidations" };
        let (status, told) = self.ask("POST", target, Some(document))?;
        let is_done = !wait || told["status"] == "Completed";
        if status == 201 && is_done { Ok(()) } else { Err(io::Error::other(format!("{status} {told}"))) }
    }

    fn answer(&mut self) -> Result<(u16, Value), Fault> {
        let (head, body) = self.reader.answer()?;
        let document = serde_json::from_slice(&body).map_err(|error| Fault::Malformed(error.to_string()))?;
        Ok((head.status()?, document))
    }
}
