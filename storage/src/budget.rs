//! Decides whether memory may be used, by one limit over all cores.
//!
//! Everybody who keeps bytes asks first: the arena for what the kernel gives it, stored responses for heads, the tier for its index.
//! What cannot be refused, because it is there already when it is known (a viewer's bytes, a task that waits), is noted by its core in
//! the same turn instead, and whoever asks afterwards is refused until it fits again. The control thread reads the figures, compares
//! them with what the kernel says, and withholds the difference. Invariants: what is taken never passes the limit, not even for a
//! moment; every byte taken is given back exactly once, because a [`Charge`] does so when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What memory is used for; each purpose is exported by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Purpose {
    /// Bytes of stored and filling bodies, as blocks of the arena.
    Payload,
    /// Blocks that were dropped but that their arena's owner has not taken back yet.
    Limbo,
    /// Memory that the kernel gave to arenas and that no block uses now.
    ArenaFree,
    /// Keys, response heads and the records that hold them.
    Heads,
    /// Indexes, block tables, eviction queues and remembered keys.
    Index,
    /// Replica tables of the cores.
    Replicas,
    /// Buffers of fills that are not part of a body: origin heads, receive windows.
    Fills,
    /// Viewers' and origins' connections, what they sent and nobody took yet, and what is queued to them.
    Connections,
    /// Requests that wait: their heads, tasks and places among those who wait for a fetch.
    Requests,
    /// Buffers that cores receive into and compose answers in, and header sections that they remember.
    Turns,
    /// State of TLS sessions on both sides.
    Tls,
    /// Mailboxes between cores.
    Mailboxes,
    /// Access log buffers.
    Logs,
    /// The disk tier's index and the buffers of its reads and writes.
    Disk,
}

impl Purpose {
    /// Every purpose once, in the order of the export.
    pub const ALL: [Purpose; 14] = [
        Purpose::Payload,
        Purpose::Limbo,
        Purpose::ArenaFree,
        Purpose::Heads,
        Purpose::Index,
        Purpose::Replicas,
        Purpose::Fills,
        Purpose::Connections,
        Purpose::Requests,
        Purpose::Turns,
        Purpose::Tls,
        Purpose::Mailboxes,
        Purpose::Logs,
        Purpose::Disk,
    ];

    /// Returns the purpose's name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Purpose::Payload => "payload",
            Purpose::Limbo => "limbo",
            Purpose::ArenaFree => "arena_free",
            Purpose::Heads => "heads",
            Purpose::Index => "index",
            Purpose::Replicas => "replicas",
            Purpose::Fills => "fills",
            Purpose::Connections => "connections",
            Purpose::Requests => "requests",
            Purpose::Turns => "turns",
            Purpose::Tls => "tls",
            Purpose::Mailboxes => "mailboxes",
            Purpose::Logs => "logs",
            Purpose::Disk => "disk",
        }
    }
}

/// The memory limit and what is taken of it.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    /// What content leaves to all others.
    headroom: u64,
    /// What the control thread found in use without being charged.
    withheld: Counter,
    /// What is stored, of all tiers.
    stored: Counter,
    total: Counter,
    used: [Counter; Purpose::ALL.len()],
}

/// A counter on its own cache line: all cores write here, but rarely the same purpose.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counter(AtomicU64);

impl Budget {
    /// Makes a budget of `limit` bytes of which nothing is taken.
    pub fn new(limit: u64) -> Arc<Budget> {
        Self::with_headroom(limit, 0)
    }

    /// Makes a budget of which content leaves at least `headroom` bytes to all others.
    pub fn with_headroom(limit: u64, headroom: u64) -> Arc<Budget> {
        Arc::new(Budget {
            limit,
            headroom,
            withheld: Counter::default(),
            stored: Counter::default(),
            total: Counter::default(),
            used: Default::default(),
        })
    }

    /// Takes `bytes` for `purpose`, or `None` when the limit would be passed.
    pub fn reserve(self: &Arc<Self>, purpose: Purpose, bytes: u64) -> Option<Charge> {
        self.take(purpose, bytes).then(|| Charge { budget: Arc::clone(self), purpose, bytes })
    }

    /// Returns how many bytes are taken for `purpose`.
    pub fn used(&self, purpose: Purpose) -> u64 {
        self.used[purpose as usize].0.load(Ordering::Relaxed)
    }

    /// Returns how many bytes are taken or noted altogether.
    pub fn used_total(&self) -> u64 {
        self.total.0.load(Ordering::Relaxed)
    }

    /// Returns the limit.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns how many bytes could be taken now, if nobody else were asking.
    pub fn available(&self) -> u64 {
        self.in_force().saturating_sub(self.used_total())
    }

    /// Returns how many bytes have to come back before so many can be taken: none where they can be taken now.
    pub fn missing(&self, bytes: u64) -> u64 {
        self.used_total().saturating_add(bytes).saturating_sub(self.in_force())
    }

    /// Returns how many bytes all tiers have stored, which leave when others need the memory.
    pub fn stored(&self) -> u64 {
        self.stored.0.load(Ordering::Relaxed)
    }

    /// Returns how many bytes content of all cores could give to others: what is stored, and what arenas have free.
    ///
    /// At most: of what is stored somebody may hold some for a while after it left.
    pub fn yieldable(&self) -> u64 {
        self.stored() + self.used(Purpose::ArenaFree)
    }

    /// Returns how many bytes content of all cores uses in any way: more can never come back from it. What somebody holds of it does so
    /// late, what is being filled perhaps not at all.
    pub fn content(&self) -> u64 {
        [Purpose::Payload, Purpose::Limbo, Purpose::ArenaFree, Purpose::Heads]
            .map(|purpose| self.used(purpose))
            .iter()
            .sum()
    }

    /// Returns how many bytes of those content may take.
    pub fn available_for_content(&self) -> u64 {
        self.available().saturating_sub(self.headroom)
    }

    /// Returns how many bytes content leaves to all others.
    pub fn headroom(&self) -> u64 {
        self.headroom
    }

    /// Withholds so much of the limit from now on; the control thread does, for memory that is in use and nobody charged.
    pub fn withhold(&self, bytes: u64) {
        self.withheld.0.store(bytes, Ordering::Relaxed);
    }

    /// Returns how much of the limit is withheld.
    pub fn withheld(&self) -> u64 {
        self.withheld.0.load(Ordering::Relaxed)
    }

    fn in_force(&self) -> u64 {
        self.limit.saturating_sub(self.withheld())
    }

    /// Takes `bytes` without a guard; the arena, whose blocks are the guards, gives them back.
    pub(crate) fn take(&self, purpose: Purpose, bytes: u64) -> bool {
        self.take_leaving(purpose, bytes, 0)
    }

    /// Takes `bytes` for content: only where the headroom stays free.
    pub(crate) fn take_for_content(&self, purpose: Purpose, bytes: u64) -> bool {
        self.take_leaving(purpose, bytes, self.headroom)
    }

    fn take_leaving(&self, purpose: Purpose, bytes: u64, left: u64) -> bool {
        // Nothing always fits, whatever was noted over the limit.
        if bytes == 0 {
            return true;
        }
        let most = self.in_force().saturating_sub(left);
        let within_limit = |total: u64| total.checked_add(bytes).filter(|total| *total <= most);
        // Relaxed everywhere: these are counts, and no other memory is published through them.
        if self.total.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within_limit).is_err() {
            return false;
        }
        self.used[purpose as usize].0.fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// Notes `bytes` that are in use already, even over the limit: hiding them would help nobody.
    fn note(&self, purpose: Purpose, bytes: u64) {
        self.total.0.fetch_add(bytes, Ordering::Relaxed);
        self.used[purpose as usize].0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back what [`Budget::take`] took.
    pub(crate) fn give(&self, purpose: Purpose, bytes: u64) {
        let before = self.used[purpose as usize].0.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{} gave back more than it took", purpose.name());
        self.total.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Moves `bytes` from one purpose to another; the total stays as it is.
    pub(crate) fn convert(&self, from: Purpose, to: Purpose, bytes: u64) {
        self.used[to as usize].0.fetch_add(bytes, Ordering::Relaxed);
        let before = self.used[from as usize].0.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{} gave away more than it took", from.name());
    }
}

/// What one tier has stored, told to all cores: it leaves when others need the memory. Its bytes are charged elsewhere.
#[derive(Debug)]
pub(crate) struct Stored {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Stored {
    /// Of a tier that has nothing yet.
    pub(crate) fn none(budget: &Arc<Budget>) -> Stored {
        Stored { budget: Arc::clone(budget), bytes: 0 }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.budget.stored.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.budget.stored.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.remove(self.bytes);
    }
}

/// Bytes taken from a budget; dropping it gives them back.
#[derive(Debug)]
#[must_use = "a charge that is dropped is given back at once"]
pub struct Charge {
    budget: Arc<Budget>,
    purpose: Purpose,
    bytes: u64,
}

impl Charge {
    /// Returns how many bytes this charge holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `more` bytes on top; `false` and unchanged when the limit would be passed.
    #[must_use]
    pub fn grow(&mut self, more: u64) -> bool {
        let taken = self.budget.take(self.purpose, more);
        if taken {
            self.bytes += more;
        }
        taken
    }

    /// Makes this charge hold exactly `bytes`, even over the limit: for what is in use already and cannot be refused.
    pub fn set(&mut self, bytes: u64) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.budget.note(self.purpose, more),
            None => self.budget.give(self.purpose, self.bytes - bytes),
        }
        self.bytes = bytes;
    }

    /// Gives `less` bytes back, at most all that is held.
    pub fn shrink(&mut self, less: u64) {
        let less = less.min(self.bytes);
        self.budget.give(self.purpose, less);
        self.bytes -= less;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.give(self.purpose, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_limit_itself_can_be_taken_and_nothing_more() {
        let budget = Budget::new(100);
        let all = budget.reserve(Purpose::Heads, 100).unwrap();
        assert!(budget.reserve(Purpose::Index, 1).is_none());
        assert!(budget.reserve(Purpose::Index, u64::MAX).is_none());
        assert_eq!((budget.used(Purpose::Heads), budget.used_total(), budget.available()), (100, 100, 0));
        drop(all);
        assert_eq!((budget.used(Purpose::Heads), budget.used_total()), (0, 0));
    }

    #[test]
    fn a_refused_growth_changes_nothing() {
        let budget = Budget::new(10);
        let mut charge = budget.reserve(Purpose::Tls, 6).unwrap();
        assert!(!charge.grow(5));
        assert_eq!((charge.bytes(), budget.used_total()), (6, 6));
        assert!(charge.grow(4));
        charge.shrink(20);
        assert_eq!((charge.bytes(), budget.used_total()), (0, 0));
    }

    #[test]
    fn what_is_in_use_already_is_noted_over_the_limit_and_keeps_others_out() {
        let budget = Budget::new(100);
        let mut noted = budget.reserve(Purpose::Requests, 0).unwrap();
        noted.set(130);
        assert_eq!((noted.bytes(), budget.used_total(), budget.available()), (130, 130, 0));
        assert!(budget.reserve(Purpose::Heads, 1).is_none());
        noted.set(99);
        assert!(budget.reserve(Purpose::Heads, 1).is_some());
        drop(noted);
        assert_eq!(budget.used_total(), 0);
    }

    #[test]
    fn content_leaves_the_headroom_and_what_is_withheld() {
        let budget = Budget::with_headroom(100, 30);
        assert!(
            !budget.take_for_content(Purpose::ArenaFree, 71)
                && budget.take_for_content(Purpose::ArenaFree, 70)
        );
        assert_eq!((budget.available(), budget.available_for_content()), (30, 0));
        budget.withhold(20);
        assert!(budget.reserve(Purpose::Heads, 11).is_none());
        let heads = budget.reserve(Purpose::Heads, 10).unwrap();
        budget.withhold(50);
        assert_eq!(budget.available(), 0, "more is in use than is left");
        drop(heads);
        budget.withhold(0);
        assert_eq!((budget.available(), budget.limit()), (30, 100));
        budget.give(Purpose::ArenaFree, 70);
    }

    #[test]
    fn what_is_over_the_limit_is_missing_too() {
        let budget = Budget::new(100);
        let heads = budget.reserve(Purpose::Heads, 60).unwrap();
        assert_eq!(
            (budget.missing(40), budget.missing(41), budget.missing(u64::MAX)),
            (0, 1, u64::MAX - 100)
        );
        budget.withhold(50);
        assert_eq!((budget.available(), budget.missing(0), budget.missing(5)), (0, 10, 15));
        drop(heads);
        assert_eq!(budget.missing(50), 0);
    }

    #[test]
    fn what_is_stored_can_be_given_to_others_until_it_leaves() {
        let budget = Budget::new(100);
        let (mut here, mut there) = (Stored::none(&budget), Stored::none(&budget));
        here.add(30);
        there.add(20);
        here.remove(10);
        assert_eq!((here.bytes(), budget.stored(), budget.used_total()), (20, 40, 0));
        assert!(budget.take(Purpose::ArenaFree, 7));
        assert_eq!(budget.yieldable(), 47);
        drop((here, there));
        assert_eq!(budget.yieldable(), 7);
        budget.give(Purpose::ArenaFree, 7);
    }

    #[test]
    fn purposes_are_listed_once_and_named_apart() {
        for (position, purpose) in Purpose::ALL.into_iter().enumerate() {
            assert_eq!(purpose as usize, position);
            let same_name = Purpose::ALL.iter().filter(|other| other.name() == purpose.name()).count();
            assert_eq!(same_name, 1);
        }
    }

    #[test]
    fn the_limit_holds_while_many_threads_take_and_give() {
        let budget = Budget::new(1000);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let budget = &budget;
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for step in 0..5_000u64 {
                        let bytes = (step * 31 + thread * 17) % 300;
                        held.extend(budget.reserve(Purpose::Connections, bytes));
                        assert!(budget.used_total() <= 1000);
                        if step % 3 != 0 {
                            held.pop();
                        }
                    }
                });
            }
        });
        assert_eq!((budget.used_total(), budget.used(Purpose::Connections)), (0, 0));
    }

    proptest! {
        #[test]
        fn any_order_of_charges_adds_up(steps in prop::collection::vec((0usize..Purpose::ALL.len(), 0u64..400, any::<bool>()), 1..200)) {
            let budget = Budget::new(1000);
            let mut held: Vec<Charge> = Vec::new();
            for (which, bytes, drop_one) in steps {
                let purpose = Purpose::ALL[which];
                let fits = budget.used_total() + bytes <= budget.limit();
                let charge = budget.reserve(purpose, bytes);
                prop_assert_eq!(charge.is_some(), fits);
                held.extend(charge);
                if drop_one && !held.is_empty() {
                    drop(held.swap_remove(which % held.len()));
                }
                let sum: u64 = held.iter().map(Charge::bytes).sum();
                let by_purpose: u64 = Purpose::ALL.into_iter().map(|purpose| budget.used(purpose)).sum();
                prop_assert_eq!((budget.used_total(), by_purpose), (sum, sum));
            }
        }
    }
}
