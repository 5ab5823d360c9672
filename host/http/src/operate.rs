//! Operator actions on one item or on all items that match.
//!
//! Owns how a request names an action and its items. The store decides which status allows which action, and audits it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts as _, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;

use outbox_core::OnDead;
use outbox_item::{ItemId, Millis};
use outbox_store::{
    Action, EffectKeys, Execution, Filter, Job, JobPace, LeasePolicy, OperateReport, OperateRequest, Refusal,
    RefusedItem, Selection,
};

use crate::access::Caller;
use crate::answers::{JobView, OperateReportView, PreviewView, Sight};
use crate::body::{BodyResult, DryRun, RequestBody, json_or_default};
use crate::confirm;
use crate::description::{FilterBody, SentId, UnixMillis};
use crate::items::named_item;
use crate::problem::ApiError;
use crate::server_state::ServerState;
use crate::state::HttpState;

/// The body of an operator's request. An empty body leaves every member at its default.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of a JSON document")]
pub(crate) struct OperateBody {
    /// The items; where the path does not name one, these or a filter.
    #[schema(value_type = Option<Vec<SentId>>)]
    ids: Option<Vec<ItemId>>,
    /// All items that match; it names at least one status.
    #[schema(value_type = Option<FilterBody>)]
    filter: Option<Filter>,
    /// Who the caller claims to be, where nothing proves who it is; takes precedence over the header `X-Actor`.
    actor: Option<String>,
    /// Why, for the audit trail.
    reason: Option<String>,
    /// Only say what would be changed.
    #[schema(value_type = bool)]
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
    #[schema(value_type = Option<UnixMillis>)]
    available_at: Option<Millis>,
    /// Of `reschedule`: the new time as a delay from now, in milliseconds.
    delay_ms: Option<i64>,
    /// Of a dry run with a filter: look at the first so many items only. Pages do so where very many match.
    #[serde(skip)]
    pub(crate) look_at: Option<u32>,
}

/// What every action is given besides its items.
pub(crate) struct Order {
    state: Arc<ServerState>,
    caller: Caller,
    headers: HeaderMap,
    body: BodyResult,
}

impl FromRequest<Arc<ServerState>> for Order {
    type Rejection = Infallible;

    async fn from_request(request: Request, state: &Arc<ServerState>) -> Result<Self, Infallible> {
        let (mut parts, body) = request.into_parts();
        let Ok(caller) = Caller::from_request_parts(&mut parts, state).await;
        let headers = parts.headers.clone();
        let body = RequestBody::from_request(Request::from_parts(parts, body), state).await;
        Ok(Self { state: Arc::clone(state), caller, headers, body })
    }
}

/// Performs the action that `word` names on one item, which `id` names by its id or by its idempotency key.
pub(crate) async fn operate_one(
    order: Order,
    word: &'static str,
    id: String,
) -> Result<Json<OperateReportView>, ApiError> {
    let Order { state, caller, headers, body } = order;
    let id = named_item(&state, &id).await?;
    let request: OperateBody = json_or_default(&headers, body, "the order")?;
    if request.ids.is_some() || request.filter.is_some() || request.confirm.is_some() {
        return Err(ApiError::Invalid("the path names the item: leave ids, filter and confirm out".into()));
    }
    let action = action(&state, word, &request).await?;
    let by = actor(request.actor.clone(), &caller, &headers);
    let request = request.into_request(by, action, Selection::Ids(vec![id]));
    let report = state.operate.operate(&request).await?;
    match report.refused.first() {
        None => Ok(Json(report.into())),
        Some(refused) => Err(problem_of(refused)),
    }
}

/// Performs the action that `word` names on all items that the body names: 200 with a report, or 202 with a job that
/// continues in the background.
pub(crate) async fn operate_matching(order: Order, word: &'static str) -> Result<Response, ApiError> {
    let Order { state, caller, headers, body } = order;
    let mut request: OperateBody = json_or_default(&headers, body, "the order")?;
    let by = actor(request.actor.take(), &caller, &headers);
    let sight = Sight::of(&caller, &state.settings());
    Ok(match perform(&state, &caller, by, word, request).await? {
        Performed::Report(report) => Json(OperateReportView::from(report)).into_response(),
        Performed::Preview(preview) => Json(PreviewView::from(preview)).into_response(),
        Performed::Job(job) => (StatusCode::ACCEPTED, Json(JobView::of(*job, &sight))).into_response(),
    })
}

/// What an order led to.
pub(crate) enum Performed {
    /// It was carried out, or would be.
    Report(OperateReport),
    /// It would be carried out like this, with a filter.
    Preview(Preview),
    /// It goes on in the background.
    Job(Box<Job>),
}

/// What an action with a filter would change.
pub(crate) struct Preview {
    pub(crate) report: OperateReport,
    /// The time for which this holds.
    pub(crate) as_of: Millis,
    /// What the action needs, to be carried out on these items and no later ones.
    pub(crate) confirm: String,
}

impl From<Preview> for PreviewView {
    fn from(Preview { report, as_of, confirm }: Preview) -> Self {
        Self { count: report.changed, report: report.into(), as_of, confirm }
    }
}

/// Performs the action that `word` names on all items that the order names, as `by`. What matches nothing needs no job.
pub(crate) async fn perform(
    state: &HttpState,
    caller: &Caller,
    by: String,
    word: &'static str,
    mut request: OperateBody,
) -> Result<Performed, ApiError> {
    let action = action(state, word, &request).await?;
    let pace = Pace::of(&request);
    match selection(request.ids.take(), request.filter.take())? {
        Selection::Ids(_) if pace.is_given() || request.confirm.is_some() => {
            Err(ApiError::Invalid("background, per_second, stop_after and confirm belong to a filter".into()))
        }
        Selection::Ids(ids) => {
            let request = request.into_request(by, action, Selection::Ids(ids));
            Ok(Performed::Report(state.operate.operate(&request).await?))
        }
        Selection::Filter(filter) => {
            caller.require_to_search(&filter, &state.settings().redaction)?;
            check_names(state, &filter, request.force).await?;
            operate_filter(state, action, filter, request, pace, by).await
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

async fn operate_filter(
    state: &HttpState,
    action: Action,
    mut filter: Filter,
    body: OperateBody,
    pace: Pace,
    by: String,
) -> Result<Performed, ApiError> {
    if pace.job.per_second == Some(0) {
        return Err(ApiError::Invalid("per_second is at least 1".into()));
    }
    if pace.job.stop_after.is_some_and(|percent| percent > 99) {
        return Err(ApiError::Invalid("stop_after is a share in percent, from 0 to 99".into()));
    }
    let now = state.inspect.now().await?;
    match &body.confirm {
        _ if body.dry_run.0 == Execution::DryRun => {
            return Ok(Performed::Preview(preview(state, action, filter, body, by, now).await?));
        }
        Some(given) => filter.as_of = Some(confirm::check(given, action, &filter, now)?),
        None if action.needs_confirmation(&filter) => {
            let Preview { report, as_of, confirm } = preview(state, action, filter, body, by, now).await?;
            let (action, count) = (action.as_str(), report.changed);
            return Err(ApiError::ConfirmationNeeded { action, count, as_of, confirm });
        }
        None => {}
    }
    let request = body.into_request(by, action, Selection::Filter(filter));
    if !pace.is_background {
        return Ok(Performed::Report(state.operate.operate(&request).await?));
    }
    Ok(match state.operate.start_job(&request, pace.job).await? {
        Some(job) => Performed::Job(Box::new(job)),
        None => Performed::Report(OperateReport::default()),
    })
}

async fn preview(
    state: &HttpState,
    action: Action,
    filter: Filter,
    body: OperateBody,
    by: String,
    now: Millis,
) -> Result<Preview, ApiError> {
    let as_of = filter.as_of.unwrap_or(now).min(now);
    let confirm = confirm::token(action, &filter, as_of);
    let first = body.look_at.or(filter.first);
    let selection = Selection::Filter(Filter { as_of: Some(as_of), first, ..filter });
    let request = OperateRequest { execution: Execution::DryRun, ..body.into_request(by, action, selection) };
    Ok(Preview { report: state.operate.operate(&request).await?, as_of, confirm })
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
async fn action(state: &HttpState, word: &'static str, body: &OperateBody) -> Result<Action, ApiError> {
    let lease = if body.force { LeasePolicy::Break } else { LeasePolicy::Respect };
    let action = match word {
        "replay" if body.new_effects => Action::Replay { keys: EffectKeys::New },
        "replay" => Action::Replay { keys: EffectKeys::Same },
        "dead" if body.skip_key => Action::Dead { on_dead: OnDead::Skip, lease },
        "dead" => Action::Dead { on_dead: OnDead::Block, lease },
        "restore" => Action::Restore,
        "reschedule" => Action::Reschedule { at: requested_time(state, body).await? },
        "release" => Action::Release { lease },
        _ => Action::Purge,
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
    fn into_request(self, actor: String, action: Action, selection: Selection) -> OperateRequest {
        OperateRequest { action, selection, actor, reason: self.reason, execution: self.dry_run.0 }
    }
}

/// Who the audit trail says sends the request. The body or the header `X-Actor` can claim a name.
pub(crate) fn actor(given: Option<String>, caller: &Caller, headers: &HeaderMap) -> String {
    let header = || headers.get("x-actor").and_then(|value| value.to_str().ok()).map(str::to_owned);
    caller.actor(given.or_else(header))
}

/// The problem for a refused item: 404 when it does not exist, else 409.
fn problem_of(refused: &RefusedItem) -> ApiError {
    match &refused.reason {
        Refusal::NoSuchItem => ApiError::NoItem(refused.id.to_string()),
        reason => ApiError::Refused { id: refused.id, reason: reason.to_string() },
    }
}
