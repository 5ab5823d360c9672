//! Enqueues a new item from one that exists, with another payload: it has a key of its own and names the old item in its
//! metadata. The old item is never changed.

use askama::Template;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;
use serde_json::json;

use outbox_item::{Item, ItemId, NewItem};
use outbox_store::BatchMode;

use crate::access::Right;
use crate::page::content::of_bytes;
use crate::page::form::{Form, FormFields};
use crate::page::frame::{Frame, Tab};
use crate::page::login::go_to;
use crate::page::visit::{Visit, shown};
use crate::problem::ApiError;
use crate::query::number;

/// The member of the metadata that names the old item.
const FROM: &str = "anew_from";

/// The form, as its template reads it.
#[derive(Template)]
#[template(path = "anew.html")]
struct AnewPage {
    frame: Frame,
    id: String,
    item_type: String,
    content_type: String,
    key: String,
    old_key: String,
    ordering_key: Option<String>,
    payload: String,
}

/// The form with the payload of the old item.
pub(super) async fn ask(visit: Visit, id: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let old = old_item(&visit, &id?.0).await?;
    shown(&AnewPage {
        frame: visit.frame(&format!("Enqueue item {} anew", old.id), Tab::Items),
        id: old.id.to_string(),
        key: new_key(&old.idem_key),
        payload: of_bytes(&old.payload).text,
        item_type: old.item_type,
        content_type: old.content_type,
        old_key: old.idem_key,
        ordering_key: old.ordering_key,
    })
}

/// Enqueues the new item.
pub(super) async fn enqueue(id: Result<Path<String>, PathRejection>, form: Form) -> Result<Response, ApiError> {
    let Form { visit, fields } = form;
    let old = old_item(&visit, &id?.0).await?;
    let settings = &visit.settings;
    if !settings.is_durable {
        return Err(ApiError::Invalid("this host stores no items: OUTBOX_ENABLED is false".into()));
    }
    if let Some(max) = settings.max_pending {
        visit.state.pending.admit(&*visit.state.inspect, max, 1).await?;
    }
    let item = new_item(&visit, &fields, old)?;
    let report = visit.state.enqueue.enqueue(vec![item], BatchMode::AllOrNothing).await?;
    visit.state.glances.forget().await;
    match report.ids.first().copied().flatten() {
        Some(id) => go_to(&format!("../{id}")),
        None => {
            Err(ApiError::Invalid("an item with this key was enqueued before and purged: choose another key".into()))
        }
    }
}

/// The old item, for a caller who may see all of its payload.
async fn old_item(visit: &Visit, word: &str) -> Result<Item, ApiError> {
    visit.caller.require(Right::Read)?;
    visit.caller.require(Right::ReadPayload)?;
    let id: ItemId = number("the item's id", word)?;
    let details = visit.state.inspect.get(id).await?.ok_or_else(|| ApiError::NoItem(word.to_owned()))?;
    let whole = details.item.payload.clone();
    let shown = visit.sight().redacted(details).item;
    if shown.payload != whole {
        return Err(ApiError::Invalid(
            "OUTBOX_REDACT hides members of this payload: enqueue the new item by its application".into(),
        ));
    }
    let content = of_bytes(&whole);
    if content.kind == "bytes" || content.is_cut {
        return Err(ApiError::Invalid("this payload is no text, or too long for a form: use `outbox enqueue`".into()));
    }
    Ok(shown)
}

/// A key that begins like the old one.
fn new_key(old: &str) -> String {
    const ENDING: &str = ":anew";
    let most = 255 - ENDING.len();
    format!("{}{ENDING}", &old[..old.len().min(most)])
}

fn new_item(visit: &Visit, fields: &FormFields, old: Item) -> Result<NewItem, ApiError> {
    let needed = |name: &str| fields.get(name).ok_or_else(|| ApiError::Invalid(format!("the form has no {name}")));
    let payload = fields.exact("payload").unwrap_or_default().replace("\r\n", "\n");
    if old.content_type == outbox_item::JSON {
        serde_json::from_str::<&serde_json::value::RawValue>(&payload)
            .map_err(ApiError::invalid_json("the payload"))?;
    }
    let actor = visit.caller.actor(fields.get("actor").map(str::to_owned));
    let mut metadata = serde_json::Map::new();
    metadata.insert(FROM.to_owned(), json!(old.id));
    metadata.insert("anew_by".to_owned(), json!(actor));
    metadata.insert("anew_reason".to_owned(), json!(needed("reason")?));
    Ok(NewItem {
        content_type: old.content_type,
        headers: old.headers,
        metadata,
        cid: Some(old.cid),
        ordering_key: old.ordering_key,
        fairness_key: old.fairness_key,
        ..NewItem::new(&old.item_type, needed("key")?, payload)
    })
}
