//! Step 4: what becomes of what the origin said, or did not say.
//!
//! Called by the spine for the events of the origin; asks the cache whether to store, freshen or fall back to something stale. Invariants: the
//! origin's own answer is passed on unless something better is known; a stored response is changed only by an answer that is about it.

use aspis_cache::conditional::{self, Validators};
use aspis_cache::freshen::{self, Freshening};
use aspis_cache::invalidate::invalidates;
use aspis_cache::range::{self, ByteRange};
use aspis_cache::reuse::{self, Reuse};
use aspis_cache::status::{ForwardReason, ResultType};
use aspis_cache::storable::storable;
use aspis_cache::stored::StoredMeta;
use aspis_config::Behavior;
use aspis_wire::request::RequestHead;
use aspis_wire::response::{ResponseFraming, ResponseHead};
use aspis_wire::{Field, fields};

use super::facts::{Facts, Sent};
use super::stored::{answer_kind, found_change, freshened_meta, origin_content, whole_head};
use super::{Action, Aged, Conditions, Content, Exchange, FoundChange, Stored, StoredAnswer};
use crate::Now;
use crate::failure::OriginFailure;
use crate::response_head::{joined_fields, stored_fields};

/// What an origin's head answers.
pub(super) struct OriginAnswer<'e> {
    pub(super) head: &'e ResponseHead<'e, 'e>,
    pub(super) request: &'e RequestHead<'e, 'e>,
    pub(super) stored: Option<Stored<'e>>,
}

impl Exchange {
    /// Step 4: freshens, serves stale, or passes the origin's answer on and decides about storing it (RFC 9111 §3, §4.3.3).
    pub(super) fn origin_head(
        &mut self,
        behavior: &Behavior,
        facts: Facts,
        sent: Sent,
        answer: OriginAnswer<'_>,
        now: Now,
    ) -> Action {
        let OriginAnswer { head, request, stored } = answer;
        if head.is_interim() {
            return Action::OutOfOrder;
        }
        if head.status == 101 {
            return self.switched(facts);
        }
        self.fwd_status = Some(head.status);
        if let Some(stored) = stored {
            if sent.conditions == Conditions::Rest && matches!(head.status, 206 | 416) {
                return self.rest(behavior, facts, sent, stored, head, now);
            }
            if head.status == 304 && sent.conditions == Conditions::Stored {
                return self.confirmed(behavior, facts, sent, stored, head, request, now);
            }
            if matches!(head.status, 500 | 502..=504)
                && let Some(answer) = self.stale_answer(behavior, facts, stored, request, now)
            {
                return Action::Answer(answer);
            }
        }
        if head.status == 304 && !facts.may_get_304(sent) {
            return self.origin_failed(behavior, facts, OriginFailure::Invalid, request, stored, now);
        }
        let store = storable(behavior, facts.storing(sent, head, request, now), head, now.wall);
        self.not_stored = store.err();
        let content = origin_content(facts, head, request, now);
        let status = if content == Content::NotModified { 304 } else { head.status };
        self.answered(ResultType::Miss, status);
        Action::RespondOrigin {
            store: store.ok(),
            content,
            invalidate: invalidates(behavior, facts.method.representative(), head.status),
            found: stored
                .map_or(FoundChange::Keep, |stored| found_change(behavior, facts, sent, stored, head, now)),
        }
    }

    /// Step 4 for the rest of a prefix: joins it, or asks for the whole (RFC 9111 §3.4: only on the same strong validator).
    fn rest(
        &mut self,
        behavior: &Behavior,
        facts: Facts,
        sent: Sent,
        stored: Stored<'_>,
        head: &ResponseHead<'_, '_>,
        now: Now,
    ) -> Action {
        let old: Vec<Field<'_>> = stored_fields(stored.head).collect();
        let (before, new) = (Validators::of(&old, 0), Validators::of(head.fields, 0));
        let range = head.field("content-range").and_then(range::parse_content_range);
        let fits = stored.meta.part.is_some_and(|part| {
            range == Some((ByteRange { start: stored.len, end: part.total }, Some(part.total)))
                && head.framing == ResponseFraming::Length(part.total - stored.len)
        });
        if !fits || !conditional::same_strong(before.etag, new.etag) {
            return self.forward(facts, ForwardReason::Partial, Conditions::None, now);
        }
        let fields = joined_fields(stored.head, head);
        let len = stored.len + head.content_length.unwrap_or(0);
        let whole = whole_head(head, 200, &fields, len);
        let store = storable(behavior, facts.storing_get(sent, now), &whole, now.wall);
        self.not_stored = store.err();
        self.answered(ResultType::Miss, 200);
        Action::Join { store: store.ok() }
    }

    /// Step 4 for 304: the stored response is good again, with the fields that came (RFC 9111 §4.3.4, rule 13).
    #[expect(clippy::too_many_arguments, reason = "one straight step; a struct for it would be read once")]
    fn confirmed(
        &mut self,
        behavior: &Behavior,
        facts: Facts,
        sent: Sent,
        stored: Stored<'_>,
        head: &ResponseHead<'_, '_>,
        request: &RequestHead<'_, '_>,
        now: Now,
    ) -> Action {
        let old: Vec<Field<'_>> = stored_fields(stored.head).collect();
        let validators = Validators::of(&old, stored.meta.generated_at);
        if freshen::freshening(&validators, head.fields) == Freshening::Differs {
            // The origin confirmed something that we do not have: only the whole response helps (rule 13).
            let reason = self.reason.unwrap_or(ForwardReason::Stale);
            return self.forward(Facts { directives: None, ..facts }, reason, Conditions::None, now);
        }
        let fields = freshen::merged(old.into_iter(), head.fields);
        let store = freshened_meta(behavior, facts, sent, stored, &fields, head, now);
        self.not_stored = store.err();
        let meta = store.unwrap_or(StoredMeta {
            generated_at: aspis_cache::freshness::generated_at(&fields).unwrap_or(now.wall),
            received_at: now.wall,
            lifetime: 0,
            initial_age: aspis_cache::age::initial_age(
                fields::first(&fields, "age"),
                aspis_cache::freshness::generated_at(&fields),
                sent.delay(now),
                now.wall,
            ),
            ..*stored.meta
        });
        let (Reuse::Fresh { age, ttl } | Reuse::Stale { age, ttl }) = reuse::reuse(&meta, now.wall);
        let validators = Validators::of(&fields, meta.generated_at);
        let kind = answer_kind(facts, meta.status, &validators, request, stored.len);
        let answer =
            self.stored_answer(facts, meta.status, kind, Aged { age, ttl }, ResultType::RefreshHit, false);
        Action::Freshen { store: store.ok(), answer }
    }

    /// Step 4 without an answer: a stale response where that is allowed, else an error of our own (rule 15, H-25).
    pub(super) fn origin_failed(
        &mut self,
        behavior: &Behavior,
        facts: Facts,
        failure: OriginFailure,
        request: &RequestHead<'_, '_>,
        stored: Option<Stored<'_>>,
        now: Now,
    ) -> Action {
        if failure != OriginFailure::ViewerGone
            && let Some(stored) = stored
            && let Some(answer) = self.stale_answer(behavior, facts, stored, request, now)
        {
            return Action::Answer(answer);
        }
        let refused = self.refuse(failure.status());
        self.result = failure.result();
        refused
    }

    /// Step 4 for an error that others asked for: stale where that is allowed, else the same status from us.
    pub(super) fn origin_erred(
        &mut self,
        behavior: &Behavior,
        facts: Facts,
        status: u16,
        request: &RequestHead<'_, '_>,
        stored: Option<Stored<'_>>,
        now: Now,
    ) -> Action {
        let stale = stored.and_then(|stored| self.stale_answer(behavior, facts, stored, request, now));
        // A 304 that nobody asked for is no status for a viewer.
        let status = if status < 500 { OriginFailure::Invalid.status() } else { status };
        stale.map_or_else(|| self.refuse(status), Action::Answer)
    }

    fn stale_answer(
        &mut self,
        behavior: &Behavior,
        facts: Facts,
        stored: Stored<'_>,
        request: &RequestHead<'_, '_>,
        now: Now,
    ) -> Option<StoredAnswer> {
        let (Reuse::Fresh { age, ttl } | Reuse::Stale { age, ttl }) = stored.reuse(now.wall);
        // A part alone answers no request for the whole.
        let refused = facts.guarded || stored.meta.part.is_some();
        if refused || !reuse::serves_on_error(behavior, stored.meta, age, ttl) {
            return None;
        }
        let fields: Vec<Field<'_>> = stored_fields(stored.head).collect();
        let validators = Validators::of(&fields, stored.meta.generated_at);
        let kind = answer_kind(facts, stored.meta.status, &validators, request, stored.len);
        self.on_error = true;
        // H-2: RefreshHit is also the word where stale was served because the origin failed.
        Some(self.stored_answer(
            facts,
            stored.meta.status,
            kind,
            Aged { age, ttl },
            ResultType::RefreshHit,
            false,
        ))
    }

    /// Step 4 for 101: joins the connections if the viewer asked for it (RFC 9110 §7.8).
    fn switched(&mut self, facts: Facts) -> Action {
        if !facts.upgrade {
            return self.refuse(OriginFailure::ProtocolMismatch.status());
        }
        self.answered(ResultType::Miss, 101);
        Action::Tunnel
    }
}
