//! Calls a webhook: sends an item's payload and headers unchanged with POST to the configured `url`, or to the one that
//! the header `webhook-url` of the item names.
//!
//! The host refuses a destination that the manifest does not grant.
//! It leaves out headers that no request of a handler can have. The outbox refuses those at the enqueue, but plain SQL
//! does not.

use outbox_handler::{Failure, Handler, Item, Outcome, config, http};

struct Webhook;

impl Handler for Webhook {
    const TYPES: &'static [&'static str] = &["webhook"];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        let request = http::post(destination(&item)?).header("content-type", &item.content_type);
        let others = item.headers.iter().filter(|(name, value)| is_sent(name, value));
        let request = others.fold(request, |request, (name, value)| request.header(name, value));
        request.body(item.payload).send()?.ok_or_failure()?;
        Ok(Outcome::done())
    }
}

/// The header of an item that names its destination. In lower case.
const DESTINATION: &str = "webhook-url";

/// The URL to call. The outbox checks the form of the header at the enqueue, but plain SQL does not.
fn destination(item: &Item) -> Result<String, Failure> {
    let Some((_, url)) = item.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(DESTINATION)) else {
        return config::require("url");
    };
    if url.starts_with("https://") || url.starts_with("http://") {
        return Ok(url.clone());
    }
    Err(Failure::permanent("webhook.url", "the header webhook-url is no absolute URL"))
}

/// Headers that concern the connection, which the host makes. In lower case.
const CONNECTION: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

fn is_sent(name: &str, value: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_of_value = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
    let is_of_request = |name: &str| ![DESTINATION, "content-type"].contains(&name) && !CONNECTION.contains(&name);
    let is_header = !name.is_empty() && name.bytes().all(is_token) && value.bytes().all(is_of_value);
    is_header && is_of_request(&name.to_ascii_lowercase())
}

outbox_handler::export!(Webhook);
