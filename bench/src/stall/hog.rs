//! What fills the page cache: one thread reads a file that is longer than memory over and over, another writes one that is not so long.
//!
//! Runs in a process of its own, at the worst priority. The long file is a hole: its pages take memory as those of any file do, and no place on the
//! disk. Both files are the caller's to remove.

use crate::process::Server;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

/// What is read or written at once.
const PIECE_LEN: usize = 256 * 1024;
/// The longest file that is written.
const WRITTEN_MAX: u64 = 1 << 30;

/// Starts it in `folder`; it ends when it is dropped.
pub(super) fn start(folder: &Path, len: u64, core: usize) -> io::Result<Server> {
    let words = ["stall-part", "hog", &folder.display().to_string(), &len.to_string()].map(str::to_owned);
    Server::start_beside("hog", &words, core)
}

/// Returns whether the long file was read to its end once.
pub(super) fn is_full(folder: &Path) -> bool {
    full(folder).exists()
}

fn full(folder: &Path) -> PathBuf {
    folder.join("hog.full")
}

/// What the process does until it is ended: folder, bytes.
pub(super) fn part(words: &[String]) -> io::Result<()> {
    let wrong = || io::Error::other("expected: FOLDER BYTES");
    let [folder, len] = words else { return Err(wrong()) };
    let (folder, len) = (PathBuf::from(folder), len.parse::<u64>().map_err(|_| wrong())?);
    let file =
        |name| OpenOptions::new().read(true).write(true).create(true).truncate(true).open(folder.join(name));
    let (long, written) = (file("hog.read")?, file("hog.written")?);
    long.set_len(len)?;
    thread::spawn(move || -> io::Result<()> {
        loop {
            write_through(&written, (len / 8).min(WRITTEN_MAX))?;
        }
    });
    loop {
        read_through(&long, len)?;
        File::create(full(&folder))?;
    }
}

fn read_through(file: &File, len: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE_LEN];
    for at in (0..len).step_by(PIECE_LEN) {
        file.read_at(&mut piece, at)?;
    }
    Ok(())
}

fn write_through(file: &File, len: u64) -> io::Result<()> {
    let piece = vec![b'h'; PIECE_LEN];
    for at in (0..len.max(1)).step_by(PIECE_LEN) {
        file.write_all_at(&piece, at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Scratch;

    #[test]
    fn files_are_gone_through_to_their_ends() {
        let scratch = Scratch::new().unwrap();
        let path = scratch.path().join("file");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        write_through(&file, PIECE_LEN as u64 + 1).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 2 * PIECE_LEN as u64);
        read_through(&file, 3 * PIECE_LEN as u64).unwrap();
        assert!(!is_full(scratch.path()));
    }
}
