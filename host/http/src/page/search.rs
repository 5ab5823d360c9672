//! The search box of every view: leads to what a word names, by its id, its key, its correlation id, its ordering key, its
//! type, its saga, its group of failures or the beginning of its key.

use askama::Template;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::response::Response;

use outbox_item::{ItemId, Status};
use outbox_store::{Filter, Inspect, Page, StoreError, item_with_key};

use crate::page::form::FormFields;
use crate::page::frame::{Frame, Tab};
use crate::page::item::query;
use crate::page::visit::{Visit, go_to, shown};
use crate::problem::ApiError;

/// The page for a word that names nothing.
#[derive(Template)]
#[template(path = "search.html")]
struct SearchPage {
    frame: Frame,
    word: String,
    /// The query of the items that contain the word, for who may look for it.
    query: Option<String>,
}

/// Leads to what the word names.
pub(super) async fn search(
    visit: Visit,
    parameters: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let fields = FormFields::new(parameters?.0);
    let word = fields.get("q").unwrap_or_default();
    if word.is_empty() {
        return go_to("items");
    }
    if let Some(address) = found(&visit, word).await? {
        return go_to(&address);
    }
    let text = Filter { text: Some(word.to_owned()), ..Filter::default() };
    let may_search = visit.caller.require_to_search(&text, &visit.settings.redaction).is_ok();
    let query = may_search.then(|| query("text", word));
    shown(&SearchPage { frame: visit.frame("Search", Tab::Items), word: word.to_owned(), query })
}

/// Whether the word could name a group of failures.
fn is_fingerprint(word: &str) -> bool {
    word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The statuses of items whose ordering key has an index.
fn unfinished() -> Vec<Status> {
    vec![Status::Pending, Status::Claimed, Status::Dlq]
}

/// The address of what the word names, beside that of the search.
async fn found(visit: &Visit, word: &str) -> Result<Option<String>, ApiError> {
    if let Some(id) = item(&*visit.state.inspect, word).await? {
        return Ok(Some(format!("items/{id}")));
    }
    let glance = visit.glance().await?;
    if glance.overview.by_type.contains_key(word) || glance.served.iter().any(|served| served == word) {
        return Ok(Some(format!("items?{}", query("type", word))));
    }
    if glance.overview.sagas.contains_key(word) {
        return Ok(Some(format!("items?{}", query("saga", word))));
    }
    Ok(of_some_item(&*visit.state.inspect, word).await?)
}

/// The item of the id or of the idempotency key.
async fn item(store: &dyn Inspect, word: &str) -> Result<Option<ItemId>, StoreError> {
    match word.parse::<ItemId>() {
        Ok(id) if store.get(id).await?.is_some() => Ok(Some(id)),
        _ => item_with_key(store, word).await,
    }
}

/// The address of what the word is to some item: its group of failures, its correlation id, its ordering key, the beginning
/// of its key.
async fn of_some_item(store: &dyn Inspect, word: &str) -> Result<Option<String>, StoreError> {
    let text = || Some(word.to_owned());
    let group = Filter { status: vec![Status::Dlq], fingerprint: text(), ..Filter::default() };
    if is_fingerprint(word) && !store.failures(&group, 1).await?.is_empty() {
        return Ok(Some(format!("failures/{word}")));
    }
    for (name, filter) in [
        ("cid", Filter { cid: text(), ..Filter::default() }),
        ("ordering_key", Filter { status: unfinished(), ordering_key: text(), ..Filter::default() }),
        ("key_prefix", Filter { key_prefix: text(), ..Filter::default() }),
    ] {
        if !store.list(&filter, &Page { limit: 1, before: None }).await?.items.is_empty() {
            return Ok(Some(format!("items?{}", query(name, word))));
        }
    }
    Ok(None)
}
