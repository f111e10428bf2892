//! Random lists of requests, changes at the origin and jumps of time, run against the machine and a reference model of RFC 9111.
//!
//! `reuse_model/driver.rs` runs the product's decisions over a simulated origin; `reuse_model/reference.rs` says what they may be. The
//! product may be more careful than the model only where [`World::learn`] excuses it. A failure prints the shortest list that
//! shows it, and the seed for `PROPTEST_RNG_SEED`; an eighth of the lists is what `PROPTEST_CASES` sets.
#![allow(clippy::unwrap_used, reason = "helpers of tests; a panic names the line that is wrong")]

#[path = "reuse_model/directives.rs"]
mod directives;
#[path = "reuse_model/driver.rs"]
mod driver;
#[path = "reuse_model/entry.rs"]
mod entry;
#[path = "reuse_model/operations.rs"]
mod operations;
#[path = "reuse_model/origin.rs"]
mod origin;
#[path = "reuse_model/reference.rs"]
mod reference;
#[path = "reuse_model/selection.rs"]
mod selection;
#[path = "reuse_model/text.rs"]
mod text;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use aspis_config::{Behavior, Raw, check};
use proptest::collection::vec;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use driver::{Driver, Fetch, Served};
use entry::{Answer, Entry, Rules};
use operations::{Ask, Condition, Op, Validator, op};
use origin::{Framing, content, variant};
use reference::{Expect, Model};
use selection::{Selected, content_range, parts};
use text::{Fields, Request, format_date};

const START: i64 = 1_700_000_000;
const HOSTS: [&str; 2] = ["one.example", "two.example"];
const PATHS: [&str; 3] = ["/a", "/b", "/a?b"];

/// Settings of the operator's and what they mean to the model.
const SETTINGS: [(&[(&str, &str)], Rules); 4] = [
    (&[], Rules { max_ttl: 365 * 86_400, default_ttl: None, request_directives: false }),
    (
        &[("request-directives", "on")],
        Rules { max_ttl: 365 * 86_400, default_ttl: None, request_directives: true },
    ),
    (&[("max-ttl", "40s")], Rules { max_ttl: 40, default_ttl: None, request_directives: false }),
    (
        &[("default-ttl", "25s")],
        Rules { max_ttl: 365 * 86_400, default_ttl: Some(25), request_directives: false },
    ),
];

/// The product and the model, side by side.
struct World<'w> {
    driver: Driver,
    model: Model,
    /// How often what was shown, over all lists: a model that nothing reaches proves nothing.
    seen: &'w RefCell<BTreeMap<&'static str, u64>>,
}

impl World<'_> {
    fn run(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Ask(ask) => self.ask(ask),
                Op::Change(host, path, change) => {
                    let uri = format!("{}{}", HOSTS[*host], PATHS[*path]);
                    self.driver.origin.change(&uri, *change, self.driver.now);
                }
                Op::Wait(seconds) => self.driver.now += seconds,
            }
        }
    }

    fn count(&self, what: &'static str) {
        *self.seen.borrow_mut().entry(what).or_default() += 1;
    }

    fn ask(&mut self, ask: &Ask) {
        let request = self.request(ask);
        let mut text = format!("{} {} HTTP/1.1\r\n", ask.method, PATHS[ask.path]);
        for (name, value) in &request.fields.0 {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        let now = self.driver.now;
        let expect = self.model.expect(&request, now);
        let served = self.driver.serve(text.as_bytes());
        let expect = self.anchored(&request, expect, &served, now);
        let (back, front): (Vec<Fetch>, Vec<Fetch>) =
            served.fetches.iter().cloned().partition(|fetch| fetch.is_background);
        // A refresh is the cache's own request: what the viewer wants stored or not is not its concern.
        let mut refreshed = request.clone();
        refreshed.fields.0.retain(|(name, _)| name != "Cache-Control");
        let asking = if front.is_empty() { &refreshed } else { &request };
        self.check_asking(asking, expect, &front, &back);
        let source = self.source(&request, expect, &front, &served);
        let validated = expect.entry();
        front.iter().for_each(|fetch| self.learn(&request, fetch, validated));
        let served_at = front.last().map_or(now, |fetch| fetch.received_at);
        match source {
            Source::Stored(at) => self.check_stored(&request, &self.model.entries[at], &served, served_at),
            Source::Origin => self.check_passed(&request, front.last().unwrap(), &served),
            Source::Own => {
                assert!(served.is_refusal && served.stored.is_none() && served.status >= 500, "{served:?}")
            }
        }
        if request.method == "HEAD" {
            self.count("head");
            assert!(served.body.is_empty(), "HEAD brings no body");
        }
        back.iter().for_each(|fetch| self.learn(&refreshed, fetch, validated));
    }

    /// The request as it goes over the wire.
    fn request(&mut self, ask: &Ask) -> Request {
        let uri = format!("{}{}", HOSTS[ask.host], PATHS[ask.path]);
        let mut fields = Fields::default();
        fields.add("Host", HOSTS[ask.host]);
        let cache_control = if matches!(ask.method, "GET" | "HEAD") { ask.directive } else { "" };
        for (name, value) in [
            ("Accept-Language", ask.language),
            ("Accept-Encoding", ask.encoding),
            ("Range", ask.range),
            ("Cache-Control", cache_control),
        ] {
            if !value.is_empty() {
                fields.add(name, value);
            }
        }
        let now = self.driver.now;
        let current = self.driver.origin.etag(&uri, &fields, now).unwrap_or_else(|| "\"none\"".into());
        let tag = |validator| match validator {
            Validator::Any => "*".to_string(),
            Validator::Listed => format!("\"x\", {current}, W/\"y\""),
            Validator::Current => current.clone(),
            Validator::None | Validator::Old => "\"v0\"".to_string(),
        };
        let modified_at = self.driver.origin.modified_at(&uri, now);
        let date = |validator| match validator {
            Validator::Current => format_date(modified_at),
            Validator::Old | Validator::None => format_date(modified_at - 1),
            Validator::Any => format_date(now),
            Validator::Listed => "junk".to_string(),
        };
        match ask.condition {
            Condition::None => {}
            Condition::NoneMatch(validator) => fields.add("If-None-Match", tag(validator)),
            Condition::ModifiedSince(validator) => fields.add("If-Modified-Since", date(validator)),
            Condition::Both(one, other) => {
                fields.add("If-None-Match", tag(one));
                fields.add("If-Modified-Since", date(other));
            }
            Condition::Match(validator) => fields.add("If-Match", tag(validator)),
            Condition::UnmodifiedSince(validator) => fields.add("If-Unmodified-Since", date(validator)),
        }
        if !ask.range.is_empty() {
            match ask.if_range {
                Validator::None | Validator::Listed => {}
                Validator::Any => fields.add("If-Range", format_date(modified_at)),
                validator => fields.add("If-Range", tag(validator)),
            }
        }
        if let Some((name, value)) = ask.extra.split_once(": ") {
            fields.add(name, value);
        }
        let has_body = fields.get("content-length").is_some();
        Request { method: ask.method, uri, fields, has_body }
    }

    /// The origin is asked exactly when it has to be, and with the right conditions (RFC 9111 §4.3.1).
    fn check_asking(&self, request: &Request, expect: Expect, front: &[Fetch], back: &[Fetch]) {
        let excused = self.is_excused(expect);
        match expect {
            Expect::Hit(_) | Expect::StaleHit(_) if excused => self.count("excused: asked"),
            Expect::Hit(_) | Expect::StaleHit(_) | Expect::Refuse => {
                assert!(front.is_empty(), "{expect:?} needs no origin: {front:?}")
            }
            _ => assert!(!front.is_empty(), "{expect:?}, but the origin was not asked"),
        }
        assert_eq!(
            back.is_empty(),
            !matches!(expect, Expect::StaleHit(_)) || !front.is_empty(),
            "{expect:?} {back:?}"
        );
        let Some(first) = front.first().or(back.first()) else { return };
        let names =
            ["if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range", "range"];
        let sent = names.map(|name| first.fields.get(name));
        let as_asked = names.map(|name| request.fields.get(name));
        let entry = expect.entry().map(|at| &self.model.entries[at]);
        let validated = entry.filter(|entry| entry.has_validator() && self.model.validates(request));
        let own = validated.map(|entry| {
            let own = |name| entry.answer.fields.get(name);
            [own("etag"), own("last-modified"), None, None, None, None]
        });
        match own {
            Some(own) if sent == own && (first.found.is_some() || !excused) => {
                self.count("validated");
                assert_eq!(first.validates, Some(entry.unwrap().version()));
            }
            Some(own) => assert!(excused && sent == as_asked, "{sent:?} instead of {own:?}"),
            None if !back.is_empty() => {
                assert_eq!(sent, [None; 6], "a refresh has no conditions of the viewer's")
            }
            None => assert_eq!(sent, as_asked, "{expect:?}: the viewer's conditions go on"),
        }
        let again = front.iter().chain(back).skip(1);
        for fetch in again {
            let different = front.first().or(back.first()).and_then(|fetch| fetch.reply.as_ref());
            assert_eq!(different.map(|reply| reply.status), Some(304), "asked again without reason");
            assert_eq!(names.map(|name| fetch.fields.get(name)), [None; 6]);
            self.count("asked again");
        }
    }

    /// Where the answer has to come from.
    fn source(&self, request: &Request, expect: Expect, front: &[Fetch], served: &Served) -> Source {
        let Some(last) = front.last() else { return expect.entry().map_or(Source::Own, Source::Stored) };
        let entry = expect.entry().filter(|_| !request.passes() && !request.is_guarded());
        let stale =
            entry.filter(|&at| self.model.entries[at].may_be_stale(self.model.rules, last.received_at));
        // What the product may have dropped it cannot fall back to.
        let stale = stale.filter(|&at| !self.model.entries[at].excused || served.stored.is_some());
        match (last.reply.as_ref().map(|reply| reply.status), stale) {
            (None | Some(500 | 502 | 503 | 504), Some(at)) => {
                self.count("stale on error");
                Source::Stored(at)
            }
            (None, None) => Source::Own,
            (Some(304), _) if last.validates.is_some() => {
                self.count("confirmed");
                Source::Stored(expect.entry().expect("what is validated is stored"))
            }
            _ => Source::Origin,
        }
    }

    /// Tells the model what came, and which entries the product may have dropped.
    fn learn(&mut self, request: &Request, fetch: &Fetch, validated: Option<usize>) {
        let Some(reply) = fetch.reply.as_ref().filter(|_| !fetch.is_unused) else { return };
        let mut fields = reply.fields.clone();
        if fields.get("date").is_none() && reply.status != 304 {
            fields.add("Date", format_date(fetch.received_at));
        }
        if reply.framing == Framing::Length && !matches!(reply.status, 204 | 304) {
            fields.add("Content-Length", reply.body.len().to_string());
        }
        if reply.is_broken {
            // RFC 9111 §3.3: an incomplete response is not stored; it may invalidate all the same.
            fields.0.retain(|(name, _)| !name.to_ascii_lowercase().ends_with("cache-control"));
            fields.add("Cache-Control", "no-store");
        }
        let answer = Answer {
            status: reply.status,
            fields,
            content_len: reply.body.len(),
            requested_at: fetch.requested_at,
            received_at: fetch.received_at,
        };
        let before = self.model.entries.len();
        let gone = |model: &Model| model.entries.iter().filter(|entry| entry.gone).count();
        let gone_before = gone(&self.model);
        // A 304 to the viewer's own conditions is the viewer's.
        let concerns = fetch.validates.is_some()
            || (request.method == "HEAD" && reply.status != 304 && fetch.found.is_some());
        let validated = validated.filter(|_| concerns);
        self.model.observe(request, &answer, validated);
        if !matches!(request.method, "GET" | "HEAD") && gone(&self.model) > gone_before {
            self.count("invalidated");
        }
        // Excuse: all responses of a URI are kept by one list of names, the union of what they vary by. So another list may drop or hide
        // what was kept by the first, and of several that match it may not be the most recent that is found.
        let (old, new) = self.model.entries.split_at_mut(before);
        if let Some(new) = new.first_mut() {
            for entry in old.iter_mut().filter(|entry| entry.uri == new.uri) {
                if entry.names() != new.names() {
                    (entry.excused, new.excused) = (true, true);
                }
            }
        }
    }

    /// What is expected if the product found another matching response than the model, where it is excused for that.
    fn anchored(&self, request: &Request, expect: Expect, served: &Served, now: i64) -> Expect {
        let found = served.stored.or_else(|| served.fetches.first().and_then(|fetch| fetch.found));
        // Where lists of names changed it may still have one that the model takes for replaced.
        let kept = |entry: &Entry| entry.excused && entry.may_match(request);
        let may_have_kept = expect == Expect::Miss && self.model.entries.iter().any(kept);
        if !self.is_excused(expect) && !may_have_kept {
            return expect;
        }
        let Some(version) = found else {
            return if served.is_refusal && served.fetches.is_empty() { Expect::Refuse } else { expect };
        };
        let asked = served.fetches.iter().any(|fetch| !fetch.is_background);
        let fits = |&at: &usize| {
            let entry = &self.model.entries[at];
            let same_age =
                asked || served.fields.get("age").is_none_or(|age| age == entry.age(now).to_string());
            let validated = matches!(self.model.judge(request, at, now), Expect::Validate(_));
            let same_fields = asked || served.is_refusal || same_fields(entry, served);
            let first = served.fetches.first().filter(|fetch| fetch.validates.is_some());
            let same_validators = first.is_none_or(|fetch| {
                let pairs = [("if-none-match", "etag"), ("if-modified-since", "last-modified")];
                pairs.iter().all(|(asked, own)| fetch.fields.get(asked) == entry.answer.fields.get(own))
            });
            entry.may_match(request)
                && entry.version() == version
                && same_age
                && same_fields
                && same_validators
                && validated == asked
        };
        match (0..self.model.entries.len()).rev().find(fits) {
            Some(at) if Some(at) != expect.entry() => {
                self.count("excused: another");
                self.model.judge(request, at, now)
            }
            _ => expect,
        }
    }

    fn is_excused(&self, expect: Expect) -> bool {
        expect.entry().is_some_and(|at| self.model.entries[at].excused)
    }

    /// The answer is the stored response: this version, this variant, its fields, its age.
    fn check_stored(&self, request: &Request, entry: &Entry, served: &Served, now: i64) {
        assert_eq!(served.stored, Some(entry.version()), "another response than the model's, {entry:?}");
        let whole = match entry.answer.status {
            204 => Vec::new(),
            _ => content(&entry.uri, entry.version(), &variant(&entry.names().join(","), &request.fields)),
        };
        assert_eq!(whole.len(), entry.answer.content_len);
        let selected = selection::select(&entry.answer, request);
        let is_head = request.method == "HEAD";
        let (status, expected) = match &selected {
            Selected::Whole => (entry.answer.status, whole.clone()),
            Selected::NotModified => (304, Vec::new()),
            Selected::Failed => (412, served.body.clone()),
            Selected::Unsatisfiable => (416, served.body.clone()),
            Selected::Ranges(_) => (206, served.body.clone()),
        };
        assert_eq!(served.status, status, "{selected:?}");
        if !is_head {
            assert_eq!(served.body, expected, "the body of version {}", entry.version());
        }
        self.count(match selected {
            Selected::Whole => "stored whole",
            Selected::NotModified => "stored 304",
            Selected::Failed => "stored 412",
            Selected::Unsatisfiable => "stored 416",
            Selected::Ranges(_) => "stored 206",
        });
        if served.is_refusal {
            return;
        }
        if let Selected::Ranges(ranges) = selected {
            let got: Vec<_> = match ranges.len() {
                1 => {
                    let (first, last, len) = content_range(served.fields.get("content-range").unwrap());
                    vec![(first, last, len, served.body.clone())]
                }
                _ => parts(served.fields.get("content-type").unwrap(), &served.body),
            };
            let expected: Vec<_> = ranges
                .iter()
                .map(|&(first, last)| (first, last, whole.len(), whole[first..=last].to_vec()))
                .collect();
            assert_eq!(got, expected);
        }
        let age = served.fields.all("age");
        assert_eq!(age, [entry.age(now).min(1 << 31).to_string()], "Age (RFC 9111 §5.1)");
        self.check_fields(entry, served);
    }

    /// RFC 9111 §3.1, §3.2, §4: the stored fields as they are now, and nothing of the connection's.
    fn check_fields(&self, entry: &Entry, served: &Served) {
        assert_eq!(repeated(&served.fields), repeated(&entry.answer.fields));
        let withheld = entry.answer.fields.all("cache-control").iter().any(|text| text.contains("x-secret"));
        let secret = served.fields.get("x-secret");
        assert!(secret.is_none() || (!withheld && secret == entry.answer.fields.get("x-secret")), "withheld");
        assert_eq!(served.fields.get("x-hop"), None);
        assert_eq!(served.fields.get("cdn-cache-control"), None);
    }

    /// The answer is the origin's.
    fn check_passed(&self, request: &Request, fetch: &Fetch, served: &Served) {
        let reply = fetch.reply.as_ref().expect("what passes came");
        if served.status == 304 && reply.status == 200 {
            // RFC 9110 §13.1.2: the viewer's own condition, held against what came.
            let answer = Answer {
                status: 200,
                fields: reply.fields.clone(),
                content_len: reply.body.len(),
                requested_at: fetch.requested_at,
                received_at: fetch.received_at,
            };
            assert_eq!(selection::select(&answer, request), Selected::NotModified);
            assert!(served.body.is_empty());
            return self.count("passed, not modified");
        }
        assert_eq!((served.stored, served.status), (None, reply.status));
        let expected: &[u8] = if request.method == "HEAD" || reply.status == 304 { b"" } else { &reply.body };
        assert_eq!(served.body, expected);
        for (name, value) in &reply.fields.0 {
            let passes = !matches!(&**name, "Connection" | "X-Hop" | "CDN-Cache-Control" | "Content-Length");
            assert_eq!(served.fields.all(name).contains(&&**value), passes, "{name}: {value}");
        }
        self.count("passed");
    }
}

fn same_fields(entry: &Entry, served: &Served) -> bool {
    repeated(&served.fields) == repeated(&entry.answer.fields)
}

/// The fields that every answer from a stored response repeats, sorted.
fn repeated(fields: &Fields) -> Vec<(String, String)> {
    let own = [
        "via",
        "x-cache",
        "cache-status",
        "content-length",
        "content-range",
        "content-type",
        "accept-ranges",
        "age",
        "connection",
        "x-hop",
        "x-secret",
        "cdn-cache-control",
    ];
    let mut all: Vec<(String, String)> =
        fields.0.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
    all.retain(|(name, _)| !own.contains(&name.as_str()));
    all.sort();
    all
}

/// Where an answer comes from.
#[derive(Debug)]
enum Source {
    Stored(usize),
    Origin,
    Own,
}

impl Expect {
    fn entry(self) -> Option<usize> {
        match self {
            Expect::Hit(at) | Expect::StaleHit(at) | Expect::Validate(at) => Some(at),
            Expect::Pass | Expect::Miss | Expect::Refuse => None,
        }
    }
}

impl Entry {
    fn version(&self) -> u64 {
        self.answer.fields.get("x-version").expect("the origin always names it").parse().unwrap()
    }
}

/// Rules 1 to 8, 11 to 13 and 15 to 17 of the RFC 9111 profile, as far as the machine decides them.
#[test]
fn machine_reuses_what_the_reference_model_allows() {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    // A list takes less than a millisecond, and some faults need a rare one.
    config.cases *= 8;
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().hash_one(0),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    let seen = RefCell::new(BTreeMap::new());
    let cases = (select((0..SETTINGS.len()).collect::<Vec<_>>()), vec(op(), 1..40));
    let outcome = TestRunner::new(config.clone()).run(&cases, |(settings, ops)| {
        let (flags, rules) = SETTINGS[settings];
        let mut raw: Raw = flags.iter().copied().collect();
        raw.push("origin", "http://origin.example");
        let behavior = Behavior::from(&check(&raw).unwrap());
        let model = Model { rules, entries: Vec::new() };
        World { driver: Driver::new(behavior, START), model, seen: &seen }.run(&ops);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("PROPTEST_RNG_SEED={seed}: {failure}");
    }
    println!("seed {seed}, {} lists: {:?}", config.cases, seen.borrow());
    for what in [
        "validated",
        "confirmed",
        "asked again",
        "stale on error",
        "invalidated",
        "head",
        "passed",
        "passed, not modified",
        "stored whole",
        "stored 304",
        "stored 206",
    ] {
        assert!(
            config.cases < 200 || seen.borrow().contains_key(what),
            "no list came to '{what}', seed {seed}"
        );
    }
}
