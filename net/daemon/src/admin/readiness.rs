//! Whether viewers should be sent to us. Written by the control thread, read by the admin server.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use super::reply::{self, Reply};
use crate::store::Folders;

/// What stands for and against sending viewers.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    is_listening: AtomicBool,
    knows_origin: AtomicBool,
    is_draining: AtomicBool,
    /// Why invalidations cannot be kept; viewers may come all the same.
    log_failure: Mutex<Option<String>>,
    /// The folders of the store on disk, without which viewers are served too.
    folders: Arc<Folders>,
}

impl Readiness {
    /// Nothing is there yet; warns of what is wrong with these folders.
    pub(crate) fn watching(folders: Arc<Folders>) -> Self {
        Readiness { folders, ..Readiness::default() }
    }

    /// The listeners accept.
    pub(crate) fn listening(&self) {
        self.is_listening.store(true, Ordering::Relaxed);
    }

    /// At least one address of the origin is known.
    pub(crate) fn origin_known(&self) {
        self.knows_origin.store(true, Ordering::Relaxed);
    }

    /// The end has begun.
    pub(crate) fn draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    /// The log of invalidations cannot be written, or can again.
    pub(crate) fn log_failure(&self, cause: Option<String>) {
        *self.log_failure.lock().unwrap_or_else(PoisonError::into_inner) = cause;
    }

    /// Lists what stands against sending viewers; empty when ready.
    fn reasons(&self) -> Vec<&'static str> {
        [
            (!self.is_listening.load(Ordering::Relaxed), "not listening yet"),
            (!self.knows_origin.load(Ordering::Relaxed), "the origin's name has not been resolved yet"),
            (self.is_draining.load(Ordering::Relaxed), "draining"),
        ]
        .into_iter()
        .filter_map(|(stands, reason)| stands.then_some(reason))
        .collect()
    }

    /// Answers `/readyz`. What does not keep viewers away is a warning.
    pub(crate) fn reply(&self) -> Reply {
        let reasons = self.reasons();
        let mut document = json!({ "ready": reasons.is_empty(), "reasons": reasons });
        let log_failure = self.log_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let log_failure = log_failure.map(|cause| format!("invalidations are refused: {cause}"));
        let warnings: Vec<String> = log_failure.into_iter().chain(self.folders.warnings()).collect();
        if !warnings.is_empty() {
            document["warnings"] = json!(warnings);
        }
        let status = if reasons.is_empty() { 200 } else { 503 };
        reply::json(status, &document)
    }
}
