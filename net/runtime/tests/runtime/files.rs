//! Reads and writes of files: what comes back at the end, after errors, and to nobody.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use aspis_runtime::{DiskFile, Elapsed, Ring};

use crate::harness::*;

/// A file that is removed with the test.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("aspis-runtime-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Temporary(path)
    }

    fn open(&self) -> OwnedFd {
        OpenOptions::new().read(true).write(true).open(&self.0).unwrap().into()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn what_was_written_is_read_from_its_place() {
    let core = TestCore::start(Hooks::default);
    let temporary = Temporary::new("places", &[]);
    let descriptor = temporary.open();
    core.block(move |ring| async move {
        let file = DiskFile::new(descriptor);
        for place in [3_u64, 0, 7, 1] {
            let (result, buffer) =
                ring.write_at(&file, place << 16, pattern(place, 1 << 16), 0..1 << 16).await;
            assert_eq!((result, buffer), (Ok(1 << 16), pattern(place, 1 << 16)));
        }
        // Several at once, into the middle of their buffers, of which the handle may be gone.
        for place in [7_u64, 3, 1, 0] {
            let (result, buffer) =
                ring.read_at(&file.clone(), place << 16, vec![9; 70_000], 100..65_636).await;
            assert_eq!(result, Ok(1 << 16));
            assert!(buffer[..100].iter().chain(&buffer[65_636..]).all(|byte| *byte == 9));
            assert!(buffer[100..65_636] == pattern(place, 1 << 16), "at {place}");
        }
    });
    assert_eq!(std::fs::read(&temporary.0).unwrap()[..1 << 16], pattern(0, 1 << 16));
}

/// A buffer that others hold too.
#[derive(Clone)]
struct Shared(Rc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[test]
fn a_shared_buffer_is_written_while_others_read_it() {
    let core = TestCore::start(Hooks::default);
    let temporary = Temporary::new("shared", &[]);
    let descriptor = temporary.open();
    core.block(move |ring| async move {
        let file = DiskFile::new(descriptor);
        let buffer = Shared(Rc::new(pattern(5, 1 << 16)));
        let write = ring.write_at(&file, 0, buffer.clone(), 4096..1 << 16);
        assert!(*buffer.0 == pattern(5, 1 << 16));
        let (result, back) = write.await;
        assert_eq!((result, Rc::strong_count(&back.0)), (Ok((1 << 16) - 4096), 2));
        assert!(*buffer.0 == pattern(5, 1 << 16));
    });
    assert!(std::fs::read(&temporary.0).unwrap() == pattern(5, 1 << 16)[4096..]);
}

#[test]
fn a_read_at_the_end_is_short_and_behind_it_empty() {
    let core = TestCore::start(Hooks::default);
    let temporary = Temporary::new("end", &pattern(1, 5000));
    let descriptor = temporary.open();
    core.block(move |ring| async move {
        let file = DiskFile::new(descriptor);
        let (result, buffer) = ring.read_at(&file, 4096, vec![0; 4096], 0..4096).await;
        assert_eq!(result, Ok(904));
        assert!(buffer[..904] == pattern(1, 5000)[4096..]);
        assert_eq!(ring.read_at(&file, 5000, vec![0; 16], 0..16).await.0, Ok(0));
        assert_eq!(ring.read_at(&file, 1 << 40, vec![0; 16], 0..16).await.0, Ok(0));
        // A range beyond the buffer is the buffer's.
        assert_eq!(ring.read_at(&file, 0, vec![0; 16], 8..99).await.0, Ok(8));
    });
}

#[test]
fn an_operation_that_the_descriptor_does_not_allow_fails_and_gives_the_buffer_back() {
    let core = TestCore::start(Hooks::default);
    let temporary = Temporary::new("modes", &pattern(1, 5000));
    let read_only: OwnedFd = File::open(&temporary.0).unwrap().into();
    let write_only: OwnedFd = OpenOptions::new().write(true).open(&temporary.0).unwrap().into();
    let full: OwnedFd = OpenOptions::new().write(true).open("/dev/full").unwrap().into();
    core.block(move |ring| async move {
        let read_only = DiskFile::new(read_only);
        let (result, buffer) = ring.write_at(&read_only, 0, vec![3; 100], 0..100).await;
        assert_eq!((result, buffer), (Err(libc::EBADF), vec![3; 100]));
        let (result, buffer) = ring.read_at(&DiskFile::new(write_only), 0, vec![3; 100], 0..100).await;
        assert_eq!((result, buffer), (Err(libc::EBADF), vec![3; 100]));
        let (result, _) = ring.write_at(&DiskFile::new(full), 0, vec![3; 100], 0..100).await;
        assert_eq!(result, Err(libc::ENOSPC));
        assert_eq!(ring.read_at(&read_only, 0, vec![0; 100], 0..100).await.0, Ok(100));
    });
    assert_eq!(std::fs::read(&temporary.0).unwrap(), pattern(1, 5000));
}

/// A device that does not answer: a pipe that nobody writes to, which the ring reads as it reads a file.
fn silent() -> (DiskFile, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    (DiskFile::new(reader.into()), writer)
}

async fn give_up(ring: &Ring, file: &DiskFile) -> Rc<Cell<bool>> {
    let dropped = Rc::new(Cell::new(false));
    let buffer = Watched { bytes: vec![0; 4096].into(), dropped: dropped.clone() };
    let read = ring.read_at(file, u64::MAX, buffer, 0..4096);
    assert!(matches!(ring.timeout(Duration::from_millis(1), read).await, Err(Elapsed)));
    dropped
}

#[test]
fn abandoned_read_keeps_its_buffer_and_descriptor() {
    let core = TestCore::start(Hooks::default);
    core.block(|ring| async move {
        for _ in 0..20 {
            let (file, mut writer) = silent();
            let dropped = give_up(&ring, &file).await;
            drop(file);
            // The cancellation is not even submitted: the kernel may still write, so buffer and reading end live.
            assert!(!dropped.get(), "the slot holds the buffer");
            writer.write_all(b"late").expect("the slot holds the reading end");
            ring.sleep(Duration::from_millis(1)).await;
            assert!(dropped.get(), "the completion of the cancelled read frees it");
            assert!(writer.write_all(b"later").is_err(), "and closes the descriptor");
        }
    });
}

#[test]
fn abandoned_write_keeps_its_buffer() {
    let core = TestCore::start(Hooks::default);
    core.block(move |ring| async move {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&pattern(1, 1 << 16)).unwrap();
        // The pipe is full: this waits.
        let dropped = Rc::new(Cell::new(false));
        let buffer = Watched { bytes: pattern(2, 1 << 16).into(), dropped: dropped.clone() };
        let file = DiskFile::new(writer.into());
        let write = ring.write_at(&file, u64::MAX, buffer, 0..1 << 16);
        assert!(matches!(ring.timeout(Duration::from_millis(1), write).await, Err(Elapsed)));
        drop(file);
        assert!(!dropped.get(), "the slot holds the buffer");
        ring.sleep(Duration::from_millis(1)).await;
        assert!(dropped.get());
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert!(all == pattern(1, 1 << 16), "what was cancelled in time is not written");
    });
}

#[test]
fn a_core_stops_over_a_device_that_does_not_answer() {
    let core = TestCore::start(Hooks::default);
    let mut writer = core.call(|ring| {
        let ((file, writer), ring_again) = (silent(), ring.clone());
        ring.spawn(async move {
            let _ = ring_again.read_at(&file, u64::MAX, vec![0; 4096], 0..4096).await;
        });
        writer
    });
    core.call(|_| ());
    let started = Instant::now();
    core.stop();
    assert!(started.elapsed() < PATIENCE);
    assert!(writer.write_all(b"late").is_err(), "the file is closed");
}
