//! Every bound of a shard: queues, buffers, waits. Read by all modules of this crate; flags outrank those that have one.

use std::time::Duration;

/// Bytes of a request body, or of pipelined requests, that wait unread per viewer connection. Reading pauses above it.
pub(crate) const INBOX_LEN_MAX: usize = 128 * 1024;

/// Unread bytes up to which a paused connection is read on, one piece at a time.
pub(crate) const INBOX_ROOM: usize = INBOX_LEN_MAX / 2;

/// Bytes queued to a viewer above which no further pipelined request is answered until they are sent.
pub(crate) const QUEUED_LEN_MAX: u64 = 256 * 1024;

/// Requests of one connection that are answered in one turn; the others wait for the next, behind those of other connections.
pub(crate) const REQUESTS_PER_TURN: u32 = 32;

/// Requests that are told in one turn what became of a fetch that they waited for: 10 to 20 us, and more than tasks of theirs run in it.
pub(crate) const REPLIES_PER_TURN: usize = 64;

/// Connections that waited for a turn and are served in it.
pub(crate) const QUEUED_VIEWERS_PER_TURN: usize = 4;

/// Viewers that are looked at in one turn of a sweep.
pub(crate) const SWEPT_PER_TURN: usize = 256;

/// Bytes that a task queues to a viewer before it waits for the queue to drain.
pub(crate) const SEND_WINDOW: u64 = 256 * 1024;

/// Bodies up to this length are copied behind their head, so that the response leaves with one short send.
pub(crate) const INLINE_BODY_LEN_MAX: u64 = 16 * 1024;

/// Bytes read from an origin at once when the response is not stored.
pub(crate) const RELAY_BUFFER_LEN: usize = 64 * 1024;

/// The same while memory is short.
pub(crate) const RELAY_BUFFER_LEN_SHORT: usize = 16 * 1024;

/// What a fetch takes at least until its content is stored or has gone on: the head's buffer, one of the content's, one that is sent.
pub(crate) const FETCH_ROOM: usize = 2 * RELAY_BUFFER_LEN_SHORT + 16 * 1024;

/// How long what is not stored waits for memory to pass through, before it is cut.
pub(crate) const PASSAGE_PATIENCE: Duration = Duration::from_secs(10);

/// How long it waits for stored responses to leave, before it lets go of what slower viewers have not got yet.
pub(crate) const PASSAGE_WINDOW_PATIENCE: Duration = Duration::from_millis(200);

/// How often it looks meanwhile.
pub(crate) const PASSAGE_LOOK: Duration = Duration::from_millis(20);

/// Bytes of one piece of a growing fill that is queued to a viewer.
pub(crate) const FILL_PIECE_LEN: u64 = 256 * 1024;

/// Most bytes that one receive of a fill asks the kernel for.
pub(crate) const FILL_RECEIVE_LEN: u64 = 256 * 1024;

/// A fill that lost its viewer goes on if at most this many bytes are missing, or if half is there.
pub(crate) const FILL_WITHOUT_VIEWER_MISSING_MAX: u64 = 64 * 1024 * 1024;

/// A fill of unknown length that lost its viewer goes on for this long.
pub(crate) const FILL_WITHOUT_VIEWER_TIME: Duration = Duration::from_secs(5);

/// How long a connection that we end is still read, so that the viewer sees our last answer and not a reset.
pub(crate) const LINGER: Duration = Duration::from_millis(1000);

/// A tunnel without a byte from the origin is closed after this time (H-31).
pub(crate) const TUNNEL_IDLE: Duration = Duration::from_secs(600);

/// Messages that wait in one core's mailbox; senders keep more on their own side.
pub(crate) const MAILBOX_LEN: usize = 4096;

/// Messages handled in one turn, so that mail cannot starve viewers.
pub(crate) const MAIL_PER_TURN: usize = 256;

/// Arena blocks taken back from the return stack in one turn.
pub(crate) const RETURNED_BLOCKS_PER_TURN: usize = 64;

/// How often connections are checked against their deadlines and pools against theirs.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Requests that wait for fetches of one owner, all together; one more gets 503 (C-11).
pub(crate) const WAITERS_MAX: usize = 65_536;

/// Requests of one owner that went away while they waited, before their places are given to others.
pub(crate) const LEFT_MAX: usize = 512;

/// Hit-for-miss marks of one owner (C-13).
pub(crate) const MARKS_MAX: usize = 65_536;

/// The longest response that another core than the owner may store: it is copied there in one turn.
pub(crate) const DEPOSIT_LEN_MAX: u64 = 1024 * 1024;

/// How far the slowest reader of a response that is not stored may be behind the fastest: this part of a core's arena.
const PASSAGE_WINDOW_SHARE: u64 = 64;

/// But at least this much.
pub(crate) const PASSAGE_WINDOW_LEN_MIN: u64 = 1024 * 1024;

/// And at most this much.
const PASSAGE_WINDOW_LEN_MAX: u64 = 16 * 1024 * 1024;

/// The bytes that a core with so much memory keeps for readers behind the fastest: the more, the fewer are cut.
pub(crate) fn passage_window(memory: u64) -> u64 {
    (memory / PASSAGE_WINDOW_SHARE).clamp(PASSAGE_WINDOW_LEN_MIN, PASSAGE_WINDOW_LEN_MAX)
}

/// How often the rest of a broken fill is asked for without a byte of progress.
pub(crate) const RESUMES_MAX: u32 = 3;

/// How often a request asks the owner of its key anew before it goes alone.
pub(crate) const ASKS_MAX: u32 = 4;

/// How often one question waits for the disk: for the marker of its URI, then for the variant or the part.
pub(crate) const RESTORES_PER_ASK: u8 = 2;

/// Markers of URIs that vary, or of which parts are stored, which are remembered without a look at the disk, and as many again.
pub(crate) const MARKERS_MAX: usize = 16_384;

/// Bytes that they take on average at most: fewer are remembered if they are long, as lists of many parts are.
pub(crate) const MARKER_COST: u64 = 384;

/// Blocks of a large body on disk that are read behind a range for one who reads on where the last range ended: 64 KiB each.
pub(crate) const BLOCKS_AHEAD: u64 = 2;

/// What does not say its length begins to be written when it is longer than this part of what memory would take.
pub(crate) const STREAM_EARLY_SHARE: u64 = 4;

/// For so much of what does not say its length the write budget is asked first, or for twice what is there; then for as much again.
pub(crate) const STREAM_ADMITTED_LEN: u64 = 16 * 1024 * 1024;

/// Slices that wait to be appended of one response that goes to disk as it comes: at most this part of the limit of all cores.
pub(crate) const STREAM_SHARE: u64 = 64;

/// But at least so many.
pub(crate) const STREAMED_SLICES_MIN: u64 = 2;

/// And at most so many.
pub(crate) const STREAMED_SLICES_MAX: u64 = 8;

/// How long viewers wait for the disk, all in all, before such a response is not written any further.
pub(crate) const STREAM_STALL_MAX: Duration = Duration::from_secs(1);

/// How often it is looked whether the disk goes on.
pub(crate) const STREAM_LOOK: Duration = Duration::from_millis(10);

/// How long the fastest viewer of such a response may hold it up before it runs ahead of all: they read on from disk.
pub(crate) const STREAM_AHEAD_AFTER: Duration = Duration::from_millis(50);

/// Slices that are looked up in one step.
pub(crate) const SLICES_FOUND_PER_STEP: u64 = 512;

/// With a disk a body is kept in memory up to this length, or this part of a core's arena if that is more; longer ones are on disk alone.
pub(crate) const MEMORY_OBJECT_LEN: u64 = 64 * 1024 * 1024;

/// See [`MEMORY_OBJECT_LEN`].
pub(crate) const MEMORY_OBJECT_SHARE: u64 = 8;

/// How long somebody who reads a large body waits for one slice that is there and cannot be read yet.
pub(crate) const SLICE_PATIENCE: Duration = Duration::from_secs(4);

/// How often it is looked whether it can be.
pub(crate) const SLICE_LOOK: Duration = Duration::from_millis(50);

/// What is read of a slice at once for viewers that are slower than the disk.
pub(crate) const SLOW_PIECE_LEN: u64 = 128 * 1024;

/// One part in this many of an arena may be held by what was evicted, and waits for the disk.
pub(crate) const EVICTED_SHARE: u64 = 128;

/// How often memory is looked through for what was used and is not on disk, or has to stay there.
pub(crate) const KEEP_WARM_INTERVAL: Duration =
    if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(60) };

/// Stored responses that are looked at for that in one turn.
pub(crate) const KEPT_WARM_PER_TURN: usize = 32;

/// The same at the orderly end, when nobody waits for hits.
pub(crate) const WRITTEN_OUT_PER_TURN: usize = 256;

/// How long the disk may take at the orderly end, beyond the time for it, for what it was given before that time was over.
pub const FLUSH_SLACK: Duration = Duration::from_secs(2);

/// Replica slots that are looked at in one turn of a sweep.
pub(crate) const REPLICAS_PER_TURN: usize = 2048;

/// Memory of evicted responses that replicas may hold, as a part of the limit, before all cores let go of them.
pub(crate) const LIMBO_SHARE: u64 = 100;

/// The part of the limit that content leaves to all others, so that what cannot wait for an eviction need not.
const HEADROOM_SHARE: u64 = 64;

/// But at least this much.
const HEADROOM_LEN_MIN: u64 = 512 * 1024;

/// And at most this much.
const HEADROOM_LEN_MAX: u64 = 64 * 1024 * 1024;

/// Turns from one look at the limit to the next while there is memory: few enough that what comes meanwhile is a small part of the headroom.
pub(crate) const LOOK_EACH_TURNS: u32 = 4;

/// How long a core waits for the others to sweep their replicas before it asks again.
pub(crate) const RING_LIMBO_AFTER: Duration = Duration::from_millis(10);

/// What is in use beside content is charged in steps of this, so that a turn that changes little writes nothing that cores share.
pub(crate) const CHARGE_STEP: u64 = 16 * 1024;

/// How long a core waits for what it evicted and others still hold, before it evicts more for the same need.
pub(crate) const EVICT_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How often a core asks the others to make way while it has nothing more to give itself.
pub(crate) const ASK_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// How long a fetch waits for memory that content is giving up for it, before what asked for it is refused.
pub(crate) const FETCH_PATIENCE: Duration = Duration::from_secs(2);

/// How often it looks meanwhile.
pub(crate) const FETCH_LOOK: Duration = Duration::from_millis(5);

/// How often buffers shrink while memory is short.
pub(crate) const SHRINK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// The receive buffers of all cores together are at most this part of the limit.
pub(crate) const RECEIVE_SHARE: u64 = 32;

/// But each core has at least so many.
pub(crate) const RECEIVE_COUNT_MIN: u16 = 16;

/// A request that waits for a fetch of its owner, beside its task and its head: its place, and its line among those who wait.
pub(crate) const WAITING_COST: usize = 384;

/// The memory that content leaves to all others under a limit.
pub(crate) fn headroom(limit: u64) -> u64 {
    (limit / HEADROOM_SHARE).clamp(HEADROOM_LEN_MIN, HEADROOM_LEN_MAX)
}

/// How long the invalidation sweep works in one turn: what comes meanwhile waits for no longer. About five responses that leave, or fifteen that stay.
pub(crate) const RULES_SLICE: Duration = Duration::from_micros(10);

/// How long the core sleeps after that if nothing comes, beside the slack of its timers, which is as much again: a tenth of an idle core is the
/// sweep's, and a million responses take it a few seconds.
pub(crate) const RULES_NAP: Duration = Duration::from_micros(30);

/// Responses that it looks at between two looks at the clock.
pub(crate) const RULES_SWEPT_AT_ONCE: usize = 4;

/// How long it lets turns go by to which something came, before it works in one of them: on a core without a quiet turn it takes a
/// fiftieth of the time, and a million responses take it two minutes or less.
pub(crate) const RULES_SLICE_WAIT: Duration = Duration::from_micros(500);

/// A round is followed by a pause of so many times the time that it worked, whatever rules come: in a stream of them rounds work a fiftieth of the
/// time, naps between slices not counted. At a tenth they were most of what a stream costs a core (decision 29).
pub(crate) const RULES_ROUND_PAUSE: u32 = 49;

/// But by no longer one: rules are kept until a round is through.
pub(crate) const RULES_ROUND_PAUSE_MAX: Duration = Duration::from_secs(10);

/// PURGE requests of one core that wait until they took effect; one more gets 503.
pub(crate) const PURGES_MAX: usize = 1024;

/// How often a PURGE request that waits looks whether it is told, in case the word of it was lost.
pub(crate) const PURGE_LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Reads of the disk tier that run at once on one core; the others wait in line.
pub(crate) const DISK_READS_MAX: usize = 64;

/// Reads that wait; who comes after them goes to the origin.
pub(crate) const DISK_READS_WAITING_MAX: usize = 4096;

/// Bytes that they read into at once, at most this part of the limit of all cores.
pub(crate) const DISK_READ_SHARE: u64 = 32;

/// But at most this much on one core.
pub(crate) const DISK_READ_LEN_MAX: u64 = 32 * 1024 * 1024;

/// Records shorter than this are copied into memory: a mapped page costs the same however little of it is sent.
pub(crate) const MAPPED_LEN_MIN: u64 = 32 * 1024;

/// Mapped responses that are looked at for each one that is taken in: to let go of those that are gone, and of others where there is no room.
pub(crate) const MAPPED_LOOKED_AT: usize = 4;

/// Bytes that the kernel reads ahead for one core at once.
pub(crate) const READ_AHEAD_LEN_MAX: u64 = 16 * 1024 * 1024;

/// How long nothing is read ahead after pages left memory: the kernel needs it for something else.
pub(crate) const READ_AHEAD_PAUSE: Duration = Duration::from_millis(100);

/// How long a request waits for the disk before it goes to the origin; the device has failed it.
pub(crate) const DISK_READ_PATIENCE: Duration = Duration::from_secs(2);

/// How long a write may take before that counts as an error of the device; it is waited for as long as it takes.
pub(crate) const DISK_WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of stored responses that wait to be written: at most this part of the limit of all cores. Most of them are in memory anyway.
pub(crate) const DISK_QUEUE_SHARE: u64 = 16;

/// But at most this much on one core.
pub(crate) const DISK_QUEUE_LEN_MAX: u64 = 128 * 1024 * 1024;

/// And at most so many.
pub(crate) const DISK_QUEUE_COUNT_MAX: usize = 4096;

/// Bytes of records that are copied to write buffers in one turn, or one record that is longer.
pub(crate) const DISK_APPENDED_PER_TURN: u64 = 256 * 1024;

/// Records that are copied in one turn.
pub(crate) const DISK_RECORDS_PER_TURN: usize = 64;

/// How long an appended record waits for others before it is written.
pub(crate) const DISK_FLUSH_AFTER: Duration = Duration::from_millis(250);

/// Volumes of one core whose index is rebuilt at once.
pub(crate) const DISK_RECOVERIES_MAX: usize = 4;

/// Errors of one directory within [`DISK_ERRORS_SPAN`] that put it off line.
pub(crate) const DISK_ERRORS_MAX: usize = 5;

/// See [`DISK_ERRORS_MAX`].
pub(crate) const DISK_ERRORS_SPAN: Duration = Duration::from_secs(60);

/// Between two pieces of a segment that is tried: it takes some seconds then, and the device hardly notices. None while segments are short.
pub(crate) const DISK_TRIAL_PAUSE: Duration = Duration::from_millis(20);

/// Between two probes of a directory that is on line, because something in it was not as it was written.
pub(crate) const DISK_DOUBT_PAUSE: Duration = Duration::from_secs(1);

/// How long after it went off line a directory is probed.
pub(crate) const DISK_PROBE_PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause between two probes.
pub(crate) const DISK_PROBE_PAUSE_MAX: Duration = Duration::from_secs(300);

/// What may be written at once beyond the write budget: so much time of it.
pub(crate) const DISK_BURST: Duration = Duration::from_secs(30);

/// But at least this much on one core.
pub(crate) const DISK_BURST_LEN_MIN: u64 = 16 * 1024 * 1024;

/// How soon what found no place in a write buffer or no free segment is tried again, if nothing tells earlier.
pub(crate) const DISK_RETRY_AFTER: Duration = Duration::from_millis(100);

/// Bytes that the recovery of one volume reads ahead, beside the read that is looked at.
pub(crate) const DISK_RECOVERY_AHEAD_LEN: usize = 2 * 1024 * 1024;

/// How often recovery tries to read something while the directory is on line.
pub(crate) const DISK_RECOVERY_ATTEMPTS: u32 = 3;

// A bad place is given up before the whole directory is.
const _: () = assert!((DISK_RECOVERY_ATTEMPTS as usize) < DISK_ERRORS_MAX);

/// The write buffers of all cores together are at most this part of the limit.
pub(crate) const DISK_WRITE_SHARE: u64 = 64;

/// But each core has at least so many: two of each class of segments.
pub(crate) const WRITE_BUFFERS_MIN: usize = 4;

/// And at most so many.
pub(crate) const WRITE_BUFFERS_MAX: usize = 16;

/// So many of them stay at hand when memory is short. Otherwise all do that were ever needed: to fill one of fresh pages takes half a millisecond, eight
/// times as long as one that was used before.
pub(crate) const WRITE_BUFFERS_KEPT: usize = 2;

/// Others are given back one after another, so many at once.
pub(crate) const WRITE_BUFFERS_TRIMMED: usize = 2;

/// How long the answer to an unsafe request waits for the disk to know what it removed.
pub(crate) const DISK_REMOVAL_PATIENCE: Duration = Duration::from_millis(500);
