//! The sockets on which viewers are accepted: bound by us, or inherited from the service manager.
//!
//! Each core has a socket of its own for each address, so that the kernel spreads connections and cores share
//! nothing; a core that gets too many hands them on. Sockets that the service manager hands over take the place of
//! `--listen`. An address that somebody else listens on is an error even though the kernel would let two of our
//! processes share it: half of the viewers would meet each.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use aspis_config::ListenAddress;
use aspis_runtime::bind;
use listenfd::ListenFd;

/// Sockets that are ready for the cores, and how they are announced.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    /// Per address, one socket per core.
    pub(crate) tcp: Vec<Vec<OwnedFd>>,
    /// The Unix socket, if any.
    pub(crate) unix: Option<OwnedFd>,
    /// What each listener is called on standard output, in order.
    pub(crate) names: Vec<String>,
    /// The first TCP address as a viewer on this machine would reach it.
    pub(crate) first: Option<SocketAddr>,
}

/// Which listener could not be had, and why.
#[derive(Debug)]
pub(crate) struct ListenError {
    what: String,
    error: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.what, self.error)?;
        match self.error.kind() {
            io::ErrorKind::AddrInUse => write!(out, "; another program listens there (`ss -ltnp` names it)"),
            io::ErrorKind::PermissionDenied => {
                write!(out, "; ports below 1024 need CAP_NET_BIND_SERVICE or socket activation")
            }
            io::ErrorKind::AddrNotAvailable => write!(out, "; this machine has no such address"),
            _ => Ok(()),
        }
    }
}

/// What the operator wants to listen on.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// The addresses of `--listen`, or its default.
    pub(crate) addresses: &'a [ListenAddress],
    /// The path of `--listen-unix`.
    pub(crate) unix: Option<&'a str>,
    /// The name of `--congestion-control`.
    pub(crate) congestion_control: Option<&'a str>,
}

/// How long an address may be taken before that is an error.
const TAKEN_PATIENCE: Duration = Duration::from_secs(1);
/// How soon a taken address is tried again.
const TAKEN_RETRY_AFTER: Duration = Duration::from_millis(20);

/// Takes what was inherited and binds the rest, for so many cores.
pub(crate) fn open(
    wanted: &Wanted<'_>,
    inherited: ListenFd,
    core_count: usize,
) -> Result<Listeners, ListenError> {
    let mut listeners = Listeners::default();
    listeners.inherit(inherited, core_count)?;
    if listeners.tcp.is_empty() {
        for ListenAddress(address) in wanted.addresses {
            let (bound, sockets) =
                bind_tcp(*address, core_count).map_err(|error| fail(format!("--listen {address}"), error))?;
            listeners.add_tcp(bound, sockets);
        }
    } else {
        tracing::info!("{} inherited socket(s) take the place of --listen", listeners.tcp.len());
    }
    if let Some(name) = wanted.congestion_control {
        for socket in listeners.tcp.iter().flatten() {
            control_congestion(socket, name)
                .map_err(|error| fail(format!("--congestion-control {name}"), error))?;
        }
    }
    if let Some(path) = wanted.unix {
        let what = format!("--listen-unix {path}");
        let socket = patiently(|| bind::unix(path)).map_err(|error| fail(&what, error))?;
        listeners.add_unix(path, socket).map_err(|error| fail(what, error))?;
    }
    Ok(listeners)
}

/// Where the kernel says which congestion controls it has.
const CONGESTION_CONTROLS: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

fn control_congestion(socket: &OwnedFd, name: &str) -> io::Result<()> {
    bind::set_congestion_control(socket, name).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let names = std::fs::read_to_string(CONGESTION_CONTROLS).unwrap_or_default();
            io::Error::other(format!(
                "this kernel has {}; others come with a module (`modprobe tcp_{name}`)",
                names.trim_end()
            ))
        }
        io::ErrorKind::PermissionDenied => io::Error::other(
            "without CAP_NET_ADMIN only what net.ipv4.tcp_allowed_congestion_control names may be chosen",
        ),
        _ => error,
    })
}

/// Binds again for a moment while the address is taken: the kernel ends the ring of a killed server in the background, and
/// its listeners live until then, so a restart right after a crash would find them.
fn patiently(bind: impl Fn() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    let end = Instant::now() + TAKEN_PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::park_timeout(TAKEN_RETRY_AFTER);
            }
            result => return result,
        }
    }
}

fn fail(what: impl Into<String>, error: io::Error) -> ListenError {
    ListenError { what: what.into(), error }
}

/// Binds one address once per core and returns it with the port that was taken.
fn bind_tcp(wanted: SocketAddr, core_count: usize) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    if wanted.port() != 0 && core_count > 1 {
        // Without port sharing this fails if anybody listens there, also one who would share.
        drop(patiently(|| bind::tcp(wanted, false))?);
    }
    let first = TcpListener::from(patiently(|| bind::tcp(wanted, core_count > 1))?);
    let bound = first.local_addr()?;
    let mut sockets = vec![OwnedFd::from(first)];
    while sockets.len() < core_count {
        sockets.push(bind::tcp(bound, true)?);
    }
    Ok((bound, sockets))
}

impl Listeners {
    fn inherit(&mut self, mut inherited: ListenFd, core_count: usize) -> Result<(), ListenError> {
        for index in 0..inherited.len() {
            let what = || format!("inherited socket {index}");
            if let Ok(Some(socket)) = inherited.take_tcp_listener(index) {
                let (address, sockets) = share(socket, core_count).map_err(|error| fail(what(), error))?;
                self.add_tcp(address, sockets);
                continue;
            }
            match inherited.take_unix_listener(index) {
                Ok(Some(socket)) => self.inherit_unix(socket).map_err(|error| fail(what(), error))?,
                Ok(None) => {}
                Err(error) => return Err(fail(what(), error)),
            }
        }
        Ok(())
    }

    fn inherit_unix(&mut self, socket: UnixListener) -> io::Result<()> {
        let address = socket.local_addr()?;
        let path = address.as_pathname().map_or("inherited".to_owned(), |path| path.display().to_string());
        self.add_unix(&path, socket.into())
    }

    fn add_tcp(&mut self, address: SocketAddr, sockets: Vec<OwnedFd>) {
        self.names.push(address.to_string());
        self.tcp.push(sockets);
        self.first.get_or_insert(address);
    }

    fn add_unix(&mut self, path: &str, socket: OwnedFd) -> io::Result<()> {
        if self.unix.is_some() {
            return Err(io::Error::other("one Unix socket is all that is served"));
        }
        self.names.push(format!("unix:{path}"));
        self.unix = Some(socket);
        Ok(())
    }
}

/// Gives every core a descriptor of one inherited socket; the kernel wakes one of them per connection.
fn share(socket: TcpListener, core_count: usize) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    let address = socket.local_addr()?;
    let mut sockets = Vec::with_capacity(core_count);
    for _ in 1..core_count {
        sockets.push(OwnedFd::from(socket.try_clone()?));
    }
    sockets.push(socket.into());
    Ok((address, sockets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(addresses: &[ListenAddress]) -> Wanted<'_> {
        Wanted { addresses, unix: None, congestion_control: None }
    }

    fn address(text: &str) -> ListenAddress {
        ListenAddress(text.parse().expect("an address"))
    }

    #[test]
    fn each_core_gets_a_socket_of_the_same_port() {
        let listeners =
            open(&wanted(&[address("127.0.0.1:0"), address("127.0.0.1:0")]), ListenFd::empty(), 3)
                .expect("free ports");
        assert_eq!(listeners.tcp.len(), 2);
        for (sockets, name) in listeners.tcp.into_iter().zip(&listeners.names) {
            assert_eq!(sockets.len(), 3);
            assert!(!name.ends_with(":0"), "the real port is announced: {name}");
            for socket in sockets {
                assert_eq!(TcpListener::from(socket).local_addr().expect("bound").to_string(), *name);
            }
        }
    }

    #[test]
    fn a_taken_port_is_an_error_even_if_the_other_would_share() {
        for core_count in [1, 2] {
            let first = open(&wanted(&[address("127.0.0.1:0")]), ListenFd::empty(), 2).expect("a free port");
            let taken = address(&first.names[0]);
            let error =
                open(&wanted(&[taken]), ListenFd::empty(), core_count).expect_err("taken").to_string();
            assert!(error.contains(&format!("--listen {}", taken.0)), "{error}");
            assert!(error.contains("another program listens there"), "{error}");
        }
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let error =
            open(&wanted(&[address("192.0.2.1:0")]), ListenFd::empty(), 1).expect_err("not ours").to_string();
        assert!(error.contains("--listen 192.0.2.1:0") && error.contains("no such address"), "{error}");
    }

    #[test]
    fn an_inherited_socket_is_shared_by_the_cores() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let expected = socket.local_addr().expect("bound");
        let (address, sockets) = share(socket, 3).expect("descriptors are free");
        assert_eq!(address, expected);
        assert_eq!(sockets.len(), 3);
    }

    #[test]
    fn a_congestion_control_is_set_or_those_that_are_there_are_named() {
        let addresses = [address("127.0.0.1:0")];
        let with = |name| Wanted { congestion_control: Some(name), ..wanted(&addresses) };
        open(&with("reno"), ListenFd::empty(), 2).expect("each kernel has it");
        let error = open(&with("nothing"), ListenFd::empty(), 2).expect_err("not there").to_string();
        assert!(error.starts_with("--congestion-control nothing: ") && error.contains("reno"), "{error}");
    }

    #[test]
    fn a_unix_socket_is_announced_after_the_addresses() {
        let path = std::env::temp_dir().join(format!("aspis-listen-{}.sock", std::process::id()));
        let text = path.to_str().expect("a plain path");
        let addresses = [address("127.0.0.1:0")];
        let wanted = Wanted { addresses: &addresses, unix: Some(text), congestion_control: None };
        let listeners = open(&wanted, ListenFd::empty(), 1).expect("both are free");
        assert_eq!(listeners.names[1], format!("unix:{text}"));
        assert!(listeners.unix.is_some() && listeners.first.is_some());
        let _ = std::fs::remove_file(path);
    }
}
