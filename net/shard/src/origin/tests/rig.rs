//! Cores that run what a test says, and origins that follow a script.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use aspis_exchange::OriginFailure;
use aspis_runtime::mailbox::{self, Post, Receiver};
use aspis_runtime::{CoreOptions, CoreThread, Handler, Ring, spawn_core};
use aspis_telemetry::{CoreCounters, Counter};
use aspis_wire::request::RequestFraming;
use aspis_wire::response::parse_response;
use aspis_wire::{FieldSlots, HeadLimits, Method};
use rustls::ClientConfig;

use crate::origin::{
    BodyGone, CapMessage, NoBody, OriginBody, OriginClient, OriginRequest, OriginSettings, OriginShared,
    RequestBody,
};

/// Longer than anything here takes; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(30);

type Task = Pin<Box<dyn Future<Output = ()>>>;

enum Message {
    Cap(CapMessage),
    Run(Box<dyn FnOnce(OriginClient, Ring) -> Task + Send>),
    Stop,
}

struct Core {
    ring: Ring,
    client: OriginClient,
    mail: Receiver<Message>,
}

impl Handler for Core {
    fn on_turn(&self) -> bool {
        while let Some(message) = self.mail.pop() {
            match message {
                Message::Cap(message) => self.client.deliver(message),
                Message::Run(make) => self.ring.spawn(make(self.client.clone(), self.ring.clone())),
                Message::Stop => self.ring.stop(),
            }
        }
        false
    }

    fn has_mail(&self) -> bool {
        !self.mail.is_empty()
    }
}

/// Running cores with an origin client each.
pub(super) struct Rig {
    threads: Vec<CoreThread>,
    post: Post<Message>,
    pub(super) shared: Arc<OriginShared>,
    pub(super) counters: Vec<Arc<CoreCounters>>,
}

/// Patient settings for a plain origin.
pub(super) fn settings() -> OriginSettings {
    OriginSettings {
        server_name: None,
        connect_timeout: Duration::from_secs(5),
        read_timeout: Duration::from_secs(5),
        attempts: 3,
        keepalive_timeout: Duration::from_secs(60),
        connection_count_max: 100,
        queue_len_max: 1000,
        queue_timeout: Duration::from_secs(5),
    }
}

impl Rig {
    /// One core and a plain origin.
    pub(super) fn one(settings: OriginSettings, address: SocketAddr) -> Self {
        Rig::start(settings, 1, None, &[address])
    }

    pub(super) fn start(
        settings: OriginSettings,
        cores: usize,
        tls: Option<Arc<ClientConfig>>,
        addresses: &[SocketAddr],
    ) -> Self {
        // A mailbox that is easily full, so that messages have to wait.
        let (mailboxes, post) = mailbox::channel::<Message>(cores, 4);
        let cap_post = post.clone();
        let shared = Arc::new(OriginShared::new(settings, cores, move |core, message| {
            cap_post.send(core, Message::Cap(message)).map_err(|_| message)
        }));
        let counters: Vec<_> = (0..cores).map(|_| Arc::new(CoreCounters::new())).collect();
        let threads = mailboxes.into_iter().enumerate().map(|(core, mail)| {
            let (shared, tls, counters) = (Arc::clone(&shared), tls.clone(), Arc::clone(&counters[core]));
            let addresses: Arc<[SocketAddr]> = Arc::from(addresses);
            spawn_core(CoreOptions::default(), Some(mail.doorbell()), move |ring| {
                let client = OriginClient::new(ring.clone(), core, shared, tls, counters, Default::default());
                client.set_addresses(addresses);
                Rc::new(Core { ring, client, mail })
            })
            .expect("a core starts")
        });
        let threads = threads.collect();
        Rig { threads, post, shared, counters }
    }

    /// Starts `work` on a core; its result comes through the channel.
    pub(super) fn begin<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        core: usize,
        work: impl FnOnce(OriginClient, Ring) -> F + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (result, received) = mpsc::channel();
        let run = move |client: OriginClient, ring: Ring| {
            let work = work(client, ring);
            let task: Task = Box::pin(async move {
                let value = work.await;
                // A test that does not wait for the result does not want it.
                let _ = result.send(value);
            });
            task
        };
        self.send(core, Message::Run(Box::new(run)));
        received
    }

    /// Runs `work` on a core to its end.
    pub(super) fn run<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        core: usize,
        work: impl FnOnce(OriginClient, Ring) -> F + Send + 'static,
    ) -> T {
        self.begin(core, work).recv_timeout(PATIENCE).expect("the core finishes the work in time")
    }

    pub(super) fn count(&self, counter: Counter) -> u64 {
        self.counters.iter().map(|core| core.value(counter)).sum()
    }

    fn send(&self, core: usize, mut message: Message) {
        while let Err(back) = self.post.send(core, message) {
            message = back;
            std::thread::yield_now();
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for core in 0..self.threads.len() {
            self.send(core, Message::Stop);
        }
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a core panicked");
        }
    }
}

/// An origin that plays a script on each connection, numbered from 0.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    pub(super) fn start(script: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let script = Arc::new(script);
        // Ends with the process: accepting cannot be interrupted.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    stream.set_nodelay(true).expect("a connected socket takes options");
                    script(stream, number);
                });
            }
        });
        Origin { address, connections }
    }

    /// An origin that answers each request of each connection with `answer`.
    pub(super) fn answering(answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Origin::start(move |mut stream, _| {
            while let Some(request) = read_head(&mut stream) {
                if stream.write_all(&answer(&request)).is_err() {
                    return;
                }
            }
        })
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads up to the empty line that ends a head; nothing at the end of the stream.
pub(super) fn read_head(stream: &mut impl Read) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(head)
}

/// Reads until the other side ends or breaks.
pub(super) fn read_rest(stream: &mut impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        rest.extend_from_slice(&buffer[..count]);
    }
    rest
}

/// Ends a connection in order.
pub(super) fn end(mut stream: TcpStream) {
    let _ = stream.flush();
    let _ = stream.shutdown(Shutdown::Write);
    read_rest(&mut stream);
}

/// A response with a length.
pub(super) fn ok(content: &[u8]) -> Vec<u8> {
    let mut response = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content.len()).into_bytes();
    response.extend_from_slice(content);
    response
}

/// A request without content.
pub(super) fn request<'r>(head: &'r [u8], method: Method<'r>) -> OriginRequest<'r> {
    OriginRequest { head, method, framing: RequestFraming::None, upgrade: false }
}

pub(super) const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: origin\r\n\r\n";

/// What a fetch brought: status and content, or how it failed.
pub(super) type Fetched = Result<(u16, Vec<u8>), OriginFailure>;

/// Fetches and reads to the end.
pub(super) async fn get(client: &OriginClient) -> Fetched {
    fetch(client, request(GET, Method::Get), None::<NoBody>).await
}

pub(super) async fn fetch<B: RequestBody + 'static>(
    client: &OriginClient,
    request: OriginRequest<'_>,
    body: Option<B>,
) -> Fetched {
    let mut response = client.fetch(request, body, &mut |_| {}).await?;
    let status = status_of(&response.head, request.method);
    Ok((status, read_all(&mut response.body).await?))
}

pub(super) fn status_of(head: &[u8], method: Method<'_>) -> u16 {
    let mut slots = FieldSlots::new();
    let parsed = parse_response(head, &mut slots, &HeadLimits::default(), method);
    let head_of_response = parsed.expect("a fetched head is valid").expect("a fetched head is whole");
    assert_eq!(head_of_response.len, head.len(), "the head is given without content behind it");
    head_of_response.status
}

pub(super) async fn read_all(body: &mut OriginBody) -> Result<Vec<u8>, OriginFailure> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 1000];
    loop {
        let (read, returned) = body.read(buffer).await;
        buffer = returned;
        match read? {
            0 => return Ok(all),
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
}

/// Content for requests: pieces, then its end or a viewer that leaves.
pub(super) struct Pieces {
    pub(super) pieces: VecDeque<Vec<u8>>,
    pub(super) end: Result<(), BodyGone>,
}

impl Pieces {
    pub(super) fn new(pieces: &[&[u8]]) -> Self {
        Pieces { pieces: pieces.iter().map(|piece| piece.to_vec()).collect(), end: Ok(()) }
    }
}

impl RequestBody for Pieces {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, BodyGone> {
        match self.pieces.pop_front() {
            Some(piece) => Ok(Some(piece)),
            None => self.end.map(|()| None),
        }
    }
}
