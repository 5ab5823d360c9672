//! For every text of a manifest, the reader returns a result, and no error message contains a secret.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use outbox::runtime::{EnvLookup, check_manifest};

/// A text that a fuzzer's input does not contain by chance.
const SECRET: &str = "hush-7c1f5e";

static ENVIRONMENT: LazyLock<EnvLookup> = LazyLock::new(|| {
    Arc::new(|name| match name {
        "VECTOR_URL" => Some("http://127.0.0.1:9000/base".to_owned()),
        "VECTOR_TOKEN" => Some(SECRET.to_owned()),
        "BROKEN" => Some("two\nlines".to_owned()),
        _ => None,
    })
});

fuzz_target!(|text: &str| {
    if let Err(err) = check_manifest(text, &ENVIRONMENT) {
        let words = format!("{err:#}");
        assert!(!words.is_empty() && (text.contains(SECRET) || !words.contains(SECRET)), "{words}");
    }
});
