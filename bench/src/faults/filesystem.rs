//! A file system that passes everything to files of one folder, and fails on command.
//!
//! In user space, so that the real process meets a real kernel's errors. One flat folder, which is all that a store needs. What is asked of it goes
//! past the page cache, so that a fault that is over leaves nothing behind.

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Nothing is remembered by the kernel: another length is seen at once.
const FORGET: Duration = Duration::ZERO;
/// Blocks of the file system, all of which it calls free.
const BLOCK_LEN: u32 = 4096;
const BLOCKS: u64 = 4 << 20;

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
        let system = PassThrough {
            folder: backing.to_owned(),
            shared: Arc::clone(&shared),
            nodes: Mutex::new(Nodes { names: BTreeMap::new(), files: BTreeMap::new(), next: 2 }),
        };
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

#[derive(Debug)]
struct PassThrough {
    folder: PathBuf,
    shared: Arc<Shared>,
    nodes: Mutex<Nodes>,
}

/// Files by number, and numbers by name. A file that was removed keeps its number: somebody may have it open.
#[derive(Debug)]
struct Nodes {
    names: BTreeMap<OsString, u64>,
    files: BTreeMap<u64, Arc<File>>,
    next: u64,
}

impl PassThrough {
    fn nodes<T>(&self, what: impl FnOnce(&mut Nodes) -> T) -> T {
        what(&mut self.nodes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn file(&self, node: INodeNo) -> io::Result<Arc<File>> {
        let found = self.nodes(|nodes| nodes.files.get(&node.0).cloned());
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Finds a file, or makes it.
    fn named(&self, name: &OsStr, make: bool) -> io::Result<FileAttr> {
        let path = self.folder.join(name);
        self.nodes(|nodes| {
            if let Some(node) = nodes.names.get(name).copied()
                && let Some(file) = nodes.files.get(&node)
            {
                return attributes(node, file);
            }
            let file = OpenOptions::new().read(true).write(true).create(make).truncate(false).open(path)?;
            let node = nodes.next;
            nodes.next += 1;
            let attributes = attributes(node, &file)?;
            nodes.names.insert(name.to_owned(), node);
            nodes.files.insert(node, Arc::new(file));
            Ok(attributes)
        })
    }

    fn attributes_of(&self, node: INodeNo) -> io::Result<FileAttr> {
        if node == INodeNo::ROOT {
            return Ok(folder_attributes());
        }
        attributes(node.0, &*self.file(node)?)
    }

    fn read_bytes(&self, node: INodeNo, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        let file = self.file(node)?;
        let number = self.shared.reads.fetch_add(1, Ordering::Relaxed);
        let mut len = len as usize;
        let fault = self.shared.fault();
        match fault {
            Some(Fault::ReadErrors) => {
                self.shared.inject();
                return Err(Errno::EIO);
            }
            Some(Fault::SomeReadErrors) if number.is_multiple_of(3) => {
                self.shared.inject();
                return Err(Errno::EIO);
            }
            Some(Fault::ShortReads) => {
                self.shared.inject();
                len /= 2;
            }
            _ => {}
        }
        let mut bytes = vec![0; len];
        let mut taken = 0;
        while taken < len {
            match file.read_at(&mut bytes[taken..], offset + taken as u64)? {
                0 => break,
                more => taken += more,
            }
        }
        bytes.truncate(taken);
        if fault == Some(Fault::FlippedReads)
            && let Some(byte) = bytes.get_mut((number as usize * 797) % len.max(1))
        {
            self.shared.inject();
            *byte ^= 1 << (number % 8);
        }
        Ok(bytes)
    }

    fn write_bytes(&self, node: INodeNo, offset: u64, bytes: &[u8]) -> Result<u32, Errno> {
        let file = self.file(node)?;
        let failed = |error: Errno| {
            self.shared.inject();
            Err(error)
        };
        let mut bytes = bytes;
        match self.shared.fault() {
            Some(Fault::WriteErrors) => return failed(Errno::EIO),
            Some(Fault::NoSpace) => return failed(Errno::ENOSPC),
            Some(Fault::ReadOnly) => return failed(Errno::EROFS),
            Some(Fault::ShortWrites) => {
                self.shared.inject();
                bytes = &bytes[..bytes.len() / 2];
            }
            _ => {}
        }
        file.write_all_at(bytes, offset)?;
        Ok(bytes.len() as u32)
    }
}

fn attributes(node: u64, file: &File) -> io::Result<FileAttr> {
    let found = file.metadata()?;
    let modified = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(FileAttr {
        ino: INodeNo(node),
        size: found.len(),
        blocks: found.blocks(),
        perm: (found.mode() & 0o7777) as u16,
        atime: modified,
        mtime: modified,
        ctime: modified,
        kind: FileType::RegularFile,
        nlink: 1,
        ..folder_attributes()
    })
}

fn folder_attributes() -> FileAttr {
    FileAttr {
        ino: INodeNo::ROOT,
        size: 4096,
        blocks: 8,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        flags: 0,
        blksize: BLOCK_LEN,
    }
}

impl Filesystem for PassThrough {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.named(name, false) {
            Ok(found) => reply.entry(&FORGET, &found, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes_of(node) {
            Ok(found) => reply.attr(&FORGET, &found),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let sized = match size {
            Some(size) => self.file(node).and_then(|file| file.set_len(size)),
            None => Ok(()),
        };
        match sized.and_then(|()| self.attributes_of(node)) {
            Ok(found) => reply.attr(&FORGET, &found),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.named(name, true) {
            Ok(made) => {
                reply.created(&FORGET, &made, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO)
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_bytes(node, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_bytes(node, offset, data) {
            Ok(taken) => reply.written(taken),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        let end = offset + length;
        let grown = self.file(node).and_then(|file| match file.metadata()?.len() < end {
            true => file.set_len(end),
            false => Ok(()),
        });
        match grown {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match std::fs::remove_file(self.folder.join(name)) {
            Ok(()) => {
                self.nodes(|nodes| nodes.names.remove(name));
                reply.ok();
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        to: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        match std::fs::rename(self.folder.join(name), self.folder.join(to)) {
            Ok(()) => {
                self.nodes(|nodes| match nodes.names.remove(name) {
                    Some(node) => nodes.names.insert(to.to_owned(), node),
                    None => nodes.names.remove(to),
                });
                reply.ok();
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) => return reply.error(error.into()),
        };
        let mut names: Vec<OsString> = entries.map_while(Result::ok).map(|entry| entry.file_name()).collect();
        names.sort();
        let folders = [".", ".."].map(|name| (OsString::from(name), FileType::Directory));
        let all = folders.into_iter().chain(names.into_iter().map(|name| (name, FileType::RegularFile)));
        for (place, (name, kind)) in (1..).zip(all).skip(offset as usize) {
            // Numbers are found by name when they are needed.
            if reply.add(INodeNo(u64::MAX), place, kind, &name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(BLOCKS, BLOCKS, BLOCKS, 1 << 20, 1 << 20, BLOCK_LEN, 255, BLOCK_LEN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

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
