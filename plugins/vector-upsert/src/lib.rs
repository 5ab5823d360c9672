//! Upserts a vector: sends an item's payload with POST to `/upsert` below the configured `url`.

use outbox_handler::{Failure, Handler, Item, Outcome, config, http};

struct VectorUpsert;

impl Handler for VectorUpsert {
    const TYPES: &'static [&'static str] = &["vector_upsert"];

    fn handle(item: Item) -> Result<Outcome, Failure> {
        let url = config::require("url")?;
        http::post(format!("{}/upsert", url.trim_end_matches('/')))
            .header("content-type", &item.content_type)
            .body(item.payload)
            .send()?
            .ok_or_failure()?;
        Ok(Outcome::done())
    }
}

outbox_handler::export!(VectorUpsert);
