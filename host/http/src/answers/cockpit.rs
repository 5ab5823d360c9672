//! The state of the outbox, its sagas and its processes, as one document.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use outbox_core::saga::{SagaDefinition, StepOutcome};
use outbox_core::{BreakerState, BreakerStatus, PluginStatus};
use outbox_item::Millis;
use outbox_store::{Overview, Pod, SagaTotals, Violation};

use crate::answers::sight::{Sight, Visible};
use crate::description::{BreakerStateWord, PluginForm, SagaForm, UnixMillis};
use crate::page::OverviewReport;
use crate::state::HostStatus;

/// The state of the outbox. Operators' scripts rely on the shape: every declared saga, outcome and violation is present
/// from the start, with a zero.
#[derive(Serialize, ToSchema)]
pub(crate) struct CockpitView {
    /// When the store was read, in Unix milliseconds, like all times.
    #[schema(value_type = UnixMillis)]
    generated_at: Millis,
    /// The processes of the last minutes, by their names.
    pods: BTreeMap<String, PodView>,
    /// The sagas, and requests that lacked what the contract asks for.
    governor: GovernorView,
    /// The items.
    outbox: OutboxView,
    /// The plugins of the process that answers.
    #[schema(value_type = Vec<PluginForm>)]
    plugins: Vec<PluginStatus>,
    /// The overview in words, where the request asks for it. It may be a second older than the rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    overview: Option<OverviewReport>,
}

impl CockpitView {
    /// The state with the overview in words, if there is one.
    pub(crate) fn with_overview(self, overview: Option<OverviewReport>) -> Self {
        Self { overview, ..self }
    }

    /// The state as its reader sees it. `sagas` are the declared ones.
    pub(crate) fn of(overview: Overview, status: HostStatus, sagas: &[SagaDefinition], sight: &Sight) -> Self {
        Self {
            generated_at: overview.now,
            pods: overview
                .pods
                .iter()
                .map(|pod| (pod.instance.clone(), PodView::of(pod, overview.now, sight)))
                .collect(),
            governor: GovernorView {
                sagas: with_declared(overview.sagas.clone(), sagas),
                contract_violations: violations(&overview.contract_violations),
            },
            outbox: OutboxView::of(overview, &status.served_types),
            plugins: status.plugins,
            overview: None,
        }
    }
}

/// A process that has the store open.
#[derive(Serialize, ToSchema)]
struct PodView {
    /// Its role.
    #[schema(required = true)]
    role: Option<String>,
    /// Whether it answers `/readyz` with 200.
    ready: bool,
    /// Whether it is ready and reports regularly.
    live: bool,
    /// When it last reported.
    #[schema(value_type = UnixMillis)]
    heartbeat_at: Millis,
    /// Its plugins.
    #[schema(value_type = Vec<PluginForm>)]
    plugins: Vec<PluginStatus>,
    /// Its breakers that are not closed.
    breakers: Vec<BreakerView>,
}

/// A breaker that is not closed.
#[derive(Serialize, ToSchema)]
struct BreakerView {
    /// What failed last, in words.
    #[serde(skip_serializing_if = "Visible::is_hidden")]
    #[schema(value_type = String, required = false)]
    cause: Visible<String>,
    /// How many items failed before it opened.
    items: u32,
    /// How long ago it opened, before the report.
    open_for_ms: u64,
    /// The origin that fails; `null` for the breaker of a type.
    #[schema(required = true)]
    origin: Option<String>,
    /// What it does now.
    #[schema(value_type = BreakerStateWord)]
    state: BreakerState,
    /// The types whose items it concerns.
    types: Vec<String>,
    /// The members that are left out, because the caller lacks the right `read-payload`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, required = false)]
    hidden: Vec<&'static str>,
}

impl BreakerView {
    /// The breaker as its reader sees it. The cause is the message of a failure.
    fn of(breaker: BreakerStatus, sight: &Sight) -> Self {
        let BreakerStatus { cause, items, open_for_ms, origin, state, types } = breaker;
        Self { cause: sight.content(cause), items, open_for_ms, origin, state, types, hidden: sight.hidden(&["cause"]) }
    }
}

impl PodView {
    fn of(pod: &Pod, now: Millis, sight: &Sight) -> Self {
        let live = pod.is_live(now);
        let Pod { role, ready, heartbeat_at, plugins, breakers, .. } = pod.clone();
        let breakers = breakers.into_iter().map(|breaker| BreakerView::of(breaker, sight)).collect();
        Self { role, ready, live, heartbeat_at, plugins, breakers }
    }
}

/// The sagas, and requests that lacked what the contract asks for.
#[derive(Serialize, ToSchema)]
struct GovernorView {
    /// Totals by saga.
    #[schema(value_type = BTreeMap<String, SagaForm>)]
    sagas: BTreeMap<String, SagaTotals>,
    /// How many writes lacked which header.
    #[schema(value_type = BTreeMap<String, u64>)]
    contract_violations: BTreeMap<&'static str, u64>,
}

/// The items in numbers.
#[derive(Serialize, ToSchema)]
struct OutboxView {
    /// Items by status.
    #[schema(value_type = BTreeMap<String, u64>)]
    by_status: BTreeMap<&'static str, u64>,
    /// Items by type and status.
    #[schema(value_type = BTreeMap<String, BTreeMap<String, u64>>)]
    by_type: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Items that wait for another attempt, by type.
    retrying_by_type: BTreeMap<String, u64>,
    /// How long ago the oldest waiting item of each type was enqueued.
    oldest_enqueued_ms_by_type: BTreeMap<String, i64>,
    /// How long the oldest item that may be claimed has been waiting.
    #[schema(required = true)]
    oldest_pending_ms: Option<i64>,
    /// The same by type.
    oldest_pending_ms_by_type: BTreeMap<String, i64>,
    /// Waiting items of types that no process serves, by type.
    unhandled: BTreeMap<String, u64>,
    /// Claims whose lease has ended.
    expired_claims: u64,
    /// Ordering keys that wait behind a dead item.
    blocked_keys: u64,
    /// The size of the database.
    database_bytes: u64,
    /// The size of the write-ahead log.
    wal_bytes: u64,
}

impl OutboxView {
    fn of(overview: Overview, served: &[String]) -> Self {
        let unhandled = overview.unhandled(served).into_iter();
        Self {
            unhandled: unhandled.map(|(item_type, count)| (item_type.to_owned(), count)).collect(),
            by_status: overview.by_status,
            by_type: overview.by_type,
            retrying_by_type: overview.retrying,
            oldest_enqueued_ms_by_type: overview.oldest_enqueued_ms,
            oldest_pending_ms: overview.oldest_pending_ms.values().max().copied(),
            oldest_pending_ms_by_type: overview.oldest_pending_ms,
            expired_claims: overview.expired_claims,
            blocked_keys: overview.blocked_keys,
            database_bytes: overview.database_bytes,
            wal_bytes: overview.wal_bytes,
        }
    }
}

/// The totals of all sagas, with those that are declared and never began.
pub(crate) fn with_declared(
    mut sagas: BTreeMap<String, SagaTotals>,
    declared: &[SagaDefinition],
) -> BTreeMap<String, SagaTotals> {
    for definition in declared {
        let totals = sagas.entry(definition.name.clone()).or_default();
        for step in &definition.steps {
            totals.steps.entry(step.clone()).or_default();
        }
    }
    for outcomes in sagas.values_mut().flat_map(|totals| totals.steps.values_mut()) {
        for outcome in [StepOutcome::Ok, StepOutcome::Retried, StepOutcome::Dead] {
            outcomes.entry(outcome.as_str().to_owned()).or_default();
        }
    }
    sagas
}

/// The counts of all violations; one that the store has not counted is zero.
pub(crate) fn violations(counted: &BTreeMap<String, u64>) -> BTreeMap<&'static str, u64> {
    [Violation::MissingCorrelationId, Violation::MissingIdempotencyKey]
        .map(|violation| (violation.as_str(), counted.get(violation.as_str()).copied().unwrap_or_default()))
        .into()
}
