//! What the kernel tells of processes, their threads and the machine, read from `/proc`.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// Returns `root` and all processes below it.
pub(super) fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(parent) = stat_field(id, 4) {
            children.entry(parent as u32).or_default().push(id);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(id) = found.get(next) {
        found.extend(children.remove(id).unwrap_or_default());
        next += 1;
    }
    found
}

/// Returns the bytes of memory that the machine has.
pub(crate) fn memory_of_machine() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| io::Error::other("the machine does not say how much memory it has"))
}

/// Returns the time that the machine's host gave to others although one of its CPUs had something to do, in steps of 10 ms.
pub(crate) fn stolen(cpu: usize) -> Duration {
    stolen_of(&fs::read_to_string("/proc/stat").unwrap_or_default(), cpu)
}

fn stolen_of(stat: &str, cpu: usize) -> Duration {
    let name = format!("cpu{cpu}");
    let line = stat.lines().find(|line| line.split_whitespace().next() == Some(&name));
    let ticks = line.and_then(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
    Duration::from_millis(ticks.unwrap_or(0) * 10)
}

/// Returns the time on a CPU of this process so far.
pub(crate) fn own_cpu() -> Duration {
    Duration::from_nanos(cpu_nanos(std::process::id()))
}

/// Returns a field of `/proc/PID/stat`, numbered as in proc(5).
pub(super) fn stat_field(id: u32, number: usize) -> Option<u64> {
    field_of(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?, number)
}

/// Returns a field of such a file's text.
fn field_of(stat: &str, number: usize) -> Option<u64> {
    // The second field is the name in parentheses and may hold anything.
    let rest = &stat[stat.rfind(')')? + 1..];
    rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// Returns the resident bytes of one process; of pages that several share, its part.
pub(super) fn proportional_bytes(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Returns the time on a CPU of all threads of one process.
pub(super) fn cpu_nanos(id: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| first_number(&task.path().join("schedstat"))).sum()
}

fn first_number(path: &Path) -> Option<u64> {
    let mut text = String::new();
    fs::File::open(path).ok()?.read_to_string(&mut text).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Returns the threads of a process whose names begin so.
pub(super) fn threads(id: u32, prefix: &str) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{id}/task"))? {
        let path = entry?.path();
        let is_meant = fs::read_to_string(path.join("comm"))?.starts_with(prefix);
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        found.extend(number.filter(|_| is_meant));
    }
    Ok(found)
}

/// Returns how often a thread of a process waited for a page that was not in memory.
pub(super) fn major_faults(id: u32, thread: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/task/{thread}/stat"))?;
    Ok(field_of(&stat, 12).unwrap_or(0))
}

/// Returns how many bytes a process had the kernel write to devices so far; `None` if that is not counted.
pub(super) fn device_writes(id: u32) -> io::Result<Option<u64>> {
    let text = fs::read_to_string(format!("/proc/{id}/io"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    Ok(line.and_then(|line| line.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_that_of_the_cpu() {
        let stat = "cpu  1 2 3 4 5 6 7 99 0 0\ncpu1 1 2 3 4 5 6 7 8 9 10\ncpu10 1 2 3 4 5 6 7 70 9 10\n";
        assert_eq!(stolen_of(stat, 1), Duration::from_millis(80));
        assert_eq!(stolen_of(stat, 10), Duration::from_millis(700));
        assert_eq!(stolen_of(stat, 2), Duration::ZERO);
    }
}
