//! Splits the request target into its four forms (RFC 9112 section 3.2).

use super::RequestError;
use crate::authority::parse_authority;
use crate::{Method, Scheme};

/// The parts of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'b> {
    pub(super) scheme: Option<Scheme>,
    pub(super) authority: Option<&'b str>,
    pub(super) path_and_query: &'b str,
}

/// Splits a target whose bytes were checked by the request line.
///
/// An absolute-form target with a query but without a path (`http://host?query`) is refused: RFC 9112
/// section 3.2.1 makes the sender write the slash, and the slash could not be borrowed.
#[inline]
pub(super) fn split<'b>(target: &'b str, method: Method<'b>) -> Result<Target<'b>, RequestError> {
    if method == Method::Connect {
        let authority = parse_authority(target.as_bytes()).ok_or(RequestError::Target)?;
        // Authority-form always names its port (RFC 9112 section 3.2.3).
        return match authority.port {
            Some(_) => Ok(Target { scheme: None, authority: Some(target), path_and_query: "" }),
            None => Err(RequestError::Target),
        };
    }
    if target.starts_with('/') {
        return Ok(Target { scheme: None, authority: None, path_and_query: target });
    }
    if target == "*" {
        return match method {
            Method::Options => Ok(Target { scheme: None, authority: None, path_and_query: "*" }),
            _ => Err(RequestError::Target),
        };
    }
    absolute(target, method)
}

/// `http://authority[/path][?query]` or the same with `https`: what viewers seldom send, and kept out of the way of what they do. The count of a
/// hit's instructions begins and ends where one does.
#[cold]
#[inline(never)]
fn absolute<'b>(target: &'b str, method: Method<'b>) -> Result<Target<'b>, RequestError> {
    let (scheme, rest) = match target.split_once("://") {
        Some((name, rest)) if name.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
        Some((name, rest)) if name.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
        _ => return Err(RequestError::Target),
    };
    let (authority, path_and_query) = match rest.find(['/', '?']) {
        Some(at) => rest.split_at(at),
        // RFC 9112 section 3.2.4: OPTIONS of an authority without path means the server as a whole.
        None if method == Method::Options => (rest, "*"),
        None => (rest, "/"),
    };
    if path_and_query.starts_with('?') || parse_authority(authority.as_bytes()).is_none() {
        return Err(RequestError::Target);
    }
    Ok(Target { scheme: Some(scheme), authority: Some(authority), path_and_query })
}
