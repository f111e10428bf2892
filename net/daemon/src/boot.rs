//! From checked settings to a serving process, in the order in which things can fail.
//!
//! Everything that may be wrong with the machine or the flags is found before the first viewer is accepted and said
//! in one line that names the flag. Afterwards [`control`] has the process.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aspis_cache::invalidation::Wildcards;
use aspis_config::{AccessLog, Raw, Semantics, Settings};
use aspis_shard::{Boot, Invalidations, Shards};
use aspis_telemetry::LogSender;
use listenfd::ListenFd;

use crate::admin::{self, Admin, AdminListener, Guard, Readiness};
use crate::control::{self, Control};
use crate::dns::{Follower, OriginName};
use crate::explain;
use crate::failure::{Failure, failed, usage};
use crate::invalidations::{self, Bound};
use crate::listeners::{self, Listeners, Wanted};
use crate::log_writer::{self, LogWriter, Sink};
use crate::memory;
use crate::memory::page::MemoryPage;
use crate::memory::watch::Watch;
use crate::metrics::{Metrics, Sources};
use crate::store::{self, Store, StorePage};
use crate::{cores, notify, origin_tls, signals, stdout};

/// How long the start waits for the origin's name; what takes longer goes on beside the serving.
const FIRST_LOOKUP_WAIT: Duration = Duration::from_secs(2);

/// Serves viewers until a signal ends it; returns the exit code.
pub(crate) fn serve(raw: &Raw) -> u8 {
    match crate::settings(raw) {
        Ok(settings) => run(settings, |_| ()),
        Err(code) => code,
    }
}

/// Where we can be reached, for those who tell people.
pub(crate) struct Announced {
    /// The first address for viewers, unless there are Unix sockets only.
    pub(crate) viewers: Option<SocketAddr>,
    /// The admin server, unless it is off.
    pub(crate) admin: Option<SocketAddr>,
}

/// Serves with these settings. `announced` is called when viewers can come.
pub(crate) fn run(settings: Settings, announced: impl FnOnce(Announced)) -> u8 {
    match start(Arc::new(settings)) {
        Ok(started) => {
            for name in &started.names {
                stdout::listening(name);
            }
            if let Some(name) = &started.admin_name {
                stdout::admin_listening(name);
            }
            started.control.readiness.listening();
            notify::ready(&format!("serving on {}", started.names.join(", ")));
            announced(Announced { viewers: started.first, admin: started.admin_address });
            control::run(started.control, started.runtime)
        }
        Err(failure) => failure.tell(),
    }
}

/// What is there when everything has started.
struct Started {
    control: Control,
    runtime: tokio::runtime::Runtime,
    names: Vec<String>,
    first: Option<SocketAddr>,
    admin_name: Option<String>,
    admin_address: Option<SocketAddr>,
}

fn start(settings: Arc<Settings>) -> Result<Started, Failure> {
    aspis_runtime::heap::keep_little();
    let inherited = ListenFd::from_env();
    probe_kernel()?;
    let cpus = cores::choose(&settings.cores, &aspis_runtime::bind::available_cpus()).map_err(usage)?;
    let memory = memory_limit(&settings)?;
    let origin_tls = origin_tls::config(&settings).map_err(failed)?;
    let sink = log_sink(&settings.access_log)?;
    let wanted = Wanted {
        addresses: &settings.listen,
        unix: settings.listen_unix.as_deref(),
        congestion_control: settings.congestion_control.as_deref(),
    };
    let Listeners { tcp, unix, names, first } =
        listeners::open(&wanted, inherited, cpus.len()).map_err(failed)?;
    let admin_listener = admin::bind(&settings.admin).map_err(failed)?;
    let admin_name = admin_listener.as_ref().map(AdminListener::name);
    let admin_address = admin_listener.as_ref().and_then(AdminListener::address);
    let guard = guard(&settings, admin_listener.as_ref())?;
    let wanted = store::Wanted::of(&settings, cpus.len(), memory);
    let mut store = wanted.map(|wanted| store::open(&wanted)).transpose().map_err(failed)?;
    // Before the cores start: they must have every rule that still counts before they serve (I-26).
    let state = settings.state.as_deref().map(Path::new);
    let (invalidations, incoming, beginning) =
        invalidations::open(state, bound(store.as_ref()), wildcards(&settings)).map_err(failed)?;
    let mut disk = None;
    let mut folders = Arc::default();
    if let Some(store) = &mut store {
        let mapped = || memory::default_mapped(memory::available(&memory::read_file).as_ref(), memory);
        let mapped = settings.disk_mapped.unwrap_or_else(mapped);
        let (boot, watched) = store.boot(settings.disk_write_budget, mapped).map_err(failed)?;
        // Behind the log, which knows by now whether it may be believed.
        store.note_numbers(beginning.last_number).map_err(failed)?;
        disk = Some(boot);
        folders = Arc::new(watched);
    }

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(format!("the control thread cannot start: {error}")))?;
    let signals = signals::listen().map_err(|error| failed(format!("signals cannot be caught: {error}")))?;
    let (log, log_writer) = start_log(sink)?;
    let origin = OriginName::new(&settings.origin.host, settings.origin.port);
    let first_lookup = runtime.block_on(async {
        let lookup = tokio::time::timeout(FIRST_LOOKUP_WAIT, origin.lookup()).await;
        lookup.unwrap_or_else(|_| Err("no answer yet".to_owned()))
    });

    let shards = aspis_shard::start(Boot {
        settings: Arc::clone(&settings),
        tcp,
        unix,
        memory,
        cores: cpus.iter().copied().map(Some).collect(),
        origin_tls,
        log,
        invalidations: Invalidations {
            rules: beginning.rules,
            first_number: beginning.last_number,
            rules_changed: invalidations.rules_changed(),
            purges: Some(Arc::clone(&invalidations) as Arc<dyn aspis_shard::Purges>),
        },
        disk,
    })
    .map(Arc::new)
    .map_err(failed)?;
    invalidations.attach(Arc::clone(&shards) as Arc<dyn invalidations::Cores>);
    tracing::info!("{} core(s), {} MiB, origin {}", cpus.len(), memory >> 20, settings.origin);

    let readiness = Arc::new(Readiness::watching(Arc::clone(&folders)));
    let metrics = Metrics::new(sources(&shards, log_writer.as_ref(), &invalidations));
    let admin = Arc::new(Admin {
        readiness: Arc::clone(&readiness),
        metrics,
        invalidations: Arc::clone(&invalidations),
        memory: memory_page(&shards),
        store: store.as_ref().map(|store| StorePage {
            name: store.name(),
            len: store.len(),
            folders: Arc::clone(&folders),
            counters: shards.counters().to_vec(),
        }),
        cores: Arc::clone(&shards) as Arc<dyn explain::Explains>,
        guard,
    });
    let watch = Watch {
        budget: Arc::clone(shards.budget()),
        counters: shards.counters().to_vec(),
        bell: shards.evict_bell(),
    };
    let mut control = Control {
        watch: Some(watch),
        settings,
        shards,
        origin,
        follower: Follower::default(),
        ask_after: None,
        readiness,
        admin_listener,
        admin,
        invalidations,
        folders,
        _store: store,
        incoming: Some(incoming),
        signals,
        log_writer,
    };
    // Before the first `listening on`: who waits for that line may send a request at once.
    control.take_lookup(first_lookup);
    Ok(Started { control, runtime, names, first, admin_name, admin_address })
}

/// Says everything that the kernel lacks, each with its fix.
fn probe_kernel() -> Result<(), Failure> {
    match aspis_runtime::probe::probe() {
        Ok(_) => Ok(()),
        Err(missing) => {
            let lines: Vec<String> = missing.iter().map(ToString::to_string).collect();
            Err(failed(format!("this machine cannot run Aspis:\n  {}", lines.join("\n  "))))
        }
    }
}

fn memory_limit(settings: &Settings) -> Result<u64, Failure> {
    let available = memory::available(&memory::read_file);
    match (settings.memory, available) {
        (Some(limit), available) => {
            if let Some(available) = available.filter(|available| available.bytes < limit) {
                tracing::warn!("--memory {} MiB is more than there is: {available}", limit >> 20);
            }
            Ok(limit)
        }
        (None, Some(available)) => Ok(memory::default_limit(&available)),
        (None, None) => Err(failed("the machine's memory cannot be read from /proc; give --memory")),
    }
}

/// What the log of invalidations is told of the store.
fn bound(store: Option<&Store>) -> Bound {
    let bound =
        |store: &Store| Bound { store: store.name(), numbers: store.numbers(), newest: store.newest() };
    store.map(bound).unwrap_or_default()
}

fn log_sink(log: &AccessLog) -> Result<Option<Sink>, Failure> {
    Ok(match log {
        AccessLog::Off => None,
        AccessLog::Stdout => Some(Sink::Stdout),
        AccessLog::Path(path) => Some(
            Sink::file(Path::new(path))
                .map_err(|error| failed(format!("cannot write --access-log {path}: {error}")))?,
        ),
    })
}

fn start_log(sink: Option<Sink>) -> Result<(Option<LogSender>, Option<LogWriter>), Failure> {
    let Some(sink) = sink else { return Ok((None, None)) };
    let (sender, writer) =
        log_writer::start(sink).map_err(|error| failed(format!("the log writer cannot start: {error}")))?;
    Ok((Some(sender), Some(writer)))
}

/// Makes the rules of the admin address, and says what they refuse where that may be a surprise.
fn guard(settings: &Settings, listener: Option<&AdminListener>) -> Result<Guard, Failure> {
    let reach = listener.map_or(admin::Reach::Loopback, AdminListener::reach);
    if reach == admin::Reach::Network && settings.admin_token.is_none() {
        tracing::warn!(
            "--admin {} is open to others: without --admin-token nobody can invalidate there",
            settings.admin
        );
    }
    Guard::new(reach, settings.admin_token.as_deref()).map_err(failed)
}

/// A `*` within a path is a wildcard unless CloudFront's rules hold (I-9).
fn wildcards(settings: &Settings) -> Wildcards {
    match settings.semantics {
        Semantics::Cloudfront => Wildcards::Trailing,
        Semantics::Rfc9111 => Wildcards::Anywhere,
    }
}

fn memory_page(shards: &Shards) -> MemoryPage {
    MemoryPage::new(Arc::clone(shards.budget()), shards.counters().to_vec())
}

fn sources(
    shards: &Shards,
    log_writer: Option<&LogWriter>,
    invalidations: &Arc<invalidations::Invalidations>,
) -> Sources {
    let memory = memory_page(shards);
    let more = Arc::clone(invalidations);
    Sources {
        counters: shards
            .counters()
            .iter()
            .chain(log_writer.map(LogWriter::counters))
            .chain([invalidations.counters()])
            .map(Arc::clone)
            .collect(),
        histograms: shards.histograms().to_vec(),
        levels: Box::new(move || {
            let mut levels = memory.levels();
            levels.extend(more.levels());
            levels
        }),
    }
}
