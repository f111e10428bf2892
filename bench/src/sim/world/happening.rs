//! What can happen, and in which order: by time, then as it was scheduled.

use std::sync::Arc;

use aspis_storage::response::StoredResponse;

use crate::sim::control::Told;
use crate::sim::owner::{Change, Deposit, Reply};

/// What a core tells another, or itself.
pub(crate) enum Message {
    /// A viewer found nothing fresh and has this.
    Ask {
        viewer: usize,
        has: Option<Arc<StoredResponse>>,
    },
    Reply {
        viewer: usize,
        reply: Reply,
        epoch: u64,
    },
    /// A viewer that may wait here is gone.
    Leave {
        viewer: usize,
    },
    /// What a viewer got stale has to be validated.
    Refresh {
        viewer: usize,
        stored: Arc<StoredResponse>,
    },
    /// There is more of a fill, or it is over.
    Progress {
        flight: usize,
    },
    /// A fill that is passed on may have room, or nobody who reads it.
    Room {
        flight: usize,
    },
    /// An unsafe request was successful.
    Invalidate {
        viewer: usize,
        hash: u128,
        key: Box<[u8]>,
    },
    Invalidated {
        viewer: usize,
    },
    /// What a viewer fetched by itself may be stored.
    Deposit(Box<Deposit>),
    /// What a viewer's own fetch says about something stored.
    Change(Box<Change>),
    /// Content that passes through an owner.
    Chunk {
        viewer: usize,
        bytes: Vec<u8>,
    },
    Ended {
        viewer: usize,
        whole: bool,
    },
}

/// What happens at some time.
pub(crate) enum Happening {
    Arrives(usize),
    Leaves(usize),
    Reads(usize),
    Delivered {
        from: usize,
        to: usize,
        message: Message,
        life: u64,
    },
    /// A request reaches the origin.
    Reaches(usize),
    /// Something comes for a fetch.
    Comes(usize),
    Changes(usize),
    Sweeps(usize),
    /// The operator invalidates.
    Accepts(usize),
    /// The log is safe up to this number.
    Safe {
        number: u64,
        life: u64,
    },
    /// A core is told by the control thread.
    Told {
        core: usize,
        told: Told,
        life: u64,
    },
    SweepsRules {
        core: usize,
        life: u64,
    },
    Restarts,
}

/// Something that happens at some time.
pub(crate) struct Due {
    pub(crate) at: u64,
    pub(crate) number: u64,
    pub(crate) happening: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
