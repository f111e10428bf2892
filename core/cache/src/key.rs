//! Under which key is a response kept?
//!
//! The primary key is scheme, host and path with the full query (RFC 9111 §2, profile of origin mode). `core/exchange` writes it into
//! the driver's buffer for each request; storage compares all its bytes, the hash only finds the place.
//! Invariant: two requests have equal keys exactly if scheme, normalised authority and path with query are equal. The parts are
//! separated by line feeds, which no parser of ours lets into a request line or a field.

use aspis_wire::Scheme;
use xxhash_rust::xxh3::xxh3_128;

/// What stands between the parts of a key.
pub const SEPARATOR: u8 = b'\n';

/// What follows a primary key where a part of the representation is kept; no variant's key begins so, since names are not empty.
pub const PART_SUFFIX: &[u8] = b"\n\n";

/// Writes the key into `out`, whose former content is dropped: host in lower case, the scheme's own port left out (RFC 9110 §4.2.3).
///
/// Path and query are taken byte for byte: what the origin could tell apart, the key tells apart.
pub fn write_key(scheme: Scheme, authority: &str, path_and_query: &str, out: &mut Vec<u8>) {
    let (scheme_text, host) = (scheme.as_str(), without_default_port(scheme, authority));
    // Made as long as it will be at once: growing step by step took half of this function's time.
    out.clear();
    out.resize(scheme_text.len() + host.len() + path_and_query.len() + 2, SEPARATOR);
    let (scheme_place, rest) = out.split_at_mut(scheme_text.len());
    let (host_place, rest) = rest[1..].split_at_mut(host.len());
    scheme_place.copy_from_slice(scheme_text.as_bytes());
    host_place.copy_from_slice(host.as_bytes());
    host_place.make_ascii_lowercase();
    rest[1..].copy_from_slice(path_and_query.as_bytes());
}

/// Returns the hash of a key: one-shot xxh3-128, no seed.
#[inline]
pub fn hash(key: &[u8]) -> u128 {
    xxh3_128(key)
}

/// Drops a port that is empty or the scheme's own; the colons of an IPv6 literal are not a port's.
pub(crate) fn without_default_port(scheme: Scheme, authority: &str) -> &str {
    let default = match scheme {
        Scheme::Http => ":80",
        Scheme::Https => ":443",
    };
    match authority.strip_suffix(':').or_else(|| authority.strip_suffix(default)) {
        // `[::80` and the like are no authority; what remains must be a whole host.
        Some(host) if !host.contains(':') || host.ends_with(']') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(scheme: Scheme, authority: &str, path: &str) -> Vec<u8> {
        let mut out = b"left over".to_vec();
        write_key(scheme, authority, path, &mut out);
        out
    }

    /// RFC 9110 §4.2.3: equivalent URIs have one key.
    #[test]
    fn equivalent_authorities_share_a_key() {
        for (scheme, a, b) in [
            (Scheme::Http, "Example.COM", "example.com"),
            (Scheme::Http, "example.com:80", "example.com"),
            (Scheme::Http, "example.com:", "example.com"),
            (Scheme::Https, "example.com:443", "example.com"),
            (Scheme::Http, "[::1]:80", "[::1]"),
        ] {
            assert_eq!(key(scheme, a, "/x?y"), key(scheme, b, "/x?y"), "{a} {b}");
        }
    }

    #[test]
    fn what_the_origin_can_tell_apart_has_its_own_key() {
        let base = key(Scheme::Http, "a", "/x?y=1");
        for other in [
            key(Scheme::Https, "a", "/x?y=1"),
            key(Scheme::Http, "b", "/x?y=1"),
            key(Scheme::Http, "a:443", "/x?y=1"),
            key(Scheme::Http, "a:8080", "/x?y=1"),
            key(Scheme::Http, "a", "/X?y=1"),
            key(Scheme::Http, "a", "/x?y=2"),
            key(Scheme::Http, "a", "/x?y=1&"),
            key(Scheme::Http, "a", "/x"),
            key(Scheme::Http, "a", "/%78?y=1"),
            key(Scheme::Http, "a/x", "?y=1"),
        ] {
            assert_ne!(base, other);
            assert_ne!(hash(&base), hash(&other));
        }
        assert_ne!(key(Scheme::Http, "[::80", "/"), key(Scheme::Http, "[:", "/"));
    }

    proptest! {
        /// Two keys are equal exactly if their parts are.
        #[test]
        fn key_is_injective(
            a in "[a-z]{1,3}(:81)?", b in "[a-z]{1,3}(:81)?", p in "/[a-zA-Z?&/]{0,4}", q in "/[a-zA-Z?&/]{0,4}", s in any::<bool>(), t in any::<bool>()
        ) {
            let scheme = |tls| if tls { Scheme::Https } else { Scheme::Http };
            let equal = key(scheme(s), &a, &p) == key(scheme(t), &b, &q);
            prop_assert_eq!(equal, s == t && a == b && p == q);
        }

        #[test]
        fn host_case_is_ignored_and_path_case_is_not(host in "[a-zA-Z]{1,8}", path in "/[a-zA-Z]{1,8}") {
            let upper = key(Scheme::Http, &host.to_uppercase(), &path);
            prop_assert_eq!(&upper, &key(Scheme::Http, &host.to_lowercase(), &path));
            let swapped = if path.to_lowercase() == path { path.to_uppercase() } else { path.to_lowercase() };
            prop_assert_ne!(&upper, &key(Scheme::Http, &host, &swapped));
        }
    }
}
