//! What does a request's Cache-Control ask of us (RFC 9111 §5.2.1, §5.4), where the operator lets viewers ask?
//!
//! `core/exchange` asks only for viewers that `--request-directives` names; of all others Cache-Control and Pragma are ignored (T-18).
//! Invariant: a directive that does not parse asks for more freshness, not for less.

use aspis_wire::{Field, fields};

use crate::age::parse_seconds;
use crate::stored::StoredMeta;

/// The directives of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestDirectives {
    /// `no-store`: the answer is not stored.
    pub no_store: bool,
    /// `no-cache`, or `Pragma: no-cache` without Cache-Control: nothing is served without validation.
    pub no_cache: bool,
    /// `only-if-cached`: 504 rather than a forwarded request.
    pub only_if_cached: bool,
    /// `max-age` in seconds; 0 if it does not parse.
    pub max_age: Option<u32>,
    /// `min-fresh` in seconds.
    pub min_fresh: u32,
    /// `max-stale` in seconds; without an argument the largest.
    pub max_stale: u32,
}

/// Reads Cache-Control and Pragma of a request.
pub fn request_directives(head: &[Field<'_>]) -> RequestDirectives {
    let mut found = RequestDirectives::default();
    let mut has_cache_control = false;
    for member in fields::named(head, "cache-control").flat_map(fields::list) {
        has_cache_control = true;
        let (name, argument) = match member.iter().position(|&byte| byte == b'=') {
            Some(at) => (&member[..at], Some(&member[at + 1..])),
            None => (member, None),
        };
        let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        let seconds = argument.and_then(parse_seconds);
        if is("no-store") {
            found.no_store = true;
        } else if is("no-cache") {
            found.no_cache = true;
        } else if is("only-if-cached") {
            found.only_if_cached = true;
        } else if is("max-age") {
            let seconds = seconds.unwrap_or(0);
            found.max_age = Some(found.max_age.map_or(seconds, |before| before.min(seconds)));
        } else if is("min-fresh") {
            found.min_fresh = found.min_fresh.max(seconds.unwrap_or(u32::MAX));
        } else if is("max-stale") {
            found.max_stale = if argument.is_none() { u32::MAX } else { seconds.unwrap_or(0) };
        }
    }
    if !has_cache_control {
        found.no_cache = fields::named(head, "pragma")
            .flat_map(fields::list)
            .any(|member| member.eq_ignore_ascii_case(b"no-cache"));
    }
    found
}

/// What the directives make of a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// They allow it to be served, stale too if it is.
    Serve,
    /// They want the origin asked, although it is fresh.
    Validate,
    /// They say nothing that changes what freshness decides.
    AsItIs,
}

impl RequestDirectives {
    /// Holds a stored response of that age and remaining freshness against the directives.
    pub fn judge(&self, meta: &StoredMeta, age: u32, ttl: i64) -> Asked {
        if self.no_cache
            || self.max_age.is_some_and(|max| age > max)
            || (self.min_fresh > 0 && ttl < i64::from(self.min_fresh))
        {
            return Asked::Validate;
        }
        // RFC 9111 §5.2.1.2: max-stale does not lift what the origin forbids (§4.2.4).
        // What the origin or the operator says about failures is another question.
        if ttl <= 0 && !meta.forbids_stale && -ttl <= i64::from(self.max_stale) && self.max_stale > 0 {
            return Asked::Serve;
        }
        Asked::AsItIs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored::StaleIfError;

    fn read(lines: &[(&str, &str)]) -> RequestDirectives {
        let head: Vec<Field<'_>> =
            lines.iter().map(|(name, value)| Field { name, value: value.as_bytes() }).collect();
        request_directives(&head)
    }

    /// RFC 9111 §5.2.1 and §5.4.
    #[test]
    fn directives_are_read_and_judged() {
        let meta = StoredMeta { lifetime: 60, ..StoredMeta::PLAIN };
        let forbidden = StoredMeta { forbids_stale: true, ..meta };
        let not_on_error = StoredMeta { stale_if_error: StaleIfError::Forbidden, ..meta };
        let judge = |text: &str, age, ttl| read(&[("Cache-Control", text)]).judge(&meta, age, ttl);
        assert_eq!(judge("", 10, 50), Asked::AsItIs);
        assert_eq!(judge("no-cache", 10, 50), Asked::Validate);
        assert_eq!(judge("max-age=0", 10, 50), Asked::Validate);
        assert_eq!(judge("max-age=x", 10, 50), Asked::Validate);
        assert_eq!(judge("max-age=10", 10, 50), Asked::AsItIs);
        assert_eq!(judge("min-fresh=51", 10, 50), Asked::Validate);
        assert_eq!(judge("min-fresh=50", 10, 50), Asked::AsItIs);
        assert_eq!(judge("max-stale", 70, -10), Asked::Serve);
        assert_eq!(judge("max-stale=10", 70, -10), Asked::Serve);
        assert_eq!(judge("max-stale=9", 70, -10), Asked::AsItIs);
        let max_stale = read(&[("Cache-Control", "max-stale")]);
        assert_eq!(max_stale.judge(&forbidden, 70, -10), Asked::AsItIs);
        // RFC 9111 §5.2.1.2: `stale-if-error=0` speaks of failures, not of what a viewer puts up with.
        assert_eq!(max_stale.judge(&not_on_error, 70, -10), Asked::Serve);
        assert!(read(&[("Pragma", "no-cache")]).no_cache);
        assert!(!read(&[("Pragma", "no-cache"), ("Cache-Control", "max-age=1")]).no_cache);
        let found = read(&[("Cache-Control", "no-store, only-if-cached")]);
        assert!(found.no_store && found.only_if_cached);
    }
}
