//! Signs components in the format of minisign, with a secret key that `minisign -G` made.
//!
//! Which keys a host trusts, and whether a signature is valid, is the runtime's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign::{SecretKey, SecretKeyBox};

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The text is no secret key.
    #[error("it is no secret key as `minisign -G` writes it: {0}")]
    NoKey(String),
    /// The password does not open the key, or none can be asked for.
    #[error("the key has a password, and this one does not open it: {0}")]
    Password(String),
    /// Signing failed.
    #[error("signing failed: {0}")]
    Failed(String),
}

/// The signature of a component by the key in this text, as the file beside the component has it. A key with a password
/// is opened with `password`; without one, the terminal is asked.
pub fn sign(component: &[u8], file_name: &str, key: &str, password: Option<String>) -> Result<String, SigningError> {
    let key = open(key, password)?;
    let comment = format!("file:{file_name}");
    let signed = minisign::sign(None, &key, component, Some(&comment), Some("signature of outbox plugin sign"));
    Ok(signed.map_err(|err| SigningError::Failed(err.to_string()))?.into_string())
}

/// Where the bytes of a key have the algorithm that derives a key from the password: zero without one.
const KDF: std::ops::Range<usize> = 2..4;
/// Where they have a checksum. `minisign -G -W` leaves it zero, and this library writes and checks it.
const CHECKSUM: std::ops::Range<usize> = 126..158;

/// The key without a password and without a checksum in a text.
fn unchecked_key(text: &str) -> Option<SecretKey> {
    let bytes = STANDARD.decode(text.lines().nth(1)?.trim()).ok()?;
    let is_zero = |part: std::ops::Range<usize>| bytes[part].iter().all(|byte| *byte == 0);
    let is_unchecked = bytes.len() == CHECKSUM.end && is_zero(KDF) && is_zero(CHECKSUM);
    if is_unchecked { SecretKey::from_bytes(&bytes).ok() } else { None }
}

fn open(text: &str, password: Option<String>) -> Result<SecretKey, SigningError> {
    if let Some(key) = unchecked_key(text) {
        return Ok(key);
    }
    let boxed = || SecretKeyBox::from_string(text).map_err(|err| SigningError::NoKey(err.to_string()));
    match boxed()?.into_unencrypted_secret_key() {
        Ok(key) => Ok(key),
        Err(err) if err.to_string().contains("encrypted") => {
            boxed()?.into_secret_key(password).map_err(|err| SigningError::Password(err.to_string()))
        }
        Err(err) => Err(SigningError::NoKey(err.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use minisign::KeyPair;

    use super::*;

    fn is_valid(signature: &str, key: &minisign::PublicKey) -> bool {
        let key = minisign_verify::PublicKey::from_base64(&key.to_base64()).unwrap();
        let signature = minisign_verify::Signature::decode(signature).unwrap();
        key.verify(b"component", &signature, false).is_ok()
    }

    #[test]
    fn what_was_signed_is_accepted_by_the_check_of_the_host() {
        let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
        let text = sk.to_box(None).unwrap().into_string();
        let signature = sign(b"component", "p.wasm", &text, None).unwrap();
        assert!(is_valid(&signature, &pk) && signature.contains("file:p.wasm"), "{signature}");
        let other = KeyPair::generate_unencrypted_keypair().unwrap().pk;
        assert!(!is_valid(&signature, &other));
    }

    #[test]
    fn a_key_of_minisign_without_a_password_has_no_checksum() {
        let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().unwrap();
        let mut bytes = sk.to_bytes();
        let mut with = |part: std::ops::Range<usize>, value: u8| {
            bytes[part].fill(value);
            format!("untrusted comment: minisign secret key\n{}\n", STANDARD.encode(&bytes))
        };
        let signature = sign(b"component", "p.wasm", &with(CHECKSUM, 0), None).unwrap();
        assert!(is_valid(&signature, &pk));
        let err = sign(b"component", "p.wasm", &with(CHECKSUM, 1), None).unwrap_err();
        assert!(matches!(err, SigningError::NoKey(_)), "{err}");
        assert!(sign(b"component", "p.wasm", "comment\nAAAA\n", None).is_err());
    }

    #[test]
    fn a_key_with_a_password_needs_the_right_one() {
        let KeyPair { pk, sk } = KeyPair::generate_encrypted_keypair(Some("hunter2".into())).unwrap();
        let text = sk.to_box(None).unwrap().into_string();
        let signature = sign(b"component", "p.wasm", &text, Some("hunter2".into())).unwrap();
        assert!(is_valid(&signature, &pk));
        let wrong = sign(b"component", "p.wasm", &text, Some("hunter3".into())).unwrap_err().to_string();
        assert!(wrong.contains("does not open it") && !wrong.contains("hunter"), "{wrong}");
        let err = sign(b"component", "p.wasm", "no key", None).unwrap_err();
        assert!(matches!(err, SigningError::NoKey(_)), "{err}");
    }
}
