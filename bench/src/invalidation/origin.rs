//! An origin whose objects all have the version of the moment, and say so.
//!
//! A core of the product's own runtime, so that it takes as little as it can of a machine that it shares with who is measured: what it answers
//! is prepared but for the version, and a turn's answers leave together. It serves until the process ends. Requests have no bodies.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aspis_runtime::{
    Close, CoreOptions, Handler, ListenerId, Peer, ReceiveEnd, Ring, SocketId, bind, spawn_core,
};

/// How many bytes of each body are the version.
pub(super) const VERSION_LEN: usize = 16;

/// A running origin.
#[derive(Debug)]
pub(crate) struct VersionOrigin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    version: AtomicU64,
    requests: AtomicU64,
}

impl VersionOrigin {
    /// Starts to serve bodies of `size` bytes, which is no less than a version.
    pub(crate) fn start(size: usize) -> io::Result<Self> {
        let listener = bind::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false)?;
        let address = TcpListener::from(listener.try_clone()?).local_addr()?;
        let shared = Arc::new(Shared::default());
        let of_core = Arc::clone(&shared);
        let options = CoreOptions { name: "origin".into(), ..CoreOptions::default() };
        spawn_core(options, None, move |ring| {
            ring.listen(listener);
            Rc::new(Core { ring, shared: of_core, answers: Answers::new(size), begun: RefCell::default() })
        })
        .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { address, shared })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Gives everything a new version and returns it.
    pub(crate) fn change(&self) -> u64 {
        self.shared.version.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// What is answered, but for the version.
struct Answers {
    plain: Vec<u8>,
    /// With the tag that every second object has.
    half: Vec<u8>,
    size: usize,
}

impl Answers {
    fn new(size: usize) -> Self {
        let whole = |tags: &str| {
            let head = "HTTP/1.1 200 OK\r\nCache-Control: public, max-age=86400\r\n";
            let mut bytes = format!("{head}{tags}Content-Length: {size}\r\n\r\n").into_bytes();
            bytes.resize(bytes.len() + size, b'.');
            bytes
        };
        Answers { plain: whole(""), half: whole("Surrogate-Key: half\r\n"), size }
    }

    fn of(&self, head: &[u8]) -> &[u8] {
        let digits = head.strip_prefix(b"GET /o/").unwrap_or_default();
        let last = digits.iter().take_while(|byte| byte.is_ascii_digit()).last();
        if last.is_some_and(|digit| digit.is_multiple_of(2)) { &self.half } else { &self.plain }
    }
}

struct Core {
    ring: Ring,
    shared: Arc<Shared>,
    answers: Answers,
    /// Heads that came in part, by the slots of their connections.
    begun: RefCell<HashMap<u32, Vec<u8>>>,
}

impl Core {
    /// Answers the heads in `bytes` and returns what is left.
    fn answer<'b>(&self, socket: SocketId, bytes: &'b [u8]) -> &'b [u8] {
        let mut rest = bytes;
        while let Some(len) = head_len(rest) {
            let (head, after) = rest.split_at(len);
            rest = after;
            self.shared.requests.fetch_add(1, Ordering::Relaxed);
            let (answer, version) = (self.answers.of(head), self.shared.version.load(Ordering::SeqCst));
            // One that is gone shows at the viewer that waits for its answer.
            self.ring.send_with(socket, answer.len(), |out| {
                out[..answer.len()].copy_from_slice(answer);
                let mut body = &mut out[answer.len() - self.answers.size..];
                write!(body, "{version:0VERSION_LEN$}").expect("a body has room for a version");
                answer.len()
            });
        }
        rest
    }
}

impl Handler for Core {
    fn on_accept(&self, _: ListenerId, socket: SocketId, _: Peer) {
        self.begun.borrow_mut().remove(&socket.slot());
        self.ring.receive(socket);
    }

    fn on_receive(&self, socket: SocketId, bytes: &[u8]) {
        let begun = self.begun.borrow_mut().remove(&socket.slot());
        let rest = match begun {
            None => self.answer(socket, bytes).to_vec(),
            Some(mut head) => {
                head.extend_from_slice(bytes);
                self.answer(socket, &head).to_vec()
            }
        };
        if !rest.is_empty() {
            self.begun.borrow_mut().insert(socket.slot(), rest);
        }
    }

    fn on_receive_end(&self, socket: SocketId, _: ReceiveEnd) {
        self.ring.close(socket, Close::Linger(Duration::from_secs(1)));
    }
}

/// Returns the length of the head at the front of `bytes`, if it is whole.
pub(super) fn head_len(bytes: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    bytes.windows(END.len()).position(|four| four == END).map(|at| at + END.len())
}

#[cfg(test)]
mod tests {
    use super::super::viewer::Viewer;
    use super::*;

    #[test]
    fn every_second_object_has_the_tag() {
        let answers = Answers::new(20);
        let tagged =
            |path: &str| answers.of(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes()) == answers.half;
        assert_eq!(["/o/0", "/o/1", "/o/38", "/o/45", "/hot"].map(tagged), [true, false, true, false, false]);
        assert_eq!(
            (head_len(b"GET / HTTP/1.1\r\n\r\nG"), head_len(b"GET / HTTP/1.1\r\n\r")),
            (Some(18), None)
        );
    }

    #[test]
    fn all_requests_get_the_version_of_the_moment_however_they_come() {
        let origin = VersionOrigin::start(24).unwrap();
        let mut viewer = Viewer::connect(origin.address()).unwrap();
        assert_eq!(viewer.ask("/o/1").unwrap(), 0);
        assert_eq!(origin.change(), 1);
        viewer.send(&["/o/2", "/o/3"]).unwrap();
        assert_eq!((viewer.version().unwrap(), viewer.version().unwrap()), (1, 1));
        viewer.send_bytes(b"GET /o/4 HTTP/1.1\r\nHo").unwrap();
        viewer.send_bytes(b"st: a\r\n\r\n").unwrap();
        assert_eq!((viewer.version().unwrap(), origin.requests()), (1, 4));
    }
}
