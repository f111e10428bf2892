//! One answer of the origin's as a cache may keep it: whether, for how long, how old it is, and whom it may answer.

use crate::directives::{Directives, seconds};
use crate::text::{Fields, Request, date};

/// What the operator's settings change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) max_ttl: i64,
    pub(crate) default_ttl: Option<i64>,
    pub(crate) request_directives: bool,
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
    pub(crate) selecting: Vec<(String, Option<String>)>,
    pub(crate) authorized: bool,
    pub(crate) posted: bool,
    /// Invalidated or outdated: never to be used again.
    pub(crate) gone: bool,
    /// A more recent one matches whatever it matched.
    pub(crate) replaced: bool,
    /// The product may have dropped it earlier than it had to, for one of the reasons that the harness lists.
    pub(crate) excused: bool,
}

impl Entry {
    fn get(&self, name: &str) -> Option<&str> {
        self.answer.fields.get(name)
    }

    pub(crate) fn directives(&self) -> Directives {
        Directives::of(&self.answer.fields)
    }

    /// The names in Vary.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.selecting.iter().map(|(name, _)| &**name).collect()
    }

    fn date(&self) -> i64 {
        self.get("date").and_then(date).unwrap_or(self.answer.received_at)
    }

    /// RFC 9111 §4.2.3.
    pub(crate) fn age(&self, now: i64) -> i64 {
        let Answer { requested_at, received_at, .. } = self.answer;
        let apparent = (received_at - self.date()).max(0);
        let stated = self.get("age").and_then(|text| seconds(text.split(',').next()?.trim()));
        let corrected = stated.unwrap_or(0) + received_at - requested_at;
        apparent.max(corrected) + now - received_at
    }

    fn explicit_lifetime(&self) -> Option<i64> {
        let control = self.directives();
        let expires = match self.answer.fields.all("expires")[..] {
            _ if control.targeted => None,
            [] => None,
            [one] => Some(date(one).map_or(0, |at| (at - self.date()).max(0))),
            _ => Some(0),
        };
        control.seconds("s-maxage").or(control.seconds("max-age")).or(expires)
    }

    /// RFC 9111 §4.2.1, §4.2.2; rule 1. `None`: nothing says that it may be reused.
    pub(crate) fn lifetime(&self, rules: Rules) -> Option<i64> {
        let control = self.directives();
        let status = self.answer.status;
        let known = matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 451 | 501);
        let may_guess = known || control.has("public");
        let modified = self.get("last-modified").and_then(date).filter(|_| may_guess);
        let guessed = modified.map(|at| (self.date() - at).max(0) / 10);
        let lifetime = self.explicit_lifetime().or(rules.default_ttl.filter(|_| known)).or(guessed);
        let lifetime = lifetime.or(may_guess.then_some(0))?;
        Some(if control.has("no-cache") { 0 } else { lifetime.min(rules.max_ttl) })
    }

    pub(crate) fn ttl(&self, rules: Rules, now: i64) -> i64 {
        self.lifetime(rules).unwrap_or(0) - self.age(now)
    }

    pub(crate) fn has_validator(&self) -> bool {
        self.get("etag").is_some() || self.get("last-modified").and_then(date).is_some()
    }

    /// RFC 9111 §3; rules 2, 3, 7 to 9.
    pub(crate) fn may_be_stored(&self, rules: Rules) -> bool {
        let (control, status) = (self.directives(), self.answer.status);
        let understood = status < 510 && !matches!(status, 209..=299 | 418 | 419);
        let must_understand = control.has("must-understand");
        let shared =
            control.has("public") || control.seconds("s-maxage").is_some() || control.has("must-revalidate");
        let needs_lifetime = self.posted || self.get("set-cookie").is_some();
        let kept_out = (control.has("no-store") && !must_understand)
            || (must_understand && !understood)
            || control.has("private")
            || (self.authorized && !shared)
            || (needs_lifetime && self.explicit_lifetime().is_none())
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
        let control = self.directives();
        let window = control.seconds("stale-if-error");
        let within = window.is_none_or(|window| window > 0 && -self.ttl(rules, now) <= window);
        let sound = self.answer.status < 500 && self.age(now) <= rules.max_ttl;
        !control.forbid_stale() && within && sound
    }
}
