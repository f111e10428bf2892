//! The one table of settings: flag, value, default, bounds, who takes it, and what the number costs.
//!
//! The command line, `--help`, completions and `docs/flags.md` are made from it by the daemon and [`markdown`](crate::markdown);
//! [`check`](crate::check()) takes defaults and bounds from it. A setting exists only here. The flags of the commands that ask a running
//! server are in the table beside this one, `settings/requests.rs`.

mod requests;

pub use requests::REQUESTS;

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The name without dashes.
    pub flag: &'static str,
    /// What stands for the value in help; empty for a switch.
    pub value_name: &'static str,
    /// The text that counts when the flag is absent; `None` where there is none or it is worked out.
    pub default: Option<&'static str>,
    /// How the default reads where `default` cannot say it; empty otherwise.
    pub default_note: &'static str,
    /// Whether the flag may be given more than once.
    pub repeat: bool,
    /// The kind of value and its bounds.
    pub kind: Kind,
    /// The subcommands that take the flag.
    pub commands: &'static [&'static str],
    /// One line for `-h`.
    pub summary: &'static str,
    /// What the setting does, why one would change it, and what the number costs.
    pub detail: &'static str,
}

/// The kind of a value, with its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `http://` or `https://`, host, optional port and path prefix.
    OriginUrl,
    /// `ADDRESS:PORT`, `[ADDRESS]:PORT` or `:PORT`.
    Listen,
    /// As `Listen`, `unix:PATH` or `off`.
    Admin,
    /// A path of a file or socket.
    Path,
    /// Any text; the server judges it.
    Text,
    /// A path, `-` or `off`.
    Log,
    /// `viewer`, `origin` or a host name.
    OriginHost,
    /// A count, or a list of core numbers.
    Cores,
    /// A token that begins with a letter.
    Name,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Address blocks, separated by commas or by repetition.
    Networks,
    /// On when given.
    Switch,
    /// Bytes between these bounds.
    Size {
        /// The least value.
        min: u64,
        /// The largest value.
        max: u64,
    },
    /// A span of time between these bounds, in milliseconds.
    Duration {
        /// The least value.
        min_ms: u64,
        /// The largest value.
        max_ms: u64,
    },
    /// A whole number between these bounds.
    Count {
        /// The least value.
        min: u64,
        /// The largest value.
        max: u64,
    },
}

/// Returns the setting of that name.
pub fn setting(flag: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.flag == flag)
}

/// Returns the settings that a subcommand takes, in the table's order.
pub fn settings_of(command: &str) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().chain(REQUESTS).filter(move |setting| setting.commands.contains(&command))
}

const ALL: &[&str] = &["serve", "demo", "check"];
/// The demo brings its own origin.
const WITH_ORIGIN: &[&str] = &["serve", "check"];

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
/// Timeouts on a viewer or origin: long enough for any long poll, short enough that a typing error shows.
const TIMEOUT_MAX: u64 = 24 * HOUR;
/// 100 years of 365 days (T-6).
const TTL_MAX: u64 = 3_153_600_000 * SECOND;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// A setting that takes one value and is known to every subcommand; the table's entries override what differs.
const PLAIN: Setting = Setting {
    flag: "",
    value_name: "",
    default: None,
    default_note: "",
    repeat: false,
    kind: Kind::Switch,
    commands: ALL,
    summary: "",
    detail: "",
};

/// Every setting, in the order of the help: where, who, what is cached, origin, viewers, limits.
pub static SETTINGS: &[Setting] = &[
    Setting {
        flag: "origin",
        value_name: "URL",
        default_note: "required",
        kind: Kind::OriginUrl,
        commands: WITH_ORIGIN,
        summary: "Where misses go: http://HOST[:PORT][/PREFIX] or https://...",
        detail: "The web server behind Aspis. A path prefix is put before the path of every origin request and is not part of \
                 the cache key. The name is looked up again when its DNS record expires; an origin that cannot be resolved at \
                 start is retried, requests get 502 until it can.",
        ..PLAIN
    },
    Setting {
        flag: "listen",
        value_name: "ADDR",
        default: Some("127.0.0.1:8080"),
        repeat: true,
        kind: Kind::Listen,
        summary: "Accept viewers here; may be repeated",
        detail: "ADDRESS:PORT, [ADDRESS]:PORT or :PORT. `[::]:8080` and `:8080` take IPv4 and IPv6. Port 0 lets the kernel \
                 choose; the line `listening on ADDR` on standard output names the port taken. Each address costs one socket \
                 for each core.",
        ..PLAIN
    },
    Setting {
        flag: "listen-unix",
        value_name: "PATH",
        default_note: "none",
        kind: Kind::Path,
        summary: "Accept viewers on this Unix socket too",
        detail: "For a TLS terminator or a load balancer on the same machine. A socket file that nobody listens on is replaced. \
                 A peer on this socket is trusted as --trusted-proxies are, and counts as 127.0.0.1.",
        ..PLAIN
    },
    Setting {
        flag: "origin-ca",
        value_name: "FILE",
        default_note: "the machine's trust store",
        kind: Kind::Path,
        commands: WITH_ORIGIN,
        summary: "Trust these authorities (PEM) for an https origin",
        detail: "Replaces the machine's trust store for the origin. Read again on SIGHUP; connections that are open stay.",
        ..PLAIN
    },
    Setting {
        flag: "origin-host",
        value_name: "viewer|origin|NAME",
        default: Some("viewer"),
        kind: Kind::OriginHost,
        summary: "The Host field that the origin sees",
        detail: "`viewer` passes the viewer's Host on, `origin` sends the host of --origin, a name sends that name. TLS always asks \
                 for and checks the host of --origin. The viewer's Host stays part of the cache key in all three cases.",
        ..PLAIN
    },
    Setting {
        flag: "cores",
        value_name: "LIST|N",
        default_note: "all that the process may use",
        kind: Kind::Cores,
        summary: "Serve on that many cores (2) or on these (0,2-3)",
        detail: "One thread is pinned to each. A single number is a count; write `3-3` for core 3 alone. Costs, per core: a \
                 ring, its receive buffers and a pool of origin connections.",
        ..PLAIN
    },
    Setting {
        flag: "memory",
        value_name: "SIZE",
        default_note: "half of the cgroup's limit or of the machine",
        kind: Kind::Size { min: 16 * MIB, max: 64 * TIB },
        summary: "The memory limit: stored responses, connections, buffers, everything",
        detail: "Resident memory (RssAnon + RssShmem) stays within this, 5 %, and a base of 16 MiB and 4 MiB for each core. Near it, in this order: \
                 stored responses are evicted, buffers shrink, responses pass through uncached, new connections get 503. docs/memory.md says what \
                 counts and how to look. The default reads the limits of all cgroups on the way to the root, version 1 and 2, memory.high too.",
        ..PLAIN
    },
    Setting {
        flag: "replica-slots",
        value_name: "N",
        default: Some("65536"),
        kind: Kind::Count { min: 0, max: 16_777_216 },
        summary: "How many responses of other cores each core keeps at hand",
        detail: "One core owns each URL; the others remember where its response lies and serve it without asking. Rounded up to a power of two; 0 \
                 has every request for another core's URL ask that core. Costs 16 bytes each x the cores, 1 MiB for each core by default, of \
                 --memory; fewer where all together would take more than a sixteenth of it.",
        ..PLAIN
    },
    Setting {
        flag: "admin",
        value_name: "ADDR",
        default: Some("127.0.0.1:9080"),
        kind: Kind::Admin,
        summary: "Serve /healthz, /readyz, /metrics and /v1/invalidations here",
        detail: "ADDRESS:PORT, unix:PATH, or `off` for none. Whoever reaches it may read; who may change something says --admin-token. Keep it on \
                 loopback, on a Unix socket (made for its owner alone), or on a management network.",
        ..PLAIN
    },
    Setting {
        flag: "admin-token",
        value_name: "FILE",
        default_note: "none: only loopback and a Unix socket may change something",
        kind: Kind::Path,
        summary: "Admin requests that change something need the token in this file",
        detail: "The file's first line, at least 16 characters, sent as `Authorization: Bearer TOKEN`. Asked for where --admin is neither on loopback \
                 nor a Unix socket; without the flag such an address refuses every change. Read again on SIGHUP. Nobody but the server should be \
                 able to read the file: it is used all the same, with a warning.",
        ..PLAIN
    },
    Setting {
        flag: "purge-from",
        value_name: "CIDR",
        default_note: "none",
        repeat: true,
        kind: Kind::Networks,
        summary: "Viewers in these address blocks may invalidate with PURGE",
        detail: "PURGE for a URL invalidates exactly it; with a `Surrogate-Key` or `xkey` field, the tags in it instead; with `Soft-Purge: 1` what is \
                 stored becomes stale and not gone. Others get 403. The address that counts is the viewer's, from the PROXY protocol if that is on.",
        ..PLAIN
    },
    Setting {
        flag: "cache-tag-header",
        value_name: "NAME",
        default_note: "none",
        kind: Kind::Name,
        summary: "Another field of the origin's with cache tags, separated by commas",
        detail: "Invalidations name what carries a tag. Tags are read from Surrogate-Key and xkey, separated by spaces, from Cache-Tag and \
                 Edge-Cache-Tag, and from this field (I-17): at most 50 of at most 256 visible characters each, letter case aside, kept as 8 bytes each. \
                 They are read when a response is stored, so the flag does not tag what is stored already.",
        ..PLAIN
    },
    Setting {
        flag: "state",
        value_name: "DIR",
        default_note: "none: invalidations are forgotten when the process ends",
        kind: Kind::Path,
        summary: "Keep what must survive a crash in this folder: the invalidations",
        detail: "Made if it is not there. `rules.log` in it has each accepted invalidation, synced before the answer, so that none is lost by kill -9 or a \
                 loss of power; one process uses the folder at a time. Without it the list of invalidations, their numbers and caller references \
                 begin anew at each start, which is sound as long as what is stored is in memory only. Costs one sync of the disk for all \
                 invalidations that wait at a time, and some MiB: it is rewritten when most of it is no longer needed.",
        ..PLAIN
    },
    Setting {
        flag: "access-log",
        value_name: "PATH|-|off",
        default: Some("off"),
        kind: Kind::Log,
        summary: "One line for each request: a file, - for standard output, off",
        detail: "Reopened on SIGHUP and SIGUSR1. A disk that cannot keep up loses lines, which are counted, and never delays a \
                 request.",
        ..PLAIN
    },
    Setting {
        flag: "name",
        value_name: "NAME",
        default: Some("aspis"),
        kind: Kind::Name,
        summary: "The name in X-Cache, Via and Cache-Status",
        detail: "Letters, digits and !#$%&'*+-.^_`|~, beginning with a letter, at most 64. Give each tier its own, so that a loop can \
                 be told from a chain. With --semantics cloudfront, `--name cloudfront` gives `Hit from cloudfront`.",
        ..PLAIN
    },
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
                 One stored object can push out this much of the others.",
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

#[cfg(test)]
mod tests;
