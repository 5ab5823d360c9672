//! The name of an image: its registry, its repository, and a tag or a digest.
//!
//! It knows how names are written. What a name stands for is the registry's.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::Reference;

/// How settings write the name of an image.
const SCHEME: &str = "oci://";

/// The algorithms of digests that people write behind an `@`. Images are named by the first.
const DIGESTS: [&str; 3] = ["sha256", "sha384", "sha512"];

/// An image in a registry: `oci://HOST[:PORT]/REPOSITORY:TAG`, or `@sha256:…` in place of the tag or after it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageReference(Reference);

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no image: it needs {wanted}, as in oci://registry.example/team/webhook:stable")]
pub struct ReferenceError {
    text: String,
    wanted: &'static str,
}

impl ImageReference {
    /// Whether a text is written as settings write images.
    pub fn is_written_as_image(text: &str) -> bool {
        text.starts_with(SCHEME)
    }

    /// The name of the component: the last part of the repository.
    pub fn name(&self) -> &str {
        self.0.repository().rsplit('/').next().unwrap_or_default()
    }

    /// The registry, with its port if one is given.
    pub fn registry(&self) -> &str {
        self.0.resolve_registry()
    }

    /// The registry and the repository, for credentials that are given for a part of a registry.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.registry(), self.repository())
    }

    /// The digest that the reference is pinned to: `sha256:…`.
    pub fn pin(&self) -> Option<&str> {
        self.0.digest()
    }

    /// The tag, if one is given.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// The same image, pinned to a digest. The tag stays, for people.
    #[must_use]
    pub fn at(&self, digest: &str) -> Self {
        let (registry, repository) = (self.0.registry().to_owned(), self.0.repository().to_owned());
        Self(match self.0.tag() {
            Some(tag) => Reference::with_tag_and_digest(registry, repository, tag.to_owned(), digest.to_owned()),
            None => Reference::with_digest(registry, repository, digest.to_owned()),
        })
    }

    /// The repository, without the registry.
    pub(crate) fn repository(&self) -> &str {
        self.0.repository()
    }

    /// What names the manifest in its repository: the digest if there is one, else the tag.
    pub(crate) fn manifest(&self) -> &str {
        self.pin().or(self.tag()).unwrap_or_default()
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let plain = text.strip_prefix(SCHEME).unwrap_or(text);
        if let Some(rest) = behind_user(plain) {
            let wanted = "a registry without a user, whose password belongs into OUTBOX_REGISTRY_AUTH_FILE, and behind an @ \
                          nothing but a digest";
            return Err(ReferenceError { text: format!("{SCHEME}…@{rest}"), wanted });
        }
        let refused = |wanted| ReferenceError { text: text.to_owned(), wanted };
        let host = plain.split_once('/').map(|(host, _)| host);
        if plain.starts_with('[') {
            return Err(refused(
                "the name or the IPv4 address of a registry, because IPv6 addresses are not supported",
            ));
        }
        if !host.is_some_and(|host| host.contains(['.', ':']) || host == "localhost") {
            return Err(refused("the host of a registry first"));
        }
        if host.and_then(|host| host.split_once(':')).is_some_and(|(_, port)| !is_port(port)) {
            return Err(refused("a port from 1 to 65535 after the host"));
        }
        let last = plain.rsplit('/').next().unwrap_or_default();
        if !last.contains([':', '@']) {
            return Err(refused("a tag or a digest"));
        }
        let parsed = plain.parse::<Reference>();
        let parsed = parsed.map_err(|_| refused("HOST/REPOSITORY:TAG or HOST/REPOSITORY@sha256:… in lower case"))?;
        match parsed.digest() {
            Some(digest) if !is_sha256(digest) => Err(refused("a digest of sha256: and 64 digits in lower case")),
            _ => Ok(Self(parsed)),
        }
    }
}

/// What follows a user and a password, as URLs have them before the host. A digest also follows an `@`.
fn behind_user(plain: &str) -> Option<&str> {
    let mut rests = plain.rmatch_indices('@').map(|(at, _)| &plain[at + 1..]);
    rests.find(|rest| !is_meant_as_digest(rest))
}

/// Whether a text begins as digests do, right or wrong.
fn is_meant_as_digest(text: &str) -> bool {
    let algorithm = text.split_once(':').map(|(algorithm, _)| algorithm);
    algorithm.is_some_and(|algorithm| DIGESTS.contains(&algorithm)) && !text.contains('/')
}

/// Whether a text is the number of a port that a server can have.
fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a text is a digest as registries name images.
pub(crate) fn is_sha256(digest: &str) -> bool {
    let digits = digest.strip_prefix("sha256:").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_a_host_and_a_tag_or_a_digest() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let read = |text: &str| text.parse::<ImageReference>();
        let tagged = read("oci://localhost:5000/a/b/web-hook:1.2").unwrap();
        assert_eq!((tagged.name(), tagged.tag(), tagged.pin()), ("web-hook", Some("1.2"), None));
        assert_eq!(tagged.registry(), "localhost:5000");
        assert_eq!(read("localhost:5000/a/b/web-hook:1.2"), Ok(tagged.clone()));
        assert_eq!(tagged.to_string(), "oci://localhost:5000/a/b/web-hook:1.2");
        let pinned = tagged.at(&digest);
        assert_eq!(pinned.to_string(), format!("oci://localhost:5000/a/b/web-hook:1.2@{digest}"));
        assert_eq!(read(&format!("registry.example/w@{digest}")).unwrap().pin(), Some(digest.as_str()));
        for (text, wanted) in [
            ("webhook:1", "the host of a registry"),
            ("team/webhook:1", "the host of a registry"),
            ("localhost:5000/webhook", "a tag or a digest"),
            ("localhost:5000/Web:1", "lower case"),
            ("localhost:5000/web:1@sha256:ab", "HOST/REPOSITORY@sha256"),
            (&format!("localhost:5000/web@sha256:{}", "A".repeat(64)), "64 digits"),
            (&format!("localhost:5000/web@sha512:{}", "a".repeat(128)), "64 digits"),
            ("localhost:5000/../web:1", "lower case"),
            ("oci://", "the host of a registry"),
            ("localhost:99999/web:1", "a port from 1 to 65535"),
            ("localhost:0/web:1", "a port from 1 to 65535"),
            ("localhost:/web:1", "a port from 1 to 65535"),
            ("registry.example:http/web:1", "a port from 1 to 65535"),
            ("oci://[::1]:5000/web:1", "IPv6 addresses are not supported"),
            ("[::1]/web:1", "IPv6 addresses are not supported"),
            ("registry.example/web@stable", "nothing but a digest"),
        ] {
            let err = read(text).unwrap_err().to_string();
            assert!(err.contains(wanted), "{text}: {err}");
        }
    }

    #[test]
    fn a_password_in_a_reference_is_not_repeated() {
        for end in [":1".to_owned(), format!("@sha256:{}", "a".repeat(64))] {
            for password in ["hunter2", "hun@ter2", "hun/ter2"] {
                let text = format!("oci://ada:{password}@registry.example/p{end}");
                let err = text.parse::<ImageReference>().unwrap_err().to_string();
                assert!(err.contains("OUTBOX_REGISTRY_AUTH_FILE") && err.contains("registry.example/p"), "{err}");
                assert!(!err.contains("ada") && !err.contains("ter2"), "{err}");
            }
        }
        for forgotten in ["oci://ada:hunter2@registry.example", "ada:hunter2@localhost:5000", "ada:hun/ter2@r:5000"] {
            let err = forgotten.parse::<ImageReference>().unwrap_err().to_string();
            assert!(err.contains("OUTBOX_REGISTRY_AUTH_FILE") && !err.contains("ter2"), "{err}");
        }
    }
}
