//! Holds the order in which one request is answered. Nothing else does.
//!
//! The driver loops [`Exchange::step`]: it gives what happened and does what comes back. Events borrow the heads, the state owns a few numbers,
//! so the hit path allocates nothing and a waiting exchange costs `size_of::<Exchange>()`.
//!
//! ```text
//! Start ──Request──▶ refused ─────────────────────────────────────▶ Answered
//!   │                                                                  ▲
//!   ├─ cache asked ▶ LookingUp ──Found: fresh, or stale and allowed────┤ RespondStored, Answer
//!   │                 │  ▲└─────Found, stale | NotFound──▶ Forwarded ──┤ RespondOrigin
//!   │                 └──┘ Varies: the variant's key      │  ▲  │      │ Freshen (304), Answer (origin failed; Arrived, Found)
//!   └─ bypass ────────────────────────────────────────────┘  └──┘      │ Refuse (OriginFailed, OriginErred)
//!                                    304 of another strong ETag: again └ Tunnel (101)
//!                                    Arrived, another variant: AskAgain
//! Answered ──OriginBodyFailed──▶ Answered, with result Error: Cut
//! ```
//! Invariants: an event that cannot happen in a state gives [`Action::OutOfOrder`] and changes nothing; exactly one answer is
//! given per exchange, and after it result, status and forward reason are final but for a body that breaks.

use aspis_cache::conditional::{self, Validators};
use aspis_cache::freshen::{self, Freshening};
use aspis_cache::invalidate::invalidates;
use aspis_cache::key::{PART_SUFFIX, hash};
use aspis_cache::range::{self, ByteRange, Selection};
use aspis_cache::request_directives::{Asked, request_directives};
use aspis_cache::reuse::{self, Bypass, Reuse};
use aspis_cache::status::{ForwardReason, ResultType};
use aspis_cache::storable::{NotStored, storable};
use aspis_cache::stored::StoredMeta;
use aspis_cache::vary;
use aspis_config::Behavior;
use aspis_wire::request::RequestHead;
use aspis_wire::response::{ResponseFraming, ResponseHead};
use aspis_wire::{Field, fields};

mod action;
mod arrived;
mod facts;
mod stored;

pub use action::{
    Action, AnswerKind, Arriving, Collapsing, Conditions, Content, Event, Forward, FoundChange, Role, Stored,
    StoredAnswer, Variant,
};
pub(crate) use stored::whole_head;

use facts::{Facts, MethodKind, Sent, refusal};
use stored::{answer_kind, found_change, freshened_meta, origin_content};

use crate::Now;
use crate::failure::OriginFailure;
use crate::forwarded::{ViewerFacts, write_request_key};
use crate::response_head::{joined_fields, stored_fields};

/// The longest stored prefix that the rest is asked for: joining copies it in one turn.
pub const JOIN_LEN_MAX: u64 = 1024 * 1024;

/// One request and its response.
#[derive(Debug)]
pub struct Exchange {
    state: State,
    result: ResultType,
    reason: Option<ForwardReason>,
    status: u16,
    not_stored: Option<NotStored>,
    fwd_status: Option<u16>,
    on_error: bool,
    collapsed: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Start,
    LookingUp(Facts, Asking),
    Forwarded(Facts, Sent),
    Answered,
}

/// Which key is being looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    Primary,
    Variant,
    Part,
}

// Thousands of exchanges wait at once, so each is kept small.
const _: () = assert!(size_of::<State>() <= 256);
const _: () = assert!(size_of::<Exchange>() <= 256);

impl Default for Exchange {
    fn default() -> Self {
        Self::new()
    }
}

impl Exchange {
    /// Returns an exchange that waits for its request.
    pub const fn new() -> Self {
        Self {
            state: State::Start,
            result: ResultType::Miss,
            reason: None,
            status: 0,
            not_stored: None,
            fwd_status: None,
            on_error: false,
            collapsed: false,
        }
    }

    /// Returns an exchange without a viewer that has sent a GET for all who wait for its answer, or to validate a stored response in
    /// the background (RFC 5861 §3).
    ///
    /// Its request carries these conditions, of the viewer's the Range alone; its answers tell what to store.
    pub fn flight(head: &RequestHead<'_, '_>, conditions: Conditions, now: Now) -> Self {
        let facts = Facts {
            method: MethodKind::Get,
            cacheable: true,
            authorization: head.field("authorization").is_some(),
            upgrade: false,
            conditional: false,
            guarded: false,
            range: conditions == Conditions::Viewer && head.field("range").is_some(),
            directives: None,
        };
        let mut exchange = Self::new();
        exchange.reason = Some(ForwardReason::Miss);
        exchange.state = State::Forwarded(facts, Sent { requested_at: now.wall, conditions });
        exchange
    }

    /// Takes what happened and returns what to do.
    #[inline]
    pub fn step(&mut self, behavior: &Behavior, event: Event<'_>, now: Now) -> Action {
        match (self.state, event) {
            (State::Start, Event::Request { head, viewer, key_buffer }) => {
                self.request(behavior, head, viewer, key_buffer, now)
            }
            (State::LookingUp(facts, Asking::Primary), Event::Varies { names, head, key_buffer }) => {
                self.varies(behavior, facts, names, head, key_buffer, now)
            }
            (State::LookingUp(facts, Asking::Primary), Event::NotWhole { key_buffer }) => {
                self.part(facts, key_buffer, now)
            }
            (State::LookingUp(facts, Asking::Part), Event::Found { stored, head }) => {
                self.found_part(facts, stored, head, now)
            }
            (State::LookingUp(facts, _), Event::Found { stored, head }) => {
                self.found(behavior, facts, stored, head, now)
            }
            (State::LookingUp(facts, asking), Event::NotFound) => {
                let reason = match asking {
                    Asking::Primary | Asking::Part => ForwardReason::UriMiss,
                    Asking::Variant => ForwardReason::VaryMiss,
                };
                self.forward(facts, reason, Conditions::Viewer, now)
            }
            (State::Forwarded(facts, _), Event::Found { stored, head }) if stored.meta.part.is_some() => {
                self.found_part(facts, stored, head, now)
            }
            (State::Forwarded(facts, _), Event::Found { stored, head }) => {
                self.found(behavior, facts, stored, head, now)
            }
            (State::Forwarded(facts, sent), Event::Arrived { arriving, role, request, key_buffer }) => {
                let facts = (facts, sent);
                self.arrived(behavior, facts, arrived::Arrival { arriving, role, request, key_buffer }, now)
            }
            (State::Forwarded(facts, _), Event::OriginErred { status, role, request, stored }) => {
                self.collapsed = role == Role::Collapsed;
                self.origin_erred(behavior, facts, status, request, stored, now)
            }
            (State::Forwarded(facts, sent), Event::OriginHead { head, request, stored }) => {
                self.origin_head(behavior, facts, sent, OriginAnswer { head, request, stored }, now)
            }
            (State::Forwarded(facts, _), Event::OriginFailed { failure, request, stored }) => {
                self.origin_failed(behavior, facts, failure, request, stored, now)
            }
            (State::Answered, Event::OriginBodyFailed(_)) => self.cut(),
            _ => Action::OutOfOrder,
        }
    }

    /// Returns the result type: one per log record, final once the body is through.
    pub fn result(&self) -> ResultType {
        self.result
    }

    /// Returns why the request went to the origin; `None` if it did not.
    pub fn forward_reason(&self) -> Option<ForwardReason> {
        self.reason
    }

    /// Returns the status that the viewer got; 0 before the answer.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns why the origin's response was not stored; `None` before it came, or if it was.
    pub fn not_stored(&self) -> Option<NotStored> {
        self.not_stored
    }

    /// Returns the origin's final status, if one came.
    pub fn forward_status(&self) -> Option<u16> {
        self.fwd_status
    }

    /// Tells whether the fetch was another request's (RFC 9211 §2.6).
    pub fn is_collapsed(&self) -> bool {
        self.collapsed
    }

    /// Tells whether a stale response was served because the origin failed.
    pub fn is_stale_on_error(&self) -> bool {
        self.on_error
    }

    /// Step 1: refuses what is not served, sends past the cache what it cannot answer, and asks the cache for the rest.
    fn request(
        &mut self,
        behavior: &Behavior,
        head: &RequestHead<'_, '_>,
        viewer: &ViewerFacts,
        key_buffer: &mut Vec<u8>,
        now: Now,
    ) -> Action {
        if let Some(status) = refusal(behavior, head) {
            return self.refuse(status);
        }
        let reading = reuse::bypass(head);
        let asks = reading.directives && behavior.request_directives.follow(viewer.address);
        let directives = if asks { Some(request_directives(head.fields)) } else { None };
        let facts = Facts {
            method: MethodKind::of(head.method),
            cacheable: reading.bypass.is_none(),
            authorization: reading.authorization,
            upgrade: head.upgrade,
            conditional: reading.conditional,
            guarded: reading.guarded,
            range: reading.range,
            directives,
        };
        match reading.bypass {
            None => {
                write_request_key(head, viewer, head.path_and_query, key_buffer);
                self.state = State::LookingUp(facts, Asking::Primary);
                Action::Lookup { hash: hash(key_buffer) }
            }
            Some(Bypass::Method) => self.forward(facts, ForwardReason::Method, Conditions::Viewer, now),
            Some(Bypass::Body | Bypass::Upgrade | Bypass::MethodOverride | Bypass::Target) => {
                self.forward(facts, ForwardReason::Bypass, Conditions::Viewer, now)
            }
        }
    }

    /// Step 1, again where a URI has variants: asks for the one that this request selects (RFC 9111 §4.1).
    fn varies(
        &mut self,
        behavior: &Behavior,
        facts: Facts,
        names: &str,
        head: &RequestHead<'_, '_>,
        key_buffer: &mut Vec<u8>,
        now: Now,
    ) -> Action {
        if !vary::extend_key(behavior, names, head.fields, key_buffer) {
            return self.forward(facts, ForwardReason::VaryMiss, Conditions::Viewer, now);
        }
        self.state = State::LookingUp(facts, Asking::Variant);
        Action::Lookup { hash: hash(key_buffer) }
    }

    /// Step 1, again where nothing whole is stored: asks for a part (R-3, rule 14).
    fn part(&mut self, facts: Facts, key_buffer: &mut Vec<u8>, now: Now) -> Action {
        if !facts.takes_parts() {
            return self.forward(facts, ForwardReason::UriMiss, Conditions::Viewer, now);
        }
        key_buffer.extend_from_slice(PART_SUFFIX);
        self.state = State::LookingUp(facts, Asking::Part);
        Action::Lookup { hash: hash(key_buffer) }
    }

    /// Step 2 for a part: answers a range that lies in it, and asks for the rest of a prefix (rule 14).
    fn found_part(
        &mut self,
        facts: Facts,
        stored: Stored<'_>,
        head: &RequestHead<'_, '_>,
        now: Now,
    ) -> Action {
        let reason = ForwardReason::Partial;
        let reused = reuse::reuse(stored.meta, now.wall);
        let (Reuse::Fresh { age, ttl }, Some(part), true) = (reused, stored.meta.part, facts.takes_parts())
        else {
            return self.forward(facts, reason, Conditions::Viewer, now);
        };
        let fields: Vec<Field<'_>> = stored_fields(stored.head).collect();
        let validators = Validators::of(&fields, stored.meta.generated_at);
        if !facts.range {
            let is_prefix = part.start == 0 && stored.len < part.total && stored.len <= JOIN_LEN_MAX;
            // Rule 14: without a strong ETag too, though only a 200 is of use then.
            let conditions = if is_prefix { Conditions::Rest } else { Conditions::Viewer };
            return self.forward(facts, reason, conditions, now);
        }
        let held = ByteRange { start: part.start, end: part.start + stored.len };
        if conditional::range_applies(head.fields, &validators)
            && let Selection::Parts(ranges) = range::select(head.fields, part.total)
            && let [one] = ranges.as_slice()
            && one.start >= held.start
            && one.end <= held.end
        {
            let aged = Aged { age, ttl };
            let answer = self.stored_answer(facts, 206, AnswerKind::Part(*one), aged, ResultType::Hit, false);
            return Action::Answer(answer);
        }
        self.forward(facts, reason, Conditions::Viewer, now)
    }

    /// Step 2: answers with the stored response while it is fresh (RFC 9111 §4.2), or where it may be stale; else sends the request on.
    #[inline]
    fn found(
        &mut self,
        behavior: &Behavior,
        facts: Facts,
        stored: Stored<'_>,
        head: &RequestHead<'_, '_>,
        now: Now,
    ) -> Action {
        match reuse::reuse(stored.meta, now.wall) {
            Reuse::Fresh { age, ttl } if facts.is_plain() => {
                self.answered(ResultType::Hit, stored.meta.status);
                Action::RespondStored { age, ttl, send_body: facts.method != MethodKind::Head }
            }
            Reuse::Fresh { age, ttl } | Reuse::Stale { age, ttl } => {
                self.found_otherwise(behavior, facts, stored, head, Aged { age, ttl }, now)
            }
        }
    }

    /// Step 2 for what is not a plain hit: request directives, preconditions, ranges, staleness.
    fn found_otherwise(
        &mut self,
        behavior: &Behavior,
        facts: Facts,
        stored: Stored<'_>,
        head: &RequestHead<'_, '_>,
        aged: Aged,
        now: Now,
    ) -> Action {
        let Aged { age, ttl } = aged;
        let fields: Vec<Field<'_>> = stored_fields(stored.head).collect();
        let validators = Validators::of(&fields, stored.meta.generated_at);
        let asked =
            facts.directives.map_or(Asked::AsItIs, |directives| directives.judge(stored.meta, age, ttl));
        let serves_stale = ttl <= 0
            && !facts.guarded
            && facts.method == MethodKind::Get
            && reuse::serves_while_revalidating(behavior, stored.meta, age, ttl);
        let served = match asked {
            Asked::Validate => false,
            Asked::Serve => true,
            Asked::AsItIs => ttl > 0 || serves_stale,
        };
        if served {
            let kind = answer_kind(facts, stored.meta.status, &validators, head, stored.len);
            let refresh = serves_stale && asked == Asked::AsItIs;
            return Action::Answer(self.stored_answer(
                facts,
                stored.meta.status,
                kind,
                aged,
                ResultType::Hit,
                refresh,
            ));
        }
        let reason = if ttl > 0 { ForwardReason::Request } else { ForwardReason::Stale };
        // A HEAD brings no content, and If-Match is for the origin to judge: both go as they came.
        let validates = facts.may_store() && !facts.guarded && validators.any();
        let conditions = if validates { Conditions::Stored } else { Conditions::Viewer };
        self.forward(facts, reason, conditions, now)
    }

    /// Notes an answer from the cache and says how it is sent.
    fn stored_answer(
        &mut self,
        facts: Facts,
        status: u16,
        kind: AnswerKind,
        aged: Aged,
        result: ResultType,
        refresh: bool,
    ) -> StoredAnswer {
        self.answered(result, kind.status(status));
        let send_body = facts.method != MethodKind::Head;
        StoredAnswer { kind, age: aged.age, ttl: aged.ttl, send_body, refresh }
    }

    /// Step 3: sends the request to the origin, unless it asked us not to (RFC 9111 §5.2.1.7).
    fn forward(&mut self, facts: Facts, reason: ForwardReason, conditions: Conditions, now: Now) -> Action {
        if facts.directives.is_some_and(|directives| directives.only_if_cached) {
            return self.refuse(504);
        }
        self.reason = Some(reason);
        self.state = State::Forwarded(facts, Sent { requested_at: now.wall, conditions });
        let collapsing = facts.collapsing(conditions);
        let (may_store, upgrade) = (facts.may_store(), facts.upgrade);
        Action::Forward(Forward { reason, may_store, upgrade, conditions, collapsing })
    }

    /// Step 4: freshens, serves stale, or passes the origin's answer on and decides about storing it (RFC 9111 §3, §4.3.3).
    fn origin_head(
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
        let store = storable(behavior, facts.storing(sent, head, request), head, now.wall);
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
        let store = storable(behavior, facts.storing_get(sent), &whole, now.wall);
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
                sent.requested_at,
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
    fn origin_failed(
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
        self.refuse(failure.status())
    }

    /// Step 4 for an error that others asked for: stale where that is allowed, else the same status from us.
    fn origin_erred(
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
        let (Reuse::Fresh { age, ttl } | Reuse::Stale { age, ttl }) = reuse::reuse(stored.meta, now.wall);
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

    /// Answers with an error of our own (H-25).
    fn refuse(&mut self, status: u16) -> Action {
        self.answered(ResultType::Error, status);
        Action::Refuse { status }
    }

    /// A body that breaks after its head ends the transfer visibly; the log says Error, with the status that was sent.
    fn cut(&mut self) -> Action {
        self.result = ResultType::Error;
        Action::Cut
    }

    fn answered(&mut self, result: ResultType, status: u16) {
        self.state = State::Answered;
        self.status = status;
        // H-2: a 4xx or 5xx is an Error, whoever made it.
        self.result = if status >= 400 { ResultType::Error } else { result };
    }
}

/// What an origin's head answers.
struct OriginAnswer<'e> {
    head: &'e ResponseHead<'e, 'e>,
    request: &'e RequestHead<'e, 'e>,
    stored: Option<Stored<'e>>,
}

/// Age and what is left of freshness.
#[derive(Clone, Copy, Debug)]
struct Aged {
    age: u32,
    ttl: i64,
}

#[cfg(test)]
mod tests;
