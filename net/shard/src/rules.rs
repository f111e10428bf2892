//! The invalidation rules of one core: taken in, held against what is found, and swept through what is stored (idea 3 of the architecture page).
//!
//! The control thread gives each batch one number, raises the process's number at that moment, and tells every core. What finds a stored
//! response asks [`Shard::holds`] before anything else is decided about it; fetches note the number at which they are sent. A `sweep` holds
//! everything against the rules, so that the memory of what is gone comes back and the rules can be forgotten.
//!
//! Invariants:
//! - a core's `latest` is raised when the batch is in its table, never before (I-21);
//! - a number is read before the request is sent for which it stands: what is sent later may count as sent before a rule, never after it;
//! - nothing that this core stores, in memory or on disk, is bringing or shares has a smaller number than the one it says to have `settled`, so rules up to there
//!   can be forgotten. What comes all the same, late and from elsewhere, is gone: the table's floor says so.

mod sweep;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aspis_cache::invalidation::{Rule, RuleTable, Subject, Verdict};
use aspis_storage::budget::{Budget, Charge, Purpose};
use aspis_storage::response::StoredResponse;
use aspis_telemetry::Counter;

use crate::shard::Shard;

use sweep::Round;

/// Rules that were accepted together, under one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleBatch {
    /// As [`Shards::next_rule_number`](crate::Shards::next_rule_number) gave it.
    pub number: u64,
    /// What is invalidated.
    pub rules: Vec<Rule>,
}

/// What a PURGE request is told when its rules took effect: their number, or why they were not accepted.
pub type Purged = Result<u64, String>;

/// Who accepts the rules of PURGE requests: the control thread.
pub trait Purges: Send + Sync {
    /// Accepts `rules` as one batch. `done` is called, on any thread, when every core holds its answers against them.
    fn purge(&self, rules: Vec<Rule>, done: Box<dyn FnOnce(Purged) + Send>);
}

/// Invalidation as the shards begin with it.
pub struct Invalidations {
    /// The batches that still count, their numbers rising: each core has them before it serves.
    pub rules: Vec<RuleBatch>,
    /// The number of the newest batch that was ever accepted.
    pub first_number: u64,
    /// Called on a core's thread after rules that are [awaited](crate::Shards::await_rules) were applied, and after some were settled; it must
    /// not wait for anything.
    pub rules_changed: Arc<dyn Fn() + Send + Sync>,
    /// Who takes what PURGE requests name; `None` refuses them.
    pub purges: Option<Arc<dyn Purges>>,
}

impl Default for Invalidations {
    fn default() -> Self {
        Invalidations { rules: Vec::new(), first_number: 0, rules_changed: Arc::new(|| ()), purges: None }
    }
}

impl fmt::Debug for Invalidations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invalidations")
            .field("rules", &self.rules)
            .field("first_number", &self.first_number)
            .finish_non_exhaustive()
    }
}

/// How far one core is.
#[derive(Debug, Default)]
struct CoreProgress {
    /// The number of the newest batch that is in its table.
    applied: AtomicU64,
    /// The number under which nothing is left of this core, on disk neither.
    settled: AtomicU64,
}

/// What the cores and the control thread share.
pub(crate) struct RuleNumbers {
    /// The number of the newest batch that was accepted.
    accepted: AtomicU64,
    /// How often an unsafe request invalidated something (RFC 9111 §4.4).
    unsafes: AtomicU64,
    cores: Box<[CoreProgress]>,
    /// The number that somebody waits for; `u64::MAX` if nobody does.
    awaited: AtomicU64,
    changed: Arc<dyn Fn() + Send + Sync>,
}

impl RuleNumbers {
    /// The numbers of `cores` cores; `accepted` was the last one given.
    pub(crate) fn new(cores: usize, accepted: u64, changed: Arc<dyn Fn() + Send + Sync>) -> Self {
        RuleNumbers {
            accepted: AtomicU64::new(accepted),
            unsafes: AtomicU64::new(0),
            cores: (0..cores).map(|_| CoreProgress::default()).collect(),
            awaited: AtomicU64::new(u64::MAX),
            changed,
        }
    }

    /// The number of a batch that is accepted now. What is sent to an origin after this call carries it, or a later one.
    pub(crate) fn next(&self) -> u64 {
        self.accepted.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The number that every core has reached.
    pub(crate) fn applied(&self) -> u64 {
        self.least(|core| &core.applied)
    }

    /// Has `changed` called when every core has reached `number`, now if that is so.
    pub(crate) fn await_applied(&self, number: u64) {
        self.awaited.store(number, Ordering::Relaxed);
        self.tell_if_awaited();
    }

    /// Calls `changed` if what is awaited has come. Both sides store, fence and look: of two cores that reach a number at once, or a core and who begins
    /// to wait for it, at least the one whose fence is second sees what both stored.
    fn tell_if_awaited(&self) {
        fence(Ordering::SeqCst);
        if self.applied() >= self.awaited.load(Ordering::Relaxed) {
            (self.changed)();
        }
    }

    /// The number that each core has reached.
    pub(crate) fn applied_each(&self) -> Vec<u64> {
        self.cores.iter().map(|core| core.applied.load(Ordering::Acquire)).collect()
    }

    /// The number under which no core has anything left.
    pub(crate) fn settled(&self) -> u64 {
        self.least(|core| &core.settled)
    }

    fn least(&self, of: impl Fn(&CoreProgress) -> &AtomicU64) -> u64 {
        self.cores.iter().map(|core| of(core).load(Ordering::Acquire)).min().unwrap_or_default()
    }
}

/// One core's rules.
pub(crate) struct Rules {
    core: usize,
    shared: Arc<RuleNumbers>,
    /// The table's own `latest`, where a hit reads it without a borrow.
    latest: Cell<u64>,
    table: RefCell<RuleTable>,
    /// The table's memory.
    charge: RefCell<Charge>,
    /// The round that is under way through what is stored.
    round: Cell<Option<Round>>,
    /// What the last round was begun with.
    swept: Cell<u64>,
    /// The number under which nothing is left in memory.
    settled: Cell<u64>,
    /// The next round begins no sooner, in the ring's milliseconds.
    next_round_at: Cell<u64>,
}

/// What a core has when it begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Nothing.
    Nothing,
    /// What is on disk, from whatever number on.
    OnDisk,
}

impl Rules {
    /// The rules that a core begins with. Where nothing is stored yet all of them are settled.
    pub(crate) fn new(
        core: usize,
        shared: Arc<RuleNumbers>,
        batches: &[RuleBatch],
        (budget, stored): (&Arc<Budget>, Stored),
    ) -> Self {
        let charge = budget.reserve(Purpose::Index, 0).expect("nothing always fits into a budget");
        let mut table = RuleTable::new();
        for batch in batches {
            table.add(batch.number, &batch.rules);
        }
        let latest = table.latest();
        let rules = Rules {
            core,
            shared,
            latest: Cell::new(latest),
            table: RefCell::new(table),
            charge: RefCell::new(charge),
            round: Cell::new(None),
            swept: Cell::new(latest),
            settled: Cell::new(latest),
            next_round_at: Cell::new(0),
        };
        rules.recharge(|_| ());
        let progress = rules.progress();
        progress.applied.store(latest, Ordering::Release);
        if stored == Stored::Nothing {
            progress.settled.store(latest, Ordering::Release);
        }
        rules
    }

    /// The number for what is sent to an origin now.
    pub(crate) fn number(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// The number of the newest batch in this core's table.
    #[inline]
    pub(crate) fn latest(&self) -> u64 {
        self.latest.get()
    }

    /// Something may be stored that was not held against every rule.
    pub(crate) fn is_behind(&self) -> bool {
        self.settled.get() < self.latest.get()
    }

    /// How often unsafe requests invalidated something so far.
    pub(crate) fn unsafes(&self) -> u64 {
        self.shared.unsafes.load(Ordering::Acquire)
    }

    /// Counts an unsafe request that invalidates something.
    pub(crate) fn note_unsafe(&self) {
        self.shared.unsafes.fetch_add(1, Ordering::AcqRel);
    }

    /// What the rules newer than `checked` make of a response. Changes nothing.
    pub(crate) fn judge(&self, subject: &Subject<'_>, checked: u64) -> Verdict {
        if checked >= self.latest.get() {
            return Verdict::Untouched;
        }
        self.table.borrow().judge(subject, checked)
    }

    /// Tells whether a rule newer than `sent` names this key, whatever tags belong to it.
    pub(crate) fn concern_key(&self, key: &[u8], sent: u64) -> bool {
        self.judge(&Subject { key, tags: &[] }, sent) != Verdict::Untouched
    }

    fn progress(&self) -> &CoreProgress {
        &self.shared.cores[self.core]
    }

    /// Accounts for the table's memory.
    fn recharge(&self, make_room: impl Fn(u64)) {
        let (mut charge, wanted) = (self.charge.borrow_mut(), self.table.borrow().heap_len() as u64);
        let charged = charge.bytes();
        match wanted.checked_sub(charged) {
            None => charge.shrink(charged - wanted),
            Some(more) if charge.grow(more) => {}
            Some(more) => {
                make_room(more);
                // A rule is never refused: what there is no room for now is charged with a later batch.
                let _ = charge.grow(more);
            }
        }
    }
}

impl Shard {
    /// Tells whether a stored response may still be used as far as the rules go: fresh or, after a soft rule, stale. One that may not is gone.
    #[inline]
    pub(crate) fn holds(&self, stored: &StoredResponse) -> bool {
        stored.invalidation() >= self.rules.latest() || self.catch_up(stored)
    }

    /// Holds a response against the rules that it has not seen. Nothing of this is in the way of a hit that is up to date.
    #[cold]
    #[inline(never)]
    fn catch_up(&self, stored: &StoredResponse) -> bool {
        aspis_storage::rules::hold(stored, &self.rules.table.borrow(), self.ring.wall_seconds())
    }

    /// Takes in a batch. What is found from now on is held against it.
    pub(crate) fn apply_rules(&self, batch: &RuleBatch) {
        let rules = &self.rules;
        rules.table.borrow_mut().add(batch.number, &batch.rules);
        rules.recharge(|bytes| self.make_room(bytes));
        rules.latest.set(rules.table.borrow().latest());
        rules.progress().applied.store(rules.latest(), Ordering::Release);
        rules.shared.tell_if_awaited();
        // Where everything sleeps nothing else would wake the sweep.
        self.arm_sweep();
    }

    /// Forgets the rules that no core needs any more.
    pub(crate) fn forget_rules(&self, up_to: u64) {
        let rules = &self.rules;
        rules.table.borrow_mut().forget_up_to(up_to);
        rules.recharge(|_| ());
        rules.latest.set(rules.table.borrow().latest());
    }

    /// Tells the control thread how far this core is. On disk something may lie that is older than all in memory: it is held against the
    /// rules when it comes back.
    pub(crate) fn say_settled(&self) {
        let rules = &self.rules;
        let on_disk = self.disk.as_ref().map_or(u64::MAX, |disk| disk.oldest_number());
        let settled = rules.settled.get().min(on_disk);
        if settled > rules.progress().settled.load(Ordering::Relaxed) {
            rules.progress().settled.store(settled, Ordering::Release);
            (rules.shared.changed)();
        }
    }

    /// Lets go of what is stored under a key that this core owns and that the rules made useless: before somebody who missed is told
    /// what there is, and by what it varies.
    pub(crate) fn let_go(&self, (hash, key): &(u128, Box<[u8]>)) {
        if self.rules.is_behind() {
            let keep = &mut |stored: &Arc<StoredResponse>| stored.is_live() && self.holds(stored);
            let removed = self.store.borrow_mut().retain_uri(*hash, key, keep);
            self.counters.add(Counter::CachePurged, removed as u64);
        }
    }
}

#[cfg(test)]
mod purge_tests;
#[cfg(test)]
pub(crate) mod stage;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod under_way_tests;
