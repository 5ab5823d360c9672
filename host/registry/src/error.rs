//! Why a registry gave no image, or took none, with what to do.
//!
//! The words for operators are here. Which of these pass by themselves is `is_about_image`.

use std::error::Error;
use std::path::PathBuf;

use oci_client::errors::{OciDistributionError, OciErrorCode};

use crate::reference::ImageReference;

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
                    _ => Self::Answer(format!("the registry {host} answers: {envelope}")),
                }
            }
            OciDistributionError::DigestError(reason) => Self::WrongDigest(reason.to_string()),
            OciDistributionError::RequestError(reason) => match reason.status().map(|status| status.as_u16()) {
                None => Self::Unreachable { host, reason: with_causes(&reason) },
                Some(401 | 403) => credentials(),
                Some(404) => Self::Unknown { host },
                Some(status) => Self::Answer(format!("the registry {host} answers {status}")),
            },
            other => Self::Answer(with_causes(&other)),
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
                | RegistryProblem::TooLarge { .. }
                | RegistryProblem::SignatureNotText
        )
    }
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
    text
}
