//! Why a registry gave no image, or took none, with what to do.
//!
//! The words for operators are here. Which of these pass by themselves is `is_about_image`.

use std::error::Error;
use std::path::PathBuf;

use serde::Deserialize;

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
    #[error("{digest} is no manifest of an image: {reason}")]
    NotAManifest { digest: String, reason: String },
    #[error("a layer of {digest} has {size} bytes, and {limit} are allowed")]
    TooLarge { digest: String, size: u64, limit: u64 },
    #[error("the answer of {host} with {what} has more than {limit} bytes: it is no registry, or damaged")]
    Endless { host: String, what: &'static str, limit: u64 },
    #[error(
        "the registry {host} wants its credentials sent without TLS, to {realm}: nothing was sent; let the registry name \
         an address with https://"
    )]
    PlainRealm { host: String, realm: String },
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

    /// A host gave no answer, or ended in the middle of one.
    pub(crate) fn of_failure(host: &str, err: reqwest::Error) -> Self {
        // The address of an upload has a secret in its query.
        let (is_redirect, reason) = (err.is_redirect(), with_causes(&err.without_url()));
        if is_redirect {
            return Self::Answer(format!("the registry {host} redirects to where nothing is sent: {reason}"));
        }
        Self::Unreachable { host: host.to_owned(), reason }
    }

    /// A registry answered this status, with this text if it was short, and not what it was asked for.
    pub(crate) fn of_refusal(host: &str, status: u16, text: Option<&[u8]>, advice: &str) -> Self {
        let told = text.and_then(|text| serde_json::from_slice::<RegistryRefusal>(text).ok());
        let told = told.and_then(|told| told.errors.into_iter().next()).unwrap_or_default();
        let host = host.to_owned();
        match (status, told.code.as_str()) {
            (401 | 403, _) | (_, "DENIED" | "UNAUTHORIZED") => Self::Credentials { host, advice: advice.to_owned() },
            (404, _) | (_, "MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "NOT_FOUND") => Self::Unknown { host },
            (_, "") => Self::Answer(format!("the registry {host} answers {status}")),
            (_, code) => {
                let told = brief(&format!("{code}: {}", told.message));
                Self::Answer(format!("the registry {host} answers {status}: {told}"))
            }
        }
    }
}

/// What registries write about a request that they refuse.
#[derive(Deserialize)]
struct RegistryRefusal {
    errors: Vec<RefusalReason>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RefusalReason {
    code: String,
    message: String,
}

impl RegistryError {
    /// Whether the image itself cannot be used, so that another try with the same digest ends in the same way.
    pub fn is_about_image(&self) -> bool {
        matches!(
            self.problem,
            RegistryProblem::Index { .. }
                | RegistryProblem::NotAManifest { .. }
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

    #[test]
    fn a_refusal_is_told_with_the_words_of_the_registry() {
        let told = |status: u16, text: &str| {
            RegistryProblem::of_refusal("r.example", status, Some(text.as_bytes()), "log in").to_string()
        };
        let with = |code: &str| format!(r#"{{"errors": [{{"code": "{code}", "message": "slow\ndown"}}]}}"#);
        assert_eq!(
            told(429, &with("TOOMANYREQUESTS")),
            "the registry r.example answers 429: TOOMANYREQUESTS: slow\\ndown"
        );
        for text in ["", "<html>", r#"{"errors": []}"#, r#"{"errors": [{}]}"#] {
            assert_eq!(told(500, text), "the registry r.example answers 500");
        }
        assert!(told(401, "").ends_with("log in") && told(400, &with("DENIED")).ends_with("log in"));
        assert!(told(404, "").contains("no such image") && told(400, &with("NAME_UNKNOWN")).contains("no such image"));
    }
}
