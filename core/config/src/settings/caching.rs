//! What is kept, for how long, and under which rules.

use super::{Kind, PLAIN, SECOND, Setting, TTL_MAX};

/// The rows behind those of the disk tier.
pub(super) const ROWS: &[Setting] = &[
    Setting {
        flag: "semantics",
        value_name: "rfc9111|cloudfront",
        default: Some("rfc9111"),
        kind: Kind::Choice(&["rfc9111", "cloudfront"]),
        summary: "Whose rules of caching hold",
        detail: "`rfc9111`: the origin's fields decide, a lifetime that is not stated is guessed from Last-Modified, unsafe methods \
                 invalidate. `cloudfront`: default TTL 24 h, a minimum TTL outranks no-store, only GET, HEAD, OPTIONS, PUT, POST, \
                 PATCH and DELETE are passed, a GET with a body is refused.",
        ..PLAIN
    },
    Setting {
        flag: "min-ttl",
        value_name: "D",
        default: Some("0"),
        kind: Kind::Duration { min_ms: 0, max_ms: TTL_MAX },
        summary: "Keep what may be stored at least this long",
        detail: "Lifts any lifetime, 0 too. With rfc9111 it never permits what no-store, private or no-cache forbids; with cloudfront it \
                 does. Whole seconds. Costs staleness: viewers may see a version that is this old.",
        ..PLAIN
    },
    Setting {
        flag: "default-ttl",
        value_name: "D",
        default_note: "none with rfc9111; 24h, or --min-ttl if larger, with cloudfront",
        kind: Kind::Duration { min_ms: 0, max_ms: TTL_MAX },
        summary: "Keep responses that state no lifetime this long",
        detail: "Without it, rfc9111 guesses from Last-Modified, or asks the origin each time. Never used for a response that sets a cookie. Whole \
                 seconds.",
        ..PLAIN
    },
    Setting {
        flag: "max-ttl",
        value_name: "D",
        default_note: "365d, or the larger of --min-ttl and --default-ttl",
        kind: Kind::Duration { min_ms: 0, max_ms: TTL_MAX },
        summary: "Keep nothing longer than this",
        detail: "Cuts any lifetime, that of the origin's Cache-Control too; what viewers are told stays the origin's. Whole seconds.",
        ..PLAIN
    },
    Setting {
        flag: "error-ttl",
        value_name: "D",
        default_note: "none with rfc9111; 10s with cloudfront",
        kind: Kind::Duration { min_ms: 0, max_ms: TTL_MAX },
        summary: "Keep errors that state no lifetime this long",
        detail: "404, 410, 414, 500, 501, 502, 503 and 504 of the origin, so that what is missing or broken is not asked for on each request. \
                 Costs recovery: viewers may see an error that is mended for this long. Whole seconds.",
        ..PLAIN
    },
    Setting {
        flag: "hit-for-miss",
        value_name: "D",
        default: Some("10s"),
        kind: Kind::Duration { min_ms: 0, max_ms: 60 * SECOND },
        summary: "Do not collapse requests for what could not be stored, this long",
        detail: "When an answer turns out not to be storable, requests for that URL go to the origin side by side for this long instead of waiting \
                 for each other. 0 has each burst of requests wait for one answer first. Costs origin load: a URL that becomes storable is \
                 fetched once for each request until the time is over or a storable answer came.",
        ..PLAIN
    },
    Setting {
        flag: "heuristic-freshness",
        value_name: "on|off",
        default_note: "on with rfc9111, off with cloudfront",
        kind: Kind::Choice(&["on", "off"]),
        summary: "Guess a lifetime from Last-Modified where none is stated",
        detail: "A tenth of the time between Last-Modified and Date, at most --max-ttl, where neither the origin nor --default-ttl states a \
                 lifetime and no cookie is set. Costs staleness of that tenth.",
        ..PLAIN
    },
    Setting {
        flag: "origin-age",
        value_name: "counts|ignored",
        default: Some("counts"),
        kind: Kind::Choice(&["counts", "ignored"]),
        summary: "Whether the Age that the origin sends uses up the lifetime",
        detail: "`counts`: what another cache before the origin used up is gone, so that tiers never add up their lifetimes. `ignored`: \
                 the lifetime runs from arrival, as CloudFront documents nothing else; viewers may see a version twice as old.",
        ..PLAIN
    },
    Setting {
        flag: "vary",
        value_name: "origin|ignore",
        default_note: "origin with rfc9111, ignore with cloudfront",
        kind: Kind::Choice(&["origin", "ignore"]),
        summary: "Whether Vary selects among stored responses",
        detail: "`origin` keeps one response for each combination of the request fields that Vary names, at most 64 for one URL. `ignore` \
                 keeps one for each URL whatever Vary says: only for origins whose answers do not depend on those fields.",
        ..PLAIN
    },
    Setting {
        flag: "language-match",
        value_name: "exact|normalized",
        default: Some("exact"),
        kind: Kind::Choice(&["exact", "normalized"]),
        summary: "How Accept-Language selects among variants",
        detail: "`exact` compares without case and space. `normalized` orders languages by their weights first, so that viewers who \
                 prefer the same languages share a variant however they write it.",
        ..PLAIN
    },
    Setting {
        flag: "store-set-cookie",
        value_name: "on|off",
        default: Some("on"),
        kind: Kind::Choice(&["on", "off"]),
        summary: "Store responses that set a cookie and state a lifetime",
        detail: "RFC 9111 allows it and replays the cookie to every viewer of that URL: an origin that sets a session on a page with \
                 max-age hands one session to all. Never stored without a stated lifetime. `off` stores none with Set-Cookie.",
        ..PLAIN
    },
    Setting {
        flag: "cdn-cache-control",
        value_name: "on|off",
        default_note: "on with rfc9111, off with cloudfront",
        kind: Kind::Choice(&["on", "off"]),
        summary: "Follow CDN-Cache-Control instead of Cache-Control (RFC 9213)",
        detail: "A valid field replaces Cache-Control and Expires for Aspis and is not sent to viewers, so that they can be given a shorter \
                 lifetime.",
        ..PLAIN
    },
    Setting {
        flag: "surrogate-control",
        value_name: "on|off",
        default: Some("off"),
        kind: Kind::Choice(&["on", "off"]),
        summary: "Follow Surrogate-Control too",
        detail: "The older field for the same purpose. CDN-Cache-Control outranks it. Removed on the way to viewers while this is on.",
        ..PLAIN
    },
    Setting {
        flag: "invalidate-on-unsafe",
        value_name: "on|off",
        default_note: "on with rfc9111, off with cloudfront",
        kind: Kind::Choice(&["on", "off"]),
        summary: "Remove what a successful POST, PUT or DELETE made out of date",
        detail: "Its own URL, and what Location and Content-Location name on the same host (RFC 9111, section 4.4).",
        ..PLAIN
    },
    Setting {
        flag: "request-directives",
        value_name: "off|on|CIDR",
        default: Some("off"),
        repeat: true,
        kind: Kind::Networks,
        summary: "Follow Cache-Control and Pragma of requests",
        detail: "`on` lets every viewer send its requests past the cache, by a reload too; address blocks let only viewers in them, \
                 separated by commas or given repeatedly. Costs origin load that viewers decide on.",
        ..PLAIN
    },
    Setting {
        flag: "stale-on-error",
        value_name: "stated|rfc9111|cloudfront",
        default_note: "that of --semantics",
        kind: Kind::Choice(&["stated", "rfc9111", "cloudfront"]),
        summary: "When a stale response is served because the origin failed",
        detail: "`rfc9111`: unless must-revalidate, proxy-revalidate, s-maxage or no-cache forbids it. `cloudfront`: unless \
                 stale-if-error=0 does. `stated`: only where stale-if-error allows it. Never older than --max-ttl.",
        ..PLAIN
    },
];
