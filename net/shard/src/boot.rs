//! Starting, steering and ending the shards: what the daemon's control thread does with the cores.
//!
//! The daemon binds sockets and resolves names; `start` gives each core its listeners, its part of the memory and its
//! mailbox. Invariant: everything after the start reaches a core through its mailbox only.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aspis_config::Settings;
use aspis_exchange::ViewerFacts;
use aspis_runtime::mailbox::{self, Post};
use aspis_runtime::{CoreOptions, CoreThread};
use aspis_storage::budget::{Budget, Charge, Purpose};
use aspis_storage::mapping::arena::Arena;
use aspis_storage::replica::ReplicaTable;
use aspis_storage::shards::Sharding;
use aspis_storage::tier::object_len_max;
use aspis_telemetry::{CoreCounters, CoreHistograms, LogBuffer, LogSender};

use crate::account::OriginMeters;
use crate::disk::ending::{Extent, FlushGate, Flushed};
use crate::disk::{self, Directory, Disk, DiskBoot};
use crate::explain::{self, Explanation};
use crate::limits::{
    FLUSH_SLACK, MAILBOX_LEN, MEMORY_OBJECT_LEN, MEMORY_OBJECT_SHARE, RECEIVE_COUNT_MIN, RECEIVE_SHARE,
    headroom,
};
use crate::messages::Message;
use crate::origin::{OriginClient, OriginSettings, OriginShared};
use crate::places::Places;
use crate::rules::{Invalidations, RuleBatch, RuleNumbers, Rules, Stored};
use crate::shard::{Parts, Shard};
use crate::tls::TlsSetupError;
use crate::viewer::purge::Purging;

/// The share of `--memory` that is not given to arenas: index, heads, buffers, connections.
const OVERHEAD_SHARE: u64 = 8;

/// The replica tables of all cores together take at most this part of `--memory`, whatever `--replica-slots` says.
const REPLICA_SHARE: u64 = 16;

// They come out of what arenas leave.
const _: () = assert!(REPLICA_SHARE > OVERHEAD_SHARE);

/// What the daemon prepared for the shards.
pub struct Boot {
    /// The checked settings.
    pub settings: Arc<Settings>,
    /// Per listen address, one bound socket per core, in the cores' order.
    pub tcp: Vec<Vec<OwnedFd>>,
    /// A bound Unix socket; the first core accepts from it for all.
    pub unix: Option<OwnedFd>,
    /// The memory limit in bytes.
    pub memory: u64,
    /// The processor of each core; `None` does not pin.
    pub cores: Vec<Option<usize>>,
    /// TLS towards the origin; `None` for an `http` origin.
    pub origin_tls: Option<Arc<rustls::ClientConfig>>,
    /// Where access log lines go; `None` when the log is off.
    pub log: Option<LogSender>,
    /// What was invalidated before, and who accepts more.
    pub invalidations: Invalidations,
    /// The store on disk, if there is one.
    pub disk: Option<DiskBoot>,
}

/// Why the shards could not start.
#[derive(Debug)]
pub enum StartError {
    /// The origin's host cannot be verified over TLS.
    Tls(TlsSetupError),
    /// `--memory` is too small, or the kernel refuses as much.
    Memory(std::io::Error),
    /// The store on disk does not fit together, or not into the memory.
    Disk(String),
    /// A core's thread or ring could not be made.
    Core {
        /// Which core.
        core: usize,
        /// What the runtime says.
        cause: String,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Tls(error) => write!(f, "TLS towards the origin: {error}"),
            StartError::Memory(error) => write!(f, "no memory for stored responses: {error}"),
            StartError::Disk(cause) => write!(f, "the store on disk cannot be used: {cause}"),
            StartError::Core { core, cause } => write!(f, "core {core} cannot start: {cause}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The running shards.
pub struct Shards {
    threads: Mutex<Vec<CoreThread>>,
    post: Post<Message>,
    places: Arc<Places>,
    counters: Vec<Arc<CoreCounters>>,
    histograms: Vec<Arc<CoreHistograms>>,
    budget: Arc<Budget>,
    rules: Arc<RuleNumbers>,
    sharding: Sharding,
    directories: Vec<Arc<Directory>>,
    _mailboxes: Charge,
}

/// Has every core look whether memory is short, those that sleep too.
pub struct EvictBell {
    post: Post<Message>,
    cores: usize,
}

impl EvictBell {
    /// Rings, and has what the allocator keeps back go to the kernel; a core whose mailbox is full is awake and looks anyway.
    pub fn ring(&self) {
        self.tell(|| Message::Evict);
    }

    /// Only rings.
    pub fn ring_softly(&self) {
        self.tell(|| Message::MakeWay);
    }

    fn tell(&self, message: impl Fn() -> Message) {
        for core in 0..self.cores {
            let _ = self.post.send(core, message());
        }
    }
}

/// Starts one shard per entry of `boot.cores`. Returns when every core is ready to accept.
pub fn start(boot: Boot) -> Result<Shards, StartError> {
    let cores = boot.cores.len();
    let (mailboxes, post) = mailbox::channel::<Message>(cores, MAILBOX_LEN);
    let budget = Budget::with_headroom(boot.memory, headroom(boot.memory));
    let mut mail_charge = budget.reserve(Purpose::Mailboxes, 0).expect("nothing always fits into a budget");
    mail_charge.set((cores * MAILBOX_LEN * (size_of::<Message>() + size_of::<usize>())) as u64);
    let arena_len = (boot.memory - boot.memory / OVERHEAD_SHARE) / cores as u64;
    let arena_len = usize::try_from(arena_len).unwrap_or(usize::MAX);
    let object_len_max = boot.settings.object_size_max.min(object_len_max(arena_len as u64));
    // What is longer need not push everything else out of memory where there is a disk for it.
    let object_len_max = match &boot.disk {
        Some(_) => object_len_max.min(MEMORY_OBJECT_LEN.max(arena_len as u64 / MEMORY_OBJECT_SHARE)),
        None => object_len_max,
    };
    let cap_post = post.clone();
    let origin_settings = OriginSettings::of(&boot.settings).map_err(StartError::Tls)?;
    let origin_shared = Arc::new(OriginShared::new(origin_settings, cores, move |core, message| {
        cap_post.send(core, Message::Cap(message)).map_err(|back| match back {
            Message::Cap(message) => message,
            _ => unreachable!("the mailbox gives back what it was given"),
        })
    }));
    // An arena stays on its core's thread, which cannot report a failure: try here whether limit and kernel allow all.
    let trial: Result<Vec<Arena>, _> =
        (0..cores).map(|_| Arena::new(arena_len, Arc::clone(&budget))).collect();
    let trial = trial.map_err(StartError::Memory)?;
    let (sharding, disks) = disk::deal(boot.disk, cores, &budget).map_err(StartError::Disk)?;
    drop(trial);
    let directories = disks.first().map_or_else(Vec::new, |disk| disk.plan.directories.clone());
    let Invalidations { rules: batches, first_number, rules_changed, purges } = boot.invalidations;
    let rules = Arc::new(RuleNumbers::new(cores, first_number, rules_changed));
    let batches: Arc<[RuleBatch]> = batches.into();
    let places = Arc::new(Places::new(cores, boot.settings.max_connections));
    let counters: Vec<_> = (0..cores).map(|_| Arc::new(CoreCounters::new())).collect();
    let histograms: Vec<_> = (0..cores).map(|_| Arc::new(CoreHistograms::new())).collect();

    let mut listeners: Vec<Vec<OwnedFd>> = (0..cores).map(|_| Vec::new()).collect();
    for per_core in boot.tcp {
        for (core, fd) in per_core.into_iter().enumerate() {
            listeners[core].push(fd);
        }
    }
    if let Some(fd) = boot.unix {
        listeners[0].push(fd);
    }

    let mut threads = Vec::with_capacity(cores);
    let mut disks = disks.into_iter();
    for (core, (mail, fds)) in mailboxes.into_iter().zip(listeners).enumerate() {
        let dealt = disks.next();
        let options = core_options(core, cores, boot.cores[core], boot.memory);
        let received_len = u64::from(options.receive_buffer_count) * u64::from(options.receive_buffer_len);
        let doorbell = mail.doorbell();
        let settings = Arc::clone(&boot.settings);
        let budget = Arc::clone(&budget);
        let shared = Arc::clone(&origin_shared);
        let tls = boot.origin_tls.clone();
        let counters = Arc::clone(&counters[core]);
        let histograms = Arc::clone(&histograms[core]);
        let log = boot.log.clone().map(LogBuffer::new);
        let post = post.clone();
        let purging = purges.clone();
        let (shared_rules, batches) = (Arc::clone(&rules), Arc::clone(&batches));
        let places = Arc::clone(&places);
        let thread = aspis_runtime::spawn_core(options, Some(doorbell), move |ring| {
            let arena =
                Arena::new(arena_len, Arc::clone(&budget)).expect("all arenas could be mapped a moment ago");
            // What one core owns alone has no replicas.
            let replicas_len_max = budget.limit() / REPLICA_SHARE / cores as u64;
            let replica_slots = if cores > 1 { settings.replica_slots } else { 0 };
            let replica_slots = ReplicaTable::slots_within(replica_slots, replicas_len_max);
            let replicas =
                ReplicaTable::new(replica_slots, &budget).expect("the limit has room for the replica tables");
            let disk = dealt.map(|dealt| Disk::new(ring.clone(), &counters, &budget, cores, dealt));
            let stored = if disk.is_some() { Stored::OnDisk } else { Stored::Nothing };
            let rules = Rules::new(core, shared_rules, &batches, (&budget, stored));
            let meters = OriginMeters::default();
            let origin =
                OriginClient::new(ring.clone(), core, shared, tls, Arc::clone(&counters), meters.clone());
            let shard = Shard::new(
                ring,
                Parts {
                    core,
                    cores,
                    sharding,
                    disk,
                    settings,
                    object_len_max,
                    budget,
                    arena,
                    replicas,
                    origin,
                    meters,
                    received_len,
                    counters,
                    histograms,
                    log,
                    mail,
                    post,
                    rules,
                    purging: Purging::new(purging),
                    places,
                },
            );
            for fd in fds {
                shard.listen(fd);
            }
            shard
        })
        .map_err(|error| StartError::Core { core, cause: error.to_string() })?;
        threads.push(thread);
    }
    Ok(Shards {
        threads: Mutex::new(threads),
        post,
        places,
        counters,
        histograms,
        budget,
        rules,
        sharding,
        directories,
        _mailboxes: mail_charge,
    })
}

/// How a core is set up; under a small limit it receives into fewer buffers.
fn core_options(core: usize, cores: usize, cpu: Option<usize>, memory: u64) -> CoreOptions {
    let options = CoreOptions { name: format!("aspis-core-{core}"), cpu, ..CoreOptions::default() };
    let affordable = memory / RECEIVE_SHARE / cores as u64 / u64::from(options.receive_buffer_len);
    let count = options.receive_buffer_count.min(u16::try_from(affordable).unwrap_or(u16::MAX));
    // A power of two, and not more than affordable: the runtime would round up.
    let count = 1 << count.max(RECEIVE_COUNT_MIN).ilog2();
    CoreOptions { receive_buffer_count: count, ..options }
}

impl Shards {
    /// Tells every core where the origin is now. New connections use the new list.
    pub fn set_addresses(&self, addresses: Arc<[SocketAddr]>) {
        self.tell_all(|| Message::Addresses(Arc::clone(&addresses)));
    }

    /// Gives every core new TLS settings. New connections use them.
    pub fn set_tls(&self, config: Arc<rustls::ClientConfig>) {
        self.tell_all(|| Message::Tls(Arc::clone(&config)));
    }

    /// Closes the listeners and idle viewer connections; answers in flight go on and end their connections.
    pub fn stop_accepting(&self) {
        self.tell_all(|| Message::StopAccepting);
    }

    /// Viewer connections open on all cores, those on their way from the core that accepted to another included.
    pub fn open_viewers(&self) -> u64 {
        self.places.taken() as u64
    }

    /// The counters of each core.
    pub fn counters(&self) -> &[Arc<CoreCounters>] {
        &self.counters
    }

    /// The latency histograms of each core.
    pub fn histograms(&self) -> &[Arc<CoreHistograms>] {
        &self.histograms
    }

    /// The memory account of all cores.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The number for a batch of rules that is accepted now. From this call on what is asked of the origin counts as newer than it, so it is
    /// to be called before the acceptance is made known to anybody, and once for each batch.
    pub fn next_rule_number(&self) -> u64 {
        self.rules.next()
    }

    /// Tells every core of a batch. Batches are to be told in the order of their numbers.
    ///
    /// A core that sleeps is not rung for it: whatever wakes it has it take the batch in before it looks at anything stored. Until then it has not
    /// applied it, so [`ring_all`](Self::ring_all) is to follow soon.
    pub fn add_rules(&self, batch: &Arc<RuleBatch>) {
        for core in 0..self.counters.len() {
            let mut waiting = Message::Rules(Arc::clone(batch));
            while let Err(back) = self.post.put(core, waiting) {
                waiting = back;
                // Who sleeps would never make room.
                self.post.ring(core);
                std::thread::yield_now();
            }
        }
    }

    /// Wakes every core that sleeps.
    pub fn ring_all(&self) {
        for core in 0..self.counters.len() {
            self.post.ring(core);
        }
    }

    /// The number of the newest batch that every core holds its answers against: no request that comes now is answered with what a rule up
    /// to there concerns (I-21).
    pub fn rules_applied(&self) -> u64 {
        self.rules.applied()
    }

    /// Has `rules_changed` called when every core has applied the rules up to this number, if that is not so already; `u64::MAX` for none.
    /// Only the last call counts. Without it nothing is told of rules that are applied: a stream of them would wake the caller for each.
    pub fn await_rules(&self, number: u64) {
        self.rules.await_applied(number);
    }

    /// The same for each core.
    pub fn rules_applied_each(&self) -> Vec<u64> {
        self.rules.applied_each()
    }

    /// The number from before which no core has anything left, stored or under way.
    pub fn rules_settled(&self) -> u64 {
        self.rules.settled()
    }

    /// Has every core forget the rules up to a number, at most those that are settled.
    pub fn forget_rules(&self, up_to: u64) {
        let up_to = up_to.min(self.rules_settled());
        self.tell_all(|| Message::ForgetRules(up_to));
    }

    /// Asks the owner of a key what is known about a request: `head` is that of a GET as a viewer sends it. `done` is called on the owner's
    /// core and must not wait for anything. The error says what is wrong with the head.
    pub fn explain(
        &self,
        head: Box<[u8]>,
        viewer: &ViewerFacts,
        done: Box<dyn FnOnce(Explanation) + Send>,
    ) -> Result<(), &'static str> {
        let question = explain::question(head, viewer, done)?;
        let owner = self.sharding.owner_core(question.key.0, self.counters.len());
        self.tell(owner, Message::Explain(Box::new(question)));
        Ok(())
    }

    /// What has the cores look whether memory is short.
    pub fn evict_bell(&self) -> EvictBell {
        EvictBell { post: self.post.clone(), cores: self.counters.len() }
    }

    /// The directories of the store on disk; none without one.
    pub fn disk_directories(&self) -> &[Arc<Directory>] {
        &self.directories
    }

    /// Has every core write what waits for the disk, or all that is of use and only in memory, and end its segments in order; after
    /// [`Shards::stop_accepting`], before [`Shards::stop`]. What is not written within `patience` is given up: it is lost, nothing worse.
    /// `None` if a disk does not answer, at most [`FLUSH_SLACK`](crate::FLUSH_SLACK) later.
    pub fn flush_disk(&self, extent: Extent, patience: Duration) -> Option<Flushed> {
        if self.directories.is_empty() {
            return Some(Flushed::default());
        }
        let gate = FlushGate::new();
        self.tell_all(|| Message::FlushDisk(gate.part(extent, patience)));
        gate.wait(patience + FLUSH_SLACK)
    }

    /// Has every core ship its access log lines.
    pub fn flush_logs(&self) {
        self.tell_all(|| Message::FlushLog);
    }

    /// Closes everything, ends the cores and waits for their threads.
    pub fn stop(&self) {
        self.tell_all(|| Message::Stop);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a core ended by a panic");
            }
        }
    }

    fn tell_all(&self, message: impl Fn() -> Message) {
        for core in 0..self.counters.len() {
            self.tell(core, message());
        }
    }

    /// A full mailbox is waited for: no message is lost.
    fn tell(&self, core: usize, message: Message) {
        let mut waiting = message;
        while let Err(back) = self.post.send(core, waiting) {
            waiting = back;
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests;
