//! The store's promises to workers, operators and applications, call by call.
//!
//! It decides whether a call runs on the writing thread or on a reading connection, and what errors say was tried. The
//! file of each topic does the work.

use std::collections::BTreeMap;

use async_trait::async_trait;
use rusqlite::Transaction;
use tokio::sync::watch as channel;

use outbox_core::{PresentPlugin, Settlement, StateVersion, TypeOwner};
use outbox_item::{ItemId, Millis, NewItem, validate_items};
use outbox_store::engine::ActionOutcomes;
use outbox_store::engine::counters::Counter;
use outbox_store::engine::operate_flow::{self, OperateSteps};
use outbox_store::engine::operator_actions::ActionContext;
use outbox_store::{
    Action, Alert, AnewRequest, AuditEntry, AuditQuery, BatchMode, Changes, ClaimBatch, ClaimRef, ClaimRequest,
    ClaimToken, ClearStateRequest, ControlReport, ControlRequest, Enqueue, EnqueueReport, Execution, ExportSnapshot,
    FailureGroup, Filter, HistoryMinute, ImportReport, Inspect, ItemDetails, ItemPage, Job, JobId, JobOutcome, JobPace,
    KeyPause, KeyTotals, LongPoll, Maintain, MaintenanceReport, MisplacedItem, Operate, OperateReport, OperateRequest,
    Overview, OwnerRecord, Page, Pause, PluginData, Pod, QuarantineRecord, Queue, RatedType, ReachedRates, Record,
    Renewal, RenewedLease, Retention, RetriesAhead, Selection, SettleRequest, Signal, SignalSeq, StateEntry,
    StateQuery, StateTotal, StoreError, StuckEntry, StuckQuery, Transfer, Violation,
};

use crate::complete::CompletionRow;
use crate::connection::{database_bytes, wal_bytes};
use crate::error::unavailable;
use crate::export_snapshot::SqliteSnapshot;
use crate::write_tx::WriteTx;
use crate::{
    SqliteStore, abandon, alerts, audit, backlog, bad_rows, control, enqueue, expire, history, jobs, key_totals,
    maintain, operate, ordering, overview, owners, plugin_state, pods, quarantine, queries, rates, renew, retrying,
    settle, stuck, transfer,
};

impl Changes for SqliteStore {
    fn subscribe(&self) -> channel::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[async_trait]
impl Enqueue for SqliteStore {
    async fn enqueue(&self, mut items: Vec<NewItem>, mode: BatchMode) -> Result<EnqueueReport, StoreError> {
        if items.len() == 1
            && let Some(item) = items.pop()
        {
            validate_items(std::slice::from_ref(&item))?;
            let created = self.writer.enqueue(item).await?;
            return Ok(EnqueueReport { ids: vec![Some(created.id)], created: usize::from(created.is_new) });
        }
        self.writer.run("enqueueing items", move |tx| enqueue::enqueue(tx, &items, mode)).await
    }

    async fn count_violation(&self, violation: Violation) -> Result<(), StoreError> {
        let count = move |tx: &mut WriteTx<'_>| {
            tx.count(Counter::Violation(violation), 1);
            Ok(())
        };
        self.writer.run("counting a contract violation", count).await
    }
}

#[async_trait]
impl Queue for SqliteStore {
    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimBatch, StoreError> {
        let request = request.clone();
        self.writer.run("claiming items", move |tx| bad_rows::claim(tx, &request)).await
    }

    async fn claim_long_poll(&self, request: &ClaimRequest) -> Result<(ClaimBatch, Option<LongPoll>), StoreError> {
        self.writer.claim(request.clone()).await
    }

    async fn abandon(&self, tokens: &[ClaimToken]) -> Result<u32, StoreError> {
        let tokens = tokens.to_vec();
        self.writer.run("giving back an unanswered claim", move |tx| abandon::abandon(tx, &tokens)).await
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<RenewedLease>, StoreError> {
        let renewals = renewals.to_vec();
        self.writer.run("renewing leases", move |tx| renew::renew(tx, &renewals)).await
    }

    async fn settle(&self, claim: &ClaimRef, request: SettleRequest) -> Result<(), StoreError> {
        let claim = claim.clone();
        match request.settlement {
            Settlement::Done { result, writes } if writes.is_empty() => {
                self.writer.complete(CompletionRow::new(claim, result, request.handler_digest)).await
            }
            _ => self.writer.run("settling a claim", move |tx| settle::settle(tx, &claim, &request)).await,
        }
    }

    async fn expire_leases_until(&self, latest: Millis, spared: &[ClaimToken]) -> Result<u32, StoreError> {
        let spared = spared.to_vec();
        self.writer.run("ending expired leases", move |tx| expire::expire_leases(tx, latest, &spared)).await
    }

    async fn send_alert(&self, alert: &Alert) -> Result<(), StoreError> {
        let alert = alert.clone();
        self.writer.run("announcing an alert", move |tx| alerts::send_alert(tx, &alert)).await
    }
}

#[async_trait]
impl Inspect for SqliteStore {
    async fn now(&self) -> Result<Millis, StoreError> {
        Ok((self.clock)())
    }

    async fn list(&self, filter: &Filter, page: &Page) -> Result<ItemPage, StoreError> {
        let (filter, page) = (filter.clone(), *page);
        self.read_pool.run("listing items", move |tx| queries::list(tx, &filter, page)).await
    }

    async fn get(&self, id: ItemId) -> Result<Option<ItemDetails>, StoreError> {
        self.read_pool.run("reading an item", move |tx| queries::get(tx, id)).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.probe_pool.run("asking whether the database answers", queries::probe).await?;
        self.writer.probe()
    }

    async fn signals(&self, after: SignalSeq, limit: u32) -> Result<Vec<Signal>, StoreError> {
        self.read_pool.run("reading signals", move |tx| queries::signals(tx, after, limit)).await
    }

    async fn newest_signal(&self) -> Result<SignalSeq, StoreError> {
        self.read_pool.run("asking for the newest signal", queries::newest_signal).await
    }

    async fn overview(&self) -> Result<Overview, StoreError> {
        let now = (self.clock)();
        let mut overview = self.read_pool.run("counting items", move |tx| overview::overview(tx, now)).await?;
        overview.database_bytes = database_bytes(self.read_pool.path());
        overview.wal_bytes = wal_bytes(self.read_pool.path());
        Ok(overview)
    }

    async fn jobs(&self, id: Option<JobId>, limit: u32) -> Result<Vec<Job>, StoreError> {
        self.read_pool.run("reading jobs", move |tx| jobs::list(tx, id, limit)).await
    }

    async fn job_outcome(&self, id: JobId) -> Result<JobOutcome, StoreError> {
        self.read_pool.run("reading what became of a job's items", move |tx| jobs::outcome(tx, id)).await
    }

    async fn history(&self, since: Millis) -> Result<Vec<HistoryMinute>, StoreError> {
        self.read_pool.run("reading the history", move |tx| history::since(tx, since)).await
    }

    async fn retries_ahead(&self) -> Result<RetriesAhead, StoreError> {
        let now = (self.clock)();
        self.read_pool.run("looking ahead to retries", move |tx| backlog::retries_ahead(tx, now)).await
    }

    async fn reached_rates(&self, types: &[RatedType]) -> Result<BTreeMap<String, ReachedRates>, StoreError> {
        let (types, now) = (types.to_vec(), (self.clock)());
        self.read_pool.run("looking for rates that hold items back", move |tx| rates::reached(tx, &types, now)).await
    }

    async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        self.read_pool.run("reading what is paused", |tx| control::pauses(tx)).await
    }

    async fn blocking(&self, ordering_key: &str, limit: u32) -> Result<Vec<ItemId>, StoreError> {
        let key = ordering_key.to_owned();
        self.read_pool.run("reading what blocks a key", move |tx| ordering::blocking(tx, &key, limit)).await
    }

    async fn key_pauses(&self) -> Result<Vec<KeyPause>, StoreError> {
        self.read_pool.run("reading what is paused", |tx| control::key_pauses(tx)).await
    }

    async fn key_totals(&self, item_type: Option<&str>, limit: u32) -> Result<Vec<KeyTotals>, StoreError> {
        let item_type = item_type.map(str::to_owned);
        let count = move |tx: &Transaction<'_>| key_totals::read(tx, item_type.as_deref(), limit);
        self.read_pool.run("counting items by fairness key", count).await
    }

    async fn failures(&self, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, StoreError> {
        let filter = filter.clone();
        self.read_pool.run("grouping failures", move |tx| queries::failure_groups(tx, &filter, limit)).await
    }

    async fn retrying_failures(&self, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, StoreError> {
        let filter = filter.clone();
        self.read_pool.run("grouping failures", move |tx| retrying::groups(tx, &filter, limit)).await
    }

    async fn stuck(&self, query: &StuckQuery) -> Result<Vec<StuckEntry>, StoreError> {
        let (query, now) = (query.clone(), (self.clock)());
        self.read_pool.run("looking for what is stuck", move |tx| stuck::stuck(tx, &query, now)).await
    }

    async fn misplaced(&self, limit: u32) -> Result<Vec<MisplacedItem>, StoreError> {
        self.read_pool.run("comparing items with their places", move |tx| queries::misplaced(tx, limit)).await
    }

    async fn list_quarantine(&self) -> Result<Vec<QuarantineRecord>, StoreError> {
        self.read_pool.run("reading the quarantine", |tx| quarantine::list(tx)).await
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let query = query.clone();
        self.read_pool.run("reading the audit trail", move |tx| audit::list(tx, &query)).await
    }

    async fn state_totals(&self) -> Result<Vec<StateTotal>, StoreError> {
        self.read_pool.run("reading how much state there is", |tx| plugin_state::totals(tx)).await
    }

    async fn list_state(&self, query: &StateQuery) -> Result<Vec<StateEntry>, StoreError> {
        let query = query.clone();
        self.read_pool.run("listing a plugin's state", move |tx| plugin_state::list(tx, &query)).await
    }
}

#[async_trait]
impl Operate for SqliteStore {
    async fn operate(&self, request: &OperateRequest) -> Result<OperateReport, StoreError> {
        operate_flow::operate(self, request).await
    }

    async fn start_job(&self, request: &OperateRequest, pace: JobPace) -> Result<Option<Job>, StoreError> {
        jobs::start(self, request, pace).await
    }

    async fn run_job_batch(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        jobs::run_batch(self, id).await
    }

    async fn enqueue_anew(&self, request: &AnewRequest) -> Result<EnqueueReport, StoreError> {
        let request = request.clone();
        self.writer.run("enqueueing an item anew", move |tx| enqueue::enqueue_anew(tx, &request)).await
    }

    async fn control(&self, request: &ControlRequest) -> Result<ControlReport, StoreError> {
        let mut report = ControlReport::default();
        loop {
            let step = request.clone();
            let step = self.writer.run("carrying out a command", move |tx| control::control(tx, &step)).await?;
            if !report.add_step(step, request) {
                return Ok(report);
            }
        }
    }

    async fn lift_quarantine(&self, digest: &str, actor: &str, reason: Option<&str>) -> Result<bool, StoreError> {
        let (digest, actor, reason) = (digest.to_owned(), actor.to_owned(), reason.map(str::to_owned));
        let release = move |tx: &mut WriteTx<'_>| quarantine::release(tx, &digest, &actor, reason.as_deref());
        self.writer.run("lifting a quarantine", release).await
    }

    async fn clear_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError> {
        operate_flow::clear_state(self, request).await
    }
}

#[async_trait]
impl OperateSteps for SqliteStore {
    async fn preview(&self, selection: &Selection, action: Action) -> Result<OperateReport, StoreError> {
        let (selection, now) = (selection.clone(), (self.clock)());
        let preview = move |tx: &Transaction<'_>| operate::preview(tx, &selection, action, now);
        self.read_pool.run("looking what an order would do", preview).await
    }

    async fn change_items(&self, context: &ActionContext, ids: &[ItemId]) -> Result<ActionOutcomes, StoreError> {
        let (context, ids) = (context.clone(), ids.to_vec());
        let change = move |tx: &mut WriteTx<'_>| operate::change_items(tx, &context, &ids);
        self.writer.run("changing items", change).await
    }

    async fn count_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError> {
        let request = request.clone();
        self.read_pool.run("counting a plugin's state", move |tx| plugin_state::count(tx, &request)).await
    }

    async fn clear_some_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError> {
        let request = request.clone();
        self.writer.run("clearing a plugin's state", move |tx| plugin_state::clear_some(tx, &request)).await
    }

    async fn due_jobs(&self) -> Result<Vec<JobId>, StoreError> {
        let now = (self.clock)();
        self.read_pool.run("looking for running jobs", move |tx| jobs::due(tx, now)).await
    }
}

#[async_trait]
impl PluginData for SqliteStore {
    async fn read_state(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StoreError> {
        let (plugin, key) = (plugin.to_owned(), key.to_owned());
        self.read_pool.run("reading a plugin's state", move |tx| plugin_state::read(tx, &plugin, &key)).await
    }

    async fn quarantine(&self, digest: &str, plugin: &str, reason: &str) -> Result<(), StoreError> {
        let [digest, plugin, reason] = [digest, plugin, reason].map(str::to_owned);
        let add = move |tx: &mut WriteTx<'_>| quarantine::add(tx, &digest, &plugin, &reason);
        self.writer.run("quarantining a component", add).await
    }

    async fn exchange_owners(
        &self,
        role: Option<&str>,
        present: &[PresentPlugin],
    ) -> Result<Vec<TypeOwner>, StoreError> {
        owners::exchange(self, role.unwrap_or_default().to_owned(), present.to_vec()).await
    }

    async fn list_owners(&self) -> Result<Vec<OwnerRecord>, StoreError> {
        self.read_pool.run("reading the owners of types", |tx| owners::list(tx)).await
    }
}

#[async_trait]
impl Maintain for SqliteStore {
    async fn run_maintenance(&self, retention: &Retention) -> Result<MaintenanceReport, StoreError> {
        maintain::run_maintenance(self, *retention).await
    }

    async fn heartbeat(&self, pod: &Pod) -> Result<(), StoreError> {
        let pod = pod.clone();
        self.writer.run("writing a heartbeat", move |tx| pods::heartbeat(tx, &pod)).await
    }

    async fn end_heartbeat(&self, instance: &str) -> Result<(), StoreError> {
        let (instance, tried) = (instance.to_owned(), "ending the heartbeats");
        self.writer.run(tried, move |tx| pods::end(tx, &instance).map_err(unavailable(tried))).await
    }

    async fn add_history(&self, rows: &[HistoryMinute]) -> Result<(), StoreError> {
        let (rows, tried) = (rows.to_vec(), "adding to the history");
        self.writer.run(tried, move |tx| history::add(tx.connection, &rows).map_err(unavailable(tried))).await
    }
}

#[async_trait]
impl Transfer for SqliteStore {
    async fn begin_export(&self) -> Result<Box<dyn ExportSnapshot>, StoreError> {
        Ok(Box::new(SqliteSnapshot::begin(self.read_pool.path())?))
    }

    async fn import(&self, records: Vec<Record>, execution: Execution) -> Result<ImportReport, StoreError> {
        self.writer.run("importing records", move |tx| transfer::import(tx, &records, execution)).await
    }
}
