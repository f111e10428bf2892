//! Named limits of the runtime. Each queue, buffer and wait of this crate is bounded by one of these.

use std::time::Duration;

/// Bytes of one chunk of the turn buffer: the most that one `send_with` composes without an allocation.
pub const TURN_CHUNK_LEN: usize = 256 * 1024;

/// Chunks of the turn buffer. Worst case: cores × chunks × [`TURN_CHUNK_LEN`], allocated as they are first needed.
/// What does not fit goes out from memory of its own in the same order.
pub const TURN_CHUNK_COUNT_MAX: usize = 16;

/// Bytes of one gather send. A larger response is sent piece after piece, so that one reader does not hold the
/// core for longer than about 100 microseconds: that is what everybody else waits longer beside a fast reader.
pub const GATHER_LEN_MAX: usize = 128 * 1024;

/// Memory runs named by one gather send.
pub const GATHER_PIECE_COUNT_MAX: usize = 64;

/// Bytes that an owned buffer of small sends grows to before the next one is begun.
pub const OWNED_MERGE_LEN_MAX: usize = 64 * 1024;

/// Bytes read and thrown away from a viewer that still sends while its last response drains.
pub const LINGER_DRAIN_LEN_MAX: u64 = 1024 * 1024;

/// Times that woken tasks are run within one turn before the ring is looked at again.
pub const YIELD_COUNT_MAX: u32 = 4;

/// Woken tasks that run in one turn. The others wait in the order in which they were woken: a crowd that waited for the same
/// thing must not hold the core while bytes of viewers arrive. A task takes 10 to 20 microseconds with its sends, and a turn
/// costs one or two itself.
pub const TASKS_PER_TURN: usize = 4;

/// Completions that one turn looks at; the others come first in the next. A response that was composed leaves with its turn.
pub const COMPLETIONS_PER_TURN: usize = 256;

/// Connections that one turn takes from its listeners, so that a flood of them does not hold up those that are served.
pub const ACCEPTS_PER_TURN: usize = 64;

/// Accepted connections that wait for their turn; what comes beyond is taken at once, because each holds a descriptor.
pub const ACCEPTS_WAITING_MAX: usize = 1024;

/// How often a busy core measures how late it looks at what happens.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(10);

/// Completions since the last measurement that make a core a busy one. A core that is asked little must not wake for it.
pub const PROBE_COMPLETIONS: usize = 64;

/// The executor never leaves its tasks to look at its own rings: nothing of ours is in them.
///
/// It must not: glommio 0.9 takes a preempt timer that fired between its look at the rings and its first task for "nothing is
/// runnable" and parks for good, while the ring's task is runnable. On a busy machine a short timer did that to 3 of 60 runs, and a
/// pending executor timer does not always end the park. Ten years are as long as its timer can be told to wait.
/// Consequence: the executor's own timers, file I/O and foreign wakes are not served on a core.
pub const EXECUTOR_PREEMPT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Receives in a second from which on a core waits for several at once: about four within [`BATCH_PATIENCE`].
pub const BATCH_RATE_MIN: u128 = 80_000;

/// The fewest completions that are worth a batched wait: of fewer who talk the rest is soon done, and the core would sleep more often than it
/// does while they come one by one.
pub const BATCH_COUNT_MIN: u32 = 8;

/// The most completions that a core waits for.
pub const BATCH_COUNT_MAX: u32 = 32;

/// The longest that a core waits for more when something has come.
pub const BATCH_PATIENCE: Duration = Duration::from_micros(50);

/// How long a core counts before it judges how much comes in.
pub const BATCH_WINDOW: Duration = Duration::from_millis(2);

/// Turns longer than this are counted as long.
pub const LONG_TURN: Duration = Duration::from_millis(2);

/// Wait before a listener accepts again after the process or machine ran out of descriptors or memory.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Completions of cancelled operations are awaited this long when a core stops; what is still out after it is
/// leaked rather than freed under the kernel's hands.
pub const STOP_WAIT: Duration = Duration::from_secs(2);

/// Least RLIMIT_MEMLOCK with which glommio's reactor starts.
pub const MEMLOCK_LEN_MIN: u64 = 512 * 1024;

/// Open files below which a start is refused: a proxy needs two per exchange.
pub const OPEN_FILES_MIN: u64 = 4096;

/// Pending connections per listening socket; the kernel lowers it to net.core.somaxconn.
pub const LISTEN_BACKLOG: i32 = 4096;

// A provided buffer is named by 16 bits, and the kernel takes at most 2^15 of them.
/// Receive buffers of one core, at most.
pub const RECEIVE_BUFFER_COUNT_MAX: u32 = 32_768;
