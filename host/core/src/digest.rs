//! SHA-256 digests and their text form.
//!
//! A component is identified by the digest of its bytes everywhere: in manifests, in the quarantine, on items and
//! in the caches. This module knows bytes and text only, not where they come from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Hexadecimal digits of a SHA-256.
const HEX_LEN: usize = 64;

/// The SHA-256 of a component's bytes. Its text form is 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ComponentDigest(String);

impl ComponentDigest {
    /// The digest of a component.
    pub fn of(component: &[u8]) -> Self {
        Self(sha256(component))
    }

    /// The 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ComponentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<ComponentDigest> for String {
    fn from(digest: ComponentDigest) -> Self {
        digest.0
    }
}

impl TryFrom<String> for ComponentDigest {
    type Error = InvalidDigest;

    /// See [`ComponentDigest::from_str`].
    fn try_from(text: String) -> Result<Self, InvalidDigest> {
        text.parse()
    }
}

/// A text that is not the digest of a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 has 64 hexadecimal digits")]
pub struct InvalidDigest;

impl FromStr for ComponentDigest {
    type Err = InvalidDigest;

    /// Accepts upper-case digits too, and stores them in lower case.
    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let is_digest = text.len() == HEX_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_digest { Ok(Self(text.to_ascii_lowercase())) } else { Err(InvalidDigest) }
    }
}

/// The SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in lower-case hexadecimal, two digits for each.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_back_from_its_text_in_either_case() {
        let digest = ComponentDigest::of(b"abc");
        assert_eq!(digest.as_str(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(digest.to_string().to_ascii_uppercase().parse(), Ok(digest.clone()));
        assert_eq!(serde_json::to_value(&digest).unwrap(), digest.as_str());
    }

    #[test]
    fn a_text_of_another_length_or_with_other_letters_is_no_digest() {
        for bad in ["", "abc", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65)] {
            assert_eq!(bad.parse::<ComponentDigest>(), Err(InvalidDigest), "{bad}");
            assert!(serde_json::from_value::<ComponentDigest>(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn hex_keeps_leading_zeros() {
        assert_eq!(hex(&[0, 1, 0xfe]), "0001fe");
    }
}
