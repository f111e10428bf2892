//! Invalidation rules: a log of any bytes gives rules that are written in just these bytes; any text gives a rule that is read back, and a table
//! that says at least what its rules say one by one.
#![no_main]

use aspis_cache::invalidation::{Rule, RuleTable, Subject, Verdict, Wildcards, tags};
use aspis_cache::key::write_key;
use aspis_wire::Scheme;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut at = 0;
    while let Some((rule, len)) = Rule::decode(&bytes[at..]) {
        let mut written = Vec::new();
        rule.encode(&mut written);
        assert_eq!(written, &bytes[at..at + len]);
        at += len;
    }
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let (host, path) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let lines: Vec<&str> = lines.collect();
    let tagged = tags::of_fields(lines.iter().map(|line| (&b"cache-tag"[..], line.as_bytes())), None);
    let mut table = RuleTable::new();
    let mut rules = Vec::new();
    for (number, line) in (1..).zip(&lines) {
        let soft = line.len() % 2 == 0;
        let of = [None, Some(host)][line.len() / 2 % 2];
        let made = [
            Rule::path(line, of, soft, Wildcards::Anywhere),
            Rule::path(line, of, soft, Wildcards::Trailing),
            Rule::tag(line, of, soft),
        ];
        for rule in made.into_iter().flatten() {
            let mut written = Vec::new();
            rule.encode(&mut written);
            assert_eq!(Rule::decode(&written), Some((rule.clone(), written.len())));
            table.add(number, std::slice::from_ref(&rule));
            rules.push((number, rule));
        }
    }
    let mut key = Vec::new();
    write_key(Scheme::Http, host, path, &mut key);
    let subject = Subject { key: &key, tags: &tagged };
    for checked in 0..=table.latest() {
        let alone = rules.iter().filter(|(number, _)| *number > checked).map(|(_, rule)| {
            let mut one = RuleTable::new();
            one.add(1, std::slice::from_ref(rule));
            one.judge(&subject, 0)
        });
        assert!(table.judge(&subject, checked) >= alone.max().unwrap_or(Verdict::Untouched));
    }
});
