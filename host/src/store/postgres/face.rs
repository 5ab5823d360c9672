//! What the store promises to workers and operators, call by call.

use async_trait::async_trait;
use tokio::sync::watch;

use super::caller::Caller;
use super::{
    Examination, PostgresStore, alert, audit, claim, control, enqueue, examine, expire, failures, job, operate, pod,
    quarantine, select, signals, state, step, stored, stuck, transfer, upkeep,
};
use crate::item::{Item, ItemId, Millis, NewItem, StateVersion};
use crate::saga::Signal;
use crate::store::alert::announced;
use crate::store::{
    Alert, AuditEntry, AuditQuery, ClaimRef, ClaimRequest, Claimed, ClearState, Command, Controlled, Details, Enqueued,
    ExportPage, ExportPosition, FailureGroup, Filter, Imported, Job, JobId, Operations, Order, OrderReport, Overview,
    Page, Pause, Pod, Quarantined, Record, Retention, Run, Settled, StateEntry, StateQuery, StateTotal, Store,
    StoreError, Stuck, StuckQuery, Upkept, Violation, Write, validate,
};

impl PostgresStore {
    /// Looks at the server as far as it bears on the outbox.
    pub async fn examine(&self) -> Result<Examination, StoreError> {
        let caller = &*self.caller;
        read!(caller, "examining the server", |tx| examine::examine(tx))
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn now(&self) -> Result<Millis, StoreError> {
        self.caller.now().await
    }

    async fn enqueue(&self, items: Vec<NewItem>, write: Write) -> Result<Enqueued, StoreError> {
        validate(&items)?;
        let (caller, items) = (&*self.caller, &items[..]);
        transact!(caller, "enqueueing items", |step| enqueue::enqueue(step, items, write))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, StoreError> {
        let caller = &*self.caller;
        transact!(caller, "claiming items", |step| claim::claim(step, request))
    }

    async fn settle(&self, claim: &ClaimRef, settled: Settled) -> Result<(), StoreError> {
        self.settler.settle(claim.clone(), settled).await
    }

    async fn expire(&self) -> Result<u32, StoreError> {
        let caller = &*self.caller;
        transact!(caller, "ending expired leases", |step| expire::expire(step))
    }

    async fn list(&self, filter: &Filter, page: &Page) -> Result<Vec<Item>, StoreError> {
        let caller = &*self.caller;
        read!(caller, "listing items", |tx| select::list(tx, filter, page))
    }

    async fn show(&self, id: ItemId) -> Result<Option<Details>, StoreError> {
        let caller = &*self.caller;
        read!(caller, "reading an item", |tx| select::show(tx, id))
    }

    async fn operate(&self, order: &Order) -> Result<OrderReport, StoreError> {
        operate::operate(self, order).await
    }

    async fn signals(&self, after: i64, limit: u32) -> Result<Vec<Signal>, StoreError> {
        let caller = &*self.caller;
        read!(caller, "reading signals", |tx| signals::after(tx, after, limit))
    }

    async fn overview(&self) -> Result<Overview, StoreError> {
        let caller = &*self.caller;
        let now = caller.now().await?;
        read!(caller, "counting items", |tx| select::overview(tx, now))
    }

    async fn upkeep(&self, retention: &Retention) -> Result<Upkept, StoreError> {
        upkeep::upkeep(self, *retention).await
    }

    async fn heartbeat(&self, pod: &Pod) -> Result<(), StoreError> {
        let caller = &*self.caller;
        transact!(caller, "writing a heartbeat", |step| pod::heartbeat(step, pod))?;
        // It finds room where items find none.
        if caller.is_full() {
            let source = "the server's disk is full".into();
            return Err(StoreError::Unavailable { tried: "writing items", source });
        }
        Ok(())
    }

    async fn count_violation(&self, violation: Violation) -> Result<(), StoreError> {
        let caller = &*self.caller;
        transact!(caller, "counting a contract violation", |step| step::tally_violation(step, violation))
    }

    async fn read_state(&self, plugin: &str, key: &str) -> Result<(Option<Vec<u8>>, StateVersion), StoreError> {
        let caller = &*self.caller;
        read!(caller, "reading a plugin's state", |tx| state::read(tx, plugin, key))
    }

    async fn quarantine(&self, digest: &str, plugin: &str, reason: &str) -> Result<(), StoreError> {
        let caller = &*self.caller;
        transact!(caller, "quarantining a component", |step| quarantine::add(step, digest, plugin, reason))
    }

    async fn quarantined(&self) -> Result<Vec<Quarantined>, StoreError> {
        let caller = &*self.caller;
        read!(caller, "reading the quarantine", |tx| quarantine::list(tx))
    }

    async fn release_quarantined(&self, digest: &str, actor: &str, reason: Option<&str>) -> Result<bool, StoreError> {
        let caller = &*self.caller;
        transact!(caller, "lifting a quarantine", |step| quarantine::release(step, digest, actor, reason))
    }

    async fn state_totals(&self) -> Result<Vec<StateTotal>, StoreError> {
        let caller = &*self.caller;
        read!(caller, "reading how much state there is", |tx| stored::totals(tx))
    }

    async fn list_state(&self, query: &StateQuery) -> Result<Vec<StateEntry>, StoreError> {
        let caller = &*self.caller;
        read!(caller, "listing a plugin's state", |tx| stored::list(tx, query))
    }

    async fn clear_state(&self, order: &ClearState) -> Result<StateTotal, StoreError> {
        let caller = &*self.caller;
        transact!(caller, "clearing a plugin's state", |step| stored::clear(step, order))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.caller.changes.subscribe()
    }
}

#[async_trait]
impl Operations for PostgresStore {
    async fn begin(&self, order: &Order, per_second: Option<u32>) -> Result<Job, StoreError> {
        job::begin(self, order, per_second).await
    }

    async fn advance(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        job::advance(self, id).await
    }

    async fn jobs(&self, id: Option<JobId>, limit: u32) -> Result<Vec<Job>, StoreError> {
        let caller = &*self.caller;
        read!(caller, "reading jobs", |tx| job::list(tx, id, limit))
    }

    async fn control(&self, command: &Command) -> Result<Controlled, StoreError> {
        command.control.check()?;
        let caller = &*self.caller;
        transact!(caller, "carrying out a command", |step| control::control(step, command))
    }

    async fn pauses(&self) -> Result<Vec<Pause>, StoreError> {
        let caller = &*self.caller;
        read!(caller, "reading what is paused", |tx| control::pauses(tx))
    }

    async fn failures(&self, filter: &Filter, limit: u32) -> Result<Vec<FailureGroup>, StoreError> {
        let caller = &*self.caller;
        read!(caller, "grouping failures", |tx| failures::groups(tx, filter, limit))
    }

    async fn stuck(&self, query: &StuckQuery) -> Result<Vec<Stuck>, StoreError> {
        let caller = &*self.caller;
        let now = caller.now().await?;
        read!(caller, "looking for what is stuck", |tx| stuck::stuck(tx, query, now))
    }

    async fn audit(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        let caller = &*self.caller;
        read!(caller, "reading the audit trail", |tx| audit::list(tx, query))
    }

    async fn export(&self, after: ExportPosition, limit: u32) -> Result<ExportPage, StoreError> {
        let caller = &*self.caller;
        read!(caller, "exporting records", |tx| transfer::export(tx, after, limit))
    }

    async fn announce(&self, alert: &Alert) -> Result<(), StoreError> {
        let caller = &*self.caller;
        transact!(caller, "announcing an alert", |step| alert::send(step, announced(alert)))
    }

    async fn import(&self, records: Vec<Record>, run: Run) -> Result<Imported, StoreError> {
        let (caller, records) = (&*self.caller, &records[..]);
        transact!(caller, "importing records", |step| transfer::import(step, records, run))
    }
}
