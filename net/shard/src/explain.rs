//! What does the cache know about a request, and what would become of it now? For operators who ask why (`aspis explain`).
//!
//! The control thread asks through [`Shards::explain`](crate::Shards::explain); the owner of the key answers from its tier, its flights and its
//! rules. Invariant: to ask changes nothing: no use is counted, nothing is marked or fetched.

use std::fmt;
use std::sync::Arc;

use aspis_cache::invalidation::Verdict;
use aspis_cache::key;
use aspis_cache::reuse::{Reuse, serves_while_revalidating};
use aspis_exchange::ViewerFacts;
use aspis_storage::response::StoredResponse;
use aspis_wire::FieldSlots;
use aspis_wire::request::parse_request;

use crate::shard::Shard;
use crate::storing::view_of;

/// A question on its way to the owner of its key.
pub(crate) struct Question {
    /// The head of a GET as a viewer would send it.
    pub(crate) head: Box<[u8]>,
    /// Hash and bytes of the primary key.
    pub(crate) key: (u128, Box<[u8]>),
    pub(crate) done: Box<dyn FnOnce(Explanation) + Send>,
}

/// What the owner of a key knows.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The primary key: scheme, authority, path with query, each on a line.
    pub key: Box<[u8]>,
    /// Its hash.
    pub hash: u128,
    /// The core that owns it.
    pub owner_core: usize,
    /// What the request would be answered from, if it is stored.
    pub stored: Option<StoredFacts>,
    /// The request fields by which the URI varies; empty if it does not.
    pub varies_by: String,
    /// How many variants of it are stored.
    pub variants: usize,
    /// How many parts of it are stored.
    pub parts: usize,
    /// Its response, or the note by what it varies or which parts of it are there, seems to lie on disk; whether it can be used shows when it is read.
    pub on_disk: bool,
    /// A fetch is under way that the request would join.
    pub in_flight: bool,
    /// For so many more milliseconds its requests go to the origin each by itself, because a response was for one viewer only (C-13).
    pub alone_for_millis: Option<u64>,
    /// The number of the newest invalidation that this core holds its answers against.
    pub rules_applied: u64,
    /// What would become of the request now, in a sentence.
    pub why: Why,
}

/// Facts of a stored response.
#[derive(Clone, Debug)]
pub struct StoredFacts {
    /// Its status.
    pub status: u16,
    /// Its age in seconds (RFC 9111 §4.2.3).
    pub age: u32,
    /// Its freshness lifetime in seconds.
    pub lifetime: u32,
    /// Seconds of freshness left; zero or below if it is stale.
    pub ttl: i64,
    /// The length of its content.
    pub len: u64,
    /// How many tags it has.
    pub tags: usize,
    /// The number up to which it was held against the invalidations, or at which it was asked for.
    pub number: u64,
    /// Uses counted since the eviction looked last; it counts to 3.
    pub uses: u8,
    /// It has a validator.
    pub can_be_validated: bool,
    /// Its content is sent from the page cache, through the mapping of its volume.
    pub mapped: bool,
}

/// What would become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is a hit.
    Fresh {
        /// Seconds of freshness left.
        ttl: i64,
    },
    /// What is stored is stale, and is served while it is validated.
    Revalidated {
        /// Seconds since it stopped being fresh.
        stale_for: i64,
    },
    /// What is stored is stale, and is validated first.
    Validated {
        /// Seconds since it stopped being fresh.
        stale_for: i64,
        /// A soft invalidation ended its freshness.
        soft: bool,
    },
    /// What is stored is stale and has no validator: it is fetched anew.
    Stale {
        /// Seconds since it stopped being fresh.
        stale_for: i64,
        /// A soft invalidation ended its freshness.
        soft: bool,
    },
    /// What is stored is of no more use.
    Purged {
        /// The number of the newest invalidation that concerns it.
        number: u64,
    },
    /// It would join a fetch that is under way.
    InFlight,
    /// It is not in memory, and is looked for on disk.
    OnDisk,
    /// It goes to the origin by itself.
    Alone,
    /// Variants are stored, but none for its fields.
    OtherVariants,
    /// Parts are stored; they may answer a request for a range.
    OnlyParts,
    /// Nothing is known.
    Nothing,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |soft| if soft { "since a soft purge" } else { "" };
        let pad = |soft| if soft { " " } else { "" };
        match *self {
            Why::Fresh { ttl } => write!(f, "a hit: it is fresh for {ttl} s more"),
            Why::Revalidated { stale_for } => {
                write!(f, "stale for {stale_for} s: it is served while it is validated in the background")
            }
            Why::Validated { stale_for, soft } => {
                write!(f, "stale for {stale_for} s{}{}: the next request validates it", pad(soft), end(soft))
            }
            Why::Stale { stale_for, soft } => write!(
                f,
                "stale for {stale_for} s{}{}, and without a validator: the next request fetches it",
                pad(soft),
                end(soft)
            ),
            Why::Purged { number } => write!(f, "purged by invalidation {number}: the next request fetches it"),
            Why::InFlight => f.write_str("not stored yet: a fetch is under way, which the next request joins"),
            Why::OnDisk => f.write_str("not in memory: the next request finds it on disk, if it is still of use"),
            Why::Alone => f.write_str(
                "not stored: the last response was not for everybody, so for a while each request goes to the origin by itself",
            ),
            Why::OtherVariants => f.write_str("variants are stored, but none for these request fields"),
            Why::OnlyParts => f.write_str("only parts are stored: they answer requests for ranges within them"),
            Why::Nothing => f.write_str(
                "not stored: nobody asked for it lately, or its responses may not be stored, or it made room for others",
            ),
        }
    }
}

impl Shard {
    /// Answers a question about a key of this core.
    pub(crate) fn explain(&self, question: Question) {
        let Question { head, key, done } = question;
        done(self.explanation(&head, &key));
    }

    fn explanation(&self, head: &[u8], primary: &(u128, Box<[u8]>)) -> Explanation {
        let mut slots = FieldSlots::new();
        let selected = match parse_request(head, &mut slots, &self.head_limits) {
            Ok(Some(request)) => self.selected_key(primary, &request),
            // It was parsed when it was asked.
            Ok(None) | Err(_) => None,
        };
        let (hash, bytes) = primary;
        let (now, store, collapse) = (self.now(), self.store.borrow(), self.owner.collapse.borrow());
        let all: Vec<&Arc<StoredResponse>> =
            store.of_uri(*hash, bytes).filter(|stored| stored.is_live()).collect();
        let found =
            selected.as_ref().and_then(|selected| all.iter().find(|stored| *stored.key == **selected));
        let on_disk = [Some(*hash), selected.as_deref().map(key::hash)];
        let on_disk = on_disk.into_iter().flatten().any(|under| self.has_on_disk(*hash, under));
        let only_parts = self.restores.markers.borrow().parts(*hash, bytes).is_some();
        let in_flight = selected.as_ref().is_some_and(|selected| self.flies(primary, selected));
        let alone_for_millis = collapse.marked_until(*hash, now).map(|until| until - now.millis);
        let count = |of: fn(&StoredResponse) -> bool| all.iter().filter(|stored| of(stored)).count();
        let (variants, parts) = (count(|one| one.variant.is_some()), count(|one| one.meta.part.is_some()));
        let why = match found {
            Some(stored) => self.why_of(stored),
            None if in_flight => Why::InFlight,
            None if on_disk && !only_parts => Why::OnDisk,
            None if alone_for_millis.is_some() => Why::Alone,
            None if variants > 0 => Why::OtherVariants,
            None if parts > 0 || only_parts => Why::OnlyParts,
            None => Why::Nothing,
        };
        Explanation {
            key: bytes.clone(),
            hash: *hash,
            owner_core: self.core,
            stored: found.map(|stored| self.facts_of(stored)),
            varies_by: store
                .vary_names(*hash, bytes)
                .or_else(|| collapse.names(*hash, bytes))
                .unwrap_or_default()
                .into(),
            variants,
            parts,
            on_disk,
            in_flight,
            alone_for_millis,
            rules_applied: self.rules.latest(),
            why,
        }
    }

    fn why_of(&self, stored: &StoredResponse) -> Why {
        if let Some(number) = self.purged_by(stored) {
            return Why::Purged { number };
        }
        let now = self.now().wall;
        let is_soft = self.rules.judge(&stored.subject(), stored.invalidation()) == Verdict::Stale;
        let soft = is_soft || stored.fresh_until() < stored.meta.fresh_until();
        match view_of(stored).reuse(now) {
            Reuse::Fresh { ttl, .. } if !is_soft => Why::Fresh { ttl },
            Reuse::Fresh { age, ttl } | Reuse::Stale { age, ttl } => {
                let (ttl, stale_for) = (ttl.min(0), -ttl.min(0));
                if serves_while_revalidating(&self.behavior, &stored.meta, age, ttl) {
                    Why::Revalidated { stale_for }
                } else if stored.can_be_validated() {
                    Why::Validated { stale_for, soft }
                } else {
                    Why::Stale { stale_for, soft }
                }
            }
        }
    }

    /// The number of the newest rule that makes a response useless: rules older than it do no more than it does.
    fn purged_by(&self, stored: &StoredResponse) -> Option<u64> {
        let is_gone = |checked| self.rules.judge(&stored.subject(), checked) == Verdict::Gone;
        let (mut gone, mut kept) = (stored.invalidation(), self.rules.latest());
        if !is_gone(gone) {
            return None;
        }
        while kept - gone > 1 {
            let middle = gone + (kept - gone) / 2;
            if is_gone(middle) { gone = middle } else { kept = middle }
        }
        Some(kept)
    }

    fn facts_of(&self, stored: &StoredResponse) -> StoredFacts {
        let reuse = view_of(stored).reuse(self.now().wall);
        let (Reuse::Fresh { age, ttl } | Reuse::Stale { age, ttl }) = reuse;
        StoredFacts {
            status: stored.meta.status,
            age,
            lifetime: stored.meta.lifetime,
            ttl,
            len: stored.body.published(),
            tags: stored.tags.len(),
            number: stored.invalidation(),
            uses: stored.uses(),
            can_be_validated: stored.can_be_validated(),
            mapped: stored.body.mapped().is_some(),
        }
    }
}

/// Reads a question: the head of a GET, and who asks. The error says what is wrong with it.
pub(crate) fn question(
    head: Box<[u8]>,
    viewer: &ViewerFacts,
    done: Box<dyn FnOnce(Explanation) + Send>,
) -> Result<Question, &'static str> {
    let mut slots = FieldSlots::new();
    let request = match parse_request(&head, &mut slots, &aspis_wire::HeadLimits::default()) {
        Ok(Some(request)) => request,
        Ok(None) | Err(_) => return Err("this makes no request"),
    };
    if !request.path_and_query.starts_with('/') {
        return Err("the target is no path");
    }
    let mut key = Vec::new();
    aspis_exchange::forwarded::write_request_key(&request, viewer, request.path_and_query, &mut key);
    let key = (key::hash(&key), key.into_boxed_slice());
    Ok(Question { head, key, done })
}
