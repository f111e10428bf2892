//! What the plain origins of the drivers have in common: a listener that serves until the process ends, each connection on a thread of its own.
//!
//! An origin that breaks off, restarts, or counts its connections has a listener of its own.

use super::{Flow, Head, Reader};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// Hands each connection to a port of the kernel's choice to `serve`, and returns where that is.
pub(crate) fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
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
