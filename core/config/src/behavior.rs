//! The part of the settings that each request reads: a compiled behavior.
//!
//! Compiled once from [`Settings`] and shared by all cores; `core/cache` and `core/exchange` take it by reference. The two
//! semantics are the same code with different switches, so what differs is a field here and never a test for [`Semantics`] in a rule.

pub use crate::checked::RequestDirectives;
use crate::checked::{OriginHost, OriginUrl, Semantics, Settings};

/// How requests are answered: TTL bounds and the switches that tell the two semantics apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behavior {
    /// The name in `X-Cache`, `Via` and `Cache-Status`; a token (RFC 9110 §5.6.2) that begins with a letter.
    pub name: String,
    /// Which rules were asked for; for display, the switches below decide.
    pub semantics: Semantics,
    /// The least lifetime in seconds of what may be stored.
    pub min_ttl: u64,
    /// The lifetime in seconds where the origin states none; `None` stores nothing without explicit freshness.
    pub default_ttl: Option<u64>,
    /// The largest lifetime in seconds.
    pub max_ttl: u64,
    /// The largest body that is stored, in bytes.
    pub object_size_max: u64,
    /// The largest request body that is passed on, in bytes (H-17).
    pub request_body_max: u64,
    /// Where origin requests go.
    pub origin: OriginUrl,
    /// Which `Host` origin requests carry.
    pub origin_host: OriginHost,
    /// The `Host` of origin requests unless it is the viewer's.
    pub origin_authority: String,
    /// How `Via` is written toward viewers.
    pub via: ViaStyle,
    /// Whether HTTP/1.1 viewers are told that their connection lives on.
    pub persistence: Persistence,
    /// Whether `Cache-Status` is sent (RFC 9211).
    pub cache_status: bool,
    /// Which methods are passed on.
    pub methods: Methods,
    /// What happens to a GET or HEAD that has a body.
    pub body_on_get: BodyOnGet,
    /// Whether a non-error answer to an unsafe method invalidates what is stored (rule 16; not T-1).
    pub invalidate_on_unsafe: bool,
    /// What the operator's minimum outranks.
    pub min_ttl_outranks: MinTtlOutranks,
    /// What the age that the origin reports does to the lifetime.
    pub origin_age: OriginAge,
    /// The shape of answers that Aspis makes itself.
    pub error_page: ErrorPage,
    /// The lifetime in seconds of an error that states none; `None` stores none of them.
    pub error_ttl: Option<u64>,
    /// Which statuses are stored, and which without stated freshness.
    pub statuses: Statuses,
    /// Whether freshness is guessed from Last-Modified.
    pub heuristic: Switch,
    /// Whether `Vary` selects among stored responses.
    pub vary: VaryRule,
    /// How values of Accept-Language are compared.
    pub language_match: LanguageMatch,
    /// Whether a response with Set-Cookie and explicit freshness is stored.
    pub store_set_cookie: Switch,
    /// Whether `CDN-Cache-Control` takes the place of Cache-Control (RFC 9213).
    pub targeted: Switch,
    /// Whether `Surrogate-Control` does.
    pub surrogate: Switch,
    /// Whether the Authorization field of a request keeps its response from being stored (RFC 9111 §3.5).
    pub authorization: Switch,
    /// Whose Cache-Control of requests is followed.
    pub request_directives: RequestDirectives,
    /// When a stale response is served because the origin failed.
    pub stale_on_error: StaleOnError,
    /// `Server` of those answers: the name, or CloudFront's word (H-6).
    pub server: String,
    /// The status for a request head over the limit: 431 (RFC 6585 §5), or 494 (H-16).
    pub oversized_head_status: u16,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// The rule holds.
    On,
    /// It does not.
    Off,
}

impl Switch {
    /// Tells whether it is on.
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

/// Which statuses are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statuses {
    /// Every final one with explicit freshness; those that RFC 9110 §15.1 names without it too (rule 1).
    Rfc9111,
    /// Success for the default TTL, some errors for the error TTL, others never (T-3, T-33 to T-35).
    Cloudfront,
}

/// Whether `Vary` selects among stored responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaryRule {
    /// One response for each combination of the fields that it names (RFC 9111 §4.1).
    Origin,
    /// One response for each key, whatever it says (T-44).
    Ignore,
}

/// How values of Accept-Language are compared (rule 11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanguageMatch {
    /// Without case and space, in the order given.
    Exact,
    /// By falling weight, so that the order in which equals are written does not count.
    Normalized,
}

/// When a stale response is served because the origin failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleOnError {
    /// Only where `stale-if-error` says so.
    Stated,
    /// Unless a directive forbids it (RFC 9111 §4.2.4, rule 15).
    Rfc9111,
    /// Unless `stale-if-error=0` forbids it (T-27, T-28, T-31).
    Cloudfront,
}

impl RequestDirectives {
    /// Tells whether a viewer's directives are followed.
    pub fn follow(&self, viewer: std::net::IpAddr) -> bool {
        match self {
            Self::Off => false,
            Self::On => true,
            Self::From(blocks) => {
                let viewer = viewer.to_canonical();
                blocks.iter().any(|block| block.contains(&viewer))
            }
        }
    }
}

/// How `Via` is written toward viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViaStyle {
    /// A member is appended to the origin's (RFC 9110 §7.6.3).
    Append,
    /// The origin's field is replaced (H-3).
    Replace,
}

/// Whether HTTP/1.1 viewers are told that their connection lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// HTTP/1.1 implies it (RFC 9112 §9.3).
    Implied,
    /// `Connection: keep-alive` says it (H-7).
    Stated,
}

/// Which methods are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Methods {
    /// Every method but CONNECT; unknown ones too.
    Any,
    /// GET, HEAD, OPTIONS, PUT, POST, PATCH and DELETE; others are answered 403 (H-19).
    Seven,
}

/// What happens to a GET or HEAD that has a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyOnGet {
    /// It passes to the origin and nothing is stored.
    Pass,
    /// It is answered 403 (H-18).
    Refuse,
}

/// What a minimum TTL above zero outranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinTtlOutranks {
    /// The lifetime only; never `no-store`, `private` or `no-cache` (RFC 9111 profile).
    Lifetime,
    /// Also these directives: the response is stored for the minimum (T-8).
    Directives,
}

/// What the age that the origin reports does to the lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginAge {
    /// The lifetime runs from generation, so that age is used up already (RFC 9111 §4.2.3).
    Counts,
    /// The lifetime runs from arrival (T-16).
    Ignored,
}

/// The shape of answers that Aspis makes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorPage {
    /// One line of plain text.
    Text,
    /// CloudFront's small HTML page (H-26, H-27).
    Html,
}

impl From<&Settings> for Behavior {
    fn from(settings: &Settings) -> Self {
        let cloudfront = settings.semantics == Semantics::Cloudfront;
        let origin_authority = match &settings.origin_host {
            OriginHost::Name(name) => name.clone(),
            OriginHost::Origin | OriginHost::Viewer => settings.origin.authority(),
        };
        Self {
            name: settings.name.clone(),
            semantics: settings.semantics,
            min_ttl: settings.min_ttl.as_secs(),
            default_ttl: settings.default_ttl.map(|ttl| ttl.as_secs()),
            max_ttl: settings.max_ttl.as_secs(),
            object_size_max: settings.object_size_max,
            request_body_max: settings.request_body_max,
            origin: settings.origin.clone(),
            origin_host: settings.origin_host.clone(),
            origin_authority,
            via: if cloudfront { ViaStyle::Replace } else { ViaStyle::Append },
            persistence: if cloudfront { Persistence::Stated } else { Persistence::Implied },
            cache_status: !cloudfront,
            methods: if cloudfront { Methods::Seven } else { Methods::Any },
            body_on_get: if cloudfront { BodyOnGet::Refuse } else { BodyOnGet::Pass },
            invalidate_on_unsafe: settings.invalidate_on_unsafe.is_on(),
            min_ttl_outranks: if cloudfront { MinTtlOutranks::Directives } else { MinTtlOutranks::Lifetime },
            origin_age: settings.origin_age,
            error_page: if cloudfront { ErrorPage::Html } else { ErrorPage::Text },
            error_ttl: settings.error_ttl.map(|ttl| ttl.as_secs()),
            statuses: if cloudfront { Statuses::Cloudfront } else { Statuses::Rfc9111 },
            heuristic: settings.heuristic,
            vary: settings.vary,
            language_match: settings.language_match,
            store_set_cookie: settings.store_set_cookie,
            targeted: settings.targeted,
            surrogate: settings.surrogate,
            authorization: if cloudfront { Switch::Off } else { Switch::On },
            request_directives: settings.request_directives.clone(),
            stale_on_error: settings.stale_on_error,
            server: if cloudfront { "CloudFront".to_owned() } else { settings.name.clone() },
            oversized_head_status: if cloudfront { 494 } else { 431 },
        }
    }
}
