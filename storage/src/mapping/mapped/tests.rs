use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::*;
use crate::budget::Budget;

const LEN: usize = 64 * 1024;
const SEGMENT: u32 = 1;

/// A file of two segments that is removed in the end, and its mapping.
struct Scratch {
    path: PathBuf,
    map: Arc<VolumeMap>,
}

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("aspis-mapped-{name}-{}", std::process::id()));
        let bytes: Vec<u8> = (0..LEN).map(|at| (at / 100) as u8).collect();
        std::fs::write(&path, bytes).unwrap();
        let file = std::fs::OpenOptions::new().read(true).open(&path).unwrap();
        let gates = Gates::new(2, &Budget::new(1 << 20)).unwrap();
        let map = Arc::new(VolumeMap::new(file.into(), LEN as u64, gates).unwrap());
        Scratch { path, map }
    }

    fn body(&self, range: Range<u64>) -> Option<Arc<MappedBody>> {
        let life = self.map.gates().life(SEGMENT)?;
        MappedBody::new(&self.map, (SEGMENT, life), range, 0)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What the kernel reads, as a send of it does.
fn written(lease: &Lease, at: u64) -> io::Result<Vec<u8>> {
    let (near, far) = UnixStream::pair()?;
    let piece = lease.piece(at);
    // SAFETY: of the test alone: the slice is handed to a system call, which reports what it cannot read.
    let bytes = unsafe { std::slice::from_raw_parts(piece.as_ptr().cast::<u8>(), piece.len()) };
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut got = Vec::new();
            (&far).read_to_end(&mut got).map(|_| got)
        });
        let mut done = 0;
        while done < bytes.len() {
            done += (&near).write_vectored(&[IoSlice::new(&bytes[done..])]).inspect_err(|_| {
                let _ = near.shutdown(Shutdown::Both);
            })?;
        }
        near.shutdown(Shutdown::Both)?;
        reader.join().unwrap()
    })
}

#[test]
fn the_kernel_reads_what_is_in_the_file() {
    let scratch = Scratch::new("read");
    let body = scratch.body(10_000..40_000).unwrap();
    assert_eq!((body.len(), scratch.map.mapped_len()), (30_000, 30_000));
    let lease = body.lease().unwrap();
    let expected: Vec<u8> = (10_100..40_000).map(|at| (at / 100) as u8).collect();
    assert!(written(&lease, 100).unwrap() == expected);
    assert!(lease.piece(30_000).is_empty() && lease.piece(u64::MAX).is_empty());
    drop((lease, body));
    assert_eq!(scratch.map.mapped_len(), 0);
}

#[test]
fn what_is_not_in_the_file_is_no_body() {
    let scratch = Scratch::new("outside");
    for range in [0..LEN as u64 + 1, 5..5, u64::MAX - 1..u64::MAX] {
        assert!(scratch.body(range).is_none());
    }
    scratch.map.gates().close(SEGMENT);
    assert!(scratch.body(0..10).is_none(), "nothing is made in a segment that is about to go");
}

#[test]
fn a_file_that_is_cut_short_is_a_failed_call() {
    let scratch = Scratch::new("cut");
    let body = scratch.body(0..LEN as u64).unwrap();
    let lease = body.lease().unwrap();
    assert_eq!((written(&lease, 0).unwrap().len(), scratch.map.mapped_len()), (LEN, LEN as u64));
    std::fs::OpenOptions::new().write(true).open(&scratch.path).unwrap().set_len(8192).unwrap();
    // EFAULT, and no signal; what can be read before it may have been sent.
    let error = written(&lease, 8192).unwrap_err();
    assert_ne!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(error.raw_os_error(), Some(14), "{error}");
    assert!(scratch.map.take_faults().is_none());
    lease.unreadable();
    assert!(!body.is_there(0, |_, _| true), "it is not found again");
    assert_eq!(scratch.map.mapped_len(), 0, "it takes nobody's place, whoever holds it");
    assert!(scratch.body(0..10).is_none(), "nor is anything beside it");
    assert_eq!((scratch.map.take_faults(), scratch.map.take_faults()), (Some((1, SEGMENT)), None));
}

#[test]
fn a_segment_is_kept_while_the_kernel_reads_it() {
    let scratch = Scratch::new("lease");
    let body = scratch.body(0..1000).unwrap();
    let lease = body.lease().unwrap();
    scratch.map.gates().close(SEGMENT);
    assert!(!scratch.map.gates().retire(SEGMENT) && !body.is_there(0, |_, _| true));
    drop(lease);
    assert!(scratch.map.gates().retire(SEGMENT));
    assert!(body.lease().is_none() && !body.is_there(0, |_, _| true), "its bytes are others now");
}

#[test]
fn residence_is_asked_now_and_then_and_once_gone_is_gone() {
    let scratch = Scratch::new("asked");
    let body = scratch.body(0..1000).unwrap();
    assert!(body.is_there(RESIDENCE_ASKED_MILLIS - 1, |_, _| unreachable!("it was just asked")));
    let mut asked = 0;
    assert!(body.is_there(RESIDENCE_ASKED_MILLIS, |_, range| {
        asked += 1;
        *range == (0..1000)
    }));
    assert!(body.is_there(RESIDENCE_ASKED_MILLIS + 1, |_, _| unreachable!("it was just asked")));
    // The clock of a core that began later.
    assert!(!body.is_there(1, |_, _| false));
    assert!(asked == 1 && !body.is_there(RESIDENCE_ASKED_MILLIS + 2, |_, _| unreachable!("it is gone")));
}
