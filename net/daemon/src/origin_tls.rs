//! TLS towards the origin as the flags want it: read at start, at each reload and by the check.

use std::path::Path;
use std::sync::Arc;

use aspis_config::Settings;
use aspis_wire::Scheme;
use rustls::ClientConfig;

/// Reads whom to trust; `None` for an origin without TLS. The error is a text for operators and names the flag.
pub(crate) fn config(settings: &Settings) -> Result<Option<Arc<ClientConfig>>, String> {
    if settings.origin.scheme == Scheme::Http {
        return Ok(None);
    }
    let file = settings.origin_ca.as_deref();
    aspis_shard::tls::client_config(file.map(Path::new)).map(Some).map_err(|error| match file {
        Some(_) => format!("--origin-ca: {error}"),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_for(flags: &[(&str, &str)]) -> Result<Option<Arc<ClientConfig>>, String> {
        config(&aspis_config::check(&flags.iter().copied().collect()).expect("sound flags"))
    }

    #[test]
    fn only_an_https_origin_needs_authorities() {
        assert!(
            config_for(&[("origin", "http://a"), ("origin-ca", "/nowhere")]).expect("not read").is_none()
        );
        let error = config_for(&[("origin", "https://a"), ("origin-ca", "/nowhere")]).expect_err("not there");
        assert!(error.starts_with("--origin-ca: cannot read /nowhere"), "{error}");
    }

    #[test]
    fn a_private_authority_is_read() {
        let path = std::env::temp_dir().join(format!("aspis-ca-{}.pem", std::process::id()));
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&key).expect("a certificate");
        std::fs::write(&path, authority.pem()).expect("a file can be written");
        let text = path.to_str().expect("a plain path");
        assert!(config_for(&[("origin", "https://a"), ("origin-ca", text)]).expect("readable").is_some());
        let _ = std::fs::remove_file(path);
    }
}
