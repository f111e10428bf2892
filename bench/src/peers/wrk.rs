//! The load at saturation: `wrk` on a core of its own, with a script of ours for what is asked and for its report as numbers.

use crate::process::{Scratch, find_program, pinned};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// An answer that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints what was measured in one line.
const REPORT: &str = r#"
function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format("aspis-bench %.0f %.0f %.0f %.0f %.0f %.0f %.0f\n", summary.requests, summary.bytes, summary.duration, failed,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

/// Sends what a file of paths says, a batch at a time.
const REQUESTS: &str = r#"
local batches, at = {}, 0
function init(args)
  local made, batch = {}, {}
  for path in io.lines(PATHS) do
    made[path] = made[path] or wrk.format("GET", path)
    batch[#batch + 1] = made[path]
    if #batch == DEPTH then
      batches[#batches + 1] = table.concat(batch)
      batch = {}
    end
  end
end
function request()
  at = at % #batches + 1
  return batches[at]
end
"#;

/// What a load reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    /// Heads included, and answers that were not complete at the end.
    pub(crate) bytes: u64,
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) p999: Duration,
}

/// The program.
#[derive(Debug)]
pub(crate) struct Wrk {
    program: PathBuf,
    scratch: Scratch,
    scripts: AtomicUsize,
}

/// What is asked of a server.
#[derive(Debug)]
pub(crate) struct Script {
    file: PathBuf,
    path: String,
}

impl Wrk {
    /// Finds the program.
    pub(crate) fn find() -> io::Result<Self> {
        let program = find_program("wrk").ok_or_else(|| {
            io::Error::other(
                "wrk is not installed, and without it there is no load: install the Debian package wrk",
            )
        })?;
        Ok(Self { program, scratch: Scratch::new()?, scripts: AtomicUsize::new(0) })
    }

    /// Prepares to ask for `paths` one after the other and from the start again, `depth` at once.
    pub(crate) fn script(&self, paths: &[String], depth: u32) -> io::Result<Script> {
        let number = self.scripts.fetch_add(1, Ordering::Relaxed);
        let file = self.scratch.path().join(format!("{number}.lua"));
        let mut text = REPORT.to_owned();
        let path = paths.first().cloned().unwrap_or_else(|| "/".to_owned());
        // One path and no pipelining is what the program does by itself, at less cost than any script.
        if paths.len() > 1 || depth > 1 {
            let list = self.scratch.path().join(format!("{number}.paths"));
            let repeats = if paths.len() > 1 { 1 } else { depth as usize };
            fs::write(&list, (paths.join("\n") + "\n").repeat(repeats))?;
            let requests = REQUESTS.replace("PATHS", &format!("{:?}", list.display().to_string()));
            // Writing into a string cannot fail.
            let _ = write!(text, "{}", requests.replace("DEPTH", &depth.to_string()));
        }
        fs::write(&file, text)?;
        Ok(Script { file, path })
    }

    /// Loads `address` from `core` for `length`. Answers that are no success, and errors of sockets, are an error: such a load measures
    /// something else.
    pub(crate) fn run(
        &self,
        core: usize,
        address: SocketAddr,
        script: &Script,
        connections: u32,
        length: Duration,
    ) -> io::Result<Load> {
        let mut command = pinned(&self.program, Some(core));
        command.arg("-t1").arg(format!("-c{connections}")).arg(format!("-d{}s", length.as_secs().max(1)));
        command.arg(format!("--timeout={}s", PATIENCE.as_secs())).arg("-s").arg(&script.file);
        let output = command.arg(format!("http://{address}{}", script.path)).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        parse(&text).map_err(|what| {
            let errors = String::from_utf8_lossy(&output.stderr);
            io::Error::other(format!("wrk against {address}: {what}\n{text}{errors}"))
        })
    }
}

/// Reads the line of our script.
fn parse(text: &str) -> Result<Load, String> {
    let line = text.lines().find_map(|line| line.strip_prefix("aspis-bench ")).ok_or("no report")?;
    let numbers: Vec<u64> = line.split(' ').filter_map(|digits| digits.parse().ok()).collect();
    let &[requests, bytes, micros, failed, p50, p99, p999] = numbers.as_slice() else {
        return Err(format!("an odd report: {line:?}"));
    };
    if failed > 0 {
        return Err(format!("{failed} of {requests} failed"));
    }
    if requests == 0 || micros == 0 {
        return Err("no answer at all".into());
    }
    Ok(Load {
        requests,
        bytes,
        per_second: requests as f64 * 1e6 / micros as f64,
        p50: Duration::from_micros(p50),
        p99: Duration::from_micros(p99),
        p999: Duration::from_micros(p999),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let load =
            parse("Requests/sec:  60100.25\naspis-bench 120200 9000000 2000000 0 541 2500 9000\n").unwrap();
        assert_eq!((load.requests, load.bytes, load.per_second), (120_200, 9_000_000, 60_100.0));
        assert_eq!((load.p50, load.p999), (Duration::from_micros(541), Duration::from_micros(9000)));
    }

    #[test]
    fn a_load_with_errors_does_not_count() {
        assert_eq!(
            parse("aspis-bench 120200 9000000 2000000 3 541 2500 9000\n").unwrap_err(),
            "3 of 120200 failed"
        );
        assert!(parse("aspis-bench 0 0 2000000 0 0 0 0\n").is_err());
        assert!(parse("aspis-bench 1 2\n").is_err());
        assert!(parse("").is_err());
    }
}
