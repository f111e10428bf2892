//! A real `aspis serve` for the drivers: started before an origin, with its listener, its admin port and its gauges.

use crate::http::Reader;
use crate::process::Server;
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
}
