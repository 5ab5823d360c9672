//! The idempotency keys of everything that an item causes.
//!
//! A key depends only on the item and on what the same attempt sent before, so every attempt and every replay of an
//! item sends the same keys. Follow-ups make their keys from the same root.

use std::collections::HashMap;

use http::Method;
use http::header::{HeaderName, HeaderValue};
use sha2::{Digest, Sha256};

use outbox_core::hex;
use outbox_item::Item;

/// The header of an outgoing request that has its key.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header by which a guest names the effect of a request. The host removes it.
pub(crate) const EFFECT: HeaderName = HeaderName::from_static("outbox-effect");

/// Characters of an effect's name: few, because receivers limit the length of a key, often to little above 255.
const EFFECT_MAX: usize = 64;
/// Bytes of the digest that stands for method and URL in a key. An item sends too few requests for a collision.
const REQUEST_DIGEST_LEN: usize = 6;

/// The first part of every key of an item: the item's own key, and its effect generation when an operator asked for
/// new effects.
pub(crate) fn idempotency_root(item: &Item) -> String {
    match item.effect_generation {
        0 => item.idem_key.clone(),
        generation => format!("{}+{generation}", item.idem_key),
    }
}

/// Makes the keys of one attempt's requests.
#[derive(Debug)]
pub(crate) struct IdempotencyKeys {
    root: String,
    /// Requests without a named effect, counted by the digest of method and URL.
    sent: HashMap<String, u32>,
}

impl IdempotencyKeys {
    /// Keys that begin with this root, before the first request.
    pub(crate) fn new(root: String) -> Self {
        Self { root, sent: HashMap::new() }
    }

    /// The first part of the keys.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// The key of the next request: `<root>/<effect>`, or `<root>/<digest of method and URL>/<count>` if the guest
    /// names no effect.
    pub(crate) fn next(&mut self, method: &Method, url: &str, effect: Option<String>) -> String {
        if let Some(effect) = effect {
            return format!("{}/{effect}", self.root);
        }
        let request_digest = hex(&Sha256::digest(format!("{method} {url}"))[..REQUEST_DIGEST_LEN]);
        let count = self.sent.entry(request_digest.clone()).or_default();
        *count += 1;
        format!("{}/{request_digest}/{count}", self.root)
    }
}

/// Parses the name of an effect. Errors with the accepted names. A slash is not accepted: the name could then be taken
/// for the end of another key.
pub(crate) fn effect_name(value: &HeaderValue) -> Result<String, String> {
    let is_name = |name: &&str| {
        (1..=EFFECT_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    let accepted =
        || format!("the header outbox-effect is {value:?}: it must be 1 to {EFFECT_MAX} of A-Z a-z 0-9 . _ -");
    value.to_str().ok().filter(is_name).map(str::to_owned).ok_or_else(accepted)
}
