//! Files that outlive the process: made for their owner alone, replaced as a whole, and locked against other processes.
//!
//! For the log of invalidations and for the store on disk. All of it blocks. Invariant: after a crash at any moment a file that is replaced has its
//! old content or its new one.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long another process may keep a lock: one that was killed a moment ago still ends.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY_AFTER: Duration = Duration::from_millis(20);

/// Takes the lock of a file or folder; `Ok(false)` if another process has it and keeps it.
pub(crate) fn lock(file: &File) -> io::Result<bool> {
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::park_timeout(LOCK_RETRY_AFTER)
            }
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Makes a folder, and those above it, unless it is there.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A file of which nobody else is to know.
pub(crate) fn private() -> OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    options
}

/// Writes these parts beside a file, as `new_name`, syncs them, gives them its name and syncs the name.
pub(crate) fn replace<'p>(
    folder: &Path,
    name: &str,
    new_name: &str,
    parts: impl IntoIterator<Item = &'p [u8]>,
) -> io::Result<()> {
    let beside = folder.join(new_name);
    let file = private().create(true).truncate(true).open(&beside)?;
    let mut out = BufWriter::with_capacity(1 << 16, &file);
    parts.into_iter().try_for_each(|part| out.write_all(part))?;
    out.flush()?;
    drop(out);
    file.sync_all()?;
    std::fs::rename(&beside, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Scratch;

    #[test]
    fn a_lock_is_taken_once() {
        let scratch = Scratch::new("lock");
        let first = File::open(scratch.path()).unwrap();
        assert!(lock(&first).unwrap());
        assert!(!lock(&File::open(scratch.path()).unwrap()).unwrap());
        drop(first);
        assert!(lock(&File::open(scratch.path()).unwrap()).unwrap());
    }
}
