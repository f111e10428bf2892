//! The rules that are still pending on one core, arranged so that judging costs the same however many they are.
//!
//! Fed by the control thread's batches in the order of their numbers; asked about responses whose number is behind. Of each thing that was
//! invalidated only the newest numbers are kept, one for hard and one for soft rules, under a hash of what the rule names:
//!
//! ```text
//! exact     hash(host, path)            one look-up for every host, one for the host
//! prefixes  hash(host, length, bytes)   the same for each length that a rule has, in one pass over the path
//! tags      hash(host, tag)             the same for each tag
//! patterns  text                        at most 256, each matched; older ones fold to what they begin with
//! ```
//!
//! Invariants: `latest` is raised after the rules are in; what is older than `floor` is gone, because rules up to there were forgotten;
//! the table holds at most [`RULE_COUNT_MAX`] things, above which the older half folds into the floor.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::{Rule, Subject, Verdict, What, pattern};

/// The most things that are kept; above it the older half folds: what is stored from before that is gone.
pub const RULE_COUNT_MAX: usize = 100_000;

/// The most patterns that are kept; an older one folds to a prefix.
pub const PATTERN_COUNT_MAX: usize = 256;

/// The pending rules of one core.
#[derive(Debug, Default)]
pub struct RuleTable {
    latest: u64,
    floor: u64,
    exact: Group,
    prefixes: Group,
    /// The lengths of the prefixes, ascending; the empty one is that of rules for everything.
    lengths: Vec<Length>,
    tags: Group,
    patterns: Vec<Pattern>,
}

/// Rules of one kind, by the hash of what they name.
#[derive(Debug, Default)]
struct Group {
    rules: HashMap<u64, Newest, BuildHasherDefault<Uniform>>,
    /// The newest number of a rule for every host.
    for_all: u64,
    /// The newest number of a rule for one host.
    for_one: u64,
}

/// The newest rules that name one thing; 0 is none.
#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    hard: u64,
    soft: u64,
}

/// That there are prefixes of this length.
#[derive(Debug)]
struct Length {
    len: usize,
    newest: u64,
}

#[derive(Debug)]
struct Pattern {
    scope: u64,
    text: Box<str>,
    newest: Newest,
}

/// Every host, as a scope.
const EVERY_HOST: u64 = 0;

impl RuleTable {
    /// Makes a table without rules.
    pub fn new() -> RuleTable {
        RuleTable::default()
    }

    /// Returns the number of the newest batch that is in the table; 0 if there was none.
    #[inline]
    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// Returns the number up to which rules were forgotten: what is older than it counts as gone.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Returns how many different things are named.
    pub fn len(&self) -> usize {
        self.exact.rules.len() + self.prefixes.rules.len() + self.tags.rules.len() + self.patterns.len()
    }

    /// Tells whether no rule is pending.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    #[cfg(test)]
    pub(super) fn patterns_len(&self) -> usize {
        self.patterns.len()
    }

    /// Returns about how many bytes of heap the table takes.
    pub fn heap_len(&self) -> usize {
        let slots: usize =
            [&self.exact, &self.prefixes, &self.tags].map(|group| group.rules.capacity()).iter().sum();
        let patterns: usize =
            self.patterns.iter().map(|pattern| size_of::<Pattern>() + pattern.text.len()).sum();
        slots * (size_of::<(u64, Newest)>() + 1) + self.lengths.capacity() * size_of::<Length>() + patterns
    }

    /// Adds a batch, and then raises [`latest`](Self::latest) to its number. Numbers rise from batch to batch.
    pub fn add(&mut self, number: u64, rules: &[Rule]) {
        for rule in rules {
            // A batch that folded into the floor while it was added needs no more of its rules.
            if number <= self.floor {
                break;
            }
            self.add_one(number, rule);
            if self.len() > RULE_COUNT_MAX {
                self.fold();
            }
        }
        self.latest = self.latest.max(number);
    }

    /// Returns what the rules newer than `checked` make of a response. Without allocation.
    ///
    /// What is older than the floor is gone: the rules that it would have to be held against are forgotten.
    pub fn judge(&self, subject: &Subject<'_>, checked: u64) -> Verdict {
        if checked >= self.latest {
            return Verdict::Untouched;
        }
        let Some((host, path)) = subject.host_and_path() else { return Verdict::Gone };
        if checked < self.floor {
            return Verdict::Gone;
        }
        let search = Search { checked, scope: scope_of(Some(host)) };
        let mut verdict = search.look(&self.exact, |scope| exact_hash(scope, path));
        // Gone outranks all, so nothing more is looked at.
        if verdict < Verdict::Gone {
            verdict = verdict.max(search.prefixes(self, path));
        }
        if verdict < Verdict::Gone && self.tags.newest() > checked {
            for tag in subject.tags {
                verdict = verdict.max(search.look(&self.tags, |scope| tag_hash(scope, *tag)));
            }
        }
        if verdict < Verdict::Gone {
            verdict = verdict.max(search.patterns(&self.patterns, path));
        }
        verdict
    }

    /// Tells whether rules newer than `checked` could concern a response whose tags are not known yet.
    pub fn may_concern_unknown_tags(&self, checked: u64) -> bool {
        checked < self.floor || self.tags.newest() > checked
    }

    /// Forgets the rules up to `number`, because nothing that is stored or under way is older: what comes all the same is gone.
    pub fn forget_up_to(&mut self, number: u64) {
        self.floor = self.floor.max(number);
        // Rules that were never in this table are forgotten as well, so what is older than they must be judged.
        self.latest = self.latest.max(self.floor);
        let floor = self.floor;
        for group in [&mut self.exact, &mut self.prefixes, &mut self.tags] {
            group.forget_up_to(floor);
        }
        self.lengths.retain(|length| length.newest > floor);
        self.patterns.retain(|pattern| pattern.newest.either() > floor);
    }

    fn add_one(&mut self, number: u64, rule: &Rule) {
        let scope = scope_of(rule.host.as_deref().map(str::as_bytes));
        let newest = Newest::of(number, rule.soft);
        match &rule.what {
            What::Exact(path) => self.exact.add(scope, exact_hash(scope, path.as_bytes()), newest),
            What::Prefix(prefix) => self.add_prefix(scope, prefix, newest),
            What::Pattern(text) => self.add_pattern(scope, text, newest),
            What::Tag(tag) => self.tags.add(scope, tag_hash(scope, *tag), newest),
            What::All => self.add_prefix(scope, "", newest),
        }
    }

    fn add_prefix(&mut self, scope: u64, prefix: &str, newest: Newest) {
        let state = prefix.bytes().fold(PREFIX_START, roll);
        self.prefixes.add(scope, prefix_hash(scope, state), newest);
        let number = newest.either();
        match self.lengths.binary_search_by_key(&prefix.len(), |length| length.len) {
            Ok(at) => self.lengths[at].newest = self.lengths[at].newest.max(number),
            Err(at) => self.lengths.insert(at, Length { len: prefix.len(), newest: number }),
        }
    }

    fn add_pattern(&mut self, scope: u64, text: &str, newest: Newest) {
        let same = |pattern: &&mut Pattern| pattern.scope == scope && *pattern.text == *text;
        if let Some(pattern) = self.patterns.iter_mut().find(same) {
            return pattern.newest.merge(newest);
        }
        if self.patterns.len() == PATTERN_COUNT_MAX {
            let ages = self.patterns.iter().enumerate().map(|(at, pattern)| (pattern.newest.either(), at));
            let (_, oldest) = ages.min().expect("there are patterns");
            let pattern = self.patterns.swap_remove(oldest);
            self.add_prefix(pattern.scope, pattern::literal_head(&pattern.text), pattern.newest);
        }
        self.patterns.push(Pattern { scope, text: text.into(), newest });
    }

    /// Folds the older half of the rules into the floor.
    fn fold(&mut self) {
        let groups =
            [&self.exact, &self.prefixes, &self.tags].into_iter().flat_map(|group| group.rules.values());
        let all = groups.chain(self.patterns.iter().map(|pattern| &pattern.newest));
        let mut numbers: Vec<u64> = all.map(|newest| newest.either()).collect();
        let middle = numbers.len() / 2;
        let (_, number, _) = numbers.select_nth_unstable(middle);
        self.forget_up_to(*number);
    }
}

/// One question to the table.
struct Search {
    checked: u64,
    /// That of the response's host.
    scope: u64,
}

impl Search {
    /// Looks for rules of every host and of this one; `hash` is that of what they would name.
    #[inline]
    fn look(&self, group: &Group, hash: impl Fn(u64) -> u64) -> Verdict {
        let mut verdict = Verdict::Untouched;
        for (scope, newest) in [(EVERY_HOST, group.for_all), (self.scope, group.for_one)] {
            // Most groups have nothing that is new, or nothing for single hosts.
            if newest > self.checked
                && let Some(newest) = group.rules.get(&hash(scope))
            {
                verdict = verdict.max(newest.verdict(self.checked));
            }
        }
        verdict
    }

    fn prefixes(&self, table: &RuleTable, path: &[u8]) -> Verdict {
        let mut verdict = Verdict::Untouched;
        if table.prefixes.newest() <= self.checked {
            return verdict;
        }
        let (mut state, mut at) = (PREFIX_START, 0);
        for length in table.lengths.iter().filter(|length| length.newest > self.checked) {
            let Some(further) = path.get(at..length.len) else { break };
            state = further.iter().copied().fold(state, roll);
            at = length.len;
            verdict = verdict.max(self.look(&table.prefixes, |scope| prefix_hash(scope, state)));
            if verdict == Verdict::Gone {
                break;
            }
        }
        verdict
    }

    fn patterns(&self, patterns: &[Pattern], path: &[u8]) -> Verdict {
        let newer = patterns.iter().filter(|pattern| pattern.newest.either() > self.checked);
        let mut own = newer.filter(|pattern| [EVERY_HOST, self.scope].contains(&pattern.scope)).peekable();
        if own.peek().is_none() {
            return Verdict::Untouched;
        }
        // Bytes that are no text come from no request.
        let Ok(path) = std::str::from_utf8(path) else { return Verdict::Gone };
        let fitting = own.filter(|pattern| pattern::matches(&pattern.text, path));
        fitting.map(|pattern| pattern.newest.verdict(self.checked)).max().unwrap_or(Verdict::Untouched)
    }
}

impl Group {
    fn add(&mut self, scope: u64, hash: u64, newest: Newest) {
        self.rules.entry(hash).or_default().merge(newest);
        let of_scope = if scope == EVERY_HOST { &mut self.for_all } else { &mut self.for_one };
        *of_scope = (*of_scope).max(newest.either());
    }

    fn newest(&self) -> u64 {
        self.for_all.max(self.for_one)
    }

    fn forget_up_to(&mut self, number: u64) {
        if self.newest() <= number {
            self.rules.clear();
        } else {
            self.rules.retain(|_, newest| newest.either() > number);
        }
        // Memory goes back after a burst of rules, and is not given and taken with every small one.
        if self.rules.capacity() > SPARE_FACTOR * self.rules.len().max(SPARE_COUNT) {
            self.rules.shrink_to(2 * self.rules.len());
        }
    }
}

/// A group gives memory back when it has this many times the room that it needs.
const SPARE_FACTOR: usize = 8;
/// Rules for which a group has room anyway.
const SPARE_COUNT: usize = 128;

impl Newest {
    fn of(number: u64, soft: bool) -> Newest {
        if soft { Newest { hard: 0, soft: number } } else { Newest { hard: number, soft: 0 } }
    }

    fn merge(&mut self, other: Newest) {
        self.hard = self.hard.max(other.hard);
        self.soft = self.soft.max(other.soft);
    }

    fn either(self) -> u64 {
        self.hard.max(self.soft)
    }

    fn verdict(self, checked: u64) -> Verdict {
        match self {
            Newest { hard, .. } if hard > checked => Verdict::Gone,
            Newest { soft, .. } if soft > checked => Verdict::Stale,
            _ => Verdict::Untouched,
        }
    }
}

/// Which hosts a rule is for: a number that is mixed into the hash of what it names.
fn scope_of(host: Option<&[u8]>) -> u64 {
    host.map_or(EVERY_HOST, |host| xxh3_64(host) | 1)
}

fn exact_hash(scope: u64, path: &[u8]) -> u64 {
    xxh3_64_with_seed(path, scope)
}

/// Tags are uniform already.
fn tag_hash(scope: u64, tag: u64) -> u64 {
    tag ^ scope
}

fn prefix_hash(scope: u64, state: u64) -> u64 {
    mixed(state ^ scope)
}

/// What the hash of a prefix begins with.
const PREFIX_START: u64 = 0x9e37_79b9_7f4a_7c15;

/// Takes the next byte of a prefix into its hash.
fn roll(state: u64, byte: u8) -> u64 {
    mixed(state.wrapping_add(u64::from(byte) + 1))
}

/// An odd number whose bits look random.
const MULTIPLIER: u64 = 0xa076_1d64_78bd_642f;

/// Both halves of a wide product: every bit of the result depends on every bit of `state`.
#[inline]
fn mixed(state: u64) -> u64 {
    let wide = u128::from(state) * u128::from(MULTIPLIER);
    wide as u64 ^ (wide >> 64) as u64
}

/// Takes a number that is a hash already for its own hash.
#[derive(Debug, Default)]
struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only numbers are keys here; other bytes are folded, so that the trait's promise holds.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}
