//! May this response be stored (RFC 9111 §3, rules 1 to 11 of the RFC 9111 profile, T-1 to T-11, T-33 to T-35)?
//!
//! `core/exchange` asks when the origin's final head arrives, and for the merged head after a 304. Invariants: every doubt is a
//! [`NotStored`], so at worst a request goes to the origin that need not have; what is stored without freshness can be validated.

use aspis_config::Behavior;
use aspis_config::behavior::{Methods, MinTtlOutranks, OriginAge, StaleOnError, Statuses};
use aspis_wire::request::RequestHead;
use aspis_wire::response::{ResponseFraming, ResponseHead};
use aspis_wire::{Field, fields};

use crate::age::{AGE_MAX, Delay, initial_age};
use crate::conditional::Validators;
use crate::directives::{Extent, ResponseDirectives, response_directives};
use crate::freshness::{
    clamped, explicit_lifetime, generated_at, implicit_lifetime, is_cached_error, is_heuristic,
};
use crate::range::parse_content_range;
use crate::stored::{Part, StaleIfError, StoredMeta};
use crate::targeted::{CDN_CACHE_CONTROL, SURROGATE_CONTROL, targeted_directives};
use crate::vary::varies_always;

/// What the request says about storing its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// Nothing in the request keeps its response from the cache (see [`crate::reuse::bypass`]).
    pub may_store: bool,
    /// The method is POST: only explicit freshness counts (rule 9).
    pub explicit_only: bool,
    /// The request asks for a range, so that a 206 may come and be kept (RFC 9111 §3.4, R-5).
    pub range: bool,
    /// The request has an Authorization field.
    pub authorization: bool,
    /// It is short and plain (see [`is_ordinary`]), so that a 400 is about its URI; asked for a 400 only.
    pub ordinary: bool,
    /// How long the origin's head was waited for.
    pub delay: Delay,
}

/// The longest head of a request whose 400 may be stored: half of what common origins take, so length is not what they refuse.
pub const ORDINARY_HEAD_LEN_MAX: usize = 4096;

/// Tells whether nothing but its URI makes a request special: a short head of visible ASCII that carries no state, range or condition.
///
/// Whoever can make the origin answer 400 by a field that is in no key could otherwise have that answer served to all (decision 7).
pub fn is_ordinary(request: &RequestHead<'_, '_>) -> bool {
    let carries = |field: &Field<'_>| {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let prefix = field.name.get(..3).is_some_and(|prefix| prefix.eq_ignore_ascii_case("if-"));
        prefix || is("cookie") || is("authorization") || is("range")
    };
    let plain = |field: &Field<'_>| field.value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    request.len <= ORDINARY_HEAD_LEN_MAX && request.fields.iter().all(|field| plain(field) && !carries(field))
}

/// Why a response is not stored. The first reason in the order of RFC 9111 §3 counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStored {
    /// The request's method or fields keep it from the cache.
    Request,
    /// The status is not final, is a 304 or a 206 without a usable range, or is not one that the operator's rules store.
    Status,
    /// `must-understand`, and the status is not one whose meaning is known.
    NotUnderstood,
    /// `no-store`.
    NoStore,
    /// `private`.
    Private,
    /// `no-cache`, and nothing to validate it with.
    NoCache,
    /// The response varies by anything.
    Vary,
    /// It sets a cookie, and no lifetime is stated or the operator forbids it.
    SetCookie,
    /// The request was authorised and nothing permits sharing (RFC 9111 §3.5).
    Authorization,
    /// Its content is of no length that we keep.
    Length,
    /// It is larger than what is stored.
    TooLarge,
    /// It is stale on arrival and cannot be validated, or nothing says how long it is fresh.
    NotFresh,
}

impl NotStored {
    /// Returns the word for `Cache-Status`'s detail.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Status => "status",
            Self::NotUnderstood => "must-understand",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::NoCache => "no-cache",
            Self::Vary => "vary",
            Self::SetCookie => "set-cookie",
            Self::Authorization => "authorization",
            Self::Length => "length",
            Self::TooLarge => "too-large",
            Self::NotFresh => "not-fresh",
        }
    }
}

/// Decides whether a response is stored, and with which facts.
pub fn storable(
    behavior: &Behavior,
    request: RequestFacts,
    head: &ResponseHead<'_, '_>,
    received_at: u64,
) -> Result<StoredMeta, NotStored> {
    // T-1: with CloudFront's methods no answer to a POST is kept, whatever it says of itself (rule 9).
    let kept_out = request.explicit_only && behavior.methods == Methods::Seven;
    if !request.may_store || kept_out {
        return Err(NotStored::Request);
    }
    if !matches!(head.status, 200..=599) || head.status == 304 || is_caused_by_request(head.status) {
        return Err(NotStored::Status);
    }
    let part = match head.status {
        206 => Some(part(head).filter(|_| request.range).ok_or(NotStored::Status)?),
        _ => None,
    };
    let control = Control::of(behavior, head.fields);
    let forced = minimum_outranks(behavior);
    check_directives(behavior, &control.directives, request, head.status, forced)?;
    // T-44: where Vary is ignored only `*` keeps a response out (T-45).
    if varies_always(head.fields) {
        return Err(NotStored::Vary);
    }
    check_length(behavior, head)?;
    let meta = lifetime(behavior, request, head, &control, received_at)?;
    Ok(StoredMeta { part, ..meta })
}

/// Returns where the content of a 206 belongs: one range, of exactly the length that is announced, of a known whole.
///
/// Parts are kept for URIs that do not vary only.
fn part(head: &ResponseHead<'_, '_>) -> Option<Part> {
    let mut lines = fields::named(head.fields, "content-range");
    let (first, further) = (lines.next()?, lines.next());
    let (range, total) = parse_content_range(first)?;
    let whole_line = further.is_none() && fields::first(head.fields, "vary").is_none();
    (whole_line && head.framing == ResponseFraming::Length(range.len()))
        .then_some(Part { start: range.start, total: total? })
}

/// Tells whether there is a targeted field that we look at, valid or not (rule 17).
pub fn has_targeted(behavior: &Behavior, head: &[Field<'_>]) -> bool {
    let has = |name| fields::first(head, name).is_some();
    (behavior.targeted.is_on() && has(CDN_CACHE_CONTROL))
        || (behavior.surrogate.is_on() && has(SURROGATE_CONTROL))
}

/// The directives in force and where they came from.
struct Control {
    directives: ResponseDirectives,
    targeted: bool,
}

impl Control {
    /// A valid targeted field takes the place of Cache-Control and Expires (rule 17, RFC 9213 §2.2).
    fn of(behavior: &Behavior, head: &[Field<'_>]) -> Self {
        let cdn = || targeted_directives(head, CDN_CACHE_CONTROL).filter(|_| behavior.targeted.is_on());
        let surrogate =
            || targeted_directives(head, SURROGATE_CONTROL).filter(|_| behavior.surrogate.is_on());
        match cdn().or_else(surrogate) {
            Some(directives) => Self { directives, targeted: true },
            None => Self { directives: response_directives(head), targeted: false },
        }
    }

    fn explicit(&self, head: &[Field<'_>], date: Option<u64>, received_at: u64) -> Option<u32> {
        let fields = if self.targeted { &[] } else { head };
        explicit_lifetime(fields, &self.directives, date, received_at)
    }
}

fn lifetime(
    behavior: &Behavior,
    request: RequestFacts,
    head: &ResponseHead<'_, '_>,
    control: &Control,
    received_at: u64,
) -> Result<StoredMeta, NotStored> {
    let directives = &control.directives;
    let forced = minimum_outranks(behavior) && is_restricted(directives);
    let date = generated_at(head.fields);
    let explicit = control.explicit(head.fields, date, received_at);
    check_bad_request(request, head.status, explicit)?;
    // T-8: with a minimum TTL above zero such a response is kept for exactly the minimum.
    let explicit = if forced { Some(0) } else { explicit };
    let explicit = check_status(behavior, head.status, explicit)?;
    check_cookie(behavior, head.fields, explicit)?;
    let generated_at = date.unwrap_or(received_at);
    let implicit = || {
        implicit_lifetime(behavior, head.status, head.fields, directives, generated_at)
            .filter(|_| !request.explicit_only)
    };
    let seconds = explicit.or_else(implicit);
    // RFC 9111 §3: neither told nor allowed to be kept without being told; the minimum TTL does not change that.
    let may_be_kept =
        is_heuristic(head.status) || directives.public || behavior.statuses == Statuses::Cloudfront;
    if seconds.is_none() && !may_be_kept {
        return Err(NotStored::NotFresh);
    }
    let must_validate = directives.no_cache == Extent::Whole && !forced;
    let ttl = if must_validate { 0 } else { clamped(behavior, seconds) };
    let initial_age = initial_age(head.field("age"), date, request.delay, received_at);
    let lifetime = match behavior.origin_age {
        OriginAge::Counts => ttl,
        // T-16: the TTL runs from arrival, while `Age` still tells viewers the whole age (T-43). A lifetime of zero stays one.
        OriginAge::Ignored if ttl > 0 => ttl.saturating_add(initial_age).min(AGE_MAX),
        OriginAge::Ignored => 0,
    };
    let stale_if_error = stale_if_error(behavior, directives);
    let forbids_stale = forbids_stale(directives);
    // T-31: there such a directive stops neither stale answers on error nor those while one is validated.
    let may_be_stale = behavior.stale_on_error == StaleOnError::Cloudfront || !forbids_stale;
    let meta = StoredMeta {
        status: head.status,
        generated_at,
        received_at,
        initial_age,
        lifetime,
        no_cache: must_validate,
        stale_while_revalidate: directives.stale_while_revalidate.filter(|_| may_be_stale).unwrap_or(0),
        stale_if_error,
        forbids_stale,
        targeted: control.targeted,
        part: None,
    };
    if meta.is_fresh(received_at) {
        return Ok(meta);
    }
    // T-10: what can be validated is kept though it is stale; rule 13. Only whole answers, since a stale error helps nobody.
    let can_be_validated = head.status == 200 && Validators::of(head.fields, generated_at).any();
    match (can_be_validated && !request.explicit_only, must_validate) {
        (true, _) => Ok(meta),
        (false, true) => Err(NotStored::NoCache),
        (false, false) => Err(NotStored::NotFresh),
    }
}

/// T-8: with CloudFront's rules a minimum TTL above zero outranks `no-store`, `no-cache` and `private`.
fn minimum_outranks(behavior: &Behavior) -> bool {
    behavior.min_ttl > 0 && behavior.min_ttl_outranks == MinTtlOutranks::Directives
}

fn is_restricted(directives: &ResponseDirectives) -> bool {
    directives.no_store || directives.no_cache == Extent::Whole || directives.private == Extent::Whole
}

/// Rules 2, 3 and 7. Directives that name fields forbid nothing: those fields are withheld.
fn check_directives(
    behavior: &Behavior,
    directives: &ResponseDirectives,
    request: RequestFacts,
    status: u16,
    minimum_outranks: bool,
) -> Result<(), NotStored> {
    if directives.must_understand && !is_understood(status) {
        return Err(NotStored::NotUnderstood);
    }
    // T-35: the error TTL outranks them for these statuses.
    let outranked = minimum_outranks
        || (behavior.statuses == Statuses::Cloudfront
            && behavior.error_ttl.is_some_and(|ttl| ttl > 0)
            && matches!(status, 500 | 502..=504));
    if directives.no_store && !directives.must_understand && !outranked {
        return Err(NotStored::NoStore);
    }
    if directives.private == Extent::Whole && !outranked {
        return Err(NotStored::Private);
    }
    let shared = directives.public || directives.s_maxage.is_some() || directives.must_revalidate;
    if request.authorization && !shared && behavior.authorization.is_on() {
        return Err(NotStored::Authorization);
    }
    Ok(())
}

/// Statuses whose meaning for a cache is known: those of RFC 9110 §15 (rule 2).
fn is_understood(status: u16) -> bool {
    matches!(status, 200..=206 | 300..=305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 451 | 500..=505)
}

/// Tells whether a status says something about one request's own conditions, range, size or expectation, and nothing about the resource.
///
/// Those are outside the key: stored, one viewer's strange request would be everybody's answer (T-34 stores 412; not here). 426 is about
/// one connection's protocol. A 414 is not among them: the whole target is in the key, so it stays with the target that is too long.
fn is_caused_by_request(status: u16) -> bool {
    matches!(status, 412 | 413 | 416 | 417 | 426 | 431)
}

/// A 400 is stored for as long as the origin says, never by a guess, a default or a minimum; and only if the URI must be what is bad.
///
/// Rule 1 wants it stored, and whoever sends a strange field must not choose what others get; decision 7 has both.
fn check_bad_request(request: RequestFacts, status: u16, explicit: Option<u32>) -> Result<(), NotStored> {
    let allowed = request.ordinary && explicit.is_some_and(|seconds| seconds > 0);
    if status == 400 && !allowed { Err(NotStored::Status) } else { Ok(()) }
}

/// With CloudFront's rules: which errors are stored, and that the error TTL is a minimum (T-33, T-34). Returns the explicit lifetime.
fn check_status(behavior: &Behavior, status: u16, explicit: Option<u32>) -> Result<Option<u32>, NotStored> {
    if behavior.statuses == Statuses::Rfc9111 || status < 400 {
        return Ok(explicit);
    }
    let least =
        behavior.error_ttl.map_or(0, |ttl| u32::try_from(ttl).map_or(AGE_MAX, |ttl| ttl.min(AGE_MAX)));
    match (status, explicit) {
        // With an error TTL of 0 the origin alone decides.
        (_, Some(_)) if least == 0 => Ok(explicit),
        (400 | 403 | 405 | 412 | 415, Some(seconds)) => Ok(Some(seconds.max(least))),
        (status, Some(seconds)) if is_cached_error(status) => Ok(Some(seconds.max(least))),
        (status, None) if is_cached_error(status) && least > 0 => Ok(Some(least)),
        _ => Err(NotStored::Status),
    }
}

/// Rule 8: a cookie is replayed only where the origin stated a lifetime, and the operator allows it.
fn check_cookie(behavior: &Behavior, head: &[Field<'_>], explicit: Option<u32>) -> Result<(), NotStored> {
    let sets = fields::first(head, "set-cookie").or_else(|| fields::first(head, "set-cookie2")).is_some();
    let allowed = explicit.is_some() && behavior.store_set_cookie.is_on();
    if sets && !allowed { Err(NotStored::SetCookie) } else { Ok(()) }
}

/// RFC 9111 §4.2.4: a directive forbids every stale answer.
fn forbids_stale(directives: &ResponseDirectives) -> bool {
    directives.must_revalidate
        || directives.proxy_revalidate
        || directives.s_maxage.is_some()
        || directives.no_cache == Extent::Whole
}

/// Rule 15 and T-28, T-31.
fn stale_if_error(behavior: &Behavior, directives: &ResponseDirectives) -> StaleIfError {
    let stated = directives.stale_if_error;
    let forbidden = forbids_stale(directives);
    match (behavior.stale_on_error, stated) {
        (_, Some(0)) => StaleIfError::Forbidden,
        (StaleOnError::Stated | StaleOnError::Rfc9111, _) if forbidden => StaleIfError::Forbidden,
        (_, Some(seconds)) => StaleIfError::Within(seconds),
        (StaleOnError::Stated, None) => StaleIfError::Forbidden,
        (StaleOnError::Rfc9111 | StaleOnError::Cloudfront, None) => StaleIfError::Unstated,
    }
}

/// A body that ends with the connection is whole by RFC 9112 §8 if the connection ended in order, which the origin client sees.
fn check_length(behavior: &Behavior, head: &ResponseHead<'_, '_>) -> Result<(), NotStored> {
    match head.framing {
        ResponseFraming::Length(len) if len > behavior.object_size_max => Err(NotStored::TooLarge),
        ResponseFraming::Length(_) | ResponseFraming::Chunked | ResponseFraming::UntilClose => Ok(()),
        ResponseFraming::None if head.status == 204 => Ok(()),
        ResponseFraming::None => Err(NotStored::Length),
    }
}

#[cfg(test)]
pub(crate) mod tests;
