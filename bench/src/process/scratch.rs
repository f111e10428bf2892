//! Folders for one run: below a folder that was given, in memory, or among the temporary files. They go with whoever made them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Returns where a command has a server keep its state: in the folder that was given, on the disk that is to be measured, or among the temporary
/// files.
pub(crate) fn state_path(command: &str, folder: Option<&Path>) -> PathBuf {
    let base = folder.map_or_else(std::env::temp_dir, Path::to_owned);
    base.join(format!("aspis-{command}-{}", std::process::id()))
}

/// Folders made so far, so that each has a name of its own.
static SCRATCHES: AtomicUsize = AtomicUsize::new(0);

/// A folder that is removed at the end.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes a folder in memory where the machine offers that, else among the temporary files.
    pub(crate) fn new() -> io::Result<Self> {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let number = SCRATCHES.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("aspis-bench-{}-{number}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// Makes a folder of [`state_path`].
    pub(crate) fn of_state(command: &str, folder: Option<&Path>) -> io::Result<Self> {
        let path = state_path(command, folder);
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// Returns where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}
