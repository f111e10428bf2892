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
//!   │                 └──┘ Varies: the variant's key      │  ▲  │      │ Freshen (304), Answer (origin failed)
//!   └─ bypass ────────────────────────────────────────────┘  └──┘      │ Refuse (OriginFailed)
//!                                    304 of another strong ETag: again └ Tunnel (101)
//! Answered ──OriginBodyFailed──▶ Answered, with result Error: Cut
//! ```
//! Invariants: an event that cannot happen in a state gives [`Action::OutOfOrder`] and changes nothing; exactly one answer is
//! given per exchange, and after it result, status and forward reason are final but for a body that breaks.

use aspis_cache::conditional::{self, Validators, Verdict};
use aspis_cache::freshen::{self, Freshening, HeadAnswer};
use aspis_cache::invalidate::{invalidates, same_authority_target};
use aspis_cache::key::{PART_SUFFIX, hash};
use aspis_cache::range::{self, ByteRange, Selection};
use aspis_cache::request_directives::{Asked, RequestDirectives, request_directives};
use aspis_cache::reuse::{self, Bypass, Reuse};
use aspis_cache::status::{ForwardReason, ResultType};
use aspis_cache::storable::{NotStored, RequestFacts, storable};
use aspis_cache::stored::StoredMeta;
use aspis_cache::vary;
use aspis_config::Behavior;
use aspis_config::behavior::{BodyOnGet, Methods};
use aspis_wire::request::{RequestFraming, RequestHead};
use aspis_wire::response::{ResponseFraming, ResponseHead};
use aspis_wire::{Field, Method, fields};

use crate::Now;
use crate::failure::OriginFailure;
use crate::forwarded::{ViewerFacts, write_request_key};
use crate::origin_request::max_forwards;
use crate::response_head::{joined_fields, stored_fields};

/// A stored response, as the machine looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'e> {
    /// Its facts.
    pub meta: &'e StoredMeta,
    /// Its head as [`crate::response_head::write_stored`] made it.
    pub head: &'e [u8],
    /// The length of its complete content.
    pub len: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Event<'e> {
    /// A viewer's head is complete.
    Request {
        /// The head, still in the receive buffer.
        head: &'e RequestHead<'e, 'e>,
        /// Who sent it.
        viewer: &'e ViewerFacts,
        /// Receives the cache key if the answer is [`Action::Lookup`].
        key_buffer: &'e mut Vec<u8>,
    },
    /// The responses under this key vary by these names.
    Varies {
        /// The names, as storage keeps them.
        names: &'e str,
        /// The request.
        head: &'e RequestHead<'e, 'e>,
        /// Holds the primary key; receives the variant's.
        key_buffer: &'e mut Vec<u8>,
    },
    /// The lookup found a stored response with exactly this key.
    Found {
        /// It.
        stored: Stored<'e>,
        /// The request.
        head: &'e RequestHead<'e, 'e>,
    },
    /// The lookup found none, or could not be done.
    NotFound,
    /// The lookup found none, but the cache keeps parts of some responses.
    NotWhole {
        /// Holds the primary key; receives the part's.
        key_buffer: &'e mut Vec<u8>,
    },
    /// The origin's final head came, or 101. Other interim heads are no event.
    OriginHead {
        /// The head, still in its buffer.
        head: &'e ResponseHead<'e, 'e>,
        /// The request, as the viewer sent it.
        request: &'e RequestHead<'e, 'e>,
        /// What was found and not served.
        stored: Option<Stored<'e>>,
    },
    /// The origin gave no answer, and no further attempt is allowed.
    OriginFailed {
        /// Why.
        failure: OriginFailure,
        /// The request, as the viewer sent it.
        request: &'e RequestHead<'e, 'e>,
        /// What was found and not served.
        stored: Option<Stored<'e>>,
    },
    /// After its head, the origin's body broke.
    OriginBodyFailed(OriginFailure),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look up the key in the key buffer; answer with `Found`, `Varies` or `NotFound`.
    Lookup {
        /// Its hash.
        hash: u128,
    },
    /// Send the stored response that was found, whole.
    RespondStored {
        /// For `Age`.
        age: u32,
        /// For `Cache-Status`.
        ttl: i64,
        /// False for HEAD.
        send_body: bool,
    },
    /// Answer from the stored response that was found, other than as a plain hit.
    Answer(StoredAnswer),
    /// Send the request to the origin; answer with `OriginHead` or `OriginFailed`.
    Forward(Forward),
    /// Send the origin's response on.
    RespondOrigin {
        /// With these facts it is stored on the way; `None` if it is not.
        store: Option<StoredMeta>,
        /// Content follows towards the viewer.
        body: bool,
        /// Before anything is sent: take away what [`crate::invalidation::keys`] names.
        invalidate: bool,
        /// What becomes of the stored response that was found.
        found: FoundChange,
    },
    /// The origin confirmed what is stored: make the new head of [`crate::response_head::write_freshened`] and answer from it.
    Freshen {
        /// With these facts it takes the old one's place; `None`: it is used for this answer, and nothing stays stored.
        store: Option<StoredMeta>,
        /// The answer.
        answer: StoredAnswer,
    },
    /// The origin sent exactly what was missing: answer 200 with what is stored and what comes (RFC 9111 §3.4).
    Join {
        /// With these facts the whole is stored on the way.
        store: Option<StoredMeta>,
    },
    /// Send the 101 on and join the two connections.
    Tunnel,
    /// Answer with an error of our own.
    Refuse {
        /// Its status.
        status: u16,
    },
    /// End the viewer's connection so that the broken transfer shows.
    Cut,
    /// The event cannot happen now: a fault in the driver. Close the viewer's connection.
    OutOfOrder,
}

/// An answer from a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// What of it.
    pub kind: AnswerKind,
    /// For `Age`.
    pub age: u32,
    /// For `Cache-Status`.
    pub ttl: i64,
    /// False for HEAD.
    pub send_body: bool,
    /// Start a task that validates it, unless one runs already (RFC 5861 §3).
    pub refresh: bool,
}

/// What of a stored response is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    /// All.
    Whole,
    /// 304 with its fields.
    NotModified,
    /// 206 with this range.
    Part(ByteRange),
    /// 206 with the ranges that [`range::select`] gives for this request.
    Parts,
    /// 416 with its length.
    Unsatisfiable,
    /// 412.
    PreconditionFailed,
}

/// What becomes of the stored response that was found, when the origin's answer is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundChange {
    /// It stays, until something takes its place.
    Keep,
    /// It is out of date (RFC 9111 §4.3.5).
    Forget,
    /// The answer to a HEAD brings it new fields, with these facts (RFC 9111 §4.3.5).
    Update(StoredMeta),
}

/// How a request goes to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Why the cache did not answer.
    pub reason: ForwardReason,
    /// The response may be stored if its head allows; false: it certainly is not.
    pub may_store: bool,
    /// The viewer asked for another protocol; `Upgrade` is passed on.
    pub upgrade: bool,
    /// Which preconditions the origin sees.
    pub conditions: Conditions,
}

/// Which preconditions an origin request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// The viewer's, and its Range.
    Viewer,
    /// Those that validate the stored response, in place of the viewer's (RFC 9111 §4.3.1).
    Stored,
    /// None at all.
    None,
    /// `Range: bytes=N-`: the rest of the stored prefix, with If-Range where its ETag is strong (rule 14).
    Rest,
}

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

/// What the later steps need of the request.
#[derive(Clone, Copy, Debug)]
struct Facts {
    method: MethodKind,
    /// Nothing in the request keeps it from the cache.
    cacheable: bool,
    authorization: bool,
    upgrade: bool,
    /// It has If-None-Match or If-Modified-Since.
    conditional: bool,
    /// It has If-Match or If-Unmodified-Since.
    guarded: bool,
    range: bool,
    /// Its directives, where they are followed and there are any.
    directives: Option<RequestDirectives>,
}

/// What is remembered about a request that went to the origin.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// Wall seconds; the wait for a connection counts as delay, which errs on the side of age.
    requested_at: u64,
    conditions: Conditions,
}

/// Methods as far as the steps differ; owned, unlike [`Method`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MethodKind {
    Get,
    Head,
    OtherSafe,
    Post,
    Unsafe,
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
        }
    }

    /// Returns an exchange without a viewer that has sent a GET to validate a stored response (RFC 5861 §3).
    ///
    /// Its request carries [`Conditions::Stored`]; its answers tell what to store, and are otherwise sent to nobody.
    pub fn refreshing(head: &RequestHead<'_, '_>, now: Now) -> Self {
        let facts = Facts {
            method: MethodKind::Get,
            cacheable: true,
            authorization: head.field("authorization").is_some(),
            upgrade: false,
            conditional: false,
            guarded: false,
            range: false,
            directives: None,
        };
        let mut exchange = Self::new();
        exchange.reason = Some(ForwardReason::Stale);
        exchange.state =
            State::Forwarded(facts, Sent { requested_at: now.wall, conditions: Conditions::Stored });
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
        let plain = !facts.conditional && !facts.guarded && facts.directives.is_none();
        if facts.method != MethodKind::Get || !plain {
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
        let (Reuse::Fresh { age, ttl }, Some(part)) = (reuse::reuse(stored.meta, now.wall), stored.meta.part)
        else {
            return self.forward(facts, reason, Conditions::Viewer, now);
        };
        if !facts.range {
            let is_prefix = part.start == 0 && stored.len < part.total && stored.len <= JOIN_LEN_MAX;
            let conditions = if is_prefix { Conditions::Rest } else { Conditions::Viewer };
            return self.forward(facts, reason, conditions, now);
        }
        let fields: Vec<Field<'_>> = stored_fields(stored.head).collect();
        let validators = Validators::of(&fields, stored.meta.generated_at);
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
        Action::Forward(Forward { reason, may_store: facts.may_store(), upgrade: facts.upgrade, conditions })
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
        let store = storable(behavior, facts.storing(sent, head, request), head, now.wall);
        self.not_stored = store.err();
        self.answered(ResultType::Miss, head.status);
        Action::RespondOrigin {
            store: store.ok(),
            body: facts.method != MethodKind::Head && head.framing != ResponseFraming::None,
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

/// Returns the status with which a request is refused before anything else, if it is.
///
/// CONNECT and TRACE get 501 in both semantics' open method list: a tunnel to anywhere and an echo of fields that we added are not
/// things a cache should offer by accident. CloudFront's closed list answers 403 (H-19), as it does a GET or HEAD with a body (H-18).
fn refusal(behavior: &Behavior, head: &RequestHead<'_, '_>) -> Option<u16> {
    let method = head.method;
    match behavior.methods {
        Methods::Seven if matches!(method, Method::Connect | Method::Trace | Method::Other(_)) => {
            return Some(403);
        }
        _ if matches!(method, Method::Connect | Method::Trace) => return Some(501),
        Methods::Seven | Methods::Any => {}
    }
    // RFC 9110 §7.6.2: not to be forwarded, and we have nothing to say about ourselves.
    if method == Method::Options && head.field("max-forwards").and_then(max_forwards) == Some(0) {
        return Some(501);
    }
    if passed_here(behavior, head) >= PASSED_HERE_MAX {
        return Some(508);
    }
    let body_on_get = matches!(method, Method::Get | Method::Head) && head.has_content();
    if body_on_get && behavior.body_on_get == BodyOnGet::Refuse {
        return Some(403);
    }
    match head.framing {
        // H-17. A chunked body is counted by the driver as it comes.
        RequestFraming::Length(len) if len > behavior.request_body_max => Some(413),
        _ => None,
    }
}

/// A request that says so often that it came by here runs in a circle. Tiers of one name are fewer.
const PASSED_HERE_MAX: usize = 8;

/// Counts the members of Via that have our name (RFC 9110 §7.6.3).
fn passed_here(behavior: &Behavior, head: &RequestHead<'_, '_>) -> usize {
    head.fields_named("via")
        .flat_map(fields::list)
        .filter(|member| {
            let name = member.split(|&byte| byte == b' ').filter(|part| !part.is_empty()).nth(1);
            name.is_some_and(|name| name == behavior.name.as_bytes())
        })
        .count()
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

/// What of a stored response this request gets (RFC 9110 §13.2.2, rule 12, rule 14).
fn answer_kind(
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

/// The facts of a stored response with new fields; its content is what it was.
fn freshened_meta(
    behavior: &Behavior,
    facts: Facts,
    sent: Sent,
    stored: Stored<'_>,
    fields: &[Field<'_>],
    update: &ResponseHead<'_, '_>,
    now: Now,
) -> Result<StoredMeta, NotStored> {
    let head = whole_head(update, stored.meta.status, fields, stored.len);
    let request = facts.storing_get(sent);
    // A response that varies by other fields than it was stored under would be found by requests that it was not chosen for.
    let old: Vec<Field<'_>> = stored_fields(stored.head).collect();
    if vary::varies(&old) != vary::varies(fields) {
        return Err(NotStored::Vary);
    }
    let meta = storable(behavior, request, &head, now.wall)?;
    // The targeted field is not among the stored ones, so what it said lasts until another comes.
    let said_before = stored.meta.targeted && !meta.targeted;
    Ok(if said_before {
        let StoredMeta { lifetime, stale_while_revalidate, stale_if_error, .. } = *stored.meta;
        StoredMeta { lifetime, stale_while_revalidate, stale_if_error, targeted: true, ..meta }
    } else {
        meta
    })
}

/// What the answer to a HEAD does to a stored GET (RFC 9111 §4.3.5).
fn found_change(
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

impl AnswerKind {
    /// Returns the status that the viewer gets.
    pub const fn status(self, stored: u16) -> u16 {
        match self {
            Self::Whole => stored,
            Self::NotModified => 304,
            Self::Part(_) | Self::Parts => 206,
            Self::Unsatisfiable => 416,
            Self::PreconditionFailed => 412,
        }
    }
}

impl Facts {
    /// A hit is answered without a further look at the request.
    #[inline]
    fn is_plain(&self) -> bool {
        !self.conditional && !self.guarded && !self.range && self.directives.is_none()
    }

    /// Only answers to GET are stored, since that to HEAD has no body to keep; and such to POST as rule 9 says.
    fn may_store(&self) -> bool {
        let asked_not_to = self.directives.is_some_and(|directives| directives.no_store);
        self.cacheable && self.method == MethodKind::Get && !asked_not_to
    }

    /// What `storable` needs of the request.
    fn storing(
        &self,
        sent: Sent,
        head: &ResponseHead<'_, '_>,
        request: &RequestHead<'_, '_>,
    ) -> RequestFacts {
        let post = self.method == MethodKind::Post && names_itself(head, request);
        RequestFacts {
            may_store: self.may_store() || post,
            explicit_only: post,
            range: self.range,
            authorization: self.authorization,
            requested_at: sent.requested_at,
        }
    }

    /// The same for a stored GET that gets new fields.
    fn storing_get(&self, sent: Sent) -> RequestFacts {
        RequestFacts {
            may_store: true,
            explicit_only: false,
            range: false,
            authorization: self.authorization,
            requested_at: sent.requested_at,
        }
    }
}

/// Tells whether a 200 to a POST says that a GET of the same URI would give the same (RFC 9110 §9.3.3, rule 9).
fn names_itself(head: &ResponseHead<'_, '_>, request: &RequestHead<'_, '_>) -> bool {
    let path = request.path_and_query;
    let own = |scheme| {
        let reference = head.field("content-location")?;
        same_authority_target(scheme, request.authority, path, reference)
    };
    head.status == 200
        && path.starts_with('/')
        && [aspis_wire::Scheme::Http, aspis_wire::Scheme::Https]
            .iter()
            .any(|scheme| own(*scheme).as_deref() == Some(path))
}

impl MethodKind {
    fn of(method: Method<'_>) -> Self {
        match method {
            Method::Get => Self::Get,
            Method::Head => Self::Head,
            Method::Post => Self::Post,
            method if method.is_safe() => Self::OtherSafe,
            _ => Self::Unsafe,
        }
    }

    /// Returns a method of the same kind, for questions that depend on the kind only.
    fn representative(self) -> Method<'static> {
        match self {
            Self::Get => Method::Get,
            Self::Head => Method::Head,
            Self::OtherSafe => Method::Options,
            Self::Post | Self::Unsafe => Method::Post,
        }
    }
}

#[cfg(test)]
mod tests;
