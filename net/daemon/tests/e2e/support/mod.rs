//! The harness of the end-to-end tests: the real binary, scripted origins and raw viewers, all on loopback.
//!
//! Everything binds port 0 and owns its directory, so tests run in parallel; everything that waits has a limit, so a
//! fault of the server is a failure with its standard error shown, never a test that hangs.

mod aspis;
mod connection;
mod crowd;
mod message;
mod origin;
mod sharing;
mod tls;
mod viewer;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

pub(crate) use aspis::{Aspis, Launch, run};
pub(crate) use connection::{Connection, find};
pub(crate) use crowd::{Crowd, expect_bodies, results};
pub(crate) use message::Head;
pub(crate) use origin::{Origin, Reply};
pub(crate) use sharing::{ETAG, FRESH, KIB, gated, on_each, on_each_before};
pub(crate) use tls::{Authority, TlsOrigin};
pub(crate) use viewer::{Broken, HOST, Response, Viewer, request};

/// The longest that any single wait of a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `probe` has an answer, asking often; fails the test with `what` when [`PATIENCE`] is used up.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        pause();
    }
}

/// The pause between two looks at a condition of another process, which cannot be waited for directly.
pub(crate) fn pause() {
    std::thread::park_timeout(Duration::from_millis(5));
}

/// A directory of one test, removed with everything in it when dropped.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("aspis-e2e-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("the temporary directory is writable");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("temporary paths are UTF-8").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A door that one side of a test waits at until the other opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().expect("setting a flag does not panic") = true;
        self.0.1.notify_all();
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.0.0.lock().expect("setting a flag does not panic")
    }

    /// Waits until it is open; fails the test with `what` when [`PATIENCE`] is used up.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str) {
        let closed = self.0.0.lock().expect("setting a flag does not panic");
        let (open, _) =
            self.0.1.wait_timeout_while(closed, PATIENCE, |open| !*open).expect("no panic while held");
        assert!(*open, "waited {PATIENCE:?} in vain: {what}");
    }
}

/// The length of the table that [`pattern`] repeats: a prime, so that no power-of-two block can stand in for another.
const PATTERN_LEN: usize = 65_521;

/// Returns `len` bytes of an endless body from `at`: a wrong, missing or repeated byte shows wherever it falls.
pub(crate) fn pattern(at: u64, len: usize) -> Vec<u8> {
    let table = pattern_table();
    let mut bytes = Vec::with_capacity(len);
    let mut from = usize::try_from(at % PATTERN_LEN as u64).expect("a remainder is small");
    while bytes.len() < len {
        let take = (len - bytes.len()).min(PATTERN_LEN - from);
        bytes.extend_from_slice(&table[from..from + take]);
        from = 0;
    }
    bytes
}

fn pattern_table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut random = Random::new(0x5eed);
        (0..PATTERN_LEN).map(|_| random.byte()).collect()
    })
}

/// Compares a body that arrives in pieces with [`pattern`], without keeping it.
#[derive(Default)]
pub(crate) struct PatternCheck {
    pub(crate) len: u64,
    wrong_at: Option<u64>,
}

impl PatternCheck {
    pub(crate) fn take(&mut self, piece: &[u8]) {
        if self.wrong_at.is_none() && piece != pattern(self.len, piece.len()) {
            self.wrong_at = Some(self.len);
        }
        self.len += piece.len() as u64;
    }

    #[track_caller]
    pub(crate) fn expect(&self, len: u64) {
        assert_eq!(self.wrong_at, None, "a wrong byte in the piece at this position");
        assert_eq!(self.len, len, "the length of the body");
    }
}

/// Numbers that repeat for a seed (splitmix64): a failing seed can be run again.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("below a usize")
    }
}
