//! Through which scheme and host does the viewer see us, as far as the origin may learn it (H-12)?
//!
//! The key and the origin request both use the answer, so what the origin can see of it is always part of the key: a field that
//! selects the origin's answer without being in the key would let one viewer choose what others get.

use std::net::IpAddr;

use aspis_cache::key::{SEPARATOR, write_key};
use aspis_wire::request::RequestHead;
use aspis_wire::{Scheme, fields};

/// Who asks, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewerFacts {
    /// The scheme of the viewer's connection.
    pub scheme: Scheme,
    /// The viewer's address: the TCP peer, or whom a PROXY protocol header names.
    pub address: IpAddr,
    /// The peer is one of `--trusted-proxies`, so its `X-Forwarded-Proto` and `-Host` are believed.
    pub trusted: bool,
}

/// The viewer's own view of scheme and host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded<'b> {
    /// `X-Forwarded-Proto` of a trusted peer, else the connection's scheme.
    pub scheme: Scheme,
    /// `X-Forwarded-Host` of a trusted peer, if it has one that is well-formed.
    pub host: Option<&'b str>,
}

/// Reads the forwarding fields of a trusted peer; those of others count as absent.
pub fn forwarded<'b>(head: &RequestHead<'b, '_>, viewer: &ViewerFacts) -> Forwarded<'b> {
    if !viewer.trusted {
        return Forwarded { scheme: viewer.scheme, host: None };
    }
    let scheme = match single(head, "x-forwarded-proto") {
        Some(value) if value.eq_ignore_ascii_case(b"http") => Scheme::Http,
        Some(value) if value.eq_ignore_ascii_case(b"https") => Scheme::Https,
        _ => viewer.scheme,
    };
    let host = single(head, "x-forwarded-host")
        .filter(|value| aspis_wire::parse_authority(value).is_some())
        .and_then(|value| std::str::from_utf8(value).ok());
    Forwarded { scheme, host }
}

/// Writes the cache key of a request: scheme and host as the viewer sees them, path and query.
///
/// A trusted `X-Forwarded-Host` that differs from the authority is a fourth part, since the origin sees both.
pub fn write_request_key(
    head: &RequestHead<'_, '_>,
    viewer: &ViewerFacts,
    path_and_query: &str,
    out: &mut Vec<u8>,
) {
    let forwarded = forwarded(head, viewer);
    write_key(forwarded.scheme, head.authority, path_and_query, out);
    if let Some(host) = forwarded.host
        && !host.eq_ignore_ascii_case(head.authority)
    {
        out.push(SEPARATOR);
        let at = out.len();
        out.extend_from_slice(host.as_bytes());
        out[at..].make_ascii_lowercase();
    }
}

/// Returns a field's value if there is exactly one line of it.
fn single<'b>(head: &RequestHead<'b, '_>, name: &str) -> Option<&'b [u8]> {
    let mut lines = fields::named(head.fields, name);
    let first = lines.next()?;
    if lines.next().is_some() { None } else { Some(first) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aspis_wire::request::parse_request;
    use aspis_wire::{FieldSlots, HeadLimits};

    fn key(fields: &str, trusted: bool) -> Vec<u8> {
        let text = format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut slots = FieldSlots::new();
        let head = parse_request(text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
        let viewer = ViewerFacts { scheme: Scheme::Http, address: IpAddr::from([192, 0, 2, 1]), trusted };
        let mut out = Vec::new();
        write_request_key(&head, &viewer, head.path_and_query, &mut out);
        out
    }

    #[test]
    fn fields_of_strangers_do_not_reach_the_key() {
        let plain = key("", false);
        assert_eq!(key("X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n", false), plain);
        assert_eq!(key("", true), plain);
    }

    #[test]
    fn what_a_trusted_peer_tells_the_origin_is_in_the_key() {
        let plain = key("", true);
        assert_ne!(key("X-Forwarded-Proto: https\r\n", true), plain);
        assert_ne!(key("X-Forwarded-Host: b\r\n", true), plain);
        assert_eq!(key("X-Forwarded-Host: B\r\n", true), key("X-Forwarded-Host: b\r\n", true));
        assert_eq!(key("X-Forwarded-Host: A\r\n", true), plain);
    }

    #[test]
    fn unclear_fields_of_a_trusted_peer_count_as_absent() {
        let plain = key("", true);
        for fields in [
            "X-Forwarded-Proto: gopher\r\n",
            "X-Forwarded-Proto: https, http\r\n",
            "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: https\r\n",
            "X-Forwarded-Host: a b\r\n",
            "X-Forwarded-Host: b, c\r\n",
            "X-Forwarded-Host: b/c\r\n",
        ] {
            assert_eq!(key(fields, true), plain, "{fields}");
        }
    }

    /// An absolute-form target's scheme is not the connection's.
    #[test]
    fn scheme_comes_from_the_connection() {
        let text = "GET https://a/x HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut slots = FieldSlots::new();
        let head = parse_request(text.as_bytes(), &mut slots, &HeadLimits::default()).unwrap().unwrap();
        let viewer =
            ViewerFacts { scheme: Scheme::Http, address: IpAddr::from([192, 0, 2, 1]), trusted: false };
        assert_eq!(forwarded(&head, &viewer).scheme, Scheme::Http);
    }
}
