//! An origin inside the driver that does what each URL's plan says: well, slowly or wrongly, and that can be taken down and up again.
//!
//! One thread per connection, blocking. It also judges: requests that do not parse, or uploads whose content is not what their path promises,
//! are recorded as complaints. That a reset or a cut is our own doing is known from the plan, so whatever else shows is the product's.

mod versions;

use crate::http::{Fault, Flow, Framing, Head, Reader};
use crate::plan::{Kind, Plan};
use crate::random::Random;
use crate::sim::text::date;
use crate::wait;
use socket2::SockRef;
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use versions::Versions;

/// How long an idle connection, or one whose peer does not read, is kept.
const IDLE: Duration = Duration::from_secs(90);
/// How long a stalled answer waits for the peer to give up.
const STALL: Duration = Duration::from_secs(60);
/// Time before the head of a late answer, and between the pieces of a trickle.
const LATE: Duration = Duration::from_millis(150);
/// A port is waited for so long when the listener comes back.
const REBIND: Duration = Duration::from_secs(20);
/// Complaints beyond this are only counted.
const COMPLAINTS_MAX: usize = 20;

/// A running origin; dropping it ends its threads.
#[derive(Debug)]
pub(crate) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    closing: AtomicBool,
    requests: AtomicU64,
    next_connection: AtomicU64,
    live: Mutex<HashMap<u64, TcpStream>>,
    complaints: Mutex<Vec<String>>,
    /// From when to when the origin was down.
    outages: Mutex<Vec<(Instant, Option<Instant>)>>,
    versions: Versions,
}

impl Origin {
    /// Starts listening on a port of the kernel's choice.
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let acceptor = Some(accept(listener, Arc::clone(&shared))?);
        Ok(Self { address, shared, acceptor })
    }

    /// Returns where it listens, for life.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many request heads came so far.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Returns what it found wrong with what it was sent.
    pub(crate) fn complaints(&self) -> Vec<String> {
        lock(&self.shared.complaints).clone()
    }

    /// Closes the listener and every connection, waits, and listens on the same port again.
    pub(crate) fn restart(&mut self, down: Duration) -> io::Result<()> {
        lock(&self.shared.outages).push((Instant::now(), None));
        self.close();
        wait::pause(down);
        let mut listener = None;
        wait::until(REBIND, || {
            listener = TcpListener::bind(self.address).ok();
            listener.is_some()
        });
        let listener =
            listener.ok_or_else(|| io::Error::other("the origin's port was taken while it was down"))?;
        self.shared.closing.store(false, Ordering::SeqCst);
        self.acceptor = Some(accept(listener, Arc::clone(&self.shared))?);
        if let Some(outage) = lock(&self.shared.outages).last_mut() {
            outage.1 = Some(Instant::now());
        }
        Ok(())
    }

    /// Returns a handle that tells when the origin was down.
    pub(crate) fn outages(&self) -> Outages {
        Outages { shared: Arc::clone(&self.shared) }
    }

    fn close(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // The acceptor sits in accept(2); one connection wakes it. It may be gone already, then there is nothing to wake.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
        for (number, stream) in lock(&self.shared.live).drain() {
            if number % 2 == 0 {
                reset_on_close(&stream);
            }
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.close();
    }
}

/// Tells when the origin was down.
#[derive(Clone, Debug)]
pub(crate) struct Outages {
    shared: Arc<Shared>,
}

impl Outages {
    /// Returns whether the origin was down, or had just come back, at any time since `start`.
    pub(crate) fn touched(&self, start: Instant) -> bool {
        let margin = Duration::from_millis(1500);
        lock(&self.shared.outages).iter().any(|(_, end)| end.is_none_or(|end| end + margin >= start))
    }

    /// Returns how many there were.
    pub(crate) fn count(&self) -> usize {
        lock(&self.shared.outages).len()
    }

    /// Counts a time in which the machine let nobody run as an outage: timeouts that ran out then are nobody's fault.
    pub(crate) fn note(&self, from: Instant, to: Instant) {
        lock(&self.shared.outages).push((from, Some(to)));
    }
}

/// A poisoned lock means that a thread of the driver died; its data are still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the last close of this socket a reset.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    drop(SockRef::from(stream).set_linger(Some(Duration::ZERO)));
}

fn accept(listener: TcpListener, shared: Arc<Shared>) -> io::Result<JoinHandle<()>> {
    Builder::new().name("origin".into()).spawn(move || {
        for stream in listener.incoming() {
            if shared.closing.load(Ordering::SeqCst) {
                break;
            }
            let Ok(stream) = stream else { continue };
            let own = Arc::clone(&shared);
            let thread = Builder::new().name("origin-connection".into()).stack_size(256 * 1024);
            // A thread that cannot be had closes the connection: the product must live with that, too.
            drop(thread.spawn(move || connection(stream, &own)));
        }
    })
}

fn connection(stream: TcpStream, shared: &Shared) {
    let number = shared.next_connection.fetch_add(1, Ordering::Relaxed);
    let Ok(twin) = stream.try_clone() else { return };
    drop(stream.set_nodelay(true));
    drop(stream.set_read_timeout(Some(IDLE)));
    drop(stream.set_write_timeout(Some(IDLE)));
    lock(&shared.live).insert(number, twin);
    let mut reader = Reader::new(stream);
    while !shared.closing.load(Ordering::SeqCst) {
        match exchange(&mut reader, shared) {
            Ok(After::KeepAlive) => {}
            Ok(After::Close) | Err(_) => break,
            Ok(After::Reset) => {
                reset_on_close(reader.stream());
                break;
            }
        }
    }
    // The registry's handle goes first, so that dropping the reader is the last close.
    lock(&shared.live).remove(&number);
}

/// What becomes of the connection.
enum After {
    KeepAlive,
    Close,
    Reset,
}

fn exchange(reader: &mut Reader, shared: &Shared) -> io::Result<After> {
    let head = match reader.head() {
        Ok(head) => head,
        Err(fault) => {
            if let Fault::Malformed(what) = fault {
                complain(shared, format!("malformed request: {what}"));
            }
            return Ok(After::Close);
        }
    };
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let request = head.request_line().and_then(|(method, path)| Some((method, path, Plan::parse(path)?)));
    let Some((method, path, plan)) = request else {
        complain(shared, format!("unknown request {:?}", head.start_line));
        return Ok(After::Close);
    };
    let framing = match head.framing() {
        Ok(framing) => framing,
        Err(fault) => {
            complain(shared, format!("{path}: {fault:?}"));
            return Ok(After::Close);
        }
    };
    if plan.kind == Kind::Tunnel {
        return tunnel(reader, &head);
    }
    if plan.kind.has_versions() {
        return shared.versions.answer(reader.stream(), plan, method, &head);
    }
    let mut answer = Answer { plan, path: path.to_owned(), head_only: method == "HEAD" };
    if plan.kind == Kind::EarlyAnswer {
        answer.write(reader.stream())?;
    }
    if let Some(framing) = framing
        && !received(reader, framing, &answer, shared)
    {
        return Ok(After::Close);
    }
    if plan.kind == Kind::EarlyAnswer {
        return Ok(After::KeepAlive);
    }
    answer.path = path.to_owned();
    answer.send(reader)
}

/// Reads the content of a request; false when it did not come whole. Content that is not as promised is a complaint.
fn received(reader: &mut Reader, framing: Framing, answer: &Answer, shared: &Shared) -> bool {
    let content = answer.plan.content();
    let mut difference = None;
    let result = reader.body(framing, |at, piece| {
        difference = difference.or_else(|| content.first_difference(at, piece));
        Flow::Continue
    });
    if let Some(at) = difference {
        complain(shared, format!("{}: wrong upload at byte {at}", answer.path));
    }
    match result {
        Ok(length) if length == answer.plan.size => true,
        Ok(length) => {
            complain(shared, format!("{}: an upload of {length} bytes passed for whole", answer.path));
            false
        }
        Err(Fault::Malformed(what)) => {
            complain(shared, format!("{}: malformed upload: {what}", answer.path));
            false
        }
        Err(_) => false,
    }
}

fn complain(shared: &Shared, what: String) {
    let mut complaints = lock(&shared.complaints);
    if complaints.len() < COMPLAINTS_MAX {
        complaints.push(what);
    }
}

fn tunnel(reader: &mut Reader, head: &Head) -> io::Result<After> {
    let mut stream = reader.stream().try_clone()?;
    let Some(protocol) = head.field("upgrade") else {
        stream.write_all(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: echo\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(After::KeepAlive);
    };
    write!(stream, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: {protocol}\r\nConnection: upgrade\r\n\r\n")?;
    while let Ok(bytes) = reader.some() {
        stream.write_all(&bytes)?;
    }
    Ok(After::Close)
}

/// One response in the making.
struct Answer {
    plan: Plan,
    path: String,
    head_only: bool,
}

impl Answer {
    /// Answers as the plan says, misbehaviour included.
    fn send(&self, reader: &mut Reader) -> io::Result<After> {
        let mut stream = reader.stream();
        let half = self.plan.answer_len() / 2;
        match self.plan.kind {
            Kind::ResetHead => return Ok(After::Reset),
            Kind::Garbage => {
                stream.write_all(b"HTTP/1.1 OK 200\nnothing : of\x00the kind\n\n")?;
                return Ok(After::Close);
            }
            Kind::StallHead => {
                stall(reader);
                return Ok(After::Close);
            }
            Kind::Late => wait::pause(LATE),
            Kind::Interim => stream.write_all(
                b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n",
            )?,
            _ => {}
        }
        if self.head_only {
            stream.write_all(self.head().as_bytes())?;
            return Ok(if self.plan.kind == Kind::UntilClose { After::Close } else { After::KeepAlive });
        }
        match self.plan.kind {
            Kind::CutLength | Kind::ResetBody | Kind::StallBody => {
                stream.write_all(self.head().as_bytes())?;
                self.body(stream, half)?;
                match self.plan.kind {
                    Kind::ResetBody => return Ok(After::Reset),
                    Kind::StallBody => stall(reader),
                    _ => {}
                }
                Ok(After::Close)
            }
            Kind::CutChunked => {
                stream.write_all(self.head().as_bytes())?;
                self.chunks(stream, half)?;
                Ok(After::Close)
            }
            Kind::Overrun => {
                // What is too much leaves together with the end of the body, so that it is there before the connection can be used
                // again. Bytes that come later cannot be told from the next answer.
                stream.write_all(self.head().as_bytes())?;
                let last = self.plan.answer_len().min(8 * 1024);
                let at = self.plan.answer_len() - last;
                self.body(stream, at)?;
                let mut bytes = vec![0; last as usize];
                self.plan.content().fill(at, &mut bytes);
                bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong");
                stream.write_all(&bytes)?;
                Ok(After::Close)
            }
            Kind::UntilClose => {
                self.write(stream)?;
                Ok(After::Close)
            }
            _ => {
                self.write(stream)?;
                Ok(After::KeepAlive)
            }
        }
    }

    /// Writes head and body whole.
    fn write(&self, mut stream: &TcpStream) -> io::Result<()> {
        if self.head_only {
            return stream.write_all(self.head().as_bytes());
        }
        // Small answers leave in one piece, as those of a real server do.
        if self.plan.answer_len() <= 16 * 1024 && !self.chunked() {
            let mut bytes = self.head().into_bytes();
            let start = bytes.len();
            bytes.resize(start + self.plan.answer_len() as usize, 0);
            self.plan.content().fill(0, &mut bytes[start..]);
            return stream.write_all(&bytes);
        }
        stream.write_all(self.head().as_bytes())?;
        if self.chunked() {
            self.chunks(stream, self.plan.answer_len())?;
            return stream.write_all(b"0\r\n\r\n");
        }
        self.body(stream, self.plan.answer_len())
    }

    fn chunked(&self) -> bool {
        matches!(self.plan.kind, Kind::FreshChunked | Kind::PrivateChunked | Kind::CutChunked)
    }

    fn head(&self) -> String {
        let framing = match self.plan.kind {
            Kind::UntilClose => "Connection: close\r\n".to_owned(),
            _ if self.chunked() => "Transfer-Encoding: chunked\r\n".to_owned(),
            _ => format!("Content-Length: {}\r\n", self.plan.answer_len()),
        };
        let policy = match self.plan.kind {
            Kind::Brief => "max-age=1",
            Kind::Fresh
            | Kind::Dated
            | Kind::FreshChunked
            | Kind::CutLength
            | Kind::CutChunked
            | Kind::Trickle
            | Kind::Overrun => "public, max-age=3600",
            _ => "no-store",
        };
        let date = match self.plan.kind {
            Kind::Dated => format!("Date: {}\r\n", date(now())),
            _ => String::new(),
        };
        format!(
            "HTTP/1.1 200 OK\r\nServer: bench\r\n{date}Content-Type: application/octet-stream\r\n{framing}\
             Cache-Control: {policy}\r\nETag: \"{:016x}\"\r\nLast-Modified: Tue, 01 Sep 2026 10:00:00 GMT\r\nX-Plan: {}\r\n\r\n",
            self.plan.seed ^ self.plan.id,
            self.path
        )
    }

    /// Writes the first `length` bytes of the content.
    fn body(&self, stream: &TcpStream, length: u64) -> io::Result<()> {
        let trickle = self.plan.kind == Kind::Trickle;
        let piece_len = if trickle { (length / 6).clamp(1, 64 * 1024) } else { length.clamp(1, 256 * 1024) };
        let rest = if trickle { LATE / 4 } else { Duration::ZERO };
        self.plan.content().send(stream, (0, length), false, || piece_len, rest)
    }

    /// Writes the first `length` bytes of the content in chunks of uneven size, without the last chunk.
    fn chunks(&self, stream: &TcpStream, length: u64) -> io::Result<()> {
        let mut random = Random::new(self.plan.id ^ self.plan.seed);
        let largest = if length > 16 << 20 { 256 * 1024 } else { 40_000 };
        let piece_len = || random.length(largest);
        self.plan.content().send(stream, (0, length), true, piece_len, Duration::ZERO)
    }
}

/// Returns the second since the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Says nothing until the peer gives up.
fn stall(reader: &mut Reader) {
    drop(reader.stream().set_read_timeout(Some(STALL)));
    drop(reader.some());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(origin: &Origin, plan: Plan) -> Result<(u16, u64, Option<u64>), Fault> {
        let mut stream = TcpStream::connect(origin.address()).unwrap();
        write!(stream, "GET {plan} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut reader = Reader::new(stream);
        let mut head = reader.head()?;
        while head.status()? < 200 {
            head = reader.head()?;
        }
        let mut difference = None;
        let framing = head.framing()?.unwrap_or(Framing::UntilClose);
        let length = reader.body(framing, |at, piece| {
            difference = difference.or_else(|| plan.content().first_difference(at, piece));
            Flow::Continue
        })?;
        Ok((head.status()?, length, difference))
    }

    #[test]
    fn each_kind_keeps_its_promise_or_breaks_it_visibly() {
        let origin = Origin::start().unwrap();
        for kind in [
            Kind::Fresh,
            Kind::Dated,
            Kind::FreshChunked,
            Kind::UntilClose,
            Kind::Interim,
            Kind::Trickle,
            Kind::Overrun,
        ] {
            let plan = Plan { kind, size: 100_001, seed: 1, id: 2 };
            assert_eq!(get(&origin, plan), Ok((200, 100_001, None)), "{kind:?}");
        }
        for kind in [Kind::CutLength, Kind::CutChunked, Kind::ResetBody, Kind::ResetHead, Kind::Garbage] {
            let plan = Plan { kind, size: 100_001, seed: 1, id: 2 };
            assert!(get(&origin, plan).is_err(), "{kind:?}");
        }
        assert_eq!(origin.complaints(), Vec::<String>::new());
    }

    #[test]
    fn a_restarted_origin_answers_on_its_port() {
        let mut origin = Origin::start().unwrap();
        let before = Instant::now();
        let plan = Plan { kind: Kind::Fresh, size: 10, seed: 1, id: 2 };
        assert!(!origin.outages().touched(before));
        origin.restart(Duration::from_millis(1)).unwrap();
        assert_eq!(get(&origin, plan), Ok((200, 10, None)));
        assert!(origin.outages().touched(before));
        assert_eq!(origin.requests(), 1);
    }
}
