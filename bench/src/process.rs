//! Server programs under test: started pinned, read through `/proc`, ended in order, never left behind.

mod proc;
mod scratch;

pub(crate) use proc::{memory_of_machine, own_cpu, stolen};
pub(crate) use scratch::{Scratch, state_path};

use crate::wait;
use proc::{cpu_nanos, proportional_bytes, stat_field, tree};
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A server has so long to say where it listens.
const START: Duration = Duration::from_secs(20);
/// A server that is no longer wanted has so long to end in order.
const DROP: Duration = Duration::from_secs(5);
/// Lines of standard error that are kept.
const ERROR_LINES_MAX: usize = 2000;

/// A running server; dropping it ends the process and its children.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    name: &'static str,
    lines: Mutex<Receiver<String>>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Starts `program`, on `core` only if one is given.
    pub(crate) fn start(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        core: Option<usize>,
    ) -> io::Result<Self> {
        Self::start_with(name, program, arguments, core, &[])
    }

    /// Starts `program` with these environment variables added.
    pub(crate) fn start_with(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        core: Option<usize>,
        environment: &[(&str, &str)],
    ) -> io::Result<Self> {
        let mut command = pinned(program, core);
        command.envs(environment.iter().copied());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            io::Error::other(format!("{name}: cannot start {}: {error}", program.display()))
        })?;
        let (sender, lines) = channel();
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        break;
                    }
                }
            });
        }
        let errors = Arc::new(Mutex::new(Vec::new()));
        if let Some(output) = child.stderr.take() {
            let kept = Arc::clone(&errors);
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.len() < ERROR_LINES_MAX {
                        kept.push(line);
                    }
                }
            });
        }
        Ok(Self { child, name, lines: Mutex::new(lines), errors })
    }

    /// Starts this program with other words, at the worst priority: what disturbs those who are measured on the same core.
    pub(crate) fn start_beside(name: &'static str, words: &[String], core: usize) -> io::Result<Self> {
        Self::start_by(name, ("nice", &["-n", "19"]), words, core)
    }

    /// The same so that it runs only while nothing else on that core wants to.
    pub(crate) fn start_behind(name: &'static str, words: &[String], core: usize) -> io::Result<Self> {
        Self::start_by(name, ("chrt", &["-i", "0"]), words, core)
    }

    fn start_by(
        name: &'static str,
        (tool, options): (&str, &[&str]),
        words: &[String],
        core: usize,
    ) -> io::Result<Self> {
        let program =
            find_program(tool).ok_or_else(|| io::Error::other(format!("{tool} is not installed")))?;
        let own = std::env::current_exe()?.display().to_string();
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let arguments = [options.as_slice(), &[own], words].concat();
        Self::start(name, &program, &arguments, Some(core))
    }

    /// Waits for a line of standard output with that prefix and returns the address after it.
    pub(crate) fn announced(&mut self, prefix: &str) -> io::Result<SocketAddr> {
        let end = Instant::now() + START;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.get_mut().unwrap_or_else(PoisonError::into_inner).recv_timeout(left);
            let Ok(line) = line else {
                let errors = self.errors().join("\n  ");
                return Err(io::Error::other(format!("{}: never said {prefix:?}\n  {errors}", self.name)));
            };
            if let Some(rest) = line.strip_prefix(prefix) {
                return rest
                    .trim()
                    .parse()
                    .map_err(|_| io::Error::other(format!("{}: no address in {line:?}", self.name)));
            }
        }
    }

    /// Waits until something accepts at `address`.
    pub(crate) fn accepts(&self, address: SocketAddr) -> io::Result<()> {
        if wait::until(START, || TcpStream::connect(address).is_ok()) {
            return Ok(());
        }
        Err(io::Error::other(format!("{}: nothing listens on {address}: {:?}", self.name, self.errors())))
    }

    /// Returns what it wrote to standard error.
    pub(crate) fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it without a word, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Asks it to end, and waits; `None` when it did not within `limit` and was killed.
    pub(crate) fn terminate(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        // `kill` is in every shell; a system call of our own would need unsafe code.
        Command::new("sh").args(["-c", &format!("kill -TERM {}", self.id())]).status()?;
        let mut status = None;
        wait::until(limit, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        if status.is_none() {
            self.child.kill()?;
            self.child.wait()?;
        }
        Ok(status)
    }

    /// Returns the time on a CPU of all its threads and child processes so far.
    pub(crate) fn cpu(&self) -> Duration {
        let nanos = tree(self.id()).into_iter().map(cpu_nanos).sum();
        Duration::from_nanos(nanos)
    }

    /// Returns the parts of it spent in user mode and in the kernel, in steps of 10 ms.
    pub(crate) fn modes(&self) -> (Duration, Duration) {
        let family = tree(self.id());
        let ticks = |field| family.iter().filter_map(|id| stat_field(*id, field)).sum::<u64>();
        (Duration::from_millis(ticks(14) * 10), Duration::from_millis(ticks(15) * 10))
    }

    /// Returns its threads whose names begin so; an error if there is none.
    pub(crate) fn threads(&self, prefix: &str) -> io::Result<Vec<u32>> {
        let threads = proc::threads(self.id(), prefix)?;
        if threads.is_empty() {
            return Err(io::Error::other(format!("{}: no thread {prefix}", self.name)));
        }
        Ok(threads)
    }

    /// Returns how often its threads whose names begin so waited for a page that was not in memory, over all of them.
    pub(crate) fn major_faults(&self, prefix: &str) -> io::Result<u64> {
        self.threads(prefix)?.into_iter().map(|thread| proc::major_faults(self.id(), thread)).sum()
    }

    /// Returns how many bytes it had the kernel write to devices so far.
    pub(crate) fn device_writes(&self) -> io::Result<u64> {
        let number = proc::device_writes(self.id())?;
        number.ok_or_else(|| io::Error::other(format!("{}: the kernel counts no writes", self.name)))
    }

    /// Returns how many bytes of memory it and its child processes hold, what several of them share counted once.
    pub(crate) fn resident(&self) -> u64 {
        tree(self.id()).into_iter().map(proportional_bytes).sum()
    }

    /// Returns a number of `/proc/PID/status` given in kB, as bytes.
    pub(crate) fn status_bytes(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Makes the peak of resident memory start again from what is resident now.
    pub(crate) fn reset_peak(&self) -> io::Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.id()), "5")
    }

    /// Returns how many file descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.id())).map_or(0, Iterator::count)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // In order first: a master that is killed leaves its workers behind, and one whose workers are killed makes new ones.
        let family = tree(self.id());
        if self.runs() {
            drop(self.terminate(DROP));
        }
        for id in family.into_iter().filter(|id| *id != self.id()) {
            if stat_field(id, 4).is_some() {
                drop(Command::new("sh").args(["-c", &format!("kill -KILL {id} 2>/dev/null")]).status());
            }
        }
    }
}

/// Returns a command for `program`, bound to `core` if one is given, that ends with this process even if this one is killed.
pub(crate) fn pinned(program: &Path, core: Option<usize>) -> Command {
    // Both tools replace themselves by what they start, so the process id stays; setting either by system calls of our own would
    // need unsafe code.
    let mut words: Vec<OsString> = Vec::new();
    if find_program("setpriv").is_some() {
        words.extend(["setpriv", "--pdeathsig", "TERM"].map(OsString::from));
    }
    if let Some(core) = core {
        words.extend(["taskset", "-c"].map(OsString::from));
        words.push(core.to_string().into());
    }
    words.push(program.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// How `chrt` is told to let somebody go before everything that has no real-time priority.
const FIRST: [&str; 2] = ["-f", "50"];

/// `chrt`, where it may do that.
static CHRT: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    find_program("chrt").filter(|chrt| {
        let tried = Command::new(chrt).args(FIRST).arg("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    })
});

/// Tells whether [`go_first`] and [`pinned_first`] do what they say.
pub(crate) fn may_go_first() -> bool {
    CHRT.is_some()
}

/// Lets the calling thread go before everything that has no real-time priority, where that is allowed.
pub(crate) fn go_first() -> io::Result<()> {
    let Some(chrt) = &*CHRT else { return Ok(()) };
    let thread = fs::read_link("/proc/thread-self")?;
    let id = thread.file_name().ok_or_else(|| io::Error::other("the thread has no number"))?;
    let status = Command::new(chrt).args(["-f", "-p", FIRST[1]]).arg(id).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("chrt ended with {status}"))) }
}

/// Returns a command for `program`, bound to `core`, that goes before everything there that has no real-time priority; as any other where that is not
/// allowed, and whether it is.
pub(crate) fn pinned_first(program: &Path, core: usize) -> (Command, bool) {
    let Some(chrt) = &*CHRT else { return (pinned(program, Some(core)), false) };
    let mut command = pinned(chrt, Some(core));
    command.args(FIRST).arg(program);
    (command, true)
}

/// Returns the path of a program in `PATH`, or in the folders of administrators' programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Returns the `aspis` binary: as given, or the one beside this program.
pub(crate) fn find_aspis(given: Option<&str>) -> io::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(PathBuf::from(given));
    }
    let own = std::env::current_exe()?;
    let beside = own.with_file_name("aspis");
    if beside.is_file() {
        return Ok(beside);
    }
    Err(io::Error::other(format!(
        "no {}: build it with `cargo build --release`, or name it with --aspis PATH",
        beside.display()
    )))
}

/// Lets this process, and what it starts, open as many files as the system allows it.
pub(crate) fn raise_open_files() {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let Some(most) = line.and_then(|line| line.split_whitespace().nth(1)) else { return };
    // `prlimit` comes with `setpriv` and `taskset`. Without it the limit stays, and a crowd that is too large for it says so.
    let own = std::process::id().to_string();
    drop(Command::new("prlimit").args(["--pid", &own, &format!("--nofile={most}:{most}")]).status());
}

/// Returns a port that nobody listens on right now.
pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_read_and_ended() {
        let script =
            "echo listening on 127.0.0.1:9; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 60";
        let arguments = ["-c".to_owned(), script.to_owned()];
        let mut server = Server::start("sh", Path::new("/bin/sh"), &arguments, None).unwrap();
        assert_eq!(server.announced("listening on ").unwrap().port(), 9);
        assert!(wait::until(START, || server.cpu() > Duration::ZERO));
        assert!(server.status_bytes("VmRSS") > 0);
        assert!(server.resident() > 0);
        assert!(server.descriptors() >= 3);
        assert!(server.device_writes().is_ok());
        assert!(server.major_faults("s").is_ok() && server.major_faults("other").is_err());
        assert!(server.runs());
        assert!(server.terminate(Duration::from_secs(5)).unwrap().is_some());
        assert!(!server.runs());
    }

    #[test]
    fn a_server_that_never_announces_shows_its_errors() {
        let arguments = ["-c".to_owned(), "echo broken >&2".to_owned()];
        let mut server = Server::start("sh", Path::new("/bin/sh"), &arguments, None).unwrap();
        let error = server.announced("listening on ").unwrap_err();
        assert!(error.to_string().contains("never said"), "{error}");
    }
}
