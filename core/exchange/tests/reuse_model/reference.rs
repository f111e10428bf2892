//! What RFC 9111 lets a shared cache answer from what it has seen: the reference that the product is held against.
//!
//! The harness tells it every answer of the origin's and asks it before every request. It is written from the RFC and the RFC 9111
//! profile over plain text, shares no code with the product, and remembers everything; it does not know how the product stores.

use crate::directives::{Directives, seconds};
use crate::entry::{Answer, Entry, Rules};
use crate::text::{Request, members};

/// What must happen to a request; the number is the entry's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It passes the cache by.
    Pass,
    /// Nothing suitable is stored.
    Miss,
    /// Answered from this entry, without the origin.
    Hit(usize),
    /// Answered from this stale entry, which is validated behind the viewer's back (RFC 5861 §3).
    StaleHit(usize),
    /// The origin is asked; this entry may be validated, or served if the origin fails.
    Validate(usize),
    /// 504: the viewer wants the cache's answer only.
    Refuse,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) rules: Rules,
    pub(crate) entries: Vec<Entry>,
}

impl Model {
    pub(crate) fn expect(&self, request: &Request, now: i64) -> Expect {
        if request.passes() {
            return self.ask(request, Expect::Pass);
        }
        let matches = |entry: &Entry| entry.may_match(request) && !entry.replaced;
        // RFC 9111 §4.1: of several the most recent, but one that has Vary before one that mistakenly omits it.
        let varying = self.entries.iter().rposition(|entry| matches(entry) && !entry.selecting.is_empty());
        match varying.or_else(|| self.entries.iter().rposition(matches)) {
            Some(at) => self.judge(request, at, now),
            None => self.ask(request, Expect::Miss),
        }
    }

    /// The origin is asked, unless the request forbids it (RFC 9111 §5.2.1.7).
    fn ask(&self, request: &Request, expect: Expect) -> Expect {
        if self.asked(request).has("only-if-cached") { Expect::Refuse } else { expect }
    }

    /// What must happen with this entry.
    pub(crate) fn judge(&self, request: &Request, at: usize, now: i64) -> Expect {
        let asked = self.asked(request);
        let entry = &self.entries[at];
        let (age, ttl) = (entry.age(now), entry.ttl(self.rules, now));
        let or = |name, default| asked.seconds(name).unwrap_or(default);
        let fresh_for = or("min-fresh", 0);
        if asked.has("no-cache") || age > or("max-age", i64::MAX) || (fresh_for > 0 && ttl < fresh_for) {
            return self.ask(request, Expect::Validate(at));
        }
        let control = entry.directives();
        let may_be_stale = !control.forbid_stale();
        let stale = if asked.has("max-stale") { i64::MAX } else { or("max-stale", 0) };
        if ttl > 0 || (may_be_stale && -ttl <= stale && stale > 0) {
            return Expect::Hit(at);
        }
        let meanwhile = control.seconds("stale-while-revalidate").unwrap_or(0);
        let lived = entry.lifetime(self.rules) > Some(0) && age <= self.rules.max_ttl;
        let plain = request.method == "GET" && !request.is_guarded();
        if plain && lived && may_be_stale && -ttl < meanwhile {
            return Expect::StaleHit(at);
        }
        self.ask(request, Expect::Validate(at))
    }

    /// Takes in an answer that reached the viewer, or the background, whole.
    pub(crate) fn observe(&mut self, request: &Request, answer: &Answer, validated: Option<usize>) {
        let status = answer.status;
        if !matches!(request.method, "GET" | "HEAD" | "OPTIONS") && (200..400).contains(&status) {
            // RFC 9111 §4.4, rule 16.
            for uri in request.touched(&answer.fields) {
                self.entries.iter_mut().filter(|entry| entry.uri == uri).for_each(|entry| entry.gone = true);
            }
        }
        match (request.method, validated.filter(|_| !self.asks_not_to_store(request))) {
            (_, Some(at)) if status == 304 => self.freshen(at, request, answer),
            ("HEAD", Some(at)) if status == 200 && self.entries[at].answer.status == 200 => {
                self.compare(at, request, answer)
            }
            _ => {}
        }
        let names = answer.fields.get("content-location");
        let names_itself = names.is_some_and(|reference| request.resolve(reference) == request.uri);
        let own = request.method == "POST" && status == 200 && names_itself;
        if (request.method == "GET" && !request.passes() && !self.asks_not_to_store(request)) || own {
            self.store(request, answer, own);
        }
    }

    /// RFC 9111 §4.3.1: a HEAD brings no content, and If-Match is for the origin to judge.
    pub(crate) fn validates(&self, request: &Request) -> bool {
        request.method == "GET" && !request.is_guarded() && !self.asks_not_to_store(request)
    }

    /// RFC 9111 §5.2.1, where the operator lets viewers ask.
    fn asked(&self, request: &Request) -> Directives {
        let members = if self.rules.request_directives { request.directives() } else { Vec::new() };
        Directives { members, targeted: false }
    }

    /// RFC 9111 §5.2.1.5.
    pub(crate) fn asks_not_to_store(&self, request: &Request) -> bool {
        self.asked(request).has("no-store")
    }

    fn store(&mut self, request: &Request, answer: &Answer, posted: bool) {
        let names = members(&answer.fields.all("vary").join(",")).into_iter();
        let entry = Entry {
            uri: request.uri.clone(),
            answer: answer.clone(),
            selecting: names.map(|(name, _)| (name.clone(), request.selecting(&name))).collect(),
            authorized: request.fields.get("authorization").is_some(),
            posted,
            gone: false,
            replaced: false,
            excused: false,
        };
        if !entry.may_be_stored(self.rules) {
            return;
        }
        for old in self.entries.iter_mut().filter(|old| old.uri == entry.uri) {
            // RFC 9111 §4: of several that match the most recent counts; one that selects by more leaves the others' requests to it.
            let covers = entry.selecting.iter().all(|pair| old.selecting.contains(pair));
            old.replaced |= covers && old.may_match(request);
        }
        self.entries.push(entry);
    }

    /// RFC 9111 §3.2, §4.3.4, rule 13.
    fn freshen(&mut self, at: usize, request: &Request, update: &Answer) {
        let entry = &mut self.entries[at];
        let tag = update.fields.get("etag").filter(|tag| tag.starts_with('"'));
        if tag.is_some() && tag != entry.answer.fields.get("etag") {
            return;
        }
        let Answer { status, content_len, .. } = entry.answer;
        let fields = entry.answer.fields.updated(&update.fields, update.received_at);
        entry.answer = Answer { status, content_len, fields, ..*update };
        entry.authorized = request.fields.get("authorization").is_some();
        // A GET confirmed it.
        entry.posted = false;
        entry.gone |= !entry.may_be_stored(self.rules);
    }

    /// RFC 9111 §4.3.5.
    fn compare(&mut self, at: usize, request: &Request, answer: &Answer) {
        let entry = &self.entries[at].answer;
        let pairs = ["etag", "last-modified"].map(|name| (entry.fields.get(name), answer.fields.get(name)));
        let length = answer.fields.get("content-length").and_then(seconds);
        let other = pairs.iter().any(|(old, new)| old.is_some() && new.is_some() && old != new)
            || length.is_some_and(|length| length != entry.content_len as i64);
        let same = pairs.iter().any(|(old, new)| old.is_some() && old == new);
        if other {
            self.entries[at].gone = true;
        } else if same {
            self.freshen(at, request, answer);
        }
    }
}
