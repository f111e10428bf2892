//! How much memory is ours when the operator does not say: half of the cgroup's limit or of the machine.
//!
//! The files of `/proc` and `/sys` are read through a function that is handed in, so that every kind of container
//! is a table test. A limit anywhere on the way to the root of the hierarchy counts, version 1 and version 2; so does version 2's
//! `memory.high`, above which the kernel slows the process down.

pub(crate) mod page;
pub(crate) mod watch;

use std::fmt;

/// Where the default was taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Available {
    /// What there is, in bytes.
    pub(crate) bytes: u64,
    /// The file that said so.
    pub(crate) source: String,
}

impl fmt::Display for Available {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} MiB by {}", self.bytes >> 20, self.source)
    }
}

/// No default below this: the least that `--memory` accepts.
const LEAST: u64 = 16 << 20;
/// A limit at or above this is how version 1 says "none".
const UNLIMITED: u64 = 1 << 62;

/// Returns half of the available memory, at least 16 MiB.
pub(crate) fn default_limit(available: &Available) -> u64 {
    (available.bytes / 2).max(LEAST)
}

/// Returns how much of the page cache the store may count on when nobody says: half of what a limit leaves, nothing if that is not known.
pub(crate) fn default_mapped(available: Option<&Available>, limit: u64) -> u64 {
    available.map_or(0, |available| available.bytes.saturating_sub(limit) / 2)
}

/// Reads a small file of `/proc` or `/sys`; `None` if it is not there.
pub(crate) fn read_file(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Returns the least of the machine's memory and every limit on our cgroups; `None` if nothing could be read.
pub(crate) fn available(read: &dyn Fn(&str) -> Option<String>) -> Option<Available> {
    let machine = read("/proc/meminfo")
        .and_then(|text| mem_total(&text))
        .map(|bytes| Available { bytes, source: "/proc/meminfo".to_owned() });
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    limit_files(&groups)
        .into_iter()
        .filter_map(|path| {
            let bytes = limit(&read(&path)?)?;
            Some(Available { bytes, source: path })
        })
        .chain(machine)
        .min_by_key(|found| found.bytes)
}

/// Returns `MemTotal` of `/proc/meminfo` in bytes.
fn mem_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Returns the limit that a file of either version states; `None` for no limit.
fn limit(text: &str) -> Option<u64> {
    let bytes: u64 = text.trim().parse().ok()?;
    (bytes > 0 && bytes < UNLIMITED).then_some(bytes)
}

/// Lists the files that may hold a limit on us, given `/proc/self/cgroup`: each group from ours up to the root.
///
/// In a container the named path often lies outside of what is mounted; the root of the mount is then our group,
/// so the roots are always asked.
fn limit_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (mount, names): (_, &[&str]) = if controllers.is_empty() {
            ("/sys/fs/cgroup", &["memory.max", "memory.high"])
        } else if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", &["memory.limit_in_bytes"])
        } else {
            continue;
        };
        // A path may leave our namespace with `..`; what is above is not mounted here.
        let mut group = if path.contains("..") { "" } else { path.trim_end_matches('/') };
        loop {
            files.extend(names.iter().map(|name| format!("{mount}{group}/{name}")));
            match group.rfind('/') {
                Some(at) => group = &group[..at],
                None => break,
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:       16384000 kB\nMemFree:         1234 kB\n";
    const MACHINE: u64 = 16_384_000 * 1024;

    fn found(files: &[(&str, &str)]) -> Option<Available> {
        available(&|path| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned()))
    }

    fn bytes(files: &[(&str, &str)]) -> u64 {
        found(files).expect("something is found").bytes
    }

    #[test]
    fn without_a_limit_the_machine_counts() {
        assert_eq!(bytes(&[("/proc/meminfo", MEMINFO)]), MACHINE);
        let unlimited = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/user.slice/a.scope\n"),
            ("/sys/fs/cgroup/user.slice/a.scope/memory.max", "max\n"),
        ];
        assert_eq!(bytes(&unlimited), MACHINE);
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[("/proc/meminfo", "MemTotal: lots kB\n")]), None);
    }

    #[test]
    fn the_least_limit_on_the_way_to_the_root_counts_in_version_2() {
        let files = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/a/b/c\n"),
            ("/sys/fs/cgroup/a/b/c/memory.max", "4294967296\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "1073741824\n"),
        ];
        let found = found(&files).expect("a limit");
        assert_eq!(found, Available { bytes: 1 << 30, source: "/sys/fs/cgroup/a/memory.max".to_owned() });
        assert_eq!(default_limit(&found), 1 << 29);
        assert_eq!(found.to_string(), "1024 MiB by /sys/fs/cgroup/a/memory.max");
    }

    #[test]
    fn what_slows_the_process_down_counts_like_what_ends_it() {
        let files = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.max", "4294967296\n"),
            ("/sys/fs/cgroup/a/b/memory.high", "max\n"),
            ("/sys/fs/cgroup/a/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.high", "2147483648\n"),
        ];
        let found = found(&files).expect("a limit");
        assert_eq!((found.bytes, found.source.as_str()), (2 << 30, "/sys/fs/cgroup/a/memory.high"));
    }

    #[test]
    fn a_container_whose_group_is_the_mounts_root_is_seen() {
        for group in ["0::/\n", "0::/../other\n", "0::/outer/path/not/mounted\n"] {
            let files = [
                ("/proc/meminfo", MEMINFO),
                ("/proc/self/cgroup", group),
                ("/sys/fs/cgroup/memory.max", "536870912"),
            ];
            assert_eq!(bytes(&files), 512 << 20, "{group}");
        }
    }

    #[test]
    fn version_1_is_read_and_its_word_for_none_is_known() {
        let groups = "12:cpu,cpuacct:/x\n7:memory:/docker/abc\n0::/\n";
        let limited = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", groups),
            ("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "268435456\n"),
        ];
        assert_eq!(bytes(&limited), 256 << 20);
        let unlimited = [
            ("/proc/meminfo", MEMINFO),
            ("/proc/self/cgroup", groups),
            ("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(bytes(&unlimited), MACHINE);
    }

    #[test]
    fn a_tiny_container_still_gets_the_least() {
        assert_eq!(default_limit(&Available { bytes: 8 << 20, source: String::new() }), LEAST);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available(&read_file).expect("/proc is mounted").bytes > LEAST);
    }
}
