//! Who fetches, and who waits for whom? One core's flights: the origin requests that run for the keys it owns, and who waits for them.
//!
//! Fed by the owner's driver with everybody who found nothing fresh, and with what the origin sent; the driver sends the requests and the
//! answers. Here are no heads, no bytes and no timers: a waiter is whatever the driver needs to reach its exchange again.
//!
//! ```text
//! ask ─ nobody flies ──▶ Lead ─┐                         ┌ Kept, Confirmed ──▶ arriving: later askers attach ── end ─┐
//! ask ─ its head is due ▶ Wait ┴▶ asking ── settle: all ─┤   (LeaderOnly: nobody does)                               ├▶ gone
//! begin (no viewer) ───────────▶                answered └ Passed, Stale, Failed ────────────────────────────────────┘
//! ```
//! Invariants:
//! - At most one flight can be joined for a selected key (C-1, C-3), and two keys are the same only if all their bytes are.
//! - A doomed flight is never joined: what it brings may be older than the invalidation that came after it.
//! - A flight and a mark carry the number of the newest invalidation rule that was there when their origin request was sent. The driver, who has
//!   the rules, looks at the number before anybody joins, and closes what a newer rule concerns (I-22).
//! - Each waiter is answered once, by `settle`, or goes by `leave` or `retain_followers`; all that wait together are as many as the limit says (C-11: they wait
//!   no longer than the flight's attempts, since every flight is settled).
//! - Marks are as many as the limit says. They go by hash alone: a false one costs a fetch of its own, never a wrong answer.

use std::collections::HashMap;

use crate::Now;
use marks::Marks;

mod marks;
#[cfg(test)]
mod tests;

/// Names a flight. Numbers are never used twice, so a late one touches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlightId(u64);

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Waiters of all flights together, leaders among them.
    pub waiters_max: usize,
    /// Hit-for-miss marks.
    pub marks_max: usize,
    /// How long a mark holds; 0 for no marks.
    pub mark_millis: u64,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The hash of the primary key.
    pub primary: u128,
    /// The hash of `key`.
    pub selected: u128,
    /// The selected key: the primary one, and where they count the variant and the text of Range.
    pub key: &'a [u8],
    /// What the asker could do.
    pub wants: Wants,
}

/// What an asker could do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Fetch for all, or be answered by another's fetch.
    LeadOrFollow,
    /// Be answered by another's fetch only: what a HEAD brings has no content for others (C-3).
    FollowOnly,
}

/// What an asker does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Place<W> {
    /// It fetches for all, and is kept as the flight's leader.
    Lead(FlightId),
    /// It is kept until the flight's head is there.
    Wait(FlightId),
    /// The flight's response is known and for everybody: it is answered at once, while that is fresh. Else [`Collapse::close`] the flight and
    /// ask again.
    Attach(FlightId, W),
    /// It fetches for itself alone, and nobody waits for it.
    Alone(W),
    /// As many wait as may: 503.
    Full(W),
}

/// What became of a flight's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response that is stored, or would be if the flight were not doomed; its content is arriving.
    Kept {
        /// By which fields it varies, as storage notes them; empty if it does not.
        names: Box<str>,
        /// Who may have it.
        shared: Shared,
    },
    /// A 304 for what is stored.
    Confirmed(Shared),
    /// A response that is not stored.
    Passed {
        /// Its status.
        status: u16,
    },
    /// The origin failed, and what is stored answers nevertheless.
    Stale,
    /// The origin failed.
    Failed,
}

/// Who may be answered by a response that came for the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Everybody who asked.
    WithAll,
    /// The leader: the others have to validate it themselves (`no-cache`, RFC 9111 §5.2.2.4).
    LeaderOnly,
}

/// What a waiter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The response came for it.
    Lead,
    /// The leader's response is its answer too, if it selects it.
    Follow,
    /// It fetches for itself.
    Alone,
    /// An answer of our own with this status.
    Refuse {
        /// The origin's.
        status: u16,
    },
    /// What is stored, stale as it is.
    Stale,
    /// The origin failed for all.
    Failed,
}

/// One core's flights and marks; `W` is one waiter.
#[derive(Debug)]
pub struct Collapse<W> {
    limits: Limits,
    flights: HashMap<u64, Flight<W>>,
    /// By selected key, the one that can be joined.
    joinable: HashMap<u128, u64>,
    /// By primary key, the newest; the older ones hang on it.
    newest: HashMap<u128, u64>,
    waiting: usize,
    next: u64,
    marks: Marks,
}

/// A flight that an asker would join, before it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joinable {
    /// Which one.
    pub flight: FlightId,
    /// The rule number that was current when its request was sent.
    pub number: u64,
    /// Its head is there.
    pub arriving: bool,
}

#[derive(Debug)]
struct Flight<W> {
    /// The rule number that was current when the request was sent; none was, as long as nobody says.
    number: u64,
    primary: u128,
    selected: u128,
    key: Box<[u8]>,
    /// The names by which its response varies, once its head is there.
    arriving: Option<Box<str>>,
    doomed: bool,
    leader: Option<W>,
    followers: Vec<W>,
    newer: Option<u64>,
    older: Option<u64>,
}

/// Which flight stands for a selected key.
enum Standing {
    Nobody,
    Flight(u64),
    /// One for another key of the same hash.
    Stranger,
}

impl<W> Collapse<W> {
    /// Makes the flights of a core: none yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            flights: HashMap::new(),
            joinable: HashMap::new(),
            newest: HashMap::new(),
            waiting: 0,
            next: 0,
            marks: Marks::new(limits.marks_max, limits.mark_millis),
        }
    }

    /// Finds a place for one who found nothing fresh, be it that nothing is stored or that it is stale (C-1, C-2).
    ///
    /// A response that is arriving for everybody goes before a mark; a mark before waiting for a head that may be for one only (C-13).
    pub fn ask(&mut self, asked: Asked<'_>, waiter: W, now: Now) -> Place<W> {
        let number = match self.standing(&asked) {
            Standing::Stranger => return Place::Alone(waiter),
            Standing::Nobody => None,
            Standing::Flight(number) => Some(number),
        };
        let flight = number.and_then(|number| Some((number, self.flights.get_mut(&number)?)));
        if let Some((number, flight)) = &flight
            && flight.arriving.is_some()
        {
            return Place::Attach(FlightId(*number), waiter);
        }
        if self.marks.holds(asked.primary, now.millis) {
            return Place::Alone(waiter);
        }
        if flight.is_none() && asked.wants == Wants::FollowOnly {
            return Place::Alone(waiter);
        }
        if self.waiting >= self.limits.waiters_max {
            return Place::Full(waiter);
        }
        self.waiting += 1;
        match flight {
            Some((number, flight)) => {
                flight.followers.push(waiter);
                Place::Wait(FlightId(number))
            }
            None => Place::Lead(self.start(&asked, Some(waiter))),
        }
    }

    /// Starts a flight that no viewer waits for (RFC 5861 §3); nothing if one runs for this key already.
    pub fn begin(&mut self, asked: Asked<'_>) -> Option<FlightId> {
        match self.standing(&asked) {
            Standing::Nobody => Some(self.start(&asked, None)),
            Standing::Flight(_) | Standing::Stranger => None,
        }
    }

    /// Notes the number of the newest invalidation rule at the moment when a flight's request is sent; again with each further attempt.
    pub fn sent(&mut self, flight: FlightId, number: u64) {
        if let Some(flight) = self.flights.get_mut(&flight.0) {
            flight.number = flight.number.max(number);
        }
    }

    /// Returns the rule number of a flight; `None` if it is over.
    pub fn number(&self, flight: FlightId) -> Option<u64> {
        self.flights.get(&flight.0).map(|flight| flight.number)
    }

    /// Returns which flight one who asks would join, so that the driver can hold it against newer rules first and [`Collapse::close`] it.
    pub fn joinable(&self, asked: &Asked<'_>) -> Option<Joinable> {
        let Standing::Flight(number) = self.standing(asked) else { return None };
        let flight = self.flights.get(&number)?;
        Some(Joinable {
            flight: FlightId(number),
            number: flight.number,
            arriving: flight.arriving.is_some(),
        })
    }

    /// Returns the least rule number of the flights whose head is due.
    pub fn oldest_number(&self) -> Option<u64> {
        self.flights.values().filter(|flight| flight.arriving.is_none()).map(|flight| flight.number).min()
    }

    /// Gives a flight the key of the variant that its response turned out to be, so that those who ask for that one attach.
    ///
    /// For flights that began under the primary key, before anybody knew that the URI varies; before they are settled. Who asks for the
    /// primary key alone does not find it any more, so look at [`Collapse::names`] first. Where another flies for the variant already,
    /// this one is not joined any more; nor is one that was closed.
    pub fn rekey(&mut self, flight: FlightId, selected: u128, key: &[u8]) {
        let FlightId(number) = flight;
        let was_joinable = self.part(number);
        let Some(flight) = self.flights.get_mut(&number) else { return };
        flight.selected = selected;
        flight.key = key.into();
        if was_joinable {
            self.joinable.entry(selected).or_insert(number);
        }
    }

    /// The head is known, or that there will be none: returns everybody who waited, the leader first, and what each is told.
    ///
    /// - C-4, C-8: a response that is stored answers all, be it an error.
    /// - C-6, C-13: one that is not, or that each has to validate, is for the leader alone. The followers go to the origin by themselves, and
    ///   for a while nobody waits for this URI.
    /// - C-8, C-9: an error of the server that is not stored, and an origin that failed, answer all at once; nobody tries again for it.
    ///
    /// A doomed flight answers those who came before its doom, and says nothing about the URI as it is now.
    pub fn settle(&mut self, flight: FlightId, outcome: Outcome, now: Now) -> Vec<(W, Answer)> {
        let FlightId(number) = flight;
        let Some(flight) = self.flights.get_mut(&number) else { return Vec::new() };
        if flight.arriving.is_some() {
            return Vec::new();
        }
        let (leader, followers) = (flight.leader.take(), std::mem::take(&mut flight.followers));
        self.waiting -= usize::from(leader.is_some()) + followers.len();
        let (primary, doomed, sent) = (flight.primary, flight.doomed, flight.number);
        let (to_leader, to_followers) = outcome.answers();
        match outcome {
            Outcome::Kept { names, shared } => self.arrive(number, names, shared),
            Outcome::Confirmed(shared) => self.arrive(number, Box::default(), shared),
            Outcome::Passed { .. } | Outcome::Stale | Outcome::Failed => self.remove(number),
        }
        if !doomed && to_leader == Answer::Lead {
            match to_followers {
                Answer::Follow => self.marks.lift(primary),
                Answer::Alone => self.marks.set(primary, sent, now.millis),
                _ => {}
            }
        }
        let leader = leader.map(|leader| (leader, to_leader));
        leader.into_iter().chain(followers.into_iter().map(|follower| (follower, to_followers))).collect()
    }

    /// Nobody joins the flight any more, and another may take its place; what it brings is stored all the same.
    ///
    /// For a response that stopped being fresh, or never was, while its content still comes: those who waited for its head may have it,
    /// later ones may not (RFC 9111 §4.2.4).
    pub fn close(&mut self, flight: FlightId) {
        self.part(flight.0);
    }

    /// The fill is over, whole or broken: nobody attaches any more.
    ///
    /// To be told of each flight that was settled with a response that is kept; the others end when they are settled.
    pub fn end(&mut self, flight: FlightId) {
        debug_assert!(
            self.flights
                .get(&flight.0)
                .is_none_or(|flight| flight.leader.is_none() && flight.followers.is_empty()),
            "settled before it ends"
        );
        self.remove(flight.0);
    }

    /// Dooms the flights of a primary key, and lifts its mark.
    ///
    /// Nobody joins them any more, and what they bring is not stored. Who waits for them stays: their requests came before.
    pub fn invalidate(&mut self, primary: u128) {
        self.marks.lift(primary);
        let mut next = self.newest.get(&primary).copied();
        while let Some(number) = next {
            self.part(number);
            let Some(flight) = self.flights.get_mut(&number) else { return };
            flight.doomed = true;
            next = flight.older;
        }
    }

    /// Tells whether what the flight brings must not be stored; true for one that is over.
    pub fn is_doomed(&self, flight: FlightId) -> bool {
        self.flights.get(&flight.0).is_none_or(|flight| flight.doomed)
    }

    /// Returns the names by which a response of this primary key varies that is arriving, and so not found in the tier; the newest flight's.
    pub fn names(&self, primary: u128, key: &[u8]) -> Option<&str> {
        let mut next = self.newest.get(&primary);
        while let Some(flight) = next.and_then(|number| self.flights.get(number)) {
            let names = flight.arriving.as_deref().unwrap_or_default();
            if !names.is_empty() && !flight.doomed && flight.key.starts_with(key) {
                return Some(names);
            }
            next = flight.older.as_ref();
        }
        None
    }

    /// Forgets the waiters of a flight that went away; the flight goes on without them, and without its leader (C-9).
    pub fn leave(&mut self, flight: FlightId, mut is: impl FnMut(&W) -> bool) {
        let Some(flight) = self.flights.get_mut(&flight.0) else { return };
        let before = usize::from(flight.leader.is_some()) + flight.followers.len();
        flight.leader.take_if(|leader| is(leader));
        flight.followers.retain(|follower| !is(follower));
        self.waiting -= before - usize::from(flight.leader.is_some()) - flight.followers.len();
    }

    /// Forgets the followers of all flights that are not to stay: they went away, and others find a place (C-11). A leader keeps its own
    /// as long as its flight goes on (C-9).
    pub fn retain_followers(&mut self, mut stays: impl FnMut(&W) -> bool) {
        self.waiting = 0;
        for flight in self.flights.values_mut() {
            flight.followers.retain(&mut stays);
            self.waiting += usize::from(flight.leader.is_some()) + flight.followers.len();
        }
    }

    /// Marks a primary key because of an answer whose request was sent at that rule number: for a while each request for it goes to the
    /// origin by itself (C-13).
    pub fn mark(&mut self, primary: u128, number: u64, now: Now) {
        self.marks.set(primary, number, now.millis);
    }

    /// Returns the rule number of a mark that holds, so that the driver can hold it against newer rules and [`Collapse::lift_mark`] it.
    pub fn mark_number(&self, primary: u128, now: Now) -> Option<u64> {
        self.marks.number(primary, now.millis)
    }

    /// Returns until which millisecond a mark holds.
    pub fn marked_until(&self, primary: u128, now: Now) -> Option<u64> {
        self.marks.until(primary, now.millis)
    }

    /// Takes a mark away.
    pub fn lift_mark(&mut self, primary: u128) {
        self.marks.lift(primary);
    }

    /// Tells whether a mark holds.
    pub fn is_marked(&self, primary: u128, now: Now) -> bool {
        self.marks.holds(primary, now.millis)
    }

    /// Returns how many flights there are.
    pub fn flights(&self) -> usize {
        self.flights.len()
    }

    /// Returns how many wait, leaders among them.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    fn standing(&self, asked: &Asked<'_>) -> Standing {
        let Some(&number) = self.joinable.get(&asked.selected) else { return Standing::Nobody };
        match self.flights.get(&number) {
            Some(flight) if *flight.key == *asked.key => Standing::Flight(number),
            _ => Standing::Stranger,
        }
    }

    /// Starts a flight for a key that nobody flies for.
    fn start(&mut self, asked: &Asked<'_>, leader: Option<W>) -> FlightId {
        let number = self.next;
        self.next += 1;
        let older = self.newest.insert(asked.primary, number);
        if let Some(older) = older.and_then(|older| self.flights.get_mut(&older)) {
            older.newer = Some(number);
        }
        let flight = Flight {
            number: 0,
            primary: asked.primary,
            selected: asked.selected,
            key: asked.key.into(),
            arriving: None,
            doomed: false,
            leader,
            followers: Vec::new(),
            newer: None,
            older,
        };
        self.flights.insert(number, flight);
        self.joinable.insert(asked.selected, number);
        FlightId(number)
    }

    /// The head is there; who may have it attaches from now on.
    fn arrive(&mut self, number: u64, names: Box<str>, shared: Shared) {
        if let Some(flight) = self.flights.get_mut(&number) {
            flight.arriving = Some(names);
        }
        if shared == Shared::LeaderOnly {
            self.part(number);
        }
    }

    /// Nobody joins the flight any more; another may take its place. Tells whether somebody could.
    fn part(&mut self, number: u64) -> bool {
        let Some(flight) = self.flights.get(&number) else { return false };
        let is_joinable = self.joinable.get(&flight.selected) == Some(&number);
        if is_joinable {
            self.joinable.remove(&flight.selected);
        }
        is_joinable
    }

    /// The flight is over.
    fn remove(&mut self, number: u64) {
        self.part(number);
        let Some(flight) = self.flights.remove(&number) else { return };
        self.waiting -= usize::from(flight.leader.is_some()) + flight.followers.len();
        if let Some(older) = flight.older.and_then(|older| self.flights.get_mut(&older)) {
            older.newer = flight.newer;
        }
        match (flight.newer.and_then(|newer| self.flights.get_mut(&newer)), flight.older) {
            (Some(newer), older) => newer.older = older,
            (None, Some(older)) => {
                self.newest.insert(flight.primary, older);
            }
            (None, None) => {
                self.newest.remove(&flight.primary);
            }
        }
    }
}

impl Outcome {
    /// What leader and followers are told.
    fn answers(&self) -> (Answer, Answer) {
        match self {
            Self::Kept { shared: Shared::WithAll, .. } | Self::Confirmed(Shared::WithAll) => {
                (Answer::Lead, Answer::Follow)
            }
            Self::Kept { shared: Shared::LeaderOnly, .. } | Self::Confirmed(Shared::LeaderOnly) => {
                (Answer::Lead, Answer::Alone)
            }
            &Self::Passed { status } if is_server_error(status) => (Answer::Lead, Answer::Refuse { status }),
            Self::Passed { .. } => (Answer::Lead, Answer::Alone),
            Self::Stale => (Answer::Stale, Answer::Stale),
            Self::Failed => (Answer::Failed, Answer::Failed),
        }
    }
}

/// Tells whether a status says that the origin is in trouble, which many requests at once would make worse.
fn is_server_error(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}
