//! Why a registry gave no image, or took none, with what to do.
//!
//! The words for operators are here. Which of these pass by themselves is `is_about_image`.

use std::error::Error;
use std::path::PathBuf;

use oci_client::errors::{OciDistributionError, OciErrorCode};
use tokio::task::JoinError;

use crate::reference::ImageReference;

/// Characters of a text of a registry that a message repeats.
const TEXT_MAX: usize = 200;

/// Why an image was not pulled, pushed or looked at.
#[derive(Debug, thiserror::Error)]
#[error("{image}: {problem}")]
pub struct RegistryError {
    image: String,
    problem: RegistryProblem,
}

/// What is wrong, without the name of the image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryProblem {
    #[error("the registry {host} does not answer: {reason}")]
    Unreachable { host: String, reason: String },
    #[error("the registry {host} asks for credentials, or refuses those given: {advice}")]
    Credentials { host: String, advice: String },
    #[error("the registry {host} has no such image: push it with `outbox plugin push`, or correct the name")]
    Unknown { host: String },
    #[error("{digest} is an index of several images: name one of them")]
    Index { digest: String },
    #[error(
        "{digest} has no component: it needs a layer of the type application/wasm, and has {types}; `outbox plugin push` \
         makes one"
    )]
    NoComponent { digest: String, types: String },
    #[error("{digest} has {count} components: an image of a plugin has one, as `outbox plugin push` makes it")]
    SeveralComponents { digest: String, count: usize },
    #[error("{digest} has {count} signatures: an image of a plugin has one at most, as `outbox plugin push` makes it")]
    SeveralSignatures { digest: String, count: usize },
    #[error("{digest} has a layer whose digest is not sha256: and 64 digits in lower case: {layer}")]
    LayerDigest { digest: String, layer: String },
    #[error("the registry {host} has not answered completely within the deadline of {seconds} s")]
    Late { host: String, seconds: u64 },
    #[error("the client for the registry {host} broke off: {reason}{advice}")]
    Panic { host: String, reason: String, advice: &'static str },
    #[error("a layer of {digest} has {size} bytes, and {limit} are allowed")]
    TooLarge { digest: String, size: i64, limit: u64 },
    #[error(
        "what the registry sent is not what its digest says: {0}; the registry, or something before it, is damaged"
    )]
    WrongDigest(String),
    #[error("the signature is not text")]
    SignatureNotText,
    #[error("reading the certificates of {path:?}, a value of OUTBOX_CA_FILE or SSL_CERT_FILE: {reason}")]
    Authorities { path: PathBuf, reason: String },
    #[error("reading the credentials in {path:?} (OUTBOX_REGISTRY_AUTH_FILE): {reason}")]
    AuthFile { path: PathBuf, reason: String },
    #[error("{0}")]
    Answer(String),
    #[error("the file is no component of WebAssembly: {0}")]
    NotAComponent(String),
    #[error("a component is pushed under a tag, and this names a digest")]
    PushToDigest,
}

impl RegistryProblem {
    /// The error about an image.
    pub(crate) fn of(self, image: &ImageReference) -> RegistryError {
        RegistryError { image: image.to_string(), problem: self }
    }

    /// The registry named an image by what is no digest.
    pub(crate) fn no_digest(host: &str, named: &str) -> Self {
        let named = brief(named);
        Self::Answer(format!(
            "the registry {host} names the digest \"{named}\", which is not sha256: and 64 digits in lower case"
        ))
    }

    /// The library for registries ended without an answer.
    pub(crate) fn of_panic(host: String, err: JoinError) -> Self {
        let reason = match err.try_into_panic() {
            Ok(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".to_owned())
            }
            Err(err) => err.to_string(),
        };
        let lacks_authorities = reason.contains("CA certificates");
        let advice = "; install the package ca-certificates, or set SSL_CERT_FILE";
        Self::Panic { host, reason: brief(&reason), advice: if lacks_authorities { advice } else { "" } }
    }

    /// What an answer of a registry, or none, means.
    pub(crate) fn of_answer(err: OciDistributionError, image: &ImageReference, advice: &str) -> Self {
        let host = image.registry().to_owned();
        let credentials = || Self::Credentials { host: host.clone(), advice: advice.to_owned() };
        match err {
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError { code: 401 | 403, .. } => credentials(),
            OciDistributionError::ServerError { code: 404, .. }
            | OciDistributionError::ImageManifestNotFoundError(_) => Self::Unknown { host },
            OciDistributionError::RegistryError { ref envelope, .. } => {
                match envelope.errors.first().map(|error| &error.code) {
                    Some(OciErrorCode::Denied | OciErrorCode::Unauthorized) => credentials(),
                    Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound) => {
                        Self::Unknown { host }
                    }
                    _ => Self::Answer(format!("the registry {host} answers: {}", brief(&envelope.to_string()))),
                }
            }
            OciDistributionError::DigestError(reason) => Self::WrongDigest(brief(&reason.to_string())),
            OciDistributionError::RequestError(reason) => match reason.status().map(|status| status.as_u16()) {
                None => Self::Unreachable { host, reason: with_causes(&reason) },
                Some(401 | 403) => credentials(),
                Some(404) => Self::Unknown { host },
                Some(status) => Self::Answer(format!("the registry {host} answers {status}")),
            },
            other => Self::Answer(format!("the registry {host}: {}", with_causes(&other))),
        }
    }
}

impl RegistryError {
    /// Whether the image itself cannot be used, so that another try with the same digest ends in the same way.
    pub fn is_about_image(&self) -> bool {
        matches!(
            self.problem,
            RegistryProblem::Index { .. }
                | RegistryProblem::NoComponent { .. }
                | RegistryProblem::SeveralComponents { .. }
                | RegistryProblem::SeveralSignatures { .. }
                | RegistryProblem::LayerDigest { .. }
                | RegistryProblem::TooLarge { .. }
                | RegistryProblem::SignatureNotText
        )
    }
}

/// What a registry wrote, as a part of one line: short, without control characters and without the queries of URLs, which
/// may have secrets.
pub(crate) fn brief(text: &str) -> String {
    let plain: String = text.split_inclusive(char::is_whitespace).map(without_query).collect();
    let escaped: String = plain.chars().take(TEXT_MAX + 1).map(escaped).collect();
    if escaped.chars().count() <= TEXT_MAX {
        return escaped;
    }
    escaped.chars().take(TEXT_MAX - 1).chain(['…']).collect()
}

fn without_query(word: &str) -> String {
    let query = word.find("://").and_then(|scheme| Some(scheme + word[scheme..].find('?')?));
    let Some(query) = query else { return word.to_owned() };
    let is_around = |c: char| c.is_whitespace() || ")]}\",:;".contains(c);
    let around = &word[word.trim_end_matches(is_around).len().max(query)..];
    format!("{}{around}", &word[..query])
}

fn escaped(c: char) -> String {
    let is_invisible = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || is_invisible { c.escape_default().to_string() } else { c.to_string() }
}

/// An error with its causes, on one line. A cause that the text has already is not repeated.
fn with_causes(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut next = err.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    brief(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_registry_writes_is_one_short_line_without_secrets() {
        let told = brief("a\n\u{1b}[2J for url (https://a.example/token?secret=1&x=2): refused");
        assert_eq!(told, "a\\n\\u{1b}[2J for url (https://a.example/token): refused");
        assert_eq!(brief("why? ü"), "why? ü");
        for long in ["ü".repeat(9999), "\n".repeat(9999)] {
            let told = brief(&long);
            assert!(told.chars().count() == TEXT_MAX && told.ends_with('…'), "{told}");
        }
        assert_eq!(brief(&"x".repeat(TEXT_MAX)), "x".repeat(TEXT_MAX));
    }
}
