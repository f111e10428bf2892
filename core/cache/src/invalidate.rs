//! Which stored responses does an answer make invalid (RFC 9111 §4.4, rule 16 of the RFC 9111 profile)?
//!
//! `core/exchange` asks when the origin's final head arrives and hands the keys to the driver. Invariant: only URIs of the request's own
//! authority are named, so one site cannot empty another's cache.

use aspis_config::Behavior;
use aspis_wire::{Method, Scheme};

use crate::key::without_default_port;

/// Tells whether an answer invalidates: a non-error status (2xx, 3xx) to a method that is not known to be safe; never with CloudFront's
/// rules (T-1).
pub fn invalidates(behavior: &Behavior, method: Method<'_>, status: u16) -> bool {
    behavior.invalidate_on_unsafe && !method.is_safe() && (200..400).contains(&status)
}

/// Returns path and query that a `Location` or `Content-Location` names, if it lies within the request's own authority.
///
/// Takes an absolute URI, `//authority/path`, an absolute path or a path relative to the request's. Dot segments are resolved
/// for relative paths; a fragment is dropped. `None` for another host, another scheme or anything unclear: what is not named
/// here is at worst served until it is stale, as RFC 9111 §4.4 allows.
pub fn same_authority_target(
    scheme: Scheme,
    authority: &str,
    request_path: &str,
    reference: &[u8],
) -> Option<String> {
    let reference = std::str::from_utf8(reference).ok()?.trim_ascii();
    let reference = reference.split('#').next().unwrap_or_default();
    if reference.is_empty() || !reference.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    if let Some(rest) = reference.strip_prefix("//") {
        return within(scheme, authority, rest);
    }
    if reference.starts_with('/') {
        return Some(reference.to_string());
    }
    if let Some((given, rest)) = reference.split_once("://")
        && !given.contains(['/', '?'])
    {
        let same = given.eq_ignore_ascii_case(scheme.as_str());
        return if same { within(scheme, authority, rest) } else { None };
    }
    let has_scheme = reference.split(['/', '?']).next().is_some_and(|segment| segment.contains(':'));
    if has_scheme { None } else { Some(relative(request_path, reference)) }
}

/// Splits `authority/path` and compares the authority as keys do.
fn within(scheme: Scheme, authority: &str, rest: &str) -> Option<String> {
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let plain = |text| without_default_port(scheme, text);
    if !plain(host).eq_ignore_ascii_case(plain(authority)) {
        return None;
    }
    Some(if path.starts_with('/') { path.to_string() } else { format!("/{path}") })
}

/// Resolves a relative reference against the request's path (RFC 3986 §5.2).
fn relative(request_path: &str, reference: &str) -> String {
    let path = request_path.split('?').next().unwrap_or_default();
    if reference.starts_with('?') {
        return format!("{path}{reference}");
    }
    let directory = &path[..path.rfind('/').map_or(0, |at| at + 1)];
    let (steps, query) = reference.split_at(reference.find('?').unwrap_or(reference.len()));
    let merged = format!("{directory}{steps}");
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_in_directory = false;
    for segment in merged.split('/').skip(1) {
        ends_in_directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let slash = if ends_in_directory && !segments.is_empty() { "/" } else { "" };
    format!("/{}{slash}{query}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storable::tests::behavior;
    use proptest::prelude::*;

    /// Rule 16: 2xx and 3xx to unsafe and unknown methods; T-1 for CloudFront.
    #[test]
    fn non_error_answers_to_unsafe_methods_invalidate() {
        let rfc = behavior(&[]);
        for (method, status, expected) in [
            (Method::Post, 200, true),
            (Method::Put, 204, true),
            (Method::Delete, 303, true),
            (Method::Other("M-SEARCH"), 200, true),
            (Method::Post, 400, false),
            (Method::Post, 500, false),
            (Method::Post, 101, false),
            (Method::Get, 200, false),
            (Method::Head, 200, false),
            (Method::Options, 200, false),
        ] {
            assert_eq!(invalidates(&rfc, method, status), expected, "{method:?} {status}");
        }
        assert!(!invalidates(&behavior(&[("semantics", "cloudfront")]), Method::Post, 200));
    }

    /// Rule 16: same host only.
    #[test]
    fn targets_stay_within_the_authority() {
        let cases: &[(&str, Option<&str>)] = &[
            ("/new?x=1", Some("/new?x=1")),
            ("/new#part", Some("/new")),
            ("http://a.example/x", Some("/x")),
            ("HTTP://A.Example:80/x", Some("/x")),
            ("http://a.example", Some("/")),
            ("http://a.example?q", Some("/?q")),
            ("//a.example/x", Some("/x")),
            ("//b.example/x", None),
            ("http://b.example/x", None),
            ("http://a.example.evil/x", None),
            ("http://a.example@evil/x", None),
            ("https://a.example/x", None),
            ("http://a.example:81/x", None),
            ("mailto:x@a.example", None),
            ("item", Some("/dir/item")),
            ("./item", Some("/dir/item")),
            ("../item", Some("/item")),
            ("../../../item?q=../x", Some("/item?q=../x")),
            ("sub/../", Some("/dir/")),
            ("..", Some("/")),
            ("?q", Some("/dir/file?q")),
            ("", None),
            ("a b", None),
            ("\u{fc}", None),
        ];
        for (reference, expected) in cases {
            let answer =
                same_authority_target(Scheme::Http, "a.example", "/dir/file?z", reference.as_bytes());
            assert_eq!(answer.as_deref(), *expected, "{reference}");
        }
    }

    proptest! {
        #[test]
        fn no_reference_panics_and_every_target_is_a_path(
            path in "/[a-z/.?]{0,12}", reference in prop_oneof!["\\PC{0,20}", "[a-z/.:?#]{0,20}"]
        ) {
            if let Some(target) = same_authority_target(Scheme::Http, "a", &path, reference.as_bytes()) {
                prop_assert!(target.starts_with('/'));
                prop_assert!(target.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }
}
