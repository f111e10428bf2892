//! Asks the kernel at start for everything the runtime needs, and names what is missing with its fix.
//!
//! Features are tried, not derived from version numbers: container runtimes filter calls, and vendors backport.
//! Read by `aspis serve` before the first core starts and by `aspis check`.

use std::io::{self, Write};
use std::mem::zeroed;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::{IoUring, Probe, cqueue, opcode, types::Fd};

use crate::buffers::{BUFFER_GROUP, ReceiveBuffers};
use crate::limits::{MEMLOCK_LEN_MIN, OPEN_FILES_MIN};

/// Something that the machine lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// What was seen.
    pub why: String,
    /// What the operator can do.
    pub fix: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}; {}", self.what, self.why, self.fix)
    }
}

impl std::error::Error for Missing {}

/// What the machine offers.
#[derive(Clone, Debug)]
pub struct KernelReport {
    /// The kernel's release, such as `6.18.4`.
    pub release: String,
    /// Locked memory that the process may have, in bytes; `u64::MAX` is no limit.
    pub memlock_len: u64,
    /// Files that the process may have open.
    pub open_files: u64,
    /// Whether waits can gather completions for a while (kernel 6.12).
    pub batched_waits: bool,
}

/// Operations that the ring submits, by code and name.
const OPERATIONS: &[(u8, &str)] = &[
    (opcode::AcceptMulti::CODE, "accept"),
    (opcode::RecvMulti::CODE, "receive"),
    (opcode::Send::CODE, "send"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::Connect::CODE, "connect"),
    (opcode::Read::CODE, "read"),
    (opcode::Timeout::CODE, "timeout"),
    (opcode::TimeoutRemove::CODE, "timeout removal"),
    (opcode::AsyncCancel::CODE, "cancellation"),
];

const NEW_KERNEL: &str = "run on Linux 6.1 or newer";

/// Raises the limits of memory and files as far as they go and tries what the runtime needs.
pub fn probe() -> Result<KernelReport, Vec<Missing>> {
    let mut missing = Vec::new();
    let memlock_len = raise(libc::RLIMIT_MEMLOCK);
    missing.extend(judge_memlock(memlock_len));
    let open_files = raise(libc::RLIMIT_NOFILE);
    missing.extend(judge_open_files(open_files));
    let mut batched_waits = false;
    match set_up() {
        Ok(ring) => {
            batched_waits = ring.params().is_feature_min_timeout();
            missing.extend(missing_operations(&ring));
            missing.extend(try_multishot(ring).err().map(|error| judge_multishot(&error)));
        }
        Err(error) => missing.push(judge_set_up(&error, &disabled_by_sysctl())),
    }
    if missing.is_empty() {
        Ok(KernelReport { release: release(), memlock_len, open_files, batched_waits })
    } else {
        Err(missing)
    }
}

/// A ring with the flags that each core's has.
fn set_up() -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .build(8)
}

fn missing_operations(ring: &IoUring) -> Vec<Missing> {
    let mut probe = Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        return vec![Missing {
            what: "io_uring operations".to_owned(),
            why: format!("the kernel does not list them ({error})"),
            fix: NEW_KERNEL.to_owned(),
        }];
    }
    let lacks = OPERATIONS.iter().filter(|(code, _)| !probe.is_supported(*code));
    let name = |(_, name): &(u8, &str)| Missing {
        what: format!("io_uring operation '{name}'"),
        why: "the kernel does not know it".to_owned(),
        fix: NEW_KERNEL.to_owned(),
    };
    lacks.map(name).collect()
}

/// Receives one byte over a pair of sockets with a multishot receive into a provided buffer.
fn try_multishot(mut ring: IoUring) -> io::Result<()> {
    let mut buffers = ReceiveBuffers::new(1, 4096)?;
    buffers.register(|address, count| {
        // SAFETY: as `register` says; the ring is dropped below, before the buffers.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, count, BUFFER_GROUP, 0) }
    })?;
    let (mut near, far) = UnixStream::pair()?;
    near.write_all(b"?")?;
    let receive = opcode::RecvMulti::new(Fd(far.as_raw_fd()), BUFFER_GROUP).build();
    // SAFETY: the entry names a descriptor and a buffer group that outlive the ring's use below.
    let pushed = unsafe { ring.submission().push(&receive) };
    pushed.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
    ring.submit_and_wait(1)?;
    let completion = ring.completion().next().ok_or(io::Error::from_raw_os_error(libc::EIO))?;
    // The ring goes first: its end cancels the receive, which names the socket and the buffers.
    drop(ring);
    if completion.result() < 0 {
        return Err(io::Error::from_raw_os_error(-completion.result()));
    }
    let whole = completion.result() == 1 && cqueue::buffer_select(completion.flags()).is_some();
    if whole { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}

fn judge_multishot(error: &io::Error) -> Missing {
    Missing {
        what: "io_uring multishot receive with provided buffers".to_owned(),
        why: format!("a trial failed ({error})"),
        fix: NEW_KERNEL.to_owned(),
    }
}

/// The value of the sysctl that turns io_uring off, or nothing.
fn disabled_by_sysctl() -> String {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default().trim().to_owned()
}

fn judge_set_up(error: &io::Error, disabled: &str) -> Missing {
    let (why, fix) = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if disabled == "1" || disabled == "2" => (
            format!("the kernel refuses it (kernel.io_uring_disabled = {disabled})"),
            "run `sysctl kernel.io_uring_disabled=0`, or with 1 give the process CAP_SYS_ADMIN or the group of \
             kernel.io_uring_group",
        ),
        Some(libc::EPERM | libc::EACCES) => (
            format!("the kernel refuses it ({error}), as container runtimes' default seccomp profiles do"),
            "in a container use the profile deploy/seccomp-aspis.json \
             (docker run --security-opt seccomp=seccomp-aspis.json); also check kernel.io_uring_disabled",
        ),
        Some(libc::ENOSYS) => (
            "the kernel has none, or a filter hides it (ENOSYS)".to_owned(),
            "run on Linux 6.1 or newer with \
             CONFIG_IO_URING; in a container use the profile deploy/seccomp-aspis.json",
        ),
        Some(libc::EINVAL) => {
            ("the kernel does not know the flags DEFER_TASKRUN and SINGLE_ISSUER".to_owned(), NEW_KERNEL)
        }
        Some(libc::ENOMEM) => (
            "there is no memory for it, or the memlock limit is too low".to_owned(),
            "raise it: LimitMEMLOCK=infinity in the unit, --ulimit memlock=-1 for a container",
        ),
        Some(libc::EMFILE | libc::ENFILE) => {
            ("there is no free file descriptor".to_owned(), "raise LimitNOFILE or fs.file-max")
        }
        _ => (error.to_string(), NEW_KERNEL),
    };
    Missing { what: "io_uring".to_owned(), why, fix: fix.to_owned() }
}

fn judge_memlock(len: u64) -> Option<Missing> {
    (len < MEMLOCK_LEN_MIN).then(|| Missing {
        what: "locked memory".to_owned(),
        why: format!("the limit is {} KiB and {} KiB are needed", len / 1024, MEMLOCK_LEN_MIN / 1024),
        fix: "raise it: `ulimit -l 8192`, LimitMEMLOCK=infinity in the unit, --ulimit memlock=-1 for a container"
            .to_owned(),
    })
}

fn judge_open_files(limit: u64) -> Option<Missing> {
    (limit < OPEN_FILES_MIN).then(|| Missing {
        what: "open files".to_owned(),
        why: format!("the limit is {limit} and {OPEN_FILES_MIN} are needed"),
        fix: "raise it: `ulimit -n 65536`, LimitNOFILE=1048576 in the unit, --ulimit nofile=65536 for a container"
            .to_owned(),
    })
}

/// Raises the soft limit to the hard one. Returns what holds then.
fn raise(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for one write during the call.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return 0;
    }
    let wanted = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: `wanted` is valid for one read during the call.
    if limit.rlim_cur < limit.rlim_max && unsafe { libc::setrlimit(resource, &raw const wanted) } == 0 {
        return wanted.rlim_cur;
    }
    limit.rlim_cur
}

fn release() -> String {
    // SAFETY: `utsname` is plain data; all zeroes is valid.
    let mut name: libc::utsname = unsafe { zeroed() };
    // SAFETY: `name` is valid for one write during the call.
    if unsafe { libc::uname(&raw mut name) } != 0 {
        return "unknown".to_owned();
    }
    name.release.iter().take_while(|c| **c != 0).map(|c| char::from(c.cast_unsigned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_what_is_needed() {
        let report = probe().unwrap_or_else(|missing| panic!("{missing:?}"));
        assert!(!report.release.is_empty() && report.open_files >= OPEN_FILES_MIN);
    }

    #[test]
    fn each_refusal_names_its_fix() {
        let cases = [
            (libc::EPERM, "", "deploy/seccomp-aspis.json"),
            (libc::EPERM, "2", "sysctl kernel.io_uring_disabled=0"),
            (libc::ENOSYS, "", "deploy/seccomp-aspis.json"),
            (libc::EINVAL, "", "6.1"),
            (libc::ENOMEM, "", "MEMLOCK"),
        ];
        for (errno, sysctl, fix) in cases {
            let missing = judge_set_up(&io::Error::from_raw_os_error(errno), sysctl).to_string();
            assert!(missing.starts_with("io_uring: ") && missing.contains(fix), "{missing}");
        }
    }

    #[test]
    fn limits_are_judged_at_their_bounds() {
        assert_eq!(judge_memlock(MEMLOCK_LEN_MIN), None);
        assert!(judge_memlock(MEMLOCK_LEN_MIN - 1).unwrap().to_string().contains("ulimit -l"));
        assert_eq!(judge_open_files(OPEN_FILES_MIN), None);
        assert!(judge_open_files(1024).unwrap().to_string().contains("ulimit -n"));
    }
}
