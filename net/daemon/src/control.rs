//! The control thread: the origin's name, the admin server, signals and the end.
//!
//! It waits; nothing here runs on a timer but the next DNS lookup and a look at memory that costs microseconds, so an idle process
//! stays idle. The shards hear of
//! its decisions by mailbox. The end has four steps: no new viewers, the running ones finish within
//! `--drain-timeout`, memory goes to disk within `--disk-flush-timeout`, then the cores and the log writer stop. A second signal skips the rest.

use std::sync::Arc;
use std::time::Duration;

use aspis_config::Settings;
use aspis_shard::{Extent, FLUSH_SLACK, Flushed, Shards};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::admin::{self, Admin, AdminListener, Readiness};
use crate::dns::{Follower, Found, OriginName, Say};
use crate::invalidations::{Incoming, Invalidations};
use crate::log_writer::LogWriter;
use crate::memory::watch::Watch;
use crate::notify;
use crate::origin_tls;
use crate::signals::Signal;
use crate::store::{Folders, Store};
use crate::{EXIT_DONE, EXIT_FAILED};

/// How often the drain looks whether every viewer has gone.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// How long the cores may take to end when nothing runs any more.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// How long the disk may take for what waits to be written where nothing else is written at the end.
const LINE_WAIT: Duration = Duration::from_secs(3);

/// What the control thread holds.
pub(crate) struct Control {
    /// The checked settings.
    pub(crate) settings: Arc<Settings>,
    /// The cores.
    pub(crate) shards: Arc<Shards>,
    /// The origin's host and port.
    pub(crate) origin: OriginName,
    /// What is known of its name.
    pub(crate) follower: Follower,
    /// When the name is asked for next; `None` for never.
    pub(crate) ask_after: Option<Duration>,
    /// What `/readyz` tells.
    pub(crate) readiness: Arc<Readiness>,
    /// The admin server's socket, unless it is off.
    pub(crate) admin_listener: Option<AdminListener>,
    /// The admin server's answers.
    pub(crate) admin: Arc<Admin>,
    /// What was invalidated.
    pub(crate) invalidations: Arc<Invalidations>,
    /// The folders of the store on disk.
    pub(crate) folders: Arc<Folders>,
    /// Held, not read: other processes see the locks of the store on disk.
    pub(crate) _store: Option<Store>,
    /// What comes to the invalidations, until their task has it.
    pub(crate) incoming: Option<Incoming>,
    /// Looks at the process's memory, until its task has it.
    pub(crate) watch: Option<Watch>,
    /// Signals, as they come.
    pub(crate) signals: mpsc::UnboundedReceiver<Signal>,
    /// The log's writer, unless the log is off.
    pub(crate) log_writer: Option<LogWriter>,
}

/// Runs until a signal ends it; returns the exit code.
pub(crate) fn run(control: Control, runtime: tokio::runtime::Runtime) -> u8 {
    let code = runtime.block_on(control.run());
    // Tasks of the admin server may wait for their peers; nobody waits for them.
    runtime.shutdown_background();
    code
}

impl Control {
    async fn run(mut self) -> u8 {
        if let Some(incoming) = self.incoming.take() {
            tokio::spawn(Arc::clone(&self.invalidations).run(incoming, Arc::clone(&self.readiness)));
        }
        if let Some(listener) = self.admin_listener.take() {
            tokio::spawn(admin::serve(listener, Arc::clone(&self.admin)));
        }
        if let Some(watch) = self.watch.take() {
            tokio::spawn(watch.run());
        }
        tokio::spawn(Arc::clone(&self.folders).run());
        self.serve().await;
        self.readiness.draining();
        self.folders.ending();
        notify::stopping(self.end_wait());
        tracing::info!("ending: no new viewers, {} connection(s) may finish", self.shards.open_viewers());
        self.shards.stop_accepting();
        tokio::select! {
            () = drained(&self.shards, self.settings.drain_timeout) => {}
            () = second_end(&mut self.signals) => return aborted(),
        }
        self.stop().await
    }

    /// Follows the origin's name and obeys signals until one says to end.
    async fn serve(&mut self) {
        let (found, mut lookups) = mpsc::channel::<Result<Found, String>>(1);
        loop {
            if let Some(pause) = self.ask_after.take() {
                let (found, origin) = (found.clone(), self.origin.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    // The process ends if nobody takes it.
                    let _ = found.send(origin.lookup().await).await;
                });
            }
            tokio::select! {
                Some(outcome) = lookups.recv() => self.take_lookup(outcome),
                signal = self.signals.recv() => match signal {
                    Some(Signal::Reload) => self.reload(),
                    Some(Signal::ReopenLog) => self.reopen_log(),
                    Some(Signal::End) | None => return,
                },
            }
        }
    }

    /// Acts on a lookup: tells the shards, the operator and `/readyz`, and notes when to ask again.
    pub(crate) fn take_lookup(&mut self, outcome: Result<Found, String>) {
        let step = self.follower.take(outcome);
        let host = &self.settings.origin.host;
        match step.say {
            Some(Say::Resolved(addresses)) => tracing::info!("origin {host} is at {addresses}"),
            Some(Say::Recovered(addresses)) => tracing::info!("origin {host} resolves again: {addresses}"),
            Some(Say::Failed(cause)) => tracing::warn!("origin {host} cannot be resolved: {cause}"),
            None => {}
        }
        if let Some(addresses) = step.publish {
            self.shards.set_addresses(addresses);
        }
        if self.follower.knows() {
            self.readiness.origin_known();
        }
        self.ask_after = step.ask_after;
    }

    fn reload(&self) {
        match origin_tls::config(&self.settings) {
            Ok(None) => {}
            Ok(Some(config)) => {
                self.shards.set_tls(config);
                tracing::info!("the origin's certificate authorities were read again");
            }
            Err(error) => tracing::error!("{error}; the authorities read before stay in use"),
        }
        self.admin.reload();
        self.reopen_log();
    }

    fn reopen_log(&self) {
        if let Some(writer) = &self.log_writer {
            // Lines of before the signal belong into the file of before the signal, as far as they are there.
            self.shards.flush_logs();
            writer.reopen();
        }
    }

    /// How long the end takes at most.
    fn end_wait(&self) -> Duration {
        self.settings.drain_timeout + flush_of(&self.settings).1 + FLUSH_SLACK + STOP_WAIT
    }

    /// Ends the cores and the log writer.
    async fn stop(mut self) -> u8 {
        let cut = self.shards.open_viewers();
        if cut > 0 {
            tracing::warn!("{cut} connection(s) did not finish within --drain-timeout and are cut");
        }
        self.shards.flush_logs();
        let (done, stopped) = oneshot::channel();
        let (shards, log_writer, invalidations) = (self.shards, self.log_writer, self.invalidations);
        let (extent, patience) = flush_of(&self.settings);
        let stopper = std::thread::Builder::new().name("aspis-stop".to_owned()).spawn(move || {
            invalidations.close();
            let began = Instant::now();
            tell_flushed(shards.flush_disk(extent, patience), began.elapsed());
            shards.stop();
            let is_log_written = log_writer.is_none_or(LogWriter::finish);
            // Nobody waits any more after a second signal.
            let _ = done.send(is_log_written);
        });
        if let Err(error) = stopper {
            tracing::error!("the cores cannot be ended in order: {error}");
            return EXIT_FAILED;
        }
        tokio::select! {
            outcome = tokio::time::timeout(patience + FLUSH_SLACK + STOP_WAIT, stopped) => match outcome {
                Ok(Ok(is_log_written)) => {
                    if !is_log_written {
                        tracing::warn!("the last lines of the access log could not be written in time");
                    }
                    EXIT_DONE
                }
                _ => {
                    tracing::error!("a core did not end in time");
                    EXIT_FAILED
                }
            },
            () = second_end(&mut self.signals) => aborted(),
        }
    }
}

/// Waits until no viewer is connected, at most `patience`.
async fn drained(shards: &Shards, patience: Duration) {
    let end = Instant::now() + patience;
    while shards.open_viewers() > 0 && Instant::now() < end {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
}

/// What of memory is written to disk at the end, and how long that may take.
fn flush_of(settings: &Settings) -> (Extent, Duration) {
    match settings.disk_flush_timeout {
        Duration::ZERO => (Extent::Line, LINE_WAIT),
        patience => (Extent::Memory, patience),
    }
}

fn tell_flushed(flushed: Option<Flushed>, after: Duration) {
    let secs = after.as_secs_f64();
    match flushed {
        Some(Flushed { written: 0, left: 0 }) => {}
        Some(Flushed { written, left: 0 }) => {
            tracing::info!("{written} response(s) that only memory had were written to disk in {secs:.1} s");
        }
        Some(Flushed { written, left }) => tracing::warn!(
            "{written} response(s) that only memory had were written to disk in {secs:.1} s, {left} were not: --disk-flush-timeout was over, or the \
             disk does not take them; they are fetched again when they are asked for"
        ),
        None => tracing::warn!(
            "the disk did not take in time what was to be written: it is fetched again when it is asked for"
        ),
    }
}

/// Waits for another signal to end; the others mean nothing any more.
async fn second_end(signals: &mut mpsc::UnboundedReceiver<Signal>) {
    loop {
        match signals.recv().await {
            Some(Signal::End) => return,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

fn aborted() -> u8 {
    tracing::warn!("second signal: ending at once");
    EXIT_FAILED
}
