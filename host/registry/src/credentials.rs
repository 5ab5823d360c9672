//! Credentials for registries, from a file as `docker login` and Kubernetes write it.
//!
//! The file is read at each use, because credentials of registries are replaced while a host runs. Programs that keep
//! credentials for docker are named and not run.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::RegistryProblem;
use crate::reference::ImageReference;

/// A file of credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthFile {
    /// There is none: every registry is asked without credentials.
    None,
    /// The file that the operator names.
    Named(PathBuf),
    /// The file of the user's docker, which need not exist.
    OfUser(PathBuf),
}

/// What a client proves itself with.
#[derive(Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(crate) enum Credentials {
    /// Nothing.
    Anonymous,
    /// A user and a password.
    Password(String, String),
    /// The `identitytoken` of docker, for which a token server gives tokens of a registry.
    Identity(String),
}

/// What is known for one image.
pub(crate) struct FoundCredentials {
    /// What is sent.
    pub(crate) credentials: Credentials,
    /// What an operator does when the registry refuses it.
    pub(crate) advice: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: BTreeMap<String, DockerAuth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
}

impl AuthFile {
    /// The credentials for an image. Errors if the file cannot be used.
    pub(crate) fn find(&self, image: &ImageReference) -> Result<FoundCredentials, RegistryProblem> {
        let (path, text) = match self {
            Self::None => return Ok(anonymous("set OUTBOX_REGISTRY_AUTH_FILE")),
            Self::Named(path) => (path, std::fs::read_to_string(path)),
            Self::OfUser(path) => match std::fs::read_to_string(path) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    return Ok(anonymous("log in with `docker login`, or set OUTBOX_REGISTRY_AUTH_FILE"));
                }
                text => (path, text),
            },
        };
        let refused = |reason: String| RegistryProblem::AuthFile { path: path.clone(), reason };
        let text = text.map_err(|err| refused(err.to_string()))?;
        // The text of a parser's error may show a part of the file.
        let config: DockerConfig = serde_json::from_str(&text)
            .map_err(|err| refused(format!("it is no JSON of docker at line {}", err.line())))?;
        config.find(path, image).map_err(refused)
    }
}

fn anonymous(advice: &str) -> FoundCredentials {
    FoundCredentials { credentials: Credentials::Anonymous, advice: advice.to_owned() }
}

impl DockerConfig {
    fn find(&self, path: &Path, image: &ImageReference) -> Result<FoundCredentials, String> {
        let wanted = image.path();
        let covers = |key: &&String| wanted.starts_with(&format!("{}/", place(key)));
        // Credentials for a part of a registry come before those for all of it.
        let best = self.auths.keys().filter(covers).max_by_key(|key| place(key).len());
        if let Some(credentials) = best.map(|key| self.auths[key].credentials(key)).transpose()?.flatten() {
            let (host, path) = (image.registry(), path.display());
            let advice = match &credentials {
                Credentials::Identity(_) => format!(
                    "the identitytoken for {host} in {path} is one for the token server of the registry; log in again, or \
                     give a user and a password"
                ),
                _ => format!("correct those for {host} in {path}"),
            };
            return Ok(FoundCredentials { credentials, advice });
        }
        let helper = self.cred_helpers.get(image.registry()).or(self.creds_store.as_ref());
        Ok(anonymous(&match helper {
            Some(helper) => format!(
                "{} leaves them to the program docker-credential-{helper}, which is not run: write them into a file of \
                 `auths`, and set OUTBOX_REGISTRY_AUTH_FILE",
                path.display()
            ),
            None => format!("{} has none for {}", path.display(), image.registry()),
        }))
    }
}

/// A key without its scheme and without the version that docker writes for its own registry.
fn place(key: &str) -> &str {
    let place = key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/');
    place.strip_suffix("/v1").or_else(|| place.strip_suffix("/v2")).unwrap_or(place)
}

impl DockerAuth {
    /// The identity token, or the user and the password; `None` where a helper has them.
    fn credentials(&self, key: &str) -> Result<Option<Credentials>, String> {
        if let Some(token) = self.identity_token.as_deref().filter(|token| !token.is_empty()) {
            return Ok(Some(Credentials::Identity(token.to_owned())));
        }
        if let (Some(user), Some(password)) = (&self.username, &self.password) {
            return Ok(Some(Credentials::Password(user.clone(), password.clone())));
        }
        let Some(auth) = self.auth.as_deref().filter(|auth| !auth.is_empty()) else { return Ok(None) };
        let decoded = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (user, password) = pair.ok_or_else(|| format!("`auth` of {key} is no user:password in base64"))?;
        Ok(Some(Credentials::Password(user.to_owned(), password.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, image: &str) -> Result<(Credentials, String), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        let found = AuthFile::Named(path).find(&image.parse().unwrap());
        found.map(|found| (found.credentials, found.advice)).map_err(|err| err.to_string())
    }

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password(user.into(), password.into())
    }

    #[test]
    fn credentials_are_those_of_the_registry_or_of_a_part_of_it() {
        let file = serde_json::json!({"auths": {
            "registry.example": {"auth": STANDARD.encode("ada:hun:ter2")},
            "https://registry.example/team/": {"username": "team", "password": "p"},
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:h")},
            "registry.example.org": {},
            "tokens.example": {"auth": STANDARD.encode("ada:"), "identitytoken": "long"},
        }});
        let of = |image: &str| find(&file.to_string(), image).unwrap().0;
        assert_eq!(of("registry.example/a:1"), password("ada", "hun:ter2"));
        assert_eq!(of("registry.example/team/a:1"), password("team", "p"));
        assert_eq!(of("registry.example/teams/a:1"), password("ada", "hun:ter2"));
        assert_eq!(of("docker.io/a/b:1"), password("hub", "h"));
        assert_eq!(of("registry.example:5000/a:1"), Credentials::Anonymous);
        assert_eq!(of("registry.example.org/a:1"), Credentials::Anonymous);
        assert_eq!(of("tokens.example/a:1"), Credentials::Identity("long".into()));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_without_its_secrets() {
        let helper = find(r#"{"credsStore": "pass"}"#, "registry.example/a:1").unwrap();
        assert!(helper.1.contains("docker-credential-pass"), "{}", helper.1);
        for text in [r#"{"auths": {"registry.example": {"auth": "hunter2"}}}"#, r#"{"auths": "hunter2"}"#, "hunter2"] {
            let err = find(text, "registry.example/a:1").unwrap_err();
            assert!(err.contains("config.json") && !err.contains("hunter2"), "{err}");
        }
        let missing = PathBuf::from("/no/such/file.json");
        let image = "registry.example/a:1".parse().unwrap();
        assert!(AuthFile::Named(missing.clone()).find(&image).is_err());
        assert!(AuthFile::OfUser(missing).find(&image).is_ok_and(|found| found.credentials == Credentials::Anonymous));
    }
}
