//! An origin inside the driver that does what each URL's plan says: well, slowly or wrongly, and that can be taken down and up again.
//!
//! One thread per connection, blocking. It also judges: requests that do not parse, or uploads whose content is not what their path promises,
//! are recorded as complaints. That a reset or a cut is our own doing is known from the plan, so whatever else shows is the product's.

mod answer;
mod versions;

use crate::http::{Acceptor, Fault, Flow, Framing, Head, Reader};
use crate::plan::{Kind, Plan};
use crate::wait;
use answer::Answer;
use socket2::SockRef;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use versions::Versions;

/// How long an idle connection, or one whose peer does not read, is kept.
const IDLE: Duration = Duration::from_secs(90);
/// A port is waited for so long when the listener comes back.
const REBIND: Duration = Duration::from_secs(20);
/// Complaints beyond this are only counted.
const COMPLAINTS_MAX: usize = 20;

/// A running origin; dropping it ends its threads.
#[derive(Debug)]
pub(crate) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

#[derive(Debug, Default)]
struct Shared {
    requests: AtomicU64,
    complaints: Mutex<Vec<String>>,
    /// From when to when the origin was down.
    outages: Mutex<Vec<(Instant, Option<Instant>)>>,
    versions: Versions,
}

impl Origin {
    /// Starts listening on a port of the kernel's choice.
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let acceptor = Acceptor::start(move |stream| connection(stream, &own))?;
        Ok(Self { address: acceptor.address(), shared, acceptor })
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
        // Half of the connections end in order, half are reset.
        self.acceptor.close(|number, stream| {
            if number.is_multiple_of(2) {
                reset_on_close(stream);
            }
        });
        wait::pause(down);
        let mut listener = None;
        wait::until(REBIND, || {
            listener = TcpListener::bind(self.address).ok();
            listener.is_some()
        });
        let listener =
            listener.ok_or_else(|| io::Error::other("the origin's port was taken while it was down"))?;
        let shared = Arc::clone(&self.shared);
        self.acceptor = Acceptor::on(listener, move |stream| connection(stream, &shared))?;
        if let Some(outage) = lock(&self.shared.outages).last_mut() {
            outage.1 = Some(Instant::now());
        }
        Ok(())
    }

    /// Returns a handle that tells when the origin was down.
    pub(crate) fn outages(&self) -> Outages {
        Outages { shared: Arc::clone(&self.shared) }
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

fn connection(stream: TcpStream, shared: &Shared) {
    drop(stream.set_nodelay(true));
    drop(stream.set_read_timeout(Some(IDLE)));
    drop(stream.set_write_timeout(Some(IDLE)));
    let mut reader = Reader::new(stream);
    loop {
        match exchange(&mut reader, shared) {
            Ok(After::KeepAlive) => {}
            Ok(After::Close) | Err(_) => break,
            Ok(After::Reset) => {
                reset_on_close(reader.stream());
                break;
            }
        }
    }
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
