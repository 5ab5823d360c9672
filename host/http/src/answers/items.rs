//! Items: a page of them, and one with its history.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use outbox_item::{Item, ItemId, ItemSummary, Millis, PayloadEncoding, Status, payload_fields};
use outbox_store::{ItemDetails, ItemPage};

use crate::answers::attempts::AttemptView;
use crate::answers::audit::AuditEntryView;
use crate::answers::sight::{Sight, Visible};
use crate::description::{Id, StatusWord, UnixMillis};

/// What a list and the page of an item have of an item.
#[derive(Serialize, ToSchema)]
struct ItemFacts {
    /// The number that the store gave to it.
    #[schema(value_type = Id)]
    id: ItemId,
    /// Its idempotency key.
    idem_key: String,
    /// Which effect it asks for.
    r#type: String,
    /// Where it is.
    #[schema(value_type = StatusWord)]
    status: Status,
    /// The media type of its payload.
    content_type: String,
    /// What the handler sees beside the payload.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = BTreeMap<String, String>, required = false)]
    headers: Visible<BTreeMap<String, String>>,
    /// Notes for operators.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = Object, required = false)]
    metadata: Visible<Map<String, Value>>,
    /// Its correlation id.
    cid: String,
    /// The saga of which it is a step.
    #[schema(required = true)]
    saga: Option<String>,
    /// Items with the same ordering key are handled one at a time.
    #[schema(required = true)]
    ordering_key: Option<String>,
    /// Who shares the type with others, such as a tenant.
    #[schema(required = true)]
    fairness_key: Option<String>,
    /// Attempts since it was enqueued or replayed.
    attempts: u32,
    /// Claims since it was enqueued.
    deliveries: u32,
    /// How often an operator replayed it.
    replays: u32,
    /// Claims whose lease ran out.
    losses: u32,
    /// When it can be claimed, in Unix milliseconds, like all times.
    #[schema(value_type = UnixMillis)]
    available_at: Millis,
    /// When its present claim began.
    #[schema(value_type = Option<UnixMillis>, required = true)]
    claimed_at: Option<Millis>,
    /// The process that holds the claim.
    #[schema(required = true)]
    claimed_by: Option<String>,
    /// When the lease of the claim ends.
    #[schema(value_type = Option<UnixMillis>, required = true)]
    lease_until: Option<Millis>,
    /// Whether an earlier attempt may have had its effect.
    maybe_executed: bool,
    /// The message of the last failed attempt.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = Option<String>, required = false)]
    last_error: Visible<Option<String>>,
    /// When it was enqueued.
    #[schema(value_type = UnixMillis)]
    created_at: Millis,
    /// When it became DONE.
    #[schema(value_type = Option<UnixMillis>, required = true)]
    done_at: Option<Millis>,
    /// When it was dead-lettered.
    #[schema(value_type = Option<UnixMillis>, required = true)]
    dead_at: Option<Millis>,
    /// The SHA-256 of the component that made the last attempt.
    #[schema(required = true)]
    handler_digest: Option<String>,
}

impl ItemFacts {
    fn of(item: Item, sight: &Sight) -> Self {
        Self {
            id: item.id,
            idem_key: item.idem_key,
            r#type: item.item_type,
            status: item.status,
            content_type: item.content_type,
            headers: sight.content(item.headers),
            metadata: sight.content(item.metadata),
            cid: item.cid,
            saga: item.saga,
            ordering_key: item.ordering_key,
            fairness_key: item.fairness_key,
            attempts: item.attempts,
            deliveries: item.deliveries,
            replays: item.replays,
            losses: item.losses,
            available_at: item.available_at,
            claimed_at: item.claimed_at,
            claimed_by: item.claimed_by,
            lease_until: item.lease_until,
            maybe_executed: item.maybe_executed,
            last_error: sight.content(item.last_error),
            created_at: item.created_at,
            done_at: item.done_at,
            dead_at: item.dead_at,
            handler_digest: item.handler_digest,
        }
    }
}

/// An item of a list: the sizes of its payload and its result, which can be large.
#[derive(Serialize, ToSchema)]
struct ItemSummaryView {
    #[serde(flatten)]
    facts: ItemFacts,
    /// The size of its payload.
    payload_bytes: u64,
    /// The size of its result, if it has one.
    #[schema(required = true)]
    result_bytes: Option<u64>,
    /// The members that are left out, because the caller lacks the right `read-payload`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    hidden: Vec<&'static str>,
}

impl ItemSummaryView {
    fn of(ItemSummary { item, payload_bytes, result_bytes }: ItemSummary, sight: &Sight) -> Self {
        let hidden = sight.hidden(&["headers", "metadata", "last_error"]);
        Self { facts: ItemFacts::of(item, sight), payload_bytes, result_bytes, hidden }
    }
}

/// A part of a list of items.
#[derive(Serialize, ToSchema)]
pub(crate) struct ItemPageView {
    /// The items, newest first.
    items: Vec<ItemSummaryView>,
    /// The value of `before` for the next page; `null` when there is none.
    #[schema(value_type = Option<Id>, required = true)]
    next: Option<ItemId>,
    /// How many of the newest items of each status were looked at, where the page ended there before it was full: the next
    /// page goes on from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, required = false)]
    looked_at: Option<u32>,
}

impl ItemPageView {
    /// The page as its reader sees it.
    pub(crate) fn of(ItemPage { items, next, looked_at }: ItemPage, sight: &Sight) -> Self {
        Self { items: items.into_iter().map(|item| ItemSummaryView::of(item, sight)).collect(), next, looked_at }
    }
}

/// One item with its history.
#[derive(Serialize, ToSchema)]
pub(crate) struct ItemDetailsView {
    #[serde(flatten)]
    facts: ItemFacts,
    /// Its payload, where that is JSON; otherwise a string of base64.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = Value, required = false)]
    payload: Visible<Box<RawValue>>,
    /// `base64` where the payload is not JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, required = false)]
    payload_encoding: Option<PayloadEncoding>,
    /// What its handler returned, where that is JSON; otherwise a string of base64.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = Option<Value>, required = false)]
    result: Visible<Option<Box<RawValue>>>,
    /// The newest attempts that did not end DONE, oldest first.
    failed_attempts: Vec<AttemptView>,
    /// How many such attempts the history has.
    failed_attempts_total: u64,
    /// The newest of what operators did to it, at most 100, oldest first; `GET /audit?item=` has all.
    audit: Vec<AuditEntryView>,
    /// The members that are left out, because the caller lacks the right `read-payload`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    hidden: Vec<&'static str>,
}

impl ItemDetailsView {
    /// The item as its reader sees it.
    pub(crate) fn of(details: ItemDetails, sight: &Sight) -> Self {
        let ItemDetails { mut item, failed_attempts, failed_attempts_total, audit } = sight.redacted(details);
        let (payload, encoding) = payload_fields(&std::mem::take(&mut item.payload));
        let result = item.result.take().map(|bytes| payload_fields(&bytes).0);
        Self {
            facts: ItemFacts::of(item, sight),
            payload: sight.content(payload),
            payload_encoding: (encoding == PayloadEncoding::Base64).then_some(encoding),
            result: sight.content(result),
            failed_attempts: failed_attempts.into_iter().map(|attempt| AttemptView::of(attempt, sight)).collect(),
            failed_attempts_total,
            audit: audit.into_iter().map(|entry| AuditEntryView::of(entry, sight)).collect(),
            hidden: sight.hidden(&["payload", "headers", "metadata", "result", "last_error"]),
        }
    }
}
