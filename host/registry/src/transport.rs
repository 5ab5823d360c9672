//! How a registry is reached: with TLS or without, through which proxy, and by which certificates it is believed.
//!
//! It knows no images and no credentials.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

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
    /// The address of a registry: `https://HOST/v2/`.
    pub(crate) fn address(&self, registry: &str) -> Result<Url, RegistryProblem> {
        let scheme = if self.plain_http.includes(registry) { "http" } else { "https" };
        let address = format!("{scheme}://{registry}/v2/");
        address.parse().map_err(|err| RegistryProblem::Answer(format!("{address} is no address: {err}")))
    }

    /// Whether a registry may have its credentials sent to this address: it has TLS, or the operator lets both the
    /// registry and the host of the address be reached without.
    pub(crate) fn may_send(&self, registry: &str, address: &Url) -> bool {
        let is_plain = || [registry, &host_and_port(address)].iter().all(|host| self.plain_http.includes(host));
        address.scheme() == "https" || address.scheme() == "http" && is_plain()
    }

    /// A client for one host. It is made for each use, so that new certificates and credentials count at once. Where the
    /// host is reached with TLS, it follows no redirect to an address without.
    pub(crate) fn client(&self, host: &str, patience: Duration, redirects: Policy) -> Result<Client, RegistryProblem> {
        let builder = Client::builder()
            .user_agent(concat!("outbox/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIME)
            .read_timeout(patience)
            .redirect(redirects)
            .https_only(!self.plain_http.includes(host))
            .tls_backend_preconfigured(tls(&self.ca_files)?);
        let builder = if is_loopback(host) { builder.no_proxy() } else { builder };
        builder.build().map_err(|err| RegistryProblem::Answer(err.to_string()))
    }
}

/// The host of an address, with its port if one is given.
pub(crate) fn host_and_port(address: &Url) -> String {
    let host = address.host_str().unwrap_or_default();
    address.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Believes the public authorities, and those of the operator's files.
fn tls(files: &[PathBuf]) -> Result<ClientConfig, RegistryProblem> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for file in files {
        let refused = |reason| RegistryProblem::Authorities { path: file.clone(), reason };
        // A bundle of a system may hold certificates that no TLS library takes for an authority.
        let (added, _ignored) = roots.add_parsable_certificates(of_file(file).map_err(refused)?);
        if added == 0 {
            return Err(refused("it holds no certificate of an authority in PEM".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|err| RegistryProblem::Answer(err.to_string()))?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

fn of_file(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    // A pipe or a device may have no end.
    let found = std::fs::metadata(file).map_err(|err| err.to_string())?;
    if !found.is_file() || found.len() > FILE_MAX {
        return Err("it is no file, or larger than 16 MiB".to_owned());
    }
    let certificates = CertificateDer::pem_file_iter(file).map_err(|err| err.to_string())?;
    certificates.collect::<Result<_, _>>().map_err(|err| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "nothing").unwrap();
        for file in [empty, "/dev/zero".into(), dir.path().into(), dir.path().join("none.pem")] {
            let message = tls(std::slice::from_ref(&file)).unwrap_err().to_string();
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

    #[test]
    fn credentials_go_over_tls_or_to_hosts_that_are_reached_without() {
        let plain_http = PlainHttp { loopback: true, hosts: vec!["a.example:5000".into()] };
        let settings = RegistrySettings { plain_http, auth_file: AuthFile::None, ca_files: Vec::new() };
        let may_send = |registry: &str, address: &str| settings.may_send(registry, &address.parse().unwrap());
        for address in ["https://b.example/token", "http://a.example:5000/token", "http://127.0.0.1:9/token"] {
            assert!(may_send("localhost:5000", address), "{address}");
            assert_eq!(may_send("tls.example", address), address.starts_with("https"), "{address}");
        }
        let elsewhere =
            ["http://b.example/", "http://a.example/", "http://a.example:5000@b.example/", "ftp://localhost/"];
        for address in elsewhere {
            assert!(!may_send("localhost:5000", address), "{address}");
        }
    }
}
