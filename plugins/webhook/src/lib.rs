//! Calls a webhook: POSTs an item's payload, as it is, to the configured `url`.

use outbox_handler::{Failure, Handler, Item, Outcome, config, http};

struct Webhook;

impl Handler for Webhook {
    const TYPES: &'static [&'static str] = &["webhook"];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        http::post(config::require("url")?)
            .header("content-type", &item.content_type)
            .body(item.payload)
            .send()?
            .ok_or_failure()?;
        Ok(Outcome::done())
    }
}

outbox_handler::export!(Webhook);
