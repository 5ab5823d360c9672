//! Named tokens: what the host keeps of each, and which one a text is.
//!
//! The host keeps the SHA-256 of a token and not the token. A fast digest is enough, because a token has 244 random
//! bits: nobody can try them all, however fast each try is. A slow digest would protect chosen passwords, and would
//! cost each request the time that it costs an attacker.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use outbox_item::Millis;

use crate::access::rights::{Rights, Role};

/// The longest name of a token or of a user.
const NAME_MAX: usize = 64;

/// Whether a text can name a token: letters, digits and `.`, `_`, `+`, `-`, a letter or digit first. Such a name fits into
/// a cookie, and none can be taken for a claimed name, or for `user@host` of a command, in the audit trail.
pub fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'+' | b'-');
    let begins_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    begins_well && text.len() <= NAME_MAX && text.bytes().all(is_allowed)
}

/// A token, as the host knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedToken {
    /// Who has it. Two tokens may have one name, so that one can replace the other.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Rights besides those of the role.
    pub more: Rights,
    /// The digest of the token.
    pub digest: TokenDigest,
    /// From when on it is refused, by the clock of the store; `None` for never.
    pub expires_at: Option<Millis>,
}

impl NamedToken {
    /// The token with all rights that `OUTBOX_TOKEN` gives. Its name is `admin`.
    pub fn admin(token: &str) -> Self {
        let digest = TokenDigest::of(token);
        Self { name: "admin".into(), role: Role::Admin, more: Rights::default(), digest, expires_at: None }
    }

    /// The rights of its role, and those besides.
    pub fn rights(&self) -> Rights {
        self.role.rights().and(self.more)
    }

    /// Whether it is refused at the store's time `now`.
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// The token that this text is. Compares with all tokens, each in a time that does not depend on what is equal.
pub(crate) fn find<'a>(tokens: &'a [NamedToken], given: &[u8]) -> Option<&'a NamedToken> {
    let digest = TokenDigest(Sha256::digest(given).into());
    tokens.iter().fold(None, |found, token| if token.digest.is(&digest) { Some(token) } else { found })
}

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// The digest of this token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// The bytes of the digest.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A text that is not the SHA-256 of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 has 64 hexadecimal digits")]
pub struct InvalidTokenDigest;

impl FromStr for TokenDigest {
    type Err = InvalidTokenDigest;

    fn from_str(text: &str) -> Result<Self, InvalidTokenDigest> {
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidTokenDigest);
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            let digits = &text[2 * index..2 * index + 2];
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidTokenDigest)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&outbox_core::hex(&self.0))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_found() {
        let named = |name: &str, token: &str| NamedToken { name: name.into(), ..NamedToken::admin(token) };
        let tokens = [named("ada", "s3cret"), named("bob", "other"), named("ada", "n3xt")];
        let name_of = |given: &str| find(&tokens, given.as_bytes()).map(|token| token.name.as_str());
        assert_eq!([name_of("s3cret"), name_of("n3xt"), name_of("other")], [Some("ada"), Some("ada"), Some("bob")]);
        for wrong in ["", "s3cre", "s3crett", "S3cret", &TokenDigest::of("s3cret").to_string()] {
            assert_eq!(name_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_digest_is_written_and_read_in_hexadecimal_and_not_shown_when_debugging() {
        let digest = TokenDigest::of("abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((digest.to_string().as_str(), text.to_uppercase().parse()), (text, Ok(digest)));
        assert!(!format!("{:?}", NamedToken::admin("abc")).contains("ba78"));
        for wrong in ["", "ba78", &text[1..], &text.replace('b', "g"), &format!("{}ü", &text[2..])] {
            assert_eq!(wrong.parse::<TokenDigest>(), Err(InvalidTokenDigest), "{wrong}");
        }
    }

    #[test]
    fn a_name_has_no_character_that_ends_a_cookie_or_marks_a_claim() {
        for name in ["ada", "ci-deploy", "7up", "a+b_c.d"] {
            assert!(is_name(name), "{name}");
        }
        for wrong in ["", "-a", "a b", "a;b", "root@db1", "ada (claimed)", "ü", &"a".repeat(65)] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_refused_from_its_end_on() {
        let token = NamedToken { expires_at: Some(Millis::new(10)), ..NamedToken::admin("t") };
        assert_eq!([9, 10, 11].map(|now| token.is_expired(Millis::new(now))), [false, true, true]);
        assert!(!NamedToken::admin("t").is_expired(Millis::MAX));
    }
}
