use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::invalidations::limits::{PACE, PACE_BURST};

/// A disk that fails as it is told, and holds the thread until the test lets it go.
#[derive(Clone, Default)]
struct Faulty(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    file: Vec<u8>,
    syncs: usize,
    append_fails: bool,
    replace_fails: bool,
}

impl Disk for Faulty {
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let mut state = self.0.lock().expect("no panic");
        if state.append_fails {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.file.extend_from_slice(bytes);
        state.syncs += 1;
        Ok(state.file.len() as u64)
    }

    fn replace(&mut self, header: &[u8], parts: &[Arc<[u8]>]) -> io::Result<u64> {
        let mut state = self.0.lock().expect("no panic");
        if state.replace_fails {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.file = [header, &parts.concat()].concat();
        Ok(state.file.len() as u64)
    }
}

impl Faulty {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().expect("no panic"));
    }
}

fn start(disk: impl Disk + 'static) -> (LogThread, mpsc::UnboundedReceiver<Told>) {
    let (tell, told) = mpsc::unbounded_channel();
    (LogThread::start(disk, tell).expect("a thread"), told)
}

fn record(text: &str) -> Arc<[u8]> {
    text.as_bytes().into()
}

#[test]
fn what_is_synced_is_told_in_order() {
    let disk = Faulty::default();
    let (log, mut told) = start(disk.clone());
    for number in 1..=3 {
        log.append(number, record("abc"));
    }
    drop(log);
    let mut last = 0;
    while let Some(Told::Synced { up_to, log_len }) = told.blocking_recv() {
        assert!(up_to > last);
        last = up_to;
        assert_eq!(log_len, 3 * up_to);
    }
    assert_eq!(last, 3);
    disk.set(|state| assert_eq!(state.file, b"abcabcabc"));
}

/// Group commit: whatever waits while the disk is busy shares one sync.
#[test]
fn what_waits_shares_a_sync() {
    struct Slow {
        inner: Faulty,
        go_on: std::sync::mpsc::Receiver<()>,
        entered: Arc<AtomicUsize>,
    }
    impl Disk for Slow {
        fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
            self.entered.fetch_add(1, Ordering::SeqCst);
            self.go_on.recv().expect("the test lets it go on");
            self.inner.append(bytes)
        }
        fn replace(&mut self, header: &[u8], parts: &[Arc<[u8]>]) -> io::Result<u64> {
            self.inner.replace(header, parts)
        }
    }
    let (disk, entered) = (Faulty::default(), Arc::new(AtomicUsize::new(0)));
    let (let_go, go_on) = std::sync::mpsc::channel();
    let (log, mut told) = start(Slow { inner: disk.clone(), go_on, entered: Arc::clone(&entered) });
    log.append(1, record("x"));
    while entered.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    for number in 2..=1000 {
        log.append(number, record("x"));
    }
    let_go.send(()).expect("it waits");
    let_go.send(()).expect("it will");
    assert!(matches!(told.blocking_recv(), Some(Told::Synced { up_to: 1, .. })));
    assert!(matches!(told.blocking_recv(), Some(Told::Synced { up_to: 1000, .. })));
    drop(log);
    disk.set(|state| assert_eq!((state.syncs, state.file.len()), (2, 1000)));
}

/// A caller after the other, each of whom waits for his sync: the first ones have one at once, a stream has them at the pace.
#[test]
fn a_stream_is_synced_at_a_pace() {
    let disk = Faulty::default();
    let (log, mut told) = start(disk.clone());
    let began = Instant::now();
    let count = u64::from(PACE_BURST) + 5;
    for number in 1..=count {
        log.append(number, record("x"));
        assert!(matches!(told.blocking_recv(), Some(Told::Synced { up_to, .. }) if up_to == number));
    }
    // The credit is gone, so the last four of them came one pace after the other.
    assert!(began.elapsed() >= PACE * 4, "{:?}", began.elapsed());
    drop(log);
    disk.set(|state| assert_eq!(state.syncs as u64, count));
}

/// Disk full or EIO: nothing more is written to a file that cannot be trusted, until it was replaced.
#[test]
fn after_a_failure_only_a_replacement_helps() {
    let disk = Faulty::default();
    let (log, mut told) = start(disk.clone());
    disk.set(|state| (state.append_fails, state.replace_fails) = (true, true));
    log.append(1, record("lost"));
    let Some(Told::Failed { numbers, cause }) = told.blocking_recv() else { panic!("it failed") };
    assert_eq!(numbers, [1]);
    assert!(cause.contains("rules.log cannot be written") && cause.contains("no storage space"), "{cause}");
    // The disk would take it again, but what the file is now nobody knows.
    disk.set(|state| state.append_fails = false);
    log.append(2, record("lost too"));
    assert!(matches!(told.blocking_recv(), Some(Told::Failed { numbers, .. }) if numbers == [2]));
    log.rewrite(Header::default(), Vec::new());
    assert!(
        matches!(told.blocking_recv(), Some(Told::Rewritten(Err(cause))) if cause.contains("cannot be rewritten"))
    );
    disk.set(|state| state.replace_fails = false);
    log.rewrite(Header::default(), vec![record("kept")]);
    assert!(matches!(told.blocking_recv(), Some(Told::Rewritten(Ok(_)))));
    log.append(3, record("new"));
    assert!(matches!(told.blocking_recv(), Some(Told::Synced { up_to: 3, .. })));
    drop(log);
    disk.set(|state| assert!(state.file.ends_with(b"keptnew") && state.syncs == 1));
}

#[test]
fn appends_before_a_replacement_are_synced_first() {
    let disk = Faulty::default();
    let (log, mut told) = start(disk.clone());
    log.append(1, record("one"));
    log.rewrite(Header::default(), vec![record("one")]);
    log.append(2, record("two"));
    drop(log);
    assert!(matches!(told.blocking_recv(), Some(Told::Synced { up_to: 1, .. })));
    assert!(matches!(told.blocking_recv(), Some(Told::Rewritten(Ok(_)))));
    assert!(matches!(told.blocking_recv(), Some(Told::Synced { up_to: 2, .. })));
    disk.set(|state| assert!(state.file.ends_with(b"onetwo")));
}

#[test]
fn a_folder_belongs_to_one_process() {
    let path = std::env::temp_dir().join(format!("aspis-lock-{}", std::process::id()));
    let held = Folder::lock(&path).expect("a new folder");
    let error = Folder::lock(&path).expect_err("it is held");
    assert!(error.contains("another process uses this folder"), "{error}");
    drop(held);
    drop(Folder::lock(&path).expect("it was let go"));
    assert!(
        Folder::lock(Path::new("/proc/none")).expect_err("no folders there").contains("--state /proc/none")
    );
    std::fs::remove_dir_all(path).expect("our own folder");
}
