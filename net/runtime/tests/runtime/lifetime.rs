//! Who owns memory, descriptors and slots, and for how long.

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aspis_runtime::{Close, Elapsed, Peer, Ring, SocketId};

use crate::harness::*;

#[test]
fn abandoned_receive_keeps_its_buffer() {
    let core = TestCore::start(Hooks::default);
    let (socket, mut far) = core.adopt();
    core.block(move |ring| async move {
        for _ in 0..50 {
            let dropped = Rc::new(Cell::new(false));
            let buffer = Watched { bytes: vec![0; 4096].into(), dropped: dropped.clone() };
            let receive = ring.receive_into(socket, buffer, ..);
            let timed_out = ring.timeout(Duration::from_millis(1), receive).await;
            assert!(matches!(timed_out, Err(Elapsed)));
            // The future is gone and its cancellation is not even submitted: the kernel may still write.
            assert!(!dropped.get(), "the slot holds the buffer");
            ring.sleep(Duration::from_millis(1)).await;
            assert!(dropped.get(), "the completion of the cancelled receive frees it");
        }
        let (result, _) = {
            far.write_all(b"still alive").unwrap();
            ring.receive_into(socket, vec![0; 64], ..).await
        };
        assert_eq!(result, Ok(11));
    });
}

/// A closed socket's slot is used again only when nothing of its former user is in flight, under a new generation:
/// late bytes, late completions and stale ids never reach the next user.
#[test]
fn a_closed_slot_never_hits_a_stranger() {
    let foreign = Arc::new(AtomicUsize::new(0));
    let seen = foreign.clone();
    let core = TestCore::start(move || Hooks {
        receive: Box::new(move |_, _, bytes| {
            seen.fetch_add(bytes.iter().filter(|byte| **byte == b'!').count(), Ordering::Relaxed);
        }),
        ..Hooks::default()
    });
    let mut stale = Vec::new();
    for _ in 0..200 {
        let (old, mut far_old) = core.adopt();
        core.call(move |ring| {
            ring.receive(old);
            ring.send_with(old, 10, |out| out.len());
            ring.close(old, Close::Abort);
            assert!(!ring.send_with(old, 10, |_| unreachable!("it is closed")));
            assert_eq!(ring.live_sockets(), 1, "something is in flight: the descriptor is still open");
        });
        // Too late for the old socket, and never for the next one.
        let _ = far_old.write_all(b"!!!!");
        core.wait_until("the slot is free", |ring| ring.live_sockets() == 0);
        let (next, mut far_next) = core.adopt();
        assert!(next != old && next.slot() == old.slot(), "{next:?} follows {old:?}");
        stale.push(old);
        let ids = stale.clone();
        core.call(move |ring| {
            for old in ids {
                ring.close(old, Close::Reset);
                ring.pause_receive(old);
                assert_eq!(ring.queued_len(old), 0);
                assert!(!ring.send_owned(old, vec![b'!']));
            }
            ring.receive(next);
            ring.send_owned(next, b"mine".to_vec());
        });
        far_next.write_all(b"????").unwrap();
        let mut got = [0; 4];
        far_next.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"mine");
        core.call(move |ring| ring.close(next, Close::Abort));
        core.wait_until("the next is closed", |ring| ring.live_sockets() == 0);
    }
    assert_eq!(foreign.load(Ordering::Relaxed), 0);
}

/// Closing in the turn that composed a response drops it without touching freed memory or another's bytes.
#[test]
fn an_abort_in_the_turn_of_a_send_drops_it() {
    let core = TestCore::start(Hooks::default);
    let (socket, mut far) = core.adopt();
    core.call(move |ring| {
        ring.send_with(socket, 10, |out| out.len());
        ring.send_owned(socket, vec![0; 1000]);
        ring.close(socket, Close::Abort);
    });
    assert_eq!(far.read(&mut [0; 10]).unwrap(), 0);
    core.wait_until("the socket is gone", |ring| ring.live_sockets() == 0);
}

/// A core that stops with everything in flight closes its sockets, drops its tasks and frees its memory.
#[test]
fn a_stopped_core_leaves_nothing_behind() {
    struct Flag(Arc<AtomicBool>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (task_gone, handler_gone) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let in_handler = Flag(handler_gone.clone());
    let core = TestCore::start(move || Hooks {
        timer: Box::new(move |_, _| {
            let _ = &in_handler;
        }),
        ..Hooks::default()
    });
    let address = core.listen();
    let (reading, mut far_reading) = core.adopt();
    let (waiting, mut far_waiting) = core.adopt();
    let (sending, mut far_sending) = core.adopt();
    let in_task = Flag(task_gone.clone());
    core.call(move |ring| {
        ring.receive(reading);
        ring.send_owned(sending, vec![0; 8_000_000]);
        ring.arm_timer(Duration::from_secs(1000), 1);
        let ring_again = ring.clone();
        ring.spawn(async move {
            let _flag = in_task;
            let (result, _) = ring_again.receive_into(waiting, vec![0; 100], ..).await;
            assert_eq!(result, Err(libc::ECANCELED));
            ring_again.sleep(Duration::from_secs(1000)).await;
        });
    });
    let _client = connect(address);
    core.stop();
    assert!(task_gone.load(Ordering::Relaxed) && handler_gone.load(Ordering::Relaxed));
    assert_eq!(far_reading.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(far_waiting.read(&mut [0; 8]).unwrap(), 0);
    assert!(far_sending.read_to_end(&mut Vec::new()).unwrap() < 8_000_000);
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
}

/// What one core accepted another can serve: bytes that were sent before and after it moved arrive there, in order.
#[test]
fn a_released_socket_goes_on_at_another_core() {
    let (hand_over, handed_over) = std::sync::mpsc::channel();
    let first = TestCore::start(move || Hooks {
        accept: Box::new(move |ring, (_, socket, peer)| {
            let released = ring.release(socket).map(|descriptor| (descriptor, peer));
            assert!(ring.peer(socket).is_none() && ring.release(socket).is_none(), "the id is dead");
            assert_eq!(ring.live_sockets(), 0);
            hand_over.send(released.expect("nothing was started on it")).unwrap();
        }),
        ..Hooks::default()
    });
    let second = TestCore::start(|| Hooks {
        receive: Box::new(|ring, socket, bytes| {
            ring.send_owned(socket, bytes.to_vec());
        }),
        ..Hooks::default()
    });
    let address = first.listen();
    for _ in 0..20 {
        let mut far = connect(address);
        far.write_all(b"early ").unwrap();
        let (descriptor, peer) = handed_over.recv_timeout(PATIENCE).expect("it is accepted");
        assert_eq!(peer, Peer::Inet(far.local_addr().unwrap()));
        second.call(move |ring| {
            let socket = ring.adopt(descriptor, peer);
            assert_eq!((ring.peer(socket), ring.local_address(socket)), (Some(peer), Some(address)));
            ring.receive(socket);
        });
        let mut early = [0; 6];
        far.read_exact(&mut early).unwrap();
        assert_eq!(&early, b"early ");
        assert_eq!(round_trip(&mut far, b"late"), b"late");
    }
    first.stop();
    assert_eq!(
        second.call(|ring| ring.live_sockets()),
        20,
        "they live on without the core that accepted them"
    );
}

/// A descriptor never leaves a ring that may still use it or that knows more about it than its next owner would.
#[test]
fn a_socket_in_use_is_not_released() {
    let (tell, ended) = std::sync::mpsc::channel();
    let core = TestCore::start(move || Hooks {
        end: Box::new(move |_, (socket, _)| tell.send(socket).unwrap()),
        ..Hooks::default()
    });
    let check = |what: &'static str, start: fn(&Ring, SocketId)| {
        let (socket, _far) = core.adopt();
        core.call(move |ring| {
            start(ring, socket);
            assert!(ring.release(socket).is_none(), "{what}");
            ring.close(socket, Close::Abort);
        });
    };
    check("a receive is in flight", |ring, socket| ring.receive(socket));
    check("a receive is being cancelled", |ring, socket| {
        ring.receive(socket);
        ring.pause_receive(socket);
    });
    check("a composed send is queued", |ring, socket| assert!(ring.send_with(socket, 10, |out| out.len())));
    check("an owned send is queued", |ring, socket| assert!(ring.send_owned(socket, vec![0; 10])));
    check("it lingers", |ring, socket| ring.close(socket, Close::Linger(Duration::from_secs(9))));
    check("it is closed", |ring, socket| ring.close(socket, Close::Abort));
    let (socket, far) = core.adopt();
    drop(far);
    core.call(move |ring| ring.receive(socket));
    while ended.recv_timeout(PATIENCE).expect("the end is seen") != socket {}
    core.call(move |ring| {
        assert!(ring.release(socket).is_none(), "the next owner would wait for the end");
        ring.close(socket, Close::Abort);
    });
    // At rest again, it can go.
    let (socket, mut far) = core.adopt();
    core.block(move |ring| async move {
        assert!(ring.send_owned(socket, b"done".to_vec()));
        ring.flush(socket).await.unwrap();
        let mut descriptor =
            std::os::unix::net::UnixStream::from(ring.release(socket).expect("it is at rest"));
        descriptor.write_all(b" and gone").unwrap();
    });
    let mut all = Vec::new();
    far.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"done and gone");
}
