//! The real binary as a child process, found by what it prints and ended with the value.

use super::{Connection, PATIENCE, Response, Viewer, eventually, pause};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long a start may take on a machine that runs many tests at once.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// A command line of `aspis serve` in the making.
pub(crate) struct Launch {
    flags: Vec<String>,
    admin: String,
    listens: bool,
    cores: String,
    memory: String,
}

impl Launch {
    /// One core, 64 MiB, port 0 for viewers and for the admin side.
    pub(crate) fn before(origin_url: &str) -> Self {
        Self {
            flags: vec!["--origin".to_owned(), origin_url.to_owned()],
            admin: "127.0.0.1:0".to_owned(),
            listens: false,
            cores: "1".to_owned(),
            memory: "64MiB".to_owned(),
        }
    }

    pub(crate) fn with(mut self, flag: &str, value: &str) -> Self {
        match flag {
            "--cores" => value.clone_into(&mut self.cores),
            "--memory" => value.clone_into(&mut self.memory),
            "--admin" => value.clone_into(&mut self.admin),
            _ => self.flags.extend([flag.to_owned(), value.to_owned()]),
        }
        self.listens |= flag == "--listen";
        self
    }

    pub(crate) fn switch(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// The command line, to be started in some other way.
    pub(crate) fn command(mut self) -> Command {
        if !self.flags.iter().any(|flag| flag == "--shed-after") {
            // A machine that is busy with other tests must not make a server refuse what a test asks for.
            self.flags.extend(["--shed-after", "0"].map(str::to_owned));
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_aspis"));
        command.arg("serve").args(self.flags).args(["--cores", &self.cores, "--memory", &self.memory]);
        command.args(["--admin", &self.admin]);
        if !self.listens {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command
    }

    /// Starts the server and waits until it listens.
    #[track_caller]
    pub(crate) fn start(self) -> Aspis {
        Aspis::start(self.command())
    }

    /// Runs a server that is expected not to start, and returns how it ended.
    #[track_caller]
    pub(crate) fn fail(self) -> Output {
        finished(self.command())
    }
}

/// Runs the binary with these arguments until it ends by itself.
#[track_caller]
pub(crate) fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aspis"));
    command.args(arguments);
    finished(command)
}

#[track_caller]
fn finished(mut command: Command) -> Output {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    let deadline = Instant::now() + START_PATIENCE;
    while child.try_wait().expect("our own child").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let output = child.wait_with_output().expect("our own child");
            panic!("{shown} did not end by itself: {}", String::from_utf8_lossy(&output.stderr));
        }
        pause();
    }
    child.wait_with_output().expect("our own child")
}

/// A running server.
pub(crate) struct Aspis {
    child: Child,
    listeners: Vec<String>,
    admin: String,
    output: Arc<Lines>,
    errors: Arc<Lines>,
}

/// The lines that came through one pipe so far.
#[derive(Default)]
struct Lines {
    state: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Lines {
    fn collect(pipe: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let collecting = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                collecting.state.lock().expect("plain pushes do not panic").0.push(line);
                collecting.changed.notify_all();
            }
            collecting.state.lock().expect("plain pushes do not panic").1 = true;
            collecting.changed.notify_all();
        });
        lines
    }

    fn so_far(&self) -> Vec<String> {
        self.state.lock().expect("plain pushes do not panic").0.clone()
    }

    /// Waits until `probe` finds what it looks for among the lines; `None` when the pipe ends or the time is up.
    fn wait<T>(&self, patience: Duration, mut probe: impl FnMut(&[String]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock().expect("plain pushes do not panic");
        loop {
            if let Some(found) = probe(&state.0) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.1 || left.is_zero() {
                return None;
            }
            state = self.changed.wait_timeout(state, left).expect("plain pushes do not panic").0;
        }
    }
}

impl Aspis {
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let output = Lines::collect(child.stdout.take().expect("piped"));
        let errors = Lines::collect(child.stderr.take().expect("piped"));
        let found = output.wait(START_PATIENCE, |lines| {
            let admin = lines.iter().find_map(|line| line.strip_prefix("admin listening on "))?;
            let listeners = lines.iter().filter_map(|line| line.strip_prefix("listening on "));
            Some((admin.to_owned(), listeners.map(str::to_owned).collect::<Vec<_>>()))
        });
        let Some((admin, listeners)) = found else {
            let _ = child.kill();
            let status = child.wait();
            panic!(
                "{command:?} did not come up ({status:?})\nstdout: {:#?}\nstderr: {:#?}",
                output.so_far(),
                errors.so_far()
            );
        };
        Self { child, listeners, admin, output, errors }
    }

    /// The first viewer address.
    #[track_caller]
    pub(crate) fn address(&self) -> SocketAddr {
        self.listeners[0].parse().unwrap_or_else(|_| panic!("not an address and port: {:?}", self.listeners))
    }

    /// What stands after `listening on`, in order.
    pub(crate) fn listeners(&self) -> &[String] {
        &self.listeners
    }

    #[track_caller]
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.parse().unwrap_or_else(|_| panic!("not an address and port: {}", self.admin))
    }

    /// What stands after `admin listening on`.
    pub(crate) fn admin_name(&self) -> &str {
        &self.admin
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends JSON to the admin side; returns the status and the document that came back.
    #[track_caller]
    pub(crate) fn ask_admin_json(&self, method: &str, target: &str, body: &str) -> (u16, serde_json::Value) {
        let mut viewer = Viewer::to(self.admin());
        viewer.send(format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ));
        let answer = viewer.response();
        let document = serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no JSON: {answer:?}"));
        (answer.status(), document)
    }

    /// Has the admin side accept a batch of invalidations, and waits until it is completed; returns its document.
    #[track_caller]
    pub(crate) fn invalidate(&self, batch: &str) -> serde_json::Value {
        let (status, document) = self.ask_admin_json("POST", "/v1/invalidations?wait=true", batch);
        assert_eq!((status, document["status"].as_str()), (201, Some("Completed")), "{document}");
        document
    }

    /// GETs a page of the admin side.
    #[track_caller]
    pub(crate) fn ask_admin(&self, target: &str) -> Response {
        let mut viewer = Viewer::to(self.admin());
        viewer.get_with(target, "Connection: close\r\n")
    }

    /// Every line on standard output so far.
    pub(crate) fn output(&self) -> Vec<String> {
        self.output.so_far()
    }

    /// Every line on standard error so far.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.errors.so_far()
    }

    /// Waits for a line on standard output that has `part` in it.
    #[track_caller]
    pub(crate) fn wait_for_output(&self, part: &str) -> String {
        self.output
            .wait(PATIENCE, |lines| lines.iter().find(|line| line.contains(part)).cloned())
            .unwrap_or_else(|| panic!("no {part:?} on standard output: {:#?}", self.output()))
    }

    /// Waits for a line on standard error that has `part` in it.
    #[track_caller]
    pub(crate) fn wait_for_error(&self, part: &str) -> String {
        self.errors
            .wait(PATIENCE, |lines| lines.iter().find(|line| line.contains(part)).cloned())
            .unwrap_or_else(|| panic!("no {part:?} on standard error: {:#?}", self.errors()))
    }

    /// Sends the process a signal by its name without SIG.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.id())]).status();
        assert!(sent.expect("a shell is there").success(), "signal {name} could not be sent");
    }

    /// Waits for the process to end.
    #[track_caller]
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        eventually("the process ends", || self.child.try_wait().expect("our own child"))
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// One number of `/proc/PID/status` in bytes, such as `RssAnon`.
    #[track_caller]
    pub(crate) fn memory(&self, name: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the process is alive");
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).expect("a name of the status file");
        let kilobytes = line.trim_matches(|each: char| !each.is_ascii_digit());
        kilobytes.parse::<u64>().expect("a number of kB") * 1024
    }

    /// The counters that are not zero, for the message of a failure; empty when the admin side does not answer.
    fn counters(&self) -> String {
        let ask = || {
            let admin = self.admin.parse().map_err(std::io::Error::other)?;
            let socket = TcpStream::connect_timeout(&admin, Duration::from_secs(1))?;
            let mut connection = Connection::plain(socket)?;
            connection.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
            connection.read_to_end()
        };
        let page: std::io::Result<Vec<u8>> = ask();
        let page = String::from_utf8_lossy(&page.unwrap_or_default()).into_owned();
        let told = page.lines().filter(|line| line.starts_with("aspis_") && !line.ends_with(" 0"));
        told.filter(|line| !line.contains("_bucket")).collect::<Vec<_>>().join("\n")
    }

    /// The sum over all labels of one metric.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let page = self.ask_admin("/metrics");
        let text = String::from_utf8_lossy(&page.body).into_owned();
        let mut sum = None;
        for line in text.lines() {
            let Some(rest) = line.strip_prefix(name) else { continue };
            if rest.starts_with([' ', '{']) {
                let value = rest.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok());
                *sum.get_or_insert(0) += value.unwrap_or_else(|| panic!("no number: {line:?}"));
            }
        }
        sum.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Waits until a metric has this value.
    #[track_caller]
    pub(crate) fn wait_for_metric(&self, name: &str, value: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.metric(name);
            if now == value {
                return;
            }
            assert!(Instant::now() < deadline, "{name} is {now} after {PATIENCE:?}, not {value}");
            pause();
        }
    }

    /// How many file descriptors the process has open.
    #[track_caller]
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("the process is alive").count()
    }
}

impl Drop for Aspis {
    fn drop(&mut self) {
        let before = self.child.try_wait();
        let counters = std::thread::panicking().then(|| self.counters());
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The pipe's end follows the process's; waiting for it makes the text complete.
        self.errors.wait(PATIENCE, |_| None::<()>);
        let errors = self.errors.so_far();
        if std::thread::panicking() {
            let counters = counters.unwrap_or_default();
            eprintln!("--- aspis ({before:?}), standard error:\n{}\n{counters}\n---", errors.join("\n"));
            return;
        }
        let panicked = errors.iter().any(|line| line.contains("panicked at"));
        assert!(!panicked, "the server panicked:\n{}", errors.join("\n"));
    }
}
