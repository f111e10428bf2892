//! What RFC 9111 lets a shared cache answer from what it has seen: the reference that the product is held against.
//!
//! The harness tells it every answer of the origin's and asks it before every request. It is written from the RFC and the RFC 9111
//! profile over plain text, shares no code with the product, and remembers everything; it does not know how the product stores.

use crate::text::{Fields, Request, date, members};

/// What the operator's settings change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) max_ttl: i64,
    pub(crate) default_ttl: Option<i64>,
    pub(crate) request_directives: bool,
}

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

/// One answer of the origin's to one request.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) content_len: usize,
    pub(crate) requested_at: i64,
    pub(crate) received_at: i64,
}

/// A response that may be stored.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) uri: String,
    pub(crate) answer: Answer,
    /// The request fields that Vary names, as they came.
    selecting: Vec<(String, Option<String>)>,
    authorized: bool,
    posted: bool,
    /// Invalidated or outdated: never to be used again.
    pub(crate) gone: bool,
    /// A more recent one matches whatever it matched.
    replaced: bool,
    /// The product may have dropped it earlier than it had to, for one of the reasons that the harness lists.
    pub(crate) excused: bool,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) rules: Rules,
    pub(crate) entries: Vec<Entry>,
}

struct Control(Vec<(String, Option<String>)>, /* targeted */ bool);

impl Control {
    /// RFC 9213 §2.2: a valid targeted field takes the place of Cache-Control and Expires.
    fn of(fields: &Fields) -> Control {
        let targeted = members(&fields.all("cdn-cache-control").join(","));
        let number = |text: &Option<String>| text.as_ref().is_none_or(|text| text.parse::<u64>().is_ok());
        if !targeted.is_empty() && targeted.iter().all(|(_, argument)| number(argument)) {
            return Control(targeted, true);
        }
        Control(members(&fields.all("cache-control").join(",")), false)
    }

    /// The directive without field names (RFC 9111 §5.2.2.4, §5.2.2.7).
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(given, argument)| given == name && argument.is_none())
    }

    /// RFC 9111 §4.2.4.
    fn forbids_stale(&self) -> bool {
        ["must-revalidate", "proxy-revalidate", "no-cache"].iter().any(|name| self.has(name))
            || self.seconds("s-maxage").is_some()
    }

    /// RFC 9111 §4.2.1: invalid is stale; of several the smallest (rule 4).
    fn seconds(&self, name: &str) -> Option<i64> {
        let given = self.0.iter().filter(|(given, _)| given == name);
        given.map(|(_, text)| text.as_ref().and_then(|text| seconds(text)).unwrap_or(0)).min()
    }
}

fn seconds(text: &str) -> Option<i64> {
    let text = text.trim_matches('"');
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().unwrap())
}

impl Entry {
    /// The names in Vary.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.selecting.iter().map(|(name, _)| &**name).collect()
    }

    fn date(&self) -> i64 {
        self.answer.fields.get("date").and_then(date).unwrap_or(self.answer.received_at)
    }

    /// RFC 9111 §4.2.3.
    pub(crate) fn age(&self, now: i64) -> i64 {
        let Answer { requested_at, received_at, .. } = self.answer;
        let apparent = (received_at - self.date()).max(0);
        let first = self.answer.fields.get("age").and_then(|text| text.split(',').next());
        let corrected = first.and_then(|text| seconds(text.trim())).unwrap_or(0) + received_at - requested_at;
        apparent.max(corrected) + now - received_at
    }

    fn explicit_lifetime(&self) -> Option<i64> {
        let control = Control::of(&self.answer.fields);
        let expires = match self.answer.fields.all("expires")[..] {
            _ if control.1 => None,
            [] => None,
            [one] => Some(date(one).map_or(0, |at| (at - self.date()).max(0))),
            _ => Some(0),
        };
        control.seconds("s-maxage").or(control.seconds("max-age")).or(expires)
    }

    /// RFC 9111 §4.2.1, §4.2.2; rule 1. `None`: nothing says that it may be reused.
    fn lifetime(&self, rules: Rules) -> Option<i64> {
        let control = Control::of(&self.answer.fields);
        let known = matches!(
            self.answer.status,
            200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 451 | 501
        );
        let modified = self.answer.fields.get("last-modified").and_then(date);
        let guessed =
            modified.filter(|_| known || control.has("public")).map(|at| (self.date() - at).max(0) / 10);
        let lifetime = self.explicit_lifetime().or(rules.default_ttl.filter(|_| known)).or(guessed);
        let lifetime = lifetime.or((known || control.has("public")).then_some(0))?;
        Some(if control.has("no-cache") { 0 } else { lifetime.min(rules.max_ttl) })
    }

    pub(crate) fn ttl(&self, rules: Rules, now: i64) -> i64 {
        self.lifetime(rules).unwrap_or(0) - self.age(now)
    }

    pub(crate) fn has_validator(&self) -> bool {
        self.answer.fields.get("etag").is_some()
            || self.answer.fields.get("last-modified").and_then(date).is_some()
    }

    /// RFC 9111 §3; rules 2, 3, 7 to 9.
    fn may_be_stored(&self, rules: Rules) -> bool {
        let (control, status) = (Control::of(&self.answer.fields), self.answer.status);
        let understood = status < 510 && !matches!(status, 209..=299 | 418 | 419);
        let must_understand = control.has("must-understand");
        let shared =
            control.has("public") || control.seconds("s-maxage").is_some() || control.has("must-revalidate");
        let kept_out = (control.has("no-store") && !must_understand)
            || (must_understand && !understood)
            || control.has("private")
            || (self.authorized && !shared)
            || (self.answer.fields.get("set-cookie").is_some() && self.explicit_lifetime().is_none())
            || (self.posted && self.explicit_lifetime().is_none())
            || matches!(status, 206 | 304)
            || self.answer.fields.all("vary").join(",").contains('*');
        // What is stale when it comes and cannot be validated is of no use, so nobody has to keep it.
        let fresh = self.ttl(rules, self.answer.received_at) > 0;
        let useful = fresh || (status == 200 && self.has_validator() && !self.posted);
        !kept_out && useful && self.lifetime(rules).is_some()
    }

    pub(crate) fn may_match(&self, request: &Request) -> bool {
        let same = |(name, value): &(String, Option<String>)| request.selecting(name) == *value;
        !self.gone && self.uri == request.uri && self.selecting.iter().all(same)
    }

    /// RFC 9111 §4.2.4, RFC 5861 §4, rule 15.
    pub(crate) fn may_be_stale(&self, rules: Rules, now: i64) -> bool {
        let control = Control::of(&self.answer.fields);
        let window = control.seconds("stale-if-error");
        let within = window.is_none_or(|window| window > 0 && -self.ttl(rules, now) <= window);
        let sound = self.answer.status < 500 && self.age(now) <= rules.max_ttl;
        !control.forbids_stale() && within && sound
    }
}

impl Model {
    pub(crate) fn expect(&self, request: &Request, now: i64) -> Expect {
        let asked = self.asked(request);
        let ask = |expect| if asked.has("only-if-cached") { Expect::Refuse } else { expect };
        if request.passes() {
            return ask(Expect::Pass);
        }
        let matches = |entry: &Entry| entry.may_match(request) && !entry.replaced;
        // RFC 9111 §4.1: of several the most recent, but one that has Vary before one that mistakenly omits it.
        let varying = self.entries.iter().rposition(|entry| matches(entry) && !entry.selecting.is_empty());
        match varying.or_else(|| self.entries.iter().rposition(matches)) {
            Some(at) => self.judge(request, at, now),
            None => ask(Expect::Miss),
        }
    }

    /// What must happen with this entry.
    pub(crate) fn judge(&self, request: &Request, at: usize, now: i64) -> Expect {
        let asked = self.asked(request);
        let ask = |expect| if asked.has("only-if-cached") { Expect::Refuse } else { expect };
        let entry = &self.entries[at];
        let (age, ttl) = (entry.age(now), entry.ttl(self.rules, now));
        let limit = |name| asked.seconds(name).unwrap_or(i64::MAX);
        let fresh_for = asked.seconds("min-fresh").unwrap_or(0);
        if asked.has("no-cache") || age > limit("max-age") || (fresh_for > 0 && ttl < fresh_for) {
            return ask(Expect::Validate(at));
        }
        let control = Control::of(&entry.answer.fields);
        let forbidden = control.forbids_stale();
        let stale = if asked.has("max-stale") { i64::MAX } else { asked.seconds("max-stale").unwrap_or(0) };
        if ttl > 0 || (!forbidden && -ttl <= stale && stale > 0) {
            return Expect::Hit(at);
        }
        let meanwhile = control.seconds("stale-while-revalidate").filter(|_| !forbidden).unwrap_or(0);
        let lived =
            entry.lifetime(self.rules).is_some_and(|lifetime| lifetime > 0) && age <= self.rules.max_ttl;
        let plain = request.method == "GET" && !request.is_guarded();
        if plain && lived && -ttl < meanwhile { Expect::StaleHit(at) } else { ask(Expect::Validate(at)) }
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
        let own = request.method == "POST"
            && status == 200
            && answer
                .fields
                .get("content-location")
                .is_some_and(|reference| request.resolve(reference) == request.uri);
        if (request.method == "GET" && !request.passes() && !self.asks_not_to_store(request)) || own {
            self.store(request, answer, own);
        }
    }

    /// RFC 9111 §4.3.1: a HEAD brings no content, and If-Match is for the origin to judge.
    pub(crate) fn validates(&self, request: &Request) -> bool {
        request.method == "GET" && !request.is_guarded() && !self.asks_not_to_store(request)
    }

    /// RFC 9111 §5.2.1, where the operator lets viewers ask.
    fn asked(&self, request: &Request) -> Control {
        Control(if self.rules.request_directives { request.directives() } else { Vec::new() }, false)
    }

    /// RFC 9111 §5.2.1.5.
    pub(crate) fn asks_not_to_store(&self, request: &Request) -> bool {
        self.asked(request).has("no-store")
    }

    fn store(&mut self, request: &Request, answer: &Answer, posted: bool) {
        let names = members(&answer.fields.all("vary").join(","));
        let selecting = names.into_iter().map(|(name, _)| {
            let value = request.selecting(&name);
            (name, value)
        });
        let entry = Entry {
            uri: request.uri.clone(),
            answer: answer.clone(),
            selecting: selecting.collect(),
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
        let mut answer =
            Answer { status: entry.answer.status, content_len: entry.answer.content_len, ..update.clone() };
        answer.fields = entry.answer.fields.updated(&update.fields, update.received_at);
        entry.answer = answer;
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
