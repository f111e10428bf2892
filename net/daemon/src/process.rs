//! What the kernel says about this process: memory, open files, processor time, start.

/// Figures of the process at one moment. What could not be read is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ProcessFigures {
    /// Resident memory in bytes.
    pub(crate) resident_len: u64,
    /// Resident memory that is ours alone: anonymous and shared, without mapped files.
    pub(crate) resident_private_len: u64,
    /// Address space in bytes.
    pub(crate) virtual_len: u64,
    /// Open files.
    pub(crate) open_files: u64,
    /// Most open files allowed.
    pub(crate) open_files_max: u64,
    /// Threads.
    pub(crate) threads: u64,
    /// Processor time used, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Start of the process, in seconds since the epoch.
    pub(crate) started_at: f64,
}

/// Ticks per second in `/proc/self/stat`. Linux fixes it for user space on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;

impl ProcessFigures {
    /// Reads the figures from `/proc`.
    pub(crate) fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let open_files = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        ProcessFigures {
            // The listing's own descriptor is open while it is counted.
            open_files: open_files.saturating_sub(1),
            ..parse(
                &text("/proc/self/status"),
                &text("/proc/self/stat"),
                &text("/proc/self/limits"),
                &text("/proc/stat"),
            )
        }
    }
}

/// Returns the resident memory that is ours alone; what [`ProcessFigures::resident_private_len`] is, without the rest.
pub(crate) fn private_len() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    parse(&status, "", "", "").resident_private_len
}

fn parse(status: &str, stat: &str, limits: &str, machine: &str) -> ProcessFigures {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let kilobytes = |name| field(name).unwrap_or(0) * 1024;
    // The second field is the name in parentheses and may hold blanks; the rest is counted from the third.
    let rest: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| rest.get(index - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let boot: f64 =
        machine.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0.0);
    let files_max = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    ProcessFigures {
        resident_len: kilobytes("VmRSS"),
        resident_private_len: kilobytes("RssAnon") + kilobytes("RssShmem"),
        virtual_len: kilobytes("VmSize"),
        open_files: 0,
        open_files_max: files_max,
        threads: field("Threads").unwrap_or(0),
        cpu_seconds: (ticks(14) + ticks(15)) / TICKS_PER_SECOND,
        started_at: boot + ticks(22) / TICKS_PER_SECOND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_the_kernels_texts() {
        let status = "Name:\taspis\nVmSize:\t  2048 kB\nVmRSS:\t  100 kB\nRssAnon:\t 60 kB\nRssFile:\t 35 kB\n\
                      RssShmem:\t 5 kB\nThreads:\t7\n";
        let stat = "42 (as) p is) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 7 0 1000 2097152 25";
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        let figures = parse(status, stat, limits, "cpu 1 2\nbtime 1700000000\n");
        assert_eq!(
            figures,
            ProcessFigures {
                resident_len: 100 << 10,
                resident_private_len: 65 << 10,
                virtual_len: 2048 << 10,
                open_files: 0,
                open_files_max: 1024,
                threads: 7,
                cpu_seconds: 3.0,
                started_at: 1_700_000_010.0,
            }
        );
        assert_eq!(parse("", "", "", ""), ProcessFigures::default());
    }

    #[test]
    fn this_process_has_figures() {
        let figures = ProcessFigures::read();
        assert!(figures.resident_len > 100_000, "{figures:?}");
        assert!(figures.open_files >= 3 && figures.open_files_max >= figures.open_files, "{figures:?}");
        assert!(figures.threads >= 1 && figures.started_at > 1.0e9, "{figures:?}");
    }
}
