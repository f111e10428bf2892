//! The floor responder: the least that any server on our ring must do for a hit.
//!
//! It finds the end of each head in what was received and answers with one send of a 330-byte head and the body; a larger body is sent from
//! where it lies. No parsing, no key, no lookup, no clock. What the product costs beyond it is the product's own work.

use aspis_runtime::{
    Close, CoreOptions, Handler, ListenerId, Peer, Piece, ReceiveEnd, Ring, SocketId, Source, bind,
    spawn_core,
};
use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

/// Length of the head, as long as that of a usual stored response.
const HEAD_LEN: usize = 330;
/// How the last bytes of an unfinished head are kept between receives: an empty line may be split anywhere.
const TAIL_LEN: usize = 3;
/// Bodies up to this length are copied behind their head, as the product does.
const INLINE_BODY_LEN_MAX: usize = 16 * 1024;

/// Serves until the process is ended.
pub(crate) fn run(size: usize) -> io::Result<()> {
    let listener = bind::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false)?;
    let socket = std::net::TcpListener::from(listener.try_clone()?);
    let address = socket.local_addr()?;
    drop(socket);
    let answer = answer(size);
    let options = CoreOptions { name: "floor".into(), ..CoreOptions::default() };
    let core = spawn_core(options, None, move |ring| {
        ring.listen(listener);
        Rc::new(Floor { ring, answer: Rc::new(Answer(answer)), tails: RefCell::new(Vec::new()) })
    })
    .map_err(|error| io::Error::other(error.to_string()))?;
    println!("listening on {address}");
    core.join().map_err(|_| io::Error::other("the core's thread panicked"))
}

/// Composes the answer once.
fn answer(size: usize) -> Vec<u8> {
    let mut head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\nCache-Control: public, max-age=3600\r\nX-Pad: "
    );
    let end = "\r\n\r\n";
    while head.len() + end.len() < HEAD_LEN {
        head.push('x');
    }
    head.push_str(end);
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + size, b'b');
    answer
}

/// A whole answer, head and body.
struct Answer(Vec<u8>);

impl Source for Answer {
    fn piece(&self, at: u64) -> Piece<'_> {
        self.0[at as usize..].into()
    }
}

struct Floor {
    ring: Ring,
    answer: Rc<Answer>,
    /// What an unfinished head ended with, by slot; 0 bytes stand for none.
    tails: RefCell<Vec<[u8; TAIL_LEN]>>,
}

impl Handler for Floor {
    fn on_accept(&self, _: ListenerId, socket: SocketId, _: Peer) {
        let slot = socket.slot() as usize;
        let mut tails = self.tails.borrow_mut();
        if tails.len() <= slot {
            tails.resize(slot + 1, [0; TAIL_LEN]);
        }
        tails[slot] = [0; TAIL_LEN];
        drop(tails);
        self.ring.receive(socket);
    }

    fn on_receive(&self, socket: SocketId, bytes: &[u8]) {
        let heads = {
            let mut tails = self.tails.borrow_mut();
            let Some(tail) = tails.get_mut(socket.slot() as usize) else { return };
            heads(tail, bytes)
        };
        let answer = &self.answer.0;
        for _ in 0..heads {
            if answer.len() > HEAD_LEN + INLINE_BODY_LEN_MAX {
                let source: Rc<dyn Source> = self.answer.clone();
                self.ring.send_source(
                    socket,
                    &answer[..HEAD_LEN],
                    source,
                    HEAD_LEN as u64..answer.len() as u64,
                );
                continue;
            }
            self.ring.send_with(socket, answer.len(), |out| {
                out[..answer.len()].copy_from_slice(answer);
                answer.len()
            });
        }
    }

    fn on_receive_end(&self, socket: SocketId, _: ReceiveEnd) {
        self.ring.close(socket, Close::Linger(Duration::from_secs(1)));
    }
}

/// Returns how many heads end within `bytes`, given what came before them, and keeps what may be the start of an end.
fn heads(tail: &mut [u8; TAIL_LEN], bytes: &[u8]) -> usize {
    // The usual case: one whole head, nothing before it.
    if *tail == [0; TAIL_LEN] && bytes.ends_with(b"\r\n\r\n") && bytes.len() < 1024 {
        let inner = &bytes[..bytes.len() - 1];
        if !inner.windows(4).any(|four| four == b"\r\n\r\n") {
            return 1;
        }
    }
    let joined = [tail.as_slice(), bytes].concat();
    let mut count = 0;
    let mut at = 0;
    while let Some(end) = joined[at..].windows(4).position(|four| four == b"\r\n\r\n") {
        count += 1;
        at += end + 4;
    }
    let rest = &joined[at..];
    *tail = [0; TAIL_LEN];
    let kept = rest.len().min(TAIL_LEN);
    tail[TAIL_LEN - kept..].copy_from_slice(&rest[rest.len() - kept..]);
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_as_long_as_it_says() {
        let answer = answer(1024);
        assert_eq!(answer.len(), HEAD_LEN + 1024);
        assert_eq!(&answer[HEAD_LEN - 4..HEAD_LEN], b"\r\n\r\n");
    }

    #[test]
    fn heads_are_counted_at_any_split() {
        let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        for split in 0..=bytes.len() {
            let mut tail = [0; TAIL_LEN];
            let count = heads(&mut tail, &bytes[..split]) + heads(&mut tail, &bytes[split..]);
            assert_eq!(count, 2, "split at {split}");
        }
    }
}
