//! One item: why it is where it is, what happened to it, the other items of its cause, and what it contains.

use askama::Template;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;

use outbox_item::{Item, ItemId, ItemSummary, Status};
use outbox_store::{Filter, Inspect, ItemDetails, Page, item_with_key};

use crate::access::Right;
use crate::answers::{Sight, Visible};
use crate::page::actions::{Choice, choices_for_item, may_try, tried_attempt};
use crate::page::content::{ShownContent, header_rows, metadata_text, of_bytes, of_payload};
use crate::page::frame::{Frame, Tab};
use crate::page::line::{InLine, place_in_line};
use crate::page::timeline::{Event, timeline};
use crate::page::visit::{Visit, shown};
use crate::page::why::sentence;
use crate::page::words::{Moment, counted, cut, status_class};
use crate::problem::ApiError;

/// Other items of the same correlation id that are listed.
const RELATED_MAX: u32 = 20;

/// One item, as its template reads it.
#[derive(Template)]
#[template(path = "item.html")]
#[expect(clippy::struct_excessive_bools, reason = "each is a part of the page that is shown or not")]
struct OneItemPage {
    frame: Frame,
    id: String,
    item_type: String,
    status: &'static str,
    class: &'static str,
    why: String,
    /// What is ahead of it in its ordering key, or behind it.
    line: Option<InLine>,
    /// The group of like failures that it is in.
    group: Option<GroupLink>,
    /// The message of its last failure, where it is not the reason itself.
    last_error: Option<String>,
    maybe_executed: bool,
    /// Whether an operator gave its effects new keys.
    has_new_keys: bool,
    facts: Vec<Fact>,
    events: Vec<Event>,
    left_out: u64,
    contains: ItemContent,
    related: RelatedItems,
    copies: Vec<Copied>,
    choices: Vec<Choice>,
    may_enqueue: bool,
    may_try: bool,
}

/// A fact about the item: its name, its value, and where the value leads.
struct Fact {
    name: &'static str,
    value: String,
    path: Option<String>,
}

/// What the item contains, as far as the reader may see it.
struct ItemContent {
    payload: Option<ShownContent>,
    content_type: String,
    result: Option<ShownContent>,
    headers: Vec<(String, String)>,
    metadata: Option<String>,
    is_hidden: bool,
}

/// The items of the same correlation id.
struct RelatedItems {
    /// The newest, oldest first; none where there is no other.
    rows: Vec<RelatedRow>,
    has_older: bool,
    /// The query of all of them.
    query: String,
}

/// Another item of the same correlation id.
struct RelatedRow {
    id: String,
    item_type: String,
    status: &'static str,
    class: &'static str,
    saga: String,
    is_here: bool,
    enqueued: Moment,
}

/// Where like failures are: a path from the root of the host, and how many they are.
struct GroupLink {
    path: String,
    text: String,
}

/// The group of a dead item, or those of its type where it waits for another attempt.
async fn group(
    visit: &Visit,
    ItemDetails { item, failed_attempts, .. }: &ItemDetails,
) -> Result<Option<GroupLink>, ApiError> {
    match item.status {
        Status::Pending if !failed_attempts.is_empty() => {
            let path = format!("cockpit/failures?status=PENDING&{}", query("type", &item.item_type));
            Ok(Some(GroupLink { path, text: "See what else waits for another attempt".to_owned() }))
        }
        Status::Dlq => group_of_dead(&*visit.state.inspect, item.id).await,
        _ => Ok(None),
    }
}

async fn group_of_dead(store: &dyn Inspect, id: ItemId) -> Result<Option<GroupLink>, ApiError> {
    let dead = Filter { status: vec![Status::Dlq], ..Filter::default() };
    let own = store.failures(&Filter { ids: vec![id], ..dead.clone() }, 1).await?.pop();
    let Some(fingerprint) = own.map(|group| group.fingerprint) else { return Ok(None) };
    let all = store.failures(&Filter { fingerprint: Some(fingerprint.clone()), ..dead }, 1).await?.pop();
    let text = match all.map_or(1, |group| group.count) {
        1 => "No other item failed alike: see the group".to_owned(),
        items => format!("{} failed alike: see the group", counted(items - 1, "other item")),
    };
    Ok(Some(GroupLink { path: format!("cockpit/failures/{fingerprint}"), text }))
}

/// A text to copy.
struct Copied {
    name: &'static str,
    text: String,
    /// The address of the document that has the text, from the root of the host.
    path: Option<String>,
}

/// One item.
pub(super) async fn item(visit: Visit, id: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let details = found(&visit, &id?.0).await?;
    let (glance, sight) = (visit.glance().await?, visit.sight());
    let group = group(&visit, &details).await?;
    let details = sight.redacted(details);
    let line = place_in_line(&*visit.state.inspect, &details.item).await?;
    let related = related(&visit, &details.item).await?;
    let ItemDetails { item, .. } = &details;
    shown(&OneItemPage {
        frame: visit.live_frame(&format!("Item {}", item.id), Tab::Items),
        id: item.id.to_string(),
        item_type: item.item_type.clone(),
        status: item.status.as_str(),
        class: status_class(item.status),
        why: sentence(item, &glance, &sight),
        line,
        group,
        last_error: last_error(item, &sight),
        maybe_executed: item.maybe_executed && item.status != Status::Done,
        has_new_keys: item.effect_generation > 0,
        facts: facts(item),
        left_out: details.failed_attempts_total.saturating_sub(details.failed_attempts.len() as u64),
        contains: contains(item, &sight),
        related,
        copies: copies(&visit, item),
        choices: choices_for_item(&details, &visit.caller),
        may_try: may_try(&visit.caller) && tried_attempt(&details).is_some(),
        may_enqueue: visit.caller.may(Right::Enqueue) && visit.caller.may(Right::ReadPayload),
        events: timeline(&details, &sight),
    })
}

/// The item of an id, or of an idempotency key.
pub(super) async fn found(visit: &Visit, word: &str) -> Result<ItemDetails, ApiError> {
    let store = &visit.state.inspect;
    if let Ok(id) = word.parse()
        && let Some(details) = store.get(id).await?
    {
        return Ok(details);
    }
    let by_key = match item_with_key(&**store, word).await? {
        Some(id) => store.get(id).await?,
        None => None,
    };
    by_key.ok_or_else(|| ApiError::NoItem(word.to_owned()))
}

fn last_error(item: &Item, sight: &Sight) -> Option<String> {
    match sight.content(item.last_error.clone()) {
        Visible::Shown(message) if item.status != Status::Dlq => message,
        _ => None,
    }
}

fn contains(item: &Item, sight: &Sight) -> ItemContent {
    let is_hidden = sight.content(()).is_hidden();
    let payload = || of_payload(&item.payload, &item.content_type);
    ItemContent {
        payload: (!is_hidden).then(payload),
        content_type: item.content_type.clone(),
        result: item.result.as_deref().filter(|_| !is_hidden).map(of_bytes),
        headers: header_rows(item, sight),
        metadata: metadata_text(item, sight),
        is_hidden,
    }
}

/// The query of an address with one parameter.
pub(super) fn query(name: &str, value: &str) -> String {
    serde_urlencoded::to_string([(name, value)]).unwrap_or_default()
}

fn facts(item: &Item) -> Vec<Fact> {
    let list = |name: &str, value: &str| Some(format!("cockpit/items?{}", query(name, value)));
    let mut facts = vec![
        Fact { name: "type", value: item.item_type.clone(), path: list("type", &item.item_type) },
        Fact { name: "idempotency key", value: item.idem_key.clone(), path: None },
        Fact { name: "correlation id", value: item.cid.clone(), path: list("cid", &item.cid) },
    ];
    for (name, parameter, value) in [
        ("saga", "saga", &item.saga),
        ("ordering key", "ordering_key", &item.ordering_key),
        ("fairness key", "fairness_key", &item.fairness_key),
    ] {
        facts.extend(value.iter().map(|value| Fact { name, value: value.clone(), path: list(parameter, value) }));
    }
    let count = |name, number: u32| Fact { name, value: number.to_string(), path: None };
    facts.push(count("attempts", item.attempts));
    facts.push(count("claims", item.deliveries));
    let rare = [("replays", item.replays), ("losses", item.losses)];
    facts.extend(rare.into_iter().filter(|(_, number)| *number > 0).map(|(name, number)| count(name, number)));
    facts.extend(item.handler_digest.clone().map(|value| Fact { name: "handler", value, path: None }));
    facts
}

async fn related(visit: &Visit, item: &Item) -> Result<RelatedItems, ApiError> {
    let filter = Filter { cid: Some(item.cid.clone()), ..Filter::default() };
    let page = visit.state.inspect.list(&filter, &Page { limit: RELATED_MAX, before: None }).await?;
    let has_older = page.next.is_some();
    let row = |ItemSummary { item: other, .. }: ItemSummary| RelatedRow {
        id: other.id.to_string(),
        item_type: other.item_type,
        status: other.status.as_str(),
        class: status_class(other.status),
        saga: other.saga.unwrap_or_default(),
        is_here: other.id == item.id,
        enqueued: Moment::at(other.created_at),
    };
    let rows: Vec<_> = page.items.into_iter().rev().map(row).collect();
    let rows = if rows.len() > 1 { rows } else { Vec::new() };
    Ok(RelatedItems { rows, has_older, query: query("cid", &item.cid) })
}

fn copies(visit: &Visit, item: &Item) -> Vec<Copied> {
    let path = format!("items/{}", item.id);
    // An argument of curl would show the token to everybody on the machine.
    let (token, header) = if visit.settings.access.is_closed() {
        ("printf 'Authorization: Bearer %s' \"$OUTBOX_TOKEN\" | ", "-H @- ")
    } else {
        ("", "")
    };
    vec![
        Copied { name: "JSON", text: String::new(), path: Some(path.clone()) },
        Copied { name: "curl", text: format!("{token}curl {header}\"$OUTBOX_URL/{path}\""), path: None },
        Copied { name: "command", text: format!("outbox show {}", item.id), path: None },
        Copied { name: "key", text: cut(&item.idem_key, 255), path: None },
    ]
}
