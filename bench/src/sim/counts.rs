//! How often each situation occurred: a run that never saw one proves nothing about it.

/// A situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Count {
    Events,
    Viewers,
    Fetches,
    OwnHits,
    ReplicaHits,
    OwnerHits,
    Led,
    Waited,
    Attached,
    Alone,
    Refused,
    AskedAgain,
    Closed,
    Refreshes,
    Validated,
    StaleOnError,
    Errors,
    Passed,
    Parts,
    Joined,
    Resumed,
    HandedOver,
    Lost,
    ShortOfMemory,
    Stored,
    Deposited,
    Doomed,
    Invalidations,
    Broken,
    Left,
    Storms,
    Purges,
    Completed,
    Purged,
    Softened,
    Outdated,
    MarksLifted,
    RuleSweeps,
    Forgotten,
    Restarts,
    SoftServed,
}

const NAMES: [(Count, &str); 41] = [
    (Count::Events, "events"),
    (Count::Viewers, "viewers"),
    (Count::Fetches, "origin requests"),
    (Count::OwnHits, "hits on the owner's core"),
    (Count::ReplicaHits, "hits in replica tables"),
    (Count::OwnerHits, "found by the owner"),
    (Count::Led, "flights led"),
    (Count::Waited, "waited for a head"),
    (Count::Attached, "attached to a fill"),
    (Count::Alone, "went alone"),
    (Count::Refused, "refused, too many waiting"),
    (Count::AskedAgain, "asked again for a variant"),
    (Count::Closed, "flights closed, stale while filling"),
    (Count::Refreshes, "background refreshes"),
    (Count::Validated, "validated"),
    (Count::StaleOnError, "stale on error"),
    (Count::Errors, "errors told"),
    (Count::Passed, "passed through"),
    (Count::Parts, "parts stored"),
    (Count::Joined, "prefixes joined"),
    (Count::Resumed, "fills resumed"),
    (Count::HandedOver, "fills handed over"),
    (Count::Lost, "readers lost by a passage"),
    (Count::ShortOfMemory, "short of memory"),
    (Count::Stored, "stored"),
    (Count::Deposited, "deposited"),
    (Count::Doomed, "fills doomed"),
    (Count::Invalidations, "invalidations by unsafe methods"),
    (Count::Broken, "broken answers"),
    (Count::Left, "viewers that left"),
    (Count::Storms, "storms with one fetch"),
    (Count::Purges, "batches of rules"),
    (Count::Completed, "batches done"),
    (Count::Purged, "responses gone by a rule"),
    (Count::Softened, "responses stale by a rule"),
    (Count::Outdated, "flights closed by a rule"),
    (Count::MarksLifted, "marks lifted by a rule"),
    (Count::RuleSweeps, "sweeps for rules"),
    (Count::Forgotten, "times that a core forgot rules"),
    (Count::Restarts, "restarts"),
    (Count::SoftServed, "served stale after a soft rule"),
];

/// The numbers of one run, or of all.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    numbers: [u64; NAMES.len()],
}

impl Default for Counts {
    fn default() -> Counts {
        Counts { numbers: [0; NAMES.len()] }
    }
}

impl Counts {
    pub(crate) fn add(&mut self, count: Count, number: u64) {
        self.numbers[count as usize] += number;
    }

    pub(crate) fn of(&self, count: Count) -> u64 {
        self.numbers[count as usize]
    }

    /// Adds another run's numbers.
    pub(crate) fn include(&mut self, other: &Counts) {
        for (number, more) in self.numbers.iter_mut().zip(&other.numbers) {
            *number += more;
        }
    }

    /// Returns each situation's name and number.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NAMES.iter().map(|(count, name)| (*name, self.of(*count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_situation_has_its_name() {
        for (at, (count, _)) in NAMES.iter().enumerate() {
            assert_eq!(*count as usize, at);
        }
    }
}
