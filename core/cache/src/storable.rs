//! May this response be stored (RFC 9111 §3, rules 1 to 8 of the RFC 9111 profile, T-1 to T-9)?
//!
//! `core/exchange` asks when the origin's final head arrives. This landing stores the plain case only: a 200 to a GET with
//! freshness and without anything that needs a rule of the next landing. Invariant: every doubt is a [`NotStored`], so at worst a
//! request goes to the origin that need not have.

use aspis_config::Behavior;
use aspis_config::behavior::{MinTtlOutranks, OriginAge};
use aspis_wire::Field;
use aspis_wire::response::{ResponseFraming, ResponseHead};

use crate::age::{AGE_MAX, initial_age};
use crate::directives::{Extent, ResponseDirectives, response_directives};
use crate::freshness::{explicit_lifetime, generated_at, lifetime};
use crate::stored::StoredMeta;

/// What the request says about storing its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// The method is GET and nothing in the request keeps it from the cache (see [`crate::reuse::bypass`]).
    pub may_store: bool,
    /// The request has an Authorization field.
    pub authorization: bool,
    /// Wall second at which the request was sent to the origin.
    pub requested_at: u64,
}

/// Why a response is not stored. The first reason in the order of RFC 9111 §3 counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStored {
    /// The request's method or fields keep it from the cache.
    Request,
    /// The status is not 200.
    Status,
    /// `no-store`.
    NoStore,
    /// `private`, also for named fields only.
    Private,
    /// `no-cache`, also for named fields only.
    NoCache,
    /// The response varies.
    Vary,
    /// It sets a cookie.
    SetCookie,
    /// The request was authorised and nothing permits sharing (RFC 9111 §3.5).
    Authorization,
    /// It carries a field whose meaning this landing does not know: Content-Range or a targeted Cache-Control.
    Unknown,
    /// Its end cannot be told from a broken connection.
    Length,
    /// It is larger than what is stored.
    TooLarge,
    /// It is stale on arrival, or nothing says how long it is fresh.
    NotFresh,
}

/// Decides whether a response is stored, and with which facts.
pub fn storable(
    behavior: &Behavior,
    request: RequestFacts,
    head: &ResponseHead<'_, '_>,
    received_at: u64,
) -> Result<StoredMeta, NotStored> {
    if !request.may_store {
        return Err(NotStored::Request);
    }
    if head.status != 200 {
        return Err(NotStored::Status);
    }
    let directives = response_directives(head.fields);
    let forced = minimum_outranks(behavior);
    check_directives(&directives, request, forced)?;
    check_fields(head.fields)?;
    check_length(behavior, head)?;

    let date = generated_at(head.fields);
    let explicit = if forced && is_restricted(&directives) {
        // T-8: with a minimum TTL above zero such a response is kept for exactly the minimum.
        Some(0)
    } else {
        explicit_lifetime(head.fields, &directives, date, received_at)
    };
    let initial_age = initial_age(head.field("age"), date, request.requested_at, received_at);
    let ttl = lifetime(behavior, explicit);
    let lifetime = match behavior.origin_age {
        OriginAge::Counts => ttl,
        // T-16: the TTL runs from arrival, while `Age` still tells viewers the whole age (T-43).
        OriginAge::Ignored => ttl.saturating_add(initial_age).min(AGE_MAX),
    };
    let generated_at = date.unwrap_or(received_at);
    let meta = StoredMeta { status: head.status, generated_at, received_at, initial_age, lifetime };
    // T-10 keeps responses of lifetime zero for validation, which this landing does not have.
    if meta.is_fresh(received_at) { Ok(meta) } else { Err(NotStored::NotFresh) }
}

/// T-8: with CloudFront's rules a minimum TTL above zero outranks `no-store`, `no-cache` and `private`.
fn minimum_outranks(behavior: &Behavior) -> bool {
    behavior.min_ttl > 0 && behavior.min_ttl_outranks == MinTtlOutranks::Directives
}

fn is_restricted(directives: &ResponseDirectives) -> bool {
    directives.no_store || directives.no_cache == Extent::Whole || directives.private == Extent::Whole
}

/// Rules 3 and 7. Directives that restrict named fields forbid storing here: withholding fields comes with the next landing.
fn check_directives(
    directives: &ResponseDirectives,
    request: RequestFacts,
    minimum_outranks: bool,
) -> Result<(), NotStored> {
    let forbids = |extent| match extent {
        Extent::Absent => false,
        Extent::Fields => true,
        Extent::Whole => !minimum_outranks,
    };
    if directives.no_store && !minimum_outranks {
        return Err(NotStored::NoStore);
    }
    if forbids(directives.private) {
        return Err(NotStored::Private);
    }
    if forbids(directives.no_cache) {
        return Err(NotStored::NoCache);
    }
    let shared = directives.public || directives.s_maxage.is_some() || directives.must_revalidate;
    if request.authorization && !shared {
        return Err(NotStored::Authorization);
    }
    Ok(())
}

/// Fields that need a rule of the next landing (11, 8, 14, 17): their presence alone keeps a response out.
fn check_fields(head: &[Field<'_>]) -> Result<(), NotStored> {
    for field in head {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("vary") {
            return Err(NotStored::Vary);
        }
        if is("set-cookie") || is("set-cookie2") {
            return Err(NotStored::SetCookie);
        }
        if is("content-range") || is("cdn-cache-control") || is("surrogate-control") {
            return Err(NotStored::Unknown);
        }
    }
    Ok(())
}

/// A body that ends with the connection cannot be told from one that was cut, so it is not kept.
fn check_length(behavior: &Behavior, head: &ResponseHead<'_, '_>) -> Result<(), NotStored> {
    match head.framing {
        ResponseFraming::Length(len) if len > behavior.object_size_max => Err(NotStored::TooLarge),
        ResponseFraming::Length(_) | ResponseFraming::Chunked => Ok(()),
        ResponseFraming::None | ResponseFraming::UntilClose => Err(NotStored::Length),
    }
}

#[cfg(test)]
pub(crate) mod tests;
