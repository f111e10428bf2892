//! The operator's settings as valid values.
//!
//! Made only by [`check`](crate::check()); read by the daemon (addresses, cores, memory), the shard (timeouts, limits) and
//! [`Behavior`](crate::behavior::Behavior) (what concerns caching). Invariant: a value of these types obeys the bounds of the settings table.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use aspis_wire::Scheme;
use ipnet::IpNet;

use crate::behavior::{LanguageMatch, OriginAge, StaleOnError, Switch, VaryRule};

/// Every setting of one Aspis process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where misses go.
    pub origin: OriginUrl,
    /// Where viewers are accepted, in the order given.
    pub listen: Vec<ListenAddress>,
    /// A Unix socket for viewers, beside the addresses.
    pub listen_unix: Option<String>,
    /// The congestion control of viewers' TCP connections, by the kernel's name for it; none leaves what each listener has.
    pub congestion_control: Option<String>,
    /// A PEM file of authorities that replaces the machine's trust store for the origin.
    pub origin_ca: Option<String>,
    /// Which `Host` the origin sees.
    pub origin_host: OriginHost,
    /// Which processor cores serve.
    pub cores: Cores,
    /// The memory limit in bytes; `None` means half of what the cgroup or the machine has.
    pub memory: Option<u64>,
    /// How many responses of other cores each core keeps at hand; 0 keeps none.
    pub replica_slots: usize,
    /// Where health, metrics and invalidations are served.
    pub admin: AdminAddress,
    /// The file with the token that changes need where the admin address is open to others.
    pub admin_token: Option<String>,
    /// Viewers that may invalidate by PURGE.
    pub purge_from: Vec<IpNet>,
    /// The operator's own field with cache tags.
    pub cache_tag_header: Option<String>,
    /// The folder of what survives the process: that of the log of invalidations; `None` keeps it in memory. Always there with a disk tier.
    pub state: Option<String>,
    /// The folders of the disk tier, in the order given; none without it.
    pub disk: Vec<String>,
    /// The size of the store in bytes, over all folders; `None` leaves it as it is.
    pub disk_size: Option<u64>,
    /// The most bytes that are written to the store in a second; `None` for as many as it takes.
    pub disk_write_budget: Option<u64>,
    /// How long the end may take to write what only memory has; zero writes only what is under way.
    pub disk_flush_timeout: Duration,
    /// The most bytes of the store that are sent from the page cache; `None` for a part of what memory there is.
    pub disk_mapped: Option<u64>,
    /// The mean length of what is stored on disk, by which its index is sized.
    pub disk_mean_object: u64,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// The name in `X-Cache`, `Via` and `Cache-Status`.
    pub name: String,
    /// Which rules of caching hold.
    pub semantics: Semantics,
    /// The least freshness lifetime.
    pub min_ttl: Duration,
    /// The lifetime of a response that states none; `None` means that it is not stored.
    pub default_ttl: Option<Duration>,
    /// The largest freshness lifetime.
    pub max_ttl: Duration,
    /// The lifetime of an error that states none; `None` means that it is not stored.
    pub error_ttl: Option<Duration>,
    /// How long requests for a URI are not collapsed after an answer that could not be stored (C-13); zero collapses always.
    pub hit_for_miss: Duration,
    /// Whether freshness is guessed from Last-Modified.
    pub heuristic: Switch,
    /// What the age that the origin reports does to the lifetime.
    pub origin_age: OriginAge,
    /// Whether Vary selects among stored responses.
    pub vary: VaryRule,
    /// How values of Accept-Language are compared.
    pub language_match: LanguageMatch,
    /// Whether a response with Set-Cookie and explicit freshness is stored.
    pub store_set_cookie: Switch,
    /// Whether CDN-Cache-Control is followed.
    pub targeted: Switch,
    /// Whether Surrogate-Control is followed.
    pub surrogate: Switch,
    /// Whether unsafe methods invalidate.
    pub invalidate_on_unsafe: Switch,
    /// Whose Cache-Control of requests is followed.
    pub request_directives: RequestDirectives,
    /// When a stale response is served because the origin failed.
    pub stale_on_error: StaleOnError,
    /// How long one attempt to connect may take (D-22).
    pub connect_timeout: Duration,
    /// How long the origin may be silent before and within an answer (D-23).
    pub read_timeout: Duration,
    /// How often a connection, and a GET or HEAD after a silent origin, is tried (D-22, D-24).
    pub connection_attempts: u32,
    /// How long an idle origin connection is kept (D-26).
    pub origin_keepalive_timeout: Duration,
    /// The most connections to the origin, over all cores.
    pub origin_max_connections: usize,
    /// The most fetches that wait for one of them, over all cores.
    pub origin_queue: usize,
    /// How long such a fetch waits at most.
    pub origin_queue_timeout: Duration,
    /// How long running exchanges may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Peers whose `X-Forwarded-*` fields are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether each viewer connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// How long a viewer may take to send a request's head.
    pub head_timeout: Duration,
    /// How long a viewer may be silent within a request's body.
    pub body_timeout: Duration,
    /// How long a viewer's connection may rest between requests.
    pub idle_timeout: Duration,
    /// How long a viewer may take no byte of a response.
    pub send_timeout: Duration,
    /// The most viewer connections, over all cores.
    pub max_connections: usize,
    /// How late a core may look at what happens before it refuses work; zero for never.
    pub shed_after: Duration,
    /// The largest body that is stored, in bytes.
    pub object_size_max: u64,
    /// The largest request body that is passed on, in bytes (H-17).
    pub request_body_max: u64,
}

/// The origin's URL: `http` or `https`, a host, a port and a path prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginUrl {
    /// Whether the origin is spoken to in the clear or over TLS.
    pub scheme: Scheme,
    /// A lower-case DNS name or an IP address; an IPv6 address is without brackets.
    pub host: String,
    /// The port, the scheme's own if the URL had none.
    pub port: u16,
    /// What is put before each request's path: empty, or begins with `/` and does not end with it (D-17).
    pub path_prefix: String,
}

impl OriginUrl {
    /// Returns the value of `Host` that names this origin: IPv6 in brackets, the scheme's own port left out.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for OriginUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}://{}{}", self.scheme.as_str(), self.authority(), self.path_prefix)
    }
}

/// One address on which viewers are accepted. `[::]` takes IPv4 too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

/// Which `Host` field the origin sees. TLS's server name and certificate check always use the URL's host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginHost {
    /// The viewer's own.
    Viewer,
    /// That of `--origin`.
    Origin,
    /// This one.
    Name(String),
}

/// Which processor cores serve viewers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// Every core that the process may use.
    All,
    /// That many of them.
    Count(usize),
    /// Exactly these, ascending and without repetition.
    List(Vec<usize>),
}

/// Where health, metrics and invalidations are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// Nowhere.
    Off,
    /// On this address.
    Address(SocketAddr),
    /// On a Unix socket with this path.
    Unix(String),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => out.write_str("off"),
            Self::Address(address) => address.fmt(out),
            Self::Unix(path) => write!(out, "unix:{path}"),
        }
    }
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// To standard output, after the lines that name the listeners.
    Stdout,
    /// To this file, reopened on SIGHUP and SIGUSR1.
    Path(String),
}

/// Whose Cache-Control and Pragma of requests are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestDirectives {
    /// Nobody's.
    Off,
    /// Every viewer's.
    On,
    /// Those of viewers in these blocks.
    From(Vec<IpNet>),
}

/// Which rules of caching hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Semantics {
    /// RFC 9111 as an operator of a reverse-proxy cache expects it.
    Rfc9111,
    /// Amazon CloudFront's.
    Cloudfront,
}

impl Semantics {
    /// Returns the word that selects these semantics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rfc9111 => "rfc9111",
            Self::Cloudfront => "cloudfront",
        }
    }
}

/// What `aspis store format` wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatSettings {
    /// The size of the store in bytes.
    pub size: u64,
    /// The cores that are to share it.
    pub cores: Cores,
}
