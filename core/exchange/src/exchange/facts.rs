//! What the steps need to know of a request, read once; and which requests are refused before anything else.
//!
//! Fed by the first step with the viewer's head, read by all others. Invariant: plain values, so that a waiting exchange holds no head.

use aspis_cache::age::Delay;
use aspis_cache::invalidate::same_authority_target;
use aspis_cache::request_directives::RequestDirectives;
use aspis_cache::storable::{RequestFacts, is_ordinary};
use aspis_config::Behavior;
use aspis_config::behavior::{BodyOnGet, Methods};
use aspis_wire::request::{RequestFraming, RequestHead};
use aspis_wire::response::ResponseHead;
use aspis_wire::{Method, fields};

use super::{Collapsing, Conditions};
use crate::Now;
use crate::origin_request::max_forwards;

/// What the later steps need of the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) method: MethodKind,
    /// Nothing in the request keeps it from the cache.
    pub(super) cacheable: bool,
    pub(super) authorization: bool,
    pub(super) upgrade: bool,
    /// It has If-None-Match or If-Modified-Since.
    pub(super) conditional: bool,
    /// It has If-Match or If-Unmodified-Since.
    pub(super) guarded: bool,
    pub(super) range: bool,
    /// Its directives, where they are followed and there are any.
    pub(super) directives: Option<RequestDirectives>,
}

/// What is remembered about a request that went to the origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// The wait for a connection counts as delay, which errs on the side of age.
    pub(super) at: Now,
    pub(super) conditions: Conditions,
}

impl Sent {
    pub(super) fn new(at: Now, conditions: Conditions) -> Self {
        Self { at, conditions }
    }

    /// How long it has been on its way.
    pub(super) fn delay(&self, now: Now) -> Delay {
        let seconds = now.millis.saturating_sub(self.at.millis) / 1000;
        Delay { requested_at: self.at.wall, seconds }
    }
}

/// Methods as far as the steps differ; owned, unlike [`Method`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MethodKind {
    Get,
    Head,
    OtherSafe,
    Post,
    Unsafe,
}

impl Facts {
    /// A hit is answered without a further look at the request.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        !self.conditional && !self.guarded && !self.range && self.directives.is_none()
    }

    /// A stored part may answer, or be completed.
    pub(super) fn takes_parts(&self) -> bool {
        let plain = !self.conditional && !self.guarded && self.directives.is_none();
        self.method == MethodKind::Get && plain
    }

    /// It wants 504 rather than a request to the origin.
    pub(super) fn asks_only_if_cached(&self) -> bool {
        self.directives.is_some_and(|directives| directives.only_if_cached)
    }

    /// Only answers to GET are stored, since that to HEAD has no body to keep; and such to POST as rule 9 says.
    pub(super) fn may_store(&self) -> bool {
        let asked_not_to = self.directives.is_some_and(|directives| directives.no_store);
        self.cacheable && self.method == MethodKind::Get && !asked_not_to
    }

    /// Whether the fetch is shared (C-1, C-3, C-5). A request that only the current representation passes is the origin's to judge.
    pub(super) fn collapsing(&self, conditions: Conditions) -> Collapsing {
        match self.method {
            _ if !self.cacheable || self.guarded || conditions == Conditions::None => Collapsing::Never,
            MethodKind::Get if self.may_store() => Collapsing::LeadOrFollow,
            MethodKind::Head => Collapsing::FollowOnly,
            _ => Collapsing::Never,
        }
    }

    /// Whether a 304 can answer what was sent (RFC 9110 §15.4.5): only a GET or HEAD that went out with a condition of the viewer's.
    pub(super) fn may_get_304(&self, sent: Sent) -> bool {
        let reads = matches!(self.method, MethodKind::Get | MethodKind::Head);
        !reads || (self.conditional && sent.conditions == Conditions::Viewer)
    }

    /// What `storable` needs of the request.
    pub(super) fn storing(
        &self,
        sent: Sent,
        head: &ResponseHead<'_, '_>,
        request: &RequestHead<'_, '_>,
        now: Now,
    ) -> RequestFacts {
        let post = self.method == MethodKind::Post && names_itself(head, request);
        RequestFacts {
            may_store: self.may_store() || post,
            explicit_only: post,
            range: self.range,
            authorization: self.authorization,
            ordinary: head.status == 400 && is_ordinary(request),
            delay: sent.delay(now),
        }
    }

    /// The same for a stored GET that gets new fields.
    pub(super) fn storing_get(&self, sent: Sent, now: Now) -> RequestFacts {
        RequestFacts {
            may_store: true,
            explicit_only: false,
            range: false,
            authorization: self.authorization,
            // It was looked at when the response was stored.
            ordinary: true,
            delay: sent.delay(now),
        }
    }
}

/// Tells whether a 200 to a POST says that a GET of the same URI would give the same (RFC 9110 §9.3.3, rule 9).
pub(super) fn names_itself(head: &ResponseHead<'_, '_>, request: &RequestHead<'_, '_>) -> bool {
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
    pub(super) fn of(method: Method<'_>) -> Self {
        match method {
            Method::Get => Self::Get,
            Method::Head => Self::Head,
            Method::Post => Self::Post,
            method if method.is_safe() => Self::OtherSafe,
            _ => Self::Unsafe,
        }
    }

    /// Returns a method of the same kind, for questions that depend on the kind only.
    pub(super) fn representative(self) -> Method<'static> {
        match self {
            Self::Get => Method::Get,
            Self::Head => Method::Head,
            Self::OtherSafe => Method::Options,
            Self::Post | Self::Unsafe => Method::Post,
        }
    }
}

/// Returns the status with which a request is refused before anything else, if it is.
///
/// CONNECT and TRACE get 501 in both semantics' open method list: a tunnel to anywhere and an echo of fields that we added are not
/// things a cache should offer by accident. CloudFront's closed list answers 403 (H-19), as it does a GET or HEAD with a body (H-18).
pub(super) fn refusal(behavior: &Behavior, head: &RequestHead<'_, '_>) -> Option<u16> {
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
pub(super) const PASSED_HERE_MAX: usize = 8;

/// Counts the members of Via that have our name (RFC 9110 §7.6.3).
pub(super) fn passed_here(behavior: &Behavior, head: &RequestHead<'_, '_>) -> usize {
    head.fields_named("via")
        .flat_map(fields::list)
        .filter(|member| {
            let name = member.split(|&byte| byte == b' ').filter(|part| !part.is_empty()).nth(1);
            name.is_some_and(|name| name == behavior.name.as_bytes())
        })
        .count()
}
