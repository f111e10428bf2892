//! The load: `wrk` on a core of its own, and its report as numbers.

use crate::process::pinned;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// What one run of `wrk` reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub(crate) requests: u64,
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Loads `path` at `address` from `core` for `length`.
pub(crate) fn run(
    wrk: &Path,
    core: usize,
    address: SocketAddr,
    path: &str,
    connections: u32,
    length: Duration,
) -> io::Result<Load> {
    let mut command = pinned(wrk, Some(core));
    command.args([
        "-t1",
        "--latency",
        &format!("-c{connections}"),
        &format!("-d{}s", length.as_secs().max(1)),
    ]);
    let output = command.arg(format!("http://{address}{path}")).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).map_err(|what| io::Error::other(format!("wrk against {address}: {what}\n{text}")))
}

/// Reads the report; answers that are no success, and errors of sockets, are an error: such a round measures something else.
fn parse(text: &str) -> Result<Load, String> {
    for line in text.lines().map(str::trim) {
        if line.starts_with("Socket errors:") || line.starts_with("Non-2xx") {
            return Err(line.to_owned());
        }
    }
    let value = |prefix: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(prefix));
        line.map(str::trim).ok_or_else(|| format!("no {prefix:?} in its report"))
    };
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
        .ok_or("no count of requests in its report")?;
    let per_second = value("Requests/sec:")?.parse().map_err(|_| "no rate in its report")?;
    Ok(Load { requests, per_second, p50: latency(value("50%")?)?, p99: latency(value("99%")?)? })
}

/// Reads `12.34us`, `1.20ms` or `3.00s`.
fn latency(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err(format!("no latency: {text:?}")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("no latency: {text:?}"))?;
    Duration::try_from_secs_f64(number * scale).map_err(|_| format!("no latency: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 2s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.05ms  120.00us   3.00ms   80.00%\n    \
        Req/Sec    60.10k     1.00k   62.00k    70.00%\n  Latency Distribution\n     50%  541.00us\n     75%    1.10ms\n     \
        90%    1.20ms\n     99%    2.50ms\n  120200 requests in 2.00s, 150.00MB read\nRequests/sec:  60100.25\n\
        Transfer/sec:     75.00MB\n";

    #[test]
    fn a_report_is_read() {
        let load = parse(REPORT).unwrap();
        assert_eq!((load.requests, load.per_second), (120_200, 60_100.25));
        assert_eq!((load.p50, load.p99), (Duration::from_micros(541), Duration::from_micros(2500)));
    }

    #[test]
    fn a_round_with_errors_does_not_count() {
        let failed = format!("{REPORT}  Non-2xx or 3xx responses: 3\n");
        assert_eq!(parse(&failed).unwrap_err(), "Non-2xx or 3xx responses: 3");
        assert!(parse("").is_err());
    }
}
