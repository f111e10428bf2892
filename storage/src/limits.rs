//! Every bound of this crate by name; the tests that reach them stand beside the code that obeys.

/// Bytes of the smallest block, and the unit in which the arena counts.
pub const BLOCK_LEN_MIN: usize = 512;

/// Bytes of the largest block: one huge page, so that a whole free region can be given back to the kernel.
pub const BLOCK_LEN_MAX: usize = 2 * 1024 * 1024;

/// Bytes of the largest arena: unit numbers are 32 bits wide and one value is kept free as "none".
pub const ARENA_LEN_MAX: usize = (u32::MAX as usize - BLOCK_LEN_MAX / BLOCK_LEN_MIN) * BLOCK_LEN_MIN;

/// Bytes of the first block of a body whose length is not known; later blocks double what is there.
///
/// One receive buffer's worth: a small chunked answer takes one block, and completion gives the rest back.
pub const FILL_BLOCK_LEN_FIRST: usize = 16 * 1024;

/// Most returned blocks that one allocation takes back when nothing is short, so that its cost is bounded.
pub const DRAIN_COUNT_PER_ALLOCATION: usize = 64;

/// Most returned blocks that an allocation takes back when it would fail otherwise: about 0.2 ms of work.
pub const DRAIN_COUNT_UNDER_PRESSURE: usize = 4096;

/// Times that an arena which has more memory come asks the budget for it, while other cores take from it.
pub const BUDGET_ATTEMPTS: usize = 4;

/// Bytes of the smallest free block that is given back to the kernel: a page.
pub const GIVE_UP_LEN_MIN: usize = 4096;

/// Bytes that are given back at least when memory is needed for something else than content, so that it is not one system call each time.
pub const GIVE_UP_LEN: u64 = 256 * 1024;

/// Most bytes that one call gives back: some milliseconds of a turn where they are single pages.
pub const GIVE_UP_LEN_MAX: u64 = 16 * 1024 * 1024;

/// One part in this many of an arena's memory stays though it is free, as long as evicting frees anything.
pub const GIVE_UP_KEPT_SHARE: u64 = 32;

/// Blocks of a body that are listed in the body itself; more of them take a directory on the heap.
pub const BODY_BLOCKS_INLINE: usize = 4;

/// Blocks in the first chunk of a body's directory; each further chunk doubles.
pub const BODY_BLOCKS_CHUNK_FIRST: usize = 8;

/// Chunks of a body's directory.
pub const BODY_CHUNK_COUNT: usize = 16;

/// Most blocks in one body. Reached only when the arena is splintered: with 2 MiB blocks this is 1 TiB.
pub const BODY_BLOCKS_MAX: usize =
    BODY_BLOCKS_INLINE + BODY_BLOCKS_CHUNK_FIRST * ((1 << BODY_CHUNK_COUNT) - 1);

/// Most bytes of a chunk of a passage.
pub const PASSAGE_CHUNK_LEN_MAX: usize = 64 * 1024;

/// How far the writer of a passage may be ahead of its fastest reader: what a viewer's socket has queued at most.
pub const PASSAGE_LEAD_LEN: u64 = 256 * 1024;

/// The use count of a stored response stops here, so that a hot one writes no shared line.
pub const USE_COUNT_MAX: u8 = 3;

/// Most entries that one eviction moves aside before it takes the next one whatever its uses.
///
/// Other cores may go on counting uses while the policy looks, so without a bound it might never decide.
pub const EVICTION_STEPS_MAX: usize = 256;

/// One part in this many of a tier's capacity is the memory of keys that left.
pub const GHOST_MEMORY_SHARE: u64 = 50;

/// One key in two to this power is played through the small caches that find probation's share, in tiers large enough.
pub const SHADOW_SAMPLE_BITS: u32 = 8;

/// A small cache is a smaller part of a tier only while it is of at least this many bytes.
pub const SHADOW_LEN_MIN: u64 = 8 * 1024 * 1024;

/// Most entries of a small cache.
pub const SHADOW_ENTRIES_MAX: usize = 16 * 1024;

/// Uses of sampled keys that wait until something is stored.
pub const SAMPLE_COUNT_MAX: usize = 128;

/// Seconds after which probation's share may change.
pub const TUNING_SECONDS: u64 = 300;

/// Sampled requests after which probation's share may change where no time is told.
pub const TUNING_REQUESTS: u64 = 1000;

/// Remembered evicted keys are never fewer than this, so that a small cache can learn at all.
pub const GHOST_COUNT_MIN: usize = 256;

/// Most variants of one URI that are stored; a further one turns the oldest out.
pub const VARIANT_COUNT_MAX: usize = 64;

/// Most parts of one representation that are stored; a further one turns the oldest out.
pub const PART_COUNT_MAX: usize = 16;

/// Most parts of one representation that are listed on disk; a further one turns the oldest out. Each takes 24 bytes in memory while its list is remembered.
pub const LISTED_PARTS_MAX: usize = 64;

/// Slots of a replica table in which a response may lie: as many as have room in a cache line with their tags.
pub const REPLICA_WAYS: usize = 4;

/// One part in this many of an arena is out of reach for a single object, so that others can be filled beside it.
pub const OBJECT_RESERVE_SHARE: u64 = 16;

/// Bytes of content that one call may evict however little is asked for: what leaves first may be held by others, who give it back later.
pub const EVICTION_LEN_MIN: u64 = 64 * 1024;

/// Most entries that one call evicts to make room: about 1 ms of a turn. Who needs more asks again in the next turn.
pub const EVICTION_COUNT_PER_CALL: usize = 4096;

/// Milliseconds within which the kernel is not asked again whether the pages of a mapped body are in memory. A page that leaves meanwhile costs the core
/// that sends it one read of the disk, or fails that send.
pub const RESIDENCE_ASKED_MILLIS: u64 = 10;

// Regions are the unit of the buddy and of huge pages; a block must never cross one.
const _: () = assert!(BLOCK_LEN_MAX.is_power_of_two() && BLOCK_LEN_MIN.is_power_of_two());
// The first block of a fill must be one that the arena can give.
const _: () = assert!(FILL_BLOCK_LEN_FIRST >= BLOCK_LEN_MIN && FILL_BLOCK_LEN_FIRST <= BLOCK_LEN_MAX);
// With less than one chunk's worth of lead free at a wake-up the writer would be woken for every chunk.
const _: () = assert!(PASSAGE_LEAD_LEN >= 2 * PASSAGE_CHUNK_LEN_MAX as u64);
// One byte has a bit for each way.
const _: () = assert!(REPLICA_WAYS <= 8);
// A returned block carries the return stack's link in its own first bytes.
const _: () = assert!(BLOCK_LEN_MIN >= 16);
// What is given up is whole blocks of the buddy.
const _: () = assert!(GIVE_UP_LEN_MIN.is_power_of_two() && GIVE_UP_LEN_MIN >= BLOCK_LEN_MIN);
