//! Operations on jobs, types and ordering keys, and the lists that operators read: jobs, pauses, groups of failures,
//! what is stuck, the audit trail.
//!
//! Actions on items are in `operate.rs`; the names of the query parameters are in `query.rs`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};

use outbox_item::Status;
use outbox_store::{
    AuditEntry, Control, ControlReport, ControlRequest, FailureGroup, Job, JobId, JobOutcome, KeyPause, KeyTotals,
    Pause, StuckEntry, unknown_fairness_key, unknown_ordering_key,
};

use crate::body::{BodyResult, DryRun, json_or_default};
use crate::operate::actor;
use crate::problem::ApiError;
use crate::query::{QueryParameters, audit_query, filter_and_page, job_limit, key_totals_query, number, stuck_query};
use crate::server_state::ServerState;
use crate::state::HttpState;

/// Declares a JSON object whose only member is a list.
macro_rules! listing {
    ($name:ident, $field:ident: $of:ty) => {
        #[derive(Serialize)]
        pub(crate) struct $name {
            $field: Vec<$of>,
        }
    };
}

listing!(JobList, jobs: Job);
listing!(KeyTotalsList, keys: KeyTotals);
listing!(FailureList, failures: FailureGroup);
listing!(StuckList, stuck: StuckEntry);
listing!(AuditPage, entries: AuditEntry);

/// What is paused.
#[derive(Serialize)]
pub(crate) struct PauseList {
    pauses: Vec<Pause>,
    /// The fairness keys.
    keys: Vec<KeyPause>,
}

/// `GET /jobs`: the newest first.
pub(crate) async fn jobs(
    State(state): State<Arc<ServerState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<JobList>, ApiError> {
    let limit = job_limit(query?.0)?;
    Ok(Json(JobList { jobs: state.inspect.jobs(None, limit).await? }))
}

/// A job, and what became of its items.
#[derive(Serialize)]
pub(crate) struct JobDetails {
    #[serde(flatten)]
    job: Job,
    outcome: JobOutcome,
}

/// `GET /jobs/{id}`: one job with its progress, and what became of its items.
pub(crate) async fn job(
    State(state): State<Arc<ServerState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<JobDetails>, ApiError> {
    let id = number("the job's id", &id?.0)?;
    let job = find_job(&state, id).await?;
    Ok(Json(JobDetails { job, outcome: state.inspect.job_outcome(id).await? }))
}

async fn find_job(state: &HttpState, id: JobId) -> Result<Job, ApiError> {
    state.inspect.jobs(Some(id), 1).await?.pop().ok_or(ApiError::NoJob(id))
}

/// The body of a control request. An empty body leaves every member at its default.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ControlBody {
    /// Takes precedence over the header `X-Actor`.
    actor: Option<String>,
    reason: Option<String>,
    dry_run: DryRun,
    /// Of `pause`, `resume` and `unblock`: also an unknown name.
    force: bool,
}

/// The body of a request about a fairness key.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KeyControlBody {
    /// Only items of this type.
    r#type: Option<String>,
    actor: Option<String>,
    reason: Option<String>,
    dry_run: DryRun,
    force: bool,
}

/// `POST /jobs/{id}/cancel`
pub(crate) async fn cancel(
    State(state): State<Arc<ServerState>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReport>, ApiError> {
    let job = number("the job's id", &id?.0)?;
    find_job(&state, job).await?;
    control(&state, Control::Cancel { job }, &headers, body).await
}

/// `POST /types/{type}/pause` and `POST /types/{type}/resume`
pub(crate) async fn pause_or_resume(
    State(state): State<Arc<ServerState>>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReport>, ApiError> {
    let Path((item_type, word)) = path?;
    let requested = match word.as_str() {
        "pause" => Control::Pause { item_type },
        "resume" => Control::Resume { item_type },
        _ => return Err(ApiError::NoRoute(uri.path().to_owned())),
    };
    control(&state, requested, &headers, body).await
}

/// `POST /fairness-keys/{key}/pause` and `POST /fairness-keys/{key}/resume`, with the key percent-encoded
pub(crate) async fn pause_or_resume_key(
    State(state): State<Arc<ServerState>>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReport>, ApiError> {
    let Path((fairness_key, word)) = path?;
    let KeyControlBody { r#type: item_type, actor, reason, dry_run, force } =
        json_or_default(&headers, body, "the command")?;
    let requested = match word.as_str() {
        "pause" => Control::PauseKey { fairness_key, item_type },
        "resume" => Control::ResumeKey { fairness_key, item_type },
        _ => return Err(ApiError::NoRoute(uri.path().to_owned())),
    };
    send(&state, requested, &headers, ControlBody { actor, reason, dry_run, force }).await
}

/// `POST /keys/{key}/unblock`, with the key percent-encoded
pub(crate) async fn unblock(
    State(state): State<Arc<ServerState>>,
    key: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReport>, ApiError> {
    control(&state, Control::Unblock { ordering_key: key?.0 }, &headers, body).await
}

async fn control(
    state: &HttpState,
    control: Control,
    headers: &HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReport>, ApiError> {
    let body = json_or_default(headers, body, "the command")?;
    send(state, control, headers, body).await
}

async fn send(
    state: &HttpState,
    control: Control,
    headers: &HeaderMap,
    body: ControlBody,
) -> Result<Json<ControlReport>, ApiError> {
    let ControlBody { actor: given, reason, dry_run, force } = body;
    if !force {
        check_name(state, &control).await?;
    }
    let request = ControlRequest { control, actor: actor(given, headers), reason, execution: dry_run.0 };
    Ok(Json(state.operate.control(&request).await?))
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
    Ok(state.inspect.overview().await?.check_type(item_type, &known)?)
}

/// `GET /fairness-keys`: those with the most waiting items first.
pub(crate) async fn key_totals(
    State(state): State<Arc<ServerState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<KeyTotalsList>, ApiError> {
    let (item_type, limit) = key_totals_query(query?.0)?;
    Ok(Json(KeyTotalsList { keys: state.inspect.key_totals(item_type.as_deref(), limit).await? }))
}

/// `GET /pauses`
pub(crate) async fn pauses(State(state): State<Arc<ServerState>>) -> Result<Json<PauseList>, ApiError> {
    Ok(Json(PauseList { pauses: state.inspect.pauses().await?, keys: state.inspect.key_pauses().await? }))
}

/// `GET /failures`: dead-lettered items, grouped by failure. Takes the parameters of `GET /items`.
pub(crate) async fn failures(
    State(state): State<Arc<ServerState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<FailureList>, ApiError> {
    let (filter, page) = filter_and_page(query?.0)?;
    let failures = if filter.status == [Status::Pending] {
        state.inspect.retrying_failures(&filter, page.limit).await?
    } else {
        state.inspect.failures(&filter, page.limit).await?
    };
    Ok(Json(FailureList { failures }))
}

/// `GET /stuck`: what makes no progress, with the reason and the remedy.
pub(crate) async fn stuck(
    State(state): State<Arc<ServerState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<StuckList>, ApiError> {
    let mut query = stuck_query(query?.0)?;
    let overview = state.inspect.overview().await?;
    query.served = Some(overview.served_types(&(state.status)().served_types));
    Ok(Json(StuckList { stuck: state.inspect.stuck(&query).await? }))
}

/// `GET /audit`: what operators did, the newest first.
pub(crate) async fn audit(
    State(state): State<Arc<ServerState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<AuditPage>, ApiError> {
    let query = audit_query(query?.0)?;
    Ok(Json(AuditPage { entries: state.inspect.audit(&query).await? }))
}
