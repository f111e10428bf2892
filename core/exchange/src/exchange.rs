//! Holds the order in which one request is answered. Nothing else does.
//!
//! The driver loops [`Exchange::step`]: it gives what happened and does what comes back. Events borrow the heads, the state owns a few numbers,
//! so the hit path allocates nothing and a waiting exchange costs `size_of::<Exchange>()`.
//!
//! ```text
//! Start ──Request──▶ refused ───────────────────────────────▶ Answered
//!   │                                                            ▲
//!   ├─ cache asked ▶ LookingUp ──Found, fresh────────────────────┤ RespondStored
//!   │                   └──Found, stale | NotFound──▶ Forwarded ─┤ RespondOrigin
//!   └─ bypass ────────────────────────────────────────▲    │ │   │ Refuse (OriginFailed)
//!                                                            │ └─┴ Tunnel (101)
//! Answered ──OriginBodyFailed──▶ Answered, with result Error: Cut
//! ```
//! Invariants: an event that cannot happen in a state gives [`Action::OutOfOrder`] and changes nothing; exactly one answer is
//! given per exchange, and after it result, status and forward reason are final but for a body that breaks.

use aspis_cache::invalidate::invalidates;
use aspis_cache::key::hash;
use aspis_cache::reuse::{self, Bypass, Reuse};
use aspis_cache::status::{ForwardReason, ResultType};
use aspis_cache::storable::{NotStored, RequestFacts, storable};
use aspis_cache::stored::StoredMeta;
use aspis_config::Behavior;
use aspis_config::behavior::{BodyOnGet, Methods};
use aspis_wire::Method;
use aspis_wire::request::{RequestFraming, RequestHead};
use aspis_wire::response::{ResponseFraming, ResponseHead};

use crate::Now;
use crate::failure::OriginFailure;
use crate::forwarded::{ViewerFacts, write_request_key};

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
    /// The lookup found a stored response with exactly this key.
    Found(&'e StoredMeta),
    /// The lookup found none, or could not be done.
    NotFound,
    /// The origin's final head came, or 101. Other interim heads are no event.
    OriginHead {
        /// The head, still in its buffer.
        head: &'e ResponseHead<'e, 'e>,
    },
    /// The origin gave no answer, and no further attempt is allowed.
    OriginFailed(OriginFailure),
    /// After its head, the origin's body broke.
    OriginBodyFailed(OriginFailure),
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look up the key in the key buffer; answer with `Found` or `NotFound`.
    Lookup {
        /// Its hash.
        hash: u128,
    },
    /// Send the stored response that was found.
    RespondStored {
        /// For `Age`.
        age: u32,
        /// For `Cache-Status`.
        ttl: i64,
        /// False for HEAD.
        send_body: bool,
    },
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

/// How a request goes to the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Why the cache did not answer.
    pub reason: ForwardReason,
    /// The response may be stored if its head allows; false: it certainly is not.
    pub may_store: bool,
    /// The viewer asked for another protocol; `Upgrade` is passed on.
    pub upgrade: bool,
}

/// One request and its response.
#[derive(Debug)]
pub struct Exchange {
    state: State,
    result: ResultType,
    reason: Option<ForwardReason>,
    status: u16,
    not_stored: Option<NotStored>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Start,
    LookingUp(Facts),
    Forwarded(Facts, Sent),
    Answered,
}

/// What the later steps need of the request.
#[derive(Clone, Copy, Debug)]
struct Facts {
    method: MethodKind,
    /// Nothing in the request keeps it from the cache.
    cacheable: bool,
    authorization: bool,
    upgrade: bool,
}

/// What is remembered about a request that went to the origin.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// Wall seconds; the wait for a connection counts as delay, which errs on the side of age.
    requested_at: u64,
}

/// Methods as far as the steps differ; owned, unlike [`Method`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MethodKind {
    Get,
    Head,
    OtherSafe,
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
        Self { state: State::Start, result: ResultType::Miss, reason: None, status: 0, not_stored: None }
    }

    /// Takes what happened and returns what to do.
    #[inline]
    pub fn step(&mut self, behavior: &Behavior, event: Event<'_>, now: Now) -> Action {
        match (self.state, event) {
            (State::Start, Event::Request { head, viewer, key_buffer }) => {
                self.request(behavior, head, viewer, key_buffer, now)
            }
            (State::LookingUp(facts), Event::Found(meta)) => self.found(facts, meta, now),
            (State::LookingUp(facts), Event::NotFound) => self.forward(facts, ForwardReason::UriMiss, now),
            (State::Forwarded(facts, sent), Event::OriginHead { head }) => {
                self.origin_head(behavior, facts, sent, head, now)
            }
            (State::Forwarded(..), Event::OriginFailed(failure)) => self.refuse(failure.status()),
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
        let facts = Facts {
            method: MethodKind::of(head.method),
            cacheable: reading.bypass.is_none(),
            authorization: reading.authorization,
            upgrade: head.upgrade,
        };
        match reading.bypass {
            None => {
                write_request_key(head, viewer, head.path_and_query, key_buffer);
                self.state = State::LookingUp(facts);
                Action::Lookup { hash: hash(key_buffer) }
            }
            Some(Bypass::Method) => self.forward(facts, ForwardReason::Method, now),
            Some(
                Bypass::Body
                | Bypass::Range
                | Bypass::Conditional
                | Bypass::Upgrade
                | Bypass::MethodOverride
                | Bypass::Target,
            ) => self.forward(facts, ForwardReason::Bypass, now),
        }
    }

    /// Step 2: answers with the stored response while it is fresh (RFC 9111 §4.2); a stale one sends the request on.
    #[inline]
    fn found(&mut self, facts: Facts, meta: &StoredMeta, now: Now) -> Action {
        match reuse::reuse(meta, now.wall) {
            Reuse::Fresh { age, ttl } => {
                self.answered(ResultType::Hit, meta.status);
                Action::RespondStored { age, ttl, send_body: facts.method != MethodKind::Head }
            }
            Reuse::Stale { .. } => self.forward(facts, ForwardReason::Stale, now),
        }
    }

    /// Step 3: sends the request to the origin.
    fn forward(&mut self, facts: Facts, reason: ForwardReason, now: Now) -> Action {
        self.reason = Some(reason);
        self.state = State::Forwarded(facts, Sent { requested_at: now.wall });
        Action::Forward(Forward { reason, may_store: facts.may_store(), upgrade: facts.upgrade })
    }

    /// Step 4: passes the origin's answer on, decides whether it is stored and whether it invalidates (rule 16).
    fn origin_head(
        &mut self,
        behavior: &Behavior,
        facts: Facts,
        sent: Sent,
        head: &ResponseHead<'_, '_>,
        now: Now,
    ) -> Action {
        if head.is_interim() {
            return Action::OutOfOrder;
        }
        if head.status == 101 {
            return self.switched(facts);
        }
        let request = RequestFacts {
            may_store: facts.may_store(),
            authorization: facts.authorization,
            requested_at: sent.requested_at,
        };
        let store = storable(behavior, request, head, now.wall);
        self.not_stored = store.err();
        self.answered(ResultType::Miss, head.status);
        Action::RespondOrigin {
            store: store.ok(),
            body: facts.method != MethodKind::Head && head.framing != ResponseFraming::None,
            invalidate: invalidates(behavior, facts.method.representative(), head.status),
        }
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

impl Facts {
    /// Only the answer to a GET is stored: that to HEAD has no body to keep (T-25 comes with a later landing).
    fn may_store(&self) -> bool {
        self.cacheable && self.method == MethodKind::Get
    }
}

impl MethodKind {
    fn of(method: Method<'_>) -> Self {
        match method {
            Method::Get => Self::Get,
            Method::Head => Self::Head,
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
            Self::Unsafe => Method::Post,
        }
    }
}

#[cfg(test)]
mod tests;
