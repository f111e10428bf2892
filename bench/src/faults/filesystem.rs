//! A file system that passes everything to files of one folder, and fails on command.
//!
//! In user space, so that the real process meets a real kernel's errors. One flat folder, which is all that a store needs. What is asked of it goes
//! past the page cache, so that a fault that is over leaves nothing behind.

mod pass_through;

use fuser::{Config, MountOption};
use pass_through::PassThrough;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Every read fails with EIO.
    ReadErrors,
    /// One read in three fails with EIO.
    SomeReadErrors,
    /// Reads bring half of what is asked for.
    ShortReads,
    /// Reads bring a flipped bit.
    FlippedReads,
    /// Every write fails with EIO.
    WriteErrors,
    /// Every write fails with ENOSPC.
    NoSpace,
    /// Every write fails with EROFS.
    ReadOnly,
    /// Writes take half of what is given.
    ShortWrites,
    /// The largest files are cut to a third, and get their length back at the end, but not their content.
    Truncated,
}

impl Fault {
    /// Every fault.
    pub(super) const ALL: [Self; 9] = [
        Self::ReadErrors,
        Self::SomeReadErrors,
        Self::ShortReads,
        Self::FlippedReads,
        Self::WriteErrors,
        Self::NoSpace,
        Self::ReadOnly,
        Self::ShortWrites,
        Self::Truncated,
    ];

    /// Returns its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ReadErrors => "read-errors",
            Self::SomeReadErrors => "some-read-errors",
            Self::ShortReads => "short-reads",
            Self::FlippedReads => "flipped-reads",
            Self::WriteErrors => "write-errors",
            Self::NoSpace => "no-space",
            Self::ReadOnly => "read-only",
            Self::ShortWrites => "short-writes",
            Self::Truncated => "truncated",
        }
    }
}

/// Files at least this long are the volumes, which are what is cut.
const CUT_LEN_MIN: u64 = 1 << 20;

/// What the driver and the file system share.
#[derive(Debug, Default)]
struct Shared {
    fault: Mutex<Option<Fault>>,
    /// Reads and writes that went wrong.
    injected: AtomicU64,
    reads: AtomicU64,
}

impl Shared {
    fn fault(&self) -> Option<Fault> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inject(&self) {
        self.injected.fetch_add(1, Ordering::Relaxed);
    }
}

/// A mounted file system; it is unmounted at the end.
#[derive(Debug)]
pub(super) struct Mounted {
    shared: Arc<Shared>,
    backing: PathBuf,
    /// Lengths of files that were cut.
    cut: Mutex<Vec<(PathBuf, u64)>>,
    session: Option<fuser::BackgroundSession>,
}

impl Mounted {
    /// Mounts the files of `backing` at `point`; both are folders.
    pub(super) fn mount(backing: &Path, point: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let system = PassThrough::new(backing, Arc::clone(&shared));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("aspis-faults".to_owned()), MountOption::NoAtime];
        // One thread may wait for the disk while another answers.
        config.n_threads = Some(2);
        let session = fuser::spawn_mount(system, point, &config)?;
        Ok(Self { shared, backing: backing.to_owned(), cut: Mutex::default(), session: Some(session) })
    }

    /// Has everything fail in this way from now on.
    pub(super) fn inject(&self, fault: Fault) -> io::Result<()> {
        if fault == Fault::Truncated {
            let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
            for entry in std::fs::read_dir(&self.backing)? {
                let path = entry?.path();
                let len = path.metadata()?.len();
                if len >= CUT_LEN_MIN {
                    OpenOptions::new().write(true).open(&path)?.set_len(len / 3)?;
                    cut.push((path, len));
                    self.shared.inject();
                }
            }
        }
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        Ok(())
    }

    /// All is well again.
    pub(super) fn heal(&self) -> io::Result<()> {
        *self.shared.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
        for (path, len) in self.cut.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let file = OpenOptions::new().write(true).open(&path)?;
            if file.metadata()?.len() < len {
                file.set_len(len)?;
            }
        }
        Ok(())
    }

    /// Returns how many reads and writes went wrong so far.
    pub(super) fn injected(&self) -> u64 {
        self.shared.injected.load(Ordering::Relaxed)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whoever still has a file open keeps it mounted, and the error says so.
        if let Some(Err(error)) = self.session.take().map(fuser::BackgroundSession::umount_and_join) {
            eprintln!("the file system of our own stays mounted: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fuser::Errno;
    use std::ffi::OsString;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::fs::FileExt;

    #[test]
    fn files_pass_through_and_fail_on_command() {
        let base = std::env::temp_dir().join(format!("aspis-faults-test-{}", std::process::id()));
        let (backing, point) = (base.join("backing"), base.join("disk"));
        for folder in [&backing, &point] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let mounted = match Mounted::mount(&backing, &point) {
            Ok(mounted) => mounted,
            Err(error) => {
                println!("skipped: cannot mount: {error}");
                return;
            }
        };
        // Files are made, renamed, locked, listed and removed.
        let mut made = File::create(point.join("new")).unwrap();
        made.write_all(b"hello").unwrap();
        made.sync_all().unwrap();
        std::fs::rename(point.join("new"), point.join("name")).unwrap();
        assert_eq!(std::fs::read(backing.join("name")).unwrap(), b"hello");
        let mut text = String::new();
        File::open(point.join("name")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(File::open(point.join("absent")).is_err());
        made.try_lock().unwrap();
        let names: Vec<OsString> =
            std::fs::read_dir(&point).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["name"]);
        std::fs::remove_file(point.join("name")).unwrap();
        assert!(!backing.join("name").exists());

        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(point.join("volume"))
            .unwrap();
        let content = vec![7; 2 << 20];
        file.write_all_at(&content, 0).unwrap();
        let mut read = vec![0; 8192];
        let number = |error: io::Error| error.raw_os_error();
        let codes = [Errno::EIO, Errno::ENOSPC, Errno::EROFS].map(|errno| errno.code());
        mounted.inject(Fault::ReadErrors).unwrap();
        assert_eq!(file.read_at(&mut read, 0).map_err(number), Err(Some(codes[0])));
        mounted.inject(Fault::ShortReads).unwrap();
        assert_eq!(file.read_at(&mut read, 0).unwrap(), 4096);
        mounted.inject(Fault::FlippedReads).unwrap();
        assert_eq!(file.read_at(&mut read, 0).unwrap(), 8192);
        assert_ne!(read, vec![7; 8192]);
        for (fault, code) in [Fault::WriteErrors, Fault::NoSpace, Fault::ReadOnly].into_iter().zip(codes) {
            mounted.inject(fault).unwrap();
            assert_eq!(file.write_at(&read, 0).map_err(number), Err(Some(code)));
        }
        mounted.inject(Fault::ShortWrites).unwrap();
        assert_eq!(file.write_at(&content[..8192], 0).unwrap(), 4096);
        mounted.inject(Fault::Truncated).unwrap();
        assert_eq!(file.read_at(&mut read, 1 << 20).unwrap(), 0, "behind the cut there is nothing");
        mounted.heal().unwrap();
        assert_eq!(file.read_at(&mut read, 0).unwrap(), 8192);
        assert_eq!(read, vec![7; 8192]);
        assert_eq!(file.metadata().unwrap().len(), 2 << 20);
        assert_eq!(file.read_at(&mut read, 1 << 20).unwrap(), 8192);
        assert_eq!(read, vec![0; 8192], "its content is gone");
        assert!(mounted.injected() >= 8);
        drop((file, made));
        drop(mounted);
        std::fs::remove_dir_all(&base).unwrap();
    }
}
