//! The settings of registries: which are reached without TLS, and where the credentials are.
//!
//! It does not know which images are used.

use std::path::PathBuf;

use outbox_registry::{AuthFile, PlainHttp, RegistrySettings};

use crate::config::environment::ProcessEnv;
use crate::config::error::ConfigError;
use crate::config::settings::ca_files;
use crate::config::sources::ResolvedSettings;

pub(super) fn registry(settings: &ResolvedSettings, environment: &ProcessEnv) -> Result<RegistrySettings, ConfigError> {
    Ok(RegistrySettings {
        plain_http: plain_http(settings)?,
        auth_file: auth_file(settings, environment)?,
        ca_files: ca_files(settings, environment)?,
    })
}

/// Registries of loopback need no TLS, because nobody else reads what is sent to them.
fn plain_http(settings: &ResolvedSettings) -> Result<PlainHttp, ConfigError> {
    let accepted = "loopback, never, or names such as registry.internal:5000, with commas between them";
    Ok(settings.parsed("OUTBOX_REGISTRY_HTTP", accepted, plain_http_of)?.unwrap_or_default())
}

fn plain_http_of(text: &str) -> Option<PlainHttp> {
    if text == "never" {
        return Some(PlainHttp { loopback: false, hosts: Vec::new() });
    }
    let (loopback, hosts): (Vec<_>, Vec<_>) =
        text.split(',').map(|word| word.trim().to_owned()).partition(|word| word == "loopback");
    let is_host = |word: &String| !word.is_empty() && word != "never" && !word.contains(['/', '*', '@', ' ']);
    hosts.iter().all(is_host).then_some(PlainHttp { loopback: !loopback.is_empty(), hosts })
}

/// The file that the operator names, or that of the user's docker.
fn auth_file(settings: &ResolvedSettings, environment: &ProcessEnv) -> Result<AuthFile, ConfigError> {
    if let Some(named) = settings.path("OUTBOX_REGISTRY_AUTH_FILE")? {
        return Ok(AuthFile::Named(named));
    }
    let docker = environment.get("DOCKER_CONFIG").map(PathBuf::from);
    let docker = docker.or_else(|| environment.get("HOME").map(|home| PathBuf::from(home).join(".docker")));
    Ok(docker.map_or(AuthFile::None, |folder| AuthFile::OfUser(folder.join("config.json"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_without_tls_are_those_of_loopback_or_those_that_are_named() {
        let named = |loopback, hosts: &[&str]| {
            Some(PlainHttp { loopback, hosts: hosts.iter().map(|host| (*host).to_owned()).collect() })
        };
        assert_eq!(plain_http_of("loopback"), named(true, &[]));
        assert_eq!(plain_http_of("never"), named(false, &[]));
        assert_eq!(plain_http_of("a:5000, loopback"), named(true, &["a:5000"]));
        assert_eq!(plain_http_of("a:5000"), named(false, &["a:5000"]));
        for text in ["http://a", "*", "a,,b", "never,a"] {
            assert_eq!(plain_http_of(text), None, "{text}");
        }
    }
}
