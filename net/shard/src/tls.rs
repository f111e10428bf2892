//! TLS towards origins: whom to trust, and one session as a machine between plaintext and ciphertext buffers.
//!
//! The control thread makes the [`ClientConfig`] with [`client_config`] and sends it to the shards; `origin/stream.rs`
//! drives a `Session` over the ring's sockets. Nothing else names rustls' connection types.
//!
//! Invariants: every byte that comes from the socket passes the record layer, so plain bytes before, during or after the
//! handshake are an error, never data. The end of a session is its `close_notify`; a socket that ends without one is a
//! truncation, whatever the message framing says.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Most bytes of a file of certificate authorities; the public list has about 250 KiB.
const CA_FILE_LEN_MAX: u64 = 4 * 1024 * 1024;

/// Why TLS towards the origin cannot be set up. Its text is for operators.
#[derive(Debug)]
pub enum TlsSetupError {
    /// The file of certificate authorities cannot be read.
    Unreadable {
        /// The file as it was given.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The file is too long to be a list of certificates.
    TooLong {
        /// The file as it was given.
        path: PathBuf,
    },
    /// The file has no `CERTIFICATE` section.
    NoCertificate {
        /// The file as it was given.
        path: PathBuf,
    },
    /// A certificate in the file is broken or cannot be an authority.
    BadCertificate {
        /// The file as it was given.
        path: PathBuf,
        /// Which one, counted from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The machine has no trust store that could be read.
    NoSystemRoots {
        /// What was tried and failed, if the system says so.
        reason: String,
    },
    /// The TLS library refused the settings.
    Library(rustls::Error),
    /// The origin's host can be neither a DNS name nor an address.
    BadServerName {
        /// The host as it was given.
        host: String,
    },
}

impl fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            Self::TooLong { path } => {
                write!(
                    f,
                    "{} is longer than {CA_FILE_LEN_MAX} bytes: not a list of certificates",
                    path.display()
                )
            }
            Self::NoCertificate { path } => {
                write!(f, "{} holds no certificate: expected PEM with BEGIN CERTIFICATE", path.display())
            }
            Self::BadCertificate { path, number, reason } => {
                write!(f, "certificate {number} in {} cannot be used: {reason}", path.display())
            }
            Self::NoSystemRoots { reason } => write!(
                f,
                "this machine has no usable trust store ({reason}); install its CA certificates or give --origin-ca"
            ),
            Self::Library(error) => write!(f, "TLS cannot be set up: {error}"),
            Self::BadServerName { host } => write!(f, "'{host}' is not a host that a certificate can name"),
        }
    }
}

impl std::error::Error for TlsSetupError {}

/// Makes the settings for HTTPS origins: trust in the machine's authorities, or only in those of `origin_ca` (D-20).
///
/// Reads files, so it belongs on the control thread. Offers HTTP/1.1 only (D-28) and no certificate of our own: an origin
/// that insists on one makes the request fail.
pub fn client_config(origin_ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let roots = match origin_ca {
        Some(path) => roots_of_file(path)?,
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsSetupError::Library)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The name that an origin's certificate must carry and that SNI asks for: the host of its URL (D-20, issue default).
pub fn server_name(host: &str) -> Result<ServerName<'static>, TlsSetupError> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsSetupError::BadServerName { host: host.to_owned() })
}

/// A copy of `config` whose remembered sessions belong to one core, so that handshakes of cores share no lock.
pub(crate) fn for_core(config: &ClientConfig, session_count: usize) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(session_count);
    Arc::new(config)
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, TlsSetupError> {
    let unreadable = |error| TlsSetupError::Unreadable { path: path.to_owned(), error };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut pem = Vec::new();
    file.take(CA_FILE_LEN_MAX + 1).read_to_end(&mut pem).map_err(unreadable)?;
    if pem.len() as u64 > CA_FILE_LEN_MAX {
        return Err(TlsSetupError::TooLong { path: path.to_owned() });
    }
    let mut roots = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_slice_iter(&pem).enumerate() {
        let bad = |reason| TlsSetupError::BadCertificate { path: path.to_owned(), number: index + 1, reason };
        let certificate = certificate.map_err(|error| bad(format!("{error:?}")))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(TlsSetupError::NoCertificate { path: path.to_owned() });
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsSetupError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A store of a machine may hold certificates that no library accepts; the others still count.
    let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = found.errors.first().map_or_else(|| "it is empty".to_owned(), ToString::to_string);
        return Err(TlsSetupError::NoSystemRoots { reason });
    }
    Ok(roots)
}

/// What a session says when it is asked for plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plaintext {
    /// So many bytes were written to the buffer.
    Bytes(usize),
    /// More ciphertext is needed first.
    Starved,
    /// The peer ended the session properly.
    Closed,
    /// The socket ended, the session did not.
    Truncated,
}

/// One TLS session without its socket: ciphertext in, plaintext out, and the reverse.
pub(crate) struct Session {
    connection: ClientConnection,
}

impl Session {
    /// Begins a session; its first flight waits in [`Session::take_ciphertext`].
    pub(crate) fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Self, rustls::Error> {
        Ok(Session { connection: ClientConnection::new(config, name)? })
    }

    /// Tells whether the handshake is still going on.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Takes in some of `ciphertext` and returns how much; an empty slice says that the socket ended.
    ///
    /// Zero for a slice that is not empty means that nothing is taken any more: the session is closed. An error ends the
    /// session; an alert for the peer may be left to send.
    pub(crate) fn feed(&mut self, ciphertext: &[u8]) -> Result<usize, rustls::Error> {
        let mut rest = ciphertext;
        // The only I/O error of a slice is rustls' own "buffer full", which reading the plaintext first excludes.
        let taken =
            self.connection.read_tls(&mut rest).map_err(|error| rustls::Error::General(error.to_string()))?;
        self.connection.process_new_packets()?;
        Ok(taken)
    }

    /// Moves decrypted bytes to `buffer`, which must not be empty.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Plaintext {
        match self.connection.reader().read(buffer) {
            Ok(0) => Plaintext::Closed,
            Ok(count) => Plaintext::Bytes(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Plaintext::Starved,
            Err(_) => Plaintext::Truncated,
        }
    }

    /// Tells whether no plaintext waits to be read and the peer has not ended the session.
    pub(crate) fn is_drained(&mut self) -> bool {
        let state = self.connection.process_new_packets();
        state.is_ok_and(|state| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed())
    }

    /// Encrypts `plaintext`; the ciphertext waits in [`Session::take_ciphertext`].
    pub(crate) fn write(&mut self, plaintext: &[u8]) -> Result<(), rustls::Error> {
        self.connection
            .writer()
            .write_all(plaintext)
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    /// Ends our direction; the alert waits in [`Session::take_ciphertext`].
    pub(crate) fn close(&mut self) {
        self.connection.send_close_notify();
    }

    /// Everything that has to be sent now, in order. Empty if nothing has.
    pub(crate) fn take_ciphertext(&mut self) -> Vec<u8> {
        let mut ciphertext = Vec::new();
        while self.connection.wants_write() {
            // Writing to a vector cannot fail; zero bytes would mean that nothing is left.
            if !matches!(self.connection.write_tls(&mut ciphertext), Ok(count) if count > 0) {
                break;
            }
        }
        ciphertext
    }
}
