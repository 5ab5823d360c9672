//! What the store promises to workers and operators, call by call.

use async_trait::async_trait;
use tokio::sync::watch;

use crate::context::PgContext;
use crate::diagnostics::ServerDiagnostics;
use crate::{
    PostgresStore, alerts, audit, claim, control, diagnostics, enqueue, expire, failures, jobs, maintain, operate,
    plugin_state, pods, quarantine, queries, signals, state_queries, stuck, transfer, tx,
};
use outbox_core::StateVersion;
use outbox_core::saga::Signal;
use outbox_item::{Item, ItemId, Millis, NewItem};
use outbox_store::engine::alerts::alert_message;
use outbox_store::engine::validate;
use outbox_store::{
    Alert, AuditEntry, AuditQuery, BatchMode, ClaimBatch, ClaimRef, ClaimRequest, ClearStateRequest, ControlReport,
    ControlRequest, EnqueueReport, Execution, ExportPage, ExportPosition, FailureGroup, Filter, ImportReport,
    ItemDetails, Job, JobId, MaintenanceReport, OperateReport, OperateRequest, Operations, Overview, Page, Pause, Pod,
    QuarantineRecord, Record, Retention, SettleRequest, StateEntry, StateQuery, StateTotal, Store, StoreError,
    StuckEntry, StuckQuery, Violation,
};

impl PostgresStore {
    /// Looks at the server as far as it bears on the outbox.
    pub async fn diagnose(&self) -> Result<ServerDiagnostics, StoreError> {
        let pg = &*self.pg;
        read!(pg, "examining the server", |tx| diagnostics::diagnose(tx))
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn now(&self) -> Result<Millis, StoreError> {
        self.pg.now().await
    }

    async fn enqueue(&self, items: Vec<NewItem>, mode: BatchMode) -> Result<EnqueueReport, StoreError> {
        validate(&items)?;
        let (pg, items) = (&*self.pg, &items[..]);
        transact!(pg, "enqueueing items", |tx| enqueue::enqueue(tx, items, mode))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<ClaimBatch, StoreError> {
        let pg = &*self.pg;
        transact!(pg, "claiming items", |tx| claim::claim(tx, request))
    }

    async fn settle(&self, claim: &ClaimRef, request: SettleRequest) -> Result<(), StoreError> {
        self.settlements.settle(claim.clone(), request).await
    }

    async fn expire_leases(&self) -> Result<u32, StoreError> {
        let pg = &*self.pg;
        transact!(pg, "ending expired leases", |tx| expire::expire_leases(tx))
    }

    async fn list(&self, filter: &Filter, page: &Page) -> Result<Vec<Item>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "listing items", |tx| queries::list(tx, filter, page))
    }

    async fn get(&self, id: ItemId) -> Result<Option<ItemDetails>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading an item", |tx| queries::get(tx, id))
    }

    async fn operate(&self, request: &OperateRequest) -> Result<OperateReport, StoreError> {
        operate::operate(self, request).await
    }

    async fn signals(&self, after: i64, limit: u32) -> Result<Vec<Signal>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading signals", |tx| signals::list(tx, after, limit))
    }

    async fn overview(&self) -> Result<Overview, StoreError> {
        let pg = &*self.pg;
        let now = pg.now().await?;
        read!(pg, "counting items", |tx| queries::overview(tx, now))
    }

    async fn run_maintenance(&self, retention: &Retention) -> Result<MaintenanceReport, StoreError> {
        maintain::run_maintenance(self, *retention).await
    }

    async fn heartbeat(&self, pod: &Pod) -> Result<(), StoreError> {
        let pg = &*self.pg;
        transact!(pg, "writing a heartbeat", |tx| pods::heartbeat(tx, pod))?;
        // It finds room where items find none.
        if pg.is_full() {
            let source = "the server's disk is full".into();
            return Err(StoreError::Unavailable { tried: "writing items", source });
        }
        Ok(())
    }

    async fn count_violation(&self, violation: Violation) -> Result<(), StoreError> {
        let pg = &*self.pg;
        transact!(pg, "counting a contract violation", |tx| tx::count_violation(tx, violation))
    }

    async fn read_state(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading a plugin's state", |tx| plugin_state::read(tx, plugin, key))
    }

    async fn quarantine(&self, digest: &str, plugin: &str, reason: &str) -> Result<(), StoreError> {
        let pg = &*self.pg;
        transact!(pg, "quarantining a component", |tx| quarantine::add(tx, digest, plugin, reason))
    }

    async fn list_quarantine(&self) -> Result<Vec<QuarantineRecord>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading the quarantine", |tx| quarantine::list(tx))
    }

    async fn lift_quarantine(&self, digest: &str, actor: &str, reason: Option<&str>) -> Result<bool, StoreError> {
        let pg = &*self.pg;
        transact!(pg, "lifting a quarantine", |tx| quarantine::release(tx, digest, actor, reason))
    }

    async fn state_totals(&self) -> Result<Vec<StateTotal>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading how much state there is", |tx| state_queries::totals(tx))
    }

    async fn list_state(&self, query: &StateQuery) -> Result<Vec<StateEntry>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "listing a plugin's state", |tx| state_queries::list(tx, query))
    }

    async fn clear_state(&self, request: &ClearStateRequest) -> Result<StateTotal, StoreError> {
        let pg = &*self.pg;
        transact!(pg, "clearing a plugin's state", |tx| state_queries::clear(tx, request))
    }

    fn subscribe(&self) -> watch::Receiver<u64> {
        self.pg.changes.subscribe()
    }
}

#[async_trait]
impl Operations for PostgresStore {
    async fn start_job(&self, request: &OperateRequest, per_second: Option<u32>) -> Result<Job, StoreError> {
        jobs::start(self, request, per_second).await
    }

    async fn run_job_batch(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        jobs::run_batch(self, id).await
    }

    async fn jobs(&self, id: Option<JobId>, limit: u32) -> Result<Vec<Job>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading jobs", |tx| jobs::list(tx, id, limit))
    }

    async fn control(&self, request: &ControlRequest) -> Result<ControlReport, StoreError> {
        request.control.validate()?;
        let pg = &*self.pg;
        transact!(pg, "carrying out a command", |tx| control::control(tx, request))
    }

    async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading what is paused", |tx| control::pauses(tx))
    }

    async fn failures(&self, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "grouping failures", |tx| failures::groups(tx, filter, limit))
    }

    async fn stuck(&self, query: &StuckQuery) -> Result<Vec<StuckEntry>, StoreError> {
        let pg = &*self.pg;
        let now = pg.now().await?;
        read!(pg, "looking for what is stuck", |tx| stuck::stuck(tx, query, now))
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let pg = &*self.pg;
        read!(pg, "reading the audit trail", |tx| audit::list(tx, query))
    }

    async fn export(&self, after: ExportPosition, limit: u32) -> Result<ExportPage, StoreError> {
        let pg = &*self.pg;
        read!(pg, "exporting records", |tx| transfer::export(tx, after, limit))
    }

    async fn send_alert(&self, alert: &Alert) -> Result<(), StoreError> {
        let pg = &*self.pg;
        transact!(pg, "announcing an alert", |tx| alerts::send(tx, alert_message(alert)))
    }

    async fn import(&self, records: Vec<Record>, execution: Execution) -> Result<ImportReport, StoreError> {
        let (pg, records) = (&*self.pg, &records[..]);
        transact!(pg, "importing records", |tx| transfer::import(tx, records, execution))
    }
}
