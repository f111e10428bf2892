//! The admin server's socket: an address, or a Unix socket for its owner alone.

use std::fs::Permissions;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use aspis_config::AdminAddress;
use aspis_runtime::bind;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Who can reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Who may open the socket's file.
    Unix,
    /// Programs of this machine; a browser among them runs pages of others.
    Loopback,
    /// Whoever the network lets through.
    Network,
}

/// A bound socket, before there is a runtime for it.
#[derive(Debug)]
pub(crate) enum AdminListener {
    /// On an address.
    Tcp(std::net::TcpListener),
    /// On a Unix socket, with its path.
    Unix(std::os::unix::net::UnixListener, String),
}

/// Binds the admin address; `None` if it is off. The error names it.
pub(crate) fn bind(address: &AdminAddress) -> Result<Option<AdminListener>, String> {
    let bound = match address {
        AdminAddress::Off => return Ok(None),
        AdminAddress::Address(address) => bind_tcp(*address),
        AdminAddress::Unix(path) => bind_unix(path),
    };
    bound.map(Some).map_err(|error| format!("--admin {address}: {error}"))
}

fn bind_tcp(address: SocketAddr) -> io::Result<AdminListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(AdminListener::Tcp(listener))
}

fn bind_unix(path: &str) -> io::Result<AdminListener> {
    let listener = std::os::unix::net::UnixListener::from(bind::unix(path)?);
    // Who connects in the moment before this was let in by the folder and by the umask.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(AdminListener::Unix(listener, path.to_owned()))
}

impl AdminListener {
    /// What standard output calls it.
    pub(crate) fn name(&self) -> String {
        match self {
            AdminListener::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string())
            }
            AdminListener::Unix(_, path) => format!("unix:{path}"),
        }
    }

    /// Its address, if it has one.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            AdminListener::Tcp(listener) => listener.local_addr().ok(),
            AdminListener::Unix(..) => None,
        }
    }

    /// Who can reach it. An address that is not known counts as open to all.
    pub(crate) fn reach(&self) -> Reach {
        match self {
            AdminListener::Unix(..) => Reach::Unix,
            AdminListener::Tcp(_) if self.address().is_some_and(|address| is_loopback(&address)) => {
                Reach::Loopback
            }
            AdminListener::Tcp(_) => Reach::Network,
        }
    }

    /// Hands it to the runtime of the calling thread.
    pub(crate) fn into_async(self) -> io::Result<Acceptor> {
        match self {
            AdminListener::Tcp(listener) => TcpListener::from_std(listener).map(Acceptor::Tcp),
            AdminListener::Unix(listener, _) => UnixListener::from_std(listener).map(Acceptor::Unix),
        }
    }
}

fn is_loopback(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(address) => address.ip().is_loopback(),
        SocketAddr::V6(address) => {
            address.ip().is_loopback() || address.ip().to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
        }
    }
}

/// The socket within the runtime.
#[derive(Debug)]
pub(crate) enum Acceptor {
    /// On an address.
    Tcp(TcpListener),
    /// On a Unix socket.
    Unix(UnixListener),
}

/// A connection of either kind.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Acceptor {
    /// Waits for the next connection.
    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Acceptor::Tcp(listener) => listener.accept().await.map(|(socket, _)| Socket::Tcp(socket)),
            Acceptor::Unix(listener) => listener.accept().await.map(|(socket, _)| Socket::Unix(socket)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> AdminAddress {
        AdminAddress::Address(text.parse().expect("an address"))
    }

    #[test]
    fn a_taken_address_is_named() {
        let taken = bind(&tcp("127.0.0.1:0")).expect("a free port").expect("not off");
        let name = taken.name();
        let error = bind(&tcp(&name)).expect_err("taken");
        assert!(error.contains(&format!("--admin {name}")) && error.contains("in use"), "{error}");
        assert_eq!(taken.reach(), Reach::Loopback);
        assert!(bind(&AdminAddress::Off).expect("off").is_none());
    }

    #[test]
    fn a_unix_socket_is_its_owners_alone() {
        let path = std::env::temp_dir().join(format!("aspis-admin-{}.sock", std::process::id()));
        let text = path.to_str().expect("a plain path");
        let bound = bind(&AdminAddress::Unix(text.to_owned())).expect("a free path").expect("not off");
        assert_eq!((bound.name(), bound.reach()), (format!("unix:{text}"), Reach::Unix));
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(std::fs::remove_file(path));
    }

    #[test]
    fn only_loopback_counts_as_this_machine() {
        for (address, is_own) in [("127.9.9.9:1", true), ("[::1]:1", true), ("[::ffff:127.0.0.1]:1", true)]
            .into_iter()
            .chain([("0.0.0.0:1", false), ("[::]:1", false), ("10.0.0.1:1", false)])
        {
            assert_eq!(is_loopback(&address.parse().expect("an address")), is_own, "{address}");
        }
    }
}
