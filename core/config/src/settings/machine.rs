//! Where viewers and the origin are, and what the process takes of the machine.

use super::{FORMATS, Kind, MIB, PLAIN, Setting, TIB, WITH_ORIGIN};

/// The first rows of the table.
pub(super) const ROWS: &[Setting] = &[
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
        flag: "congestion-control",
        value_name: "NAME",
        default_note: "the machine's; on loopback addresses reno",
        kind: Kind::Name,
        summary: "How TCP to viewers meets congestion: bbr, cubic, ...",
        detail: "One of the names in /proc/sys/net/ipv4/tcp_available_congestion_control, for each --listen and inherited socket. `bbr` keeps distant                  viewers with lossy links fast; it costs some hundredths more CPU for a small hit than `reno`, which is what --listen on a loopback address gets                  unless this is given: no network is there to be measured.",
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
        commands: FORMATS,
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
        default_note: "the first folder of --disk; else none: invalidations are forgotten when the process ends",
        kind: Kind::Path,
        summary: "Keep what must survive a crash in this folder: the invalidations",
        detail: "Made if it is not there. `rules.log` in it has each accepted invalidation, synced before the answer, so that none is lost by kill -9 or a \
                 loss of power; one process uses the folder at a time. Without it the list of invalidations, their numbers and caller references \
                 begin anew at each start, which is sound as long as what is stored is in memory only; with --disk there always is one. A store whose log is \
                 missing, older, or that of another store counts as invalidated. Costs one sync of the disk for all \
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
];
