//! The thread that writes the access log.
//!
//! It takes full buffers from the cores and writes them to a file or to standard output. A disk that fails never
//! stops serving: the failure is said once, counted, and the file is opened anew for later lines. Reopening
//! (signals HUP and USR1) happens between two buffers, so that a rotated file ends with a whole line, and a moment
//! after the signal, so that lines of before it are in it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aspis_telemetry::log_buffer::Received;
use aspis_telemetry::{CoreCounters, Counter, LogReceiver, LogSender, log_channel};
use crossbeam::channel::{Receiver, bounded};

/// How long the writer waits for lines before it looks whether the log should be reopened.
const WAIT: Duration = Duration::from_millis(200);
/// How long lines of before a rotation may still come for the old file.
const LATE_LINES_WAIT: Duration = Duration::from_millis(100);
/// How long the end of the process waits for the last lines: a blocked pipe must not keep us alive.
const LAST_LINES_WAIT: Duration = Duration::from_secs(2);

/// Where lines go.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Standard output, after the lines that name the listeners.
    Stdout,
    /// A file, appended to.
    File {
        /// Its path, to open it again.
        path: PathBuf,
        /// The open file; `None` after a failure, until it could be opened again.
        file: Option<File>,
    },
}

impl Sink {
    /// Opens a file for appending, or makes it.
    pub(crate) fn file(path: &Path) -> io::Result<Sink> {
        Ok(Sink::File { path: path.to_owned(), file: Some(open(path)?) })
    }

    /// Writes lines and returns how many bytes of them were taken, all of them if there is no error.
    fn write(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        match self {
            Sink::Stdout => write_counted(&mut crate::stdout::log(), lines),
            Sink::File { path, file } => {
                let mut opened = match file.take().map_or_else(|| open(path), Ok) {
                    Ok(opened) => opened,
                    Err(error) => return (0, Err(error)),
                };
                let outcome = write_counted(&mut opened, lines);
                // After a failure the next write opens the path anew: the file may be on a disk that is gone.
                *file = outcome.1.is_ok().then_some(opened);
                outcome
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Sink::File { path, file } = self {
            // The old file stays in use if the new one cannot be opened.
            *file = Some(open(path)?);
        }
        Ok(())
    }
}

fn write_counted(out: &mut impl Write, lines: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < lines.len() {
        match out.write(&lines[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, out.flush())
}

fn open(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

/// The running writer, as the control thread sees it.
#[derive(Debug)]
pub(crate) struct LogWriter {
    reopen: Arc<AtomicBool>,
    counters: Arc<CoreCounters>,
    finished: Receiver<()>,
}

/// Starts the writer. The cores hold the sender; the writer ends when all of them are gone.
pub(crate) fn start(sink: Sink) -> io::Result<(LogSender, LogWriter)> {
    let (sender, receiver) = log_channel();
    let reopen = Arc::new(AtomicBool::new(false));
    let counters = Arc::new(CoreCounters::new());
    let (done, finished) = bounded(1);
    let mut writer = Writer {
        sink,
        receiver,
        reopen: Arc::clone(&reopen),
        counters: Arc::clone(&counters),
        is_failing: false,
        is_torn: false,
    };
    std::thread::Builder::new().name("aspis-log".to_owned()).spawn(move || {
        writer.run();
        // Nobody waits any more if the process is already ending.
        let _ = done.try_send(());
    })?;
    Ok((sender, LogWriter { reopen, counters, finished }))
}

impl LogWriter {
    /// Asks the writer to open its file anew.
    pub(crate) fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }

    /// The writer's own counters: failures and lost bytes.
    pub(crate) fn counters(&self) -> &Arc<CoreCounters> {
        &self.counters
    }

    /// Waits until everything is written; call it when the cores have ended. `false` if that took too long.
    pub(crate) fn finish(self) -> bool {
        self.finished.recv_timeout(LAST_LINES_WAIT).is_ok()
    }
}

struct Writer {
    sink: Sink,
    receiver: LogReceiver,
    reopen: Arc<AtomicBool>,
    counters: Arc<CoreCounters>,
    /// The last write failed; said once, until one succeeds.
    is_failing: bool,
    /// A failed write may have left a part of a line, which the next one must end first.
    is_torn: bool,
}

impl Writer {
    fn run(&mut self) {
        while self.take(WAIT) {
            if self.reopen.swap(false, Ordering::AcqRel) {
                let end = Instant::now() + LATE_LINES_WAIT;
                loop {
                    let rest = end.saturating_duration_since(Instant::now());
                    if rest.is_zero() || !self.take(rest) {
                        break;
                    }
                }
                match self.sink.reopen() {
                    Ok(()) => tracing::info!("access log reopened"),
                    Err(error) => {
                        tracing::error!("access log cannot be reopened: {error}; the old file stays in use")
                    }
                }
            }
        }
    }

    /// Waits for lines and writes them; `false` when no more will come.
    fn take(&mut self, wait: Duration) -> bool {
        match self.receiver.next(wait) {
            Received::Lines(lines) => {
                self.write(&lines);
                self.receiver.give_back(lines);
                true
            }
            Received::Nothing => true,
            Received::Finished => false,
        }
    }

    fn write(&mut self, lines: &[u8]) {
        if self.is_torn {
            let (_, ended) = self.sink.write(b"\n");
            self.is_torn = ended.is_err();
        }
        let (written, outcome) = self.sink.write(lines);
        if let Some(last) = lines[..written].last() {
            self.is_torn = *last != b'\n';
        }
        match outcome {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("access log is written again");
                }
            }
            Err(error) => {
                self.counters.add(Counter::LogWriteErrors, 1);
                self.counters.add(Counter::LogBytesLost, (lines.len() - written) as u64);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!("access log cannot be written: {error}; lines are lost until it can");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aspis_telemetry::{LogBuffer, Record};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("aspis-log-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder can be made");
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn record(target: &[u8]) -> Record<'_> {
        Record {
            ended_at: 0,
            viewer: None,
            method: b"GET",
            target,
            host: b"h",
            version: "HTTP/1.1",
            status: 200,
            sent_len: 1,
            result: "Hit",
            forward: None,
            duration_micros: 1,
            first_byte_micros: 1,
            user_agent: b"",
            referer: b"",
        }
    }

    fn wait_until(condition: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < end, "waited too long");
            std::thread::yield_now();
        }
    }

    fn targets(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split("GET ").nth(1)?.split(' ').next().map(str::to_owned))
            .collect()
    }

    #[test]
    fn lines_go_to_the_file_and_after_a_rotation_to_the_new_one() {
        let folder = Folder::new("rotate");
        let path = folder.0.join("access.log");
        let (sender, writer) = start(Sink::file(&path).expect("a new file")).expect("the thread starts");
        let counters = CoreCounters::new();
        let mut buffer = LogBuffer::new(sender);
        buffer.record(&record(b"/one"), &counters);
        buffer.flush(&counters);
        wait_until(|| targets(&path) == ["/one"]);
        let rotated = folder.0.join("access.log.1");
        std::fs::rename(&path, &rotated).expect("a file can be renamed");
        writer.reopen();
        buffer.record(&record(b"/late"), &counters);
        buffer.flush(&counters);
        wait_until(|| path.exists());
        buffer.record(&record(b"/two"), &counters);
        buffer.flush(&counters);
        drop(buffer);
        assert!(writer.finish());
        assert_eq!(targets(&rotated), ["/one", "/late"]);
        assert_eq!(targets(&path), ["/two"]);
    }

    #[test]
    fn a_disk_that_fails_is_counted_and_tried_again() {
        let folder = Folder::new("fail");
        let path = folder.0.join("missing").join("access.log");
        let sink = Sink::File { path: path.clone(), file: None };
        let (sender, writer) = start(sink).expect("the thread starts");
        let failures = Arc::clone(writer.counters());
        let counters = CoreCounters::new();
        let mut buffer = LogBuffer::new(sender);
        buffer.record(&record(b"/lost"), &counters);
        buffer.flush(&counters);
        wait_until(|| failures.value(Counter::LogBytesLost) > 0);
        assert_eq!(failures.value(Counter::LogWriteErrors), 1);
        std::fs::create_dir_all(folder.0.join("missing")).expect("a folder can be made");
        buffer.record(&record(b"/kept"), &counters);
        buffer.flush(&counters);
        drop(buffer);
        assert!(writer.finish());
        assert_eq!(targets(&path), ["/kept"]);
        assert_eq!(failures.value(Counter::LogWriteErrors), 1);
    }

    #[test]
    fn what_a_failing_disk_took_is_known() {
        struct Narrow(Vec<u8>);
        impl Write for Narrow {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let room = (10 - self.0.len()).min(bytes.len()).min(4);
                self.0.extend_from_slice(&bytes[..room]);
                if room == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(room) }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut narrow = Narrow(Vec::new());
        let (written, outcome) = write_counted(&mut narrow, b"one two\nthree four\n");
        assert_eq!((written, narrow.0.as_slice()), (10, &b"one two\nth"[..]));
        assert_eq!(outcome.expect_err("no room").kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_so() {
        let sink = Sink::file(Path::new("/dev/full")).expect("the full device opens");
        let (sender, writer) = start(sink).expect("the thread starts");
        let failures = Arc::clone(writer.counters());
        let counters = CoreCounters::new();
        let mut buffer = LogBuffer::new(sender);
        for _ in 0..2 {
            buffer.record(&record(b"/"), &counters);
            buffer.flush(&counters);
        }
        drop(buffer);
        assert!(writer.finish());
        assert_eq!(failures.value(Counter::LogWriteErrors), 2);
    }
}
