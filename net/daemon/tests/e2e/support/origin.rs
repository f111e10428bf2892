//! A scripted origin: a closure answers every request, and the test asks afterwards what arrived.

use super::connection::{Connection, prepared};
use super::{Head, PATIENCE};
use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

type Script = dyn Fn(&mut Reply<'_>) + Send + Sync;
/// Makes a connection of an accepted socket: plain, or after a TLS handshake.
type Wrap = dyn Fn(TcpStream) -> io::Result<Connection> + Send + Sync;

/// An origin on a loopback port; it ends with the value.
pub(crate) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
    stopping: AtomicBool,
    connections: AtomicUsize,
    script_failed: AtomicBool,
}

#[derive(Default)]
struct Log {
    requests: Vec<Head>,
    counts: HashMap<String, usize>,
    sockets: Vec<TcpStream>,
}

impl Origin {
    /// Starts an origin on plain HTTP.
    pub(crate) fn start(script: impl Fn(&mut Reply<'_>) + Send + Sync + 'static) -> Self {
        Self::start_over(Box::new(Connection::plain), script)
    }

    /// Starts an origin that answers every request with `body` and the field lines given.
    pub(crate) fn fixed(fields: &'static [(&'static str, &'static str)], body: &'static [u8]) -> Self {
        Self::start(move |reply| reply.answer(200, fields, body))
    }

    /// Starts an origin that reads one head per connection and then sends `bytes` as they are and closes.
    pub(crate) fn raw(bytes: Vec<u8>) -> Self {
        Self::start(move |reply| {
            reply.send(&bytes);
            reply.close();
        })
    }

    pub(crate) fn start_over(
        wrap: Box<Wrap>,
        script: impl Fn(&mut Reply<'_>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        Self::on(listener, wrap, script)
    }

    /// Starts an origin on a listener that exists already.
    pub(crate) fn on(
        listener: TcpListener,
        wrap: Box<Wrap>,
        script: impl Fn(&mut Reply<'_>) + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared::default());
        let (script, wrap): (Arc<Script>, Arc<Wrap>) = (Arc::new(script), Arc::from(wrap));
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if accepting.stopping.load(Ordering::Acquire) {
                    return;
                }
                let Ok(socket) = socket else { continue };
                let number = accepting.connections.fetch_add(1, Ordering::AcqRel);
                let (shared, script, wrap) = (accepting.clone(), script.clone(), wrap.clone());
                std::thread::spawn(move || serve(&shared, socket, number, &*script, &*wrap));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests with this target arrived.
    pub(crate) fn count(&self, target: &str) -> usize {
        self.shared.log().counts.get(target).copied().unwrap_or(0)
    }

    /// How many requests arrived.
    pub(crate) fn total(&self) -> usize {
        self.shared.log().requests.len()
    }

    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Acquire)
    }

    /// The heads of all requests in the order they arrived.
    pub(crate) fn requests(&self) -> Vec<Head> {
        self.shared.log().requests.clone()
    }

    /// The head of the only request with this target.
    #[track_caller]
    pub(crate) fn only(&self, target: &str) -> Head {
        let mut found = self.requests();
        found.retain(|head| head.target() == target);
        assert_eq!(found.len(), 1, "requests for {target}: {found:?}");
        found.remove(0)
    }

    /// Waits until `count` requests with this target have arrived.
    #[track_caller]
    pub(crate) fn wait_for(&self, target: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        let mut log = self.shared.log();
        while log.counts.get(target).copied().unwrap_or(0) < count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{count} requests for {target} did not arrive; did: {:?}", log.counts);
            log = self.shared.changed.wait_timeout(log, left).expect("the log is not poisoned").0;
        }
    }

    /// Closes every connection that is open now, as a restarting origin does.
    pub(crate) fn drop_connections(&self) {
        for socket in self.shared.log().sockets.drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
        self.drop_connections();
        if !std::thread::panicking() {
            assert!(
                !self.shared.script_failed.load(Ordering::Acquire),
                "an assertion in the origin's script failed"
            );
        }
    }
}

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("no thread panics while it holds the log")
    }

    /// Records a request and returns how many with its target came before it.
    fn record(&self, head: &Head) -> usize {
        let mut log = self.log();
        log.requests.push(head.clone());
        let count = log.counts.entry(head.target().to_owned()).or_default();
        let before = *count;
        *count += 1;
        self.changed.notify_all();
        before
    }
}

/// Answers the requests of one connection until either side closes it.
fn serve(shared: &Shared, socket: TcpStream, number: usize, script: &Script, wrap: &Wrap) {
    let Ok(handle) = prepared(&socket) else { return };
    shared.log().sockets.push(handle);
    let Ok(mut connection) = wrap(socket) else { return };
    while let Ok(Some(request)) = connection.head() {
        let before = shared.record(&request);
        let mut reply = Reply {
            request: &request,
            before,
            connection_number: number,
            connection: &mut connection,
            body_taken: false,
            closing: false,
        };
        let run = std::panic::AssertUnwindSafe(|| script(&mut reply));
        if std::panic::catch_unwind(run).is_err() {
            shared.script_failed.store(true, Ordering::Release);
            break;
        }
        if !reply.closing && !reply.body_taken {
            reply.body();
        }
        if reply.closing {
            break;
        }
    }
    // A second handle stays in the log, so dropping this one would not close the socket.
    let _ = connection.socket().shutdown(Shutdown::Both);
}

/// One request at the origin and the means to answer it.
pub(crate) struct Reply<'c> {
    pub(crate) request: &'c Head,
    /// How many requests with the same target came before this one.
    pub(crate) before: usize,
    /// The number of the connection, counted from 0 in order of arrival.
    pub(crate) connection_number: usize,
    pub(crate) connection: &'c mut Connection,
    body_taken: bool,
    closing: bool,
}

impl Reply<'_> {
    /// Reads the whole request body; a body that breaks off closes the connection.
    pub(crate) fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        self.body_into(&mut |piece| body.extend_from_slice(piece));
        body
    }

    /// Reads the request body piece by piece; returns whether it was complete.
    pub(crate) fn body_into(&mut self, take: &mut dyn FnMut(&[u8])) -> bool {
        self.body_taken = true;
        let read = match (self.request.is_chunked(), self.request.content_length()) {
            (true, _) => self.connection.chunked(take),
            (false, Some(len)) => self.connection.counted(len, take),
            (false, None) => Ok(()),
        };
        self.closing |= read.is_err();
        read.is_ok()
    }

    /// Sends bytes as they are. A viewer that went away is not a fault of the script, so errors only end the connection.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.closing |= self.connection.send(bytes).is_err();
    }

    /// Whether the connection broke or was closed by the script.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Sends a complete answer with a length; for HEAD the length without the body.
    pub(crate) fn answer(&mut self, status: u16, fields: &[(&str, &str)], body: &[u8]) {
        if !self.body_taken {
            self.body();
        }
        let mut bytes = head_bytes(status, fields);
        if status != 204 && status != 304 {
            bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        if self.request.method() != "HEAD" {
            bytes.extend_from_slice(body);
        }
        self.send(&bytes);
    }

    /// Sends the head of an answer whose framing the fields decide.
    pub(crate) fn head(&mut self, status: u16, fields: &[(&str, &str)]) {
        let mut bytes = head_bytes(status, fields);
        bytes.extend_from_slice(b"\r\n");
        self.send(&bytes);
    }

    /// Sends one chunk; an empty one ends the body.
    pub(crate) fn chunk(&mut self, data: &[u8]) {
        let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(b"\r\n");
        self.send(&bytes);
    }

    /// Closes the connection when the script returns.
    pub(crate) fn close(&mut self) {
        self.closing = true;
    }
}

fn head_bytes(status: u16, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.into_bytes()
}
