//! What the kernel asks of the file system: answered from files of one folder, or failed.

use super::{Fault, Shared};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Nothing is remembered by the kernel: another length is seen at once.
const FORGET: Duration = Duration::ZERO;
/// Blocks of the file system, all of which it calls free.
const BLOCK_LEN: u32 = 4096;
const BLOCKS: u64 = 4 << 20;

/// The file system as the kernel asks it.
#[derive(Debug)]
pub(super) struct PassThrough {
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
    /// Serves the files of a folder.
    pub(super) fn new(folder: &Path, shared: Arc<Shared>) -> Self {
        let nodes = Nodes { names: BTreeMap::new(), files: BTreeMap::new(), next: 2 };
        Self { folder: folder.to_owned(), shared, nodes: Mutex::new(nodes) }
    }

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
