//! How a registry is reached: with TLS or without, and by which certificates it is believed.
//!
//! It knows no images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_client::Client;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::credentials::AuthFile;
use crate::error::RegistryProblem;

/// Long enough for a server at the other end of the world, short enough that an operator waits for the message.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// The longest time without a byte of an answer to a question.
pub(crate) const READ_TIME: Duration = Duration::from_secs(30);
/// The longest time without a byte of an answer to a component that is sent: a slow line needs minutes for a large one.
pub(crate) const SEND_TIME: Duration = Duration::from_mins(10);

/// Bytes of a file of certificates: many times those of the public authorities.
const FILE_MAX: u64 = 16 << 20;

/// Which registries are reached without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainHttp {
    /// Those of this machine, by their address: nobody else reads the traffic.
    pub loopback: bool,
    /// Those that the operator names: `HOST`, or `HOST:PORT`.
    pub hosts: Vec<String>,
}

/// How registries are reached.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Which registries are reached without TLS.
    pub plain_http: PlainHttp,
    /// The credentials.
    pub auth_file: AuthFile,
    /// Files of PEM certificates of authorities that registries are believed by, besides the public ones.
    pub ca_files: Vec<PathBuf>,
}

impl Default for PlainHttp {
    fn default() -> Self {
        Self { loopback: true, hosts: Vec::new() }
    }
}

impl PlainHttp {
    fn includes(&self, registry: &str) -> bool {
        let host = host_of(registry);
        self.hosts.iter().any(|named| named == registry || named == host) || self.loopback && is_loopback(registry)
    }
}

fn host_of(registry: &str) -> &str {
    registry.rsplit_once(':').map_or(registry, |(host, _)| host)
}

fn is_loopback(registry: &str) -> bool {
    let host = host_of(registry);
    host == "localhost" || host.parse().is_ok_and(|address: std::net::Ipv4Addr| address.is_loopback())
}

impl RegistrySettings {
    /// A client for one registry. It is made for each use, so that new certificates and credentials count at once.
    pub(crate) fn client(&self, registry: &str, patience: Duration) -> Result<Client, RegistryProblem> {
        // The library asks for the provider of the process. Whoever installs one first decides for all.
        rustls::crypto::ring::default_provider().install_default().ok();
        let is_plain = self.plain_http.includes(registry);
        // A proxy of the library's own makes it ignore those of the environment, and the exceptions are every host: none is used.
        let own = |value: &str| is_loopback(registry).then(|| value.to_owned());
        let config = ClientConfig {
            http_proxy: own("http://127.0.0.1:9"),
            https_proxy: own("http://127.0.0.1:9"),
            no_proxy: own("*,0.0.0.0/0,::/0"),
            protocol: if is_plain { ClientProtocol::Http } else { ClientProtocol::Https },
            tls_certs_only: if is_plain { Vec::new() } else { authorities(&self.ca_files)? },
            use_monolithic_push: true,
            platform_resolver: None,
            connect_timeout: Some(CONNECT_TIME),
            read_timeout: Some(patience),
            user_agent: concat!("outbox/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        Client::try_from(config).map_err(|err| RegistryProblem::Answer(err.to_string()))
    }
}

/// The public authorities, and those of the operator's files.
fn authorities(files: &[PathBuf]) -> Result<Vec<Certificate>, RegistryProblem> {
    let der = |certificate: &CertificateDer<'_>| Certificate {
        encoding: CertificateEncoding::Der,
        data: certificate.to_vec(),
    };
    let mut believed: Vec<_> = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().map(der).collect();
    for file in files {
        let own = of_file(file).map_err(|reason| RegistryProblem::Authorities { path: file.clone(), reason })?;
        believed.extend(own.iter().map(der));
    }
    Ok(believed)
}

fn of_file(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    // A pipe or a device may have no end.
    let found = std::fs::metadata(file).map_err(|err| err.to_string())?;
    if !found.is_file() || found.len() > FILE_MAX {
        return Err("it is no file, or larger than 16 MiB".to_owned());
    }
    let certificates = CertificateDer::pem_file_iter(file).map_err(|err| err.to_string())?;
    let certificates: Vec<_> = certificates.collect::<Result<_, _>>().map_err(|err| err.to_string())?;
    if certificates.is_empty() { Err("it holds no certificate in PEM".to_owned()) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["/dev/zero".into(), dir.path().into(), dir.path().join("none.pem")] {
            let message = authorities(std::slice::from_ref(&file)).unwrap_err().to_string();
            assert!(message.contains(file.to_str().unwrap()) && message.contains("OUTBOX_CA_FILE"), "{message}");
        }
    }

    #[test]
    fn only_loopback_and_registries_that_are_named_are_reached_without_tls() {
        let plain = PlainHttp { loopback: true, hosts: vec!["a.example".into(), "b.example:5000".into()] };
        for registry in ["localhost:5000", "127.0.0.1:5000", "127.9.0.1", "a.example", "a.example:1", "b.example:5000"]
        {
            assert!(plain.includes(registry), "{registry}");
        }
        for registry in
            ["localhost.example:5000", "128.0.0.1", "b.example", "b.example:5001", "a.example.org", "127.example"]
        {
            assert!(!plain.includes(registry), "{registry}");
        }
        assert!(!PlainHttp { loopback: false, hosts: Vec::new() }.includes("127.0.0.1:5000"));
    }
}
