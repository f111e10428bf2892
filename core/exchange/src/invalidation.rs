//! Which cache keys does an answer make invalid (RFC 9111 §4.4, rule 16 of the RFC 9111 profile)?
//!
//! The driver asks when [`Action::RespondOrigin`](crate::Action::RespondOrigin) says `invalidate`, before it sends the answer, and
//! takes each key from every place where it may be stored. Invariant: all keys are of the request's own authority.

use aspis_cache::invalidate::same_authority_target;
use aspis_cache::key::hash;
use aspis_wire::request::RequestHead;
use aspis_wire::response::ResponseHead;

use crate::forwarded::{ViewerFacts, forwarded, write_request_key};

/// Calls `invalid` with hash and key of the target, of Location and of Content-Location, each once; the last two only within the authority.
pub fn keys(
    request: &RequestHead<'_, '_>,
    viewer: &ViewerFacts,
    response: &ResponseHead<'_, '_>,
    key_buffer: &mut Vec<u8>,
    invalid: &mut dyn FnMut(u128, &[u8]),
) {
    let target = request.path_and_query;
    if !target.starts_with('/') {
        return;
    }
    write_request_key(request, viewer, target, key_buffer);
    invalid(hash(key_buffer), key_buffer);
    let scheme = forwarded(request, viewer).scheme;
    let named = ["location", "content-location"].map(|name| {
        let reference = response.field(name)?;
        same_authority_target(scheme, request.authority, target, reference)
    });
    for (at, path) in named.iter().enumerate() {
        if let Some(path) = path
            && path != target
            && !named[..at].contains(&Some(path.clone()))
        {
            write_request_key(request, viewer, path, key_buffer);
            invalid(hash(key_buffer), key_buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aspis_wire::request::parse_request;
    use aspis_wire::response::parse_response;
    use aspis_wire::{FieldSlots, HeadLimits, Method, Scheme};

    fn paths(response: &str) -> Vec<String> {
        let request = "POST /form HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
        let response = format!("HTTP/1.1 201 Created\r\n{response}\r\n\r\n");
        let (mut slots, mut response_slots) = (FieldSlots::new(), FieldSlots::new());
        let limits = HeadLimits::default();
        let request = parse_request(request.as_bytes(), &mut slots, &limits).unwrap().unwrap();
        let response =
            parse_response(response.as_bytes(), &mut response_slots, &limits, Method::Post).unwrap().unwrap();
        let viewer = ViewerFacts { scheme: Scheme::Http, address: [192, 0, 2, 1].into(), trusted: false };
        let mut found = Vec::new();
        keys(&request, &viewer, &response, &mut Vec::new(), &mut |hashed, key| {
            assert_eq!(hashed, hash(key));
            let key = std::str::from_utf8(key).unwrap();
            found.push(key.strip_prefix("http\na\n").unwrap().to_string());
        });
        found
    }

    /// Rule 16.
    #[test]
    fn target_location_and_content_location_are_named_once() {
        assert_eq!(paths("Content-Length: 0"), ["/form"]);
        assert_eq!(paths("Location: /new\r\nContent-Location: http://a/other"), ["/form", "/new", "/other"]);
        assert_eq!(paths("Location: /new\r\nContent-Location: /new"), ["/form", "/new"]);
        assert_eq!(paths("Location: /form"), ["/form"]);
        assert_eq!(paths("Location: http://b/new"), ["/form"]);
    }
}
