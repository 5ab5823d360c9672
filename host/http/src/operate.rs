//! Operator actions on one item or on all items that match.
//!
//! Owns how a request names an action and its items. The store decides which status allows which action, and audits it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use outbox_core::OnDead;
use outbox_item::{ItemId, Millis};
use outbox_store::{
    Action, EffectKeys, Execution, Filter, JobPace, LeasePolicy, OperateReport, OperateRequest, Refusal, RefusedItem,
    Selection,
};

use crate::body::{BodyResult, DryRun, json_or_default};
use crate::confirm;
use crate::items::named_item;
use crate::problem::ApiError;
use crate::server_state::ServerState;
use crate::state::HttpState;

/// The body of an operator's request. An empty body leaves every member at its default.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of a JSON document")]
struct OperateBody {
    ids: Option<Vec<ItemId>>,
    filter: Option<Filter>,
    /// Who the caller claims to be; takes precedence over the header `X-Actor`.
    actor: Option<String>,
    reason: Option<String>,
    dry_run: DryRun,
    /// What a dry run of the same request gave.
    confirm: Option<String>,
    /// Answer when the job has started, instead of when it has ended.
    background: bool,
    /// The most items that the job changes per second; implies `background`.
    per_second: Option<u32>,
    /// Of `replay`: the job stops when more than this share of its settled items, in percent, is dead again; implies
    /// `background`.
    stop_after: Option<u8>,
    /// Of `replay`: outgoing requests carry new idempotency keys.
    new_effects: bool,
    /// Of `dead` and `release`: also take claims whose lease has not ended. With a filter: also one that names a type
    /// or an unknown saga.
    force: bool,
    /// Of `dead`: the items queued behind this one continue without it.
    skip_key: bool,
    /// Of `reschedule`: the new time, in Unix milliseconds.
    available_at: Option<Millis>,
    /// Of `reschedule`: the new time as a delay from now, in milliseconds.
    delay_ms: Option<i64>,
}

/// `POST /items/{id}/{action}`: the path names the item by its id or by its idempotency key.
pub(crate) async fn operate_one(
    State(state): State<Arc<ServerState>>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<OperateReport>, ApiError> {
    let Path((id, word)) = path?;
    if word == "purge" {
        return Err(ApiError::NoRoute(uri.path().to_owned()));
    }
    let id = named_item(&state, &id).await?;
    let request: OperateBody = json_or_default(&headers, body, "the order")?;
    if request.ids.is_some() || request.filter.is_some() || request.confirm.is_some() {
        return Err(ApiError::Invalid("the path names the item: leave ids, filter and confirm out".into()));
    }
    let action = action(&state, &word, &request, &uri).await?;
    let request = request.into_request(&headers, action, Selection::Ids(vec![id]));
    let report = state.operate.operate(&request).await?;
    match report.refused.first() {
        None => Ok(Json(report)),
        Some(refused) => Err(problem_of(refused)),
    }
}

/// `POST /items:{action}`: 200 with a report, or 202 with a job that continues in the background. What
/// matches nothing needs no job.
pub(crate) async fn operate_matching(
    State(state): State<Arc<ServerState>>,
    uri: Uri,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Response, ApiError> {
    let mut request: OperateBody = json_or_default(&headers, body, "the order")?;
    let word = uri.path().rsplit(':').next().unwrap_or_default();
    let action = action(&state, word, &request, &uri).await?;
    let pace = Pace::of(&request);
    match selection(request.ids.take(), request.filter.take())? {
        Selection::Ids(_) if pace.is_given() || request.confirm.is_some() => {
            Err(ApiError::Invalid("background, per_second, stop_after and confirm belong to a filter".into()))
        }
        Selection::Ids(ids) => {
            let request = request.into_request(&headers, action, Selection::Ids(ids));
            Ok(Json(state.operate.operate(&request).await?).into_response())
        }
        Selection::Filter(filter) => {
            check_names(&state, &filter, request.force).await?;
            operate_filter(&state, action, filter, request, pace, &headers).await
        }
    }
}

/// Whether a job is answered for at once, and how fast it may go.
#[derive(Clone, Copy)]
struct Pace {
    job: JobPace,
    is_background: bool,
}

impl Pace {
    fn of(body: &OperateBody) -> Self {
        let job = JobPace { per_second: body.per_second, stop_after: body.stop_after };
        Self { job, is_background: body.background || job != JobPace::default() }
    }

    fn is_given(self) -> bool {
        self.is_background
    }
}

/// What a dry run with a filter answers.
#[derive(Serialize)]
struct Preview {
    #[serde(flatten)]
    report: OperateReport,
    /// How many items the action would change.
    count: u64,
    /// The time for which this holds.
    as_of: Millis,
    /// What the action needs, to be carried out on these items and no later ones.
    confirm: String,
}

async fn operate_filter(
    state: &HttpState,
    action: Action,
    mut filter: Filter,
    body: OperateBody,
    pace: Pace,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if pace.job.per_second == Some(0) {
        return Err(ApiError::Invalid("per_second is at least 1".into()));
    }
    if pace.job.stop_after.is_some_and(|percent| percent > 99) {
        return Err(ApiError::Invalid("stop_after is a share in percent, from 0 to 99".into()));
    }
    let now = state.inspect.now().await?;
    match &body.confirm {
        _ if body.dry_run.0 == Execution::DryRun => {
            return Ok(Json(preview(state, action, filter, body, headers, now).await?).into_response());
        }
        Some(given) => filter.as_of = Some(confirm::check(given, action, &filter, now)?),
        None if action.needs_confirmation(&filter) => {
            let Preview { count, as_of, confirm, .. } = preview(state, action, filter, body, headers, now).await?;
            return Err(ApiError::ConfirmationNeeded { action: action.as_str(), count, as_of, confirm });
        }
        None => {}
    }
    let request = body.into_request(headers, action, Selection::Filter(filter));
    if !pace.is_background {
        return Ok(Json(state.operate.operate(&request).await?).into_response());
    }
    match state.operate.start_job(&request, pace.job).await? {
        Some(job) => Ok((StatusCode::ACCEPTED, Json(job)).into_response()),
        None => Ok(Json(OperateReport::default()).into_response()),
    }
}

async fn preview(
    state: &HttpState,
    action: Action,
    filter: Filter,
    body: OperateBody,
    headers: &HeaderMap,
    now: Millis,
) -> Result<Preview, ApiError> {
    let as_of = filter.as_of.unwrap_or(now).min(now);
    let confirm = confirm::token(action, &filter, as_of);
    let selection = Selection::Filter(Filter { as_of: Some(as_of), ..filter });
    let request = OperateRequest { execution: Execution::DryRun, ..body.into_request(headers, action, selection) };
    let report = state.operate.operate(&request).await?;
    Ok(Preview { count: report.changed, report, as_of, confirm })
}

/// Refuses a filter that names an unknown type or saga, unless it is forced.
async fn check_names(state: &HttpState, filter: &Filter, is_forced: bool) -> Result<(), ApiError> {
    if is_forced || filter.r#type.is_none() && filter.saga.is_none() {
        return Ok(());
    }
    let served = (state.status)().served_types;
    Ok(state.inspect.overview().await?.check_filter(filter, &served)?)
}

/// The action that `word` names, with the options of the body.
async fn action(state: &HttpState, word: &str, body: &OperateBody, uri: &Uri) -> Result<Action, ApiError> {
    let lease = if body.force { LeasePolicy::Break } else { LeasePolicy::Respect };
    let action = match word {
        "replay" if body.new_effects => Action::Replay { keys: EffectKeys::New },
        "replay" => Action::Replay { keys: EffectKeys::Same },
        "dead" if body.skip_key => Action::Dead { on_dead: OnDead::Skip, lease },
        "dead" => Action::Dead { on_dead: OnDead::Block, lease },
        "restore" => Action::Restore,
        "reschedule" => Action::Reschedule { at: requested_time(state, body).await? },
        "release" => Action::Release { lease },
        "purge" => Action::Purge,
        _ => return Err(ApiError::NoRoute(uri.path().to_owned())),
    };
    for (given, name, owners) in [
        (body.new_effects, "new_effects", &["replay"][..]),
        (body.force && body.filter.is_none(), "force", &["dead", "release"]),
        (body.stop_after.is_some(), "stop_after", &["replay"]),
        (body.skip_key, "skip_key", &["dead"]),
        (body.available_at.is_some(), "available_at", &["reschedule"]),
        (body.delay_ms.is_some(), "delay_ms", &["reschedule"]),
    ] {
        if given && !owners.contains(&word) {
            return Err(ApiError::Invalid(format!("{name} belongs to {}: leave it out", owners.join(" and "))));
        }
    }
    Ok(action)
}

async fn requested_time(state: &HttpState, body: &OperateBody) -> Result<Millis, ApiError> {
    match (body.available_at, body.delay_ms) {
        (Some(at), None) => Ok(at),
        (None, Some(delay)) if let Ok(delay) = u64::try_from(delay) => {
            Ok(state.inspect.now().await?.saturating_add(Duration::from_millis(delay)))
        }
        _ => Err(ApiError::Invalid(r#"say when: either "available_at" or "delay_ms", in milliseconds"#.into())),
    }
}

/// The items that the body names. A filter must name a status, because an empty filter matches every item.
fn selection(ids: Option<Vec<ItemId>>, filter: Option<Filter>) -> Result<Selection, ApiError> {
    match (ids, filter) {
        (Some(ids), None) if !ids.is_empty() => Ok(Selection::Ids(ids)),
        (None, Some(filter)) if !filter.status.is_empty() => Ok(Selection::Filter(filter)),
        _ => Err(ApiError::Invalid(
            r#"say which items: either "ids": [1, 2] or "filter": {"status": ["DLQ"]} with at least one status"#.into(),
        )),
    }
}

impl OperateBody {
    fn into_request(self, headers: &HeaderMap, action: Action, selection: Selection) -> OperateRequest {
        let actor = actor(self.actor, headers);
        OperateRequest { action, selection, actor, reason: self.reason, execution: self.dry_run.0 }
    }
}

/// Who sends the request: what it claims in the body, else in the header `X-Actor`, else `http`. Nothing proves a claim,
/// because all callers have one token, so the audit trail marks it.
pub(crate) fn actor(given: Option<String>, headers: &HeaderMap) -> String {
    let header = || headers.get("x-actor").and_then(|value| value.to_str().ok()).map(str::to_owned);
    match given.or_else(header).filter(|claim| !claim.is_empty()) {
        Some(claim) => format!("{claim} (claimed)"),
        None => "http".to_owned(),
    }
}

/// The problem for a refused item: 404 when it does not exist, else 409.
fn problem_of(refused: &RefusedItem) -> ApiError {
    match &refused.reason {
        Refusal::NoSuchItem => ApiError::NoItem(refused.id.to_string()),
        reason => ApiError::Refused { id: refused.id, reason: reason.to_string() },
    }
}
