//! Backpressure, ends and futures of receives; listeners.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use aspis_runtime::{Close, CoreOptions, Elapsed, Peer, Quiet, ReceiveEnd, bind};

use crate::harness::*;

/// A paused socket leaves the bytes with the peer; what had been received already is bounded by the ring's buffers.
#[test]
fn a_paused_receive_bounds_what_is_taken() {
    let options =
        CoreOptions { receive_buffer_count: 16, receive_buffer_len: 4096, ..CoreOptions::default() };
    let core = TestCore::with_options(options, || {
        let mut paused_once = false;
        Hooks {
            receive: Box::new(move |ring, socket, _| {
                if !std::mem::replace(&mut paused_once, true) {
                    ring.pause_receive(socket);
                }
            }),
            ..Hooks::default()
        }
    });
    let (socket, mut far) = core.adopt();
    core.call(move |ring| ring.receive(socket));
    far.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut written = 0;
    loop {
        match far.write(&[1; 4096]) {
            Ok(len) => written += len as u64,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
        assert!(written < 64 * 1024 * 1024, "nothing holds the writer back");
    }
    let taken = core.call(|ring| ring.stats().received_len);
    assert!(taken > 0 && taken <= 16 * 4096, "{taken} bytes were taken");
    core.call(move |ring| ring.receive(socket));
    core.wait_until("the rest is read", move |ring| ring.stats().received_len == written);
}

/// However much is there, one piece comes for each time that it is asked for; the multishot receive takes over where it is wanted again.
#[test]
fn one_piece_is_received_at_a_time() {
    const PIECE: u32 = 4096;
    let options =
        CoreOptions { receive_buffer_count: 16, receive_buffer_len: PIECE, ..CoreOptions::default() };
    let core = TestCore::with_options(options, Hooks::default);
    let (socket, mut far) = core.adopt();
    far.write_all(&[1; 10 * PIECE as usize]).unwrap();
    for count in 1..=4 {
        core.call(move |ring| {
            ring.receive_once(socket);
            ring.receive_once(socket);
        });
        core.wait_until("a piece came", move |ring| ring.stats().received_len == count * u64::from(PIECE));
        pause(Duration::from_millis(5));
        assert_eq!(core.call(|ring| ring.stats().received_len), count * u64::from(PIECE));
    }
    core.call(move |ring| {
        ring.receive_once(socket);
        ring.receive(socket);
    });
    core.wait_until("the rest is read", |ring| ring.stats().received_len == 10 * u64::from(PIECE));
}

/// Pausing and resuming within one turn, and far fewer buffers than are needed, loses nothing.
#[test]
fn bytes_survive_pauses_and_a_shortage_of_buffers() {
    let options = CoreOptions { receive_buffer_count: 2, receive_buffer_len: 512, ..CoreOptions::default() };
    let (told, hear) = mpsc::channel();
    let core = TestCore::with_options(options, move || {
        let got = RefCell::new(Vec::new());
        Hooks {
            receive: Box::new(move |ring, socket, bytes| {
                let mut got = got.borrow_mut();
                got.extend_from_slice(bytes);
                if got.len() % 3 == 0 {
                    ring.pause_receive(socket);
                    ring.receive(socket);
                } else if got.len() % 5 == 0 {
                    ring.pause_receive(socket);
                    ring.arm_timer(Duration::ZERO, 0);
                }
                if got.len() == 400_000 {
                    told.send(got.clone()).unwrap();
                }
            }),
            ..Hooks::default()
        }
    });
    let (socket, mut far) = core.adopt();
    core.call(move |ring| {
        ring.receive(socket);
        let ring_again = ring.clone();
        ring.spawn(async move {
            loop {
                ring_again.sleep(Duration::from_millis(1)).await;
                ring_again.receive(socket);
            }
        });
    });
    let bytes = pattern(11, 400_000);
    far.write_all(&bytes).unwrap();
    assert!(hear.recv_timeout(PATIENCE).unwrap() == bytes);
}

#[test]
fn ends_and_resets_are_told_apart() {
    let (told, hear) = mpsc::channel();
    let core = TestCore::start(move || Hooks {
        end: Box::new(move |ring, (socket, end)| {
            told.send(end).unwrap();
            ring.close(socket, Close::Abort);
        }),
        ..Hooks::default()
    });
    let address = core.listen();
    connect(address).shutdown(Shutdown::Write).unwrap();
    assert_eq!(hear.recv_timeout(PATIENCE), Ok(ReceiveEnd::Eof));
    // Our own reset comes from a second core's socket.
    let other = TestCore::start(Hooks::default);
    other.block(move |ring| async move {
        let socket = ring.connect(address).await.unwrap();
        ring.sleep(Duration::from_millis(20)).await;
        ring.close(socket, Close::Reset);
    });
    assert_eq!(hear.recv_timeout(PATIENCE), Ok(ReceiveEnd::Error(libc::ECONNRESET)));
}

#[test]
fn a_receive_into_a_buffer_fills_the_range_asked_for() {
    let core = TestCore::start(Hooks::default);
    let (socket, mut far) = core.adopt();
    far.write_all(b"0123456789").unwrap();
    core.block(move |ring| async move {
        let (result, buffer) = ring.receive_into(socket, vec![b'.'; 8], 2..5).await;
        assert_eq!((result, buffer.as_slice()), (Ok(3), b"..012...".as_slice()));
        let (result, buffer) = ring.receive_into(socket, [b'.'; 16], ..).await;
        assert_eq!((result, &buffer[..7]), (Ok(7), b"3456789".as_slice()));
        ring.receive(socket);
        let (result, _) = ring.receive_into(socket, vec![0; 8], ..).await;
        assert_eq!(result, Err(libc::EBUSY), "not together with the multishot receive");
        ring.close(socket, Close::Abort);
        let (result, _) = ring.receive_into(socket, vec![0; 8], ..).await;
        assert_eq!(result, Err(libc::EBADF));
    });
    assert_eq!(far.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn connecting_tells_success_from_refusal() {
    let core = TestCore::start(Hooks::default);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = core.block(move |ring| async move { ring.connect(address).await.unwrap() });
    let (mut far, from) = listener.accept().unwrap();
    assert_eq!(core.call(move |ring| ring.local_address(socket)), Some(from));
    assert_eq!(core.call(move |ring| ring.peer(socket)), Some(Peer::Inet(address)));
    assert_eq!(core.call(move |ring| ring.is_quiet(socket)), Quiet::Yes);
    far.write_all(b"x").unwrap();
    core.wait_until("a byte waits", move |ring| ring.is_quiet(socket) == Quiet::Readable);
    core.call(move |ring| ring.close(socket, Close::Abort));
    assert_eq!(core.call(move |ring| ring.is_quiet(socket)), Quiet::Closed);
    drop(listener);
    let refused = core.block(move |ring| async move { ring.connect(address).await });
    assert_eq!(refused, Err(libc::ECONNREFUSED));
    core.wait_until("no socket is left", |ring| ring.live_sockets() == 0);
}

/// A connect that nobody answers is given up, and its socket with it.
#[test]
fn a_connect_that_times_out_leaves_no_socket() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    shrink_backlog(&listener);
    let address = listener.local_addr().unwrap();
    let core = TestCore::start(Hooks::default);
    core.block(move |ring| async move {
        // The backlog takes one or two; what comes after them hangs.
        let mut connected = Vec::new();
        loop {
            match ring.timeout(Duration::from_millis(100), ring.connect(address)).await {
                Ok(socket) => connected.push(socket.unwrap()),
                Err(Elapsed) => break,
            }
            assert!(connected.len() < 10);
        }
        connected.into_iter().for_each(|socket| ring.close(socket, Close::Abort));
    });
    core.wait_until("no socket is left", |ring| ring.live_sockets() == 0);
}

#[test]
fn a_stopped_listener_refuses_and_its_connections_live_on() {
    let core = TestCore::start(|| Hooks {
        receive: Box::new(|ring, socket, bytes| {
            let bytes = bytes.to_vec();
            ring.send_owned(socket, bytes);
        }),
        ..Hooks::default()
    });
    let listener = bind::tcp("127.0.0.1:0".parse().unwrap(), true).unwrap();
    let address = bind::local_address(&listener).unwrap();
    let id = core.call(move |ring| ring.listen(listener));
    let mut client = connect(address);
    assert_eq!(round_trip(&mut client, b"before"), b"before");
    core.call(move |ring| ring.stop_listening(id));
    core.wait_until("the listener is closed", move |ring| ring.live_listeners() == 0);
    assert!(std::net::TcpStream::connect(address).is_err());
    assert_eq!(round_trip(&mut client, b"after"), b"after");
}

#[test]
fn a_unix_listener_accepts() {
    let path = std::env::temp_dir().join(format!("aspis-runtime-{}.sock", std::process::id()));
    let (told, hear) = mpsc::channel();
    let core = TestCore::start(move || Hooks {
        accept: Box::new(move |_, (_, _, peer)| told.send(peer).unwrap()),
        ..Hooks::default()
    });
    let listener = bind::unix(&path).unwrap();
    core.call(move |ring| ring.listen(listener));
    let _client = UnixStream::connect(&path).unwrap();
    assert_eq!(hear.recv_timeout(PATIENCE), Ok(Peer::Unix));
    std::fs::remove_file(&path).unwrap();
}
