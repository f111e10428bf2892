//! The one table of counters and gauges.
//!
//! Each core owns one [`CoreCounters`] and is its only writer; the control thread sums all of them when it is
//! asked for metrics. A write is a relaxed load and a relaxed store on a line that no other core writes, so it
//! costs what a plain addition costs. Invariant: one writer per `CoreCounters`. A second writer could lose
//! additions, nothing worse.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

/// Says whether a value only grows or is a level of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; exported with the suffix `_total`.
    Monotonic,
    /// A level that rises and falls; the sum over the cores is the level of the process.
    Gauge,
}

/// One row of the table: how a [`Counter`] is exported.
#[derive(Clone, Copy, Debug)]
pub struct CounterInfo {
    /// The counter that this row describes.
    pub counter: Counter,
    /// Whether it grows only or is a level.
    pub kind: Kind,
    /// The Prometheus family, without the prefix `aspis_` and without the suffix `_total`.
    pub name: &'static str,
    /// One sentence for operators, the same for all rows of a family.
    pub help: &'static str,
    /// The labels of this row within its family.
    pub labels: &'static [(&'static str, &'static str)],
}

// A macro, because the enum, its documentation and the table must never differ and no function declares an enum.
macro_rules! counters {
    ($( $kind:ident $name:literal $help:literal { $( $counter:ident [$($label:literal = $value:literal),*] )+ } )+) => {
        /// Everything that a core counts. Families and their labels are in [`COUNTERS`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Counter {
            $( $(
                #[doc = $help]
                #[doc = concat!("\n\nExported as `aspis_", $name, "`", $(" with `", $label, "=", $value, "`",)* ".")]
                $counter,
            )+ )+
        }

        /// The table: one row per counter, in the order of the enum, families together.
        pub static COUNTERS: &[CounterInfo] = &[
            $( $( CounterInfo {
                counter: Counter::$counter,
                kind: Kind::$kind,
                name: $name,
                help: $help,
                labels: &[$(($label, $value)),*],
            }, )+ )+
        ];

        /// How many counters there are.
        pub const COUNTER_COUNT: usize = [$( $( Counter::$counter, )+ )+].len();
    };
}

counters! {
    // Viewer side.
    Monotonic "viewer_connections" "Connections accepted from viewers." { ViewerConnections [] }
    Monotonic "viewer_connections_moved" "Connections that the core that accepted them handed to a core with fewer." { ViewerConnectionsMoved [] }
    Gauge "viewer_connections_open" "Connections open towards viewers." { ViewerConnectionsOpen [] }
    Monotonic "viewer_connections_refused" "Connections closed at once with 503, by cause: --max-connections was reached or the server ends, memory is short, or the core is late." {
        ViewerConnectionsRefusedLimit ["cause" = "limit"]
        ViewerConnectionsRefusedLate ["cause" = "late"]
        ViewerConnectionsRefusedMemory ["cause" = "memory"]
    }
    Monotonic "viewer_turns_full" "Times that a connection had more requests at hand than one turn answers, so that they waited for the next." { ViewerTurnsFull [] }
    Monotonic "viewer_timeouts" "Viewer connections ended because the viewer was too slow, by what was waited for." {
        ViewerTimeoutHead ["phase" = "head"]
        ViewerTimeoutBody ["phase" = "body"]
        ViewerTimeoutIdle ["phase" = "idle"]
        ViewerTimeoutSend ["phase" = "send"]
    }
    Monotonic "viewer_aborts" "Exchanges whose viewer went away before the response was sent." { ViewerAborts [] }
    Monotonic "viewer_received_bytes" "Bytes received from viewers, heads included." { ViewerBytesReceived [] }
    Monotonic "viewer_sent_bytes" "Bytes sent to viewers, heads included." { ViewerBytesSent [] }

    // Exchanges.
    Monotonic "requests" "Requests answered, by result type." {
        RequestsHit ["result" = "Hit"]
        RequestsRefreshHit ["result" = "RefreshHit"]
        RequestsMiss ["result" = "Miss"]
        RequestsError ["result" = "Error"]
        RequestsCapacityExceeded ["result" = "CapacityExceeded"]
    }
    Monotonic "responses" "Final responses sent to viewers, by class of status." {
        Responses2xx ["class" = "2xx"]
        Responses3xx ["class" = "3xx"]
        Responses4xx ["class" = "4xx"]
        Responses5xx ["class" = "5xx"]
        ResponsesOther ["class" = "other"]
    }
    Monotonic "requests_refused" "Requests refused before anything was looked up, by status." {
        Refused400 ["status" = "400"]
        Refused413 ["status" = "413"]
        Refused414 ["status" = "414"]
        Refused431 ["status" = "431"]
        Refused501 ["status" = "501"]
        Refused503 ["status" = "503"]
        Refused505 ["status" = "505"]
        RefusedOther ["status" = "other"]
    }
    Monotonic "requests_shed" "Requests that needed the origin and were refused, or not made in the background, because the core is late." { RequestsShed [] }
    Gauge "requests_running" "Requests between their first byte and their last." { RequestsRunning [] }
    Monotonic "forwarded" "Requests sent forward to the origin, by the reason of RFC 9211." {
        ForwardedBypass ["reason" = "bypass"]
        ForwardedMethod ["reason" = "method"]
        ForwardedUriMiss ["reason" = "uri-miss"]
        ForwardedVaryMiss ["reason" = "vary-miss"]
        ForwardedMiss ["reason" = "miss"]
        ForwardedRequest ["reason" = "request"]
        ForwardedStale ["reason" = "stale"]
        ForwardedPartial ["reason" = "partial"]
    }
    Monotonic "requests_collapsed" "Requests answered by a fetch that was made for another (RFC 9211 collapsed)." { RequestsCollapsed [] }
    Monotonic "collapse" "Requests that asked the owner of their key and found no fresh response, by the place they got." {
        Flights ["place" = "lead"]
        CollapsedWaiting ["place" = "wait"]
        CollapsedArriving ["place" = "attach"]
        CollapseAlone ["place" = "alone"]
        CollapseFull ["place" = "refused"]
    }
    Gauge "flights_running" "Fetches that run for all who ask for their key." { FlightsRunning [] }
    Gauge "requests_waiting" "Requests that wait for the head of another's fetch." { RequestsWaiting [] }
    Monotonic "fill_resumes" "Requests for the rest of a response whose origin connection broke." { FillResumes [] }
    Monotonic "passage_ended" "Transfers of responses that are not stored which were cut by us, by cause." {
        PassageLost ["cause" = "too-slow"]
        PassageNoMemory ["cause" = "memory"]
    }
    Monotonic "tunnels" "Connections that became tunnels after an Upgrade." { Tunnels [] }
    Gauge "tunnels_open" "Tunnels open." { TunnelsOpen [] }

    // Origin side.
    Monotonic "origin_requests" "Requests written to an origin connection, repeats included." { OriginRequests [] }
    Monotonic "origin_retries" "Requests written again after a failed attempt." { OriginRetries [] }
    Monotonic "origin_connections" "Connections opened towards the origin." { OriginConnections [] }
    Monotonic "origin_connections_reused" "Requests that found a kept connection." { OriginConnectionsReused [] }
    Gauge "origin_connections_open" "Connections open towards the origin, kept ones included." { OriginConnectionsOpen [] }
    Gauge "origin_connections_idle" "Connections kept open for the next request." { OriginConnectionsIdle [] }
    Gauge "origin_waiting" "Requests that wait for a place under the cap on origin connections." { OriginWaiting [] }
    Monotonic "origin_waits" "Requests that had to wait for a place under the cap on origin connections." { OriginWaits [] }
    Monotonic "origin_failures" "Origin requests that failed, by cause." {
        OriginUnresolvable ["cause" = "unresolvable"]
        OriginRefused ["cause" = "refused"]
        OriginReset ["cause" = "reset"]
        OriginConnectTimeout ["cause" = "connect-timeout"]
        OriginTls ["cause" = "tls"]
        OriginReadTimeout ["cause" = "read-timeout"]
        OriginInvalid ["cause" = "invalid"]
        OriginHeadTooLarge ["cause" = "head-too-large"]
        OriginProtocolMismatch ["cause" = "protocol-mismatch"]
        OriginTruncated ["cause" = "truncated"]
        OriginOverloaded ["cause" = "overloaded"]
    }
    Monotonic "origin_received_bytes" "Bytes received from the origin, heads included." { OriginBytesReceived [] }

    // Stored responses.
    Monotonic "cache_lookups" "Lookups in the cache, by answer." {
        LookupsFound ["answer" = "found"]
        LookupsNotFound ["answer" = "not-found"]
    }
    Monotonic "cache_stored" "Responses stored." { CacheStored [] }
    Monotonic "cache_not_stored" "Responses that could have been stored and were not, by cause." {
        CacheNotStoredMemory ["cause" = "memory"]
        CacheNotStoredSize ["cause" = "size"]
        CacheNotStoredFailed ["cause" = "failed"]
    }
    Monotonic "cache_evicted" "Stored responses removed to make room." { CacheEvicted [] }
    Monotonic "cache_invalidated" "Stored responses removed because an unsafe request succeeded." { CacheInvalidated [] }
    Monotonic "cache_purged" "Stored responses removed because a rule of an invalidation concerns them." { CachePurged [] }
    Monotonic "cache_freshened" "Stored responses that the origin confirmed and that were given a new head." { CacheFreshened [] }
    Monotonic "cache_refreshes" "Background validations of responses that were served stale meanwhile." { CacheRefreshes [] }
    Gauge "cache_responses" "Responses stored now." { CacheResponses [] }
    Gauge "cache_body_bytes" "Content bytes of the responses stored now." { CacheBodyBytes [] }
    Gauge "cache_limbo_bytes" "Content that left the cache and that replicas or sends still hold, or that its arena has not taken back." { CacheLimbo [] }
    Gauge "cache_replicas" "Responses of other cores that a core keeps at hand." { CacheReplicas [] }

    // The disk tier.
    Monotonic "disk_lookups" "Lookups on disk for what was not in memory, by answer." {
        DiskHit ["answer" = "hit"]
        DiskMiss ["answer" = "miss"]
    }
    Monotonic "disk_read_on" "Viewers that were too slow for what came from the origin or from disk for several, and got the rest from disk by themselves." { DiskReadOn [] }
    Monotonic "disk_reads" "Reads of the disk tier." { DiskReads [] }
    Monotonic "disk_read_bytes" "Bytes that were read from disk, recovery and reclaiming included." { DiskReadBytes [] }
    Monotonic "disk_copied_bytes" "Bytes of content that were copied into memory after they were read from disk; others were read to where they stay." { DiskCopiedBytes [] }
    Monotonic "disk_false_candidates" "Reads that brought the record of another key." { DiskFalseCandidates [] }
    Monotonic "disk_check_failures" "Reads that brought something else than what was written; it was not served." { DiskCheckFailures [] }
    Monotonic "disk_mapped" "What became of responses that are sent from the mapping of their volume, out of the page cache: taken from there after a check, sent, found with pages gone, cut off because a page could not be read." {
        DiskMappedTaken ["event" = "taken"]
        DiskMappedSent ["event" = "sent"]
        DiskMappedGone ["event" = "gone"]
        DiskMappedFault ["event" = "fault"]
    }
    Monotonic "disk_read_ahead_bytes" "Bytes that the kernel was asked to bring into the page cache, for the mapping." { DiskReadAheadBytes [] }
    Gauge "disk_mapped_bytes" "Bytes of responses that are sent from the mapping." { DiskMappedBytes [] }
    Monotonic "disk_errors" "Reads and writes that failed, took too long or ended early." {
        DiskReadErrors ["operation" = "read"]
        DiskWriteErrors ["operation" = "write"]
    }
    Monotonic "disk_records_written" "Records appended, slices of large bodies, notes about variants and removals included." { DiskRecordsWritten [] }
    Monotonic "disk_writes" "Writes of the disk tier." { DiskWrites [] }
    Monotonic "disk_written_bytes" "Bytes written to disk, footers, tables and what reclaiming keeps included." { DiskWrittenBytes [] }
    Monotonic "disk_removed" "Records taken off the disk tier because they must not be served any more." { DiskRemoved [] }
    Monotonic "disk_not_written" "Responses that were not written to disk, by cause: the write budget, a full queue, short memory, no free segment, a directory off line." {
        DiskRefusedBudget ["cause" = "budget"]
        DiskRefusedQueue ["cause" = "queue"]
        DiskRefusedMemory ["cause" = "memory"]
        DiskRefusedSpace ["cause" = "space"]
        DiskRefusedOffLine ["cause" = "off-line"]
    }
    Gauge "disk_queue_bytes" "Responses that wait to be written to disk." { DiskQueueBytes [] }
    Gauge "disk_records" "Records that can be found on disk." { DiskRecords [] }
    Gauge "disk_live_bytes" "Bytes of these records." { DiskLiveBytes [] }
    Gauge "disk_index_bytes" "Memory of the index that finds records on disk." { DiskIndexBytes [] }
    Monotonic "disk_segment_trials" "Segments given up after errors that were written and read back whole; those that passed are used again." {
        DiskTrialsPassed ["outcome" = "passed"]
        DiskTrialsFailed ["outcome" = "failed"]
    }
    Gauge "disk_segments" "Segments of the volumes, by what they are used for." {
        DiskSegmentsUsed ["state" = "used"]
        DiskSegmentsFree ["state" = "free"]
        DiskSegmentsBad ["state" = "bad"]
    }
    Monotonic "disk_reclaimed_segments" "Segments whose records left, to be written anew." { DiskReclaimed [] }
    Monotonic "disk_reinserted_bytes" "Bytes of records that were used and were written again when their segments were reclaimed." { DiskReinserted [] }
    Monotonic "disk_crowded_out" "Records that are not found any more because the index had no room for them: --disk-mean-object is too large." { DiskCrowdedOut [] }
    Monotonic "disk_tombstones" "Removals noted on disk, so that what was removed does not come back with a restart." { DiskTombstones [] }
    Gauge "disk_volumes" "Volumes of the store, one for each of its shards." { DiskVolumes [] }
    Gauge "disk_volumes_recovering" "Volumes whose index is not complete yet." { DiskRecovering [] }
    Gauge "disk_volumes_off_line" "Volumes in directories that are off line." { DiskOffLine [] }

    // Invalidation by the operator.
    Monotonic "invalidations" "Invalidations accepted, by the way they came in." {
        InvalidationsApi ["by" = "api"]
        InvalidationsPurge ["by" = "purge"]
    }
    Monotonic "invalidation_paths" "Paths of accepted invalidations, wildcards counted as one." { InvalidationPaths [] }
    Monotonic "invalidations_lost" "Invalidations that were applied and that rules.log could not take; their callers got an error." { InvalidationsLost [] }

    // The memory limit.
    Monotonic "memory_retreats" "What was done because the memory limit was near, by step: turns that evicted, turns that shrank buffers, responses that were not stored, connections and requests that were refused." {
        RetreatEvict ["step" = "evict"]
        RetreatShrink ["step" = "shrink"]
        RetreatNoFill ["step" = "refuse-fill"]
        RetreatNoConnection ["step" = "refuse-connection"]
        RetreatNoRequest ["step" = "refuse-request"]
    }
    Gauge "arena_capacity_bytes" "The most that the arenas may hold." { ArenaCapacity [] }
    Gauge "arena_resident_bytes" "Memory that the kernel gave to the arenas." { ArenaResident [] }
    Gauge "arena_held_bytes" "Memory of the arenas that content holds, while it is filled too." { ArenaHeld [] }

    // The core itself.
    Monotonic "core_turns" "Turns of the cores' loops." { CoreTurns [] }
    Monotonic "core_long_turns" "Turns that ran longer than 2 ms." { CoreLongTurns [] }
    Monotonic "core_enters" "System calls into the ring." { CoreEnters [] }
    Monotonic "core_mails" "Messages received from other cores." { CoreMails [] }
    Gauge "core_tasks" "Waiting tasks (origin fetches, tunnels)." { CoreTasks [] }
    Gauge "core_sockets" "Sockets that the rings own." { CoreSockets [] }

    // The access log.
    Monotonic "access_log_lines" "Access log lines handed to the writer." { LogLines [] }
    Monotonic "access_log_lines_dropped" "Access log lines dropped because the writer was behind." { LogLinesDropped [] }
    Monotonic "access_log_write_errors" "Writes to the access log that failed." { LogWriteErrors [] }
    Monotonic "access_log_lost_bytes" "Access log bytes lost to failed writes." { LogBytesLost [] }
}

impl Counter {
    /// Returns the row of the table for this counter.
    pub fn info(self) -> &'static CounterInfo {
        &COUNTERS[self as usize]
    }
}

/// The counters of one core, or of one control thread. Exactly one thread writes them; any may read.
#[derive(Debug)]
pub struct CoreCounters {
    // One padding around all: the values of one core share lines, two cores never do.
    values: CachePadded<[AtomicU64; COUNTER_COUNT]>,
}

impl CoreCounters {
    /// Makes a set of counters, all zero.
    pub fn new() -> Self {
        CoreCounters { values: CachePadded::new([const { AtomicU64::new(0) }; COUNTER_COUNT]) }
    }

    /// Adds `amount`; wraps at 2^64. Only the owner calls this.
    #[inline]
    pub fn add(&self, counter: Counter, amount: u64) {
        let value = &self.values[counter as usize];
        value.store(value.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Takes `amount` off a gauge; stops at zero. Only the owner calls this.
    #[inline]
    pub fn sub(&self, counter: Counter, amount: u64) {
        debug_assert!(counter.info().kind == Kind::Gauge, "only a gauge can fall");
        let value = &self.values[counter as usize];
        value.store(value.load(Ordering::Relaxed).saturating_sub(amount), Ordering::Relaxed);
    }

    /// Sets a value that is counted elsewhere (ring statistics, tier sizes). Only the owner calls this.
    #[inline]
    pub fn set(&self, counter: Counter, value: u64) {
        self.values[counter as usize].store(value, Ordering::Relaxed);
    }

    /// Returns the value as last written by the owner.
    pub fn value(&self, counter: Counter) -> u64 {
        self.values[counter as usize].load(Ordering::Relaxed)
    }
}

impl Default for CoreCounters {
    fn default() -> Self {
        CoreCounters::new()
    }
}

/// The sums of all counters over several cores at about one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    values: [u64; COUNTER_COUNT],
}

impl Snapshot {
    /// Sums every counter over `cores`.
    pub fn of<'c>(cores: impl IntoIterator<Item = &'c CoreCounters>) -> Self {
        let mut values = [0_u64; COUNTER_COUNT];
        for core in cores {
            for (sum, value) in values.iter_mut().zip(core.values.iter()) {
                *sum = sum.wrapping_add(value.load(Ordering::Relaxed));
            }
        }
        Snapshot { values }
    }

    /// Returns the sum of one counter.
    pub fn value(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_row_describes_the_counter_at_its_index() {
        assert_eq!(COUNTERS.len(), COUNTER_COUNT);
        for (index, info) in COUNTERS.iter().enumerate() {
            assert_eq!(info.counter as usize, index, "{}", info.name);
            assert_eq!(info.counter.info().name, info.name);
        }
    }

    #[test]
    fn families_stand_together_and_their_rows_differ_by_label() {
        let mut finished = HashSet::new();
        let mut rows = HashSet::new();
        let mut previous = "";
        for info in COUNTERS {
            if info.name != previous {
                assert!(finished.insert(info.name), "family {} appears twice", info.name);
                previous = info.name;
            }
            assert!(rows.insert((info.name, info.labels)), "{} {:?} appears twice", info.name, info.labels);
            assert!(info.help.ends_with('.'), "{}", info.help);
            assert!(!info.name.ends_with("_total"), "the encoder appends the suffix: {}", info.name);
            assert!(info.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", info.name);
        }
    }

    #[test]
    fn a_snapshot_sums_over_cores() {
        let cores = [CoreCounters::new(), CoreCounters::new()];
        cores[0].add(Counter::RequestsHit, 3);
        cores[1].add(Counter::RequestsHit, 4);
        cores[1].set(Counter::CacheResponses, 9);
        cores[0].add(Counter::ViewerConnectionsOpen, 2);
        cores[0].sub(Counter::ViewerConnectionsOpen, 1);
        let sums = Snapshot::of(&cores);
        assert_eq!(sums.value(Counter::RequestsHit), 7);
        assert_eq!(sums.value(Counter::CacheResponses), 9);
        assert_eq!(sums.value(Counter::ViewerConnectionsOpen), 1);
        assert_eq!(sums.value(Counter::RequestsMiss), 0);
    }

    #[test]
    fn a_gauge_never_falls_below_zero() {
        let core = CoreCounters::new();
        core.sub(Counter::ViewerConnectionsOpen, 5);
        assert_eq!(core.value(Counter::ViewerConnectionsOpen), 0);
    }

    #[test]
    fn two_cores_never_share_a_cache_line() {
        assert_eq!(align_of::<CoreCounters>() % 64, 0);
        assert_eq!(size_of::<CoreCounters>() % align_of::<CoreCounters>(), 0);
    }
}
