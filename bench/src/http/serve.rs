//! Where the origins of the drivers listen: each connection is served on a thread of its own.
//!
//! Invariants: every connection that was accepted is known to its listener until it has been served; closing ends them all, and nothing is
//! accepted afterwards.

use super::{Flow, Head, Reader};
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};

/// Stack of a connection's thread: there may be thousands.
const STACK_LEN: usize = 256 * 1024;

/// A listener and its connections; dropping it ends them.
#[derive(Debug)]
pub(crate) struct Acceptor {
    address: SocketAddr,
    live: Arc<Live>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Live {
    closing: AtomicBool,
    /// Connections by number.
    streams: Mutex<HashMap<u64, TcpStream>>,
}

impl Live {
    /// A poisoned lock means that a thread of the driver died; its data are still whole.
    fn streams(&self) -> MutexGuard<'_, HashMap<u64, TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Acceptor {
    /// Hands each connection to a port of the kernel's choice to `serve`.
    pub(crate) fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> io::Result<Self> {
        Self::on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, serve)
    }

    /// The same for a listener that is there.
    pub(crate) fn on(
        listener: TcpListener,
        serve: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let live = Arc::new(Live::default());
        let (own, serve) = (Arc::clone(&live), Arc::new(serve));
        let thread = Builder::new().name("origin".into()).spawn(move || {
            for (number, stream) in (0..).zip(listener.incoming()) {
                if own.closing.load(Ordering::SeqCst) {
                    break;
                }
                let Ok((stream, twin)) = stream.and_then(|stream| Ok((stream.try_clone()?, stream))) else {
                    continue;
                };
                own.streams().insert(number, twin);
                let (serve, live) = (Arc::clone(&serve), Arc::clone(&own));
                let work = move || {
                    serve(stream);
                    live.streams().remove(&number);
                };
                // A thread that cannot be had closes the connection: the product must live with that, too.
                if Builder::new().name("origin-connection".into()).stack_size(STACK_LEN).spawn(work).is_err()
                {
                    own.streams().remove(&number);
                }
            }
        })?;
        Ok(Self { address, live, thread: Some(thread) })
    }

    /// Returns where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more, and ends each connection after showing it to `last`.
    pub(crate) fn close(&mut self, last: impl Fn(u64, &TcpStream)) {
        self.live.closing.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else { return };
        // The thread sits in accept(2); one connection wakes it. It may be gone already, then there is nothing to wake.
        drop(TcpStream::connect(self.address));
        drop(thread.join());
        for (number, stream) in self.live.streams().drain() {
            last(number, &stream);
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.close(|_, _| ());
    }
}

/// Hands each connection to a port of the kernel's choice to `serve` until this process ends, and returns where that is.
pub(crate) fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> io::Result<SocketAddr> {
    let acceptor = Acceptor::start(serve)?;
    let address = acceptor.address();
    // Dropping it would end it.
    std::mem::forget(acceptor);
    Ok(address)
}

/// Has `answer` write the answer to each request, whose body is read before; returns where it listens.
pub(crate) fn serve(
    answer: impl Fn(&TcpStream, &Head) -> io::Result<()> + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    // A connection that breaks belongs to a server that was killed, or shows at the viewer.
    listen(move |stream| drop(exchanges(stream, &answer)))
}

fn exchanges(stream: TcpStream, answer: &impl Fn(&TcpStream, &Head) -> io::Result<()>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = Reader::new(stream);
    loop {
        let head = reader.head()?;
        if let Some(framing) = head.framing()? {
            reader.body(framing, |_, _| Flow::Continue)?;
        }
        answer(reader.stream(), &head)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn closing_ends_every_connection_and_accepts_no_more() {
        let mut acceptor = Acceptor::start(|mut stream| {
            let mut byte = [0];
            while stream.read(&mut byte).is_ok_and(|count| count > 0) && stream.write_all(&byte).is_ok() {}
        })
        .unwrap();
        let mut streams = [(); 3].map(|()| TcpStream::connect(acceptor.address()).unwrap());
        let mut byte = [0];
        for stream in &mut streams {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut byte).unwrap();
        }
        let shown = AtomicBool::new(false);
        acceptor.close(|_, _| shown.store(true, Ordering::SeqCst));
        assert!(shown.load(Ordering::SeqCst));
        for stream in &mut streams {
            assert!(!stream.read(&mut byte).is_ok_and(|count| count > 0));
        }
        assert!(TcpStream::connect(acceptor.address()).is_err());
    }
}
