//! Is a stored response concerned by what the operator invalidated since it was last looked at (I-8 to I-18)?
//!
//! The control thread makes [`Rule`]s of what it was asked for and gives each batch of them one number. Every core, and the simulator's,
//! keeps a [`RuleTable`]; a stored response carries the number up to which it was held against it. Storage asks the table about a response
//! that is behind, the owner of a key about a fetch that runs; `core/exchange` never does.
//!
//! Invariants: what a rule names is found, whatever the number of rules; where hashes collide, where many rules fold to one, and where a
//! rule was forgotten, more is invalidated than was asked for, never less. Judging allocates nothing, and its cost depends on the length
//! of the key, on the number of tags, and on at most [`PATTERN_COUNT_MAX`] patterns.

mod pattern;
mod rule;
mod table;
pub mod tags;

pub use rule::{PATH_LEN_MAX, Rule, RuleError, What, Wildcards};
pub use table::{PATTERN_COUNT_MAX, RULE_COUNT_MAX, RuleTable};

use crate::key::SEPARATOR;

/// What the rules are held against.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The key; of a variant or a part its own, since only the primary key at its front is read (I-11).
    pub key: &'a [u8],
    /// The hashes of its tags.
    pub tags: &'a [u64],
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// No rule concerns it.
    Untouched,
    /// A soft rule does: it is not fresh any more.
    Stale,
    /// A hard rule does: it is of no more use, not as a stale answer either (I-25).
    Gone,
}

impl<'a> Subject<'a> {
    /// Host, and path with query, as they are in the primary key; `None` for bytes that are no key.
    fn host_and_path(&self) -> Option<(&'a [u8], &'a [u8])> {
        let mut parts = self.key.split(|byte| *byte == SEPARATOR);
        let (_scheme, host, path) = (parts.next()?, parts.next()?, parts.next()?);
        Some((without_port(host), path))
    }
}

/// Drops the port of either scheme: a host that is named with it means the same as one without it.
fn without_port(host: &[u8]) -> &[u8] {
    match host.strip_suffix(b":80").or_else(|| host.strip_suffix(b":443")) {
        Some(plain) if !plain.contains(&b':') || plain.ends_with(b"]") => plain,
        _ => host,
    }
}

#[cfg(test)]
mod tests;
