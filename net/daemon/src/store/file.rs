//! What the store asks of files and file systems: space, allocation, direct I/O. The system calls of `store/` are here and in [`crate::files`].
//!
//! All of it blocks, so it runs on the control thread before anybody is served, or in a command.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use aspis_config::values::write_size;
use aspis_runtime::page_cache;
use aspis_storage::disk::check::ReadAt;
use aspis_storage::disk::format::BLOCK_LEN;
use rustix::fs::{FallocateFlags, OFlags};

use crate::files::{self, private};

/// What is allocated with one call, so that progress can be told.
const ALLOCATED_LEN: u64 = 1 << 30;
/// How often progress is told.
pub(super) const TELL_AFTER: Duration = Duration::from_secs(1);

/// File systems that write elsewhere when something is overwritten, by the magic that they have in `statfs(2)`.
const COPY_ON_WRITE: &[(u64, &str)] =
    &[(0x9123_683e, "btrfs"), (0x2fc1_2fc1, "ZFS"), (0xca45_1a4e, "bcachefs")];

/// Takes the lock of a volume.
pub(super) fn take(volume: &File) -> io::Result<()> {
    match files::lock(volume)? {
        true => Ok(()),
        false => Err(io::Error::other("another process uses it")),
    }
}

/// Returns the name of the file system of a folder if it is one that copies on writing.
pub(super) fn copy_on_write(folder: &File) -> io::Result<Option<&'static str>> {
    let magic = rustix::fs::fstatfs(folder)?.f_type;
    // The field's type is another on each architecture; a magic has 32 bits.
    Ok(copy_on_write_name(u64::try_from(magic).unwrap_or_default() & 0xffff_ffff))
}

fn copy_on_write_name(magic: u64) -> Option<&'static str> {
    COPY_ON_WRITE.iter().find(|(known, _)| *known == magic).map(|(_, name)| *name)
}

/// Where there is space, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// Tells file systems apart.
    pub(super) device: u64,
    /// Bytes that are free for this process.
    pub(super) free: u64,
}

/// Returns the space of the file system of a folder.
pub(super) fn space(folder: &File) -> io::Result<Space> {
    let found = rustix::fs::fstatvfs(folder)?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    Ok(Space { device: folder.metadata()?.dev(), free })
}

/// Returns the bytes that a file has on its device.
pub(super) fn allocated(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks().saturating_mul(512))
}

/// Opens a file for the data plane: past the page cache where the file system can, which the flag tells.
pub(super) fn open_direct(path: &Path) -> io::Result<(File, bool)> {
    let direct = i32::try_from(OFlags::DIRECT.bits()).expect("open(2) takes its flags as an int");
    match private().custom_flags(direct).open(path) {
        Ok(file) if reads_directly(&file) => Ok((file, true)),
        Ok(_) => Ok((private().open(path)?, false)),
        // What tmpfs says on older kernels.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            Ok((private().open(path)?, false))
        }
        Err(error) => Err(error),
    }
}

/// What `statfs(2)` says of a file system in memory: its pages count as this process's own.
const TMPFS: u64 = 0x0102_1994;

/// Opens a volume to be mapped. The error says why that is of no use.
pub(super) fn open_mapped(path: &Path) -> io::Result<OwnedFd> {
    let file = File::open(path)?;
    let magic = rustix::fs::fstatfs(&file)?.f_type;
    if u64::try_from(magic).unwrap_or_default() & 0xffff_ffff == TMPFS {
        return Err(io::Error::other("the store lies in memory already"));
    }
    match page_cache::is_resident(file.as_fd(), &(0..1)) {
        Ok(_) => Ok(file.into()),
        Err(error) => Err(io::Error::other(format!(
            "the kernel does not tell what is in it, as Linux 6.5 does: {error}"
        ))),
    }
}

/// Some file systems take the flag and refuse the read.
fn reads_directly(file: &File) -> bool {
    let block = usize::try_from(BLOCK_LEN).expect("a block is small");
    let mut memory = vec![0; 2 * block];
    let at = memory.as_ptr().align_offset(block);
    let invalid = rustix::io::Errno::INVAL.raw_os_error();
    // A vector of bytes can always be aligned.
    let Some(aligned) = memory.get_mut(at..at + block) else { return false };
    file.read_at(aligned, 0).map_err(|error| error.raw_os_error()) != Err(Some(invalid))
}

/// The bytes of a volume, for what looks at all of it.
pub(super) struct Bytes<'f>(pub(super) &'f File);

impl ReadAt for Bytes<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
}

/// Tells people how far something long is.
pub(super) struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    began: Instant,
    told_at: Option<Instant>,
}

impl Progress {
    /// Nothing of `total` bytes is done.
    pub(super) fn new(what: &'static str, total: u64) -> Self {
        Progress { what, total, done: 0, began: Instant::now(), told_at: None }
    }

    /// So much more is done.
    pub(super) fn add(&mut self, len: u64) {
        self.done += len;
        if self.told_at.unwrap_or(self.began).elapsed() >= TELL_AFTER {
            self.told_at = Some(Instant::now());
            tracing::info!("{}: {} of {} MiB", self.what, self.done >> 20, self.total >> 20);
        }
    }

    /// All is done.
    pub(super) fn end(self) {
        if self.told_at.is_some() {
            tracing::info!(
                "{}: done, {} MiB in {:.1} s",
                self.what,
                self.total >> 20,
                self.began.elapsed().as_secs_f64()
            );
        }
    }
}

/// Whether a file has all its space on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allocation {
    /// It has.
    Whole,
    /// The file system cannot promise it; the file has its length only.
    LengthOnly,
}

/// Gives a file `len` bytes, with space on the device for all of them. What is in it stays; what is behind is cut off.
pub(super) fn allocate(file: &File, len: u64, progress: &mut Progress) -> io::Result<Allocation> {
    if file.metadata()?.len() > len {
        file.set_len(len)?;
    }
    let mut at = 0;
    while at < len {
        let part = ALLOCATED_LEN.min(len - at);
        match rustix::fs::fallocate(file, FallocateFlags::empty(), at, part) {
            Ok(()) => at += part,
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                if file.metadata()?.len() < len {
                    file.set_len(len)?;
                }
                return Ok(Allocation::LengthOnly);
            }
            Err(error) => return Err(error.into()),
        }
        progress.add(part);
    }
    Ok(Allocation::Whole)
}

/// Draws random bytes from the kernel.
pub(super) fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes)
}

/// Says what an error of the system means for a store of this size.
pub(super) fn reason(error: &io::Error, len: u64) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("no space for {}: {error}", write_size(len))
        }
        io::ErrorKind::ReadOnlyFilesystem => format!("the file system is read only: {error}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Scratch;

    #[test]
    fn file_systems_that_copy_on_writing_are_known() {
        for (magic, name) in [(0x9123_683e, Some("btrfs")), (0x2fc1_2fc1, Some("ZFS")), (0xef53, None)] {
            assert_eq!(copy_on_write_name(magic), name, "{magic:x}");
        }
        // Those of the machines that run this test are not.
        let scratch = Scratch::new("magic");
        assert_eq!(copy_on_write(&File::open(scratch.path()).unwrap()).unwrap(), None);
    }

    #[test]
    fn a_file_gets_its_space_and_keeps_its_content() {
        let scratch = Scratch::new("space");
        let path = scratch.path().join("file");
        let file = private().create(true).truncate(false).open(&path).unwrap();
        file.write_all_at(b"content", 100).unwrap();
        let mut progress = Progress::new("a test", 3 << 20);
        allocate(&file, 3 << 20, &mut progress).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3 << 20);
        assert!(allocated(&file).unwrap() >= 3 << 20);
        allocate(&file, 1 << 20, &mut progress).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        let mut read = [0; 7];
        file.read_exact_at(&mut read, 100).unwrap();
        assert_eq!(&read, b"content");
        let space = space(&File::open(scratch.path()).unwrap()).unwrap();
        assert!(space.free > 0);
    }

    /// What a file system cannot do directly is done through the page cache; either way the content comes.
    #[test]
    fn a_file_is_opened_past_the_page_cache_where_that_works() {
        let scratch = Scratch::new("direct");
        let path = scratch.path().join("file");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let (file, is_direct) = open_direct(&path).unwrap();
        let mut memory = vec![0; 8192];
        let at = memory.as_ptr().align_offset(4096);
        assert_eq!(file.read_at(&mut memory[at..at + 4096], 0).unwrap(), 4096);
        assert_eq!(memory[at], 7);
        let odd = file.read_at(&mut memory[at + 1..at + 101], 3);
        assert!(!is_direct || odd.is_err() || odd.unwrap() == 100);
    }
}
