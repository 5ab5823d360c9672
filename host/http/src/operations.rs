//! Operations on jobs, types and ordering keys, and the lists that operators read: jobs, pauses, groups of failures,
//! what is stuck, the audit trail.
//!
//! Actions on items are in `operate.rs`; the names of the query parameters are in `query.rs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;

use outbox_item::Status;
use outbox_store::{Control, ControlReport, ControlRequest, Job, JobId, unknown_fairness_key, unknown_ordering_key};

use crate::access::Caller;
use crate::answers::{
    AuditPage, ControlReportView, FailureList, JobDetailsView, JobListView, KeyTotalsList, PauseList, Sight, StuckList,
};
use crate::body::{BodyResult, DryRun, json_or_default};
use crate::description::{
    AuditParameters, FilterBody, KeyTotalsParameters, LimitParameter, PageParameters, StuckParameters,
};
use crate::operate::actor;
use crate::problem::ApiError;
use crate::query::{QueryParameters, audit_query, filter_and_page, job_limit, key_totals_query, number, stuck_query};
use crate::server_state::ServerState;
use crate::state::HttpState;

/// The newest jobs
#[utoipa::path(get, path = "/jobs", operation_id = "list_jobs", tag = "jobs", params(LimitParameter),
    responses((status = 200, description = "The jobs, newest first", body = JobListView)))]
pub(crate) async fn jobs(
    State(state): State<Arc<ServerState>>,
    caller: Caller,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<JobListView>, ApiError> {
    let limit = job_limit(query?.0)?;
    let jobs = state.inspect.jobs(None, limit).await?;
    Ok(Json(JobListView::of(jobs, &Sight::of(&caller, &state.settings()))))
}

/// One job with its progress, and what became of its items
#[utoipa::path(get, path = "/jobs/{id}", operation_id = "show_job", tag = "jobs",
    params(("id" = String, Path, description = "The number of the job", example = "1")),
    responses((status = 200, description = "The job", body = JobDetailsView)))]
pub(crate) async fn job(
    State(state): State<Arc<ServerState>>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<JobDetailsView>, ApiError> {
    let id = number("the job's id", &id?.0)?;
    let job = find_job(&state, id).await?;
    let outcome = state.inspect.job_outcome(id).await?;
    Ok(Json(JobDetailsView::of(job, outcome, &Sight::of(&caller, &state.settings()))))
}

pub(crate) async fn find_job(state: &HttpState, id: JobId) -> Result<Job, ApiError> {
    state.inspect.jobs(Some(id), 1).await?.pop().ok_or(ApiError::NoJob(id))
}

/// The body of a control request. An empty body leaves every member at its default.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ControlBody {
    /// Who the caller claims to be, where nothing proves who it is; takes precedence over the header `X-Actor`.
    actor: Option<String>,
    /// Why, for the audit trail.
    reason: Option<String>,
    /// Only say what would be changed.
    #[schema(value_type = bool)]
    dry_run: DryRun,
    /// Of `pause`, `resume` and `unblock`: also an unknown name.
    force: bool,
}

/// Stop a job
///
/// What it has changed stays changed.
#[utoipa::path(post, path = "/jobs/{id}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(("id" = String, Path, description = "The number of the job", example = "1")),
    request_body = ControlBody, responses((status = 200, description = "Whether it was running", body = ControlReportView)))]
pub(crate) async fn cancel(
    State(state): State<Arc<ServerState>>,
    id: Result<Path<String>, PathRejection>,
    caller: Caller,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReportView>, ApiError> {
    let job = number("the job's id", &id?.0)?;
    find_job(&state, job).await?;
    control(&state, Control::Cancel { job }, &caller, &headers, body).await
}

/// Claim no items of a type any more
///
/// Attempts under way go on.
#[utoipa::path(post, path = "/types/{type}/pause", operation_id = "pause_type", tag = "types and keys",
    params(("type" = String, Path, description = "The type", example = "mail")),
    request_body = ControlBody, responses((status = 200, description = "Whether it was claimed", body = ControlReportView)))]
pub(crate) async fn pause(
    State(state): State<Arc<ServerState>>,
    item_type: Result<Path<String>, PathRejection>,
    caller: Caller,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReportView>, ApiError> {
    control(&state, Control::Pause { item_type: item_type?.0 }, &caller, &headers, body).await
}

/// Claim items of a paused type again
#[utoipa::path(post, path = "/types/{type}/resume", operation_id = "resume_type", tag = "types and keys",
    params(("type" = String, Path, description = "The type", example = "fax")),
    request_body = ControlBody, responses((status = 200, description = "Whether it was paused", body = ControlReportView)))]
pub(crate) async fn resume(
    State(state): State<Arc<ServerState>>,
    item_type: Result<Path<String>, PathRejection>,
    caller: Caller,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReportView>, ApiError> {
    control(&state, Control::Resume { item_type: item_type?.0 }, &caller, &headers, body).await
}

/// The body of a request about a fairness key. An empty body leaves every member at its default.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct KeyControlBody {
    /// Only items of this type.
    r#type: Option<String>,
    /// Who the caller claims to be, where nothing proves who it is; takes precedence over the header `X-Actor`.
    actor: Option<String>,
    /// Why, for the audit trail.
    reason: Option<String>,
    /// Only say what would be changed.
    #[schema(value_type = bool)]
    dry_run: DryRun,
    /// Also an unknown key.
    force: bool,
}

/// Claim no items with a fairness key any more
///
/// Attempts under way go on.
#[utoipa::path(post, path = "/fairness-keys/{key}/pause", operation_id = "pause_key", tag = "types and keys",
    params(("key" = String, Path, description = "The fairness key, percent-encoded", example = "acme")),
    request_body = KeyControlBody,
    responses((status = 200, description = "Whether it was claimed", body = ControlReportView)))]
pub(crate) async fn pause_key(
    State(state): State<Arc<ServerState>>,
    key: Result<Path<String>, PathRejection>,
    caller: Caller,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReportView>, ApiError> {
    let pause = |fairness_key, item_type| Control::PauseKey { fairness_key, item_type };
    control_key(&state, pause, key?.0, &caller, (&headers, body)).await
}

/// Claim items with a fairness key again
///
/// Without a type every pause of the key ends.
#[utoipa::path(post, path = "/fairness-keys/{key}/resume", operation_id = "resume_key", tag = "types and keys",
    params(("key" = String, Path, description = "The fairness key, percent-encoded", example = "late")),
    request_body = KeyControlBody,
    responses((status = 200, description = "Whether it was paused", body = ControlReportView)))]
pub(crate) async fn resume_key(
    State(state): State<Arc<ServerState>>,
    key: Result<Path<String>, PathRejection>,
    caller: Caller,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReportView>, ApiError> {
    let resume = |fairness_key, item_type| Control::ResumeKey { fairness_key, item_type };
    control_key(&state, resume, key?.0, &caller, (&headers, body)).await
}

async fn control_key(
    state: &HttpState,
    control: impl FnOnce(String, Option<String>) -> Control,
    key: String,
    caller: &Caller,
    (headers, body): (&HeaderMap, BodyResult),
) -> Result<Json<ControlReportView>, ApiError> {
    let KeyControlBody { r#type, actor, reason, dry_run, force } = json_or_default(headers, body, "the command")?;
    let body = ControlBody { actor, reason, dry_run, force };
    send(state, control(key, r#type), caller, headers, body).await
}

/// Let the items behind dead items of an ordering key go on
#[utoipa::path(post, path = "/keys/{key}/unblock", operation_id = "unblock_key", tag = "types and keys",
    params(("key" = String, Path, description = "The ordering key, percent-encoded", example = "order-7")),
    request_body = ControlBody, responses((status = 200, description = "What no longer blocks", body = ControlReportView)))]
pub(crate) async fn unblock(
    State(state): State<Arc<ServerState>>,
    key: Result<Path<String>, PathRejection>,
    caller: Caller,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReportView>, ApiError> {
    control(&state, Control::Unblock { ordering_key: key?.0 }, &caller, &headers, body).await
}

async fn control(
    state: &HttpState,
    control: Control,
    caller: &Caller,
    headers: &HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReportView>, ApiError> {
    let body = json_or_default(headers, body, "the command")?;
    send(state, control, caller, headers, body).await
}

async fn send(
    state: &HttpState,
    control: Control,
    caller: &Caller,
    headers: &HeaderMap,
    body: ControlBody,
) -> Result<Json<ControlReportView>, ApiError> {
    let ControlBody { actor: given, reason, dry_run, force } = body;
    let request = ControlRequest { control, actor: actor(given, caller, headers), reason, execution: dry_run.0 };
    Ok(Json(carry_out(state, &request, force).await?.into()))
}

/// Changes a type, a key or a job. One that nothing is known of is refused, unless the request is forced.
pub(crate) async fn carry_out(
    state: &HttpState,
    request: &ControlRequest,
    is_forced: bool,
) -> Result<ControlReport, ApiError> {
    if !is_forced {
        check_name(state, &request.control).await?;
    }
    Ok(state.operate.control(request).await?)
}

/// Refuses an unknown type or key. A paused one is known.
async fn check_name(state: &HttpState, control: &Control) -> Result<(), ApiError> {
    match control {
        Control::Pause { item_type } | Control::Resume { item_type } => {
            control.validate().map_err(|invalid| invalid.source)?;
            check_type(state, item_type).await
        }
        Control::PauseKey { fairness_key, item_type } | Control::ResumeKey { fairness_key, item_type } => {
            control.validate().map_err(|invalid| invalid.source)?;
            if let Some(item_type) = item_type {
                check_type(state, item_type).await?;
            }
            match unknown_fairness_key(&*state.inspect, fairness_key).await? {
                Some(unknown) => Err(unknown.into()),
                None => Ok(()),
            }
        }
        Control::Unblock { ordering_key } => match unknown_ordering_key(&*state.inspect, ordering_key).await? {
            Some(unknown) => Err(unknown.into()),
            None => Ok(()),
        },
        Control::Switch { .. } | Control::Cancel { .. } | Control::RollBack { .. } | Control::ReserveIds { .. } => {
            Ok(())
        }
    }
}

async fn check_type(state: &HttpState, item_type: &str) -> Result<(), ApiError> {
    let mut known = (state.status)().served_types;
    known.extend(state.inspect.pauses().await?.into_iter().map(|pause| pause.r#type));
    known.extend(state.inspect.key_pauses().await?.into_iter().filter_map(|pause| pause.r#type));
    Ok(state.inspect.overview().await?.check_type(item_type, &known)?)
}

/// Fairness keys, those with the most waiting items first
#[utoipa::path(get, path = "/fairness-keys", operation_id = "list_fairness_keys", tag = "types and keys",
    params(KeyTotalsParameters),
    responses((status = 200, description = "The keys with unfinished or dead items", body = KeyTotalsList)))]
pub(crate) async fn key_totals(
    State(state): State<Arc<ServerState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<KeyTotalsList>, ApiError> {
    let (item_type, limit) = key_totals_query(query?.0)?;
    Ok(Json(state.inspect.key_totals(item_type.as_deref(), limit).await?.into()))
}

/// What is paused
#[utoipa::path(get, path = "/pauses", operation_id = "list_pauses", tag = "types and keys",
    responses((status = 200, description = "The pauses", body = PauseList)))]
pub(crate) async fn pauses(State(state): State<Arc<ServerState>>) -> Result<Json<PauseList>, ApiError> {
    Ok(Json(PauseList::of(state.inspect.pauses().await?, state.inspect.key_pauses().await?)))
}

/// Dead items, grouped by failure
///
/// With `status=PENDING` those that wait for another attempt.
#[utoipa::path(get, path = "/failures", operation_id = "list_failures", tag = "items", params(FilterBody, PageParameters),
    responses((status = 200, description = "The groups, the largest first", body = FailureList)))]
pub(crate) async fn failures(
    State(state): State<Arc<ServerState>>,
    caller: Caller,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<FailureList>, ApiError> {
    let (filter, page) = filter_and_page(query?.0)?;
    caller.require_to_search(&filter, &state.settings().redaction)?;
    let _place = state.content_place(&filter).await;
    let failures = if filter.status == [Status::Pending] {
        state.inspect.retrying_failures(&filter, page.limit).await?
    } else {
        state.inspect.failures(&filter, page.limit).await?
    };
    Ok(Json(FailureList::of(failures, &Sight::of(&caller, &state.settings()))))
}

/// What makes no progress, with the reason and the remedy
#[utoipa::path(get, path = "/stuck", operation_id = "list_stuck", tag = "items", params(StuckParameters),
    responses((status = 200, description = "A bounded number of each kind", body = StuckList)))]
pub(crate) async fn stuck(
    State(state): State<Arc<ServerState>>,
    caller: Caller,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<StuckList>, ApiError> {
    let mut query = stuck_query(query?.0)?;
    let overview = state.inspect.overview().await?;
    query.served = Some(overview.served_types(&(state.status)().served_types));
    let stuck = state.inspect.stuck(&query).await?;
    Ok(Json(StuckList::of(stuck, &Sight::of(&caller, &state.settings()))))
}

/// What operators did
#[utoipa::path(get, path = "/audit", operation_id = "list_audit", tag = "audit", params(AuditParameters),
    responses((status = 200, description = "The entries, newest first", body = AuditPage)))]
pub(crate) async fn audit(
    State(state): State<Arc<ServerState>>,
    caller: Caller,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<AuditPage>, ApiError> {
    let query = audit_query(query?.0)?;
    let entries = state.inspect.audit(&query).await?;
    Ok(Json(AuditPage::of(entries, &Sight::of(&caller, &state.settings()))))
}
