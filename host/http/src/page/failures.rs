//! Failures in groups: what failed alike, since when, what has changed since, and what to do with all of a group.

use askama::Template;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use outbox_item::{ItemId, ItemSummary, Status};
use outbox_store::engine::operator_actions::DEAD_BY_OPERATOR_CODE;
use outbox_store::{FailureGroup, Filter, Page};

use crate::answers::{Sight, Visible};
use crate::glance::Glance;
use crate::page::actions::{Choice, choices_for, may_try};
use crate::page::filters::Asked;
use crate::page::frame::{Frame, Tab};
use crate::page::item::query;
use crate::page::visit::{Visit, shown};
use crate::page::why::HIDDEN;
use crate::page::words::{Ago, Moment, count, counted, cut, short_digest};
use crate::problem::ApiError;

/// Groups that are listed.
const GROUPS: u32 = 50;

/// Items of a group that are listed as samples.
const SAMPLES: u32 = 10;

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
    let Asked { filter, .. } = Asked::read(query?.0, glance.overview.now)?;
    visit.caller.require_to_search(&filter)?;
    let is_retrying = match filter.status[..] {
        [] | [Status::Dlq] => false,
        [Status::Pending] => true,
        _ => {
            return Err(ApiError::Invalid(
                "failures are those of DLQ or of PENDING items: choose one of the two".into(),
            ));
        }
    };
    let _place = visit.state.content_place(&filter).await;
    let store = &visit.state.inspect;
    let groups = if is_retrying {
        store.retrying_failures(&filter, GROUPS).await?
    } else {
        store.failures(&filter, GROUPS).await?
    };
    let sight = visit.sight();
    shown(&FailuresPage {
        frame: visit.live_frame("Failures", Tab::Failures),
        opening: opening(&groups, is_retrying),
        is_retrying,
        item_type: filter.r#type.unwrap_or_default(),
        types: glance.overview.by_type.keys().cloned().collect(),
        groups: groups.into_iter().map(|group| group_line(group, &glance, &sight, is_retrying)).collect(),
    })
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
        message: message(group.message, sight),
        item_type: group.r#type,
        code: group.code.unwrap_or_default(),
        count: count(group.count),
        first: Ago::of(group.first_at, now),
        last: Ago::of(group.last_at, now),
    }
}

fn message(message: Option<String>, sight: &Sight) -> String {
    match sight.content(message) {
        Visible::Shown(message) => cut(&message.unwrap_or_default(), 240),
        Visible::Hidden => HIDDEN.to_owned(),
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
        message: message(group.message, &sight),
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
    let failed = group.handler_digest.as_deref().map_or("an unknown version".to_owned(), short_digest);
    let is_served = glance.served.contains(&group.r#type);
    let handler = match newer_handler(&group.r#type, group.handler_digest.as_deref(), glance) {
        Some(newer) => {
            Change { what: "handler", how: format!("{newer} runs now; they failed with {failed}"), is_news: true }
        }
        None if is_served => Change { what: "handler", how: format!("{failed} still runs"), is_news: false },
        None => Change { what: "handler", how: "no running process has a handler".to_owned(), is_news: false },
    };
    let steps = glance.history.types.get(&group.r#type).map(|series| &series.steps[..]).unwrap_or_default();
    let last_success = steps.iter().rev().find(|step| step.figures.done > 0);
    let success = match last_success {
        Some(step) if step.at > group.last_at => Change {
            what: "last success",
            how: format!("{} of the type done since then", counted(done_since(steps, group), "item")),
            is_news: true,
        },
        Some(step) => Change {
            what: "last success",
            how: format!("{}, before the last of these failed", Ago::of(step.at, glance.overview.now).text()),
            is_news: false,
        },
        None => Change { what: "last success", how: "none in the last hour".to_owned(), is_news: false },
    };
    let now = glance.overview.now;
    let first = Change {
        what: "first, last",
        how: format!("{}, {}", Ago::of(group.first_at, now).text(), Ago::of(group.last_at, now).text()),
        is_news: false,
    };
    vec![handler, success, first]
}

fn done_since(steps: &[outbox_store::HistoryStep], group: &FailureGroup) -> u64 {
    steps.iter().filter(|step| step.at > group.last_at).map(|step| step.figures.done).sum()
}
