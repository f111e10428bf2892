//! What one request asks to be invalidated: read from JSON, checked as a whole, and turned into rules.
//!
//! Fed by the admin API with the bytes of a body, read by the registry. Invariant: a [`Batch`] exists only if every item of it is sound, so
//! that nothing of a bad one is ever applied.

use std::time::Duration;

use aspis_cache::invalidation::{Rule, RuleError, What, Wildcards};
use serde::Deserialize;
use serde_json::Value;

use super::limits::{ITEM_COUNT_MAX, REFERENCE_LEN_MAX, RULE_COUNT_MAX, WAIT_MAX};
use crate::admin::Problem;

/// A request that may be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// What was asked for, as it was written.
    pub(crate) items: Vec<Item>,
    /// The same as rules.
    pub(crate) rules: Vec<Rule>,
    /// What is stored becomes stale instead of gone.
    pub(crate) soft: bool,
    /// The caller's name for this request (I-5).
    pub(crate) reference: Option<Box<str>>,
}

/// One thing that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Item {
    /// What it is.
    pub(crate) kind: ItemKind,
    /// How it was written; empty for everything.
    pub(crate) text: Box<str>,
}

/// The kinds of items; the numbers are those of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ItemKind {
    /// A path, with or without wildcards.
    Path = 0,
    /// A tag.
    Tag = 1,
    /// A host to which paths and tags are limited.
    Host = 2,
    /// Everything.
    All = 3,
    /// A tag of which only the hash is known, since a viewer's PURGE named it.
    TagHash = 4,
}

impl ItemKind {
    /// Returns the kind of that number.
    pub(crate) fn of(number: u8) -> Option<Self> {
        [Self::Path, Self::Tag, Self::Host, Self::All, Self::TagHash]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// A batch, and how long its sender waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// The batch.
    pub(crate) batch: Batch,
    /// How long the answer may wait for completion; zero does not wait.
    pub(crate) wait: Duration,
}

/// The document. Items are judged one by one, so that a refusal names the one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    paths: Option<Vec<Value>>,
    tags: Option<Vec<Value>>,
    hosts: Option<Vec<Value>>,
    all: Option<Value>,
    soft: Option<Value>,
    caller_reference: Option<Value>,
    wait: Option<Value>,
}

/// Reads the body of `POST /v1/invalidations`.
pub(crate) fn parse(body: &[u8], wildcards: Wildcards) -> Result<Parsed, Problem> {
    if body.trim_ascii().is_empty() {
        return Err(Problem::bad(
            "body",
            "the body is empty: send JSON such as {\"paths\":[\"/index.html\"]}",
        ));
    }
    let document: Document = serde_json::from_slice(body).map_err(|error| refused(&error))?;
    let soft = flag(document.soft.as_ref(), "/soft")?;
    let all = flag(document.all.as_ref(), "/all")?;
    let paths = texts(document.paths, "/paths")?;
    let tags = texts(document.tags, "/tags")?;
    let hosts = texts(document.hosts, "/hosts")?;
    let wait = match &document.wait {
        Some(value) => wait(value).ok_or_else(|| {
            Problem::bad("wait", format!("expected true, false, or seconds from 0 to {}", WAIT_MAX.as_secs()))
                .at("/wait".to_owned(), Some(value.to_string()))
        })?,
        None => Duration::ZERO,
    };
    let reference = reference(document.caller_reference)?;
    let count = paths.len() + tags.len() + hosts.len();
    if count > ITEM_COUNT_MAX {
        return Err(too_many(format!("{count} items are more than {ITEM_COUNT_MAX}: send several requests")));
    }
    if all && !(paths.is_empty() && tags.is_empty()) {
        return Err(Problem::bad("all", "all stands alone or with hosts: leave paths and tags out")
            .at("/all".to_owned(), Some("true".to_owned())));
    }
    if count == 0 && !all {
        return Err(Problem::bad("empty", "name at least one of paths, tags and hosts, or set all to true"));
    }
    let is_whole_host = paths.is_empty() && tags.is_empty();
    let rule_count = (paths.len() + tags.len() + usize::from(is_whole_host)) * hosts.len().max(1);
    if rule_count > RULE_COUNT_MAX {
        return Err(too_many(format!(
            "paths and tags, each on each host, are {rule_count} rules, more than {RULE_COUNT_MAX}: send several requests"
        )));
    }
    let rules = rules(&paths, &tags, &hosts, soft, wildcards)?;
    let mut items = Vec::with_capacity(count + usize::from(all));
    items.extend(all.then(|| Item { kind: ItemKind::All, text: "".into() }));
    for (kind, texts) in [(ItemKind::Path, paths), (ItemKind::Tag, tags), (ItemKind::Host, hosts)] {
        items.extend(texts.into_iter().map(|text| Item { kind, text: text.into() }));
    }
    Ok(Parsed { batch: Batch { items, rules, soft, reference }, wait })
}

/// Makes the rules of a batch: each path and tag on each host, or whole hosts, or everything (I-8, I-9, I-18).
fn rules(
    paths: &[String],
    tags: &[String],
    hosts: &[String],
    soft: bool,
    wildcards: Wildcards,
) -> Result<Vec<Rule>, Problem> {
    let mut rules = Vec::new();
    // Hosts are judged by themselves first, so that a bad one is not blamed on a path.
    for (at, host) in hosts.iter().enumerate() {
        let whole =
            Rule::all(Some(host), soft).map_err(|error| bad_item("host", "/hosts", at, host, error))?;
        if paths.is_empty() && tags.is_empty() {
            rules.push(whole);
        }
    }
    let each_host: Vec<Option<&str>> =
        if hosts.is_empty() { vec![None] } else { hosts.iter().map(|host| Some(host.as_str())).collect() };
    for host in each_host {
        for (at, text) in paths.iter().enumerate() {
            // An item `#tag` among the paths is a tag (I-18).
            let rule = match text.strip_prefix('#') {
                Some(tag) => Rule::tag(tag, host, soft),
                None => Rule::path(text, host, soft, wildcards),
            };
            rules.push(rule.map_err(|error| bad_item("path", "/paths", at, text, error))?);
        }
        for (at, text) in tags.iter().enumerate() {
            let rule = Rule::tag(text, host, soft);
            rules.push(rule.map_err(|error| bad_item("tag", "/tags", at, text, error))?);
        }
    }
    if rules.is_empty() {
        rules.push(Rule::all(None, soft).map_err(|error| Problem::bad("all", error.to_string()))?);
    }
    Ok(rules)
}

impl Batch {
    /// The items as they were written.
    pub(crate) fn written(&self) -> Vec<(ItemKind, &str)> {
        self.items.iter().map(|item| (item.kind, &*item.text)).collect()
    }

    /// Makes a batch of rules that a core made of a viewer's PURGE.
    pub(crate) fn of_rules(rules: Vec<Rule>) -> Self {
        let mut items: Vec<Item> = Vec::new();
        for rule in &rules {
            let host = rule.host.as_ref().map(|host| Item { kind: ItemKind::Host, text: host.clone() });
            items.extend(host.filter(|host| !items.contains(host)));
            let item = match &rule.what {
                What::Exact(text) | What::Pattern(text) => Item { kind: ItemKind::Path, text: text.clone() },
                What::Prefix(text) => Item { kind: ItemKind::Path, text: format!("{text}*").into() },
                What::Tag(hash) => Item { kind: ItemKind::TagHash, text: format!("{hash:016x}").into() },
                What::All => Item { kind: ItemKind::All, text: "".into() },
            };
            items.push(item);
        }
        let soft = rules.iter().all(|rule| rule.soft);
        Batch { items, rules, soft, reference: None }
    }
}

/// Tells whether two requests ask for the same, in whatever order (I-5).
pub(crate) fn is_same_set(one: &[(ItemKind, &str)], other: &[(ItemKind, &str)]) -> bool {
    fn sorted<'i>(items: &[(ItemKind, &'i str)]) -> Vec<(ItemKind, &'i str)> {
        let mut items = items.to_vec();
        items.sort_unstable();
        items.dedup();
        items
    }
    sorted(one) == sorted(other)
}

fn refused(error: &serde_json::Error) -> Problem {
    let name = if error.is_data() { "document" } else { "json" };
    Problem::bad(name, format!("the body is not what is expected: {error}"))
}

fn too_many(detail: String) -> Problem {
    Problem::new(400, "too-many-items", detail)
}

/// The longest part of an item that an answer repeats.
const SHOWN_LEN_MAX: usize = 200;

fn bad_item(kind: &'static str, list: &str, at: usize, text: &str, error: RuleError) -> Problem {
    let shown: String = text.chars().take(SHOWN_LEN_MAX).collect();
    let item = if shown.len() < text.len() { format!("{shown}...") } else { shown };
    Problem::bad(kind, format!("{error}: nothing of this request was applied"))
        .at(format!("{list}/{at}"), Some(item))
}

fn texts(list: Option<Vec<Value>>, pointer: &str) -> Result<Vec<String>, Problem> {
    let list = list.unwrap_or_default().into_iter().enumerate();
    list.map(|(at, value)| match value {
        Value::String(text) => Ok(text),
        other => {
            Err(Problem::bad("type", "expected a string")
                .at(format!("{pointer}/{at}"), Some(shorten(&other))))
        }
    })
    .collect()
}

fn flag(value: Option<&Value>, pointer: &str) -> Result<bool, Problem> {
    match value {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => {
            Err(Problem::bad("type", "expected true or false").at(pointer.to_owned(), Some(shorten(other))))
        }
    }
}

fn reference(value: Option<Value>) -> Result<Option<Box<str>>, Problem> {
    let pointer = || "/caller_reference".to_owned();
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if (1..=REFERENCE_LEN_MAX).contains(&text.len()) => Ok(Some(text.into())),
        Some(other) => Err(Problem::bad(
            "caller-reference",
            format!("expected a text of 1 to {REFERENCE_LEN_MAX} bytes"),
        )
        .at(pointer(), Some(shorten(&other)))),
    }
}

fn shorten(value: &Value) -> String {
    value.to_string().chars().take(SHOWN_LEN_MAX).collect()
}

/// Reads how long to wait: `true` is as long as it may be.
fn wait(value: &Value) -> Option<Duration> {
    match value {
        Value::Bool(true) => Some(WAIT_MAX),
        Value::Bool(false) => Some(Duration::ZERO),
        Value::Number(number) => {
            let seconds = number.as_f64()?;
            (0.0..=WAIT_MAX.as_secs_f64()).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Parsed, Problem> {
        parse(body.as_bytes(), Wildcards::Trailing)
    }

    fn rules_of(body: &str) -> Vec<Rule> {
        read(body).unwrap_or_else(|problem| panic!("{body}: {problem:?}")).batch.rules
    }

    fn rule(host: Option<&str>, what: What) -> Rule {
        Rule { host: host.map(Into::into), what, soft: false }
    }

    /// I-8, I-9, I-18.
    #[test]
    fn items_become_rules() {
        let exact = |text: &str| What::Exact(text.into());
        assert_eq!(rules_of(r#"{"paths":["/a?x=1"]}"#), [rule(None, exact("/a?x=1"))]);
        assert_eq!(
            rules_of(r#"{"paths":["/a*b","/i/*"]}"#),
            [rule(None, exact("/a*b")), rule(None, What::Prefix("/i/".into()))]
        );
        assert_eq!(rules_of(r#"{"all":true}"#), [rule(None, What::All)]);
        assert_eq!(rules_of(r#"{"hosts":["A.example:80"]}"#), [rule(Some("a.example"), What::All)]);
        assert_eq!(rules_of(r#"{"all":true,"hosts":["a"]}"#), [rule(Some("a"), What::All)]);
        assert_eq!(
            rules_of(r#"{"paths":["/x"],"hosts":["a","b:81"]}"#),
            [rule(Some("a"), exact("/x")), rule(Some("b:81"), exact("/x"))]
        );
        let [tag] = &rules_of(r##"{"paths":["#News"]}"##)[..] else { panic!("one rule") };
        assert_eq!(std::slice::from_ref(tag), rules_of(r#"{"tags":["news"]}"#));
        let anywhere = parse(br#"{"paths":["/a*b"]}"#, Wildcards::Anywhere).expect("sound").batch.rules;
        assert_eq!(anywhere, [rule(None, What::Pattern("/a*b".into()))]);
    }

    #[test]
    fn the_rest_of_the_document_is_read() {
        let parsed =
            read(r#"{"paths":["/a"],"soft":true,"caller_reference":"r1","wait":2.5}"#).expect("sound");
        assert!(parsed.batch.soft && parsed.batch.rules[0].soft);
        assert_eq!(
            (parsed.batch.reference.as_deref(), parsed.wait),
            (Some("r1"), Duration::from_millis(2500))
        );
        assert_eq!(read(r#"{"all":true,"wait":true}"#).expect("sound").wait, WAIT_MAX);
        assert_eq!(read(r#"{"all":true}"#).expect("sound").wait, Duration::ZERO);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let long = format!("/{}", "x".repeat(4000));
        for (body, name, pointer, part) in [
            (String::new(), "body", None, "empty"),
            ("{".to_owned(), "json", None, "EOF"),
            ("[]".to_owned(), "document", None, "expected"),
            ("{}".to_owned(), "empty", None, "paths, tags"),
            (r#"{"paths":[]}"#.to_owned(), "empty", None, "at least one"),
            (r#"{"path":["/a"]}"#.to_owned(), "document", None, "unknown field `path`"),
            (r#"{"paths":["/a"],"paths":["/b"]}"#.to_owned(), "document", None, "duplicate field `paths`"),
            (r#"{"paths":"/a"}"#.to_owned(), "document", None, "expected a sequence"),
            (r#"{"paths":["/a","b"]}"#.to_owned(), "path", Some("/paths/1"), "begins with '/'"),
            (format!(r#"{{"paths":["{long}"]}}"#), "path", Some("/paths/0"), "4000"),
            (r#"{"paths":["/a",7]}"#.to_owned(), "type", Some("/paths/1"), "string"),
            (r#"{"paths":["/\u00e4"]}"#.to_owned(), "path", Some("/paths/0"), "percent-encoded"),
            (r#"{"tags":[""]}"#.to_owned(), "tag", Some("/tags/0"), "at least one"),
            (r##"{"paths":["#"]}"##.to_owned(), "path", Some("/paths/0"), "at least one"),
            (r#"{"hosts":["a/b"]}"#.to_owned(), "host", Some("/hosts/0"), "host"),
            (r#"{"paths":["/a"],"hosts":["ok","not ok"]}"#.to_owned(), "host", Some("/hosts/1"), "host"),
            (r#"{"all":true,"paths":["/a"]}"#.to_owned(), "all", Some("/all"), "alone"),
            (r#"{"all":1}"#.to_owned(), "type", Some("/all"), "true or false"),
            (r#"{"all":true,"wait":61}"#.to_owned(), "wait", Some("/wait"), "60"),
            (r#"{"all":true,"wait":-1}"#.to_owned(), "wait", Some("/wait"), "60"),
            (
                r#"{"all":true,"caller_reference":""}"#.to_owned(),
                "caller-reference",
                Some("/caller_reference"),
                "256",
            ),
        ] {
            let problem = read(&body).expect_err(&body);
            assert_eq!((problem.name, problem.pointer.as_deref()), (name, pointer), "{body}: {problem:?}");
            assert!(problem.detail.contains(part), "{body}: {problem:?}");
            assert_eq!(problem.status, 400);
            assert!(problem.item.as_ref().is_none_or(|item| item.len() <= SHOWN_LEN_MAX + 3), "{problem:?}");
        }
    }

    /// I-7: the bound is reached, and one more is refused.
    #[test]
    fn items_and_rules_are_counted() {
        let list = |count: usize, prefix: &str| {
            let quoted: Vec<String> = (0..count).map(|at| format!("\"{prefix}{at}\"")).collect();
            quoted.join(",")
        };
        assert_eq!(
            rules_of(&format!(r#"{{"paths":[{}]}}"#, list(ITEM_COUNT_MAX, "/"))).len(),
            ITEM_COUNT_MAX
        );
        let problem =
            read(&format!(r#"{{"paths":[{}]}}"#, list(ITEM_COUNT_MAX + 1, "/"))).expect_err("too many");
        assert_eq!(problem.name, "too-many-items");
        let body = format!(r#"{{"paths":[{}],"hosts":[{}]}}"#, list(1000, "/"), list(4, "h"));
        assert!(read(&body).expect_err("too many rules").detail.contains("4000 rules"));
    }

    #[test]
    fn sets_are_compared_without_order_and_repetition() {
        let is_same = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|body| read(body).expect("sound").batch);
            is_same_set(&one.written(), &other.written())
        };
        assert!(is_same(r#"{"paths":["/a","/b"]}"#, r#"{"paths":["/b","/a","/a"]}"#));
        assert!(!is_same(r#"{"paths":["/a"]}"#, r#"{"paths":["/a"],"hosts":["h"]}"#));
        assert!(!is_same(r#"{"all":true}"#, r#"{"hosts":["h"]}"#));
    }

    #[test]
    fn rules_of_a_purge_are_described() {
        let rules = vec![
            rule(Some("a"), What::Exact("/x".into())),
            rule(Some("a"), What::Prefix("/y".into())),
            rule(Some("a"), What::Tag(255)),
        ];
        let batch = Batch::of_rules(rules);
        let texts: Vec<(ItemKind, &str)> = batch.items.iter().map(|item| (item.kind, &*item.text)).collect();
        assert_eq!(
            texts,
            [
                (ItemKind::Host, "a"),
                (ItemKind::Path, "/x"),
                (ItemKind::Path, "/y*"),
                (ItemKind::TagHash, "00000000000000ff")
            ]
        );
    }
}
