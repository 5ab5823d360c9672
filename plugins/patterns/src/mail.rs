use outbox_handler::followups::{self, NewItem};
use outbox_handler::{Failure, Item, Outcome, config, http};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Campaign {
    text: String,
    to: Vec<String>,
}

pub(crate) fn campaign(item: &Item) -> Result<Outcome, Failure> {
    let Campaign { text, to } = item.json()?;
    for user in &to {
        // Named by its user, a mail is the same item however often and in whatever order it is emitted.
        followups::emit(&NewItem::json("mail", &json!({ "to": user, "text": text }))?.name(user))?;
    }
    Outcome::json(&json!({ "mails": to.len() }))
}

pub(crate) fn mail(item: &Item) -> Result<Outcome, Failure> {
    let mail: Value = item.json()?;
    http::post(format!("{}/mails", config::require("url")?)).json(&mail)?.send()?.ok_or_failure()?;
    Ok(Outcome::done())
}
