//! `GET /v1/store`: what the store is, what it holds, how far recovery is, and how its folders are.
//!
//! All figures are the cores' counters at the moment of the question; those are at most half a second old while a core works.

use std::sync::Arc;

use aspis_telemetry::{CoreCounters, Counter};
use serde_json::{Value, json};

use super::watch::Folders;

/// What the page is made of.
#[derive(Debug)]
pub(crate) struct StorePage {
    /// What people call the store by.
    pub(crate) name: u64,
    /// Its size in bytes.
    pub(crate) len: u64,
    /// Its folders.
    pub(crate) folders: Arc<Folders>,
    /// The counters of the cores.
    pub(crate) counters: Vec<Arc<CoreCounters>>,
}

impl StorePage {
    /// Returns the page.
    pub(crate) fn json(&self) -> Value {
        let sum = |counter: Counter| -> u64 { self.counters.iter().map(|core| core.value(counter)).sum() };
        let folders: Vec<Value> = self
            .folders
            .each()
            .map(|(directory, warning)| {
                json!({
                    "path": directory.name(),
                    "status": if directory.is_off_line() { "off-line" } else { "in-use" },
                    "errors": directory.errors(),
                    "warning": warning,
                })
            })
            .collect();
        json!({
            "store": format!("{:016x}", self.name),
            "size_bytes": self.len,
            "records": sum(Counter::DiskRecords),
            "live_bytes": sum(Counter::DiskLiveBytes),
            "segments": {
                "used": sum(Counter::DiskSegmentsUsed),
                "free": sum(Counter::DiskSegmentsFree),
                "bad": sum(Counter::DiskSegmentsBad),
            },
            "volumes": {
                "total": sum(Counter::DiskVolumes),
                "recovering": sum(Counter::DiskRecovering),
                "off_line": sum(Counter::DiskOffLine),
            },
            "queue_bytes": sum(Counter::DiskQueueBytes),
            "written_bytes": sum(Counter::DiskWrittenBytes),
            "read_bytes": sum(Counter::DiskReadBytes),
            "hits": sum(Counter::DiskHit),
            "misses": sum(Counter::DiskMiss),
            "mapped": {
                "bytes": sum(Counter::DiskMappedBytes),
                "sent": sum(Counter::DiskMappedSent),
                "gone": sum(Counter::DiskMappedGone),
            },
            "folders": folders,
        })
    }
}
