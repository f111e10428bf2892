//! What of a file is in memory already: asked without waiting for a disk, copied without waiting for a disk.
//!
//! The disk tier asks before it sends from a mapping, so that no core faults on its loop, and reads what it verifies from the same pages. Both are
//! direct calls, which cost well under a microsecond and a copy; a file system or a kernel that cannot do them says so, and the tier does without.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The number of `cachestat(2)`, the same on all architectures (Linux 6.5).
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range`.
#[repr(C)]
struct CachestatRange {
    offset: u64,
    len: u64,
}

/// `struct cachestat`: pages of each kind.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Tells whether all pages of a range of a file are in memory; of a range that ends behind the file's end not even a no is sure. The error says why the kernel cannot tell.
pub fn is_resident(file: BorrowedFd<'_>, range: &Range<u64>) -> io::Result<bool> {
    let page = page_len();
    let asked = CachestatRange { offset: range.start, len: range.end.saturating_sub(range.start) };
    if asked.len == 0 {
        return Ok(true);
    }
    let mut found = Cachestat::default();
    // SAFETY: both structures are the kernel's, as `cachestat(2)` has them, and live and are exclusively ours for the duration of the call, which keeps neither.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const asked, &raw mut found, 0 as libc::c_uint)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(found.cached >= range.end.div_ceil(page) - range.start / page)
}

/// Copies what is in memory from `offset` of a file on, without waiting for more; returns how many bytes that were.
pub fn read_resident(file: BorrowedFd<'_>, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        let vector = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
        let at = libc::off_t::try_from(offset + done as u64).map_err(io::Error::other)?;
        // SAFETY: the one vector names `rest`, which is exclusively ours for the duration of the call.
        let result = unsafe { libc::preadv2(file.as_raw_fd(), &raw const vector, 1, at, libc::RWF_NOWAIT) };
        match usize::try_from(result) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error if error.kind() == io::ErrorKind::WouldBlock => break,
                error => return Err(error),
            },
        }
    }
    Ok(done)
}

/// Returns how long a file is now.
pub fn file_len(file: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: a `stat` is plain numbers; all zeroes is one.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is the kernel's structure, exclusively ours for the duration of the call.
    if unsafe { libc::fstat(file.as_raw_fd(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::try_from(found.st_size).unwrap_or_default())
}

/// Tells the kernel that a file is read here and there: it brings nothing that is not asked for. A hint.
pub fn expect_random(file: BorrowedFd<'_>) {
    // SAFETY: takes no pointers.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
}

fn page_len() -> u64 {
    // SAFETY: takes no pointers.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsFd;
    use std::path::PathBuf;

    use super::*;

    struct Scratch(PathBuf, File);

    impl Scratch {
        fn new(name: &str, len: usize) -> Self {
            let path = std::env::temp_dir().join(format!("aspis-{name}-{}", std::process::id()));
            std::fs::write(&path, (0..len).map(|at| at as u8).collect::<Vec<_>>()).unwrap();
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            Scratch(path, file)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn what_was_just_written_is_resident_until_it_is_dropped() {
        let Scratch(_, file) = &Scratch::new("resident", 40_000);
        let fd = file.as_fd();
        // Kernels before 6.5 cannot tell.
        let Ok(is_there) = is_resident(fd, &(0..40_000)) else { return };
        assert!(is_there && is_resident(fd, &(5..5)).unwrap() && is_resident(fd, &(4095..4097)).unwrap());
        assert!(!is_resident(fd, &(0..1 << 30)).unwrap(), "there is nothing far behind the end");
        let mut copy = vec![0; 50_000];
        assert_eq!(read_resident(fd, 10, &mut copy).unwrap(), 39_990);
        assert!(copy[..39_990].iter().enumerate().all(|(at, byte)| *byte == (at + 10) as u8));
        assert_eq!(file_len(fd).unwrap(), 40_000);
        file.set_len(8192).unwrap();
        assert_eq!(file_len(fd).unwrap(), 8192);
        assert!(is_resident(fd, &(0..8192)).unwrap());
        assert_eq!(read_resident(fd, 8192, &mut copy).unwrap(), 0);
    }

    #[test]
    fn what_cannot_be_asked_is_an_error() {
        let (reader, _writer) = io::pipe().unwrap();
        assert!(!matches!(is_resident(reader.as_fd(), &(0..1)), Ok(true)));
        assert!(read_resident(reader.as_fd(), 0, &mut [0]).is_err());
        expect_random(reader.as_fd());
    }
}
