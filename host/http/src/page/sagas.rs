//! Sagas: how many runs began, what became of their steps, how they ended.
//!
//! The numbers are the totals that the store keeps since the beginning. What a saga is, is not known here.

use std::collections::BTreeMap;

use askama::Template;
use axum::response::Response;

use outbox_core::saga::SagaDefinition;
use outbox_store::SagaTotals;

use crate::answers::with_declared;
use crate::glance::Glance;
use crate::page::frame::{Frame, Tab};
use crate::page::item::query;
use crate::page::visit::{Visit, shown};
use crate::page::words::{count, counted};
use crate::problem::ApiError;

/// Sagas that the overview shows.
const LISTED: usize = 4;

/// The view, as its template reads it.
#[derive(Template)]
#[template(path = "sagas.html")]
struct SagasPage {
    frame: Frame,
    opening: String,
    sagas: Vec<SagaPanel>,
    /// Sagas that are declared and have not begun.
    unused: Vec<String>,
}

/// A saga: what began, its steps, how it ended.
pub(super) struct SagaPanel {
    pub(super) name: String,
    pub(super) began: String,
    /// The same with its noun.
    pub(super) runs: String,
    /// Runs that have not ended, and the query of the list of their items.
    pub(super) open: u64,
    pub(super) query: String,
    pub(super) ended_ok: String,
    pub(super) ended_err: u64,
    pub(super) steps: Vec<StepRow>,
}

/// One step of a saga.
pub(super) struct StepRow {
    pub(super) item_type: String,
    /// The query of the list of its items.
    pub(super) query: String,
    pub(super) ok: String,
    pub(super) retried: u64,
    pub(super) dead: u64,
}

/// The view.
pub(super) async fn sagas(visit: Visit) -> Result<Response, ApiError> {
    let glance = visit.glance().await?;
    let sagas = panels(&glance, &visit.settings.sagas);
    let known = |name: &String| sagas.iter().any(|saga| saga.name == *name);
    let declared = visit.settings.sagas.iter().map(|saga| saga.name.clone());
    shown(&SagasPage {
        frame: visit.live_frame("Sagas", Tab::Overview),
        opening: opening(&sagas),
        unused: declared.filter(|name| !known(name)).collect(),
        sagas,
    })
}

fn opening(sagas: &[SagaPanel]) -> String {
    let open = sagas.iter().map(|saga| saga.open).sum();
    match (sagas.len(), open) {
        (0, _) => "No saga has begun yet".to_owned(),
        (_, 0) => "No run of a saga is open".to_owned(),
        (_, open) => format!("{} of sagas {} open", counted(open, "run"), if open == 1 { "is" } else { "are" }),
    }
}

/// The sagas with the most open runs, and how many others have begun.
pub(super) fn busiest(glance: &Glance, declared: &[SagaDefinition]) -> (Vec<SagaPanel>, usize) {
    let mut sagas = panels(glance, declared);
    let more = sagas.len().saturating_sub(LISTED);
    if more > 0 {
        sagas.sort_by_key(|saga| std::cmp::Reverse(saga.open));
        sagas.truncate(LISTED);
    }
    (sagas, more)
}

/// The sagas that have begun, by name.
fn panels(glance: &Glance, declared: &[SagaDefinition]) -> Vec<SagaPanel> {
    let used = |(_, totals): &(String, SagaTotals)| totals.began > 0;
    let all = with_declared(glance.overview.sagas.clone(), declared);
    all.into_iter().filter(used).map(|(name, totals)| panel(name, totals, declared)).collect()
}

fn panel(name: String, totals: SagaTotals, declared: &[SagaDefinition]) -> SagaPanel {
    let order = declared.iter().find(|saga| saga.name == name).map(|saga| saga.steps.clone()).unwrap_or_default();
    let place = |item_type: &str| order.iter().position(|step| step == item_type).unwrap_or(usize::MAX);
    let open = totals.open();
    let mut steps: Vec<_> = totals.steps.into_iter().collect();
    steps.sort_by_key(|(item_type, _)| place(item_type));
    let query = query("saga", &name);
    SagaPanel {
        began: count(totals.began),
        runs: counted(totals.began, "run"),
        open,
        ended_ok: count(totals.ended_ok),
        ended_err: totals.ended_err,
        steps: steps.into_iter().map(|(item_type, outcomes)| step(item_type, &outcomes, &query)).collect(),
        query,
        name,
    }
}

fn step(item_type: String, outcomes: &BTreeMap<String, u64>, saga: &str) -> StepRow {
    let of = |outcome: &str| outcomes.get(outcome).copied().unwrap_or(0);
    StepRow {
        query: format!("{saga}&{}", query("type", &item_type)),
        item_type,
        ok: count(of("ok")),
        retried: of("retried"),
        dead: of("dead"),
    }
}
