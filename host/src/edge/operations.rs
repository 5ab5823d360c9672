//! Operations on what is not an item: jobs, pauses, blocked keys; and what operators look at: groups of
//! failures, what is stuck, the audit trail.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use serde::{Deserialize, Serialize};

use super::Edge;
use super::body::Received;
use super::error::ApiError;
use super::items::{self, Parameters, limit, number};
use super::operate::{actor, read, run};
use crate::store::{
    AuditEntry, AuditQuery, Command, Control, Controlled, FailureGroup, Job, JobId, Pause, Stuck, StuckQuery,
};

/// One page of any of these lists.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1000;

/// A list under the name of what is in it.
macro_rules! listing {
    ($name:ident, $field:ident: $of:ty) => {
        #[derive(Serialize)]
        pub(super) struct $name {
            $field: Vec<$of>,
        }
    };
}

listing!(Jobs, jobs: Job);
listing!(Pauses, pauses: Pause);
listing!(Failures, failures: FailureGroup);
listing!(Standstills, stuck: Stuck);
listing!(Trail, entries: AuditEntry);

/// `GET /jobs`: the newest first.
pub(super) async fn jobs(
    State(edge): State<Arc<Edge>>,
    query: Result<Parameters, QueryRejection>,
) -> Result<Json<Jobs>, ApiError> {
    let mut most = DEFAULT_LIMIT;
    for (name, text) in query?.0 {
        match name.as_str() {
            "limit" => most = limit(&text, MAX_LIMIT)?,
            _ => return Err(unknown(&name, "limit")),
        }
    }
    Ok(Json(Jobs { jobs: edge.store.jobs(None, most).await? }))
}

/// `GET /jobs/{id}`: how far it is.
pub(super) async fn job(
    State(edge): State<Arc<Edge>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Job>, ApiError> {
    let id = number("the job's id", &id?.0)?;
    the_job(&edge, id).await.map(Json)
}

async fn the_job(edge: &Edge, id: JobId) -> Result<Job, ApiError> {
    edge.store.jobs(Some(id), 1).await?.pop().ok_or(ApiError::NoJob(id))
}

/// Who asks for a command, and why. An empty body says nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CommandDocument {
    actor: Option<String>,
    reason: Option<String>,
    dry_run: bool,
}

/// `POST /jobs/{id}/cancel`
pub(super) async fn cancel(
    State(edge): State<Arc<Edge>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Received,
) -> Result<Json<Controlled>, ApiError> {
    let job = number("the job's id", &id?.0)?;
    the_job(&edge, job).await?;
    control(&edge, Control::Cancel { job }, &headers, body).await
}

/// `POST /types/{type}/pause` and `/resume`
pub(super) async fn pause_or_resume(
    State(edge): State<Arc<Edge>>,
    path: Result<Path<(String, String)>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: Received,
) -> Result<Json<Controlled>, ApiError> {
    let Path((item_type, word)) = path?;
    let wanted = match word.as_str() {
        "pause" => Control::Pause { item_type },
        "resume" => Control::Resume { item_type },
        _ => return Err(ApiError::NoRoute(uri.path().to_owned())),
    };
    control(&edge, wanted, &headers, body).await
}

/// `POST /keys/{key}/unblock`, the key percent-encoded
pub(super) async fn unblock(
    State(edge): State<Arc<Edge>>,
    key: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Received,
) -> Result<Json<Controlled>, ApiError> {
    control(&edge, Control::Unblock { ordering_key: key?.0 }, &headers, body).await
}

async fn control(
    edge: &Edge,
    control: Control,
    headers: &HeaderMap,
    body: Received,
) -> Result<Json<Controlled>, ApiError> {
    let document: CommandDocument = read(edge, headers, body, "the command")?;
    let actor = actor(document.actor, headers);
    let command = Command { control, actor, reason: document.reason, run: run(document.dry_run) };
    Ok(Json(edge.store.control(&command).await?))
}

/// `GET /pauses`
pub(super) async fn pauses(State(edge): State<Arc<Edge>>) -> Result<Json<Pauses>, ApiError> {
    Ok(Json(Pauses { pauses: edge.store.pauses().await? }))
}

/// `GET /failures`: the DLQ by what its items died of; takes the filters of `GET /items`.
pub(super) async fn failures(
    State(edge): State<Arc<Edge>>,
    query: Result<Parameters, QueryRejection>,
) -> Result<Json<Failures>, ApiError> {
    let (filter, page) = items::parse(query?.0)?;
    Ok(Json(Failures { failures: edge.store.failures(&filter, page.limit).await? }))
}

/// `GET /stuck`: what does not move, why, and what helps.
pub(super) async fn stuck(
    State(edge): State<Arc<Edge>>,
    query: Result<Parameters, QueryRejection>,
) -> Result<Json<Standstills>, ApiError> {
    let mut wanted = StuckQuery::default();
    for (name, text) in query?.0 {
        match name.as_str() {
            "limit" => wanted.limit = limit(&text, MAX_LIMIT)?,
            "attempts" => wanted.attempts = number(&name, &text)?,
            "older_than_ms" => wanted.older_than = Duration::from_millis(number(&name, &text)?),
            _ => return Err(unknown(&name, "limit, attempts and older_than_ms")),
        }
    }
    let overview = edge.store.overview().await?;
    wanted.served = Some(overview.served(&(edge.status)().served_types));
    Ok(Json(Standstills { stuck: edge.store.stuck(&wanted).await? }))
}

/// `GET /audit`: what operators did, the newest first.
pub(super) async fn audit(
    State(edge): State<Arc<Edge>>,
    query: Result<Parameters, QueryRejection>,
) -> Result<Json<Trail>, ApiError> {
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
            _ => return Err(unknown(&name, "limit, item, job, from, to, before, actor and action")),
        }
    }
    Ok(Json(Trail { entries: edge.store.audit(&wanted).await? }))
}

fn unknown(name: &str, accepted: &str) -> ApiError {
    ApiError::Invalid(format!("the query has {name:?}: what is understood is {accepted}"))
}
