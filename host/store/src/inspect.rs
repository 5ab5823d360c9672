//! Reading a store: items, signals, totals, jobs, failures, what is stuck, and the audit trail.
//!
//! Nothing here changes a store. This file does not know how callers show what they read.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;

use outbox_core::FailedAttempt;
use outbox_item::{Item, ItemId, ItemSummary, Millis};

use crate::audit::{AuditEntry, AuditQuery};
use crate::changes::Changes;
use crate::control::{KeyPause, Pause};
use crate::error::StoreError;
use crate::filter::{Filter, Page};
use crate::history::HistoryMinute;
use crate::ids::{JobId, SignalSeq};
use crate::jobs::{Job, JobOutcome};
use crate::key_totals::KeyTotals;
use crate::look::LookEnd;
use crate::overview::Overview;
use crate::plugin_data::{QuarantineRecord, StateEntry, StateQuery, StateTotal};
use crate::rates::{RatedType, ReachedRates};
use crate::stuck::{StuckEntry, StuckQuery};

/// What readers ask. The HTTP server calls it for each request that reads, the metrics and the cockpit every few
/// seconds, the command line once for each command.
///
/// A caller may not assume that two calls see the same moment, nor that what a call returned still holds: workers go
/// on meanwhile. Every answer is bounded by a limit or by the number of types, plugins and processes.
#[async_trait]
pub trait Inspect: Changes {
    /// The store's present time.
    async fn now(&self) -> Result<Millis, StoreError>;

    /// Errors unless the database answers a read, and took the last write of this process. Uses a connection of its
    /// own, so it waits for no other call. Called by probes, several times a minute.
    async fn probe(&self) -> Result<(), StoreError>;

    /// The items that match, newest first, without their payloads and results. A page ends at its limit, or before it
    /// holds more than about [`PAGE_BYTES`]; it has one item at least.
    async fn list(&self, filter: &Filter, page: &Page) -> Result<ItemPage, StoreError>;

    /// One item with its history. `None` when there is no such item.
    async fn get(&self, id: ItemId) -> Result<Option<ItemDetails>, StoreError>;

    /// The signals after `after`, oldest first, at most `limit`.
    async fn signals(&self, after: SignalSeq, limit: u32) -> Result<Vec<Signal>, StoreError>;

    /// The number of the newest signal; [`SignalSeq::START`] when there is none. One search in an index.
    async fn newest_signal(&self) -> Result<SignalSeq, StoreError>;

    /// Totals for the cockpit and the metrics, at a cost that does not grow with finished items.
    async fn overview(&self) -> Result<Overview, StoreError>;

    /// The figures of each minute and type, of the minutes that began at `since` or later. By minute, then by type.
    async fn history(&self, since: Millis) -> Result<Vec<HistoryMinute>, StoreError>;

    /// The newest jobs, or only this one.
    async fn jobs(&self, id: Option<JobId>, limit: u32) -> Result<Vec<Job>, StoreError>;

    /// What became of the items that the job changed.
    async fn job_outcome(&self, id: JobId) -> Result<JobOutcome, StoreError>;

    /// When items that wait for another attempt are due in the next hour. Looks at [`RETRIES_LOOKED_AT`] of those that
    /// wait for one at most.
    async fn retries_ahead(&self) -> Result<RetriesAhead, StoreError>;

    /// The rates that hold due items of these types back, by type. Looks at the fairness keys of
    /// [`DUE_KEYS_LOOKED_AT`](crate::DUE_KEYS_LOOKED_AT) due items of a type at most, those that are due for the longest time.
    async fn reached_rates(&self, types: &[RatedType]) -> Result<BTreeMap<String, ReachedRates>, StoreError>;

    /// The types that are paused, by name.
    async fn pauses(&self) -> Result<Vec<Pause>, StoreError>;

    /// The fairness keys that are paused, by name.
    async fn key_pauses(&self) -> Result<Vec<KeyPause>, StoreError>;

    /// The dead items that block the ordering key, by ascending id, at most `limit`.
    async fn blocking(&self, ordering_key: &str, limit: u32) -> Result<Vec<ItemId>, StoreError>;

    /// The fairness keys with unfinished or dead items, of this type or of all, those with the most waiting items first,
    /// at most `limit`. Reads every waiting, claimed and dead item once: for people who ask, not for metrics.
    async fn key_totals(&self, item_type: Option<&str>, limit: u32) -> Result<Vec<KeyTotals>, StoreError>;

    /// The DLQ items that match, grouped by their failure, the largest group first.
    async fn failures(&self, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, StoreError>;

    /// The PENDING items that match and have failed before, grouped by their last failure, the largest group first.
    async fn retrying_failures(&self, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, StoreError>;

    /// What is stuck, why, and what helps; a bounded number of each kind.
    async fn stuck(&self, query: &StuckQuery) -> Result<Vec<StuckEntry>, StoreError>;

    /// Items that are not in exactly one of the places that a status is read from, by ascending id. Reads every item
    /// once, for `doctor` and for tests.
    async fn misplaced(&self, limit: u32) -> Result<Vec<MisplacedItem>, StoreError>;

    /// The quarantined components, the newest first. Every process asks every few seconds.
    async fn list_quarantine(&self) -> Result<Vec<QuarantineRecord>, StoreError>;

    /// The audit trail, newest first.
    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError>;

    /// How much state each plugin keeps, by name.
    async fn state_totals(&self) -> Result<Vec<StateTotal>, StoreError>;

    /// The keys of a plugin's state, in order.
    async fn list_state(&self, query: &StateQuery) -> Result<Vec<StateEntry>, StoreError>;
}

/// The most items that [`Inspect::retries_ahead`] looks at.
pub const RETRIES_LOOKED_AT: u32 = 10_000;

/// The minutes that [`Inspect::retries_ahead`] is about.
const MINUTES_AHEAD: usize = 60;

/// Items that wait for another attempt, by when they are due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetriesAhead {
    /// How many are due in each of the next 60 minutes.
    pub minutes: Vec<u64>,
    /// Whether every item that waits for another attempt was looked at.
    pub is_whole: bool,
}

impl RetriesAhead {
    /// The items that an engine found: how many are due so many minutes from now, whatever the minute, of `looked_at` items.
    pub fn of_minutes(found: impl IntoIterator<Item = (i64, u64)>, looked_at: u64) -> Self {
        let mut minutes = vec![0; MINUTES_AHEAD];
        for (minute, items) in found {
            if let Some(due) = usize::try_from(minute).ok().and_then(|minute| minutes.get_mut(minute)) {
                *due += items;
            }
        }
        Self { minutes, is_whole: looked_at < u64::from(RETRIES_LOOKED_AT) }
    }
}

/// Bytes of the headers, metadata and other fields of a page's items, about: a page must not fill the memory of a host
/// that many clients ask.
pub const PAGE_BYTES: usize = 4 << 20;

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ItemPage {
    /// The items, newest first.
    pub items: Vec<ItemSummary>,
    /// What [`Page::before`] is for the next page; `None` when there is certainly none.
    pub next: Option<ItemId>,
    /// How many of the newest items were looked at, at most, of each status, where the page ended there before it was
    /// full. The next page goes on from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looked_at: Option<u32>,
}

impl ItemPage {
    /// The page of these items, read for `page`. `is_cut` says that the page ended at its bytes.
    pub fn new(items: Vec<ItemSummary>, page: Page, is_cut: bool) -> Self {
        let is_full = is_cut || items.len() == page.limit as usize;
        let next = items.last().filter(|_| is_full).map(|summary| summary.item.id);
        Self { items, next, looked_at: None }
    }

    /// The same page, of a look that ended there.
    #[must_use]
    pub fn with_end(self, end: Option<LookEnd>) -> Self {
        match end {
            Some(LookEnd { last, looked_at, is_all: false }) if self.next.is_none() => {
                Self { next: Some(last), looked_at: Some(looked_at), ..self }
            }
            _ => self,
        }
    }
}

/// The largest number of failed attempts that is shown of an item.
pub const ATTEMPTS_SHOWN: u32 = 100;

/// The largest number of entries of the audit trail that is shown of an item.
pub const ENTRIES_SHOWN: u32 = 100;

/// An item with its history.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemDetails {
    /// The item.
    #[serde(flatten)]
    pub item: Item,
    /// The newest of its attempts that did not end DONE, also those before a replay, oldest first: at most
    /// [`ATTEMPTS_SHOWN`].
    pub failed_attempts: Vec<FailedAttempt>,
    /// How many such attempts the history has.
    pub failed_attempts_total: u64,
    /// The newest of what operators did to it, oldest first: at most [`ENTRIES_SHOWN`]. The audit trail has all.
    pub audit: Vec<AuditEntry>,
}

/// An item that is not in exactly one of the places that a status is read from, which only a change by hand or a bug
/// causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MisplacedItem {
    /// The item.
    pub id: ItemId,
    /// In how many places it is.
    pub places: u32,
}

/// A notice of a saga's progress, as it is stored and streamed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Signal {
    /// Ascending in the order of commits.
    pub seq: SignalSeq,
    /// The instance id of the process whose transition caused it.
    pub pod: String,
    /// `saga_begin.<Saga>`, `saga_step.<Saga>.<type>` or `saga_end.<Saga>`.
    pub signal: String,
    /// When it was caused.
    pub ts: Millis,
    /// `cid` always; `item_id`, `attempt` and `outcome` for a step; `outcome` for an end.
    pub data: Value,
}

/// DLQ items with the same failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailureGroup {
    /// What [`Filter::fingerprint`] takes.
    pub fingerprint: String,
    /// Their type.
    pub r#type: String,
    /// How many.
    pub count: u64,
    /// When the first of them was dead-lettered; of items that are retried, when the first attempt began.
    pub first_at: Millis,
    /// When the last of them was dead-lettered; of items that are retried, when the last attempt ended.
    pub last_at: Millis,
    /// The newest of them.
    pub sample: ItemId,
    /// The sample's failure code.
    pub code: Option<String>,
    /// The sample's message.
    pub message: Option<String>,
    /// The component that ran the last attempt of the sample.
    pub handler_digest: Option<String>,
}
