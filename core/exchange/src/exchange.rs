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
use aspis_cache::key::{PART_SUFFIX, hash};
use aspis_cache::range::{self, ByteRange, Selection};
use aspis_cache::request_directives::{Asked, request_directives};
use aspis_cache::reuse::{self, Bypass, Reuse};
use aspis_cache::status::{ForwardReason, ResultType};
use aspis_cache::storable::NotStored;
use aspis_cache::vary;
use aspis_config::Behavior;
use aspis_wire::Field;
use aspis_wire::request::RequestHead;

mod action;
mod arrived;
mod facts;
mod origin;
mod stored;

pub use action::{
    Action, AnswerKind, Arriving, Collapsing, Conditions, Content, Event, Forward, FoundChange, Role, Stored,
    StoredAnswer, Variant,
};
pub(crate) use stored::whole_head;

use facts::{Facts, MethodKind, Sent, refusal};
use origin::OriginAnswer;
use stored::answer_kind;

use crate::Now;
use crate::forwarded::{ViewerFacts, write_request_key};
use crate::response_head::stored_fields;

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
        exchange.state = State::Forwarded(facts, Sent::new(now, conditions));
        exchange
    }

    /// Takes what happened and returns what to do.
    #[inline]
    pub fn step(&mut self, behavior: &Behavior, event: Event<'_>, now: Now) -> Action {
        match (&self.state, event) {
            (&State::Start, Event::Request { head, viewer, key_buffer }) => {
                self.request(behavior, head, viewer, key_buffer, now)
            }
            (&State::LookingUp(facts, Asking::Primary), Event::Varies { names, head, key_buffer }) => {
                self.varies(behavior, facts, names, head, key_buffer, now)
            }
            (&State::LookingUp(facts, Asking::Primary), Event::NotWhole { key_buffer }) => {
                self.part(facts, key_buffer, now)
            }
            (&State::LookingUp(facts, Asking::Part), Event::Found { stored, head }) => {
                self.found_part(facts, stored, head, now)
            }
            (&State::LookingUp(facts, _), Event::Found { stored, head }) => {
                self.found(behavior, facts, stored, head, now)
            }
            (&State::LookingUp(facts, _), Event::NotHere) if facts.asks_only_if_cached() => {
                let sent = Sent::new(now, Conditions::Viewer);
                self.state = State::Forwarded(facts, sent);
                Action::Forward(Forward {
                    reason: ForwardReason::UriMiss,
                    may_store: false,
                    upgrade: false,
                    conditions: Conditions::Viewer,
                    collapsing: Collapsing::OnlyStored,
                })
            }
            (&State::LookingUp(facts, asking), Event::NotFound | Event::NotHere) => {
                let reason = match asking {
                    Asking::Primary | Asking::Part => ForwardReason::UriMiss,
                    Asking::Variant => ForwardReason::VaryMiss,
                };
                self.forward(facts, reason, Conditions::Viewer, now)
            }
            (&State::Forwarded(facts, _), Event::NotFound) if facts.asks_only_if_cached() => self.refuse(504),
            (&State::Forwarded(facts, _), Event::Found { stored, head }) => {
                // The owner of the key answers, not the origin (RFC 9211 §2.2): only another forward gives a reason again.
                self.reason = None;
                match stored.meta.part {
                    Some(_) => self.found_part(facts, stored, head, now),
                    None => self.found(behavior, facts, stored, head, now),
                }
            }
            (&State::Forwarded(facts, sent), Event::Arrived { arriving, role, request, key_buffer }) => {
                let facts = (facts, sent);
                self.arrived(behavior, facts, arrived::Arrival { arriving, role, request, key_buffer }, now)
            }
            (&State::Forwarded(facts, _), Event::OriginErred { status, role, request, stored }) => {
                self.collapsed = role == Role::Collapsed;
                self.origin_erred(behavior, facts, status, request, stored, now)
            }
            (&State::Forwarded(facts, sent), Event::OriginHead { head, request, stored }) => {
                self.origin_head(behavior, facts, sent, OriginAnswer { head, request, stored }, now)
            }
            (&State::Forwarded(facts, _), Event::OriginFailed { failure, role, request, stored }) => {
                self.collapsed = role == Role::Collapsed;
                self.origin_failed(behavior, facts, failure, request, stored, now)
            }
            (&State::Answered, Event::OriginBodyFailed(_)) => self.cut(),
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
        let reused = stored.reuse(now.wall);
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
        match stored.reuse(now.wall) {
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
        if facts.asks_only_if_cached() {
            return self.refuse(504);
        }
        self.reason = Some(reason);
        self.state = State::Forwarded(facts, Sent::new(now, conditions));
        let collapsing = facts.collapsing(conditions);
        let (may_store, upgrade) = (facts.may_store(), facts.upgrade);
        Action::Forward(Forward { reason, may_store, upgrade, conditions, collapsing })
    }

    /// Answers with an error of our own (H-25).
    fn refuse(&mut self, status: u16) -> Action {
        self.answered(ResultType::Error, status);
        Action::Refuse { status }
    }

    /// A body that breaks after its head ends the transfer visibly; the log says Error, with the status that was sent (L-15).
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

/// Age and what is left of freshness.
#[derive(Clone, Copy, Debug)]
struct Aged {
    age: u32,
    ttl: i64,
}

#[cfg(test)]
mod tests;
