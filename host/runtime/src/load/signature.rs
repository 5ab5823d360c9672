//! Signatures of components in minisign's format: `NAME.wasm.minisig` beside `NAME.wasm`.
//!
//! Owns the trusted keys. Without keys signatures are not checked. With keys every component needs a signature, also
//! one that comes from the host's own folder of last good components. It does not know where a signature was found.

use std::io;
use std::path::Path;

use minisign_verify::{Error, PublicKey, Signature};

use crate::load::source::{LoadError, PluginSource};

/// Why a word of `OUTBOX_PLUGIN_KEYS` is no key.
#[derive(Debug, thiserror::Error)]
pub enum TrustedKeyError {
    /// The word is no key, and no file of this name can be read.
    #[error("OUTBOX_PLUGIN_KEYS names {word:?}, neither a key nor a file")]
    Unreadable {
        /// The word.
        word: String,
        /// The error of reading the file.
        source: io::Error,
    },
    /// The word names a file that contains no key.
    #[error("OUTBOX_PLUGIN_KEYS names {word:?}, which holds no public key as minisign writes it")]
    Invalid {
        /// The word.
        word: String,
    },
}

/// The public keys whose components may run.
#[derive(Clone, Default)]
pub struct TrustedKeys(Vec<PublicKey>);

impl TrustedKeys {
    /// Reads the keys of `OUTBOX_PLUGIN_KEYS`. Each word is a key in base64 or the name of a file of minisign.
    pub fn read(words: &[String]) -> Result<Self, TrustedKeyError> {
        words.iter().map(|word| read_key(word)).collect::<Result<_, _>>().map(Self)
    }

    /// Errors if there are keys and none of them has signed the component of this name.
    pub fn check(&self, name: &str, wasm: &[u8], signature: Option<&str>) -> Result<(), LoadError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let refused = |why: String| LoadError::new(format!("{why} (OUTBOX_PLUGIN_KEYS is set)"));
        let beside = format!("{name}.wasm.minisig");
        let Some(text) = signature else {
            return Err(refused(format!("it is not signed: it needs {beside}, as `outbox plugin sign` makes it")));
        };
        let signature = Signature::decode(text);
        let signature = signature.map_err(|_| refused(format!("{beside} is not a signature that minisign made")))?;
        self.verify(wasm, &signature).map_err(|why| refused(format!("{beside} {why}")))
    }

    /// Errors if there are keys and none of them has signed the source.
    pub(crate) fn check_source(&self, source: &PluginSource) -> Result<(), LoadError> {
        self.check(&source.name, &source.wasm, source.signature.as_deref())
    }

    /// What is known about a component's signature, in words.
    pub(crate) fn describe(&self, source: &PluginSource) -> String {
        match (&source.signature, self.0.is_empty()) {
            (None, _) => "none".to_owned(),
            (Some(_), true) => "not checked: OUTBOX_PLUGIN_KEYS names no key".to_owned(),
            (Some(_), false) => match self.check_source(source) {
                Ok(()) => "of a trusted key".to_owned(),
                Err(_) => "not accepted".to_owned(),
            },
        }
    }

    fn verify(&self, wasm: &[u8], signature: &Signature) -> Result<(), String> {
        let mut reason = "was made with a key that is not among the trusted ones".to_owned();
        for key in &self.0 {
            match key.verify(wasm, signature, true) {
                Ok(()) => return Ok(()),
                Err(Error::UnexpectedKeyId) => {}
                Err(_) => "is not a signature of this component: one of the two was changed".clone_into(&mut reason),
            }
        }
        Err(reason)
    }
}

fn read_key(word: &str) -> Result<PublicKey, TrustedKeyError> {
    if let Ok(key) = PublicKey::from_base64(word) {
        return Ok(key);
    }
    let text = std::fs::read_to_string(Path::new(word));
    let text = text.map_err(|source| TrustedKeyError::Unreadable { word: word.to_owned(), source })?;
    PublicKey::decode(text.trim_end()).map_err(|_| TrustedKeyError::Invalid { word: word.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outbox_core::ComponentDigest;

    use super::*;

    /// Made by minisign itself over the bytes `test`, in its present format.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1633700835\tfile:test\tprehashed
wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==";

    fn source(wasm: &[u8], signature: Option<&str>) -> PluginSource {
        PluginSource {
            name: "p".into(),
            role: None,
            file: "p.wasm".into(),
            wasm: Arc::new(wasm.to_vec()),
            digest: ComponentDigest::of(wasm),
            manifest: None,
            manifest_files: Vec::new(),
            signature: signature.map(str::to_owned),
        }
    }

    fn refusal(wasm: &[u8], signature: Option<&str>) -> String {
        let keys = TrustedKeys::read(&[KEY.to_owned()]).unwrap();
        keys.check_source(&source(wasm, signature)).unwrap_err().to_string()
    }

    #[test]
    fn only_what_a_trusted_key_has_signed_is_let_through() {
        let keys = TrustedKeys::read(&[KEY.to_owned()]).unwrap();
        assert_eq!(keys.check_source(&source(b"test", Some(SIGNATURE))), Ok(()));
        assert!(refusal(b"Test", Some(SIGNATURE)).contains("was changed"));
        assert!(refusal(b"test", Some("signed, me")).contains("not a signature that minisign made"));
        assert!(refusal(b"test", None).contains("needs p.wasm.minisig"));
        assert_eq!(TrustedKeys::default().check_source(&source(b"test", None)), Ok(()));
    }

    #[test]
    fn a_key_is_given_as_it_is_or_as_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        std::fs::write(file.path(), format!("untrusted comment: minisign public key\n{KEY}\n")).unwrap();
        let keys = TrustedKeys::read(std::slice::from_ref(&path)).unwrap();
        assert_eq!(keys.check_source(&source(b"test", Some(SIGNATURE))), Ok(()));
        std::fs::write(file.path(), "no key").unwrap();
        for (word, words) in [(path.as_str(), "holds no public key"), ("none", "neither a key nor a file")] {
            let err = TrustedKeys::read(&[word.to_owned()]).err().unwrap();
            assert!(err.to_string().contains(words), "{err}");
        }
    }
}
