//! What becomes of a stored response: which part of it answers, and what a 304 or a HEAD's answer makes of it.
//!
//! Asked by the steps that found one. Invariant: content is never changed here, only facts and fields about it.

use aspis_cache::conditional::{self, Validators, Verdict};
use aspis_cache::freshen::{self, HeadAnswer};
use aspis_cache::range::{self, Selection};
use aspis_cache::storable::{NotStored, has_targeted, storable};
use aspis_cache::stored::StoredMeta;
use aspis_cache::vary;
use aspis_config::Behavior;
use aspis_config::behavior::OriginAge;
use aspis_wire::Field;
use aspis_wire::request::RequestHead;
use aspis_wire::response::{ResponseFraming, ResponseHead};

use super::facts::{Facts, MethodKind, Sent};
use super::{AnswerKind, Content, FoundChange, Stored};
use crate::Now;
use crate::response_head::stored_fields;

/// What of a stored response this request gets (RFC 9110 §13.2.2, rule 12, rule 14).
pub(super) fn answer_kind(
    facts: Facts,
    status: u16,
    validators: &Validators<'_>,
    request: &RequestHead<'_, '_>,
    len: u64,
) -> AnswerKind {
    // RFC 9110 §13.2.1: preconditions count only where the answer would be a success without them.
    if !(200..300).contains(&status) {
        return AnswerKind::Whole;
    }
    if facts.conditional || facts.guarded {
        match conditional::evaluate(request.fields, validators) {
            Verdict::Proceed => {}
            Verdict::NotModified => return AnswerKind::NotModified,
            Verdict::Failed => return AnswerKind::PreconditionFailed,
        }
    }
    let ranged = facts.range && facts.method == MethodKind::Get && status == 200;
    if !ranged || !conditional::range_applies(request.fields, validators) {
        return AnswerKind::Whole;
    }
    match range::select(request.fields, len) {
        Selection::Whole => AnswerKind::Whole,
        Selection::Unsatisfiable => AnswerKind::Unsatisfiable,
        Selection::Parts(ranges) => match ranges.as_slice() {
            [one] => AnswerKind::Part(*one),
            _ => AnswerKind::Parts,
        },
    }
}

/// What of an origin's answer the viewer gets. Its own If-None-Match is held against what a validation of ours brought instead of a 304,
/// and against what a shared fetch brought, which went out without it (RFC 9110 §13.1.2).
pub(super) fn origin_content(
    facts: Facts,
    head: &ResponseHead<'_, '_>,
    request: &RequestHead<'_, '_>,
    now: Now,
) -> Content {
    if facts.method == MethodKind::Head || head.framing == ResponseFraming::None {
        return Content::None;
    }
    // A part is of the representation that its fields describe, and If-None-Match goes before Range (RFC 9110 §13.2.2).
    let is_success = head.status == 200 || (head.status == 206 && facts.range);
    let judged = facts.conditional && facts.may_store() && !facts.guarded && is_success;
    if judged {
        let generated_at = aspis_cache::freshness::generated_at(head.fields).unwrap_or(now.wall);
        let validators = Validators::of(head.fields, generated_at);
        if conditional::evaluate(request.fields, &validators) == Verdict::NotModified {
            return Content::NotModified;
        }
    }
    Content::Follows
}

/// The facts of a stored response with new fields; its content is what it was.
pub(super) fn freshened_meta(
    behavior: &Behavior,
    facts: Facts,
    sent: Sent,
    stored: Stored<'_>,
    fields: &[Field<'_>],
    update: &ResponseHead<'_, '_>,
    now: Now,
) -> Result<StoredMeta, NotStored> {
    let head = whole_head(update, stored.meta.status, fields, stored.len);
    let request = facts.storing_get(sent, now);
    // A response that varies by other fields than it was stored under would be found by requests that it was not chosen for.
    let old: Vec<Field<'_>> = stored_fields(stored.head).collect();
    if vary::varies(&old) != vary::varies(fields) {
        return Err(NotStored::Vary);
    }
    if !stored.meta.targeted || has_targeted(behavior, fields) {
        return storable(behavior, request, &head, now.wall);
    }
    // The targeted field is not among the stored ones, so what it said lasts until another comes: still in place of Cache-Control and
    // Expires. What it said about sharing is not known any more, so an authorised request does not freshen it.
    let StoredMeta { lifetime, stale_while_revalidate, stale_if_error, forbids_stale, .. } = *stored.meta;
    let said = format!("max-age={}", ttl_at_arrival(behavior, stored.meta));
    let is_replaced = |field: &Field<'_>| {
        field.name.eq_ignore_ascii_case("cache-control") || field.name.eq_ignore_ascii_case("expires")
    };
    let mut fields: Vec<Field<'_>> = fields.iter().filter(|field| !is_replaced(field)).copied().collect();
    fields.push(Field { name: "Cache-Control", value: said.as_bytes() });
    let head = ResponseHead { fields: &fields, ..head };
    let meta = storable(behavior, request, &head, now.wall)?;
    // A lifetime of zero may be that of `no-cache`, which no minimum lifts.
    let lifetime = if lifetime == 0 { 0 } else { meta.lifetime };
    Ok(StoredMeta { lifetime, stale_while_revalidate, stale_if_error, forbids_stale, targeted: true, ..meta })
}

/// The lifetime without what the age at arrival added to it (T-16).
fn ttl_at_arrival(behavior: &Behavior, meta: &StoredMeta) -> u32 {
    match behavior.origin_age {
        OriginAge::Counts => meta.lifetime,
        OriginAge::Ignored => meta.lifetime.saturating_sub(meta.initial_age),
    }
}

/// What the answer to a HEAD does to a stored GET (RFC 9111 §4.3.5).
pub(super) fn found_change(
    behavior: &Behavior,
    facts: Facts,
    sent: Sent,
    stored: Stored<'_>,
    head: &ResponseHead<'_, '_>,
    now: Now,
) -> FoundChange {
    let asked_not_to = facts.directives.is_some_and(|directives| directives.no_store);
    if facts.method != MethodKind::Head || head.status != 200 || stored.meta.status != 200 || asked_not_to {
        return FoundChange::Keep;
    }
    let old: Vec<Field<'_>> = stored_fields(stored.head).collect();
    let validators = Validators::of(&old, stored.meta.generated_at);
    match freshen::head_answer(&validators, stored.len, head.fields, head.content_length) {
        HeadAnswer::Unknown => FoundChange::Keep,
        HeadAnswer::Other => FoundChange::Forget,
        HeadAnswer::Same => {
            let fields = freshen::merged(old.into_iter(), head.fields);
            freshened_meta(behavior, facts, sent, stored, &fields, head, now)
                .map_or(FoundChange::Forget, FoundChange::Update)
        }
    }
}

/// The head of a whole response with these fields and that much content.
pub(crate) fn whole_head<'b, 'h>(
    like: &ResponseHead<'b, '_>,
    status: u16,
    fields: &'h [Field<'b>],
    len: u64,
) -> ResponseHead<'b, 'h> {
    ResponseHead {
        version: like.version,
        status,
        reason: b"",
        fields,
        framing: ResponseFraming::Length(len),
        content_length: Some(len),
        keep_alive: true,
        len: 0,
    }
}
