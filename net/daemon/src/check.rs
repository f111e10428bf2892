//! `aspis check`: would `aspis serve` with these flags work here?
//!
//! Flags, kernel, cores, memory, the store on disk, the origin's name and the origin itself are tried in the order in which serving
//! would need them, without serving. The answer is a table on standard output; the exit code is 0 if everything that
//! is needed is there, 1 if not, 2 if a flag is wrong. This speaks TLS without a ring, which no shard does, so it is
//! the one place of the daemon that names rustls.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aspis_config::{Raw, Settings};
use aspis_runtime::probe::KernelReport;
use rustls::{ClientConfig, ClientConnection};

use crate::dns::OriginName;
use crate::{EXIT_DONE, EXIT_FAILED, cores, memory, origin_tls, stdout, store};

/// Most addresses of the origin that are tried.
const ADDRESS_COUNT_MAX: usize = 8;
/// Longest wait for the name, and for the origin's first bytes, whatever the flags allow.
const PATIENCE_MAX: Duration = Duration::from_secs(10);
/// Bytes of the origin's answer that are read to find its status.
const ANSWER_LEN_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Fit.
    Good,
    /// Worth a look, but serving works.
    Warn,
    /// Serving would not work.
    Bad,
}

/// The table so far.
#[derive(Debug, Default)]
struct Report {
    rows: Vec<(Verdict, &'static str, String)>,
}

impl Report {
    fn add(&mut self, verdict: Verdict, what: &'static str, finding: impl Into<String>) {
        self.rows.push((verdict, what, finding.into()));
    }

    fn code(&self) -> u8 {
        if self.rows.iter().any(|(verdict, ..)| *verdict == Verdict::Bad) { EXIT_FAILED } else { EXIT_DONE }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (verdict, what, finding) in &self.rows {
            let word = match verdict {
                Verdict::Good => "ok",
                Verdict::Warn => "warn",
                Verdict::Bad => "FAIL",
            };
            for (line, part) in finding.lines().enumerate() {
                let (word, what) = if line == 0 { (word, *what) } else { ("", "") };
                // A String accepts every write.
                let _ = writeln!(text, "{}", format!("{word:<5} {what:<8} {part}").trim_end());
            }
        }
        text.push_str(match self.code() {
            EXIT_DONE => "fit to serve\n",
            _ => "not fit to serve\n",
        });
        text
    }
}

/// Checks and prints the table; returns the exit code.
pub(crate) fn run(raw: &Raw) -> u8 {
    let settings = match crate::settings(raw) {
        Ok(settings) => settings,
        Err(code) => return code,
    };
    let mut report = Report::default();
    report.add(Verdict::Good, "flags", format!("valid; semantics {}", settings.semantics.as_str()));
    check_machine(&settings, &mut report);
    check_disk(&settings, &mut report);
    check_origin(&settings, &mut report);
    stdout::print(&report.text());
    report.code()
}

fn check_machine(settings: &Settings, report: &mut Report) {
    match aspis_runtime::probe::probe() {
        Ok(kernel) => report.add(Verdict::Good, "kernel", kernel_text(&kernel)),
        Err(missing) => {
            for lack in missing {
                report.add(Verdict::Bad, "kernel", lack.to_string());
            }
        }
    }
    match cores::choose(&settings.cores, &aspis_runtime::bind::available_cpus()) {
        Ok(cpus) => {
            let listed: Vec<String> = cpus.iter().map(usize::to_string).collect();
            report.add(Verdict::Good, "cores", format!("{} ({})", cpus.len(), listed.join(",")));
        }
        Err(text) => report.add(Verdict::Bad, "cores", text),
    }
    match (settings.memory, memory::available(&memory::read_file)) {
        (Some(limit), Some(available)) if limit > available.bytes => {
            report.add(
                Verdict::Warn,
                "memory",
                format!("--memory {} MiB is more than {available}", limit >> 20),
            );
        }
        (Some(limit), _) => report.add(Verdict::Good, "memory", format!("{} MiB", limit >> 20)),
        (None, Some(available)) => {
            let limit = memory::default_limit(&available);
            report.add(Verdict::Good, "memory", format!("{} MiB, half of {available}", limit >> 20));
        }
        (None, None) => report.add(Verdict::Bad, "memory", "cannot be read from /proc; give --memory"),
    }
}

/// Looks at the store of `--disk` as far as that can be done without making or changing it.
fn check_disk(settings: &Settings, report: &mut Report) {
    let cpus = cores::choose(&settings.cores, &aspis_runtime::bind::available_cpus());
    let found = memory::available(&memory::read_file);
    // What cannot be known of cores and memory was told above.
    let (Ok(cpus), Some(memory)) = (cpus, settings.memory.or(found.as_ref().map(memory::default_limit)))
    else {
        return;
    };
    let Some(wanted) = store::Wanted::of(settings, cpus.len(), memory) else { return };
    match store::foresee(&wanted) {
        Ok(text) => report.add(Verdict::Good, "disk", text),
        Err(text) => report.add(Verdict::Bad, "disk", text),
    }
}

fn kernel_text(kernel: &KernelReport) -> String {
    let locked = match kernel.memlock_len {
        u64::MAX => "unlimited".to_owned(),
        len => format!("{} MiB", len >> 20),
    };
    let waits = if kernel.batched_waits { "with" } else { "without" };
    format!(
        "Linux {}, {waits} batched waits; {} open files, {locked} locked memory",
        kernel.release, kernel.open_files
    )
}

fn check_origin(settings: &Settings, report: &mut Report) {
    let tls = match origin_tls::config(settings) {
        Ok(tls) => tls,
        Err(text) => return report.add(Verdict::Bad, "trust", text),
    };
    let name = OriginName::new(&settings.origin.host, settings.origin.port);
    let addresses = match look_up(&name) {
        Ok(addresses) => addresses,
        Err(cause) => {
            return report.add(
                Verdict::Bad,
                "name",
                format!("{} cannot be resolved: {cause}", settings.origin.host),
            );
        }
    };
    let listed: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    report.add(Verdict::Good, "name", format!("{} is at {}", settings.origin.host, listed.join(", ")));
    let findings: Vec<_> = addresses
        .iter()
        .take(ADDRESS_COUNT_MAX)
        .map(|&address| (address, ask(settings, address, tls.as_ref())))
        .collect();
    // One good address is enough to serve; the others are worth knowing.
    let any_good = findings.iter().any(|(_, finding)| finding.is_ok());
    for (address, finding) in findings {
        match finding {
            Ok(text) => report.add(Verdict::Good, "origin", format!("{address}: {text}")),
            Err(text) => {
                let verdict = if any_good { Verdict::Warn } else { Verdict::Bad };
                report.add(verdict, "origin", format!("{address}: {text}"));
            }
        }
    }
}

fn look_up(name: &OriginName) -> Result<Vec<SocketAddr>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the resolver cannot start: {error}"))?;
    runtime.block_on(async {
        match tokio::time::timeout(PATIENCE_MAX, name.lookup()).await {
            Ok(outcome) => outcome.map(|found| found.addresses),
            Err(_) => Err(format!("no answer within {} s", PATIENCE_MAX.as_secs())),
        }
    })
}

/// Connects, shakes hands and sends one HEAD request; tells how far that went.
fn ask(settings: &Settings, address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<String, String> {
    let start = Instant::now();
    let took = || format!("{:.1} ms", start.elapsed().as_secs_f64() * 1000.0);
    let socket = TcpStream::connect_timeout(&address, settings.connect_timeout)
        .map_err(|error| format!("cannot connect: {error}"))?;
    let mut text = format!("connected in {}", took());
    let patience = Some(settings.read_timeout.min(PATIENCE_MAX));
    socket
        .set_read_timeout(patience)
        .and_then(|()| socket.set_write_timeout(patience))
        .map_err(|error| format!("cannot set timeouts: {error}"))?;
    let status = match tls {
        None => status_of(socket, settings),
        Some(config) => {
            let stream = shake_hands(socket, settings, config)?;
            let version = match stream.conn.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2",
                _ => "TLS",
            };
            let _ = write!(text, ", {version} after {}", took());
            status_of(stream, settings)
        }
    }?;
    let _ = write!(text, ", answered {status} after {}", took());
    Ok(text)
}

fn shake_hands(
    socket: TcpStream,
    settings: &Settings,
    config: &Arc<ClientConfig>,
) -> Result<rustls::StreamOwned<ClientConnection, TcpStream>, String> {
    let name = aspis_shard::tls::server_name(&settings.origin.host).map_err(|error| error.to_string())?;
    let connection =
        ClientConnection::new(Arc::clone(config), name).map_err(|error| format!("TLS: {error}"))?;
    let mut stream = rustls::StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream
            .conn
            .complete_io(&mut stream.sock)
            .map_err(|error| format!("TLS handshake failed: {}", reason(&error)))?;
    }
    Ok(stream)
}

/// Asks for the origin's front page with HEAD and returns the status code.
fn status_of(mut stream: impl Read + Write, settings: &Settings) -> Result<u16, String> {
    let origin = &settings.origin;
    let request = format!(
        "HEAD {}/ HTTP/1.1\r\nHost: {}\r\nUser-Agent: aspis-check\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        origin.path_prefix,
        origin.authority()
    );
    stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.flush())
        .map_err(|error| format!("connected, but the request failed: {}", reason(&error)))?;
    let mut answer = Vec::new();
    let mut piece = [0; 512];
    while answer.len() < ANSWER_LEN_MAX && !answer.contains(&b'\n') {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("connected, but no answer came: {}", reason(&error))),
        }
    }
    status_code(&answer).ok_or_else(|| "connected, but the answer is not HTTP/1".to_owned())
}

/// Finds the status code of an HTTP/1 answer.
fn status_code(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.0 ").or_else(|| answer.strip_prefix(b"HTTP/1.1 "))?;
    let digits = std::str::from_utf8(line.get(..3)?).ok()?;
    let is_ended = matches!(line.get(3), Some(b' ' | b'\r' | b'\n'));
    if is_ended { digits.parse().ok() } else { None }
}

/// Words an error; a timeout on a socket is called `WouldBlock` by the system.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn settings(origin: &str) -> Settings {
        let raw: Raw =
            [("origin", origin), ("connect-timeout", "2s"), ("read-timeout", "1s")].into_iter().collect();
        aspis_config::check(&raw).expect("sound flags")
    }

    fn answering(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("the check connects");
            let mut request = [0; 1024];
            let _ = socket.read(&mut request);
            let _ = socket.write_all(answer);
        });
        address
    }

    fn report_on(address: SocketAddr) -> Report {
        let mut report = Report::default();
        check_origin(&settings(&format!("http://{address}")), &mut report);
        report
    }

    #[test]
    fn an_origin_that_answers_is_fit_whatever_its_status() {
        let report = report_on(answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(report.code(), EXIT_DONE);
        assert!(report.text().contains("answered 404 after"), "{}", report.text());
        assert!(report.text().ends_with("\nfit to serve\n"));
    }

    #[test]
    fn an_origin_that_refuses_or_speaks_something_else_is_not_fit() {
        let closed =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let report = report_on(closed);
        assert_eq!(report.code(), EXIT_FAILED);
        assert!(
            report.text().contains("FAIL  origin") && report.text().contains("cannot connect"),
            "{}",
            report.text()
        );
        let report = report_on(answering(b"SSH-2.0-OpenSSH_9.2\r\n"));
        assert!(report.text().contains("the answer is not HTTP/1"), "{}", report.text());
        assert!(report.text().ends_with("\nnot fit to serve\n"));
    }

    #[test]
    fn a_name_that_nobody_knows_is_not_fit() {
        let mut report = Report::default();
        check_origin(&settings("http://no-such-host.invalid"), &mut report);
        assert_eq!(report.code(), EXIT_FAILED);
        assert!(report.text().contains("no-such-host.invalid cannot be resolved"), "{}", report.text());
    }

    #[test]
    fn an_http_server_behind_an_https_url_is_named_as_tls() {
        let address = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let mut report = Report::default();
        check_origin(&settings(&format!("https://{address}")), &mut report);
        assert_eq!(report.code(), EXIT_FAILED);
        let text = report.text();
        assert!(text.contains("TLS handshake failed") || text.contains("trust store"), "{text}");
    }

    #[test]
    fn warnings_do_not_make_it_unfit_and_long_findings_are_indented() {
        let mut report = Report::default();
        report.add(Verdict::Good, "flags", "valid");
        report.add(Verdict::Warn, "memory", "much\nmore");
        assert_eq!(
            report.text(),
            "ok    flags    valid\nwarn  memory   much\n               more\nfit to serve\n"
        );
        assert_eq!(report.code(), EXIT_DONE);
    }

    #[test]
    fn a_status_is_three_digits_behind_the_version() {
        assert_eq!(status_code(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status_code(b"HTTP/1.0 304\r\n"), Some(304));
        for answer in [&b"HTTP/2 200\r\n"[..], b"HTTP/1.1 20", b"HTTP/1.1 2000 OK\r\n", b"", b"<html>"] {
            assert_eq!(status_code(answer), None, "{answer:?}");
        }
    }
}
