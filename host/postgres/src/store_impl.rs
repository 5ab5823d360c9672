//! The store's promises, call by call, by capability.
//!
//! It decides which kind of transaction a call runs in, and what errors say was tried. The file of each topic does the
//! work.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tokio::sync::watch;

use outbox_core::{PresentPlugin, StateVersion, TypeOwner};
use outbox_item::{ItemId, Millis, NewItem, validate_items};
use outbox_store::engine::ActionOutcomes;
use outbox_store::engine::alerts::alert_message;
use outbox_store::engine::operate_flow::{self, OperateSteps};
use outbox_store::engine::operator_actions::ActionContext;
use outbox_store::engine::type_owners::owner_changes;
use outbox_store::{
    Action, Alert, AnewRequest, AuditEntry, AuditQuery, BatchMode, Changes, ClaimBatch, ClaimRef, ClaimRequest,
    ClaimToken, ClearStateRequest, ControlReport, ControlRequest, Enqueue, EnqueueReport, Execution, ExportSnapshot,
    FailureGroup, Filter, HistoryMinute, ImportReport, Inspect, ItemDetails, ItemPage, Job, JobId, JobOutcome, JobPace,
    KeyPause, KeyTotals, Maintain, MaintenanceReport, MisplacedItem, Operate, OperateReport, OperateRequest, Overview,
    OwnerRecord, Page, Pause, PluginData, Pod, QuarantineRecord, Queue, RatedType, ReachedRates, Record, Renewal,
    RenewedLease, Retention, RetriesAhead, Selection, SettleRequest, Signal, SignalSeq, StateEntry, StateQuery,
    StateTotal, StoreError, StuckEntry, StuckQuery, Transfer, Violation,
};

use crate::context::{PgContext, Purpose};
use crate::diagnostics::ServerDiagnostics;
use crate::export_snapshot::PgSnapshot;
use crate::{
    PostgresStore, abandon, alerts, audit, backlog, control, diagnostics, enqueue, expire, history, jobs, key_totals,
    listen, maintain, operate, ordering, overview, owners, plugin_state, pods, quarantine, queries, rates, renew,
    retrying, stuck, transfer, tx,
};

impl PostgresStore {
    /// Reads the facts about the server that matter to the outbox. Errors as every read does.
    pub async fn diagnose(&self) -> Result<ServerDiagnostics, StoreError> {
        let pg = &*self.pg;
        let found: ServerDiagnostics = read!(pg, "examining the server", |tx| diagnostics::diagnose(tx))?;
        Ok(ServerDiagnostics { notifies: pg.tx.notifies, polls_because: listen::diagnose(pg).await, ..found })
    }
}

impl Changes for PostgresStore {
    fn subscribe(&self) -> watch::Receiver<u64> {
        self.pg.changes.subscribe()
    }
}

#[async_trait]
impl Enqueue for PostgresStore {
    async fn enqueue(&self, items: Vec<NewItem>, mode: BatchMode) -> Result<EnqueueReport, StoreError> {
        validate_items(&items)?;
        let (pg, items) = (&*self.pg, &items[..]);
        if let [item] = items
            && let Some(id) = enqueue::enqueue_new(pg, item).await?
        {
            return Ok(EnqueueReport { ids: vec![Some(id)], created: 1 });
        }
        transact!(pg, "enqueueing items", |tx| enqueue::enqueue(tx, items, mode))
    }

    async fn count_violation(&self, violation: Violation) -> Result<(), StoreError> {
        let pg = &*self.pg;
        transact!(pg, "counting a contract violation", |tx| tx::count_violation(tx, violation))
    }
}

#[async_trait]
impl Queue for PostgresStore {
    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimBatch, StoreError> {
        let batch = self.groups.claim(request.clone()).await?;
        if !batch.claims.is_empty() {
            self.pg.claimed.notify_one();
        }
        Ok(batch)
    }

    async fn abandon(&self, tokens: &[ClaimToken]) -> Result<u32, StoreError> {
        let (pg, mut items) = (&*self.pg, 0);
        for token in transact!(pg, Purpose::Work, "looking for unanswered claims", |tx| abandon::leased(tx, tokens))? {
            items += transact!(pg, Purpose::Work, "giving back an unanswered claim", |tx| abandon::abandon(tx, token))?;
        }
        Ok(items)
    }

    async fn renew(&self, renewals: &[Renewal]) -> Result<Vec<RenewedLease>, StoreError> {
        let pg = &*self.pg;
        transact!(pg, Purpose::Work, "renewing leases", |tx| renew::renew(tx, renewals))
    }

    async fn settle(&self, claim: &ClaimRef, request: SettleRequest) -> Result<(), StoreError> {
        self.groups.settle(claim.clone(), request).await
    }

    async fn expire_leases_until(&self, latest: Millis, spared: &[ClaimToken]) -> Result<u32, StoreError> {
        expire::expire_leases(&self.pg, latest, spared).await
    }

    async fn send_alert(&self, alert: &Alert) -> Result<(), StoreError> {
        let pg = &*self.pg;
        transact!(pg, "announcing an alert", |tx| alerts::send(tx, alert_message(alert)))
    }
}

#[async_trait]
impl Inspect for PostgresStore {
    async fn now(&self) -> Result<Millis, StoreError> {
        self.pg.now().await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.pg.probe().await
    }

    async fn list(&self, filter: &Filter, page: &Page) -> Result<ItemPage, StoreError> {
        let pg = &*self.pg;
        read!(pg, "listing items", |tx| queries::list(tx, filter, page))
    }

    async fn get(&self, id: ItemId) -> Result<Option<ItemDetails>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading an item", |tx| queries::get(tx, id))
    }

    async fn signals(&self, after: SignalSeq, limit: u32) -> Result<Vec<Signal>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading signals", |tx| queries::signals(tx, after, limit))
    }

    async fn newest_signal(&self) -> Result<SignalSeq, StoreError> {
        let pg = &*self.pg;
        read!(pg, "asking for the newest signal", |tx| queries::newest_signal(tx))
    }

    async fn overview(&self) -> Result<Overview, StoreError> {
        let pg = &*self.pg;
        let now = pg.now().await?;
        read!(pg, "counting items", |tx| overview::overview(tx, now))
    }

    async fn jobs(&self, id: Option<JobId>, limit: u32) -> Result<Vec<Job>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading jobs", |tx| jobs::list(tx, id, limit))
    }

    async fn job_outcome(&self, id: JobId) -> Result<JobOutcome, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading what became of a job's items", |tx| jobs::outcome(tx, id))
    }

    async fn history(&self, since: Millis) -> Result<Vec<HistoryMinute>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading the history", |tx| history::since(tx, since))
    }

    async fn retries_ahead(&self) -> Result<RetriesAhead, StoreError> {
        let pg = &*self.pg;
        let now = pg.now().await?;
        read!(pg, "looking ahead to retries", |tx| backlog::retries_ahead(tx, now))
    }

    async fn reached_rates(&self, types: &[RatedType]) -> Result<BTreeMap<String, ReachedRates>, StoreError> {
        let pg = &*self.pg;
        let now = pg.now().await?;
        read!(pg, "looking for rates that hold items back", |tx| rates::reached(tx, types, now))
    }

    async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading what is paused", |tx| control::pauses(tx))
    }

    async fn blocking(&self, ordering_key: &str, limit: u32) -> Result<Vec<ItemId>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading what blocks a key", |tx| ordering::blocking(tx, ordering_key, limit.into()))
    }

    async fn key_pauses(&self) -> Result<Vec<KeyPause>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading what is paused", |tx| control::key_pauses(tx))
    }

    async fn key_totals(&self, item_type: Option<&str>, limit: u32) -> Result<Vec<KeyTotals>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "counting items by fairness key", |tx| key_totals::read(tx, item_type, limit))
    }

    async fn failures(&self, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "grouping failures", |tx| queries::failure_groups(tx, filter, limit))
    }

    async fn retrying_failures(&self, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "grouping failures", |tx| retrying::groups(tx, filter, limit))
    }

    async fn stuck(&self, query: &StuckQuery) -> Result<Vec<StuckEntry>, StoreError> {
        let pg = &*self.pg;
        let now = pg.now().await?;
        let mut found = pg.refused_types.stuck(tokio::time::Instant::now());
        found.extend(read!(pg, "looking for what is stuck", |tx| stuck::stuck(tx, query, now))?);
        Ok(found)
    }

    async fn misplaced(&self, limit: u32) -> Result<Vec<MisplacedItem>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "comparing items with their places", |tx| queries::misplaced(tx, limit))
    }

    async fn list_quarantine(&self) -> Result<Vec<QuarantineRecord>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading the quarantine", |tx| quarantine::list(tx))
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading the audit trail", |tx| audit::list(tx, query))
    }

    async fn state_totals(&self) -> Result<Vec<StateTotal>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading how much state there is", |tx| plugin_state::totals(tx))
    }

    async fn list_state(&self, query: &StateQuery) -> Result<Vec<StateEntry>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "listing a plugin's state", |tx| plugin_state::list(tx, query))
    }
}

#[async_trait]
impl Operate for PostgresStore {
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
        validate_items(std::slice::from_ref(&request.item))?;
        let pg = &*self.pg;
        transact!(pg, "enqueueing an item anew", |tx| enqueue::enqueue_anew(tx, request))
    }

    async fn control(&self, request: &ControlRequest) -> Result<ControlReport, StoreError> {
        request.control.validate()?;
        let pg = &*self.pg;
        let mut report = ControlReport::default();
        loop {
            let step = transact!(pg, "carrying out a command", |tx| control::control(tx, request))?;
            if !report.add_step(step, request) {
                return Ok(report);
            }
        }
    }

    async fn lift_quarantine(&self, digest: &str, actor: &str, reason: Option<&str>) -> Result<bool, StoreError> {
        let pg = &*self.pg;
        transact!(pg, "lifting a quarantine", |tx| quarantine::release(tx, digest, actor, reason))
    }

    async fn clear_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError> {
        operate_flow::clear_state(self, request).await
    }
}

#[async_trait]
impl OperateSteps for PostgresStore {
    async fn preview(&self, selection: &Selection, action: Action) -> Result<OperateReport, StoreError> {
        let pg = &*self.pg;
        let now = pg.now().await?;
        read!(pg, "looking what an order would do", |tx| operate::preview(tx, selection, action, now))
    }

    async fn change_items(&self, context: &ActionContext, ids: &[ItemId]) -> Result<ActionOutcomes, StoreError> {
        let pg = &*self.pg;
        transact!(pg, "changing items", |tx| operate::change_batch(tx, context, ids))
    }

    async fn count_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError> {
        let pg = &*self.pg;
        read!(pg, "counting a plugin's state", |tx| plugin_state::count(tx, request))
    }

    async fn clear_some_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError> {
        let pg = &*self.pg;
        transact!(pg, "clearing a plugin's state", |tx| plugin_state::clear_some(tx, request))
    }

    async fn due_jobs(&self) -> Result<Vec<JobId>, StoreError> {
        let pg = &*self.pg;
        let now = pg.now().await?;
        read!(pg, "looking for running jobs", |tx| jobs::due(tx, now))
    }
}

#[async_trait]
impl PluginData for PostgresStore {
    async fn read_state(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading a plugin's state", |tx| plugin_state::read(tx, plugin, key))
    }

    async fn quarantine(&self, digest: &str, plugin: &str, reason: &str) -> Result<(), StoreError> {
        let pg = &*self.pg;
        transact!(pg, "quarantining a component", |tx| quarantine::add(tx, digest, plugin, reason))
    }

    async fn exchange_owners(
        &self,
        role: Option<&str>,
        present: &[PresentPlugin],
    ) -> Result<Vec<TypeOwner>, StoreError> {
        let (pg, role) = (&*self.pg, role.unwrap_or_default());
        let now = pg.now().await?;
        let rows: Vec<_> = read!(pg, "reading the owners of types", |tx| owners::rows(tx, role))?;
        if owner_changes(&rows, present, now).is_empty() {
            return Ok(owners::owners(rows));
        }
        transact!(pg, "writing the owners of types", |tx| owners::write(tx, role, present)).map(owners::owners)
    }

    async fn list_owners(&self) -> Result<Vec<OwnerRecord>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading the owners of types", |tx| owners::list(tx))
    }
}

#[async_trait]
impl Maintain for PostgresStore {
    async fn run_maintenance(&self, retention: &Retention) -> Result<MaintenanceReport, StoreError> {
        maintain::run_maintenance(self, *retention).await
    }

    async fn heartbeat(&self, pod: &Pod) -> Result<(), StoreError> {
        let pg = &*self.pg;
        transact!(pg, "writing a heartbeat", |tx| pods::heartbeat(tx, pod))?;
        // On a full disk a heartbeat can still find room when an item does not.
        if pg.is_full() {
            let source = "the server's disk is full".into();
            return Err(StoreError::Unavailable { tried: "writing items", source });
        }
        Ok(())
    }

    async fn end_heartbeat(&self, instance: &str) -> Result<(), StoreError> {
        let pg = &*self.pg;
        transact!(pg, "ending the heartbeats", |tx| pods::end(tx, instance))
    }

    async fn add_history(&self, rows: &[HistoryMinute]) -> Result<(), StoreError> {
        let pg = &*self.pg;
        transact!(pg, "adding to the history", |tx| history::add(tx, rows))
    }
}

#[async_trait]
impl Transfer for PostgresStore {
    async fn begin_export(&self) -> Result<Box<dyn ExportSnapshot>, StoreError> {
        let begun = PgSnapshot::begin(&self.pg.pool).await;
        Ok(Box::new(begun.map_err(|err| err.into_store_error("beginning an export"))?))
    }

    async fn import(&self, records: Vec<Record>, execution: Execution) -> Result<ImportReport, StoreError> {
        let (pg, records) = (&*self.pg, &records[..]);
        transact!(pg, "importing records", |tx| transfer::import(tx, records, execution))
    }

    fn import_size(&self) -> usize {
        transfer::IMPORT_SIZE
    }
}
