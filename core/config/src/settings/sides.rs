//! How the origin is asked and how viewers are served: waits, limits, and whom to believe.

use super::{HOUR, Kind, PLAIN, SECOND, Setting, TIB, TIMEOUT_MAX};

/// The last rows of the table.
pub(super) const ROWS: &[Setting] = &[
    Setting {
        flag: "connect-timeout",
        value_name: "D",
        default: Some("10s"),
        kind: Kind::Duration { min_ms: 10, max_ms: 60 * SECOND },
        summary: "How long one attempt to connect to the origin may take",
        detail: "TCP and TLS together. Worst case before a viewer sees 504: this x --connection-attempts, 30 s by default.",
        ..PLAIN
    },
    Setting {
        flag: "read-timeout",
        value_name: "D",
        default: Some("30s"),
        kind: Kind::Duration { min_ms: 10, max_ms: TIMEOUT_MAX },
        summary: "How long the origin may be silent, before and within an answer",
        detail: "Counts from the last byte of the request and between any two pieces of the answer. Worst case before a GET gets 504: \
                 this x --connection-attempts; other methods are never sent twice after it.",
        ..PLAIN
    },
    Setting {
        flag: "connection-attempts",
        value_name: "N",
        default: Some("3"),
        kind: Kind::Count { min: 1, max: 3 },
        summary: "How often the origin is tried",
        detail: "Connecting is tried this often for any method; a GET or HEAD is also sent again after a silent origin, as long as no \
                 byte of an answer came. An ailing origin sees up to this many times the load.",
        ..PLAIN
    },
    Setting {
        flag: "origin-keepalive-timeout",
        value_name: "D",
        default: Some("5s"),
        kind: Kind::Duration { min_ms: 0, max_ms: HOUR },
        summary: "How long an idle origin connection is kept",
        detail: "Keep it below the origin's own keep-alive time, or requests meet connections that are just closing. 0 closes each after \
                 one answer.",
        ..PLAIN
    },
    Setting {
        flag: "origin-max-connections",
        value_name: "N",
        default: Some("256"),
        kind: Kind::Count { min: 1, max: 65_535 },
        summary: "The most connections to the origin, over all cores",
        detail: "Requests beyond it wait their turn, first in first out: see --origin-queue. Costs a file and its buffers each, and a TLS \
                 session with https.",
        ..PLAIN
    },
    Setting {
        flag: "origin-queue",
        value_name: "N",
        default: Some("4096"),
        kind: Kind::Count { min: 0, max: 1_000_000 },
        summary: "The most fetches that wait for an origin connection, all cores",
        detail: "Further ones get 503 with `Retry-After: 5`, or a stale response where that is allowed; requests that share a fetch count once. \
                 Costs about 4 KiB each.",
        ..PLAIN
    },
    Setting {
        flag: "origin-queue-timeout",
        value_name: "D",
        default: Some("10s"),
        kind: Kind::Duration { min_ms: 10, max_ms: TIMEOUT_MAX },
        summary: "How long a fetch may wait for an origin connection",
        detail: "Then 503 with `Retry-After: 5`, or a stale response where that is allowed. Never longer than --read-timeout.",
        ..PLAIN
    },
    Setting {
        flag: "drain-timeout",
        value_name: "D",
        default: Some("30s"),
        kind: Kind::Duration { min_ms: 0, max_ms: TIMEOUT_MAX },
        summary: "How long running requests may go on after SIGTERM",
        detail: "New connections are refused at once, idle ones are closed; what still runs after this time is cut. Keep it below the \
                 service manager's stop timeout.",
        ..PLAIN
    },
    Setting {
        flag: "trusted-proxies",
        value_name: "CIDR",
        default_note: "none",
        repeat: true,
        kind: Kind::Networks,
        summary: "Believe X-Forwarded-Proto and -Host from these peers",
        detail: "Address blocks such as 10.0.0.0/8 or 2001:db8::/32, separated by commas or given repeatedly. From other peers these two fields \
                 are overwritten. X-Forwarded-For is appended to in either case, as every proxy on the way does.",
        ..PLAIN
    },
    Setting {
        flag: "proxy-protocol",
        summary: "Each viewer connection begins with a PROXY protocol header",
        detail: "Versions 1 and 2. The address in it counts as the viewer's. A connection without the header is closed: \
                 switch this on only behind a balancer that sends it.",
        default_note: "off",
        ..PLAIN
    },
    Setting {
        flag: "head-timeout",
        value_name: "D",
        default: Some("10s"),
        kind: Kind::Duration { min_ms: 10, max_ms: TIMEOUT_MAX },
        summary: "How long a viewer may take to send a request's head",
        detail: "Counts from the first byte; then 408 and the connection is closed. Worst case held by slow heads: \
                 --max-connections x 32 KiB for this long.",
        ..PLAIN
    },
    Setting {
        flag: "body-timeout",
        value_name: "D",
        default: Some("30s"),
        kind: Kind::Duration { min_ms: 10, max_ms: TIMEOUT_MAX },
        summary: "How long a viewer may be silent within a request's body",
        detail: "Between two pieces; then 408 and the connection is closed. A body in progress holds an origin connection meanwhile.",
        ..PLAIN
    },
    Setting {
        flag: "idle-timeout",
        value_name: "D",
        default: Some("60s"),
        kind: Kind::Duration { min_ms: 10, max_ms: TIMEOUT_MAX },
        summary: "How long a viewer's connection may rest between requests",
        detail: "An idle connection costs one file and its place in a table, no buffer.",
        ..PLAIN
    },
    Setting {
        flag: "send-timeout",
        value_name: "D",
        default: Some("30s"),
        kind: Kind::Duration { min_ms: 10, max_ms: TIMEOUT_MAX },
        summary: "How long a viewer may take no byte of a response",
        detail: "A reader that is slow but moves is served. Worst case held by stuck readers: --max-connections x the send window for this \
                 long.",
        ..PLAIN
    },
    Setting {
        flag: "max-connections",
        value_name: "N",
        default: Some("20000"),
        kind: Kind::Count { min: 1, max: 4_000_000 },
        summary: "The most viewer connections, over all cores",
        detail: "Further ones get 503 and are closed. Costs a file each, and up to 32 KiB while a head is incomplete: worst case this x \
                 32 KiB, 625 MiB by default, charged to --memory.",
        ..PLAIN
    },
    Setting {
        flag: "shed-after",
        value_name: "D",
        default: Some("100ms"),
        kind: Kind::Duration { min_ms: 0, max_ms: 60 * SECOND },
        summary: "Refuse work when a core looks at requests later than this",
        detail: "Each core measures how long what arrives waits until it is looked at. When that stays above this, requests that need the origin get \
                 503 with `Retry-After: 5`, or a stale response where that is allowed: first a part of them, then all, then new connections \
                 too. Hits are always served. 0 refuses nothing: everybody waits ever longer instead.",
        ..PLAIN
    },
    Setting {
        flag: "object-size-max",
        value_name: "SIZE",
        default: Some("64MiB"),
        kind: Kind::Size { min: 1, max: 64 * TIB },
        summary: "The largest body that is stored",
        detail: "Larger ones pass through uncached in a small window, as do those over 15/16 of one core's part of the memory. \
                 One stored object can push out this much of the others. With `--disk` it is 50GiB unless it is given: what is over 64MiB, or \
                 an eighth of one core's part of the memory if that is more, is then stored on disk alone.",
        ..PLAIN
    },
    Setting {
        flag: "request-body-max",
        value_name: "SIZE",
        default: Some("64GB"),
        kind: Kind::Size { min: 0, max: 64 * TIB },
        summary: "The largest request body that is passed on",
        detail: "More gets 413. Bodies are streamed, so a large limit costs no memory, only time on an origin connection.",
        ..PLAIN
    },
];
