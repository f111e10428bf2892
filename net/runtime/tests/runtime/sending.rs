//! Order, completeness and ends of sends.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use aspis_runtime::{Close, Piece, Source};

use crate::harness::*;

/// A body in blocks, as an arena would hold it.
struct Blocks(Vec<Vec<u8>>);

impl Blocks {
    fn new(seed: u64, len: usize, block_len: usize) -> Rc<Self> {
        Rc::new(Blocks(pattern(seed, len).chunks(block_len).map(<[u8]>::to_vec).collect()))
    }
}

impl Source for Blocks {
    fn piece(&self, at: u64) -> Piece<'_> {
        let block_len = self.0[0].len() as u64;
        let block = self.0.get((at / block_len) as usize);
        block.map_or(&[][..], |block| &block[(at % block_len) as usize..]).into()
    }
}

fn echo() -> Hooks {
    let receive = |ring: &aspis_runtime::Ring, socket, bytes: &[u8]| {
        assert!(ring.send_with(socket, bytes.len(), |out| {
            out.copy_from_slice(bytes);
            bytes.len()
        }));
    };
    Hooks {
        receive: Box::new(receive),
        end: Box::new(|ring, (socket, _)| ring.close(socket, Close::Abort)),
        ..Hooks::default()
    }
}

#[test]
fn what_comes_in_goes_out_again() {
    let core = TestCore::start(echo);
    let address = core.listen();
    let mut clients: Vec<_> = (0..20).map(|_| connect(address)).collect();
    for round in 0..20 {
        for (index, client) in clients.iter_mut().enumerate() {
            let bytes = pattern(round * 100 + index as u64, 1 + index * 700);
            assert_eq!(round_trip(client, &bytes), bytes);
        }
    }
    let stats = core.call(|ring| ring.stats());
    assert!(stats.accepts == 20 && stats.turn_sends >= 400, "{stats:?}");
    drop(clients);
    core.wait_until("all sockets are closed", |ring| ring.live_sockets() == 0);
}

/// A reader that does not read: a small send meets a full socket, goes on from memory of its own, and what is sent
/// after it stays behind it.
#[test]
fn small_sends_to_a_full_socket_go_on_in_order() {
    const LEN: usize = 100_000;
    let core = TestCore::start(Hooks::default);
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let to = address.local_addr().unwrap();
    let socket = core.block(move |ring| async move { ring.connect(to).await.unwrap() });
    let (mut client, _) = address.accept().unwrap();
    shrink_receive_buffer(&client);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let count = core.block(move |ring| async move {
        let mut seed = 0;
        // Some more after the first that did not fit.
        let mut after = 0;
        while after < 10 {
            assert!(ring.send_with(socket, LEN, |out| {
                out.copy_from_slice(&pattern(seed, LEN));
                LEN
            }));
            seed += 1;
            after += u32::from(ring.stats().resumed_sends > 0);
            ring.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(ring.stats().resumed_sends, 1);
        assert!(ring.queued_len(socket) > 9 * LEN as u64);
        seed
    });
    for seed in 0..count {
        let mut got = vec![0; LEN];
        client.read_exact(&mut got).unwrap();
        assert!(got == pattern(seed, LEN), "send {seed} of {count} differs");
    }
    core.wait_until("everything is sent", move |ring| ring.queued_len(socket) == 0);
}

/// Calls for one socket that follow each other directly become one send; others keep their order.
#[test]
fn adjacent_small_sends_become_one() {
    let core = TestCore::start(Hooks::default);
    let ((one, mut far_one), (two, mut far_two)) = (core.adopt(), core.adopt());
    core.call(move |ring| {
        let put = |socket, text: &str| {
            assert!(ring.send_with(socket, 100, |out| {
                out[..text.len()].copy_from_slice(text.as_bytes());
                text.len()
            }));
        };
        put(one, "a");
        put(one, "b");
        put(two, "c");
        put(one, "d");
        put(two, "e");
        put(two, "");
        assert_eq!((ring.queued_len(one), ring.queued_len(two), ring.stats().turn_sends), (3, 2, 2));
    });
    let (mut got_one, mut got_two) = ([0; 3], [0; 2]);
    far_one.read_exact(&mut got_one).unwrap();
    far_two.read_exact(&mut got_two).unwrap();
    assert_eq!((&got_one, &got_two), (b"abd", b"ce"));
    core.wait_until("everything is sent", move |ring| ring.queued_len(one) + ring.queued_len(two) == 0);
}

#[test]
fn bodies_to_a_stalled_reader_arrive_whole_and_in_order() {
    const LEN: usize = 1024 * 1024;
    let core = TestCore::start(|| Hooks {
        receive: Box::new(|ring, socket, bytes| {
            for request in bytes {
                let seed = u64::from(*request);
                let head = format!("head {seed:04} ");
                assert!(ring.send_with(socket, 64, |out| {
                    out[..5].copy_from_slice(b"small");
                    5
                }));
                // Blocks of odd lengths, some shorter and some longer than one gather send.
                let blocks = Blocks::new(seed, LEN, [777, 4096, 65_537, 300_000][(seed % 4) as usize]);
                assert!(ring.send_source(socket, head.as_bytes(), blocks, 3..LEN as u64 - 5));
                assert!(ring.send_owned(socket, b"owned".to_vec()));
            }
        }),
        ..Hooks::default()
    });
    let mut client = connect(core.listen());
    shrink_receive_buffer(&client);
    client.write_all(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    core.wait_until("the first body is on its way", |ring| ring.stats().gather_sends > 0);
    for seed in 1..=8_u64 {
        let mut whole = format!("smallhead {seed:04} ").into_bytes();
        whole.extend_from_slice(&pattern(seed, LEN)[3..LEN - 5]);
        whole.extend_from_slice(b"owned");
        let mut got = vec![0; whole.len()];
        client.read_exact(&mut got).unwrap();
        assert!(got == whole, "response {seed} differs");
    }
    client.shutdown(Shutdown::Write).unwrap();
}

/// The bytes of a source stay alive until the kernel is done with them, though its owner dropped it long ago.
#[test]
fn a_source_is_dropped_after_its_last_byte_left() {
    struct Watched(Rc<Blocks>, Rc<Cell<bool>>);
    impl Source for Watched {
        fn piece(&self, at: u64) -> Piece<'_> {
            self.0.piece(at)
        }
    }
    impl Drop for Watched {
        fn drop(&mut self) {
            self.1.set(true);
        }
    }
    let core = TestCore::start(Hooks::default);
    let (socket, mut far) = core.adopt();
    let reading = core.block(move |ring| async move {
        let dropped = Rc::new(Cell::new(false));
        let watched = Rc::new(Watched(Blocks::new(9, 4_000_000, 65_536), dropped.clone()));
        assert!(ring.send_source(socket, b"", watched, 0..4_000_000));
        ring.sleep(Duration::from_millis(20)).await;
        assert!(!dropped.get() && ring.queued_len(socket) > 0, "nobody has read yet");
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; 4_000_000];
            far.read_exact(&mut got).unwrap();
            got
        });
        ring.flush(socket).await.unwrap();
        ring.sleep(Duration::from_millis(1)).await;
        assert!(dropped.get());
        reader
    });
    assert!(reading.join().unwrap() == pattern(9, 4_000_000));
}

#[test]
fn a_source_that_ends_early_fails_the_send() {
    let core = TestCore::start(Hooks::default);
    let (socket, mut far) = core.adopt();
    let result = core.block(move |ring| async move {
        let blocks = Blocks::new(1, 1000, 1000);
        assert!(ring.send_source(socket, b"", blocks, 0..5000));
        let result = ring.flush(socket).await;
        assert!(!ring.send_with(socket, 1, |_| unreachable!("sending failed before")));
        ring.close(socket, Close::Reset);
        result
    });
    assert_eq!(result, Err(libc::EPIPE));
    let mut got = Vec::new();
    far.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 1000);
}

#[test]
fn the_handler_hears_of_an_empty_queue_once_and_of_a_broken_one() {
    let (told, hear) = std::sync::mpsc::channel();
    let core = TestCore::start(move || Hooks {
        sent: Box::new(move |_, (_, result)| told.send(result).unwrap()),
        ..Hooks::default()
    });
    let (socket, mut far) = core.adopt();
    core.call(move |ring| {
        ring.send_owned(socket, vec![1; 1000]);
        ring.notify_sent(socket);
        ring.notify_sent(socket);
    });
    assert_eq!(hear.recv_timeout(PATIENCE), Ok(Ok(())));
    far.read_exact(&mut [0; 1000]).unwrap();
    // Asked with nothing queued, it answers in the same turn.
    core.call(move |ring| ring.notify_sent(socket));
    assert_eq!(hear.recv_timeout(PATIENCE), Ok(Ok(())));
    drop(far);
    core.call(move |ring| {
        ring.send_owned(socket, vec![1; 1000]);
        ring.notify_sent(socket);
    });
    assert_eq!(hear.recv_timeout(PATIENCE), Ok(Err(libc::EPIPE)));
    assert!(hear.try_recv().is_err(), "nothing is told that was not asked for");
}

/// The peer is still sending when the last response goes out; it must get it all and then the end.
#[test]
fn linger_delivers_the_last_response_to_a_client_that_is_still_sending() {
    let core = TestCore::start(|| Hooks {
        receive: Box::new(|ring, socket, _| {
            ring.send_with(socket, 100, |out| {
                out[..9].copy_from_slice(b"too large");
                9
            });
            ring.close(socket, Close::Linger(Duration::from_secs(5)));
        }),
        ..Hooks::default()
    });
    let mut client = connect(core.listen());
    for _ in 0..50 {
        client.write_all(&[0; 16 * 1024]).unwrap();
    }
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).expect("no reset overtakes the answer");
    assert_eq!(answer, b"too large");
    drop(client);
    core.wait_until("the socket is closed after the client", |ring| ring.live_sockets() == 0);
}

#[test]
fn linger_sends_what_is_queued_and_gives_up_on_a_reader_without_progress() {
    let core = TestCore::start(Hooks::default);
    let (slow, mut far_slow) = core.adopt();
    core.call(move |ring| {
        ring.send_source(slow, b"", Blocks::new(3, 3_000_000, 4096), 0..3_000_000);
        ring.close(slow, Close::Linger(Duration::from_secs(10)));
        assert!(!ring.send_owned(slow, vec![1]), "a closed socket takes nothing more");
    });
    let mut got = Vec::new();
    far_slow.read_to_end(&mut got).unwrap();
    assert!(got == pattern(3, 3_000_000));
    drop(far_slow);
    let (stuck, _far_stuck) = core.adopt();
    core.call(move |ring| {
        ring.send_owned(stuck, vec![1; 3_000_000]);
        ring.close(stuck, Close::Linger(Duration::from_millis(50)));
    });
    core.wait_until("the stuck socket is cut", |ring| ring.live_sockets() == 0);
}

/// A sender that never stops is read for a bounded number of bytes only.
#[test]
fn linger_reads_a_bounded_number_of_bytes() {
    let core = TestCore::start(|| Hooks {
        receive: Box::new(|ring, socket, _| ring.close(socket, Close::Linger(Duration::from_secs(600)))),
        ..Hooks::default()
    });
    let mut client = connect(core.listen());
    let mut written = 0;
    while client.write_all(&[0; 64 * 1024]).is_ok() {
        written += 64 * 1024;
        assert!(written < 64 * aspis_runtime::limits::LINGER_DRAIN_LEN_MAX, "it is read for ever");
    }
    core.wait_until("the socket is closed", |ring| ring.live_sockets() == 0);
}
