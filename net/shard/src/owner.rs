//! What the owner of a key does for those who ask: it answers from its tier, lets them wait for a running fetch, or starts one.
//!
//! Called by `asking.rs` for requests of this core and by the mail for those of others. Who leads and who waits is decided by
//! `aspis_exchange::collapse`; the fetch itself is `flight.rs`. Invariants: a key's responses are stored by its owner alone; whoever asks
//! gets what is stored if it has not seen that; at most one fetch runs that can be joined (C-1).

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use aspis_cache::invalidation::Verdict;
use aspis_cache::key::{self, PART_SUFFIX, SEPARATOR};
use aspis_cache::range;
use aspis_cache::reuse::Reuse;
use aspis_cache::vary;
use aspis_exchange::collapse::{Answer, Asked, Collapse, FlightId, Limits, Outcome, Place, Wants};
use aspis_exchange::{Collapsing, Conditions, Role, ViewerFacts};
use aspis_storage::response::StoredResponse;
use aspis_telemetry::Counter;
use aspis_wire::FieldSlots;
use aspis_wire::request::{RequestHead, parse_request};

use crate::asking::{Ask, Reply, Waiter, Waiting};
use crate::fill::FillView;
use crate::flight::{self, Flight};
use crate::limits::{LEFT_MAX, MARKS_MAX, WAITERS_MAX};
use crate::messages::Message;
use crate::shard::Shard;
use crate::storing::view_of;

/// The part of a shard that serves the keys it owns.
pub(crate) struct Owner {
    pub(crate) collapse: RefCell<Collapse<Waiting>>,
    /// What the flights brought whose content is still coming, or which were just confirmed.
    arriving: RefCell<HashMap<FlightId, Arrived>>,
    left: RefCell<Left>,
}

/// Who went away while they waited, since the flights last forgot them.
#[derive(Default)]
struct Left {
    /// Of this core: nobody but their flights holds their places any more.
    here: usize,
    /// Of other cores: which core, and its number.
    there: HashSet<(usize, u64)>,
}

/// What a flight brought.
#[derive(Clone)]
pub(crate) struct Arrived {
    pub(crate) stored: Arc<StoredResponse>,
    /// Where its content comes from; `None` if it was there before.
    pub(crate) fill: Option<Rc<FillView>>,
    pub(crate) validated: bool,
    /// It was on disk: nobody fetched it.
    pub(crate) restored: bool,
}

/// What a background refresh needs of the request that found the stale response.
pub(crate) struct Refresh {
    /// The request's head as received.
    pub(crate) head: Box<[u8]>,
    pub(crate) facts: ViewerFacts,
    /// Hash and bytes of the primary key.
    pub(crate) key: (u128, Box<[u8]>),
    pub(crate) stored: Arc<StoredResponse>,
}

impl Owner {
    pub(crate) fn new(mark_millis: u64) -> Self {
        let limits = Limits { waiters_max: WAITERS_MAX, marks_max: MARKS_MAX, mark_millis };
        Owner {
            collapse: RefCell::new(Collapse::new(limits)),
            arriving: RefCell::default(),
            left: RefCell::default(),
        }
    }
}

impl Arrived {
    /// The reply to one who waited for it.
    pub(crate) fn reply(&self, core: usize, role: Role) -> Reply {
        Reply::Arrived {
            stored: Arc::clone(&self.stored),
            role,
            validated: self.validated,
            reading: self.fill.as_ref().map(|fill| fill.lend(core)),
        }
    }
}

impl Shard {
    /// The core that owns the key with this primary hash.
    pub(crate) fn owner_of(&self, primary: u128) -> usize {
        self.sharding.owner_core(primary, self.cores)
    }

    /// Serves one who found nothing fresh under a key of this core.
    pub(crate) fn asked(&self, ask: Ask, waiter: Waiter) {
        let mut slots = FieldSlots::new();
        let Ok(Some(request)) = parse_request(&ask.head, &mut slots, &self.head_limits) else {
            // The asker parsed the same bytes.
            return self.reply(&waiter, Reply::Alone);
        };
        self.let_go(&ask.key);
        let Some(selected) = self.selected_key(&ask.key, &request) else {
            return self.reply(&waiter, Reply::Alone);
        };
        let hash = key::hash(&selected);
        let found = self.find(&ask, &request, hash, &selected);
        let seen = |found: &Arc<StoredResponse>| ask.has.as_ref().is_some_and(|has| Arc::ptr_eq(has, found));
        if let Some(found) = found.as_ref().filter(|found| !seen(found)) {
            return self.reply(&waiter, Reply::Stored(Arc::clone(found)));
        }
        // What left the tier since it was found is not validated any more: it may have been invalidated. I-24: the next fetch after a hard
        // rule is unconditional.
        let stored = ask.has.as_ref().filter(|has| has.is_live() && self.holds(has)).map(Arc::clone);
        let is_apart = ask.forward.collapsing == Collapsing::Apart;
        let leads = is_apart || ask.forward.collapsing == Collapsing::LeadOrFollow;
        // C-10: where nobody fetches the whole, those who want the same range share a fetch.
        let as_asked = stored.is_none() || ask.forward.conditions == Conditions::Viewer;
        let range = if leads && as_asked { range_key(&selected, &request) } else { None };
        if self.disk.is_some()
            && !self.joins(&ask, (hash, &selected), range.as_deref())
            && let Some(target) = self.may_be_on_disk(&ask, &request, (hash, &selected))
        {
            return self.restore(ask, waiter, target);
        }
        let wants = if leads && range.is_none() { Wants::LeadOrFollow } else { Wants::FollowOnly };
        let asked = Asked { primary: ask.key.0, selected: hash, key: &selected, wants };
        if ask.forward.collapsing == Collapsing::OnlyStored && !self.comes_back(&asked) {
            return self.reply(&waiter, Reply::Alone);
        }
        if self.sheds_asked(&asked, &waiter, ask.sheds) {
            return self.reply(&waiter, Reply::Full);
        }
        let mut place = if is_apart {
            Place::Alone(self.waiting(&waiter))
        } else {
            self.find_place(asked, &ask.key.1, &waiter)
        };
        if let (Some(key), Place::Alone(_)) = (&range, &place) {
            let wants = Wants::LeadOrFollow;
            let asked = Asked { primary: ask.key.0, selected: key::hash(key), key, wants };
            place = self.find_place(asked, &ask.key.1, &waiter);
        }
        self.take_place(place, waiter, ask, stored);
    }

    /// Asks the flights for a place.
    ///
    /// What stopped being fresh while it still comes takes nobody on any more (RFC 9111 §4.2.4), nor does what a rule concerns that came
    /// after its request was sent (I-22): with the head there its tags say so, before that the key alone, and [`Shard::settle`] the rest.
    fn find_place(&self, asked: Asked<'_>, primary: &[u8], waiter: &Waiter) -> Place<Waiting> {
        let now = self.now();
        let mut collapse = self.owner.collapse.borrow_mut();
        if let Some(flying) = collapse.joinable(&asked) {
            let takes_on = if flying.arriving {
                let arriving = self.owner.arriving.borrow();
                arriving.get(&flying.flight).is_some_and(|arrived| self.is_fresh(&arrived.stored))
            } else {
                !self.rules.concern_key(primary, flying.number)
            };
            if !takes_on {
                collapse.close(flying.flight);
            }
        }
        // A mark from before such a rule says nothing about what the origin has now.
        let mark = collapse.mark_number(asked.primary, now);
        if mark.is_some_and(|number| self.rules.concern_key(primary, number)) {
            collapse.lift_mark(asked.primary);
        }
        collapse.ask(asked, self.waiting(waiter), now)
    }

    /// Tells whether a fetch runs that one who asks for this would join.
    pub(crate) fn flies(&self, (primary, key): &(u128, Box<[u8]>), selected: &[u8]) -> bool {
        let hash = key::hash(selected);
        let asked = Asked { primary: *primary, selected: hash, key: selected, wants: Wants::FollowOnly };
        let flying = self.owner.collapse.borrow().joinable(&asked);
        flying.is_some_and(|flying| match self.owner.arriving.borrow().get(&flying.flight) {
            Some(Arrived { stored, .. }) => {
                self.rules.judge(&stored.subject(), stored.invalidation()) == Verdict::Untouched
            }
            None => !self.rules.concern_key(key, flying.number),
        })
    }

    /// Tells whether something comes already that one who asks would join.
    fn joins(&self, ask: &Ask, (hash, selected): (u128, &[u8]), range: Option<&[u8]>) -> bool {
        let collapse = self.owner.collapse.borrow();
        let flies = |selected: u128, key: &[u8]| {
            let asked = Asked { primary: ask.key.0, selected, key, wants: Wants::FollowOnly };
            collapse.joinable(&asked).is_some()
        };
        let is_apart = ask.forward.collapsing == Collapsing::Apart;
        range.is_some_and(|range| flies(key::hash(range), range)) || (!is_apart && flies(hash, selected))
    }

    /// Tells whether what is asked for comes from disk already: it is stored.
    fn comes_back(&self, asked: &Asked<'_>) -> bool {
        let flying = self.owner.collapse.borrow().joinable(asked);
        let arriving = self.owner.arriving.borrow();
        flying.and_then(|flying| arriving.get(&flying.flight)).is_some_and(|arrived| arrived.restored)
    }

    fn is_fresh(&self, stored: &StoredResponse) -> bool {
        self.holds(stored) && self.is_in_time(stored)
    }

    /// Tells whether a response is fresh by its own times, whatever rules say.
    pub(crate) fn is_in_time(&self, stored: &StoredResponse) -> bool {
        matches!(view_of(stored).reuse(self.now().wall), Reuse::Fresh { .. })
    }

    fn waiting(&self, waiter: &Waiter) -> Waiting {
        Waiting { waiter: waiter.clone(), seen: self.rules.latest() }
    }

    fn take_place(
        &self,
        place: Place<Waiting>,
        waiter: Waiter,
        ask: Ask,
        stored: Option<Arc<StoredResponse>>,
    ) {
        match place {
            Place::Lead(id) => {
                let conditions = match ask.forward.conditions {
                    conditions if stored.is_some() => conditions,
                    _ => Conditions::Viewer,
                };
                let Ask { head, facts, key, .. } = ask;
                let leader = Some(waiter);
                let flight = Flight { id, head, facts, key, stored, conditions, leader };
                self.counters.add(Counter::Flights, 1);
                self.owner.collapse.borrow_mut().sent(id, self.rules.number());
                self.ring.spawn(flight::run(self.handle(), flight));
            }
            Place::Wait(_) => self.counters.add(Counter::CollapsedWaiting, 1),
            Place::Attach(id, _) => {
                let arrived = self.owner.arriving.borrow().get(&id).cloned();
                self.counters.add(Counter::CollapsedArriving, 1);
                let reply = arrived.map_or(Reply::Alone, |arrived| {
                    let role = if arrived.restored { Role::Restored } else { Role::Collapsed };
                    arrived.reply(waiter.core(self), role)
                });
                self.reply(&waiter, reply);
            }
            Place::Alone(_) => {
                self.counters.add(Counter::CollapseAlone, 1);
                self.reply(&waiter, Reply::Alone);
            }
            Place::Full(_) => {
                self.counters.add(Counter::CollapseFull, 1);
                self.reply(&waiter, Reply::Full);
            }
        }
    }

    /// The primary key, extended by what the request sends for the fields by which the URI varies, if it does; `None` if that is too long.
    pub(crate) fn selected_key(
        &self,
        (hash, primary): &(u128, Box<[u8]>),
        request: &RequestHead<'_, '_>,
    ) -> Option<Vec<u8>> {
        let mut selected = primary.to_vec();
        let (store, collapse) = (self.store.borrow(), self.owner.collapse.borrow());
        let names = store.vary_names(*hash, primary).or_else(|| collapse.names(*hash, primary));
        let markers = self.restores.markers.borrow();
        let on_disk = || markers.variants(*hash, primary).map(|variants| &*variants.names);
        match names.or_else(on_disk) {
            Some(names) if !names.is_empty() => {
                vary::extend_key(&self.behavior, names, request.fields, &mut selected).then_some(selected)
            }
            _ => Some(selected),
        }
    }

    /// What is stored under the selected key, else the part that holds what is asked for, if there are parts.
    fn find(
        &self,
        ask: &Ask,
        request: &RequestHead<'_, '_>,
        hash: u128,
        selected: &[u8],
    ) -> Option<Arc<StoredResponse>> {
        let store = self.store.borrow();
        let whole = store.lookup(hash, selected).filter(|whole| self.can_send(whole));
        let may_be_a_part = store.has_parts() && selected.len() == ask.key.1.len();
        whole
            .or_else(|| {
                let part = may_be_a_part.then(|| [selected, PART_SUFFIX].concat())?;
                store.part(key::hash(&part), &part, |total| range::span(request.fields, total))
            })
            .cloned()
    }

    /// Somebody who waited went away: of another core, if it is said who. Places are given to others many at once, since that looks at all.
    pub(crate) fn left(&self, there: Option<(usize, u64)>) {
        let mut left = self.owner.left.borrow_mut();
        match there {
            Some(there) => {
                left.there.insert(there);
            }
            None => left.here += 1,
        }
        if left.here + left.there.len() < LEFT_MAX {
            return;
        }
        let Left { there, .. } = std::mem::take(&mut *left);
        self.owner.collapse.borrow_mut().retain_followers(|waiting| match &waiting.waiter {
            Waiter::Here(asking) => Rc::strong_count(asking) > 1,
            Waiter::There { core, number } => !there.contains(&(*core, *number)),
        });
    }

    /// Tells all who waited for a flight what became of it.
    pub(crate) fn settle(
        &self,
        id: FlightId,
        outcome: Outcome,
        arrived: Option<Arrived>,
        reply: impl Fn(Answer, usize) -> Reply,
    ) {
        let sent = self.owner.collapse.borrow().number(id).unwrap_or_default();
        // With its tags known, a rule may concern what the request of the flight brought, which was sent before it (I-22).
        let is_outdated = arrived
            .as_ref()
            .is_some_and(|arrived| self.rules.judge(&arrived.stored.subject(), sent) != Verdict::Untouched);
        if let Some(arrived) = arrived {
            self.owner.arriving.borrow_mut().insert(id, arrived);
        }
        let answers = self.owner.collapse.borrow_mut().settle(id, outcome, self.now());
        self.tell(answers.into_iter().map(|(Waiting { waiter, seen }, answer)| {
            let core = waiter.core(self);
            let came_after = is_outdated && seen > sent && answer == Answer::Follow;
            (waiter, if came_after { Reply::Again } else { reply(answer, core) })
        }));
    }

    /// A flight is over: nobody attaches to it any more.
    pub(crate) fn land(&self, id: FlightId) {
        self.owner.collapse.borrow_mut().end(id);
        let arrived = self.owner.arriving.borrow_mut().remove(&id);
        drop(arrived);
    }

    /// The least rule number of what is arriving, held against the rules: with that it has the newest, or is gone.
    pub(crate) fn oldest_arriving(&self) -> Option<u64> {
        let arriving = self.owner.arriving.borrow();
        let held = arriving.values().filter(|arrived| self.holds(&arrived.stored));
        held.map(|arrived| arrived.stored.invalidation()).min()
    }

    /// Validates a stored response in the background, unless that is done already (RFC 5861 §3).
    pub(crate) fn refresh(&self, refresh: Refresh) {
        if !refresh.stored.claim_refresh() {
            return;
        }
        let owner = self.owner_of(refresh.key.0);
        if owner == self.core {
            self.refresh_here(refresh);
        } else {
            self.post(owner, Message::Refresh(Box::new(refresh)));
        }
    }

    /// The same, at the owner.
    pub(crate) fn refresh_here(&self, refresh: Refresh) {
        let Refresh { head, facts, key, stored } = refresh;
        let asked =
            Asked { primary: key.0, selected: stored.hash, key: &stored.key, wants: Wants::LeadOrFollow };
        // I-24: what a hard rule took is not validated, but fetched by who asks for it next.
        let is_wanted = stored.is_live() && self.holds(&stored) && !self.sheds_fetch();
        let begun = if is_wanted { self.owner.collapse.borrow_mut().begin(asked) } else { None };
        let Some(id) = begun else {
            stored.release_refresh();
            return;
        };
        self.counters.add(Counter::CacheRefreshes, 1);
        self.owner.collapse.borrow_mut().sent(id, self.rules.number());
        let flight = Flight {
            id,
            head,
            facts,
            key,
            stored: Some(stored),
            conditions: Conditions::Stored,
            leader: None,
        };
        self.ring.spawn(flight::run(self.handle(), flight));
    }
}

/// Stands before the range in such a key; no name of a field looks like it.
const RANGE_MARK: &[u8] = b"\0range:";

/// The key of a range that is fetched by itself, which no stored response has; `None` if the whole is asked for.
pub(crate) fn range_key(selected: &[u8], request: &RequestHead<'_, '_>) -> Option<Vec<u8>> {
    let range = request.field("range")?;
    let condition = request.field("if-range").unwrap_or_default();
    let parts = [selected, RANGE_MARK, range, &[SEPARATOR], condition];
    Some(parts.concat())
}
