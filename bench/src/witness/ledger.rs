//! What is known of each object's versions: the one that the origin has, and the least that an answer may have.
//!
//! Versions only rise. An acknowledged invalidation raises the floor: at once where the server said that it is done, and for the next process where
//! it said no more than that it is noted. What lives shortly may also be no staler than its lifetime allows. All times are of this process.

use super::site::{Edition, Object, Site};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// By so much an answer may be staler than its lifetime: seconds are whole to a cache, and both sides may be let wait by the machine.
const SLACK: Duration = Duration::from_secs(3);
/// Versions of an object whose beginnings are kept.
const HISTORY_MAX: usize = 64;

/// Versions of all objects of a site.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) site: Site,
    states: Vec<Mutex<State>>,
    restarts: AtomicU64,
}

#[derive(Debug)]
struct State {
    version: u64,
    /// The least version that may be served.
    floor: u64,
    /// What said so, when, and after how many restarts.
    cause: (&'static str, Instant, u64),
    /// The least version that the next process may serve.
    floor_later: u64,
    /// When each of the newest versions began.
    began: Vec<(Instant, u64)>,
}

/// A request that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) object: usize,
    pub(crate) variant: usize,
    /// The least version that the answer may have.
    pub(crate) least: u64,
    /// First byte and the one after the last.
    pub(crate) range: Option<(u64, u64)>,
    /// What the viewer said that it has.
    pub(crate) known: Option<Edition>,
    pub(crate) is_head: bool,
}

/// An answer as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) etag: Option<String>,
    pub(crate) content_range: Option<String>,
    /// The length that the head states, if it does.
    pub(crate) stated_len: Option<u64>,
    /// Bytes that came.
    pub(crate) len: u64,
    /// Offset within the edition of the first wrong byte.
    pub(crate) wrong_at: Option<u64>,
    /// The viewer went away before the end.
    pub(crate) is_part: bool,
}

impl State {
    fn raise(&mut self, floor: u64, cause: &'static str, process: u64) {
        if floor > self.floor {
            (self.floor, self.cause) = (floor, (cause, Instant::now(), process));
        }
    }
}

impl Ledger {
    /// Begins with version 1 of everything.
    pub(crate) fn new(site: Site) -> Self {
        let now = Instant::now();
        let state = || State {
            version: 1,
            floor: 1,
            cause: ("nothing", now, 0),
            floor_later: 1,
            began: vec![(now, 1)],
        };
        let states = site.objects.iter().map(|_| Mutex::new(state())).collect();
        Self { site, states, restarts: AtomicU64::new(0) }
    }

    /// Returns one object.
    pub(crate) fn object(&self, number: usize) -> &Object {
        &self.site.objects[number]
    }

    /// Returns the version that the origin has.
    pub(crate) fn version(&self, object: usize) -> u64 {
        self.with(object, |state| state.version)
    }

    /// Gives an object a new version and returns it.
    pub(crate) fn change(&self, object: usize) -> u64 {
        self.with(object, |state| {
            state.version += 1;
            state.began.push((Instant::now(), state.version));
            if state.began.len() > HISTORY_MAX {
                state.began.remove(0);
            }
            state.version
        })
    }

    /// Notes that everything older than `version` is invalidated: the server has said so by answering `cause`.
    pub(crate) fn invalidated(&self, object: usize, version: u64, cause: &'static str) {
        let process = self.restarts.load(Ordering::SeqCst);
        self.with(object, |state| state.raise(version, cause, process));
    }

    /// Notes that the server has accepted to invalidate everything older than `version`, and the next process must know.
    pub(crate) fn accepted(&self, object: usize, version: u64) {
        self.with(object, |state| state.floor_later = state.floor_later.max(version));
    }

    /// The process is gone: what it had accepted holds for the next one.
    pub(crate) fn restarted(&self) {
        let process = self.restarts.fetch_add(1, Ordering::SeqCst);
        for number in 0..self.states.len() {
            self.with(number, |state| state.raise(state.floor_later, "what was accepted", process));
        }
    }

    /// Returns the least version that an answer may have whose request is sent at `now`.
    pub(crate) fn least(&self, object: usize, now: Instant) -> u64 {
        let lifetime = Duration::from_secs(self.object(object).lifetime) + SLACK;
        self.with(object, |state| {
            let Some(stale_before) = now.checked_sub(lifetime) else { return state.floor };
            let begun = state.began.iter().rev().find(|(began, _)| *began <= stale_before);
            state.floor.max(begun.map_or(1, |(_, version)| *version))
        })
    }

    fn with<T>(&self, object: usize, what: impl FnOnce(&mut State) -> T) -> T {
        what(&mut self.states[object].lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Judges an answer whose content was compared with the edition that its entity tag names; says what is wrong.
    pub(crate) fn judge(&self, asked: &Asked, answer: &Answer) -> Result<Edition, String> {
        let object = self.object(asked.object);
        let path = &object.path;
        let told = |what: String| {
            let (cause, at, process) = self.with(asked.object, |state| state.cause);
            let since = at.elapsed().as_millis();
            let restarts = self.restarts.load(Ordering::SeqCst) - process;
            Err(format!(
                "{path}: {what} (floor by {cause} {since} ms and {restarts} restart(s) ago, {object:?}, {asked:?}, {answer:?})"
            ))
        };
        if !matches!(answer.status, 200 | 206 | 304) {
            return told(format!("status {}", answer.status));
        }
        let Some(edition) = answer.etag.as_deref().and_then(Edition::parse) else {
            return told("no edition is named".into());
        };
        if edition.variant != asked.variant {
            return told("another variant".into());
        }
        if edition.version < asked.least {
            return told(format!("version {} is served, least is {}", edition.version, asked.least));
        }
        let newest = self.version(asked.object);
        if edition.version > newest {
            return told(format!("version {} does not exist, newest is {newest}", edition.version));
        }
        if let Some(at) = answer.wrong_at {
            return told(format!("wrong byte at {at} of version {}", edition.version));
        }
        let whole = object.content_len(edition);
        let due = match (answer.status, asked.range) {
            (200, _) => whole,
            (304, _) if asked.known == Some(edition) => 0,
            (206, Some((from, end))) => {
                let end = end.min(whole);
                let stated = format!("bytes {from}-{}/{whole}", end.saturating_sub(1));
                if answer.content_range.as_deref() != Some(stated.as_str()) {
                    return told(format!("the part is not {stated}"));
                }
                end.saturating_sub(from)
            }
            (status, _) => return told(format!("{status} was not asked for")),
        };
        if answer.status != 304 && answer.stated_len.is_some_and(|stated| stated != due) {
            return told(format!("states another length than {due}"));
        }
        let came_whole = answer.is_part || asked.is_head || answer.len == due;
        if !came_whole {
            told(format!("{} of {due} bytes passed for whole", answer.len))
        } else {
            Ok(edition)
        }
    }
}
