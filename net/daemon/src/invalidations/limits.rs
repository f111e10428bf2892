//! What bounds the invalidations.

use std::time::Duration;

/// The most paths, tags and hosts in one request, as CloudFront has it for paths (I-7).
pub(crate) const ITEM_COUNT_MAX: usize = 3000;
/// The most rules that one request makes: paths and tags, each on each host.
pub(crate) const RULE_COUNT_MAX: usize = 3000;
/// The longest caller reference.
pub(crate) const REFERENCE_LEN_MAX: usize = 256;
/// The longest body of a request.
pub(crate) const BODY_LEN_MAX: usize = 4 << 20;
/// The most bodies that are read at a time: worst case this x the longest body, 64 MiB.
pub(crate) const BODY_COUNT_MAX: usize = 16;
/// How long a body may take.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for the disk.
pub(crate) const LOG_WAIT_MAX: Duration = Duration::from_secs(30);
/// The longest that a request may wait for completion.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);
/// The most requests that wait for completion at a time; further ones are answered `InProgress`.
pub(crate) const WAITING_COUNT_MAX: usize = 128;
/// The most invalidations that are accepted and not completed; further ones are refused.
///
/// Also the most numbers that can have been given without being in the log when the process is killed: the next one goes on so far above the
/// last that is found, so that no number is given twice.
pub(crate) const IN_PROGRESS_COUNT_MAX: usize = 1024;
/// The most bytes of invalidations in progress.
pub(crate) const IN_PROGRESS_LEN_MAX: usize = 64 << 20;
/// The most completed invalidations that are listed, and whose caller references are known; the oldest leave first.
pub(crate) const REMEMBERED_COUNT_MAX: usize = 10_000;
/// The most bytes that they take.
pub(crate) const REMEMBERED_LEN_MAX: usize = 32 << 20;
/// The most bytes of completed invalidations whose rules still matter; above it the older half is replaced by one rule for everything.
pub(crate) const UNSETTLED_LEN_MAX: usize = 64 << 20;
/// The longest record in the log: paths as they were sent and as rules on each host.
pub(crate) const RECORD_LEN_MAX: usize = 32 << 20;
/// The log is rewritten when it is longer than this and twice what it must hold.
pub(crate) const REWRITE_LEN_MIN: u64 = 1 << 20;
/// How soon a log that could not be written is tried again.
pub(crate) const HEAL_AFTER: Duration = Duration::from_secs(1);
/// In a stream of invalidations the log is synced, and cores that sleep are rung, once in so long; see [`super::pace`]. So much longer may an answer
/// take, and completion. A sync and what the kernel does for it cost 30 microseconds of a processor, a core's way out of its sleep 10.
pub(crate) const PACE: Duration = Duration::from_millis(4);
/// Before that it is done at once so many times, a credit that comes back at the pace: for a list of paths that a script sends one after the other.
pub(crate) const PACE_BURST: u32 = 16;
/// The invalidations of one page of the list, unless it says otherwise (I-2).
pub(crate) const PAGE_LEN: usize = 100;
/// The most of them.
pub(crate) const PAGE_LEN_MAX: usize = 1000;

// A request that is as long as it may be fits into a record: its items once, and each rule with a path and a host.
const _: () =
    assert!(BODY_LEN_MAX + RULE_COUNT_MAX * (aspis_cache::invalidation::PATH_LEN_MAX + 512) < RECORD_LEN_MAX);
const _: () = assert!(RECORD_LEN_MAX < IN_PROGRESS_LEN_MAX);
