//! The metrics of the whole outbox, from one reading of the store.
//!
//! Applications choose types and sagas freely, so their labels have a bounded number of values.

use std::collections::BTreeMap;

use outbox_core::saga::SagaDefinition;
use outbox_store::{Overview, Pause, SagaTotals};

use crate::answers;
use crate::metrics::catalog::{self, Metric};
use crate::metrics::exposition::Exposition;
use crate::metrics::label_values::LabelValues;
use crate::state::HostStatus;

/// Adds the metrics of the whole outbox.
pub(super) fn add(
    exposition: &mut Exposition,
    overview: &Overview,
    (pauses, paused_keys): &(Vec<Pause>, usize),
    status: &HostStatus,
    sagas: &[SagaDefinition],
) {
    let step_types = overview.sagas.values().flat_map(|totals| totals.steps.keys());
    let found = overview.by_type.keys().chain(overview.attempts.keys()).chain(step_types);
    let types = LabelValues::new(overview.served_types(&status.served_types), found);
    by_type(exposition, overview, &types);
    let unhandled = overview.unhandled(&status.served_types).values().sum();
    exposition.metric(catalog::UNHANDLED).add([], unhandled);
    exposition.metric(catalog::EXPIRED_CLAIMS).add([], overview.expired_claims);
    exposition.metric(catalog::BLOCKED_KEYS).add([], overview.blocked_keys);
    let family = exposition.metric(catalog::PAUSED);
    for pause in pauses {
        family.add([types.of(&pause.r#type)], 1);
    }
    exposition.metric(catalog::PAUSED_KEYS).add([], *paused_keys as u64);
    exposition.metric(catalog::DATABASE_BYTES).add([], overview.database_bytes);
    exposition.metric(catalog::WAL_BYTES).add([], overview.wal_bytes);
    exposition.metric(catalog::OLDEST_TRANSACTION).raise([], overview.oldest_transaction_ms);
    let names = LabelValues::new(sagas.iter().map(|saga| saga.name.clone()), overview.sagas.keys());
    of_sagas(exposition, &overview.sagas, &names, &types);
    let violations = exposition.metric(catalog::CONTRACT_VIOLATIONS);
    for (violation, count) in answers::violations(&overview.contract_violations) {
        violations.add([violation], count);
    }
}

fn by_type(exposition: &mut Exposition, overview: &Overview, types: &LabelValues) {
    let items = exposition.metric(catalog::ITEMS);
    for (item_type, counts) in &overview.by_type {
        for (status, count) in counts {
            items.add([status, types.of(item_type)], *count);
        }
    }
    by_outcome(exposition, catalog::ATTEMPTS, &overview.attempts, types);
    by_outcome(exposition, catalog::FOLLOWUPS, &overview.followups, types);
    let retrying = exposition.metric(catalog::RETRYING_ITEMS);
    for (item_type, items) in &overview.retrying {
        retrying.add([types.of(item_type)], *items);
    }
    ages(exposition, catalog::OLDEST_ENQUEUED, &overview.oldest_enqueued_ms, types);
    ages(exposition, catalog::OLDEST_PENDING, &overview.oldest_pending_ms, types);
}

fn by_outcome(
    exposition: &mut Exposition,
    metric: &'static Metric,
    totals: &BTreeMap<String, BTreeMap<String, u64>>,
    types: &LabelValues,
) {
    let family = exposition.metric(metric);
    for (item_type, outcomes) in totals {
        for (outcome, count) in outcomes {
            family.add([types.of(item_type), outcome], *count);
        }
    }
}

fn ages(exposition: &mut Exposition, metric: &'static Metric, ages: &BTreeMap<String, i64>, types: &LabelValues) {
    let family = exposition.metric(metric);
    for (item_type, age) in ages {
        family.raise([types.of(item_type)], u64::try_from(*age).unwrap_or_default());
    }
}

fn of_sagas(
    exposition: &mut Exposition,
    sagas: &BTreeMap<String, SagaTotals>,
    names: &LabelValues,
    types: &LabelValues,
) {
    let began = exposition.metric(catalog::SAGA_BEGAN);
    for (saga, totals) in sagas {
        began.add([names.of(saga)], totals.began);
    }
    let ended = exposition.metric(catalog::SAGA_ENDED);
    for (saga, totals) in sagas {
        ended.add([names.of(saga), "ok"], totals.ended_ok);
        ended.add([names.of(saga), "error"], totals.ended_err);
    }
    let steps = exposition.metric(catalog::SAGA_STEPS);
    for (saga, totals) in sagas {
        for (item_type, outcomes) in &totals.steps {
            for (outcome, count) in outcomes {
                steps.add([names.of(saga), types.of(item_type), outcome], *count);
            }
        }
    }
}
