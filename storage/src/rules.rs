//! May a stored response still be used, as far as the operator's invalidations go (idea 3 of the architecture page)?
//!
//! Asked by everything that finds a response, before anything else is decided about it: the tier's hits and those of the replica tables,
//! stale answers, parts, what a validation or a resumed fill builds on, and the sweep. Invariants: a response from before a rule that
//! concerns it is not used by a core that has the rule (I-21, I-25); one that is up to date costs a load and a comparison.

use aspis_cache::invalidation::{RuleTable, Verdict};

use crate::response::StoredResponse;

/// Tells whether a response may be used at wall second `now`; one that a soft rule concerns is stale from then on.
#[inline]
pub fn hold(stored: &StoredResponse, rules: &RuleTable, now: u64) -> bool {
    stored.invalidation() >= rules.latest() || catch_up(stored, rules, now)
}

/// Holds a response against the rules that it has not seen.
#[cold]
#[inline(never)]
fn catch_up(stored: &StoredResponse, rules: &RuleTable, now: u64) -> bool {
    match rules.judge(&stored.subject(), stored.invalidation()) {
        // Its number stays behind, so that a core that does not see the mark yet comes to the same answer.
        Verdict::Gone => {
            stored.mark_gone();
            return false;
        }
        // Before the number: whoever sees the number must see this too. A second early: the clock of another core may be that much behind
        // where a second begins, and the response is stale there as well.
        Verdict::Stale => stored.shorten_fresh_until(now.saturating_sub(1)),
        Verdict::Untouched => {}
    }
    stored.raise_invalidation(rules.latest());
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aspis_cache::invalidation::{Rule, Wildcards, tags};
    use aspis_cache::stored::StoredMeta;

    use super::*;
    use crate::budget::Budget;
    use crate::mapping::arena::Arena;
    use crate::mapping::body::Body;
    use crate::response::Parts;

    const NOW: u64 = 1010;

    fn stored(invalidation: u64) -> Arc<StoredResponse> {
        let arena = Arena::new(1, Budget::new(1 << 20)).unwrap();
        let writer = Body::writer(&arena, Some(3));
        let body = Arc::clone(writer.body());
        let meta = StoredMeta { received_at: 1000, lifetime: 60, ..StoredMeta::PLAIN };
        let tags = tags::of_fields([(&b"xkey"[..], &b"t"[..])].into_iter(), None);
        let (key, head) = (b"http\na\n/x".to_vec().into(), Box::default());
        let parts = Parts { hash: 7, key, head, meta, body, invalidation, tags, variant: None };
        StoredResponse::new(parts, &Budget::new(10_000)).unwrap()
    }

    fn table(rules: &[(u64, Rule)]) -> RuleTable {
        let mut table = RuleTable::new();
        rules.iter().for_each(|(number, rule)| table.add(*number, std::slice::from_ref(rule)));
        table
    }

    fn path(text: &str, soft: bool) -> Rule {
        Rule::path(text, None, soft, Wildcards::Trailing).unwrap()
    }

    /// I-21: once a core has the rule; I-25: for good, and for every core that sees the mark.
    #[test]
    fn what_a_hard_rule_concerns_is_gone() {
        for rule in [path("/x", false), path("/*", false), Rule::tag("T", None, false).unwrap()] {
            let response = stored(4);
            assert!(hold(&response, &table(&[(4, rule.clone())]), NOW) && response.is_live());
            assert!(!hold(&response, &table(&[(5, rule)]), NOW) && !response.is_live());
            assert_eq!(response.invalidation(), 4, "a core that does not see the mark must judge as well");
        }
    }

    #[test]
    fn what_a_soft_rule_concerns_is_stale_from_now_on() {
        let response = stored(0);
        let table = table(&[(1, path("/x", true))]);
        assert!(hold(&response, &table, NOW) && response.is_live());
        let behind = NOW - 1;
        assert_eq!(
            (response.fresh_until(), response.invalidation()),
            (behind, 1),
            "a core that is behind is told so too"
        );
        assert!(hold(&response, &table, NOW + 9));
        assert_eq!(response.fresh_until(), behind, "a rule does it once");
    }

    #[test]
    fn what_no_rule_concerns_is_looked_at_once() {
        let response = stored(0);
        assert!(hold(&response, &table(&[(1, path("/y", false)), (3, path("/z*", true))]), NOW));
        assert_eq!((response.invalidation(), response.fresh_until()), (3, 1060));
        // Another core, which has fewer rules, takes nothing back.
        assert!(hold(&response, &table(&[(1, path("/y", false))]), NOW));
        assert_eq!(response.invalidation(), 3);
    }

    #[test]
    fn what_is_older_than_the_forgotten_rules_is_gone() {
        let mut table = table(&[(1, path("/y", false)), (2, path("/z", false))]);
        table.forget_up_to(1);
        assert!(!hold(&stored(0), &table, NOW) && hold(&stored(1), &table, NOW));
    }
}
