//! Which certificates of receivers the host believes: those of the public authorities, and of those in the operator's
//! files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// A file of certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "reading the certificates in {path:?}, a value of OUTBOX_CA_FILE, SSL_CERT_FILE or OTEL_EXPORTER_OTLP_CERTIFICATE: {reason}"
)]
pub struct AuthorityError {
    path: PathBuf,
    reason: String,
}

/// How the host checks receivers over TLS. Every plugin has the same.
#[derive(Clone, Debug)]
pub struct TlsConfig(Arc<ClientConfig>);

impl TlsConfig {
    /// Believes the public authorities.
    pub(crate) fn public() -> Self {
        Self::believing(public_roots())
    }

    /// Believes the public authorities, and those in these files of PEM.
    pub fn new(files: &[PathBuf]) -> Result<Self, AuthorityError> {
        let mut roots = public_roots();
        for file in files {
            read(file, &mut roots).map_err(|reason| AuthorityError { path: file.clone(), reason })?;
        }
        Ok(Self::believing(roots))
    }

    fn believing(roots: RootCertStore) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let Ok(versions) = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions() else {
            unreachable!("ring has the cipher suites of the default versions")
        };
        Self(Arc::new(versions.with_root_certificates(roots).with_no_client_auth()))
    }

    /// The configuration of one client.
    pub fn client(&self) -> ClientConfig {
        ClientConfig::clone(&self.0)
    }
}

fn public_roots() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

/// Bytes of a file of certificates: many times those of the public authorities.
const FILE_MAX: u64 = 16 << 20;

fn read(file: &Path, roots: &mut RootCertStore) -> Result<(), String> {
    // A pipe or a device may have no end, and would hold up the start.
    let found = std::fs::metadata(file).map_err(|err| err.to_string())?;
    if !found.is_file() || found.len() > FILE_MAX {
        return Err("it is no file, or larger than 16 MiB".to_owned());
    }
    let certificates = CertificateDer::pem_file_iter(file).map_err(|err| err.to_string())?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|err| err.to_string())?;
    // A bundle of a system may hold certificates that no TLS library takes for an authority.
    let (added, _ignored) = roots.add_parsable_certificates(certificates);
    if added == 0 { Err("it holds no certificate of an authority in PEM".to_owned()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "nothing").unwrap();
        for file in [empty, dir.path().join("none.pem"), "/dev/zero".into(), dir.path().into()] {
            let message = TlsConfig::new(std::slice::from_ref(&file)).unwrap_err().to_string();
            assert!(message.contains(file.to_str().unwrap()) && message.contains("OUTBOX_CA_FILE"), "{message}");
        }
    }
}
