//! A folder for a store that ends with the process: the demo's.
//!
//! It is made below the machine's folder for temporary files, only where that has plenty of room, and removed when this is dropped. One that
//! was killed leaves its folder behind; the next removes it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{file, size};

const PREFIX: &str = "aspis-demo-";
/// A demo takes no more than this, however many cores it has.
const LEN_MAX: u64 = 2 << 30;
/// Nor more than this part of what is free.
const FREE_SHARE: u64 = 4;

/// A folder that is removed with everything in it.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    /// How large a store in it may be.
    pub(crate) size: u64,
}

impl Temporary {
    /// Makes a folder for a store of so many cores; `None` where there is no room for one.
    pub(crate) fn new(cores: usize) -> io::Result<Option<Self>> {
        Self::below(&std::env::temp_dir(), cores)
    }

    fn below(folder: &Path, cores: usize) -> io::Result<Option<Self>> {
        remove_stale(folder);
        let size = size::len_min(cores);
        let free = file::space(&File::open(folder)?)?.free;
        if size > LEN_MAX || size > free / FREE_SHARE {
            return Ok(None);
        }
        let path = folder.join(format!("{PREFIX}{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Some(Temporary { path, size }))
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!("{} cannot be removed: {error}", self.path.display());
        }
    }
}

/// Removes the folders of processes that are no more. Others' folders are left alone, and so is what cannot be removed.
fn remove_stale(folder: &Path) {
    let Ok(own) = std::fs::metadata("/proc/self").map(|found| found.uid()) else { return };
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        let is_ours = || entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == own);
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) && is_ours() {
            // Whoever wants the room will find it.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Scratch;

    #[test]
    fn a_folder_ends_with_the_value_and_with_the_process() {
        let scratch = Scratch::new("temporary");
        let stale = scratch.path().join(format!("{PREFIX}4194305"));
        std::fs::create_dir(&stale).unwrap();
        std::fs::write(stale.join("file"), "content").unwrap();
        let kept = [
            format!("{PREFIX}{}", std::os::unix::process::parent_id()),
            format!("{PREFIX}x"),
            "other".to_owned(),
        ];
        kept.iter().for_each(|name| std::fs::create_dir(scratch.path().join(name)).unwrap());
        let temporary = Temporary::below(scratch.path(), 2).unwrap().expect("room for a small one");
        assert_eq!(temporary.size, 256 << 20);
        let path = temporary.path().to_owned();
        std::fs::write(path.join("file"), "content").unwrap();
        assert!(!stale.exists() && kept.iter().all(|name| scratch.path().join(name).exists()));
        drop(temporary);
        assert!(!path.exists());
        assert!(Temporary::below(scratch.path(), 64).unwrap().is_none(), "too large for a demo");
    }
}
