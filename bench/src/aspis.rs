//! A real `aspis serve` for the drivers: started before an origin, with its listener, its admin port and its gauges.

use crate::http::Reader;
use crate::process::Server;
use crate::wait;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// A running product.
#[derive(Debug)]
pub(crate) struct Aspis {
    pub(crate) server: Server,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Aspis {
    /// Starts `aspis serve` before `origin` on ports of the kernel's choice.
    pub(crate) fn start(
        program: &Path,
        origin: SocketAddr,
        core: Option<usize>,
        flags: &[&str],
    ) -> io::Result<Self> {
        Self::start_with(program, origin, core, flags, &[])
    }

    /// The same with these environment variables added.
    pub(crate) fn start_with(
        program: &Path,
        origin: SocketAddr,
        core: Option<usize>,
        flags: &[&str],
        environment: &[(&str, &str)],
    ) -> io::Result<Self> {
        let origin = format!("http://{origin}");
        let fixed = ["serve", "--origin", &origin, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        // Who judges answers must not meet refusals that neighbours of the machine bring about.
        let patient: &[&str] = if flags.contains(&"--shed-after") { &[] } else { &["--shed-after", "0"] };
        let arguments: Vec<String> =
            fixed.iter().chain(flags).chain(patient).map(|&word| word.to_owned()).collect();
        let mut server = Server::start_with("aspis", program, &arguments, core, environment)?;
        let address = server.announced("listening on ")?;
        let admin = server.announced("admin listening on ")?;
        Ok(Self { server, address, admin })
    }

    /// Returns all samples of `/metrics` as pairs of name with labels and value.
    pub(crate) fn metrics(&self) -> io::Result<Vec<(String, f64)>> {
        let mut reader = Reader::connect(self.admin, Duration::from_secs(10))?;
        reader.stream().write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
        let unreadable = |fault| io::Error::other(format!("the admin port's answer: {fault:?}"));
        let (_, text) = reader.answer().map_err(unreadable)?;
        Ok(parse(&String::from_utf8_lossy(&text)))
    }

    /// Waits until nothing waits any more to be written to its disk.
    pub(crate) fn written(&self, limit: Duration) -> io::Result<()> {
        let queued = || sum(&self.metrics().ok()?, "aspis_disk_queue_bytes");
        if wait::until(limit, || queued() == Some(0.0)) {
            return Ok(());
        }
        Err(io::Error::other(format!("what is stored is not written after {} s", limit.as_secs())))
    }
}

/// Reads Prometheus text.
fn parse(text: &str) -> Vec<(String, f64)> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// Returns the sum over all labels of the metric called `name`; `None` when there is none.
pub(crate) fn sum(metrics: &[(String, f64)], name: &str) -> Option<f64> {
    let same = |sample: &&(String, f64)| sample.0.split('{').next() == Some(name);
    let mut found = metrics.iter().filter(same).peekable();
    found.peek()?;
    Some(found.map(|(_, value)| value).sum())
}

/// Returns the value of one sample, its labels included in the name; `None` when there is none.
pub(crate) fn sample(metrics: &[(String, f64)], name: &str) -> Option<f64> {
    metrics.iter().find(|(own, _)| own == name).map(|(_, value)| *value)
}

/// A histogram of the server's: how many durations were no longer than each bound, in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Histogram {
    rows: Vec<(f64, f64)>,
}

impl Histogram {
    /// Reads the family called `name`; nothing in it when there is none.
    pub(crate) fn read(metrics: &[(String, f64)], name: &str) -> Self {
        let prefix = format!("{name}_bucket{{le=\"");
        let row = |(own, count): &(String, f64)| {
            let bound = own.strip_prefix(&prefix)?.split('"').next()?.parse().ok()?;
            Some((bound, *count))
        };
        Self { rows: metrics.iter().filter_map(row).collect() }
    }

    /// Returns what came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let rows = self.rows.iter().zip(&before.rows);
        Self { rows: rows.map(|((bound, count), (_, before))| (*bound, count - before)).collect() }
    }

    /// Adds another one's durations.
    pub(crate) fn add(&mut self, other: &Self) {
        if self.rows.is_empty() {
            self.rows.clone_from(&other.rows);
            return;
        }
        self.rows.iter_mut().zip(&other.rows).for_each(|(own, (_, more))| own.1 += more);
    }

    /// Returns how many durations there are.
    pub(crate) fn count(&self) -> f64 {
        self.rows.last().map_or(0.0, |(_, count)| *count)
    }

    /// Returns the first bound that no more than the rest beyond `share` is above; not a number when it is empty.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let wanted = self.count() * share;
        let found = self.rows.iter().find(|(_, count)| *count >= wanted && *count > 0.0);
        found.map_or(f64::NAN, |(bound, _)| *bound)
    }
}

/// Returns the one sample or the sum over all labels, whichever the name is of; not a number when there is neither.
pub(crate) fn figure(metrics: &[(String, f64)], name: &str) -> f64 {
    sum(metrics, name).or_else(|| sample(metrics, name)).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_labels() {
        let metrics = parse("# HELP a b\n# TYPE a gauge\na{core=\"0\"} 1\na{core=\"1\"} 2.5\nab 9\n# EOF\n");
        assert_eq!(sum(&metrics, "a"), Some(3.5));
        assert_eq!(sum(&metrics, "ab"), Some(9.0));
        assert_eq!(sum(&metrics, "b"), None);
        assert_eq!(sample(&metrics, "a{core=\"1\"}"), Some(2.5));
        assert_eq!(sample(&metrics, "a"), None);
        assert_eq!((figure(&metrics, "a"), figure(&metrics, "a{core=\"1\"}")), (3.5, 2.5));
        assert!(figure(&metrics, "b").is_nan());
    }

    #[test]
    fn a_histogram_tells_the_bound_of_a_share() {
        let read = |counts: [u32; 3]| {
            let [few, more, all] = counts;
            let text = format!(
                "a_bucket{{le=\"0.5\"}} {few}\na_bucket{{le=\"1\"}} {more}\na_bucket{{le=\"+Inf\"}} {all}\nab_bucket{{le=\"1\"}} 7\n"
            );
            Histogram::read(&parse(&text), "a")
        };
        let later = read([15, 109, 110]).since(&read([10, 10, 10]));
        assert_eq!((later.count(), later.quantile(0.05), later.quantile(0.99)), (100.0, 0.5, 1.0));
        assert_eq!(later.quantile(0.999), f64::INFINITY);
        let mut twice = read([0, 0, 0]);
        twice.add(&later);
        twice.add(&later);
        assert_eq!((twice.count(), twice.quantile(0.99)), (200.0, 1.0));
        assert!(read([0, 0, 0]).quantile(0.5).is_nan() && Histogram::read(&[], "a").quantile(0.5).is_nan());
    }
}
