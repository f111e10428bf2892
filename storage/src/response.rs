//! A stored response: what a cache key leads to, immutable but for a few atomics.
//!
//! The fill's driver makes it once head and body are there; the tier's index and, later, replica tables hold it by `Arc`; hits on
//! any core read it. Invariants: key, head, facts and body never change (a freshened response is a new one over the same body);
//! the atomics only ever move one way, but for the use count, which the tier's owner takes back to zero; once that count is
//! saturated a hit writes nothing here.

use std::sync::Arc;

use aspis_cache::invalidation::{Subject, tags};
use aspis_cache::range::ByteRange;
use aspis_cache::stored::{Part, StoredMeta};
use aspis_wire::fields;

use crate::atomics::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::budget::{Budget, Charge, Purpose};
use crate::heap::{arc_len, class_len};
use crate::limits::USE_COUNT_MAX;
use crate::mapping::body::Body;
use crate::mapping::mapped::MappedBody;
use crate::mapping::prefetch::prefetch;
use crate::parts;
use crate::stored_body::StoredBody;

/// What a stored response is made of.
#[derive(Debug)]
pub struct Parts {
    /// The hash of `key`.
    pub hash: u128,
    /// The canonical cache key.
    pub key: Box<[u8]>,
    /// The serialised response head without the fields that each hit writes anew.
    pub head: Box<[u8]>,
    /// The facts from which reuse is decided.
    pub meta: StoredMeta,
    /// The content.
    pub body: Arc<Body>,
    /// The invalidation number that was current when the origin request was sent.
    pub invalidation: u64,
    /// The hashes of its tags (I-17).
    pub tags: Box<[u64]>,
    /// Of which URI it is a variant, and by which request fields; `None` if its key is the primary one.
    pub variant: Option<VariantOf>,
}

impl Parts {
    /// Returns the bytes that are charged as heads for a response of these parts: what the heap has for them.
    pub fn charged_len(&self) -> u64 {
        let names_len = self.variant.as_ref().map_or(0, |variant| variant.names.len());
        let lens = [self.key.len(), self.head.len(), size_of_val(&*self.tags), names_len];
        let bytes: usize = lens.into_iter().map(class_len).sum();
        (bytes + arc_len::<StoredResponse>() + arc_len::<Body>()) as u64
    }
}

/// What a variant belongs to (RFC 9111 §4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariantOf {
    /// The hash of the primary key.
    pub primary: u128,
    /// How many bytes of the variant's key are the primary key.
    pub primary_len: usize,
    /// The request fields by which it was chosen, in lower case and sorted, separated by commas.
    pub names: Box<str>,
}

/// One stored response.
#[derive(Debug)]
pub struct StoredResponse {
    /// The hash of `key`; a match of it alone proves nothing.
    pub hash: u128,
    /// The canonical cache key, compared in full on every hit.
    pub key: Box<[u8]>,
    /// The serialised response head without the fields that each hit writes anew.
    pub head: Box<[u8]>,
    /// The facts from which reuse is decided.
    pub meta: StoredMeta,
    /// The content.
    pub body: StoredBody,
    /// The hashes of its tags (I-17).
    pub tags: Box<[u64]>,
    /// Of which URI it is a variant; `None` if its key is the primary one.
    pub variant: Option<VariantOf>,
    fresh_until: AtomicU64,
    invalidation: AtomicU64,
    use_count: AtomicU8,
    /// It was used at some time: the count was taken since.
    used: AtomicBool,
    gone: AtomicBool,
    can_be_validated: bool,
    /// Somebody validates it in the background.
    refreshing: AtomicBool,
    /// The disk tier has it, or is about to.
    on_disk: AtomicBool,
    charge: Charge,
}

impl StoredResponse {
    /// Makes a response that is live, unused and fresh for as long as its facts say.
    ///
    /// Key, head and the record itself are charged as heads; `None` when the budget refuses.
    pub fn new(parts: Parts, budget: &Arc<Budget>) -> Option<Arc<StoredResponse>> {
        let charge = budget.reserve(Purpose::Heads, parts.charged_len())?;
        Some(Self::charged(parts, None, charge))
    }

    /// Makes one whose content is mapped, in place of the body that `parts` has.
    pub fn mapped(parts: Parts, body: Arc<MappedBody>, budget: &Arc<Budget>) -> Option<Arc<StoredResponse>> {
        let charge = budget.reserve(Purpose::Heads, parts.charged_len())?;
        Some(Self::charged(parts, Some(body), charge))
    }

    /// Makes one that is not to be kept, for those who wait for it to share while it comes: charged over the limit if need be, since each by
    /// itself would take far more.
    pub fn under_way(parts: Parts, budget: &Arc<Budget>) -> Arc<StoredResponse> {
        let mut charge = budget.reserve(Purpose::Heads, 0).expect("nothing always fits into a budget");
        charge.set(parts.charged_len());
        Self::charged(parts, None, charge)
    }

    fn charged(parts: Parts, mapped: Option<Arc<MappedBody>>, charge: Charge) -> Arc<StoredResponse> {
        let Parts { hash, key, head, meta, body, invalidation, tags, variant } = parts;
        let body = mapped.map_or(StoredBody::Memory(body), StoredBody::Mapped);
        let can_be_validated = names_a_validator(&head);
        Arc::new(StoredResponse {
            hash,
            key,
            head,
            meta,
            body,
            tags,
            variant,
            fresh_until: AtomicU64::new(meta.fresh_until()),
            invalidation: AtomicU64::new(invalidation),
            use_count: AtomicU8::new(0),
            used: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            can_be_validated,
            refreshing: AtomicBool::new(false),
            on_disk: AtomicBool::new(false),
            charge,
        })
    }

    /// Returns the first wall second at which the response is not fresh.
    pub fn fresh_until(&self) -> u64 {
        self.fresh_until.load(Ordering::Relaxed)
    }

    /// Ends the response's freshness at wall second `at`, unless it ends before that anyway.
    ///
    /// It cannot be made longer: a response that was validated is a new one, with its own head.
    pub fn shorten_fresh_until(&self, at: u64) {
        self.fresh_until.fetch_min(at, Ordering::Relaxed);
    }

    /// Returns the number up to which this response was held against the invalidation rules.
    ///
    /// Who reads it also sees the end of freshness that those rules brought.
    #[inline]
    pub fn invalidation(&self) -> u64 {
        self.invalidation.load(Ordering::Acquire)
    }

    /// Returns what invalidation rules are held against.
    pub fn subject(&self) -> Subject<'_> {
        Subject { key: &self.key, tags: &self.tags }
    }

    /// Notes that the rules up to `number` have done to this response what they do.
    pub fn raise_invalidation(&self, number: u64) {
        // The load first: on a hot response that is up to date nothing is written to the shared line.
        if self.invalidation() < number {
            self.invalidation.fetch_max(number, Ordering::AcqRel);
        }
    }

    /// Asks the processor for what a hit reads next, head and the beginning of the body, while the caller is busy with something else.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self.head.as_ptr());
        self.body.prefetch();
    }

    /// Counts a use; writes nothing once the count is saturated.
    pub fn note_use(&self) {
        let count = self.use_count.load(Ordering::Relaxed);
        if count < USE_COUNT_MAX {
            // Two cores at once may count one use between them; the count is a hint and stays within its bound.
            self.use_count.store(count + 1, Ordering::Relaxed);
        }
    }

    /// Returns the uses counted since they were taken last, at most 3.
    pub fn uses(&self) -> u8 {
        self.use_count.load(Ordering::Relaxed)
    }

    /// Returns the uses counted since the last call, at most 3, and starts again; for the eviction policy.
    pub fn take_uses(&self) -> u8 {
        match self.use_count.load(Ordering::Relaxed) {
            0 => 0,
            _ => {
                self.used.store(true, Ordering::Relaxed);
                self.use_count.swap(0, Ordering::Relaxed)
            }
        }
    }

    /// Tells whether it was ever used, whoever took the count since.
    pub fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed) || self.uses() > 0
    }

    /// Tells whether the disk tier has the response, or is about to.
    pub fn is_on_disk(&self) -> bool {
        self.on_disk.load(Ordering::Relaxed)
    }

    /// Notes whether the disk tier has the response.
    pub fn set_on_disk(&self, is_on_disk: bool) {
        self.on_disk.store(is_on_disk, Ordering::Relaxed);
    }

    /// Takes the right to validate the response in the background; false while somebody has it.
    pub fn claim_refresh(&self) -> bool {
        // The load first: many stale hits ask, and one of them gets it.
        !self.refreshing.load(Ordering::Relaxed) && !self.refreshing.swap(true, Ordering::Relaxed)
    }

    /// Gives that right back.
    pub fn release_refresh(&self) {
        self.refreshing.store(false, Ordering::Relaxed);
    }

    /// Tells whether the response may still be served: it was neither evicted, replaced nor invalidated.
    pub fn is_live(&self) -> bool {
        !self.gone.load(Ordering::Acquire)
    }

    /// Takes the response out of service for good; sends that run go on.
    pub fn mark_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Returns under which number the response stands in its owner's index: the hash of its key, or for a part one of its own.
    ///
    /// Of a part whose body is not complete this is not yet the place where it will stand.
    pub(crate) fn place(&self) -> u128 {
        self.meta.part.map_or(self.hash, |part| parts::place(self.hash, self.range(part)))
    }

    /// Returns which bytes of the whole a part is.
    pub fn range(&self, part: Part) -> ByteRange {
        ByteRange { start: part.start, end: part.start + self.body.published() }
    }

    /// Tells whether the head has a validator, so that the origin may confirm the response instead of sending it again.
    pub fn can_be_validated(&self) -> bool {
        self.can_be_validated
    }

    /// Returns the value of a field that is there once; `name` is in lower case.
    pub(crate) fn single_field(&self, name: &str) -> Option<&[u8]> {
        let mut lines =
            field_lines(&self.head).filter(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
        let (_, value) = lines.next()?;
        (lines.next().is_none() && !value.is_empty()).then_some(value)
    }

    /// Returns the bytes that are charged for this response: payload, key, head and records.
    pub fn charged_len(&self) -> u64 {
        self.body.charged_len() + self.charge.bytes()
    }
}

/// Reads the tags of a serialised head (I-17); `extra_header` is the operator's own field for them.
pub fn tags_of(head: &[u8], extra_header: Option<&str>) -> Box<[u64]> {
    tags::of_fields(field_lines(head), extra_header)
}

/// Looks for ETag or Last-Modified in a serialised head; in doubt there is one.
fn names_a_validator(head: &[u8]) -> bool {
    field_lines(head)
        .any(|(name, _)| name.eq_ignore_ascii_case(b"etag") || name.eq_ignore_ascii_case(b"last-modified"))
}

/// Names and values of a serialised head.
fn field_lines(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let value = &line[colon + 1..];
        Some((&line[..colon], fields::trim(value.strip_suffix(b"\r").unwrap_or(value))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::arena::Arena;

    #[test]
    fn a_validator_is_found_in_the_head() {
        for (head, found) in [
            ("HTTP/1.1 200 OK\r\nETag: \"a\"\r\n", true),
            ("HTTP/1.1 200 OK\r\nDate: x\r\nlast-modified: y\r\n", true),
            ("HTTP/1.1 200 OK\r\nDate: x\r\nX-ETag: y\r\nX: etag: z\r\n", false),
            ("HTTP/1.1 200 OK\r\n", false),
            ("", false),
        ] {
            assert_eq!(names_a_validator(head.as_bytes()), found, "{head}");
        }
    }

    fn response(budget: &Arc<Budget>) -> Option<Arc<StoredResponse>> {
        let arena = Arena::new(1, Budget::new(1 << 20)).unwrap();
        let mut writer = Body::writer(&arena, Some(3));
        assert_eq!(writer.append(b"abc"), 3);
        let body = Arc::clone(writer.body());
        writer.complete();
        let meta = StoredMeta {
            generated_at: 990,
            received_at: 1000,
            initial_age: 10,
            lifetime: 60,
            ..StoredMeta::PLAIN
        };
        let (key, head) = (b"key".to_vec().into(), b"HTTP/1.1 200 OK\r\n".to_vec().into());
        let tags = tags_of(b"HTTP/1.1 200 OK\r\nxkey: a b\r\nCache-Tag: c\r\n", None);
        let parts = Parts { hash: 7, key, head, meta, body, invalidation: 5, tags, variant: None };
        StoredResponse::new(parts, budget)
    }

    #[test]
    fn key_head_tags_and_records_are_charged_as_heads_until_the_last_handle_goes() {
        let budget = Budget::new(10_000);
        let one = response(&budget).unwrap();
        let own = (16 + 32 + 32 + arc_len::<StoredResponse>() + arc_len::<Body>()) as u64;
        assert_eq!((budget.used(Purpose::Heads), one.charged_len()), (own, own + 512));
        let other = Arc::clone(&one);
        drop(one);
        assert_eq!(budget.used(Purpose::Heads), own);
        drop(other);
        assert_eq!(budget.used_total(), 0);
        assert!(response(&Budget::new(own - 1)).is_none());
    }

    #[test]
    fn what_is_shared_while_it_comes_is_charged_over_the_limit_too() {
        let budget = Budget::new(10);
        let meta = StoredMeta { lifetime: 60, ..StoredMeta::PLAIN };
        let arena = Arena::new(1, Budget::new(1 << 22)).unwrap();
        let body = Arc::clone(Body::writer(&arena, None).body());
        let (key, head) = (Box::from(*b"key"), Box::from(*b"HTTP/1.1 200 OK\r\n"));
        let (tags, variant) = (Box::default(), None);
        let parts = Parts { hash: 7, key, head, meta, body, invalidation: 5, tags, variant };
        let len = parts.charged_len();
        let shared = StoredResponse::under_way(parts, &budget);
        assert_eq!((budget.used(Purpose::Heads), budget.available()), (len, 0));
        drop(shared);
        assert_eq!(budget.used_total(), 0);
    }

    #[test]
    fn freshness_begins_as_the_facts_say_and_only_shrinks() {
        let response = response(&Budget::new(10_000)).unwrap();
        assert_eq!(response.fresh_until(), response.meta.fresh_until());
        response.shorten_fresh_until(1020);
        response.shorten_fresh_until(1040);
        assert_eq!(response.fresh_until(), 1020);
    }

    #[test]
    fn the_invalidation_number_never_falls() {
        let response = response(&Budget::new(10_000)).unwrap();
        response.raise_invalidation(4);
        assert_eq!(response.invalidation(), 5);
        response.raise_invalidation(9);
        response.raise_invalidation(8);
        assert_eq!(response.invalidation(), 9);
    }

    #[test]
    fn the_use_count_saturates_and_starts_again() {
        let response = response(&Budget::new(10_000)).unwrap();
        assert_eq!(response.take_uses(), 0);
        assert!(!response.was_used());
        (0..9).for_each(|_| response.note_use());
        assert!(response.was_used());
        assert_eq!((response.take_uses(), response.take_uses()), (USE_COUNT_MAX, 0));
        assert!(response.was_used(), "for good");
    }

    #[test]
    fn one_at_a_time_validates_in_the_background() {
        let response = response(&Budget::new(10_000)).unwrap();
        assert!(response.claim_refresh() && !response.claim_refresh());
        response.release_refresh();
        assert!(response.claim_refresh());
    }

    #[test]
    fn gone_is_for_good() {
        let response = response(&Budget::new(10_000)).unwrap();
        assert!(response.is_live());
        response.mark_gone();
        assert!(!response.is_live());
    }
}
