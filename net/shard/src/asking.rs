//! Asking the owner of a key: the question, the replies, and the place where a request waits for them.
//!
//! `viewer/exchange.rs` asks when the machine says that a fetch is shared; `owner.rs` replies, on this core or on another. Invariants: every
//! question gets exactly one final reply, after any number of interim ones; a reply that comes too late is dropped with all it holds.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use aspis_exchange::{Forward, OriginFailure, Role, ViewerFacts};
use aspis_runtime::sync::Notify;
use aspis_runtime::weight::Weight;
use aspis_storage::response::StoredResponse;

use crate::disk::reading_on::RestAsk;
use crate::fill::{FillView, Reading};
use crate::limits::WAITING_COST;
use crate::messages::Message;
use crate::numbered::Place;
use crate::shard::Shard;

/// A request that found nothing fresh.
pub(crate) struct Ask {
    /// The request's head as received.
    pub(crate) head: Box<[u8]>,
    pub(crate) facts: ViewerFacts,
    /// Hash and bytes of the primary key.
    pub(crate) key: (u128, Box<[u8]>),
    /// What the machine said.
    pub(crate) forward: Forward,
    /// Its core has more to do than it can: it is refused unless the origin is not needed.
    pub(crate) sheds: bool,
    /// What the request found and could not use.
    pub(crate) has: Option<Arc<StoredResponse>>,
    /// How often it waited for the disk.
    pub(crate) restores: u8,
}

/// What the owner says.
pub(crate) enum Reply {
    /// 102 or 103 of the origin, for the one who leads.
    Interim(Box<[u8]>),
    /// This is stored, and the asker has not looked at it.
    Stored(Arc<StoredResponse>),
    /// A fetch brought this; it is stored, or on its way into the store.
    Arrived {
        stored: Arc<StoredResponse>,
        role: Role,
        validated: bool,
        /// Its content, unless that is complete.
        reading: Option<Reading>,
    },
    /// To the one who leads: the head as the origin sent it, and its content; `stored` if it is on its way into the store.
    Origin { head: Arc<[u8]>, stored: Option<Arc<StoredResponse>>, reading: Reading },
    /// The origin answered everybody with this error.
    Erred { status: u16, role: Role },
    /// The origin gave no answer.
    Failed { failure: OriginFailure, role: Role },
    /// To a reader that was too slow for a passage: the rest of what it reads.
    Rest(Reading),
    /// Fetch for yourself.
    Alone,
    /// Too many wait.
    Full,
    /// What came is from before a rule that the owner had when this request began to wait (I-22): ask anew.
    Again,
}

/// How the owner reaches a request that waits.
#[derive(Clone)]
pub(crate) enum Waiter {
    /// On its own core.
    Here(Rc<Asking>),
    /// On another.
    There {
        /// Which core.
        core: usize,
        /// That core's number for it.
        number: u64,
    },
}

/// A request that waits for a flight's head.
pub(crate) struct Waiting {
    pub(crate) waiter: Waiter,
    /// The newest rule of the owner's when it began to: it must not get what such a rule concerns.
    pub(crate) seen: u64,
}

impl Waiter {
    /// The core on which it waits.
    pub(crate) fn core(&self, shard: &Shard) -> usize {
        match self {
            Waiter::Here(_) => shard.core,
            Waiter::There { core, .. } => *core,
        }
    }
}

/// One request that waits.
#[derive(Default)]
pub(crate) struct Asking {
    replies: RefCell<VecDeque<Reply>>,
    changed: Notify,
}

impl Asking {
    fn take(&self, reply: Reply) {
        self.replies.borrow_mut().push_back(reply);
        self.changed.notify_all();
    }
}

/// A request's place; leaving it drops what is still to come.
pub(crate) struct AskPlace<'s> {
    shard: &'s Shard,
    asking: Rc<Asking>,
    owner: usize,
    /// Its place among those that wait for other cores, if it does.
    place: Option<Place<'s, Asking>>,
    /// The final reply did not come yet.
    waits: Cell<bool>,
    _weight: Weight,
}

impl AskPlace<'_> {
    /// Waits for the next reply.
    pub(crate) async fn next(&self) -> Reply {
        loop {
            let changed = self.asking.changed.notified();
            if let Some(reply) = self.asking.replies.borrow_mut().pop_front() {
                self.waits.set(matches!(reply, Reply::Interim(_)));
                return reply;
            }
            changed.await;
        }
    }
}

impl Drop for AskPlace<'_> {
    fn drop(&mut self) {
        // C-11: who went away does not take a place until the fetch is over.
        match &self.place {
            _ if !self.waits.get() => {}
            Some(Place { number, .. }) => {
                self.shard.post(self.owner, Message::Left { core: self.shard.core, number: *number });
            }
            None => self.shard.left(None),
        }
    }
}

impl Shard {
    /// Asks the owner of a key, be it this core or another.
    pub(crate) fn ask(&self, ask: Ask) -> AskPlace<'_> {
        let owner = self.owner_of(ask.key.0);
        let there = |ask, number| Message::Ask { core: self.core, number, ask: Box::new(ask) };
        self.ask_core(owner, ask, |ask, waiter| self.asked(ask, waiter), there)
    }

    /// Asks the core that fills for the rest of what a reader was too slow for, be it this one or another.
    pub(crate) fn ask_rest(&self, ask: RestAsk) -> AskPlace<'_> {
        let there = |ask, number| Message::AskRest { core: self.core, number, ask: Box::new(ask) };
        self.ask_core(ask.fill.core(), ask, |ask, waiter| self.rest_asked(ask, &waiter), there)
    }

    fn ask_core<A>(
        &self,
        owner: usize,
        ask: A,
        here: impl FnOnce(A, Waiter),
        there: impl FnOnce(A, u64) -> Message,
    ) -> AskPlace<'_> {
        let asking = Rc::<Asking>::default();
        let weight = self.account.requests.weigh(WAITING_COST);
        let place = if owner == self.core {
            here(ask, Waiter::Here(Rc::clone(&asking)));
            None
        } else {
            let place = self.asks.place(Rc::clone(&asking));
            self.post(owner, there(ask, place.number));
            Some(place)
        };
        AskPlace { shard: self, asking, owner, place, waits: Cell::new(true), _weight: weight }
    }

    /// Tells one that waits.
    pub(crate) fn reply(&self, waiter: &Waiter, reply: Reply) {
        match waiter {
            Waiter::Here(asking) => asking.take(reply),
            Waiter::There { core, number } => {
                self.post(*core, Message::Reply { number: *number, reply: Box::new(reply) });
            }
        }
    }

    /// Whoever fills has to know that nobody reads what was lent.
    fn decline(&self, reply: Reply) {
        let (Reply::Arrived { reading: Some(reading), .. }
        | Reply::Origin { reading, .. }
        | Reply::Rest(reading)) = reply
        else {
            return;
        };
        drop(FillView::attach(&self.handle(), reading));
    }

    /// Takes a reply of another core. Whoever left does not want it any more.
    pub(crate) fn replied(&self, number: u64, reply: Reply) {
        match self.asks.find(number) {
            Some(asking) => asking.take(reply),
            None => self.decline(reply),
        }
    }
}
