//! What left a tier for room and is worth a place on disk: kept until the driver asks for it.
//!
//! [`room`](super::room) tells of each response that is evicted; the driver of the disk tier takes what is kept in the same turn. Invariants:
//! without a disk nothing is kept; what is kept is bounded in bytes, since its memory does not come free until it is taken and written.

use std::sync::Arc;

use super::RamTier;
use crate::policy::Policy;
use crate::response::StoredResponse;

/// The responses that left and nobody took yet.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    responses: Vec<Arc<StoredResponse>>,
    len: u64,
    /// More is not kept; 0 without a disk.
    len_max: u64,
}

impl Leaving {
    /// Tells whether a response that is stored will be kept when it leaves: it was used, would be lost, and no rule took it.
    pub(super) fn wants(&self, response: &StoredResponse) -> bool {
        self.len_max > 0
            && response.is_live()
            && response.was_used()
            && !response.is_on_disk()
            && self.len + response.charged_len() <= self.len_max
    }

    pub(super) fn keep(&mut self, response: Arc<StoredResponse>) {
        self.len += response.charged_len();
        self.responses.push(response);
    }
}

impl<P: Policy> RamTier<P> {
    /// Keeps of what is evicted from now on up to `len_max` bytes of that which was used and is not on disk, for [`RamTier::take_evicted`].
    pub fn keep_evicted(&mut self, len_max: u64) {
        self.leaving.len_max = len_max;
    }

    /// Returns what was kept of what was evicted since the last call; all of it is gone.
    pub fn take_evicted(&mut self) -> Vec<Arc<StoredResponse>> {
        self.leaving.len = 0;
        std::mem::take(&mut self.leaving.responses)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{MIB, hash, key, store, tier};

    /// Stores `count` responses of 100 KiB in a tier for about nine, those with even numbers used.
    fn churned(len_max: u64, count: u128) -> super::RamTier {
        let (mut tier, _budget) = tier(MIB, 8 * MIB);
        tier.keep_evicted(len_max);
        for number in 0..count {
            assert!(store(&mut tier, number, 100 * 1024));
            if number % 2 == 0 {
                tier.lookup(hash(number), &key(number)).expect("just stored").note_use();
            }
        }
        tier
    }

    #[test]
    fn what_was_used_and_is_evicted_is_handed_out() {
        let mut tier = churned(MIB, 40);
        let kept = tier.take_evicted();
        assert!(!kept.is_empty() && kept.iter().all(|response| response.was_used() && !response.is_live()));
        assert!(tier.take_evicted().is_empty());
    }

    #[test]
    fn nothing_is_kept_without_a_disk() {
        assert!(churned(0, 40).take_evicted().is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_tier_goes_on() {
        let mut tier = churned(250 * 1024, 200);
        assert_eq!(tier.take_evicted().len(), 2);
    }

    #[test]
    fn what_is_on_disk_or_purged_is_not_handed_out() {
        let (mut tier, _budget) = tier(MIB, 8 * MIB);
        tier.keep_evicted(MIB);
        for number in 0..40 {
            assert!(store(&mut tier, number, 100 * 1024));
            let stored = tier.lookup(hash(number), &key(number)).expect("just stored");
            match number % 2 {
                0 => stored.set_on_disk(true),
                _ => stored.mark_gone(),
            }
        }
        assert!(tier.take_evicted().is_empty());
    }
}
