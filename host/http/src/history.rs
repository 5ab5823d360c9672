//! `GET /history`: what happened lately, by type and step of time.
//!
//! The store keeps the figures; this file knows their names in JSON.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use serde::Serialize;
use utoipa::ToSchema;

use outbox_item::Millis;
use outbox_store::{HistoryFigures, HistoryReport, HistorySeries, HistoryStep};

use crate::description::{HistoryParameters, UnixMillis};
use crate::problem::ApiError;
use crate::query::{QueryParameters, history_span};
use crate::server_state::ServerState;

/// The figures of the last time, in steps of equal length.
#[derive(Serialize, ToSchema)]
pub(crate) struct HistoryAnswer {
    /// The store's time of this reading.
    #[schema(value_type = UnixMillis)]
    now: Millis,
    /// How long a step is, in milliseconds: a minute or several.
    step_ms: u64,
    /// All types together.
    total: HistorySeriesView,
    /// At most 100 types, and `_other`.
    types: BTreeMap<String, HistorySeriesView>,
}

/// The figures of a type, or of all.
#[derive(Serialize, ToSchema)]
struct HistorySeriesView {
    /// Of the whole time.
    sum: HistoryFiguresView,
    /// Of each step, oldest first; the last one is not over yet.
    steps: Vec<HistoryStepView>,
}

/// The figures of one step.
#[derive(Serialize, ToSchema)]
struct HistoryStepView {
    /// When it began.
    #[schema(value_type = UnixMillis)]
    at: Millis,
    #[serde(flatten)]
    figures: HistoryFiguresView,
}

/// What happened to items.
#[derive(Serialize, ToSchema)]
struct HistoryFiguresView {
    /// Items that became DONE.
    done: u64,
    /// Attempts that failed and count.
    failed: u64,
    /// Items that an attempt moved to the DLQ.
    dead: u64,
    /// Attempts that failed and do not count.
    given_back: u64,
    /// Items that waited when the upkeep first counted them in a minute; of several minutes, the most.
    waiting: u64,
    /// The time from enqueue to DONE that half of the items did not exceed, in milliseconds.
    #[schema(required = true)]
    p50_ms: Option<u64>,
    /// The same of 95% of the items.
    #[schema(required = true)]
    p95_ms: Option<u64>,
    /// The same of 99% of the items.
    #[schema(required = true)]
    p99_ms: Option<u64>,
}

/// What happened lately, by type and step of time
#[utoipa::path(get, path = "/history", operation_id = "history", tag = "host", params(HistoryParameters),
    responses((status = 200, description = "The figures of the last time", body = HistoryAnswer)))]
pub(crate) async fn history(
    State(state): State<Arc<ServerState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<HistoryAnswer>, ApiError> {
    let last: Duration = history_span(query?.0)?;
    let now = state.inspect.now().await?;
    let rows = state.inspect.history(HistoryReport::begin(now, last)).await?;
    Ok(Json(HistoryReport::new(now, last, rows).into()))
}

impl From<HistoryReport> for HistoryAnswer {
    fn from(HistoryReport { now, step_ms, total, types }: HistoryReport) -> Self {
        let types = types.into_iter().map(|(name, series)| (name, series.into())).collect();
        Self { now, step_ms, total: total.into(), types }
    }
}

impl From<HistorySeries> for HistorySeriesView {
    fn from(HistorySeries { sum, steps }: HistorySeries) -> Self {
        let step = |HistoryStep { at, figures }| HistoryStepView { at, figures: figures.into() };
        Self { sum: sum.into(), steps: steps.into_iter().map(step).collect() }
    }
}

impl From<HistoryFigures> for HistoryFiguresView {
    fn from(figures: HistoryFigures) -> Self {
        let HistoryFigures { done, failed, dead, given_back, waiting, p50_ms, p95_ms, p99_ms } = figures;
        Self { done, failed, dead, given_back, waiting, p50_ms, p95_ms, p99_ms }
    }
}
