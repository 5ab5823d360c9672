//! Calls a webhook: sends an item's payload and headers unchanged with POST to the configured `url`.

use outbox_handler::{Failure, Handler, Item, Outcome, config, http};

struct Webhook;

impl Handler for Webhook {
    const TYPES: &'static [&'static str] = &["webhook"];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        let request = http::post(config::require("url")?).header("content-type", &item.content_type);
        let others = item.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
        let request = others.fold(request, |request, (name, value)| request.header(name, value));
        request.body(item.payload).send()?.ok_or_failure()?;
        Ok(Outcome::done())
    }
}

outbox_handler::export!(Webhook);
