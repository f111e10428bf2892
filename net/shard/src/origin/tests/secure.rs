//! HTTPS origins with a certificate authority of our own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use aspis_exchange::OriginFailure;
use aspis_telemetry::Counter;
use aspis_wire::Method;
use aspis_wire::request::RequestFraming;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{WantsServerCert, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ConfigBuilder, HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    WantsVerifier,
};

use super::rig::{Fetched, Origin, Pieces, Rig, end, fetch, get, ok, read_head, read_rest, settings};
use crate::origin::{OriginRequest, OriginSettings};
use crate::tls::{self, TlsSetupError};

type Secure = StreamOwned<ServerConnection, TcpStream>;

/// A certificate authority and the file that names it.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let key = KeyPair::generate().expect("keys can be made");
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a CA signs itself");
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let file = std::env::temp_dir().join(format!("aspis-origin-ca-{}-{number}.pem", std::process::id()));
        std::fs::write(&file, certificate.pem()).expect("the temporary folder is writable");
        Authority { issuer: Issuer::new(params, key), file }
    }

    fn server(&self, name: &str) -> Arc<ServerConfig> {
        Arc::new(self.server_with(name, |builder| builder.with_no_client_auth()))
    }

    /// A server that insists on a certificate of the client's by this authority.
    fn suspicious_server(&self, name: &str) -> Arc<ServerConfig> {
        let pem = std::fs::read(&self.file).expect("the file was just written");
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&pem).expect("one certificate"))
            .expect("it is an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let verifier = verifier.expect("there is an authority to trust");
        Arc::new(self.server_with(name, |builder| builder.with_client_cert_verifier(verifier)))
    }

    fn server_with(
        &self,
        name: &str,
        choose: impl FnOnce(
            ConfigBuilder<ServerConfig, WantsVerifier>,
        ) -> ConfigBuilder<ServerConfig, WantsServerCert>,
    ) -> ServerConfig {
        let key = KeyPair::generate().expect("keys can be made");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a good name");
        let certificate = params.signed_by(&key, &self.issuer).expect("the CA signs");
        let chain = vec![CertificateDer::from(certificate)];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key just made");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| choose(builder).with_single_cert(chain, key));
        config.expect("certificate and key fit")
    }

    fn client(&self) -> Arc<ClientConfig> {
        tls::client_config(Some(&self.file)).expect("the file holds the CA")
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// An HTTPS origin.
fn secure_origin(config: Arc<ServerConfig>, script: impl Fn(&mut Secure) + Send + Sync + 'static) -> Origin {
    Origin::start(move |stream, _| {
        let connection = ServerConnection::new(config.clone()).expect("a good configuration");
        script(&mut StreamOwned::new(connection, stream));
    })
}

fn answering(config: Arc<ServerConfig>, answer: Vec<u8>) -> Origin {
    secure_origin(config, move |stream| {
        while read_head(stream).is_some() {
            if stream.write_all(&answer).and_then(|()| stream.flush()).is_err() {
                return;
            }
        }
    })
}

fn localhost() -> OriginSettings {
    OriginSettings { server_name: Some(tls::server_name("localhost").expect("a name")), ..settings() }
}

fn rig(settings: OriginSettings, config: Arc<ClientConfig>, origin: &Origin) -> Rig {
    Rig::start(settings, 1, Some(config), &[origin.address])
}

fn get_from(rig: &Rig) -> Fetched {
    rig.run(0, |client, _| async move { get(&client).await })
}

#[test]
fn responses_come_over_kept_connections() {
    let authority = Authority::new();
    let content = vec![b'c'; 1 << 20];
    let origin = answering(authority.server("localhost"), ok(&content));
    let rig = rig(localhost(), authority.client(), &origin);
    for _ in 0..3 {
        assert_eq!(get_from(&rig), Ok((200, content.clone())));
    }
    assert_eq!((origin.connections(), rig.count(Counter::OriginConnectionsReused)), (1, 2));
}

#[test]
fn large_content_goes_out() {
    let authority = Authority::new();
    let origin = secure_origin(authority.server("localhost"), |stream| {
        read_head(stream);
        let mut content = vec![0; 3 << 20];
        stream.read_exact(&mut content).expect("all of it comes");
        let is_right = content.iter().enumerate().all(|(at, byte)| *byte == (at >> 20) as u8);
        stream.write_all(&ok(if is_right { b"right" } else { b"wrong" })).expect("the client reads");
        stream.flush().expect("the client reads");
        read_rest(stream);
    });
    let rig = rig(localhost(), authority.client(), &origin);
    let answer = rig.run(0, |client, _| async move {
        let head = b"PUT / HTTP/1.1\r\nHost: o\r\nContent-Length: 3145728\r\n\r\n";
        let framing = RequestFraming::Length(3 << 20);
        let request = OriginRequest { head, method: Method::Put, framing, upgrade: false };
        let pieces = Pieces { pieces: (0..3).map(|byte| vec![byte; 1 << 20]).collect(), end: Ok(()) };
        fetch(&client, request, Some(pieces)).await
    });
    assert_eq!(answer, Ok((200, b"right".to_vec())));
}

/// D-20, H-25.
#[test]
fn a_certificate_for_another_name_or_by_a_stranger_is_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for server in [authority.server("other.example"), stranger.server("localhost")] {
        let origin = answering(server, ok(b"secret"));
        let rig = rig(localhost(), authority.client(), &origin);
        assert_eq!(get_from(&rig), Err(OriginFailure::Tls));
        // Not asked again: another attempt would find the same certificate.
        assert_eq!((origin.connections(), rig.shared.open_len()), (1, 0));
        assert_eq!(rig.count(Counter::OriginTls), 1);
    }
}

/// D-28: we have no certificate to show, and the viewer gets 502.
#[test]
fn an_origin_that_demands_a_certificate_is_bad_gateway() {
    let authority = Authority::new();
    let origin = answering(authority.suspicious_server("localhost"), ok(b"secret"));
    let rig = rig(localhost(), authority.client(), &origin);
    let failure = get_from(&rig).expect_err("the origin never answers");
    assert_eq!(failure.status(), 502, "{failure}");
}

/// D-28: no other protocol is offered.
#[test]
fn origins_are_offered_http_1_1_alone() {
    let authority = Authority::new();
    for (speaks, expected) in [("http/1.1", Ok((200, b"http/1.1".to_vec()))), ("h2", Err(OriginFailure::Tls))]
    {
        let mut server = ServerConfig::clone(&authority.server("localhost"));
        server.alpn_protocols = vec![speaks.as_bytes().to_vec()];
        let origin = secure_origin(Arc::new(server), |stream| {
            if read_head(stream).is_some() {
                let agreed = stream.conn.alpn_protocol().expect("a protocol was agreed on").to_vec();
                stream.write_all(&ok(&agreed)).expect("the client reads");
                stream.flush().expect("the client reads");
                read_rest(stream);
            }
        });
        assert_eq!(get_from(&rig(localhost(), authority.client(), &origin)), expected, "{speaks}");
    }
}

#[test]
fn an_address_is_named_by_its_certificate_too() {
    let authority = Authority::new();
    let origin = answering(authority.server("127.0.0.1"), ok(b"x"));
    let settings = OriginSettings {
        server_name: Some(tls::server_name("127.0.0.1").expect("an address")),
        ..settings()
    };
    assert_eq!(get_from(&rig(settings, authority.client(), &origin)), Ok((200, b"x".to_vec())));
}

#[test]
fn plain_bytes_instead_of_a_handshake_are_an_error() {
    let authority = Authority::new();
    for answer in [&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..], b""] {
        let origin = Origin::start(move |mut stream, _| {
            let _ = stream.write_all(answer);
            end(stream);
        });
        assert_eq!(get_from(&rig(localhost(), authority.client(), &origin)), Err(OriginFailure::Tls));
        assert_eq!(origin.connections(), 1);
    }
}

/// D-22: the handshake is part of the attempt.
#[test]
fn a_handshake_that_stalls_is_a_connect_timeout() {
    let authority = Authority::new();
    let origin = Origin::start(|mut stream, _| drop(read_rest(&mut stream)));
    let settings = OriginSettings { connect_timeout: Duration::from_millis(100), ..localhost() };
    let rig = rig(settings, authority.client(), &origin);
    assert_eq!(get_from(&rig), Err(OriginFailure::ConnectTimeout));
    assert_eq!((origin.connections(), rig.shared.open_len()), (3, 0));
}

#[test]
fn content_until_close_needs_the_end_of_the_session() {
    let authority = Authority::new();
    for (says_goodbye, expected) in
        [(true, Ok((200, b"all".to_vec()))), (false, Err(OriginFailure::Truncated))]
    {
        let origin = secure_origin(authority.server("localhost"), move |stream| {
            read_head(stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall").expect("the client reads");
            if says_goodbye {
                stream.conn.send_close_notify();
            }
            let _ = stream.flush();
            let _ = stream.sock.shutdown(std::net::Shutdown::Write);
            read_rest(&mut stream.sock);
        });
        assert_eq!(get_from(&rig(localhost(), authority.client(), &origin)), expected);
    }
}

#[test]
fn bytes_behind_a_response_are_seen_inside_the_session() {
    let authority = Authority::new();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n".to_vec();
    // One record holds the content's end and what follows it, more than one read of a head takes.
    let content =
        [answer, vec![b'c'; 9000], b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()].concat();
    let origin = answering(authority.server("localhost"), content);
    let rig = rig(localhost(), authority.client(), &origin);
    for _ in 0..2 {
        assert_eq!(get_from(&rig), Ok((200, vec![b'c'; 9000])));
    }
    assert_eq!(origin.connections(), 2);
}

#[test]
fn sessions_are_resumed() {
    let authority = Authority::new();
    let (kind, kinds) = mpsc::channel();
    let kind = Mutex::new(kind);
    let origin = secure_origin(authority.server("localhost"), move |stream| {
        read_head(stream);
        kind.lock()
            .expect("no panic while sending")
            .send(stream.conn.handshake_kind())
            .expect("the test listens");
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx");
        stream.conn.send_close_notify();
        let _ = stream.flush();
        read_rest(&mut stream.sock);
    });
    let rig = rig(localhost(), authority.client(), &origin);
    for _ in 0..2 {
        assert_eq!(get_from(&rig), Ok((200, b"x".to_vec())));
    }
    assert_eq!(kinds.recv(), Ok(Some(HandshakeKind::Full)));
    assert_eq!(kinds.recv(), Ok(Some(HandshakeKind::Resumed)));
}

#[test]
fn new_settings_hold_from_the_next_request_on() {
    let (old, new) = (Authority::new(), Authority::new());
    let origin = answering(old.server("localhost"), ok(b"x"));
    let rig = rig(localhost(), old.client(), &origin);
    assert_eq!(get_from(&rig), Ok((200, b"x".to_vec())));
    let config = new.client();
    let answer = rig.run(0, |client, _| async move {
        client.set_tls(config);
        assert_eq!(client.idle_len(), 0);
        get(&client).await
    });
    assert_eq!(answer, Err(OriginFailure::Tls));
}

#[test]
fn a_bad_file_of_authorities_is_explained() {
    let authority = Authority::new();
    let said = |content: &str| {
        std::fs::write(&authority.file, content).expect("the temporary folder is writable");
        tls::client_config(Some(&authority.file)).expect_err("not a list of certificates").to_string()
    };
    assert!(said("no certificate here").contains("holds no certificate"));
    assert!(
        said("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n").contains("certificate 1 in")
    );
    assert!(
        said("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").contains("cannot be used")
    );
    let missing = authority.file.with_extension("missing");
    let error = tls::client_config(Some(&missing)).expect_err("no such file");
    assert!(matches!(error, TlsSetupError::Unreadable { .. }));
    assert!(error.to_string().contains("missing"));
    assert!(tls::server_name("not a host").is_err());
    assert!(tls::server_name("[::1]").is_ok());
}
