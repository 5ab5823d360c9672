//! Failures in groups: what failed alike, since when, what has changed since, and what to do with all of a group.

use askama::Template;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use outbox_item::{ItemId, ItemSummary, Status};
use outbox_store::engine::operator_actions::DEAD_BY_OPERATOR_CODE;
use outbox_store::{FailureGroup, Filter, Page};

use crate::answers::Sight;
use crate::glance::Glance;
use crate::page::actions::{Choice, choices_for, may_try};
use crate::page::filters::Asked;
use crate::page::frame::{Frame, Tab};
use crate::page::item::query;
use crate::page::visit::{Visit, shown};
use crate::page::why::message;
use crate::page::words::{Ago, Moment, count, counted, cut, short_digest};
use crate::problem::ApiError;

/// Groups that are listed.
const GROUPS: u32 = 50;

/// Items of a group that are listed as samples.
const SAMPLES: u32 = 10;

/// The longest message of a group, in characters.
const MESSAGE_MAX: usize = 240;

/// The groups, as their template reads them.
#[derive(Template)]
#[template(path = "failures.html")]
struct FailuresPage {
    frame: Frame,
    opening: String,
    is_retrying: bool,
    item_type: String,
    types: Vec<String>,
    groups: Vec<GroupLine>,
}

/// A group in the list.
struct GroupLine {
    path: String,
    item_type: String,
    code: String,
    message: String,
    count: String,
    first: Ago,
    last: Ago,
    changed: Option<String>,
}

/// One group, as its template reads it.
#[derive(Template)]
#[template(path = "failure.html")]
struct FailurePage {
    frame: Frame,
    fingerprint: String,
    code: String,
    message: String,
    item_type: String,
    opening: String,
    changes: Vec<Change>,
    samples: Vec<SampleRow>,
    query: String,
    choices: Vec<Choice>,
    may_try: bool,
    newest: ItemId,
}

/// The page of a group without items.
#[derive(Template)]
#[template(path = "failure_none.html")]
struct EmptyGroupPage {
    frame: Frame,
    fingerprint: String,
}

/// What may have changed since the items failed.
struct Change {
    what: &'static str,
    how: String,
    is_news: bool,
}

/// An item of a group.
struct SampleRow {
    id: String,
    key: String,
    attempts: u32,
    digest: String,
    enqueued: Moment,
}

/// The groups.
pub(super) async fn failures(
    visit: Visit,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Response, ApiError> {
    let glance = visit.glance().await?;
    let asked = Asked::read(query?.0, glance.overview.now)?;
    visit.caller.require_to_search(&asked.filter, &visit.settings.redaction)?;
    let is_retrying = is_retrying(&asked.filter)?;
    let groups = read_groups(&visit, &asked.filter, is_retrying).await?;
    let (sight, is_live) = (visit.sight(), !asked.costs_much());
    shown(&FailuresPage {
        frame: Frame { is_live, ..visit.frame("Failures", Tab::Failures) },
        opening: opening(&groups, is_retrying),
        is_retrying,
        item_type: asked.filter.r#type.unwrap_or_default(),
        types: glance.overview.by_type.keys().cloned().collect(),
        groups: groups.into_iter().map(|group| group_line(group, &glance, &sight, is_retrying)).collect(),
    })
}

/// Whether the groups are those of items that wait for another attempt, and not of dead ones.
fn is_retrying(filter: &Filter) -> Result<bool, ApiError> {
    match filter.status[..] {
        [] | [Status::Dlq] => Ok(false),
        [Status::Pending] => Ok(true),
        _ => {
            let choice = "failures are those of DLQ or of PENDING items: choose one of the two";
            Err(ApiError::Invalid(choice.into()))
        }
    }
}

async fn read_groups(visit: &Visit, filter: &Filter, is_retrying: bool) -> Result<Vec<FailureGroup>, ApiError> {
    let _place = visit.state.content_place(filter).await;
    let store = &visit.state.inspect;
    let groups = if is_retrying { store.retrying_failures(filter, GROUPS) } else { store.failures(filter, GROUPS) };
    Ok(groups.await?)
}

fn opening(groups: &[FailureGroup], is_retrying: bool) -> String {
    let items: u64 = groups.iter().map(|group| group.count).sum();
    let noun = if is_retrying { "waiting item" } else { "dead letter" };
    match (items, groups.len()) {
        (0, _) if is_retrying => "No item waits for another attempt".to_owned(),
        (0, _) => "No dead letter".to_owned(),
        (items, groups) if groups == GROUPS as usize => {
            format!("{} in the {groups} largest groups", counted(items, noun))
        }
        (items, groups) => format!("{} in {}", counted(items, noun), counted(groups as u64, "group")),
    }
}

fn group_line(group: FailureGroup, glance: &Glance, sight: &Sight, is_retrying: bool) -> GroupLine {
    let now = glance.overview.now;
    let path = if is_retrying { format!("items/{}", group.sample) } else { format!("failures/{}", group.fingerprint) };
    GroupLine {
        path,
        changed: newer_handler(&group.r#type, group.handler_digest.as_deref(), glance),
        message: message(group.message.as_deref().unwrap_or_default(), MESSAGE_MAX, sight),
        item_type: group.r#type,
        code: group.code.unwrap_or_default(),
        count: count(group.count),
        first: Ago::of(group.first_at, now),
        last: Ago::of(group.last_at, now),
    }
}

/// The handler that serves the type now, where it is another one than that which failed.
fn newer_handler(item_type: &str, failed: Option<&str>, glance: &Glance) -> Option<String> {
    let mut serving =
        glance.overview.serving_plugins().filter(|plugin| plugin.types.iter().any(|known| known == item_type));
    let digest = serving.find_map(|plugin| plugin.digest.as_deref().filter(|digest| Some(*digest) != failed))?;
    Some(short_digest(digest))
}

/// One group of dead items.
pub(super) async fn failure(visit: Visit, path: Result<Path<String>, PathRejection>) -> Result<Response, ApiError> {
    let fingerprint = path?.0;
    let filter = Filter { status: vec![Status::Dlq], fingerprint: Some(fingerprint.clone()), ..Filter::default() };
    let (glance, sight) = (visit.glance().await?, visit.sight());
    let store = &visit.state.inspect;
    let Some(group) = store.failures(&filter, 1).await?.pop() else {
        let frame = visit.frame("A group of failures", Tab::Failures);
        return Ok((StatusCode::NOT_FOUND, shown(&EmptyGroupPage { frame, fingerprint })?).into_response());
    };
    let samples = store.list(&filter, &Page { limit: SAMPLES, before: None }).await?;
    let mut choices = choices_for(&[Status::Dlq], &visit.caller);
    // Only what an operator dead-lettered can be restored.
    choices.retain(|choice| choice.word != "restore" || group.code.as_deref() == Some(DEAD_BY_OPERATOR_CODE));
    shown(&FailurePage {
        frame: visit.live_frame("A group of failures", Tab::Failures),
        opening: format!("{} of {}", counted(group.count, "dead letter"), group.r#type),
        changes: changes(&group, &glance),
        code: group.code.clone().unwrap_or_default(),
        message: message(group.message.as_deref().unwrap_or_default(), MESSAGE_MAX, &sight),
        item_type: group.r#type,
        samples: samples.items.iter().map(sample_row).collect(),
        query: format!("status=DLQ&{}", query("fingerprint", &fingerprint)),
        fingerprint,
        choices,
        may_try: may_try(&visit.caller),
        newest: group.sample,
    })
}

fn sample_row(ItemSummary { item, .. }: &ItemSummary) -> SampleRow {
    SampleRow {
        id: item.id.to_string(),
        key: cut(&item.idem_key, 48),
        attempts: item.attempts,
        digest: item.handler_digest.as_deref().map_or("–".to_owned(), short_digest),
        enqueued: Moment::at(item.created_at),
    }
}

/// What has changed since the items failed: the handler, and how the type fares.
fn changes(group: &FailureGroup, glance: &Glance) -> Vec<Change> {
    let ago = |at| Ago::of(at, glance.overview.now);
    let first_and_last = format!("{}, {}", ago(group.first_at).text(), ago(group.last_at).text());
    vec![
        handler(group, glance),
        last_success(group, glance),
        Change { what: "first, last", how: first_and_last, is_news: false },
    ]
}

fn handler(group: &FailureGroup, glance: &Glance) -> Change {
    let failed = group.handler_digest.as_deref().map_or("an unknown version".to_owned(), short_digest);
    let newer = newer_handler(&group.r#type, group.handler_digest.as_deref(), glance);
    let how = match &newer {
        Some(newer) => format!("{newer} runs now; they failed with {failed}"),
        None if glance.served.contains(&group.r#type) => format!("{failed} still runs"),
        None => "no running process has a handler".to_owned(),
    };
    Change { what: "handler", how, is_news: newer.is_some() }
}

fn last_success(group: &FailureGroup, glance: &Glance) -> Change {
    let steps = glance.history.types.get(&group.r#type).map(|series| &series.steps[..]).unwrap_or_default();
    let last = steps.iter().rev().find(|step| step.figures.done > 0);
    let is_news = last.is_some_and(|step| step.at > group.last_at);
    let how = match last {
        Some(_) if is_news => {
            let since = steps.iter().filter(|step| step.at > group.last_at);
            let done = since.map(|step| step.figures.done).sum();
            format!("{} of the type done since then", counted(done, "item"))
        }
        Some(step) => {
            format!("{}, before the last of these failed", Ago::of(step.at, glance.overview.now).text())
        }
        None => "none in the last hour".to_owned(),
    };
    Change { what: "last success", how, is_news }
}
