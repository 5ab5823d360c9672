//! Recomputes a belief: sends an item's payload with POST to `/recompute` below the configured `url`.

use outbox_handler::{Failure, Handler, Item, Outcome, config, http};

struct BeliefRecompute;

impl Handler for BeliefRecompute {
    const TYPES: &'static [&'static str] = &["belief_recompute"];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        let url = config::require("url")?;
        http::post(format!("{}/recompute", url.trim_end_matches('/')))
            .header("content-type", &item.content_type)
            .body(item.payload)
            .send()?
            .ok_or_failure()?;
        Ok(Outcome::done())
    }
}

outbox_handler::export!(BeliefRecompute);
