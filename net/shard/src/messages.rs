//! What one core, or the control thread, tells a core. Sent through the runtime's mailboxes, handled by `Shard::drain_mail`.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use aspis_runtime::Peer;
use aspis_storage::response::StoredResponse;

use crate::asking::{Ask, Reply};
use crate::disk::ending::Flush;
use crate::disk::reading_on::RestAsk;
use crate::explain::Question;
use crate::fill::SharedFill;
use crate::origin::CapMessage;
use crate::owner::Refresh;
use crate::rules::RuleBatch;

/// A message to one core.
pub(crate) enum Message {
    /// The origin's addresses as DNS gives them now.
    Addresses(Arc<[SocketAddr]>),
    /// The TLS settings for new origin connections.
    Tls(Arc<rustls::ClientConfig>),
    /// No new connections; answers in flight end with `Connection: close`.
    StopAccepting,
    /// Close what is open and end the core's loop.
    Stop,
    /// Write what is to be on disk.
    FlushDisk(Flush),
    /// Ship the access log lines gathered so far.
    FlushLog,
    /// Origin connection cap: waiting, granting, releasing.
    Cap(CapMessage),
    /// A connection that another core accepted; nothing was received from it, and its place is counted here already.
    Viewer {
        /// The connected socket.
        descriptor: OwnedFd,
        /// Who is at its other end.
        peer: Peer,
    },
    /// Another core saw an unsafe request succeed: this key is no longer to be served (RFC 9111 §4.4).
    Invalidate {
        /// Hash of `key`.
        hash: u128,
        /// The cache key, compared in full.
        key: Arc<[u8]>,
    },
    /// To the owner of a key: an unsafe request is answered when the disk knows what was removed under it.
    AskRemoved {
        /// The core that asks.
        core: usize,
        /// Its number for the request that waits.
        number: u64,
        /// The hash of the primary key.
        primary: u128,
    },
    /// To the core of an unsafe request that waits under this number: the disk knows.
    Removed(u64),
    /// To the owner of a key: a request found nothing fresh.
    Ask {
        /// The core that asks.
        core: usize,
        /// Its number for the request that waits.
        number: u64,
        /// What is asked.
        ask: Box<Ask>,
    },
    /// To the core of a fill: a reader was too slow for its passage, and asks for the rest from disk.
    AskRest {
        /// The core that asks.
        core: usize,
        /// Its number for the request that waits.
        number: u64,
        /// What is asked.
        ask: Box<RestAsk>,
    },
    /// To the owner of a key: a request that waits went away.
    Left {
        /// The core that asked.
        core: usize,
        /// Its number for the request that waited.
        number: u64,
    },
    /// From the owner of a key to the core that asked.
    Reply {
        /// That core's number for the request that waits.
        number: u64,
        /// The reply.
        reply: Box<Reply>,
    },
    /// To a core that reads a fill: there is more of it, or it ended.
    Progress(Arc<SharedFill>),
    /// To the core that fills: a passage has room again, or lost its last reader.
    Room(Arc<SharedFill>),
    /// To the owner: validate this in the background.
    Refresh(Box<Refresh>),
    /// To the owner: a response that another core stored on its behalf. The owner keeps a copy.
    Deposit {
        /// The response, whole.
        stored: Arc<StoredResponse>,
        /// How often unsafe requests had invalidated something when its request was sent.
        unsafes: u64,
    },
    /// To the owner: put `fresh` in the place of `old`, over the same body.
    Replace {
        /// With the new head.
        fresh: Arc<StoredResponse>,
        /// What it takes the place of, if that is still there.
        old: Arc<StoredResponse>,
    },
    /// To the owner: this response is out of date.
    Forget(Arc<StoredResponse>),
    /// To every core: what is stored from before this batch is held against it from now on (I-21).
    Rules(Arc<RuleBatch>),
    /// To every core: nothing is left from before this number, so that the rules up to it can be forgotten.
    ForgetRules(u64),
    /// To the owner of a key: what is known about it?
    Explain(Box<Question>),
    /// To the core of a PURGE request that waits under this number: it is known what became of it.
    Purged(u64),
    /// Let go of replicas whose owner dropped them: their memory is wanted.
    SweepReplicas,
    /// Memory is short, or less than it was: look what can leave. Each turn does; this is for a core that sleeps.
    Evict,
    /// Another core is short of memory and has nothing more to give, or more of the limit is withheld.
    MakeWay,
}

impl Message {
    /// Whether a request may depend on it that was received after it was posted.
    pub(crate) fn changes_the_store(&self) -> bool {
        matches!(
            self,
            Message::Invalidate { .. }
                | Message::Rules(_)
                | Message::Deposit { .. }
                | Message::Replace { .. }
                | Message::Forget(_)
        )
    }
}

impl From<CapMessage> for Message {
    fn from(message: CapMessage) -> Self {
        Message::Cap(message)
    }
}
