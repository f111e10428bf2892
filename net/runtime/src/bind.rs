//! Sockets and addresses: listeners, connecting sockets, and the few calls that the ring makes directly.
//!
//! All descriptors are blocking and close-on-exec. The ring never blocks on them: io_uring polls a blocking socket,
//! while a non-blocking one would complete with EAGAIN instead of waiting.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::limits::LISTEN_BACKLOG;
use crate::socket::{Peer, Quiet};

/// Makes a listening TCP socket. Connections inherit `TCP_NODELAY` from it; an IPv6 wildcard takes IPv4 too.
/// With `reuse_port` several cores each listen on the same address and the kernel spreads connections.
pub fn tcp(address: SocketAddr, reuse_port: bool) -> io::Result<OwnedFd> {
    let socket = stream_socket(address)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if reuse_port {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if address.is_ipv6() {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
    }
    if address.ip().is_loopback() {
        // Where no network is, nothing is to be learnt about it. Reno is in each kernel and does least.
        set_congestion_control(&socket, "reno")?;
    }
    let (storage, len) = to_storage(address);
    // SAFETY: `storage` is a valid address of `len` bytes for the duration of the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const storage).cast(), len) })?;
    // SAFETY: takes no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), LISTEN_BACKLOG) })?;
    Ok(socket)
}

/// Names the congestion control of a TCP socket; connections inherit it from their listener.
///
/// # Errors
/// The kernel's: `ENOENT` if it has none of this name.
pub fn set_congestion_control(socket: &impl AsFd, name: &str) -> io::Result<()> {
    let descriptor = socket.as_fd().as_raw_fd();
    let len = name.len() as libc::socklen_t;
    // SAFETY: `name` is valid for reads of `len` bytes during the call.
    check(unsafe {
        libc::setsockopt(descriptor, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_ptr().cast(), len)
    })?;
    Ok(())
}

/// Makes a listening Unix socket; a file left behind by an earlier run is replaced, one in use is an error.
pub fn unix(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let path = path.as_ref();
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path).map(OwnedFd::from)
        }
        bound => bound.map(OwnedFd::from),
    }
}

/// Returns the processors that this process may run on, as the cgroup or `taskset` left them.
pub fn available_cpus() -> Vec<usize> {
    // SAFETY: a `cpu_set_t` is plain bits; all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { zeroed() };
    // SAFETY: `set` is valid for writes of its own size.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return vec![0];
    }
    // SAFETY: each index is below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect()
}

/// Returns the local address of a socket of the Inet families.
pub fn local_address(socket: &impl AsFd) -> Option<SocketAddr> {
    match name_of(socket.as_fd(), libc::getsockname)? {
        Peer::Inet(address) => Some(address),
        Peer::Unix => None,
    }
}

/// The other end of a connected socket; nothing if it is gone already.
pub(crate) fn peer(socket: &OwnedFd) -> Option<Peer> {
    name_of(socket.as_fd(), libc::getpeername)
}

type NameCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn name_of(socket: BorrowedFd<'_>, call: NameCall) -> Option<Peer> {
    // SAFETY: `sockaddr_storage` is plain data; all zeroes is valid.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    let mut len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `storage` is valid for writes of `len` bytes, and `len` for one write, during the call.
    check(unsafe { call(socket.as_raw_fd(), (&raw mut storage).cast(), &raw mut len) }).ok()?;
    from_storage(&storage)
}

fn from_storage(storage: &libc::sockaddr_storage) -> Option<Peer> {
    let address = match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the storage, which is larger and aligned, holds this type.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let (ip, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
            match ip.to_ipv4_mapped() {
                Some(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
                None => SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id)),
            }
        }
        libc::AF_UNIX => return Some(Peer::Unix),
        _ => return None,
    };
    Some(Peer::Inet(address))
}

/// The C form of an address and its length.
pub(crate) fn to_storage(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: `sockaddr_storage` is plain data; all zeroes is valid.
    let mut storage: libc::sockaddr_storage = unsafe { zeroed() };
    let len = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: the storage is larger than each address type, aligned for it, and borrowed only here.
            let out = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
            out.sin_family = libc::AF_INET as libc::sa_family_t;
            out.sin_port = v4.port().to_be();
            out.sin_addr.s_addr = u32::from(*v4.ip()).to_be();
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let out = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
            out.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            out.sin6_port = v6.port().to_be();
            out.sin6_addr.s6_addr = v6.ip().octets();
            out.sin6_flowinfo = v6.flowinfo();
            out.sin6_scope_id = v6.scope_id();
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, len as libc::socklen_t)
}

/// A TCP socket of the address's family with `TCP_NODELAY`.
pub(crate) fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: takes no pointers.
    let descriptor = check(unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: a fresh descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    Ok(socket)
}

/// Gives a listener that others made, such as a service manager, what ours have.
pub(crate) fn prepare_listener(descriptor: &OwnedFd) {
    set_blocking(descriptor);
    // Refused by Unix sockets, which have no such option and no need of it.
    let _ = set_option(descriptor, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
}

/// Makes sure that io_uring waits on the descriptor.
pub(crate) fn set_blocking(descriptor: &OwnedFd) {
    // SAFETY: takes no pointers; the descriptor is alive.
    unsafe {
        let flags = libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL);
        if flags >= 0 && flags & libc::O_NONBLOCK != 0 {
            libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK);
        }
    }
}

/// Makes the close of a TCP socket a reset. Other sockets have none; they just close.
pub(crate) fn set_reset_on_close(socket: &OwnedFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let len = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: `linger` is valid for reads of `len` bytes during the call.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            len,
        );
    }
}

/// Ends our side of a connection. It fails only if the peer has gone, which the receive side finds out.
pub(crate) fn shut_write(socket: &OwnedFd) {
    // SAFETY: takes no pointers.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) };
}

/// Bytes that a TCP peer has acknowledged so far; 0 where the kernel does not tell, as for Unix sockets.
pub(crate) fn acknowledged(socket: &OwnedFd) -> u64 {
    // `tcpi_bytes_acked` of the kernel's `struct tcp_info`, whose fields never move; the `libc` crate's ends before it.
    const FIELD_AT: usize = 120;
    let mut info = [0_u8; FIELD_AT + size_of::<u64>()];
    let mut len = info.len() as libc::socklen_t;
    // SAFETY: `info` is valid for writes of `len` bytes, and `len` itself for a read and a write, during the call.
    let result = unsafe {
        let fd = socket.as_raw_fd();
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len)
    };
    if result < 0 || (len as usize) < info.len() {
        return 0;
    }
    u64::from_ne_bytes(info[FIELD_AT..].try_into().expect("eight bytes are left"))
}

/// Looks for a byte or the end without waiting or taking it.
pub(crate) fn peek(socket: &OwnedFd) -> Quiet {
    let mut byte = 0_u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: `byte` is valid for a write of one byte during the call.
    match unsafe { libc::recv(socket.as_raw_fd(), (&raw mut byte).cast(), 1, flags) } {
        1.. => Quiet::Readable,
        0 => Quiet::Closed,
        _ if io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock => Quiet::Yes,
        _ => Quiet::Closed,
    }
}

fn set_option(socket: &OwnedFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` is valid for reads of `len` bytes during the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) })?;
    Ok(())
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_their_c_form() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[2001:db8::7]:8080"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_storage(&to_storage(address).0), Some(Peer::Inet(address)));
        }
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:9".parse().unwrap();
        let plain: SocketAddr = "192.0.2.1:9".parse().unwrap();
        assert_eq!(from_storage(&to_storage(mapped).0), Some(Peer::Inet(plain)));
    }

    #[test]
    fn acknowledged_bytes_are_those_that_the_peer_has() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let descriptor = OwnedFd::from(sender.try_clone().unwrap());
        let before = acknowledged(&descriptor);
        sender.write_all(&[7; 5000]).unwrap();
        peer.read_exact(&mut [0; 5000]).unwrap();
        // The acknowledgement may be delayed by the peer's kernel, 40 ms or so.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while acknowledged(&descriptor) < before + 5000 {
            assert!(std::time::Instant::now() < deadline, "never acknowledged");
            std::thread::yield_now();
        }
        assert_eq!(acknowledged(&descriptor), before + 5000);
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(acknowledged(&OwnedFd::from(unix)), 0);
    }

    #[test]
    fn on_loopback_nothing_is_measured() {
        let chosen = |socket: &OwnedFd| {
            let (mut name, mut len) = ([0_u8; 16], 16 as libc::socklen_t);
            // SAFETY: `name` is valid for writes of `len` bytes, and `len` for a read and a write, during the call.
            let result = unsafe {
                let (level, option) = (libc::IPPROTO_TCP, libc::TCP_CONGESTION);
                libc::getsockopt(socket.as_raw_fd(), level, option, name.as_mut_ptr().cast(), &raw mut len)
            };
            check(result).unwrap();
            String::from_utf8(name.iter().copied().take_while(|byte| *byte != 0).collect()).unwrap()
        };
        let of_machine = chosen(&stream_socket("192.0.2.1:0".parse().unwrap()).unwrap());
        assert_eq!(chosen(&tcp("127.0.0.1:0".parse().unwrap(), false).unwrap()), "reno");
        assert_eq!(chosen(&tcp("0.0.0.0:0".parse().unwrap(), false).unwrap()), of_machine);
        let taken = tcp("0.0.0.0:0".parse().unwrap(), false).unwrap();
        set_congestion_control(&taken, "reno").unwrap();
        assert_eq!(chosen(&taken), "reno");
        assert_eq!(set_congestion_control(&taken, "nothing").unwrap_err().raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("aspis-bind-{}.sock", std::process::id()));
        let first = unix(&path).unwrap();
        assert_eq!(unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let second = unix(&path).unwrap();
        drop(second);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_wildcard_listener_takes_both_families() {
        let Ok(listener) = tcp("[::]:0".parse().unwrap(), false) else {
            return; // A machine without IPv6 has nothing to show.
        };
        let port = local_address(&listener).unwrap().port();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        std::net::TcpStream::connect(("::1", port)).unwrap();
        assert!(!available_cpus().is_empty());
    }
}
