use super::*;
use serde_json::{Value, json};

/// A report of tests given as id, kind, what they depend on, and the result.
fn report(tests: &[(&str, &str, &[&str], Value)]) -> Report {
    let listed: Vec<Value> = (tests.iter())
        .map(|(id, kind, needs, _)| json!({"id": id, "name": "", "kind": kind, "depends_on": needs}))
        .collect();
    let results: serde_json::Map<String, Value> =
        tests.iter().map(|(id, _, _, result)| ((*id).to_owned(), result.clone())).collect();
    Report::read(&json!({"tests": listed, "results": results}).to_string()).unwrap()
}

fn failed() -> Value {
    json!(["Assertion", "Response 2 comes from cache"])
}

fn without(ids: &[&str]) -> LeftOut {
    LeftOut { ids: ids.iter().map(|id| (*id).to_owned()).collect(), groups: vec![("some".into(), ids.len())] }
}

fn tally(passed: usize, total: usize) -> Tally {
    Tally { passed, total }
}

#[test]
fn a_test_counts_only_if_all_that_it_depends_on_passes() {
    let report = report(&[
        ("base", "check", &[], failed()),
        ("middle", "optimal", &["base"], json!(true)),
        ("top", "required", &["middle"], json!(true)),
        ("alone", "required", &[], json!(true)),
    ]);
    let score = Score::of(&report, &LeftOut::nothing()).unwrap();
    assert_eq!((score.required, score.optimal, score.check), (tally(1, 2), tally(0, 1), tally(0, 1)));
    let text = score.to_string();
    assert!(text.contains("required top: passes, but depends on middle, which does not"), "{text}");
    assert!(text.contains("check base: Assertion: Response 2 comes from cache"), "{text}");
    assert!(text.find("required top") < text.find("optimal middle"), "{text}");
}

#[test]
fn what_is_left_out_counts_in_the_whole_list_only() {
    let report = report(&[
        ("kept", "required", &[], json!(true)),
        ("wrong", "required", &[], failed()),
        ("lucky", "optimal", &[], json!(true)),
    ]);
    let score = Score::of(&report, &without(&["wrong", "lucky"])).unwrap();
    assert_eq!((score.required, score.whole_required), (tally(1, 1), tally(1, 2)));
    assert_eq!((score.optimal, score.whole_optimal), (tally(0, 0), tally(1, 1)));
    let text = score.to_string();
    assert!(!text.contains("wrong"), "what is left out is no failure: {text}");
    assert!(text.contains("left out: 2 some"), "{text}");
}

#[test]
fn a_failed_setup_is_a_failure() {
    let report = report(&[("a", "required", &[], json!(["Setup", "retry"]))]);
    let score = Score::of(&report, &LeftOut::nothing()).unwrap();
    assert_eq!(score.required, tally(0, 1));
    assert_eq!(report.explanation("a").unwrap().as_deref(), Some("Setup: retry"));
    assert!(report.explanation("b").is_err());
}

#[test]
fn a_missing_or_strange_result_is_no_score() {
    let test = json!({"id": "a", "name": "", "kind": "required", "depends_on": []});
    let missing = Report::read(&json!({"tests": [test], "results": {}}).to_string()).unwrap();
    assert!(Score::of(&missing, &LeftOut::nothing()).is_err());
    assert!(Report::read(&json!({"tests": [test], "results": {"b": true}}).to_string()).is_err());
    assert!(Report::read(&json!({"tests": [test, test], "results": {"a": true}}).to_string()).is_err());
    assert!(Report::read("{").is_err());
}

#[test]
fn dependencies_that_cannot_be_judged_are_errors() {
    let circle = report(&[("a", "check", &["b"], json!(true)), ("b", "check", &["a"], json!(true))]);
    assert!(Score::of(&circle, &LeftOut::nothing()).is_err());
    let unknown = report(&[("a", "check", &["b"], json!(true))]);
    assert!(Score::of(&unknown, &LeftOut::nothing()).is_err());
}

#[test]
fn a_part_of_the_suite_is_not_the_suite() {
    let part = report(&[("a", "required", &[], json!(true))]);
    assert!(Score::of(&part, &LeftOut::nothing()).unwrap().check_totals().is_err());
    assert!(Score::of(&part, &without(&["gone"])).is_err());
}

#[test]
fn the_checked_in_list_has_its_41_ids_in_six_groups() {
    let left_out = LeftOut::read(include_str!("../../../conformance/left-out.json")).unwrap();
    let mut groups = left_out.groups;
    groups.sort_by_key(|(_, count)| *count);
    let counts: Vec<usize> = groups.iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [1, 2, 4, 4, 9, 21]);
}

#[test]
fn a_list_of_another_length_or_without_reasons_is_refused() {
    let group = |why: &str, ids: Vec<String>| json!({"group": {"why": why, "ids": ids}}).to_string();
    let ids = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
    assert!(LeftOut::read(&group("so", ids(41))).is_ok());
    assert!(LeftOut::read(&group("so", ids(40))).is_err());
    assert!(LeftOut::read(&group("", ids(41))).is_err());
    assert!(LeftOut::read(&group("so", [ids(40), ids(1)].concat())).is_err());
}
