//! Operations on what is not an item: jobs, pauses, blocked keys; and what operators look at: groups of
//! failures, what is stuck, the audit trail.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};

use crate::body::BodyResult;
use crate::items::{QueryParameters, limit, number};
use crate::operate::{actor, execution, read_json};
use crate::problem::ApiError;
use crate::{HttpState, items};
use outbox_store::{
    AuditEntry, AuditQuery, Control, ControlReport, ControlRequest, FailureGroup, Job, JobId, Pause, StuckEntry,
    StuckQuery,
};

/// One page of any of these lists.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

/// A list under the name of what is in it.
macro_rules! listing {
    ($name:ident, $field:ident: $of:ty) => {
        #[derive(Serialize)]
        pub(crate) struct $name {
            $field: Vec<$of>,
        }
    };
}

listing!(JobList, jobs: Job);
listing!(PauseList, pauses: Pause);
listing!(FailureList, failures: FailureGroup);
listing!(StuckList, stuck: StuckEntry);
listing!(AuditPage, entries: AuditEntry);

/// `GET /jobs`: the newest first.
pub(crate) async fn jobs(
    State(state): State<Arc<HttpState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<JobList>, ApiError> {
    let mut most = DEFAULT_LIMIT;
    for (name, text) in query?.0 {
        match name.as_str() {
            "limit" => most = limit(&text, MAX_LIMIT)?,
            _ => return Err(unknown_parameter(&name, "limit")),
        }
    }
    Ok(Json(JobList { jobs: state.store.jobs(None, most).await? }))
}

/// `GET /jobs/{id}`: how far it is.
pub(crate) async fn job(
    State(state): State<Arc<HttpState>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Job>, ApiError> {
    let id = number("the job's id", &id?.0)?;
    find_job(&state, id).await.map(Json)
}

async fn find_job(state: &HttpState, id: JobId) -> Result<Job, ApiError> {
    state.store.jobs(Some(id), 1).await?.pop().ok_or(ApiError::NoJob(id))
}

/// Who asks for a command, and why. An empty body says nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ControlBody {
    actor: Option<String>,
    reason: Option<String>,
    dry_run: bool,
}

/// `POST /jobs/{id}/cancel`
pub(crate) async fn cancel(
    State(state): State<Arc<HttpState>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReport>, ApiError> {
    let job = number("the job's id", &id?.0)?;
    find_job(&state, job).await?;
    control(&state, Control::Cancel { job }, &headers, body).await
}

/// `POST /types/{type}/pause` and `/resume`
pub(crate) async fn pause_or_resume(
    State(state): State<Arc<HttpState>>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: BodyResult,
) -> Result<Json<ControlReport>, ApiError> {
    let Path((item_type, word)) = path?;
    let wanted = match word.as_str() {
        "pause" => Control::Pause { item_type },
        "resume" => Control::Resume { item_type },
        _ => return Err(ApiError::NoRoute(uri.path().to_owned())),
    };
    control(&state, wanted, &headers, body).await
}

/// `POST /keys/{key}/unblock`, the key percent-encoded
pub(crate) async fn unblock(
    State(state): State<Arc<HttpState>>,
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
    let request: ControlBody = read_json(state, headers, body, "the command")?;
    let actor = actor(request.actor, headers);
    let request = ControlRequest { control, actor, reason: request.reason, execution: execution(request.dry_run) };
    Ok(Json(state.store.control(&request).await?))
}

/// `GET /pauses`
pub(crate) async fn pauses(State(state): State<Arc<HttpState>>) -> Result<Json<PauseList>, ApiError> {
    Ok(Json(PauseList { pauses: state.store.pauses().await? }))
}

/// `GET /failures`: the DLQ by what its items died of; takes the filters of `GET /items`.
pub(crate) async fn failures(
    State(state): State<Arc<HttpState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<FailureList>, ApiError> {
    let (filter, page) = items::parse_filter(query?.0)?;
    Ok(Json(FailureList { failures: state.store.failures(&filter, page.limit).await? }))
}

/// `GET /stuck`: what does not move, why, and what helps.
pub(crate) async fn stuck(
    State(state): State<Arc<HttpState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<StuckList>, ApiError> {
    let mut wanted = StuckQuery::default();
    for (name, text) in query?.0 {
        match name.as_str() {
            "limit" => wanted.limit = limit(&text, MAX_LIMIT)?,
            "attempts" => wanted.attempts = number(&name, &text)?,
            "older_than_ms" => wanted.older_than = Duration::from_millis(number(&name, &text)?),
            _ => return Err(unknown_parameter(&name, "limit, attempts and older_than_ms")),
        }
    }
    let overview = state.store.overview().await?;
    wanted.served = Some(overview.served_types(&(state.status)().served_types));
    Ok(Json(StuckList { stuck: state.store.stuck(&wanted).await? }))
}

/// `GET /audit`: what operators did, the newest first.
pub(crate) async fn audit(
    State(state): State<Arc<HttpState>>,
    query: Result<QueryParameters, QueryRejection>,
) -> Result<Json<AuditPage>, ApiError> {
    let mut wanted = AuditQuery { limit: DEFAULT_LIMIT, ..AuditQuery::default() };
    for (name, text) in query?.0 {
        match name.as_str() {
            "limit" => wanted.limit = limit(&text, MAX_LIMIT)?,
            "item" => wanted.item = Some(number(&name, &text)?),
            "job" => wanted.job = Some(number(&name, &text)?),
            "from" => wanted.from = Some(number(&name, &text)?),
            "to" => wanted.to = Some(number(&name, &text)?),
            "before" => wanted.before = Some(number(&name, &text)?),
            "actor" => wanted.actor = Some(text),
            "action" => wanted.action = Some(text),
            _ => return Err(unknown_parameter(&name, "limit, item, job, from, to, before, actor and action")),
        }
    }
    Ok(Json(AuditPage { entries: state.store.audit(&wanted).await? }))
}

fn unknown_parameter(name: &str, accepted: &str) -> ApiError {
    ApiError::Invalid(format!("the query has {name:?}: what is understood is {accepted}"))
}
