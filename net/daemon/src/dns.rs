//! Where the origin is: its name followed by the TTL of its DNS records, on the control thread.
//!
//! [`OriginName::lookup`] asks, [`Follower`] decides what an answer means and when to ask again. A name that stops
//! resolving keeps its last addresses (serve-stale) and is asked again with growing pauses; the operator is told
//! once when that begins and once when it ends. Address literals are never asked for. The system's resolver files
//! and hosts file are read anew at each lookup, because containers change them while they run.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};

/// A record is believed at least this long, whatever it says, so that a TTL of 0 is no flood of questions.
const TTL_MIN: Duration = Duration::from_secs(1);
/// A record is believed at most this long, so that a typing error in a zone heals by itself.
const TTL_MAX: Duration = Duration::from_secs(3600);
/// Pause after the first failed lookup; it doubles with each further one.
const RETRY_MIN: Duration = Duration::from_secs(1);
/// Longest pause between failed lookups.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// More addresses of one name than this are ignored.
const ADDRESS_COUNT_MAX: usize = 64;

const NO_ADDRESS: &str = "DNS and the hosts file know no address of it";

/// The origin's host and port as the operator gave them.
#[derive(Clone, Debug)]
pub(crate) struct OriginName {
    host: String,
    port: u16,
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Every usable address, best first.
    pub(crate) addresses: Vec<SocketAddr>,
    /// How long the records said that they hold; `None` for an address literal, which holds for ever.
    pub(crate) ttl: Option<Duration>,
}

impl OriginName {
    /// Names an origin. An IPv6 literal may be in brackets.
    pub(crate) fn new(host: &str, port: u16) -> Self {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        OriginName { host: bare.to_owned(), port }
    }

    /// Returns the address if the name is one.
    pub(crate) fn literal(&self) -> Option<Found> {
        let address: IpAddr = self.host.parse().ok()?;
        Some(Found { addresses: vec![SocketAddr::new(address, self.port)], ttl: None })
    }

    /// Asks the hosts file and DNS. The error is a text for operators.
    pub(crate) async fn lookup(&self) -> Result<Found, String> {
        if let Some(found) = self.literal() {
            return Ok(found);
        }
        let builder =
            TokioResolver::builder_tokio().map_err(|error| format!("resolver settings: {error}"))?;
        self.ask(builder).await
    }

    async fn ask(&self, mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<Found, String> {
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = 0;
        let resolver = builder.build().map_err(|error| format!("resolver settings: {error}"))?;
        let answer = resolver.lookup_ip(self.host.as_str()).await.map_err(|error| {
            if error.is_no_records_found() { NO_ADDRESS.to_owned() } else { error.to_string() }
        })?;
        let ttl = answer.valid_until().saturating_duration_since(Instant::now());
        let addresses = ordered(answer.iter(), self.port, &has_route);
        if addresses.is_empty() {
            Err(NO_ADDRESS.to_owned())
        } else {
            Ok(Found { addresses, ttl: Some(ttl) })
        }
    }
}

/// Orders addresses for attempts: IPv4 first, because attempts are few and origins that listen on one family listen
/// on that; without those that this machine has no route to, unless that would leave none.
fn ordered(
    found: impl Iterator<Item = IpAddr>,
    port: u16,
    has_route: &dyn Fn(SocketAddr) -> bool,
) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for ip in found {
        let address = SocketAddr::new(ip, port);
        if !addresses.contains(&address) && addresses.len() < ADDRESS_COUNT_MAX {
            addresses.push(address);
        }
    }
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let reachable: Vec<SocketAddr> =
        addresses.iter().copied().filter(|&address| has_route(address)).collect();
    if reachable.is_empty() { addresses } else { reachable }
}

/// Asks the routing table by connecting a datagram socket, which sends nothing.
fn has_route(address: SocketAddr) -> bool {
    let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(address)).is_ok()
}

/// What the control thread does after a lookup.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Give these to the shards; `None` if nothing changed.
    pub(crate) publish: Option<Arc<[SocketAddr]>>,
    /// Say this to the operator.
    pub(crate) say: Option<Say>,
    /// Ask again after this pause; `None` for never.
    pub(crate) ask_after: Option<Duration>,
}

/// What the operator is told about the origin's name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Say {
    /// It resolves, for the first time or to something else.
    Resolved(String),
    /// It resolves again.
    Recovered(String),
    /// It stopped resolving, or never did.
    Failed(String),
}

/// Follows one name: what is known, and how often it failed since.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    known: Option<Arc<[SocketAddr]>>,
    failures: u32,
}

impl Follower {
    /// Tells whether any address is known.
    pub(crate) fn knows(&self) -> bool {
        self.known.is_some()
    }

    /// Decides what the outcome of a lookup means.
    pub(crate) fn take(&mut self, outcome: Result<Found, String>) -> Step {
        match outcome {
            Ok(found) => self.resolved(found),
            Err(cause) => self.failed(&cause),
        }
    }

    fn resolved(&mut self, found: Found) -> Step {
        let recovered = std::mem::take(&mut self.failures) > 0;
        let changed = self.known.as_deref() != Some(&found.addresses[..]);
        let listed = || found.addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
        let say = match (recovered, changed) {
            (true, _) => Some(Say::Recovered(listed())),
            (false, true) => Some(Say::Resolved(listed())),
            (false, false) => None,
        };
        let publish = changed.then(|| {
            let addresses: Arc<[SocketAddr]> = found.addresses.into();
            self.known = Some(Arc::clone(&addresses));
            addresses
        });
        Step { publish, say, ask_after: found.ttl.map(|ttl| ttl.clamp(TTL_MIN, TTL_MAX)) }
    }

    fn failed(&mut self, cause: &str) -> Step {
        self.failures = self.failures.saturating_add(1);
        let say = (self.failures == 1).then(|| {
            Say::Failed(match &self.known {
                Some(known) => format!("{cause}; its last {} address(es) stay in use", known.len()),
                None => format!("{cause}; requests get 502 until it resolves"),
            })
        });
        let doubled = RETRY_MIN.saturating_mul(1 << (self.failures - 1).min(16));
        Step { publish: None, say, ask_after: Some(doubled.min(RETRY_MAX)) }
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};

    use super::*;

    fn found(addresses: &[&str], ttl: u64) -> Result<Found, String> {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        Ok(Found { addresses, ttl: Some(Duration::from_secs(ttl)) })
    }

    fn failure() -> Result<Found, String> {
        Err("no such name".to_owned())
    }

    #[test]
    fn the_ttl_decides_when_to_ask_again_within_bounds() {
        for (ttl, expected) in [(0, 1), (1, 1), (60, 60), (3600, 3600), (86_400, 3600)] {
            let step = Follower::default().take(found(&["192.0.2.1:80"], ttl));
            assert_eq!(step.ask_after, Some(Duration::from_secs(expected)), "a TTL of {ttl} s");
        }
    }

    #[test]
    fn addresses_are_published_when_they_change_only() {
        let mut follower = Follower::default();
        assert!(!follower.knows());
        let step = follower.take(found(&["192.0.2.1:80", "[2001:db8::1]:80"], 5));
        assert_eq!(step.publish.expect("new").len(), 2);
        assert!(matches!(step.say, Some(Say::Resolved(text)) if text == "192.0.2.1:80, [2001:db8::1]:80"));
        assert!(follower.knows());
        let step = follower.take(found(&["192.0.2.1:80", "[2001:db8::1]:80"], 5));
        assert_eq!((step.publish, step.say), (None, None));
        let step = follower.take(found(&["192.0.2.9:80"], 5));
        assert_eq!(step.publish.as_deref(), Some(&["192.0.2.9:80".parse().expect("an address")][..]));
    }

    #[test]
    fn a_failure_keeps_the_last_addresses_and_is_said_once() {
        let mut follower = Follower::default();
        follower.take(found(&["192.0.2.1:80"], 5));
        let mut pauses = Vec::new();
        for round in 0..8 {
            let step = follower.take(failure());
            assert_eq!(step.publish, None);
            assert_eq!(step.say.is_some(), round == 0, "round {round}");
            if let Some(Say::Failed(text)) = step.say {
                assert!(text.contains("no such name") && text.contains("stay in use"), "{text}");
            }
            pauses.push(step.ask_after.expect("a failure is retried").as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(follower.knows());
        let step = follower.take(found(&["192.0.2.1:80"], 5));
        assert_eq!(step.publish, None);
        assert!(matches!(step.say, Some(Say::Recovered(_))));
        assert_eq!(follower.take(failure()).ask_after, Some(RETRY_MIN));
    }

    #[test]
    fn unresolvable_at_start_is_said_and_retried() {
        let mut follower = Follower::default();
        let step = follower.take(failure());
        assert!(matches!(&step.say, Some(Say::Failed(text)) if text.contains("502")), "{step:?}");
        assert_eq!(step.ask_after, Some(RETRY_MIN));
        let step = follower.take(found(&["192.0.2.1:80"], 5));
        assert!(step.publish.is_some() && matches!(step.say, Some(Say::Recovered(_))));
    }

    #[test]
    fn literals_are_never_asked_for() {
        for (host, expected) in [("127.0.0.1", "127.0.0.1:81"), ("::1", "[::1]:81"), ("[::1]", "[::1]:81")] {
            let literal = OriginName::new(host, 81).literal().expect("an address");
            assert_eq!(literal.addresses, [expected.parse().expect("an address")]);
            assert_eq!(Follower::default().take(Ok(literal)).ask_after, None);
        }
        assert_eq!(OriginName::new("localhost", 81).literal(), None);
    }

    #[test]
    fn addresses_are_ordered_deduplicated_and_routable() {
        let ips = ["2001:db8::1", "192.0.2.1", "192.0.2.1", "192.0.2.2"]
            .map(|text| text.parse().expect("an address"));
        let texts = |route: &dyn Fn(SocketAddr) -> bool| {
            ordered(ips.into_iter(), 80, route).iter().map(SocketAddr::to_string).collect::<Vec<_>>()
        };
        assert_eq!(texts(&|_| true), ["192.0.2.1:80", "192.0.2.2:80", "[2001:db8::1]:80"]);
        assert_eq!(texts(&|address| address.is_ipv4()), ["192.0.2.1:80", "192.0.2.2:80"]);
        assert_eq!(texts(&|_| false).len(), 3, "better an unlikely address than none");
        let many = (0..200_u8).map(|last| IpAddr::from([192, 0, 2, last]));
        assert_eq!(ordered(many, 80, &|_| true).len(), ADDRESS_COUNT_MAX);
    }

    #[test]
    fn the_hosts_file_resolves_localhost() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let found =
            runtime.block_on(OriginName::new("localhost", 8000).lookup()).expect("localhost resolves");
        assert!(
            found.addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 8000),
            "{found:?}"
        );
    }
    /// Answers every question for an IPv4 address with two of them, and all others with none.
    fn name_server(ttl: u32) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("bound");
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((len, peer)) = socket.recv_from(&mut question) {
                let name_end =
                    12 + question[12..len].iter().position(|&byte| byte == 0).expect("a name ends");
                let count: u8 = if question[name_end + 1..name_end + 3] == [0, 1] { 2 } else { 0 };
                // The same identifier; an answer, recursion available; one question, the answers, nothing more.
                let mut answer = vec![question[0], question[1], 0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
                answer.extend_from_slice(&question[12..name_end + 5]);
                for last in 1..=count {
                    answer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1]);
                    answer.extend_from_slice(&ttl.to_be_bytes());
                    answer.extend_from_slice(&[0, 4, 127, 0, 0, last]);
                }
                let _ = socket.send_to(&answer, peer);
            }
        });
        address
    }

    #[test]
    fn several_addresses_and_their_ttl_come_from_the_name_server() {
        let server = name_server(77);
        let mut by_udp = ConnectionConfig::udp();
        by_udp.port = server.port();
        let server = NameServerConfig::new(server.ip(), true, vec![by_udp]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let found = runtime.block_on(async {
            let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            OriginName::new("origin.example", 8000).ask(builder).await.expect("the server answers")
        });
        let texts: Vec<_> = found.addresses.iter().map(SocketAddr::to_string).collect();
        assert_eq!(texts, ["127.0.0.1:8000", "127.0.0.2:8000"]);
        let ttl = found.ttl.expect("a name has one").as_secs_f64();
        assert!((70.0..=77.0).contains(&ttl), "{ttl}");
    }
}
