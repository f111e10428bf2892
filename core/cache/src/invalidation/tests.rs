//! The table against its definition: a list of numbered rules, each of which is held against the subject by itself.

use super::*;
use crate::key::{PART_SUFFIX, write_key};
use aspis_wire::Scheme;
use proptest::prelude::*;

const HOST: &str = "a.example";

fn key_of(host: &str, path: &str) -> Vec<u8> {
    let mut key = Vec::new();
    write_key(Scheme::Http, host, path, &mut key);
    key
}

fn path(text: &str, wildcards: Wildcards) -> Rule {
    Rule::path(text, None, false, wildcards).unwrap()
}

fn table(rules: &[Rule]) -> RuleTable {
    let mut table = RuleTable::new();
    table.add(1, rules);
    table
}

fn verdict(table: &RuleTable, host: &str, path: &str, tags: &[u64]) -> Verdict {
    table.judge(&Subject { key: &key_of(host, path), tags }, 0)
}

/// The table of I-9, with I-8 (letter case), I-10 (queries) and I-13 (directories and index pages).
#[test]
fn paths_match_as_the_table_says() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "/images/a.jpg",
            &["/images/a.jpg"],
            &["/images/A.jpg", "/images/a.jpg?x=1", "/images/a.jp", "/a.jpg"],
        ),
        ("/images/*", &["/images/", "/images/x", "/images/p/q?y=1"], &["/images", "/imagesx", "/image/"]),
        ("/images*", &["/images", "/imagesx", "/images/x"], &["/image", "/Images"]),
        ("/logo.*", &["/logo.jpg", "/logo.png", "/logo."], &["/logo"]),
        ("/a.jpg*", &["/a.jpg", "/a.jpg?v=1", "/a.jpgx"], &["/a.jp", "/b/a.jpg"]),
        ("/a*b", &["/a*b"], &["/axb", "/ab", "/a*bc"]),
        ("/a**", &["/a*", "/a*b"], &["/a", "/ab"]),
        ("/*", &["/", "/x", "/x/y?z"], &[]),
        ("/i.jpg?color=red", &["/i.jpg?color=red"], &["/i.jpg", "/i.jpg?color=red&x"]),
        ("/index.html", &["/index.html"], &["/", "/index.html/"]),
        ("/dir", &["/dir"], &["/dir/"]),
        ("/dir/", &["/dir/"], &["/dir", "/dir/x"]),
        ("/%7Ea", &["/%7Ea"], &["/~a", "/%7ea"]),
    ];
    for (text, purged, left) in cases {
        let table = table(&[path(text, Wildcards::Trailing)]);
        for other in *purged {
            assert_eq!(verdict(&table, HOST, other, &[]), Verdict::Gone, "{text} concerns {other}");
        }
        for other in *left {
            assert_eq!(verdict(&table, HOST, other, &[]), Verdict::Untouched, "{text} leaves {other}");
        }
    }
}

#[test]
fn wildcards_may_stand_anywhere() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("/a*b", &["/ab", "/axb", "/a/b/b", "/a*b"], &["/a", "/abx", "/xab"]),
        ("/*.jpg", &["/.jpg", "/a.jpg", "/p/q.jpg"], &["/a.jpg?v", "/a.JPG", "/jpg"]),
        ("/*/img/*.png?*", &["/x/img/a.png?", "/x/y/img/img/a.png?v=1"], &["/img/a.png?v", "/x/img/a.png"]),
        ("/a*a", &["/aa", "/aba", "/aaa"], &["/a"]),
        ("/a*b*", &["/ab", "/axbx"], &["/a", "/ba"]),
        ("/a**", &["/a", "/ab"], &["/b"]),
        ("/a", &["/a"], &["/ab"]),
    ];
    for (text, purged, left) in cases {
        let table = table(&[path(text, Wildcards::Anywhere)]);
        for other in *purged {
            assert_eq!(verdict(&table, HOST, other, &[]), Verdict::Gone, "{text} concerns {other}");
        }
        for other in *left {
            assert_eq!(verdict(&table, HOST, other, &[]), Verdict::Untouched, "{text} leaves {other}");
        }
    }
}

/// I-8: without a host a rule holds for all; with one, for its own, whose default port is no other host.
#[test]
fn hosts_are_compared_as_keys_have_them() {
    let own = |host| Rule::path("/x", Some(host), false, Wildcards::Trailing).unwrap();
    for (rule, keyed, expected) in [
        (own("A.Example"), "a.example", true),
        (own("a.example:80"), "a.example", true),
        (own("a.example:443"), "a.example", true),
        (own("a.example"), "A.EXAMPLE:80", true),
        (own("a.example"), "a.example:443", true),
        (own("a.example"), "a.example:8080", false),
        (own("a.example:8080"), "a.example:8080", true),
        (own("a.example:8080"), "a.example", false),
        (own("[::1]:80"), "[::1]", true),
        (own("[::80]"), "[::80]", true),
        (own("b.example"), "a.example", false),
    ] {
        let verdict = verdict(&table(std::slice::from_ref(&rule)), keyed, "/x", &[]);
        assert_eq!(verdict == Verdict::Gone, expected, "{rule:?} {keyed}");
    }
    let mut secure = Vec::new();
    write_key(Scheme::Https, "a.example", "/x", &mut secure);
    let subject = Subject { key: &secure, tags: &[] };
    assert_eq!(table(&[own("a.example")]).judge(&subject, 0), Verdict::Gone, "both schemes");
}

/// I-11: variants and parts are of their URI.
#[test]
fn all_that_is_stored_under_a_uri_is_concerned() {
    let table = table(&[path("/x", Wildcards::Trailing)]);
    for suffix in [&b""[..], b"\naccept:a,", b"\nb\nc:x,", PART_SUFFIX] {
        let key = [&key_of(HOST, "/x"), suffix].concat();
        assert_eq!(table.judge(&Subject { key: &key, tags: &[] }, 0), Verdict::Gone, "{suffix:?}");
    }
    assert_eq!(verdict(&table, HOST, "/y", &[]), Verdict::Untouched);
    assert_eq!(table.judge(&Subject { key: b"no key", tags: &[] }, 0), Verdict::Gone, "in doubt it is gone");
}

/// I-18: letter case does not matter, one tag is enough, no wildcard.
#[test]
fn tags_concern_what_carries_them() {
    let tagged = |text: &str| tags::hash(text.as_bytes()).unwrap();
    let rules =
        [Rule::tag("Product:1", None, false).unwrap(), Rule::tag("s*", Some("b.example"), true).unwrap()];
    let table = table(&rules);
    assert_eq!(verdict(&table, HOST, "/", &[tagged("x"), tagged("PRODUCT:1")]), Verdict::Gone);
    assert_eq!(
        verdict(&table, HOST, "/", &[tagged("product:10"), tagged("s*"), tagged("sx")]),
        Verdict::Untouched
    );
    assert_eq!(verdict(&table, "b.example", "/", &[tagged("sx")]), Verdict::Untouched);
    assert_eq!(verdict(&table, "b.example", "/", &[tagged("S*")]), Verdict::Stale);
    assert!(table.may_concern_unknown_tags(0) && !table.may_concern_unknown_tags(1));
}

#[test]
fn what_cannot_match_is_refused() {
    let path = |text: &str| Rule::path(text, None, false, Wildcards::Anywhere).map(drop);
    let long = "/".repeat(PATH_LEN_MAX);
    for (text, expected) in [
        ("", Err(RuleError::NoSlash)),
        ("*", Err(RuleError::NoSlash)),
        ("x/", Err(RuleError::NoSlash)),
        ("http://a/x", Err(RuleError::NoSlash)),
        (&long, Ok(())),
        (&format!("{long}x"), Err(RuleError::PathTooLong)),
        ("/a b", Err(RuleError::PathByte)),
        ("/a\n", Err(RuleError::PathByte)),
        ("/a#b", Err(RuleError::PathByte)),
        ("/\u{fc}", Err(RuleError::PathByte)),
    ] {
        assert_eq!(path(text), expected, "{}", &text[..text.len().min(20)]);
    }
    for host in ["", "a/b", "a b", "a:", "a:0", "u@a", "*.a", "[::1"] {
        assert_eq!(Rule::all(Some(host), false), Err(RuleError::Host), "{host}");
    }
    let tag = |text: &str| Rule::tag(text, None, false).map(drop);
    let long = "t".repeat(tags::TAG_LEN_MAX);
    assert_eq!(tag(""), Err(RuleError::NoTag));
    assert_eq!((tag(&long), tag(&format!("{long}t"))), (Ok(()), Err(RuleError::TagTooLong)));
    assert_eq!((tag("a b"), tag("\u{fc}")), (Err(RuleError::TagByte), Err(RuleError::TagByte)));
}

#[test]
fn a_hard_rule_outranks_a_soft_one_and_only_newer_ones_count() {
    let rule = |soft| Rule::path("/x", None, soft, Wildcards::Trailing).unwrap();
    let mut table = RuleTable::new();
    table.add(3, &[rule(false)]);
    table.add(5, &[rule(true)]);
    let key = key_of(HOST, "/x");
    let judged = |checked| table.judge(&Subject { key: &key, tags: &[] }, checked);
    assert_eq!([2, 3, 4, 5, 6].map(judged), {
        use Verdict::{Gone, Stale, Untouched};
        [Gone, Stale, Stale, Untouched, Untouched]
    });
}

/// What comes from before the floor is gone, and what is newer is judged as before.
#[test]
fn forgotten_rules_are_made_up_for_by_the_floor() {
    let mut table = RuleTable::new();
    for (number, text) in [(1, "/a"), (2, "/b*"), (3, "/c*d"), (4, "/e")] {
        table.add(number, &[path(text, Wildcards::Anywhere)]);
    }
    table.forget_up_to(3);
    assert_eq!((table.floor(), table.latest(), table.len()), (3, 4, 1));
    let judged = |text, checked| table.judge(&Subject { key: &key_of(HOST, text), tags: &[] }, checked);
    assert_eq!(judged("/other", 2), Verdict::Gone);
    assert_eq!(
        (judged("/other", 3), judged("/b", 3), judged("/e", 3)),
        (Verdict::Untouched, Verdict::Untouched, Verdict::Gone)
    );
    assert!(table.may_concern_unknown_tags(2) && !table.may_concern_unknown_tags(3));
    // What was never added cannot be judged.
    table.forget_up_to(9);
    assert_eq!((table.floor(), table.latest(), table.is_empty()), (9, 9, true));
    table.add(8, &[path("/late", Wildcards::Anywhere)]);
    assert!(table.is_empty());
}

#[test]
fn the_oldest_of_too_many_patterns_folds_to_a_prefix() {
    let mut table = RuleTable::new();
    for number in 0..=PATTERN_COUNT_MAX as u64 {
        table.add(number + 1, &[path(&format!("/p{number}/*.x"), Wildcards::Anywhere)]);
    }
    assert_eq!(table.len(), PATTERN_COUNT_MAX + 1);
    assert_eq!(verdict(&table, HOST, "/p0/a.y", &[]), Verdict::Gone, "folded: too much");
    assert_eq!(verdict(&table, HOST, "/p1/a.y", &[]), Verdict::Untouched);
    assert_eq!(verdict(&table, HOST, "/p1/a.x", &[]), Verdict::Gone);
    assert_eq!(verdict(&table, HOST, "/q/a.x", &[]), Verdict::Untouched);
    // The same one again is not another one.
    table.add(1000, &[path("/p1/*.x", Wildcards::Anywhere)]);
    assert_eq!((table.len(), table.patterns_len()), (PATTERN_COUNT_MAX + 1, PATTERN_COUNT_MAX));
}

#[test]
fn above_the_most_rules_the_older_half_folds() {
    let mut table = RuleTable::new();
    let count = RULE_COUNT_MAX as u64 + 1;
    for number in 1..=count {
        table.add(number, &[path(&format!("/{number}"), Wildcards::Trailing)]);
    }
    assert_eq!(table.latest(), count);
    assert!(table.len() <= RULE_COUNT_MAX / 2 + 1 && table.floor() >= count / 2, "{}", table.floor());
    let judged = |text: &str, checked| table.judge(&Subject { key: &key_of(HOST, text), tags: &[] }, checked);
    assert_eq!(judged("/other", 0), Verdict::Gone);
    assert_eq!(judged("/other", table.floor()), Verdict::Untouched);
    assert_eq!(judged(&format!("/{count}"), count - 1), Verdict::Gone);

    let batch: Vec<Rule> =
        (0..count + 10).map(|number| path(&format!("/b{number}"), Wildcards::Trailing)).collect();
    let mut whole = RuleTable::new();
    whole.add(7, &batch);
    assert_eq!(
        (whole.floor(), whole.latest(), whole.len()),
        (7, 7, 0),
        "one batch of too many is everything"
    );
}

#[test]
fn memory_is_given_back_after_a_burst() {
    let mut table = RuleTable::new();
    let batch: Vec<Rule> =
        (0..50_000).map(|number| path(&format!("/{number}*"), Wildcards::Trailing)).collect();
    table.add(1, &batch);
    let full = table.heap_len();
    assert!(full > 50_000 * 24 && full < 50_000 * 100, "{full}");
    table.forget_up_to(1);
    assert!(table.heap_len() < 64 * 1024, "{}", table.heap_len());
}

/// The definition: every rule by itself.
fn concerns(rule: &Rule, host: &str, path: &str, tags: &[u64]) -> bool {
    fn fits(pattern: &[u8], path: &[u8]) -> bool {
        match (pattern, path) {
            ([b'*', rest @ ..], _) => (0..=path.len()).any(|at| fits(rest, &path[at..])),
            ([a, pattern @ ..], [b, path @ ..]) => a == b && fits(pattern, path),
            (pattern, path) => pattern.is_empty() && path.is_empty(),
        }
    }
    rule.host.as_ref().is_none_or(|own| **own == *host)
        && match &rule.what {
            What::Exact(text) => **text == *path,
            What::Prefix(text) => path.starts_with(&**text),
            What::Pattern(text) => fits(text.as_bytes(), path.as_bytes()),
            What::Tag(tag) => tags.contains(tag),
            What::All => true,
        }
}

fn any_host() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(vec![None, None, Some("a"), Some("b"), Some("c:81")])
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let what = prop_oneof![
        6 => "/[ab/]{0,4}".prop_map(Ok),
        4 => "/[ab/]{0,3}\\*".prop_map(Ok),
        4 => "/[ab*]{0,5}".prop_map(Ok),
        4 => "[s-v]".prop_map(Err),
        1 => Just(Err(String::new())),
    ];
    (what, any_host(), any::<bool>(), any::<bool>()).prop_map(|(what, host, soft, anywhere)| {
        let wildcards = if anywhere { Wildcards::Anywhere } else { Wildcards::Trailing };
        match what {
            Ok(text) => Rule::path(&text, host, soft, wildcards),
            Err(tag) if tag.is_empty() => Rule::all(host, soft),
            Err(tag) => Rule::tag(&tag, host, soft),
        }
        .unwrap()
    })
}

proptest! {
    /// The table says what the definition says, for every number that a response may carry.
    #[test]
    fn the_table_is_the_list_of_its_rules(
        batches in prop::collection::vec(prop::collection::vec(any_rule(), 0..4), 0..8),
        forgotten in 0_u64..6,
        host in prop::sample::select(vec!["a", "b", "c:81", "d"]),
        path in "/[ab/*]{0,5}",
        tagged in prop::collection::vec("[s-v]", 0..3),
    ) {
        let tags: Vec<u64> = tagged.iter().map(|tag| tags::hash(tag.as_bytes()).unwrap()).collect();
        let mut table = RuleTable::new();
        for (at, batch) in batches.iter().enumerate() {
            table.add(at as u64 + 1, batch);
        }
        table.forget_up_to(forgotten.min(batches.len() as u64));
        let key = key_of(host, &path);
        for checked in 0..=batches.len() as u64 {
            let newer = batches.iter().enumerate().filter(|(at, _)| *at as u64 + 1 > checked);
            let verdicts = newer.flat_map(|(_, batch)| batch).filter(|rule| concerns(rule, host, &path, &tags));
            let listed = verdicts.map(|rule| if rule.soft { Verdict::Stale } else { Verdict::Gone }).max();
            let expected = if checked < table.floor() { Verdict::Gone } else { listed.unwrap_or(Verdict::Untouched) };
            prop_assert_eq!(table.judge(&Subject { key: &key, tags: &tags }, checked), expected, "from {}", checked);
        }
    }

    /// Whatever folds, nothing that a rule names is left.
    #[test]
    fn folding_never_leaves_what_was_named(
        texts in prop::collection::vec("/[a-h]{1,3}\\*[a-h]{1,3}", 250..320), path in "/[a-h]{1,6}", checked in 0_u64..320
    ) {
        let mut table = RuleTable::new();
        for (at, text) in texts.iter().enumerate() {
            table.add(at as u64 + 1, &[Rule::path(text, None, at % 2 == 0, Wildcards::Anywhere).unwrap()]);
        }
        let newer = texts.iter().enumerate().filter(|(at, _)| *at as u64 + 1 > checked);
        let rules = newer.map(|(at, text)| Rule::path(text, None, at % 2 == 0, Wildcards::Anywhere).unwrap());
        let listed = rules.filter(|rule| concerns(rule, "a", &path, &[]));
        let least = listed.map(|rule| if rule.soft { Verdict::Stale } else { Verdict::Gone }).max();
        let judged = table.judge(&Subject { key: &key_of("a", &path), tags: &[] }, checked);
        prop_assert!(judged >= least.unwrap_or(Verdict::Untouched), "{:?}", judged);
    }

    #[test]
    fn a_pattern_fits_as_its_definition_says(pattern in "/[ab*]{0,8}", path in "/[ab]{0,10}") {
        let rule = Rule { host: None, what: What::Pattern(pattern.as_str().into()), soft: false };
        prop_assert_eq!(pattern::matches(&pattern, &path), concerns(&rule, "a", &path, &[]));
    }

    /// What is written is read back, with whatever follows it; and what is cut off is not.
    #[test]
    fn rules_are_read_as_they_were_written(rules in prop::collection::vec(any_rule(), 1..5), cut in 1_usize..8) {
        let mut bytes = Vec::new();
        rules.iter().for_each(|rule| rule.encode(&mut bytes));
        let (mut at, mut read) = (0, Vec::new());
        while let Some((rule, len)) = Rule::decode(&bytes[at..]) {
            at += len;
            read.push(rule);
        }
        prop_assert_eq!((&read, at), (&rules, bytes.len()));
        let mut last = Vec::new();
        rules[0].encode(&mut last);
        prop_assert!(Rule::decode(&last[..last.len() - cut.min(last.len())]).is_none());
    }

    /// Bytes of any other origin give no rule, or one that is written in just these bytes.
    #[test]
    fn other_bytes_give_a_rule_of_the_same_bytes_or_none(
        first in prop_oneof![any::<u8>(), 0_u8..5, 0x40_u8..0x45], rest in prop::collection::vec(prop_oneof![0_u8..6, any::<u8>(), Just(b'/'), Just(b'*')], 0..20)
    ) {
        let bytes = [&[first][..], &rest].concat();
        if let Some((rule, len)) = Rule::decode(&bytes) {
            let mut written = Vec::new();
            rule.encode(&mut written);
            prop_assert_eq!(&written[..], &bytes[..len]);
        }
    }
}
