//! With keys, only components that one of them signed are loaded, also those of the last good version.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outbox::runtime::PluginSettings;
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use crate::support::guests::place;
use crate::support::plugins::{PluginHost, Wat};

/// Signs like minisign in its legacy mode, which does not hash the file first.
struct Signer {
    id: [u8; 8],
    key: Ed25519KeyPair,
}

impl Signer {
    fn new(seed: u8) -> Self {
        Self { id: [seed; 8], key: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap() }
    }

    fn public(&self) -> String {
        STANDARD.encode([b"Ed", &self.id[..], self.key.public_key().as_ref()].concat())
    }

    fn sign(&self, bytes: &[u8]) -> String {
        let (signature, comment) = (self.key.sign(bytes), "timestamp:1");
        let global = self.key.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        let signature = STANDARD.encode([b"Ed", &self.id[..], signature.as_ref()].concat());
        let global = STANDARD.encode(global.as_ref());
        format!("untrusted comment: a test\n{signature}\ntrusted comment: {comment}\n{global}\n")
    }
}

fn put_signed(dir: &Path, wasm: &[u8], signature: Option<String>) {
    place(wasm, &dir.join("p.wasm"));
    match signature {
        Some(text) => place(text.as_bytes(), &dir.join("p.wasm.minisig")),
        None => drop(fs::remove_file(dir.join("p.wasm.minisig"))),
    }
}

#[tokio::test]
async fn with_keys_only_what_they_signed_is_loaded_and_the_old_one_stays() {
    let (ours, theirs) = (Signer::new(1), Signer::new(2));
    let keys = vec![Signer::new(3).public(), ours.public()];
    let first = Wat::default().bytes();
    let host = PluginHost::with(
        |settings| settings.keys.clone_from(&keys),
        |dir| put_signed(dir, &first, Some(ours.sign(&first))),
    )
    .await;
    let good = host.status("p").digest;
    assert_eq!(host.types(), ["t"]);

    let second = Wat { types: &["u"], ..Wat::default() }.bytes();
    let dir = host.path("");
    for (signature, words) in [
        (None, "it is not signed"),
        (Some(theirs.sign(&second)), "not among the trusted"),
        (Some(ours.sign(&first)), "was changed"),
        (Some("signed: me".to_owned()), "not a signature that minisign made"),
    ] {
        put_signed(&dir, &second, signature);
        host.until(words, |host| host.status("p").error.is_some_and(|error| error.contains(words))).await;
        assert_eq!(host.status("p").digest, good);
    }
    put_signed(&dir, &second, Some(ours.sign(&second)));
    host.until("the signed one", |host| host.types() == ["u"] && host.status("p").error.is_none()).await;
}

#[tokio::test]
async fn the_last_good_component_needs_its_signature_too() {
    let ours = Signer::new(1);
    let wasm = Wat::default().bytes();
    let host = PluginHost::start(None, |dir| put_signed(dir, &wasm, None)).await;
    assert_eq!(host.types(), ["t"]);
    let with_keys = |settings: &mut PluginSettings| settings.keys = vec![ours.public()];
    assert!(host.again(with_keys).await.types().is_empty(), "it was kept before signatures were asked for");
    put_signed(&host.path(""), &wasm, Some(ours.sign(&wasm)));
    assert_eq!(host.again(with_keys).await.types(), ["t"]);
    fs::write(host.path("p.wasm"), "broken").unwrap();
    assert_eq!(host.again(with_keys).await.types(), ["t"], "it was kept with its signature");
}
