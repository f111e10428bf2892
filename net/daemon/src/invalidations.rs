//! Invalidations from their acceptance to their completion: the control thread's side of idea 3 of the architecture page.
//!
//! The admin API and PURGE requests bring batches. One is accepted by giving it a number, from which moment what is fetched counts as newer; it is
//! told to the cores and given to the log at the same time, and it is `Completed` when all cores have applied it *and* the log has it (I-20, I-21).
//! [`registry`] knows what is there, [`rules_log`] makes it durable, [`recovery`] reads what the process before left, [`api`] speaks HTTP.
//!
//! Everything happens on the control thread but for the log's writes; cores only ring. Invariants: batches reach cores and log in the order of
//! their numbers; nobody is told of an invalidation that the log does not have; nothing here runs while nothing is asked.

pub(crate) mod api;
mod batch;
pub(crate) mod limits;
mod pace;
mod record;
mod recovery;
mod registry;
mod rules_log;
pub(crate) mod time;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use aspis_cache::invalidation::{Rule, Wildcards};
use aspis_shard::{Purged, Purges, RuleBatch, Shards};
use aspis_telemetry::{CoreCounters, Counter};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::admin::Readiness;
use crate::metrics::Level;
use batch::{Batch, ItemKind};
use limits::{BODY_COUNT_MAX, HEAL_AFTER, IN_PROGRESS_COUNT_MAX};
use pace::Pace;
use record::Header;
pub(crate) use recovery::Bound;
use registry::{Refusal, Registry, Replacement, Until, View, Waiter};
use rules_log::{LogThread, Told};

/// What invalidations want of the cores.
pub(crate) trait Cores: Send + Sync {
    /// Gives the next number; from now on what is fetched carries it.
    fn next_number(&self) -> u64;
    /// Tells every core of a batch; one that sleeps looks at it before it does anything else, but is not woken.
    fn tell(&self, batch: RuleBatch);
    /// Wakes the cores that sleep, so that they apply what they were told.
    fn ring(&self);
    /// Has `rules_changed` called when every core has applied this number; `u64::MAX` for none.
    fn await_applied(&self, number: u64);
    /// The number that every core has applied.
    fn applied(&self) -> u64;
    /// The same for each core, for the metrics.
    fn applied_each(&self) -> Vec<u64>;
    /// The number before which nothing is left anywhere.
    fn settled(&self) -> u64;
    /// Has the rules up to a number forgotten.
    fn forget(&self, up_to: u64);
}

impl Cores for Shards {
    fn next_number(&self) -> u64 {
        self.next_rule_number()
    }

    fn tell(&self, batch: RuleBatch) {
        self.add_rules(&Arc::new(batch));
    }

    fn ring(&self) {
        self.ring_all();
    }

    fn await_applied(&self, number: u64) {
        self.await_rules(number);
    }

    fn applied(&self) -> u64 {
        self.rules_applied()
    }

    fn applied_each(&self) -> Vec<u64> {
        self.rules_applied_each()
    }

    fn settled(&self) -> u64 {
        self.rules_settled()
    }

    fn forget(&self, up_to: u64) {
        self.forget_rules(up_to);
    }
}

/// The invalidations of this process.
pub(crate) struct Invalidations {
    registry: Mutex<Registry>,
    /// Known when the cores have started; nothing is asked before.
    cores: OnceLock<Arc<dyn Cores>>,
    log: Mutex<Log>,
    /// Something changed at the cores or in the log.
    changed: Arc<Notify>,
    bell: Mutex<Bell>,
    /// The bell is due, but not yet.
    ring_later: Notify,
    purges: mpsc::Sender<Purge>,
    counters: Arc<CoreCounters>,
    /// Requests that wait for completion.
    waiting: Semaphore,
    /// Places for bodies that are being read.
    bodies: Semaphore,
    wildcards: Wildcards,
}

/// When the cores are rung.
struct Bell {
    pace: Pace,
    /// Something was told since.
    is_due: bool,
    /// The log's word comes at the same pace, and whoever takes it rings. Otherwise a timer does.
    comes_with_log: bool,
}

/// Where what is accepted is kept.
enum Log {
    /// In memory only.
    Memory,
    /// In a file too.
    File(LogThread),
    /// Nowhere any more: the process ends, and what it accepted now would be lost.
    Closed,
}

/// A PURGE request on its way from a core.
struct Purge {
    rules: Vec<Rule>,
    done: Box<dyn FnOnce(Purged) + Send>,
}

/// What the task of the control thread listens to.
pub(crate) struct Incoming {
    told: mpsc::UnboundedReceiver<Told>,
    purges: mpsc::Receiver<Purge>,
}

/// What the cores are to begin with.
pub(crate) struct Beginning {
    /// The rules that still matter, by rising number.
    pub(crate) rules: Vec<RuleBatch>,
    /// The last number that may have been given.
    pub(crate) last_number: u64,
}

impl fmt::Debug for Invalidations {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Invalidations").finish_non_exhaustive()
    }
}

/// Reads what the process before left in `state`, or begins anew; what is on disk is `bound` to that. The error is a text for operators.
pub(crate) fn open(
    state: Option<&Path>,
    bound: Bound,
    wildcards: Wildcards,
) -> Result<(Arc<Invalidations>, Incoming, Beginning), String> {
    // Bounded by what may be in progress: the log tells of each once.
    let (tell, told) = mpsc::unbounded_channel();
    let (registry, log, beginning) = match state {
        None => {
            let beginning = Beginning { rules: Vec::new(), last_number: 0 };
            (Registry::new(Header::default(), Vec::new(), 0), Log::Memory, beginning)
        }
        Some(path) => {
            let recovered = recovery::recover(path, bound)?;
            let beginning = Beginning {
                rules: still_counting(&recovered.header, &recovered.records),
                last_number: recovered.header.numbers,
            };
            if !recovered.records.is_empty() {
                tracing::info!(
                    "{} invalidation(s) from {}, {} of them still count",
                    recovered.records.len(),
                    path.join(rules_log::FILE_NAME).display(),
                    beginning.rules.len()
                );
            }
            let log_len = recovered.folder.log_len();
            let log = LogThread::start(recovered.folder, tell)
                .map_err(|error| format!("the writer of rules.log cannot start: {error}"))?;
            let registry = Registry::new(recovered.header, recovered.records, log_len);
            (registry, Log::File(log), beginning)
        }
    };
    let (purges, purges_in) = mpsc::channel(IN_PROGRESS_COUNT_MAX);
    let invalidations = Invalidations {
        registry: Mutex::new(registry),
        cores: OnceLock::new(),
        log: Mutex::new(log),
        changed: Arc::new(Notify::new()),
        bell: Mutex::new(Bell {
            pace: Pace::new(Instant::now()),
            is_due: false,
            comes_with_log: state.is_some(),
        }),
        ring_later: Notify::new(),
        purges,
        counters: Arc::new(CoreCounters::new()),
        waiting: Semaphore::new(limits::WAITING_COUNT_MAX),
        bodies: Semaphore::new(BODY_COUNT_MAX),
        wildcards,
    };
    Ok((Arc::new(invalidations), Incoming { told, purges: purges_in }, beginning))
}

/// The rules that the cores must have before they serve (I-26).
fn still_counting(header: &Header, records: &[(record::Invalidation, Arc<[u8]>)]) -> Vec<RuleBatch> {
    let from = header.settled.max(header.folded);
    let mut rules = Vec::new();
    if header.folded > header.settled {
        let all = Rule { host: None, what: aspis_cache::invalidation::What::All, soft: false };
        rules.push(RuleBatch { number: header.folded, rules: vec![all] });
    }
    let newer = records.iter().filter(|(invalidation, _)| invalidation.number > from);
    rules.extend(newer.map(|(invalidation, _)| RuleBatch {
        number: invalidation.number,
        rules: invalidation.batch.rules.clone(),
    }));
    rules
}

impl Invalidations {
    /// What the cores call when they have applied what is awaited, or settled something.
    pub(crate) fn rules_changed(&self) -> Arc<dyn Fn() + Send + Sync> {
        let changed = Arc::clone(&self.changed);
        Arc::new(move || changed.notify_one())
    }

    /// The cores have started.
    pub(crate) fn attach(&self, cores: Arc<dyn Cores>) {
        // Set once, at start.
        let _ = self.cores.set(cores);
    }

    /// Counts what was accepted.
    pub(crate) fn counters(&self) -> &Arc<CoreCounters> {
        &self.counters
    }

    /// Takes what cores, log and viewers bring until the process ends.
    pub(crate) async fn run(self: Arc<Self>, mut incoming: Incoming, readiness: Arc<Readiness>) {
        let mut mend_at = Instant::now();
        loop {
            let is_broken = self.registry().broken().is_some();
            let ring_at = self.ring_at();
            tokio::select! {
                Some(told) = incoming.told.recv() => self.take(told, &readiness),
                Some(purge) = incoming.purges.recv() => self.purge_now(purge),
                () = self.changed.notified() => self.progress(),
                // The next time of this loop knows when.
                () = self.ring_later.notified() => {}
                // The only timers: one of a few milliseconds after a batch of a stream, and one while the disk fails.
                () = tokio::time::sleep_until(ring_at.unwrap_or(mend_at).into()), if ring_at.is_some() => self.ring(),
                () = tokio::time::sleep_until(mend_at.into()), if is_broken => {
                    mend_at = Instant::now() + HEAL_AFTER;
                    self.replace_log(Registry::mend);
                }
            }
            self.replace_log(Registry::shorten);
        }
    }

    /// Accepts nothing more, and ends the log's thread after what it was asked for. Before the cores end: they are told of nothing then.
    pub(crate) fn close(&self) {
        let log = std::mem::replace(&mut *self.log(), Log::Closed);
        drop(log);
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registry with what the cores have told: they do not say so by themselves unless somebody waits for it.
    fn up_to_date(&self) -> MutexGuard<'_, Registry> {
        self.progress();
        self.registry()
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Every change is whole before anything can panic.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cores(&self) -> Option<&Arc<dyn Cores>> {
        self.cores.get()
    }

    /// Accepts a batch: number, cores and log, in this order and in one go.
    fn accept(&self, batch: Batch, by: Counter) -> Result<u64, Refusal> {
        let Some(cores) = self.cores() else { return Err(Refusal::Log("the server is starting".into())) };
        let rules = batch.rules.clone();
        let path_count = batch.items.iter().filter(|item| matches!(item.kind, ItemKind::Path)).count();
        self.progress();
        let due;
        let number;
        {
            let mut registry = self.registry();
            let log = self.log();
            if matches!(*log, Log::Closed) {
                return Err(Refusal::Log("the server is ending".into()));
            }
            let (at, accepted) = registry.accept(batch, time::now_ms(), || cores.next_number())?;
            number = at;
            let Some(accepted) = accepted else { return Ok(number) };
            cores.tell(RuleBatch { number, rules });
            // Within the lock, so that records are in the log in their order, and in each replacement of it.
            due = match &*log {
                Log::File(log) => {
                    log.append(number, accepted.record);
                    registry::Due::default()
                }
                Log::Memory | Log::Closed => registry.logged(number, 0),
            };
        }
        self.ring_in_time();
        self.counters.add(by, 1);
        self.counters.add(Counter::InvalidationPaths, path_count as u64);
        due.call();
        Ok(number)
    }

    fn bell(&self) -> MutexGuard<'_, Bell> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment at which cores are to be rung for what they were told, if nothing else has that done.
    fn ring_at(&self) -> Option<Instant> {
        let bell = self.bell();
        (bell.is_due && !bell.comes_with_log).then(|| bell.pace.free_at())
    }

    /// Has the cores rung for what they were told: now if the pace lets it, and else soon.
    fn ring_in_time(&self) {
        let mut bell = self.bell();
        let was_due = std::mem::replace(&mut bell.is_due, true);
        if bell.pace.free_at() <= Instant::now() {
            drop(bell);
            self.ring();
        } else if !was_due && !bell.comes_with_log {
            self.ring_later.notify_one();
        }
    }

    /// Rings the cores if something was told.
    fn ring(&self) {
        let mut bell = self.bell();
        if !std::mem::take(&mut bell.is_due) {
            return;
        }
        bell.pace.note(Instant::now());
        drop(bell);
        if let Some(cores) = self.cores() {
            cores.ring();
        }
    }

    /// Has `waiter` called when an invalidation is so far.
    fn wait(&self, number: u64, until: Until, waiter: Waiter) {
        let (outcome, awaited) = {
            let mut registry = self.registry();
            (registry.wait(number, until, waiter), registry.awaited())
        };
        match outcome {
            Ok(due) => due.call(),
            Err(waiter) => waiter(Err("it could not be kept".into())),
        }
        if let (Until::Completed, Some(cores)) = (until, self.cores()) {
            cores.await_applied(awaited);
        }
    }

    fn take(&self, told: Told, readiness: &Readiness) {
        self.ring();
        // Mostly the cores were quicker, and who waits for the log hears of the completion at once.
        self.progress();
        let due = {
            let mut registry = self.registry();
            match told {
                Told::Synced { up_to, log_len } => registry.logged(up_to, log_len),
                Told::Failed { numbers, cause } => {
                    self.counters.add(Counter::InvalidationsLost, numbers.len() as u64);
                    registry.failed(&numbers, &cause)
                }
                Told::Rewritten(outcome) => {
                    registry.rewritten(outcome);
                    registry::Due::default()
                }
            }
        };
        readiness.log_failure(self.registry().broken().map(ToString::to_string));
        due.call();
    }

    /// Looks how far the cores are.
    fn progress(&self) {
        let Some(cores) = self.cores() else { return };
        let (applied, settled) = (cores.applied(), cores.settled());
        let (due, is_news, awaited) = {
            let mut registry = self.registry();
            let was_awaited = registry.awaited() != u64::MAX;
            let (due, is_news) = (registry.applied(applied), registry.settled(settled));
            (due, is_news, was_awaited.then(|| registry.awaited()))
        };
        // Who is told of what he waited for waits for something else now.
        if let Some(awaited) = awaited {
            cores.await_applied(awaited);
        }
        if is_news {
            cores.forget(settled);
        }
        due.call();
    }

    /// Has the log replaced by what `due` says, if it says something.
    fn replace_log(&self, due: impl FnOnce(&mut Registry) -> Option<Replacement>) {
        let mut registry = self.registry();
        if let Log::File(log) = &*self.log()
            && let Some((header, records)) = due(&mut registry)
        {
            log.rewrite(header, records);
        }
    }

    fn purge_now(&self, purge: Purge) {
        let Purge { rules, done } = purge;
        match self.accept(Batch::of_rules(rules), Counter::InvalidationsPurge) {
            Ok(number) => {
                let told = move |outcome: registry::Outcome| {
                    done(outcome.map(|view| view.number).map_err(|cause| cause.to_string()));
                };
                self.wait(number, Until::Completed, Box::new(told));
            }
            Err(refusal) => done(Err(api::describe(&refusal))),
        }
    }

    /// Places for bodies that are being read.
    pub(crate) fn bodies(&self) -> &Semaphore {
        &self.bodies
    }

    /// Levels for `/metrics`.
    pub(crate) fn levels(&self) -> Vec<Level> {
        let figures = self.up_to_date().figures();
        let level = |name, help, value| Level { name, help, label: None, value };
        let mut levels = vec![
            level(
                "invalidations_in_progress",
                "Invalidations accepted and not completed.",
                figures.in_progress,
            ),
            level("invalidations_listed", "Invalidations that are remembered.", figures.listed),
            level(
                "invalidation_rules_pending",
                "Rules that may still concern something stored.",
                figures.rules_pending,
            ),
            level("invalidation_log_bytes", "Length of rules.log; 0 without --state.", figures.log_len),
            level(
                "invalidation_log_broken",
                "1 while rules.log cannot be written.",
                u64::from(figures.is_broken),
            ),
            level("invalidation_number", "The number of the newest invalidation.", figures.last),
        ];
        let each = self.cores().map(|cores| cores.applied_each()).unwrap_or_default();
        levels.extend(each.into_iter().enumerate().map(|(core, value)| Level {
            name: "invalidation_number_applied",
            help: "The number of the newest invalidation that a core has applied.",
            label: Some(("core", core.to_string().into())),
            value,
        }));
        levels
    }

    fn view(&self, number: u64) -> Option<View> {
        self.up_to_date().by_number(number)
    }
}

/// PURGE requests of viewers, as the cores hand them over.
impl Purges for Invalidations {
    fn purge(&self, rules: Vec<Rule>, done: Box<dyn FnOnce(Purged) + Send>) {
        let refuse = |purge: Purge, why: &str| (purge.done)(Err(why.to_owned()));
        match self.purges.try_send(Purge { rules, done }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(purge)) => {
                refuse(purge, "too many invalidations are in progress")
            }
            Err(mpsc::error::TrySendError::Closed(purge)) => refuse(purge, "the server is ending"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
