//! One viewer connection: who it is, what it waits for, and the bytes that came in but are not used yet.
//!
//! `shard.rs` feeds it from the ring, `viewer/hot.rs` answers what needs no waiting, `viewer/exchange.rs` the rest.
//!
//! States of a connection:
//! ```text
//! Idle --complete head, fresh hit--> Idle                 (no task, the bytes leave with the turn)
//! Idle --complete head, anything else--> Busy --answered--> Idle | closed
//! Idle --too many bytes queued--> Stalled --queue sent--> Idle
//! Idle --enough answered in this turn--> Queued --next turn--> Idle
//! any  --last answer queued--> Leaving --queue sent--> closed
//! ```
//! Invariant: only the task of a `Busy` connection sends on it and takes from its inbox.

mod body;
mod exchange;
mod hot;
mod inbox;
mod pace;
pub(crate) mod purge;
mod relay;
mod shared;
mod shelf;
mod stored;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use aspis_runtime::SocketId;
use aspis_runtime::sync::Notify;

use self::inbox::Inbox;

/// The address that a viewer on a Unix socket gets in logs and forwarding fields.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// What a viewer connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewerState {
    /// The PROXY protocol header has to come first.
    ExpectProxyHeader,
    /// Waiting for a request, or in the middle of its head.
    Idle,
    /// A task answers a request.
    Busy,
    /// Requests wait until the answers before them are sent.
    Stalled,
    /// Requests wait for the next turn, because this one has answered enough of them.
    Queued,
    /// The last answer is on its way; the connection ends behind it.
    Leaving,
}

/// What a deadline guards, which decides how the connection ends when it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// Between requests: close without a word.
    Idle,
    /// A head has begun: 408.
    Head,
    /// Queued bytes have to move: reset.
    Send,
    /// A task keeps its own time.
    None,
}

/// One viewer connection of this core.
pub(crate) struct Viewer {
    /// The ring's socket.
    pub(crate) socket: SocketId,
    /// Who speaks: the peer, or whom the PROXY protocol names.
    pub(crate) address: Cell<SocketAddr>,
    /// Whether forwarding fields of this peer are believed (`--trusted-proxies`).
    pub(crate) trusted: Cell<bool>,
    /// What the connection is doing.
    pub(crate) state: Cell<ViewerState>,
    /// Received and not used yet.
    pub(crate) inbox: RefCell<Inbox>,
    /// The last turn in which it was answered, and how often in that.
    pub(crate) answered: Cell<(u64, u32)>,
    /// Something changed for the task of a busy connection: bytes, the end, or a reset.
    pub(crate) changed: Notify,
    /// The viewer will send nothing more; it may still read.
    pub(crate) ended: Cell<bool>,
    /// The connection is broken: nothing can be sent.
    pub(crate) gone: Cell<bool>,
    /// The multishot receive is paused because the inbox was full, until that is empty.
    pub(crate) paused: Cell<bool>,
    /// What the deadline below guards.
    pub(crate) deadline: Cell<Deadline>,
    /// When it passes, in the ring's milliseconds.
    pub(crate) deadline_at: Cell<u64>,
    /// How far the viewer was with what is queued when its deadline was last looked at, if it was.
    pub(crate) taken_before: Cell<Option<i64>>,
    /// It was counted among the viewers that left before their response was sent.
    pub(crate) aborted: Cell<bool>,
}

impl Viewer {
    /// Makes a connection that waits for its first request.
    pub(crate) fn new(
        socket: SocketId,
        address: Option<SocketAddr>,
        trusted: bool,
        proxy_protocol: bool,
    ) -> Rc<Self> {
        let state = if proxy_protocol { ViewerState::ExpectProxyHeader } else { ViewerState::Idle };
        Rc::new(Viewer {
            socket,
            address: Cell::new(address.unwrap_or(LOCAL)),
            trusted: Cell::new(trusted),
            state: Cell::new(state),
            inbox: RefCell::default(),
            answered: Cell::new((0, 0)),
            changed: Notify::new(),
            ended: Cell::new(false),
            gone: Cell::new(false),
            paused: Cell::new(false),
            deadline: Cell::new(Deadline::None),
            deadline_at: Cell::new(0),
            taken_before: Cell::new(None),
            aborted: Cell::new(false),
        })
    }

    /// Tells whether nothing that it sends is looked at any more.
    pub(crate) fn is_ending(&self) -> bool {
        self.gone.get() || self.state.get() == ViewerState::Leaving
    }

    /// Sets what must happen until `at`.
    pub(crate) fn expect(&self, deadline: Deadline, at: u64) {
        self.deadline.set(deadline);
        self.deadline_at.set(at);
    }
}
