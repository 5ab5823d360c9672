use outbox_handler::followups::{self, NewItem};
use outbox_handler::{Failure, Item, Outcome, config, http, state};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Page {
    contacts: Vec<Value>,
    next: Option<String>,
}

pub(crate) fn page(item: &Item) -> Result<Outcome, Failure> {
    let after: String = state::get_json("after")?.unwrap_or_default();
    let url = format!("{}/contacts?after={after}", config::require("url")?);
    let Page { contacts, next } = http::get(url).send()?.ok_or_failure()?.json()?;
    for contact in &contacts {
        followups::emit(&NewItem::json("mail", contact)?)?;
    }
    if let Some(next) = next {
        // The place in the list moves with the items of the page, in one transaction.
        state::put_json("after", &next)?;
        let key = item.ordering_key.as_deref().unwrap_or("contacts");
        followups::emit(&NewItem::json("contacts", &next)?.ordering_key(key))?;
    }
    Ok(Outcome::done())
}
