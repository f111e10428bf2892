//! What the rules did to a response that several cores hold: who sees that it was held against a rule sees what the rule did to it.

use super::*;
use aspis_cache::invalidation::{Rule, RuleTable, Wildcards};
use aspis_cache::stored::StoredMeta;
use aspis_storage::mapping::body::Body;
use aspis_storage::response::{Parts, StoredResponse};
use aspis_storage::rules::hold;

const NOW: u64 = 1010;

fn stored() -> Arc<StoredResponse> {
    let (arena, budget) = arena();
    let mut writer = Body::writer(&arena, Some(UNIT as u64));
    assert_eq!(writer.append(&[1; UNIT]), UNIT);
    let body = Arc::clone(writer.body());
    writer.complete();
    let meta = StoredMeta { received_at: 1000, lifetime: 60, ..StoredMeta::PLAIN };
    let (key, head, tags) = (b"http\na\n/x".to_vec().into(), Box::default(), Box::default());
    let parts = Parts { hash: 1, key, head, meta, body, invalidation: 0, tags, variant: None };
    StoredResponse::new(parts, &budget).unwrap()
}

/// The rules of a core that was told of as many batches as there are paths.
fn table(paths: &[(&str, bool)]) -> RuleTable {
    let mut table = RuleTable::new();
    for (number, (path, soft)) in (1..).zip(paths) {
        table.add(number, &[Rule::path(path, None, *soft, Wildcards::Trailing).unwrap()]);
    }
    table
}

/// Two cores look at one response, each with its own rules and at its own second.
fn look(
    one: &'static [(&str, bool)],
    other: &'static [(&str, bool)],
    judge: impl Fn(&StoredResponse, [Option<u64>; 2]) + Copy + Send + Sync + 'static,
) {
    check(3, move || {
        let response = stored();
        let of_other = Arc::clone(&response);
        let seen = |response: &StoredResponse, rules: &[(&str, bool)], now| {
            hold(response, &table(rules), now).then(|| response.fresh_until())
        };
        let thread = loom::thread::spawn(move || {
            let until = seen(&of_other, other, NOW + 1);
            (of_other, until)
        });
        let own = seen(&response, one, NOW);
        let (handle, until) = thread.join().unwrap();
        judge(&response, [own, until]);
        drop(handle);
    });
}

/// A number that is seen without the end of freshness that it stands for would serve as fresh what a soft rule made stale; and so would an end
/// that the clock of the other core has not reached.
#[test]
fn who_sees_the_number_sees_the_end_of_freshness() {
    const SOFT: &[(&str, bool)] = &[("/x", true)];
    look(SOFT, SOFT, |response, seen| {
        assert!(seen.iter().all(|until| until.is_some_and(|until| until <= NOW)), "{seen:?}");
        assert_eq!(response.invalidation(), 1);
    });
}

/// A core with fewer rules raises the number to its own latest, and takes nothing back.
#[test]
fn a_core_that_is_behind_hides_no_rule_from_one_that_is_not() {
    look(&[("/y", false)], &[("/y", false), ("/x", true)], |response, [_, until]| {
        assert!(until.is_some_and(|until| until <= NOW), "{until:?}");
        assert_eq!(response.invalidation(), 2);
    });
}

/// Each core comes to the same answer by itself, whether it sees the other's mark or not.
#[test]
fn what_is_gone_is_gone_for_every_core_that_has_the_rule() {
    look(&[("/y", true), ("/x", false)], &[("/y", true), ("/x", false), ("/z", false)], |response, seen| {
        assert_eq!(seen, [None, None]);
        assert!(!response.is_live());
    });
    look(&[("/y", true)], &[("/y", true), ("/x", false)], |response, [_, other]| {
        assert!(other.is_none() && !response.is_live());
    });
}
