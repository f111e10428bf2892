//! A core's thread: one glommio executor, pinned, with the ring's task in it.
//!
//! The thread reports to the caller once the ring exists and the handler was made; from then on it lives until
//! [`crate::Ring::stop`].

use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};

use crate::limits::EXECUTOR_PREEMPT;
use crate::mailbox::Doorbell;
use crate::ring::{Handler, Inner, Ring, State};
use crate::slice;
use crate::turn;

/// How a core is set up.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// Name of the thread.
    pub name: String,
    /// Processor that the thread is bound to; any if absent.
    pub cpu: Option<usize>,
    /// The longest sleep while a task is alive. Default 50 ms. Shorter costs an idle core about 20 microseconds each.
    pub tick_max: Duration,
    /// Entries of the submission queue, a power of two. The completion queue has four times as many.
    /// Cost: 128 bytes each per core.
    pub ring_entries: u32,
    /// Receive buffers, rounded up to a power of two.
    pub receive_buffer_count: u16,
    /// Bytes of one receive buffer. Worst case: cores × count × this, touched as they are first used.
    pub receive_buffer_len: u32,
}

impl Default for CoreOptions {
    fn default() -> Self {
        CoreOptions {
            name: "core".to_owned(),
            cpu: None,
            tick_max: Duration::from_millis(50),
            ring_entries: 1024,
            receive_buffer_count: 256,
            receive_buffer_len: 16 * 1024,
        }
    }
}

/// Why a core did not start.
#[derive(Debug)]
pub enum StartError {
    /// No thread could be made.
    Thread(io::Error),
    /// The executor could not be made; mostly the memlock limit, which [`crate::probe`] names.
    Executor(String),
    /// The ring could not be made.
    Ring(io::Error),
    /// The handler's constructor panicked.
    Handler,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Thread(error) => write!(formatter, "cannot start a core's thread: {error}"),
            StartError::Executor(error) => write!(formatter, "cannot start a core's executor: {error}"),
            StartError::Ring(error) => write!(formatter, "cannot set up a core's io_uring: {error}"),
            StartError::Handler => formatter.write_str("a core failed while it was set up"),
        }
    }
}

impl std::error::Error for StartError {}

/// A running core.
#[derive(Debug)]
pub struct CoreThread {
    thread: thread::JoinHandle<()>,
}

impl CoreThread {
    /// Waits for the core's end, which [`crate::Ring::stop`] asks for. An error is the core's panic.
    pub fn join(self) -> thread::Result<()> {
        self.thread.join()
    }

    /// Whether the core has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts a core, makes its handler on its own thread and returns when it is ready.
///
/// `doorbell` is the mailbox's, so that posts wake the core.
pub fn spawn_core<H: Handler, F: FnOnce(Ring) -> Rc<H> + Send + 'static>(
    options: CoreOptions,
    doorbell: Option<Doorbell>,
    make: F,
) -> Result<CoreThread, StartError> {
    let (report, started) = mpsc::sync_channel(1);
    let builder = thread::Builder::new().name(options.name.clone());
    let body = move || run_core(&options, doorbell, make, &report);
    let thread = builder.spawn(body).map_err(StartError::Thread)?;
    match started.recv() {
        Ok(Ok(())) => Ok(CoreThread { thread }),
        Ok(Err(error)) => Err(error),
        Err(mpsc::RecvError) => Err(StartError::Handler),
    }
}

fn run_core<H: Handler, F: FnOnce(Ring) -> Rc<H>>(
    options: &CoreOptions,
    doorbell: Option<Doorbell>,
    make: F,
    report: &mpsc::SyncSender<Result<(), StartError>>,
) {
    slice::ask_for_short();
    let executor = LocalExecutorBuilder::new(options.cpu.map_or(Placement::Unbound, Placement::Fixed))
        .name(&options.name)
        .preempt_timer(EXECUTOR_PREEMPT)
        // The executor's rings carry no data here: the least memory and depth that it takes.
        .io_memory(64 * 1024)
        .ring_depth(32)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make();
    let executor = match executor {
        Ok(executor) => executor,
        Err(error) => return answer(report, Err(StartError::Executor(error.to_string()))),
    };
    executor.run(async {
        let inner = match State::new(options, doorbell) {
            Ok(state) => Inner::new(state),
            Err(error) => return answer(report, Err(StartError::Ring(error))),
        };
        let handler = make(Ring { inner: inner.clone() });
        answer(report, Ok(()));
        turn::run(inner, handler, options.tick_max).await;
    });
}

/// The caller waits for exactly one answer; if it is gone nobody cares.
fn answer(report: &mpsc::SyncSender<Result<(), StartError>>, result: Result<(), StartError>) {
    let _ = report.try_send(result);
}
