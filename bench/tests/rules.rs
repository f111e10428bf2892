//! What it costs to hold a stored response against the rules: nothing is allocated, and ten thousand pending rules cost one look per response.

use aspis_cache::invalidation::{PATTERN_COUNT_MAX, Rule, RuleTable, Subject, Verdict, Wildcards, tags};

mod counting;

fn table(count: u64) -> RuleTable {
    let mut table = RuleTable::new();
    for number in 1..=count {
        let path = |text: String| Rule::path(&text, None, false, Wildcards::Anywhere);
        let host = Some("www.example.com").filter(|_| number.is_multiple_of(2));
        let rule = match number % 8 {
            0 => Rule::tag(&format!("product:{number}"), host, false),
            1 => path(format!("/assets/{number}/*")),
            2 => path(format!("/maps*/{number}.map")),
            _ => path(format!("/assets/app-{number}.css")),
        };
        table.add(number, &[rule.expect("a rule")]);
    }
    table
}

#[test]
fn judging_allocates_nothing() {
    let table = table(10_000);
    assert!(table.len() > 8700 + PATTERN_COUNT_MAX);
    let tagged: Vec<u64> =
        (0..50).filter_map(|number| tags::hash(format!("tag-{number}").as_bytes())).collect();
    let keys = ["http\nwww.example.com\n/assets/app-7.js?v=3", "https\nother.example:8443\n/", "no key"];
    let before = counting::here();
    let verdicts = keys.map(|key| table.judge(&Subject { key: key.as_bytes(), tags: &tagged }, 0));
    assert_eq!(counting::here(), before);
    assert_eq!(verdicts, [Verdict::Untouched, Verdict::Untouched, Verdict::Gone]);
}
