//! The durable list of invalidations: `rules.log` in the folder of `--state`.
//!
//! A thread of its own writes it, so that no core and no admin request waits for a disk that others wait for. What waits when it is free is
//! written and synced together (group commit): with one sync in flight, thousands of invalidations a second cost as many syncs as the disk does
//! anyway. A stream of them is synced at a [`Pace`], since each sync takes time of processors that also serve. What it tells comes back as [`Told`]. Invariants:
//!
//! - what was told as synced survives kill -9 and a loss of power;
//! - a file is only appended to or replaced as a whole (written beside, synced, renamed, folder synced);
//! - after a failed write or sync the file is not trusted any more and takes nothing: the kernel may have dropped what it could not write, so
//!   only a replacement mends it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, unbounded};
use tokio::sync::mpsc;

use super::pace::Pace;
use super::record::Header;
use crate::files;

/// The log's name in its folder.
pub(crate) const FILE_NAME: &str = "rules.log";
/// Its replacement while that is written.
pub(crate) const NEW_NAME: &str = "rules.log.new";
const LOCK_NAME: &str = "lock";
/// The most bytes that are written before one sync.
const GROUP_LEN_MAX: usize = 4 << 20;

/// What the log's thread is asked for.
enum Asked {
    /// Append this record.
    Append { number: u64, record: Arc<[u8]> },
    /// Replace the file by one with this header and these records.
    Rewrite { header: Header, records: Vec<Arc<[u8]>> },
}

/// What the log's thread tells.
#[derive(Debug)]
pub(crate) enum Told {
    /// Everything up to this number is in the log, which is so long.
    Synced { up_to: u64, log_len: u64 },
    /// These could not be written, nor can what follows until the file was replaced.
    Failed { numbers: Vec<u64>, cause: Arc<str> },
    /// The file was replaced, and is so long, or could not be.
    Rewritten(Result<u64, Arc<str>>),
}

/// The log's thread, as the registry's side sees it. The thread ends when this is dropped, after what it was asked for.
pub(crate) struct LogThread {
    asks: Option<Sender<Asked>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl LogThread {
    /// Starts the thread. What it tells goes to `tell`.
    pub(crate) fn start(disk: impl Disk + 'static, tell: mpsc::UnboundedSender<Told>) -> io::Result<Self> {
        // Bounded by what may be in progress: each is asked for once.
        let (asks, asked) = unbounded();
        let mut writer = Writer { disk, tell, broken: None };
        let thread = std::thread::Builder::new().name("aspis-rules".to_owned()).spawn(move || {
            writer.run(&asked);
        })?;
        Ok(LogThread { asks: Some(asks), thread: Some(thread) })
    }

    /// Has a record appended and synced.
    pub(crate) fn append(&self, number: u64, record: Arc<[u8]>) {
        self.ask(Asked::Append { number, record });
    }

    /// Has the file replaced.
    pub(crate) fn rewrite(&self, header: Header, records: Vec<Arc<[u8]>>) {
        self.ask(Asked::Rewrite { header, records });
    }

    fn ask(&self, asked: Asked) {
        let sent = self.asks.as_ref().is_some_and(|asks| asks.send(asked).is_ok());
        debug_assert!(sent, "the thread ends after its sender");
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of rules.log ended by a panic");
        }
    }
}

/// Where the bytes go: a folder, or in tests what fails as told.
pub(crate) trait Disk: Send {
    /// Appends and syncs; the whole file's length comes back.
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64>;
    /// Replaces the file by these parts, synced with its name; its length comes back.
    fn replace(&mut self, header: &[u8], parts: &[Arc<[u8]>]) -> io::Result<u64>;
}

struct Writer<D> {
    disk: D,
    tell: mpsc::UnboundedSender<Told>,
    broken: Option<Arc<str>>,
}

impl<D: Disk> Writer<D> {
    fn run(&mut self, asked: &Receiver<Asked>) {
        let mut group: Vec<u8> = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        let mut pace = Pace::new(Instant::now());
        while let Ok(first) = asked.recv() {
            pace.note(Instant::now());
            let mut next = Some(first);
            while let Some(ask) = next {
                match ask {
                    Asked::Append { number, record } => {
                        group.extend_from_slice(&record);
                        numbers.push(number);
                    }
                    Asked::Rewrite { header, records } => {
                        self.append(&mut group, &mut numbers);
                        self.rewrite(&header, &records);
                    }
                }
                next = if group.len() < GROUP_LEN_MAX { asked.try_recv().ok() } else { None };
            }
            self.append(&mut group, &mut numbers);
            // Asleep, not at the queue: who fills it has nobody to wake. In a stream something is there afterwards, so that this is the only sleep.
            wait_until(pace.free_at());
        }
    }

    fn append(&mut self, group: &mut Vec<u8>, numbers: &mut Vec<u64>) {
        let Some(&up_to) = numbers.last() else { return };
        let outcome = match &self.broken {
            Some(cause) => Err(Arc::clone(cause)),
            None => self.disk.append(group).map_err(|error| cause("cannot be written", &error)),
        };
        group.clear();
        let told = match outcome {
            Ok(log_len) => Told::Synced { up_to, log_len },
            Err(cause) => {
                if self.broken.is_none() {
                    tracing::error!("{cause}; invalidations are refused until it can");
                }
                self.broken = Some(Arc::clone(&cause));
                Told::Failed { numbers: numbers.clone(), cause }
            }
        };
        numbers.clear();
        self.told(told);
    }

    fn rewrite(&mut self, header: &Header, records: &[Arc<[u8]>]) {
        let outcome = self.disk.replace(&header.encode(), records);
        let outcome = outcome.map_err(|error| cause("cannot be rewritten", &error));
        match &outcome {
            Ok(_) if self.broken.take().is_some() => tracing::info!("rules.log is written again"),
            Ok(_) => {}
            // The file of before is whole: it may go on growing.
            Err(cause) if self.broken.is_none() => {
                tracing::error!("{cause}; invalidations are refused until it can");
                self.broken = Some(Arc::clone(cause));
            }
            Err(cause) => self.broken = Some(Arc::clone(cause)),
        }
        self.told(Told::Rewritten(outcome));
    }

    fn told(&self, told: Told) {
        // Nobody listens any more when the process ends.
        let _ = self.tell.send(told);
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own, never a core")]
fn wait_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}

fn cause(what: &str, error: &io::Error) -> Arc<str> {
    format!("rules.log {what}: {error}").into()
}

/// The folder of `--state`, which this process alone uses.
pub(crate) struct Folder {
    path: PathBuf,
    file: File,
    len: u64,
    /// Held, not read: other processes see the lock.
    _lock: Arc<File>,
}

impl Folder {
    /// The length of the log.
    pub(crate) fn log_len(&self) -> u64 {
        self.len
    }

    /// Makes the folder if it is not there and takes its lock. The error names the flag.
    pub(crate) fn lock(path: &Path) -> Result<Arc<File>, String> {
        let fail = |error: &dyn std::fmt::Display| format!("--state {}: {error}", path.display());
        files::make_folder(path).map_err(|error| fail(&error))?;
        let name = path.join(LOCK_NAME);
        let file = files::private().create(true).truncate(false).open(name).map_err(|error| fail(&error))?;
        match files::lock(&file).map_err(|error| fail(&error))? {
            true => Ok(Arc::new(file)),
            false => Err(fail(&"another process uses this folder; give each its own")),
        }
    }

    /// Opens the file that is there, to be appended to behind `len`.
    pub(crate) fn open(path: &Path, lock: Arc<File>, len: u64) -> io::Result<Self> {
        let file = files::private().open(path.join(FILE_NAME))?;
        if file.metadata()?.len() != len {
            // What was begun and not synced when the process before was killed.
            file.set_len(len)?;
            file.sync_all()?;
        }
        Ok(Folder { path: path.to_owned(), file: append_only(path)?, len, _lock: lock })
    }

    /// Makes the file anew.
    pub(crate) fn create(
        path: &Path,
        lock: Arc<File>,
        header: &[u8],
        parts: &[Arc<[u8]>],
    ) -> io::Result<Self> {
        let len = replace(path, header, parts)?;
        Ok(Folder { path: path.to_owned(), file: append_only(path)?, len, _lock: lock })
    }
}

impl Disk for Folder {
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        self.file.write_all(bytes)?;
        self.file.sync_data()?;
        self.len += bytes.len() as u64;
        Ok(self.len)
    }

    fn replace(&mut self, header: &[u8], parts: &[Arc<[u8]>]) -> io::Result<u64> {
        self.len = replace(&self.path, header, parts)?;
        self.file = append_only(&self.path)?;
        Ok(self.len)
    }
}

/// Puts these parts in the place of the log; their length comes back.
fn replace(path: &Path, header: &[u8], parts: &[Arc<[u8]>]) -> io::Result<u64> {
    let all = || std::iter::once(header).chain(parts.iter().map(|part| &**part));
    files::replace(path, FILE_NAME, NEW_NAME, all())?;
    Ok(all().map(|part| part.len() as u64).sum())
}

fn append_only(path: &Path) -> io::Result<File> {
    File::options().append(true).open(path.join(FILE_NAME))
}

#[cfg(test)]
mod tests;
