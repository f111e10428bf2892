//! Writes the head of a request to the origin (H-12, H-13, H-21, D-17).
//!
//! The driver calls it when the exchange says `Forward`. What the viewer sent end to end goes on byte for byte and in order; what concerns
//! the viewer's connection does not; what says who asked is rewritten so that a viewer cannot speak for a proxy.
//! Invariants: method, path and query are the viewer's behind the origin's prefix; exactly one Host and at most one framing field.

use std::net::IpAddr;

use aspis_cache::conditional::Validators;
use aspis_config::Behavior;
use aspis_config::checked::OriginHost;
use aspis_wire::head_writer::HeadWriter;
use aspis_wire::request::{RequestFraming, RequestHead};
use aspis_wire::{Field, Method, fields};

use crate::forwarded::{ViewerFacts, forwarded};

/// Appends the request's head to `out`, with the viewer's preconditions.
pub fn write(head: &RequestHead<'_, '_>, viewer: &ViewerFacts, behavior: &Behavior, out: &mut Vec<u8>) {
    write_as(head, head.method, viewer, behavior, Preconditions::Viewer, out);
}

/// The preconditions of an origin request.
#[derive(Clone, Copy, Debug)]
pub enum Preconditions<'a> {
    /// The viewer's, and its Range.
    Viewer,
    /// Of the viewer's the Range and its If-Range only: what comes is for others too.
    Range,
    /// None, and no Range.
    None,
    /// If-None-Match and If-Modified-Since of a stored response (RFC 9111 §4.3.1), and no Range.
    Of(Validators<'a>),
    /// The bytes from this one on, if the strong ETag still holds (RFC 9110 §13.1.5, rule 14).
    Rest {
        /// The first byte that is missing.
        from: u64,
        /// What the rest has to belong to.
        etag: Option<&'a [u8]>,
    },
}

/// Appends the request's head to `out`, with another method and other preconditions than the viewer's.
pub fn write_as(
    head: &RequestHead<'_, '_>,
    method: Method<'_>,
    viewer: &ViewerFacts,
    behavior: &Behavior,
    preconditions: Preconditions<'_>,
    out: &mut Vec<u8>,
) {
    let mut writer = HeadWriter::new(out);
    if head.path_and_query.starts_with('/') {
        writer.request_line_parts(method, &[&behavior.origin.path_prefix, head.path_and_query]);
    } else {
        // `*` asks about the server, not about a resource below the prefix.
        writer.request_line(method, head.path_and_query);
    }
    writer.field("Host", host(head, behavior).as_bytes());
    for field in fields::end_to_end(head.fields) {
        let as_asked = match preconditions {
            Preconditions::Viewer => true,
            Preconditions::Range => is_range(field.name) || !is_precondition(field.name),
            _ => !is_precondition(field.name),
        };
        if method == Method::Options && field.name.eq_ignore_ascii_case("max-forwards") {
            // RFC 9110 §7.6.2; zero was answered before.
            if let Some(left) = max_forwards(field.value) {
                writer.field_number("Max-Forwards", left.saturating_sub(1));
            }
        } else if as_asked && passes(field, viewer) {
            writer.field(field.name, field.value);
        }
    }
    if let Preconditions::Of(validators) = preconditions {
        if let Some(etag) = validators.etag {
            writer.field("If-None-Match", etag);
        }
        if let Some(modified) = validators.last_modified {
            writer.field("If-Modified-Since", modified);
        }
    }
    if let Preconditions::Rest { from, etag } = preconditions {
        writer.field_parts("Range", &[b"bytes=", from.to_string().as_bytes(), b"-"]);
        if let Some(etag) = etag {
            writer.field("If-Range", etag);
        }
    }
    if behavior.surrogate.is_on() {
        writer.field_parts("Surrogate-Capability", &[behavior.name.as_bytes(), b"=\"Surrogate/1.0\""]);
    }
    write_forwarding(head, viewer, &mut writer);
    let version = head.version.as_str().strip_prefix("HTTP/").unwrap_or(head.version.as_str());
    writer.field_parts("Via", &[version.as_bytes(), b" ", behavior.name.as_bytes()]);
    if head.upgrade {
        writer.field("Connection", b"upgrade");
        for value in head.fields_named("upgrade") {
            writer.field("Upgrade", value);
        }
    }
    match head.framing {
        RequestFraming::None => {}
        RequestFraming::Length(len) => {
            writer.field_number("Content-Length", len);
        }
        RequestFraming::Chunked => {
            writer.field("Transfer-Encoding", b"chunked");
        }
    }
    writer.end();
}

/// Reads Max-Forwards; what is no number counts as absent.
pub(crate) fn max_forwards(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    if digits { Some(std::str::from_utf8(value).ok()?.parse().unwrap_or(u64::MAX)) } else { None }
}

/// Returns the Host that the origin sees; without one from an HTTP/1.0 viewer, the origin's own.
fn host<'a>(head: &'a RequestHead<'_, '_>, behavior: &'a Behavior) -> &'a str {
    match behavior.origin_host {
        OriginHost::Viewer if !head.authority.is_empty() => head.authority,
        _ => &behavior.origin_authority,
    }
}

/// Tells whether an end-to-end field goes on as it is.
///
/// Not those that are written anew (Host, framing, forwarding), not Expect, which is answered here (H-21), not credentials for us
/// (Proxy-Authorization, H-11). From strangers, no other field that speaks for a proxy either: an origin may choose its answer by
/// it, and it is not part of the cache key.
fn passes(field: &Field<'_>, viewer: &ViewerFacts) -> bool {
    const WRITTEN_ANEW: [&str; 8] = [
        "host",
        "content-length",
        "transfer-encoding",
        "expect",
        "proxy-authorization",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
    ];
    let name = field.name;
    if WRITTEN_ANEW.iter().any(|written| name.eq_ignore_ascii_case(written)) {
        return false;
    }
    viewer.trusted || !speaks_for_a_proxy(name)
}

/// Fields that make an answer depend on what the viewer has already.
fn is_precondition(name: &str) -> bool {
    ["if-none-match", "if-modified-since", "if-match", "if-unmodified-since", "if-range", "range"]
        .iter()
        .any(|precondition| name.eq_ignore_ascii_case(precondition))
}

fn is_range(name: &str) -> bool {
    name.eq_ignore_ascii_case("range") || name.eq_ignore_ascii_case("if-range")
}

fn speaks_for_a_proxy(name: &str) -> bool {
    let prefix = name.get(.."x-forwarded-".len());
    prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case("x-forwarded-"))
        || name.eq_ignore_ascii_case("forwarded")
        || name.eq_ignore_ascii_case("x-real-ip")
        || name.eq_ignore_ascii_case("x-original-url")
        || name.eq_ignore_ascii_case("x-rewrite-url")
}

/// H-12: the viewer's address is appended to X-Forwarded-For whoever the peer is; scheme and host are kept from trusted peers only.
fn write_forwarding(head: &RequestHead<'_, '_>, viewer: &ViewerFacts, writer: &mut HeadWriter<'_>) {
    let mut chain = Vec::with_capacity(64);
    for value in head.fields_named("x-forwarded-for").filter(|value| !value.is_empty()) {
        chain.extend_from_slice(value);
        chain.push(b',');
    }
    chain.extend_from_slice(address_text(viewer.address).as_bytes());
    writer.field("X-Forwarded-For", &chain);
    let seen = forwarded(head, viewer);
    writer.field("X-Forwarded-Proto", seen.scheme.as_str().as_bytes());
    let host = seen.host.unwrap_or(head.authority);
    if !host.is_empty() {
        writer.field("X-Forwarded-Host", host.as_bytes());
    }
}

/// An IPv4 viewer of a dual-stack socket is named by its IPv4 address; IPv6 goes without brackets (H-12).
fn address_text(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

#[cfg(test)]
mod tests;
