//! Enqueues a new item from one that exists, with another payload: it has a key of its own and names the old item in its
//! metadata, and the audit trail names both. The old item is never changed.

use askama::Template;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use outbox_item::{Item, ItemId, NewItem, Status, validate_items};
use outbox_store::AnewRequest;

use crate::access::Right;
use crate::page::content::{of_payload, plain};
use crate::page::form::{Form, FormFields};
use crate::page::frame::{Frame, Tab};
use crate::page::item::query;
use crate::page::line::is_blocking;
use crate::page::reason::{ReasonFields, actor, reason};
use crate::page::visit::{Visit, go_to, shown};
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
    old_key: String,
    ordering_key: Option<String>,
    /// The query of the page that unblocks the key, where the old item blocks it.
    unblock: Option<String>,
    typed: Typed,
    because: ReasonFields,
    /// What is wrong with what was typed.
    problem: Option<String>,
}

/// The form with the payload of the old item.
pub(super) async fn ask(visit: Visit, id: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let old = old_item(&visit, &id?.0).await?;
    let typed = Typed { key: new_key(&old.idem_key), payload: text_of(&old)? };
    shown(&page(&visit, old, typed, &FormFields::new(Vec::new()), None).await?)
}

/// The form again, with what was typed before a log-in.
pub(super) async fn again(visit: &Visit, id: &str, fields: &FormFields) -> Result<Response, ApiError> {
    visit.caller.require(Right::Enqueue)?;
    let old = old_item(visit, id).await?;
    let ended = "the session had ended. This is what you typed: look at it, and send it again.";
    shown(&page(visit, old, Typed::of(fields), fields, Some(ended.to_owned())).await?)
}

/// Enqueues the new item.
pub(super) async fn enqueue(id: Result<Path<String>, PathRejection>, form: Form) -> Result<Response, ApiError> {
    let (Form { visit, fields }, Path(id)) = (form, id?);
    let old = old_item(&visit, &id).await?;
    match carry_out(&visit, &fields, &old).await {
        Ok(id) => go_to(&format!("../{id}")),
        Err(err) if err.status().is_client_error() => refused(&visit, &id, &fields, &err).await,
        Err(err) => Err(err),
    }
}

/// The form again with what was typed, which says why nothing was enqueued.
pub(super) async fn refused(
    visit: &Visit,
    id: &str,
    fields: &FormFields,
    wrong: &ApiError,
) -> Result<Response, ApiError> {
    let old = old_item(visit, id).await?;
    let page = page(visit, old, Typed::of(fields), fields, Some(wrong.to_string())).await?;
    Ok((wrong.status(), shown(&page)?).into_response())
}

async fn carry_out(visit: &Visit, fields: &FormFields, old: &Item) -> Result<ItemId, ApiError> {
    let settings = &visit.settings;
    if !settings.is_durable {
        return Err(ApiError::Invalid("this host stores no items: OUTBOX_ENABLED is false".into()));
    }
    let request = request(visit, fields, old)?;
    validate_items(std::slice::from_ref(&request.item)).map_err(|invalid| ApiError::from(invalid.source))?;
    if let Some(max) = settings.max_pending {
        visit.state.pending.admit(&*visit.state.inspect, max, 1).await?;
    }
    let report = visit.state.operate.enqueue_anew(&request).await?;
    visit.state.glances.forget().await;
    let purged =
        || ApiError::Invalid("an item with this key was enqueued before and purged: choose another key".into());
    report.ids.first().copied().flatten().ok_or_else(purged)
}

/// What a person typed into the form, besides the reason.
struct Typed {
    key: String,
    payload: String,
}

impl Typed {
    fn of(fields: &FormFields) -> Self {
        let payload = fields.exact("payload").unwrap_or_default().to_owned();
        Self { key: fields.get("key").unwrap_or_default().to_owned(), payload }
    }
}

async fn page(
    visit: &Visit,
    old: Item,
    typed: Typed,
    fields: &FormFields,
    problem: Option<String>,
) -> Result<AnewPage, ApiError> {
    let is_blocking = match &old.ordering_key {
        Some(key) if old.status == Status::Dlq => is_blocking(&*visit.state.inspect, old.id, key).await?,
        _ => false,
    };
    Ok(AnewPage {
        frame: visit.frame(&format!("Enqueue item {} anew", old.id), Tab::Items),
        id: old.id.to_string(),
        item_type: old.item_type,
        content_type: old.content_type,
        old_key: old.idem_key,
        unblock: old.ordering_key.as_deref().filter(|_| is_blocking).map(|key| query("ordering_key", key)),
        ordering_key: old.ordering_key,
        typed,
        because: ReasonFields::of(visit, fields),
        problem,
    })
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
    Ok(shown)
}

/// The payload as a form can show it, and get it back without a change.
fn text_of(old: &Item) -> Result<String, ApiError> {
    let refused = |why: &str| ApiError::Invalid(format!("this payload {why}: use `outbox enqueue`"));
    let content = of_payload(&old.payload, &old.content_type);
    match std::str::from_utf8(&old.payload) {
        Err(_) => Err(refused("is no text")),
        Ok(_) if content.is_cut => Err(refused("is too long for a form")),
        Ok(text) if plain(text) != text => Err(refused("has characters that a form would change or hide")),
        Ok(_) => Ok(content.text),
    }
}

/// A key that begins like the old one.
fn new_key(old: &str) -> String {
    const ENDING: &str = ":anew";
    let most = 255 - ENDING.len();
    format!("{}{ENDING}", &old[..old.len().min(most)])
}

fn request(visit: &Visit, fields: &FormFields, old: &Item) -> Result<AnewRequest, ApiError> {
    let key = fields.get("key").ok_or_else(|| ApiError::Invalid("say which idempotency key it has".into()))?;
    let payload = fields.exact("payload").unwrap_or_default().replace("\r\n", "\n");
    if old.content_type == outbox_item::JSON {
        serde_json::from_str::<&serde_json::value::RawValue>(&payload)
            .map_err(ApiError::invalid_json("the payload"))?;
    }
    let (actor, reason) = (actor(visit, fields), reason(fields)?.to_owned());
    let mut metadata = serde_json::Map::new();
    metadata.insert(FROM.to_owned(), json!(old.id));
    metadata.insert("anew_by".to_owned(), json!(actor));
    metadata.insert("anew_reason".to_owned(), json!(reason));
    let item = NewItem {
        content_type: old.content_type.clone(),
        headers: old.headers.clone(),
        metadata,
        cid: Some(old.cid.clone()),
        ordering_key: old.ordering_key.clone(),
        fairness_key: old.fairness_key.clone(),
        ..NewItem::new(&old.item_type, key, payload)
    };
    Ok(AnewRequest { old: old.id, item, actor, reason: Some(reason) })
}
