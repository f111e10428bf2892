//! HTTPS origins with certificates of an authority that exists for one test.

use super::connection::{Connection, prepared};
use super::{Origin, Reply};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::net::TcpStream;
use std::sync::Arc;

/// A certificate authority of one test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// An HTTPS origin and the name that its certificate is for.
pub(crate) struct TlsOrigin {
    pub(crate) origin: Origin,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names to refuse");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let pem = params.self_signed(&key).expect("a certificate can be signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The certificate as `--origin-ca` reads it.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// What a server needs to present a certificate for `names` (host names or addresses).
    pub(crate) fn server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let key = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new(names).expect("valid names");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be signed");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("the key belongs to the certificate");
        Arc::new(config)
    }
}

impl TlsOrigin {
    /// Starts an HTTPS origin whose certificate is for `names`.
    pub(crate) fn start(
        authority: &Authority,
        names: &[&str],
        script: impl Fn(&mut Reply<'_>) + Send + Sync + 'static,
    ) -> Self {
        let config = authority.server_config(names);
        let wrap = move |socket: TcpStream| {
            let below = prepared(&socket)?;
            let session = ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
            Ok(Connection::over(Box::new(StreamOwned::new(session, socket)), Some(below)))
        };
        Self { origin: Origin::start_over(Box::new(wrap), script) }
    }

    pub(crate) fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.origin.address().port())
    }
}
